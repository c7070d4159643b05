"""The networks on pictures that the benchmarks train."""

from __future__ import annotations

import keras

CLASSES = 10


def network(name: str, image_size: int, width: int, *, depth: int, separable: bool) -> keras.Model:
    """Three blocks of `depth` convolutions with BatchNormalization; their ends are named.

    They are "block1" and so on, with "block1_norm" before the ReLU; then "pool" and "logits".
    """
    inputs = x = keras.Input((image_size, image_size, 3))
    for block in range(3):
        for index in range(depth):
            channels, strides = width * 2**block, 2 if block > 0 and index == 0 else 1
            end = f"block{block + 1}" if index == depth - 1 else None
            if separable and (block, index) != (0, 0):
                depthwise = keras.layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)
                x = normalized_relu(depthwise(x))
                x = keras.layers.Conv2D(channels, 1, use_bias=False)(x)
            else:
                x = keras.layers.Conv2D(channels, 3, strides, padding="same", use_bias=False)(x)
            x = normalized_relu(x, end)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def normalized_relu(x: keras.KerasTensor, name: str | None = None) -> keras.KerasTensor:
    """BatchNormalization and ReLU; the latter may have a name."""
    norm = keras.layers.BatchNormalization(name=name and f"{name}_norm")
    return keras.layers.ReLU(name=name)(norm(x))
