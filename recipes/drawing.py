"""Plots of the published tables, drawn the same from the same lines."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from vagitus.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(n_panels: int, width: float) -> "tuple[Figure, list[Axes]]":
    """A row of panels that share their y axis, each ``width`` inches wide."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, n_panels, figsize=(width * n_panels, 4), sharey=True, squeeze=False)
    return figure, list(axes[0])


def save_svg(figure: "Figure", path: Path) -> None:
    """Write and close it; nothing in the file depends on when or where."""
    import matplotlib
    from matplotlib import pyplot

    figure.tight_layout()
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomic(path, buffer.getvalue())
