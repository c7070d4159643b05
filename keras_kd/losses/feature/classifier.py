"""The classifier of a model, for losses that read or reuse its weights."""

import keras


def find_classifier(model, path, role):
    """Returns the dense layer of a model that turns features into logits.

    Args:
        model: A Keras model; None while there is none, for which None is returned.
        path: Name of a `keras.layers.Dense`; `"head/logits"` names one inside the nested model
            `head`.
        role: `"teacher"` or `"student"`, for errors.

    Raises:
        ValueError: If there is no such layer, or it is no dense layer.
    """
    if model is None or not model.built:
        return None
    layer = model
    for name in path.split("/"):
        inside = {inner.name: inner for inner in getattr(layer, "layers", ())}
        if name not in inside:
            dense = ", ".join(_dense_paths(model)) or "none at the top"
            raise ValueError(
                f"Expected a layer of {role} '{model.name}'. Received: '{path}'. Hint: no layer "
                f"'{name}' in '{layer.name}'. Its dense layers: {dense}."
            )
        layer = inside[name]
    if not isinstance(layer, keras.layers.Dense):
        raise ValueError(
            f"Expected '{path}' of {role} '{model.name}' to be a Dense layer, the classifier. "
            f"Received: a {type(layer).__name__}."
        )
    return layer


def check_channels(classifier, channels, path, role):
    """Refuses a classifier that does not take a feature's pooled channels as they are.

    Raises:
        ValueError: If the classifier takes another number of units.
    """
    units = classifier.kernel.shape[0]
    if units != channels:
        raise ValueError(
            f"Expected the classifier '{path}' of the {role} to take the {channels} channels of "
            f"the named feature, averaged over its positions. Received: one that takes {units}. "
            "Hint: name the last layer before the global pooling; a flattened map will not do."
        )


def _dense_paths(model, prefix=""):
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            yield prefix + layer.name
        elif isinstance(layer, keras.Model):
            yield from _dense_paths(layer, f"{prefix}{layer.name}/")
