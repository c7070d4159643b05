import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_kd import heads, schedules
from keras_kd.losses import Context, Ends, LogitsDistillation, binary_soft_target, soft_target

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "losses.npz")


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(teacher, student, temperature):
    """T^2 KL(teacher || student) in float64, from the definition."""
    p, q = softmax(np.float64(teacher) / temperature), softmax(np.float64(student) / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(-1)


def binary_kl(teacher, student, temperature):
    p = 1.0 / (1.0 + np.exp(-np.float64(teacher) / temperature))
    q = 1.0 / (1.0 + np.exp(-np.float64(student) / temperature))
    divergence = p * np.log(p / q) + (1.0 - p) * np.log((1.0 - p) / (1.0 - q))
    return temperature**2 * divergence.mean(-1)


@pytest.fixture
def pair(rng):
    return [(rng.normal(size=(6, 5)) * 3.0).astype("float32") for _ in range(2)]


def gradient(function, student):
    student = tf.Variable(student)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(function(student))
    return float(value), tape.gradient(value, student).numpy()


@pytest.mark.parametrize(("case", "temperature"), [("kd_hinton_T1", 1.0), ("kd_hinton_T4", 4.0)])
def test_soft_target_golden(case, temperature):
    teacher, student = GOLDEN[f"{case}/in/teacher"], GOLDEN[f"{case}/in/student"]
    value, grad = gradient(
        lambda s: soft_target(teacher=teacher, student=s, temperature=temperature), student
    )
    # float32 on inputs of a few units, against float64: the goldens' own page gives 2e-4.
    assert value == pytest.approx(float(GOLDEN[f"{case}/expected"]), rel=2e-4)
    expected = GOLDEN[f"{case}/grad/student"]
    assert np.abs(grad - expected).max() <= 2e-4 * np.abs(expected).max()


def test_logit_mse_golden():
    loss = LogitsDistillation(1.0, "mse")
    teacher = GOLDEN["kd_logit_mse/in/teacher"]
    value, grad = gradient(
        lambda s: loss.per_example(teacher, s, Context()), GOLDEN["kd_logit_mse/in/student"]
    )
    assert value == pytest.approx(float(GOLDEN["kd_logit_mse/expected"]), rel=2e-4)
    expected = GOLDEN["kd_logit_mse/grad/student"]
    assert np.abs(grad - expected).max() <= 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("function", "expected"), [(soft_target, kl), (binary_soft_target, binary_kl)]
)
class TestFunctions:
    def test_value(self, function, expected, pair):
        result = function(teacher=pair[0], student=pair[1], temperature=2.5)
        np.testing.assert_allclose(result, expected(*pair, 2.5), rtol=1e-4, atol=1e-6)

    def test_zero_at_equality(self, function, expected, pair):
        result = ops.convert_to_numpy(function(teacher=pair[0], student=pair[0], temperature=2.0))
        np.testing.assert_array_equal(result, np.zeros_like(result))

    def test_never_negative(self, function, expected, pair):
        result = ops.convert_to_numpy(function(teacher=pair[0], student=pair[1], temperature=1.0))
        assert (result > 0).all()

    def test_one_value_a_position(self, function, expected, rng):
        maps = [rng.normal(size=(2, 3, 4, 5)).astype("float32") for _ in range(2)]
        result = function(teacher=maps[0], student=maps[1], temperature=2.0)
        np.testing.assert_allclose(result, expected(*maps, 2.0), rtol=1e-4, atol=1e-6)

    def test_the_teacher_gets_no_gradient(self, function, expected, pair):
        teacher = tf.Variable(pair[0])
        with tf.GradientTape() as tape:
            value = function(teacher=teacher, student=pair[1], temperature=2.0)
        assert tape.gradient(value, teacher) is None

    def test_a_confidently_wrong_student_gets_a_gradient(self, function, expected):
        teacher = np.array([[200.0, -200.0]], "float32")
        _, grad = gradient(
            lambda s: function(teacher=teacher, student=s, temperature=1.0), -teacher
        )
        assert np.abs(grad).max() > 0.4  # 1 for softmax, 1/2 for the mean over two units.

    @pytest.mark.parametrize("scale", [1e4, -1e4])
    def test_extreme_logits_stay_finite(self, function, expected, pair, scale):
        value, grad = gradient(
            lambda s: function(teacher=pair[0], student=s, temperature=1.0), pair[1] * scale
        )
        assert np.isfinite(value)
        assert np.isfinite(grad).all()

    def test_half_precision_is_computed_in_float32(self, function, expected, pair):
        half = [logits.astype("float16") for logits in pair]
        result = function(teacher=half[0], student=half[1], temperature=2.0)
        assert result.dtype == "float32"
        np.testing.assert_allclose(result, expected(*half, 2.0), rtol=1e-4, atol=1e-6)

    def test_xla_agrees(self, function, expected, pair):
        compiled = tf.function(function, jit_compile=True)
        result = compiled(
            teacher=tf.constant(pair[0]), student=tf.constant(pair[1]), temperature=2.0
        )
        np.testing.assert_allclose(result, expected(*pair, 2.0), rtol=1e-4, atol=1e-6)


