"""What every teacher is, and what it answers."""

import copy
import dataclasses
import hashlib
from typing import Any

import keras
from keras import ops

from keras_kd import heads


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a teacher says of a batch.

    Attributes:
        outputs: Logits, probabilities or values, shape [batch, ...], or a structure of them.
        features: Features by name, each of shape [batch, ...].
        known: Which examples the teacher knows anything of, booleans of shape [batch]; None for
            all. What it says of the others is finite, and nobody reads it.
    """

    outputs: Any
    features: dict = dataclasses.field(default_factory=dict)
    known: Any = None

    def weighed(self, context):
        """Returns the context of a batch in which the examples that are not known weigh 0.

        Args:
            context: A `keras_kd.losses.Context`.
        """
        if self.known is None:
            return context
        known = ops.cast(self.known, "float32")
        if context.position_weight is not None:
            known = ops.reshape(known, (-1, *(1 for _ in context.position_weight.shape[1:])))
            weight = context.position_weight * known
            return dataclasses.replace(context, sample_weight=weight, position_weight=weight)
        weight = known if context.example_weight is None else context.example_weight * known
        return dataclasses.replace(context, sample_weight=weight, example_weight=weight)

    def known_at(self, values, mask):
        """Returns which values count: those of known examples where a mask is set; None for all.

        Args:
            values: Shape [batch, ...].
            mask: None, or booleans of the same shape.
        """
        if self.known is None:
            return mask
        known = ops.reshape(ops.cast(self.known, "float32"), (-1, *(1 for _ in values.shape[1:])))
        known = known * ops.ones_like(values)
        return known if mask is None else known * ops.cast(mask, "float32")


class Teacher:
    """Whatever answers "what would the teacher say here?".

    A plain object on purpose: Keras tracks no plain object, so a distiller that holds one has none
    of its variables, and what the caller gave keeps its `trainable` flag.

    A subclass gives `ask`, and says what it knows of itself by the attributes and methods
    below. What it takes is the batch's `x` as `fit` got it; what it gives are outputs, and features
    by name.

    Attributes:
        name: What messages and the summary call it.
        model: The Keras model whose weights a loss may read (SRRL, Jacobian matching); None where
            there is none, or several.
        state: A Keras layer that holds what the teacher remembers, which the distiller saves and
            restores; None without any.
        classes: The student's classes that it tells apart, as sorted numbers; None for all.
        in_graph: Whether it is asked inside of the graph. XLA compiles no other.
        may_be_attached: Whether what it answers depends on the batch alone, not on the step.
        tells_classes: Whether its outputs name classes, so that labels tell how good it is.
        may_leave_out: Whether there may be examples that it does not know.
        exact_temperature: The temperature at which its distribution is the one it was given, where
            it knows the largest classes alone; None where it is at any.
        needs_distiller: Whether it has a `state` once it is connected.
    """

    name = "teacher"
    model: Any = None
    state: Any = None
    classes: tuple[int, ...] | None = None
    in_graph = True
    may_be_attached = True
    tells_classes = True
    may_leave_out = False
    exact_temperature: float | None = None
    needs_distiller = False

    def connect(self, *, paths, student):
        """Returns this teacher made ready for a distiller; the one that the caller holds stays.

        Args:
            paths: Names of the features that are going to be read.
            student: The student.

        Raises:
            ValueError: If a feature is unknown, or the student does not go with it.
        """
        del student
        if paths:
            raise ValueError(
                f"Expected losses on the outputs alone with teacher '{self.name}', a "
                f"{type(self).__name__}. Received losses on its layers: {', '.join(paths)}."
            )
        return copy.copy(self)

    def __call__(self, batch):
        """Returns the `Answer` to a batch: the one that came with the data, or a new one.

        Args:
            batch: A `keras_kd.losses.Context`; `batch.inputs` is what the student gets too, before
                any preprocessing.
        """
        found = (batch.answers or {}).get(self.key)
        return self.ask(batch) if found is None else self.read(found)

    def ask(self, batch):
        """Returns the `Answer` to a batch; see `__call__`."""
        raise NotImplementedError(f"{type(self).__name__} must implement ask().")

    def read(self, found):
        """Returns the `Answer` that `keras_kd.teachers.attach` put into the data.

        Args:
            found: A dict with `"outputs"`, `"features"` and `"known"`; without what there is not.
        """
        return Answer(found["outputs"], found.get("features", {}), found.get("known"))

    def reads(self, answers):
        """Returns whether some of the answers that came with the data are its own."""
        return self.key in answers

    @property
    def key(self):
        """What its answers stand under in the data."""
        return f"{type(self).__name__}:{self.name}"

    @property
    def built(self):
        """Whether it can be asked."""
        return True

    @property
    def variables(self):
        """The variables that training the student must leave alone."""
        return []

    @property
    def fed_as_is(self):
        """The Keras models that get the batch's `x` as it is."""
        return []

    def symbolic(self):
        """Returns (outputs, features) as symbolic tensors, None for what is not known yet."""
        return None, None

    def activations(self):
        """Returns the activation behind each output (see `keras_kd.heads`); None if unknown."""
        return None

    def seen_of(self, student_outputs):
        """Returns what of the student's outputs is compared to the teacher's: by default all."""
        return student_outputs

    def after_step(self, step):
        """Called after each step of the student's optimizer.

        Args:
            step: How many steps there have been, an integer scalar tensor.
        """

    def fingerprint(self):
        """Returns a hash that another teacher would not have; None where there can be none."""
        return None

    def describe(self):
        """Returns what the summary says of it, a few words."""
        return f"'{self.name}', {type(self).__name__}"


def hash_of(*parts):
    """Returns the SHA-256 of strings, one of which may be None: then None."""
    if None in parts:
        return None
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} {part}".encode())
    return digest.hexdigest()


def head_and_logits(teacher, outputs):
    """Returns what one output of a teacher says: its head, and logits, shape [batch, ..., units].

    Args:
        teacher: A `Teacher`.
        outputs: What it answered, or its symbolic outputs.

    Returns:
        `"softmax"`, `"sigmoid"`, or None where a linear output may be either; and the logits.

    Raises:
        ValueError: If it has several outputs, or what they are cannot be known.
    """
    activation = teacher.activations()
    if keras.tree.is_nested(outputs):
        raise ValueError(
            f"Expected a teacher with one output. Received: '{teacher.name}' with "
            f"{len(keras.tree.flatten(outputs))}."
        )
    seen = activation or heads.activation_left_on(outputs) or heads.LINEAR
    if seen not in (heads.LINEAR, heads.SOFTMAX, heads.SIGMOID):
        raise ValueError(
            f"Expected a teacher that ends in logits, softmax or sigmoid. Received: "
            f"'{teacher.name}', which ends in {seen}. Hint: ModelTeacher(model, activation=...) "
            "says what it is."
        )
    if activation is None and seen == heads.LINEAR and heads.looks_like_probabilities(outputs):
        raise ValueError(
            f"Expected the outputs of teacher '{teacher.name}' to be declared: they look like "
            "probabilities, but its last layer is no softmax that can be seen. Hint: "
            "ModelTeacher(model, activation='softmax')."
        )
    return None if seen == heads.LINEAR else seen, heads.logits(outputs, seen)
