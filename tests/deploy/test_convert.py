"""What a conversion keeps, gives and refuses, on one small trained student."""

import dataclasses
import os
import subprocess

import keras
import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy.artifact import write_atomically

INTEGER = ["int8", "int16x8"]
SCHEMES = ["float32", "float16", "dynamic_range", *INTEGER]


def float_outputs(model, x):
    return model.predict(x, verbose=0)


def int8_step(student, x):
    """The outputs' range in 255 steps."""
    return np.ptp(float_outputs(student, x)) / 255


# Rounding to a step is off by 1/sqrt(12) = .29 of it. The input, three layers' outputs and their
# weights are rounded: seven of those, of either sign, make .77 of an output's step. The largest of
# 800 outputs is 3.3 deviations or so off: 2.6, and 3 with some to spare.
INT8_STEPS = 3


# -- values, on the reference kernels --------------------------------------------------------------


def test_float32_equals_keras(student, converted, images):
    outputs = deploy.predict(converted("float32"), images, "litert_reference")
    expected = float_outputs(student, images)
    # Three sums of at most 72 terms, each rounded to 2**-24 of itself and of either sign:
    # 3 * sqrt(72) * 6e-8 = 1.5e-6 of the outputs' size, and several deviations of that.
    assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()


def test_float16_rounds_the_weights_alone(student, converted, images):
    outputs = deploy.predict(converted("float16"), images, "litert_reference")
    expected = float_outputs(student, images)
    error = np.abs(outputs - expected).max()
    # Each weight is off by 2**-11 of itself at most, in three layers one behind the other.
    assert error <= 3 * 2**-11 * np.abs(expected).max()
    # And they are rounded: more than float32 is off.
    assert error > 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("quantization", ["dynamic_range", *INTEGER])
def test_integers_are_a_few_steps_from_keras(student, converted, images, quantization):
    outputs = deploy.predict(converted(quantization), images, "litert_reference")
    error = np.abs(outputs - float_outputs(student, images)).max()
    # int16x8 rounds the weights alone to 8 bits, dynamic range those of one layer and its input.
    steps = {"int8": INT8_STEPS, "int16x8": INT8_STEPS / 2, "dynamic_range": INT8_STEPS / 2}
    assert error <= steps[quantization] * int8_step(student, images)
    # And they are rounded: more than float32 is off.
    assert error > 1e-5 * np.abs(outputs).max()


def test_dynamic_range_has_int8_weights(converted):
    info = deploy.model_info(converted("dynamic_range").content)
    large = [t for t in info.tensors if t.is_constant and np.prod(t.shape) >= 1024]
    assert [t.dtype for t in large] == ["int8"]


@pytest.mark.parametrize("quantization", SCHEMES)
def test_artifact_says_what_it_is(converted, quantization):
    artifact = converted(quantization)
    dtype = {"int8": "int8", "int16x8": "int16"}.get(quantization, "float32")
    assert [(t.name, t.shape, t.dtype) for t in artifact.inputs] == [("image", (1, 8, 8, 1), dtype)]
    assert [(t.name, t.shape, t.dtype) for t in artifact.outputs] == [("output_0", (1, 4), dtype)]
    assert artifact.quantization == quantization
    assert artifact.size_bytes == len(artifact.content)
    assert artifact.calibration_examples == (200 if quantization in INTEGER else 0)
    scales = [t.scale for t in artifact.inputs + artifact.outputs]
    assert all(scale is None for scale in scales) == (quantization not in INTEGER)
    if quantization == "int8":
        # The calibration spans 0..1 in 255 steps; its smallest value is just above 0 and its
        # largest just below 1.
        assert artifact.inputs[0].scale == pytest.approx(1 / 255, rel=1e-2)
        assert artifact.inputs[0].zero_point == -128


def test_integer_models_have_no_float_tensor(converted):
    for quantization in INTEGER:
        assert deploy.model_info(converted(quantization).content).float_tensors == ()


def test_an_int8_student_has_few_ops(converted):
    """The BatchNormalization and the ReLU are folded into the convolution."""
    counts = deploy.model_info(converted("int8").content).op_counts
    assert [(op.name, op.count) for op in counts] == [
        ("CONV_2D", 1),
        ("MAX_POOL_2D", 1),
        ("RESHAPE", 1),
        ("FULLY_CONNECTED", 2),
    ]


# -- what a conversion leaves alone ----------------------------------------------------------------


