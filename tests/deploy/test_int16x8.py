"""Float models with QUANTIZE and DEQUANTIZE ops, made by hand, and the integer models of them."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_kd import deploy
from keras_kd.deploy import inspect, int16x8
from keras_kd.deploy.int16_ops import INT16_OPS
from keras_kd.deploy.model_contents import buffer_content

STEP = 2.0**-13
DTYPES = {"int8": "<i1", "int16": "<i2", "int64": "<i8"}


class Graph:
    """A graph that grows: tensors and ops are added, and known by their number."""

    def __init__(self, by_hand):
        self.by_hand, self.tensors, self.ops = by_hand, [], []

    def tensor(self, name, shape=(1, 4), dtype="FLOAT32", scale=None, zero_point=0):
        self.tensors.append(self.by_hand.tensor(name, shape, dtype, scale, zero_point))
        return len(self.tensors) - 1

    def constant(self, name, values, dtype="FLOAT32"):
        self.tensors.append(self.by_hand.constant(name, values, dtype, None))
        return len(self.tensors) - 1

    def op(self, name, inputs, shape=(1, 4), options=None, **fields):
        output = self.tensor(f"{name.lower()}_{len(self.ops)}", shape)
        self.ops.append(self.by_hand.op(name, inputs, [output], 1, options, **fields))
        return output

    def rounded(self, index, shape=(1, 4), dtype="UINT16", scale=STEP, zero_point=2**15):
        grid = self.tensor(f"grid_{len(self.ops)}", shape, dtype, scale, zero_point)
        self.ops.append(self.by_hand.op("QUANTIZE", [index], [grid]))
        return self.op("DEQUANTIZE", [grid], shape)

    def content(self, inputs, outputs):
        return self.by_hand.graph(self.ops, self.tensors, inputs, outputs)


@pytest.fixture
def graph(by_hand):
    return Graph(by_hand)


@pytest.fixture
def x(rng):
    """Values on the grid of `STEP`, so that nothing is lost at the input."""
    return (rng.integers(-(2**14), 2**14, size=(32, 4)) * STEP).astype("float32")


def unary(graph, name, **after):
    x = graph.tensor("x")
    return graph.content([x], [graph.rounded(graph.op(name, [graph.rounded(x)]), **after)])


def ops_of(content):
    return [op.name for op in inspect.model_info(content).ops]


def predict(content, x):
    return deploy.Interpreter(content, runtime="litert_reference").predict(x)


def dense(graph, kernel, bias, turned=False):
    """A FULLY_CONNECTED whose kernel is on a grid of 2^-7."""
    x = graph.tensor("x")
    index = graph.constant("kernel", np.float32(kernel))
    index = graph.rounded(index, np.shape(kernel), "UINT8", 2.0**-7, 128)
    if turned:
        order = graph.constant("order", [1, 0], "INT32")
        index = graph.op("TRANSPOSE", [index, order], np.shape(kernel)[::-1])
    inputs = [graph.rounded(x), index, graph.constant("bias", np.float32(bias))]
    y = graph.op("FULLY_CONNECTED", inputs, (1, 2), "FullyConnectedOptions")
    return graph.content([x], [graph.rounded(y, (1, 2), scale=2.0**-11)])


KERNEL = np.array([[127, -3, 0, 1], [5, 0, -127, 2]]) * 2.0**-7


def constants(content):
    """Return {dtype: numbers} of a model's constants."""
    found = {}
    for tensor in inspect.model_info(content).tensors:
        if tensor.is_constant and tensor.dtype in DTYPES:
            data = np.frombuffer(buffer_content(content, tensor.buffer), DTYPES[tensor.dtype])
            found[tensor.dtype] = data.reshape(tensor.shape)
    return found


@pytest.mark.parametrize("turned", [False, True])
def test_kernels_are_of_int8_and_biases_of_int64(graph, x, turned):
    bias = [3.3, -0.25]
    content = int16x8.with_integers(dense(graph, KERNEL.T if turned else KERNEL, bias, turned))
    assert ops_of(content) == ["FULLY_CONNECTED"]
    found = constants(content)
    np.testing.assert_array_equal(found["int8"], KERNEL * 2**7)
    # In steps of the input's times the kernel's, 2^-20: more of them than 16 bits hold.
    np.testing.assert_array_equal(found["int64"], np.round(np.array(bias) * 2**20))
    # The multiplier, a power of two, is exact: what is lost is the rounding of the output.
    np.testing.assert_allclose(predict(content, x), x @ KERNEL.T + bias, atol=0.501 * 2.0**-11)


