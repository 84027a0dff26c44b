"""Log-mel spectra and MFCC: one definition, computed here with NumPy and SciPy alone.

``vagitus.frontend`` is the same definition in torch and in an exported graph. The definition:

    samples       mono in [-1, 1]; int16 counts as samples / 32768. No pre-emphasis, no dither.
    frame t       is centred on sample t * hop; outside the recording the samples are zero (librosa's
                  ``center=True, pad_mode="constant"``), so n_frames = 1 + n_samples // hop.
    window        periodic Hann of ``window_ms``, in an FFT of ``n_fft`` points (the rest is zero).
    power         P[k] = |FFT[k]|^2, k = 0 .. n_fft / 2, with no division by the window's sum.
    mel bands     triangles, equally spaced in mel from ``f_min_hz`` to ``f_max_hz``, each of area one
                  in Hz (the "Slaney norm"), on the Slaney scale unless ``mel_scale`` says "htk".
    log           natural: y[b, t] = ln(max(sum_k M[b, k] P[k, t], log_floor)).
    mfcc          orthonormal DCT-II of y over the bands; the first ``n_mfcc`` coefficients.
    normalisation last, per row over all frames of the recording: "mean" subtracts the row's mean
                  (cepstral mean subtraction), "mean_std" also divides by max(std, STD_FLOOR), std
                  with 1/n. "keep_level" subtracts the row's mean and adds back what is the same in all
                  bands: the recording's mean of y over bands and frames, less LEVEL_REFERENCE (in an
                  MFCC that is coefficient 0 alone, by sqrt(n_bands) times as much).

Arrays are features (n_rows, n_frames) float32. Equal to librosa with the same options up to rounding, which
in float32 is relative to the strongest spectral line of a frame: in y at most 2e-6 + 2e-7 * A_max / A, with
A_max the amplitude of that line and A that of the band. Within 40 dB of it that is 2e-5, within 60 dB 2e-4.

How it is computed: in blocks of frames that stay near a core's cache, in buffers that a thread keeps between
calls. The FFT turns a block so that time runs along the last axis, as in the result; then the triangles, two
weights a bin, are a sparse product. No BLAS is involved, hence no hidden threads.
"""

import hashlib
import io
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vagitus.audio import AudioError, stream
from vagitus.files import atomic_path, content_hash
from vagitus.scale import Quarantined, spread

if TYPE_CHECKING:  # generic for type checkers only
    pass

Float32 = NDArray[np.float32]
Found = TypeVar("Found")  # what is made of a recording
Normalisation = Literal["none", "mean", "mean_std", "keep_level"]

# Part of every cache key: raise it when the numbers of the same FeatureConfig change.
FEATURES_VERSION = 1

# A row that varies less than this (natural log of power; 0.004 dB) is constant but for rounding, and dividing
# by its deviation would blow the rounding up.
STD_FLOOR = 1e-3

# Natural log of band power that "keep_level" calls zero: near the mean of cries on parents' phones (-10.4 over the
# frames of donateacry), so that a network's input stays about zero.
LEVEL_REFERENCE = -10.0

# Samples of FFT input in a block: 0.7 MB of float32, the spectrum as much again, so that each step finds
# its input in a second-level cache of 1 MB or just beyond. Smaller blocks spend their time in calls.
BLOCK_SAMPLES = 172_000

MAX_N_FFT = 1 << 20

# int16 full scale, as audio files define it: a power of two, so the product is exact.
INT16_SCALE = np.float32(2.0**-15)

CHECKSUM_BYTES = 16


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _default_n_fft(validated: dict[str, Any]) -> int:
    # Fields that failed their own check are absent here; their error is the one reported.
    sample_rate_hz, window_ms = validated.get("sample_rate_hz", 0), validated.get("window_ms", 0.0)
    return _next_power_of_two(max(_samples(window_ms, sample_rate_hz), 1))


def _samples(duration_ms: float, sample_rate_hz: int) -> int:
    return round(duration_ms * sample_rate_hz / 1000)


