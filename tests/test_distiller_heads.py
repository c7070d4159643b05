"""Heads and feature layers: what a loss reads of teacher and student, and in which form."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_kd
from tests.models import (
    CLASSES,
    FEATURES,
    RTOL,
    assert_same,
    binary_soft_target,
    conv_net,
    images,
    mlp,
    snapshot,
    soft_target,
    task_loss,
    vectors,
)


def logs_of(teacher, student, losses, x, y=None, **options):
    """Returns what `evaluate` logs of the models as they are, in one batch."""
    options.setdefault("student_loss_weight", 0.0)
    distiller = keras_kd.Distiller(teacher, student, losses, **options)
    distiller.compile(keras.optimizers.SGD(0.0))
    return distiller.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True)


def step(teacher, student, losses, x, rate=1.0, **options):
    """Takes one step of pure distillation on a batch; returns the logs before it."""
    distiller = keras_kd.Distiller(teacher, student, losses, student_loss_weight=0.0, **options)
    distiller.compile(keras.optimizers.SGD(rate))
    return distiller.train_on_batch(x, return_dict=True)


# -- softmax, by layer, activation, operation ------------------------------------------------------


ENDINGS = {
    "logits": lambda z: z,
    "Softmax": keras.layers.Softmax(),
    "Activation": keras.layers.Activation("softmax"),
    "Activation float32": keras.layers.Activation("softmax", dtype="float32"),
    "ops.softmax": ops.softmax,
    "before Reshape": lambda z: keras.layers.Reshape((CLASSES,))(ops.softmax(z)),
    "log_softmax": keras.layers.Activation("log_softmax"),
}


def ended(model, ending):
    """Returns a model of the same weights whose last step is one of `ENDINGS`."""
    end = ENDINGS[ending]
    if isinstance(end, keras.Layer):
        end = type(end).from_config(end.get_config())
    return keras.Model(model.input, end(model.output), name=model.name)


@pytest.mark.parametrize(
    ("teacher_end", "student_end"),
    [
        *((ending, "logits") for ending in ENDINGS),
        *(("logits", ending) for ending in ENDINGS if ending != "logits"),
        ("Softmax", "Activation"),
    ],
)
def test_every_pair_of_endings_gives_the_loss_of_the_logits(teacher_end, student_end):
    x, _ = vectors()
    teacher, student = mlp("teacher"), mlp("student")
    expected = soft_target(teacher(x), student(x), 3.0).mean()
    logs = logs_of(
        ended(teacher, teacher_end),
        ended(student, student_end),
        keras_kd.LogitsDistillation(3.0),
        x,
    )
    np.testing.assert_allclose(logs["loss"], expected, rtol=RTOL)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
@pytest.mark.parametrize("units", [1, 4])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_the_gradient_through_an_activation_is_that_of_the_logits(head, units, run_eagerly):
    """A step of a student that ends in an activation is the step of the same on logits."""
    if head == "softmax" and units == 1:
        with pytest.raises(ValueError, match="at least two classes"):
            keras_kd.Distiller(
                mlp("teacher", units=1, activation="softmax"),
                mlp("student", units=1, activation="softmax"),
                keras_kd.LogitsDistillation(),
            )
        return
    x, _ = vectors()
    states = []
    teacher = mlp("teacher", units=units)
    student = mlp("student", units=units)
    start = student.get_weights()
    for activation in (head, None):
        student = mlp("student", units=units, activation=activation)
        student.set_weights(start)
        loss = keras_kd.LogitsDistillation(2.0, head=head)
        distiller = keras_kd.Distiller(teacher, student, loss, student_loss_weight=0.0)
        distiller.compile(keras.optimizers.SGD(1.0), run_eagerly=run_eagerly)
        distiller.train_on_batch(x)
        states.append(student.get_weights())
    for ours, theirs in zip(*states, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=RTOL, atol=1e-6)
    assert not np.allclose(states[0][0], start[0])


class Row(keras.layers.Layer):
    """Gives one trainable row of logits for every example."""

    def __init__(self, row, **kwargs):
        super().__init__(**kwargs)
        self.row = np.asarray(row, "float32")

    def build(self, shape):
        self.logits = self.add_weight(
            shape=self.row.shape, initializer=lambda *_, **__: self.row, name="logits"
        )

    def call(self, inputs):
        return ops.zeros_like(inputs[:, :1]) + self.logits


def row_model(row, name, activation=None):
    inputs = keras.Input((2,))
    outputs = Row(row)(inputs)
    if activation is not None:
        outputs = keras.layers.Activation(activation)(outputs)
    return keras.Model(inputs, outputs, name=name)


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_sure_and_wrong_student_gets_its_gradient(activation, policy):
    """softmax(s) - softmax(t) at T = 1, though the student's probabilities have underflowed."""
    keras.config.set_dtype_policy(policy)
    # exp(-200) is 0 in float32; 50 in float16 is exact.
    teacher = row_model([50.0, 0.0, -150.0], "teacher", activation)
    student = row_model([-150.0, 0.0, 50.0], "student", activation)
    distiller = keras_kd.Distiller(
        teacher, student, keras_kd.LogitsDistillation(1.0), student_loss_weight=0.0
    )
    distiller.compile(keras.optimizers.SGD(1.0), auto_scale_loss=False)
    distiller.train_on_batch(np.zeros((4, 2), "float32"))
    # In mixed_float16 the gradient passes the student's float16: 1 to 2^-11.
    np.testing.assert_allclose(
        student.get_weights()[0], [-149.0, 0.0, 49.0], atol=1e-5 if policy == "float32" else 0.05
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_mixed_float16_head_loses_nothing_by_being_probabilities(activation):
    keras.config.set_dtype_policy("mixed_float16")
    x, _ = vectors(32)
    teacher, student = mlp("teacher"), mlp("student")
    heads = [
        keras.Model(m.input, keras.layers.Activation(activation)(m.output), name=m.name)
        for m in (teacher, student)
    ]
    formula = soft_target if activation == "softmax" else binary_soft_target
    expected = formula(np.float64(teacher(x)), np.float64(student(x)), 2.0).mean()
    logs = logs_of(*heads, keras_kd.LogitsDistillation(2.0), x)
    # The models' float16 logits may differ in the last bit between eager mode and a graph (2^-11),
    # which the mean over 32 examples leaves below 1e-3; log(p) of float16 p would be 1e-2 off.
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-3)


