"""What MediaPipe Tasks' ImageClassifier takes: the interface, and what must stand in the metadata.

Source: github.com/google-ai-edge/mediapipe, mediapipe/tasks/cc/vision/utils/image_tensor_specs.cc
(commit 3b85afc6e1523af81d3b7bdf51e855972490a2f1), tasks/cc/components/processors/
image_preprocessing_graph.cc (1bd800697eb6a8121d912d4bb2c5274c29254046) and
classification_postprocessing_graph.cc (0aea6d90a8f42c9170bfef43f0a7b7f2d02963d2). Verified by
tests/deploy/test_mediapipe.py with mediapipe 1.2.2 on a PC.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import TensorInfo, interface
from keras_kd.deploy.findings import ERROR, NOTE, WARNING, Finding, Subject
from keras_kd.deploy.package.metadata import (
    BUFFER_NAME,
    Metadata,
    TensorMetadata,
    read_metadata,
)

_TASKS = "github.com/google-ai-edge/mediapipe, mediapipe/tasks/cc"
_SPECS = f"{_TASKS}/vision/utils/image_tensor_specs.cc, BuildInputImageTensorSpecs"
_PREPROCESSING = (
    f"{_TASKS}/components/processors/image_preprocessing_graph.cc, ConfigureImageToTensorCalculator"
)
_POSTPROCESSING = f"{_TASKS}/components/processors/classification_postprocessing_graph.cc"
_SEEN = "mediapipe 1.2.2 on a PC"
_WRITE = "Write it: keras_kd.deploy.package.write_metadata(content, image_classifier(content, ...))"
# A uint8 input may be off by the rounding of its zero point alone, and that in float32.
_LARGEST_STEP_ERROR = 0.5 + 1e-3


def findings(subject: Subject) -> Iterator[Finding]:
    """Everything that keeps ImageClassifier from running the model, or makes it run wrongly."""
    inputs, outputs = interface(subject.info)
    if len(subject.info.subgraph_names) != 1 or len(inputs) != 1:
        yield Finding(
            ERROR,
            "mediapipe-interface",
            f"MediaPipe's image tasks want one subgraph and one input; the model has "
            f"{len(subject.info.subgraph_names)} and {len(inputs)}.",
            "Export one image input, and unroll loops.",
            source=_SPECS,
        )
        return
    yield from _shapes(inputs[0], outputs)
    metadata, damage = _metadata(subject.info)
    if damage:
        yield Finding(
            ERROR,
            "metadata-damaged",
            damage,
            f"{_WRITE}; it replaces what is there.",
            source=f"{_TASKS}/metadata/metadata_extractor.cc",
        )
        return
    yield from _normalization(inputs[0], metadata)
    yield from _labels(outputs, metadata)


def _metadata(info: inspect.ModelInfo) -> tuple[Metadata | None, str]:
    if BUFFER_NAME not in dict(info.metadata):
        return None, ""
    try:
        return read_metadata(info.content), ""
    except ValueError as err:
        return None, str(err)


def _shapes(image: TensorInfo, outputs: tuple[TensorInfo, ...]) -> Iterator[Finding]:
    shape = image.shape
    if len(shape) != 4 or shape[0] != 1 or shape[3] not in (3, 4):
        yield Finding(
            ERROR,
            "mediapipe-input-shape",
            f"Input '{image.name}' is {list(shape)}; MediaPipe's image tasks take "
            "[1, height, width, 3], colour images.",
            "Give the Keras model an input of three channels; for a grey one, average them in the "
            "first layer.",
            (f"input '{image.name}'",),
            _SPECS,
            _SEEN,
        )
    for scores in outputs:
        if len(scores.shape) not in (2, 4) or np.prod(scores.shape[:-1]) != 1:
            yield Finding(
                ERROR,
                "mediapipe-output-shape",
                f"Output '{scores.name}' is {list(scores.shape)}; ImageClassifier reads scores "
                "[1, classes].",
                "End the model in one score for each class.",
                (f"output '{scores.name}'",),
                "ai.google.dev/edge/mediapipe/solutions/vision/image_classifier, Models",
            )


def _normalization(image: TensorInfo, metadata: Metadata | None) -> Iterator[Finding]:
    notes = metadata.inputs[0] if metadata and metadata.inputs else TensorMetadata()
    where = (f"input '{image.name}'",)
    if image.dtype == "float32" and not notes.mean:
        yield Finding(
            ERROR,
            "metadata-normalization",
            f"Input '{image.name}' is float32, and no metadata tell how pixels become what it "
            "expects.",
            f"{_WRITE} with mean and std of (pixel - mean) / std, pixels in 0..255.",
            where,
            _SPECS,
            _SEEN,
        )
    if image.dtype == "float32" and len({*zip(notes.mean, notes.std, strict=True)}) > 1:
        yield Finding(
            ERROR,
            "metadata-per-channel",
            "The metadata normalize each channel otherwise; MediaPipe has one mean and one std for "
            "all of them.",
            "Move the normalization into the model (a Normalization layer), and give mean=0, "
            "std=255 or what is left.",
            where,
            _PREPROCESSING,
            _SEEN,
        )
    if image.dtype == "uint8" and image.scale is not None:
        yield from _pixels(image, notes, where)


def _pixels(image: TensorInfo, notes: TensorMetadata, where: tuple[str, ...]) -> Iterator[Finding]:
    """A uint8 input gets the pixel itself: does that stand for what the model was trained on?"""
    scale, zero_point = image.scale or 1.0, image.zero_point or 0
    if not notes.mean:
        low = -scale * zero_point
        yield Finding(
            NOTE,
            "mediapipe-pixels",
            f"MediaPipe hands the pixels 0..255 over as they are; to the model they are "
            f"{low:.4g}..{low + 255 * scale:.4g}.",
            "Compare that with the range of the training images. With mean and std in the metadata "
            "it is checked here.",
            where,
            _PREPROCESSING,
            _SEEN,
        )
        return
    pixels = np.arange(256.0)[:, None]
    real = (pixels - np.asarray(notes.mean)) / np.asarray(notes.std)
    error = np.abs(real / scale + zero_point - pixels).max()
    if error > _LARGEST_STEP_ERROR:
        yield Finding(
            WARNING,
            "mediapipe-pixels",
            f"MediaPipe hands the pixels 0..255 over as they are, but the input's scale "
            f"{scale:.4g} and zero point {zero_point} do not undo mean and std: up to "
            f"{error:.3g} of 255 steps off.",
            "Calibrate on images that reach both ends of the range, or convert with "
            'input_dtype="float32".',
            where,
            _PREPROCESSING,
            _SEEN,
        )


def _labels(outputs: tuple[TensorInfo, ...], metadata: Metadata | None) -> Iterator[Finding]:
    entries = metadata.outputs if metadata else ()
    if entries and len(entries) != len(outputs):
        yield Finding(
            ERROR,
            "metadata-outputs",
            f"The metadata describe {len(entries)} outputs; the model has {len(outputs)}.",
            _WRITE + ".",
            source=_POSTPROCESSING,
        )
        return
    for number, scores in enumerate(outputs):
        labels = entries[number].labels if entries else ()
        classes = scores.shape[-1] if scores.shape else 0
        where = (f"output '{scores.name}'",)
        if not labels:
            yield Finding(
                WARNING,
                "metadata-labels",
                f"No labels for output '{scores.name}': the application gets class numbers alone.",
                f"{_WRITE} with labels.",
                where,
                f"{_POSTPROCESSING}, GetLabelItemsIfAny",
                _SEEN,
            )
        elif len(labels) != classes:
            yield Finding(
                ERROR,
                "metadata-labels",
                f"{len(labels)} labels for the {classes} classes of output '{scores.name}'.",
                f"{_WRITE} with a label for each class.",
                where,
                f"{_POSTPROCESSING}, GetLabelItemsIfAny",
            )
