"""Knowledge distillation for Keras on TensorFlow, whose product is a small student on a device."""

import importlib

from keras_kd import _backend as _backend
from keras_kd import data, losses, metrics, schedules
from keras_kd.distiller import Distiller
from keras_kd.losses import DistillationLoss, FeatureDistillation, LogitsDistillation
from keras_kd.suggest import suggest_layers

__version__ = "0.1.0"

__all__ = [
    "DistillationLoss",
    "Distiller",
    "FeatureDistillation",
    "LogitsDistillation",
    "data",
    "deploy",
    "losses",
    "metrics",
    "report",
    "schedules",
    "suggest_layers",
]


def __getattr__(name):
    # Loaded when first used: a person who trains needs neither.
    if name in ("deploy", "report"):
        return importlib.import_module(f"keras_kd.{name}")
    raise AttributeError(f"module 'keras_kd' has no attribute {name!r}")
