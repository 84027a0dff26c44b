"""Intervals and paired tests: enumerated by hand, other implementations, and how often they cover the truth."""

import itertools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vagitus import metrics, statistics
from vagitus.metrics import Statistic, auroc
from vagitus.statistics import (
    Comparison,
    auroc_covariance,
    delong_interval,
    delong_test,
    holm,
    label_strata,
    midranks,
    paired_bootstrap,
    permutation_test,
    rowwise,
    seed_interval,
    subject_bootstrap,
    wilson_interval,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NAN = math.nan


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mean_of(values: Floats) -> Statistic:
    return lambda weights: weights @ values / weights.sum(axis=1)


def clinic(seed: int, *, n_subjects: int = 40, n_each: int = 5) -> tuple[Ints, Floats, Ints]:
    """Labels, scores and subjects; a subject's recordings share its label and an offset as large as the noise.

    The true AUROC of a recording is Phi(1.5 / sqrt(2 (1 + 1))) = Phi(.75).
    """
    r = rng(seed)
    subjects = np.repeat(np.arange(n_subjects), n_each)
    labels = (np.arange(n_subjects) % 2)[subjects]
    scores = 1.5 * labels + r.normal(size=n_subjects)[subjects] + r.normal(size=len(subjects))
    return labels, scores, subjects


TRUE_AUROC = NormalDist().cdf(0.75)


def auroc_statistic(labels: Ints, scores: Floats) -> Statistic:
    spread = 1 / (1 + np.exp(-scores))
    return metrics.statistic("auroc", labels, spread, (spread > 0.5).astype(int))


def test_bootstrap_draws_what_enumeration_draws() -> None:
    values, subjects = np.array([1.0, 2.0, 6.0, 4.0]), np.array(["a", "a", "b", "c"])
    sums, counts = {"a": 3.0, "b": 6.0, "c": 4.0}, {"a": 2, "b": 1, "c": 1}
    every = [
        sum(sums[s] for s in draw) / sum(counts[s] for s in draw)
        for draw in itertools.product("abc", repeat=3)
    ]
    interval = subject_bootstrap(mean_of(values), subjects, rng=rng(), n_resamples=20_000, level=0.5)
    assert interval.estimate == 13 / 4
    exact = np.quantile(np.tile(every, 1000), [0.25, 0.75])
    assert [interval.low, interval.high] == pytest.approx(exact.tolist())
    assert (interval.n_units, interval.n_resamples, interval.n_undefined) == (3, 20_000, 0)
    assert (interval.level, interval.method) == (0.5, "percentile")


def test_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    values = rng(1).normal(size=400)
    interval = subject_bootstrap(mean_of(values), np.arange(400), rng=rng(), n_resamples=5000)
    reach = 1.96 * values.std() / 20
    assert (interval.low, interval.high) == pytest.approx(
        (values.mean() - reach, values.mean() + reach), abs=0.1 * reach
    )


def test_copying_every_recording_of_a_subject_proves_nothing() -> None:
    labels, scores, subjects = clinic(2)
    once = subject_bootstrap(auroc_statistic(labels, scores), subjects, rng=rng())
    twice = subject_bootstrap(
        auroc_statistic(np.tile(labels, 2), np.tile(scores, 2)), np.tile(subjects, 2), rng=rng()
    )
    assert (once.low, once.high) == pytest.approx((twice.low, twice.high))
    as_recordings = subject_bootstrap(
        auroc_statistic(np.tile(labels, 2), np.tile(scores, 2)), np.arange(400), rng=rng()
    )
    assert as_recordings.high - as_recordings.low < 0.6 * (once.high - once.low)


def test_order_of_recordings_and_names_of_subjects_do_not_matter() -> None:
    labels, scores, subjects = clinic(3)
    order = rng(4).permutation(len(labels))
    one = subject_bootstrap(auroc_statistic(labels, scores), subjects, rng=rng())
    other = subject_bootstrap(
        auroc_statistic(labels[order], scores[order]),
        np.array([f"infant {s:02d}" for s in subjects[order]]),
        rng=rng(),
    )
    assert (one.estimate, one.low, one.high) == pytest.approx((other.estimate, other.low, other.high))


def test_a_function_of_one_weight_vector_gives_what_the_batch_gives() -> None:
    labels, scores, subjects = clinic(5, n_subjects=12)
    batch = subject_bootstrap(auroc_statistic(labels, scores), subjects, rng=rng(), n_resamples=200)
    single = subject_bootstrap(
        rowwise(lambda w: auroc(labels, scores, w)), subjects, rng=rng(), n_resamples=200
    )
    assert (batch.estimate, batch.low, batch.high) == pytest.approx(
        (single.estimate, single.low, single.high)
    )


def test_few_weights_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, heights = rng(6).normal(size=50), []

    def watched(weights: Floats) -> Floats:
        heights.append(len(weights))
        return mean_of(values)(weights)

    whole = subject_bootstrap(mean_of(values), np.arange(50), rng=rng(), n_resamples=400)
    monkeypatch.setattr(statistics, "BLOCK_VALUES", 50 * 64)
    blocks = subject_bootstrap(watched, np.arange(50), rng=rng(), n_resamples=400)
    assert max(heights) == 64
    assert sum(heights[1:]) == 400
    assert (blocks.low, blocks.high) == pytest.approx((whole.low, whole.high), abs=0.1)


def test_a_class_that_is_not_drawn_leaves_the_resample_undefined() -> None:
    labels, scores = np.array([1, 0, 0, 0, 0]), np.array([0.3, 0.1, 0.2, 0.4, 0.25])
    interval = subject_bootstrap(auroc_statistic(labels, scores), np.arange(5), rng=rng(), n_resamples=4000)
    # No positive in 5 draws: (4/5)^5 = .328; all positive: (1/5)^5.
    assert interval.n_undefined / 4000 == pytest.approx(0.8**5 + 0.2**5, abs=0.025)
    assert 0 <= interval.low < interval.high <= 1
    strata = label_strata(labels, np.arange(5))
    assert (
        subject_bootstrap(auroc_statistic(labels, scores), np.arange(5), rng=rng(), strata=strata).n_undefined
        == 0
    )


def test_strata_keep_their_number_of_subjects() -> None:
    strata, drawn = np.array(["x"] * 3 + ["y"] * 7), []

    def watched(weights: Floats) -> Floats:
        drawn.append(weights)
        return weights[:, 0]

    subject_bootstrap(watched, np.arange(10), rng=rng(), n_resamples=50, strata=strata)
    weights = np.concatenate(drawn[1:])
    np.testing.assert_array_equal(weights[:, :3].sum(axis=1), np.full(50, 3))
    np.testing.assert_array_equal(weights[:, 3:].sum(axis=1), np.full(50, 7))
    assert len(np.unique(weights[:, 0])) > 1


def test_label_strata_are_the_sets_of_labels() -> None:
    strata = label_strata([0, 1, 1, 0, 0], ["a", "a", "b", "c", "c"])
    assert strata.tolist() == ["0+1", "0+1", "1", "0", "0"]


def test_one_subject_has_an_estimate_and_no_interval() -> None:
    interval = subject_bootstrap(mean_of(np.array([1.0, 4.0])), ["a", "a"], rng=rng(), n_resamples=10)
    assert interval.estimate == 2.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_an_undefined_estimate_has_no_interval() -> None:
    interval = subject_bootstrap(lambda w: np.full(len(w), NAN), [1, 2], rng=rng(), n_resamples=10)
    assert interval.n_undefined == 10
    assert all(math.isnan(x) for x in (interval.estimate, interval.low, interval.high))


def test_seeds_and_subjects_are_drawn_together() -> None:
    # Two subjects, two seeds: the 4 x 4 draws by hand, each the mean over its seeds.
    by_seed = [np.array([0.0, 1.0]), np.array([5.0, 9.0])]
    every = [
        np.mean([by_seed[seed][[i, j]].mean() for seed in pair])
        for i, j in itertools.product(range(2), repeat=2)
        for pair in itertools.product(range(2), repeat=2)
    ]
    drawn = subject_bootstrap([mean_of(v) for v in by_seed], [0, 1], rng=rng(), n_resamples=40_000, level=0.8)
    assert drawn.estimate == 3.75
    assert (drawn.low, drawn.high) == pytest.approx(np.quantile(every, [0.1, 0.9]), abs=1e-9)


def test_seeds_that_agree_add_nothing_and_seeds_that_differ_widen() -> None:
    values = rng(7).normal(size=60)
    alone = subject_bootstrap(mean_of(values), np.arange(60), rng=rng())
    agreeing = subject_bootstrap([mean_of(values)] * 3, np.arange(60), rng=rng())
    assert (agreeing.low, agreeing.high) == pytest.approx((alone.low, alone.high))
    differing = subject_bootstrap([mean_of(values + d) for d in (-0.5, 0.0, 0.5)], np.arange(60), rng=rng())
    assert differing.estimate == pytest.approx(alone.estimate)
    assert differing.high - differing.low > 1.3 * (alone.high - alone.low)


def test_a_seed_that_was_not_drawn_may_be_undefined() -> None:
    seeds: list[Statistic] = [mean_of(np.arange(4.0)), lambda w: np.where(w[:, 0] > 1, NAN, 1.0)]
    interval = subject_bootstrap(seeds, np.arange(4), rng=rng(), n_resamples=8000)
    twice = 1 - (3 / 4) ** 4 - 4 * (1 / 4) * (3 / 4) ** 3  # subject 0 drawn twice or more
    assert interval.n_undefined / 8000 == pytest.approx(twice * 3 / 4, abs=0.02)


def test_bca_agrees_with_scipy() -> None:
    stats: Any = pytest.importorskip("scipy.stats")
    values = rng(8).exponential(size=30) ** 2
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=rng(), vectorized=True
    ).confidence_interval
    ours = subject_bootstrap(mean_of(values), np.arange(30), rng=rng(), n_resamples=20_000, method="bca")
    percentile = subject_bootstrap(mean_of(values), np.arange(30), rng=rng(), n_resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.03)
    assert ours.low > percentile.low * 1.05
    assert ours.high > percentile.high * 1.05


