import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_kd.features import FeatureReader, mask_of


def block(name):
    x = inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 3, padding="same", name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = x * 0.5 + 1.0  # Operations that are no layers.
    return keras.Model(inputs, ops.relu(x), name=name)


@pytest.fixture
def net():
    x = inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 3, padding="same", name="stem")(x)
    x = block("first")(x)
    x = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(2, 1, name="inner"), block("deep")], name="second"
    )(x)
    x = layers.Dropout(0.5, name="dropout")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x), name="net")


@pytest.fixture
def images(rng):
    return rng.normal(size=(5, 4, 4, 1)).astype("float32")


PATHS = ("stem", "first/bn", "second", "second/inner", "second/deep/conv", "head")


def by_hand(net, images):
    """The features of PATHS, by calling layer after layer."""
    stem = net.get_layer("stem")(images)
    first, second = net.get_layer("first"), net.get_layer("second")
    bn = first.get_layer("bn")(first.get_layer("conv")(stem))
    inner = second.get_layer("inner")(first(stem))
    conv = second.get_layer("deep").get_layer("conv")(inner)
    return dict(zip(PATHS, (stem, bn, second(first(stem)), inner, conv, net(images)), strict=True))


def test_outputs_and_features_are_the_models_own(net, images):
    outputs, features = FeatureReader(net, PATHS)(images, training=False)
    np.testing.assert_array_equal(outputs, net(images))
    assert set(features) == set(PATHS)
    for path, expected in by_hand(net, images).items():
        np.testing.assert_array_equal(features[path], expected, err_msg=path)


def test_the_model_is_left_as_it_was(net, images):
    def operations(model):
        for operation in model.operations if isinstance(model, keras.Function) else model.layers:
            yield operation
            if isinstance(operation, keras.Model):
                yield from operations(operation)

    config = net.get_config()
    # Keras has no public name for what a layer is connected to.
    before = [len(operation._inbound_nodes) for operation in operations(net)]
    FeatureReader(net, PATHS)(images, training=True)
    assert [len(operation._inbound_nodes) for operation in operations(net)] == before
    assert net.get_config() == config
    assert net.get_layer("stem").output is not None  # Raises for a layer with several nodes.


def test_what_the_model_is_compiled_with_is_no_matter(net, images):
    """A clone of it would be compiled likewise, for which Keras would have to read the lambda."""
    net.compile("sgd", loss=lambda y_true, y_pred: y_pred)
    outputs, _ = FeatureReader(net, ["head"])(images, training=False)
    np.testing.assert_array_equal(outputs, net(images, training=False))


def test_every_layer_runs_once(net, images):
    calls = []
    conv = net.get_layer("stem")
    original = conv.call
    conv.call = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    reader = FeatureReader(net, PATHS)
    calls.clear()  # Keras may call it to learn a shape.
    reader(images, training=True)
    assert calls == [1]


def test_training_reaches_the_layers(net, images):
    reader = FeatureReader(net, ("stem",))
    bn = net.get_layer("first").get_layer("bn")
    before = bn.moving_mean.numpy()
    reader(images, training=False)
    np.testing.assert_array_equal(bn.moving_mean.numpy(), before)
    reader(images, training=True)
    once = bn.moving_mean.numpy()
    assert not np.array_equal(once, before)
    bn.moving_mean.assign(before)
    net(images, training=True)
    np.testing.assert_array_equal(bn.moving_mean.numpy(), once)


def test_gradients_reach_the_layers_variables(net, images):
    with tf.GradientTape() as tape:
        _, features = FeatureReader(net, ("second/inner",))(images, training=True)
        loss = ops.sum(ops.square(features["second/inner"]))
    gradient = tape.gradient(loss, net.get_layer("stem").kernel.value)
    assert np.abs(gradient).max() > 0


def test_losses_that_layers_add_are_those_of_the_last_call(images):
    x = inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 3, activity_regularizer="l2", name="stem")(x)
    model = keras.Model(inputs, layers.Flatten()(x))
    reader = FeatureReader(model, ("stem",))
    for _ in range(3):
        reader(images, training=True)
    assert len(model.losses) == 1
    expected = model.losses[0]
    model(images, training=True)
    np.testing.assert_array_equal(model.losses[0], expected)


def test_symbolic_features_tell_their_shapes(net):
    features = FeatureReader(net, ("first/bn", "head")).features
    assert {path: tuple(tensor.shape) for path, tensor in features.items()} == {
        "first/bn": (None, 4, 4, 2),
        "head": (None, 3),
    }


def test_softmax_keeps_its_logits(net, images):
    outputs, _ = FeatureReader(net, ("stem",))(images, training=False)
    assert outputs._keras_logits is not None


