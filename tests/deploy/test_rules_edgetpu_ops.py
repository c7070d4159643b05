"""What holds for every op on the Edge TPU, and what the compiler refuses a whole model for."""

import pytest

from keras_kd.deploy import check, inspect
from keras_kd.deploy.rules import edgetpu_limits, edgetpu_ops

LIMITATION = edgetpu_limits.LIMITATION


def refusal(content, runtime_version=14):
    """What is said of the one op of a model."""
    info = inspect.model_info(content)
    return edgetpu_ops.refusal(info, info.ops[0], runtime_version=runtime_version)


def test_float_tensors(by_hand):
    x, y = by_hand.tensor("x", dtype="FLOAT32", scale=None), by_hand.tensor("y")
    assert refusal(by_hand.single("QUANTIZE", [x], y)).status == LIMITATION
    assert "input_dtype" in refusal(by_hand.single("QUANTIZE", [x], y)).cure
    found = refusal(by_hand.single("DEQUANTIZE", [y], x))
    assert found.status == "Operation is working on an unsupported data type"
    assert refusal(by_hand.single("RELU", [x], x)).detail == "it has float32 tensors"


def test_bytes_of_both_kinds_and_constants_of_int32_are_taken(by_hand):
    x = by_hand.tensor("x", dtype="UINT8")
    assert refusal(by_hand.single("QUANTIZE", [x], by_hand.tensor("y"))) is None
    wide = by_hand.constant("wide", [[1, 1, 1, 1]], "INT16")
    found = refusal(by_hand.single("MUL", [by_hand.tensor("x"), wide], by_hand.tensor("y")))
    assert found.detail == "it has int16 tensors"


def test_the_state_of_an_lstm_may_be_int16(by_hand):
    state = by_hand.tensor("state", (1, 4), "INT16", variable=True)
    inputs = [by_hand.tensor("x", (1, 3, 4)), *(by_hand.filled((4, 4), f"w{i}") for i in "ab")]
    content = by_hand.single(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", [*inputs, state], by_hand.tensor("y", (1, 3, 4))
    )
    assert refusal(content) is None


def test_more_than_three_dimensions(by_hand):
    x, y = by_hand.tensor("x", (2, 8, 8, 4)), by_hand.tensor("y", (2, 8, 8, 4))
    found = refusal(by_hand.single("RELU", [x], y))
    assert found.status == "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
    assert "[2, 8, 8, 4]" in found.detail


def test_a_computed_parameter(by_hand):
    inputs = [by_hand.tensor("x"), by_hand.tensor("matrix", (8, 4))]
    found = refusal(by_hand.single("FULLY_CONNECTED", inputs, by_hand.tensor("y", (1, 8))))
    assert found.status == "Filter, bias, or other param is not constant at compile-time"
    assert "'matrix' is computed" in found.detail


@pytest.mark.parametrize(
    ("name", "status", "certain"),
    [
        ("LEAKY_RELU", "Operation not supported", True),
        ("HARD_SWISH", "Operation not supported", True),
        ("+Erf", "Operation not supported", True),
        ("ELU", "Not in the table of supported operations", False),
        ("COS", "Not in the table of supported operations", False),
    ],
)
def test_ops_that_the_table_does_not_have(by_hand, name, status, certain):
    found = refusal(by_hand.chain([name]))
    assert (found.status, found.is_certain) == (status, certain)


def test_what_no_rule_tells_of_a_size(by_hand):
    four_times = by_hand.single(
        "RESIZE_BILINEAR",
        [by_hand.image(), by_hand.integers([32, 32])],
        by_hand.image("y", 32),
    )
    half = by_hand.single(
        "RESIZE_BILINEAR",
        [by_hand.image(), by_hand.integers([4, 4])],
        by_hand.image("y", 4),
    )
    large = by_hand.single(
        "RESHAPE",
        [by_hand.image(size=1024, channels=5)],
        by_hand.tensor("y", (1, 1024 * 1024, 5)),
    )
    assert "enlarges 4 times" in refusal(four_times).detail
    assert "enlarges 0.5 times" in refusal(half).detail
    assert "10,485,760 bytes" in refusal(large).detail
    assert not any(refusal(content).is_certain for content in (four_times, half, large))


def test_an_old_runtime_takes_less(by_hand):
    inputs = [by_hand.image(), by_hand.integers([0, 2, 1, 3])]
    content = by_hand.single("TRANSPOSE", inputs, by_hand.image("y"))
    assert refusal(content) is None
    assert "needs Edge TPU runtime 14" in refusal(content, runtime_version=13).detail
    assert "int8 needs" in refusal(by_hand.chain(["RELU"]), runtime_version=11).detail


@pytest.mark.parametrize("name", sorted(edgetpu_limits.LISTED))
def test_an_op_with_too_few_inputs_is_no_crash(by_hand, name):
    found = refusal(by_hand.chain([name]))
    assert found is None or found.cure


# What the compiler refuses the whole model for.
@pytest.mark.parametrize(
    ("name", "version", "refused"),
    [
        ("CONV_2D", 5, False),
        ("CONV_2D", 6, True),
        ("TRANSPOSE_CONV", 4, True),
        ("QUANTIZE", 3, True),
        ("EXP", 2, True),
        ("RELU", 3, False),
        ("FULLY_CONNECTED", 12, True),
    ],
)
def test_versions_that_the_compiler_cannot_read(by_hand, name, version, refused):
    content = by_hand.single(name, [by_hand.tensor("x")], by_hand.tensor("y"), version)
    info = inspect.model_info(content)
    found = edgetpu_ops.whole_refusal(info, info.ops[0])
    assert (found is not None) == refused
    if refused:
        wanted = f"Didn't find op for builtin opcode '{name}' version '{version}'"
        assert found.status == wanted


def test_a_refused_model_runs_nowhere_on_the_edge_tpu(by_hand):
    found = check(by_hand.chain(["RELU", "GELU", "LEAKY_RELU"]), "coral-usb")
    assert not found.fits
    (other,) = [f for f in found.findings if f.rule == "edgetpu-op-on-cpu"]
    assert other.where == ("LEAKY_RELU #2 (t3)",)
    (finding,) = [f for f in found.findings if f.rule == "edgetpu-model-refused"]
    assert "out of range: 150" in finding.message
    assert "ReLU6" in finding.cure
    assert finding.where == ("GELU #1 (t2)",)
    assert {p.target for p in found.placements} == {"cpu"}
    assert all("out of range: 150" in p.reason for p in found.placements)


def test_a_computed_size_makes_the_model_dynamic(by_hand):
    inputs = [by_hand.tensor("x"), by_hand.tensor("shape", (2,), "INT32", None)]
    content = by_hand.single("RESHAPE", inputs, by_hand.tensor("y", (2, 2)))
    (finding,) = [f for f in check(content, "coral-usb").findings if f.severity == "error"]
    assert "dynamic-sized tensors" in finding.message
    assert "batch of 1" in finding.cure


def test_a_quantized_dimension_that_is_not_there(by_hand):
    weights = by_hand.filled((8, 4))
    weights[0].quantization.scale, weights[0].quantization.zeroPoint = [1.0] * 8, [0] * 8
    weights[0].quantization.quantizedDimension = 3
    content = by_hand.single(
        "FULLY_CONNECTED", [by_hand.tensor("x"), weights], by_hand.tensor("y", (1, 8))
    )
    (finding,) = [f for f in check(content, "coral-usb").findings if f.severity == "error"]
    assert "must be in range [0, 2). Was 3" in finding.message