def test_bca_with_strata_by_its_formula() -> None:
    # 2/3 of the mean of stratum x and 1/3 of that of y: influences are the deviations over the sizes.
    values, strata = rng(15).exponential(size=20) ** 2, np.array(["x"] * 5 + ["y"] * 15)
    share = np.where(strata == "x", 2 / 3 / 5, 1 / 3 / 15)
    blocks = []

    def watched(weights: Floats) -> Floats:
        totals = np.stack([(weights * (strata == k)).sum(axis=1) for k in "xy"], axis=1)
        means = np.stack([weights @ (values * (strata == k)) for k in "xy"], axis=1) / totals
        blocks.append(np.asarray(means @ [2 / 3, 1 / 3]))
        return blocks[-1]

    interval = subject_bootstrap(
        watched, np.arange(20), rng=rng(), strata=strata, method="bca", n_resamples=999, level=0.9
    )
    (estimate,), drawn = blocks[0], blocks[1]
    centre = np.where(strata == "x", values[:5].mean(), values[5:].mean())
    influence = share * (values - centre)
    a = (influence**3).sum() / (influence**2).sum() ** 1.5 / 6
    normal = NormalDist()
    bias = normal.inv_cdf((drawn < estimate).mean())
    z = [bias + normal.inv_cdf(tail) for tail in (0.05, 0.95)]
    expected = np.quantile(drawn, [normal.cdf(bias + each / (1 - a * each)) for each in z])
    assert [interval.low, interval.high] == pytest.approx(expected.tolist())


