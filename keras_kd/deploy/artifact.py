"""What a conversion hands over: the bytes of a `.tflite` and what one must know to feed them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from keras_kd.deploy import inspect

QUANTIZATIONS = ("float32", "float16", "dynamic_range", "int8", "int16x8")


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """One input or output of a converted model.

    real = scale * (stored - zero_point); `scale` and `zero_point` are None where the tensor holds
    the numbers themselves.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A converted model.

    Args:
        content: The `.tflite` flatbuffer.
        quantization: One of "float32", "float16", "dynamic_range", "int8", "int16x8".
        inputs: The inputs in the Keras model's order.
        outputs: The outputs in the Keras model's order.
        path: Where the bytes are on disk, if they are.
        calibration_examples: How many examples the ranges were taken from; 0 where none were, None
            where that is not known (a file that was loaded).
    """

    content: bytes = dataclasses.field(repr=False)
    quantization: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    path: Path | None = None
    calibration_examples: int | None = None

    @property
    def size_bytes(self) -> int:
        """Length of the flatbuffer, which is its size in flash."""
        return len(self.content)

    def save(self, path: str | os.PathLike) -> Artifact:
        """Writes the flatbuffer and returns this artifact with its `path` set.

        Raises:
            OSError: The file cannot be written; an older file is left whole.
        """
        check_writable(path)
        write_atomically(path, self.content)
        return dataclasses.replace(self, path=Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Artifact:
        """Reads a `.tflite`, of this package or any other; the scheme is read off its tensors.

        Raises:
            ValueError: The file is no TFLite flatbuffer.
        """
        content = Path(path).read_bytes()
        info = inspect.model_info(content)
        inputs, outputs = interface(info)
        return cls(content, quantization_of(info), inputs, outputs, path=Path(path))


def interface(info: inspect.ModelInfo) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The inputs and outputs of the main subgraph, in its order, under their signature names."""

    def described(slots: tuple[tuple[str, int], ...]) -> tuple[TensorInfo, ...]:
        described = []
        for name, index in slots:
            tensor = info.tensor(index)
            quantized = len(tensor.scales) == 1
            described.append(
                TensorInfo(
                    name=name,
                    shape=tensor.shape,
                    dtype=tensor.dtype,
                    scale=tensor.scales[0] if quantized else None,
                    zero_point=tensor.zero_points[0] if quantized else None,
                )
            )
        return tuple(described)

    return described(info.inputs), described(info.outputs)


def quantization_of(info: inspect.ModelInfo) -> str:
    """The scheme that a flatbuffer was quantized with, read off its tensors' types.

    Activations decide between int16x8 and int8 (an int8 LSTM's int16 state is none); among float
    activations the constants decide. A dynamic-range model whose constants are all small
    (TensorFlow leaves those below 1024 elements alone) is a float32 model, and is called so.
    """
    activations = {
        t.dtype for t in info.tensors if t.scales and not (t.is_constant or t.is_variable)
    }
    constants = {t.dtype for t in info.tensors if t.is_constant}
    weights = {t.dtype for t in info.tensors if t.is_constant and t.scales}
    if activations & {"int8", "uint8"}:
        return "int8"
    if "int16" in activations:
        return "int16x8"
    if "float16" in constants:
        return "float16"
    if weights & {"int8", "int4"}:
        return "dynamic_range"
    return "float32"


def check_writable(path: str | os.PathLike) -> None:
    """Raises OSError where a file could not be written, without leaving anything behind."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"Expected the path of a file to write. Received: the folder '{path}'. "
            f"Hint: name the file too, as in '{path / 'student.tflite'}'."
        )
    probe = _beside(path)
    try:
        with open(probe, "xb"):
            pass
    except OSError as err:
        raise OSError(
            f"Expected an output path that can be written. Received: '{path}' ({err.strerror}). "
            "Hint: make the folder first, or choose one that you may write to."
        ) from err
    probe.unlink()


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes beside and renames, so that a crash leaves an older file whole.

    Raises:
        OSError: It cannot be written, for want of space for one; an older file is left whole.
    """
    path = Path(path)
    beside = _beside(path)
    try:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as err:
        raise OSError(
            f"Expected room for {len(content):,} bytes at '{path}'. Received: {err.strerror}."
        ) from err
    finally:
        beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
