"""What the runs of ``adaptation.py`` come to: views without a network, self-training, nested choices, intervals.

    python recipes/adaptation_table.py     recipes/results/adaptation.jsonl

Reads OUT/data.npz and OUT/runs. A method is in the table with the seeds for which all six databases are done. The
views without a network need no seed; their combination with the networks has one for each of the networks'.

What is combined, and how much self-training keeps, is chosen for each target on its sources alone: each source in
turn is scored by views fitted on the other sources (never the target), and of all combinations the one with the
highest mean AUROC there is taken, sources weighing by the inverse variance that their AUROC has by chance. The
networks of this nested round are those of seed 0 without the target (``adaptation.py --without``); one row, added
later, takes those of each seed.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from adaptation import HEART_INPUTS, LOGMEL, OUT, SEEDS, WINDOW_FRAMES, Data, load
from numpy.typing import NDArray
from tables import RESULTS

from vagitus.adapt import METHODS, control_of, regime_of
from vagitus.adapt.selection import RULES, Candidate, choose
from vagitus.adapt.self_training import distil_sources, rank_shares, self_train
from vagitus.adapt.transport import standardise_sites
from vagitus.corpora import load_corpus
from vagitus.cycles import HEART_PHASES, Consensus, within_site_ranks
from vagitus.dataset import logmel_statistics
from vagitus.features import featurise_file
from vagitus.files import write_atomic
from vagitus.metrics import auroc, statistic, uar
from vagitus.shift import measure_shift
from vagitus.statistics import Comparison, paired_bootstrap, subject_bootstrap
from vagitus.study import versions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHARES = (0.0, 0.1, 0.2, 0.4, 0.6)  # of the target that self-training keeps; 0: none
PENALTY_VIEW, PENALTY_TAUGHT = 1e-3, 1e-2  # C of the logistic regressions, of a view and of what is taught
N_GROUPS = 8  # of bands
MOST_DEVIATIONS = 4.0
MAIN = ("a", "b", "e", "f")  # c and d are tiny
N_RESAMPLES = 500
ALONE = ", sources alone"
KNOWN_ALONE = tuple(f"{view}{ALONE}" for view in ("consensus phase", "consensus map", "logistic phase"))
EVERY_VIEW = ("consensus phase", "consensus map", "logistic phase", "network")
FIXED_SHARE = 0.2
CHOSEN_ANEW = "combined + self-training, chosen with the nested networks of each seed"
MARKED_PLACED = "all views, marked recordings placed"
Scores = dict[
    int, Floats
]  # seed -> (n,) share of rank at each recording's own site, NaN where it was not tested


ASKED_MINUTES, ASKED_CORES = 60, 2  # for what TIMED_METHODS take on one input, three seeds
TIMED_METHODS = ("source", "hafn", "safn", "entropy", "dann", "adabn", "tni", "steps", "steps+adabn")


class Views(NamedTuple):
    """What the views without a network see: rows are usable recordings."""

    rows: Ints
    labels: Ints
    sites: NDArray[np.str_]
    phase_ranks: Floats
    phase: Floats  # standardised per site
    map_ranks: Floats
    maps: Floats
    raw_phase: Floats  # as they are
    raw_maps: Floats

    @classmethod
    def of(cls, data: Data) -> "Views":
        rows = np.flatnonzero(data.usable)
        sites, phase = data.sites[rows], data.phase[rows]
        grouped = data.maps[rows].reshape(len(rows), N_GROUPS, -1, sum(HEART_PHASES.values())).mean(axis=2)
        maps = grouped.reshape(len(rows), -1)

        def standardised(x: Floats) -> Floats:
            return np.clip(standardise_sites(x, sites), -MOST_DEVIATIONS, MOST_DEVIATIONS)

        return cls(
            rows,
            data.labels[rows],
            sites,
            within_site_ranks(phase, sites) - 0.5,
            standardised(phase),
            within_site_ranks(maps, sites) - 0.5,
            standardised(maps),
            phase,
            maps,
        )

    def score(self, train: NDArray[np.bool_], test: NDArray[np.bool_]) -> dict[str, Floats]:
        """Shares of rank of the test recordings by each view fitted on the training ones."""

        def consensus(x: Floats) -> Floats:
            fitted = Consensus.fit(x[train], self.labels[train], self.sites[train])
            return np.asarray(x[test] @ fitted.weights)

        return {
            "consensus phase": rank_shares(consensus(self.phase_ranks)),
            "consensus map": rank_shares(consensus(self.map_ranks)),
            "logistic phase": rank_shares(
                logistic(self.phase[train], self.labels[train], self.phase[test], PENALTY_VIEW)
            ),
        }

    def score_alone(self, train: NDArray[np.bool_], test: NDArray[np.bool_]) -> dict[str, Floats]:
        """The same with nothing of the target but the one recording that is scored: placed among the sources'."""
        found = {}
        for name, raw, ranks in (
            ("consensus phase", self.raw_phase, self.phase_ranks),
            ("consensus map", self.raw_maps, self.map_ranks),
        ):
            fitted = Consensus.fit(ranks[train], self.labels[train], self.sites[train])
            places = np.mean(
                [
                    place_among(raw[train & (self.sites == s)], raw[test])
                    for s in np.unique(self.sites[train])
                ],
                axis=0,
            )
            found[f"{name}{ALONE}"] = rank_shares((places - 0.5) @ fitted.weights)
        mean, deviation = self.raw_phase[train].mean(axis=0), self.raw_phase[train].std(axis=0) + 1e-9
        z = np.clip((self.raw_phase - mean) / deviation, -MOST_DEVIATIONS, MOST_DEVIATIONS)
        found[f"logistic phase{ALONE}"] = rank_shares(
            logistic(z[train], self.labels[train], z[test], PENALTY_VIEW)
        )
        return found


