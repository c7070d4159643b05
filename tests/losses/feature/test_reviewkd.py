import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd
from keras_kd.losses import Context, Ends
from keras_kd.losses.feature import ReviewFusion, ReviewKD, reviewkd
from tests.contract.recipe import image_batch, image_model
from tests.models import task_loss

BOTH = (["low", "high"], ["low", "high"])


def pool(maps, size):
    """Averages over windows [floor(i L / n), ceil((i + 1) L / n)), in float64."""

    def windows(length):
        return [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]

    maps = np.float64(maps)
    rows = [maps[:, a:b].mean(1) for a, b in windows(maps.shape[1])]
    rows = np.stack(rows, 1)
    return np.stack([rows[:, :, a:b].mean(2) for a, b in windows(maps.shape[2])], 2)


def expected(teacher, student):
    def mse(a, b):
        return np.square(np.float64(a) - b).mean((1, 2, 3))

    values, weights = [mse(teacher, student)], [1.0]
    for level in (4, 2, 1):
        if level < teacher.shape[1]:
            weights.append(weights[-1] / 2)
            values.append(mse(pool(teacher, level), pool(student, level)))
    return np.average(values, axis=0, weights=weights)


# The last is narrower than a level of its pyramid, the first has one position.
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (7, 5), (6, 3)])
def test_value(rng, size):
    pair = [rng.normal(size=(2, *size, 3)).astype("float32") for _ in range(2)]
    result = reviewkd(teacher=pair[0], student=pair[1])
    # Means of some hundred terms, each with float32's rounding of 6e-8.
    np.testing.assert_allclose(result, expected(*pair), rtol=1e-5)
    np.testing.assert_array_equal(reviewkd(teacher=pair[0], student=pair[0]), [0.0, 0.0])


def test_the_teacher_gets_no_gradient(rng):
    teacher = tf.Variable(rng.normal(size=(2, 4, 4, 3)).astype("float16"))
    with tf.GradientTape() as tape:
        value = reviewkd(teacher=teacher, student=ops.zeros((2, 4, 4, 3), "float16"))
    assert value.dtype == "float32"
    assert tape.gradient(value, teacher) is None


class TestFusion:
    def test_shapes(self):
        students = [(None, 9, 6, 3), (None, 4, 3, 5), (None, 1, 1, 5)]
        teachers = [(None, 8, 8, 7), (None, 4, 4, 9), (None, 1, 1, 9)]
        fusion = ReviewFusion(students, teachers, 4)
        results = fusion([ops.ones((2, *shape[1:])) for shape in students])
        assert [tuple(r.shape) for r in results] == [(2, *shape[1:]) for shape in teachers]

    def test_deeper_stages_reach_shallower_ones_and_not_the_other_way(self, rng):
        shapes = [(None, 4, 4, 2), (None, 2, 2, 2)]
        fusion = ReviewFusion(shapes, shapes, 2)
        features = [rng.normal(size=(1, *s[1:])).astype("float32") for s in shapes]
        before = [np.array(r) for r in fusion(features)]
        deeper = [np.array(r) for r in fusion([features[0], features[1] + 1.0])]
        shallower = [np.array(r) for r in fusion([features[0] + 1.0, features[1]])]
        assert np.abs(deeper[0] - before[0]).max() > 1e-3
        np.testing.assert_array_equal(shallower[1], before[1])


def distiller(loss):
    made = keras_kd.Distiller(image_model("teacher", 6), image_model("student", 4), loss)
    made.compile(keras.optimizers.Adam(1e-2), task_loss())
    return made


def test_fit_trains_the_fusion_and_saves_it(tmp_path):
    made = distiller(ReviewKD(["low", "high", "pool"], ["low", "high", "pool"]))
    x, y = image_batch()
    history = made.fit(x, y, epochs=8, verbose=0).history["reviewkd"]
    assert history[-1] < history[0]
    (fusion,) = made.projectors
    assert fusion.mid_channels == 8
    assert len(fusion.trainable_variables) == 3 * 6 + 2 * 2
    made.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    assert [w.shape for w in again.projectors.weights] == [w.shape for w in fusion.weights]
    for ours, theirs in zip(fusion.weights, again.projectors.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_config_round_trip():
    shapes = [keras.KerasTensor((None, 8, 8, 4)), keras.KerasTensor((None, 4))]
    for loss in (
        ReviewKD(*BOTH, mid_channels=3, name="review"),
        ReviewKD(*BOTH).connect(Ends(shapes, shapes)),
    ):
        config = keras.saving.serialize_keras_object(loss)
        again = keras.saving.deserialize_keras_object(config)
        assert again.is_connected() == loss.is_connected()
        assert keras.saving.serialize_keras_object(again) == config


def test_bad_arguments():
    with pytest.raises(ValueError, match="as many layers of the teacher as of the student"):
        ReviewKD(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="mid_channels to be positive"):
        ReviewKD(*BOTH, mid_channels=0)
    maps = [keras.KerasTensor((None, None, None, 4))] * 2
    with pytest.raises(ValueError, match="features of a fixed size"):
        ReviewKD(*BOTH).connect(Ends(maps, maps))
    with pytest.raises(ValueError, match="connected to its two models"):
        ReviewKD("a", "a").per_example([maps], [maps], Context())
    with pytest.raises(ValueError, match="without padding"):
        ReviewKD("a", "a").per_example([maps], [maps], Context(masks=(np.ones((2, 4)),)))
    with pytest.raises(ValueError, match="one sample weight an example"):
        ReviewKD("a", "a").per_example([maps], [maps], Context(position_weight=np.ones((2, 4))))
