"""`benchmark.py targets`: its promises, and a run that is too short to be quoted."""

import json

import pytest


def found(**changes):
    return {
        "step": {"ratio": 1.05, "control": 1.01, "teacher_cost": 12.0} | changes.get("step", {}),
        "writing": {"ratio": 1.02, "rate": 900.0} | changes.get("writing", {}),
        "reading": {"rates": {"look-up alone": 400_000.0}, "record_bytes": 25, "bytes": 33.1}
        | changes.get("reading", {}),
    }


def test_promises(benchmark):
    promises = benchmark.benchmark_targets.promises
    assert [target.reached for target in promises(found())] == [True] * 4
    for index, missed in enumerate(
        [
            {"step": {"ratio": 1.11}},
            {"step": {"teacher_cost": 9.0}},
            {"writing": {"ratio": 1.06}},
            {"reading": {"rates": {"look-up alone": 190_000.0}}},
        ]
    ):
        reached = [target.reached for target in promises(found(**missed))]
        assert reached == [entry != index for entry in range(4)]


def test_text_says_every_number(benchmark):
    text = benchmark.benchmark_targets.text(found(writing={"ratio": 1.2}))
    assert "900 examples a second" in text
    assert "400,000 examples a second, look-up alone" in text
    assert "25 a record" in text
    assert text.count("reached") == 3
    assert text.count("MISSED") == 1


def test_short_run_writes_its_numbers(benchmark, tmp_path, capsys):
    path = tmp_path / "targets.json"
    short = ["--rounds", "1", "--examples", "2000", "--parts", "reading", "--json", str(path)]
    assert benchmark.main(["targets", *short]) in (0, 1)
    numbers = json.loads(path.read_text())
    # Key 8, five classes of a byte, five probabilities and the rest of two bytes.
    assert numbers["reading"]["record_bytes"] == 25
    assert "look-up alone" in capsys.readouterr().out


@pytest.mark.slow
def test_short_run_of_step_and_writing(benchmark, tmp_path):
    path = tmp_path / "targets.json"
    short = ["--rounds", "1", "--steps", "2", "--batch-size", "4", "--json", str(path)]
    assert benchmark.main(["targets", *short, "--parts", "step", "writing"]) in (0, 1)
    numbers = json.loads(path.read_text())
    assert numbers["step"]["teacher_cost"] > 1.0
    assert numbers["writing"]["rate"] > 0.0
