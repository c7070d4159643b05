import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_kd import losses
from keras_kd.losses import Context, Ends
from keras_kd.losses.sequence import HiddenStates, hidden_cosine, hidden_mse
from tests.encoders import LENGTH, VOCABULARY, blocks, encoder, tokens, valid
from tests.losses.sequence.losses import again, distiller, evaluate, gradient

# Sums of a few dozen float32 products, each with a relative error of 6e-8.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def mse(teacher, student):
    return np.square(np.float64(student) - teacher).mean(-1)


def cosine(teacher, student):
    teacher, student = np.float64(teacher), np.float64(student)
    norms = np.linalg.norm(teacher, axis=-1) * np.linalg.norm(student, axis=-1)
    return 1 - (teacher * student).sum(-1) / norms


@pytest.fixture
def pair(rng):
    return [rng.normal(size=(4, 5, 3)).astype("float32") for _ in range(2)]


@pytest.fixture
def mask(rng):
    return np.arange(5) < np.array([5, 1, 3, 4])[:, None]


both = pytest.mark.parametrize(
    ("function", "expected"), [(hidden_mse, mse), (hidden_cosine, cosine)]
)


@both
class TestFunctions:
    def test_value(self, function, expected, pair):
        result = function(teacher=pair[0], student=pair[1])
        np.testing.assert_allclose(result, expected(*pair).mean(-1), **CLOSE)

    def test_value_with_padding(self, function, expected, pair, mask):
        result = function(teacher=pair[0], student=pair[1], mask=mask)
        values = expected(*pair)
        np.testing.assert_allclose(result, (values * mask).sum(-1) * 4 / mask.sum(), **CLOSE)
        np.testing.assert_allclose(ops.mean(result), values[mask].mean(), **CLOSE)

    def test_weights_of_tokens(self, function, expected, pair, rng):
        weight = rng.random((4, 5)).astype("float32")
        result = function(teacher=pair[0], student=pair[1], position_weight=weight)
        np.testing.assert_allclose(result, (expected(*pair) * weight).mean(-1), **CLOSE)

    def test_zero_at_equality(self, function, expected, pair):
        result = function(teacher=pair[0], student=pair[0])
        np.testing.assert_allclose(result, np.zeros(4), atol=1e-6)

    def test_the_teacher_gets_no_gradient(self, function, expected, pair):
        teacher = tf.Variable(pair[0])
        with tf.GradientTape() as tape:
            value = function(teacher=teacher, student=pair[1])
        assert tape.gradient(value, teacher) is None

    @pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
    def test_extremes_stay_finite(self, function, expected, pair, scale):
        value, (grad,) = gradient(
            lambda s: function(teacher=pair[0], student=s), pair[1] * np.float32(scale)
        )
        assert np.isfinite(value)
        assert np.isfinite(grad).all()

    def test_no_valid_token(self, function, expected, pair):
        none = np.zeros((4, 5), bool)
        value, (grad,) = gradient(
            lambda s: function(teacher=pair[0], student=s, mask=none), pair[1]
        )
        assert value == 0.0
        np.testing.assert_array_equal(grad, np.zeros_like(grad))

    def test_half_precision_is_computed_in_float32(self, function, expected, pair):
        half = [hidden.astype("float16") for hidden in pair]
        result = function(teacher=half[0], student=half[1])
        assert result.dtype == "float32"
        np.testing.assert_allclose(result, expected(*half).mean(-1), **CLOSE)

    def test_other_shapes_are_refused(self, function, expected, pair):
        with pytest.raises(ValueError, match="features of equal shapes"):
            function(teacher=pair[0], student=pair[1][..., :1])


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # Of what comes after.
@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_it_falls_and_trains_its_projectors(distance, tmp_path):
    loss = HiddenStates(["block2", "block4"], ["block1", "block2"], distance=distance)
    made, (x, _) = distiller(loss), tokens()
    before = [projector.get_weights()[0] for projector in made.projectors]
    history = made.fit(x, epochs=5, verbose=0).history["hidden_states"]
    assert history[-1] < history[0]
    for projector, old in zip(made.projectors, before, strict=True):
        assert not np.array_equal(projector.get_weights()[0], old)
    made.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = made.teacher
    assert evaluate(loaded, x) == evaluate(made, x)


