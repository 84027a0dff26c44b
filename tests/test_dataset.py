import pickle
from pathlib import Path

import numpy as np
import pytest

from vagitus.dataset import FeatureTable, logmel_statistics, write_feature_table
from vagitus.features import PRESETS

CONFIG = PRESETS["mfcc40"]
RNG = np.random.default_rng(0)
ARRAYS = [RNG.normal(size=(CONFIG.n_rows, n)).astype(np.float32) for n in (7, 1, 12)]


@pytest.fixture
def table(tmp_path: Path) -> FeatureTable:
    return write_feature_table(tmp_path / "t.npy", CONFIG, [7, 1, 12], iter(ARRAYS))


def test_every_recording_comes_back_as_it_went_in(table: FeatureTable) -> None:
    assert len(table) == 3
    for i, array in enumerate(ARRAYS):
        assert np.array_equal(table[i], array)
    assert np.array_equal(table[-1], ARRAYS[2])
    assert [x.shape[1] for x in table.take([2, 0])] == [12, 7]
    with pytest.raises(IndexError, match="recording 3 of 3"):
        table[3]


def test_a_worker_gets_the_file_and_not_its_contents(table: FeatureTable) -> None:
    message = pickle.dumps(table)
    assert len(message) < table.path.stat().st_size / 2
    assert np.array_equal(pickle.loads(message)[2], ARRAYS[2])


def test_features_of_another_shape_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"features of shape \(40, 1\), expected \(40, 2\)"):
        write_feature_table(tmp_path / "t.npy", CONFIG, [7, 2, 12], iter(ARRAYS))
    assert list(tmp_path.iterdir()) == []


def test_statistics_by_hand() -> None:
    x = np.array([[0.0, 2.0, 1.0], [5.0, 5.0, 5.0]], np.float32)
    found = logmel_statistics([x]).reshape(6, 2)
    assert found[0].tolist() == [1, 5]  # mean
    np.testing.assert_allclose(found[1], [np.sqrt(2 / 3), 0], rtol=1e-6)  # standard deviation
    np.testing.assert_allclose(found[2:5, 0], [0.2, 1, 1.8], rtol=1e-6)  # 10th, 50th, 90th percentile
    assert found[5].tolist() == [1.5, 0]  # mean step: (2 + 1) / 2


def test_a_single_frame_has_no_steps() -> None:
    assert logmel_statistics([np.ones((2, 1), np.float32)])[0, -2:].tolist() == [0, 0]
