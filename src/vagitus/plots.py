"""Figures of a report: arrays in, one inline SVG out.

Conventions
    WIDTH       every figure is drawn this wide, so that its text has its own size on a phone and cards of
                them make a grid on a desk
    colours     are CSS variables of the page, so that a figure follows light, dark and print; the same series
                always differs in dash and marker too
    text        stays text, in the page's font
    alt         what a figure shows, in words, for who cannot see it
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vagitus.features import FeatureConfig, mel_filterbank
from vagitus.metrics import CalibrationCurve, DecisionCurve, PrecisionRecallCurve, RocCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

MINUS = "\N{MINUS SIGN}"
WIDTH = 340  # px: a phone of 390 px less the margins of page and card
DPI = 72  # a point is then a pixel of the SVG
TEXT_PX = 11.0
# matplotlib wants colours, the page wants variables: each of these stands for one and is replaced by it.
COLOURS = {
    name: f"#0101{i:02x}"
    for i, name in enumerate(("ink", "muted", "rule", "surface", *(f"series-{n}" for n in range(1, 7))), 1)
}
INK, MUTED, RULE, SURFACE = (COLOURS[name] for name in ("ink", "muted", "rule", "surface"))
COLOUR_MAP = "viridis"  # even steps in lightness: reads the same in grey and without red or green
TICKS_HZ = (20, 50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000)
TICK_GAP = 0.12  # of the axis, at least, between two of them
ROUND_NUMBERS = tuple(float(digit * 10**power) for power in range(-2, 6) for digit in (1, 2, 5))
MOST_DOTS = 120  # of a strip: more only blacken it
N_LEVELS = 12  # rows a strip is spread over


class Style(NamedTuple):
    """How one series is drawn everywhere in a report."""

    colour: str  # CSS variable, without the dashes
    dash: tuple[float, ...]  # on, off, on, off, ... px; empty is solid
    marker: str  # matplotlib's letter
    shape: str  # SVG path of the marker around (0, 0), for legends


STYLES = (
    Style("series-1", (), "o", "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z"),
    Style("series-2", (6, 2.5), "s", "M-3 -3h6v6h-6z"),
    Style("series-3", (7, 2, 1.5, 2), "^", "M0 -4l4 7h-8z"),
    Style("series-4", (1.6, 2), "D", "M0 -4l4 4l-4 4l-4 -4z"),
    Style("series-5", (9, 2, 1.5, 2, 1.5, 2), "v", "M0 4l4 -7h-8z"),
    Style(
        "series-6",
        (3, 2),
        "X",
        "M-4 -2.5l1.5 -1.5l2.5 2.5l2.5 -2.5l1.5 1.5l-2.5 2.5l2.5 2.5"
        "l-1.5 1.5l-2.5 -2.5l-2.5 2.5l-1.5 -1.5l2.5 -2.5z",
    ),
)


class Plot(NamedTuple):
    """One figure of the page.

    Attributes:
        title: what it shows.
        svg: safe markup: all text in it is escaped.
        caption: how to read it.
        legend: (style, text) of each series.
    """

    title: str
    svg: str
    caption: str
    legend: tuple[tuple[Style, str], ...] = ()


class Row(NamedTuple):
    """One line of a forest plot."""

    label: str
    estimate: float
    low: float
    high: float
    text: str
    style: Style


# --- comparisons ---


def forest(name: str, rows: Sequence[Row], *, metric: str, chance: float | None, alt: str) -> str:
    """A dot with its interval for each row, labels above the lines so that long names fit.

    Args:
        name: makes the ids of this SVG its own.
        chance: where a dashed line stands; None for none.
    """
    figure, axes = _canvas(36 * len(rows) + 44)
    for y, row in enumerate(rows):
        axes.plot([row.low, row.high], [y, y], color=_hex(row.style), lw=2.2, solid_capstyle="butt")
        for end in (row.low, row.high):
            axes.plot([end, end], [y - 0.1, y + 0.1], color=_hex(row.style), lw=1.6)
        axes.plot(row.estimate, y, row.style.marker, color=_hex(row.style), ms=7, mec=SURFACE, mew=0.8)
        _above(axes, y, row.label, row.text)
    _rows(axes, len(rows))
    if chance is not None:
        axes.axvline(chance, color=MUTED, lw=1, dashes=(4, 3), zorder=0)
    axes.set_xlabel(metric)
    _pad_x(axes, [chance, *(value for row in rows for value in row[1:4])])
    return _svg(figure, name, alt)


def dots(
    name: str,
    rows: Sequence[tuple[str, str, Sequence[tuple[Style, ArrayLike, float, float]]]],
    *,
    metric: str,
    chance: float | None,
    alt: str,
) -> str:
    """Dots of several series on each row: (label, text, [(style, values, low, high)]).

    ``values`` is one value or many; low and high make a line, NaN for none.
    """
    n_lines = max((len(series) for _, _, series in rows), default=1)
    height = 22 + 12 * n_lines
    figure, axes = _canvas(height * len(rows) + 44)
    step = 12 / height
    everything: list[float | None] = [chance]
    for y, (label, text, series) in enumerate(rows):
        for k, (style, values, low, high) in enumerate(series):
            at = y + k * step
            held = np.atleast_1d(np.asarray(values, dtype=np.float64))
            axes.plot([low, high], [at, at], color=_hex(style), lw=1.6)
            axes.plot(
                held, np.full(len(held), at), style.marker, color=_hex(style), ms=5.5, mec=SURFACE, mew=0.6
            )
            everything += [*held.tolist(), low, high]
        _above(axes, y, label, text, lift=10 / height)
    axes.set_ylim(len(rows) - 1 + (n_lines - 0.2) * step, -26 / height)
    axes.set_yticks([])
    if chance is not None:
        axes.axvline(chance, color=MUTED, lw=1, dashes=(4, 3), zorder=0)
    axes.set_xlabel(metric)
    _pad_x(axes, everything)
    return _svg(figure, name, alt)


# --- curves ---


def roc(
    name: str,
    curves: Sequence[tuple[Style, RocCurve]],
    *,
    band: tuple[FloatArray, FloatArray, FloatArray] | None,
    points: Sequence[tuple[Style, float, float]],
    positive: str,
    negative: str,
    alt: str,
) -> str:
    """Receiver operating characteristic.

    Args:
        band: (fpr, low, high) of the first curve.
        points: (style, 1 - specificity, sensitivity) of each decision threshold.
    """
    figure, axes = _canvas(WIDTH - 24)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, dashes=(4, 3))
    if band is not None:
        axes.fill_between(*band, color=_hex(curves[0][0]), alpha=0.16, lw=0)
    for style, curve in reversed(curves):
        _line(axes, curve.fpr, curve.tpr, style)
    for style, fpr, tpr in points:
        axes.plot(fpr, tpr, style.marker, color=_hex(style), ms=8, mec=SURFACE, mew=1)
    _unit_axes(axes)
    axes.set_xlabel(f"1 {MINUS} specificity: {short(negative)} called {short(positive)}")
    axes.set_ylabel(f"Sensitivity: {short(positive)} found")
    return _svg(figure, name, alt)


def precision_recall(
    name: str,
    curves: Sequence[tuple[Style, PrecisionRecallCurve]],
    *,
    prevalence: float | None,
    alt: str,
) -> str:
    """Precision against recall; the dashed line is what calling at random gives."""
    figure, axes = _canvas(WIDTH - 24)
    if prevalence is not None:
        axes.axhline(prevalence, color=MUTED, lw=1, dashes=(4, 3))
    for style, curve in reversed(curves):
        _line(axes, curve.recall, curve.precision, style)
    _unit_axes(axes)
    axes.set_xlabel("Recall (sensitivity)")
    axes.set_ylabel("Precision (positive predictive value)")
    return _svg(figure, name, alt)


def reliability(
    name: str,
    panels: Sequence[tuple[Style, str, CalibrationCurve, FloatArray]],
    *,
    predicted: str,
    observed: str,
    alt: str,
) -> str:
    """One small panel an arm: what was predicted against what came true; below, how often it was predicted.

    Args:
        panels: (style, arm, curve, predicted probabilities (n,)).
    """
    n_columns = min(2, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, grid = _grid(n_rows, n_columns, 158 * n_rows + 30)
    for axes, (style, arm, curve, probabilities) in zip(grid, panels, strict=False):
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, dashes=(4, 3))
        counts, edges = np.histogram(probabilities, bins=20, range=(0, 1))
        axes.bar(
            edges[:-1], 0.22 * counts / max(counts.max(), 1), 0.05, align="edge", color=RULE, lw=0, zorder=0
        )
        _line(axes, curve.probability, curve.frequency, style)
        area = 14 + 70 * curve.weight / max(curve.weight.sum(), 1)
        axes.scatter(
            curve.probability,
            curve.frequency,
            s=area,
            marker=style.marker,
            color=_hex(style),
            edgecolor=SURFACE,
            lw=0.6,
            zorder=3,
        )
        _unit_axes(axes, (0, 0.5, 1))
        axes.set_title(short(arm, 22), loc="left", fontsize=TEXT_PX, color=INK, pad=4)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel(predicted, fontsize=TEXT_PX, color=MUTED)
    figure.supylabel(observed, fontsize=TEXT_PX, color=MUTED)
    return _svg(figure, name, alt)


def decision(
    name: str,
    curves: Sequence[tuple[Style, DecisionCurve]],
    *,
    prevalence: float,
    positive: str,
    alt: str,
) -> str:
    """Net benefit over thresholds, beside calling everything positive and nothing positive."""
    figure, axes = _canvas(WIDTH - 60)
    reference = curves[0][1]
    axes.plot(reference.thresholds, reference.treat_all, color=INK, lw=1.2, dashes=(2, 2))
    axes.plot(reference.thresholds, reference.treat_none, color=INK, lw=1.2)
    for style, curve in reversed(curves):
        _line(axes, curve.thresholds, curve.model, style)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.15 * prevalence, 1.08 * prevalence)
    axes.set_xlabel("Threshold probability")
    axes.set_ylabel(f"Net benefit ({short(positive, 14)} found per recording)")
    return _svg(figure, name, alt)


def training(name: str, lines: Sequence[Sequence[float]], style: Style, *, value: str, alt: str) -> str:
    """One thin line a fold, and their mean over the folds that were still training."""
    figure, axes = _canvas(210)
    for line in lines:
        axes.plot(range(1, len(line) + 1), line, color=_hex(style), lw=1, alpha=0.35)
    n_epochs = max(len(line) for line in lines)
    mean = [float(np.mean([line[epoch] for line in lines if len(line) > epoch])) for epoch in range(n_epochs)]
    marker = style.marker if n_epochs == 1 else ""
    axes.plot(range(1, n_epochs + 1), mean, color=_hex(style), lw=2.4, marker=marker)
    axes.set_xlabel("Epoch")
    axes.set_ylabel(value)
    axes.locator_params(axis="x", integer=True)
    return _svg(figure, name, alt)


def falling(
    name: str,
    panels: Sequence[tuple[str, FloatArray, FloatArray, FloatArray, FloatArray]],
    *,
    metric: str,
    level: str,
    limits: tuple[float, float],
    reference: float,
    chance: float,
    log: bool,
    alt: str,
) -> str:
    """A metric as recordings get worse, one small panel a curve: a line and its interval as a band.

    Args:
        panels: (title, levels (n,), metric (n,), low (n,), high (n,)); one level alone is a dot with its interval.
        level: what the levels are, with their unit.
        limits: of the metric, the same in all figures that are to be compared.
        reference: of the recordings as they are, a solid line; chance is a dashed one.
        log: whether levels are spread by their logarithm.
    """
    style = STYLES[0]
    n_columns = min(2, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, grid = _grid(n_rows, n_columns, 124 * n_rows + 30 if n_columns == 2 else 210)
    for k, (title, levels, values, low, high) in enumerate(panels):
        axes = grid[k]
        axes.axhline(chance, color=MUTED, lw=1, dashes=(4, 3), zorder=1)
        axes.axhline(reference, color=INK, lw=1, zorder=1)
        if len(levels) == 1:
            axes.plot(levels.repeat(2), [low[0], high[0]], color=_hex(style), lw=1.6)
        else:
            axes.fill_between(levels, low, high, color=_hex(style), alpha=0.2, lw=0, zorder=1)
            _line(axes, levels, values, style)
        axes.plot(levels, values, style.marker, color=_hex(style), ms=5, mec=SURFACE, mew=0.6)
        axes.set_ylim(limits)
        axes.locator_params(axis="y", nbins=5)
        if k % n_columns:
            axes.tick_params(labelleft=False)
        round_levels = [tick for tick in ROUND_NUMBERS if levels[0] <= tick <= levels[-1]]
        if log and len(round_levels) > 1:
            axes.set_xscale("log")
            axes.set_xticks(round_levels)
            axes.minorticks_off()
        elif len(levels) == 1:
            axes.set_xticks(levels)
        else:
            axes.locator_params(axis="x", nbins=7 if n_columns == 1 else 4)
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        if title:
            axes.set_title(short(title, 22), loc="left", fontsize=TEXT_PX, color=INK, pad=4)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel(level, fontsize=TEXT_PX, color=MUTED)
    figure.supylabel(metric, fontsize=TEXT_PX, color=MUTED)
    return _svg(figure, name, alt)


# --- sounds ---


def profile(
    name: str,
    curves: Sequence[tuple[Style, FloatArray, FloatArray | None]],
    config: FeatureConfig,
    *,
    value: str,
    zero: bool,
    alt: str,
) -> str:
    """Values per mel band: (style, values (n_bands,), half width of the ribbon (n_bands,) or None)."""
    figure, axes = _canvas(230)
    bands = np.arange(config.n_bands)
    if zero:
        axes.axhline(0, color=MUTED, lw=1, dashes=(4, 3))
    for style, values, reach in reversed(curves):
        if reach is not None:
            axes.fill_between(
                bands, values - reach, values + reach, color=_hex(style), alpha=0.16, lw=0, zorder=1
            )
        _line(axes, bands, values, style)
    axes.set_xlim(0, config.n_bands - 1)
    axes.set_ylabel(value)
    _frequency_axis(axes.set_xticks, axes.set_xlabel, config)
    return _svg(figure, name, alt)


def spectrogram(
    name: str,
    image: FloatArray,
    config: FeatureConfig,
    *,
    duration_s: float,
    limits: tuple[float, float],
    value: str,
    alt: str,
    height: int = 190,
) -> str:
    """A (n_bands, n_columns) image over seconds and frequency, with its colour scale.

    Args:
        limits: values of the darkest and the brightest colour.
    """
    figure, axes = _canvas(height)
    shown = axes.imshow(
        image,
        origin="lower",
        aspect="auto",
        interpolation="none",
        cmap=COLOUR_MAP,
        vmin=limits[0],
        vmax=limits[1],
        extent=(0, duration_s, -0.5, config.n_bands - 0.5),
    )
    axes.grid(visible=False)
    axes.set_xlabel("Time (s)")
    _frequency_axis(axes.set_yticks, axes.set_ylabel, config)
    _scale(figure, axes, shown, value)
    return _svg(figure, name, alt)


def strips(
    name: str, groups: Sequence[tuple[Style, str, FloatArray]], *, value: str, log: bool, alt: str
) -> str:
    """Every class's values: a box from quartile to quartile with the median, and the recordings as dots."""
    figure, axes = _canvas(58 * len(groups) + 40)
    for y, (style, label, values) in enumerate(groups):
        ordered = np.sort(values)
        if len(ordered) > MOST_DOTS:
            ordered = ordered[np.linspace(0, len(ordered) - 1, MOST_DOTS).round().astype(np.int64)]
        # Golden-ratio steps spread neighbours apart and are the same every time.
        rise = np.floor((np.arange(len(ordered)) * 0.618034 % 1) * N_LEVELS) / N_LEVELS
        axes.scatter(
            ordered,
            y + 0.1 + 0.3 * rise,
            s=7,
            marker=style.marker,
            color=_hex(style),
            alpha=0.45,
            lw=0,
            zorder=1,
        )
        low, quarter, middle, three_quarters, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
        at = y - 0.07
        axes.plot([low, high], [at, at], color=_hex(style), lw=1.4)
        axes.plot([quarter, three_quarters], [at, at], color=_hex(style), lw=9, solid_capstyle="butt")
        axes.plot([middle, middle], [at - 0.13, at + 0.13], color=INK, lw=2)
        _above(axes, y, label, f"n = {len(values):,}, median {number(middle)}", lift=0.24)
    everything = np.concatenate([values for _, _, values in groups])
    ticks = [tick for tick in ROUND_NUMBERS if everything.min() <= tick <= everything.max()]
    if log and len(ticks) > 1:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [number(tick) for tick in ticks])
        axes.minorticks_off()
    else:
        axes.locator_params(axis="x", nbins=6)
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
    _rows(axes, len(groups), low=0.5)
    axes.set_xlabel(value)
    return _svg(figure, name, alt)


