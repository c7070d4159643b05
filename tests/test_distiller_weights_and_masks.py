"""Sample weights, class weights and masks: every value against a hand-written formula."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_kd
from tests.models import (
    CLASSES,
    RTOL,
    assert_same,
    cross_entropy,
    mlp,
    snapshot,
    soft_target,
    task_loss,
    vectors,
    wide,
)

WORDS = 7


def logs_of(distiller, *arrays, batch_size=64, **options):
    """Returns the logs of one epoch at rate 0, in the given order."""
    logs = distiller.fit(
        *arrays, batch_size=batch_size, shuffle=False, verbose=0, **options
    ).history
    return {name: values[0] for name, values in logs.items()}


def distilled(teacher, student, losses=None, *, loss=None, alpha=0.4, **options):
    distiller = keras_kd.Distiller(
        teacher,
        student,
        keras_kd.LogitsDistillation(2.0) if losses is None else losses,
        student_loss_weight=alpha,
        **options,
    )
    distiller.compile(keras.optimizers.SGD(0.0), task_loss() if loss is None else loss)
    return distiller


# -- weights an example ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20,), (20, 1)])
def test_a_weight_an_example_scales_task_and_distillation(shape, rng):
    x, y = vectors(20)
    weight = rng.uniform(0, 3, 20).astype("float32")
    teacher, student = mlp("teacher"), mlp("student")
    losses = [
        keras_kd.LogitsDistillation(2.0),
        keras_kd.FeatureDistillation("mae", "hidden", "hidden"),
    ]
    distiller = distilled(teacher, student, losses)
    logs = logs_of(distiller, x, y, sample_weight=weight.reshape(shape), batch_size=8)
    t, s = np.float64(teacher(x)), np.float64(student(x))
    hidden = [np.float64(model.get_layer("hidden")(x)) for model in (teacher, student)]
    expected = {
        "student_loss": (cross_entropy(y, s) * weight).mean(),
        "logits_distillation": (soft_target(t, s, 2.0) * weight).mean(),
        "feature_distillation": (abs(hidden[0] - hidden[1]).mean(-1) * weight).mean(),
    }
    expected["loss"] = 0.4 * expected["student_loss"] + 0.6 * (
        expected["logits_distillation"] + expected["feature_distillation"]
    )
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=RTOL, err_msg=name)


def test_weight_one_is_no_weight_and_weight_zero_is_no_gradient():
    x, y = vectors(16)
    weight = np.repeat([1.0, 0.0], 8).astype("float32")
    teacher = mlp("teacher")
    start = mlp("student").get_weights()
    states = []
    for garbage in (0.0, 1e3):
        student = mlp("student")
        student.set_weights(start)
        distiller = distilled(teacher, student)
        distiller.optimizer.learning_rate = 1.0
        spoiled = x.copy()
        spoiled[8:] += garbage
        distiller.train_on_batch(spoiled, y, sample_weight=weight)
        states.append(snapshot(student))
    assert_same(*states)


def test_class_weights_scale_task_and_distillation():
    x, y = vectors(20)
    by_class = {0: 0.0, 1: 1.0, 2: 2.5, 3: 0.5}
    weight = np.array([by_class[label] for label in y])
    teacher, student = mlp("teacher"), mlp("student")
    logs = logs_of(distilled(teacher, student), x, y, class_weight=by_class, batch_size=8)
    task = (cross_entropy(y, student(x)) * weight).mean()
    soft = (soft_target(teacher(x), student(x), 2.0) * weight).mean()
    np.testing.assert_allclose(logs["student_loss"], task, rtol=RTOL)
    np.testing.assert_allclose(logs["logits_distillation"], soft, rtol=RTOL)
    np.testing.assert_allclose(logs["loss"], 0.4 * task + 0.6 * soft, rtol=RTOL)


class OneNumber(keras.distillation.DistillationLoss):
    """A loss of Keras's kind: one number for the batch."""

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return ops.mean(ops.square(teacher_outputs - student_outputs))


@pytest.mark.parametrize("how", ["sample_weight", "class_weight"])
def test_weights_on_a_loss_of_the_whole_batch_are_refused_by_name(how):
    x, y = vectors(8)
    distiller = distilled(mlp("teacher"), mlp("student"), OneNumber())
    distiller.optimizer.learning_rate = 1.0
    before = snapshot(distiller)
    given = np.ones(8) if how == "sample_weight" else {0: 1.0, 1: 2.0, 2: 1.0, 3: 1.0}
    with pytest.raises(ValueError, match=r"no sample weights with 'one_number'"):
        distiller.fit(x, y, verbose=0, **{how: given})
    assert_same(before, snapshot(distiller))
    # Without weights it is a loss like any other.
    expected = np.square(np.float64(distiller.teacher(x)) - np.float64(distiller.student(x))).mean()
    distiller.optimizer.learning_rate = 0.0
    np.testing.assert_allclose(logs_of(distiller, x, y)["one_number"], expected, rtol=RTOL)


