"""The way from a Keras 3 student to the same model in tf_keras, and back."""

import keras
import numpy as np

from keras_kd.graph import graph_of
from keras_kd.heads import is_functional
from keras_kd.quantization.tfmot.layers import twin_of
from keras_kd.quantization.tfmot.packages import tf_keras
from keras_kd.quantization.tfmot.wrappers import strip

# Both sum the same float32 numbers, in their own order: of the largest output, or of 1.
TOLERANCE = 1e-5
# For a size that is not fixed, in the batch that both are compared on.
_FREE_SIZE = 32
_EXAMPLES = 4


def twin(student):
    """Returns the tf_keras model that computes what a Keras 3 student does.

    It is built layer by layer, since tf_keras cannot read a Keras 3 configuration, under the same
    names and with the same weights, and compared with the student on a random batch. The two share
    nothing.

    Args:
        student: A built Keras 3 model, functional or Sequential, in float32; with nested models,
            shared layers, several inputs and outputs. Of the layers in
            `keras_kd.quantization.tfmot.supported()`.

    Returns:
        A `tf_keras.Model`, or a `tf_keras.Sequential` for a Sequential student.

    Raises:
        TypeError: If it is no Keras 3 model.
        ValueError: If a layer, or an argument of one, has no counterpart in tf_keras; if the
            outputs differ by more than 1e-5 of the largest one (or of 1).

    Example:
        >>> model = keras_kd.quantization.tfmot.twin(student)
        >>> isinstance(model, tf_keras.Model)
        True
    """
    check_student(student)
    made = _Twins().model(student)
    _copy_weights(student, made)
    _check_same_outputs(student, made)
    return made


def to_keras(model, student):
    """Returns a Keras 3 model like the student, with the weights of its trained twin.

    Args:
        model: A model that `twin`, `prune` or `cluster` gave; the wrappers of the latter two are
            taken off.
        student: The Keras 3 student that it was made of; stays as it is.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ValueError: If the model is no twin of this student, or a quantized one, whose ranges a
            plain Keras 3 model has no place for.
    """
    check_student(student)
    stripped = strip(model)
    made = {}

    def clone(layer):
        # `clone_model` alone would double a layer that is called in a nested model and outside.
        if id(layer) not in made:
            nested = isinstance(layer, keras.Model)
            made[id(layer)] = (
                keras.models.clone_model(layer, clone_function=clone)
                if nested
                else type(layer).from_config(layer.get_config())
            )
        return made[id(layer)]

    copy = clone(student)
    _copy_weights(stripped, copy)
    return copy


def check_student(student):
    """Refuses what has no twin whatever its layers are.

    Raises:
        TypeError: If it is no Keras 3 model.
        ValueError: If it is subclassed, or not built.
    """
    if not isinstance(student, keras.Model):
        raise TypeError(
            f"Expected a Keras 3 model as student. Received: {type(student).__module__}."
            f"{type(student).__name__}."
        )
    if not (is_functional(student) or isinstance(student, keras.Sequential)):
        raise ValueError(
            f"Expected a functional or Sequential student. Received: '{student.name}', a "
            f"{type(student).__name__} with its own call(), of which tf_keras has no copy. Hint: "
            "build it from layers."
        )
    if not student.built:
        raise ValueError(
            f"Expected a built student. Received: '{student.name}', which has no weights yet. "
            "Hint: give its first layer an input shape."
        )


class _Twins:
    """The tf_keras layer of each layer of the student, one for each, wherever it is called."""

    def __init__(self):
        self._made = {}

    def of(self, layer):
        """Returns the twin of a layer, or of a nested model."""
        if id(layer) not in self._made:
            nested = isinstance(layer, keras.Model)
            self._made[id(layer)] = self.model(layer) if nested else twin_of(layer)
        return self._made[id(layer)]

    def model(self, student):
        """Returns the twin of a model."""
        check_student(student)
        if isinstance(student, keras.Sequential):
            layers = [_input(student.inputs[0]), *map(self.of, student.layers)]
            return tf_keras.Sequential(layers, name=student.name)
        for layer in student.layers:
            # Before the others: a layer that has a mask made has operations in the graph, too.
            if not isinstance(layer, keras.layers.InputLayer):
                self.of(layer)
        graph = graph_of(student, open_up=False)
        made = {tensor: _input(tensor) for tensor in keras.tree.flatten(graph.inputs)}
        for call in graph.calls:
            args, kwargs = call.given(made)
            outputs = self.of(call.operation)(*args, **kwargs)
            made.update(zip(call.outputs, keras.tree.flatten(outputs), strict=True))
        ends = keras.tree.map_structure(lambda x: made[x], (graph.inputs, graph.outputs))
        return tf_keras.Model(*ends, name=student.name)


def _input(tensor):
    return tf_keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _copy_weights(source, target):
    given, wanted = _with_weights(source), _with_weights(target)
    if given.keys() != wanted.keys():
        raise ValueError(
            "Expected a model with the layers of its student. Received: only in one of them "
            f"{', '.join(sorted(given.keys() ^ wanted.keys()))}. Hint: give the student that it "
            "was made of."
        )
    for path, layer in wanted.items():
        layer.set_weights(given[path].get_weights())


def _with_weights(model, prefix=""):
    """Returns the layers of a model, of either Keras, that have weights, by their paths."""
    found = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found |= _with_weights(layer, f"{prefix}{layer.name}/")
        elif layer.weights:
            found[prefix + layer.name] = layer
    return found


def _check_same_outputs(student, model):
    random = np.random.default_rng(0)

    def batch(tensor):
        shape = [_EXAMPLES, *(size or _FREE_SIZE for size in tensor.shape[1:])]
        if "int" in tensor.dtype:
            return random.integers(0, 2, shape).astype(tensor.dtype)
        return random.normal(size=shape).astype(tensor.dtype)

    # A Sequential model has `input` only once it has been called.
    sequential = isinstance(student, keras.Sequential)
    x = keras.tree.map_structure(batch, student.inputs[0] if sequential else student.input)
    pairs = zip(
        keras.tree.flatten(student(x, training=False)),
        keras.tree.flatten(model(x, training=False)),
        strict=True,
    )
    for index, (ours, theirs) in enumerate(pairs):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        difference = float(np.abs(ours - theirs).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(ours).max())):
            raise ValueError(
                f"Expected a twin whose outputs are within {TOLERANCE} of the student's. Received: "
                f"{difference:.2g} in output {index} of '{student.name}'. Hint: a student whose "
                "numbers are not finite, or so large that float32 does not hold them, has no twin."
            )
