"""Folds: subjects stay whole, classes stand everywhere, the same seed gives the same folds."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vagitus.splits import (
    Fold,
    check_disjoint,
    fewer_subjects,
    grouped_folds,
    leave_one_site_out,
    merge_subjects,
    most_folds,
    predefined,
)

Names = NDArray[np.str_]


def clinic(
    *,
    n_subjects: int = 60,
    p_sick: float = 0.25,
    mixed: float = 0.1,
    mean_recordings: float = 4,
    seed: int = 0,
) -> tuple[Names, Names]:
    """Labels and subjects of a clinic: subjects of very different size, some under both labels."""
    rng = np.random.default_rng(seed)
    n_recordings = rng.geometric(1 / mean_recordings, n_subjects)
    subjects = np.repeat(np.arange(n_subjects), n_recordings)
    sick = (rng.random(n_subjects) < p_sick)[subjects] ^ (rng.random(len(subjects)) < mixed)
    return np.where(sick, "sick", "well"), np.array([f"s{i:03d}" for i in subjects])


def spread(labels: Names, units: Names, parts: list[NDArray[np.int64]]) -> float:
    """Largest distance of a part's share of a class from equal shares, counted in distinct units."""
    distances = []
    for name in np.unique(labels):
        total = len(np.unique(units[labels == name]))
        shares = [len(np.unique(units[p][labels[p] == name])) / total for p in parts]
        distances += [abs(share - 1 / len(parts)) for share in shares]
    return max(distances)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n_folds=st.integers(2, 6), repeat=st.integers(0, 3))
def test_every_fold_is_whole_disjoint_and_holds_every_class(seed: int, n_folds: int, repeat: int) -> None:
    labels, subjects = clinic(seed=seed)
    folds = grouped_folds(labels, subjects, n_folds=n_folds, seed=seed, repeat=repeat)
    assert [fold.name for fold in folds] == [f"repeat{repeat}-fold{f}" for f in range(n_folds)]
    tested = np.concatenate([fold.test for fold in folds])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(labels)))  # each recording is tested once
    for fold in folds:
        everything = np.concatenate([fold.train, fold.dev, fold.test])
        np.testing.assert_array_equal(np.sort(everything), np.arange(len(labels)))
        check_disjoint(fold, subjects)
        for part in (fold.train, fold.dev, fold.test):
            assert set(labels[part]) == {"sick", "well"}
            assert (np.diff(part) > 0).all()


def test_every_part_holds_the_least_possible_class() -> None:
    # Five sick subjects, five folds: one is tested, and of the four others one at least is dev.
    labels = np.array(["sick"] * 5 + ["well"] * 40)
    subjects = np.array([f"s{i}" for i in range(45)])
    for fold in grouped_folds(labels, subjects, n_folds=5):
        n_sick = [int((labels[part] == "sick").sum()) for part in (fold.train, fold.dev, fold.test)]
        assert n_sick == [3, 1, 1]


def test_shares_are_as_equal_as_can_be() -> None:
    # 20 subjects a class with 3 recordings each: 5 folds get exactly 4 of each, dev 3 or 4 of the other 16.
    labels = np.repeat(["a", "b"], 60)
    subjects = np.repeat([f"s{i:02d}" for i in range(40)], 3)
    for fold in grouped_folds(labels, subjects):
        assert [int((labels[fold.test] == name).sum()) for name in "ab"] == [12, 12]
        assert all(int((labels[fold.dev] == name).sum()) in {9, 12} for name in "ab")


