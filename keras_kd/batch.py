"""A batch as a step takes it: what the models are fed, and what else the losses may know."""

import keras
from keras import ops

from keras_kd.data import split_index, split_stored
from keras_kd.losses import Context


def context_of(x, y, sample_weight, *, step, training):
    """Returns the inputs of the models, and the `Context` of a batch.

    Args:
        x: The inputs, with the examples' numbers and stored answers where the data has them.
        y: The labels; None without any.
        sample_weight: None, or weights of shape [batch] or [batch, ...positions].
        step: The number of the step, an integer scalar; None before there is an optimizer.
        training: Whether the student is trained on the batch.

    Raises:
        ValueError: If the sample weights are several arrays.
    """
    x, answers = split_stored(x)
    x, index = split_index(x)
    if index is not None:
        # In Keras's symbolic pass over a distributed batch they come as floats.
        index = ops.cast(index, "int64")
    example_weight, position_weight = _split_sample_weight(sample_weight)
    context = Context(
        step=step,
        labels=y,
        sample_weight=sample_weight,
        example_weight=example_weight,
        position_weight=position_weight,
        inputs=x,
        index=index,
        answers=answers,
        training=training,
    )
    return x, context


def examples_in(batch):
    """Returns how many examples a batch of inputs or outputs has, an integer scalar."""
    return ops.shape(keras.tree.flatten(batch)[0])[0]


def _split_sample_weight(sample_weight):
    """Returns (weights of shape [batch], weights of shape [batch, ...positions]); one is None."""
    if sample_weight is None:
        return None, None
    if keras.tree.is_nested(sample_weight):
        raise ValueError(
            "Expected one array of sample weights, shape [batch]. Received a structure of them. "
            "Hint: distillation losses weigh examples, not outputs."
        )
    shape = sample_weight.shape
    if len(shape) == 2 and shape[-1] == 1:
        return ops.squeeze(sample_weight, -1), None
    return (sample_weight, None) if len(shape) == 1 else (None, sample_weight)
