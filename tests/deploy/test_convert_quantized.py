"""Students that were trained with quantization: their ranges are taken, and none but theirs."""

import keras
import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.quantization import quantize_aware


def float_student(shape=(6,)):
    inputs = keras.Input(shape, name="signal")
    x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="outputs")(x))


@pytest.fixture
def x(rng):
    return rng.normal(size=(64, 6)).astype("float32")


@pytest.fixture
def student(x):
    return quantize_aware(float_student(), calibration=x)


@pytest.mark.parametrize(
    ("input_dtype", "output_dtype"), [(None, None), ("uint8", "uint8"), ("float32", "float32")]
)
def test_the_trained_ranges_are_those_of_the_file(student, x, input_dtype, output_dtype):
    artifact = deploy.convert(student, input_dtype=input_dtype, output_dtype=output_dtype)
    assert artifact.calibration_examples == 0
    assert artifact.inputs[0].dtype == (input_dtype or "int8")
    assert artifact.outputs[0].dtype == (output_dtype or "int8")
    if input_dtype != "float32":
        low, high = (float(end) for end in student.get_layer("signal_range").ends())
        # float32 in the file as in the layer.
        assert artifact.inputs[0].scale == pytest.approx((high - low) / 255, rel=1e-6)
    found = deploy.predict(artifact, x, runtime="litert_reference")
    step = float(np.ptp([float(end) for end in student.get_layer("outputs_range").ends()])) / 255
    assert np.abs(found - student.predict(x, verbose=0)).max() < 1.5 * step


@pytest.mark.parametrize("ends", [None, "float32"])
def test_ranges_of_16_bits_are_those_of_the_file(x, ends):
    student = quantize_aware(float_student(), scheme="int16x8", calibration=x)
    artifact = deploy.convert(student, quantization="int16x8", input_dtype=ends, output_dtype=ends)
    info = deploy.model_info(artifact.content)
    assert [op.name for op in info.ops if "QUANTIZE" not in op.name] == ["FULLY_CONNECTED"] * 2
    assert (artifact.quantization, artifact.calibration_examples) == ("int16x8", 0)
    assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == (ends or "int16")
    assert artifact.inputs[0].name == "signal"
    steps = {t.name: t.scales[0] for t in info.tensors if t.dtype == "int16"}
    layers = ("signal_range", "hidden_relu_range", "outputs_range")
    wanted = [float(student.get_layer(name).ends()[1]) for name in layers]
    # float32 in the file as in the layer.
    np.testing.assert_allclose(sorted(steps.values()), np.sort(wanted) / 32767, rtol=1e-6)
    found = deploy.predict(artifact, x, runtime="litert_reference")
    step = wanted[2] / 32767
    # One step of the hidden layer, of eight values times weights below 1, and one of the outputs.
    atol = 1.5 * step + 8 * wanted[1] / 32767
    assert np.abs(found - student.predict(x, verbose=0)).max() < atol


def test_ranges_of_16_bits_are_not_those_of_int8(x):
    student = quantize_aware(float_student(), scheme="int16x8", calibration=x)
    with pytest.raises(ValueError, match=r"quantization='int16x8' without .*Received: .*'int8'"):
        deploy.convert(student)
    with pytest.raises(ValueError, match="Received: quantization='int16x8' and calibration"):
        deploy.convert(student, quantization="int16x8", calibration=x)
    student = quantize_aware(float_student(), calibration=x)
    with pytest.raises(ValueError, match=r"quantization='int8' without .*Received: .*'int16x8'"):
        deploy.convert(student, quantization="int16x8")


def test_ranges_from_two_places_are_refused(student, x):
    with pytest.raises(ValueError, match=r"carries its ranges.*'int8' and calibration"):
        deploy.convert(student, calibration=x)


@pytest.mark.parametrize("quantization", ["float32", "float16", "dynamic_range"])
def test_another_scheme_is_refused(student, quantization):
    with pytest.raises(ValueError, match=rf"carries its ranges.*'{quantization}'"):
        deploy.convert(student, quantization=quantization)


def test_ranges_that_were_never_seen_are_refused():
    with pytest.raises(ValueError, match=r"NaN or infinity in .*signal_range/range"):
        deploy.convert(quantize_aware(float_student()))


def test_weights_that_training_spoiled_are_refused(x):
    student = float_student()
    student.get_layer("hidden").bias.assign(np.full(8, np.inf))
    with pytest.raises(ValueError, match=r"NaN or infinity in hidden/bias"):
        deploy.convert(student, calibration=x)


def test_a_student_in_mixed_precision_is_converted_too(x):
    keras.config.set_dtype_policy("mixed_float16")
    student = quantize_aware(float_student(), calibration=x)
    artifact = deploy.convert(student)
    assert not deploy.model_info(artifact.content).float_tensors
    found = deploy.predict(artifact, x)
    said = student.predict(x, verbose=0).astype("float32")
    # float16 has 11 bits: values below 4 are off by 2e-3 at most, twice in a row; a step is more.
    assert np.abs(found - said).max() < 2 * artifact.outputs[0].scale


def test_a_layer_that_stays_float_is_named_in_both_places(x):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    normal = keras.layers.LayerNormalization(name="normal")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(3, name="outputs")(normal))
    student = quantize_aware(model, keep_float=["normal"], calibration=x)
    with pytest.raises(deploy.ConversionError, match="float tensors"):
        deploy.convert(student)
    artifact = deploy.convert(student, allow_float=["normal"])
    ops = [op.name for op in deploy.model_info(artifact.content).ops]
    assert {"DEQUANTIZE", "FULLY_CONNECTED", "QUANTIZE"} <= set(ops)
    found = deploy.predict(artifact, x, runtime="litert_reference")
    # Eight hidden values may each be a step off, which is 1/255 of a range of some six standard
    # deviations, of which the normalization makes .024; times weights below 1.
    assert np.abs(found - student.predict(x, verbose=0)).max() < 8 * 0.024