class FeatureConfig(BaseModel):
    """What a model hears: everything that changes a feature's value, and nothing else.

    The defaults are those of ``PRESETS["logmel64"]``. Frozen and hashable; an unknown key is an error.
    ``vary`` makes a changed one and checks the whole again, which pydantic's ``model_copy`` does not.

    Attributes:
        sample_rate_hz: rate at which the samples must come.
        window_ms: length of the Hann window, rounded to whole samples.
        hop_ms: step between frames, rounded to whole samples; at most ``window_ms``.
        n_fft: points of the FFT, even, at least the window. Default: the next power of two, which
            every embedded FFT library has.
        f_min_hz: lower edge of the first band.
        f_max_hz: upper edge of the last band; at most half the sample rate.
        n_bands: mel bands; each must hold at least one FFT bin.
        kind: "logmel", or "mfcc" for the DCT of the same.
        n_mfcc: coefficients kept when ``kind`` is "mfcc"; default all ``n_bands`` of them.
        mel_scale: "slaney" (linear below 1 kHz, librosa's default) or "htk" (2595 log10(1 + f / 700)).
        log_floor: least band power, before the logarithm. 1e-10, librosa's, is about 120 dB below the
            band power of a full-scale sine.
        normalisation: "none", "mean", "mean_std" or "keep_level", per row over the recording. "none" by
            default: whether to remove the channel is a question that a study asks.

    Raises:
        pydantic.ValidationError (a ValueError): with the rule, the value and the way out.

    Source: Davis & Mermelstein 1980 for MFCC; Slaney 1998, Auditory Toolbox, for the bands.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    sample_rate_hz: int = Field(default=16_000, ge=100, le=768_000)
    window_ms: float = Field(default=25.0, gt=0, le=10_000)
    hop_ms: float = Field(default=10.0, gt=0)
    n_fft: int = Field(default_factory=_default_n_fft, ge=4, le=MAX_N_FFT)
    f_min_hz: float = Field(default=50.0, ge=0)
    f_max_hz: float = Field(default=8_000.0, gt=0)
    n_bands: int = Field(default=64, ge=1, le=1024)
    kind: Literal["logmel", "mfcc"] = "logmel"
    n_mfcc: int | None = Field(default=None, ge=1)
    mel_scale: Literal["slaney", "htk"] = "slaney"
    log_floor: float = Field(default=1e-10, ge=1e-35)  # less is zero in float32, and its logarithm -inf
    normalisation: Normalisation = "none"

    @property
    def window_samples(self) -> int:
        return _samples(self.window_ms, self.sample_rate_hz)

    @property
    def hop_samples(self) -> int:
        return _samples(self.hop_ms, self.sample_rate_hz)

    @property
    def frames_per_s(self) -> float:
        return self.sample_rate_hz / self.hop_samples

    @property
    def n_rows(self) -> int:
        """Rows of the features: bands, or coefficients."""
        return self.n_bands if self.kind == "logmel" else self.n_mfcc or self.n_bands

    def n_frames(self, n_samples: int) -> int:
        """Frames of a recording of ``n_samples``."""
        return 1 + n_samples // self.hop_samples

    def vary(self, **changes: Any) -> Self:
        """A copy with other options, checked; an ``n_fft`` that was not given is derived again."""
        return type(self)(**{**self.model_dump(exclude_unset=True), **changes})

    @model_validator(mode="after")
    def _rules_between_fields(self) -> Self:
        window, hop, n_fft, nyquist_hz = (
            self.window_samples,
            self.hop_samples,
            self.n_fft,
            self.sample_rate_hz / 2,
        )
        if window < 4 or hop < 1:
            raise ValueError(
                f"window of {window} and hop of {hop} samples; a window needs 4 and a hop 1: "
                f"raise window_ms, hop_ms or sample_rate_hz"
            )
        if hop > window:
            raise ValueError(
                f"hop_ms {self.hop_ms:g} is longer than window_ms {self.window_ms:g}, so samples between "
                f"frames would be lost; set hop_ms <= {self.window_ms:g}"
            )
        if n_fft < window or n_fft % 2:
            raise ValueError(
                f"n_fft {n_fft} must be even and hold the window of {window} samples; "
                f"leave it out for {_next_power_of_two(window)}"
            )
        if self.f_max_hz > nyquist_hz:
            raise ValueError(
                f"f_max_hz {self.f_max_hz:g} is above half the sample rate; "
                f"set f_max_hz <= {nyquist_hz:g} or raise sample_rate_hz"
            )
        if self.f_min_hz >= self.f_max_hz:
            raise ValueError(f"f_min_hz {self.f_min_hz:g} must be below f_max_hz {self.f_max_hz:g}")
        if self.kind == "logmel" and self.n_mfcc is not None:
            raise ValueError(
                f"n_mfcc {self.n_mfcc} has no effect on logmel; leave it out or set kind to mfcc"
            )
        if self.n_mfcc is not None and self.n_mfcc > self.n_bands:
            raise ValueError(
                f"n_mfcc {self.n_mfcc} exceeds n_bands {self.n_bands}; set n_mfcc <= {self.n_bands}"
            )
        self._refuse_empty_bands()
        return self

    def _refuse_empty_bands(self) -> None:
        empty = _first_empty_band(self, self.n_bands, self.n_fft)
        if empty is None:
            return
        ways = [
            f"n_bands <= {n}"
            for n in range(self.n_bands - 1, 0, -1)
            if _first_empty_band(self, n, self.n_fft) is None
        ][:1]
        n_fft = _next_power_of_two(self.n_fft + 1)
        while n_fft <= MAX_N_FFT and _first_empty_band(self, self.n_bands, n_fft) is not None:
            n_fft *= 2
        if n_fft <= MAX_N_FFT:
            ways.append(f"n_fft >= {n_fft}")
        low_hz, _, high_hz = band_edges_hz(self, self.n_bands)[empty : empty + 3]
        raise ValueError(
            f"band {empty} ({low_hz:.1f} to {high_hz:.1f} Hz) holds no FFT bin, bins being "
            f"{self.sample_rate_hz / self.n_fft:.1f} Hz apart; "
            f"set {', or '.join([*ways, 'f_min_hz and f_max_hz further apart'])}"
        )


def _hz_to_mel(f_hz: float, scale: str) -> float:
    if scale == "htk":
        return 2595.0 * math.log10(1.0 + f_hz / 700.0)
    # Slaney: 3 mel every 200 Hz up to 1 kHz (15 mel), then 27 mel for each factor of 6.4.
    return f_hz * 3.0 / 200.0 if f_hz < 1000.0 else 15.0 + 27.0 * math.log(f_hz / 1000.0) / math.log(6.4)


def _mel_to_hz(mel: NDArray[np.float64], scale: str) -> NDArray[np.float64]:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = 1000.0 * np.exp((np.maximum(mel, 15.0) - 15.0) * math.log(6.4) / 27.0)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, above)


def band_edges_hz(config: FeatureConfig, n_bands: int) -> NDArray[np.float64]:
    """(n_bands + 2,) in Hz, equally spaced in mel: band b rises from edge b to b + 1 and falls to b + 2."""
    low, high = (_hz_to_mel(f_hz, config.mel_scale) for f_hz in (config.f_min_hz, config.f_max_hz))
    return _mel_to_hz(np.linspace(low, high, n_bands + 2), config.mel_scale)


def _first_empty_band(config: FeatureConfig, n_bands: int, n_fft: int) -> int | None:
    edges_hz = band_edges_hz(config, n_bands)
    # A bin at an edge has weight zero: the bin after the lower edge must lie below the upper one.
    next_bin = np.floor(edges_hz[:-2] * n_fft / config.sample_rate_hz) + 1
    empty = np.flatnonzero(next_bin * config.sample_rate_hz / n_fft >= edges_hz[2:])
    return int(empty[0]) if len(empty) else None


def mel_filterbank(config: FeatureConfig) -> Float32:
    """The triangles of ``config`` as a matrix M, so that band power is M @ power.

        M[b, k] = 2 / (e[b+2] - e[b]) * max(0, min((f_k - e[b]) / (e[b+1] - e[b]),
                                                   (e[b+2] - f_k) / (e[b+2] - e[b+1])))

    with f_k = k * sample_rate_hz / n_fft and e the edges in Hz, equally spaced in mel.

    Returns:
        (n_bands, n_fft // 2 + 1) float32, as ``librosa.filters.mel`` with ``norm="slaney"``.
    """
    edges_hz = band_edges_hz(config, config.n_bands)[:, None]
    f_hz = np.arange(config.n_fft // 2 + 1) * config.sample_rate_hz / config.n_fft
    rising = (f_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - f_hz) / (edges_hz[2:] - edges_hz[1:-1])
    area = (edges_hz[2:] - edges_hz[:-2]) / 2
    return (np.maximum(0.0, np.minimum(rising, falling)) / area).astype(np.float32)


def hann_window(config: FeatureConfig) -> NDArray[np.float64]:
    """Periodic Hann, w[n] = (1 - cos(2 pi n / N)) / 2 for n = 0 .. N - 1: (window_samples,)."""
    n = np.arange(config.window_samples)
    return 0.5 - 0.5 * np.cos(2 * np.pi * n / config.window_samples)


PRESETS: dict[str, FeatureConfig] = {
    # The thesis's front end: 40 bands, 20 to 4000 Hz, 30/10 ms, MFCC, 40 x 101 for one second. At 8 kHz,
    # because that is the rate of its recordings and of a phone's AMR codec, and nothing above 4 kHz enters.
    "mfcc40": FeatureConfig(
        sample_rate_hz=8_000,
        window_ms=30.0,
        hop_ms=10.0,
        f_min_hz=20.0,
        f_max_hz=4_000.0,
        n_bands=40,
        kind="mfcc",
    ),
    # PANNs' bands, at 16 kHz with the usual 25/10 ms. Below 50 Hz a microphone hears handling, not a voice.
    "logmel64": FeatureConfig(),
    # What speaker encoders use: 80 bands over the whole band, but for the lowest 20 Hz.
    "logmel80": FeatureConfig(f_min_hz=20.0, n_bands=80),
    # First and second heart sound: about 100 ms long, 20 to 200 Hz; murmurs reach 800 Hz. A Hann window of
    # 64 ms (32 ms at half height) keeps the two sounds apart and gives bins of 15.6 Hz, so that the first
    # bands are not empty; the hop gives some 50 frames a beat at 75 beats a minute. 128 and 32 samples.
    "heart": FeatureConfig(
        sample_rate_hz=2_000, window_ms=64.0, hop_ms=16.0, f_min_hz=20.0, f_max_hz=800.0, n_bands=32
    ),
    # Crackles last 5 to 20 ms, wheezes 80 ms and more, of 100 to 1000 Hz and harmonics. 32 ms (16 ms at half
    # height) holds a crackle and still parts a wheeze's harmonics with bins of 31 Hz. 256 and 80 samples.
    "lung": FeatureConfig(
        sample_rate_hz=8_000, window_ms=32.0, hop_ms=10.0, f_min_hz=50.0, f_max_hz=2_500.0, n_bands=48
    ),
}


def featurise(samples: NDArray[Any], config: FeatureConfig) -> Float32:
    """Features of one recording.

    Args:
        samples: (n_samples,) mono at ``config.sample_rate_hz``; float in [-1, 1], or int16 as stored.
        config: the definition.

    Returns:
        (n_rows, 1 + n_samples // hop) float32, a new array.

    Raises:
        ValueError: ``samples`` is not 1-D, of another dtype, shorter than one window, or not finite.
    """
    return featurise_stream([samples], config)


def featurise_stream(blocks: Iterable[NDArray[Any]], config: FeatureConfig) -> Float32:
    """Features of a recording that comes in pieces: bit for bit those of ``featurise`` on the whole.

    Memory is one block of frames and the features, whatever the length of the audio.

    Args:
        blocks: consecutive samples, each as for ``featurise``; any lengths, zero included.
        config: the definition.

    Returns:
        (n_rows, 1 + n_samples // hop) float32.

    Raises:
        ValueError: as ``featurise``; the length is that of all blocks together.
    """
    with _borrowed_workspace(config) as workspace:
        features = np.concatenate(list(_blocks_of_rows(blocks, workspace)), axis=1)
    normalise(features, config)
    return features


def normalise(features: Float32, config: FeatureConfig) -> None:
    """The last step of the definition, in place, on (n_rows, n_frames) of a whole recording."""
    if config.normalisation == "none":
        return
    means = features.mean(axis=1, keepdims=True, dtype=np.float64)
    features -= means.astype(np.float32)
    if config.normalisation == "keep_level" and config.kind == "mfcc":
        features[0] += np.float32(means[0, 0] - math.sqrt(config.n_bands) * LEVEL_REFERENCE)
    elif config.normalisation == "keep_level":
        features += np.float32(means.mean() - LEVEL_REFERENCE)
    if config.normalisation == "mean_std":
        std = np.sqrt(np.square(features).mean(axis=1, keepdims=True, dtype=np.float64))
        features /= np.maximum(std, STD_FLOOR).astype(np.float32)


class _Workspace:
    """Constants of one configuration and the buffers that one thread reuses.

    ``staging`` holds the samples of a block of frames, from the first sample of its first frame on.
    """

    def __init__(self, config: FeatureConfig) -> None:
        from scipy.sparse import csr_array

        hop, window, n_fft = config.hop_samples, config.window_samples, config.n_fft
        self.config = config
        # The spectrum's rows run over the frames. An odd number of cache lines each: with a power of two
        # all fall into the same cache sets, and the FFT, which writes down the columns, takes half as long again.
        self.n_block = 16 * (2 * (BLOCK_SAMPLES // n_fft // 32) + 1)
        self.staging = np.empty((self.n_block - 1) * hop + window, np.float32)
        self.overlapping = np.lib.stride_tricks.sliding_window_view(self.staging, window)[::hop]
        self.frames = np.zeros((self.n_block, n_fft), np.float32)  # beyond the window it stays zero
        # Once for every frame: one long product is faster than one product a frame.
        self.window = np.zeros((self.n_block, n_fft), np.float32)
        self.window[:, :window] = hann_window(config)
        bank = mel_filterbank(config)
        used = np.flatnonzero(bank.any(axis=0))
        self.bins = slice(int(used[0]), int(used[-1]) + 1)
        self.bank = csr_array(bank[:, self.bins])
        self.power = np.empty(self.bank.shape[1] * self.n_block, np.float32)
        self.floor = np.full(self.n_block, config.log_floor, np.float32)

    # Values that overflow are found in the result and reported as an error, not warned about.
    @np.errstate(over="ignore", invalid="ignore")
    def stage(self, samples: NDArray[Any], n_staged: int) -> int:
        """Append ``samples``, which must fit, to the ``n_staged`` in staging; the number there then."""
        staged = self.staging[n_staged : n_staged + len(samples)]
        np.copyto(staged, samples, casting="same_kind")
        if samples.dtype == np.int16:
            staged *= INT16_SCALE
        return n_staged + len(samples)

    @np.errstate(over="ignore", invalid="ignore")
    def rows(self, n_frames: int) -> Float32:
        """Rows (n_rows, n_frames) of the first ``n_frames`` frames in staging."""
        from scipy import fft

        config, frames = self.config, self.frames[:n_frames]
        frames[:, : config.window_samples] = self.overlapping[:n_frames]
        frames *= self.window[:n_frames]
        # Transposed as it is: the FFT gathers its input anyway, and what it writes has time last.
        spectrum = fft.rfft(frames.T, axis=0, workers=1)[self.bins]
        power = self.power[: spectrum.size].reshape(spectrum.shape)
        np.abs(spectrum, out=power)  # vectorised in NumPy, as adding the squares of two strided parts is not
        np.square(power, out=power)
        bands: Float32 = self.bank @ power
        np.maximum(bands, self.floor[:n_frames], out=bands)
        # One maximum finds a NaN or an infinity anywhere in the block; the floor removed only -inf.
        if not np.isfinite(bands.max()):
            raise ValueError(
                "samples hold NaN, infinity or values beyond float32's range; scale them to [-1, 1]"
            )
        np.log(bands, out=bands)
        if config.kind == "mfcc":
            bands = fft.dct(bands, type=2, norm="ortho", axis=0)[: config.n_rows]
        return bands


_thread = threading.local()


@contextmanager
def _borrowed_workspace(config: FeatureConfig) -> Iterator[_Workspace]:
    # Taken out of the thread's slot while in use: a block source that featurises gets one of its own.
    workspace: _Workspace | None = getattr(_thread, "workspace", None)
    _thread.workspace = None
    if workspace is None or workspace.config != config:
        workspace = _Workspace(config)
    yield workspace
    _thread.workspace = workspace


def _blocks_of_rows(blocks: Iterable[NDArray[Any]], workspace: _Workspace) -> Iterator[Float32]:
    config, staging, n_block = workspace.config, workspace.staging, workspace.n_block
    window, hop = config.window_samples, config.hop_samples
    n_staged = (window + 1) // 2  # frame 0 is centred on sample 0: its first half is zeros
    staging[:n_staged] = 0
    n_samples = n_done = 0
    for block in blocks:
        samples = _checked(block)
        n_samples += len(samples)
        while len(samples):
            n_fitting = len(staging) - n_staged
            n_staged = workspace.stage(samples[:n_fitting], n_staged)
            samples = samples[n_fitting:]
            if n_staged == len(staging):
                yield workspace.rows(n_block)
                n_done += n_block
                n_staged -= n_block * hop
                staging[:n_staged] = staging[n_block * hop :]
    if n_samples < window:
        raise ValueError(
            f"{n_samples} samples ({n_samples / config.sample_rate_hz:.3f} s) are shorter than one window of "
            f"{window} ({config.window_ms / 1000:g} s); leave the recording out or shorten window_ms"
        )
    n_frames = config.n_frames(n_samples)
    while n_done < n_frames:
        n_last = min(n_block, n_frames - n_done)
        staging[n_staged:] = 0
        yield workspace.rows(n_last)
        n_done += n_last
        n_kept = max(0, n_staged - n_last * hop)
        staging[:n_kept] = staging[n_staged - n_kept : n_staged]
        n_staged = n_kept


def _checked(block: NDArray[Any]) -> NDArray[Any]:
    samples = np.asarray(block)
    if samples.ndim != 1:
        raise ValueError(
            f"samples must be mono, (n_samples,), got shape {samples.shape}; average the channels"
        )
    if samples.dtype not in (np.float32, np.int16, np.float64):
        raise ValueError(f"samples must be int16, or float in [-1, 1], got {samples.dtype}; convert them")
    return samples


def featurise_file(
    path: str | Path, config: FeatureConfig, *, start_s: float = 0.0, end_s: float | None = None
) -> Float32:
    """Features of a recording on disk, or of the stretch from ``start_s`` to ``end_s``.

    The file is decoded and resampled in pieces, so memory does not grow with its length.

    Returns:
        (n_rows, n_frames) float32.

    Raises:
        AudioError: the file cannot be decoded, the stretch is not in it, or is shorter than one window.
        FileNotFoundError: nothing at ``path``.
    """
    try:
        blocks = stream(path, sample_rate_hz=config.sample_rate_hz, start_s=start_s, end_s=end_s)
        return featurise_stream(blocks, config)
    except AudioError:
        raise
    except ValueError as error:
        raise AudioError(f"{path}: {error}") from error


class FeatureCache:
    """Features on disk, computed at most once per content, stretch and configuration.

    An entry's name is a hash of the recording's bytes, the stretch, the configuration and
    FEATURES_VERSION: renaming a file keeps its entry, changing the audio or any option makes a new one.
    An entry is a .npy file followed by a checksum; one that is cut short, changed or not ours is
    computed again and replaced. Entries are renamed into place whole, so several processes may share
    the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def entry(
        self, path: str | Path, config: FeatureConfig, *, start_s: float = 0.0, end_s: float | None = None
    ) -> Path:
        """Where the features of this recording are, or would be.

        Raises:
            AudioError: ``path`` cannot be read.
            FileNotFoundError: nothing at ``path``.
        """
        made_from = {
            "audio": _content_hash_of(Path(path)),
            "start_s": float(start_s),
            "end_s": None if end_s is None or math.isnan(end_s) else float(end_s),
            "config": config.model_dump(mode="json"),
            "version": FEATURES_VERSION,
        }
        key = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=16).hexdigest()
        # 256 folders of 256 keep a million entries at some 15 files a folder.
        return self.folder / key[:2] / key[2:4] / f"{key}.npy"

    def get_or_compute(
        self, path: str | Path, config: FeatureConfig, *, start_s: float = 0.0, end_s: float | None = None
    ) -> Float32:
        """``featurise_file(path, config, ...)``, read from the cache if it is there.

        Raises:
            AudioError, FileNotFoundError: as ``featurise_file``; nothing is stored.
            OSError: the entry cannot be written (a full disk); no part of it stays behind.
        """
        entry = self.entry(path, config, start_s=start_s, end_s=end_s)
        features = _read_entry(entry)
        if features is None:
            features = featurise_file(path, config, start_s=start_s, end_s=end_s)
            _write_entry(entry, features)
        return features


def _content_hash_of(path: Path) -> str:
    try:
        status = path.stat()
        # Many stretches of one long recording should not read it through each time.
        return _content_hash_of_version(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)
    except FileNotFoundError:
        message = f"{path}: no such file; check the path and the folder it is relative to"
        raise FileNotFoundError(message) from None
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}; name a readable recording") from error


@lru_cache(maxsize=4096)
def _content_hash_of_version(path: Path, n_bytes: int, mtime_ns: int, inode: int) -> str:
    return content_hash(path)


def _read_entry(entry: Path) -> Float32 | None:
    """The features stored at ``entry``; None if there are none, or not as they were written."""
    try:
        stored = entry.read_bytes()
    except FileNotFoundError:
        return None
    written, checksum = stored[:-CHECKSUM_BYTES], stored[-CHECKSUM_BYTES:]
    if hashlib.blake2b(written, digest_size=CHECKSUM_BYTES).digest() != checksum:
        return None
    features: Float32 = np.load(io.BytesIO(written), allow_pickle=False)
    return features


def _write_entry(entry: Path, features: Float32) -> None:
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    written = buffer.getvalue()
    with atomic_path(entry) as temporary:
        temporary.write_bytes(written + hashlib.blake2b(written, digest_size=CHECKSUM_BYTES).digest())


class Stretch(NamedTuple):
    """A recording, or the part of it from ``start_s`` to ``end_s`` (None: its end)."""

    path: Path
    start_s: float = 0.0
    end_s: float | None = None


def featurise_files(
    stretches: Iterable[tuple[Path, float, float | None]],
    config: FeatureConfig,
    cache: FeatureCache | None = None,
    n_workers: int = 1,
) -> Iterator[tuple[int, Float32 | AudioError]]:
    """Features of many recordings, each as soon as it is done.

    Decoding needs processes, threads do not speed it up; each worker computes on one thread. A
    recording that cannot be read, or that twice ends the process that reads it, yields its error and stops
    no other. Workers are started afresh ("spawn"), so a script calls this under
    ``if __name__ == "__main__"``; within ``scale.cluster`` those of the cluster work.

    Args:
        stretches: (path, start_s, end_s) each, with end_s None for the end; read as workers become free.
        config: the definition.
        cache: read from and written to by the workers.
        n_workers: processes; 1 computes in this one.

    Yields:
        (index in ``stretches``, features (n_rows, n_frames) or the AudioError), in order of completion.

    Raises:
        ValueError: ``n_workers`` is below 1.
        OSError: the cache cannot be written.
        RuntimeError: worker processes cannot start.
    """
    return over_files(partial(_outcome, config, cache), stretches, n_workers)


def count_frames(
    stretches: Iterable[tuple[Path, float, float | None]],
    config: FeatureConfig,
    cache: FeatureCache,
    n_workers: int = 1,
) -> Iterator[tuple[int, int | AudioError]]:
    """``featurise_files`` into the cache: what comes back of a recording is n_frames alone.

    For a cluster, whose features go from its workers to the cache and not through this process as well.
    """
    return over_files(partial(_n_frames, config, cache), stretches, n_workers)


def over_files(
    function: Callable[[Stretch], Found | AudioError],
    stretches: Iterable[tuple[Path, float, float | None]],
    n_workers: int,
) -> Iterator[tuple[int, Found | AudioError]]:
    """(index, ``function`` of the stretch) in order of completion; an error for one that has no answer."""
    paths: dict[int, Path] = {}  # of the jobs under way, to name one that has no answer

    def jobs() -> Iterator[tuple[Stretch]]:
        for index, stretch in enumerate(stretches):
            paths[index] = Path(stretch[0])
            yield (Stretch(*stretch),)

    def answer(index: int, outcome: Found | AudioError | Quarantined) -> tuple[int, Found | AudioError]:
        path = paths.pop(index)
        if isinstance(outcome, Quarantined):
            return index, quarantined(path, outcome)
        return index, outcome

    answers = spread(function, jobs(), n_workers)
    return (answer(index, outcome) for index, outcome in answers)


def quarantined(path: Path, why: Quarantined) -> AudioError:
    """The error of a recording that nothing could be made of."""
    if why.error is None:
        return AudioError(f"{path}: ended the process that reads it, twice; convert it to wav or flac")
    return AudioError(f"{path}: {why.reason}")


def _n_frames(config: FeatureConfig, cache: FeatureCache, stretch: Stretch) -> int | AudioError:
    found = _outcome(config, cache, stretch)
    return found if isinstance(found, AudioError) else found.shape[1]


def _outcome(config: FeatureConfig, cache: FeatureCache | None, stretch: Stretch) -> Float32 | AudioError:
    featurise_one = featurise_file if cache is None else cache.get_or_compute
    try:
        return featurise_one(stretch.path, config, start_s=stretch.start_s, end_s=stretch.end_s)
    except AudioError as error:
        return error
    except FileNotFoundError as error:
        return AudioError(str(error))
