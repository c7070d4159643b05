"""A student as the device will compute it, still trainable."""

import dataclasses

import keras
import numpy as np

from keras_kd.graph import graph_of
from keras_kd.quantization.chains import copy_of
from keras_kd.quantization.device_layers import Requantize
from keras_kd.quantization.kernels import kernel_of
from keras_kd.quantization.layers import FakeQuantize, Quantized
from keras_kd.quantization.lowering import lowered, norms_behind_kernels
from keras_kd.quantization.observers import MovingAverage, Observer
from keras_kd.quantization.refusals import refusal
from keras_kd.quantization.rules import (
    FUSED,
    Rule,
    activation_of,
    is_fused,
    observer_for,
    rule_of,
    takes_activation,
    unfused,
)
from keras_kd.quantization.schemes import scheme_named

RANGE_SUFFIX = "_range"


def quantize_aware(
    student,
    scheme="int8",
    *,
    observer=None,
    learn_weight_steps=False,
    keep_float=(),
    calibration=None,
):
    """Returns a model that computes in training what the student's integers will on the device.

    A new model, functional and plain: it trains with `fit` or as the student of a `Distiller`,
    saves and loads, and `keras_kd.deploy.convert` takes its ranges as they are trained, without
    any calibration. It shares nothing with the student but begins with its values. Layers keep
    their names; BatchNormalization is part of the layer in front of it, an activation within a
    layer stands behind it as `<layer>_<activation>`, ranges are layers named `<layer>_range`.

    Args:
        student: A built Functional or Sequential model, trained best; models inside of it are
            dissolved, layers that are used several times stay shared.
        scheme: "int8"; "int8_per_tensor" (one scale for a whole kernel); "int8x4" (kernels
            of 4 bits where LiteRT has them); "int16x8" (activations of 16 bits: name it in
            `convert` too); or a `Scheme`.
        observer: How the ranges of activations are found; None for `MovingAverage()`.
        learn_weight_steps: Whether the steps of kernels are trained (LSQ); else they follow the
            largest weights.
        keep_float: Layers, by name or class name, that stay in float: name them in `convert`'s
            `allow_float` too.
        calibration: Batches of inputs for the first ranges, as an array [examples, ...] or a
            structure of them like the model's input; some hundred examples. None to take them
            from the first batches of the training.

    Returns: A `keras.Model`, not compiled.

    Raises:
        ValueError: A layer that cannot be quantized and is not in `keep_float`, or a model whose
            graph is not known.

    Example:
        >>> student = keras_kd.quantization.quantize_aware(student, calibration=x_train[:256])
        >>> student.compile("adam", "sparse_categorical_crossentropy")
        >>> student.fit(x_train, y_train)
        >>> keras_kd.deploy.convert(student, "student.tflite")

    Reference: Jacob et al., arXiv:1712.05877, section 3.
    """
    observer = MovingAverage() if observer is None else observer
    if not isinstance(observer, Observer):
        raise TypeError(f"Expected an Observer. Received: {type(observer).__name__}.")
    names = (keep_float,) if isinstance(keep_float, str) else tuple(keep_float)
    graph = graph_of(student)
    rewrite = _Rewrite(graph, scheme_named(scheme), observer, names, learn_weight_steps)
    model = rewrite.model(student.name)
    if calibration is not None:
        calibrate(model, calibration)
    return model


def calibrate(model, x, *, batch_size=32):
    """Sets the ranges of a model by what its layers say to some inputs, in float.

    Args:
        model: What `quantize_aware` returned.
        x: An array [examples, ...], or a structure of them like the model's input.
        batch_size: Examples at a time.

    Raises:
        ValueError: There are no examples.
    """
    examples = len(keras.tree.flatten(x)[0])
    if not examples:
        raise ValueError("Expected calibration to hold examples. Received: none.")
    layers = [layer for layer in model.layers if isinstance(layer, FakeQuantize)]
    for layer in layers:
        layer.calibrating = True
    try:
        for start in range(0, examples, batch_size):
            rows = slice(start, start + batch_size)
            batch = keras.tree.map_structure(lambda a, rows=rows: np.asarray(a[rows]), x)
            model(batch, training=False)
    finally:
        for layer in layers:
            layer.calibrating = False


