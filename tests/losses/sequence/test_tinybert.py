import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd import losses
from keras_kd.losses.sequence import (
    TinyBert,
    TinyBertPrediction,
    attention_scores_mse,
    soft_cross_entropy,
)
from tests.encoders import encoder, tokens, valid
from tests.losses.sequence.losses import again, distiller, evaluate, gradient
from tests.models import log_softmax

# Sums of a few dozen float32 products, each with a relative error of 6e-8.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
LAYERS = ["attention1:scores", "block1", "attention2:scores", "block2"]


def squares(teacher, student):
    """The squared differences of scores, of which those up to -100 count as 0, in float64."""
    teacher, student = (np.where(s <= -100, 0.0, np.float64(s)) for s in (teacher, student))
    return np.square(student - teacher)


@pytest.fixture
def scores(rng):
    """Scores of three heads over four queries and as many keys, some of them excluded."""
    excluded = rng.random((5, 1, 4, 4)) < 0.2
    return [
        np.where(excluded, -1e9, rng.normal(size=(5, 3, 4, 4))).astype("float32") for _ in range(2)
    ]


@pytest.fixture
def mask():
    return np.arange(4) < np.array([4, 1, 3, 2, 0])[:, None]


class TestScores:
    def test_value(self, scores):
        result = attention_scores_mse(teacher=scores[0], student=scores[1])
        np.testing.assert_allclose(result, squares(*scores).mean((1, 2, 3)), **CLOSE)

    def test_padding_counts_neither_in_value_nor_in_mean(self, scores, mask):
        pairs = mask[:, None, :, None] & mask[:, None, None, :] & np.ones((1, 3, 1, 1), bool)
        found = attention_scores_mse(teacher=scores[0], student=scores[1], mask=mask)
        assert float(np.mean(found)) == pytest.approx(squares(*scores)[pairs].mean(), rel=1e-5)
        scores[1][~pairs] = 7.0
        moved = attention_scores_mse(teacher=scores[0], student=scores[1], mask=mask)
        np.testing.assert_array_equal(found, moved)

    def test_attention_to_another_sequence(self, scores, mask):
        narrow = [side[..., :3] for side in scores]
        found = attention_scores_mse(teacher=narrow[0], student=narrow[1], mask=mask)
        rows = np.broadcast_to(mask[:, None, :, None], narrow[0].shape)
        assert float(np.mean(found)) == pytest.approx(squares(*narrow)[rows].mean(), rel=1e-5)

    def test_weights_of_queries(self, scores, rng):
        weight = rng.random((5, 4)).astype("float32")
        found = attention_scores_mse(teacher=scores[0], student=scores[1], position_weight=weight)
        expected = (squares(*scores) * weight[:, None, :, None]).mean((1, 2, 3))
        np.testing.assert_allclose(found, expected, **CLOSE)

    def test_zero_at_equality_and_no_gradient_to_the_teacher(self, scores):
        teacher = tf.Variable(scores[0])
        with tf.GradientTape() as tape:
            value = attention_scores_mse(teacher=teacher, student=scores[0])
        np.testing.assert_array_equal(value, np.zeros(5))
        assert tape.gradient(value, teacher) is None

    @pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
    def test_extremes_stay_finite(self, scores, mask, scale):
        value, (grad,) = gradient(
            lambda s: attention_scores_mse(teacher=scores[0], student=s, mask=mask),
            scores[1] * np.float32(scale),
        )
        assert np.isfinite(value)
        assert np.isfinite(grad).all()

    def test_other_numbers_of_heads_are_refused(self, scores):
        with pytest.raises(ValueError, match="TinyBERT asks for equal numbers of heads"):
            attention_scores_mse(teacher=scores[0], student=scores[1][:, :1])


class TestSoftCrossEntropy:
    def test_value(self, rng):
        teacher, student = (rng.normal(size=(4, 3, 7)) * 3.0 for _ in range(2))
        expected = -(np.exp(log_softmax(teacher / 2)) * log_softmax(student / 2)).mean(-1)
        found = soft_cross_entropy(
            teacher=teacher.astype("float32"), student=student.astype("float32"), temperature=2.0
        )
        np.testing.assert_allclose(found, expected, **CLOSE)

    def test_extremes_stay_finite(self, rng):
        student = (rng.normal(size=(4, 7)) * 1e4).astype("float32")
        value, (grad,) = gradient(
            lambda s: soft_cross_entropy(teacher=-student, student=s, temperature=1.0), student
        )
        assert np.isfinite(value)
        assert np.isfinite(grad).all()
        assert np.abs(grad).max() > 0


def test_value_in_a_distiller():
    teacher, student = encoder("teacher"), encoder("student", units=6)
    made, (x, _) = (
        distiller(TinyBert(LAYERS[:1], LAYERS[:1]), teacher=teacher, student=student),
        tokens(),
    )
    sides = []
    for model in (teacher, student):
        layer, embedded = model.get_layer("attention1"), model.get_layer("embedding")(x)
        query, key = (
            np.asarray(dense(np.asarray(embedded)))
            for dense in (layer.query_dense, layer.key_dense)
        )
        sides.append(np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(layer.key_dim))
    pairs = valid(x)[:, None, :, None] & valid(x)[:, None, None, :] & np.ones((1, 2, 1, 1), bool)
    # The scores have no entry below -100 but those of the mask.
    assert evaluate(made, x) == pytest.approx(squares(*sides)[pairs].mean(), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # Of what comes after.
def test_it_falls_trains_its_projections_and_is_saved(tmp_path):
    teacher, student = encoder("teacher"), encoder("student", units=6)
    made, (x, _) = distiller(TinyBert(LAYERS, LAYERS), teacher=teacher, student=student), tokens()
    assert len(made.projectors) == 2  # The scores have none.
    before = [projector.get_weights()[0] for projector in made.projectors]
    queries = student.get_layer("attention1").query_dense.kernel.numpy()
    history = made.fit(x, epochs=8, verbose=0).history["tiny_bert"]
    assert history[-1] < history[0]
    for projector, old in zip(made.projectors, before, strict=True):
        assert not np.array_equal(projector.get_weights()[0], old)
    assert not np.array_equal(student.get_layer("attention1").query_dense.kernel, queries)
    made.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    assert evaluate(loaded, x) == evaluate(made, x)


def test_the_predictions_follow():
    teacher, student = encoder("teacher"), encoder("student", units=6)
    made, (x, _) = distiller(TinyBertPrediction(), teacher=teacher, student=student), tokens()
    history = made.fit(x, epochs=8, verbose=0).history["tiny_bert_prediction"]
    assert history[-1] < history[0]


def test_configuration():
    made = again(losses.get("tinybert", teacher_layer_name=["a"], student_layer_name=["b"]))
    assert (made.teacher_layer_name, made.student_layer_name) == (["a"], ["b"])
    assert again(losses.get("tinybert_prediction", temperature=3.0)).temperature == 3.0


def test_other_numbers_of_heads_are_refused():
    teacher, student = encoder("teacher", heads=2), encoder("student", heads=4)
    with pytest.raises(ValueError, match=r"scores of as many heads.*minilmv2"):
        keras_kd.Distiller(teacher, student, TinyBert(LAYERS, LAYERS))


def test_scores_against_hidden_states_are_refused():
    with pytest.raises(ValueError, match=r"scores of as many heads"):
        keras_kd.Distiller(
            encoder("teacher"), encoder("student"), TinyBert("block1", "attention1:scores")
        )