# -- subclassed models -----------------------------------------------------------------------------


class Subclassed(keras.Model):
    """Two dense layers; `end` is applied to the logits inside `call`."""

    def __init__(self, end=None, width=8, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(width, activation="tanh", name="hidden")
        self.outputs_layer = keras.layers.Dense(CLASSES, kernel_initializer="normal", name="out")
        self.end = end

    def logits(self, x):
        return self.outputs_layer(self.hidden(x))

    def call(self, x):
        return self.logits(x) if self.end is None else self.end(self.logits(x))


def subclassed(name, end=None, build=True, **options):
    model = Subclassed(end, name=name, **options)
    if build:
        model(np.zeros((1, FEATURES), "float32"))
    return model


def hand_made_softmax(z):
    """A softmax that leaves no trace of the logits."""
    e = ops.exp(z - ops.max(z, axis=-1, keepdims=True))
    return e / ops.sum(e, axis=-1, keepdims=True)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("end", [hand_made_softmax, ops.softmax, keras.activations.softmax])
@pytest.mark.parametrize("build", [True, False])
def test_a_subclassed_softmax_is_detected_or_refused(role, end, build):
    """Never softmaxed again: either the loss is that of the logits, or it says what to declare."""
    x, _ = vectors()
    models = {
        name: subclassed(name, end if name == role else None, build=build or name == "teacher")
        for name in ("teacher", "student")
    }
    distiller = keras_kd.Distiller(
        models["teacher"],
        models["student"],
        keras_kd.LogitsDistillation(2.0),
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    try:
        logs = distiller.train_on_batch(x, return_dict=True)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert f"{role}_outputs='probabilities'" in refusal
    else:
        logits = (models[name].logits(x) for name in ("teacher", "student"))
        np.testing.assert_allclose(logs["loss"], soft_target(*logits, 2.0).mean(), rtol=RTOL)


def test_what_looks_like_probabilities_is_settled_by_declaring_it():
    x, _ = vectors()
    teacher, student = subclassed("teacher", hand_made_softmax), mlp("student")
    loss = keras_kd.LogitsDistillation(2.0, teacher_outputs="probabilities")
    logs = logs_of(teacher, student, loss, x)
    expected = soft_target(teacher.logits(x), student(x), 2.0).mean()
    # The logs of float32 probabilities above 1e-4 have the logits' first four digits and more.
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)


def test_a_lambda_behind_a_softmax_is_refused_on_the_first_batch():
    teacher, student = mlp("teacher", activation="softmax"), mlp("student")
    teacher = keras.Model(teacher.input, keras.layers.Lambda(lambda p: 1.0 * p)(teacher.output))
    before = snapshot(student)
    with pytest.raises(ValueError, match="teacher_outputs='probabilities'"):
        step(teacher, student, keras_kd.LogitsDistillation(), vectors()[0])
    assert_same(before, snapshot(student))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_declaring_logits_for_a_softmax_is_refused(role):
    models = [mlp(n, activation="softmax" if n == role else None) for n in ("teacher", "student")]
    with pytest.raises(ValueError, match=f"{role} ends in softmax"):
        keras_kd.Distiller(*models, keras_kd.LogitsDistillation(**{f"{role}_outputs": "logits"}))


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
def test_an_unsupported_head_is_refused(activation):
    with pytest.raises(ValueError, match=f"ends in {activation}.*[Uu]nsupported head"):
        keras_kd.Distiller(
            mlp("teacher", activation=activation), mlp("student"), keras_kd.LogitsDistillation()
        )


def test_softmax_against_sigmoid_is_refused():
    with pytest.raises(ValueError, match="one kind of head"):
        keras_kd.Distiller(
            mlp("teacher", activation="softmax"),
            mlp("student", activation="sigmoid"),
            keras_kd.LogitsDistillation(),
        )


def test_one_linear_unit_has_to_be_declared():
    with pytest.raises(ValueError, match=r"head='sigmoid'.*FeatureDistillation"):
        keras_kd.Distiller(
            mlp("teacher", units=1), mlp("student", units=1), keras_kd.LogitsDistillation()
        )


# -- sigmoid and regression ------------------------------------------------------------------------


@pytest.mark.parametrize("units", [1, 4])
@pytest.mark.parametrize(
    ("teacher_end", "student_end"),
    [(None, None), ("sigmoid", None), (None, "sigmoid"), ("sigmoid", "sigmoid")],
)
def test_sigmoid_heads(units, teacher_end, student_end):
    x, _ = vectors()
    teacher, student = mlp("teacher", units=units), mlp("student", units=units)
    expected = binary_soft_target(np.float64(teacher(x)), np.float64(student(x)), 2.0).mean()
    models = [
        m if end is None else keras.Model(m.input, keras.layers.Activation(end)(m.output))
        for m, end in ((teacher, teacher_end), (student, student_end))
    ]
    # Seen where one of them is a sigmoid, declared where neither is.
    head = "auto" if teacher_end or student_end else "sigmoid"
    logs = logs_of(*models, keras_kd.LogitsDistillation(2.0, head=head), x)
    np.testing.assert_allclose(logs["loss"], expected, rtol=RTOL)


def test_regression_by_the_outputs_alone():
    x, _ = vectors()
    teacher, student = mlp("teacher", units=1), mlp("student", units=1)
    logs = logs_of(teacher, student, keras_kd.FeatureDistillation("mse"), x)
    expected = np.square(np.float64(teacher(x)) - np.float64(student(x))).mean()
    np.testing.assert_allclose(logs["loss"], expected, rtol=RTOL)


@pytest.mark.parametrize("softmax", [False, True])
def test_per_pixel_outputs(softmax):
    def segmenter(name):
        inputs = keras.Input((4, 4, 2))
        x = keras.layers.Conv2D(5, 3, padding="same", activation="tanh")(inputs)
        x = keras.layers.Conv2D(3, 1, kernel_initializer="normal", name="logits")(x)
        return keras.Model(inputs, x, name=name)

    x, _ = images(5, (4, 4, 2))
    teacher, student = segmenter("teacher"), segmenter("student")
    expected = soft_target(teacher(x), student(x), 2.0).mean()
    if softmax:
        teacher = keras.Model(teacher.input, keras.layers.Softmax()(teacher.output))
    logs = logs_of(teacher, student, keras_kd.LogitsDistillation(2.0), x)
    np.testing.assert_allclose(logs["loss"], expected, rtol=RTOL)


def test_a_softmax_over_another_axis_is_refused():
    inputs = keras.Input((4, 3))
    student = keras.Model(inputs, keras.layers.Dense(3)(inputs), name="student")
    teacher = keras.Model(inputs, keras.layers.Softmax(axis=1)(inputs), name="teacher")
    with pytest.raises(ValueError, match="axis"):
        keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation())


