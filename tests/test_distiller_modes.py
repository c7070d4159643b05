"""Ways to run a step: XLA, eager mode, several steps an execution, mixed precision, optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from tests.models import (
    RTOL,
    Counting,
    assert_close,
    conv_net,
    images,
    mlp,
    snapshot,
    task_loss,
    vectors,
)


def trained(optimizer=None, *, epochs=2, losses=None, **compile_options):
    """Trains a small net on five batches, the last one ragged; returns logs, state, distiller."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(4)
    distiller = keras_kd.Distiller(
        conv_net("teacher", 5),
        conv_net("student", 3, norm=True, kernel_regularizer=keras.regularizers.L2(0.01)),
        losses
        or [
            keras_kd.LogitsDistillation(keras_kd.schedules.Linear(4.0, 2.0, 10)),
            keras_kd.FeatureDistillation("mse", "map", "map"),
        ],
        student_loss_weight=0.4,
    )
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9) if optimizer is None else optimizer
    distiller.compile(optimizer, task_loss(), metrics=["accuracy"], **compile_options)
    x, y = images(18)
    logs = distiller.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0).history
    return logs, snapshot(distiller), distiller


@pytest.fixture(scope="module")
def plain():
    return trained(jit_compile=False)[:2]


@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": True},
        {"run_eagerly": True},
        {"jit_compile": False, "steps_per_execution": 4},
        {"jit_compile": False, "steps_per_execution": 5},
        {"jit_compile": False, "steps_per_execution": 8},
    ],
    ids=str,
)
def test_every_way_to_run_a_step_gives_the_same_weights_and_logs(options, plain):
    """Five batches: no multiple of four, one execution of five, and fewer than eight."""
    logs, state, distiller = trained(**options)
    assert int(distiller.optimizer.iterations) == 10
    # The same operations in another order: some last bits (6e-8) a step, which ten steps with
    # momentum 0.9 and BatchNorm (a division by standard deviations near 1) make a hundred times
    # larger at most. A step too many or too few is 1e-2.
    assert_close(state, plain[1], rtol=1e-4, atol=1e-5)
    assert logs.keys() == plain[0].keys()
    for name, values in plain[0].items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_no_batch_is_lost_or_seen_twice(steps):
    """Ten examples an epoch in five batches; the look at the first one is the only addition."""
    counter = Counting()
    student = mlp("student", first=counter)
    distiller = keras_kd.Distiller(mlp("teacher"), student, keras_kd.LogitsDistillation())
    distiller.compile("sgd", task_loss(), steps_per_execution=steps, jit_compile=False)
    distiller.fit(*vectors(10), batch_size=2, epochs=3, verbose=0)
    assert counter.taken() == 3 * 5 + 1
    assert int(distiller.optimizer.iterations) == 15
    data = tf.data.Dataset.from_tensor_slices(vectors(10)).batch(2).repeat()
    distiller.fit(data, steps_per_epoch=5, epochs=2, shuffle=False, verbose=0)
    # As in plain Keras, every execution of an endless dataset is a full one.
    assert int(distiller.optimizer.iterations) == 15 + 2 * steps * -(-5 // steps)


def test_xla_sees_nan_of_the_teacher_too():
    """Assertions vanish under XLA; counters do not."""
    x, y = vectors(16)
    teacher = mlp("teacher")
    x[12, 0] = np.nan
    distiller = keras_kd.Distiller(
        teacher, mlp("student"), keras_kd.LogitsDistillation(), student_preprocessing=zeroed
    )
    distiller.compile("sgd", task_loss(), jit_compile=True)
    with pytest.raises(ValueError, match=r"finite numbers from the teacher.*1 example"):
        distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0)


def zeroed(x):
    return tf.where(tf.math.is_nan(x), 0.0, x)


# -- optimizers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option", [{"clipnorm": 1e-3}, {"global_clipnorm": 1e-3}, {"clipvalue": 1e-4}]
)
def test_gradients_are_clipped(option):
    x, y = vectors(8)
    student = mlp("student")
    before = student.get_weights()
    distiller = keras_kd.Distiller(mlp("teacher"), student, keras_kd.LogitsDistillation(2.0))
    distiller.compile(keras.optimizers.SGD(1.0, **option), task_loss(), run_eagerly=True)
    distiller.train_on_batch(x, y)
    moved = [a - b for a, b in zip(student.get_weights(), before, strict=True)]
    # Weights near 1 lose 6e-8 of a step of 1e-3: four digits are left of a difference.
    if "clipvalue" in option:
        assert max(abs(step).max() for step in moved) == pytest.approx(1e-4, rel=1e-2)
    elif "clipnorm" in option:
        assert [np.linalg.norm(step) for step in moved] == pytest.approx([1e-3] * 4, rel=1e-2)
    else:
        norm = np.sqrt(sum((step**2).sum() for step in moved))
        assert norm == pytest.approx(1e-3, rel=1e-2)


