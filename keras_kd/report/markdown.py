"""A block of a report as Markdown, for a page beside code."""

from __future__ import annotations

import re

from keras_kd.report.blocks import Facts, Table, Text, shown

# An underscore inside of a word means nothing to Markdown, and most of ours are there.
_SPECIAL = re.compile(r"[\\`*<>\[\]|$~&]|(?<![^\W_])_|_(?![^\W_])")
# What makes a list, a quotation or a heading of the paragraph that it begins.
_LEADING = re.compile(r"^(\d*)([#+\-=.)])(?=[#+\-=]*(?: |$))")


def escaped(text: str) -> str:
    """Text as one line of Markdown that shows it as it is."""
    line = _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
    return _LEADING.sub(r"\1\\\2", line)


def markdown_of(block: Text | Facts | Table) -> str:
    """A block as lines, without a line break at the end."""
    if isinstance(block, Text):
        return escaped(block.text)
    if isinstance(block, Facts):
        return "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in block.items)
    lines = [[escaped(column.heading) for column in block.columns]]
    lines.append(["---:" if block.is_number(i) else "---" for i in range(len(block.columns))])
    lines += [
        [escaped(shown(c, col)) for c, col in zip(row, block.columns, strict=True)]
        for row in block.rows
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    title = f"**{escaped(block.title)}**" if block.title else ""
    return "\n\n".join(filter(None, [title, table, escaped(block.note)]))
