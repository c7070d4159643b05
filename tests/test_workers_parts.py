"""The parts of a job that need no second process; `test_workers.py` runs real ones."""

import json
import os
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.workers import data, job, model
from keras_kd.workers.callbacks import METADATA, WEIGHTS, JobBackup, replace_backup
from tests.models import assert_close, mlp, snapshot, task_loss, vectors

POLICIES = tf.data.experimental.AutoShardPolicy


def cluster(task_type="worker", task_id=0, **jobs):
    """A strategy's resolver as TF_CONFIG would make it."""
    spec = tf.train.ClusterSpec(jobs or {"worker": ["a:1", "b:1"]})
    resolver = types.SimpleNamespace(
        cluster_spec=lambda: spec, task_type=task_type, task_id=task_id
    )
    return types.SimpleNamespace(cluster_resolver=resolver)


# -- who there is ----------------------------------------------------------------------------------


def test_one_machine_is_no_job(two_devices):
    assert not job.is_job(tf.distribute.get_strategy())
    assert not job.is_job(two_devices)


@pytest.mark.parametrize(
    ("strategy", "chief", "name"),
    [
        (cluster(), True, "worker 0"),
        (cluster(task_id=1), False, "worker 1"),
        (cluster(chief=["a:1"], worker=["b:1"]), False, "worker 0"),
        (cluster("chief", chief=["a:1"], worker=["b:1"]), True, "chief 0"),
    ],
)
def test_the_chief_is_the_one_of_that_name_or_worker_0(strategy, chief, name):
    assert job.is_chief(strategy) is chief
    assert job.name_of(strategy) == name
    assert job.worker_count(strategy) == 2


def test_a_lost_worker_is_named_and_what_is_to_be_done():
    lost = tf.errors.UnavailableError(None, None, "recvmsg:Connection reset by peer")
    hint = "all 2 workers to stay.*worker 1.*start all workers again.*BackupAndRestore"
    with pytest.raises(RuntimeError, match=hint), job.lost_workers_named(cluster(task_id=1)):
        raise lost


def test_other_errors_keep_their_type():
    with pytest.raises(ValueError, match="mine"), job.lost_workers_named(cluster()):
        raise ValueError("mine")
    alone = tf.distribute.get_strategy()
    with pytest.raises(ValueError, match="mine"), job.refused_together(alone):
        raise ValueError("mine")


# -- the data of a worker --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 7, 3, 1])
def test_the_parts_of_a_batch_are_even_and_in_order(size):
    batch = (np.arange(size), {"y": np.arange(size) * 2}, None)
    for parts in (2, 3, 4):
        found = [data._part(batch, index, parts) for index in range(parts)]
        sizes = [len(part[0]) for part in found]
        assert max(sizes) - min(sizes) <= 1
        np.testing.assert_array_equal(np.concatenate([part[0] for part in found]), batch[0])
        np.testing.assert_array_equal(
            np.concatenate([part[1]["y"] for part in found]), batch[1]["y"]
        )
        assert all(part[2] is None for part in found)


def test_arrays_keep_their_order_or_are_shuffled_anew_by_epoch():
    x, y = vectors(10)
    dataset, *rest = data.as_dataset({"a": x}, y, batch_size=4)
    assert rest == [None, None]
    seen = list(dataset)
    np.testing.assert_array_equal(np.concatenate([batch[0]["a"] for batch in seen]), x)
    np.testing.assert_array_equal(np.concatenate([batch[1] for batch in seen]), y)
    assert seen[0][2] is None
    shuffled, *_ = data.as_dataset(x, y, batch_size=4, shuffle=True)
    epochs = []
    for epoch in (0, 1, 0):
        shuffled.epoch.assign(epoch)
        epochs.append(np.concatenate([batch[1] for batch in shuffled]))
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(np.sort(epochs[1]), np.sort(y))


def test_a_batch_has_keras_size_unless_it_is_said():
    x, y = vectors(40)
    dataset, *_ = data.as_dataset(x, y)
    assert [len(batch[1]) for batch in dataset] == [32, 8]


