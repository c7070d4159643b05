"""Teachers beside the graph: any callable from arrays to arrays."""

import keras
import numpy as np
import tensorflow as tf

from keras_kd import heads
from keras_kd.teachers.attached import Attached
from keras_kd.teachers.base import Answer


class Callable(Attached):
    """Any function from arrays to arrays: a .tflite, ONNX or PyTorch model, a remote service.

    The step calls it with the batch's `x` as NumPy arrays and waits for its answer.
    `keras_kd.teachers.attach` asks it ahead of the step, which then only reads.

    Args:
        function: Called with the batch's `x` in its structure, arrays of shape [batch, ...];
            returns outputs, an array of shape [batch, *output_shape], or with `features`
            `(outputs, {name: feature})`. All are read as float32.
        output_shape: Shape of what it says of one example: `(classes,)`, `(tokens, classes)`.
        gives: What the outputs are: `"probabilities"`, `"logits"`, or `"values"` of a regression.
        head: `"softmax"` or `"sigmoid"`: what the probabilities come from.
        features: A dict from the names of features to the shape of each for one example.
        name: What messages call it.
        fingerprint: A string that tells it from other teachers, such as the hash of its file; a
            distiller that is loaded takes no other one. None not to check.

    Raises:
        TypeError: If the function cannot be called.
        ValueError: If an option is unknown or a shape is none; in the step, if the function gives
            anything but what was declared.

    Example:
        >>> runner = keras_kd.deploy.Interpreter("teacher.tflite")
        >>> teacher = keras_kd.teachers.Callable(runner.predict, output_shape=(10,))
        >>> distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(4.0))
        >>> distiller.fit(keras_kd.teachers.attach(batches, teacher), epochs=10)
    """

    in_graph = False

    def __init__(
        self,
        function,
        *,
        output_shape,
        gives="probabilities",
        head=heads.SOFTMAX,
        features=None,
        name=None,
        fingerprint=None,
    ):
        if not callable(function):
            raise TypeError(f"Expected a function of arrays. Received: {function!r}")
        super().__init__(
            output_shape=output_shape,
            gives=gives,
            head=head,
            features=features,
            name=name or getattr(function, "__name__", type(function).__name__),
            fingerprint=fingerprint,
        )
        self.function = function

    def ask(self, batch):
        """Returns the `Answer` of the function."""
        return Answer(*self._outside(batch.inputs, self._paths))

    def _outside(self, x, paths):
        """Returns (outputs, features) of the function, called when the graph runs."""
        flat = keras.tree.flatten(x)
        shapes = [self.output_shape, *(self.features[path] for path in paths)]

        def run(*arrays):
            if not len(arrays[0]):  # A replica may have no example at all.
                return [np.zeros((0, *shape), "float32") for shape in shapes]
            given = self.answer(keras.tree.pack_sequence_as(x, list(arrays)))
            outputs, features = given if self.features else (given, {})
            sides = {"outputs": outputs, **{f"feature '{path}'": features[path] for path in paths}}
            return [
                self._checked(what, value, (len(arrays[0]), *shape))
                for (what, value), shape in zip(sides.items(), shapes, strict=True)
            ]

        found = tf.numpy_function(run, flat, [tf.float32] * len(shapes))
        outputs, *features = keras.tree.flatten(found)
        for tensor, shape in zip((outputs, *features), shapes, strict=True):
            tensor.set_shape((flat[0].shape[0], *shape))
        return outputs, dict(zip(paths, features, strict=True))

    def answer(self, x):
        """Returns what the function says of arrays: outputs, or with features a pair."""
        return self.function(x)

    def _checked(self, what, value, shape):
        value = np.asarray(value, "float32")
        if value.shape != shape:
            raise ValueError(
                f"Expected {what} of teacher '{self.name}' of shape {shape}. Received: an array "
                f"of shape {value.shape}."
            )
        return value
