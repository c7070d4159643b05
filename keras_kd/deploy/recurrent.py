"""How a student's recurrent layers are traced for a device: as one fused op, unrolled or as a loop.

TFLite has one recurrent op that its quantizer knows, UNIDIRECTIONAL_SEQUENCE_LSTM. The converter
makes it of a function that is marked as Keras 2's LSTM marked its own: its attribute
`api_implements` starts with "lstm_", its arguments are inputs, hidden state, cell state, kernel,
recurrent kernel and bias, and of its five results only the last output and the sequence are used.
Keras 3 sets no such mark, and its LSTM becomes a WHILE loop, on which calibration for full int8
ends the converter's process with a SIGSEGV. So the mark is set here, while the student is traced.

The fused op keeps its state from one run to the next until the runtime resets it, which the
interpreters of LiteRT and TFLite Micro do when they are told to, and LiteRT's CompiledModel has no
call for. So it is taken for full int8 alone, and `unroll=True` does without it there too. What
cannot be fused (a GRU, other activations, an initial state, a state that is returned) is unrolled
for an integer scheme. For a float scheme every layer stays what Keras traces: a loop, or steps.

Reference: TensorFlow 2.21, tensorflow/compiler/mlir/lite/transforms/
prepare_composite_functions_tf.cc, `ConvertTFAPIImplements` and `CheckFusableKerasLstm`, and
tensorflow/compiler/mlir/lite/utils/lstm_utils.cc, `ConvertKerasLSTMLayer`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.deploy.saved_model import nested_layers

# In int16x8 the quantizer leaves the fused op in float, with all its weights.
FUSING = ("int8",)
UNROLLING = ("int8", "int16x8")

# In int8 each step of a GRU is 17 ops, and 3.5 to 4.5 kB of file: 64 steps took 284 kB.
MAX_UNROLLED_STEPS = 64


@contextlib.contextmanager
def traced_for(student: keras.Model, quantization: str) -> Iterator[None]:
    """While it is open, the student's recurrent layers are traced as the scheme wants them.

    A layer's `inner_loop`, which Keras runs the time steps with, is replaced on the instance, so
    that it works in any model, nested, shared, wrapped or subclassed. Each layer is as it was when
    the context ends, however it ends.

    Args:
        student: A built Keras model.
        quantization: One of `artifact.QUANTIZATIONS`.

    Raises:
        ValueError: A layer is stateful; when it is traced: it has a mask or too many steps, and has
            to be unrolled.
    """
    layers = [layer for layer in nested_layers(student) if isinstance(layer, keras.layers.RNN)]
    stateful = [layer.name for layer in layers if layer.stateful]
    if stateful:
        raise ValueError(
            f"Expected recurrent layers that begin every call anew. Received: stateful=True in "
            f"{', '.join(stateful)}, whose state a converted model does not keep. Hint: build the "
            "student with stateful=False and copy the weights with `set_weights`."
        )
    names = (f"lstm_{number}" for number in itertools.count())
    with contextlib.ExitStack() as given_back:
        for layer in layers:
            set_until_closed(
                given_back, layer, "inner_loop", _inner_loop(layer, quantization, names)
            )
        yield


def set_until_closed(
    given_back: contextlib.ExitStack, layer: keras.Layer, name: str, value: Any
) -> None:
    """Sets a layer's attribute until the stack is closed."""
    if name in vars(layer):
        given_back.callback(setattr, layer, name, vars(layer)[name])
    else:
        given_back.callback(delattr, layer, name)
    setattr(layer, name, value)


def _inner_loop(layer: keras.layers.RNN, quantization: str, names: Iterator[str]) -> Callable:
    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> tuple:
        states = keras.tree.flatten(initial_state)
        masked = any(item is not None for item in keras.tree.flatten(mask))
        if quantization in FUSING and _is_fusable(layer) and not masked and _are_zeros(states):
            return _fused(layer, sequences, states, next(names))
        with contextlib.ExitStack() as given_back:
            if quantization in UNROLLING:
                _check_unrollable(layer, sequences.shape[1], masked, quantization)
                set_until_closed(given_back, layer, "unroll", True)
            if isinstance(layer, keras.layers.LSTM | keras.layers.GRU):
                # Keras takes CuDNN's kernels where it sees a GPU, and no device has those.
                set_until_closed(given_back, layer, "use_cudnn", False)
            return type(layer).inner_loop(layer, sequences, initial_state, mask, training)

    return inner_loop


