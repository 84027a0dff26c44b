"""The cycle-folded map, what is read off it, and what sites agree on."""

import math
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from vagitus.cycles import (
    HEART_PHASES,
    LEAST_CYCLES,
    PHASES,
    Consensus,
    find_events,
    fold,
    fold_recording,
    phase_features,
    site_aurocs,
    with_pauses,
    within_site_ranks,
)
from vagitus.features import PRESETS
from vagitus.segment import Event

TWO = {"on": 2, "off": 3}
FRAMES_PER_S = 10.0


def cycles_of(period_s: float, n: int, on_share: float = 0.4) -> list[Event]:
    events = []
    for k in range(n):
        start_s, middle_s = k * period_s, (k + on_share) * period_s
        events += [Event(start_s, middle_s, "on", 0.5), Event(middle_s, (k + 1) * period_s, "off", 0.7)]
    return events


def heart(
    rate_hz: int, seconds: float, period_s: float, murmur: float, gain: float = 1.0
) -> NDArray[np.float32]:
    """S1 and S2 as decaying tones, noise between them in systole of strength ``murmur``."""
    rng = np.random.default_rng(3)
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    x = 1e-3 * rng.standard_normal(len(t))
    for start_s in np.arange(0.1, seconds - period_s, period_s):
        for at_s, hz in ((start_s, 50.0), (start_s + 0.35 * period_s, 70.0)):
            since = t - at_s
            x += np.where(
                (since >= 0) & (since < 0.1), np.sin(2 * np.pi * hz * since) * np.exp(-30 * since), 0.0
            )
        inside = (t > start_s + 0.12) & (t < start_s + 0.33 * period_s)
        x[inside] += murmur * rng.standard_normal(int(inside.sum()))
    scaled: NDArray[np.float32] = (0.2 * gain * x / np.abs(x).max()).astype(np.float32)
    return scaled


def test_a_map_by_hand() -> None:
    # Frame t has the value t in band 0; cycles of 1 s, on 0 to .4, off .4 to 1. Bins of the first cycle lie at
    # .1, .3, .5, .7, .9 s, that is at frames 1, 3, 5, 7, 9; those of the second 10 later, of the third 20.
    logmel = np.stack([np.arange(40.0), np.zeros(40)]).astype(np.float32)
    folded = fold(logmel, cycles_of(1.0, 3), FRAMES_PER_S, TWO)
    assert folded is not None
    mean = 19.5  # of frames 0 to 39, which is removed
    assert folded.typical[0] == pytest.approx(np.array([1, 3, 5, 7, 9]) + 10 - mean)
    assert folded.spread[0] == pytest.approx(np.full(5, 10.0))
    assert folded.typical[1] == pytest.approx(np.zeros(5))
    assert folded.durations_s == pytest.approx(np.tile([0.4, 0.6], (3, 1)))
    assert folded.score == pytest.approx(0.6)


def test_the_rate_of_the_cycle_does_not_change_the_map() -> None:
    """The same course over a cycle, once slow and once fast."""

    def recording(period_s: float) -> NDArray[np.float32]:
        t = np.arange(400) / 40.0
        return np.stack([np.sin(2 * np.pi * t / period_s)] * 2).astype(np.float32)

    maps = [fold(recording(p), cycles_of(p, int(9 / p)), 40.0, {"on": 4, "off": 6}) for p in (1.0, 1.5)]
    assert maps[0] is not None and maps[1] is not None
    np.testing.assert_allclose(maps[0].typical, maps[1].typical, atol=0.05)


def test_a_channel_that_colours_the_whole_recording_leaves_no_trace() -> None:
    rng = np.random.default_rng(0)
    logmel = rng.standard_normal((3, 60)).astype(np.float32)
    events = cycles_of(1.0, 5)
    plain = fold(logmel, events, FRAMES_PER_S, TWO)
    channel = np.array([[4.0], [-2.0], [0.5]], np.float32)
    coloured = fold(logmel + channel, events, FRAMES_PER_S, TWO)
    assert plain is not None and coloured is not None
    np.testing.assert_allclose(plain.typical, coloured.typical, atol=1e-5)


def test_one_knock_does_not_move_the_median() -> None:
    logmel = np.zeros((1, 60), np.float32)
    logmel[0, 21:24] = 50.0
    folded = fold(logmel, cycles_of(1.0, 5), FRAMES_PER_S, {"on": 1, "off": 1})
    assert folded is not None
    assert np.ptp(folded.typical) == 0.0


@pytest.mark.parametrize("n", range(LEAST_CYCLES))
def test_without_whole_cycles_a_recording_is_marked(n: int) -> None:
    assert fold(np.zeros((2, 50), np.float32), cycles_of(1.0, n), FRAMES_PER_S, TWO) is None


