"""How many channels each tensor of a thinner model has.

Channels that must be equal in number, as of the two sides of an Add or before and behind a
normalization, are a group. A group is fixed (it holds an input or an output of the model), made of
other groups (behind a Concatenate or Flatten), or free, and then thinned.
"""

import collections
import math

import keras
from keras import layers

from keras_kd.students import arithmetic

# Widths are fractions of this many steps.
STEPS = 1024

_MAKERS = (
    *arithmetic.CONVOLUTIONS,
    *arithmetic.SEPARABLE,
    *arithmetic.TRANSPOSED,
    layers.Dense,
    layers.EinsumDense,
    layers.Embedding,
)
# What they give has the channels of what they get.
_KEEPERS = (
    *arithmetic.NORMALIZATIONS,
    layers.Normalization,
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.PReLU,
    layers.ELU,
    layers.Softmax,
    layers.Identity,
    layers.Masking,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.ActivityRegularization,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.Resizing,
    layers.Rescaling,
    layers.RepeatVector,
)
_MERGERS = (
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
# Operations that are no layers, by the name of their class, which is all that is public of it.
_KEEPING_OPERATIONS = {"Relu", "Relu6", "Gelu", "Silu", "Sigmoid", "Tanh", "HardSwish", "GetItem"}
_MERGING_OPERATIONS = {"Add", "Subtract", "Multiply", "TrueDivide", "Divide", "Maximum", "Minimum"}


class _Group:
    def __init__(self, size, *, fixed=False, parts=None):
        self.size = size
        self.fixed = fixed
        # Ways to make it of other groups, each a list of (group, times).
        self.made_of = [] if parts is None else [parts]
        self.parent = self

    def root(self):
        group = self
        while group.parent is not group:
            group = group.parent
        return group

    def join(self, other):
        mine, others = self.root(), other.root()
        if mine is not others:
            others.parent = mine
            mine.fixed |= others.fixed
            mine.made_of += others.made_of


class Widths:
    """The channels of a graph at any width.

    Args:
        graph: A `Graph`.

    Raises:
        ValueError: A layer whose channels cannot be followed, by name, with the reason.
    """

    def __init__(self, graph):
        self._graph = graph
        self._groups = {
            tensor: _Group(tensor.shape[-1], fixed=True)
            for tensor in keras.tree.flatten(graph.inputs)
        }
        shared: dict = {}
        for call in graph.calls:
            self._follow(call)
            tensors = (*arithmetic.operands(call), *call.outputs)
            # A layer that is called again has the same kernel.
            first = shared.setdefault(id(call.operation), tensors)
            for tensor, same in zip(tensors, first, strict=False):
                if tensor is not same and tensor.shape[-1] == same.shape[-1]:
                    self._groups[tensor].join(self._groups[same])
        for tensor in keras.tree.flatten(graph.outputs):
            self._groups[tensor].root().fixed = True
        self._settle()

    @property
    def free(self):
        """The groups that are thinned, in the order of the graph."""
        roots = {id(group.root()): group.root() for group in self._groups.values()}
        return [root for root in roots.values() if not (root.fixed or root.made_of)]

    def at(self, step, more=0):
        """Returns ({tensor: shape}, {id of a layer: its configuration}) of a thinner model.

        Args:
            step: The share of the channels that is kept, in `STEPS`, from 1 to all of them.
            more: So many of the last free groups are as wide as at the next step.
        """
        free = self.free
        sizes = {
            id(root): thinner(root.size, (step + (index >= len(free) - more)) / STEPS)
            for index, root in enumerate(free)
        }
        shapes = {
            tensor: (*tensor.shape[:-1], _size(group, sizes))
            for tensor, group in self._groups.items()
        }
        configs = {
            id(call.operation): _thinned(call, shapes, step / STEPS)
            for call in self._graph.calls
            if isinstance(call.operation, keras.Layer)
        }
        return shapes, configs

    def _follow(self, call):
        """Gives the outputs of a call their groups."""
        layer, output = call.operation, call.output
        operands = arithmetic.operands(call)
        first = self._groups[operands[0]] if operands else None
        config = layer.get_config() if isinstance(layer, keras.Layer) else {}
        if config.get("data_format") == "channels_first":
            _refuse(layer, "its channels come first")
        kind = type(layer).__name__
        operation = not isinstance(layer, keras.Layer)
        same = first is not None and output.shape[-1] == operands[0].shape[-1]
        if isinstance(layer, arithmetic.DEPTHWISE):
            multiplier = config["depth_multiplier"]
            group = first if multiplier == 1 else _made_of([(first, multiplier)])
        elif isinstance(layer, layers.EinsumDense) and not arithmetic.inner_units(
            config["equation"]
        ):
            _refuse(layer, f"its equation {config['equation']!r} is not over the last axis alone")
        elif isinstance(layer, _MAKERS):
            group = _Group(output.shape[-1])
        elif isinstance(layer, layers.MultiHeadAttention):
            if config["output_shape"] is not None:
                _refuse(layer, "it has an output_shape of its own")
            group = first
        elif isinstance(layer, (layers.Flatten, layers.Reshape)):
            group = self._reshaped(call)
        elif isinstance(layer, layers.Concatenate):
            group = self._concatenated(call, config["axis"])
        elif isinstance(layer, _MERGERS) or (operation and kind in _MERGING_OPERATIONS):
            group = self._merged(call)
        elif isinstance(layer, _KEEPERS) or (operation and same and kind in _KEEPING_OPERATIONS):
            group = first
        elif not getattr(layer, "weights", ()) and all(
            self._groups[tensor].root().fixed for tensor in call.inputs
        ):
            # It prepares the model's inputs, which stay as they are.
            group = _Group(output.shape[-1] if output.shape else 1, fixed=True)
        else:
            _refuse(layer, "how its channels follow from those before it is not known")
        for tensor in call.outputs:
            self._groups[tensor] = group

    def _reshaped(self, call):
        (source,), (output,) = call.inputs, call.outputs
        group, size = self._groups[source], output.shape[-1]
        if size == source.shape[-1]:
            return group
        if isinstance(call.operation, layers.Flatten):
            return _made_of([(group, math.prod(source.shape[1:-1]))])
        if group.root().fixed:
            return _Group(size, fixed=True)
        return _refuse(
            call.operation, f"it mixes channels with positions, {source.shape} to {size}"
        )

    def _concatenated(self, call, axis):
        if axis in (-1, len(call.output.shape) - 1) and len(call.inputs) > 1:
            return _made_of([(self._groups[tensor], 1) for tensor in call.inputs])
        return self._merged(call)

    def _merged(self, call):
        size = call.output.shape[-1]
        groups = [self._groups[t] for t in call.inputs if t.shape[-1] == size]
        for group in groups[1:]:
            groups[0].join(group)
        for tensor in call.inputs:
            # It is broadcast.
            if tensor.shape[-1] != size:
                self._groups[tensor].root().fixed = True
        return groups[0]

    def _settle(self):
        """Fixes what fixed groups are made of, and groups that are made in two ways."""
        roots = list({id(group.root()): group.root() for group in self._groups.values()}.values())
        while True:
            before = sum(root.fixed for root in roots)
            for root in roots:
                ways = [_terms(parts) for parts in root.made_of]
                if any(way != ways[0] for way in ways):
                    root.fixed = True
                if root.fixed:
                    for part in (part for parts in root.made_of for part, _ in parts):
                        part.root().fixed = True
            if sum(root.fixed for root in roots) == before:
                return


def thinner(channels, width):
    """Returns the channels of a thinner layer.

    A multiple of 8 from 8 on, below it 4, never more than there are: kernels for integers take
    channels by fours or eights.

    Args:
        channels: How many the layer has.
        width: The share that is kept, above 0 and up to 1.
    """
    if width == 1:
        return channels
    wanted = channels * width
    nearest = 8 * math.floor(wanted / 8 + 0.5)
    return min(channels, nearest if wanted >= 6 else 4)


def _size(group, sizes):
    """Returns the channels of a group, and notes them by the group's id."""
    root = group.root()
    if id(root) not in sizes:
        if root.fixed:
            sizes[id(root)] = root.size
        else:
            sizes[id(root)] = sum(times * _size(part, sizes) for part, times in root.made_of[0])
    return sizes[id(root)]


def _made_of(parts):
    return _Group(sum(group.root().size * times for group, times in parts), parts=parts)


def _terms(parts):
    return collections.Counter((id(group.root()), times) for group, times in parts)


def _refuse(layer, reason):
    raise ValueError(
        f"Expected layers whose channels can be thinned. Received: '{layer.name}', a "
        f"{type(layer).__name__}: {reason}. Hint: write the student yourself, or take one of "
        "keras_kd.students."
    )


def _thinned(call, shapes, width):
    """Returns the configuration of a layer with other channels, as trainable as a new one."""
    layer, config = call.operation, dict(call.operation.get_config())
    channels = shapes[call.output][-1]
    if "trainable" in config:
        config["trainable"] = True
    if isinstance(layer, (layers.Dense, layers.Embedding)):
        config["units" if isinstance(layer, layers.Dense) else "output_dim"] = channels
    elif isinstance(layer, layers.EinsumDense):
        shape = config["output_shape"]
        shape = [shape] if isinstance(shape, int) else list(shape)
        config["output_shape"] = (*shape[:-1], channels)
    elif isinstance(layer, _MAKERS):
        config["filters"] = channels
        before = shapes[call.inputs[0]][-1]
        if config.get("groups", 1) > 1:
            depthwise = config["groups"] == call.inputs[0].shape[-1]
            limit = before if depthwise else config["groups"]
            config["groups"] = math.gcd(limit, before, channels)
    elif isinstance(layer, layers.MultiHeadAttention):
        config["key_dim"] = thinner(config["key_dim"], width)
        if config["value_dim"]:
            config["value_dim"] = thinner(config["value_dim"], width)
    elif isinstance(layer, layers.GroupNormalization):
        everything = config["groups"] in (-1, call.inputs[0].shape[-1])
        config["groups"] = channels if everything else math.gcd(config["groups"], channels)
    elif isinstance(layer, layers.Reshape):
        config["target_shape"] = (*config["target_shape"][:-1], channels)
    return config
