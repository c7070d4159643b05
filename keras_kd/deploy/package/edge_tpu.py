"""A folder for a Coral Edge TPU: model, compiled model where the compiler is, labels, a runner."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from keras_kd.deploy import edgetpu_compiler
from keras_kd.deploy.artifact import Artifact
from keras_kd.deploy.devices import Device
from keras_kd.deploy.edgetpu_compiler import EXECUTABLE as COMPILER
from keras_kd.deploy.package.c_array import identifier
from keras_kd.deploy.package.folder import MANIFEST
from keras_kd.deploy.package.templates import filled


def edge_tpu_files(
    artifact: Artifact,
    device: Device,
    *,
    label: str = "student",
    labels: Sequence[str] | None = None,
    compiled: edgetpu_compiler.Compiled | None = None,
) -> dict[str, bytes]:
    """The files of the folder, by path.

    Args:
        artifact: The converted model.
        device: A device of runtime "edgetpu".
        label: What a person calls the model.
        labels: A name for each class.
        compiled: What `edgetpu_compiler` made of the model, where it ran.
    """
    name = identifier(label).strip("_")
    files: dict[str, bytes] = {
        f"{name}.tflite": artifact.content,
        "run.py": filled("edgetpu/run.py.in", {"name": name}).encode(),
    }
    if compiled is not None:
        files[f"{name}_edgetpu.tflite"] = compiled.content
        files[f"{COMPILER}.log"] = compiled.said.encode()
    if labels is not None:
        files["labels.txt"] = ("\n".join(labels) + "\n").encode()
    not_run = [f"Nothing was run on {device.title}: run.py was written, not run there."]
    if compiled is None:
        not_run.insert(0, f"{COMPILER} is not on the PATH: the model was not compiled.")
    values = {
        "label": label,
        "name": name,
        "title": device.title,
        "state": (
            f"`{name}_edgetpu.tflite` is compiled; the compiler's words are in `{COMPILER}.log`."
            if compiled is not None
            else "The model is not compiled yet: the compiler was not at hand."
        ),
        "not_run": "\n".join(f"- {line}" for line in not_run),
    }
    files["README.md"] = filled("edgetpu/README.md", values).encode()
    facts: dict[str, Any] = {
        "label": label,
        "device": device.name,
        "runtime": device.runtime,
        "model_bytes": artifact.size_bytes,
        "model_sha256": hashlib.sha256(artifact.content).hexdigest(),
        "inputs": [dataclasses.asdict(tensor) for tensor in artifact.inputs],
        "outputs": [dataclasses.asdict(tensor) for tensor in artifact.outputs],
        "is_compiled": compiled is not None,
        "not_run": not_run,
        "files": [*files, MANIFEST],
    }
    return files | {MANIFEST: (json.dumps(facts, indent=2) + "\n").encode()}
