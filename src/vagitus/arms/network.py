"""Arms that train a network on the study's own recordings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vagitus.arms.classical import inner_folds
from vagitus.arms.contract import Budget, Network, Scores
from vagitus.augment import warp_matrices
from vagitus.calibration import softmax
from vagitus.compression import CompressConfig, Compressed, compress_network
from vagitus.dataset import Dataset
from vagitus.metrics import macro_auroc
from vagitus.models import build_model
from vagitus.splits import Fold
from vagitus.tensor_train.compress import count_parameters
from vagitus.training import CropBatches, Record, Supervised, fit, score_recordings
from vagitus.transfer import freeze_up_to, layer_rates, new_task

MEMBER_SEEDS = 1000  # seeds of one study's members do not meet those of the next seed's


class _Members(NamedTuple):
    """The networks of one fold and input: their scores, averaged over members for the test recordings."""

    dev_index: list[NDArray[np.int64]]
    dev_logits: list[NDArray[np.float64]]
    test_logits: NDArray[np.float64]
    history: list[Record]
    n_parameters: int
    chosen: dict[str, float | str]
    last: Network


def network(
    dataset: Dataset,
    fold: Fold,
    budget: Budget,
    state_path: Path | None,
    *,
    model_name: str,
    compressed: bool = False,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Scores:
    """A network of MODELS trained from random weights, and compressed if so asked. See ``train_members``."""
    starts = dict.fromkeys(dataset.inputs)
    return train_members(
        dataset, fold, budget, state_path, starts, model_name, compressed=compressed, on_epoch=on_epoch
    )


def train_members(
    dataset: Dataset,
    fold: Fold,
    budget: Budget,
    state_path: Path | None,
    starts: Mapping[str, nn.Module | None],
    model_name: str,
    options: Mapping[str, int] | None = None,
    *,
    compressed: bool = False,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Scores:
    """Networks of one kind, each with its own dev part, by every input and learning rate that may be chosen.

    Each member's epoch is chosen on its dev part; of several inputs and rates, those whose members rank
    their dev parts best on average.

    Args:
        starts: the source model by the table that it reads; None for random weights.
        model_name: of the networks, in MODELS.
        options: that a source model was built with.
        compressed: make each member smaller by ``budget.compress``.
        on_epoch: is given each epoch's record of the training, not of a compressed one's fine-tuning.
    """
    tried = [
        _members(
            dataset,
            fold,
            budget.model_copy(
                update={"train": budget.train.model_copy(update={"lr": budget.train.lr * rate})}
            ),
            state_path and state_path.with_name(f"{state_path.name} x{rate:g}"),
            model_name,
            options or {},
            table,
            compressed,
            start,
            on_epoch,
        )
        for table, start in starts.items()
        for rate in budget.rates
    ]
    best = max(tried, key=lambda members: float(members.chosen["dev_auroc"]))
    return Scores(
        dev_index=np.concatenate(best.dev_index),
        dev_logits=np.concatenate(best.dev_logits),
        test_logits=best.test_logits,
        chosen=best.chosen,
        history=best.history,
        n_parameters=best.n_parameters,
        network=best.last if len(best.dev_index) == 1 else None,
    )


def _members(
    dataset: Dataset,
    fold: Fold,
    budget: Budget,
    state_path: Path | None,
    model_name: str,
    options: Mapping[str, int],
    table: str,
    compressed: bool,
    start: nn.Module | None,
    on_epoch: Callable[[Record], None],
) -> _Members:
    dev_index, dev_logits, test_logits, dev_auroc = [], [], [], []
    history: list[Record] = []
    sizes: list[int] = []
    storage: dict[str, Any] = {}
    for member, part in enumerate(member_folds(dataset, fold, budget)):
        own = budget.model_copy(update={"seed": budget.seed * MEMBER_SEEDS + member})
        state = state_path and state_path.with_name(f"{state_path.name}{member} {table}")
        model, records = train_network(
            dataset, part, own, state, model_name=model_name, table=table, start=start, on_epoch=on_epoch
        )
        n_parameters = count_parameters(model)
        if compressed:
            small = compress_trained(model, budget.compress, dataset, part, own, state, table)
            model, n_parameters, storage = small.model, small.n_parameters, small.storage
            sizes.append(small.n_bytes)
            tuning = [record | {"epoch": record["epoch"] + len(records)} for record in small.history]
            records = [*records, *tuning]
        dev_index.append(part.dev)
        dev_logits.append(score_network(model, dataset, part.dev, budget, table))
        test_logits.append(score_network(model, dataset, fold.test, budget, table))
        dev_auroc.append(macro_auroc(dataset.labels[part.dev], softmax(dev_logits[-1])))
        history += [record | {"member": member} for record in records]
    mean_auroc = float(np.mean(dev_auroc))  # over members: each ranks its own dev part
    chosen: dict[str, float | str] = {
        "members": len(dev_index),
        "normalisation": dataset.tables[table].config.normalisation,
        "lr": budget.train.lr,
        "dev_auroc": mean_auroc,
    }
    if sizes:
        chosen["mean_bytes"] = float(np.mean(sizes))
    sizes_of_data = {"n_mels": dataset.tables[table].config.n_rows, "n_classes": dataset.n_classes}
    return _Members(
        dev_index,
        dev_logits,
        np.mean(test_logits, axis=0),
        history,
        n_parameters,
        chosen,
        Network(model, model_name, {**options, **sizes_of_data}, table, storage),
    )


def member_folds(dataset: Dataset, fold: Fold, budget: Budget) -> list[Fold]:
    """The fold itself for one member; else its training side with another dev part for each."""
    if budget.n_members == 1:
        return [fold]
    known = np.concatenate([fold.train, fold.dev])
    parts = []
    for inner in inner_folds(dataset, known, budget)[: budget.n_members]:
        rest = np.sort(known[np.concatenate([inner.train, inner.dev])])
        parts.append(Fold(fold.name, rest, np.sort(known[inner.test]), fold.test))
    return parts


def score_network(
    model: nn.Module, dataset: Dataset, index: NDArray[np.int64], budget: Budget, table: str = "study"
) -> NDArray[np.float64]:
    """Logits (n, n_classes) of the recordings at ``index``, the mean over each one's windows; n may be 0."""
    if not len(index):  # the model that is shipped has no test side
        return np.empty((0, dataset.n_classes))
    return score_recordings(
        model,
        dataset.tables[table].take(index),
        window_frames=window_length(dataset, budget, table),
        precision=budget.train.precision,
    ).astype(np.float64)


