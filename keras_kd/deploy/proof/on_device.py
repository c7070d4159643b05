"""What teacher, float student and converted student would take on a device, where that is known."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_kd.deploy import inspect, micro_process
from keras_kd.deploy.artifact import Artifact
from keras_kd.deploy.check import Check
from keras_kd.deploy.convert import convert
from keras_kd.deploy.macs import macs

INTEGER = ("int8", "int16x8")
# What a device's time would have to be measured on: nothing here estimates it.
_NEEDED = {
    "tflm": "the board",
    "edgetpu": "the TPU",
    "litert": "the phone",
    "litert_gpu": "the phone",
    "mediapipe": "the phone",
}
MILLISECONDS = {"s": 1e3, "ms": 1.0, "µs": 1e-3, "us": 1e-3}


@dataclasses.dataclass(frozen=True)
class DeviceForm:
    """A model as the `.tflite` that a device would be given.

    Attributes:
        role: Whose: teacher, float student or converted student.
        quantization: The file's scheme.
        size_bytes: The file's length; None where there is none.
        macs: Multiply-accumulates of an example.
        arena_bytes: What TFLite Micro took of memory for it, here.
        not_known: Why something is None.
    """

    role: str
    quantization: str
    size_bytes: int | None = None
    macs: int | None = None
    arena_bytes: int | None = None
    not_known: str = ""


@dataclasses.dataclass(frozen=True)
class DeviceTime:
    """The estimated time of one example on a device, or why there is no estimate."""

    device: str
    role: str
    time_ms: float | None
    not_known: str = ""


def float_form(role: str, model: Any) -> tuple[DeviceForm, Artifact | None]:
    """A Keras model as a float32 `.tflite`: it was not converted otherwise.

    Returns:
        Its form, and the conversion; None where it cannot be converted.
    """
    try:
        artifact = convert(model, quantization="float32")
    except (RuntimeError, ValueError) as err:
        return DeviceForm(role, "float32", not_known=f"not converted: {_line(err)}"), None
    return device_form(role, artifact), artifact


def device_form(role: str, artifact: Artifact) -> DeviceForm:
    """A converted model's form; TFLite Micro runs it once, in a process of its own."""
    info = inspect.model_info(artifact.content)
    arena_bytes, said = None, "tflite-micro is not installed"
    if micro_process.is_installed():
        trial = micro_process.trial(artifact.content)
        arena_bytes, said = trial.arena_bytes, trial.said
    return DeviceForm(
        role,
        artifact.quantization,
        artifact.size_bytes,
        sum(macs(info, op) for op in info.ops),
        arena_bytes,
        "" if arena_bytes is not None else f"TFLite Micro did not run it: {said}",
    )


def estimated_times(check: Check) -> list[tuple[str, float]]:
    """What a check estimates of time: names, and milliseconds."""
    return [
        (estimate.name, estimate.value * MILLISECONDS[estimate.unit])
        for estimate in check.estimates
        if estimate.unit in MILLISECONDS and isinstance(estimate.value, int | float)
    ]


def device_time(check: Check, form: DeviceForm, *, is_checked: bool) -> DeviceTime:
    """The time of a model on the device of a check.

    Args:
        check: Of the converted student.
        form: The model.
        is_checked: Whether it is the one that the check is of.
    """
    runtime, name = check.device.runtime, check.device.name
    times = estimated_times(check) if is_checked else []
    if times:
        return DeviceTime(name, form.role, times[0][1])
    if runtime in ("ethos_u", "edgetpu") and form.quantization not in INTEGER:
        return DeviceTime(name, form.role, None, "needs int8")
    if runtime == "ethos_u":
        return DeviceTime(name, form.role, None, "Vela gave none")
    return DeviceTime(name, form.role, None, f"not known: needs {_NEEDED[runtime]}")


def _line(err: Exception) -> str:
    return " ".join(str(err).split())
