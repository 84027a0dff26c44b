"""Cries in a long recording, told by a learned detector; and one decision for the whole recording, or none.

Conventions
    blocks      consecutive samples, as in ``vagitus.segment``; what is found does not depend on where they end
    window      the stretch that the detector hears at once; one begins every ``HOP_S``, the last ends on the
                recording's last frame, a recording shorter than a window is repeated until it fills it
    log-odds    ln(p / (1 - p)) of the positive class; of the detector, that a window holds crying
    recording   what is decided about: its windows' log-odds are pooled, calibrated and held against a threshold

``segment.cry_expirations`` finds what is loud and pitched, and takes a dog for a cry; the detector hears whether
it is one. Both work on the same stream, at the detector's rate. Memory is that of half a minute of sound, and
four bytes for each window heard, 58 kB an hour.

A score is of a model that was trained on subsets of public recordings. Research use only, not a diagnosis.
"""

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus import calibration
from vagitus.features import featurise
from vagitus.metrics import FloatArray
from vagitus.segment import INT16_SCALE, Event, cry_expirations
from vagitus.windows import cut_window

if TYPE_CHECKING:  # torch is for training installs; nothing but the detector needs it
    from torch import nn

    from vagitus.checkpoint import ModelCard

Float32 = NDArray[np.float32]

DETECTOR = "cry-detector"  # of the models that come with the package
CRY = "cry"  # its positive class
HOP_S = 0.25
CHUNK_WINDOWS = 40  # scored at once: 10 s of sound
MAX_EXPIRATION_S = 300.0  # a run of sound longer than this is judged by its last so many seconds
LEAST_CRY_S = 1.0  # of expirations; a recording with less says nothing of its infant


class Scores(NamedTuple):
    """Windows in order of time."""

    start_s: FloatArray  # (n_windows,)
    log_odds: FloatArray  # (n_windows,) calibrated
    features: Float32  # (n_windows, feature_dim) of the detector's network


class CryDetector:
    """A model of two classes, ``cry`` the positive one, that hears windows.

    Args:
        path: a model file; default the one that comes with the package.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model of ours, without the class ``cry``, or normalised by statistics of a whole
            recording, which a stream does not have.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        from vagitus.checkpoint import load_model, shipped

        path = shipped(DETECTOR) if path is None else Path(path)
        model, card = load_model(path)
        if card.positive != CRY or len(card.class_names) != 2:
            raise ValueError(
                f"{path}: tells {', '.join(card.class_names)} and not {CRY} from the rest; it is no cry detector"
            )
        if card.features.normalisation not in ("none", "keep_level"):
            raise ValueError(
                f"{path}: normalises by {card.features.normalisation} over a recording, which a stream does not "
                "have; train it with normalisation none"
            )
        self.path = path
        self.card: ModelCard = card
        self.threshold = 0.5 if card.threshold is None else card.threshold
        self.sample_rate_hz = card.features.sample_rate_hz
        self.hop_frames = max(round(HOP_S * card.features.frames_per_s), 1)
        self.window_frames = max(round(card.window_s * card.features.frames_per_s), 1)
        self.feature_dim = int(model.feature_dim)  # type: ignore[arg-type]
        self._model: nn.Module = model
        self._calibrator = (
            calibration.from_dict(card.calibration) if card.calibration else calibration.Identity()
        )

    @property
    def window_s(self) -> float:
        return self.window_frames / self.card.features.frames_per_s

    @property
    def hop_s(self) -> float:
        return self.hop_frames / self.card.features.frames_per_s

    def score(self, samples: NDArray[Any], sample_rate_hz: int) -> Scores:
        """All windows of a recording that is in memory; of a long one, use ``Hearing``.

        Args:
            samples: (n_samples,) float in [-1, 1] or int16.

        Raises:
            ValueError: samples of another shape or type, not finite, or shorter than a frame.
        """
        ear = Ear(self)
        parts = [
            part
            for mono in at_rate([samples], sample_rate_hz, self.sample_rate_hz)
            for part in ear.hear(mono)
        ]
        return _joined([*parts, *ear.finish()])

    def run(self, windows: Float32) -> tuple[FloatArray, Float32]:
        """(n, n_rows, window_frames) features -> calibrated log-odds (n,) and the network's features (n, dim)."""
        import torch

        with torch.inference_mode():
            hidden = self._model.features(torch.from_numpy(np.ascontiguousarray(windows)))  # type: ignore[operator]
            logits = self._model.head(hidden)  # type: ignore[operator]
        p = self._calibrator.apply(logits.double().numpy())
        return log_odds(p[:, self.card.class_names.index(CRY)]), hidden.float().numpy()


