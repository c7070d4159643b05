"""Several teachers of any kind as one: their probabilities, averaged."""

import copy

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd import heads
from keras_kd.losses.base import class_indices
from keras_kd.losses.response.multi_teacher import CONFIDENCE, MEAN, WEIGHTINGS, teacher_weights
from keras_kd.numerics import at_least_float32
from keras_kd.teachers.around import as_member
from keras_kd.teachers.base import Answer, Teacher, hash_of, head_and_logits
from keras_kd.teachers.mixture import knowing, known_by_all, known_by_any, known_or_all, mixture

RANDOM, SEPARATE = "random", "separate"


class Ensemble(Teacher):
    """Several teachers, of any kinds, architectures and inputs, that answer as one.

    Each is asked once a step, by its own preprocessing. What it gives are logits: the logarithm of
    the mean of their probabilities, for sigmoid heads unit by unit.

    Args:
        teachers: At least two teachers or Keras models with one output each, of the same classes.
        weighting: How they count. `"mean"`: alike, or by `weights`. `"entropy"`: less, the less
            sure one is of the example. `"confidence"`: less, the less sure one is of its label;
            needs labels. Both as in `losses.response.teacher_weights`, normalised to a sum of 1.
            `"random"`: in each training step one, which alone is asked; in evaluation the mean of
            all. `"separate"`: not averaged, a list of outputs for the loss `multi_teacher`.
        weights: For `"mean"` alone: numbers of at least 0, of shape [teachers] or, for teachers
            that are good at different classes, [teachers, classes].
        temperatures: For each teacher a T > 0 that its logits are divided by before anything else,
            as calibrates it (Guo et al., arXiv:1706.04599); None for 1. The distillation loss
            applies its own temperature to the ensemble's answer.
        seed: For `"random"`: which teacher is drawn in a step is a function of seed and step, so a
            resumed run draws what an uninterrupted one draws.
        name: What messages call it.

    Features are named `"teacher/layer"`, with the teacher's name in front.

    Raises:
        ValueError: If there are fewer than two teachers, two of one name, an option is unknown or
            numbers do not go with the teachers; when a distiller is made, if heads or classes
            differ.

    Example:
        >>> teacher = keras_kd.teachers.Ensemble(
        ...     [resnet, keras_kd.teachers.Estimator(forest)], weighting="entropy"
        ... )

    Reference: Hinton et al., arXiv:1503.02531, section 1 (the arithmetic mean of the predictive
    distributions of an ensemble as soft targets).
    """

    def __init__(
        self,
        teachers,
        *,
        weighting=MEAN,
        weights=None,
        temperatures=None,
        seed=0,
        name="ensemble",
    ):
        self.name = name
        self.teachers = [as_member(teacher) for teacher in teachers]
        names = [teacher.name for teacher in self.teachers]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                f"Expected at least two teachers of different names. Received: {names}. Hint: "
                "keras.Model(..., name=) or the name= of a teacher."
            )
        allowed = (*WEIGHTINGS, RANDOM, SEPARATE)
        if weighting not in allowed:
            raise ValueError(f"Expected weighting to be one of {allowed}. Received: {weighting!r}")
        self.weighting, self.seed = weighting, seed
        self.weights = _weights(weights, weighting, len(names))
        self.temperatures = _temperatures(temperatures, len(names))
        views = {teacher.classes for teacher in self.teachers}
        if len(views) > 1:
            raise ValueError(
                "Expected teachers that tell the same of the student's classes apart. Received: "
                f"{ {teacher.name: teacher.classes or 'all' for teacher in self.teachers} }."
            )
        (self.classes,) = views
        self.may_be_attached = weighting != RANDOM
        self.in_graph = all(teacher.in_graph for teacher in self.teachers)
        self.may_leave_out = any(teacher.may_leave_out for teacher in self.teachers)
        self.tells_classes = weighting != SEPARATE

    def connect(self, *, paths, student):
        """Returns an ensemble of connected teachers; see `Teacher.connect`."""
        connected, wanted = copy.copy(self), {teacher.name: [] for teacher in self.teachers}
        for path in paths:
            member, _, rest = path.partition("/")
            if member not in wanted or not rest:
                raise ValueError(
                    f"Expected a layer of one teacher of '{self.name}', such as "
                    f"'{self.teachers[0].name}/layer'. Received: {path!r}. Its teachers: "
                    f"{', '.join(wanted)}."
                )
            if self.weighting == RANDOM:
                raise ValueError(
                    "Expected losses on outputs alone with weighting='random': a teacher that is "
                    f"not drawn has no features. Received a loss on {path!r}."
                )
            wanted[member].append(rest)
        connected.teachers = [
            teacher.connect(paths=wanted[teacher.name], student=student)
            for teacher in self.teachers
        ]
        found = [teacher.symbolic()[0] for teacher in connected.teachers]
        if not any(outputs is None for outputs in found):
            sides = zip(connected.teachers, found, strict=True)
            connected._check(*zip(*(head_and_logits(*side) for side in sides), strict=True))
        return connected

    def ask(self, batch):
        """Returns the `Answer`: the logits of the mean, or with `"separate"` of each teacher."""
        if self.weighting == RANDOM and batch.training:
            return self._drawn(batch)
        answers = [teacher(batch) for teacher in self.teachers]
        features = {
            f"{teacher.name}/{path}": feature
            for teacher, answer in zip(self.teachers, answers, strict=True)
            for path, feature in answer.features.items()
        }
        logits, sigmoid = self._logits(answers)
        known = [answer.known for answer in answers]
        if self.weighting == SEPARATE:
            return Answer(logits, features, known_by_all(known))
        outputs = self._mean(ops.stack(logits), known, batch, sigmoid)
        return Answer(outputs, features, known_by_any(known, logits[0]))

    def _logits(self, answers):
        """Returns each teacher's logits at its own temperature, and whether units are independent.

        They are under a sigmoid, and where there is but one.
        """
        found = [
            head_and_logits(teacher, answer.outputs)
            for teacher, answer in zip(self.teachers, answers, strict=True)
        ]
        self._check(*zip(*found, strict=True))
        sigmoid = found[0][1].shape[-1] == 1 or any(head == heads.SIGMOID for head, _ in found)
        return [
            logits / temperature
            for (_, logits), temperature in zip(found, self.temperatures, strict=True)
        ], sigmoid

    def _check(self, found, logits):
        """Refuses teachers of different heads or classes."""
        shapes = [tuple(tensor.shape[1:]) for tensor in logits]
        if len({head for head in found if head is not None}) > 1 or len(set(shapes)) > 1:
            told = {
                teacher.name: f"{head or 'logits'} {shape}"
                for teacher, head, shape in zip(self.teachers, found, shapes, strict=True)
            }
            raise ValueError(
                f"Expected teachers of one head and the same classes. Received: {told}. Hint: "
                "keras_kd.teachers.MapClasses turns a teacher's classes into the student's."
            )
        classes = shapes[0][-1]
        if self.weights is not None and self.weights.shape[1:] not in ((), (classes,)):
            raise ValueError(
                f"Expected weights of shape [teachers, {classes}], the classes of the teachers. "
                f"Received shape {self.weights.shape}."
            )

    def _mean(self, logits, known, batch, sigmoid):
        """Returns the logits of the weighted mean, shape [batch, ..., units].

        Args:
            logits: Shape [teachers, batch, ..., units].
            known: For each teacher None, or booleans of shape [batch].
            batch: A `Context`.
            sigmoid: Whether the units are independent.
        """
        if sigmoid:  # Each unit is a softmax over its no and its yes.
            logits = ops.stack([ops.zeros_like(logits), logits], axis=-1)
        weights = self._weights_of(logits, batch, sigmoid)
        weights = weights * knowing(known, logits)
        outputs = mixture(log_p=ops.log_softmax(logits, axis=-1), weights=weights)
        return outputs[..., 1] - outputs[..., 0] if sigmoid else outputs

    def _weights_of(self, logits, batch, sigmoid):
        """Returns what each teacher counts, broadcastable to the logits."""
        if self.weights is not None:
            between = (1,) * (len(logits.shape) - 1 - self.weights.ndim - sigmoid)
            shape = (len(self.weights), *(1,) * (len(logits.shape) - 1))
            if self.weights.ndim == 2:
                shape = (len(self.weights), 1, *between, self.weights.shape[1], *(1,) * sigmoid)
            return ops.reshape(ops.convert_to_tensor(self.weights, logits.dtype), shape)
        labels = self._labels(batch, logits, sigmoid) if self.weighting == CONFIDENCE else None
        weighting = MEAN if self.weighting == RANDOM else self.weighting
        return teacher_weights(teachers=logits, weighting=weighting, labels=labels)[..., None]

    def _labels(self, batch, logits, sigmoid):
        if batch.labels is None:
            raise ValueError(
                f"Expected data with labels for weighting='confidence' of '{self.name}'. Received "
                "data without."
            )
        if self.classes is not None:
            raise ValueError(
                "Expected teachers of all the student's classes for weighting='confidence'. "
                f"Received some that know only {self.classes}."
            )
        if sigmoid:
            return ops.reshape(ops.cast(batch.labels, "int32"), ops.shape(logits)[1:-1])
        return class_indices(batch.labels, logits[0])

    def _drawn(self, batch):
        """Returns the `Answer` of the one teacher that is drawn for this step."""
        step = 0 if batch.step is None else batch.step
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(step, tf.int64)])
        number = tf.random.stateless_uniform((), seed, 0, len(self.teachers), tf.int32)

        def ask(index):
            teacher = self.teachers[index]
            answer = teacher(batch)
            _, logits = head_and_logits(teacher, answer.outputs)
            logits = at_least_float32(logits) / self.temperatures[index]
            return logits, known_or_all(answer.known, logits)

        # The branch that is not taken is not run.
        logits, known = tf.switch_case(
            number, [lambda i=i: ask(i) for i in range(len(self.teachers))]
        )
        return Answer(logits, {}, known if self.may_leave_out else None)

    def reads(self, answers):
        """Returns whether answers in the data are its own or those of a member."""
        return super().reads(answers) or any(teacher.reads(answers) for teacher in self.teachers)

    @property
    def built(self):
        """Whether all can be asked."""
        return all(teacher.built for teacher in self.teachers)

    @property
    def variables(self):
        """Those of all."""
        return [variable for teacher in self.teachers for variable in teacher.variables]

    @property
    def fed_as_is(self):
        """Those of all."""
        return [model for teacher in self.teachers for model in teacher.fed_as_is]

    def symbolic(self):
        """Returns (outputs, features) as far as they are known of all."""
        sides = [teacher.symbolic() for teacher in self.teachers]
        outputs, features = None, {}
        if not any(output is None for output, _ in sides):
            made = [keras.KerasTensor(output.shape, "float32") for output, _ in sides]
            outputs = made if self.weighting == SEPARATE else made[0]
        for teacher, (_, found) in zip(self.teachers, sides, strict=True):
            if found is None:
                return outputs, None
            features |= {f"{teacher.name}/{path}": feature for path, feature in found.items()}
        return outputs, features

    def activations(self):
        """Log-probabilities are logits."""
        return [heads.LINEAR] * len(self.teachers) if self.weighting == SEPARATE else heads.LINEAR

    def seen_of(self, student_outputs):
        """Returns what all of them are compared to."""
        return self.teachers[0].seen_of(student_outputs)

    def fingerprint(self):
        """Returns the hash of all and of how they count; None if one has none."""
        weights = None if self.weights is None else self.weights.tolist()
        how = f"{self.weighting} {weights} {self.temperatures}"
        return hash_of(how, *(teacher.fingerprint() for teacher in self.teachers))

    def describe(self):
        """Returns how many there are, and which."""
        inside = "; ".join(teacher.describe() for teacher in self.teachers)
        return f"'{self.name}', {self.weighting} of {len(self.teachers)}: {inside}"


def _weights(weights, weighting, count):
    """Returns the weights as an array of shape [teachers] or [teachers, classes], or None."""
    if weights is None:
        return None
    weights = np.asarray(weights, "float32")
    if weighting != MEAN:
        raise ValueError(f"Expected weights with weighting='mean' alone. Received: {weighting!r}")
    if weights.ndim not in (1, 2) or len(weights) != count:
        raise ValueError(
            f"Expected weights of shape [{count}] or [{count}, classes]. Received shape "
            f"{weights.shape}."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any(axis=0).all()):
        raise ValueError(
            "Expected weights of at least 0, of which one is above it for every class. Received: "
            f"{weights.tolist()}"
        )
    return weights


def _temperatures(temperatures, count):
    temperatures = [1.0] * count if temperatures is None else list(temperatures)
    if len(temperatures) != count or not all(t > 0 for t in temperatures):
        raise ValueError(
            f"Expected a temperature above 0 for each of {count} teachers. Received: {temperatures}"
        )
    return temperatures
