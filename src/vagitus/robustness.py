"""How a model's metric falls as recordings get worse: noise, length, bands, codec, room, level.

Conventions
    condition  one thing that happens to a recording: a kind of KINDS, a name within it, a level
    clean      the recording as it is
    recording  decoded and perturbed at one rate, the highest that any model hears, and resampled from there to
               the others: the models hear the same sound. Clean recordings are decoded at each model's own
               rate, so that clean scores are the model's plain scores.
    chance     (noise clip, where it begins, noise drawn, room, which stretch is kept) comes from the seed,
               the recording's path and stretch in the manifest, the kind and the name; not from the level, the
               model or the order: all models hear the same, and along a curve only the level changes
    logits     (n_conditions, n_recordings, n_classes)

Calibration and threshold stay the models' own: nothing is fitted on perturbed recordings. Which recordings a
model was trained on is not known here: the caller answers for scoring others.

Noise is mixed at an SNR of mean powers over the recording. The thesis (arXiv:1906.10199) scaled amplitudes
instead, and its frequency ablation set a cepstral coefficient to zero; here mel bands are removed before the
DCT, so that a band is gone from every coefficient.
"""

import difflib
import hashlib
import math
import multiprocessing
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vagitus import augment, calibration
from vagitus.audio import AudioError, read, resample
from vagitus.corpora.esc import CRY_CLASSES
from vagitus.features import FeatureConfig, featurise, mel_filterbank, normalise
from vagitus.manifest import Manifest
from vagitus.metrics import Statistic, statistic
from vagitus.scale import Quarantined, spread
from vagitus.statistics import (
    N_RESAMPLES,
    Comparison,
    Interval,
    holm,
    paired_bootstrap,
    subject_bootstrap,
)

if TYPE_CHECKING:
    from torch import nn

    from vagitus.checkpoint import ModelCard

Float32 = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BySeed = Sequence[Statistic]  # one metric of one model, each statistic of another training

GAUSSIAN = "gaussian"
MEAN_CLASS = "mean over classes"  # of noise; no class can be called that
CRIES = CRY_CLASSES | {"cry"}  # no noise: they would be what the model is to hear

# Bands removed together, by how wide the stretch of frequencies is.
WIDTHS_OCTAVES = {"octave": 1.0, "half_octave": 0.5, "third_octave": 1 / 3}


class Change(NamedTuple):
    """What a perturbation may know besides the recording."""

    name: str
    level: float
    sample_rate_hz: int
    rng: np.random.Generator
    noise: Float32 | None  # the clip that was drawn, for noise of a class


@dataclass(frozen=True)
class Kind:
    """A row of KINDS. ``perturb`` is None where it is the features that change, or nothing."""

    title: str
    unit: str  # of the level
    low: float  # lowest level
    high: float
    names: tuple[str, ...]  # empty: any, as the noise pool has them
    perturb: Callable[[Float32, Change], Float32] | None


def _noise(x: Float32, change: Change) -> Float32:
    if change.noise is None:
        return augment.gaussian_noise(x, change.level, change.rng)
    offset = augment.noise_offset(change.noise, len(x), change.rng)
    return augment.mix_at_snr(x, change.noise, change.level, offset_samples=offset)


def _length(x: Float32, change: Change) -> Float32:
    return augment.keep_share(x, change.level / 100, position=change.rng.random())


def _codec(x: Float32, change: Change) -> Float32:
    return augment.codec(x, change.sample_rate_hz, change.name, change.level)


def _low_pass(x: Float32, change: Change) -> Float32:
    return augment.band_limit(x, 0, change.level, change.sample_rate_hz)


def _high_pass(x: Float32, change: Change) -> Float32:
    return augment.band_limit(x, change.level, change.sample_rate_hz / 2, change.sample_rate_hz)


def _reverberation(x: Float32, change: Change) -> Float32:
    return augment.reverberate(x, change.level, change.sample_rate_hz, change.rng)


def _gain(x: Float32, change: Change) -> Float32:
    # Without the recorder's 16 bits a front end that removes the mean would not notice.
    return augment.store_16_bits(augment.gain(x, change.level))


def _clipping(x: Float32, change: Change) -> Float32:
    return augment.clip_at(x, change.level)


KINDS: dict[str, Kind] = {
    "clean": Kind("as recorded", "", 0, 0, ("",), None),
    "noise": Kind("noise added", "dB SNR", -40, 80, (), _noise),
    "length": Kind("one stretch kept", "% of the recording", 0.1, 100, ("",), _length),
    "bands": Kind("mel bands removed", "Hz, lower edge", 1, 384_000, tuple(WIDTHS_OCTAVES), None),
    "codec": Kind("through a codec", "kbit/s", 1, 1000, tuple(augment.CODECS), _codec),
    "low_pass": Kind("highs removed", "Hz, upper edge", 1, 384_000, ("",), _low_pass),
    "high_pass": Kind("lows removed", "Hz, lower edge", 1, 384_000, ("",), _high_pass),
    "reverberation": Kind("in a room", "s to decay by 60 dB", 0.01, 20, ("",), _reverberation),
    "gain": Kind("recorded in 16 bits at another level", "dB", -90, 90, ("",), _gain),
    "clipping": Kind("clipped", "dB re the recording's peak", -90, 0, ("",), _clipping),
}


