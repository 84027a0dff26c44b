"""Perturbations of a waveform: each against its closed form, and one contract over all."""

import io
import itertools
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy import fft

from vagitus import augment
from vagitus.augment import (
    CODECS,
    band_limit,
    clip_at,
    codec,
    gain,
    gaussian_noise,
    impulse_response,
    keep_share,
    mix_at_snr,
    mu_law,
    noise_offset,
    reverberate,
    store_16_bits,
    stretch_frames,
    warp_matrices,
)
from vagitus.features import PRESETS

Waveform = NDArray[np.float32]
RATE_HZ = 11_025


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sound(n_samples: int, *, seed: int = 0) -> Waveform:
    return (0.1 * rng(seed).standard_normal(n_samples)).astype(np.float32)


def tone(f_hz: float, *, rate_hz: int = RATE_HZ, duration_s: float = 1.3) -> Waveform:
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * f_hz * t + 0.4)).astype(np.float32)


def power(x: NDArray[Any]) -> float:
    return float(np.mean(x.astype(np.float64) ** 2))


def measured_snr_db(clean: Waveform, noisy: Waveform) -> float:
    return float(10 * np.log10(power(clean) / power(noisy.astype(np.float64) - clean)))


class TestMixAtSnr:
    def test_by_hand(self) -> None:
        # P_x = .125; from sample 2 the noise is .2, .1: P_n = .025; so 0 dB needs a gain of sqrt(5).
        x, noise = np.array([0.3, -0.4], np.float32), np.array([0.1, -0.7, 0.2], np.float32)
        expected = [0.3 + 0.2 * 5**0.5, -0.4 + 0.1 * 5**0.5]
        assert mix_at_snr(x, noise, 0, offset_samples=2) == pytest.approx(expected, abs=1e-6)
        expected = [0.3 + 0.1 * 5**0.5, -0.4 + 0.05 * 5**0.5]
        assert mix_at_snr(x, noise, 20 * np.log10(2), offset_samples=2) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("n_noise", [700, 5003, 13_000])
    @pytest.mark.parametrize("snr_db", [-5, 7.5, 30])
    def test_the_measured_ratio_is_the_one_asked_for(self, n_noise: int, snr_db: float) -> None:
        x, noise = sound(5003), np.abs(sound(n_noise, seed=1))
        noisy = mix_at_snr(x, noise, snr_db, offset_samples=311)
        assert measured_snr_db(x, noisy) == pytest.approx(snr_db, abs=0.01)

    def test_short_noise_is_repeated(self) -> None:
        x, noise = sound(1000), sound(300, seed=1)
        added = mix_at_snr(x, noise, 0, offset_samples=50) - x
        assert added[:700] == pytest.approx(added[300:], abs=1e-6)

    def test_silence_has_no_ratio(self) -> None:
        silent = np.zeros(100, np.float32)
        with pytest.raises(ValueError, match="recording is silent, so it has no signal-to-noise ratio"):
            mix_at_snr(silent, sound(100), 10)
        noise = np.concatenate([sound(50), np.zeros(80, np.float32)])
        with pytest.raises(
            ValueError, match="noise is silent for 60 samples from sample 55; begin elsewhere"
        ):
            mix_at_snr(sound(60), noise, 10, offset_samples=55)

    @pytest.mark.parametrize("snr_db", [float("nan"), float("inf")])
    def test_a_ratio_that_is_no_number_is_refused(self, snr_db: float) -> None:
        with pytest.raises(ValueError, match="snr_db must be finite"):
            mix_at_snr(sound(10), sound(10), snr_db)

    def test_a_negative_offset_is_refused(self) -> None:
        with pytest.raises(ValueError, match="offset_samples must be >= 0"):
            mix_at_snr(sound(10), sound(10), 0, offset_samples=-1)


