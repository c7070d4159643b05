"""The limit of each op of the Edge TPU's table: models of one op that it takes, or refuses."""

import pytest

from keras_kd.deploy import inspect
from keras_kd.deploy.rules import edgetpu_limits, edgetpu_ops


def refusal(content, runtime_version=14):
    """What is said of the one op of a model."""
    info = inspect.model_info(content)
    return edgetpu_ops.refusal(info, info.ops[0], runtime_version=runtime_version)


def conv(h, channels=4, **fields):
    """A CONV_2D of a 1x1 kernel."""
    inputs = [h.image(), h.filled((8, 1, 1, channels)), h.integers([0] * 8, "bias")]
    return h.single("CONV_2D", inputs, h.image("y", channels=8), 3, "Conv2DOptions", **fields)


# A name, how the model is made, and what is in the refusal's detail; None where it is mapped.
CASES = {
    "add": (lambda h: h.single("ADD", [h.image(), h.image("z")], h.image("y")), None),
    "uint8": (
        lambda h: h.single("RELU6", [h.image(dtype="UINT8")], h.image("y", dtype="UINT8")),
        None,
    ),
    "pool": (lambda h: h.single("MAX_POOL_2D", [h.image()], h.image("y", 4)), None),
    "pool with activation": (
        lambda h: h.single(
            "AVERAGE_POOL_2D",
            [h.image()],
            h.image("y", 4),
            options="Pool2DOptions",
            fusedActivationFunction=3,
        ),
        "RELU6 is fused",
    ),
    "concat": (
        lambda h: h.single(
            "CONCATENATION", [h.image(), h.image("z"), h.image("w")], h.image("y", channels=12)
        ),
        None,
    ),
    "concat with activation": (
        lambda h: h.single(
            "CONCATENATION",
            [h.image(), h.image("z")],
            h.image("y", channels=8),
            options="ConcatenationOptions",
            fusedActivationFunction=1,
        ),
        "RELU is fused",
    ),
    "concat with zeros": (
        lambda h: h.single(
            "CONCATENATION",
            [h.image(), h.constant("zeros", [[[[7]]]], zero_point=7)],
            h.image("y"),
        ),
        None,
    ),
    "concat with a constant": (
        lambda h: h.single(
            "CONCATENATION",
            [h.image(), h.constant("ones", [[[[0]]]], zero_point=7)],
            h.image("y"),
        ),
        "1 of its 2 inputs are constants",
    ),
    "concat of three with zeros": (
        lambda h: h.single(
            "CONCATENATION",
            [h.image(), h.image("z"), h.constant("zeros", [[[[0]]]])],
            h.image("y"),
        ),
        "1 of its 3 inputs are constants",
    ),
    "conv": (lambda h: conv(h), None),
    "conv dilated": (lambda h: conv(h, dilationWFactor=2, dilationHFactor=2), None),
    "conv dilated unevenly": (
        lambda h: conv(h, dilationWFactor=2, dilationHFactor=1),
        "dilation is 1 by 2",
    ),
    "conv grouped": (lambda h: conv(h, channels=2), "grouped"),
    "depthwise dilated unevenly": (
        lambda h: h.single(
            "DEPTHWISE_CONV_2D",
            [h.image(), h.filled((1, 3, 3, 4)), h.integers([0] * 4)],
            h.image("y"),
            3,
            "DepthwiseConv2DOptions",
            dilationWFactor=1,
            dilationHFactor=3,
        ),
        "dilation is 3 by 1",
    ),
    "dense": (
        lambda h: h.single(
            "FULLY_CONNECTED", [h.tensor("x"), h.filled((8, 4))], h.tensor("y", (1, 8)), 4
        ),
        None,
    ),
    "dense over positions": (
        lambda h: h.single(
            "FULLY_CONNECTED",
            [h.tensor("x", (1, 6, 4)), h.filled((8, 4))],
            h.tensor("y", (1, 6, 8)),
            5,
        ),
        "[1, 6, 8] is not one-dimensional",
    ),
    "dense shuffled": (
        lambda h: h.single(
            "FULLY_CONNECTED",
            [h.tensor("x"), h.filled((8, 4))],
            h.tensor("y", (1, 8)),
            options="FullyConnectedOptions",
            weightsFormat=1,
        ),
        "shuffled",
    ),
    "mean over positions": (
        lambda h: h.single("MEAN", [h.image(channels=3), h.integers([1, 2])], h.tensor("y")),
        None,
    ),
    "mean over channels": (
        lambda h: h.single("MEAN", [h.image(), h.integers([-1])], h.tensor("y", (1, 8, 8))),
        None,
    ),
    "mean over odd channels": (
        lambda h: h.single(
            "MEAN", [h.image(channels=6), h.integers([-1])], h.tensor("y", (1, 8, 8))
        ),
        "over 6 channels",
    ),
    "mean over the batch": (
        lambda h: h.single("MEAN", [h.image(), h.integers([-4])], h.tensor("y", (8, 8, 4))),
        "over the batch",
    ),
    "max over the batch": (
        lambda h: h.single("REDUCE_MAX", [h.image(), h.integers([0])], h.tensor("y", (8, 8, 4))),
        "over the batch",
    ),
    "sum over positions": (
        lambda h: h.single("SUM", [h.image(), h.integers([1, 2])], h.tensor("y")),
        None,
    ),
    "pack": (
        lambda h: h.single(
            "PACK",
            [h.tensor("x"), h.tensor("z")],
            h.tensor("y", (1, 2, 4)),
            options="PackOptions",
            axis=1,
        ),
        None,
    ),
    "pack along the batch": (
        lambda h: h.single(
            "PACK",
            [h.tensor("x"), h.tensor("z")],
            h.tensor("y", (2, 1, 4)),
            options="PackOptions",
            axis=-3,
        ),
        "along the batch",
    ),
    "pad": (
        lambda h: h.single(
            "PAD",
            [h.image(), h.integers([[0, 0], [1, 1], [1, 1], [0, 0]])],
            h.image("y", size=10),
        ),
        None,
    ),
    "pad the batch": (
        lambda h: h.single(
            "PAD",
            [h.tensor("x"), h.integers([[0, 1], [0, 0]])],
            h.tensor("y", (2, 4)),
        ),
        "pads the batch",
    ),
    "prelu": (
        lambda h: h.single("PRELU", [h.image(), h.filled((1, 1, 4), "alpha")], h.image("y")),
        None,
    ),
    "prelu of positions": (
        lambda h: h.single("PRELU", [h.image(), h.filled((8, 8, 4), "alpha")], h.image("y")),
        "alpha [8, 8, 4]",
    ),
    "resize by 2": (
        lambda h: h.single(
            "RESIZE_BILINEAR", [h.image(), h.integers([16, 16])], h.image("y", 16), 3
        ),
        None,
    ),
    "resize by 16": (
        lambda h: h.single(
            "RESIZE_NEAREST_NEIGHBOR",
            [h.image(), h.integers([128, 128])],
            h.image("y", 128),
        ),
        "enlarges 16 times",
    ),
    "softmax": (lambda h: h.single("SOFTMAX", [h.tensor("x")], h.tensor("y")), None),
    "softmax of positions": (
        lambda h: h.single("SOFTMAX", [h.image()], h.image("y")),
        "[1, 8, 8, 4] is not one-dimensional",
    ),
    "softmax of many": (
        lambda h: h.single("SOFTMAX", [h.tensor("x", (1, 16_001))], h.tensor("y", (1, 16_001))),
        "at most 16,000 elements",
    ),
    "split": (
        lambda h: h.single(
            "SPLIT",
            [h.integers(3), h.image()],
            h.image("y", channels=2),
            options="SplitOptions",
            numSplits=2,
        ),
        None,
    ),
    "split into one": (
        lambda h: h.single(
            "SPLIT",
            [h.integers(0), h.image()],
            h.image("y"),
            options="SplitOptions",
            numSplits=1,
        ),
        None,
    ),
    "split the batch": (
        lambda h: h.single(
            "SPLIT",
            [h.integers(-2), h.tensor("x", (2, 4))],
            h.tensor("y"),
            options="SplitOptions",
            numSplits=2,
        ),
        "splits the batch",
    ),
    "squeeze leading": (
        lambda h: h.single(
            "SQUEEZE",
            [h.tensor("x", (1, 1, 1, 4))],
            h.tensor("y"),
            options="SqueezeOptions",
            squeezeDims=[1, 2],
        ),
        None,
    ),
    "squeeze the middle": (
        lambda h: h.single(
            "SQUEEZE",
            [h.tensor("x", (1, 5, 1, 4))],
            h.tensor("y", (1, 5, 4)),
            options="SqueezeOptions",
            squeezeDims=[2],
        ),
        "out of the middle",
    ),
    "slice with strides": (
        lambda h: h.single(
            "STRIDED_SLICE",
            [h.tensor("x"), h.integers([0, 0]), h.integers([1, 4]), h.integers([1, 2])],
            h.tensor("y", (1, 2)),
            options="StridedSliceOptions",
        ),
        "strides are [1, 2]",
    ),
    "slice with a new axis": (
        lambda h: h.single(
            "STRIDED_SLICE",
            [h.tensor("x"), h.integers([0, 0]), h.integers([1, 4]), h.integers([1, 1])],
            h.tensor("y"),
            options="StridedSliceOptions",
            newAxisMask=1,
        ),
        "a new axis",
    ),
    "slice": (
        lambda h: h.single(
            "STRIDED_SLICE",
            [h.tensor("x"), h.integers([0, 0]), h.integers([1, 2]), h.integers([1, 1])],
            h.tensor("y", (1, 2)),
            options="StridedSliceOptions",
        ),
        None,
    ),
    "tile": (
        lambda h: h.single(
            "TILE",
            [h.image(size=1), h.integers([1, 8, 8, 1])],
            h.image("y"),
        ),
        None,
    ),
    "tile the batch": (
        lambda h: h.single(
            "TILE",
            [h.tensor("x"), h.integers([2, 1])],
            h.tensor("y", (2, 4)),
        ),
        "repeats the batch",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_limit(by_hand, case):
    make, expected = CASES[case]
    found = refusal(make(by_hand))
    if expected is None:
        assert found is None
    else:
        assert expected in found.detail
        assert found.status == edgetpu_limits.LIMITATION
        assert found.is_certain
        assert found.cure.endswith(".")
        assert found.source
