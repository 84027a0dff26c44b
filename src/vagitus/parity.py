"""Whether two forms of a model score alike: on which recordings, by how much they differ, and when that is too much.

Conventions
    before, after   two forms of one model, each a function from samples (n_samples,) at the model's rate to the mean
                    of the logits over windows, (n_classes,)
    difference      of calibrated probabilities, with one calibration and threshold for both
    compared        the first ``COMPARED_S`` of every recording. What cannot be read is skipped, and named
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vagitus.audio import AudioError, stream
from vagitus.manifest import Manifest, build_manifest
from vagitus.metrics import macro_auroc

if TYPE_CHECKING:
    from vagitus.checkpoint import ModelCard

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Scorer = Callable[[Float32], Float64]

COMPARED_S = 60.0  # an hour holds no kind of difference that its first minute does not


@dataclass(frozen=True)
class Limits:
    """How far an exported model may be from the one it was made of.

    Attributes:
        difference: of a recording's calibrated probability, the largest.
        changed_share: of recordings decided otherwise.
        metric_loss: fall of the (macro) AUROC; not judged where that is undefined.
    """

    difference: float
    changed_share: float
    metric_loss: float


# Rounding of float32 alone; a decision can only change where a score is that near its threshold.
FLOAT_LIMITS = Limits(difference=1e-4, changed_share=0.01, metric_loss=0.001)
INT8_LIMITS = Limits(difference=0.1, changed_share=0.05, metric_loss=0.02)


class ParityError(ValueError):
    """What was exported scores otherwise than what it was made of."""


@dataclass(frozen=True)
class Parity:
    """Two forms of one model on the same recordings.

    Attributes:
        max_difference: largest absolute difference of a recording's calibrated probability of a class.
        n_changed: recordings decided otherwise.
        n_recordings: compared.
        metric_before, metric_after: (macro) AUROC; NaN without labels of every class.
        skipped: why each recording that was not compared was not, a line each that names it.
    """

    max_difference: float
    n_changed: int
    n_recordings: int
    metric_before: float
    metric_after: float
    skipped: tuple[str, ...] = ()

    def refuse(self, limits: Limits) -> None:
        """Raise ParityError, naming what is beyond ``limits``."""
        loss = self.metric_before - self.metric_after
        wrong = []
        if not self.max_difference <= limits.difference:
            wrong.append(f"a probability differs by {self.max_difference:.2g}, at most {limits.difference:g}")
        if self.n_changed > limits.changed_share * self.n_recordings:
            wrong.append(
                f"{self.n_changed} of {self.n_recordings} decisions change, at most {limits.changed_share:.0%}"
            )
        if loss > limits.metric_loss:
            wrong.append(f"the AUROC falls by {loss:.3f}, at most {limits.metric_loss:g}")
        if wrong:
            raise ParityError(f"not written: {'; '.join(wrong)}; keep the model it was made of")


class Part(NamedTuple):
    """What two forms are compared on, of one recording."""

    row: int  # of its manifest
    name: str
    samples: Float32  # none where it cannot be read
    reason: str  # why it cannot be; "" where it can


class Judge(Protocol):
    """How logits become a decision, and the shortest recording that gives any."""

    @property
    def least_samples(self) -> int: ...

    def probabilities(self, logits: NDArray[Any]) -> Float64: ...

    def decisions(self, logits: NDArray[Any], probabilities: Float64) -> NDArray[np.int64]: ...


def first_parts(recordings: Manifest, sample_rate_hz: int) -> Iterator[Part]:
    """The first ``COMPARED_S`` of every recording. What is damaged after them is whole enough."""
    for row in range(len(recordings)):
        start_s, end_s = recordings.stretch(row)
        path, nothing = recordings.file(row), np.empty(0, np.float32)
        blocks = stream(path, sample_rate_hz=sample_rate_hz, block_s=COMPARED_S, start_s=start_s, end_s=end_s)
        # A generator, whatever its type says: closing it closes the file.
        with closing(blocks) as reading:  # type: ignore[type-var]
            try:
                yield Part(row, str(path), next(reading, nothing), "")
            except (AudioError, FileNotFoundError) as error:
                yield Part(row, str(path), nothing, str(error))


def compare(
    before: Scorer, after: Scorer, judge: Judge, parts: Iterable[Part], labels: NDArray[np.int64] | None
) -> Parity:
    """Score every part in both forms.

    Args:
        labels: (n,) class of every row of the manifest, -1 for a blank one; None for no metric.

    Raises:
        ValueError: no part can be compared.
    """
    rows, logits, skipped = [], [], []
    for part in parts:
        if part.reason:
            skipped.append(part.reason)
        elif len(part.samples) < judge.least_samples:
            skipped.append(f"{part.name}: too short for a frame; leave it out")
        else:
            rows.append(part.row)
            logits.append((before(part.samples), after(part.samples)))
    if not rows:
        raise ValueError(nothing_compared(skipped))
    z = np.array(logits).transpose(1, 0, 2)  # (before or after, n_recordings, n_classes)
    # One calibration and threshold, those of the file, for both: the network is what may differ.
    p = [judge.probabilities(own) for own in z]
    decided = [judge.decisions(own, of) for own, of in zip(z, p, strict=True)]
    metric = [math.nan, math.nan]
    if labels is not None and (known := labels[rows] >= 0).any():
        metric = [macro_auroc(labels[rows][known], own[known]) for own in p]
    return Parity(
        max_difference=float(np.abs(p[0] - p[1]).max()),
        n_changed=int((decided[0] != decided[1]).sum()),
        n_recordings=len(rows),
        metric_before=metric[0],
        metric_after=metric[1],
        skipped=tuple(skipped),
    )


def nothing_compared(skipped: list[str]) -> str:
    """The error of a comparison without a recording, with the first reason."""
    first = f", the first: {skipped[0]}" if skipped else ""
    return f"no recording can be read, so that nothing can be compared{first}; give others"


def encoded_labels(recordings: Manifest, class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """(n,) class, -1 for a blank label.

    Raises:
        ValueError: a label that is no class.
    """
    labels = np.full(len(recordings), -1, np.int64)
    known = recordings.label != ""
    if known.any():
        labels[known] = recordings.select(np.flatnonzero(known)).encode_labels(class_names)
    return labels


def noise_parts(card: "ModelCard") -> Iterator[Part]:
    """Noise that swells, shorter than a window, as long, and longer by no whole number of hops."""
    rng = np.random.default_rng(0)
    window = round(card.window_s * card.features.sample_rate_hz)
    for row, share in enumerate((0.4, 1.0, 2.63)):
        n_samples = max(round(share * window), card.features.window_samples)
        swell = np.geomspace(0.01, 0.3, n_samples)
        samples = (swell * rng.standard_normal(n_samples).clip(-3, 3)).astype(np.float32)
        yield Part(row, f"noise-{row}.wav", samples, "")


def write_noise(model_path: Path | str, folder: Path) -> Manifest:
    """Files of the noise of ``noise_parts``, for whoever compares on files.

    Raises:
        FileNotFoundError, ValueError: not a model.
    """
    import soundfile

    from vagitus.checkpoint import load_model

    _, card = load_model(Path(model_path))
    rows = []
    for part in noise_parts(card):
        soundfile.write(folder / part.name, part.samples, card.features.sample_rate_hz, subtype="FLOAT")
        rows.append({"path": part.name, "subject": part.name})
    return build_manifest(rows, folder, "noise")
