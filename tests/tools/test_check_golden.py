"""The tool that computes golden cases: what it writes, compares and refuses."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(ROOT / "tools")
        import check_golden

        yield check_golden
        for name in [name for name in sys.modules if name.split(".")[0] == "golden_cases"]:
            del sys.modules[name]
        del sys.modules["check_golden"]


@pytest.fixture
def inputs(rng):
    student, teacher = rng.normal(size=(2, 3, 7)).astype("float32")
    return {"kd_hinton_T4_other/in/student": student, "kd_hinton_T4_other/in/teacher": teacher}


def test_what_a_file_lacks_is_written_beside_it(tool, inputs, tmp_path, capsys):
    np.savez(tmp_path / "other.npz", **inputs)
    assert tool.main([str(tmp_path / "other.npz")]) == 0
    found = np.load(tmp_path / "other.computed.npz")
    assert found["kd_hinton_T4_other/expected"] > 0
    gradient = found["kd_hinton_T4_other/grad/student"]
    # Probabilities sum to 1, so the gradient of a row of logits sums to 0.
    np.testing.assert_allclose(gradient.sum(-1), 0.0, atol=1e-6)
    assert "1 cases, 0 of them wrong" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["expected", "grad/student"])
def test_what_differs_is_said(tool, inputs, tmp_path, capsys, what):
    np.savez(tmp_path / "other.npz", **inputs)
    tool.main([str(tmp_path / "other.npz")])
    found = dict(np.load(tmp_path / "other.computed.npz"))
    found[f"kd_hinton_T4_other/{what}"] *= 1.001
    np.savez(tmp_path / "wrong.npz", **inputs, **found)
    assert tool.main([str(tmp_path / "wrong.npz")]) == 1
    assert "off by 1.0e-03" in capsys.readouterr().out


def test_nothing_against_nothing_is_no_difference(tool):
    assert tool.relative(np.zeros(3), np.zeros(3)) == 0.0
    assert tool.relative(np.array([1e-9]), np.zeros(1)) == np.inf
    assert not tool.relative(np.array([np.nan]), np.ones(1)) <= 1.0


def test_a_case_that_cannot_be_computed_does_not_stop_the_others(tool, inputs, tmp_path, capsys):
    bad = {"hint_mse/in/student": np.ones((2, 3, 4, 4), "float32")}
    bad["hint_mse/in/teacher"] = np.ones((2, 5, 4, 4), "float32")
    np.savez(tmp_path / "mixed.npz", **bad, **inputs)
    assert tool.main([str(tmp_path / "mixed.npz")]) == 1
    shown = capsys.readouterr().out
    assert "cannot be computed" in shown
    assert "2 cases, 1 of them wrong" in shown


def test_an_unknown_case_is_named(tool, tmp_path, capsys):
    np.savez(tmp_path / "new.npz", **{"magic/in/student": np.ones(2)})
    assert tool.main([str(tmp_path / "new.npz")]) == 0
    assert "no such loss here" in capsys.readouterr().out


def test_what_is_no_npz_is_bad_usage(tool, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        tool.main([str(tmp_path / "missing.npz")])
