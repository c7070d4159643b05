"""The MLPerf Tiny example: on made-up pictures with a made-up teacher."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_kd

CLASSES = 10


def made_up_split(example, count):
    generator = np.random.default_rng(count)
    x = generator.integers(0, 256, size=(count, 32, 32, 3), dtype=np.uint8)
    return example.experiment.Split(x, np.arange(count) % CLASSES)


@pytest.fixture(scope="module")
def teacher_network():
    """Its weights are small, as its pixels reach 255: no answer of it is certain."""
    small = keras.initializers.RandomNormal(stddev=0.01, seed=0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, kernel_initializer=small)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    large = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, "softmax", kernel_initializer=large)(x))


@pytest.fixture(scope="module")
def teacher(teacher_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.tflite"
    keras_kd.deploy.convert(teacher_network, path, quantization="float32")
    return path


def small_student():
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 5, strides=4)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


def test_student_has_the_parameters_of_the_reference(example):
    student = example.student()
    assert student.count_params() == 78_666
    assert student.output_shape == (None, CLASSES)


@pytest.mark.data
def test_student_has_the_shapes_of_the_reference(example, data_folder):
    path = data_folder / "models" / "mlcommons_tiny" / "pretrainedResnet.h5"
    if not path.is_file():
        pytest.skip("needs models/mlcommons_tiny/pretrainedResnet.h5 in the folder of real data")
    reference = keras.models.load_model(path, compile=False)
    shapes = [weight.shape for weight in reference.weights]
    assert [weight.shape for weight in example.student().weights] == shapes


def test_view_is_a_shift_and_a_mirror_of_each_picture(example):
    x = made_up_split(example, 600).x
    seen = example.view_of(x, 3, seed=1, largest_shift=2)
    assert seen.dtype == x.dtype
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    found = set()
    for picture, view in zip(padded, seen, strict=True):
        matches = [
            (down, across, mirrored)
            for down in range(5)
            for across in range(5)
            for mirrored in (False, True)
            if np.array_equal(
                picture[down : down + 32, across : across + 32][:, :: -1 if mirrored else 1], view
            )
        ]
        assert len(matches) == 1
        found.add(matches[0])
    # 600 draws from 50 leave one out with a probability of at most 50 * .98^600 = 3e-4.
    assert len(found) == 50


def test_view_is_a_function_of_seed_and_number(example):
    x = made_up_split(example, 20).x

    def view(number, seed):
        return example.view_of(x, number, seed=seed, largest_shift=4)

    np.testing.assert_array_equal(view(0, 0), view(0, 0))
    assert not np.array_equal(view(0, 0), view(1, 0))
    assert not np.array_equal(view(0, 0), view(0, 1))


def test_teacher_answers_the_view_that_the_student_sees(
    example, teacher_network, teacher, tmp_path, monkeypatch
):
    x = made_up_split(example, 70).x  # two batches of 32 and a smaller one
    settings = dataclasses.replace(example.Settings(), views=2)
    pictures = example.TaughtPictures(x, teacher, tmp_path, settings)
    seen, logits = pictures.view(1)
    np.testing.assert_array_equal(seen, example.view_of(x, 1, seed=0, largest_shift=4))
    expected = np.log(teacher_network.predict(seen.astype(np.float32), verbose=0))
    assert expected.std(axis=0).min() > 0.01  # the answer depends on the picture
    # float16 rounds by 2^-11 of a logarithm, none of which is below -16; XNNPACK and TensorFlow
    # add up in other orders, which is far less.
    assert np.abs(expected).max() < 16
    np.testing.assert_allclose(logits, expected, rtol=0, atol=16 * 2**-11)

    def refuse(*args, **kwargs):
        raise AssertionError("asked again")

    monkeypatch.setattr(example.Teacher, "probabilities", refuse)
    again = example.TaughtPictures(x, teacher, tmp_path, settings)
    for ours, theirs in zip((seen, logits), again.view(3), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(AssertionError, match="asked again"):
        again.view(2)
    assert [path.name for path in tmp_path.glob("*.npy")] == ["view-001.npy"]


class KilledError(Exception):
    """What ends a training here, as a signal would."""


def killed_in_the_batch(example, monkeypatch):
    """Ends the second epoch after its first batch."""
    fit = keras_kd.Distiller.fit

    def fit_or_die(self, *args, **kwargs):
        if kwargs["initial_epoch"] == 1:
            kwargs["callbacks"] = [keras.callbacks.LambdaCallback(on_train_batch_end=die)]
        return fit(self, *args, **kwargs)

    def die(batch, logs):
        raise KilledError

    monkeypatch.setattr(keras_kd.Distiller, "fit", fit_or_die)


def killed_before_the_state(example, monkeypatch):
    """Ends the second epoch when its log is written and its weights are not."""
    save, saved = keras_kd.Distiller.save_weights, []

    def save_or_die(self, path, **kwargs):
        saved.append(path)
        if len(saved) == 2:
            Path(path).write_bytes(b"half a file")
            raise KilledError
        save(self, path, **kwargs)

    monkeypatch.setattr(keras_kd.Distiller, "save_weights", save_or_die)


@pytest.mark.parametrize("killed", [killed_in_the_batch, killed_before_the_state])
def test_killed_training_ends_with_the_same_weights(
    example, teacher, tmp_path, monkeypatch, killed
):
    train = made_up_split(example, 100)
    settings = dataclasses.replace(example.Settings(), views=2, batch_size=40)
    pictures = example.TaughtPictures(train.x, teacher, tmp_path / "answers", settings)

    def begin():
        keras.utils.set_random_seed(0)
        return small_student()

    def trained(folder):
        plan = {"epochs": 2, "learning_rate": 0.1, "warmup_epochs": 1}
        return example.distilled(tmp_path / folder, begin, pictures, train.y, settings, **plan)

    expected = trained("whole")
    with monkeypatch.context() as patch:
        killed(example, patch)
        with pytest.raises(KilledError):
            trained("killed")
    seen = []
    view = pictures.view
    monkeypatch.setattr(pictures, "view", lambda epoch: seen.append(epoch) or view(epoch))
    found = trained("killed")
    assert seen == [1]  # the first epoch is not done again
    for ours, theirs in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    read_log = example.experiment.read_log
    logs = [
        [{**row, "seconds": None} for row in read_log(tmp_path / f / "history.csv")]
        for f in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
    assert [row["epoch"] for row in logs[0]] == [0, 1]


def test_learning_rate_warms_up_and_ends_at_nothing(example, teacher, tmp_path, monkeypatch):
    """By what the optimizer's schedule says at the steps of the run."""
    seen = []

    def note(self, *args, **kwargs):
        schedule = self.optimizer._learning_rate
        seen.extend(float(schedule(step)) for step in (0, 2, 4, 10))
        raise KilledError

    monkeypatch.setattr(keras_kd.Distiller, "fit", note)
    train = made_up_split(example, 100)
    settings = dataclasses.replace(example.Settings(), views=1, batch_size=50)
    pictures = example.TaughtPictures(train.x, teacher, tmp_path / "answers", settings)
    with pytest.raises(KilledError):
        example.train(
            small_student(),
            pictures,
            train.y,
            tmp_path / "run",
            settings,
            epochs=5,
            learning_rate=0.5,
            warmup_epochs=2,
        )
    # Two steps an epoch: up to 0.5 at step 4, and to 0 at step 10. In float32.
    np.testing.assert_allclose(seen, [0.0, 0.25, 0.5, 0.0], atol=1e-7)