# -- several outputs -------------------------------------------------------------------------------


ARRANGEMENTS = {
    "dict": lambda kind, size: {"kind": kind, "size": size},
    "list": lambda kind, size: [kind, size],
    "tuple": lambda kind, size: (kind, size),
}


class TwoOutputs(keras.Model):
    """A subclassed model with outputs in one of `ARRANGEMENTS`."""

    def __init__(self, arrange, softmax, **kwargs):
        super().__init__(**kwargs)
        self.arrange = arrange
        self.hidden = keras.layers.Dense(8, activation="tanh")
        self.kind = keras.layers.Dense(CLASSES, activation="softmax" if softmax else None)
        self.size = keras.layers.Dense(1)

    def call(self, x):
        x = self.hidden(x)
        return self.arrange(self.kind(x), self.size(x))


def two_outputs(name, arrange, *, functional, softmax=False):
    model = TwoOutputs(arrange, softmax, name=name)
    model(np.zeros((1, FEATURES), "float32"))
    if not functional:
        return model
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, model.call(inputs), name=name)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("functional", [True, False])
def test_several_outputs_each_with_its_own_losses_or_none(arrangement, functional):
    arrange = ARRANGEMENTS[arrangement]
    x, y = vectors()
    teacher = two_outputs("teacher", arrange, functional=functional)
    student = two_outputs("student", arrange, functional=functional)
    distiller = keras_kd.Distiller(
        teacher,
        student,
        [
            keras_kd.LogitsDistillation(2.0, arrange("kl_divergence", None)),
            keras_kd.FeatureDistillation(arrange("mae", "mse")),
        ],
    )
    distiller.compile(keras.optimizers.SGD(0.0), arrange(task_loss(), "mse"))
    labels = arrange(y, x[:, :1])
    t, s = ([np.float64(o) for o in keras.tree.flatten(m(x))] for m in (teacher, student))
    expected = {
        "logits_distillation": soft_target(t[0], s[0], 2.0).mean(),
        "feature_distillation": abs(t[0] - s[0]).mean() + np.square(t[1] - s[1]).mean(),
    }
    for logs in (
        {k: v[0] for k, v in distiller.fit(x, labels, batch_size=8, verbose=0).history.items()},
        distiller.evaluate(x, labels, batch_size=8, verbose=0, return_dict=True),
    ):
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=RTOL, err_msg=name)
    predicted = distiller.predict(x, verbose=0)
    assert type(predicted) is type(arrange(0, 0))
    for ours, theirs in zip(keras.tree.flatten(predicted), s, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=RTOL, atol=1e-6)