@dataclass(frozen=True)
class Condition:
    """One thing that happens to every recording.

    Attributes:
        kind: a row of KINDS.
        name: which one: "gaussian" or a class of the noise pool; a codec; for bands, how wide a stretch of
            frequencies goes; else "".
        level: how much, in the kind's unit; 0 for clean.

    Raises:
        ValueError: no such kind or name, or a level out of range; with what there is.
    """

    kind: str
    name: str = ""
    level: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(_unknown("condition", self.kind, KINDS))
        kind = KINDS[self.kind]
        if kind.names and self.name not in kind.names:
            if kind.names == ("",):
                raise ValueError(f"{self.kind} takes no name, got {self.name!r}; leave it out")
            raise ValueError(_unknown(self.kind, self.name, kind.names))
        if not self.name and not kind.names:
            raise ValueError(f"{self.kind} needs a name: {GAUSSIAN!r} or a class of the noise pool")
        if self.name == MEAN_CLASS:
            raise ValueError(f"{self.kind}: {MEAN_CLASS!r} is what curves calls a mean; rename the class")
        if not kind.low <= self.level <= kind.high:  # NaN too
            raise ValueError(
                f"{self.kind}: level must lie in {kind.low:g} to {kind.high:g} {kind.unit}".rstrip()
                + f", got {self.level!r}"
            )
        if self.kind == "codec" and self.level not in (known := augment.CODECS[self.name].kbps):
            raise ValueError(
                f"{self.name} has no {self.level:g} kbit/s; choose from {', '.join(f'{k:g}' for k in known)}"
            )

    def __str__(self) -> str:
        parts = (self.kind, self.name, f"{self.level:g} {KINDS[self.kind].unit}" if self != CLEAN else "")
        return " ".join(part for part in parts if part)


CLEAN = Condition("clean")

SNRS_DB = (-5, 0, 5, 10, 20, 30)

# What is tried if nobody says otherwise, beside every class of the noise pool at SNRS_DB.
SWEEPS: dict[tuple[str, str], tuple[float, ...]] = {
    ("noise", GAUSSIAN): SNRS_DB,
    ("length", ""): (10, 20, 40, 60, 80, 100),
    # From 62.5 Hz to 8 kHz in steps as wide as what is removed: 1 to 6 of 40 bands at a time.
    ("bands", "half_octave"): (62.5, 88, 125, 177, 250, 354, 500, 707, 1000, 1414, 2000, 2828, 4000, 5657),
    ("codec", "mu_law"): (64,),
    ("codec", "amr_nb"): (4.75, 7.95, 12.2),
    ("codec", "opus"): (6, 12, 24),
    ("codec", "mp3"): (8, 16, 32),
    ("low_pass", ""): (250, 500, 1000, 2000, 3000),
    ("high_pass", ""): (125, 250, 500, 1000, 2000),
    ("reverberation", ""): (0.2, 0.5, 1, 2),
    ("gain", ""): (-60, -40, -20, 0, 20, 40),
    ("clipping", ""): (-40, -30, -20, -10, 0),
}


def default_conditions(
    front_ends: Iterable[FeatureConfig], noise_classes: Collection[str] = ()
) -> tuple[Condition, ...]:
    """Clean, SWEEPS, and each class of noise at SNRS_DB.

    Left out: bands that none of the front ends hears, and edges of filters at or above half the highest
    sample rate, where there is nothing to remove.

    Args:
        front_ends: of the models to compare.
        noise_classes: such as the keys of a ``noise_pool``.

    Raises:
        ValueError: no front end.
    """
    heard = list(front_ends)
    if not heard:
        raise ValueError("no front end; give the FeatureConfig of each model")
    nyquist_hz = max(config.sample_rate_hz for config in heard) / 2
    rows = SWEEPS | {("noise", name): SNRS_DB for name in noise_classes}
    conditions = [Condition(kind, name, level) for (kind, name), levels in rows.items() for level in levels]

    def applies(condition: Condition) -> bool:
        if condition.kind == "bands":
            return any(removed_bands(config, condition).any() for config in heard)
        return condition.kind not in ("low_pass", "high_pass") or condition.level < nyquist_hz

    return (CLEAN, *filter(applies, conditions))


