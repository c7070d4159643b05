"""Stop and go on: a run that was killed and started again is the run that was not.

As a program, `python test_distiller_resume.py FOLDER KIND`, it trains and kills itself.
"""

import os
import pathlib
import signal
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from tests.models import assert_equal, conv_net, images, mlp, snapshot, task_loss, vectors

EPOCHS = 4
KILLED_IN_EPOCH = 2  # The third, counted from 0 as Keras does, in the middle of it.
KILLED_AT_BATCH = 1


def flipped_and_noisy(x, seed):
    """An augmentation that is a function of its seed."""
    x = tf.image.stateless_random_flip_up_down(x, seed)
    return x + tf.random.stateless_normal(tf.shape(x), seed, stddev=0.1)


def data_of(kind):
    x, y = images(18)
    if kind == "arrays":
        return keras_kd.data.replayable(x, y, batch_size=4, seed=3, augment=flipped_and_noisy)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    return keras_kd.data.replayable(
        dataset, batch_size=4, seed=3, augment=flipped_and_noisy, shuffle_buffer=7
    )


def distiller_of(seed):
    """With every kind of state: random layers, statistics, a projector, Adam, schedules."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    teacher = conv_net("teacher", 5)
    # The student starts otherwise in the process that goes on: all must come from the checkpoint.
    keras.utils.set_random_seed(seed)
    distiller = keras_kd.Distiller(
        teacher,
        conv_net("student", 3, norm=True, dropout=0.4, flip=True),
        [
            keras_kd.LogitsDistillation(keras_kd.schedules.Linear(4.0, 1.0, 20)),
            keras_kd.FeatureDistillation("mse", "map", "map"),
        ],
        student_loss_weight=keras_kd.schedules.Cosine(1.0, 0.0, 20),
    )
    distiller.compile(keras.optimizers.Adam(0.01), task_loss(), metrics=["accuracy"])
    return distiller


def run(distiller, kind, *callbacks, **options):
    """Trains; returns logs and state."""
    history = distiller.fit(
        data_of(kind),
        epochs=options.pop("epochs", EPOCHS),
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **options,
    )
    return history.history, snapshot(distiller, distiller.optimizer)


class KillMyself(keras.callbacks.Callback):
    """Ends the process as a crash or a power cut does: nothing is run or written any more."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (KILLED_IN_EPOCH, KILLED_AT_BATCH):
            self.kill()

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)


def backup(folder):
    return keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False)


@pytest.fixture(scope="module")
def uninterrupted():
    """Returns logs and state of the run of a kind that nobody disturbed."""
    runs = {}

    def of(kind):
        if kind not in runs:
            runs[kind] = run(distiller_of(seed=1), kind)
        return runs[kind]

    return of


def assert_goes_on_as(uninterrupted, resumed, epochs):
    logs, state = uninterrupted
    later = {name: values[-epochs:] for name, values in logs.items()}
    assert resumed[0] == later
    assert_equal(state, resumed[1])


