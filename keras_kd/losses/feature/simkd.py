"""The reused classifier: a student whose head is its teacher's."""

import keras
from keras import layers, ops

from keras_kd import heads
from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import FeatureLoss
from keras_kd.losses.feature.maps import (
    as_maps,
    at_size,
    check_whole,
    conv_norm,
    map_shape,
    smaller_size,
)
from keras_kd.numerics import at_least_float32


def simkd(*, teacher, student):
    """Mean squared difference of the last maps, per example.

    mean (student - pool(teacher))^2; where sizes differ, the larger maps are averaged adaptively to
    the smaller, axis by axis.

    Args:
        teacher: Maps, shape [batch, height, width, channels]; receives no gradient.
        student: Projected maps, as many channels.

    Returns:
        Shape [batch].

    Reference: Chen et al., arXiv:2203.14001.
    """
    size = smaller_size(teacher.shape, student.shape)
    teacher = at_size(at_least_float32(ops.stop_gradient(teacher)), size)
    student = at_size(at_least_float32(student), size)
    return ops.mean(ops.square(student - teacher), axis=(1, 2, 3))


@registry.method(
    "simkd",
    title="Reused teacher classifier (SimKD)",
    kind="feature",
    needs="a student of simkd_student",
    reference="arXiv:2203.14001",
)
class SimKD(FeatureLoss):
    """The projected last map follows the teacher's: `simkd`.

    For students that `simkd_student` makes, which answer by the teacher's classifier; the projector
    is a layer of the student there, so this loss has no parts. The paper trains with it alone:
    `student_loss_weight=0.0`.

    Args:
        teacher_layer_name: Layer path of the teacher's last maps.
        student_layer_name: That of the projector in the student.
        name: Name in the logs.

    Raises:
        ValueError: When the distiller is made, if a layer is unknown or channel counts differ.

    Example:
        >>> student = simkd_student(student, teacher, "last", "top")
        >>> keras_kd.Distiller(
        ...     teacher,
        ...     student,
        ...     keras_kd.losses.get("simkd", teacher_layer_name="top"),
        ...     student_loss_weight=0.0,
        ... )

    Reference: Chen et al., arXiv:2203.14001.
    """

    match = None

    def __init__(self, teacher_layer_name, student_layer_name="simkd_projector", *, name=None):
        super().__init__(
            teacher_layer_name, student_layer_name, projector=None, name=name or "simkd"
        )

    def compare(self, teacher, student, context, index):
        """Returns the loss of each example for one pair of layers, shape [batch]."""
        check_whole(context, index, self.name)
        return simkd(teacher=as_maps(teacher), student=as_maps(student))

    def connect(self, ends):
        """Checks that the maps can be compared; see `DistillationLoss.connect`.

        Raises:
            ValueError: If they differ in channels, or a size is not fixed.
        """
        if ends.teacher is not None and ends.student is not None:
            sides = self._sides(ends.teacher), self._sides(ends.student)
            for teacher, student in zip(*sides, strict=True):
                shapes = map_shape(teacher.shape), map_shape(student.shape)
                if shapes[0][-1] != shapes[1][-1]:
                    raise ValueError(
                        f"Expected maps with the teacher's {shapes[0][-1]} channels. Received "
                        f"{shapes[1][-1]}. Hint: keras_kd.losses.feature.simkd_student gives the "
                        "student a projector, which student_layer_name then names."
                    )
        return super().connect(ends)

    def get_config(self):
        """Returns the arguments of the constructor."""
        config = super().get_config()
        del config["projector"]
        return config

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        return cls(**config)


