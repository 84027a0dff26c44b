"""Fundamental frequency of cries, from 150 Hz to the 3 kHz of hyperphonation, and what is read off it.

Conventions
    samples     (n_samples,) mono, float in [-1, 1] or int16 where 32768 stands for 1.0
    frame t     ``N_PERIODS`` periods of ``f_min_hz`` long, from sample t * hop on; only whole frames
    time_s      of a frame's centre, seconds from the first sample
    f0_hz       NaN where a frame is unvoiced
    voicing     0 to 1, the probability that a frame is voiced, see ``voiced_probability``

The method is Boersma's: the autocorrelation of a frame under a Hann window, over that of the window, is 1 at
the period of a periodic sound whatever its harmonics weigh; the candidates of all frames are joined by the
cheapest path. Boersma, P. Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise
ratio of a sampled sound. Proc. Inst. Phonetic Sci. Amsterdam 17, 97-110 (1993). Departures: lags between
samples come from zeros behind the spectrum and then a parabola; what lies below three quarters of ``f_min_hz``
is left out; the cost of an octave counts from the middle of the range, or a high F0 would pass for voiced where
a low one does not; loudness plays no part, but for digital silence, so that a stream needs no peak of the whole.

The path is decided ``LAG_S`` behind the sound, on a grid of frames: the same for every length of the blocks.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus.segment import autocorrelation, framed

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

F_MIN_HZ, F_MAX_HZ = 150.0, 3000.0
HOP_S = 0.010
# Boersma's three and a little: with fewer, the Hann window leaves two periods too little to compare at the
# longest lag. At 150 Hz a frame is 23 ms.
N_PERIODS = 3.5
MAX_SHARE_OF_RATE = 0.4  # above, the second harmonic and the slope of the recorder's filter are gone
# At f_max_hz. The third harmonic still has five lags a period: with fewer a parabola misses the height of a
# peak, and one of three periods would win over one.
LAGS_PER_PERIOD = 16
N_HARMONICS = 3  # of f_max_hz; above, noise is most of it
N_CANDIDATES = 6
LEAST_PERIODICITY = 0.2  # of a candidate
LAG_S = 1.0

# Costs, in units of periodicity. Boersma's are .01 an octave, .45, .35 and .14; see ``track`` for their sense. An
# octave costs more here because the range has more of them, with cries that go an octave down for a cycle or two.
OCTAVE_COST = 0.03
VOICING_THRESHOLD = 0.50
JUMP_COST = 0.35
SWITCH_COST = 0.14
COSTS_HOP_S = 0.010  # the hop that the last two are meant for

HYPERPHONATION_HZ = 1000.0
# Praat's limits for what counts as two neighbouring cycles.
MAX_PERIOD_FACTOR = 1.3


class PitchTrack(NamedTuple):
    """F0 by frame, see the module's conventions; (n_frames,) each."""

    time_s: Float64
    f0_hz: Float64
    voicing: Float64


class Biomarkers(NamedTuple):
    """What a track says of a cry. NaN where nothing is voiced; IQR is the 75th less the 25th percentile."""

    duration_s: float  # frames times their step
    voiced_s: float
    voiced_fraction: float
    n_voiced_stretches: int
    longest_voiced_s: float
    f0_median_hz: float
    f0_iqr_hz: float
    f0_min_hz: float
    f0_max_hz: float
    hyperphonation_share: float  # of the voiced frames, F0 above 1 kHz
    jitter_local_percent: float  # NaN where no periods were given


def voiced_probability(periodicity: Float64) -> Float64:
    """Probability that a frame of this periodicity is voiced.

        P(s > 1 - r) = r^8 (1 + 8 (1 - r)),   s ~ Beta(2, 8)

    the chance that pYIN's random threshold s, of mean 0.2, lies above the aperiodic share 1 - r (Mauch &
    Dixon, ICASSP 2014, section 2.1, in closed form). It orders frames; it was not calibrated on cries.

    Args:
        periodicity: the normalised autocorrelation at the period; outside [0, 1] it is clipped.
    """
    r = np.clip(periodicity, 0.0, 1.0)
    return np.asarray(r**8 * (1.0 + 8.0 * (1.0 - r)))


