"""What one layer costs, from its configuration and the shapes around it.

No layer is looked at, only its configuration, so that sizes which no model has yet can be counted.
"""

import dataclasses
import math

import keras
from keras import layers

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
# Layers that an op with a kernel stands for.
KERNELS = (*CONVOLUTIONS, *DEPTHWISE, *SEPARABLE, *TRANSPOSED, layers.Dense, layers.EinsumDense)
# A vector over the channels for each of the things they learn or remember.
NORMALIZATIONS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)


@dataclasses.dataclass(frozen=True)
class Share:
    """A layer's part in the cost of a model.

    Attributes:
        weights: Elements of kernels and tables.
        offsets: Elements of biases, of which a fused normalization makes one for each channel.
        others: What a normalization or PReLU learns or remembers.
        macs: Multiply-accumulates of one call at a batch of 1.
        channels: Output channels that have a scale of their own.
        kernels: TFLite ops with a kernel.
        ops: All TFLite ops, where nothing is fused.
        inside: Elements that are alive at once within the layer, beside its inputs.
        kept: Elements that TFLite Micro has room for from begin to end, beside all tensors.
    """

    weights: int = 0
    offsets: int = 0
    others: int = 0
    macs: int = 0
    channels: int = 0
    kernels: int = 0
    ops: int = 1
    inside: int = 0
    kept: int = 0


def share(layer, config, inputs, outputs):
    """Counts one call of a layer.

    Args:
        layer: The layer or operation, for its class and name.
        config: Its configuration, {} for an operation.
        inputs: Shapes of its inputs, without the batch.
        outputs: Shapes of its outputs, without the batch.

    Returns:
        A `Share`.

    Raises:
        ValueError: A layer with weights that cannot be counted.
    """
    for classes, count in _COUNTS:
        if isinstance(layer, classes):
            return count(config, inputs, outputs[0])
    if getattr(layer, "weights", ()):
        raise ValueError(
            f"Expected layers whose weights and MACs can be counted. Received: '{layer.name}', a "
            f"{type(layer).__name__}. Hint: count the converted file, with keras_kd.deploy.check."
        )
    return Share()


def operands(call):
    """Returns the tensors that a call computes with: of attention (query, value, key), no masks.

    Args:
        call: A `keras_kd.graph.Call`.
    """
    if not isinstance(call.operation, layers.MultiHeadAttention):
        return call.inputs
    named = [call.kwargs.get(name) for name in ("query", "value", "key")[len(call.args) :]]
    return tuple(x for x in (*call.args[:3], *named) if isinstance(x, keras.KerasTensor))


def inner_units(equation):
    """Whether an `EinsumDense` is a dense layer over the last axis, as "abc,cd->abd" is."""
    left, _, output = equation.replace("...", "").partition("->")
    features, _, kernel = left.partition(",")
    return len(kernel) == 2 and features[-1:] == kernel[0] and output == features[:-1] + kernel[1]


def _convolution(config, inputs, output):
    weights = math.prod(config["kernel_size"]) * inputs[0][-1] // config["groups"] * output[-1]
    return _kernel(config, weights, math.prod(output[:-1]), output[-1], ops=_ops(output))


def _depthwise(config, inputs, output):
    weights = math.prod(config["kernel_size"]) * output[-1]
    return _kernel(config, weights, math.prod(output[:-1]), output[-1], ops=_ops(output))


def _separable(config, inputs, output):
    between = inputs[0][-1] * config["depth_multiplier"]
    weights = (math.prod(config["kernel_size"]) + output[-1]) * between
    found = _kernel(config, weights, math.prod(output[:-1]), output[-1])
    return dataclasses.replace(found, channels=between + output[-1], kernels=2, ops=2)


def _transposed(config, inputs, output):
    weights = math.prod(config["kernel_size"]) * inputs[0][-1] * output[-1]
    return _kernel(config, weights, math.prod(inputs[0][:-1]), output[-1], ops=_ops(output))


def _dense(config, inputs, output):
    weights = inputs[0][-1] * output[-1]
    return _kernel(config, weights, math.prod(output[:-1]), output[-1])


