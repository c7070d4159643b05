"""Which layer a quantization hurts: the error of every op's output against the float model's.

The float32 conversion and the quantized one run on the same examples, on the reference kernels,
with all tensors kept. For a tensor s of the float model and what its twin stands for, q,

    SQNR = 10 log10( sum s^2 / sum (s - q)^2 )   in dB, over all elements of all examples:

6 dB more is half the error. Two of them tell an op's own fault from what it was handed:

- `sqnr_db`: the error as the device has it, with that of all ops before.
- `own_sqnr_db`: the op's own. The float model's activations are rounded as the op's inputs hold
  them, and the op alone runs on those, quantized and in float. What is left are its weights, its
  arithmetic, and the range of its output.

Reference: Lin, Talathi & Annapureddy, arXiv:1511.06393, for the SQNR of a layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import Artifact, TensorInfo
from keras_kd.deploy.float_tensors import layer_in_name, layers_by_path
from keras_kd.deploy.interpreter import Recorder, to_real, to_stored
from keras_kd.deploy.structure import values_by_input
from keras_kd.deploy.twin_tensors import (
    REWRITING,
    Graph,
    twin_inputs,
    twin_ops,
    twin_tensors,
)

if TYPE_CHECKING:
    import keras

# They call other subgraphs, or hold a state outside of the graph.
_NEVER_ALONE = ("CALL", "CALL_ONCE", "IF", "WHILE", "READ_VARIABLE", "ASSIGN_VARIABLE")


@dataclasses.dataclass(frozen=True)
class LayerError:
    """The error of one tensor: a quantized input of the model, or what an op puts out.

    Attributes:
        op: The op, in the quantized file; None for an input of the model.
        tensor: The tensor's name.
        layers: Paths of the Keras layers that it came from, as far as names tell: a convolution is
            one op with the normalization and the activation behind it.
        sqnr_db: Signal to quantization noise as the device has it; infinite without any error.
        own_sqnr_db: That of this op alone; None where it cannot be run alone (control flow), or
            where the two files compute it from different tensors.
        out_of_range: Share of the float model's numbers, 0..1, that lie more than half a step
            outside of what the tensor can hold; 0 for float tensors. Softmax's scale is fixed and
            ends half a step below 1, so there a sure prediction counts, and costs little.
    """

    op: inspect.Op | None
    tensor: str
    layers: tuple[str, ...]
    sqnr_db: float
    own_sqnr_db: float | None
    out_of_range: float


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares; infinite without noise.

    Raises:
        ValueError: A negative sum, or NaN.
    """
    if not (signal >= 0 and noise >= 0):
        raise ValueError(
            f"Expected sums of squares. Received: {signal} and {noise}. Hint: does the float model "
            "give NaN on these examples?"
        )
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def layer_errors(
    student: keras.Model,
    artifact: Artifact,
    x: Any,
    *,
    reference: Artifact | None = None,
) -> tuple[LayerError, ...]:
    """The error of every op of a quantized student, in the file's order; its inputs first.

    Examples are run one by one and only sums are kept, so the memory does not grow with `x`. Each
    example runs both models and then each op of both alone, on reference kernels: slow for large
    models. Some tens of examples are plenty, as every element of a tensor counts.

    Args:
        student: The Keras model.
        artifact: What it was converted to: int8, int16x8, float16 or dynamic_range.
        x: Examples as real numbers: an array [examples, ...], or a dict or list of them.
        reference: The student's float32 conversion; None makes one.

    Returns:
        A `LayerError` for each tensor of real numbers that depends on the inputs and has a twin in
        the float model.

    Raises:
        TypeError: `student` is no Keras model, or `artifact` no Artifact.
        ValueError: A float32 artifact, a reference of another scheme or student, no examples, or
            such of another shape.
        ConversionError: The student cannot be converted to float32.
        RuntimeError: LiteRT refuses a model.

    Example:
        >>> errors = layer_errors(student, artifact, x_test[:32])
        >>> worst(errors).layers, round(worst(errors).own_sqnr_db, 1)
        (('hidden',), 12.4)
    """
    exact, quantized = _graphs(student, artifact, reference)
    inputs = twin_inputs(exact, quantized)
    examples = _examples(x, exact)
    compared = _compared(exact, quantized)
    for number in range(len(next(iter(examples.values())))):
        example = {name: array[number : number + 1] for name, array in examples.items()}
        exact.run(example)
        quantized.run({name: example[twin] for name, twin in inputs.items()})
        for op in compared:
            op.add(exact, quantized)
    paths = layers_by_path(student)
    return tuple(error for op in compared for error in op.errors(quantized, paths))