def place_among(site: Floats, new: Floats) -> Floats:
    """Where each feature of new recordings would rank among a site's, from 0 to 1."""
    return np.stack(
        [
            (np.searchsorted(column, value, "left") + np.searchsorted(column, value, "right"))
            / (2 * len(column))
            for column, value in zip(np.sort(site, axis=0).T, new.T, strict=True)
        ],
        axis=1,
    )


def logistic(x: Floats, y: Ints, new: Floats, c: float = PENALTY_TAUGHT) -> Floats:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, class_weight="balanced", max_iter=300).fit(x, y)
    return np.asarray(model.decision_function(new))


def read_runs() -> list[dict[str, Any]]:
    """The runs on heart sounds that are done."""
    runs = [json.loads(path.read_text()) for path in sorted((OUT / "runs").glob("*.json"))]
    return [run for run in runs if run["input"] in WINDOW_FRAMES]


def network_shares(
    runs: Sequence[dict[str, Any]], views: Views, what: str, method: str, seed: int, site: str, without: str
) -> Floats | None:
    """Shares of rank that a network's run gives the recordings of a site, in the order of ``views``."""
    for run in runs:
        key = (run["input"], run["method"], run["seed"], run["site"], run["without"])
        if key == (what, method, seed, site, without) and "test_margins" in run:
            wanted = views.rows[views.sites == site]
            if not np.array_equal(np.array(run["test"]), wanted):
                raise ValueError(f"{key}: other recordings than data.npz holds; remove out/ and start anew")
            return rank_shares(np.array(run["test_margins"]))
    return None


PARTS = ("consensus phase", "consensus map", "logistic phase", "network", "network adabn")
Combination = tuple[tuple[str, ...], float]


def combinations_of(parts: Sequence[str]) -> list[Combination]:
    chosen = [c for n in range(1, len(parts) + 1) for c in combinations(parts, n)]
    return [(c, share) for c in chosen for share in SHARES]


def scores_of(combination: Combination, parts: Mapping[str, Floats], second: Floats) -> Floats:
    names, share = combination
    first = np.mean([parts[name] for name in names], axis=0)
    if not share:
        return np.asarray(first)
    return self_train(first, second, logistic, kept_share=share).scores


class Chosen(NamedTuple):
    """What the sources of one target chose, and their own nested scores."""

    with_self_training: Combination
    without_self_training: Combination
    source_parts: dict[str, dict[str, Floats]]  # site -> view -> shares, fitted without target and site


