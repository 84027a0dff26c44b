"""A trained model as one C99 header for a microcontroller: samples in, calibrated probabilities and a decision out.

    #define CRY_IMPLEMENTATION            in one source file of the firmware; elsewhere the #include alone
    #include "cry.h"
    static cry_state state;               all the memory there is: no malloc, no recursion
    cry_result result;
    cry_classify(&state, waveform, n_samples, &result);

The header needs math.h, stdint.h and string.h and compiles as C99 and as C++. Its names begin with the file's
name, so that several models fit one firmware. What it computes is what ``predict`` computes: the front end of
``vagitus.features`` (frames, window, FFT, mel bands, logarithm, DCT), statistics of the whole clip where the model
normalises by them (a pass of its own), windows that overlap by half, the network, the mean of the logits,
calibration, threshold. It abstains, as ``predict`` does, from a clip that is silent or shorter than one frame.

Memory is one frame of the front end and one window of the network, whatever the clip's length: frames are computed
again for every pass. A recurrent network takes frame by frame and holds its state; a convolutional one holds two
buffers of activations, each layer reading one and writing the other.

Weights are float32 or, with ``bits=8``, int8 with a float32 scale for every row; activations are float32 either way.
A TT-matrix stays cores in the file and in the device: it is contracted core by core in two scratch buffers.
Float weights are printed to 1e-6 of the largest of their array, the tables of the front end exactly. The same model
gives the same file, byte for byte.
"""

import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus import calibration
from vagitus.export import licence_line
from vagitus.features import (
    LEVEL_REFERENCE,
    STD_FLOOR,
    FeatureConfig,
    band_edges_hz,
    featurise,
    hann_window,
)
from vagitus.files import write_atomic
from vagitus.manifest import Manifest
from vagitus.metrics import macro_auroc
from vagitus.parity import Parity, encoded_labels, first_parts, nothing_compared

if TYPE_CHECKING:
    from torch import Tensor

    from vagitus.checkpoint import ModelCard

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

SUPPORTED = ("res8", "small", "gru", "lstm", "tt-gru", "tt-lstm")
STRICT_C = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
COMPILERS = ("cc", "gcc", "clang")
COMPILE_LIMIT_S = 600
WEIGHT_ERROR = 1e-6  # of a printed weight, as a share of the largest of its array; int8's is 4e-3
LINE_CHARACTERS = 116
OK = 0  # status of a clip in C
ABSTAINED = {1: "too short for a frame", 2: "silent", 3: "not finite"}  # the other statuses


class CHeader(NamedTuple):
    """What was written.

    Attributes:
        prefix: of all names in the header.
        file_bytes: of the text.
        constant_bytes: of its tables, in the flash memory of a device; the code comes on top.
        state_bytes: of the state struct, in the device's RAM.
    """

    prefix: str
    file_bytes: int
    constant_bytes: int
    state_bytes: int


def export_c(
    model_path: Path | str, out_path: Path | str, *, bits: Literal[8, 32] = 32, licence: str = ""
) -> CHeader:
    """Write a model file as one C99 header; ``check_c_parity`` compares the two.

    Args:
        model_path: what ``checkpoint.save_model`` wrote, tensorized or not: res8, small, gru, lstm, tt-gru, tt-lstm.
        out_path: the header; its name gives the prefix of all names in it.
        bits: of a stored weight: 32, or 8 with a scale for every row. Biases, batch norm and the front end's tables
            stay float32.
        licence: of the model, for the comment at the top, as ``export.licence_line``.

    Returns:
        The sizes of what was written.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: not a model, one of another architecture, weights that are not finite, other bits.
        OSError: ``out_path`` cannot be written.
    """
    from vagitus.checkpoint import load_model

    if bits not in (8, 32):
        raise ValueError(f"bits must be 8 or 32, got {bits!r}")
    model, card = load_model(Path(model_path))
    if card.model not in SUPPORTED:
        raise ValueError(
            f"{model_path}: a C header holds {', '.join(SUPPORTED)}, this is a {card.model}; train one of those, "
            "or export it as ONNX"
        )
    stated = licence_line(card.provenance.get("licence"), licence)
    prefix = _prefix(Path(out_path))
    source = _Source(prefix, bits)
    _write_frontend(source, card.features)
    _write_network(source, model, card)
    _write_score(source, card)
    text = _assembled(source, card, Path(out_path).name, stated)
    write_atomic(Path(out_path), text)
    return CHeader(prefix, len(text), source.constant_bytes, source.state_bytes)


def check_c_parity(
    model_path: Path | str,
    header_path: Path | str,
    recordings: Manifest,
    *,
    compiler_flags: Sequence[str] = (),
) -> Parity:
    """A model file and its C header on the same recordings: torch as ``evaluate`` runs it, C compiled on this machine.

    The header is compiled without a warning (``STRICT_C``) into a small program, in a temporary folder, that reads
    samples from its standard input. Recordings that the header abstains from (silent, shorter than one frame)
    and those that cannot be read are not compared.

    Args:
        model_path: what the header was made of.
        header_path: what ``export_c`` wrote; compile none that you would not run.
        recordings: to compare on; with labels the AUROCs are compared too.
        compiler_flags: after those of ``STRICT_C``.

    Raises:
        FileNotFoundError: a file is not there, or there is no C compiler.
        ValueError: not a model, not a header of this module or one of another model, a label that the model does
            not know, or no recording can be compared.
        RuntimeError: the header does not compile, or the program ends early; with what it said.
    """
    from vagitus.checkpoint import load_model
    from vagitus.training import score_recordings

    model, card = load_model(Path(model_path))
    labels = encoded_labels(recordings, card.class_names)
    rows: list[int] = []
    logits: list[Float32] = []
    found: list[Any] = []
    skipped: list[str] = []
    with compiled(Path(header_path), card, compiler_flags) as program:
        for part in first_parts(recordings, card.features.sample_rate_hz):
            if part.reason:
                skipped.append(part.reason)
                continue
            result = program.classify(part.samples)
            if result["status"] != OK:
                skipped.append(f"{part.name}: {ABSTAINED[int(result['status'])]}; leave it out")
                continue
            features = featurise(part.samples, card.features)
            rows.append(part.row)
            logits.append(score_recordings(model, [features], window_frames=_window_frames(card))[0])
            found.append(result)
    if not rows:
        raise ValueError(nothing_compared(skipped))
    z = np.array(logits, np.float64)
    before = _calibrator(card).apply(z)
    after = np.array([result["probability"] for result in found], np.float64)
    decided = z.argmax(axis=1) if card.threshold is None else before[:, 1] >= card.threshold
    metric = [math.nan, math.nan]
    if (known := labels[rows] >= 0).any():
        # Rounded to float32, a row of C's probabilities sums to 1 only nearly.
        whole = after / after.sum(axis=1, keepdims=True)
        metric = [macro_auroc(labels[rows][known], p[known]) for p in (before, whole)]
    return Parity(
        max_difference=float(np.abs(before - after).max()),
        n_changed=int((decided != np.array([result["decision"] for result in found])).sum()),
        n_recordings=len(rows),
        metric_before=metric[0],
        metric_after=metric[1],
        skipped=tuple(skipped),
    )


def _window_frames(card: "ModelCard") -> int:
    return round(card.window_s * card.features.frames_per_s)


def _calibrator(card: "ModelCard") -> calibration.Calibrator:
    return calibration.from_dict(card.calibration) if card.calibration else calibration.Identity()


def _prefix(path: Path) -> str:
    """The file's name as the beginning of C names: lower case, letters and digits, no digit first."""
    name = re.sub(r"[^0-9a-z]+", "_", path.stem.lower()).strip("_") or "model"
    return f"vagitus_{name}" if name[0].isdigit() else name


