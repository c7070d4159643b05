"""The mathematics of contrastive representation distillation."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_kd.losses.relation import crd
from keras_kd.losses.relation.contrast import contrast_scores, log_normalizer, updated_bank

N_DATA, DIM, BATCH, NEGATIVES = 11, 3, 4, 6


def normalized(rows):
    return rows / np.sqrt((rows**2).sum(-1, keepdims=True))


@pytest.fixture
def inputs(rng):
    def embeddings(*shape):
        return normalized(rng.normal(size=shape)).astype("float32")

    index = np.array([3, 0, 10, 7])
    negatives = rng.integers(0, N_DATA, size=(BATCH, NEGATIVES))
    return {
        "teacher": embeddings(BATCH, DIM),
        "student": embeddings(BATCH, DIM),
        "teacher_bank": embeddings(N_DATA, DIM),
        "student_bank": embeddings(N_DATA, DIM),
        "contrast_index": np.c_[index, negatives],
    }


def by_hand(inputs, z=None, temperature=0.07):
    """The loss of each example and Z, one term after the other, in float64."""
    losses, found = np.zeros(BATCH), []
    for direction, (side, other) in enumerate((("student", "teacher"), ("teacher", "student"))):
        bank = np.float64(inputs[f"{other}_bank"])
        p = np.exp(
            [
                [a @ bank[row] / temperature for row in rows]
                for a, rows in zip(np.float64(inputs[side]), inputs["contrast_index"], strict=True)
            ]
        )
        found.append(p.mean() * N_DATA if z is None else z[direction])
        p = p / found[-1]
        noise = NEGATIVES / N_DATA
        losses -= np.log(p[:, 0] / (p[:, 0] + noise + 1e-7))
        losses -= np.log(noise / (p[:, 1:] + noise + 1e-7)).sum(1)
    return losses, found


def test_first_batch_from_the_definition(inputs):
    losses, z = by_hand(inputs)
    np.testing.assert_allclose(crd(**inputs), losses, rtol=1e-5)
    scores = contrast_scores(**inputs)
    found = ops.exp(log_normalizer(scores=scores, n_data=N_DATA))
    # Rounding of scores of about 10 is that of their exponentials, relative: 1e-6.
    np.testing.assert_allclose(found, z, rtol=1e-5)


def test_later_batch_from_the_definition(inputs):
    log_z = np.array([3.0, 5.0], "float32")
    losses, _ = by_hand(inputs, np.exp(np.float64(log_z)), temperature=0.2)
    np.testing.assert_allclose(crd(**inputs, log_z=log_z, temperature=0.2), losses, rtol=1e-5)


def test_both_embeddings_get_a_gradient_and_the_banks_none(inputs):
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    names = ("teacher", "student", "teacher_bank", "student_bank")
    with tf.GradientTape() as tape:
        tape.watch([tensors[name] for name in names])
        loss = tf.reduce_mean(crd(**tensors))
    gradients = tape.gradient(loss, [tensors[name] for name in names])
    assert all(np.abs(gradient).max() > 0 for gradient in gradients[:2])
    assert gradients[2:] == [None, None]


def test_a_low_temperature_does_not_overflow(inputs):
    """exp(1 / 0.001) is no float32."""
    student = tf.constant(inputs.pop("student"))
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = tf.reduce_mean(crd(student=student, **inputs, temperature=0.001))
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, student)).all()


def test_what_is_left_out_counts_for_nothing(inputs):
    valid = np.array([True, False, True, True])
    alone = {name: value[valid] if len(value) == BATCH else value for name, value in inputs.items()}
    result = np.array(crd(**inputs, valid=valid))
    np.testing.assert_allclose(result[valid], crd(**alone), rtol=1e-5)
    assert result[1] == 0.0
    np.testing.assert_array_equal(crd(**inputs, valid=np.zeros(BATCH, bool)), np.zeros(BATCH))


def test_the_bank_follows(inputs):
    bank, new = inputs["teacher_bank"], inputs["teacher"]
    index, valid = np.array([3, 0, 3, 7]), np.array([True, True, True, False])
    result = np.array(
        updated_bank(bank=bank, embedding=new, index=index, momentum=0.25, valid=valid)
    )
    expected = bank.copy()
    for row, example in ((3, 2), (0, 1)):  # Example 0 is there twice, 7 is left out.
        expected[row] = normalized(0.25 * bank[row] + 0.75 * new[example])
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    untouched = [row for row in range(N_DATA) if row not in (0, 3)]
    np.testing.assert_array_equal(result[untouched], bank[untouched])


def test_a_zero_embedding_spoils_no_bank(inputs):
    bank = inputs["teacher_bank"] * 0.0
    result = updated_bank(bank=bank, embedding=inputs["teacher"] * 0.0, index=np.arange(BATCH))
    np.testing.assert_array_equal(result, bank)
