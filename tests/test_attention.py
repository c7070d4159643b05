"""What is read inside attention layers is what the layers compute, and they stay as they were."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_kd.features import FeatureReader, mask_of
from tests.encoders import LENGTH, VOCABULARY, blocks, encoder, tokens, valid
from tests.models import assert_same, snapshot

ALL = ("scores", "query", "key", "value")
# Scores and projections are sums of 8 products; a fused kernel may add them in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def read(model, x, *paths, training=False):
    outputs, features = FeatureReader(model, paths)(x, training=training)
    np.testing.assert_array_equal(outputs, model(x, training=training))
    return features


def test_readings_are_what_the_layer_computes():
    model, (x, _) = encoder("net"), tokens()
    features = read(model, x, "embedding", *(f"attention1:{what}" for what in ALL))
    layer = model.get_layer("attention1")
    embedded = model.get_layer("embedding")(x)  # With its mask, which the layer takes off.
    _, attention = layer(embedded, embedded, return_attention_scores=True)
    attention = ops.convert_to_numpy(attention)
    scores = ops.convert_to_numpy(features["attention1:scores"])
    queries = valid(x)
    for example, count in zip(range(len(x)), queries.sum(1), strict=True):
        found = softmax(scores[example])[:, :count]
        np.testing.assert_allclose(found, attention[example, :, :count], **CLOSE)
    pairs = (queries[:, None, :, None] & queries[:, None, None, :]) | np.zeros((1, 2, 1, 1), bool)
    np.testing.assert_array_equal(scores[~pairs], np.float32(-1e9))
    assert (scores[pairs] > -100).all()
    for what in ("query", "key", "value"):
        dense = getattr(layer, f"{what}_dense")
        expected = ops.convert_to_numpy(dense(ops.copy(features["embedding"])))
        found = features[f"attention1:{what}"]
        np.testing.assert_allclose(found, expected.reshape(len(x), LENGTH, 8), **CLOSE)


def test_the_model_is_left_as_it_was():
    model, (x, _) = encoder("net"), tokens()
    layer = model.get_layer("attention1")
    dense = [layer, layer.query_dense, layer.key_dense, layer.value_dense]
    # Keras has no public name for what a layer is connected to.
    nodes = [len(part._inbound_nodes) for part in dense]
    before, config = snapshot(model), model.get_config()
    read(model, x, *(f"attention1:{what}" for what in ALL), training=True)
    assert [len(part._inbound_nodes) for part in dense] == nodes
    assert_same(before, snapshot(model))
    assert model.get_config() == config


def test_the_attention_layer_itself_runs_once():
    model, (x, _) = encoder("net"), tokens()
    layer, calls = model.get_layer("attention1"), []
    original = layer.output_dense.call
    layer.output_dense.call = lambda x, **options: calls.append(1) or original(x, **options)
    reader = FeatureReader(model, ("attention1:scores", "attention1:value"))
    calls.clear()  # Keras may call it to learn a shape.
    reader(x, training=True)
    assert calls == [1]


def test_masks_arrive_where_keras_loses_them():
    """Behind `Add` around attention, Keras's own tensors have no mask any more."""
    model, (x, _) = encoder("net"), tokens()
    paths = ("embedding", "add1", "block1", "block2", "attention2:scores", "attention2:key")
    outputs, features = FeatureReader(model, paths)(x, training=False)
    for path in paths:
        expected = valid(x)
        if path.endswith("scores"):
            expected = np.repeat(expected[:, None], 2, axis=1)
        np.testing.assert_array_equal(mask_of(features[path]), expected, err_msg=path)
    # The outputs are Keras's own business: its task loss reads their mask.
    assert (mask_of(outputs) is None) == (mask_of(model(x)) is None)


def test_no_mask_without_padding():
    model, (x, _) = encoder("net", mask_zero=False), tokens()
    features = read(model, x, "block1", "attention1:scores")
    assert all(mask_of(feature) is None for feature in features.values())
    assert (ops.convert_to_numpy(features["attention1:scores"]) > -100).all()


def cross_attention():
    """Attention of one sequence to another, each with padding."""
    ours, theirs = keras.Input((LENGTH,), name="ours"), keras.Input((4,), name="theirs")
    embedding = layers.Embedding(VOCABULARY, 8, mask_zero=True)
    layer = layers.MultiHeadAttention(2, 3, value_dim=5, name="cross")
    return keras.Model([ours, theirs], layer(embedding(ours), embedding(theirs)))