def worst(errors: Sequence[LayerError]) -> LayerError:
    """The one that is least exact by itself; where none can be run alone, least exact at all.

    Raises:
        ValueError: There is none.
    """
    if not errors:
        raise ValueError("Expected at least one LayerError. Received: none.")
    if all(error.own_sqnr_db is None for error in errors):
        return min(errors, key=lambda error: error.sqnr_db)
    return min(
        errors, key=lambda error: math.inf if error.own_sqnr_db is None else error.own_sqnr_db
    )


def _graphs(
    student: keras.Model, artifact: Artifact, reference: Artifact | None
) -> tuple[Graph, Graph]:
    import keras

    if not isinstance(student, keras.Model):
        raise TypeError(f"Expected a keras.Model as student. Received: {type(student).__name__}.")
    if not isinstance(artifact, Artifact):
        raise TypeError(
            f"Expected an Artifact. Received: {type(artifact).__name__}. "
            "Hint: keras_kd.deploy.Artifact.load(path) reads a file."
        )
    if artifact.quantization == "float32":
        raise ValueError(
            "Expected a quantized artifact. Received: a float32 one, which is what the others are "
            "compared with. Hint: keras_kd.deploy.convert(student, quantization='int8', ...)"
        )
    if reference is None:
        from keras_kd.deploy.convert import convert

        reference = convert(student, quantization="float32")
    elif reference.quantization != "float32":
        raise ValueError(
            f"Expected a float32 artifact as reference. Received: {reference.quantization}."
        )
    return Graph(reference.content), Graph(artifact.content)


