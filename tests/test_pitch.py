"""The pitch of cries: right where it is known, the same however the samples arrive, and what is read off it."""

import math
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from vagitus import pitch
from vagitus.corpora import simulated
from vagitus.pitch import PitchTrack, biomarkers, jitter_local_percent, periods, track, voiced_probability

RATE_HZ = 16_000


def pulses(
    f0_hz: float, *, duration_s: float = 0.4, rate_hz: int = RATE_HZ, n_harmonics: int = 8
) -> NDArray[np.float32]:
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    audible = [k for k in range(1, n_harmonics + 1) if k * f0_hz < 0.45 * rate_hz]
    return np.asarray(sum(np.cos(2 * np.pi * k * f0_hz * t) / k for k in audible) / 8, np.float32)


def made_of(f0_hz: list[float], hop_s: float = 0.01) -> PitchTrack:
    f0 = np.array(f0_hz, np.float64)
    return PitchTrack(np.arange(len(f0)).astype(np.float64) * hop_s, f0, np.ones(len(f0)))


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("f0_hz", [163.0, 437.0, 991.0, 1730.0, 2870.0])
def test_a_steady_tone_has_its_pitch(f0_hz: float, rate_hz: int) -> None:
    found = track(pulses(f0_hz, rate_hz=rate_hz), rate_hz)
    np.testing.assert_allclose(found.f0_hz, f0_hz, rtol=2e-3)


