"""Refuses a Keras that does not run on TensorFlow, before anything else is imported."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "Expected Keras to run on TensorFlow: keras_kd makes TFLite files. "
        f"Received: the backend '{keras.backend.backend()}'. "
        "Hint: set KERAS_BACKEND=tensorflow before Keras is imported."
    )
