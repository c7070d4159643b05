"""A tf_keras student: its outputs and features in one pass, and the activations behind them."""

import keras
import tensorflow as tf

from keras_kd import heads
from keras_kd.quantization.tfmot.packages import tf_keras

# Layers that hand on what they get: the activation is that of what comes before.
_TRANSPARENT = ("Dropout", "Flatten", "QuantizeLayer", "Reshape")
_ACTIVATION_LAYERS = ("ELU", "LeakyReLU", "PReLU", "ReLU")


class StudentReader:
    """Runs a tf_keras model once and gives its outputs together with named features.

    A plain object: the distiller tracks the student alone.

    Args:
        student: A tf_keras model with a graph.
        names: Names of layers as the Keras 3 student has them: a wrapper of tfmot's answers to the
            name of the layer in it.

    Raises:
        ValueError: If there is no such layer, or it is called several times.
    """

    def __init__(self, student, names=()):
        features = {name: _feature(student, name) for name in dict.fromkeys(names)}
        self.outputs = symbolic(student.output)
        self.features = symbolic(features)
        self._model = student
        if features:
            self._model = tf_keras.Model(student.input, [student.output, features])

    def __call__(self, x, training):
        """Returns `(outputs, {name: feature})` of one forward pass."""
        found = self._model(x, training=training)
        return tuple(found) if self.features else (found, {})


def symbolic(structure):
    """Returns tensors of tf_keras's graph as Keras 3 has them: shapes and dtypes."""
    return tf.nest.map_structure(
        lambda tensor: keras.KerasTensor(tuple(tensor.shape), tensor.dtype.name), structure
    )


def activations(student):
    """Finds the activation behind each output of a tf_keras model.

    Args:
        student: A tf_keras model with a graph.

    Returns:
        The structure of its outputs, with names as `keras_kd.heads.activations` gives them.
    """
    return tf.nest.map_structure(_activation, student.output)


def _activation(tensor):
    # As `keras_kd.heads` reads it of Keras 3: no public way leads from a tensor to its layer.
    layer, node_index, tensor_index = tensor._keras_history
    if isinstance(layer, tf_keras.Model):
        return _activation(layer.outputs[tensor_index])
    inner = _unwrapped(layer)
    kind = type(inner).__name__
    if kind in _TRANSPARENT:
        return _activation(layer.inbound_nodes[node_index].keras_inputs[0])
    if kind in _ACTIVATION_LAYERS:
        return kind.lower()
    if kind == "Softmax":
        return heads.SOFTMAX if inner.axis in (-1, len(tensor.shape) - 1) else "softmax over axis"
    function = getattr(inner, "activation", None)
    # tfmot puts an object that quantizes around the function.
    function = getattr(function, "activation", function)
    return getattr(function, "__name__", heads.LINEAR)


def _unwrapped(layer):
    """Returns the layer in tfmot's wrapper, or the layer itself."""
    return getattr(layer, "layer", layer)


def _feature(student, name):
    found = [layer for layer in student.layers if name in (layer.name, _unwrapped(layer).name)]
    if not found:
        names = ", ".join(_unwrapped(layer).name for layer in student.layers)
        raise ValueError(
            f"Expected a layer of student '{student.name}'. Received: {name!r}. Hint: layers of a "
            f"nested model cannot be read here. Its layers: {names}."
        )
    nodes = found[0].inbound_nodes
    if len(nodes) != 1 or tf.nest.is_nested(found[0].output):
        raise ValueError(
            f"Expected '{name}' of student '{student.name}' to be called once and to have one "
            "output. Hint: name a layer after it."
        )
    return found[0].output
