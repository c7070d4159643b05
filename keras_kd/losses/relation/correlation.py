"""Correlation congruence: how strongly pairs of examples correlate."""

import math

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.relation.relation_loss import RelationLoss, number, positive_integer
from keras_kd.losses.relation.rows import count, flat_rows, lengths, share
from keras_kd.numerics import l2_normalize

FORMS = ("squared", "norm")


def cc(*, teacher, student, gamma=0.4, order=2, form="squared", valid=None):
    """Difference of the correlation matrices under a Gaussian kernel's Taylor expansion.

    |K_t - K_s|_F^2 / N^2, K_ij = sum_p exp(-2 gamma) (2 gamma)^p / p! <x_i, x_j>^p for p up to the
    order, of features x of length 1. An example gets its row's share times N. With the form
    "norm" it is |K_t - K_s|_F / N^2, not squared, and every example gets the batch's value.

    Args:
        teacher: Shape [batch, ...], flattened to one vector an example; receives no gradient.
        student: Shape [batch, ...], the same; its size may differ.
        gamma: Inverse width of the kernel, above 0.
        order: Order P of the expansion, at least 1.
        form: `"squared"`, as in the paper, or `"norm"`, as some libraries have it.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch].

    Reference: Peng et al., arXiv:1904.01802, section 3.
    """

    def correlations(tensor):
        rows = l2_normalize(flat_rows(tensor, valid))
        products = ops.matmul(rows, ops.transpose(rows))
        term = total = ops.ones_like(products)
        for p in range(1, order + 1):
            term = term * products * (2.0 * gamma / p)
            total = total + term
        return math.exp(-2.0 * gamma) * total

    difference = correlations(student) - correlations(ops.stop_gradient(teacher))
    if form == "squared":
        return share(ops.square(difference), valid)
    # Excluded examples are zeros on both sides and have no difference.
    norm = lengths(ops.reshape(difference, (-1,)))
    value = ops.divide_no_nan(norm, count(difference, valid) ** 2)
    return share(ops.broadcast_to(value, (ops.shape(difference)[0],)), valid)


@registry.method(
    "cc",
    title="Correlation congruence (CC)",
    kind="relation",
    reference="arXiv:1904.01802",
)
class CorrelationCongruence(RelationLoss):
    """Pairs of the student's examples correlate as the teacher's do; see `cc`.

    The paper reads the embedding before the classifier.

    Args:
        teacher_layer_name: Layer path in the teacher, or a list of paths; None for its output.
        student_layer_name: As many in the student.
        gamma: Inverse width of the Gaussian kernel, above 0.
        order: Order of its Taylor expansion, at least 1.
        form: `"squared"`, as in the paper, or `"norm"`, not squared.
        name: Name in the logs.

    Raises:
        ValueError: If an option is out of range; see `RelationLoss`.

    Example:
        >>> keras_kd.losses.get("cc", teacher_layer_name="pool", student_layer_name="pool")

    Reference: Peng et al., arXiv:1904.01802, section 3.
    """

    def __init__(
        self,
        teacher_layer_name=None,
        student_layer_name=None,
        *,
        gamma=0.4,
        order=2,
        form="squared",
        name=None,
    ):
        super().__init__(teacher_layer_name, student_layer_name, name=name)
        self.gamma = number("gamma", gamma, positive=True)
        self.order = positive_integer("order", order)
        if form not in FORMS:
            raise ValueError(f"Expected form to be one of {FORMS}. Received: {form!r}")
        self.form = form

    def compare(self, teacher, student, valid):
        """Returns `cc`."""
        return cc(
            teacher=teacher,
            student=student,
            gamma=self.gamma,
            order=self.order,
            form=self.form,
            valid=valid,
        )

    def get_config(self):
        """Returns the arguments of the constructor."""
        own = {"gamma": self.gamma, "order": self.order, "form": self.form}
        return {**super().get_config(), **own}