def train_network(
    dataset: Dataset,
    fold: Fold,
    budget: Budget,
    state_path: Path | None,
    *,
    model_name: str = "res8",
    table: str = "study",
    start: nn.Module | None = None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> tuple[nn.Module, list[Record]]:
    """Train a network of MODELS on ``fold.train``; ``fold.dev`` picks the epoch, by AUROC.

    Args:
        table: which of the dataset's tables it reads.
        start: a source model: its weights and batch-norm statistics are kept, its head is drawn anew, ``budget``
            says what of it is frozen or learns more slowly, and ``model_name`` plays no part.

    Raises:
        ValueError: the window is shorter than the least input of the model, or the source has no such layer.
    """
    features = dataset.tables[table]
    window_frames, n_rows = window_length(dataset, budget, table), features.config.n_rows
    rates = None
    if start is not None:
        model = new_task(start, dataset.n_classes, seed=budget.seed)
        if budget.freeze_up_to:
            freeze_up_to(model, budget.freeze_up_to, n_mels=n_rows)
        if budget.layer_decay < 1:
            rates = layer_rates(model, budget.layer_decay, n_mels=n_rows)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(budget.seed)
            model = build_model(model_name, n_mels=n_rows, n_classes=dataset.n_classes)
    _refuse_short_window(model, window_frames, features.config.frames_per_s)
    batches = _crops(dataset, fold, budget, table)
    history = fit(
        model,
        Supervised(budget.train.loss),
        batches,
        budget.train,
        steps_per_epoch=len(batches),
        seed=budget.seed,
        rates=rates,
        dev_score=dev_score(dataset, fold, budget, table),
        state_path=state_path,
        on_epoch=on_epoch,
    )
    return model, history


def compress_trained(
    model: nn.Module,
    config: CompressConfig,
    dataset: Dataset,
    fold: Fold,
    budget: Budget,
    state_path: Path | None,
    table: str,
) -> Compressed:
    """``compress_network`` with the recordings, the dev part and the options that the model was trained with."""
    batches = _crops(dataset, fold, budget, table)
    return compress_network(
        model,
        config,
        dev_score=dev_score(dataset, fold, budget, table),
        batches=batches,
        steps_per_epoch=len(batches),
        train=budget.train,
        seed=budget.seed,
        state_path=state_path and state_path.with_name(f"{state_path.name} compressed"),
    )


def _crops(dataset: Dataset, fold: Fold, budget: Budget, table: str) -> CropBatches:
    features = dataset.tables[table]
    return CropBatches(
        features.take(fold.train),
        dataset.labels[fold.train],
        window_frames=window_length(dataset, budget, table),
        config=budget.train,
        seed=budget.seed,
        shift_frames=round(budget.train.shift_s * features.config.frames_per_s),
        warps=warp_matrices(features.config, budget.train.warp),
    )


def dev_score(dataset: Dataset, fold: Fold, budget: Budget, table: str) -> Callable[[nn.Module], float]:
    """What picks an epoch: a model's AUROC on ``fold.dev``."""

    def score(model: nn.Module) -> float:
        logits = score_network(model, dataset, fold.dev, budget, table)
        return macro_auroc(dataset.labels[fold.dev], softmax(logits))

    return score


def window_length(dataset: Dataset, budget: Budget, table: str = "study") -> int:
    """Frames in the window that a network of this table sees at once."""
    return round(budget.train.window_s * dataset.tables[table].config.frames_per_s)


def _refuse_short_window(model: nn.Module, window_frames: int, frames_per_s: float) -> None:
    least = int(getattr(model, "least_frames"))  # noqa: B009 (nn.Module does not declare it)
    if window_frames < least:
        raise ValueError(
            f"the window of {window_frames} frames is too short for {type(model).__name__}, which needs {least}; "
            f"give window_s = {least / frames_per_s:g} or more"
        )