@pytest.mark.parametrize("kind", ["plain", "mixed", "rare", "few"])
def test_balance_against_scikit_learn(kind: str) -> None:
    """Subjects per class, which intervals resample, are spread better, and recordings within 10 points."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels, subjects = {
        "plain": lambda: clinic(n_subjects=200, mixed=0),
        "mixed": lambda: clinic(n_subjects=200, mixed=0.4),
        "rare": lambda: clinic(n_subjects=300, p_sick=0.05, mixed=0),
        "few": lambda: clinic(n_subjects=40, p_sick=0.5, mean_recordings=8),
    }[kind]()
    recordings = np.array([str(i) for i in range(len(labels))])
    ours = [fold.test for fold in grouped_folds(labels, subjects)]
    theirs = [
        test
        for _, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, subjects)
    ]
    assert spread(labels, subjects, ours) <= spread(labels, subjects, theirs)
    assert spread(labels, recordings, ours) <= spread(labels, recordings, theirs) + 0.1


def test_same_seed_same_folds_in_any_order_of_rows() -> None:
    labels, subjects = clinic()
    order = np.random.default_rng(1).permutation(len(labels))
    for a, b in zip(
        grouped_folds(labels, subjects, seed=3, repeat=1),
        grouped_folds(labels[order], subjects[order], seed=3, repeat=1),
        strict=True,
    ):
        for part, shuffled in ((a.train, b.train), (a.dev, b.dev), (a.test, b.test)):
            np.testing.assert_array_equal(part, np.sort(order[shuffled]))


def test_other_seed_or_repeat_other_folds() -> None:
    labels, subjects = clinic()
    tests = [
        tuple(
            np.concatenate([fold.test for fold in grouped_folds(labels, subjects, seed=seed, repeat=repeat)])
        )
        for seed in (0, 1)
        for repeat in (0, 1)
    ]
    assert len(set(tests)) == 4


def test_class_indices_serve_as_labels() -> None:
    labels, subjects = clinic()
    for a, b in zip(
        grouped_folds(labels, subjects), grouped_folds((labels == "well").astype(int), subjects), strict=True
    ):
        np.testing.assert_array_equal(a.test, b.test)


def test_leaving_one_site_out() -> None:
    rng = np.random.default_rng(0)
    labels, subjects = clinic(n_subjects=90)
    site_of = dict(zip(np.unique(subjects).tolist(), rng.choice(["x", "y", "z"], 90).tolist(), strict=True))
    sites = np.array([site_of[s] for s in subjects.tolist()])
    folds = leave_one_site_out(labels, subjects, sites, seed=4)
    assert [(fold.name, fold.note) for fold in folds] == [("x", ""), ("y", ""), ("z", "")]
    for fold in folds:
        check_disjoint(fold, subjects)
        np.testing.assert_array_equal(fold.test, np.flatnonzero(sites == fold.name))
        assert set(sites[fold.train]) | set(sites[fold.dev]) == {"x", "y", "z"} - {fold.name}
        assert set(labels[fold.train]) == set(labels[fold.dev]) == {"sick", "well"}
        assert 0.1 < len(fold.dev) / (len(fold.train) + len(fold.dev)) < 0.3
    assert len(np.concatenate(folds[0][1:4])) == len(labels)


def test_subject_of_two_sites_is_left_out_of_training_and_counted() -> None:
    labels = np.array(["sick", "well"] * 10)
    subjects = np.array([f"s{i}" for i in range(20)])
    sites = np.array(["x"] * 10 + ["y"] * 10)
    subjects[[10, 11]] = "s0"  # recorded at x once, at y twice
    x, y = leave_one_site_out(labels, subjects, sites)
    assert x.note == "2 recordings from other sites left out: their subjects are tested here"
    assert y.note == "1 recordings from other sites left out: their subjects are tested here"
    assert set(np.concatenate([x.train, x.dev])) == set(range(12, 20))
    assert x.test.tolist() == list(range(10))


def test_site_of_one_class_is_tested_and_noted() -> None:
    labels = np.array(["sick", "well"] * 6 + ["well"] * 3)
    subjects = np.array([f"s{i}" for i in range(15)])
    sites = np.array(["x"] * 6 + ["y"] * 6 + ["z"] * 3)
    notes = {fold.name: fold.note for fold in leave_one_site_out(labels, subjects, sites)}
    assert notes == {"x": "", "y": "", "z": "the tested site holds only 'well', so no AUROC exists"}


def test_one_site_alone_gives_its_fold_of_the_full_call() -> None:
    labels, subjects = clinic(n_subjects=90)
    sites = np.array(["x", "y", "z"])[[int(name[1:]) % 3 for name in subjects.tolist()]]
    for fold in leave_one_site_out(labels, subjects, sites, seed=4):
        (alone,) = leave_one_site_out(labels, subjects, sites, seed=4, only=fold.name)
        assert (alone.name, alone.note) == (fold.name, fold.note)
        for part, same in zip(alone[1:4], fold[1:4], strict=True):
            np.testing.assert_array_equal(part, same)


def test_one_site_alone_is_not_refused_for_another() -> None:
    # Without x only one sick subject is left; without y all six of x are.
    labels = ["sick", "well"] * 6 + ["sick", "well", "well"]
    subjects = [f"s{i}" for i in range(15)]
    sites = ["x"] * 12 + ["y"] * 3
    with pytest.raises(ValueError, match=r"without site 'x', label 'sick' has 1 of 2"):
        leave_one_site_out(labels, subjects, sites)
    (fold,) = leave_one_site_out(labels, subjects, sites, only="y")
    assert (fold.name, fold.test.tolist()) == ("y", [12, 13, 14])


def test_predefined() -> None:
    split = ["train", "", "test", "dev", "train", "dev", "test"]
    (fold,) = predefined(split, list("aabcdef"), ["u", "", "u", "v", "v", "u", "v"])
    assert [part.tolist() for part in fold[1:4]] == [[0, 4], [3, 5], [2, 6]]
    assert fold.note == ""


@pytest.mark.parametrize(
    ("tested", "note"),
    [
        ("uvw", ""),
        ("uw", "the test part lacks 'v'"),
        ("v", "the test part holds only 'v', so no AUROC exists"),
    ],
)
def test_predefined_test_part_without_a_class_is_noted(tested: str, note: str) -> None:
    split = ["train"] * 3 + ["dev"] * 3 + ["test"] * len(tested)
    (fold,) = predefined(split, np.arange(len(split)), list("uvwuvw" + tested))
    assert fold.note == note


def accepts(labels: Names, subjects: Names, n_folds: int, seed: int, n_repeats: int) -> bool:
    try:
        for repeat in range(n_repeats):
            grouped_folds(labels, subjects, n_folds=n_folds, seed=seed, repeat=repeat)
    except ValueError:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(
    data=st.integers(0, 10**6),
    n_subjects=st.integers(3, 16),
    mixed=st.sampled_from([0, 0, 0.3]),
    wanted=st.integers(2, 7),
    seed=st.integers(0, 3),
    n_repeats=st.integers(1, 2),
)
def test_most_folds_is_the_most_that_are_accepted(
    data: int, n_subjects: int, mixed: float, wanted: int, seed: int, n_repeats: int
) -> None:
    labels, subjects = clinic(n_subjects=n_subjects, p_sick=0.5, mixed=mixed, mean_recordings=2, seed=data)
    accepted = [k for k in range(2, wanted + 1) if accepts(labels, subjects, k, seed, n_repeats)]
    if accepted:
        found = most_folds(labels, subjects, wanted, seed=seed, n_repeats=n_repeats)
        assert found == max(accepted)
    else:
        with pytest.raises(ValueError, match=r"label '(sick|well)'"):
            most_folds(labels, subjects, wanted, seed=seed, n_repeats=n_repeats)


def test_most_folds_by_hand() -> None:
    assert [most_folds(LABELS_9, SUBJECTS_9, wanted) for wanted in (3, 5, 10)] == [3, 3, 3]
    assert [most_folds(LABELS_9[1:] + ["sick"] * 2, [f"s{i}" for i in range(10)], k) for k in (2, 3, 9)] == [
        2,
        3,
        4,
    ]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_labels_of_fewer_subjects_are_nested_and_the_rest_is_unlabelled(seed: int) -> None:
    labels, subjects = clinic(n_subjects=120, p_sick=0.4, seed=seed)
    fold = grouped_folds(labels, subjects, n_folds=3, seed=seed)[0]
    known = np.concatenate([fold.train, fold.dev])
    n_known = len(np.unique(subjects[known]))
    smaller: set[str] = set()
    for share in (0.05, 0.25, 0.6):
        part = fewer_subjects(fold, labels, subjects, share, seed=seed)
        check_disjoint(part, subjects)
        np.testing.assert_array_equal(part.test, fold.test)
        everything = np.concatenate([part.train, part.dev, part.unlabelled])
        np.testing.assert_array_equal(np.sort(everything), np.sort(known))
        labelled = np.concatenate([part.train, part.dev])
        for side in (part.train, part.dev):
            assert set(labels[side]) == {"sick", "well"}
        kept = set(subjects[labelled])
        assert smaller <= kept
        smaller = kept
        # A class's first 4 subjects are kept whatever the share.
        assert np.ceil(share * n_known) <= len(kept) <= np.ceil(share * n_known) + 8
        assert part.note == f"labels of {len(kept)} of {n_known} training subjects"
    assert fewer_subjects(fold, labels, subjects, 1.0, seed=seed) == fold


def test_merged_subjects_join_in_chains_under_the_first_name() -> None:
    subjects = ["d", "b", "a", "c", "e", "b"]
    assert merge_subjects(subjects, [("c", "d"), ("b", "c")]).tolist() == ["b", "b", "a", "b", "e", "b"]
    assert merge_subjects(subjects, [("e", "a"), ("a", "e")]).tolist() == ["d", "b", "a", "c", "a", "b"]
    assert merge_subjects(subjects, []).tolist() == subjects


@given(pairs=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12))
def test_merged_subjects_are_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    reach = np.eye(8, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for _ in range(8):
        reach = reach @ reach
    expected = [str(int(row.argmax())) for row in reach]  # the first subject that can be reached
    assert merge_subjects(list("01234567"), [(str(a), str(b)) for a, b in pairs]).tolist() == expected


SUBJECTS_9 = [f"s{i}" for i in range(9)]
LABELS_9 = ["sick"] * 3 + ["well"] * 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grouped_folds(LABELS_9, SUBJECTS_9, n_folds=1), r"n_folds is 1; at least 2"),
        (lambda: grouped_folds(LABELS_9, SUBJECTS_9, repeat=-1), r"repeat is -1; repeats count from 0"),
        (
            lambda: grouped_folds(LABELS_9, SUBJECTS_9, n_folds=5),
            r"label 'sick' has 3 subjects; 5 folds with train, dev and test need 5; use 3 folds",
        ),
        (
            lambda: grouped_folds(LABELS_9, SUBJECTS_9, n_folds=2),
            r"2 folds .* need 4; add subjects, or leave",
        ),
        (lambda: grouped_folds(LABELS_9, SUBJECTS_9[:4]), r"9 labels for 4 subjects"),
        (
            lambda: grouped_folds(["", *LABELS_9[1:]], SUBJECTS_9),
            r"1 recordings have no label; divide the lab",
        ),
        (lambda: grouped_folds(LABELS_9, ["", *SUBJECTS_9[1:]]), r"1 recordings have no subject"),
        (lambda: grouped_folds([], []), r"no recordings to divide"),
        (
            # A stands in 1 2 3, B in 1 2 4, so 3 and 4 share a part; C in 3 4 5 wants them apart.
            lambda: grouped_folds(list("ABABACBCC"), list("112233445"), n_folds=3),
            r"label '[ABC]' cannot stand in all of 3 parts with its subjects whole; use fewer folds",
        ),
        (
            lambda: leave_one_site_out(LABELS_9, SUBJECTS_9, ["x"] * 9),
            r"only one site, 'x'; .* grouped folds",
        ),
        (lambda: leave_one_site_out(LABELS_9, SUBJECTS_9, ["", *"xxyyxxyy"]), r"1 recordings have no site"),
        (lambda: leave_one_site_out(LABELS_9, SUBJECTS_9, ["x"] * 3), r"3 sites for 9 recordings"),
        (
            lambda: leave_one_site_out(LABELS_9, SUBJECTS_9, list("xxyxxxyyy")),
            r"without site 'x', label 'sick' has 1 of 2 subjects needed for train and dev; leave out",
        ),
        (
            lambda: leave_one_site_out(LABELS_9, SUBJECTS_9, list("xxyxxxyyy"), only="z"),
            r"no site 'z'; sites are x, y$",
        ),
        (
            lambda: most_folds(LABELS_9[1:], SUBJECTS_9[1:], 5),
            r"label 'sick' has 2 subjects; 3 folds .* need 3; add subjects, or leave this class out",
        ),
        (
            lambda: most_folds(LABELS_9, SUBJECTS_9, 2),
            r"label 'sick' has 3 subjects; 2 folds .* need 4; use 3 folds, add subjects",
        ),
        (
            lambda: most_folds(list("ABABACBCC"), list("112233445"), 5),
            r"no number of folds up to 5 is possible: label '[ABC]' cannot stand in all of 3 parts",
        ),
        (lambda: most_folds(LABELS_9, SUBJECTS_9, 1), r"wanted is 1 and n_repeats 1; at least 2 folds"),
        (
            lambda: predefined(["train", "test"], ["a", "b"], ["u", "u"]),
            r"no recording has split 'dev'; name all three",
        ),
        (
            lambda: predefined(["train", "dev", "val"], list("abc"), list("uuu")),
            r"split is 'val'; use train, dev, test",
        ),
        (
            lambda: predefined(["train", "dev", "test", "test"], list("abac"), list("uuuu")),
            r"fold predefined: subject 'a' stands in train and in test; give all recordings",
        ),
        (
            lambda: predefined(["train", "dev", "dev", "test"], list("abcd"), list("uuvv")),
            r"no recording with label 'v' has split 'train'; give it to some of that label's subjects, blank",
        ),
        (
            lambda: predefined(["train", "train", "dev", "test"], list("abcd"), list("uvvu")),
            r"no recording with label 'u' has split 'dev'; .* or use grouped folds",
        ),
        (
            lambda: predefined(["train", "dev", "test"], list("abc"), ["u", "", "u"]),
            r"1 recordings with a split have no label",
        ),
        (lambda: predefined(["train"], ["a", "b"], ["u"]), r"1 splits for 2 subjects and 1 labels"),
        (lambda: merge_subjects(["a"], [("a", "z")]), r"no recording has subject 'z'"),
        (
            lambda: check_disjoint(
                Fold("f", np.array([0, 1]), np.array([2, 3]), np.array([4])), ["a", "b", "a", "b", "c"]
            ),
            r"fold f: subject 'a' stands in train and in dev \(and 1 more\)",
        ),
    ],
)
def test_bad_input_says_what_was_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
