"""Students by design: small models of the literature, what a model costs, and thinner teachers."""

from keras_kd.students.budget import like
from keras_kd.students.counting import Cost, cost
from keras_kd.students.keyword_spotting import ds_cnn
from keras_kd.students.mobilenet import mobilenet_v1, mobilenet_v2
from keras_kd.students.resnet import resnet8
from keras_kd.students.sensor import sensor_cnn
from keras_kd.students.text import text_transformer

__all__ = [
    "Cost",
    "cost",
    "ds_cnn",
    "like",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet8",
    "sensor_cnn",
    "text_transformer",
]
