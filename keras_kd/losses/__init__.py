"""Distillation losses: each a pure function and a thin class for the distiller."""

from keras_kd.losses import feature, relation, response, sequence
from keras_kd.losses.base import Context, DistillationLoss, Ends
from keras_kd.losses.feature import FeatureDistillation
from keras_kd.losses.registry import available, get, methods, table
from keras_kd.losses.response import LogitsDistillation, binary_soft_target, soft_target
from keras_kd.losses.translate import as_distillation_loss

__all__ = [
    "Context",
    "DistillationLoss",
    "Ends",
    "FeatureDistillation",
    "LogitsDistillation",
    "as_distillation_loss",
    "available",
    "binary_soft_target",
    "feature",
    "get",
    "methods",
    "relation",
    "response",
    "sequence",
    "soft_target",
    "table",
]
