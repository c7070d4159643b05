"""Measures, compares and checks a converted student: what its report is made of."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import Artifact, interface, quantization_of
from keras_kd.deploy.check import Check, check
from keras_kd.deploy.devices import Device, get
from keras_kd.deploy.float_tensors import layers_by_path
from keras_kd.deploy.interpreter import Interpreter
from keras_kd.deploy.judgement import agreement, flat, mean_and_standard_error
from keras_kd.deploy.layer_error import LayerError, layer_errors, worst
from keras_kd.deploy.litert_benchmark import LiteRTBenchmark, litert_benchmark
from keras_kd.deploy.measure import Measurement, Observation, observe, sliced
from keras_kd.deploy.proof.on_device import (
    DeviceForm,
    DeviceTime,
    device_form,
    device_time,
    float_form,
)

TEACHER, FLOAT, CONVERTED = "teacher", "float student", "converted student"
# What compares runtimes sees so many examples, and what looks at every tensor of every op, which
# is slow and counts elements: more would say no more.
CHECK_EXAMPLES, LAYER_EXAMPLES = 100, 32


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same examples.

    Args:
        one: Role and runtime of the one.
        other: Role and runtime of the other.
        mean: Mean over the examples of the one's score minus the other's.
        standard_error: Of that mean, from the spread of the examples' differences: what both get
            right or wrong alike adds nothing to it.
    """

    one: tuple[str, str]
    other: tuple[str, str]
    mean: float
    standard_error: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One model on one runtime: its role is `TEACHER`, `FLOAT` or `CONVERTED`."""

    role: str
    measured: Measurement


@dataclasses.dataclass(frozen=True)
class Proof:
    """What was found of a student.

    Args:
        label: What the report calls the model.
        rows: The teacher if there is one, the float student, the converted one on each runtime.
        differences: Paired; empty without labels, or with a metric of one number for all examples.
        checks: One for each device.
        layers: The error of every op's output.
        layer_examples: How many examples those errors are over.
        forms: Each model as a device would be given it; teacher and float student in float32.
        times: For each device the estimated time of each model.
        benchmark: What LiteRT's own benchmark measured here, if it ran.
        not_run: What could not be run, and why.
    """

    label: str
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    checks: tuple[Check, ...]
    layers: tuple[LayerError, ...]
    layer_examples: int
    forms: tuple[DeviceForm, ...]
    times: tuple[DeviceTime, ...]
    benchmark: LiteRTBenchmark | None
    not_run: tuple[str, ...]

    @property
    def result(self) -> Row:
        """The converted student on the last runtime that was named: what the report is about."""
        return self.rows[-1]

    @property
    def worst_layer(self) -> LayerError | None:
        """The one whose op is the least exact; None where all are exact, or none was compared."""
        found = worst(self.layers) if self.layers else None
        return None if found is None or own_error(found) == math.inf else found


def own_error(layer: LayerError) -> float:
    """An op's own error in dB; that with all before it where it could not be run alone."""
    return layer.sqnr_db if layer.own_sqnr_db is None else layer.own_sqnr_db


def gather(
    artifact: Artifact | bytes | str | os.PathLike,
    x: Any,
    y: Any,
    *,
    student: Any,
    teacher: Any,
    devices: Sequence[Device | str],
    runtimes: Sequence[str],
    metric: Any,
    latency_runs: int,
    warmup_runs: int,
    progress: bool,
) -> Proof:
    """What `prove` reports, as values; it has the same arguments."""
    artifact = _as_artifact(artifact)
    described = [device if isinstance(device, Device) else get(device) for device in devices]
    _check_student(student)
    options = {
        "metric": metric,
        "latency_runs": latency_runs,
        "warmup_runs": warmup_runs,
        "progress": progress,
    }
    # First: what is wrong with the data or the runtimes' names shows here.
    (original,) = observe(student, x, y, runtimes=runtimes, **options)
    refusals = {runtime: _refusal(artifact, runtime) for runtime in runtimes}
    usable = [runtime for runtime, reason in refusals.items() if not reason]
    if not usable:
        raise ValueError(
            "Expected a runtime that takes the model. Received: "
            + "; ".join(f"{runtime}: {reason}" for runtime, reason in refusals.items())
        )
    seen = [] if teacher is None else [(TEACHER, observe(teacher, x, y, **options)[0])]
    seen.append((FLOAT, original))
    seen += [(CONVERTED, one) for one in observe(artifact, x, y, runtimes=usable, **options)]
    some_x = sliced(x, 0, CHECK_EXAMPLES)
    some_y = None if y is None else sliced(y, 0, CHECK_EXAMPLES)
    checks = tuple(check(artifact, device, x=some_x, y=some_y) for device in described)
    forms = [] if teacher is None else [float_form(TEACHER, teacher)[0]]
    of_student, twin = float_form(FLOAT, student)
    forms += [of_student, device_form(CONVERTED, artifact)]
    layers, no_layers = _layer_errors(student, artifact, sliced(x, 0, LAYER_EXAMPLES), twin)
    benchmark, no_benchmark = (None, "")
    if latency_runs and "litert" in usable:
        benchmark, no_benchmark = _benchmark(artifact, latency_runs, warmup_runs)
    reasons = [f"{runtime}: {reason}" for runtime, reason in refusals.items() if reason]
    return Proof(
        label="the student" if artifact.path is None else artifact.path.name,
        rows=tuple(Row(role, _with_agreement(original, one)) for role, one in seen),
        differences=tuple(_differences(seen)),
        checks=checks,
        layers=layers,
        layer_examples=min(original.measurement.examples, LAYER_EXAMPLES),
        forms=tuple(forms),
        times=tuple(
            device_time(one, form, is_checked=form.role == CONVERTED)
            for one in checks
            for form in forms
        ),
        benchmark=benchmark,
        not_run=(*reasons, *filter(None, (no_layers, no_benchmark))),
    )