def test_one_output_is_softmax_and_one_is_logits():
    arrange = ARRANGEMENTS["dict"]
    x, _ = vectors()
    plain = two_outputs("teacher", arrange, functional=True)
    teacher = two_outputs("teacher", arrange, functional=True, softmax=True)
    teacher.set_weights(plain.get_weights())
    student = two_outputs("student", arrange, functional=True)
    loss = keras_kd.LogitsDistillation(
        2.0, arrange("kl_divergence", "kl_divergence"), head=arrange("softmax", "sigmoid")
    )
    t, s = ({k: np.float64(v) for k, v in model(x).items()} for model in (plain, student))
    expected = soft_target(t["kind"], s["kind"], 2.0).mean()
    expected += binary_soft_target(t["size"], s["size"], 2.0).mean()
    logs = logs_of(teacher, student, loss, x)
    np.testing.assert_allclose(logs["loss"], expected, rtol=RTOL)


def test_outputs_of_another_structure_than_the_losses_are_refused():
    arrange = ARRANGEMENTS["dict"]
    teacher = two_outputs("teacher", arrange, functional=True)
    student = two_outputs("student", arrange, functional=True)
    with pytest.raises(ValueError, match="structure"):
        keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(2.0))
    with pytest.raises(ValueError, match="structure"):
        keras_kd.Distiller(
            teacher,
            student,
            keras_kd.LogitsDistillation(2.0, {"kind": "kl_divergence", "sise": None}),
        )
    with pytest.raises(ValueError, match="structure"):
        keras_kd.Distiller(
            teacher, mlp("student"), keras_kd.FeatureDistillation(arrange("mse", "mse"))
        )


