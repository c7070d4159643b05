"""What a model costs: by hand, and against conversions and arenas."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd import deploy, students
from keras_kd.deploy.arena import lower_bound
from keras_kd.deploy.macs import macs


def model_of(shape, *stack, dtype="float32"):
    """A model of layers one behind the other."""
    inputs = x = keras.Input(shape, dtype=dtype)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


def autoencoder():
    """MLPerf Tiny's for anomalies: 640 numbers through a waist of 8, arXiv:2106.07597."""
    stack = [
        layer
        for units in (128, 128, 128, 128, 8, 128, 128, 128, 128)
        for layer in (layers.Dense(units), layers.BatchNormalization(), layers.ReLU())
    ]
    return model_of((640,), *stack, layers.Dense(640))


# -- by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "weights", "macs_by_hand"),
    [
        (lambda: model_of((8, 8, 3), layers.Conv2D(5, 3)), 135, 135 * 36),
        (lambda: model_of((8, 8, 4), layers.Conv2D(6, 3, 2, "same", groups=2)), 108, 108 * 16),
        (lambda: model_of((9, 4), layers.Conv1D(6, 3, padding="same")), 72, 72 * 9),
        (lambda: model_of((4, 4, 4, 2), layers.Conv3D(3, 2)), 48, 48 * 27),
        (lambda: model_of((8, 8, 4), layers.DepthwiseConv2D(3, depth_multiplier=2)), 72, 72 * 36),
        (lambda: model_of((9, 4), layers.DepthwiseConv1D(3)), 12, 12 * 7),
        # Nine taps and six filters for each of eight channels between.
        (
            lambda: model_of((8, 8, 4), layers.SeparableConv2D(6, 3, depth_multiplier=2)),
            8 * (9 + 6),
            8 * (9 + 6) * 36,
        ),
        # Every one of 16 pixels meets every weight.
        (lambda: model_of((4, 4, 2), layers.Conv2DTranspose(5, 3, 2)), 90, 90 * 16),
        (lambda: model_of((7, 4), layers.Dense(5)), 20, 20 * 7),
        (lambda: model_of((7, 4), layers.EinsumDense("abc,cd->abd", (None, 5))), 20, 20 * 7),
        # A table of 7 positions beside the kernel.
        (
            lambda: model_of((7, 4), layers.EinsumDense("abc,cd->abd", (7, 5), bias_axes="bd")),
            20 + 35,
            20 * 7,
        ),
        (lambda: model_of((7,), layers.Embedding(11, 4), dtype="int32"), 44, 0),
        (lambda: model_of((7, 4), layers.LayerNormalization(), layers.PReLU()), 0, 0),
    ],
)
def test_against_a_count_by_hand(model, weights, macs_by_hand):
    model = model()
    cost = students.cost(model)
    assert (cost.weights, cost.macs) == (weights, macs_by_hand)
    assert cost.parameters == model.count_params()


@pytest.mark.parametrize("arguments", ["self", "cross", "masked", "by name"])
def test_attention(arguments):
    """Three heads of 2 for the scores and 5 for the values, from 4 to 4, over 7 and 6 positions."""
    query, other = keras.Input((7, 4)), keras.Input((6, 3))
    mask = keras.Input((7, 7))
    layer = layers.MultiHeadAttention(3, 2, value_dim=5)
    called = {
        "self": lambda: layer(query, query),
        "cross": lambda: layer(query, other),
        "masked": lambda: layer(query, query, attention_mask=mask),
        "by name": lambda: layer(query, key=other, value=query[:, :6]),
    }
    model = keras.Model([query, other, mask], called[arguments]())
    key, value = {
        "self": ((7, 4), (7, 4)),
        "masked": ((7, 4), (7, 4)),
        "cross": ((6, 3), (6, 3)),
        "by name": ((6, 3), (6, 4)),
    }[arguments]
    weights = 4 * 6 + key[1] * 6 + value[1] * 15 + 15 * 4
    by_hand = 7 * 4 * 6 + key[0] * key[1] * 6 + value[0] * value[1] * 15 + 7 * 15 * 4
    by_hand += 3 * 7 * key[0] * (2 + 5)
    cost = students.cost(model)
    assert (cost.weights, cost.macs) == (weights, by_hand)
    assert cost.parameters == model.count_params()


def test_memory_of_a_residual_block():
    """At the second convolution three maps of 8 x 8 x 4 are alive, and no more at the Add."""
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(4, 3, padding="same", name="second")(x)
    model = keras.Model(inputs, layers.ReLU()(layers.Add()([inputs, x])))
    assert students.cost(model).activation_bytes == 3 * 8 * 8 * 4


def test_token_numbers_take_four_bytes():
    model = model_of((7,), layers.Embedding(11, 4), dtype="int32")
    assert students.cost(model).activation_bytes == 7 * 4 + 7 * 4


def test_what_is_read_twice_is_not_fused():
    """The map before the ReLU is alive beside the one behind it, as both are added."""
    inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(8, 1)(inputs)
    model = keras.Model(inputs, layers.Add()([x, layers.ReLU()(x)]))
    assert students.cost(model).activation_bytes == 3 * 4 * 4 * 8


