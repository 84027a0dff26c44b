"""Live audio: samples as they come, a score for every window, and at the end what ``predict`` says of them.

Conventions
    heard      samples at any rate, in pieces of any length; resampled as a file's are
    window     as ``predict`` cuts them: ``window_frames`` long, every half of that. It is scored as soon as the
               sound that its frames reach into has been heard, ``delay_samples`` after its last frame's centre
    history    the last ``history_s`` seconds, all that is remembered: samples, statistics and logits
    so far     the score of the mean of the logits of the windows in the history: a running verdict

Two scores, as a listener does not know the end of the recording that it is in:

    live       A model that normalises by statistics of its recording takes those of the history up to the window's
               end. Early windows are heard with few frames, and a window's score would be another a minute
               later; for a model that normalises by none it is the one that ``predict`` gives that window.
    final      ``Listener.finish`` gives what ``Predictor.predict`` says of the history as a recording of its own,
               with its statistics complete: the same number, since it is the same computation on the same
               samples. So the verdict on an input no longer than the history is that on a file of it,
               however it was cut into pieces; of a longer input it is that on its last ``history_s``.

What is lost stays in its place: a gap of known length, NaN and infinity become zeros, are counted, and named on
every window that they fall in. A window of which more than ``MAX_LOST_SHARE`` is lost has no score and no part in
statistics or "so far", and neither has one that a gap of unknown length falls in, on whose sides stand sounds that
were never next to each other. Memory is that of the history, 4 bytes a sample at the model's rate, and of one
window, however long one listens.

Research use only, not a diagnosis.
"""

import math
import queue
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vagitus.audio import (
    HEAD_BYTES,
    INT16_SCALE,
    MAX_PEAK,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    SYNCED,
    announced,
)
from vagitus.export import Moments
from vagitus.predict import Prediction, Predictor

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

HISTORY_S = 60.0
MAX_HISTORY_S = 3600.0  # 230 MB at 16 kHz, and seconds to score at the end
MAX_LOST_SHARE = 0.25  # of a window; our choice: the rest is still most of what the model hears at once
# At most at once: half a second of 16 kHz. A pipe gives what it has, so it adds no delay.
READ_BYTES = 1 << 14
MICROPHONE_BLOCK_S = 0.05
MICROPHONE_QUEUE_S = 10.0  # of sound that waits for the model; what comes on top of it is lost and counted
MICROPHONE_SILENT_S = 5.0  # without a block: unplugged
LIVE_INSTALL = "pip install 'vagitus[live]'"
PIPE_INSTEAD = "arecord -t raw -f S16_LE -r 16000 | vagitus listen MODEL.onnx - --rate 16000"
LEAST_HEAD_BYTES = 64
LEAST_TEXT = 12  # characters; silence is zeros, which no text holds
LEAST_SYNCS = 3  # of the same two bytes in HEAD_BYTES: frames of mp3 or AAC, of which the longest has 1441


class Lost(NamedTuple):
    """In place of samples: a gap. 0 where nobody can say how long it was."""

    n_samples: int


Piece = NDArray[Any] | Lost


class Heard(NamedTuple):
    """One window, see the module's conventions; times from the first sample heard."""

    start_s: float
    end_s: float
    score: float  # NaN if it is silent or lost
    decision: str  # "" if it is silent or lost
    so_far: float  # NaN while all of the history is silent or lost
    level_dbfs: float
    lost_s: float  # of the window
    reason: str  # why there is no score, "" if there is one


@dataclass(frozen=True)
class Summary:
    """What has been heard.

    Attributes:
        heard_s: from the first sample to the last, gaps included.
        n_windows: scored, silent or lost.
        n_scored: of them, with a score.
        lost_s, n_gaps: in all; a gap of unknown length is counted but has no seconds.
        from_s: where the history begins; ``prediction`` counts its times from there.
        prediction: of the history.
    """

    heard_s: float
    n_windows: int
    n_scored: int
    lost_s: float
    n_gaps: int
    from_s: float
    prediction: Prediction


