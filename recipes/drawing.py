"""Plots and cells of the published tables, made the same from the same lines."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from vagitus.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(n_panels: int, width: float, n_columns: int | None = None) -> "tuple[Figure, list[Axes]]":
    """Panels that share their y axis, each ``width`` inches wide; in one row, or in rows of ``n_columns``."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    n_columns = min(n_columns or n_panels, n_panels)
    n_rows = -(-n_panels // n_columns)
    height = 4 if n_rows == 1 else 0.8 * width
    figure, axes = pyplot.subplots(
        n_rows,
        n_columns,
        figsize=(width * n_columns, height * n_rows),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    used = list(axes.flat)
    for empty in used[n_panels:]:
        empty.set_axis_off()
    return figure, used[:n_panels]


def line_style(n: int) -> dict[str, str]:
    """Of the n-th line in a plot of many: told apart without its colour too."""
    return {"marker": "os^Dv"[n % 5], "linestyle": ("-", "--")[n % 2], "color": f"C{n}"}


def difference_text(difference: float, low: float, high: float) -> str:
    """A paired difference with its interval, in parentheses; bold where the interval leaves out zero."""
    text = f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"({f'**{text}**' if low > 0 or high < 0 else text})"


def save_svg(figure: "Figure", path: Path) -> None:
    """Write and close it; nothing in the file depends on when or where."""
    import matplotlib
    from matplotlib import pyplot

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomic(path, buffer.getvalue())