def _joined(parts: Sequence[Scores]) -> Scores:
    return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def at_rate(blocks: Iterable[NDArray[Any]], from_hz: int, to_hz: int) -> Iterator[Float32]:
    """The blocks as float32 at another, lower or equal rate; what the resampler still holds comes last.

    Raises:
        ValueError: at the call: the rate is too low; when a block is due: samples of another shape or type, or not
            finite.
    """
    if from_hz < to_hz:
        raise ValueError(
            f"sample_rate_hz {from_hz} does not hold what the detector listens to; record at {to_hz} Hz or more "
            "(resampling up brings nothing back)"
        )
    return _at_rate(blocks, from_hz, to_hz)


def _at_rate(blocks: Iterable[NDArray[Any]], from_hz: int, to_hz: int) -> Iterator[Float32]:
    import soxr

    resampler = None
    if from_hz != to_hz:
        resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
    for block in blocks:
        x = np.asarray(block)
        if x.ndim != 1 or x.dtype not in (np.float32, np.float64, np.int16):
            raise ValueError(
                f"samples must be (n_samples,) float or int16, got {x.shape} {x.dtype}; average the channels"
            )
        mono: Float32 = x.astype(np.float32) * (INT16_SCALE if x.dtype == np.int16 else np.float32(1))
        if not np.isfinite(mono).all():
            raise ValueError("samples hold NaN or infinity; repair the recording or leave it out")
        yield mono if resampler is None else resampler.resample_chunk(mono)
    if resampler is not None:
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


class Ear:
    """A detector on a stream at its own rate: samples in, scores of the windows that are complete out."""

    def __init__(self, detector: CryDetector) -> None:
        self._detector = detector
        config = detector.card.features
        self._hop = config.hop_samples
        # Frames whose own window reaches beyond the chunk are computed with the samples around it, then dropped.
        self._n_around = math.ceil(config.window_samples / 2 / self._hop) + 1
        # One hop of frames before the next window, since the recording's last window may begin there.
        self._n_before = self._n_around + detector.hop_frames
        self._held: Float32 = np.zeros(self._n_before * self._hop, np.float32)  # frame 0 sees zeros before it
        self._n_samples = 0
        self._first_frame = 0  # of the next window

    def hear(self, samples: Float32) -> list[Scores]:
        """The next samples, of any length; gives windows in chunks of ``CHUNK_WINDOWS``."""
        self._held = np.concatenate([self._held, samples])
        self._n_samples += len(samples)
        detector = self._detector
        n_frames = (CHUNK_WINDOWS - 1) * detector.hop_frames + detector.window_frames
        n_wanted = (self._n_before + n_frames + self._n_around) * self._hop
        found = []
        while len(self._held) >= n_wanted:
            rows = self._rows(self._held[:n_wanted], n_frames)
            found.append(self._scored(rows, np.arange(CHUNK_WINDOWS) * detector.hop_frames))
            self._first_frame += CHUNK_WINDOWS * detector.hop_frames
            self._held = self._held[CHUNK_WINDOWS * detector.hop_frames * self._hop :]
        return found

    def finish(self) -> list[Scores]:
        """The windows up to the end.

        Raises:
            ValueError: all that was heard is shorter than a frame.
        """
        detector, config = self._detector, self._detector.card.features
        if self._n_samples < config.window_samples:
            raise ValueError(
                f"{self._n_samples} samples are shorter than one frame of {config.window_samples}; leave the "
                "recording out"
            )
        n_left = (
            config.n_frames(self._n_samples) - self._first_frame
        )  # frames from the next window's first on
        rows = self._rows(np.pad(self._held, (0, (self._n_around + 1) * self._hop)), n_left)
        last = n_left - detector.window_frames
        if self._first_frame == 0 and last < 0:
            return [self._scored(rows[:, detector.hop_frames :], np.zeros(1, np.int64), shift=0)]
        starts = np.arange(0, last + 1, detector.hop_frames)
        reached = int(starts[-1]) if len(starts) else -detector.hop_frames
        if reached < last:
            starts = np.append(starts, last)
        return [self._scored(rows, starts)] if len(starts) else []

    def _rows(self, samples: Float32, n_frames: int) -> Float32:
        """(n_rows, hop_frames + n_frames), from one hop before the next window on."""
        rows = featurise(samples, self._detector.card.features)
        return rows[:, self._n_around : self._n_before + n_frames]

    def _scored(self, rows: Float32, starts: NDArray[np.int64], shift: int | None = None) -> Scores:
        first = self._detector.hop_frames if shift is None else shift
        windows = [cut_window(rows, first + int(start), self._detector.window_frames) for start in starts]
        log_odds, features = self._detector.run(np.stack(windows))
        return Scores(
            (self._first_frame + starts) / self._detector.card.features.frames_per_s, log_odds, features
        )


