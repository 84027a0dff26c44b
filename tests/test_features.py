import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import scipy.fft
import soundfile
from numpy.typing import NDArray

from vagitus.audio import AudioError, read
from vagitus.features import (
    PRESETS,
    FeatureCache,
    FeatureConfig,
    featurise,
    featurise_file,
    featurise_files,
    featurise_stream,
    hann_window,
    mel_filterbank,
)

LOGMEL64 = PRESETS["logmel64"]
# Values that tell formulas apart: odd lengths, a hop that does not divide the window, a padded FFT.
ODD = FeatureConfig(
    sample_rate_hz=11_025, window_ms=23.0, hop_ms=7.3, n_fft=300, f_min_hz=60.0, f_max_hz=5_000.0, n_bands=17
)
NO_OVERLAP = FeatureConfig(
    sample_rate_hz=4_000,
    window_ms=32.0,
    hop_ms=32.0,
    f_min_hz=0.0,
    f_max_hz=2_000.0,
    n_bands=9,
    mel_scale="htk",
)
MANY_HOPS = FeatureConfig(
    sample_rate_hz=2_000,
    window_ms=64.0,
    hop_ms=0.5,
    n_fft=1024,
    f_max_hz=900.0,
    n_bands=21,
    kind="mfcc",
    n_mfcc=8,
)


def noise(n_samples: int, *, seed: int = 0, scale: float = 0.1) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(n_samples) * scale).astype(np.float32)


