"""The frozen result of a check, measurement or comparison: as text, Markdown, JSON, an HTML page.

A report holds plain values, so it is made, compared and tested without a browser. The page needs
nothing beside itself: its plots are inline SVG, drawn by matplotlib (extra `[demo]`), which is
imported when a page with plots is written and not before.
"""

from keras_kd.report.blocks import (
    Bar,
    BarPlot,
    Block,
    Cell,
    Column,
    Facts,
    LinePlot,
    MatrixPlot,
    Plot,
    PointPlot,
    Series,
    Table,
    Text,
    Uncertain,
    shown,
)
from keras_kd.report.document import SCHEMA, SCHEMA_VERSION, Report, Section

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "Bar",
    "BarPlot",
    "Block",
    "Cell",
    "Column",
    "Facts",
    "LinePlot",
    "MatrixPlot",
    "Plot",
    "PointPlot",
    "Report",
    "Section",
    "Series",
    "Table",
    "Text",
    "Uncertain",
    "shown",
]
