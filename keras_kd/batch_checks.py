"""What of a batch would spoil a run: refused on the first one, counted on those after it."""

import dataclasses

import keras
import tensorflow as tf
from keras import ops

from keras_kd.checks import same_shapes
from keras_kd.features import mask_of
from keras_kd.metrics import NamedSums


def run_on(x, role, function):
    """Runs a model on the first batch; says which one could not be run, and on what.

    Args:
        x: The inputs.
        role: `"teacher"` or `"student"`.
        function: Called without arguments.
    """
    try:
        return function()
    except (ValueError, tf.errors.InvalidArgumentError) as err:
        shapes = [tuple(tensor.shape) for tensor in keras.tree.flatten(x)]
        raise ValueError(
            f"Expected a {role} that takes the data, x of shape {', '.join(map(str, shapes))}. "
            f"Hint: {role}_preprocessing= may turn it into what the {role} takes. Received: {err}"
        ) from err


def first_examples(structure, count=8):
    """Returns the first examples of a batch.

    Args:
        structure: Tensors of shape [batch, ...], or None; a sparse one stays as it is.
        count: How many.
    """
    return keras.tree.map_structure(
        lambda t: t if t is None or isinstance(t, tf.SparseTensor) else t[:count], structure
    )


def form_of(structure):
    """Returns what batches of one kind have in common: structure, shapes without batch, dtypes."""
    return keras.tree.map_structure(
        lambda t: None if t is None else f"{t.shape[1:]} {t.dtype}", structure
    )


def check_finite_teacher(outputs, features):
    """Refuses a teacher that answers with NaN or infinity.

    Args:
        outputs: The teacher's outputs on the first batch.
        features: Its features by path.

    Raises:
        ValueError: Naming the output or layer, and how many examples are concerned.
    """
    named = [(f"output {index}", t) for index, t in enumerate(keras.tree.flatten(outputs))]
    named += [(f"layer '{path}'", feature) for path, feature in features.items()]
    for name, tensor in named:
        broken = ops.convert_to_numpy(_not_finite(tensor))
        if broken.any():
            raise ValueError(
                f"Expected finite numbers from the teacher. Received NaN or infinity in {name} for "
                f"{int(broken.sum())} of {len(broken)} examples of the first batch, the first at "
                f"index {int(broken.argmax())}. Hint: look at the teacher's input "
                "(teacher_preprocessing=) and at its weights."
            )


def _not_finite(tensor):
    """Returns which examples hold a number that is not finite, padding apart; booleans, [batch]."""
    broken = ops.logical_not(ops.isfinite(tensor))
    mask = mask_of(tensor)
    if mask is not None and same_shapes([mask.shape], [tensor.shape[:-1]]):
        broken = ops.logical_and(broken, ops.expand_dims(ops.cast(mask, "bool"), -1))
    return ops.any(broken, axis=tuple(range(1, len(tensor.shape))))


@dataclasses.dataclass(frozen=True)
class SparseLabels:
    """An output that is compared to integer class labels.

    Attributes:
        ignore_class: A label that is allowed beside the classes; None for none.
    """

    ignore_class: int | None = None


def sparse_outputs(loss, outputs):
    """Finds the outputs that are compared to integer class labels.

    Args:
        loss: The `loss` that was given to `compile`.
        outputs: The student's outputs.

    Returns:
        For each flat output a `SparseLabels`, or None where the output has another loss.
    """
    flat = keras.tree.flatten(outputs)
    losses = keras.tree.flatten(loss) if keras.tree.is_nested(loss) else [loss] * len(flat)
    if isinstance(loss, dict) and not isinstance(outputs, dict):
        return [None] * len(flat)
    return [_sparse_labels(entry) for entry in losses] if len(losses) == len(flat) else []


def _sparse_labels(loss):
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return SparseLabels(loss.get_config().get("ignore_class"))
    names = ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy")
    function = keras.losses.sparse_categorical_crossentropy
    return SparseLabels() if loss is function or loss in names else None


def _out_of_range(labels, outputs, sparse):
    """Counts integer labels that name no class.

    Args:
        labels: Integer labels, shape [batch, ...] or [batch, ..., 1].
        outputs: The student's output, shape [batch, ..., classes].
        sparse: A `SparseLabels`.

    Returns:
        A float32 scalar.
    """
    labels = ops.cast(labels, "int64")
    bad = ops.logical_or(labels < 0, labels >= outputs.shape[-1])
    if sparse.ignore_class is not None:
        bad = ops.logical_and(bad, labels != sparse.ignore_class)
    return ops.sum(ops.cast(bad, "float32"))