def test_a_shift_of_the_logits_changes_nothing(pair):
    moved = soft_target(teacher=pair[0] + 7.0, student=pair[1] - 3.0, temperature=2.0)
    # Adding 7 rounds each logit to 2^-21 of its size.
    np.testing.assert_allclose(moved, kl(*pair, 2.0), rtol=1e-4, atol=1e-5)


def test_a_permutation_of_the_classes_changes_nothing(pair):
    order = [3, 0, 4, 1, 2]
    moved = soft_target(teacher=pair[0][:, order], student=pair[1][:, order], temperature=2.0)
    np.testing.assert_allclose(moved, kl(*pair, 2.0), rtol=1e-4, atol=1e-6)


class TestClass:
    def value(self, loss, teacher, student, **context):
        return ops.convert_to_numpy(loss.per_example(teacher, student, Context(**context)))

    def test_default_is_the_soft_target(self, pair):
        result = self.value(LogitsDistillation(3.0), *pair)
        np.testing.assert_allclose(result, kl(*pair, 3.0), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        "loss", ["kl_divergence", keras.losses.KLDivergence(), keras.losses.kl_divergence]
    )
    def test_every_spelling_of_kl(self, loss, pair):
        result = self.value(LogitsDistillation(3.0, loss), *pair)
        np.testing.assert_allclose(result, kl(*pair, 3.0), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        "loss", ["categorical_crossentropy", keras.losses.CategoricalCrossentropy(from_logits=True)]
    )
    def test_cross_entropy_with_soft_targets(self, loss, pair):
        teacher, student = pair
        p, q = softmax(np.float64(teacher) / 2.0), softmax(np.float64(student) / 2.0)
        result = self.value(LogitsDistillation(2.0, loss), teacher, student)
        np.testing.assert_allclose(result, 4.0 * -(p * np.log(q)).sum(-1), rtol=1e-4)

    def test_label_smoothing_is_kept(self, pair):
        smooth = keras.losses.CategoricalCrossentropy(label_smoothing=0.5)
        teacher, student = pair
        p, q = softmax(np.float64(teacher)), softmax(np.float64(student))
        expected = -((0.5 * p + 0.5 / 5) * np.log(q)).sum(-1)
        result = self.value(LogitsDistillation(1.0, smooth), teacher, student)
        np.testing.assert_allclose(result, expected, rtol=1e-4)

    def test_binary_cross_entropy_means_a_sigmoid_head(self, pair):
        teacher, student = pair
        p, z = 1.0 / (1.0 + np.exp(-np.float64(teacher))), np.float64(student)
        expected = (np.logaddexp(0.0, z) - p * z).mean(-1)
        result = self.value(LogitsDistillation(1.0, "binary_crossentropy"), teacher, student)
        np.testing.assert_allclose(result, expected, rtol=1e-4)

    def test_other_losses_compare_logits_over_t(self, pair):
        result = self.value(LogitsDistillation(2.0, "mae"), *pair)
        np.testing.assert_allclose(result, np.abs(pair[0] - pair[1]).mean(-1) / 2.0, rtol=1e-5)

    def test_declared_sigmoid_head(self, pair):
        result = self.value(LogitsDistillation(3.0, head="sigmoid"), *pair)
        np.testing.assert_allclose(result, binary_kl(*pair, 3.0), rtol=1e-4, atol=1e-6)

    def test_declared_probabilities(self, pair):
        loss = LogitsDistillation(3.0, teacher_outputs="probabilities")
        result = self.value(loss, softmax(pair[0]), pair[1])
        np.testing.assert_allclose(result, kl(*pair, 3.0), rtol=1e-4, atol=1e-5)

    def test_softmax_is_seen_on_the_tensor(self, pair):
        result = self.value(
            LogitsDistillation(3.0),
            keras.activations.softmax(ops.convert_to_tensor(pair[0])),
            pair[1],
        )
        np.testing.assert_allclose(result, kl(*pair, 3.0), rtol=1e-4, atol=1e-6)

    def test_positions_are_averaged_and_masked(self, rng):
        teacher, student = (rng.normal(size=(2, 3, 4)).astype("float32") for _ in range(2))
        values = kl(teacher, student, 2.0)
        result = self.value(LogitsDistillation(2.0), teacher, student)
        np.testing.assert_allclose(result, values.mean(-1), rtol=1e-4)
        mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
        masked = self.value(LogitsDistillation(2.0), teacher, student, masks=(mask,))
        np.testing.assert_allclose(masked, (values * mask).sum(-1) * 2 / 3, rtol=1e-4)

    def test_several_outputs_are_summed_and_none_is_left_out(self, pair):
        outputs = [{"a": logits, "b": logits * 2.0, "c": logits[:, :2]} for logits in pair]
        loss = LogitsDistillation(2.0, {"a": "kl_divergence", "b": "mse", "c": None})
        expected = kl(*pair, 2.0) + np.square(pair[0] - pair[1]).mean(-1)
        np.testing.assert_allclose(self.value(loss, *outputs), expected, rtol=1e-4)

    def test_the_temperature_may_be_a_schedule(self, pair):
        loss = LogitsDistillation(schedules.Linear(1.0, 5.0, 4))
        result = self.value(loss, *pair, step=np.int64(2))
        np.testing.assert_allclose(result, kl(*pair, 3.0), rtol=1e-4, atol=1e-6)
        with pytest.raises(ValueError, match="needs the training step"):
            loss.compute_loss(*pair)

    def test_compute_loss_is_the_mean(self, pair):
        result = LogitsDistillation(3.0).compute_loss(*pair)
        assert result.shape == ()
        assert float(result) == pytest.approx(kl(*pair, 3.0).mean(), rel=1e-4)

    @pytest.mark.parametrize(
        "loss",
        [
            LogitsDistillation(),
            LogitsDistillation(schedules.Cosine(4.0, 1.0, 10), "mse", name="answers"),
            LogitsDistillation(2.0, keras.losses.CategoricalCrossentropy(label_smoothing=0.1)),
            LogitsDistillation(
                2.0, {"a": "kl_divergence", "b": None}, head={"a": "sigmoid", "b": "auto"}
            ),
            LogitsDistillation(2.0, ["kl_divergence", None, keras.losses.MeanSquaredError()]),
        ],
    )
    def test_config_round_trip(self, loss):
        config = keras.saving.serialize_keras_object(loss)
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is LogitsDistillation
        assert keras.saving.serialize_keras_object(again) == config


