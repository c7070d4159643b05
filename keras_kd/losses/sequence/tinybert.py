"""TinyBERT: attention scores and hidden states layer by layer, then the predictions."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.sequence.hidden import hidden_mse
from keras_kd.losses.sequence.sequence_loss import SequenceLoss
from keras_kd.numerics import at_least_float32, mean_over_positions, tempered_log_softmax
from keras_kd.projectors import check_same_shape

_SCORES_RANK = 4
# Scores up to here are those of keys that may not be looked at.
_EXCLUDED = -100.0


def attention_scores_mse(*, teacher, student, mask=None, position_weight=None):
    """Mean squared difference of attention scores before the softmax.

    mean over heads, queries and keys of (A_s - A_t)^2, where a score of at most -100 counts as 0,
    as in the paper's code: it is that of a key that may not be looked at. With a mask the mean is
    over the pairs of a valid query and a valid key, so that padding does not thin it out.

    Args:
        teacher: A_t, shape [batch, heads, length, length of the keys]; receives no gradient.
        student: A_s, same shape.
        mask: None, or the valid tokens, booleans of shape [batch, length]. For attention of a
            sequence to another one they are the queries alone.
        position_weight: None, or weights of the queries, shape [batch, length].

    Returns:
        Shape [batch].

    Raises:
        ValueError: If the shapes differ.

    Reference: Jiao et al., arXiv:1909.10351, equation 8.
    """
    check_same_shape(student.shape, teacher.shape, "TinyBERT asks for equal numbers of heads.")
    teacher, student = at_least_float32(ops.stop_gradient(teacher)), at_least_float32(student)
    values = ops.square(_allowed(student) - _allowed(teacher))
    everywhere = ops.ones_like(values)
    if mask is not None:
        valid = ops.cast(mask, "bool")
        pairs = ops.cast(valid[:, None, :, None], values.dtype) * everywhere
        if values.shape[2] == values.shape[3]:
            pairs = pairs * ops.cast(valid[:, None, None, :], values.dtype)
        mask = pairs > 0.0
    if position_weight is not None:
        weight = ops.cast(position_weight, values.dtype)
        position_weight = weight[:, None, :, None] * everywhere
    return mean_over_positions(values, mask, position_weight)


def soft_cross_entropy(*, teacher, student, temperature):
    """Cross-entropy to the teacher's probabilities, the mean over the classes, per row.

    -mean over classes of softmax(teacher / T) log softmax(student / T): smaller than the usual sum
    by the number of classes, and without T^2.

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.
        temperature: T > 0, a float or a scalar tensor.

    Returns:
        Shape [batch, ...], in nats over the number of classes.

    Reference: Jiao et al., arXiv:1909.10351, equation 10; the mean is that of the paper's code.
    """
    p = ops.exp(tempered_log_softmax(ops.stop_gradient(teacher), temperature))
    return -ops.mean(p * tempered_log_softmax(student, temperature), axis=-1)


@registry.method(
    "tinybert",
    title="TinyBERT (layers)",
    kind="sequence",
    needs="attention scores and hidden states of each",
    reference="arXiv:1909.10351",
)
class TinyBert(SequenceLoss):
    """TinyBERT's first phase: attention scores and hidden states of layers, pair by pair.

    A feature of shape [batch, heads, length, length], as `"block2/attention:scores"` names it, is
    compared as attention scores; one of shape [batch, length, units] as hidden states, behind a
    linear projection where the sizes differ. The values of all pairs are summed. The paper gives
    each student layer m of M the teacher layer m N / M of N, and pairs the embeddings too.

    Departures: the paper's code has one projection for all hidden states, and one also where the
    sizes are equal; here every pair that needs one has its own. Its mean over scores includes the
    padding as zeros; here padding does not count.

    The second phase, on the predictions, is `TinyBertPrediction`.

    Args:
        teacher_layer_name: Paths in the teacher, usually a list.
        student_layer_name: As many in the student.
        mask_input: Key of the input that is the padding mask; None to go by Keras's masks.
        projector: `"auto"`, None to ask for equal sizes, or a Keras layer of one's own; for several
            pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the lists differ in length; when the distiller is made, if a layer is
            unknown, or lengths or numbers of heads differ.

    Example:
        >>> loss = keras_kd.losses.get(
        ...     "tinybert",
        ...     teacher_layer_name=["embedding", "attention2:scores", "block2"],
        ...     student_layer_name=["embedding", "attention1:scores", "block1"],
        ... )
        >>> phase = keras_kd.Distiller(teacher, student, loss, student_loss_weight=0.0)

    Reference: Jiao et al., arXiv:1909.10351, equations 7 to 9; alone, with weight 1.
    """

    def compare(self, teacher, student, context, index):
        """Returns the loss of each example for one pair, shape [batch]."""
        mask = context.mask(index)
        if len(student.shape) != _SCORES_RANK:
            value = hidden_mse
        else:
            value = attention_scores_mse
            mask = None if mask is None else mask[:, 0, :]  # The same for every head.
        return value(
            teacher=teacher, student=student, mask=mask, position_weight=context.position_weight
        )

    def make_part(self, student_shape, teacher_shape, name):
        """Makes the projection of hidden states; scores have none.

        Raises:
            ValueError: If scores are of another number of heads, or no projector fits.
        """
        if len(student_shape) != _SCORES_RANK:
            return super().make_part(student_shape, teacher_shape, name)
        if len(teacher_shape) != _SCORES_RANK or student_shape[1] != teacher_shape[1]:
            raise ValueError(
                "Expected attention scores of as many heads in the student as in the teacher. "
                f"Received: student {student_shape}, teacher {teacher_shape}. Hint: minilmv2 "
                "compares attention whatever the numbers of heads."
            )
        return None


@registry.method(
    "tinybert_prediction",
    title="TinyBERT (predictions)",
    kind="sequence",
    reference="arXiv:1909.10351",
)
class TinyBertPrediction(LogitsLoss):
    """TinyBERT's second phase: cross-entropy to the teacher's probabilities.

    Args:
        temperature: T > 0, a float or a schedule.
        **options: `output`, `teacher_outputs`, `student_outputs` and `name` as in `LogitsLoss`.

    Raises:
        ValueError: If the temperature is not positive or an option is unknown; when the distiller
            is made, if an output is neither logits nor softmax.

    Example:
        >>> loss = keras_kd.losses.get("tinybert_prediction")
        >>> phase = keras_kd.Distiller(teacher, student, loss, student_loss_weight=0.0)

    Reference: Jiao et al., arXiv:1909.10351, equation 10; alone, with weight 1.
    """

    def __init__(self, *, temperature=1.0, **options):
        super().__init__(temperature=temperature, **options)

    def compare(self, teacher, student, temperature, context):
        """Returns `soft_cross_entropy` at every position."""
        return soft_cross_entropy(teacher=teacher, student=student, temperature=temperature)


def _allowed(scores):
    return ops.where(scores <= _EXCLUDED, ops.zeros_like(scores), scores)