@pytest.mark.slow
def test_example_runs_on_arrays_and_goes_on_where_it_was(example, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "student", small_student)
    data = example.experiment.Data(made_up_split(example, 64), None, made_up_split(example, 30))
    folder = tmp_path / "output"
    found = example.run(data, teacher, folder, example.FAST, reference=teacher)
    table = found.sections[0].blocks[0]
    assert [cells[:2] for cells in table.rows] == [
        ("teacher", "float32 on litert"),
        ("reference", "float32 on litert_reference"),
        ("reference", "float32 on tflm"),
        ("student, float", "float32 on keras"),
        ("student, int8 after training", "int8 on litert_reference"),
        ("student, int8 after training", "int8 on tflm"),
        ("student, int8 in training", "int8 on litert_reference"),
        ("student, int8 in training", "int8 on tflm"),
    ]
    for name in ("resnet8.tflite", "resnet8_after_training.tflite"):
        (given,) = keras_kd.deploy.Interpreter(folder / name).inputs
        assert (given.dtype, given.scale, given.zero_point) == ("int8", 1.0, -128)
    assert found.to_html().count("<svg") == 1

    def refuse(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr(example, "train", refuse)
    monkeypatch.setattr(keras_kd.deploy, "measure", refuse)
    again = example.run(data, teacher, folder, example.FAST, reference=teacher)
    assert again.data == found.data

    (folder / "other.tflite").write_bytes(teacher.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="Hint: another"):
        example.run(data, folder / "other.tflite", folder, example.FAST)
