"""Small students of every kind that `support_table.py` converts, and examples for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

EXAMPLES = 60
IMAGE, SEQUENCE = (12, 12, 3), (10, 6)
layers = keras.layers

Layers = Callable[[Any], Any]


def images(rng: np.random.Generator) -> Any:
    """Noise of unit size, shape [EXAMPLES, *IMAGE]."""
    return rng.normal(size=(EXAMPLES, *IMAGE)).astype("float32")


def photos(rng: np.random.Generator) -> Any:
    """Numbers as a camera gives them, 0 to 255."""
    return rng.integers(0, 256, (EXAMPLES, *IMAGE)).astype("float32")


def sequences(rng: np.random.Generator) -> Any:
    """Noise of unit size, shape [EXAMPLES, *SEQUENCE]."""
    return rng.normal(size=(EXAMPLES, *SEQUENCE)).astype("float32")


def volumes(rng: np.random.Generator) -> Any:
    """Noise in three dimensions and two channels."""
    return rng.normal(size=(EXAMPLES, 6, 6, 6, 2)).astype("float32")


def tokens(rng: np.random.Generator) -> Any:
    """Numbers of twenty words."""
    return rng.integers(0, 20, (EXAMPLES, 10))


def pairs(rng: np.random.Generator) -> Any:
    """An image and a sequence."""
    return {"image": images(rng), "sequence": sequences(rng)}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of student.

    Attributes:
        name: What the table calls it.
        make: Builds it.
        examples: Makes inputs for it.
    """

    name: str
    make: Callable[[], keras.Model]
    examples: Callable[[np.random.Generator], Any] = images


def on(shape: tuple[int, ...], body: Layers) -> Callable[[], keras.Model]:
    """A functional model of these layers and three outputs."""

    def make() -> keras.Model:
        inputs = keras.Input(shape)
        x = body(inputs)
        return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))

    return make


def on_images(*stack: Callable[[], keras.Layer]) -> Callable[[], keras.Model]:
    """A convolution, the layers, and three outputs."""

    def body(x: Any) -> Any:
        x = layers.Conv2D(8, 3)(x)
        for layer in stack:
            x = layer()(x)
        return layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(x))

    return on(IMAGE, body)


def on_sequences(*stack: Callable[[], keras.Layer]) -> Callable[[], keras.Model]:
    """The layers on a sequence, and three outputs."""

    def body(x: Any) -> Any:
        for layer in stack:
            x = layer()(x)
        return x

    return on(SEQUENCE, body)


def sequential() -> keras.Model:
    """Dense layers one behind the other."""
    return keras.Sequential(
        [keras.Input(IMAGE), layers.Flatten(), layers.Dense(32, "relu"), layers.Dense(3, "softmax")]
    )


class Subclassed(keras.Model):
    """Layers as attributes, and a `call`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = layers.Conv2D(8, 3, activation="relu")
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(3)

    def call(self, x: Any) -> Any:
        """Logits of a batch of images."""
        return self.head(self.pool(self.features(x)))


def subclassed() -> keras.Model:
    """A subclassed model that has been called once."""
    model = Subclassed()
    model(np.zeros((1, *IMAGE), "float32"))
    return model


def several() -> keras.Model:
    """Two inputs and two outputs, by name."""
    image, sequence = keras.Input(IMAGE, name="image"), keras.Input(SEQUENCE, name="sequence")
    seen = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(image))
    heard = layers.Flatten()(layers.Conv1D(4, 3, activation="relu")(sequence))
    joined = layers.Concatenate()([seen, heard])
    return keras.Model(
        [image, sequence], {"a": layers.Dense(3)(joined), "b": layers.Dense(2)(seen)}
    )


def folded() -> keras.Model:
    """Convolution, BatchNormalization and ReLU, with statistics that are not 0 and 1."""
    model = on_images(lambda: layers.BatchNormalization(momentum=0.0), layers.ReLU)()
    model(images(np.random.default_rng(2)), training=True)
    return model


def attention(x: Any) -> Any:
    """Attention of a sequence to itself."""
    return layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])


def embedded() -> keras.Model:
    """Words to vectors to their mean."""
    inputs = keras.Input((10,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(20, 8)(inputs))
    return keras.Model(inputs, layers.Dense(3)(x))


def mixed() -> keras.Model:
    """Computes in float16 on a GPU."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return on_images(layers.ReLU)()
    finally:
        keras.config.set_dtype_policy(policy)


