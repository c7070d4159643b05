"""Hostile sizes and offsets, one by one; and the fields against the schema that is installed."""

import functools
import pathlib
import re
import struct
import time
import tracemalloc

import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_kd import deploy
from keras_kd.deploy.flatbuffer_bounds import FIELDS, LAST_SLOT, OPTION_FIELDS

HUGE = 0xFFFFFFFF


@pytest.fixture(scope="module")
def content(by_hand):
    """A small model with something in every field that is read."""

    def change(model):
        graph = model.subgraphs[0]
        graph.tensors[0].sparsity = schema.SparsityParametersT()
        graph.tensors[0].shapeSignature = [-1, 4]
        options = schema.ReshapeOptionsT()
        options.newShape = [1, 4]
        graph.tensors.append(by_hand.tensor("last"))
        by_hand.operator(model, "RESHAPE", [1], [2], options, "ReshapeOptions")
        graph.outputs = [2]
        signature, slot = schema.SignatureDefT(), schema.TensorMapT()
        slot.name, slot.tensorIndex = "x", 0
        signature.signatureKey, signature.inputs, signature.outputs = "serving", [slot], [slot]
        model.signatureDefs = [signature]
        model.metadata = [schema.MetadataT()]
        model.metadata[0].name = "min_runtime_version"
        model.buffers[0].data = [1, 2, 3, 4]
        for tensor in graph.tensors:
            tensor.buffer = 1
        model.buffers.append(schema.BufferT())

    made = by_hand.edited(by_hand.chain(["+Own"]), change)
    deploy.model_info(made)
    return made


def tables(content):
    """{name: accessor} of a table of each kind."""
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    return {
        "Model": model,
        "OperatorCode": model.OperatorCodes(0),
        "SubGraph": graph,
        "Tensor": graph.Tensors(0),
        "QuantizationParameters": graph.Tensors(0).Quantization(),
        "Operator": graph.Operators(1),
        "Buffer": model.Buffers(0),
        "Metadata": model.Metadata(0),
        "SignatureDef": model.SignatureDefs(0),
        "TensorMap": model.SignatureDefs(0).Inputs(0),
    }


def field_place(table, slot):
    """Where the field of that slot stands in the file."""
    offset = table._tab.Offset(slot)
    assert offset, "the model leaves it out"
    return table._tab.Pos + offset


def overwritten(content, place, value):
    data = bytearray(content)
    struct.pack_into("<I", data, place, value)
    return bytes(data)


def refused(content, seconds=1):
    """The reason that a file is refused for, and found soon: following its claims takes minutes."""
    start = time.process_time()
    with pytest.raises(ValueError, match="cut short or damaged") as caught:
        deploy.model_info(content)
    assert time.process_time() - start < seconds
    return str(caught.value)


OFFSETS = [
    (name, slot)
    for name, fields in FIELDS.items()
    for slot, field in fields.items()
    if field.kind != "number"
]


@pytest.mark.parametrize(("name", "slot"), OFFSETS)
def test_an_offset_or_a_length_that_leads_outside(content, name, slot):
    place = field_place(tables(content)[name], slot)
    for offset in (HUGE, 0x7FFFFFFF, len(content)):
        refused(overwritten(content, place, offset))
    if FIELDS[name][slot].kind in ("vector", "tables"):
        (offset,) = struct.unpack_from("<I", content, place)
        for length in (HUGE, 1 << 31, len(content)):
            assert "leads from byte" in refused(overwritten(content, place + offset, length))


@pytest.mark.parametrize("back", [HUGE, 1 << 31, 1 << 20, -(1 << 20)])
def test_a_vtable_outside_of_the_file(content, back):
    start = schema.Model.GetRootAs(content)._tab.Pos
    refused(overwritten(content, start, back & HUGE))


@pytest.mark.parametrize("sizes", [(2, 8), (8, 2), (0xFFFF, 8), (8, 0xFFFF), (0, 0)])
def test_a_vtable_with_impossible_sizes(content, sizes):
    tensor = tables(content)["Tensor"]._tab
    vtable = tensor.Pos - struct.unpack_from("<i", content, tensor.Pos)[0]
    data = bytearray(content)
    struct.pack_into("<HH", data, vtable, *sizes)
    refused(bytes(data))


def test_a_field_beyond_the_end_of_its_table(content):
    tensor = tables(content)["Tensor"]._tab
    vtable = tensor.Pos - struct.unpack_from("<i", content, tensor.Pos)[0]
    data = bytearray(content)
    struct.pack_into("<H", data, vtable + 8, 60000)
    assert "field beyond its end" in refused(bytes(data))


def test_options_of_an_unknown_type(content):
    operator = schema.Model.GetRootAs(content).Subgraphs(0).Operators(1)
    data = bytearray(content)
    data[field_place(operator, 10)] = 255
    assert "options of type 255" in refused(bytes(data))


