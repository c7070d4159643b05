import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_kd
from keras_kd import losses
from keras_kd.losses.sequence import DistilBert, HiddenStates, distilbert
from tests.encoders import LENGTH, VOCABULARY, blocks, encoder, tokens, valid
from tests.losses.sequence.losses import again, distiller, evaluate, gradient
from tests.models import CLASSES, soft_target


def cosine(teacher, student):
    teacher, student = np.float64(teacher), np.float64(student)
    norms = np.linalg.norm(teacher, axis=-1) * np.linalg.norm(student, axis=-1)
    return 1 - (teacher * student).sum(-1) / norms


@pytest.fixture
def sides(rng):
    """Logits of two models and hidden states of both."""
    shapes = {"teacher": 7, "student": 7, "teacher_hidden": 4, "student_hidden": 4}
    return {n: rng.normal(size=(3, 5, size)).astype("float32") for n, size in shapes.items()}


MASK = np.arange(5) < np.array([5, 2, 4])[:, None]


def test_value(sides):
    found = distilbert(**sides, temperature=2.0, alpha_ce=3.0, alpha_cos=0.5, mask=MASK)
    values = 3.0 * soft_target(sides["teacher"], sides["student"], 2.0)
    values = values + 0.5 * cosine(sides["teacher_hidden"], sides["student_hidden"])
    # A softmax over a few classes and its logarithm: some 1e-6 each.
    np.testing.assert_allclose(found, (values * MASK).sum(-1) * 3 / MASK.sum(), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
def test_extremes_stay_finite(sides, scale):
    def value(student, hidden):
        moved = {**sides, "student": student, "student_hidden": hidden}
        return distilbert(**moved, temperature=1.0, mask=MASK)

    students = (sides["student"] * np.float32(scale), sides["student_hidden"] * np.float32(scale))
    value, gradients = gradient(value, *students)
    assert np.isfinite(value)
    assert all(np.isfinite(found).all() for found in gradients)


def test_it_is_the_sum_of_two_losses_of_their_own():
    """Also where Keras's own mask of the outputs is lost: that of the hidden states counts."""
    teacher, student = encoder("teacher"), encoder("student")
    x, _ = tokens()
    loss = DistilBert("block2", "block2", temperature=3.0, alpha_ce=2.0, alpha_cos=7.0)
    found = evaluate(distiller(loss, teacher=teacher, student=student), x)
    logits = [np.asarray(model(x)) for model in (teacher, student)]
    soft = soft_target(*logits, 3.0)[valid(x)].mean()
    states = HiddenStates("block2", "block2", distance="cosine")
    cosines = evaluate(distiller(states, teacher=teacher, student=student), x)
    assert found == pytest.approx(2.0 * soft + 7.0 * cosines, rel=1e-4)


def test_it_falls_beside_the_task_and_is_saved(tmp_path):
    x, y = tokens()
    loss = DistilBert("block4", "block2")
    made = keras_kd.Distiller(
        encoder("teacher", count=4), encoder("student", units=6), loss, student_loss_weight=2 / 3
    )
    made.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0),
    )
    history = made.fit(x, y, epochs=6, verbose=0).history["distil_bert"]
    assert history[-1] < history[0]
    assert len(made.projectors) == 1
    made.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = made.teacher
    logs = [
        side.evaluate(x, y, verbose=0, return_dict=True)["distil_bert"] for side in (made, loaded)
    ]
    assert logs[0] == logs[1]


