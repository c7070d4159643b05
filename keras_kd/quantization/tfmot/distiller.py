"""The offline scheme for a student in tf_keras, with a teacher in Keras 3."""

import functools
import inspect
import types

import keras
import tensorflow as tf
from keras import ops

from keras_kd import batch_checks, data, heads, schedules
from keras_kd.batch import context_of
from keras_kd.features import as_paths
from keras_kd.quantization.tfmot.packages import tf_keras, tfmot
from keras_kd.quantization.tfmot.student import StudentReader, activations
from keras_kd.quantization.tfmot.wrappers import check_model, is_pruned
from keras_kd.teachers import ModelTeacher
from keras_kd.terms import DISTILLATION, TASK, TOTAL, as_list, as_weights, make_terms, mixing_weight

# What would spoil a run, counted in the graph and told at the end of an epoch.
_TEACHER = "finite numbers from the teacher. Received NaN or infinity for {} examples"
_WEIGHTS = (
    "sample weights of 0 and 1 with a loss that is one number for the batch. Received {} others"
)
_KERAS_3 = (keras.optimizers.Optimizer, keras.Loss, keras.Metric)


class Distiller(tf_keras.Model):
    """Trains a tf_keras student on labels and on what its Keras 3 teacher says.

    total = student_loss_weight * task + (1 - student_loss_weight) * sum_i weight_i * L_i
            + regularization

    It is `keras_kd.Distiller`, with its losses, schedules and logs, for a student that tfmot can
    work on; Keras 3 sees none of such a student's weights. `compile` takes what tf_keras has:
    words, or its own optimizers, losses and metrics. `fit` adds the callback that pruning needs.
    It runs on one device.

    Args:
        teacher: A trained Keras 3 model with a graph. It stays as it is and is part of no
            checkpoint.
        student: A tf_keras model, such as `quantize`, `prune` and `cluster` give.
        distillation_losses: A distillation loss, or a list of them. Layers of the student are named
            as in the Keras 3 student that it was made of.
        distillation_loss_weights: A weight, or a list of weights, for the losses: floats of at
            least 0 or schedules. None for 1 each.
        student_loss_weight: Weight of the task loss, in [0, 1], or a schedule.
        name: Name of the distiller.
        teacher_preprocessing: A callable from the batch's `x` to the teacher's inputs, run inside
            the graph; None to take `x` as it is.

    Raises:
        TypeError: If the student is no tf_keras model, or a loss is no distillation loss.
        ValueError: If the two models cannot be a pair, a layer is unknown, shapes or class counts
            do not meet, a weight is out of range, or lists differ in length.

    Example:
        >>> pruned = tfmot.prune(student, 0.8, steps=2000)
        >>> distiller = tfmot.Distiller(teacher, pruned, keras_kd.LogitsDistillation(4.0))
        >>> loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> distiller.compile("adam", loss, metrics=["accuracy"])
        >>> distiller.fit(x_train, y_train, epochs=10)
        >>> student = tfmot.to_keras(distiller.student, student)

    Reference: Hinton et al., arXiv:1503.02531, section 2.
    """

    def __init__(
        self,
        teacher,
        student,
        distillation_losses,
        distillation_loss_weights=None,
        student_loss_weight=0.5,
        name="distiller",
        *,
        teacher_preprocessing=None,
    ):
        check_model(student)
        _check_pair(teacher, student, teacher_preprocessing)
        super().__init__(name=name)
        self.student = student
        losses = as_list(distillation_losses)
        terms = make_terms(losses, as_weights(distillation_loss_weights, len(losses)))
        # A plain object, of which tf_keras tracks nothing.
        self._offline = types.SimpleNamespace(
            teacher=ModelTeacher(
                teacher,
                [path for term in terms for path in as_paths(term.loss.teacher_layer_name)],
                preprocessing=teacher_preprocessing,
            ),
            reader=StudentReader(
                student,
                [path for term in terms for path in as_paths(term.loss.student_layer_name)],
            ),
            terms=terms,
            student_loss_weight=mixing_weight(student_loss_weight),
            has_loss=False,
            bad={what: tf_keras.metrics.Sum() for what in (_TEACHER, _WEIGHTS)},
        )
        self._connect(teacher, student)
        self._means = {
            name: tf_keras.metrics.Mean(name=name)
            for name in (TOTAL, TASK, DISTILLATION, *(term.name for term in terms))
        }

    @property
    def teacher(self):
        """The teacher."""
        return self._offline.teacher.model

    def _connect(self, teacher, student):
        offline = self._offline
        teacher_side = heads.symbolic_outputs(teacher), offline.teacher.reader.features
        student_side = offline.reader.outputs, offline.reader.features
        seen = heads.activations(teacher), activations(student)
        for term in offline.terms:
            term.connect(teacher_side, student_side, seen, (teacher, student))
        # Projectors are Keras 3's; tf_keras trains and saves the TensorFlow variables in them.
        self._parts = [
            variable.value
            for term in offline.terms
            for part in term.loss.parts
            for variable in part.variables
        ]

    # The step

    def call(self, inputs, training=None):
        """Returns the student's outputs."""
        return self.student(data.split_index(inputs)[0], training=training)

    def train_step(self, batch):
        """Takes one optimizer step on a batch; returns the logs."""
        x, context = self._unpack(batch, training=True)
        teacher = self._offline.teacher.run(x)
        with tf.GradientTape() as tape:
            student = self._offline.reader(x, training=True)
            loss, values = self._total_loss(teacher, student, context)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        self._count_bad(teacher, context)
        return self._logs(x, values, student[0], context)

    def test_step(self, batch):
        """Evaluates a batch; returns the logs."""
        x, context = self._unpack(batch, training=False)
        student = self._offline.reader(x, training=False)
        _, values = self._total_loss(self._offline.teacher.run(x), student, context)
        return self._logs(x, values, student[0], context)

    def _unpack(self, batch, training):
        """Returns the inputs of a batch, and what a loss may know of it besides."""
        x, y, sample_weight = tf_keras.utils.unpack_x_y_sample_weight(batch)
        return context_of(x, y, sample_weight, step=self.optimizer.iterations, training=training)

    def _total_loss(self, teacher, student, context):
        """Returns the total loss as the class states it, and what is logged of it."""
        alpha = schedules.value_at(self._offline.student_loss_weight, context.step)
        terms, values = [], {}
        if context.labels is not None and self._offline.has_loss:
            values[TASK] = self.compiled_loss(context.labels, student[0], context.sample_weight)
            terms += [] if _is_zero(alpha) else [alpha * values[TASK]]
        elif not _is_zero(alpha):
            raise ValueError(
                f"Expected labels: student_loss_weight is {self._offline.student_loss_weight}. "
                "Received data without any. Hint: student_loss_weight=0.0 distils without labels."
            )
        values |= self._distillation_losses(teacher, student, context)
        if not _is_zero(1.0 - alpha):
            terms.append((1.0 - alpha) * values[DISTILLATION])
        total = sum([*terms, *self.losses])
        return total, {**values, TOTAL: total}

    def _distillation_losses(self, teacher, student, context):
        """Returns each L_i by its name, and sum_i weight_i * L_i as `distillation_loss`."""
        total, losses = 0.0, {}
        for term in self._offline.terms:
            values = term.per_example(teacher, student, context)
            if context.example_weight is not None:
                values = values * ops.cast(context.example_weight, values.dtype)
            losses[term.name] = loss = ops.mean(values)
            total += schedules.value_at(term.weight, context.step) * loss
        return {**losses, DISTILLATION: total}

    def _count_bad(self, teacher, context):
        bad = self._offline.bad
        bad[_TEACHER].update_state(batch_checks.count_not_finite(teacher[0]))
        losses = [term.loss for term in self._offline.terms]
        if context.example_weight is not None and any(
            loss.batch_level and loss.leaves_out for loss in losses
        ):
            bad[_WEIGHTS].update_state(batch_checks.count_not_binary(context.example_weight))

    def _logs(self, x, values, outputs, context):
        examples = tf.shape(tf.nest.flatten(outputs)[0])[0]
        for name, value in values.items():
            self._means[name].update_state(value, sample_weight=examples)
        if context.labels is None:
            logs = {name: self._means[name].result() for name in values}
            return {**logs, "loss": logs[TOTAL]}
        return self.compute_metrics(x, context.labels, outputs, context.sample_weight)

    def get_metrics_result(self):
        """Returns the logs; `loss`, which callbacks watch, is the total and not the task loss."""
        return {**super().get_metrics_result(), "loss": self._means[TOTAL].result()}

    # Training

    def compile(self, optimizer="adam", loss=None, metrics=None, **kwargs):
        """Configures training; as `tf_keras.Model.compile`.

        Args:
            optimizer: A word, or an optimizer of tf_keras.
            loss: The task loss, a word or a loss of tf_keras; None for pure distillation, with
                `student_loss_weight=0.0`.
            metrics: Metrics of the student's outputs: words, or metrics of tf_keras.
            **kwargs: Passed to `tf_keras.Model.compile`.

        Raises:
            TypeError: If something is Keras 3's.
            ValueError: If there is no loss though `student_loss_weight` is not 0, or the model is
                to be trained on several devices.
        """
        for given in tf.nest.flatten([optimizer, loss, metrics, *kwargs.values()]):
            if isinstance(given, _KERAS_3):
                raise TypeError(
                    "Expected words, or optimizers, losses and metrics of tf_keras. Received: "
                    f"{type(given).__name__} of Keras 3. Hint: import tf_keras; its classes have "
                    "the same names and places."
                )
        weight = self._offline.student_loss_weight
        if loss is None and not _is_zero(weight):
            raise ValueError(
                f"Expected a task loss with student_loss_weight={weight}. Received: loss=None. "
                "Hint: student_loss_weight=0.0 for pure distillation."
            )
        if self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "Expected one device. Received: a distribution strategy of "
                f"{self.distribute_strategy.num_replicas_in_sync} replicas, for which tfmot makes "
                "no promise. Hint: keras_kd.Distiller trains on several."
            )
        self._offline.has_loss = loss is not None
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    @functools.wraps(tf_keras.Model.fit)
    def fit(self, *args, **kwargs):
        """Trains the student; as `tf_keras.Model.fit`."""
        bound = inspect.signature(super().fit).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        callbacks = getattr(given["callbacks"], "callbacks", given["callbacks"])
        given["callbacks"] = [*self._callbacks(given["x"]), *tf.nest.flatten(callbacks or [])]
        return super().fit(*bound.args, **bound.kwargs)

    def _callbacks(self, x):
        """Returns the callbacks without which a fit on `x` would go wrong."""
        needed = [
            tf_keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: self._reset_bad(),
                on_epoch_end=lambda epoch, logs: self._raise_if_bad(),
            )
        ]
        if is_pruned(self.student):
            needed.append(tfmot.sparsity.keras.UpdatePruningStep())
        if data.is_replayable(x):
            needed.append(
                tf_keras.callbacks.LambdaCallback(
                    on_epoch_begin=lambda epoch, logs: x.epoch.assign(epoch)
                )
            )
        return needed

    def _reset_bad(self):
        for total in self._offline.bad.values():
            total.reset_state()

    def _raise_if_bad(self):
        for what, total in self._offline.bad.items():
            if float(total.result()):
                raise ValueError(
                    f"Expected {what.format(int(total.result()))} of this epoch. Hint: the "
                    "student's weights are spoiled; look at the data and at teacher_preprocessing."
                )


