"""From scores out of fold to what is reported: decisions, intervals, comparisons, predictions.csv."""

import csv
import io
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vagitus import calibration
from vagitus.arms import find_arm
from vagitus.arms.contract import Arm
from vagitus.dataset import Dataset
from vagitus.jobs import Job
from vagitus.metrics import METRICS, statistic, summarise
from vagitus.plan import Plan, StudyConfig
from vagitus.splits import Fold
from vagitus.statistics import holm, paired_bootstrap, subject_bootstrap

COMPARED = ("auroc", "macro_auroc", "uar")  # metrics in which arms are compared pair by pair

# A resample repeats recordings and so looks worse calibrated than the sample: its interval would not hold the estimate.
NO_INTERVAL = ("ece",)


@dataclass(frozen=True)
class Predictions:
    """What one arm says of the tested recordings, each scored by models that never saw its subject.

    Attributes:
        probabilities: (n_repeats, n_tested, n_classes), calibrated.
        decisions: (n_repeats, n_tested) int64 class.
        threshold: (n_repeats, n_tested) of the binary decision, NaN for more classes.
    """

    probabilities: NDArray[np.float64]
    decisions: NDArray[np.int64]
    threshold: NDArray[np.float64]


def decide_folds(
    arm: str, plan: Plan, done: dict[str, dict[str, Any]], tested: NDArray[np.int64], config: StudyConfig
) -> tuple[Predictions, list[dict[str, Any]]]:
    """Calibrate and set the threshold of each fold on its training side; collect what it says of its test side."""
    dataset, n_classes = plan.dataset, plan.dataset.n_classes
    shape = (len(plan.repeats), len(tested))
    predictions = Predictions(
        np.empty((*shape, n_classes)), np.empty(shape, np.int64), np.full(shape, np.nan)
    )
    lines = []
    for repeat, folds in enumerate(plan.repeats):
        for fold in folds:
            result = _scores(arm, fold, plan, done, config)
            calibrator, threshold = settle(dataset, result["dev_index"], result["dev_logits"], config)
            probabilities = calibrator.apply(result["test_logits"])
            decisions = decide(result["test_logits"], probabilities, threshold)
            if (
                n_classes == 2
            ):  # predictions.csv has the positive's alone: metrics are of what follows from it
                probabilities[:, 0] = 1 - probabilities[:, 1]
            rows = np.searchsorted(tested, fold.test)
            predictions.probabilities[repeat, rows] = probabilities
            predictions.decisions[repeat, rows] = decisions
            if threshold is not None:
                predictions.threshold[repeat, rows] = threshold
            lines.append(
                {
                    "kind": "fold",
                    "arm": arm,
                    "repeat": repeat,
                    "fold": fold.name,
                    "seed": config.seed + repeat,
                    "n_train": len(fold.train),
                    "n_dev": len(fold.dev),
                    "n_test": len(fold.test),
                    "n_test_subjects": len(np.unique(dataset.groups[fold.test])),
                    "note": fold.note,
                    "metrics": summarise(dataset.labels[fold.test], probabilities, decisions),
                    "threshold": threshold,
                    "calibration": calibrator.to_dict(),
                    **{name: result[name] for name in ("chosen", "n_parameters", "history", "seconds")},
                }
            )
    return predictions, lines


def _scores(
    arm: str, fold: Fold, plan: Plan, done: dict[str, dict[str, Any]], config: StudyConfig
) -> dict[str, Any]:
    """What a job left; of a blend, what its parts left, calibrated each by itself and then averaged."""
    row = find_arm(arm)
    if isinstance(row, Arm):
        return done[Job(arm, fold, config.budget).name]
    parts = [done[Job(part, fold, config.budget).name] for part in row.of]
    dev_index = parts[0]["dev_index"]
    for part in parts[1:]:
        dev_index = np.intersect1d(dev_index, part["dev_index"])
    dev_logits, test_logits = [], []
    for part in parts:
        calibrator, _ = settle(plan.dataset, part["dev_index"], part["dev_logits"], config)
        row_of = {int(row): position for position, row in enumerate(part["dev_index"])}
        rows = [row_of[int(row)] for row in dev_index]
        dev_logits.append(calibration.log_probabilities(calibrator.apply(part["dev_logits"][rows])))
        test_logits.append(calibration.log_probabilities(calibrator.apply(part["test_logits"])))
    return {
        "dev_index": dev_index,
        "dev_logits": np.mean(dev_logits, axis=0),
        "test_logits": np.mean(test_logits, axis=0),
        "chosen": {"of": " and ".join(row.of)},
        "n_parameters": sum(part["n_parameters"] for part in parts),
        "history": [],
        "seconds": 0.0,
    }


