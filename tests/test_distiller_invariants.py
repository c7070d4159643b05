"""What is always true of a distiller: the invariants of ARCHITECTURE.md."""

import json
import zipfile

import h5py
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
    assert_close,
    assert_same,
    batches,
    conv_net,
    cross_entropy,
    images,
    mlp,
    snapshot,
    soft_target,
    task_loss,
    vectors,
)


def four_losses():
    """Two losses on outputs, two on features, one of these with a projector."""
    return [
        keras_kd.LogitsDistillation(2.0),
        keras_kd.FeatureDistillation("mse", name="answers"),
        keras_kd.FeatureDistillation("mse", "map", "map", name="maps"),
        keras_kd.FeatureDistillation("mae", "pool", "pool", name="vectors"),
    ]


def compiled(
    teacher, student, losses=None, *, optimizer=None, loss="task", compile_options=None, **kwargs
):
    distiller = keras_kd.Distiller(
        teacher, student, keras_kd.LogitsDistillation(2.0) if losses is None else losses, **kwargs
    )
    distiller.compile(
        keras.optimizers.SGD(0.0) if optimizer is None else optimizer,
        task_loss() if loss == "task" else loss,
        **(compile_options or {}),
    )
    return distiller


# -- 1. one forward pass each ----------------------------------------------------------------------


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_train_step_is_one_pass_of_each_model_however_many_losses(run_eagerly):
    teacher_count, student_count = Counting(), Counting()
    distiller = compiled(
        conv_net("teacher", 6, first=teacher_count),
        conv_net("student", 4, norm=True, first=student_count),
        four_losses(),
        compile_options={"run_eagerly": run_eagerly},
    )
    x, y = images()
    # Before the first step of a `fit` its batch is looked at eagerly, which are passes of its own.
    distiller.train_on_batch(x, y)
    teacher_count.taken(), student_count.taken()
    distiller.train_on_batch(x, y)
    assert (teacher_count.taken(), student_count.taken()) == (1, 1)

    def executed(epochs):
        distiller.fit(x, y, batch_size=4, epochs=epochs, verbose=0)
        return np.array([teacher_count.taken(), student_count.taken()])

    assert max(executed(1)) <= 3 + 2
    # A later `fit` on batches of the same form asks the teacher alone, once.
    np.testing.assert_array_equal(executed(1), [3 + 1, 3])
    np.testing.assert_array_equal(executed(3), [9 + 1, 9])


def test_a_test_step_is_one_pass_of_each_model():
    teacher_count, student_count = Counting(), Counting()
    distiller = compiled(
        conv_net("teacher", 6, first=teacher_count),
        conv_net("student", 4, first=student_count),
        four_losses(),
        teacher_agreement=True,
    )
    x, y = images()
    distiller.evaluate(x, y, batch_size=4, verbose=0)
    assert (teacher_count.taken(), student_count.taken()) == (3, 3)
    distiller.predict(x, batch_size=4, verbose=0)
    assert (teacher_count.taken(), student_count.taken()) == (0, 3)


def test_the_student_is_traced_once_for_a_step():
    """Passes that a graph would prune are still traced: they cost time and move statistics."""
    calls = []

    class Noting(keras.layers.Layer):
        def call(self, inputs):
            calls.append(tf.executing_eagerly())
            return inputs

    distiller = compiled(
        conv_net("teacher", 6), conv_net("student", 4, first=Noting()), four_losses()
    )
    x, y = images()
    distiller.train_on_batch(x, y)
    calls.clear()
    distiller.make_train_function(force=True)
    # The step alone: without the symbolic build of Keras, and after the look at the first batch.
    distiller.train_on_batch(x, y)
    distiller.train_on_batch(x, y)
    assert calls.count(False) == 1


def test_batch_normalization_moves_once_a_step():
    """As by one `student(x, training=True)`: twice would be farther by a third."""
    x, y = images()
    student = conv_net("student", 4, norm=True)
    alone = keras.models.clone_model(student)
    alone.set_weights(student.get_weights())
    distiller = compiled(conv_net("teacher", 6), student, four_losses())
    for _ in range(3):
        distiller.train_on_batch(x, y)
        alone(x, training=True)
    # Only the statistics can differ at rate 0; the graph may sum in another order than eager mode.
    assert_close(snapshot(student), snapshot(alone), rtol=RTOL, atol=1e-6)


