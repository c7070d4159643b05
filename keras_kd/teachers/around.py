"""Teachers that change what another one says, and what counts as a teacher at all."""

import copy

import keras

from keras_kd.teachers.base import Teacher, hash_of
from keras_kd.teachers.model import ModelTeacher


class AroundTeacher(Teacher):
    """A teacher that changes what another one says.

    Args:
        teacher: A `Teacher` or a Keras model.
    """

    def __init__(self, teacher):
        self.teacher = as_member(teacher)
        self._take_over()

    def _take_over(self):
        inner = self.teacher
        self.name, self.classes = inner.name, inner.classes
        self.in_graph, self.may_be_attached = inner.in_graph, inner.may_be_attached
        self.tells_classes, self.may_leave_out = inner.tells_classes, inner.may_leave_out
        self.exact_temperature = inner.exact_temperature

    def connect(self, *, paths, student):
        """Returns a copy around the connected teacher; see `Teacher.connect`."""
        connected = copy.copy(self)
        connected.teacher = self.teacher.connect(paths=paths, student=student)
        return connected

    def reads(self, answers):
        """Returns whether answers in the data are its own or the inner teacher's."""
        return super().reads(answers) or self.teacher.reads(answers)

    @property
    def built(self):
        """Whether the inner teacher can be asked."""
        return self.teacher.built

    @property
    def variables(self):
        """The inner teacher's."""
        return self.teacher.variables

    @property
    def fed_as_is(self):
        """The inner teacher's."""
        return self.teacher.fed_as_is

    def symbolic(self):
        """Returns what the inner teacher gives."""
        return self.teacher.symbolic()

    def activations(self):
        """Returns those of the inner teacher."""
        return self.teacher.activations()

    def seen_of(self, student_outputs):
        """Returns what the inner teacher is compared to."""
        return self.teacher.seen_of(student_outputs)

    def fingerprint(self):
        """Returns that of the inner teacher, with what is done to its answers."""
        return hash_of(type(self).__name__, self.teacher.fingerprint())

    def describe(self):
        """Returns the description of both."""
        return f"{type(self).__name__} of {self.teacher.describe()}"


def as_teacher(given, *, preprocessing=None, function=None):
    """Returns what a distiller got as its teacher as a `Teacher`.

    Args:
        given: A Keras model, which stands for a `ModelTeacher`, or a `Teacher`.
        preprocessing: For a Keras model: see `ModelTeacher`.
        function: Likewise.

    Raises:
        ValueError: If it is neither, or a `Teacher` is given what only a model takes.
    """
    if isinstance(given, keras.Model):
        return ModelTeacher(given, preprocessing=preprocessing, function=function)
    if not isinstance(given, Teacher):
        raise ValueError(
            "Expected teacher to be a keras.Model or one of keras_kd.teachers. Received: "
            f"{given!r}. Hint: {_way_in(given)}"
        )
    if preprocessing is not None or function is not None:
        raise ValueError(
            "Expected teacher_preprocessing and teacher_features with a Keras model alone. "
            f"Received them with '{given.name}', a {type(given).__name__}. Hint: give them to the "
            "teacher itself, as in ModelTeacher(model, preprocessing=...)."
        )
    return given


def as_member(given):
    """Returns a part of another teacher as a `Teacher`.

    Raises:
        ValueError: If it is none, or has a state that only a distiller saves.
    """
    teacher = as_teacher(given)
    if teacher.needs_distiller:
        raise ValueError(
            f"Expected a {type(teacher).__name__} to be the distiller's teacher itself, which "
            "saves what it remembers. Received one inside of another teacher."
        )
    return teacher


def _way_in(given):
    """Returns which teacher takes what was given."""
    if isinstance(given, list | tuple):
        return "several teachers are keras_kd.teachers.Ensemble(teachers)."
    if callable(getattr(given, "predict", None)):
        return "a fitted scikit-learn estimator is keras_kd.teachers.Estimator(estimator)."
    if callable(given):
        return "a function of arrays is keras_kd.teachers.Callable(function, output_shape=...)."
    return "see keras_kd.teachers."
