"""The one training loop. Every objective, supervised or not, runs through ``fit``.

Conventions
    objective(model, batch) -> {term: 0-d tensor}; the loop minimises the sum and logs each term
    batches(epoch)          -> an iterable; all its randomness comes from (seed, epoch), so that a
                               run which was killed repeats the broken epoch exactly
    dev score               higher is better; the weights of the best epoch are kept
"""

import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from vagitus.augment import mask_bands_and_frames, stretch_frames
from vagitus.checkpoint import read_tensors, write_tensors
from vagitus.losses import LOSSES
from vagitus.models.heads import pool_windows
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
        epochs: the most epochs; the learning rate falls as a cosine over them.
        patience: epochs without a better dev score before training stops.
        batch_size: windows a step.
        lr, momentum, weight_decay: of SGD with Nesterov momentum, or of AdamW (momentum unused).
        warmup_epochs: linear rise of the learning rate, in epochs.
        loss: a name in LOSSES.
        balanced: draw every class equally often.
        window_s: length of the random crop that each training example is.
        mask: SpecAugment strength, the largest share of bands and of frames hidden in a crop.
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
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-2, ge=0)
    warmup_epochs: float = Field(1.0, ge=0)
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

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.loss = LOSSES[loss]

    def forward(self, model: nn.Module, batch: LabelledBatch) -> dict[str, Tensor]:
        return {"task": self.loss(model(batch.x), batch.y)}


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
        rng = np.random.default_rng([self.seed, epoch])
        order = (
            balanced_order(self.labels, rng) if self.config.balanced else rng.permutation(len(self.labels))
        )
        for start in range(0, len(order), self.config.batch_size):
            chosen = order[start : start + self.config.batch_size]
            x = np.stack([self._crop(self.features[recording], rng) for recording in chosen])
            if self.config.mask:
                mask_bands_and_frames(x, self.config.mask, rng)
            yield LabelledBatch(torch.from_numpy(x), torch.from_numpy(self.labels[chosen]))

    def _crop(self, features: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        n_frames, share = self.window_frames, self.config.stretch
        if share:
            n_frames = max(round(n_frames * rng.uniform(1 - share, 1 + share)), 1)
        if self.shift_frames and features.shape[1] < n_frames + 2 * self.shift_frames:
            features = np.pad(features, ((0, 0), (self.shift_frames, self.shift_frames)), mode="edge")
        slack = features.shape[1] - n_frames
        # A short recording is repeated to fill the window, so it may start anywhere.
        first = rng.integers(slack + 1 if slack >= 0 else features.shape[1])
        crop = cut_window(features, int(first), n_frames)
        if n_frames != self.window_frames:
            crop = stretch_frames(crop, self.window_frames)
        if len(self.warps):
            crop = self.warps[int(rng.integers(len(self.warps)))] @ crop
        return crop


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
    """Fabric for this process: one GPU if there is one, else the CPU."""
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="auto", devices=1, precision=config.precision)
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

    Args:
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
            a scale is not above 0.
    """
    fabric = make_fabric(config)
    parameters = [*model.parameters(), *objective.parameters()]
    optimizer = _optimizer(_parameter_groups(model, objective, rates or {}), config)
    # channels_last lets the CPU and GPU kernels of a 2-D convolution read each pixel's channels at once.
    model.to(device=fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.to(fabric.device)
    wrapped = fabric.setup(model, optimizer)
    trained, optimizer = wrapped
    identity = {"config": config.model_dump(), "seed": seed} | ({"rates": dict(rates)} if rates else {})
    state = _TrainingState(model, objective, optimizer, identity)
    if state_path is not None and state_path.exists():
        state.load(state_path)
    total_steps = config.epochs * steps_per_epoch
    while state.epoch < config.epochs and state.epoch - state.best_epoch < config.patience:
        model.train()
        objective.train()
        sums: dict[str, float] = defaultdict(float)
        n_steps = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(np.random.SeedSequence([seed, state.epoch]).generate_state(1)[0].item())
            for n_steps, batch in enumerate(islice(batches(state.epoch), steps_per_epoch), start=1):
                step = state.epoch * steps_per_epoch + n_steps - 1
                lr = learning_rate(step, total_steps, config, steps_per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["scale"]
                terms = objective(trained, type(batch)(*(fabric.to_device(part) for part in batch)))
                values = {name: term.item() for name, term in terms.items()}
                if not all(math.isfinite(value) for value in values.values()):
                    raise FloatingPointError(
                        f"epoch {state.epoch}, step {n_steps - 1}: {values}; lower the learning rate"
                    )
                optimizer.zero_grad()
                fabric.backward(sum(terms.values()))
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
            record["dev_score"] = dev_score(model)
        if measure is not None:
            model.eval()
            record |= measure(model)
        state.finish_epoch(record, keep=dev_score is not None)
        if state_path is not None:
            state.save(state_path)
        on_epoch(record)
    state.restore_best()
    model.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.eval()
    return state.history


def learning_rate(step: int, total_steps: int, config: TrainConfig, steps_per_epoch: int) -> float:
    """Linear warm-up, then a cosine that reaches zero after the last step."""
    warmup_steps = config.warmup_epochs * steps_per_epoch
    rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return config.lr * rise * 0.5 * (1 + math.cos(math.pi * step / total_steps))


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
