"""tf_keras and tensorflow-model-optimization, or an error that says how to get them.

tensorflow-model-optimization sets TF_USE_LEGACY_KERAS when it is imported. It works without: it
takes tf_keras by itself once `tf.keras` is Keras 3. So `tf.keras` is asked for first and the
variable is put back, and neither this process nor those it starts have another Keras for it.
"""

import os

import tensorflow as tf

_LEGACY = "TF_USE_LEGACY_KERAS"


def _imported():
    # TensorFlow looks at the variable when `tf.keras` is first used, and never again.
    tf.keras.version()
    before = os.environ.get(_LEGACY)
    try:
        import tensorflow_model_optimization
        import tf_keras
    except ImportError as err:
        raise ImportError(
            "Expected tensorflow-model-optimization and tf_keras for keras_kd.quantization.tfmot. "
            f'Received: {err}. Hint: pip install "keras-kd[tfmot]"'
        ) from err
    finally:
        if before is None:
            os.environ.pop(_LEGACY, None)
        else:
            os.environ[_LEGACY] = before
    return tf_keras, tensorflow_model_optimization


tf_keras, tfmot = _imported()