# -- killed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["arrays", pytest.param("dataset", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_last_bit(kind, uninterrupted, tmp_path):
    root = pathlib.Path(__file__).resolve().parent.parent
    killed = subprocess.run(
        [sys.executable, __file__, str(tmp_path), kind],
        env={**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    resumed = run(distiller_of(seed=2), kind, backup(tmp_path))
    assert len(resumed[0]["loss"]) == EPOCHS - KILLED_IN_EPOCH
    assert_goes_on_as(uninterrupted(kind), resumed, EPOCHS - KILLED_IN_EPOCH)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_last_bit(uninterrupted, tmp_path):
    """By an exception, in the middle of the third epoch; the distiller is made anew."""

    class Interrupt(KillMyself):
        def kill(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(distiller_of(seed=1), "arrays", backup(tmp_path), Interrupt())
    resumed = run(distiller_of(seed=2), "arrays", backup(tmp_path))
    assert_goes_on_as(uninterrupted("arrays"), resumed, EPOCHS - KILLED_IN_EPOCH)


def test_a_checkpoint_that_is_loaded_goes_on_to_the_last_bit(uninterrupted, tmp_path):
    """`ModelCheckpoint`, `load_model`, the teacher given back, and `fit`."""
    first = distiller_of(seed=1)
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    run(first, "arrays", keep, epochs=2)
    teacher = first.teacher
    keras.utils.set_random_seed(99)
    again = keras.models.load_model(tmp_path / "2.keras")
    again.teacher = teacher
    resumed = run(again, "arrays", initial_epoch=2)
    assert_goes_on_as(uninterrupted("arrays"), resumed, 2)


@pytest.mark.slow
def test_two_calls_of_fit_are_one_of_as_many_epochs(uninterrupted):
    distiller = distiller_of(seed=1)
    run(distiller, "arrays", epochs=2)
    assert_goes_on_as(uninterrupted("arrays"), run(distiller, "arrays", initial_epoch=2), 2)


def test_every_epoch_has_an_order_of_its_own_wherever_fit_begins():
    """Else all epochs could see one order, which a resumed run would see too."""
    seen = []

    class Noting(keras.layers.Layer):
        def call(self, inputs, training=None):
            if training:
                seen.append(np.array(inputs))
            return inputs

    distiller = keras_kd.Distiller(
        mlp("teacher"), mlp("student", first=Noting()), keras_kd.LogitsDistillation()
    )
    distiller.compile("sgd", task_loss(), run_eagerly=True)
    x, y = vectors(12)
    distiller.fit(keras_kd.data.replayable(x, y, batch_size=12, seed=0), epochs=3, verbose=0)
    first, second, third = seen
    for one, other in ((first, second), (first, third), (second, third)):
        assert not np.array_equal(one, other)
        np.testing.assert_array_equal(np.sort(one, axis=0), np.sort(other, axis=0))
    seen.clear()
    data = keras_kd.data.replayable(x, y, batch_size=12, seed=0)
    distiller.fit(data, initial_epoch=1, epochs=3, verbose=0)
    np.testing.assert_array_equal(seen, [second, third])


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["dropout", "flip"])
def test_the_comparison_sees_the_seed_state_of_a_layer(layer, uninterrupted):
    """A run whose random layer begins otherwise goes otherwise, so the tests above can fail."""
    distiller = distiller_of(seed=1)
    (state,) = (v for v in distiller.student.get_layer(layer).variables if "seed" in v.path)
    state.assign(state.numpy() + 1)
    logs, _ = run(distiller, "arrays", epochs=1)
    assert logs["student_loss"][0] != uninterrupted("arrays")[0]["student_loss"][0]


# -- data that cannot be replayed ------------------------------------------------------------------


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        x, y = images(8)
        return x[4 * index :][:4], y[4 * index :][:4]


def generator():
    while True:
        yield images(4)


def given(kind):
    """Returns the arguments of `fit` for a kind of data."""
    x, y = images(8)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    return {
        "shuffled arrays": {"x": x, "y": y},
        "shuffled dict": {"x": {"image": x}, "y": y},
        "shuffled dataset": {"x": dataset.shuffle(8).batch(4), "shuffle": False},
        "dataset shuffled with a seed": {
            "x": dataset.shuffle(8, seed=1).batch(4).prefetch(1),
            "shuffle": False,
        },
        "shuffled and mapped": {
            "x": dataset.shuffle(8).map(lambda *pair: pair).batch(4).take(2),
            "shuffle": False,
        },
        "generator": {"x": generator(), "steps_per_epoch": 2, "shuffle": False},
        "PyDataset": {"x": Pairs()},
        "arrays in order": {"x": x, "y": y, "shuffle": False},
        "dataset in order": {"x": dataset.batch(4), "shuffle": False},
        "PyDataset in order": {"x": Pairs(), "shuffle": False},
        "replayable": {
            "x": keras_kd.data.replayable(x, y, batch_size=4, seed=0),
            "shuffle": False,
        },
        "replayable dataset": {
            "x": keras_kd.data.replayable(dataset, batch_size=4, seed=0, shuffle_buffer=4),
            "shuffle": False,
        },
    }[kind]


def cheap_distiller():
    def net(name):
        inputs = {"image": keras.Input((8, 8, 2), name="image")}
        x = keras.layers.GlobalAveragePooling2D()(inputs["image"])
        return keras.Model(inputs, keras.layers.Dense(4)(x), name=name)

    distiller = keras_kd.Distiller(net("teacher"), net("student"), keras_kd.LogitsDistillation())
    distiller.compile("sgd", task_loss(), run_eagerly=True)
    return distiller


def warnings_of(kind, callbacks):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cheap_distiller().fit(**given(kind), verbose=0, callbacks=callbacks)
    return [str(w.message) for w in caught if "order" in str(w.message)]


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("shuffled arrays", "arrays"),
        ("shuffled dict", "arrays"),
        ("shuffled dataset", "Shuffle"),
        ("dataset shuffled with a seed", "Shuffle"),
        ("shuffled and mapped", "Shuffle"),
        ("generator", "generator"),
        ("PyDataset", "PyDataset"),
    ],
)
def test_data_that_cannot_be_replayed_is_named_in_a_warning(kind, reason, tmp_path):
    found = warnings_of(kind, [backup(tmp_path)])
    assert len(found) == 1
    assert reason in found[0]
    assert "keras_kd.data.replayable" in found[0]
    # Nobody is told who does not want to go on.
    if kind == "shuffled arrays":
        assert warnings_of(kind, []) == []


@pytest.mark.parametrize(
    "kind",
    [
        "arrays in order",
        "dataset in order",
        "PyDataset in order",
        "replayable",
        "replayable dataset",
    ],
)
def test_data_that_can_be_replayed_gives_no_warning(kind, tmp_path):
    assert warnings_of(kind, [backup(tmp_path)]) == []


if __name__ == "__main__":
    run(distiller_of(seed=1), sys.argv[2], backup(sys.argv[1]), KillMyself())
