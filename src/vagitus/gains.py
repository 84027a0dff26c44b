"""What adapting gained at every site left out, and what it cost at the sources: lines of results.jsonl.

Conventions
    baseline    ``adapt:source``, the network that every method begins with, and each method's own control
    target      the site left out; source: the dev part of the other sites, which nothing was trained on
    gain        method minus baseline on the same resamples of subjects, paired
    unit        what is resampled; "recordings" where every recording is its own subject, so that intervals may be
                too narrow
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vagitus.adapt import control_of, is_control, regime_of
from vagitus.adapt.alarms import alarms, disagreement, opposed_sources
from vagitus.arms.adapted import PREFIX, SOURCE
from vagitus.dataset import logmel_statistics
from vagitus.jobs import Job
from vagitus.metrics import Statistic, statistic
from vagitus.plan import Plan, StudyConfig
from vagitus.results import Predictions, decide, settle
from vagitus.statistics import Comparison, paired_bootstrap

METRICS = ("auroc", "macro_auroc", "uar")
BASE = PREFIX + SOURCE


class _Scored:
    """What one arm says of some rows of the dataset: the target's of one fold, or its sources' dev part."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        probabilities: NDArray[np.float64],
        decisions: NDArray[np.int64],
    ) -> None:
        self.rows, self.labels = rows, labels[rows]
        self.probabilities, self.decisions = probabilities, decisions

    def statistic(self, metric: str) -> Statistic:
        return statistic(metric, self.labels, self.probabilities, self.decisions)


# Of one arm: repeat -> fold -> what it says.
Parts = list[list[_Scored]]


def gain_lines(
    predictions: Mapping[str, Predictions],
    done: Mapping[str, dict[str, Any]],
    plan: Plan,
    tested: NDArray[np.int64],
    config: StudyConfig,
) -> list[dict[str, Any]]:
    """Lines of kind "gain" for every adapted arm, site and metric, and over all sites (site ""); alarms of each site.

    Alarms are those of the first repeat, and none of a control: it is no choice. That a target's sources disagree
    stands once, at the arm that all begin with.

    Args:
        predictions: of every arm, calibrated.
        done: what the jobs left, by their names.
        plan: of a study with split "sites"; its repeats are averaged, and resampled in the intervals.
        tested: rows of the dataset that ``predictions`` are of.

    Returns:
        Nothing where no arm adapts.
    """
    if BASE not in predictions:
        return []
    dataset = plan.dataset
    unit = "recordings" if len(np.unique(dataset.groups)) == len(dataset) else "subjects"
    metrics = [name for name in METRICS if (name == "auroc") == (dataset.n_classes == 2) or name == "uar"]
    adapting = [arm for arm in predictions if arm.startswith(PREFIX)]
    targets = {arm: _targets(predictions[arm], plan, tested) for arm in adapting}
    sources = {arm: _sources(arm, plan, done, config) for arm in adapting}
    sites = [fold.name for fold in plan.repeats[0]]
    lines: list[dict[str, Any]] = []
    for arm in adapting:
        if arm == BASE:
            continue
        method = arm.removeprefix(PREFIX)
        control = PREFIX + control_of(method) if control_of(method) else ""
        for metric in metrics:
            for baseline in dict.fromkeys((BASE, *([control] if control in predictions else []))):
                about = {
                    "kind": "gain",
                    "arm": arm,
                    "baseline": baseline,
                    "regime": regime_of(method),
                    "metric": metric,
                    "unit": unit,
                }
                for name, chosen in (*((site, [k]) for k, site in enumerate(sites)), ("", range(len(sites)))):
                    target, target_before = (_means(targets[one], chosen, metric) for one in (arm, baseline))
                    source, source_before = (_means(sources[one], chosen, metric) for one in (arm, baseline))
                    found = {
                        "target_after": _value(target, len(dataset)),
                        "target_before": _value(target_before, len(dataset)),
                        "source_after": _value(source, len(dataset)),
                        "source_before": _value(source_before, len(dataset)),
                        **_compared(target, target_before, dataset.groups, config),
                    }
                    if not name:
                        change = _compared(source, source_before, dataset.groups, config)
                        found |= {f"source_{key}": value for key, value in change.items()}
                    lines.append(about | {"site": name} | found)
        for k, fold in enumerate(plan.repeats[0] if not is_control(method) else ()):
            known = dataset.labels[np.concatenate([fold.train, fold.dev])]
            shares = np.bincount(known, minlength=dataset.n_classes) / len(known)
            before, after = (targets[one][0][k].probabilities for one in (BASE, arm))
            lines += [
                {"kind": "alarm", "arm": arm, "site": fold.name, "alarm": alarm.kind, "text": alarm.text}
                for alarm in alarms(before, after, shares)
            ]
    return [*lines, *_disagreements(plan)]


