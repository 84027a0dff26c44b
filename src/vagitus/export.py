"""model.onnx: what stands in it, how it is written and checked, and how it is run. Torch only where it is written.

One graph, from samples to the logits of one window, for a phone, a browser, a live listener and ``predict`` alike.

    waveform  (batch, n_samples) float32 in [-1, 1] at the model's rate: the samples of frames s .. s + n - 1 of a
              recording and ``context_samples`` more on both sides, so n_samples = (n - 1) * hop + 2 * context.
              Beyond the recording's ends they are zero.
    mean, std (batch, n_rows) float32: of the recording's features before normalisation; each is an input only
              if the model normalises by it. NaN leaves the network out, and the logits are NaN
    logits    (batch, n_classes) of the first ``window_frames`` of the n frames, which are repeated if fewer
    stretch_mean, stretch_variance
              (batch, n_rows) of all n frames before normalisation; only if there is an input ``mean``

A recording is scored as in training: windows that overlap by half, the mean of their logits, softmax, calibration.
Front ends normalise by statistics of the whole recording, which a window does not have. So they are an input, and
the same file computes them: it is run over the recording's stretches, their means and variances are pooled, and
then over its windows. Memory is that of a few windows however long the recording. A listener, which has no end of
the recording, pools what it has heard so far. A graph over whole recordings would do without the second input,
but would hold an hour of activations and could not listen.

The neighbours of a window's first and last frame are in the waveform, as ``context``: frames are those of the
recording, not of a window cut out of it.

Metadata ``vagitus`` is one JSON text, the header: all numbers named above, how to read the scores, and the card of
the model but for local paths and the list of recordings that it was trained on.
"""

import io
import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus import calibration
from vagitus.audio import MAX_RATE_HZ, MIN_RATE_HZ, stream
from vagitus.files import atomic_path, refuse_pickle
from vagitus.manifest import Manifest
from vagitus.onnx_graph import drop_fillers, fold_transposed_weights, gate, quantisable, strip, ungate
from vagitus.parity import (
    FLOAT_LIMITS,
    INT8_LIMITS,
    Limits,
    Parity,
    Scorer,
    compare,
    encoded_labels,
    first_parts,
    noise_parts,
)
from vagitus.windows import window_starts

if TYPE_CHECKING:
    from torch import nn

    from vagitus.checkpoint import ModelCard

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Blocks = Callable[[], Iterable[Float32]]  # a recording's samples from its beginning, each time it is called

FORMAT = 1
INPUTS = (("waveform",), ("waveform", "mean"), ("waveform", "mean", "std"))
OUTPUTS = ["logits", "stretch_mean", "stretch_variance"]
METADATA_KEY = "vagitus"
WINDOWS_AT_ONCE = 8  # activations of res8 for a window of 3 s are 5 MB
STRETCH_FRAMES = 1000  # from which statistics are computed at once: 15 MB of frames at 16 kHz
HELD_S = 60.0  # a recording up to this length is decoded once and kept, a longer one again for every pass
CALIBRATION_WINDOWS = 200  # at most, spread evenly over the recordings
# Of an activation's values, those that 8 bits reach; the rest are clipped. After a batch norm, a channel that seldom
# speaks peaks tens of standard deviations out: steps that reach all of it moved scores of res8 by .5, these by .03.
COVERED_PERCENT = 99.99
MAX_MODEL_BYTES = (1 << 31) - 1  # of a protobuf message, and so of an ONNX file without others beside it
MAX_WINDOW_S = 600.0  # far beyond any model here; a damaged header could ask for any amount of memory
MAX_ROWS = 4096  # of features, likewise
MAX_LICENCE_CHARACTERS = 200
LICENCE_NOT_STATED = "not stated; that of the recordings it was trained on may bind it"
# TensorProto.external_data, a message with the key "location": weights in another file, which could be any file.
EXTERNAL_DATA_MARK = b"\x0a\x08location\x12"
# An absolute path, its last part apart; not the slashes of an address, of "and/or" or of a relative path.
ABSOLUTE_PATH = re.compile(
    r"""(?<![\w.:/\\])(?:~|[A-Za-z]:)?[/\\](?:[^\s"'/\\=,;]+[/\\])*([^\s"'/\\=,;]+)[/\\]?"""
)


