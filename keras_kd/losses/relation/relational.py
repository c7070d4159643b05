"""Relational knowledge: distances between examples, and angles of triples of them."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.relation.relation_loss import RelationLoss, number
from keras_kd.losses.relation.rows import count, differences, flat_rows, lengths, share
from keras_kd.numerics import l2_normalize


def rkd_distance(*, teacher, student, valid=None):
    """Difference of the distances between examples, each over the batch's mean distance.

    mean_ij smooth_l1(|t_i - t_j| / mu_t - |s_i - s_j| / mu_s), mu the mean over i != j; the mean
    over all N^2 pairs, i = j among them, as in the authors' code. An example gets its row's share
    times N. Needs N^2 * features numbers of memory.

    Args:
        teacher: Shape [batch, ...], flattened to one vector an example; receives no gradient.
        student: Shape [batch, ...], the same; its size may differ.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch].

    Reference: Park et al., arXiv:1904.05068, section 3.2.1.
    """

    def relative_distances(tensor):
        rows = flat_rows(tensor, valid)
        distances = lengths(differences(rows))
        # The sum of shares is N times the mean over N^2 pairs, of which N are i = j.
        mean = ops.divide_no_nan(ops.sum(share(distances, valid)), count(rows, valid) - 1.0)
        return ops.divide_no_nan(distances, mean)

    t = relative_distances(ops.stop_gradient(teacher))
    return share(_smooth_l1(relative_distances(student) - t), valid)


def rkd_angle(*, teacher, student, valid=None):
    """Difference of the cosines of the angles that triples of examples make.

    mean_ijk smooth_l1(cos_t(j, i, k) - cos_s(j, i, k)), the angle at i; the mean over all N^3
    triples, those with repeated examples (angle 0) among them, as in the authors' code. An example
    gets its share as the vertex, times N. Needs N^2 * features + N^3 numbers of memory.

    Args:
        teacher: Shape [batch, ...], flattened to one vector an example; receives no gradient.
        student: Shape [batch, ...], the same; its size may differ.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch].

    Reference: Park et al., arXiv:1904.05068, section 3.2.2.
    """

    def cosines(tensor):
        directions = l2_normalize(differences(flat_rows(tensor, valid)))
        return ops.matmul(directions, ops.transpose(directions, (0, 2, 1)))

    t = cosines(ops.stop_gradient(teacher))
    return share(_smooth_l1(cosines(student) - t), valid)


def rkd(*, teacher, student, distance_weight=25.0, angle_weight=50.0, valid=None):
    """Weighted sum of `rkd_distance` and `rkd_angle`.

    Args:
        teacher: Shape [batch, ...], flattened to one vector an example; receives no gradient.
        student: Shape [batch, ...], the same; its size may differ.
        distance_weight: Weight of the distances.
        angle_weight: Weight of the angles.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch].

    Reference: Park et al., arXiv:1904.05068, section 3.2.
    """
    sides = {"teacher": teacher, "student": student, "valid": valid}
    return distance_weight * rkd_distance(**sides) + angle_weight * rkd_angle(**sides)


def _smooth_l1(difference):
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)


@registry.method(
    "rkd",
    title="Relational knowledge distillation (RKD)",
    kind="relation",
    reference="arXiv:1904.05068",
)
class RelationalDistillation(RelationLoss):
    """Distances and angles between the student's examples follow the teacher's; see `rkd`.

    The paper reads the embedding before the classifier. Its weights are inside, so the weight in
    `distillation_loss_weights` is 1.

    Args:
        teacher_layer_name: Layer path in the teacher, or a list of paths; None for its output.
        student_layer_name: As many in the student.
        distance_weight: Weight of the distances, at least 0.
        angle_weight: Weight of the angles, at least 0.
        name: Name in the logs.

    Raises:
        ValueError: If a weight is negative, or both are 0; see `RelationLoss`.

    Example:
        >>> keras_kd.losses.get("rkd", teacher_layer_name="pool", student_layer_name="pool")

    Reference: Park et al., arXiv:1904.05068, section 3.2.
    """

    def __init__(
        self,
        teacher_layer_name=None,
        student_layer_name=None,
        *,
        distance_weight=25.0,
        angle_weight=50.0,
        name=None,
    ):
        super().__init__(teacher_layer_name, student_layer_name, name=name)
        self.distance_weight = number("distance_weight", distance_weight)
        self.angle_weight = number("angle_weight", angle_weight)
        if not distance_weight and not angle_weight:
            raise ValueError(
                "Expected distance_weight or angle_weight above 0. Received: 0 for both."
            )

    def compare(self, teacher, student, valid):
        """Returns `rkd`; a part of weight 0 is not computed."""
        parts = ((self.distance_weight, rkd_distance), (self.angle_weight, rkd_angle))
        values = [
            weight * part(teacher=teacher, student=student, valid=valid)
            for weight, part in parts
            if weight
        ]
        return sum(values[1:], start=values[0])

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "distance_weight": self.distance_weight,
            "angle_weight": self.angle_weight,
        }
