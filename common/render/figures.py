"""Figures as SVG to put into a page: they take its colours, light or dark; or as PNG on white.

matplotlib draws in colours that stand for others; the page's style (common/report/html.py) says
which. `draw_…` functions draw on matplotlib's axes; all others but `png` return the text of one
<svg> element.
"""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib import cycler
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (4.9, 2.6)  # inches: letters are large enough on a phone
FONT = 9  # points
FAMILY = "Verdana, 'DejaVu Sans', sans-serif"  # as wide as the typeface that matplotlib measures
INK, FAINT = "#010101", "#020202"
SERIES = ("#030301", "#030302", "#030303", "#030304")
VARIABLES = {INK: "--ink", FAINT: "--faint"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)
}
DASHED = {"color": INK, "linewidth": 1, "linestyle": (0, (3, 2))}
DOTS = {"color": SERIES[0], "fmt": "o", "markersize": 4, "elinewidth": 1.2}
DPI = 120


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
    """A horizontal bar for each name, with its number; the first is on top."""

    def draw(axes: "Axes") -> None:
        names = [name.replace("$", r"\$") for name in groups]
        drawn = axes.barh(names, list(groups.values()), color=SERIES[0], height=0.7)
        axes.bar_label(drawn, [f"{value:,}" for value in groups.values()], padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel(label)

    return _drawn(draw, title, (SIZE[0], 0.9 + 0.25 * len(groups)))


def histogram(
    series: Mapping[str, Sequence[float]],
    bins: Sequence[float],
    title: str,
    label: str,
    *,
    of: str,
    marks: Sequence[float] = (),
    stacked: bool = True,
    logarithmic: bool = False,
) -> str:
    """How many values fall between the edges `bins`; a dashed line at each mark.

    Several series are stacked, or shine through each other.
    """

    def draw(axes: "Axes") -> None:
        values = [np.clip(part, bins[0], bins[-1]) for part in series.values()]
        colours = SERIES[: len(values)]
        kind = "bar" if stacked else "stepfilled"
        axes.hist(
            values, bins, stacked=stacked, histtype=kind, alpha=1 if stacked else 0.6,
            color=colours, label=list(series),
        )  # fmt: skip
        for mark in marks:
            axes.axvline(mark, **DASHED)
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(bins[0], bins[-1])
        axes.set_xlabel(label)
        axes.set_ylabel(of)
        if len(series) > 1:
            axes.legend()

    return _drawn(draw, title)


def grid(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    *,
    form: str = "{:,}",
    axes_labels: tuple[str, str] = ("", ""),
) -> str:
    """Numbers in a grid, stronger in colour the larger they are: classes, a confusion matrix."""

    def draw(axes: "Axes") -> None:
        table = np.asarray(values)
        strength = np.sqrt(table / table.max()) if table.max() > 0 else table
        _cells(axes, table, strength, form)
        _grid_axes(axes, rows, columns, axes_labels)

    return _drawn(draw, title, (SIZE[0], 0.8 + 0.4 * len(rows)))


def confusion(
    counts: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str], title: str
) -> str:
    """Photos by true class (rows) and answer, stronger in colour the larger a share of their row.

    Right answers, on the diagonal, have one colour and wrong ones another.
    """
    draw = partial(draw_confusion, counts=counts, rows=rows, columns=columns)
    large = max(0, len(rows) - 3)
    return _drawn(draw, title, (SIZE[0] + 0.37 * large, 2.0 + 0.31 * large))


def draw_confusion(
    axes: "Axes", counts: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str]
) -> None:
    """As `confusion`."""
    table = np.asarray(counts)
    _cells(axes, table, table / table.sum(axis=1, keepdims=True).clip(1), "{:,}", wrong=True)
    _grid_axes(axes, rows, columns, ("answered", "true"))


def _cells(
    axes: "Axes", table: np.ndarray, strength: np.ndarray, form: str, *, wrong: bool = False
) -> None:
    """A rectangle with its number for each value; with `wrong` other colours off the diagonal."""
    ink, faint = (matplotlib.rcParams[name] for name in ("text.color", "xtick.color"))
    for (row, column), value in np.ndenumerate(table):
        colour = "C1" if wrong and row != column else "C0"
        alpha = 0.04 + 0.5 * strength[row, column]
        corner = column - 0.47, row - 0.47
        axes.add_patch(Rectangle(corner, 0.94, 0.94, color=colour, alpha=alpha, linewidth=0))
        unseen = wrong and value == 0
        axes.text(
            column,
            row,
            form.format(value),
            ha="center",
            va="center",
            color=faint if unseen else ink,
        )


def _grid_axes(
    axes: "Axes", rows: Sequence[str], columns: Sequence[str], labels: tuple[str, str]
) -> None:
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])


def intervals(
    values: Mapping[str, tuple[float, float, float]], title: str, label: str, *, mark: float
) -> str:
    """A dot with its interval (value, low, high) for each name, in shares; a dashed line at `mark`.

    The first name is on top.
    """

    def draw(axes: "Axes") -> None:
        middle, low, high = np.array(list(values.values())).T
        axes.errorbar(middle, range(len(values)), xerr=(middle - low, high - middle), **DOTS)
        axes.axvline(mark, **DASHED)
        axes.set_yticks(range(len(values)), [name.replace("$", r"\$") for name in values])
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
    """Dots (probability, share right, low, high) about the dashed line where both are the same."""

    def draw(axes: "Axes") -> None:
        probability, right, low, high = np.array(points).T
        axes.plot((0, 1), (0, 1), **DASHED)
        axes.errorbar(probability, right, yerr=(right - low, high - right), **DOTS)
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
    """A line through (x, share, low, high) in its interval's band, dots (x, share) and marks."""

    def draw(axes: "Axes") -> None:
        x, share, low, high = np.array(points).T
        axes.fill_between(x, low, high, color=SERIES[0], alpha=0.18, linewidth=0)
        axes.plot(x, share, color=SERIES[0], linewidth=1.4)
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
    """A line for each of `series` over the epochs, dashed for `thin`; the `best` epoch is marked."""
    for number, (name, values) in enumerate(series.items()):
        axes.plot(epochs, values, f"C{number}", marker=".", label=name)
    for number, (name, values) in enumerate((thin or {}).items()):
        axes.plot(epochs, values, f"C{number}--", marker=".", linewidth=0.8, label=name)
    if best is not None:
        axes.axvline(best, color=matplotlib.rcParams["text.color"], linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def png(
    parts: "Sequence[Callable[[Axes], None]]", title: str, size: tuple[float, float] = SIZE
) -> bytes:
    """What `parts` draw, side by side under a title, each of `size` in inches."""
    with matplotlib.rc_context(ON_WHITE):
        figure = Figure((size[0] * len(parts), size[1]), dpi=DPI, layout="constrained")
        figure.suptitle(title.replace("$", r"\$"), fontsize=FONT + 1)
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


def _svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element as wide as the page gives it, the same bytes every time."""
    stream = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    text = stream.getvalue()
    box = re.search(r'viewBox="([^"]*)"', text)[1]
    text = text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # ids of a page are unique
    text = re.sub(r"font-family: [^;\"]*", f"font-family: {FAMILY}", text)
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var({name})")
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg viewBox="{box}" {links} role="img" aria-label="{html.escape(title)}">{text}'
