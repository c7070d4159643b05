"""Flow of the solution procedure (FSP): how features change from one layer to another."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.losses.feature.maps import check_whole
from keras_kd.losses.feature.pooling import average_pool_larger, channel_rows, max_pool_larger
from keras_kd.numerics import at_least_float32
from keras_kd.projectors import check_same_shape

POOLING = {"max": max_pool_larger, "average": average_pool_larger}


def flow_of_solution(*, teacher, student, pooling="max"):
    """Mean squared difference of the FSP matrices of teacher and student, per example.

    G[i, j] = sum_hw F1[h, w, i] F2[h, w, j] / (H W) between two layers of one model; the value is
    mean_ij (G_s - G_t)^2. The larger of the two layers is pooled to the size of the smaller.

    Args:
        teacher: Two maps (F1, F2) of shape [batch, height, width, channels], each with sizes and
            channels of its own; receive no gradient.
        student: Two maps of the same channels; sizes may differ from the teacher's.
        pooling: `"max"` as in the paper, or `"average"`.

    Returns:
        Shape [batch], at least 0.

    Raises:
        ValueError: If the channels differ.

    Reference: Yim et al., A Gift from Knowledge Distillation, CVPR 2017, section 3.
    """
    matrices = []
    for first, second in (student, [ops.stop_gradient(maps) for maps in teacher]):
        first, second = POOLING[pooling](at_least_float32(first), at_least_float32(second))
        first, second = channel_rows(first), channel_rows(second)
        positions = ops.cast(ops.shape(first)[2], first.dtype)
        matrices.append(ops.matmul(first, ops.transpose(second, (0, 2, 1))) / positions)
    check_same_shape(matrices[0].shape, matrices[1].shape, "projector='auto' makes channels equal.")
    return ops.mean(ops.square(matrices[0] - matrices[1]), axis=(1, 2))


@registry.method(
    "fsp",
    title="Flow of the solution procedure (FSP)",
    kind="feature",
    needs="two layers of each",
    reference="Yim et al., CVPR 2017",
)
class FlowOfSolution(FeatureLoss):
    """FSP: features change between two layers of the student as between two of the teacher.

    The paper trains in two stages: first on this loss alone, then the student on the task alone,
    from the weights it has learned.

    Args:
        teacher_layer_name: A list of two layer paths, or of two for each matrix: first, second,
            first, second ... The values of the matrices are summed.
        student_layer_name: As many in the student.
        pooling: How the larger of two layers is brought to the size of the smaller: `"max"`, as in
            the paper, or `"average"`.
        projector: `"auto"` for a 1x1 convolution where a layer has other channels than the
            teacher's, None for none, or a Keras layer of one's own; a list with one for each layer.
        name: Name in the logs.

    Raises:
        ValueError: If the layers are not two by two or differ in number, or the pooling is unknown;
            when the distiller is made, if a layer is unknown.

    Example:
        >>> flow = keras_kd.losses.get(
        ...     "fsp",
        ...     teacher_layer_name=["stage1", "stage2"],
        ...     student_layer_name=["block1", "block2"],
        ... )
        >>> stage = keras_kd.Distiller(teacher, student, flow, student_loss_weight=0.0)
        >>> stage.compile("adam")
        >>> stage.fit(x_train, y_train, epochs=40)
        >>> student.compile("adam", task_loss)
        >>> student.fit(x_train, y_train, epochs=100)

    In one stage, together with the task, `distillation_loss_weights` is 50 in
    Tian et al., arXiv:1910.10699.

    Reference: Yim et al., A Gift from Knowledge Distillation, CVPR 2017, section 3.
    """

    match = "channels"

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        pooling="max",
        projector=AUTO,
        name=None,
    ):
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        if not self._several or len(teacher_layer_name) == 0 or len(teacher_layer_name) % 2:
            raise ValueError(
                "Expected a list of two layers of the teacher, or of two for each matrix. "
                f"Received: {teacher_layer_name!r}."
            )
        if pooling not in POOLING:
            raise ValueError(
                f"Expected pooling to be one of {tuple(POOLING)}. Received: {pooling!r}"
            )
        self.pooling = pooling

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, summed over the matrices; shape [batch]."""
        for index in range(len(self._projectors)):
            check_whole(context, index, self.name)
        features = self.features(teacher_outputs, student_outputs, context)
        teachers, students = zip(*features, strict=True)
        return sum(
            flow_of_solution(
                teacher=teachers[first : first + 2],
                student=students[first : first + 2],
                pooling=self.pooling,
            )
            for first in range(0, len(features), 2)
        )

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "pooling": self.pooling}
