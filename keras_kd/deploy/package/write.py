"""Writes what a device needs of a model: firmware, a Coral folder or an Android project."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_kd.deploy.artifact import Artifact, interface, quantization_of
from keras_kd.deploy.check import Check, check
from keras_kd.deploy.devices import Device, get
from keras_kd.deploy.edgetpu_compiler import Compiled
from keras_kd.deploy.findings import ERROR
from keras_kd.deploy.inspect import model_info
from keras_kd.deploy.package.edge_tpu import edge_tpu_files
from keras_kd.deploy.package.firmware import Firmware, firmware
from keras_kd.deploy.package.folder import MANIFEST, check_free, write_folder
from keras_kd.deploy.package.host_build import built_and_run
from keras_kd.deploy.vela import Optimised

FIRMWARE_RUNTIMES = ("tflm", "ethos_u")


class PackageError(ValueError):
    """The model does not fit the device; `check` has the findings."""

    def __init__(self, found: Check):
        self.check = found
        lines = [
            f"{finding.message} {finding.cure}".strip()
            for finding in found.findings
            if finding.severity == ERROR
        ]
        super().__init__(
            f"Expected a model that {found.device.title} runs. Received: {found.label}. "
            + " ".join(lines)
        )


@dataclasses.dataclass(frozen=True)
class Package:
    """What was written.

    Attributes:
        folder: Where.
        files: The files, README.md among them.
        device: For which device.
        checked: What was run on this computer, in sentences.
        not_run: What was not, in sentences.
    """

    folder: Path
    files: tuple[Path, ...]
    device: Device
    checked: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()


def write_package(
    model: Artifact | bytes | str | os.PathLike,
    device: Device | str,
    folder: str | os.PathLike,
    *,
    samples: Any = None,
    sample_count: int | None = None,
    labels: Sequence[str] | None = None,
    mean: float | None = None,
    std: float | None = None,
    name: str | None = None,
    tflm: str | os.PathLike | None = None,
    force: bool = False,
) -> Package:
    """Writes a folder for a device: see README.md in it.

    Args:
        model: An `Artifact`, the bytes of a `.tflite`, or its path.
        device: A `Device`, its name, or the path of its JSON file.
        folder: Where to: new or empty, unless `force`.
        samples: Microcontrollers alone: examples that the firmware repeats, as
            `Interpreter.predict` takes them. None makes some.
        sample_count: How many of them; None takes up to ten that fit in 64 KiB.
        labels: A name for each class; Edge TPUs and phones alone.
        mean: Phones alone: the model was trained on (pixel - mean) / std, pixels in 0..255.
        std: Likewise.
        name: What to call the model; None takes the file's name.
        tflm: Microcontrollers alone: TFLite Micro's sources. The firmware is compiled with them
            here and run on the samples, which takes a minute or two, and what came out is in its
            README.
        force: Whether to replace an earlier package in the folder; other files stay.

    Returns:
        A `Package`.

    Raises:
        PackageError: The model does not fit the device.
        ValueError: No TFLite flatbuffer, an unknown device, an option of another runtime, samples
            that do not fit, or a folder that is not free.
        RuntimeError: TFLite Micro or a compiler refuses the model, or the firmware gave other
            outputs here than were recorded.
        OSError: The folder cannot be written; an earlier package is left whole.

    Example:
        >>> write_package("student.tflite", "nano33ble", "firmware", samples=x_test).not_run[0]
        'The sources were not compiled with TFLite Micro: none was given ...'
    """
    device = device if isinstance(device, Device) else get(device)
    artifact, label = _artifact(model, name)
    is_firmware = device.runtime in FIRMWARE_RUNTIMES
    is_phone = not is_firmware and device.runtime != "edgetpu"
    for option, value, fits in (
        ("samples", samples, is_firmware),
        ("sample_count", sample_count, is_firmware),
        ("tflm", tflm, device.runtime == "tflm"),
        ("labels", labels, not is_firmware),
        ("mean", mean, is_phone),
        ("std", std, is_phone),
    ):
        if value is not None and not fits:
            raise ValueError(
                f"Expected no {option} for {device.title}, whose runtime is '{device.runtime}'. "
                "Hint: leave it out."
            )
    check_free(folder, force=force)
    found = check(artifact, device)
    if not found.fits:
        raise PackageError(found)
    compiled = next(iter(found.verdict.compiled), None)
    if is_firmware:
        made = firmware(
            artifact,
            device,
            label=label,
            x=samples,
            sample_count=sample_count,
            optimised=compiled if isinstance(compiled, Optimised) else None,
        )
        files = made.files(_host_run(made, tflm) if tflm is not None else "")
        return _written(folder, files, device, force)
    if device.runtime == "edgetpu":
        files = edge_tpu_files(
            artifact,
            device,
            label=label,
            labels=labels,
            compiled=compiled if isinstance(compiled, Compiled) else None,
        )
        return _written(folder, files, device, force)
    from keras_kd.deploy.package import android

    project = android.write_project(
        artifact,
        folder,
        labels=labels,
        mean=mean,
        std=std,
        name=label,
        accelerator="gpu" if device.runtime == "litert_gpu" else "cpu",
    )
    written = tuple(project.folder / path for path in project.files)
    return Package(
        project.folder, written, device, not_run=(f"Nothing was run on {device.title}.",)
    )


def _written(
    folder: str | os.PathLike, files: dict[str, bytes], device: Device, force: bool
) -> Package:
    facts = json.loads(files[MANIFEST])
    written = write_folder(folder, files, force=force)
    return Package(
        Path(folder),
        written,
        device,
        tuple(facts.get("checked", ())),
        tuple(facts["not_run"]),
    )


def _artifact(
    model: Artifact | bytes | str | os.PathLike, name: str | None
) -> tuple[Artifact, str]:
    if isinstance(model, str | os.PathLike):
        artifact = Artifact.load(model)
    elif isinstance(model, Artifact):
        artifact = model
    else:
        info = model_info(model)
        inputs, outputs = interface(info)
        artifact = Artifact(bytes(model), quantization_of(info), inputs, outputs)
    label = name or (artifact.path.stem if artifact.path else "student")
    if not re.search(r"[A-Za-z0-9]", label):
        raise ValueError(
            f"Expected a name with an ASCII letter or digit, for the code. Received: {label!r}. "
            "Hint: name='student', or --name student."
        )
    return artifact, label


def _host_run(made: Firmware, tflm: str | os.PathLike) -> str:
    """Builds and runs the firmware in a folder of its own; what came out, in a sentence."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "firmware"
        write_folder(folder, made.files())
        ran = built_and_run(folder, made.name, tflm)
    if not ran.passed:
        raise RuntimeError(
            "Expected the firmware to repeat the recorded outputs on this computer. It said:\n"
            + "\n".join(ran.output.splitlines()[-40:])
        )
    return (
        f"The sources were compiled on this computer with TFLite Micro's and run: all "
        f"{made.facts['samples']} samples as expected."
    )
