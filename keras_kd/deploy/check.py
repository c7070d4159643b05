"""Holds a `.tflite` against a device: every problem at once, each with its cure."""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Any

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import Artifact
from keras_kd.deploy.devices import Device, available, get
from keras_kd.deploy.findings import (
    ERROR,
    SEVERITIES,
    Budget,
    Estimate,
    Finding,
    Placement,
    Subject,
    Verdict,
)
from keras_kd.deploy.rules import common

# The module of each runtime's rules: `judge(subject, device) -> Verdict`.
RULES = {
    "tflm": "tflm",
    "ethos_u": "ethos_u",
    "edgetpu": "edgetpu",
    "litert": "phone",
    "litert_gpu": "phone",
    "mediapipe": "phone",
}


@dataclasses.dataclass(frozen=True)
class Check:
    """What is known of a model on a device before it is flashed.

    Attributes:
        label: The model.
        info: What is in it.
        device: The device.
        verdict: What the rules say.
    """

    label: str
    info: inspect.ModelInfo = dataclasses.field(repr=False)
    device: Device
    verdict: Verdict

    @property
    def fits(self) -> bool:
        """Whether nothing keeps the model from running there, and no memory is too small."""
        margins = [budget.margin_bytes for budget in self.budgets]
        return not any(finding.severity == ERROR for finding in self.findings) and not any(
            margin is not None and margin < 0 for margin in margins
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Problems and remarks, errors first."""
        return tuple(
            sorted(self.verdict.findings, key=lambda found: SEVERITIES.index(found.severity))
        )

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Where each op runs."""
        return self.verdict.placements

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """How much of each memory is taken."""
        return self.verdict.budgets

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Numbers about the model on the device."""
        return self.verdict.estimates

    @property
    def not_run(self) -> tuple[str, ...]:
        """What could not be run here, and what was looked at in its place."""
        return self.verdict.not_run


def check(
    model: Artifact | bytes | str | os.PathLike,
    device: Device | str,
    *,
    x: Any = None,
    y: Any = None,
) -> Check:
    """Checks a `.tflite`, whoever made it, for a device.

    Everything is read from the flatbuffer. Where the device's runtime or compiler is installed
    (TFLite Micro, Vela, the Edge TPU compiler) it is run as well, and what it says stands beside.

    Args:
        model: An `Artifact`, the bytes of a `.tflite`, or its path.
        device: A `Device`, a name of `keras_kd.deploy.devices.available()`, or the path of a JSON
            file with the fields of `Device`.
        x: Real examples as real numbers, for what compares runtimes: an array [examples, ...], or
            a dict or list of them.
        y: Their labels.

    Returns:
        A `Check`.

    Raises:
        OSError: The file cannot be read.
        TypeError: A model of another type.
        ValueError: No TFLite flatbuffer, a damaged one, or an unknown device.

    Example:
        >>> found = check("student.tflite", "nano33ble")
        >>> found.fits, [budget.margin_bytes for budget in found.budgets]
        (True, [823040, 201216])
    """
    device = device if isinstance(device, Device) else get(device)
    info, label = _info(model)
    subject = Subject(info.content, info, label, x, y)
    rules = importlib.import_module(f"keras_kd.deploy.rules.{RULES[device.runtime]}")
    verdict = common.judge(subject, device).specialized(rules.judge(subject, device))
    return Check(label, info, device, verdict)


def boards_that_fit(model: Artifact | bytes | str | os.PathLike) -> tuple[Device, ...]:
    """The microcontrollers of `devices.available()` on which a model runs and has room.

    TFLite Micro runs it once, not once for each board.

    Args:
        model: As in `check`.

    Returns:
        The boards in the order of `available()`.

    Raises:
        ValueError: As in `check`.

    Example:
        >>> [device.name for device in boards_that_fit("student.tflite")]
        ['nano33ble', 'esp32s3', 'stm32f746', 'stm32h747', 'rp2040']
    """
    boards = (device for device in available() if device.runtime == "tflm")
    return tuple(device for device in boards if check(model, device).fits)


def _info(model: Artifact | bytes | str | os.PathLike) -> tuple[inspect.ModelInfo, str]:
    """What is in the model, and what messages call it."""
    if isinstance(model, Artifact):
        return inspect.model_info(model.content), Path(model.path or "artifact").name
    label = Path(model).name if isinstance(model, str | os.PathLike) else "model"
    return inspect.model_info(model), label
