"""Events in a long recording: cry expirations, heart cycles, breaths; how well they were found; label files.

Conventions
    blocks      consecutive samples of one recording, each (n_samples,) mono, float in [-1, 1] or int16 where
                32768 stands for 1.0; any lengths, zero included. What a segmenter finds does not depend on
                where one block ends and the next begins, and its memory does not grow with their number.
    frame t     samples t * hop to t * hop + window; only whole frames, nothing is padded. Its time is that
                of its centre.
    level       10 log10 of the mean square in a band, dB re 1.0; at least ``SILENCE_DB``
    Event       from start_s to end_s in seconds from the first sample, the end excluded; ``kind`` says what
                and ``score`` how sure, higher is surer, NaN where nobody said

A recording in which nothing is found gives no events; that is not an error. Every segmenter raises ValueError
for samples that are not mono, of another type, hold NaN or infinity, or are shorter than one frame, and for a
sample rate that does not hold the band it listens to.

All thresholds are ours, set on simulated cries, on synthetic heart sounds and on the training part of
SPRSound. No model is involved, so nothing here knows a cry from a dog that whines at the same pitch.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus.files import write_atomic

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

INT16_SCALE = np.float32(2.0**-15)
# Below the rounding of 16 bits (-101 dB): digital silence, whatever its sign bits do.
SILENCE_DB = -110.0
SILENCE_POWER = 10 ** (SILENCE_DB / 10)
# Frames computed at once, always on the same grid: 512 of 25 ms are 0.8 MB at 16 kHz.
CHUNK_FRAMES = 512

# Cries. The lags of 1 to 5 ms hold a period, or a multiple of one, of every F0 from 200 Hz to 3 kHz and on.
CRY_LAGS_S = (0.001, 0.005)
CRY_BAND_HZ = (200.0, 8000.0)
CRY_MIN_RATE_HZ = 4000  # of a band of 2 kHz: two harmonics of a high cry
CRY_WINDOW_S, CRY_HOP_S = 0.025, 0.010
# A heart sound's energy lies between 25 and 150 Hz; murmurs lie above.
HEART_BAND_HZ = (25.0, 150.0)
HEART_MIN_RATE_HZ = 500
HEART_STATES = ("s1", "systole", "s2", "diastole")
HEART_WINDOW_S = 12.0  # ten beats of a slow heart, in which its rate changes little
N_PERIODS_TRIED = 4
LEAST_S1_S2_S = 0.12
S1_S, S2_S, SOUND_DEVIATION_S = 0.122, 0.092, 0.022
SOUND_Z = 0.3  # sounds fill a third of the time: above the mean, in standard deviations
# Breath over the chest: below 100 Hz the heart is louder, above 1 kHz the chest wall lets little through.
BREATH_BAND_HZ = (100.0, 1000.0)
BREATH_MIN_RATE_HZ = 2400
BREATH_SMOOTHING_S = 0.3
FRAME_S = 0.02  # of hearts and lungs


class Event(NamedTuple):
    """A stretch of a recording, see the module's conventions."""

    start_s: float
    end_s: float
    kind: str
    score: float = math.nan


# From samples to frames.


def framed(
    blocks: Iterable[NDArray[Any]], window_samples: int, hop_samples: int, n_chunk: int = CHUNK_FRAMES
) -> Iterator[Float32]:
    """Frames of a recording that comes in pieces, in chunks that do not depend on the pieces.

    Args:
        blocks: see the module.
        window_samples: >= hop_samples.
        hop_samples: >= 1.
        n_chunk: frames in a chunk, but for the last.

    Yields:
        (n_frames, window_samples) float32, a view that is overwritten when the next chunk is asked for.

    Raises:
        ValueError: bad samples, see the module.
    """
    staging = np.empty(window_samples + (n_chunk - 1) * hop_samples, np.float32)
    n_staged = n_samples = 0
    for block in blocks:
        samples = np.asarray(block)
        if samples.ndim != 1:
            raise ValueError(
                f"samples must be mono, (n_samples,), got shape {samples.shape}; average the channels"
            )
        if samples.dtype not in (np.float32, np.int16, np.float64):
            raise ValueError(f"samples must be int16, or float in [-1, 1], got {samples.dtype}; convert them")
        n_samples += len(samples)
        while len(samples):
            taken = samples[: len(staging) - n_staged]
            stretch = staging[n_staged : n_staged + len(taken)]
            np.multiply(
                taken,
                INT16_SCALE if samples.dtype == np.int16 else np.float32(1.0),
                out=stretch,
                casting="same_kind",
            )
            if not np.isfinite(stretch).all():
                raise ValueError("samples hold NaN or infinity; repair the recording or leave it out")
            n_staged, samples = n_staged + len(taken), samples[len(taken) :]
            if n_staged == len(staging):
                yield np.lib.stride_tricks.sliding_window_view(staging, window_samples)[::hop_samples]
                n_staged = len(staging) - n_chunk * hop_samples
                staging[:n_staged] = staging[n_chunk * hop_samples :].copy()
    if n_samples < window_samples:
        raise ValueError(
            f"{n_samples} samples are shorter than one frame of {window_samples}; leave the recording out"
        )
    if n_staged >= window_samples:
        yield np.lib.stride_tricks.sliding_window_view(staging[:n_staged], window_samples)[::hop_samples]


