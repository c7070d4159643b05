"""Outputs and inner features of a model in one forward pass.

A `FeatureReader` turns (model, layer paths) into a function that gives the model's outputs and the
outputs of the named layers together. The model itself stays as it is: nothing is added to its
graph, its layers or its configuration.
"""

import difflib
import inspect

import keras

from keras_kd.heads import is_functional

SEPARATOR = "/"


class FeatureReader:
    """Runs a model once and gives its outputs together with named features.

    Args:
        model: A Keras model.
        paths: Layer names; `"backbone/block3"` names a layer inside the nested model `backbone`.
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
        return self._extractor(x, training=training)

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
        inputs, outputs, features = _trace(model, self.paths, self._role, prefix="")
        extractor = keras.Model(inputs, [outputs, features], name=f"{model.name}_features")
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


class _Borrowed(keras.Operation):
    """Calls somebody else's layer or operation, so that no node of our graph is left on it.

    It is no layer and tracks none: variables, masks, `training` and autocast are all the business
    of the borrowed layer's own `__call__`.
    """

    def __init__(self, lender):
        super().__init__(name=lender.name)
        self._lender = lender
        # A functional model passes `training` on to the operations that name it here, in place of
        # what was said when the graph was made. The name is private to Keras;
        # tests/test_features.py fails when it moves.
        self._call_context_args = getattr(lender, "_call_context_args", frozenset())

    def call(self, *args, **kwargs):
        return self._lender(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self._lender.compute_output_spec(*args, **kwargs)


def _trace(model, paths, role, prefix):
    """Rebuilds a model's graph from borrowed layers and notes the outputs of the named ones.

    Returns: (inputs, outputs, {full path: symbolic feature}).
    """
    inner = _group_by_nested_model(model, paths, role, prefix)
    wanted = {path for path in paths if SEPARATOR not in path}
    found: dict = {}
    proxies: dict = {}

    def proxy(operation):
        if id(operation) not in proxies:
            if operation.name in inner:
                nested_inputs, outputs, features = _trace(
                    operation, inner[operation.name], role, f"{prefix}{operation.name}{SEPARATOR}"
                )
                proxies[id(operation)] = keras.Model(
                    nested_inputs, [outputs, features], name=operation.name
                )
            else:
                proxies[id(operation)] = _Borrowed(operation)
        return proxies[id(operation)]

    def note(name, feature):
        if name in found:
            raise ValueError(
                f"Expected '{name}' of {role} '{model.name}' to be called once. It is called "
                "several times. Hint: name a layer after it."
            )
        if len(keras.tree.flatten(feature)) != 1:
            raise ValueError(
                f"Expected '{name}' of {role} '{model.name}' to have one output. It has several. "
                "Hint: name a layer after it."
            )
        found[name] = feature

    def run(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        if not isinstance(layer, _Borrowed):
            outputs, features = outputs
            for path, feature in features.items():
                note(f"{layer.name}{SEPARATOR}{path}", feature)
        if layer.name in wanted:
            note(layer.name, outputs)
        return outputs

    if isinstance(model, keras.Sequential):
        reference = model.inputs[0]
        inputs = outputs = _like(reference)
        for layer in model.layers:
            outputs = run(proxy(layer), outputs)
    else:
        inputs = keras.tree.map_structure(_like, model.input)
        outputs = keras.models.clone_model(
            model, input_tensors=inputs, clone_function=proxy, call_function=run
        ).output
    return inputs, outputs, found


def _like(tensor):
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _choice(name, names):
    """Returns the layers to choose from, those with a similar name first where there are many."""
    if len(names) <= 20:
        return f"Its layers: {', '.join(names)}."
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    guess = f"Did you mean {', '.join(near)}? " if near else ""
    return f"{guess}Its {len(names)} layers: {', '.join(names[:8])} ... {', '.join(names[-4:])}."


def _group_by_nested_model(model, paths, role, prefix):
    """Checks that each path names a layer; returns {nested model's name: paths inside it}."""
    layers = {layer.name: layer for layer in model.layers}
    groups: dict = {}
    for path in paths:
        name, _, rest = path.partition(SEPARATOR)
        if name not in layers:
            raise ValueError(
                f"Expected a layer of {role} '{model.name}'. Received: '{prefix}{path}'. "
                f"Hint: no layer '{name}' in '{model.name}'. {_choice(name, list(layers))}"
            )
        if not rest:
            continue
        nested = layers[name]
        if not (is_functional(nested) or isinstance(nested, keras.Sequential)):
            raise ValueError(
                f"Expected '{prefix}{name}' of {role} to be a Functional or Sequential model, to "
                f"read '{rest}' inside it. Received: a {type(nested).__name__}."
            )
        groups.setdefault(name, []).append(rest)
    return groups