def choose_on_sources(
    views: Views, runs: Sequence[dict[str, Any]], target: str, without: str, seed: int = SEEDS[0]
) -> Chosen:
    sources = [str(s) for s in np.unique(views.sites) if s not in (target, without)]
    source_parts = {}
    values: dict[Combination, float] = {}
    for site in sources:
        test = views.sites == site
        train = np.isin(views.sites, [s for s in sources if s != site])
        parts = views.score(train, test)
        if not without:
            for name, method in (("network", "source"), ("network adabn", "adabn")):
                shares = network_shares(runs, views, "map", method, seed, site, target)
                if shares is not None:
                    parts[name] = shares
        source_parts[site] = parts
    common = [name for name in PARTS if all(name in parts for parts in source_parts.values())]
    for site, parts in source_parts.items():
        test = views.sites == site
        y = views.labels[test]
        weight = y.sum() * (1 - y).sum() / (len(y) + 1)
        for combination in combinations_of(common):
            value = auroc(y, scores_of(combination, parts, views.maps[test]))
            values[combination] = values.get(combination, 0.0) + weight * value
    plain = {combination: value for combination, value in values.items() if not combination[1]}
    return Chosen(max(values, key=lambda c: values[c]), max(plain, key=lambda c: plain[c]), source_parts)


def all_scores(data: Data, views: Views, runs: Sequence[dict[str, Any]], without: str = "") -> dict[str, Any]:
    """Scores of every method: {name: {seed: shares}}, and what was chosen for each target."""
    n = len(data.labels)
    found: dict[str, Scores] = {}
    chosen: dict[str, Any] = {}

    def put(name: str, seed: int, site: str, shares: Floats) -> None:
        row = found.setdefault(name, {}).setdefault(seed, np.full(n, np.nan))
        row[data.sites == site] = 0.5  # those without a cycle get the middle of the ranking
        row[views.rows[views.sites == site]] = shares

    whole = standardise_sites(logmel_statistics(data.logmel), data.sites)
    for site in np.unique(data.sites).tolist():
        if site == without:
            continue
        test = views.sites == site
        train = ~test & (views.sites != without)
        parts = views.score(train, test)
        alone = views.score_alone(train, test)
        picked = choose_on_sources(views, runs, site, without)
        second = views.maps[test]
        y = views.labels[test]
        for seed in SEEDS:
            own = dict(parts)
            for name, method in (("network", "source"), ("network adabn", "adabn")):
                shares = network_shares(runs, views, "map", method, seed, site, without)
                if shares is not None:
                    own[name] = shares
            for name, shares in (parts | alone).items():
                put(name, seed, site, shares)
            needed = set(picked.with_self_training[0]) | set(picked.without_self_training[0])
            # A rule without any choice: every view with the same weight.
            everything = tuple(name for name in EVERY_VIEW if name in own)
            if everything == EVERY_VIEW:
                put("all views", seed, site, scores_of((everything, 0.0), own, second))
                put(MARKED_PLACED, seed, site, scores_of((everything, 0.0), own, second))
                place_marked(found[MARKED_PLACED][seed], data, whole, site, without)
                put(
                    "all views + self-training", seed, site, scores_of((everything, FIXED_SHARE), own, second)
                )
            if not needed <= set(own):
                continue
            put("combined", seed, site, scores_of(picked.without_self_training, own, second))
            put("combined + self-training", seed, site, scores_of(picked.with_self_training, own, second))
            anew = picked
            if not without and seed != SEEDS[0]:
                anew = choose_on_sources(views, runs, site, without, seed)
            has_networks = all("network adabn" in nested for nested in anew.source_parts.values())
            if has_networks and set(anew.with_self_training[0]) <= set(own):
                put(CHOSEN_ANEW, seed, site, scores_of(anew.with_self_training, own, second))
            names, share = picked.with_self_training
            first = np.mean([own[name] for name in names], axis=0)
            if share:
                order = list(picked.source_parts)
                source_first = np.concatenate(
                    [np.mean([picked.source_parts[s][name] for name in names], axis=0) for s in order]
                )
                source_second = np.concatenate([views.maps[views.sites == s] for s in order])
                first = distil_sources(source_first, source_second, first, second, logistic, kept_share=share)
            put("control: distilled from sources", seed, site, first)
            options = {c: scores_of(c, own, second) for c in combinations_of(sorted(own))}
            best = max(options, key=lambda c: auroc(y, options[c]))
            put("oracle combination", seed, site, options[best])
        chosen[site] = {
            "combined": list(picked.without_self_training[0]),
            "with self-training": list(picked.with_self_training[0]),
            "kept_share": picked.with_self_training[1],
        }
    for run in runs:
        if run["without"] == without and "test_margins" in run:
            shares = rank_shares(np.array(run["test_margins"]))
            put(f"{run['input']} {run['method']}", run["seed"], run["site"], shares)
            if "labelled" in run:  # those whose labels were read are no part of what is measured
                row = found[f"{run['input']} {run['method']}"][run["seed"]]
                row[np.array(run["test"])[run["labelled"]]] = np.nan
    if not without:
        for rule in sorted(set(RULES) - {"source-leave-one-out"}):
            for site in np.unique(data.sites).tolist():
                for seed in SEEDS:
                    taken = chosen_by(rule, data, runs, site, seed)
                    if taken is not None:
                        put(f"map chosen by {rule}", seed, site, rank_shares(np.array(taken["test_margins"])))
    return {"scores": found, "chosen": chosen}


