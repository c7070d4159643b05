"""Gradients with respect to the inputs, which `keras.ops` has no word for."""

import tensorflow as tf


def input_gradient(function, inputs):
    """Returns the gradient of a sum over a batch with respect to the batch's inputs.

    It can be differentiated again. Where no example's value depends on another example, row i is
    the gradient of value i.

    Args:
        function: From inputs to values of shape [batch].
        inputs: A floating-point tensor, shape [batch, ...].

    Returns:
        The shape of `inputs`; zeros where the values do not depend on them.
    """
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        values = function(inputs)
    return tape.gradient(values, inputs, unconnected_gradients="zero")
