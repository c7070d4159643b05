"""From student to device: convert, run, measure and package a Keras model as TFLite.

Nothing here knows how a student was trained. TensorFlow is imported where it is used, so these
imports are light. They are made at once, not on demand: `convert` and `measure` are a function and
the module it stands in, and whichever is imported last would have the name.
"""

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import Artifact, TensorInfo
from keras_kd.deploy.convert import ConversionError, convert
from keras_kd.deploy.inspect import ModelInfo, model_info
from keras_kd.deploy.interpreter import Interpreter, predict
from keras_kd.deploy.measure import Measurement, measure

__all__ = [
    "Artifact",
    "ConversionError",
    "Interpreter",
    "Measurement",
    "ModelInfo",
    "TensorInfo",
    "convert",
    "inspect",
    "measure",
    "model_info",
    "predict",
]
