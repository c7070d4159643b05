"""The plots of a page, drawn by matplotlib as inline SVG in the page's colors."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

from keras_kd.report.blocks import Bar, BarPlot, LinePlot, MatrixPlot, Plot, PointPlot, Series

# Stand-ins that matplotlib draws with; each becomes a CSS variable, so a page's plots follow its
# light or dark scheme.
_INK, _FAINT, _PAPER = "#010101", "#020202", "#030303"
_SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
_VARIABLES = {_INK: "ink", _FAINT: "line", _PAPER: "paper"} | {
    color: f"series-{i}" for i, color in enumerate(_SERIES)
}


# Inches; a page scales a drawing to its column.
_WIDTH, _HEIGHT = 5.6, 3.9
_BARS_WIDTH, _BAR_HEIGHT, _BARS_FRAME = 5.0, 0.34, 0.75
_LONGEST_NAME = 26
_SMALL, _POINTS_A_LETTER = 9.5, 5.8


def svg(plot: Plot, number: int) -> str:
    """A plot as an SVG element.

    Args:
        plot: The plot.
        number: Its number on the page, which keeps its ids apart from those of other plots.

    Raises:
        ImportError: There is no matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as err:
        raise ImportError(
            "Expected matplotlib, which draws the plots of a report's page. It is not installed "
            f"({err}). Hint: pip install keras_kd[demo]"
        ) from err
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"plot {number}",
        "font.size": 10.5,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _FAINT,
        "xtick.color": _FAINT,
        "ytick.color": _FAINT,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "grid.color": _FAINT,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=_size(plot), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        axes.set_xlabel(plot.x_label)
        if not isinstance(plot, BarPlot):
            axes.set_ylabel(plot.y_label)
        if isinstance(plot, LinePlot):
            _draw_lines(axes, plot)
        elif isinstance(plot, BarPlot):
            _draw_bars(axes, plot)
        elif isinstance(plot, PointPlot):
            _draw_points(axes, plot)
        else:
            _draw_matrix(axes, plot)
        stream = io.StringIO()
        # No date, so that the same report is the same bytes.
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(stream.getvalue(), plot.title, number)


def _size(plot: Plot) -> tuple[float, float]:
    if isinstance(plot, BarPlot):
        return _BARS_WIDTH, _BARS_FRAME + _BAR_HEIGHT * max(len(plot.bars), 1)
    return (5.2, 4.5) if isinstance(plot, MatrixPlot) else (_WIDTH, _HEIGHT)