@dataclass(frozen=True)
class Summary:
    """What was heard of a whole recording.

    Attributes:
        duration_s: of the recording.
        cry_s: of the expirations that the detector confirmed.
        n_expirations: how many they are.
        log_odds: (n_windows,) that a window holds crying.
        features: (feature_dim,) the detector's, averaged over windows by their probability of crying.
    """

    duration_s: float
    cry_s: float
    n_expirations: int
    log_odds: FloatArray
    features: FloatArray


class Hearing:
    """One pass over a recording: expirations as they are found, and at its end a summary.

    Args:
        detector: the model.
        sample_rate_hz: of the recording.
        threshold: least probability of crying, averaged over an expiration's windows; default the detector's.
    """

    def __init__(self, detector: CryDetector, sample_rate_hz: int, *, threshold: float | None = None) -> None:
        self.detector = detector
        self.threshold = detector.threshold if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a probability, 0 to 1, got {threshold!r}")
        self.sample_rate_hz = sample_rate_hz
        self._ear = Ear(detector)
        self._log_odds: list[Float32] = []
        self._recent: list[
            tuple[float, float]
        ] = []  # start and probability of windows that events may still ask for
        self._weighted = np.zeros(detector.feature_dim)
        self._weight = 0.0
        self._n_samples = 0
        self._cry_s = 0.0
        self._n_expirations = 0

    def events(self, blocks: Iterable[NDArray[Any]]) -> Iterator[Event]:
        """Expirations of crying in order of time, some 12 s after they sound; the score is the probability of crying.

        What ``segment.cry_expirations`` finds, where the windows that overlap it are crying on average.

        Args:
            blocks: see ``vagitus.segment``.

        Raises:
            ValueError: bad samples.
        """
        waiting: deque[Event] = deque()  # for the windows over them to be scored
        for event in cry_expirations(self._heard(blocks), self.detector.sample_rate_hz):
            waiting.append(event)
            while waiting and self._recent and self._recent[-1][0] >= waiting[0].end_s:
                yield from self._confirmed(waiting.popleft())
        for event in waiting:
            yield from self._confirmed(event)

    def summary(self) -> Summary:
        """Of all that ``events`` has given."""
        weight = self._weight or 1.0
        return Summary(
            duration_s=self._n_samples / self.detector.sample_rate_hz,
            cry_s=self._cry_s,
            n_expirations=self._n_expirations,
            log_odds=np.concatenate(self._log_odds).astype(np.float64) if self._log_odds else np.empty(0),
            features=self._weighted / weight,
        )

    def _heard(self, blocks: Iterable[NDArray[Any]]) -> Iterator[Float32]:
        """The blocks at the detector's rate, each passed on when the detector has had it."""
        for mono in at_rate(blocks, self.sample_rate_hz, self.detector.sample_rate_hz):
            self._n_samples += len(mono)
            self._note(self._ear.hear(mono))
            yield mono
        self._note(self._ear.finish())

    def _note(self, found: Iterable[Scores]) -> None:
        for scores in found:
            p = probability(scores.log_odds)
            self._log_odds.append(scores.log_odds.astype(np.float32))
            self._weighted += p @ scores.features
            self._weight += float(p.sum())
            self._recent += zip(scores.start_s.tolist(), p.tolist(), strict=True)
            oldest_s = self._recent[-1][0] - MAX_EXPIRATION_S
            self._recent = [window for window in self._recent if window[0] >= oldest_s]

    def _confirmed(self, event: Event) -> Iterator[Event]:
        score = self._probability(event)
        if score >= self.threshold:
            self._cry_s += event.end_s - event.start_s
            self._n_expirations += 1
            yield event._replace(score=score)

    def _probability(self, event: Event) -> float:
        """Mean over the windows of which a half or more of the shorter of the two lies within the other."""
        window_s = self.detector.window_s
        least_s = min(window_s, event.end_s - event.start_s) / 2
        inside = [
            p
            for start_s, p in self._recent
            if min(start_s + window_s, event.end_s) - max(start_s, event.start_s) >= least_s
        ]
        return float(np.mean(inside)) if inside else 0.0


