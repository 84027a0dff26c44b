"""Sweeps over worse and worse recordings: on tiny ones made here, and on real ones where they are at hand."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy import fft

from vagitus import augment, robustness
from vagitus.audio import read
from vagitus.corpora import load_corpus
from vagitus.features import PRESETS, FeatureConfig, featurise, featurise_file
from vagitus.manifest import Manifest, build_manifest
from vagitus.metrics import Statistic, auroc, statistic
from vagitus.robustness import (
    CLEAN,
    KINDS,
    MEAN_CLASS,
    SWEEPS,
    Condition,
    Curve,
    Scorer,
    Sweep,
    area_under,
    curves,
    default_conditions,
    featurise_without,
    from_logmel,
    join,
    noise_pool,
    removed_bands,
    robustness_lines,
    sweep,
    torch_scorer,
)
from vagitus.statistics import paired_bootstrap, subject_bootstrap

MFCC = PRESETS["mfcc40"].vary(normalisation="mean")  # 8 kHz
LOGMEL = PRESETS["logmel64"]  # 16 kHz
CLASSES = ("control", "case")

# One condition of every kind, and two levels of some.
EVERY_KIND = (
    CLEAN,
    Condition("noise", "gaussian", 0),
    Condition("noise", "gaussian", 20),
    Condition("noise", "Rain", 0),
    Condition("noise", "Rain", 20),
    Condition("noise", "Dog bark", 5),
    Condition("length", level=30),
    Condition("length", level=100),
    Condition("bands", "octave", 1000),
    Condition("codec", "mu_law", 64),
    Condition("low_pass", level=1000),
    Condition("high_pass", level=1000),
    Condition("reverberation", level=0.5),
    Condition("gain", level=-40),
    Condition("clipping", level=-20),
)


def level_and_tilt(weight: float, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """A scorer that depends on every row and on their order."""
    rows = features.astype(np.float64).mean(axis=1) + features.std(axis=1)
    return np.array([rows.mean(), weight * rows @ np.linspace(-1, 1, len(rows))], np.float32)


def scorer(config: FeatureConfig = MFCC, weight: float = 1.0, **changes: Any) -> Scorer:
    return replace(Scorer(config, CLASSES, partial(level_and_tilt, weight)), **changes)


def write(path: Path, samples: NDArray[Any], rate_hz: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")


def recording(seed: int, duration_s: float) -> NDArray[np.float64]:
    source = np.random.default_rng(seed)
    t = np.arange(round(duration_s * 16_000)) / 16_000
    tones = np.sin(2 * np.pi * source.uniform(200, 600) * t * np.arange(1, 9)[:, None])
    return np.asarray(0.05 * tones.sum(axis=0) + 0.003 * source.standard_normal(len(t)))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Five recordings of three subjects, of .4 to 1.2 s; one row is a stretch."""
    root = tmp_path_factory.mktemp("recordings")
    rows: list[dict[str, object]] = []
    for i in range(5):
        write(root / f"{i}.wav", recording(i, 0.4 + 0.2 * i))
        rows.append({"path": f"{i}.wav", "subject": f"s{i % 3}", "label": CLASSES[i % 2]})
    rows[3] |= {"start_s": 0.25, "end_s": 0.9}
    return build_manifest(rows, root, "tiny")


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    root = tmp_path_factory.mktemp("noises")
    for name in ("Rain", "Dog bark"):
        for k in range(6):
            samples = 0.1 * np.random.default_rng(100 + k).standard_normal(8000)
            write(root / name / f"{k}.wav", samples * (1 if name == "Rain" else np.arange(8000) < 900))
    return {name: sorted((root / name).iterdir()) for name in ("Rain", "Dog bark")}


class TestCondition:
    def test_what_is_out_of_range_is_refused_with_the_way_out(self) -> None:
        given: list[tuple[tuple[str, str, float], str]] = [
            (("noises", "gaussian", 5), "no condition 'noises'; did you mean 'noise'"),
            (("noise", "", 5), "noise needs a name: 'gaussian' or a class of the noise pool"),
            (
                ("noise", MEAN_CLASS, 5),
                "noise: 'mean over classes' is what curves calls a mean; rename the class",
            ),
            (("noise", "Rain", math.nan), "level must lie in -40 to 80 dB SNR, got nan"),
            (("length", "", 0), "length: level must lie in 0.1 to 100 % of the recording"),
            (("length", "centre", 50), "length takes no name, got 'centre'; leave it out"),
            (("bands", "octaves", 500), "no bands 'octaves'; did you mean 'octave'"),
            (("codec", "mp4", 16), "no codec 'mp4'; did you mean 'mp3'"),
            (("codec", "amr_nb", 6), "amr_nb has no 6 kbit/s; choose from 4.75"),
            (("clipping", "", 3), "clipping: level must lie in -90 to 0 dB"),
            (("clean", "", 3), "clean: level must lie in 0 to 0, got 3"),
        ]
        for fields, message in given:
            with pytest.raises(ValueError) as raised:
                Condition(*fields)
            assert message in str(raised.value) and "\n" not in str(raised.value)

    def test_it_reads_as_a_phrase(self) -> None:
        assert str(Condition("noise", "Dog bark", -5)) == "noise Dog bark -5 dB SNR"
        assert str(CLEAN) == "clean"


