"""The faults of `keras.distillation` that we get right, each shown on both.

A check is one function over an implementation. It passes on `keras_kd`; on `keras.distillation` it
must fail in the way that is written beside it, so that we notice when Keras has mended it and
docs/migrating.md has to change. The numbers are those of that page's table.
"""

import dataclasses
import pathlib
import types
import zipfile
from collections.abc import Callable

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd

OURS = keras_kd
STOCK = keras.distillation
CLASSES = 4

# Values go through at most some dozen float32 operations of relative error 2**-24 = 6e-8 each, and
# through sums of a few hundred terms: 1e-5 is a good ten times that.
RTOL = 1e-5


# -- NumPy's side of every comparison, in float64 ------------------------------------------------


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def soft_target(teacher, student, temperature):
    """T^2 KL(softmax(t / T) || softmax(s / T)) per example, Hinton et al., arXiv:1503.02531."""
    t, s = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(t) * (t - s)).sum(-1)


def soft_target_of_one_unit(teacher, student, temperature):
    """The same for one sigmoid unit: it is a softmax over (logit, 0)."""
    pair = [np.concatenate([z, np.zeros_like(z)], axis=-1) for z in (teacher, student)]
    return soft_target(*pair, temperature)


def cross_entropy(labels, logits):
    return -np.take_along_axis(log_softmax(logits), labels[:, None], axis=-1)[:, 0]


# -- small models, and one step that changes nothing -----------------------------------------------


def examples(n=32, features=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)).astype("float32")
    return x, rng.integers(0, CLASSES, size=n)


def mlp(width, *, features=6, units=CLASSES, activation=None, name="model", **options):
    inputs = keras.Input((features,))
    hidden = keras.layers.Dense(width, activation="tanh", name="hidden", **options)(inputs)
    # Wide initial logits, so that a wrong temperature, head or clip shows.
    initializer = keras.initializers.RandomNormal(stddev=1.0)
    outputs = keras.layers.Dense(
        units, activation=activation, kernel_initializer=initializer, name="outputs"
    )(hidden)
    return keras.Model(inputs, outputs, name=name)


def conv_net(channels, name):
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(channels, 3, name="map")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x), name=name)


def logits_loss(kd, **options):
    """The soft-target loss in the one form that also Keras computes right: see fault 1."""
    return kd.LogitsDistillation(loss=keras.losses.KLDivergence(), **options)


def task_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(
    kd, teacher, student, losses, *, loss="task", rate=0.0, compile_options=None, **kwargs
):
    distiller = kd.Distiller(teacher, student, losses, **kwargs)
    loss = task_loss() if loss == "task" else loss
    optimizer = keras.optimizers.SGD(rate)
    distiller.compile(optimizer=optimizer, loss=loss, **(compile_options or {}))
    return distiller


def logs_of_one_step(distiller, x, y, **options):
    """Fit one batch of everything and return its logs; at rate 0 they are of the given weights."""
    history = distiller.fit(x, y, batch_size=len(x), epochs=1, verbose=0, shuffle=False, **options)
    return {name: values[0] for name, values in history.history.items()}


def weights_of(model):
    return [np.array(weight) for weight in model.weights]


def equal(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


# -- the checks ------------------------------------------------------------------------------------


def default_loss_is_the_soft_target(kd):
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 8, CLASSES)).astype("float32") * 3
    value = kd.LogitsDistillation(temperature=3.0).compute_loss(
        tf.constant(teacher), tf.constant(student)
    )
    np.testing.assert_allclose(value, soft_target(teacher, student, 3.0).mean(), rtol=RTOL)


