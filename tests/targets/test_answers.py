"""What is stored of an answer: the mathematics of top-k, its remainder, temperatures, rounding."""

import numpy as np
import pytest
import tensorflow as tf

from keras_kd.targets.answers import Answers

# Half a unit in the last place of float16: log-probabilities are rounded to it, relatively.
HALF_ULP = 2.0**-11
# float32 arithmetic on sums of ten terms of magnitude 1 to 30, absolute.
FLOAT32 = 2e-5


def log_softmax(logits):
    logits = logits.astype("float64")
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def round_trip(answers, logits, features=None):
    stored = answers.encode(tf.constant(logits), features or {})
    outputs, features = answers.decode(stored)
    return stored, outputs.numpy(), features


@pytest.fixture
def logits(rng):
    return rng.normal(size=(40, 10)).astype("float32") * 4


@pytest.mark.parametrize("temperature", [None, 1.0, 4.0])
def test_top_k_and_the_remaining_mass_are_the_teachers(logits, temperature):
    answers = Answers((10,), "linear", top_k=3, temperature=temperature, dtype="float32")
    stored, outputs, _ = round_trip(answers, logits)
    expected = log_softmax(logits / (temperature or 1.0))
    largest = np.argsort(-expected, axis=-1)[:, :3]
    np.testing.assert_array_equal(stored["classes"], largest)
    # Read as logits, at the stored temperature they are the stored distribution.
    read = log_softmax(outputs / (temperature or 1.0))
    np.testing.assert_allclose(
        np.take_along_axis(read, largest, -1),
        np.take_along_axis(expected, largest, -1),
        atol=FLOAT32,
    )
    others = np.ones_like(expected, bool)
    np.put_along_axis(others, largest, False, -1)
    rest = np.where(others, np.exp(expected), 0.0).sum(-1)
    np.testing.assert_allclose(np.where(others, np.exp(read), 0.0).sum(-1), rest, rtol=1e-4)
    # Evenly: all others have one and the same probability.
    spread = read[others].reshape(40, 7)
    np.testing.assert_allclose(spread, np.repeat(spread[:, :1], 7, axis=1), atol=FLOAT32)


def test_remaining_mass_is_exact_where_the_teacher_is_certain():
    # 1 - p of the first class is 9 e-40 in size: nothing in float32, and nothing as 1 - sum.
    logits = np.zeros((1, 10), "float32")
    logits[0, 4] = 40.0
    answers = Answers((10,), "linear", top_k=1)
    stored, outputs, _ = round_trip(answers, logits)
    expected = np.log(9.0) - 40.0
    np.testing.assert_allclose(stored["log_rest"], expected, rtol=HALF_ULP)
    np.testing.assert_allclose(outputs[0, 0], expected - np.log(9.0), rtol=2 * HALF_ULP)


def test_kl_on_what_is_stored_is_the_full_one_but_for_the_tail(logits, rng):
    """KL(spread || q) = KL over k + 1 buckets + rest * KL(even || q among the others).

    The chain rule of relative entropy; the first term is at most the full divergence (data
    processing inequality), so the second is all that the even spread can add.
    """
    student = log_softmax(rng.normal(size=(40, 10)) * 2)
    answers = Answers((10,), "linear", top_k=4, dtype="float32")
    stored, outputs, _ = round_trip(answers, logits)
    teacher, spread = log_softmax(logits), log_softmax(outputs)
    kept = np.zeros_like(teacher, bool)
    np.put_along_axis(kept, np.array(stored["classes"], int), True, -1)

    def bucketed(log_p):
        rest = np.log(np.where(kept, 0.0, np.exp(log_p)).sum(-1, keepdims=True))
        return np.concatenate([log_p[kept].reshape(40, 4), rest], axis=-1)

    def divergence(log_p, log_q):
        return (np.exp(log_p) * (log_p - log_q)).sum(-1)

    buckets = divergence(bucketed(teacher), bucketed(student))
    assert (buckets <= divergence(teacher, student) + 1e-12).all()
    rest = np.exp(bucketed(teacher)[:, -1])
    among = log_softmax(student[~kept].reshape(40, 6))
    tail = rest * (-np.log(6.0) - among).mean(-1)
    # float32 log-probabilities of magnitude up to 20, times a sum of probabilities of 1.
    np.testing.assert_allclose(divergence(spread, student), buckets + tail, atol=1e-4)


