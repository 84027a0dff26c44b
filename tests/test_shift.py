"""What tells sites apart: planted differences are found, named, and taken away by what equalises them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, kruskal

from vagitus.shift import (
    EQUALISED,
    Shift,
    _cramers_v,
    _kruskal_wallis,
    find_flips,
    heard_attributes,
    measure_shift,
    name_the_site,
    shift_section,
)

N_BANDS, N_FRAMES, FRAMES_PER_S = 8, 60, 50.0
Float32 = NDArray[np.float32]
Logmel = list[Float32]


def recordings(n: int, seed: int, change: Callable[[Float32], Float32] = lambda x: x) -> Logmel:
    """Bursts over a floor, each recording with its own tilt and level."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        level = -6 + 4 * (np.arange(N_FRAMES) % 20 < 8)
        own = 0.5 * rng.standard_normal() + 0.5 * rng.standard_normal() * np.linspace(-1, 1, N_BANDS)[:, None]
        x = level + own + 0.5 * rng.standard_normal((N_BANDS, N_FRAMES))
        made.append(change(x.astype(np.float32)))
    return made


def louder(x: Float32) -> Float32:
    return x + np.float32(6.0)


def coloured(x: Float32) -> Float32:
    return (x + 4.0 * np.cos(np.arange(N_BANDS))[:, None]).astype(np.float32)


def cut(x: Float32) -> Float32:
    x = x.copy()
    x[5:] = -23.0 + 0.1 * np.random.default_rng(len(x)).standard_normal((N_BANDS - 5, N_FRAMES))
    return x


def noisy(x: Float32) -> Float32:
    return np.logaddexp(x, np.float32(-3.0)).astype(np.float32)


SITES = np.repeat(["here", "there"], 40)
SUBJECTS = np.array([f"s{i // 2}" for i in range(80)])


def measured(change: Callable[[Float32], Float32], **more: Any) -> Shift:
    logmel = [*recordings(40, 0), *recordings(40, 1, change)]
    return measure_shift(logmel, FRAMES_PER_S, SITES, SUBJECTS, **more)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (louder, "gain"),
        (coloured, "channel (mean of every band)"),
        (cut, "band"),
        (noisy, "gain and noise floor"),
    ],
)
def test_what_was_planted_is_named_and_its_equaliser_takes_it_away(
    change: Callable[[Float32], Float32], what: str
) -> None:
    found = {row.what: row for row in measured(change).naming}
    assert list(found) == list(EQUALISED)
    assert found[""].uar.estimate > 0.9
    assert found[what].removed > 0.3
    # Taking the channel away takes the level along with it, and is no more than that here.
    rivals = [
        row.removed
        for name, row in found.items()
        if name != what and "channel" not in name and what != "gain"
    ]
    assert all(removed < 0.2 for removed in rivals)


def test_like_sites_cannot_be_told_apart() -> None:
    found = measured(lambda x: x)
    uar = found.naming[0].uar
    assert uar.low < 0.5 < uar.high + 0.1
    # Of next to nothing above guessing, a share taken away would be any number.
    assert all(row.removed == 0.0 for row in found.naming)
    sentences = shift_section(found)["sentences"]
    assert any("not told from guessing" in text for text in sentences)
    assert not any("takes away" in text for text in sentences)


def test_a_subject_is_not_heard_before_its_site_is_named() -> None:
    """Features that give the subject away, and with it nothing of the site."""
    rng = np.random.default_rng(0)
    voice = rng.standard_normal((20, 30))
    subjects = np.repeat(np.arange(20), 4).astype(str)
    sites = np.array(["a", "b"])[np.repeat(np.arange(20) % 2, 4)]
    x = np.repeat(voice, 4, axis=0) + 0.01 * rng.standard_normal((80, 30))
    assert name_the_site(x, sites, subjects).estimate < 0.75


def test_the_level_of_a_steady_sound_by_hand() -> None:
    # Eight bands of power e^-2 in every frame: 10 log10(8 e^-2) dB, no range, no tilt, no decay.
    found = heard_attributes([np.full((8, 30), -2.0, np.float32)], FRAMES_PER_S)
    assert found["level_db"][0] == pytest.approx(10 * math.log10(8 * math.exp(-2)))
    assert [found[name][0] for name in ("snr_db", "tilt_db", "decay_db_s")] == pytest.approx(
        [0, 0, 0], abs=1e-5
    )


def test_a_decay_is_read_in_db_a_second() -> None:
    t = np.arange(200) / FRAMES_PER_S
    falls = -5.0 * (t % 1.0)  # natural log of power: 5 a second are 21.7 dB a second
    found = heard_attributes([np.tile(falls, (4, 1)).astype(np.float32)], FRAMES_PER_S)
    assert found["decay_db_s"][0] == pytest.approx(50 / math.log(10), rel=0.1)