# -- 2. the student stays plain --------------------------------------------------------------------


def test_the_student_stays_the_plain_model_that_it_was(tmp_path):
    student = conv_net("student", 4, norm=True)
    layers, config = list(student.layers), student.get_config()
    nodes = [len(layer._inbound_nodes) for layer in student.layers]
    outputs, count = student.output, student.count_params()
    distiller = compiled(
        conv_net("teacher", 6), student, four_losses(), optimizer=keras.optimizers.Adam(0.01)
    )
    assert distiller.student is student
    x, y = images()
    for moment in ("made", "trained", "evaluated"):
        if moment == "trained":
            distiller.fit(x, y, batch_size=4, verbose=0)
        elif moment == "evaluated":
            distiller.evaluate(x, y, verbose=0)
        assert list(student.layers) == layers
        assert student.get_config() == config
        assert [len(layer._inbound_nodes) for layer in student.layers] == nodes
        assert student.output is outputs
        assert student.count_params() == count
        path = tmp_path / f"{moment}.keras"
        student.save(path)
        # In safe mode and without keras_kd's names: nothing of ours is in the file.
        with zipfile.ZipFile(path) as archive:
            assert "keras_kd" not in archive.read("config.json").decode()
        np.testing.assert_array_equal(keras.models.load_model(path)(x), student(x))