def test_gradients_are_accumulated():
    """Two half batches with accumulation are one whole batch without."""
    x, y = vectors(16)
    start = mlp("student").get_weights()
    states = []
    for size, steps in ((16, None), (8, 2)):
        student = mlp("student")
        student.set_weights(start)
        keras.utils.set_random_seed(1)
        distiller = keras_kd.Distiller(
            mlp("teacher"), student, keras_kd.FeatureDistillation("mse"), student_loss_weight=0.3
        )
        distiller.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps), task_loss())
        distiller.fit(x, y, batch_size=size, shuffle=False, verbose=0)
        states.append(snapshot(student))
    # The mean of two means: last bits.
    assert_close(*states, rtol=RTOL, atol=1e-6)
    assert not np.allclose(states[0]["0 hidden/kernel"], start[0], rtol=1e-3)


def test_the_moving_average_of_the_optimizer_is_taken_over():
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    _, state, distiller = trained(optimizer, epochs=1)
    variables = distiller.trainable_variables
    averages = optimizer._model_variables_moving_average
    assert len(averages) == len(variables) == 6 + 2
    # Keras overwrites the weights with their averages at the end of `fit`.
    for variable, average in zip(variables, averages, strict=True):
        np.testing.assert_array_equal(variable.numpy(), average.numpy())
    _, other, _ = trained(keras.optimizers.SGD(0.1), epochs=1)
    kernels = [next(v for k, v in s.items() if "outputs/kernel" in k) for s in (state, other)]
    assert not np.allclose(*kernels, rtol=1e-4)


def test_frozen_layers_of_the_student_stay_as_they_are():
    student = conv_net("student", 3, norm=True)
    student.get_layer("map").trainable = False
    student.get_layer("norm").trainable = False
    before = snapshot(student.get_layer("map"), student.get_layer("norm"))
    distiller = keras_kd.Distiller(
        conv_net("teacher", 5),
        student,
        [keras_kd.LogitsDistillation(), keras_kd.FeatureDistillation("mse", "map", "map")],
    )
    distiller.compile(keras.optimizers.SGD(1.0), task_loss())
    outputs = student.get_layer("outputs").get_weights()
    distiller.fit(*images(), batch_size=4, verbose=0)
    after = snapshot(student.get_layer("map"), student.get_layer("norm"))
    for (name, ours), theirs in zip(before.items(), after.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert not np.array_equal(outputs[0], student.get_layer("outputs").get_weights()[0])


# -- mixed precision -------------------------------------------------------------------------------


def half(name, kind):
    """A student that computes in float16: by the global policy or by its own."""
    if kind == "global":
        return mlp(name)

    class Half(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.hidden = keras.layers.Dense(8, activation="tanh", dtype=self.dtype_policy)
            self.last = keras.layers.Dense(
                4,
                kernel_initializer=keras.initializers.RandomNormal(stddev=1.0),
                dtype=self.dtype_policy,
            )

        def call(self, x):
            return self.last(self.hidden(x))

    model = Half(dtype="mixed_float16", name=name)
    model(np.zeros((1, 6), "float32"))
    return model


@pytest.mark.parametrize("kind", ["global", "own"])
def test_a_float16_student_gets_loss_scaling_and_float32_weights(kind):
    if kind == "global":
        keras.config.set_dtype_policy("mixed_float16")
    student = half("student", kind)
    teacher = mlp("teacher")
    distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(2.0))
    distiller.compile(keras.optimizers.SGD(0.1), task_loss())
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    x, y = vectors(16)
    assert student(x).dtype == "float16"
    before = student.get_weights()
    logs = distiller.fit(x, y, batch_size=8, epochs=8, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    for ours, theirs in zip(student.get_weights(), before, strict=True):
        assert ours.dtype == "float32"
        assert not np.array_equal(ours, theirs)


def test_the_scaled_step_is_the_unscaled_step():
    """Loss scaling changes no gradient but by float16's rounding."""
    x, y = vectors(16)
    start = mlp("student").get_weights()
    target = mlp("teacher").get_weights()
    states = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        teacher, student = mlp("teacher"), mlp("student")
        teacher.set_weights(target)
        student.set_weights(start)
        distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(2.0))
        distiller.compile(keras.optimizers.SGD(1.0), task_loss())
        distiller.train_on_batch(x, y)
        states.append(
            [after - before for after, before in zip(student.get_weights(), start, strict=True)]
        )
    largest = max(abs(step).max() for step in states[0])
    for ours, theirs in zip(*states, strict=True):
        # Each gradient is a sum over 16 examples of products rounded to 2^-11 = 5e-4.
        np.testing.assert_allclose(ours, theirs, atol=2e-3 * largest * 5)


def test_a_float16_teacher_of_a_float32_student():
    keras.config.set_dtype_policy("mixed_float16")
    teacher = mlp("teacher")
    keras.config.set_dtype_policy("float32")
    distiller = keras_kd.Distiller(
        teacher,
        mlp("student"),
        [keras_kd.LogitsDistillation(), keras_kd.FeatureDistillation("mse", "hidden", "hidden")],
    )
    distiller.compile("adam", task_loss())
    assert not isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    logs = distiller.fit(*vectors(), verbose=0).history
    assert np.isfinite(logs["loss"]).all()
