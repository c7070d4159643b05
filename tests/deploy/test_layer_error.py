"""Which layer is named as the worst, and whether the decibels are right."""

import dataclasses
import math
import sys

import keras
import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy import layer_error
from keras_kd.deploy.layer_error import layer_errors, sqnr_db, worst
from keras_kd.deploy.twin_tensors import twin_inputs

SCHEMES = ("int8", "int16x8", "float16", "dynamic_range")


def int8_of(student, x, **options):
    return deploy.convert(student, calibration=x, input_range=(-1, 1), **options)


def by_layer(errors):
    return {layer: error for error in errors for layer in error.layers}


# -- the formula -----------------------------------------------------------------------------------


def test_decibels():
    assert sqnr_db(100.0, 1.0) == pytest.approx(20.0)
    assert sqnr_db(3.0, 6.0) == pytest.approx(-10 * math.log10(2))
    assert sqnr_db(5.0, 0.0) == sqnr_db(0.0, 0.0) == math.inf
    assert sqnr_db(0.0, 1.0) == -math.inf
    for signal, noise in ((-1.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="sums of squares"):
            sqnr_db(signal, noise)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_last_layers_error_is_that_of_the_predictions(student, converted, images, scheme):
    x = images[:6]
    exact = deploy.predict(converted("float32"), x, "litert_reference").astype("float64")
    found = deploy.predict(converted(scheme), x, "litert_reference").astype("float64")
    errors = layer_errors(student, converted(scheme), x, reference=converted("float32"))
    assert errors[-1].layers == ("logits",)
    # The same kernels on the same numbers; sums of float64 in another order.
    assert errors[-1].sqnr_db == pytest.approx(
        10 * np.log10(np.sum(exact**2) / np.sum((exact - found) ** 2)), rel=1e-9
    )


@pytest.mark.slow
def test_an_error_of_one_layer_by_hand():
    """Weights of 1, 0 and -1 are exact in int8, so all that is left is the rounding."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((16,))
    layer = keras.layers.Dense(32, use_bias=False, name="only")
    student = keras.Model(inputs, layer(inputs))
    layer.set_weights([rng.integers(-1, 2, (16, 32)).astype("float32")])
    x = rng.uniform(-1, 1, (200, 16)).astype("float32")
    artifact = int8_of(student, x)
    given, only = layer_errors(student, artifact, x)
    (source,), (result,) = artifact.inputs, artifact.outputs
    signal = np.sum((x.astype("float64") @ layer.get_weights()[0]) ** 2)
    # A number rounded to a grid of that step is off by step^2 / 12 in the mean, over 6400 numbers
    # to 1.1 % of it (the spread of a square is .89 of its mean), and its float signal is not the
    # rounded inputs' by at most 1 %. So .15 dB is more than three times what chance does.
    noise = 200 * 32 * result.scale**2 / 12
    assert only.own_sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.15)
    assert (only.layers, only.op.name, only.out_of_range) == (("only",), "FULLY_CONNECTED", 0.0)
    noise = 200 * 16 * source.scale**2 / 12
    assert given.sqnr_db == given.own_sqnr_db
    assert given.sqnr_db == pytest.approx(10 * np.log10(np.sum(x**2.0) / noise), abs=0.2)
    assert (given.op, given.layers) == (None, ())
    # The rounding of the inputs reaches the output, and is none of the layer's own.
    assert only.sqnr_db < only.own_sqnr_db


# -- which layer hurts -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three():
    """Three Dense layers and inputs in -1..1."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,), name="x")
    x = keras.layers.Dense(32, activation="relu", name="first")(inputs)
    x = keras.layers.Dense(32, activation="relu", name="second")(x)
    student = keras.Model(inputs, keras.layers.Dense(8, name="third")(x))
    rng = np.random.default_rng(0)
    return student, rng.uniform(-1, 1, (100, 16)).astype("float32")


def test_a_spoiled_layer_is_the_worst(three):
    """One large weight takes the scale of all others, where a layer has one scale for all."""
    student, x = three
    spoiled = keras.models.clone_model(student)
    spoiled.set_weights(student.get_weights())
    kernel, bias = spoiled.get_layer("second").get_weights()
    # The outlier's output is negative, so ReLU takes it away and only the scale stays.
    kernel[:, 0] = -60.0
    spoiled.get_layer("second").set_weights([kernel, bias])
    artifact = int8_of(spoiled, x, per_channel_dense=False)
    errors = layer_errors(spoiled, artifact, x[:20])
    after = by_layer(errors)
    assert worst(errors).layers == ("second",)
    # 60 is more than 100 times the other weights, so 40 dB; what rounds to 0 is lost altogether.
    for layer in ("first", "third"):
        assert after[layer].own_sqnr_db > after["second"].own_sqnr_db + 20
    # What comes behind inherits the error and has no part in it.
    assert after["third"].sqnr_db < after["third"].own_sqnr_db - 20


@pytest.mark.slow
def test_a_range_that_is_too_small_is_named():
    """Calibrated on inputs that cancel each other, the first layer's range is far too small."""
    inputs = keras.Input((2,), name="x")
    x = keras.layers.Dense(4, use_bias=False, name="sum")(inputs)
    student = keras.Model(inputs, keras.layers.Dense(3, use_bias=False, name="behind")(x))
    rng = np.random.default_rng(0)
    student.get_layer("sum").set_weights([np.ones((2, 4), "float32")])
    half = rng.uniform(-1, 1, (100, 1)).astype("float32")
    near = np.clip(-half + rng.normal(0, 0.05, half.shape), -1, 1).astype("float32")
    artifact = int8_of(student, np.hstack([half, near]))
    errors = layer_errors(student, artifact, np.hstack([half, half]))
    found = by_layer(errors)
    assert worst(errors).layers == ("sum",)
    assert found["sum"].out_of_range > 0.5
    assert errors[0].out_of_range == 0.0
    # The layer behind can hold no more, but of what it is handed it makes no new error.
    assert found["behind"].out_of_range > 0.5
    assert found["behind"].own_sqnr_db > found["sum"].own_sqnr_db + 20


def test_inputs_outside_of_the_calibrated_range_are_named(student, converted, images):
    errors = layer_errors(
        student, converted("int8"), 3 * images[:5], reference=converted("float32")
    )
    # Inputs in 0..3 on a range of 0..1: of the blobs, which fill a quarter, all lie outside.
    assert errors[0].op is None
    assert errors[0].out_of_range > 0.25
    assert worst(errors) == errors[0]


# -- schemes and structure -------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_layer_is_there_once(student, converted, images, scheme):
    errors = layer_errors(student, converted(scheme), images[:2], reference=converted("float32"))
    layers = [layer for error in errors if error.op is not None for layer in error.layers]
    assert {"conv", "hidden", "logits"} <= set(layers)
    assert len([error for error in errors if "hidden" in error.layers]) == 1
    assert all(error.own_sqnr_db is not None for error in errors)
    assert (errors[0].op is None) == (scheme in ("int8", "int16x8"))
    own = by_layer(errors)["hidden"].own_sqnr_db
    # Weights of 8 bits cost tens of decibels, those of float16 (11 bits) 60 and more.
    assert 20 < own < 60 if scheme != "float16" else 60 < own < 100


def test_more_bits_are_nearer(student, converted, images):
    last = [
        layer_errors(student, converted(s), images[:5], reference=converted("float32"))[-1].sqnr_db
        for s in ("int8", "int16x8", "float16")
    ]
    assert last == sorted(last)


@pytest.mark.slow
def test_a_float_interface_changes_no_layers_own_error(student, converted, images):
    artifact = deploy.convert(
        student, calibration=images, input_dtype="float32", output_dtype="float32"
    )
    inside = layer_errors(student, artifact, images[:3], reference=converted("float32"))
    plain = layer_errors(student, converted("int8"), images[:3], reference=converted("float32"))
    assert inside[0].op.name == "QUANTIZE"
    assert inside[-1].op.name == "DEQUANTIZE"
    assert inside[0].sqnr_db == plain[0].sqnr_db
    assert inside[-1].own_sqnr_db == math.inf
    assert [error.own_sqnr_db for error in inside[1:-1]] == [
        error.own_sqnr_db for error in plain[1:]
    ]


@pytest.mark.slow
def test_branches_joins_and_several_inputs():
    keras.utils.set_random_seed(0)
    a, b = keras.Input((6, 6, 2), name="a"), keras.Input((4,), name="b")
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(a)
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    z = keras.layers.Concatenate(name="join")([x, y, keras.layers.Add(name="add")([x, y])])
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(z)
    both = keras.layers.Concatenate(name="both")([pooled, b])
    student = keras.Model([a, b], keras.layers.Dense(3, activation="softmax", name="out")(both))
    rng = np.random.default_rng(0)
    x = {
        "a": rng.uniform(-1, 1, (60, 6, 6, 2)).astype("float32"),
        "b": rng.uniform(-1, 1, (60, 4)).astype("float32"),
    }
    reference = deploy.convert(student, quantization="float32")
    for scheme in ("int8", "int16x8"):
        artifact = deploy.convert(
            student,
            quantization=scheme,
            calibration=x,
            input_range={"a": (-1, 1), "b": (-1, 1)},
        )
        few = {name: values[:3] for name, values in x.items()}
        errors = layer_errors(student, artifact, few, reference=reference)
        ops = deploy.model_info(artifact.content).ops
        assert [error.op for error in errors if error.op is not None] == list(ops)
        assert [error.own_sqnr_db for error in errors if error.own_sqnr_db is None] == []
        assert {"conv", "depthwise", "join", "add", "pool", "both", "out"} <= set(by_layer(errors))
        assert all(error.own_sqnr_db > 20 for error in errors)


def test_a_float_conversion_is_made_where_none_is_given(student, converted, images, monkeypatch):
    made = []

    def convert(*arguments, **options):
        made.append(options)
        return converted("float32")

    # Its name in the package is the function's, which hides the module.
    monkeypatch.setattr(sys.modules["keras_kd.deploy.convert"], "convert", convert)
    layer_errors(student, converted("int8"), images[:1])
    assert made == [{"quantization": "float32"}]


def test_a_student_that_was_loaded_again_has_another_input_name(tmp_path, rng):
    student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="only")])
    x = rng.normal(size=(60, 6)).astype("float32")
    artifact = deploy.convert(student, calibration=x)
    student.save(tmp_path / "student.keras")
    keras.utils.clear_session(free_memory=False)
    keras.Input((1,))  # It takes the first number.
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    assert loaded.inputs[0].name != student.inputs[0].name
    again = layer_errors(loaded, artifact, x[:8])
    before = layer_errors(student, artifact, x[:8])
    assert [error.sqnr_db for error in again] == [error.sqnr_db for error in before]
    assert ("only",) in [error.layers for error in again]