def test_bca_of_a_constant_is_that_constant() -> None:
    interval = subject_bootstrap(lambda w: np.ones(len(w)), np.arange(6), rng=rng(), method="bca")
    assert (interval.estimate, interval.low, interval.high) == (1, 1, 1)


def test_bca_with_every_resample_on_one_side_stays_finite() -> None:
    interval = subject_bootstrap(
        lambda w: (w.max(axis=1) > 1).astype(float) + w[:, 0] / 100, np.arange(30), rng=rng(), method="bca"
    )
    assert math.isfinite(interval.low)
    assert math.isfinite(interval.high)


def test_the_same_state_of_chance_gives_the_same_interval() -> None:
    labels, scores, subjects = clinic(9)
    statistic = auroc_statistic(labels, scores)
    assert subject_bootstrap(statistic, subjects, rng=rng(3)) == subject_bootstrap(
        statistic, subjects, rng=rng(3)
    )
    assert subject_bootstrap(statistic, subjects, rng=rng(3)) != subject_bootstrap(
        statistic, subjects, rng=rng(4)
    )


def coverage(interval: Callable[[int], statistics.Interval], truth: float, n_clinics: int) -> float:
    intervals = [interval(seed) for seed in range(n_clinics)]
    return sum(i.low <= truth <= i.high for i in intervals) / n_clinics


