"""The sweep of representations hears what it says, and every published line has its place in RESULTS.md."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import study_data

from vagitus.audio import read, resample
from vagitus.dataset import Dataset
from vagitus.encoders import open_encoder
from vagitus.features import featurise
from vagitus.robustness import CLEAN, Condition, perturbations
from vagitus.splits import Fold

ROOT = Path(__file__).parents[1]
RESULTS = [
    *sorted((ROOT / "recipes" / "results").glob("*.jsonl")),
    *sorted((ROOT / "benchmarks" / "results").glob("*.jsonl")),
]
WANTED = (
    CLEAN,
    Condition("noise", "gaussian", 5),
    Condition("length", "", 50),
    Condition("bands", "half_octave", 500),
)


def module(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "recipes"))


recipe = module("robustness_of_representations")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return study_data.dataset(tmp_path_factory.mktemp("clean"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_published_lines_have_a_section(path: Path) -> None:
    kind = json.loads(path.read_text().partition("\n")[0])["kind"]
    tables = module("tables")
    assert path.stem in tables.SIZES or kind in tables.SECTIONS


def test_each_recording_follows_under_all_conditions_with_its_own_label(
    clean: Dataset, tmp_path: Path
) -> None:
    name = f"onnx:{study_data.encoder(tmp_path / 'encoder.onnx')}"
    made, rows, left_out = recipe.enlarged(clean, WANTED, {}, name, tmp_path / "work", 1)
    assert rows.tolist() == list(range(0, len(clean), recipe.EVERY)) and left_out == 0
    assert len(made) == len(clean) + len(rows) * len(WANTED)
    encoder = open_encoder(name)
    for place, row in enumerate(rows.tolist()):
        first = len(clean) + place * len(WANTED)
        at = slice(first, first + len(WANTED))
        assert set(made.labels[at]) == {clean.labels[row]} and set(made.groups[at]) == {clean.groups[row]}
        for table, own in made.tables.items():
            np.testing.assert_array_equal(own[row], clean.tables[table][row])
            np.testing.assert_array_equal(own[first], clean.tables[table][row])
            assert own[first + 2].shape[1] < 0.6 * own[first].shape[1]
        # Another route: perturbed by hand, at the recording's own rate, which is the encoder's.
        path = clean.manifest.file(row)
        sound = read(path)
        assert sound.sample_rate_hz == encoder.sample_rate_hz
        config = clean.tables["study"].config
        by_hand = perturbations(WANTED[1:3], {}, path.name, sound.sample_rate_hz, 0)
        for k, (_, perturb) in enumerate(by_hand, start=1):
            worse = perturb(sound.samples)
            np.testing.assert_array_equal(made.embeddings[first + k], encoder.embed(worse))
            heard = featurise(resample(worse, sound.sample_rate_hz, config.sample_rate_hz), config)
            np.testing.assert_array_equal(made.tables["study"][first + k], heard)
        # Without a band there is less power.
        assert made.embeddings[first + 3, 1] < made.embeddings[first, 1]
    again, _, _ = recipe.enlarged(clean, WANTED, {}, name, tmp_path / "work", 1)
    np.testing.assert_array_equal(again.embeddings, made.embeddings)


def test_a_narrow_band_is_gone_from_what_an_encoder_hears(tmp_path: Path) -> None:
    import soundfile

    path = tmp_path / "tones.wav"
    t = np.arange(16000) / 8000
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * 74 * t), 8000)
    name = f"onnx:{study_data.encoder(tmp_path / 'encoder.onnx')}"
    found = recipe.embed_under((CLEAN, Condition("bands", "half_octave", 62.5)), {}, name, (path, 0.0, None))
    assert isinstance(found, np.ndarray)
    level_db = 10 / np.log(10) * (found[1, 1] - found[0, 1])
    assert level_db < -20  # but for the recording's two ends, where a filter begins


def test_other_noise_or_recordings_are_kept_elsewhere(clean: Dataset, tmp_path: Path) -> None:
    noise = tmp_path / "a.wav"
    noise.write_bytes(b"one")
    key = recipe.key_of(clean, WANTED, {"Rain": [noise]})
    assert key == recipe.key_of(clean, WANTED, {"Rain": [noise]})
    assert key != recipe.key_of(clean, WANTED[:2], {"Rain": [noise]})
    noise.write_bytes(b"two")
    assert key != recipe.key_of(clean, WANTED, {"Rain": [noise]})


def test_a_variant_is_compared_with_what_it_is_set_beside() -> None:
    variants = module("transfer_variants")
    p = np.array([0.2, 0.9, 0.4, 0.6, 0.7, 0.8])
    labels = np.array([0, 1, 0, 1, 0, 1])
    one = {"labels": labels, "groups": np.arange(6), "probabilities": np.stack([1 - p, p], 1)}
    base = one | {"decisions": np.array([0, 1, 0, 1, 1, 1])}
    # The third positive falls below every negative: five of nine pairs are in order, where eight were.
    worse = np.array([0.2, 0.9, 0.4, 0.6, 0.7, 0.1])
    changed = base | {
        "probabilities": np.stack([1 - worse, worse], 1),
        "decisions": np.array([0, 1, 0, 1, 1, 0]),
    }
    scored = {"base": base, "worse": changed, "copy": base}
    line = variants.compare("worse", variants.Variant("words", "base"), scored)
    found = {metric: (line[metric]["estimate"], line[metric]["difference"]) for metric in ("auroc", "uar")}
    assert found["auroc"] == pytest.approx((5 / 9, -3 / 9))
    assert found["uar"] == pytest.approx((2 / 3, -1 / 6))
    same = variants.compare("copy", variants.Variant("words", "base"), scored)
    assert {same["auroc"][key] for key in ("difference", "difference_low", "difference_high")} == {0}
    assert "difference" not in variants.compare("base", variants.Variant("scratch", "base"), scored)["auroc"]


def test_the_test_side_of_a_fold_under_every_condition() -> None:
    train, dev, test = np.array([0, 1]), np.array([2]), np.array([3, 4, 8])
    fold = Fold("repeat1-fold2", train, dev, test)
    own, changed = recipe.for_testing(fold, np.array([0, 4, 8]), 10, 3)
    assert own.tolist() == [4, 8]
    assert changed.test.tolist() == [13, 14, 15, 16, 17, 18]
    assert (changed.name, changed.train is train, changed.dev is dev) == (fold.name, True, True)


@pytest.mark.parametrize(("n_resamples", "says"), [(159, "no p adjusted"), (160, "A star")])
def test_a_star_is_announced_where_one_can_be(n_resamples: int, says: str) -> None:
    lines = [{"n_resamples": n_resamples}, *({"p_holm": 1.0} for _ in range(4)), {"p_holm": None}, {}]
    assert says in module("tables").starred(lines)


def test_a_row_of_a_curve_by_hand() -> None:
    area: dict[str, Any] = {
        "kind": "robustness_area",
        "condition": "low_pass",
        "name": "",
        "unit": "Hz, upper edge",
    }
    area |= {"from_level": 500.0, "to_level": 3000.0, "estimate": 0.7123, "low": 0.6, "high": 0.8}
    compared = {"difference": 0.05, "difference_low": 0.01, "difference_high": 0.09, "p_holm": 0.05}
    lines = [
        {"ways": ["scratch", "words", "simclr"]},
        area | {"model": "words", **compared},
        area | {"model": "simclr", **compared, "p_holm": 0.049},
        area | {"model": "scratch"},
        {"kind": "robustness", "condition": "low_pass", "name": "", "model": "words"},
    ]
    header, _, row = module("robustness_table").curves_table(lines)
    assert header[1:] == ["scratch", "words", "simclr"]
    assert row == [
        "highs removed, 500 to 3000 Hz, upper edge",
        "0.712 [0.600, 0.800]",
        "0.712 [0.600, 0.800] (**+0.050 [+0.010, +0.090]**)",
        "0.712 [0.600, 0.800] (**+0.050 [+0.010, +0.090]**) *",
    ]