def test_a_gap_or_a_missing_phase_makes_no_cycle() -> None:
    broken = [
        Event(0, 0.4, "on"),
        Event(1.4, 2, "off"),
        Event(2, 3, "on"),
        Event(3, 4, "on"),
        Event(4, 5, "off"),
    ]
    assert fold(np.zeros((2, 60), np.float32), broken, FRAMES_PER_S, TWO) is None


def test_pauses_are_named_where_they_are_short_enough() -> None:
    events = [Event(0, 1, "expiration"), Event(1.5, 2, "expiration"), Event(7, 8, "expiration")]
    found = with_pauses(events, 2.0)
    assert [(e.kind, e.start_s, e.end_s) for e in found] == [
        ("expiration", 0, 1),
        ("pause", 1, 1.5),
        ("expiration", 1.5, 2),
        ("expiration", 7, 8),
    ]


@pytest.mark.parametrize("period_s", [0.7, 0.9])
def test_a_synthetic_heart_is_folded_at_any_gain(period_s: float) -> None:
    config = PRESETS["heart"].vary(window_ms=48.0, hop_ms=8.0, n_fft=128)
    folds = [
        fold_recording(heart(2000, 8.0, period_s, murmur=0.0, gain=gain), config, "heart")
        for gain in (1.0, 0.25)
    ]
    assert folds[0] is not None and folds[1] is not None
    assert folds[0].typical.shape == (32, sum(HEART_PHASES.values()))
    np.testing.assert_allclose(folds[0].typical, folds[1].typical, atol=0.02)
    assert float(np.median(folds[0].durations_s.sum(axis=1))) == pytest.approx(period_s, rel=0.03)


def test_a_murmur_shows_as_systole_over_diastole() -> None:
    config = PRESETS["heart"].vary(window_ms=48.0, hop_ms=8.0, n_fft=128)
    found = {}
    for murmur in (0.0, 0.1):
        folded = fold_recording(heart(2000, 8.0, 0.8, murmur), config, "heart")
        assert folded is not None
        features = phase_features(folded, HEART_PHASES, n_groups=4)
        found[murmur] = dict(zip(features.names, features.values, strict=True))
    name = "diastole less systole, band group 3"
    assert found[0.1][name] < found[0.0][name] - 1.0


def test_noise_alone_has_no_heart_cycle() -> None:
    silence = np.zeros(16_000, np.float32)
    assert fold_recording(silence, PRESETS["heart"], "heart") is None


def test_cries_and_breaths_go_through_the_same_door() -> None:
    rate_hz = 8000
    t = np.arange(8 * rate_hz) / rate_hz
    voiced = sum(np.sin(2 * np.pi * 450 * k * t) / k for k in range(1, 6))
    cry = (0.3 * voiced * ((t % 1.2) < 0.8) + 1e-3 * np.random.default_rng(0).standard_normal(len(t))).astype(
        np.float32
    )
    config = PRESETS["mfcc40"].vary(kind="logmel", n_mfcc=None)
    folded = fold_recording(cry, config, "cry")
    assert folded is not None
    assert folded.typical.shape == (config.n_bands, sum(PHASES["cry"].values()))
    n_on = PHASES["cry"]["expiration"]
    assert folded.typical[:, 2 : n_on - 2].mean() > folded.typical[:, n_on + 1 : -1].mean() + 2
    assert {e.kind for e in find_events(cry, rate_hz, "breath")} <= {"breath", "pause"}


def test_phase_features_by_hand() -> None:
    logmel = np.stack([np.arange(40.0), np.zeros(40)]).astype(np.float32)
    folded = fold(logmel, cycles_of(1.0, 3), FRAMES_PER_S, TWO)
    assert folded is not None
    features = phase_features(folded, TWO, n_groups=2)
    found = dict(zip(features.names, features.values, strict=True))
    assert found["on, band group 0"] == pytest.approx(12 - 19.5)  # bins 11 and 13
    assert found["off, band group 0"] == pytest.approx(17 - 19.5)  # bins 15, 17, 19
    assert found["off less on, band group 0"] == pytest.approx(5.0)
    assert found["slope of on, band group 0"] == pytest.approx(2.0)
    assert found["slope of off, band group 0"] == pytest.approx(18 - 15)  # the later two less the first
    assert found["spread of on, band group 0"] == pytest.approx(10.0)
    assert found["off less on, band group 1"] == pytest.approx(0.0)
    assert found["share of on"] == pytest.approx(0.4)
    assert found["ln length"] == pytest.approx(0.0) and found["irregularity"] == pytest.approx(0.0)