def place_marked(row: Floats, data: Data, whole: Floats, site: str, without: str) -> None:
    """Recordings without a cycle, in place: where a model of the sources' whole recordings ranks them at the target.

    A logistic regression of statistics of the mean-free log-mel, standardised per site, in place of the middle.
    """
    train, test = ~np.isin(data.sites, (site, without)), data.sites == site
    ranked = rank_shares(logistic(whole[train], data.labels[train], whole[test], PENALTY_VIEW))
    row[test] = np.where(data.usable[test], row[test], ranked)


def chosen_by(
    rule: str, data: Data, runs: Sequence[dict[str, Any]], site: str, seed: int
) -> dict[str, Any] | None:
    """Of all methods on the map network, the run that a selection rule takes; its features are the margins alone."""
    own = {
        run["method"]: run
        for run in runs
        if (run["input"], run["site"], run["seed"], run["without"]) == ("map", site, seed, "")
        and "test_margins" in run
        and (run["method"] == "source" or not is_apart(run["method"]))
    }
    if len(own) < 2:
        return None
    candidates = {}
    for method, run in own.items():
        dev, test = np.array(run["dev_margins"]), np.array(run["test_margins"])
        p = 1 / (1 + np.exp(-test))
        signed = np.where(data.labels[run["dev"]] == 1, dev, -dev)
        candidates[method] = Candidate(
            dev[:, None],
            np.logaddexp(0, -signed),
            test[:, None],
            np.stack([1 - p, p], axis=1),
            target_score=auroc(data.labels[run["test"]], test),
        )
    return own[choose(candidates, rule)[0]]


def is_apart(method: str) -> bool:
    """Controls are there to be beaten, and labels make another regime: neither is a candidate."""
    names = method.split(" ", maxsplit=1)[0].split("+")
    return any(METHODS[name].is_control or METHODS[name].regime == "labels" for name in names)


def site_statistic(data: Data, shares: Floats, metric: str, sites: Sequence[str]) -> Any:
    """The mean over sites of a metric, as a function of the recordings' weights; the threshold is the median."""
    parts = []
    for site in sites:
        rows = np.flatnonzero((data.sites == site) & np.isfinite(shares))
        s = np.clip(shares[rows], 0, 1)
        called = (s >= np.median(s)).astype(np.int64)
        parts.append((rows, statistic(metric, data.labels[rows], np.stack([1 - s, s], axis=1), called)))

    def mean(weights: Floats) -> Floats:
        return np.asarray(np.nanmean([part(weights[:, rows]) for rows, part in parts], axis=0))

    return mean


def compared(
    data: Data, arm: Scores, baseline: Scores, metric: str, sites: Sequence[str]
) -> dict[str, float] | None:
    seeds = sorted(set(arm) & set(baseline))
    if not seeds:
        return None
    # Whose labels were read is measured on neither side.
    tested = {seed: np.isfinite(arm[seed]) & np.isfinite(baseline[seed]) for seed in seeds}
    after, before = (
        [site_statistic(data, np.where(tested[s], one[s], np.nan), metric, sites) for s in seeds]
        for one in (arm, baseline)
    )
    found: Comparison = paired_bootstrap(
        after,
        before,
        np.arange(len(data.labels)),
        rng=np.random.default_rng(0),
        n_resamples=N_RESAMPLES,
        strata=np.char.add(data.sites, data.labels.astype(np.str_)),
    )
    return {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}


def regime(name: str) -> str:
    """What of the target a row used."""
    method = name.partition(" ")[2]
    if method in ("source", "") or name.endswith(ALONE):
        return "nothing"
    head = method.split(" ")[0]
    if head.split("+")[0] in METHODS:
        return regime_of(head)
    return "labels (oracle)" if "oracle" in name else "unlabelled"


