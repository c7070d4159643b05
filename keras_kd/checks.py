"""What a distiller refuses: models that cannot be distilled, and batches that would spoil a run."""

import dataclasses
import warnings

import keras
import tensorflow as tf
from keras import ops

from keras_kd.features import mask_of
from keras_kd.heads import symbolic_outputs
from keras_kd.metrics import NamedSums


def check_student(student):
    """Refuses what cannot be trained.

    Raises:
        ValueError: If it is no Keras model, or nothing of it can be trained.
    """
    if not isinstance(student, keras.Model):
        raise ValueError(f"Expected student to be a keras.Model. Received: {student!r}")
    if student.built and not student.trainable_weights:
        raise ValueError(
            f"Expected a student with trainable weights. Received: '{student.name}' with none. "
            "Hint: set student.trainable = True, or that of its layers."
        )


def check_models(teacher, student):
    """Refuses what is no pair of teacher and student.

    Args:
        teacher: A `keras_kd.teachers.Teacher`, or None where there is none (yet).
        student: A Keras model.

    Raises:
        ValueError: If the student cannot be trained, or both are or share the same.
    """
    check_student(student)
    if teacher is None:
        return
    if teacher.model is student:
        raise ValueError(
            "Expected two models. Received the same one as teacher and student: there is nothing "
            "to learn. Hint: keras.models.clone_model(teacher) makes a student of the same shape."
        )
    kept = {id(variable) for variable in teacher.variables}
    for layer in _layers(student):
        shared = [variable.path for variable in layer.variables if id(variable) in kept]
        if shared and layer.trainable:
            raise ValueError(
                "Expected a student that does not change its teacher. Received models that share "
                f"variables of layer '{layer.name}', '{shared[0]}' among them. Hint: set "
                "trainable = False on what is shared, or give the student layers of its own."
            )


def check_teacher(teacher, terms):
    """Refuses losses that a teacher's kind of answer cannot serve; warns of one that it serves ill.

    Args:
        teacher: A `keras_kd.teachers.Teacher`.
        terms: The distiller's terms.

    Raises:
        ValueError: Naming the loss.
    """
    for term in terms:
        _warn_of_other_temperature(teacher, term)
        if teacher.classes is not None and "labels" in term.loss.needs:
            raise ValueError(
                f"Expected a teacher of all the student's classes for '{term.name}', which needs "
                f"labels. Received: '{teacher.name}', which knows the classes "
                f"{list(teacher.classes)}."
            )
        if teacher.may_leave_out and term.loss.batch_level and not term.loss.leaves_out:
            raise ValueError(
                f"Expected a teacher that knows every example for '{term.name}', which is one "
                f"number for the whole batch. Received: '{teacher.name}', which knows only some."
            )


def _warn_of_other_temperature(teacher, term):
    exact = teacher.exact_temperature
    wanted = getattr(term.loss, "temperature", exact)
    if exact is None or term.loss.teacher_layer_name is not None or wanted == exact:
        return
    received = wanted if isinstance(wanted, int | float) else type(wanted).__name__
    warnings.warn(
        f"Expected '{term.name}' at temperature {exact}, at which the answers of teacher "
        f"'{teacher.name}' were stored. Received: {received}, where the mass of the classes that "
        "were left out is a guess. Hint: write the targets at the temperature of the loss.",
        stacklevel=2,
    )


def check_compiled(teacher, jit_compile):
    """Refuses to compile by XLA what runs beside the graph.

    Raises:
        ValueError: Naming the teacher.
    """
    if jit_compile and not teacher.in_graph:
        raise ValueError(
            f"Expected a step without XLA: teacher '{teacher.name}' runs beside the graph. "
            "Received jit_compile=True. Hint: compile(..., jit_compile=False)."
        )


def _layers(model):
    """Yields the layers of a model, and of the models inside it, that are no models themselves."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def check_inputs(teacher, student):
    """Refuses models that cannot be fed the same batch as it is.

    Args:
        teacher: A Keras model.
        student: A Keras model.

    Raises:
        ValueError: If both have fixed inputs and these differ in number or shape.
    """
    if symbolic_outputs(teacher) is None or symbolic_outputs(student) is None:
        return
    shapes = [[tuple(tensor.shape) for tensor in model.inputs] for model in (teacher, student)]
    if not _same_shapes(*shapes):
        raise ValueError(
            f"Expected teacher and student with the same inputs. Received: teacher {shapes[0]}, "
            f"student {shapes[1]}. Hint: teacher_preprocessing= and student_preprocessing= turn "
            "one batch into what each of them takes."
        )


def check_comparable(teacher_outputs, student_outputs):
    """Refuses outputs of which it cannot be said whether they agree.

    Args:
        teacher_outputs: The teacher's symbolic outputs; None while they are not known.
        student_outputs: The student's.

    Raises:
        ValueError: If there are not as many of the one as of the other, or of other shapes.
    """
    if teacher_outputs is None or student_outputs is None:
        return
    shapes = [
        [tuple(tensor.shape) for tensor in keras.tree.flatten(outputs)]
        for outputs in (teacher_outputs, student_outputs)
    ]
    if not _same_shapes(*shapes):
        raise ValueError(
            "Expected teacher and student with the same outputs for teacher_agreement=True. "
            f"Received: teacher {shapes[0]}, student {shapes[1]}."
        )


def _same_shapes(ours, theirs):
    return len(ours) == len(theirs) and all(
        len(a) == len(b)
        and all(i is None or j is None or i == j for i, j in zip(a[1:], b[1:], strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


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
    if mask is not None and _same_shapes([mask.shape], [tensor.shape[:-1]]):
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


def count_not_finite(outputs):
    """Returns how many examples have a number that is not finite, a float32 scalar."""
    return sum(
        ops.sum(ops.cast(_not_finite(output), "float32")) for output in keras.tree.flatten(outputs)
    )


def count_bad_labels(y, outputs, loss):
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