def test_kruskal_and_wallis_as_scipy_has_it() -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.standard_normal(60) + np.repeat([0.0, 0.4, 1.0], 20), 1)  # with ties
    sites = np.repeat(["a", "b", "c"], 20)
    effect, p = _kruskal_wallis(values, sites, np.arange(60).astype(str))
    h, expected = kruskal(*(values[sites == site] for site in "abc"))
    assert p == pytest.approx(expected)
    assert effect == pytest.approx((h - 3 + 1) / (60 - 3))


def test_a_subject_counts_once_however_often_it_was_recorded() -> None:
    values = np.array([1.0, 1.1, 0.9, 2.0, 3.0, 4.0, 5.0, 6.0])
    sites = np.array(["a"] * 5 + ["b"] * 3)
    subjects = np.array(["x", "x", "x", "y", "z", "u", "v", "w"])
    once = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    _, p = _kruskal_wallis(values, sites, subjects)
    assert p == pytest.approx(kruskal(once[:3], once[3:])[1])


def test_cramers_v_as_scipys_chi_squared() -> None:
    column, sites = (
        np.array(["f"] * 30 + ["m"] * 30),
        np.array((["a"] * 20 + ["b"] * 10) + (["a"] * 12 + ["b"] * 18)),
    )
    effect, p = _cramers_v(column, sites, np.arange(60).astype(str))
    value, expected, _, _ = chi2_contingency([[20, 10], [12, 18]], correction=False)
    assert p == pytest.approx(expected) and effect == pytest.approx(math.sqrt(value / 60))


def test_attributes_are_ordered_by_effect_and_the_label_is_one_of_them() -> None:
    labels = np.concatenate([np.arange(40) % 2, (np.arange(40) < 4).astype(int)])
    found = measured(
        louder,
        labels=labels,
        class_names=("no", "yes"),
        numbers={"duration_s": np.r_[np.arange(40.0), np.full(40, np.nan)], "age": np.arange(80.0) % 7},
        words={"sex": np.array(["f", "m"] * 40), "blank": np.full(80, "")},
    )
    by_name = {row.name: row for row in found.attributes}
    assert found.attributes[0].name == "level_db" and found.attributes[0].p < 1e-6
    assert by_name["label"].words == {"here": {"no": 0.5, "yes": 0.5}, "there": {"no": 0.9, "yes": 0.1}}
    assert by_name["sex"].p == pytest.approx(1.0)
    assert "duration_s" not in by_name and "blank" not in by_name  # known at one site, or nowhere
    effects = [row.effect for row in found.attributes]
    assert effects == sorted(effects, reverse=True)


def test_a_feature_that_turns_round_is_found_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    sites = np.repeat(["a", "b", "c"], 40)
    x = rng.standard_normal((120, 3))
    x[:, 0] += 3 * y
    x[:, 1] += 3 * y * np.repeat([1, -1, 0], 40)
    flips = find_flips(x, y, sites, ["steady", "turning", "nothing"])
    assert [(f.feature, f.site_up, f.site_down) for f in flips] == [("turning", "a", "b")]
    assert flips[0].auroc_up > 0.9 and flips[0].auroc_down < 0.1


def test_flips_of_the_two_classes_that_occur_out_of_three() -> None:
    labels = np.concatenate([np.arange(40) % 2, np.arange(40) % 2])
    up = np.concatenate([np.arange(40) % 2, 1 - np.arange(40) % 2]) + 0.0
    found = [
        measured(lambda x: x, labels=y, features=(up[:, None], ["turning"])).n_flipping
        for y in (labels, labels + 1)
    ]
    assert found == [1, 1]


def test_a_small_site_is_passed_over_and_said() -> None:
    logmel = recordings(12, 0)
    found = measure_shift(logmel, FRAMES_PER_S, ["a"] * 10 + ["b"] * 2, [f"s{i}" for i in range(12)])
    assert found.naming == () and any("naming the site" in text for text in found.skipped)
    assert any("flips: they need labels of two classes" in text for text in found.skipped)


def test_the_section_says_what_was_found_in_words() -> None:
    labels = np.concatenate([np.arange(40) % 2, np.arange(40) % 2])
    shift = measured(louder, labels=labels, class_names=("no", "yes"))
    section = shift_section(shift)
    assert "where guessing gives 0.500" in section["sentences"][0]
    assert section["naming"][0]["what"] == "nothing" and section["naming"][1]["what"] == "gain"
    assert section["attributes"][0]["name"] == "level" and section["attributes"][0]["unit"] == "dB"
    assert set(section["attributes"][0]["cells"]) == {"here", "there"}
    as_json = shift.to_json()
    assert as_json["n_recordings"] == {"here": 40, "there": 40} and len(as_json["naming"]) == len(EQUALISED)


@pytest.mark.parametrize(
    ("sites", "match"),
    [
        (["a"] * 4, "only one site, a"),
        (["a", "a", "b", ""], "1 recordings have no site"),
        (["a", "b"], "4 recordings, 2 sites"),
    ],
)
def test_bad_input_is_refused(sites: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        measure_shift(recordings(4, 0), FRAMES_PER_S, sites, list("wxyz"))
