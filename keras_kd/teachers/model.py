"""A Keras model as the teacher."""

import hashlib

from keras_kd.features import FeatureReader


class ModelTeacher:
    """Asks a Keras model, in inference mode, and changes nothing about it.

    It is a plain object on purpose: Keras tracks no plain object, so a distiller that holds one has
    none of the teacher's variables, and the teacher keeps its `trainable` flag.

    Args:
        model: The Keras model.
        paths: Layer paths whose features are read.
        preprocessing: None, or a callable on the inputs, inside the graph.
        function: None, or the callable that gives outputs and features (see `FeatureReader`).
    """

    def __init__(self, model, paths=(), *, preprocessing=None, function=None):
        self.model = model
        self.reader = FeatureReader(model, paths, function=function, role="teacher")
        self._preprocessing = preprocessing

    def __call__(self, x):
        """Returns `(outputs, {path: feature})` of one forward pass.

        Args:
            x: The inputs that the student gets too, before any preprocessing.
        """
        if self._preprocessing is not None:
            x = self._preprocessing(x)
        return self.reader(x, training=False)

    def fingerprint(self):
        """Returns the SHA-256 of the model's weights: shapes, dtypes and values, in order."""
        return fingerprint(self.model)


def fingerprint(model):
    """Returns the SHA-256 of a model's weights: shapes, dtypes and values, in order."""
    digest = hashlib.sha256()
    for variable in model.weights:
        value = variable.numpy()
        digest.update(f"{value.shape} {value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
