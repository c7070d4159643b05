"""One small student and its conversions, each made once a session: a conversion takes seconds."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest

from keras_kd import deploy


def make_images(count, seed=0):
    """Blobs of one of four kinds on a noisy ground, in 0..1, and the kinds."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, count)
    images = rng.uniform(0.0, 0.4, (count, 8, 8, 1))
    for image, kind in zip(images, kinds, strict=True):
        row, column = divmod(int(kind), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.6
    return images.astype("float32"), kinds


@pytest.fixture(scope="session")
def images():
    """Two hundred images in 0..1, shape [200, 8, 8, 1]."""
    return make_images(200)[0]


@pytest.fixture(scope="session")
def labels():
    """Their classes."""
    return make_images(200)[1]


def convolutional(name="tiny"):
    """Convolution, BatchNormalization, ReLU, pooling, and two Dense layers."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(8, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.MaxPooling2D(name="pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    # 72 * 32 weights: the dynamic-range scheme leaves constants below 1024 elements alone.
    x = keras.layers.Dense(32, activation="relu", name="hidden")(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="logits")(x), name=name)


def trained(model, x, y, epochs=4):
    """The model after a few epochs, so that its BatchNormalization remembers x."""
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=20, epochs=epochs, verbose=0)
    return model


@pytest.fixture(scope="session")
def student(images, labels):
    """A student trained on images in 0..1."""
    keras.utils.set_random_seed(0)
    return trained(convolutional(), images, labels)


@pytest.fixture(scope="session")
def student_255(images, labels):
    """The same, trained on images in 0..255."""
    keras.utils.set_random_seed(0)
    return trained(convolutional(), images * 255, labels)


@pytest.fixture(scope="session")
def converted(student, images):
    """A function from a scheme to the student's artifact, each converted once."""
    made = {}

    def artifact(quantization):
        if quantization not in made:
            calibration = images if quantization in ("int8", "int16x8") else None
            made[quantization] = deploy.convert(
                student, quantization=quantization, calibration=calibration
            )
        return made[quantization]

    return artifact


@pytest.fixture(scope="session")
def by_hand():
    """The module that makes flatbuffers."""
    return _module("flatbuffers_by_hand")


@pytest.fixture(scope="session")
def ops_by_hand():
    """The module that makes models of one op."""
    return _module("ops_by_hand")


def _module(name):
    """A helper of these tests: they are no package, so it is loaded from its file."""
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
