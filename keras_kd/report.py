"""The frozen result of a check, a measurement or a comparison: as text, as JSON, as one HTML page.

A report holds plain values, so it is made, compared and tested without a browser. The page needs
nothing beside itself: its plots are inline SVG, drawn by matplotlib (extra `[demo]`), which is
imported when a page with plots is written and not before.
"""

from __future__ import annotations

import dataclasses
import html
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

SCHEMA = "keras_kd.report"
SCHEMA_VERSION = 1
MISSING = "\N{EN DASH}"


@dataclasses.dataclass(frozen=True)
class Uncertain:
    """A measured number and its uncertainty, in one unit.

    Args:
        value: The number.
        spread: Its standard error or standard deviation; None where it is not known.
    """

    value: float
    spread: float | None = None


Cell = str | int | float | Uncertain | None


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: The heading.
        unit: What the numbers are counted in; shown with the heading.
        digits: Decimals of its numbers; None leaves integers with separated thousands.
        scale: What a number is multiplied with to be shown, such as 100 for a percentage.
    """

    name: str
    unit: str = ""
    digits: int | None = None
    scale: float = 1.0

    @property
    def heading(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells; None is a cell to which nothing applies.

    Args:
        columns: The columns.
        rows: Each as long as `columns`.
        title: Above the table.
        note: Below it.
        highlight: Index of the row that the table is about, if there is one.

    Raises:
        ValueError: A row of another length.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    note: str = ""
    highlight: int | None = None

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Expected {len(self.columns)} cells in each row of table '{self.title}'. "
                    f"Received: {len(row)} in {row!r}. Hint: None is an empty cell."
                )

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers, which are aligned to the right."""
        return not any(isinstance(row[column], str) for row in self.rows)


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and what they are, such as the settings of a run."""

    items: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Series:
    """A line, or points: equally long `x` and `y`, and half the height of the error bars.

    Args:
        name: In the legend, or beside the point.
        x: Positions.
        y: Heights.
        error: One for each y; empty for none.
        color: Which of the page's colors, so that a thing has one color in every plot; None for
            the next.
        dashed: For a line, or a hollow point, that is there to be compared with.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    color: int | None = None
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class LinePlot:
    """Lines over a common axis, cut off below `y_min` if there is one."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""
    y_min: float | None = None


@dataclasses.dataclass(frozen=True)
class PointPlot:
    """Named points with error bars; `log_x` for sizes that differ by orders of magnitude."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    note: str = ""


@dataclasses.dataclass(frozen=True)
class MatrixPlot:
    """Counts in cells: a confusion matrix, rows the truth and columns the answer."""

    title: str
    x_label: str
    y_label: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    note: str = ""


Plot = LinePlot | PointPlot | MatrixPlot
Block = Text | Facts | Table | LinePlot | PointPlot | MatrixPlot


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks under a heading; on a wide page `columns` of them, 1 or 2, stand side by side."""

    title: str
    blocks: tuple[Block, ...]
    columns: int = 1


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found, for people and for programs.

    Args:
        title: What this is a report of.
        summary: The answer in a sentence or two.
        sections: The evidence.
        data: What a program reads: JSON values under names that stay; only in the JSON.

    Example:
        >>> report = Report("Digits", "The student keeps up.", (Section("Result", (table,)),))
        >>> print(report.text())
        >>> report.write_html("report.html")
    """

    title: str
    summary: str
    sections: tuple[Section, ...] = ()
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """The report for a terminal; the plots are left to the page."""
        parts = [f"{self.title}\n{'=' * len(self.title)}", self.summary]
        for section in self.sections:
            blocks = [_text_of(block) for block in section.blocks if not isinstance(block, Plot)]
            if blocks:
                parts += [f"{section.title}\n{'-' * len(section.title)}", *blocks]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """The report as JSON, with the version of its layout; numbers that are none are null."""
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "title": self.title,
            "summary": self.summary,
            "data": _plain(self.data),
            "sections": [
                {"title": s.title, "blocks": [_plain(block) for block in s.blocks]}
                for s in self.sections
            ],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_html(self) -> str:
        """The report as one page that needs nothing beside itself.

        Raises:
            ImportError: There are plots, and no matplotlib.
        """
        sections = []
        number = 0
        for section in self.sections:
            blocks = []
            for block in section.blocks:
                number += 1
                blocks.append(_html_of(block, number))
            grid = f' class="grid of-{section.columns}"' if section.columns > 1 else ""
            sections.append(
                f"<section><h2>{html.escape(section.title)}</h2>"
                f"<div{grid}>{''.join(blocks)}</div></section>"
            )
        return _PAGE.substitute(
            title=html.escape(self.title),
            summary=html.escape(self.summary),
            sections="\n".join(sections),
            style=_STYLE,
        )

    def write_text(self, path: str | os.PathLike) -> None:
        """Writes `text()`; an older file stays whole if that fails."""
        _write(path, self.text())

    def write_json(self, path: str | os.PathLike) -> None:
        """Writes `to_json()`; an older file stays whole if that fails."""
        _write(path, self.to_json())

    def write_html(self, path: str | os.PathLike) -> None:
        """Writes `to_html()`; an older file stays whole if that fails."""
        _write(path, self.to_html())


