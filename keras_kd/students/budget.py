"""A thinner and shallower student from a teacher's own configuration."""

import keras

from keras_kd.graph import graph_of
from keras_kd.students import counting, depths, widths

_COMPRESSION = 10


def like(
    teacher,
    compression=None,
    *,
    int8_bytes=None,
    macs=None,
    arena_bytes=None,
    depth=0.5,
    name=None,
    print_fn=None,
):
    """Makes a student of the teacher's own kind, thinner and shallower, within a budget.

    First the depth: of the equal blocks that repeat in a stage half are left out (see `depth`).
    Then the width: all numbers of channels but those of the model's inputs and outputs are
    multiplied by the largest number up to 1 with which every budget is kept. Channels are multiples
    of 8, or 4 in thin layers; what that leaves of the budget, the last layers get. Attention keeps
    its number of heads, and the heads become smaller.

    The student is new and untrained, and shares nothing with the teacher; only `Normalization`
    layers keep what they know of the data. Layers keep the teacher's names, those of nested models
    included, which are opened up.

    Args:
        teacher: A built Functional or Sequential model of fixed input sizes, channels last, of
            convolutions, dense layers, embeddings, attention, normalizations, activations,
            poolings, paddings and merges.
        compression: How many times fewer parameters the student has, at least; None is 10 where no
            other budget is given. Multiples of 8 leave some of it unused: less than a fifth for
            teachers of .8 to 24 million parameters and compressions from 2 to 100.
        int8_bytes: Most bytes of the int8 file, as `Cost.int8_bytes` estimates them.
        macs: Most multiply-accumulates.
        arena_bytes: Most bytes of TFLite Micro's arena, as `Cost.arena_bytes` estimates them.
        depth: The share of the repeats of each block that is kept, rounded up, above 0 and up to 1.
        name: Name of the student; None puts `_student` behind the teacher's.
        print_fn: Called with a text of what was kept; None for none.

    Returns:
        A functional `keras.Model` with the teacher's structure of inputs and outputs.

    Raises:
        ValueError: A budget that is not reached by the thinnest student, whose cost is named; a
            layer that cannot be thinned, by name; a teacher without a graph; a bad argument.

    Example:
        >>> student = keras_kd.students.like(teacher, 20, print_fn=print)
        >>> pairs = keras_kd.suggest_layers(teacher, student)

    Reference: the width multiplier is that of Howard et al., arXiv:1704.04861, section 3.3; leaving
    out every other block is DistilBERT's way, Sanh et al., arXiv:1910.01108, section 3.
    """
    budget = {"int8_bytes": int8_bytes, "macs": macs, "arena_bytes": arena_bytes}
    _check_budget({"compression": compression, **budget}, depth)
    graph = graph_of(teacher, "teacher")
    before = counting.count(graph)
    if compression is None and not any(budget.values()):
        compression = _COMPRESSION
    if compression is not None:
        budget["parameters"] = int(before.parameters / compression)
    budget = {field: most for field, most in budget.items() if most is not None}
    graph, repeats = depths.shallower(graph, depth)
    thinned = widths.Widths(graph)
    step, more = _widest(graph, thinned, budget)
    shapes, configs = thinned.at(step, more)
    student = _built(graph, configs, name or f"{teacher.name}_student")
    if print_fn is not None:
        after = counting.count(graph, shapes=shapes, configs=configs)
        print_fn(_text(teacher, step / widths.STEPS, repeats, before, after))
    return student


def _check_budget(budget, depth):
    for name, value in budget.items():
        if value is not None and not value > 0:
            raise ValueError(f"Expected {name} > 0, or None. Received: {value!r}")
    if budget["compression"] is not None and budget["compression"] < 1:
        raise ValueError(f"Expected compression >= 1. Received: {budget['compression']!r}")
    if not 0 < depth <= 1:
        raise ValueError(f"Expected depth above 0 and up to 1. Received: {depth!r}")


def _widest(graph, thinned, budget):
    """Returns the arguments of `Widths.at` for the widest model within the budget."""

    def too_much(step, more=0):
        shapes, configs = thinned.at(step, more)
        cost = counting.count(graph, shapes=shapes, configs=configs)
        beyond = [field for field, most in budget.items() if getattr(cost, field) > most]
        return (beyond, cost) if beyond else None

    if not too_much(widths.STEPS):
        return widths.STEPS, 0
    smallest = too_much(1)
    if smallest:
        beyond, cost = smallest
        wanted = ", ".join(f"{field} <= {budget[field]:,}" for field in beyond)
        raise ValueError(
            f"Expected a budget that the thinnest student keeps. Received: {wanted}; the thinnest "
            f"has {cost}. Hint: a smaller depth, a smaller input, or a student of "
            "keras_kd.students."
        )
    step = _last(1, widths.STEPS, lambda step: not too_much(step))
    # Where most layers have as many channels, all of them take the next step at once.
    return step, _last(0, len(thinned.free), lambda more: not too_much(step, more))


def _last(low, high, holds):
    """Returns the last number from `low` to below `high` that something holds for, by bisection.

    It holds for `low`.
    """
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _built(graph, configs, name):
    """Builds the model that a graph and new configurations describe."""
    made = {
        tensor: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)
        for tensor in keras.tree.flatten(graph.inputs)
    }
    copies, names = {}, {}
    for call in graph.calls:
        old = call.operation
        if id(old) not in copies:
            copies[id(old)] = _copy(old, configs.get(id(old)), names)
        new, (args, kwargs) = copies[id(old)], call.given(made)
        made.update(zip(call.outputs, keras.tree.flatten(new(*args, **kwargs)), strict=True))
        if isinstance(old, keras.layers.Normalization):
            new.set_weights(old.get_weights())
            new.finalize_state()
    ends = keras.tree.map_structure(lambda tensor: made[tensor], (graph.inputs, graph.outputs))
    return keras.Model(*ends, name=name)


def _copy(layer, config, names):
    """Returns a new layer; a number is put behind a name that another layer has."""
    config = dict(config or layer.get_config())
    count = names[layer.name] = names.get(layer.name, 0) + 1
    config["name"] = layer.name if count == 1 else f"{layer.name}_{count}"
    return type(layer).from_config(config)


def _text(teacher, width, repeats, before, after):
    lines = [f"A student like '{teacher.name}', {width:.0%} as wide"]
    lines += [
        f"  {len(blocks.kept)} of {len(blocks.layers)} equal blocks: {', '.join(blocks.kept)}"
        for blocks in repeats
    ]
    ratio = before.parameters / after.parameters
    lines += [f"  from {before}", f"  to {after}", f"  {ratio:.1f} times fewer parameters"]
    return "\n".join(lines)
