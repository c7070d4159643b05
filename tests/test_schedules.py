import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import schedules

CASES = [
    (schedules.Constant(4.0), {0: 4.0, 100: 4.0}),
    (schedules.Linear(1.0, 5.0, 4), {0: 1.0, 1: 2.0, 4: 5.0, 9: 5.0}),
    (schedules.Cosine(2.0, 0.0, 4), {0: 2.0, 2: 1.0, 4: 0.0, 9: 0.0}),
    (schedules.WarmUp(6.0, 3), {0: 0.0, 1: 2.0, 3: 6.0, 9: 6.0}),
    (schedules.WarmUp(schedules.Linear(4.0, 0.0, 4), 2), {0: 0.0, 1: 1.5, 2: 2.0, 4: 0.0}),
    (schedules.Piecewise([2, 4], [1.0, 0.5, 0.1]), {0: 1.0, 1: 1.0, 2: 0.5, 3: 0.5, 4: 0.1}),
]
IDS = [type(schedule).__name__ for schedule, _ in CASES]


@pytest.mark.parametrize(("schedule", "values"), CASES, ids=IDS)
def test_values(schedule, values):
    for step, expected in values.items():
        # A handful of float32 operations: a few units of 2^-24.
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("schedule", "values"), CASES, ids=IDS)
def test_is_evaluated_inside_the_graph(schedule, values):
    function = tf.function(lambda step: schedules.value_at(schedule, step))
    for step, expected in values.items():
        result = function(tf.constant(step, tf.int64))
        assert result.dtype == tf.float32
        assert float(result) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert function.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(("schedule", "values"), CASES, ids=IDS)
def test_config_round_trip(schedule, values):
    again = schedules.deserialize(schedules.serialize(schedule))
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    for step, expected in values.items():
        assert float(again(step)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_schedule_can_drive_a_learning_rate():
    optimizer = keras.optimizers.SGD(schedules.Linear(1.0, 0.0, 10))
    assert float(optimizer.learning_rate) == 1.0


def test_keras_schedules_are_schedules():
    decay = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    assert schedules.is_schedule(decay)
    assert float(schedules.value_at(decay, np.int64(10))) == pytest.approx(0.5)


def test_numbers_pass_through():
    assert schedules.value_at(0.3, None) == 0.3
    assert schedules.deserialize(schedules.serialize(0.3)) == 0.3


def test_a_schedule_without_a_step_is_refused():
    with pytest.raises(ValueError, match=r"Linear needs the training step.*Distiller"):
        schedules.value_at(schedules.Linear(0.0, 1.0, 2), None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.Linear(0.0, 1.0, 0), "steps to be an integer of at least 1"),
        (lambda: schedules.Linear(0.0, float("nan"), 1), "end to be a finite number"),
        (lambda: schedules.Cosine("a", 1.0, 1), "start to be a finite number"),
        (lambda: schedules.WarmUp(1.0, 1.5), "steps to be an integer"),
        (lambda: schedules.Constant(None), "value to be a finite number"),
        (lambda: schedules.Piecewise([1], [1.0]), "one value more than boundaries"),
        (lambda: schedules.Piecewise([3, 1], [1.0, 2.0, 3.0]), "ascending boundaries"),
        (lambda: schedules.checked("weight", -1.0), "weight to be a number of at least 0"),
        (lambda: schedules.checked("weight", float("inf")), "weight to be a number of at least 0"),
        (lambda: schedules.checked("T", 0.0, positive=True), "T to be a positive number"),
        (lambda: schedules.checked("T", True), "T to be a number or a schedule"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