class TestDefaultConditions:
    def test_every_kind_and_every_class_of_noise(self) -> None:
        made = default_conditions([LOGMEL.vary(f_min_hz=20.0)], ["Rain", "Dog bark"])
        assert made[0] == CLEAN and {condition.kind for condition in made} == set(KINDS)
        assert len(set(made)) == len(made) == 1 + sum(map(len, SWEEPS.values())) + 2 * 6
        snrs = [c.level for c in made if c.name == "Dog bark"]
        assert snrs == [-5, 0, 5, 10, 20, 30]

    def test_nothing_is_tried_where_there_is_nothing_to_remove(self) -> None:
        made = default_conditions([PRESETS["heart"]])  # 20 to 800 Hz, sampled at 2 kHz
        assert {c.level for c in made if c.kind == "low_pass"} == {250, 500}
        assert {c.level for c in made if c.kind == "bands"} == {62.5, 88, 125, 177, 250, 354, 500, 707}
        both = default_conditions([PRESETS["heart"], LOGMEL])
        assert {c.level for c in both if c.kind == "bands"} >= {1000, 5657}
        with pytest.raises(ValueError, match="no front end"):
            default_conditions([])


class TestNoisePool:
    @pytest.fixture()
    def pool_of(self, tmp_path: Path) -> Callable[..., dict[str, list[Path]]]:
        def pool_of(labels: list[str], **options: Any) -> dict[str, list[Path]]:
            names = [f"{i}.wav" for i in range(len(labels))]
            for name in names:
                (tmp_path / name).touch()
            rows: list[dict[str, object]] = [
                {"path": name, "subject": name, "label": label}
                for name, label in zip(names, labels, strict=True)
            ]
            return noise_pool(build_manifest(rows, tmp_path, "esc"), **options)

        return pool_of

    def test_cries_are_no_noise_however_they_are_spelt(self, pool_of: Any) -> None:
        assert list(pool_of(["Rain", "Baby cry", "Dog bark", "Rain"])) == ["Dog bark", "Rain"]
        assert list(pool_of(["crying_baby", "dog", "rain"])) == ["dog", "rain"]
        assert list(pool_of(["cry", "other", ""])) == ["other"]

    def test_other_classes_can_be_left_out(self, pool_of: Any) -> None:
        assert list(pool_of(["crying_baby", "rain", "sea_waves"], exclude=["Sea waves"])) == [
            "crying_baby",
            "rain",
        ]

    def test_without_noise_it_says_where_it_looked_and_what_to_do(self, pool_of: Any, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"no noise among its 1 recordings .*vagitus corpus fetch esc"
        ) as raised:
            pool_of(["Baby cry"])
        assert str(tmp_path) in str(raised.value)

    def test_a_stretch_is_refused(self, recordings: Manifest) -> None:
        with pytest.raises(ValueError, match="tiny, row 5: a clip of noise must be a whole file"):
            noise_pool(recordings)


class TestBands:
    @pytest.mark.parametrize("normalisation", ["none", "mean", "mean_std", "keep_level"])
    @pytest.mark.parametrize("n_mfcc", [None, 13])
    def test_with_nothing_removed_it_is_featurise(self, normalisation: str, n_mfcc: int | None) -> None:
        x = recording(3, 0.7).astype(np.float32)
        for config in (
            MFCC.vary(normalisation=normalisation, n_mfcc=n_mfcc),
            LOGMEL.vary(normalisation=normalisation),
        ):
            plain = config.vary(kind="logmel", n_mfcc=None, normalisation="none")
            assert from_logmel(featurise(x, plain), config) == pytest.approx(featurise(x, config), abs=2e-5)
            nothing = np.zeros(config.n_bands, bool)
            assert np.array_equal(featurise_without(x, config, nothing), featurise(x, config))

    def test_a_removed_band_is_gone_from_every_coefficient(self) -> None:
        removed = np.arange(40) // 5 == 2
        x = recording(3, 0.7).astype(np.float32)
        raw = MFCC.vary(normalisation="none")
        y = fft.idct(featurise_without(x, raw, removed), type=2, norm="ortho", axis=0)
        logmel = featurise(x, raw.vary(kind="logmel"))
        assert y[~removed] == pytest.approx(logmel[~removed], abs=1e-4)
        assert y[removed] == pytest.approx(np.full((5, y.shape[1]), logmel[~removed].mean()), abs=1e-4)

    def test_what_sounds_in_a_removed_band_changes_nothing(self) -> None:
        t = np.arange(8000) / 8000
        quiet = (0.1 * np.sin(2 * np.pi * 300 * t)).astype(np.float32)
        loud = (quiet + 0.01 * np.sin(2 * np.pi * 2300 * t) * (t > 0.5)).astype(np.float32)
        removed = removed_bands(MFCC, Condition("bands", "octave", 1600))
        without = [featurise_without(x, MFCC, removed)[:, 5:45] for x in (quiet, loud)]
        # What is left is the side lobes of the tone in the neighbouring bands.
        change = np.abs(featurise(loud, MFCC) - featurise(quiet, MFCC))[:, 5:45].max()
        assert np.abs(without[0] - without[1]).max() < 0.2 * change

    def test_which_bands_by_hand(self) -> None:
        # HTK mels are 2595 log10(1 + f / 700): seven bands up to 4 kHz have their peaks at 186, 422, 720, 1098,
        # 1576, 2181 and 2947 Hz.
        config = FeatureConfig(
            sample_rate_hz=8000, n_fft=4096, f_min_hz=0, f_max_hz=4000, n_bands=7, mel_scale="htk"
        )
        taken = {
            (name, f_hz): np.flatnonzero(removed_bands(config, Condition("bands", name, f_hz))).tolist()
            for name, f_hz in [
                ("octave", 450),
                ("octave", 1000),
                ("half_octave", 1000),
                ("third_octave", 1200),
            ]
        }
        assert list(taken.values()) == [[2], [3, 4], [3], []]

    def test_something_must_be_left(self) -> None:
        with pytest.raises(ValueError, match="leave a band"):
            featurise_without(recording(0, 1), MFCC, np.ones(40, bool))
        with pytest.raises(ValueError, match="removes no bands"):
            removed_bands(MFCC, CLEAN)
        with pytest.raises(ValueError, match=r"logmel must be \(40, n_frames\)"):
            from_logmel(np.zeros((39, 7), np.float32), MFCC)


