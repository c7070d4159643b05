"""tfmot's three methods on a Keras 3 student: quantization-aware training, pruning, clustering."""

import keras

from keras_kd.quantization.tfmot.packages import tf_keras, tfmot
from keras_kd.quantization.tfmot.twin import check_student, twin
from keras_kd.quantization.tfmot.wrappers import copied, flat_layers, is_wrapped

# What tfmot 0.8's default 8-bit scheme takes. A BatchNormalization it takes behind a convolution or
# a dense layer alone, and says so itself. SeparableConv1D, which it knows, it turns into a Lambda
# that tf_keras refuses to load.
_QUANTIZED = frozenset(
    {
        "Activation",
        "Add",
        "AveragePooling1D",
        "AveragePooling2D",
        "BatchNormalization",
        "Concatenate",
        "Conv2D",
        "Conv2DTranspose",
        "Cropping1D",
        "Cropping2D",
        "Dense",
        "DepthwiseConv2D",
        "Dropout",
        "Flatten",
        "GlobalAveragePooling1D",
        "GlobalAveragePooling2D",
        "GlobalMaxPooling1D",
        "GlobalMaxPooling2D",
        "LeakyReLU",
        "MaxPooling2D",
        "Permute",
        "ReLU",
        "Reshape",
        "SeparableConv2D",
        "Softmax",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "UpSampling2D",
        "ZeroPadding1D",
        "ZeroPadding2D",
    }
)
_QUANTIZED_ACTIVATIONS = ("gelu", "linear", "relu", "sigmoid", "silu", "softmax", "tanh")
# The kernel that tfmot prunes and clusters in each layer. It leaves depthwise kernels alone, whose
# few weights an accuracy hangs on.
_KERNELS = {
    "Conv1D": "kernel",
    "Conv2D": "kernel",
    "Conv2DTranspose": "kernel",
    "Dense": "kernel",
    "Embedding": "embeddings",
    "SeparableConv1D": "pointwise_kernel",
    "SeparableConv2D": "pointwise_kernel",
}
# How often masks are made anew while the sparsity grows or stays.
_MASKS_IN_ALL, _STEPS_A_MASK = 100, 100


def quantize(student, *, allow_float=()):
    """Returns a tf_keras twin of the student that is trained for int8 by tfmot.

    Args:
        student: See `twin`; without nested models.
        allow_float: Layers, by name or class, that are left as they are, in float.

    Returns:
        A `tf_keras.Model`; `frozen` makes of it what `keras_kd.deploy.convert` takes.

    Raises:
        ValueError: If the student has no twin, or layers that tfmot cannot quantize and
            `allow_float` does not name.

    Example:
        >>> model = tfmot.quantize(student)
        >>> distiller = tfmot.Distiller(teacher, model, keras_kd.LogitsDistillation(4.0))

    Reference: Jacob et al., arXiv:1712.05877, section 3; tensorflow.org/model_optimization, guide
    "Quantization aware training".
    """
    check_student(student)
    allow_float = _names(student, student.layers, "allow_float", allow_float)
    refused = [
        reason
        for layer in student.layers
        if not {layer.name, type(layer).__name__} & allow_float
        for reason in _why_not_quantized(layer)
    ]
    if refused:
        raise ValueError(
            "Expected layers that tensorflow-model-optimization can quantize. Received: "
            f"{'; '.join(refused)}. Hint: build the student of other layers, leave these in float "
            "by allow_float=[...], or use keras_kd.quantization.quantize_aware."
        )

    def annotated(layer):
        if {layer.name, type(layer).__name__} & allow_float:
            return layer
        return tfmot.quantization.keras.quantize_annotate_layer(layer)

    model = tf_keras.models.clone_model(twin(student), clone_function=annotated)
    try:
        return tfmot.quantization.keras.quantize_apply(model)
    except (RuntimeError, TypeError, ValueError) as err:
        raise ValueError(
            f"Expected a student that tensorflow-model-optimization can quantize. Received: {err} "
            "Hint: a BatchNormalization has to stand behind a convolution or a dense layer; leave "
            "others in float by allow_float=[...], or use keras_kd.quantization.quantize_aware."
        ) from err


def prune(student, sparsity=0.5, *, steps=None, exclude=()):
    """Returns a tf_keras twin of the student in whose kernels tfmot sets small weights to 0.

    While it is trained, the smallest weights of each kernel become and stay 0. Depthwise kernels,
    biases and normalizations are left alone.

    Args:
        student: See `twin`.
        sparsity: The share of zeros in each kernel, in (0, 1); or a tfmot `PruningSchedule`.
        steps: Training steps over which the share grows from 0, fast at first (cubic); None to have
            it from the first step.
        exclude: Layers, by name or class, that are not pruned.

    Returns:
        A `tf_keras.Model`; `strip` and `to_keras` take the wrappers off. Trained otherwise than by
        our `Distiller`, its `fit` needs tfmot's callback `UpdatePruningStep`.

    Raises:
        ValueError: If the student has no twin, or no layer to prune.

    Reference: Zhu and Gupta, arXiv:1710.01878, section 3.
    """
    schedule = _pruning_schedule(sparsity, steps)
    wrap = tfmot.sparsity.keras.prune_low_magnitude
    return _wrapped(student, "pruned", exclude, lambda layer: wrap(layer, schedule))


