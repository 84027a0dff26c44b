"""The speaker-verification recipe: sizes, crops, trials and resumption; it learns planted speakers."""

import importlib
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vagitus.files import locked
from vagitus.metrics import equal_error_rate

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def recipe() -> Any:
    sys.path.insert(0, str(RECIPES))
    try:
        return importlib.import_module("speaker_verification")
    finally:
        sys.path.remove(str(RECIPES))


def ramp(start: int, n_frames: int) -> NDArray[np.float32]:
    """Features whose every frame holds its own number."""
    return np.tile(np.arange(start, start + n_frames, dtype=np.float32), (40, 1))


def test_every_network_has_the_parameters_of_the_thesis(recipe: Any) -> None:
    for configuration, expected in recipe.THESIS_PARAMETERS.items():
        model = recipe.SpeakerEncoder(recipe.Configuration(*configuration), recipe.THESIS_HIDDEN)
        counts = recipe.count([model.recurrent, model.projection])
        assert (counts.total, counts.bias, counts.dense) == (expected, 3_072 + 256, 2_682_112), configuration


def test_crops_of_one_recording_do_not_overlap(recipe: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        crops = recipe.draw_crops({"": [ramp(0, 330)]}, 3, 100, rng)
        frames = np.concatenate([crop[0] for crop in crops])
        assert len(np.unique(frames)) == 300
        assert all((np.diff(crop[0]) == 1).all() for crop in crops)


def test_a_recording_too_short_for_that_gives_crops_at_even_places(recipe: Any) -> None:
    crops = recipe.draw_crops({"": [ramp(0, 160)]}, 4, 100, np.random.default_rng(0))
    assert [crop[0, 0] for crop in crops] == [0, 20, 40, 60]


def test_a_crop_of_words_stays_in_one_round_and_no_word_comes_twice(recipe: Any) -> None:
    first, second = ([ramp(1000 * r + 30 * w, 30) for w in range(8)] for r in (0, 1))
    for seed in range(20):
        crops = recipe.draw_crops({"01": first, "04": second}, 4, 100, np.random.default_rng(seed))
        assert [len(np.unique(crop[0] // 1000)) for crop in crops] == [1, 1, 1, 1]
        assert sum(crop[0, 0] < 1000 for crop in crops) == 2
        frames = np.concatenate([crop[0] for crop in crops])
        assert len(np.unique(frames)) == 400


def test_resampling_speakers_is_copying_them(recipe: Any) -> None:
    rng = np.random.default_rng(1)
    speaker = np.repeat(np.arange(4), (2, 3, 4, 3))
    pairs = np.array(list(itertools.combinations(range(12), 2)))
    speakers = speaker[pairs]
    scores = np.round(rng.normal(size=len(pairs)) + (speakers[:, 0] == speakers[:, 1]), 1)
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 3, 1, 0], [4, 0, 0, 0]], dtype=np.float64)

    def of_copies(weight: NDArray[np.float64]) -> float:
        labels, copied = [], []
        for (a, b), score in zip(speakers, scores, strict=True):
            for copy_a, copy_b in itertools.product(range(int(weight[a])), range(int(weight[b]))):
                if a == b and copy_a != copy_b:
                    continue  # two copies of one person never meet
                labels.append(int(a == b))
                copied.append(score)
        return equal_error_rate(labels, copied)

    found = recipe.resampled_error(speakers, scores)(weights)
    np.testing.assert_allclose(found, [of_copies(weight) for weight in weights])
    assert math.isnan(found[3])  # one person has nobody to be taken for


def planted_speakers(n: int, seed: int, n_recordings: int = 1) -> list[dict[str, list[NDArray[np.float32]]]]:
    """Each is loud in bands of his own."""
    rng = np.random.default_rng(seed)
    speakers = []
    for _ in range(n):
        voice = 2 * rng.normal(size=(40, 1))
        recordings = [(voice + rng.normal(size=(40, 60))).astype(np.float32) for _ in range(n_recordings)]
        speakers.append({"01": recordings})
    return speakers


def test_it_learns_planted_speakers_and_its_line_is_json(recipe: Any) -> None:
    test = recipe.make_trials([speaker["01"] for speaker in planted_speakers(6, 9, n_recordings=4)])
    dev = {"dspspeech20": recipe.dev_trials(planted_speakers(6, 8))}
    train = {name: planted_speakers(8, seed) for seed, name in enumerate(recipe.TRAINING_CORPORA)}
    data = recipe.Data(train, dev, test)
    options = recipe.Options(hidden=36, steps=30, epochs=2, n_speakers=8, n_crops=3, crop_frames=20)
    for configuration in (recipe.Configuration(0, 0), recipe.Configuration(2, 2)):
        line = recipe.run(configuration, 3, data, options)
        assert line["test_eer"]["estimate"] < 0.25  # .5 is chance
        assert (line["n_same"], line["n_different"]) == (6 * 6, 24 * 23 // 2 - 6 * 6)
        assert json.loads(json.dumps(line)) == line


def test_a_run_that_is_done_or_under_way_elsewhere_is_not_done_again(recipe: Any, tmp_path: Path) -> None:
    done: list[str] = []

    def job(name: str) -> Any:
        return lambda: done.append(name) or {"seconds": 0}  # type: ignore[func-returns-value]

    jobs = {name: job(name) for name in ("a", "b", "c")}
    recipe.run_missing(tmp_path, {"b": jobs["b"]})
    with locked(tmp_path / "locks" / "c", "another process"):
        recipe.run_missing(tmp_path, jobs)
    assert done == ["b", "a"]
    recipe.run_missing(tmp_path, jobs)
    assert done == ["b", "a", "c"]


def test_a_summary_is_the_mean_over_seeds_less_that_of_dense(recipe: Any) -> None:
    sizes = {"parameters": 50, "bias": 10, "dense_parameters": 200, "lr": 0.1, "cpu_seconds": 2.0}
    runs = [
        {"configuration": name, "n_cores": n_cores, "rank": n_cores, "seed": seed, "value": value} | sizes
        for name, n_cores, values in (("dense", 0, (0.1, 0.3)), ("2 cores, rank 2", 2, (0.4, 0.5)))
        for seed, value in enumerate(values)
    ]
    made = recipe.summaries(
        runs, lambda line: lambda weights: np.full(len(weights), line["value"]), "test_eer", np.arange(3)
    )
    assert [line["test_eer"]["estimate"] for line in made] == pytest.approx([0.2, 0.45])
    assert made[1]["difference_from_dense"]["difference"] == pytest.approx(0.25)
    assert "difference_from_dense" not in made[0]
    assert (
        recipe.table(made)
        .splitlines()[3]
        .startswith("| 2 cores, rank 2 | 50 (10) | 4 | 45.0 [40.0, 50.0] | +25.0 [")
    )


@pytest.mark.real
def test_no_test_speaker_is_heard_in_training_or_dev(recipe: Any, data_root: Path) -> None:
    paths: list[str] = []

    class Numbers:
        """In place of the features, the number of the recording."""

        def get_or_compute(self, path: Path, config: object) -> NDArray[np.float32]:
            paths.append(str(path))
            return np.full((40, 400), len(paths) - 1, np.float32)

    def heard(features: list[NDArray[np.float32]]) -> set[str]:
        return {paths[int(number)] for each in features for number in each[0]}

    data = recipe.load_data(data_root, Numbers())
    test = heard(data.test.utterances)
    assert len(test) == len(data.test.speaker) == 100
    assert all("test-other" in path for path in test)
    train = heard([f for speakers in data.train.values() for s in speakers for r in s.values() for f in r])
    dev = heard([utterance for trials in data.dev.values() for utterance in trials.utterances])
    assert not any("test-other" in path for path in train | dev)
    assert not train & dev
    assert {name: len(speakers) for name, speakers in data.train.items()} == {
        "train-clean-100": 221,
        "speech_commands": 18,
        "dspspeech20": 17,
    }
