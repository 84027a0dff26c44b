"""The one training loop. Every objective, supervised or not, runs through ``fit``.

Conventions
    objective(model, batch) -> {term: 0-d tensor}; the loop minimises the sum and logs each term
    batches(epoch)          -> an iterable; all its randomness comes from (seed, epoch), so that a
                               run which was killed repeats the broken epoch exactly
    dev score               higher is better; the weights of the best epoch are kept
    several processes       (``vagitus.ranks``) train one network on one batch, to the numbers that one process gives
                            but for rounding and dropout, of which each process has its own
"""

import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, field_validator
from torch import Tensor, nn

from vagitus.augment import mask_bands_and_frames, stretch_frames
from vagitus.checkpoint import read_tensors, write_tensors
from vagitus.losses import LOSSES
from vagitus.models.heads import pool_windows
from vagitus.ranks import (
    LEAST_ROWS,
    copy_first,
    counts_of_all,
    from_first,
    joint,
    joint_batch_norm,
    local_rank,
    n_ranks,
    rank,
    rows_of_all,
    share,
    sum_gradients,
)
from vagitus.windows import cut_window, window_starts

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Record = dict[str, float]
EVALUATION_BATCH = 64  # windows per forward pass: bounds memory whatever the recording's length


class LabelledBatch(NamedTuple):
    x: Tensor  # (batch, n_mels, n_frames)
    y: Tensor  # (batch,), int64


