"""The examples with ensembles and forests as teachers: small, and on real digits."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def loaded(name, monkeypatch):
    # An example may import another, as it does when it is run from its folder.
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"{name}_example", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_forest_teaches_a_network_that_runs_as_int8(tmp_path, monkeypatch):
    example = loaded("random_forest_teacher", monkeypatch)
    found = example.run(example.load(), tmp_path, example.FAST)
    teachers, students = found.data["teachers"], found.data["students"]
    # Ten trees and one epoch: far above chance, which is 0.1.
    assert teachers["random forest"] > 0.8
    assert len(teachers) == 4
    for name in example.STUDENTS:
        (row,) = students[name]
        assert abs(row["keras"] - row["litert"]) < 0.2
        assert row["size_bytes"] < 10_000
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("test.json")}
    assert len(kept) == 3
    with pytest.raises(ValueError, match="a folder begun with these settings"):
        example.run(example.load(), tmp_path, example.Settings())


@pytest.mark.slow
def test_the_ensemble_goes_on_where_it_was(tmp_path, monkeypatch):
    example = loaded("ensemble_cifar10", monkeypatch)
    generator = np.random.default_rng(0)

    def split(count):
        y = np.arange(count) % 10
        x = generator.integers(0, 60, size=(count, 32, 32, 3))
        x[np.arange(count), 2 + 3 * y] += 190
        return example.Split(x.astype(np.uint8), y)

    names = tuple(f"row {k}" for k in range(10))
    data = example.Data(split(300), split(50), split(50), names)
    found = example.run(data, tmp_path, example.FAST, members=2)
    assert [len(found.data[key][0]) for key in ("members", "students")] == [2, 2]
    assert set(found.data["int8"]) == {example.DISTILLED_SINGLE, example.DISTILLED_ENSEMBLE}

    def refuse(*args):
        raise AssertionError("a network that is finished was trained again")

    monkeypatch.setattr(example, "fit", refuse)
    again = example.run(data, tmp_path, example.FAST, members=2)
    assert again.data["members"] == found.data["members"]
