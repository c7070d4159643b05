"""The benchmark's arithmetic on made-up numbers, and one run with tiny models."""

import json
import sys

import numpy as np
import pytest

import keras_kd


@pytest.fixture
def step(benchmark):
    return benchmark.benchmark_step


def comparison(step, **seconds):
    names = {
        "hand": step.HAND_WRITTEN,
        "control": step.CONTROL,
        "ours": step.OURS,
        "keras": step.KERAS,
        "plain": step.PLAIN,
    }
    return step.Comparison({names[k]: v for k, v in seconds.items()}, steps=10)


def test_lower_quartile_lies_a_quarter_up_and_ignores_slow_rounds(step):
    assert sys.modules["timing"].lower_quartile([5.0, 1.0, 3.0, 2.0, 4.0]) == 2.0
    assert sys.modules["timing"].lower_quartile([1.0, 2.0]) == 1.25
    assert sys.modules["timing"].lower_quartile([1.0, 1.0, 1.0, 1.0, 1000.0]) == 1.0


def test_ratios_are_of_lower_quartiles(step):
    result = comparison(step, hand=[1.0, 2.0, 3.0, 4.0, 99.0], control=[2.0] * 5, ours=[3.0] * 5)
    assert result.ratio(step.OURS) == 1.5
    assert result.ratio(step.OURS, to=step.CONTROL) == 1.5
    assert result.control_error == 0.0


@pytest.mark.parametrize(
    ("control", "void"), [(1.0, False), (1.04, False), (0.96, False), (1.06, True), (0.94, True)]
)
def test_run_is_void_when_the_control_is_off_by_more_than_five_percent(step, control, void):
    assert comparison(step, hand=[1.0] * 3, control=[control] * 3).void is void


def test_first_target_allows_the_controls_own_error(step):
    result = comparison(step, hand=[1.0] * 3, control=[0.98] * 3, ours=[1.049] * 3, keras=[2.0] * 3)
    (target,) = result.targets(features=False)
    assert target.limit == pytest.approx(1.05, abs=1e-12)  # float rounding of 1.03 + 0.02
    assert target.reached
    slower = comparison(step, hand=[1.0] * 3, control=[0.98] * 3, ours=[1.051] * 3)
    assert not slower.targets(features=False)[0].reached


@pytest.mark.parametrize(("keras_seconds", "reached"), [(1.6, True), (1.5, False)])
def test_with_features_ours_is_held_against_keras(step, keras_seconds, reached):
    result = comparison(
        step, hand=[1.0] * 3, control=[1.0] * 3, ours=[1.0] * 3, keras=[keras_seconds] * 3
    )
    _, target = result.targets(features=True)
    assert target.limit == 0.65
    assert target.reached is reached


def test_every_side_runs_once_a_round_in_an_order_that_changes(step):
    calls = []
    sides = {name: (lambda name=name: calls.append(name) or 0.0) for name in "abcd"}
    seconds = step.time_rounds(sides, rounds=8, seed=3, progress=False)
    assert {len(values) for values in seconds.values()} == {8}
    rounds = [tuple(calls[i : i + 4]) for i in range(0, len(calls), 4)]
    assert all(set(names) == set("abcd") for names in rounds)
    assert len(set(rounds)) > 1
    again = list(calls)
    calls.clear()
    step.time_rounds(sides, rounds=8, seed=3, progress=False)
    assert calls == again


def test_side_that_computes_something_else_is_refused(step):
    sides = {step.HAND_WRITTEN: lambda: 2.0, step.OURS: lambda: 2.1}
    with pytest.raises(RuntimeError, match=r"does not compute the same thing"):
        step.warm_up(sides)
    sides[step.OURS] = lambda: float("nan")
    with pytest.raises(RuntimeError, match=r"nan from keras_kd"):
        step.warm_up(sides)


def result_of(step, memory, **seconds):
    case = step.Case("features", ("block2", "block3"))
    names = (step.HAND_WRITTEN, step.OURS)
    return step.Result(case, comparison(step, **seconds), dict(zip(names, memory, strict=True)))