# -- feature layers --------------------------------------------------------------------------------


def nested_model(name, channels):
    stem = keras.Sequential(
        [keras.layers.Conv2D(channels, 3, name="block1"), keras.layers.ReLU(name="block2")],
        name="stem",
    )
    inputs = keras.Input((8, 8, 2))
    backbone = keras.Model(inputs, stem(inputs), name="backbone")
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Rescaling(2.0, name="scale")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(backbone(x))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x), name=name)


def test_layers_inside_nested_models_have_paths():
    x, _ = images(6)
    teacher, student = nested_model("teacher", 5), nested_model("student", 5)
    logs = logs_of(
        teacher,
        student,
        [
            keras_kd.FeatureDistillation("mse", "backbone/stem/block1", "backbone/stem/block2"),
            keras_kd.FeatureDistillation("mse", "backbone", "backbone/stem", name="deep"),
        ],
        x,
    )
    maps = {}
    for model in (teacher, student):
        stem = model.get_layer("backbone").get_layer("stem")
        maps[model.name, "block1"] = np.float64(stem.get_layer("block1")(2.0 * x))
        maps[model.name, "block2"] = np.maximum(maps[model.name, "block1"], 0.0)
    expected = np.square(maps["teacher", "block1"] - maps["student", "block2"]).mean()
    np.testing.assert_allclose(logs["feature_distillation"], expected, rtol=RTOL)
    expected = np.square(maps["teacher", "block2"] - maps["student", "block2"]).mean()
    np.testing.assert_allclose(logs["deep"], expected, rtol=RTOL)


def test_sequential_models():
    def sequential(name):
        return keras.Sequential(
            [
                keras.Input((FEATURES,)),
                keras.layers.Dense(8, activation="tanh", name="hidden"),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(CLASSES, name="outputs"),
            ],
            name=name,
        )

    x, _ = vectors()
    teacher, student = sequential("teacher"), sequential("student")
    loss = keras_kd.FeatureDistillation("mse", "hidden", "hidden")
    logs = logs_of(teacher, student, [loss, keras_kd.LogitsDistillation(2.0)], x)
    hidden = [np.float64(model.get_layer("hidden")(x)) for model in (teacher, student)]
    expected = np.square(hidden[0] - hidden[1]).mean()
    np.testing.assert_allclose(logs["feature_distillation"], expected, rtol=RTOL)
    expected = soft_target(teacher(x), student(x), 2.0).mean()
    np.testing.assert_allclose(logs["logits_distillation"], expected, rtol=RTOL)


