"""Two conversions of one student, run with all tensors kept; which tensor is which in the other."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping

import numpy as np

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import TensorInfo, interface
from keras_kd.deploy.interpreter import Recorder, to_real, to_stored

# They change how a number is written, not the number.
REWRITING = ("QUANTIZE", "DEQUANTIZE")


class Graph:
    """A model's ops that depend on its inputs, and its tensors after a run.

    Args:
        content: The flatbuffer, with a batch of 1.
    """

    def __init__(self, content: bytes):
        # The schema takes a while to load.
        from keras_kd.deploy.single_op import Cutter

        self.info = inspect.model_info(content)
        self.inputs, _ = interface(self.info)
        self.cutter = Cutter(self.info)
        self.ops = tuple(
            op
            for op in self.info.ops
            if op.subgraph == 0 and not all(self.cutter.derived(i) for i in op.inputs if i >= 0)
        )
        self._recorder = Recorder(content)

    def run(self, example: Mapping[str, np.ndarray]) -> None:
        """Runs one example: real numbers, shape [1, ...], by input."""
        self._recorder.run([to_stored(example[tensor.name], tensor) for tensor in self.inputs])

    def real(self, index: int) -> np.ndarray:
        """What a tensor of the main subgraph stands for, after a run."""
        return to_real(self._recorder.tensor(index), self.described(index))

    def described(self, index: int) -> TensorInfo:
        """A tensor with its scale, as `to_stored` and `to_real` want it."""
        tensor = self.info.tensor(index)
        scale, zero_point = None, None
        if len(tensor.scales) == 1:
            scale, zero_point = tensor.scales[0], tensor.zero_points[0]
        return TensorInfo(tensor.name, tensor.shape, tensor.dtype, scale, zero_point)

    def is_real(self, index: int) -> bool:
        """Whether a tensor holds real numbers: floats, or integers with one scale."""
        tensor = self.info.tensor(index)
        return tensor.is_float or len(tensor.scales) == 1


def twin_inputs(exact: Graph, quantized: Graph) -> dict[str, str]:
    """The float model's input for each of the quantized one's, by name.

    Where each has one they are twins whatever their names: Keras numbers an unnamed input anew when
    a model is loaded.

    Raises:
        ValueError: Several inputs, and not of the same names.
    """
    wanted, received = ([tensor.name for tensor in graph.inputs] for graph in (exact, quantized))
    if len(wanted) == len(received) == 1:
        return {received[0]: wanted[0]}
    if sorted(wanted) != sorted(received):
        raise ValueError(
            f"Expected the reference's inputs, {', '.join(wanted)}, in the artifact. "
            f"Received: {', '.join(received)}."
        )
    return {name: name for name in received}


def twin_ops(exact: Graph, quantized: Graph) -> dict[int, inspect.Op]:
    """The float model's op for each op of the quantized one, by the latter's index.

    Both conversions start from one graph, so the twin is an op of the same kind that puts out the
    same shapes under the same names. Names that collide are numbered by the converter, not always
    alike: what has no twin by its names gets one without their trailing digits, in order.
    """
    found: dict[int, inspect.Op] = {}
    free = {op.index: op for op in exact.ops}
    for numbered in (True, False):
        waiting: dict[tuple, list[inspect.Op]] = collections.defaultdict(list)
        for op in free.values():
            waiting[_key(exact.info, op, numbered)].append(op)
        for op in quantized.ops:
            same = waiting[_key(quantized.info, op, numbered)]
            if op.index not in found and op.name not in REWRITING and same:
                found[op.index] = same.pop(0)
                del free[found[op.index].index]
    return found


def twin_tensors(exact: Graph, quantized: Graph, ops: Mapping[int, inspect.Op]) -> dict[int, int]:
    """The float model's tensor for each tensor of the quantized one.

    Inputs by `twin_inputs`, outputs of twins in their order; a rewritten number keeps its twin.

    Args:
        exact: The float model.
        quantized: The quantized one.
        ops: What `twin_ops` found.
    """
    inputs, names = dict(exact.info.inputs), twin_inputs(exact, quantized)
    twins = {index: inputs[names[name]] for name, index in quantized.info.inputs}
    for op in quantized.ops:
        if op.index in ops:
            twins.update(zip(op.outputs, ops[op.index].outputs, strict=True))
        elif op.name in REWRITING and op.inputs[0] in twins:
            twins[op.outputs[0]] = twins[op.inputs[0]]
    return twins


def _key(info: inspect.ModelInfo, op: inspect.Op, numbered: bool) -> tuple:
    tensors = [info.tensor(index) for index in op.outputs]
    names = (tensor.name if numbered else re.sub(r"\d+$", "", tensor.name) for tensor in tensors)
    return (op.name, *names, *(tensor.shape for tensor in tensors))
