"""A study's folder, read back: results.jsonl and predictions.csv, held against each other.

Conventions
    line        one line of results.jsonl as a dict; null is unknown
    best        of the headline's metric; summaries come best first, the floor last
    numbers     shares of recordings are written as percentages, areas and mean errors are not; unknown is a dash
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vagitus.arms import ARMS
from vagitus.dataset import Dataset
from vagitus.metrics import summarise
from vagitus.plots import STYLES, Style
from vagitus.statistics import Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Line = dict[str, Any]

HEADLINES = ("auroc", "macro_auroc", "uar")  # the first that has a value
FLOOR = "prevalence"  # the arm that has no curve: it scores all recordings of a fold alike
MOST_CURVES = len(STYLES) - 1  # arms in one figure of curves; the last style is everybody else's
PERCENT = frozenset(("uar", "sensitivity", "specificity", "sensitivity_at_specificity_80", "accuracy"))
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
UNKNOWN = DASH
AGREEMENT = 1e-6  # between a figure of results.jsonl and the same from predictions.csv


@dataclass(frozen=True)
class Scored:
    """What one arm says of the tested recordings.

    Attributes:
        probabilities: (n_repeats, n_tested, n_classes).
        decisions: (n_repeats, n_tested) class.
        threshold: (n_repeats, n_tested), NaN for more than two classes.
    """

    probabilities: FloatArray
    decisions: IntArray
    threshold: FloatArray


@dataclass(frozen=True)
class Study:
    """A study's folder, read.

    Attributes:
        about: the line of kind "study".
        folds, summaries, sites, comparisons: the lines of those kinds; summaries best first.
        model: the line of the shipped model, None without one.
        scored: by arm.
        tested: (n_tested,) rows of the dataset.
        metric: the headline's.
    """

    about: Line
    folds: list[Line]
    summaries: list[Line]
    sites: list[Line]
    comparisons: list[Line]
    model: Line | None
    scored: dict[str, Scored]
    tested: IntArray
    metric: str
    dataset: Dataset = field(repr=False)

    @cached_property
    def labels(self) -> IntArray:
        return self.dataset.labels[self.tested]

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        return self.dataset.groups[self.tested]

    @cached_property
    def site_of(self) -> NDArray[np.str_]:
        return self.dataset.manifest.site[self.tested]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    @property
    def n_classes(self) -> int:
        return self.dataset.n_classes

    @property
    def positive(self) -> str:
        return self.class_names[-1]

    @property
    def negative(self) -> str:
        return self.class_names[0]

    @property
    def best(self) -> Line:
        return self.summaries[0]

    @property
    def level(self) -> str:
        return f"{100 * self.about['config']['level']:g} %"

    @property
    def alpha(self) -> float:
        """The p below which a difference is called one."""
        return round(1 - float(self.about["config"]["level"]), 6)

    @property
    def n_repeats(self) -> int:
        return len(next(iter(self.scored.values())).decisions)

    @property
    def chance(self) -> float | None:
        if self.metric == "uar":
            return 1 / self.n_classes
        return 0.5 if self.metric in ("auroc", "macro_auroc") else None

    @property
    def beats_chance(self) -> bool:
        """Whether the best arm's interval lies above chance."""
        low = known(self.best["metrics"][self.metric]["low"], -math.inf)
        return self.chance is None or low > self.chance

    @cached_property
    def best_hearing(self) -> str:
        """The best arm that hears audio; the best one where none does."""
        hearing = [line["arm"] for line in self.summaries if hears(line["arm"])]
        return str((hearing or [self.best["arm"]])[0])

    @cached_property
    def curve_arms(self) -> list[str]:
        """Arms whose curves are drawn: the best ones, and what is known without audio."""
        ranked = [str(line["arm"]) for line in self.summaries if line["arm"] != FLOOR]
        if "lookup" in ranked[MOST_CURVES:]:
            ranked = [*ranked[: MOST_CURVES - 1], "lookup"]
        return ranked[:MOST_CURVES] or [str(self.best["arm"])]

    def style(self, arm: str) -> Style:
        """The same look for an arm in every figure; arms that have no curves share the last one."""
        return STYLES[self.curve_arms.index(arm)] if arm in self.curve_arms else STYLES[-1]

    def legend(
        self, arms: Sequence[str], values: dict[str, str] | None = None
    ) -> tuple[tuple[Style, str], ...]:
        return tuple((self.style(arm), f"{arm} {(values or {}).get(arm, '')}".strip()) for arm in arms)


