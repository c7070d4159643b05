"""Knowledge review: each stage of the teacher teaches all stages of the student up to it."""

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
    nearest,
)
from keras_kd.losses.one_part import OnePart
from keras_kd.numerics import at_least_float32


def reviewkd(*, teacher, student, levels=(4, 2, 1)):
    """Hierarchical context loss between two maps of equal shape, per example.

    (MSE + sum_k 2^-k MSE(pool_l(student), pool_l(teacher))) / (1 + sum_k 2^-k), where k = 1, 2, ...
    counts the levels l that are smaller than the maps' height, and pool_l averages the maps
    adaptively to l x l, whatever their width.

    Args:
        teacher: Maps, shape [batch, height, width, channels]; receives no gradient.
        student: Same shape.
        levels: Sizes of the pooled maps.

    Returns:
        Shape [batch].

    Reference: Chen et al., arXiv:2104.09044; the weights are those of its code.
    """
    teacher = at_least_float32(ops.stop_gradient(teacher))
    student = at_least_float32(student)
    total, weight, weights = _mse(teacher, student), 1.0, 1.0
    for level in levels:
        if level < student.shape[1]:
            weight /= 2.0
            weights += weight
            pooled = at_size(teacher, (level, level)), at_size(student, (level, level))
            total += weight * _mse(*pooled)
    return total / weights


def _mse(teacher, student):
    return ops.mean(ops.square(student - teacher), axis=(1, 2, 3))


@keras.saving.register_keras_serializable(package="keras_kd")
class ReviewFusion(layers.Layer):
    """The attention-based fusion of a student's stages, from the deepest to the shallowest.

    Each stage passes a 1x1 convolution; from the second on, what came from the deeper stages is
    resized to it and both are added under an attention of their own at every position; a 3x3
    convolution leads to the channels of the teacher's stage.

    Args:
        student_shapes: Shapes of the student's maps, the shallowest first.
        teacher_shapes: As many of the teacher's.
        mid_channels: Channels in which stages are fused.
        **kwargs: Passed to `keras.layers.Layer`.

    Reference: Chen et al., arXiv:2104.09044.
    """

    def __init__(self, student_shapes, teacher_shapes, mid_channels, **kwargs):
        super().__init__(**kwargs)
        self.student_shapes = [tuple(shape) for shape in student_shapes]
        self.teacher_shapes = [tuple(shape) for shape in teacher_shapes]
        self.mid_channels = mid_channels
        self.reduce, self.attention, self.expand = [], [], []
        for index, (student, teacher) in enumerate(
            zip(self.student_shapes, self.teacher_shapes, strict=True)
        ):
            steps = {"activation": None, "initializer": "lecun_uniform"}
            self.reduce.append(
                built(conv_norm(mid_channels, **steps), student, name=f"reduce_{index}")
            )
            self.expand.append(
                built(
                    conv_norm(teacher[-1], 3, **steps),
                    (*teacher[:-1], mid_channels),
                    name=f"expand_{index}",
                )
            )
            if index < len(self.student_shapes) - 1:
                self.attention.append(
                    built(
                        [layers.Conv2D(2, 1, activation="sigmoid")],
                        (*student[:-1], 2 * mid_channels),
                        name=f"attention_{index}",
                    )
                )
        self.built = True

    def call(self, features, training=None):
        """Returns, for each stage, maps of the teacher's shape."""
        results, deeper = [], None
        for index in reversed(range(len(features))):
            fused = self.reduce[index](features[index], training=training)
            if deeper is not None:
                deeper = nearest(deeper, self.student_shapes[index][1:3])
                share = self.attention[index](ops.concatenate([fused, deeper], axis=-1))
                fused = fused * share[..., :1] + deeper * share[..., 1:]
            deeper = nearest(fused, self.teacher_shapes[index][1:3])
            results.insert(0, self.expand[index](deeper, training=training))
        return results

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "student_shapes": [list(shape) for shape in self.student_shapes],
            "teacher_shapes": [list(shape) for shape in self.teacher_shapes],
            "mid_channels": self.mid_channels,
        }


@registry.method(
    "reviewkd",
    title="Knowledge review (ReviewKD)",
    kind="feature",
    needs="layers of both, the shallowest first",
    reference="arXiv:2104.09044",
)
class ReviewKD(OnePart, base.DistillationLoss):
    """The student's fused stages follow the teacher's under `reviewkd`; summed over the stages.

    Vectors, such as the pooled feature that the paper takes as its last stage, count as maps of one
    position. The paper's weights are 0.6 to 8, growing over the first epochs.

    Args:
        teacher_layer_name: List of layer paths of the teacher, the shallowest first.
        student_layer_name: As many of the student.
        mid_channels: Channels in which the student's stages are fused; None for those of its last
            stage, at most 512.
        fusion: What `get_config` saves; None to make it for the two models.
        name: Name in the logs.

    Raises:
        ValueError: If the lists differ in length or `mid_channels` is not positive; when the
            distiller is made, if a size is not fixed.

    Example:
        >>> keras_kd.losses.get(
        ...     "reviewkd",
        ...     teacher_layer_name=["stage1", "stage2", "pool"],
        ...     student_layer_name=["block1", "block2", "pool"],
        ... )

    Reference: Chen et al., arXiv:2104.09044.
    """

    part_name = "fusion"

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        mid_channels=None,
        fusion=None,
        name=None,
    ):
        sides = [as_list(paths) for paths in (teacher_layer_name, student_layer_name)]
        if len(sides[0]) != len(sides[1]) or not sides[0]:
            raise ValueError(
                "Expected as many layers of the teacher as of the student. Received: "
                f"{teacher_layer_name!r} and {student_layer_name!r}."
            )
        if mid_channels is not None and not mid_channels > 0:
            raise ValueError(f"Expected mid_channels to be positive. Received: {mid_channels!r}")
        super().__init__(
            teacher_layer_name=sides[0], student_layer_name=sides[1], name=name or "reviewkd"
        )
        self.mid_channels = mid_channels
        self.fusion = fusion

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, summed over the stages; shape [batch]."""
        for index in range(len(student_outputs)):
            check_whole(context, index, self.name)
        if self.fusion is None:
            raise missing(self.name)
        students = self.fusion(
            [as_maps(feature) for feature in student_outputs], training=context.training
        )
        values = [
            reviewkd(teacher=as_maps(teacher), student=student)
            for teacher, student in zip(teacher_outputs, students, strict=True)
        ]
        return sum(values[1:], start=values[0])

    def connect(self, ends):
        """Makes the fusion for the two models; see `DistillationLoss.connect`.

        Raises:
            ValueError: If a size is not fixed.
        """
        connected = copy.copy(self)
        if self.fusion is None and ends.teacher is not None and ends.student is not None:
            students, teachers = (
                [map_shape(feature.shape) for feature in side]
                for side in (ends.student, ends.teacher)
            )
            connected.fusion = ReviewFusion(
                students,
                teachers,
                self.mid_channels or min(512, students[-1][-1]),
                name=f"{self.name}_fusion",
            )
        return connected

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "mid_channels": self.mid_channels}


def as_list(paths):
    """Returns one path or several as a list."""
    return [paths] if isinstance(paths, str) else list(paths)
