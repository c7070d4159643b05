"""Multiply-accumulates against hand counts, and against what MLPerf Tiny publishes."""

import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_kd import deploy
from keras_kd.deploy.macs import macs


def of(by_hand, name, inputs, output, options=None, kind=None):
    tensors = [by_hand.tensor(f"i{i}", shape) for i, shape in enumerate(inputs)]
    content = by_hand.one_op(name, tensors, [by_hand.tensor("out", output)], options, kind)
    info = deploy.model_info(content)
    return macs(info, info.ops[0])


@pytest.mark.parametrize(
    ("name", "inputs", "output", "expected"),
    [
        ("CONV_2D", [(1, 8, 8, 3), (16, 3, 3, 3)], (1, 4, 4, 16), 4 * 4 * 16 * 27),
        # Grouped: the filter has the channels of one group.
        ("CONV_2D", [(1, 8, 8, 8), (16, 3, 3, 2)], (1, 8, 8, 16), 8 * 8 * 16 * 18),
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 6), (1, 5, 5, 6)], (1, 4, 4, 6), 4 * 4 * 6 * 25),
        ("FULLY_CONNECTED", [(1, 40), (10, 40)], (1, 10), 400),
        # A dense layer over each of seven steps.
        ("FULLY_CONNECTED", [(1, 7, 40), (10, 40)], (1, 7, 10), 7 * 400),
        # Every input element meets every weight of its channel: 4 * 4 * 6 times 3 * 3 * 5.
        ("TRANSPOSE_CONV", [(4,), (5, 3, 3, 6), (1, 4, 4, 6)], (1, 8, 8, 5), 96 * 45),
        ("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], (2, 3, 5), 2 * 3 * 5 * 4),
        ("CONV_3D", [(1, 4, 4, 4, 2), (3, 3, 3, 2, 8)], (1, 2, 2, 2, 8), 64 * 54),
        ("ADD", [(1, 8), (1, 8)], (1, 8), 0),
        ("RESHAPE", [(1, 8)], (2, 4), 0),
        # What no such op can have is not counted, and is no crash.
        ("CONV_2D", [(1, 8, 8, 3)], (1, 4, 4, 16), 0),
        ("FULLY_CONNECTED", [(1, 40), (10,)], (1, 10), 0),
    ],
)
def test_against_a_count_by_hand(by_hand, name, inputs, output, expected):
    assert of(by_hand, name, inputs, output) == expected


def test_a_product_with_a_transposed_left_side(by_hand):
    options = schema.BatchMatMulOptionsT()
    options.adjX = True
    found = of(
        by_hand, "BATCH_MATMUL", [(2, 4, 3), (2, 4, 5)], (2, 3, 5), options, "BatchMatMulOptions"
    )
    assert found == 2 * 3 * 5 * 4


def test_an_lstm(by_hand):
    """Nine steps of four 7x5 and four 7x7 matrices, and a projection to 3."""
    shapes = [(1, 9, 5)] + [(7, 5)] * 4 + [(7, 7)] * 4 + [(7,)] * 3 + [(7,)] * 4 + [(3, 7)]
    found = of(by_hand, "UNIDIRECTIONAL_SEQUENCE_LSTM", shapes, (1, 9, 3))
    assert found == 9 * (4 * 35 + 4 * 49 + 21)


def test_a_student(converted):
    info = deploy.model_info(converted("int8").content)
    assert sum(macs(info, op) for op in info.ops) == 6 * 6 * 8 * 9 + 72 * 32 + 32 * 4


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "published", "half_a_digit"),
    [
        ("kws_ref_model", 2.66e6, 0.005e6),
        ("vww_96_int8", 7.49e6, 0.005e6),
        ("pretrainedResnet_quant", 12.5e6, 0.05e6),
        ("pretrainedResnet_large_int8", 76.5e6, 0.05e6),
        ("str_ww_ref_model", 0.83e6, 0.005e6),
        ("ad01_int8", 264_192, 0),
    ],
)
def test_against_mlperf_tiny(data_folder, file, published, half_a_digit):
    """The tolerance is that of a published number that was rounded to its last digit."""
    (path,) = data_folder.rglob(f"{file}.tflite")
    info = deploy.model_info(path)
    assert sum(macs(info, op) for op in info.ops) == pytest.approx(published, abs=half_a_digit)
