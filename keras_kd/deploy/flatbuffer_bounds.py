"""Walks a `.tflite` before it is read: hostile sizes and offsets are found, and not followed.

FlatBuffers has a verifier in C++ and none in Python, where an accessor follows any offset and any
length: a vector that claims four thousand million entries is a loop of as many turns, and a million
offsets to one table are a million objects from four megabytes. Here every table, vector and string
that `inspect.py` reads is held against the bytes of the file first.

Reference: FlatBuffers, "Internals" (https://flatbuffers.dev/internals/): a table starts with the
distance back to its vtable; the vtable has its own size, the table's size, then the place of each
field in the table, 0 for one that is left out; vectors and strings start with their length. The
fields are TFLite's schema.fbs; `tests/deploy/test_flatbuffer_bounds.py` holds them against the
schema that is installed.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping

# Tables of a few bytes become objects of a kilobyte. So a table counts as this much at least, and
# a file may be read this many times over: an honest one stays below once, shared strings included.
_TABLE_BYTES = 16
_READ_OVER = 2
# No table of the schema has a field behind this place; a vtable may claim thousands.
LAST_SLOT = 64


@dataclasses.dataclass(frozen=True)
class _Field:
    """What stands in a field: a number, or the offset of something of that kind."""

    kind: str
    size: int = 4  # Of a number, or of one element of a vector.
    table: str = ""
    is_copied: bool = True


def _number(size: int) -> _Field:
    return _Field("number", size)


def _vector(size: int) -> _Field:
    return _Field("vector", size)


def _tables(table: str) -> _Field:
    return _Field("tables", table=table)


_STRING = _Field("vector", 1)
# Only its length is read.
_CONTENT = _Field("vector", 1, is_copied=False)
_OPTIONS = _Field("options")
# A field that is not in the tables below: some number, or something that is not looked at.
_UNREAD = _number(1)

# Place in the vtable -> field; what `inspect.py` does not read is left out.
FIELDS: Mapping[str, Mapping[int, _Field]] = {
    "Model": {
        4: _number(4),
        6: _tables("OperatorCode"),
        8: _tables("SubGraph"),
        10: _STRING,
        12: _tables("Buffer"),
        16: _tables("Metadata"),
        18: _tables("SignatureDef"),
    },
    "OperatorCode": {4: _number(1), 6: _STRING, 8: _number(4), 10: _number(4)},
    "SubGraph": {
        4: _tables("Tensor"),
        6: _vector(4),
        8: _vector(4),
        10: _tables("Operator"),
        12: _STRING,
    },
    "Tensor": {
        4: _vector(4),
        6: _number(1),
        8: _number(4),
        10: _STRING,
        12: _Field("table", table="QuantizationParameters"),
        14: _number(1),
        16: _Field("table", table="SparsityParameters"),
        18: _vector(4),
    },
    "QuantizationParameters": {8: _vector(4), 10: _vector(8), 16: _number(4)},
    "SparsityParameters": {},
    "Operator": {4: _number(4), 6: _vector(4), 8: _vector(4), 10: _number(1), 12: _OPTIONS},
    "Buffer": {4: _CONTENT, 6: _number(8), 8: _number(8)},
    "Metadata": {4: _STRING, 6: _number(4)},
    "SignatureDef": {
        4: _tables("TensorMap"),
        6: _tables("TensorMap"),
        8: _STRING,
        12: _number(4),
    },
    "TensorMap": {4: _STRING, 6: _number(4)},
}
# Of an operator's options, the fields that are vectors or strings; the rest are numbers.
OPTION_FIELDS: Mapping[str, Mapping[int, _Field]] = {
    "BucketizeOptions": {4: _vector(4)},
    "ConcatEmbeddingsOptions": {6: _vector(4), 8: _vector(4)},
    "FullyConnectedOptions": {14: _vector(1)},
    "ReshapeOptions": {4: _vector(4)},
    "SqueezeOptions": {4: _vector(4)},
    "VarHandleOptions": {4: _STRING, 6: _STRING},
}


def check_bounds(content: bytes, option_names: Mapping[int, str]) -> None:
    """Checks that nothing in the file leads outside of it, or is read again and again.

    The work is bounded by the file's size, whatever it claims.

    Args:
        content: The flatbuffer, of at least eight bytes.
        option_names: The table of each type of builtin options.

    Raises:
        ValueError: An offset, a size or a length that does not fit.
    """
    walk = _Walk(content, option_names)
    walk.table(walk.offset_at(0), "Model")


class _Walk:
    def __init__(self, content: bytes, option_names: Mapping[int, str]):
        self._content = content
        self._left = _READ_OVER * len(content)
        self._option_names = option_names

    def table(self, start: int, name: str) -> None:
        vtable = start - self._read("<i", start, name)
        vtable_bytes, table_bytes = (
            self._read("<H", vtable, name),
            self._read("<H", vtable + 2, name),
        )
        if vtable_bytes < 4 or table_bytes < 4:
            raise ValueError(f"{name} at byte {start} has a table of {table_bytes} bytes")
        self._within(vtable, vtable_bytes, name)
        self._within(start, table_bytes, name)
        self._spend(max(table_bytes, _TABLE_BYTES))
        fields = FIELDS.get(name) or OPTION_FIELDS.get(name, {})
        for slot in range(4, min(vtable_bytes - 1, LAST_SLOT), 2):
            place = self._read("<H", vtable + slot, name)
            if not place:
                continue
            field = fields.get(slot, _UNREAD)
            # What is no number is an offset of four bytes.
            if place < 4 or place + (field.size if field.kind == "number" else 4) > table_bytes:
                raise ValueError(f"{name} at byte {start} has a field beyond its end")
            if field.kind != "number":
                self._follow(field, start + place, name, (start, vtable, vtable_bytes))

    def offset_at(self, place: int) -> int:
        """Where the offset at `place` leads."""
        return place + self._read("<I", place, "an offset")

    def _follow(self, field: _Field, place: int, name: str, table: tuple[int, int, int]) -> None:
        target = self.offset_at(place)
        if field.kind == "table":
            self.table(target, field.table)
        elif field.kind == "options":
            self.table(target, self._options_of(*table))
        else:
            count = self._read("<I", target, name)
            self._within(target + 4, count * field.size, f"a vector of {name} ({count:,} entries)")
            if field.is_copied:
                self._spend(4 + count * field.size)
            if field.kind == "tables":
                for entry in range(target + 4, target + 4 + 4 * count, 4):
                    self.table(self.offset_at(entry), field.table)

    def _options_of(self, start: int, vtable: int, vtable_bytes: int) -> str:
        """The table of an operator's options, which the field before them names."""
        place = self._read("<H", vtable + 10, "Operator") if vtable_bytes > 10 else 0
        kind = self._read("<B", start + place, "Operator") if place else 0
        if kind not in self._option_names:
            raise ValueError(f"options of type {kind}, which the schema does not have")
        return self._option_names[kind]

    def _read(self, form: str, place: int, name: str) -> int:
        self._within(place, struct.calcsize(form), name)
        return struct.unpack_from(form, self._content, place)[0]

    def _within(self, start: int, size: int, name: str) -> None:
        if start < 0 or start + size > len(self._content):
            raise ValueError(f"{name} leads from byte {start:,} to {start + size:,}")

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("the same bytes are used again and again")