def noise_pool(manifest: Manifest, exclude: Collection[str] = CRIES) -> dict[str, list[Path]]:
    """Clips of noise by class, such as those of ``load_corpus("esc")``.

    Args:
        manifest: its labels are the classes; rows without one are passed over.
        exclude: classes that are no noise, letter case and underscores aside. Default: cries.

    Returns:
        class -> paths, both sorted.

    Raises:
        ValueError: no clip is left (says where it looked and what to do), or a row is a stretch of a file.
    """
    unwanted = {_plain(name) for name in exclude}
    pool: dict[str, list[Path]] = {}
    for i in range(len(manifest)):
        name = str(manifest.label[i])
        if not name or _plain(name) in unwanted:
            continue
        if manifest.stretch(i) != (0.0, None):
            raise ValueError(
                f"{manifest.where(i)}: a clip of noise must be a whole file; cut the stretch out"
            )
        pool.setdefault(name, []).append(manifest.file(i))
    if not pool:
        raise ValueError(
            f"{manifest.source}: no noise among its {len(manifest)} recordings in {manifest.root} (excluded: "
            f"{', '.join(sorted(unwanted)) or 'nothing'}); get ESC-50 with `vagitus corpus fetch esc` and use "
            "load_corpus('esc')"
        )
    return {name: sorted(pool[name]) for name in sorted(pool)}


# Features: bands removed before the DCT.


def removed_bands(config: FeatureConfig, condition: Condition) -> npt.NDArray[np.bool_]:
    """The bands whose centre of gravity lies in [level, level * 2^width), width in octaves: (n_bands,).

    Raises:
        ValueError: the condition is not of kind "bands".
    """
    if condition.kind != "bands":
        raise ValueError(f"{condition} removes no bands; give one of kind 'bands'")
    bank = mel_filterbank(config).astype(np.float64)
    f_hz = np.arange(bank.shape[1]) * config.sample_rate_hz / config.n_fft
    centre_hz = bank @ f_hz / bank.sum(axis=1)
    end_hz = condition.level * 2 ** WIDTHS_OCTAVES[condition.name]
    return np.asarray((centre_hz >= condition.level) & (centre_hz < end_hz))


def from_logmel(logmel: Float32, config: FeatureConfig) -> Float32:
    """What ``featurise`` makes of log-mel: the DCT where ``config`` is of MFCC, then its normalisation.

    Args:
        logmel: (n_bands, n_frames), not normalised.
        config: the definition.

    Returns:
        (n_rows, n_frames), a new array.

    Raises:
        ValueError: ``logmel`` has another number of bands than ``config``.
    """
    if logmel.ndim != 2 or len(logmel) != config.n_bands:
        raise ValueError(f"logmel must be ({config.n_bands}, n_frames), got {logmel.shape}")
    y = logmel.copy()
    if config.kind == "mfcc":
        from scipy import fft

        y = fft.dct(y, type=2, norm="ortho", axis=0)[: config.n_rows]
    normalise(y, config)
    return y


def featurise_without(
    waveform: npt.NDArray[Any], config: FeatureConfig, removed: npt.NDArray[np.bool_]
) -> Float32:
    """Features of a recording of which some mel bands are unknown.

    A removed band takes, in every frame, the mean over the kept bands and frames of the recording's log-mel:
    nothing of the band is left, and the hole has no level of its own. The floor would be 100 dB below
    everything heard in training; zero is an arbitrary level. MFCC are the DCT of that.

    Args:
        waveform: (n_samples,) at ``config.sample_rate_hz``.
        config: the definition.
        removed: (n_bands,) bool, not all.

    Returns:
        (n_rows, n_frames); ``featurise``'s where nothing is removed.

    Raises:
        ValueError: no band would be left, or as ``featurise``.
    """
    if removed.shape != (config.n_bands,) or removed.all():
        raise ValueError(
            f"removed must be ({config.n_bands},) and leave a band, got {removed.shape} with {removed.sum()} "
            "removed"
        )
    if not removed.any():
        return featurise(waveform, config)
    logmel = featurise(waveform, config.vary(kind="logmel", n_mfcc=None, normalisation="none"))
    logmel[removed] = logmel[~removed].mean(dtype=np.float64)
    return from_logmel(logmel, config)


def featurise_under(condition: Condition, waveform: npt.NDArray[Any], config: FeatureConfig) -> Float32:
    """``featurise`` of a waveform that was perturbed, without the bands where it is they that are removed.

    Args:
        condition: what ``waveform`` bears, or, of kind "bands", is to bear.
        waveform: (n_samples,) at ``config.sample_rate_hz``.
        config: the definition.

    Returns:
        (n_rows, n_frames).

    Raises:
        ValueError: as ``featurise`` and ``featurise_without``.
    """
    if condition.kind != "bands":
        return featurise(waveform, config)
    return featurise_without(waveform, config, removed_bands(config, condition))


# The sweep.


@dataclass(frozen=True, eq=False)
class Scorer:
    """What a sweep asks of a model; ``torch_scorer`` makes one of a network.

    Attributes:
        features: its front end.
        class_names: in the order of the logits.
        score: features (n_rows, n_frames) of a recording -> its logits (n_classes,). For several
            processes it must be picklable: a function of a module's top level, or a partial of one.
        calibration: what ``vagitus.calibration`` wrote, {} for none.
        threshold: binary decision threshold on the calibrated probability. None decides for the highest
            logit.
    """

    features: FeatureConfig
    class_names: tuple[str, ...]
    score: Callable[[Float32], npt.ArrayLike]
    calibration: Mapping[str, Any] = field(default_factory=dict)
    threshold: float | None = None


