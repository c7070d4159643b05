"""Quantization-aware training: what the student learned is what the device computes."""

from keras_kd.quantization.layers import FakeQuantize, Quantized
from keras_kd.quantization.observers import (
    Fixed,
    LearnedStep,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    Observer,
    Percentile,
)
from keras_kd.quantization.phases import Phases, is_quantized, set_phase
from keras_kd.quantization.rewrite import calibrate, quantize_aware
from keras_kd.quantization.schemes import SCHEMES, Scheme

__all__ = [
    "SCHEMES",
    "FakeQuantize",
    "Fixed",
    "LearnedStep",
    "MeanSquaredError",
    "MinMax",
    "MovingAverage",
    "Observer",
    "Percentile",
    "Phases",
    "Quantized",
    "Scheme",
    "calibrate",
    "is_quantized",
    "quantize_aware",
    "set_phase",
]
