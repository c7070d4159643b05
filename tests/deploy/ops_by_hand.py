"""Models of one op, made with the schema: with its options and constants, in any type."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

SHAPE = (1, 4, 4, 2)
UNQUANTIZED = {"float32", "float16", "int32", "int64", "bool"}
# As the converter writes softmax's and logistic's outputs; both kernels insist on them.
FIXED_OUTPUT = {
    ("SOFTMAX", "int8"): (1 / 256, -128),
    ("SOFTMAX", "int16"): (1 / 32768, 0),
    ("LOG_SOFTMAX", "int8"): (16 / 256, 127),
    ("LOGISTIC", "int8"): (1 / 256, -128),
    ("LOGISTIC", "int16"): (1 / 32768, 0),
    ("TANH", "int8"): (1 / 128, 0),
    ("TANH", "int16"): (1 / 32768, 0),
    ("L2_NORMALIZATION", "int8"): (1 / 128, 0),
}


class Slot:
    """One tensor of a model by hand: `values` are a constant's."""

    def __init__(self, dtype, shape=SHAPE, values=None, channels=1, axis=0, scale=None):
        self.dtype, self.shape, self.values = dtype, shape, values
        self.channels, self.axis = channels, axis
        self.scale = scale or (None if dtype in UNQUANTIZED else 0.5)


def constant(values, dtype="int32"):
    values = np.asarray(values, dtype)
    return Slot(dtype, values.shape, values)


def weights(shape, dtype, channels=1, axis=0):
    return Slot(dtype, shape, np.ones(shape, dtype), channels, axis)


def one_op(name, inputs, outputs, options=None):
    """The bytes of a model of one op; an input of None is an optional one left out."""
    graph, model = schema.SubGraphT(), schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]
    graph.tensors, places = [], []
    slots = [*inputs, *outputs]
    for number, slot in enumerate(slots):
        if slot is None:
            places.append(-1)
            continue
        places.append(len(graph.tensors))
        graph.tensors.append(_tensor(name, slot, model, number >= len(inputs)))
    code, op = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    op.inputs, op.outputs = places[: len(inputs)], places[len(inputs) :]
    if options is not None:
        kind = type(options).__name__.removesuffix("T")
        op.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        op.builtinOptions = options
    graph.operators, model.operatorCodes, model.subgraphs = [op], [code], [graph]
    graph.inputs = [
        i for i, slot in zip(op.inputs, inputs, strict=True) if slot and slot.values is None
    ]
    graph.outputs = op.outputs
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(name, slot, model, is_output):
    made = schema.TensorT()
    made.name, made.shape = f"t{len(model.buffers)}", list(slot.shape)
    made.type, made.buffer = getattr(schema.TensorType, slot.dtype.upper()), 0
    if slot.scale is not None and not slot.dtype.startswith("float"):
        scale, zero_point = slot.scale, 0
        if is_output:
            scale, zero_point = FIXED_OUTPUT.get((name, slot.dtype), (scale, zero_point))
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = [scale] * slot.channels
        made.quantization.zeroPoint = [zero_point] * slot.channels
        made.quantization.quantizedDimension = slot.axis
    if slot.values is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(slot.values.tobytes(), np.uint8)
        made.buffer = len(model.buffers)
        model.buffers.append(buffer)
    return made


def options(kind, **values):
    made = getattr(schema, f"{kind}T")()
    for key, value in values.items():
        setattr(made, key, value)
    return made


def pool():
    return options("Pool2DOptions", filterWidth=2, filterHeight=2, strideW=2, strideH=2)


