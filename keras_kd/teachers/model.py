"""A Keras model as the teacher."""

import copy
import hashlib

import keras

from keras_kd import heads
from keras_kd.features import FeatureReader
from keras_kd.teachers.base import Answer, Teacher


class ModelTeacher(Teacher):
    """Asks a Keras model, in inference mode, and changes nothing about it.

    A distiller takes the bare model too; this class gives a member of an ensemble inputs of its
    own.

    Args:
        model: The Keras model.
        paths: Layer paths whose features are read; a distiller says them itself.
        preprocessing: None, or a callable on the batch's `x`, inside the graph.
        function: None, or the callable that gives outputs and features (see `FeatureReader`).
        activation: What is behind the outputs: `"linear"` for logits, `"softmax"` or `"sigmoid"`;
            None to look at the last layer, which a subclassed model does not show.

    Example:
        >>> teacher = keras_kd.teachers.ModelTeacher(
        ...     large, preprocessing=lambda x: keras.ops.image.resize(x, (224, 224))
        ... )
    """

    def __init__(self, model, paths=(), *, preprocessing=None, function=None, activation=None):
        if not isinstance(model, keras.Model):
            raise ValueError(f"Expected a keras.Model. Received: {model!r}")
        if activation not in (None, heads.LINEAR, heads.SOFTMAX, heads.SIGMOID):
            raise ValueError(
                "Expected activation to be 'linear', 'softmax', 'sigmoid' or None. Received: "
                f"{activation!r}"
            )
        self.name, self.model = model.name, model
        self.reader = FeatureReader(model, paths, function=function, role="teacher")
        self._preprocessing = preprocessing
        self._function = function
        self._activation = activation

    def connect(self, *, paths, student):
        """Returns a teacher that reads these features; see `Teacher.connect`."""
        del student
        connected = copy.copy(self)
        connected.reader = FeatureReader(self.model, paths, function=self._function, role="teacher")
        return connected

    def ask(self, batch):
        """Returns the `Answer` of one forward pass."""
        return Answer(*self.run(batch.inputs))

    def run(self, x):
        """Returns `(outputs, {path: feature})` of one forward pass.

        Args:
            x: The batch's inputs, before any preprocessing.
        """
        if self._preprocessing is not None:
            x = self._preprocessing(x)
        return self.reader(x, training=False)

    @property
    def built(self):
        """Whether the model has weights."""
        return self.model.built

    @property
    def variables(self):
        """All that the model holds."""
        return self.model.variables

    @property
    def fed_as_is(self):
        """The model, unless there is a preprocessing."""
        return [self.model] if self._preprocessing is None else []

    def symbolic(self):
        """Returns (outputs, features) as far as the graph tells them."""
        features = self.reader.features if self.reader.paths else {}
        return heads.symbolic_outputs(self.model), features

    def activations(self):
        """Returns the activation behind each output; None where it has no graph."""
        return self._activation or heads.activations(self.model)

    def fingerprint(self):
        """Returns the SHA-256 of the model's weights: shapes, dtypes and values, in order."""
        return fingerprint(self.model) if self.built else None

    def describe(self):
        """Returns name and size."""
        if not self.built:
            return f"'{self.name}', not built yet"
        return f"'{self.name}', {self.model.count_params():,} parameters"


def fingerprint(model):
    """Returns the SHA-256 of a model's weights: shapes, dtypes and values, in order."""
    digest = hashlib.sha256()
    for variable in model.weights:
        value = variable.numpy()
        digest.update(f"{value.shape} {value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
