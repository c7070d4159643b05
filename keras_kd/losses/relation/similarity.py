"""Similarity-preserving knowledge: which examples of a batch are alike."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.relation.relation_loss import RelationLoss
from keras_kd.losses.relation.rows import flat_rows, share
from keras_kd.numerics import l2_normalize


def sp(*, teacher, student, valid=None):
    """Difference of the row-normalised similarity matrices.

    |n(T T') - n(S S')|_F^2 / N^2, where n divides each row by its length. An example gets its row's
    share times N.

    Args:
        teacher: Shape [batch, ...], flattened to one vector an example; receives no gradient.
        student: Shape [batch, ...], the same; its size may differ.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch].

    Reference: Tung and Mori, arXiv:1907.09682, equations 2 to 4.
    """

    def similarities(tensor):
        rows = flat_rows(tensor, valid)
        return l2_normalize(ops.matmul(rows, ops.transpose(rows)))

    t = similarities(ops.stop_gradient(teacher))
    return share(ops.square(similarities(student) - t), valid)


@registry.method(
    "sp",
    title="Similarity-preserving distillation (SP)",
    kind="relation",
    reference="arXiv:1907.09682",
)
class SimilarityPreserving(RelationLoss):
    """Examples that are alike to the teacher are alike to the student; see `sp`.

    The paper reads the last convolutional block; its weight is 3000.

    Args:
        teacher_layer_name: Layer path in the teacher, or a list of paths; None for its output.
        student_layer_name: As many in the student.
        name: Name in the logs.

    Raises:
        ValueError: See `RelationLoss`.

    Example:
        >>> keras_kd.losses.get("sp", teacher_layer_name="block3", student_layer_name="block2")

    Reference: Tung and Mori, arXiv:1907.09682.
    """

    def compare(self, teacher, student, valid):
        """Returns `sp`."""
        return sp(teacher=teacher, student=student, valid=valid)