def find_cries(
    blocks: Iterable[NDArray[Any]],
    sample_rate_hz: int,
    detector: CryDetector,
    *,
    threshold: float | None = None,
) -> Iterator[Event]:
    """``Hearing.events`` for whoever needs no summary."""
    return Hearing(detector, sample_rate_hz, threshold=threshold).events(blocks)


# From windows to the recording.


def log_odds(probabilities: ArrayLike) -> FloatArray:
    """ln(p / (1 - p)), with p kept 1e-7 away from 0 and 1, so that single precision has a number for it."""
    p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p) - np.log1p(-p))


def probability(log_odds: ArrayLike) -> FloatArray:
    """1 / (1 + exp(-z))."""
    z = np.asarray(log_odds, np.float64)
    return np.asarray(np.exp(-np.logaddexp(0.0, -z)))


def _mean(z: FloatArray, attention: FloatArray) -> float:
    return float(log_odds(probability(z).mean()))


def _max(z: FloatArray, attention: FloatArray) -> float:
    return float(z.max())


def _attention(z: FloatArray, attention: FloatArray) -> float:
    weight = np.exp(attention - attention.max())
    return float(log_odds(probability(z) @ weight / weight.sum()))


def _noisy_or(z: FloatArray, attention: FloatArray) -> float:
    # ln prod(1 - p) = -sum softplus(z), and the odds of the rest are exp(that sum) - 1.
    total = max(float(np.logaddexp(0.0, z).sum()), sys.float_info.min)  # a float's least is not no odds
    return total + math.log(-math.expm1(-total))


POOLINGS: dict[str, Callable[[FloatArray, FloatArray], float]] = {
    "mean": _mean,
    "max": _max,
    "attention": _attention,
    "noisy_or": _noisy_or,
}


def pool(log_odds: ArrayLike, how: str, *, attention: ArrayLike | None = None) -> float:
    """Log-odds of a recording from those of its windows or events, of probabilities p_i.

        mean        1/n sum p_i
        max         max p_i
        attention   sum a_i p_i,  a = softmax(attention)
        noisy_or    1 - prod (1 - p_i): one is enough, and with the number of windows it comes nearer to 1

    Args:
        log_odds: (n,), at least one, finite.
        how: a name in ``POOLINGS``.
        attention: (n,) how far each is to be listened to, in log-odds; such as those that it holds crying, when what
            is pooled is a classifier of cries. Needed for attention, unused otherwise.

    Raises:
        ValueError: nothing to pool, an unknown way, attention missing or of another length.

    Source: Ilse et al. 2018, arXiv:1802.04712, on attention; Pearl 1988 on noisy-or.
    """
    z = np.asarray(log_odds, np.float64)
    if how not in POOLINGS:
        raise ValueError(f"no pooling {how!r}; choose from {', '.join(POOLINGS)}")
    if z.ndim != 1 or not len(z) or not np.isfinite(z).all():
        raise ValueError(f"need log-odds (n,), finite, n at least 1, got {z.shape}")
    if how == "attention" and attention is None:
        raise ValueError(
            "attention pooling needs to know what to listen to; give attention, or pool by the mean"
        )
    a = np.zeros(len(z)) if attention is None else np.asarray(attention, np.float64)
    if a.shape != z.shape or not np.isfinite(a).all():
        raise ValueError(f"attention must be {z.shape} and finite, got {a.shape}")
    return POOLINGS[how](z, a)