def torch_scorer(model: "nn.Module", card: "ModelCard") -> Scorer:
    """A network, scored as ``score_recordings`` does, on the device where it is.

    Mean logits over windows of ``card.window_s`` that overlap by half; a recording shorter than a window
    is repeated until it fills one. A recording's windows are one batch: on CPUs larger batches of several
    recordings were half as fast (res8, 40 x 300), with the same numbers.
    """
    window_frames = round(card.window_s * card.features.frames_per_s)
    score = partial(_score_network, model, window_frames)
    return Scorer(card.features, tuple(card.class_names), score, card.calibration, card.threshold)


def _score_network(model: "nn.Module", window_frames: int, features: Float32) -> Float32:
    from vagitus.training import score_recordings

    logits: Float32 = score_recordings(model, [features], window_frames=window_frames)[0]
    return logits


@dataclass(frozen=True, eq=False)
class Sweep:
    """What every model says of every recording under every condition.

    Attributes:
        conditions: n_conditions of them.
        rows: (n_recordings,) of the manifest, rising; those that were scored under every condition.
        class_names: in the order of the logits.
        logits: by model, (n_conditions, n_recordings, n_classes).
        probabilities: by model, calibrated as the model is on clean recordings, same shape.
        decisions: by model, (n_conditions, n_recordings) int64 class.
        excluded: by row of the manifest, why it was left out.
    """

    conditions: tuple[Condition, ...]
    rows: IntArray
    class_names: tuple[str, ...]
    logits: dict[str, FloatArray]
    probabilities: dict[str, FloatArray]
    decisions: dict[str, IntArray]
    excluded: dict[int, str]


def sweep(
    models: "Mapping[str, Scorer | tuple[nn.Module, ModelCard]]",
    manifest: Manifest,
    conditions: Sequence[Condition],
    *,
    rows: npt.ArrayLike | None = None,
    noises: Mapping[str, Sequence[Path]] | None = None,
    seed: int = 0,
    n_workers: int = 1,
    on_recording: Callable[[int], None] = lambda n_done: None,
) -> Sweep:
    """Score every model on every recording under every condition.

    Recordings are decoded once for each rate that the models need, each condition is featurised once for
    each front end, and all models of that front end score the same features. One recording's features under
    one condition are held at a time: memory does not grow with the recordings, but for the scores.

    A recording that cannot be read, that is silent where noise is to be added, or of which a condition
    leaves less than one analysis window (10 % of .2 s) is left out under *all* conditions, so that every
    point of a curve is made of the same recordings; ``Sweep.excluded`` has the reasons. What fills an analysis
    window but not a scoring window is repeated, as in any scoring.

    Args:
        models: by name; a Scorer, or a network with its card. All have the same classes.
        manifest: labels and subjects are not looked at.
        conditions: each once.
        rows: of the manifest, each once; default all.
        noises: class -> clips, as ``noise_pool`` gives; needed where a condition names a class.
        seed: >= 0.
        n_workers: processes, over recordings; each holds the models and computes on one thread.
        on_recording: called with the number done, after each.

    Raises:
        ValueError: nothing to score or to score with, classes that differ, a condition twice, noise that is
            not in the pool or a clip of it that is silent or cannot be read, bands that no model hears, an
            edge above half the rate; each with the way out.
        ImportError: a codec needs PyAV; with the install line.
        RuntimeError: worker processes cannot start.
    """
    scorers = {name: m if isinstance(m, Scorer) else torch_scorer(*m) for name, m in models.items()}
    plan = _plan(scorers, tuple(conditions), noises or {}, seed)
    chosen = np.arange(len(manifest)) if rows is None else np.unique(np.asarray(rows, dtype=np.int64))
    if len(chosen) == 0:
        raise ValueError(f"{manifest.source}: no recordings to score; give rows of its {len(manifest)}")
    if chosen[0] < 0 or chosen[-1] >= len(manifest) or (rows is not None and len(chosen) != np.size(rows)):
        raise ValueError(f"{manifest.source}: rows must lie in 0..{len(manifest) - 1}, each given once")

    def jobs() -> Iterator[tuple[str, Path, float, float | None]]:
        for i in chosen.tolist():
            yield (str(manifest.path[i]), manifest.file(i), *manifest.stretch(i))

    found: dict[int, dict[str, FloatArray]] = {}
    excluded: dict[int, str] = {}
    answers = spread(partial(_score_recording, plan), jobs(), n_workers)
    for n_done, (index, outcome) in enumerate(answers, start=1):
        row = int(chosen[index])
        if isinstance(outcome, dict):
            found[row] = outcome
        elif isinstance(outcome, Quarantined):
            if outcome.error is not None:  # of the condition or the models: no recording would pass
                raise outcome.error
            excluded[row] = f"{manifest.file(row)}: twice ended the process that scored it"
        else:
            excluded[row] = str(outcome)
        on_recording(n_done)
    if not found:
        raise ValueError(
            f"{manifest.source}: no recording can be scored; the first: {excluded[int(chosen[0])]}"
        )
    scored = sorted(found)
    logits = {name: np.stack([found[row][name] for row in scored], axis=1) for name in scorers}
    probabilities, decisions = {}, {}
    for name, scorer in scorers.items():
        settled = [_decide(scorer, under_one) for under_one in logits[name]]
        probabilities[name] = np.stack([p for p, _ in settled])
        decisions[name] = np.stack([d for _, d in settled])
    return Sweep(
        plan.conditions,
        np.array(scored, dtype=np.int64),
        next(iter(scorers.values())).class_names,
        logits,
        probabilities,
        decisions,
        dict(sorted(excluded.items())),
    )


