"""How good a teacher is, and whether it is worth learning from."""

import dataclasses
import math
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd.teachers.base import head_and_logits

# What inputs are mistaken for: the words stand in the warning.
_SCALES = {
    "x / 255": lambda x: x / 255.0,
    "x * 255": lambda x: x * 255.0,
    "x / 127.5 - 1": lambda x: x / 127.5 - 1.0,
    "(x + 1) * 127.5": lambda x: (x + 1.0) * 127.5,
}


@dataclasses.dataclass(frozen=True)
class Baseline:
    """How often a teacher names the label.

    Attributes:
        right: For how many examples it does.
        examples: Of how many.
        classes: Among how many classes.
    """

    right: int
    examples: int
    classes: int

    def __add__(self, other):
        return Baseline(self.right + other.right, self.examples + other.examples, self.classes)

    def __str__(self):
        share = 100.0 * self.right / max(self.examples, 1)
        return (
            f"{self.right} of {self.examples} ({share:.1f} %, chance {100.0 * self.chance:.1f} %)"
        )

    @property
    def chance(self):
        """The share that guessing gets, in (0, 1)."""
        return 1.0 / self.classes

    def is_no_better_than_chance(self):
        """Whether guessing explains it, and a teacher that knows something does not.

        The chance to guess as many is above 5 %, and a teacher that knows one example in four, and
        guesses the others, gets as few in less than 1 %: few examples say nothing either way.
        """
        useful = self.chance + (1.0 - self.chance) / 4.0
        guessed = _binomial_tail(self.right, self.examples, self.chance)
        as_few = _binomial_tail(self.examples - self.right, self.examples, 1.0 - useful)
        return guessed > 0.05 and as_few < 0.01

    def is_better_than(self, other):
        """Whether it is by more than four standard errors of the difference, at least."""
        spread = 4.0 * math.sqrt(0.5 / max(self.examples, 1))
        return (self.right - other.right) / max(self.examples, 1) > spread


def baseline_of(teacher, answer, labels):
    """Returns the `Baseline` of a batch; None where labels do not tell how good an answer is.

    Args:
        teacher: A `Teacher`.
        answer: Its `Answer`, with values.
        labels: Class numbers, integers of shape [batch] or [batch, 1], one-hot of shape [batch,
            classes], or for a single unit 0 and 1.
    """
    outputs = answer.outputs
    if not teacher.tells_classes or keras.tree.is_nested(outputs) or keras.tree.is_nested(labels):
        return None
    if len(outputs.shape) != 2:
        return None
    labels, units = ops.convert_to_numpy(labels), outputs.shape[-1]
    if units == 1:
        _, logits = head_and_logits(teacher, outputs)
        logits, labels = ops.convert_to_numpy(logits)[:, 0], labels.reshape(-1)
        if logits.shape != labels.shape or not np.isin(labels, (0, 1)).all():
            return None
        return _counted(answer, (logits > 0) == labels, np.ones(len(labels), bool), 2)
    numbers = _class_numbers(labels, teacher.classes, units)
    if numbers is None:
        return None
    named = ops.convert_to_numpy(ops.argmax(outputs, axis=-1))
    return _counted(answer, named == numbers, numbers >= 0, units)


def _class_numbers(labels, classes, units):
    """Returns the teacher's number of each label's class, -1 for one that it has not, or None."""
    one_hot = labels.ndim == 2 and labels.shape[-1] > 1
    if one_hot and np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all():
        labels = labels.argmax(axis=-1)
    elif one_hot or not np.issubdtype(labels.dtype, np.integer) or labels.size != len(labels):
        return None
    labels = labels.reshape(-1)
    number = {label: index for index, label in enumerate(classes or range(units))}
    return np.asarray([number.get(label, -1) for label in labels.tolist()])


def _counted(answer, right, counts, classes):
    if answer.known is not None:
        counts = counts & ops.convert_to_numpy(answer.known)
    return Baseline(int((right & counts).sum()), int(counts.sum()), classes)


def warn_if_no_better_than_chance(teacher, answer, batch):
    """Warns of a teacher that knows nothing of a batch, and says for which inputs it would.

    Args:
        teacher: A `Teacher`.
        answer: Its `Answer` to the batch, with values.
        batch: A `keras_kd.losses.Context`.
    """
    found = baseline_of(teacher, answer, batch.labels)
    if found is None or not found.is_no_better_than_chance():
        return
    warnings.warn(
        f"Expected a teacher that is better than chance. Received: '{teacher.name}', which names "
        f"the label of {found} examples of the first batch. {_cure(teacher, batch, found)}",
        stacklevel=2,
    )