def baselines(name: str) -> tuple[str, ...]:
    """What a row is set beside: where it began, and its control."""
    what, _, method = name.partition(" ")
    if method.startswith("chosen by"):
        return ("map source",)
    if what in ("map", "logmel") and method != "source":
        head = method.split(" ")[0]
        controls = [control_of(head)] if control_of(head) else []
        if head == "few-labels":
            controls.append("steps")  # without the target's statistics too
        return (f"{what} source", *(f"{what} {control}" for control in controls), "logmel source")
    if name == MARKED_PLACED:
        return ("all views",)
    if name.startswith("combined + "):
        return ("combined", "control: distilled from sources", *KNOWN_ALONE, "map source", "logmel source")
    if not name.endswith(ALONE) and f"{name}{ALONE}" in KNOWN_ALONE:
        return (f"{name}{ALONE}", "map source", "logmel source")
    return ("map source", "logmel source") if what not in ("map", "logmel") else ("logmel source",)


def collect() -> list[dict[str, Any]]:
    data, runs = load(), read_runs()
    views = Views.of(data)
    made = all_scores(data, views, runs)
    sites = np.unique(data.sites).tolist()
    complete = {
        name: {
            seed: s
            for seed, s in by_seed.items()
            if all(np.isfinite(s[data.sites == x]).any() for x in sites)
        }
        for name, by_seed in made["scores"].items()
    }
    complete = {name: by_seed for name, by_seed in complete.items() if by_seed}
    lines: list[dict[str, Any]] = [
        {
            "kind": "adaptation",
            "data": "physionet2016",
            "n_recordings": len(data.labels),
            "n_without_cycle": {s: int((~data.usable & (data.sites == s)).sum()) for s in sites},
            "chosen": made["chosen"],
            "versions": versions(),
        }
    ]
    units = np.arange(len(data.labels))
    strata = np.char.add(data.sites, data.labels.astype(np.str_))
    without_e = all_scores(data, views, runs, without="e")["scores"]
    for name, by_seed in complete.items():
        line: dict[str, Any] = {"kind": "row", "name": name, "regime": regime(name), "seeds": sorted(by_seed)}
        for metric in ("auroc", "uar"):
            for label, some in (("all six", sites), ("a, b, e, f", MAIN)):
                interval = subject_bootstrap(
                    [site_statistic(data, s, metric, some) for s in by_seed.values()],
                    units,
                    rng=np.random.default_rng(0),
                    n_resamples=N_RESAMPLES,
                    strata=strata,
                )
                line[f"{metric}, {label}"] = {
                    "estimate": interval.estimate,
                    "low": interval.low,
                    "high": interval.high,
                }
            line[f"{metric} by site"] = {
                site: float(
                    np.mean(
                        [
                            site_statistic(data, s, metric, [site])(np.ones((1, len(units))))[0]
                            for s in by_seed.values()
                        ]
                    )
                )
                for site in sites
            }
            line[f"gain in {metric}"] = {
                other: found
                for other in baselines(name)
                if other in complete
                and other != name
                and (found := compared(data, by_seed, complete[other], metric, sites)) is not None
            }
        if name in without_e:
            others = [s for s in sites if s != "e"]
            line["auroc, e left out of everything"] = float(
                np.mean(
                    [
                        site_statistic(data, s, "auroc", others)(np.ones((1, len(units))))[0]
                        for s in without_e[name].values()
                    ]
                )
            )
        line |= source_side(name, runs, data)
        lines.append(line)
    lines += time_taken(runs)
    lines.append({"kind": "shift", **shift(data, views)})
    return lines


