"""The door for networks that others trained: a recording in, one vector out.

Conventions
    encoder     ``KIND:FILE``, KIND a name in ENCODERS, FILE what its publisher offers, fetched by the user
    waveform    (n_samples,) mono, float32 in [-1, 1] or int16, at the encoder's ``sample_rate_hz``
    embedding   (dim,) float32, finite; compare two by their cosine
    identity    kind, version and content hash of the file: what a cache of embeddings is keyed by

Nothing in a file is run. A pickled checkpoint goes through ``torch.load(weights_only=True)``, which interprets
the pickle's opcodes itself, builds tensors and plain containers, and refuses any other name before it is looked
up; this needs torch >= 2.6, since older ones could be talked out of it (CVE-2025-32434). An ONNX file is a graph
of onnxruntime's own operators. Files are read into memory once, up to a limit, and hashed there: the bytes that
were hashed are the bytes that are loaded. The limit holds for what they unpack to as well.
"""

import difflib
import hashlib
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus.audio import MAX_RATE_HZ, MIN_RATE_HZ, AudioError, read
from vagitus.features import FeatureConfig, Stretch, featurise, mel_filterbank, over_files
from vagitus.files import content_hash, write_atomic
from vagitus.windows import cut_window, window_starts

if TYPE_CHECKING:  # torch is for training installs; an ONNX encoder runs without it
    from torch import Tensor, nn

    from vagitus.models.cnn14 import Cnn14
    from vagitus.models.ge2e import Ge2e

Float32 = NDArray[np.float32]

# Part of every identity: raise it when the embeddings of the same file change.
ENCODERS_VERSION = 1

MAX_GE2E_BYTES = 64 << 20  # the published checkpoint has 17 MB
MAX_FILE_BYTES = 2 << 30  # of any other; the limit of an ONNX file, and six times CNN14
MAX_DIM = 1 << 16
ZIP_START = b"PK\x03\x04"  # by which torch knows one, too
CHECKSUM_BYTES = 16
FULL_SCALE_INT16 = 32768


@dataclass(frozen=True)
class Encoder:
    """One network that others trained, behind the one contract of this module.

    Attributes:
        identity: kind, version and content hash.
        sample_rate_hz: at which a waveform must come; a file is resampled to it.
        dim: length of an embedding.
        least_samples: fewer than that cannot be embedded.
        run: (n_samples,) float32 -> (dim,).
    """

    identity: str
    sample_rate_hz: int
    dim: int
    least_samples: int
    run: Callable[[Float32], NDArray[Any]] = field(repr=False, compare=False)

    def embed(
        self, sound: NDArray[Any] | str | Path, *, start_s: float = 0.0, end_s: float | None = None
    ) -> Float32:
        """The embedding of a waveform, or of a file or the stretch of it from ``start_s`` to ``end_s``.

        Args:
            sound: (n_samples,) at ``sample_rate_hz``, float in [-1, 1] or int16, or the path of a recording.
            start_s, end_s: of a file; a waveform is taken whole.

        Returns:
            (dim,) float32.

        Raises:
            AudioError: a file that cannot be read, is too short, or has no embedding (silence).
            FileNotFoundError: nothing at that path.
            ValueError: the same of a waveform, or one of another shape or type.
        """
        if isinstance(sound, str | Path):
            samples = read(sound, sample_rate_hz=self.sample_rate_hz, start_s=start_s, end_s=end_s).samples
            try:
                return self._embed(samples)
            except ValueError as error:
                raise AudioError(f"{sound}: {error}") from error
        if start_s != 0.0 or end_s is not None:
            raise ValueError("start_s and end_s are of a file; cut the waveform before it is embedded")
        return self._embed(sound)

    def _embed(self, samples: NDArray[Any]) -> Float32:
        waveform = _checked(samples)
        if len(waveform) < self.least_samples:
            raise ValueError(
                f"{len(waveform)} samples are fewer than the {self.least_samples} "
                f"({self.least_samples / self.sample_rate_hz:.3f} s) that an embedding needs; leave it out"
            )
        embedding = np.asarray(self.run(waveform), np.float32)
        if embedding.shape != (self.dim,) or not np.isfinite(embedding).all():
            raise ValueError(
                f"the encoder gave {embedding.shape} with values that are not finite or not ({self.dim},); "
                "is this its kind of sound?"
            )
        return embedding


