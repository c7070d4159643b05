"""The graph of the layers that a device has computes what the model does, in float."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_kd.graph import graph_of
from keras_kd.quantization import quantize_aware
from keras_kd.quantization.lowering import lowered, norms_behind_kernels
from tests.graphs import computed
from tests.quantization.on_device import examples_for, trained

layers = keras.layers


def stays(*names):
    return lambda call: call.operation.name in names


def names_of(graph):
    return [call.operation.name for call in graph.calls]


def classes_of(graph):
    return [type(call.operation).__name__ for call in graph.calls]


IMAGE = (6, 6, 4)
SEQUENCE = (12, 4)
CASES = {
    "separable": (IMAGE, layers.SeparableConv2D(5, 3, strides=2, depth_multiplier=2)),
    "separable_dilated": (IMAGE, layers.SeparableConv2D(5, 2, dilation_rate=2, use_bias=False)),
    "separable_1d": (SEQUENCE, layers.SeparableConv1D(5, 3, activation="relu")),
    "norm": (IMAGE, layers.BatchNormalization()),
    "norm_1d": (SEQUENCE, layers.BatchNormalization(center=False)),
    "norm_of_a_vector": ((4,), layers.BatchNormalization(epsilon=0.1)),
    "rescaling": (IMAGE, layers.Rescaling(0.5, -1.0)),
    "rescaling_by_channel": (IMAGE, layers.Rescaling([1.0, 2.0, 3.0, 4.0], 0.5)),
    "rescaling_1d": (SEQUENCE, layers.Rescaling(0.5, -1.0)),
    "rescaling_of_a_vector": ((4,), layers.Rescaling(0.5, -1.0)),
    "normalization": (
        IMAGE,
        layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 4.0]),
    ),
    "normalization_of_all": (IMAGE, layers.Normalization(axis=None, mean=0.5, variance=2.0)),
    "hard_sigmoid": (IMAGE, layers.Activation("hard_sigmoid")),
    "conv_hard_sigmoid": (IMAGE, layers.Conv2D(3, 3, activation="hard_sigmoid")),
    "dense_gelu": (SEQUENCE, layers.Dense(3, activation="gelu")),
    "relu_sloped": (IMAGE, layers.ReLU(negative_slope=0.2)),
    "average": (IMAGE, lambda x: layers.Average()([x, 2.0 * x, x / 3.0])),
    "add": (IMAGE, lambda x: layers.Add()([x, 1.0 - x, 2.0 * x, -x])),
    "multiply": (IMAGE, lambda x: layers.Multiply()([x, x - 1.0, 2.0 * x])),
    "upsampling": (IMAGE, layers.UpSampling2D((2, 3))),
    "upsampling_1d": (SEQUENCE, layers.UpSampling1D(3)),
    "repeat": ((4,), layers.RepeatVector(5)),
    "pooling_1d": (SEQUENCE, layers.AveragePooling1D(3, strides=2, padding="same")),
    "pooling_1d_valid": (SEQUENCE, layers.AveragePooling1D(5, strides=2)),
    "operators": (IMAGE, lambda x: (x + x) * x - x / 2.0),
    "functions": (IMAGE, lambda x: ops.sigmoid(ops.tanh(ops.silu(keras.activations.relu(x))))),
    "sloped_function": (IMAGE, lambda x: ops.hard_silu(ops.leaky_relu(x, negative_slope=0.3))),
    "shapes": (IMAGE, lambda x: ops.transpose(ops.reshape(x, (-1, 36, 4)), (0, 2, 1))),
    "extremes": (IMAGE, lambda x: ops.maximum(x, ops.minimum(ops.softmax(x), ops.exp(x)))),
    "joined": (IMAGE, lambda x: ops.mean(ops.concatenate([x, x], axis=2), (1, 2), keepdims=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_lowered_graph_computes_the_same(case):
    shape, layer = CASES[case]
    inputs = keras.Input(shape)
    rng = np.random.default_rng(0)
    model = trained(keras.Model(inputs, layer(inputs)), rng)
    x = examples_for(model, rng, 8)
    graph = lowered(graph_of(model), stays())
    # Up to some ten float32 operations in another order: 1e-6 each, of values below 10.
    np.testing.assert_allclose(computed(graph, x), model(x), rtol=1e-5, atol=1e-5)
    assert all(isinstance(call.operation, keras.Layer) for call in graph.calls)


def test_a_relu_with_a_limit_of_its_own_leaves_it_to_the_range():
    inputs = keras.Input(IMAGE)
    graph = lowered(graph_of(keras.Model(inputs, layers.ReLU(4.0, name="r")(inputs))), stays())
    assert classes_of(graph) == ["SaturatingReLU"]
    assert graph.calls[0].operation.limit == 4.0


def test_one_layer_of_a_chain_keeps_the_name_and_the_others_are_called_after_it():
    inputs = keras.Input(IMAGE)
    x = layers.SeparableConv2D(4, 3, activation="relu", name="block")(inputs)
    x = layers.Activation("hard_sigmoid", name="gate")(x)
    graph = lowered(graph_of(keras.Model(inputs, x)), stays())
    assert names_of(graph) == [
        "block_depthwise",
        "block",
        "block_relu",
        "gate_shifted",
        "gate_clipped",
        "gate",
    ]


def test_names_of_other_layers_are_not_taken():
    inputs = keras.Input(IMAGE)
    x = layers.Conv2D(4, 3, activation="relu", name="block")(inputs)
    x = layers.Conv2D(4, 3, name="block_relu")(x)
    model = keras.Model(inputs, x)
    graph = lowered(graph_of(model), stays())
    assert names_of(graph) == ["block", "block_relu_2", "block_relu"]
    values = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype("float32")
    np.testing.assert_allclose(computed(graph, values), model(values), rtol=1e-5, atol=1e-6)


def test_what_stays_is_not_touched():
    inputs = keras.Input(IMAGE)
    kept = layers.SeparableConv2D(4, 3, name="kept")
    graph = lowered(graph_of(keras.Model(inputs, kept(inputs))), stays("kept"))
    assert [call.operation for call in graph.calls] == [kept]


def test_a_shared_layer_stays_shared():
    inputs = keras.Input(IMAGE)
    shared = layers.SeparableConv2D(4, 3, padding="same")
    graph = lowered(graph_of(keras.Model(inputs, shared(shared(inputs)))), stays())
    depthwise, pointwise, *again = [call.operation for call in graph.calls]
    assert again == [depthwise, pointwise]


def norms(graph):
    behind = norms_behind_kernels(graph, stays())
    calls = {id(call): call for call in graph.calls}
    return {calls[key].operation.name: norm.operation.name for key, norm in behind.items()}


def conv(name, **options):
    return layers.Conv2D(4, 1, name=name, **options)


def test_a_norm_behind_a_kernel_becomes_part_of_it():
    inputs = keras.Input(IMAGE)
    x = layers.BatchNormalization(name="norm")(conv("conv")(inputs))
    model = keras.Model(inputs, x)
    assert norms(graph_of(model)) == {"conv": "norm"}
    assert names_of(lowered(graph_of(model), stays())) == ["conv", "norm"]


@pytest.mark.parametrize("reader", ["the end", "a layer", "an activation within"])
def test_a_norm_does_not_where_something_else_reads_the_kernel_too(reader):
    inputs = keras.Input(IMAGE)
    y = conv("conv", activation="relu" if reader == "an activation within" else None)(inputs)
    outputs = [layers.BatchNormalization(name="norm")(y)]
    if reader != "an activation within":
        outputs.append(y if reader == "the end" else layers.ReLU()(y))
    model = keras.Model(inputs, outputs)
    assert norms(graph_of(model)) == {}
    lower = lowered(graph_of(model), stays())
    assert "norm_kernel" in names_of(lower)
    assert norms(lower) == {"norm_kernel": "norm"}


def test_a_kernel_with_two_norms_and_a_norm_with_two_kernels_stay_apart():
    inputs = keras.Input(IMAGE)
    kernel, norm = conv("conv"), layers.BatchNormalization(name="norm")
    two_norms = [layers.BatchNormalization(name=n)(kernel(inputs)) for n in ("one", "other")]
    assert norms(graph_of(keras.Model(inputs, two_norms))) == {}
    two_kernels = [norm(conv(n)(inputs)) for n in ("one", "other")]
    assert norms(graph_of(keras.Model(inputs, two_kernels))) == {}


def test_a_pair_that_is_shared_stays_a_pair():
    inputs = keras.Input(IMAGE)
    kernel, norm = conv("conv"), layers.BatchNormalization(name="norm")
    model = keras.Model(inputs, norm(kernel(norm(kernel(inputs)))))
    assert norms(graph_of(model)) == {"conv": "norm"}


def test_the_ones_in_front_of_a_norm_are_not_trained():
    inputs = keras.Input(IMAGE)
    graph = lowered(graph_of(keras.Model(inputs, layers.BatchNormalization()(inputs))), stays())
    ones, norm = (call.operation for call in graph.calls)
    assert not ones.trainable_weights
    assert len(norm.trainable_weights) == 2


def test_a_chain_computes_in_the_precision_of_its_layer():
    inputs = keras.Input(IMAGE)
    x = layers.SeparableConv2D(4, 3, activation="hard_sigmoid", dtype="mixed_float16")(inputs)
    graph = lowered(
        graph_of(keras.Model(inputs, layers.UpSampling2D(2, dtype="float16")(x))), stays()
    )
    *of_the_convolution, upsampling = [call.operation.compute_dtype for call in graph.calls]
    assert set(of_the_convolution) == {"float16"}
    assert upsampling == "float16"


def test_tokens_may_be_reshaped():
    tokens = keras.Input((2, 3), dtype="int32")
    x = layers.Embedding(5, 4)(layers.Reshape((6,))(tokens))
    quantized = quantize_aware(keras.Model(tokens, x))
    assert quantized(np.zeros((1, 2, 3), "int32")).shape == (1, 6, 4)
