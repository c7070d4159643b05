"""What the tests of the tools share."""

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def benchmark():
    """`tools/benchmark.py`, imported as it is run: its folder comes first."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(TOOLS)
        import benchmark

        yield benchmark
        for name in ["timing", *(path.stem for path in TOOLS.glob("benchmark*.py"))]:
            sys.modules.pop(name, None)
