"""Choosing a model without the target's labels, and the alarms that say when nothing here can tell."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from vagitus.adapt.alarms import alarms, estimated_shares, opposed_sources
from vagitus.adapt.selection import (
    RULES,
    Candidate,
    choose,
    deep_embedded_risk,
    importance_weighted_risk,
    importance_weights,
    mean_entropy,
    soft_neighbourhood_density,
)

Floats = NDArray[np.float64]


def two_classes(positive: Floats) -> Floats:
    return np.stack([1 - positive, positive], axis=1)


def test_weights_follow_the_density_ratio() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((2000, 1)), rng.standard_normal((2000, 1)) + 1
    weights = importance_weights(source, target)
    assert weights.mean() == pytest.approx(1.0)
    # N(1, 1) over N(0, 1) is e^(x - 1/2): log weights rise with slope 1, a little less for the penalty.
    inner = np.abs(source[:, 0]) < 1.5
    slope = np.polyfit(source[inner, 0], np.log(weights[inner]), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.25)


def test_equal_domains_have_equal_weights() -> None:
    x = np.random.default_rng(0).standard_normal((300, 4))
    assert np.abs(importance_weights(x, x[::-1]) - 1).max() < 0.02


def test_the_weighted_risk_by_hand() -> None:
    assert importance_weighted_risk([1.0, 2.0, 4.0], [0.5, 1.0, 2.0]) == pytest.approx((0.5 + 2 + 8) / 3)


def test_the_control_variate_by_hand() -> None:
    w, weighted = [0.5, 1.0, 2.1], [0.5, 2.0, 8.4]
    mean_w, mean_l = sum(w) / 3, sum(weighted) / 3
    covariance = sum((a - mean_w) * (b - mean_l) for a, b in zip(w, weighted, strict=True)) / 2
    variance = sum((a - mean_w) ** 2 for a in w) / 2
    eta = -covariance / variance
    assert deep_embedded_risk([1.0, 2.0, 4.0], w) == pytest.approx(mean_l + eta * mean_w - eta)


def test_the_control_variate_steadies_the_risk() -> None:
    rng = np.random.default_rng(0)
    plain, steadied = [], []
    for _ in range(200):
        w = np.exp(rng.standard_normal(60) - 0.5)
        losses = 1 + 0.3 * rng.standard_normal(60)
        plain.append(importance_weighted_risk(losses, w))
        steadied.append(deep_embedded_risk(losses, w))
    assert np.std(steadied) < 0.5 * np.std(plain)


def density_pair_by_pair(p: list[list[float]], temperature: float) -> float:
    """Equations 1 and 2 of arXiv:2108.10860, one pair at a time."""
    unit = [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in p]
    entropies = []
    for i, row in enumerate(unit):
        s = [sum(a * b for a, b in zip(row, other, strict=True)) / temperature for other in unit]
        total = sum(math.exp(s[j]) for j in range(len(p)) if j != i)
        q = [math.exp(s[j]) / total for j in range(len(p)) if j != i]
        entropies.append(-sum(v * math.log(v) for v in q))
    return sum(entropies) / len(p)


@pytest.mark.parametrize("temperature", [0.05, 0.4])
def test_density_pair_by_pair(temperature: float) -> None:
    p = two_classes(np.array([0.1, 0.2, 0.85, 0.6, 0.95]))
    expected = density_pair_by_pair(p.tolist(), temperature)
    assert soft_neighbourhood_density(p, temperature=temperature) == pytest.approx(expected)


def test_identical_predictions_have_the_density_of_all_the_others() -> None:
    assert soft_neighbourhood_density(two_classes(np.full(9, 0.3))) == pytest.approx(math.log(8))


def test_mean_entropy_by_hand() -> None:
    assert mean_entropy([[0.5, 0.5], [1.0, 0.0]]) == pytest.approx(math.log(2) / 2)


def candidate(seed: int, loss: float, certain: float, oracle: float, loso: float = math.nan) -> Candidate:
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    return Candidate(
        rng.standard_normal((30, 3)),
        np.full(30, loss),
        rng.standard_normal((40, 3)),
        two_classes(np.where(labels == 1, certain, 1 - certain)),
        source_loso=loso,
        target_score=oracle,
    )


CANDIDATES = {
    "low loss": candidate(0, 0.1, 0.6, 0.6, loso=0.5),
    "certain": candidate(0, 0.9, 0.99, 0.7, loso=0.6),
    "right": candidate(0, 0.5, 0.8, 0.9, loso=0.8),
}


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ("importance-weighted", "low loss"),
        ("deep-embedded", "low loss"),
        ("source-dev", "low loss"),
        ("entropy", "certain"),
        ("neighbourhood-density", "certain"),
        ("source-leave-one-out", "right"),
        ("oracle", "right"),
    ],
)
def test_each_rule_takes_what_it_likes(rule: str, taken: str) -> None:
    # All fall into two clusters; neighbourhoods are denser where a cluster's members are alike, here all of them, and
    # purer where the clusters lie apart.
    chosen, values = choose(CANDIDATES, rule)
    if rule == "neighbourhood-density":
        assert chosen == max(values, key=lambda name: values[name])
    else:
        assert chosen == taken
    assert set(values) == set(CANDIDATES)


def test_every_rule_but_the_oracle_ignores_the_targets_labels() -> None:
    for rule in RULES:
        values = [RULES[rule](candidate(0, 0.5, 0.8, oracle, loso=0.7)) for oracle in (0.1, 0.9)]
        assert (values[0] != values[1]) == (rule == "oracle")


def test_what_a_rule_does_not_know_is_not_taken() -> None:
    known = {"a": candidate(0, 0.5, 0.8, 0.5), "b": candidate(0, 0.5, 0.8, 0.5, loso=0.2)}
    assert choose(known, "source-leave-one-out")[0] == "b"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: choose(CANDIDATES, "density"), "no selection rule 'density'; choose from"),
        (lambda: choose({}, "oracle"), "no candidate"),
        (
            lambda: choose({"a": candidate(0, 1, 0.5, 0.5)}, "source-leave-one-out"),
            "knows nothing of any of a",
        ),
        (lambda: importance_weights(np.zeros((3, 2)), np.zeros((3, 4))), "with one d"),
        (lambda: soft_neighbourhood_density(np.ones((2, 2)) / 2), "3 recordings at least"),
        (lambda: estimated_shares(np.ones((3, 2)) / 2, [1.5, -0.5]), "0 or above"),
        (lambda: alarms(np.ones((3, 2)) / 2, np.ones((4, 2)) / 2, [0.5, 0.5]), "not of the same recordings"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


# Alarms.


def calibrated(share: float, n: int = 4000) -> Floats:
    """Posteriors at equal shares of a target whose own share of positives is another."""
    rng = np.random.default_rng(0)
    y = rng.random(n) < share
    log_odds = 2 * (rng.standard_normal(n) + np.where(y, 1.0, -1.0))  # of unit normals at -1 and 1
    return two_classes(1 / (1 + np.exp(-log_odds)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_shares_are_found_where_only_they_differ(share: float) -> None:
    assert estimated_shares(calibrated(share), [0.5, 0.5])[1] == pytest.approx(share, abs=0.03)


def kinds(before: Floats, after: Floats, **more: object) -> set[str]:
    return {alarm.kind for alarm in alarms(before, after, [0.5, 0.5], **more)}  # type: ignore[arg-type]


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    p = calibrated(0.5)
    assert kinds(p, p) == set()


def test_each_trouble_raises_its_own_alarm() -> None:
    even = calibrated(0.5)
    assert kinds(calibrated(0.1), calibrated(0.1)) == {"label_shift"}
    nobody = two_classes(np.full(50, 0.01))
    assert kinds(nobody, nobody) == {"one_class", "collapse"}
    assert kinds(even, even[:, ::-1]) == {"negative_transfer"}
    assert kinds(even, even, density=(5.0, 4.0)) == {"negative_transfer"}
    assert kinds(even, even, density=(4.0, 5.0)) == set()
    assert kinds(even, even, density=(3.9893, 3.9887)) == set()
    assert kinds(even, even, opposed={"b": 0.21}) == {"sources_disagree"}


def test_a_model_that_knows_nothing_estimates_no_shares() -> None:
    """Twenty probabilities a little off one half: what fits them best is one class, and hardly better than two."""
    vague = two_classes(0.5 + 0.03 * np.random.default_rng(1).standard_normal(20) + 0.01)
    assert estimated_shares(vague, [0.5, 0.5]).max() > 0.98
    assert kinds(vague, vague) == set()


def test_a_rare_class_of_three_is_no_target_of_one_class() -> None:
    p = np.tile(np.eye(3)[[0, 1]] * 0.97 + 0.01, (100, 1))
    found = alarms(p, p, [0.45, 0.45, 0.1])
    assert "one_class" not in {alarm.kind for alarm in found}


def test_a_class_that_the_sources_do_not_hold_gets_no_share() -> None:
    p = np.tile([0.6, 0.3, 0.1], (30, 1))
    shares = estimated_shares(p, [0.5, 0.5, 0.0])
    assert shares[2] == 0 and shares.sum() == pytest.approx(1)
    alarms(p, p, [0.5, 0.5, 0.0])


def test_the_source_that_hears_the_label_the_other_way_round_is_named() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    sites = np.repeat(["a", "b", "c"], 40)
    x = rng.standard_normal((120, 6)) + np.where(sites == "c", -1, 1)[:, None] * y[:, None]
    x[sites == "b"] = 50 * x[sites == "b"] + 1000  # another gain is no disagreement
    found = opposed_sources(x, y, sites)
    assert set(found) == {"c"} and found["c"] < 0.2
    assert opposed_sources(rng.standard_normal((120, 6)), y, sites) == {}
    assert opposed_sources(x[:40], y[:40], sites[:40]) == {}
