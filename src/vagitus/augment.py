"""What may happen to a sound without changing its label.

Conventions
    waveform  (n_samples,) float, full scale at [-1, 1]; the result is a new float32 array, as long as the
              waveform unless said otherwise. It may pass full scale: to clip is a change of its own
              (``clip_at``, ``store_16_bits``).
    power     mean square over the whole recording, pauses included
    x         (batch, n_rows, n_frames) float32 features, changed in place
    rng       numpy's Generator: the same generator state gives the same change

Every function of a waveform raises ValueError for one that is empty, not 1-D, not float, or holds NaN or
infinity. NumPy alone, but for the codecs, which are FFmpeg's (PyAV, extra ``codecs``).
"""

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vagitus.audio import CODECS_INSTALL, resample
from vagitus.features import FeatureConfig

Float32 = NDArray[np.float32]
Waveform = NDArray[np.floating[Any]]

SIXTY_DB = math.log(1000.0)  # e^-SIXTY_DB is 60 dB below 1 in amplitude
INT16_SCALE = 32768
WARP_STEP = 0.02  # under one band of 40

# A start of the noise counts as audible if what follows has at least a tenth of the clip's power.
AUDIBLE_SHARE = 0.1

# Windowed sinc: a Kaiser window of this attenuation ripples by 0.001 dB where it should pass.
STOP_BAND_DB = 80.0

# G.711's mu-law in 16-bit steps: eight segments, each twice as coarse as the one below.
MU_LAW_BIAS, MU_LAW_CLIP = 132, 32635


def mix_at_snr(waveform: Waveform, noise: Waveform, snr_db: float, *, offset_samples: int = 0) -> Float32:
    """Add noise at a signal-to-noise ratio; the recording keeps its level.

        y = x + g n,  g = sqrt(P_x / P_n * 10^(-snr_db / 10)),  snr_db = 10 log10(P_x / (g^2 P_n))

    P_n is the power of what is mixed in: the noise from ``offset_samples`` on, cut to the recording's length
    or repeated from its beginning until it fills it.

    Args:
        waveform: (n_samples,), not silent.
        noise: (n_noise,) at the same sample rate.
        snr_db: finite.
        offset_samples: where in the noise to begin, >= 0.

    Raises:
        ValueError: the waveform or the stretch of noise is silent, so that no gain gives the ratio; or bad
            input, see the module.
    """
    x, n = _checked(waveform), _checked(noise, "noise")
    if not math.isfinite(snr_db):
        raise ValueError(f"snr_db must be finite, got {snr_db!r}; leave the noise out for a clean recording")
    if offset_samples < 0:
        raise ValueError(f"offset_samples must be >= 0, got {offset_samples!r}")
    stretch = np.take(n, np.arange(offset_samples, offset_samples + len(x)), mode="wrap")
    signal_power, noise_power = _power(x), _power(stretch)
    if signal_power == 0:
        raise ValueError("the recording is silent, so it has no signal-to-noise ratio; leave it out")
    if noise_power == 0:
        raise ValueError(
            f"the noise is silent for {len(x)} samples from sample {offset_samples}; begin elsewhere, or take "
            "another clip"
        )
    gain = math.sqrt(signal_power / noise_power * 10 ** (-snr_db / 10))
    return (x + gain * stretch).astype(np.float32)


def noise_offset(noise: Waveform, n_samples: int, rng: np.random.Generator) -> int:
    """Where to begin in a clip of noise: uniform among the audible starts.

    A short recording could meet a pause between two barks, and ``mix_at_snr`` would raise the hiss there
    to the level of a bark. A start counts if the ``n_samples`` from it (repeated as ``mix_at_snr`` does) have
    at least ``AUDIBLE_SHARE`` of the clip's power: there always is one, as their mean over all starts is
    the clip's power.

    Args:
        noise: (n_noise,), not silent.
        n_samples: > 0.

    Returns:
        Sample index for ``mix_at_snr``.

    Raises:
        ValueError: ``n_samples`` is not positive, or the noise is silent.
    """
    n = _checked(noise, "noise")
    if n_samples < 1:
        raise ValueError(f"n_samples must be > 0, got {n_samples!r}")
    if _power(n) == 0:
        raise ValueError("the noise is silent; take another clip")
    if n_samples >= len(n):  # all of the clip, from every start
        return int(rng.integers(len(n)))
    energy = np.cumsum(np.concatenate([[0.0], np.square(np.concatenate([n, n[: n_samples - 1]]))]))
    power = (energy[n_samples:] - energy[:-n_samples]) / n_samples  # (n_noise,) by start
    audible = np.flatnonzero(power >= AUDIBLE_SHARE * _power(n))
    return int(audible[rng.integers(len(audible))])