class TrainConfig(BaseModel):
    """How a network is trained. Frozen; an unknown key is an error.

    Attributes:
        epochs: the most epochs; the learning rate falls as a cosine over them, or by ``drops``.
        patience: epochs without a better dev score before training stops.
        batch_size: windows a step, of all processes together.
        batch_parts: a batch goes through the network in so many parts, one after another, whose gradients are
            added; memory is that of a part. The same as the whole but for batch norm, which sees a part.
        lr, momentum, weight_decay: of SGD with Nesterov momentum, or of AdamW (momentum unused).
        warmup_epochs: linear rise of the learning rate, in epochs.
        drops: steps after each of which the learning rate is a tenth of what it was; none for the cosine.
        loss: a name in LOSSES.
        balanced: draw every class equally often.
        window_s: length of the random crop that each training example is.
        mask: SpecAugment strength, the largest share of rows and of frames hidden in a crop. Rows of MFCC are
            coefficients: there, unlike in SpecAugment, no band is hidden but a part of the spectrum's shape.
        stretch: a crop is slowed or hurried by up to this share of its length.
        warp: its bands are moved up or down by up to this share of their frequency, as another vocal tract would.
        shift_s: a recording that is hardly longer than a crop gets this much of its first and last frame on either
            side, so that what it holds stands elsewhere in every crop.
        gradient_clip: largest norm of the gradient.
        precision: Fabric's name. bf16-mixed trains res8 about three times faster on CPUs that
            multiply bfloat16, with weights kept in float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(20, ge=1)
    patience: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    batch_parts: int = Field(1, ge=1)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-2, ge=0)
    warmup_epochs: float = Field(1.0, ge=0)
    drops: tuple[NonNegativeInt, ...] = ()
    loss: str = "cross_entropy"
    balanced: bool = True
    window_s: float = Field(3.0, gt=0)
    mask: float = Field(0.2, ge=0, lt=1)
    stretch: float = Field(0.0, ge=0, lt=1)
    warp: float = Field(0.0, ge=0, le=0.5)
    shift_s: float = Field(0.0, ge=0)
    gradient_clip: float = Field(5.0, gt=0)
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        if name not in LOSSES:
            raise ValueError(f"no loss {name!r}; choose from {', '.join(LOSSES)}")
        return name


class Supervised(nn.Module):
    """The plain objective: one loss between the logits and the labels."""

    joins_processes = True  # what it says of a batch, it says of the rows of all processes
    is_mean_of_rows = True  # and of its parts together what it says of the whole

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.loss = LOSSES[loss]

    def forward(self, model: nn.Module, batch: LabelledBatch) -> dict[str, Tensor]:
        return {"task": self.loss(rows_of_all(model(batch.x)), rows_of_all(batch.y))}


class _Crop(NamedTuple):
    """What is random in a crop but its mask."""

    first: int  # frame
    n_frames: int  # before it is stretched
    warp: int | None


class CropBatches:
    """Random crops of labelled recordings, class-balanced: what ``fit`` calls once an epoch.

    An epoch draws as many crops as there are recordings. Balanced, each class gives an
    equal share: its recordings are walked through in random order, again and again.
    A crop starts at a random frame, which is the thesis's random shift without its silence; then it is
    stretched, warped and masked as ``config`` says.

    Args:
        features: one (n_rows, n_frames) array per recording; may be memory-mapped.
        labels: (n_recordings,) int class indices.
        window_frames: frames in a crop.
        shift_frames: ``config.shift_s`` in frames.
        warps: ``augment.warp_matrices`` of the front end; none for no warp.

    Raises:
        ValueError: no recordings, or as many labels as recordings are not given.
    """

    def __init__(
        self,
        features: Sequence[NDArray[np.float32]],
        labels: NDArray[np.int64],
        *,
        window_frames: int,
        config: TrainConfig,
        seed: int,
        shift_frames: int = 0,
        warps: Sequence[NDArray[np.float32]] = (),
    ) -> None:
        if len(features) == 0 or len(features) != len(labels):
            raise ValueError(
                f"got {len(features)} recordings and {len(labels)} labels; need as many, at least one"
            )
        self.features, self.labels, self.window_frames = features, labels, window_frames
        self.config, self.seed = config, seed
        self.shift_frames, self.warps = shift_frames, warps

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.config.batch_size)

    def __call__(self, epoch: int) -> Iterator[LabelledBatch]:
        return self.share(epoch, 0, 1)

    def share(self, epoch: int, rank: int, n_ranks: int) -> Iterator[LabelledBatch]:
        """One process's rows of each batch, the only ones that it reads; all draw the same random numbers."""
        rng = np.random.default_rng([self.seed, epoch])
        order = (
            balanced_order(self.labels, rng) if self.config.balanced else rng.permutation(len(self.labels))
        )
        for start in range(0, len(order), self.config.batch_size):
            chosen = order[start : start + self.config.batch_size]
            own = share(len(chosen), rank, n_ranks)
            crops = [self._draw(self.features[recording].shape[1], rng) for recording in chosen]
            x = np.zeros((len(chosen), len(self.features[0]), self.window_frames), np.float32)
            for row in range(own.start, own.stop):
                x[row] = self._cut(self.features[chosen[row]], crops[row])
            if self.config.mask:  # of all rows, since how much is drawn depends on what was
                mask_bands_and_frames(x, self.config.mask, rng)
            yield LabelledBatch(torch.from_numpy(x[own]), torch.from_numpy(self.labels[chosen[own]]))

    def _draw(self, n_whole: int, rng: np.random.Generator) -> _Crop:
        n_frames, stretch = self.window_frames, self.config.stretch
        if stretch:
            n_frames = max(round(n_frames * rng.uniform(1 - stretch, 1 + stretch)), 1)
        n_whole += 2 * self._margin(n_whole, n_frames)
        slack = n_whole - n_frames
        # A short recording is repeated to fill the window, so it may start anywhere.
        first = int(rng.integers(slack + 1 if slack >= 0 else n_whole))
        return _Crop(first, n_frames, int(rng.integers(len(self.warps))) if len(self.warps) else None)

    def _margin(self, n_whole: int, n_frames: int) -> int:
        return self.shift_frames if n_whole < n_frames + 2 * self.shift_frames else 0

    def _cut(self, features: NDArray[np.float32], drawn: _Crop) -> NDArray[np.float32]:
        margin = self._margin(features.shape[1], drawn.n_frames)
        if margin:
            features = np.pad(features, ((0, 0), (margin, margin)), mode="edge")
        crop = cut_window(features, drawn.first, drawn.n_frames)
        if drawn.n_frames != self.window_frames:
            crop = stretch_frames(crop, self.window_frames)
        return crop if drawn.warp is None else self.warps[drawn.warp] @ crop