def cluster(student, clusters=16, *, exclude=()):
    """Returns a tf_keras twin of the student whose kernels share few values, which are trained.

    Kernels of no more than `clusters` weights, depthwise kernels, biases and normalizations are
    left alone.

    Args:
        student: See `twin`; trained, since the values are made of its weights.
        clusters: How many values each kernel has, at least 2.
        exclude: Layers, by name or class, that are not clustered.

    Returns:
        A `tf_keras.Model`; `strip` and `to_keras` take the wrappers off.

    Raises:
        ValueError: If the student has no twin, or no layer to cluster.

    Reference: Han et al., arXiv:1510.00149, section 3; the values start on a line between the
    smallest and the largest weight, as section 3.2 finds best.
    """
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 2:
        raise ValueError(f"Expected clusters to be an integer of at least 2. Received: {clusters}")

    def wrap(layer):
        if getattr(layer, _KERNELS[type(layer).__name__]).shape.num_elements() <= clusters:
            return None
        return tfmot.clustering.keras.cluster_weights(
            layer, clusters, tfmot.clustering.keras.CentroidInitialization.LINEAR
        )

    return _wrapped(student, "clustered", exclude, wrap)


def _why_not_quantized(layer):
    kind, called = type(layer).__name__, f"{type(layer).__name__} '{layer.name}'"
    if isinstance(layer, keras.Model):
        return [f"{called}, a model inside the model"]
    if kind not in _QUANTIZED and kind != "InputLayer":
        return [f"{called}, which its 8-bit scheme does not know"]
    activation = layer.get_config().get("activation") or "linear"
    if activation not in _QUANTIZED_ACTIVATIONS:
        return [f"{called} with activation {activation}"]
    return []


def _names(student, layers, argument, names):
    """Returns names of layers or of their classes as a set; each has to be that of one."""
    names = {names} if isinstance(names, str) else set(names)
    known = {layer.name for layer in layers} | {type(layer).__name__ for layer in layers}
    if not names <= known:
        raise ValueError(
            f"Expected {argument} to name layers of '{student.name}', or classes of them. "
            f"Received: {', '.join(sorted(names - known))}. Its layers: "
            f"{', '.join(layer.name for layer in layers)}."
        )
    return names


def _pruning_schedule(sparsity, steps):
    if isinstance(sparsity, tfmot.sparsity.keras.PruningSchedule):
        if steps is not None:
            raise ValueError(
                f"Expected no steps beside a PruningSchedule, which has its own. Received: {steps}"
            )
        return sparsity
    if isinstance(sparsity, bool) or not isinstance(sparsity, float) or not 0.0 < sparsity < 1.0:
        raise ValueError(
            f"Expected sparsity to be a float in (0, 1) or a PruningSchedule. Received: {sparsity}"
        )
    if steps is None:
        return tfmot.sparsity.keras.ConstantSparsity(sparsity, 1, frequency=_STEPS_A_MASK)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"Expected steps to be an integer of at least 1. Received: {steps}")
    # tfmot counts from 1, and makes a mask every `frequency` steps: the last has to be at the end,
    # or the sparsity is never reached.
    frequency = max(1, steps // _MASKS_IN_ALL)
    end = 1 + steps // frequency * frequency
    return tfmot.sparsity.keras.PolynomialDecay(0.0, sparsity, 1, end, frequency=frequency)


def _wrapped(student, done, exclude, wrap):
    """Returns a twin of the student with what `wrap` gives for its layers that have a kernel.

    Args:
        student: The Keras 3 student.
        done: What is done to it, for the error.
        exclude: Names of layers or classes that stay as they are.
        wrap: Called with a built layer of tf_keras; returns it wrapped, or None to leave it.
    """
    check_student(student)
    exclude = _names(student, list(flat_layers(student)), "exclude", exclude)

    def wrapped(layer):
        names = {layer.name, type(layer).__name__}
        return wrap(layer) if type(layer).__name__ in _KERNELS and not names & exclude else None

    model = copied(twin(student), wrapped)
    if not any(is_wrapped(layer) for layer in flat_layers(model)):
        raise ValueError(
            f"Expected layers that can be {done}: {', '.join(_KERNELS)}. Received: "
            f"'{student.name}' without any that is not left out."
        )
    return model
