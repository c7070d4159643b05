"""Cuts one op out of a `.tflite`, as a model of its own."""

from __future__ import annotations

import copy

from ai_edge_litert import schema_py_generated as schema

from keras_kd.deploy import flatbuffer_edits as edits
from keras_kd.deploy import inspect


class Cutter:
    """Makes models of single ops of one flatbuffer, which is unpacked once.

    Args:
        info: What is in the flatbuffer.
    """

    def __init__(self, info: inspect.ModelInfo):
        self._info = info
        self._model = schema.ModelT.InitFromPackedBuf(info.content, 0)
        self._producers = {
            index: op for op in info.ops if op.subgraph == 0 for index in op.outputs if index >= 0
        }

    def derived(self, index: int) -> bool:
        """Whether a tensor of the main subgraph depends on constants alone.

        float16 weights are: the file holds them, and a DEQUANTIZE op widens them.
        """
        if self._info.tensor(index).is_constant:
            return True
        producer = self._producers.get(index)
        return producer is not None and all(self.derived(i) for i in producer.inputs if i >= 0)

    def cut(self, op: inspect.Op) -> bytes:
        """The flatbuffer of one op of the main subgraph.

        Its inputs are the op's own that depend on no constant and are no state, in the op's order
        and each once; its outputs are the op's. What derives a constant for it is cut out too.
        """
        main = self._model.subgraphs[0]
        operators = [main.operators[part.index] for part in (*self._derivations(op), op)]
        kept = sorted(set().union(*(edits.tensors_of(operator) for operator in operators)))
        places = {index: place for place, index in enumerate(kept)}
        graph = copy.copy(main)
        graph.inputs = [places[index] for index in self.inputs(op)]
        graph.outputs = [places[index] for index in op.outputs if index >= 0]
        graph.operators = [edits.renumbered(operator, places) for operator in operators]
        graph.tensors = [copy.copy(graph.tensors[index]) for index in kept]
        model = schema.ModelT()
        model.version = self._model.version
        model.operatorCodes = self._model.operatorCodes
        # Buffer 0 is the empty one, by the schema.
        model.buffers = [schema.BufferT()]
        for tensor in graph.tensors:
            buffer = self._model.buffers[tensor.buffer]
            tensor.buffer = 0
            if buffer.data is not None and len(buffer.data):
                tensor.buffer = len(model.buffers)
                model.buffers.append(buffer)
        model.subgraphs = [graph]
        return edits.packed(model)

    def inputs(self, op: inspect.Op) -> tuple[int, ...]:
        """The tensors that a model of that op takes, in its order."""
        return tuple(
            dict.fromkeys(
                index
                for index in op.inputs
                if index >= 0
                and not self._info.tensor(index).is_variable
                and not self.derived(index)
            )
        )

    def _derivations(self, op: inspect.Op) -> list[inspect.Op]:
        """The ops that derive constants for this one, producers first."""
        found: list[inspect.Op] = []
        for index in op.inputs:
            producer = self._producers.get(index)
            if producer is not None and self.derived(index) and producer not in found:
                found += [
                    earlier for earlier in self._derivations(producer) if earlier not in found
                ]
                found.append(producer)
        return found