def matrix(name: str, shares: FloatArray, *, alt: str) -> str:
    """A confusion matrix of many classes, row shares as colour, without names."""
    figure, axes = _canvas(WIDTH - 20)
    shown = axes.imshow(shares, cmap=COLOUR_MAP, vmin=0, vmax=1, interpolation="none")
    axes.grid(visible=False)
    axes.set_xlabel("Called class (in order of name)")
    axes.set_ylabel("True class (in order of name)")
    _scale(figure, axes, shown, "Share of the true class")
    return _svg(figure, name, alt)


def swatch(style: Style) -> str:
    """A line with its marker, for a legend. Safe markup: nothing in it comes from data."""
    dash = f' stroke-dasharray="{" ".join(f"{length:g}" for length in style.dash)}"' if style.dash else ""
    return (
        f'<svg class="swatch" viewBox="0 0 30 12" width="30" height="12" aria-hidden="true">'
        f'<path d="M0 6H30" stroke="var(--{style.colour})" stroke-width="2" fill="none"{dash}/>'
        f'<path d="{style.shape}" transform="translate(15 6)" fill="var(--{style.colour})" '
        f'stroke="var(--surface)" stroke-width=".8"/></svg>'
    )


# --- canvas ---


def _canvas(height: float) -> "tuple[Figure, Axes]":
    figure, grid = _grid(1, 1, height)
    return figure, grid[0]


