"""Outputs and inner features of a model in one forward pass.

A `FeatureReader` turns (model, layer paths) into a function that gives the model's outputs and the
outputs of the named layers together. The model itself stays as it is: nothing is added to its
graph, its layers or its configuration.
"""

import difflib
import inspect

import keras
from keras import ops

from keras_kd import attention
from keras_kd.graph import walk
from keras_kd.heads import is_functional

SEPARATOR = "/"
# In front of what is read inside of an attention layer: "block1/attention:scores".
READING = ":"


def as_paths(path):
    """Returns the layer paths that a loss names: none for None, one, or several, as a list."""
    if path is None:
        return []
    return [path] if isinstance(path, str) else list(path)


def pick(path, outputs, features):
    """Returns what a loss reads of a model.

    Args:
        path: None for the outputs, a layer path for its feature, or a list of paths for the list
            of their features.
        outputs: The model's outputs.
        features: Its features by path.
    """
    if path is None:
        return outputs
    return features[path] if isinstance(path, str) else [features[p] for p in path]


class FeatureReader:
    """Runs a model once and gives its outputs together with named features.

    Args:
        model: A Keras model.
        paths: Layer names; `"backbone/block3"` names a layer inside the nested model `backbone`,
            and `"block3/attention:scores"` what a `keras.layers.MultiHeadAttention` computes:
            `:scores` (before the softmax), `:query`, `:key` or `:value` (see
            `keras_kd.attention`).
        function: For subclassed models: a callable `(model, x, training) -> (outputs, features)`
            where `features` is a dict from each of `paths` to a tensor.
        role: `"teacher"` or `"student"`, for errors.

    Raises:
        ValueError: If a path names no layer, a layer that the model calls more than once, or a
            layer with several outputs; if the model has no graph and there is no `function`.
    """

    def __init__(self, model, paths=(), *, function=None, role="model"):
        self.model = model
        self.paths = tuple(dict.fromkeys(paths))
        self._function = function
        self._role = role
        self._extractor = None
        if self.paths and function is None and model.built:
            self._extractor = self._build_extractor()

    def __call__(self, x, training):
        """Returns `(outputs, {path: feature})` of one forward pass.

        A feature has the mask that the layers of the graph hand on, for the positions of all its
        axes but the last: also where Keras loses it on the way, as behind a residual connection
        around attention (`MultiHeadAttention` takes it off the tensors that it is called with).

        Args:
            x: What the model takes.
            training: Whether layers behave as in training.
        """
        if self._function is not None:
            if not self.model.built:  # A callable may use its layers alone and never call it.
                call(self.model, x, training=False)
            outputs, features = self._function(self.model, x, training)
            self._check_function_result(features)
            return outputs, features
        if not self.paths:
            return call(self.model, x, training), {}
        if self._extractor is None:
            if not self.model.built:
                call(self.model, x, training=False)
            self._extractor = self._build_extractor()
        outputs, features, masks = self._extractor(x, training=training)
        return outputs, {
            path: _with_mask(feature, masks.get(path)) for path, feature in features.items()
        }

    @property
    def features(self):
        """Symbolic features by path, None while they are not known (no graph, or not built)."""
        return self._extractor.output[1] if self._extractor is not None else None

    def _build_extractor(self):
        model = self.model
        if not (is_functional(model) or isinstance(model, keras.Sequential)):
            raise ValueError(
                f"Expected a Functional or Sequential {self._role} to read layers by name "
                f"({', '.join(self.paths)}). Received '{model.name}', a {type(model).__name__} "
                "with its own call(). Hint: give its features by a callable, "
                f"{self._role}_features=lambda model, x, training: (outputs, {{name: feature}})."
            )
        inputs, *found = _trace(model, self.paths, self._role, prefix="")
        extractor = keras.Model(inputs, found, name=f"{model.name}_features")
        # Tracked, so that a call of the extractor clears the `add_loss` terms of the last one.
        extractor.model = model
        return extractor

    def _check_function_result(self, features):
        missing = [path for path in self.paths if path not in features]
        if missing:
            raise ValueError(
                f"Expected {self._role}_features to give {missing}. Received: {sorted(features)}."
            )


