"""A small Android Studio project around a converted image classifier."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.sax import saxutils

import numpy as np

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import Artifact, TensorInfo, write_atomically
from keras_kd.deploy.devices.phone import LITERT_VERSION
from keras_kd.deploy.package import templates
from keras_kd.deploy.package.metadata import (
    BUFFER_NAME,
    Metadata,
    TensorMetadata,
    image_classifier,
    read_metadata,
)

MODEL_FILE, LABELS_FILE = "model.tflite", "labels.txt"
ACCELERATORS = ("cpu", "gpu")
# LiteRT 2.3.0 is built with Kotlin 2.3 (its WORKSPACE, rules_kotlin), which compilers before 2.2
# cannot read. Kotlin 2.3 wants an Android plugin of 8.2.2 to 8.13 (developer.android.com/build/
# kotlin-support), and that one Gradle 8.13 (developer.android.com/build/releases/gradle-plugin).
# The androidx libraries are those of google-ai-edge/litert-samples' image classifier (commit
# f7eca131feca6b6c7c5758244e0352f67a8eeebe, kotlin_cpu_gpu/android/gradle/libs.versions.toml).
VERSIONS = {
    "ACTIVITY_VERSION": "1.9.0",
    "ANDROID_PLUGIN_VERSION": "8.13.2",
    "CAMERA_VERSION": "1.3.3",
    "COMPILE_SDK": "35",
    "CORE_VERSION": "1.13.0",
    "GRADLE_VERSION": "8.13",
    "KOTLIN_VERSION": "2.3.20",
    # LiteRT's own (litert/kotlin/src/main/AndroidManifest.xml).
    "MIN_SDK": "24",
    "TARGET_SDK": "34",
}
_SOURCES = "app/src/main/java"
_ASSETS = "app/src/main/assets"
# Template, and where in the project it goes; Kotlin files go to the package's folder.
_FILES = {
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "settings.gradle.kts": "settings.gradle.kts",
    "build.gradle.kts": "build.gradle.kts",
    "gradle.properties": "gradle.properties",
    "gradle-wrapper.properties": "gradle/wrapper/gradle-wrapper.properties",
    "app.build.gradle.kts": "app/build.gradle.kts",
    "AndroidManifest.xml": "app/src/main/AndroidManifest.xml",
    "strings.xml": "app/src/main/res/values/strings.xml",
}
_KOTLIN = ("Classifier.kt", "MainActivity.kt", "ModelSpec.kt", "Pixels.kt")
_TYPES = {"float32": "FLOAT32", "int8": "INT8", "uint8": "UINT8"}
# Hard keywords of Kotlin (kotlinlang.org, Keywords and operators) and of Java (JLS 3.9), whose
# words cannot stand in a package's name.
_WORDS = """
abstract as assert boolean break byte case catch char class const continue default do double else
enum extends false final finally float for fun goto if implements import in instanceof int interface
is long native new null object package private protected public return short static strictfp super
switch synchronized this throw throws transient true try typealias typeof val var void volatile when
while
"""
_RESERVED = frozenset(_WORDS.split())
# Ops that hand a score on as it is.
_PASSED_ON = ("DEQUANTIZE", "QUANTIZE", "RESHAPE", "CAST")


@dataclasses.dataclass(frozen=True)
class AndroidProject:
    """What `write_project` wrote.

    Attributes:
        folder: The project.
        files: Its files, in order, relative to it.
        package: The Kotlin package, which is the application's id too.
    """

    folder: Path
    files: tuple[Path, ...]
    package: str


def write_project(
    artifact: Artifact,
    folder: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    name: str = "Student",
    application_id: str = "com.example.student",
    accelerator: str = "cpu",
) -> AndroidProject:
    """Writes an Android Studio project: camera image in, label out, on LiteRT's CompiledModel.

    It is filled with this model's shapes, types, labels and normalization. Files of an older
    project in the folder are replaced, others are left alone.

    Args:
        artifact: An image classifier: one input [1, height, width, 1 or 3] and one output
            [1, classes], each float32, int8 or uint8.
        folder: Where the project goes; it is made if need be.
        labels: The classes' names; None takes those of the model's metadata.
        mean: The model was trained on (pixel - mean) / std, pixels in 0..255: one number, or one
            for each channel; for images in 0..1 that is mean=0, std=255. None takes the metadata's.
        std: Likewise; to be given together.
        name: What the phone shows under the icon.
        application_id: The application's id and Kotlin package, as "com.example.student".
        accelerator: "cpu", or "gpu", with the CPU for what the GPU does not take.

    Returns:
        An `AndroidProject`.

    Raises:
        ValueError: Another interface, no labels or normalization, or names that cannot stand.
        OSError: The files cannot be written.

    Example:
        >>> write_project(artifact, "app", labels="0123456789", mean=0, std=255, name="Digits")

    Reference: developers.google.com/edge/litert/next/android_kotlin.
    """
    if accelerator not in ACCELERATORS:
        raise ValueError(
            f"Expected accelerator in {', '.join(ACCELERATORS)}. Received: {accelerator!r}."
        )
    _check_names(name, application_id)
    info = inspect.model_info(artifact.content)
    _check_model(info, artifact)
    image, scores = _notes(info, artifact, labels, mean, std)
    values = _values(artifact, info, image, scores, name, application_id, accelerator)
    package_folder = f"{_SOURCES}/{application_id.replace('.', '/')}"
    contents = {
        path: _filled(template, values).encode()
        for template, path in (
            *_FILES.items(),
            *((file, f"{package_folder}/{file}") for file in _KOTLIN),
        )
    }
    contents[f"{_ASSETS}/{MODEL_FILE}"] = artifact.content
    contents[f"{_ASSETS}/{LABELS_FILE}"] = "".join(f"{label}\n" for label in scores.labels).encode()
    for path, content in contents.items():
        target = Path(folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)
    return AndroidProject(Path(folder), tuple(map(Path, sorted(contents))), application_id)


def _check_names(name: str, application_id: str) -> None:
    if not name.strip() or not name.isprintable():
        raise ValueError(f"Expected a name of printable characters. Received: {name!r}.")
    parts = application_id.split(".")
    bad = [part for part in parts if not re.fullmatch("[a-z][a-z0-9_]*", part) or part in _RESERVED]
    if len(parts) < 2 or bad:
        raise ValueError(
            "Expected an application_id of two parts or more, of lowercase letters, digits and "
            f"underscores, none a keyword. Received: {application_id!r}. "
            "Hint: 'com.example.student'."
        )


def _check_model(info: inspect.ModelInfo, artifact: Artifact) -> None:
    inputs, outputs = artifact.inputs, artifact.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "Expected an image classifier of one input and one output. "
            f"Received: {len(inputs)} and {len(outputs)}."
        )
    for tensor, fits, wanted in (
        (inputs[0], _is_image(inputs[0].shape), "[1, height, width, 1 or 3]"),
        (outputs[0], len(outputs[0].shape) == 2 and outputs[0].shape[0] == 1, "[1, classes]"),
    ):
        if not fits or tensor.dtype not in _TYPES:
            raise ValueError(
                f"Expected '{tensor.name}' as {wanted} of {', '.join(_TYPES)}. "
                f"Received: {list(tensor.shape)} of {tensor.dtype}."
            )
        if tensor.dtype != "float32" and tensor.scale is None:
            raise ValueError(
                f"Expected a scale for '{tensor.name}' of {tensor.dtype}. Received: none. "
                "Hint: convert with keras_kd.deploy.convert."
            )
    if info.custom_ops or any(tensor.is_variable for tensor in info.tensors):
        raise ValueError(
            "Expected a model that LiteRT's CompiledModel loads. Received: one with "
            f"{', '.join(info.custom_ops) or 'a state that it keeps from run to run'}. "
            "Hint: keras_kd.deploy.check(artifact, 'android-cpu') says more."
        )


def _is_image(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[0] == 1 and shape[3] in (1, 3)


def _notes(
    info: inspect.ModelInfo,
    artifact: Artifact,
    labels: Sequence[str] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> tuple[TensorMetadata, TensorMetadata]:
    """What is said of the input and the output: the arguments, else the model's metadata."""
    has_metadata = BUFFER_NAME in dict(info.metadata)
    found = read_metadata(artifact.content) if has_metadata else Metadata("")
    image = found.inputs[0] if found.inputs else TensorMetadata()
    scores = found.outputs[0] if found.outputs else TensorMetadata()
    if (mean is None) != (std is None):
        raise ValueError(f"Expected mean and std together. Received: {mean} and {std}.")
    if mean is None and not image.mean:
        raise ValueError(
            "Expected mean and std, or a model whose metadata have them. Received: neither. "
            "Hint: mean=0, std=255 for a model that was trained on images in 0..1."
        )
    if labels is None and not scores.labels:
        raise ValueError(
            "Expected labels, or a model whose metadata have them. Received: neither. "
            "Hint: labels=[...], one for each class."
        )
    made = image_classifier(
        artifact.content,
        name="",
        labels=scores.labels if labels is None else labels,
        mean=image.mean if mean is None else mean,
        std=image.std if std is None else std,
    )
    classes = artifact.outputs[0].shape[-1]
    if len(made.outputs[0].labels) != classes:
        raise ValueError(
            f"Expected {classes} labels, one for each class. "
            f"Received: {len(made.outputs[0].labels)}."
        )
    bad = [label for label in made.outputs[0].labels if str(label).splitlines() != [label]]
    if bad:
        raise ValueError(f"Expected each label as text of one line. Received: {bad[0]!r}.")
    return made.inputs[0], made.outputs[0]


