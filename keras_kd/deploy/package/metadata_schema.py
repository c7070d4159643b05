"""What TFLite metadata say, and the flatbuffer that says it.

Reference: MediaPipe, mediapipe/tasks/metadata/metadata_schema.fbs (schema 1.5.0); the slots below
are the fields in its order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import flatbuffers
import numpy as np
from flatbuffers.table import Table

from keras_kd.deploy.artifact import TensorInfo
from keras_kd.deploy.package import flatbuffer_tables

FILE_IDENTIFIER = b"M001"
# The first version that has every field which is written here.
MIN_PARSER_VERSION = "1.0.0"

_META_NAME, _META_DESCRIPTION, _META_VERSION, _META_SUBGRAPHS = 0, 1, 2, 3
_META_AUTHOR, _META_LICENCE, _META_PARSER = 4, 5, 7
_GRAPH_INPUTS, _GRAPH_OUTPUTS = 2, 3
_TENSOR_NAME, _TENSOR_DESCRIPTION, _TENSOR_CONTENT = 0, 1, 3
_TENSOR_UNITS, _TENSOR_STATS, _TENSOR_FILES = 4, 5, 6
_CONTENT_TYPE, _CONTENT_PROPERTIES = 0, 1
_UNIT_TYPE, _UNIT_OPTIONS = 0, 1
_FEATURE, _IMAGE = 1, 2  # union ContentProperties
_NORMALIZATION = 1  # union ProcessUnitOptions
_AXIS_LABELS = 2  # enum AssociatedFileType
# enum ColorSpaceType by channels: RGB, GRAYSCALE
COLOR_SPACES = {3: 1, 1: 2}


@dataclasses.dataclass(frozen=True)
class TensorMetadata:
    """What is said of one input or output.

    Attributes:
        name: Its name for people and programs; "" takes the model's own.
        description: One sentence.
        image: Whether it is an image, [1, height, width, 1 or 3].
        mean: One number, or one for each channel: the model sees (pixel - mean) / std, with pixels
            in 0..255. Empty where nothing is normalized.
        std: As many as `mean`, above 0.
        minimum: The least value that the model is to see, after the normalization: one number, or
            one for each channel; empty where it is not told.
        maximum: Likewise.
        labels: Names of the classes along the last axis, in its order; empty for none.
    """

    name: str = ""
    description: str = ""
    image: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self):
        for field in ("mean", "std", "minimum", "maximum"):
            # The file holds float32: what is read back is then equal to what was written.
            values = tuple(float(np.float32(value)) for value in getattr(self, field))
            object.__setattr__(self, field, values)
        object.__setattr__(self, "labels", tuple(self.labels))
        if len(self.mean) != len(self.std) or not all(
            math.isfinite(m) and math.isfinite(s) and s > 0
            for m, s in zip(self.mean, self.std, strict=False)
        ):
            raise ValueError(
                "Expected as many std as mean, all finite and std above 0. "
                f"Received: mean={self.mean}, std={self.std}."
            )
        if len(self.minimum) != len(self.maximum):
            raise ValueError(
                "Expected as many numbers in minimum as in maximum. "
                f"Received: {self.minimum} and {self.maximum}."
            )


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What is said of a model.

    Attributes:
        name: The model's name.
        description: What it does.
        version: Its version.
        author: Who made it.
        licence: Its licence.
        inputs: One for each input, in the model's order; empty takes the model's own names.
        outputs: Likewise.
    """

    name: str
    description: str = ""
    version: str = ""
    author: str = ""
    licence: str = ""
    inputs: tuple[TensorMetadata, ...] = ()
    outputs: tuple[TensorMetadata, ...] = ()


def packed(
    metadata: Metadata, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
) -> bytes:
    """The flatbuffer of metadata that have an entry for each input and output."""
    builder = flatbuffers.Builder(4096)
    graph_inputs, graph_outputs = (
        flatbuffer_tables.offsets(
            builder,
            [
                _tensor(builder, entry, tensor, label_file(role, index))
                for index, (entry, tensor) in enumerate(zip(entries, tensors, strict=True))
            ],
        )
        for role, entries, tensors in (
            ("input", metadata.inputs, inputs),
            ("output", metadata.outputs, outputs),
        )
    )
    graph = flatbuffer_tables.table(
        builder, 10, {_GRAPH_INPUTS: graph_inputs, _GRAPH_OUTPUTS: graph_outputs}
    )
    fields = {
        _META_NAME: flatbuffer_tables.string(builder, metadata.name),
        _META_DESCRIPTION: flatbuffer_tables.string(builder, metadata.description),
        _META_VERSION: flatbuffer_tables.string(builder, metadata.version),
        _META_SUBGRAPHS: flatbuffer_tables.offsets(builder, [graph]),
        _META_AUTHOR: flatbuffer_tables.string(builder, metadata.author),
        _META_LICENCE: flatbuffer_tables.string(builder, metadata.licence),
        _META_PARSER: flatbuffer_tables.string(builder, MIN_PARSER_VERSION),
    }
    builder.Finish(flatbuffer_tables.table(builder, 8, fields), FILE_IDENTIFIER)
    return bytes(builder.Output())


