"""Teachers whose classes are not the student's."""

import keras
import numpy as np
from keras import ops

from keras_kd import heads
from keras_kd.numerics import tempered_log_softmax
from keras_kd.teachers.around import AroundTeacher
from keras_kd.teachers.base import Answer, hash_of, head_and_logits

# Far below every log-probability, and still finite after a division by a small temperature.
_NEVER = -1e30


def mapped_log_probabilities(*, logits, groups):
    """Log-probabilities of the student's classes, from a teacher that has others.

    log p'_c = log sum_{k in group c} p_k - log sum_{all groups} p_k: the teacher's classes of a
    group are added up, and what is in no group is left out and renormalised.

    Args:
        logits: The teacher's, shape [batch, ..., teacher's classes].
        groups: For each class of the student the teacher's classes that belong to it, at least one;
            integers.

    Returns:
        Shape [batch, ..., len(groups)], in nats.
    """
    log_p = tempered_log_softmax(logits, 1.0)
    classes = logits.shape[-1]
    # Groups of one length: the class that fills them up is an extra one that never happens.
    members = np.full((len(groups), max(map(len, groups))), classes)
    for row, group in zip(members, groups, strict=True):
        row[: len(group)] = group
    log_p = ops.concatenate([log_p, ops.full_like(log_p[..., :1], _NEVER)], axis=-1)
    return ops.log_softmax(ops.logsumexp(ops.take(log_p, members, axis=-1), axis=-1), axis=-1)


class MapClasses(AroundTeacher):
    """A teacher that has more, fewer or other classes than its student.

    Several classes of the teacher may be one of the student's: their probabilities are added. Those
    that the student has not are left out, and the rest is renormalised. Of the student's classes
    that the teacher has not it says nothing: losses on outputs compare the two over the others, the
    student's probabilities renormalised too. So an example of such a class teaches only how the
    others relate; `KnownOnly` leaves it out.

    Args:
        teacher: A teacher or a Keras model with one softmax output.
        mapping: For each class of the teacher the number of the student's class, or None.
        student_classes: How many classes the student has.

    Raises:
        ValueError: If the mapping is none, or fewer than two classes are left; when the distiller
            is made, if the teacher has no softmax or another number of classes.

    Example:
        >>> # The teacher tells cats, dogs, cars and trucks; the student animals and vehicles.
        >>> teacher = keras_kd.teachers.MapClasses(fine, [0, 0, 1, 1], student_classes=2)
    """

    def __init__(self, teacher, mapping, *, student_classes):
        super().__init__(teacher)
        if self.classes is not None:
            raise ValueError("Expected one MapClasses. Received one inside of another.")
        self.mapping = tuple(mapping)
        reached = {entry for entry in self.mapping if entry is not None}
        if not all(isinstance(entry, int) and 0 <= entry < student_classes for entry in reached):
            raise ValueError(
                f"Expected a mapping to None or 0..{student_classes - 1}, the student's classes. "
                f"Received: {list(mapping)}"
            )
        if len(reached) < 2:
            raise ValueError(
                "Expected a teacher that tells at least two of the student's classes apart. "
                f"Received a mapping to {sorted(reached)}."
            )
        if len(reached) < student_classes:
            self.classes = tuple(sorted(reached))
        self._groups = [
            [index for index, entry in enumerate(self.mapping) if entry == wanted]
            for wanted in sorted(reached)
        ]

    @classmethod
    def by_name(cls, teacher, teacher_names, student_names):
        """Makes one by the names of classes.

        Args:
            teacher: As the class takes it.
            teacher_names: The teacher's, in order, each as the student's class of that meaning is
                called; a name that is none of the student's is left out.
            student_names: The student's, in order.
        """
        number = {name: index for index, name in enumerate(student_names)}
        mapping = [number.get(name) for name in teacher_names]
        return cls(teacher, mapping, student_classes=len(number))

    def connect(self, *, paths, student):
        """Returns a copy around the connected teacher; see `Teacher.connect`."""
        connected = super().connect(paths=paths, student=student)
        outputs, _ = connected.teacher.symbolic()
        if outputs is not None:
            connected._check(outputs)
        return connected

    def ask(self, batch):
        """Returns the `Answer` in the student's classes: log-probabilities."""
        answer = self.teacher(batch)
        self._check(answer.outputs)
        _, logits = head_and_logits(self.teacher, answer.outputs)
        outputs = mapped_log_probabilities(logits=logits, groups=self._groups)
        return Answer(outputs, answer.features, answer.known)

    def symbolic(self):
        """Returns (outputs, features), the outputs as the student's classes."""
        outputs, features = self.teacher.symbolic()
        if outputs is not None:
            shape = (*outputs.shape[:-1], len(self._groups))
            outputs = keras.KerasTensor(shape, "float32")
        return outputs, features

    def activations(self):
        """Log-probabilities are logits."""
        return heads.LINEAR

    def seen_of(self, student_outputs):
        """Returns the student's answer for the classes that the teacher has."""
        if self.classes is None:
            return student_outputs
        return heads.of_classes(student_outputs, self.classes)

    def fingerprint(self):
        """Returns that of the inner teacher, with the mapping."""
        return hash_of(super().fingerprint(), str(self.mapping))

    def _check(self, outputs):
        if keras.tree.is_nested(outputs) or self.teacher.activations() == heads.SIGMOID:
            raise ValueError(
                f"Expected teacher '{self.name}' with one softmax output, to map its classes. "
                "Received one with several outputs or a sigmoid head."
            )
        if outputs.shape[-1] != len(self.mapping):
            raise ValueError(
                f"Expected a mapping with an entry for each of the {outputs.shape[-1]} classes of "
                f"teacher '{self.name}'. Received: {len(self.mapping)} entries."
            )
