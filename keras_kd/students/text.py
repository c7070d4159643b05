"""A small transformer encoder that becomes integers throughout."""

import keras
from keras import layers

from keras_kd.students import blocks

# Of BERT-Tiny: arXiv:1908.08962, table 1.
_UNITS, _HEADS, _BLOCKS = 128, 2, 2


def text_transformer(
    input_shape,
    classes,
    *,
    vocabulary,
    width=0.5,
    depth=_BLOCKS,
    heads=_HEADS,
    embedding=32,
    dropout=0.1,
    activation="softmax",
    name="text_transformer",
):
    """A transformer encoder of BERT-Tiny's form, made so that int8 leaves no float in it.

    A small embedding, projected to `width * 128` units with a learned vector added for each
    position; blocks of self-attention and of two dense layers (four times the units between them),
    each with a residual connection and a normalization behind; mean over the positions; a dense
    layer. Layers: `embedding`, `positions`, `positions_norm`; of each block `block1_attention`,
    `block1_attention_add`, `block1_attention_norm`, `block1_expand`, `block1_expand_relu`,
    `block1_project`, `block1_add`, `block1_norm`; `pool`, `outputs`.

    It departs from BERT where a device wants it: batch normalization in place of layer
    normalization, as TFLite has no integer layer normalization (MobileBERT, too, drops it for a
    scale and an offset per channel, which is what a batch normalization computes), ReLU in place of
    GELU, and a factorized embedding, as the table is most of a small model. There is no mask:
    padding is a token like others, which training and device see alike.

    Args:
        input_shape: [tokens] of a text, an int or a tuple of one.
        classes: Number of classes.
        vocabulary: Number of tokens; they are integers from 0 below it.
        width: Multiplies the units; 1 is BERT-Tiny.
        depth: Number of blocks.
        heads: Attention heads; they divide the units.
        embedding: Size of a token's entry in the table.
        dropout: Rate behind each attention and each pair of dense layers.
        activation: "softmax", or None for logits.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from int32 [batch, tokens] to [batch, classes].

    Raises:
        ValueError: See the arguments.

    Reference: Turc et al., arXiv:1908.08962, table 1 (BERT-Tiny); Vaswani et al., arXiv:1706.03762,
    section 3; Lan et al., arXiv:1909.11942, section 3.1 (the factorized embedding); Sun et al.,
    arXiv:2004.02984, section 3.3 (normalization and activation for a device).
    """
    size = (input_shape,) if isinstance(input_shape, int) else input_shape
    (tokens,) = blocks.check(size, 1, classes, width, activation)
    units = blocks.scaled(_UNITS, width)
    for what, value in (("vocabulary", vocabulary), ("depth", depth), ("embedding", embedding)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected {what} >= 1, an int. Received: {value!r}")
    if not isinstance(heads, int) or heads < 1 or units % heads:
        raise ValueError(
            f"Expected heads that divide the {units} units of width {width}. Received: {heads!r}"
        )
    inputs = keras.Input((tokens,), dtype="int32", name="inputs")
    x = layers.Embedding(vocabulary, embedding, name="embedding")(inputs)
    # The bias over positions and units is the learned vector of each position.
    x = layers.EinsumDense(
        "btd,de->bte",
        (tokens, units),
        bias_axes="te",
        bias_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        name="positions",
    )(x)
    x = layers.BatchNormalization(name="positions_norm")(x)
    for block in range(1, depth + 1):
        x = _block(x, heads, dropout, f"block{block}")
    return keras.Model(inputs, blocks.head(x, classes, activation), name=name)


def _block(x, heads, dropout, name):
    units = x.shape[-1]
    y = layers.MultiHeadAttention(heads, units // heads, name=f"{name}_attention")(x, x)
    x = _added(x, y, dropout, f"{name}_attention")
    y = layers.Dense(4 * units, name=f"{name}_expand")(x)
    y = layers.ReLU(name=f"{name}_expand_relu")(y)
    y = layers.Dense(units, name=f"{name}_project")(y)
    return _added(x, y, dropout, name)


def _added(x, y, dropout, name):
    if dropout:
        y = layers.Dropout(dropout, name=f"{name}_dropout")(y)
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.BatchNormalization(name=f"{name}_norm")(x)