def test_the_student_is_exported_and_converted_as_it_is(tmp_path):
    student = conv_net("student", 4, norm=True)
    distiller = compiled(
        conv_net("teacher", 6), student, four_losses(), optimizer=keras.optimizers.Adam(0.01)
    )
    x, y = images()
    distiller.fit(x, y, batch_size=4, verbose=0)
    expected = student(x)
    student.export(tmp_path / "saved_model", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved_model")
    # One function of the same operations, in another graph.
    np.testing.assert_allclose(saved.serve(x), expected, rtol=RTOL, atol=1e-5)


@pytest.mark.parametrize("moment", ["every epoch", "between"])
def test_the_student_can_be_saved_at_any_time(tmp_path, moment):
    student = conv_net("student", 4, norm=True)
    distiller = compiled(
        conv_net("teacher", 6), student, four_losses(), optimizer=keras.optimizers.Adam(0.01)
    )
    x, y = images()
    saved = {}

    def keep(step):
        student.save(tmp_path / f"{step}.keras")
        saved[step] = np.array(student(x))

    hook = {
        "on_epoch_end" if moment == "every epoch" else "on_train_batch_end": lambda n, logs: keep(n)
    }
    distiller.fit(
        x, y, batch_size=6, epochs=2, verbose=0, callbacks=[keras.callbacks.LambdaCallback(**hook)]
    )
    assert len(saved) == 2
    for step, outputs in saved.items():
        np.testing.assert_array_equal(
            keras.models.load_model(tmp_path / f"{step}.keras")(x), outputs
        )


# -- 3. the teacher is left alone ------------------------------------------------------------------


def regularized_teacher():
    """With all that a careless trainer would change."""
    return conv_net("teacher", 6, norm=True, dropout=0.5, flip=True, kernel_regularizer="l2")


@pytest.mark.parametrize("trainable", [True, False])
def test_the_teacher_is_unchanged(trainable):
    teacher = regularized_teacher()
    teacher.trainable = trainable
    teacher.compile("sgd", "mse")
    optimizer = teacher.optimizer
    before = snapshot(teacher)
    flags = [layer.trainable for layer in teacher._flatten_layers()]
    nodes = [len(layer._inbound_nodes) for layer in teacher.layers]
    losses = len(teacher.losses)
    config = teacher.get_config()
    distiller = compiled(
        teacher,
        conv_net("student", 4),
        four_losses(),
        optimizer=keras.optimizers.Adam(0.01),
        teacher_agreement=True,
    )
    x, y = images()
    distiller.fit(x, y, batch_size=4, verbose=0, validation_data=(x, y))
    distiller.evaluate(x, y, verbose=0)
    distiller.predict(x, verbose=0)
    distiller.get_config()
    assert distiller.teacher is teacher
    assert_same(before, snapshot(teacher))
    assert [layer.trainable for layer in teacher._flatten_layers()] == flags
    assert [len(layer._inbound_nodes) for layer in teacher.layers] == nodes
    assert len(teacher.losses) == losses
    assert teacher.get_config() == config
    assert teacher.optimizer is optimizer


def test_the_teacher_runs_in_inference_mode():
    modes = []

    class Mode(keras.layers.Layer):
        def call(self, inputs, training=None):
            modes.append(training)
            return inputs

    teacher, student = mlp("teacher", first=Mode()), mlp("student")
    modes.clear()
    distiller = compiled(teacher, student)
    distiller.fit(*vectors(), verbose=0)
    assert modes
    assert not any(modes)


def test_the_distiller_holds_nothing_of_the_teacher():
    teacher = regularized_teacher()
    student = conv_net("student", 4)
    distiller = compiled(teacher, student, four_losses(), optimizer=keras.optimizers.Adam(0.01))
    distiller.fit(*images(), verbose=0)
    kept = {id(variable) for variable in teacher.variables}
    for collection in ("variables", "weights", "trainable_weights", "non_trainable_weights"):
        assert not kept & {id(variable) for variable in getattr(distiller, collection)}, collection
    assert not kept & {id(variable) for variable in distiller.optimizer.variables}
    owned = {id(layer) for layer in distiller._flatten_layers()}
    assert not owned & {id(layer) for layer in teacher._flatten_layers()}
    # No regularizer of the teacher counts as one of the distiller's losses.
    assert distiller.losses == []
    projectors = sum(projector.count_params() for projector in distiller.projectors)
    assert distiller.count_params() == student.count_params() + projectors


def arrays_of(file):
    """Returns every data set of an HDF5 file."""
    found = []
    with h5py.File(file, "r") as store:
        store.visititems(
            lambda _, entry: found.append(entry[()]) if isinstance(entry, h5py.Dataset) else None
        )
    return found


@pytest.mark.parametrize("kind", ["model.keras", "model.weights.h5"])
def test_no_checkpoint_holds_the_teacher(tmp_path, kind):
    # Compiled, because a compiled model is saved with more; the student has other shapes.
    teacher = mlp("teacher_of_this_test", 13)
    teacher.compile("adam", "mse")
    distiller = compiled(teacher, mlp("student"), optimizer=keras.optimizers.Adam(0.01))
    distiller.fit(*vectors(), verbose=0)
    path = tmp_path / kind
    if kind.endswith(".keras"):
        distiller.save(path)
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json").decode()
            archive.extract("model.weights.h5", tmp_path)
        assert "teacher_of_this_test" not in config
        assert json.loads(config)["config"]["teacher"] is None
        path = tmp_path / "model.weights.h5"
    else:
        distiller.save_weights(path)
    arrays = arrays_of(path)
    assert arrays
    shapes = {tuple(weight.shape) for weight in mlp("other", 13).weights} - {(CLASSES,)}
    assert not shapes & {array.shape for array in arrays}
    stored = sum(array.size for array in arrays if array.dtype == "float32")
    # The student, and Adam's two moments of it and its learning rate.
    assert stored == 3 * distiller.student.count_params() + 1


# -- 4. evaluate and predict change nothing --------------------------------------------------------


def test_evaluate_and_predict_change_nothing_but_metrics():
    student = conv_net("student", 4, norm=True, dropout=0.5, flip=True)
    distiller = compiled(
        conv_net("teacher", 6, dropout=0.5),
        student,
        four_losses(),
        optimizer=keras.optimizers.Adam(0.01),
        teacher_agreement=True,
        compile_options={"metrics": ["accuracy"]},
    )
    x, y = images()
    distiller.fit(x, y, batch_size=4, verbose=0)
    before = snapshot(distiller, distiller.optimizer, student)
    # The seed states of dropout and flip, the statistics, the projectors, Adam's moments.
    for part in ("seed_generator_state", "moving_mean", "projector", "momentum", "iteration"):
        assert any(part in name for name in before), part
    distiller.evaluate(x, y, batch_size=5, verbose=0)
    distiller.predict(x, batch_size=5, verbose=0)
    distiller.test_on_batch(x, y)
    distiller.predict_on_batch(x)
    distiller.compute_loss(x, y, training=False)
    assert_same(before, snapshot(distiller, distiller.optimizer, student))


def test_training_is_the_same_with_and_without_validation():
    def trained(**options):
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        student = conv_net("student", 4, norm=True, dropout=0.5, flip=True)
        distiller = compiled(
            conv_net("teacher", 6), student, four_losses(), optimizer=keras.optimizers.Adam(0.01)
        )
        distiller.fit(*images(), batch_size=4, epochs=2, shuffle=False, verbose=0, **options)
        return snapshot(distiller)

    assert_same(trained(), trained(validation_data=images(seed=1)))


# -- 5. the value of every log ---------------------------------------------------------------------


class Penalty(keras.layers.Layer):
    """Adds a loss that depends on the batch."""

    def call(self, inputs):
        self.add_loss(0.25 * ops.mean(ops.square(inputs)))
        return inputs


L2, ACTIVITY = 0.02, 0.03


def penalized_student():
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(
        8,
        activation="tanh",
        name="hidden",
        kernel_regularizer=keras.regularizers.L2(L2),
        activity_regularizer=keras.regularizers.L2(ACTIVITY),
    )(inputs)
    x = Penalty(name="penalty")(x)
    outputs = keras.layers.Dense(CLASSES, kernel_initializer="normal", name="outputs")(x)
    return keras.Model(inputs, outputs, name="student")


def regularization(student, x):
    """Returns what regularizers and `add_loss` of `penalized_student` give on a batch."""
    layer = student.get_layer("hidden")
    kernel, bias = (np.float64(weight.numpy()) for weight in (layer.kernel, layer.bias))
    hidden = np.tanh(np.float64(x) @ kernel + bias)
    # Keras divides an activity regularizer by the batch's size.
    return (
        L2 * (kernel**2).sum() + ACTIVITY * (hidden**2).sum() / len(x) + 0.25 * (hidden**2).mean()
    )


@pytest.mark.parametrize(
    ("weighting", "run_eagerly"),
    [("none", False), ("sample_weight", False), ("class_weight", False), ("sample_weight", True)],
)
def test_every_log_equals_its_formula_over_ragged_batches(weighting, run_eagerly, rng):
    n, size, alpha, weights = 20, 8, 0.3, (0.7, 2.5)
    x, y = vectors(n)
    teacher, student = mlp("teacher", 8), penalized_student()
    projector = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.5))
    distiller = compiled(
        teacher,
        student,
        [
            keras_kd.LogitsDistillation(2.0),
            keras_kd.FeatureDistillation("mse", "hidden", "hidden", projector=projector),
        ],
        distillation_loss_weights=list(weights),
        student_loss_weight=alpha,
        teacher_agreement=True,
        compile_options={"metrics": ["accuracy"], "run_eagerly": run_eagerly},
    )
    options, weight = {}, np.ones(n)
    if weighting == "sample_weight":
        weight = rng.uniform(0, 3, size=n).astype("float32")
        options = {"sample_weight": weight}
    elif weighting == "class_weight":
        by_class = {0: 0.5, 1: 2.0, 2: 0.0, 3: 3.0}
        weight = np.array([by_class[label] for label in y])
        options = {"class_weight": by_class}

    def hidden(model):
        return np.float64(keras.Model(model.input, model.get_layer("hidden").output)(x))

    t, s = np.float64(teacher(x)), np.float64(student(x))
    projected = hidden(student) @ np.float64(projector.kernel.numpy())
    task = cross_entropy(y, s) * weight
    soft = soft_target(t, s, 2.0) * weight
    feature = ((hidden(teacher) - projected) ** 2).mean(-1) * weight
    parts = [regularization(student, x[b]) * len(x[b]) for b in batches(n, size)]
    penalty = sum(parts) / n + 0.5 * (np.float64(projector.kernel.numpy()) ** 2).sum()
    distillation = weights[0] * soft.mean() + weights[1] * feature.mean()
    total = alpha * task.mean() + (1 - alpha) * distillation + penalty
    expected = {
        "loss": total,
        "total_loss": total,
        "student_loss": task.mean(),
        "distillation_loss": distillation,
        "logits_distillation": soft.mean(),
        "feature_distillation": feature.mean(),
        "accuracy": (s.argmax(-1) == y).mean(),
        "teacher_agreement": (s.argmax(-1) == t.argmax(-1)).mean(),
    }
    logs = distiller.fit(
        x, y, batch_size=size, epochs=2, shuffle=False, verbose=0, **options
    ).history
    assert logs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], [value] * 2, rtol=RTOL, err_msg=name)
    if weighting != "class_weight":  # `evaluate` takes none.
        logs = distiller.evaluate(x, y, batch_size=size, verbose=0, return_dict=True, **options)
        assert logs.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=RTOL, err_msg=name)


