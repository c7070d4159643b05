"""PS-KD: a student taught by what it said itself in the epoch before."""

import keras
from keras import ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.one_part import OnePart
from keras_kd.losses.response.self_logits import SelfLogitsLoss
from keras_kd.losses.response.targets import is_target
from keras_kd.numerics import at_least_float32, tempered_log_softmax
from keras_kd.replicas import with_changes_of_all


def pskd(*, soft_targets, student):
    """Cross-entropy with soft targets, per row.

    -sum_c y_c * log softmax(student)_c. Not 0 where the student says what the targets say.

    Args:
        soft_targets: Probabilities y, shape [batch, ..., classes]; receive no gradient.
        student: Logits, same shape.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Kim et al., arXiv:2006.12000.
    """
    targets = at_least_float32(ops.stop_gradient(soft_targets))
    return -ops.sum(targets * tempered_log_softmax(student, 1.0), axis=-1)


def progressive_targets(*, previous, labels, alpha):
    """Labels softened by earlier predictions.

    (1 - alpha) * onehot(y) + alpha * previous; the label alone where there is no prediction yet.

    Args:
        previous: Probabilities, shape [batch, ..., classes]; zeros where there are none.
        labels: Class numbers y, integers of shape [batch, ...].
        alpha: In [0, 1], a float or a scalar tensor.

    Returns:
        Probabilities, shape [batch, ..., classes].

    Reference: Kim et al., arXiv:2006.12000.
    """
    onehot = ops.cast(is_target(labels, previous), previous.dtype)
    # Probabilities sum to 1 and nothing to 0, whatever the rounding.
    known = ops.sum(previous, axis=-1, keepdims=True) > 0.5
    return ops.where(known, (1.0 - alpha) * onehot + alpha * previous, onehot)


@keras.saving.register_keras_serializable(package="keras_kd")
class PredictionMemory(keras.layers.Layer):
    """The last prediction for each example of a data set.

    Args:
        examples: How many examples the data set has.
        prediction_shape: Shape of one prediction, [...positions, classes].
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, examples, prediction_shape, **kwargs):
        super().__init__(**kwargs)
        self.examples = examples
        self.prediction_shape = tuple(prediction_shape)
        self.predictions = self.add_weight(
            name="predictions",
            shape=(examples, *self.prediction_shape),
            initializer="zeros",
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )
        self.built = True

    def recall(self, index):
        """Returns what is remembered of examples, zeros of those never seen.

        Args:
            index: Their numbers, integers of shape [batch].

        Returns:
            Shape [batch, ...positions, classes], float32.
        """
        return ops.take(self.predictions, index, axis=0)

    def remember(self, index, predictions):
        """Puts predictions in the place of the earlier ones.

        Args:
            index: The numbers of the examples, integers of shape [batch].
            predictions: Shape [batch, ...positions, classes].
        """
        updated = ops.scatter_update(
            self.predictions,
            ops.expand_dims(index, -1),
            ops.cast(ops.stop_gradient(predictions), "float32"),
        )
        self.predictions.assign(with_changes_of_all(self.predictions.value, updated))

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "examples": self.examples,
            "prediction_shape": list(self.prediction_shape),
        }


@registry.method(
    "pskd",
    title="Progressive self-distillation (PS-KD)",
    kind="response",
    needs="labels, example numbers",
    reference="arXiv:2006.12000",
)
class ProgressiveSelfDistillation(OnePart, SelfLogitsLoss):
    """Labels softened by what the student said of the same example the last time it saw it.

    It is the whole loss of the paper, with labels: `student_loss_weight=0.0`. The distiller's
    teacher is not read. The predictions of the data set (float32, examples x positions x classes)
    are remembered by a `PredictionMemory` of the distiller, which is saved with it. An example seen
    for the first time is taught by its label alone, so is a whole first epoch.

    Args:
        examples: How many examples the data set has; `keras_kd.data.with_index` numbers them.
        alpha: Share of the prediction, in [0, 1], a float or a schedule. The paper's grows by the
            epoch, 0.8 * epoch / epochs: `schedules.Linear(0.0, 0.8, steps)`.
        memory: None to make one, or a `PredictionMemory` of one's own.
        **options: `output`, `student_outputs` and `name` as in `SelfLogitsLoss`.

    Raises:
        ValueError: If `examples` is no positive integer, alpha is out of range or an option
            unknown; when the distiller is made, if the student's output is neither logits nor
            softmax or has a position axis of no fixed size; in training, without labels or
            numbers.

    Example:
        >>> x = keras_kd.data.with_index(x_train)
        >>> alpha = keras_kd.schedules.Linear(0.0, 0.8, steps=epochs * steps_per_epoch)
        >>> loss = keras_kd.losses.get("pskd", examples=len(x_train), alpha=alpha)
        >>> any_model = keras.models.clone_model(student)
        >>> keras_kd.Distiller(any_model, student, loss, student_loss_weight=0.0)

    Reference: Kim et al., arXiv:2006.12000; weight 1, without a task loss.
    """

    needs = frozenset({"labels", "index"})
    arguments = ("examples", "alpha")
    part_name = "memory"

    def __init__(self, *, examples, alpha=0.8, memory=None, **options):
        super().__init__(**options)
        if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
            raise ValueError(f"Expected examples to be a positive integer. Received: {examples!r}")
        if not (memory is None or isinstance(memory, PredictionMemory)):
            raise ValueError(
                f"Expected memory to be None or a PredictionMemory. Received: {memory!r}"
            )
        self.examples = examples
        self.alpha = schedules.checked("alpha", alpha)
        if not schedules.is_schedule(alpha) and alpha > 1.0:
            raise ValueError(f"Expected alpha in [0, 1]. Received: {alpha!r}")
        self.memory = memory

    def compare(self, teacher, student, temperature, context):
        """Returns `pskd` at every position; in training the predictions are remembered."""
        del teacher, temperature
        index = ops.reshape(context.index, (-1,))
        targets = progressive_targets(
            previous=self.memory.recall(index),
            labels=self.labels(context, student),
            alpha=schedules.value_at(self.alpha, context.step),
        )
        if context.training:
            self.memory.remember(index, ops.softmax(student, axis=-1))
        return pskd(soft_targets=targets, student=student)

    def connect(self, ends):
        """Makes the memory; see `DistillationLoss.connect`.

        Raises:
            ValueError: If the student's output is neither logits nor softmax, or no shape of fixed
                size.
        """
        connected = super().connect(ends)
        if connected.memory is None and ends.student is not None:
            shape = tuple(self.pick(ends.student).shape)[1:]
            if None in shape:
                raise ValueError(
                    "Expected a student's output of fixed size, to remember one for each example. "
                    f"Received: {(None, *shape)}."
                )
            connected.memory = PredictionMemory(self.examples, shape, name=f"{self.name}_memory")
        return connected