def test_arrays_of_other_lengths_are_refused():
    x, y = vectors(10)
    with pytest.raises(ValueError, match=r"arrays of one length. Received lengths: \[9, 10\]"):
        data.as_dataset(x, y[:9])


def test_what_is_no_array_is_left_alone():
    dataset = tf.data.Dataset.range(3)
    assert data.as_dataset(dataset, None, None) == (dataset, None, None)


def test_the_last_part_is_split_off():
    x, y = vectors(10)
    (left, *_), (x_off, y_off, weights) = data.split_off(0.25, x, y, None)
    # As Keras does it: floor(10 * 0.75) stay.
    np.testing.assert_array_equal(left, x[:7])
    np.testing.assert_array_equal(x_off, x[7:])
    np.testing.assert_array_equal(y_off, y[7:])
    assert weights is None
    with pytest.raises(ValueError, match=r"examples on both sides\. Received: 0\.0 of 10"):
        data.split_off(0.0, x, y, None)
    with pytest.raises(ValueError, match=r"Expected arrays with validation_split=0.5"):
        data.split_off(0.5, tf.data.Dataset.range(3), None, None)


def in_memory():
    return tf.data.Dataset.from_tensor_slices(np.arange(8))


@pytest.mark.parametrize(
    ("dataset", "seen_as_in_memory"),
    [
        (lambda: in_memory().shuffle(8).map(lambda x: x).batch(4).prefetch(1), True),
        (lambda: tf.data.FixedLengthRecordDataset(["a"], 4).batch(4), False),
        (lambda: tf.data.Dataset.zip((in_memory(), tf.data.TextLineDataset("a"))), False),
        (lambda: in_memory().interleave(lambda x: tf.data.TextLineDataset("a")), False),
        (lambda: in_memory().flat_map(lambda x: tf.data.TextLineDataset("a")), False),
    ],
    ids=["memory", "records", "zip", "interleave", "flat_map"],
)
def test_a_source_in_memory_is_told_from_files(dataset, seen_as_in_memory):
    assert data._is_in_memory(dataset()) is seen_as_in_memory


# -- the model -------------------------------------------------------------------------------------


def test_what_was_made_outside_of_the_scope_is_refused(two_devices):
    with two_devices.scope():
        inside = mlp("inside")
        inside.compile("sgd", "mse")
    model._check_scope(inside)
    outside = keras.metrics.MeanSquaredError("error")
    with two_devices.scope():
        inside.compile("sgd", "mse", metrics=[outside])
    # Which builds the metrics.
    inside.compute_metrics(None, np.zeros((2, 4)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"strategy\.scope\(\)\. Received 'error/.*from outside"):
        model._check_scope(inside)
    with pytest.raises(ValueError, match="Received 'hidden/kernel' from outside"):
        model._check_scope(mlp("outside"))


def normalized(**options):
    inputs = keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), keras.layers.BatchNormalization(**options)])
    return keras.Model(inputs, inner(inputs))


def test_statistics_of_no_example_are_refused():
    assert model._takes_statistics(normalized())
    assert not model._takes_statistics(normalized(synchronized=True))
    assert not model._takes_statistics(mlp("student"))
    frozen = normalized()
    frozen.trainable = False
    assert not model._takes_statistics(frozen)
    strategy = cluster(task_id=1)
    strategy.experimental_local_results = lambda value: (value,)
    checked = model._examples_checked(types.SimpleNamespace(distribute_strategy=strategy), list)
    batches = [(np.zeros((rows, 6)), None) for rows in (2, 1, 0)]
    assert len(checked(batches[:2])) == 2
    with pytest.raises(ValueError, match=r"example for every worker.*worker 1.*synchronized=True"):
        checked(batches)


def test_keras_still_builds_where_it_did():
    """`WorkersModel` overrides a private method: by another name it would never be called."""
    assert callable(keras.Model._maybe_symbolic_build)


# -- the backup ------------------------------------------------------------------------------------


class PowerCutError(Exception):
    """Stands for the end of the process."""