def default_loss_alone_teaches(kd):
    """240 steps on the soft targets alone: the student agrees with its teacher, or nearly so."""
    x, y = examples(256)
    teacher, student = mlp(8, name="teacher"), mlp(32, name="student")
    distiller = kd.Distiller(teacher, student, kd.LogitsDistillation(), student_loss_weight=0.0)
    distiller.compile(optimizer=keras.optimizers.Adam(0.01), loss=task_loss())
    # As one epoch: an epoch's own cost is that of many such steps.
    distiller.fit(np.tile(x, (60, 1)), np.tile(y, 60), batch_size=64, epochs=1, verbose=0)
    agreement = np.mean(np.argmax(teacher(x), axis=-1) == np.argmax(distiller.student(x), axis=-1))
    # Over eight seeds ours came to 0.93 ... 0.97, Keras's to 0.61 ... 0.84: between them.
    assert agreement > 0.88, f"student agrees with its teacher on {agreement:.2f} of the examples"


def softmax_outputs_are_not_softmaxed_again(kd):
    x, y = examples()
    teacher = mlp(8, activation="softmax", name="teacher")
    student = mlp(8, activation="softmax", name="student")
    distiller = compiled(
        kd,
        teacher,
        student,
        logits_loss(kd, temperature=2.0),
        loss=keras.losses.SparseCategoricalCrossentropy(),
    )
    logits = [
        keras.Model(model.input, model.get_layer("hidden").output)(x)
        @ model.get_layer("outputs").kernel
        for model in (teacher, student)
    ]
    expected = soft_target(*(np.array(z) for z in logits), 2.0).mean()
    logs = logs_of_one_step(distiller, x, y)
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=RTOL)


def one_sigmoid_unit_has_a_loss(kd):
    x, y = examples()
    teacher, student = (
        mlp(8, units=1, activation="sigmoid", name=name) for name in ("teacher", "student")
    )
    distiller = compiled(
        kd,
        teacher,
        student,
        logits_loss(kd, temperature=2.0),
        loss=keras.losses.BinaryCrossentropy(),
    )
    logits = [np.log(p) - np.log1p(-p) for p in (np.float64(teacher(x)), np.float64(student(x)))]
    expected = soft_target_of_one_unit(*logits, 2.0).mean()
    logs = logs_of_one_step(distiller, x, y[:, None] > 1)
    # NumPy takes the logits back from float32 probabilities. At |logit| < 4 these are 0.018 from 1
    # or more, and a rounding of 6e-8 is 3e-6 of that distance, and so of the logit; times ten.
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=3e-5)


