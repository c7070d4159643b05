"""What a report is made of: paragraphs, facts, tables and plots, as frozen values."""

from __future__ import annotations

import dataclasses
import math

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


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar of a `BarPlot`.

    Args:
        name: Beside it, on the left.
        value: Its end; None for a thing whose number is not known, which has a label alone.
        error: Half the length of its error bar; None for none.
        label: At its end; "" for the number itself.
        color: Which of the page's colors; None for the first.
        hollow: For one that is there to be compared with, or is estimated.
    """

    name: str
    value: float | None
    error: float | None = None
    label: str = ""
    color: int | None = None
    hollow: bool = False


@dataclasses.dataclass(frozen=True)
class BarPlot:
    """Horizontal bars, one below the other, as many as there are.

    Args:
        title: Above it.
        x_label: What the lengths are, with the unit.
        bars: From top to bottom.
        limit: Where a line stands that the bars are held against, such as 100 % of a memory.
        limit_label: What the line is.
        x_max: Where a longer bar is cut off, visibly; its label says how long it is.
        dots: Whether to draw dots on an axis that need not begin at zero, for numbers whose
            differences are what counts, such as accuracies.
        note: Below it.
    """

    title: str
    x_label: str
    bars: tuple[Bar, ...]
    limit: float | None = None
    limit_label: str = ""
    x_max: float | None = None
    dots: bool = False
    note: str = ""


Plot = LinePlot | PointPlot | MatrixPlot | BarPlot
Block = Text | Facts | Table | Plot


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