def small(value):
    made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    made.set_weights([np.full((1, 1), float(value)), np.zeros(1)])
    made.compile("sgd", "mse")
    return made


def write_new(folder, epoch):
    """Writes a backup whose weight is its epoch."""
    weights, metadata = (folder / f"new.{name}" for name in (WEIGHTS, METADATA))
    small(epoch).save_weights(weights)
    metadata.write_text(json.dumps({"epoch": epoch, "batch": 0}))
    return weights, metadata


def restored(folder):
    """Returns (weight, epoch) as Keras's own callback restores them."""
    made = small(0)
    callback = keras.callbacks.BackupAndRestore(str(folder))
    callback.set_model(made)
    callback.on_train_begin()
    return float(made.get_weights()[0][0, 0]), made._initial_epoch


@pytest.mark.parametrize("earlier", [0, 1, 2])
def test_a_backup_is_whole_wherever_its_writing_ends(tmp_path, monkeypatch, earlier):
    replace, ended = os.replace, []
    for cut in range(6):
        folder = tmp_path / str(cut)
        folder.mkdir()
        for epoch in range(1, earlier + 1):
            replace_backup(folder, *write_new(folder, epoch))
        calls = iter(range(99))

        def cut_short(source, target, calls=calls, cut=cut):
            if next(calls) == cut:
                raise PowerCutError
            replace(source, target)

        new = write_new(folder, earlier + 1)
        monkeypatch.setattr(os, "replace", cut_short)
        try:
            replace_backup(folder, *new)
        except PowerCutError:
            ended.append(cut)
        monkeypatch.setattr(os, "replace", replace)
        weight, epoch = restored(folder)
        assert weight == (epoch or 0)
        assert (epoch or 0) in (earlier, earlier + 1)
    # Five files are put in their places; after the last there is nothing to cut.
    assert ended == [0, 1, 2, 3, 4]
    assert restored(folder) == (earlier + 1, earlier + 1)


def test_a_backup_by_batches_is_refused():
    backup = keras.callbacks.BackupAndRestore("backup", save_freq=5)
    with pytest.raises(ValueError, match=r'save_freq="epoch".*Received: save_freq=5'):
        JobBackup(backup, cluster())


# -- several devices of one machine ----------------------------------------------------------------


def trained(strategy, examples, *, epochs=2, callbacks=()):
    keras.utils.clear_session()
    keras.utils.set_random_seed(2)
    with strategy.scope():
        distiller = keras_kd.Distiller(
            mlp("teacher"), mlp("student", kernel_regularizer="l2"), keras_kd.LogitsDistillation()
        )
        # Without moments, which would blow up last bits of a gradient near 0.
        distiller.compile(keras.optimizers.SGD(0.1), task_loss())
    x, y = vectors(examples)
    data = keras_kd.data.replayable(x, y, batch_size=8, seed=1)
    history = distiller.fit(data, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return history.history, snapshot(distiller)


@pytest.mark.filterwarnings("ignore:.*[Cc]ollective.*")
def test_an_uneven_last_batch_weighs_what_it_has_examples(two_devices):
    # 13 = 8 + 5: four examples on the first device, one on the second.
    one_logs, one = trained(tf.distribute.get_strategy(), 13)
    two_logs, two = trained(two_devices, 13)
    # Means over two parts instead of over the whole: some last bits (6e-8) a step, in four steps of
    # a smooth net at rate 0.1. The second device's example would weigh four times too much.
    assert_close(two, one, rtol=1e-4, atol=1e-5)
    for name, values in one_logs.items():
        np.testing.assert_allclose(two_logs[name], values, rtol=1e-4, err_msg=name)


class Interrupted(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise PowerCutError


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*[Cc]ollective.*")
def test_a_run_on_two_devices_goes_on_from_its_backup(two_devices, tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    logs, undisturbed = trained(two_devices, 16)
    with pytest.raises(PowerCutError):
        trained(two_devices, 16, callbacks=[backup(), Interrupted()])
    rest, resumed = trained(two_devices, 16, callbacks=[backup()])
    assert rest["loss"] == logs["loss"][1:]
    for name, value in undisturbed.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
