import keras
import numpy as np
import pytest

import keras_kd
from keras_kd import schedules
from keras_kd.losses import Context, Ends, get
from keras_kd.losses.feature import ActivationBoundary, activation_boundary
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import RTOL, check_compiled, check_safe, maps
from tests.models import images, snapshot

SHAPE = (3, 4, 5, 2)


def function(teacher, student):
    return activation_boundary(teacher=teacher, student=student)


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_value(margin, rng):
    teacher, student = maps(rng, SHAPE, SHAPE)
    student = 2.0 * student
    expected = np.zeros(len(teacher))
    for index in np.ndindex(SHAPE):
        s, t = float(student[index]), float(teacher[index])
        if t > 0 and s < margin:
            expected[index[0]] += (s - margin) ** 2
        if t <= 0 and s > -margin:
            expected[index[0]] += (s + margin) ** 2
    result = activation_boundary(teacher=teacher, student=student, margin=margin)
    np.testing.assert_allclose(result, 3.0 / 1000.0 * expected, rtol=RTOL)


def test_a_student_beyond_the_margin_is_right(rng):
    (teacher,) = maps(rng, SHAPE)
    assert not np.any(function(teacher, 1.5 * np.sign(teacher)))


def test_it_is_safe(rng):
    check_safe(function, *maps(rng, SHAPE, SHAPE))
    check_compiled(function, *maps(rng, SHAPE, SHAPE))
    with pytest.raises(ValueError, match="features of equal shapes"):
        function(*maps(rng, SHAPE, (3, 4, 5, 1)))


def test_earlier_pairs_count_half(rng):
    loss = ActivationBoundary(["a", "b", "c"], ["d", "e", "f"], projector=None)
    pairs = [maps(rng, SHAPE, SHAPE) for _ in range(3)]
    result = loss.per_example([t for t, _ in pairs], [s for _, s in pairs], Context())
    expected = sum(
        weight * function(*pair) for weight, pair in zip((0.25, 0.5, 1.0), pairs, strict=True)
    )
    np.testing.assert_allclose(result, expected, rtol=RTOL)


def test_the_connector_is_a_convolution_and_a_normalization():
    ends = Ends(keras.KerasTensor((None, 4, 3, 5)), keras.KerasTensor((None, 8, 6, 2)))
    (connector,) = ActivationBoundary("a", "b").connect(ends).parts
    assert [layer.name for layer in connector.layers] == ["resize", "convolution", "norm"]
    assert connector.compute_output_shape((None, 8, 6, 2)) == (None, 4, 3, 5)


def test_configuration():
    loss = get("ab", teacher_layer_name="a", student_layer_name="b", margin=2.0)
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is ActivationBoundary
    assert keras.saving.serialize_keras_object(again) == config
    assert again.margin == 2.0


@pytest.mark.parametrize("margin", [0.0, -1.0, "wide", schedules.Linear(1.0, 2.0, steps=3)])
def test_bad_arguments(margin):
    with pytest.raises(ValueError, match="margin to be a"):
        ActivationBoundary("a", "b", margin=margin)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_fit_lowers_it_and_trains_the_connector(tmp_path):
    distiller = keras_kd.Distiller(
        image_model("teacher", 6),
        image_model("student", 4),
        ActivationBoundary(["norm1", "norm2"], ["norm1", "norm2"]),
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(1e-2))
    before = snapshot(*distiller.projectors)
    losses = distiller.fit(*images(), epochs=8, verbose=0).history["activation_boundary"]
    assert losses[-1] < losses[0]
    after = snapshot(*distiller.projectors)
    assert not any(np.array_equal(before[key], after[key]) for key in before)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    for ours, theirs in zip(after.values(), snapshot(*loaded.projectors).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
