"""Which integers a student is made of, by name or in parts."""

import keras
import numpy as np
import pytest

from keras_kd.quantization import (
    SCHEMES,
    FakeQuantize,
    MinMax,
    Quantized,
    Scheme,
    calibrate,
    quantize_aware,
)
from tests.quantization.on_device import trained


def student():
    inputs = keras.Input((6,), name="signal")
    x = keras.layers.Dense(8, activation="tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="outputs")(x))


def test_they_are_called_by_their_names():
    assert all(scheme.name == name for name, scheme in SCHEMES.items())
    with pytest.raises(ValueError, match=r"a scheme of int8, .*int16x8\. Received: 'int4'"):
        quantize_aware(student(), scheme="int4")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"weight_bits": 2}, "weight_bits to be 4 or 8. Received: 2"),
        ({"activation_bits": 12}, "activation_bits to be 8 or 16. Received: 12"),
        ({"weight_bits": 4, "activation_bits": 16}, "weight_bits=8 for activations of 16"),
    ],
)
def test_parts_that_no_runtime_has_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Scheme("mine", **parts)


@pytest.mark.parametrize("scheme", [*SCHEMES, Scheme("mine", per_channel=False)], ids=str)
def test_its_bits_are_those_of_the_layers(scheme):
    quantized = quantize_aware(student(), scheme=scheme)
    scheme = SCHEMES.get(scheme, scheme)
    ranges = [layer.bits for layer in quantized.layers if isinstance(layer, FakeQuantize)]
    assert set(ranges) == {scheme.activation_bits}
    kernels = [layer for layer in quantized.layers if isinstance(layer, Quantized)]
    assert {layer.bits for layer in kernels} == {scheme.weight_bits}
    assert {layer.per_channel for layer in kernels} == {scheme.per_channel}


def test_16_bits_are_next_to_float(rng):
    model = trained(student(), rng)
    x = rng.normal(size=(64, 6)).astype("float32")
    errors = {}
    for scheme in ("int8", "int16x8"):
        # Of all that was seen, so that nothing is clipped.
        quantized = quantize_aware(model, scheme=scheme, observer=MinMax())
        for layer in quantized.layers:
            if isinstance(layer, Quantized):
                # So many steps that only the activations' rounding is left.
                layer.bits = 16
        calibrate(quantized, x)
        errors[scheme] = np.abs(quantized.predict(x, verbose=0) - model.predict(x, verbose=0)).max()
    # 257 times as many steps; the fixed ranges of tanh and softmax are twice and four times as
    # long as with 8 bits, which use one side of 0.
    assert errors["int16x8"] < errors["int8"] / 30


def test_functions_have_the_ranges_of_the_runtime():
    quantized = quantize_aware(student(), scheme="int16x8")
    for name in ("hidden_tanh_range", "outputs_softmax_range"):
        layer = quantized.get_layer(name)
        low, high = (float(end) for end in layer.ends())
        assert (low, high) == (-1.0, 1.0 - 2.0**-15)


def test_it_trains_and_comes_back_from_its_file(rng, tmp_path):
    x, y = rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 3, 64)
    quantized = quantize_aware(student(), scheme="int16x8", calibration=x)
    quantized.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    losses = quantized.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    quantized.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), quantized.predict(x, verbose=0))