class TestGaussianNoise:
    def test_the_ratio_holds_for_the_noise_drawn(self) -> None:
        x = tone(440, duration_s=0.01)  # 110 samples: the power drawn is some 13 % off its expectation
        assert measured_snr_db(x, gaussian_noise(x, 3, rng())) == pytest.approx(3, abs=0.01)

    def test_it_is_white(self) -> None:
        x = tone(440, duration_s=6)
        spectrum = np.abs(np.fft.rfft(gaussian_noise(x, 0, rng()) - x)) ** 2
        quarters = [part.mean() for part in np.array_split(spectrum, 4)]
        assert max(quarters) / min(quarters) < 1.1


class TestNoiseOffset:
    @pytest.mark.parametrize("n_samples", [1, 7, 39])
    def test_every_audible_start_and_no_other(self, n_samples: int) -> None:
        bark = 0.5 + rng().random(9)
        noise = np.concatenate([np.zeros(11), bark, np.full(20, 1e-4)]).astype(np.float32)
        repeated = np.tile(noise.astype(np.float64), 2)
        audible = {
            start
            for start in range(len(noise))
            if power(repeated[start : start + n_samples]) >= 0.1 * power(noise)
        }
        source = rng(1)
        assert {noise_offset(noise, n_samples, source) for _ in range(3000)} == audible

    def test_a_recording_longer_than_the_clip_may_start_anywhere(self) -> None:
        noise = np.array([0, 0, 0.5], np.float32)
        assert {noise_offset(noise, n, rng(s)) for n in (3, 4, 9) for s in range(30)} == {0, 1, 2}

    def test_silence_has_no_audible_start(self) -> None:
        with pytest.raises(ValueError, match="noise is silent"):
            noise_offset(np.zeros(9, np.float32), 4, rng())
        with pytest.raises(ValueError, match="n_samples must be > 0"):
            noise_offset(sound(9), 0, rng())


class TestKeepShare:
    def test_by_hand(self) -> None:
        x = np.arange(10, dtype=np.float32)
        assert keep_share(x, 0.4).tolist() == [3, 4, 5, 6]
        assert keep_share(x, 0.4, position=0).tolist() == [0, 1, 2, 3]
        assert keep_share(x, 0.4, position=1).tolist() == [6, 7, 8, 9]
        assert keep_share(x, 1.0, position=0.3).tolist() == x.tolist()
        assert keep_share(x, 0.01).tolist() == [4]  # position .5 of 9 free places, rounded to even

    @pytest.mark.parametrize("position", [0, 0.13, 0.5, 0.77, 1])
    def test_less_lies_within_more(self, position: float) -> None:
        kept = [set(keep_share(sound(997), s, position=position).tolist()) for s in (0.8, 0.6, 0.4, 0.1)]
        assert all(less < more for more, less in itertools.pairwise(kept))

    def test_out_of_range(self) -> None:
        for share in (0.0, 1.1, float("nan")):
            with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
                keep_share(sound(10), share)
        with pytest.raises(ValueError, match=r"position must lie in \[0, 1\]"):
            keep_share(sound(10), 0.5, position=1.5)


class TestLevel:
    def test_gain_by_hand(self) -> None:
        assert gain(np.array([0.5, -0.25], np.float32), 20 * np.log10(3)) == pytest.approx([1.5, -0.75])
        with pytest.raises(ValueError, match="gain_db must be finite"):
            gain(sound(10), float("inf"))

    def test_16_bits_by_hand(self) -> None:
        step = 1 / 32768
        given = np.array([1.4 * step, -1.6 * step, 1.0, -1.7, 0.4 * step], np.float32)
        assert store_16_bits(given).tolist() == [step, -2 * step, 32767 * step, -1.0, 0.0]

    def test_clipping_is_relative_to_the_peak(self) -> None:
        x = np.array([0.1, -0.8, 0.3, 0.5], np.float32)
        assert clip_at(x, -20 * np.log10(2)) == pytest.approx([0.1, -0.4, 0.3, 0.4], abs=1e-7)
        assert clip_at(x, 0).tolist() == x.tolist()
        with pytest.raises(ValueError, match="level_db must be <= 0"):
            clip_at(x, 1)


