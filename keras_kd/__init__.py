"""Knowledge distillation for Keras on TensorFlow, whose product is a small student on a device."""

import importlib
import pathlib
import sys

__version__ = "0.1.0"

__all__ = [
    "DistillationLoss",
    "Distiller",
    "FeatureDistillation",
    "LogitsDistillation",
    "data",
    "deploy",
    "ensembles",
    "losses",
    "metrics",
    "quantization",
    "report",
    "schedules",
    "students",
    "suggest_layers",
    "targets",
    "teachers",
]

# Loaded when first used: most who train need none of them.
_ON_DEMAND = ("deploy", "report", "students", "targets")
# Loaded at once, as Keras's `load_model` finds only classes that are registered already. In the
# `keras-kd` command they too are loaded when first used: TensorFlow takes seconds to load, and
# some of the command's answers need none.
_MODULES = ("data", "ensembles", "losses", "metrics", "quantization", "schedules", "teachers")
_HOMES = {
    "DistillationLoss": "losses",
    "Distiller": "distiller",
    "FeatureDistillation": "losses",
    "LogitsDistillation": "losses",
    "suggest_layers": "suggest",
}


def __getattr__(name):
    if name in _ON_DEMAND:
        return importlib.import_module(f"keras_kd.{name}")
    if name in _MODULES or name in _HOMES:
        importlib.import_module("keras_kd._backend")
        module = importlib.import_module(f"keras_kd.{_HOMES.get(name, name)}")
        return getattr(module, name) if name in _HOMES else module
    raise AttributeError(f"module 'keras_kd' has no attribute {name!r}")


def _is_command():
    """Whether this process is `keras-kd`: on Windows "keras-kd.exe" or "keras-kd-script.py"."""
    program = pathlib.PurePath((getattr(sys, "argv", None) or [""])[0]).name
    return program == "keras-kd" or program.startswith(("keras-kd.", "keras-kd-script."))


if not _is_command():
    from keras_kd import _backend as _backend
    from keras_kd import data, ensembles, losses, metrics, quantization, schedules, teachers
    from keras_kd.distiller import Distiller
    from keras_kd.losses import DistillationLoss, FeatureDistillation, LogitsDistillation
    from keras_kd.suggest import suggest_layers
