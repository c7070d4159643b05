"""The folder examples/, for the tests of what is in it."""

import importlib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def imported(name):
    """A module of the folder, which finds the others as when it is run from there."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(EXAMPLES)
        return importlib.import_module(name)
