"""What holds for every runtime, read off the flatbuffer alone; a runtime's own rules come after.

A finding here gives way to one of the same rule from a runtime's own module, which knows better
(`findings.Verdict.specialized`). The rules' names:

    custom-op, compiled-op, dynamic-shape, dynamic-batch, input-dtype, output-dtype, tensor-dtype,
    quantized-axis, subgraphs, stateful, unused-op, unused-input, file-size, float-island
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from keras_kd.deploy import inspect, micro_ops
from keras_kd.deploy.artifact import quantization_of
from keras_kd.deploy.devices.base import Device, Fact
from keras_kd.deploy.findings import (
    ERROR,
    NOTE,
    WARNING,
    Estimate,
    Finding,
    Subject,
    Verdict,
    places,
    printable,
)
from keras_kd.deploy.macs import macs
from keras_kd.deploy.rules import float_islands

PHONE = ("litert", "litert_gpu", "mediapipe")
# Runtimes that lay the memory out before the first run: what a shape depends on must be known then.
STATIC = ("tflm", "ethos_u", "edgetpu")
# Ops that a compiler made for one accelerator, and what they mean elsewhere.
COMPILED = {"edgetpu-custom-op": ("edgetpu", "the Edge TPU"), "ethos-u": ("ethos_u", "an Ethos-U")}
_LITERT_CUSTOM_OPS = frozenset(
    {"NumericVerify", "Mfcc", "AudioSpectrogram", "TFLite_Detection_PostProcess"}
)
# The custom ops that each runtime has: TFLM's from `micro_ops.py`, LiteRT's as its source says.
CUSTOM_OPS: Mapping[str, frozenset[str]] = {
    "tflm": micro_ops.CUSTOM_OPS,
    "ethos_u": micro_ops.CUSTOM_OPS | {"ethos-u"},
    "edgetpu": _LITERT_CUSTOM_OPS | {"edgetpu-custom-op"},
    **dict.fromkeys(PHONE, _LITERT_CUSTOM_OPS),
}
_REGISTER = "tensorflow/lite/core/kernels/register.cc, BuiltinOpResolver::BuiltinOpResolver"
_CORAL = "https://coral.ai/docs/edgetpu/models-intro/#model-requirements"
_SCHEMA = "tensorflow/compiler/mlir/lite/schema/schema.fbs"
# Types that no integer device computes in, and that phones have few kernels for.
_RARE_DTYPES = ("float64", "complex64", "complex128", "string")
# Ops that do something beside writing their outputs.
_EFFECTS = frozenset({"ASSIGN_VARIABLE", "CALL_ONCE", "HASHTABLE_IMPORT", "IF", "WHILE"})
_LARGE_METADATA = 0.1


def judge(subject: Subject, device: Device) -> Verdict:
    """What is wrong on whatever runtime the device has, and the numbers that need no runtime."""
    info = subject.info
    findings = (
        *_custom_ops(info, device),
        *_dynamic_shapes(info, device),
        *_interface(info, device, "input", info.inputs, device.input_dtypes),
        *_interface(info, device, "output", info.outputs, device.output_dtypes),
        *_tensor_dtypes(info, device),
        *_quantized_axis(info, device),
        *_subgraphs(info, device),
        *_stateful(info),
        *_unused(info),
        *_metadata(info),
        *float_islands.findings(info),
    )
    return Verdict(findings=findings, estimates=_estimates(info))


def _custom_ops(info: inspect.ModelInfo, device: Device) -> Iterator[Finding]:
    for name in info.custom_ops:
        if name in CUSTOM_OPS[device.runtime]:
            continue
        where = places(info, (op for op in info.ops if op.is_custom and op.name == name))
        if name in COMPILED:
            yield Finding(
                ERROR,
                "compiled-op",
                f"The model was compiled for {COMPILED[name][1]}; nothing else runs '{name}'.",
                "Take the file as it was before the compiler.",
                where,
                "https://coral.ai/docs/edgetpu/compiler/; ethos-u-vela, README",
                "LiteRT 2.3.0 and tflite-micro refuse both without their accelerator",
            )
        else:
            shown = printable(name)
            flex = name.startswith("Flex")
            # An Edge TPU's host may have more kernels registered, as for Coral's own PoseNet.
            is_host = device.runtime == "edgetpu" and not flex
            yield Finding(
                WARNING if is_host else ERROR,
                "custom-op",
                f"'{shown}' is {'a TensorFlow' if flex else 'a custom'} op, which "
                f"{device.title} does not have.",
                "Replace the layer that it comes from by one with a TFLite op, and convert with "
                "keras_kd.deploy.convert, which names such layers"
                + ("." if flex else ", or build the runtime with a kernel for it."),
                where,
                f"{_REGISTER}; tensorflow/tflite-micro, python_ops_resolver.cc",
                "LiteRT 2.3.0 and tflite-micro refuse a custom op that they do not know",
            )


def _dynamic_shapes(info: inspect.ModelInfo, device: Device) -> Iterator[Finding]:
    free = [t for t in info.tensors if -1 in t.shape_signature]
    beyond = [t for t in free if -1 in t.shape_signature[1:]]
    cure = "Convert at a static batch of 1 and a fixed input size: keras_kd.deploy.convert does."
    is_static = device.runtime in STATIC
    if beyond:
        yield Finding(
            ERROR if is_static else WARNING,
            "dynamic-shape",
            f"{len(beyond)} tensors have a size that is known only when the model runs"
            + (
                "; memory is laid out before that."
                if is_static
                else ": accelerators leave what depends on it to the CPU, and memory is laid out "
                "anew for each size."
            ),
            cure,
            _tensors(beyond),
            _CORAL if device.runtime == "edgetpu" else f"{_SCHEMA}, Tensor.shape_signature",
        )
    elif free:
        doubtful = device.runtime == "edgetpu"
        yield Finding(
            WARNING if doubtful else NOTE,
            "dynamic-batch",
            "The batch is free"
            + (
                "; Coral's documents want every size constant at compile time."
                if doubtful
                else ". Runtimes take the 1 that the file gives beside it."
            ),
            cure,
            _tensors(free[:1]),
            _CORAL if doubtful else f"{_SCHEMA}, Tensor.shape_signature",
            ""
            if doubtful
            else "MLPerf Tiny's int8 models, whose batch is free, run on LiteRT 2.3.0 "
            "and tflite-micro",
        )


def _interface(
    info: inspect.ModelInfo,
    device: Device,
    kind: str,
    slots: tuple[tuple[str, int], ...],
    dtypes: Fact | None,
) -> Iterator[Finding]:
    if dtypes is None:
        return
    for name, index in slots:
        dtype = info.tensor(index).dtype
        if dtype not in dtypes.value:
            yield Finding(
                ERROR,
                f"{kind}-dtype",
                f"{kind.capitalize()} '{printable(name)}' is {dtype}; {device.title} takes "
                f"{' or '.join(dtypes.value)}.",
                _dtype_cure(info, kind, dtypes.value),
                (f"{kind} '{printable(name)}'",),
                dtypes.source,
                dtypes.verified,
            )


def _dtype_cure(info: inspect.ModelInfo, kind: str, wanted: tuple[str, ...]) -> str:
    """The conversion whose input or output has one of the types that are wanted."""
    scheme = quantization_of(info)
    own = {"int8": ("int8", "uint8", "float32"), "int16x8": ("int16", "float32")}
    for quantization in (scheme, "int8", "int16x8"):
        for dtype in own.get(quantization, ("float32",)):
            if dtype in wanted:
                return (
                    f'Convert with quantization="{quantization}", {kind}_dtype="{dtype}" '
                    f"(keras-kd convert --quantize {quantization} --{kind}-dtype {dtype})."
                )
    return f"Have the application hand over another type, or cast at the {kind} in the model."


def _tensor_dtypes(info: inspect.ModelInfo, device: Device) -> Iterator[Finding]:
    halves = [t for t in info.tensors if t.dtype == "float16"]
    if halves and device.runtime in STATIC:
        yield Finding(
            ERROR,
            "tensor-dtype",
            f"{len(halves)} tensors are float16, which {device.title} cannot compute with.",
            'Convert with quantization="int8".',
            _tensors(halves),
            f"{_CORAL}; tflite-micro, tensorflow/lite/micro/kernels/dequantize_common.cc",
            "tflite-micro refuses keras_kd's float16 conversions",
        )
    for dtype in _RARE_DTYPES:
        rare = [t for t in info.tensors if t.dtype == dtype]
        if rare:
            on_phone = device.runtime in PHONE
            yield Finding(
                WARNING if on_phone else ERROR,
                "tensor-dtype",
                f"{len(rare)} tensors are {dtype}; "
                + ("few" if on_phone else "no")
                + f" kernels of {device.title} take that.",
                "Compute it before the model, or cast to float32 in the Keras model.",
                _tensors(rare),
                f"{_SCHEMA}, TensorType; tensorflow/tflite-micro, micro/kernels",
            )


def _quantized_axis(info: inspect.ModelInfo, device: Device) -> Iterator[Finding]:
    wrong = [
        t
        for t in info.tensors
        if t.quantized_axis is not None and t.shape and not 0 <= t.quantized_axis < len(t.shape)
    ]
    if wrong and device.runtime in PHONE:
        yield Finding(
            ERROR,
            "quantized-axis",
            f"{len(wrong)} tensors are quantized along an axis that they do not have; LiteRT "
            "refuses to load them.",
            "Convert the model again with a newer converter.",
            _tensors(wrong),
            "tensorflow/lite/core/interpreter_builder.cc, ParseQuantization",
            "LiteRT 2.3.0 refuses TFLM's person_detect.tflite, which has such tensors",
        )


def _subgraphs(info: inspect.ModelInfo, device: Device) -> Iterator[Finding]:
    count = len(info.subgraph_names)
    if count > 1:
        yield Finding(
            NOTE if device.runtime == "litert" else WARNING,
            "subgraphs",
            f"The model has {count} subgraphs (branches, loops, or several signatures); "
            "accelerators take the first alone, and a loop's cost is that of one turn here.",
            "Unroll loops (unroll=True in LSTM and GRU), and convert one signature a file.",
            places(info, (op for op in info.ops if _calls(op))),
            f"{_SCHEMA}, Model.subgraphs",
        )


def _calls(op: inspect.Op) -> bool:
    return any(option.endswith("subgraph_index") for option in op.options)


def _stateful(info: inspect.ModelInfo) -> Iterator[Finding]:
    if info.is_stateful:
        states = [t for t in info.tensors if t.is_variable or t.dtype == "resource"]
        yield Finding(
            NOTE,
            "stateful",
            f"The model remembers: {len(states)} tensors keep what one run left for the next.",
            "Reset it before a new sequence: reset_all_variables() in LiteRT, Reset() in TFLM.",
            _tensors(states),
            f"{_SCHEMA}, Tensor.is_variable",
            "keras_kd.deploy.Interpreter does so before each example",
        )


def _unused(info: inspect.ModelInfo) -> Iterator[Finding]:
    """Ops whose outputs lead nowhere, and inputs that no op reads, in the main subgraph."""
    needed = {index for _, index in info.outputs}
    idle = []
    main = [op for op in info.ops if op.subgraph == 0]
    # The file's order is one that ops can run in, so whoever reads a tensor comes later.
    for op in reversed(main):
        if needed.intersection(op.outputs) or op.name in _EFFECTS or op.is_custom:
            needed.update(index for index in op.inputs if index >= 0)
        else:
            idle.append(op)
    if idle:
        yield Finding(
            WARNING,
            "unused-op",
            f"{len(idle)} ops compute what nothing reads.",
            "Leave the layers out that no output depends on, and convert again.",
            places(info, reversed(idle)),
            f"{_SCHEMA}, SubGraph.outputs",
        )
    unread = [name for name, index in info.inputs if index not in needed]
    if unread:
        yield Finding(
            WARNING,
            "unused-input",
            f"{len(unread)} inputs change nothing: no output depends on them.",
            "Leave them out of the Keras model.",
            tuple(f"input '{printable(name)}'" for name in unread),
            f"{_SCHEMA}, SubGraph.inputs",
        )


def _metadata(info: inspect.ModelInfo) -> Iterator[Finding]:
    taken = sum(info.buffer_bytes[buffer] for _, buffer in info.metadata)
    if taken > _LARGE_METADATA * info.size_bytes:
        yield Finding(
            NOTE,
            "file-size",
            f"{taken:,} of the file's {info.size_bytes:,} bytes are metadata, which TFLite Micro "
            "does not read.",
            "Flash the file as it was before metadata was added.",
            tuple(f"metadata '{printable(name)}'" for name, _ in info.metadata),
            f"{_SCHEMA}, Model.metadata",
        )


def _estimates(info: inspect.ModelInfo) -> tuple[Estimate, ...]:
    constants = sum({t.buffer: t.buffer_bytes for t in info.tensors if t.is_constant}.values())
    return (
        Estimate("model file", info.size_bytes, "bytes", "length of the flatbuffer"),
        Estimate("constants in it", constants, "bytes", "weights, biases and other constants"),
        Estimate(
            "multiply-accumulates",
            sum(macs(info, op) for op in info.ops),
            "",
            "from the shapes of convolutions, dense and recurrent ops; each op once",
        ),
    )


def _tensors(tensors: Iterable[inspect.Tensor]) -> tuple[str, ...]:
    return tuple(f"tensor #{t.index} ({printable(t.name.split(';')[0])})" for t in tensors)