class WindowScores(NamedTuple):
    """What a model says of a recording."""

    starts: NDArray[np.int64]  # (n_windows,) first frames
    logits: Float32  # (n_windows, n_classes)

    @property
    def pooled(self) -> Float64:
        """(n_classes,) the mean over windows."""
        mean: Float64 = self.logits.mean(axis=0, dtype=np.float64)
        return mean


class Moments(NamedTuple):
    """Means and variances of a stretch's features, which pool to those of a recording."""

    n_frames: int
    mean: Float64  # (n_rows,)
    variance: Float64  # (n_rows,), with 1/n

    @staticmethod
    def pooled(stretches: "Sequence[Moments]") -> "Moments":
        """Of all frames of one stretch or more; variances about means of their own, which lose no digits."""
        n = np.array([stretch.n_frames for stretch in stretches], np.float64)[:, None]
        means = np.stack([stretch.mean for stretch in stretches])
        variances = np.stack([stretch.variance for stretch in stretches])
        mean = (n * means).sum(axis=0) / n.sum()
        variance = (n * (variances + (means - mean) ** 2)).sum(axis=0) / n.sum()
        return Moments(sum(stretch.n_frames for stretch in stretches), mean, variance)


class OnnxModel:
    """A model.onnx that is open: its header, and the way from samples to logits and decisions.

    Args:
        path: the file; it is read as a whole, and no other file with it.
        n_threads: of onnxruntime; one is the fastest for small models.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not ONNX, not written by ``export_onnx``, another format version, a header that is damaged, or
            weights in other files.
    """

    def __init__(self, path: Path | str, *, n_threads: int = 1) -> None:
        import onnxruntime

        path = Path(path)
        content = _content(path)
        if EXTERNAL_DATA_MARK in content:
            raise ValueError(
                f"{path}: keeps weights in other files, which is refused; export it again, as one file"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.log_severity_level = 3  # its warnings are for whoever writes graphs
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for every status and no common one
            refuse_pickle(Path(path))
            reason = " ".join(str(error).split())[:120]
            raise ValueError(
                f"{path}: not an ONNX model that can be run ({reason}); export it again"
            ) from None
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError:
            metadata = {}
        self.header = _read_header(path, metadata)
        self.path = path
        self.class_names: tuple[str, ...] = tuple(self.header["class_names"])
        self.threshold: float | None = self.header["threshold"]
        self.sample_rate_hz: int = self.header["sample_rate_hz"]
        self.hop_samples: int = self.header["hop_samples"]
        self.window_frames: int = self.header["window_frames"]
        self.least_samples: int = self.header["least_samples"]
        self.context_samples: int = self.header["context_samples"]
        self._inputs: tuple[str, ...] = tuple(node.name for node in self._session.get_inputs())
        outputs = [node.name for node in self._session.get_outputs()]
        if self._inputs not in INPUTS or outputs != OUTPUTS[: len(OUTPUTS) if len(self._inputs) > 1 else 1]:
            raise ValueError(
                f"{path}: its graph takes {', '.join(self._inputs)} and gives {', '.join(outputs)}, which is not "
                "what `vagitus export` writes; export the model again"
            )
        described = self.header["calibration"]
        try:
            self._calibrator = calibration.from_dict(described) if described else calibration.Identity()
        except ValueError as error:
            raise ValueError(f"{path}: its header is damaged: {error}; export the model again") from None

    @property
    def needs_statistics(self) -> bool:
        """Whether a window is normalised by statistics of its whole recording."""
        return len(self._inputs) > 1

    def score(self, blocks: Blocks, n_samples: int) -> WindowScores:
        """Logits of a recording's windows, in memory that does not grow with its length but for the logits.

        Args:
            blocks: the recording at ``sample_rate_hz``; called up to twice.
            n_samples: of all blocks, at least ``least_samples``.

        Raises:
            ValueError: fewer samples than ``least_samples``.
        """
        starts, logits = self.starts(n_samples), []
        batch: list[dict[str, Float32]] = []
        for feed in self.window_feeds(blocks, n_samples):
            batch.append(feed)
            if len(batch) == WINDOWS_AT_ONCE:
                logits.append(self.run(batch))
                batch = []
        if batch:
            logits.append(self.run(batch))
        return WindowScores(starts, np.concatenate(logits))

    def starts(self, n_samples: int) -> NDArray[np.int64]:
        """(n_windows,) first frames of the windows of a recording."""
        n_frames = 1 + n_samples // self.hop_samples
        return window_starts(n_frames, self.window_frames, max(self.window_frames // 2, 1))

    def window_feeds(self, blocks: Blocks, n_samples: int) -> Iterator[dict[str, Float32]]:
        """What the graph takes for each window of a recording, as a batch of one. As ``score``."""
        if n_samples < self.least_samples:
            raise ValueError(f"{n_samples} samples, a recording needs {self.least_samples}; record longer")
        n_frames = 1 + n_samples // self.hop_samples
        moments = self._statistics(blocks, n_frames)
        stretches = [(int(s), min(self.window_frames, n_frames)) for s in self.starts(n_samples)]
        for waveform in self._cut(blocks(), stretches):
            yield self.window_feed(waveform, moments)

    def probabilities(self, logits: NDArray[Any]) -> Float64:
        """Logits (n, n_classes) -> calibrated probabilities (n, n_classes)."""
        return self._calibrator.apply(logits)

    def decisions(self, logits: NDArray[Any], probabilities: Float64) -> NDArray[np.int64]:
        """(n,) class: from the threshold up the positive one; without a threshold the highest logit."""
        return _decide(logits, probabilities, self.threshold)

    def moments(self, waveform: Float32) -> Moments:
        """Of a stretch of n frames, from its samples with their context on both sides, (n_samples,).

        Raises:
            ValueError: the model needs no statistics and has none to give.
        """
        if not self.needs_statistics:
            raise ValueError(f"{self.path}: normalises by no statistics; ask needs_statistics first")
        n_frames = (len(waveform) - 2 * self.context_samples) // self.hop_samples + 1
        # A graph wants all its inputs. With NaN for what only the network takes, the network is left out (``gate``).
        nothing = {name: np.full((1, self.header["n_rows"]), np.nan, np.float32) for name in self._inputs[1:]}
        mean, variance = self._execute(OUTPUTS[1:], {"waveform": waveform[None], **nothing}, statistics=True)
        return Moments(n_frames, mean[0].astype(np.float64), variance[0].astype(np.float64))

    def window_feed(self, waveform: Float32, moments: Moments | None) -> dict[str, Float32]:
        """What the graph takes for one window: its samples with context, and its recording's statistics."""
        feed = {"waveform": waveform[None]}
        if moments is not None:
            found = {"mean": moments.mean, "std": np.sqrt(moments.variance)}
            feed |= {name: found[name][None].astype(np.float32) for name in self._inputs[1:]}
        return feed

    def run(self, batch: Sequence[dict[str, Float32]]) -> Float32:
        """(n, n_classes) logits of windows of one length, see ``window_feed``."""
        feeds = {name: np.concatenate([feed[name] for feed in batch]) for name in self._inputs}
        return self._execute(OUTPUTS[:1], feeds)[0]

    def _execute(
        self, outputs: Sequence[str], feeds: dict[str, Float32], *, statistics: bool = False
    ) -> list[Float32]:
        try:
            found: list[Float32] = self._session.run(outputs, feeds)
        except Exception as error:  # as above
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{self.path}: its graph cannot be run ({reason}); export it again") from None
        shape = len(feeds["waveform"]), self.header["n_rows"] if statistics else len(self.class_names)
        for name, values in zip(outputs, found, strict=True):
            if values.shape != shape:
                raise ValueError(
                    f"{self.path}: its graph gives {name} {values.shape}, its header says {shape}; export it again"
                )
            if not np.isfinite(values).all():
                raise ValueError(f"{self.path}: its graph gives {name} that are not finite; export it again")
        return found

    def _statistics(self, blocks: Blocks, n_frames: int) -> Moments | None:
        """Over all frames, by pooling of stretches."""
        if not self.needs_statistics:
            return None
        stretches = [
            (first, min(STRETCH_FRAMES, n_frames - first)) for first in range(0, n_frames, STRETCH_FRAMES)
        ]
        return Moments.pooled([self.moments(waveform) for waveform in self._cut(blocks(), stretches)])

    def _cut(self, blocks: Iterable[Float32], stretches: Iterable[tuple[int, int]]) -> Iterator[Float32]:
        """Samples of stretches (first frame, frames), which start one after the other, with their context."""
        context, hop = self.context_samples, self.hop_samples
        silence = np.zeros(context, np.float32)
        source = chain([silence], blocks, [silence])
        held, offset = np.empty(0, np.float32), 0  # held[0] is sample ``offset`` of all with their context
        for first, n_frames in stretches:
            begin, n_wanted = first * hop, (n_frames - 1) * hop + 2 * context
            parts = [held[begin - offset :]]
            offset, n_held = begin, len(parts[0])
            while n_held < n_wanted:
                parts.append(next(source))
                n_held += len(parts[-1])
            held = np.concatenate(parts) if len(parts) > 1 else parts[0]
            yield held[:n_wanted]


def recording_blocks(
    path: Path | str, sample_rate_hz: int, *, start_s: float = 0.0, end_s: float | None = None
) -> Blocks:
    """A recording on disk, or a stretch of it, for ``OnnxModel.score``: kept up to ``HELD_S``, else decoded again.

    Raises:
        AudioError, FileNotFoundError, ValueError: as ``audio.stream``, at once or when blocks are asked for.
    """

    def decode() -> Iterator[Float32]:
        return stream(path, sample_rate_hz=sample_rate_hz, start_s=start_s, end_s=end_s)

    kept: list[Float32] = []
    for block in decode():
        kept.append(block)
        if sum(map(len, kept)) > HELD_S * sample_rate_hz:
            return decode
    return lambda: kept


def export_onnx(
    model_path: Path | str,
    out_path: Path | str,
    *,
    recordings: Manifest | None = None,
    limits: Limits = FLOAT_LIMITS,
    licence: str = "",
) -> Parity:
    """Write a model file's twin in ONNX, and only if it scores as the model does.

    Tensor-train cores stay in the file; onnxruntime rebuilds the weights when it opens it.

    Args:
        model_path: what ``checkpoint.save_model`` wrote, compressed or not.
        recordings: to compare the two on; without them, on noise shorter, as long and longer than a window.
        limits: beyond which the file is refused.
        licence: as ``licence_line``.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: not a model, a licence of several lines, no recording can be read, or the two differ beyond
            ``limits``; ``out_path`` then stays as it was.
        ImportError: onnx or onnxscript are missing.
        OSError: ``out_path`` cannot be written.
    """
    from vagitus.checkpoint import load_model

    model, card = load_model(Path(model_path))
    header = _header(card, licence_line(card.provenance.get("licence"), licence))
    exported = _graph(model, card)
    strip(exported)
    drop_fillers(exported)
    gate(exported)
    exported.metadata_props.add(
        key=METADATA_KEY, value=json.dumps(header, sort_keys=True, ensure_ascii=False)
    )
    with atomic_path(Path(out_path)) as temporary:
        temporary.write_bytes(exported.SerializeToString())
        if recordings is None:
            twin = OnnxModel(temporary)
            parity = compare(_as_evaluate(model, card), _as_predict(twin), twin, noise_parts(card), None)
        else:
            parity = check_parity(model_path, temporary, recordings)
        parity.refuse(limits)
    return parity


def check_parity(model_path: Path | str, onnx_path: Path | str, recordings: Manifest) -> Parity:
    """A model file and its exported twin on the same recordings, scored as ``evaluate`` and ``predict`` do.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: not a model, a label that it does not know, or no recording can be read.
    """
    from vagitus.checkpoint import load_model

    reference, twin = _as_evaluate(*load_model(Path(model_path))), OnnxModel(onnx_path)
    labels = encoded_labels(recordings, twin.class_names)
    parts = first_parts(recordings, twin.sample_rate_hz)
    return compare(reference, _as_predict(twin), twin, parts, labels)


def quantise(
    onnx_path: Path | str,
    recordings: Manifest,
    out_path: Path | str,
    *,
    limits: Limits = INT8_LIMITS,
    licence: str = "",
) -> Parity:
    """Write a model.onnx with 8-bit weights and activations, and only if it scores nearly as before.

    Static, in QDQ form: the range of every activation is measured on real recordings. (Dynamic quantisation
    would turn convolutions into integer operators that run slower than floats.) Convolutions and products
    with a stored weight become 8-bit, one scale a channel; the front end, whose powers span twelve
    decades, the layer that reads its features, recurrent layers and tensor trains stay float.

    Args:
        onnx_path: what ``export_onnx`` wrote.
        recordings: to measure ranges on and to compare on; training recordings serve.
        limits: beyond which the file is refused.
        licence: as ``licence_line``; by default that of the float file.

    Returns:
        The comparison of the two ONNX files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, 8-bit already, most of its weights cannot become 8-bit, no recording can be
            read, or the two differ beyond ``limits``.
        ImportError: onnx is missing.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    before = OnnxModel(onnx_path)
    if before.header["numbers"] != "float32":
        raise ValueError(
            f"{onnx_path}: its numbers are {before.header['numbers']} already; quantise the float file"
        )
    header = before.header | {
        "numbers": "int8",
        "licence": licence_line(before.header.get("licence"), licence),
    }
    model = onnx.load_model_from_string(Path(onnx_path).read_bytes())
    del model.graph.value_info[:]  # shapes left by the exporter contradict those that are inferred
    ungate(model)
    drop_fillers(model)  # of files that an earlier version wrote
    fold_transposed_weights(model)
    names = quantisable(model, Path(onnx_path))
    feeds = _of_one_length(_calibration_feeds(before, recordings))
    if not feeds:
        raise ValueError(f"{recordings.source}: no recording can be read to measure ranges on; give others")

    class Windows(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, Float32] | None:
            return next(self.feeds, None)

    with atomic_path(Path(out_path)) as temporary:
        with _quiet(), redirect_stdout(io.StringIO()):  # it prints its progress
            quantize_static(
                model,
                temporary,
                Windows(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=names,
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": COVERED_PERCENT},
            )
        small = onnx.load_model_from_string(temporary.read_bytes())
        strip(small)
        gate(small)
        del small.metadata_props[:]
        small.metadata_props.add(
            key=METADATA_KEY, value=json.dumps(header, sort_keys=True, ensure_ascii=False)
        )
        temporary.write_bytes(small.SerializeToString())
        after = OnnxModel(temporary)
        labels = encoded_labels(recordings, before.class_names)
        parts = first_parts(recordings, before.sample_rate_hz)
        parity = compare(_as_predict(before), _as_predict(after), after, parts, labels)
        parity.refuse(limits)
    return parity


# What stands in the file.


def licence_line(recorded: object, given: str = "") -> str:
    """The licence that an exported model carries: ``given``, else what its card records, else that none is stated.

    Raises:
        ValueError: more than a line of ``MAX_LICENCE_CHARACTERS``.
    """
    if len(given) > MAX_LICENCE_CHARACTERS or not given.isprintable():
        raise ValueError(
            f"licence {given[:30]!r}: give its name or address, one line of up to {MAX_LICENCE_CHARACTERS} characters"
        )
    return given.strip() or str(recorded or LICENCE_NOT_STATED)


def _header(card: "ModelCard", licence: str) -> dict[str, Any]:
    from vagitus.audit import SILENT_DBFS
    from vagitus.checkpoint import RESEARCH_ONLY

    features = card.features
    described = card.to_json()
    described["provenance"] = {k: v for k, v in card.provenance.items() if k != "trained_on"}
    return {
        "format": FORMAT,
        "notice": RESEARCH_ONLY,
        "licence": licence,
        "numbers": "float32",
        "class_names": list(card.class_names),
        "positive": card.positive,
        "threshold": card.threshold,
        "calibration": card.calibration,
        "sample_rate_hz": features.sample_rate_hz,
        "hop_samples": features.hop_samples,
        "context_samples": _context_frames(card) * features.hop_samples,
        "least_samples": features.window_samples,
        "window_frames": _window_frames(card),
        "n_rows": features.n_rows,
        "silent_dbfs": SILENT_DBFS,
        "card": _without_paths(described),
    }


def _content(path: Path) -> bytes:
    """A model.onnx's bytes, which are read whole; refused where that could not be one."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}; `vagitus export` writes model.onnx")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise ValueError(
            f"{path}: {path.stat().st_size} bytes are too many for an ONNX file; name a model.onnx"
        )
    content = path.read_bytes()
    if not content:
        raise ValueError(f"{path}: empty file (0 bytes); export it again")
    # safetensors: the header's length, then a JSON object.
    if content[8:9] == b"{":
        raise ValueError(
            f"{path}: a model.safetensors, which only trains and evaluates; "
            f"`vagitus export {path.name}` writes its model.onnx"
        )
    return content


def _read_header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata[METADATA_KEY])
    except (KeyError, ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: an ONNX model without a vagitus header; `vagitus export` writes one")
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path}: ONNX format {header.get('format')!r}, this version reads {FORMAT}; "
            "install the vagitus that wrote it, or export the model again"
        )
    for name, (is_right, rule) in HEADER_RULES.items():
        value = header.get(name)
        try:
            right = is_right(value, header)
        except (TypeError, KeyError):  # a number that is none, or another entry that is none
            right = False
        if not right:
            raise ValueError(
                f"{path}: its header is damaged: {name} must be {rule}, it is {str(value)[:60]!r}; "
                "export the model again"
            )
    return header