class TestBandLimit:
    @pytest.mark.parametrize("f_hz", [320, 1000, 2480])
    def test_what_lies_inside_comes_through_where_it_was(self, f_hz: float) -> None:
        x, middle = tone(f_hz), slice(2000, -2000)
        out = band_limit(x, 260, 2540, RATE_HZ)[middle]
        assert measured_snr_db(x[middle], out) > 58  # .01 dB of the amplitude, and no delay

    @pytest.mark.parametrize("f_hz", [100, 205, 2595, 5000])
    def test_what_lies_outside_is_gone(self, f_hz: float) -> None:
        x, middle = tone(f_hz), slice(2000, -2000)
        out = band_limit(x, 260, 2540, RATE_HZ)[middle]
        assert 10 * np.log10(power(out) / power(x)) < -75

    def test_half_the_amplitude_at_the_edges(self) -> None:
        middle = slice(2000, -2000)
        for f_hz, low_hz, high_hz in [
            (600, 600, 3000),
            (3000, 600, 3000),
            (3000, 0, 3000),
            (600, 600, 5512.5),
        ]:
            out = band_limit(tone(f_hz), low_hz, high_hz, RATE_HZ)[middle]
            assert 10 * np.log10(power(out) / power(tone(f_hz)[middle])) == pytest.approx(-6.02, abs=0.05)

    @pytest.mark.parametrize("edges", [(-1, 100), (300, 300), (300, 6000), (500, 300)])
    def test_edges_out_of_range(self, edges: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match=r"0 <= f_low_hz < f_high_hz <= 5512\.5, half the sample rate"):
            band_limit(sound(100), edges[0], edges[1], RATE_HZ)

    def test_a_limit_without_an_edge_is_refused(self) -> None:
        with pytest.raises(ValueError, match="nothing to limit"):
            band_limit(sound(100), 0, RATE_HZ / 2, RATE_HZ)
        with pytest.raises(ValueError, match="transition_hz must be > 0"):
            band_limit(sound(100), 0, 300, RATE_HZ, transition_hz=0)


class TestReverberate:
    @pytest.mark.parametrize("rt60_s", [0.3, 1.1])
    def test_reverberation_time_from_the_schroeder_curve(self, rt60_s: float) -> None:
        found = []
        for seed in range(20):
            tail = impulse_response(rt60_s, 16_000, rng(seed))[1:]
            energy_db = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1])  # energy still to come
            fitted = np.flatnonzero((energy_db < energy_db[0] - 5) & (energy_db > energy_db[0] - 35))
            slope_db_per_s = np.polyfit(fitted / 16_000, energy_db[fitted], 1)[0]
            found.append(-60 / slope_db_per_s)
        assert np.mean(found) == pytest.approx(rt60_s, rel=0.01)

    @pytest.mark.parametrize("ratio_db", [0.0, 6.0, -4.5])
    def test_energy_is_one_and_split_as_asked(self, ratio_db: float) -> None:
        h = impulse_response(0.4, 8000, rng(), direct_to_reverberant_db=ratio_db)
        assert h @ h == pytest.approx(1)
        assert 10 * np.log10(h[0] ** 2 / (h[1:] @ h[1:])) == pytest.approx(ratio_db)
        assert len(h) == 3201 and h[0] > 0

    def test_it_is_the_convolution(self) -> None:
        x = sound(700)
        expected = np.convolve(x, impulse_response(0.05, 8000, rng(3)))[:700]
        assert reverberate(x, 0.05, 8000, rng(3)) == pytest.approx(expected, abs=1e-6)

    def test_out_of_range(self) -> None:
        with pytest.raises(ValueError, match="rt60_s and sample_rate_hz must be > 0"):
            impulse_response(0, 8000, rng())
        with pytest.raises(ValueError, match="direct_to_reverberant_db must be finite"):
            impulse_response(1, 8000, rng(), direct_to_reverberant_db=float("nan"))


