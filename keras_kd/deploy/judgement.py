"""How outputs are judged: a metric and its standard error, the agreement of two models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def top_1_correct(y: Any, outputs: Any) -> np.ndarray:
    """Share of right decisions for each example, [examples]; 0 or 1 where there is one decision.

    Args:
        y: Class numbers [examples, ...], perhaps with a last axis of 1, or one-hot like `outputs`.
        outputs: [examples, ..., classes], any increasing function of the probabilities.

    Raises:
        ValueError: No class axis, shapes that do not fit, or class numbers out of range.
    """
    outputs = np.asarray(outputs) if not isinstance(outputs, Mapping | list | tuple) else None
    if outputs is None or outputs.ndim < 2 or outputs.shape[-1] < 2:
        received = "several outputs" if outputs is None else f"shape {outputs.shape}"
        raise ValueError(
            "Expected one output of shape (examples, ..., classes) with at least two classes for "
            f"metric='accuracy'. Received: {received}. Hint: a Keras metric such as "
            "keras.metrics.BinaryAccuracy(), or a callable (y, outputs) -> number."
        )
    labels = np.asarray(y)
    if labels.shape == outputs.shape:
        labels = labels.argmax(-1)
    elif labels.shape == (*outputs.shape[:-1], 1):
        labels = labels[..., 0]
    classes = outputs.shape[-1]
    if labels.shape != outputs.shape[:-1]:
        raise ValueError(
            f"Expected labels of shape {outputs.shape[:-1]} or {outputs.shape}. "
            f"Received: {labels.shape}."
        )
    if labels.size and not (np.all(labels >= 0) and np.all(labels < classes)):
        raise ValueError(
            f"Expected class numbers from 0 to {classes - 1}. "
            f"Received: {labels.min()} to {labels.max()}."
        )
    return _by_example(outputs.argmax(-1) == labels)


def mean_and_standard_error(values: Any) -> tuple[float, float]:
    """Mean of one number an example, and the mean's standard error.

    sqrt(mean((v - mean)^2) / n): for right and wrong as 1 and 0 that is sqrt(p (1 - p) / n), the
    binomial's.
    """
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std() / math.sqrt(values.size))


def agreement(expected: Any, outputs: Any) -> float | None:
    """Share of decisions in which two models' outputs have the same largest class.

    Over every output that has at least two classes; None if there is none.

    Raises:
        ValueError: The outputs differ in number or shape.
    """
    pairs = list(zip(flat(expected), flat(outputs), strict=False))
    shapes = [[array.shape for array in flat(side)] for side in (expected, outputs)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected outputs shaped like the reference's, {shapes[0]}. Received: {shapes[1]}. "
            "Hint: reference= is the model that the other was converted from."
        )
    same = [
        (a.argmax(-1) == b.argmax(-1)).ravel() for a, b in pairs if a.ndim > 1 and a.shape[-1] > 1
    ]
    return float(np.concatenate(same).mean()) if same else None


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a metric says of one model's outputs.

    Args:
        metric: Its name.
        value: What it gives.
        standard_error: Of `value` as an estimate for new examples; None where the metric gives one
            number for all of them.
        scores: One number an example, [examples], whose mean is `value`; None likewise.
    """

    metric: str
    value: float
    standard_error: float | None = None
    scores: np.ndarray | None = dataclasses.field(default=None, repr=False)


def judged(metric: Any, y: Any, outputs: Any) -> Judgement:
    """Judges outputs by their labels; `measure` says what a metric may be.

    Raises:
        TypeError: A metric of the wrong type.
        ValueError: Labels or numbers that do not fit the outputs.
    """
    if isinstance(metric, str) and metric == "accuracy":
        return _by_scores(metric, top_1_correct(y, outputs))
    if isinstance(metric, str):
        import keras

        metric = keras.metrics.get(metric)
    if _is_keras_metric(metric):
        metric.reset_state()
        metric.update_state(y, outputs)
        return Judgement(metric.name, float(metric.result()))
    if not callable(metric):
        raise TypeError(
            "Expected metric to be 'accuracy', a Keras metric, its name or a callable "
            f"(y, outputs) -> number or [examples]. Received: {type(metric).__name__}."
        )
    result = np.asarray(metric(y, outputs))
    name = getattr(metric, "__name__", type(metric).__name__)
    if result.ndim == 0:
        return Judgement(name, float(result))
    count = len(flat(outputs)[0])
    if result.shape[0] != count:
        raise ValueError(
            f"Expected metric '{name}' to return a number or one for each of {count} examples. "
            f"Received: shape {result.shape}."
        )
    return _by_scores(name, _by_example(result))


def _by_scores(name: str, scores: np.ndarray) -> Judgement:
    return Judgement(name, *mean_and_standard_error(scores), scores)


def flat(structure: Any) -> list[np.ndarray]:
    """The arrays of a structure; those of a dict in the order of its keys."""
    if isinstance(structure, Mapping):
        return [array for key in sorted(structure) for array in flat(structure[key])]
    if isinstance(structure, tuple) or (
        isinstance(structure, list) and any(np.ndim(item) for item in structure)
    ):
        return [array for item in structure for array in flat(item)]
    return [np.asarray(structure)]


def _by_example(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(-1, dtype=np.float64)


def _is_keras_metric(metric: Any) -> bool:
    import keras

    return isinstance(metric, keras.metrics.Metric)
