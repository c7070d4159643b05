"""What a saved distiller remembers, and what a loaded one can do."""

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import ops

import keras_kd
from tests.models import (
    RTOL,
    assert_equal,
    assert_same,
    conv_net,
    cross_entropy,
    images,
    mlp,
    snapshot,
    soft_target,
    task_loss,
    vectors,
)


def trained(student=None, losses=None, **options):
    """A distiller after an epoch of Adam, with all that has a state."""
    distiller = keras_kd.Distiller(
        options.pop("teacher", None) or conv_net("teacher", 6, norm=True),
        conv_net("student", 3, norm=True, dropout=0.3, flip=True) if student is None else student,
        losses
        or [
            keras_kd.LogitsDistillation(2.0),
            keras_kd.FeatureDistillation("mse", "map", "map"),
        ],
        distillation_loss_weights=options.pop("weights", None),
        student_loss_weight=0.3,
        **options,
    )
    distiller.compile(
        keras.optimizers.Adam(0.01),
        task_loss(),
        metrics=["accuracy"],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("weighted")],
    )
    distiller.fit(*images(), batch_size=5, shuffle=False, verbose=0)
    return distiller


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the distiller, the path of its file); not to be trained on."""
    keras.utils.set_random_seed(0)
    distiller = trained(teacher_agreement=True)
    path = tmp_path_factory.mktemp("saved") / "distiller.keras"
    distiller.save(path)
    return distiller, path


def test_a_loaded_distiller_predicts_and_evaluates_at_once(saved):
    distiller, path = saved
    x, y = images(seed=1)
    again = keras.models.load_model(path)
    assert isinstance(again, keras_kd.Distiller)
    assert again.teacher is None
    np.testing.assert_array_equal(again.predict(x, verbose=0), distiller.predict(x, verbose=0))
    logs = again.evaluate(x, y, verbose=0, return_dict=True)
    s = np.float64(distiller.student(x, training=False))
    # The task alone: nothing is made up for what the teacher would have said.
    assert sorted(logs) == ["accuracy", "loss", "student_loss", "total_loss", "weighted"]
    task = cross_entropy(y, s).mean()
    for name in ("loss", "total_loss", "student_loss"):
        np.testing.assert_allclose(logs[name], task, rtol=RTOL, err_msg=name)
    np.testing.assert_allclose(logs["accuracy"], (s.argmax(-1) == y).mean(), rtol=RTOL)


def test_a_loaded_distiller_has_every_state(saved):
    distiller, path = saved
    again = keras.models.load_model(path)
    before = snapshot(distiller, distiller.optimizer)
    after = snapshot(again, again.optimizer)
    assert_equal(before, after)
    assert any("seed" in name for name in before)


def test_a_loaded_distiller_refuses_to_train_until_it_has_its_teacher(saved):
    distiller, path = saved
    again = keras.models.load_model(path)
    before = snapshot(again, again.optimizer)
    for train in (again.fit, again.train_on_batch):
        with pytest.raises(ValueError, match=r"Expected a teacher.*distiller\.teacher = teacher"):
            train(*images())
    assert_same(before, snapshot(again, again.optimizer))
    again.teacher = distiller.teacher
    logs = again.fit(*images(), verbose=0).history
    assert "logits_distillation" in logs
    assert "teacher_agreement" in logs


def test_another_teacher_is_refused(saved):
    distiller, path = saved
    again = keras.models.load_model(path)
    wrong = keras.models.clone_model(distiller.teacher)
    with pytest.raises(ValueError, match=r"trained with, of fingerprint [0-9a-f]{12}"):
        again.teacher = wrong
    assert again.teacher is None
    # One last bit of one weight away.
    weights = distiller.teacher.get_weights()
    weights[0].flat[0] = np.nextafter(weights[0].flat[0], np.float32(9.0))
    wrong.set_weights(weights)
    with pytest.raises(ValueError, match="fingerprint"):
        again.teacher = wrong
    # The right one is right also when it was saved and loaded, which is what happens to it.
    wrong.set_weights(distiller.teacher.get_weights())
    again.teacher = wrong
    assert again.teacher is wrong


def test_the_right_teacher_is_accepted_from_its_own_file(saved, tmp_path):
    distiller, path = saved
    distiller.teacher.save(tmp_path / "teacher.keras")
    again = keras.models.load_model(path)
    again.teacher = keras.models.load_model(tmp_path / "teacher.keras")
    x, y = images(seed=1)
    logs = [d.evaluate(x, y, verbose=0, return_dict=True) for d in (distiller, again)]
    assert logs[0] == logs[1]


def test_the_fingerprint_survives_a_second_saving_without_a_teacher(saved, tmp_path):
    distiller, path = saved
    keras.models.load_model(path).save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    with pytest.raises(ValueError, match="fingerprint"):
        again.teacher = conv_net("teacher", 6, norm=True)
    again.teacher = distiller.teacher


def test_what_is_no_model_is_no_teacher(saved):
    _, path = saved
    again = keras.models.load_model(path)
    with pytest.raises(ValueError, match=r"teacher to be a keras\.Model"):
        again.teacher = "teacher.keras"
    with pytest.raises(ValueError, match="Expected two models"):
        again.teacher = again.student


def test_the_student_is_taken_out_of_a_loaded_distiller(saved, tmp_path):
    distiller, path = saved
    student = keras.models.load_model(path).student
    x, _ = images()
    student.save(tmp_path / "student.keras")
    alone = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(alone(x, training=False), distiller.student(x, training=False))


def test_compile_state_is_kept(saved):
    distiller, path = saved
    again = keras.models.load_model(path)
    assert again.optimizer.get_config() == distiller.optimizer.get_config()
    assert int(again.optimizer.iterations) == int(distiller.optimizer.iterations) == 3
    assert again.get_compile_config() == distiller.get_compile_config()
    loaded = keras.models.load_model(path, compile=False)
    assert not loaded.compiled
    x, _ = images()
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), distiller.predict(x, verbose=0))


def test_the_configuration_makes_the_same_distiller(saved):
    distiller, path = saved
    again = keras.models.load_model(path)
    config, found = distiller.get_config(), again.get_config()
    assert config["teacher"] is None
    # Nothing in it but what JSON can hold.
    assert json.loads(json.dumps(config, sort_keys=True)) == json.loads(
        json.dumps(found, sort_keys=True)
    )


# -- losses, schedules, functions ------------------------------------------------------------------


def test_schedules_and_losses_are_kept(tmp_path):
    def make():
        return [
            keras_kd.LogitsDistillation(
                keras_kd.schedules.Linear(5.0, 1.0, 10),
                keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
                name="soft",
            ),
            keras_kd.FeatureDistillation(keras.losses.MeanAbsoluteError(), "map", "map"),
            keras.distillation.LogitsDistillation(temperature=7.0),
        ]

    weights = [
        keras_kd.schedules.WarmUp(keras_kd.schedules.Cosine(2.0, 1.0, 8), 4),
        keras.optimizers.schedules.CosineDecay(1.0, 10),
        keras_kd.schedules.Piecewise([3], [0.5, 2.0]),
    ]
    distiller = trained(losses=make(), weights=weights)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    again.teacher = distiller.teacher
    x, y = images(seed=1)
    logs = [d.evaluate(x, y, verbose=0, return_dict=True) for d in (distiller, again)]
    assert {"soft", "feature_distillation", "logits_distillation"} <= logs[0].keys()
    assert logs[0] == logs[1]
    # At the same step, and from then on the same way.
    logs = []
    for one in (distiller, again):
        one.compile(keras.optimizers.SGD(0.0), task_loss())
        one.optimizer.iterations.assign(6)
        logs.append(one.evaluate(x, y, verbose=0, return_dict=True))
    assert logs[0] == logs[1]


class Scaled(keras.layers.Layer):
    """A projector of the user's own, which is registered nowhere."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale


