"""Students that are an ensemble: independent members, or heads on a shared body, as one model."""

import keras
from keras import layers, ops

from keras_kd import heads


def members(models, *, name="members"):
    """Returns one model with an output for each of several models.

    They share nothing but the inputs, and are trained in one `fit`, each by its own losses: a
    teacher for all is `keras_kd.teachers.ForEach(teacher, len(models))`, one for each
    `keras_kd.teachers.Ensemble(teachers, weighting="separate")`. Labels are given once for each
    member: `fit(x, [y] * len(models))`.

    Args:
        models: At least two Keras models of different names with the same input and one output
            each. They become parts of the new model; their layers are not copied.
        name: Its name.

    Raises:
        ValueError: If there are fewer than two, two of one name, or inputs or outputs differ.

    Example:
        >>> student = keras_kd.ensembles.members([small(name=f"member_{i}") for i in range(3)])
    """
    models = list(models)
    if len(models) < 2 or len({model.name for model in models}) < len(models):
        raise ValueError(
            "Expected at least two models of different names. Received: "
            f"{[model.name for model in models]}."
        )
    shapes = [(_shape_of(model.input), _shape_of(model.output)) for model in models]
    if any(shape != shapes[0] or None in shape for shape in shapes):
        raise ValueError(
            "Expected models with the same input and the same single output. Received inputs and "
            f"outputs of shapes {dict(zip((m.name for m in models), shapes, strict=True))}."
        )
    first = models[0].input
    inputs = keras.Input(batch_shape=first.shape, dtype=first.dtype, name="inputs")
    return keras.Model(inputs, [model(inputs) for model in models], name=name)


def heads_on(body, head, count, *, name="heads"):
    """Returns one model with several heads on one body, as `members` with a shared beginning.

    Args:
        body: A Keras model with one input and one output.
        head: A callable that makes a layer or model from the body's output to an output; called
            `count` times, each with its number.
        count: How many heads, at least two.
        name: Its name.

    Raises:
        ValueError: If there are fewer than two.

    Example:
        >>> keras_kd.ensembles.heads_on(body, lambda i: layers.Dense(10, name=f"head_{i}"), 3)
    """
    if count < 2:
        raise ValueError(f"Expected at least two heads. Received: {count}")
    first = body.input
    inputs = keras.Input(batch_shape=first.shape, dtype=first.dtype, name="inputs")
    features = body(inputs)
    return keras.Model(inputs, [head(index)(features) for index in range(count)], name=name)


def mean(model, *, name="mean"):
    """Returns the model that predicts the mean of the probabilities of a model's outputs.

    It shares the layers of `model`, so train that one; it is a plain model to be saved, exported
    and converted as one .tflite.

    Args:
        model: A model with several outputs of one shape, as `members` and `heads_on` make it:
            logits, softmax or sigmoid, where several linear units count as a softmax.
        name: Its name.

    Returns:
        A model with one output, probabilities of shape [batch, ..., classes].

    Raises:
        ValueError: If it has one output, or they end in something else.

    Example:
        >>> distiller.fit(x, [y] * 3)
        >>> keras_kd.deploy.convert(keras_kd.ensembles.mean(distiller.student), "student.tflite")
    """
    outputs = keras.tree.flatten(model.output)
    if len(outputs) < 2:
        raise ValueError(f"Expected a model with several outputs. Received: '{model.name}'.")
    found = keras.tree.flatten(heads.activations(model))
    pairs = zip(outputs, found, strict=True)
    probabilities = [_probabilities(*pair) for pair in pairs]
    return keras.Model(model.input, layers.Average()(probabilities), name=name)


def _probabilities(output, activation):
    if activation in (heads.SOFTMAX, heads.SIGMOID):
        return output
    if activation != heads.LINEAR:
        raise ValueError(
            f"Expected outputs that are logits, softmax or sigmoid. Received one that ends in "
            f"{activation}."
        )
    return ops.sigmoid(output) if output.shape[-1] == 1 else ops.softmax(output)


def _shape_of(tensor):
    """Returns the shape of one symbolic tensor, None for a structure of them."""
    return None if keras.tree.is_nested(tensor) else tuple(tensor.shape)
