"""What all losses on relations keep: `rkd`, `sp`, `cc`, `pkt`, as functions and classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd
from keras_kd.losses import Context, Ends
from keras_kd.losses.relation import cc, pkt, rkd, rkd_angle, rkd_distance, sp
from tests.models import RTOL, assert_same, mlp, snapshot, task_loss, vectors


def cc_norm(**inputs):
    return cc(form="norm", **inputs)


FUNCTIONS = [rkd_distance, rkd_angle, rkd, sp, cc, cc_norm, pkt]
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
TWO_PAIRS = {"teacher_layer_name": ["a", "b"], "student_layer_name": ["c", "d"]}
every_name = pytest.mark.parametrize("name", ["rkd", "sp", "cc", "pkt"])


@pytest.fixture
def pair(rng):
    """Teacher's vectors and student's maps, of other sizes."""
    return (
        rng.normal(size=(6, 7)).astype("float32"),
        rng.normal(size=(6, 3, 2, 4)).astype("float32"),
    )


def gradient(function, student):
    student = tf.Variable(student)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(function(student))
    return float(value), tape.gradient(value, student).numpy()


@every_function
class TestFunctions:
    def test_it_is_flattened_and_not_negative(self, function, pair):
        teacher, student = pair
        values = ops.convert_to_numpy(function(teacher=teacher, student=student))
        assert values.shape == (6,)
        assert (values > 0).all()
        flat = function(teacher=teacher, student=student.reshape(6, -1))
        np.testing.assert_array_equal(values, flat)

    def test_zero_at_equality(self, function, pair):
        result = ops.convert_to_numpy(function(teacher=pair[1], student=pair[1]))
        np.testing.assert_array_equal(result, np.zeros(6))

    def test_the_order_of_examples_is_of_no_consequence(self, function, pair):
        order = [4, 2, 0, 5, 1, 3]
        values = ops.convert_to_numpy(function(teacher=pair[0], student=pair[1]))
        moved = function(teacher=pair[0][order], student=pair[1][order])
        np.testing.assert_allclose(moved, values[order], rtol=RTOL, atol=1e-7)

    def test_the_teacher_gets_no_gradient(self, function, pair):
        teacher = tf.Variable(pair[0])
        with tf.GradientTape() as tape:
            value = function(teacher=teacher, student=pair[1])
        assert tape.gradient(value, teacher) is None

    def test_what_is_left_out_counts_for_nothing(self, function, pair):
        teacher, student = (side.copy() for side in pair)
        kept = np.array([True, False, True, True, False, True])
        alone = function(teacher=teacher[kept], student=student[kept])
        teacher[~kept], student[~kept] = np.nan, np.inf
        values = ops.convert_to_numpy(function(teacher=teacher, student=student, valid=kept))
        np.testing.assert_allclose(values[kept], alone, rtol=RTOL, atol=1e-7)
        np.testing.assert_array_equal(values[~kept], [0.0, 0.0])
        _, grad = gradient(lambda s: function(teacher=teacher, student=s, valid=kept), student)
        assert np.isfinite(grad).all()
        np.testing.assert_array_equal(grad[~kept], np.zeros_like(grad[~kept]))

    @pytest.mark.parametrize("count", [0, 1])
    def test_nobody_to_compare_with(self, function, pair, count):
        teacher, student = pair
        valid = np.arange(6) < count
        value, grad = gradient(lambda s: function(teacher=teacher, student=s, valid=valid), student)
        assert value == pytest.approx(0.0, abs=1e-6)
        np.testing.assert_allclose(grad, np.zeros_like(grad), atol=1e-6)
        few = function(teacher=teacher[:count], student=student[:count])
        # The cosine of a vector with itself is 1 up to float32's rounding of 6e-8, a few times.
        np.testing.assert_allclose(few, np.zeros(count), atol=1e-6)

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: s * 1e4,
            lambda s: s * 0.0,
            lambda s: s * 0.0 + 3.0,
            lambda s: np.r_[s[:2], s[:2], s[:1] * 0.0, s[:1]],
        ],
        ids=["large", "zero", "constant", "coinciding"],
    )
    def test_finite_value_and_gradient(self, function, pair, change):
        teacher, student = (change(side).astype("float32") for side in pair)
        for t in (teacher, pair[0]):
            value, grad = gradient(lambda s, t=t: function(teacher=t, student=s), student)
            assert np.isfinite(value)
            assert np.isfinite(grad).all()

    def test_zeros_get_no_gradient(self, function, pair):
        _, grad = gradient(lambda s: function(teacher=pair[0], student=s), pair[1] * 0.0)
        np.testing.assert_array_equal(grad, np.zeros_like(grad))

    def test_half_precision_is_computed_in_float32(self, function, pair):
        half = [side.astype("float16") for side in pair]
        result = function(teacher=half[0], student=half[1])
        assert result.dtype == "float32"
        exact = function(teacher=half[0].astype("float32"), student=half[1].astype("float32"))
        np.testing.assert_array_equal(result, exact)

    def test_xla_and_unknown_shapes_agree(self, function, pair):
        expected = function(teacher=pair[0], student=pair[1])
        compiled = tf.function(
            lambda t, s: function(teacher=t, student=s),
            jit_compile=True,
            input_signature=[
                tf.TensorSpec((None, 7), tf.float32),
                tf.TensorSpec((None, None, None, 4), tf.float32),
            ],
        )
        result = compiled(tf.constant(pair[0]), tf.constant(pair[1]))
        # Another order of float32 sums, in values that are differences of numbers near 1.
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-7)


@every_name
class TestClasses:
    def test_config_round_trip(self, name):
        loss = keras_kd.losses.get(name, **TWO_PAIRS)
        config = keras.saving.serialize_keras_object(loss)
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is type(loss)
        assert keras.saving.serialize_keras_object(again) == config

    def test_pairs_of_layers_are_summed(self, name, pair):
        one = keras_kd.losses.get(name)
        two = keras_kd.losses.get(name, **TWO_PAIRS)
        expected = one.per_example(*pair, Context()) + one.per_example(*pair[::-1], Context())
        result = two.per_example(list(pair), list(pair[::-1]), Context())
        np.testing.assert_allclose(result, expected, rtol=RTOL)

    def test_padding_counts_as_zeros(self, name, rng):
        teacher, student = (rng.normal(size=(4, 3, 5)).astype("float32") for _ in range(2))
        mask = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
        loss = keras_kd.losses.get(name)
        zeros = [np.where(mask[..., None], side, 0.0) for side in (teacher, student)]
        expected = loss.per_example(*zeros, Context())
        for side in (teacher, student):
            side[~mask] = np.nan
        value, grad = gradient(
            lambda s: loss.per_example(teacher, s, Context(masks=(mask,))), student
        )
        assert value == pytest.approx(float(ops.mean(expected)), rel=RTOL)
        assert np.isfinite(grad).all()
        # A pooled teacher has no such positions.
        pooled = loss.per_example(zeros[0].sum(1), student, Context(masks=(mask,)))
        np.testing.assert_allclose(
            pooled, loss.per_example(zeros[0].sum(1), zeros[1], Context()), rtol=RTOL
        )

    def test_layers_come_in_pairs(self, name):
        with pytest.raises(ValueError, match="as many layers of the teacher as of the student"):
            keras_kd.losses.get(name, teacher_layer_name=["a", "b"], student_layer_name="c")

    def test_one_of_several_outputs_has_to_be_named(self, name):
        loss = keras_kd.losses.get(name)
        tensor = keras.KerasTensor((None, 3))
        with pytest.raises(ValueError, match="student_layer_name= to say what to read"):
            loss.connect(Ends(tensor, {"a": tensor, "b": tensor}))

    def test_it_falls_in_fit_and_the_student_is_trained_alone(self, name):
        keras.utils.set_random_seed(0)
        x, y = vectors(16)
        distiller = keras_kd.Distiller(
            mlp("teacher", 9),
            mlp("student", 5),
            keras_kd.losses.get(name, teacher_layer_name="hidden", student_layer_name="hidden"),
            student_loss_weight=0.1,
        )
        distiller.compile(keras.optimizers.Adam(3e-2), task_loss())
        before = snapshot(distiller.teacher)
        history = distiller.fit(x, y, batch_size=8, epochs=10, shuffle=False, verbose=0).history
        losses = history["distillation_loss"]
        assert losses[-1] < 0.8 * losses[0]
        assert_same(before, snapshot(distiller.teacher))
        assert len(distiller.projectors) == 0

    def test_weights_leave_examples_out_and_do_not_weigh(self, name):
        x, y = vectors(8)
        distiller = keras_kd.Distiller(
            mlp("teacher", 9), mlp("student", 5), keras_kd.losses.get(name), student_loss_weight=0.0
        )
        distiller.compile(keras.optimizers.SGD(0.1), task_loss())
        with pytest.raises(ValueError, match="sample weights of 0 and 1"):
            distiller.fit(x, y, sample_weight=np.full(8, 0.5), verbose=0)
