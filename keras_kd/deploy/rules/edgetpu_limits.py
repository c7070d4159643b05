"""The Edge TPU's supported operations and the limit of each.

Sources: coral.ai/docs/edgetpu/models-intro, "Model requirements" and "Supported operations" (the
table), the compiler's logs in google-coral/edgetpu's issues, and 58 models before and after the
compiler of google-coral's test_data, edgetpu, coralmicro and project-posenet, which the rules were
held against op by op. `status` is what the compiler's log says of such an op, word for
word; where no log with it was found, the nearest one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from keras_kd.deploy import inspect

DOCS = "https://coral.ai/docs/edgetpu/models-intro/#supported-operations"
ISSUES = "https://github.com/google-coral/edgetpu/issues/"
PAIRS = "https://github.com/google-coral/test_data"

NOT_SUPPORTED = "Operation not supported"
LIMITATION = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
DTYPE = "Operation is working on an unsupported data type"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
NOT_CONSTANT = "Filter, bias, or other param is not constant at compile-time"

ON_CHIP_BYTES = 8 * 2**20
MAX_SOFTMAX = 16_000
# Seen mapped: x1 and x2, bilinear and nearest (deeplab_mobilenet_edgetpu_slim, movenet; issue 560).
# Seen on the CPU: 33 to 513, and 1 to 33 (deeplab_mobilenet_edgetpu_slim, deeplabv3_mnv2).
MAPPED_RESIZE, REFUSED_RESIZE = 2.0, 513 / 33


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why an op is not mapped, or why nobody knows whether it is.

    Attributes:
        status: The compiler's words, or ours where it is not known what the compiler does.
        detail: What in this op it is.
        cure: What to do about it.
        source: Where the rule stands.
        verified: In which compiled models it was seen; "" where it was only read.
        is_certain: False where the op may be mapped.
    """

    status: str
    detail: str
    cure: str
    source: str
    verified: str = ""
    is_certain: bool = True


_Rule = Callable[[inspect.ModelInfo, inspect.Op], Refusal | None]


def _limited(detail: str, cure: str, verified: str = "") -> Refusal:
    return Refusal(LIMITATION, detail, cure, DOCS, verified)


def _tensor(info: inspect.ModelInfo, op: inspect.Op, slot: int) -> inspect.Tensor:
    return info.tensor(op.inputs[slot], op.subgraph)


def _output(info: inspect.ModelInfo, op: inspect.Op) -> inspect.Tensor:
    return info.tensor(op.outputs[0], op.subgraph)


def _is_flat(tensor: inspect.Tensor) -> bool:
    return all(size == 1 for size in tensor.shape[:-1])


def _axes(info: inspect.ModelInfo, op: inspect.Op, slot: int, rank: int) -> list[int]:
    values = info.values(_tensor(info, op, slot))
    return [] if values is None else [int(axis) % max(rank, 1) for axis in values.ravel()]


