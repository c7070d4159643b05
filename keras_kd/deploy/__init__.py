"""From student to device: convert, run, measure and package a Keras model as TFLite.

Nothing here knows how a student was trained. TensorFlow is imported where it is used, so these
imports are light. They are made at once, not on demand: `convert` and `measure` are a function and
the module it stands in, and whichever is imported last would have the name.
"""

from keras_kd.deploy import devices, inspect
from keras_kd.deploy.artifact import Artifact, TensorInfo
from keras_kd.deploy.check import Check, boards_that_fit, check
from keras_kd.deploy.convert import ConversionError, convert
from keras_kd.deploy.inspect import ModelInfo, model_info
from keras_kd.deploy.interpreter import Interpreter, predict
from keras_kd.deploy.layer_error import LayerError, layer_errors, worst
from keras_kd.deploy.litert_benchmark import LiteRTBenchmark, litert_benchmark
from keras_kd.deploy.measure import Measurement, measure
from keras_kd.deploy.proof import prove
from keras_kd.deploy.sparsity import KernelSparsity, Sparsity, sparsity

__all__ = [
    "Artifact",
    "Check",
    "ConversionError",
    "Interpreter",
    "KernelSparsity",
    "LayerError",
    "LiteRTBenchmark",
    "Measurement",
    "ModelInfo",
    "Sparsity",
    "TensorInfo",
    "boards_that_fit",
    "check",
    "convert",
    "devices",
    "inspect",
    "layer_errors",
    "litert_benchmark",
    "measure",
    "model_info",
    "predict",
    "prove",
    "sparsity",
    "worst",
]
