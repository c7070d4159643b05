import numpy as np

from keras_kd.losses.relation import sp


def test_from_the_definition(rng):
    teacher = rng.normal(size=(5, 7)).astype("float32")
    student = rng.normal(size=(5, 2, 3, 4)).astype("float32")

    def similarities(rows):
        products = rows @ rows.T
        return products / np.sqrt((products**2).sum(1, keepdims=True))

    difference = similarities(np.float64(student).reshape(5, -1)) - similarities(
        np.float64(teacher)
    )
    result = np.array(sp(teacher=teacher, student=student))
    # float32 on inputs of a few units, against float64.
    np.testing.assert_allclose(result, (difference**2).sum(1) / 5, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.mean(), (difference**2).sum() / 25, rtol=1e-4)