def settle(
    dataset: Dataset, index: NDArray[np.int64], logits: NDArray[np.float64], config: StudyConfig
) -> tuple[calibration.Calibrator, float | None]:
    """(calibrator, binary threshold on its probabilities) from scores out of fold on the training side."""
    labels = dataset.labels[index]
    calibrator = calibration.fit(config.calibration, labels, logits)
    if dataset.n_classes > 2:
        return calibrator, None
    threshold = calibration.choose_threshold(labels, calibrator.apply(logits), config.threshold_rule)
    return calibrator, threshold.value


def decide(
    logits: NDArray[np.float64], probabilities: NDArray[np.float64], threshold: float | None
) -> NDArray[np.int64]:
    """Binary: probability at the threshold or above. More classes: the highest logit.

    Arms weigh the classes equally, so that the highest logit aims at UAR; calibrated
    probabilities carry the prevalence, and the highest of them would only name the commonest class.
    """
    if threshold is None:
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)
    return calibration.decide(probabilities, threshold)


def summary_lines(
    predictions: dict[str, Predictions], plan: Plan, tested: NDArray[np.int64], config: StudyConfig
) -> list[dict[str, Any]]:
    """Each arm over everything it was tested on, and at each site, with intervals by subject.

    The headline of "subjects" and "column" pools all tested recordings; that of "sites" is the
    mean over the sites left out, so that the largest hospital does not speak for all.
    """
    dataset = plan.dataset
    groups, labels = dataset.groups[tested], dataset.labels[tested]
    lines = []
    for arm, predicted in predictions.items():
        metrics, other = {}, {}
        for name in metric_names(dataset.n_classes):
            by_fold = config.split == "sites"
            interval = subject_bootstrap(
                _statistics(name, predicted, plan, tested, by_fold=by_fold),
                groups,
                rng=np.random.default_rng([config.seed, 1]),
                n_resamples=config.n_resamples,
                level=config.level,
            )
            metrics[name] = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
            if interval.n_undefined:
                metrics[name]["n_undefined"] = interval.n_undefined
            if name in NO_INTERVAL:
                metrics[name] = {"estimate": interval.estimate, "low": np.nan, "high": np.nan}
            weights = np.ones((1, len(tested)))
            values = [s(weights)[0] for s in _statistics(name, predicted, plan, tested, by_fold=not by_fold)]
            other[name] = float(np.mean(values))
        lines.append(
            {
                "kind": "summary",
                "arm": arm,
                "title": find_arm(arm).title,
                "headline": "mean over sites" if config.split == "sites" else "pooled",
                "n_recordings": len(tested),
                "n_subjects": len(np.unique(groups)),
                "metrics": metrics,
                "pooled" if config.split == "sites" else "mean_over_folds": other,
            }
        )
        for site in np.unique(dataset.manifest.site[tested]):
            rows = np.flatnonzero(dataset.manifest.site[tested] == site)
            per_repeat = [
                summarise(
                    labels[rows], predicted.probabilities[repeat][rows], predicted.decisions[repeat][rows]
                )
                for repeat in range(len(plan.repeats))
            ]
            lines.append(
                {
                    "kind": "site",
                    "arm": arm,
                    "site": str(site),
                    "n_recordings": len(rows),
                    "n_subjects": len(np.unique(groups[rows])),
                    "metrics": {
                        name: float(np.mean([r[name] for r in per_repeat])) for name in per_repeat[0]
                    },
                }
            )
    return lines