def _einsum_dense(config, inputs, output):
    if not inner_units(config["equation"]):
        raise ValueError(
            "Expected an EinsumDense over the last axis, such as 'abc,cd->abd'. Received: "
            f"'{config['name']}' with {config['equation']!r}"
        )
    letters = config["equation"].replace("...", "").partition("->")[2]
    axes = config["bias_axes"] or ""
    found = _dense({"use_bias": axes == letters[-1]}, inputs, output)
    if axes in ("", letters[-1]):
        return found
    # A bias over positions too is a table that an ADD of its own reads.
    sizes = dict(zip(reversed(letters), reversed(output), strict=False))
    table = math.prod(sizes[axis] for axis in axes)
    return dataclasses.replace(found, weights=found.weights + table, ops=2)


def _kernel(config, weights, runs, channels, *, ops=1):
    return Share(
        weights=weights,
        offsets=channels if config["use_bias"] else 0,
        macs=weights * runs,
        channels=channels,
        kernels=1,
        ops=ops,
    )


def _ops(output):
    """A convolution in one dimension is one in two between reshapes; neighbours share one."""
    return 2 if len(output) == 2 else 1


def _embedding(config, inputs, output):
    return Share(weights=config["input_dim"] * config["output_dim"])


def _attention(config, inputs, output):
    heads, key = config["num_heads"], config["key_dim"]
    value = config["value_dim"] or key
    # Called as (query, value) or (query, value, key).
    query, values = inputs[0], inputs[1]
    keys = inputs[2] if len(inputs) > 2 else values
    kernels = [
        (query, heads * key),
        (keys, heads * key),
        (values, heads * value),
    ]
    weights = sum(shape[-1] * units for shape, units in kernels) + heads * value * output[-1]
    offsets = sum(units for _, units in kernels) + output[-1]
    positions, others = math.prod(query[:-1]), math.prod(values[:-1])
    macs = sum(math.prod(shape) * units for shape, units in kernels)
    macs += positions * others * heads * (key + value) + positions * heads * value * output[-1]
    scores, packed = heads * positions * others, heads * others * value
    return Share(
        weights=weights,
        offsets=offsets if config["use_bias"] else 0,
        macs=macs,
        channels=sum(units for _, units in kernels) + output[-1],
        # Three projections, each reshaped and transposed; two products, a scale and a softmax;
        # transposed and reshaped back, and projected.
        kernels=4,
        ops=16,
        inside=max(heads * key * (positions + others) + scores, 2 * scores, scores + 2 * packed),
        # Keys and values transposed, which are the right factors of a BATCH_MATMUL
        # (tensorflow/lite/micro/kernels/batch_matmul.cc, `InitializeTemporaries`).
        kept=heads * others * (key + value),
    )


def _batch_normalization(config, inputs, output):
    vectors = 2 + config["center"] + config["scale"]
    return Share(others=vectors * output[-1], ops=2)


def _layer_normalization(config, inputs, output):
    axes = config["axis"] if isinstance(config["axis"], (list, tuple)) else [config["axis"]]
    # `axis` counts the batch where it is not negative.
    sizes = math.prod(output[axis if axis < 0 else axis - 1] for axis in axes)
    vectors = config.get("center", False) + config.get("scale", True)
    return Share(others=vectors * sizes, ops=8)


def _unit_normalization(config, inputs, output):
    return Share(ops=4)


def _normalization(config, inputs, output):
    if config["mean"] is not None:
        return Share(ops=2)
    axes = config["axis"] if isinstance(config["axis"], (list, tuple)) else [config["axis"]]
    sizes = math.prod(output[axis if axis < 0 else axis - 1] for axis in axes if axis is not None)
    # The mean, the variance, and how many examples they were taken from.
    return Share(others=2 * sizes + 1, ops=2)


def _prelu(config, inputs, output):
    shared = config["shared_axes"] or ()
    return Share(others=math.prod(n for i, n in enumerate(output, 1) if i not in shared))


# The first that fits: subclasses stand before their parents.
_COUNTS = (
    (SEPARABLE, _separable),
    (DEPTHWISE, _depthwise),
    (TRANSPOSED, _transposed),
    (CONVOLUTIONS, _convolution),
    (layers.EinsumDense, _einsum_dense),
    (layers.Dense, _dense),
    (layers.Embedding, _embedding),
    (layers.MultiHeadAttention, _attention),
    (layers.BatchNormalization, _batch_normalization),
    (layers.UnitNormalization, _unit_normalization),
    (
        (layers.LayerNormalization, layers.GroupNormalization, layers.RMSNormalization),
        _layer_normalization,
    ),
    (layers.Normalization, _normalization),
    (layers.PReLU, _prelu),
)
