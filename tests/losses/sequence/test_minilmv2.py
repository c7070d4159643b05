import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd import losses
from keras_kd.losses.sequence import MiniLMv2, relation_kl
from tests.encoders import encoder, tokens
from tests.losses.sequence.losses import again, distiller, evaluate, gradient
from tests.models import log_softmax


def kl(teacher, student, heads, lengths):
    """The loss of each example in float64, from its valid square block alone."""
    values = []
    for t, s, count in zip(teacher, student, lengths, strict=True):
        if not count:
            values.append(0.0)
            continue
        logs = []
        for side in (np.float64(t), np.float64(s)):
            split = side[:count].reshape(count, heads, -1).transpose(1, 0, 2)
            products = split @ split.transpose(0, 2, 1) / np.sqrt(split.shape[-1])
            logs.append(log_softmax(products))
        p, q = logs
        values.append((np.exp(p) * (p - q)).sum() / (heads * count))
    return np.array(values)


LENGTHS = (5, 1, 3, 0)


@pytest.fixture
def vectors(rng):
    return [rng.normal(size=(4, 5, units)).astype("float32") for units in (12, 6)]


@pytest.fixture
def mask():
    return np.arange(5) < np.array(LENGTHS)[:, None]


class TestFunction:
    def test_value(self, vectors):
        result = relation_kl(teacher=vectors[0], student=vectors[1], relation_heads=3)
        # Exponentials of float32 products of a few units: some 1e-6 each.
        np.testing.assert_allclose(result, kl(*vectors, 3, (5,) * 4), rtol=1e-4, atol=1e-6)

    def test_value_with_padding(self, vectors, mask):
        result = relation_kl(teacher=vectors[0], student=vectors[1], relation_heads=3, mask=mask)
        np.testing.assert_allclose(result, kl(*vectors, 3, LENGTHS), rtol=1e-4, atol=1e-6)

    def test_nan_in_the_padding_stays_there(self, vectors, mask):
        vectors = [np.where(mask[..., None], side, np.nan).astype("float32") for side in vectors]
        value, (grad,) = gradient(
            lambda s: relation_kl(teacher=vectors[0], student=s, relation_heads=3, mask=mask),
            vectors[1],
        )
        assert value > 0
        assert np.isfinite(grad).all()

    def test_weights_of_tokens(self, vectors, mask):
        weight = np.zeros((4, 5), "float32")
        arguments = {"teacher": vectors[0], "student": vectors[1], "relation_heads": 2}
        whole = relation_kl(**arguments, mask=mask)
        parts = 0.0
        for token in range(5):
            only = weight.copy()
            only[:, token] = 1.0
            parts = parts + relation_kl(**arguments, mask=mask, position_weight=only)
        np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-7)

    def test_zero_at_equality_and_no_gradient_to_the_teacher(self, vectors):
        teacher = tf.Variable(vectors[0])
        with tf.GradientTape() as tape:
            value = relation_kl(teacher=teacher, student=vectors[0], relation_heads=4)
        np.testing.assert_allclose(value, np.zeros(4), atol=1e-6)
        assert tape.gradient(value, teacher) is None

    @pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
    def test_extremes_stay_finite(self, vectors, mask, scale):
        value, (grad,) = gradient(
            lambda s: relation_kl(teacher=vectors[0], student=s, relation_heads=3, mask=mask),
            vectors[1] * np.float32(scale),
        )
        assert np.isfinite(value)
        assert np.isfinite(grad).all()

    def test_heads_that_do_not_divide_are_refused(self, vectors):
        with pytest.raises(ValueError, match=r"that 4 relation heads divide.*\(4, 5, 6\)"):
            relation_kl(teacher=vectors[0], student=vectors[1], relation_heads=4)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # Of what comes after.
def test_it_falls_whatever_the_sizes(tmp_path):
    teacher, student = encoder("teacher", count=3), encoder("student", units=6, heads=3)
    loss = MiniLMv2("attention2", "attention2", relation_heads=2)
    made, (x, _) = distiller(loss, teacher=teacher, student=student), tokens()
    assert len(made.projectors) == 0
    dense = student.get_layer("attention2").value_dense
    before = dense.kernel.numpy()
    history = made.fit(x, epochs=8, verbose=0).history["minilmv2"]
    assert history[-1] < history[0]
    assert not np.array_equal(dense.kernel, before)
    made.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    assert evaluate(loaded, x) == evaluate(made, x)


def test_a_relation_of_weight_0_counts_for_nothing():
    teacher, student = encoder("teacher"), encoder("student")
    x, _ = tokens()

    def value(*weights):
        loss = MiniLMv2("attention1", "attention1", relation_heads=4, weights=weights)
        return evaluate(distiller(loss, teacher=teacher, student=student), x)

    parts = value(1.0, 0.0, 0.0) + value(0.0, 2.0, 0.0) + value(0.0, 0.0, 3.0)
    assert value(1.0, 2.0, 3.0) == pytest.approx(parts, rel=1e-5)


def test_configuration():
    loss = losses.get(
        "minilmv2",
        teacher_layer_name="a",
        student_layer_name="b/c",
        relation_heads=4,
        weights=(1.0, keras_kd.schedules.WarmUp(2.0, 3), 0.0),
        mask_input="padding_mask",
    )
    made = again(loss)
    assert made.student_layer_name == ["b/c:query", "b/c:key", "b/c:value"]
    assert (made.relation_heads, made.mask_input, made.name) == (4, "padding_mask", "minilmv2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relation_heads": 0}, "relation_heads to be a positive integer"),
        ({"relation_heads": 2.0}, "relation_heads to be a positive integer"),
        ({"weights": (1.0, 1.0)}, "weights for the relations of query, key, value"),
        ({"weights": (1.0, 1.0, -1.0)}, "weights to be a number of at least 0"),
        ({"teacher_layer_name": ["a", "b"]}, r"path of one attention layer.*\['a', 'b'\]"),
    ],
)
def test_bad_arguments(options, message):
    arguments = {"teacher_layer_name": "a", "student_layer_name": "b", **options}
    with pytest.raises(ValueError, match=message):
        MiniLMv2(**arguments)


def test_heads_that_do_not_divide_are_refused_at_construction():
    loss = MiniLMv2("attention1", "attention1", relation_heads=4)
    with pytest.raises(ValueError, match=r"'minilmv2'.*4 relation heads divide"):
        keras_kd.Distiller(encoder("teacher"), encoder("student", units=6), loss)
