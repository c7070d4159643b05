"""Teachers that know only some of the samples."""

import keras
from keras import ops

from keras_kd import heads
from keras_kd.teachers.around import AroundTeacher
from keras_kd.teachers.base import Answer


class KnownOnly(AroundTeacher):
    """A teacher whose answers count for some examples alone: the others have no distillation term.

    Their task loss stays, and their weight in losses is 0, as by a sample weight; the mean is over
    all examples, as with sample weights. A loss that is one number for the batch and cannot leave
    examples out is refused.

    Args:
        teacher: A teacher or a Keras model.
        knows: A callable from the batch, a `keras_kd.losses.Context` with `inputs` and `labels`, to
            booleans of shape [batch]; or `"finite"`, for a teacher that answers NaN where it knows
            nothing.

    Example:
        >>> teacher = keras_kd.teachers.KnownOnly(specialist, lambda batch: batch.labels < 5)
    """

    def __init__(self, teacher, knows):
        super().__init__(teacher)
        if knows != "finite" and not callable(knows):
            raise ValueError(f"Expected knows to be a callable or 'finite'. Received: {knows!r}")
        self.knows = knows
        self.may_leave_out = True

    def ask(self, batch):
        """Returns the `Answer`, with numbers without meaning for what is not known."""
        answer = self.teacher(batch)
        sides = (answer.outputs, answer.features)
        known = _finite(sides) if self.knows == "finite" else self._knows(batch, answer)
        if answer.known is not None:
            known = ops.logical_and(known, answer.known)
        outputs = keras.tree.map_structure(
            # Also a row of probabilities, so that what looks at their values is not misled.
            lambda side: heads.alike(side, lambda t: _where(known, t, 1.0 / t.shape[-1])),
            answer.outputs,
        )
        features = {path: _where(known, side, 0.0) for path, side in answer.features.items()}
        return Answer(outputs, features, known)

    def _knows(self, batch, answer):
        known = ops.cast(self.knows(batch), "bool")
        examples = keras.tree.flatten(answer.outputs)[0].shape[0]
        if len(known.shape) != 1 or (
            None not in (known.shape[0], examples) and known.shape[0] != examples
        ):
            raise ValueError(
                f"Expected knows to give booleans of shape [batch]. Received shape "
                f"{tuple(known.shape)}. Hint: labels of shape [batch, 1] want a squeeze."
            )
        return known


def _finite(sides):
    """Returns which examples hold finite numbers alone; booleans of shape [batch]."""
    known = None
    for side in keras.tree.flatten(sides):
        finite = ops.all(ops.isfinite(side), axis=tuple(range(1, len(side.shape))))
        known = finite if known is None else ops.logical_and(known, finite)
    return known


def _where(known, side, otherwise):
    # Selected, not multiplied: 0 * NaN is NaN.
    known = ops.reshape(known, (-1, *(1 for _ in side.shape[1:])))
    return ops.where(known, side, ops.full_like(side, otherwise))


class ForEach(AroundTeacher):
    """One teacher for a student of several outputs: it says the same to each.

    Args:
        teacher: A teacher or a Keras model with one output.
        count: How many outputs the student has.

    Example:
        >>> student = keras_kd.ensembles.members([small() for _ in range(3)])
        >>> teacher = keras_kd.teachers.ForEach(large, 3)
        >>> loss = keras_kd.LogitsDistillation(loss=["kl_divergence"] * 3)
        >>> distiller = keras_kd.Distiller(teacher, student, loss)
    """

    def __init__(self, teacher, count):
        super().__init__(teacher)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"Expected count to be a positive integer. Received: {count!r}")
        self.count = count
        self.tells_classes = False

    def ask(self, batch):
        """Returns the `Answer` with a list of equal outputs."""
        answer = self.teacher(batch)
        return Answer([answer.outputs] * self.count, answer.features, answer.known)

    def symbolic(self):
        """Returns (list of outputs, features)."""
        outputs, features = self.teacher.symbolic()
        return None if outputs is None else [outputs] * self.count, features

    def activations(self):
        """Returns a list of equal activations."""
        activation = self.teacher.activations()
        return None if activation is None else [activation] * self.count