def test_a_projector_of_ones_own_is_saved_and_restored(tmp_path):
    own = keras.Sequential([keras.layers.Conv2D(6, 1), Scaled()], name="mine")
    distiller = trained(
        losses=[
            keras_kd.LogitsDistillation(2.0),
            keras_kd.FeatureDistillation("mse", "map", "map", projector=own),
        ]
    )
    path = tmp_path / "distiller.keras"
    distiller.save(path)
    with pytest.raises(TypeError, match="Scaled"):
        keras.models.load_model(path)
    again = keras.models.load_model(path, custom_objects={"Scaled": Scaled})
    (projector,) = again.projectors
    assert projector.name == "mine"
    assert not np.array_equal(own.get_weights()[2], np.ones(6))
    for ours, theirs in zip(own.get_weights(), projector.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # It is trained on, not a copy beside it.
    again.teacher = distiller.teacher
    before = projector.get_weights()[2]
    again.train_on_batch(*images())
    assert not np.array_equal(before, projector.get_weights()[2])


@keras.saving.register_keras_serializable(package="tests_saving")
def halved(x):
    return x * 0.5


@keras.saving.register_keras_serializable(package="tests_saving")
def doubled(x):
    return x * 2.0


@keras.saving.register_keras_serializable(package="tests_saving")
def student_features(model, x, training):
    hidden = model.get_layer("hidden")(x)
    return model.get_layer("outputs")(hidden), {"squared": ops.square(hidden)}


def test_registered_functions_are_kept(tmp_path):
    x, y = vectors()
    distiller = keras_kd.Distiller(
        mlp("teacher", 5),
        mlp("student"),
        keras_kd.FeatureDistillation("mse", "hidden", "squared"),
        teacher_preprocessing=halved,
        student_preprocessing=doubled,
        student_features=student_features,
        evaluate_distillation=True,
    )
    distiller.compile("adam", task_loss())
    distiller.fit(x, y, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    assert again.student_features is student_features
    np.testing.assert_array_equal(again.predict(x, verbose=0), distiller.predict(x, verbose=0))
    again.teacher = distiller.teacher
    logs = [d.evaluate(x, y, verbose=0, return_dict=True) for d in (distiller, again)]
    assert logs[0] == logs[1]


def test_a_lambda_is_refused_in_safe_mode(tmp_path):
    distiller = keras_kd.Distiller(
        mlp("teacher"),
        mlp("student"),
        keras_kd.LogitsDistillation(),
        student_preprocessing=lambda x: x * 2.0,
        teacher_preprocessing=lambda x: x * 2.0,
    )
    distiller.compile("adam", task_loss())
    distiller.fit(*vectors(), verbose=0)
    with pytest.warns(UserWarning, match="lambda"):
        distiller.save(tmp_path / "distiller.keras")
    with pytest.raises(ValueError, match="safe_mode"):
        keras.models.load_model(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras", safe_mode=False)
    x, _ = vectors()
    np.testing.assert_array_equal(again.predict(x, verbose=0), distiller.predict(x, verbose=0))


class OneNumber(keras.distillation.DistillationLoss):
    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return ops.mean(ops.square(teacher_outputs - student_outputs))

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_a_loss_of_ones_own_is_kept(tmp_path):
    distiller = trained(losses=[OneNumber(), keras_kd.LogitsDistillation(2.0)])
    path = tmp_path / "distiller.keras"
    distiller.save(path)
    again = keras.models.load_model(path, custom_objects={"OneNumber": OneNumber})
    again.teacher = distiller.teacher
    x, y = images(seed=1)
    logs = [d.evaluate(x, y, verbose=0, return_dict=True) for d in (distiller, again)]
    assert logs[0] == logs[1]
    assert "one_number" in logs[0]


# -- saving at other times -------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["made", "compiled"])
def test_a_distiller_is_saved_before_it_was_trained(when, tmp_path):
    x, y = vectors()
    distiller = keras_kd.Distiller(mlp("teacher"), mlp("student"), keras_kd.LogitsDistillation(2.0))
    if when == "compiled":
        distiller.compile(keras.optimizers.Adam(0.01), task_loss())
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    again.teacher = distiller.teacher
    for one in (distiller, again):
        if when == "made":
            one.compile(keras.optimizers.Adam(0.01), task_loss())
        one.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_equal(snapshot(distiller, distiller.optimizer), snapshot(again, again.optimizer))


def test_an_unbuilt_distiller_is_saved_after_its_first_batch(tmp_path):
    """Nothing was known when it was made; the file holds what was settled since."""
    student = keras.Sequential(
        [keras.layers.Dense(5, name="hidden"), keras.layers.Dense(4)], name="student"
    )
    distiller = keras_kd.Distiller(
        mlp("teacher"),
        student,
        [
            keras_kd.LogitsDistillation(2.0),
            keras_kd.FeatureDistillation("mse", "hidden", "hidden"),
        ],
    )
    distiller.compile("adam", task_loss())
    x, y = vectors()
    distiller.fit(x, y, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), distiller.predict(x, verbose=0))
    again.teacher = distiller.teacher
    logs = [d.evaluate(x, y, verbose=0, return_dict=True) for d in (distiller, again)]
    assert logs[0] == logs[1]
    assert_equal(snapshot(*distiller.projectors), snapshot(*again.projectors))


def test_weights_of_another_student_are_refused(tmp_path):
    keep = trained()
    keep.save_weights(tmp_path / "with.weights.h5")
    other = keras_kd.Distiller(
        conv_net("teacher", 6),
        conv_net("student", 3, norm=True, flip=True),
        keras_kd.LogitsDistillation(),
    )
    with pytest.raises(ValueError, match="other random layers"):
        other.load_weights(tmp_path / "with.weights.h5")


def test_the_file_is_a_plain_keras_file(saved):
    _, path = saved
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {"metadata.json", "config.json", "model.weights.h5"}


def test_the_value_after_loading_is_that_of_the_formula(saved):
    """Not only equal to the other distiller's, in case both are wrong."""
    distiller, path = saved
    again = keras.models.load_model(path)
    again.teacher = distiller.teacher
    x, y = images(seed=1)
    t, s = (
        np.float64(again.teacher(x, training=False)),
        np.float64(again.student(x, training=False)),
    )
    logs = again.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(
        logs["logits_distillation"], soft_target(t, s, 2.0).mean(), rtol=RTOL
    )
