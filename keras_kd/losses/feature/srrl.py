"""Softmax regression: the teacher's classifier reads the student's feature."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.feature.classifier import check_channels, find_classifier
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.losses.feature.maps import as_maps, built, check_whole, conv_norm, missing
from keras_kd.numerics import at_least_float32


def srrl(*, teacher, student, teacher_logits, student_logits, alpha=1.0, beta=1.0):
    """Squared errors of pooled features and of the teacher's classifier on them, per example.

    alpha * mean_c (mean_hw student - mean_hw teacher)^2
    + beta * mean_k (student_logits - teacher_logits)^2.

    Args:
        teacher: Maps, shape [batch, height, width, channels]; receives no gradient.
        student: Connected maps, as many channels, of any size.
        teacher_logits: Shape [batch, classes]; receive no gradient.
        student_logits: The teacher's classifier on the student's pooled maps, same shape.
        alpha: Weight of the features.
        beta: Weight of the logits.

    Returns:
        Shape [batch].

    Reference: Yang et al., ICLR 2021, "Knowledge distillation via softmax regression representation
        learning".
    """
    feature = pooled(student) - ops.stop_gradient(pooled(teacher))
    logits = at_least_float32(student_logits) - at_least_float32(ops.stop_gradient(teacher_logits))
    return alpha * ops.mean(ops.square(feature), axis=-1) + beta * ops.mean(
        ops.square(logits), axis=-1
    )


def pooled(maps):
    """Returns the mean over the positions, shape [batch, channels], float32."""
    return ops.mean(at_least_float32(maps), axis=(1, 2))


@registry.method(
    "srrl",
    title="Softmax regression representation (SRRL)",
    kind="feature",
    needs="last maps of both, the teacher's classifier",
    reference="ICLR 2021, Yang et al.",
)
class SRRL(FeatureLoss):
    """The student's feature must mean the same to the teacher's classifier: `srrl`.

    The teacher's classifier, a dense layer behind global average pooling, is applied to the pooled
    feature of the teacher and to that of the student behind a connector (1x1 convolution, batch
    normalization, ReLU). It is read from the teacher as it is: never trained, tracked or saved.

    Args:
        teacher_layer_name: Layer path of the teacher's last maps, before pooling.
        student_layer_name: The same in the student; sizes may differ.
        teacher_classifier: Path of the teacher's classifier, a `keras.layers.Dense`.
        alpha: Weight of the features, at least 0.
        beta: Weight of the logits, at least 0.
        projector: `"auto"` for the connector of the paper, None for nothing, or a layer of one's
            own to the teacher's channels.
        name: Name in the logs.

    Raises:
        ValueError: If a weight is negative; when the distiller is made, if the classifier is
            unknown or does not take the map's channels.

    Example:
        >>> keras_kd.losses.get(
        ...     "srrl",
        ...     teacher_layer_name="top",
        ...     student_layer_name="last",
        ...     teacher_classifier="logits",
        ... )

    Reference: Yang et al., ICLR 2021.
    """

    match = None

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        teacher_classifier,
        alpha=1.0,
        beta=1.0,
        projector=AUTO,
        name=None,
    ):
        super().__init__(
            teacher_layer_name, student_layer_name, projector=projector, name=name or "srrl"
        )
        if self._several:
            raise ValueError(
                "Expected one layer of each model, its last maps. Received: "
                f"{teacher_layer_name!r} and {student_layer_name!r}."
            )
        if not (alpha >= 0 and beta >= 0):
            raise ValueError(
                f"Expected alpha and beta of at least 0. Received: {alpha!r}, {beta!r}"
            )
        self.teacher_classifier = teacher_classifier
        self.alpha = alpha
        self.beta = beta
        # A layer of the teacher: referred to, never tracked, saved or changed.
        self._teacher_layer = None

    def make_part(self, student_shape, teacher_shape, name):
        """Makes the connector; see `FeatureLoss.make_part`."""
        return built(conv_norm(teacher_shape[-1]), (None, None, None, student_shape[-1]), name)

    def compare(self, teacher, student, context, index):
        """Returns the loss of each example, shape [batch].

        Raises:
            ValueError: If the loss was not connected to its models.
        """
        check_whole(context, index, self.name)
        if self._teacher_layer is None:
            raise missing(self.name)
        return srrl(
            teacher=teacher,
            student=student,
            teacher_logits=self._logits(pooled(teacher)),
            student_logits=self._logits(pooled(student)),
            alpha=self.alpha,
            beta=self.beta,
        )

    def align(self, teacher, student):
        """Returns both features as maps."""
        return as_maps(teacher), as_maps(student)

    def connect(self, ends):
        """Finds the teacher's classifier, makes the connector; see `FeatureLoss.connect`.

        Raises:
            ValueError: If the classifier is not there or does not fit.
        """
        connected = super().connect(ends)
        path = self.teacher_classifier
        layer = find_classifier(ends.teacher_model, path, "teacher")
        if layer is not None:
            connected._teacher_layer = layer
            if ends.teacher is not None:
                check_channels(layer, ends.teacher.shape[-1], path, "teacher")
        return connected

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "teacher_classifier": self.teacher_classifier,
            "alpha": self.alpha,
            "beta": self.beta,
        }

    def _logits(self, feature):
        layer = self._teacher_layer
        logits = ops.matmul(feature, ops.stop_gradient(at_least_float32(layer.kernel)))
        return logits if layer.bias is None else logits + ops.stop_gradient(layer.bias)
