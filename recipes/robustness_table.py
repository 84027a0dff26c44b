"""How every model falls as recordings get worse: a row a curve, and a figure of the curves; for tables.py."""

from typing import TYPE_CHECKING, Any

from drawing import difference_text, line_style, panels

from vagitus.robustness import GAUSSIAN, KINDS, MEAN_CLASS, WIDTHS_OCTAVES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_COLUMNS = 4
ALPHA = 0.05
LOGARITHMIC = ("bands", "low_pass", "high_pass", "reverberation")  # axes; areas are over Hz and seconds


def curves_table(lines: list[dict[str, Any]]) -> list[list[str]]:
    """A row a curve: its mean over its levels with the interval, and the difference from the baseline.

    Args:
        lines: ``robustness_study`` first, then those of ``robustness_lines``.
    """
    about, *rest = lines
    rows = [["mean along the curve", *about["ways"]], ["---"] * (1 + len(about["ways"]))]
    areas: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for line in rest:
        if line["kind"] == "robustness_area":
            areas.setdefault((line["condition"], line["name"]), {})[line["model"]] = line
    for curve, by_way in areas.items():
        rows.append(
            [_title(*curve, next(iter(by_way.values()))), *(_cell(by_way[way]) for way in about["ways"])]
        )
    return rows


def _title(kind: str, name: str, area: dict[str, Any]) -> str:
    ends = dict.fromkeys(f"{area[end]:g}" for end in ("from_level", "to_level"))
    levels = "" if kind == "clean" else f", {' to '.join(ends)} {area['unit']}"
    return f"{KINDS[kind].title}{': ' if name else ''}{name.replace('_', ' ')}{levels}"


def _cell(area: dict[str, Any]) -> str:
    values = [area[key] for key in ("estimate", "low", "high")]
    if None in values:
        return "undefined"
    text = "{:.3f} [{:.3f}, {:.3f}]".format(*values)
    if area.get("difference") is None:
        return text
    found = difference_text(*(area[key] for key in ("difference", "difference_low", "difference_high")))
    p = area["p_holm"]
    star = "" if p is None or p >= ALPHA else " *"
    return f"{text} {found}{star}"


def plot_curves(lines: list[dict[str, Any]]) -> "Figure":
    """A panel a curve of several levels, a line a model; of noise, gaussian and the mean over classes."""
    about, *rest = lines
    drawn: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for line in rest:
        curve = (line["condition"], line["name"])
        if line["kind"] != "robustness" or (curve[0] == "noise" and curve[1] not in (GAUSSIAN, MEAN_CLASS)):
            continue
        if line["estimate"] is not None:
            drawn.setdefault(curve, {}).setdefault(line["model"], []).append(
                (line["level"], line["estimate"])
            )
    drawn = {curve: ways for curve, ways in drawn.items() if len(next(iter(ways.values()))) > 1}
    figure, axes = panels(len(drawn), width=3.4, n_columns=N_COLUMNS)
    for panel, ((kind, name), ways) in zip(axes, drawn.items(), strict=True):
        for n, way in enumerate(about["ways"]):
            panel.plot(*zip(*ways[way], strict=True), **line_style(n), ms=3, lw=1.2, label=way)
        if kind in LOGARITHMIC:
            levels = sorted({level for points in ways.values() for level, _ in points})
            panel.set_xscale("log")
            panel.set_xticks(shown := levels[:: -(-len(levels) // 6)], [f"{level:g}" for level in shown])
            panel.minorticks_off()
        title = KINDS[kind].title + (
            f": {name.replace('_', ' ')}" if name and name not in WIDTHS_OCTAVES else ""
        )
        panel.set_title(title, fontsize=9)
        panel.set_xlabel(KINDS[kind].unit, fontsize=8)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("AUROC, subjects kept apart")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure
