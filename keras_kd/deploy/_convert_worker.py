"""Runs TensorFlow's converter on a SavedModel: the child process of `keras_kd.deploy.convert`.

The only import of `tf.lite`. It is run as a file, in a process of its own, because the converter
can end its process (full int8 of a loop does). It imports neither keras_kd nor Keras, so
that the child pays for TensorFlow's import alone.

Its one argument is a JSON request: saved_model, signature, quantization, input_dtype, output_dtype,
per_channel_dense, calibration (an .npy for each signature input by its name, or null), output.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Only a private flag asks for it: a Dense layer's weights with one scale per tensor, which some
# runtimes insist on. `tests/deploy/test_convert.py` fails when it moves.
PER_TENSOR_DENSE = "_experimental_disable_per_channel_quantization_for_dense_layers"


def converted(request: dict) -> bytes:
    """The flatbuffer that a request asks for."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        request["saved_model"], signature_keys=[request["signature"]]
    )
    ops, quantization = tf.lite.OpsSet, request["quantization"]
    int16x8 = ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    calibrated = request["calibration"] is not None
    converter.target_spec.supported_ops = {
        # Without calibration the model has FakeQuant ops, and these ops are all that it takes.
        "int8": [ops.TFLITE_BUILTINS_INT8 if calibrated else ops.TFLITE_BUILTINS],
        # With float ops to fall back on, or the first op without int16 ends the conversion, and
        # the others stay unknown. The float tensors that it leaves are refused afterwards.
        "int16x8": [int16x8, ops.TFLITE_BUILTINS],
    }.get(quantization, [ops.TFLITE_BUILTINS])
    if quantization != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if calibrated:
        converter.representative_dataset = lambda: one_by_one(request["calibration"])
    if quantization in ("int8", "int16x8"):
        converter.inference_input_type = tf.as_dtype(request["input_dtype"])
        converter.inference_output_type = tf.as_dtype(request["output_dtype"])
    if not request["per_channel_dense"]:
        if not hasattr(converter, PER_TENSOR_DENSE):
            raise AttributeError(f"This TensorFlow's converter has no '{PER_TENSOR_DENSE}'")
        setattr(converter, PER_TENSOR_DENSE, True)
    return with_float_ends(converter)


def with_float_ends(converter: Any) -> bytes:
    """Converts; an end of the model that stays float in int16x8 is float, and not a failure.

    Its caller wants to name every float tensor, and the converter stops at "Unsupported output type
    INT16 for output tensor ... of type FLOAT32".
    """
    import tensorflow as tf

    for _ in range(2):
        try:
            return converter.convert()
        except RuntimeError as err:
            end = re.search(r"Unsupported (input|output) type INT16", str(err))
            if end is None:
                raise
            setattr(converter, f"inference_{end.group(1)}_type", tf.float32)
    return converter.convert()


def one_by_one(paths: dict[str, str]) -> Iterator[dict[str, np.ndarray]]:
    """The calibration examples, each as a batch of one."""
    arrays = {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
    for i in range(len(next(iter(arrays.values())))):
        yield {name: array[i : i + 1] for name, array in arrays.items()}


if __name__ == "__main__":
    # `import tensorflow` brings Keras along, which is 1.5 of its 3.9 CPU seconds, and does without
    # where Keras is missing. A SavedModel needs none.
    modules: dict[str, Any] = sys.modules
    modules["keras"] = None
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(job["output"]).write_bytes(converted(job))
