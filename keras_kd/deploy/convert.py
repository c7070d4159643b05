"""Keras model to TFLite flatbuffer, at a static batch of 1, in a process of its own."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import (
    QUANTIZATIONS,
    Artifact,
    TensorInfo,
    check_writable,
    interface,
    write_atomically,
)
from keras_kd.deploy.conversion_process import ConversionError, refusal_of_ops, run_converter

if TYPE_CHECKING:
    import keras

    from keras_kd.deploy.saved_model import InputSpec, StudentInputs

# Integer schemes, and what may stand at their inputs and outputs; the first is the default.
INTEGER_INTERFACES = {"int8": ("int8", "uint8", "float32"), "int16x8": ("int16", "float32")}


def convert(
    student: keras.Model,
    path: str | os.PathLike | None = None,
    quantization: str = "int8",
    calibration: Any = None,
    input_dtype: str | None = None,
    output_dtype: str | None = None,
    *,
    input_range: tuple[float, float] | dict[str, tuple[float, float]] | None = None,
    allow_float: Sequence[str] = (),
    per_channel_dense: bool = True,
    timeout_s: float = 600.0,
) -> Artifact:
    """Converts a Keras model to TFLite for a device.

    The student is read, never changed. It is traced at a batch of 1 and written as a SavedModel
    here; TensorFlow's converter runs on that in another process, since it can end its own.

    In int8 an LSTM becomes one fused op, which remembers: whoever runs the model resets its
    variable tensors before each sequence, as `predict` does. With `unroll=True`, and of other kinds
    or in int16x8, recurrent layers are unrolled: see `keras_kd.deploy.recurrent`. An Embedding
    becomes one op, which takes no negative tokens as Keras does.

    Args:
        student: A built Keras model: functional, Sequential or subclassed, with one or several
            inputs and outputs. A mixed-precision functional or Sequential model is converted from
            a float32 copy. A subclassed model's inputs are taken as float32; one that wants
            integers is wrapped: `i = keras.Input((n,), dtype="int32"); keras.Model(i, student(i))`.
        path: Where to write the `.tflite`; None keeps the bytes in memory.
        quantization: "float32"; "float16" and "dynamic_range" (weights only); "int8" (all
            integer); "int16x8" (int16 activations, int8 weights).
        calibration: Examples, as the student sees them, that the ranges of an integer scheme are
            taken from: an array [examples, ...], a dict or list of them for several inputs, a
            `tf.data.Dataset` (batched or not) or a `keras.utils.PyDataset`, with or without
            labels. All of them are used; some hundreds are plenty. None for a student that was
            trained with quantization (`keras_kd.quantization`), which has its ranges already: name
            "int16x8" for one of that scheme.
        input_dtype: For int8 "int8", "uint8" or "float32"; for int16x8 "int16" or "float32".
            None is the scheme's own. An integer input (token ids) stays what it is.
        output_dtype: Likewise for the outputs.
        input_range: (low, high) of the student's input, or a dict of them by input name: the
            calibration must lie inside and span a fair part of it. It replaces the judgement by the
            model's own statistics: see `keras_kd.deploy.calibration_range`.
        allow_float: Layers (by name or class), TFLite ops or tensors that may stay float in an
            integer model, such as "LayerNormalization".
        per_channel_dense: Whether a Dense layer's weights have a scale for each unit, the more
            accurate way, or one in all, which some runtimes want. For int8, int16x8 and
            dynamic_range.
        timeout_s: Seconds that the converter may take.

    Returns:
        An `Artifact`.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument that does not fit the scheme or the student, or a recurrent layer
            that is stateful, or too long or masked for an integer scheme.
        OSError: The path cannot be written; known before the conversion is run.
        ConversionError: The converter failed or crashed, or the result has custom or Flex ops, or
            float tensors that `allow_float` does not name.

    Example:
        >>> artifact = keras_kd.deploy.convert(student, "student.tflite", calibration=x_train[:300])
        >>> artifact.inputs[0].scale
        0.003921568859368563

    Reference: Jacob et al., arXiv:1712.05877; the LiteRT 8-bit quantization specification.
    """
    import keras

    if not isinstance(student, keras.Model):
        raise TypeError(f"Expected a keras.Model as student. Received: {type(student).__name__}.")
    allow_float = _names(allow_float)
    _check_options(quantization, calibration, input_range, allow_float, per_channel_dense)
    if not timeout_s > 0:
        raise ValueError(f"Expected timeout_s > 0 seconds. Received: {timeout_s}.")
    dtypes = _interface_dtypes(quantization, input_dtype, output_dtype)
    if path is not None:
        check_writable(path)

    from keras_kd.deploy import int16x8, repair
    from keras_kd.deploy.calibration import calibration_examples
    from keras_kd.deploy.calibration_range import check_range
    from keras_kd.deploy.embedding import traced_as_gather
    from keras_kd.deploy.integer_splits import with_integer_splits
    from keras_kd.deploy.recurrent import traced_for
    from keras_kd.deploy.saved_model import in_float32, student_inputs, write_saved_model

    inputs = student_inputs(student)
    if input_dtype is not None and not any(spec.is_float for spec in inputs.specs):
        raise ValueError(
            f"Expected no input_dtype for a student of integer inputs, which stay what they are. "
            f"Received: {input_dtype!r}. Hint: leave it out."
        )
    source = in_float32(student)
    examples: list[np.ndarray] = []
    if calibration is not None:
        examples = calibration_examples(calibration, inputs.specs)
        check_range(examples, source, inputs, input_range)

    with tempfile.TemporaryDirectory(prefix="keras_kd_convert_") as folder:
        saved_model = Path(folder, "saved_model")
        with traced_for(source, quantization), traced_as_gather(source):
            traced = write_saved_model(source, inputs, saved_model)
        _check_ranges(traced.range_bits, quantization, calibration)
        # Its ranges come through the converter as they are only where it quantizes nothing.
        carried = quantization == "int16x8" and traced.range_bits > 0
        content = run_converter(
            Path(folder),
            saved_model,
            # Empty without calibration.
            dict(zip((spec.name for spec in inputs.specs), examples, strict=False)),
            quantization="float32" if carried else quantization,
            input_dtype=dtypes[0],
            output_dtype=dtypes[1],
            per_channel_dense=per_channel_dense,
            timeout_s=timeout_s,
        )
    if carried:
        content = int16x8.with_integers(
            content,
            float_inputs=dtypes[0] == "float32",
            float_outputs=dtypes[1] == "float32",
        )
    content = repair.in_model_order(
        content, [spec.name for spec in inputs.specs], traced.output_names
    )
    content = repair.with_true_scales(repair.without_cell_clip(with_integer_splits(content)))
    info = inspect.model_info(content)
    _check_custom_ops(info)
    if quantization in INTEGER_INTERFACES:
        _check_float_tensors(info, source, allow_float, inputs, examples)
    described = interface(info)
    _check_interface(described, inputs.specs, dtypes)
    artifact = Artifact(
        content=content,
        quantization=quantization,
        inputs=described[0],
        outputs=described[1],
        calibration_examples=len(examples[0]) if examples else 0,
    )
    if path is None:
        return artifact
    write_atomically(path, content)
    return dataclasses.replace(artifact, path=Path(path))


def _names(allow_float: Sequence[str]) -> tuple[str, ...]:
    names = (allow_float,) if isinstance(allow_float, str) else tuple(allow_float)
    if not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"Expected allow_float to hold names. Received: {names}.")
    return names


def _check_options(
    quantization: str,
    calibration: Any,
    input_range: Any,
    allow_float: Sequence[str],
    per_channel_dense: bool,
) -> None:
    """Refuses what does not fit the scheme: no argument is ever ignored."""
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"Expected quantization in {', '.join(QUANTIZATIONS)}. Received: {quantization!r}."
        )
    integer = quantization in INTEGER_INTERFACES
    if not integer and calibration is not None:
        raise ValueError(
            f"Expected no calibration for quantization='{quantization}', which has no ranges to "
            "take from it. Received: calibration. Hint: leave it out, or use quantization='int8'."
        )
    if calibration is None and input_range is not None:
        raise ValueError(
            f"Expected input_range only beside calibration. Received: {input_range} for "
            f"quantization='{quantization}'. Hint: leave it out."
        )
    if allow_float and not integer:
        raise ValueError(
            f"Expected allow_float only for {' and '.join(INTEGER_INTERFACES)}. Received: "
            f"{tuple(allow_float)} for quantization='{quantization}'. Hint: leave it out."
        )
    if not per_channel_dense and quantization in ("float32", "float16"):
        raise ValueError(
            f"Expected per_channel_dense=True for quantization='{quantization}', whose weights "
            "have no scales. Received: False. Hint: leave it out."
        )


def _check_ranges(range_bits: int, quantization: str, calibration: Any) -> None:
    """Refuses ranges from nowhere, ranges from two places, and those of other integers."""
    trained = "int16x8" if range_bits > 8 else "int8"
    if range_bits and (quantization != trained or calibration is not None):
        raise ValueError(
            f"Expected quantization='{trained}' without calibration for a student that was trained "
            f"with quantization and carries its ranges. Received: quantization='{quantization}'"
            f"{'' if calibration is None else ' and calibration'}. Hint: convert the float student "
            f"that it was made from, or pass quantization='{trained}' alone."
        )
    if not range_bits and quantization in INTEGER_INTERFACES and calibration is None:
        raise ValueError(
            f"Expected calibration for quantization='{quantization}': the ranges of its integers "
            "are taken from examples. Received: calibration=None. Hint: pass some hundred training "
            "inputs, prepared as the student sees them: calibration=x_train[:300]."
        )


def _interface_dtypes(
    quantization: str, input_dtype: str | None, output_dtype: str | None
) -> tuple[str, str]:
    allowed = INTEGER_INTERFACES.get(quantization, ("float32",))
    for name, dtype in (("input_dtype", input_dtype), ("output_dtype", output_dtype)):
        if dtype is not None and dtype not in allowed:
            raise ValueError(
                f"Expected {name} in {', '.join(allowed)} for quantization='{quantization}'. "
                f"Received: {dtype!r}. Hint: None is the scheme's own."
            )
    return input_dtype or allowed[0], output_dtype or allowed[0]


def _check_interface(
    described: tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]],
    specs: Sequence[InputSpec],
    dtypes: tuple[str, str],
) -> None:
    """Refuses a model whose inputs or outputs are float where integers were asked for."""
    float_inputs = [t for t, spec in zip(described[0], specs, strict=True) if spec.is_float]
    for tensors, dtype, option in (
        (float_inputs, dtypes[0], "input_dtype"),
        (described[1], dtypes[1], "output_dtype"),
    ):
        other = [t.name for t in tensors if t.dtype == "float32" != dtype]
        if other:
            raise ConversionError(
                f"Expected {dtype} for {', '.join(other)}. Received: float32, since the op there "
                f"stays float. Hint: {option}='float32'."
            )


def _check_custom_ops(info: inspect.ModelInfo) -> None:
    if info.custom_ops:
        raise ConversionError(refusal_of_ops(info.custom_ops))


def _check_float_tensors(
    info: inspect.ModelInfo,
    student: keras.Model,
    allow_float: tuple[str, ...],
    inputs: StudentInputs,
    examples: Sequence[np.ndarray],
) -> None:
    from keras_kd.deploy.float_tensors import largest_error, left_over, price, unknown_names

    left = left_over(info, student)
    unknown = unknown_names(allow_float, info, student, left)
    if unknown:
        raise ValueError(
            f"Expected allow_float to name layers, layer classes, TFLite ops or tensors of the "
            f"model. Received: {', '.join(unknown)}. Its layers: "
            f"{', '.join(layer.name for layer in student.layers)}."
        )
    refused = [found for found in left if not found.names & set(allow_float)]
    if refused:
        listing = "".join(f"\n  {found.described()}" for found in refused)
        layers = sorted({found.layer or found.tensor for found in refused})
        error = largest_error(info.content, student, inputs, examples)
        allowed = ""
        if error is not None:
            allowed = (
                f" As it is, the model is off by up to {error:.1%} of an output's range, on the "
                "first of the calibration's examples."
            )
        raise ConversionError(
            f"Expected an all-integer model. Received: {len(refused)} float tensors:{listing}\n"
            f"{price(info).described()}{allowed}\n"
            f"Hint: replace the layers, or allow them: allow_float={layers!r}."
        )
