"""The Fashion-MNIST example: on made-up pictures, and on the real ones where there are any."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf


def test_augmentation_moves_by_a_pixel_and_replays(example):
    x = np.zeros((64, 28, 28, 1), np.float32)
    x[:, 10, 4] = 1.0
    seed = tf.constant([3, 5])
    moved = np.array(example.augment(tf.constant(x), seed))
    np.testing.assert_array_equal(moved, np.array(example.augment(tf.constant(x), seed)))
    np.testing.assert_array_equal(moved.sum(axis=(1, 2, 3)), 1.0)  # whole pixels: nothing blurred
    _, rows, columns, _ = np.nonzero(moved)
    assert set(zip(rows, columns, strict=True)) == {(i, j) for i in (9, 10, 11) for j in (3, 4, 5)}


def test_student_is_small_and_both_take_the_pictures(example):
    student = example.student_network((28, 28, 1))
    teacher = example.teacher_network((28, 28, 1), example.Settings().teacher_width)
    assert student.output_shape == teacher.output_shape == (None, 10)
    assert student.count_params() * 10 < teacher.count_params()
    assert student.count_params() < example.STUDENT_LIMIT_BYTES


def test_confusion_counts_truth_in_rows(example):
    counts = example.confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    assert counts == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def row(model, runtime, value, **kwargs):
    return {
        "model": model,
        "runtime": runtime,
        "quantization": "int8",
        "examples": 100,
        "value": value,
        "size_bytes": 1000,
        "arena_bytes": 500,
        "latency_ms_median": 2.0,
    } | kwargs


def test_table_has_mean_standard_error_and_deviation_over_seeds(example):
    results = [{"rows": [row("student", "tflm", value)]} for value in (0.8, 0.9)]
    table = example.result_table(row("teacher", "keras", 0.95), results)
    teacher, student = table.rows
    assert student[2].value == pytest.approx(0.85)
    assert student[2].spread == pytest.approx(math.sqrt(0.85 * 0.15 / 100))
    assert student[3] == pytest.approx(math.sqrt(0.005))  # two seeds, one degree of freedom
    assert teacher[3] is None
    assert teacher[4] is None  # no file
    assert student[4:6] == (1000, 500)


def test_gain_has_the_error_of_what_was_repeated(example):
    def result(difference):
        return {
            "difference": difference,
            "difference_standard_error": 0.003,
            "rows": [row("student", "tflm", 0.9)],
        }

    one = example.what_it_gained([result(0.012)])
    assert "+1.20 ± 0.30 points" in one
    assert "paired" in one
    # Standard deviation 0.01 over sqrt(2) seeds; a loss is shown as one.
    two = example.what_it_gained([result(-0.02), result(-0.0058578643)])
    assert "-1.29 ± 0.71 points" in two
    assert "over 2 seeds" in two


def test_example_runs_on_arrays_and_goes_on_where_it_was(
    example, bright_rows, tmp_path, monkeypatch
):
    data, folder = bright_rows(600, 100, 100), tmp_path / "output"
    found = example.run(data, folder, example.FAST, runtimes=("litert", "tflm"))
    (table,) = found.sections[0].blocks
    shown = [cells[:2] for cells in table.rows]
    assert shown == [
        ("teacher", "float32 on keras"),
        ("student, alone", "float32 on keras"),
        ("student, alone", "int8 on litert"),
        ("student, alone", "int8 on tflm"),
        ("student, distilled", "float32 on keras"),
        ("student, distilled", "int8 on litert"),
        ("student, distilled", "int8 on tflm"),
    ]
    seed_folder = folder / "seed-0"
    for name in ("alone", "distilled"):
        size = (seed_folder / name / "student.tflite").stat().st_size
        assert size <= example.STUDENT_LIMIT_BYTES
    assert (seed_folder / "distilled" / "student.cc").exists()
    assert found.to_html().count("<svg") == 2
    confusion = found.data["seeds"][0]["confusion"]
    np.testing.assert_array_equal(np.sum(confusion, axis=1), 10)  # ten test pictures a class

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(example, "train", refuse)
    again = example.run(data, folder, example.FAST, runtimes=("litert", "tflm"))
    assert again.data["seeds"] == found.data["seeds"]


def test_both_students_start_from_the_same_weights(example, bright_rows, tmp_path, monkeypatch):
    data, seen = bright_rows(600, 100, 100), []

    def note(model, *args, **kwargs):
        student = getattr(model, "student", model)
        seen.append([np.array(weight) for weight in student.get_weights()])

    monkeypatch.setattr(example, "train", note)
    keras.utils.set_random_seed(7)
    teacher = example.teacher_network((28, 28, 1), 4)
    for name, its_teacher in (("alone", None), ("distilled", teacher)):
        example.trained_student(data, its_teacher, tmp_path / name, example.FAST, seed=1)
    assert len(seen) == 2
    for alone, distilled in zip(*seen, strict=True):
        np.testing.assert_array_equal(alone, distilled)


@pytest.mark.data
@pytest.mark.slow
def test_real_pictures_run(example, data_folder, tmp_path, monkeypatch):
    """Where the data folder is one of tensorflow-datasets that has Fashion-MNIST in it."""
    if not (data_folder / "fashion_mnist").is_dir():
        pytest.skip("needs fashion_mnist of tensorflow-datasets in the folder of real data")
    data = example.experiment.load("fashion_mnist", str(data_folder))
    assert [len(split.y) for split in (data.train, data.validation, data.test)] == [
        54000,
        6000,
        10000,
    ]
    assert data.class_names[0] == "T-shirt/top"
    # A tenth of it: a small student after one epoch is far above chance (10 %) and far below 95 %.
    few = example.experiment.Data(
        *(
            example.experiment.Split(split.x[::10], split.y[::10])
            for split in (data.train, data.validation, data.test)
        ),
        data.class_names,
    )
    found = example.run(few, tmp_path / "output", example.FAST, runtimes=("litert",))
    for r in found.data["seeds"][0]["rows"]:
        assert 0.3 < r["value"] < 0.95
