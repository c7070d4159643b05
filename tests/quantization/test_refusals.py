"""What cannot be quantized is refused by name, with the reason."""

import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_kd import deploy, quantization
from tests.quantization.on_device import check_alike, examples_for, steps_apart, trained

layers = keras.layers


def attention(x):
    return layers.MultiHeadAttention(2, 4, name="it")(x, x)


REFUSED = {
    "elu": ((4,), layers.ELU(name="it"), "in float"),
    "activation": ((4,), layers.Activation("softplus", name="it"), "of softplus: .* in float"),
    "relu_from": ((4,), layers.ReLU(threshold=1.0, name="it"), "of these arguments: .* in float"),
    "layer_norm": ((4,), layers.LayerNormalization(name="it"), "more than a step"),
    "group_norm": ((4, 4, 8), layers.GroupNormalization(4, name="it"), "more than a step"),
    "rms_norm": ((4,), layers.RMSNormalization(name="it"), "more than a step"),
    "attention": ((6, 8), attention, "more than a step"),
    "lstm": ((6, 4), layers.LSTM(3, name="it"), "a range in every step"),
    "gru": ((6, 4), layers.GRU(3, name="it"), "a range in every step"),
    "masking": ((6, 4), layers.Masking(name="it"), "no masks"),
    "lambda": ((4,), layers.Lambda(lambda x: x, name="it"), "not known"),
    "norm_axis": ((4, 4, 3), layers.BatchNormalization(axis=1, name="it"), "not the last"),
    "norm_3d": ((2, 2, 2, 3), layers.BatchNormalization(name="it"), "at most four axes"),
    "rescaling": ((2, 3), layers.Rescaling([[1.0], [2.0]], 0.5, name="it"), "each channel"),
    "bicubic": ((4, 4, 3), layers.Resizing(8, 8, "bicubic", name="it"), "no bicubic"),
    "cropped": (
        (4, 4, 3),
        layers.Resizing(8, 6, crop_to_aspect_ratio=True, name="it"),
        "more than resize",
    ),
    "channels_first": (
        (3, 8, 8),
        layers.MaxPooling2D(data_format="channels_first", name="it"),
        "channels last",
    ),
    "kernel_channels_first": (
        (3, 8, 8),
        lambda x: layers.Flatten()(
            layers.ZeroPadding2D(1, data_format="channels_first", name="it")(x)
        ),
        "channels last",
    ),
    "float_tokens": ((6,), layers.Embedding(5, 4, name="it"), 'dtype="int32"'),
    "operation": ((4,), ops.erf, r"'erf\w*' \(Erf\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_and_with_the_reason(case):
    shape, layer, reason = REFUSED[case]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    name = "" if case == "operation" else re.escape("'it' (")
    with pytest.raises(ValueError, match=f"{name}.*{reason}"):
        quantization.quantize_aware(model)


REFUSED_IN_INT16 = {
    "prelu": ((4,), layers.PReLU(name="it"), "slopes of 8 bits"),
    "hard_silu": ((4,), layers.Activation("hard_silu", name="it"), "hard_silu: .* no kernel"),
    "log_softmax": ((4,), layers.Activation("log_softmax", name="it"), "log_softmax: .* no kernel"),
    "to_any_size": ((4, 4, 3), layers.Resizing(8, 5, name="it"), "by a power of 2"),
    "by_3": ((4, 4, 3), layers.UpSampling2D(3, interpolation="bilinear", name="it"), "power of 2"),
}


@pytest.mark.parametrize("case", REFUSED_IN_INT16)
def test_refused_in_int16_alone(case):
    shape, layer, reason = REFUSED_IN_INT16[case]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ValueError, match=rf"'it' \(.*{reason}"):
        quantization.quantize_aware(model, scheme="int16x8")
    assert quantization.is_quantized(quantization.quantize_aware(model))
    kept = quantization.quantize_aware(model, scheme="int16x8", keep_float=["it"])
    assert quantization.is_quantized(kept)


def test_enlarging_by_a_power_of_two_is_not_refused_in_int16():
    inputs = keras.Input((3, 5, 3))
    outputs = layers.UpSampling2D((2, 4), interpolation="bilinear")(inputs)
    model = keras.Model(inputs, layers.Resizing(12, 20)(outputs))
    assert quantization.is_quantized(quantization.quantize_aware(model, scheme="int16x8"))


def test_masked_tokens_and_integers_are_refused():
    tokens = keras.Input((6,), dtype="int32")
    with pytest.raises(ValueError, match=r"'it' .*no masks: mask_zero=False"):
        quantization.quantize_aware(
            keras.Model(tokens, layers.Embedding(5, 4, mask_zero=True, name="it")(tokens))
        )
    with pytest.raises(ValueError, match=r"'it' .*reads integers"):
        quantization.quantize_aware(keras.Model(tokens, layers.Rescaling(0.5, name="it")(tokens)))


def test_a_subclassed_model_inside_is_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return 2.0 * inputs

    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3)(Own(name="own")(inputs)))
    with pytest.raises(ValueError, match=r"'own' \(Own: it has a call of its own: rebuild it"):
        quantization.quantize_aware(model)
    assert quantization.quantize_aware(model, keep_float="own").get_layer("own_range")


def test_all_of_them_are_named_at_once():
    inputs = keras.Input((6, 4))
    x = layers.ELU(name="first")(inputs)
    model = keras.Model(inputs, layers.LSTM(3, name="second")(x))
    with pytest.raises(ValueError, match=r"'first' .*'second' .*keep_float="):
        quantization.quantize_aware(model)


def test_layers_stay_float_from_end_to_end():
    rng = np.random.default_rng(0)
    inputs = keras.Input((6, 8))
    outputs = {
        "normalized": layers.Dense(5)(layers.LayerNormalization()(inputs)),
        "attended": layers.MultiHeadAttention(2, 4)(inputs, inputs),
    }
    model = trained(keras.Model(inputs, outputs), rng)
    x = examples_for(model, rng)
    kept = ["LayerNormalization", "MultiHeadAttention"]
    quantized = quantization.quantize_aware(model, calibration=x, keep_float=kept)
    with pytest.raises(deploy.ConversionError, match="float tensors"):
        deploy.convert(quantized)
    artifact = deploy.convert(quantized, allow_float=kept)
    assert {t.dtype for t in artifact.inputs + artifact.outputs} == {"int8"}
    for steps in steps_apart(quantized, x, artifact).values():
        check_alike(steps)
