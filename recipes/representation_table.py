"""What was learned elsewhere against random weights, all corpora and shares of labels side by side; for tables.py."""

from typing import TYPE_CHECKING, Any

from drawing import difference_text, line_style, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE = "scratch"
GUESSING = "prevalence"
SHOWN = {"auroc": "AUROC", "uar": "UAR"}
PREFIX = "representation-"  # then the corpus and the share of labels in percent
COMMON = (0.1, 1.0)


def overview(studies: dict[str, list[dict[str, Any]]]) -> str:
    """Arms down, studies across, each with its paired difference from ``scratch``: first the shares of labels that
    every corpus was studied at, then label efficiency, all shares of a corpus that has more.

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
    corpora = _by_corpus(studies)
    text += _tables(
        {n: studies[n] for names in corpora.values() for n in names if _share(studies[n]) in COMMON}
    )
    for corpus, names in corpora.items():
        if _has_more_shares(names, studies):
            text += f"\n### Label efficiency: {corpus}\n\n"
            text += "Labels of a share of the training side's subjects; every arm reads the same ones, and "
            text += "those of a smaller share are among those of a larger.\n\n"
            text += (
                f"![AUROC against the share of subjects with labels](docs/label-efficiency-{corpus}.svg)\n"
            )
            text += _tables({name: studies[name] for name in names})
    return text


def plot_label_efficiency(studies: dict[str, list[dict[str, Any]]]) -> "dict[str, Figure]":
    """By corpus that was studied at more shares than COMMON: each metric against the share, a line an arm."""
    figures = {}
    for corpus, names in _by_corpus(studies).items():
        if not _has_more_shares(names, studies):
            continue
        figures[corpus], axes = panels(len(SHOWN), width=5.2)
        for panel, (metric, title) in zip(axes, SHOWN.items(), strict=True):
            lines: dict[str, list[tuple[float, float]]] = {}
            for name in names:
                for line in studies[name]:
                    if line["kind"] == "summary" and line["arm"] != GUESSING:
                        at = (100 * _share(studies[name]), line["metrics"][metric]["estimate"])
                        lines.setdefault(line["arm"], []).append(at)
            for n, (arm, points) in enumerate(lines.items()):
                panel.plot(*zip(*points, strict=True), **line_style(n), label=arm)
            shares = [100 * _share(studies[name]) for name in names]
            panel.set_xscale("log")
            panel.set_xticks(shares, [f"{share:g}" for share in shares])
            panel.minorticks_off()
            panel.set(xlabel="subjects with labels, %", title=title)
            panel.grid(alpha=0.3)
        axes[-1].legend(fontsize=8, loc="upper left")
    return figures


def _by_corpus(studies: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    corpora: dict[str, list[str]] = {}
    for name in sorted(studies, key=lambda name: _share(studies[name])):
        corpora.setdefault(_corpus(name), []).append(name)
    return corpora


def _has_more_shares(names: list[str], studies: dict[str, list[dict[str, Any]]]) -> bool:
    return any(_share(studies[name]) not in COMMON for name in names)


def _tables(studies: dict[str, list[dict[str, Any]]]) -> str:
    text = ""
    for metric, title in SHOWN.items():
        columns = {name: _column(lines, metric) for name, lines in studies.items()}
        arms = dict.fromkeys(arm for column in columns.values() for arm in column)
        rows = [
            [title, *(f"{_corpus(n)} {_share(lines):.0%}, {_seeds(lines)}" for n, lines in studies.items())],
            ["---"] * (1 + len(columns)),
        ]
        rows += [[f"`{arm}`", *(column.get(arm, "") for column in columns.values())] for arm in arms]
        text += "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return text


def _corpus(name: str) -> str:
    return name.removeprefix(PREFIX).rpartition("-")[0]


def _share(lines: list[dict[str, Any]]) -> float:
    return float(lines[0]["config"]["labelled_share"])


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
        found[arm] += f" {difference_text(sign * line['difference'], low, high)}"
    return found
