import keras
import numpy as np
import pytest

from keras_kd.metrics import NamedMeans, NamedSums, TeacherAgreement, same_side


def test_share_of_equal_classes(rng):
    metric = TeacherAgreement()
    teacher, student = rng.normal(size=(20, 4)), rng.normal(size=(20, 4))
    metric.update_state(teacher[:12], student[:12])
    metric.update_state(teacher[12:], student[12:])
    expected = (teacher.argmax(-1) == student.argmax(-1)).mean()
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_every_position_counts(rng):
    metric = TeacherAgreement()
    teacher, student = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(2, 3, 5, 4))
    metric.update_state(teacher, student)
    expected = (teacher.argmax(-1) == student.argmax(-1)).mean()
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_units_are_on_a_side_each():
    teacher, student = np.array([[2.0, -1.0], [0.3, 0.1]]), np.array([[0.1, 0.2], [5.0, 7.0]])
    np.testing.assert_array_equal(same_side(teacher, student), [0.5, 1.0])


def test_sample_weights():
    metric = TeacherAgreement()
    teacher, student = np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])
    metric.update_state(teacher, student, sample_weight=np.array([1.0, 3.0]))
    assert float(metric.result()) == pytest.approx(0.25)


def test_config_round_trip():
    metric = TeacherAgreement(name="same")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert again.get_config() == metric.get_config()


def test_named_means_weigh_batches_by_their_examples():
    means = NamedMeans(["a", "b"], name="means")
    means.update_state({"a": 1.0, "b": 4.0}, 3)
    means.update_state({"a": 5.0}, 1)
    # (3 * 1 + 1 * 5) / 4 and (3 * 4 + 0) / 4: exact in binary.
    assert {name: float(value) for name, value in means.result().items()} == {"a": 2.0, "b": 3.0}
    means.reset_state()
    assert {name: float(value) for name, value in means.result().items()} == {"a": 0.0, "b": 0.0}


def test_named_sums_leave_out_what_is_absent():
    sums = NamedSums(["a", "b"], name="sums")
    sums.update_state({"b": 2.0})
    sums.update_state({"a": 1.0, "b": 3.0})
    assert {name: float(value) for name, value in sums.result().items()} == {"a": 1.0, "b": 5.0}