def test_no_op_is_worst_of_none(student, converted, images):
    errors = layer_errors(student, converted("int8"), images[:1], reference=converted("float32"))
    none_alone = [dataclasses.replace(error, own_sqnr_db=None) for error in errors]
    assert worst(none_alone).sqnr_db == min(error.sqnr_db for error in errors)
    with pytest.raises(ValueError, match="at least one LayerError"):
        worst([])


# -- bad arguments ---------------------------------------------------------------------------------


def test_what_is_refused(student, converted, images):
    exact, artifact = converted("float32"), converted("int8")
    x = images[:1]
    with pytest.raises(TypeError, match=r"keras\.Model as student"):
        layer_errors("student", artifact, x)
    with pytest.raises(TypeError, match=r"Artifact\.load"):
        layer_errors(student, artifact.content, x)
    with pytest.raises(ValueError, match="quantized artifact"):
        layer_errors(student, exact, x)
    with pytest.raises(ValueError, match=r"float32 artifact as reference\. Received: int8"):
        layer_errors(student, artifact, x, reference=artifact)
    for wrong in (images[:0], images[:1, :4], images[0]):
        with pytest.raises(ValueError, match="at least one example, shape"):
            layer_errors(student, artifact, wrong, reference=exact)
    with pytest.raises(ValueError, match="NaN"):
        layer_errors(student, artifact, np.full_like(x, np.nan), reference=exact)


