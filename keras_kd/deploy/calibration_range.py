"""Whether calibration examples are on the scale that the student was trained on.

Ranges taken from examples in 0..255 make nothing of a student that was trained on 0..1, and the
other way round; nothing downstream notices. What is asked of the examples, in this order:

1. `input_range=(low, high)`, where given, decides alone: the examples lie inside, and span at least
   a sixteenth of it.
2. Else the model is asked. A leading Rescaling or Normalization says what it wants: its output is
   about one in size. A trained BatchNormalization remembers the mean and variance it saw: the
   student is run on the examples in training mode (statelessly: it is not changed), and the
   statistics that BatchNormalization takes of them are compared with the ones it has. A factor
   above 16 in size is an error: 16 is the geometric middle between "the same" and 255. An
   untrained or frozen one takes no statistics, and is not asked.
3. Else examples that look like raw 8-bit data (non-negative, and whole numbers from 3 to 255, or
   anything that reaches beyond 127 and stays within 255) are asked back: `input_range=` settles it.

A model without any of these layers tells nothing of its input, and examples in 0..1 look like what
they should be: that a student without normalization was trained on 0..255 and is calibrated on 0..1
is seen only where `input_range` is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.deploy.saved_model import (
    InputSpec,
    StudentInputs,
    inference_arguments,
    nested_layers,
)
from keras_kd.deploy.structure import signature_name

# The geometric middle between 1 and 255, the factor between 0..1 and 0..255.
FACTOR = 16.0
JUDGED_EXAMPLES = 256


def check_range(
    examples: Sequence[np.ndarray],
    student: keras.Model,
    inputs: StudentInputs,
    input_range: Any = None,
) -> None:
    """Raises where the examples are of another scale than the student's training data.

    What is asked, and in which order: see the head of this module.

    Raises:
        ValueError: With what was seen, and what settles it.
    """
    if input_range is not None:
        for array, spec, bounds in zip(
            examples, inputs.specs, _ranges(input_range, inputs.specs), strict=True
        ):
            if bounds is not None:
                _check_declared_range(array, spec, bounds)
        return
    if not any(spec.is_float for spec in inputs.specs):
        return
    verdicts = [
        _scaling_verdict(examples, student, inputs.specs),
        _batch_norm_verdict(examples, student, inputs),
    ]
    problem = next((verdict for verdict in verdicts if verdict), None)
    if problem:
        seen = ", ".join(
            f"'{spec.key}' in {a.min():g}..{a.max():g}"
            for a, spec in zip(examples, inputs.specs, strict=True)
        )
        raise ValueError(
            f"Expected calibration on the scale that the student was trained on. Received: {seen}; "
            f"{problem} Hint: prepare the examples as for training (x / 255?), or, if they are "
            "right, say so with input_range=(low, high)."
        )
    if all(verdict is None for verdict in verdicts):
        _ask_back(examples, inputs.specs)


def _ranges(input_range: Any, specs: Sequence[InputSpec]) -> list[tuple[float, float] | None]:
    """(low, high) for each float input; integer inputs have none."""
    floats = [spec for spec in specs if spec.is_float]
    if isinstance(input_range, Mapping):
        given = {signature_name(key): value for key, value in input_range.items()}
        if sorted(given) != sorted(spec.name for spec in floats):
            raise ValueError(
                f"Expected input_range for the float inputs {[spec.key for spec in floats]}. "
                f"Received: {list(input_range)}."
            )
    elif len(floats) == 1:
        given = {floats[0].name: input_range}
    else:
        raise ValueError(
            "Expected input_range as a dict of (low, high) by input name, for the float inputs "
            f"{[spec.key for spec in floats]}. Received: {input_range!r}."
        )
    for bounds in given.values():
        numbers = np.asarray(bounds, dtype=object).ravel()
        if len(numbers) != 2 or not all(isinstance(n, int | float | np.number) for n in numbers):
            raise TypeError(f"Expected input_range=(low, high). Received: {bounds!r}.")
        if not (np.isfinite([float(n) for n in numbers]).all() and numbers[0] < numbers[1]):
            raise ValueError(f"Expected input_range=(low, high), low < high. Received: {bounds!r}.")
    return [
        (float(given[s.name][0]), float(given[s.name][1])) if s.name in given else None
        for s in specs
    ]


def _check_declared_range(array: np.ndarray, spec: InputSpec, bounds: tuple[float, float]) -> None:
    low, high = bounds
    # float32 rounding of a normalization, about 1e-7 of the numbers' size, and some to spare.
    slack = 1e-6 * max(abs(low), abs(high))
    smallest, largest = float(array.min()), float(array.max())
    if smallest < low - slack or largest > high + slack:
        raise ValueError(
            f"Expected calibration in input_range {low:g}..{high:g} for input '{spec.key}'. "
            f"Received: {smallest:g}..{largest:g}. Hint: prepare the examples as for training."
        )
    if (largest - smallest) * FACTOR < high - low:
        raise ValueError(
            f"Expected calibration that spans a fair part of input_range {low:g}..{high:g} for "
            f"input '{spec.key}'. Received: {smallest:g}..{largest:g}, less than a sixteenth of "
            "it. Hint: the examples look scaled down (0..1 for 0..255?)."
        )


# The verdicts: None where the model tells nothing, "" where all is well, else what is wrong.


def _scaling_verdict(
    examples: Sequence[np.ndarray], student: keras.Model, specs: Sequence[InputSpec]
) -> str | None:
    if len(specs) != 1:
        return None
    layer = _leading_scaling(student)
    x = examples[0][:: max(1, len(examples[0]) // JUDGED_EXAMPLES)]
    if isinstance(layer, keras.layers.Rescaling):
        scale = np.abs(np.asarray(layer.scale, dtype="float32")).max()
        span = float(x.max() - x.min())
        # A scale below one brings large numbers down to about one; above one, the other way.
        size = span * float(scale) if scale < 1 else span
        fits = 1 / FACTOR <= size <= FACTOR
        meant = "output" if scale < 1 else "input"
        if fits:
            return ""
        return (
            f"'{layer.name}' multiplies by {float(scale):g}, so its {meant} should span about 1, "
            f"and spans {size:.3g}."
        )
    if isinstance(layer, keras.layers.Normalization):
        normalized = keras.ops.convert_to_numpy(layer(x))
        spread, size = float(normalized.std()), float(np.sqrt(np.square(normalized).mean()))
        if size > FACTOR or spread < 1 / FACTOR:
            return (
                f"'{layer.name}' should give mean 0 and deviation 1, and gives "
                f"{float(normalized.mean()):.3g} and {spread:.3g}."
            )
        return ""
    return None


def _leading_scaling(student: keras.Model) -> keras.Layer | None:
    """A Rescaling or Normalization that comes before any layer with weights."""
    for layer in nested_layers(student):
        if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
            return layer
        if layer.weights and not isinstance(layer, keras.Model):
            return None
    return None


def _batch_norm_verdict(
    examples: Sequence[np.ndarray], student: keras.Model, inputs: StudentInputs
) -> str | None:
    trained = [
        layer
        for layer in nested_layers(student)
        if isinstance(layer, keras.layers.BatchNormalization) and _remembers(layer)
    ]
    if not trained:
        return None
    count = len(examples[0])
    picked = np.linspace(0, count - 1, min(count, JUDGED_EXAMPLES)).astype(int)
    _, updated = student.stateless_call(
        student.trainable_variables,
        student.non_trainable_variables,
        inputs.packed([tf.constant(array[picked]) for array in examples]),
        **inference_arguments(student, training=True),
    )
    after = {
        id(variable): keras.ops.convert_to_numpy(value)
        for variable, value in zip(student.non_trainable_variables, updated, strict=True)
    }
    judged = None
    for layer in trained:
        verdict = _statistics_verdict(layer, after)
        if verdict:
            return verdict
        judged = verdict if judged is None else judged
    return judged


def _remembers(layer: keras.layers.BatchNormalization) -> bool:
    """Whether it has seen data, and would take statistics of ours."""
    if not (layer.built and layer.trainable and layer.momentum < 0.9999):
        return False
    mean = keras.ops.convert_to_numpy(layer.moving_mean)
    variance = keras.ops.convert_to_numpy(layer.moving_variance)
    return not (np.all(mean == 0) and np.all(variance == 1))


def _statistics_verdict(
    layer: keras.layers.BatchNormalization, after: dict[int, np.ndarray]
) -> str | None:
    """Compares the deviation of the examples at this layer with the remembered one.

    From the update, moving' = momentum * moving + (1 - momentum) * batch, follow the batch's own.
    The median over the channels decides, which a few dead channels do not move.
    """
    variables = (layer.moving_mean, layer.moving_variance)
    before = [keras.ops.convert_to_numpy(v).astype("float64") for v in variables]
    updated = [after[id(v)].astype("float64") for v in variables]
    if all(map(np.array_equal, before, updated)):
        return None  # It took no statistics: it was not reached, or was called with training=False.
    mean, variance = before
    batch_mean, batch_variance = (
        (new - layer.momentum * old) / (1 - layer.momentum)
        for old, new in zip(before, updated, strict=True)
    )
    batch_variance = np.maximum(batch_variance, 0)
    remembered = np.sqrt(variance + layer.epsilon)
    size = np.sqrt(batch_variance + np.square(batch_mean - mean) + layer.epsilon) / remembered
    spread = np.sqrt(batch_variance + layer.epsilon) / remembered
    too_large = float(np.median(size)) > FACTOR
    # Statistics of a short training still hold much of the 1 that they start from, so a remembered
    # variance up to 1 says nothing of examples that seem too small.
    too_small = float(np.median(spread)) < 1 / FACTOR and float(np.median(variance)) > 1
    if too_large or too_small:
        factor = float(np.median(size if too_large else spread))
        return f"at '{layer.name}' they are {factor:.3g} times as large as in training."
    return ""


def _ask_back(examples: Sequence[np.ndarray], specs: Sequence[InputSpec]) -> None:
    for array, spec in zip(examples, specs, strict=True):
        if not spec.is_float:
            continue
        smallest, largest = float(array.min()), float(array.max())
        if smallest < 0 or largest > 255:
            continue
        whole = largest > 2 and bool(np.all(array == np.round(array)))
        if whole or largest > 127:
            raise ValueError(
                f"Expected to know the scale of input '{spec.key}'. Received: calibration in "
                f"{smallest:g}..{largest:g}{', whole numbers' if whole else ''}, like raw 8-bit "
                "data, and no layer of the student says that it was trained on such. Hint: scale "
                "the examples as for training, or, if they are right, pass "
                f"input_range=(0, {255 if largest > 127 else int(np.ceil(largest))})."
            )
