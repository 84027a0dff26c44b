"""Plots of the published tables, drawn the same from the same lines."""

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


def save_svg(figure: "Figure", path: Path) -> None:
    """Write and close it; nothing in the file depends on when or where."""
    import matplotlib
    from matplotlib import pyplot

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomic(path, buffer.getvalue())