class TestSweep:
    def test_every_condition_is_what_its_function_makes(self, recordings: Manifest, noises: Any) -> None:
        found = sweep({"m": scorer()}, recordings, EVERY_KIND, noises=noises)
        x = read(recordings.file(2), sample_rate_hz=8000).samples
        changed = {
            Condition("codec", "mu_law", 64): augment.mu_law(x),
            Condition("low_pass", level=1000): augment.band_limit(x, 0, 1000, 8000),
            Condition("high_pass", level=1000): augment.band_limit(x, 1000, 4000, 8000),
            Condition("gain", level=-40): augment.store_16_bits(augment.gain(x, -40)),
            Condition("clipping", level=-20): augment.clip_at(x, -20),
            Condition("length", level=100): x,
            CLEAN: x,
        }
        for condition, waveform in changed.items():
            expected = level_and_tilt(1.0, featurise(waveform, MFCC))
            assert found.logits["m"][EVERY_KIND.index(condition), 2] == pytest.approx(expected, abs=0), (
                condition
            )
        bands = Condition("bands", "octave", 1000)
        expected = level_and_tilt(1.0, featurise_without(x, MFCC, removed_bands(MFCC, bands)))
        assert found.logits["m"][EVERY_KIND.index(bands), 2] == pytest.approx(expected, abs=0)
        assert len(np.unique(found.logits["m"][:, 2, 1])) == len(EVERY_KIND) - 1  # all of it kept is clean

    def test_noise_has_its_ratio_and_one_clip_serves_all_levels(
        self, recordings: Manifest, noises: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heard: list[NDArray[np.float32]] = []

        def listen(x: NDArray[np.float32], config: FeatureConfig) -> NDArray[np.float32]:
            heard.append(x)
            return featurise(x, config)

        monkeypatch.setattr(robustness, "featurise", listen)
        levels = (-5, 10, 30)
        sweep(
            {"m": scorer()},
            recordings,
            [CLEAN, *(Condition("noise", "Rain", s) for s in levels)],
            noises=noises,
        )
        for clean, *noisy in np.reshape(np.array(heard, dtype=object), (5, 4)):
            added = [(x - clean).astype(np.float64) for x in noisy]
            for snr_db, noise in zip(levels, added, strict=True):
                ratio = float(clean.astype(np.float64) @ clean / (noise @ noise))
                assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.01)
            shapes = [noise / np.sqrt(noise @ noise) for noise in added]
            assert shapes[0] @ shapes[1] > 0.9999

    def test_recordings_draw_different_clips(
        self, recordings: Manifest, noises: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: list[Path] = []

        def listen(path: Path, sample_rate_hz: int) -> NDArray[np.float32]:
            drawn.append(path)
            return read(path, sample_rate_hz=sample_rate_hz).samples

        monkeypatch.setattr(robustness, "_read_noise", listen)
        conditions = [Condition("noise", "Rain", s) for s in (0, 10)]
        sweep({"m": scorer()}, recordings, conditions, noises=noises)
        assert len(drawn) == 5 and len(set(drawn)) >= 3

    def test_same_seed_same_numbers_and_another_seed_others(self, recordings: Manifest, noises: Any) -> None:
        random = [
            c
            for c in EVERY_KIND
            if c.kind in ("noise", "reverberation") or (c.kind == "length" and c.level < 100)
        ]
        one, again, other = (
            sweep({"m": scorer()}, recordings, random, noises=noises, seed=seed).logits["m"]
            for seed in (3, 3, 4)
        )
        assert np.array_equal(one, again)
        assert (one != other).any(axis=(1, 2)).all()

    def test_order_of_recordings_conditions_and_company_do_not_matter(
        self, recordings: Manifest, noises: Any
    ) -> None:
        models = {"a": scorer(), "b": scorer(weight=-2.0), "wide": scorer(LOGMEL)}
        whole = sweep(models, recordings, EVERY_KIND, noises=noises)
        order = np.array([3, 0, 4, 1, 2])
        shuffled = sweep(models, recordings.select(order), EVERY_KIND[::-1], noises=noises)
        for name in models:
            assert np.array_equal(shuffled.logits[name][::-1], whole.logits[name][:, order])
        # Alone, a model of 8 kHz hears recordings that were perturbed at 8 kHz.
        pair = sweep({"a": models["a"], "b": models["b"]}, recordings, EVERY_KIND, noises=noises)
        for name in pair.logits:
            alone = sweep({name: models[name]}, recordings, EVERY_KIND, noises=noises)
            assert np.array_equal(alone.logits[name], pair.logits[name])
        assert np.array_equal(whole.logits["b"][..., 0], whole.logits["a"][..., 0])

    def test_models_of_other_rates_hear_the_same_sound(self, recordings: Manifest) -> None:
        kept: dict[int, NDArray[np.float32]] = {}

        def keep(rate_hz: int, features: NDArray[np.float32]) -> NDArray[np.float32]:
            kept[rate_hz] = features
            return np.zeros(2, np.float32)

        narrow = LOGMEL.vary(sample_rate_hz=8000, f_max_hz=3500.0, n_bands=20)
        wide = narrow.vary(sample_rate_hz=16_000)
        models = {
            "8": replace(scorer(narrow), score=partial(keep, 8000)),
            "16": replace(scorer(wide), score=partial(keep, 16_000)),
        }
        for condition in (CLEAN, Condition("noise", "gaussian", 10), Condition("reverberation", level=0.3)):
            sweep(models, recordings, [condition], rows=[1])
            # Power is per sample, and half the rate has half the samples in a window.
            difference = kept[16_000] - kept[8000] - np.log(4)
            assert np.abs(difference[:, 2:-2]).max() < 0.05, condition

    def test_in_processes_as_in_this_one(self, recordings: Manifest, noises: Any) -> None:
        one, two = (
            sweep({"m": scorer()}, recordings, EVERY_KIND, noises=noises, n_workers=n) for n in (1, 2)
        )
        assert np.array_equal(one.logits["m"], two.logits["m"])

    def test_progress_is_told(self, recordings: Manifest) -> None:
        told: list[int] = []
        sweep({"m": scorer()}, recordings, [CLEAN], on_recording=told.append)
        assert told == [1, 2, 3, 4, 5]

    def test_calibration_and_threshold_are_the_models_own(self, recordings: Manifest) -> None:
        calibrated = {"name": "temperature", "temperature": 4.0}
        models = {"raw": scorer(), "card": scorer(calibration=calibrated, threshold=0.9)}
        found = sweep(models, recordings, [CLEAN, Condition("gain", level=-40)])
        odds = found.logits["card"][..., 1] - found.logits["card"][..., 0]
        assert found.probabilities["raw"][..., 1] == pytest.approx(1 / (1 + np.exp(-odds)))
        assert found.probabilities["card"][..., 1] == pytest.approx(1 / (1 + np.exp(-odds / 4)))
        assert np.array_equal(found.decisions["raw"], odds > 0)
        assert np.array_equal(found.decisions["card"], found.probabilities["card"][..., 1] >= 0.9)


class TestLeftOut:
    @pytest.fixture()
    def damaged(self, recordings: Manifest, tmp_path: Path) -> Manifest:
        shutil.copytree(recordings.root, tmp_path / "copy")
        return replace(recordings, root=tmp_path / "copy")

    def test_a_recording_that_fails_once_is_left_out_everywhere_and_named(self, damaged: Manifest) -> None:
        write(damaged.file(0), np.zeros(8000))
        damaged.file(2).write_bytes(b"")
        damaged.file(4).unlink()
        found = sweep({"m": scorer()}, damaged, [CLEAN, Condition("noise", "gaussian", 5)])
        assert found.rows.tolist() == [1, 3] and found.logits["m"].shape == (2, 2, 2)
        assert list(found.excluded) == [0, 2, 4]
        assert "0.wav: noise gaussian 5 dB SNR: the recording is silent" in found.excluded[0]
        assert "2.wav: empty file" in found.excluded[2] and "4.wav: no such file" in found.excluded[4]
        assert sweep({"m": scorer()}, damaged, [CLEAN]).rows.tolist() == [0, 1, 3]

    def test_a_stretch_shorter_than_an_analysis_window_is_refused(self, damaged: Manifest) -> None:
        write(damaged.file(0), recording(0, 0.2))  # 10 % are 20 ms, a window 30 ms
        found = sweep({"m": scorer()}, damaged, [CLEAN, Condition("length", level=10)])
        assert list(found.excluded) == [0]
        assert (
            "length 10 % of the recording: 160 samples (0.020 s) are shorter than one window"
            in found.excluded[0]
        )

    def test_if_nothing_is_left_it_says_why(self, damaged: Manifest) -> None:
        for i in range(5):
            damaged.file(i).write_bytes(b"")
        with pytest.raises(
            ValueError, match=r"tiny: no recording can be scored; the first: .*0\.wav: empty file"
        ):
            sweep({"m": scorer()}, damaged, [CLEAN])


class TestRefused:
    def refused(self, message: str, manifest: Manifest, models: Any = None, **options: Any) -> None:
        conditions = options.pop("conditions", [CLEAN])
        with pytest.raises(ValueError, match=message) as raised:
            sweep({"m": scorer()} if models is None else models, manifest, conditions, **options)
        assert "\n" not in str(raised.value)

    def test_nothing_to_score_or_to_score_with(self, recordings: Manifest) -> None:
        self.refused("need a model and a condition, got 0 and 1", recordings, {})
        self.refused("need a model and a condition, got 1 and 0", recordings, conditions=[])
        self.refused("tiny: no recordings to score", recordings, rows=[])
        self.refused(r"rows must lie in 0\.\.4, each given once", recordings, rows=[1, 5])
        self.refused(r"rows must lie in 0\.\.4, each given once", recordings, rows=[1, 1])

    def test_models_of_other_classes(self, recordings: Manifest) -> None:
        models = {"a": scorer(), "b": scorer(class_names=("case", "control"))}
        self.refused(
            "same classes in the same order, got a: control, case; b: case, control", recordings, models
        )

    def test_a_condition_twice(self, recordings: Manifest) -> None:
        twice = [CLEAN, Condition("length", level=50), Condition("length", level=50.0)]
        self.refused("length 50 % of the recording: given twice", recordings, conditions=twice)

    def test_noise_that_is_not_in_the_pool(self, recordings: Manifest, noises: Any) -> None:
        conditions = [Condition("noise", "Dog barks", 5)]
        hint = "no noise 'Dog barks'; did you mean 'Dog bark'.*load_corpus"
        self.refused(hint, recordings, conditions=conditions, noises=noises)
        self.refused("choose from gaussian; noise_pool", recordings, conditions=conditions)

    def test_a_silent_clip_of_noise(self, recordings: Manifest, tmp_path: Path) -> None:
        write(tmp_path / "silent.wav", np.zeros(900))
        pool = {"Rain": [tmp_path / "silent.wav"]}
        message = r"silent\.wav: a silent clip cannot be mixed at an SNR; take it out of the noise pool"
        conditions = [Condition("noise", "Rain", 5)]
        self.refused(message, recordings, conditions=conditions, noises=pool)

    def test_where_no_model_hears_anything(self, recordings: Manifest) -> None:
        self.refused(
            "no model has a mel band there", recordings, conditions=[Condition("bands", "octave", 4000)]
        )
        self.refused(
            "the models hear up to 4000 Hz", recordings, conditions=[Condition("low_pass", level=4000)]
        )

    def test_a_codec_without_ffmpeg(self, recordings: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(ImportError, match=r"vagitus\[codecs\]"):
            sweep({"m": scorer()}, recordings, [Condition("codec", "opus", 24)])

    def test_scores_that_are_not_one_a_class(self, recordings: Manifest) -> None:
        model = scorer(class_names=("a", "b", "c"))
        with pytest.raises(RuntimeError, match=r"m: gave scores of shape \(2,\) for the classes a, b, c"):
            sweep({"m": model}, recordings, [CLEAN])


class TestJoin:
    def test_folds_together_are_the_whole(self, recordings: Manifest) -> None:
        conditions = [CLEAN, Condition("noise", "gaussian", 5)]
        folds = [sweep({"m": scorer()}, recordings, conditions, rows=rows) for rows in ([4, 1], [0, 3], [2])]
        whole, joined = sweep({"m": scorer()}, recordings, conditions), join(folds)
        assert joined.rows.tolist() == [0, 1, 2, 3, 4]
        for part in ("logits", "probabilities", "decisions"):
            assert np.array_equal(getattr(joined, part)["m"], getattr(whole, part)["m"])

    def test_what_does_not_fit(self, recordings: Manifest) -> None:
        one = sweep({"m": scorer()}, recordings, [CLEAN], rows=[0, 1])
        with pytest.raises(ValueError, match="row 1 is in two sweeps"):
            join([one, sweep({"m": scorer()}, recordings, [CLEAN], rows=[1, 2])])
        with pytest.raises(ValueError, match="differ in conditions, classes or models"):
            join([one, sweep({"n": scorer()}, recordings, [CLEAN], rows=[2])])
        with pytest.raises(ValueError, match="no sweeps"):
            join([])


def scored(values: dict[str, list[list[float]]], conditions: list[Condition]) -> Sweep:
    """A sweep of two classes with these probabilities of the second: model -> (n_conditions, n_recordings)."""
    p = {name: np.stack([1 - np.array(v), np.array(v)], axis=-1) for name, v in values.items()}
    n = next(iter(p.values())).shape[1]
    decisions = {name: (v[..., 1] >= 0.5).astype(np.int64) for name, v in p.items()}
    logits = {name: np.log(v) for name, v in p.items()}
    return Sweep(tuple(conditions), np.arange(n), CLASSES, logits, p, decisions, {})


class TestCurves:
    conditions: ClassVar = [CLEAN, *(Condition("noise", "gaussian", snr_db) for snr_db in (20, 0, 5))]
    labels = np.tile([0, 1], 30)
    groups = np.repeat(np.arange(20), 3)

    def made(self, **options: Any) -> list[Curve]:
        source = np.random.default_rng(0)
        harm = {"good": (2.0, 1.8, 0.4, 0.9), "bad": (1.5, 1.0, 0.0, 0.1)}
        values = {
            name: [
                (1 / (1 + np.exp(-gap * (self.labels - 0.5) - source.standard_normal(60)))).tolist()
                for gap in gaps
            ]
            for name, gaps in harm.items()
        }
        self.scores = scored(values, self.conditions)
        return curves(self.scores, self.labels, self.groups, n_resamples=300, **options)

    def test_levels_rise_and_each_point_is_the_metric_there(self) -> None:
        made = self.made()
        assert [(c.model, c.kind, c.levels) for c in made] == [
            ("good", "clean", (0,)),
            ("good", "noise", (0, 5, 20)),
            ("bad", "clean", (0,)),
            ("bad", "noise", (0, 5, 20)),
        ]
        for curve in made:
            for level, point in zip(curve.levels, curve.points, strict=True):
                index = self.conditions.index(
                    CLEAN if curve.kind == "clean" else Condition("noise", "gaussian", level)
                )
                expected = auroc(self.labels, self.scores.probabilities[curve.model][index, :, 1])
                assert point.estimate == pytest.approx(expected)
                assert point.low <= point.estimate <= point.high and point.n_units == 20
            estimates = [point.estimate for point in curve.points]
            assert curve.area.estimate == pytest.approx(area_under(curve.levels, estimates))

    def test_differences_are_paired(self) -> None:
        good, noisy, *others = self.made(baseline="good")
        assert good.baseline == noisy.baseline == "" and noisy.differences == ()
        for curve, reference in zip(others, (good, noisy), strict=True):
            assert curve.baseline == "good" and curve.area_difference is not None
            for i, difference in enumerate(curve.differences):
                apart = curve.points[i].estimate - reference.points[i].estimate
                assert difference.difference == pytest.approx(apart)
            apart = curve.area.estimate - reference.area.estimate
            assert curve.area_difference.difference == pytest.approx(apart)

    def test_a_copy_of_a_model_differs_by_exactly_nothing(self) -> None:
        self.made()
        twins = {"a": self.scores.probabilities["bad"][..., 1].tolist()}
        twins["b"] = twins["a"]
        made = curves(scored(twins, self.conditions), self.labels, self.groups, n_resamples=200, baseline="a")
        for curve in made[2:]:
            assert curve.points == made[made.index(curve) - 2].points  # the same resamples
            assert {(d.difference, d.low, d.high, d.p) for d in curve.differences} == {(0, 0, 0, 1)}

    def test_the_metric_is_of_decisions_too(self) -> None:
        (curve,) = [c for c in self.made(metric="uar") if (c.model, c.kind) == ("bad", "clean")]
        decisions = self.scores.decisions["bad"][0]
        recalls = [(decisions[self.labels == k] == k).mean() for k in (0, 1)]
        assert curve.points[0].estimate == pytest.approx(np.mean(recalls))

    def test_the_mean_over_classes_of_noise_has_an_interval_of_its_own(self) -> None:
        self.made()
        names = ("gaussian", "Rain", "Dog bark", "Siren")
        conditions = [Condition("noise", name, snr_db) for name in names for snr_db in (10, 0)]
        rng = np.random.default_rng(3)
        p = (0.3 * self.labels + 0.7 * rng.random((len(conditions), 60))).tolist()
        *own, mean = curves(scored({"m": p}, conditions), self.labels, self.groups, n_resamples=300)
        assert [curve.name for curve in own] == list(names) and mean.name == MEAN_CLASS
        assert mean.levels == (0, 10)
        for point, *of_classes in zip(mean.points, *(curve.points for curve in own[1:]), strict=True):
            assert point.estimate == pytest.approx(np.mean([one.estimate for one in of_classes]))
            # Independent errors cancel: the mean is known better than any one.
            assert point.high - point.low < min(one.high - one.low for one in of_classes)

    def test_no_mean_of_one_class_or_of_classes_at_other_levels(self) -> None:
        self.made()
        for snrs_db in ([("Rain", 0), ("gaussian", 0)], [("Rain", 0), ("Siren", 5)]):
            conditions = [Condition("noise", *at) for at in snrs_db]
            p = np.random.default_rng(0).random((2, 60)).tolist()
            made = curves(scored({"m": p}, conditions), self.labels, self.groups, n_resamples=20)
            assert [curve.name for curve in made] == [name for name, _ in snrs_db]

    def seeds(self, n: int) -> list[Sweep]:
        conditions = [Condition("noise", name, snr_db) for name in ("Rain", "Siren") for snr_db in (20, 5, 0)]
        rng = np.random.default_rng(7)
        gaps = {"a": 0.3, "b": 0.2}
        return [
            scored(
                {
                    name: (gap * self.labels + 0.7 * rng.random((len(conditions), 60))).tolist()
                    for name, gap in gaps.items()
                },
                conditions,
            )
            for _ in range(n)
        ]

    def test_intervals_are_over_seeds_and_subjects(self) -> None:
        sweeps = self.seeds(3)
        made = curves(sweeps, self.labels, self.groups, metric="uar", baseline="b", n_resamples=200)
        (rain,) = (c for c in made if (c.model, c.name) == ("a", "Rain"))
        (mean,) = (c for c in made if (c.model, c.name) == ("a", MEAN_CLASS))

        def uar_of(sweep: Sweep, model: str, i: int) -> Statistic:
            return statistic("uar", self.labels, sweep.probabilities[model][i], sweep.decisions[model][i])

        def area_of(sweep: Sweep, model: str) -> Statistic:
            def area(weights: NDArray[np.float64]) -> NDArray[np.float64]:
                at = [uar_of(sweep, model, i)(weights) for i in range(6)]  # 20, 5, 0 dB of rain, of a siren
                high, middle, low = ((at[i] + at[i + 3]) / 2 for i in range(3))
                found: NDArray[np.float64] = (15 * (high + middle) / 2 + 5 * (middle + low) / 2) / 20
                return found

            return area

        point = [uar_of(sweep, "a", 2) for sweep in sweeps]  # 0 dB
        expected = subject_bootstrap(point, self.groups, rng=np.random.default_rng(0), n_resamples=200)
        assert rain.points[0] == expected
        assert expected.estimate == pytest.approx(np.mean([one(np.ones((1, 60)))[0] for one in point]))
        areas = {model: [area_of(sweep, model) for sweep in sweeps] for model in ("a", "b")}
        found, rng = mean.area_difference, np.random.default_rng(0)
        compared = paired_bootstrap(areas["a"], areas["b"], self.groups, rng=rng, n_resamples=200)
        assert found is not None
        assert (found.difference, found.low, found.high, found.p) == pytest.approx(
            (compared.difference, compared.low, compared.high, compared.p)
        )
        alone = curves(sweeps[:1], self.labels, self.groups, metric="uar", n_resamples=200)
        assert alone == curves(sweeps[0], self.labels, self.groups, metric="uar", n_resamples=200)

    def test_answers_are_remembered_block_by_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vagitus.statistics.BLOCK_VALUES", 60 * 37)  # 37 resamples at once
        options: dict[str, Any] = {"baseline": "b", "n_resamples": 200}
        made = curves(self.seeds(2), self.labels, self.groups, **options)
        monkeypatch.setattr(robustness, "_once", lambda function: function)
        assert made == curves(self.seeds(2), self.labels, self.groups, **options)

    def test_seeds_of_other_rows_or_none_are_refused(self) -> None:
        first, second = self.seeds(2)
        with pytest.raises(ValueError, match="must be of the same rows"):
            curves([first, replace(second, rows=second.rows + 1)], self.labels, self.groups)
        with pytest.raises(ValueError, match="sweeps differ in conditions, classes or models"):
            curves([first, replace(second, class_names=("other", "names"))], self.labels, self.groups)
        with pytest.raises(ValueError, match="no sweeps; give at least one"):
            curves([], self.labels, self.groups)

    def test_refused(self) -> None:
        self.made()
        given: list[tuple[dict[str, Any], str]] = [
            ({"metric": "auc"}, "no metric 'auc'"),
            ({"metric": "ece"}, "use brier or log_loss"),
            ({"baseline": "goood"}, "no model 'goood'; did you mean 'good'"),
        ]
        for options, message in given:
            with pytest.raises(ValueError, match=message):
                curves(self.scores, self.labels, self.groups, **options)
        with pytest.raises(ValueError, match=r"one value per scored recording, 60, got \(59,\)"):
            curves(self.scores, self.labels[1:], self.groups)


class TestAreaUnder:
    def test_by_hand(self) -> None:
        # (5 * .7 + 15 * .85) / 20
        assert area_under([0, 5, 20], [0.6, 0.8, 0.9]) == pytest.approx(0.8125)
        assert area_under([-3, 4, 50, 51], [0.7] * 4) == pytest.approx(0.7)
        assert area_under([7], [0.4]) == 0.4
        assert math.isnan(area_under([1, 2], [0.4, math.nan]))

    def test_refused(self) -> None:
        for levels in ([5, 5], [5, 2], []):
            with pytest.raises(ValueError, match="levels must be"):
                area_under(levels, [0.5] * len(levels))
        with pytest.raises(ValueError, match=r"values must be \(2,\)"):
            area_under([1, 2], [0.5])


class TestLines:
    def test_one_a_point_and_one_a_curve_in_plain_json(self) -> None:
        test = TestCurves()
        made = test.made(baseline="good")
        lines = robustness_lines(made)
        json.dumps(lines, allow_nan=False)
        assert [line["kind"] for line in lines].count("robustness") == 8
        line = next(x for x in lines if x["model"] == "bad" and x.get("level") == 5)
        point, difference = made[3].points[1], made[3].differences[1]
        assert line == {
            "kind": "robustness",
            "model": "bad",
            "condition": "noise",
            "name": "gaussian",
            "unit": "dB SNR",
            "metric": "auroc",
            "n_recordings": 60,
            "n_subjects": 20,
            "level": 5,
            "estimate": point.estimate,
            "low": point.low,
            "high": point.high,
            "baseline": "good",
            "difference": difference.difference,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "p": difference.p,
        }
        area = lines[-1]
        assert (area["kind"], area["from_level"], area["to_level"], area["n_levels"]) == (
            "robustness_area",
            0,
            20,
            3,
        )
        smallest = min(x["p"] for x in lines if x["kind"] == "robustness_area" and "p" in x)
        assert area["p"] == smallest and area["p_holm"] == pytest.approx(2 * smallest)

    def test_unknown_is_null(self) -> None:
        # One subject has no interval.
        made = curves(scored({"m": [[0.2, 0.7, 0.6]]}, [CLEAN]), [0, 1, 0], ["s"] * 3, n_resamples=20)
        line = robustness_lines(made)[0]
        assert (line["low"], line["high"]) == (None, None) and line["estimate"] == 1.0


class TestNetwork:
    def network(self, config: FeatureConfig, seed: int = 0) -> Any:
        import torch

        from vagitus.checkpoint import ModelCard
        from vagitus.models import build_model

        torch.manual_seed(seed)
        options = {"n_mels": config.n_rows, "n_classes": 2, "width": 5}
        return build_model("res8", **options).eval(), ModelCard("res8", options, config, 0.5, CLASSES)

    def test_clean_is_score_recordings_on_plain_features(self, recordings: Manifest) -> None:
        from vagitus.training import score_recordings

        model, card = self.network(MFCC)
        found = sweep({"m": (model, card)}, recordings, [CLEAN, Condition("length", level=100)])
        stretches = [(recordings.file(i), *recordings.stretch(i)) for i in range(5)]
        features = [featurise_file(path, MFCC, start_s=a, end_s=b) for path, a, b in stretches]
        expected = score_recordings(model, features, window_frames=50)
        assert np.array_equal(found.logits["m"], np.stack([expected, expected]))

    def test_a_card_is_read_as_evaluate_reads_it(self) -> None:
        model, card = self.network(MFCC)
        made = torch_scorer(
            model, replace(card, threshold=0.3, calibration={"name": "temperature", "temperature": 2})
        )
        assert (made.threshold, made.calibration["temperature"], made.class_names) == (0.3, 2, CLASSES)

    @pytest.mark.real
    def test_real_cries_in_real_noise(self, data_root: Path) -> None:
        cries = load_corpus("donateacry", root=data_root).labelled()
        class_names = cries.class_names
        cries = cries.select(np.arange(0, len(cries), len(cries) // 3)[:4])
        pool = noise_pool(load_corpus("esc", root=data_root))
        assert len(pool) >= 9 and not any("cry" in name.lower() for name in pool)
        assert min(map(len, pool.values())) >= 20
        conditions = [
            CLEAN,
            *(Condition("noise", name, snr_db) for name in pool for snr_db in (0, 20)),
            Condition("codec", "amr_nb", 4.75),
            Condition("length", level=10),
            Condition("bands", "half_octave", 500),
        ]
        models: dict[str, Any] = {}
        for name, config in (("one", MFCC), ("other", MFCC), ("wide", LOGMEL)):
            model, card = self.network(config, seed=len(models))
            models[name] = (model, replace(card, class_names=class_names, window_s=3.0))
        found = sweep(models, cries, conditions, noises=pool)
        assert found.rows.tolist() == [0, 1, 2, 3] and found.logits["one"].shape == (len(conditions), 4, 2)

        from vagitus.training import score_recordings

        for name, (model, card) in models.items():
            plain = [featurise_file(cries.file(i), card.features) for i in range(4)]
            assert np.array_equal(found.logits[name][0], score_recordings(model, plain, window_frames=300))
        few = conditions[:4] + conditions[-3:]
        whole = sweep({name: models[name] for name in ("one", "other")}, cries, few, noises=pool)
        backwards = sweep({"other": models["other"]}, cries.select([3, 2, 1, 0]), few, noises=pool)
        assert np.array_equal(backwards.logits["other"][:, ::-1], whole.logits["other"])
        # The louder noise is further from the clean scores, over all classes of noise.
        away = np.abs(found.logits["one"] - found.logits["one"][0]).mean(axis=(1, 2))
        assert away[1:-3:2].mean() > 1.5 * away[2:-3:2].mean()