def test_memory_is_the_median_of_the_processes_held_against_the_loop(step):
    result = result_of(
        step,
        ([100.0, 100.0, 300.0], [104.0, 50.0, 120.0]),
        hand=[1.0] * 3,
        control=[1.0] * 3,
        ours=[1.0] * 3,
    )
    assert result.targets()[-1].value == pytest.approx(1.04)
    assert result.targets()[-1].reached


def test_text_says_void_and_missed(step):
    result = result_of(step, ([100.0], [120.0]), hand=[1.0] * 3, control=[1.2] * 3, ours=[2.0] * 3)
    text = result.text()
    assert "VOID: the control, the same code, is off by 20.0%" in text
    assert "keras_kd / hand-written: 2.000, at most 1.230: MISSED" in text
    assert "peak memory, keras_kd / hand-written: 1.200, at most 1.050: MISSED" in text


@pytest.mark.parametrize(
    ("control", "ours", "code"), [(1.0, 1.0, 0), (1.06, 1.0, 1), (1.0, 1.04, 1)]
)
def test_exit_code_is_one_when_void_or_missed(benchmark, step, monkeypatch, control, ours, code):
    seconds = {
        step.HAND_WRITTEN: [1.0] * 3,
        step.CONTROL: [control] * 3,
        step.OURS: [ours] * 3,
    }
    monkeypatch.setattr(
        step,
        "measure",
        lambda case, args: step.Result(case, step.Comparison(seconds, 10), {}),
    )
    assert benchmark.main(["step", "--configurations", "logits"]) == code


@pytest.mark.parametrize(
    "arguments", [[], ["step", "--rounds", "0"], ["step", "--sides", "keras_kd"]]
)
def test_bad_usage_exits_two(benchmark, arguments):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(arguments)


@pytest.mark.slow
def test_tiny_run_times_every_side_and_writes_json(benchmark, step, tmp_path, capsys):
    """Two tiny rounds: the speed says nothing, that the five sides agree on the loss does."""
    path = tmp_path / "step.json"
    sizes = ["--batch-size", "4", "--image-size", "8", "--width", "2", "--steps", "2"]
    sizes += ["--teacher-depth", "1", "--student-depth", "1"]
    arguments = ["step", *sizes, "--rounds", "2", "--memory-runs", "0", "--json", str(path)]
    code = benchmark.main([*arguments, "--configurations", "features", "projected"])
    shown = capsys.readouterr().out
    assert code in (0, 1)  # two rounds of a millisecond: anything can be void
    content = json.loads(path.read_text())
    features, projected = content["results"]
    assert list(features["seconds"]) == list(step.SIDES)
    assert step.KERAS not in projected["seconds"]  # it has no projectors
    for seconds in features["seconds"].values():
        assert len(seconds) == 2
        assert np.all(np.array(seconds) > 0)
    assert "batch 4, 2 steps a run, 2 rounds" in shown


def test_memory_of_one_side_is_that_of_its_own_process(step):
    """A process that was started by a large one must not show the large one's peak."""
    case = step.Case("logits", image_size=8, width=2, teacher_width=2, batch_size=4, steps=2)
    ballast = np.ones(2**27, dtype=np.int64)  # 1 GiB, more than TensorFlow and the tiny models take
    (mib,) = step.peak_memory_mib(case, step.PLAIN, repeats=1)
    del ballast
    assert 50 < mib < 1024


@pytest.mark.slow
def test_every_method_can_be_made_for_the_benchmark(benchmark):
    module = benchmark.benchmark_losses
    tried = set()
    for sequence in (False, True):
        for method in module.methods(sequence):
            assert callable(module.Setting(sequence, steps=1).run(method))
            tried.add(method)
    assert tried == set(keras_kd.losses.available())


@pytest.mark.slow
def test_a_run_of_losses_compares_each_with_the_soft_target(benchmark, tmp_path, capsys):
    path = tmp_path / "losses.json"
    arguments = ["losses", "--methods", "sp", "hidden", "--rounds", "2", "--steps", "1"]
    assert benchmark.main([*arguments, "--no-memory", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [(row["models"], row["method"]) for row in rows] == [
        ("pictures", "sp"),
        ("encoders", "hidden"),
    ]
    for row in rows:
        assert row["ratio"] > 0
        assert [len(seconds) for seconds in row["seconds"].values()] == [2, 2]
    assert "pictures  sp" in capsys.readouterr().out