def track(
    samples: NDArray[Any],
    sample_rate_hz: int,
    *,
    f_min_hz: float = F_MIN_HZ,
    f_max_hz: float = F_MAX_HZ,
    hop_s: float = HOP_S,
) -> PitchTrack:
    """F0 of a recording.

    A frame's candidates are the ``N_CANDIDATES`` best local maxima of its autocorrelation r at lags T, and
    "unvoiced". The path of least cost is taken, summed over frames:

        voiced      -(r - OCTAVE_COST log2(T sqrt(f_min_hz f_max_hz)))
        unvoiced    -VOICING_THRESHOLD
        F to G      JUMP_COST |log2(F / G)| * 10 ms / hop
        voiced to unvoiced or back  SWITCH_COST * 10 ms / hop

    Args:
        samples: see the module.
        sample_rate_hz: at least ``f_max_hz / MAX_SHARE_OF_RATE``.
        f_min_hz: lowest F0, > 0; sets the length of a frame.
        f_max_hz: highest F0.
        hop_s: between frames, > 0, at most a frame.

    Raises:
        ValueError: samples not mono, not float or int16, with NaN or infinity, or shorter than a frame; a
            rate too low for ``f_max_hz``; an argument out of range.
    """
    return _joined(stream([samples], sample_rate_hz, f_min_hz=f_min_hz, f_max_hz=f_max_hz, hop_s=hop_s))


def stream(
    blocks: Iterable[NDArray[Any]],
    sample_rate_hz: int,
    *,
    f_min_hz: float = F_MIN_HZ,
    f_max_hz: float = F_MAX_HZ,
    hop_s: float = HOP_S,
) -> Iterator[PitchTrack]:
    """``track`` of a recording that comes in pieces, in memory that does not grow with its length.

    Args:
        blocks: consecutive samples; any lengths, zero included.

    Yields:
        Consecutive stretches of the track, ``LAG_S`` and up to ten seconds behind the sound. Joined they
        are ``track`` of the whole, bit for bit.

    Raises:
        ValueError: an argument out of range, at the call; the rest, as in ``track``, when a piece is due.
    """
    if not (math.isfinite(f_max_hz) and 0 < f_min_hz < f_max_hz):
        raise ValueError(f"f_min_hz {f_min_hz!r} must be > 0 and below f_max_hz {f_max_hz!r}")
    if f_max_hz > MAX_SHARE_OF_RATE * sample_rate_hz:
        raise ValueError(
            f"sample_rate_hz {sample_rate_hz} holds F0 up to {MAX_SHARE_OF_RATE * sample_rate_hz:g} Hz; set "
            f"f_max_hz to that or less, or record at {math.ceil(f_max_hz / MAX_SHARE_OF_RATE)} Hz or more"
        )
    if not 1 / sample_rate_hz <= hop_s <= N_PERIODS / f_min_hz:
        raise ValueError(
            f"hop_s {hop_s!r} must be a sample at least and a frame, {N_PERIODS / f_min_hz:.4f} s, at most"
        )
    return _stream(blocks, sample_rate_hz, f_min_hz, f_max_hz, hop_s)


def _stream(
    blocks: Iterable[NDArray[Any]], sample_rate_hz: int, f_min_hz: float, f_max_hz: float, hop_s: float
) -> Iterator[PitchTrack]:
    window = math.ceil(N_PERIODS * sample_rate_hz / f_min_hz)
    hop = max(1, min(round(hop_s * sample_rate_hz), window))
    path = _Path(hop / sample_rate_hz)
    n_done = 0
    for frames in framed(blocks, window, hop):
        f0_hz, strength, periodicity = _candidates(frames, sample_rate_hz, f_min_hz, f_max_hz)
        for decided in path.push(f0_hz, strength, periodicity):
            yield _piece(decided, n_done, window, hop, sample_rate_hz)
            n_done += len(decided)
    decided = path.finish()
    if len(decided):
        yield _piece(decided, n_done, window, hop, sample_rate_hz)


