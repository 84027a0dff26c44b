"""Recordings that hold the same sound, whatever codec, gain, sampling rate or crop lies between them.

A fingerprint has one 32-bit word per frame: the sign of how the energy difference of neighbouring bands
changes from one frame to the next (Haitsma & Kalker 2002, "A Highly Robust Audio Fingerprinting System",
section 4). Two fingerprints of one sound, aligned, differ in few bits; those of two sounds in half of them,
however alike two heart beats or two cries are, since fine structure decides the signs. What looks alike by
its bits is compared by its waveform, so that silence, hum and clicks do not pass for a copy.

Conventions
    words       (n_frames,) uint32, one every ``FRAME_S``; 0 is digital silence and matches nothing
    offset      in frames: frame t of b is frame t + offset of a
    ber         bit error rate over the overlap, 0 for a copy, about .5 for strangers

Departures from the paper: frames of .128 s in place of .37 s, since clips of one second must match; bands
from 50 to 900 Hz in place of 300 to 2000 Hz, since heart sounds at 2 kHz end there and every codec keeps
them; the index looks up 24 bits of 32. Not found: sound played faster or slower, or re-recorded in a room;
faint sound through a speech codec such as AMR, which rewrites the noise.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vagitus.audio import resample

Words = NDArray[np.uint32]
Samples = NDArray[np.float32]
Ints = NDArray[np.int64]

RATE_HZ = 2000
WINDOW_SAMPLES = 256
# A sixteenth of the window: a crop may fall between two frames, and half a hop must change few bits.
HOP_SAMPLES = 16
FRAME_S = HOP_SAMPLES / RATE_HZ
N_BITS = 32
F_MIN_HZ, F_MAX_HZ = 50.0, 900.0
BLOCK_FRAMES = 4096  # 4 MB of spectra at once, however long the recording

# Each table leaves out one byte of the word, so that a word with errors in one byte alone is still found.
TABLE_MASKS = tuple(np.uint32(0xFFFFFFFF ^ (0xFF << (8 * byte))) for byte in range(4))
# Entries with the same key are paired with this many that follow, not all with all: the work stays linear.
REACH = 8
# Beyond this many words a table keeps one key in two, in three, …; copies keep the same ones.
MAX_INDEXED = 8_000_000
MIN_HITS = 2
OFFSETS_TRIED = 3

# One second of speech, heart or lung sound at MP3 24 kbit/s stays below .17, at Opus 16 kbit/s below .24, at
# AMR 12.2 kbit/s below .33. Strangers come as near as .25 in .9 s (one word said twice), .33 in 8 s.
MAX_BER = 0.32
# The error rate of strangers scatters with the square root of the overlap: ber ≤ .5 - margin / √overlap_s.
BER_MARGIN_SQRT_S = 0.24
HOP_BER = 0.08  # what one hop of misalignment adds
MIN_OVERLAP_S = 0.75
# Correlation of the waveforms: AMR keeps .52 and more, every other codec .85; strangers that pass by their
# bits (clicks, comfort noise) stay below .35.
MIN_CORRELATION = 0.5


class Match(NamedTuple):
    """Two recordings that share sound, i < j."""

    i: int
    j: int
    offset: int  # in frames, see the module
    n_overlap: int  # frames of overlap in which both sound
    ber: float


def fingerprint(samples: Samples, sample_rate_hz: int) -> Words:
    """The words of a recording; empty if it is shorter than a window and a hop (.136 s).

        bit m of word t = 1 if E(t, m) - E(t, m+1) > E(t-1, m) - E(t-1, m+1)

    with E(t, m) the energy of frame t in band m of 33, equally wide on the mel scale.

    Args:
        samples: (n_samples,) float32.
        sample_rate_hz: of ``samples``; they are resampled to 2 kHz.

    Raises:
        ValueError: as ``audio.resample``.
    """
    y = resample(samples, sample_rate_hz, RATE_HZ)
    n_frames = (len(y) - WINDOW_SAMPLES) // HOP_SAMPLES + 1
    if n_frames < 2:
        return np.zeros(0, dtype=np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(y, WINDOW_SAMPLES)[::HOP_SAMPLES]
    window = np.hanning(WINDOW_SAMPLES).astype(np.float32)
    edges = _band_edges()
    weight = np.uint32(1) << np.arange(N_BITS, dtype=np.uint32)
    words = []
    for start in range(0, n_frames - 1, BLOCK_FRAMES):
        block = frames[start : start + BLOCK_FRAMES + 1]  # one frame more: a word looks at two
        power = np.abs(np.fft.rfft(block * window, axis=1)) ** 2
        below = np.cumsum(power, axis=1)[:, edges - 1]
        slope = np.diff(below, n=2, axis=1)  # (n_block, 32), E(m+1) - E(m)
        words.append(((slope[1:] < slope[:-1]) * weight).sum(axis=1, dtype=np.uint32))
    return np.concatenate(words)


def bit_error_rate(a: Words, b: Words, offset: int) -> tuple[float, int]:
    """Share of bits that differ where ``a`` and ``b`` overlap, and how many frames that is (NaN, 0 for none).

    Frames of digital silence, in either, are not counted: padding is not a shared sound.
    """
    start, end = max(0, offset), min(len(a), len(b) + offset)
    x, y = a[start : max(start, end)], b[start - offset : max(start, end) - offset]
    heard = (x != 0) & (y != 0)
    n_heard = int(heard.sum())
    if not n_heard:
        return math.nan, 0
    return float(np.bitwise_count(x ^ y)[heard].sum()) / (N_BITS * n_heard), n_heard


def find_matches(fingerprints: Sequence[Words]) -> list[Match]:
    """Pairs whose words agree over ``MIN_OVERLAP_S`` or more, in time linear in the number of frames.

    Words are looked up in four tables that each ignore one byte of the word, so that re-encoding, which
    turns a few bits of most words, still leaves whole keys. Pairs with ``MIN_HITS`` keys at one offset are
    compared bit by bit over all their overlap. Verify what comes out with ``correlation``.

    Args:
        fingerprints: one per recording; empty ones match nothing.

    Returns:
        The best offset of each pair, most alike first.
    """
    matches = []
    for i, j, offsets in _candidates(fingerprints):
        a, b = fingerprints[i], fingerprints[j]
        rated = [
            Match(i, j, offset, n, ber) for offset in offsets for ber, n in [bit_error_rate(a, b, offset)]
        ]
        best = min(rated, key=lambda match: match.ber)
        if best.ber <= MAX_BER + HOP_BER:
            for offset in (best.offset - 1, best.offset + 1):
                ber, n_overlap = bit_error_rate(a, b, offset)
                best = min(best, Match(i, j, offset, n_overlap, ber), key=lambda match: match.ber)
        if _is_alike(best):
            matches.append(best)
    return sorted(matches, key=lambda match: (match.ber, match.i, match.j))


def correlation(a: Samples, a_rate_hz: int, b: Samples, b_rate_hz: int, offset: int) -> float:
    """How alike two waveforms are where they overlap: the largest |r| within two hops of ``offset``.

        r(lag) = Σ x(t) y(t - lag) / √(Σ x² Σ y²)

    of the parts between 50 and 900 Hz. Gain and sign do not matter. 0 if there is no overlap or it is silent.

    Args:
        a, b: (n_samples,) float32.
        a_rate_hz, b_rate_hz: of ``a`` and ``b``.
        offset: in frames, of a ``Match``.
    """
    x, y = resample(a, a_rate_hz, RATE_HZ), resample(b, b_rate_hz, RATE_HZ)
    lead = offset * HOP_SAMPLES
    start, end = max(0, lead), min(len(x), len(y) + lead)
    if end - start < WINDOW_SAMPLES:
        return 0.0
    n_fft = 1 << (2 * (end - start) - 1).bit_length()  # twice the length: lags do not wrap around
    f_hz = np.fft.rfftfreq(n_fft, 1 / RATE_HZ)
    in_band = (f_hz >= F_MIN_HZ) & (f_hz <= F_MAX_HZ)
    spectra = [np.fft.rfft(part, n_fft) * in_band for part in (x[start:end], y[start - lead : end - lead])]
    energy = math.prod(float((np.fft.irfft(spectrum, n_fft) ** 2).sum()) for spectrum in spectra)
    if energy <= 0:
        return 0.0
    products = np.fft.irfft(spectra[0] * np.conj(spectra[1]), n_fft)
    near = np.concatenate([products[-2 * HOP_SAMPLES :], products[: 2 * HOP_SAMPLES + 1]])
    return min(1.0, float(np.abs(near).max()) / math.sqrt(energy))


def _band_edges() -> Ints:
    mel_min, mel_max = (1127 * math.log1p(f_hz / 700) for f_hz in (F_MIN_HZ, F_MAX_HZ))
    edges_hz = 700 * np.expm1(np.linspace(mel_min, mel_max, N_BITS + 2) / 1127)
    edges: Ints = np.round(edges_hz * WINDOW_SAMPLES / RATE_HZ).astype(np.int64)
    return edges


def _is_alike(match: Match) -> bool:
    overlap_s = match.n_overlap * FRAME_S
    if overlap_s < MIN_OVERLAP_S:
        return False
    return match.ber <= min(MAX_BER, 0.5 - BER_MARGIN_SQRT_S / math.sqrt(overlap_s))


def _candidates(fingerprints: Sequence[Words]) -> Iterator[tuple[int, int, list[int]]]:
    """Pairs i < j with the offsets at which most of their keys agree."""
    lengths = [len(words) for words in fingerprints]
    if not sum(lengths):
        return
    words = np.concatenate(fingerprints)
    starts, longest = np.cumsum([0, *lengths[:-1]]), max(lengths)
    found = []
    for mask in TABLE_MASKS:
        key = words & mask
        kept = np.flatnonzero((words != 0) & _is_kept(key))
        kept = kept[np.argsort(key[kept], kind="stable")]  # stable: owners ascend within a key
        key = key[kept]
        owner = np.searchsorted(starts, kept, side="right") - 1
        frame = kept - starts[owner]
        for step in range(1, REACH + 1):
            same = (key[:-step] == key[step:]) & (owner[:-step] != owner[step:])
            pair = owner[:-step][same] * len(lengths) + owner[step:][same]
            found.append(pair * (2 * longest) + (frame[:-step][same] - frame[step:][same] + longest))
    votes, count = np.unique(np.concatenate(found), return_counts=True)
    votes, count = votes[count >= MIN_HITS], count[count >= MIN_HITS]
    pair, offset = votes // (2 * longest), votes % (2 * longest) - longest
    bounds = np.append(np.flatnonzero(np.diff(pair, prepend=-1)), len(pair)).tolist()
    for start, end in itertools.pairwise(bounds):
        best = start + np.argsort(-count[start:end], kind="stable")[:OFFSETS_TRIED]
        i, j = divmod(int(pair[start]), len(lengths))
        yield i, j, offset[best].tolist()


def _is_kept(key: Words) -> NDArray[np.bool_]:
    one_in = np.uint32(max(1, math.ceil(len(key) / MAX_INDEXED)))
    # Multiplied by 2^32 over the golden ratio, neighbouring keys fall anywhere.
    kept: NDArray[np.bool_] = (key * np.uint32(2654435769) >> np.uint32(8)) % one_in == 0
    return kept