def test_ranks_are_taken_within_a_site() -> None:
    x = np.array([[1.0], [3.0], [3.0], [100.0], [50.0]])
    ranks = within_site_ranks(x, ["a", "a", "a", "b", "b"])
    assert ranks[:, 0] == pytest.approx([0.5 / 3, 2 / 3, 2 / 3, 0.75, 0.25])


def planted(
    n: int, signs: tuple[int, ...], seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Feature 0 goes with the label everywhere, feature 1 by ``signs``, feature 2 nowhere."""
    rng = np.random.default_rng(seed)
    rows, labels, sites = [], [], []
    for k, sign in enumerate(signs):
        y = rng.integers(0, 2, n)
        x = rng.standard_normal((n, 3))
        x[:, 0] += 1.5 * y
        x[:, 1] += 2.5 * sign * y
        rows.append(3 * k + (k + 1) * x)  # every site with its own offset and scale
        labels.append(y)
        sites += [f"site{k}"] * n
    return np.concatenate(rows), np.concatenate(labels), sites


def test_site_aurocs_by_hand() -> None:
    x = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    aurocs, variances, kept = site_aurocs(x, [0, 0, 1, 0, 1, 1], ["s"] * 6)
    assert aurocs[0, 0] == pytest.approx(8 / 9)  # one of nine pairs is the wrong way round
    assert variances[0] == pytest.approx(7 / 108) and kept == ["s"]


def test_a_feature_counts_as_far_as_sites_agree() -> None:
    x, y, sites = planted(60, (1, -1, 1, -1))
    found = Consensus.fit(x, y, sites)
    assert found.weights[0] > 0.4
    assert abs(found.weights[1]) < 0.1 * found.weights[0]
    assert abs(found.weights[2]) < 0.1 * found.weights[0]
    agreed = Consensus.fit(*planted(60, (1, 1, 1, 1)))
    assert agreed.weights[1] > 0.6


def test_consensus_with_a_second_computation_of_dersimonian_and_laird() -> None:
    x, y, sites = planted(40, (1, -1, 1))
    aurocs, variances, _ = site_aurocs(x, y, sites)
    found = Consensus.fit(x, y, sites)
    for j in range(3):
        effects, v = [2 * a - 1 for a in aurocs[:, j]], [4 * value for value in variances]
        fixed = [1 / value for value in v]
        mean = sum(w * c for w, c in zip(fixed, effects, strict=True)) / sum(fixed)
        q = sum(w * (c - mean) ** 2 for w, c in zip(fixed, effects, strict=True))
        between = max(0.0, (q - 2) / (sum(fixed) - sum(w * w for w in fixed) / sum(fixed)))
        w = [1 / (value + between) for value in v]
        m, e2 = sum(a * b for a, b in zip(w, effects, strict=True)) / sum(w), 1 / sum(w)
        assert found.effects[j] == pytest.approx(m) and found.errors[j] == pytest.approx(math.sqrt(e2))
        assert found.weights[j] == pytest.approx(m * max(0.0, 1 - e2 / m**2))


def test_the_consensus_score_does_not_see_a_sites_scale_or_offset() -> None:
    x, y, sites = planted(50, (1, 1, 1))
    found = Consensus.fit(x, y, sites)
    target, target_y, _ = planted(80, (1,), seed=9)
    scores = found.score(target, ["t"] * 80)
    assert np.array_equal(scores, found.score(1000 + 7 * target, ["t"] * 80))
    assert scores[target_y == 1].mean() > scores[target_y == 0].mean()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: find_events(np.zeros(4000, np.float32), 2000, cast(Any, "voice")),
            "no cycle of 'voice'; choose from heart",
        ),
        (lambda: with_pauses([], 0.0), "longest_s must be above 0"),
        (lambda: with_pauses([Event(0, 2, "a"), Event(1, 3, "a")], 1.0), "events overlap at 2 s"),
        (lambda: fold(np.zeros(5, np.float32), [], 10.0, TWO), r"must be \(n_bands, n_frames\)"),
        (lambda: fold(np.zeros((2, 5), np.float32), [], 10.0, {"on": 0}), "every phase needs a bin"),
        (
            lambda: fold_recording(np.zeros(9000, np.float32), PRESETS["mfcc40"], "cry"),
            "got a front end of mfcc",
        ),
        (lambda: Consensus.fit(*planted(30, (1,))), "agreement needs two sites .* got site0"),
        (lambda: Consensus.fit(*planted(30, (1, 1))).score(np.zeros((3, 2)), ["t"] * 3), "weighs 3 features"),
    ],
)
def test_bad_input_is_refused(call, match: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=match):
        call()