def autocorrelation(
    frames: Float32,
    sample_rate_hz: float,
    *,
    low_hz: float,
    high_hz: float,
    n_lags: int,
    upsampling: int = 1,
) -> tuple[Float32, Float32]:
    """Level and normalised autocorrelation of frames, of what lies between ``low_hz`` and ``high_hz``.

        r[k] = (a[k] / a[0]) / (w[k] / w[0]),   k / (upsampling * sample_rate_hz) seconds

    with a the autocorrelation of the frame under a Hann window and w that of the window: 1 at the period of
    a periodic sound and at its multiples, about 0 for noise (Boersma 1993, equation 9). Lags between samples
    are exact, by zeros behind the spectrum.

    Args:
        frames: (n_frames, window_samples), finite.
        low_hz, high_hz: bins outside count as empty: hum and handling are periodic too, and above, noise
            is most of it.
        n_lags: in steps of 1 / (upsampling * sample_rate_hz), shorter than half a window.
        upsampling: power of two.

    Returns:
        (n_frames,) level in dB, and (n_frames, n_lags) r, 0 where a frame is silent.
    """
    from scipy import fft

    window_samples = frames.shape[1]
    n_fft, window, window_lags = _window(window_samples, n_lags, upsampling)
    windowed = (frames - frames.mean(axis=1, keepdims=True)) * window
    spectrum = fft.rfft(windowed, n_fft, axis=1, workers=1)
    power = spectrum.real**2 + spectrum.imag**2
    power[:, : math.ceil(low_hz * n_fft / sample_rate_hz)] = 0.0
    power[:, math.floor(high_hz * n_fft / sample_rate_hz) + 1 :] = 0.0
    # irfft divides by its length; a[0] then is the energy under the window times upsampling^-1.
    a: Float32 = fft.irfft(power, n_fft * upsampling, axis=1, workers=1)[:, :n_lags]
    mean_square = a[:, 0] * (upsampling / float(np.sum(window**2)))
    level_db = _db(mean_square).astype(np.float32)
    silent = mean_square <= SILENCE_POWER
    r = a / np.where(silent, np.float32(1.0), a[:, 0])[:, None] / window_lags
    r[silent] = 0.0
    return level_db, r.astype(np.float32, copy=False)