def gaussian_noise(waveform: Waveform, snr_db: float, rng: np.random.Generator) -> Float32:
    """Add white noise at a signal-to-noise ratio, measured on the noise drawn and not on its expectation.

    Raises:
        ValueError: as ``mix_at_snr``.
    """
    x = _checked(waveform)
    return mix_at_snr(x, rng.standard_normal(len(x)), snr_db)


def keep_share(waveform: Waveform, share: float, *, position: float = 0.5) -> Float32:
    """Keep one contiguous stretch, ``share`` of the recording, at least a sample.

    ``position`` says which: 0 the beginning, .5 the centre, 1 the end. With the same position a smaller
    stretch lies within a larger one, so that less is kept and nothing else changes.

    Args:
        share: in (0, 1].
        position: in [0, 1].

    Returns:
        (max(1, round(share * n_samples)),).

    Raises:
        ValueError: ``share`` or ``position`` is out of range; or bad input, see the module.
    """
    x = _checked(waveform)
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share!r}")
    if not 0 <= position <= 1:
        raise ValueError(f"position must lie in [0, 1], got {position!r}")
    n_kept = max(1, round(share * len(x)))
    start = round(position * (len(x) - n_kept))
    return x[start : start + n_kept].astype(np.float32)


def gain(waveform: Waveform, gain_db: float) -> Float32:
    """Multiply by 10^(gain_db / 20).

    Raises:
        ValueError: ``gain_db`` is not finite; or bad input, see the module.
    """
    if not math.isfinite(gain_db):
        raise ValueError(f"gain_db must be finite, got {gain_db!r}")
    return (_checked(waveform) * 10 ** (gain_db / 20)).astype(np.float32)


def store_16_bits(waveform: Waveform) -> Float32:
    """What is left after 16-bit PCM: rounded to steps of 1/32768 and clipped at full scale.

    Raises:
        ValueError: bad input, see the module.
    """
    return (_int16(_checked(waveform)) / INT16_SCALE).astype(np.float32)


def clip_at(waveform: Waveform, level_db: float) -> Float32:
    """Clip hard at a level relative to the recording's own peak: |y| <= peak * 10^(level_db / 20).

    Args:
        level_db: <= 0; 0 changes nothing.

    Raises:
        ValueError: ``level_db`` is above 0 or not finite; or bad input, see the module.
    """
    x = _checked(waveform)
    if not (math.isfinite(level_db) and level_db <= 0):
        raise ValueError(f"level_db must be <= 0, relative to the recording's peak, got {level_db!r}")
    limit = np.abs(x).max() * 10 ** (level_db / 20)
    return np.clip(x, -limit, limit).astype(np.float32)


def band_limit(
    waveform: Waveform,
    f_low_hz: float,
    f_high_hz: float,
    sample_rate_hz: int,
    *,
    transition_hz: float = 100.0,
) -> Float32:
    """Keep the frequencies between two edges, with a linear-phase filter whose delay is taken out.

    An ideal band pass under a Kaiser window: half the amplitude at the edges, passed to within .01 dB half
    a transition inside them, below -75 dB half a transition outside. The filter is about
    5 / ``transition_hz`` seconds long; the recording is taken to be silent before and after.

    Args:
        f_low_hz: >= 0; 0 for no lower edge.
        f_high_hz: above ``f_low_hz``, at most half the sample rate; half of it for no upper edge.
        sample_rate_hz: > 0.
        transition_hz: > 0, width of each edge.

    Raises:
        ValueError: edges out of range, or none at all; or bad input, see the module.

    Source: Kaiser 1974, "Nonrecursive digital filter design using the I0-sinh window function", for the
    length and the window's parameter.
    """
    x, nyquist_hz = _checked(waveform), sample_rate_hz / 2
    if not 0 <= f_low_hz < f_high_hz <= nyquist_hz:
        raise ValueError(
            f"edges must satisfy 0 <= f_low_hz < f_high_hz <= {nyquist_hz:g}, half the sample rate, got "
            f"{f_low_hz!r} and {f_high_hz!r}"
        )
    if f_low_hz == 0 and f_high_hz == nyquist_hz:
        raise ValueError(f"0 to {nyquist_hz:g} Hz is all there is at {sample_rate_hz} Hz; nothing to limit")
    if transition_hz <= 0:
        raise ValueError(f"transition_hz must be > 0, got {transition_hz!r}")
    half = math.ceil((STOP_BAND_DB - 7.95) / (14.36 * transition_hz / sample_rate_hz) / 2)
    k = np.arange(-half, half + 1)

    def low_pass(edge_hz: float) -> NDArray[np.float64]:
        return np.asarray(2 * edge_hz / sample_rate_hz * np.sinc(2 * edge_hz / sample_rate_hz * k))

    taps = (low_pass(f_high_hz) - low_pass(f_low_hz)) * np.kaiser(len(k), 0.1102 * (STOP_BAND_DB - 8.7))
    return _convolve(x, taps)[half : half + len(x)].astype(np.float32)


