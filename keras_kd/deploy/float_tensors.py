"""Float tensors that a conversion left in an integer model, and the layers they came from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_kd.deploy import inspect

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class FloatTensor:
    """One float tensor: the layer it came from ("" where its name tells none), the ops around."""

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    layer: str
    layer_class: str
    ops: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """What `allow_float` may call it by."""
        named = {self.tensor, self.layer, self.layer.rsplit("/", 1)[-1], self.layer_class}
        return frozenset(named | set(self.ops)) - {""}

    def described(self) -> str:
        """One line for a person."""
        origin = f"{self.layer_class} '{self.layer}'" if self.layer else "no layer by its name"
        kind = f"{self.dtype}{list(self.shape)}"
        return f"'{self.tensor}' {kind} from {origin}, at {', '.join(self.ops)}"


def left_over(info: inspect.ModelInfo, student: keras.Model) -> tuple[FloatTensor, ...]:
    """Every float tensor but the inputs and outputs that were asked to be float."""
    layers = _layers_by_path(student)
    interface = {index for _, index in info.inputs + info.outputs}
    found = []
    for tensor in info.float_tensors:
        if tensor.subgraph == 0 and tensor.index in interface:
            continue
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
            )
        )
    return tuple(found)


def unknown_names(
    names: Sequence[str],
    info: inspect.ModelInfo,
    student: keras.Model,
    left: Sequence[FloatTensor],
) -> list[str]:
    """Those names that nothing in the model has: a typing error would allow nothing, silently."""
    known = {op.name for op in info.ops} | {tensor.name for tensor in info.tensors}
    for path, layer_class in _layers_by_path(student).items():
        known |= {path, path.rsplit("/", 1)[-1], layer_class}
    for found in left:
        known |= found.names
    return [name for name in names if name not in known]


def _layers_by_path(student: keras.Model) -> dict[str, str]:
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

    The quantizer's own tensors ("tfl.dequantize") are named for no layer.
    """
    neighbours = [
        info.tensor(index, tensor.subgraph)
        for op in around
        for index in op.outputs + op.inputs
        if index >= 0
    ]
    for candidate in (tensor, *neighbours):
        path = _path_in_name(candidate.name, layers)
        if path:
            return path
    return ""


def _path_in_name(name: str, layers: dict[str, str]) -> str:
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
