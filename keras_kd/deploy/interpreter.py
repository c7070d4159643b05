"""Runs a `.tflite` like a Keras model, on LiteRT or on TFLite Micro.

Numbers go in and come out as the float model's. What is in between follows the runtimes' own
arithmetic: real = scale * (stored - zero_point), and

    stored = clip(round(real / scale) + zero_point, lowest, highest)

in float32 with halves rounded away from zero, as the reference QUANTIZE kernel does (TensorFlow
Lite, kernels/internal/reference/quantize.h, which TFLM shares). XNNPACK, LiteRT's default, rounds
halves to even in its own QUANTIZE op, so a model with a float32 input may differ by one step there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import Artifact, TensorInfo, interface
from keras_kd.deploy.runtimes import LiteRT, Runtime, TFLiteMicro
from keras_kd.deploy.structure import values_by_input

RUNTIMES = ("litert", "litert_reference", "tflm")


class Interpreter:
    """A converted model, ready to predict.

    Args:
        model: An `Artifact`, the bytes of a `.tflite`, or its path. Any `.tflite` with a batch of 1
            (or a free one) will do, of this package or not.
        runtime: "litert" (as on a phone: XNNPACK kernels), "litert_reference" (LiteRT's reference
            kernels, which define integer results) or "tflm" (TFLite Micro, as on a
            microcontroller; needs `keras_kd[mcu]`).
        arena_bytes: For tflm alone: the memory there is; a model that needs more is refused.
        num_threads: For the LiteRT runtimes alone.

    Raises:
        ImportError: runtime="tflm" without the extra [mcu].
        ValueError: An unknown runtime, an option of another runtime, no TFLite flatbuffer, another
            batch than 1, or ops that the runtime lacks, all of them named.
        RuntimeError: The runtime refuses the model; the message has what it wrote.

    Example:
        >>> interpreter = keras_kd.deploy.Interpreter(artifact, "tflm")
        >>> interpreter.predict(x_test).shape
        (297, 10)
        >>> interpreter.arena_bytes
        4544
    """

    def __init__(
        self,
        model: Artifact | bytes | str | os.PathLike,
        runtime: str = "litert",
        *,
        arena_bytes: int | None = None,
        num_threads: int = 1,
    ):
        if runtime not in RUNTIMES:
            raise ValueError(f"Expected runtime in {', '.join(RUNTIMES)}. Received: {runtime!r}.")
        if arena_bytes is not None and runtime != "tflm":
            raise ValueError(
                f"Expected arena_bytes only for runtime='tflm'. Received: {arena_bytes} for "
                f"runtime='{runtime}'. Hint: leave it out."
            )
        if num_threads != 1 and runtime == "tflm":
            raise ValueError(
                f"Expected num_threads=1 for runtime='tflm', which has one thread. "
                f"Received: {num_threads}."
            )
        for name, value in (("arena_bytes", arena_bytes), ("num_threads", num_threads)):
            if value is not None and not (isinstance(value, int) and value > 0):
                raise ValueError(f"Expected {name} to be a positive int. Received: {value!r}.")
        content = _content(model)
        self.runtime = runtime
        self.info = inspect.model_info(content)
        self.inputs, self.outputs = interface(self.info)
        _check_batch(self.inputs)
        if runtime == "tflm":
            self._runtime: Runtime = TFLiteMicro(content, self.info, arena_bytes)
        else:
            reference = runtime == "litert_reference"
            self._runtime = LiteRT(content, self.info, reference, num_threads)

    @property
    def arena_bytes(self) -> int | None:
        """Bytes of arena that the model used (TFLM measured it), None for LiteRT.

        Within 13 % of a Cortex-M's with its own kernels, either way, and up to a kilobyte less than
        TFLM wants while it starts: allow 20 % and a kilobyte on top.
        """
        return self._runtime.arena_bytes

    def predict(self, x: Any, progress: bool = False) -> Any:
        """The model's outputs for a batch of any size; the examples are run one by one.

        Args:
            x: An array [batch, ...], or a dict by input name or a list of them. An array whose
                dtype is the integer dtype of a quantized input is taken as quantized already;
                any other is taken as real numbers, and quantized.
            progress: Whether to show a progress bar.

        Returns:
            float32 outputs (integers where the model's output has no scale), as the Keras model
            gives them: a dict by name, a list, or, for a single output, an array. A tuple comes
            back as a list.

        Raises:
            ValueError: Other inputs or shapes, NaN, or numbers that an integer input cannot hold.
        """
        stored = [
            array if _is_stored(array, tensor) else to_stored(array, tensor)
            for array, tensor in zip(self._arrays(x), self.inputs, strict=True)
        ]
        outputs = self._run(stored, progress)
        return self._structured(
            [to_real(array, tensor) for array, tensor in zip(outputs, self.outputs, strict=True)]
        )

    def predict_quantized(self, x: Any, progress: bool = False) -> Any:
        """Like `predict`, with the numbers that the tensors hold, in and out.

        Raises:
            TypeError: An array is not of its input's dtype.
        """
        stored = self._arrays(x)
        for array, tensor in zip(stored, self.inputs, strict=True):
            if array.dtype != tensor.dtype:
                raise TypeError(
                    f"Expected {tensor.dtype} for input '{tensor.name}'. Received: {array.dtype}. "
                    "Hint: predict() takes real numbers and quantizes them."
                )
        return self._structured(self._run(stored, progress))

    def latencies_ms(self, *, runs: int = 50, warmup_runs: int = 10) -> np.ndarray:
        """Milliseconds of each of `runs` runs of one example, after `warmup_runs` unmeasured ones.

        The run alone: no quantization, no copying of inputs and outputs. The inputs are those of
        the last prediction, or whatever the runtime starts with.
        """
        if runs < 1 or warmup_runs < 0:
            raise ValueError(
                f"Expected runs >= 1 and warmup_runs >= 0. Received: {runs} and {warmup_runs}."
            )
        for _ in range(warmup_runs):
            self._runtime.invoke()
        taken = []
        for _ in range(runs):
            start = time.perf_counter_ns()
            self._runtime.invoke()
            taken.append(time.perf_counter_ns() - start)
        return np.asarray(taken) / 1e6

    def _arrays(self, x: Any) -> list[np.ndarray]:
        names = [tensor.name for tensor in self.inputs]
        rank = len(self.inputs[0].shape)
        values = values_by_input(x, names, rank=rank, what="x")
        arrays = [np.asarray(value) for value in values]
        for array, tensor in zip(arrays, self.inputs, strict=True):
            if array.ndim == 0 or array.shape[1:] != tensor.shape[1:]:
                shape = ("batch", *tensor.shape[1:])
                raise ValueError(
                    f"Expected shape ({', '.join(map(str, shape))}) for input '{tensor.name}'. "
                    f"Received: {array.shape}. Hint: one example wants a batch axis: x[None]."
                )
        counts = {tensor.name: len(a) for tensor, a in zip(self.inputs, arrays, strict=True)}
        if len(set(counts.values())) > 1:
            raise ValueError(f"Expected inputs of one batch size. Received: {counts}.")
        return arrays

    def _run(self, stored: list[np.ndarray], progress: bool) -> list[np.ndarray]:
        count = len(stored[0])
        stored = [np.ascontiguousarray(array) for array in stored]
        bar = _progress_bar(count) if progress and count else None
        rows: list[list[np.ndarray]] = []
        for i in range(count):
            self._runtime.reset()
            for slot, array in enumerate(stored):
                self._runtime.set_input(slot, array[i : i + 1])
            self._runtime.invoke()
            rows.append([self._runtime.output(slot) for slot in range(len(self.outputs))])
            if bar is not None:
                bar.update(i + 1)
        if not rows:
            return [np.empty((0, *t.shape[1:]), t.dtype) for t in self.outputs]
        return [_joined(column) for column in zip(*rows, strict=True)]

    def _structured(self, outputs: list[np.ndarray]) -> Any:
        names = [tensor.name for tensor in self.outputs]
        if len(outputs) == 1:
            return outputs[0]
        if names == [f"output_{i}" for i in range(len(names))]:
            return outputs
        return dict(zip(names, outputs, strict=True))


class Recorder:
    """LiteRT's reference kernels on one example, after which every tensor can be read.

    Nothing is fused or delegated, and no tensor's memory is used twice.

    Args:
        content: A `.tflite` with a batch of 1.

    Raises:
        ValueError: No TFLite flatbuffer.
        RuntimeError: LiteRT refuses the model.
    """

    def __init__(self, content: bytes):
        info = inspect.model_info(content)
        self._runtime = LiteRT(content, info, reference=True, num_threads=1, keep_tensors=True)

    def run(self, inputs: Sequence[np.ndarray]) -> None:
        """Runs one example, from a fresh state; arrays as the main subgraph's inputs hold them."""
        self._runtime.reset()
        for slot, array in enumerate(inputs):
            self._runtime.set_input(slot, array)
        self._runtime.invoke()

    def tensor(self, index: int) -> np.ndarray:
        """A copy of a tensor of the main subgraph, as it was left by the last run."""
        return self._runtime.tensor(index)


def predict(
    model: Artifact | bytes | str | os.PathLike,
    x: Any,
    runtime: str = "litert",
    *,
    progress: bool = False,
) -> Any:
    """Predicts with a `.tflite` in one call: see `Interpreter` and its `predict`."""
    return Interpreter(model, runtime).predict(x, progress=progress)


def to_stored(real: np.ndarray, tensor: TensorInfo) -> np.ndarray:
    """Real numbers as a tensor holds them: quantized, or cast where it has no scale.

    stored = clip(round(real / scale) + zero_point), halves away from zero.

    Raises:
        ValueError: NaN for integers, or numbers that an integer tensor without scale cannot hold.
    """
    if tensor.scale is None:
        if np.dtype(tensor.dtype).kind not in "iu":
            return real.astype(tensor.dtype)
        if not np.can_cast(real.dtype, tensor.dtype):
            limits = np.iinfo(tensor.dtype)
            fits = (real >= limits.min) & (real <= limits.max) & (real == np.floor(real))
            if not np.all(fits):
                raise ValueError(
                    f"Expected whole numbers that {tensor.dtype} holds for input "
                    f"'{tensor.name}'. Received: {real.dtype} with others."
                )
        return real.astype(tensor.dtype)
    with np.errstate(over="ignore"):  # To infinity, which is clipped.
        ratio = real.astype(np.float32) / np.float32(tensor.scale)
    if np.isnan(ratio).any():
        raise ValueError(f"Expected numbers for input '{tensor.name}'. Received: NaN.")
    ratio = np.clip(ratio, -(2.0**17), 2.0**17)  # Beyond any int16, and finite for infinity.
    whole = np.floor(np.abs(ratio))
    rounded = np.copysign(whole + (np.abs(ratio) - whole >= 0.5), ratio)
    limits = np.iinfo(tensor.dtype)
    return np.clip(rounded + tensor.zero_point, limits.min, limits.max).astype(tensor.dtype)


def to_real(stored: np.ndarray, tensor: TensorInfo) -> np.ndarray:
    """What a tensor's contents stand for: scale * (stored - zero_point), in float32."""
    if tensor.scale is None or tensor.zero_point is None:
        return stored
    centred = stored.astype(np.int32) - np.int32(tensor.zero_point)
    return centred.astype(np.float32) * np.float32(tensor.scale)


def _is_stored(array: np.ndarray, tensor: TensorInfo) -> bool:
    return tensor.scale is not None and array.dtype == tensor.dtype


def _content(model: Artifact | bytes | str | os.PathLike) -> bytes:
    if isinstance(model, Artifact):
        return model.content
    if isinstance(model, str | os.PathLike):
        with open(model, "rb") as file:
            return file.read()
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model)
    raise TypeError(
        "Expected an Artifact, the bytes of a .tflite, or its path. "
        f"Received: {type(model).__name__}. Hint: keras_kd.deploy.convert(model, ...) makes one."
    )


def _check_batch(inputs: Sequence[TensorInfo]) -> None:
    other = [f"'{t.name}' {t.shape}" for t in inputs if not t.shape or t.shape[0] != 1]
    if other:
        raise ValueError(
            f"Expected inputs with a batch of 1. Received: {', '.join(other)}. "
            "Hint: keras_kd.deploy.convert makes such a model."
        )


def _joined(column: Sequence[np.ndarray]) -> np.ndarray:
    batched = column[0].ndim > 0 and column[0].shape[0] == 1
    return np.concatenate(column) if batched else np.stack(column)


def _progress_bar(count: int) -> Any:
    import keras

    return keras.utils.Progbar(count, unit_name="example")