def test_weights_in_a_structure_are_refused():
    inputs = keras.Input((6,))
    layers = [keras.layers.Dense(CLASSES, name=name) for name in ("a", "b")]
    teacher, student = (
        keras.Model(inputs, {layer.name: layer(inputs) for layer in layers}) for _ in range(2)
    )
    student = keras.models.clone_model(student)
    distiller = distilled(
        teacher,
        student,
        keras_kd.LogitsDistillation(2.0, {"a": "kl_divergence", "b": None}),
        loss={"a": task_loss(), "b": task_loss()},
    )
    x, y = vectors(8)
    with pytest.raises(ValueError, match=r"one array of sample weights"):
        distiller.fit(
            x,
            {"a": y, "b": y},
            sample_weight={"a": np.ones(8), "b": np.ones(8)},
            verbose=0,
        )


# -- masks -----------------------------------------------------------------------------------------


def tagger(name, width=5, *, mask_zero=True, softmax=False):
    """Words to a class a word; the word 0 is padding."""
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(
        WORDS, width, embeddings_initializer=wide(), mask_zero=mask_zero, name="embed"
    )(inputs)
    x = keras.layers.Dense(width, activation="tanh", name="hidden")(x)
    x = keras.layers.Dense(CLASSES, kernel_initializer=wide(), name="outputs")(x)
    if softmax:
        x = keras.layers.Activation("softmax", name="softmax")(x)
    return keras.Model(inputs, x, name=name)


