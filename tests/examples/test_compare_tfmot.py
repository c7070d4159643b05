"""The comparison with tfmot: a run on made-up pictures, and what its page says."""

import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(EXAMPLES)
        import compare_tfmot

        yield compare_tfmot
        del sys.modules["compare_tfmot"], sys.modules["fashion_mnist"]


def made_up_data(example):
    """Ten bright rows, one a class, in noise."""
    generator = np.random.default_rng(0)
    split_class = sys.modules["fashion_mnist"].Split

    def split(count):
        y = np.arange(count) % 10
        x = generator.integers(0, 60, size=(count, 28, 28, 1))
        x[np.arange(count), 2 + 2 * y] += 190
        return split_class(x.astype(np.uint8), y)

    return example.Data(split(500), split(50), split(50), [f"row {k}" for k in range(10)])


@pytest.mark.slow
def test_runs_and_goes_on_where_it_was(example, tmp_path, capsys):
    data = made_up_data(example)
    first = example.run(data, tmp_path, example.FAST, seeds=1, command="the command")
    for row in ("float", "post-training int8", "tfmot", "keras_kd"):
        assert f"| {row} | " in first
    for file in ("float.keras", "tfmot.tflite", "keras_kd.tflite", "tfmot.json"):
        assert (tmp_path / "seed-0" / file).exists()
    kept = (tmp_path / "seed-0" / "keras_kd.tflite").stat().st_mtime_ns
    assert example.run(data, tmp_path, example.FAST, seeds=1, command="the command") == first
    assert (tmp_path / "seed-0" / "keras_kd.tflite").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="Expected a folder begun with"):
        example.run(data, tmp_path, example.Budget(), seeds=1, command="the command")


def test_the_student_has_the_size_that_it_says(example):
    weights = example.student_network((28, 28, 1)).count_params()
    assert f"{weights:,} weights" in example.student_network.__doc__


def test_the_page_has_means_and_paired_differences(example):
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
    page = example.page(results, times, example.Budget(), 10_000, "the command")
    assert "| float | 91.00 | 1.41 |  |" in page
    assert "| tfmot | 89.00 | 1.41 | 12 |" in page
    # Differences of 1 and 3 points: mean 2, standard error sqrt(2) / sqrt(2).
    assert "`keras_kd` against tfmot: +2.00 ± 1.00 points" in page
    assert "| keras_kd | 16.0 | 15.0 | 20.0 |" in page
    # Round by round: .75, .5 and .64.
    assert "takes 0.64 (0.50 to 0.75) of tfmot's, and 1.60 (1.50 to 2.00) of the float" in page
