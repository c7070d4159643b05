"""Small flatbuffers that no converter would write, made with the schema."""

import flatbuffers
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
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