def _checked(samples: NDArray[Any]) -> Float32:
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype not in (np.float32, np.float64, np.int16):
        raise ValueError(
            f"a waveform is (n_samples,), float in [-1, 1] or int16, got {samples.shape} {samples.dtype}"
        )
    waveform = samples.astype(np.float32)
    if samples.dtype == np.int16:
        waveform /= FULL_SCALE_INT16
    if not np.isfinite(waveform).all():
        raise ValueError("samples hold NaN or infinity; leave the recording out")
    return waveform


def open_encoder(name: str, *, sample_rate_hz: int | None = None) -> Encoder:
    """Open ``KIND:FILE``, as in ``ge2e:Resemblyzer-0.1.4-py3-none-any.whl`` or ``onnx:voice.onnx``.

    Args:
        sample_rate_hz: the encoder's, for an ONNX file whose metadata does not tell it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such kind (the message names the nearest), not the file it says, or another rate.
        ImportError: torch is not installed, for a kind that needs it.
    """
    kind, colon, file = name.partition(":")
    if not colon or not file or kind not in ENCODERS:
        nearest = difflib.get_close_matches(kind, ENCODERS, n=1)
        hint = f"; did you mean {nearest[0]}:FILE?" if nearest and nearest[0] != kind else ""
        raise ValueError(
            f"{name!r} names no encoder; write KIND:FILE with KIND one of {', '.join(ENCODERS)}{hint}"
        )
    encoder = ENCODERS[kind](Path(file), sample_rate_hz)
    if sample_rate_hz not in (None, encoder.sample_rate_hz):
        raise ValueError(
            f"{file}: takes {encoder.sample_rate_hz} Hz, not {sample_rate_hz}; leave the rate out, files are resampled"
        )
    return encoder


