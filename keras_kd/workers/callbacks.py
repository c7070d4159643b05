"""Callbacks that write: on a job the chief writes for all."""

import io
import json
import os
import pathlib
import shutil
import tempfile
import zipfile

import keras

from keras_kd.workers.job import bytes_of_chief, is_chief

# The names that `keras.callbacks.BackupAndRestore` reads, so that a single process can go on from
# the backup of a job, and a job from that of a single process.
WEIGHTS, METADATA = "latest.weights.h5", "training_metadata.json"


def for_worker(callbacks, strategy):
    """Returns `fit`'s callbacks as this worker needs them.

    Args:
        callbacks: What `fit` got as `callbacks`.
        strategy: The job's strategy.

    Returns:
        A list, in which a `BackupAndRestore` is one of the whole job. A `ModelCheckpoint` is the
        chief's alone: the weights are the same everywhere, and on a shared disk two workers would
        write one file at once.

    Raises:
        ValueError: If a `BackupAndRestore` does not save by the epoch.
    """
    chief = is_chief(strategy)
    given = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or [])
    return [
        JobBackup(entry, strategy) if isinstance(entry, keras.callbacks.BackupAndRestore) else entry
        for entry in given
        if chief or not isinstance(entry, keras.callbacks.ModelCheckpoint)
    ]


class JobBackup(keras.callbacks.Callback):
    """Keras's `BackupAndRestore` for several workers, which must never resume at two epochs.

    The chief's folder alone counts. It is sent to the others at the start, so no disk has to be
    shared. Keras's own callback writes weights and epoch one after the other; what is written here
    is whole at every moment, for that callback too.

    Args:
        backup: The `keras.callbacks.BackupAndRestore` that `fit` got.
        strategy: The job's strategy.

    Raises:
        ValueError: If it does not save by the epoch.
    """

    def __init__(self, backup, strategy):
        super().__init__()
        if backup.save_freq != "epoch":
            raise ValueError(
                'Expected BackupAndRestore(save_freq="epoch") with several workers. Received: '
                f"save_freq={backup.save_freq!r}. Hint: a resumed run begins with a whole epoch, "
                "so weights of the middle of one would see some batches twice."
            )
        self._backup = backup
        self._folder = pathlib.Path(backup.backup_dir)
        self._strategy = strategy
        self._chief = is_chief(strategy)

    def on_train_begin(self, logs=None):
        """Brings every worker to where the chief's backup ends."""
        content = bytes_of_chief(self._strategy, _packed(self._folder) if self._chief else b"")
        if self._chief:
            # In its own folder, as this puts what can be read in the place of what cannot.
            self._restore(self._backup)
            return
        with tempfile.TemporaryDirectory() as folder:
            zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
            self._restore(keras.callbacks.BackupAndRestore(folder))

    def _restore(self, backup):
        backup.set_model(self.model)
        backup.on_train_begin()

    def on_epoch_end(self, epoch, logs=None):
        """Writes the chief's backup."""
        if not self._chief:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        new_weights, new_metadata = (self._folder / f"new.{name}" for name in (WEIGHTS, METADATA))
        self.model.save_weights(new_weights, overwrite=True)
        new_metadata.write_text(json.dumps({"epoch": epoch + 1, "batch": 0}))
        replace_backup(self._folder, new_weights, new_metadata)

    def on_train_end(self, logs=None):
        """Deletes the chief's backup, if it was to be deleted."""
        if self._chief:
            self._backup.on_train_end()


def replace_backup(folder, new_weights, new_metadata):
    """Puts a new backup in the place of the old one, so that a crash leaves one of them whole.

    Keras's reader takes the `.bkp` pair when the weights cannot be read. So a whole pair stands
    there first; then weights that cannot be read stand beside the old epoch and the new, until the
    new ones take their place.

    Args:
        folder: A `pathlib.Path`.
        new_weights: A file of weights in that folder.
        new_metadata: A file with the epoch in that folder.
    """
    weights, metadata = folder / WEIGHTS, folder / METADATA
    whole = (weights, metadata) if weights.exists() else (new_weights, new_metadata)
    for path, name in zip(whole, (WEIGHTS, METADATA), strict=True):
        kept = shutil.copyfile(path, folder / f"kept.{name}")
        os.replace(kept, folder / f"{name}.bkp")
    unreadable = folder / "unreadable"
    unreadable.write_bytes(b"")
    os.replace(unreadable, weights)
    os.replace(new_metadata, metadata)
    os.replace(new_weights, weights)


def _backup_files(folder):
    names = [name + suffix for name in (WEIGHTS, METADATA) for suffix in ("", ".bkp")]
    return [folder / name for name in names if (folder / name).exists()]


def _packed(folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in _backup_files(folder):
            archive.write(path, path.name)
    return buffer.getvalue()
