"""Target noise injection: the sources' recordings as if the target's room and machines stood around them.

The thesis says of its method that it "requires neither labels nor training data from the target domain"
(arXiv:2312.00231) and no more. **Our definition**: background sound recorded at the target, in which no event of
interest is heard, is mixed into labelled source recordings at a signal-to-noise ratio drawn at random; the label
stays. Only noise is asked of the target.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vagitus.audio import read
from vagitus.augment import mix_at_snr, noise_offset
from vagitus.features import FeatureConfig, featurise
from vagitus.manifest import Manifest
from vagitus.segment import Event

Float32 = NDArray[np.float32]

SNR_DB = (0.0, 20.0)  # uniform: from as loud as the recording to hardly there
# What is cut on either side of an event: segmenters end it where the level falls, and it rings on.
MARGIN_S = 0.03
LEAST_NOISE_S = 0.5  # of a target's recordings together, or the same half second would colour everything
PIECE_S, QUIET_SHARE = 0.1, 0.2
LEAST_PAUSE_DB = 6.0
QUIETEST = 1e-5  # level, below which nothing was recorded; full scale is 1


def background(
    samples: NDArray[Any], sample_rate_hz: int, events: Iterable[Event], sounding: Iterable[str]
) -> Float32:
    """What a recording holds outside its events, put end to end; may be empty.

    Args:
        samples: (n_samples,) float in [-1, 1], or int16.
        events: of this recording, as ``vagitus.segment`` finds them.
        sounding: kinds that are left out, each with ``MARGIN_S`` on either side; of a heart "s1", "systole" and
            "s2", so that murmurs between them are no noise.

    Returns:
        (n_noise,) float32.
    """
    x = _full_scale(samples)
    kinds = frozenset(sounding)
    kept = np.ones(len(x), dtype=bool)
    for event in events:
        if event.kind in kinds:
            first = round((event.start_s - MARGIN_S) * sample_rate_hz)
            last = round((event.end_s + MARGIN_S) * sample_rate_hz)
            kept[max(first, 0) : max(last, 0)] = False
    return x[kept]


def quiet_stretches(samples: NDArray[Any], sample_rate_hz: int) -> Float32:
    """What lies between the sounds, where no segmenter says what they are: the quietest pieces, put end to end.

    Pieces of ``PIECE_S``; the ``QUIET_SHARE`` of them with the least power, if the recording has pauses at all: those
    must lie ``LEAST_PAUSE_DB`` below the mean power, or else nothing is taken.

    Args:
        samples: (n_samples,) float in [-1, 1], or int16.

    Returns:
        (n_noise,) float32, empty where there is no pause.
    """
    x = _full_scale(samples)
    n = max(1, round(PIECE_S * sample_rate_hz))
    pieces = x[: len(x) // n * n].reshape(-1, n)
    if not len(pieces):
        return np.empty(0, np.float32)
    power = np.square(pieces, dtype=np.float64).mean(axis=1)
    quiet = power <= np.quantile(power, QUIET_SHARE)
    if power[quiet].mean() > power.mean() * 10 ** (-LEAST_PAUSE_DB / 10):
        return np.empty(0, np.float32)
    kept: Float32 = pieces[quiet].reshape(-1)
    return kept


def noise_of_site(stretches: Iterable[Float32], sample_rate_hz: int) -> list[Float32]:
    """The stretches that can be mixed: not silent, and ``LEAST_NOISE_S`` of them together.

    Raises:
        ValueError: no background sound was found at the target.
    """
    audible = [x for x in stretches if len(x) and float(np.sqrt(np.mean(np.square(x)))) > QUIETEST]
    held_s = sum(map(len, audible)) / sample_rate_hz
    if held_s < LEAST_NOISE_S:
        raise ValueError(
            f"{held_s:.2f} s of background sound found at the target, target noise injection needs "
            f"{LEAST_NOISE_S:g} s: record the empty room, or take a method that needs no noise"
        )
    return audible


def inject(
    samples: NDArray[np.float32],
    noises: Sequence[Float32],
    rng: np.random.Generator,
    *,
    snr_db: tuple[float, float] = SNR_DB,
) -> Float32:
    """One recording with noise of the target: a random stretch, a random start, a random ratio.

    Args:
        samples: (n_samples,) float; one that is silent comes back as it is.
        noises: what ``noise_of_site`` gave.
        snr_db: lowest and highest, uniform between.

    Raises:
        ValueError: no noise, or a range upside down.
    """
    if not noises:
        raise ValueError("no noise to inject; see noise_of_site")
    if snr_db[0] > snr_db[1]:
        raise ValueError(f"snr_db must be (lowest, highest), got {snr_db}")
    if not np.any(samples):
        return np.array(samples, dtype=np.float32)
    noise = noises[int(rng.integers(len(noises)))]
    offset = noise_offset(noise, len(samples), rng)
    return mix_at_snr(samples, noise, float(rng.uniform(*snr_db)), offset_samples=offset)


def samples_of(manifest: Manifest, row: int, sample_rate_hz: int) -> Float32:
    """The stretch (n_samples,) that a row of a manifest names, resampled."""
    start_s, end_s = manifest.stretch(row)
    heard = read(manifest.file(row), sample_rate_hz=sample_rate_hz, start_s=start_s, end_s=end_s)
    return heard.samples.astype(np.float32)


def noisy_features(
    manifest: Manifest,
    rows: Iterable[int],
    noises: Sequence[Float32],
    config: FeatureConfig,
    rng: np.random.Generator,
) -> list[Float32]:
    """Features (n_rows, n_frames) of recordings with noise of the target in them; what ``Sources.noisy`` holds."""
    return [
        featurise(inject(samples_of(manifest, int(i), config.sample_rate_hz), noises, rng), config)
        for i in rows
    ]


def _full_scale(samples: NDArray[Any]) -> Float32:
    """As float32, full scale at 1."""
    return samples.astype(np.float32) * np.float32(2.0**-15 if samples.dtype == np.int16 else 1.0)