def read_study(out: Path, dataset: Dataset) -> Study:
    """Read what ``study`` wrote into its folder.

    Raises:
        FileNotFoundError: results.jsonl or predictions.csv is not there.
        ValueError: they are not of this dataset, or do not agree with each other.
    """
    results = out / "results.jsonl"
    if not results.is_file():
        raise FileNotFoundError(f"{results}: no such file; `vagitus study --out {out}` writes it")
    lines = [json.loads(text) for text in results.read_text(encoding="utf-8").splitlines() if text.strip()]
    kinds: dict[str, list[Line]] = {
        kind: [line for line in lines if line["kind"] == kind]
        for kind in ("study", "fold", "summary", "site", "comparison", "model")
    }
    if not kinds["study"] or not kinds["summary"]:
        raise ValueError(f"{results}: no line of kind 'study' or 'summary'; run the study again")
    about = kinds["study"][0]
    if tuple(about["class_names"]) != dataset.class_names:
        raise ValueError(
            f"{results}: classes {', '.join(about['class_names'])}, the dataset has "
            f"{', '.join(dataset.class_names)}; give the dataset that was studied"
        )
    metric = next(
        (
            name
            for name in HEADLINES
            if any(line["metrics"].get(name, {}).get("estimate") is not None for line in kinds["summary"])
        ),
        "uar",
    )
    summaries = sorted(
        kinds["summary"],
        # What guesses from class frequencies is the floor, whatever it happens to score.
        key=lambda line: (line["arm"] == FLOOR, -known(line["metrics"][metric]["estimate"], -math.inf)),
    )
    tested, scored = read_predictions(out / "predictions.csv", dataset)
    missing = [line["arm"] for line in summaries if line["arm"] not in scored]
    if missing:
        raise ValueError(f"{out / 'predictions.csv'}: no row of arm {missing[0]!r}; run the study again")
    study = Study(
        about,
        kinds["fold"],
        summaries,
        kinds["site"],
        kinds["comparison"],
        next(iter(kinds["model"]), None),
        scored,
        tested,
        metric,
        dataset,
    )
    _check_agreement(study, out)
    return study


