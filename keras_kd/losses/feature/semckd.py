"""Semantic calibration: an attention says which layer of the teacher each layer follows."""

import copy

import keras
from keras import layers, ops

from keras_kd.losses import base, registry
from keras_kd.losses.feature.maps import (
    as_maps,
    at_size,
    built,
    check_whole,
    conv_norm,
    map_shape,
    missing,
    smaller_size,
)
from keras_kd.losses.feature.reviewkd import as_list
from keras_kd.losses.one_part import OnePart
from keras_kd.numerics import at_least_float32, l2_normalize


def semckd(*, teacher, student, attention):
    """Mean squared errors of all pairs of layers, weighted by an attention, per example.

    1/S sum_s sum_t attention[s, t] * mean (student[s][t] - teacher[s][t])^2, for S layers of the
    student.

    Args:
        teacher: teacher[s][t] is what layer s of the student is held against in layer t of the
            teacher, shape [batch, height, width, channels]; receives no gradient.
        student: student[s][t] is the projection of layer s to it, same shape.
        attention: Shape [batch, S, T]; each row sums to 1. Receives a gradient.

    Returns:
        Shape [batch].

    Reference: Chen et al., arXiv:2012.03236.
    """
    total = 0.0
    for s, (teachers, students) in enumerate(zip(teacher, student, strict=True)):
        for t, (target, source) in enumerate(zip(teachers, students, strict=True)):
            target = at_least_float32(ops.stop_gradient(target))
            squares = ops.square(at_least_float32(source) - target)
            total += attention[:, s, t] * ops.mean(squares, axis=(1, 2, 3))
    return total / len(student)


@keras.saving.register_keras_serializable(package="keras_kd")
class SemanticCalibration(layers.Layer):
    """Attention over, and projections between, all pairs of a student's and a teacher's layers.

    Queries and keys are two dense layers on a feature's averages over its positions, L2-normalized;
    a projection is convolutions of 1x1, 3x3 and 1x1. Where sizes differ, the larger maps are
    average-pooled to the smaller.

    A departure from the paper: there, queries and keys are made of an example's row of the b x b
    similarities of its batch, so every batch must have the b examples that the layers were made
    for. Made of the example itself they take any batch, and no example depends on another.

    Args:
        student_shapes: Shapes of the student's maps.
        teacher_shapes: Shapes of the teacher's maps.
        units: Length of queries and keys.
        **kwargs: Passed to `keras.layers.Layer`.

    Reference: Chen et al., arXiv:2012.03236.
    """

    def __init__(self, student_shapes, teacher_shapes, units, **kwargs):
        super().__init__(**kwargs)
        self.student_shapes = [tuple(shape) for shape in student_shapes]
        self.teacher_shapes = [tuple(shape) for shape in teacher_shapes]
        self.units = units
        self.queries = [
            self._embedding(shape, f"query_{s}") for s, shape in enumerate(self.student_shapes)
        ]
        self.keys = [
            self._embedding(shape, f"key_{t}") for t, shape in enumerate(self.teacher_shapes)
        ]
        # One flat list, pair by pair: Keras saves no lists in lists.
        self.projections = [
            _projection(student, teacher, f"projection_{s}_{t}")
            for s, student in enumerate(self.student_shapes)
            for t, teacher in enumerate(self.teacher_shapes)
        ]
        self.built = True

    def call(self, features, training=None):
        """Returns (teacher, student, attention), the arguments of `semckd`.

        Args:
            features: (The teacher's maps, the student's maps).
            training: Whether batch normalization behaves as in training.
        """
        teachers, students = features
        targets, sources = [], []
        projections = iter(self.projections)
        for student in students:
            sizes = [smaller_size(teacher.shape, student.shape) for teacher in teachers]
            targets.append([at_size(t, size) for t, size in zip(teachers, sizes, strict=True)])
            sources.append(
                [next(projections)(at_size(student, size), training=training) for size in sizes]
            )
        return targets, sources, self.attention(teachers, students)

    def attention(self, teachers, students):
        """Returns softmax over the teacher's layers of query times key, shape [batch, S, T]."""
        sides = (self.queries, students), (self.keys, teachers)
        query, key = (
            ops.stack(
                [
                    l2_normalize(at_least_float32(embed(ops.mean(maps, axis=(1, 2)))))
                    for embed, maps in zip(embeddings, side, strict=True)
                ],
                axis=1,
            )
            for embeddings, side in sides
        )
        return ops.softmax(ops.einsum("bsd,btd->bst", query, key), axis=-1)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "student_shapes": [list(shape) for shape in self.student_shapes],
            "teacher_shapes": [list(shape) for shape in self.teacher_shapes],
            "units": self.units,
        }

    def _embedding(self, shape, name):
        steps = [layers.Dense(2 * self.units, activation="relu"), layers.Dense(self.units)]
        return built(steps, (None, shape[-1]), name)