class _Rewrite:
    """Makes the calls of a graph again, with ranges between them; see `quantize_aware`."""

    def __init__(self, graph, scheme, observer, keep_float, learn_weight_steps):
        self._keep_float = keep_float
        self._learn_weight_steps = learn_weight_steps
        self._graph = lowered(graph, self._stays_float)
        self._scheme = scheme
        self._observer = observer
        self._consumers = self._graph.consumers()
        # By the ids of the kernels' calls.
        self._norms = norms_behind_kernels(self._graph, self._stays_float)
        # New tensors, and the layer whose range a new tensor is in, by the old tensor.
        self._new: dict = {}
        self._range: dict = {}
        # Calls that became part of an earlier one.
        self._done: set = set()
        # New layers by the ids of the old ones, so that shared layers stay shared.
        self._layers: dict = {}
        # Likewise what stands for old layers that no op in front of them takes in.
        self._unfused: dict = {}
        self._requantized = 0
        self._names = {call.operation.name for call in self._graph.calls}

    def model(self, name):
        """Returns the new model."""
        self._check()
        inputs = keras.tree.map_structure(self._input, self._graph.inputs)
        if isinstance(inputs, list | tuple) and len(inputs) == 1:
            # As files of Keras 2 have them; Keras 3 warns of every call with a tensor.
            (inputs,) = inputs
        for call in self._graph.calls:
            if id(call) not in self._done:
                self._make(call)
        outputs = keras.tree.map_structure(lambda old: self._new[old], self._graph.outputs)
        return keras.Model(inputs, outputs, name=name)

    def _check(self):
        """Refuses what cannot be quantized, all of it at once."""
        names = {name for call in self._graph.calls for name in _names_of(call.operation)}
        unknown = sorted(set(self._keep_float) - names)
        if unknown:
            raise ValueError(
                f"Expected keep_float to name layers, or classes of them. Received: {unknown}. Its "
                f"layers: {', '.join(call.operation.name for call in self._graph.calls)}."
            )
        in_kernels = {id(call) for call in self._norms.values()}
        refused = []
        for call in self._graph.calls:
            if self._stays_float(call):
                continue
            reason = refusal(call, id(call) in in_kernels, self._scheme)
            if reason is not None:
                what = f"'{call.operation.name}' ({type(call.operation).__name__}"
                refused.append(f"{what}{reason and f': {reason}'})")
        if refused:
            raise ValueError(
                "Expected layers that keras_kd.quantization knows. Received: "
                f"{', '.join(refused)}. Hint: replace them, or leave them in float: keep_float="
                "[...], and allow_float=[...] in keras_kd.deploy.convert."
            )

    def _stays_float(self, call):
        return bool(_names_of(call.operation) & set(self._keep_float))

    def _input(self, old):
        new = keras.Input(batch_shape=old.shape, dtype=old.dtype, name=old.name)
        self._names.add(old.name)
        self._new[old] = new
        if keras.backend.is_float_dtype(old.dtype):
            self._give_range(old, old.name, self._observer)
        return new

    def _make(self, call):
        rule = Rule.SAME_VALUES if self._stays_float(call) else rule_of(call.operation)
        if rule is Rule.KERNEL:
            self._make_kernel(call)
            return
        if rule is Rule.JOINT_RANGE:
            self._make_joint(call)
            return
        if rule is Rule.RANGE and call.inputs[0] in self._range:
            call = dataclasses.replace(call, operation=self._alone(call.operation))
        layer = self._copy(call.operation)
        self._run(layer, call)
        if self._stays_float(call):
            for output in call.outputs:
                self._give_range(output, layer.name, self._observer)
        elif rule is Rule.RANGE:
            self._end(call, layer.name)
        elif call.inputs[0] in self._range:
            self._range[call.output] = shared = self._range[call.inputs[0]]
            if rule is Rule.INPUT_RANGE:
                self._new[call.output] = shared(self._new[call.output], observe=False)

    def _make_kernel(self, call):
        """Makes a layer with a kernel, and the BatchNormalization behind it."""
        norm = self._norms.get(id(call))
        layer = self._layers.get(id(call.operation))
        if layer is None:
            layer = self._layers[id(call.operation)] = self._quantized(call.operation, norm)
        self._run(layer, call)
        if norm is not None:
            self._new[norm.output] = self._new[call.output]
            self._done.add(id(norm))
        self._end(norm or call, layer.name)

    def _make_joint(self, call):
        """Gives the inputs of a concatenation one range, which its output has then."""
        name = call.operation.name
        inputs = []
        for old in call.inputs:
            new = self._new[old]
            if old in self._range:
                self._requantized += 1
                new = Requantize(self._requantized, name=self._unique(f"{name}_rescaled"))(new)
            inputs.append(new)
        layer = self._range_layer(name, self._observer)
        # Others that read such an input go on reading it in its own range.
        joint = dict(zip(call.inputs, layer(inputs), strict=False))
        self._run(self._copy(call.operation), call, joint)
        self._range[call.output] = layer

    def _end(self, call, name):
        """Gives a call's outputs a range, or leaves that to what alone reads them."""
        readers = self._consumers.get(call.output, [])
        observer = observer_for(call.operation, self._observer, self._scheme.activation_bits)
        if len(readers) == 1 and readers[0] is not None and not self._stays_float(readers[0]):
            reader = readers[0].operation
            # A range that is known is another one than that of a concatenation.
            joins = rule_of(reader) is Rule.JOINT_RANGE and observer.fixed is None
            if joins or (is_fused(reader) and takes_activation(call.operation)):
                return
        nonnegative = activation_of(call.operation) in FUSED
        self._give_range(call.output, name, observer, nonnegative=nonnegative)

    def _quantized(self, operation, norm):
        return Quantized(
            copy_of(operation),
            None if norm is None else copy_of(norm.operation),
            bits=max(self._scheme.weight_bits, kernel_of(operation).smallest_bits),
            per_channel=self._scheme.per_channel,
            learned_steps=self._learn_weight_steps,
            name=operation.name,
            dtype=operation.dtype_policy,
        )

    def _alone(self, operation):
        """Returns the operation, or what stands for it where it is part of no op in front of it."""
        if id(operation) not in self._unfused:
            self._unfused[id(operation)] = unfused(operation)
        return self._unfused[id(operation)]

    def _copy(self, operation):
        if id(operation) not in self._layers:
            self._layers[id(operation)] = copy_of(operation)
        return self._layers[id(operation)]

    def _run(self, layer, call, instead=None):
        args, kwargs = call.given(self._new | (instead or {}))
        made = keras.tree.flatten(layer(*args, **kwargs))
        self._new.update(zip(call.outputs, made, strict=True))

    def _give_range(self, old, name, observer, *, nonnegative=False):
        layer = self._range_layer(name, observer, nonnegative=nonnegative)
        self._new[old] = layer(self._new[old])
        self._range[old] = layer

    def _range_layer(self, name, observer, *, nonnegative=False):
        name = self._unique(f"{name}{RANGE_SUFFIX}")
        bits = self._scheme.activation_bits
        return FakeQuantize(observer, bits=bits, nonnegative=nonnegative, name=name)

    def _unique(self, name):
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}_{number}"
        self._names.add(unique)
        return unique


def _names_of(operation):
    return {operation.name, type(operation).__name__}
