"""What every test stands on: the CPU, two virtual devices, seeds, and the folder of real data."""

import os
import pathlib

# Read by TensorFlow and Keras when they are imported, so set before.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
import tensorflow as tf

DATA_VARIABLE = "KERAS_KD_DATA"


def pytest_configure():
    """Give the process the two devices that `tf.distribute.MirroredStrategy` is tested on.

    It can only be done before TensorFlow starts, so it cannot wait for the test that needs them.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_collection_modifyitems(items):
    """Skip what needs real data where there is none: the package ships no data set."""
    if os.environ.get(DATA_VARIABLE):
        return
    reason = f"needs real data: set {DATA_VARIABLE} to the folder that has it"
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _fresh_and_seeded():
    """Give each test the same seeds, layer names and dtype policy, whichever ran before it."""
    policy = keras.config.dtype_policy()
    keras.utils.clear_session(
        free_memory=False
    )  # A garbage collection a test takes longer than most.
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="session")
def two_devices():
    """A strategy of two devices; the same for all tests, as a second one disturbs the first."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def rng():
    """A NumPy generator that is the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real data, for tests marked `data`."""
    return pathlib.Path(os.environ[DATA_VARIABLE])