def test_repeated_losses_are_logged_each_under_a_name_of_its_own():
    losses = [
        keras_kd.LogitsDistillation(1.0),
        keras_kd.LogitsDistillation(4.0),
        keras_kd.LogitsDistillation(9.0, name="hot"),
        keras_kd.FeatureDistillation("mse"),
        keras_kd.FeatureDistillation("mae"),
    ]
    teacher, student = mlp("teacher"), mlp("student")
    distiller = compiled(teacher, student, losses, student_loss_weight=0.0, loss=None)
    x, _ = vectors()
    logs = distiller.fit(x, batch_size=20, verbose=0).history
    t, s = np.float64(teacher(x)), np.float64(student(x))
    expected = {
        "logits_distillation": soft_target(t, s, 1.0).mean(),
        "logits_distillation_1": soft_target(t, s, 4.0).mean(),
        "hot": soft_target(t, s, 9.0).mean(),
        "feature_distillation": ((t - s) ** 2).mean(),
        "feature_distillation_1": abs(t - s).mean(),
    }
    expected["distillation_loss"] = expected["loss"] = sum(expected.values())
    expected["total_loss"] = expected["loss"]
    assert logs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], [value], rtol=RTOL, err_msg=name)


def test_add_loss_does_not_pile_up_with_features_in_eager_mode():
    student = penalized_student()
    distiller = compiled(
        mlp("teacher", 8),
        student,
        keras_kd.FeatureDistillation("mse", "hidden", "hidden"),
        student_loss_weight=1.0,
        compile_options={"run_eagerly": True},
    )
    x, y = vectors(8)
    expected = cross_entropy(y, student(x)).mean() + regularization(student, x)
    for _ in range(3):
        distiller.reset_metrics()
        logs = distiller.train_on_batch(x, y, return_dict=True)
        np.testing.assert_allclose(logs["loss"], expected, rtol=RTOL)


