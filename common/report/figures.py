"""Figures as SVG to put into a page: they take its colours, light or dark.

matplotlib draws in colours that stand for others; the page's style (common/report/html.py) says
which. Every function returns the text of one <svg> element.
"""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

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
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "figure",
    "font.size": FONT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


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
            axes.axvline(mark, color=INK, linewidth=1, linestyle=(0, (3, 2)))
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
        table = np.asarray(values, dtype=float)
        strength = np.sqrt(table / table.max()) if table.max() > 0 else table
        for (row, column), value in np.ndenumerate(np.asarray(values)):
            corner = column - 0.47, row - 0.47
            alpha = 0.04 + 0.5 * strength[row, column]
            axes.add_patch(Rectangle(corner, 0.94, 0.94, color=SERIES[0], alpha=alpha, linewidth=0))
            axes.text(column, row, form.format(value), ha="center", va="center")
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(axes_labels[0])
        axes.set_ylabel(axes_labels[1])

    return _drawn(draw, title, (SIZE[0], 0.8 + 0.4 * len(rows)))


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
