"""What a converted model is worth: accuracy, agreement with its float original, bytes, latency.

Everything here is measured on this machine. Accuracy, agreement, bytes and arena are the device's
too, since TFLM computes here what it computes there; a latency is this host's and no board's.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_kd.deploy.artifact import Artifact, quantization_of
from keras_kd.deploy.interpreter import RUNTIMES, Interpreter
from keras_kd.deploy.judgement import agreement, flat, judged
from keras_kd.deploy.judgement import mean_and_standard_error as mean_and_standard_error
from keras_kd.deploy.judgement import top_1_correct as top_1_correct

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
    observed = observe(
        model,
        x,
        y,
        reference=reference,
        runtimes=runtimes,
        metric=metric,
        latency_runs=latency_runs,
        warmup_runs=warmup_runs,
        progress=progress,
    )
    return tuple(one.measurement for one in observed)


@dataclasses.dataclass(frozen=True)
class Observation:
    """One model on one runtime, example by example.

    Args:
        measurement: The sums.
        outputs: What the model gave for every example, in its structure.
        scores: What the metric gave for each example, [examples], whose mean is the measurement's
            value: two models' are compared pair by pair. None without labels, or where the metric
            gives one number for all examples.
    """

    measurement: Measurement
    outputs: Any = dataclasses.field(repr=False)
    scores: np.ndarray | None = dataclasses.field(repr=False)


def observe(
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
) -> tuple[Observation, ...]:
    """Like `measure`, which has the same arguments and errors, with what the numbers are made of.

    Returns:
        An `Observation` of the reference, if there is one, then one for each runtime.
    """
    count = _check(x, y, runtimes, latency_runs, warmup_runs)
    seen: list[Observation] = []
    jobs = [] if reference is None else [(reference, "litert")]
    jobs += [(model, KERAS)] if _is_keras(model) else [(model, runtime) for runtime in runtimes]
    for candidate, runtime in jobs:
        runner = _Keras(candidate) if _is_keras(candidate) else _Lite(candidate, runtime)
        if progress:
            print(f"{runner.runtime} ({runner.quantization}), {count} examples", flush=True)
        outputs = runner.predict(x, progress)
        expected = seen[0].outputs if seen else outputs
        judgement = None if y is None else judged(metric, y, outputs)
        times = runner.latencies_ms(x, latency_runs, warmup_runs) if latency_runs else None
        measurement = Measurement(
            runtime=runner.runtime,
            quantization=runner.quantization,
            examples=count,
            metric=None if judgement is None else judgement.metric,
            value=None if judgement is None else judgement.value,
            standard_error=None if judgement is None else judgement.standard_error,
            agreement=None if reference is None else agreement(expected, outputs),
            size_bytes=runner.size_bytes,
            arena_bytes=runner.arena_bytes,
            latency_ms_median=None if times is None else float(np.median(times)),
            latency_ms_p95=None if times is None else float(np.percentile(times, 95)),
            latency_runs=latency_runs,
            warmup_runs=warmup_runs,
        )
        seen.append(
            Observation(measurement, outputs, None if judgement is None else judgement.scores)
        )
    return tuple(seen)


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
        count = len(flat(x)[0])
        bar = keras.utils.Progbar(count, unit_name="example") if progress else None
        parts = []
        for start in range(0, count, KERAS_BATCH):
            stop = min(start + KERAS_BATCH, count)
            outputs = self._model(sliced(x, start, stop), training=False)
            parts.append(keras.tree.map_structure(keras.ops.convert_to_numpy, outputs))
            if bar is not None:
                bar.update(stop)
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)

    def latencies_ms(self, x: Any, runs: int, warmup_runs: int) -> np.ndarray:
        import keras
        import tensorflow as tf

        example = keras.tree.map_structure(tf.constant, sliced(x, 0, 1))
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
    lengths = {len(array) for array in flat(x)}
    labels = set() if y is None else {len(array) for array in flat(y)}
    if len(lengths) != 1 or not labels <= lengths:
        raise ValueError(
            "Expected as many examples in each input as labels. "
            f"Received: {sorted(lengths)} examples and {sorted(labels)} labels."
        )
    (count,) = lengths
    if not count:
        raise ValueError("Expected at least one example to measure with. Received: none.")
    return count


def sliced(x: Any, start: int, stop: int) -> Any:
    """The examples from `start` to `stop` of an array, or of every array of a dict or list."""
    import keras

    return keras.tree.map_structure(lambda array: np.asarray(array)[start:stop], x)


def _is_keras(model: Any) -> bool:
    import keras

    return isinstance(model, keras.Model)
