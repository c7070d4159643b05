"""Whole students on real pictures: the device decides as the quantized Keras model does."""

import importlib.util

import keras
import numpy as np
import pytest

from keras_kd import deploy, students
from keras_kd.quantization import MeanSquaredError, Phases, quantize_aware

# Digits of each test: the standard error of a share of 99 % is .2 %.
COUNT = 2000
# What the issue asks of whole models.
AGREEMENT = 0.99


def load(data_folder, name):
    """Return a dataset's training and test pictures, float32 in 0..255, each with labels."""
    spec = importlib.util.spec_from_file_location("load_data", data_folder / "load_data.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    data = loader.load(name)
    x_train, x_test = (data[key].astype("float32") for key in ("x_train", "x_test"))
    return x_train, data["y_train"], x_test, data["y_test"]


@pytest.fixture(scope="module")
def cifar10(data_folder):
    return load(data_folder, "cifar10")


@pytest.fixture(scope="module")
def digits(data_folder):
    """Return MNIST with pictures of shape [count, 28, 28, 1] in -1..1."""
    x_train, y_train, x, y = load(data_folder, "mnist")
    x = x[:COUNT]
    return x_train[..., None] / 127.5 - 1.0, y_train, x[..., None] / 127.5 - 1.0, y[:COUNT]


def decisions(quantized, x):
    """Return the classes that the Keras model and the device's reference kernels name."""
    artifact = deploy.convert(quantized)
    assert not deploy.model_info(artifact.content).float_tensors
    device = deploy.predict(artifact, x, runtime="litert_reference")
    return quantized.predict(x, verbose=0).argmax(axis=-1), device.argmax(axis=-1)


@pytest.mark.slow
@pytest.mark.data
def test_mlperf_tinys_resnet8(data_folder, cifar10):
    """From its trained weights, after two epochs of training with quantization.

    On all test pictures, as the share is near the bar: 99.2 %, with a standard error of .1 %. With
    ranges up to the largest values, as `MovingAverage` finds them, it was 98.6 % of 4,000: in the
    coarser steps of its logits more pictures lie between two classes. Of the observers above 99 %
    on 4,000 training pictures that these two epochs leave out, this was the most accurate there.
    """
    path = data_folder / "models" / "mlcommons_tiny" / "pretrainedResnet.h5"
    x_train, y_train, x, y = cifar10
    student = keras.saving.load_model(path, compile=False)
    keras.utils.set_random_seed(0)
    quantized = quantize_aware(student, observer=MeanSquaredError(), calibration=x_train[:256])
    optimizer = keras.optimizers.SGD(1e-4, momentum=0.9)
    quantized.compile(optimizer, "sparse_categorical_crossentropy")
    phases = Phases(freeze_ranges_epoch=1, freeze_batch_norm_epoch=1)
    quantized.fit(
        x_train[:12800], y_train[:12800], batch_size=64, epochs=2, verbose=0, callbacks=[phases]
    )
    model, device = decisions(quantized, x)
    assert np.mean(model == device) >= AGREEMENT
    # 87.19 % as published, in float: three standard errors are 1 %.
    assert np.mean(device == y) > 0.872 - 0.01


def ds_cnn():
    return students.ds_cnn((28, 28, 1), 10)


def mobilenet_v1():
    return students.mobilenet_v1((28, 28, 1), 10, width=0.25, total_stride=8)


def mobilenet_v2():
    return students.mobilenet_v2((28, 28, 1), 10, width=0.35, total_stride=16)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("make", "epochs"), [(ds_cnn, 3), (mobilenet_v1, 5), (mobilenet_v2, 5)])
def test_students_of_handwritten_digits(digits, make, epochs):
    """Trained from scratch on 12,800 digits, then for two epochs on half of them as integers."""
    keras.utils.set_random_seed(0)
    x_train, y_train, x, y = digits
    student, count = make(), 12800
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * count // 64)
    student.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    student.fit(x_train[:count], y_train[:count], batch_size=64, epochs=epochs, verbose=0)
    quantized = quantize_aware(student, calibration=x_train[:256])
    quantized.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "sparse_categorical_crossentropy")
    phases = Phases(freeze_ranges_epoch=1, freeze_batch_norm_epoch=1)
    quantized.fit(
        x_train[: count // 2],
        y_train[: count // 2],
        batch_size=64,
        epochs=2,
        verbose=0,
        callbacks=[phases],
    )
    model, device = decisions(quantized, x)
    assert np.mean(model == device) >= AGREEMENT
    # That they have learned is half of the question; all had 97 %.
    assert np.mean(device == y) > 0.95