def a_wrong_and_sure_student_gets_its_gradient(kd):
    """At T = 1 the gradient to the logits is (softmax(s) - softmax(t)) / batch."""
    teacher = tf.constant([[30.0, 0.0, 0.0, 0.0]])
    student = tf.Variable([[0.0, 30.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        value = logits_loss(kd, temperature=1.0).compute_loss(teacher, student)
    gradient = tape.gradient(value, student)
    expected = np.exp(log_softmax(student.numpy())) - np.exp(log_softmax(teacher.numpy()))
    # To 1e-6 of the largest component, which is 1.
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


class Counting(keras.layers.Layer):
    """Passes its input on and counts how often it was called in training or outside of it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, inputs):
        self.count.assign_add(1.0)
        return inputs


def named_layers(kd, student_layer):
    """A distiller with a batch-normalized student and a loss between named layers."""
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, name="hidden")(Counting(name="counting")(inputs))
    x = keras.layers.BatchNormalization(name="norm", momentum=0.5)(x)
    student = keras.Model(inputs, keras.layers.Dense(CLASSES)(x), name="student")
    loss = kd.FeatureDistillation(teacher_layer_name="hidden", student_layer_name=student_layer)
    distiller = compiled(kd, mlp(8, name="teacher"), student, [loss])
    distiller.build((None, 6))
    return distiller, student


def one_forward_pass_a_step(kd):
    distiller, student = named_layers(kd, "hidden")
    x, y = examples()
    # Built above; a dry call of the step's graph, if an implementation makes one, is not counted.
    distiller.train_on_batch(x, y)
    count = student.get_layer("counting").count
    before = float(count)
    distiller.train_on_batch(x, y)
    assert float(count) - before == 1.0, f"{float(count) - before:.0f} forward passes in one step"


def batch_norm_moves_once_a_step(kd):
    distiller, student = named_layers(kd, "hidden")
    x, y = examples()
    norm, hidden = student.get_layer("norm"), student.get_layer("hidden")
    distiller.fit(x, y, batch_size=len(x), epochs=1, verbose=0)
    # From zero with momentum 0.5, once: half the batch's mean; twice would be three quarters.
    expected = 0.5 * (np.float64(x) @ np.float64(hidden.kernel)).mean(axis=0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=RTOL, atol=1e-6)


def evaluate_leaves_the_student_alone(kd):
    distiller, student = named_layers(kd, "hidden")
    x, y = examples()
    distiller.fit(x, y, batch_size=len(x), epochs=1, verbose=0)
    norm = student.get_layer("norm")
    before = weights_of(norm)
    distiller.evaluate(x, y, verbose=0)
    assert equal(before, weights_of(norm)), "evaluate changed the BatchNorm statistics"


def step_with_garbage(kd, *, garbage, **fit_options):
    """One real step; the rows of class 0 are replaced by something else when `garbage` is true."""
    x, y = examples()
    if garbage:
        x = np.where((y == 0)[:, None], 3.0 - x, x).astype("float32")
    keras.utils.set_random_seed(1)
    teacher, student = mlp(8, name="teacher"), mlp(8, name="student")
    distiller = compiled(kd, teacher, student, logits_loss(kd), rate=0.1)
    logs_of_one_step(distiller, x, y, **fit_options(y) if callable(fit_options) else fit_options)
    return weights_of(student)


def sample_weights_count(kd):
    _, y = examples()
    weight = (y != 0).astype("float32")
    trained = [step_with_garbage(kd, garbage=g, sample_weight=weight) for g in (False, True)]
    for a, b in zip(*trained, strict=True):
        # The sums run over other terms times zero: equal but for the order of summation.
        np.testing.assert_allclose(a, b, rtol=RTOL, atol=1e-6)


def class_weights_count(kd):
    weights = {0: 0.0, 1: 1.0, 2: 1.0, 3: 1.0}
    trained = [step_with_garbage(kd, garbage=g, class_weight=weights) for g in (False, True)]
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(a, b, rtol=RTOL, atol=1e-6)


def total_without_extras(teacher, student, x, y):
    """0.5 cross-entropy + 0.5 soft targets at T = 3: what the models' outputs alone give."""
    t, s = np.float64(teacher(x)), np.float64(student(x))
    return 0.5 * cross_entropy(y, s).mean() + 0.5 * soft_target(t, s, 3.0).mean()


def regularizers_count(kd):
    x, y = examples()
    teacher = mlp(8, name="teacher")
    student = mlp(8, name="student", kernel_regularizer=keras.regularizers.L2(0.1))
    logs = logs_of_one_step(compiled(kd, teacher, student, logits_loss(kd)), x, y)
    penalty = 0.1 * np.square(np.float64(student.get_layer("hidden").kernel)).sum()
    expected = total_without_extras(teacher, student, x, y) + penalty
    np.testing.assert_allclose(logs["total_loss"], expected, rtol=RTOL)


class Penalized(keras.layers.Layer):
    """Adds a tenth of its input's mean square to the loss."""

    def call(self, inputs):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def add_loss_counts(kd):
    x, y = examples()
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(CLASSES)(Penalized()(inputs))
    teacher, student = mlp(8, name="teacher"), keras.Model(inputs, outputs, name="student")
    logs = logs_of_one_step(compiled(kd, teacher, student, logits_loss(kd)), x, y)
    expected = total_without_extras(teacher, student, x, y) + 0.1 * np.square(np.float64(x)).mean()
    np.testing.assert_allclose(logs["total_loss"], expected, rtol=RTOL)


def images(n=8):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 6, 6, 2)).astype("float32"), rng.integers(0, CLASSES, size=n)


def map_loss(kd):
    return kd.FeatureDistillation(teacher_layer_name="map", student_layer_name="map")


def other_channel_counts_train(kd):
    x, y = images()
    teacher, student = conv_net(8, "teacher"), conv_net(3, "student")
    before = weights_of(student.get_layer("map"))
    distiller = compiled(kd, teacher, student, [map_loss(kd)], rate=0.1)
    logs = logs_of_one_step(distiller, x, y)
    assert np.isfinite(logs["distillation_loss"])
    assert not equal(before, weights_of(student.get_layer("map"))), "the student did not move"


def one_channel_is_not_broadcast(kd):
    x, y = images()
    teacher, student = conv_net(8, "teacher"), conv_net(1, "student")
    maps = [
        np.float64(keras.Model(model.input, model.get_layer("map").output)(x))
        for model in (teacher, student)
    ]
    broadcast = np.square(maps[0] - maps[1]).mean()
    logs = logs_of_one_step(compiled(kd, teacher, student, [map_loss(kd)]), x, y)
    assert not np.isclose(logs["distillation_loss"], broadcast, rtol=1e-3), "8 against 1 broadcasts"


def a_student_layer_alone_is_read(kd):
    """The teacher's outputs against the layer `hidden` of the student, both of four units."""
    x, y = examples()
    teacher, student = mlp(8, name="teacher"), mlp(CLASSES, name="student")
    hidden = np.float64(keras.Model(student.input, student.get_layer("hidden").output)(x))
    expected = np.square(np.float64(teacher(x)) - hidden).mean()
    loss = kd.FeatureDistillation(student_layer_name="hidden")
    logs = logs_of_one_step(compiled(kd, teacher, student, [loss]), x, y)
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=RTOL)