def test_same_bytes_again_and_the_student_as_it_was(
    student, converted, images, tmp_path, monkeypatch, capfd
):
    """One more conversion, watched: the bytes, the student, the folder, the terminal."""
    monkeypatch.chdir(tmp_path)
    before = {v.path: v.numpy() for v in student.variables}
    losses, trainable, config = student.losses, student.trainable, student.get_config()
    path = tmp_path / "out" / "student.tflite"
    path.parent.mkdir()
    capfd.readouterr()
    artifact = deploy.convert(student, path, "int8", images)
    assert capfd.readouterr() == ("", "")
    assert artifact.content == converted("int8").content
    assert path.read_bytes() == artifact.content
    assert artifact.path == path
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["out", "student.tflite"]
    after = {v.path: v.numpy() for v in student.variables}
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (student.losses, student.trainable, student.get_config()) == (losses, trainable, config)


def test_save_and_load(converted, tmp_path):
    artifact = converted("int8")
    saved = artifact.save(tmp_path / "student.tflite")
    assert saved == dataclasses.replace(artifact, path=tmp_path / "student.tflite")
    # How many examples it was calibrated with is not in the file.
    assert deploy.Artifact.load(saved.path) == dataclasses.replace(saved, calibration_examples=None)


@pytest.mark.parametrize("quantization", SCHEMES)
def test_load_tells_the_scheme(converted, tmp_path, quantization):
    path = converted(quantization).save(tmp_path / "student.tflite").path
    assert deploy.Artifact.load(path).quantization == quantization


def test_a_failed_write_leaves_the_old_file(converted, tmp_path, monkeypatch):
    path = tmp_path / "student.tflite"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        converted("int8").save(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["student.tflite"]


# -- options ---------------------------------------------------------------------------------------


def test_uint8_in_and_float_out(student, images):
    artifact = deploy.convert(
        student, calibration=images, input_dtype="uint8", output_dtype="float32"
    )
    assert (artifact.inputs[0].dtype, artifact.outputs[0].dtype) == ("uint8", "float32")
    assert artifact.inputs[0].zero_point == 0
    outputs = deploy.predict(artifact, images, "litert_reference")
    error = np.abs(outputs - float_outputs(student, images)).max()
    assert error <= INT8_STEPS * int8_step(student, images)


def test_dense_weights_with_one_scale(student, converted, images):
    """The private flag does what it is for: one scale where there was one for each unit."""
    artifact = deploy.convert(student, calibration=images, per_channel_dense=False)

    def dense_scales(content):
        info = deploy.model_info(content)
        ops = [op for op in info.ops if op.name == "FULLY_CONNECTED"]
        return [len(info.tensor(op.inputs[1]).scales) for op in ops]

    assert dense_scales(converted("int8").content) == [32, 4]
    assert dense_scales(artifact.content) == [1, 1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quantization": "int4"}, ValueError, "Expected quantization in float32"),
        ({}, ValueError, r"Expected calibration for quantization='int8'.*Hint"),
        ({"quantization": "int16x8"}, ValueError, "Expected calibration for quantization"),
        ({"quantization": "float32", "calibration": 1}, ValueError, "Expected no calibration"),
        ({"quantization": "float16", "input_range": (0, 1)}, ValueError, "Expected input_range"),
        ({"quantization": "float32", "allow_float": "x"}, ValueError, "Expected allow_float only"),
        ({"quantization": "float16", "per_channel_dense": False}, ValueError, "per_channel_dense"),
        ({"quantization": "float32", "input_dtype": "int8"}, ValueError, "Expected input_dtype in"),
        ({"quantization": "float32", "timeout_s": 0}, ValueError, "timeout_s > 0"),
        ({"calibration": 1, "output_dtype": "int16"}, ValueError, "Expected output_dtype in int8"),
        ({"calibration": 1, "input_dtype": "int64"}, ValueError, "Expected input_dtype in int8"),
        (
            {"calibration": 1, "quantization": "int16x8", "input_dtype": "uint8"},
            ValueError,
            "Expected input_dtype in int16, float32",
        ),
        ({"calibration": 1, "allow_float": (1,)}, TypeError, "Expected allow_float to hold names"),
    ],
)
def test_options_that_do_not_fit_are_refused(student, options, error, message):
    with pytest.raises(error, match=message):
        deploy.convert(student, **options)


def test_no_keras_model():
    with pytest.raises(TypeError, match=r"Expected a keras\.Model as student\. Received: Dense"):
        deploy.convert(keras.layers.Dense(2), quantization="float32")


@pytest.mark.parametrize("place", ["missing/student.tflite", "file/student.tflite", "."])
def test_a_path_that_cannot_be_written_is_known_first(student, tmp_path, place, monkeypatch):
    (tmp_path / "file").touch()
    # No child process: the error comes before any conversion.
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(OSError, match=r"Expected .* Received: .* Hint:"):
        deploy.convert(student, tmp_path / place, quantization="float32")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_disk_that_is_full_leaves_the_older_file_whole(tmp_path):
    resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")
    path = tmp_path / "student.tflite"
    write_atomically(path, b"older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses to write on, as it does where no space is left.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"room for 2,000 bytes at '.*student\.tflite'"):
            write_atomically(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["student.tflite"]