def one_type(name, dtype):
    """The op with this type wherever it takes its data, as a converter would write it."""
    data = Slot(dtype)
    if name in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"):
        return one_op(name, [data], [Slot(dtype, (1, 2, 2, 2))], pool())
    if name in ("ADD", "SUB", "MUL"):
        return one_op(name, [data, data], [data], options(f"{name.title()}Options"))
    if name == "DIV":
        return one_op(name, [data, data], [data], options("DivOptions"))
    if name in ("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "FLOOR_DIV", "FLOOR_MOD"):
        return one_op(name, [data, data], [data])
    if name in ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"):
        return one_op(name, [data, data], [Slot("bool")])
    if name == "SELECT_V2":
        return one_op(name, [Slot("bool"), data, data], [data])
    if name == "BATCH_MATMUL":
        square = Slot(dtype, (1, 4, 4))
        return one_op(name, [square, square], [square], options("BatchMatMulOptions"))
    if name == "CONCATENATION":
        out = Slot(dtype, (1, 4, 4, 4))
        return one_op(name, [data, data], [out], options("ConcatenationOptions", axis=3))
    if name == "PACK":
        out = Slot(dtype, (2, *SHAPE))
        return one_op(name, [data, data], [out], options("PackOptions", valuesCount=2))
    if name == "UNPACK":
        outs = [Slot(dtype, (1, 4, 4))] * 2
        return one_op(name, [data], outs, options("UnpackOptions", num=2, axis=3))
    if name == "SPLIT":
        outs = [Slot(dtype, (1, 4, 4, 1))] * 2
        return one_op(name, [constant(3), data], outs, options("SplitOptions", numSplits=2))
    if name == "SPLIT_V":
        outs, sizes = [Slot(dtype, (1, 4, 4, 1))] * 2, constant([1, 1])
        wanted = options("SplitVOptions", numSplits=2)
        return one_op(name, [data, sizes, constant(3)], outs, wanted)
    if name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ALL"):
        wanted = options("ReducerOptions", keepDims=False)
        return one_op(name, [data, constant([1, 2])], [Slot(dtype, (1, 2))], wanted)
    if name in ("PAD", "MIRROR_PAD"):
        pads = constant([[0, 0], [1, 1], [1, 1], [0, 0]])
        wanted = options("PadOptions" if name == "PAD" else "MirrorPadOptions")
        return one_op(name, [data, pads], [Slot(dtype, (1, 6, 6, 2))], wanted)
    if name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        kind = "ResizeBilinear" if name == "RESIZE_BILINEAR" else "ResizeNearestNeighbor"
        out = Slot(dtype, (1, 8, 8, 2))
        return one_op(name, [data, constant([8, 8])], [out], options(f"{kind}Options"))
    if name == "SLICE":
        size = constant([1, 2, 2, 2])
        return one_op(name, [data, constant([0] * 4), size], [Slot(dtype, (1, 2, 2, 2))])
    if name == "STRIDED_SLICE":
        bounds = [constant([0] * 4), constant([1, 2, 2, 2]), constant([1] * 4)]
        wanted = options("StridedSliceOptions")
        return one_op(name, [data, *bounds], [Slot(dtype, (1, 2, 2, 2))], wanted)
    if name == "TRANSPOSE":
        return one_op(name, [data, constant([0, 2, 1, 3])], [data])
    if name in ("SPACE_TO_DEPTH", "DEPTH_TO_SPACE"):
        kind = "SpaceToDepth" if name == "SPACE_TO_DEPTH" else "DepthToSpace"
        deep, wide = Slot(dtype, (1, 2, 2, 8)), Slot(dtype, SHAPE)
        pair = ([wide], [deep]) if name == "SPACE_TO_DEPTH" else ([deep], [wide])
        return one_op(name, *pair, options(f"{kind}Options", blockSize=2))
    if name == "EXPAND_DIMS":
        return one_op(name, [data, constant([0])], [Slot(dtype, (1, *SHAPE))])
    if name == "GATHER":
        out = Slot(dtype, (1, 4, 4, 1))
        return one_op(name, [data, constant([0])], [out], options("GatherOptions", axis=3))
    if name == "REVERSE_V2":
        return one_op(name, [data, constant([1])], [data])
    if name == "CUMSUM":
        return one_op(name, [data, constant(1)], [data], options("CumsumOptions"))
    if name == "FILL":
        return one_op(name, [constant([2, 2]), Slot(dtype, ())], [Slot(dtype, (2, 2))])
    if name == "ARG_MAX":
        wanted = options("ArgMaxOptions", outputType=schema.TensorType.INT32)
        return one_op(name, [data, constant(3)], [Slot("int32", (1, 4, 4))], wanted)
    if name == "PRELU":
        alpha = weights((1, 1, 2), "int8" if dtype == "int16" else dtype)
        return one_op(name, [data, alpha], [data])
    if name == "SOFTMAX":
        return one_op(name, [data], [data], options("SoftmaxOptions", beta=1.0))
    if name == "LEAKY_RELU":
        return one_op(name, [data], [data], options("LeakyReluOptions", alpha=0.1))
    if name == "SQUEEZE":
        wanted = options("SqueezeOptions", squeezeDims=[0])
        return one_op(name, [data], [Slot(dtype, SHAPE[1:])], wanted)
    if name == "RESHAPE":
        return one_op(name, [data, constant([1, 32])], [Slot(dtype, (1, 32))])
    if name == "DEQUANTIZE":
        return one_op(name, [data], [Slot("float32")])
    return one_op(name, [data], [data])


def weighted(name, data, weight, bias, channels=1):
    """A layer with weights; several channels have a scale each."""
    value, out = Slot(data), Slot(data, (1, 4, 4, 2))
    b = Slot(bias, (2,), np.zeros(2, bias), scale=0.25)  # That of the data times the weights'.
    if name == "CONV_2D":
        kind = options("Conv2DOptions", strideW=1, strideH=1)
        return one_op(name, [value, weights((2, 1, 1, 2), weight, channels), b], [out], kind)
    if name == "DEPTHWISE_CONV_2D":
        kind = options("DepthwiseConv2DOptions", strideW=1, strideH=1, depthMultiplier=1)
        w = weights((1, 1, 1, 2), weight, channels, axis=3)
        return one_op(name, [value, w, b], [out], kind)
    if name == "TRANSPOSE_CONV":
        kind = options("TransposeConvOptions", strideW=1, strideH=1)
        w = weights((2, 1, 1, 2), weight, channels)
        return one_op(name, [constant([1, 4, 4, 2]), w, value], [out], kind)
    w = weights((2, 8), weight, channels)
    kind = options("FullyConnectedOptions")
    return one_op(name, [Slot(data, (1, 8)), w, b], [Slot(data, (1, 2))], kind)
