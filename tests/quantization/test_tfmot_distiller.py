"""The distiller of tf_keras students: the same steps as keras_kd.Distiller, on tfmot's models."""

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers

import keras_kd
from keras_kd.losses import feature, relation
from keras_kd.quantization import tfmot
from keras_kd.quantization.tfmot.student import activations
from tests.quantization.tfmot_students import plain, randomize

EXAMPLES = 16
CROSS_ENTROPY = {"from_logits": True}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(EXAMPLES, 6)).astype("float32")
Y = RNG.integers(0, 4, EXAMPLES)


def mlp(name, activation=None, **hidden):
    inputs = keras.Input((6,))
    x = layers.Dense(5, activation="tanh", name="hidden", **hidden)(inputs)
    return keras.Model(inputs, layers.Dense(4, activation=activation, name="outputs")(x), name=name)


def made(losses, *args, student=None, **kwargs):
    """A compiled distiller of a plain twin."""
    student = mlp("student") if student is None else student
    distiller = tfmot.Distiller(mlp("teacher"), tfmot.twin(student), losses, *args, **kwargs)
    distiller.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(**CROSS_ENTROPY))
    return distiller


# -- the same as keras_kd.Distiller ----------------------------------------------------------------


def test_takes_the_steps_of_the_keras_3_distiller(rng):
    """Three steps with a schedule in each place, a feature loss, a regularizer, sample weights."""
    weights = np.linspace(0.0, 2.0, EXAMPLES, dtype="float32")
    teacher = randomize(mlp("teacher"), rng)
    student = mlp("student", kernel_regularizer=keras.regularizers.L2(0.1))

    def losses():
        return [
            keras_kd.LogitsDistillation(keras_kd.schedules.Linear(4.0, 1.0, 3)),
            keras_kd.FeatureDistillation("mse", "hidden", "hidden"),
        ]

    options = {
        "distillation_loss_weights": [2.0, keras_kd.schedules.Linear(0.0, 1.0, 2)],
        "student_loss_weight": keras_kd.schedules.Linear(0.2, 0.8, 4),
    }
    theirs = tfmot.Distiller(teacher, tfmot.twin(student), losses(), **options)
    theirs.compile(
        tf_keras.optimizers.SGD(0.1),
        tf_keras.losses.SparseCategoricalCrossentropy(**CROSS_ENTROPY),
        metrics=["accuracy"],
    )
    ours = keras_kd.Distiller(teacher, student, losses(), **options)
    ours.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(**CROSS_ENTROPY),
        metrics=["accuracy"],
    )
    arguments = {"epochs": 3, "batch_size": EXAMPLES, "verbose": 0, "sample_weight": weights}
    logs = [distiller.fit(X, Y, **arguments).history for distiller in (ours, theirs)]
    assert logs[0].keys() == logs[1].keys()
    for name, values in logs[0].items():
        # Float32 sums of at most 100 terms of about 1, in another order, over three steps.
        np.testing.assert_allclose(values, logs[1][name], rtol=1e-5, atol=1e-6, err_msg=name)
    for a, b in zip(student.get_weights(), theirs.student.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    evaluated = [d.evaluate(X, Y, verbose=0, return_dict=True) for d in (ours, theirs)]
    assert evaluated[0].keys() == evaluated[1].keys()
    for name, value in evaluated[0].items():
        np.testing.assert_allclose(value, evaluated[1][name], rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(
        ours.predict(X, verbose=0), theirs.predict(X, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_distils_without_labels_and_without_a_task_loss():
    distiller = tfmot.Distiller(
        mlp("teacher"),
        tfmot.twin(mlp("student")),
        keras_kd.LogitsDistillation(2.0),
        student_loss_weight=0.0,
    )
    distiller.compile("sgd")
    history = distiller.fit(X, batch_size=EXAMPLES, epochs=2, verbose=0).history
    assert set(history) == {"loss", "total_loss", "distillation_loss", "logits_distillation"}
    assert history["loss"] == history["distillation_loss"]
    assert history["loss"][1] < history["loss"][0]


def test_projectors_learn_along_and_are_saved_with_the_distiller(tmp_path):
    teacher = plain(8, name="teacher")
    student = plain(4, name="student")
    x = np.random.default_rng(0).uniform(size=(8, 8, 8, 1)).astype("float32")

    def distiller():
        d = tfmot.Distiller(
            teacher,
            tfmot.quantize(student),
            feature.Hint("second_relu", "second_relu"),
            student_loss_weight=0.0,
        )
        d.compile(tf_keras.optimizers.SGD(0.1))
        return d

    first = distiller()
    before = [v.numpy() for v in first._parts]
    first.fit(x, batch_size=8, epochs=2, verbose=0)
    after = [v.numpy() for v in first._parts]
    # A convolution, and a normalization with its statistics.
    assert len(after) == 5
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
    assert not any("project" in v.name for v in first.student.weights)
    first.save_weights(tmp_path / "distiller.weights.h5")
    second = distiller()
    second.predict(x, verbose=0)
    second.load_weights(tmp_path / "distiller.weights.h5")
    for a, b in zip(after, second._parts, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    np.testing.assert_array_equal(first.predict(x, verbose=0), second.predict(x, verbose=0))


def test_the_teacher_stays_as_it_is():
    distiller = made(keras_kd.LogitsDistillation(2.0))
    teacher = distiller.teacher
    before = teacher.get_weights()
    distiller.fit(X, Y, verbose=0)
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert teacher.trainable
    assert len(distiller.trainable_weights) == len(distiller.student.trainable_weights)


def test_preprocesses_for_the_teacher_alone():
    teacher = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    distiller = tfmot.Distiller(
        teacher,
        tfmot.twin(mlp("student")),
        keras_kd.LogitsDistillation(2.0),
        student_loss_weight=0.0,
        teacher_preprocessing=lambda x: x[:, :3],
    )
    distiller.compile("sgd")
    assert np.isfinite(distiller.fit(X, verbose=0).history["loss"][0])


def test_a_replayable_dataset_is_told_its_epochs():
    batches = keras_kd.data.replayable(X, Y, batch_size=8, seed=0)
    seen = []
    seeing = tf_keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(int(batches.epoch.numpy()))
    )
    made(keras_kd.LogitsDistillation(2.0)).fit(batches, epochs=3, verbose=0, callbacks=seeing)
    assert seen == [0, 1, 2]


def test_runs_a_loss_that_asks_the_models_themselves():
    """Jacobian matching takes gradients by the inputs of both."""
    loss = feature.JacobianMatching(name="jacobian")
    history = made(loss).fit(X, Y, batch_size=EXAMPLES, epochs=2, verbose=0).history
    assert history["jacobian"][1] < history["jacobian"][0]


# -- what the student's last layer says ------------------------------------------------------------


@pytest.mark.parametrize("make", [tfmot.twin, tfmot.quantize, tfmot.prune, tfmot.cluster])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "linear"])
def test_sees_the_activation_through_tfmots_wrappers(make, activation):
    assert activations(make(mlp("student", activation))) == activation


def test_sees_through_nested_models_reshapes_and_several_outputs():
    part = keras.Input((5,))
    inner = keras.Model(part, layers.Softmax()(layers.Dense(4)(part)), name="inner")
    inputs = keras.Input((6,))
    x = layers.Dense(5)(inputs)
    outputs = {
        "inner": layers.Reshape((4, 1))(layers.Reshape((4,))(inner(x))),
        "relu": layers.ReLU()(x),
        "sigmoid": layers.Dropout(0.5)(layers.Activation("sigmoid")(x)),
        "over_classes": layers.Softmax(axis=1)(layers.Reshape((5, 1))(x)),
        "logits": layers.Add()([x, x]),
    }
    assert activations(tfmot.twin(keras.Model(inputs, outputs))) == {
        "inner": "softmax",
        "relu": "relu",
        "sigmoid": "sigmoid",
        "over_classes": "softmax over axis",
        "logits": "linear",
    }


@pytest.mark.parametrize("make", [tfmot.twin, tfmot.prune])
def test_a_softmax_is_not_softmaxed_again(make):
    """A student that ends in softmax has the loss of the same student without."""
    logits, softmax = mlp("student"), mlp("student", "softmax")
    softmax.set_weights(logits.get_weights())
    teacher, values = mlp("teacher"), []
    for student in (logits, softmax):
        distiller = tfmot.Distiller(
            teacher, make(student), keras_kd.LogitsDistillation(3.0), 1, 0.0
        )
        distiller.compile("sgd")
        values.append(distiller.evaluate(X, verbose=0, return_dict=True)["logits_distillation"])
    # Values of about 1, from logits whose float32 has been a sum of 5 products.
    assert values[0] == pytest.approx(values[1], rel=1e-5)


# -- refusals --------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def call(self, x):
        return x


class TfKerasSubclassed(tf_keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("teacher", "student", "error", "message"),
    [
        (mlp, mlp, TypeError, "Expected a tf_keras model. Received: keras"),
        (lambda n: tf_keras.Sequential(), None, ValueError, "Expected a Keras 3 model as teacher"),
        (lambda n: Subclassed(name="own"), None, ValueError, "model as teacher. Received: 'own'"),
        (mlp, lambda n: TfKerasSubclassed(name="o"), ValueError, "as student. Received: 'o'"),
        (
            lambda n: keras.Sequential([keras.Input((3,)), layers.Dense(4)]),
            None,
            ValueError,
            "same inputs. Received: teacher .*None, 3.*student .*None, 6",
        ),
        (
            lambda n: keras.Sequential([keras.Input((6,)), layers.Dense(3)]),
            None,
            ValueError,
            "logits_distillation",
        ),
        (
            mlp,
            lambda n: tfmot.twin(frozen(mlp(n))),
            ValueError,
            "trainable weights.*'student' with",
        ),
    ],
)
def test_refuses_what_is_no_pair(teacher, student, error, message):
    model = tfmot.twin(mlp("student")) if student is None else student("student")
    with pytest.raises(error, match=message):
        tfmot.Distiller(teacher("teacher"), model, keras_kd.LogitsDistillation(2.0))


def frozen(model):
    for layer in model.layers:
        layer.trainable = False
    return model


def test_refuses_layers_that_it_cannot_read():
    inputs = keras.Input((6,))
    twice = layers.Dense(6, name="twice")
    student = keras.Model(inputs, layers.Dense(4, name="outputs")(twice(twice(inputs))))
    for name, message in (
        ("absent", "Received: 'absent'.*Its layers: .*twice, outputs"),
        ("twice", "Expected 'twice' of student .* to be called once"),
    ):
        loss = keras_kd.FeatureDistillation("mse", "hidden", name)
        with pytest.raises(ValueError, match=message):
            tfmot.Distiller(mlp("teacher"), tfmot.twin(student), loss)


@pytest.mark.parametrize(
    "arguments",
    [
        {"optimizer": keras.optimizers.SGD(0.1)},
        {"loss": keras.losses.MeanSquaredError()},
        {"metrics": ["mae", keras.metrics.MeanSquaredError()]},
    ],
)
def test_refuses_the_objects_of_keras_3(arguments):
    distiller = made(keras_kd.LogitsDistillation(2.0))
    with pytest.raises(
        TypeError, match=r"of tf_keras. Received: (SGD|MeanSquaredError) of Keras 3"
    ):
        distiller.compile(**{"loss": "mse", **arguments})


def test_refuses_to_train_on_labels_without_a_loss():
    distiller = tfmot.Distiller(
        mlp("teacher"), tfmot.twin(mlp("student")), keras_kd.LogitsDistillation(2.0)
    )
    with pytest.raises(ValueError, match=r"Expected a task loss with student_loss_weight=0.5"):
        distiller.compile("sgd")
    distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Expected labels: student_loss_weight is 0.5"):
        distiller.fit(X, verbose=0)


def test_refuses_several_devices(two_devices):
    with two_devices.scope():
        distiller = tfmot.Distiller(
            mlp("teacher"), tfmot.twin(mlp("student")), keras_kd.LogitsDistillation(2.0)
        )
        with pytest.raises(ValueError, match=r"one device. Received: .* of 2 replicas"):
            distiller.compile("sgd", "mse")


def test_tells_of_a_teacher_that_answers_nan():
    distiller = made(keras_kd.LogitsDistillation(2.0))
    x = X.copy()
    x[:3, 0] = np.nan
    with pytest.raises(ValueError, match=r"finite numbers from the teacher.* for 3 examples"):
        distiller.fit(x, Y, batch_size=8, verbose=0)


def test_refuses_weights_that_a_loss_over_the_batch_cannot_honour():
    distiller = made(relation.CorrelationCongruence("hidden", "hidden"))
    weights = np.ones(EXAMPLES, "float32")
    weights[:2] = 0.0
    distiller.fit(X, Y, sample_weight=weights, batch_size=8, verbose=0)
    weights[:2] = 0.5
    with pytest.raises(ValueError, match=r"sample weights of 0 and 1 .* Received 2 others"):
        distiller.fit(X, Y, sample_weight=weights, batch_size=8, verbose=0)