class _Step(NamedTuple):
    """What is remembered of the frames that a window added."""

    n_frames: int
    moments: Moments | None  # None where the model needs none, or they are lost
    logits: Float64 | None  # of the window that ends with them; None where none does, or it is lost
    energy: float  # sum of squares of their samples


class Listener:
    """Scores sound as it comes.

    Args:
        predictor: an open model.
        sample_rate_hz: of what is heard.
        history_s: what is remembered, at least a window.

    Raises:
        ValueError: a rate that no sound has, or a history shorter than a window or beyond ``MAX_HISTORY_S``.
    """

    def __init__(self, predictor: Predictor, sample_rate_hz: int, *, history_s: float = HISTORY_S) -> None:
        import soxr

        model = predictor.model
        self._hop, self._context = model.hop_samples, model.context_samples
        self._window, self._step = model.window_frames, max(model.window_frames // 2, 1)
        rate_hz = model.sample_rate_hz
        if not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
            raise ValueError(
                f"a rate of {sample_rate_hz} Hz; give one from {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
            )
        window_s = self._window * self._hop / rate_hz
        if not window_s <= history_s <= MAX_HISTORY_S:
            raise ValueError(
                f"a history of {history_s:g} s; give one from {window_s:g} s, a window, to {MAX_HISTORY_S:g} s"
            )
        self.predictor = predictor
        self.sample_rate_hz = sample_rate_hz
        self.delay_samples = self._context
        self._model_hz = rate_hz
        self._history_frames = math.ceil(history_s * rate_hz / self._hop)
        self._resampler = None
        if sample_rate_hz != rate_hz:
            self._resampler = soxr.ResampleStream(sample_rate_hz, rate_hz, 1, dtype="float32", quality="HQ")
        # At the model's rate. The first sample ahead is one of the context of the next window.
        self._ahead: Float32 = np.zeros(self._context, np.float32)
        self._history = np.zeros(round(history_s * rate_hz), np.float32)  # a ring; its end is at n_resampled
        self._n_resampled = 0
        self._steps: deque[_Step] = deque()
        self._lost: deque[tuple[float, float]] = deque()  # stretches in seconds, as far as windows still ask
        self._seams_s: deque[float] = deque()  # gaps of unknown length, likewise
        self._n_heard = self._n_lost = self._n_gaps = self._n_windows = self._n_scored = 0
        self._is_finished = False

    def hear(self, samples: NDArray[Any]) -> list[Heard]:
        """The next samples, (n_samples,) float in [-1, 1] or int16; gives the windows that are complete now.

        Raises:
            ValueError: another shape or type, or the listener has finished.
        """
        if self._is_finished:
            raise ValueError("this listener has finished; make another")
        if samples.ndim != 1 or samples.dtype not in (np.int16, np.float32, np.float64):
            raise ValueError(
                f"samples must be (n_samples,) float or int16, got {samples.shape} {samples.dtype}"
            )
        scale = INT16_SCALE if samples.dtype == np.int16 else 1
        mono: Float32 = samples.astype(np.float32) / np.float32(scale)
        wrong = ~(np.abs(mono) <= MAX_PEAK)  # NaN, infinity, and what was never scaled
        if wrong.any():
            mono[wrong] = 0
            edges = np.flatnonzero(np.diff(wrong, prepend=False, append=False))
            for begin, end in edges.reshape(-1, 2).tolist():
                self._n_gaps += 1
                self._note_lost(self._n_heard + begin, end - begin)
        self._n_heard += len(mono)
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono)
        return self._take(mono)

    def lose(self, n_samples: int) -> list[Heard]:
        """A gap where ``n_samples`` should have been, 0 if unknown; as ``hear``.

        Raises:
            ValueError: fewer than 0, or the listener has finished.
        """
        if n_samples < 0:
            raise ValueError(f"a gap of {n_samples} samples; give 0 if unknown")
        if self._is_finished:
            raise ValueError("this listener has finished; make another")
        self._n_gaps += 1
        if n_samples == 0:
            self._seams_s.append(self._n_heard / self.sample_rate_hz)
        found = []
        # A second at a time: an hour at once would be memory.
        for n_done in range(0, n_samples, self.sample_rate_hz):
            n_now = min(self.sample_rate_hz, n_samples - n_done)
            self._note_lost(self._n_heard, n_now)
            found += self.hear(np.zeros(n_now, np.float32))
        return found

    def finish(self) -> tuple[list[Heard], Summary]:
        """The end: windows that the resampler still held, and what ``predict`` says of the history.

        Raises:
            ValueError: the listener has finished already.
        """
        if self._is_finished:
            raise ValueError("this listener has finished; make another")
        last: list[Heard] = []
        if self._resampler is not None and self._n_heard:
            last = self._take(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
        self._is_finished = True
        n_kept = min(self._n_resampled, len(self._history))
        # The oldest sample of a full ring is where the next would go; one that is not full begins at 0.
        kept = np.roll(self._history, -self._n_resampled)[len(self._history) - n_kept :]
        summary = Summary(
            heard_s=self._n_heard / self.sample_rate_hz,
            n_windows=self._n_windows,
            n_scored=self._n_scored,
            lost_s=self._n_lost / self.sample_rate_hz,
            n_gaps=self._n_gaps,
            from_s=(self._n_resampled - n_kept) / self._model_hz,
            prediction=self.predictor.predict(kept, self._model_hz),
        )
        return last, summary

    def _note_lost(self, first: int, n_samples: int) -> None:
        self._n_lost += n_samples
        self._lost.append((first / self.sample_rate_hz, (first + n_samples) / self.sample_rate_hz))

    def _take(self, samples: Float32) -> list[Heard]:
        """Samples at the model's rate -> the windows that are complete with them."""
        self._remember(samples)
        self._ahead = np.concatenate([self._ahead, samples])
        n_wanted = (self._window - 1) * self._hop + 2 * self._context
        found = []
        while len(self._ahead) >= n_wanted:
            found.append(self._score(self._ahead[:n_wanted]))
            self._ahead = self._ahead[self._step * self._hop :]
        return found

    def _remember(self, samples: Float32) -> None:
        n_ring = len(self._history)
        self._n_resampled += len(samples)
        newest = samples[-n_ring:]
        begin = (self._n_resampled - len(newest)) % n_ring
        n_straight = min(len(newest), n_ring - begin)
        self._history[begin : begin + n_straight] = newest[:n_straight]
        self._history[: len(newest) - n_straight] = newest[n_straight:]

    def _score(self, waveform: Float32) -> Heard:
        """``waveform``: the samples of the next window with their context."""
        model = self.predictor.model
        first = self._n_windows * self._step
        start_s = first * self._hop / self._model_hz
        end_s = (first + self._window) * self._hop / self._model_hz
        while self._lost and self._lost[0][1] <= start_s:
            self._lost.popleft()
        while self._seams_s and self._seams_s[0] <= start_s:
            self._seams_s.popleft()
        lost_s, reason = self._missing(start_s, end_s)
        # Frames that no window before this one had. The first window's are two steps, so that they leave the history
        # half by half as all others do.
        begins = [self._window - self._step] if self._n_windows else [0, self._window - self._step]
        for begin, end in zip(begins, [*begins[1:], self._window], strict=True):
            new = waveform[begin * self._hop : (end - 1) * self._hop + 2 * self._context]
            _, missing = self._missing(*((first + at) * self._hop / self._model_hz for at in (begin, end)))
            known = model.needs_statistics and end > begin and not missing
            moments = model.moments(new) if known else None
            self._steps.append(_Step(end - begin, moments, None, self._energy(new, end - begin)))
        while sum(step.n_frames for step in self._steps) > self._history_frames:
            self._steps.popleft()
        self._n_windows += 1

        silent_dbfs = model.header["silent_dbfs"]
        level_dbfs = self._dbfs(self._energy(waveform, self._window), self._window)
        score, decision = math.nan, ""
        if not reason:
            # Not both halves of a window that is heard can be lost.
            stretches = [step.moments for step in self._steps if step.moments is not None]
            pooled = Moments.pooled(stretches) if stretches else None
            logits = model.run([model.window_feed(waveform, pooled)])[0].astype(np.float64)
            self._steps[-1] = self._steps[-1]._replace(logits=logits)
            if level_dbfs < silent_dbfs:
                reason = f"silent: {level_dbfs:.0f} dBFS"
            else:
                decided, shown, p = self.predictor.judge(logits)
                score, decision = float(p[shown]), self.predictor.class_names[decided]
                self._n_scored += 1
        so_far = math.nan
        n_frames = sum(step.n_frames for step in self._steps)
        heard = [step.logits for step in self._steps if step.logits is not None]
        if heard and self._dbfs(sum(step.energy for step in self._steps), n_frames) >= silent_dbfs:
            _, shown, p = self.predictor.judge(np.mean(heard, axis=0))
            so_far = float(p[shown])
        return Heard(start_s, end_s, score, decision, so_far, level_dbfs, lost_s, reason)

    def _missing(self, start_s: float, end_s: float) -> tuple[float, str]:
        """Seconds of a stretch that are lost, and why it counts for nothing then, or ""."""
        lost_s = sum(max(0.0, min(end, end_s) - max(begin, start_s)) for begin, end in self._lost)
        # Sums of many stretches end a rounding short of a window.
        if lost_s > 0.999 * (end_s - start_s):
            return lost_s, "lost: nothing of it arrived"
        if lost_s > MAX_LOST_SHARE * (end_s - start_s):
            return lost_s, f"lost: {lost_s:.2f} s of it did not arrive"
        if any(start_s < seam_s < end_s for seam_s in self._seams_s):
            return lost_s, "lost: a gap of unknown length falls in it"
        return lost_s, ""

    def _energy(self, waveform: Float32, n_frames: int) -> float:
        """Sum of squares of the samples of frames, a hop each, without their context."""
        own = waveform[self._context : self._context + n_frames * self._hop]
        return float(np.square(own, dtype=np.float64).sum())

    def _dbfs(self, energy: float, n_frames: int) -> float:
        return 10 * math.log10(energy / (n_frames * self._hop)) if energy else -math.inf


# Where sound comes from.


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


class PcmReader:
    """Raw PCM, 16 bits signed, little-endian, mono, as it comes from a pipe: short reads, halves of samples.

    Iterating gives int16 samples (n_samples,). ``n_stray_bytes`` is 1 if the input ended within a sample.

    Args:
        source: unbuffered, whose ``read`` gives what is there.
        name: of the source, for errors.

    Raises:
        ValueError: while iterating, before the first samples: the input is a sound file or text, or is empty.
    """

    def __init__(self, source: _Bytes, name: str = "standard input") -> None:
        self._source = source
        self._name = name
        self.n_stray_bytes = 0

    def __iter__(self) -> Iterator[NDArray[np.int16]]:
        held, n_wanted = b"", LEAST_HEAD_BYTES
        while len(held) < n_wanted and (more := self._source.read(READ_BYTES)):
            held += more
            if announced(held) in SYNCED:
                n_wanted = HEAD_BYTES  # of samples, an eighth of a second or so
        self._check(held)
        while True:
            whole = len(held) // 2 * 2
            if whole:
                yield np.frombuffer(held[:whole], "<i2").astype(np.int16)
            more = self._source.read(READ_BYTES)
            if not more:
                break
            held = held[whole:] + more
        self.n_stray_bytes = len(held) - whole

    def _check(self, head: bytes) -> None:
        if not head:
            raise ValueError(
                f"{self._name}: ended without a sample; pipe raw PCM into it, such as {PIPE_INSTEAD}"
            )
        what = announced(head)
        if what and (what not in SYNCED or head.count(head[:2]) >= LEAST_SYNCS):
            raise ValueError(
                f"{self._name}: no raw PCM but {what} ({head[:4]!r}), whose bytes would be heard as noise; "
                "give a recording to `vagitus predict`"
            )
        try:
            text = getincrementaldecoder("utf-8")().decode(head)  # its last character may be cut
        except UnicodeDecodeError:
            return
        if len(text) >= LEAST_TEXT and all(char.isprintable() or char.isspace() for char in text):
            raise ValueError(
                f"{self._name}: text ({text[:30]!r}), not raw PCM; pipe samples into it, such as {PIPE_INSTEAD}"
            )


class Microphone:
    """An input device, through PortAudio. Iterating gives int16 samples, and ``Lost`` in place of those that were.

    It ends when no block has come for ``MICROPHONE_SILENT_S``; ``unplugged`` is True then.

    Args:
        device: number or part of a name; None is the default one.
        preferred_hz: its rate, if the device has it; else the device's own. See ``sample_rate_hz``.

    Raises:
        ImportError: sounddevice or PortAudio are missing.
        ValueError: there is no such input device, or it cannot be opened.
    """

    def __init__(self, device: str | int | None, preferred_hz: int) -> None:
        try:
            sounddevice = import_module("sounddevice")
        except ImportError as error:
            raise ImportError(
                f"a microphone needs sounddevice: {LIVE_INSTALL}; or without it: {PIPE_INSTEAD}"
            ) from error
        except OSError as error:  # the package is there, the library is not
            raise ImportError(
                f"a microphone needs the PortAudio library ({error}): apt install libportaudio2, or another "
                f"system's package of it; or without it: {PIPE_INSTEAD}"
            ) from error
        self._sounddevice = sounddevice
        self._device = device
        try:
            found = sounddevice.query_devices(device, "input")
        except (ValueError, sounddevice.PortAudioError) as error:
            inputs = [d["name"] for d in sounddevice.query_devices() if d["max_input_channels"] > 0]
            raise ValueError(
                f"no input device {'by default' if device is None else repr(device)} "
                f"({' '.join(str(error).split())}); there are {', '.join(inputs) or 'none'}; or pipe: {PIPE_INSTEAD}"
            ) from None
        self.name: str = found["name"]
        self.unplugged = False
        self.sample_rate_hz = preferred_hz
        try:
            sounddevice.check_input_settings(device, channels=1, dtype="int16", samplerate=preferred_hz)
        except sounddevice.PortAudioError:
            self.sample_rate_hz = round(found["default_samplerate"])

    def __iter__(self) -> Iterator[Piece]:
        n_block = max(1, round(MICROPHONE_BLOCK_S * self.sample_rate_hz))
        # Each block with how many samples were lost before it, and whether the system lost some that nobody counted.
        waiting: queue.Queue[tuple[int, bool, bytes]] = queue.Queue(
            maxsize=round(MICROPHONE_QUEUE_S / MICROPHONE_BLOCK_S)
        )
        n_lost, overflowed = 0, False

        def arrived(data: Any, n_frames: int, _: Any, status: Any) -> None:
            nonlocal n_lost, overflowed
            overflowed |= bool(status.input_overflow)
            try:
                waiting.put_nowait((n_lost, overflowed, bytes(data)))
                n_lost, overflowed = 0, False
            except queue.Full:
                n_lost += n_frames

        try:
            stream = self._sounddevice.RawInputStream(
                samplerate=self.sample_rate_hz,
                blocksize=n_block,
                device=self._device,
                channels=1,
                dtype="int16",
                callback=arrived,
            )
        except self._sounddevice.PortAudioError as error:
            raise ValueError(f"{self.name}: {' '.join(str(error).split())}; give another --device") from None
        with stream:
            while True:
                try:
                    n_before, unknown, data = waiting.get(timeout=MICROPHONE_SILENT_S)
                except queue.Empty:
                    self.unplugged = True
                    return
                if unknown:
                    yield Lost(0)
                if n_before:
                    yield Lost(n_before)
                yield np.frombuffer(data, np.int16)
