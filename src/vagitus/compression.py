"""Make a trained network small, then bring it back to what it could do: ranks by measured loss, distillation.

    trained model -> fewer numbers (``tensor_train.compress``) -> fine-tuning against the original -> fewer bits

Everything here is done on the training side: dev recordings choose ranks and epoch, nothing else is seen.
"""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from vagitus.losses import LOSSES, distillation
from vagitus.tensor_train.compress import (
    Plan,
    count_parameters,
    pack,
    packed_bytes,
    prune,
    search_ranks,
    tensorize,
    unpack,
)
from vagitus.training import LabelledBatch, Record, TrainConfig, fit

Method = Literal["tt", "low_rank", "prune", "none"]
DEFAULT_RATIO = 10.0


class CompressConfig(BaseModel):
    """How a network is made smaller. Frozen; an unknown key is an error.

    Attributes:
        method: "tt" (TT-SVD of every eligible layer), "low_rank" (truncated SVD of the same), "prune" (the
            weights of least magnitude become zero), or "none" (only fewer bits).
        ratio: how many times fewer parameters; ranks are then searched layer by layer by the loss in
            the metric. 10 unless a rank or tolerance is given.
        rank, tolerance: of every TT-matrix instead of a ratio, without a search.
        n_cores: of a tensor train.
        bits: of a stored weight: 32 (float), 16 (float) or 8 (integers with one scale a row).
        epochs: of fine-tuning against the original; 0 for none.
        lr_share: learning rate of the fine-tuning over that of the training.
        distil: weight of the distillation beside the task's own loss.
        temperature: of the distillation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "tt"
    ratio: float | None = Field(None, gt=1)
    rank: int | None = Field(None, ge=1)
    tolerance: float | None = Field(None, ge=0, lt=1)
    n_cores: int = Field(3, ge=2)
    bits: Literal[8, 16, 32] = 32
    epochs: int = Field(5, ge=0)
    lr_share: float = Field(0.5, gt=0)
    distil: float = Field(1.0, ge=0)
    temperature: float = Field(2.0, gt=0)

    @model_validator(mode="after")
    def _one_way_to_say_how_much(self) -> Self:
        given = [name for name in ("ratio", "rank", "tolerance") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of ratio, rank and tolerance, got {' and '.join(given)}")
        if self.method == "prune" and given not in ([], ["ratio"]):
            raise ValueError(f"pruning takes a ratio; {given[0]} belongs to tt and low_rank")
        if self.method == "none" and (given or self.bits == 32):
            raise ValueError("method 'none' only stores fewer bits: give bits 8 or 16, and nothing else")
        return self

    @property
    def wanted_ratio(self) -> float | None:
        """The ratio, unless a rank or tolerance says how much to keep."""
        return DEFAULT_RATIO if self.rank is self.tolerance is self.ratio is None else self.ratio


class Compressed(NamedTuple):
    """A smaller network and what was done to it.

    Attributes:
        model: with the weights as they will be read back from a file.
        storage: for ``ModelCard.compression``: how the file rebuilds and unpacks it.
        history: the fine-tuning's records; empty without one.
        n_parameters: numbers that are stored (of a pruned network those that are not zero), biases included.
        n_bytes: of the stored tensors, without a file's header.
        chosen: ranks by layer, and what the search measured.
    """

    model: nn.Module
    storage: dict[str, Any]
    history: list[Record]
    n_parameters: int
    n_bytes: int
    chosen: dict[str, Any]


class Distilled(nn.Module):
    """The task's loss, and the distance to what the original network says of the same input.

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """

    def __init__(self, teacher: nn.Module, loss: str, config: CompressConfig) -> None:
        super().__init__()
        # In a tuple it is no submodule: it is neither trained nor kept in the training's state.
        self.original = (copy.deepcopy(teacher).eval().requires_grad_(False),)
        self.loss, self.config = LOSSES[loss], config

    def forward(self, model: nn.Module, batch: LabelledBatch) -> dict[str, Tensor]:
        logits = model(batch.x)
        terms = {"task": self.loss(logits, batch.y)}
        if self.config.distil:
            with torch.no_grad():
                target = self.original[0].to(batch.x.device)(batch.x)
            terms["distil"] = self.config.distil * distillation(logits, target, self.config.temperature)
        return terms


def compress_network(
    model: nn.Module,
    config: CompressConfig,
    *,
    dev_score: Callable[[nn.Module], float] | None,
    batches: Callable[[int], Iterable[Any]] | None = None,
    steps_per_epoch: int = 0,
    train: TrainConfig | None = None,
    seed: int = 0,
    state_path: Path | None = None,
) -> Compressed:
    """A smaller copy of a trained network.

    Args:
        model: unchanged.
        dev_score: higher is better, on dev recordings: it chooses ranks and epoch. None if there are no
            recordings: no search, no fine-tuning.
        batches, steps_per_epoch, train, seed, state_path: of the fine-tuning, as ``fit`` takes them; none is
            done without ``batches``.

    Raises:
        ValueError: a ratio without a ``dev_score``, a ratio beyond what the method can do (the message
            says the least), nothing to compress.
    """
    small, plan, chosen = _with_fewer_numbers(model, config, dev_score)
    history: list[Record] = []
    if batches is not None and train is not None and config.epochs and config.method != "none":
        untuned, before = copy.deepcopy(small), dev_score(small) if dev_score else None
        history = fit(
            small,
            Distilled(model, train.loss, config),
            batches,
            train.model_copy(
                update={"epochs": config.epochs, "patience": config.epochs, "lr": train.lr * config.lr_share}
            ),
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            dev_score=dev_score,
            state_path=state_path,
        )
        if before is not None and before > max(record["dev_score"] for record in history):
            small = untuned  # a cut that lost nothing can only be worn off by more training
    tensors = {name: tensor.detach().cpu() for name, tensor in small.state_dict().items()}
    sparse = config.method == "prune"
    packed = pack(tensors, bits=config.bits, sparse=sparse)
    small.load_state_dict(unpack(packed))
    storage = {"plan": plan.to_json() if plan else None, "bits": config.bits, "sparse": sparse}
    return Compressed(
        small.eval(),
        storage,
        history,
        n_parameters=_count_stored(small, sparse=sparse),
        n_bytes=packed_bytes(packed),
        chosen=chosen,
    )


def _with_fewer_numbers(
    model: nn.Module, config: CompressConfig, dev_score: Callable[[nn.Module], float] | None
) -> tuple[nn.Module, Plan | None, dict[str, Any]]:
    if config.method == "none":
        return copy.deepcopy(model), None, {}
    ratio = config.wanted_ratio
    if config.method == "prune":
        share = 1 - 1 / (ratio or DEFAULT_RATIO)
        return prune(model, share)[0], None, {"share": share}
    how: dict[str, Any] = {
        "n_cores": config.n_cores,
        "factoring": "low_rank" if config.method == "low_rank" else "balanced",
    }
    if ratio is None:
        small, plan = tensorize(model, rank=config.rank, tolerance=config.tolerance, **how)
        return small, plan, {}
    if dev_score is None:
        raise ValueError(
            "a ratio is reached by the ranks that lose least on recordings; give recordings, or a rank or tolerance"
        )
    found = search_ranks(
        model,
        lambda candidate: 1 - dev_score(candidate.eval()),
        max_parameters=int(count_parameters(model) / ratio),
        **how,
    )
    small, plan = tensorize(model, ranks=found.ranks, **how)
    measured = {"loss": found.loss, "predicted_loss": found.predicted_loss, "dense_loss": found.dense_loss}
    return small, plan, {"ranks": found.ranks, **measured}


def _count_stored(model: nn.Module, *, sparse: bool) -> int:
    if not sparse:
        return count_parameters(model)
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())
