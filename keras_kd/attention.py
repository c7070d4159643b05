"""What `keras.layers.MultiHeadAttention` computes inside: scores, queries, keys and values.

The layer hands out its output alone, and with `return_attention_scores=True` the scores only after
the softmax. What distillation compares is computed again here from the very tensors that the layer
is called with, by its own projections: two of the layer's four projections and one product of
queries and keys for the scores, one projection for each of the others. In an encoder whose
feed-forward part is four times as wide as its tokens that is a sixth of a block's products, or a
twelfth; the model itself is not run again.
"""

import inspect

import keras
from keras import ops

READINGS = ("scores", "query", "key", "value")

# What a score is set to where the layer may not look; the layer itself adds the like of it.
MASKED = -1e9


def check(layer, reading, described):
    """Refuses layers whose attention cannot be read.

    Args:
        layer: What the path names.
        reading: What is asked of it.
        described: The path and whose it is, for the error.

    Raises:
        ValueError: If `reading` is unknown, or the layer is no `MultiHeadAttention` that works as
            Keras's own does.
    """
    if reading not in READINGS:
        raise ValueError(
            f"Expected one of {', '.join(READINGS)} behind ':' in {described}. "
            f"Received: {reading!r}."
        )
    kind = keras.layers.MultiHeadAttention
    if not isinstance(layer, kind) or type(layer).call is not kind.call:
        raise ValueError(
            f"Expected {described} to be a keras.layers.MultiHeadAttention, with Keras's own "
            f"call(), to read its {reading}. Received: a {type(layer).__name__}. Hint: a callable "
            "that runs the model can give whatever it computes, see teacher_features."
        )
    if layer.query_dense.activity_regularizer is not None:
        raise ValueError(
            f"Expected {described} to have no activity regularizer, which would count twice where "
            f"its {reading} are read. Hint: regularize the activity of a layer after it."
        )


def arguments(args, kwargs, mask_of):
    """Returns what the layer is called with by name, and Keras's masks with it.

    Args:
        args: The positional arguments of the call.
        kwargs: The others.
        mask_of: Gives the mask that Keras left on a tensor.
    """
    signature = inspect.signature(keras.layers.MultiHeadAttention.call)
    given = {**signature.bind(None, *args, **kwargs).arguments}
    for name in ("query", "value", "key"):
        if given.get(name) is not None and given.get(f"{name}_mask") is None:
            given[f"{name}_mask"] = mask_of(given[name])
    return given


def read(layer, reading, given):
    """Returns a reading of a layer.

    Args:
        layer: A built `MultiHeadAttention` over [batch, length, units].
        reading: `"scores"`, those before the softmax, scaled by 1 / sqrt(key_dim), and `MASKED`
            where the layer may not look; or `"query"`, `"key"`, `"value"`, its projections.
        given: What `arguments` gave.

    Returns:
        Scores of shape [batch, heads, length, length of the keys], float32 at least; projections
        of shape [batch, length, heads * units of a head].
    """
    if reading != "scores":
        heads = _projected(layer, reading, given)
        length = ops.shape(heads)[:2]
        return ops.reshape(heads, (*length, heads.shape[-2] * heads.shape[-1]))
    query, key = (
        ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))
        for tensor in (_projected(layer, "query", given), _projected(layer, "key", given))
    )
    scores = ops.einsum("btnd,bsnd->bnts", query / layer.key_dim**0.5, key)
    allowed = _allowed(layer, given, scores)
    if allowed is None:
        return scores
    return ops.where(allowed, scores, ops.cast(MASKED, scores.dtype))


def spec(layer, reading, given):
    """Returns a symbolic tensor of the shape and type that `read` will give.

    Raises:
        ValueError: If the layer attends over anything but [batch, length, units].
    """
    shape = tuple(_source(given, reading if reading != "scores" else "query").shape)
    if len(shape) != 3:
        raise ValueError(
            f"Expected '{layer.name}' to attend over tokens of shape [batch, length, units], to "
            f"read its {reading}. Received shape {shape}."
        )
    if reading == "scores":
        keys = _source(given, "key").shape[1]
        dtype = keras.backend.result_type(layer.compute_dtype, "float32")
        return keras.KerasTensor((shape[0], layer.num_heads, shape[1], keys), dtype)
    width = layer.value_dim if reading == "value" else layer.key_dim
    return keras.KerasTensor((*shape[:2], layer.num_heads * width), layer.compute_dtype)


def mask_for(layer, reading, given):
    """Returns the mask over all axes of a reading but the last, None where there is none."""
    if reading != "scores":
        mask = given.get(f"{reading}_mask")
        return given.get("value_mask") if mask is None and reading == "key" else mask
    mask = given.get("query_mask")
    if mask is None:
        return None
    every_head = ops.ones((1, layer.num_heads, 1), dtype="bool")
    return ops.logical_and(ops.expand_dims(mask, 1), every_head)


def _source(given, reading):
    """Returns the tensor that a projection is taken of; without keys the values are the keys."""
    found = given.get(reading)
    return given["value"] if found is None else found


def _projected(layer, reading, given):
    """Returns a projection, shape [batch, length, heads, units of a head]."""
    # A copy has no mask: Keras warns of one at a layer that does not hand masks on.
    return getattr(layer, f"{reading}_dense")(ops.copy(_source(given, reading)))


def _allowed(layer, given, scores):
    """Returns where the layer may look, booleans that broadcast to the scores; None: everywhere."""
    masks = []
    for name, axis in (("query_mask", -1), ("value_mask", -2), ("key_mask", -2)):
        if given.get(name) is not None:
            masks.append(ops.expand_dims(ops.cast(given[name], "bool"), axis))
    rows = ops.expand_dims(ops.arange(ops.shape(scores)[2]), -1)
    columns = ops.arange(ops.shape(scores)[3])
    if given.get("use_causal_mask"):
        masks.append((rows >= columns)[None])
    # The window has no public name of its own, but the configuration tells it.
    window = layer.get_config().get("sliding_window")
    if window is not None:
        masks.append((ops.abs(rows - columns) < window)[None])
    if given.get("attention_mask") is not None:
        masks.append(ops.cast(given["attention_mask"], "bool"))
    if not masks:
        return None
    allowed = masks[0]
    for mask in masks[1:]:
        allowed = ops.logical_and(allowed, mask)
    while len(allowed.shape) < len(scores.shape):  # The same for all heads.
        allowed = ops.expand_dims(allowed, -3)
    return allowed
