"""What a converted model is worth: accuracy, agreement with its float original, bytes, latency.

Everything here is measured on this machine. Accuracy, agreement, bytes and arena are the device's
too, since TFLM computes here what it computes there; a latency is this host's and no board's.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_kd.deploy.artifact import Artifact, quantization_of
from keras_kd.deploy.interpreter import RUNTIMES, Interpreter

KERAS = "keras"
KERAS_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One model on one runtime.

    Args:
        runtime: "litert", "litert_reference", "tflm", or "keras" for a Keras model.
        quantization: The model's scheme; "float32" for a Keras model.
        examples: How many were predicted.
        metric: Name of the metric; None without labels.
        value: What the metric gives; None without labels.
        standard_error: Of `value` as an estimate for new examples, from the spread between these;
            for an accuracy it is sqrt(p (1 - p) / examples). None where the metric gives one number
            for all examples.
        agreement: Share of examples for which the model and the reference name the same class; None
            without a reference, or where no output has classes.
        size_bytes: Length of the flatbuffer; for a Keras model, of its weights.
        arena_bytes: What TFLM allocated; None elsewhere.
        latency_ms_median: Milliseconds for one example on this host, median; None if not measured.
        latency_ms_p95: Likewise, exceeded by one run in twenty.
        latency_runs: Runs behind the two.
        warmup_runs: Runs before them, not counted.
    """

    runtime: str
    quantization: str
    examples: int
    metric: str | None
    value: float | None
    standard_error: float | None
    agreement: float | None
    size_bytes: int
    arena_bytes: int | None
    latency_ms_median: float | None
    latency_ms_p95: float | None
    latency_runs: int
    warmup_runs: int


def measure(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    reference: Any = None,
    runtimes: Sequence[str] = ("litert",),
    metric: Any = "accuracy",
    latency_runs: int = 200,
    warmup_runs: int = 20,
    progress: bool = True,
) -> tuple[Measurement, ...]:
    """Measures a model, and its float reference beside it.

    Args:
        model: An `Artifact`, the bytes of a `.tflite`, or its path; or a Keras model, which runs on
            Keras whatever `runtimes` says.
        x: Inputs as real numbers: an array [examples, ...], or a dict or list of them.
        y: Labels, one for each example, or the structure of them that `metric` takes.
        reference: The float model that `model` was made from: a Keras model, or a float `.tflite`,
            which runs on LiteRT.
        runtimes: Where to run a `.tflite`: "litert", "litert_reference", "tflm".
        metric: "accuracy" (top-1; labels are class numbers or one-hot); a Keras metric or its name;
            or a callable `(y, outputs) -> number` or `-> [examples]`. One number an example has a
            standard error.
        latency_runs: Timed runs of one example; 0 measures no latency.
        warmup_runs: Runs before those.
        progress: Whether to show a progress bar for each runtime.

    Returns:
        A `Measurement` of the reference, if there is one, then one for each runtime.

    Raises:
        TypeError: A model or metric of the wrong type.
        ValueError: No examples, lengths that differ, an unknown runtime, labels that do not fit.

    Example:
        >>> float_row, int8_row = measure(artifact, x_test, y_test, reference=student)
        >>> int8_row.value, int8_row.standard_error, int8_row.agreement
        (0.9466, 0.0091, 0.995)
    """
    count = _check(x, y, runtimes, latency_runs, warmup_runs)
    rows, expected = [], None
    jobs = [] if reference is None else [(reference, "litert")]
    jobs += [(model, KERAS)] if _is_keras(model) else [(model, runtime) for runtime in runtimes]
    for number, (candidate, runtime) in enumerate(jobs):
        runner = _Keras(candidate) if _is_keras(candidate) else _Lite(candidate, runtime)
        if progress:
            print(f"{runner.runtime} ({runner.quantization}), {count} examples", flush=True)
        outputs = runner.predict(x, progress)
        if reference is not None and number == 0:
            expected = outputs
        name, value, error = (None, None, None) if y is None else _judged(metric, y, outputs)
        times = runner.latencies_ms(x, latency_runs, warmup_runs) if latency_runs else None
        rows.append(
            Measurement(
                runtime=runner.runtime,
                quantization=runner.quantization,
                examples=count,
                metric=name,
                value=value,
                standard_error=error,
                agreement=None if expected is None else agreement(expected, outputs),
                size_bytes=runner.size_bytes,
                arena_bytes=runner.arena_bytes,
                latency_ms_median=None if times is None else float(np.median(times)),
                latency_ms_p95=None if times is None else float(np.percentile(times, 95)),
                latency_runs=latency_runs,
                warmup_runs=warmup_runs,
            )
        )
    return tuple(rows)


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
    pairs = list(zip(_flat(expected), _flat(outputs), strict=False))
    shapes = [[array.shape for array in _flat(side)] for side in (expected, outputs)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected outputs shaped like the reference's, {shapes[0]}. Received: {shapes[1]}. "
            "Hint: reference= is the model that the other was converted from."
        )
    same = [
        (a.argmax(-1) == b.argmax(-1)).ravel() for a, b in pairs if a.ndim > 1 and a.shape[-1] > 1
    ]
    return float(np.concatenate(same).mean()) if same else None


