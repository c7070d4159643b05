"""Probabilistic knowledge: how likely each example is to be the neighbour of another."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.relation.relation_loss import RelationLoss, number
from keras_kd.losses.relation.rows import among_valid, flat_rows, lengths, share


def pkt(*, teacher, student, epsilon=1e-7, valid=None):
    """Divergence of the probabilities that examples are neighbours, under the cosine kernel.

    mean_ij q_t log((q_t + eps) / (q_s + eps)), q_ij = k_ij / sum_j k_ij, k = (cos + 1) / 2; the
    mean over N^2 pairs, as in the authors' code. An example gets its row's share times N; with the
    epsilons it may be below 0 by about as much.

    Args:
        teacher: Shape [batch, ...], flattened to one vector an example; receives no gradient.
        student: Shape [batch, ...], the same; its size may differ.
        epsilon: Added to lengths and to probabilities, above 0.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch], in nats.

    Reference: Passalis and Tefas, arXiv:1803.10837, section 3.
    """

    def neighbours(tensor):
        rows = flat_rows(tensor, valid)
        norms = ops.expand_dims(lengths(rows), -1)
        rows = ops.where(norms > 0.0, rows / (norms + epsilon), ops.zeros_like(rows))
        # Rounding may leave the cosine of opposite vectors below -1.
        kernel = ops.maximum((ops.matmul(rows, ops.transpose(rows)) + 1.0) / 2.0, 0.0)
        kernel = among_valid(kernel, valid)
        return ops.divide_no_nan(kernel, ops.sum(kernel, axis=-1, keepdims=True))

    t, s = neighbours(ops.stop_gradient(teacher)), neighbours(student)
    return share(t * (ops.log(t + epsilon) - ops.log(s + epsilon)), valid)


@registry.method(
    "pkt",
    title="Probabilistic knowledge transfer (PKT)",
    kind="relation",
    reference="arXiv:1803.10837",
)
class ProbabilisticKnowledgeTransfer(RelationLoss):
    """The student's examples have the neighbours that the teacher's have; see `pkt`.

    The paper reads the embedding before the classifier; its weight is 3e4 on this mean.

    Args:
        teacher_layer_name: Layer path in the teacher, or a list of paths; None for its output.
        student_layer_name: As many in the student.
        epsilon: Added to lengths and to probabilities, above 0.
        name: Name in the logs.

    Raises:
        ValueError: If epsilon is not above 0; see `RelationLoss`.

    Example:
        >>> keras_kd.losses.get("pkt", teacher_layer_name="pool", student_layer_name="pool")

    Reference: Passalis and Tefas, arXiv:1803.10837.
    """

    def __init__(
        self, teacher_layer_name=None, student_layer_name=None, *, epsilon=1e-7, name=None
    ):
        super().__init__(teacher_layer_name, student_layer_name, name=name)
        self.epsilon = number("epsilon", epsilon, positive=True)

    def compare(self, teacher, student, valid):
        """Returns `pkt`."""
        return pkt(teacher=teacher, student=student, epsilon=self.epsilon, valid=valid)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "epsilon": self.epsilon}
