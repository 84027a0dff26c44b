"""Arms that begin with what was learned elsewhere: from adult speech, or without labels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vagitus.arms.classical import fit_tuned, ridge
from vagitus.arms.contract import Budget, Scores
from vagitus.arms.network import train_members, window_length
from vagitus.dataset import Dataset
from vagitus.splits import Fold
from vagitus.training import EVALUATION_BATCH, score_recordings
from vagitus.transfer import load_source, random_frozen
from vagitus.views import Encoder, TwoViews, ViewConfig, describe_collapse, learn_from_views
from vagitus.windows import cut_window

PLAIN = " plain"  # of a table: the log-mel of a source's front end, from which views are made
NORM_BATCHES = 8  # of EVALUATION_BATCH windows each, from which batch norms get their statistics


def fine_tuned(
    dataset: Dataset,
    fold: Fold,
    budget: Budget,
    state_path: Path | None,
    *,
    source: str,
    compressed: bool = False,
) -> Scores:
    """A source model with a new head, nothing frozen: the thesis's transfer (arXiv:1906.10199)."""
    model, card = load_source(dataset.sources[source], dataset.tables[source].config)
    return train_members(
        dataset, fold, budget, state_path, {source: model}, card.model, card.options, compressed=compressed
    )


def continued(
    dataset: Dataset,
    fold: Fold,
    budget: Budget,
    state_path: Path | None,
    *,
    source: str,
    compressed: bool = False,
) -> Scores:
    """The same after more learning without labels from all recordings of the training side, by the source's method.

    ``source`` is a row of ``views.METHODS``. Recordings whose labels are withheld are heard too; those of the
    test side are not. The three stages are the thesis's (arXiv:2305.01578): elsewhere without labels, here without
    labels, here with labels. Nothing is mixed into the views here: a study has no noise of its own. What the features'
    diversity came to stands in ``chosen``, and if they collapsed.
    """
    table = dataset.tables[source]
    model, card = load_source(dataset.sources[source], table.config)
    heard = np.sort(np.concatenate([fold.train, fold.dev, fold.unlabelled]))
    views = TwoViews(
        dataset.tables[source + PLAIN].take(heard),
        table.config,
        window_frames=window_length(dataset, budget, source),
        config=budget.continued,
        views=ViewConfig(),
        seed=budget.seed,
    )
    history = learn_from_views(
        model,
        source,
        views,
        budget.continued,
        seed=budget.seed,
        state_path=state_path and state_path.with_name(f"{state_path.name} continued"),
    )
    scores = train_members(
        dataset, fold, budget, state_path, {source: model}, card.model, card.options, compressed=compressed
    )
    learned = {name: history[-1][name] for name in ("feature_rank", "feature_spread")}
    collapse = describe_collapse(history[-1])
    return scores._replace(chosen=scores.chosen | learned | ({"collapse": collapse} if collapse else {}))


def frozen(
    dataset: Dataset, fold: Fold, budget: Budget, state_path: Path | None, *, source: str, random: bool
) -> Scores:
    """A ridge on the mean features of a source model; ``random``: of the same network with random filters.

    The random network is the control that a frozen source must beat: its batch norms get the statistics of
    training recordings, so that what it lacks is learned filters and not a sensible scale.
    """
    table = dataset.tables[source]
    model, card = load_source(dataset.sources[source], table.config)
    window_frames = window_length(dataset, budget, source)
    if random:
        crops = _crops(dataset, fold, source, window_frames, budget.seed)
        model = random_frozen(card, dataset.n_classes, crops, seed=budget.seed)
    known = np.concatenate([fold.train, fold.dev, fold.test])
    x = np.zeros((len(dataset), int(model.feature_dim)), np.float32)  # type: ignore[arg-type]
    x[known] = score_recordings(
        Encoder(model), table.take(known), window_frames=window_frames, precision=budget.train.precision
    )
    return probe(x, dataset, fold, budget)


def encoder_probe(dataset: Dataset, fold: Fold, budget: Budget, state_path: Path | None) -> Scores:
    """A ridge on the embeddings of an encoder that others trained."""
    return probe(dataset.embeddings, dataset, fold, budget)


def probe(x: NDArray[np.float32], dataset: Dataset, fold: Fold, budget: Budget) -> Scores:
    """A standardised ridge on (n, dim) features, its penalty chosen as that of ``logmel+ridge``."""
    return fit_tuned(x, dataset, fold, budget, *ridge())


def _crops(dataset: Dataset, fold: Fold, source: str, window_frames: int, seed: int) -> Iterator[Tensor]:
    """Random crops of training recordings, (EVALUATION_BATCH, n_rows, window_frames) each."""
    rng = np.random.default_rng(seed)
    for _ in range(NORM_BATCHES):
        crops = []
        for features in dataset.tables[source].take(rng.choice(fold.train, EVALUATION_BATCH)):
            slack = features.shape[1] - window_frames
            first = rng.integers(slack + 1 if slack >= 0 else features.shape[1])
            crops.append(cut_window(features, int(first), window_frames))
        yield torch.from_numpy(np.stack(crops))