@lru_cache(maxsize=16)
def _window(window_samples: int, n_lags: int, upsampling: int) -> tuple[int, Float32, Float32]:
    """FFT length, Hann window, and its normalised autocorrelation."""
    longest_lag = -(-n_lags // upsampling)
    # Long enough that no lag in use wraps around.
    n_fft = 1 << (window_samples + longest_lag - 1).bit_length()
    window = np.hanning(window_samples + 2)[1:-1]
    lags = np.fft.irfft(np.abs(np.fft.rfft(window, n_fft)) ** 2, n_fft * upsampling)[:n_lags]
    return n_fft, window.astype(np.float32), (lags / lags[0]).astype(np.float32)


def _db(power: NDArray[Any]) -> Float64:
    return np.asarray(10 * np.log10(np.maximum(power, SILENCE_POWER)), np.float64)


class _Floor:
    """Low and high percentile of a level around every frame, from a sliding stretch on a fixed grid.

    Frame t of step k = t // n_step sees steps k - n_around to k + n_around, so far as the recording has them.
    """

    def __init__(self, n_step: int, n_around: int, low_percent: float, high_percent: float) -> None:
        self.n_step, self.n_around = n_step, n_around
        self.percents = (low_percent, high_percent)
        self.rows = np.empty((0, 0), np.float32)  # (n_kept, n_values), the level in column 0
        self.n_before = 0  # frames kept that were given out already

    def push(self, rows: Float32, *, last: bool = False) -> Iterator[tuple[Float32, float, float]]:
        """Give out steps as their surroundings are complete: (rows of the step, low, high)."""
        self.rows = np.concatenate([self.rows.reshape(-1, rows.shape[1]), rows])
        n_after = self.n_around * self.n_step
        while True:
            end = self.n_before + self.n_step
            if len(self.rows) < end + n_after and not (last and len(self.rows) > self.n_before):
                return
            low, high = np.percentile(self.rows[: end + n_after, 0], self.percents)
            yield self.rows[self.n_before : end], float(low), float(high)
            n_forgotten = max(0, end - n_after)
            self.rows = self.rows[n_forgotten:]
            self.n_before = min(end - n_forgotten, len(self.rows))


class _Run(NamedTuple):
    first: int  # frame
    last: int  # frame, included
    values: float  # sum of the frames' values
    n_values: int


class _Hysteresis:
    """Frames above a threshold → runs; one opens at ``on`` and closes below ``off``.

    A run takes in what came before it while that was above ``off``; runs less than ``n_gap`` frames apart
    are one; those of fewer than ``n_least`` frames, or a mean value below ``least_value``, are dropped.
    """

    def __init__(self, n_gap: int, n_least: int, least_value: float) -> None:
        self.n_gap, self.n_least, self.least_value = n_gap, n_least, least_value
        self.frame = 0
        self.opened = False
        self.open: _Run | None = None  # above off; a run in its own right once it reached on
        self.kept: _Run | None = None  # complete, but the next may join it

    def push(
        self, evidence: Sequence[float], values: Sequence[float], on: float, off: float
    ) -> Iterator[_Run]:
        for x, value in zip(evidence, values, strict=True):
            if x >= off:
                before = self.open or _Run(self.frame, self.frame, 0.0, 0)
                self.open = _Run(before.first, self.frame, before.values + value, before.n_values + 1)
                self.opened = self.opened or x >= on
            elif self.open is not None:
                yield from self._close()
            self.frame += 1

    def finish(self) -> Iterator[_Run]:
        yield from self._close()
        if self.kept is not None:
            yield from self._judged(self.kept)

    def _close(self) -> Iterator[_Run]:
        run, self.open = self.open, None
        opened, self.opened = self.opened, False
        if run is None or not opened:
            return
        kept = self.kept
        if kept is not None and run.first - kept.last - 1 < self.n_gap:
            run = _Run(kept.first, run.last, kept.values + run.values, kept.n_values + run.n_values)
        elif kept is not None:
            yield from self._judged(kept)
        self.kept = run

    def _judged(self, run: _Run) -> Iterator[_Run]:
        if run.last - run.first + 1 >= self.n_least and run.values / run.n_values >= self.least_value:
            yield run


# Cries.


def cry_expirations(
    blocks: Iterable[NDArray[Any]],
    sample_rate_hz: int,
    *,
    above_floor_db: float = 9.0,
    below_peak_db: float = 20.0,
    hysteresis_db: float = 4.0,
    unvoiced_penalty_db: float = 9.0,
    least_periodicity: float = 0.5,
    least_s: float = 0.2,
    gap_s: float = 0.06,
) -> Iterator[Event]:
    """Find the expirations of crying by level and pitch; no model.

    Per frame of 25 ms, every 10 ms: the level in ``CRY_BAND_HZ``, and the periodicity, the highest local
    maximum of the normalised autocorrelation at lags of 1 to 5 ms. A frame below ``least_periodicity``
    counts as ``unvoiced_penalty_db`` quieter: a noisy stretch within a cry may pass, breath noise does not.
    The threshold follows the level's percentiles over 5 s to either side, noise floor 10 % and peak 95 %:

        on  = min(max(floor + above_floor_db, peak - below_peak_db), peak - 6 dB)
        off = on - hysteresis_db

    The last term holds where a cry fills the whole 10 s and is its own floor.

    Args:
        blocks: see the module.
        sample_rate_hz: >= ``CRY_MIN_RATE_HZ``.
        above_floor_db: > 0.
        below_peak_db: > 6; what is this far below the loudest is inspiration or echo.
        hysteresis_db: >= 0.
        unvoiced_penalty_db: >= 0.
        least_periodicity: 0 to 1; also of an expiration's mean over its frames.
        least_s: shorter ones are dropped.
        gap_s: pauses shorter than this do not end an expiration; an inspiration takes 0.1 s and more.

    Yields:
        Events of kind "expiration" in order of time, up to 12 s after they sound; the score is the mean
        periodicity, at most 1.

    Raises:
        ValueError: too low a rate, or bad samples, see the module.
    """
    _check_rate(sample_rate_hz, CRY_MIN_RATE_HZ, "cries")
    return _cry_expirations(
        blocks,
        sample_rate_hz,
        above_floor_db,
        below_peak_db,
        hysteresis_db,
        unvoiced_penalty_db,
        least_periodicity,
        least_s,
        gap_s,
    )


def _cry_expirations(
    blocks: Iterable[NDArray[Any]],
    sample_rate_hz: int,
    above_floor_db: float,
    below_peak_db: float,
    hysteresis_db: float,
    unvoiced_penalty_db: float,
    least_periodicity: float,
    least_s: float,
    gap_s: float,
) -> Iterator[Event]:
    window, hop = round(CRY_WINDOW_S * sample_rate_hz), round(CRY_HOP_S * sample_rate_hz)
    frame_s = hop / sample_rate_hz
    floor = _Floor(round(1 / frame_s), 5, 10.0, 95.0)
    runs = _Hysteresis(round(gap_s / frame_s), round(least_s / frame_s), least_periodicity)
    # A frame stands for the hop around its centre.
    first_s = (window - hop) / 2 / sample_rate_hz

    def event(run: _Run) -> Event:
        score = min(run.values / run.n_values, 1.0)
        return Event(first_s + run.first * frame_s, first_s + (run.last + 1) * frame_s, "expiration", score)

    def found(steps: Iterable[tuple[Float32, float, float]]) -> Iterator[Event]:
        for rows, low_db, high_db in steps:
            on_db = min(max(low_db + above_floor_db, high_db - below_peak_db), high_db - 6.0)
            if on_db <= SILENCE_DB:
                on_db = math.inf  # nothing but silence around
            level_db, periodicity = rows[:, 0], rows[:, 1]
            evidence = level_db - unvoiced_penalty_db * (periodicity < least_periodicity)
            for run in runs.push(evidence.tolist(), periodicity.tolist(), on_db, on_db - hysteresis_db):
                yield event(run)

    for frames in framed(blocks, window, hop):
        yield from found(floor.push(np.column_stack(_level_and_periodicity(frames, sample_rate_hz))))
    yield from found(floor.push(np.empty((0, 2), np.float32), last=True))
    for run in runs.finish():
        yield event(run)


def _level_and_periodicity(frames: Float32, sample_rate_hz: int) -> tuple[Float32, Float32]:
    shortest, longest = int(CRY_LAGS_S[0] * sample_rate_hz), math.ceil(CRY_LAGS_S[1] * sample_rate_hz)
    low_hz, high_hz = CRY_BAND_HZ
    level_db, r = autocorrelation(frames, sample_rate_hz, low_hz=low_hz, high_hz=high_hz, n_lags=longest + 2)
    at = r[:, shortest : longest + 1]
    peaks = (at > r[:, shortest - 1 : longest]) & (at >= r[:, shortest + 1 : longest + 2])
    return level_db, np.max(np.where(peaks, at, np.float32(0.0)), axis=1)


def bouts(events: Iterable[Event], *, gap_s: float = 2.0) -> Iterator[Event]:
    """Join events, in order of time, that are less than ``gap_s`` apart.

    Yields:
        Events of kind "bout"; the score is the mean of what it joins, weighted by duration.
    """
    start_s = end_s = weighted = total_s = 0.0
    for event in events:
        if total_s and event.start_s - end_s >= gap_s:
            yield Event(start_s, end_s, "bout", weighted / total_s)
            total_s = 0.0
        if not total_s:
            start_s, end_s, weighted = event.start_s, event.end_s, 0.0
        duration_s = event.end_s - event.start_s
        end_s, total_s = max(end_s, event.end_s), total_s + duration_s
        weighted += event.score * duration_s
    if total_s:
        yield Event(start_s, end_s, "bout", weighted / total_s)


# Hearts and lungs: the level of a band, 50 times a second.


def _band_power(
    blocks: Iterable[NDArray[Any]], sample_rate_hz: int, band_hz: tuple[float, float]
) -> Iterator[Float64]:
    """Mean square of a band in frames of ``FRAME_S`` that do not overlap, chunk by chunk: (n_frames,)."""
    from scipy.signal import butter, sosfilt

    n = round(FRAME_S * sample_rate_hz)
    band = butter(2, band_hz, "bandpass", fs=sample_rate_hz, output="sos")
    state = np.zeros((len(band), 2))
    for frames in framed(blocks, n, n):
        filtered, state = sosfilt(band, frames.reshape(-1), zi=state)
        yield np.square(filtered.reshape(-1, n)).mean(axis=1)


def heart_cycles(
    blocks: Iterable[NDArray[Any]],
    sample_rate_hz: int,
    *,
    min_bpm: float = 40.0,
    max_bpm: float = 220.0,
    least_rhythm: float = 0.25,
) -> Iterator[Event]:
    """Segment heart sound into S1, systole, S2 and diastole.

    The level in ``HEART_BAND_HZ``, every 20 ms, in windows of ``HEART_WINDOW_S`` that overlap by a third. Of
    each window, standardised, the ``N_PERIODS_TRIED`` highest peaks of the autocorrelation are tried as period
    T, its highest peak before T / 2 as the time from S1 to S2. The likeliest of the four wins. States S1,
    systole, S2, diastole follow each other in the way that maximises, over all segments,

        sum over frames of +-(z - SOUND_Z)  +  ln N(duration; mean, deviation)

    with + in the two sounds, - in the two pauses, z the standardised level (a duration-dependent hidden
    Markov model: Schmidt et al., Physiol. Meas. 31, 513-529 (2010); their durations of S1 and S2, 122 and 92
    ms, deviation 22 ms). Departures: the level alone, with no trained emission; any rate of children too.
    S1 is told from S2 by systole being the shorter pause, and by nothing else: where the two are equal, as in
    hearts above some 140 beats a minute, the names may be exchanged. Measured on synthetic hearts of known
    timing alone: it awaits recordings whose cycles a cardiologist marked.

    Args:
        blocks: see the module.
        sample_rate_hz: >= ``HEART_MIN_RATE_HZ``.
        min_bpm, max_bpm: range of the heart rate, 0 < min_bpm < max_bpm <= 300.
        least_rhythm: least autocorrelation at the period; windows below give no events.

    Yields:
        Events of kinds ``HEART_STATES``, each beginning where the last ended as long as the rhythm lasts,
        up to 20 s after they sound. Score: the autocorrelation at the period. Where the heart is not heard,
        none.

    Raises:
        ValueError: too low a rate, a range upside down, or bad samples, see the module.
    """
    _check_rate(sample_rate_hz, HEART_MIN_RATE_HZ, "heart sounds")
    if not 0 < min_bpm < max_bpm <= 300:
        raise ValueError(f"need 0 < min_bpm < max_bpm <= 300, got {min_bpm!r} and {max_bpm!r}")
    return _heart_cycles(blocks, sample_rate_hz, (60 / max_bpm, 60 / min_bpm), least_rhythm)


def _heart_cycles(
    blocks: Iterable[NDArray[Any]],
    sample_rate_hz: int,
    period_range_s: tuple[float, float],
    least_rhythm: float,
) -> Iterator[Event]:
    frame_s = round(FRAME_S * sample_rate_hz) / sample_rate_hz
    n_window, n_step = round(HEART_WINDOW_S / frame_s), round(HEART_WINDOW_S * 2 / 3 / frame_s)
    n_margin = (n_window - n_step) // 2
    periods = (round(period_range_s[0] / frame_s), round(period_range_s[1] / frame_s))
    level = np.empty(0)  # what is not forgotten yet
    n_forgotten = n_named = 0
    state, start, score, n_state = -1, 0, 0.0, 0

    def named(states: NDArray[np.int64], rhythm: float) -> Iterator[Event]:
        nonlocal state, start, score, n_state, n_named
        for next_state in states.tolist():
            if next_state != state:
                if state >= 0:
                    yield Event(start * frame_s, n_named * frame_s, HEART_STATES[state], score / n_state)
                state, start, score, n_state = next_state, n_named, 0.0, 0
            score, n_state, n_named = score + rhythm, n_state + 1, n_named + 1

    for power in _band_power(blocks, sample_rate_hz, HEART_BAND_HZ):
        level = np.concatenate([level, _db(power)])
        while n_forgotten + len(level) >= n_named + n_step + n_margin:
            first = n_named - n_forgotten
            begin = max(0, first - n_margin)
            states, rhythm = _heart_states(
                level[begin : first + n_step + n_margin], frame_s, periods, least_rhythm
            )
            yield from named(states[first - begin : first - begin + n_step], rhythm)
            kept = max(0, n_named - n_window - n_forgotten)
            level, n_forgotten = level[kept:], n_forgotten + kept
    # The last window is as long as the others, so far as the recording is.
    begin = max(0, len(level) - n_window)
    states, rhythm = _heart_states(level[begin:], frame_s, periods, least_rhythm)
    yield from named(states[n_named - n_forgotten - begin :], rhythm)
    if state >= 0:
        yield Event(start * frame_s, n_named * frame_s, HEART_STATES[state], score / n_state)


def _heart_states(
    level_db: Float64, frame_s: float, periods: tuple[int, int], least_rhythm: float
) -> tuple[NDArray[np.int64], float]:
    """(n_frames,) index into ``HEART_STATES``, -1 where there is no rhythm, and the rhythm's strength."""
    nothing = np.full(len(level_db), -1)
    deviation = float(level_db.std())
    # Two periods at least, or there is nothing to repeat; less than 0.1 dB is rounding.
    if len(level_db) < 2 * periods[0] or deviation < 0.1:
        return nothing, 0.0
    z = (level_db - level_db.mean()) / deviation
    # Beats are not quite regular: a wider sound still meets the next one.
    smooth = np.convolve(z, (0.1, 0.2, 0.4, 0.2, 0.1), "same")
    n_lags = min(periods[1] + 2, len(z) // 2 + 1)
    r = np.array([np.mean(smooth[: len(z) - k] * smooth[k:]) for k in range(n_lags)]) / np.mean(smooth**2)
    lags = np.arange(1, n_lags - 1)
    peaks = lags[(r[1:-1] > r[:-2]) & (r[1:-1] >= r[2:])]
    of_period = peaks[(peaks >= periods[0]) & (r[peaks] >= least_rhythm)]
    best, best_states, rhythm = -math.inf, nothing, 0.0
    for period in of_period[np.argsort(-r[of_period], kind="stable")][:N_PERIODS_TRIED].tolist():
        within = peaks[(peaks * frame_s >= LEAST_S1_S2_S) & (2 * peaks <= period)]
        # No peak: what an adult at rest has, a third and a little more.
        s1_to_s2 = int(within[r[within].argmax()]) if len(within) else 0.37 * period
        log_duration = _log_durations(period * frame_s, s1_to_s2 * frame_s, frame_s)
        evidence = np.clip(z, -2.0, 3.0) - SOUND_Z
        states, likelihood = _segments(np.array([1.0, -1.0, 1.0, -1.0])[:, None] * evidence, log_duration)
        if likelihood > best:
            best, best_states, rhythm = likelihood, states, float(r[period])
    return best_states, rhythm


def _log_durations(period_s: float, s1_to_s2_s: float, frame_s: float) -> Float64:
    """(4, n_longest) ln density of the heart's states lasting 1, 2, ... frames."""
    # In fast hearts the sounds are shorter, or no pause would be left.
    s1_s, s2_s = min(S1_S, 0.6 * s1_to_s2_s), min(S2_S, 0.6 * (period_s - s1_to_s2_s))
    means_s = np.array([s1_s, s1_to_s2_s - s1_s, s2_s, period_s - s1_to_s2_s - s2_s])[:, None]
    # A beat comes early or late by its diastole.
    deviations_s = np.array([SOUND_DEVIATION_S, 0.03, SOUND_DEVIATION_S, max(0.03, 0.1 * period_s)])[:, None]
    durations_s = np.arange(1, math.ceil(1.5 * period_s / frame_s) + 1) * frame_s
    return np.asarray(-0.5 * ((durations_s - means_s) / deviations_s) ** 2 - np.log(deviations_s / frame_s))


def _segments(log_emission: Float64, log_duration: Float64) -> tuple[NDArray[np.int64], float]:
    """Most likely states and their log likelihood, in cyclic order, of given durations (semi-Markov Viterbi).

    The first and the last segment may be cut by the window, so their durations cost nothing.

    Args:
        log_emission: (n_states, n_frames).
        log_duration: (n_states, n_longest), of 1, 2, ... frames.
    """
    n_states, n_frames = log_emission.shape
    n_longest = log_duration.shape[1]
    total = np.concatenate([np.zeros((n_states, 1)), np.cumsum(log_emission, axis=1)], axis=1)
    by_start = log_duration[:, ::-1]  # of segments that start n_longest, ..., 1 frames back
    # Best sum of all that ends before frame t, less what the segment's own emissions had summed to by t.
    entry = np.full((n_states, n_longest + n_frames + 1), -np.inf)
    start = np.zeros((n_frames + 1, n_states), np.int64)
    row = np.arange(n_states)
    for t in range(1, n_frames + 1):
        scores = entry[:, t : t + n_longest] + by_start
        best = scores.argmax(axis=1)
        value = scores[row, best]
        start[t] = t - n_longest + best
        if t <= n_longest:
            start[t, value <= 0.0] = 0
            value = np.maximum(value, 0.0)
        ended = value + total[:, t]
        entry[:, n_longest + t] = np.roll(ended, 1) - total[:, t]
    first_open = max(1, n_frames - n_longest)
    tails = entry[:, n_longest + first_open : n_longest + n_frames] + total[:, -1:]
    state, offset = (int(i) for i in np.unravel_index(tails.argmax(), tails.shape))
    states = np.empty(n_frames, np.int64)
    end, at = n_frames, first_open + offset
    while True:
        states[at:end] = state
        if at == 0:
            return states, float(tails.max())
        state = (state - 1) % n_states
        end, at = at, int(start[at, state])


def breaths(
    blocks: Iterable[NDArray[Any]],
    sample_rate_hz: int,
    *,
    on_share: float = 0.35,
    off_share: float = 0.25,
    least_range_db: float = 3.0,
    least_s: float = 0.5,
    gap_s: float = 0.05,
) -> Iterator[Event]:
    """Find the phases of breathing that are heard over the chest, by level alone.

    The power in ``BREATH_BAND_HZ``, smoothed over ``BREATH_SMOOTHING_S``; its 10 % and 95 % percentiles over 5 s
    to either side are floor and peak. An event opens at floor + on_share (peak - floor) and lasts while the
    level, in dB, is above floor + off_share (peak - floor). Inspiration and expiration are not told apart: over
    many places of a chest only inspiration is heard, and level does not say which it is.

    How far to trust it: against the events that physicians marked in a subset of SPRSound, half the patients
    for the defaults and the other half for the test, event F1 was .32 (ends within half a duration; .47 by
    the starts alone; evenly spaced events .13) and frame F1 .52, below the .63 of calling everything breath.
    Only some breaths are marked there, which counts against what is found.

    Args:
        blocks: see the module.
        sample_rate_hz: >= ``BREATH_MIN_RATE_HZ``.
        on_share, off_share: 0 < off_share <= on_share < 1.
        least_range_db: where peak and floor are nearer, nothing is found.
        least_s: shorter events are dropped.
        gap_s: pauses shorter than this do not end one.

    Yields:
        Events of kind "breath", up to 17 s after they sound. Score: where between floor (0) and peak (1) the
        mean level is.

    Raises:
        ValueError: too low a rate, shares out of order, or bad samples, see the module.
    """
    _check_rate(sample_rate_hz, BREATH_MIN_RATE_HZ, "breath sounds")
    if not 0 < off_share <= on_share < 1:
        raise ValueError(f"need 0 < off_share <= on_share < 1, got {off_share!r} and {on_share!r}")
    return _breaths(blocks, sample_rate_hz, on_share, off_share, least_range_db, least_s, gap_s)


def _breaths(
    blocks: Iterable[NDArray[Any]],
    sample_rate_hz: int,
    on_share: float,
    off_share: float,
    least_range_db: float,
    least_s: float,
    gap_s: float,
) -> Iterator[Event]:
    frame_s = round(FRAME_S * sample_rate_hz) / sample_rate_hz
    smoothing = np.hanning(round(BREATH_SMOOTHING_S / frame_s) + 2)[1:-1]
    smoothing /= smoothing.sum()
    floor = _Floor(round(1 / frame_s), 5, 10.0, 95.0)
    runs = _Hysteresis(round(gap_s / frame_s), round(least_s / frame_s), 0.0)

    def event(run: _Run) -> Event:
        score = min(max(run.values / run.n_values, 0.0), 1.0)
        return Event(run.first * frame_s, (run.last + 1) * frame_s, "breath", score)

    def found(steps: Iterable[tuple[Float32, float, float]]) -> Iterator[Event]:
        for rows, low_db, high_db in steps:
            range_db = high_db - low_db
            share = (rows[:, 0] - low_db) / max(range_db, least_range_db)
            on = on_share if range_db >= least_range_db else math.inf
            for run in runs.push(share.tolist(), share.tolist(), on, min(on, off_share)):
                yield event(run)

    # Both ends are continued by their own frame, so that frame t of the result is about frame t.
    n_before = len(smoothing) // 2
    recent: Float64 = np.empty(0)
    for power in _band_power(blocks, sample_rate_hz, BREATH_BAND_HZ):
        recent = np.concatenate([recent if recent.size else np.full(n_before, power[0]), power])
        if len(recent) >= len(smoothing):
            level_db = _db(np.convolve(recent, smoothing, "valid"))
            yield from found(floor.push(level_db.astype(np.float32)[:, None]))
            recent = recent[len(recent) - len(smoothing) + 1 :]
    ending = np.concatenate([recent, np.full(len(smoothing) - 1 - n_before, recent[-1])])
    rest = np.convolve(ending, smoothing, "valid") if len(ending) >= len(smoothing) else np.empty(0)
    yield from found(floor.push(_db(rest).astype(np.float32)[:, None], last=True))
    for run in runs.finish():
        yield event(run)


def _check_rate(sample_rate_hz: int, least_hz: int, what: str) -> None:
    if sample_rate_hz < least_hz:
        raise ValueError(
            f"sample_rate_hz {sample_rate_hz} does not hold {what}; record or keep at least {least_hz} Hz "
            "(resampling up brings nothing back)"
        )


# How well events were found.


class Agreement(NamedTuple):
    """Counts of events or of frames, and their ratios; a ratio 0 / 0 is NaN."""

    n_true: int
    n_found: int
    n_matched: int

    @property
    def precision(self) -> float:
        return self.n_matched / self.n_found if self.n_found else math.nan

    @property
    def recall(self) -> float:
        return self.n_matched / self.n_true if self.n_true else math.nan

    @property
    def f1(self) -> float:
        """2 matched / (true + found)."""
        n = self.n_true + self.n_found
        return 2 * self.n_matched / n if n else math.nan


def event_agreement(
    true: Sequence[Event],
    found: Sequence[Event],
    *,
    onset_tolerance_s: float = 0.2,
    offset_tolerance_s: float = 0.2,
    offset_share: float = 0.5,
) -> Agreement:
    """Match found events with true ones, one to one, as many as can be.

    Two may match if they are of one kind and

        |start - true start| <= onset_tolerance_s
        |end - true end|     <= max(offset_tolerance_s, offset_share * true duration)

    the conditions and defaults of event-based measures in sed_eval (Mesaros et al., Appl. Sci. 6, 162 (2016),
    section 3.2); the largest matching, as mir_eval's notes and not sed_eval's first come, so that the order of
    events plays no part.

    Args:
        true, found: in any order.
        onset_tolerance_s, offset_tolerance_s: >= 0.
        offset_share: >= 0; infinity leaves the ends out.

    Raises:
        ValueError: an event that ends before it starts or is not finite, or a negative tolerance.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    _check_events(true)
    _check_events(found)
    if not min(onset_tolerance_s, offset_tolerance_s, offset_share) >= 0:
        raise ValueError(
            f"tolerances must be >= 0, got {onset_tolerance_s!r}, {offset_tolerance_s!r}, {offset_share!r}"
        )
    if not true or not found:
        return Agreement(len(true), len(found), 0)
    by_start = sorted(found)
    starts_s = np.array([event.start_s for event in by_start])
    # Sums of decimals: 0.3 - 0.1 is a little more than 0.2.
    slack_s = 1e-9
    columns: list[int] = []
    ends_of_rows = [0]
    for event in true:
        first = int(np.searchsorted(starts_s, event.start_s - onset_tolerance_s - slack_s))
        last = int(np.searchsorted(starts_s, event.start_s + onset_tolerance_s + slack_s, "right"))
        allowed_s = max(offset_tolerance_s, offset_share * (event.end_s - event.start_s)) + slack_s
        columns += [
            i
            for i in range(first, last)
            if by_start[i].kind == event.kind and abs(by_start[i].end_s - event.end_s) <= allowed_s
        ]
        ends_of_rows.append(len(columns))
    edges = csr_array((np.ones(len(columns), np.int8), columns, ends_of_rows), shape=(len(true), len(found)))
    return Agreement(len(true), len(found), int(np.sum(maximum_bipartite_matching(edges) >= 0)))


def frame_agreement(true: Sequence[Event], found: Sequence[Event], *, frame_s: float = 0.01) -> Agreement:
    """Compare frame by frame: a frame counts as true (found) for each kind with an event over its centre.

    Args:
        true, found: in any order, from 0 s on; overlapping events of one kind count once.
        frame_s: > 0.

    Raises:
        ValueError: an event that ends before it starts or is not finite or begins before 0; ``frame_s``.
    """
    _check_events(true)
    _check_events(found)
    if not (math.isfinite(frame_s) and frame_s > 0):
        raise ValueError(f"frame_s must be > 0, got {frame_s!r}")
    n_frames = math.ceil(max((event.end_s for event in (*true, *found)), default=0.0) / frame_s)
    n_true = n_found = n_matched = 0
    for kind in sorted({event.kind for event in (*true, *found)}):
        in_true, in_found = (_frames_within(events, kind, frame_s, n_frames) for events in (true, found))
        n_true, n_found = n_true + int(in_true.sum()), n_found + int(in_found.sum())
        n_matched += int((in_true & in_found).sum())
    return Agreement(n_true, n_found, n_matched)


def _frames_within(events: Sequence[Event], kind: str, frame_s: float, n_frames: int) -> NDArray[np.bool_]:
    within = np.zeros(n_frames, bool)
    for event in events:
        if event.kind == kind:
            # First centre at or after the start, first one at or after the end.
            first, end = (math.ceil(round(x / frame_s - 0.5, 6)) for x in (event.start_s, event.end_s))
            within[first:end] = True
    return within


def _check_events(events: Iterable[Event]) -> None:
    for event in events:
        if not 0 <= event.start_s < event.end_s < math.inf:
            raise ValueError(f"an event needs 0 <= start_s < end_s, got {event}")


# Label files.

Layout = Literal["json", "csv", "audacity", "raven"]
COLUMNS = ("start_s", "end_s", "kind", "score")
RAVEN_COLUMNS = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Annotation",
    "Score",
)


def write_events(
    events: Iterable[Event], path: Path | str, layout: Layout, *, top_hz: float = 8000.0
) -> None:
    """Write events as a file that other programs read, whole or not at all.

    Times are rounded to microseconds, scores to a millionth. An Audacity label track has no place for the
    score, which is lost; the others keep it, NaN as null or blank.

    Args:
        events: written in the order given.
        path: made, with its folder, or replaced.
        layout: of ``LAYOUTS``: "json", "csv", "audacity" (import as a label track), "raven" (a selection
            table, the boxes from 0 Hz to ``top_hz``).
        top_hz: height of a box in Raven.

    Raises:
        ValueError: an unknown layout; an event that ends before it starts, or whose kind is blank or holds
            a tab or a line break.
        OSError: the file cannot be written.
    """
    events = list(events)
    _check_events(events)
    for event in events:
        if event.kind != " ".join(event.kind.split()) or not event.kind:
            raise ValueError(
                f"kind {event.kind!r} must be words with single spaces; tables are split by tabs"
            )
    writer, _ = _layout(layout)
    write_atomic(Path(path), writer(events, top_hz))


def read_events(path: Path | str, layout: Layout) -> list[Event]:
    """Events that ``write_events`` wrote, or that Audacity or Raven saved.

    Raises:
        ValueError: an unknown layout, or a file that is not of it; names the line.
        FileNotFoundError: nothing at ``path``.
    """
    _, reader = _layout(layout)
    try:
        events = reader(Path(path).read_text(encoding="utf-8-sig"))
        _check_events(events)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is not {layout} as read here: {error}; export it again") from None
    return events


def _layout(layout: str) -> "_Layout":
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not known; choose from {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def _to_json(events: list[Event], top_hz: float) -> str:
    rows = [
        {
            "start_s": round(event.start_s, 6),
            "end_s": round(event.end_s, 6),
            "kind": event.kind,
            "score": None if math.isnan(event.score) else round(event.score, 6),
        }
        for event in events
    ]
    return json.dumps({"events": rows}, indent=1) + "\n"


def _from_json(text: str) -> list[Event]:
    return [
        Event(float(row["start_s"]), float(row["end_s"]), str(row["kind"]), _score(row["score"]))
        for row in json.loads(text)["events"]
    ]


def _to_csv(events: list[Event], top_hz: float) -> str:
    rows = [(f"{e.start_s:.6f}", f"{e.end_s:.6f}", e.kind, _cell(e.score)) for e in events]
    return _table([COLUMNS, *rows], ",")


def _from_csv(text: str) -> list[Event]:
    reader = csv.DictReader(io.StringIO(text))
    if reader.fieldnames is None or not set(COLUMNS) <= set(reader.fieldnames):
        raise ValueError(f"the first line must name {', '.join(COLUMNS)}")
    return [
        Event(float(row["start_s"]), float(row["end_s"]), row["kind"], _score(row["score"])) for row in reader
    ]


def _to_audacity(events: list[Event], top_hz: float) -> str:
    return "".join(f"{event.start_s:.6f}\t{event.end_s:.6f}\t{event.kind}\n" for event in events)


def _from_audacity(text: str) -> list[Event]:
    events = []
    for line in text.splitlines():
        # A line that begins with a backslash holds the frequencies of the label above it.
        if line.strip() and not line.startswith("\\"):
            start_s, end_s, kind = line.split("\t")
            events.append(Event(float(start_s), float(end_s), kind))
    return events


def _to_raven(events: list[Event], top_hz: float) -> str:
    rows = [
        (
            str(i),
            "Spectrogram 1",
            "1",
            f"{e.start_s:.6f}",
            f"{e.end_s:.6f}",
            "0",
            f"{top_hz:g}",
            e.kind,
            _cell(e.score),
        )
        for i, e in enumerate(events, 1)
    ]
    return _table([RAVEN_COLUMNS, *rows], "\t")


def _from_raven(text: str) -> list[Event]:
    reader = csv.DictReader(io.StringIO(text), delimiter="\t")
    needed = {"Begin Time (s)", "End Time (s)", "Annotation"}
    if reader.fieldnames is None or not needed <= set(reader.fieldnames):
        raise ValueError(f"the first line must name {', '.join(sorted(needed))}")
    events: dict[tuple[str, str, str], Event] = {}
    for row in reader:
        # Raven writes a selection once for each view it is shown in.
        key = row["Begin Time (s)"], row["End Time (s)"], row["Annotation"]
        events.setdefault(key, Event(float(key[0]), float(key[1]), key[2], _score(row.get("Score"))))
    return list(events.values())


def _table(rows: Iterable[Sequence[str]], delimiter: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(score: float) -> str:
    return "" if math.isnan(score) else f"{score:.6f}"


def _score(value: float | str | None) -> float:
    return math.nan if value is None or value == "" else float(value)


class _Layout(NamedTuple):
    write: Callable[[list[Event], float], str]
    read: Callable[[str], list[Event]]


LAYOUTS: dict[str, _Layout] = {
    "json": _Layout(_to_json, _from_json),
    "csv": _Layout(_to_csv, _from_csv),
    "audacity": _Layout(_to_audacity, _from_audacity),
    "raven": _Layout(_to_raven, _from_raven),
}