def _tensor(
    builder: flatbuffers.Builder, entry: TensorMetadata, tensor: TensorInfo, file_name: str
) -> int:
    fields = {
        _TENSOR_NAME: flatbuffer_tables.string(builder, entry.name),
        _TENSOR_DESCRIPTION: flatbuffer_tables.string(builder, entry.description),
        _TENSOR_CONTENT: _content(builder, entry, tensor),
    }
    if entry.mean:
        options = {
            0: flatbuffer_tables.floats(builder, entry.mean),
            1: flatbuffer_tables.floats(builder, entry.std),
        }
        normalization = flatbuffer_tables.table(builder, 2, options)
        unit = flatbuffer_tables.table(
            builder, 2, {_UNIT_OPTIONS: normalization}, numbers={_UNIT_TYPE: _NORMALIZATION}
        )
        fields[_TENSOR_UNITS] = flatbuffer_tables.offsets(builder, [unit])
    if entry.minimum:
        stats = {
            0: flatbuffer_tables.floats(builder, entry.maximum),
            1: flatbuffer_tables.floats(builder, entry.minimum),
        }
        fields[_TENSOR_STATS] = flatbuffer_tables.table(builder, 2, stats)
    if entry.labels:
        described = {
            0: flatbuffer_tables.string(builder, file_name),
            1: flatbuffer_tables.string(builder, "Names of the classes, one a line."),
        }
        file = flatbuffer_tables.table(builder, 5, described, numbers={2: _AXIS_LABELS})
        fields[_TENSOR_FILES] = flatbuffer_tables.offsets(builder, [file])
    return flatbuffer_tables.table(builder, 7, fields)


def _content(builder: flatbuffers.Builder, entry: TensorMetadata, tensor: TensorInfo) -> int:
    if not entry.image:
        properties, kind = flatbuffer_tables.table(builder, 0, {}), _FEATURE
    else:
        height, width, channels = tensor.shape[1:]
        builder.StartObject(2)
        builder.PrependUint32Slot(0, width, 0)
        builder.PrependUint32Slot(1, height, 0)
        size = builder.EndObject()
        color_space = COLOR_SPACES[channels]
        properties, kind = (
            flatbuffer_tables.table(builder, 2, {1: size}, numbers={0: color_space}),
            _IMAGE,
        )
    return flatbuffer_tables.table(
        builder, 3, {_CONTENT_PROPERTIES: properties}, numbers={_CONTENT_TYPE: kind}
    )


def label_file(role: str, index: int) -> str:
    """The name of the file that holds the labels of an input or output."""
    return "labels.txt" if (role, index) == ("output", 0) else f"{role}_{index}_labels.txt"


def unpacked(packed: bytes, archive: Callable[[str], str]) -> Metadata:
    """The metadata in a flatbuffer; `archive` gives the text of a label file by its name."""
    table = Table(packed, flatbuffer_tables.root(packed))
    graphs = flatbuffer_tables.few(table, _META_SUBGRAPHS)
    graph = Table(table.Bytes, graphs[0]) if graphs else None

    def entries(slot: int) -> tuple[TensorMetadata, ...]:
        positions = flatbuffer_tables.few(graph, slot) if graph else []
        return tuple(_read_tensor(Table(table.Bytes, p), archive) for p in positions)

    return Metadata(
        name=flatbuffer_tables.text(table, _META_NAME),
        description=flatbuffer_tables.text(table, _META_DESCRIPTION),
        version=flatbuffer_tables.text(table, _META_VERSION),
        author=flatbuffer_tables.text(table, _META_AUTHOR),
        licence=flatbuffer_tables.text(table, _META_LICENCE),
        inputs=entries(_GRAPH_INPUTS),
        outputs=entries(_GRAPH_OUTPUTS),
    )


def _read_tensor(table: Table, archive: Callable[[str], str]) -> TensorMetadata:
    content = flatbuffer_tables.child(table, _TENSOR_CONTENT)
    stats = flatbuffer_tables.child(table, _TENSOR_STATS)
    normalization = None
    for position in flatbuffer_tables.few(table, _TENSOR_UNITS):
        unit = Table(table.Bytes, position)
        if flatbuffer_tables.byte(unit, _UNIT_TYPE) == _NORMALIZATION:
            normalization = flatbuffer_tables.child(unit, _UNIT_OPTIONS)
            break
    labels: tuple[str, ...] = ()
    for position in flatbuffer_tables.few(table, _TENSOR_FILES):
        file = Table(table.Bytes, position)
        if flatbuffer_tables.byte(file, 2) == _AXIS_LABELS:
            labels = tuple(archive(flatbuffer_tables.text(file, 0)).splitlines())
            break
    return TensorMetadata(
        name=flatbuffer_tables.text(table, _TENSOR_NAME),
        description=flatbuffer_tables.text(table, _TENSOR_DESCRIPTION),
        image=content is not None and flatbuffer_tables.byte(content, _CONTENT_TYPE) == _IMAGE,
        mean=flatbuffer_tables.read_floats(normalization, 0),
        std=flatbuffer_tables.read_floats(normalization, 1),
        minimum=flatbuffer_tables.read_floats(stats, 1),
        maximum=flatbuffer_tables.read_floats(stats, 0),
        labels=labels,
    )