def _check_pair(teacher, student, teacher_preprocessing):
    """Refuses what is no pair of a Keras 3 teacher and a tf_keras student, both with graphs."""
    if not isinstance(teacher, keras.Model):
        raise ValueError(
            f"Expected a Keras 3 model as teacher. Received: {type(teacher).__module__}."
            f"{type(teacher).__name__}."
        )
    outputs = heads.symbolic_outputs(teacher)
    for role, known, model in (
        ("teacher", outputs is not None, teacher),
        ("student", student.outputs is not None, student),
    ):
        if not known:
            raise ValueError(
                f"Expected a functional or a built Sequential model as {role}. Received: "
                f"'{model.name}', a {type(model).__name__} without a graph to look at. Hint: wrap "
                "it: Model(inputs, model(inputs))."
            )
    if not student.trainable_weights:
        raise ValueError(
            f"Expected a student with trainable weights. Received: '{student.name}' with none."
        )
    shapes = [[tuple(tensor.shape) for tensor in model.inputs] for model in (teacher, student)]
    if teacher_preprocessing is None and shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected teacher and student with the same inputs. Received: teacher {shapes[0]}, "
            f"student {shapes[1]}. Hint: teacher_preprocessing= turns a batch into what the "
            "teacher takes."
        )


def _is_zero(weight):
    """Returns whether a weight is the plain number 0, so that its term is left out, NaN and all."""
    return isinstance(weight, int | float) and weight == 0
