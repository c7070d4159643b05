"""The look at the first batch of every `fit`, eagerly, before the step is compiled."""

import itertools
import warnings

import keras
import tensorflow as tf

from keras_kd import batch_checks, checks
from keras_kd.losses import Context
from keras_kd.teachers.baseline import warn_if_no_better_than_chance
from keras_kd.workers import refused_together


class FirstBatch:
    """Refuses a first batch that would spoil the run.

    A plain object: nothing of it is tracked or saved.

    Args:
        distiller: The distiller that is going to be trained.
    """

    def __init__(self, distiller):
        self._distiller = distiller
        self._looked = False
        self._form = self._outputs = None

    def expect(self, *, other_models=False):
        """Says that the next batch is a first one.

        Args:
            other_models: Whether nothing that an earlier batch told holds any more.
        """
        self._looked = False
        if other_models:
            self._form = None

    def before(self, function):
        """Returns the train function `function`, which then looks at the first batch it draws.

        With one step an execution every batch is drawn here, so that the step is always run by the
        same function: Keras would make a second one that draws the batch itself.
        """

        def draw_and_run(iterator):
            if self._looked and self._distiller.steps_per_execution > 1:
                return function(iterator)
            batch = next(iterator, None)
            if batch is None:
                if self._looked:
                    raise StopIteration
                raise ValueError("Expected at least one batch. Received data without any.")
            if not self._looked:
                with refused_together(self._distiller.distribute_strategy):
                    self._check(batch)
                self._looked = True
            return function(itertools.chain([batch], iterator))

        return draw_and_run

    def _check(self, batch):
        """Checks a batch; of one whose form is known only what its values can spoil."""
        distiller = self._distiller
        batch = keras.tree.map_structure(self._of_first_replica, batch)
        x, context = distiller._unpack(batch, training=False)
        y = context.labels
        teacher = distiller._teacher
        if not teacher.built:
            raise ValueError(
                f"Expected a trained teacher. Received: '{teacher.name}', which has no weights "
                "yet. Hint: build it and load its weights."
            )
        if context.answers is not None and not teacher.reads(context.answers):
            raise ValueError(
                f"Expected data with the answers of teacher '{teacher.name}'. Received data with "
                f"those of others: {', '.join(map(str, context.answers))}. Hint: the teacher that "
                "they were attached by reads them."
            )
        answer = batch_checks.run_on(x, "teacher", lambda: teacher(context))
        batch_checks.check_finite_teacher(answer.outputs, answer.features)
        if context.example_weight is not None and distiller._leaves_out:
            batch_checks.check_binary(context.example_weight)
        form = batch_checks.form_of((x, y, context.index))
        other_form = form != self._form
        if other_form:
            self._outputs = self._check_models(x, context)
            self._form = form
        if y is not None and distiller._compiled_with.loss is not None:
            batch_checks.check_labels(y, self._outputs, distiller._compiled_with.loss)
            if other_form and _same_units(
                answer.outputs, distiller._seen_of((self._outputs, {}))[0]
            ):
                warn_if_no_better_than_chance(teacher, answer, context)

    def _check_models(self, x, context):
        """Runs all that a step runs; returns the form of the student's outputs."""
        distiller = self._distiller
        # A few examples tell it, without the memory of a whole batch outside of the graph.
        x, labels, index, answers = map(
            batch_checks.first_examples, (x, context.labels, context.index, context.answers)
        )
        # Without weights, which are for the distiller to apply.
        context = Context(
            step=distiller._step(), labels=labels, inputs=x, index=index, answers=answers
        )
        teacher = distiller._teacher(context)
        student = batch_checks.run_on(
            x, "student", lambda: distiller(x, training=False, return_features=True)
        )
        checks.check_models(distiller._teacher, distiller.student)
        if labels is None and distiller._compiled_with.has_metrics:
            warnings.warn("There are no labels: metrics that need them are skipped.", stacklevel=2)
        if labels is not None and distiller._compiled_with.loss is not None:
            batch_checks.check_labels(labels, student[0], distiller._compiled_with.loss)
        sides = (teacher.outputs, teacher.features), distiller._seen_of(student)
        for term in distiller._terms:
            seen = term.teacher_side(*sides[0]), term.student_side(*sides[1])
            term.loss.check_first_batch(*seen)
            term.per_example(*sides, context)
        return keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype), student[0])

    def _of_first_replica(self, value):
        # Keras hides a missing entry of a batch, None, in an empty Optional.
        if isinstance(value, tf.experimental.Optional):
            return None
        return self._distiller.distribute_strategy.experimental_local_results(value)[0]


def _same_units(teacher_outputs, student_outputs):
    """Returns whether what the labels are compared to is what the teacher gives too."""
    flat = [keras.tree.flatten(side) for side in (teacher_outputs, student_outputs)]
    return [side.shape[-1] for side in flat[0]] == [side.shape[-1] for side in flat[1]]