def test_attention_to_another_sequence():
    model = cross_attention()
    x, y = tokens()[0], tokens(seed=1)[0][:, 1:5]
    outputs, features = FeatureReader(model, [f"cross:{what}" for what in ALL])([x, y], False)
    np.testing.assert_array_equal(outputs, model([x, y]))
    shapes = {path.split(":")[1]: tuple(tensor.shape[1:]) for path, tensor in features.items()}
    assert shapes == {"scores": (2, 6, 4), "query": (6, 6), "key": (4, 6), "value": (4, 10)}
    np.testing.assert_array_equal(mask_of(features["cross:value"]), valid(y))
    np.testing.assert_array_equal(mask_of(features["cross:key"]), valid(y))
    np.testing.assert_array_equal(mask_of(features["cross:query"]), valid(x))
    excluded = ~(valid(x)[:, None, :, None] & valid(y)[:, None, None, :])
    found = ops.convert_to_numpy(features["cross:scores"]) == np.float32(-1e9)
    np.testing.assert_array_equal(found, np.broadcast_to(excluded, found.shape))


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"use_causal_mask": True}, {"window": 2}, {"use_causal_mask": True, "window": 3}],
)
def test_every_way_to_exclude_keys(rank, options, rng):
    options = dict(options)
    window = options.pop("window", None)
    shape = {2: (5, 5), 3: (None, 5, 5), 4: (None, 2, 5, 5)}[rank]
    inputs = keras.Input((5, 6))
    mask = keras.Input(batch_shape=shape, dtype="bool")
    layer = layers.MultiHeadAttention(2, 3, sliding_window=window, name="attention")
    outputs = layer(inputs, inputs, attention_mask=mask, **options)
    model = keras.Model([inputs, mask], outputs)
    x = rng.normal(size=(3, 5, 6)).astype("float32")
    allowed = rng.random(tuple(size or 3 for size in shape)) < 0.7
    allowed = allowed | np.eye(5, dtype=bool)  # Every query has a key.
    _, features = FeatureReader(model, ["attention:scores"])([x, allowed], training=False)
    _, expected = layer(x, x, attention_mask=allowed, return_attention_scores=True, **options)
    found = softmax(ops.convert_to_numpy(features["attention:scores"]))
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_layers_in_nested_models():
    inputs = keras.Input((LENGTH,))
    inner_inputs = keras.Input((LENGTH,))
    embedded = layers.Embedding(VOCABULARY, 8, mask_zero=True, name="embedding")(inner_inputs)
    inner = keras.Model(inner_inputs, blocks(embedded, 2, 8, 2), name="backbone")
    model = keras.Model(inputs, layers.Dense(3)(inner(inputs)))
    x, _ = tokens()
    paths = ("attention2:scores", "attention2:value", "block2")
    nested = read(model, x, *(f"backbone/{path}" for path in paths))
    plain = read(inner, x, *paths)
    for path in paths:
        np.testing.assert_array_equal(nested[f"backbone/{path}"], plain[path], err_msg=path)
        np.testing.assert_array_equal(
            mask_of(nested[f"backbone/{path}"]), mask_of(plain[path]), err_msg=path
        )


def test_half_precision_scores_are_float32():
    keras.config.set_dtype_policy("mixed_float16")
    model, (x, _) = encoder("net"), tokens()
    reader = FeatureReader(model, ("attention1:scores", "attention1:key"))
    assert reader.features["attention1:scores"].dtype == "float32"
    assert reader.features["attention1:key"].dtype == "float16"
    _, features = reader(x, training=False)
    assert features["attention1:scores"].dtype == "float32"
    assert np.isfinite(features["attention1:scores"]).all()


def test_symbolic_shapes():
    features = FeatureReader(encoder("net"), [f"attention1:{what}" for what in ALL]).features
    assert {path.split(":")[1]: tuple(t.shape) for path, t in features.items()} == {
        "scores": (None, 2, LENGTH, LENGTH),
        "query": (None, LENGTH, 8),
        "key": (None, LENGTH, 8),
        "value": (None, LENGTH, 8),
    }


class Own(layers.MultiHeadAttention):
    def call(self, query, value, key=None):
        return super().call(query, value, key)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("attention1:weights", r"one of scores, query, key, value .*Received: 'weights'"),
        ("block1:scores", r"'block1:scores' of teacher to be a keras.layers.Multi.*a LayerNorm"),
        ("attention9:scores", r"no layer 'attention9' in 'net'"),
    ],
)
def test_what_cannot_be_read_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        FeatureReader(encoder("net"), (path,), role="teacher")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Own(2, 3, name="a"), r"with Keras's own call\(\).*Received: a Own"),
        (
            layers.MultiHeadAttention(2, 3, activity_regularizer="l2", name="a"),
            "no activity regularizer",
        ),
    ],
)
def test_layers_of_another_kind_are_refused(layer, message):
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layer(inputs, inputs))
    with pytest.raises(ValueError, match=message):
        FeatureReader(model, ("a:scores",))


def test_attention_over_images_is_refused():
    inputs = keras.Input((3, 3, 4))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 3, name="a")(inputs, inputs))
    with pytest.raises(ValueError, match=r"tokens of shape \[batch, length, units\]"):
        FeatureReader(model, ("a:scores",))


def test_a_layer_that_has_a_colon_in_its_name(rng):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="dense:one")(inputs))
    x = rng.normal(size=(3, 4)).astype("float32")
    np.testing.assert_array_equal(read(model, x, "dense:one")["dense:one"], model(x))
