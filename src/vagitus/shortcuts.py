"""What gives a label away besides the sound of it.

    associations   how far the label goes with site, session, covariates, duration, level, bandwidth, rate
    lookups        what is scored with no audio at all: by the subject's other labels, by the metadata
    leakage        what one model scores when recordings are divided at random, beside the same model with
                   subjects kept whole: the only place where a subject may stand on both sides of a split, to
                   measure what that would have gained

Conventions
    column      text or numbers (n,), "" or NaN where unknown
    p           adjusted by Holm over all columns; a subject counts once per label and value
    groups      (n,) subjects, those that share audio under one name, as ``splits.merge_subjects`` gives them:
                what "whole subjects" keeps whole, and what intervals resample
    intervals   95 %, resampling groups
    scores      (n, n_classes), out of fold; a softmax makes them sum to 1
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.manifest import Manifest
from vagitus.metrics import Statistic, statistic
from vagitus.splits import Fold, grouped_folds
from vagitus.statistics import (
    Comparison,
    Interval,
    holm,
    label_strata,
    midranks,
    paired_bootstrap,
    subject_bootstrap,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Text = NDArray[np.str_]
Column = Text | Floats

N_FOLDS = 5
N_REPEATS, N_RESAMPLES = 5, 500
N_REPEATS_QUICK, N_RESAMPLES_QUICK = 1, 200
# More recordings would narrow intervals that are narrow already.
MAX_PROBED = 10_000
FROM_AUDIO = ("level_dbfs", "bandwidth_hz")  # what only listening tells
STD_FLOOR = 1e-6


class Association(NamedTuple):
    """How far a column gives the label away."""

    column: str
    measure: Literal["Cramer's V", "AUROC"]
    effect: float  # AUROC: of the class that is told apart best, at least .5
    p: float
    detail: str


class Probe(NamedTuple):
    """What a model scores that should score nothing, or that is measured the wrong way."""

    what: str
    split: str
    is_wrong: bool  # the split lets subjects stand on both sides
    uar: Interval
    auroc: Interval


@dataclass(frozen=True)
class Leakage:
    """One model under two splits, and the gap between them: random recordings minus whole subjects."""

    wrong: Probe
    right: Probe
    uar_gap: Comparison
    auroc_gap: Comparison


class Shortcuts(NamedTuple):
    """What was measured; ``skipped`` says what was not, and why."""

    associations: tuple[Association, ...] = ()  # strongest first
    lookups: tuple[Probe, ...] = ()
    leakage: Leakage | None = None
    skipped: tuple[str, ...] = ()


def find_shortcuts(
    manifest: Manifest,
    measured: dict[str, Floats],
    x: Floats,
    groups: Text,
    *,
    quick: bool = False,
    seed: int = 0,
) -> Shortcuts:
    """Measure all that the module's table lists.

    Args:
        manifest: labelled recordings, n of them.
        measured: ``duration_s``, ``level_dbfs``, ``bandwidth_hz`` and ``sample_rate_hz``, (n,) each.
        x: (n, n_features) what the leakage model sees of each recording.
        groups: (n,) as above.
        quick: one repeat of the folds, and fewer resamples.
        seed: of folds and resampling.
    """
    if len(manifest.class_names) < 2:
        return Shortcuts(skipped=("confounds, lookups and leakage: fewer than two classes",))
    columns, identifiers = _columns(manifest, measured)
    skipped = [f"{', '.join(identifiers)} as confounds: their values name subjects"] if identifiers else []
    associations = tuple(_associations(manifest, columns))
    rows = _drawn_subjects(groups, np.random.default_rng(seed))
    probed, groups = manifest.select(rows), groups[rows]
    n_groups = [len(np.unique(groups[probed.label == name])) for name in manifest.class_names]
    try:
        # Fewer folds than three would leave one subject of a class to learn from.
        bench = _Bench.of(probed, groups, max(3, min(N_FOLDS, *n_groups)), quick, seed)
    except ValueError as error:
        return Shortcuts(associations, skipped=(*skipped, f"lookups and leakage: {error}"))
    lookups: list[Probe] = []
    leakage = None
    if probed.n_subjects < len(probed):
        lookups.append(bench.look_up_subjects())
    if len(np.unique(groups)) == len(probed):
        skipped.append("leakage: every subject has one recording, so any split keeps subjects whole")
    else:
        leakage = bench.leakage("log-mel ridge", x[rows])
    metadata = [values[rows] for name, values in columns.items() if name not in FROM_AUDIO]
    if metadata:
        scores = bench.ridge(_design(metadata), bench.whole_subjects)
        lookups.append(bench.probe("metadata", scores, wrong=False))
    return Shortcuts(associations, tuple(lookups), leakage, tuple(skipped))


def _columns(manifest: Manifest, heard: dict[str, Floats]) -> tuple[dict[str, Column], list[str]]:
    """Columns that could give the label away, text or numbers (n,); and those left out as identifiers."""
    text = {"site": manifest.site, "session": manifest.session}
    numbers = {name: heard[name] for name in ("duration_s", *FROM_AUDIO)}
    for name, values in manifest.covariates.items():
        parsed = manifest.numeric_covariate(name)
        if parsed is None:
            text[name] = values
        else:
            numbers[name] = parsed
    text["sample_rate_hz"] = heard["sample_rate_hz"].astype(np.int64).astype(np.str_)
    n_levels = {name: len(np.unique(values)) for name, values in text.items()}
    identifiers = [name for name, n in n_levels.items() if n > max(2, manifest.n_subjects // 2)]
    columns: dict[str, Column] = {
        name: values for name, values in text.items() if n_levels[name] > 1 and name not in identifiers
    }
    columns |= {name: v for name, v in numbers.items() if len(np.unique(v[np.isfinite(v)])) > 1}
    return columns, identifiers


def _associations(manifest: Manifest, columns: dict[str, Column]) -> list[Association]:
    """Each column against the label, strongest first, p adjusted for all of them."""
    y = manifest.encode_labels()
    subject = np.unique(manifest.subject, return_inverse=True)[1]
    found = []
    for name, values in columns.items():
        if _is_text(values):
            level = np.unique(values, return_inverse=True)[1]
            # A subject's tenth recording with the same label and value is no further evidence.
            _, k, v = np.unique(np.stack([subject, y, level]), axis=1)
            found.append(_cramers_v(name, k, v, manifest.class_names, np.unique(values)))
        else:
            known = np.isfinite(values)
            (_, k), group = np.unique(np.stack([subject, y])[:, known], axis=1, return_inverse=True)
            medians = _medians(np.asarray(values[known], np.float64), group.ravel())
            found.append(_rank_association(name, k, medians, manifest.class_names))
    if found:
        adjusted = holm([association.p for association in found]).tolist()
        found = [association._replace(p=p) for association, p in zip(found, adjusted, strict=True)]
    return sorted(found, key=lambda a: -(a.effect if a.measure == "Cramer's V" else 2 * a.effect - 1))


def _cramers_v(column: str, y: Ints, level: Ints, class_names: Sequence[str], levels: Text) -> Association:
    """Cramér's V corrected for bias, and the p of chi-square. Bergsma 2013, J. Korean Stat. Soc. 42.

    phi2 = max(0, chi2 / n - (r-1)(c-1) / (n-1)),  V = sqrt(phi2 / min(r'-1, c'-1)),  r' = r - (r-1)^2 / (n-1)
    """
    from scipy.special import gammaincc

    table = np.zeros((len(class_names), len(levels)))
    np.add.at(table, (y, level), 1)
    n = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / n
    residual = (table - expected) / np.sqrt(expected)
    chi2, (r, c) = float((residual**2).sum()), table.shape
    free = (r - 1) * (c - 1)
    phi2 = max(0.0, chi2 / n - free / (n - 1))
    scale = min(size - 1 - (size - 1) ** 2 / (n - 1) for size in (r, c))
    effect = min(1.0, math.sqrt(phi2 / scale)) if scale > 0 else 0.0
    k, v = divmod(int(residual.argmax()), len(levels))
    detail = f"most: {str(levels[v]) or '(blank)'} with {class_names[k]}"
    return Association(column, "Cramer's V", effect, float(gammaincc(free / 2, chi2 / 2)), detail)


def _rank_association(column: str, y: Ints, values: Floats, class_names: Sequence[str]) -> Association:
    """AUROC of the class that the values tell apart best from the rest; p of Kruskal and Wallis."""
    from scipy.special import gammaincc

    n, n_of = len(y), np.bincount(y, minlength=len(class_names))
    ranks = midranks(values)
    mean = np.bincount(y, weights=ranks, minlength=len(class_names)) / np.maximum(n_of, 1)
    spread = float(((ranks - (n + 1) / 2) ** 2).sum())
    present = (n_of > 0) & (n_of < n)
    if spread == 0 or not present.any():
        return Association(column, "AUROC", 0.5, math.nan, "")
    h = (n - 1) * float((n_of * (mean - (n + 1) / 2) ** 2).sum()) / spread
    area = np.where(present, (mean - (n_of + 1) / 2) / np.maximum(n - n_of, 1), 0.5)
    k = int(np.abs(area - 0.5).argmax())
    side = "higher" if area[k] > 0.5 else "lower"
    p = float(gammaincc((present.sum() - 1) / 2, h / 2))
    return Association(column, "AUROC", 0.5 + abs(float(area[k]) - 0.5), p, f"{side} in {class_names[k]}")


def _is_text(values: Column) -> TypeGuard[Text]:
    return values.dtype.kind == "U"


def _medians(values: Floats, group: Ints) -> Floats:
    """Median of each group, in order of its number."""
    order = np.lexsort((values, group))
    start = np.flatnonzero(np.diff(group[order], prepend=-1))
    n = np.diff(start, append=len(order))
    medians: Floats = (values[order][start + (n - 1) // 2] + values[order][start + n // 2]) / 2
    return medians


def _drawn_subjects(groups: Text, rng: np.random.Generator) -> Ints:
    """Rows of whole groups drawn at random until ``MAX_PROBED`` recordings, in order."""
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(size))
    drawn = np.zeros(len(size), dtype=bool)
    drawn[order[np.cumsum(size[order]) <= MAX_PROBED]] = True
    return np.flatnonzero(drawn[group])


@dataclass(frozen=True)
class _Bench:
    """The same recordings, folds and resamples for all that is probed, so that gaps are paired."""

    y: Ints
    subjects: Text  # as the manifest names them
    groups: Text
    n_classes: int
    random_recordings: list[list[Fold]]  # one list a repeat
    whole_subjects: list[list[Fold]]
    n_resamples: int
    seed: int

    @classmethod
    def of(cls, manifest: Manifest, groups: Text, n_folds: int, quick: bool, seed: int) -> "_Bench":
        y = manifest.encode_labels()
        n_repeats, n_resamples = (N_REPEATS_QUICK, N_RESAMPLES_QUICK) if quick else (N_REPEATS, N_RESAMPLES)

        def repeats(whole: ArrayLike) -> list[list[Fold]]:
            return [
                grouped_folds(manifest.label, whole, n_folds=n_folds, seed=seed, repeat=repeat)
                for repeat in range(n_repeats)
            ]

        # Each recording its own group: the wrong way, to measure what it would have gained.
        wrong, right = repeats(np.arange(len(y))), repeats(groups)
        return cls(y, manifest.subject, groups, len(manifest.class_names), wrong, right, n_resamples, seed)

    def ridge(self, x: Floats, repeats: list[list[Fold]]) -> list[Floats]:
        return [_ridge_scores(x, self.y, folds, self.n_classes) for folds in repeats]

    def probe(self, what: str, scores: list[Floats], *, wrong: bool) -> Probe:
        uar, auroc = (
            subject_bootstrap(
                [self._statistic(name, p) for p in scores],
                self.groups,
                rng=np.random.default_rng(self.seed),
                n_resamples=self.n_resamples,
                strata=label_strata(self.y, self.groups),
            )
            for name in ("uar", "auroc")
        )
        return Probe(what, "random, WRONG" if wrong else "whole subjects", wrong, uar, auroc)

    def look_up_subjects(self) -> Probe:
        """Predict each recording from the labels of its subject's other recordings."""
        group = np.unique(self.subjects, return_inverse=True)[1]
        scores = []
        for folds in self.random_recordings:
            p = np.empty((len(self.y), self.n_classes))
            for fold in folds:
                known = np.concatenate([fold.train, fold.dev])
                prior = np.bincount(self.y[known], minlength=self.n_classes) / len(known)
                count = np.zeros((group.max() + 1, self.n_classes))
                np.add.at(count, (group[known], self.y[known]), 1)
                # One recording of the prior smooths; divided by it, all classes weigh the same, as in UAR.
                p[fold.test] = np.log((count + prior) / prior)[group[fold.test]]
            scores.append(p)
        return self.probe("subject's other labels", scores, wrong=True)

    def leakage(self, what: str, x: Floats) -> Leakage:
        wrong, right = self.ridge(x, self.random_recordings), self.ridge(x, self.whole_subjects)
        uar_gap, auroc_gap = (
            paired_bootstrap(
                [self._statistic(name, p) for p in wrong],
                [self._statistic(name, p) for p in right],
                self.groups,
                rng=np.random.default_rng(self.seed),
                n_resamples=self.n_resamples,
                strata=label_strata(self.y, self.groups),
            )
            for name in ("uar", "auroc")
        )
        return Leakage(
            self.probe(what, wrong, wrong=True), self.probe(what, right, wrong=False), uar_gap, auroc_gap
        )

    def _statistic(self, name: str, scores: Floats) -> Statistic:
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        if name == "auroc" and self.n_classes > 2:
            name = "macro_auroc"
        return statistic(name, self.y, p, p.argmax(axis=1))