def balanced_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many indices as labels, every class equally often (to within one), in random order."""
    classes = rng.permutation(np.unique(labels))
    quota, rest = divmod(len(labels), len(classes))
    drawn = []
    for position, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        wanted = quota + (position < rest)
        rounds = [rng.permutation(members) for _ in range(math.ceil(wanted / len(members)))]
        drawn.append(np.concatenate(rounds)[:wanted] if rounds else members[:0])
    return rng.permutation(np.concatenate(drawn))


def make_fabric(config: TrainConfig) -> "Fabric":
    """Fabric for this process: one GPU if there is one, of several processes each its own; else the CPU."""
    from lightning_fabric import Fabric

    devices = [local_rank()] if n_ranks() > 1 and torch.cuda.is_available() else 1
    fabric = Fabric(accelerator="auto", devices=devices, precision=config.precision)
    fabric.launch()
    return fabric


def fit(
    model: nn.Module,
    objective: nn.Module,
    batches: Callable[[int], Iterable[Any]],
    config: TrainConfig,
    *,
    steps_per_epoch: int,
    seed: int,
    rates: Mapping[str, float] | None = None,
    dev_score: Callable[[nn.Module], float] | None = None,
    measure: Callable[[nn.Module], Record] | None = None,
    state_path: Path | None = None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Minimise the sum of the objective's terms, in place; keep the best epoch's weights.

    Its own parameters (a discriminator, a projection head) are trained along with the
    model's. With ``dev_score`` the weights of the best epoch are restored at the end and
    training stops after ``config.patience`` epochs without a better one; without it the
    last epoch's stay.

    Of several processes each calls this alike, and all end with the same weights. Where ``batches`` has a method
    ``share(epoch, rank, n_ranks)`` each reads its own rows alone; else every batch is drawn whole and cut. The first
    process alone scores, measures, keeps the state and calls ``on_epoch``. A state goes on with any number of
    processes.

    Args:
        objective: ``joins_processes`` says that its terms are of the rows of all processes (``ranks.rows_of_all``),
            ``is_mean_of_rows`` that they may be added up part by part.
        steps_per_epoch: batches an epoch, for the learning-rate schedule.
        seed: of dropout and the like; the data's order has its own in ``batches``.
        rates: scale of the learning rate, > 0, by name of the model's parameters; 1 for what it does not name.
        measure: what else to log of the model after an epoch; it neither picks an epoch nor stops.
        state_path: where the state is kept after each epoch. If the file is there, training
            goes on from it, to the numbers that an unbroken run gives; of a finished training it
            gives the result. It knows the options and the seed, not the data: who names the file
            answers for that, and removes it.

    Returns:
        One record an epoch: ``epoch``, ``lr`` (before ``rates``), the mean of each term, ``dev_score``, and what
        ``measure`` gives.

    Raises:
        FloatingPointError: a term is not finite; names the terms and the step.
        ValueError: ``state_path`` holds the state of another run; ``rates`` names no parameter of the model, or
            a scale is not above 0; an objective that cannot be divided among processes or parts.
    """
    _refuse_division(objective, config)
    fabric = make_fabric(config)
    parameters = [*model.parameters(), *objective.parameters()]
    optimizer = _optimizer(_parameter_groups(model, objective, rates or {}), config)
    # channels_last lets the CPU and GPU kernels of a 2-D convolution read each pixel's channels at once.
    model.to(device=fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.to(fabric.device)
    copy_first((model, objective))
    wrapped = fabric.setup(model, optimizer)
    trained, optimizer = wrapped
    identity = {"config": config.model_dump(mode="json"), "seed": seed} | (
        {"rates": dict(rates)} if rates else {}
    )
    state = _TrainingState(model, objective, optimizer, identity)
    # The first says for all: a network's file system may not yet show the others what it wrote.
    if state_path is not None and from_first(state_path.exists):
        state.load(state_path)
    total_steps = config.epochs * steps_per_epoch
    while state.epoch < config.epochs and state.epoch - state.best_epoch < config.patience:
        model.train()
        objective.train()
        sums: dict[str, float] = defaultdict(float)
        n_steps = 0
        with torch.random.fork_rng(devices=[]), joint_batch_norm((model, objective)):
            # Rows that differ need dropout that does; the first process's is that of a process alone.
            entropy = [seed, state.epoch, *([rank()] if rank() else [])]
            torch.manual_seed(np.random.SeedSequence(entropy).generate_state(1)[0].item())
            drawn = islice(_own_rows(batches, state.epoch), steps_per_epoch)
            for n_steps, batch in enumerate(drawn, start=1):
                step = state.epoch * steps_per_epoch + n_steps - 1
                lr = learning_rate(step, total_steps, config, steps_per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["scale"]
                optimizer.zero_grad()
                on_device = type(batch)(*(fabric.to_device(part) for part in batch))
                values = _add_gradients(fabric, objective, trained, on_device, config.batch_parts)
                if not all(math.isfinite(value) for value in values.values()):
                    raise FloatingPointError(
                        f"epoch {state.epoch}, step {n_steps - 1}: {values}; lower the learning rate"
                    )
                sum_gradients(parameters)
                torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
                optimizer.step()
                for name, value in values.items():
                    sums[name] += value
        if n_steps == 0:
            raise ValueError("there is nothing to train on: the first epoch gave no batch")
        record: Record = {
            "epoch": state.epoch,
            "lr": lr,
            **{name: total / n_steps for name, total in sums.items()},
        }
        if dev_score is not None:
            model.eval()
            record["dev_score"] = from_first(partial(dev_score, model))
        if measure is not None:
            model.eval()
            record |= from_first(partial(measure, model))
        state.finish_epoch(record, keep=dev_score is not None)
        if state_path is not None:
            from_first(partial(state.save, state_path))
        from_first(partial(on_epoch, record))
    state.restore_best()
    model.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.eval()
    return state.history


def _refuse_division(objective: nn.Module, config: TrainConfig) -> None:
    name = type(objective).__name__
    if n_ranks() > 1 and not getattr(objective, "joins_processes", False):
        raise ValueError(f"{name} trains in one process; run it without torchrun")
    if config.batch_parts > 1 and not getattr(objective, "is_mean_of_rows", False):
        raise ValueError(
            f"batch_parts = {config.batch_parts}: what {name} says of a batch is no sum over its parts; leave it at 1, "
            "and for memory take a smaller batch or more processes"
        )


def _own_rows(batches: Callable[[int], Iterable[Any]], epoch: int) -> Iterable[Any]:
    if n_ranks() == 1:
        return batches(epoch)
    reader = getattr(batches, "share", None)
    if reader is not None:
        return reader(epoch, rank(), n_ranks())  # type: ignore[no-any-return]
    return (
        type(batch)(*(part[share(len(part), rank(), n_ranks())] for part in batch))
        for batch in batches(epoch)
    )


def _add_gradients(
    fabric: "Fabric", objective: nn.Module, model: nn.Module, batch: Any, n_parts: int
) -> dict[str, float]:
    """Backward passes over this process's rows of a batch, part by part; each term's value over the whole batch."""
    counts = counts_of_all(len(batch[0]))
    together = n_ranks() == 1 or min(counts) >= LEAST_ROWS
    n_parts = max(1, min(n_parts, (min(counts) if together else counts[0]) // LEAST_ROWS))
    values: dict[str, float] = defaultdict(float)
    if together or rank() == 0:
        with joint() if together else nullcontext():
            for part in range(n_parts):
                bounds = [(n * part // n_parts, n * (part + 1) // n_parts) for n in counts]
                weight = sum(end - start for start, end in bounds) / sum(counts)
                own = slice(*bounds[rank()])
                terms = objective(
                    model, batch if n_parts == 1 else type(batch)(*(rows[own] for rows in batch))
                )
                for name, term in terms.items():
                    values[name] += weight * term.item()
                fabric.backward(weight * sum(terms.values()))
    if together:
        return dict(values)
    copy_first((objective, model))  # statistics that the others did not see
    return from_first(lambda: dict(values))


def learning_rate(step: int, total_steps: int, config: TrainConfig, steps_per_epoch: int) -> float:
    """Linear warm-up, then a cosine that reaches zero after the last step, or a tenth at every one of ``drops``."""
    warmup_steps = config.warmup_epochs * steps_per_epoch
    rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if config.drops:
        fall = 0.1 ** sum(step >= drop for drop in config.drops)
    else:
        fall = 0.5 * (1 + math.cos(math.pi * step / total_steps))
    return config.lr * rise * fall


@torch.no_grad()
def score_recordings(
    model: nn.Module,
    features: Iterable[NDArray[np.float32]],
    *,
    window_frames: int,
    precision: str = "32-true",
) -> NDArray[np.float32]:
    """Mean logits over each recording's windows, which overlap by half.

    Args:
        features: one (n_rows, n_frames) array per recording.

    Returns:
        (n_recordings, n_classes) float32.
    """
    model.eval()
    device = next(model.parameters()).device
    pooled = []
    for recording in features:
        starts = window_starts(recording.shape[1], window_frames, max(window_frames // 2, 1))
        logits = []
        for first in range(0, len(starts), EVALUATION_BATCH):
            x = np.stack(
                [
                    cut_window(recording, int(s), window_frames)
                    for s in starts[first : first + EVALUATION_BATCH]
                ]
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                logits.append(model(torch.from_numpy(x).to(device)).float().cpu())
        whole = torch.cat(logits)
        pooled.append(pool_windows(whole, torch.zeros(len(whole), dtype=torch.int64), 1))
    return torch.cat(pooled).numpy()


def _parameter_groups(
    model: nn.Module, objective: nn.Module, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One group for each learning-rate scale, those of scale 1 and the objective's parameters first."""
    named = dict(model.named_parameters())
    unknown = [name for name in rates if name not in named]
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], named, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"rates: the model has no parameter {unknown[0]!r}; {hint}known: {', '.join(named)}")
    wrong = [name for name, scale in rates.items() if not (math.isfinite(scale) and scale > 0)]
    if wrong:
        raise ValueError(
            f"rates: the scale of {wrong[0]} must be above 0, got {rates[wrong[0]]!r}; to keep it as it is, "
            "freeze it"
        )
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in named.items():
        groups.setdefault(float(rates.get(name, 1.0)), []).append(parameter)
    groups[1.0] += objective.parameters()
    return [{"params": parameters, "scale": scale} for scale, parameters in groups.items() if parameters]


def _optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )


class _TrainingState:
    """All that the next epoch depends on, in one safetensors file."""

    def __init__(
        self,
        model: nn.Module,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        identity: dict[str, Any],
    ) -> None:
        self.model, self.objective, self.optimizer, self.identity = model, objective, optimizer, identity
        self.epoch, self.best_epoch, self.history = 0, 0, list[Record]()
        self.best: dict[str, Tensor] = {}

    def finish_epoch(self, record: Record, *, keep: bool) -> None:
        self.history.append(record)
        self.epoch += 1
        best_score = max((past["dev_score"] for past in self.history[:-1] if keep), default=-math.inf)
        if not keep:
            self.best_epoch = self.epoch
        elif not self.best or record["dev_score"] > best_score:
            self.best_epoch = self.epoch
            self.best = {
                name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()
            }

    def restore_best(self) -> None:
        if self.best:
            self.model.load_state_dict(self.best)

    def save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for prefix, state in (("model", self.model.state_dict()), ("objective", self.objective.state_dict())):
            tensors |= {
                f"{prefix}.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()
            }
        tensors |= {f"best.{name}": tensor.contiguous() for name, tensor in self.best.items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            for name, value in slots.items():
                # Momentum follows its weight's memory format; the file has only one.
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        header = {
            "identity": self.identity,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "history": self.history,
        }
        write_tensors(path, tensors, header)

    def load(self, path: Path) -> None:
        tensors, header = read_tensors(path)
        if header.get("identity") != self.identity:
            raise ValueError(f"{path}: the state of a training with other options; remove it to start anew")
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in tensors.items():
            prefix, name = key.split(".", 1)
            parts[prefix][name] = tensor
        self.model.load_state_dict(parts["model"])
        self.objective.load_state_dict(parts["objective"])
        slots: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in parts["optimizer"].items():
            index, name = key.split(".", 1)
            slots[int(index)][name] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": dict(slots)})
        self.best = parts["best"]
        self.epoch, self.best_epoch, self.history = header["epoch"], header["best_epoch"], header["history"]
