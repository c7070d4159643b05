"""`compile`, `fit`, `evaluate`, `predict` and their like, on every kind of data of Keras."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd
from tests.models import (
    CLASSES,
    FEATURES,
    RTOL,
    Counting,
    assert_same,
    cross_entropy,
    images,
    mlp,
    snapshot,
    soft_target,
    task_loss,
    vectors,
)

TRAIN_LOGS = ["distillation_loss", "logits_distillation", "loss", "student_loss", "total_loss"]


def distilled(optimizer=None, *, loss="task", teacher=None, student=None, **options):
    """A compiled distiller; what `compile` takes beside optimizer and loss goes there."""
    compile_options = {
        name: options.pop(name)
        for name in ("metrics", "weighted_metrics", "run_eagerly", "jit_compile")
        if name in options
    }
    distiller = keras_kd.Distiller(
        mlp("teacher") if teacher is None else teacher,
        mlp("student") if student is None else student,
        keras_kd.LogitsDistillation(2.0),
        **options,
    )
    distiller.compile(
        keras.optimizers.SGD(0.0) if optimizer is None else optimizer,
        task_loss() if loss == "task" else loss,
        **compile_options,
    )
    return distiller


class Batches(keras.utils.PyDataset):
    def __init__(self, arrays, size):
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self):
        return -(-len(self.arrays[0]) // self.size)

    def __getitem__(self, index):
        chosen = slice(index * self.size, (index + 1) * self.size)
        return tuple(array[chosen] for array in self.arrays)


def arrays_of(kind, x, y, size):
    """Returns the arguments of `fit` for the same batches in the given kind of data."""
    if kind == "numpy":
        return {"x": x, "y": y, "batch_size": size}
    if kind == "tensors":
        return {"x": tf.constant(x), "y": tf.constant(y), "batch_size": size}
    if kind == "tf.data":
        return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(size)}
    if kind == "PyDataset":
        return {"x": Batches((x, y), size)}

    def generate():
        while True:
            for start in range(0, len(x), size):
                yield x[start : start + size], y[start : start + size]

    return {"x": generate(), "steps_per_epoch": -(-len(x) // size)}


# -- kinds of data ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def from_numpy():
    return trained_on("numpy")


def trained_on(kind):
    keras.utils.clear_session()
    keras.utils.set_random_seed(5)
    distiller = distilled(keras.optimizers.Adam(0.01), metrics=["accuracy"])
    arguments = arrays_of(kind, *vectors(20), 8)
    logs = distiller.fit(**arguments, shuffle=False, epochs=2, verbose=0).history
    return logs, snapshot(distiller, distiller.optimizer)


@pytest.mark.parametrize("kind", ["tensors", "tf.data", "PyDataset", "generator"])
def test_every_kind_of_data_trains_alike(kind, from_numpy):
    """The same batches in the same order, so the same numbers to the last bit."""
    logs, state = trained_on(kind)
    assert sorted(logs) == sorted([*TRAIN_LOGS, "accuracy"])
    assert logs == from_numpy[0]
    assert_same(from_numpy[1], state)


@pytest.mark.parametrize("kind", ["numpy", "tf.data", "PyDataset"])
def test_evaluate_and_predict_on_every_kind_of_data(kind):
    x, y = vectors(20)
    distiller = distilled()
    arguments = arrays_of(kind, x, y, 8)
    logs = distiller.evaluate(**arguments, verbose=0, return_dict=True)
    t, s = np.float64(distiller.teacher(x)), np.float64(distiller.student(x))
    assert sorted(logs) == TRAIN_LOGS
    np.testing.assert_allclose(logs["student_loss"], cross_entropy(y, s).mean(), rtol=RTOL)
    np.testing.assert_allclose(
        logs["logits_distillation"], soft_target(t, s, 2.0).mean(), rtol=RTOL
    )
    arguments.pop("y", None)
    predicted = distiller.predict(**arguments, verbose=0)
    # The graph may sum in another order than eager mode.
    np.testing.assert_allclose(predicted, s, rtol=RTOL, atol=1e-6)


def two_input_model(name):
    inputs = {"left": keras.Input((3,), name="left"), "right": keras.Input((3,), name="right")}
    x = keras.layers.Concatenate()([inputs["left"], inputs["right"]])
    x = keras.layers.Dense(8, activation="tanh", name="hidden")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="outputs")(x), name=name)


@pytest.mark.parametrize("features", [False, True])
def test_dict_inputs(features):
    x, y = vectors(20)
    parts = {"left": x[:, :3], "right": x[:, 3:]}
    teacher, student = two_input_model("teacher"), two_input_model("student")
    losses = [keras_kd.LogitsDistillation(2.0)]
    if features:
        losses.append(keras_kd.FeatureDistillation("mse", "hidden", "hidden"))
    distiller = keras_kd.Distiller(teacher, student, losses)
    distiller.compile(keras.optimizers.SGD(0.0), task_loss())
    t, s = np.float64(teacher(parts)), np.float64(student(parts))
    expected = [soft_target(t, s, 2.0).mean()]
    logs = distiller.fit(parts, y, batch_size=8, verbose=0).history
    np.testing.assert_allclose(logs["logits_distillation"], expected, rtol=RTOL)
    data = tf.data.Dataset.from_tensor_slices((parts, y)).batch(8)
    logs = distiller.evaluate(data, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["logits_distillation"], expected[0], rtol=RTOL)
    np.testing.assert_allclose(distiller.predict(parts, verbose=0), s, rtol=RTOL, atol=1e-6)


# -- single batches --------------------------------------------------------------------------------


def test_train_test_and_predict_on_batch():
    x, y = vectors(8)
    distiller = distilled(metrics=["accuracy"])
    t, s = np.float64(distiller.teacher(x)), np.float64(distiller.student(x))
    expected = {
        "student_loss": cross_entropy(y, s).mean(),
        "logits_distillation": soft_target(t, s, 2.0).mean(),
        "accuracy": (s.argmax(-1) == y).mean(),
    }
    expected["distillation_loss"] = expected["logits_distillation"]
    expected["loss"] = (expected["student_loss"] + expected["logits_distillation"]) / 2
    expected["total_loss"] = expected["loss"]
    for method in (distiller.train_on_batch, distiller.test_on_batch):
        distiller.reset_metrics()
        logs = method(x, y, return_dict=True)
        assert logs.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=RTOL, err_msg=name)
    np.testing.assert_allclose(distiller.test_on_batch(x, y)[0], expected["loss"], rtol=RTOL)
    np.testing.assert_allclose(distiller.predict_on_batch(x), s, rtol=RTOL, atol=1e-6)


def test_calling_the_distiller_is_calling_its_student():
    x, _ = vectors(8)
    distiller = distilled()
    np.testing.assert_array_equal(distiller(x), distiller.student(x))


# -- validation and callbacks ----------------------------------------------------------------------


def test_validation_reports_every_log_of_the_validation_data():
    x, y = vectors(16)
    held_out = vectors(8, seed=1)
    distiller = distilled(metrics=["accuracy"], teacher_agreement=True)
    logs = distiller.fit(x, y, validation_data=held_out, epochs=2, verbose=0).history
    names = [*TRAIN_LOGS, "accuracy", "teacher_agreement"]
    assert sorted(logs) == sorted([*names, *(f"val_{name}" for name in names)])
    apart = distiller.evaluate(*held_out, verbose=0, return_dict=True)
    for name in names:
        np.testing.assert_allclose(logs[f"val_{name}"], [apart[name]] * 2, rtol=RTOL, err_msg=name)


def test_validation_split():
    x, y = vectors(20)
    distiller = distilled()
    logs = distiller.fit(x, y, validation_split=0.4, verbose=0).history
    t, s = np.float64(distiller.teacher(x)), np.float64(distiller.student(x))
    soft = soft_target(t, s, 2.0)
    np.testing.assert_allclose(logs["logits_distillation"], [soft[:12].mean()], rtol=RTOL)
    np.testing.assert_allclose(logs["val_logits_distillation"], [soft[12:].mean()], rtol=RTOL)


def test_early_stopping_on_the_validation_loss():
    """A rate so large that the loss grows: the best epoch is the first, and is gone back to."""
    x, y = vectors(16)
    distiller = distilled(keras.optimizers.SGD(100.0))
    first = {}
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: first.setdefault("weights", snapshot(distiller.student))
    )
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    logs = distiller.fit(
        x, y, epochs=9, validation_data=(x, y), verbose=0, callbacks=[keep, stop]
    ).history
    assert len(logs["val_loss"]) < 9
    assert stop.best_epoch == int(np.argmin(logs["val_loss"]))
    if stop.best_epoch == 0:
        assert_same(first["weights"], snapshot(distiller.student))


def test_model_checkpoint_keeps_the_best_by_a_log_of_ours(tmp_path):
    x, y = vectors(16)
    distiller = distilled(keras.optimizers.SGD(50.0))
    path = tmp_path / "best.keras"
    keep = keras.callbacks.ModelCheckpoint(
        path, monitor="val_logits_distillation", mode="min", save_best_only=True
    )
    logs = distiller.fit(
        x, y, epochs=4, validation_data=(x, y), verbose=0, callbacks=[keep]
    ).history
    best = keras.models.load_model(path)
    best.teacher = distiller.teacher
    values = best.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(
        values["logits_distillation"], min(logs["val_logits_distillation"]), rtol=RTOL
    )


def test_learning_rate_scheduler_drives_the_students_optimizer():
    distiller = distilled(keras.optimizers.SGD(1.0))
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0 if epoch else rate)
    snapshots = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: snapshots.append(snapshot(distiller.student))
    )
    logs = distiller.fit(*vectors(), epochs=3, verbose=0, callbacks=[schedule, keep]).history
    assert logs["learning_rate"] == [1.0, 0.0, 0.0]
    assert_same(snapshots[0], snapshots[2])


def test_terminate_on_nan_stops():
    """A rate that makes the student overflow: its own NaN, not the teacher's."""
    distiller = distilled(keras.optimizers.SGD(3e38))
    logs = distiller.fit(
        *vectors(), batch_size=4, epochs=9, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()]
    ).history
    assert len(logs["loss"]) == 1
    assert not np.isfinite(logs["loss"][0])