def sentences(n=6, length=5, seed=0):
    """Words, classes a word, and which are no padding; one sentence is all padding but a word."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, size=n)
    valid = np.arange(length) < lengths[:, None]
    words = np.where(valid, rng.integers(1, WORDS, size=(n, length)), 0)
    return words.astype("int32"), rng.integers(0, CLASSES, size=(n, length)), valid


def hidden_of(model, words):
    return np.float64(model.get_layer("hidden")(model.get_layer("embed")(words)))


@pytest.mark.parametrize("softmax", [False, True])
def test_padding_does_not_count(softmax):
    """Each batch's value is the mean over its valid words, as Keras's own losses have it."""
    words, labels, valid = sentences()
    teacher, student = tagger("teacher", 5), tagger("student", 5)
    losses = [
        keras_kd.LogitsDistillation(2.0),
        keras_kd.FeatureDistillation("mse", "hidden", "hidden"),
        keras_kd.FeatureDistillation("mae", name="answers"),
    ]
    t, s = np.float64(teacher(words)), np.float64(student(words))
    h = [hidden_of(model, words) for model in (teacher, student)]
    if softmax:
        logits, teacher = teacher, tagger("teacher", 5, softmax=True)
        teacher.set_weights(logits.get_weights())
    distiller = distilled(teacher, student, losses[: 2 if softmax else 3])
    expected = {
        "student_loss": cross_entropy(labels, s)[valid].mean(),
        "logits_distillation": soft_target(t, s, 2.0)[valid].mean(),
        "feature_distillation": np.square(h[0] - h[1]).mean(-1)[valid].mean(),
    }
    if not softmax:
        expected["answers"] = abs(t - s).mean(-1)[valid].mean()
    logs = logs_of(distiller, words, labels)
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=RTOL, err_msg=name)


def test_what_the_padded_words_are_changes_nothing():
    words, labels, valid = sentences()
    teacher = tagger("teacher")
    start = tagger("student").get_weights()
    states = []
    for filler in (0, CLASSES - 1):
        student = tagger("student")
        student.set_weights(start)
        distiller = distilled(teacher, student)
        distiller.optimizer.learning_rate = 1.0
        distiller.train_on_batch(words, np.where(valid, labels, filler))
        states.append(snapshot(student))
    assert_same(*states)


class NanAtPadding(keras.layers.Layer):
    """Gives NaN at padded positions, as a softmax over nothing in an attention does."""

    supports_masking = True

    def call(self, inputs, mask=None):
        return ops.where(ops.expand_dims(mask, -1), inputs, np.nan)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_nan_in_the_padding_is_harmless(role):
    words, _, valid = sentences()
    models = {name: tagger(name) for name in ("teacher", "student")}
    t, s = (np.float64(model(words)) for model in models.values())
    models[role] = keras.Model(
        models[role].input, NanAtPadding()(models[role].output), name=f"nan_{role}"
    )
    assert np.isnan(np.array(models[role](words))).any()
    distiller = distilled(models["teacher"], models["student"], alpha=0.0, teacher_agreement=True)
    distiller.optimizer.learning_rate = 1.0
    logs = logs_of(distiller, words)
    np.testing.assert_allclose(
        logs["logits_distillation"], soft_target(t, s, 2.0)[valid].mean(), rtol=RTOL
    )
    assert all(np.isfinite(weight).all() for weight in models["student"].get_weights())


def test_nan_of_the_teacher_at_a_word_is_still_refused():
    words, _, _ = sentences()
    teacher = tagger("teacher")
    table = teacher.get_layer("embed").get_weights()[0]
    table[words[0, 0]] = np.nan
    teacher.get_layer("embed").set_weights([table])
    distiller = distilled(teacher, tagger("student"), alpha=0.0)
    with pytest.raises(ValueError, match="finite numbers from the teacher"):
        logs_of(distiller, words)


def test_agreement_counts_valid_words_alone():
    words, labels, valid = sentences()
    teacher, student = tagger("teacher"), tagger("student")
    distiller = distilled(teacher, student, teacher_agreement=True)
    same = np.array(teacher(words)).argmax(-1) == np.array(student(words)).argmax(-1)
    assert same.mean() != same[valid].mean()
    logs = logs_of(distiller, words, labels)
    np.testing.assert_allclose(logs["teacher_agreement"], same[valid].mean(), rtol=RTOL)


# -- weights a word --------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_zero", [False, True])
def test_a_weight_a_word(mask_zero, rng):
    words, labels, valid = sentences()
    weight = rng.uniform(0, 3, size=words.shape).astype("float32")
    teacher = tagger("teacher", mask_zero=mask_zero)
    student = tagger("student", mask_zero=mask_zero)
    t, s = np.float64(teacher(words)), np.float64(student(words))
    logs = logs_of(distilled(teacher, student), words, labels, sample_weight=weight)
    chosen = valid if mask_zero else np.ones_like(valid)
    task = (cross_entropy(labels, s) * weight)[chosen].mean()
    soft = (soft_target(t, s, 2.0) * weight)[chosen].mean()
    np.testing.assert_allclose(logs["student_loss"], task, rtol=RTOL)
    np.testing.assert_allclose(logs["logits_distillation"], soft, rtol=RTOL)


def test_a_weight_an_example_on_words(rng):
    """Of shape [batch] or [batch, 1] it is one weight for all words of the example."""
    words, labels, valid = sentences()
    weight = rng.uniform(0, 3, size=len(words)).astype("float32")
    teacher, student = tagger("teacher"), tagger("student")
    t, s = np.float64(teacher(words)), np.float64(student(words))
    soft = (soft_target(t, s, 2.0) * weight[:, None])[valid].mean()
    task = (cross_entropy(labels, s) * weight[:, None])[valid].mean()
    logs = logs_of(distilled(teacher, student), words, labels, sample_weight=weight[:, None])
    np.testing.assert_allclose(logs["logits_distillation"], soft, rtol=RTOL)
    np.testing.assert_allclose(logs["student_loss"], task, rtol=RTOL)


def test_a_weight_a_word_on_a_loss_without_words_is_refused():
    words, labels, _ = sentences()

    def pooled(name):
        model = tagger(name)
        pool = keras.layers.GlobalAveragePooling1D(name="pool")(model.get_layer("hidden").output)
        outputs = model.output + ops.sum(pool, -1, keepdims=True)[:, None]
        return keras.Model(model.input, outputs, name=name)

    distiller = distilled(
        pooled("teacher"), pooled("student"), keras_kd.FeatureDistillation("mse", "pool", "pool")
    )
    with pytest.raises(ValueError, match="one entry for each position"):
        distiller.fit(words, labels, sample_weight=np.ones(words.shape), verbose=0)


def test_masks_of_another_length_than_the_losses_positions_are_refused():
    """A mask over words says nothing of a feature with other positions: nothing broadcasts."""

    class Shorter(keras.layers.Layer):
        supports_masking = True

        def call(self, inputs):
            return inputs[:, :2]

        def compute_output_shape(self, shape):
            return (shape[0], 2, shape[2])

    def shortened(name):
        model = tagger(name)
        return keras.Model(model.input, Shorter(name="short")(model.output), name=name)

    words, _, _ = sentences()
    distiller = distilled(shortened("teacher"), shortened("student"), alpha=0.0)
    with pytest.raises(ValueError, match="Expected a mask with one entry for each position"):
        distiller.fit(words, verbose=0)
