"""Tables of any flatbuffer schema by the slots of their fields, written and read.

Generated code does the same for one schema; here a schema is its slots. What is read is anybody's:
positions that lead nowhere raise what `flatbuffers` raises, and no vector is taken for longer than
the buffer.

Reference: flatbuffers.dev, FlatBuffer Internals.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import flatbuffers
import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

# More entries than an honest list of a few things has, so that a hostile one costs no time.
MOST_ENTRIES = 256
# What is raised on positions that lead nowhere.
DAMAGE = (struct.error, IndexError, TypeError, UnicodeDecodeError)


def table(
    builder: flatbuffers.Builder,
    slots: int,
    offsets: dict[int, int],
    numbers: dict[int, int] | None = None,
) -> int:
    """A table of offsets and of one-byte numbers, by slot; an offset of 0 is left out."""
    builder.StartObject(slots)
    for slot, offset in offsets.items():
        if offset:
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in (numbers or {}).items():
        builder.PrependUint8Slot(slot, number, 0)
    return builder.EndObject()


def offsets(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    """A vector of offsets."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    """A vector of float32."""
    return builder.CreateNumpyVector(np.asarray(values, "<f4"))


def string(builder: flatbuffers.Builder, text: str) -> int:
    """A string; 0 for an empty one, which is then left out."""
    return builder.CreateString(text) if text else 0


def root(packed: bytes) -> int:
    """Where the root table lies."""
    return int(struct.unpack_from("<I", packed)[0])


def slot_count(table: Table) -> int:
    """How many fields the table's schema had when it was written."""
    (distance,) = struct.unpack_from("<i", table.Bytes, table.Pos)
    (vtable_bytes,) = struct.unpack_from("<H", table.Bytes, table.Pos - distance)
    return int((vtable_bytes - 4) // 2)


def child(table: Table, slot: int) -> Table | None:
    """The table that a field leads to, if it is there."""
    field = table.Offset(4 + 2 * slot)
    return Table(table.Bytes, table.Indirect(field + table.Pos)) if field else None


def tables(table: Table, slot: int) -> list[int]:
    """Positions of the tables in a vector."""
    field = table.Offset(4 + 2 * slot)
    if not field:
        return []
    first = table.Vector(field)
    return [table.Indirect(first + 4 * i) for i in range(_length(table, field))]


def few(table: Table, slot: int) -> list[int]:
    """`_tables`, of a vector that no honest file makes long."""
    field = table.Offset(4 + 2 * slot)
    if field and table.VectorLen(field) > MOST_ENTRIES:
        raise IndexError(f"a vector of {table.VectorLen(field)} entries")
    return tables(table, slot)


def _length(table: Table, field: int) -> int:
    count = int(table.VectorLen(field))
    if 4 * count > len(table.Bytes):
        raise IndexError(f"a vector of {count} entries")
    return count


def text(table: Table, slot: int) -> str:
    """A string field, "" where it is not there."""
    field = table.Offset(4 + 2 * slot)
    return table.String(field + table.Pos).decode() if field else ""


def byte(table: Table, slot: int) -> int:
    """A field of one byte, 0 where it is not there."""
    field = table.Offset(4 + 2 * slot)
    return int(table.Get(number_types.Uint8Flags, field + table.Pos)) if field else 0


def read_floats(table: Table | None, slot: int) -> tuple[float, ...]:
    """A vector of float32 as numbers."""
    field = table.Offset(4 + 2 * slot) if table else 0
    if not (table and field):
        return ()
    return struct.unpack_from(f"<{_length(table, field)}f", table.Bytes, table.Vector(field))
