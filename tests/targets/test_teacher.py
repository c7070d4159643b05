"""Training from stored answers: the same steps as with the teacher itself, and no teacher run."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.targets import StoredTeacher, attach, write
from tests.targets import small_task

# What the teacher says: it would be reported if it were no better than chance.
LABELS = np.argmax(small_task.teacher()(small_task.inputs()), axis=-1)
# float16 halves: log-probabilities of magnitude up to 10 move by 10 * 2^-11; the loss, a mean of
# differences of them times T^2, by some percent of itself. A wrong temperature moves it by tens.
FLOAT16 = 0.03


@pytest.fixture(scope="module")
def teacher():
    return small_task.teacher()


@pytest.fixture(scope="module")
def write_answers(teacher, tmp_path_factory):
    """Writes the answers in a form, once: its folder."""
    folders = {}

    def written(**form):
        key = repr(sorted(form.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("teacher") / "targets"
            task = {"key": None, **form, **small_task.OPTIONS}
            write(teacher, small_task.inputs(), folders[key], **task)
        return folders[key]

    return written


def student():
    keras.utils.set_random_seed(1)
    x = keras.Input((small_task.FEATURES,))
    hidden = keras.layers.Dense(5, activation="relu", name="hidden")(x)
    return keras.Model(x, keras.layers.Dense(small_task.CLASSES, name="out")(hidden))


def trained(teacher, losses, x, **options):
    """Trains two epochs in one order; returns the history and the student's weights."""
    distiller = keras_kd.Distiller(teacher, student(), losses, **options)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = distiller.fit(x, LABELS, epochs=2, batch_size=50, shuffle=False, verbose=0).history
    return history, distiller.student.get_weights()


@pytest.mark.parametrize(
    "form",
    [
        {"dtype": "float32"},
        {"dtype": "float32", "temperature": 3.0},
        {"dtype": "float32", "top_k": 9, "temperature": 3.0},
    ],
    ids=["outputs", "distribution", "nine of ten classes"],
)
def test_training_is_that_with_the_teacher(teacher, write_answers, form):
    """Nine of ten classes and what remains are the whole distribution."""
    path = write_answers(**form)
    loss = keras_kd.LogitsDistillation(temperature=3.0)
    live, wanted = trained(teacher, loss, small_task.inputs())
    stored, weights = trained(StoredTeacher(path), loss, attach(small_task.inputs(), path))
    # float32 through a dozen steps of plain gradient descent.
    np.testing.assert_allclose(stored["total_loss"], live["total_loss"], rtol=1e-4)
    for found, expected in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("top_k", [None, 9])
def test_float16_costs_little(teacher, write_answers, top_k):
    path = write_answers(top_k=top_k, temperature=3.0)
    loss = keras_kd.LogitsDistillation(temperature=3.0)
    live, _ = trained(teacher, loss, small_task.inputs(), student_loss_weight=0.0)
    stored, _ = trained(
        StoredTeacher(path), loss, attach(small_task.inputs(), path), student_loss_weight=0.0
    )
    np.testing.assert_allclose(stored["total_loss"], live["total_loss"], rtol=FLOAT16)


def test_feature_losses_read_stored_features(teacher, write_answers):
    path = write_answers(dtype="float32", features=("hidden",))
    losses = [
        keras_kd.LogitsDistillation(temperature=2.0),
        keras_kd.FeatureDistillation("mse", "hidden", "hidden"),
    ]
    live, wanted = trained(teacher, losses, small_task.inputs())
    stored, weights = trained(StoredTeacher(path), losses, attach(small_task.inputs(), path))
    assert live.keys() == stored.keys()
    for name in live:
        np.testing.assert_allclose(stored[name], live[name], rtol=1e-4, err_msg=name)
    for found, expected in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_another_temperature_than_that_of_the_largest_classes_is_said(write_answers):
    stored = StoredTeacher(write_answers(top_k=3, temperature=3.0))
    with pytest.warns(UserWarning, match=r"at temperature 3\.0, .* Received: 2\.0"):
        keras_kd.Distiller(stored, student(), keras_kd.LogitsDistillation(2.0))
    with pytest.warns(UserWarning, match=r"at temperature 3\.0, .* Received: .*Linear"):
        keras_kd.Distiller(
            stored, student(), keras_kd.LogitsDistillation(keras_kd.schedules.Linear(3.0, 1.0, 10))
        )


@pytest.mark.parametrize(
    "form", [{"top_k": 3, "temperature": 2.0}, {"top_k": 9}, {"temperature": 3.0}, {}]
)
def test_a_temperature_that_is_exact_is_not(write_answers, form, recwarn):
    teacher = StoredTeacher(write_answers(**form))
    keras_kd.Distiller(teacher, student(), keras_kd.LogitsDistillation(2.0))
    assert not recwarn.list


