"""The page of ``evaluate --robustness``: how a model's metric falls as recordings get worse, curve by curve.

    what ``evaluate.measure_robustness`` found, or the same from JSON -> one page that needs no network

Conventions
    found  that mapping; null is unknown
    drawn  one curve: the points of a kind and name by rising level, and the area under them
    kind   a row of ``robustness.KINDS``; the curves of one are drawn beside each other

The template (robustness.html) holds the words that are always there, this module those that depend on what was
found.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import vagitus
from vagitus import plots
from vagitus.files import write_atomic
from vagitus.metrics import METRICS
from vagitus.outcome import UNKNOWN, Line, count_text, interval_text, known, value_text
from vagitus.plots import Plot
from vagitus.report import DEFINITIONS, render
from vagitus.robustness import CLEAN, KINDS, MEAN_CLASS

CHANCE = 0.5  # of AUROC, and of its mean over classes
MOST_PANELS = 6  # of a figure; more go on in the next
MOST_NAMED = 8  # curves in a sentence
MOST_LEFT_OUT = 10  # recordings named before the list is folded
MARGIN = 0.03  # of the metric, above and below all intervals
# How the levels of a kind are read.
READING = {
    "noise": "The further left, the louder the noise; at 0 dB it is as strong as the recording.",
    "length": "The further left, the less is kept; where the stretch lies is drawn for each recording.",
    "bands": "Each point lacks another stretch of frequencies, from this edge upwards: a dip shows what the model "
    "listens to.",
    "codec": "The further left, the fewer bits are left of the recording.",
    "low_pass": "What lies above the edge is removed: the further left, the more is missing.",
    "high_pass": "What lies below the edge is removed: the further right, the more is missing.",
    "reverberation": "The further right, the longer the room rings; each recording has a room of its own.",
    "gain": "Far left, the steps of 16 bits grow coarse beside the recording; far right, it is clipped.",
    "clipping": "The further left, the more of the wave is cut off.",
}


class Drawn(NamedTuple):
    """One curve. Fields are lines of ``robustness.robustness_lines``."""

    points: list[Line]
    area: Line

    @property
    def kind(self) -> str:
        return str(self.area["condition"])

    @property
    def name(self) -> str:
        """The kind's own where it has but one curve."""
        return str(self.area["name"]) or self.kind


def write_robustness_page(target: Path, found: Mapping[str, Any]) -> None:
    """Write the page, whole or not at all.

    Args:
        target: the file.
        found: what ``evaluate.measure_robustness`` gives, of one model.

    Raises:
        OSError: it cannot be written.
    """
    clean, curves = read_curves(found["lines"])
    tried = [drawn for drawn in curves if drawn.area["name"] != MEAN_CLASS]
    metric = clean["metric"]
    write_atomic(
        target,
        render(
            "robustness.html",
            found=found,
            version=vagitus.__version__,
            coverage=_coverage(found),
            metric=METRICS[metric].title,
            definition=DEFINITIONS[metric],
            clean={"value": value_text(metric, clean["estimate"]), "interval": interval_text(metric, clean)},
            chance=value_text(metric, CHANCE),
            headline=headline(found, clean, tried),
            n_conditions=sum(len(drawn.points) for drawn in tried),
            lowest=lowest_points(curves),
            cards=cards(found, clean, curves),
            tables=tables(curves),
            excluded=excluded(found),
            most_left_out=MOST_LEFT_OUT,
        ),
    )


def read_curves(lines: Sequence[Line]) -> tuple[Line, list[Drawn]]:
    """(the point of the recordings as they are, all other curves in their order)."""
    points: dict[tuple[str, str], list[Line]] = {}
    areas: dict[tuple[str, str], Line] = {}
    for line in lines:
        of = (line["condition"], line["name"])
        if line["kind"] == "robustness":
            points.setdefault(of, []).append(line)
        else:
            areas[of] = line
    clean = points.pop((CLEAN.kind, CLEAN.name))[0]
    return clean, [Drawn(found, areas[of]) for of, found in points.items()]


def headline(found: Mapping[str, Any], clean: Line, curves: Sequence[Drawn]) -> list[str]:
    """The clean score first, then which curves keep clear of guessing; a sentence each."""
    metric = clean["metric"]
    interval = interval_text(metric, clean)
    figure = value_text(metric, clean["estimate"]) + (
        f" ({_coverage(found)} interval {interval})" if interval else ""
    )
    said = [f"On the recordings as they are: {METRICS[metric].title} {figure}."]
    if known(clean["low"], -1) <= CHANCE:
        said.append("So even there it cannot be told from guessing, and a curve below has little to lose.")
    lost = [drawn for drawn in curves if known(drawn.area["low"], -1) <= CHANCE]
    held = f"{len(curves) - len(lost)} of {count_text(len(curves), 'curve')}"
    said.append(
        f"On the mean over their levels, {held} stay above guessing ({value_text(metric, CHANCE)}) by more than "
        "chance explains, each judged alone."
    )
    if lost:
        names = [
            f"{drawn.kind} {drawn.area['name']}".strip() for drawn in lost
        ]  # as the table of a terminal has it
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        said.append(f"The others: {', '.join(names[:MOST_NAMED])}{more}.")
    return said


