import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_kd.losses import Context, Ends, FeatureDistillation

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "losses.npz")


def value(loss, teacher, student, **context):
    return ops.convert_to_numpy(loss.per_example(teacher, student, Context(**context)))


@pytest.fixture
def maps(rng):
    return [rng.normal(size=(3, 4, 4, 2)).astype("float32") for _ in range(2)]


def test_hint_golden():
    """Keras's mse over NHWC maps is the mean over all elements, as FitNets' hint loss."""
    nhwc = [GOLDEN[f"hint_mse/in/{side}"].transpose(0, 2, 3, 1) for side in ("teacher", "student")]
    student = tf.Variable(nhwc[1])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(FeatureDistillation().per_example(nhwc[0], student, Context()))
    # float32 against float64: the goldens' own page gives 2e-4.
    assert float(loss) == pytest.approx(float(GOLDEN["hint_mse/expected"]), rel=2e-4)
    expected = GOLDEN["hint_mse/grad/student"].transpose(0, 2, 3, 1)
    grad = tape.gradient(loss, student).numpy()
    assert np.abs(grad - expected).max() <= 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    "loss", ["mse", keras.losses.MeanSquaredError(), keras.losses.mean_squared_error]
)
def test_mean_over_the_positions_of_each_example(loss, maps):
    expected = np.square(maps[0] - maps[1]).mean((1, 2, 3))
    np.testing.assert_allclose(value(FeatureDistillation(loss), *maps), expected, rtol=1e-5)


def test_a_reduction_of_the_loss_does_not_reach_us(maps):
    summed = keras.losses.MeanAbsoluteError(reduction="sum")
    expected = np.abs(maps[0] - maps[1]).mean((1, 2, 3))
    np.testing.assert_allclose(value(FeatureDistillation(summed), *maps), expected, rtol=1e-5)


def test_masked_positions_do_not_count(rng):
    teacher, student = (rng.normal(size=(2, 3, 4)).astype("float32") for _ in range(2))
    mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
    expected = (np.square(teacher - student).mean(-1) * mask).sum(-1) * 2 / 3
    result = value(FeatureDistillation(), teacher, student, masks=(mask,))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_half_precision_is_computed_in_float32(maps):
    result = FeatureDistillation().per_example(*(m.astype("float16") for m in maps), Context())
    assert result.dtype == "float32"


def test_outputs_with_a_loss_each_or_none(maps):
    teacher, student = ({"a": m, "b": m[:, 0, 0], "c": m[:, :1]} for m in maps)
    loss = FeatureDistillation({"a": "mse", "b": "mae", "c": None})
    expected = np.square(maps[0] - maps[1]).mean((1, 2, 3))
    expected += np.abs(maps[0] - maps[1])[:, 0, 0].mean(-1)
    np.testing.assert_allclose(value(loss, teacher, student), expected, rtol=1e-5)


def test_the_teacher_gets_no_gradient(maps):
    teacher = tf.Variable(maps[0])
    with tf.GradientTape() as tape:
        loss = FeatureDistillation().compute_loss(teacher, maps[1])
    assert tape.gradient(loss, teacher) is None


@pytest.mark.parametrize("shape", [(3, 4, 4, 1), (3, 1, 4, 2), (3, 4, 2)])
def test_nothing_broadcasts(maps, shape):
    with pytest.raises(ValueError, match="features of equal shapes"):
        value(FeatureDistillation(), maps[0], np.ones(shape, "float32"))


def tensors(*shapes):
    return [keras.KerasTensor(shape) for shape in shapes]


class TestConnect:
    def test_equal_shapes_need_no_projector(self):
        connected = FeatureDistillation().connect(Ends(*tensors((None, 8), (None, 8))))
        assert connected.projector is None
        assert connected.is_connected()

    def test_a_projector_is_made(self, rng):
        loss = FeatureDistillation(name="hint")
        connected = loss.connect(Ends(*tensors((None, 4, 4, 6), (None, 8, 8, 2))))
        assert connected.projector.name == "hint_projector"
        assert connected.is_connected()
        assert not loss.is_connected()  # The caller's own is unchanged.
        assert loss.projector is None
        teacher, student = rng.normal(size=(3, 4, 4, 6)), rng.normal(size=(3, 8, 8, 2))
        expected = np.square(teacher - connected.projector(student)).mean((1, 2, 3))
        np.testing.assert_allclose(value(connected, teacher, student), expected, rtol=1e-4)

    def test_without_a_projector_shapes_must_meet(self):
        with pytest.raises(ValueError, match=r"equal shapes.*projector='auto' makes them meet"):
            FeatureDistillation(projector=None).connect(Ends(*tensors((None, 8), (None, 6))))

    def test_a_projector_of_ones_own(self):
        loss = FeatureDistillation(projector=layers.Dense(8, use_bias=False))
        connected = loss.connect(Ends(*tensors((None, 8), (None, 6))))
        assert connected.projector.count_params() == 48
        with pytest.raises(ValueError, match="equal shapes"):
            FeatureDistillation(projector=layers.Dense(7)).connect(
                Ends(*tensors((None, 8), (None, 6)))
            )

    def test_is_not_known_without_the_teacher(self):
        assert not FeatureDistillation().connect(Ends(None, *tensors((None, 6)))).is_connected()

    def test_outputs_without_a_loss_may_differ(self):
        teacher, student = tensors((None, 8), (None, 3)), tensors((None, 8), (None, 4))
        connected = FeatureDistillation(["mse", None]).connect(Ends(teacher, student))
        assert connected.is_connected()
        with pytest.raises(ValueError, match="equal shapes"):
            FeatureDistillation(["mse", "mse"]).connect(Ends(teacher, student))


@pytest.mark.parametrize(
    "loss",
    [
        FeatureDistillation(),
        FeatureDistillation("mae", "a/b", "c", name="hint"),
        FeatureDistillation(keras.losses.Huber(delta=2.0), projector=None),
        FeatureDistillation({"a": "mse", "b": None}),
        FeatureDistillation(projector=layers.Dense(8, name="mine")),
        FeatureDistillation().connect(Ends(*tensors((None, 4, 4, 6), (None, 8, 8, 2)))),
        FeatureDistillation().connect(Ends(*tensors((None, 8), (None, 8)))),
    ],
)
def test_config_round_trip(loss):
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is FeatureDistillation
    assert again.is_connected() == loss.is_connected()
    assert keras.saving.serialize_keras_object(again) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": None}, "at least one loss"),
        ({"loss": "nothing_like_it"}, "nothing_like_it"),
        ({"projector": "dense"}, "projector to be 'auto', None or a Keras layer"),
        ({"projector": 3}, "projector to be 'auto', None or a Keras layer"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureDistillation(**options)


def test_a_projector_of_ones_own_normalizes_by_the_batch_in_training_alone(maps):
    norm = layers.BatchNormalization()
    loss = FeatureDistillation(projector=norm).connect(Ends(*map(ops.convert_to_tensor, maps)))
    value(loss, *maps, training=False)
    np.testing.assert_array_equal(norm.moving_mean, np.zeros(2))
    value(loss, *maps, training=True)
    assert np.all(norm.moving_mean != 0)
