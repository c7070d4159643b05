"""The comparison with tfmot: a run on made-up pictures, and what its report says."""

import pytest


@pytest.mark.slow
def test_runs_and_goes_on_where_it_was(example, bright_rows, tmp_path):
    data = bright_rows(500, 50, 50)
    first = example.run(data, tmp_path, example.FAST)
    (table,) = first.sections[0].blocks
    assert [row[0] for row in table.rows] == ["float", "post-training int8", "tfmot", "keras_kd"]
    for file in ("float.keras", "tfmot.tflite", "keras_kd.tflite", "tfmot.json"):
        assert (tmp_path / "seed-0" / file).exists()
    kept = (tmp_path / "seed-0" / "keras_kd.tflite").stat().st_mtime_ns
    assert example.run(data, tmp_path, example.FAST) == first
    assert (tmp_path / "seed-0" / "keras_kd.tflite").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="Expected a folder begun with"):
        example.run(data, tmp_path, example.Budget())


def test_the_student_has_the_size_that_it_says(example):
    weights = example.student_network((28, 28, 1)).count_params()
    assert f"{weights:,} weights" in example.student_network.__doc__


def test_the_report_has_means_and_paired_differences(example):
    results = {
        "float": [{"accuracy": 0.9, "size_bytes": None}, {"accuracy": 0.92, "size_bytes": None}],
        "post-training int8": [{"accuracy": 0.8, "size_bytes": 9}] * 2,
        "tfmot": [{"accuracy": 0.88, "size_bytes": 10}, {"accuracy": 0.9, "size_bytes": 12}],
        "keras_kd": [{"accuracy": 0.89, "size_bytes": 11}, {"accuracy": 0.93, "size_bytes": 11}],
    }
    times = {
        "float, Keras 3": [10.0, 10.0, 10.0],
        "float, tf_keras": [11.0, 11.0, 11.0],
        "tfmot": [20.0, 40.0, 25.0],
        "keras_kd": [15.0, 20.0, 16.0],
    }
    report = example.full_report(results, times, example.Budget(), 10_000)
    accuracy, step = (section.blocks[0] for section in report.sections[:2])
    deviation = pytest.approx(0.02 / 2**0.5)  # two seeds, one degree of freedom
    assert accuracy.rows[0] == ("float", pytest.approx(0.91), deviation, None)
    assert accuracy.rows[2] == ("tfmot", pytest.approx(0.89), deviation, 12)
    # Differences of 1 and 3 points: mean 2, standard error sqrt(2) / sqrt(2).
    assert "keras_kd against tfmot: +2.00 ± 1.00 points" in report.summary
    assert step.rows[3] == ("keras_kd", 16.0, 15.0, 20.0)
    # Round by round: .75, .5 and .64.
    assert "takes 0.64 (0.50 to 0.75) of tfmot's, and 1.60 (1.50 to 2.00) of the float" in (
        report.summary
    )
