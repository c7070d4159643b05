"""The teacher whose answers were stored and come with the batch."""

import copy

import keras

from keras_kd.targets.stored import complete_manifest
from keras_kd.teachers.base import Answer, Teacher


class StoredTeacher(Teacher):
    """Gives the answers that `attach` put beside the inputs; no model is run.

    With `top_k` the remaining mass is spread evenly over the other classes: of all distributions
    with these k probabilities the one that claims least. Every loss on logits works on it. At the
    temperature that the answers were stored for, the k probabilities and the remaining mass are
    exact; at another the remaining mass is that of the even spread, and a distiller warns.

    Args:
        path: The folder that `write` wrote; only its manifest is read here.

    Attributes:
        manifest: The `Manifest` of the answers.

    Raises:
        FileNotFoundError: If there are no answers.
        ValueError: If they are incomplete; when the distiller is made, if they lack a feature that
            a loss reads; in the step, if the data has none.

    Example:
        >>> teacher = keras_kd.targets.StoredTeacher("targets")
        >>> distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(4.0))
        >>> distiller.fit(keras_kd.targets.attach(dataset, "targets"), epochs=10)

    Reference: Anshumann et al., arXiv:2503.16870 (what is lost where the mass beyond the k largest
    probabilities is dropped).
    """

    def __init__(self, path):
        self.path = path
        self.manifest = complete_manifest(path)
        self.name = self.manifest.teacher
        self.exact_temperature = self.manifest.answers.exact_temperature
        self._paths = ()

    def connect(self, *, paths, student):
        """Returns a teacher that reads these features; see `Teacher.connect`."""
        del student
        stored = self.manifest.answers.features
        missing = [path for path in paths if path not in stored]
        if missing:
            raise ValueError(
                f"Expected features {missing} among the answers in '{self.path}'. Received: "
                f"{list(stored)}. Hint: targets.write(..., features={list(paths)!r})."
            )
        connected = copy.copy(self)
        connected._paths = tuple(paths)
        return connected

    def ask(self, batch):
        """Refuses a batch without answers."""
        del batch
        raise ValueError(
            f"Expected data with the stored answers of '{self.name}'. Received data without. Hint: "
            f"keras_kd.targets.attach(data, '{self.path}'); evaluate_distillation=False evaluates "
            "the student alone."
        )

    def read(self, found):
        """Returns the `Answer` that came with the batch, float32.

        Raises:
            ValueError: If it is of another form than the manifest says.
        """
        answers = self.manifest.answers
        missing = [name for name, *_ in answers.fields() if name not in found]
        if missing:
            raise ValueError(
                f"Expected answers in the form of '{self.path}', with {missing}. Received: "
                f"{sorted(found)}. Hint: attach the answers of that folder."
            )
        outputs, features = answers.decode(found)
        return Answer(outputs, {path: features[path] for path in self._paths})

    @property
    def key(self):
        """What its answers stand under in the data, the teacher's fingerprint in it."""
        return self.manifest.read_as

    def symbolic(self):
        """Returns (outputs, features) of the shapes in the manifest."""
        answers = self.manifest.answers
        return keras.KerasTensor((None, *answers.shape), "float32"), {
            path: keras.KerasTensor((None, *answers.features[path]), "float32")
            for path in self._paths
        }

    def activations(self):
        """Returns what the outputs end in; None where the writer did not know."""
        return self.manifest.answers.read_activation

    def fingerprint(self):
        """Returns the fingerprint of the teacher that gave the answers."""
        return self.manifest.fingerprint

    def describe(self):
        """Returns whose answers they are, how many and of which form."""
        answers = self.manifest.answers
        kept = f", the {answers.top_k} largest of {answers.classes}" if answers.top_k else ""
        return f"'{self.name}', {self.manifest.records:,} stored answers{kept}"