def lowest_points(curves: Sequence[Drawn]) -> list[Line]:
    """The worst that each kind does, a row each."""
    rows = []
    for kind, drawn in _by_kind(curves).items():
        points = [point for one in drawn for point in one.points]
        worst = min(points, key=lambda point: known(point["estimate"], np.inf))
        rows.append(
            {
                "kind": _title(kind),
                "at": f"{worst['name']} {level_text(worst['level'])} {worst['unit']}".strip(),
                "cell": _cell(worst),
            }
        )
    return rows


def cards(found: Mapping[str, Any], clean: Line, curves: Sequence[Drawn]) -> list[Line]:
    """A figure of each kind, in several parts if it has many curves, with the areas under them."""
    ends = [clean, *(point for drawn in curves for point in drawn.points)]
    reach = [
        CHANCE,
        *(end[side] for end in ends for side in ("low", "high", "estimate") if end[side] is not None),
    ]
    limits = (min(reach) - MARGIN, max(reach) + MARGIN)
    made = []
    for kind, drawn in _by_kind(curves).items():
        parts = [drawn[i : i + MOST_PANELS] for i in range(0, len(drawn), MOST_PANELS)]
        for number, part in enumerate(parts, start=1):
            title = _title(kind) + (f", {number} of {len(parts)}" if len(parts) > 1 else "")
            made.append(
                {
                    "plot": _plot(f"{kind}-{number}", title, part, clean, limits, _coverage(found)),
                    "rows": [
                        {
                            "name": one.name,
                            "span": _span(one.area),
                            "unit": one.area["unit"],
                            "cell": _cell(one.area),
                        }
                        for one in part
                    ],
                }
            )
    return made


def _plot(
    name: str, title: str, part: Sequence[Drawn], clean: Line, limits: tuple[float, float], coverage: str
) -> Plot:
    kind, unit, metric = part[0].kind, part[0].area["unit"], clean["metric"]
    is_frequency = unit.startswith("Hz")

    def column(drawn: Drawn, of: str) -> plots.FloatArray:
        return np.array([known(point[of]) for point in drawn.points])

    spoken = "; ".join(
        f"{one.name}: "
        + ", ".join(f"{value_text(metric, p['estimate'])} at {level_text(p['level'])}" for p in one.points)
        for one in part
    )
    svg = plots.falling(
        name,
        [
            (one.area["name"], *(column(one, of) for of in ("level", "estimate", "low", "high")))
            for one in part
        ],
        metric=METRICS[metric].title,
        level=f"Level ({unit})",
        limits=limits,
        reference=known(clean["estimate"]),
        chance=CHANCE,
        log=is_frequency,
        alt=f"{title}: {METRICS[metric].title} by level ({unit}), with {coverage} intervals. As recorded "
        f"{value_text(metric, clean['estimate'])}. {spoken}.",
    )
    caption = READING[kind]
    if is_frequency and len(part[0].points) > 1:
        caption += " The area is taken over Hz, not octaves: the right of this axis counts most."
    return Plot(title, svg, caption)


def tables(curves: Sequence[Drawn]) -> list[Line]:
    """Every point: of each kind a table, a row for each curve and a column for each level."""
    made = []
    for kind, drawn in _by_kind(curves).items():
        levels = sorted({point["level"] for one in drawn for point in one.points})
        made.append(
            {
                "title": _title(kind),
                "unit": drawn[0].area["unit"],
                "levels": [level_text(level) for level in levels],
                "rows": [
                    {
                        "name": one.name,
                        "cells": [
                            _cell(at[level]) if level in at else {"value": "", "interval": ""}
                            for level in levels
                        ],
                    }
                    for one in drawn
                    for at in [{point["level"]: point for point in one.points}]
                ],
            }
        )
    return made


def excluded(found: Mapping[str, Any]) -> list[Line]:
    """Why each recording was left out; a reason begins with the file, whose folder is nobody's business."""
    return [
        {"path": path, "reason": reason.partition(f"{path}: ")[2] or reason}
        for path, reason in found["excluded"].items()
    ]


def level_text(level: float) -> str:
    return f"{level:,g}".replace("-", plots.MINUS)


def _span(area: Line) -> str:
    ends = dict.fromkeys((area["from_level"], area["to_level"]))
    return " to ".join(level_text(end) for end in ends)


def _cell(line: Line) -> Line:
    metric = line["metric"]
    return {"value": value_text(metric, line["estimate"]), "interval": interval_text(metric, line) or UNKNOWN}


def _by_kind(curves: Sequence[Drawn]) -> dict[str, list[Drawn]]:
    kinds: dict[str, list[Drawn]] = {}
    for drawn in curves:
        kinds.setdefault(drawn.kind, []).append(drawn)
    return kinds


def _title(kind: str) -> str:
    title = KINDS[kind].title
    return title[0].upper() + title[1:]


def _coverage(found: Mapping[str, Any]) -> str:
    return f"{100 * found['coverage']:g}\N{NO-BREAK SPACE}%"
