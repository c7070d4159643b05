"""TFLite metadata: what a phone's libraries must know of a model, in the model's own file.

MediaPipe Tasks and Android Studio read a second flatbuffer out of the model's buffer
"TFLITE_METADATA" (names, normalization, which file holds the labels) and the label files out of a
zip archive at the end of the file, where they are stored and not compressed.

Reference: MediaPipe, mediapipe/tasks/cc/metadata/metadata_extractor.cc; ai.google.dev/edge/litert/
conversion/tensorflow/metadata.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import TensorInfo, interface
from keras_kd.deploy.model_contents import buffer_content
from keras_kd.deploy.package import flatbuffer_tables, metadata_schema, wrapped_model
from keras_kd.deploy.package.metadata_schema import Metadata, TensorMetadata

__all__ = [
    "BUFFER_NAME",
    "Metadata",
    "TensorMetadata",
    "image_classifier",
    "metadata_buffer",
    "read_metadata",
    "without_metadata",
    "write_metadata",
]

BUFFER_NAME = "TFLITE_METADATA"
# ImageNet's 21,843 labels are half a megabyte.
LARGEST_FILE_BYTES = 1 << 20


def image_classifier(
    content: bytes,
    *,
    name: str,
    labels: Sequence[str],
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    description: str = "",
    version: str = "",
    author: str = "",
    licence: str = "",
) -> Metadata:
    """The metadata of an image classifier, as MediaPipe's ImageClassifier wants them.

    Args:
        content: The `.tflite`, of one input [1, height, width, channels] and one output.
        name: The model's name.
        labels: The classes' names, in the output's order.
        mean: The model was trained on (pixel - mean) / std, pixels in 0..255: one number, or one
            for each channel. For images in 0..1 that is mean=0, std=255.
        std: Likewise.
        description: What it does.
        version: Its version.
        author: Who made it.
        licence: Its licence.

    Raises:
        ValueError: Another interface, or numbers that do not fit it.

    Example:
        >>> notes = image_classifier(artifact.content, name="digits", labels="0123456789", std=255)
        >>> content = write_metadata(artifact.content, notes)
    """
    inputs, outputs = interface(inspect.model_info(content))
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "Expected an image classifier of one input and one output. "
            f"Received: {len(inputs)} and {len(outputs)}."
        )
    means, stds = _numbers_of(mean), _numbers_of(std)
    count = max(len(means), len(stds))
    means, stds = (values * count if len(values) == 1 else values for values in (means, stds))
    image = TensorMetadata(name=inputs[0].name, image=True, mean=means, std=stds)
    image = dataclasses.replace(
        image,
        minimum=tuple((0 - m) / s for m, s in zip(image.mean, image.std, strict=True)),
        maximum=tuple((255 - m) / s for m, s in zip(image.mean, image.std, strict=True)),
    )
    scores = TensorMetadata(name=outputs[0].name, labels=tuple(labels))
    return Metadata(name, description, version, author, licence, (image,), (scores,))


def write_metadata(content: bytes, metadata: Metadata) -> bytes:
    """The model with metadata, in place of any that it had; the same bytes each time.

    The model computes what it did: it is in the result byte for byte, at a multiple of 16.

    Args:
        content: A `.tflite`.
        metadata: What is to be said of it.

    Returns:
        The bytes of a `.tflite`.

    Raises:
        ValueError: No `.tflite`, one whose constants lie outside the flatbuffer (above 2 GB), or
            metadata that do not fit its inputs and outputs.

    Example:
        >>> notes = image_classifier(artifact.content, name="digits", labels="0123456789", std=255)
        >>> content = write_metadata(artifact.content, notes)
        >>> dataclasses.replace(artifact, content=content).save("digits.tflite")
    """
    content = without_metadata(content)
    info = inspect.model_info(content)
    inputs, outputs = interface(info)
    metadata = dataclasses.replace(
        metadata,
        inputs=_filled(metadata.inputs, inputs, "inputs"),
        outputs=_filled(metadata.outputs, outputs, "outputs"),
    )
    files = _label_files(metadata)
    with _damage("model"):
        packed = metadata_schema.packed(metadata, inputs, outputs)
        model = wrapped_model.wrapped(content, BUFFER_NAME, packed)
    return _with_files(model, files)


def read_metadata(content: bytes) -> Metadata:
    """The metadata in a `.tflite`, whoever wrote them; fields that `Metadata` lacks are left out.

    Args:
        content: A `.tflite`.

    Raises:
        ValueError: No `.tflite`, one without metadata, or damaged ones.

    Example:
        >>> read_metadata(Path("digits.tflite").read_bytes()).outputs[0].labels[:3]
        ('0', '1', '2')
    """
    packed = metadata_buffer(content)
    if packed is None:
        raise ValueError(
            f"Expected a model with the metadata buffer '{BUFFER_NAME}'. Received: one without. "
            "Hint: write_metadata adds it."
        )
    if packed[4:8] != metadata_schema.FILE_IDENTIFIER:
        raise ValueError(
            f"Expected metadata with '{metadata_schema.FILE_IDENTIFIER.decode()}' at byte 4. "
            f"Received: {len(packed)} bytes, starting {packed[:8]!r}."
        )
    with _damage("metadata"):
        return metadata_schema.unpacked(packed, _archive(content))


def metadata_buffer(content: bytes) -> bytes | None:
    """The metadata's flatbuffer, or None where the model has none.

    Raises:
        ValueError: No `.tflite`.
    """
    info = inspect.model_info(content)
    places = [index for name, index in info.metadata if name == BUFFER_NAME]
    if not places:
        return None
    with _damage("metadata"):
        return buffer_content(content, places[0])


def without_metadata(content: bytes) -> bytes:
    """The model as it was before `write_metadata`; any other model as it is, without label files.

    What another tool wrote stays in the flatbuffer, where taking it out would move the constants;
    `write_metadata` lets nothing point to it any more.

    Raises:
        ValueError: No `.tflite`.
    """
    if metadata_buffer(content) is None:
        return content
    flatbuffer = content[: _files_start(content)]
    return wrapped_model.original(flatbuffer) or flatbuffer


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    try:
        yield
    except (*flatbuffer_tables.DAMAGE, KeyError, zipfile.error) as err:
        # What flatbuffers' accessors and zipfile raise on offsets that lead nowhere.
        raise ValueError(
            f"Expected whole {what}. Received: damaged bytes ({type(err).__name__}: {err})."
        ) from err


def _numbers_of(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(value))


def _filled(
    given: Sequence[TensorMetadata], tensors: Sequence[TensorInfo], role: str
) -> tuple[TensorMetadata, ...]:
    """One entry for each tensor, named, each held against its tensor."""
    given = tuple(given) or (TensorMetadata(),) * len(tensors)
    if len(given) != len(tensors):
        raise ValueError(
            f"Expected {len(tensors)} entries in {role}: "
            f"{', '.join(tensor.name for tensor in tensors)}. Received: {len(given)}."
        )
    for entry, tensor in zip(given, tensors, strict=True):
        channels = tensor.shape[-1] if tensor.shape else 1
        is_image = len(tensor.shape) == 4 and channels in metadata_schema.COLOR_SPACES
        if entry.image and not is_image:
            raise ValueError(
                f"Expected '{tensor.name}' to be an image [1, height, width, 1 or 3]. "
                f"Received: {list(tensor.shape)}. Hint: image=False."
            )
        for field in ("mean", "minimum"):
            count = len(getattr(entry, field))
            if count not in (0, 1, channels):
                raise ValueError(
                    f"Expected one number or {channels} in {field} for '{tensor.name}'. "
                    f"Received: {count}."
                )
        _check_labels(entry.labels, tensor, channels)
    # MediaPipe reads the name of each output without asking whether there is one.
    return tuple(
        dataclasses.replace(entry, name=entry.name or tensor.name)
        for entry, tensor in zip(given, tensors, strict=True)
    )


def _check_labels(labels: Sequence[str], tensor: TensorInfo, classes: int) -> None:
    if not labels:
        return
    if len(labels) != classes:
        raise ValueError(
            f"Expected {classes} labels for '{tensor.name}' of shape {list(tensor.shape)}. "
            f"Received: {len(labels)}."
        )
    bad = [label for label in labels if not isinstance(label, str) or label.splitlines() != [label]]
    if bad:
        raise ValueError(
            "Expected each label as text of one line, since the file has one a line. "
            f"Received: {bad[0]!r}."
        )


def _label_files(metadata: Metadata) -> dict[str, str]:
    """Text by file name, for each tensor that has labels."""
    return {
        metadata_schema.label_file(role, index): "\n".join(entry.labels) + "\n"
        for role, entries in (("input", metadata.inputs), ("output", metadata.outputs))
        for index, entry in enumerate(entries)
        if entry.labels
    }


def _with_files(model: bytes, files: dict[str, str]) -> bytes:
    if not files:
        return model
    whole = io.BytesIO()
    whole.write(model)
    # Appended, so that the archive's positions count from the beginning of the file.
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text.encode())
    return whole.getvalue()


def _archive(content: bytes) -> Callable[[str], str]:
    """A function from a file's name to its text."""

    def text(name: str) -> str:
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise ValueError(
                f"Expected the file '{name}' at the model's end. Received: no archive."
            )
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entry = archive.getinfo(name)
            if entry.file_size > LARGEST_FILE_BYTES:
                raise ValueError(
                    f"Expected '{name}' of at most {LARGEST_FILE_BYTES:,} bytes. "
                    f"Received: {entry.file_size:,}."
                )
            return archive.read(entry).decode()

    return text


def _files_start(content: bytes) -> int:
    """Where the label files begin; the length of the file where it has none."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return len(content)
    with _damage("label files"), zipfile.ZipFile(io.BytesIO(content)) as archive:
        return min((entry.header_offset for entry in archive.infolist()), default=len(content))