def join(sweeps: Sequence[Sweep]) -> Sweep:
    """Sweeps of the same models by name over other rows of one manifest, as one.

    For scores out of fold: each fold's models score the recordings that they never saw.

    Raises:
        ValueError: none, a row in two of them, or other models, classes or conditions.
    """
    first = _alike(sweeps)
    rows = np.concatenate([one.rows for one in sweeps])
    order = np.argsort(rows, kind="stable")
    twice = rows[order][1:][np.diff(rows[order]) == 0]
    if len(twice):
        raise ValueError(f"row {twice[0]} is in two sweeps; a recording is scored once")

    def merged(parts: list[npt.NDArray[Any]]) -> Any:
        return np.concatenate(parts, axis=1)[:, order]

    return Sweep(
        first.conditions,
        rows[order],
        first.class_names,
        {name: merged([one.logits[name] for one in sweeps]) for name in first.logits},
        {name: merged([one.probabilities[name] for one in sweeps]) for name in first.logits},
        {name: merged([one.decisions[name] for one in sweeps]) for name in first.logits},
        dict(sorted(item for one in sweeps for item in one.excluded.items())),
    )


def _alike(sweeps: Sequence[Sweep]) -> Sweep:
    """The first, whose conditions, classes and models are those of all."""
    if not sweeps:
        raise ValueError("no sweeps; give at least one")
    first = sweeps[0]
    for other in sweeps[1:]:
        if (other.conditions, other.class_names, set(other.logits)) != (
            first.conditions,
            first.class_names,
            set(first.logits),
        ):
            raise ValueError("sweeps differ in conditions, classes or models; give each the same")
    return first


@dataclass(frozen=True)
class _Plan:
    """All that a process needs besides the recording."""

    scorers: dict[str, Scorer]
    conditions: tuple[Condition, ...]
    noises: dict[str, tuple[Path, ...]]
    sample_rate_hz: int  # at which recordings are perturbed
    seed: int


def _plan(
    scorers: dict[str, Scorer],
    conditions: tuple[Condition, ...],
    noises: Mapping[str, Sequence[Path]],
    seed: int,
) -> _Plan:
    if not scorers or not conditions:
        raise ValueError(
            f"need a model and a condition, got {len(scorers)} and {len(conditions)}; default_conditions "
            "makes conditions"
        )
    classes = {scorer.class_names for scorer in scorers.values()}
    if len(classes) > 1:
        lists = "; ".join(f"{name}: {', '.join(s.class_names)}" for name, s in scorers.items())
        raise ValueError(
            f"models must have the same classes in the same order, got {lists}; sweep them apart"
        )
    if len(set(conditions)) < len(conditions):
        twice = next(c for i, c in enumerate(conditions) if c in conditions[:i])
        raise ValueError(f"{twice}: given twice; give each condition once")
    rate_hz = max(scorer.features.sample_rate_hz for scorer in scorers.values())
    used: dict[str, tuple[Path, ...]] = {}
    for condition in conditions:
        if condition.kind == "noise" and condition.name != GAUSSIAN:
            if not noises.get(condition.name):
                reason = _unknown("noise", condition.name, [GAUSSIAN, *(k for k, v in noises.items() if v)])
                raise ValueError(f"{reason}; noise_pool(load_corpus('esc')) makes a pool")
            used[condition.name] = tuple(Path(path) for path in noises[condition.name])
        elif condition.kind == "codec":
            augment.find_codec(condition.name)
        elif condition.kind in ("low_pass", "high_pass") and condition.level >= rate_hz / 2:
            raise ValueError(
                f"{condition}: the models hear up to {rate_hz / 2:g} Hz; leave it out or choose a lower edge"
            )
        elif condition.kind == "bands" and not any(
            removed_bands(scorer.features, condition).any() for scorer in scorers.values()
        ):
            raise ValueError(f"{condition}: no model has a mel band there; leave it out")
    return _Plan(scorers, conditions, used, rate_hz, seed)