def impulse_response(
    rt60_s: float,
    sample_rate_hz: int,
    rng: np.random.Generator,
    *,
    direct_to_reverberant_db: float = 0.0,
) -> NDArray[np.float64]:
    """A room in its simplest form: the direct sound, then white noise that decays exponentially.

        h[0] = d,  h[n] = r w[n] e^(-n ln(1000) / (rt60_s * rate)) for n > 0,  w standard normal

    so that the tail loses 60 dB of power in ``rt60_s``. d > 0 and r are such that the energy sum h^2 is 1 and
    that of the direct sound is 10^(direct_to_reverberant_db / 10) times the tail's. A real room has early
    reflections, and its highs die sooner.

    Args:
        rt60_s: > 0.
        sample_rate_hz: > 0.
        direct_to_reverberant_db: finite; 0 is a source at the room's critical distance.

    Returns:
        (1 + round(rt60_s * sample_rate_hz),), at least two samples.

    Raises:
        ValueError: a time, rate or ratio out of range.

    Source: Polack 1988, for the decaying noise; Kuttruff, Room Acoustics, for the critical distance.
    """
    if not (math.isfinite(rt60_s) and rt60_s > 0 and sample_rate_hz > 0):
        raise ValueError(f"rt60_s and sample_rate_hz must be > 0, got {rt60_s!r} and {sample_rate_hz!r}")
    if not math.isfinite(direct_to_reverberant_db):
        raise ValueError(f"direct_to_reverberant_db must be finite, got {direct_to_reverberant_db!r}")
    n = np.arange(1, 1 + max(1, round(rt60_s * sample_rate_hz)))
    tail = rng.standard_normal(len(n)) * np.exp(-n * SIXTY_DB / (rt60_s * sample_rate_hz))
    ratio = 10 ** (direct_to_reverberant_db / 10)
    tail *= math.sqrt(1 / (1 + ratio) / float(tail @ tail))
    return np.concatenate([[math.sqrt(ratio / (1 + ratio))], tail])


def reverberate(
    waveform: Waveform,
    rt60_s: float,
    sample_rate_hz: int,
    rng: np.random.Generator,
    *,
    direct_to_reverberant_db: float = 0.0,
) -> Float32:
    """The recording in a room (``impulse_response``); what rings on after its last sample is cut.

    Raises:
        ValueError: as ``impulse_response``; or bad input, see the module.
    """
    x = _checked(waveform)
    h = impulse_response(rt60_s, sample_rate_hz, rng, direct_to_reverberant_db=direct_to_reverberant_db)
    return _convolve(x, h)[: len(x)].astype(np.float32)


def mu_law(waveform: Waveform) -> Float32:
    """There and back through G.711 mu-law: 8 bits a sample, steps that grow with the level.

        m = min(|s|, 32635) + 132,  e = floor(log2 m) - 7,  q = floor(m / 2^(e + 3)) mod 16
        y = sign(s) ((8 q + 132) 2^e - 132) / 32768

    with s the 16-bit sample. The codec's rate is 8 kHz: see ``codec`` for other rates.

    Raises:
        ValueError: bad input, see the module.

    Source: ITU-T G.711, in the 16-bit form of common implementations.
    """
    s = _int16(_checked(waveform)).astype(np.int64)
    m = np.minimum(np.abs(s), MU_LAW_CLIP) + MU_LAW_BIAS
    e = np.frexp(m)[1].astype(np.int64) - 8  # frexp's exponent is floor(log2 m) + 1
    q = (m >> (e + 3)) & 15
    decoded = np.sign(s) * (((8 * q + MU_LAW_BIAS) << e) - MU_LAW_BIAS)
    return np.asarray(decoded / INT16_SCALE, dtype=np.float32)


