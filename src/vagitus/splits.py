"""Folds in which no subject stands on two sides.

Conventions
    labels      (n_recordings,) names or class indices; every recording is labelled: divide
                ``manifest.labelled()``.
    subjects    (n_recordings,) names, never blank.
    n_folds     ≥ 2; every subject is tested exactly once per repeat.
    Indices in a ``Fold`` point into the arrays given, ascending. The same seed and repeat give the same
    folds, in whatever order the recordings come. There is no option to let a subject stand on two sides.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.manifest import subjects_needed

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Dev, a fifth of what is not tested, chooses epochs and thresholds: 5 folds give 64 % train, 16 % dev.
N_DEV_PARTS = 5
# Fresh random orders to try before saying that a class cannot stand in every part.
N_ATTEMPTS = 20


class Fold(NamedTuple):
    """One division of the recordings; ``note`` says what a reader of its numbers must know.

    ``unlabelled`` are recordings of the training side whose labels no arm may read (``fewer_subjects``).
    """

    name: str
    train: Ints
    dev: Ints
    test: Ints
    note: str = ""
    unlabelled: Ints = np.empty(0, np.int64)


def grouped_folds(
    labels: ArrayLike,
    subjects: ArrayLike,
    *,
    n_folds: int = 5,
    seed: int = 0,
    repeat: int = 0,
    class_names: Sequence[str] = (),
) -> list[Fold]:
    """Stratified folds that keep every subject whole, each with a dev part made the same way.

    Subjects are dealt one at a time, those that weigh most first, to the part where they crowd their own
    classes least. With w_s the subject's share of every class, in recordings and in subjects, and W_f the
    sum of w over part f, subject s goes to

        argmin_f W_f · w_s,

    the greedy descent on Σ_f ‖W_f‖², which is least when all parts hold the same share of every class.
    Recordings and subjects both count, since metrics pool recordings and intervals resample subjects.
    Subjects of like weight and equal choices are taken in random order, so that repeats differ.

    Args:
        labels: (n_recordings,).
        subjects: (n_recordings,); a subject may hold several labels.
        n_folds: ≥ 2.
        seed: of the whole study.
        repeat: which repetition, ≥ 0; another one gives other folds.
        class_names: what messages call labels that are indices 0, 1, …; () for labels that are names.

    Returns:
        ``n_folds`` folds named ``repeat{r}-fold{f}``; every part of each holds every class.

    Raises:
        ValueError: a label or subject is blank, lengths differ, or a class has too few subjects to stand in
            train, dev and test of every fold; names the class and the way out.
    """
    names, y, group = _groups(labels, subjects, class_names)
    n_needed = subjects_needed(n_folds)
    if repeat < 0:
        raise ValueError(f"repeat is {repeat}; repeats count from 0")
    counts = _class_counts(y, group)
    n_subjects = (counts > 0).sum(axis=0)
    if n_subjects.min() < n_needed:
        scarce = int(n_subjects.argmin())
        n = int(n_subjects[scarce])
        fewer = f"use {n} folds, " if 3 <= n < n_folds else ""
        raise ValueError(
            f"label {names[scarce]!r} has {n} subject{'s' if n != 1 else ''}; {n_folds} folds with train, "
            f"dev and test need {n_needed}; {fewer}add subjects, or leave this class out"
        )
    rng = np.random.default_rng([seed, repeat])
    part = _deal(counts, n_folds, rng, names)
    folds = []
    for f in range(n_folds):
        is_dev = np.zeros(len(counts), dtype=bool)
        rest = np.flatnonzero(part != f)
        is_dev[rest] = _choose_dev(counts[rest], rng, names)
        folds.append(
            Fold(
                f"repeat{repeat}-fold{f}",
                train=np.flatnonzero((part != f)[group] & ~is_dev[group]),
                dev=np.flatnonzero(is_dev[group]),
                test=np.flatnonzero((part == f)[group]),
            )
        )
    return folds


def most_folds(
    labels: ArrayLike,
    subjects: ArrayLike,
    wanted: int,
    *,
    seed: int = 0,
    n_repeats: int = 1,
    class_names: Sequence[str] = (),
) -> int:
    """The largest number of folds, ``wanted`` or fewer, that ``grouped_folds`` accepts.

    Where every subject has one label, k ≥ 3 folds need k subjects a class and no more. Subjects under several
    labels, and two folds, may fail by the order of dealing: these are tried.

    Args:
        labels: (n_recordings,).
        subjects: (n_recordings,).
        wanted: ≥ 2.
        seed: as for ``grouped_folds``.
        n_repeats: ≥ 1; all of these repeats accept the number.
        class_names: as for ``grouped_folds``.

    Raises:
        ValueError: no number from 2 to ``wanted`` is accepted; names the class and the way out.
    """
    if wanted < 2 or n_repeats < 1:
        raise ValueError(f"wanted is {wanted} and n_repeats {n_repeats}; at least 2 folds and 1 repeat")
    names, y, group = _groups(labels, subjects, class_names)
    has = _class_counts(y, group) > 0
    n_subjects = has.sum(axis=0)
    is_mixed = bool((has.sum(axis=1) > 1).any())
    n_least = int(n_subjects.min())
    enough = [k for k in range(min(wanted, n_least), 1, -1) if subjects_needed(k) <= n_least]
    for k in enough:
        try:
            if k == 2 or is_mixed:
                for repeat in range(n_repeats):
                    grouped_folds(
                        labels, subjects, n_folds=k, seed=seed, repeat=repeat, class_names=class_names
                    )
            return k
        except ValueError as error:
            refused = error
    if enough:
        raise ValueError(f"no number of folds up to {wanted} is possible: {refused}")
    # Three folds need fewer subjects than two.
    fewest = min(range(2, wanted + 1), key=subjects_needed)
    more = "use 3 folds, " if n_least == 3 else ""
    raise ValueError(
        f"label {names[int(n_subjects.argmin())]!r} has {n_least} subject{'s' if n_least != 1 else ''}; "
        f"{fewest} folds with train, dev and test need {subjects_needed(fewest)}; {more}add subjects, or "
        "leave this class out"
    )


def leave_one_site_out(
    labels: ArrayLike,
    subjects: ArrayLike,
    sites: ArrayLike,
    *,
    seed: int = 0,
    only: str = "",
    class_names: Sequence[str] = (),
) -> list[Fold]:
    """One fold a site: it is tested, the others are trained on; dev comes from the other sites' subjects.

    A subject of the tested site who was also recorded elsewhere is left out of train and dev, and ``note``
    counts the recordings that this costs.

    Args:
        labels: (n_recordings,).
        subjects: (n_recordings,).
        sites: (n_recordings,), never blank.
        seed: chooses dev.
        only: the one site to test; its fold is that of the full call, and what leaving out another site
            would refuse does not matter. "" tests every site.
        class_names: as for ``grouped_folds``.

    Returns:
        Folds named by their site, sorted.

    Raises:
        ValueError: fewer than two sites, a blank one, ``only`` is none of them, or a class of which the other
            sites hold fewer than two subjects.
    """
    names, y, group = _groups(labels, subjects, class_names)
    site_of = np.asarray(sites).astype(np.str_)
    if len(site_of) != len(y):
        raise ValueError(f"{len(site_of)} sites for {len(y)} recordings")
    n_blank = int((site_of == "").sum())
    if n_blank:
        raise ValueError(f"{n_blank} recordings have no site; fill the column 'site' or leave them out")
    site_names: list[str] = np.unique(site_of).tolist()
    if len(site_names) < 2:
        raise ValueError(f"only one site, {site_names[0]!r}; leaving one out needs two: use grouped folds")
    if only and only not in site_names:
        raise ValueError(f"no site {only!r}; sites are {', '.join(site_names)}")
    folds = []
    for i, site in enumerate(site_names):  # i seeds dev: a site's fold is the same alone and among all
        if only not in ("", site):
            continue
        is_test = site_of == site
        is_tested_subject = np.zeros(group.max() + 1, dtype=bool)
        is_tested_subject[group[is_test]] = True
        is_source = ~is_test & ~is_tested_subject[group]
        n_excluded = int((~is_test & ~is_source).sum())
        n_subjects = np.array([len(np.unique(group[is_source & (y == k)])) for k in range(len(names))])
        if n_subjects.min() < 2:
            scarce = int(n_subjects.argmin())
            raise ValueError(
                f"without site {site!r}, label {names[scarce]!r} has {n_subjects[scarce]} of 2 subjects "
                "needed for train and dev; leave out that label or site"
            )
        chosen, source_group = np.unique(group[is_source], return_inverse=True)
        counts = np.zeros((len(chosen), len(names)))
        np.add.at(counts, (source_group, y[is_source]), 1)
        is_dev = np.zeros(len(is_tested_subject), dtype=bool)
        is_dev[chosen] = _choose_dev(counts, np.random.default_rng([seed, i]), names)
        notes = []
        if n_excluded:
            notes.append(f"{n_excluded} recordings from other sites left out: their subjects are tested here")
        held = np.unique(y[is_test])
        if len(held) == 1:
            notes.append(f"the tested site holds only {names[held[0]]!r}, so no AUROC exists")
        folds.append(
            Fold(
                site,
                train=np.flatnonzero(is_source & ~is_dev[group]),
                dev=np.flatnonzero(is_source & is_dev[group]),
                test=np.flatnonzero(is_test),
                note="; ".join(notes),
            )
        )
    return folds


def predefined(split: ArrayLike, subjects: ArrayLike, labels: ArrayLike) -> list[Fold]:
    """The one fold that a manifest's ``split`` column names; recordings with a blank split are in no part.

    Its ``note`` says which classes the test part lacks.

    Args:
        split: (n_recordings,) train, dev, test or blank.
        subjects: (n_recordings,).
        labels: (n_recordings,); those of recordings with a blank split do not matter.

    Raises:
        ValueError: a part is empty, another word than train, dev or test, a subject stands in two parts, a
            label is blank, or train or dev lacks a class that another part holds.
    """
    part, who, label = (np.asarray(values).astype(np.str_) for values in (split, subjects, labels))
    if not part.shape == who.shape == label.shape:
        raise ValueError(f"{len(part)} splits for {len(who)} subjects and {len(label)} labels")
    unknown = sorted(set(np.unique(part).tolist()) - {"", "train", "dev", "test"})
    if unknown:
        raise ValueError(f"split is {unknown[0]!r}; use train, dev, test or leave it blank")
    train, dev, test = (np.flatnonzero(part == name) for name in ("train", "dev", "test"))
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        if not len(rows):
            raise ValueError(f"no recording has split {name!r}; name all three parts, or use grouped folds")
    n_blank = int((label[part != ""] == "").sum())
    if n_blank:
        raise ValueError(f"{n_blank} recordings with a split have no label; divide the labelled ones")
    occurring, held = np.unique(label[part != ""]), np.unique(label[test])
    for name, rows in (("train", train), ("dev", dev)):
        missing = np.setdiff1d(occurring, label[rows])
        if len(missing):
            raise ValueError(
                f"no recording with label {str(missing[0])!r} has split {name!r}; give it to some of that "
                "label's subjects, blank the split of all of them, or use grouped folds"
            )
    note = ""
    if len(held) == 1 < len(occurring):
        note = f"the test part holds only {str(held[0])!r}, so no AUROC exists"
    elif len(held) < len(occurring):
        note = f"the test part lacks {', '.join(map(repr, np.setdiff1d(occurring, held).tolist()))}"
    fold = Fold("predefined", train, dev, test, note)
    check_disjoint(fold, who)
    return [fold]


def merge_subjects(subjects: ArrayLike, pairs: Iterable[tuple[str, str]]) -> NDArray[np.str_]:
    """Make one group of subjects that share audio, so that a copy cannot stand on the other side of a split.

    Args:
        subjects: (n_recordings,).
        pairs: two subjects that share audio, as ``Audit.duplicate_subjects`` lists them. Chains join: a-b and
            b-c make one group of three.

    Returns:
        (n_recordings,) subjects, each group under the name of its member that sorts first.

    Raises:
        ValueError: a pair names a subject that does not occur.
    """
    who = np.asarray(subjects).astype(np.str_)
    names, group = np.unique(who, return_inverse=True)
    index = {str(name): i for i, name in enumerate(names)}
    parent = list(range(len(names)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for pair in pairs:
        for name in pair:
            if name not in index:
                raise ValueError(f"no recording has subject {name!r}; pairs are made of subjects")
        a, b = (root(index[name]) for name in pair)
        parent[max(a, b)] = min(a, b)  # names are sorted: the smaller index sorts first
    return names[[root(i) for i in range(len(names))]][group]


def fewer_subjects(
    fold: Fold,
    labels: ArrayLike,
    subjects: ArrayLike,
    share: float,
    *,
    seed: int = 0,
    class_names: Sequence[str] = (),
) -> Fold:
    """The same test side with labels of only a share of the training side's subjects.

    Subjects are drawn in one random order for all shares, so that those of a smaller share are among those of
    a larger; of a class that would be left with fewer than two folds need, the next are drawn as well. What
    is kept is divided anew into train and dev; the other recordings become ``unlabelled``.

    Args:
        labels, subjects: (n_recordings,) of the dataset that ``fold`` indexes.
        share: of the subjects, in (0, 1]; 1 gives the fold back.
        seed: of the order.
        class_names: as for ``grouped_folds``.

    Raises:
        ValueError: ``share`` lies outside (0, 1], or a class has too few subjects whatever the share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of subjects must lie in (0, 1], got {share!r}")
    if share == 1:
        return fold
    known = np.sort(np.concatenate([fold.train, fold.dev]))
    names, y, group = _groups(np.asarray(labels)[known], np.asarray(subjects)[known], class_names)
    has = _class_counts(y, group) > 0  # (n_subjects, n_classes)
    order = np.random.default_rng(seed).permutation(len(has))
    # Of each class the first few in the order are kept even where the share would not reach them.
    rank_within_class = has[order].cumsum(axis=0) * has[order]
    needed = ((rank_within_class > 0) & (rank_within_class <= subjects_needed(2))).any(axis=1)
    n_kept = math.ceil(share * len(order) - 1e-9)  # .07 * 100 is a little over 7
    kept_subjects = order[(np.arange(len(order)) < n_kept) | needed]
    kept = np.isin(group, kept_subjects)
    own_y, own_group = y[kept], group[kept]
    n_parts = most_folds(own_y, own_group, N_DEV_PARTS, seed=seed, class_names=names)
    is_dev = np.zeros(kept.sum(), dtype=bool)
    is_dev[grouped_folds(own_y, own_group, n_folds=n_parts, seed=seed)[0].test] = True
    note = f"labels of {len(kept_subjects)} of {len(has)} training subjects"
    return Fold(
        fold.name,
        train=known[kept][~is_dev],
        dev=known[kept][is_dev],
        test=fold.test,
        note="; ".join(filter(None, (fold.note, note))),
        unlabelled=known[~kept],
    )


