"""The offline scheme: a trained teacher teaches a student."""

import functools
import inspect
import types

import keras
import tensorflow as tf
from keras import ops

from keras_kd import checks, data, heads, saving, schedules
from keras_kd.batch import context_of, examples_in
from keras_kd.batch_checks import count_bad
from keras_kd.data import split_index, split_stored
from keras_kd.features import FeatureReader, as_paths
from keras_kd.first_batch import FirstBatch
from keras_kd.logs import Logs
from keras_kd.losses import Context
from keras_kd.replicas import replicas, share_of
from keras_kd.summary import describe
from keras_kd.teachers import ModelTeacher, as_teacher
from keras_kd.terms import (
    DISTILLATION,
    TASK,
    TOTAL,
    Projectors,
    as_list,
    as_weights,
    make_terms,
    mixing_weight,
)
from keras_kd.workers import WorkersModel


@keras.saving.register_keras_serializable(package="keras_kd")
class Distiller(WorkersModel):
    """Trains a student on labels and on what its teacher says, by `compile` and `fit`.

    total = student_loss_weight * task + (1 - student_loss_weight) * sum_i weight_i * L_i
            + regularization, where `task` is the loss given to `compile`.

    A drop-in for `keras.distillation.Distiller`. A step is one forward pass of the student and one
    of the teacher. The student stays a plain model; the teacher stays as it is and is part of no
    checkpoint; projectors belong to the distiller.

    Args:
        teacher: A trained Keras model, or one of `keras_kd.teachers`. None for a distiller that
            only predicts and evaluates, as one is after loading; `distiller.teacher = teacher`
            gives it back.
        student: The Keras model to be trained.
        distillation_losses: A distillation loss, or a list of them.
        distillation_loss_weights: A weight, or a list of weights, for the losses: floats of at
            least 0 or schedules. None for 1 each.
        student_loss_weight: Weight of the task loss, in [0, 1], or a schedule.
        name: Name of the distiller.
        teacher_preprocessing: For a Keras model as the teacher: a callable from the batch's `x` to
            its inputs, run inside the graph; None to take `x` as it is.
        student_preprocessing: The same for the student; `predict` applies it too.
        teacher_features: For a subclassed teacher: a callable `(model, x, training) -> (outputs,
            {name: feature})` that runs it once.
        student_features: The same for a subclassed student.
        evaluate_distillation: Whether `evaluate` and validation report the distillation losses too,
            at the price of the teacher's forward pass.
        teacher_agreement: Whether to log `teacher_agreement`, the share of predictions in which the
            student names the teacher's class.
        **kwargs: Passed to `keras.Model`.

    Raises:
        ValueError: If the two models cannot be a pair, a layer is unknown, shapes or class counts
            do not meet, a weight is out of range, or lists differ in length.
        TypeError: If a loss is no distillation loss.

    Example:
        >>> distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(4.0))
        >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> distiller.fit(x_train, y_train, epochs=10)
        >>> distiller.student.save("student.keras")

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
        student_preprocessing=None,
        teacher_features=None,
        student_features=None,
        evaluate_distillation=True,
        teacher_agreement=False,
        **kwargs,
    ):
        checks.check_student(student)
        # With the student's policy, `compile` scales a float16 student's loss as it would alone.
        kwargs.setdefault("dtype", student.dtype_policy)
        super().__init__(name=name, **kwargs)
        self.student = student
        self.teacher_preprocessing = teacher_preprocessing
        self.student_preprocessing = student_preprocessing
        self.teacher_features = teacher_features
        self.student_features = student_features
        self.evaluate_distillation = evaluate_distillation
        self.student_loss_weight = mixing_weight(student_loss_weight)
        losses = as_list(distillation_losses)
        self.distillation_losses = losses
        self.distillation_loss_weights = as_weights(distillation_loss_weights, len(losses))
        self._terms = make_terms(losses, self.distillation_loss_weights)
        # The others that are one number for the batch refuse sample weights altogether.
        self._leaves_out = any(t.loss.batch_level and t.loss.leaves_out for t in self._terms)
        self.projectors = Projectors(name="projectors")
        self._student_reader = FeatureReader(
            student,
            [p for term in self._terms for p in as_paths(term.loss.student_layer_name)],
            function=student_features,
            role="student",
        )
        self._logs = Logs(self._terms, teacher_agreement=teacher_agreement)
        # Here Keras tracks them.
        self._means, self._agreement = self._logs.means, self._logs.agreement
        self._expected_fingerprint = None
        self._first_batch = FirstBatch(self)
        self._take_teacher(teacher)

    # The teacher

    @property
    def teacher(self):
        """The teacher, a Keras model as such; None after loading, until it is given back."""
        teacher = self._teacher
        return teacher.model if isinstance(teacher, ModelTeacher) else teacher

    def __dir__(self):
        """Leaves `teacher` out: Keras saves what it finds here, and checkpoints hold no teacher."""
        return [name for name in super().__dir__() if name != "teacher"]

    def __setattr__(self, name, value):
        """Takes a teacher back before Keras would track it as a part of this model."""
        if name == "teacher":
            self._take_teacher(value)
        else:
            super().__setattr__(name, value)

    def _take_teacher(self, given):
        """Takes a Keras model, a `Teacher` or None, and connects the losses to it."""
        teacher = None
        if given is not None:
            teacher = as_teacher(
                given, preprocessing=self.teacher_preprocessing, function=self.teacher_features
            )
        checks.check_models(teacher, self.student)
        if teacher is not None and self._expected_fingerprint is not None:
            saving.check_fingerprint(teacher, self._expected_fingerprint)
        self._teacher = self.teacher_state = None
        for term in self._terms:
            # What a loss reads of a teacher is this one's now.
            term.connected = False
        if teacher is not None:
            paths = [p for term in self._terms for p in as_paths(term.loss.teacher_layer_name)]
            self._teacher = teacher.connect(paths=paths, student=self.student)
            # Of what a teacher remembers, tracked: saved and restored with this model.
            self.teacher_state = self._teacher.state
            checks.check_teacher(self._teacher, self._terms)
            if self.student_preprocessing is None:
                for model in self._teacher.fed_as_is:
                    checks.check_inputs(model, self.student)
            # XLA compiles nothing that runs beside the graph.
            self.supports_jit = self._teacher.in_graph
        teacher, student = self._symbolic_sides()
        if self._agreement is not None:
            checks.check_comparable(teacher[0], student[0])
        self._connect(teacher, student)
        self._first_batch.expect(other_models=True)
        # Functions that were traced without this teacher are of no use any more.
        self.train_function = self.test_function = None

    # Connecting losses to the two models

    def _symbolic_sides(self):
        """Returns (outputs, features) of teacher and student as far as their graphs tell them."""
        teacher = student = (None, None)
        if self._teacher is not None:
            teacher = self._teacher.symbolic()
        student = (heads.symbolic_outputs(self.student), self._student_reader.features)
        return teacher, self._seen_of(student)

    def _seen_of(self, student):
        """Returns what of the student's (outputs, features) the teacher can be compared to."""
        outputs, features = student
        if self._teacher is not None and outputs is not None:
            outputs = self._teacher.seen_of(outputs)
        return outputs, features

    def _connect(self, teacher, student):
        """Settles every loss for the two models and takes over its projector.

        Args:
            teacher: Its (outputs, features), symbolic or those of a batch; None for what is
                unknown.
            student: The same.
        """
        teacher_knows = self._teacher is not None
        models = (self._teacher.model if teacher_knows else None), self.student
        activations = [
            self._teacher.activations() if teacher_knows else None,
            heads.activations(self.student),
        ]
        self._activations = [
            None if found is None else tuple(keras.tree.flatten(found)) for found in activations
        ]
        for term in self._terms:
            if not term.connected:
                term.connect(teacher, student, activations, models)
            for part in term.loss.parts:
                self.projectors.add(part)
        self._connected = all(term.connected for term in self._terms)
        if self.student.built and all(term.loss.is_connected() for term in self._terms):
            self.built = True

    # The step

    def call(self, inputs, training=None, return_features=False):
        """Returns the student's outputs, or with `return_features` `(outputs, {path: feature})`."""
        inputs, answers = split_stored(inputs)
        inputs, index = split_index(inputs)
        preprocess = self.student_preprocessing
        outputs, features = self._student_reader(
            preprocess(inputs) if preprocess else inputs, training
        )
        if not self._connected and self._teacher is not None and self._teacher.built:
            answer = self._teacher(Context(inputs=inputs, index=index, answers=answers))
            self._connect((answer.outputs, answer.features), self._seen_of((outputs, features)))
        return (outputs, features) if return_features else outputs

    def train_step(self, data):
        """Takes one optimizer step on a batch; returns the logs."""
        x, context = self._unpack(data, training=True)
        # Before the student runs: where replicas wait for each other, the next one runs, and the
        # losses that its layers add would be found in the place of this one's.
        share = share_of(examples_in(x))
        teacher = self._teacher(context)
        with tf.GradientTape() as tape:
            student = self(x, training=True, return_features=True)
            loss, values = self._total_loss(teacher, student, context, share)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        self._teacher.after_step(self._step())
        return self._log("training", x, values, teacher, student, context)

    def test_step(self, data):
        """Evaluates a batch; returns the logs."""
        x, context = self._unpack(data, training=False)
        asked = self._teacher is not None and self.evaluate_distillation
        teacher = self._teacher(context) if asked else None
        student = self(x, training=False, return_features=True)
        _, values = self._total_loss(teacher, student, context)
        return self._log("evaluation", x, values, teacher, student, context)

    def _unpack(self, data, training):
        """Returns the inputs of a batch, and what a loss may know of it besides."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return context_of(x, y, sample_weight, step=self._step(), training=training)

    def _total_loss(self, teacher, student, context, share=None):
        """Returns the total loss as the class states it, and what is logged of it.

        Args:
            teacher: The teacher's (outputs, features); None to leave distillation out.
            student: The student's.
            context: A `Context` of the batch.
            share: Under `tf.distribute` this replica's share of the examples: the replicas' losses
                add up to that of the batch. None for shares that are equal.

        Returns:
            The total, a scalar; and a dict from the names in the logs to scalars, without weights.
        """
        alpha = schedules.value_at(self.student_loss_weight, self._step())
        terms, values = [], {}
        task = self._task_loss(context.labels, student[0], context.sample_weight)
        if task is not None:
            # Keras divides it by the number of replicas.
            values[TASK] = task = task * replicas()
            if not _is_zero(alpha):
                terms.append(alpha * task if teacher is not None else task)
        if teacher is not None:
            distillation = self._distillation_losses(teacher, student, context)
            values |= distillation
            if not _is_zero(1.0 - alpha):
                terms.append((1.0 - alpha) * distillation[DISTILLATION])
        loss = sum(terms) if terms else ops.zeros(())
        penalty = sum(ops.sum(ops.cast(entry, "float32")) for entry in self.losses)
        share = 1.0 / replicas() if share is None else share
        return loss * share + penalty / replicas(), {**values, TOTAL: loss + penalty}

    def _task_loss(self, y, y_pred, sample_weight):
        """Returns the loss that was given to `compile`; None without it, or without labels."""
        # Keras has no public name for its compiled loss alone, without the regularizers that
        # `compute_loss` adds; tests/test_architecture.py fails when it moves.
        compiled_loss = self._compile_loss
        if y is None and compiled_loss is not None and not _is_zero(self.student_loss_weight):
            raise ValueError(
                f"Expected labels: student_loss_weight is {self.student_loss_weight}. Received "
                "data without any. Hint: student_loss_weight=0.0 distils without labels."
            )
        if y is None or compiled_loss is None:
            return None
        return compiled_loss(y, y_pred, sample_weight)

    def _distillation_losses(self, teacher, student, context):
        """Returns each L_i by its name, and sum_i weight_i * L_i as `distillation_loss`."""
        context = teacher.weighed(context)
        sides = (teacher.outputs, teacher.features), self._seen_of(student)
        total, losses = 0.0, {}
        for term in self._terms:
            values = term.per_example(*sides, context)
            if context.example_weight is not None:
                values = values * ops.cast(context.example_weight, values.dtype)
            # A replica may have no example at all.
            examples = ops.cast(ops.shape(values)[0], values.dtype)
            losses[term.name] = loss = ops.divide_no_nan(ops.sum(values), examples)
            total += schedules.value_at(term.weight, context.step) * loss
        return {**losses, DISTILLATION: total}

    def _log(self, phase, x, values, teacher, student, context):
        """Measures and counts a batch; returns the logs of what there was."""
        outputs, y = student[0], context.labels
        absent = self._logs.update(values, teacher, self._seen_of(student)[0], self._activations)
        if y is None:
            logs = self.get_metrics_result()
        else:
            logs = self.compute_metrics(x, y, outputs, sample_weight=context.sample_weight)
        loss, leaves_out = self._compiled_with.loss, self._leaves_out
        bad = count_bad(teacher, outputs, context, loss=loss, leaves_out=leaves_out)
        self._logs.count(phase, bad)
        return {name: value for name, value in logs.items() if name not in absent}

    def _step(self):
        return None if self.optimizer is None else self.optimizer.iterations

    def get_metrics_result(self):
        """Returns the logs: every metric that has seen data.

        Called at the end of an epoch too, before any callback: here the counters are read.
        """
        if tf.executing_eagerly():
            self._logs.raise_if_bad()
        return self._logs.of(self.metrics)

    def reset_metrics(self):
        """Resets all metrics, and the counters of bad examples."""
        super().reset_metrics()
        self._logs.reset()

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the total loss of a batch, a scalar, as `fit` minimizes it.

        The step itself does not call it. Where a loss reads layers of the student, the student is
        run even if `y_pred` is there, since its features come with its forward pass.

        Args:
            x: The inputs.
            y: The labels; None without any.
            y_pred: The student's outputs, if they are there already.
            sample_weight: None, or weights of shape [batch].
            training: Whether the student is run as in training.
        """
        x, context = context_of(x, y, sample_weight, step=self._step(), training=training)
        if y_pred is None or self._student_reader.paths:
            student = self(x, training=training, return_features=True)
        else:
            student = (y_pred, {})
        teacher = None if self._teacher is None else self._teacher(context)
        return self._total_loss(teacher, student, context)[0]

    # Training

    def compile(self, optimizer="adam", loss=None, metrics=None, **kwargs):
        """Configures training; as `keras.Model.compile`.

        Args:
            optimizer: The student's (and the projectors') optimizer.
            loss: The task loss; None for pure distillation, with `student_loss_weight=0.0`.
            metrics: Metrics of the student's outputs.
            **kwargs: Passed to `keras.Model.compile`.

        Raises:
            ValueError: If there is no loss though `student_loss_weight` is not 0.
        """
        if loss is None and not _is_zero(self.student_loss_weight):
            raise ValueError(
                "Expected a task loss: 'loss' cannot be `None` with student_loss_weight="
                f"{self.student_loss_weight}. Hint: student_loss_weight=0.0 for pure distillation."
            )
        self._first_batch.expect(other_models=True)
        # In a plain object: Keras would wrap a dict of losses to track what is in it.
        has_metrics = bool(metrics or kwargs.get("weighted_metrics"))
        self._compiled_with = types.SimpleNamespace(loss=loss, has_metrics=has_metrics)
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def get_compile_config(self):
        """Returns the arguments of `compile`, and whether the optimizer has its variables yet."""
        built = self.compiled and self.optimizer.built
        return {**super().get_compile_config(), "optimizer_built": built}

    def compile_from_config(self, config):
        """Compiles as `get_compile_config` says, with an optimizer ready to be loaded."""
        config = dict(config)
        optimizer_built = config.pop("optimizer_built")
        if config:
            self.compile(**keras.saving.deserialize_keras_object(config))
        if optimizer_built and self.built:
            self.optimizer.build(self.trainable_variables)

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        """Trains the student; as `keras.Model.fit`."""
        bound = inspect.signature(super().fit).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        data.warn_if_not_replayable(given["x"], given["shuffle"], given["callbacks"])
        given["callbacks"] = data.with_epoch_told(given["callbacks"], given["x"])
        # Keras warns that it cannot shuffle a dataset; this one is.
        given["shuffle"] = given["shuffle"] and not data.is_replayable(given["x"])
        self._first_batch.expect()
        return super().fit(*bound.args, **bound.kwargs)

    def make_train_function(self, force=False):
        """Makes the function that runs train steps; refuses without a teacher."""
        if self._teacher is None:
            raise ValueError(
                "Expected a teacher. This distiller has none: checkpoints hold no teacher. "
                "Hint: distiller.teacher = teacher gives it back; predict and evaluate work "
                "without."
            )
        checks.check_compiled(self._teacher, self.jit_compile)
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = self._first_batch.before(self.train_function)

    # Saving

    def save_own_variables(self, store):
        """Saves the seed states of random layers, which Keras leaves out of weight files."""
        super().save_own_variables(store)
        saving.save_seeds(self, store)

    def load_own_variables(self, store):
        """Loads what `save_own_variables` saved."""
        super().load_own_variables(saving.load_seeds(self, store))

    def get_config(self):
        """Returns what makes this distiller again, with a fingerprint in the teacher's place."""
        return {**super().get_config(), **saving.config_of(self)}

    @classmethod
    def from_config(cls, config):
        """Makes a distiller without its teacher from what `get_config` gave."""
        arguments, fingerprint = saving.arguments_of(config)
        distiller = cls(**arguments)
        distiller._expected_fingerprint = fingerprint
        return distiller

    def summary(self, print_fn=None):
        """Prints what is taught to whom: sizes, and each loss with layers, shapes and weight.

        Args:
            print_fn: Called with the text; by default `print`.
        """
        (print_fn or print)(describe(self))


def _is_zero(weight):
    """Returns whether a weight is the plain number 0, so that its term is left out, NaN and all."""
    return isinstance(weight, int | float) and weight == 0