@dataclass(frozen=True)
class Codec:
    """How a codec is used here. ``encoder`` and ``decoder`` are FFmpeg's names, "" for our own."""

    encoder: str
    decoder: str
    sample_rate_hz: int
    sample_format: str  # what the encoder takes
    kbps: tuple[float, ...]  # bit rates it is used at, rising
    delay_samples: int = 0  # that the decoder does not take out itself


CODECS: dict[str, Codec] = {
    "mu_law": Codec("", "", 8_000, "", (64,)),  # fixed-line telephony
    # What Android phones write to 3gp. The encoder looks 40 samples ahead and its filters give one back
    # (the lag at which the correlation of cries and speech with themselves is strongest).
    "amr_nb": Codec(
        "libopencore_amrnb", "amrnb", 8_000, "s16", (4.75, 5.15, 5.9, 6.7, 7.4, 7.95, 10.2, 12.2), 39
    ),
    "opus": Codec("libopus", "libopus", 16_000, "flt", (6, 8, 12, 16, 24, 32, 64)),  # messengers, browsers
    "mp3": Codec("libmp3lame", "mp3float", 16_000, "fltp", (8, 16, 24, 32, 48, 64)),
}


def codec(waveform: Waveform, sample_rate_hz: int, name: str, kbps: float) -> Float32:
    """There and back through a codec, in memory, aligned with what went in.

    The recording is resampled to the codec's rate and back, so nothing above half of that is left. What
    passes full scale is clipped, as a recorder would. Numbers may differ between builds of FFmpeg.

    Args:
        sample_rate_hz: of the waveform.
        name: a row of CODECS.
        kbps: one of the codec's bit rates, in kbit/s.

    Raises:
        ImportError: PyAV is not installed (``mu_law`` does without); with the install line.
        ValueError: no such codec or bit rate, or this FFmpeg lacks it; or bad input, see the module.
    """
    row = find_codec(name)
    if kbps not in row.kbps:
        raise ValueError(
            f"{name} has no {kbps:g} kbit/s; choose from {', '.join(f'{k:g}' for k in row.kbps)}"
        )
    x = np.clip(_checked(waveform), -1, 1).astype(np.float32)
    sent = resample(x, sample_rate_hz, row.sample_rate_hz)
    if row.encoder:
        received, rate_hz = _through_ffmpeg(sent, row, kbps)
    else:
        received, rate_hz = mu_law(sent), row.sample_rate_hz
    back = resample(received, rate_hz, sample_rate_hz)[: len(x)]
    return np.pad(back, (0, len(x) - len(back)))


