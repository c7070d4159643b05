"""Float tensors that a conversion left in an integer model: their layers, and what they cost."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_kd.deploy import inspect

if TYPE_CHECKING:
    import keras

    from keras_kd.deploy.saved_model import StudentInputs

# Enough to see an error of per cents, in a fraction of the conversion's time.
MEASURED_EXAMPLES = 20


@dataclasses.dataclass(frozen=True)
class FloatTensor:
    """One float tensor: the layer it came from ("" where its name tells none), the ops around.

    `around_layer` has the paths and classes of the layers that its layer is a part of.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    layer: str
    layer_class: str
    ops: tuple[str, ...]
    around_layer: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """What `allow_float` may call it by."""
        named = {self.tensor, self.layer, self.layer.rsplit("/", 1)[-1], self.layer_class}
        return frozenset(named | set(self.ops) | set(self.around_layer)) - {""}

    def described(self) -> str:
        """One line for a person."""
        origin = f"{self.layer_class} '{self.layer}'" if self.layer else "no layer by its name"
        kind = f"{self.dtype}{list(self.shape)}"
        return f"'{self.tensor}' {kind} from {origin}, at {', '.join(self.ops)}"


@dataclasses.dataclass(frozen=True)
class Price:
    """How much of an integer model is computed in float.

    Attributes:
        ops: Ops with a float tensor, those that convert to and from float among them.
        all_ops: All ops.
        elements: Numbers in float tensors that the ops hand on; constants are none.
        all_elements: Numbers in all tensors that the ops hand on.
    """

    ops: int
    all_ops: int
    elements: int
    all_elements: int

    def described(self) -> str:
        """One sentence for a person."""
        share = self.elements / max(self.all_elements, 1)
        return (
            f"{self.ops} of {self.all_ops} ops read or write them, and {self.elements:,} of the "
            f"{self.all_elements:,} numbers that ops hand on are float ({share:.0%})."
        )


def left_over(info: inspect.ModelInfo, student: keras.Model) -> tuple[FloatTensor, ...]:
    """Every float tensor but the inputs and outputs that were asked to be float."""
    layers = layers_by_path(student)
    found = []
    for tensor in _inner_float_tensors(info):
        around = [
            op
            for op in info.ops
            if op.subgraph == tensor.subgraph and tensor.index in op.inputs + op.outputs
        ]
        path = _layer_of(tensor, around, info, layers)
        found.append(
            FloatTensor(
                tensor=tensor.name,
                dtype=tensor.dtype,
                shape=tensor.shape,
                layer=path,
                layer_class=layers.get(path, ""),
                ops=tuple(dict.fromkeys(op.name for op in around)),
                around_layer=_around(path, layers),
            )
        )
    return tuple(found)


def _inner_float_tensors(info: inspect.ModelInfo) -> list[inspect.Tensor]:
    """All but the model's inputs and outputs."""
    ends = {index for _, index in info.inputs + info.outputs}
    return [
        tensor
        for tensor in info.float_tensors
        if not (tensor.subgraph == 0 and tensor.index in ends)
    ]


def price(info: inspect.ModelInfo) -> Price:
    """What the float tensors between inputs and outputs cost."""
    floats = {(t.subgraph, t.index) for t in _inner_float_tensors(info)}
    handed_on = {(op.subgraph, index) for op in info.ops for index in op.outputs}

    def elements(places: set[tuple[int, int]]) -> int:
        return sum(math.prod(info.tensor(index, graph).shape) for graph, index in places)

    return Price(
        ops=sum(
            any((op.subgraph, index) in floats for index in op.inputs + op.outputs)
            for op in info.ops
        ),
        all_ops=len(info.ops),
        elements=elements(floats & handed_on),
        all_elements=elements(handed_on),
    )