@dataclass(frozen=True)
class Familiarity:
    """How far a recording's features lie from those that a model has seen; of ``fit_familiarity``.

    Attributes:
        mean: (dim,).
        whitening: (dim, dim) under which what was seen varies by one in each direction.
        limit: the distance beyond which a recording is unlike them.
    """

    mean: tuple[float, ...]
    whitening: tuple[tuple[float, ...], ...]
    limit: float

    def distance(self, features: ArrayLike) -> float:
        """Mahalanobis distance, per dimension: sqrt((x - mean)' C^-1 (x - mean) / dim)."""
        x = np.asarray(features, np.float64)
        if x.shape != (len(self.mean),) or not np.isfinite(x).all():
            raise ValueError(f"features must be ({len(self.mean)},) and finite, got {x.shape}")
        return float(np.sqrt(np.mean(np.square((x - self.mean) @ np.array(self.whitening)))))


def fit_familiarity(
    features: ArrayLike, subjects: ArrayLike, *, share: float = 0.99, shrinkage: float = 0.1, n_folds: int = 5
) -> Familiarity:
    """What a model has seen, as a normal distribution, and the distance that few of its own kind exceed.

    The limit is the ``share`` quantile of the distances of recordings of each fold of subjects from the
    distribution of the others: of the recordings that made it, all would look near.

    Args:
        features: (n, dim), one row for each recording.
        subjects: (n,), at least ``n_folds`` of them.
        share: of recordings like these that are to be let through, in (0, 1).
        shrinkage: a of (1 - a) C + a tr(C) / dim I, over 0 to 1.

    Raises:
        ValueError: too few subjects, or an argument out of range.

    Source: Lee et al. 2018, arXiv:1807.03888, with one class and a limit from held-out subjects.
    """
    x = np.asarray(features, np.float64)
    subject = np.unique(np.asarray(subjects), return_inverse=True)[1]
    if x.ndim != 2 or len(x) != len(subject) or not np.isfinite(x).all():
        raise ValueError(
            f"features must be (n, dim) and finite, a subject each, got {x.shape}, {len(subject)}"
        )
    if not (0 < share < 1 and 0 < shrinkage <= 1) or not 2 <= n_folds <= subject.max(initial=-1) + 1:
        raise ValueError(
            f"need share in (0, 1), shrinkage over 0 to 1, and {n_folds} subjects or more, got {share}, {shrinkage}, "
            f"{subject.max(initial=-1) + 1}"
        )
    distances = np.empty(len(x))
    for fold in range(n_folds):
        own = subject % n_folds == fold
        other = Familiarity(*_normal(x[~own], shrinkage), limit=math.inf)
        distances[own] = [other.distance(row) for row in x[own]]
    return Familiarity(*_normal(x, shrinkage), limit=float(np.quantile(distances, share)))


def _normal(x: FloatArray, shrinkage: float) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    mean = x.mean(axis=0)
    covariance = np.atleast_2d(np.cov(x, rowvar=False, bias=True))
    dim = x.shape[1]
    # Where nothing varies any difference is infinite; a floor keeps the inverse.
    scale = max(float(np.trace(covariance)) / dim, 1e-12)
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * scale * np.eye(dim))
    whitening = vectors / np.sqrt(values)
    return tuple(mean.tolist()), tuple(tuple(row) for row in whitening.tolist())


@dataclass(frozen=True)
class Verdict:
    """What is decided about a recording, or why nothing is.

    Attributes:
        score: calibrated probability of the positive class; NaN if it abstains.
        decision: a class name; "" if it abstains.
        reason: why it abstains; "" if it does not.
        distance: from what was seen, in units of the limit: above 1 is unlike it. NaN where it is not measured.
    """

    score: float
    decision: str
    reason: str = ""
    distance: float = math.nan