def _whole(value: Any, low: int, high: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


# What a header must say before anything is computed from it: (test of the value and the header, rule).
HEADER_RULES: dict[str, tuple[Callable[[Any, dict[str, Any]], bool], str]] = {
    "notice": (lambda v, _: isinstance(v, str) and v != "", "a sentence"),
    "licence": (lambda v, _: v is None or isinstance(v, str), "text, or absent"),  # as in earlier files
    "numbers": (lambda v, _: v in ("float32", "int8"), "float32 or int8"),
    "class_names": (
        lambda v, _: (
            isinstance(v, list) and all(isinstance(name, str) for name in v) and len(set(v)) == len(v) >= 2
        ),
        "two or more different names",
    ),
    "positive": (
        lambda v, h: v == "" or (len(h["class_names"]) == 2 and v == h["class_names"][1]),
        "the second of two classes, or blank",
    ),
    "threshold": (
        lambda v, h: v is None or (len(h["class_names"]) == 2 and _number(v, 0, 1)),
        "from 0 to 1 for two classes, or null",
    ),
    "calibration": (lambda v, _: isinstance(v, dict), "an object"),
    "sample_rate_hz": (lambda v, _: _whole(v, MIN_RATE_HZ, MAX_RATE_HZ), "a sample rate"),
    "hop_samples": (lambda v, h: _whole(v, 1, h["sample_rate_hz"]), "from 1 to a second"),
    "window_frames": (
        lambda v, h: _whole(v, 1, MAX_WINDOW_S * h["sample_rate_hz"] / h["hop_samples"]),
        f"from 1 to {MAX_WINDOW_S:g} s",
    ),
    "least_samples": (lambda v, h: _whole(v, 1, 10 * h["sample_rate_hz"]), "from 1 to 10 s"),
    "context_samples": (
        lambda v, h: _whole(v, 1, h["least_samples"] + h["hop_samples"]) and v % h["hop_samples"] == 0,
        "whole hops, of half an analysis window",
    ),
    "n_rows": (lambda v, _: _whole(v, 1, MAX_ROWS), f"from 1 to {MAX_ROWS}"),
    "silent_dbfs": (lambda v, _: _number(v, -200, 0), "a level from -200 to 0"),
    "card": (lambda v, _: isinstance(v, dict), "an object"),
}


def _window_frames(card: "ModelCard") -> int:
    return round(card.window_s * card.features.frames_per_s)


def _context_frames(card: "ModelCard") -> int:
    """Whole hops that hold half an analysis window."""
    return -(-((card.features.window_samples + 1) // 2) // card.features.hop_samples)


def _without_paths(value: Any) -> Any:
    """Absolute paths, which name a person or a machine, are cut to their last part."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(inner) for inner in value]
    return ABSOLUTE_PATH.sub(r"\1", value) if isinstance(value, str) else value


# The graph.


def _graph(model: "nn.Module", card: "ModelCard") -> Any:
    """An ONNX ModelProto of the module's convention, as torch exports it."""
    try:
        import onnxscript  # noqa: F401 (torch's exporter needs it and says so less clearly)
    except ImportError as error:
        raise ImportError("exporting needs onnx and onnxscript: pip install 'vagitus[export]'") from error
    import torch

    network = _waveform_network(model, card)
    n_samples = (_window_frames(card) + 2 * _context_frames(card)) * card.features.hop_samples
    names = INPUTS[{"none": 0, "mean": 1, "keep_level": 1, "mean_std": 2}[card.features.normalisation]]
    # Two rows: torch takes a size of 1 for a constant.
    examples = [torch.zeros(2, n_samples), *(torch.ones(2, card.features.n_rows) for _ in names[1:])]
    batch = torch.export.Dim("batch")
    shapes = [{0: batch, 1: torch.export.Dim("n_samples")}, *({0: batch} for _ in names[1:])]
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            tuple(examples),
            input_names=list(names),
            output_names=OUTPUTS[: 1 if len(names) == 1 else 3],
            dynamic_shapes=tuple(shapes),
            dynamo=True,
            optimize=False,  # it would fold cores into dense weights, and the front end's tables into matrices
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch exported nothing of {card.model}")
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what exporter and quantiser say of their insides; whether the graph is right is measured."""
    # The quantiser speaks as the root, which would make itself a handler for that, for good.
    names = ("", "torch.onnx", "torch.onnx._internal.exporter._registration")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    nowhere = logging.NullHandler()
    loggers[0].addHandler(nowhere)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loggers[0].removeHandler(nowhere)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _waveform_network(model: "nn.Module", card: "ModelCard") -> "nn.Module":
    """The module that is exported: see this module's convention for what goes in and out."""
    import torch
    from torch import Tensor, nn

    from vagitus.features import LEVEL_REFERENCE, STD_FLOOR
    from vagitus.frontend import Frontend

    features, context, window_frames = card.features, _context_frames(card), _window_frames(card)

    class WaveformNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frontend = Frontend(features.vary(normalisation="none"))
            self.network = model

        def forward(
            self, waveform: Tensor, mean: Tensor | None = None, std: Tensor | None = None
        ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
            y = self.frontend(waveform)[:, :, context:-context]  # (batch, n_rows, n_frames)
            # A tensor, as the exporter cannot take a remainder by a size.
            n_frames = torch.full((1,), y.shape[2], dtype=torch.int64)
            window = y[:, :, torch.arange(window_frames) % n_frames]  # (batch, n_rows, window_frames)
            if mean is None:
                logits: Tensor = self.network(window)
                return logits
            logits = self.network(self.normalised(window, mean[:, :, None], std))
            own = y.mean(dim=2)
            return logits, own, (y - own[:, :, None]).square().mean(dim=2)

        def normalised(self, y: Tensor, mean: Tensor, std: Tensor | None) -> Tensor:
            """As ``features.normalise``, with mean (batch, n_rows, 1) of the recording and not of y."""
            y = y - mean
            if features.normalisation == "keep_level" and features.kind == "mfcc":
                level = mean[:, :1] - math.sqrt(features.n_bands) * LEVEL_REFERENCE
                y = torch.cat([y[:, :1] + level, y[:, 1:]], dim=1)
            elif features.normalisation == "keep_level":
                y = y + (mean.mean(dim=1, keepdim=True) - LEVEL_REFERENCE)
            return y if std is None else y / std[:, :, None].clamp(min=STD_FLOOR)

    return WaveformNetwork()


# Quantisation.


def _calibration_feeds(model: OnnxModel, recordings: Manifest) -> Iterator[dict[str, Float32]]:
    """Windows spread over the recordings, as many from each as the limit leaves it."""
    most = max(1, CALIBRATION_WINDOWS // max(len(recordings), 1))
    rows = np.unique(np.linspace(0, len(recordings) - 1, CALIBRATION_WINDOWS).astype(int))
    for part in first_parts(recordings.select(rows), model.sample_rate_hz):
        samples = part.samples
        if len(samples) < model.least_samples:
            continue
        chosen = set(np.linspace(0, len(model.starts(len(samples))) - 1, most).astype(int).tolist())
        for position, feed in enumerate(model.window_feeds(lambda own=samples: [own], len(samples))):  # type: ignore[misc]
            if position in chosen:
                yield feed


def _of_one_length(feeds: Iterable[dict[str, Float32]]) -> list[dict[str, Float32]]:
    """Those of the commonest length: a recording shorter than a window is one of its own, and histograms are of one."""
    by_length: dict[int, list[dict[str, Float32]]] = {}
    for feed in feeds:
        by_length.setdefault(feed["waveform"].shape[-1], []).append(feed)
    return max(by_length.values(), key=len, default=[])


# The comparison.


def _as_evaluate(model: "nn.Module", card: "ModelCard") -> Scorer:
    """Through the features and the windows of ``evaluate``."""
    from vagitus.features import featurise
    from vagitus.training import score_recordings

    def score(samples: Float32) -> Float64:
        features = featurise(samples, card.features)
        return np.asarray(
            score_recordings(model, [features], window_frames=_window_frames(card))[0], np.float64
        )

    return score


def _as_predict(model: OnnxModel) -> Scorer:
    return lambda samples: model.score(lambda: [samples], len(samples)).pooled


def _decide(logits: NDArray[Any], probabilities: Float64, threshold: float | None) -> NDArray[np.int64]:
    # As results.decide, which stands behind torch. Calibrated probabilities of several classes carry the
    # prevalence, and the highest would only name the commonest.
    if threshold is None:
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)
    return calibration.decide(probabilities, threshold)