class _Sums:
    """Sums of squares over all elements of all examples."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, exact: np.ndarray, found: np.ndarray) -> None:
        wide = exact.astype(np.float64)
        self.signal += float(np.sum(np.square(wide)))
        self.noise += float(np.sum(np.square(wide - found)))

    @property
    def sqnr_db(self) -> float:
        return sqnr_db(self.signal, self.noise)


class _Output:
    """One tensor: which output of its op, where it is in both models, and its sums."""

    def __init__(self, slot: int, index: int, twin: int, tensor: TensorInfo):
        self.slot, self.index, self.twin = slot, index, twin
        self.whole, self.own = _Sums(), _Sums()
        self._limits = (-math.inf, math.inf)
        self._outside = self._elements = 0
        if tensor.scale is not None and tensor.zero_point is not None:
            held = np.iinfo(tensor.dtype)
            self._limits = (
                tensor.scale * (float(held.min) - tensor.zero_point - 0.5),
                tensor.scale * (float(held.max) - tensor.zero_point + 0.5),
            )

    def add(self, exact: np.ndarray, found: np.ndarray) -> None:
        self.whole.add(exact, found)
        low, high = self._limits
        self._outside += int(np.count_nonzero((exact < low) | (exact > high)))
        self._elements += exact.size

    @property
    def out_of_range(self) -> float:
        return self._outside / self._elements if self._elements else 0.0


class _Compared:
    """An op of the quantized model, those of its outputs that have twins, and itself alone.

    No op stands for the model's inputs, whose error is all their own.
    """

    def __init__(self, op: inspect.Op | None, outputs: list[_Output], alone: _Alone | None):
        self._op, self._outputs, self._alone = op, outputs, alone

    def add(self, exact: Graph, quantized: Graph) -> None:
        """Adds the example that both have just run."""
        if self._alone is not None:
            self._alone.run(exact)
        for output in self._outputs:
            pair = exact.real(output.twin), quantized.real(output.index)
            output.add(*pair)
            if self._alone is not None:
                output.own.add(*self._alone.outputs(output.slot))
            elif self._op is None:
                output.own.add(*pair)

    def errors(self, quantized: Graph, paths: Mapping[str, str]) -> list[LayerError]:
        """A result for each output."""
        is_own = self._op is None or self._alone is not None
        return [
            LayerError(
                op=self._op,
                tensor=quantized.info.tensor(output.index).name,
                layers=_layers(self._op, output.index, quantized, paths),
                sqnr_db=output.whole.sqnr_db,
                own_sqnr_db=output.own.sqnr_db if is_own else None,
                out_of_range=output.out_of_range,
            )
            for output in self._outputs
        ]


class _Alone:
    """One op, quantized and in float, on the float model's activations rounded to its inputs.

    Args:
        quantized: The quantized model.
        op: The op in it.
        sources: The float model's tensor for each of the op's inputs.
        exact: The float model.
        twin: The op in it; None for one that only rewrites its input.
    """

    def __init__(
        self,
        quantized: Graph,
        op: inspect.Op,
        sources: Sequence[int],
        exact: Graph,
        twin: inspect.Op | None,
    ):
        self._sources = tuple(sources)
        self._inputs = [quantized.described(index) for index in quantized.cutter.inputs(op)]
        self._tensors = [quantized.described(index) for index in op.outputs]
        self._quantized = _Single(quantized, op)
        self._exact = None if twin is None else _Single(exact, twin)
        self._order = [] if twin is None else [sources.index(i) for i in exact.cutter.inputs(twin)]
        self._rounded: list[np.ndarray] = []

    def run(self, exact: Graph) -> None:
        """Runs both on what the float model has computed."""
        stored = [
            to_stored(exact.real(source), tensor)
            for source, tensor in zip(self._sources, self._inputs, strict=True)
        ]
        self._quantized.recorder.run(stored)
        self._rounded = [
            to_real(array, tensor) for array, tensor in zip(stored, self._inputs, strict=True)
        ]
        if self._exact is not None:
            self._exact.recorder.run([self._rounded[place] for place in self._order])

    def outputs(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """An output in float, and what it stands for quantized."""
        found = to_real(self._quantized.output(slot), self._tensors[slot])
        return self._rounded[0] if self._exact is None else self._exact.output(slot), found


class _Single:
    """An op of a model as a model of its own."""

    def __init__(self, graph: Graph, op: inspect.Op):
        content = graph.cutter.cut(op)
        self.recorder = Recorder(content)
        self._places = [index for _, index in inspect.model_info(content).outputs]

    def output(self, slot: int) -> np.ndarray:
        return self.recorder.tensor(self._places[slot])


def _examples(x: Any, exact: Graph) -> dict[str, np.ndarray]:
    """The examples by input, all of one length."""
    names = [tensor.name for tensor in exact.inputs]
    values = values_by_input(x, names, rank=len(exact.inputs[0].shape), what="x")
    arrays = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
    for tensor in exact.inputs:
        shape = arrays[tensor.name].shape
        if not shape or shape[0] == 0 or shape[1:] != tensor.shape[1:]:
            wanted = ", ".join(map(str, ("examples", *tensor.shape[1:])))
            raise ValueError(
                f"Expected at least one example, shape ({wanted}), for input '{tensor.name}'. "
                f"Received: {shape}."
            )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"Expected inputs of one length. Received: {counts}.")
    return arrays


def _compared(exact: Graph, quantized: Graph) -> list[_Compared]:
    """The model's inputs, then its ops in order, as far as they have a twin to compare with."""
    ops = twin_ops(exact, quantized)
    tensors = twin_tensors(exact, quantized, ops)

    def outputs(indices: Sequence[int]) -> list[_Output]:
        return [
            _Output(slot, index, tensors[index], quantized.described(index))
            for slot, index in enumerate(indices)
            if index in tensors and quantized.is_real(index)
        ]

    found = [
        _Compared(op, made, _alone(exact, quantized, op, ops, tensors))
        for op in quantized.ops
        if (made := outputs(op.outputs))
    ]
    if not found:
        raise ValueError(
            "Expected a reference and an artifact of one student. Received: two that have no "
            "tensor in common."
        )
    inputs = [i for _, i in quantized.info.inputs if quantized.described(i).scale is not None]
    return [_Compared(None, outputs(inputs), None), *found]


def _alone(
    exact: Graph,
    quantized: Graph,
    op: inspect.Op,
    ops: Mapping[int, inspect.Op],
    tensors: Mapping[int, int],
) -> _Alone | None:
    """The op alone, where both models compute it from the same tensors."""
    inputs = quantized.cutter.inputs(op)
    twin = ops.get(op.index)
    if op.name in _NEVER_ALONE or not all(index in tensors for index in inputs):
        return None
    sources = [tensors[index] for index in inputs]
    if twin is None and op.name not in REWRITING:
        return None
    if twin is not None and set(exact.cutter.inputs(twin)) != set(sources):
        return None
    return _Alone(quantized, op, sources, exact, twin)


def _layers(
    op: inspect.Op | None, output: int, graph: Graph, paths: Mapping[str, str]
) -> tuple[str, ...]:
    """The layers in an output's name; where it has none, in those of the op's inputs.

    A model's last tensor is named for the model; its weights are named for their layer.
    """
    if op is None:
        return ()
    inputs = [index for index in op.inputs if index >= 0]
    constants = [index for index in inputs if graph.cutter.derived(index)]
    for index in (output, *constants, *inputs):
        parts = graph.info.tensor(index).name.split(";")
        found = dict.fromkeys(layer_in_name(part, paths) for part in parts)
        if any(found):
            return tuple(path for path in found if path)
    return ()
