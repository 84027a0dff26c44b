"""The cry generator: what is planted is there, what is not is not, and the same seed gives the same bits."""

import csv
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from vagitus.corpora import simulated
from vagitus.corpora.simulated import CORPUS, HOSPITALS, Voice, cry, generate, voice
from vagitus.manifest import read_manifest

SMALL: dict[str, Any] = {"n_subjects": 4, "n_recordings_per_subject": 2, "duration_s": 1.0}
SMOOTH = Voice(
    f0_hz=430.0,
    jitter=0.0,
    shimmer=0.0,
    formant_scale=1.0,
    tilt=1.0,
    breathiness=0.0,
    expiration_s=0.9,
    inspiration_s=0.3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty infants, one recording each, at the default length and rate."""
    path = tmp_path_factory.mktemp("simulated")
    generate(path, n_subjects=20, n_recordings_per_subject=1)
    return path


def autocorrelation_pitch_hz(samples: NDArray[np.float64], rate_hz: int) -> float:
    """F0 of a short stretch: the highest peak of its autocorrelation between 200 and 900 Hz, interpolated."""
    windowed = (samples - samples.mean()) * np.hanning(len(samples))
    spectrum = np.fft.rfft(windowed, 4 * len(samples))
    # Divided by the window's own autocorrelation, or the peak would lean to short lags.
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(len(samples)), 4 * len(samples))) ** 2)
    lags = np.arange(int(rate_hz / 900), int(rate_hz / 200) + 1)
    r = np.fft.irfft(np.abs(spectrum) ** 2)[: lags[-1] + 2] / window[: lags[-1] + 2]
    # The shortest lag near the top: multiples of the period are as good.
    best = next(k for k in lags if r[k] >= 0.95 * r[lags].max() and r[k] >= max(r[k - 1], r[k + 1]))
    return float(
        rate_hz / (best + 0.5 * (r[best - 1] - r[best + 1]) / (r[best - 1] - 2 * r[best] + r[best + 1]))
    )


def test_the_stated_pitch_is_the_pitch_that_sounds() -> None:
    # High enough a rate for lags to tell 1 % apart.
    clean = cry(SMOOTH, np.random.default_rng(3), duration_s=2.0, sample_rate_hz=48_000)
    voiced = np.flatnonzero(~np.isnan(clean.f0_hz))
    checked = 0
    for start in range(voiced[0] + 4_800, len(clean.samples) - 1_200, 4_800):
        stretch = slice(start, start + 1_200)  # 25 ms, about ten cycles
        if not np.isnan(clean.f0_hz[stretch]).any():
            measured_hz = autocorrelation_pitch_hz(clean.samples[stretch], 48_000)
            assert measured_hz == pytest.approx(clean.f0_hz[stretch].mean(), rel=0.015)
            checked += 1
    assert checked >= 8


def test_pitch_rises_and_falls_over_every_expiration() -> None:
    clean = cry(SMOOTH, np.random.default_rng(0), duration_s=4.0, sample_rate_hz=16_000)
    for start_s, end_s in clean.expirations[:-1]:  # the last may be cut
        f0_hz = clean.f0_hz[round(start_s * 16_000) + 1 : round(end_s * 16_000) - 1]
        n = len(f0_hz)
        middle, ends = f0_hz[n // 3 : n // 2].mean(), max(f0_hz[: n // 10].mean(), f0_hz[-n // 10 :].mean())
        assert middle > 1.1 * ends
        assert f0_hz.mean() == pytest.approx(SMOOTH.f0_hz, rel=0.15)  # heights differ by 4 %


def test_expirations_alternate_with_quieter_inspirations() -> None:
    clean = cry(SMOOTH, np.random.default_rng(1), duration_s=6.0, sample_rate_hz=16_000)
    assert len(clean.expirations) >= 4
    is_voiced = ~np.isnan(clean.f0_hz)
    assert is_voiced.mean() == pytest.approx(0.9 / (0.9 + 0.3), abs=0.12)
    first, last = round(clean.expirations[0][0] * 16_000), round(clean.expirations[-1][0] * 16_000)
    breath = clean.samples[first:last][~is_voiced[first:last]]
    assert 0 < np.sqrt(np.mean(breath**2)) < 0.2 * np.sqrt(np.mean(clean.samples[is_voiced] ** 2))


def test_jitter_is_what_cycles_differ_by() -> None:
    rough = Voice(**{**asdict(SMOOTH), "jitter": 0.03})
    spread = []
    for infant in (SMOOTH, rough):
        f0_hz = cry(infant, np.random.default_rng(5), duration_s=4.0, sample_rate_hz=16_000).f0_hz
        f0_hz = f0_hz[~np.isnan(f0_hz)]
        # A cycle lasts about 37 samples: 80 apart, neighbours are other cycles and the melody has hardly moved.
        steps = np.log(f0_hz[80::80] / f0_hz[:-80:80])
        spread.append(float(np.median(np.abs(steps))))
    # The median of |difference of two normals| is 0.6745 * sqrt(2) standard deviations.
    assert spread[1] == pytest.approx(0.6745 * math.sqrt(2) * 0.03, rel=0.15)
    assert spread[0] < 0.3 * spread[1]


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_a_case_is_the_same_infant_with_the_effect_and_nothing_else(effect: float) -> None:
    for subject in range(20):
        control = voice(subject, is_case=False, effect=effect, seed=1)
        case = voice(subject, is_case=True, effect=effect, seed=1)
        assert case.f0_hz / control.f0_hz == pytest.approx(1 + 0.18 * effect)
        assert case.jitter / control.jitter == pytest.approx(1 + effect)
        assert control.expiration_s / case.expiration_s == pytest.approx(1 + 0.35 * effect)
        changed = {"f0_hz", "jitter", "expiration_s"}
        assert {k for k, v in asdict(case).items() if v != asdict(control)[k]} == changed


def test_without_effect_cases_are_drawn_as_controls_are() -> None:
    case = [voice(i, is_case=True, effect=0.0, seed=0) for i in range(50)]
    assert case == [voice(i, is_case=False, effect=0.0, seed=0) for i in range(50)]
    f0_hz = np.array([voice(i, is_case=i % 2 == 1, effect=0.0, seed=0).f0_hz for i in range(2000)])
    log_ratio = np.log(f0_hz[1::2]).mean() - np.log(f0_hz[::2]).mean()
    assert abs(log_ratio) < 3 * 0.10 * math.sqrt(2 / 1000)


def test_an_effect_of_one_parts_the_recordings_of_cases_and_controls(folder: Path) -> None:
    manifest = CORPUS.load(folder)
    is_case = manifest.label == "case"
    assert manifest.covariates == {}  # an arm without audio learns nothing of the truth
    with (folder / "truth.csv").open() as file:
        truth = {row["path"]: row for row in csv.DictReader(file)}
    f0_hz = np.array([float(truth[path]["f0_mean_hz"]) for path in manifest.path])
    expiration_s = np.array([float(truth[path]["expiration_mean_s"]) for path in manifest.path])
    assert np.log(f0_hz[is_case]).mean() - np.log(f0_hz[~is_case]).mean() == pytest.approx(
        math.log(1.18), abs=0.13
    )
    assert expiration_s[~is_case].mean() / expiration_s[is_case].mean() == pytest.approx(1.35, abs=0.2)
    assert 250 < f0_hz.min() < f0_hz.max() < 800


def test_the_manifest_says_who_where_and_that_nobody_was_recorded(folder: Path) -> None:
    manifest = CORPUS.load(folder)
    assert manifest.simulated
    assert read_manifest(folder / "manifest.csv").simulated
    assert any("simulated: no patient was recorded" in note for note in manifest.notes)
    assert "planted effect 1, seed 0" in manifest.notes
    assert len(manifest) == manifest.n_subjects == 20
    assert manifest.site_names == ("north", "south")
    # Every hospital has as many cases as controls, so that the site says nothing about the label.
    for site in manifest.site_names:
        labels = manifest.label[manifest.site == site]
        assert (labels == "case").sum() == (labels == "control").sum() == 5
    assert not {"case", "control"} & set("/".join(manifest.path.tolist()).split("/"))
    identity = CORPUS.load(folder, "identity")
    assert identity.label.tolist() == identity.subject.tolist()


def test_recordings_are_16_bit_wav_of_the_stated_length_without_clipping(folder: Path) -> None:
    manifest = CORPUS.load(folder)
    for i in range(len(manifest)):
        info = soundfile.info(manifest.file(i))
        assert (info.subtype, info.samplerate, info.channels, info.frames) == ("PCM_16", 16_000, 1, 64_000)
        samples, _ = soundfile.read(manifest.file(i))
        assert 0.05 < np.abs(samples).max() < 1.0


def test_hospitals_differ_in_band_and_noise(folder: Path) -> None:
    manifest = CORPUS.load(folder)
    above_4_khz = {}
    for hospital in HOSPITALS[:2]:
        shares = []
        for i in np.flatnonzero(manifest.site == hospital.name).tolist():
            samples, rate_hz = soundfile.read(manifest.file(i))
            power = np.abs(np.fft.rfft(samples)) ** 2
            is_high = np.fft.rfftfreq(len(samples), 1 / rate_hz) > 4500
            shares.append(power[is_high].sum() / power.sum())
        above_4_khz[hospital.name] = np.array(shares)
    # South's microphone ends at 3.5 kHz; what is left above is what its codec adds.
    assert above_4_khz["north"].min() > above_4_khz["south"].max()


@pytest.mark.parametrize("codec", ["mulaw", "adaptive4"])
def test_codecs_add_noise_that_follows_the_level(codec: str) -> None:
    t = np.arange(16_000) / 16_000
    for level in (0.5, 0.01):
        sound = level * np.sin(2 * np.pi * 440 * t)
        noise = simulated._coded(sound, codec) - sound
        snr_db = 10 * math.log10(np.mean(sound**2) / np.mean(noise**2))
        assert 15 < snr_db < 45
    assert simulated._coded(np.zeros(100), codec).tolist() == [0.0] * 100


def test_mu_law_by_hand() -> None:
    # |x| = 0.5: ln(1 + 127.5) / ln 256 = 0.8756 -> 111.2 -> step 111 -> (256^(111/127) - 1) / 255 = 0.4948
    assert simulated._coded(np.array([0.5, -0.5, 1.0]), "mulaw") == pytest.approx(
        [0.4951, -0.4951, 1.0], abs=5e-4
    )


def test_a_room_is_the_direct_sound_and_an_echo_of_its_energy_that_falls_by_60_db() -> None:
    for hospital in HOSPITALS:
        room = simulated._room(hospital, np.random.default_rng(0), 16_000)
        assert room[0] == 1.0
        assert 10 * math.log10((room[1:] ** 2).sum()) == pytest.approx(hospital.echo_db, abs=0.1)
        n = len(room)
        assert n == round(hospital.reverberation_s * 16_000)
        early, late = room[n // 10 : n // 5], room[n - n // 5 : n - n // 10]
        # 70 % of the room's time lies between the two stretches: 42 dB.
        assert 10 * math.log10((early**2).mean() / (late**2).mean()) == pytest.approx(42, abs=3)


@pytest.mark.parametrize("tilt_db", [-6.0, 0.0])
def test_noise_has_the_stated_slope(tilt_db: float) -> None:
    noise = simulated._coloured_noise(np.random.default_rng(0), 1 << 17, tilt_db)
    power = np.abs(np.fft.rfft(noise)) ** 2
    n = len(power)
    octaves = [10 * math.log10(power[n // 2**k : 2 * n // 2**k].mean()) for k in (2, 3, 4)]
    assert np.diff(octaves) == pytest.approx([-tilt_db, -tilt_db], abs=0.3)


def bits(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "audio").iterdir())}


def test_the_same_seed_gives_the_same_bits_whatever_else_is_generated(tmp_path: Path) -> None:
    assert generate(tmp_path / "a", **SMALL).simulated
    generate(tmp_path / "b", **{**SMALL, "n_subjects": 2, "n_recordings_per_subject": 1})
    generate(tmp_path / "c", **SMALL, seed=1)
    a, b, c = (bits(tmp_path / name) for name in "abc")
    assert set(b) == {"s0000_r00.wav", "s0001_r00.wav"}
    assert all(a[name] == b[name] for name in b)
    assert len(set(a.values())) == len(a) == 8
    assert all(a[name] != c[name] for name in a)


def test_the_effect_leaves_the_controls_as_they_were(tmp_path: Path) -> None:
    weak, strong = (
        generate(tmp_path / name, **SMALL, effect=effect) for name, effect in (("w", 0.0), ("s", 2.0))
    )
    for i in range(len(weak)):
        same = weak.file(i).read_bytes() == strong.file(i).read_bytes()
        assert same == (weak.label[i] == "control")


def test_load_generates_once_and_mends_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VAGITUS_DATA", str(tmp_path / "read-only"))
    manifest = CORPUS.load(**SMALL)
    assert manifest.root.parent == tmp_path / "cache" / "vagitus"
    first = manifest.file(0)
    before = first.stat().st_mtime_ns
    again = CORPUS.load(**SMALL)
    assert again.path.tolist() == manifest.path.tolist()
    assert first.stat().st_mtime_ns == before
    sound = first.read_bytes()
    first.unlink()
    CORPUS.load(**SMALL)
    assert first.read_bytes() == sound
    # Other options lie elsewhere, another generator too; a default written out does not make them others.
    assert CORPUS.load(**SMALL, effect=2.0).root != manifest.root
    assert CORPUS.load(**SMALL, effect=1.0).root == manifest.root
    assert not (tmp_path / "read-only").exists()
    monkeypatch.setattr(simulated, "GENERATOR_VERSION", simulated.GENERATOR_VERSION + 1)
    assert simulated.default_folder(**SMALL) != manifest.root


def test_load_keeps_recordings_below_a_given_root(tmp_path: Path) -> None:
    manifest = CORPUS.load(tmp_path, **SMALL)
    assert manifest.root.parent == tmp_path
    # The folder itself is as good as the one above it.
    assert CORPUS.load(manifest.root).subject.tolist() == manifest.subject.tolist()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("n_subjects", 0, "n_subjects is 0; give 1 to"),
        ("n_recordings_per_subject", -1, "n_recordings_per_subject is -1"),
        ("n_sites", 5, "n_sites is 5; give 1 to 4"),
        ("effect", -0.5, r"effect is -0.5; give 0.0 to 3.0"),
        ("effect", math.nan, "effect is nan"),
        ("duration_s", 0.2, r"duration_s is 0.2; give 1.0 to 60.0"),
        ("sample_rate_hz", 4000, "sample_rate_hz is 4000; give 8,000 to 48,000"),
        ("seed", -1, "seed is -1"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"simulated: {message}"):
        generate(tmp_path, **{option: value})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_or_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="n_subject"):
        CORPUS.load(tmp_path, n_subject=3)
    with pytest.raises(ValueError, match="simulated has no task 'health'; choose from condition, identity"):
        CORPUS.load(tmp_path, "health")


@pytest.mark.parametrize("sample_rate_hz", [8_000, 44_100])
def test_every_hospital_works_at_every_rate(tmp_path: Path, sample_rate_hz: int) -> None:
    manifest = generate(
        tmp_path,
        n_subjects=8,
        n_recordings_per_subject=1,
        n_sites=4,
        duration_s=1.0,
        sample_rate_hz=sample_rate_hz,
    )
    assert manifest.site_names == ("east", "north", "south", "west")
    samples, rate_hz = soundfile.read(manifest.file(0))
    assert rate_hz == sample_rate_hz
    assert np.abs(samples).max() > 0.05