def the_weight_of_a_single_loss_counts(kd):
    x, y = examples()
    teacher, student = mlp(8, name="teacher"), mlp(8, name="student")
    distiller = compiled(kd, teacher, student, logits_loss(kd), distillation_loss_weights=[7.0])
    t, s = np.float64(teacher(x)), np.float64(student(x))
    expected = 0.5 * cross_entropy(y, s).mean() + 0.5 * 7.0 * soft_target(t, s, 3.0).mean()
    logs = logs_of_one_step(distiller, x, y)
    np.testing.assert_allclose(logs["total_loss"], expected, rtol=RTOL)


def layers_in_a_nested_model_have_names(kd):
    def nested(name):
        inputs = keras.Input((6,))
        backbone = mlp(8, units=5, name="backbone")
        model = keras.Model(inputs, keras.layers.Dense(CLASSES)(backbone(inputs)), name=name)
        return model, keras.Model(backbone.input, backbone.get_layer("hidden").output)

    x, y = examples()
    (teacher, teacher_hidden), (student, student_hidden) = nested("teacher"), nested("student")
    path = "backbone/hidden"
    loss = kd.FeatureDistillation(teacher_layer_name=path, student_layer_name=path)
    logs = logs_of_one_step(compiled(kd, teacher, student, [loss]), x, y)
    expected = np.square(np.float64(teacher_hidden(x)) - np.float64(student_hidden(x))).mean()
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=RTOL)


def two_outputs(kd, arrange, compile_options=None):
    """Two heads arranged as dict, tuple or list; the first alone is distilled, both have labels."""

    def model(name):
        inputs = keras.Input((6,))
        heads = [keras.layers.Dense(CLASSES, name=head)(inputs) for head in ("a", "b")]
        return keras.Model(inputs, arrange(*heads), name=name)

    x, y = examples()
    teacher, student = model("teacher"), model("student")
    loss = kd.LogitsDistillation(loss=arrange(keras.losses.KLDivergence(), None))
    distiller = compiled(
        kd,
        teacher,
        student,
        [loss],
        loss=arrange(task_loss(), task_loss()),
        compile_options=compile_options,
    )
    logs = logs_of_one_step(distiller, x, arrange(y, y))
    t, s = ([np.float64(z) for z in keras.tree.flatten(m(x))] for m in (teacher, student))
    expected = soft_target(t[0], s[0], 3.0).mean()
    task = sum(cross_entropy(y, z).mean() for z in s)
    np.testing.assert_allclose(logs["total_loss"], 0.5 * task + 0.5 * expected, rtol=RTOL)
    return logs


