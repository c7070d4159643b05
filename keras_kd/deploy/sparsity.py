"""How many weights are zero, how many values they share, and how small the file becomes for it."""

from __future__ import annotations

import dataclasses
import gzip
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import Artifact
from keras_kd.report import Column, Report, Section, Table

if TYPE_CHECKING:
    import keras

# Which inputs of an op are weights, where they are constants.
_WEIGHTS = {
    "BATCH_MATMUL": (0, 1),
    "CONV_2D": (1,),
    "CONV_3D": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "EMBEDDING_LOOKUP": (1,),
    "FULLY_CONNECTED": (1,),
    "GATHER": (0,),
    "TRANSPOSE_CONV": (1,),
    # Four matrices for the input, four for the state (TensorFlow, lite/kernels/lstm_shared.h).
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (1, 2, 3, 4, 5, 6, 7, 8),
}


@dataclasses.dataclass(frozen=True)
class KernelSparsity:
    """One kernel.

    Attributes:
        name: The weight's path in a Keras model; in a file, what the converter made of it.
        weights: How many weights it has.
        zeros: How many of them are 0.
        unique: How many different numbers they are; in a quantized kernel, of the stored integers,
            whose scale may differ from channel to channel.
    """

    name: str
    weights: int
    zeros: int
    unique: int

    @property
    def sparsity(self) -> float:
        """The share of zeros, in [0, 1]."""
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class Sparsity:
    """All kernels of a model.

    Attributes:
        kernels: In the model's order.
        size_bytes: The length of the `.tflite`; None for a Keras model.
        compressed_bytes: Its length after gzip; None for a Keras model.
    """

    kernels: tuple[KernelSparsity, ...]
    size_bytes: int | None = None
    compressed_bytes: int | None = None

    @property
    def weights(self) -> int:
        """How many weights all kernels have."""
        return sum(kernel.weights for kernel in self.kernels)

    @property
    def sparsity(self) -> float:
        """The share of zeros among the weights of all kernels, in [0, 1]; 0 without any."""
        return sum(kernel.zeros for kernel in self.kernels) / max(self.weights, 1)

    def report(self) -> Report:
        """As a table, a row for each kernel."""
        columns = (
            Column("Kernel"),
            Column("Weights"),
            Column("Zeros", "%", digits=1, scale=100),
            Column("Unique"),
        )
        rows = tuple((k.name, k.weights, k.sparsity, k.unique) for k in self.kernels)
        found = f"{self.sparsity:.1%} of {self.weights:,} weights are zero."
        if self.size_bytes is not None:
            found += f" {self.size_bytes:,} bytes, {self.compressed_bytes:,} after gzip."
        table = Section("Kernels", (Table(columns, rows),))
        return Report("Sparsity", found, (table,), data=dataclasses.asdict(self))


def sparsity(model: keras.Model | Artifact | bytes | str | os.PathLike) -> Sparsity:
    """Counts the zeros and the different values of a model's kernels.

    Kernels are the weights of two axes or more of a Keras model; of a converted one, the constants
    that convolutions, matrix products, look-ups and LSTMs multiply by.

    Args:
        model: A built Keras model, or a converted one: an artifact, the bytes of a `.tflite`, or
            its path.

    Returns:
        A `Sparsity`.

    Raises:
        TypeError: It is none of these.
        ValueError: It is no TFLite flatbuffer, or has kernels of 4 bits or in sparse form.

    Example:
        >>> found = keras_kd.deploy.sparsity(artifact)
        >>> found.sparsity, found.size_bytes, found.compressed_bytes
        (0.797, 22760, 9876)

    Reference: tensorflow.org/model_optimization, guide "Pruning in Keras", which measures the file
    after compression too.
    """
    if isinstance(model, Artifact):
        model = model.content
    if isinstance(model, bytes | str | os.PathLike):
        info = inspect.model_info(model)
        return Sparsity(
            tuple(_of_file(info)), len(info.content), len(gzip.compress(info.content, mtime=0))
        )
    import keras

    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected a Keras model, an Artifact, or the bytes or path of a .tflite. Received: "
            f"{type(model).__name__}. Hint: keras_kd.quantization.tfmot.to_keras makes a Keras "
            "model of a tf_keras one."
        )
    return Sparsity(
        tuple(
            _kernel(variable.path, keras.ops.convert_to_numpy(variable))
            for variable in model.weights
            if len(variable.shape) > 1
        )
    )


def _of_file(info: inspect.ModelInfo) -> Iterator[KernelSparsity]:
    made_by = {(op.subgraph, index): op for op in info.ops for index in op.outputs}
    seen = set()
    for op in info.ops:
        for slot in _WEIGHTS.get(op.name, ()):
            if slot >= len(op.inputs) or op.inputs[slot] < 0:
                continue
            tensor = info.tensor(op.inputs[slot], op.subgraph)
            source = made_by.get((op.subgraph, tensor.index))
            if source is not None and source.name == "DEQUANTIZE":
                # Weights in float16, which are dequantized when the model is loaded.
                tensor = info.tensor(source.inputs[0], op.subgraph)
            if tensor.is_sparse:
                raise ValueError(
                    f"Expected kernels stored in full. Received: '{tensor.name}' in TFLite's "
                    "sparse form, whose zeros are not in the file."
                )
            values = info.values(tensor)
            if values is None or tensor.buffer in seen:
                continue
            seen.add(tensor.buffer)
            # Symmetric for int8 (LiteRT 8-bit quantization specification): 0 is stored as 0, or in
            # uint8 as the tensor's zero point.
            zero = tensor.zero_points[0] if tensor.zero_points else 0
            yield _kernel(tensor.name.split(";")[0], values, zero)


def _kernel(name: str, values: np.ndarray, zero: int = 0) -> KernelSparsity:
    return KernelSparsity(
        name=name,
        weights=values.size,
        zeros=int((values == zero).sum()),
        unique=len(np.unique(values)),
    )