def test_callbacks_are_given_as_one_or_as_a_list_and_are_not_changed():
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    x, y = vectors(8)
    data = keras_kd.data.replayable(x, y, batch_size=8, seed=0)
    given = [callback]
    distiller = distilled()
    for callbacks in (given, callback, keras.callbacks.CallbackList([callback], model=distiller)):
        distiller.fit(data, verbose=0, callbacks=callbacks, shuffle=False)
    assert seen == [0, 0, 0]
    assert given == [callback]


# -- metrics ---------------------------------------------------------------------------------------


def test_weighted_metrics_are_weighted_and_metrics_are_not(rng):
    x, y = vectors(20)
    weight = rng.uniform(0, 3, 20).astype("float32")
    distiller = distilled(
        metrics=[keras.metrics.SparseCategoricalAccuracy("plain")],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("weighted")],
    )
    right = np.array(distiller.student(x)).argmax(-1) == y
    logs = distiller.fit(x, y, sample_weight=weight, batch_size=8, verbose=0).history
    np.testing.assert_allclose(logs["plain"], [right.mean()], rtol=RTOL)
    np.testing.assert_allclose(logs["weighted"], [(right * weight).sum() / weight.sum()], rtol=RTOL)


def two_output_model(name):
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(8, activation="tanh")(inputs)
    outputs = {
        "kind": keras.layers.Dense(CLASSES, name="kind")(x),
        "size": keras.layers.Dense(1, name="size")(x),
    }
    return keras.Model(inputs, outputs, name=name)


