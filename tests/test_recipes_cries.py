"""The recipes on cries: which pairs are trials, what a network learns from, what is heard between cries, the tables."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vagitus.segment import Event

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe(name: str) -> ModuleType:
    sys.path.insert(0, str(RECIPES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(RECIPES))


def some_cries() -> Any:
    """Phone p has a girl, twice, a day and an hour apart, the girl older, and a boy; phone q has one girl."""
    module = recipe("infant_verification")
    infants = ["p, girl, 0-4 weeks"] * 3 + ["p, girl, 4-8 weeks", "p, boy, 0-4 weeks", "q, girl, 0-4 weeks"]
    rows = [name.split(", ") for name in infants]
    return module, module.Cries(
        features=[np.zeros((40, 50), np.float32) for _ in rows],
        expirations=[[(0.1, 0.3)] for _ in rows],
        paths=[Path(str(i)) for i in range(6)],
        infant=np.array(infants),
        uuid=np.array([row[0] for row in rows]),
        gender=np.array([row[1] for row in rows]),
        site=np.array(["ios"] * 5 + ["android"]),
        recorded_s=np.array([0.0, 60.0, 90_000.0, 200_000.0, 0.0, 0.0]),
        fold=np.zeros(6, np.int64),
    )


def test_who_may_be_the_same_infant_older_is_in_no_trial() -> None:
    module, cries = some_cries()
    i, j = np.triu_indices(6, 1)
    found = {
        name: {(a, b): int(y) for a, b, m, y in zip(i.tolist(), j.tolist(), mask, labels, strict=True) if m}
        for name, (mask, labels) in module.conditions(cries, i, j).items()
    }
    strangers = {(a, 5): 0 for a in range(5)}
    assert found["all"] == {(0, 1): 1, (0, 2): 1, (1, 2): 1, **strangers}
    assert found["a day or more apart"] == {(0, 2): 1, (1, 2): 1, **strangers}
    assert found["same session"] == {(0, 1): 1, **strangers}
    assert found["a day or more apart, same platform"] == {(0, 2): 1, (1, 2): 1}
    # The boy of the same phone against each of the girl's recordings, the older one's too.
    assert found["same phone"] == {(0, 2): 1, (1, 2): 1, **{(a, 4): 0 for a in range(4)}}


def test_all_infants_of_a_fold_are_those_a_probe_is_looked_for_among() -> None:
    module, cries = some_cries()
    i, j = np.triu_indices(6, 1)
    scores = np.random.default_rng(0).standard_normal(len(i))
    (line,) = (
        line
        for line in module.lines_of("fused", [module.Scored(i, j, scores, scores)], cries)
        if line["kind"] == "identification"
    )
    assert (line["n_probes"], line["mean_infants"]) == (1, 4.0)


def test_the_control_does_not_hear_the_cries() -> None:
    module, cries = some_cries()
    rng = np.random.default_rng(0)
    quiet = [rng.standard_normal((40, 100)).astype(np.float32) for _ in range(6)]
    louder = []
    for features in quiet:
        changed = features.copy()
        changed[:, 10:30] += rng.uniform(5, 9, (40, 1)).astype(np.float32)  # from .1 to .3 s
        louder.append(changed)
    without, with_cries = (module.background(cries._replace(features=f)) for f in (quiet, louder))
    np.testing.assert_array_equal(without, with_cries)


def test_crops_of_an_infant_come_from_different_recordings() -> None:
    module, _ = some_cries()
    features = [np.full((40, 300), i, np.float32) for i in range(4)]
    batch = next(module.Crops(features, ["a", "a", "b", "b"], seed=0, n_classes=2)(0))
    assert batch.x.shape == (2, 2, 40, 200)
    # Masks and the level drawn for a crop move it as a whole by about one: only its recording is told by the spread.
    assert sorted(batch.y.tolist()) == [0, 1]
    again = next(module.Crops(features, ["a", "a", "b", "b"], seed=0, n_classes=2)(0))
    assert bool((batch.x == again.x).all())


def test_what_a_detector_learns_from_is_crying_throughout_or_not_at_all() -> None:
    module = recipe("cry_detector")
    rng = np.random.default_rng(0)
    samples = (30 * rng.standard_normal(6 * 8_000)).astype(np.int16)
    samples[8_000:24_000] = (6_000 * np.sin(np.arange(16_000) * 2 * np.pi * 450 / 8_000)).astype(np.int16)
    made = module.Recording(
        Path("a.caf"),
        "donateacry",
        "u",
        3,
        "usable",
        (Event(1.0, 1.9, "e"), Event(2.1, 3.0, "e")),
        samples,
        "",
    )
    cry, *quiet = module.stretches([made])
    assert (cry.is_cry, cry.group, cry.fold, cry.features.shape[1]) == (True, "donateacry", 3, 200)
    assert [(s.is_cry, s.group, s.fold) for s in quiet] == [(False, "background", 3)] * 2
    assert sum(s.features.shape[1] for s in quiet) <= 601 - 200 - 60  # nor what is near the bout
    assert module.stretches([made.__class__(**{**vars(made), "label": "rejected"})]) == []


def test_synthetic_alarms_are_the_same_every_time_and_in_every_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    module = recipe("cry_detector")
    monkeypatch.setattr(module, "N_ALARMS", 10)
    first, again = module.alarms(), module.alarms()
    assert {r.fold for r in first} == set(range(5)) and len({r.source for r in first}) == len(first)
    np.testing.assert_array_equal(first[7].samples, again[7].samples)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cry-detector", "cry_detector"), ("infant-verification", "infant_verification")],
)
def test_a_section_shows_every_arm_or_metric(name: str, kind: str) -> None:
    module = recipe("cry_tables")
    lines = module.lines_of(name)
    text = module.SECTIONS[kind](name)
    assert lines[0]["kind"] == kind and lines[0]["command"] in text
    for line in lines:
        if line["kind"] == "arm":
            assert f"`{line['arm']}`" in text
        if line["kind"] in ("metric", "false_alarms"):
            assert f"| {line['what']} |" in text