def _cure(teacher, batch, found):
    """Returns the hint for a teacher of that `Baseline`."""
    for words, other in at_other_scales(teacher, batch).items():
        if other.is_better_than(found):
            return f"Hint: given {words} as its input it names {other}: the inputs want scaling."
    return "Hint: is it trained, are its inputs scaled and its classes numbered as in training?"


def at_other_scales(teacher, batch):
    """Returns how good a teacher is on inputs that are scaled otherwise.

    Args:
        teacher: A `Teacher`.
        batch: A `keras_kd.losses.Context` with labels.

    Returns:
        A dict from the scaling, in words, to a `Baseline`, the best first. Empty where the inputs
        are not one tensor of numbers, or the teacher runs beside the graph, where asking may cost.
    """
    x = batch.inputs
    if not teacher.in_graph or keras.tree.is_nested(x) or len(x.shape) < 2:
        return {}
    found = {}
    for words, scale in _SCALES.items():
        scaled = dataclasses.replace(batch, inputs=scale(ops.cast(x, "float32")))
        baseline = baseline_of(teacher, teacher(scaled), batch.labels)
        if baseline is not None:
            found[words] = baseline
    return dict(sorted(found.items(), key=lambda entry: -entry[1].right))


class TeacherBaseline(keras.callbacks.Callback):
    """Evaluates the teacher once, when training begins: what the student is to be held against.

    Warns if it is no better than chance, or much better on inputs that are scaled otherwise.

    Args:
        x: Inputs, or a batched `tf.data.Dataset` of (inputs, labels), as `fit` takes them.
        y: Labels; None with a dataset.
        batch_size: Examples a batch, for arrays.
        print_fn: Called with a line of text; by default `print`.

    Attributes:
        result: The `Baseline` that was found; None before.

    Example:
        >>> baseline = keras_kd.teachers.TeacherBaseline(x_validation, y_validation)
        >>> distiller.fit(x_train, y_train, epochs=10, callbacks=[baseline])
        >>> baseline.result.right, baseline.result.examples
    """

    def __init__(self, x, y=None, *, batch_size=256, print_fn=None):
        super().__init__()
        if not isinstance(x, tf.data.Dataset):
            if y is None:
                raise ValueError("Expected labels with arrays. Received: None")
            x = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
        self._batches = x
        self._print = print_fn or print
        self.result = None

    def on_train_begin(self, logs=None):
        """Asks the teacher."""
        if self.result is not None:
            return
        teacher, first = self.model._teacher, None
        for batch in self._batches:
            _, context = self.model._unpack(batch, training=False)
            found = baseline_of(teacher, teacher(context), context.labels)
            if found is None:
                raise ValueError(
                    f"Expected labels that tell how good teacher '{teacher.name}' is. Received "
                    "others. Hint: it evaluates teachers with one output of shape [batch, classes]."
                )
            first = first or (context, found)
            self.result = found if self.result is None else self.result + found
        self._print(f"Teacher '{teacher.name}' names the label of {self.result} examples.")
        self._warn(teacher, *first)

    def _warn(self, teacher, context, found):
        if self.result.is_no_better_than_chance():
            warnings.warn(
                "Expected a teacher that is better than chance. Received: "
                f"'{teacher.name}', which names the label of {self.result} examples. "
                f"{_cure(teacher, context, found)}",
                stacklevel=2,
            )
            return
        for words, other in at_other_scales(teacher, context).items():
            if other.is_better_than(found):
                warnings.warn(
                    f"Expected inputs that are scaled as in the training of '{teacher.name}'. "
                    f"Received some on which it names {found} of the first batch, and given "
                    f"{words} {other}.",
                    stacklevel=2,
                )
                return


def _binomial_tail(count, trials, chance):
    """Returns the probability of at least `count` successes in `trials`."""
    terms = np.arange(count, trials + 1)
    log_choose = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in terms
    ]
    log_p = (
        np.asarray(log_choose) + terms * math.log(chance) + (trials - terms) * math.log1p(-chance)
    )
    return float(np.exp(log_p).sum())
