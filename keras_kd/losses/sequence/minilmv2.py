"""MiniLMv2: how a layer's queries, keys and values relate to one another."""

from keras import ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.sequence.sequence_loss import SequenceLoss
from keras_kd.numerics import at_least_float32, without_padding

_KINDS = ("query", "key", "value")
# In place of the relation to a padded token; far below any that float32 vectors have.
_NEVER = -1e38


def relation_kl(*, teacher, student, relation_heads, mask=None, position_weight=None):
    """KL divergence between self-attention relations of one kind of vectors.

    mean over relation heads a and tokens i of KL(R_t[a, i] || R_s[a, i]), where R[a, i] is the
    softmax over the tokens j of v[a, i] . v[a, j] / sqrt(units of a head). The vectors of a layer's
    own heads are put side by side and split anew into the relation heads, so that the numbers of
    heads, and the sizes, of teacher and student may differ.

    Args:
        teacher: Queries, keys or values, shape [batch, length, units]; receives no gradient.
        student: The same of the student, shape [batch, length, other units].
        relation_heads: Into how many heads the vectors are split; divides both numbers of units.
        mask: None, or the valid tokens, booleans of shape [batch, length]. Each example's mean is
            over its own valid tokens, as in the reference.
        position_weight: None, or weights of the tokens i, shape [batch, length].

    Returns:
        Shape [batch], in nats; 0 for an example without valid tokens.

    Raises:
        ValueError: If `relation_heads` does not divide the units.

    Reference: Wang et al., arXiv:2012.15828, equations 5 to 8.
    """
    teacher = without_padding(at_least_float32(ops.stop_gradient(teacher)), mask)
    student = without_padding(at_least_float32(student), mask)
    log_p = _log_relations(teacher, relation_heads, mask)
    log_q = _log_relations(student, relation_heads, mask)
    divergence = ops.mean(ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1), axis=1)
    valid = ops.ones_like(divergence) if mask is None else ops.cast(mask, divergence.dtype)
    weight = valid
    if position_weight is not None:
        weight = valid * ops.cast(position_weight, valid.dtype)
    return ops.divide_no_nan(ops.sum(divergence * weight, axis=-1), ops.sum(valid, axis=-1))


@registry.method(
    "minilmv2",
    title="MiniLMv2",
    kind="sequence",
    needs="an attention layer of each",
    reference="arXiv:2012.15828",
)
class MiniLMv2(SequenceLoss):
    """MiniLMv2: the relations of queries, of keys and of values in one attention layer.

    Reads `":query"`, `":key"` and `":value"` behind the path of a `keras.layers.MultiHeadAttention`
    (see `keras_kd.attention`); a callable that gives the features of a subclassed model gives them
    under these names, each of shape [batch, length, units]. Sizes and numbers of heads may differ
    and no projector is needed. The paper takes the student's last layer, and of a large teacher one
    that is a few layers below its last.

    Args:
        teacher_layer_name: Path of an attention layer in the teacher.
        student_layer_name: The same in the student.
        relation_heads: Into how many heads the vectors are split; divides the heads' total sizes in
            both models. The paper takes 48 for 768 units and 64 for 1024: more than there are
            attention heads.
        weights: Of the relations of queries, keys and values.
        mask_input: Key of the input that is the padding mask; None to go by Keras's masks.
        name: Name in the logs.

    Raises:
        ValueError: If an option is out of range; when the distiller is made, if a path is no
            attention layer, `relation_heads` does not divide the sizes, or lengths differ.

    Example:
        >>> loss = keras_kd.losses.get(
        ...     "minilmv2",
        ...     teacher_layer_name="block11/attention",
        ...     student_layer_name="block6/attention",
        ... )

    Reference: Wang et al., arXiv:2012.15828, equations 5 to 8; alone, with weight 1.
    """

    match = None

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        relation_heads=48,
        weights=(1 / 3, 1 / 3, 1 / 3),
        mask_input=None,
        name=None,
    ):
        for path in (teacher_layer_name, student_layer_name):
            if not isinstance(path, str):
                raise ValueError(f"Expected the path of one attention layer. Received: {path!r}")
        if isinstance(relation_heads, bool) or not (
            isinstance(relation_heads, int) and relation_heads > 0
        ):
            raise ValueError(
                f"Expected relation_heads to be a positive integer. Received: {relation_heads!r}"
            )
        if len(weights) != len(_KINDS):
            raise ValueError(
                f"Expected weights for the relations of {', '.join(_KINDS)}. Received: {weights!r}"
            )
        super().__init__(
            [f"{teacher_layer_name}:{kind}" for kind in _KINDS],
            [f"{student_layer_name}:{kind}" for kind in _KINDS],
            mask_input=mask_input,
            projector=None,
            name=name or "minilmv2",
        )
        self.attention_layers = (teacher_layer_name, student_layer_name)
        self.relation_heads = relation_heads
        self.weights = tuple(schedules.checked("weights", weight) for weight in weights)

    def compare(self, teacher, student, context, index):
        """Returns the weighted `relation_kl` of one kind of vectors, shape [batch]."""
        values = relation_kl(
            teacher=teacher,
            student=student,
            relation_heads=self.relation_heads,
            mask=context.mask(index),
            position_weight=context.position_weight,
        )
        return schedules.value_at(self.weights[index], context.step) * values

    def connect(self, ends):
        """Checks the sizes; see `DistillationLoss.connect`.

        Raises:
            ValueError: If `relation_heads` does not divide a size, or lengths differ.
        """
        if ends.teacher is not None and ends.student is not None:
            for teacher, student in zip(ends.teacher, ends.student, strict=True):
                for tensor in (teacher, student):
                    _check_divides(self.relation_heads, tensor.shape)
                if None not in (teacher.shape[1], student.shape[1]) and (
                    teacher.shape[1] != student.shape[1]
                ):
                    raise ValueError(
                        "Expected sequences of one length. Received: student "
                        f"{tuple(student.shape)}, teacher {tuple(teacher.shape)}."
                    )
        return super().connect(ends)

    def get_config(self):
        """Returns the arguments of the constructor."""
        teacher, student = self.attention_layers
        return {
            "teacher_layer_name": teacher,
            "student_layer_name": student,
            "relation_heads": self.relation_heads,
            "weights": [schedules.serialize(weight) for weight in self.weights],
            "mask_input": self.mask_input,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        weights = tuple(schedules.deserialize(weight) for weight in config["weights"])
        return cls(**{**config, "weights": weights})


def _log_relations(vectors, heads, mask):
    """Returns the log-relations, shape [batch, relation heads, length, length]."""
    _check_divides(heads, vectors.shape)
    size = vectors.shape[-1] // heads
    split = ops.reshape(vectors, (-1, ops.shape(vectors)[1], heads, size))
    products = ops.einsum("biad,bjad->baij", split / size**0.5, split)
    if mask is not None:
        tokens = ops.cast(mask, "bool")[:, None, None, :]
        products = ops.where(tokens, products, ops.cast(_NEVER, products.dtype))
    return ops.log_softmax(products, axis=-1)


def _check_divides(heads, shape):
    if len(shape) != 3 or shape[-1] is None or shape[-1] % heads:
        raise ValueError(
            f"Expected vectors of shape [batch, length, units] that {heads} relation heads divide. "
            f"Received shape {tuple(shape)}. Hint: relation_heads= divides the units of both."
        )