def bootstrap_by(
    subject: bool, method: statistics.Method = "percentile"
) -> Callable[[int], statistics.Interval]:
    def interval(seed: int) -> statistics.Interval:
        labels, scores, subjects = clinic(seed)
        units = subjects if subject else np.arange(len(subjects))
        statistic = auroc_statistic(labels, scores)
        return subject_bootstrap(statistic, units, rng=rng(seed), n_resamples=300, method=method)

    return interval


def test_the_bootstrap_covers_by_subject_and_not_by_recording() -> None:
    # 200 clinics: the standard error of a coverage of .95 is .015.
    assert 0.89 <= coverage(bootstrap_by(subject=True), TRUE_AUROC, 200) <= 0.99
    assert 0.89 <= coverage(bootstrap_by(subject=True, method="bca"), TRUE_AUROC, 200) <= 0.99
    assert coverage(bootstrap_by(subject=False), TRUE_AUROC, 200) < 0.8


def test_the_closed_form_covers_by_subject_and_not_by_recording() -> None:
    def interval(by_subject: bool) -> Callable[[int], statistics.Interval]:
        def of(seed: int) -> statistics.Interval:
            labels, scores, subjects = clinic(seed)
            return delong_interval(labels, scores, subjects=subjects if by_subject else None)

        return of

    assert 0.91 <= coverage(interval(True), TRUE_AUROC, 400) <= 0.99
    assert coverage(interval(False), TRUE_AUROC, 400) < 0.8


@pytest.mark.parametrize("test", ["delong", "permutation"])
def test_equal_arms_are_called_different_one_time_in_twenty(test: str) -> None:
    def p(seed: int) -> float:
        labels, _, subjects = clinic(seed, n_subjects=30, n_each=3)
        offset = rng(seed + 1000).normal(size=(2, 30))[:, subjects]
        a, b = 1.5 * labels + offset + rng(seed + 2000).normal(size=(2, len(labels)))
        if test == "delong":
            return delong_test(labels, a, b, subjects=subjects).p
        return permutation_test(
            lambda s: float(s[labels == 1].mean() - s[labels == 0].mean()),
            a,
            b,
            subjects,
            rng=rng(seed),
            n_permutations=199,
        ).p

    rejected = np.mean([p(seed) <= 0.05 for seed in range(200)])
    assert 0.01 <= rejected <= 0.1


def two_arms(seed: int = 11) -> tuple[Ints, Floats, Floats, Ints]:
    labels, scores, subjects = clinic(seed)
    return labels, scores + 0.4 * labels, scores + 0.3 * rng(seed).normal(size=len(scores)), subjects


def test_paired_bootstrap_is_the_bootstrap_of_the_difference() -> None:
    labels, a, b, subjects = two_arms()
    arm, baseline = auroc_statistic(labels, a), auroc_statistic(labels, b)
    paired = paired_bootstrap(arm, baseline, subjects, rng=rng())
    difference = subject_bootstrap(lambda w: arm(w) - baseline(w), subjects, rng=rng())
    assert paired.difference == pytest.approx(auroc(labels, a) - auroc(labels, b))
    assert (paired.low, paired.high) == (difference.low, difference.high)
    alone = subject_bootstrap(arm, subjects, rng=rng())
    assert paired.high - paired.low < 0.8 * (alone.high - alone.low)  # the pairing pays


def test_paired_bootstrap_p_by_hand() -> None:
    resampled = np.array([-1.0, 0.0, 0.0, 2.0, 2.0, 3.0, 4.0, 5.0, 6.0])

    def arm(weights: Floats) -> Floats:
        return resampled if len(weights) == 9 else np.array([2.5])

    test = paired_bootstrap(arm, lambda w: np.zeros(len(w)), [0, 1, 2], rng=rng(), n_resamples=9)
    assert test.difference == 2.5
    assert test.p == pytest.approx(2 * (1 + 3) / 10)  # 3 at or below 0, 8 at or above
    assert test.n_resamples == 9


