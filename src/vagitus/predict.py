"""The one door to a prediction: a model.onnx, recordings in, calibrated probabilities and decisions out. No torch.

Conventions
    score      calibrated probability: of the positive class where there are two, else of the decided class; of a
               recording, it is what ``evaluate`` computes. NaN where the model abstains
    event      windows in a row whose score reaches the threshold (0.5 where there is none), from the beginning of the
               first to the end of the last; its score is the highest of theirs
    windows    the same of every window. Calibration was fitted on whole recordings, so these say where in a
               recording a score comes from and no more
    abstains   a prediction with a ``reason`` and no score: nothing is guessed for a recording that cannot be read,
               is silent, or is shorter than one frame

Memory does not grow with a recording's length: beyond a minute it is decoded again for each pass over it, which
are three at most (level, statistics where the model normalises by them, windows).

Research use only, not a diagnosis: ``Predictor.notice`` is to be shown wherever a score is.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus.audio import INT16_SCALE, MAX_PEAK, AudioError, read, resample
from vagitus.export import Blocks, OnnxModel, recording_blocks
from vagitus.files import atomic_path
from vagitus.scale import Quarantined, spread

MAX_PLOT_S = 30.0  # a few hundred cells, each a prediction of the whole: ten seconds of work
OCCLUSION_FRAME_S = 0.032
OCCLUSION_CELL_S = 0.25
OCCLUSION_TIMES = 24  # at most
OCCLUSION_BANDS = 8


@dataclass(frozen=True)
class Window:
    """A stretch of a recording that the model saw at once, and its score."""

    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True)
class Prediction:
    """What a model says of a recording, or why it says nothing.

    Attributes:
        path: as it was given; "" for an array.
        score: see the module; NaN if it abstains.
        decision: a class name; "" if it abstains.
        probabilities: calibrated, by class; {} if it abstains.
        threshold: that the score was held against; None for more than two classes.
        duration_s: NaN if the recording cannot be read.
        windows: in order of time.
        reason: why it abstains; "" if it does not.
    """

    path: str
    score: float
    decision: str
    probabilities: dict[str, float]
    threshold: float | None
    duration_s: float
    windows: tuple[Window, ...]
    reason: str = ""

    @property
    def events(self) -> tuple[Window, ...]:
        """Where the score of a class comes to its threshold, see the module; in order of time."""
        least = 0.5 if self.threshold is None else self.threshold
        found: list[Window] = []
        follows = False
        for window in self.windows:
            reaches = window.score >= least
            if reaches and follows:
                found[-1] = Window(found[-1].start_s, window.end_s, max(found[-1].score, window.score))
            elif reaches:
                found.append(window)
            follows = reaches
        return tuple(found)


class Predictor:
    """A model.onnx, opened once for many recordings.

    Args:
        path: what ``export_onnx`` or ``quantise`` wrote.
        n_threads: of onnxruntime; one is the fastest for small models.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not ONNX, not ours, another format version, or weights in other files.
    """

    def __init__(self, path: Path | str, *, n_threads: int = 1) -> None:
        self.model = OnnxModel(path, n_threads=n_threads)
        self._made_of = Path(path).absolute(), n_threads
        self.notice: str = self.model.header["notice"]
        self.class_names = self.model.class_names

    def predict(
        self,
        recording: Path | str | NDArray[Any],
        sample_rate_hz: int | None = None,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
    ) -> Prediction:
        """Score one recording.

        Args:
            recording: a file, or mono samples (n_samples,): floats in [-1, 1], or int16.
            sample_rate_hz: of the samples; a file tells its own.
            start_s, end_s: a stretch of a file, in seconds.

        Raises:
            FileNotFoundError: nothing at the path.
            ValueError: samples without a rate, a file with one, or samples of another shape or type.
        """
        if isinstance(recording, np.ndarray):
            if sample_rate_hz is None:
                raise ValueError("samples come without a rate; give sample_rate_hz")
            return self._samples(recording, sample_rate_hz)
        if sample_rate_hz is not None:
            raise ValueError(f"{recording}: a file tells its own rate; leave sample_rate_hz out")
        try:
            blocks = recording_blocks(recording, self.model.sample_rate_hz, start_s=start_s, end_s=end_s)
            return self._score(str(recording), blocks)
        except AudioError as error:
            return _abstained(str(recording), math.nan, str(error))

    def predict_files(self, paths: Iterable[Path | str], *, n_workers: int = 1) -> Iterator[Prediction]:
        """Score files, and every recording in folders and the folders in them, in their order.

        A recording that ends the process which scores it, twice, is abstained from, where there are several.

        Args:
            n_workers: processes, each with the model; 1 works in this one. Within ``scale.cluster`` its workers.

        Raises:
            FileNotFoundError: nothing at a path; before the first is scored.
        """
        return self._in_order(find_recordings(paths), n_workers)

    def _in_order(self, recordings: list[Path], n_workers: int) -> Iterator[Prediction]:
        done: dict[int, Prediction] = {}  # before one that they come after
        n_given = 0
        for index, answer in spread(self.predict, ((path,) for path in recordings), n_workers):
            if isinstance(answer, Quarantined):
                path = recordings[index]
                done[index] = _abstained(str(path), math.nan, f"{path}: {answer}")
            else:
                done[index] = answer
            while n_given in done:
                yield done.pop(n_given)
                n_given += 1

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process opens the file itself.
        return _reopened, self._made_of

    def judge(self, logits: NDArray[Any]) -> tuple[int, int, NDArray[np.float64]]:
        """(class decided, class shown, calibrated probabilities (n_classes,)) of logits (n_classes,)."""
        p = self.model.probabilities(logits[None])
        decision = int(self.model.decisions(logits[None], p)[0])
        # The positive class of two is the last.
        return decision, 1 if len(self.class_names) == 2 else decision, p[0]

    def _samples(self, samples: NDArray[Any], sample_rate_hz: int) -> Prediction:
        if samples.ndim != 1 or samples.dtype not in (np.int16, np.float32, np.float64):
            raise ValueError(
                f"samples must be (n_samples,) float or int16, got {samples.shape} {samples.dtype}"
            )
        scale = INT16_SCALE if samples.dtype == np.int16 else 1
        mono: NDArray[np.float32] = samples.astype(np.float32) / np.float32(scale)
        duration_s = len(mono) / sample_rate_hz
        peak = float(np.abs(mono).max(initial=0))
        if not peak <= MAX_PEAK:
            found = (
                f"samples reach {peak:g}, full scale is 1; scale them"
                if math.isfinite(peak)
                else "NaN or infinity"
            )
            return _abstained("", duration_s, f"cannot be read: {found}")
        if len(mono):
            mono = resample(mono, sample_rate_hz, self.model.sample_rate_hz)
        return self._score("", lambda: [mono])

    def _score(self, path: str, blocks: Blocks) -> Prediction:
        model = self.model
        n_samples, power = 0, 0.0
        for block in blocks():
            n_samples += len(block)
            power += float(np.square(block, dtype=np.float64).sum())
        duration_s = n_samples / model.sample_rate_hz
        if n_samples < model.least_samples:
            least_s = model.least_samples / model.sample_rate_hz
            return _abstained(path, duration_s, f"too short: {duration_s:.3f} s, a frame needs {least_s:g} s")
        level_dbfs = 10 * math.log10(power / n_samples) if power else -math.inf
        if level_dbfs < model.header["silent_dbfs"]:
            return _abstained(path, duration_s, f"silent: {level_dbfs:.0f} dBFS; record it again")
        scored = model.score(blocks, n_samples)
        decision, shown, p = self.judge(scored.pooled)
        hop_s = model.hop_samples / model.sample_rate_hz
        scores = model.probabilities(scored.logits)[:, shown]
        windows = tuple(
            Window(start * hop_s, min((start + model.window_frames) * hop_s, duration_s), float(score))
            for start, score in zip(scored.starts.tolist(), scores, strict=True)
        )
        return Prediction(
            path=path,
            score=float(p[shown]),
            decision=self.class_names[decision],
            probabilities=dict(zip(self.class_names, p.tolist(), strict=True)),
            threshold=model.threshold,
            duration_s=duration_s,
            windows=windows,
        )


def _reopened(path: Path, n_threads: int) -> Predictor:
    return Predictor(path, n_threads=n_threads)


def find_recordings(paths: Iterable[Path | str]) -> list[Path]:
    """Files as they are; of a folder all files with a suffix of audio, in it and below, sorted by path.

    Raises:
        FileNotFoundError: nothing at a path, or no recording in a folder.
    """
    # Here, as it brings all corpora with it, which a prediction on one file does not wait for.
    from vagitus.corpora.corpus import AUDIO_SUFFIXES

    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(f for f in path.rglob("*") if f.suffix.lower() in AUDIO_SUFFIXES and f.is_file())
            if not inside:
                raise FileNotFoundError(
                    f"{path}: no recordings in this folder; name files to have others tried"
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file; check the path")
    return found


def to_json(predictions: Sequence[Prediction], notice: str) -> str:
    """One JSON text: the notice and all predictions with their windows and events; unknown is null."""
    rows = [
        without_nan({**asdict(row), "events": [asdict(event) for event in row.events]}) for row in predictions
    ]
    return json.dumps({"notice": notice, "predictions": rows}, ensure_ascii=False, allow_nan=False)


def to_csv(predictions: Sequence[Prediction], class_names: Sequence[str]) -> str:
    """One row per recording, a column ``p:CLASS`` for each class; unknown is blank."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    probabilities = [f"p:{name}" for name in class_names]
    writer.writerow(["path", "score", "decision", "threshold", "duration_s", "reason", *probabilities])
    for row in predictions:
        known = [row.score, row.decision, row.threshold, row.duration_s, row.reason]
        values = [*known, *(row.probabilities.get(name, math.nan) for name in class_names)]
        writer.writerow([row.path, *("" if value is None else without_nan(value) for value in values)])
    return out.getvalue()