@pytest.mark.parametrize("features", [False, True])
def test_random_layers_are_random_in_training_alone(features):
    """With a feature loss the student runs by another path; dropout is at work all the same."""
    modes = []

    class Mode(keras.layers.Dropout):
        def call(self, inputs, training=False):
            modes.append(training)
            return super().call(inputs, training=training)

    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(8, name="hidden")(Mode(0.9, seed=1)(inputs))
    student = keras.Model(inputs, keras.layers.Dense(CLASSES)(x), name="student")
    losses = [keras_kd.LogitsDistillation(2.0)]
    if features:
        losses.append(keras_kd.FeatureDistillation("mse", "hidden", "hidden"))
    x, _ = vectors()
    distiller = keras_kd.Distiller(mlp("teacher"), student, losses, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    first, second = (distiller.train_on_batch(x, return_dict=True) for _ in range(2))
    assert first["logits_distillation"] != second["logits_distillation"]
    modes.clear()
    distiller.train_on_batch(x)
    assert modes == [True]
    modes.clear()
    distiller.test_on_batch(x)
    distiller.predict_on_batch(x)
    assert modes == [False, False]


def test_a_layer_that_is_called_twice_is_refused():
    inputs = keras.Input((FEATURES,))
    shared = keras.layers.Dense(FEATURES, name="shared")
    student = keras.Model(inputs, shared(shared(inputs)), name="student")
    with pytest.raises(ValueError, match="'shared' of student 'student' to be called once"):
        keras_kd.Distiller(
            mlp("teacher", FEATURES),
            student,
            keras_kd.FeatureDistillation("mse", "hidden", "shared"),
        )


def features_of_subclassed(model, x, training):
    hidden = model.hidden(x)
    return model.outputs_layer(hidden), {"hidden": hidden}


@pytest.mark.parametrize("build", [True, False])
def test_a_callable_gives_the_features_of_subclassed_models(build):
    x, _ = vectors()
    teacher, student = subclassed("teacher", width=6), subclassed("student", build=build)
    distiller = keras_kd.Distiller(
        teacher,
        student,
        [
            keras_kd.FeatureDistillation("mse", "hidden", "hidden"),
            keras_kd.LogitsDistillation(2.0),
        ],
        student_loss_weight=0.0,
        teacher_features=features_of_subclassed,
        student_features=features_of_subclassed,
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.fit(x, batch_size=20, verbose=0).history
    (projector,) = distiller.projectors
    kernel, bias = map(np.float64, projector.get_weights())
    projected = np.float64(student.hidden(x)) @ kernel + bias
    expected = np.square(np.float64(teacher.hidden(x)) - projected).mean()
    np.testing.assert_allclose(logs["feature_distillation"], [expected], rtol=RTOL)
    expected = soft_target(teacher(x), student(x), 2.0).mean()
    np.testing.assert_allclose(logs["logits_distillation"], [expected], rtol=RTOL)


def test_subclassed_models_without_a_callable_are_refused():
    with pytest.raises(ValueError, match="student_features="):
        keras_kd.Distiller(
            mlp("teacher"),
            subclassed("student"),
            keras_kd.FeatureDistillation("mse", "hidden", "hidden"),
        )


def test_a_callable_that_forgets_a_feature_is_refused():
    distiller = keras_kd.Distiller(
        mlp("teacher"),
        subclassed("student"),
        keras_kd.FeatureDistillation("mse", "hidden", "hiden"),
        student_loss_weight=0.0,
        student_features=features_of_subclassed,
    )
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=r"\['hiden'\].*\['hidden'\]"):
        distiller.train_on_batch(vectors()[0])


# -- projectors ------------------------------------------------------------------------------------


def map_model(name, shape):
    """A model with a layer "map" that gives maps (or sequences, or vectors) of `shape`."""
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(int(np.prod(shape)))(x)
    x = keras.layers.Reshape(shape, name="map")(x)
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs, name=name)