def stateful() -> keras.Model:
    """Goes on where the last call ended."""
    inputs = keras.Input(batch_shape=(1, *SEQUENCE))
    return keras.Model(inputs, layers.Dense(3)(layers.LSTM(8, stateful=True)(inputs)))


ARCHITECTURES = (
    Architecture("Conv2D, BatchNormalization, ReLU; functional", folded),
    Architecture("Dense; Sequential", sequential),
    Architecture("subclassed, built", subclassed),
    Architecture("several inputs and outputs", several, pairs),
    Architecture(
        "DepthwiseConv2D, SeparableConv2D",
        on_images(lambda: layers.DepthwiseConv2D(3), lambda: layers.SeparableConv2D(8, 3)),
    ),
    Architecture("Conv2D, grouped", on_images(lambda: layers.Conv2D(8, 3, groups=4))),
    Architecture("Conv2D, dilated", on_images(lambda: layers.Conv2D(8, 3, dilation_rate=2))),
    Architecture("Conv2DTranspose", on_images(lambda: layers.Conv2DTranspose(8, 3, strides=2))),
    Architecture("Conv1D", on_sequences(lambda: layers.Conv1D(8, 3, activation="relu")), sequences),
    Architecture("Conv3D", on((6, 6, 6, 2), lambda x: layers.Conv3D(4, 3)(x)), volumes),
    Architecture(
        "ReLU6, sigmoid, tanh",
        on_images(
            lambda: layers.ReLU(6.0),
            lambda: layers.Activation("sigmoid"),
            lambda: layers.Activation("tanh"),
        ),
    ),
    Architecture("swish", on_images(lambda: layers.Activation("swish"))),
    Architecture("hard_swish", on_images(lambda: layers.Activation("hard_swish"))),
    Architecture("GELU", on_images(lambda: layers.Activation("gelu"))),
    Architecture("LeakyReLU", on_images(layers.LeakyReLU)),
    Architecture("PReLU", on_images(lambda: layers.PReLU(alpha_initializer="random_normal"))),
    Architecture(
        "Rescaling",
        on(IMAGE, lambda x: layers.Conv2D(4, 3)(layers.Rescaling(1 / 127.5, -1.0)(x))),
        photos,
    ),
    Architecture("Resizing", on_images(lambda: layers.Resizing(6, 6))),
    Architecture("UpSampling2D", on_images(layers.UpSampling2D)),
    Architecture("RandomFlip, Dropout", on_images(layers.RandomFlip, lambda: layers.Dropout(0.5))),
    Architecture("LSTM", on_sequences(lambda: layers.LSTM(8)), sequences),
    Architecture("LSTM, unroll=True", on_sequences(lambda: layers.LSTM(8, unroll=True)), sequences),
    Architecture(
        "LSTM, Bidirectional",
        on_sequences(lambda: layers.Bidirectional(layers.LSTM(8, return_sequences=True))),
        sequences,
    ),
    Architecture("LSTM, masked", on_sequences(layers.Masking, lambda: layers.LSTM(8)), sequences),
    Architecture("LSTM, stateful", stateful, sequences),
    Architecture("GRU", on_sequences(lambda: layers.GRU(8)), sequences),
    Architecture("GRU, unroll=True", on_sequences(lambda: layers.GRU(8, unroll=True)), sequences),
    Architecture("Embedding", embedded, tokens),
    Architecture("LayerNormalization", on_sequences(layers.LayerNormalization), sequences),
    Architecture("RMSNormalization", on_sequences(layers.RMSNormalization), sequences),
    Architecture("GroupNormalization", on_images(lambda: layers.GroupNormalization(2))),
    Architecture("MultiHeadAttention", on(SEQUENCE, attention), sequences),
    Architecture("mixed_float16", mixed),
    Architecture("subclassed, not built", Subclassed),
)