def test_all_classes_at_a_temperature_come_back(logits):
    answers = Answers((10,), "linear", temperature=3.0)
    _, outputs, _ = round_trip(answers, logits)
    expected = log_softmax(logits / 3.0)
    # log p is rounded; the softmax over the read ones shifts a row by no more than its largest.
    error = 2 * HALF_ULP * np.abs(expected).max() + FLOAT32
    np.testing.assert_allclose(log_softmax(outputs / 3.0), expected, atol=error)


def test_softmax_outputs_are_not_softmaxed_again(logits):
    probabilities = np.exp(log_softmax(logits)).astype("float32")
    answers = Answers((10,), "softmax", top_k=3, dtype="float32")
    _, outputs, _ = round_trip(answers, probabilities)
    _, expected, _ = round_trip(Answers((10,), "linear", top_k=3, dtype="float32"), logits)
    # The logarithm of a rounded probability: 2^-24 relative; logits of magnitude 30.
    np.testing.assert_allclose(outputs, expected, atol=FLOAT32)
    assert answers.read_activation == "linear"


@pytest.mark.parametrize("activation", ["linear", "softmax", "sigmoid", None])
def test_outputs_as_they_are(logits, activation):
    answers = Answers((10,), activation, dtype="float32")
    _, outputs, _ = round_trip(answers, logits)
    np.testing.assert_array_equal(outputs, logits)
    assert answers.read_activation == activation


def test_positions_and_features_keep_their_shapes(rng):
    logits = rng.normal(size=(4, 5, 12)).astype("float32")
    maps = rng.normal(size=(4, 3, 2)).astype("float32")
    answers = Answers((5, 12), "linear", top_k=2, features={"block/conv": (3, 2)})
    stored, outputs, features = round_trip(answers, logits, {"block/conv": tf.constant(maps)})
    assert {name: tuple(value.shape[1:]) for name, value in stored.items()} == {
        name: shape for name, _, shape in answers.fields()
    }
    assert outputs.shape == (4, 5, 12)
    best = log_softmax(logits).max(-1)
    np.testing.assert_allclose(outputs.max(-1), best, rtol=HALF_ULP, atol=FLOAT32)
    np.testing.assert_allclose(features["block/conv"], maps, rtol=HALF_ULP)


@pytest.mark.parametrize(
    ("classes", "dtype"), [(256, "|u1"), (257, "<u2"), (65536, "<u2"), (65537, "<u4")]
)
def test_class_numbers_take_the_bytes_they_need(classes, dtype):
    fields = {name: kind for name, kind, _ in Answers((classes,), "linear", top_k=1).fields()}
    assert fields["classes"] == dtype
    assert np.iinfo(dtype).max >= classes - 1


def test_bytes_of_a_record():
    # Of 10 classes the 5 largest: 5 numbers of a byte, 5 + 1 of float16.
    assert np.dtype(Answers((10,), "linear", top_k=5).fields()).itemsize == 5 + 10 + 2
    # Of 1000 the 20 largest: two bytes a number.
    assert np.dtype(Answers((1000,), "linear", top_k=20).fields()).itemsize == 40 + 40 + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "Expected dtype to be one of"),
        ({"top_k": 10}, r"Expected top_k in 1\.\.9"),
        ({"top_k": 0}, r"Expected top_k in 1\.\.9"),
        ({"temperature": 0.0}, "Expected temperature > 0"),
        ({"top_k": 2, "activation": "sigmoid"}, "ends in logits or softmax"),
        ({"top_k": 2, "activation": None}, "ends in logits or softmax"),
        ({"top_k": 1, "shape": (1,)}, "at least two classes"),
        ({"temperature": 1.0, "shape": ()}, "at least two classes"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Answers(**{"shape": (10,), "activation": "linear", **options})


def test_json_round_trip():
    answers = Answers((5, 12), "softmax", top_k=2, temperature=2.0, features={"a": (3,)})
    assert Answers.from_json(answers.to_json()) == answers