class TestMuLaw:
    def test_by_hand(self) -> None:
        # 1000 + 132 = 1132 = 1024 + 108: e = 3, a step is 64, q = 1, so (8 + 132) 2^3 - 132 = 988.
        # 4 + 132 = 136 is the first to reach q = 1 of e = 0, 8; beyond 32635 all is in the last step.
        s = np.array([0, 3, 4, -5, 1000, -1000, 32767, -32768])
        expected = [0, 0, 8, -8, 988, -988, 32124, -32124]
        assert (mu_law((s / 32768).astype(np.float32)) * 32768).tolist() == expected

    def test_as_libsndfile(self) -> None:
        # Theirs rounds some negative samples at the border of two codes the other way; ours mirrors the positive.
        s = np.arange(0, 32768)
        file = io.BytesIO()
        soundfile.write(file, s.astype(np.int16), 8000, format="RAW", subtype="ULAW")
        file.seek(0)
        theirs, _ = soundfile.read(
            file, samplerate=8000, channels=1, format="RAW", subtype="ULAW", dtype="int16"
        )
        assert (mu_law((s / 32768).astype(np.float32)) * 32768).tolist() == theirs.tolist()
        assert np.array_equal(
            mu_law((-s / 32768).astype(np.float32)), -mu_law((s / 32768).astype(np.float32))
        )