def test_paired_bootstrap_turns_with_the_arms() -> None:
    labels, a, b, subjects = two_arms()
    arm, baseline = auroc_statistic(labels, a), auroc_statistic(labels, b)
    one = paired_bootstrap(arm, baseline, subjects, rng=rng())
    other = paired_bootstrap(baseline, arm, subjects, rng=rng())
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert one.p == other.p
    assert (one.low > 0) == (one.p < 0.05)


def test_paired_bootstrap_pairs_seeds() -> None:
    values = [rng(seed).normal(size=20) for seed in range(3)]
    arm, baseline = [mean_of(v + 0.1) for v in values], [mean_of(v) for v in values]
    test = paired_bootstrap(arm, baseline, np.arange(20), rng=rng())
    assert (test.difference, test.low, test.high) == pytest.approx((0.1, 0.1, 0.1))
    assert test.p == pytest.approx(2 / 2001)


def identical_arms(kind: str) -> Comparison:
    labels, scores, subjects = clinic(12)
    statistic = auroc_statistic(labels, scores)
    if kind == "bootstrap":
        return paired_bootstrap(statistic, statistic, subjects, rng=rng(), n_resamples=50)
    if kind == "permutation":
        return permutation_test(
            lambda s: auroc(labels, s), scores, scores, subjects, rng=rng(), n_permutations=50
        )
    return delong_test(labels, scores, np.exp(scores), subjects=subjects if kind == "Obuchowski" else None)


@pytest.mark.parametrize("kind", ["bootstrap", "permutation", "DeLong", "Obuchowski"])
def test_arms_that_rank_alike_do_not_differ(kind: str) -> None:
    test = identical_arms(kind)
    assert test.difference == 0
    assert test.p == 1
    if kind != "permutation":
        assert (test.low, test.high) == (0, 0)


def test_permutation_of_few_subjects_is_enumerated() -> None:
    arm, baseline = np.array([1.0, 2.0, 3.0]), np.zeros(3)
    test = permutation_test(lambda s: float(s.sum()), arm, baseline, [0, 1, 2], rng=rng())
    # The sums +-1 +-2 +-3 of 8 sign patterns reach 6 in size twice.
    assert (test.difference, test.p) == (6, 2 / 8)
    assert (test.method, test.n_resamples, test.n_units) == ("exact permutation", 8, 3)
    assert math.isnan(test.low)


def test_permutation_swaps_whole_subjects() -> None:
    arm = np.ones(50)
    by_subject = permutation_test(lambda s: float(s.mean()), arm, 0 * arm, np.arange(50) % 2, rng=rng())
    assert by_subject.p == 0.5  # two subjects can say no more, whatever the number of recordings
    by_recording = permutation_test(lambda s: float(s.mean()), arm, 0 * arm, np.arange(50), rng=rng())
    assert by_recording.p == pytest.approx(1 / 2001)


def test_random_permutation_approaches_the_exact_one() -> None:
    values = rng(13).normal(0.5, 1.0, size=10)
    args = (lambda s: float(s.mean()), values, np.zeros(10), np.arange(10))
    exact = permutation_test(*args, rng=rng(), n_permutations=1024)
    drawn = permutation_test(*args, rng=rng(), n_permutations=1023)
    assert (exact.method, drawn.method) == ("exact permutation", "permutation")
    assert drawn.p == pytest.approx(exact.p, abs=0.04)


def test_permutation_of_class_probabilities_swaps_rows() -> None:
    labels = np.arange(12) % 3
    good, bad = np.eye(3)[labels], np.full((12, 3), 1 / 3)
    test = permutation_test(
        lambda p: metrics.macro_auroc(labels, p), good, bad, np.arange(12), rng=rng(), n_permutations=5000
    )
    assert test.difference == 0.5
    assert test.p < 0.01


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20))
@settings(deadline=None)
def test_midranks_agree_with_scipy(values: list[int]) -> None:
    stats: Any = pytest.importorskip("scipy.stats")
    np.testing.assert_array_equal(midranks(values), stats.rankdata(values))