def simkd_student(
    student,
    teacher,
    student_layer_name,
    teacher_layer_name,
    *,
    factor=2,
    projector_name="simkd_projector",
    name=None,
):
    """Makes the student of SimKD: its body, a projector, and the teacher's classifier.

    outputs = classifier(projector(body(x))), where the body is the student's own layers up to
    `student_layer_name`, shared with `student`, and the classifier is a frozen copy of all that
    follows `teacher_layer_name` in the teacher. Body and projector are trained. It is a plain
    functional model, to be saved and converted like any other.

    The projector is the paper's bottleneck of convolutions 1x1, 3x3, 1x1 with batch normalization
    and ReLU; in front of it maps that are a whole number of times larger than the teacher's are
    average-pooled. Smaller maps stay as they are: the teacher's are pooled in the loss.

    Args:
        student: A built Functional or Sequential model with one output. It keeps its own head, and
            is not changed.
        teacher: A built Functional or Sequential model with one output. It is not changed.
        student_layer_name: Name of the layer of the student that gives its last maps, shape
            [batch, height, width, channels]; for maps of a nested model, that model's name.
        teacher_layer_name: The same in the teacher.
        factor: How much narrower the projector is than the teacher's maps.
        projector_name: Name of the projector, for `SimKD`.
        name: Name of the model; None for the student's.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If a model has no graph, a layer is unknown or gives no maps, the student's size
            is no multiple of a smaller size of the teacher's, or the teacher's classifier does not
            take the maps.

    Example:
        >>> student = simkd_student(student, teacher, "last", "top")

    Reference: Chen et al., arXiv:2203.14001.2 and figure 2; the projector is its code's.
    """
    if not (isinstance(factor, int) and factor > 0):
        raise ValueError(f"Expected factor to be a positive integer. Received: {factor!r}")
    for role, model in (("student", student), ("teacher", teacher)):
        _check_graph(model, role)
    body = _output_of(student, student_layer_name, "student")
    # All that follows is made of a copy: a graph that begins in the middle of the teacher's own
    # would leave nodes on its layers.
    copied = keras.models.clone_model(teacher)
    copied.set_weights(teacher.get_weights())
    top = _output_of(copied, teacher_layer_name, "teacher")
    projector = _projector(tuple(body.shape), tuple(top.shape), factor, projector_name)
    projected = projector(body)
    classifier = _classifier(keras.Model(top, copied.outputs[0]), tuple(projected.shape))
    sequential = isinstance(student, keras.Sequential)
    inputs = student.inputs[0] if sequential else student.input
    return keras.Model(inputs, classifier(projected), name=name or student.name)


def _check_graph(model, role):
    known = heads.is_functional(model) or isinstance(model, keras.Sequential)
    if not known or heads.symbolic_outputs(model) is None or len(model.outputs) != 1:
        raise ValueError(
            f"Expected a built Functional or Sequential {role} with one output. Received: "
            f"'{model.name}', a {type(model).__name__}. Hint: build it, or write its graph as "
            "keras.Model(inputs, outputs)."
        )


def _output_of(model, name, role):
    """Returns the symbolic maps that a layer gives in the graph of a model."""
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise ValueError(
            f"Expected a layer of {role} '{model.name}', not inside a nested model. Received: "
            f"'{name}'. Hint: its layers are {', '.join(names)}."
        )
    # What a nested model calls its output is in its own graph; what any operation does is not.
    tensor = keras.Operation.output.fget(model.get_layer(name))
    if keras.tree.is_nested(tensor) or len(tensor.shape) != 4 or None in tensor.shape[1:]:
        raise ValueError(
            f"Expected '{name}' of {role} '{model.name}' to give maps [batch, height, width, "
            f"channels] of a fixed size. Received: {tensor}."
        )
    return tensor


def _projector(student_shape, teacher_shape, factor, name):
    steps, channels = [], teacher_shape[-1]
    size = smaller_size(teacher_shape, student_shape)
    windows = tuple(old // new for old, new in zip(student_shape[1:3], size, strict=True))
    if tuple(w * n for w, n in zip(windows, size, strict=True)) != student_shape[1:3]:
        raise ValueError(
            "Expected maps of the student of at most the teacher's size, or a whole number of "
            f"times larger. Received: student {student_shape}, teacher {teacher_shape}. Hint: name "
            "another layer of the student."
        )
    if windows != (1, 1):
        steps.append(layers.AveragePooling2D(windows))
    narrow = max(1, channels // factor)
    steps += [*conv_norm(narrow), *conv_norm(narrow, 3), *conv_norm(channels)]
    return keras.Sequential(steps, name=name)


def _classifier(tail, shape):
    """Returns a frozen copy of a teacher's tail, for maps of `shape`."""
    try:
        classifier = keras.models.clone_model(tail, input_tensors=keras.Input(shape[1:]))
    except ValueError as err:
        raise ValueError(
            f"Expected a classifier of the teacher that takes maps of shape {shape}. Received one "
            f"for {tuple(tail.inputs[0].shape)}. Hint: it should begin with a global pooling."
        ) from err
    if [tuple(w.shape) for w in classifier.weights] != [tuple(w.shape) for w in tail.weights]:
        raise ValueError(
            f"Expected a classifier of the teacher that takes maps of shape {shape}. Received one "
            f"for {tuple(tail.inputs[0].shape)}. Hint: it should begin with a global pooling."
        )
    classifier.set_weights(tail.get_weights())
    classifier.trainable = False
    return classifier
