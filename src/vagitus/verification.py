"""Is this the same infant? Embeddings of sessions compared in trials: scores, error rates, identification.

Conventions
    session     what was recorded of one subject on one occasion: one recording, or several cut from it
    views       (n_views, dim) embeddings of one session, such as of shuffled concatenations of its segments
    trial       an enrolled session and a tested one; label 1 if both are of one subject, 0 if of two
    scores      higher is more alike; (n_enrolled, n_tested) where all are compared with all
    cohort      sessions of other subjects, by which scores are normalised
    first, second
                (n_trials,) the subject of the enrolled and of the tested session of each trial

A trial has two subjects, so a bootstrap draws subjects and weighs trials by both: ``of_subjects``. Error rates
are shares, 0 to 1. The files that name trials are read by ``vagitus.trials``.

Every function raises ValueError for arrays that are empty, of another shape, or not finite. A score says how
alike two sounds are. Research use only, not a diagnosis, and no proof of anybody's identity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.encoders import Encoder, open_encoder
from vagitus.files import content_hash
from vagitus.metrics import (
    FloatArray,
    IntArray,
    Statistic,
    checked_labels,
    checked_weights,
    equal_error_statistic,
)
from vagitus.statistics import Interval, subject_bootstrap
from vagitus.windows import cut_window, window_starts

Float32 = NDArray[np.float32]

P_TARGET = (
    0.01  # of the detection cost, as in VoxCeleb's challenges: one trial in a hundred is of one subject
)
N_COHORT = 200  # nearest of a cohort that normalise a score; published systems take 100 to 400
RESAMPLED_VALUES = 1 << 21  # weights of trials held at once, 16 MB
MODEL_ENCODER_VERSION = 1  # raise it when the embeddings of the same model file change
WINDOWS_AT_ONCE = 64
MAX_CROP_S = 600.0  # of a concatenation, which repeats a session that is shorter
FALSE_ACCEPTS = tuple(np.geomspace(1e-3, 1.0, 61).tolist())  # where a DET curve's band is drawn


# Sessions and their scores.


def unit_rows(embeddings: ArrayLike) -> FloatArray:
    """Rows at Euclidean length 1: (n, dim).

    Raises:
        ValueError: not (n, dim), not finite, or a row of zeros, which has no direction.
    """
    x = np.asarray(embeddings, dtype=np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"embeddings must be (n, dim), neither of them 0, got {x.shape}")
    if not np.isfinite(x).all():
        row = int(np.argmin(np.isfinite(x).all(axis=1)))
        raise ValueError(f"embedding {row} holds NaN or infinity; leave its recording out")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(
            f"embedding {int(np.argmin(length))} is all zeros and has no direction; leave its recording out"
        )
    return np.asarray(x / length)


def session_vectors(sessions: Sequence[ArrayLike]) -> FloatArray:
    """One vector for each session, (n_sessions, dim): the mean of its views at length 1, not lengthened again.

    The product of two such vectors is the mean of the cosines of all pairs of their views,

        1 / (n m) sum_ij cos(a_i, b_j) = (1/n sum_i a_i / |a_i|) . (1/m sum_j b_j / |b_j|)

    so that test-time averaging over shuffled concatenations, what CryCeleb's best did with their scores, costs
    the product that a single view would.

    Args:
        sessions: each (n_views, dim), or (dim,) for one view.
    """
    if not len(sessions):
        raise ValueError("no sessions to compare")
    return np.stack([unit_rows(np.atleast_2d(np.asarray(views))).mean(axis=0) for views in sessions])


def score_all(enrolled: FloatArray, tested: FloatArray) -> FloatArray:
    """Mean cosines of all enrolled with all tested sessions, in one matrix product: (n_enrolled, n_tested).

    Args:
        enrolled, tested: (n, dim) of ``session_vectors``.
    """
    if enrolled.ndim != 2 or tested.ndim != 2 or enrolled.shape[1] != tested.shape[1]:
        raise ValueError(
            f"sessions must be (n, dim) of one dim, got {enrolled.shape} and {tested.shape}; embed both with "
            "one encoder"
        )
    return np.asarray(enrolled @ tested.T)


def adaptive_norm(
    scores: FloatArray, enrolled_cohort: FloatArray, tested_cohort: FloatArray, *, n_top: int = N_COHORT
) -> FloatArray:
    """Adaptive symmetric normalisation: a score against how near each side comes to strangers like it.

        s'(e, t) = ((s - mean S_e) / std S_e + (s - mean S_t) / std S_t) / 2

    with S_e the ``n_top`` highest of e's scores against the cohort. A session that is near to everybody, such as
    a noisy one, then no longer looks like everybody.

    Args:
        scores: (n_enrolled, n_tested).
        enrolled_cohort, tested_cohort: (n_enrolled, n_cohort) and (n_tested, n_cohort), against the same cohort,
            of which nobody is in a trial.
        n_top: at least 2; a smaller cohort is taken whole.

    Raises:
        ValueError: shapes do not fit, or a session has the same score with all of its cohort.

    Source: Matějka et al., Interspeech 2017, section 2.3 ("adaptive S-norm"); Kenny, Odyssey 2010.
    """
    n_enrolled, n_tested = scores.shape if scores.ndim == 2 else (-1, -1)
    n_cohort = enrolled_cohort.shape[-1]
    if enrolled_cohort.shape != (n_enrolled, n_cohort) or tested_cohort.shape != (n_tested, n_cohort):
        raise ValueError(
            f"scores {scores.shape} need cohorts of ({n_enrolled}, n) and ({n_tested}, n), got "
            f"{enrolled_cohort.shape} and {tested_cohort.shape}"
        )
    if n_top < 2 or n_cohort < 2:
        raise ValueError(f"a deviation needs 2 of a cohort at least, got n_top {n_top} of {n_cohort}")
    mean_e, deviation_e = _nearest(enrolled_cohort, n_top)
    mean_t, deviation_t = _nearest(tested_cohort, n_top)
    by_enrolled = (scores - mean_e[:, None]) / deviation_e[:, None]
    by_tested = (scores - mean_t[None]) / deviation_t[None]
    return np.asarray((by_enrolled + by_tested) / 2)


def _nearest(cohort: FloatArray, n_top: int) -> tuple[FloatArray, FloatArray]:
    n_top = min(n_top, cohort.shape[1])
    nearest = np.partition(cohort, cohort.shape[1] - n_top, axis=1)[:, cohort.shape[1] - n_top :]
    deviation = nearest.std(axis=1)
    # Of equal scores the deviation is rounding.
    if not (deviation > 1e-9).all():
        raise ValueError(
            f"session {int(np.argmin(deviation))} is as near to all of its cohort; give a cohort of other recordings"
        )
    return nearest.mean(axis=1), deviation


@dataclass(frozen=True)
class Backend:
    """A linear map under which sessions of one subject lie together; of ``fit_backend``.

    Attributes:
        mean: (dim,) taken away first.
        projection: (dim, n_out).
    """

    mean: FloatArray
    projection: FloatArray

    def apply(self, embeddings: ArrayLike) -> FloatArray:
        """(n, dim) -> (n, n_out); lengths are made 1 before and not after."""
        return np.asarray((unit_rows(embeddings) - self.mean) @ self.projection)


def fit_backend(embeddings: ArrayLike, subjects: ArrayLike, *, n_out: int, shrinkage: float = 0.5) -> Backend:
    """Linear discriminants of subjects, scaled so that sessions of one subject vary by one in each.

        B v = lambda W' v,   W' = (1 - a) W + a tr(W) / dim I

    with W the mean covariance within subjects, B that of their means, and v'W'v = 1: discriminant analysis and
    within-class covariance normalisation at once. With fewer sessions than dimensions W alone has no inverse;
    the shrinkage a gives it one.

    Args:
        embeddings: (n, dim), one for each session.
        subjects: (n,); those with one session say nothing of W, and count in B.
        n_out: directions kept, of the largest lambda.
        shrinkage: a, over 0 to 1.

    Raises:
        ValueError: fewer than 2 subjects, none with 2 sessions, ``n_out`` or ``shrinkage`` out of range.

    Source: Hatch et al., Interspeech 2006 (WCCN); Fisher 1936; Ledoit & Wolf 2004 on shrinkage.
    """
    from scipy.linalg import eigh

    x = unit_rows(embeddings)
    subject = np.unique(np.asarray(subjects), return_inverse=True)[1]
    if len(subject) != len(x):
        raise ValueError(f"{len(x)} embeddings and {len(subject)} subjects; give one for each")
    n_of = np.bincount(subject)
    if len(n_of) < 2 or n_of.max() < 2:
        raise ValueError(f"{len(n_of)} subjects, {n_of.max()} sessions at most; need 2 of both")
    if not 1 <= n_out <= x.shape[1] or not 0 < shrinkage <= 1:
        raise ValueError(
            f"n_out must be 1 to {x.shape[1]}, shrinkage over 0 to 1, got {n_out} and {shrinkage}"
        )
    mean = x.mean(axis=0)
    means = np.zeros((len(n_of), x.shape[1]))
    np.add.at(means, subject, x)
    means /= n_of[:, None]
    own = (n_of > 1)[subject]
    around = (x - means[subject])[own]
    within = around.T @ around / (own.sum() - np.sum(n_of > 1))
    between = (means - mean).T @ (means - mean) / len(means)
    dim = x.shape[1]
    shrunk = (1 - shrinkage) * within + shrinkage * np.trace(within) / dim * np.eye(dim)
    _, vectors = eigh(between, shrunk, subset_by_index=(dim - n_out, dim - 1))
    return Backend(mean, np.asarray(vectors[:, ::-1], np.float64))


# Error rates.


@dataclass(frozen=True)
class DetectionCost:
    """What the two errors cost, and how often a trial is of one subject."""

    p_target: float = P_TARGET
    miss: float = 1.0
    false_accept: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.p_target < 1 and self.miss > 0 and self.false_accept > 0):
            raise ValueError(f"p_target must be in (0, 1) and costs above 0, got {self}")


def min_dcf(
    labels: ArrayLike,
    scores: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    cost: DetectionCost | None = None,
) -> float:
    """Least detection cost over all thresholds, as a share of what the better of two constant answers costs.

        min_t [C_miss p R(t) + C_fa (1 - p) A(t)] / min(C_miss p, C_fa (1 - p))

    with R the false rejects and A the false accepts: 0 where a threshold parts the classes, 1 where the scores
    help no more than always saying no. NaN unless both classes are present.

    Args:
        labels: (n,) 1 for a trial of one and the same subject, 0 for one of two.
        scores: (n,) higher is more alike; equal scores are accepted together.
        weights: (n,) >= 0.
        cost: default of p .01 and both costs 1.

    Source: NIST speaker recognition evaluation plans (2008 and on), normalised detection cost.
    """
    y, _ = _trials(labels, scores)
    w = checked_weights(weights, len(y))[None]
    return float(min_dcf_statistic(labels, scores, cost=cost)(w)[0])


def min_dcf_statistic(
    labels: ArrayLike, scores: ArrayLike, *, cost: DetectionCost | None = None
) -> Statistic:
    """``min_dcf`` of these trials as a function of many weight vectors: (b, n) -> (b,). Sorts once."""
    cost = cost or DetectionCost()
    curves = _Curves(labels, scores)
    default = min(cost.miss * cost.p_target, cost.false_accept * (1 - cost.p_target))

    def statistic(weights: FloatArray) -> FloatArray:
        accepts, rejects = curves.at(weights)
        total = cost.miss * cost.p_target * rejects + cost.false_accept * (1 - cost.p_target) * accepts
        return np.asarray(total.min(axis=1) / default)

    return statistic


class _Curves:
    """False accepts and rejects at all thresholds, for many weightings of the same trials."""

    def __init__(self, labels: ArrayLike, scores: ArrayLike) -> None:
        y, s = _trials(labels, scores)
        self.order = np.argsort(-s)
        falling = s[self.order]
        self.ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(s) - 1)
        self.is_same = y[self.order] == 1

    def at(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(b, n) -> twice (b, 1 + n_distinct), from accepting nothing to accepting all; NaN without both classes."""
        ordered = weights[:, self.order]
        same, different = (
            np.pad(np.cumsum(np.where(chosen, ordered, 0.0), axis=1)[:, self.ends], ((0, 0), (1, 0)))
            for chosen in (self.is_same, ~self.is_same)
        )
        with np.errstate(invalid="ignore"):
            return different / different[:, -1:], 1 - same / same[:, -1:]