def _projection(student, teacher, name):
    middle, shape = 2 * teacher[-1], (None, *smaller_size(teacher, student), student[-1])
    last = layers.Conv2D(teacher[-1], 1, use_bias=False)
    return built([*conv_norm(middle), *conv_norm(middle, 3), last], shape, name)


@registry.method(
    "semckd",
    title="Semantic calibration (SemCKD)",
    kind="feature",
    needs="layers of both, any numbers of them",
    reference="arXiv:2012.03236",
)
class SemCKD(OnePart, base.DistillationLoss):
    """Each of the student's layers follows those of the teacher that an attention chooses.

    No layers have to be paired by hand; see `SemanticCalibration` for what is trained along and
    where it departs from the paper. The paper's weight is 400.

    Args:
        teacher_layer_name: List of layer paths of the teacher.
        student_layer_name: List of layer paths of the student, of any length.
        units: Length of queries and keys.
        calibration: What `get_config` saves; None to make it for the two models.
        name: Name in the logs.

    Raises:
        ValueError: If a list is empty or `units` is not positive; when the distiller is made, if a
            size is not fixed.

    Example:
        >>> keras_kd.losses.get(
        ...     "semckd",
        ...     teacher_layer_name=["stage1", "stage2", "stage3"],
        ...     student_layer_name=["block1", "block2"],
        ... )

    Reference: Chen et al., arXiv:2012.03236.
    """

    part_name = "calibration"

    def __init__(
        self, teacher_layer_name, student_layer_name, *, units=64, calibration=None, name=None
    ):
        teachers, students = as_list(teacher_layer_name), as_list(student_layer_name)
        if not teachers or not students:
            raise ValueError(
                "Expected at least one layer of each model. Received: "
                f"{teacher_layer_name!r} and {student_layer_name!r}."
            )
        if not units > 0:
            raise ValueError(f"Expected units to be positive. Received: {units!r}")
        super().__init__(
            teacher_layer_name=teachers, student_layer_name=students, name=name or "semckd"
        )
        self.units = units
        self.calibration = calibration

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, shape [batch]."""
        for index in range(len(student_outputs)):
            check_whole(context, index, self.name)
        if self.calibration is None:
            raise missing(self.name)
        # Keys are trained on the teacher's features, the teacher is not.
        teachers = [as_maps(ops.stop_gradient(feature)) for feature in teacher_outputs]
        students = [as_maps(feature) for feature in student_outputs]
        teacher, student, attention = self.calibration(
            (teachers, students), training=context.training
        )
        return semckd(teacher=teacher, student=student, attention=at_least_float32(attention))

    def connect(self, ends):
        """Makes attention and projections for the two models; see `DistillationLoss.connect`.

        Raises:
            ValueError: If a size is not fixed.
        """
        connected = copy.copy(self)
        if self.calibration is None and ends.teacher is not None and ends.student is not None:
            students, teachers = (
                [map_shape(feature.shape) for feature in side]
                for side in (ends.student, ends.teacher)
            )
            connected.calibration = SemanticCalibration(
                students, teachers, self.units, name=f"{self.name}_calibration"
            )
        return connected

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "units": self.units}