def find_codec(name: str) -> Codec:
    """The row of CODECS, if it can be used here.

    Raises:
        ImportError: it needs PyAV, which is not installed.
        ValueError: no such codec (the message lists those that exist and the nearest), or this FFmpeg lacks it.
    """
    if name not in CODECS:
        near = difflib.get_close_matches(name, CODECS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no codec {name!r}; {hint}choose from {', '.join(CODECS)}")
    row = CODECS[name]
    if row.encoder:
        try:
            import av
        except ImportError:
            raise ImportError(f"{name} needs FFmpeg, which is not installed; {CODECS_INSTALL}") from None
        try:
            av.Codec(row.encoder, "w"), av.Codec(row.decoder, "r")
        except ValueError:
            raise ValueError(
                f"this FFmpeg lacks {row.encoder} or {row.decoder}; {CODECS_INSTALL} brings one that has them"
            ) from None
    return row


def mask_bands_and_frames(x: NDArray[np.float32], share: float, rng: np.random.Generator) -> None:
    """Hide one run of rows and one run of frames in every example, in place (SpecAugment).

    Each run's length is uniform between nothing and ``share`` of the axis; what is hidden
    takes the example's mean, so that the mask itself has no level.

    Args:
        x: (batch, n_rows, n_frames).
        share: in [0, 1).

    Raises:
        ValueError: ``share`` lies outside [0, 1).

    Source: Park et al. 2019, arXiv:1904.08779, without time warping.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share!r}")
    for example in x:
        mean = example.mean()
        for axis, size in enumerate(example.shape):
            length = int(rng.integers(int(share * size) + 1))
            start = int(rng.integers(size - length + 1))
            example[(slice(None),) * axis + (slice(start, start + length),)] = mean


def stretch_frames(x: NDArray[np.float32], n_frames: int) -> NDArray[np.float32]:
    """Slow or hurry features to ``n_frames``, linear between frames: (n_rows, any) -> (n_rows, n_frames)."""
    position = np.linspace(0, x.shape[1] - 1, n_frames)
    left = position.astype(np.int64)
    right = np.minimum(left + 1, x.shape[1] - 1)
    share = (position - left).astype(np.float32)
    stretched: NDArray[np.float32] = x[:, left] * (1 - share) + x[:, right] * share
    return stretched


def warp_matrices(config: FeatureConfig, share: float) -> list[NDArray[np.float32]]:
    """What moves a front end's bands up or down, as a vocal tract that is shorter or longer would.

        y = D W_a D' x,  (W_a)_{jk} = weight of band k at position a j,  a = 1 - share, ..., 1 + share

    W_a reads every band at ``a`` times its place on the mel axis, linear between bands; D is the DCT of MFCC and
    1 for log-mel. On the mel axis rather than in Hz, so that one matrix serves all.

    Args:
        share: the largest change, in [0, .5]; 0 gives no matrices.

    Returns:
        matrices (n_rows, n_rows), ``WARP_STEP`` apart.

    Raises:
        ValueError: ``share`` lies outside [0, .5].

    Source: Jaitly & Hinton 2013, "Vocal tract length perturbation improves speech recognition", who warp Hz.
    """
    if not 0 <= share <= 0.5:
        raise ValueError(f"share must lie in [0, .5], got {share!r}")
    if share == 0:
        return []
    from scipy import fft

    bands = np.eye(config.n_bands)
    heard = fft.dct(bands, type=2, norm="ortho", axis=0)[: config.n_rows] if config.kind == "mfcc" else bands
    n_steps = round(share / WARP_STEP)
    matrices = []
    for factor in 1 + WARP_STEP * np.arange(-n_steps, n_steps + 1):
        position = np.minimum(factor * np.arange(config.n_bands), config.n_bands - 1)
        left = position.astype(np.int64)
        right = np.minimum(left + 1, config.n_bands - 1)
        warp = bands[left] * (1 - position + left)[:, None] + bands[right] * (position - left)[:, None]
        matrices.append((heard @ warp @ heard.T).astype(np.float32))
    return matrices


def _checked(waveform: Waveform, name: str = "waveform") -> NDArray[np.float64]:
    x = np.asarray(waveform)
    if x.ndim != 1 or len(x) == 0 or x.dtype.kind != "f":
        raise ValueError(f"{name} must be (n_samples,) float with n_samples > 0, got {x.shape} {x.dtype}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds NaN or infinity; export the recording again")
    return x.astype(np.float64)


def _power(x: NDArray[np.float64]) -> float:
    return float(x @ x) / len(x)


def _int16(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.rint(x * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1)


def _convolve(x: NDArray[np.float64], h: NDArray[np.float64]) -> NDArray[np.float64]:
    n = len(x) + len(h) - 1
    n_fft = 1 << (n - 1).bit_length()
    return np.asarray(np.fft.irfft(np.fft.rfft(x, n_fft) * np.fft.rfft(h, n_fft), n_fft)[:n])


def _through_ffmpeg(samples: Float32, row: Codec, kbps: float) -> tuple[Float32, int]:
    """Decoded samples from the first that went in, and their rate. No container: packets go straight over."""
    import av

    encoder: Any = av.CodecContext.create(row.encoder, "w")
    encoder.sample_rate, encoder.layout, encoder.format = row.sample_rate_hz, "mono", row.sample_format
    encoder.bit_rate = round(kbps * 1000)
    encoder.open()
    decoder: Any = av.CodecContext.create(row.decoder, "r")
    decoder.sample_rate, decoder.layout = row.sample_rate_hz, "mono"
    if encoder.extradata:
        decoder.extradata = encoder.extradata
    n_frame = encoder.frame_size
    # Room behind the last sample, so that the codec's delay pushes all of it out.
    padded = np.pad(samples, (0, -len(samples) % n_frame + n_frame))

    def packets() -> Iterator[Any]:
        for start in range(0, len(padded), n_frame):
            part = padded[None, start : start + n_frame]
            if row.sample_format == "s16":
                part = _int16(part.astype(np.float64)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(part, format=row.sample_format, layout="mono")
            frame.sample_rate = row.sample_rate_hz
            yield from encoder.encode(frame)
        yield from encoder.encode(None)
        yield None

    frames = [frame for packet in packets() for frame in decoder.decode(packet)]
    values = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
    if values.dtype == np.int16:
        values = values / np.float32(INT16_SCALE)
    received = values[row.delay_samples :].astype(np.float32)
    return received, frames[0].sample_rate
