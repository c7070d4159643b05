"""A teacher whose answers come with the data, whoever gave them, and whenever."""

import copy

import keras

from keras_kd import heads
from keras_kd.teachers.base import Answer, Teacher

GIVES = ("probabilities", "logits", "values")


class Attached(Teacher):
    """A teacher whose answers come with the data, as `attach` or `with_answers` puts them there.

    Args:
        output_shape: Shape of what it says of one example: `(classes,)`, `(tokens, classes)`.
        gives: What the outputs are: `"probabilities"`, `"logits"`, or `"values"` of a regression.
        head: `"softmax"` or `"sigmoid"`: what the probabilities come from.
        features: A dict from the names of features to the shape of each for one example.
        name: What messages call it.
        fingerprint: A string that tells it from other teachers; a distiller that is loaded takes
            no other one. None not to check.

    Raises:
        ValueError: If an option is unknown or a shape is none.
    """

    def __init__(
        self,
        *,
        output_shape,
        gives="probabilities",
        head=heads.SOFTMAX,
        features=None,
        name="attached",
        fingerprint=None,
    ):
        self.name = name
        self.output_shape = _shape("output_shape", output_shape)
        self.features = {
            path: _shape(f"features[{path!r}]", shape) for path, shape in (features or {}).items()
        }
        if gives not in GIVES:
            raise ValueError(f"Expected gives to be one of {GIVES}. Received: {gives!r}")
        if head not in (heads.SOFTMAX, heads.SIGMOID):
            raise ValueError(f"Expected head to be 'softmax' or 'sigmoid'. Received: {head!r}")
        self.gives, self.head = gives, head
        self.tells_classes = gives != "values"
        self._fingerprint = fingerprint
        self._paths = ()

    def connect(self, *, paths, student):
        """Returns a teacher that reads these features; see `Teacher.connect`."""
        del student
        unknown = [path for path in paths if path not in self.features]
        if unknown:
            raise ValueError(
                f"Expected features that teacher '{self.name}' gives. Received: {unknown}. Hint: "
                f"it was made with features={self.features}."
            )
        connected = copy.copy(self)
        connected._paths = tuple(paths)
        return connected

    def ask(self, batch):
        """Refuses a batch without answers."""
        del batch
        raise ValueError(
            f"Expected data with the answers of teacher '{self.name}'. Received data without. "
            "Hint: attach them to it; evaluate_distillation=False evaluates the student alone."
        )

    def read(self, found):
        """Returns the `Answer` that came with the batch.

        Raises:
            ValueError: If a feature is missing, or a shape is not the declared one.
        """
        features = found.get("features", {})
        missing = [path for path in self._paths if path not in features]
        if missing:
            raise ValueError(
                f"Expected answers with the features {missing} of teacher '{self.name}' in the "
                f"data. Received answers with: {sorted(features)}."
            )
        self._check("outputs", found["outputs"], self.output_shape)
        for path in self._paths:
            self._check(f"feature '{path}'", features[path], self.features[path])
        return Answer(
            found["outputs"], {path: features[path] for path in self._paths}, found.get("known")
        )

    def _check(self, what, tensor, shape):
        found = tuple(tensor.shape[1:])
        if len(found) != len(shape) or any(
            size not in (None, wanted) for size, wanted in zip(found, shape, strict=True)
        ):
            raise ValueError(
                f"Expected {what} of teacher '{self.name}' of shape {(None, *shape)}. Received "
                f"answers of shape {tuple(tensor.shape)} in the data."
            )

    def symbolic(self):
        """Returns (outputs, features) of the declared shapes."""
        return keras.KerasTensor((None, *self.output_shape), "float32"), {
            path: keras.KerasTensor((None, *self.features[path]), "float32") for path in self._paths
        }

    def activations(self):
        """Returns what was declared."""
        return self.head if self.gives == "probabilities" else heads.LINEAR

    def fingerprint(self):
        """Returns what the caller gave as such."""
        return self._fingerprint


def _shape(name, shape):
    shape = tuple(shape) if isinstance(shape, list | tuple) else None
    if shape is None or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            f"Expected {name} to be the shape of what is said of one example, such as (10,). "
            f"Received: {shape!r}"
        )
    return shape
