"""Refuses a Keras that does not run on TensorFlow, before anything else is imported."""

import os

_MESSAGE = (
    "Expected Keras to run on TensorFlow: keras_kd makes TFLite files. Received: the backend {}. "
    "Hint: set KERAS_BACKEND=tensorflow before Keras is imported."
)

# The variable first: Keras itself would fail to import a backend that is not installed.
if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise ImportError(_MESSAGE.format(repr(os.environ["KERAS_BACKEND"])))

try:
    import keras
except ModuleNotFoundError as err:
    # The backend may be named in Keras's own configuration file too.
    if err.name in ("jax", "torch", "openvino"):
        raise ImportError(_MESSAGE.format(repr(err.name))) from err
    raise

if keras.backend.backend() != "tensorflow":
    raise ImportError(_MESSAGE.format(repr(keras.backend.backend())))
