"""The comparison of methods: its arithmetic, and a run on made-up pictures."""

import pytest

import keras_kd


def test_twelve_methods_and_more_are_compared(example):
    names = {method.name for method in example.METHODS}
    assert len(names) >= 12
    assert names <= set(keras_kd.losses.available())


def test_the_total_has_the_papers_proportions(example):
    (method,) = (m for m in example.METHODS if m.name == "kd")
    distiller = method.distiller(
        *(example.fashion_mnist.student_network((28, 28, 1)) for _ in range(2))
    )
    assert distiller.student_loss_weight == pytest.approx(0.1)
    (method,) = (m for m in example.METHODS if m.name == "lskd")
    distiller = method.distiller(
        *(example.fashion_mnist.student_network((28, 28, 1)) for _ in range(2))
    )
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
def test_a_run_goes_on_where_it_was(example, bright_rows, tmp_path, capsys):
    data, settings = bright_rows(200, 50, 50), example.fashion_mnist.FAST
    budget = example.Budget(examples=200, epochs=2, batch_size=50)
    rows = (example.ALONE, example.KERAS, "kd", "crd")
    first = example.run(data, tmp_path, budget, settings, rows=rows)
    assert capsys.readouterr().out.count("seed 0") == 4
    again = example.run(data, tmp_path, budget, settings, rows=rows)
    assert "seed 0" not in capsys.readouterr().out
    assert again.data == first.data
    with pytest.raises(ValueError, match="Hint: another --output"):
        example.run(data, tmp_path, example.Budget(epochs=3), settings, rows=rows)
