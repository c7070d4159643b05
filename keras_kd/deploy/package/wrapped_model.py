"""One more buffer in a `.tflite`, without rewriting it.

Flatbuffers refer forward only, so the original goes in whole, as a vector of bytes, behind a new
root table that points into it:

    | new root, list of buffers, new buffer | length | the original, byte for byte |

It starts at a multiple of 16, so its constants stay as aligned as they were, and it can be taken
out again. TensorFlow's own way, the object API, writes the constants anew and aligns them to one
byte.

Reference: LiteRT's schema.fbs, tables Model, Buffer and Metadata; the slots are their fields in
order.
"""

from __future__ import annotations

import struct

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table

from keras_kd.deploy import inspect
from keras_kd.deploy.package import flatbuffer_tables

ALIGNMENT = 16
_MODEL_VERSION, _MODEL_BUFFERS, _MODEL_METADATA = 0, 4, 6
# version, operator codes, subgraphs, description, buffers, metadata buffer, metadata, signatures,
# external buffer groups, external buffers.
_MODEL_SLOTS = 10
_BUFFER_DATA = 0
_ENTRY_NAME, _ENTRY_BUFFER = 0, 1


def wrapped(content: bytes, buffer_name: str, data: bytes) -> bytes:
    """The model with one more buffer, in place of any of that name.

    Args:
        content: A `.tflite`.
        buffer_name: The buffer's name in the model's list of metadata.
        data: What it holds; it starts at a multiple of 16.

    Raises:
        ValueError: A model whose constants lie outside the flatbuffer, which holds positions in the
            file that would no longer be true.
    """
    root = flatbuffer_tables.root(content)
    old = Table(content, root)
    _check_movable(content, old)
    builder = flatbuffers.Builder(len(content) + len(data) + 4096)
    builder.Prep(ALIGNMENT, len(content))
    # Offsets in a builder count from its end: this one is of the original's first byte.
    start = builder.CreateByteVector(bytes(content)) - 4

    def moved(position: int) -> int:
        return start - position

    builder.Prep(ALIGNMENT, len(data))
    vector = builder.CreateByteVector(data)
    builder.StartObject(3)
    builder.PrependUOffsetTRelativeSlot(_BUFFER_DATA, vector, 0)
    buffer = builder.EndObject()
    kept_buffers = [moved(position) for position in flatbuffer_tables.tables(old, _MODEL_BUFFERS)]
    buffers = flatbuffer_tables.offsets(builder, [*kept_buffers, buffer])

    name = builder.CreateString(buffer_name)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(_ENTRY_NAME, name, 0)
    builder.PrependUint32Slot(_ENTRY_BUFFER, len(kept_buffers), 0)
    entry = builder.EndObject()
    others = [
        moved(position)
        for position in flatbuffer_tables.tables(old, _MODEL_METADATA)
        if flatbuffer_tables.text(Table(content, position), _ENTRY_NAME) != buffer_name
    ]
    entries = flatbuffer_tables.offsets(builder, [*others, entry])

    builder.StartObject(_MODEL_SLOTS)
    for slot in range(_MODEL_SLOTS):
        field = old.Offset(4 + 2 * slot)
        if slot == _MODEL_BUFFERS:
            builder.PrependUOffsetTRelativeSlot(slot, buffers, 0)
        elif slot == _MODEL_METADATA:
            builder.PrependUOffsetTRelativeSlot(slot, entries, 0)
        elif field and slot == _MODEL_VERSION:
            version = old.Get(number_types.Uint32Flags, field + old.Pos)
            builder.PrependUint32Slot(slot, version, 0)
        elif field:
            builder.PrependUOffsetTRelativeSlot(slot, moved(old.Indirect(field + old.Pos)), 0)
    builder.Finish(builder.EndObject(), inspect.FILE_IDENTIFIER)
    return bytes(builder.Output())


def _check_movable(content: bytes, model: Table) -> None:
    """Refuses what holds positions in the file, which would no longer be true."""
    fields = flatbuffer_tables.slot_count(model)
    outside = [
        position
        for position in flatbuffer_tables.tables(model, _MODEL_BUFFERS)
        if Table(content, position).Offset(6) or Table(content, position).Offset(8)
    ]
    if outside or fields > _MODEL_SLOTS:
        raise ValueError(
            "Expected a model of at most 2 GB, whose constants lie in its flatbuffer. Received: "
            f"{len(outside)} buffers that lie outside, {fields} model fields. "
            "Hint: convert it again with this package."
        )


def original(flatbuffer: bytes) -> bytes | None:
    """What `wrapped` was given, or None where the flatbuffer is not of its making."""
    end = len(flatbuffer)
    mark = flatbuffer.find(inspect.FILE_IDENTIFIER, ALIGNMENT)
    while mark >= 0:
        first = mark - 4
        if first % ALIGNMENT == 0:
            (length,) = struct.unpack_from("<I", flatbuffer, first - 4)
            if first + length <= end < first + length + ALIGNMENT:
                return flatbuffer[first : first + length]
        mark = flatbuffer.find(inspect.FILE_IDENTIFIER, mark + 1)
    return None
