"""Instance relationship graph: examples, distances between them, and how layers change them."""

import copy

import keras
from keras import ops

from keras_kd import heads
from keras_kd.losses import base, registry
from keras_kd.losses.relation.relation_loss import number, unpadded
from keras_kd.losses.relation.rows import among_valid, flat_rows, share, squared_distances
from keras_kd.numerics import adaptive_average_pool, at_least_float32
from keras_kd.projectors import check_same_shape


def irg(
    *,
    teacher,
    student,
    vertex_weight=0.1,
    edge_weight=5.0,
    transform_weight=5.0,
    valid=None,
):
    """Difference of the instance relationship graphs of two models.

    vertex_weight * mean (t - s)^2 of the logits, + edge_weight * mean over two layers and an
    embedding of the mean over N^2 pairs of (E_t - E_s)^2, + transform_weight * mean (R_t - R_s)^2,
    where E are the squared distances between examples over the batch's largest, and R the squared
    distances between an example's two maps over the batch's largest: the first map pooled to the
    size of the second, neighbouring channels of the second averaged to the number of the first. An
    example gets its share of each mean, times N.

    Args:
        teacher: (first map, second map, embedding, logits). Maps of shape [batch, ...positions,
            channels], the second with as many channels as the first or a multiple, and no larger;
            the embedding of shape [batch, ...], flattened; logits [batch, classes]. Receives no
            gradient.
        student: The same; only the logits need the teacher's shape.
        vertex_weight: Weight of the logits.
        edge_weight: Weight of the distances between examples.
        transform_weight: Weight of the distances between layers.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch].

    Reference: Liu et al., Knowledge distillation via instance relationship graph, CVPR 2019.
    """
    teacher = [ops.stop_gradient(at_least_float32(tensor)) for tensor in teacher]
    student = [at_least_float32(tensor) for tensor in student]
    check_same_shape(student[3].shape, teacher[3].shape, "the logits are compared as they are.")
    logits = [flat_rows(side[3], valid) for side in (teacher, student)]
    vertices = ops.mean(ops.square(logits[1] - logits[0]), axis=-1)
    edges = sum(
        share(ops.square(_edges(s, valid) - _edges(t, valid)), valid)
        for t, s in zip(teacher[:3], student[:3], strict=True)
    )
    difference = _transformation(*student[:2], valid) - _transformation(*teacher[:2], valid)
    return (
        vertex_weight * share(vertices, valid)
        + edge_weight / 3.0 * edges
        + transform_weight * share(ops.square(difference), valid)
    )


def _edges(feature, valid):
    """Returns the squared distances between examples, at most 1; shape [batch, batch]."""
    return _over_largest(squared_distances(flat_rows(feature, valid), valid), valid)