def test_the_gradient_is_that_of_the_total():
    """One step of SGD at rate 1 against numerical differences of the formula, for the biases."""
    x, y = vectors(8)
    teacher, student = mlp("teacher"), mlp("student")
    distiller = compiled(
        teacher, student, student_loss_weight=0.3, optimizer=keras.optimizers.SGD(1.0)
    )
    t, s = np.float64(teacher(x)), np.float64(student(x))
    bias = student.get_layer("outputs").bias
    before = bias.numpy().astype("float64")

    def total(shift):
        task, soft = cross_entropy(y, s + shift).mean(), soft_target(t, s + shift, 2.0).mean()
        return 0.3 * task + 0.7 * soft

    step = 1e-5
    expected = [(total(step * unit) - total(-step * unit)) / (2 * step) for unit in np.eye(CLASSES)]
    distiller.train_on_batch(x, y)
    # Central differences in float64 are good to 1e-9; the float32 bias to 6e-8 of values near 1.
    np.testing.assert_allclose(before - bias.numpy(), expected, rtol=RTOL, atol=1e-6)


# -- schedules -------------------------------------------------------------------------------------


def scheduled(steps=8):
    x, _ = vectors(8)
    teacher, student = mlp("teacher"), mlp("student")
    distiller = keras_kd.Distiller(
        teacher,
        student,
        [
            keras_kd.LogitsDistillation(keras_kd.schedules.Linear(4.0, 1.0, steps)),
            keras_kd.FeatureDistillation("mse"),
        ],
        [1.0, keras_kd.schedules.WarmUp(3.0, steps)],
        student_loss_weight=keras.optimizers.schedules.PolynomialDecay(1.0, steps, 0.2),
    )
    return distiller, x


