"""The student's moving average as its teacher."""

import keras
import numpy as np
import pytest

import keras_kd
from keras_kd import schedules, teachers
from tests.models import RTOL, assert_same, conv_net, images, mlp, snapshot, task_loss, vectors


def distilled(student, teacher=None, **options):
    teacher = teacher or teachers.MovingAverage(0.8, warm_up=False)
    distiller = keras_kd.Distiller(
        teacher, student, keras_kd.LogitsDistillation(), student_loss_weight=0.5, **options
    )
    distiller.compile(keras.optimizers.SGD(0.1), task_loss())
    return distiller


def averages(distiller):
    return [np.array(v.numpy()) for v in distiller.teacher.state.averages]


def weights(model):
    return [np.array(v.numpy()) for v in model.weights]


@pytest.mark.parametrize("warm_up", [False, True])
def test_follows_the_weights_and_the_statistics(warm_up):
    student = conv_net("student", norm=True)
    distiller = distilled(student, teachers.MovingAverage(0.8, warm_up=warm_up))
    x, y = images()
    expected = weights(student)
    for step in range(1, 6):
        distiller.train_on_batch(x, y)
        decay = min(0.8, 1 - 1 / (step + 1)) if warm_up else 0.8
        expected = [
            decay * np.float64(average) + (1 - decay) * value
            for average, value in zip(expected, weights(student), strict=True)
        ]
    for ours, theirs in zip(averages(distiller), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=RTOL, atol=1e-7)


def test_answers_as_a_model_with_the_averages():
    student = conv_net("student", norm=True, dropout=0.5)
    distiller = distilled(student)
    x, y = images()
    distiller.fit(x, y, epochs=2, batch_size=4, verbose=0)
    model = distiller.teacher.averaged()
    assert not np.allclose(model(x), student(x), rtol=1e-3)
    answer = distiller.teacher(keras_kd.losses.Context(inputs=x))
    np.testing.assert_allclose(answer.outputs, model(x, training=False), rtol=RTOL, atol=RTOL)


def test_decay_may_be_a_schedule():
    student = mlp("student")
    decay = schedules.Piecewise([2], [0.0, 0.75])
    distiller = distilled(student, teachers.MovingAverage(decay, warm_up=False))
    x, y = vectors()
    distiller.train_on_batch(x, y)
    first = weights(student)
    for ours, theirs in zip(averages(distiller), first, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    distiller.train_on_batch(x, y)
    for ours, old, new in zip(averages(distiller), first, weights(student), strict=True):
        np.testing.assert_allclose(ours, 0.75 * old + 0.25 * new, rtol=RTOL, atol=1e-7)


def test_asking_changes_nothing_and_evaluation_takes_no_step():
    student = conv_net("student", norm=True, dropout=0.5)
    distiller = distilled(student)
    x, y = images()
    distiller.train_on_batch(x, y)
    before = snapshot(distiller)
    distiller.evaluate(x, y, verbose=0)
    assert_same(before, snapshot(distiller))


def test_is_no_part_of_the_student_and_not_trained():
    student = mlp("student")
    count = len(student.weights)
    distiller = distilled(student)
    assert len(student.weights) == count == len(distiller.teacher.state.weights)
    assert len(distiller.trainable_weights) == count


def test_is_saved_and_loaded_with_the_distiller(tmp_path):
    student = conv_net("student", norm=True)
    distiller = distilled(student)
    x, y = images()
    distiller.fit(x, y, epochs=2, batch_size=4, verbose=0)
    distiller.save(tmp_path / "d.keras")
    again = keras.models.load_model(tmp_path / "d.keras")
    for ours, theirs in zip(averages(again), averages(distiller), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.teacher.decay == 0.8
    for model in (distiller, again):
        model.train_on_batch(x, y)
    for ours, theirs in zip(averages(again), averages(distiller), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=RTOL, atol=1e-7)


def test_a_run_that_was_stopped_goes_on_with_its_average(tmp_path):
    x, y = vectors()

    def run(epochs, folder):
        keras.utils.set_random_seed(1)
        distiller = distilled(mlp("student"))
        data = keras_kd.data.replayable(x, y, batch_size=4, seed=0)
        backup = [keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)]
        distiller.fit(data, epochs=epochs, verbose=0, callbacks=backup)
        return distiller

    whole = run(4, tmp_path / "whole")
    run(2, tmp_path / "parts")
    parts = run(4, tmp_path / "parts")
    for ours, theirs in zip(averages(parts), averages(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_works_on_two_devices(two_devices):
    x, y = vectors()
    data = keras_kd.data.replayable(x, y, batch_size=4, seed=0)

    def trained():
        keras.utils.set_random_seed(2)
        return distilled(mlp("student"))

    alone = trained()
    with two_devices.scope():
        both = trained()
    for distiller in (alone, both):
        distiller.fit(data, epochs=2, verbose=0)
    # Sums over the batch in another order, ten steps.
    for ours, theirs in zip(averages(both), averages(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_half_precision_is_averaged_in_float32():
    keras.config.set_dtype_policy("float16")
    distiller = distilled(mlp("student"))
    assert {v.dtype for v in distiller.teacher.state.averages} == {"float32"}
    x, y = vectors()
    distiller.train_on_batch(x.astype("float16"), y)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, "0.9"])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        teachers.MovingAverage(decay)


def test_an_unbuilt_student_is_refused():
    student = keras.Sequential([keras.layers.Dense(3)], name="later")
    with pytest.raises(ValueError, match="a student with weights to average"):
        distilled(student)