def _transformation(first, second, valid):
    """Returns the squared distances between an example's two maps, at most 1; shape [batch]."""
    if first.shape[1:-1] != second.shape[1:-1]:
        first = adaptive_average_pool(first, second.shape[1:-1])
    channels = first.shape[-1]
    if channels != second.shape[-1]:
        grouped = (-1, *second.shape[1:-1], channels, second.shape[-1] // channels)
        second = ops.mean(ops.reshape(second, grouped), axis=-1)
    change = flat_rows(first, valid) - flat_rows(second, valid)
    return _over_largest(ops.sum(ops.square(change), axis=-1), valid)


def _over_largest(distances, valid):
    distances = among_valid(distances, valid)
    return ops.divide_no_nan(distances, ops.max(distances, initial=0.0))


@registry.method(
    "irg",
    title="Instance relationship graph (IRG)",
    kind="relation",
    needs="three layers: two maps and an embedding",
    reference="CVPR 2019, Liu et al.",
)
class InstanceRelationshipGraph(base.DistillationLoss):
    """Logits, distances between examples, and changes between layers; see `irg`.

    The weights are inside, so the weight in `distillation_loss_weights` is 1. Where one of the
    models ends in softmax, log-probabilities stand for the logits on both sides. Padded positions
    count as zeros. Examples of sample weight 0 are left out of the graph.

    Args:
        teacher_layer_name: Three layer paths in the teacher: a map, a later map of the same size or
            a smaller one with as many channels or a multiple, and an embedding.
        student_layer_name: The same in the student.
        vertex_weight: Weight of the logits, at least 0.
        edge_weight: Weight of the distances between examples, at least 0.
        transform_weight: Weight of the changes between layers, at least 0.
        output: For models with several outputs the key or index of the logits.
        name: Name in the logs.

    Raises:
        ValueError: If it is not three layers or a weight is negative; when the distiller is made,
            if two maps cannot be compared or a model ends in neither logits nor softmax.

    Example:
        >>> layers = ["block2", "block3", "pool"]
        >>> keras_kd.losses.get("irg", teacher_layer_name=layers, student_layer_name=layers)

    Reference: Liu et al., Knowledge distillation via instance relationship graph, CVPR 2019.
    """

    batch_level = True
    leaves_out = True

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        vertex_weight=0.1,
        edge_weight=5.0,
        transform_weight=5.0,
        output=None,
        name=None,
    ):
        super().__init__(
            teacher_layer_name=teacher_layer_name, student_layer_name=student_layer_name, name=name
        )
        for role, paths in (("teacher", teacher_layer_name), ("student", student_layer_name)):
            if not isinstance(paths, list | tuple) or len(paths) != 3:
                raise ValueError(
                    f"Expected {role}_layer_name to be three layers: two maps and an embedding. "
                    f"Received: {paths!r}"
                )
        self.vertex_weight = number("vertex_weight", vertex_weight)
        self.edge_weight = number("edge_weight", edge_weight)
        self.transform_weight = number("transform_weight", transform_weight)
        self.output = output
        self._activations = {"teacher": heads.LINEAR, "student": heads.LINEAR}

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, shape [batch].

        Raises:
            ValueError: If the logits are not known, as outside of `keras_kd.Distiller`, or differ
                in shape.
        """
        if context.teacher_outputs is None or context.student_outputs is None:
            raise ValueError(
                f"Expected '{self.name}' in a keras_kd.Distiller, which gives it the logits beside "
                "the layers. Received: no outputs of the models."
            )
        masks = [context.mask(index) for index in range(3)]
        teacher, student = (
            [unpadded(tensor, mask) for tensor, mask in zip(side, masks, strict=True)]
            for side in (teacher_outputs, student_outputs)
        )
        return irg(
            teacher=(*teacher, self._logits("teacher", context.teacher_outputs)),
            student=(*student, self._logits("student", context.student_outputs)),
            vertex_weight=self.vertex_weight,
            edge_weight=self.edge_weight,
            transform_weight=self.transform_weight,
            valid=context.valid,
        )

    def connect(self, ends):
        """Looks at maps and heads; see `DistillationLoss.connect`.

        Raises:
            ValueError: If two maps cannot be compared, or a model ends in neither logits nor
                softmax.
        """
        for role, side in (("teacher", ends.teacher), ("student", ends.student)):
            if side is not None:
                _check_maps(role, *(tuple(tensor.shape) for tensor in side[:2]))
        connected = copy.copy(self)
        connected._activations = {
            "teacher": self._activation("teacher", ends.teacher_activations),
            "student": self._activation("student", ends.student_activations),
        }
        return connected

    def get_config(self):
        """Returns the arguments of the constructor."""
        names = ("vertex_weight", "edge_weight", "transform_weight", "output")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _activation(self, role, activations):
        if activations is None:
            return heads.LINEAR
        found = self._pick(role, activations)
        if found not in (heads.LINEAR, heads.SOFTMAX):
            raise ValueError(
                f"Expected a {role} that ends in logits or softmax. Received: one that ends in "
                f"{found}."
            )
        return found

    def _pick(self, role, structure):
        if self.output is not None:
            return structure[self.output]
        if keras.tree.is_nested(structure):
            raise ValueError(
                f"Expected output= to say which output holds the logits: the {role} has several."
            )
        return structure

    def _logits(self, role, outputs):
        logits = heads.logits(self._pick(role, outputs), self._activations[role])
        # The logits behind a softmax are known up to a constant only.
        return ops.log_softmax(logits) if heads.SOFTMAX in self._activations.values() else logits


def _check_maps(role, first, second):
    """Refuses two layers of which the first cannot be brought to the form of the second."""
    sizes = list(zip(first[1:], second[1:], strict=False))
    if len(first) == len(second) and not any(None in pair for pair in sizes):
        *positions, channels = sizes
        if all(a >= b for a, b in positions) and channels[1] % channels[0] == 0:
            return
    raise ValueError(
        f"Expected two layers of the {role} of fixed sizes, the second no larger and with as many "
        f"channels or a multiple. Received shapes {first} and {second}."
    )
