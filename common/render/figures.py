"""Figures as SVG in a page's colours, light or dark, or as PNG on white.

matplotlib draws with placeholder colours; in the SVG they become variables that page.css defines.
`draw_…` functions draw on matplotlib's axes; all others but `png` return one <svg> element.
"""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import cycler
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (4.9, 2.6)  # inches: text stays readable on a phone
FONT = 9  # points
FAMILY = "Verdana, 'DejaVu Sans', sans-serif"  # as wide as the font matplotlib lays text out with
INK, FAINT = "#010101", "#020202"  # placeholders, replaced by VARIABLES
SERIES = ("#030301", "#030302", "#030303", "#030304")
VARIABLES = {INK: "--ink", FAINT: "--faint"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)
}
DASHED = {"color": INK, "linewidth": 1, "linestyle": (0, (3, 2))}
DOTS = {"color": SERIES[0], "fmt": "o", "markersize": 4, "elinewidth": 1.2}
DPI = 120


class BinnedAxis(NamedTuple):
    """The x axis of a histogram."""

    edges: Sequence[float]
    """Borders between bins, ascending; values beyond count in the first or last bin."""
    label: str
    marks: Sequence[float] = ()
    """Values with a dashed line."""
    logarithmic: bool = False


def _style(ink: str, faint: str, series: Sequence[str]) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "figure",
        "font.size": FONT,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=series),
        "xtick.color": faint,
        "xtick.labelcolor": ink,
        "ytick.color": faint,
        "ytick.labelcolor": ink,
        "legend.frameon": False,
    }


STYLE = _style(INK, FAINT, SERIES)
ON_WHITE = _style("#1a1a19", "#8a8983", ("#2a78d6", "#d9622b", "#1f8f6f", "#8a63c9"))


def bars(groups: Mapping[str, int], title: str, label: str) -> str:
    """Draw a horizontal bar with its number for each name, the first on top."""

    def draw(axes: "Axes") -> None:
        names = [_literal(name) for name in groups]
        drawn = axes.barh(names, list(groups.values()), color=SERIES[0], height=0.7)
        axes.bar_label(drawn, [f"{value:,}" for value in groups.values()], padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel(label)

    return _drawn(draw, title, (SIZE[0], 0.9 + 0.25 * len(groups)))


def histogram(
    series: Mapping[str, Sequence[float]],
    axis: BinnedAxis,
    title: str,
    *,
    of: str,
    stacked: bool = True,
) -> str:
    """Draw the number of values in each bin; `of` labels the y axis.

    Several series are stacked, or overlap and are translucent.
    """

    def draw(axes: "Axes") -> None:
        first, last = axis.edges[0], axis.edges[-1]
        values = [np.clip(part, first, last) for part in series.values()]
        look = {"histtype": "bar"} if stacked else {"histtype": "stepfilled", "alpha": 0.6}
        colours = SERIES[: len(values)]
        axes.hist(values, axis.edges, stacked=stacked, color=colours, label=list(series), **look)
        for mark in axis.marks:
            axes.axvline(mark, **DASHED)
        if axis.logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(first, last)
        axes.set_xlabel(axis.label)
        axes.set_ylabel(of)
        if len(series) > 1:
            axes.legend()

    return _drawn(draw, title)


def grid(
    values: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str], title: str
) -> str:
    """Draw counts in a grid, more intense the larger they are."""

    def draw(axes: "Axes") -> None:
        table = np.asarray(values)
        _cells(axes, table, np.sqrt(table / max(1, table.max())))
        _grid_axes(axes, rows, columns)

    return _drawn(draw, title, (SIZE[0], 0.8 + 0.4 * len(rows)))


def confusion(
    counts: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str], title: str
) -> str:
    """Draw photos by true (rows) and predicted class, more intense the larger a part of their row.

    Correct predictions, on the diagonal, have one colour and wrong ones another.
    """
    draw = partial(draw_confusion, counts=counts, rows=rows, columns=columns)
    large = max(0, len(rows) - 3)
    return _drawn(draw, title, (SIZE[0] + 0.37 * large, 2.0 + 0.31 * large))


def draw_confusion(
    axes: "Axes", counts: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str]
) -> None:
    """Draw on `axes` as `confusion` does."""
    table = np.asarray(counts)
    _cells(axes, table, table / table.sum(axis=1, keepdims=True).clip(1), wrong=True)
    _grid_axes(axes, rows, columns)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


def _cells(axes: "Axes", table: np.ndarray, strength: np.ndarray, *, wrong: bool = False) -> None:
    """Draw a rectangle with its number for each value; with `wrong` in another colour off
    the diagonal.
    """
    ink, faint = (matplotlib.rcParams[name] for name in ("text.color", "xtick.color"))
    for (row, column), value in np.ndenumerate(table):
        colour = "C1" if wrong and row != column else "C0"
        alpha = 0.04 + 0.5 * strength[row, column]
        corner = column - 0.47, row - 0.47
        axes.add_patch(Rectangle(corner, 0.94, 0.94, color=colour, alpha=alpha, linewidth=0))
        text = faint if wrong and value == 0 else ink
        axes.text(column, row, f"{value:,}", ha="center", va="center", color=text)