def model_ending_in(activation, units=3):
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(units, activation)(inputs))


def ends(teacher, student):
    return Ends(
        *(heads.symbolic_outputs(model) for model in (teacher, student)),
        *(heads.activations(model) for model in (teacher, student)),
    )


class TestConnect:
    @pytest.mark.parametrize(
        ("teacher", "student", "units", "expected"),
        [
            (None, None, 3, ("softmax", "logits", "logits")),
            ("softmax", None, 3, ("softmax", "probabilities", "logits")),
            (None, "softmax", 3, ("softmax", "logits", "probabilities")),
            ("sigmoid", None, 3, ("sigmoid", "probabilities", "logits")),
            ("sigmoid", "sigmoid", 1, ("sigmoid", "probabilities", "probabilities")),
            (None, "sigmoid", 1, ("sigmoid", "logits", "probabilities")),
        ],
    )
    def test_heads_are_seen(self, teacher, student, units, expected):
        loss = LogitsDistillation()
        pair = ends(model_ending_in(teacher, units), model_ending_in(student, units))
        connected = loss.connect(pair)
        found = (connected.head, connected.teacher_outputs, connected.student_outputs)
        assert found == expected
        assert connected.is_connected()
        assert (loss.head, loss.is_connected()) == ("auto", False)  # The caller's own is unchanged.

    @pytest.mark.parametrize(
        ("teacher", "student", "units", "options", "message"),
        [
            ("softmax", "sigmoid", 3, {}, "one kind of head. Received: softmax and sigmoid"),
            (None, None, 1, {}, "head= to be declared for a single unit"),
            ("softmax", "softmax", 1, {}, "at least two classes"),
            ("relu", None, 3, {}, "teacher that ends in logits, softmax or sigmoid.*relu"),
            (None, "tanh", 3, {}, "student that ends in logits.*tanh.*unsupported head"),
            ("softmax", None, 3, {"teacher_outputs": "logits"}, "the teacher ends in softmax"),
            (None, "sigmoid", 3, {"head": "softmax"}, "go together"),
            (None, "softmax", 3, {"loss": "binary_crossentropy"}, "go together"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, teacher, student, units, options, message):
        pair = ends(model_ending_in(teacher, units), model_ending_in(student, units))
        with pytest.raises(ValueError, match=message):
            LogitsDistillation(**options).connect(pair)

    def test_a_declared_single_unit(self):
        pair = ends(model_ending_in(None, 1), model_ending_in(None, 1))
        assert LogitsDistillation(head="sigmoid").connect(pair).head == "sigmoid"

    def test_another_class_count_is_refused(self):
        with pytest.raises(ValueError, match=r"same number of classes.*\(None, 3\).*\(None, 4\)"):
            LogitsDistillation().connect(ends(model_ending_in(None, 3), model_ending_in(None, 4)))

    def test_outputs_are_settled_one_by_one(self):
        def model():
            inputs = keras.Input((4,))
            dense = layers.Dense
            return keras.Model(
                inputs, [dense(3)(inputs), dense(1, "sigmoid")(inputs), dense(2, "tanh")(inputs)]
            )

        loss = LogitsDistillation(2.0, ["kl_divergence", "kl_divergence", None])
        connected = loss.connect(ends(model(), model()))
        assert connected.head == ["softmax", "sigmoid", "auto"]
        assert connected.is_connected()

    def test_another_structure_is_refused(self):
        inputs = keras.Input((4,))
        two = keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(3)(inputs)])
        with pytest.raises(ValueError, match="Loss structure mismatch"):
            LogitsDistillation().connect(ends(two, two))
        with pytest.raises(ValueError, match="outputs of one structure"):
            LogitsDistillation().connect(ends(two, model_ending_in(None)))

    def test_values_that_look_like_probabilities_are_refused(self, pair):
        bare = ops.convert_to_tensor(softmax(pair[0]).astype("float32"))
        with pytest.raises(ValueError, match="the teacher's outputs look like probabilities"):
            LogitsDistillation().connect(Ends(bare, ops.convert_to_tensor(pair[1])))

    def test_a_linear_layer_that_gives_probabilities_is_refused_on_the_first_batch(self, pair):
        connected = LogitsDistillation().connect(ends(model_ending_in(None), model_ending_in(None)))
        logits = ops.convert_to_tensor(pair[0])
        connected.check_first_batch(logits, logits)
        with pytest.raises(ValueError, match="the student's outputs look like probabilities"):
            connected.check_first_batch(logits, ops.softmax(logits) * 1.0)

    def test_a_sigmoid_head_must_be_declared_for_kerass_distiller(self):
        teacher, student = model_ending_in("sigmoid"), model_ending_in("sigmoid")
        with pytest.raises(ValueError, match="sigmoid head to be declared"):
            LogitsDistillation().validate_model_compatibility(teacher, student)
        LogitsDistillation(head="sigmoid").validate_model_compatibility(teacher, student)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature to be a positive number"),
        ({"temperature": -1.0}, "temperature to be a positive number"),
        ({"temperature": "hot"}, "temperature to be a number"),
        ({"loss": None}, "at least one loss"),
        ({"loss": [None, None]}, "at least one loss"),
        ({"loss": "nothing_like_it"}, "nothing_like_it"),
        ({"head": "tanh"}, "head to be one of"),
        ({"teacher_outputs": "softmax"}, "teacher_outputs to be one of"),
        ({"student_outputs": "tanh"}, "student_outputs to be one of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        LogitsDistillation(**options)