def _inline(svg: str, title: str, number: int) -> str:
    """The drawing without its prolog, with CSS colors, the page's font and ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="plot{number}-\1"', svg)
    svg = re.sub(r'"#([A-Za-z][^"]*)"', rf'"#plot{number}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#plot{number}-\1)", svg)
    svg = re.sub(r"(font: [^;\"']*?px) [^;\"]*", r"\1 var(--font)", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg


def _open_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)


def _color(series: Series, position: int) -> str:
    return _SERIES[(position if series.color is None else series.color) % len(_SERIES)]


def _draw_lines(axes: Any, plot: LinePlot) -> None:
    from matplotlib.ticker import MaxNLocator

    _open_axes(axes)
    if all(isinstance(x, int) for series in plot.series for x in series.x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for i, series in enumerate(plot.series):
        color = _color(series, i)
        style = (0, (4, 3)) if series.dashed else "solid"
        axes.plot(series.x, series.y, color=color, linewidth=2, linestyle=style, label=series.name)
        if series.error:
            low = [y - e for y, e in zip(series.y, series.error, strict=True)]
            high = [y + e for y, e in zip(series.y, series.error, strict=True)]
            axes.fill_between(series.x, low, high, color=color, alpha=0.15, linewidth=0)
    axes.legend(frameon=False)
    axes.margins(x=0.02)
    axes.set_ylim(bottom=plot.y_min)


def _draw_points(axes: Any, plot: PointPlot) -> None:
    from matplotlib.ticker import LogLocator

    _open_axes(axes)
    if plot.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
        axes.minorticks_off()
    for i, series in enumerate(plot.series):
        axes.errorbar(
            *(series.x, series.y, list(series.error) or None),
            fmt="o",
            color=_color(series, i),
            markerfacecolor=_PAPER if series.dashed else _color(series, i),
            markeredgewidth=1.8,
            markersize=8,
            elinewidth=1.5,
            capsize=4,
            label=series.name,
        )
    axes.legend(frameon=False)
    axes.margins(0.1, 0.12)


def _draw_bars(axes: Any, plot: BarPlot) -> None:
    names = [_shortened(bar.name) for bar in plot.bars]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    low, high = _extent(plot)
    if plot.limit is not None:
        axes.barh(range(len(names)), plot.limit, height=0.62, color=_FAINT, alpha=0.45)
        axes.axvline(plot.limit, color=_INK, linewidth=1.3, linestyle=(0, (4, 3)))
        axes.annotate(
            *(plot.limit_label, (plot.limit, 1.0)),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=_SMALL,
        )
    labels = [_bar_label(bar) for bar in plot.bars]
    for position, (bar, label) in enumerate(zip(plot.bars, labels, strict=True)):
        end = 0.0 if bar.value is None else _draw_bar(axes, bar, bar.value, position, plot)
        # Held against a line, labels stand in a column behind it, which none of them crosses.
        axes.annotate(
            *(label, (end if plot.limit is None else high, position)),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=_SMALL,
        )
    room = _room(names, labels)
    axes.set_xlim(low, high + (high - low) * room)
    axes.xaxis.label.set_x(0.5 / (1 + room))
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
    axes.spines["bottom"].set_bounds(low, high)


def _draw_bar(axes: Any, bar: Bar, value: float, position: int, plot: BarPlot) -> float:
    """Draws one bar or dot, and returns where it ends."""
    color = _SERIES[(bar.color or 0) % len(_SERIES)]
    face = _PAPER if bar.hollow else color
    end = value if plot.x_max is None else min(value, plot.x_max)
    if plot.dots:
        axes.plot(end, position, "o", color=color, markerfacecolor=face, markeredgewidth=1.8)
    else:
        style = {"edgecolor": color, "linewidth": 1.2, "linestyle": "--" if bar.hollow else "-"}
        axes.barh(position, end, height=0.62, color=face, **style)
    if end < value:
        axes.plot(
            *([0.955 * end, 0.97 * end], [position + 0.4, position - 0.4]),
            color=_PAPER,
            linewidth=3,
        )
    if bar.error is not None:
        on_bar = not plot.dots and not bar.hollow
        axes.errorbar(
            *(end, position),
            xerr=bar.error,
            color=_INK if on_bar else color,
            elinewidth=1.5,
            capsize=4,
        )
    return max(end + (bar.error or 0.0), 0.0 if not plot.dots else end)


def _bar_label(bar: Bar) -> str:
    if bar.label:
        return bar.label
    return "not known" if bar.value is None else f"{bar.value:,.4g}"


def _extent(plot: BarPlot) -> tuple[float, float]:
    """What the axis of a bar plot must show, without the labels."""
    known = [(bar.value, bar.error or 0.0) for bar in plot.bars if bar.value is not None]
    ends = [end for value, error in known for end in (value - error, value + error)]
    ends += [] if plot.limit is None else [plot.limit]
    ends += [] if plot.dots and ends else [0.0]
    low, high = min(ends), max(ends)
    if plot.x_max is not None:
        high = min(high, plot.x_max)
    if low == high:
        high = low + (abs(low) or 1.0)
    # A dot on the edge would be cut in two.
    return (low - 0.08 * (high - low) if plot.dots else low), high


def _room(names: Sequence[str], labels: Sequence[str]) -> float:
    """The share of the axis to leave for the labels at the bars' ends, by their lengths."""
    points = 72 * _BARS_WIDTH - 20 - _POINTS_A_LETTER * max(map(len, names), default=0)
    wanted = 8 + _POINTS_A_LETTER * max(map(len, labels), default=0)
    return wanted / max(points - wanted, 0.25 * points)


def _shortened(name: str) -> str:
    """The end of a long name, as its beginning is the layers' around."""
    return name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]


def _draw_matrix(axes: Any, plot: MatrixPlot) -> None:
    from matplotlib.patches import Rectangle

    size = len(plot.labels)
    axes.set_xticks(range(size), plot.labels)
    axes.set_yticks(range(size), plot.labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_aspect("equal")
    for i, row in enumerate(plot.counts):
        most = max(sum(row), 1)
        for j, count in enumerate(row):
            share = count / most
            # Opacity is the share of the row, from where a rare error can still be seen.
            color = _SERIES[0] if i == j else _SERIES[1]
            alpha = 0.0 if count == 0 else 0.12 + 0.75 * share
            cell = Rectangle(
                (j - 0.47, i - 0.47), 0.94, 0.94, color=color, alpha=alpha, linewidth=0
            )
            axes.add_patch(cell)
            if count:
                on_dark = _PAPER if alpha > 0.6 else _INK
                axes.text(j, i, str(count), ha="center", va="center", color=on_dark, fontsize=9.5)