def dict_outputs_fit(kd):
    two_outputs(kd, lambda a, b: {"a": a, "b": b})


def list_outputs_fit(kd):
    two_outputs(kd, lambda a, b: [a, b])


def dict_metrics_are_taken(kd):
    logs = two_outputs(
        kd, lambda a, b: {"a": a, "b": b}, {"metrics": {"a": ["accuracy"], "b": ["accuracy"]}}
    )
    assert {"a_accuracy", "b_accuracy"} <= set(logs)


def saved(kd, folder):
    """A trained distiller and the file it was saved to; no other array has the teacher's shape."""
    x, y = examples()
    teacher, student = mlp(37, name="teacher"), mlp(8, name="student")
    distiller = compiled(kd, teacher, student, logits_loss(kd), rate=0.1)
    logs_of_one_step(distiller, x, y)
    path = pathlib.Path(folder) / "distiller.keras"
    distiller.save(path)
    return distiller, path


def a_saved_distiller_holds_no_teacher(kd, folder):
    _, path = saved(kd, folder)
    shapes = []
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
        with h5py.File(file) as weights:
            weights.visititems(lambda _, item: shapes.append(getattr(item, "shape", None)))
    assert (6, 37) not in shapes, "the teacher's weights are in the file"


def a_loaded_distiller_trains_on(kd, folder):
    x, y = examples()
    distiller, path = saved(kd, folder)
    loaded = keras.saving.load_model(path)
    loaded.teacher = distiller.teacher
    before = weights_of(loaded.student)
    logs_of_one_step(loaded, x, y)
    assert not equal(before, weights_of(loaded.student)), "the student did not move"


def the_teachers_flag_is_left_alone(kd):
    teacher, student = mlp(8, name="teacher"), mlp(8, name="student")
    compiled(kd, teacher, student, logits_loss(kd))
    assert teacher.trainable, "the teacher's `trainable` flag was changed"


def teacher_and_student_must_differ(kd):
    model = mlp(8, name="both")
    with pytest.raises(ValueError, match="teacher"):
        kd.Distiller(model, model, logits_loss(kd))


def the_teacher_is_unchanged_to_the_bit(kd):
    """The shape of the keras.io example: a distiller over two plain models, then `fit`."""

    def classifier(channels, name):
        return keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                keras.layers.Conv2D(channels, 3, strides=2, padding="same"),
                keras.layers.BatchNormalization(),
                keras.layers.LeakyReLU(negative_slope=0.2),
                keras.layers.Dropout(0.2),
                keras.layers.Flatten(),
                keras.layers.Dense(CLASSES),
            ],
            name=name,
        )

    x, y = images(32)
    teacher, student = classifier(8, "teacher"), classifier(4, "student")
    before = weights_of(teacher)
    distiller = kd.Distiller(teacher, student, kd.LogitsDistillation(temperature=10.0))
    distiller.compile(optimizer=keras.optimizers.Adam(), loss=task_loss(), metrics=["accuracy"])
    distiller.fit(x, y, epochs=3, batch_size=8, verbose=0)
    distiller.evaluate(x, y, verbose=0)
    assert equal(before, weights_of(teacher)), "the teacher's weights changed"


