"""What was learned elsewhere against random weights, all corpora and shares of labels side by side; for tables.py."""

from typing import Any

BASELINE = "scratch"
SHOWN = {"auroc": "AUROC", "uar": "UAR"}
PREFIX = "representation-"


def overview(studies: dict[str, list[dict[str, Any]]]) -> str:
    """A table a metric: arms down, studies across, each with its paired difference from ``scratch``.

    Args:
        studies: lines by name, of the names that begin with PREFIX.
    """
    text = "\n## What was learned elsewhere, side by side\n\n"
    text += "`vagitus study --recipe recipes/NAME.toml`, one section below for each. Every network arm had the same "
    text += "rates and epochs to choose from on its training side. In brackets the paired difference from `scratch` "
    text += (
        "with its interval over seeds and subjects; in bold where that leaves out zero (not adjusted for the "
    )
    text += "number of arms; the lines hold p adjusted by Holm).\n"
    for metric, title in SHOWN.items():
        columns = {name: _column(lines, metric) for name, lines in studies.items()}
        arms = dict.fromkeys(arm for column in columns.values() for arm in column)
        rows = [
            [title, *(f"{name.removeprefix(PREFIX)}, {_seeds(studies[name])}" for name in columns)],
            ["---"] * (1 + len(columns)),
        ]
        rows += [[f"`{arm}`", *(column.get(arm, "") for column in columns.values())] for arm in arms]
        text += "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return text


def _seeds(lines: list[dict[str, Any]]) -> str:
    repeats = lines[0]["config"]["repeats"]
    return f"{repeats} seed{'s' if repeats > 1 else ''}"


def _column(lines: list[dict[str, Any]], metric: str) -> dict[str, str]:
    found = {}
    for line in lines:
        if line["kind"] == "summary":
            value = line["metrics"][metric]["estimate"]
            found[line["arm"]] = "undefined" if value is None else f"{value:.3f}"
    for line in lines:
        if (
            line["kind"] != "comparison"
            or line["metric"] != metric
            or BASELINE not in (line["arm"], line["baseline"])
        ):
            continue
        arm, sign = (line["arm"], 1) if line["baseline"] == BASELINE else (line["baseline"], -1)
        low, high = sorted((sign * line["low"], sign * line["high"]))
        text = f"{sign * line['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        found[arm] += f" ({f'**{text}**' if low > 0 or high < 0 else text})"
    return found