def test_an_op_says_what_its_kernel_would_guess(graph):
    (op,) = inspect.model_info(int16x8.with_integers(dense(graph, KERNEL, [0, 0]))).ops
    assert (op.version, op.options["quantized_bias_type"]) == (
        11,
        schema.TensorType.INT64,
    )


def test_scales_of_a_sum_are_no_powers_of_two(graph, x):
    first = graph.tensor("x")
    a = graph.rounded(first)
    b = graph.rounded(graph.op("RELU", [a]), scale=0.7 * STEP)
    y = graph.op("ADD", [a, b], options="AddOptions")
    content = int16x8.with_integers(graph.content([first], [graph.rounded(y, scale=1.9 * STEP)]))
    assert inspect.model_info(content).ops[1].options["pot_scale_int16"] is False
    # Half a step of the relu and half a step of the sum.
    expected = x + np.maximum(x, 0)
    np.testing.assert_allclose(predict(content, x), expected, atol=(0.35 + 0.95) * 1.01 * STEP)


def test_a_constant_that_is_no_kernel_is_of_int16(graph, x):
    first = graph.tensor("x")
    factors = np.float32([0.5, -0.3, 0.1, 0.0])
    inputs = [graph.rounded(first), graph.constant("factors", factors)]
    y = graph.op("MUL", inputs, options="MulOptions")
    content = int16x8.with_integers(graph.content([first], [graph.rounded(y)]))
    assert constants(content)["int16"].dtype == np.int16
    # Half a step of the output, and half a step of .5 / 32767 times 2 for the factor.
    atol = 0.51 * STEP + 0.5 / 32767
    np.testing.assert_allclose(predict(content, x), x * factors, atol=atol)


def test_what_is_moved_keeps_its_range_on_both_sides(graph, x):
    """TensorFlow moves a range behind the reshape of what it belongs to."""
    first = graph.tensor("x")
    shape = graph.constant("shape", [1, 2, 2], "INT32")
    y = graph.op("LOGISTIC", [graph.rounded(first)])
    y = graph.op("RESHAPE", [y, shape], (1, 2, 2))
    y = graph.rounded(y, (1, 2, 2), scale=2.0**-15 * (1 + 2e-7))
    content = int16x8.with_integers(graph.content([first], [y]))
    info = inspect.model_info(content)
    assert [op.name for op in info.ops] == ["LOGISTIC", "RESHAPE"]
    assert info.tensor(info.ops[0].outputs[0]).scales == (2.0**-15,)
    assert not info.float_tensors
    # See `tests/quantization/test_int16_on_device.py` on the table.
    expected = 1 / (1 + np.exp(-x.astype("float64")))
    np.testing.assert_allclose(predict(content, x), expected.reshape(-1, 2, 2), atol=3 * 2.0**-15)


def test_an_op_with_a_range_of_its_own_needs_no_other(graph, x):
    """As the sigmoid within a silu, which no layer gives a range."""
    first = graph.tensor("x")
    read = graph.rounded(first)
    y = graph.op("MUL", [read, graph.op("LOGISTIC", [read])], options="MulOptions")
    content = int16x8.with_integers(graph.content([first], [graph.rounded(y)]))
    assert ops_of(content) == ["LOGISTIC", "MUL"]
    assert not inspect.model_info(content).float_tensors
    expected = x / (1 + np.exp(-x.astype("float64")))
    # The sigmoid's 3 steps of 2^-15 times x below 2, and half a step of the product.
    np.testing.assert_allclose(predict(content, x), expected, atol=6 * 2.0**-15 + 0.51 * STEP)


def test_within_what_stays_float_nothing_is_rounded(graph):
    x = graph.tensor("x")
    y = graph.op("LOGISTIC", [graph.op("ELU", [graph.rounded(x)])])
    content = graph.content([x], [graph.rounded(graph.op("ELU", [y]))])
    ops = ["DEQUANTIZE", "ELU", "LOGISTIC", "ELU", "QUANTIZE"]
    assert ops_of(int16x8.with_integers(content)) == ops


