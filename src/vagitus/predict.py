"""The one door to a prediction: a model.onnx, recordings in, calibrated probabilities and decisions out. No torch.

Conventions
    score      calibrated probability: of the positive class where there are two, else of the decided class; of a
               recording, it is what ``evaluate`` computes. NaN where the model abstains
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vagitus.audio import INT16_SCALE, MAX_PEAK, AudioError, resample
from vagitus.export import Blocks, OnnxModel, recording_blocks


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

    def predict_files(self, paths: Iterable[Path | str]) -> Iterator[Prediction]:
        """Score files, and every recording in folders and the folders in them, each as soon as it is done.

        Raises:
            FileNotFoundError: nothing at a path; before the first is scored.
        """
        return map(self.predict, find_recordings(paths))

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
        logits = scored.pooled[None]
        p = model.probabilities(logits)
        decision = int(model.decisions(logits, p)[0])
        # The positive class of two is the last.
        shown = 1 if len(self.class_names) == 2 else decision
        hop_s = model.hop_samples / model.sample_rate_hz
        scores = model.probabilities(scored.logits)[:, shown]
        windows = tuple(
            Window(start * hop_s, min((start + model.window_frames) * hop_s, duration_s), float(score))
            for start, score in zip(scored.starts.tolist(), scores, strict=True)
        )
        return Prediction(
            path=path,
            score=float(p[0, shown]),
            decision=self.class_names[decision],
            probabilities=dict(zip(self.class_names, p[0].tolist(), strict=True)),
            threshold=model.threshold,
            duration_s=duration_s,
            windows=windows,
        )


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
    """One JSON text: the notice and all predictions with their windows; unknown is null."""
    rows = [_without_nan(asdict(prediction)) for prediction in predictions]
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
        writer.writerow([row.path, *("" if value is None else _without_nan(value) for value in values)])
    return out.getvalue()


def _abstained(path: str, duration_s: float, reason: str) -> Prediction:
    return Prediction(path, math.nan, "", {}, None, duration_s, (), reason)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