def comparison_lines(
    predictions: dict[str, Predictions], plan: Plan, tested: NDArray[np.int64], config: StudyConfig
) -> list[dict[str, Any]]:
    """Every pair of arms on the same resamples; p-values adjusted by Holm within each metric.

    A constant arm ranks nothing: what it says differs from fold to fold only, and falls as the
    fold's test side holds more positives, so that its pooled AUROC is below .5 by construction.
    It is compared in decisions, not in ranking.
    """
    groups = plan.dataset.groups[tested]
    by_fold = config.split == "sites"
    lines = []
    for name in (name for name in COMPARED if name in metric_names(plan.dataset.n_classes)):
        pairs = list(combinations((arm for arm in predictions if arm != "prevalence" or name == "uar"), 2))
        found = [
            paired_bootstrap(
                _statistics(name, predictions[arm], plan, tested, by_fold=by_fold),
                _statistics(name, predictions[baseline], plan, tested, by_fold=by_fold),
                groups,
                rng=np.random.default_rng([config.seed, 2]),
                n_resamples=config.n_resamples,
                level=config.level,
            )
            for baseline, arm in pairs
        ]
        adjusted = holm([comparison.p for comparison in found])
        lines += [
            {
                "kind": "comparison",
                "metric": name,
                "arm": arm,
                "baseline": baseline,
                "difference": comparison.difference,
                "low": comparison.low,
                "high": comparison.high,
                "p": comparison.p,
                "p_holm": float(p),
            }
            for (baseline, arm), comparison, p in zip(pairs, found, adjusted, strict=True)
        ]
    return lines


def _statistics(
    name: str, predictions: Predictions, plan: Plan, tested: NDArray[np.int64], *, by_fold: bool
) -> list[Any]:
    """One statistic of resampling weights per repeat: over all tested rows, or the mean over folds."""
    labels = plan.dataset.labels[tested]

    def of_rows(repeat: int, rows: NDArray[np.int64]) -> Any:
        p, d = predictions.probabilities[repeat][rows], predictions.decisions[repeat][rows]
        return statistic(name, labels[rows], p, d)

    if not by_fold:
        return [of_rows(repeat, np.arange(len(tested))) for repeat in range(len(plan.repeats))]
    whole = []
    for repeat, folds in enumerate(plan.repeats):
        parts = [
            (rows, of_rows(repeat, rows)) for rows in (np.searchsorted(tested, fold.test) for fold in folds)
        ]

        def mean(weights: NDArray[np.float64], parts: Any = parts) -> NDArray[np.float64]:
            values = np.stack([part(weights[:, rows]) for rows, part in parts])
            defined = np.isfinite(values)
            total = np.where(defined, values, 0).sum(axis=0)
            count = defined.sum(axis=0)
            means = np.full(len(total), np.nan)
            np.divide(total, count, out=means, where=count > 0)
            return means

        whole.append(mean)
    return whole


def metric_names(n_classes: int) -> list[str]:
    """The metrics that this number of classes has."""
    return [name for name, metric in METRICS.items() if metric.applies(n_classes)]


def predictions_csv(predictions: dict[str, Predictions], plan: Plan, tested: NDArray[np.int64]) -> str:
    """One row per recording and arm (and repeat): what the reported numbers are recomputed from.

    ``score`` is the calibrated probability of the positive class; with more than two classes
    that of the decided one, and each class has a column ``p:CLASS``.
    """
    dataset, names = plan.dataset, plan.dataset.class_names
    several = dataset.n_classes > 2
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["path", "subject", "site", "label", "fold", "arm", "score", "decision", "threshold", "repeat"]
    writer.writerow([*header, "start_s", "end_s", *(f"p:{name}" for name in names if several)])
    for arm, predicted in predictions.items():
        for repeat, folds in enumerate(plan.repeats):
            fold_of = {int(row): fold.name for fold in folds for row in fold.test}
            for position, row in enumerate(tested):
                manifest = dataset.manifest
                p, decision = (
                    predicted.probabilities[repeat, position],
                    int(predicted.decisions[repeat, position]),
                )
                threshold, end_s = predicted.threshold[repeat, position], manifest.end_s[row]
                writer.writerow(
                    [
                        manifest.path[row],
                        manifest.subject[row],
                        manifest.site[row],
                        manifest.label[row],
                        fold_of[int(row)],
                        arm,
                        repr(float(p[decision] if several else p[1])),
                        names[decision],
                        "" if np.isnan(threshold) else repr(float(threshold)),
                        repeat,
                        float(manifest.start_s[row]),
                        "" if np.isnan(end_s) else float(end_s),
                        *(repr(float(value)) for value in p if several),
                    ]
                )
    return out.getvalue()


def finite(value: Any) -> Any:
    """JSON has no NaN: unknown is null."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