def gives_logits(info: inspect.ModelInfo) -> bool:
    """Whether the first output is no probability: no softmax or logistic makes it."""
    wanted = info.outputs[0][1]
    for op in reversed([op for op in info.ops if op.subgraph == 0]):
        if wanted in op.outputs:
            if op.name not in _PASSED_ON:
                return op.name not in ("SOFTMAX", "LOGISTIC")
            wanted = op.inputs[0]
    return True


def _values(
    artifact: Artifact,
    info: inspect.ModelInfo,
    image: TensorMetadata,
    scores: TensorMetadata,
    name: str,
    application_id: str,
    accelerator: str,
) -> dict[str, str]:
    (taken,), (given,) = artifact.inputs, artifact.outputs
    height, width, channels = taken.shape[1:]
    mean, std = (
        values * channels if len(values) == 1 else values for values in (image.mean, image.std)
    )
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"Expected one mean and std or {channels}, one for each channel. "
            f"Received: {len(mean)} and {len(std)}."
        )
    on_gpu = accelerator == "gpu"
    packages = ("litert", "litert-gpu") if on_gpu else ("litert",)
    logits = gives_logits(info)
    return VERSIONS | {
        "PACKAGE": application_id,
        "LITERT_VERSION": LITERT_VERSION,
        "APP_NAME": name,
        "PROJECT_NAME": re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "student",
        "MODEL_FILE": MODEL_FILE,
        "LABELS_FILE": LABELS_FILE,
        "MODEL_BYTES": f"{artifact.size_bytes:,}",
        "QUANTIZATION": artifact.quantization,
        "WIDTH": str(width),
        "HEIGHT": str(height),
        "CHANNELS": str(channels),
        "CLASSES": str(len(scores.labels)),
        "MEAN": ", ".join(map(_float_literal, mean)),
        "STD": ", ".join(map(_float_literal, std)),
        "MEAN_TEXT": ", ".join(f"{value:.6g}" for value in mean),
        "STD_TEXT": ", ".join(f"{value:.6g}" for value in std),
        "GIVES_LOGITS": "true" if logits else "false",
        "INPUT_DESCRIPTION": f"{list(taken.shape)} of {taken.dtype}, {_colours(channels)}",
        "OUTPUT_DESCRIPTION": f"{list(given.shape)} of {given.dtype}, "
        + ("logits: a softmax is taken" if logits else "probabilities"),
        "ACCELERATORS": "Accelerator.GPU, Accelerator.CPU" if on_gpu else "Accelerator.CPU",
        "ACCELERATOR_TEXT": "the GPU, and the CPU for what that does not take"
        if on_gpu
        else "the CPU",
        "LITERT_DEPENDENCIES": "\n".join(
            f'    implementation("com.google.ai.edge.litert:{package}:{LITERT_VERSION}")'
            for package in packages
        ),
        **_tensor_values("INPUT", taken),
        **_tensor_values("OUTPUT", given),
    }


def _colours(channels: int) -> str:
    return "red, green, blue" if channels == 3 else "grey"


def _tensor_values(role: str, tensor: TensorInfo) -> dict[str, str]:
    quantized = tensor.dtype != "float32"
    return {
        f"{role}_TYPE": _TYPES[tensor.dtype],
        f"{role}_SCALE": _float_literal(tensor.scale or 1.0) if quantized else "1f",
        f"{role}_ZERO_POINT": str(tensor.zero_point or 0) if quantized else "0",
    }


def _float_literal(value: float) -> str:
    # Nine significant digits give a float32 back exactly.
    return f"{np.float32(value):.9g}f"


def _filled(template: str, values: dict[str, str]) -> str:
    # `@` alone has a meaning in Kotlin and in Android's XML, so a name stands between two.
    text = templates.text(f"android/{template}")
    if template == "strings.xml":
        values = values | {"APP_NAME": _resource(values["APP_NAME"])}
    return re.sub("@([A-Z_]+)@", lambda mark: values[mark[1]], text)


def _resource(text: str) -> str:
    """A string as an Android resource: quoted, so that spaces, "@" and "?" stand for themselves."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")
    return saxutils.escape(f'"{quoted}"')
