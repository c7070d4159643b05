"""Tiny transformer encoders on token numbers, for the tests of what is read and lost in them."""

import keras
import numpy as np
from keras import layers

from tests.models import wide

VOCABULARY = 11
LENGTH = 6
# On average five of six, of the first five as of all eight.
LENGTHS = (4, 6, 5, 4, 6, 5, 4, 6)


def blocks(x, count, units, heads):
    """Attention with a residual connection and a normalization, `count` times."""
    for number in range(1, count + 1):
        attended = layers.MultiHeadAttention(heads, units // heads, name=f"attention{number}")(x, x)
        x = layers.Add(name=f"add{number}")([x, attended])
        x = layers.LayerNormalization(name=f"block{number}")(x)
    return x


def encoder(name, *, count=2, units=8, heads=2, mask_zero=True, classes=None):
    """An encoder that says for each token which it is, or of which class all of them are.

    The layers: embedding, then attention1, add1, block1 and so on, then outputs. Number 0 is
    padding.

    Args:
        name: Name of the model.
        count: Number of blocks.
        units: Size of a token's vector.
        heads: Attention heads.
        mask_zero: Whether Keras's masks tell of the padding.
        classes: Number of classes of a whole sequence; None to answer for each token.
    """
    inputs = keras.Input((LENGTH,), dtype="int32", name="tokens")
    embedding = layers.Embedding(VOCABULARY, units, wide(), mask_zero=mask_zero, name="embedding")
    x = blocks(embedding(inputs), count, units, heads)
    if classes is not None:
        x = layers.GlobalAveragePooling1D(name="pool")(x)
    head = layers.Dense(classes or VOCABULARY, kernel_initializer=wide(), name="outputs")
    return keras.Model(inputs, head(x), name=name)


def tokens(lengths=LENGTHS, seed=0):
    """Returns (token numbers with padding behind them, the same as labels)."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, VOCABULARY, size=(len(lengths), LENGTH)).astype("int32")
    x[np.arange(LENGTH) >= np.array(lengths)[:, None]] = 0
    return x, x.copy()


def valid(x):
    """Returns which tokens are no padding."""
    return x != 0
