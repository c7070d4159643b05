"""The example of unlabelled pictures: who sees which labels, its arithmetic, and a small run."""

import keras
import numpy as np
import pytest

import keras_kd


def test_gain_is_paired_by_seed(example):
    def result(alone, more):
        return {example.ALONE: alone, example.WITH_UNLABELLED: more}

    assert "+2.00 points (one seed)" in example.what_it_gained([result(0.8, 0.82)])
    # Differences of 1 and 3 points: sqrt(2) points over sqrt(2) seeds.
    two = [result(0.8, 0.81), result(0.7, 0.73)]
    assert "+2.00 ± 1.00 points" in example.what_it_gained(two)


def test_labels_of_the_others_are_never_seen(example, bright_rows, tmp_path, monkeypatch):
    data, seen = bright_rows(200, 50, 50), []

    def note(model, x, y, steps, settings, seed):
        weights = getattr(model, "student", model).get_weights()
        seen.append((np.array(y), steps, weights))

    keras.utils.set_random_seed(0)
    teacher = example.teacher_network((28, 28, 1), 4)
    keras_kd.targets.write(teacher, data.train.scaled(), tmp_path / "a", progress=False)
    monkeypatch.setattr(example, "train", note)
    example.trained_teacher(data, tmp_path / "teacher", example.FAST)
    for answers in (None, tmp_path / "a"):
        example.train_student(data, answers, example.FAST, seed=1)
    teachers, alone, more = (entry[0] for entry in seen)
    np.testing.assert_array_equal(teachers, data.train.y[:100])
    np.testing.assert_array_equal(alone, data.train.y[:100])
    np.testing.assert_array_equal(more, [*data.train.y[:100], *[example.NONE] * 100])
    assert seen[1][1] == seen[2][1]
    for first, second in zip(seen[1][2], seen[2][2], strict=True):
        np.testing.assert_array_equal(first, second)


def test_steps_are_counted_over_the_ends_of_the_data(example):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    settings = example.Settings(batch_size=10)
    x, y = np.ones((45, 3), "float32"), np.zeros(45, "int64")
    example.train(model, x, y, 13, settings, seed=0)
    assert int(model.optimizer.iterations) == 13


def test_small_run_goes_on_where_it_was(example, bright_rows, tmp_path, monkeypatch):
    data = bright_rows(200, 50, 50)
    # After four steps the teacher may be no better than chance, which is said.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("keras_kd.first_batch.warn_if_no_better_than_chance", lambda *args: None)
        found = example.run(data, tmp_path, example.FAST)
    (table,) = found.sections[0].blocks
    assert len(table.rows) == 3
    assert all(0 <= row[1] <= 1 for row in table.rows)
    monkeypatch.setattr(example, "train", None)
    assert example.run(data, tmp_path, example.FAST).data["seeds"] == found.data["seeds"]