def check_disjoint(fold: Fold, subjects: ArrayLike) -> None:
    """Refuse a fold in which a subject stands on two sides.

    Raises:
        ValueError: names the fold, the subject and the two parts.
    """
    who = np.asarray(subjects).astype(np.str_)
    parts = {"train": fold.train, "dev": fold.dev, "test": fold.test, "unlabelled": fold.unlabelled}
    for first, second in combinations(parts, 2):
        shared = np.intersect1d(who[parts[first]], who[parts[second]])
        if len(shared):
            raise ValueError(
                f"fold {fold.name}: subject {str(shared[0])!r} stands in {first} and in {second}"
                f"{f' (and {len(shared) - 1} more)' if len(shared) > 1 else ''}; give all recordings of "
                "a subject the same part"
            )


def _groups(
    labels: ArrayLike, subjects: ArrayLike, class_names: Sequence[str] = ()
) -> tuple[list[str], Ints, Ints]:
    """Class names, class index and subject index per recording; subjects numbered in sorted order."""
    names, y = np.unique(np.asarray(labels).astype(np.str_), return_inverse=True)
    who, group = np.unique(np.asarray(subjects).astype(np.str_), return_inverse=True)
    if len(y) != len(group):
        raise ValueError(f"{len(y)} labels for {len(group)} subjects")
    if not len(y):
        raise ValueError("no recordings to divide")
    if names[0] == "":
        raise ValueError(f"{int((y == 0).sum())} recordings have no label; divide the labelled ones")
    if who[0] == "":
        raise ValueError(f"{int((group == 0).sum())} recordings have no subject; every one needs one")
    said = [class_names[int(name)] for name in names] if class_names else [str(name) for name in names]
    return said, y.astype(np.int64), group.astype(np.int64)


