"""What the tests of the losses on tokens share."""

import keras
import numpy as np
import tensorflow as tf

import keras_kd
from tests.encoders import encoder


def gradient(function, *students):
    """Returns (mean, gradient by each student) of a loss of students."""
    students = [tf.Variable(student) for student in students]
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(function(*students))
    return float(value), [np.asarray(g) for g in tape.gradient(value, students)]


def distiller(loss, *, teacher=None, student=None, **options):
    """Returns a compiled distiller on two encoders, of the loss alone."""
    made = keras_kd.Distiller(
        encoder("teacher", count=4) if teacher is None else teacher,
        encoder("student", units=6) if student is None else student,
        loss,
        student_loss_weight=0.0,
        **options,
    )
    made.compile(keras.optimizers.Adam(0.01))
    return made


def evaluate(made, x, **options):
    """Returns the loss on one batch."""
    logs = made.evaluate(x, batch_size=len(x), verbose=0, return_dict=True, **options)
    return logs["distillation_loss"]


def again(loss):
    """Returns the loss that its configuration makes."""
    config = keras.saving.serialize_keras_object(loss)
    made = keras.saving.deserialize_keras_object(config)
    assert type(made) is type(loss)
    assert keras.saving.serialize_keras_object(made) == config
    return made