def _write(path: str | os.PathLike, content: str) -> None:
    path = Path(path)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; a report is as readable as any new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def shown(cell: Cell, column: Column) -> str:
    """A cell as people read it: digits and scale of its column, thousands apart."""
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Uncertain):
        spread = "" if cell.spread is None else f" ± {shown(cell.spread, column)}"
        return shown(cell.value, column) + spread
    if not math.isfinite(cell):
        return str(cell)
    if column.digits is None:
        return f"{cell * column.scale:,.10g}" if column.scale != 1 else f"{cell:,}"
    return f"{cell * column.scale:,.{column.digits}f}"


def _text_of(block: Text | Facts | Table) -> str:
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Facts):
        width = max((len(name) for name, _ in block.items), default=0)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in block.items)
    heads = [column.heading for column in block.columns]
    body = [
        [shown(c, col) for c, col in zip(row, block.columns, strict=True)] for row in block.rows
    ]
    widths = [max(map(len, cells)) for cells in zip(heads, *body, strict=True)]
    right = [block.is_number(i) for i in range(len(heads))]

    def line(cells: list[str]) -> str:
        aligned = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        )
        return "  ".join(aligned).rstrip()

    lines = [line(heads), "  ".join("-" * width for width in widths), *map(line, body)]
    return "\n".join([*([block.title] if block.title else []), *lines, *filter(None, [block.note])])