class _Keras:
    """A Keras model as a runtime."""

    runtime = KERAS
    quantization = "float32"
    arena_bytes = None

    def __init__(self, model: Any):
        self._model = model
        self.size_bytes = sum(
            math.prod(weight.shape) * np.dtype(weight.dtype).itemsize for weight in model.weights
        )

    def predict(self, x: Any, progress: bool) -> Any:
        import keras

        # Not `model.predict`: it traces anew for each model and counts by `steps_per_execution`.
        count = len(_flat(x)[0])
        bar = keras.utils.Progbar(count, unit_name="example") if progress else None
        parts = []
        for start in range(0, count, KERAS_BATCH):
            stop = min(start + KERAS_BATCH, count)
            outputs = self._model(_slice(x, start, stop), training=False)
            parts.append(keras.tree.map_structure(keras.ops.convert_to_numpy, outputs))
            if bar is not None:
                bar.update(stop)
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)

    def latencies_ms(self, x: Any, runs: int, warmup_runs: int) -> np.ndarray:
        import keras
        import tensorflow as tf

        example = keras.tree.map_structure(tf.constant, _slice(x, 0, 1))
        call = tf.function(lambda inputs: self._model(inputs, training=False))
        taken = []
        # One more than asked for: the first run traces.
        for _ in range(warmup_runs + 1 + runs):
            start = time.perf_counter_ns()
            keras.tree.map_structure(lambda tensor: tensor.numpy(), call(example))
            taken.append(time.perf_counter_ns() - start)
        return np.asarray(taken[warmup_runs + 1 :]) / 1e6


class _Lite:
    """A `.tflite` on one of its runtimes."""

    def __init__(self, model: Artifact | bytes | str | os.PathLike, runtime: str):
        self._interpreter = Interpreter(model, runtime)
        self.runtime = runtime
        self.quantization = (
            model.quantization
            if isinstance(model, Artifact)
            else quantization_of(self._interpreter.info)
        )
        self.size_bytes = self._interpreter.info.size_bytes
        self.arena_bytes = self._interpreter.arena_bytes

    def predict(self, x: Any, progress: bool) -> Any:
        return self._interpreter.predict(x, progress=progress)

    def latencies_ms(self, x: Any, runs: int, warmup_runs: int) -> np.ndarray:
        # The inputs of the last prediction are still in place.
        return self._interpreter.latencies_ms(runs=runs, warmup_runs=warmup_runs)


def _judged(metric: Any, y: Any, outputs: Any) -> tuple[str, float, float | None]:
    """(name, value, standard error or None) of a metric."""
    if metric == "accuracy":
        return "accuracy", *mean_and_standard_error(top_1_correct(y, outputs))
    if isinstance(metric, str):
        import keras

        metric = keras.metrics.get(metric)
    if _is_keras_metric(metric):
        metric.reset_state()
        metric.update_state(y, outputs)
        return metric.name, float(metric.result()), None
    if not callable(metric):
        raise TypeError(
            "Expected metric to be 'accuracy', a Keras metric, its name or a callable "
            f"(y, outputs) -> number or [examples]. Received: {type(metric).__name__}."
        )
    result = np.asarray(metric(y, outputs))
    name = getattr(metric, "__name__", type(metric).__name__)
    if result.ndim == 0:
        return name, float(result), None
    count = len(_flat(outputs)[0])
    if result.shape[0] != count:
        raise ValueError(
            f"Expected metric '{name}' to return a number or one for each of {count} examples. "
            f"Received: shape {result.shape}."
        )
    return name, *mean_and_standard_error(_by_example(result))


def _check(x: Any, y: Any, runtimes: Sequence[str], latency_runs: int, warmup_runs: int) -> int:
    """The number of examples, once every argument has been looked at."""
    unknown = [runtime for runtime in runtimes if runtime not in RUNTIMES]
    if isinstance(runtimes, str) or unknown or not runtimes:
        raise ValueError(
            f"Expected runtimes to be a sequence of {', '.join(RUNTIMES)}. Received: {runtimes!r}."
        )
    if latency_runs < 0 or warmup_runs < 0:
        raise ValueError(
            "Expected latency_runs and warmup_runs of at least 0. "
            f"Received: {latency_runs} and {warmup_runs}."
        )
    lengths = {len(array) for array in _flat(x)}
    labels = set() if y is None else {len(array) for array in _flat(y)}
    if len(lengths) != 1 or not labels <= lengths:
        raise ValueError(
            "Expected as many examples in each input as labels. "
            f"Received: {sorted(lengths)} examples and {sorted(labels)} labels."
        )
    (count,) = lengths
    if not count:
        raise ValueError("Expected at least one example to measure with. Received: none.")
    return count


def _slice(x: Any, start: int, stop: int) -> Any:
    import keras

    return keras.tree.map_structure(lambda array: np.asarray(array)[start:stop], x)


def _by_example(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(-1, dtype=np.float64)


def _flat(structure: Any) -> list[np.ndarray]:
    if isinstance(structure, Mapping):
        return [array for key in sorted(structure) for array in _flat(structure[key])]
    if isinstance(structure, tuple) or (
        isinstance(structure, list) and any(np.ndim(item) for item in structure)
    ):
        return [array for item in structure for array in _flat(item)]
    return [np.asarray(structure)]


def _is_keras(model: Any) -> bool:
    import keras

    return isinstance(model, keras.Model)


def _is_keras_metric(metric: Any) -> bool:
    import keras

    return isinstance(metric, keras.metrics.Metric)