def test_missing_feature_is_named(write_answers):
    path = write_answers(dtype="float32", features=("hidden",))
    loss = keras_kd.FeatureDistillation("mse", "last", "out")
    with pytest.raises(ValueError, match=r"features \['last'\] among .* \['hidden'\]"):
        keras_kd.Distiller(StoredTeacher(path), student(), loss)


def test_softmax_of_the_teacher_is_seen(tmp_path):
    write(
        small_task.teacher(activation="softmax"),
        small_task.inputs(),
        tmp_path / "a",
        **small_task.OPTIONS,
    )
    teacher = StoredTeacher(tmp_path / "a")
    assert teacher.activations() == "softmax"
    outputs, _ = teacher.symbolic()
    assert outputs.shape == (None, small_task.CLASSES)


def test_every_logits_loss_takes_the_answers(write_answers):
    for name in ("dkd", "dist", "lskd", "wsld"):
        loss = keras_kd.losses.get(name)
        path = write_answers(top_k=3, temperature=getattr(loss, "temperature", None))
        history, _ = trained(StoredTeacher(path), loss, attach(small_task.inputs(), path))
        assert np.isfinite(history["total_loss"]).all()


def test_student_and_its_preprocessing_see_the_inputs_alone(write_answers):
    path, seen = write_answers(top_k=3, temperature=3.0), []

    def note(x):
        seen.append(x)
        return x

    trained(
        StoredTeacher(path),
        keras_kd.LogitsDistillation(),
        attach(small_task.inputs(), path),
        student_preprocessing=note,
    )
    assert all(isinstance(x, tf.Tensor) and x.shape[-1] == small_task.FEATURES for x in seen)


def test_data_without_answers_is_refused(write_answers):
    path = write_answers(top_k=3, temperature=3.0)
    with pytest.raises(ValueError, match="stored answers of 'teacher'"):
        trained(StoredTeacher(path), keras_kd.LogitsDistillation(), small_task.inputs())


def test_answers_of_another_form_are_refused(write_answers):
    x = attach(small_task.inputs(), write_answers(top_k=3, temperature=3.0))
    teacher = StoredTeacher(write_answers(dtype="float32"))
    with pytest.raises(ValueError, match=r"with \['outputs'\]. Received: \['classes'"):
        trained(teacher, keras_kd.LogitsDistillation(), x)


def test_answers_of_another_teacher_are_refused(write_answers, tmp_path):
    other = small_task.teacher(seed=8)
    write(
        other, small_task.inputs(), tmp_path / "a", top_k=3, temperature=3.0, **small_task.OPTIONS
    )
    x = attach(small_task.inputs(), tmp_path / "a")
    with pytest.raises(ValueError, match=r"those of others: StoredTeacher:teacher:\w+"):
        trained(
            StoredTeacher(write_answers(top_k=3, temperature=3.0)), keras_kd.LogitsDistillation(), x
        )


def test_loaded_distiller_takes_the_same_teacher_live_or_stored(teacher, write_answers, tmp_path):
    path = write_answers(top_k=3, temperature=3.0)
    distiller = keras_kd.Distiller(StoredTeacher(path), student(), keras_kd.LogitsDistillation())
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = attach(small_task.inputs(), path)
    distiller.fit(x, LABELS, batch_size=50, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    with pytest.raises(ValueError, match="Expected the teacher that this distiller was trained"):
        loaded.teacher = small_task.teacher(seed=9)
    loaded.teacher = StoredTeacher(path)
    loaded.fit(x, LABELS, batch_size=50, verbose=0)
    loaded.teacher = teacher
    loaded.fit(small_task.inputs(), LABELS, batch_size=50, verbose=0)


def test_training_goes_on_the_shuffled_and_replayable_data(write_answers):
    path = write_answers(top_k=3, temperature=3.0)
    data = keras_kd.data.replayable(
        attach(small_task.inputs(), path), LABELS, batch_size=50, seed=0
    )
    distiller = keras_kd.Distiller(StoredTeacher(path), student(), keras_kd.LogitsDistillation())
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = distiller.fit(data, epochs=3, verbose=0).history
    assert history["distillation_loss"][-1] < history["distillation_loss"][0]


def test_says_whose_answers_they_are(write_answers):
    described = StoredTeacher(write_answers(top_k=3, temperature=3.0)).describe()
    assert described == "'teacher', 300 stored answers, the 3 largest of 10"
