"""The layers that tfmot wraps around others: which there are, and how they come off."""

from keras_kd.quantization.tfmot.packages import tf_keras, tfmot

# tfmot has no public names for its wrappers.
_STRIPPED_BY = {
    "PruneLowMagnitude": tfmot.sparsity.keras.strip_pruning,
    "ClusterWeights": tfmot.clustering.keras.strip_clustering,
}
_QUANTIZING = ("QuantizeLayer", "QuantizeWrapper", "QuantizeWrapperV2")


def strip(model):
    """Returns a pruned or clustered model as the plain tf_keras model it is underneath.

    Args:
        model: What `twin`, `prune` or `cluster` gave; stays as it is.

    Returns:
        A `tf_keras.Model` of its own, with the pruned or clustered weights.

    Raises:
        TypeError: If it is no tf_keras model.
        ValueError: If it was quantized.
    """
    check_model(model)
    kinds = {type(layer).__name__ for layer in flat_layers(model)}
    if kinds & set(_QUANTIZING):
        raise ValueError(
            "Expected a pruned or clustered model. Received: a quantized one, of which nothing can "
            "be taken off: its ranges are what it has learned. Hint: frozen(model) makes of it "
            "what keras_kd.deploy.convert takes."
        )
    stripped = model
    for kind in kinds & set(_STRIPPED_BY):
        stripped = _STRIPPED_BY[kind](stripped)
    # tfmot hands the model's own layers on.
    return copied(stripped, lambda layer: None)


def is_pruned(model):
    """Returns whether a tf_keras model has layers that tfmot prunes in training."""
    return any(type(layer).__name__ == "PruneLowMagnitude" for layer in flat_layers(model))


def is_wrapped(layer):
    """Returns whether a layer is one that `strip` takes off."""
    return type(layer).__name__ in _STRIPPED_BY


def check_model(model):
    """Refuses what is no tf_keras model.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(model, tf_keras.Model):
        raise TypeError(
            f"Expected a tf_keras model. Received: {type(model).__module__}."
            f"{type(model).__name__}. Hint: twin, quantize, prune and cluster make one of a Keras "
            "3 student."
        )


def flat_layers(model):
    """Yields the layers of a model of either Keras, and of the models inside it."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from flat_layers(layer)
        else:
            yield layer


def copied(model, wrap):
    """Returns a copy of a tf_keras model, which shares layers with itself as the model does.

    Args:
        model: The model.
        wrap: Called with a layer; returns what takes its place, or None for a copy.
    """
    # `clone_model` alone would double a layer that is called in a nested model and outside of it.
    made, copies = {}, []

    def bare(layer):
        copy = type(layer).from_config(layer.get_config())
        copies.append((layer, copy))
        return copy

    def clone(layer):
        if id(layer) not in made:
            if isinstance(layer, tf_keras.Model):
                made[id(layer)] = tf_keras.models.clone_model(layer, clone_function=clone)
            else:
                made[id(layer)] = wrap(layer) or bare(layer)
        return made[id(layer)]

    clones = clone(model)
    for layer, copy in copies:
        copy.set_weights(layer.get_weights())
    return clones