def probable(name, activation):
    """An encoder whose head is followed by an activation."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 4, mask_zero=True)(inputs)
    head = layers.Dense(VOCABULARY, activation=activation, name="outputs")
    return keras.Model(inputs, head(blocks(x, 1, 4, 2)), name=name)


def test_probabilities_are_not_softmaxed_twice():
    teacher, plain = probable("teacher", "softmax"), probable("plain", None)
    plain.set_weights(teacher.get_weights())
    student, (x, _) = probable("student", None), tokens()
    made = [
        distiller(DistilBert("block1", "block1"), teacher=model, student=student)
        for model in (teacher, plain)
    ]
    # Logits come back from probabilities up to float32's rounding of their logarithm.
    assert evaluate(made[0], x) == pytest.approx(evaluate(made[1], x), rel=1e-4)
    with pytest.raises(ValueError, match=r"student that ends in logits.*tanh"):
        distiller(DistilBert("block1", "block1"), teacher=teacher, student=probable("tanh", "tanh"))


def test_classes_of_whole_sequences():
    teacher = encoder("teacher", classes=CLASSES)
    student = encoder("student", classes=CLASSES)
    x, _ = tokens()
    loss = DistilBert("block2", "block2", alpha_cos=0.0)
    found = evaluate(distiller(loss, teacher=teacher, student=student), x)
    expected = 5.0 * soft_target(np.asarray(teacher(x)), np.asarray(student(x)), 2.0).mean()
    assert found == pytest.approx(expected, rel=1e-4)


class Subclassed(keras.Model):
    """An encoder with a call of its own."""

    def __init__(self, name):
        super().__init__(name=name)
        self.body = layers.Embedding(VOCABULARY, 4)
        self.head = layers.Dense(VOCABULARY)

    def call(self, x):
        return self.head(self.body(x))


def hidden(model, x, training):
    states = model.body(x)
    return model.head(states), {"states": states}


def test_subclassed_models():
    x, _ = tokens((LENGTH,) * 8)
    teacher = Subclassed("teacher")
    teacher(x)
    made = distiller(
        DistilBert("states", "states"),
        teacher=teacher,
        student=Subclassed("student"),
        teacher_features=hidden,
        student_features=hidden,
    )
    history = made.fit(x, epochs=4, verbose=0).history["distil_bert"]
    assert history[-1] < history[0]
    logits = [np.asarray(model(x)) for model in (made.teacher, made.student)]
    states = [np.asarray(model.body(x)) for model in (made.teacher, made.student)]
    expected = 5.0 * soft_target(*logits, 2.0).mean() + cosine(*states).mean()
    assert evaluate(made, x) == pytest.approx(expected, rel=1e-4)


def test_several_outputs():
    def two(name):
        model = encoder(name)
        pooled = ops.mean(model.get_layer("block2").output, axis=1)
        outputs = {"tokens": model.output, "class": layers.Dense(2, name="class")(pooled)}
        return keras.Model(model.input, outputs, name=name)

    teacher, student = two("teacher"), two("student")
    x, _ = tokens()
    loss = DistilBert("block2", "block2", alpha_cos=0.0, output="tokens")
    found = evaluate(distiller(loss, teacher=teacher, student=student), x)
    logits = [np.asarray(model(x)["tokens"]) for model in (teacher, student)]
    expected = 5.0 * soft_target(*logits, 2.0)[valid(x)].mean()
    assert found == pytest.approx(expected, rel=1e-4)


def test_another_distiller_gives_no_outputs(sides):
    loss = DistilBert("a", "b", projector=None)
    with pytest.raises(ValueError, match=r"outputs of both models.*keras_kd\.Distiller"):
        loss.compute_loss(sides["teacher_hidden"], sides["student_hidden"])


def test_configuration():
    warm = keras_kd.schedules.WarmUp(5.0, 3)
    made = again(
        losses.get(
            "distilbert",
            teacher_layer_name="a",
            student_layer_name="b",
            temperature=3.0,
            alpha_ce=warm,
            teacher_outputs="logits",
            output="tokens",
        )
    )
    config = made.get_config()
    assert (config["temperature"], config["output"]) == (3.0, "tokens")
    assert config["teacher_outputs"] == "logits"
    assert made.alpha_ce.get_config() == warm.get_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature to be a positive number"),
        ({"alpha_ce": -1.0}, "alpha_ce to be a number of at least 0"),
        ({"alpha_cos": "much"}, "alpha_cos to be a number"),
        ({"student_outputs": "tanh"}, "student_outputs to be one of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        DistilBert("a", "b", **options)
