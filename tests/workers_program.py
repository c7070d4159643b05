"""What each worker of a job runs, and how a test starts the job.

As a program, `python workers_program.py SCENARIO FOLDER`, with TF_CONFIG set: it writes logs and
weights into the folder, as `<scenario>-<worker>.npz`.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

if __name__ == "__main__":
    # Each worker is one of several on this machine, and TensorFlow would take all of its cores.
    os.environ |= {
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_NUM_INTRAOP_THREADS": "1",
    }
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import keras_kd
from keras_kd.losses.relation import ContrastiveRepresentation, SimilarityPreserving
from keras_kd.losses.response import ProgressiveSelfDistillation
from tests.models import IMAGE, conv_net, images, mlp, task_loss, vectors

WORKERS = 2
EPOCHS = 3
ROOT = pathlib.Path(__file__).resolve().parent.parent


# -- what is trained -------------------------------------------------------------------------------


def distiller_of(strategy, losses=None, *, teacher=None, student=None, optimizer=None, **options):
    """The same models on every worker, whatever ran before."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(2)
    execution = options.pop("steps_per_execution", 1)
    with strategy.scope():
        distiller = keras_kd.Distiller(
            teacher() if teacher else mlp("teacher"),
            student() if student else mlp("student"),
            losses() if losses else keras_kd.LogitsDistillation(2.0),
            student_loss_weight=0.3,
            teacher_agreement=True,
            **options,
        )
        distiller.compile(
            # Without moments, which would blow up last bits of a gradient near 0.
            optimizer() if optimizer else keras.optimizers.SGD(0.1),
            task_loss(),
            metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
            steps_per_execution=execution,
        )
    return distiller


def normed_net():
    inputs = keras.Input(IMAGE)
    x = keras.layers.Conv2D(3, 3, padding="same", name="map", kernel_regularizer="l2")(inputs)
    x = keras.layers.BatchNormalization(synchronized=True, momentum=0.5)(x)
    x = keras.layers.GlobalAveragePooling2D()(ops.tanh(x))
    return keras.Model(inputs, keras.layers.Dense(4)(x), name="student")


def logs_of(history):
    return {f"log {name}": np.array(values) for name, values in history.history.items()}


def state_of(distiller):
    return {f"weight {i}": np.array(w) for i, w in enumerate(distiller.get_weights())}


# -- the scenarios: what they return has to be the same on all workers -----------------------------


def images_and_statistics(strategy, folder):
    """Feature loss, projector, regularizer, synchronized norm, weights, even batches."""
    distiller = distiller_of(
        strategy,
        lambda: [
            keras_kd.LogitsDistillation(keras_kd.schedules.Linear(4.0, 2.0, 4)),
            keras_kd.FeatureDistillation("mse", "map", "map"),
        ],
        teacher=lambda: conv_net("teacher", 5),
        student=normed_net,
    )
    x, y = images(24)
    weights = np.linspace(0, 2, 24).astype("float32")
    history = distiller.fit(
        x, y, sample_weight=weights, batch_size=8, shuffle=False, verbose=0, validation_split=0.25
    )
    return logs_of(history) | state_of(distiller)


def uneven(strategy, folder):
    """Last batches of 3 and of 1, so that a worker has none; several batches an execution."""
    distiller = distiller_of(strategy, steps_per_execution=2)
    x, y = vectors(19)
    history = distiller.fit(
        x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, validation_data=(x[:9], y[:9])
    )
    logs = distiller.evaluate(x[:17], y[:17], batch_size=8, verbose=0, return_dict=True)
    return logs_of(history) | state_of(distiller) | {f"evaluated {n}": logs[n] for n in logs}


def replayed(strategy, folder):
    """Replayable data, made in the scope as well as outside of it, and class weights."""
    x, y = vectors(20)
    with strategy.scope():
        data = keras_kd.data.replayable(x, y, batch_size=8, seed=3)
    distiller = distiller_of(strategy)
    history = distiller.fit(data, epochs=2, verbose=0)
    data = keras_kd.data.replayable(x, y, batch_size=8, seed=3)
    weights = {0: 0.5, 1: 2.0, 2: 0.0, 3: 1.0}
    distiller.fit(data, epochs=3, initial_epoch=2, verbose=0, class_weight=weights)
    return logs_of(history) | state_of(distiller)