def test_files_of_two_students_are_refused(student, converted, images, by_hand):
    other = deploy.Artifact(
        by_hand.chain(["RELU"], [by_hand.tensor(n, dtype="FLOAT32", scale=None) for n in "ab"]),
        "float32",
        (),
        (),
    )
    with pytest.raises(ValueError, match=r"shape \(examples, 4\), for input 'a'"):
        layer_errors(student, converted("int8"), images[:1], reference=other)
    quantized = deploy.Artifact(
        by_hand.chain(["RELU6"], [by_hand.tensor(n) for n in "ab"]), "int8", (), ()
    )
    with pytest.raises(ValueError, match="no tensor in common"):
        layer_errors(student, quantized, np.zeros((1, 4), "float32"), reference=other)


def test_several_inputs_have_to_be_the_same():
    class Two:
        inputs = tuple(deploy.TensorInfo(name, (1, 2), "float32") for name in "ab")

    class Others:
        inputs = tuple(deploy.TensorInfo(name, (1, 2), "int8", 0.5, 0) for name in "ac")

    assert twin_inputs(Two, Two) == {"a": "a", "b": "b"}
    with pytest.raises(ValueError, match="Expected the reference's inputs, a, b, in the artifact"):
        twin_inputs(Two, Others)


def test_examples_of_two_lengths_are_refused():
    class Both:
        inputs = (
            deploy.TensorInfo("a", (1, 2), "float32"),
            deploy.TensorInfo("b", (1, 2), "float32"),
        )

    with pytest.raises(ValueError, match="Expected inputs of one length"):
        layer_error._examples({"a": np.zeros((2, 2)), "b": np.zeros((3, 2))}, Both)