def spectra_by_definition(samples: NDArray[Any], config: FeatureConfig) -> NDArray[np.float64]:
    """P[k, t] frame by frame in float64, from the formulas of the module's docstring."""
    window, hop = config.window_samples, config.hop_samples
    w = [np.sin(np.pi * n / window) ** 2 for n in range(window)]
    columns = []
    for t in range(1 + len(samples) // hop):
        first = t * hop - (window + 1) // 2
        frame = [samples[i] if 0 <= i < len(samples) else 0.0 for i in range(first, first + window)]
        columns.append(np.abs(np.fft.rfft(np.array(frame, np.float64) * w, config.n_fft)) ** 2)
    return np.array(columns).T


def featurise_by_definition(samples: NDArray[Any], config: FeatureConfig) -> NDArray[np.float64]:
    bands = mel_filterbank(config).astype(np.float64) @ spectra_by_definition(samples, config)
    y = np.log(np.maximum(bands, config.log_floor))
    if config.kind == "logmel":
        return y
    n = config.n_bands
    dct = [[np.cos(np.pi * (2 * b + 1) * k / (2 * n)) for b in range(n)] for k in range(config.n_rows)]
    scale = [np.sqrt(1 / n)] + [np.sqrt(2 / n)] * (config.n_rows - 1)
    return np.array(scale)[:, None] * np.array(dct) @ y


class TestConfig:
    def test_n_fft_is_the_next_power_of_two(self) -> None:
        assert FeatureConfig(window_ms=25.0).n_fft == 512  # 400 samples
        assert FeatureConfig(window_ms=32.0).n_fft == 512  # 512 samples: already one
        assert FeatureConfig(window_ms=32.1).n_fft == 1024  # 514 samples
        assert FeatureConfig(window_ms=25.0, n_fft=400).n_fft == 400

    def test_json_round_trip_hash_and_equality(self) -> None:
        for config in (*PRESETS.values(), ODD, NO_OVERLAP, MANY_HOPS):
            again = FeatureConfig.model_validate_json(config.model_dump_json())
            assert again == config
            assert hash(again) == hash(config)

    def test_vary_checks_and_derives_again(self) -> None:
        assert LOGMEL64.vary(window_ms=40.0).n_fft == 1024
        assert LOGMEL64.vary(n_bands=32) == FeatureConfig(n_bands=32)
        with pytest.raises(ValueError, match="set f_max_hz <= 4000"):
            LOGMEL64.vary(sample_rate_hz=8_000)

    def test_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            LOGMEL64.n_bands = 3  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_mels": 40}, "Extra inputs are not permitted"),
            ({"sample_rate_hz": "16000"}, "valid integer"),
            ({"window_ms": float("nan")}, "finite number"),
            ({"window_ms": 0.0}, "greater than 0"),
            ({"normalisation": "meanstd"}, "'none', 'mean', 'mean_std' or 'keep_level'"),
            ({"hop_ms": 30.0}, "samples between frames would be lost; set hop_ms <= 25"),
            (
                {"n_fft": 399},
                "n_fft 399 must be even and hold the window of 400 samples; leave it out for 512",
            ),
            ({"n_fft": 401}, "must be even"),
            ({"f_max_hz": 8001.0}, "above half the sample rate; set f_max_hz <= 8000"),
            ({"f_min_hz": 8000.0}, "f_min_hz 8000 must be below f_max_hz 8000"),
            ({"n_mfcc": 13}, "n_mfcc 13 has no effect on logmel"),
            ({"kind": "mfcc", "n_mfcc": 65}, "n_mfcc 65 exceeds n_bands 64; set n_mfcc <= 64"),
            ({"window_ms": 0.2, "hop_ms": 0.1}, "a window needs 4"),
            ({"log_floor": 1e-40}, "greater than or equal to 0.0000"),
            (
                {"f_min_hz": 1000.0, "f_max_hz": 1000.0 + 1e-9},
                "holds no FFT bin.*; set f_min_hz and f_max_hz further",
            ),
        ],
    )
    def test_refuses(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FeatureConfig(**changes)

    def test_an_empty_band_is_refused_with_two_ways_out_that_work(self) -> None:
        # 8 kHz with a short window: bins 62.5 Hz apart, narrow bands at the bottom.
        wanted: dict[str, Any] = {
            "sample_rate_hz": 8_000,
            "window_ms": 16.0,
            "f_max_hz": 4_000.0,
            "n_bands": 100,
        }
        message = (
            r"band 1 .* holds no FFT bin, bins being 62.5 Hz apart; set n_bands <= (\d+), or n_fft >= (\d+)"
        )
        with pytest.raises(ValueError, match=message) as refused:
            FeatureConfig(**wanted)
        ways_out = re.search(message, str(refused.value))
        assert ways_out
        most, finest = int(ways_out[1]), int(ways_out[2])
        assert mel_filterbank(FeatureConfig(**{**wanted, "n_bands": most})).any(axis=1).all()
        assert mel_filterbank(FeatureConfig(**wanted, n_fft=finest)).any(axis=1).all()
        with pytest.raises(ValueError, match="holds no FFT bin"):
            FeatureConfig(**wanted, n_fft=finest // 2)

    @pytest.mark.parametrize(
        ("name", "n_rows", "window", "hop", "n_fft", "n_frames_of_1_s"),
        [
            ("mfcc40", 40, 240, 80, 256, 101),
            ("logmel64", 64, 400, 160, 512, 101),
            ("logmel80", 80, 400, 160, 512, 101),
            ("heart", 32, 128, 32, 128, 63),
            ("lung", 48, 256, 80, 256, 101),
        ],
    )
    def test_presets(
        self, name: str, n_rows: int, window: int, hop: int, n_fft: int, n_frames_of_1_s: int
    ) -> None:
        config = PRESETS[name]
        assert (config.window_samples, config.hop_samples, config.n_fft) == (window, hop, n_fft)
        assert config.frames_per_s == config.sample_rate_hz / hop
        features = featurise(noise(config.sample_rate_hz), config)
        assert (
            features.shape
            == (config.n_rows, config.n_frames(config.sample_rate_hz))
            == (n_rows, n_frames_of_1_s)
        )
        assert features.dtype == np.float32

    def test_no_preset_is_missing_from_the_tests(self) -> None:
        assert set(PRESETS) == {"mfcc40", "logmel64", "logmel80", "heart", "lung"}


class TestFilterbank:
    def test_by_hand(self) -> None:
        # Below 1 kHz Slaney's scale is linear: edges at 0, 200, 400, 600 Hz, bins 50 Hz apart, area 200.
        config = FeatureConfig(
            sample_rate_hz=1_600, window_ms=20.0, hop_ms=10.0, f_min_hz=0.0, f_max_hz=600.0, n_bands=2
        )
        triangle = np.array([0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25]) / 200
        expected = np.zeros((2, 17))
        expected[0, 1:8] = triangle
        expected[1, 5:12] = triangle
        np.testing.assert_allclose(mel_filterbank(config), expected, rtol=1e-6)

    @pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
    def test_equals_librosa(self, mel_scale: str) -> None:
        import librosa

        config = LOGMEL64.vary(mel_scale=mel_scale, f_min_hz=133.0, f_max_hz=6_855.0, n_bands=40)
        theirs = librosa.filters.mel(
            sr=16_000, n_fft=512, n_mels=40, fmin=133.0, fmax=6_855.0, htk=mel_scale == "htk", norm="slaney"
        )
        np.testing.assert_allclose(mel_filterbank(config), theirs, rtol=1e-5, atol=1e-9)

    def test_every_triangle_has_area_one(self) -> None:
        config = LOGMEL64.vary(n_fft=1 << 16)
        area = mel_filterbank(config).sum(axis=1, dtype=np.float64) * config.sample_rate_hz / config.n_fft
        np.testing.assert_allclose(area, 1.0, rtol=1e-3)

    def test_hann_is_periodic(self) -> None:
        config = FeatureConfig(sample_rate_hz=1_000, window_ms=8.0, hop_ms=4.0, f_max_hz=500.0, n_bands=1)
        half = np.sqrt(0.5)
        expected = [0, (1 - half) / 2, 0.5, (1 + half) / 2, 1, (1 + half) / 2, 0.5, (1 - half) / 2]
        np.testing.assert_allclose(hann_window(config), expected, atol=1e-15)


class TestValues:
    @pytest.mark.parametrize(
        "config", [*PRESETS.values(), ODD, NO_OVERLAP, MANY_HOPS], ids=lambda c: str(c.n_rows)
    )
    def test_equals_the_definition(self, config: FeatureConfig) -> None:
        samples = noise(config.sample_rate_hz // 3 + 11)
        expected = featurise_by_definition(samples, config)
        np.testing.assert_allclose(featurise(samples, config), expected, rtol=2e-6, atol=2e-5)

    def test_equals_librosa(self) -> None:
        import librosa

        samples = noise(20_000) * np.linspace(0, 1, 20_000, dtype=np.float32)
        bands = librosa.feature.melspectrogram(
            y=samples, sr=16_000, n_fft=512, win_length=400, hop_length=160, pad_mode="constant",
            n_mels=64, fmin=50.0, fmax=8_000.0,
        )  # fmt: skip
        np.testing.assert_allclose(featurise(samples, LOGMEL64), np.log(np.maximum(bands, 1e-10)), atol=1e-4)

    def test_a_click_says_where_frames_are_centred(self) -> None:
        # On the centre of frame 5 the window is 1 and a unit click has the flat spectrum 1; one hop (160 of
        # 400 samples) away the window is sin(pi * 40 / 400)^2; two hops away there is nothing.
        samples = np.zeros(16_000, np.float32)
        samples[5 * 160] = 1.0
        flat = np.log(mel_filterbank(LOGMEL64).sum(axis=1))
        features = featurise(samples, LOGMEL64)
        np.testing.assert_allclose(features[:, 5], flat, atol=1e-5)
        beside = flat + 2 * np.log(np.sin(np.pi * 40 / 400) ** 2)
        np.testing.assert_allclose(features[:, 4], beside, atol=1e-4)
        np.testing.assert_allclose(features[:, 6], beside, atol=1e-4)
        assert (features[:, [3, 7]] == np.float32(np.log(1e-10))).all()

    def test_a_sine_on_a_bin_by_hand(self) -> None:
        # 250 Hz is bin 16 of 128 at 2 kHz. A periodic Hann window of N sums to N / 2 and spreads a sine of
        # amplitude A to three bins: |X| = A N / 4 on its own, A N / 8 on both neighbours.
        config = PRESETS["heart"]
        samples = (0.3 * np.sin(2 * np.pi * 250 * np.arange(4_000) / 2_000)).astype(np.float32)
        power = np.zeros(65)
        power[15:18] = np.array([0.3 * 128 / 8, 0.3 * 128 / 4, 0.3 * 128 / 8]) ** 2
        expected = mel_filterbank(config).astype(np.float64) @ power
        middle = featurise(samples, config)[:, 60]
        touched = expected > 0
        np.testing.assert_allclose(middle[touched], np.log(expected[touched]), atol=1e-5)
        in_loudest_hz = np.flatnonzero(mel_filterbank(config)[middle.argmax()]) * 2_000 / 128
        assert in_loudest_hz[0] <= 250 <= in_loudest_hz[-1]

    def test_silence_is_the_floor_and_its_dct_one_number(self) -> None:
        floor = np.log(1e-10)
        assert (featurise(np.zeros(8_000, np.float32), LOGMEL64) == np.float32(floor)).all()
        mfcc = featurise(np.zeros(8_000, np.float32), PRESETS["mfcc40"])
        np.testing.assert_allclose(mfcc[0], np.sqrt(40) * floor, rtol=1e-6)
        np.testing.assert_allclose(mfcc[1:], 0, atol=1e-4)

    def test_fewer_coefficients_are_the_first_ones(self) -> None:
        samples = noise(8_000)
        some = featurise(samples, PRESETS["mfcc40"].vary(n_mfcc=13))
        np.testing.assert_array_equal(some, featurise(samples, PRESETS["mfcc40"])[:13])

    def test_int16_counts_as_samples_over_32768(self) -> None:
        stored = (noise(9_000) * 32_768).astype(np.int16)
        scaled = (stored / 32_768).astype(np.float32)
        np.testing.assert_array_equal(featurise(stored, LOGMEL64), featurise(scaled, LOGMEL64))

    def test_float64_is_read_as_float32(self) -> None:
        samples = noise(9_000)
        np.testing.assert_array_equal(
            featurise(samples.astype(np.float64), LOGMEL64), featurise(samples, LOGMEL64)
        )

    def test_a_strided_view_is_read_as_its_copy(self) -> None:
        stereo = noise(20_000).reshape(-1, 2)
        np.testing.assert_array_equal(
            featurise(stereo[:, 1], LOGMEL64), featurise(stereo[:, 1].copy(), LOGMEL64)
        )

    def test_what_comes_later_changes_nothing_before(self) -> None:
        samples = noise(300 * 160)
        whole, start = featurise(samples, LOGMEL64), featurise(samples[: 200 * 160], LOGMEL64)
        np.testing.assert_allclose(whole[:, :198], start[:, :198], atol=1e-6)

    def test_gain_is_an_offset(self) -> None:
        samples = noise(8_000)
        louder = featurise(2 * samples, LOGMEL64)
        np.testing.assert_allclose(louder, featurise(samples, LOGMEL64) + 2 * np.log(2), atol=1e-5)

    @pytest.mark.real
    @pytest.mark.parametrize(
        ("pattern", "preset"),
        [
            ("donateacry/**/*.caf", "logmel80"),
            ("librispeech/**/*.flac", "logmel64"),
            ("physionet2016/**/*.flac", "heart"),
            ("sprsound/**/*.flac", "lung"),
        ],
    )
    def test_rounding_on_recordings_is_relative_to_the_strongest_line(
        self, data_root: Path, pattern: str, preset: str
    ) -> None:
        """|error| <= 2e-6 + 2e-7 A_max / A: amplitudes of the frame's strongest line and of the band."""
        config = PRESETS[preset]
        for path in sorted(data_root.glob(pattern))[::97][:4]:
            samples = read(path, sample_rate_hz=config.sample_rate_hz).samples[: 2 * config.sample_rate_hz]
            power = spectra_by_definition(samples, config)
            bank = mel_filterbank(config).astype(np.float64)
            bands = np.maximum(bank @ power, config.log_floor)
            mean_power = bands / bank.sum(axis=1, keepdims=True)
            bound = 2e-6 + 2e-7 * np.sqrt(power.max(axis=0) / mean_power)
            error = np.abs(featurise(samples, config) - np.log(bands))
            assert (error <= bound).all(), f"{path}: {(error / bound).max()}"
            assert error[power.max(axis=0) / mean_power < 1e6].max() < 2e-4  # within 60 dB


class TestNormalisation:
    def test_mean(self) -> None:
        samples = noise(16_000)
        plain = featurise(samples, LOGMEL64).astype(np.float64)
        expected = plain - plain.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(
            featurise(samples, LOGMEL64.vary(normalisation="mean")), expected, atol=2e-6
        )

    def test_mean_std(self) -> None:
        samples = noise(16_000)
        plain = featurise(samples, PRESETS["mfcc40"]).astype(np.float64)
        expected = (plain - plain.mean(axis=1, keepdims=True)) / plain.std(axis=1, keepdims=True)
        found = featurise(samples, PRESETS["mfcc40"].vary(normalisation="mean_std"))
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def test_a_constant_row_becomes_zero(self) -> None:
        features = featurise(np.zeros(16_000, np.float32), LOGMEL64.vary(normalisation="mean_std"))
        np.testing.assert_allclose(features, 0, atol=1e-5)

    def test_keep_level_removes_the_channel_and_leaves_the_gain(self) -> None:
        """A quarter of the amplitude takes 2 ln 4 off every band; the mean over bands and frames is the level."""
        samples, config = noise(16_000), LOGMEL64.vary(normalisation="keep_level")
        loud, quiet = featurise(samples, config), featurise(samples / 4, config)
        np.testing.assert_allclose(loud - quiet, 2 * np.log(4), atol=2e-5)
        np.testing.assert_allclose(loud.mean(axis=1), featurise(samples, LOGMEL64).mean() + 10, atol=2e-5)

    def test_keep_level_of_an_mfcc_is_the_dct_of_that_of_the_log_mel(self) -> None:
        samples, config = noise(16_000), PRESETS["mfcc40"].vary(normalisation="keep_level")
        logmel = featurise(samples, config.vary(kind="logmel")).astype(np.float64)
        expected = scipy.fft.dct(logmel, type=2, norm="ortho", axis=0)
        np.testing.assert_allclose(featurise(samples, config), expected, atol=1e-4)

    def test_a_channel_that_is_a_gain_is_removed(self) -> None:
        config, samples = LOGMEL64.vary(normalisation="mean"), noise(16_000)
        np.testing.assert_allclose(featurise(samples / 3, config), featurise(samples, config), atol=2e-5)


class TestStream:
    @pytest.mark.parametrize(
        "config",
        [LOGMEL64, ODD, MANY_HOPS, ODD.vary(normalisation="mean_std"), ODD.vary(normalisation="keep_level")],
    )
    @pytest.mark.parametrize("block", [1_000, 37, 4_096, 100_000])
    def test_equals_the_whole_bit_for_bit(self, config: FeatureConfig, block: int) -> None:
        # Longer than a block of frames, so that the seams of both kinds of block are crossed.
        samples = noise(60_000)
        blocks = [samples[i : i + block] for i in range(0, len(samples), block)]
        np.testing.assert_array_equal(featurise_stream(blocks, config), featurise(samples, config))

    def test_empty_blocks_and_mixed_types(self) -> None:
        stored = (noise(50_000) * 32_768).astype(np.int16)
        scaled = (stored / 32_768).astype(np.float32)
        blocks: list[NDArray[Any]] = [
            stored[:0],
            stored[:777],
            scaled[777:30_000],
            stored[30_000:],
            stored[:0],
        ]
        np.testing.assert_array_equal(featurise_stream(blocks, LOGMEL64), featurise(stored, LOGMEL64))

    @pytest.mark.parametrize("n_samples", [400, 401, 559, 560, 53_600, 53_759, 53_760, 53_761, 54_000])
    def test_number_of_frames(self, n_samples: int) -> None:
        # 336 frames to a block: 53,760 samples.
        features = featurise(noise(n_samples), LOGMEL64)
        assert features.shape == (64, 1 + n_samples // 160)
        expected = featurise_by_definition(noise(n_samples)[-1_200:], LOGMEL64)
        if (n_samples - 1_200) % 160 == 0:
            np.testing.assert_allclose(features[:, -3:], expected[:, -3:], atol=2e-5)

    def test_memory_does_not_grow_with_the_audio(self) -> None:
        config = LOGMEL64.vary(window_ms=100.0, hop_ms=100.0)
        block = noise(16_000)
        featurise(block, config)  # the thread's buffers are there already
        tracemalloc.start()
        try:
            features = featurise_stream((block for _ in range(600)), config)  # 38 MB of samples
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert features.shape == (64, 6_001)
        assert peak < 8e6  # features twice (1.5 MB each) and one block's spectrum

    def test_a_source_may_featurise_while_it_is_read(self) -> None:
        samples, other = noise(60_000), noise(9_000, seed=1)

        def source() -> Iterator[NDArray[np.float32]]:
            for block in np.split(samples, 6):
                featurise(other, LOGMEL64)
                yield block

        np.testing.assert_array_equal(featurise_stream(source(), LOGMEL64), featurise(samples, LOGMEL64))

    def test_an_error_in_the_source_leaves_nothing_behind(self) -> None:
        def source() -> Iterator[NDArray[np.float32]]:
            yield noise(60_000, scale=100.0)
            raise OSError("disk gone")

        with pytest.raises(OSError, match="disk gone"):
            featurise_stream(source(), LOGMEL64)
        samples = noise(5_000)
        np.testing.assert_allclose(
            featurise(samples, LOGMEL64), featurise_by_definition(samples, LOGMEL64), atol=2e-5
        )


class TestBuffers:
    def test_results_do_not_share_memory(self) -> None:
        first = featurise(noise(70_000), LOGMEL64)
        kept = first.copy()
        featurise(noise(70_000, seed=1), LOGMEL64)
        np.testing.assert_array_equal(first, kept)

    def test_the_input_is_not_written_to(self) -> None:
        samples = noise(20_000)
        samples.flags.writeable = False
        featurise(samples, LOGMEL64.vary(normalisation="mean_std"))

    def test_threads_do_not_disturb_each_other(self) -> None:
        jobs = [(noise(30_000 + 1_000 * i, seed=i), config) for i in range(8) for config in (LOGMEL64, ODD)]
        expected = [featurise(*job) for job in jobs]
        together = threading.Barrier(4)

        def run(job: tuple[NDArray[np.float32], FeatureConfig]) -> NDArray[np.float32]:
            together.wait(timeout=30)
            return featurise(*job)

        with ThreadPoolExecutor(4) as pool:
            for found, wanted in zip(pool.map(run, jobs), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)


class TestHostileSamples:
    @pytest.mark.parametrize(
        ("samples", "message"),
        [
            (np.zeros((2, 16_000), np.float32), r"mono, \(n_samples,\), got shape \(2, 16000\)"),
            (np.zeros(16_000, np.int32), "int16, or float in .*, got int32"),
            (np.zeros(16_000, np.complex64), "got complex64"),
            (np.zeros(16_000, bool), "got bool"),
            (np.array(["a"]), "got <U1"),
            (np.zeros(0, np.float32), "0 samples .* shorter than one window of 400"),
            (np.zeros(399, np.float32), r"399 samples \(0.025 s\) are shorter than one window of 400"),
            (np.array([*[0.0] * 9_000, np.nan], np.float32), "NaN, infinity"),
            (np.array([*[0.0] * 90_000, np.inf, *[0.0] * 90_000], np.float32), "NaN, infinity"),
            (np.full(9_000, 1e30, np.float32), "beyond float32's range; scale them"),
            (np.full(9_000, 1e300), "beyond float32's range; scale them"),
        ],
    )
    def test_refuses(self, samples: NDArray[Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            featurise(samples, LOGMEL64)

    def test_no_blocks_at_all(self) -> None:
        with pytest.raises(ValueError, match="0 samples"):
            featurise_stream([], LOGMEL64)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "cry.wav"
    soundfile.write(path, noise(24_000), 16_000, subtype="PCM_16")
    return path


class TestFile:
    def test_equals_featurise_of_what_is_read(self, recording: Path) -> None:
        config = PRESETS["mfcc40"]  # 8 kHz: the file is resampled
        samples = read(recording, sample_rate_hz=8_000, start_s=0.25, end_s=1.0).samples
        found = featurise_file(recording, config, start_s=0.25, end_s=1.0)
        np.testing.assert_allclose(found, featurise(samples, config), atol=1e-4)

    def test_too_short_names_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "click.wav"
        soundfile.write(path, noise(300), 16_000)
        with pytest.raises(AudioError, match=r"click\.wav: 300 samples .* shorter than one window"):
            featurise_file(path, LOGMEL64)

    def test_a_stretch_that_cannot_be_names_the_file(self, recording: Path) -> None:
        with pytest.raises(AudioError, match=r"cry\.wav: .*start_s"):
            featurise_file(recording, LOGMEL64, start_s=-1.0)
        with pytest.raises(AudioError, match=r"cry\.wav: .*9 s"):
            featurise_file(recording, LOGMEL64, end_s=9.0)

    def test_not_audio(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.wav"
        path.write_text("not a recording")
        with pytest.raises(AudioError, match=r"notes\.wav"):
            featurise_file(path, LOGMEL64)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
            featurise_file(tmp_path / "gone.wav", LOGMEL64)


class TestCache:
    def test_returns_what_featurise_file_does_and_keeps_it(self, recording: Path, tmp_path: Path) -> None:
        cache = FeatureCache(tmp_path / "cache")
        expected = featurise_file(recording, LOGMEL64)
        first = cache.get_or_compute(recording, LOGMEL64)
        entry = cache.entry(recording, LOGMEL64)
        written = entry.stat()
        second = cache.get_or_compute(str(recording), LOGMEL64, start_s=0)
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(second, expected)
        assert second.flags.writeable
        assert (entry.stat().st_mtime_ns, entry.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
        np.testing.assert_array_equal(np.load(entry, allow_pickle=False), expected)
        assert entry.relative_to(cache.folder).parts == (entry.name[:2], entry.name[2:4], entry.name)

    def test_a_renamed_recording_keeps_its_entry_and_a_changed_one_does_not(
        self, recording: Path, tmp_path: Path
    ) -> None:
        cache = FeatureCache(tmp_path / "cache")
        entry = cache.entry(recording, LOGMEL64)
        renamed = recording.rename(tmp_path / "other.wav")
        assert cache.entry(renamed, LOGMEL64) == entry
        soundfile.write(renamed, noise(24_000, seed=1), 16_000, subtype="PCM_16")
        assert cache.entry(renamed, LOGMEL64) != entry

    def test_every_option_and_stretch_has_its_own_entry(self, recording: Path, tmp_path: Path) -> None:
        cache = FeatureCache(tmp_path)
        mfcc = PRESETS["mfcc40"]
        changes: dict[str, Any] = {
            "sample_rate_hz": 8_001, "window_ms": 29.0, "hop_ms": 9.0, "n_fft": 512, "f_min_hz": 21.0,
            "f_max_hz": 3_999.0, "n_bands": 39, "kind": "logmel", "n_mfcc": 39, "mel_scale": "htk", "log_floor": 1e-9,
            "normalisation": "mean",
        }  # fmt: skip
        assert set(changes) == set(FeatureConfig.model_fields)
        entries = {cache.entry(recording, mfcc.vary(**{name: value})) for name, value in changes.items()}
        entries |= {
            cache.entry(recording, mfcc, start_s=s, end_s=e) for s in (0.0, 0.1) for e in (None, 1.0, 1.1)
        }
        assert len(entries) == len(changes) + 6
        assert cache.entry(recording, mfcc, end_s=float("nan")) == cache.entry(recording, mfcc)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda stored: b"",
            lambda stored: stored[:5],
            lambda stored: stored[: len(stored) // 2],
            lambda stored: stored[:-1],
            lambda stored: stored + b"x",
            lambda stored: stored[:4_000] + bytes([stored[4_000] ^ 1]) + stored[4_001:],
            lambda stored: b"\x80\x04N." * 100,
            lambda stored: bytes(len(stored)),
        ],
    )
    def test_a_damaged_entry_is_computed_again(
        self, recording: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        cache = FeatureCache(tmp_path / "cache")
        expected = cache.get_or_compute(recording, LOGMEL64)
        entry = cache.entry(recording, LOGMEL64)
        stored = entry.read_bytes()
        entry.write_bytes(damage(stored))
        np.testing.assert_array_equal(cache.get_or_compute(recording, LOGMEL64), expected)
        assert entry.read_bytes() == stored

    def test_a_broken_recording_stores_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "click.wav"
        soundfile.write(path, noise(300), 16_000)
        cache = FeatureCache(tmp_path / "cache")
        with pytest.raises(AudioError, match=r"click\.wav"):
            cache.get_or_compute(path, LOGMEL64)
        assert not (tmp_path / "cache").exists()

    def test_missing_recording_and_folder_for_one(self, tmp_path: Path) -> None:
        cache = FeatureCache(tmp_path / "cache")
        with pytest.raises(FileNotFoundError, match=r"gone\.wav: no such file"):
            cache.get_or_compute(tmp_path / "gone.wav", LOGMEL64)
        with pytest.raises(AudioError, match="name a readable recording"):
            cache.get_or_compute(tmp_path, LOGMEL64)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on file size")
    def test_a_full_disk_is_an_error_and_leaves_nothing(self, recording: Path, tmp_path: Path) -> None:
        # A limit on the size of files stands in for the disk: the write stops half way with OSError.
        script = (
            "import resource, signal, sys\n"
            "from vagitus.features import PRESETS, FeatureCache\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
            "try:\n"
            "    FeatureCache(sys.argv[1]).get_or_compute(sys.argv[2], PRESETS['logmel64'])\n"
            "except OSError:\n"
            "    print('refused')\n"
        )
        folder = tmp_path / "cache"
        command = [sys.executable, "-c", script, str(folder), str(recording)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "refused\n"
        assert [path for path in folder.rglob("*") if path.is_file()] == []

    def test_two_processes_write_one_entry(self, recording: Path, tmp_path: Path) -> None:
        cache = FeatureCache(tmp_path / "cache")
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = [pool.submit(cache.get_or_compute, recording, LOGMEL64) for _ in range(12)]
            found = [job.result() for job in jobs]
        for features in found:
            np.testing.assert_array_equal(features, featurise_file(recording, LOGMEL64))
        assert [path for path in cache.folder.rglob("*") if path.is_file()] == [
            cache.entry(recording, LOGMEL64)
        ]


class CrashesItsReader(PosixPath):
    """A path that ends the process it is sent to, as a decoder with a bug would."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (1,)


class TestFiles:
    @pytest.fixture
    def stretches(self, tmp_path: Path) -> list[tuple[Path, float, float | None]]:
        for i in range(6):
            soundfile.write(tmp_path / f"{i}.wav", noise(16_000 + 800 * i, seed=i), 16_000)
        (tmp_path / "2.wav").write_bytes(b"RIFF but no more")
        (tmp_path / "4.wav").unlink()
        return [(tmp_path / f"{i}.wav", 0.1 * i, None if i % 2 else 1.0) for i in range(6)]

    @pytest.mark.parametrize("n_workers", [1, 2])
    def test_every_recording_or_its_reason(
        self, stretches: list[tuple[Path, float, float | None]], tmp_path: Path, n_workers: int
    ) -> None:
        cache = FeatureCache(tmp_path / "cache")
        found = dict(featurise_files(stretches, LOGMEL64, cache, n_workers))
        assert sorted(found) == list(range(6))
        for i, (path, start_s, end_s) in enumerate(stretches):
            outcome = found[i]
            if i in (2, 4):
                assert isinstance(outcome, AudioError)
                assert f"{i}.wav" in str(outcome)
            else:
                assert isinstance(outcome, np.ndarray)
                expected = featurise_file(path, LOGMEL64, start_s=start_s, end_s=end_s)
                np.testing.assert_array_equal(outcome, expected)
                assert cache.entry(path, LOGMEL64, start_s=start_s, end_s=end_s).exists()

    def test_workers_that_are_killed_lose_nothing(self, tmp_path: Path) -> None:
        # Features of 40 s are a megabyte: the victims are caught before, during and after an answer.
        path = tmp_path / "cry.wav"
        soundfile.write(path, noise(640_000), 16_000)
        before = {child.pid for child in multiprocessing.active_children()}
        found = {}
        for index, outcome in featurise_files([(path, 0.0, None)] * 20, LOGMEL64, None, 2):
            assert index not in found
            found[index] = outcome
            if len(found) in (1, 9):  # far enough apart for what the first one held to be done again
                victim = next(child for child in multiprocessing.active_children() if child.pid not in before)
                os.kill(victim.pid or 0, signal.SIGKILL)
        assert sorted(found) == list(range(20))
        assert all(isinstance(outcome, np.ndarray) for outcome in found.values())
        assert {child.pid for child in multiprocessing.active_children()} == before

    def test_leaving_early_ends_the_workers(self, recording: Path) -> None:
        before = {child.pid for child in multiprocessing.active_children()}
        results = featurise_files([(recording, 0.0, None)] * 20, LOGMEL64, None, 2)
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert {child.pid for child in multiprocessing.active_children()} == before

    def test_a_script_without_a_guard_is_told(self, recording: Path, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "import sys\n"
            "from vagitus.features import PRESETS, featurise_files\n"
            "list(featurise_files([(sys.argv[1], 0.0, None)], PRESETS['logmel64'], None, 2))\n"
        )
        done = subprocess.run(
            [sys.executable, script, recording], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "worker processes cannot start; call this under if __name__" in done.stderr

    def test_a_recording_that_crashes_its_worker_stops_no_other(self, recording: Path) -> None:
        crashing = CrashesItsReader(recording)
        found = dict(
            featurise_files([(p, 0.0, None) for p in (recording, crashing, recording)], LOGMEL64, None, 2)
        )
        assert sorted(found) == [0, 1, 2]
        assert isinstance(found[1], AudioError)
        assert (
            str(found[1]) == f"{recording}: ended the process that reads it, twice; convert it to wav or flac"
        )
        for index in (0, 2):
            np.testing.assert_array_equal(np.asarray(found[index]), featurise_file(recording, LOGMEL64))

    def test_it_reads_no_further_ahead_than_the_workers_need(self, recording: Path) -> None:
        n_read = 0

        def source() -> Iterator[tuple[Path, float, float | None]]:
            nonlocal n_read
            for _ in range(1_000):
                n_read += 1
                yield recording, 0.0, None

        results = featurise_files(source(), LOGMEL64)
        next(results)
        assert n_read == 1

    @pytest.mark.parametrize("n_workers", [1, 2])
    def test_a_cache_that_cannot_be_written_stops_it(
        self, recording: Path, tmp_path: Path, n_workers: int
    ) -> None:
        (tmp_path / "cache").write_text("a file where the folder should be")
        with pytest.raises(OSError, match="cache"):
            list(
                featurise_files(
                    [(recording, 0.0, None)], LOGMEL64, FeatureCache(tmp_path / "cache"), n_workers
                )
            )

    def test_no_workers(self, recording: Path) -> None:
        with pytest.raises(ValueError, match="n_workers must be 1 or more, got 0"):
            featurise_files([(recording, 0.0, None)], LOGMEL64, None, 0)


def test_importing_loads_no_scipy_and_no_torch() -> None:
    script = "import sys, vagitus.features; print({'scipy', 'torch', 'soundfile', 'soxr', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