def _trials(labels: ArrayLike, scores: ArrayLike) -> tuple[IntArray, FloatArray]:
    y = checked_labels(labels, 2)
    s = np.asarray(scores, np.float64)
    if s.shape != y.shape or np.isnan(s).any():
        raise ValueError(f"scores must be {y.shape} without NaN, got {s.shape}")
    return y, s


def of_subjects(
    statistic: Statistic, first: ArrayLike, second: ArrayLike
) -> tuple[Statistic, NDArray[np.generic]]:
    """A statistic of trials as one of subjects, for ``subject_bootstrap``.

    A trial of subjects a and b counts w_a w_b times, one within a subject w_a times: each copy of a subject is
    one more who is compared with itself, and with no other copy of itself.

    Args:
        statistic: weights of trials (b, n_trials) -> (b,).
        first, second: (n_trials,).

    Returns:
        Weights of subjects (b, n_subjects) -> (b,), and the subjects (n_subjects,) in the order of their weights.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(
            f"first and second must be (n_trials,), as many of both, got {a.shape} and {b.shape}"
        )
    subjects, index = np.unique(np.concatenate([a, b]), return_inverse=True)
    i, j = index[: len(a)], index[len(a) :]
    is_same = i == j
    n_rows = max(1, RESAMPLED_VALUES // len(a))

    def of_weights(weights: FloatArray) -> FloatArray:
        values = []
        for start in range(0, len(weights), n_rows):
            rows = weights[start : start + n_rows]
            values.append(statistic(np.where(is_same, rows[:, i], rows[:, i] * rows[:, j])))
        return np.concatenate(values)

    return of_weights, subjects


@dataclass(frozen=True)
class Verified:
    """What a set of trials says of a system; intervals are over subjects."""

    n_same: int
    n_different: int
    n_subjects: int
    eer: Interval
    min_dcf: Interval


def evaluate(
    scores: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    cost: DetectionCost | None = None,
) -> Verified:
    """Equal error rate and least detection cost of trials, with intervals from drawing subjects.

    Args:
        scores: (n_trials,).
        first, second: (n_trials,); a trial is of one subject where they are equal.
        rng: source of chance.

    Raises:
        ValueError: all trials are of one kind, so that there is no error rate.
    """
    labels = np.asarray(np.asarray(first) == np.asarray(second), np.int64)
    check_both_kinds(labels)
    eer, subjects = of_subjects(equal_error_statistic(labels, scores), first, second)
    dcf, _ = of_subjects(min_dcf_statistic(labels, scores, cost=cost), first, second)
    return Verified(
        n_same=int(labels.sum()),
        n_different=int((1 - labels).sum()),
        n_subjects=len(subjects),
        eer=subject_bootstrap(eer, subjects, rng=rng, n_resamples=n_resamples),
        min_dcf=subject_bootstrap(dcf, subjects, rng=rng, n_resamples=n_resamples),
    )


def check_both_kinds(labels: ArrayLike) -> None:
    """Refuse trials of which no error rate can be told.

    Raises:
        ValueError: all are of one subject, or all of two; there are none.
    """
    y = checked_labels(labels, 2)
    if y.min() == y.max():
        kind = "of one subject each" if y[0] else "of two subjects"
        raise ValueError(f"all {len(y):,} trials are {kind}; an error rate needs trials of both kinds")


class DetectionBand(NamedTuple):
    """A DET curve with its interval at given false accepts."""

    false_accepts: FloatArray  # (n_points,)
    false_rejects: FloatArray  # (n_points,) least that can be had with at most so many false accepts
    low: FloatArray  # (n_points,)
    high: FloatArray  # (n_points,)


def detection_band(
    scores: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    rng: np.random.Generator,
    false_accepts: Sequence[float] = FALSE_ACCEPTS,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> DetectionBand:
    """The detection error trade-off with a pointwise interval over subjects.

    Args:
        scores, first, second, rng: as in ``evaluate``.
        false_accepts: (n_points,) in [0, 1], rising.
        level: coverage at each point by itself.

    Raises:
        ValueError: trials of one kind, or rates out of range.
    """
    grid = np.asarray(false_accepts, np.float64)
    if (
        grid.ndim != 1
        or not len(grid)
        or not (grid >= 0).all()
        or not (np.diff(np.append(grid, 1)) >= 0).all()
    ):
        raise ValueError("false_accepts must be rising shares in [0, 1]")
    labels = np.asarray(np.asarray(first) == np.asarray(second), np.int64)
    check_both_kinds(labels)
    curves = _Curves(labels, scores)
    draws: list[FloatArray] = []

    def rejects(weights: FloatArray) -> FloatArray:
        a, r = curves.at(weights)
        # The last point that accepts no more than that.
        at = [np.searchsorted(row, grid + 1e-12, side="right") - 1 for row in a]
        found = np.stack([row[i] for row, i in zip(r, at, strict=True)])
        # A draw of one subject alone has nobody to be taken for, and no rate of it.
        draws.append(np.where(np.isnan(a[:, :1]), np.nan, found))
        return draws[-1][:, 0]

    statistic, subjects = of_subjects(rejects, first, second)
    statistic(np.ones((1, len(subjects))))
    estimate = draws.pop()[0]
    drawn = rng.multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), size=n_resamples)
    statistic(drawn.astype(np.float64))
    low, high = np.nanquantile(np.concatenate(draws), ((1 - level) / 2, (1 + level) / 2), axis=0)
    return DetectionBand(grid, estimate, low, high)


def probe_ranks(scores: FloatArray, probe_subjects: ArrayLike, gallery_subjects: ArrayLike) -> IntArray:
    """At which rank each probe finds its own subject in a gallery; 1 is found first. (n_probes,)

    A subject's score is the highest of its sessions. Equal scores count against the probe: its own subject
    comes last among them.

    Args:
        scores: (n_probes, n_gallery).
        probe_subjects: (n_probes,), each of them in the gallery.
        gallery_subjects: (n_gallery,).

    Raises:
        ValueError: shapes do not fit, or a probe's subject is not in the gallery: this is identification among
            the known; a threshold on the score (``vagitus.store``) is for the unknown.

    Source: the cumulative match characteristic of ISO/IEC 19795-1, closed set.
    """
    subjects, column = np.unique(np.asarray(gallery_subjects), return_inverse=True)
    probes = np.asarray(probe_subjects)
    if scores.shape != (len(probes), len(column)) or not scores.size:
        raise ValueError(f"scores must be ({len(probes)}, {len(column)}), got {scores.shape}")
    strangers = probes[~np.isin(probes, subjects)]
    if len(strangers):
        raise ValueError(f"probe of {str(strangers[0])!r}, of whom the gallery holds nothing; leave it out")
    best = np.full((len(probes), len(subjects)), -np.inf)
    for i in range(len(column)):
        np.maximum(best[:, column[i]], scores[:, i], out=best[:, column[i]])
    own = best[np.arange(len(probes)), np.searchsorted(subjects, probes)]
    return np.asarray((best >= own[:, None]).sum(axis=1), np.int64)


def identification_rate(ranks: ArrayLike, k: int) -> float:
    """Share of probes that find their own subject among the first k."""
    r = np.asarray(ranks)
    if r.ndim != 1 or not len(r) or k < 1:
        raise ValueError(f"need ranks (n_probes,) and k >= 1, got {r.shape} and {k}")
    return float(np.mean(r <= k))


# Shuffled concatenations: the views of a session.


def concatenations(
    segments: Sequence[Float32], n_samples: int | None, n_views: int, rng: np.random.Generator
) -> list[Float32]:
    """Crops of the segments of one session, put end to end in random order, each time another.

    Args:
        segments: each (n_samples,), of one rate.
        n_samples: length of a crop; a session that is shorter is repeated, in ever new order. None takes it whole.
        n_views: how many.
        rng: source of chance.

    Returns:
        ``n_views`` arrays.
    """
    segments = [segment for segment in segments if len(segment)]
    if not segments or n_views < 1 or (n_samples is not None and n_samples < 1):
        raise ValueError(
            f"need segments with samples, n_views and n_samples >= 1, got {len(segments)}, {n_views}, {n_samples}"
        )
    crops = []
    for _ in range(n_views):
        joined = np.concatenate([segments[i] for i in rng.permutation(len(segments))])
        if n_samples is not None:
            parts, n_joined = [joined], len(joined)
            while n_joined < n_samples:
                parts += [segments[i] for i in rng.permutation(len(segments))]
                n_joined += sum(map(len, segments))
            joined = np.concatenate(parts)
            start = int(rng.integers(len(joined) - n_samples + 1))
            joined = joined[start : start + n_samples]
        crops.append(joined)
    return crops


def embed_session(
    encoder: Encoder,
    segments: Sequence[Float32],
    *,
    crop_s: float | None,
    n_views: int,
    rng: np.random.Generator,
) -> Float32:
    """The views of a session, (n_views, dim); a single segment that is taken whole has one view.

    Args:
        encoder: of ``open_voice``.
        segments: each (n_samples,) at the encoder's rate.
        crop_s: over 0 to ``MAX_CROP_S``, or None.
        n_views: see ``concatenations``.

    Raises:
        ValueError: ``crop_s`` out of range, or as ``concatenations`` and ``Encoder.embed``.
    """
    check_crop(crop_s)
    n_samples = None if crop_s is None else round(crop_s * encoder.sample_rate_hz)
    if n_samples is None and len(segments) == 1:
        n_views = 1
    # One at a time: all views of an hour at once would be gigabytes.
    return np.stack([encoder.embed(concatenations(segments, n_samples, 1, rng)[0]) for _ in range(n_views)])


def check_crop(crop_s: float | None) -> None:
    """Refuse a length of concatenations that is none.

    Raises:
        ValueError: not over 0 to ``MAX_CROP_S``.
    """
    if crop_s is not None and not 0 < crop_s <= MAX_CROP_S:
        raise ValueError(
            f"a crop must be over 0 to {MAX_CROP_S:g} s, got {crop_s:g}; leave it out to take all"
        )


# Encoders.


def open_voice(name: str, *, sample_rate_hz: int | None = None) -> Encoder:
    """Open what embeds a voice: KIND:FILE of ``vagitus.encoders``, or a model file of ours.

    Args:
        name: ``ge2e:FILE``, ``onnx:FILE``, ``panns:FILE``, or the path of a ``model.safetensors``.
        sample_rate_hz: as in ``open_encoder``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not what it says.
    """
    if name.endswith(".safetensors") and not name.startswith("panns:"):
        return _model_encoder(Path(name))
    return open_encoder(name, sample_rate_hz=sample_rate_hz)


def _model_encoder(path: Path) -> Encoder:
    """The features of a model file as an embedding: the mean over windows that overlap by half, each at length 1."""
    import torch

    from vagitus.checkpoint import load_model
    from vagitus.features import featurise

    model, card = load_model(path)
    config = card.features
    window_frames = max(round(card.window_s * config.frames_per_s), 1)

    def run(waveform: Float32) -> NDArray[Any]:
        features = featurise(waveform, config)
        starts = window_starts(features.shape[1], window_frames, max(window_frames // 2, 1))
        rows = []
        for first in range(0, len(starts), WINDOWS_AT_ONCE):
            some = starts[first : first + WINDOWS_AT_ONCE]
            x = np.stack([cut_window(features, int(start), window_frames) for start in some])
            with torch.inference_mode():
                rows.append(model.features(torch.from_numpy(x)).double().numpy())  # type: ignore[operator]
        return np.asarray(unit_rows(np.concatenate(rows)).mean(axis=0))

    return Encoder(
        identity=f"model-{MODEL_ENCODER_VERSION}-{content_hash(path)}",
        sample_rate_hz=config.sample_rate_hz,
        dim=int(model.feature_dim),  # type: ignore[arg-type]
        least_samples=config.window_samples,
        run=run,
    )