def _design(columns: Iterable[Column]) -> Floats:
    """(n, n_features): text one-hot, numbers as they are; an unknown number is the mean, and is marked."""
    parts = []
    for values in columns:
        if _is_text(values):
            parts.append((values[:, None] == np.unique(values)).astype(np.float64))
        else:
            known = np.isfinite(values)
            parts.append(np.where(known, values, values[known].mean())[:, None])
            if not known.all():
                parts.append(known.astype(np.float64)[:, None])
    return np.hstack(parts)


def _ridge_scores(x: Floats, y: Ints, folds: list[Fold], n_classes: int) -> Floats:
    """Out-of-fold scores of a ridge on standardised features, all classes weighing the same.

        min_B sum_i w_i |t_i - x_i B|^2 + a |B|^2,  t_i = +-1 per class,  w_i = n / (n_classes n_class(i))

    a = n_features takes the features together for as much signal as there is noise. It is not tuned, since
    both splits must have the same model.
    """
    scores = np.empty((len(y), n_classes))
    for fold in folds:
        known = np.concatenate([fold.train, fold.dev])
        mean, std = x[known].mean(axis=0), x[known].std(axis=0)
        std[std < STD_FLOOR * (1 + np.abs(mean))] = np.inf  # constant but for rounding: no evidence
        z = (x[known] - mean) / std
        target = 2.0 * (y[known][:, None] == np.arange(n_classes)) - 1
        w = len(known) / (n_classes * np.bincount(y[known], minlength=n_classes))[y[known]]
        z_mean, target_mean = (np.average(v, axis=0, weights=w) for v in (z, target))
        z -= z_mean
        gram = (z * w[:, None]).T @ z + z.shape[1] * np.eye(z.shape[1])
        coefficients = np.linalg.solve(gram, (z * w[:, None]).T @ (target - target_mean))
        scores[fold.test] = ((x[fold.test] - mean) / std - z_mean) @ coefficients + target_mean
    return scores
