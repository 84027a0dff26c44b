"""Baselines without a network, tuned on grouped folds inside the training recordings."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vagitus.arms.contract import Budget, Scores
from vagitus.calibration import softmax
from vagitus.dataset import Dataset, logmel_statistics
from vagitus.metrics import macro_auroc
from vagitus.splits import Fold, grouped_folds, most_folds
from vagitus.windows import cut_window, window_starts

SVM_WINDOW_S = 1.0  # the thesis's clips
# The kernel of 3,000 windows takes 36 MB and seconds; with more the SVM would outlast the networks.
SVM_MAX_TRAINING_WINDOWS = 3000
SVM_WINDOWS_SCORED = 10  # evenly spread over a recording


def logmel_ridge(dataset: Dataset, fold: Fold, budget: Budget, state_path: Path | None) -> Scores:
    """Ridge regression on statistics of the log-mel bands: the baseline to beat."""
    return fit_tuned(logmel_statistics(dataset.tables["logmel"]), dataset, fold, budget, *ridge())


def ridge() -> tuple[Callable[..., Any], dict[str, Sequence[float]]]:
    """A standardised ridge classifier as ``fit_tuned`` takes it: how to make one, and the penalties to try."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def make(alpha: float) -> Any:
        return make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha, class_weight="balanced"))

    return make, {"alpha": tuple(10.0 ** np.arange(0, 6))}


def fit_tuned(
    x: NDArray[Any],
    dataset: Dataset,
    fold: Fold,
    budget: Budget,
    make: Callable[..., Any],
    grid: dict[str, Sequence[float]],
) -> Scores:
    """Fit a scikit-learn classifier whose options are chosen by out-of-fold AUROC on the training side.

    Args:
        x: (n, ...) one row per recording of the dataset.
        make: options -> an unfitted classifier with ``decision_function``.
        grid: values to try for each option; all combinations are tried.
    """
    known = np.concatenate([fold.train, fold.dev])
    best: tuple[float, dict[str, float], NDArray[np.float64]] | None = None
    for values in product(*grid.values()):
        options = dict(zip(grid, values, strict=True))
        logits = np.empty((len(known), dataset.n_classes))
        for inner in inner_folds(dataset, known, budget):
            model = make(**options).fit(x[known[inner.train]], dataset.labels[known[inner.train]])
            logits[inner.test] = _logits(model.decision_function(x[known[inner.test]]))
        score = macro_auroc(dataset.labels[known], softmax(logits))
        if best is None or score > best[0]:
            best = score, options, logits
    if best is None:
        raise ValueError("nothing to try: the grid is empty")
    score, options, dev_logits = best
    model = make(**options).fit(x[known], dataset.labels[known])
    return Scores(
        dev_index=known,
        dev_logits=dev_logits,
        test_logits=_logits(model.decision_function(x[fold.test]))
        if len(fold.test)
        else np.empty((0, dataset.n_classes)),
        chosen={**options, "inner_auroc": score},
        history=[],
        n_parameters=int(model[-1].coef_.size + model[-1].intercept_.size),
    )