def _piece(decided: Float64, n_done: int, window: int, hop: int, sample_rate_hz: int) -> PitchTrack:
    time_s = ((n_done + np.arange(len(decided))) * hop + window / 2) / sample_rate_hz
    return PitchTrack(time_s, decided[:, 0], voiced_probability(decided[:, 1]))


def _joined(pieces: Iterable[PitchTrack]) -> PitchTrack:
    return PitchTrack(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _candidates(
    frames: Float32, sample_rate_hz: int, f_min_hz: float, f_max_hz: float
) -> tuple[Float64, Float64, Float64]:
    """(n_frames, N_CANDIDATES) F0, strength and periodicity; strength -inf and F0 NaN where there is none."""
    upsampling = 1
    while upsampling * sample_rate_hz < LAGS_PER_PERIOD * f_max_hz:
        upsampling *= 2
    rate_hz = upsampling * sample_rate_hz
    shortest, longest = int(rate_hz / f_max_hz), math.ceil(rate_hz / f_min_hz)
    _, r = autocorrelation(
        frames,
        sample_rate_hz,
        low_hz=0.75 * f_min_hz,
        high_hz=N_HARMONICS * f_max_hz,
        n_lags=longest + 2,
        upsampling=upsampling,
    )
    left, at, right = (r[:, shortest + k : longest + 1 + k] for k in (-1, 0, 1))
    lags = np.arange(shortest, longest + 1)
    middle_hz = math.sqrt(f_min_hz * f_max_hz)
    prior = (OCTAVE_COST * np.log2(lags * (middle_hz / rate_hz))).astype(np.float32)
    peaks = (at > left) & (at >= right) & (at > LEAST_PERIODICITY)
    score = np.where(peaks, at - prior, -np.inf)
    n_best = min(N_CANDIDATES, len(lags))
    best = np.argpartition(score, -n_best, axis=1)[:, -n_best:]
    # Columns of `r` one less, at, and one past the lag; a parabola through them peaks by the maximum, where
    # its curvature is negative.
    columns = best + shortest
    before, top, after = (np.take_along_axis(r, columns + k, axis=1).astype(np.float64) for k in (-1, 0, 1))
    there = np.take_along_axis(peaks, best, axis=1)
    offset = np.where(there, (before - after) / (2 * np.where(there, before - 2 * top + after, -1.0)), 0.0)
    periodicity = top - (before - after) * offset / 4
    f0_hz = np.where(there, rate_hz / (lags[best] + offset), np.nan)
    strength = np.where(there, periodicity - OCTAVE_COST * np.log2(middle_hz / f0_hz), -np.inf)
    return f0_hz, strength, periodicity


class _Path:
    """The cheapest path through the candidates (Viterbi), decided a fixed number of frames behind."""

    def __init__(self, hop_s: float) -> None:
        self.switch = SWITCH_COST * COSTS_HOP_S / hop_s
        self.jump = JUMP_COST * COSTS_HOP_S / hop_s
        self.n_lag = max(1, round(LAG_S / hop_s))
        self.gain: Float64 = np.empty(0)  # of the best path to each state; the last one is "unvoiced"
        self.octave = np.zeros(0)  # log2 F0 of each state, NaN for "unvoiced"
        self.previous: list[NDArray[np.intp]] = []  # of each undecided frame
        self.values: list[Float64] = []  # (n_states, 2) F0 and periodicity

    def push(self, f0_hz: Float64, strength: Float64, periodicity: Float64) -> Iterator[Float64]:
        n_frames = len(f0_hz)
        unvoiced = np.full((n_frames, 1), np.nan)
        best = np.where(np.isfinite(strength), periodicity, 0.0).max(axis=1, keepdims=True)
        # An unvoiced frame keeps the periodicity of its best candidate: how near it was to being voiced.
        values = np.stack(
            [np.concatenate([f0_hz, unvoiced], 1), np.concatenate([periodicity, best], 1)], axis=2
        )
        gains = np.concatenate([strength, np.full((n_frames, 1), VOICING_THRESHOLD)], axis=1)
        octaves = np.log2(values[:, :, 0])
        for t in range(n_frames):
            octave = octaves[t]
            if self.gain.size == 0:
                self.gain, previous = gains[t], np.arange(octave.size)
            else:
                cost = np.abs(octave[:, None] - self.octave) * self.jump
                # NaN where one of the two is unvoiced; both unvoiced costs nothing.
                np.nan_to_num(cost, copy=False, nan=self.switch)
                cost[-1, -1] = 0.0
                total = self.gain - cost
                previous = total.argmax(axis=1)
                self.gain = total.max(axis=1) + gains[t]
                self.gain -= self.gain.max()  # or it would grow with the recording
            self.octave = octave
            self.previous.append(previous)
            self.values.append(values[t])
            if len(self.values) == 5 * self.n_lag:
                yield self._decide(4 * self.n_lag)

    def finish(self) -> Float64:
        return self._decide(len(self.values)) if self.values else np.empty((0, 2))

    def _decide(self, n: int) -> Float64:
        state = int(self.gain.argmax())
        states = np.empty(len(self.values), np.intp)
        for t in range(len(states) - 1, -1, -1):
            states[t] = state
            state = int(self.previous[t][state])
        decided = np.array([values[state] for values, state in zip(self.values[:n], states[:n], strict=True)])
        self.previous, self.values = self.previous[n:], self.values[n:]
        return decided


def periods(samples: NDArray[Any], sample_rate_hz: int, pitch: PitchTrack) -> list[Float64]:
    """Lengths of the glottal cycles, one array of seconds for each voiced stretch of the track.

    From the peak of a stretch's first cycle on: the lag of 0.8 to 1.25 periods of the track at which the next
    cycle is most like this one (normalised cross-correlation over one period, a parabola between samples), then the
    same from there. As Praat's "To PointProcess (cc)", but that each cycle is matched with the next alone.

    Below some 20 samples a cycle, a lag is no longer exact to a few tenths of a per cent: read no jitter
    from F0 above ``sample_rate_hz / 20``.

    Args:
        samples: (n_samples,) of the whole recording.
        pitch: its ``track``.

    Raises:
        ValueError: samples that are not 1-D, of another type, or with NaN or infinity.
    """
    x = (
        next(iter(framed([samples], len(samples), 1, 1)))[0].astype(np.float64)
        if len(samples)
        else np.empty(0)
    )
    found = []
    for first, last in _voiced_stretches(pitch):
        end_s = pitch.time_s[last]
        at_s = _peak_s(x, pitch.time_s[first], 1 / pitch.f0_hz[first], sample_rate_hz)
        lengths: list[float] = []
        while at_s < end_s:
            frame = min(int(np.searchsorted(pitch.time_s, at_s)), last)
            length = _next_period(x, round(at_s * sample_rate_hz), sample_rate_hz / pitch.f0_hz[frame])
            if math.isnan(length):
                break
            lengths.append(length / sample_rate_hz)
            at_s += lengths[-1]
        if lengths:
            found.append(np.array(lengths))
    return found


def _peak_s(x: Float64, time_s: float, period_s: float, sample_rate_hz: int) -> float:
    """The loudest sample of the period around ``time_s``: where the cycle's energy is, away from its ends."""
    first = max(0, round((time_s - period_s / 2) * sample_rate_hz))
    n = max(1, round(period_s * sample_rate_hz))
    return (first + int(np.abs(x[first : first + n]).argmax())) / sample_rate_hz


def _next_period(x: Float64, at: int, expected: float) -> float:
    """Samples from the cycle centred on ``at`` to the next; NaN where the recording ends or is silent."""
    n = max(round(expected), 4)
    shortest, longest = int(0.8 * expected), math.ceil(1.25 * expected)
    first = at - n // 2
    if first < 0 or first + longest + 1 + n > len(x):
        return math.nan
    cycle = x[first : first + n]
    region = x[first + shortest - 1 : first + longest + 1 + n]
    products = np.correlate(region, cycle)
    energy = np.cumsum(np.concatenate([[0.0], region**2]))
    energies = energy[n:] - energy[:-n]
    if not energies.min() > 0:
        return math.nan
    likeness = products / np.sqrt(energies)
    k = 1 + int(likeness[1:-1].argmax())
    left, at_peak, right = likeness[k - 1 : k + 2].tolist()
    curvature = left - 2 * at_peak + right
    offset = max(-0.5, min(0.5, (left - right) / (2 * curvature))) if curvature < 0 else 0.0
    return shortest - 1 + k + offset


def jitter_local_percent(periods_s: Iterable[Float64]) -> float:
    """Cycle-to-cycle variation of the period, per cent of the mean period.

        100 * mean |T[i+1] - T[i]| / mean T

    over neighbours of one stretch; pairs that differ by a factor above ``MAX_PERIOD_FACTOR`` are no
    neighbours. "Jitter (local)" of Praat's manual (Boersma & Weenink), "jitt" of the MDVP. Cycles whose
    lengths are independent, of standard deviation s as a share of the mean, give 113 s per cent
    (2 / sqrt(pi)).

    Args:
        periods_s: one array for each voiced stretch, as ``periods`` gives them.

    Returns:
        NaN without two neighbours.
    """
    steps, lengths = [], []
    for stretch in periods_s:
        before, after = stretch[:-1], stretch[1:]
        neighbours = np.maximum(before, after) <= MAX_PERIOD_FACTOR * np.minimum(before, after)
        steps.append(np.abs(after - before)[neighbours])
        lengths.append(stretch)
    if not sum(map(len, steps)):
        return math.nan
    return float(100 * np.concatenate(steps).mean() / np.concatenate(lengths).mean())


def biomarkers(pitch: PitchTrack, periods_s: Iterable[Float64] = ()) -> Biomarkers:
    """Summary of a track for a study; see ``Biomarkers``.

    A frame stands for the step between frames. Hyperphonation, an F0 above 1 kHz, is as in LaGasse, Neal &
    Lester, Ment. Retard. Dev. Disabil. Res. Rev. 11, 83-93 (2005).

    Args:
        pitch: of one recording, at least one frame.
        periods_s: of ``periods``; without them jitter is NaN.

    Raises:
        ValueError: an empty track.
    """
    n_frames = len(pitch.time_s)
    if not n_frames:
        raise ValueError("the track has no frames; leave the recording out")
    # The step of a single frame is unknown; it then stands for nothing.
    step_s = float(pitch.time_s[-1] - pitch.time_s[0]) / (n_frames - 1) if n_frames > 1 else 0.0
    f0_hz = pitch.f0_hz[~np.isnan(pitch.f0_hz)]
    stretches = _voiced_stretches(pitch)
    longest = max((last - first + 1 for first, last in stretches), default=0)
    low, q1, median, q3, high = (
        np.percentile(f0_hz, (0, 25, 50, 75, 100)).tolist() if len(f0_hz) else [math.nan] * 5
    )
    return Biomarkers(
        duration_s=n_frames * step_s,
        voiced_s=len(f0_hz) * step_s,
        voiced_fraction=len(f0_hz) / n_frames,
        n_voiced_stretches=len(stretches),
        longest_voiced_s=longest * step_s,
        f0_median_hz=median,
        f0_iqr_hz=q3 - q1,
        f0_min_hz=low,
        f0_max_hz=high,
        hyperphonation_share=float(np.mean(f0_hz > HYPERPHONATION_HZ)) if len(f0_hz) else math.nan,
        jitter_local_percent=jitter_local_percent(periods_s),
    )


def _voiced_stretches(pitch: PitchTrack) -> list[tuple[int, int]]:
    """First and last frame of each run of voiced frames."""
    voiced = np.concatenate([[False], ~np.isnan(pitch.f0_hz), [False]])
    edges = np.flatnonzero(voiced[1:] != voiced[:-1])
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
