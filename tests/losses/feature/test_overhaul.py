import keras
import numpy as np
import pytest

import keras_kd
from keras_kd.losses import Context, Ends, get
from keras_kd.losses.feature import Overhaul, overhaul, overhaul_margin
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import (
    RTOL,
    adaptive_pool,
    check_compiled,
    check_safe,
    maps,
)
from tests.models import images, snapshot

SHAPE = (3, 4, 5, 2)
MARGIN = np.array([-0.5, -1.0], "float32")


def function(teacher, student):
    return overhaul(teacher=teacher, student=student, margin=MARGIN)


def partial_distance(teacher, student):
    """||max(t, m) - s||^2 without where s is below a target that is not positive."""
    target = np.maximum(np.float64(teacher), MARGIN)
    counts = (student > target) | (target > 0)
    return (np.square(target - student) * counts).sum((1, 2, 3))


@pytest.mark.parametrize("size", [(4, 5), (8, 10), (7, 3), (2, 2)])
def test_value(size, rng):
    """The teacher's map is brought to the student's size, whichever is larger."""
    teacher, student = maps(rng, (3, *size, 2), SHAPE)
    expected = partial_distance(adaptive_pool(teacher, SHAPE[1:3]), student)
    np.testing.assert_allclose(function(teacher, student), expected, rtol=RTOL)


def test_it_is_safe(rng):
    check_safe(function, *maps(rng, SHAPE, SHAPE))
    check_compiled(function, *maps(rng, (3, 8, 7, 2), SHAPE))
    with pytest.raises(ValueError, match=r"equal shapes.*projector='auto' makes channels equal"):
        function(*maps(rng, SHAPE, (3, 4, 5, 1)))


def test_a_student_that_is_off_where_the_teacher_is_need_not_follow(rng):
    (teacher,) = maps(rng, SHAPE)
    assert not np.any(function(teacher, teacher))
    assert not np.any(function(-np.abs(teacher), -np.abs(teacher) - 5.0))


@pytest.mark.parametrize("beta", [-2.0, -0.1, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("gamma", [1.5, -0.8])
def test_the_margin_is_the_mean_below_zero(gamma, beta):
    x = np.linspace(-15.0, 0.0, 200_001)
    density = np.exp(-0.5 * ((x - beta) / gamma) ** 2)
    expected = (x * density).sum() / density.sum()
    if (density.sum() * (x[1] - x[0])) / (abs(gamma) * np.sqrt(2.0 * np.pi)) <= 0.001:
        expected = -3.0 * abs(gamma)
    result = overhaul_margin(gamma=np.float32([gamma]), beta=np.float32([beta]))
    # The sum is the integral up to its half first and last term.
    np.testing.assert_allclose(result, [expected], rtol=1e-3)


def test_the_margin_of_a_channel_without_scale_is_finite():
    gamma, beta = np.zeros(3, "float32"), np.array([-1.0, 0.0, 1.0], "float32")
    np.testing.assert_allclose(overhaul_margin(gamma=gamma, beta=beta), [-1.0, 0.0, 0.0])


def teacher_with(norm):
    """The normalization "norm" inside of the nested model "body"."""
    inputs = keras.Input((8, 8, 2))
    body = keras.Sequential([keras.layers.Conv2D(6, 3, name="conv"), norm], name="body")
    x = keras.layers.ReLU()(body(inputs))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="teacher")


def connected(loss, teacher):
    feature = teacher.get_layer("body").get_layer("norm").output
    return loss.connect(Ends(feature, keras.KerasTensor((None, 6, 6, 3)), teacher_model=teacher))


def test_the_margin_comes_from_the_teachers_normalization(rng):
    norm = keras.layers.BatchNormalization(name="norm")
    teacher = teacher_with(norm)
    gamma, beta = maps(rng, (6,), (6,))
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    loss = Overhaul("body/norm", "b")
    assert not loss.is_connected()
    made = connected(loss, teacher)
    assert made.is_connected()
    np.testing.assert_allclose(made.margin, [overhaul_margin(gamma=gamma, beta=beta)], rtol=1e-6)
    named = Overhaul("body/conv", "b", teacher_norm_layer_name="body/norm")
    assert connected(named, teacher).margin == made.margin
    plain = keras.layers.BatchNormalization(scale=False, center=False, name="norm")
    # E[x | x < 0] of the standard normal distribution.
    expected = np.full((1, 6), -np.sqrt(2.0 / np.pi))
    np.testing.assert_allclose(connected(loss, teacher_with(plain)).margin, expected, rtol=1e-5)


def test_another_layer_is_no_normalization():
    teacher = teacher_with(keras.layers.BatchNormalization(name="norm"))
    with pytest.raises(ValueError, match="'body/conv' of teacher 'teacher' to be a BatchNorm"):
        connected(Overhaul("body/conv", "b"), teacher)


def test_a_loss_without_a_margin_says_so(rng):
    with pytest.raises(ValueError, match="margin= for 'overhaul', which has not seen a teacher"):
        Overhaul("a", "b", projector=None).per_example(*maps(rng, SHAPE, SHAPE), Context())


def test_earlier_pairs_count_half(rng):
    loss = Overhaul(["a", "b"], ["c", "d"], margin=[MARGIN, MARGIN], projector=None)
    pairs = [maps(rng, SHAPE, SHAPE) for _ in range(2)]
    result = loss.per_example([t for t, _ in pairs], [s for _, s in pairs], Context())
    expected = 0.5 * function(*pairs[0]) + function(*pairs[1])
    np.testing.assert_allclose(result, expected, rtol=RTOL)


@pytest.mark.parametrize(
    "options",
    [
        {"teacher_layer_name": "a", "student_layer_name": "b", "margin": [-1.0, -2.0]},
        {
            "teacher_layer_name": ["a", "b"],
            "student_layer_name": ["c", "d"],
            "teacher_norm_layer_name": ["e", "f"],
            "margin": [[-1.0], [-2.0, -0.1]],
        },
    ],
)
def test_configuration(options):
    loss = get("ofd", **options)
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is Overhaul
    assert keras.saving.serialize_keras_object(again) == config
    assert again.margin == loss.margin


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_norm_layer_name": ["e"]}, "one batch normalization for each of 2 pairs"),
        ({"margin": [-1.0, -2.0]}, r"shape \[channels\] for each of 2 pairs"),
        ({"margin": [[-1.0]]}, r"shape \[channels\] for each of 2 pairs"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Overhaul(["a", "b"], ["c", "d"], **options)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_fit_lowers_it_and_trains_the_connector(tmp_path):
    teacher = image_model("teacher", 6)
    x, y = images()
    distiller = keras_kd.Distiller(
        teacher,
        image_model("student", 4),
        Overhaul(["norm1", "norm2"], ["norm1", "norm2"]),
        1e-3,
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(1e-2))
    before = snapshot(*distiller.projectors)
    losses = distiller.fit(x, y, epochs=8, verbose=0).history["overhaul"]
    assert losses[-1] < losses[0]
    after = snapshot(*distiller.projectors)
    assert not any(np.array_equal(before[key], after[key]) for key in before)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    ours, theirs = (
        model.evaluate(x, y, verbose=0, return_dict=True)["overhaul"]
        for model in (distiller, loaded)
    )
    assert ours == pytest.approx(theirs, rel=1e-6)
