"""`tf.distribute.MirroredStrategy` on two devices against one device.

`tests/conftest.py` gives the process its two logical CPU devices.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd
from tests.models import (
    CLASSES,
    IMAGE,
    assert_close,
    images,
    mlp,
    snapshot,
    soft_target,
    task_loss,
    vectors,
    wide,
)

STEPS = 4


class Penalty(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(0.1 * ops.mean(ops.square(inputs)))
        return inputs


def net(name, channels, *, norm=False, regularized=False):
    inputs = keras.Input(IMAGE)
    x = keras.layers.Conv2D(
        channels,
        3,
        name="map",
        kernel_regularizer=keras.regularizers.L2(0.01) if regularized else None,
    )(inputs)
    if norm:
        x = keras.layers.BatchNormalization(synchronized=True, momentum=0.5, name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Activation("tanh")(x))
    if regularized:
        x = Penalty()(x)
    outputs = keras.layers.Dense(CLASSES, kernel_initializer=wide(), name="outputs")(x)
    return keras.Model(inputs, outputs, name=name)


def losses(projector):
    """With a projector where the student's map has fewer channels."""
    chosen = [keras_kd.LogitsDistillation(keras_kd.schedules.Linear(4.0, 2.0, STEPS))]
    if projector:
        chosen.append(keras_kd.FeatureDistillation("mse", "map", "map"))
    return chosen


def trained(strategy, *, norm=False, regularized=False, projector=False, weights=None):
    """Trains the same two models on the same batches; returns logs and state."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(2)
    with strategy.scope():
        distiller = keras_kd.Distiller(
            net("teacher", 5),
            net("student", 3, norm=norm, regularized=regularized),
            losses(projector),
            student_loss_weight=0.3,
            teacher_agreement=True,
        )
        # Without momentum or moments, which would blow up last bits of a gradient near 0.
        distiller.compile(
            keras.optimizers.SGD(0.1),
            task_loss(),
            metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
        )
    x, y = images(8 * STEPS)
    data = (x, y) if weights is None else (x, y, weights)
    data = tf.data.Dataset.from_tensor_slices(data).batch(8)
    logs = distiller.fit(data, validation_data=data, shuffle=False, verbose=0).history
    return logs, snapshot(distiller), distiller


@pytest.mark.filterwarnings("ignore:.*[Cc]ollective.*")
@pytest.mark.parametrize(
    "options",
    [
        {
            "regularized": True,
            "projector": True,
            "weights": np.linspace(0, 2, 8 * STEPS).astype("float32"),
        },
        {"norm": True},
    ],
    ids=["regularized, projected, weighted", "synchronized norm"],
)
def test_two_devices_give_the_weights_and_logs_of_one(two_devices, options):
    one_logs, one, _ = trained(tf.distribute.get_strategy(), **options)
    two_logs, two, distiller = trained(two_devices, **options)
    assert distiller.distribute_strategy.num_replicas_in_sync == 2
    assert one_logs.keys() == two_logs.keys()
    # Means over two halves instead of over the whole: some last bits (6e-8) a step, in four steps
    # of a smooth net at rate 0.1. A factor of 2 wrong in one term is a relative error of over 0.1.
    assert_close(two, one, rtol=1e-4, atol=1e-5)
    for name, values in one_logs.items():
        np.testing.assert_allclose(two_logs[name], values, rtol=1e-4, err_msg=name)


def test_evaluate_predict_and_saving_under_a_strategy(two_devices, tmp_path):
    _, _, distiller = trained(two_devices, projector=True)
    x, y = images(16)
    # A ragged last batch, one example of it a replica.
    logs = distiller.evaluate(x[:10], y[:10], batch_size=8, verbose=0, return_dict=True)
    alone = np.array(distiller.student(x))
    np.testing.assert_allclose(distiller.predict(x, verbose=0), alone, rtol=1e-5, atol=1e-6)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    again.teacher = distiller.teacher
    apart = again.evaluate(x[:10], y[:10], batch_size=8, verbose=0, return_dict=True)
    for name, value in apart.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-4, err_msg=name)


def test_a_replica_without_examples_is_harmless(two_devices):
    """The last batch has one example for two replicas."""
    with two_devices.scope():
        distiller = keras_kd.Distiller(
            mlp("teacher"),
            mlp("student"),
            [
                keras_kd.LogitsDistillation(2.0),
                keras_kd.FeatureDistillation("mse", "hidden", "hidden"),
            ],
            teacher_agreement=True,
        )
        distiller.compile(keras.optimizers.SGD(0.0), task_loss())
    x, y = vectors(9)
    teacher, student = (np.float64(m(x)) for m in (distiller.teacher, distiller.student))
    logs = distiller.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    soft = soft_target(teacher, student, 2.0).mean()
    np.testing.assert_allclose(logs["logits_distillation"], soft, rtol=1e-5)
    distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert all(np.isfinite(weight).all() for weight in distiller.get_weights())


def test_a_nan_of_the_teacher_on_any_device_is_seen_at_the_end_of_the_epoch(two_devices):
    class Spoil(keras.layers.Layer):
        def call(self, inputs):
            return ops.where(ops.max(inputs, axis=(1, 2, 3), keepdims=True) > 50.0, np.nan, inputs)

    with two_devices.scope():
        plain = net("plain", 5)
        inputs = keras.Input(IMAGE)
        teacher = keras.Model(inputs, plain(Spoil()(inputs)), name="teacher")
        distiller = keras_kd.Distiller(teacher, net("student", 3), keras_kd.LogitsDistillation())
        distiller.compile("sgd", task_loss())
    x, y = images(24)
    x[[9, 15, 23]] = 99.0  # In the second batch on both devices, in the third on the second.
    with pytest.raises(ValueError, match=r"finite numbers from the teacher.*3 examples"):
        distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0)