def test_options_with_a_hostile_vector(content):
    operator = schema.Model.GetRootAs(content).Subgraphs(0).Operators(1)
    place = field_place(operator, 12)
    options = place + struct.unpack_from("<I", content, place)[0]
    reshape = schema.ReshapeOptions()
    reshape.Init(content, options)
    vector = reshape._tab.Vector(reshape._tab.Offset(4))
    assert "a vector of ReshapeOptions" in refused(overwritten(content, vector - 4, HUGE))


def test_many_offsets_to_one_table(content):
    """Two hundred kilobytes that would be fifty thousand tensors of a kilobyte each."""
    count = 50_000
    # The vector, then the vtable (4 bytes, for a table of 4 bytes), then the table itself.
    table = 4 + 4 * count + 4
    offsets = b"".join(struct.pack("<I", table - (4 + 4 * i)) for i in range(count))
    vector = struct.pack("<I", count) + offsets + struct.pack("<HHi", 4, 4, 4)
    place = field_place(tables(content)["SubGraph"], 4)
    hostile = overwritten(content, place, len(content) - place) + vector
    tracemalloc.start()
    reason = refused(hostile, seconds=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "again and again" in reason
    # Only a copy of the file; the tensors would be fifty megabytes.
    assert peak < 2 * len(hostile) + (1 << 20)


def test_a_claim_of_two_gigabytes(by_hand):
    """A constant that says so in its buffer, in a shape, and behind the flatbuffer."""

    def buffer_behind(model):
        model.buffers[0].offset, model.buffers[0].size = 16, 1 << 31

    def shape(model):
        model.subgraphs[0].tensors[0].shape = [1 << 16, 1 << 15, 2]

    content = by_hand.chain(["RELU"])
    assert "a buffer leads from byte 16 to 2,147,483,664" in refused(
        by_hand.edited(content, buffer_behind)
    )
    assert "claims more than 2147483647 elements" in refused(by_hand.edited(content, shape))


# -- against the schema ----------------------------------------------------------------------------

SIZES = {"Bool": 1, "Int8": 1, "Uint8": 1, "Int32": 4, "Uint32": 4, "Float32": 4}
SIZES |= {"Int64": 8, "Uint64": 8}


@functools.cache
def class_sources():
    """The source of each generated class; `inspect.getsource` takes a second for each."""
    parts = re.split(
        r"^class (\w+)\(object\):", pathlib.Path(schema.__file__).read_text(), flags=re.M
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def schema_fields(name):
    """{slot: (kind, size)} of a generated class, from what its accessors do."""
    text, found = class_sources()[name], {}
    bodies = re.findall(r"Offset\((\d+)\)\)\n        if o != 0:\n(.*?)\n        return", text, re.S)
    for slot, body in bodies:
        flags = re.findall(r"number_types\.(\w+)Flags", body)
        flags = [flag for flag in flags if flag not in ("UOffset", "UOffsetT")]
        if "IsNone" in body or not body.strip().startswith(("return", "x =", "a =", "from", "obj")):
            continue
        if "String(" in body:
            kind = ("vector", 1)
        elif "Vector(o)" in body and "Indirect" in body:
            kind = ("tables", 4)
        elif "Union(" in body:
            kind = ("options", 4)
        elif "Indirect" in body:
            kind = ("table", 4)
        elif "Vector" in body and flags:
            kind = ("vector", SIZES[flags[0]])
        elif flags:
            kind = ("number", SIZES[flags[0]])
        else:
            continue
        found.setdefault(int(slot), kind)
    return found


@pytest.mark.parametrize("name", [name for name, fields in FIELDS.items() if fields])
def test_fields_are_the_schemas(name):
    expected = schema_fields(name)
    for slot, field in FIELDS[name].items():
        assert (field.kind, field.size if field.kind != "options" else 4) == expected[slot], slot


def test_every_option_with_a_vector_is_walked():
    """A new schema may bring an option that is a vector: it must not be read unseen."""
    names = [name for name in vars(schema.BuiltinOptions) if not name.startswith("_")]
    with_vectors = {}
    for name in set(names) - {"NONE"}:
        fields = {slot: kind for slot, kind in schema_fields(name).items() if kind[0] != "number"}
        if fields:
            with_vectors[name] = fields
    assert with_vectors == {
        name: {slot: (field.kind, field.size) for slot, field in fields.items()}
        for name, fields in OPTION_FIELDS.items()
    }


def test_no_field_stands_behind_the_last_slot_that_is_looked_at():
    names = [*FIELDS, *(n for n in vars(schema.BuiltinOptions) if not n.startswith("_"))]
    slots = [slot for name in set(names) - {"NONE"} for slot in schema_fields(name)]
    assert max(slots) < LAST_SLOT
