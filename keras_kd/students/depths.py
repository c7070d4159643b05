"""Which blocks of a model repeat, and the model without some of them."""

import dataclasses
import json
import math

import keras

from keras_kd.students import arithmetic


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Equal blocks one behind the other, and how many of them are kept.

    Attributes:
        layers: The first layer of each block, by name.
        kept: Those of the blocks that are kept.
    """

    layers: tuple
    kept: tuple


@dataclasses.dataclass(frozen=True)
class _Segment:
    """Calls between two places where one tensor holds all that was learned.

    Attributes:
        calls: Those that depend on it.
        before: That tensor at its begin.
        after: That tensor at its end.
        form: All that makes two segments equal.
    """

    calls: tuple
    before: keras.KerasTensor
    after: keras.KerasTensor
    form: str


def shallower(graph, depth):
    """Leaves out repeated blocks.

    A block is what stands between two places of the graph where a single tensor holds all that was
    learned so far, such as a residual block or a convolution with its normalization and ReLU. Equal
    blocks, one behind the other, that give the shape they take, are a stage's repeats: of each
    stage the share `depth` is kept, rounded up, evenly spread, the last one among them. So what
    follows still comes behind a layer of the same name.

    Args:
        graph: A `Graph`.
        depth: The share that is kept, above 0 and up to 1.

    Returns:
        The `Graph` without the others, and a list of `Repeats`.
    """
    same, left_out, found = {}, set(), []
    outputs = set(keras.tree.flatten(graph.outputs))
    for blocks in _repeats(_segments(graph)):
        count = math.ceil(depth * len(blocks))
        kept = {-(-(index + 1) * len(blocks) // count) - 1 for index in range(count)}
        names = tuple(_first_kernel(block) for block in blocks)
        found.append(Repeats(names, tuple(names[index] for index in sorted(kept))))
        for index, block in enumerate(blocks):
            calls = [call for segment in block for call in segment.calls]
            if index in kept or outputs.intersection(t for call in calls for t in call.outputs):
                continue
            left_out.update(map(id, calls))
            before = block[0].before
            same[block[-1].after] = same.get(before, before)
    calls = [call.on(same) for call in graph.calls if id(call) not in left_out]
    return dataclasses.replace(graph, calls=_needed(calls, outputs)), found


def _needed(calls, outputs):
    """Returns the calls that the outputs depend on."""
    needed, kept = set(outputs), []
    for call in reversed(calls):
        if needed.intersection(call.outputs):
            needed.update(call.inputs)
            kept.append(call)
    return tuple(kept[::-1])


def _segments(graph):
    """Cuts a graph where a single tensor holds all that was learned."""
    learned = _learned(graph)
    last = {tensor: step for step, call in enumerate(graph.calls) for tensor in call.inputs}
    segments, calls, alive, before = [], [], set(), None
    for step, call in enumerate(graph.calls):
        if call.output not in learned:
            continue
        calls.append(call)
        alive.update(tensor for tensor in call.outputs if last.get(tensor, -1) > step)
        alive = {tensor for tensor in alive if last[tensor] > step}
        if len(alive) == 1:
            (after,) = alive
            if before is not None:
                segments.append(_Segment(tuple(calls), before, after, _form(calls, before)))
            before, calls = after, []
    return segments


def _learned(graph):
    """Returns the tensors that depend on a layer with weights."""
    learned = set()
    for call in graph.calls:
        if getattr(call.operation, "weights", ()) or learned.intersection(call.inputs):
            learned.update(call.outputs)
    return learned


def _form(calls, before):
    """Returns a text that is equal for segments of equal layers, shapes and connections."""
    numbers = {before: 0}
    lines = []
    for call in calls:
        for tensor in call.outputs:
            numbers[tensor] = len(numbers)
        config = dict(call.operation.get_config())
        # A dropout's rate may grow with the depth, as in EfficientNet.
        for aside in ("name", "rate", "trainable"):
            config.pop(aside, None)
        sources = [numbers.get(tensor, "outside") for tensor in call.inputs]
        shapes = [tensor.shape for tensor in (*call.inputs, *call.outputs)]
        lines.append([type(call.operation).__name__, config, sources, shapes])
    return json.dumps(lines, sort_keys=True, default=repr)


def _repeats(segments):
    """Yields lists of at least two equal blocks, each a list of segments."""
    start = 0
    while start < len(segments):
        blocks = _blocks_at(segments, start)
        if blocks:
            yield blocks
            start += sum(map(len, blocks))
        else:
            start += 1


def _blocks_at(segments, start):
    """Returns the equal blocks that begin here, of the shortest length that repeats; or []."""
    first = segments[start]
    if not (len(first.calls) > 1 or _is_kernel(first.calls[0].operation)):
        return []
    for length in range(1, (len(segments) - start) // 2 + 1):
        block = segments[start : start + length]
        if block[0].before.shape != block[-1].after.shape:
            continue
        if not any(_is_kernel(call.operation) for segment in block for call in segment.calls):
            continue
        forms = [segment.form for segment in block]
        blocks = [block]
        while True:
            at = start + length * len(blocks)
            following = segments[at : at + length]
            if [segment.form for segment in following] != forms:
                break
            blocks.append(following)
        if len(blocks) > 1:
            return blocks
    return []


def _is_kernel(layer):
    return isinstance(layer, (*arithmetic.KERNELS, keras.layers.MultiHeadAttention))


def _first_kernel(block):
    layers = (call.operation for segment in block for call in segment.calls)
    return next(layer.name for layer in layers if _is_kernel(layer))
