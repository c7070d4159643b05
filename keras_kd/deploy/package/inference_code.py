"""The parts of the firmware's C++ that depend on the model: arguments, copies, comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import TensorInfo
from keras_kd.deploy.package.samples import c_type

STATE_DECLARATIONS = """
// Like predict() and predict_stored(), which start from the model's initial state each time, but
// going on from where the last run ended: for a stream.
Status predict_next({real});
Status predict_stored_next({stored});

// Back to the initial state.
Status reset();
"""
STATE_DEFINITIONS = """
Status reset() {
  const Status status = setup();
  if (status != Status::kOk) return status;
  return interpreter->Reset() == kTfLiteOk ? Status::kOk : Status::kInvokeFailed;
}
"""
FROM_START = """
Status {function}({parameters}) {{
  const Status status = reset();
  return status == Status::kOk ? {function}_next({names}) : status;
}}
"""
PLAIN_INTERPRETER = "  static tflite::MicroInterpreter made(model, resolver, arena, arena_bytes);"
# The allocator is made of the arena, so it may be made once only.
RESOURCE_INTERPRETER = """\
  static tflite::MicroAllocator* allocator = tflite::MicroAllocator::Create(arena, arena_bytes);
  static tflite::MicroResourceVariables* variables =
      tflite::MicroResourceVariables::Create(allocator, {count});
  static tflite::MicroInterpreter made(model, resolver, allocator, variables);"""


def inference_parts(
    name: str,
    info: inspect.ModelInfo,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> dict[str, str]:
    """What `inference.h`, `inference.cc`, `run_samples.cc` and `main.cc` leave open.

    Args:
        name: Begins every name in the code.
        info: The model that the array holds.
        inputs: Its inputs.
        outputs: Its outputs.

    Raises:
        ValueError: A tensor whose type C++ has no counterpart of.
    """
    real = _parameters(inputs, outputs, real=True)
    stored = _parameters(inputs, outputs, real=False)
    names = ", ".join(
        [f"input_{i}" for i in range(len(inputs))] + [f"output_{i}" for i in range(len(outputs))]
    )
    stateful = info.is_stateful
    variables = sum(op.name == "VAR_HANDLE" for op in info.ops)
    from_start = [("predict", real), ("predict_stored", stored)] if stateful else []
    return {
        "real_arguments": real,
        "stored_arguments": stored,
        "argument_notes": "\n".join(_notes(name, inputs, outputs)),
        "state_note": "// Starts from the model's initial state each time.\n" if stateful else "",
        "state_declarations": STATE_DECLARATIONS.format(real=real, stored=stored)
        if stateful
        else "",
        "state_definitions": STATE_DEFINITIONS if stateful else "",
        "predict_name": "predict_next" if stateful else "predict",
        "predict_stored_name": "predict_stored_next" if stateful else "predict_stored",
        "predict_from_start": "".join(
            FROM_START.format(function=function, parameters=parameters, names=names)
            for function, parameters in from_start
        ),
        "resource_include": '#include "tensorflow/lite/micro/micro_resource_variable.h"\n'
        * bool(variables),
        "make_interpreter": RESOURCE_INTERPRETER.format(count=variables)
        if variables
        else PLAIN_INTERPRETER,
        "tensor_checks": "\n".join(
            f"  if (!holds<{c_type(tensor)}>(made.{role}({i}), {name}_data_{role}_{i}_elements))\n"
            "    return Status::kTensorMismatch;"
            for role, tensors in (("input", inputs), ("output", outputs))
            for i, tensor in enumerate(tensors)
        ),
        "real_inputs": "\n".join(_real_input(name, i, t) for i, t in enumerate(inputs)),
        "real_outputs": "\n".join(_real_output(name, i, t) for i, t in enumerate(outputs)),
        "stored_inputs": "\n".join(_copy_in(name, i, t) for i, t in enumerate(inputs)),
        "stored_outputs": "\n".join(_copy_out(name, i, t) for i, t in enumerate(outputs)),
    }


def run_samples_parts(
    name: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
) -> dict[str, str]:
    """What `run_samples.cc` leaves open: stored numbers in, stored numbers out."""
    given = [f"sample_input_{i}[i]" for i in range(len(inputs))]
    return {
        "buffers": _buffers("  ", name, outputs, real=False),
        "arguments": ", ".join([*given, *(f"actual_{i}" for i in range(len(outputs)))]),
        "comparisons": "\n".join(
            f'      same &= compare(print, "  output {i}", sample_output_{i}[i], actual_{i},\n'
            f"                      {name}_data_output_{i}_elements);"
            for i in range(len(outputs))
        ),
    }


def main_parts(
    name: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
) -> dict[str, str]:
    """What `main.cc` leaves open: the samples as real numbers, through `predict()`."""
    buffers = [_buffers("  ", name, outputs, real=True)]
    given, dequantized, comparisons = [], [], []
    for i, tensor in enumerate(inputs):
        count = f"{name}_data_input_{i}_elements"
        if tensor.scale is None:
            given.append(f"sample_input_{i}[i]")
            continue
        given.append(f"real_input_{i}")
        buffers.append(f"  static float real_input_{i}[{count}];")
        dequantized.append(
            f"    dequantize(sample_input_{i}[i], real_input_{i}, {count},\n"
            f"               {_quantization(name, 'input', i)});"
        )
    for i, tensor in enumerate(outputs):
        count = f"{name}_data_output_{i}_elements"
        expected = f"sample_output_{i}[i]"
        if tensor.scale is not None:
            buffers.append(f"  static float expected_{i}[{count}];")
            comparisons.append(
                f"    dequantize({expected}, expected_{i}, {count},\n"
                f"               {_quantization(name, 'output', i)});"
            )
            expected = f"expected_{i}"
        comparisons.append(f"    same &= is_as_expected({expected}, actual_{i}, {count});")
    return {
        "buffers": "\n".join(buffers),
        "arguments": ", ".join([*given, *(f"actual_{i}" for i in range(len(outputs)))]),
        "dequantized_inputs": "\n".join(dequantized),
        "comparisons": "\n".join(comparisons),
    }


def usage(name: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str:
    """A few lines that call `predict()`, for the README."""
    lines = [
        f"{_real_type(tensor)} {role}_{i}[{math.prod(tensor.shape)}];  // {tensor.name}".rstrip(
            " /"
        )
        for role, tensors in (("input", inputs), ("output", outputs))
        for i, tensor in enumerate(tensors)
    ]
    names = ", ".join(
        [f"input_{i}" for i in range(len(inputs))] + [f"output_{i}" for i in range(len(outputs))]
    )
    space = f"{name}_inference"
    return "\n".join(
        [
            *lines,
            f"if ({space}::predict({names}) != {space}::Status::kOk) {{ /* see Status */ }}",
        ]
    )


def _real_type(tensor: TensorInfo) -> str:
    return c_type(tensor) if tensor.scale is None else "float"


def _parameters(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], *, real: bool) -> str:
    kind = _real_type if real else c_type
    return ", ".join(
        [f"const {kind(tensor)}* input_{i}" for i, tensor in enumerate(inputs)]
        + [f"{kind(tensor)}* output_{i}" for i, tensor in enumerate(outputs)]
    )


def _notes(name: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> list[str]:
    return [
        f"//   {role}_{i}: {name}_data_{role}_{i}_elements, shape {list(tensor.shape)}"
        for role, tensors in (("input", inputs), ("output", outputs))
        for i, tensor in enumerate(tensors)
    ]


def _quantization(name: str, role: str, index: int) -> str:
    prefix = f"{name}_data_{role}_{index}"
    return f"{prefix}_scale, {prefix}_zero_point"


def _real_input(name: str, index: int, tensor: TensorInfo) -> str:
    if tensor.scale is None:
        return _copy_in(name, index, tensor)
    return (
        f"  if (!quantize(input_{index}, input<{c_type(tensor)}>({index}), "
        f"{name}_data_input_{index}_elements,\n"
        f"                {_quantization(name, 'input', index)}))\n"
        "    return Status::kNotANumber;"
    )


def _real_output(name: str, index: int, tensor: TensorInfo) -> str:
    if tensor.scale is None:
        return _copy_out(name, index, tensor)
    return (
        f"  dequantize(output<{c_type(tensor)}>({index}), output_{index}, "
        f"{name}_data_output_{index}_elements,\n"
        f"             {_quantization(name, 'output', index)});"
    )


def _copy_in(name: str, index: int, tensor: TensorInfo) -> str:
    count = f"{name}_data_input_{index}_elements"
    return f"  copy(input_{index}, input<{c_type(tensor)}>({index}), {count});"


def _copy_out(name: str, index: int, tensor: TensorInfo) -> str:
    count = f"{name}_data_output_{index}_elements"
    return f"  copy(output<{c_type(tensor)}>({index}), output_{index}, {count});"


def _buffers(indent: str, name: str, outputs: Sequence[TensorInfo], *, real: bool) -> str:
    kind = _real_type if real else c_type
    return "\n".join(
        f"{indent}static {kind(tensor)} actual_{i}[{name}_data_output_{i}_elements];"
        for i, tensor in enumerate(outputs)
    )