def scheduled_total(distiller, x, y, step, steps=8):
    """Returns the total at a step, from the definitions of the three schedules."""
    done = min(step / steps, 1.0)
    t, s = np.float64(distiller.teacher(x)), np.float64(distiller.student(x))
    soft = soft_target(t, s, 4.0 - 3.0 * done).mean()
    feature = ((t - s) ** 2).mean()
    alpha = (1.0 - 0.2) * (1.0 - done) + 0.2
    return alpha * cross_entropy(y, s).mean() + (1 - alpha) * (soft + 3.0 * done * feature)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_schedules_are_evaluated_at_every_step_inside_the_graph(jit_compile):
    distiller, x = scheduled()
    y = np.arange(8) % CLASSES
    distiller.compile(keras.optimizers.SGD(0.0), task_loss(), jit_compile=jit_compile)
    for step in range(10):
        distiller.reset_metrics()
        logs = distiller.train_on_batch(x, y, return_dict=True)
        np.testing.assert_allclose(logs["loss"], scheduled_total(distiller, x, y, step), rtol=RTOL)
    # An evaluation is made at the step that training has reached, and moves no step.
    for _ in range(2):
        logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
        np.testing.assert_allclose(logs["loss"], scheduled_total(distiller, x, y, 10), rtol=RTOL)


def test_schedules_move_on_inside_one_execution_of_several_steps():
    distiller, x = scheduled()
    y = np.arange(8) % CLASSES
    distiller.compile(keras.optimizers.SGD(0.0), task_loss(), steps_per_execution=3)
    # Five equal batches an epoch: executions of three and two steps.
    data = tf.data.Dataset.from_tensors((x, y)).repeat(5)
    logs = distiller.fit(data, epochs=2, verbose=0, shuffle=False).history["loss"]
    expected = [scheduled_total(distiller, x, y, step) for step in range(10)]
    np.testing.assert_allclose(logs, [np.mean(expected[:5]), np.mean(expected[5:])], rtol=RTOL)