def covariance_of_pairs(labels: Ints, arms: Floats, subjects: Ints) -> Floats:
    """Obuchowski's covariance from all pairs, subject by subject, as her paper writes it."""

    def psi(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    known = sorted(set(subjects.tolist()))
    m, n = int((labels == 1).sum()), int((labels == 0).sum())
    X, Y = np.zeros((len(arms), len(known))), np.zeros((len(arms), len(known)))
    for a, s in enumerate(arms):
        area = sum(psi(x, y) for x in s[labels == 1] for y in s[labels == 0]) / (m * n)
        for i, subject in enumerate(known):
            for x in s[(subjects == subject) & (labels == 1)]:
                X[a, i] += sum(psi(x, y) for y in s[labels == 0]) / n - area
            for y in s[(subjects == subject) & (labels == 0)]:
                Y[a, i] += sum(psi(x, y) for x in s[labels == 1]) / m - area
    i10, i01, i_all = len(set(subjects[labels == 1])), len(set(subjects[labels == 0])), len(known)
    result = np.zeros((len(arms), len(arms)))
    for a, b in itertools.product(range(len(arms)), repeat=2):
        s10 = i10 / ((i10 - 1) * m) * sum(X[a] * X[b])
        s01 = i01 / ((i01 - 1) * n) * sum(Y[a] * Y[b])
        s11, s11_turned = (i_all / (i_all - 1) * sum(u * v) for u, v in ((X[a], Y[b]), (X[b], Y[a])))
        result[a, b] = s10 / m + s01 / n + (s11 + s11_turned) / (m * n)
    return result


def mixed_clinic(seed: int, n: int = 40) -> tuple[Ints, Floats, Ints]:
    """Subjects of unequal size, many with both labels, tied scores of two arms."""
    r = rng(seed)
    labels = np.append([0, 1], r.integers(0, 2, n - 2))
    arms = np.round(labels + r.normal(size=(2, n)), 1)
    return labels, arms, r.integers(0, 12, n)


@pytest.mark.parametrize("seed", range(3))
def test_clustered_covariance_is_that_of_all_pairs(seed: int) -> None:
    labels, arms, subjects = mixed_clinic(seed)
    auc, covariance, n_units = auroc_covariance(labels, arms, subjects=subjects)
    np.testing.assert_allclose(auc, [auroc(labels, s) for s in arms])
    np.testing.assert_allclose(covariance, covariance_of_pairs(labels, arms, subjects))
    assert n_units == len(set(subjects.tolist()))
    independent = auroc_covariance(labels, arms, subjects=None)
    np.testing.assert_allclose(independent.covariance, covariance_of_pairs(labels, arms, np.arange(40)))


def test_one_recording_a_subject_is_delong() -> None:
    labels, arms, _ = mixed_clinic(4)
    clustered = auroc_covariance(labels, arms, subjects=rng().permutation(40))
    np.testing.assert_allclose(clustered.covariance, auroc_covariance(labels, arms, subjects=None).covariance)


def test_copies_of_recordings_shrink_delong_but_not_obuchowski() -> None:
    labels, scores, subjects = clinic(14)
    labels2, scores2, subjects2 = np.tile(labels, 2), np.tile(scores, 2), np.tile(subjects, 2)
    once = auroc_covariance(labels, scores, subjects=subjects).covariance
    np.testing.assert_allclose(auroc_covariance(labels2, scores2, subjects=subjects2).covariance, once)
    alone = auroc_covariance(labels, scores, subjects=None).covariance
    copied = auroc_covariance(labels2, scores2, subjects=None).covariance
    np.testing.assert_allclose(copied, alone / 2, rtol=0.02)


def test_covariance_does_not_depend_on_which_class_is_positive() -> None:
    labels, arms, subjects = mixed_clinic(5)
    one, other = (auroc_covariance(y, arms, subjects=subjects) for y in (labels, 1 - labels))
    np.testing.assert_allclose(one.covariance, other.covariance)
    np.testing.assert_allclose(one.auroc, 1 - other.auroc)


@pytest.mark.parametrize("seed", range(3))
def test_delong_agrees_with_mlstatkit(seed: int) -> None:
    mlstatkit: Any = pytest.importorskip("MLstatkit")
    labels, arms, _ = mixed_clinic(seed, n=80)
    z, p, low_high_a, low_high_b, auc_a, auc_b, _ = mlstatkit.Delong_test(labels, arms[1], arms[0])
    test = delong_test(labels, arms[0], arms[1], subjects=None)
    assert test.p == pytest.approx(p)
    assert test.difference == pytest.approx(auc_b - auc_a)
    assert (test.high - test.low) / 2 / NormalDist().inv_cdf(0.975) == pytest.approx(test.difference / z)
    for scores, bounds in ((arms[1], low_high_a), (arms[0], low_high_b)):
        interval = delong_interval(labels, scores, subjects=None, scale="linear")
        assert (interval.low, interval.high) == pytest.approx(bounds)


def test_delong_by_hand() -> None:
    # Positives 3, 1 against negatives 2, 0: components 1, ½ and ½, 1; AUROC ¾.
    # S10 = S01 = ((¼)² + (¼)²) / 1 = ⅛; variance ⅛/2 + ⅛/2 = ⅛.
    auc, covariance, n_units = auroc_covariance([1, 1, 0, 0], [3, 1, 2, 0], subjects=None)
    assert (auc[0], covariance[0, 0], n_units) == pytest.approx((0.75, 0.125, 4))
    interval = delong_interval([1, 1, 0, 0], [3, 1, 2, 0], subjects=None, level=0.5)
    reach = 0.6744897501960817 * math.sqrt(0.125) / (0.75 * 0.25)
    ends = [1 / (1 + math.exp(-(math.log(3) + sign * reach))) for sign in (-1, 1)]
    assert [interval.low, interval.high] == pytest.approx(ends)
    linear = delong_interval([1, 1, 0, 0], [3, 1, 2, 0], subjects=None, scale="linear")
    assert [linear.low, linear.high] == pytest.approx([0.75 - 1.959964 * math.sqrt(0.125), 1])


@pytest.mark.parametrize(
    ("labels", "scores", "subjects"),
    [
        ([1, 1, 1], [1, 2, 3], None),  # one class
        ([1, 0, 0], [1, 2, 3], None),  # one positive
        ([1, 1, 0, 0], [1, 3, 2, 4], ["a", "a", "b", "c"]),  # one subject with positives
        ([0, 0, 1, 1], [1, 2, 3, 4], None),  # perfect: no variation to see
    ],
)
def test_a_variance_that_cannot_be_known_gives_no_interval(labels: Any, scores: Any, subjects: Any) -> None:
    interval = delong_interval(labels, scores, subjects=subjects)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(interval.estimate) == (len(set(labels)) == 1)


def test_closed_forms_say_which_they_are() -> None:
    labels, arms, subjects = mixed_clinic(6)
    assert delong_interval(labels, arms[0], subjects=None).method == "DeLong, logit"
    assert delong_interval(labels, arms[0], subjects=subjects, scale="linear").method == "Obuchowski, linear"
    test = delong_test(labels, *arms, subjects=subjects)
    assert (test.method, test.n_units) == ("Obuchowski", len(set(subjects.tolist())))


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9, 0.01]), [1, 1, 0.03])
    np.testing.assert_allclose(holm([0.02, NAN, 0.03]), [0.04, NAN, 0.04])
    assert len(holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_holm_is_the_maximum_of_its_definition(p: list[float]) -> None:
    m, rising = len(p), sorted(p)
    expected = [max(min(1.0, (m - j) * rising[j]) for j in range(m) if rising[j] <= value) for value in p]
    np.testing.assert_allclose(holm(p), expected)


@pytest.mark.parametrize(("n_successes", "n"), [(0, 7), (1, 9), (8, 10), (31, 31), (50, 180)])
def test_wilson_agrees_with_scipy(n_successes: int, n: int) -> None:
    stats: Any = pytest.importorskip("scipy.stats")
    interval = wilson_interval(n_successes, n, level=0.9)
    theirs = stats.binomtest(n_successes, n).proportion_ci(0.9, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high))
    assert interval.low <= interval.estimate <= interval.high