# The text, piece by piece. In templates @ is the prefix and $ the prefix in capitals.


@dataclass
class _Source:
    """The parts of a header, in the making."""

    prefix: str
    bits: int
    defines: list[str] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)  # members of the state, those of 8 bytes first
    members: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    constant_bytes: int = 0
    member_bytes: int = 0
    n_spare: int = 0  # floats in each of the two scratch buffers of contractions

    def named(self, text: str) -> str:
        # Half the indentation of the templates: files are read less often than they are sent.
        text = re.sub(r"^ +", lambda spaces: spaces[0][::2], text, flags=re.MULTILINE)
        return text.replace("@", self.prefix).replace("$", self.prefix.upper())

    def define(self, name: str, value: object, comment: str = "") -> None:
        self.defines.append(
            self.named(f"#define $_{name} {value}") + (f" /* {comment} */" if comment else "")
        )

    def member(self, name: str, count: int, comment: str = "", kind: str = "float") -> None:
        line = (
            f"    {kind} {name}{f'[{count}]' if count > 1 else ''};{f' /* {comment} */' if comment else ''}"
        )
        (self.doubles if kind == "double" else self.members).append(line)
        self.member_bytes += count * (8 if kind == "double" else 4)

    @property
    def state_bytes(self) -> int:
        return -(-self.member_bytes // 8) * 8 if self.doubles else self.member_bytes

    def code(self, text: str) -> None:
        self.functions.append(self.named(text.strip("\n")))

    def table(self, name: str, values: Sequence[float] | NDArray[Any]) -> None:
        """An array of float32, exactly."""
        numbers = np.asarray(values, np.float32).ravel()
        self._array("float", name, [_exact(number) for number in _finite(name, numbers)], 4)

    def counts(self, name: str, values: Sequence[int]) -> None:
        self._array("uint16_t", name, [str(value) for value in values], 2)

    def rounded(self, name: str, values: NDArray[Any]) -> None:
        """An array of float32, to WEIGHT_ERROR of the largest."""
        numbers = _finite(name, np.asarray(values, np.float64).ravel())
        largest = float(np.abs(numbers).max(initial=0.0))
        # Half a unit of the last decimal is the error.
        n_decimals = max(math.ceil(-math.log10(2 * WEIGHT_ERROR * largest)), 0) if largest else 0
        steps = np.rint(numbers * 10.0**n_decimals).astype(np.int64)
        self._array("float", name, [_scaled(step, n_decimals) for step in steps.tolist()], 4)

    def weights(self, name: str, matrix: NDArray[Any]) -> None:
        """A matrix (n_rows, n_columns): float32, or int8 with ``name_scales``."""
        if self.bits == 32:
            self.rounded(name, matrix)
            return
        rows = _finite(name, np.asarray(matrix, np.float64))
        scales = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
        divisors = np.where(scales > 0, scales, 1).astype(np.float64)
        quantised = np.clip(np.rint(rows / divisors[:, None]), -127, 127).astype(int)
        self._array("int8_t", name, [str(value) for value in quantised.ravel().tolist()], 1)
        self.table(f"{name}_scales", scales)

    def _array(self, kind: str, name: str, texts: list[str], n_bytes: int) -> None:
        lines, line = [], ""
        for text in texts:
            if line and len(line) + len(text) + 1 > LINE_CHARACTERS:
                lines.append(line)
                line = ""
            line += f"{text},"
        body = "\n".join([*lines, line.removesuffix(",")])
        self.constants.append(
            self.named(f"static const {kind} @_{name}[{len(texts)}] = {{\n") + body + "\n};"
        )
        self.constant_bytes += n_bytes * len(texts)


def _finite(name: str, values: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: holds NaN or infinity, which no header should; train the model again")
    return values


def _exact(number: np.float32) -> str:
    """The shortest decimal that is this float32, as C writes it."""
    if number == 0:
        return "0"
    plain = np.format_float_positional(number, unique=True, trim="-")
    power = np.format_float_scientific(number, unique=True, trim="-", exp_digits=1).replace("e+", "e")
    return min(_as_float(plain), _as_float(power), key=len)


def _scaled(step: int, n_decimals: int) -> str:
    """step / 10^n_decimals as C writes it."""
    if step == 0:
        return "0"
    plain = f"{'-' * (step < 0)}{abs(step):0{n_decimals + 1}d}"
    if n_decimals:
        plain = f"{plain[:-n_decimals]}.{plain[-n_decimals:]}".rstrip("0").rstrip(".")
    return min(_as_float(plain), f"{step}e-{n_decimals}f", key=len)


def _as_float(text: str) -> str:
    text = re.sub(r"^(-?)0\.", r"\1.", text)
    return f"{text}f" if "." in text or "e" in text else f"{text}.f"


# The front end.


def _write_frontend(source: _Source, config: FeatureConfig) -> None:
    n_fft, half = config.n_fft, config.n_fft // 2
    resolution = n_fft if n_fft % 4 == 0 else 2 * n_fft  # a quarter of a turn must be whole steps
    quarter = np.arange(resolution // 4 + 1)
    factors = _prime_factors(half)
    edges_hz = band_edges_hz(config, config.n_bands)
    f_hz = np.arange(half + 1) * config.sample_rate_hz / n_fft
    interval = np.searchsorted(edges_hz, f_hz, side="right") - 1  # between which edges a bin lies
    heard = np.flatnonzero((interval >= 0) & (interval <= config.n_bands))
    low_hz, high_hz = edges_hz[interval[heard]], edges_hz[interval[heard] + 1]

    source.define("SAMPLE_RATE_HZ", config.sample_rate_hz)
    source.define("N_ROWS", config.n_rows, "features of a frame")
    source.define("HOP_SAMPLES", config.hop_samples, "from frame to frame")
    source.define("FRAME_SAMPLES", config.window_samples, "also the least that a clip must have")
    source.define("N_FFT", n_fft)
    source.define("N_BANDS", config.n_bands)
    source.table("hann", hann_window(config)[: config.window_samples // 2 + 1])
    source.table("cosine", np.cos(2 * np.pi * quarter / resolution))
    source.table("rise", (f_hz[heard] - low_hz) / (high_hz - low_hz))
    source.table("height", 2 / (edges_hz[2:] - edges_hz[:-2]))
    source.counts("interval", np.bincount(interval[heard], minlength=config.n_bands + 1).tolist())
    if factors[-1] > 2:
        source.counts("factors", factors)
    source.member("fft_a", n_fft, "the FFT's input and output, by turns")
    source.member("fft_b", n_fft)
    source.member("bands", config.n_bands)
    source.member("rows", config.n_rows, "features of one frame")

    source.code(CLIP)
    source.code(TURN.replace("QUARTER", str(resolution // 4)).replace("STEPS", f"{resolution // n_fft}u"))
    source.code(FFT_ANY.replace("N_FACTORS", str(len(factors))) if factors[-1] > 2 else FFT_TWO)
    last = "rows[b] = logf(band);" if config.kind == "logmel" else "s->bands[b] = logf(band);"
    mfcc = ""
    if config.kind == "mfcc":
        source.table("dct", np.cos(2 * np.pi * np.arange(config.n_bands + 1) / (4 * config.n_bands)))
        mfcc = DCT.replace("FIRST_SCALE", _exact(np.float32(config.n_bands**-0.5))).replace(
            "SCALE", _exact(np.float32((2 / config.n_bands) ** 0.5))
        )
    source.code(
        ROWS.replace("LAST", last)
        .replace("MFCC", mfcc)
        .replace("FIRST_BIN", str(int(heard[0])))
        .replace("FLOOR", _exact(np.float32(config.log_floor)))
    )
    _write_normalisation(source, config)


def _write_normalisation(source: _Source, config: FeatureConfig) -> None:
    """Pass one: the clip's mean, and deviation, of every row."""
    if config.normalisation == "none":
        return
    deviates = config.normalisation == "mean_std"
    source.member("mean", config.n_rows, "of the clip", "double")
    if deviates:
        source.member("squares", config.n_rows, kind="double")
    source.member("offset", config.n_rows, "taken from a row")
    if deviates:
        source.member("gain", config.n_rows, "then multiplied with")
    level = ""
    if config.normalisation == "keep_level" and config.kind == "mfcc":
        reference = math.sqrt(config.n_bands) * LEVEL_REFERENCE
        level = f"    s->offset[0] = {_exact(np.float32(reference))}; /* the level stays */\n"
    elif config.normalisation == "keep_level":
        level = LEVEL.replace("REFERENCE", f"{LEVEL_REFERENCE!r}")
    floor = repr(float(STD_FLOOR))
    source.code(
        MEASURE.replace("SQUARES_ZERO", "s->squares[r] = 0.0;" if deviates else "")
        .replace(
            "SQUARES_ADD", "s->squares[r] += step * ((double)s->rows[r] - s->mean[r]);" if deviates else ""
        )
        .replace("GAIN", GAIN.replace("FLOOR", floor) if deviates else "")
        .replace("LEVEL", level)
    )


def _prime_factors(n: int) -> list[int]:
    factors, divisor = [], 2
    while n > 1:
        while n % divisor == 0:
            factors.append(divisor)
            n //= divisor
        divisor += 1
    return factors or [1]


# The networks.


def _write_network(source: _Source, model: Any, card: "ModelCard") -> None:
    source.define("N_CLASSES", len(card.class_names))
    source.define("WINDOW_FRAMES", _window_frames(card), "that the network hears at once")
    scales = "const float *scales, " if source.bits == 8 else ""
    source.code(
        MULTIPLY.replace("KIND", "int8_t" if source.bits == 8 else "float")
        .replace("SCALES", scales)
        .replace("CAST", "(float)" if source.bits == 8 else "")
        .replace("SCALED", "sum * scales[o]" if source.bits == 8 else "sum")
    )
    _write_linear(source, "head", model.head)
    write = {"res8": _write_res8, "small": _write_small}.get(card.model, _write_recurrent)
    write(source, model, card)
    if source.n_spare:
        source.member("spare_a", source.n_spare, "a tensor train between two cores")
        source.member("spare_b", source.n_spare)


def _write_recurrent(source: _Source, model: Any, card: "ModelCard") -> None:
    from torch import nn

    layer = model.recurrent
    hidden, is_lstm = layer.hidden_size, card.model.endswith("lstm")
    source_ih, source_hh = layer.weight_ih_l0, layer.weight_hh_l0
    is_dense = isinstance(layer, nn.LSTM | nn.GRU)
    if is_dense:
        own, from_state = _array_of(layer.bias_ih_l0), _array_of(layer.bias_hh_l0)
        n_shared = 4 * hidden if is_lstm else 2 * hidden  # of a GRU's last gate the two stay apart
        bias = np.concatenate([own[:n_shared] + from_state[:n_shared], own[n_shared:], from_state[n_shared:]])
    else:
        bias = _array_of(layer.bias_l0)
    _write_matrix(source, "of_input", source_ih)
    _write_matrix(source, "of_state", source_hh)
    source.rounded("bias", bias)
    _write_row_norm(source, model.norm)
    n_gates = 4 if is_lstm else 3
    source.member("x", card.features.n_rows)
    source.member("from_input", n_gates * hidden, "the gates' two parts")
    source.member("from_state", n_gates * hidden)
    source.member("h", hidden, "the state")
    if is_lstm:
        source.member("c", hidden)
    source.member("sum", hidden, "of the states of a window")
    source.member("n_pushed", 1, "frames of the window", "uint32_t")
    source.code(
        RECURRENT.replace("CELL", LSTM if is_lstm else GRU)
        .replace("MORE", "    memset(s->c, 0, sizeof s->c);\n" if is_lstm else "")
        .replace("HIDDEN", f"{hidden}u")
    )


def _write_res8(source: _Source, model: Any, card: "ModelCard") -> None:
    from vagitus.models.res8 import POOL_FRAMES, POOL_MELS

    n_rows, frames, width = card.features.n_rows, _window_frames(card), model.feature_dim
    height, length = n_rows // POOL_MELS, frames // POOL_FRAMES
    if not length:
        raise ValueError(f"res8 needs windows of {POOL_FRAMES} frames, these have {frames}; raise window_s")
    _write_matrix(source, "stem", _kernel(model.stem))
    for k, (conv, norm) in enumerate(zip(model.convs, model.norms, strict=True)):
        _write_matrix(source, f"conv{k}", _kernel(conv))
        _write_affine(source, f"norm{k}", norm)
    source.member("shortcut", height * length * width, "activations (row, column, channel)")
    source.member("inner", max(height * length * width, n_rows * frames), "and the window's features")
    source.member("patch", 9 * width)
    source.member("column", width)
    source.member("mean_of_places", width)
    source.member("n_pushed", 1, "frames of the window", "uint32_t")
    source.code(PUSH_PLAIN.replace("BUFFER", "inner"))
    source.code(PATCH)
    blocks = "\n".join(
        f"    @_block(s, @_weigh_conv{k}, @_weigh_conv{k + 1}, "
        + (f"@_norm{k - 1}_scale, @_norm{k - 1}_shift" if k else "NULL, NULL")
        + f", @_norm{k}_scale, @_norm{k}_shift);"
        for k in range(0, len(model.convs), 2)
    )
    numbers = {
        "BLOCKS": blocks,
        "LAST_SCALE": f"@_norm{len(model.norms) - 1}_scale",
        "LAST_SHIFT": f"@_norm{len(model.norms) - 1}_shift",
        "HEIGHT": f"{height}u",
        "LENGTH": f"{length}u",
        "WIDTH": f"{width}u",
        "POOL_ROWS": f"{POOL_MELS}u",
        "POOL_COLUMNS": f"{POOL_FRAMES}u",
    }
    source.code(_filled(RES8, numbers))


def _write_small(source: _Source, model: Any, card: "ModelCard") -> None:
    _write_row_norm(source, model.norm)
    rows, columns, n_in = card.features.n_rows, _window_frames(card), 1
    lines: list[str] = []
    sizes = [rows * columns]
    steps = f"1u, {rows}u"  # the features lie frame by frame
    for k, (conv, norm) in enumerate(zip(model.convs, model.norms, strict=True)):
        _write_matrix(source, f"conv{k}", _kernel(conv))
        _write_affine(source, f"norm{k}", norm)
        read, write = ("s->a", "s->b") if k % 2 == 0 else ("s->b", "s->a")
        n_out = conv.out_channels
        lines.append(
            f"    @_convolve(s, {read}, {rows}u, {columns}u, {steps}, {n_in}u, @_weigh_conv{k}, {n_out}u, "
            f"@_norm{k}_scale, @_norm{k}_shift, {write});"
        )
        rows, columns, n_in = (rows + 1) // 2, (columns + 1) // 2, n_out
        steps = f"{columns * n_in}u, {n_in}u"
        sizes.append(rows * columns * n_in)
    source.member("a", max(sizes[::2]), "activations of every second layer, and the window's features")
    source.member("b", max(sizes[1::2]), "of the others")
    source.member("patch", 9 * max(conv.in_channels for conv in model.convs))
    source.member("column", n_in)
    source.member("n_pushed", 1, "frames of the window", "uint32_t")
    source.code(PUSH_NORMED)
    source.code(PATCH)
    numbers = {
        "LAYERS": "\n".join(lines),
        "RESULT": "s->a" if len(model.convs) % 2 == 0 else "s->b",
        "PLACES": f"{rows * columns}u",
        "WIDTH": f"{n_in}u",
    }
    source.code(_filled(SMALL, numbers))


def _filled(template: str, numbers: dict[str, str]) -> str:
    return re.sub("|".join(rf"\b{name}\b" for name in numbers), lambda found: numbers[found[0]], template)


def _kernel(conv: Any) -> Any:
    """A convolution's weight as a matrix (n_out, n_in * 9): a tensor, or a TT-matrix."""
    from torch import nn

    return conv.weight.flatten(1) if isinstance(conv, nn.Conv2d) else conv.weight


def _array_of(tensor: "Tensor") -> Float64:
    return tensor.detach().cpu().double().numpy()


def _write_linear(source: _Source, name: str, layer: Any) -> None:
    _write_matrix(source, name, layer.weight)
    source.rounded(f"{name}_bias", _array_of(layer.bias))


def _write_row_norm(source: _Source, norm: Any) -> None:
    source.table("centre", _array_of(norm.running_mean))
    source.table("spread", 1 / np.sqrt(_array_of(norm.running_var) + norm.eps))


def _write_affine(source: _Source, name: str, norm: Any) -> None:
    """Batch norm at rest as scale * x + shift."""
    scale = 1 / np.sqrt(_array_of(norm.running_var) + norm.eps)
    if norm.affine:
        scale *= _array_of(norm.weight)
    shift = -_array_of(norm.running_mean) * scale
    source.rounded(f"{name}_scale", scale)
    source.rounded(f"{name}_shift", shift + _array_of(norm.bias) if norm.affine else shift)


def _write_matrix(source: _Source, name: str, weight: Any) -> None:
    """``PREFIX_weigh_NAME``: y = W x of a dense weight, or of a TT-matrix core by core."""
    from vagitus.tensor_train.matrix import TTMatrix

    if not isinstance(weight, TTMatrix):
        matrix = _array_of(weight)
        source.weights(name, matrix)
        call = _multiply(source, name, matrix.shape, 1, 1, "x", "y")
        source.code(WEIGH.replace("NAME", name).replace("BODY", f"{call}\n    (void)s;"))
        return
    body: list[str] = []
    n_padded, n_in = weight.shape.padded_in, weight.n_in
    for b, cores in enumerate(weight.blocks()):
        n_left, n_right, read = 1, n_padded, "x"
        if n_padded > n_in:
            source.n_spare = max(source.n_spare, n_padded)
            body += [
                f"memcpy(s->spare_a, x, {n_in}u * sizeof(float));",
                f"memset(s->spare_a + {n_in}u, 0, {n_padded - n_in}u * sizeof(float)); /* padding */",
            ]
            read = "s->spare_a"
        straight, copies = _rows_of(weight, b)
        for k, core in enumerate(cores):
            rank_left, m, n, rank_right = core.shape
            part = f"{name}_core{b * len(cores) + k}"
            # As ``tensor_train.matrix.core_operator``: rows (m_k, r_k), columns (r_{k-1}, n_k).
            operator = _array_of(core.permute(1, 3, 0, 2).reshape(m * rank_right, rank_left * n))
            source.weights(part, operator)
            n_right //= n
            write = "s->spare_b" if read != "s->spare_b" else "s->spare_a"
            if k == len(cores) - 1 and straight:
                write = straight
            else:
                source.n_spare = max(source.n_spare, n_left * m * rank_right * n_right)
            body.append(_multiply(source, part, operator.shape, n_left, n_right, read, write))
            n_left, read = n_left * m, write
        body += [copy.replace("FROM", read) for copy in copies]
    if not any("s->" in line for line in body):
        body.append("(void)s;")
    loop = "    uint32_t g, i;\n" if any(line.startswith("for") for line in body) else ""
    source.code(
        WEIGH.replace("NAME", name).replace("BODY", "\n    ".join(body)).replace("{\n", "{\n" + loop, 1)
    )


def _rows_of(weight: Any, block: int) -> tuple[str, list[str]]:
    """Where a TT's rows go in y: at once, "" if they cannot; or the lines that copy them, as ``crop_rows``."""
    n_out, n_gates, n_padded = weight.n_out, weight.n_gates, weight.shape.padded_out
    if weight.layout in ("joint", "per_gate"):
        n_rows = weight.shape.n_out
        target = f"y + {block * n_out}u" if block else "y"
        if n_padded == n_rows:
            return target, []
        return "", [f"memcpy({target}, FROM, {n_rows}u * sizeof(float));"]
    gate, row = (n_padded // n_gates, 1) if weight.layout == "gate_first" else (1, n_gates)
    return "", [
        f"for (g = 0; g < {n_gates}u; g++)",
        f"    for (i = 0; i < {n_out}u; i++) y[g * {n_out}u + i] = FROM[g * {gate}u + i * {row}u];",
    ]


def _multiply(
    source: _Source, name: str, shape: Sequence[int], n_left: int, n_right: int, read: str, write: str
) -> str:
    scales = f"@_{name}_scales, " if source.bits == 8 else ""
    sizes = ", ".join(f"{size}u" for size in (*shape, n_left, n_right))
    return f"@_multiply(@_{name}, {scales}{sizes}, {read}, {write});"


# From samples to the decision.


def _write_score(source: _Source, card: "ModelCard") -> None:
    from vagitus.audit import SILENT_DBFS

    normalisation = card.features.normalisation
    calibrator = _calibrator(card)
    source.defines.append(source.named(f'#define $_NOTICE "{_notice()}"'))
    if card.threshold is not None:
        source.define("THRESHOLD", repr(float(card.threshold)), "of the second class's probability")
    declare = ""
    if isinstance(calibrator, calibration.Isotonic):
        knots = [
            ", ".join(map(repr, map(float, side))) for side in (calibrator.log_odds, calibrator.probability)
        ]
        n_knots = len(calibrator.log_odds)
        source.constants.append(
            source.named(
                f"static const double @_log_odds[{n_knots}] = {{{knots[0]}}};\n"
                f"static const double @_knots[{n_knots}] = {{{knots[1]}}};"
            )
        )
        source.constant_bytes += 16 * n_knots
        calibrated = ISOTONIC.replace("N_KNOTS", f"{n_knots}u")
    else:
        logit = "(double)result->logits[c]"
        if isinstance(calibrator, calibration.Temperature):
            logit = f"(double)result->logits[c] / {float(calibrator.temperature)!r}"
        elif isinstance(calibrator, calibration.Logistic):
            biases = ", ".join(map(repr, map(float, calibrator.bias)))
            declare = f"    static const double bias[$_N_CLASSES] = {{{biases}}};\n"
            logit = f"{float(calibrator.slope)!r} * (double)result->logits[c] + bias[c]"
        calibrated = SOFTMAX.replace("LOGIT", logit)
    decide = DECIDE_HIGHEST if card.threshold is None else "    result->decision = p[1] >= $_THRESHOLD;\n"
    source.code(JUDGE.replace("DECLARE", declare).replace("CALIBRATED", calibrated).replace("DECIDE", decide))
    normalise = {
        "none": "",
        "mean": NORMALISE.replace("GAIN", ""),
        "keep_level": NORMALISE.replace("GAIN", ""),
        "mean_std": NORMALISE.replace("GAIN", " * s->gain[r]"),
    }[normalisation]
    source.code(
        CLASSIFY.replace("MEASURE", "" if normalisation == "none" else "    @_measure(s, clip, n_frames);\n")
        .replace("COUNTERS", "t, k, c" if normalisation == "none" else "t, k, c, r")
        .replace("NORMALISE", normalise)
        .replace("WINDOW_HOP", f"{max(_window_frames(card) // 2, 1)}u")
        .replace("SILENT_DBFS", f"{SILENT_DBFS:.1f}f")
    )


def _notice() -> str:
    from vagitus.checkpoint import RESEARCH_ONLY

    return RESEARCH_ONLY


def _assembled(source: _Source, card: "ModelCard", file_name: str, licence: str) -> str:
    members = "\n".join([*source.doubles, *source.members])
    names = ", ".join(map(_c_string, card.class_names))
    return (
        f"/*\n{_about(source, card, file_name, licence)}\n */\n"
        + source.named(
            INTERFACE.replace("DEFINES", "\n".join(source.defines)).replace("MEMBERS", members)
            + "\n".join(["", "#ifdef $_IMPLEMENTATION", "#include <math.h>", "#include <string.h>", ""])
        )
        + source.named("\nconst char *const @_class_names[$_N_CLASSES] = {")
        + f"{names}}};\n\n"
        + "\n".join(source.constants)
        + "\n\n"
        + "\n\n".join(source.functions)
        + source.named(ENDING)
    )


def _about(source: _Source, card: "ModelCard", file_name: str, licence: str) -> str:
    """The card, as the comment at the top."""
    features, prefix = card.features, source.prefix
    window_s = _window_frames(card) / features.frames_per_s
    heard = f"{features.n_bands} {features.mel_scale} mel bands, {features.f_min_hz:g} to {features.f_max_hz:g} Hz"
    if features.kind == "mfcc":
        heard += f", {features.n_rows} MFCC"
    threshold = "none: the class of the highest logit" if card.threshold is None else f"{card.threshold:.4g}"
    numbers = "float32" if source.bits == 32 else "int8, a float32 scale a row"
    lines = [
        f"{file_name}: {card.model} by vagitus, from samples to a decision. {_notice()}",
        "",
        f"classes      {', '.join(card.class_names)}",
        f"threshold    {threshold}" + (f", of the probability of {card.positive}" if card.positive else ""),
        f"clip         mono, {features.sample_rate_hz} Hz, float in [-1, 1] or int16; windows of {window_s:g} s",
        f"features     {heard}; normalisation {features.normalisation}",
        f"trained on   {card.provenance.get('data') or 'not stated'}",
        f"licence      {licence}",
        f"weights      {numbers}",
        f"memory       {prefix}_state {source.state_bytes} bytes, constants {source.constant_bytes} bytes, "
        "no heap",
        "",
        f"In one source file: #define {prefix.upper()}_IMPLEMENTATION, then #include this. Link with -lm.",
        f"    static {prefix}_state state;  needs no initialisation; one clip at a time",
        f"    {prefix}_result result;",
        f"    if ({prefix}_classify(&state, waveform, n_samples, &result) == {prefix.upper()}_OK) ...",
    ]
    return "\n".join(f" * {_comment(line)}".rstrip() for line in lines)


def _comment(text: str) -> str:
    """Text that can end no comment and begins no other: printable ASCII."""
    plain = " ".join(text.split()) if "\n" in text or "\r" in text else text
    plain = "".join(c if c.isprintable() else " " for c in plain).encode("ascii", "backslashreplace").decode()
    return plain.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?").rstrip("\\")


def _c_string(text: str) -> str:
    """A string literal of the text's UTF-8."""
    plain = b"-_ .,:;+()[]"
    return (
        '"'
        + "".join(
            chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in plain else f"\\{byte:03o}"
            for byte in text.encode()
        )
        + '"'
    )


INTERFACE = """\
#ifndef $_H
#define $_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

DEFINES

/* Why a clip has no score. */
enum { $_OK = 0, $_TOO_SHORT = 1, $_SILENT = 2, $_NOT_FINITE = 3 };

typedef struct {
MEMBERS
} @_state;
#define $_STATE_BYTES ((uint32_t)sizeof(@_state))

typedef struct {
    int32_t status;
    int32_t decision; /* of @_class_names; -1 without a score */
    float probability[$_N_CLASSES]; /* calibrated; zeros without a score */
    float logits[$_N_CLASSES]; /* mean over windows */
    float level_dbfs; /* of the clip, 20 log10 of its root mean square; -200 for zeros */
} @_result;

extern const char *const @_class_names[$_N_CLASSES];

/* A clip of fewer than 2^31 samples to a score; gives result->status. */
int32_t @_classify(@_state *s, const float *waveform, uint32_t n_samples, @_result *result);
int32_t @_classify_int16(@_state *s, const int16_t *waveform, uint32_t n_samples, @_result *result);

/* Its parts. Features of one frame, before normalisation by the clip; frame t is centred on sample t * HOP_SAMPLES. */
void @_features(@_state *s, const float *waveform, uint32_t n_samples, uint32_t frame, float rows[$_N_ROWS]);
/* The network on one window: WINDOW_FRAMES frames of normalised features are pushed. */
void @_begin_window(@_state *s);
void @_push_frame(@_state *s, const float rows[$_N_ROWS]);
void @_end_window(@_state *s, float logits[$_N_CLASSES]);
/* result->logits to probabilities and the decision. */
void @_judge(@_result *result);

#ifdef __cplusplus
}
#endif
#endif
"""

ENDING = """

#endif
"""

CLIP = """
/* A clip as the caller holds it: one of the two. */
typedef struct {
    const float *floats;
    const int16_t *integers;
    uint32_t n_samples;
} @_clip;

static float @_sample(const @_clip *clip, uint32_t i)
{
    return clip->floats ? clip->floats[i] : (float)clip->integers[i] / 32768.f;
}
"""

TURN = """
/* e^(-2 pi i k / N_FFT), from a quarter of a cosine. */
static void @_turn(uint32_t k, float *re, float *im)
{
    const uint32_t step = k * STEPS;
    const float c = @_cosine[step % QUARTERu], d = @_cosine[QUARTERu - step % QUARTERu];
    switch (step / QUARTERu % 4u) {
    case 0: *re = c; *im = -d; break;
    case 1: *re = -d; *im = -c; break;
    case 2: *re = -c; *im = d; break;
    default: *re = d; *im = c; break;
    }
}
"""

FFT_TWO = """
/* FFT of N_FFT / 2 complex numbers (Stockham, radix 2): x and y by turns, no bit reversal; where the result is. */
static const float *@_fft(float *x, float *y)
{
    uint32_t left = $_N_FFT / 2, stride = 1, k, q;
    while (left > 1) {
        float *t = x;
        left /= 2;
        for (k = 0; k < left; k++) {
            float c, d;
            @_turn(2 * k * stride, &c, &d);
            for (q = 0; q < stride; q++) {
                const float *a = x + 2 * (stride * k + q), *b = x + 2 * (stride * (k + left) + q);
                float *to = y + 2 * (stride * 2 * k + q);
                const float re = a[0] - b[0], im = a[1] - b[1];
                to[0] = a[0] + b[0];
                to[1] = a[1] + b[1];
                to[2 * stride] = re * c - im * d;
                to[2 * stride + 1] = re * d + im * c;
            }
        }
        stride *= 2;
        x = y;
        y = t;
    }
    return x;
}
"""

FFT_ANY = """
/* FFT of N_FFT / 2 complex numbers (Stockham, any factors): x and y by turns; where the result is. */
static const float *@_fft(float *x, float *y)
{
    uint32_t left = $_N_FFT / 2, stride = 1, f, k, q, r, a;
    for (f = 0; f < N_FACTORSu; f++) {
        const uint32_t p = @_factors[f];
        float *t = x;
        left /= p;
        for (k = 0; k < left; k++)
            for (r = 0; r < p; r++)
                for (q = 0; q < stride; q++) {
                    float c, d, re = 0.f, im = 0.f;
                    float *to = y + 2 * (stride * (p * k + r) + q);
                    for (a = 0; a < p; a++) {
                        const float *z = x + 2 * (stride * (k + a * left) + q);
                        @_turn(2 * stride * r * (a * left + k), &c, &d);
                        re += z[0] * c - z[1] * d;
                        im += z[0] * d + z[1] * c;
                    }
                    to[0] = re;
                    to[1] = im;
                }
        stride *= p;
        x = y;
        y = t;
    }
    return x;
}
"""

ROWS = """
/* Features of one frame. Beyond the clip the samples are zero: i wraps round below 0 and is large then. */
static void @_rows(@_state *s, const @_clip *clip, uint32_t frame, float *rows)
{
    const uint32_t first = frame * $_HOP_SAMPLES - ($_FRAME_SAMPLES + 1) / 2;
    const float *z;
    uint32_t n, b, k = FIRST_BIN;
    for (n = 0; n < $_FRAME_SAMPLES; n++) {
        const uint32_t i = first + n, w = n <= $_FRAME_SAMPLES / 2 ? n : $_FRAME_SAMPLES - n;
        s->fft_a[n] = i < clip->n_samples ? @_hann[w] * @_sample(clip, i) : 0.f;
    }
    for (; n < $_N_FFT; n++) s->fft_a[n] = 0.f;
    z = @_fft(s->fft_a, s->fft_b); /* even samples as real parts, odd ones as imaginary parts */
    for (b = 0; b < $_N_BANDS; b++) s->bands[b] = 0.f;
    for (b = 0; b <= $_N_BANDS; b++)
        for (n = 0; n < @_interval[b]; n++, k++) {
            /* Bin k of the real signal; then its power to the band that rises here and to the one that falls. */
            const float *u = z + 2 * (k % ($_N_FFT / 2)), *v = z + 2 * (($_N_FFT - k) % ($_N_FFT / 2));
            const float even_re = u[0] + v[0], even_im = u[1] - v[1], odd_re = u[1] + v[1], odd_im = v[0] - u[0];
            const float rise = @_rise[k - FIRST_BIN];
            float c, d, re, im, power;
            @_turn(k, &c, &d);
            re = 0.5f * (even_re + odd_re * c - odd_im * d);
            im = 0.5f * (even_im + odd_re * d + odd_im * c);
            power = re * re + im * im;
            if (b < $_N_BANDS) s->bands[b] += rise * power;
            if (b > 0) s->bands[b - 1] += (1.f - rise) * power;
        }
    for (b = 0; b < $_N_BANDS; b++) {
        float band = s->bands[b] * @_height[b];
        if (band < FLOOR) band = FLOOR;
        LAST
    }
MFCC}
"""

DCT = """    for (n = 0; n < $_N_ROWS; n++) { /* orthonormal DCT-II */
        float sum = 0.f;
        uint32_t turn = n; /* (2 b + 1) n of 4 N_BANDS */
        for (b = 0; b < $_N_BANDS; b++, turn = (turn + 2 * n) % (4 * $_N_BANDS)) {
            const uint32_t rest = turn % $_N_BANDS, quadrant = turn / $_N_BANDS;
            const float c = @_dct[quadrant % 2u ? $_N_BANDS - rest : rest];
            sum += quadrant == 1u || quadrant == 2u ? -c * s->bands[b] : c * s->bands[b];
        }
        rows[n] = sum * (n == 0 ? FIRST_SCALE : SCALE);
    }
"""

MEASURE = """
/* Statistics of the whole clip, by which its windows are normalised (Welford). */
static void @_measure(@_state *s, const @_clip *clip, uint32_t n_frames)
{
    uint32_t t, r;
    for (r = 0; r < $_N_ROWS; r++) {
        s->mean[r] = 0.0;
        SQUARES_ZERO
    }
    for (t = 0; t < n_frames; t++) {
        const double share = 1.0 / (double)(t + 1);
        @_rows(s, clip, t, s->rows);
        for (r = 0; r < $_N_ROWS; r++) {
            const double step = (double)s->rows[r] - s->mean[r];
            s->mean[r] += step * share;
            SQUARES_ADD
        }
    }
    for (r = 0; r < $_N_ROWS; r++) {
        s->offset[r] = (float)s->mean[r];
        GAIN
    }
LEVEL}
"""

GAIN = """{
            const double deviation = sqrt(s->squares[r] / (double)n_frames);
            s->gain[r] = (float)(1.0 / (deviation > FLOOR ? deviation : FLOOR));
        }"""

LEVEL = """    {
        double level = 0.0; /* what all bands share stays */
        for (r = 0; r < $_N_ROWS; r++) level += s->mean[r] / (double)$_N_ROWS;
        for (r = 0; r < $_N_ROWS; r++) s->offset[r] = (float)(s->mean[r] - (level - (REFERENCE)));
    }
"""

MULTIPLY = """
/* y (n_left, n_rows, n_right) = W (n_rows, n_columns) x (n_left, n_columns, n_right): a matrix, or one core. */
static void @_multiply(const KIND *w, SCALESuint32_t n_rows, uint32_t n_columns, uint32_t n_left,
                       uint32_t n_right, const float *x, float *y)
{
    uint32_t l, o, q, i;
    for (l = 0; l < n_left; l++)
        for (o = 0; o < n_rows; o++)
            for (q = 0; q < n_right; q++) {
                const KIND *u = w + o * n_columns;
                const float *v = x + l * n_columns * n_right + q;
                float sum = 0.f, b = 0.f, c = 0.f, d = 0.f; /* four, as one would wait for itself */
                for (i = 0; i + 3 < n_columns; i += 4, u += 4, v += 4 * n_right) {
                    sum += CASTu[0] * v[0];
                    b += CASTu[1] * v[n_right];
                    c += CASTu[2] * v[2 * n_right];
                    d += CASTu[3] * v[3 * n_right];
                }
                for (; i < n_columns; i++, u++, v += n_right) sum += CASTu[0] * v[0];
                sum += b + c + d;
                y[(l * n_rows + o) * n_right + q] = SCALED;
            }
}
"""

WEIGH = """
static void @_weigh_NAME(@_state *s, const float *x, float *y)
{
    BODY
}
"""

RECURRENT = """
static float @_sigmoid(float x)
{
    return 1.f / (1.f + expf(-x));
}

void @_begin_window(@_state *s)
{
    memset(s->h, 0, sizeof s->h);
MORE    memset(s->sum, 0, sizeof s->sum);
    s->n_pushed = 0;
}

void @_push_frame(@_state *s, const float rows[$_N_ROWS])
{
    const float *u = s->from_input, *v = s->from_state, *b = @_bias;
    uint32_t i;
    for (i = 0; i < $_N_ROWS; i++) s->x[i] = (rows[i] - @_centre[i]) * @_spread[i];
    @_weigh_of_input(s, s->x, s->from_input);
    @_weigh_of_state(s, s->h, s->from_state);
    for (i = 0; i < HIDDEN; i++) {
CELL        s->sum[i] += s->h[i];
    }
    s->n_pushed++;
}

void @_end_window(@_state *s, float logits[$_N_CLASSES])
{
    uint32_t i;
    for (i = 0; i < HIDDEN; i++) s->sum[i] /= (float)s->n_pushed;
    @_weigh_head(s, s->sum, logits);
    for (i = 0; i < $_N_CLASSES; i++) logits[i] += @_head_bias[i];
}
"""

GRU = """        const float reset = @_sigmoid(u[i] + v[i] + b[i]);
        const float update = @_sigmoid(u[HIDDEN + i] + v[HIDDEN + i] + b[HIDDEN + i]);
        const float new_state = tanhf(u[2 * HIDDEN + i] + b[2 * HIDDEN + i]
                                      + reset * (v[2 * HIDDEN + i] + b[3 * HIDDEN + i]));
        s->h[i] = (1.f - update) * new_state + update * s->h[i];
"""

LSTM = """        const float in = @_sigmoid(u[i] + v[i] + b[i]);
        const float forget = @_sigmoid(u[HIDDEN + i] + v[HIDDEN + i] + b[HIDDEN + i]);
        const float cell = tanhf(u[2 * HIDDEN + i] + v[2 * HIDDEN + i] + b[2 * HIDDEN + i]);
        const float out = @_sigmoid(u[3 * HIDDEN + i] + v[3 * HIDDEN + i] + b[3 * HIDDEN + i]);
        s->c[i] = forget * s->c[i] + in * cell;
        s->h[i] = out * tanhf(s->c[i]);
"""

PUSH_PLAIN = """
void @_begin_window(@_state *s)
{
    s->n_pushed = 0;
}

void @_push_frame(@_state *s, const float rows[$_N_ROWS])
{
    if (s->n_pushed == $_WINDOW_FRAMES) return;
    memcpy(s->BUFFER + $_N_ROWS * s->n_pushed, rows, $_N_ROWS * sizeof(float));
    s->n_pushed++;
}
"""

PUSH_NORMED = """
void @_begin_window(@_state *s)
{
    s->n_pushed = 0;
}

void @_push_frame(@_state *s, const float rows[$_N_ROWS])
{
    uint32_t r;
    if (s->n_pushed == $_WINDOW_FRAMES) return;
    for (r = 0; r < $_N_ROWS; r++)
        s->a[$_N_ROWS * s->n_pushed + r] = (rows[r] - @_centre[r]) * @_spread[r];
    s->n_pushed++;
}
"""

PATCH = """
typedef void (*@_weight)(@_state *s, const float *x, float *y);

/* s->patch (channel, 3, 3): what a kernel sees whose first place is (row, column); zeros beyond the edges, where
   an index wraps round below 0. Scaled and shifted by channel unless scale is NULL. */
static void @_look(@_state *s, const float *x, uint32_t n_rows, uint32_t n_columns, uint32_t row_step,
                   uint32_t column_step, uint32_t n_channels, uint32_t row, uint32_t column, const float *scale,
                   const float *shift)
{
    uint32_t i, j, c;
    for (i = 0; i < 3; i++)
        for (j = 0; j < 3; j++) {
            float *to = s->patch + 3 * i + j;
            const float *from = x;
            if (row + i < n_rows && column + j < n_columns)
                from = x + (row + i) * row_step + (column + j) * column_step;
            else {
                for (c = 0; c < n_channels; c++) to[9 * c] = 0.f;
                continue;
            }
            for (c = 0; c < n_channels; c++) to[9 * c] = scale ? from[c] * scale[c] + shift[c] : from[c];
        }
}
"""

RES8 = """
/* shortcut += relu(second(norm(relu(first(shortcut as normed before))))) */
static void @_block(@_state *s, @_weight first, @_weight second, const float *before_scale, const float *before_shift,
                    const float *scale, const float *shift)
{
    uint32_t i, j, c;
    for (i = 0; i < HEIGHT; i++)
        for (j = 0; j < LENGTH; j++) {
            float *to = s->inner + (i * LENGTH + j) * WIDTH;
            @_look(s, s->shortcut, HEIGHT, LENGTH, LENGTH * WIDTH, WIDTH, WIDTH, i - 1, j - 1, before_scale,
                   before_shift);
            first(s, s->patch, s->column);
            for (c = 0; c < WIDTH; c++) to[c] = (s->column[c] > 0.f ? s->column[c] : 0.f) * scale[c] + shift[c];
        }
    for (i = 0; i < HEIGHT; i++)
        for (j = 0; j < LENGTH; j++) {
            float *to = s->shortcut + (i * LENGTH + j) * WIDTH;
            @_look(s, s->inner, HEIGHT, LENGTH, LENGTH * WIDTH, WIDTH, WIDTH, i - 1, j - 1, NULL, NULL);
            second(s, s->patch, s->column);
            for (c = 0; c < WIDTH; c++) to[c] += s->column[c] > 0.f ? s->column[c] : 0.f;
        }
}

void @_end_window(@_state *s, float logits[$_N_CLASSES])
{
    uint32_t i, j, a, b, c;
    for (i = 0; i < HEIGHT; i++)
        for (j = 0; j < LENGTH; j++) { /* convolution and average pool in one */
            float *to = s->shortcut + (i * LENGTH + j) * WIDTH;
            for (c = 0; c < WIDTH; c++) to[c] = 0.f;
            for (a = 0; a < POOL_ROWS; a++)
                for (b = 0; b < POOL_COLUMNS; b++) {
                    @_look(s, s->inner, $_N_ROWS, $_WINDOW_FRAMES, 1, $_N_ROWS, 1, i * POOL_ROWS + a - 1,
                           j * POOL_COLUMNS + b - 1, NULL, NULL);
                    @_weigh_stem(s, s->patch, s->column);
                    for (c = 0; c < WIDTH; c++)
                        if (s->column[c] > 0.f) to[c] += s->column[c] / (float)(POOL_ROWS * POOL_COLUMNS);
                }
        }
BLOCKS
    for (c = 0; c < WIDTH; c++) s->mean_of_places[c] = 0.f;
    for (i = 0; i < HEIGHT * LENGTH; i++)
        for (c = 0; c < WIDTH; c++) s->mean_of_places[c] += s->shortcut[i * WIDTH + c];
    for (c = 0; c < WIDTH; c++)
        s->mean_of_places[c] = s->mean_of_places[c] / (float)(HEIGHT * LENGTH) * LAST_SCALE[c]
                               + LAST_SHIFT[c];
    @_weigh_head(s, s->mean_of_places, logits);
    for (c = 0; c < $_N_CLASSES; c++) logits[c] += @_head_bias[c];
}
"""

SMALL = """
/* relu(norm(3x3 convolution of stride 2)); y (row, column, channel). */
static void @_convolve(@_state *s, const float *x, uint32_t n_rows, uint32_t n_columns, uint32_t row_step,
                       uint32_t column_step, uint32_t n_in, @_weight weigh, uint32_t n_out, const float *scale,
                       const float *shift, float *y)
{
    uint32_t i, j, c;
    for (i = 0; i < n_rows; i += 2)
        for (j = 0; j < n_columns; j += 2, y += n_out) {
            @_look(s, x, n_rows, n_columns, row_step, column_step, n_in, i - 1, j - 1, NULL, NULL);
            weigh(s, s->patch, s->column);
            for (c = 0; c < n_out; c++) {
                const float normed = s->column[c] * scale[c] + shift[c];
                y[c] = normed > 0.f ? normed : 0.f;
            }
        }
}

void @_end_window(@_state *s, float logits[$_N_CLASSES])
{
    uint32_t i, c;
LAYERS
    for (c = 0; c < WIDTH; c++) {
        float sum = 0.f;
        for (i = 0; i < PLACES; i++) sum += RESULT[i * WIDTH + c];
        s->column[c] = sum / (float)PLACES;
    }
    @_weigh_head(s, s->column, logits);
    for (c = 0; c < $_N_CLASSES; c++) logits[c] += @_head_bias[c];
}
"""

JUDGE = """
void @_judge(@_result *result)
{
DECLARE    double p[$_N_CLASSES];
    uint32_t c;
CALIBRATEDDECIDE    for (c = 0; c < $_N_CLASSES; c++) result->probability[c] = (float)p[c];
}
"""

SOFTMAX = """    double highest, sum = 0.0;
    for (c = 0; c < $_N_CLASSES; c++) p[c] = LOGIT;
    highest = p[0];
    for (c = 1; c < $_N_CLASSES; c++)
        if (p[c] > highest) highest = p[c];
    for (c = 0; c < $_N_CLASSES; c++) {
        p[c] = exp(p[c] - highest);
        sum += p[c];
    }
    for (c = 0; c < $_N_CLASSES; c++) p[c] /= sum;
"""

ISOTONIC = """    const double x = (double)result->logits[1] - (double)result->logits[0];
    uint32_t k = 0; /* knots up to x */
    while (k < N_KNOTS && @_log_odds[k] <= x) k++;
    if (k == 0)
        p[1] = @_knots[0];
    else if (k == N_KNOTS)
        p[1] = @_knots[k - 1];
    else
        p[1] = @_knots[k - 1] + (@_knots[k] - @_knots[k - 1]) * (x - @_log_odds[k - 1])
                                    / (@_log_odds[k] - @_log_odds[k - 1]);
    p[0] = 1.0 - p[1];
"""

DECIDE_HIGHEST = """    result->decision = 0;
    for (c = 1; c < $_N_CLASSES; c++)
        if (result->logits[c] > result->logits[result->decision]) result->decision = (int32_t)c;
"""

NORMALISE = """            for (r = 0; r < $_N_ROWS; r++) s->rows[r] = (s->rows[r] - s->offset[r])GAIN;
"""

CLASSIFY = """
static int32_t @_run(@_state *s, const @_clip *clip, @_result *result)
{
    const uint32_t n_frames = 1 + clip->n_samples / $_HOP_SAMPLES;
    const uint32_t last = n_frames > $_WINDOW_FRAMES ? n_frames - $_WINDOW_FRAMES : 0;
    uint32_t start = 0, n_windows = 0, COUNTERS;
    double power = 0.0;
    float block = 0.f;
    memset(result, 0, sizeof *result);
    result->decision = -1;
    if (clip->n_samples < $_FRAME_SAMPLES) return result->status = $_TOO_SHORT;
    for (t = 0; t < clip->n_samples; t++) {
        const float x = @_sample(clip, t);
        block += x * x;
        if (t % 256u == 255u || t + 1 == clip->n_samples) {
            power += (double)block;
            block = 0.f;
        }
    }
    power /= (double)clip->n_samples;
    if (!(power < 1e30)) return result->status = $_NOT_FINITE;
    result->level_dbfs = (float)(10.0 * log10(power > 1e-20 ? power : 1e-20));
    if (result->level_dbfs < SILENT_DBFS) return result->status = $_SILENT;
MEASURE    for (;;) {
        float logits[$_N_CLASSES];
        @_begin_window(s);
        for (k = 0; k < $_WINDOW_FRAMES; k++) {
            @_rows(s, clip, (start + k) % n_frames, s->rows); /* a clip shorter than a window is repeated */
NORMALISE            @_push_frame(s, s->rows);
        }
        @_end_window(s, logits);
        n_windows++;
        for (c = 0; c < $_N_CLASSES; c++) result->logits[c] += logits[c];
        if (start == last) break;
        start = start + WINDOW_HOP < last ? start + WINDOW_HOP : last; /* the last window ends with the clip */
    }
    for (c = 0; c < $_N_CLASSES; c++) result->logits[c] /= (float)n_windows;
    @_judge(result);
    return result->status;
}

int32_t @_classify(@_state *s, const float *waveform, uint32_t n_samples, @_result *result)
{
    @_clip clip;
    clip.floats = waveform;
    clip.integers = NULL;
    clip.n_samples = n_samples;
    return @_run(s, &clip, result);
}

int32_t @_classify_int16(@_state *s, const int16_t *waveform, uint32_t n_samples, @_result *result)
{
    @_clip clip;
    clip.floats = NULL;
    clip.integers = waveform;
    clip.n_samples = n_samples;
    return @_run(s, &clip, result);
}

void @_features(@_state *s, const float *waveform, uint32_t n_samples, uint32_t frame, float rows[$_N_ROWS])
{
    @_clip clip;
    clip.floats = waveform;
    clip.integers = NULL;
    clip.n_samples = n_samples;
    @_rows(s, &clip, frame, rows);
}
"""


# The program that runs a header here.

MAIN = """\
#define $_IMPLEMENTATION
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
static @_state state;
int main(void)
{
    uint32_t n;
    const uint32_t sizes[2] = {$_N_CLASSES, $_STATE_BYTES};
    fwrite(sizes, sizeof sizes, 1, stdout);
    fflush(stdout);
    while (fread(&n, sizeof n, 1, stdin) == 1) {
        @_result result;
        float *waveform = (float *)malloc((size_t)n * sizeof(float) + 1);
        if (!waveform || fread(waveform, sizeof(float), n, stdin) != n) return 1;
        @_classify(&state, waveform, n, &result);
        free(waveform);
        fwrite(&result, sizeof result, 1, stdout);
        fflush(stdout);
    }
    return 0;
}
"""


class Program:
    """A compiled header that runs, one clip after the other."""

    def __init__(self, process: "subprocess.Popen[bytes]", errors: IO[bytes], n_classes: int) -> None:
        self.process, self.errors = process, errors
        self.record = np.dtype(
            [
                ("status", "i4"),
                ("decision", "i4"),
                ("probability", "f4", (n_classes,)),
                ("logits", "f4", (n_classes,)),
                ("level_dbfs", "f4"),
            ]
        )
        self.n_classes, self.state_bytes = np.frombuffer(self._read(8), np.uint32).tolist()

    def classify(self, samples: Float32) -> Any:
        """One record of ``self.record``."""
        to = self.process.stdin
        if to is None:
            raise RuntimeError("the compiled header has no standard input")
        try:
            to.write(np.uint32(len(samples)).tobytes())
            to.write(np.ascontiguousarray(samples).tobytes())
            to.flush()
        except BrokenPipeError:
            pass  # what it said comes with the read
        return np.frombuffer(self._read(self.record.itemsize), self.record)[0]

    def _read(self, n_bytes: int) -> bytes:
        answer = self.process.stdout.read(n_bytes) if self.process.stdout else b""
        if len(answer) < n_bytes:
            self.process.kill()
            self.process.wait()
            self.errors.seek(0)
            said = " ".join(self.errors.read(2000).decode(errors="replace").split())
            raise RuntimeError(f"the compiled header ended early: {said or self.process.returncode}")
        return answer


@contextmanager
def compiled(header: Path, card: "ModelCard", flags: Sequence[str]) -> Iterator[Program]:
    """The header as a program, compiled in a folder that is gone afterwards."""
    if not header.is_file():
        raise FileNotFoundError(f"{header}: no such file; export_c writes one")
    content = header.read_bytes()
    guard = re.search(rb"^#ifndef ([A-Z0-9_]+)_H$", content, re.MULTILINE)
    n_classes = re.search(rb"^#define [A-Z0-9_]+_N_CLASSES (\d+)$", content, re.MULTILINE)
    if not guard or not n_classes:
        raise ValueError(f"{header}: not a header that export_c wrote; export the model again")
    if int(n_classes[1]) != len(card.class_names):
        raise ValueError(
            f"{header}: {int(n_classes[1])} classes, the model has {len(card.class_names)}; "
            "give the model that the header was made of"
        )
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise FileNotFoundError(
            f"no C compiler ({', '.join(COMPILERS)}) is installed, so nothing can be compared"
        )
    upper = guard[1].decode()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as errors:
        folder = Path(name)
        (folder / "model.h").write_bytes(content)
        (folder / "main.c").write_text(MAIN.replace("$", upper).replace("@", upper.lower()))
        command = [compiler, *STRICT_C, *flags, "main.c", "-o", "main", "-lm"]
        built = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False
        )
        if built.returncode:
            raise RuntimeError(f"{header}: does not compile: {' '.join(built.stderr.split())[:500]}")
        process = subprocess.Popen(
            [str(folder / "main")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            yield Program(process, errors, len(card.class_names))
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with suppress(BrokenPipeError):
                        pipe.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