class OverriddenLoss(keras.Model):
    """A distiller in the shape of the keras.io example as it stands for Keras 3.

    It holds both models as attributes and overrides `compute_loss`, so Keras counts the teacher's
    weights as its own to train.
    """

    def __init__(self, teacher, student, distillation_losses):
        super().__init__()
        self.teacher, self.student = teacher, student
        self.distillation_loss = distillation_losses

    def call(self, inputs):
        return self.student(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        teacher = self.teacher(x, training=False)
        distillation = self.distillation_loss.compute_loss(teacher, y_pred)
        return 0.1 * super().compute_loss(x, y, y_pred, sample_weight) + 0.9 * distillation


EXAMPLE = types.SimpleNamespace(
    Distiller=OverriddenLoss, LogitsDistillation=keras.distillation.LogitsDistillation
)


# -- the table -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fault:
    """A check, its number in docs/migrating.md, and how the stock implementation fails it."""

    number: int
    check: Callable
    fails_with: type[Exception] = AssertionError
    message: str = "."
    stock: object = STOCK

    @property
    def name(self):
        return f"{self.number}-{self.check.__name__}"


FAULTS = [
    Fault(1, default_loss_is_the_soft_target, message="Not equal to tolerance"),
    Fault(1, default_loss_alone_teaches, message="agrees with its teacher"),
    Fault(2, softmax_outputs_are_not_softmaxed_again, message="Not equal to tolerance"),
    Fault(2, one_sigmoid_unit_has_a_loss, message="Not equal to tolerance"),
    Fault(3, a_wrong_and_sure_student_gets_its_gradient, message="Not equal to tolerance"),
    Fault(4, one_forward_pass_a_step, message="2 forward passes"),
    Fault(4, batch_norm_moves_once_a_step, message="Not equal to tolerance"),
    Fault(4, evaluate_leaves_the_student_alone, message="BatchNorm"),
    Fault(5, sample_weights_count, message="Not equal to tolerance"),
    Fault(5, class_weights_count, message="Not equal to tolerance"),
    Fault(5, regularizers_count, message="Not equal to tolerance"),
    Fault(5, add_loss_counts, message="Not equal to tolerance"),
    Fault(6, other_channel_counts_train, ValueError, "must have the same shape|Dimensions must"),
    Fault(6, one_channel_is_not_broadcast, message="broadcasts"),
    Fault(7, a_student_layer_alone_is_read, message="Not equal to tolerance"),
    Fault(7, the_weight_of_a_single_loss_counts, message="Not equal to tolerance"),
    Fault(8, layers_in_a_nested_model_have_names, ValueError, "No such layer"),
    Fault(9, dict_outputs_fit, ValueError, "node type mismatch"),
    Fault(9, list_outputs_fit, ValueError, "node type mismatch"),
    Fault(9, dict_metrics_are_taken, ValueError, "metrics must be a list or tuple"),
    Fault(10, a_saved_distiller_holds_no_teacher, message="in the file"),
    Fault(10, a_loaded_distiller_trains_on, AttributeError, "_student_loss"),
    Fault(11, the_teachers_flag_is_left_alone, message="flag was changed"),
    Fault(11, teacher_and_student_must_differ, pytest.fail.Exception, "DID NOT RAISE"),
    Fault(12, the_teacher_is_unchanged_to_the_bit, message="changed", stock=EXAMPLE),
]


def run(fault, implementation, folder):
    takes_folder = "folder" in fault.check.__code__.co_varnames[: fault.check.__code__.co_argcount]
    return fault.check(implementation, folder) if takes_folder else fault.check(implementation)


def expect_fault(fault, folder):
    """Assert that the stock implementation still fails the check, in the known way."""
    with pytest.raises(fault.fails_with, match=fault.message):
        run(fault, fault.stock, folder)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_is_right_here(fault, tmp_path):
    run(fault, OURS, tmp_path)


@pytest.mark.filterwarnings("ignore")  # What Keras warns of on its way to the fault is its own.
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_is_still_a_fault_of_the_stock_implementation(fault, tmp_path):
    expect_fault(fault, tmp_path)


def test_tuple_outputs_fit():
    """The arrangement that the stock implementation takes too, so no fault of it."""
    two_outputs(OURS, lambda a, b: (a, b))


def test_every_fault_has_its_row_on_the_page():
    page = pathlib.Path(__file__).parents[2] / "docs" / "migrating.md"
    rows = {line.split("|")[1].strip() for line in page.read_text().splitlines() if "|" in line}
    assert {str(fault.number) for fault in FAULTS} <= rows
