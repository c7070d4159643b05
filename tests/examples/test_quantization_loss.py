"""What quantization costs: the table's arithmetic, and a run on made-up pictures."""

import dataclasses
import math
import sys
from pathlib import Path

import pytest


def results_of(example, *rows):
    names = ("float", example.AFTER, example.ALONE, example.DISTILLED)
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_table_pairs_the_seeds_and_counts_what_is_recovered(example):
    results = results_of(example, (0.90, 0.86, 0.88, 0.90), (0.80, 0.78, 0.80, 0.79))
    table = example.result_table(0.95, results)
    assert [row[0] for row in table.rows] == ["teacher", *results[0]]
    teacher, floats, after, alone, distilled = table.rows
    assert teacher[1:] == (0.95, None, None, None)
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
    results = results_of(example, (0.9, 0.9, 0.9, 0.91))
    (_, row, *_, distilled) = example.result_table(0.95, results).rows
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


def test_teacher_fades_out_while_averages_move(example, bright_rows):
    settings = example.Settings(batch_size=100, quantized_epochs=8, frozen_epochs=3)
    shape, data = (28, 28, 1), bright_rows(250, 0, 0)
    teacher, student = example.separable(shape), example.separable(shape)
    weight = example.fading(teacher, student, data, settings).student_loss_weight
    # Three steps an epoch.
    assert [float(weight(step)) for step in (0, 6, 15, 24)] == pytest.approx([0.5, 0.7, 1, 1])


@pytest.mark.slow
def test_runs_on_arrays_and_goes_on_where_it_was(example, bright_rows, tmp_path, monkeypatch):
    data = bright_rows(256, 50, 100)
    settings = dataclasses.replace(example.FAST, candidate="separable, per tensor", epochs=2)
    found = example.run(data, tmp_path, settings, seeds=1)
    (result,) = found.data["seeds"]
    assert 0 <= found.data["teacher"] <= 1
    gain = 100 * (result[example.DISTILLED] - result[example.ALONE])
    assert found.summary.endswith(f" Distilled minus alone: {gain:+.2f} points (one seed).")
    assert list(result) == ["float", example.AFTER, example.ALONE, example.DISTILLED]
    for name in ("after_training", "alone/student", "distilled/student"):
        assert (tmp_path / "seed-0" / f"{name}.tflite").is_file()

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(example, "train", refuse)
    monkeypatch.setattr(sys.modules[example.trained_teacher.__module__], "train", refuse)
    assert example.run(data, tmp_path, settings, seeds=1).data == found.data


@pytest.mark.slow
def test_search_reports_the_loss_on_the_validation_split(
    example, bright_rows, tmp_path, monkeypatch
):
    candidates = {"separable, per tensor": example.CANDIDATES["separable, per tensor"]}
    monkeypatch.setattr(example, "CANDIDATES", candidates)
    settings = dataclasses.replace(example.Settings(), epochs=1)
    seen = []
    accuracy = example.accuracy

    def noted(model, split):
        seen.append((len(split.y), accuracy(model, split)))
        return seen[-1][1]

    monkeypatch.setattr(example, "accuracy", noted)
    lost = example.search(bright_rows(256, 50, 100), tmp_path, settings)
    assert [count for count, _ in seen] == [50, 50]
    assert lost == {"separable, per tensor": pytest.approx(seen[0][1] - seen[1][1])}


def test_search_has_no_page(example, capsys):
    with pytest.raises(SystemExit, match="2"):
        example.main(["--search", "--result", "page.md"])
    assert "not with --search" in capsys.readouterr().err


def test_options_are_settings(example, monkeypatch):
    monkeypatch.setattr(example.experiment, "load", lambda name, data_dir: name)
    seen = []

    def note(data, folder, settings):
        seen.append((data, folder, settings))

    monkeypatch.setattr(example, "search", note)
    example.main(["--search", "--output", "out", "--data", "cifar10", "--fast"])
    candidate = "separable, per tensor"
    example.main(["--search", "--output", "out", "--epochs", "3", "--candidate", candidate])
    assert seen == [
        ("cifar10", Path("out/cifar10_search"), example.FAST),
        (
            "fashion_mnist",
            Path("out/fashion_mnist_search"),
            example.Settings(candidate=candidate, epochs=3),
        ),
    ]