def test_wilson_of_nothing_is_nan() -> None:
    interval = wilson_interval(0, 0)
    assert all(math.isnan(x) for x in (interval.estimate, interval.low, interval.high))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 31])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_seed_interval_agrees_with_scipy(n: int, level: float) -> None:
    stats: Any = pytest.importorskip("scipy.stats")
    values = rng(n).normal(size=n)
    interval = seed_interval(values, level=level)
    theirs = stats.t.interval(level, n - 1, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(theirs, rel=1e-9)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.n_units == n


def test_one_seed_has_no_interval() -> None:
    interval = seed_interval([0.8])
    assert interval.estimate == 0.8
    assert math.isnan(interval.low)


HALF: Statistic = lambda w: np.full(len(w), 0.5)  # noqa: E731
UNKNOWN: Any = "studentised"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subject_bootstrap(HALF, [[1, 2]], rng=rng()), r"subjects must .*, got \(1, 2\)"),
        (
            lambda: subject_bootstrap(HALF, [], rng=rng()),
            r"subjects must have one value per recording, got \(0,\)",
        ),
        (lambda: subject_bootstrap(HALF, [1, 2], rng=rng(), level=95), r"level must be in \(0, 1\), got 95"),
        (lambda: subject_bootstrap(HALF, [1, 2], rng=rng(), n_resamples=0), "n_resamples must be > 0, got 0"),
        (
            lambda: subject_bootstrap(HALF, [1, 2], rng=rng(), strata=[1]),
            r"strata must .*, got \(1,\) for \(2,\)",
        ),
        (
            lambda: subject_bootstrap(HALF, ["a", "b", "a"], rng=rng(), strata=["x", "y", "z"]),
            "subject a is in strata x and z; a subject is drawn whole",
        ),
        (
            lambda: subject_bootstrap(HALF, [1, 2], rng=rng(), method=UNKNOWN),
            "method must be 'percentile' or 'bca', got 'studentised'",
        ),
        (lambda: subject_bootstrap([], [1, 2], rng=rng()), "a function, or one per seed; got none"),
        (
            lambda: subject_bootstrap(lambda w: w, [1, 2], rng=rng()),
            r"weights \(1, 2\) into \(1,\), got \(1, 2\); wrap a function of weights \(n,\) in rowwise",
        ),
        (
            lambda: paired_bootstrap([HALF], [HALF, HALF], [1, 2], rng=rng()),
            "must have the same seeds, got 1 and 2",
        ),
        (
            lambda: permutation_test(np.mean, [1, 2], [1, 2, 3], [1, 2], rng=rng()),
            r"one shape \(n, ...\), got \(2,\) and \(3,\)",
        ),
        (
            lambda: permutation_test(np.mean, [1, 2], [1, 2], [1, 2, 3], rng=rng()),
            r"subjects must have one value per recording, got \(3,\) for \(2,\)",
        ),
        (
            lambda: permutation_test(np.mean, [1], [1], [1], rng=rng(), n_permutations=0),
            "n_permutations must be > 0, got 0",
        ),
        (lambda: midranks([1, NAN]), "without NaN, got"),
        (lambda: auroc_covariance([0, 1], [1, 2, 3], subjects=None), r"got \(2,\) and \(1, 3\)"),
        (lambda: auroc_covariance([0, 2], [1, 2], subjects=None), "labels must be in 0..1, got 2 in row 1"),
        (lambda: auroc_covariance([0, 1], [1, 2], subjects=[1]), r"subjects must .*, got \(1,\) for \(2,\)"),
        (lambda: delong_interval([0, 1], [1, 2], subjects=None, scale=UNKNOWN), "scale must be 'logit' or"),
        (lambda: delong_test([0, 1], [1, 2], [1], subjects=None), r"one shape \(n,\), got \(2,\) and \(1,\)"),
        (lambda: holm([0.1, 1.2]), r"p_values must be \(m,\) in \[0, 1\]"),
        (lambda: holm([[0.1]]), r"p_values must be \(m,\) in \[0, 1\]"),
        (lambda: wilson_interval(3, 2), "n_successes must be in 0..n, got 3 of 2"),
        (lambda: wilson_interval(1, 2, level=0), r"level must be in \(0, 1\), got 0"),
        (lambda: seed_interval([]), r"n_seeds > 0, got \(0,\)"),
        (lambda: label_strata([1, 2], [1]), r"subjects must .*, got \(1,\) for \(2,\)"),
    ],
)
def test_bad_input_says_what_was_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
