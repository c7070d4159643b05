"""A block of a report as aligned text, for a terminal."""

from __future__ import annotations

from keras_kd.report.blocks import Facts, Table, Text, shown


def text_of(block: Text | Facts | Table) -> str:
    """A block as lines, without a line break at the end."""
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