@pytest.mark.parametrize(
    ("name", "after"),
    [("ELU", {}), ("HARD_SWISH", {}), ("LOGISTIC", {"scale": 2.0**-14})],
    ids=["without int16", "without int16 either", "with a range of its own"],
)
def test_an_op_that_int16_does_not_have_stays_float(graph, name, after):
    content = int16x8.with_integers(unary(graph, name, **after))
    assert ops_of(content) == ["DEQUANTIZE", name, "QUANTIZE"]
    info = inspect.model_info(content)
    assert {info.tensor(index).dtype for _, index in info.inputs + info.outputs} == {"int16"}


def test_without_ranges_nothing_changes(graph):
    x = graph.tensor("x")
    content = int16x8.with_integers(graph.content([x], [graph.op("RELU", [x])]))
    assert ops_of(content) == ["RELU"]
    assert inspect.model_info(content).float_tensors


def test_the_oldest_runtime_of_the_float_ops_is_not_kept(graph, by_hand):
    def noted(model):
        model.metadata = [schema.MetadataT(), schema.MetadataT()]
        model.metadata[0].name, model.metadata[1].name = "min_runtime_version", "a note"
        for note in model.metadata:
            note.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(b"1.14.0", np.uint8)

    content = int16x8.with_integers(by_hand.edited(unary(graph, "RELU"), noted))
    assert [name for name, _ in inspect.model_info(content).metadata] == ["a note"]


@pytest.mark.parametrize("float_inputs", [False, True])
@pytest.mark.parametrize("float_outputs", [False, True])
def test_the_ends_are_what_was_asked_for(graph, x, float_inputs, float_outputs):
    content = int16x8.with_integers(
        unary(graph, "RELU"), float_inputs=float_inputs, float_outputs=float_outputs
    )
    info = inspect.model_info(content)
    ends = [info.tensor(index).dtype for _, index in info.inputs + info.outputs]
    assert ends == [{True: "float32", False: "int16"}[end] for end in (float_inputs, float_outputs)]
    assert ops_of(content) == ["QUANTIZE"] * float_inputs + ["RELU"] + ["DEQUANTIZE"] * (
        float_outputs
    )
    np.testing.assert_allclose(predict(content, x), np.maximum(x, 0), atol=1e-6)


def test_an_input_may_be_an_output(graph, x):
    first = graph.tensor("x")
    rounded = graph.rounded(first)
    y = graph.rounded(graph.op("RELU", [rounded]))
    content = int16x8.with_integers(graph.content([first], [y, rounded]), float_inputs=True)
    info = inspect.model_info(content)
    assert [op.name for op in info.ops] == ["QUANTIZE", "RELU"]
    assert [info.tensor(index).dtype for _, index in info.outputs] == ["int16", "int16"]


@pytest.mark.parametrize(
    "grid",
    [{"zero_point": 2**15 - 1}, {"dtype": "UINT8", "zero_point": 2**7}, {"dtype": "INT8"}],
    ids=["off the middle", "of 8 bits", "of int8"],
)
def test_a_range_that_int16_does_not_have_is_refused(graph, grid):
    with pytest.raises(deploy.ConversionError, match=r"16 bits with 0 in .*'relu_2'.*'int16x8'"):
        int16x8.with_integers(unary(graph, "RELU", **grid))


def test_two_ranges_of_one_tensor_are_refused(graph):
    x = graph.tensor("x")
    y = graph.op("RELU", [graph.rounded(x)])
    content = graph.content([x], [graph.rounded(y), graph.rounded(y, scale=2 * STEP)])
    with pytest.raises(deploy.ConversionError, match=r"one range for each tensor.*'relu_2'"):
        int16x8.with_integers(content)


def test_a_model_of_several_graphs_is_refused(by_hand):
    content = by_hand.edited(
        by_hand.chain(["RELU"]), lambda model: model.subgraphs.append(model.subgraphs[0])
    )
    with pytest.raises(deploy.ConversionError, match=r"without loops .* a model of 2 graphs"):
        int16x8.with_integers(content)


def test_the_names_are_those_of_the_schema():
    assert set(INT16_OPS) <= inspect.builtin_op_names()