def test_schedules_go_on_where_they_were_after_loading(tmp_path):
    distiller, x = scheduled()
    y = np.arange(8) % CLASSES
    distiller.compile(keras.optimizers.SGD(0.0), task_loss())
    distiller.fit(x, y, batch_size=8, epochs=3, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    again.teacher = distiller.teacher
    logs = again.fit(x, y, batch_size=8, epochs=1, verbose=0).history["loss"]
    np.testing.assert_allclose(logs, [scheduled_total(distiller, x, y, 3)], rtol=RTOL)


# -- 6. float32 arithmetic -------------------------------------------------------------------------


def test_loss_arithmetic_is_float32_when_the_models_compute_in_float16():
    keras.config.set_dtype_policy("mixed_float16")
    teacher, student = mlp("teacher"), mlp("student")
    distiller = compiled(
        teacher,
        student,
        [
            keras_kd.LogitsDistillation(2.0),
            keras_kd.FeatureDistillation("mse", "hidden", "hidden"),
        ],
        student_loss_weight=0.0,
        loss=None,
        compile_options={"run_eagerly": True},
    )
    x, _ = vectors(32)
    t, s = teacher(x), student(x)
    assert t.dtype == s.dtype == "float16"
    hidden = [keras.Model(m.input, m.get_layer("hidden").output)(x) for m in (teacher, student)]
    logs = distiller.evaluate(x, batch_size=32, verbose=0, return_dict=True)
    # To float32's precision, where a float16 loss would be wrong by up to 5e-4. Eagerly, because in
    # a graph the models' own outputs may differ in their last float16 bit.
    soft = soft_target(np.float64(t), np.float64(s), 2.0).mean()
    np.testing.assert_allclose(logs["logits_distillation"], soft, rtol=RTOL)
    mse = ((np.float64(hidden[0]) - np.float64(hidden[1])) ** 2).mean()
    np.testing.assert_allclose(logs["feature_distillation"], mse, rtol=RTOL)


class Constant(keras.layers.Layer):
    """Gives the same trainable row for every example, whatever comes in."""

    def __init__(self, row, **kwargs):
        super().__init__(**kwargs)
        self.row = np.asarray(row, "float32")

    def build(self, shape):
        self.logits = self.add_weight(
            shape=self.row.shape, initializer=lambda *_, **__: self.row, name="logits"
        )

    def call(self, inputs):
        return ops.zeros_like(inputs[:, :1]) + self.logits


def constant_model(row, name):
    inputs = keras.Input((2,))
    return keras.Model(inputs, Constant(row)(inputs), name=name)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_losses_are_finite_for_finite_input_and_float16_sees_small_values(policy):
    keras.config.set_dtype_policy(policy)
    teacher = constant_model([6e4, -6e4, 0.0, 1e-3], "teacher")
    student = constant_model([-6e4, 6e4, 1e-3, 0.0], "student")
    distiller = compiled(
        teacher, student, student_loss_weight=0.0, loss=None, optimizer=keras.optimizers.SGD(1.0)
    )
    logs = distiller.train_on_batch(np.zeros((4, 2), "float32"), return_dict=True)
    # KL of two such rows at T = 2 is 2^2 * 1.2e5 / 2; float16 ends at 65504, rounds 6e4 to 2^-11.
    np.testing.assert_allclose(logs["loss"], 2.4e5, rtol=2**-10)
    assert np.isfinite(student.get_weights()[0]).all()


# -- 7. nothing broadcasts -------------------------------------------------------------------------


def test_features_of_other_shapes_are_refused_without_a_projector():
    with pytest.raises(ValueError, match=r"equal shapes.*student \(None, 1\).*teacher \(None, 8\)"):
        keras_kd.Distiller(
            mlp("teacher", 8),
            mlp("student", 1),
            keras_kd.FeatureDistillation("mse", "hidden", "hidden", projector=None),
        )


def test_outputs_of_one_unit_against_several_are_refused():
    for loss in (
        keras_kd.LogitsDistillation(),
        keras_kd.FeatureDistillation("mse", projector=None),
    ):
        with pytest.raises(ValueError, match=r"teacher \(None, 4\)"):
            keras_kd.Distiller(mlp("teacher"), mlp("student", units=1), loss)


def test_a_projector_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"equal shapes.*student \(None, 1\).*teacher \(None, 8\)"):
        keras_kd.Distiller(
            mlp("teacher", 8),
            mlp("student", 4),
            keras_kd.FeatureDistillation(
                "mse", "hidden", "hidden", projector=keras.layers.Dense(1)
            ),
        )


class Shaped(keras_kd.DistillationLoss):
    """Returns the squared difference of the outputs, reduced to a wrong shape."""

    def __init__(self, reduce):
        super().__init__()
        self.reduce = reduce

    def per_example(self, teacher_outputs, student_outputs, context):
        return self.reduce(ops.square(teacher_outputs - student_outputs))


@pytest.mark.parametrize(
    "reduce",
    [
        lambda values: values,
        lambda values: ops.mean(values, axis=-1, keepdims=True),
        ops.mean,
        lambda values: ops.mean(values, axis=0),
    ],
    ids=["[batch, units]", "[batch, 1]", "scalar", "[units]"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_that_is_not_one_value_an_example_is_refused(reduce, weighted):
    """[batch, 1] times weights [batch] would be [batch, batch]: every weight on every example."""
    distiller = compiled(mlp("teacher"), mlp("student"), Shaped(reduce))
    x, y = vectors(8)
    weight = np.arange(8.0) if weighted else None
    with pytest.raises(ValueError, match=r"shape \[batch\]"):
        distiller.train_on_batch(x, y, sample_weight=weight)


def test_a_function_that_returns_one_number_for_the_batch_goes_without_weights_only():
    """As in Keras's own `FeatureDistillation`; a weight an example would have no meaning."""

    def batch_mean(y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred))

    teacher, student = mlp("teacher"), mlp("student")
    distiller = compiled(
        teacher, student, keras_kd.FeatureDistillation(batch_mean), student_loss_weight=0.0
    )
    x, y = vectors(8)
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    expected = ((np.float64(teacher(x)) - np.float64(student(x))) ** 2).mean()
    np.testing.assert_allclose(logs["feature_distillation"], expected, rtol=RTOL)
    with pytest.raises(ValueError, match="weights"):
        distiller.train_on_batch(x, y, sample_weight=np.arange(8.0))