@dataclass(frozen=True)
class Decider:
    """From the windows of a recording to a verdict.

    Attributes:
        class_names: the negative and the positive class.
        pooling: a name in ``POOLINGS``.
        calibrator: of pooled log-odds, fitted on recordings that the windows' model did not see.
        threshold: on the calibrated probability of the positive class.
        least_cry_s: a recording with less crying is not decided on.
        familiarity: where a recording outside its limit is not decided on; None to take all.
    """

    class_names: tuple[str, str]
    pooling: str
    calibrator: calibration.Calibrator
    threshold: float
    least_cry_s: float = LEAST_CRY_S
    familiarity: Familiarity | None = None

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"no pooling {self.pooling!r}; choose from {', '.join(POOLINGS)}")
        if len(self.class_names) != 2 or not 0 <= self.threshold <= 1 or not self.least_cry_s >= 0:
            raise ValueError(
                f"need 2 classes, a threshold in [0, 1] and least_cry_s >= 0, got {self.class_names}, "
                f"{self.threshold!r}, {self.least_cry_s!r}"
            )

    def decide(
        self,
        log_odds: ArrayLike,
        *,
        cry_s: float,
        attention: ArrayLike | None = None,
        features: ArrayLike | None = None,
    ) -> Verdict:
        """The verdict on one recording.

        Args:
            log_odds: (n,) of its windows or events, for the positive class; may be empty, and then it abstains.
            cry_s: how much crying the recording holds.
            attention: see ``pool``.
            features: (dim,) to be held against ``familiarity``.

        Raises:
            ValueError: as ``pool``; features are missing where familiarity is to be judged.
        """
        z = np.asarray(log_odds, np.float64)
        if not len(z) or cry_s < self.least_cry_s:
            found = (
                f"{cry_s:.1f} s of crying, {self.least_cry_s:g} s are needed" if cry_s else "no cry was found"
            )
            return Verdict(math.nan, "", f"too little to hear: {found}; record again")
        distance = math.nan
        if self.familiarity is not None:
            if features is None:
                raise ValueError("familiarity is judged by features; give them, or make a decider without it")
            distance = self.familiarity.distance(features) / self.familiarity.limit
            if distance > 1:
                said = f"unlike what the model has seen: {distance:.2f} of the distance that is allowed"
                return Verdict(math.nan, "", said, distance)
        pooled = pool(z, self.pooling, attention=attention)
        score = float(self.calibrator.apply([[0.0, pooled]])[0, 1])
        return Verdict(score, self.class_names[int(score >= self.threshold)], distance=distance)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``decider_from_dict`` reads it."""
        familiarity = None if self.familiarity is None else asdict(self.familiarity)
        return {
            "class_names": list(self.class_names),
            "pooling": self.pooling,
            "calibrator": self.calibrator.to_dict(),
            "threshold": self.threshold,
            "least_cry_s": self.least_cry_s,
            "familiarity": familiarity,
        }


def decider_from_dict(values: Mapping[str, Any]) -> Decider:
    """The decider that a ``to_dict`` describes.

    Raises:
        ValueError: a field is missing, unknown or out of range.
    """
    try:
        given = dict(values)
        familiar = given.pop("familiarity")
        if familiar is not None:
            rows = tuple(tuple(float(x) for x in row) for row in familiar["whitening"])
            familiar = Familiarity(tuple(familiar["mean"]), rows, float(familiar["limit"]))
        return Decider(
            class_names=tuple(given.pop("class_names")),
            calibrator=calibration.from_dict(given.pop("calibrator")),
            familiarity=familiar,
            **given,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no decider of the fields {sorted(values)}: {error}") from error


def fit_decider(
    pooled: ArrayLike,
    labels: ArrayLike,
    *,
    class_names: tuple[str, str],
    pooling: str,
    rule: str = "max_uar",
    least_cry_s: float = LEAST_CRY_S,
    familiarity: Familiarity | None = None,
) -> Decider:
    """Calibrate pooled scores of recordings and choose the threshold on them.

    Args:
        pooled: (n,) of ``pool``, of recordings that the windows' model did not see.
        labels: (n,) 0 or 1.
        rule: of ``calibration.choose_threshold``.

    Raises:
        ValueError: as ``calibration.fit_logistic`` and ``choose_threshold``.
    """
    z = np.asarray(pooled, np.float64)
    logits = np.stack([np.zeros_like(z), z], axis=1)
    calibrator = calibration.fit_logistic(labels, logits)
    threshold = calibration.choose_threshold(labels, calibrator.apply(logits)[:, 1], rule)
    return Decider(class_names, pooling, calibrator, float(threshold.value), least_cry_s, familiarity)