def _score_recording(
    plan: _Plan, name: str, path: Path, start_s: float, end_s: float | None
) -> dict[str, FloatArray] | AudioError:
    """Logits (n_conditions, n_classes) by model; the reason for a recording that is left out."""
    _use_one_thread()
    rates_hz = {scorer.features.sample_rate_hz for scorer in plan.scorers.values()}
    try:
        clean = {
            rate_hz: np.asarray(read(path, sample_rate_hz=rate_hz, start_s=start_s, end_s=end_s).samples)
            for rate_hz in rates_hz
        }
    except AudioError as error:
        return error
    except FileNotFoundError as error:
        return AudioError(str(error))
    logits: dict[str, list[FloatArray]] = {model: [] for model in plan.scorers}
    key = f"{name}\0{start_s}\0{end_s}"
    for condition, perturb in perturbations(
        plan.conditions, plan.noises, key, plan.sample_rate_hz, plan.seed
    ):
        heard: dict[FeatureConfig, Float32] = {}
        try:
            waveforms = _waveforms(clean, condition, plan.sample_rate_hz, perturb)
            for config in {scorer.features for scorer in plan.scorers.values()}:
                heard[config] = featurise_under(condition, waveforms[config.sample_rate_hz], config)
        except ValueError as error:
            return AudioError(f"{path}: {condition}: {error}")
        for model, scorer in plan.scorers.items():
            logits[model].append(_logits(model, scorer, heard[scorer.features]))
    return {model: np.stack(rows) for model, rows in logits.items()}


def _logits(model: str, scorer: Scorer, features: Float32) -> FloatArray:
    logits = np.asarray(scorer.score(features), dtype=np.float64)
    if logits.shape != (len(scorer.class_names),):
        raise RuntimeError(
            f"{model}: gave scores of shape {logits.shape} for the classes {', '.join(scorer.class_names)}; "
            "a score is one logit a class"
        )
    return logits


def perturbations(
    conditions: Iterable[Condition],
    noises: Mapping[str, Sequence[Path]],
    recording: str,
    sample_rate_hz: int,
    seed: int,
) -> Iterator[tuple[Condition, Callable[[Float32], Float32]]]:
    """Each condition with what it does to the waveform of one recording; chance is the recording's own.

    Args:
        noises: class -> clips, of the classes that conditions name.
        recording: what tells it from others; the same always meets the same clips and rooms.
        sample_rate_hz: of the waveforms.
        seed: >= 0.

    Raises:
        ValueError: a clip of noise that is silent or cannot be read.
    """
    clips: dict[str, Float32] = {}  # drawn for this recording
    for condition in conditions:
        rng = _rng(seed, recording, condition)
        noise = None
        if condition.kind == "noise" and condition.name in noises:
            pool = noises[condition.name]
            path_of_noise = pool[int(rng.integers(len(pool)))]  # the same at every level
            if condition.name not in clips:
                clips[condition.name] = _read_noise(path_of_noise, sample_rate_hz)
            noise = clips[condition.name]
        change = Change(condition.name, condition.level, sample_rate_hz, rng, noise)
        yield condition, partial(_perturb, change=change, by=KINDS[condition.kind].perturb)


def _perturb(x: Float32, change: Change, by: Callable[[Float32, Change], Float32] | None) -> Float32:
    return x if by is None else by(x, change)


def _waveforms(
    clean: dict[int, Float32], condition: Condition, rate_hz: int, perturb: Callable[[Float32], Float32]
) -> dict[int, Float32]:
    """The recording under a condition, at every rate; perturbed at one, ``rate_hz``."""
    if KINDS[condition.kind].perturb is None:
        return clean
    perturbed = perturb(clean[rate_hz])
    return {other_hz: resample(perturbed, rate_hz, other_hz) for other_hz in clean}


def _read_noise(path: Path, sample_rate_hz: int) -> Float32:
    clip: Float32 = read(path, sample_rate_hz=sample_rate_hz).samples
    if not clip.any():
        raise ValueError(f"{path}: a silent clip cannot be mixed at an SNR; take it out of the noise pool")
    return clip


def _rng(seed: int, recording: str, condition: Condition) -> np.random.Generator:
    text = "\0".join([recording, condition.kind, condition.name])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(digest)])


def _use_one_thread() -> None:
    # In a worker only: workers with as many threads as processors each would wait for one another.
    if multiprocessing.parent_process() is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _decide(scorer: Scorer, logits: FloatArray) -> tuple[FloatArray, IntArray]:
    """Calibrated probabilities (n, n_classes) and decisions (n,)."""
    if scorer.calibration:
        probabilities = calibration.from_dict(scorer.calibration).apply(logits)
    else:
        probabilities = calibration.softmax(logits)
    if scorer.threshold is None:
        return probabilities, np.asarray(logits.argmax(axis=1), dtype=np.int64)
    return probabilities, calibration.decide(probabilities, scorer.threshold)


# From scores to curves.


@dataclass(frozen=True)
class Curve:
    """One model's metric over the levels of one kind and name.

    Attributes:
        model, kind, name, metric: what it is a curve of.
        levels: rising.
        points: the metric at each level, with its interval.
        area: ``area_under`` the curve, with its interval.
        n_recordings: behind every point.
        baseline: the model that it is compared with; "" for none.
        differences: model minus baseline at each level; empty without a baseline.
        area_difference: the same of the areas: one test for the whole curve.
    """

    model: str
    kind: str
    name: str
    metric: str
    levels: tuple[float, ...]
    points: tuple[Interval, ...]
    area: Interval
    n_recordings: int
    baseline: str = ""
    differences: tuple[Comparison, ...] = ()
    area_difference: Comparison | None = None