def of_files(strategy, folder):
    """A file for each worker, by TensorFlow's own sharding; OFF with the same data gives this."""
    policies = tf.data.experimental.AutoShardPolicy
    results = {}
    for policy in (policies.FILE, policies.OFF):
        distiller = distiller_of(strategy)
        history = distiller.fit(data_by_file(strategy, folder, policy), shuffle=False, verbose=0)
        found = logs_of(history) | state_of(distiller)
        results |= {f"{policy.name} {name}": value for name, value in found.items()}
    return results


def data_by_file(strategy, folder, policy):
    """Half of the lines in each of two files; one process reads line by line from both."""
    x, y = vectors(16)
    lines = [" ".join(map(repr, [*map(float, row), float(k)])) for row, k in zip(x, y, strict=True)]
    halves = lines[::2], lines[1::2]
    mine = 0
    if workers_of(strategy) > 1:
        mine = strategy.cluster_resolver.task_id
    names = [folder / f"lines-{mine}-{half}.txt" for half in (0, 1)]
    for name, half in zip(names, halves, strict=True):
        name.write_text("\n".join(half) + "\n")
    if workers_of(strategy) == 1:
        data = tf.data.Dataset.from_tensor_slices(lines)
    elif policy is tf.data.experimental.AutoShardPolicy.FILE:
        data = tf.data.TextLineDataset([str(name) for name in names])
    else:
        data = tf.data.Dataset.from_tensor_slices(halves[mine])

    def parsed(line):
        numbers = tf.strings.to_number(tf.strings.split(line))
        numbers = tf.ensure_shape(numbers, [x.shape[1] + 1])
        return numbers[:-1], tf.cast(numbers[-1], "int64")

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy
    return data.map(parsed).batch(8).with_options(options)


def workers_of(strategy):
    return strategy.num_replicas_in_sync


def remembered(strategy, folder):
    """A prediction of every example, which the worker makes that has the example."""
    x, y = vectors(16)
    distiller = distiller_of(strategy, lambda: ProgressiveSelfDistillation(examples=16))
    x = keras_kd.data.with_index(x)
    history = distiller.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return logs_of(history) | state_of(distiller)


def banked(strategy, folder):
    """CRD's banks, whose negatives each worker draws, so that they are no single process's."""
    x, y = vectors(16)
    distiller = distiller_of(strategy, lambda: ContrastiveRepresentation(16, negatives=4, dim=5))
    (memory,) = distiller.projectors
    before = memory.student_bank.numpy()
    x = keras_kd.data.with_index(x)
    history = distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    after = memory.student_bank.numpy()
    moved = np.abs(after - before).max(axis=-1) > 0
    lengths = np.linalg.norm(after, axis=-1)
    return {"moved": moved, "lengths": lengths} | logs_of(history) | state_of(distiller)


def compared(strategy, folder):
    """A loss over pairs of examples: of those that a worker has."""
    distiller = distiller_of(strategy, lambda: SimilarityPreserving())
    x, y = vectors(16)
    history = distiller.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return logs_of(history) | state_of(distiller)