def check_labels(labels, outputs, loss):
    """Refuses labels of the first batch that do not go with the student's outputs.

    Args:
        labels: The labels, in the structure of the outputs.
        outputs: The student's outputs on the first batch.
        loss: The `loss` that was given to `compile`.

    Raises:
        ValueError: If a class label is out of range or one-hot labels have another class count.
    """
    flat_labels, flat_outputs = keras.tree.flatten(labels), keras.tree.flatten(outputs)
    kinds = sparse_outputs(loss, outputs)
    if not len(flat_labels) == len(flat_outputs) == len(kinds):
        return
    for index, (label, output, sparse) in enumerate(
        zip(flat_labels, flat_outputs, kinds, strict=True)
    ):
        classes = output.shape[-1]
        if sparse is not None and float(_out_of_range(label, output, sparse)):
            values = ops.convert_to_numpy(label)
            raise ValueError(
                f"Expected labels in 0..{classes - 1}: output {index} of the student has {classes} "
                f"classes. Received labels in {values.min()}..{values.max()} in the first batch."
            )
        if _is_one_hot(loss) and tuple(label.shape)[1:] != tuple(output.shape)[1:]:
            raise ValueError(
                f"Expected labels of shape {tuple(output.shape)}, like the student's output "
                f"{index}. Received: {tuple(label.shape)}. Hint: integer labels go with "
                "'sparse_categorical_crossentropy'."
            )


def _is_one_hot(loss):
    return isinstance(loss, keras.losses.CategoricalCrossentropy) or loss in (
        "categorical_crossentropy",
        "CategoricalCrossentropy",
    )


class Counters:
    """Counts, inside the graph, what would spoil a run, and is read at the end of an epoch.

    A plain object: its variables are no state of the distiller, in no checkpoint and in no log.

    Args:
        phase: `"training"` or `"evaluation"`.
    """

    _HINTS = {
        "training": "the student's weights of this epoch are spoiled; go on from the last "
        "checkpoint, which has not been touched.",
        "evaluation": "nothing was trained on these; look at that data.",
    }
    _MESSAGES = {
        "teacher": "finite numbers from the teacher. Received NaN or infinity for {} examples",
        "labels": "labels that name a class of the student. Received {} others",
        "weights": "sample weights of 0 and 1, as a loss is one number for the batch. Received {} "
        "others",
    }

    def __init__(self, phase):
        self._hint = self._HINTS[phase]
        self._sums = NamedSums(self._MESSAGES, name="bad")

    def add(self, counts):
        """Adds scalars to the counters.

        Args:
            counts: A dict with scalars for `"teacher"`, `"labels"`, `"weights"` or some of them;
                None for nothing.
        """
        self._sums.update_state({name: n for name, n in counts.items() if n is not None})

    def reset(self):
        """Sets all counters to 0."""
        self._sums.reset_state()

    def raise_if_any(self):
        """Raises if something was counted since the last reset.

        Raises:
            ValueError: Saying what, and how often.
        """
        for name, total in self._sums.result().items():
            if int(total):
                self.reset()
                raise ValueError(
                    f"Expected {self._MESSAGES[name].format(int(total))}, after a first batch "
                    f"without any. Hint: {self._hint}"
                )


def count_bad(teacher, outputs, context, *, loss, leaves_out):
    """Returns what `Counters` counts of a batch.

    Args:
        teacher: The teacher's `Answer`; None where it was not asked.
        outputs: The student's outputs.
        context: A `Context` of the batch.
        loss: The `loss` that was given to `compile`.
        leaves_out: Whether a loss leaves examples of weight 0 out, and knows no other weights.
    """
    counts = {}
    if teacher is not None:
        counts["teacher"] = count_not_finite(teacher.outputs)
    if context.labels is not None:
        counts["labels"] = _count_bad_labels(context.labels, outputs, loss)
    if context.example_weight is not None and leaves_out:
        counts["weights"] = count_not_binary(context.example_weight)
    return counts


def count_not_finite(outputs):
    """Returns how many examples have a number that is not finite, a float32 scalar."""
    return sum(
        ops.sum(ops.cast(_not_finite(output), "float32")) for output in keras.tree.flatten(outputs)
    )


def _count_bad_labels(y, outputs, loss):
    """Returns how many integer labels name no class; None where no loss takes such labels."""
    if loss is None:
        return None
    labels, flat = keras.tree.flatten(y), keras.tree.flatten(outputs)
    kinds = sparse_outputs(loss, outputs)
    if not len(labels) == len(flat) == len(kinds):
        return None
    counts = [
        _out_of_range(*entry)
        for entry in zip(labels, flat, kinds, strict=True)
        if entry[2] is not None
    ]
    return sum(counts) if counts else None


def count_not_binary(weights):
    """Returns how many sample weights are neither 0 nor 1, a float32 scalar."""
    binary = ops.logical_or(ops.equal(weights, 0), ops.equal(weights, 1))
    return ops.sum(ops.cast(ops.logical_not(binary), "float32"))


def check_binary(weights):
    """Refuses sample weights that a loss over the whole batch cannot honour.

    Raises:
        ValueError: If a weight is neither 0 nor 1.
    """
    if int(count_not_binary(weights)):
        raise ValueError(
            "Expected sample weights of 0 and 1 with a loss that is one number for the batch: "
            "examples can be left out of it, not weighed. Received others in the first batch."
        )