def _check_student(student: Any) -> None:
    import keras

    if not isinstance(student, keras.Model):
        raise TypeError(
            "Expected student to be the Keras model that the artifact was converted from. "
            f"Received: {type(student).__name__}. Hint: keras.saving.load_model('student.keras')."
        )


def _refusal(artifact: Artifact, runtime: str) -> str:
    """Why a runtime does not take the model; "" where it does."""
    try:
        Interpreter(artifact, runtime)
    except (ImportError, ValueError, RuntimeError) as err:
        return " ".join(str(err).split())
    return ""


def _layer_errors(
    student: Any, artifact: Artifact, x: Any, twin: Artifact | None
) -> tuple[tuple[LayerError, ...], str]:
    """The error of each op, its layers in the student's order; or none and the reason."""
    try:
        found = layer_errors(student, artifact, x, reference=twin)
    except (ValueError, RuntimeError) as err:
        return (), f"error of each layer: {' '.join(str(err).split())}"
    order = {path: number for number, path in enumerate(layers_by_path(student))}
    return tuple(
        dataclasses.replace(
            one, layers=tuple(sorted(one.layers, key=lambda path: order.get(path, len(order))))
        )
        for one in found
    ), ""


def _benchmark(
    artifact: Artifact, runs: int, warmup_runs: int
) -> tuple[LiteRTBenchmark | None, str]:
    """What LiteRT's own benchmark measures, or nothing and the reason."""
    try:
        return litert_benchmark(artifact, runs=runs, warmup_runs=max(warmup_runs, 1)), ""
    except (FileNotFoundError, RuntimeError) as err:
        return None, f"litert-benchmark: {' '.join(str(err).split())}"


def _with_agreement(original: Observation, one: Observation) -> Measurement:
    """The measurement with the agreement with the float student; None for other outputs."""
    shapes = [[array.shape for array in flat(seen.outputs)] for seen in (original, one)]
    same = agreement(original.outputs, one.outputs) if shapes[0] == shapes[1] else None
    return dataclasses.replace(one.measurement, agreement=same)


def _differences(seen: Sequence[tuple[str, Observation]]) -> list[Difference]:
    """The float student minus the teacher, and each converted row minus the float student."""
    by_role = dict(reversed(seen))
    pairs = [
        (role, one, other)
        for role, one in seen
        for other in {FLOAT: [TEACHER], CONVERTED: [FLOAT]}.get(role, [])
        if other in by_role
    ]
    found = []
    for role, one, other in pairs:
        scores = one.scores, by_role[other].scores
        if scores[0] is None or scores[1] is None:
            continue
        found.append(
            Difference(
                (role, one.measurement.runtime),
                (other, by_role[other].measurement.runtime),
                *mean_and_standard_error(scores[0] - scores[1]),
            )
        )
    return found


def _as_artifact(model: Artifact | bytes | str | os.PathLike) -> Artifact:
    if isinstance(model, Artifact):
        return model
    if isinstance(model, str | os.PathLike):
        return Artifact.load(model)
    info = inspect.model_info(bytes(model))
    return Artifact(bytes(model), quantization_of(info), *interface(info))
