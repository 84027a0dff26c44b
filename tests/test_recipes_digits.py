"""The digits recipe: its parts, its error and a network that learns."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def recipe() -> Any:
    pytest.importorskip("sklearn")
    sys.path.insert(0, str(RECIPES))
    try:
        return importlib.import_module("digits")
    finally:
        sys.path.remove(str(RECIPES))


def test_the_file_is_cut_where_it_stands(recipe: Any) -> None:
    from sklearn.datasets import load_digits

    data = recipe.load_data()
    assert [len(part.y) for part in data] == [1_078, 360, 359]
    images = np.concatenate([part.x for part in data])
    np.testing.assert_array_equal(images, load_digits().images / 8 - 1)
    assert (images.min(), images.max()) == (-1, 1)


def test_error_is_the_weighted_share_of_wrong_images(recipe: Any) -> None:
    weights = np.array([[1.0, 1, 1, 1], [3.0, 0, 1, 2]])
    np.testing.assert_allclose(recipe.error(np.array([True, False, False, True]))(weights), [0.5, 5 / 6])


@pytest.mark.parametrize(
    ("n_cores", "rank", "parameters"), [(0, 0, 5_248), (2, 4, 4 * (16 + 64 + 32 + 128) + 128)]
)
def test_it_learns_and_its_line_is_json(recipe: Any, n_cores: int, rank: int, parameters: int) -> None:
    options = recipe.Options(hidden=32, epochs=4, lr=0.03)
    line = recipe.run(recipe.Configuration(n_cores, rank), 5, recipe.load_data(), options)
    assert line["test_error"]["estimate"] < 0.4  # .9 is chance
    assert (line["parameters"], line["bias"], line["dense_parameters"]) == (parameters, 128, 5_248)
    assert json.loads(json.dumps(line)) == line