def call(model, x, training):
    """Calls a model, with `training` if it takes that argument."""
    if takes_training(model):
        return model(x, training=training)
    return model(x)


def takes_training(model):
    """Returns whether the model's `call` has a `training` argument."""
    parameters = inspect.signature(model.call).parameters.values()
    return any(p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters)


def mask_of(tensor):
    """Returns the mask that Keras's layers left on a tensor, None if there is none.

    The attribute is private to Keras, whose own losses read it; tests/test_features.py fails when
    it moves.
    """
    return getattr(tensor, "_keras_mask", None)


def _with_mask(tensor, mask):
    """Returns a tensor with a mask; one that it has stays."""
    if mask is None or mask_of(tensor) is not None:
        return tensor
    # A copy: the tensor itself may be an output, whose mask is between Keras and the task loss.
    tensor = ops.copy(tensor)
    tensor._keras_mask = mask
    return tensor


class _Borrowed(keras.Operation):
    """Calls somebody else's layer or operation, so that no node of our graph is left on it.

    It is no layer and tracks none: variables, masks, `training` and autocast are all the business
    of the borrowed layer's own `__call__`.
    """

    def __init__(self, lender):
        super().__init__(name=lender.name)
        self.lender = lender
        # A functional model passes `training` on to the operations that name it here, in place of
        # what was said when the graph was made. The name is private to Keras;
        # tests/test_features.py fails when it moves.
        self._call_context_args = getattr(lender, "_call_context_args", frozenset())

    def call(self, *args, **kwargs):
        return self.lender(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self.lender.compute_output_spec(*args, **kwargs)


class _BorrowedAttention(_Borrowed):
    """Calls somebody else's attention layer and reads it: `(outputs, {reading: feature})`.

    It reads before it calls: the layer takes the masks off the tensors that it is called with.
    """

    def __init__(self, lender, readings):
        super().__init__(lender)
        self._readings = readings

    def call(self, *args, **kwargs):
        given = attention.arguments(args, kwargs, mask_of)
        features = {
            reading: _with_mask(
                attention.read(self.lender, reading, given),
                attention.mask_for(self.lender, reading, given),
            )
            for reading in self._readings
        }
        return super().call(*args, **kwargs), features

    def compute_output_spec(self, *args, **kwargs):
        given = attention.arguments(args, kwargs, mask_of)
        features = {
            reading: attention.spec(self.lender, reading, given) for reading in self._readings
        }
        return super().compute_output_spec(*args, **kwargs), features


def _trace(model, paths, role, prefix):
    """Rebuilds a model's graph from borrowed layers and notes the outputs of the named ones.

    Returns: (inputs, outputs, {full path: symbolic feature}, {full path: its symbolic mask}).
    """
    trace = _Trace(model, paths, role, prefix)
    inputs, outputs = walk(model, trace.proxy, trace.run)
    return inputs, outputs, trace.features, trace.masks


class _Trace:
    """The walk through one model's graph; see `_trace`."""

    def __init__(self, model, paths, role, prefix):
        self.features: dict = {}
        self.masks: dict = {}
        self._model = model
        self._role = role
        self._prefix = prefix
        self._wanted, self._nested, self._readings = _sorted_by_kind(model, paths, role, prefix)
        # The masks of symbolic tensors, by the tensor's id.
        self._mask_of: dict = {}

    def proxy(self, operation):
        """Returns what stands for an operation of the model in our graph."""
        name = operation.name
        if name in self._nested:
            prefix = f"{self._prefix}{name}{SEPARATOR}"
            inputs, *found = _trace(operation, self._nested[name], self._role, prefix)
            return keras.Model(inputs, found, name=name)
        if name in self._readings:
            return _BorrowedAttention(operation, self._readings[name])
        return _Borrowed(operation)

    def run(self, layer, *args, **kwargs):
        """Calls a proxy on symbolic tensors and notes what is asked for of its layer."""
        outputs, name = layer(*args, **kwargs), layer.name
        if isinstance(layer, _BorrowedAttention):
            outputs, features = outputs
            given = attention.arguments(args, kwargs, lambda tensor: self._mask_of.get(id(tensor)))
            for reading, feature in features.items():
                mask = attention.mask_for(layer.lender, reading, given)
                self._note(f"{name}{READING}{reading}", feature, mask)
        if isinstance(layer, _Borrowed):
            self._hand_masks_on(layer.lender, args, kwargs, outputs)
        else:
            outputs, features, masks = outputs
            for path, feature in features.items():
                self._note(f"{name}{SEPARATOR}{path}", feature, masks.get(path))
        if name in self._wanted:
            self._note(name, outputs, self._mask_of.get(id(outputs)))
        return outputs

    def _note(self, name, feature, mask):
        if name in self.features:
            raise ValueError(
                f"Expected '{name}' of {self._role} '{self._model.name}' to be called once. It is "
                "called several times. Hint: name a layer after it."
            )
        if len(keras.tree.flatten(feature)) != 1:
            raise ValueError(
                f"Expected '{name}' of {self._role} '{self._model.name}' to have one output. It "
                "has several. Hint: name a layer after it."
            )
        self.features[name] = feature
        if mask is not None:
            self.masks[name] = mask

    def _hand_masks_on(self, lender, args, kwargs, outputs):
        """Asks a layer for the masks of its outputs, as Keras does when a model is made."""
        if not isinstance(lender, keras.Layer) or not lender.supports_masking:
            return
        inputs = args[0] if args else next(iter(kwargs.values()))
        previous = keras.tree.map_structure(lambda tensor: self._mask_of.get(id(tensor)), inputs)
        masks = lender.compute_mask(inputs, previous)
        if masks is not None:
            flat = zip(keras.tree.flatten(outputs), keras.tree.flatten(masks), strict=False)
            self._mask_of.update((id(tensor), mask) for tensor, mask in flat)


def _choice(name, names):
    """Returns the layers to choose from, those with a similar name first where there are many."""
    if len(names) <= 20:
        return f"Its layers: {', '.join(names)}."
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    guess = f"Did you mean {', '.join(near)}? " if near else ""
    return f"{guess}Its {len(names)} layers: {', '.join(names[:8])} ... {', '.join(names[-4:])}."


def _sorted_by_kind(model, paths, role, prefix):
    """Checks that each path names a layer.

    Returns: (names of layers whose outputs are read, {nested model's name: paths inside it},
        {attention layer's name: what is read inside it}).
    """
    layers = {layer.name: layer for layer in model.layers}
    wanted, nested, readings = set(), {}, {}
    for path in paths:
        name, separator, rest = path.partition(SEPARATOR)
        reading = None
        if not separator and name not in layers and READING in name:
            name, _, reading = name.rpartition(READING)
        if name not in layers:
            raise ValueError(
                f"Expected a layer of {role} '{model.name}'. Received: '{prefix}{path}'. "
                f"Hint: no layer '{name}' in '{model.name}'. {_choice(name, list(layers))}"
            )
        if reading is not None:
            attention.check(layers[name], reading, f"'{prefix}{path}' of {role}")
            readings.setdefault(name, []).append(reading)
        elif not separator:
            wanted.add(name)
        else:
            inner = layers[name]
            if not (is_functional(inner) or isinstance(inner, keras.Sequential)):
                raise ValueError(
                    f"Expected '{prefix}{name}' of {role} to be a Functional or Sequential model, "
                    f"to read '{rest}' inside it. Received: a {type(inner).__name__}."
                )
            nested.setdefault(name, []).append(rest)
    return wanted, nested, readings
