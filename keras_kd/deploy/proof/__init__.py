"""Everything that is known of a student before it is flashed, in one report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from keras_kd.deploy.artifact import Artifact
from keras_kd.deploy.devices import Device
from keras_kd.deploy.proof.evidence import gather
from keras_kd.deploy.proof.page import report_of
from keras_kd.report import Report

__all__ = ["prove"]


def prove(
    artifact: Artifact | bytes | str | os.PathLike,
    x: Any,
    y: Any = None,
    *,
    student: Any,
    teacher: Any = None,
    devices: Sequence[Device | str] = (),
    runtimes: Sequence[str] = ("litert", "tflm"),
    metric: Any = "accuracy",
    latency_runs: int = 200,
    warmup_runs: int = 20,
    progress: bool = True,
) -> Report:
    """Measures a converted student beside its float original and its teacher, and checks devices.

    The report begins with pictures: accuracy, size, the memory of each device, the error of each
    layer, latency. Tables stand behind them, and at the end what was run, how often and on what,
    and what was not run. Nothing in it is a guess: what is no measurement says what it is.

    Args:
        artifact: The converted student: an `Artifact`, the bytes of a `.tflite`, or its path.
        x: Test examples as real numbers: an array [examples, ...], or a dict or list of them.
        y: Their labels; without them there is agreement with the float student, and no accuracy.
        student: The Keras model that `artifact` was converted from.
        teacher: The Keras model that it was distilled from; None leaves it out.
        devices: Where it is to run; see `check`.
        runtimes: Where to run `artifact`. One that refuses it, or is not installed, is reported as
            not run.
        metric: See `measure`.
        latency_runs: Timed runs of one example on this host; 0 measures no latency.
        warmup_runs: Runs before those.
        progress: Whether to show progress bars.

    Returns:
        A `Report`, to be written with `write_html`, `write_json` or `write_text`.

    Raises:
        TypeError: A model or metric of the wrong type.
        ValueError: No examples, lengths that differ, an unknown device or runtime, labels that do
            not fit, or no runtime that takes the model.

    Example:
        >>> report = prove(
        ...     artifact, x_test, y_test, student=student, teacher=teacher, devices=["nano33ble"]
        ... )
        >>> report.write_html("report.html")
    """
    proof = gather(
        artifact,
        x,
        y,
        student=student,
        teacher=teacher,
        devices=devices,
        runtimes=runtimes,
        metric=metric,
        latency_runs=latency_runs,
        warmup_runs=warmup_runs,
        progress=progress,
    )
    return report_of(proof)