def test_what_stands_in_the_padding_does_not_matter():
    """The same sequences in an encoder that does without Keras's masks say otherwise."""
    x, _ = tokens()
    loss = HiddenStates("embedding", "embedding", projector=None)
    for mask_zero, same in ((True, True), (False, False)):
        teacher = encoder("teacher", mask_zero=mask_zero)
        student = encoder("student", mask_zero=mask_zero)
        made = distiller(loss, teacher=teacher, student=student)
        before = evaluate(made, x)
        table = student.get_layer("embedding").embeddings
        table.assign(ops.concatenate([table[:1] + 5.0, table[1:]]))
        assert (evaluate(made, x) == before) == same
        values = mse(teacher.get_layer("embedding")(x), student.get_layer("embedding")(x))
        expected = values[valid(x)].mean() if same else values.mean()
        assert evaluate(made, x) == pytest.approx(expected, rel=1e-5)


def with_padding_mask(name, units):
    """An encoder that gets its padding mask as an input."""
    inputs = {
        "token_ids": keras.Input((LENGTH,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((LENGTH,), dtype="int32", name="padding_mask"),
    }
    x = layers.Embedding(VOCABULARY, units, name="embedding")(inputs["token_ids"])
    x = x * ops.cast(ops.expand_dims(inputs["padding_mask"], -1), x.dtype)
    outputs = layers.Dense(VOCABULARY, name="outputs")(blocks(x, 1, units, 2))
    return keras.Model(inputs, outputs, name=name)


def test_an_input_may_be_the_mask():
    teacher, student = with_padding_mask("teacher", 8), with_padding_mask("student", 8)
    numbers, _ = tokens()
    x = {"token_ids": numbers, "padding_mask": valid(numbers).astype("int32")}
    loss = HiddenStates("block1", "block1", mask_input="padding_mask")
    made = distiller(again(loss), teacher=teacher, student=student)
    sides = [
        keras.Model(model.input, model.get_layer("block1").output)(x)
        for model in (teacher, student)
    ]
    expected = mse(*sides)[valid(numbers)].mean()
    logs = made.evaluate(x, batch_size=8, verbose=0, return_dict=True)
    assert logs["hidden_states"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["padding", 1])
def test_an_unknown_mask_input_is_refused(name):
    teacher, student = with_padding_mask("teacher", 8), with_padding_mask("student", 8)
    numbers, _ = tokens()
    x = {"token_ids": numbers, "padding_mask": valid(numbers).astype("int32")}
    loss = HiddenStates("block1", "block1", mask_input=name)
    made = distiller(loss, teacher=teacher, student=student)
    with pytest.raises(ValueError, match=r"an input .*Received: \['padding_mask', 'token_ids'\]"):
        made.fit(x, verbose=0)


def test_outside_of_our_distiller_there_is_no_input_to_ask(pair):
    loss = HiddenStates("a", "b", projector=None, mask_input="padding_mask")
    with pytest.raises(ValueError, match=r"an input 'padding_mask'.*NoneType"):
        loss.per_example(*pair, Context())


def test_configuration():
    loss = losses.get(
        "hidden",
        teacher_layer_name=["a", "b"],
        student_layer_name=["c", "d"],
        distance="cosine",
        mask_input="padding_mask",
        name="states",
    )
    made = again(loss)
    assert (made.distance, made.mask_input, made.name) == ("cosine", "padding_mask", "states")


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="distance to be one of"):
        HiddenStates("a", "b", distance="l1")


def test_sequences_of_other_lengths_are_refused():
    inputs = keras.Input((LENGTH // 2, 4))
    short = keras.Model(inputs, layers.LayerNormalization(name="block1")(inputs))
    inputs = keras.Input((LENGTH + 1, 4))
    longer = keras.Model(inputs, layers.LayerNormalization(name="block1")(inputs))
    loss = HiddenStates("block1", "block1")
    with pytest.raises(ValueError, match="the sizes are no multiples of each other"):
        loss.connect(Ends(short.output, longer.output))
