import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import Ends
from keras_kd.losses.feature import SimKD, simkd, simkd_student
from tests.contract.recipe import image_batch, image_model
from tests.losses.feature.test_reviewkd import pool
from tests.models import assert_same, snapshot, task_loss


def test_value(rng):
    teacher = rng.normal(size=(2, 7, 5, 3)).astype("float32")
    student = rng.normal(size=(2, 7, 5, 3)).astype("float32")
    expected = np.square(np.float64(teacher) - student).mean((1, 2, 3))
    # Means of some hundred terms, each with float32's rounding of 6e-8.
    np.testing.assert_allclose(simkd(teacher=teacher, student=student), expected, rtol=1e-5)
    smaller = student[:, :3, :3]
    expected = np.square(pool(teacher, 3) - smaller).mean((1, 2, 3))
    np.testing.assert_allclose(simkd(teacher=teacher, student=smaller), expected, rtol=1e-5)


def test_the_teacher_gets_no_gradient():
    teacher = tf.Variable(tf.ones((2, 4, 4, 3), "float16"))
    with tf.GradientTape() as tape:
        value = simkd(teacher=teacher, student=tf.zeros((2, 2, 2, 3), "float16"))
    assert value.dtype == "float32"
    assert tape.gradient(value, teacher) is None


@pytest.fixture
def models():
    teacher, own = image_model("teacher", 6), image_model("student", 4)
    return teacher, own, simkd_student(own, teacher, "high", "high")


class TestStudent:
    def test_it_answers_by_the_teachers_classifier(self, models):
        teacher, own, student = models
        x, _ = image_batch()
        projected = keras.Model(student.input, student.get_layer("simkd_projector").output)(x)
        logits = teacher.get_layer("outputs")(teacher.get_layer("pool")(projected))
        # The same arithmetic on the same numbers.
        np.testing.assert_allclose(student(x), logits, rtol=1e-6)
        assert student.name == own.name

    def test_body_and_projector_are_trained_and_shared_and_nothing_else(self, models):
        teacher, own, student = models
        body = [v for layer in own.layers[:-2] for v in layer.trainable_variables]
        projector = student.get_layer("simkd_projector").trainable_variables
        expected = {id(v) for v in (*body, *projector)}
        assert {id(v) for v in student.trainable_variables} == expected
        assert not {id(v) for v in teacher.variables} & {id(v) for v in student.variables}

    def test_teacher_and_student_stay_as_they_were(self):
        teacher, own = image_model("teacher", 6), image_model("student", 4)
        x, _ = image_batch()
        before = [snapshot(model) for model in (teacher, own)]
        configs = [model.get_config() for model in (teacher, own)]
        outputs = [np.array(model(x)) for model in (teacher, own)]
        simkd_student(own, teacher, "high", "high")
        for model, numbers, config, output in zip(
            (teacher, own), before, configs, outputs, strict=True
        ):
            assert_same(numbers, snapshot(model))
            assert model.get_config() == config
            assert model.trainable
            np.testing.assert_array_equal(model(x), output)

    def test_it_saves_and_loads_as_a_plain_model(self, models, tmp_path):
        student = models[2]
        x, _ = image_batch()
        student.save(tmp_path / "student.keras")
        again = keras.models.load_model(tmp_path / "student.keras")
        assert type(again).__module__.startswith("keras.")
        np.testing.assert_array_equal(again(x), student(x))
        assert len(again.trainable_variables) == len(student.trainable_variables)

    def test_larger_maps_are_pooled_and_smaller_ones_are_not(self):
        teacher, own = image_model("teacher", 6), image_model("student", 4)
        large = simkd_student(own, teacher, "low", "high", factor=3, projector_name="project")
        shapes = [layer.output.shape for layer in large.get_layer("project").layers]
        assert shapes[0] == (None, 4, 4, 4)
        assert shapes[1] == (None, 4, 4, 4)  # Twelve channels over a factor of 3.
        small = simkd_student(own, teacher, "high", "low", name="small")
        assert small.get_layer("simkd_projector").output.shape == (None, 4, 4, 6)
        assert small.name == "small"

    def test_maps_of_nested_models(self):
        x, _ = image_batch()
        made = []
        for channels in (6, 4):
            whole = image_model("whole", channels)
            backbone = keras.Model(whole.input, whole.get_layer("high").output, name="backbone")
            inputs = keras.Input((8, 8, 2))
            pooled = keras.layers.GlobalAveragePooling2D()(backbone(inputs))
            made.append(keras.Model(inputs, keras.layers.Dense(4)(pooled), name="nested"))
        student = simkd_student(made[1], made[0], "backbone", "backbone")
        assert student.get_layer("backbone") is made[1].get_layer("backbone")
        assert student(x).shape == (8, 4)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (("nowhere", "high"), {}, "layer of student 'student', not inside a nested model"),
        (("high", "nowhere"), {}, "layer of teacher 'teacher'.*its layers are"),
        (("pool", "high"), {}, "'pool' of student 'student' to give maps"),
        (("high", "high"), {"factor": 0}, "factor to be a positive integer"),
    ],
)
def test_bad_arguments(layers, options, message):
    teacher, own = image_model("teacher", 6), image_model("student", 4)
    with pytest.raises(ValueError, match=message):
        simkd_student(own, teacher, *layers, **options)


def test_models_without_a_graph_are_refused():
    teacher, own = image_model("teacher", 6), image_model("student", 4)
    late = keras.Sequential([keras.layers.Conv2D(4, 3, name="high")], name="late")
    with pytest.raises(ValueError, match=r"Sequential teacher with one output.*'late'"):
        simkd_student(own, late, "high", "high")
    with pytest.raises(ValueError, match=r"Sequential student with one output.*'late'"):
        simkd_student(late, teacher, "high", "high")


def flat(size, name):
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 1, name="high")(inputs)
    x = keras.layers.Dense(5)(keras.layers.Flatten()(x))
    return keras.Model(inputs, x, name=name)


def test_sizes_that_cannot_meet():
    with pytest.raises(ValueError, match="a whole number of times larger"):
        simkd_student(flat(5, "student"), flat(4, "teacher"), "high", "high")
    with pytest.raises(ValueError, match="should begin with a global pooling"):
        simkd_student(flat(4, "student"), flat(8, "teacher"), "high", "high")


def test_fit_lowers_it_and_leaves_the_classifier(models):
    teacher, _, student = models
    made = keras_kd.Distiller(teacher, student, SimKD("high"), student_loss_weight=0.0)
    made.compile(keras.optimizers.Adam(1e-2), task_loss())
    x, y = image_batch()
    classifier = snapshot(student.layers[-1])
    history = made.fit(x, y, epochs=8, verbose=0).history["simkd"]
    assert history[-1] < history[0]
    assert_same(classifier, snapshot(student.layers[-1]))
    assert len(made.projectors) == 0


def test_config_round_trip():
    loss = SimKD(["low", "high"], ["a", "b"], name="reused")
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(again) == config


def test_other_channels_are_refused():
    ends = Ends(keras.KerasTensor((None, 4, 4, 6)), keras.KerasTensor((None, 4, 4, 5)))
    with pytest.raises(ValueError, match=r"6 channels. Received 5.*simkd_student"):
        SimKD("high", "high").connect(ends)
