"""Small flatbuffers that no converter would write, made with the schema."""

import struct

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


def tensor(name, shape=(1, 4), dtype="INT8", scale=0.5, zero_point=0, buffer=0, variable=False):
    made = schema.TensorT()
    made.name, made.shape, made.buffer, made.isVariable = name, list(shape), buffer, variable
    made.type = getattr(schema.TensorType, dtype)
    if scale is not None:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [scale], [zero_point]
    return made


def chain(ops, tensors=None, buffers=1):
    """The bytes of a model that runs the named ops one after the other; a "+" marks custom ones."""
    tensors = tensors or [tensor(f"t{i}") for i in range(len(ops) + 1)]
    graph, model = schema.SubGraphT(), schema.ModelT()
    model.version, model.description, model.operatorCodes = 3, "by hand", []
    graph.name, graph.tensors, graph.operators = "main", tensors, []
    graph.inputs, graph.outputs = [0], [len(ops)]
    for index, name in enumerate(ops):
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, "CUSTOM" if "+" in name else name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        if "+" in name:
            code.customCode = name.removeprefix("+")
        op.opcodeIndex, op.inputs, op.outputs = index, [index], [index + 1]
        model.operatorCodes.append(code)
        graph.operators.append(op)
    model.subgraphs = [graph]
    model.buffers = [schema.BufferT() for _ in range(buffers)]
    return packed(model)


def packed(model):
    """The bytes of a schema object."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def edited(content, change):
    """The same model after `change(model)` has changed its schema object."""
    model = schema.ModelT.InitFromPackedBuf(content)
    change(model)
    return packed(model)


def operator(model, name, inputs, outputs, options=None, kind=None):
    """Adds an op to the first subgraph; `options` is a schema object, `kind` its type's name."""
    code, op = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    op.opcodeIndex, op.inputs, op.outputs = len(model.operatorCodes), list(inputs), list(outputs)
    if options is not None:
        op.builtinOptionsType, op.builtinOptions = getattr(schema.BuiltinOptions, kind), options
    model.operatorCodes.append(code)
    model.subgraphs[0].operators.append(op)
    return op


def one_op(name, inputs, outputs, options=None, kind=None):
    """A model of one op between tensors: the first input and every output are the model's."""

    def change(model):
        graph = model.subgraphs[0]
        graph.tensors = [*inputs, *outputs]
        model.operatorCodes, graph.operators = [], []
        first = len(inputs)
        operator(model, name, range(first), range(first, first + len(outputs)), options, kind)
        graph.inputs, graph.outputs = [0], list(range(first, first + len(outputs)))

    return edited(chain(["RELU"]), change)


def constant(name, values, dtype="INT8", scale=0.5, zero_point=0):
    """A tensor and its values; `graph` puts them into a buffer."""
    values = np.asarray(values, dtype.lower())
    return tensor(name, values.shape, dtype, scale, zero_point), values.tobytes()


def op(name, inputs, outputs, version=1, options=None, **fields):
    """An operator for `graph`: "Conv2DOptions" and its fields by the schema's names, or none."""
    return name, list(inputs), list(outputs), version, options, fields


def graph(ops, tensors, inputs, outputs):
    """The bytes of a model of any shape; constants among the tensors are made by `constant`."""
    model, main = schema.ModelT(), schema.SubGraphT()
    model.version, model.description, model.operatorCodes = 3, "by hand", []
    model.buffers = [schema.BufferT()]
    main.name, main.tensors, main.operators = "main", [], []
    main.inputs, main.outputs = list(inputs), list(outputs)
    for item in tensors:
        made, data = item if isinstance(item, tuple) else (item, None)
        if data is not None:
            made.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(data, np.uint8)
        main.tensors.append(made)
    for index, (name, op_inputs, op_outputs, version, options, fields) in enumerate(ops):
        code, made = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, "CUSTOM" if "+" in name else name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        if "+" in name:
            code.customCode = name.removeprefix("+")
        made.opcodeIndex, made.inputs, made.outputs = index, op_inputs, op_outputs
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, f"{options}T")()
            for field, value in fields.items():
                setattr(made.builtinOptions, field, value)
        elif "customOptions" in fields:
            made.customOptions = np.frombuffer(fields["customOptions"], np.uint8)
        model.operatorCodes.append(code)
        main.operators.append(made)
    model.subgraphs = [main]
    return packed(model)


def single(name, inputs, output, version=1, options=None, **fields):
    """A model of one op: tensors and constants are its inputs, the last is its output."""
    made = op(name, range(len(inputs)), [len(inputs)], version, options, **fields)
    free = [i for i, item in enumerate(inputs) if not isinstance(item, tuple)]
    return graph([made], [*inputs, output], free, [len(inputs)])


def image(name="x", size=8, channels=4, **kinds):
    """An activation of shape [1, size, size, channels]."""
    return tensor(name, (1, size, size, channels), **kinds)


def integers(values, name="sizes"):
    """A constant of int32: axes, sizes, paddings."""
    return constant(name, values, "INT32", None)


def filled(shape, name="weights", value=1):
    """A constant of int8 with one value."""
    return constant(name, np.full(shape, value))


def _table(fields):
    """A flatbuffer of one table, of 4-byte numbers, or bytes as vectors, by field number."""
    count = max(fields) + 1
    table = struct.pack("<i", 4 + 2 * count)
    places, behind = [0] * count, b""
    for number in sorted(fields):
        places[number] = len(table)
        table += b"\0" * 4
    for number, value in fields.items():
        place = places[number]
        if isinstance(value, int):
            packed = struct.pack("<i", value)
        else:
            packed = struct.pack("<I", len(table) + len(behind) - place)
            size = len(value) if isinstance(value, bytes) else len(value[0])
            entries = value if isinstance(value, bytes) else b"".join(value[1:])
            behind += struct.pack("<I", size) + entries
        table = table[:place] + packed + table[place + 4 :]
    slots = b"".join(struct.pack("<H", place) for place in places)
    vtable = struct.pack("<HH", 4 + 2 * count, len(table)) + slots
    return struct.pack("<I", 8 + len(vtable)) + b"DWN1" + vtable + table + behind


def _strings(values):
    """A vector of strings as `_table` takes it: (entries, the bytes behind the length)."""
    slots, texts = b"", b""
    for i, value in enumerate(values):
        slots += struct.pack("<I", 4 * (len(values) - i) + len(texts))
        texts += struct.pack("<I", len(value)) + value
    return (values, slots + texts)


def edgetpu_program(runtime, cached, streamed):
    """The options of an Edge TPU op: a package of two executables."""
    caching = _table({6: bytes(cached), 13: 1})
    execution = _table({6: bytes(streamed), 13: 2})
    executables = _table({0: _strings([execution, caching])})
    return b"\x05before" + _table({0: runtime, 1: executables})
