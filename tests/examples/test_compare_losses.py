"""The comparison of methods: its arithmetic, and a run on made-up pictures."""

import sys
from pathlib import Path

import numpy as np
import pytest

import keras_kd

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(EXAMPLES)
        import compare_losses

        yield compare_losses
        del sys.modules["compare_losses"], sys.modules["fashion_mnist"]


def made_up_data(example):
    """Ten bright rows, one a class, in noise."""
    generator = np.random.default_rng(0)
    split_class = sys.modules["fashion_mnist"].Split

    def split(count):
        y = np.arange(count) % 10
        x = generator.integers(0, 60, size=(count, 28, 28, 1))
        x[np.arange(count), 2 + 2 * y] += 190
        return split_class(x.astype(np.uint8), y)

    return example.Data(split(200), split(50), split(50), [f"row {k}" for k in range(10)])


def test_twelve_methods_and_more_are_compared(example):
    names = {method.name for method in example.METHODS}
    assert len(names) >= 12
    assert names <= set(keras_kd.losses.available())


def test_the_total_has_the_papers_proportions(example):
    (method,) = (m for m in example.METHODS if m.name == "kd")
    distiller = method.distiller(*(example.student_network((28, 28, 1)) for _ in range(2)))
    assert distiller.student_loss_weight == pytest.approx(0.1)
    (method,) = (m for m in example.METHODS if m.name == "lskd")
    distiller = method.distiller(*(example.student_network((28, 28, 1)) for _ in range(2)))
    # task : loss = 1 : 9.
    assert distiller.student_loss_weight == pytest.approx(0.1)


def test_gains_are_paired_by_seed(example):
    def entry(value):
        return {"float": value, "int8": value - 0.01}

    results = {
        example.ALONE: [entry(0.80), entry(0.90)],
        "kd": [entry(0.82), entry(0.91)],
    }
    report = example.full_report(0.95, results, example.Budget())
    (table,) = report.sections[0].blocks
    teacher, alone, kd = table.rows
    assert teacher[:2] == ("teacher", 0.95)
    assert alone[1] == pytest.approx(0.85)
    assert kd[3].value == pytest.approx(0.015)
    # Gains of .02 and .01: a deviation of .00707 over the root of two.
    assert kd[3].spread == pytest.approx(0.005)


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(example, tmp_path, capsys):
    data = made_up_data(example)
    settings = sys.modules["fashion_mnist"].FAST
    budget = example.Budget(examples=200, epochs=2, batch_size=50)
    rows = (example.ALONE, example.KERAS, "kd", "crd")
    first = example.run(data, tmp_path, budget, settings, rows=rows)
    assert capsys.readouterr().out.count("seed 0") == 4
    again = example.run(data, tmp_path, budget, settings, rows=rows)
    assert "seed 0" not in capsys.readouterr().out
    assert again.data == first.data
    with pytest.raises(ValueError, match="Hint: another --output"):
        example.run(data, tmp_path, example.Budget(epochs=3), settings, rows=rows)