def svm(dataset: Dataset, fold: Fold, budget: Budget, state_path: Path | None) -> Scores:
    """The thesis's baseline: an RBF SVM on flattened, standardised one-second MFCC.

    A recording's score is the mean over its windows. C and gamma come from a grid around
    the thesis's 10 and 1e-5 (arXiv:1906.10199), chosen on grouped folds of the training side.
    """
    from sklearn.svm import SVC

    known = np.concatenate([fold.train, fold.dev])
    per_recording = max(1, min(4, SVM_MAX_TRAINING_WINDOWS // len(known)))
    rng = np.random.default_rng(budget.seed)
    if len(known) > SVM_MAX_TRAINING_WINDOWS:
        known = np.sort(rng.choice(known, SVM_MAX_TRAINING_WINDOWS, replace=False))
    train_x, train_owner = _flat_windows(dataset, known, per_recording)
    test_x, test_owner = _flat_windows(dataset, fold.test, SVM_WINDOWS_SCORED)
    mean, scale = train_x.mean(axis=0), train_x.std(axis=0) + 1e-6
    train_x = (train_x - mean) / scale
    train_distance = _squared_distances(train_x, train_x)
    test_distance = _squared_distances((test_x - mean) / scale, train_x)
    labels = dataset.labels[known]
    folds = inner_folds(dataset, known, budget)
    grid = (
        product((1.0, 10.0), (1e-5, 1e-4))
        if budget.grid == "small"
        else product((1, 3, 10, 30), (1e-5, 3e-5, 1e-4, 3e-4))
    )
    best: tuple[float, float, float, NDArray[np.float64]] | None = None
    for c, gamma in grid:
        kernel = np.exp(-gamma * train_distance)
        logits = np.empty((len(known), dataset.n_classes))
        for inner in folds:
            train, test = np.isin(train_owner, inner.train), np.isin(train_owner, inner.test)
            model = SVC(C=c, kernel="precomputed", class_weight="balanced", decision_function_shape="ovr")
            model.fit(kernel[np.ix_(train, train)], labels[train_owner[train]])
            decision = _logits(model.decision_function(kernel[np.ix_(test, train)]))
            logits[inner.test] = _mean_by_owner(decision, train_owner[test], len(known))[inner.test]
        score = macro_auroc(labels, softmax(logits))
        if best is None or score > best[0]:
            best = score, c, gamma, logits
    if best is None:
        raise ValueError("nothing to try: the grid is empty")
    score, c, gamma, dev_logits = best
    model = SVC(C=c, kernel="precomputed", class_weight="balanced", decision_function_shape="ovr")
    model.fit(np.exp(-gamma * train_distance), labels[train_owner])
    decision = (
        _logits(model.decision_function(np.exp(-gamma * test_distance)))
        if len(test_x)
        else np.empty((0, dataset.n_classes))
    )
    return Scores(
        dev_index=known,
        dev_logits=dev_logits,
        test_logits=_mean_by_owner(decision, test_owner, len(fold.test)),
        chosen={"c": c, "gamma": gamma, "inner_auroc": score, "windows_per_recording": per_recording},
        history=[],
        n_parameters=int(model.support_.size * train_x.shape[1] + model.dual_coef_.size),
    )


def inner_folds(dataset: Dataset, known: NDArray[np.int64], budget: Budget) -> list[Fold]:
    """Grouped folds over the training recordings, fewer where a class has few subjects.

    Indices are positions in ``known``.
    """
    labels, groups = dataset.labels[known], dataset.groups[known]
    n_folds = most_folds(
        labels, groups, budget.n_inner_folds, seed=budget.seed, class_names=dataset.class_names
    )
    return grouped_folds(labels, groups, n_folds=n_folds, seed=budget.seed)


def _logits(decision: NDArray[np.float64]) -> NDArray[np.float64]:
    """A pair of logits for the (n,) margins that scikit-learn gives for two classes: their difference."""
    return np.stack([-decision / 2, decision / 2], axis=1) if decision.ndim == 1 else decision


def _flat_windows(
    dataset: Dataset, index: NDArray[np.int64], most: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(n_windows, n_rows * window_frames) and the position in ``index`` that each window is from."""
    table = dataset.tables["mfcc"]
    window_frames = round(SVM_WINDOW_S * table.config.frames_per_s) + 1
    windows, owner = [], []
    for position, recording in enumerate(index):
        features = table[int(recording)]
        starts = window_starts(features.shape[1], window_frames, window_frames)
        if len(starts) > most:
            starts = np.linspace(0, features.shape[1] - window_frames, most).astype(np.int64)
        windows += [cut_window(features, int(start), window_frames).ravel() for start in starts]
        owner += [position] * len(starts)
    flat = np.stack(windows) if windows else np.empty((0, table.config.n_rows * window_frames), np.float32)
    return flat, np.array(owner, dtype=np.int64)


def _squared_distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    squares: NDArray[np.float32] = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    return np.maximum(squares, 0)


def _mean_by_owner(
    logits: NDArray[np.float64], owner: NDArray[np.int64], n_owners: int
) -> NDArray[np.float64]:
    """Rows without a window stay NaN; callers read only rows that have one."""
    sums = np.zeros((n_owners, logits.shape[1]))
    np.add.at(sums, owner, logits)
    counts = np.bincount(owner, minlength=n_owners)[:, None]
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