def curves(
    scores: Sweep | Sequence[Sweep],
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    metric: str = "auroc",
    baseline: str | None = None,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> list[Curve]:
    """A metric with intervals by subject at every level, and the area under each curve.

    The same resamples of subjects are drawn for every model and condition, so that differences are paired. For
    several seeds (the same training repeated), give a sweep of each: a point is the mean over them, and a resample
    draws subjects and, apart from them, seeds.

    Where two or more classes of noise were tried at the same levels, one more curve, MEAN_CLASS, is the mean of
    theirs at each level, with intervals of its own: what noise does, whichever it is.

    Args:
        scores: of a sweep, or one sweep a seed: of the same models by name, conditions and rows.
        labels: (n_recordings,) int class of each of the sweep's rows.
        groups: (n_recordings,) the subject of each.
        metric: a row of METRICS for this number of classes, except "ece", whose resamples are biased.
        baseline: the model that the others are compared with; None compares none.
        n_resamples: > 0.
        level: coverage of the intervals, in (0, 1).
        seed: >= 0.

    Returns:
        One curve for each model and (kind, name), in the order of the models and conditions, MEAN_CLASS last.

    Raises:
        ValueError: sweeps differ in conditions, classes, models or rows, labels or groups are not one a
            recording, no such metric or model, or as ``subject_bootstrap``.
    """
    sweeps = [scores] if isinstance(scores, Sweep) else list(scores)
    first = _alike(sweeps)
    y, subjects = np.asarray(labels), np.asarray(groups)
    for other in sweeps[1:]:
        if not np.array_equal(other.rows, first.rows):
            raise ValueError("sweeps of several seeds must be of the same rows; score each on all of them")
    if y.shape != first.rows.shape or subjects.shape != first.rows.shape:
        raise ValueError(
            f"labels and groups must have one value per scored recording, {len(first.rows)}, got {y.shape} and "
            f"{subjects.shape}; take those of the sweep's rows"
        )
    if baseline is not None and baseline not in first.logits:
        raise ValueError(_unknown("model", baseline, first.logits))
    if metric == "ece":
        raise ValueError(
            "ece: a resample repeats recordings and looks worse calibrated; use brier or log_loss"
        )
    by_curve = _by_curve(first.conditions)

    def interval(of: BySeed) -> Interval:
        rng = np.random.default_rng(seed)
        return subject_bootstrap(of, subjects, rng=rng, n_resamples=n_resamples, level=level)

    def compare(of: BySeed, other: BySeed) -> Comparison:
        rng = np.random.default_rng(seed)
        return paired_bootstrap(of, other, subjects, rng=rng, n_resamples=n_resamples, level=level)

    def points(model: str) -> dict[tuple[str, str], list[BySeed]]:
        found = _statistics(sweeps, model, metric, y)
        return {curve: [_mean(found, at[level]) for level in sorted(at)] for curve, at in by_curve.items()}

    made = []
    of_baseline = points(baseline) if baseline is not None else {}
    for model in first.logits:
        of_model = of_baseline if model == baseline else points(model)
        for (kind, name), own in of_model.items():
            levels = tuple(sorted(by_curve[kind, name]))
            area = _area(levels, own)
            differences: tuple[Comparison, ...] = ()
            area_difference = None
            if baseline is not None and baseline != model:
                theirs = of_baseline[kind, name]
                differences = tuple(compare(a, b) for a, b in zip(own, theirs, strict=True))
                area_difference = compare(area, _area(levels, theirs))
            made.append(
                Curve(
                    model=model,
                    kind=kind,
                    name=name,
                    metric=metric,
                    levels=levels,
                    points=tuple(interval(of) for of in own),
                    area=interval(area),
                    n_recordings=len(y),
                    baseline=baseline if differences and baseline is not None else "",
                    differences=differences,
                    area_difference=area_difference,
                )
            )
    return made


def area_under(levels: npt.ArrayLike, values: npt.ArrayLike) -> float:
    """Mean of a curve over the range of its levels, straight lines between the points.

        A = sum_i (l_{i+1} - l_i) (v_i + v_{i+1}) / 2 / (l_n - l_1)

    In the metric's own unit, and a curve that is flat at v has A = v. Levels are taken as they stand: dB for
    noise, Hz and not octaves for filters. One level alone gives its value.

    Args:
        levels: (n,) rising, n > 0.
        values: (n,); one NaN makes the area NaN.

    Raises:
        ValueError: levels do not rise, or there are not as many values.
    """
    v = np.asarray(values, dtype=np.float64)
    weights = _area_weights(levels)
    if v.shape != weights.shape:
        raise ValueError(f"values must be {weights.shape} as the levels are, got {v.shape}")
    return float(weights @ v)


def _area_weights(levels: npt.ArrayLike) -> FloatArray:
    """How much each point counts in ``area_under``; they sum to 1."""
    x = np.asarray(levels, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not (np.diff(x) > 0).all():
        raise ValueError(f"levels must be (n,) and rise, got {x}; sort them and give each once")
    if len(x) == 1:
        return np.ones(1)
    steps = np.diff(x) / (x[-1] - x[0])
    weights: FloatArray = (np.append(steps, 0) + np.append(0, steps)) / 2
    return weights


def _area(levels: Sequence[float], points: Sequence[BySeed]) -> BySeed:
    weights = _area_weights(levels)

    def of(statistics: Sequence[Statistic]) -> Statistic:
        def area(resamples: FloatArray) -> FloatArray:
            found: FloatArray = weights @ np.stack([one(resamples) for one in statistics])
            return found

        return _once(area)

    return [of(statistics) for statistics in zip(*points, strict=True)]


def _by_curve(conditions: Sequence[Condition]) -> dict[tuple[str, str], dict[float, list[int]]]:
    """(kind, name) -> level -> the conditions whose mean is that point: one, but for MEAN_CLASS."""
    found: dict[tuple[str, str], dict[float, list[int]]] = {}
    for i, condition in enumerate(conditions):
        found.setdefault((condition.kind, condition.name), {})[float(condition.level)] = [i]
    classes = [at for (kind, name), at in found.items() if kind == "noise" and name != GAUSSIAN]
    if len(classes) > 1 and len({frozenset(at) for at in classes}) == 1:
        found["noise", MEAN_CLASS] = {level: [i for at in classes for i in at[level]] for level in classes[0]}
    return found


def _statistics(sweeps: Sequence[Sweep], model: str, metric: str, labels: npt.NDArray[Any]) -> list[BySeed]:
    """A metric of a model under every condition."""
    found = [(one.probabilities[model], one.decisions[model]) for one in sweeps]
    return [
        [_once(statistic(metric, labels, p[i], d[i])) for p, d in found]
        for i in range(len(sweeps[0].conditions))
    ]


def _mean(points: Sequence[BySeed], indices: Sequence[int]) -> BySeed:
    """Of some conditions, seed by seed."""
    if len(indices) == 1:
        return points[indices[0]]

    def of(statistics: Sequence[Statistic]) -> Statistic:
        return _once(lambda resamples: np.mean([one(resamples) for one in statistics], axis=0))

    return [of(statistics) for statistics in zip(*(points[i] for i in indices), strict=True)]


def _once(function: Statistic) -> Statistic:
    """It remembers its answers: every interval and difference of a call draws the same resamples."""
    known: dict[int, FloatArray] = {}

    def of(resamples: FloatArray) -> FloatArray:
        # 64 bits tell a few blocks apart. A block is looked up many times, and sha256 takes several times as long.
        key = hash(resamples.tobytes())
        if key not in known:
            known[key] = function(resamples)
        return known[key]

    return of


def robustness_lines(made: Sequence[Curve]) -> list[dict[str, Any]]:
    """JSON lines of curves: ``robustness`` for each point, ``robustness_area`` for each curve.

    A point has ``model``, ``condition`` (the kind), ``name``, ``level``, ``unit``, ``metric``, ``estimate``,
    ``low``, ``high`` and the counts; with a baseline also ``baseline``, ``difference``, ``difference_low``,
    ``difference_high`` and ``p``. An area has ``from_level``, ``to_level`` and ``n_levels`` for the level, and
    ``p_holm``, adjusted over all areas given here. JSON has no NaN: unknown is None.
    """
    tested = [curve.area_difference.p if curve.area_difference else math.nan for curve in made]
    adjusted = holm(tested)
    lines = []
    for curve, p_holm in zip(made, adjusted, strict=True):
        about = {
            "model": curve.model,
            "condition": curve.kind,
            "name": curve.name,
            "unit": KINDS[curve.kind].unit,
            "metric": curve.metric,
            "n_recordings": curve.n_recordings,
            "n_subjects": curve.area.n_units,
        }
        for i, (level, point) in enumerate(zip(curve.levels, curve.points, strict=True)):
            compared = _compared(curve.baseline, curve.differences[i]) if curve.differences else {}
            lines.append({"kind": "robustness", **about, "level": level, **_estimated(point), **compared})
        span = {"from_level": curve.levels[0], "to_level": curve.levels[-1], "n_levels": len(curve.levels)}
        compared = {}
        if curve.area_difference is not None:
            compared = _compared(curve.baseline, curve.area_difference) | {"p_holm": _known(p_holm)}
        lines.append({"kind": "robustness_area", **about, **span, **_estimated(curve.area), **compared})
    return lines


def _estimated(interval: Interval) -> dict[str, float | None]:
    return {name: _known(getattr(interval, name)) for name in ("estimate", "low", "high")}


def _compared(baseline: str, found: Comparison) -> dict[str, Any]:
    return {
        "baseline": baseline,
        "difference": _known(found.difference),
        "difference_low": _known(found.low),
        "difference_high": _known(found.high),
        "p": _known(found.p),
    }


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no {what} {name!r}; {hint}choose from {', '.join(names)}"
