"""Arms that train a network on the study's own recordings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vagitus.arms.classical import inner_folds
from vagitus.arms.contract import Budget, Scores
from vagitus.calibration import softmax
from vagitus.dataset import Dataset
from vagitus.metrics import macro_auroc
from vagitus.models import build_model
from vagitus.models.res8 import POOL_FRAMES
from vagitus.splits import Fold
from vagitus.training import CropBatches, Record, Supervised, fit, score_recordings

MEMBER_SEEDS = 1000  # seeds of one study's members do not meet those of the next seed's


def scratch(dataset: Dataset, fold: Fold, budget: Budget, state_path: Path | None) -> Scores:
    """res8 trained from random weights; each member's epoch is chosen on its dev part."""
    dev_index, dev_logits, test_logits = [], [], []
    history: list[Record] = []
    for member, part in enumerate(member_folds(dataset, fold, budget)):
        own = budget.model_copy(update={"seed": budget.seed * MEMBER_SEEDS + member})
        state = state_path and state_path.with_name(f"{state_path.name}{member}")
        model, records = train_network(dataset, part, own, state)
        dev_index.append(part.dev)
        dev_logits.append(score_network(model, dataset, part.dev, budget))
        test_logits.append(score_network(model, dataset, fold.test, budget))
        history += [record | {"member": member} for record in records]
    return Scores(
        dev_index=np.concatenate(dev_index),
        dev_logits=np.concatenate(dev_logits),
        test_logits=np.mean(test_logits, axis=0),
        chosen={"members": len(dev_index), "dev_auroc": _dev_auroc(dataset, dev_index, dev_logits)},
        history=history,
        n_parameters=sum(p.numel() for p in model.parameters()),
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
    model: nn.Module, dataset: Dataset, index: NDArray[np.int64], budget: Budget
) -> NDArray[np.float64]:
    """Logits (n, n_classes) of the recordings at ``index``, the mean over each one's windows."""
    return score_recordings(
        model,
        dataset.tables["study"].take(index),
        window_frames=window_length(dataset, budget),
        precision=budget.train.precision,
    ).astype(np.float64)


def train_network(
    dataset: Dataset,
    fold: Fold,
    budget: Budget,
    state_path: Path | None,
    *,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> tuple[nn.Module, list[Record]]:
    """Train res8 on ``fold.train``; ``fold.dev`` picks the epoch, by AUROC."""
    table = dataset.tables["study"]
    window_frames = window_length(dataset, budget)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        model = build_model("res8", n_mels=table.config.n_rows, n_classes=dataset.n_classes)
    batches = CropBatches(
        table.take(fold.train),
        dataset.labels[fold.train],
        window_frames=window_frames,
        config=budget.train,
        seed=budget.seed,
    )

    def dev_score(model: nn.Module) -> float:
        return macro_auroc(dataset.labels[fold.dev], softmax(score_network(model, dataset, fold.dev, budget)))

    history = fit(
        model,
        Supervised(budget.train.loss),
        batches,
        budget.train,
        steps_per_epoch=len(batches),
        seed=budget.seed,
        dev_score=dev_score,
        state_path=state_path,
        on_epoch=on_epoch,
    )
    return model, history


def window_length(dataset: Dataset, budget: Budget) -> int:
    """Frames in the window that the study's network sees at once.

    Raises:
        ValueError: too few for the network's pool.
    """
    frames_per_s = dataset.tables["study"].config.frames_per_s
    n_frames = round(budget.train.window_s * frames_per_s)
    if n_frames < POOL_FRAMES:
        raise ValueError(
            f"window_s = {budget.train.window_s} is {n_frames} frames; "
            f"res8 pools {POOL_FRAMES} into one, so give {POOL_FRAMES / frames_per_s:g} s or more"
        )
    return n_frames


def _dev_auroc(dataset: Dataset, index: list[NDArray[np.int64]], logits: list[NDArray[np.float64]]) -> float:
    """Mean over members: each ranks its own dev part."""
    return float(
        np.mean([macro_auroc(dataset.labels[i], softmax(z)) for i, z in zip(index, logits, strict=True)])
    )
