"""tensorflow-model-optimization for Keras 3 students: quantization, pruning and clustering.

tfmot works on tf_keras models alone. So a student is rebuilt in tf_keras (`twin`), made ready for
one of tfmot's methods (`quantize`, `prune`, `cluster`), trained by `Distiller` with its Keras 3
teacher, and taken back (`to_keras`, or `frozen` for a quantized one) to be converted.

    pip install "keras-kd[tfmot]"
"""

from keras_kd.quantization.tfmot.distiller import Distiller
from keras_kd.quantization.tfmot.frozen import frozen
from keras_kd.quantization.tfmot.layers import supported
from keras_kd.quantization.tfmot.methods import cluster, prune, quantize
from keras_kd.quantization.tfmot.twin import to_keras, twin
from keras_kd.quantization.tfmot.wrappers import strip

__all__ = [
    "Distiller",
    "cluster",
    "frozen",
    "prune",
    "quantize",
    "strip",
    "supported",
    "to_keras",
    "twin",
]
