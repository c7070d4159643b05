"""Every loss against values and gradients computed from the papers' own definitions.

`losses.npz` holds float64 arithmetic on float32 inputs; the tolerances, and why some are wider,
stand in tools/check_golden.py.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).parent / "losses.npz"
NAMES = sorted({key.split("/")[0] for key in np.load(FILE).files if "/" in key})


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(ROOT / "tools")
        import check_golden

        yield check_golden
        for name in [name for name in sys.modules if name.split(".")[0] == "golden_cases"]:
            del sys.modules[name]
        del sys.modules["check_golden"]


@pytest.fixture(scope="module")
def data():
    return np.load(FILE)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradients(tool, data, name):
    case = tool.case_of(name)
    assert case is not None, f"no function for the golden case {name}"
    gradients = {key.split("/")[2] for key in data.files if key.startswith(f"{name}/grad/")}
    assert gradients == set(case.gradients)
    value, computed = tool.compute(case, tool.inputs_of(data, name))
    assert tool.differences(name, value, computed, data) == []