def _plain(value: Any) -> Any:
    """JSON values; a dataclass says in `kind` which one it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__.lower(), **fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"Expected JSON values in a report. Received: {type(value).__name__}. "
        "Hint: NumPy's numbers have .item(), its arrays .tolist()."
    )


def _html_of(block: Block, number: int) -> str:
    if isinstance(block, Text):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Facts):
        items = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
            for name, value in block.items
        )
        return f"<dl>{items}</dl>"
    if isinstance(block, Table):
        return "".join(_html_table(block))
    note = f"<p class='note'>{html.escape(block.note)}</p>" if block.note else ""
    return (
        f"<figure><figcaption>{html.escape(block.title)}</figcaption>"
        f"{_svg(block, number)}{note}</figure>"
    )


def _html_table(table: Table) -> Iterator[str]:
    classes = ["number" if table.is_number(i) else "" for i in range(len(table.columns))]
    if table.title:
        yield f"<h3>{html.escape(table.title)}</h3>"
    yield '<div class="scroll"><table><thead><tr>'
    for column, kind in zip(table.columns, classes, strict=True):
        unit = f" <small>{html.escape(column.unit)}</small>" if column.unit else ""
        yield f'<th scope="col" class="{kind}">{html.escape(column.name)}{unit}</th>'
    yield "</tr></thead><tbody>"
    for i, row in enumerate(table.rows):
        yield '<tr class="highlight">' if i == table.highlight else "<tr>"
        for cell, column, kind in zip(row, table.columns, classes, strict=True):
            yield f'<td class="{kind}">{_html_cell(cell, column)}</td>'
        yield "</tr>"
    yield "</tbody></table></div>"
    if table.note:
        yield f"<p class='note'>{html.escape(table.note)}</p>"


def _html_cell(cell: Cell, column: Column) -> str:
    if isinstance(cell, Uncertain) and cell.spread is not None:
        value, spread = shown(cell.value, column), shown(cell.spread, column)
        return f'{html.escape(value)}<span class="spread"> ± {html.escape(spread)}</span>'
    return html.escape(shown(cell, column))


# Stand-ins that matplotlib draws with; each becomes a CSS variable, so a page's plots follow its
# light or dark scheme.
_INK, _FAINT, _PAPER = "#010101", "#020202", "#030303"
_SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
_VARIABLES = {_INK: "ink", _FAINT: "line", _PAPER: "paper"} | {
    color: f"series-{i}" for i, color in enumerate(_SERIES)
}


def _svg(plot: Plot, number: int) -> str:
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
        square = isinstance(plot, MatrixPlot)
        figure = Figure(figsize=(5.2, 4.5) if square else (5.6, 3.9), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        if isinstance(plot, LinePlot):
            _draw_lines(axes, plot)
        elif isinstance(plot, PointPlot):
            _draw_points(axes, plot)
        else:
            _draw_matrix(axes, plot)
        stream = io.StringIO()
        # No date, so that the same report is the same bytes.
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(stream.getvalue(), plot.title, number)


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


def _draw_matrix(axes: Any, plot: MatrixPlot) -> None:
    size = len(plot.labels)
    axes.set_xticks(range(size), plot.labels)
    axes.set_yticks(range(size), plot.labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_aspect("equal")
    from matplotlib.patches import Rectangle

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


_STYLE = """
:root { color-scheme: light dark; --font: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  --paper: #ffffff; --page: #f5f6f8; --ink: #1c2430; --soft: #5b6675; --line: #d9dee5;
  --mark: #eaf2fd; --series-0: #2563b8; --series-1: #c2571a; --series-2: #2c8a57;
  --series-3: #8a4fb5; --series-4: #98792a; --series-5: #5b6675; }
@media (prefers-color-scheme: dark) { :root { --paper: #181d25; --page: #10141a; --ink: #e4e9f0;
  --soft: #9aa6b5; --line: #343d4a; --mark: #1d2c42; --series-0: #6aa7f5; --series-1: #f0935a;
  --series-2: #5cc48c; --series-3: #c193e8; --series-4: #d8b95c; --series-5: #9aa6b5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 var(--font); }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 10px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 14px; }
h3 { font-size: 15px; margin: 18px 0 8px; }
.summary { font-size: 18px; color: var(--soft); max-width: 46em; margin: 0 0 28px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
  padding: 22px 24px; margin: 0 0 20px; }
section p { max-width: 46em; margin: 0 0 12px; }
section > div > :last-child { margin-bottom: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 11px; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-size: 13px; font-weight: 600; color: var(--soft); vertical-align: bottom; }
th small { display: block; font-weight: 400; font-size: 12px; }
tbody tr:last-child td { border-bottom: 0; }
tr.highlight td { background: var(--mark); font-weight: 600; }
tr.highlight td:first-child { border-radius: 6px 0 0 6px; }
tr.highlight td:last-child { border-radius: 0 6px 6px 0; }
th:first-child, td:first-child { padding-left: 10px; }
.number { text-align: right; }
.spread { color: var(--soft); font-weight: 400; }
.note { color: var(--soft); font-size: 14px; margin: 10px 0 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 24px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: 15px; margin: 0 0 8px; }
svg { display: block; width: 100%; height: auto; max-height: 460px; }
.grid { display: grid; gap: 28px; }
@media (min-width: 820px) { .of-2 { grid-template-columns: 1fr 1fr; } }
@media (max-width: 560px) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin: 0 0 10px; } }
@media print { body { background: none; } section { break-inside: avoid; } }
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
<p class="summary">$summary</p>
$sections
</main>
</body>
</html>
""")