@pytest.mark.parametrize("dominant", [2, 3])
def test_a_strong_harmonic_is_no_pitch(dominant: int) -> None:
    f0_hz = 415.0
    t = np.arange(RATE_HZ // 2) / RATE_HZ
    weak = np.sum([np.cos(2 * np.pi * k * f0_hz * t) for k in (1, 2, 3, 4, 5)], axis=0)
    sound = 0.02 * weak + 0.1 * np.cos(2 * np.pi * dominant * f0_hz * t)
    np.testing.assert_allclose(track(sound, RATE_HZ).f0_hz, f0_hz, rtol=2e-3)


def test_simulated_cries_have_their_known_pitch() -> None:
    errors, n_gross, n_missed, n_voiced = [], 0, 0, 0
    window, hop = math.ceil(pitch.N_PERIODS * RATE_HZ / pitch.F_MIN_HZ), round(pitch.HOP_S * RATE_HZ)
    for subject in range(4):
        infant = simulated.voice(subject, is_case=subject % 2 == 1, effect=1.0, seed=11)
        rng = np.random.default_rng(subject)
        cry = simulated.cry(infant, rng, duration_s=2.0, sample_rate_hz=RATE_HZ)
        sound = simulated.record(cry.samples, subject, rng, sample_rate_hz=RATE_HZ, seed=11)
        found = track(sound, RATE_HZ).f0_hz
        # NaN unless a frame is voiced throughout.
        truth = np.lib.stride_tricks.sliding_window_view(cry.f0_hz, window)[::hop].mean(axis=1)
        ratio = (found / truth)[~np.isnan(truth)]
        n_voiced += len(ratio)
        n_missed += int(np.isnan(ratio).sum())
        ratio = ratio[~np.isnan(ratio)]
        errors += np.abs(ratio - 1).tolist()
        n_gross += int(np.sum(np.abs(ratio - 1) > 0.2))
    assert np.median(errors) < 0.005, np.median(errors)
    assert n_gross == 0
    assert n_missed < 0.01 * n_voiced


def test_noise_and_silence_are_unvoiced() -> None:
    rng = np.random.default_rng(2)
    sound = np.concatenate([np.zeros(RATE_HZ), 0.1 * rng.standard_normal(RATE_HZ)]).astype(np.float32)
    found = track(sound, RATE_HZ)
    assert np.isnan(found.f0_hz).mean() > 0.97
    assert found.voicing[:90].max() == 0.0


def test_hum_below_the_range_is_no_pitch() -> None:
    t = np.arange(RATE_HZ) / RATE_HZ
    hum = 0.5 * np.cos(2 * np.pi * 50 * t)
    cry = pulses(520.0, duration_s=1.0)
    np.testing.assert_allclose(track(cry + hum, RATE_HZ).f0_hz, 520.0, rtol=5e-3)


@pytest.mark.parametrize("block_samples", [1, 1601, 50_000])
def test_a_stream_gives_the_track_of_the_whole(block_samples: int) -> None:
    rng = np.random.default_rng(4)
    n = 20_000 if block_samples == 1 else 120_000
    glide_hz = 300 + 900 * np.linspace(0, 1, n) ** 2
    sound = (0.3 * np.sin(2 * np.pi * np.cumsum(glide_hz) / RATE_HZ) + 0.1 * rng.standard_normal(n)).astype(
        np.float32
    )
    whole = track(sound, RATE_HZ)
    blocks = [sound[i : i + block_samples] for i in range(0, n, block_samples)]
    pieces = list(pitch.stream([sound[:0], *blocks], RATE_HZ))
    for at_once, column in zip(whole, zip(*pieces, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(column), at_once)


def test_int16_counts_as_floats_over_32768() -> None:
    stored = np.round(pulses(333.0) * 20_000).astype(np.int16)
    np.testing.assert_array_equal(track(stored, RATE_HZ).f0_hz, track(stored / 32768, RATE_HZ).f0_hz)


def test_memory_does_not_grow_with_length() -> None:
    block = pulses(437.0, duration_s=1.0)

    def peak_bytes(n_blocks: int) -> int:
        tracemalloc.start()
        for _ in pitch.stream((block for _ in range(n_blocks)), RATE_HZ):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    assert peak_bytes(24) < 1.1 * peak_bytes(8)


def test_a_pitch_that_breaks_in_one_frame_keeps_its_octave() -> None:
    sound = pulses(480.0, duration_s=0.6)
    # One frame in which every second cycle is weaker: an octave below is as periodic there.
    t = np.arange(4800, 5120)
    sound[t] *= 1 + 0.25 * np.cos(2 * np.pi * 240 * t / RATE_HZ)
    np.testing.assert_allclose(track(sound, RATE_HZ).f0_hz, 480.0, rtol=0.01)


def test_voiced_probability_is_the_beta_tail() -> None:
    from scipy.stats import beta

    r = np.array([-0.2, 0.0, 0.31, 0.83, 1.0, 1.1])
    np.testing.assert_allclose(voiced_probability(r), beta(2, 8).sf(1 - np.clip(r, 0, 1)), atol=1e-12)


def test_jitter_by_hand() -> None:
    # |4-5| + |6-4| over 3 ... 2 steps of one stretch, 1 step of another: (1 + 2 + 0.5) / 3 over mean 4.9.
    stretches = [np.array([5.0, 4.0, 5.0, 6.0]) * 1e-3, np.array([4.5, 5.0]) * 1e-3]
    steps_ms, lengths_ms = [1.0, 1.0, 1.0, 0.5], [5.0, 4.0, 5.0, 6.0, 4.5, 5.0]
    assert jitter_local_percent(stretches) == pytest.approx(100 * np.mean(steps_ms) / np.mean(lengths_ms))


def test_jitter_leaves_out_pairs_that_are_no_neighbours() -> None:
    # 4 to 8 ms is an octave, not a cycle: the steps left are 0.2 and 0.1.
    stretch = np.array([4.0, 4.2, 8.4, 8.5]) * 1e-3
    assert jitter_local_percent([stretch]) == pytest.approx(100 * 0.15 / np.mean([4.0, 4.2, 8.4, 8.5]))


@pytest.mark.parametrize("jitter", [0.01, 0.03])
def test_jitter_of_cycles_of_known_length(jitter: float) -> None:
    rng = np.random.default_rng(6)
    lengths_s = (1 + jitter * rng.standard_normal(400).clip(-3, 3)) / 400.0
    starts_s = np.concatenate([[0.01], 0.01 + np.cumsum(lengths_s)])
    t = np.arange(round((starts_s[-1] + 0.01) * RATE_HZ)) / RATE_HZ
    sound = np.zeros(len(t))
    for start_s in starts_s:  # a pulse of 0.3 ms: nothing of a cycle reaches into the next
        near = np.abs(t - start_s) < 0.002
        sound[near] += np.exp(-0.5 * ((t[near] - start_s) / 0.0003) ** 2)
    truth = jitter_local_percent([lengths_s])
    found = jitter_local_percent(periods(sound, RATE_HZ, track(sound, RATE_HZ)))
    assert found == pytest.approx(truth, rel=0.15)


def test_a_steady_tone_has_no_jitter() -> None:
    sound = pulses(437.0)
    assert jitter_local_percent(periods(sound, RATE_HZ, track(sound, RATE_HZ))) < 0.1


def test_biomarkers_by_hand() -> None:
    nan = math.nan
    made = made_of([nan, 400.0, 500.0, 1200.0, nan, nan, 600.0, nan])
    found = biomarkers(made)
    assert found.duration_s == pytest.approx(0.08)
    assert found.voiced_s == pytest.approx(0.04)
    assert found.voiced_fraction == 0.5
    assert found.n_voiced_stretches == 2
    assert found.longest_voiced_s == pytest.approx(0.03)
    assert found.f0_median_hz == 550.0
    assert found.f0_iqr_hz == 750.0 - 475.0
    assert (found.f0_min_hz, found.f0_max_hz) == (400.0, 1200.0)
    assert found.hyperphonation_share == 0.25
    assert math.isnan(found.jitter_local_percent)


def test_biomarkers_of_silence_are_unknown_not_zero_hertz() -> None:
    found = biomarkers(track(np.zeros(8_000, np.float32), RATE_HZ))
    assert found.voiced_fraction == 0.0
    assert math.isnan(found.f0_median_hz) and math.isnan(found.hyperphonation_share)


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (np.zeros(0, np.float32), "shorter than one frame"),
        (np.zeros(100, np.float32), "100 samples are shorter than one frame"),
        (np.full(8_000, np.nan, np.float32), "NaN"),
        (np.zeros((2, 8_000), np.float32), "average the channels"),
        (np.zeros(8_000, np.int32), "convert them"),
    ],
)
def test_bad_samples_are_refused(samples: NDArray[np.float32], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        track(samples, RATE_HZ)


def test_too_low_a_rate_names_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"4000 holds F0 up to 1600 Hz.*record at 7500 Hz"):
        track(np.zeros(8_000, np.float32), 4_000)


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="f_min_hz 900"):
        track(np.zeros(8_000, np.float32), RATE_HZ, f_min_hz=900.0, f_max_hz=800.0)


def test_a_hop_longer_than_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hop_s 0\.5"):
        track(np.zeros(8_000, np.float32), RATE_HZ, hop_s=0.5)


def test_an_empty_track_has_no_biomarkers() -> None:
    with pytest.raises(ValueError, match="no frames"):
        biomarkers(made_of([]))
