"""What a recording sounds like over one cycle of heart or breath, whatever the recorder; what sites agree on.

    events ─ with_pauses ─ fold ─ phase_features ─ Consensus
                    log-mel ┘

A recorder colours every band alike over a whole recording, a disease colours one phase of the cycle more than
another. So each band loses its mean over the recording, every cycle is stretched to the same number of bins,
phase by phase, and the median over cycles is kept: the **cycle-folded map**. What differs between two phases of
one band cannot be the channel's.

Conventions
    log-mel     (n_bands, n_frames), frame t centred on t / frames_per_s seconds, not normalised
    events      as ``vagitus.segment`` finds them, in order of time
    phases      name of an event's kind -> bins it gets, in the order in which they follow each other; a cycle
                is a run of events of exactly these kinds, each beginning where the last ended
    map         (n_bands, n_bins), natural log of power, 0 the band's mean over the recording
    within-site rank AUC  the chance that a positive of a site has the higher value than a negative of it

A recording without ``LEAST_CYCLES`` whole cycles has no map: it is marked (None), never guessed. NumPy alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.features import FeatureConfig, featurise
from vagitus.metrics import auroc
from vagitus.segment import Event, breaths, cry_expirations, heart_cycles
from vagitus.statistics import midranks

Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Sound = Literal["heart", "cry", "breath"]

# S1 lasts some 120 ms, systole 200, S2 90 and diastole 400 ms and more, of which the end says least.
HEART_PHASES = {"s1": 6, "systole": 8, "s2": 6, "diastole": 12}
CRY_PHASES = {"expiration": 24, "pause": 8}
BREATH_PHASES = {"breath": 20, "pause": 12}
PHASES: dict[Sound, dict[str, int]] = {"heart": HEART_PHASES, "cry": CRY_PHASES, "breath": BREATH_PHASES}
LONGEST_PAUSE_S = {"cry": 2.0, "breath": 6.0}  # beyond, the next event begins another bout
LEAST_CYCLES = 2  # of one alone nobody knows what was a knock at the microphone
# Whole cycles of a recording, at most: the median of more is no steadier, and memory stays bounded.
MOST_CYCLES = 200
LEAST_PER_CLASS = 3  # recordings of each class at a site, below which its rank AUC says nothing


class Folded(NamedTuple):
    """One recording over its cycle.

    Attributes:
        typical: (n_bands, n_bins) the map: median over cycles.
        spread: (n_bands, n_bins) median over cycles of the distance from ``typical``.
        durations_s: (n_cycles, n_phases) of each phase.
        score: mean score of the events used, NaN where they have none.
    """

    typical: Float32
    spread: Float32
    durations_s: Floats
    score: float


def find_events(samples: NDArray[Any], sample_rate_hz: int, sound: Sound) -> list[Event]:
    """The events whose cycle a sound of this kind has, pauses named where ``PHASES`` counts them.

    Raises:
        ValueError: an unknown kind, or as the segmenter.
    """
    finders: dict[str, Callable[..., Iterable[Event]]] = {
        "heart": heart_cycles,
        "cry": cry_expirations,
        "breath": breaths,
    }
    if sound not in finders:
        raise ValueError(f"no cycle of {sound!r}; choose from {', '.join(finders)}")
    events = list(finders[sound]([samples], sample_rate_hz))
    return events if sound == "heart" else with_pauses(events, LONGEST_PAUSE_S[sound])


def with_pauses(events: Sequence[Event], longest_s: float) -> list[Event]:
    """The same events, and an event "pause" between each two that are no more than ``longest_s`` apart.

    Raises:
        ValueError: ``longest_s`` is not above 0, or the events overlap.
    """
    if not longest_s > 0:
        raise ValueError(f"longest_s must be above 0, got {longest_s!r}")
    found = []
    for i, event in enumerate(events):
        found.append(event)
        if i + 1 < len(events):
            gap_s = events[i + 1].start_s - event.end_s
            if gap_s < 0:
                raise ValueError(f"events overlap at {event.end_s:g} s; give them in order of time")
            if 0 < gap_s <= longest_s:
                found.append(Event(event.end_s, events[i + 1].start_s, "pause"))
    return found


def fold(
    logmel: Float32, events: Sequence[Event], frames_per_s: float, phases: Mapping[str, int]
) -> Folded | None:
    """Stretch every whole cycle to the same bins and take the median over cycles.

    The bin k of n in a phase from a to b is the log-mel at a + (k + 1/2) / n (b - a), linear between frames.

    Args:
        logmel: (n_bands, n_frames); each band's mean over all frames is removed here.
        events: of the same recording.
        frames_per_s: of ``logmel``.
        phases: see the module.

    Returns:
        None where there are fewer than ``LEAST_CYCLES`` whole cycles.

    Raises:
        ValueError: a phase without a bin, or features that are not 2-D.
    """
    if logmel.ndim != 2 or logmel.shape[1] == 0:
        raise ValueError(f"log-mel must be (n_bands, n_frames), got {logmel.shape}")
    if not phases or min(phases.values()) < 1:
        raise ValueError(f"every phase needs a bin at least, got {dict(phases)}")
    found = _whole_cycles(events, tuple(phases), 1 / frames_per_s)
    if len(found) < LEAST_CYCLES:
        return None
    found = found[:MOST_CYCLES]
    ends_s = np.array([[(event.start_s, event.end_s) for event in cycle] for cycle in found])
    at_s = np.concatenate(
        [
            ends_s[:, p, :1] + np.diff(ends_s[:, p]) * (np.arange(n) + 0.5) / n
            for p, n in enumerate(phases.values())
        ],
        axis=1,
    )  # (n_cycles, n_bins)
    heard = logmel - logmel.mean(axis=1, keepdims=True, dtype=np.float64)
    at = np.clip(at_s * frames_per_s, 0, logmel.shape[1] - 1)
    below = np.minimum(at.astype(np.int64), max(logmel.shape[1] - 2, 0))
    above = np.minimum(below + 1, logmel.shape[1] - 1)
    share = at - below
    cycles = heard[:, below] * (1 - share) + heard[:, above] * share  # (n_bands, n_cycles, n_bins)
    typical = np.median(cycles, axis=1)
    spread = np.median(np.abs(cycles - typical[:, None]), axis=1)
    scores = [event.score for cycle in found for event in cycle if not np.isnan(event.score)]
    return Folded(
        typical.astype(np.float32),
        spread.astype(np.float32),
        np.diff(ends_s, axis=2)[:, :, 0],
        float(np.mean(scores)) if scores else float("nan"),
    )


def fold_recording(
    samples: NDArray[Any], config: FeatureConfig, sound: Sound, *, phases: Mapping[str, int] | None = None
) -> Folded | None:
    """From samples to the cycle-folded map: find the events, take the log-mel, fold.

    Args:
        samples: (n_samples,) at ``config.sample_rate_hz``.
        config: a log-mel front end; whatever normalisation it names is left out, the fold has its own.
        phases: bins of each phase; those of ``PHASES`` unless given.

    Raises:
        ValueError: MFCC, which have no bands; or as ``fold`` and the segmenter.
    """
    if config.kind != "logmel":
        raise ValueError(f"a cycle is folded from log-mel bands, got a front end of {config.kind}")
    events = find_events(samples, config.sample_rate_hz, sound)
    logmel = featurise(samples, config.vary(normalisation="none"))
    return fold(logmel, events, config.frames_per_s, phases or PHASES[sound])


def _whole_cycles(events: Sequence[Event], kinds: tuple[str, ...], tolerance_s: float) -> list[list[Event]]:
    """Runs of events of exactly these kinds, in this order, each beginning where the last ended."""
    found = []
    i = 0
    while i + len(kinds) <= len(events):
        run = list(events[i : i + len(kinds)])
        is_cycle = tuple(event.kind for event in run) == kinds and all(
            abs(late.start_s - early.end_s) <= tolerance_s for early, late in pairwise(run)
        )
        if is_cycle:
            found.append(run)
        i += len(kinds) if is_cycle else 1
    return found


class PhaseFeatures(NamedTuple):
    """Numbers of one recording, and what each of them is."""

    values: Floats  # (n_features,)
    names: tuple[str, ...]


def phase_features(folded: Folded, phases: Mapping[str, int], *, n_groups: int = 8) -> PhaseFeatures:
    """Contrasts between cycle phases in the same band, and how regular the cycles are.

    Bands are averaged in ``n_groups`` groups of neighbours. Of each group: the level of each phase (relative to
    the recording's mean), for each pair of phases their difference, the slope within each phase (second half
    less first half), and the spread over cycles of each phase. Of the recording: the share of the cycle that
    each phase but the last takes, the cycle's length in ln s, and its irregularity, the median absolute change
    from one cycle to the next over the median length.

    Args:
        folded: what ``fold`` gave.
        phases: what it was folded by.
        n_groups: >= 1, at most the number of bands.

    Raises:
        ValueError: more groups than bands, or phases that are not those of the map.
    """
    n_bands, n_bins = folded.typical.shape
    if not 1 <= n_groups <= n_bands:
        raise ValueError(f"{n_bands} bands make 1 to {n_bands} groups, got {n_groups}")
    if sum(phases.values()) != n_bins:
        raise ValueError(f"the map has {n_bins} bins, the phases {sum(phases.values())}")
    kinds = tuple(phases)
    ends = np.cumsum([0, *phases.values()])
    typical = _grouped(folded.typical, n_groups)
    spread = _grouped(folded.spread, n_groups)
    values: list[Floats] = []
    names: list[str] = []

    def add(column: Floats, what: str) -> None:
        values.append(column)
        names.extend(f"{what}, band group {g}" for g in range(n_groups))

    levels = {}
    for p, kind in enumerate(kinds):
        of_phase = typical[:, ends[p] : ends[p + 1]]
        levels[kind] = of_phase.mean(axis=1)
        add(levels[kind], kind)
        middle = of_phase.shape[1] // 2
        if middle:
            add(of_phase[:, middle:].mean(axis=1) - of_phase[:, :middle].mean(axis=1), f"slope of {kind}")
        add(spread[:, ends[p] : ends[p + 1]].mean(axis=1), f"spread of {kind}")
    for p, kind in enumerate(kinds):
        for other in kinds[p + 1 :]:
            add(levels[other] - levels[kind], f"{other} less {kind}")
    length_s = folded.durations_s.sum(axis=1)
    typical_s = float(np.median(length_s))
    shares = np.median(folded.durations_s / length_s[:, None], axis=0)[:-1]
    irregularity = float(np.median(np.abs(np.diff(length_s)))) / typical_s
    values.append(np.array([*shares, np.log(typical_s), irregularity]))
    names += [*(f"share of {kind}" for kind in kinds[:-1]), "ln length", "irregularity"]
    return PhaseFeatures(np.concatenate(values), tuple(names))


def _grouped(x: Float32, n_groups: int) -> Floats:
    return np.stack([part.mean(axis=0, dtype=np.float64) for part in np.array_split(x, n_groups)])


def within_site_ranks(x: ArrayLike, sites: ArrayLike) -> Floats:
    """Each feature as its rank among the recordings of the same site, from 0 to 1, ties sharing.

        r = (rank - 1/2) / n,  rank from 1 to n

    It needs no label, and takes from every feature all that shifts or stretches a site as a whole.

    Args:
        x: (n, n_features) without NaN.
        sites: (n,).
    """
    values, names = np.asarray(x, dtype=np.float64), np.asarray(sites)
    ranks = np.empty_like(values)
    for site in np.unique(names):
        rows = np.flatnonzero(names == site)
        for j in range(values.shape[1]):
            ranks[rows, j] = (midranks(values[rows, j]) - 0.5) / len(rows)
    return ranks


def site_aurocs(x: ArrayLike, labels: ArrayLike, sites: ArrayLike) -> tuple[Floats, Floats, list[str]]:
    """Within-site rank AUC of every feature, and its variance if the feature meant nothing.

        variance = (n_pos + n_neg + 1) / (12 n_pos n_neg)

    Args:
        x: (n, n_features).
        labels: (n,) 0 or 1.
        sites: (n,).

    Returns:
        (n_sites, n_features), (n_sites,) and the sites' names. Those with fewer than ``LEAST_PER_CLASS``
        recordings of either class are left out.

    Source: of the variance, Mann & Whitney 1947.
    """
    values, y, names = np.asarray(x, dtype=np.float64), np.asarray(labels), np.asarray(sites).astype(np.str_)
    aurocs, variances, kept = [], [], []
    for site in np.unique(names).tolist():
        rows = np.flatnonzero(names == site)
        n_positive = int((y[rows] == 1).sum())
        n_negative = len(rows) - n_positive
        if min(n_positive, n_negative) < LEAST_PER_CLASS:
            continue
        aurocs.append([auroc(y[rows], values[rows, j]) for j in range(values.shape[1])])
        variances.append((len(rows) + 1) / (12 * n_positive * n_negative))
        kept.append(site)
    return np.array(aurocs).reshape(len(kept), values.shape[1]), np.array(variances), kept


@dataclass(frozen=True)
class Consensus:
    """A score in which a feature counts as far as sites agree on what it means.

    With c_s = 2 AUC_s - 1 a feature's effect within site s, v_s its variance there and t² the variance of
    effects between sites (DerSimonian and Laird's moment estimate, at least 0):

        w_s = 1 / (v_s + t²),  m = sum w_s c_s / sum w_s,  e² = 1 / sum w_s
        weight = m max(0, 1 - e² / m²)
        score  = sum over features of weight (r - 1/2),  r the recording's rank within its own site

    A feature whose effect is no larger than its uncertainty gets no weight at all; one that turns its sign from
    site to site has a large t², and hence a large e.

    Attributes:
        weights: (n_features,).
        effects: (n_features,) m.
        errors: (n_features,) e.
        sites: whose labels it was fitted on.

    Source: DerSimonian & Laird 1986, Controlled Clinical Trials 7, for effects that differ between sites; the
    shrinkage is the positive-part James-Stein rule for one effect.
    """

    weights: Floats
    effects: Floats
    errors: Floats
    sites: tuple[str, ...]

    @classmethod
    def fit(cls, x: ArrayLike, labels: ArrayLike, sites: ArrayLike) -> "Consensus":
        """Weigh features by labelled recordings of several sites.

        Args:
            x: (n, n_features).
            labels: (n,) 0 or 1.
            sites: (n,).

        Raises:
            ValueError: fewer than two sites with ``LEAST_PER_CLASS`` recordings of both classes.
        """
        aurocs, variances, kept = site_aurocs(x, labels, sites)
        if len(kept) < 2:
            raise ValueError(
                f"agreement needs two sites with {LEAST_PER_CLASS} recordings of both classes each, got "
                f"{', '.join(kept) or 'none'}; add a site, or fit one model to all"
            )
        effects, v = 2 * aurocs - 1, 4 * variances[:, None]
        fixed = 1 / v
        mean = (fixed * effects).sum(axis=0) / fixed.sum(axis=0)
        q = (fixed * (effects - mean) ** 2).sum(axis=0)
        scale = fixed.sum() - (fixed**2).sum() / fixed.sum()
        between = np.maximum(0.0, (q - (len(kept) - 1)) / scale)
        w = 1 / (v + between)
        m, e2 = (w * effects).sum(axis=0) / w.sum(axis=0), 1 / w.sum(axis=0)
        weights = m * np.maximum(0.0, 1 - e2 / np.maximum(m**2, 1e-12))
        return cls(weights, m, np.sqrt(e2), tuple(kept))

    def score(self, x: ArrayLike, sites: ArrayLike) -> Floats:
        """(n,) scores of recordings, each ranked among those of its own site; labels play no part.

        Raises:
            ValueError: another number of features.
        """
        values = np.asarray(x, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.weights):
            raise ValueError(f"the consensus weighs {len(self.weights)} features, got {values.shape}")
        return np.asarray((within_site_ranks(values, sites) - 0.5) @ self.weights)
