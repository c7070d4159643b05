"""A student that starts from layers of its teacher."""

import keras


def init_from_teacher(student, teacher, layer_map):
    """Gives layers of a student the weights of layers of its teacher.

    For a student of half the teacher's depth every other layer, as DistilBERT starts:
    `{"embedding": "embedding", "block1": "block1", "block2": "block3"}`. A key names a layer or a
    nested model; where there is none of that name, all layers whose names begin with it and "_":
    `"block1"` is then `"block1_attention"`, `"block1_norm"` and so on, and each gets the weights of
    the layer with the same ending. The weights are copied, in the order in which layers have them,
    and stay trainable; later changes of one model do not reach the other. Either everything is
    copied or, with an error, nothing.

    Args:
        student: A built Keras model; its weights are changed.
        teacher: A built Keras model.
        layer_map: From a layer of the student to a layer of the teacher; `"backbone/block1"` names
            a layer inside the nested model `backbone`.

    Raises:
        ValueError: If a layer is unknown or not built, or two layers differ in the number, the
            names or the shapes of their weights.

    Example:
        >>> keras_kd.losses.sequence.init_from_teacher(
        ...     student, teacher, {f"block{i}": f"block{2 * i}" for i in (1, 2, 3)}
        ... )

    Reference: Sanh et al., arXiv:1910.01108, section 3.
    """
    copies = []
    for ours, theirs in layer_map.items():
        targets, sources = _layers(student, ours, "student"), _layers(teacher, theirs, "teacher")
        if targets.keys() != sources.keys():
            different = sorted(targets.keys() ^ sources.keys())
            raise ValueError(
                f"Expected '{ours}' of the student and '{theirs}' of the teacher to have layers of "
                f"the same endings. Received: {', '.join(different)} in one of them alone."
            )
        for ending, target in targets.items():
            copies += _pairs(target, sources[ending])
    for variable, source in copies:
        variable.assign(source)


def _layers(model, path, role):
    """Returns the layers that a path names, by the ending of their names behind it."""
    *outer, name = path.split("/")
    for part in outer:
        model = _one(model, part, path, role)
    layers = {layer.name: layer for layer in model.layers}
    if name in layers:
        return {"": layers[name]}
    prefix = f"{name}_"
    found = {n.removeprefix(prefix): layer for n, layer in layers.items() if n.startswith(prefix)}
    if not found:
        raise _unknown(model, path, role)
    return found


def _one(model, name, path, role):
    for layer in model.layers:
        if layer.name == name and isinstance(layer, keras.Model):
            return layer
    raise _unknown(model, path, role)


def _unknown(model, path, role):
    return ValueError(
        f"Expected a layer of the {role}. Received: '{path}'. Hint: '{model.name}' has no such "
        f"layer. Its layers: {', '.join(layer.name for layer in model.layers)}."
    )


def _pairs(target, source):
    """Returns (student's variable, teacher's variable) for all weights of two layers."""
    for layer in (target, source):
        if not layer.built:
            raise ValueError(
                f"Expected built layers. Received: '{layer.name}', which is not. Hint: call the "
                "model on a batch first."
            )
    described = [
        [f"{variable.name} {tuple(variable.shape)}" for variable in layer.weights]
        for layer in (target, source)
    ]
    if described[0] != described[1]:
        raise ValueError(
            f"Expected '{target.name}' of the student to have the weights of '{source.name}' of "
            f"the teacher. Received: {', '.join(described[0]) or 'none'}; the teacher's: "
            f"{', '.join(described[1]) or 'none'}."
        )
    return list(zip(target.weights, source.weights, strict=True))