def _disagreements(plan: Plan) -> list[dict[str, Any]]:
    """Alarms of the targets whose sources disagree; told by the sources' labels alone."""
    dataset = plan.dataset
    if dataset.n_classes != 2:
        return []
    x = logmel_statistics(dataset.tables["study"].take(range(len(dataset))))
    lines = []
    for fold in plan.repeats[0]:
        known = np.concatenate([fold.train, fold.dev])
        opposed = opposed_sources(x[known], dataset.labels[known], dataset.manifest.site[known])
        if opposed:
            alarm = disagreement(opposed)
            lines.append(
                {"kind": "alarm", "arm": BASE, "site": fold.name, "alarm": alarm.kind, "text": alarm.text}
            )
    return lines


def _targets(predicted: Predictions, plan: Plan, tested: NDArray[np.int64]) -> Parts:
    found = []
    for repeat, folds in enumerate(plan.repeats):
        at = [np.searchsorted(tested, fold.test) for fold in folds]
        found.append(
            [
                _Scored(
                    fold.test,
                    plan.dataset.labels,
                    predicted.probabilities[repeat][rows],
                    predicted.decisions[repeat][rows],
                )
                for fold, rows in zip(folds, at, strict=True)
            ]
        )
    return found


def _sources(arm: str, plan: Plan, done: Mapping[str, dict[str, Any]], config: StudyConfig) -> Parts:
    found: Parts = []
    for folds in plan.repeats:
        found.append([])
        for fold in folds:
            result = done[Job(arm, fold, config.budget).name]
            index, logits = result["dev_index"], result["dev_logits"]
            calibrator, threshold = settle(plan.dataset, index, logits, config)
            probabilities = calibrator.apply(logits)
            decisions = decide(logits, probabilities, threshold)
            found[-1].append(_Scored(index, plan.dataset.labels, probabilities, decisions))
    return found


def _means(parts: Parts, chosen: Iterable[int], metric: str) -> list[Statistic]:
    """For each repeat the mean of a metric over some folds, as a function of the weights of all recordings."""
    return [_mean([folds[k] for k in chosen], metric) for folds in parts]


def _mean(parts: list[_Scored], metric: str) -> Statistic:
    statistics = [(part.rows, part.statistic(metric)) for part in parts]

    def of_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.stack([each(weights[:, rows]) for rows, each in statistics])
        known = np.isfinite(values)
        count = known.sum(axis=0)
        total = np.where(known, values, 0.0).sum(axis=0)
        return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))

    return of_weights


def _value(statistics: list[Statistic], n: int) -> float:
    return float(np.mean([each(np.ones((1, n)))[0] for each in statistics]))


def _compared(
    arm: list[Statistic], baseline: list[Statistic], groups: NDArray[np.str_], config: StudyConfig
) -> dict[str, float]:
    """The gain of an arm over a baseline: a subject is drawn once, with all it says anywhere."""
    found: Comparison = paired_bootstrap(
        arm,
        baseline,
        groups,
        rng=np.random.default_rng([config.seed, 3]),
        n_resamples=config.n_resamples,
        level=config.level,
    )
    return {"gain": found.difference, "low": found.low, "high": found.high, "p": found.p}
