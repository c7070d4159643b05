"""What the tests of losses on logits share: gradients, tiny trainings, what each has to keep."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from tests.models import mlp, task_loss, vectors

# Some dozen float32 operations of relative error 6e-8 each, and differences of logarithms up to a
# hundred times smaller than these.
RTOL, ATOL = 1e-4, 1e-6


def softmax(logits):
    logits = np.asarray(logits, "float64")
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def logits_and_labels(rng, *positions, examples=7, classes=5, scale=2.0):
    """Returns the teacher's and the student's logits, float32, and labels."""
    shape = (examples, *positions)
    teacher, student = (
        (rng.normal(size=(*shape, classes)) * scale).astype("float32") for _ in range(2)
    )
    return teacher, student, rng.integers(0, classes, size=shape)


def gradient(function, *variables):
    """Returns the mean of a function's values, and its gradient by each variable (or None)."""
    variables = [tf.Variable(variable) for variable in variables]
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(function(*variables))
    found = tape.gradient(value, variables)
    return float(value), [None if g is None else g.numpy() for g in found]


def assert_finite(function, student):
    """Fails unless value and gradient are finite on extreme and constant logits, and in float16."""
    for logits in (student * 1e4, -1e4 * student, np.zeros_like(student), np.ones_like(student)):
        value, (slope,) = gradient(function, logits)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
    half = function(tf.constant(student.astype("float16")))
    assert half.dtype == "float32"
    assert np.isfinite(half).all()


def assert_xla_agrees(function, student):
    """Fails unless XLA computes the same, for a batch of unknown size too."""
    signature = [tf.TensorSpec((None, *student.shape[1:]), "float32")]
    plain = function(tf.constant(student))
    for options in ({"jit_compile": True}, {"input_signature": signature}):
        compiled = tf.function(function, **options)
        np.testing.assert_allclose(compiled(tf.constant(student)), plain, rtol=RTOL, atol=ATOL)


def assert_round_trip(loss):
    """Fails unless the loss's configuration makes the same loss again."""
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(loss)
    assert keras.saving.serialize_keras_object(again) == config


def fitted(loss, *, teacher=None, student=None, x=None, y=None, epochs=8, weight=0.0, **options):
    """Returns the distiller and the losses by epoch of a tiny training in whole batches."""
    data = vectors()
    x, y = (data[0] if x is None else x), (data[1] if y is None else y)
    distiller = keras_kd.Distiller(
        mlp("teacher") if teacher is None else teacher,
        mlp("student", 5) if student is None else student,
        loss,
        student_loss_weight=weight,
    )
    distiller.compile(keras.optimizers.Adam(0.02), task_loss())
    history = distiller.fit(x, y, batch_size=20, epochs=epochs, shuffle=False, verbose=0, **options)
    return distiller, history.history["distillation_loss"]


def assert_learns(loss, **options):
    """Fails unless a tiny student's loss falls."""
    _, losses = fitted(loss, **options)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def assert_needs_labels(loss):
    """Fails unless data without labels are refused."""
    x, _ = vectors()
    distiller = keras_kd.Distiller(mlp("teacher"), mlp("student"), loss, student_loss_weight=0.0)
    distiller.compile("sgd")
    with pytest.raises(ValueError, match="data with labels"):
        distiller.fit(x, verbose=0)