class EmbeddingCache:
    """Embeddings on disk, computed at most once per content, stretch and encoder.

    An entry's name is a hash of the recording's bytes, the stretch and the encoder's identity and rate. It
    holds the float32 values, little-endian, and a checksum; one that is cut short or changed is computed
    again. Entries are renamed into place whole, so several processes may share the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def entry(
        self, path: str | Path, encoder: Encoder, *, start_s: float = 0.0, end_s: float | None = None
    ) -> Path:
        """Where the embedding of this recording is, or would be.

        Raises:
            FileNotFoundError: nothing at ``path``.
            OSError: it cannot be read.
        """
        status = Path(path).stat()
        made_from = {
            "audio": _content_hash_of_version(
                Path(path).absolute(), status.st_size, status.st_mtime_ns, status.st_ino
            ),
            "start_s": float(start_s),
            "end_s": None if end_s is None or math.isnan(end_s) else float(end_s),
            "encoder": encoder.identity,
            "sample_rate_hz": encoder.sample_rate_hz,
        }
        key = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=16).hexdigest()
        return self.folder / key[:2] / f"{key}.embedding"

    def get_or_compute(
        self, path: str | Path, encoder: Encoder, *, start_s: float = 0.0, end_s: float | None = None
    ) -> Float32:
        """``encoder.embed(path, ...)``, read from the cache if it is there.

        Raises:
            AudioError, FileNotFoundError, ValueError: as ``Encoder.embed``; nothing is stored.
            OSError: the entry cannot be written; no part of it stays behind.
        """
        entry = self.entry(path, encoder, start_s=start_s, end_s=end_s)
        try:
            stored = entry.read_bytes()
        except FileNotFoundError:
            stored = b""
        values, checksum = stored[:-CHECKSUM_BYTES], stored[-CHECKSUM_BYTES:]
        if len(values) == 4 * encoder.dim and _checksum(values) == checksum:
            return np.frombuffer(values, "<f4").astype(np.float32)
        embedding = encoder.embed(path, start_s=start_s, end_s=end_s)
        values = embedding.astype("<f4").tobytes()
        write_atomic(entry, values + _checksum(values))
        return embedding


def embed_files(
    stretches: Iterable[tuple[Path, float, float | None]],
    name: str,
    cache: EmbeddingCache,
    n_workers: int = 1,
) -> Iterator[tuple[int, Float32 | AudioError]]:
    """Embeddings of many recordings by ``KIND:FILE``, each as soon as it is done.

    Args:
        stretches: (path, start_s, end_s) each, with end_s None for the end.
        name: what ``open_encoder`` opens; each worker opens it once, and computes on one thread if there are several.
        cache: read from and written to by the workers.
        n_workers: processes; 1 computes in this one.

    Yields:
        (index in ``stretches``, embedding (dim,) or the AudioError), in order of completion.

    Raises:
        As ``features.featurise_files`` and ``open_encoder``.
    """
    return over_files(partial(_embedded, name, cache, n_workers > 1), stretches, n_workers)


_opened = lru_cache(maxsize=1)(open_encoder)


def _embedded(name: str, cache: EmbeddingCache, one_thread: bool, stretch: Stretch) -> Float32 | AudioError:
    if one_thread and not name.startswith("onnx:"):
        import torch

        torch.set_num_threads(1)
    try:
        return cache.get_or_compute(stretch.path, _opened(name), start_s=stretch.start_s, end_s=stretch.end_s)
    except AudioError as error:
        return error


def _checksum(values: bytes) -> bytes:
    return hashlib.blake2b(values, digest_size=CHECKSUM_BYTES).digest()


@lru_cache(maxsize=4096)
def _content_hash_of_version(path: Path, n_bytes: int, mtime_ns: int, inode: int) -> str:
    # Many stretches of one long recording should not read it through each time.
    return content_hash(path)


# GE2E: Resemblyzer's voice encoder.

# Its front end is librosa's melspectrogram with these options: mel power, not its logarithm. The floor is the
# least that float32 holds well, so that exp(log-mel) is the power itself, digital silence 1e-35 for 0.
GE2E_FEATURES = FeatureConfig(
    sample_rate_hz=16_000,
    window_ms=25.0,
    hop_ms=10.0,
    n_fft=400,
    f_min_hz=0.0,
    f_max_hz=8_000.0,
    n_bands=40,
    log_floor=1e-35,
)
GE2E_MEMBER = "resemblyzer/pretrained.pt"  # of the wheel
# Of the loss, not of the encoder: the scale and the offset of a cosine.
GE2E_LEFT_ASIDE = ("similarity_weight", "similarity_bias")
PARTIAL_FRAMES, PARTIAL_STEP_FRAMES = 160, 77  # 1.6 s; 1.3 partials a second, rounded to frames
LEAST_COVERAGE = 0.75  # of the last partial that is sound and not padding
LEAST_LEVEL_DBFS = -30.0  # a quieter recording is amplified to this
PARTIALS_AT_ONCE = 64  # bounds memory whatever the recording's length


def load_ge2e(path: str | Path) -> "Ge2e":
    """The published GE2E encoder, from the Resemblyzer 0.1.4 wheel or the ``pretrained.pt`` inside it.

    ``pip download resemblyzer==0.1.4 --no-deps`` fetches the wheel; it need not be installed. The file has no
    classifier: ``head`` is ``nn.Identity``, and ``replace_head`` gives the model one. What the network takes
    is ``exp`` of the log-mel of GE2E_FEATURES.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not that checkpoint; names every tensor that is missing, extra or of another shape.
    """
    return _ge2e_of(Path(path), _ge2e_bytes(Path(path)))


def _ge2e_bytes(path: Path) -> bytes:
    data = _read_file(path, MAX_GE2E_BYTES)
    # A wheel is a zip, and so is a checkpoint of torch's newer format: only one has the member.
    return _unzipped(path, data, MAX_GE2E_BYTES, GE2E_MEMBER).get(GE2E_MEMBER, data)


def _ge2e_of(path: Path, data: bytes) -> "Ge2e":
    import torch
    from torch import nn

    from vagitus.models.ge2e import Ge2e

    state = _pickled_tensors(path, data, "model_state", MAX_GE2E_BYTES)
    with torch.device("meta"):
        model = Ge2e(n_mels=GE2E_FEATURES.n_bands, n_classes=2)
    model.head = nn.Identity()
    _fill(path, model, {name: tensor for name, tensor in state.items() if name not in GE2E_LEFT_ASIDE})
    return model


def _open_ge2e(path: Path, sample_rate_hz: int | None) -> Encoder:
    data = _ge2e_bytes(path)
    model = _ge2e_of(path, data)
    return Encoder(
        identity=_identity("ge2e", data),
        sample_rate_hz=GE2E_FEATURES.sample_rate_hz,
        dim=model.feature_dim,
        least_samples=GE2E_FEATURES.window_samples,
        run=partial(embed_ge2e, model),
    )


def embed_ge2e(model: "Ge2e", waveform: Float32) -> Float32:
    """Mean of the partials' embeddings, at unit length, as ``VoiceEncoder.embed_utterance`` has it.

    The waveform is amplified to -30 dBFS if it is quieter, then cut into partials of 160 frames every 77; the
    last one is padded with zeros, and left out if less than 75 % of it is sound and it is not the only one.

    Departure: Resemblyzer first cuts silence out, by WebRTC's detector of adult speech. Here silence stays;
    cut recordings into events before, where that matters.

    Args:
        model: of ``load_ge2e``.
        waveform: (n_samples,) at 16 kHz, at least one window.

    Returns:
        (feature_dim,) float32.

    Raises:
        ValueError: digital silence, or a voice to which no unit of the last layer answers.
    """
    import torch

    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    if rms == 0:
        raise ValueError("digital silence has no voice to embed; leave the recording out")
    waveform = waveform * np.float32(max(1.0, 10 ** (LEAST_LEVEL_DBFS / 20) / rms))
    starts = partial_starts(len(waveform))
    n_reached = (starts[-1] + PARTIAL_FRAMES) * GE2E_FEATURES.hop_samples
    padded = np.pad(waveform, (0, max(0, n_reached - len(waveform))))
    power = np.exp(featurise(padded, GE2E_FEATURES))  # (40, n_frames)
    total = np.zeros(model.feature_dim)
    for first in range(0, len(starts), PARTIALS_AT_ONCE):
        some = starts[first : first + PARTIALS_AT_ONCE]
        batch = np.stack([power[:, start : start + PARTIAL_FRAMES] for start in some])
        with torch.inference_mode():
            total += model.features(torch.from_numpy(batch)).double().sum(dim=0).numpy()
    length = float(np.linalg.norm(total))
    if length == 0:
        raise ValueError("the encoder answers with nothing but zeros; is this a voice?")
    return (total / length).astype(np.float32)


def partial_starts(n_samples: int) -> range:
    """First frames of the partials of a recording at 16 kHz; ``compute_partial_slices`` of Resemblyzer."""
    n_frames = -(-(n_samples + 1) // GE2E_FEATURES.hop_samples)
    starts = range(0, max(1, n_frames - PARTIAL_FRAMES + PARTIAL_STEP_FRAMES + 1), PARTIAL_STEP_FRAMES)
    coverage = (n_samples / GE2E_FEATURES.hop_samples - starts[-1]) / PARTIAL_FRAMES
    return starts[:-1] if coverage < LEAST_COVERAGE and len(starts) > 1 else starts


# PANNs: CNN14 trained on AudioSet.

# Their front ends, by bins of the FFT: 32, 16 and 8 kHz, windows of 32 ms every 10 ms.
PANNS_FEATURES = {
    513: FeatureConfig(sample_rate_hz=32_000, window_ms=32.0, f_max_hz=14_000.0),
    257: FeatureConfig(sample_rate_hz=16_000, window_ms=32.0, f_max_hz=8_000.0),
    129: FeatureConfig(sample_rate_hz=8_000, window_ms=32.0, f_max_hz=4_000.0),
}
PANNS_BANK = "logmel_extractor.melW"
# Constants of their front end, for which ours stands in: the DFT and the mel triangles.
PANNS_LEFT_ASIDE = (
    "spectrogram_extractor.stft.conv_real.weight",
    "spectrogram_extractor.stft.conv_imag.weight",
    PANNS_BANK,
)
# Whose rows say how many classes and how wide; all other shapes follow from them.
PANNS_SIZES = ("fc_audioset.weight", "conv_block1.conv1.weight")
DECIBEL = 10 / math.log(10)  # PANNs' logarithm is 10 log10, ours natural
PANNS_WINDOW_S = 10.0  # AudioSet's clips


class Panns(NamedTuple):
    """What ``load_panns`` found.

    Attributes:
        model: in evaluation mode; its head gives the logits of AudioSet's classes.
        features: the front end of the checkpoint. PANNs count in decibels: the network takes DECIBEL times it.
        left_aside: tensors of the file that the model does not use.
    """

    model: "Cnn14"
    features: FeatureConfig
    left_aside: tuple[str, ...]


def load_panns(path: str | Path) -> Panns:
    """A published CNN14 (``Cnn14``, ``Cnn14_16k``, ``Cnn14_8k``): a pickled checkpoint, or safetensors of it.

    The front end is known by the checkpoint's own mel matrix, which must equal ours. Theirs reflects a
    recording at its ends where ours has zeros, so that the two outermost frames differ.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a checkpoint; names every tensor that is missing, extra or of another shape.
    """
    return _panns_of(Path(path), _read_file(Path(path), MAX_FILE_BYTES))


def _panns_of(path: Path, data: bytes) -> Panns:
    import torch

    from vagitus.models.cnn14 import PANNS_LAYERS, Cnn14

    state = (
        _safe_tensors(path, data)
        if path.suffix == ".safetensors"
        else _pickled_tensors(path, data, "model", MAX_FILE_BYTES)
    )
    left_aside = tuple(name for name in PANNS_LEFT_ASIDE if name in state)
    bank, head, first = (state.get(name) for name in (PANNS_BANK, *PANNS_SIZES))
    if (
        bank is None
        or head is None
        or first is None
        or 0 in (bank.ndim, head.ndim, first.ndim)
        or len(bank) not in PANNS_FEATURES
        or not all(1 <= len(rows) <= MAX_DIM for rows in (head, first))
    ):
        raise ValueError(
            f"{path}: no CNN14 of PANNs; it would hold {', '.join(PANNS_SIZES)} and {PANNS_BANK} of "
            f"{', '.join(map(str, PANNS_FEATURES))} rows"
        )
    config = PANNS_FEATURES[len(bank)]
    ours = torch.from_numpy(mel_filterbank(config).T).double()
    if bank.shape != ours.shape or not torch.allclose(bank.double(), ours, rtol=1e-4, atol=1e-6):
        raise ValueError(f"{path}: {PANNS_BANK} is not the published one at {config.sample_rate_hz} Hz")
    renamed = {}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".")
        if name not in left_aside:
            renamed[f"{PANNS_LAYERS[layer]}.{part}" if layer in PANNS_LAYERS else name] = tensor
    with torch.device("meta"):
        model = Cnn14(n_mels=config.n_bands, n_classes=len(head), width=len(first))
    theirs = {layer: name for name, layer in PANNS_LAYERS.items()}
    _fill(path, model, renamed, theirs)
    return Panns(model, config, left_aside)


def _open_panns(path: Path, sample_rate_hz: int | None) -> Encoder:
    data = _read_file(path, MAX_FILE_BYTES)
    model, config, _ = _panns_of(path, data)
    return Encoder(
        identity=_identity("panns", data),
        sample_rate_hz=config.sample_rate_hz,
        dim=model.feature_dim,
        least_samples=(model.least_frames - 1) * config.hop_samples,
        run=partial(embed_panns, model, config),
    )


def embed_panns(model: "Cnn14", config: FeatureConfig, waveform: Float32) -> Float32:
    """Mean over windows of 10 s of the features of CNN14: (feature_dim,)."""
    import torch

    logmel = np.float32(DECIBEL) * featurise(waveform, config)
    window_frames = min(logmel.shape[1], round(PANNS_WINDOW_S * config.frames_per_s))
    with torch.inference_mode():
        embeddings = [
            model.features(torch.from_numpy(cut_window(logmel, start, window_frames))[None])[0].numpy()
            for start in window_starts(logmel.shape[1], window_frames, window_frames)
        ]
    mean: Float32 = np.mean(embeddings, axis=0)
    return mean


# ONNX: any network that takes a waveform.

RATE_KEY = "sample_rate_hz"  # in the file's metadata
ONNX_WINDOW_S = 60.0  # of a network that takes any length; bounds memory


def _open_onnx(path: Path, sample_rate_hz: int | None) -> Encoder:
    """An ONNX file that takes (n_samples,) or (1, n_samples) float32 and gives (dim,) or (1, dim).

    A network that gives a vector a frame is refused: (n_frames, dim) is no embedding, and neither is its first row.

    A recording longer than the input, or than a minute where any length goes in, is cut into windows, the
    last of which ends on its end; its embedding is their mean. A shorter one is repeated until it fills a fixed length.
    """
    import onnxruntime

    data = _read_file(path, MAX_FILE_BYTES)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # workers are processes
    options.log_severity_level = 4  # what is wrong comes as an exception
    try:
        # From memory: weights in other files, which the hash would not cover, are not found.
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common class but this one
        raise ValueError(f"{path}: onnxruntime cannot load it ({_first_line(error)})") from error
    n_axes, n_fixed = _waveform_input(path, session.get_inputs())
    dim = _embedding_output(path, session.get_outputs())
    rate = _rate(path, session.get_modelmeta().custom_metadata_map.get(RATE_KEY), sample_rate_hz)
    return Encoder(
        identity=_identity("onnx", data),
        sample_rate_hz=rate,
        dim=dim,
        least_samples=1,
        run=partial(_run_onnx, session, n_axes, n_fixed or round(ONNX_WINDOW_S * rate), bool(n_fixed)),
    )


def _waveform_input(path: Path, inputs: list[Any]) -> tuple[int, int]:
    """Axes of the only input, and its fixed number of samples, 0 for any."""
    found = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs)
    fits = len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape or ()) in (1, 2)
    if not fits or (
        len(inputs[0].shape) == 2 and isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] != 1
    ):
        raise ValueError(
            f"{path}: its input must be one waveform, float (n_samples,) or (1, n_samples), found {found}"
        )
    n_samples = inputs[0].shape[-1]
    return len(inputs[0].shape), n_samples if isinstance(n_samples, int) else 0


def _embedding_output(path: Path, outputs: list[Any]) -> int:
    found = ", ".join(f"{node.name} {node.type} {node.shape}" for node in outputs)
    shape = (outputs[0].shape or []) if len(outputs) == 1 and outputs[0].type == "tensor(float)" else []
    fits = len(shape) == 1 or (len(shape) == 2 and (not isinstance(shape[0], int) or shape[0] == 1))
    if not fits or not isinstance(shape[-1], int) or not 1 <= shape[-1] <= MAX_DIM:
        raise ValueError(
            f"{path}: its output must be one embedding, float (dim,) or (1, dim) with dim from 1 to {MAX_DIM} "
            f"in the file, found {found}"
        )
    dim: int = shape[-1]
    return dim


def _rate(path: Path, stored: str | None, given_hz: int | None) -> int:
    if stored is None and given_hz is None:
        raise ValueError(
            f"{path}: its metadata has no {RATE_KEY}; write the rate it was trained at into the file, here 16000: "
            f"import onnx; model = onnx.load({str(path)!r}); model.metadata_props.add(key={RATE_KEY!r}, "
            f"value='16000'); onnx.save(model, {str(path)!r})"
        )
    text = str(given_hz) if stored is None else stored
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and MIN_RATE_HZ <= int(text) <= MAX_RATE_HZ):
        raise ValueError(f"{path}: {RATE_KEY} must be from {MIN_RATE_HZ} to {MAX_RATE_HZ}, got {text!r}")
    return int(text)


def _run_onnx(session: Any, n_axes: int, window: int, fixed: bool, waveform: Float32) -> NDArray[Any]:
    window = window if fixed else min(window, len(waveform))
    name = session.get_inputs()[0].name
    embeddings = []
    for start in window_starts(len(waveform), window, window):
        piece = np.ascontiguousarray(cut_window(waveform[None], int(start), window))
        try:
            (output,) = session.run(None, {name: piece if n_axes == 2 else piece[0]})
        except Exception as error:  # as above; such as an input too short for the network
            raise ValueError(
                f"onnxruntime could not embed {window} samples ({_first_line(error)})"
            ) from error
        if output.ndim == 2 and len(output) != 1:
            raise ValueError(
                f"the network gave {output.shape}, wanted (dim,) or (1, dim), one vector for all of the sound; "
                "if its rows are frames, export it with their mean"
            )
        embeddings.append(output[0] if output.ndim == 2 else output)
    mean: NDArray[Any] = np.mean(embeddings, axis=0)
    return mean


# Reading what others wrote.


def _read_file(path: Path, most_bytes: int) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(
            f"{path}: over {most_bytes >> 20} MiB, more than any such file has; is it the right one?"
        )
    return data


def _identity(kind: str, data: bytes) -> str:
    return f"{kind}-{ENCODERS_VERSION}-{hashlib.blake2b(data, digest_size=16).hexdigest()}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _unzipped(path: Path, data: bytes, most_bytes: int, only: str | None = None) -> dict[str, bytes]:
    """Members of a zip by name, or ``only`` that one if it is there; none of what is no zip.

    Raises:
        ValueError: damaged, or they would unpack to over ``most_bytes``.
    """
    if not data.startswith(ZIP_START):
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            wanted = [info for info in archive.infolist() if only in (None, info.filename)]
            if sum(info.file_size for info in wanted) <= most_bytes:
                return {info.filename: _member(archive, info) for info in wanted}
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        RuntimeError,  # encrypted; NotImplementedError is one
        EOFError,
        OSError,
        OverflowError,  # an offset of more than 63 bits
        ValueError,  # a negative one, or a name that is no UTF-8
    ) as error:
        raise ValueError(
            f"{path}: {only or 'the zip'} is damaged ({_first_line(error)}); download it again"
        ) from error
    raise ValueError(
        f"{path}: {only or 'the zip'} would unpack to over {most_bytes >> 20} MiB, more than any such file has; "
        "is it the right one?"
    )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile unpacks the others in one go, whatever size is stated.
        raise NotImplementedError(
            f"{info.filename} is compressed by method {info.compress_type}, not deflate"
        )
    with archive.open(info) as file:
        return file.read(info.file_size)  # not read(), which unpacks before it cuts to the stated size


def _pickled_tensors(path: Path, data: bytes, key: str, most_bytes: int) -> dict[str, "Tensor"]:
    """The state dict under ``key`` of a torch checkpoint, or the checkpoint itself if it is one.

    Raises:
        ValueError: no such checkpoint, one that would unpack to over ``most_bytes``, or as ``_dense``.
    """
    import torch

    file = io.BytesIO(data)
    if data.startswith(ZIP_START):
        # torch can see another directory in the same zip than zipfile: it gets a new one, of what was measured.
        members = _unzipped(path, data, most_bytes)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in list(members):
                archive.writestr(name, members.pop(name))
        file.seek(0)
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any of a dozen ways
        raise ValueError(
            f"{path}: not a checkpoint of plain tensors ({_first_line(error)}). Where you trust it, write its "
            f"tensors alone: safetensors.torch.save_file(torch.load(FILE, weights_only=False)[{key!r}], "
            "'tensors.safetensors')"
        ) from error
    state = checkpoint.get(key, checkpoint) if isinstance(checkpoint, Mapping) else checkpoint
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise ValueError(
            f"{path}: holds no tensors by name under {key!r}; is it the checkpoint that it says?"
        )
    return _dense(path, state)


def _safe_tensors(path: Path, data: bytes) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: of a type that torch does not have, such as F4
        raise ValueError(f"{path}: not a whole safetensors file of torch's types ({error})") from error
    return _dense(path, state)


def _dense(path: Path, tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The same tensors: others would fail at the first embedding, or lose values when they are cast.

    Raises:
        ValueError: names every tensor that is not dense, in memory and floating-point; batch norm's counts may
            be int64.
    """
    import torch

    def other(name: str, tensor: "Tensor") -> str:
        allowed = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
        if name.endswith("num_batches_tracked"):
            allowed.append(torch.int64)
        if tensor.is_nested or tensor.layout is not torch.strided:
            return "nested" if tensor.is_nested else str(tensor.layout)
        if tensor.device.type != "cpu":
            return f"on device {tensor.device}"
        if tensor.dtype not in allowed:
            return str(tensor.dtype)
        # A few bytes can claim to be a tensor of terabytes by a stride of 0.
        return "elements that share memory" if tensor.untyped_storage().nbytes() < tensor.nbytes else ""

    others = {name: found for name, tensor in tensors.items() if (found := other(name, tensor))}
    if others:
        raise ValueError(
            f"{path}: tensors must be dense, in memory and floating-point, found "
            f"{', '.join(f'{name} {found}' for name, found in sorted(others.items()))}"
        )
    return dict(tensors)