def largest_error(
    content: bytes, student: keras.Model, inputs: StudentInputs, examples: Sequence[np.ndarray]
) -> float | None:
    """The largest difference from the student on a few examples, by the output's range.

    Args:
        content: The converted model.
        student: What it was converted from.
        inputs: What the student is fed.
        examples: An array [examples, ...] for each input; none at all where none are known.

    Returns:
        max |converted - student| / (max student - min student), the largest of all outputs; None
        where LiteRT does not run the model, or there are no examples.
    """
    if not examples:
        return None
    from keras_kd.deploy.interpreter import Interpreter
    from keras_kd.deploy.saved_model import inference_arguments, named_outputs

    arrays = [array[:MEASURED_EXAMPLES] for array in examples]
    try:
        interpreter = Interpreter(content)
        found = interpreter.predict(arrays if len(arrays) > 1 else arrays[0])
    except RuntimeError:
        return None
    outputs, _ = student.stateless_call(
        student.trainable_variables,
        student.non_trainable_variables,
        inputs.packed(arrays),
        **inference_arguments(student),
    )
    if not isinstance(found, dict):
        listed = found if isinstance(found, list) else [found]
        found = dict(zip((t.name for t in interpreter.outputs), listed, strict=True))
    errors = [0.0]
    for name, value in named_outputs(outputs).items():
        expected = np.asarray(value)
        spread = np.ptp(expected)
        if spread > 0:
            errors.append(float(np.abs(found[name] - expected).max() / spread))
    return max(errors)


def unknown_names(
    names: Sequence[str],
    info: inspect.ModelInfo,
    student: keras.Model,
    left: Sequence[FloatTensor],
) -> list[str]:
    """Those names that nothing in the model has: a typing error would allow nothing, silently."""
    known = {op.name for op in info.ops} | {tensor.name for tensor in info.tensors}
    for path, layer_class in layers_by_path(student).items():
        known |= {path, path.rsplit("/", 1)[-1], layer_class}
    for found in left:
        known |= found.names
    return [name for name in names if name not in known]


def layers_by_path(student: keras.Model) -> dict[str, str]:
    """Class by path ("backbone/ln") of every layer."""
    from keras_kd.deploy.saved_model import sublayers

    paths: dict[str, str] = {}

    def walk(layer: keras.Layer, prefix: str, above: frozenset[int]) -> None:
        for child in sublayers(layer):
            path = f"{prefix}{child.name}"
            if path not in paths and id(child) not in above:
                paths[path] = type(child).__name__
                walk(child, f"{path}/", above | {id(child)})

    walk(student, "", frozenset({id(student)}))
    return paths


def _layer_of(
    tensor: inspect.Tensor,
    around: Sequence[inspect.Op],
    info: inspect.ModelInfo,
    layers: dict[str, str],
) -> str:
    """The path of the layer a tensor belongs to: by its name, else by its neighbours'.

    The quantizer's own tensors ("tfl.dequantize") are named for no layer, and floats that it makes
    of integers belong to the layer that reads them, whatever their name.
    """
    copied = any(op.name == "DEQUANTIZE" and tensor.index in op.outputs for op in around)
    readers = [op for op in around if tensor.index in op.inputs]
    read_by = [index for op in readers for index in op.outputs] if copied else []
    neighbours = [index for op in around for index in op.outputs + op.inputs if index >= 0]
    for index in (*read_by, tensor.index, *neighbours):
        candidate = info.tensor(index, tensor.subgraph)
        path = layer_in_name(candidate.name, layers)
        if path:
            return path
    return ""


def _around(path: str, layers: Mapping[str, str]) -> tuple[str, ...]:
    """The paths and classes of the layers that hold the one at a path."""
    scopes = path.split("/")
    paths = ["/".join(scopes[:depth]) for depth in range(1, len(scopes))]
    return (*paths, *(layers[around] for around in paths))


def layer_in_name(name: str, layers: Mapping[str, str]) -> str:
    """The deepest layer on the path of a tensor's name, "backbone_1/ln_1/mul;...".

    Keras opens a layer's name scope twice, to build and to call, so TensorFlow adds one `_<number>`
    to every layer's name: exactly one is taken off, for "dense_1" is layer `dense`, not `dense_1`.
    """
    best = ""
    for part in name.split(";"):
        path = ""
        for scope in part.split("/")[:-1]:
            longer = f"{path}/{scope}".lstrip("/")
            stripped = re.sub(r"_\d+$", "", longer)
            match = next((p for p in (stripped, longer) if p in layers), "")
            if not match:
                break
            path = match
        if path.count("/") + bool(path) > best.count("/") + bool(best):
            best = path
    return best