def source_side(name: str, runs: Sequence[dict[str, Any]], data: Data) -> dict[str, Any]:
    """On the sources' dev part: AUROC, and its paired change from the source network; at the target: balanced accuracy
    with the threshold set there."""
    what, _, method = name.partition(" ")
    own = by_fold(runs, what, method)
    if not own:
        return {}
    at_target = []
    for run in own.values():
        y, margin = data.labels[run["dev"]], np.array(run["dev_margins"])
        thresholds = np.unique(margin)
        recalls = [uar(y, (margin >= t).astype(np.int64)) for t in thresholds]
        threshold = float(thresholds[int(np.argmax(recalls))])
        rows = np.setdiff1d(np.arange(len(run["test"])), run.get("labelled", []))
        labels = data.labels[np.array(run["test"])[rows]]
        at_target.append(uar(labels, (np.array(run["test_margins"])[rows] >= threshold).astype(np.int64)))
    line: dict[str, Any] = {
        "source auroc": float(
            np.mean([auroc(data.labels[run["dev"]], run["dev_margins"]) for run in own.values()])
        ),
        "uar at the sources' threshold": float(np.mean(at_target)),
    }
    before = by_fold(runs, what, "source")
    seeds = [
        seed for seed in SEEDS if all((seed, s) in own and (seed, s) in before for s in np.unique(data.sites))
    ]
    if method != "source" and seeds:
        change = paired_bootstrap(
            [dev_statistic(data, own, seed) for seed in seeds],
            [dev_statistic(data, before, seed) for seed in seeds],
            np.arange(len(data.labels)),
            rng=np.random.default_rng(0),
            n_resamples=N_RESAMPLES,
            strata=np.char.add(data.sites, data.labels.astype(np.str_)),
        )
        line["change of source auroc"] = {
            "difference": change.difference,
            "low": change.low,
            "high": change.high,
            "p": change.p,
        }
    return line


def by_fold(runs: Sequence[dict[str, Any]], what: str, method: str) -> dict[tuple[int, str], dict[str, Any]]:
    """The runs of a method on all six databases' folds, by seed and target."""
    return {
        (run["seed"], run["site"]): run
        for run in runs
        if (run["input"], run["method"], run["without"]) == (what, method, "") and "test_margins" in run
    }


def dev_statistic(data: Data, of_fold: Mapping[tuple[int, str], dict[str, Any]], seed: int) -> Any:
    """The mean over targets of the AUROC on the dev part of that target's sources, as a function of the weights."""
    parts = []
    for site in np.unique(data.sites):
        run = of_fold[seed, site]
        rows, margin = np.array(run["dev"]), np.array(run["dev_margins"])
        p = 1 / (1 + np.exp(-margin))
        called = (margin >= 0).astype(np.int64)
        parts.append((rows, statistic("auroc", data.labels[rows], np.stack([1 - p, p], axis=1), called)))

    def mean(weights: Floats) -> Floats:
        return np.asarray(np.nanmean([part(weights[:, rows]) for rows, part in parts], axis=0))

    return mean


def time_taken(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """CPU seconds of the source, the thesis's six methods and the controls, from cached features, by input."""
    lines = []
    for what in HEART_INPUTS:
        own = [r for r in runs if (r["input"], r["without"]) == (what, "") and r["method"] in TIMED_METHODS]
        counted = [r for r in own if "cpu_seconds" in r]
        lines.append(
            {
                "kind": "time",
                "input": what,
                "methods": sorted({r["method"] for r in counted}),
                "seeds": sorted({r["seed"] for r in counted}),
                "n_jobs": len(counted),
                "n_jobs_without_a_time": len(own) - len(counted),
                "cpu_s": round(sum(r["cpu_seconds"] for r in counted), 1),
                "wall_s": round(sum(r["seconds"] for r in counted), 1),
                "cores": ASKED_CORES,
                "asked_minutes": ASKED_MINUTES,
            }
        )
    return lines


def shift(data: Data, views: Views) -> dict[str, Any]:
    """What tells the databases apart, by log-mel as it is; flips are looked for in the phase features."""
    rows = views.rows
    manifest = load_corpus("physionet2016")
    if not np.array_equal(manifest.path, data.names):
        raise ValueError("physionet2016 holds other recordings than data.npz; run adaptation.py --prepare")
    plain = LOGMEL.vary(normalisation="none")
    found = measure_shift(
        [featurise_file(manifest.file(int(i)), plain) for i in rows],
        LOGMEL.frames_per_s,
        data.sites[rows],
        data.names[rows],
        labels=data.labels[rows],
        class_names=("normal", "abnormal"),
        features=(data.phase[rows], data.phase_names),
    )
    return found.to_json()


def main() -> None:
    lines = collect()
    write_atomic(RESULTS / "adaptation.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        if line["kind"] == "row":
            by_site = " ".join(f"{s} {v:.3f}" for s, v in line["auroc by site"].items())
            print(
                f"{line['name']:34} {len(line['seeds'])} seeds  AUROC {line['auroc, all six']['estimate']:.3f}  "
                f"BA {line['uar, all six']['estimate']:.3f}  {by_site}"
            )


if __name__ == "__main__":
    main()
