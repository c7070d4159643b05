"""Flatbuffers by hand, for commands that read a `.tflite`."""

import importlib.util
import pathlib

import pytest


@pytest.fixture(scope="session")
def by_hand():
    """The module that makes flatbuffers: tests are no package, so it is loaded from its file."""
    path = pathlib.Path(__file__).parents[1] / "deploy" / "flatbuffers_by_hand.py"
    spec = importlib.util.spec_from_file_location("flatbuffers_by_hand", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