def test_dict_metrics_on_dict_outputs():
    x, y = vectors(20)
    labels = {"kind": y, "size": x[:, :1]}
    teacher, student = two_output_model("teacher"), two_output_model("student")
    distiller = keras_kd.Distiller(
        teacher,
        student,
        [
            keras_kd.LogitsDistillation(2.0, {"kind": "kl_divergence", "size": None}),
            keras_kd.FeatureDistillation({"kind": None, "size": "mse"}),
        ],
    )
    distiller.compile(
        keras.optimizers.SGD(0.0),
        {"kind": task_loss(), "size": "mse"},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    t, s = ({k: np.float64(v) for k, v in model(x).items()} for model in (teacher, student))
    expected = {
        "logits_distillation": soft_target(t["kind"], s["kind"], 2.0).mean(),
        "feature_distillation": ((t["size"] - s["size"]) ** 2).mean(),
        "student_loss": cross_entropy(y, s["kind"]).mean() + ((s["size"] - x[:, :1]) ** 2).mean(),
        "kind_accuracy": (s["kind"].argmax(-1) == y).mean(),
        "size_mae": abs(s["size"] - x[:, :1]).mean(),
    }
    logs = distiller.fit(x, labels, batch_size=8, verbose=0).history
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], [value], rtol=RTOL, err_msg=name)