class TestCodec:
    @pytest.mark.parametrize("name", CODECS)
    @pytest.mark.parametrize("rate_hz", [8000, 22_050])
    def test_it_is_the_same_sound_at_the_same_time(self, name: str, rate_hz: int) -> None:
        t = np.arange(round(1.7 * rate_hz)) / rate_hz
        sweep = np.sin(2 * np.pi * (250 * t + 200 * t**2)) * (0.5 + 0.4 * np.sin(2 * np.pi * 3.1 * t))
        x = (0.5 * sweep + 0.003 * rng().standard_normal(len(t))).astype(np.float32)
        out = codec(x, rate_hz, name, CODECS[name].kbps[-1])
        assert out.shape == x.shape and out.dtype == np.float32
        lags = np.arange(-40, 41)
        shifted = [float(x[100 + lag : lag - 100 or None][:20_000] @ out[100:-100][:20_000]) for lag in lags]
        assert abs(lags[int(np.argmax(shifted))]) <= rate_hz / 4000
        assert measured_snr_db(x, out) > 5

    @pytest.mark.parametrize("name", ["opus", "mp3"])
    def test_fewer_bits_are_further_from_the_recording(self, name: str) -> None:
        x = sound(16_000)
        few, many = (codec(x, 16_000, name, CODECS[name].kbps[i]) for i in (0, -1))
        assert measured_snr_db(x, few) < measured_snr_db(x, many) - 3

    @pytest.mark.parametrize("name", CODECS)
    def test_what_is_shorter_than_a_frame_comes_back_as_long(self, name: str) -> None:
        assert codec(sound(50), 8000, name, CODECS[name].kbps[0]).shape == (50,)

    def test_what_it_does_not_know(self) -> None:
        with pytest.raises(ValueError, match="no codec 'amr'; did you mean 'amr_nb'"):
            codec(sound(100), 8000, "amr", 12.2)
        with pytest.raises(ValueError, match=r"amr_nb has no 12 kbit/s; choose from 4\.75, 5\.15"):
            codec(sound(100), 8000, "amr_nb", 12)

    def test_without_ffmpeg(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        assert codec(sound(100), 8000, "mu_law", 64).shape == (100,)
        with pytest.raises(ImportError, match=re.escape("pip install 'vagitus[codecs]'")):
            codec(sound(100), 8000, "opus", 24)

    def test_an_ffmpeg_that_lacks_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        row = augment.Codec("libnothing", "libnothing", 8000, "s16", (8,))
        monkeypatch.setitem(CODECS, "nothing", row)
        with pytest.raises(ValueError, match="this FFmpeg lacks libnothing"):
            codec(sound(100), 8000, "nothing", 8)


# Every function of a waveform, with the rest of its arguments.
CHANGES: dict[str, Callable[[Any], Waveform]] = {
    "mix_at_snr": lambda x: mix_at_snr(x, sound(333, seed=5), 10, offset_samples=40),
    "gaussian_noise": lambda x: gaussian_noise(x, 10, rng(5)),
    "keep_share": lambda x: keep_share(x, 1.0),
    "gain": lambda x: gain(x, 0.0),
    "store_16_bits": store_16_bits,
    "clip_at": lambda x: clip_at(x, 0.0),
    "band_limit": lambda x: band_limit(x, 300, 3000, 8000),
    "reverberate": lambda x: reverberate(x, 0.2, 8000, rng(5)),
    "mu_law": mu_law,
    "codec": lambda x: codec(x, 8000, "mu_law", 64),
}


def test_no_change_is_missing_from_the_contract() -> None:
    public = {
        name
        for name, value in vars(augment).items()
        if callable(value) and getattr(value, "__module__", "") == "vagitus.augment" and name[0].islower()
    }
    assert public - set(CHANGES) == {
        "noise_offset",
        "impulse_response",
        "find_codec",
        "mask_bands_and_frames",  # of features, as are the next two
        "stretch_frames",
        "warp_matrices",
    }


@pytest.mark.parametrize("name", CHANGES)
class TestContract:
    def test_a_new_float32_array_of_the_same_length_and_the_same_every_time(self, name: str) -> None:
        x = sound(1501)
        kept = x.copy()
        out = CHANGES[name](x)
        assert out.shape == x.shape and out.dtype == np.float32
        assert np.array_equal(out, CHANGES[name](x))
        out[:] = 9
        assert np.array_equal(x, kept)

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (np.empty(0, np.float32), "n_samples > 0"),
            (np.zeros((2, 50), np.float32), r"got \(2, 50\) float32"),
            (np.ones(50, np.int16), "int16"),
            (np.array([0.1, np.nan, 0.2], np.float32), "NaN or infinity"),
            (np.array([0.1, np.inf, 0.2], np.float32), "NaN or infinity"),
        ],
    )
    def test_what_is_no_waveform_is_refused(self, name: str, bad: NDArray[Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CHANGES[name](bad)


def test_stretching_keeps_the_ends_and_a_straight_line() -> None:
    line = np.arange(7, dtype=np.float32)[None] * np.array([[1.0], [-2.0]], np.float32)
    found = stretch_frames(line, 13)
    np.testing.assert_allclose(found, np.arange(13) / 2 * np.array([[1.0], [-2.0]]), atol=1e-6)
    np.testing.assert_allclose(stretch_frames(line, 3), line[:, [0, 3, 6]], atol=1e-6)


def test_a_warp_reads_each_band_where_it_stood_before() -> None:
    config = PRESETS["mfcc40"].vary(kind="logmel", n_mfcc=None)
    matrices = warp_matrices(config, 0.1)
    assert len(matrices) == 11  # .9, .92, ..., 1.1
    np.testing.assert_array_equal(matrices[5], np.eye(40))
    line = np.arange(40, dtype=np.float32)
    np.testing.assert_allclose(matrices[0] @ line, 0.9 * line, rtol=1e-5)
    np.testing.assert_allclose(matrices[-1] @ line, np.minimum(1.1 * line, 39), rtol=1e-5)


def test_a_warp_of_mfcc_is_the_dct_of_warped_bands() -> None:
    mfcc = PRESETS["mfcc40"]
    bands = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    of_bands = warp_matrices(mfcc.vary(kind="logmel", n_mfcc=None), 0.06)[1]
    of_mfcc = warp_matrices(mfcc, 0.06)[1]
    heard = fft.dct(bands, type=2, norm="ortho", axis=0)
    np.testing.assert_allclose(
        of_mfcc @ heard, fft.dct(of_bands @ bands, type=2, norm="ortho", axis=0), atol=1e-5
    )


def test_no_warp_is_no_matrix_and_too_much_is_refused() -> None:
    assert warp_matrices(PRESETS["mfcc40"], 0.0) == []
    with pytest.raises(ValueError, match=r"share must lie in \[0, .5\], got 0.6"):
        warp_matrices(PRESETS["mfcc40"], 0.6)