def _grid(n_rows: int, n_columns: int, height: float) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(
        figsize=(WIDTH / DPI, height / DPI),
        dpi=DPI,
        layout=ConstrainedLayoutEngine(w_pad=3 / DPI, h_pad=3 / DPI),
    )
    figure.patch.set_visible(False)
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
    for axes in grid:
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(RULE)
        axes.tick_params(colors=MUTED, length=3, width=1, labelsize=TEXT_PX, color=RULE)
        axes.xaxis.label.set(color=MUTED, size=TEXT_PX)
        axes.yaxis.label.set(color=MUTED, size=TEXT_PX)
        axes.grid(color=RULE, lw=0.7)
        axes.set_axisbelow(True)
    return figure, grid


def _hex(style: Style) -> str:
    return COLOURS[style.colour]


def _line(axes: "Axes", x: FloatArray | NDArray[np.int64], y: FloatArray, style: Style) -> None:
    axes.plot(x, y, color=_hex(style), lw=2, ls=(0, style.dash) if style.dash else "-")


def _above(axes: "Axes", y: float, label: str, text: str, *, lift: float = 0.22) -> None:
    """Label at the left and text at the right edge, above a row."""
    side: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "bottom", "fontsize": TEXT_PX}
    axes.text(0, y - lift, label, ha="left", color=INK, fontweight="bold", **side)
    axes.text(1, y - lift, text, ha="right", color=INK, **side)


