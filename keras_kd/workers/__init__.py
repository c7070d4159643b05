"""Training by several machines, under `tf.distribute.MultiWorkerMirroredStrategy`."""

from keras_kd.workers.job import refused_together
from keras_kd.workers.model import WorkersModel

__all__ = ["WorkersModel", "refused_together"]
