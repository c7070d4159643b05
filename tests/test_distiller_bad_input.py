"""What is refused, when, with which words, and that nothing is lost by it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from tests.models import (
    CLASSES,
    FEATURES,
    assert_same,
    mlp,
    snapshot,
    task_loss,
    vectors,
)


def distilled(
    teacher=None,
    student=None,
    loss="task",
    *,
    alpha=0.5,
    metrics=None,
    jit_compile="auto",
    **options,
):
    distiller = keras_kd.Distiller(
        mlp("teacher") if teacher is None else teacher,
        mlp("student") if student is None else student,
        keras_kd.LogitsDistillation(2.0),
        student_loss_weight=alpha,
        **options,
    )
    distiller.compile(
        keras.optimizers.Adam(0.01),
        task_loss() if loss == "task" else loss,
        jit_compile=jit_compile,
    )
    return distiller


def assert_refused(distiller, match, *data, error=ValueError, **options):
    """`fit` refuses, and student, teacher, projectors, seeds and optimizer are as before."""
    distiller.optimizer.build(distiller.trainable_weights)
    held = [distiller, distiller.optimizer]
    held += [model for model in (distiller.teacher, distiller.student) if model.built]
    before = snapshot(*held)
    with pytest.raises(error, match=match):
        distiller.fit(*data, verbose=0, **options)
    assert_same(before, snapshot(*held))


# -- at construction -------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_an_unknown_layer_is_refused_with_the_names_of_the_layers(role):
    names = {"teacher": "hidden", "student": "hidden", role: "hiden"}
    loss = keras_kd.FeatureDistillation("mse", names["teacher"], names["student"])
    with pytest.raises(ValueError, match=rf"{role} '{role}'.*'hiden'.*hidden, outputs"):
        keras_kd.Distiller(mlp("teacher"), mlp("student"), loss)


def test_an_unknown_layer_inside_a_nested_model_is_refused():
    inputs = keras.Input((FEATURES,))
    student = keras.Model(inputs, mlp("inner")(inputs), name="student")
    for path, words in (("inner/nothing", "'inner'.*hidden, outputs"), ("inner/hidden/x", "Dense")):
        loss = keras_kd.FeatureDistillation("mse", "hidden", path)
        with pytest.raises(ValueError, match=words):
            keras_kd.Distiller(mlp("teacher"), student, loss)


def test_another_class_count_is_refused():
    with pytest.raises(ValueError, match=r"number of classes.*\(None, 3\).*\(None, 4\)"):
        keras_kd.Distiller(mlp("teacher", units=3), mlp("student"), keras_kd.LogitsDistillation())


def test_another_class_count_is_refused_also_where_all_is_declared():
    loss = keras_kd.LogitsDistillation(
        head="softmax", teacher_outputs="logits", student_outputs="logits"
    )
    with pytest.raises(ValueError, match=r"number of classes.*\(None, 1\).*\(None, 4\)"):
        keras_kd.Distiller(mlp("teacher", units=1), mlp("student"), loss)


def test_the_same_model_is_refused():
    model = mlp("model")
    with pytest.raises(ValueError, match=r"Expected two models.*clone_model"):
        keras_kd.Distiller(model, model, keras_kd.LogitsDistillation())


def test_shared_trainable_weights_are_refused():
    teacher = mlp("teacher")
    student = keras.Model(teacher.input, keras.layers.Dense(4)(teacher.get_layer("hidden").output))
    with pytest.raises(ValueError, match="share variables of layer 'hidden', 'hidden/kernel'"):
        keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation())


def test_frozen_shared_weights_are_fine():
    teacher = mlp("teacher")
    teacher.trainable = False
    student = keras.Model(teacher.input, keras.layers.Dense(4)(teacher.get_layer("hidden").output))
    keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation())


def test_shared_statistics_are_refused():
    """A shared BatchNorm without trainable weights: the student's steps move the teacher's."""
    inputs = keras.Input((FEATURES,))
    norm = keras.layers.BatchNormalization(center=False, scale=False, name="norm")(inputs)
    teacher = keras.Model(inputs, keras.layers.Dense(CLASSES)(norm), name="teacher")
    student = keras.Model(inputs, keras.layers.Dense(CLASSES)(norm), name="student")
    before = snapshot(teacher)
    with pytest.raises(ValueError, match="norm"):
        distilled(teacher, student).train_on_batch(*vectors())
    assert_same(before, snapshot(teacher))


def test_an_untrainable_student_is_refused():
    student = mlp("student")
    student.trainable = False
    with pytest.raises(ValueError, match=r"trainable weights.*student\.trainable = True"):
        keras_kd.Distiller(mlp("teacher"), student, keras_kd.LogitsDistillation())


def test_a_student_that_was_frozen_after_construction_is_refused():
    distiller = distilled()
    distiller.student.trainable = False
    assert_refused(distiller, "trainable weights", *vectors())


@pytest.mark.parametrize("wrong", ["model.keras", None, 3, len])
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(ValueError, match=r"student to be a keras\.Model"):
        keras_kd.Distiller(mlp("teacher"), wrong, keras_kd.LogitsDistillation())
    if wrong is not None:
        with pytest.raises(ValueError, match=r"teacher to be a keras\.Model"):
            keras_kd.Distiller(wrong, mlp("student"), keras_kd.LogitsDistillation())


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), "3", None, True])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        keras_kd.LogitsDistillation(temperature)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), "1", True])
def test_a_weight_out_of_range_is_refused(weight):
    loss = keras_kd.LogitsDistillation()
    with pytest.raises(ValueError, match="distillation_loss_weights"):
        keras_kd.Distiller(mlp("t"), mlp("s"), loss, distillation_loss_weights=weight)
    with pytest.raises(ValueError, match="distillation_loss_weights"):
        keras_kd.Distiller(mlp("t"), mlp("s"), [loss, loss], [1.0, weight])
    with pytest.raises(ValueError, match="student_loss_weight"):
        keras_kd.Distiller(mlp("t"), mlp("s"), loss, student_loss_weight=weight)


def test_a_student_loss_weight_above_one_is_refused():
    with pytest.raises(ValueError, match=r"student_loss_weight in \[0, 1\].*1\.5"):
        keras_kd.Distiller(
            mlp("t"), mlp("s"), keras_kd.LogitsDistillation(), student_loss_weight=1.5
        )


@pytest.mark.parametrize("weights", [[], [1.0], [1.0, 2.0, 3.0], 1.0])
def test_lists_of_other_lengths_are_refused(weights):
    losses = [keras_kd.LogitsDistillation(), keras_kd.FeatureDistillation("mse")]
    with pytest.raises(ValueError, match=r"each of the 2 distillation losses.*Received: \d"):
        keras_kd.Distiller(mlp("t"), mlp("s"), losses, distillation_loss_weights=weights)


@pytest.mark.parametrize("losses", [None, [], ()])
def test_no_distillation_loss_is_refused(losses):
    with pytest.raises(ValueError, match="distillation loss"):
        keras_kd.Distiller(mlp("t"), mlp("s"), losses)


def test_a_plain_keras_loss_is_refused_with_what_to_use():
    with pytest.raises(TypeError, match=r"FeatureDistillation\(loss=\.\.\.\)"):
        keras_kd.Distiller(mlp("t"), mlp("s"), keras.losses.MeanSquaredError())


@pytest.mark.parametrize("name", ["loss", "total_loss", "student_loss", "distillation_loss"])
def test_a_loss_may_not_take_a_name_of_the_logs(name):
    with pytest.raises(ValueError, match="free in the logs"):
        keras_kd.Distiller(mlp("t"), mlp("s"), keras_kd.FeatureDistillation("mse", name=name))


def test_names_in_the_logs_never_collide():
    losses = [
        keras_kd.FeatureDistillation("mse", name=name) for name in ("a", "a", "a_1", "a_hint", "a")
    ]
    distiller = keras_kd.Distiller(
        mlp("teacher"), mlp("student"), losses, student_loss_weight=0.0, teacher_agreement=True
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.evaluate(vectors()[0], verbose=0, return_dict=True)
    # Five losses, the agreement, and loss, total_loss and distillation_loss.
    assert len(logs) == 5 + 1 + 3
    assert "a_hint" in logs


@pytest.mark.parametrize("name", ["accuracy", "teacher_agreement"])
def test_a_loss_with_the_name_of_a_metric_is_refused(name):
    loss = [keras_kd.LogitsDistillation(), keras_kd.FeatureDistillation("mse", name=name)]

    def train():
        distiller = keras_kd.Distiller(mlp("teacher"), mlp("student"), loss, teacher_agreement=True)
        distiller.compile("sgd", task_loss(), metrics=["accuracy"])
        distiller.fit(*vectors(8), verbose=0)

    with pytest.raises(ValueError, match=rf"names in the logs.*'{name}'"):
        train()


# -- on the first batch ----------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[4, 0], [-1, 0], [7.0, 1.0]])
@pytest.mark.parametrize("loss", ["task", "sparse_categorical_crossentropy"])
def test_labels_out_of_range_are_refused_on_the_first_batch(labels, loss):
    x, y = vectors(8)
    y = np.array([*labels, *y[2:]])
    assert_refused(
        distilled(loss=loss), r"labels in 0\.\.3.*Received labels in", x, y, shuffle=False
    )


def test_one_hot_labels_of_another_class_count_are_refused():
    x, y = vectors(8)
    distiller = distilled(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    assert_refused(distiller, r"labels of shape \(8, 4\).*\(8, 5\)", x, np.eye(5)[y])


def test_integer_labels_with_a_one_hot_loss_are_refused():
    distiller = distilled(loss="categorical_crossentropy")
    assert_refused(distiller, "sparse_categorical_crossentropy", *vectors(8))


def spoiled(teacher, value=np.nan):
    """The teacher answers with `value` where the first input is above 5."""

    class Spoil(keras.layers.Layer):
        def call(self, inputs):
            x, outputs = inputs
            return tf.where(x[:, :1] > 5.0, value, outputs)

    return keras.Model(teacher.input, Spoil()([teacher.input, teacher.output]), name="spoiled")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_teacher_that_answers_nan_is_named_on_the_first_batch(value, alpha):
    x, y = vectors(8)
    x[[2, 5], 0] = 9.0
    distiller = distilled(spoiled(mlp("teacher"), value), alpha=alpha)
    words = r"from the teacher.*output 0 for 2 of 8 examples of the first batch.*index 2"
    assert_refused(distiller, words, x, y, shuffle=False)


def test_a_teacher_whose_layer_gives_nan_is_named_by_its_layer():
    teacher = mlp("teacher")
    weights = teacher.get_layer("hidden").get_weights()
    teacher.get_layer("hidden").set_weights([np.full_like(weights[0], np.nan), weights[1]])
    distiller = keras_kd.Distiller(
        teacher, mlp("student"), keras_kd.FeatureDistillation("mse", "hidden", "hidden")
    )
    distiller.compile(keras.optimizers.Adam(), task_loss())
    assert_refused(distiller, "NaN or infinity in (output 0|layer 'hidden')", *vectors(8))


def test_a_teacher_without_weights_is_refused():
    teacher = keras.Sequential([keras.layers.Dense(CLASSES)], name="untrained")
    assert_refused(distilled(teacher), r"trained teacher.*'untrained'", *vectors(8))


def test_a_student_that_cannot_be_built_from_the_data_is_refused():
    student = keras.Sequential([keras.layers.Conv2D(3, 3), keras.layers.Flatten()], name="student")
    distiller = distilled(student=student)
    before = snapshot(distiller.teacher)
    with pytest.raises(ValueError, match=r"(?s)student.*\(8, 6\)"):
        distiller.fit(*vectors(8), verbose=0)
    assert_same(before, snapshot(distiller.teacher))


def test_an_unbuilt_student_of_another_class_count_is_refused():
    student = keras.Sequential([keras.layers.Dense(3)], name="student")
    with pytest.raises(ValueError, match=r"number of classes.*4\).*3\)"):
        distilled(student=student).fit(*vectors(8), verbose=0)


def test_data_of_another_shape_is_refused():
    assert_refused(distilled(), r"shape", vectors(8, features=5)[0], vectors(8)[1])


@pytest.mark.parametrize("kind", ["numpy", "tf.data"])
def test_an_empty_dataset_is_refused(kind):
    x, y = vectors(8)
    if kind == "numpy":
        data = (x[:0], y[:0])
    else:
        data = (tf.data.Dataset.from_tensor_slices((x, y)).take(0).batch(4),)
    assert_refused(distilled(), r"(?i)at least one|empty|no (data|batch)", *data, shuffle=False)


def test_missing_labels_are_refused():
    assert_refused(distilled(), r"Expected labels.*student_loss_weight=0\.0", vectors(8)[0])


def test_the_check_leaves_the_batch_in_its_place():
    """The batch that was looked at is trained on too, and first."""
    x, y = vectors(16)
    seen = []

    class Noting(keras.layers.Layer):
        def call(self, inputs, training=None):
            if training:
                seen.append(np.array(inputs))
            return inputs

    student = mlp("student", first=Noting())
    distiller = keras_kd.Distiller(mlp("teacher"), student, keras_kd.LogitsDistillation())
    distiller.compile("sgd", task_loss(), run_eagerly=True)
    distiller.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    np.testing.assert_array_equal(np.concatenate(seen), x)


# -- on a later batch ------------------------------------------------------------------------------


def last_batch_is_bad(kind):
    """Returns a distiller and data of two batches, the second one spoiled."""
    x, y = vectors(16)
    teacher = mlp("teacher")
    if kind == "teacher":
        teacher = spoiled(teacher)
        x[[9, 14], 0] = 9.0
    else:
        y[12] = CLASSES
    # On the CPU TensorFlow itself stops at a bad label, unless the step is compiled by XLA (or, as
    # on a GPU, the label makes the loss NaN and the step goes on).
    return distilled(teacher, jit_compile=True), (x, y)


MESSAGES = {
    "teacher": "finite numbers from the teacher.*2 examples",
    "labels": "labels that name a class of the student.*1 other",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_bad_later_batch_stops_before_any_checkpoint_is_overwritten(kind, tmp_path):
    distiller, (x, y) = last_batch_is_bad(kind)
    good = slice(0, 8)
    backup, best = str(tmp_path / "backup"), tmp_path / "best.keras"
    called = []
    callbacks = [
        keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False),
        keras.callbacks.ModelCheckpoint(best),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: called.append(epoch)),
    ]
    distiller.fit(x[good], y[good], batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert len(kept) >= 2
    with pytest.raises(ValueError, match=MESSAGES[kind]):
        distiller.fit(x, y, batch_size=8, shuffle=False, epochs=3, verbose=0, callbacks=callbacks)
    assert called == [0]
    assert kept == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    # Said once: good data can be trained on afterwards.
    distiller.fit(x[good], y[good], batch_size=8, verbose=0)


def test_bad_validation_labels_are_refused_and_called_that():
    """The student is not spoiled by them, and nothing says that it was."""
    x, y = vectors(8)
    bad = np.where(np.arange(8) == 3, CLASSES, y)
    distiller = distilled(jit_compile=True)
    with pytest.raises(ValueError, match="labels") as caught:
        distiller.evaluate(x, bad, verbose=0)
    assert "spoiled" not in str(caught.value)
    with pytest.raises(ValueError, match="labels"):
        distiller.fit(x, y, validation_data=(x, bad), verbose=0)


def test_a_bad_later_label_stops_the_batch_on_the_cpu():
    """TensorFlow's own error, before the batch is applied."""
    x, y = vectors(16)
    distiller = distilled()
    distiller.train_on_batch(x[:8], y[:8])
    before = snapshot(distiller.student)
    y[12] = CLASSES
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="label value of 4"):
        distiller.train_on_batch(x[8:], y[8:])
    assert_same(before, snapshot(distiller.student))