def _rows(axes: "Axes", n_rows: int, *, low: float = 0.4) -> None:
    axes.set_ylim(n_rows - 1 + low, -0.72)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _unit_axes(axes: "Axes", ticks: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.8, 1)) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xticks=ticks, yticks=ticks)
    axes.set_xticklabels([f"{tick:g}" for tick in ticks])
    axes.set_yticklabels([f"{tick:g}" for tick in ticks])


def _pad_x(axes: "Axes", values: Sequence[float | None]) -> None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    pad = max(0.04 * (high - low), 0.01)
    axes.set_xlim(low - pad, high + pad)


def _scale(figure: "Figure", axes: "Axes", image: Any, value: str) -> None:
    """The colours of an image and what they stand for."""
    bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.06, aspect=18)
    bar.outline.set_visible(False)
    bar.set_label(value, color=MUTED, size=TEXT_PX)
    bar.ax.tick_params(length=2, color=RULE, labelcolor=MUTED, labelsize=TEXT_PX)


def _frequency_axis(
    set_ticks: Callable[..., Any], set_label: Callable[[str], Any], config: FeatureConfig
) -> None:
    """Ticks at round frequencies on an axis of mel bands."""
    weights = mel_filterbank(config)
    bins_hz = np.arange(weights.shape[1]) * config.sample_rate_hz / config.n_fft
    centres_hz = weights @ bins_hz / weights.sum(axis=1)
    held: list[int] = []
    places: list[float] = []
    for tick in reversed(TICKS_HZ):
        place = float(np.interp(tick, centres_hz, np.arange(config.n_bands)))
        is_inside = 0.9 * centres_hz[0] <= tick <= 1.1 * centres_hz[-1]
        if is_inside and (not places or places[-1] - place >= TICK_GAP * config.n_bands):
            held.append(tick)
            places.append(place)
    in_khz = centres_hz[-1] > 2000
    labels = [f"{tick / 1000:g}" if in_khz else f"{tick}" for tick in held]
    set_ticks(places, labels)
    set_label("Frequency (kHz)" if in_khz else "Frequency (Hz)")


def number(value: float) -> str:
    """Three digits, thousands apart, a true minus."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", MINUS)


def short(name: str, most: int = 16) -> str:
    """``name``, cut to what a figure has room for."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _svg(figure: "Figure", name: str, alt: str) -> str:
    """The figure as an element for a page: variables for colours, ids of its own, nothing else's style."""
    from html import escape

    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of files and classes may hold $ or _
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r'\sid="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r">\s+<", "><", re.sub(r"<[^>]*>", _plain_tag, svg))
    head = re.search(r'viewBox="([^"]+)"', svg)
    if head is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    body = svg[svg.index(">") + 1 :]
    label = escape(alt, quote=True)
    return (
        f'<svg class="plot" role="img" aria-label="{label}" viewBox="{head[1]}" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body}'.strip()
    )


def _plain_tag(tag: "re.Match[str]") -> str:
    """A tag without its own font, with hundredths of a pixel, on one line."""
    if tag[0].startswith("<image"):
        return tag[0].replace("\n", "")
    text = re.sub(r" ?font-family: [^;\"]+;?", "", tag[0])
    text = re.sub(r"(\.\d\d)\d+", r"\1", text)
    return re.sub(r"\s+", " ", text)