@pytest.mark.parametrize(
    ("student_shape", "teacher_shape", "trained"),
    [
        ((4, 4, 3), (4, 4, 3), None),
        ((4, 4, 3), (4, 4, 5), 20),
        ((4, 4, 3), (2, 2, 3), 0),
        ((4, 4, 3), (2, 2, 5), 20),
        ((3, 3, 2), (4, 4, 2), 0),
        ((5, 5, 3), (3, 3, 2), 8),
        ((4, 4, 3), (6,), 24),
        ((6, 3), (3, 4), 16),
        ((5,), (7,), 42),
        ((1,), (7,), 14),
        ((4, 4, 3), (4, 4, 1), 4),
    ],
)
def test_projectors_are_made_where_shapes_differ_and_trained(student_shape, teacher_shape, trained):
    x, _ = images(6)
    teacher, student = map_model("teacher", teacher_shape), map_model("student", student_shape)
    size = student.count_params()
    distiller = keras_kd.Distiller(
        teacher,
        student,
        # The second loss has no part in it: it gives the layers behind "map" a gradient.
        [keras_kd.FeatureDistillation("mse", "map", "map"), keras_kd.LogitsDistillation()],
        [1.0, 1e-6],
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    before = [projector.get_weights() for projector in distiller.projectors]
    first = distiller.train_on_batch(x, return_dict=True)["feature_distillation"]
    distiller.reset_metrics()
    assert distiller.train_on_batch(x, return_dict=True)["feature_distillation"] < first
    assert student.count_params() == size
    if trained is None:
        assert len(distiller.projectors) == 0
        return
    (projector,) = distiller.projectors
    assert projector.count_params() == trained
    assert tuple(projector.compute_output_shape((6, *student_shape))[1:]) == teacher_shape
    for ours, theirs in zip(projector.get_weights(), before[0], strict=True):
        assert not np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("student_shape", "teacher_shape"), [((6,), (4, 4, 3)), ((6, 3), (4, 4, 3)), ((5, 3), (3, 3))]
)
def test_shapes_that_no_projector_joins_are_refused(student_shape, teacher_shape):
    with pytest.raises(ValueError, match=r"feature_distillation.*that a projector can match"):
        keras_kd.Distiller(
            map_model("teacher", teacher_shape),
            map_model("student", student_shape),
            keras_kd.FeatureDistillation("mse", "map", "map"),
        )


def test_a_loss_object_is_shared_by_two_distillers_but_no_projector():
    loss = keras_kd.FeatureDistillation("mse", "map", "map")
    teacher = conv_net("teacher", 6)
    first = keras_kd.Distiller(teacher, conv_net("small", 2), loss)
    second = keras_kd.Distiller(teacher, conv_net("large", 9), loss)
    ((mine,), (yours,)) = first.projectors, second.projectors
    assert mine is not yours
    assert (mine.input_shape[-1], yours.input_shape[-1]) == (2, 9)
    # The caller's object has not changed.
    assert loss.projector is None
    assert not loss.is_connected()


def test_a_projector_of_ones_own_is_trained_along_and_the_users_object():
    x, _ = images(6)
    own = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="mine")
    student = conv_net("student", 3)
    distiller = keras_kd.Distiller(
        conv_net("teacher", 6),
        student,
        [
            keras_kd.FeatureDistillation("mse", "map", "map", projector=own),
            keras_kd.LogitsDistillation(),
        ],
        student_loss_weight=0.0,
    )
    assert list(distiller.projectors) == [own]
    before = own.get_weights()
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    distiller.train_on_batch(x)
    assert not np.array_equal(own.get_weights()[0], before[0])
    assert own not in student._flatten_layers()


def test_two_losses_with_projectors_have_one_each():
    distiller = keras_kd.Distiller(
        conv_net("teacher", 6),
        conv_net("student", 3),
        [
            keras_kd.FeatureDistillation("mse", "map", "map"),
            keras_kd.FeatureDistillation("mse", "relu", "relu"),
        ],
    )
    assert len(distiller.projectors) == 2
    assert len(distiller.trainable_weights) == 4 + 4
