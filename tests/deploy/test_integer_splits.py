"""Ops that move values and were left in float, by hand and as TensorFlow's quantizer does."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_kd import deploy
from keras_kd.deploy import inspect
from keras_kd.deploy.integer_splits import with_integer_splits

ROWS, COLUMNS = 2, 3
# Integers of 16 bits have none.
ZERO_POINTS = {"INT8": 3, "INT16": 0}


def left_in_float(by_hand, kind="SPLIT", *, dtype="INT8", other_scale=False, reads=()):
    """A model that moves floats between integers; of three tensors that come out, one has no use.

    Args:
        dtype: Of the integers.
        other_scale: Whether the integers behind have another scale.
        reads: What else is read: "input", the floats that go in, or "output", some that come out.
    """
    shapes = {"UNPACK": ((COLUMNS, ROWS), (ROWS,))}
    whole, part = shapes.get(kind, ((ROWS, COLUMNS), (ROWS, 1)))
    floats = {"dtype": "FLOAT32", "scale": None}
    zero_point = ZERO_POINTS[dtype]
    behind = {"dtype": dtype, "scale": 0.25 if other_scale else 0.5, "zero_point": zero_point}
    tensors = [
        by_hand.tensor("x", whole, dtype, zero_point=zero_point),
        by_hand.tensor("floats", whole, **floats),
        *(by_hand.tensor(f"part{i}", part, **floats) for i in range(3)),
        by_hand.tensor("a", part, **behind),
        by_hand.tensor("b", part, **behind),
        by_hand.tensor("more", whole, **floats),
        by_hand.tensor("more_of_a_part", part, **floats),
        by_hand.integers(1, "axis"),
        by_hand.integers([1, 1, 1], "sizes"),
        by_hand.tensor("plain", part, dtype, scale=None),
    ]
    mover = {
        "SPLIT": ([9, 1], "SplitOptions", {"numSplits": 3}),
        "SPLIT_V": ([1, 10, 9], "SplitVOptions", {"numSplits": 3}),
        "UNPACK": ([1], "UnpackOptions", {"num": 3, "axis": 0}),
        "CONCATENATION": ([1], "ConcatenationOptions", {"axis": 0}),
    }
    inputs, options, fields = mover[kind]
    ops = [
        by_hand.op("DEQUANTIZE", [0], [1], version=2),
        by_hand.op(kind, inputs, [2, 3, 4], version=2, options=options, **fields),
        # Not in the order of what they read, as the converter leaves them.
        by_hand.op("QUANTIZE", [4], [6]),
        by_hand.op("QUANTIZE", [2], [5]),
    ]
    outputs = [5, 6]
    if "input" in reads:
        ops.append(by_hand.op("NEG", [1], [7]))
        outputs.append(7)
    if "output" in reads:
        ops.append(by_hand.op("NEG", [4], [8]))
        outputs.append(8)
    if "cast" in reads:
        ops.append(by_hand.op("CAST", [2], [11]))
        outputs.append(11)
    if "end" in reads:
        outputs.append(2)
    return by_hand.graph(ops, tensors, [0], outputs)


def run(content, x):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(end["index"]) for end in interpreter.get_output_details()]


def names(content):
    return [op.name for op in inspect.model_info(content).ops]


@pytest.mark.parametrize("dtype", ["INT8", "INT16"])
@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V", "UNPACK"])
def test_it_moves_the_integers_around_it(by_hand, kind, dtype):
    content = left_in_float(by_hand, kind, dtype=dtype)
    repaired = with_integer_splits(content)
    info = inspect.model_info(repaired)
    assert names(repaired) == [kind]
    assert not info.float_tensors
    grid = ((0.5,), (ZERO_POINTS[dtype],))
    assert {(t.scales, t.zero_points) for t in info.tensors if t.scales} == {grid}
    shape = info.tensor(info.inputs[0][1]).shape
    x = np.arange(ROWS * COLUMNS, dtype=dtype.lower()).reshape(shape)
    if (kind, dtype) != ("SPLIT_V", "INT16"):  # For which LiteRT has no kernel.
        for found, expected in zip(run(repaired, x), run(content, x), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_floats_that_another_op_reads_too_stay(by_hand):
    content = left_in_float(by_hand, reads=["input"])
    repaired = with_integer_splits(content)
    assert names(repaired) == ["DEQUANTIZE", "SPLIT", "NEG"]
    x = np.arange(6, dtype="int8").reshape(ROWS, COLUMNS)
    for found, expected in zip(run(repaired, x), run(content, x), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"other_scale": True},
        {"reads": ["output"]},
        {"reads": ["cast"]},
        {"reads": ["end"]},
        {"kind": "CONCATENATION"},
    ],
    ids=str,
)
def test_what_has_to_be_float_keeps_its_bytes(by_hand, options):
    content = left_in_float(by_hand, **options)
    assert with_integer_splits(content) == content


def test_floats_of_a_model_keep_its_bytes(by_hand):
    split = by_hand.op("SPLIT", [0, 1], [2, 3], options="SplitOptions", numSplits=2)
    floats = [by_hand.tensor(name, dtype="FLOAT32", scale=None) for name in "xab"]
    content = by_hand.graph([split], [by_hand.integers(1, "axis"), *floats], [1], [2, 3])
    assert with_integer_splits(content) == content


@pytest.mark.slow
def test_a_gru_is_of_integers_each_time(rng):
    """Without the repair about every second conversion of such a model is refused."""
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, keras.layers.Bidirectional(keras.layers.GRU(4))(inputs))
    x = rng.normal(size=(60, 4, 3)).astype("float32")
    artifacts = [deploy.convert(model, calibration=x) for _ in range(3)]
    said = [deploy.predict(artifact, x, "litert_reference") for artifact in artifacts]
    assert len({tuple(names(artifact.content)) for artifact in artifacts}) == 1
    for one in said[1:]:
        np.testing.assert_array_equal(one, said[0])