class Noting(keras.callbacks.Callback):
    """Notes what callbacks are told after a batch."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))


def called_back(strategy, folder):
    """Callbacks that decide and write."""
    distiller = distiller_of(strategy)
    x, y = vectors(16)
    noting = Noting()
    file = folder / f"checkpoint-{strategy.cluster_resolver.task_id}.weights.h5"
    history = distiller.fit(
        x,
        y,
        batch_size=8,
        epochs=9,
        shuffle=False,
        verbose=0,
        callbacks=[
            noting,
            keras.callbacks.ModelCheckpoint(file, save_weights_only=True),
            keras.callbacks.EarlyStopping("loss", min_delta=9.0, patience=1),
        ],
    )
    return logs_of(history) | {"losses": np.array(noting.losses)}


class Spoil(keras.layers.Layer):
    """Gives NaN for rows that begin with a large number."""

    def call(self, inputs):
        return ops.where(inputs[:, :1] > 50.0, np.nan, inputs)


def refused(strategy, folder):
    """Labels that one worker alone finds wrong, and a teacher that is not finite later on."""
    x, y = vectors(16)
    mine = strategy.cluster_resolver.task_id
    wrong = np.full_like(y, 9) if mine == 1 else y
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    data = tf.data.Dataset.from_tensor_slices((x, wrong)).batch(8).with_options(options)
    distiller = distiller_of(strategy)
    try:
        distiller.fit(data, shuffle=False, verbose=0)
    except (ValueError, RuntimeError) as err:
        (folder / f"refused-{mine}.txt").write_text(f"{type(err).__name__}: {err}")
    outside = keras.metrics.SparseCategoricalAccuracy()
    with strategy.scope():
        distiller.compile("sgd", task_loss(), metrics=[outside])
    try:
        distiller.fit(x, y, verbose=0)
    except ValueError as err:
        (folder / f"outside-{mine}.txt").write_text(str(err))
    distiller = distiller_of(strategy, teacher=lambda: mlp("teacher", first=Spoil()))
    x[15] = 99.0  # In the second batch, on the second worker.
    try:
        distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    except ValueError as err:
        return {"message": np.array(str(err))}
    return {}


def backed_up(strategy, folder):
    """Dropout, Adam, replayable data; a worker is killed in the middle where the folder says so."""
    x, y = vectors(20)
    data = keras_kd.data.replayable(x, y, batch_size=8, seed=3)
    distiller = distiller_of(
        strategy,
        student=lambda: mlp("student", first=keras.layers.Dropout(0.3)),
        optimizer=lambda: keras.optimizers.Adam(0.01),
    )
    # On a disk of its own: only the chief's counts.
    mine = strategy.cluster_resolver.task_id
    backup = keras.callbacks.BackupAndRestore(folder / f"backup-{mine}", delete_checkpoint=False)
    history = distiller.fit(
        data, epochs=EPOCHS, verbose=0, callbacks=[backup, KillOnce(folder / f"kill-{mine}")]
    )
    # What differs on purpose: a worker that was started again has seen fewer epochs.
    logs = {name: values[-1:] for name, values in logs_of(history).items()}
    return logs | state_of(distiller) | {"epochs": np.array(history.epoch)}


class KillOnce(keras.callbacks.Callback):
    """Ends the process as a crash does, in the middle of the second epoch, if a file is there."""

    def __init__(self, file):
        super().__init__()
        self._file = file

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == (1, 0) and self._file.exists():
            self._file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


SCENARIOS = {
    function.__name__: function
    for function in (
        images_and_statistics,
        uneven,
        replayed,
        of_files,
        remembered,
        banked,
        compared,
        called_back,
        refused,
        backed_up,
    )
}


# -- a job -----------------------------------------------------------------------------------------


def start(folder, *scenarios):
    """Starts the workers of a job; returns their processes."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(WORKERS)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    return [_start_one(folder, scenarios, workers, index) for index in range(WORKERS)]


def _start_one(folder, scenarios, workers, index):
    config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
    with open(folder / f"worker-{index}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, __file__, str(folder), *scenarios],
            env=os.environ | {"TF_CONFIG": json.dumps(config)},
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait(processes, folder, timeout_s):
    """Returns how the processes ended; after the time ends them and fails.

    Args:
        processes: What `start` returned.
        folder: Where their logs are.
        timeout_s: Seconds.
    """
    end = time.monotonic() + timeout_s
    try:
        return [process.wait(max(0.0, end - time.monotonic())) for process in processes]
    except subprocess.TimeoutExpired as err:
        raise AssertionError(f"A worker hangs.\n{text_of_logs(folder)}") from err
    finally:
        for process in processes:
            process.kill()
            process.wait()


def text_of_logs(folder):
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("worker-*.log")))


def results_of(folder, scenario):
    """Returns what each worker wrote, a dict of arrays each."""
    files = [folder / f"{scenario}-{index}.npz" for index in range(WORKERS)]
    return [dict(np.load(file)) for file in files]


def main(folder, *scenarios):
    # Before anything else of TensorFlow, which connects the workers.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    for scenario in scenarios:
        found = SCENARIOS[scenario](strategy, pathlib.Path(folder))
        index = strategy.cluster_resolver.task_id
        np.savez(pathlib.Path(folder) / f"{scenario}-{index}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