def _class_counts(y: Ints, group: Ints) -> Floats:
    """Recordings of each class per subject, (n_subjects, n_classes)."""
    counts = np.zeros((group.max() + 1, y.max() + 1))
    np.add.at(counts, (group, y), 1)
    return counts


def _deal(counts: Floats, n_parts: int, rng: np.random.Generator, names: list[str]) -> Ints:
    """The part (n_subjects,) of every subject, such that every part holds every class.

    Raises:
        ValueError: none of ``N_ATTEMPTS`` orders puts every class in every part.
    """
    has = counts > 0
    # (n_subjects, 2 n_classes): shares of each class's recordings and of each class's subjects.
    weight = np.hstack([counts / counts.sum(axis=0), has / has.sum(axis=0)])
    # Heavy subjects first, while every part has room. Steps are halvings of the heaviest; random within.
    size = np.linalg.norm(weight, axis=1)
    step = np.floor(np.log2(size / size.max()))
    for _ in range(N_ATTEMPTS):
        order = rng.permutation(len(counts))
        order = order[np.argsort(-step[order], kind="stable")]
        part = np.empty(len(counts), dtype=np.int64)
        load = np.zeros((n_parts, weight.shape[1]))
        first = rng.permutation(n_parts)  # which part wins when all are alike
        load = load[first]
        for s in order.tolist():
            w = weight[s]
            chosen = int((load @ w).argmin())
            load[chosen] += w
            part[s] = first[chosen]
        held = np.zeros((n_parts, counts.shape[1]), dtype=bool)
        np.logical_or.at(held, part, has)
        if held.all():
            return part
    missing = names[int((~held).any(axis=0).argmax())]
    raise ValueError(
        f"label {missing!r} cannot stand in all of {n_parts} parts with its subjects whole; use fewer folds, "
        "add subjects, or leave this class out"
    )


def _choose_dev(counts: Floats, rng: np.random.Generator, names: list[str]) -> NDArray[np.bool_]:
    """Which subjects (n_subjects,) are dev: one of ``N_DEV_PARTS`` parts, or as many as all classes fill."""
    n_parts = min(N_DEV_PARTS, int((counts > 0).sum(axis=0).min()))
    if n_parts < 2:
        scarce = names[int((counts > 0).sum(axis=0).argmin())]
        raise ValueError(
            f"label {scarce!r} has too few subjects outside the test part for train and dev; use fewer "
            "folds, add subjects, or leave this class out"
        )
    is_dev: NDArray[np.bool_] = _deal(counts, n_parts, rng, names) == 0
    return is_dev