def test_an_ignored_class_is_no_bad_label():
    x, y = vectors(16)
    y[[1, 12]] = -1
    distiller = distilled(loss=task_loss(ignore_class=-1))
    logs = distiller.fit(x, y, batch_size=8, verbose=0).history
    assert np.isfinite(logs["loss"]).all()


@pytest.mark.parametrize("loss", ["task", "one hot"])
def test_good_labels_of_a_large_batch_are_fine(loss):
    """However many examples the look at the first batch takes."""
    x, y = vectors(100)
    one_hot = keras.losses.CategoricalCrossentropy(from_logits=True)
    distiller = distilled(loss=one_hot if loss == "one hot" else loss)
    labels = np.eye(CLASSES)[y] if loss == "one hot" else y
    logs = distiller.fit(x, labels, batch_size=100, verbose=0).history
    assert np.isfinite(logs["loss"]).all()


@pytest.mark.parametrize("index", [0, 99])
def test_a_bad_label_anywhere_in_a_large_first_batch_is_refused(index):
    x, y = vectors(100)
    y[index] = CLASSES
    words = r"labels in 0\.\.3.*Received labels in"
    assert_refused(distilled(), words, x, y, batch_size=100, shuffle=False)


@pytest.mark.parametrize("index", [0, 99])
def test_a_nan_anywhere_in_a_large_first_batch_is_refused(index):
    x, y = vectors(100)
    x[index, 0] = 9.0
    words = f"1 of 100 examples of the first batch.*index {index}"
    distiller = distilled(spoiled(mlp("teacher")))
    assert_refused(distiller, words, x, y, batch_size=100, shuffle=False)


def test_every_fit_looks_at_its_first_batch():
    """A second `fit` may have other data."""
    x, y = vectors(8)
    distiller = distilled(spoiled(mlp("teacher")))
    distiller.fit(x, y, verbose=0)
    x[3, 0] = 9.0
    assert_refused(distiller, "1 of 8 examples of the first batch", x, y, shuffle=False)


def test_a_later_fit_asks_labels_of_the_same_form_for_their_values():
    x, y = vectors(8)
    distiller = distilled()
    distiller.fit(x, y, verbose=0)
    y[3] = CLASSES
    assert_refused(distiller, rf"labels in 0\.\.{CLASSES - 1}", x, y, shuffle=False)


def test_a_later_fit_on_data_of_another_form_is_looked_at_in_full():
    x, y = vectors(8)
    distiller = distilled()
    distiller.fit(x, y, verbose=0)
    assert_refused(distiller, "takes the data, x of shape", x[:, :-1], y, shuffle=False)