# -- agreement with the teacher --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher_head", "student_head"), [(None, None), ("sigmoid", None), (None, "sigmoid")]
)
def test_agreement_of_one_unit_is_on_which_side_of_one_half_the_probability_is(
    teacher_head, student_head
):
    """For logits that is 0, for probabilities 0.5."""
    x, _ = vectors(200)
    teacher = mlp("teacher", units=1, activation=teacher_head)
    student = mlp("student", units=1, activation=student_head)
    distiller = keras_kd.Distiller(
        teacher,
        student,
        keras_kd.LogitsDistillation(2.0, head="sigmoid"),
        student_loss_weight=0.0,
        teacher_agreement=True,
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    sides = [
        np.array(model(x)) > (0.5 if head else 0.0)
        for model, head in ((teacher, teacher_head), (student, student_head))
    ]
    expected = (sides[0] == sides[1]).mean()
    logs = distiller.evaluate(x, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["teacher_agreement"], expected, rtol=RTOL)


# -- evaluating with less --------------------------------------------------------------------------


def test_evaluate_distillation_false_runs_no_teacher():
    counter = Counting()
    distiller = distilled(
        teacher=mlp("teacher", first=counter), evaluate_distillation=False, teacher_agreement=True
    )
    x, y = vectors(16)
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert counter.taken() == 0
    assert sorted(logs) == ["loss", "student_loss", "total_loss"]
    task = cross_entropy(y, distiller.student(x)).mean()
    for value in logs.values():
        np.testing.assert_allclose(value, task, rtol=RTOL)
    distiller.fit(x, y, batch_size=8, verbose=0)
    counter.taken()
    distiller.fit(x, y, batch_size=8, verbose=0)  # Looks at its first batch beside the step.
    counter.taken()
    distiller.fit(x, y, batch_size=8, verbose=0)
    alone = counter.taken()
    logs = distiller.fit(x, y, batch_size=8, validation_data=(x, y), verbose=0).history
    assert counter.taken() == alone
    assert "val_loss" in logs
    assert "val_distillation_loss" not in logs
    assert "distillation_loss" in logs


# -- no labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [None, "task"])
@pytest.mark.parametrize("kind", ["numpy", "tf.data", "tf.data tuple"])
def test_pure_distillation_without_labels(kind, loss):
    x, _ = vectors(20)
    distiller = distilled(
        keras.optimizers.Adam(0.01), loss=loss, student_loss_weight=0.0, teacher_agreement=True
    )
    data = tf.data.Dataset.from_tensor_slices(x if kind == "tf.data" else (x,)).batch(8)
    arguments = {"x": x, "batch_size": 8} if kind == "numpy" else {"x": data}
    logs = distiller.fit(**arguments, epochs=3, shuffle=False, verbose=0).history
    assert sorted(logs) == [
        "distillation_loss",
        "logits_distillation",
        "loss",
        "teacher_agreement",
        "total_loss",
    ]
    assert logs["loss"][2] < logs["loss"][0]
    t, s = np.float64(distiller.teacher(x)), np.float64(distiller.student(x))
    logs = distiller.evaluate(**arguments, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], soft_target(t, s, 2.0).mean(), rtol=RTOL)