def to_stretches_csv(predictions: Sequence[Prediction], kind: Literal["event", "window"]) -> str:
    """One row per event or window, and one for a recording without any, with its reason; unknown is blank."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "start_s", "end_s", "score", "reason"])
    for row in predictions:
        stretches = row.events if kind == "event" else row.windows
        for stretch in stretches:
            writer.writerow([row.path, stretch.start_s, stretch.end_s, stretch.score, ""])
        if not stretches:
            writer.writerow([row.path, "", "", "", row.reason])
    return out.getvalue()


# Where in a recording a score comes from.


class Occlusion(NamedTuple):
    """How far the score falls when a cell of time and frequency is made ordinary.

    Attributes:
        time_s: (n_times + 1,) edges of the cells.
        frequency_hz: (n_bands + 1,) edges.
        fall: (n_bands, n_times) score of the whole less the score without the cell; above zero, the cell spoke
            for it. NaN where the model abstains without it.
    """

    time_s: NDArray[np.float64]
    frequency_hz: NDArray[np.float64]
    fall: NDArray[np.float64]


def occlusion(predictor: Predictor, samples: NDArray[np.float32]) -> Occlusion:
    """Occlusion saliency of a recording's score, over time and frequency.

    In one cell at a time, lines of the short-time spectrum that are louder than their median over the
    recording are lowered to it, keeping their phase; the rest stays. Zeros instead would be a sound that no
    recording has. The score is that of the class shown. After Zeiler & Fergus 2014 (arXiv:1311.2901,
    section 4.2), who cover squares of an image in grey.

    Args:
        samples: (n_samples,) at the model's rate, up to ``MAX_PLOT_S``.

    Raises:
        ValueError: longer, or the model abstains from the whole.
    """
    model = predictor.model
    rate_hz = model.sample_rate_hz
    if len(samples) > MAX_PLOT_S * rate_hz:
        raise ValueError(
            f"{len(samples) / rate_hz:.1f} s are too long to look into cell by cell; give {MAX_PLOT_S:g} s at most"
        )
    whole = predictor.predict(samples, rate_hz)
    if whole.reason:
        raise ValueError(f"nothing to look into: {whole.reason}")
    shown = predictor.class_names[-1] if len(predictor.class_names) == 2 else whole.decision
    n_fft = 1 << round(math.log2(OCCLUSION_FRAME_S * rate_hz))
    spectrum = _stft(samples, n_fft)  # (n_frames, n_fft / 2 + 1)
    size = np.abs(spectrum)
    ordinary = np.minimum(size, np.median(size, axis=0))
    quieter = spectrum * (ordinary / np.maximum(size, np.finfo(np.float32).tiny))

    n_times = int(np.clip(round(whole.duration_s / OCCLUSION_CELL_S), 1, OCCLUSION_TIMES))
    time_s = np.linspace(0, whole.duration_s, n_times + 1)
    # Even steps in mel: linear to 1 kHz, then logarithmic. O'Shaughnessy's formula is near enough for cells.
    top_mel = 2595 * math.log10(1 + rate_hz / 2 / 700)
    frequency_hz = 700 * (10 ** (np.linspace(0, top_mel, OCCLUSION_BANDS + 1) / 2595) - 1)
    frames_s = np.arange(len(spectrum)) * (n_fft // 2) / rate_hz
    bins_hz = np.arange(n_fft // 2 + 1) * rate_hz / n_fft
    column = np.clip(np.searchsorted(time_s, frames_s, side="right") - 1, 0, n_times - 1)
    row = np.clip(np.searchsorted(frequency_hz, bins_hz, side="right") - 1, 0, OCCLUSION_BANDS - 1)
    fall = np.full((OCCLUSION_BANDS, n_times), math.nan)
    for band, time in np.ndindex(*fall.shape):
        cell = (column == time)[:, None] & (row == band)
        without = predictor.predict(_istft(np.where(cell, quieter, spectrum), n_fft, len(samples)), rate_hz)
        fall[band, time] = whole.probabilities[shown] - without.probabilities.get(shown, math.nan)
    return Occlusion(time_s, frequency_hz, fall)


def _stft(samples: NDArray[np.float32], n_fft: int) -> NDArray[np.complex64]:
    """Frames that overlap by half under the root of a Hann window, so that ``_istft`` gives the samples back."""
    hop = n_fft // 2
    n_frames = len(samples) // hop + 2
    padded = np.zeros((n_frames + 1) * hop, np.float32)
    padded[hop : hop + len(samples)] = samples
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    return np.asarray(np.fft.rfft(frames * _root_hann(n_fft), axis=1), np.complex64)


def _istft(spectrum: NDArray[np.complex64], n_fft: int, n_samples: int) -> NDArray[np.float32]:
    hop = n_fft // 2
    frames = np.fft.irfft(spectrum, n_fft, axis=1) * _root_hann(n_fft)
    halves = frames.reshape(len(frames), 2, hop)
    joined = np.concatenate([halves[:, 0], np.zeros((1, hop))])
    joined[1:] += halves[:, 1]
    return joined.ravel()[hop : hop + n_samples].astype(np.float32)


def _root_hann(n_fft: int) -> NDArray[np.float64]:
    return np.sin(np.pi * np.arange(n_fft) / n_fft)


def plot_prediction(predictor: Predictor, path: Path | str, out_path: Path | str) -> Prediction:
    """A PNG of one recording: its spectrum and F0, the windows' scores, and where the score comes from.

    Args:
        path: a recording of up to ``MAX_PLOT_S``.

    Raises:
        AudioError, FileNotFoundError: it cannot be read.
        ValueError: longer, or the model abstains.
        ImportError: matplotlib is missing.
        OSError: ``out_path`` cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a plot needs matplotlib: pip install 'vagitus[viz]'") from error
    from vagitus.pitch import F_MAX_HZ, MAX_SHARE_OF_RATE, N_PERIODS, track
    from vagitus.pitch import F_MIN_HZ as LOWEST_HZ

    rate_hz = predictor.model.sample_rate_hz
    samples, _ = read(path, sample_rate_hz=rate_hz)
    try:
        where = occlusion(predictor, samples)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    found = predictor.predict(samples, rate_hz)
    n_fft = 1 << round(math.log2(OCCLUSION_FRAME_S * rate_hz))
    power = np.square(np.abs(_stft(samples, n_fft))).T
    level_db = 10 * np.log10(np.maximum(power, 1e-12))
    shown = predictor.class_names[-1] if len(predictor.class_names) == 2 else found.decision

    figure = Figure(figsize=(10, 9), dpi=120, layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 3))
    half_frame_s = n_fft / 4 / rate_hz
    image = top.imshow(
        level_db,
        origin="lower",
        aspect="auto",
        cmap="viridis",
        vmin=level_db.max() - 80,  # what is fainter is the recorder's own noise
        extent=(-half_frame_s, -half_frame_s + power.shape[1] * n_fft / 2 / rate_hz, 0, rate_hz / 2),
    )
    figure.colorbar(image, ax=top, label="Power (dB)")
    f_max_hz = min(F_MAX_HZ, MAX_SHARE_OF_RATE * rate_hz)
    if f_max_hz > LOWEST_HZ and len(samples) > math.ceil(N_PERIODS * rate_hz / LOWEST_HZ):
        pitch = track(samples, rate_hz, f_max_hz=f_max_hz)
        top.plot(pitch.time_s, pitch.f0_hz, "w-", lw=3.0)
        top.plot(pitch.time_s, pitch.f0_hz, "k-", lw=1.2, label="F0")
        top.legend(loc="upper right")
    top.set_ylabel("Frequency (Hz)")
    top.set_title(f"{Path(path).name}: {found.decision}, {shown} {found.score:.3f}", parse_math=False)

    for window in found.windows:
        middle.plot([window.start_s, window.end_s], [window.score] * 2, "-", color="tab:blue", lw=2)
    middle.axhline(found.score, color="black", lw=1, ls="--", label="recording")
    if found.threshold is not None:
        middle.axhline(found.threshold, color="tab:red", lw=1, ls=":", label="threshold")
    middle.set_ylim(-0.02, 1.02)
    middle.set_ylabel(f"Score of each window:\n{shown}", parse_math=False)
    middle.legend(loc="upper right")

    most = float(np.nanmax(np.abs(where.fall), initial=1e-6))
    cells = bottom.pcolormesh(
        where.time_s, where.frequency_hz, where.fall, cmap="PuOr_r", vmin=-most, vmax=most
    )
    figure.colorbar(cells, ax=bottom, label="Fall of the score without it")
    bottom.set_ylabel("Frequency (Hz)")
    bottom.set_xlabel(f"Time (s)\n{predictor.notice}", parse_math=False)
    bottom.set_xlim(0, found.duration_s)
    with atomic_path(Path(out_path)) as temporary:
        figure.savefig(temporary, format="png")
    return replace(found, path=str(path))


def _abstained(path: str, duration_s: float, reason: str) -> Prediction:
    return Prediction(path, math.nan, "", {}, None, duration_s, (), reason)


def without_nan(value: Any) -> Any:
    """For JSON: NaN and infinity become None, in mappings and sequences too."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
