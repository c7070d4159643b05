"""Contrastive knowledge: an example's two embeddings against those of other examples.

The mathematics with all that the loss remembers as arguments; `contrastive.py` keeps it.
"""

import math

from keras import ops

from keras_kd.losses.relation.rows import count
from keras_kd.numerics import l2_normalize

# Of the authors' code, beside K / n_data.
_EPSILON = 1e-7


def crd(
    *,
    teacher,
    student,
    teacher_bank,
    student_bank,
    contrast_index,
    log_z=None,
    temperature=0.07,
    valid=None,
):
    """Contrastive representation distillation, both directions.

    The student's embedding against the teacher's bank plus the teacher's embedding against the
    student's bank: `noise_contrast` of `contrast_scores`. The teacher's embedding gets a gradient
    too: it is a trained projection of the teacher, which itself the caller keeps from it.

    Args:
        teacher: The teacher's embeddings, shape [batch, dim], of length 1.
        student: The student's embeddings, the same.
        teacher_bank: The embeddings of the teacher that are remembered, shape [n_data, dim].
        student_bank: Those of the student.
        contrast_index: Rows of the banks, integers of shape [batch, 1 + K]: the example's own, then
            K negatives.
        log_z: Shape [2], see `log_normalizer`; None to take it from this batch, as on the first.
        temperature: tau > 0.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch], in nats.

    Reference: Tian et al., arXiv:1910.10699, section 3.1; equation 18 as in the authors' code.
    """
    scores = contrast_scores(
        teacher=teacher,
        student=student,
        teacher_bank=teacher_bank,
        student_bank=student_bank,
        contrast_index=contrast_index,
        temperature=temperature,
    )
    n_data = teacher_bank.shape[0]
    if log_z is None:
        log_z = log_normalizer(scores=scores, n_data=n_data, valid=valid)
    return noise_contrast(scores=scores, log_z=log_z, n_data=n_data, valid=valid)


def contrast_scores(
    *, teacher, student, teacher_bank, student_bank, contrast_index, temperature=0.07
):
    """Similarity of embeddings to what is remembered of the other side, <a, b> / tau.

    Args:
        teacher: The teacher's embeddings, shape [batch, dim], of length 1.
        student: The student's embeddings, the same.
        teacher_bank: Shape [n_data, dim]; receives no gradient.
        student_bank: The same.
        contrast_index: Rows of the banks, integers of shape [batch, 1 + K].
        temperature: tau > 0.

    Returns:
        Shape [2, batch, 1 + K]: the student against the teacher's bank, then the teacher against
        the student's.
    """

    def scores(anchor, bank):
        remembered = ops.take(ops.stop_gradient(bank), contrast_index, axis=0)
        return ops.matmul(remembered, ops.expand_dims(anchor, -1))[..., 0] / temperature

    return ops.stack([scores(student, teacher_bank), scores(teacher, student_bank)])


def log_normalizer(*, scores, n_data, valid=None):
    """Logarithm of the constants Z that make scores probabilities: log(n_data * mean exp(score)).

    Args:
        scores: Shape [2, batch, 1 + K]; receives no gradient.
        n_data: Number of examples in the data.
        valid: None, or which examples count, booleans of shape [batch].

    Returns:
        Shape [2], of the student's and of the teacher's direction; 0 without any example.
    """
    scores = ops.stop_gradient(scores)
    if valid is not None:
        excluded = ops.reshape(ops.logical_not(valid), (1, -1, 1))
        scores = ops.where(excluded, ops.full_like(scores, -math.inf), scores)
    examples = count(scores[0], valid)
    terms = ops.maximum(examples, 1.0) * scores.shape[-1]
    log_z = ops.logsumexp(scores, axis=(1, 2)) - ops.log(terms) + math.log(n_data)
    return ops.where(examples > 0.0, log_z, ops.zeros_like(log_z))


def noise_contrast(*, scores, log_z, n_data, valid=None):
    """Noise-contrastive cross-entropy: the first score is of the data, the others are of noise.

    -log(P / (P + K / n)) for the example's own, -log((K / n) / (P + K / n)) summed over the K
    negatives, P = exp(score) / Z; 1e-7 is added to the denominators as in the authors' code. Summed
    over the two directions; in log space.

    Args:
        scores: Shape [2, batch, 1 + K].
        log_z: Shape [2]; receives no gradient.
        n_data: Number of examples in the data, n.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch], in nats.

    Reference: Tian et al., arXiv:1910.10699, equation 18 as in the authors' code.
    """
    log_p = scores - ops.reshape(ops.stop_gradient(log_z), (2, 1, 1))
    noise = (scores.shape[-1] - 1) / n_data
    log_noise = math.log(noise + _EPSILON)
    own = ops.softplus(log_noise - log_p[:, :, 0])
    others = ops.softplus(log_p[:, :, 1:] - log_noise) + (log_noise - math.log(noise))
    losses = ops.sum(own + ops.sum(others, axis=-1), axis=0)
    return losses if valid is None else ops.where(valid, losses, ops.zeros_like(losses))


def updated_bank(*, bank, embedding, index, momentum=0.5, valid=None):
    """The bank with the rows of a batch moved towards its embeddings, at length 1.

    row <- unit(momentum * row + (1 - momentum) * embedding). Of an example that is twice in the
    batch the last embedding counts, in whatever order the device writes.

    Args:
        bank: Shape [n_data, dim].
        embedding: Shape [batch, dim]; receives no gradient.
        index: The row of each example, integers of shape [batch].
        momentum: What is kept of the row, in [0, 1].
        valid: None, or which examples count, booleans of shape [batch]; others change nothing.

    Returns:
        Shape [n_data, dim].
    """
    old = ops.take(bank, index, axis=0)
    new = l2_normalize(momentum * old + (1.0 - momentum) * ops.stop_gradient(embedding))
    position = ops.expand_dims(ops.arange(ops.shape(index)[0], dtype="int32"), 0)
    same = ops.equal(ops.expand_dims(index, 0), ops.expand_dims(index, 1))
    if valid is not None:
        same = ops.logical_and(same, ops.expand_dims(valid, 0))
    last = ops.max(ops.where(same, position, -1), axis=1)
    rows = ops.take(new, ops.maximum(last, 0), axis=0)
    rows = ops.where(ops.expand_dims(last >= 0, -1), rows, old)
    return ops.scatter_update(bank, ops.expand_dims(index, -1), rows)
