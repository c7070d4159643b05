"""How a student's embeddings are traced for a device: as one GATHER.

Keras counts negative tokens from the end of the table, which is a LESS, an ADD and a SELECT in
front of the GATHER (Keras 3.15, keras/src/backend/tensorflow/numpy.py, `take`), and TFLite Micro
has no SELECT of int32. A device's tokens are places in the table, 0 and up.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_kd.deploy.recurrent import set_until_closed
from keras_kd.deploy.saved_model import nested_layers


@contextlib.contextmanager
def traced_as_gather(student: keras.Model) -> Iterator[None]:
    """While it is open, the student's `Embedding` layers are traced without negative tokens.

    A layer's `call` is replaced on the instance, so that it works wherever the layer stands. Those
    of subclasses, whose `call` may be another, stay. Each layer is as it was when the context ends,
    however it ends.

    Args:
        student: A built Keras model.
    """
    with contextlib.ExitStack() as given_back:
        for layer in nested_layers(student):
            if type(layer) is keras.layers.Embedding:
                set_until_closed(given_back, layer, "call", functools.partial(_rows, layer))
        yield


def _rows(layer: keras.layers.Embedding, inputs: Any) -> tf.Tensor:
    """What the layer's `call` gives of tokens that are not negative."""
    tokens = tf.convert_to_tensor(inputs)
    if tokens.dtype not in (tf.int32, tf.int64):
        tokens = tf.cast(tokens, tf.int32)
    rows = tf.gather(tf.convert_to_tensor(layer.embeddings), tokens)
    return tf.cast(rows, layer.compute_dtype)