def test_the_arena_has_gaps():
    """Buffers of 6, 4, 4 and 8 parts, each alive with the next: see `memory.bytes_needed`.

    The 8 are placed at 0, the 6 as well, as they are gone by then, the later 4 at 8; for the
    earlier 4 the gap between 6 and 8 is too small, so they end at 16, where no more than 12 parts
    are alive at once.
    """
    model = model_of(
        (4, 4, 24),
        layers.Conv2D(16, 1),
        layers.DepthwiseConv2D(1),
        layers.Conv2D(32, 1),
        layers.DepthwiseConv2D(4),
    )
    cost = students.cost(model)
    assert cost.activation_bytes == 12 * 64
    # 96 channels and four ops beside the buffers.
    assert cost.arena_bytes == 16 * 64 + 8 * 96 + 240 * 4 + 500


def test_nested_and_shared_layers_count_their_weights_once():
    inner = model_of((6,), layers.Dense(6, name="inner"))
    inner = keras.Sequential([keras.Input((6,)), inner, layers.Dense(6, name="second")])
    first, second = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    outputs = layers.Concatenate()([inner(first), inner(second)])
    model = keras.Model({"a": first, "b": second}, {"joined": outputs})
    cost = students.cost(model)
    assert (cost.weights, cost.macs) == (72, 144)
    assert cost.parameters == model.count_params() == 84


def test_counting_changes_nothing():
    model = students.ds_cnn(width=0.25)
    model.compile("sgd", loss=lambda y_true, y_pred: y_pred)
    config = model.get_config()
    students.cost(model)
    assert model.get_config() == config
    # Keras refuses to say which output is meant, once a layer has been called again.
    assert all(layer.output is not None for layer in model.layers)


class Scale(keras.layers.Layer):
    """A layer of a user's own."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=input_shape[-1:])

    def call(self, inputs):
        return inputs * self.scale


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "resnet8", "a keras.Model as model. Received: str"),
        (lambda: keras.Sequential([layers.Dense(2)]), "built Functional or Sequential model"),
        (lambda: model_of((None, 3), layers.Conv1D(2, 1)), r"fixed sizes. .*\(None, None, 3\)"),
        (lambda: model_of((3,), Scale(name="own")), "Received: 'own', a Scale"),
        (
            lambda: model_of((3, 4), layers.EinsumDense("abc,cbd->abd", (3, 5), name="odd")),
            "over the last axis, .*'odd' with 'abc,cbd->abd'",
        ),
    ],
)
def test_errors(model, message):
    with pytest.raises(ValueError, match=message):
        students.cost(model())


# -- against conversions ---------------------------------------------------------------------------

CONVERTED = {
    "ds_cnn": lambda: students.ds_cnn(),
    "resnet8": lambda: students.resnet8(),
    "resnet8_large": lambda: students.resnet8(width=2.5),
    "mobilenet_v1": lambda: students.mobilenet_v1(),
    "mobilenet_v1_small": lambda: students.mobilenet_v1((32, 32, 3), 10, total_stride=8),
    "mobilenet_v2": lambda: students.mobilenet_v2(),
    "mobilenet_v2_small": lambda: students.mobilenet_v2((32, 32, 3), 10, total_stride=8),
    "sensor_cnn": lambda: students.sensor_cnn((128, 6), 6),
    "autoencoder": autoencoder,
    "text_transformer": lambda: students.text_transformer(64, 5, vocabulary=1000),
}


def converted(model, rng):
    """The int8 file of a model whose weights look trained: biases that are all 0 are left out."""
    for weight in model.weights:
        if weight.path.endswith(("bias", "beta", "moving_mean")):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    shape = (60, *model.input_shape[1:])
    if "int" in model.inputs[0].dtype:
        return deploy.convert(model, calibration=rng.integers(0, 1000, shape).astype("int32"))
    examples = rng.normal(size=shape).astype("float32")
    return deploy.convert(model, calibration=examples, input_range=(-6, 6))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTED)
def test_against_the_converted_file(name, rng):
    """Weights, MACs and live tensors to the last one; file and arena as `cost` says."""
    model = CONVERTED[name]()
    cost = students.cost(model)
    artifact = converted(model, rng)
    info = deploy.model_info(artifact.content)
    assert sum(macs(info, op) for op in info.ops) == cost.macs
    assert lower_bound(info).arena_bytes == cost.activation_bytes
    assert len(artifact.content) == pytest.approx(cost.int8_bytes, rel=0.02)
    interpreter = deploy.Interpreter(artifact, "tflm")
    # The products of an attention have descriptions of their own, some 200 bytes each.
    rel = 0.03 if name == "text_transformer" else 0.02
    assert interpreter.arena_bytes == pytest.approx(cost.arena_bytes, rel=rel)
    tokens = "int" in model.inputs[0].dtype
    shape = (2, *model.input_shape[1:])
    outputs = interpreter.predict(rng.integers(0, 9, shape) if tokens else rng.normal(size=shape))
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize(
    ("model", "measured"),
    [
        # What TFLM's interpreter took of its arena for the references' own int8 files.
        (lambda: students.ds_cnn(), 24_272),
        (lambda: students.resnet8(), 55_984),
        (lambda: students.resnet8(width=2.5), 133_744),
        pytest.param(lambda: students.mobilenet_v1(), 103_680, marks=pytest.mark.slow),
    ],
)
def test_arenas_of_mlperf_tiny(model, measured):
    assert students.cost(model()).arena_bytes == pytest.approx(measured, rel=0.02)


def test_a_text():
    text = str(students.cost(students.resnet8()))
    assert text.startswith("78,666 parameters, 12,501,632 MACs, about ")