def test_metrics_are_skipped_without_labels_with_one_warning():
    x, _ = vectors(20)
    distiller = distilled(loss=None, student_loss_weight=0.0, metrics=["accuracy"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logs = distiller.fit(
            tf.data.Dataset.from_tensor_slices((x,)).batch(8),
            validation_data=tf.data.Dataset.from_tensor_slices((x,)).batch(8),
            epochs=3,
            shuffle=False,
            verbose=0,
        ).history
    ours = [str(entry.message) for entry in caught if "metrics" in str(entry.message)]
    assert len(ours) == 1, ours
    assert "no labels" in ours[0]
    assert not any("accuracy" in name for name in logs)
    assert len(logs["loss"]) == 3


def test_labels_are_logged_though_they_carry_no_weight():
    x, y = vectors(20)
    distiller = distilled(student_loss_weight=0.0, metrics=["accuracy"])
    logs = distiller.fit(x, y, batch_size=20, verbose=0).history
    t, s = np.float64(distiller.teacher(x)), np.float64(distiller.student(x))
    np.testing.assert_allclose(logs["student_loss"], [cross_entropy(y, s).mean()], rtol=RTOL)
    np.testing.assert_allclose(logs["loss"], [soft_target(t, s, 2.0).mean()], rtol=RTOL)
    np.testing.assert_allclose(logs["accuracy"], [(s.argmax(-1) == y).mean()], rtol=RTOL)


def test_missing_labels_are_one_clear_error():
    distiller = distilled(keras.optimizers.Adam(0.01), student_loss_weight=0.5)
    before = snapshot(distiller)
    with pytest.raises(ValueError, match=r"Expected labels.*student_loss_weight=0\.0"):
        distiller.fit(vectors()[0], verbose=0)
    assert_same(before, snapshot(distiller))
    with pytest.raises(ValueError, match="Expected a task loss"):
        distiller.compile("adam")


# -- other inputs for the teacher ------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
def upscaled(x):
    """[batch, 8, 8, 2] to the teacher's [batch, 16, 16, 1]."""
    return ops.image.resize(ops.mean(x, axis=-1, keepdims=True), (16, 16), interpolation="nearest")


@keras.saving.register_keras_serializable(package="tests")
def flattened(x):
    return ops.reshape(x, (-1, 128))


def test_each_model_gets_its_own_inputs_inside_the_graph(tmp_path):
    inputs = keras.Input((16, 16, 1))
    x = keras.layers.Conv2D(3, 5, strides=4, name="map")(inputs)
    x = keras.layers.Flatten()(x)
    teacher = keras.Model(inputs, keras.layers.Dense(CLASSES)(x), name="teacher")
    student = mlp("student", 9, features=128)
    distiller = keras_kd.Distiller(
        teacher,
        student,
        keras_kd.LogitsDistillation(2.0),
        teacher_preprocessing=upscaled,
        student_preprocessing=flattened,
    )
    distiller.compile(keras.optimizers.SGD(0.0), task_loss())
    x, y = images(12)
    t, s = np.float64(teacher(upscaled(x))), np.float64(student(flattened(x)))
    logs = distiller.fit(x, y, batch_size=5, verbose=0).history
    np.testing.assert_allclose(
        logs["logits_distillation"], [soft_target(t, s, 2.0).mean()], rtol=RTOL
    )
    np.testing.assert_allclose(logs["student_loss"], [cross_entropy(y, s).mean()], rtol=RTOL)
    np.testing.assert_allclose(distiller.predict(x, verbose=0), s, rtol=RTOL, atol=1e-5)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), s, rtol=RTOL, atol=1e-5)
    again.teacher = teacher
    assert again.evaluate(x, y, verbose=0, return_dict=True).keys() == logs.keys()


def test_other_input_shapes_without_preprocessing_are_refused():
    with pytest.raises(ValueError, match=r"same inputs.*teacher_preprocessing="):
        keras_kd.Distiller(
            mlp("teacher", features=7), mlp("student"), keras_kd.LogitsDistillation()
        )