def _grid_axes(axes: "Axes", rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def intervals(
    values: Mapping[str, tuple[float, float, float]], title: str, label: str, *, mark: float
) -> str:
    """Draw a proportion with its interval (value, low, high) for each name, the first on top.

    A dashed line is at `mark`.
    """

    def draw(axes: "Axes") -> None:
        middle, low, high = np.array(list(values.values())).T
        axes.errorbar(middle, range(len(values)), xerr=(middle - low, high - middle), **DOTS)
        axes.axvline(mark, **DASHED)
        axes.set_yticks(range(len(values)), [_literal(name) for name in values])
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xlim(min(0.95 * low.min(), 0.5), 1.01)
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.grid(axis="x", color=FAINT, linewidth=0.4)
        axes.set_axisbelow(True)
        axes.set_xlabel(label)

    return _drawn(draw, title, (SIZE[0], 0.75 + 0.2 * len(values)))


def reliability(
    points: Sequence[tuple[float, float, float, float]], title: str, labels: tuple[str, str]
) -> str:
    """Draw (probability, proportion correct, low, high) against the dashed line of equality."""

    def draw(axes: "Axes") -> None:
        probability, correct, low, high = np.array(points).T
        axes.plot((0, 1), (0, 1), **DASHED)
        axes.errorbar(probability, correct, yerr=(correct - low, high - correct), **DOTS)
        axes.set_xlim(min(0.95 * probability.min(), 0.5), 1.02)
        axes.set_ylim(0, 1.04)
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])

    return _drawn(draw, title)


def band(
    points: Sequence[tuple[float, float, float, float]],
    dots: Sequence[tuple[float, float]],
    title: str,
    labels: tuple[str, str],
    *,
    marks: Sequence[float] = (),
) -> str:
    """Draw a line through (x, y, low, high) in the band of its interval, dots (x, y) and marks.

    y is a proportion; marks are values of x with a dashed line.
    """

    def draw(axes: "Axes") -> None:
        x, y, low, high = np.array(points).T
        axes.fill_between(x, low, high, color=SERIES[0], alpha=0.18, linewidth=0)
        axes.plot(x, y, color=SERIES[0], linewidth=1.4)
        axes.plot(*np.array(dots).T, "o", color=SERIES[1], markersize=2)
        for mark in marks:
            axes.axvline(mark, **DASHED)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])

    return _drawn(draw, title)


def draw_curves(
    axes: "Axes",
    epochs: Sequence[int],
    series: Mapping[str, Sequence[float]],
    label: str,
    *,
    thin: Mapping[str, Sequence[float]] | None = None,
    best: int | None = None,
) -> None:
    """Draw a line for each of `series` over the epochs, dashed for `thin`; mark `best`."""
    for number, (name, values) in enumerate(series.items()):
        axes.plot(epochs, values, f"C{number}", marker=".", label=name)
    for number, (name, values) in enumerate((thin or {}).items(), len(series)):
        axes.plot(epochs, values, f"C{number}--", marker=".", linewidth=0.8, label=name)
    if best is not None:
        axes.axvline(best, color=matplotlib.rcParams["text.color"], linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    if len(axes.lines) - (best is not None) > 1:  # a single line has its name at the axis
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def png(
    parts: "Sequence[Callable[[Axes], None]]", title: str, size: tuple[float, float] = SIZE
) -> bytes:
    """Draw `parts` side by side under a title, each of `size` in inches, as a PNG file's bytes."""
    with matplotlib.rc_context(ON_WHITE):
        figure = Figure((size[0] * len(parts), size[1]), dpi=DPI, layout="constrained")
        figure.suptitle(_literal(title), fontsize=FONT + 1)
        for draw, axes in zip(parts, figure.subplots(1, len(parts), squeeze=False)[0], strict=True):
            draw(axes)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
    return stream.getvalue()


def _drawn(draw: "Callable[[Axes], None]", title: str, size: tuple[float, float] = SIZE) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(size, layout="constrained")
        draw(figure.add_subplot())
        return _svg(figure, title)


def _literal(text: str) -> str:
    """Keep matplotlib from reading mathematics between dollar signs."""
    return text.replace("$", r"\$")


def _svg(figure: Figure, title: str) -> str:
    """Export the figure as an <svg> element without a width, the same bytes every time."""
    stream = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    text = stream.getvalue()
    box = re.search(r'viewBox="([^"]*)"', text)[1]
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # a page must not repeat an id
    text = re.sub(r"font-family: [^;\"]*", f"font-family: {FAMILY}", text)
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var({name})")
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg viewBox="{box}" {links} role="img" aria-label="{html.escape(title)}">{text}'