def read_predictions(path: Path, dataset: Dataset) -> tuple[IntArray, dict[str, Scored]]:
    """(rows of the dataset that were tested, what each arm says of them); errors as ``read_study``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `vagitus study` writes it")
    manifest, names = dataset.manifest, dataset.class_names
    row_of = {
        (str(manifest.path[i]), float(manifest.start_s[i]), manifest.stretch(i)[1]): i
        for i in range(len(dataset))
    }
    index = {name: k for k, name in enumerate(names)}
    found: dict[tuple[str, int], dict[int, tuple[list[float], int, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            end_s = float(row["end_s"]) if row["end_s"] else None
            i = row_of.get((row["path"], float(row["start_s"] or 0), end_s))
            if i is None or row["label"] != manifest.label[i]:
                raise ValueError(
                    f"{path}, row {number}: {row['path']} is not in this dataset with label {row['label']!r}; "
                    "give the dataset that was studied"
                )
            score = float(row["score"])
            p = [1 - score, score] if len(names) == 2 else [float(row[f"p:{name}"]) for name in names]
            threshold = float(row["threshold"]) if row["threshold"] else math.nan
            found.setdefault((row["arm"], int(row["repeat"])), {})[i] = (p, index[row["decision"]], threshold)
    if not found:
        raise ValueError(f"{path}: no prediction in it; run the study again")
    tested = np.array(sorted(next(iter(found.values()))), dtype=np.int64)
    scored = {}
    for arm in dict.fromkeys(arm for arm, _ in found):
        repeats = [found[key] for key in sorted(key for key in found if key[0] == arm)]
        if any(sorted(rows) != tested.tolist() for rows in repeats):
            raise ValueError(
                f"{path}: arm {arm!r} was not tested on the same recordings; run the study again"
            )
        ordered = [[rows[int(i)] for i in tested] for rows in repeats]
        scored[arm] = Scored(
            np.array([[p for p, _, _ in rows] for rows in ordered]),
            np.array([[decision for _, decision, _ in rows] for rows in ordered], dtype=np.int64),
            np.array([[threshold for _, _, threshold in rows] for rows in ordered]),
        )
    return tested, scored


def _check_agreement(study: Study, out: Path) -> None:
    """What results.jsonl says of all tested recordings together must follow from predictions.csv."""
    for line in study.summaries:
        scored = study.scored[line["arm"]]
        again = [
            summarise(study.labels, p, d) for p, d in zip(scored.probabilities, scored.decisions, strict=True)
        ]
        for name in again[0]:
            said = line["pooled"][name] if "pooled" in line else line["metrics"][name]["estimate"]
            value = float(np.mean([metrics[name] for metrics in again]))
            agree = math.isclose(known(said), value, abs_tol=AGREEMENT)
            if not agree and not (said is None and math.isnan(value)):
                raise ValueError(
                    f"{out}: {line['arm']}'s {name} is {said} in results.jsonl, but {value:.6f} follows from "
                    "predictions.csv; the files are of two studies, run it again"
                )


def compared(study: Study, metric: str, arm: str, other: str) -> Line | None:
    """The comparison arm minus other, whichever way round it was made."""
    for line in study.comparisons:
        if line["metric"] == metric and (line["arm"], line["baseline"]) == (arm, other):
            return line
        if line["metric"] == metric and (line["baseline"], line["arm"]) == (arm, other):
            turned = {
                name: None if line[name] is None else -line[name] for name in ("difference", "low", "high")
            }
            return line | {
                "arm": arm,
                "baseline": other,
                "difference": turned["difference"],
                "low": turned["high"],
                "high": turned["low"],
            }
    return None


def hears(arm: str) -> bool:
    """Whether an arm gets any audio; one that is not in the table is taken to."""
    return arm not in ARMS or bool(ARMS[arm].front_end)


def is_different(study: Study, found: Line) -> bool:
    """Whether a comparison leaves chance behind, at the level of the study's intervals."""
    return known(found["p_holm"], 1.0) < study.alpha


# How numbers are written.


def count_text(n: int, noun: str) -> str:
    """``3 arms``, ``1 arm``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def known(value: float | None, unknown: float = math.nan) -> float:
    """``value``, or ``unknown`` for null."""
    return unknown if value is None else float(value)


def value_text(metric: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{100 * value:.1f} %" if metric in PERCENT else f"{value:.3f}"


def interval_text(metric: str, cell: Line | Interval) -> str:
    """Both ends, "" where they are unknown."""
    low, high = (cell["low"], cell["high"]) if isinstance(cell, dict) else (cell.low, cell.high)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    if metric in PERCENT:
        return f"{100 * low:.1f}{DASH}{100 * high:.1f} %"
    return f"{low:.3f}{DASH}{high:.3f}"


def difference_text(metric: str, found: Line) -> tuple[str, str]:
    """A difference with its unit, and its interval, signed."""
    scale, digits = (100, 1) if metric in PERCENT else (1, 3)

    def signed(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return UNKNOWN
        return f"{scale * value:+.{digits}f}".replace("-", MINUS)

    unit = " points" if metric in PERCENT else ""
    return f"{signed(found['difference'])}{unit}", f"{signed(found['low'])} to {signed(found['high'])}"


def p_text(p: float | None) -> str:
    """With its sign: "= 0.021", "< 0.001", "unknown"."""
    if p is None or not math.isfinite(p):
        return "unknown"
    if p >= 0.1:
        return f"= {p:.2f}"
    # Just below .05 must not be written as .05.
    return "< 0.001" if p < 0.001 else f"= {p:.4f}" if f"{p:.3f}" == "0.050" else f"= {p:.3f}"


def seconds_text(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s"
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def site_name(site: str) -> str:
    return site or "(no site named)"