def _fill(
    path: Path, model: "nn.Module", tensors: Mapping[str, "Tensor"], theirs: Mapping[str, str] | None = None
) -> None:
    """Put ``tensors`` into a model without memory, all or none, and set it to evaluation.

    Args:
        theirs: the file's name of each layer of the model, for the error; the same by default.

    Raises:
        ValueError: names every tensor that is missing, extra or of another shape.
    """
    wanted = model.state_dict()

    def named(names: Iterable[str]) -> list[str]:
        parts = (name.rpartition(".") for name in names)
        return sorted(f"{(theirs or {}).get(layer, layer)}{dot}{part}" for layer, dot, part in parts)

    missing, extra = named(wanted.keys() - tensors.keys()), named(tensors.keys() - wanted.keys())
    other = [
        f"{named([name])[0]} {tuple(tensors[name].shape)}, not {tuple(expected.shape)}"
        for name, expected in wanted.items()
        if name in tensors and tensors[name].shape != expected.shape
    ]
    if missing or extra or other:
        raise ValueError(
            f"{path}: tensors do not fit {type(model).__name__}: missing {missing}, unexpected {extra}, "
            f"of another shape {other}"
        )
    model.load_state_dict({name: tensors[name].to(wanted[name].dtype) for name in wanted}, assign=True)
    model.eval()


ENCODERS: dict[str, Callable[[Path, int | None], Encoder]] = {
    "ge2e": _open_ge2e,
    "panns": _open_panns,
    "onnx": _open_onnx,
}
