"""Class attention: where in an image each class is seen."""

import copy

from keras import ops

from keras_kd.losses import base, registry
from keras_kd.losses.feature.classifier import check_channels, find_classifier
from keras_kd.losses.feature.maps import as_maps, at_size, check_whole, map_shape, missing
from keras_kd.numerics import at_least_float32, l2_normalize


def catkd(*, teacher, student, resolution=2, normalize=True):
    """Mean squared difference of pooled class activation maps, per example.

    mean (n(pool(student)) - n(pool(teacher)))^2, where pool averages the maps adaptively to
    resolution x resolution and n divides each class's map by its L2 norm.

    Args:
        teacher: Class maps, shape [batch, height, width, classes]; receives no gradient.
        student: As many classes, of any size.
        resolution: Height and width of the pooled maps.
        normalize: Whether maps are normalized.

    Returns:
        Shape [batch].

    Reference: Guo et al., CVPR 2023, "Class Attention Transfer Based Knowledge Distillation";
        reduced as its code does.
    """
    size = (resolution, resolution)
    teacher = at_size(at_least_float32(ops.stop_gradient(teacher)), size)
    student = at_size(at_least_float32(student), size)
    if normalize:
        teacher, student = (l2_normalize(maps, axis=(1, 2)) for maps in (teacher, student))
    return ops.mean(ops.square(student - teacher), axis=(1, 2, 3))


def class_maps(feature, kernel):
    """Class activation maps: at every position, what each class's weights say of the feature.

    Args:
        feature: The last maps, shape [batch, height, width, channels].
        kernel: The classifier's weights, shape [channels, classes].

    Returns:
        Shape [batch, height, width, classes]. Their mean over the positions is the logits without
        bias, for a classifier behind global average pooling.

    Reference: Zhou et al., arXiv:1512.04150.
    """
    return ops.einsum("bhwc,ck->bhwk", at_least_float32(feature), at_least_float32(kernel))


@registry.method(
    "catkd",
    title="Class attention transfer (CAT-KD)",
    kind="feature",
    needs="last maps and classifier of both",
    reference="CVPR 2023, Guo et al.",
)
class CATKD(base.DistillationLoss):
    """The student looks where its teacher looks, class by class: `catkd` of class maps.

    A class map is the last map times the class's weights in the model's classifier, a dense layer
    behind global average pooling. The student's classifier gets a gradient too, the teacher's never
    does; neither is a part of the loss. The paper's weight is 5 to 15.

    Args:
        teacher_layer_name: Layer path of the teacher's last maps.
        student_layer_name: The same in the student; sizes may differ.
        teacher_classifier: Path of the teacher's classifier, a `keras.layers.Dense`.
        student_classifier: The same in the student, with as many classes.
        resolution: Height and width to which class maps are pooled.
        normalize: Whether pooled maps are divided by their L2 norm.
        name: Name in the logs.

    Raises:
        ValueError: If `resolution` is not positive; when the distiller is made, if a layer is
            unknown, a classifier does not take the map's channels, or class counts differ.

    Example:
        >>> keras_kd.losses.get(
        ...     "catkd",
        ...     teacher_layer_name="top",
        ...     student_layer_name="last",
        ...     teacher_classifier="logits",
        ...     student_classifier="logits",
        ... )

    Reference: Guo et al., CVPR 2023.
    """

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        teacher_classifier,
        student_classifier,
        resolution=2,
        normalize=True,
        name=None,
    ):
        if not (isinstance(resolution, int) and resolution > 0):
            raise ValueError(
                f"Expected resolution to be a positive integer. Received: {resolution!r}"
            )
        super().__init__(
            teacher_layer_name=teacher_layer_name,
            student_layer_name=student_layer_name,
            name=name or "catkd",
        )
        self.teacher_classifier = teacher_classifier
        self.student_classifier = student_classifier
        self.resolution = resolution
        self.normalize = normalize
        # Layers of the two models: referred to, never tracked, saved or changed.
        self._teacher_layer = self._student_layer = None

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, shape [batch].

        Raises:
            ValueError: If the loss was not connected to its models.
        """
        check_whole(context, 0, self.name)
        if self._teacher_layer is None or self._student_layer is None:
            raise missing(self.name)
        return catkd(
            teacher=class_maps(as_maps(teacher_outputs), self._teacher_layer.kernel),
            student=class_maps(as_maps(student_outputs), self._student_layer.kernel),
            resolution=self.resolution,
            normalize=self.normalize,
        )

    def connect(self, ends):
        """Finds the classifiers of the two models; see `DistillationLoss.connect`.

        Raises:
            ValueError: If a classifier is not there or does not fit.
        """
        connected = copy.copy(self)
        for role in ("teacher", "student"):
            path, feature = getattr(self, f"{role}_classifier"), getattr(ends, role)
            layer = find_classifier(getattr(ends, f"{role}_model"), path, role)
            if layer is None:
                continue
            setattr(connected, f"_{role}_layer", layer)
            if feature is not None:
                check_channels(layer, map_shape(feature.shape)[-1], path, role)
        layers = connected._teacher_layer, connected._student_layer
        if None not in layers and layers[0].units != layers[1].units:
            raise ValueError(
                "Expected classifiers of as many classes. Received: "
                f"teacher {layers[0].units}, student {layers[1].units}."
            )
        return connected

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "teacher_classifier": self.teacher_classifier,
            "student_classifier": self.student_classifier,
            "resolution": self.resolution,
            "normalize": self.normalize,
        }