def _no_activation(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    activation = op.options.get("fused_activation_function", "NONE")
    if activation == "NONE":
        return None
    return _limited(
        f"{activation} is fused into it",
        "Put the activation in front of it, or a convolution between them.",
    )


def _concatenation(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    inputs = [info.tensor(i, op.subgraph) for i in op.inputs if i >= 0]
    constants = [tensor for tensor in inputs if tensor.is_constant]
    zeros = all(
        np.all(info.values(t) == (t.zero_points[0] if t.zero_points else 0)) for t in constants
    )
    if constants and (len(op.inputs) != 2 or not zeros):
        return _limited(
            f"{len(constants)} of its {len(op.inputs)} inputs are constants",
            "Split the concat: one of two inputs with a constant of zeros, or pad instead.",
        )
    return _no_activation(info, op)


def _convolution(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    width = op.options.get("dilation_w_factor", 1)
    height = op.options.get("dilation_h_factor", 1)
    if width != height:
        return _limited(
            f"its dilation is {height} by {width}", "Dilate by the same factor in both directions."
        )
    channels, filter_channels = _tensor(info, op, 0).shape[-1:], _tensor(info, op, 1).shape[-1:]
    if op.name == "CONV_2D" and channels != filter_channels:
        return _limited(
            "its convolution is grouped",
            "Use a SeparableConv2D or DepthwiseConv2D, or one convolution for each group.",
        )
    return None


def _fully_connected(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    if op.options.get("weights_format", "DEFAULT") != "DEFAULT":
        return _limited("its weights are shuffled", "Convert it again with TensorFlow 2.")
    output = _output(info, op)
    if not _is_flat(output):
        return _limited(
            f"its output {list(output.shape)} is not one-dimensional",
            "Write a Dense over several positions as a Conv2D of kernel size 1.",
        )
    return None


def _reduction(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    shape = _tensor(info, op, 0).shape
    axes = _axes(info, op, 1, len(shape))
    if len(shape) > 1 and 0 in axes:
        return _limited("it reduces over the batch", "Reduce over the other dimensions only.")
    if op.name == "MEAN" and len(shape) - 1 in axes and shape[-1] % 4:
        return _limited(
            f"it averages over {shape[-1]} channels", "Make the channels a multiple of 4."
        )
    return None


def _pack(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    rank = len(_output(info, op).shape)
    if rank and op.options.get("axis", 0) % rank == 0:
        return _limited("it packs along the batch", "Concatenate along another dimension.")
    return None


def _pad(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    paddings = info.values(_tensor(info, op, 1))
    if paddings is not None and len(paddings) > 1 and np.any(paddings[0]):
        return _limited("it pads the batch", "Pad height, width or channels only.")
    return None


def _prelu(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    alpha = _tensor(info, op, 1)
    if _is_flat(alpha):
        return None
    return _limited(
        f"its alpha {list(alpha.shape)} is not one-dimensional",
        "Share alpha over the positions: keras.layers.PReLU(shared_axes=[1, 2]).",
    )


def _reshape(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    return _too_large(info, op, "Reshape smaller tensors, or on the host.")


def _resize(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    before, after = _tensor(info, op, 0).shape, _output(info, op).shape
    factors = [a / b for a, b in zip(after, before, strict=False) if b]
    factor, least = max(factors, default=1.0), min(factors, default=1.0)
    cure = (
        "Resize by 2 several times with a convolution between, or end the model before it and "
        "resize on the host; a resize from 1x1 is a broadcast: tile it."
    )
    if factor >= REFUSED_RESIZE:
        return _limited(f"it enlarges {factor:.3g} times", cure, f"{PAIRS}: deeplabv3_mnv2")
    if factor > MAPPED_RESIZE or least < 1:
        return Refusal(
            LIMITATION,
            f"it enlarges {factor if factor > 1 else least:.3g} times; 1 and 2 times are known to "
            f"be mapped, {REFUSED_RESIZE:.3g} times not to be",
            cure,
            DOCS,
            is_certain=False,
        )
    return _too_large(info, op, cure)


def _too_large(info: inspect.ModelInfo, op: inspect.Op, cure: str) -> Refusal | None:
    """Large tensors may stay on the CPU; the documents and the compiler name no bound."""
    size = sum(math.prod(t.shape) for t in (_tensor(info, op, 0), _output(info, op)))
    if size <= ON_CHIP_BYTES:
        return None
    return Refusal(
        LIMITATION,
        f"its input and output are {size:,} bytes, more than there is memory on the chip",
        cure,
        f"{DOCS}; {ISSUES}31, 356",
        is_certain=False,
    )


def _softmax(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    shape = _tensor(info, op, 0).shape
    if not _is_flat(_tensor(info, op, 0)) or math.prod(shape) > MAX_SOFTMAX:
        return _limited(
            f"its input {list(shape)} is not one-dimensional with at most {MAX_SOFTMAX:,} elements",
            "End the model in logits and take the softmax, or their argmax, on the host.",
        )
    return None


def _split(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    rank = len(_tensor(info, op, 1).shape)
    # One part is no split: yamnet_spectra_in and traffic_model have such ones over the batch.
    if op.options.get("num_splits", len(op.outputs)) > 1 and 0 in _axes(info, op, 0, rank):
        return _limited("it splits the batch", "Split along another dimension.")
    return None


def _squeeze(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    shape = _tensor(info, op, 0).shape
    leading = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    if len(shape) - len(_output(info, op).shape) <= leading:
        squeezed = [axis % len(shape) for axis in op.options.get("squeeze_dims") or ()]
        if all(axis < leading for axis in squeezed):
            return None
    return _limited(f"it takes dimensions out of the middle of {list(shape)}", "Reshape instead.")


def _strided_slice(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    strides = info.values(_tensor(info, op, 3))
    if strides is not None and np.any(strides != 1):
        return _limited(
            f"its strides are {strides.tolist()}", "Pool, or convolve with strides, instead."
        )
    if op.options.get("ellipsis_mask") or op.options.get("new_axis_mask"):
        return _limited(
            "it has an ellipsis or a new axis", "Write all bounds, and add the axis by a reshape."
        )
    return None


def _tile(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    if _output(info, op).shape[:1] != _tensor(info, op, 0).shape[:1]:
        return _limited("it repeats the batch", "Repeat height, width or channels only.")
    return None


RULES: dict[str, _Rule] = {
    "AVERAGE_POOL_2D": _no_activation,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _no_activation,
    "MEAN": _reduction,
    "PACK": _pack,
    "PAD": _pad,
    "PRELU": _prelu,
    "REDUCE_MAX": _reduction,
    "REDUCE_MIN": _reduction,
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "SOFTMAX": _softmax,
    "SPLIT": _split,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "SUM": _reduction,
    "TILE": _tile,
}
# How many inputs an op must have, where its rule reads more than the first.
MIN_INPUTS = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "PAD", "PRELU"), 2),
    **dict.fromkeys(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "SUM", "SPLIT", "TILE"), 2),
    "STRIDED_SLICE": 4,
}
# The table's ops, and TILE, which is not in it and is mapped in deeplab_mobilenet_edgetpu_slim.
_WITHOUT_LIMITS = """
ADD EXPAND_DIMS L2_NORMALIZATION LOGISTIC MAXIMUM MINIMUM MUL QUANTIZE RELU RELU6 RELU_N1_TO_1 RSQRT
SLICE SPACE_TO_DEPTH SQUARED_DIFFERENCE SUB TANH TRANSPOSE TRANSPOSE_CONV
UNIDIRECTIONAL_SEQUENCE_LSTM
"""
LISTED = frozenset(RULES).union(_WITHOUT_LIMITS.split())