def _is_fusable(layer: keras.layers.RNN) -> bool:
    """Whether the fused op computes what the layer does; `unroll=True` asks for plain ops."""
    return (
        type(layer) is keras.layers.LSTM
        and layer.activation is keras.activations.tanh
        and layer.recurrent_activation is keras.activations.sigmoid
        and not layer.return_state
        and not layer.unroll
    )


def _are_zeros(states: list) -> bool:
    """Whether the initial state is known to be zero, as the fused op's always is."""
    values = [tf.get_static_value(state) for state in states]
    return all(value is not None and not np.any(value) for value in values)


def _check_unrollable(layer: keras.layers.RNN, steps: int, masked: bool, quantization: str) -> None:
    called = f"{type(layer).__name__} '{layer.name}'"
    if masked:
        # What selects by a mask has no integer kernel on a microcontroller, and on LiteRT an LSTM
        # behind Embedding(mask_zero=True) was off by 24 of 255 steps.
        raise ValueError(
            f"Expected recurrent layers without a mask for quantization='{quantization}'. "
            f"Received: {called}, which gets one from a Masking, an Embedding(mask_zero=True) or "
            "its caller. Hint: leave the mask out and pad in front of the sequence, or take a "
            "float scheme."
        )
    if steps > MAX_UNROLLED_STEPS:
        raise ValueError(
            f"Expected at most {MAX_UNROLLED_STEPS} steps to unroll for quantization="
            f"'{quantization}', which has no loops. Received: {called} over {steps} steps. Hint: "
            "take fewer steps, as behind a strided Conv1D; for int8 an LSTM that `unroll=False`, "
            "tanh and sigmoid make one op, of any length; or a float scheme."
        )


def _fused(layer: keras.layers.LSTM, sequences: Any, states: list, name: str) -> tuple:
    """Calls the marked function; what `inner_loop` returns: last output, sequence, states."""
    cell = layer.cell
    bias = cell.bias if cell.use_bias else np.zeros(4 * cell.units, "float32")
    if layer.go_backwards:
        sequences = tf.reverse(sequences, [1])
    arguments = (sequences, *states, cell.kernel, cell.recurrent_kernel, bias)
    marked = tf.function(
        _lstm,
        autograph=False,
        experimental_attributes={
            # A name of its own, or TensorFlow takes two functions for two versions of one.
            "api_implements": name,
            "time_major": False,
            "go_backwards": False,
        },
    )
    last, outputs, *new_states, _ = marked(*map(tf.convert_to_tensor, arguments))
    return last, outputs, new_states


def _lstm(
    inputs: tf.Tensor,
    hidden: tf.Tensor,
    carry: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """An LSTM's arithmetic, in the signature that the converter replaces by the fused op.

    Args:
        inputs: [batch, steps, features].
        hidden: [batch, units].
        carry: [batch, units].
        kernel: [features, 4 * units], for the gates input, forget, cell and output.
        recurrent_kernel: [units, 4 * units].
        bias: [4 * units].

    Returns:
        The last output [batch, units], all of them [batch, steps, units], both states, and a number
        that stands where Keras 2 told which hardware it ran on.
    """

    def step(states: tuple, step_inputs: tf.Tensor) -> tuple:
        gates = tf.matmul(step_inputs, kernel) + tf.matmul(states[0], recurrent_kernel) + bias
        enter, keep, candidate, leave = tf.split(gates, 4, axis=1)
        new_carry = tf.sigmoid(keep) * states[1] + tf.sigmoid(enter) * tf.tanh(candidate)
        return tf.sigmoid(leave) * tf.tanh(new_carry), new_carry

    outputs, carries = tf.scan(step, tf.transpose(inputs, [1, 0, 2]), (hidden, carry))
    last = outputs[-1]
    return last, tf.transpose(outputs, [1, 0, 2]), last, carries[-1], tf.constant(0.0)
