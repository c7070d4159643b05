"""A report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from string import Template
from typing import TYPE_CHECKING

from keras_kd.report.blocks import (
    BarPlot,
    Block,
    Cell,
    Column,
    Facts,
    Table,
    Text,
    Uncertain,
    shown,
)
from keras_kd.report.plots import svg

if TYPE_CHECKING:
    from keras_kd.report.document import Section

# Cells with more letters are sentences, which may take several lines.
_LONGEST_WORDS = 40


def page_of(title: str, summary: str, sections: Sequence[Section]) -> str:
    """The page of a report; `Report.to_html` says what it raises."""
    written = []
    number = 0
    for section in sections:
        blocks = []
        for block in section.blocks:
            number += 1
            blocks.append(_html_of(block, number))
        grid = f' class="grid of-{section.columns}"' if section.columns > 1 else ""
        written.append(
            f"<section><h2>{html.escape(section.title)}</h2>"
            f"<div{grid}>{''.join(blocks)}</div></section>"
        )
    return _PAGE.substitute(
        title=html.escape(title),
        summary=html.escape(summary),
        sections="\n".join(written),
        style=_STYLE,
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
        return f"<div class='table'>{''.join(_html_table(block))}</div>"
    note = f"<p class='note'>{html.escape(block.note)}</p>" if block.note else ""
    kind = ' class="bars"' if isinstance(block, BarPlot) else ""
    return (
        f"<figure{kind}><figcaption>{html.escape(block.title)}</figcaption>"
        f"{svg(block, number)}{note}</figure>"
    )


def _html_table(table: Table) -> Iterator[str]:
    classes = [_column_class(table, i) for i in range(len(table.columns))]
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


def _column_class(table: Table, column: int) -> str:
    if table.is_number(column):
        return "number"
    cells = [row[column] for row in table.rows]
    is_prose = any(isinstance(cell, str) and len(cell) > _LONGEST_WORDS for cell in cells)
    return "prose" if is_prose else ""


def _html_cell(cell: Cell, column: Column) -> str:
    if isinstance(cell, Uncertain) and cell.spread is not None:
        value, spread = shown(cell.value, column), shown(cell.spread, column)
        return f'{html.escape(value)}<span class="spread"> ± {html.escape(spread)}</span>'
    return html.escape(shown(cell, column))


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
.grid h3 { margin-top: 0; }
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
td.prose { white-space: normal; overflow-wrap: anywhere; min-width: 14em; }
.spread { color: var(--soft); font-weight: 400; }
.note { color: var(--soft); font-size: 14px; margin: 10px 0 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 24px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; }
figure { margin: 0; }
figure, .table { min-width: 0; }
.table > :last-child { margin-bottom: 0; }
figcaption { font-weight: 600; font-size: 15px; margin: 0 0 8px; }
svg { display: block; width: 100%; height: auto; max-height: 460px; }
.bars svg { max-height: none; }
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
