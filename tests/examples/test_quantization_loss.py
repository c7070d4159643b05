"""What quantization costs: the table's arithmetic, and a run on made-up pictures."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(EXAMPLES)
        import quantization_loss

        yield quantization_loss
        del sys.modules["quantization_loss"], sys.modules["fashion_mnist"]


def made_up_data(example):
    """Ten bright rows, one a class, in noise."""
    generator = np.random.default_rng(0)

    def split(count):
        y = np.arange(count) % 10
        x = generator.integers(0, 60, size=(count, 28, 28, 1))
        x[np.arange(count), 2 + 2 * y] += 190
        return example.Split(x.astype(np.uint8), y)

    return example.Data(split(256), split(50), split(100), [f"row {k}" for k in range(10)])


def results_of(example, *rows):
    names = ("float", example.AFTER, example.ALONE, example.DISTILLED)
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_table_pairs_the_seeds_and_counts_what_is_recovered(example):
    results = results_of(example, (0.90, 0.86, 0.88, 0.90), (0.80, 0.78, 0.80, 0.79))
    table = example.result_table(results)
    assert [row[0] for row in table.rows] == list(results[0])
    floats, after, alone, distilled = table.rows
    assert floats[1] == pytest.approx(0.85)
    assert floats[2] == pytest.approx(math.sqrt(0.005))  # two seeds, one degree of freedom
    assert floats[3:] == (None, None)
    # Lost: .04 and .02, so .03 with a standard deviation of .01 * sqrt(2) over sqrt(2) seeds.
    assert (after[3].value, after[3].spread) == (pytest.approx(0.03), pytest.approx(0.01))
    assert after[4] is None
    # Of .06 lost in both seeds .02 + .02 and .04 + .01 are back.
    assert alone[4] == pytest.approx(4 / 6)
    assert distilled[4] == pytest.approx(5 / 6)


def test_one_seed_has_no_deviation_and_no_loss_nothing_recovered(example):
    (row, *_, distilled) = example.result_table(results_of(example, (0.9, 0.9, 0.9, 0.91))).rows
    assert row[2] is None
    assert distilled[3].value == pytest.approx(-0.01)
    assert distilled[3].spread is None
    assert distilled[4] is None


def test_candidates_give_logits_for_both_datasets(example):
    for name, candidate in example.CANDIDATES.items():
        for shape in ((28, 28, 1), (32, 32, 3)):
            student = candidate.student(shape)
            assert student.output_shape == (None, 10), name
            assert student.layers[-1].activation.__name__ == "linear", name


def test_bad_number_of_seeds_is_bad_usage(example):
    with pytest.raises(SystemExit, match="2"):
        example.main(["--seeds", "0"])


@pytest.mark.slow
def test_runs_on_arrays_and_goes_on_where_it_was(example, tmp_path, monkeypatch):
    data = made_up_data(example)
    settings = dataclasses.replace(
        example.Settings(), candidate="separable, per tensor", epochs=2, quantized_epochs=1
    )
    found = example.run(data, tmp_path, settings, seeds=1)
    (result,) = found.data["seeds"]
    assert list(result) == ["float", example.AFTER, example.ALONE, example.DISTILLED]
    for name in ("after_training", "alone/student", "distilled/student"):
        assert (tmp_path / "seed-0" / f"{name}.tflite").is_file()

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(example, "train", refuse)
    assert example.run(data, tmp_path, settings, seeds=1).data == found.data


@pytest.mark.slow
def test_search_reports_the_loss_on_the_validation_split(example, tmp_path, monkeypatch):
    candidates = {"separable, per tensor": example.CANDIDATES["separable, per tensor"]}
    monkeypatch.setattr(example, "CANDIDATES", candidates)
    settings = dataclasses.replace(example.Settings(), epochs=1)
    seen = []
    right = example.right_answers

    def noted(model, split, runtime):
        seen.append((len(split.y), float(right(model, split, runtime).mean())))
        return right(model, split, runtime)

    monkeypatch.setattr(example, "right_answers", noted)
    lost = example.search(made_up_data(example), tmp_path, settings, "litert_reference")
    assert [count for count, _ in seen] == [50, 50]
    assert lost == {"separable, per tensor": pytest.approx(seen[0][1] - seen[1][1])}
