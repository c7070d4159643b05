"""What an Android phone takes: LiteRT on the CPU, LiteRT on the GPU, MediaPipe Tasks.

What holds for every runtime (custom ops, dynamic shapes, types of inputs and outputs) is in
`common.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import quantization_of
from keras_kd.deploy.devices.base import Device
from keras_kd.deploy.devices.phone import LITERT
from keras_kd.deploy.findings import (
    ERROR,
    NOTE,
    WARNING,
    Estimate,
    Finding,
    Placement,
    Subject,
    Verdict,
    places,
)
from keras_kd.deploy.rules import phone_gpu, phone_mediapipe

REGISTER = f"{LITERT}, tflite/core/kernels/register.cc, BuiltinOpResolver"
# Builtin ops of the schema for which LiteRT registers no kernel: the StableHLO ops but for those
# that it does register, and what was reserved.
_NO_KERNEL = frozenset({"CALL", "CONCAT_EMBEDDINGS", "DELEGATE"})
_STABLEHLO = """
ADD AND CASE COMPOSITE GATHER MAXIMUM MINIMUM MULTIPLY PAD REDUCE_WINDOW RNG_BIT_GENERATOR SCATTER
SHIFT_LEFT
"""
_STABLEHLO_KERNELS = frozenset(f"STABLEHLO_{name}" for name in _STABLEHLO.split())
# The custom ops that the same resolver registers.
_CUSTOM_KERNELS = frozenset(
    {"AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess"}
)
_CURES = {
    "ARG_MAX": 'Take it as int32: keras.ops.cast(keras.ops.argmax(x), "int32") or leave the argmax '
    "to the application.",
}
_CURE = "Replace the layer by one that the GPU has, or leave these ops at the beginning or the end."
_SCHEMES = {
    "int16x8": "Its int16 activations run on LiteRT's reference kernels, some 19 times slower "
    "than int8 on x86.",
    "dynamic_range": "Weights are int8 and activations float32: convolutions and dense layers "
    "quantize their input while the model runs.",
    "float16": "Weights are float16 in the file and become float32 in memory when it is loaded.",
}


def judge(subject: Subject, device: Device) -> Verdict:
    """What a phone's runtime says to a model.

    Args:
        subject: The model.
        device: One of `devices.phone`, or any of the runtimes litert, litert_gpu and mediapipe.
    """
    info = subject.info
    not_run = [
        "No phone: ops and types were held against LiteRT's source. "
        "keras_kd.deploy.litert_benchmark runs the model on this computer's LiteRT."
    ]
    findings = [*_kernels(info)]
    placed = _placements(info, on_gpu=device.runtime == "litert_gpu")
    if device.runtime == "mediapipe":
        findings += phone_mediapipe.findings(subject)
        not_run.append("No MediaPipe: the interface and the metadata were held against its source.")
    else:
        findings += _variables(info, device)
    if device.runtime == "litert_gpu":
        findings += _gpu(info, placed)
    else:
        findings += _scheme(info)
    estimates = _gpu_share(placed) if device.runtime == "litert_gpu" else ()
    return Verdict(tuple(findings), placed, (), estimates, tuple(not_run))


def has_kernel(op: inspect.Op) -> bool:
    """Whether LiteRT has a kernel for an op."""
    if op.is_custom:
        return op.name in _CUSTOM_KERNELS
    if op.name.startswith("STABLEHLO_"):
        return op.name in _STABLEHLO_KERNELS
    return op.name not in _NO_KERNEL


def _kernels(info: inspect.ModelInfo) -> Iterator[Finding]:
    # Custom ops are found in `common.py`, for every runtime.
    missing = [op for op in info.ops if not (op.is_custom or has_kernel(op))]
    if missing:
        yield Finding(
            ERROR,
            "op-missing",
            f"LiteRT has no kernel for {', '.join(sorted({op.name for op in missing}))}.",
            "Convert a Keras model with keras_kd.deploy.convert, which writes TFLite's own ops.",
            places(info, missing),
            REGISTER,
        )


def _placements(info: inspect.ModelInfo, *, on_gpu: bool) -> tuple[Placement, ...]:
    placed = phone_gpu.placements(info) if on_gpu else [Placement(op, "cpu") for op in info.ops]
    return tuple(
        placement
        if placement.target == "gpu" or has_kernel(placement.op)
        else Placement(placement.op, "none", "LiteRT has no such op")
        for placement in placed
    )


def _variables(info: inspect.ModelInfo, device: Device) -> Iterator[Finding]:
    variables = [tensor for tensor in info.tensors if tensor.is_variable]
    if not variables:
        return
    on_gpu = device.runtime == "litert_gpu"
    yield Finding(
        ERROR if on_gpu else WARNING,
        "variable-tensors",
        f"{len(variables)} tensors keep a state from run to run (LSTM, GRU); CompiledModel refuses "
        "to load such a model" + ("." if on_gpu else ", Interpreter runs it."),
        "Unroll the layer (unroll=True)" + ("." if on_gpu else ", or use LiteRT's Interpreter."),
        tuple(f"tensor #{t.index} ({t.name})" for t in variables),
        f"{LITERT}, litert/core/model/model_load.cc, Variable tensors not yet supported",
        "ai-edge-litert 2.3.0: CompiledModel refuses trained_lstm_int8.tflite and "
        "keras_lstm_mnist_ptq.tflite, Interpreter loads both",
    )


def _scheme(info: inspect.ModelInfo) -> Iterator[Finding]:
    scheme = quantization_of(info)
    if scheme in _SCHEMES:
        yield Finding(
            NOTE,
            "quantization",
            f"The model is {scheme}. {_SCHEMES[scheme]}",
            'For the smallest and fastest model on a CPU convert with quantization="int8".',
            source="ai.google.dev/edge/litert/models/post_training_quantization",
        )


def _gpu(info: inspect.ModelInfo, placed: tuple[Placement, ...]) -> Iterator[Finding]:
    if quantization_of(info) in ("int8", "int16x8"):
        yield Finding(
            NOTE,
            "gpu-dequantized",
            "The GPU computes in float16 or float32: integers are turned into real numbers on the "
            "way, so an int8 model is neither faster there nor as exact as on the CPU.",
            'Convert with quantization="float16" for a GPU.',
            source=f"{LITERT}, ml_drift_delegate/tflite/object_reader.cc; "
            "ai.google.dev/edge/litert/performance/gpu, Quantized models",
            verified="ai-edge-litert 2.3.0's ML Drift on a software GPU took MLPerf Tiny's int8 "
            "models whole",
        )
    by_reason = defaultdict(list)
    for placement in placed:
        if placement.target == "cpu":
            by_reason[placement.op.name, placement.reason].append(placement.op)
    for (name, reason), ops in by_reason.items():
        yield Finding(
            WARNING,
            "gpu-fallback",
            f"{len(ops)} {name} run on the CPU: {reason}.",
            _CURES.get(name, _CURE),
            places(info, ops),
            phone_gpu.SOURCE,
            phone_gpu.VERIFIED,
        )
    if placed and not any(placement.target == "gpu" for placement in placed):
        yield Finding(
            ERROR,
            "gpu-nothing",
            "No op runs on the GPU.",
            "Use the CPU: --device android-cpu.",
            source=phone_gpu.SOURCE,
        )


def _gpu_share(placed: tuple[Placement, ...]) -> tuple[Estimate, ...]:
    if not placed:
        return ()
    on_gpu = sum(placement.target == "gpu" for placement in placed)
    return (
        Estimate(
            "ops on the GPU",
            round(100 * on_gpu / len(placed), 1),
            "%",
            f"{on_gpu} of {len(placed)} ops, by the delegate's rules",
        ),
    )