def test_masks_arrive():
    """Also the test of Keras's private `_keras_mask`."""
    x = inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(9, 3, mask_zero=True)(x)
    x = layers.LSTM(2, return_sequences=True, name="lstm")(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    tokens = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    outputs, features = FeatureReader(model, ("lstm",))(tokens, training=False)
    np.testing.assert_array_equal(mask_of(outputs), tokens != 0)
    np.testing.assert_array_equal(mask_of(features["lstm"]), tokens != 0)
    np.testing.assert_array_equal(outputs, model(tokens))
    assert mask_of(ops.ones((2,))) is None


def test_structures_of_inputs_and_outputs(rng):
    inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((3,), name="b")}
    joined = layers.Concatenate(name="joined")([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, {"y": layers.Dense(2)(joined), "z": [layers.Dense(1)(joined)]})
    batch = {"a": rng.normal(size=(4, 2)), "b": rng.normal(size=(4, 3))}
    outputs, features = FeatureReader(model, ("joined",))(batch, training=False)
    expected = model(batch)
    assert set(outputs) == {"y", "z"}
    np.testing.assert_array_equal(outputs["y"], expected["y"])
    np.testing.assert_array_equal(outputs["z"][0], expected["z"][0])
    assert features["joined"].shape == (4, 5)


def test_unbuilt_sequential_is_read_once_it_is_built(rng):
    model = keras.Sequential([layers.Dense(3, name="first"), layers.Dense(2)])
    reader = FeatureReader(model, ("first",))
    assert reader.features is None
    x = rng.normal(size=(4, 5)).astype("float32")
    outputs, features = reader(x, training=False)
    np.testing.assert_array_equal(outputs, model(x))
    np.testing.assert_array_equal(features["first"], model.get_layer("first")(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.body, self.head = layers.Dense(3), layers.Dense(2)

    def call(self, x):
        return self.head(self.body(x))


def test_subclassed_model_by_a_callable(rng):
    def features(model, x, training):
        body = model.body(x)
        return model.head(body), {"body": body}

    model, x = Subclassed(), rng.normal(size=(4, 5)).astype("float32")
    outputs, found = FeatureReader(model, ("body",), function=features)(x, training=False)
    np.testing.assert_array_equal(outputs, model(x))
    np.testing.assert_array_equal(found["body"], model.body(x))


def test_subclassed_model_without_one_is_refused():
    model = Subclassed()
    model(np.ones((1, 5)))
    with pytest.raises(ValueError, match=r"a Subclassed with its own call.*student_features="):
        FeatureReader(model, ("body",), role="student")


def test_a_callable_must_give_what_is_read(rng):
    reader = FeatureReader(
        Subclassed(), ("body",), function=lambda m, x, training: (m(x), {"b": x})
    )
    with pytest.raises(ValueError, match=r"to give \['body'\]\. Received: \['b'\]"):
        reader(rng.normal(size=(4, 5)), training=False)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nope", r"layer of student 'net'. Received: 'nope'.*Its layers: .*stem, first, second"),
        ("first/nope", r"Received: 'first/nope'.*no layer 'nope' in 'first'.*conv, bn"),
        ("stem/kernel", r"'stem' of student to be a Functional or Sequential.*a Conv2D"),
    ],
)
def test_unknown_layers_are_refused(net, path, message):
    with pytest.raises(ValueError, match=message):
        FeatureReader(net, (path,), role="student")


def test_of_many_layers_the_similar_ones_are_named():
    x = inputs = keras.Input((4,))
    for index in range(25):
        x = layers.Dense(4, name=f"dense_{index}")(x)
    with pytest.raises(ValueError, match=r"Did you mean dense_2.*Its 26 layers: input"):
        FeatureReader(keras.Model(inputs, x), ("dens_2",))


def test_a_layer_that_is_called_twice_is_refused():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    model = keras.Model(inputs, shared(shared(inputs)))
    with pytest.raises(ValueError, match=r"'shared'.*to be called once"):
        FeatureReader(model, ("shared",))


def test_a_layer_with_several_outputs_is_refused():
    inputs = keras.Input((4, 2))
    states = layers.LSTM(3, return_state=True, name="lstm")(inputs)
    with pytest.raises(ValueError, match=r"'lstm'.*to have one output"):
        FeatureReader(keras.Model(inputs, states[0]), ("lstm",))


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_random_layers_are_random_in_training_alone(kind, rng):
    """Also the test of Keras's private `_call_context_args`."""
    stack = [
        layers.RandomFlip(name="flip", seed=1),
        layers.Conv2D(2, 3, name="conv"),
        layers.BatchNormalization(),
        layers.Dropout(0.5, seed=2),
        layers.Flatten(),
    ]
    if kind == "sequential":
        model = keras.Sequential([keras.Input((4, 4, 1)), *stack])
    else:
        x = inputs = keras.Input((4, 4, 1))
        for layer in stack:
            x = layer(x)
        model = keras.Model(inputs, x)
    images = rng.normal(size=(8, 4, 4, 1)).astype("float32")
    reader = FeatureReader(model, ("conv",))
    state = [variable.numpy() for variable in model.variables]
    still, _ = reader(images, training=False)
    np.testing.assert_array_equal(still, model(images, training=False))
    for variable, before in zip(model.variables, state, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before, err_msg=variable.path)
    random, _ = reader(images, training=True)
    after = [variable.numpy() for variable in model.variables]
    for variable, before in zip(model.variables, state, strict=True):
        variable.assign(before)
    np.testing.assert_array_equal(random, model(images, training=True))
    for variable, expected in zip(model.variables, after, strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected, err_msg=variable.path)
    assert (ops.convert_to_numpy(random) == 0.0).mean() > 0.2  # Dropout was there.
