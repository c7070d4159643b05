"""Reads stored answers by key."""

import pathlib

import numpy as np

from keras_kd.targets import shards
from keras_kd.targets.finish import INDEX, INDEX_RECORD
from keras_kd.targets.manifest import INPUT_HASH, KEY, Manifest

# Up to here the answers are kept in memory, beyond they are mapped: a batch of 256 from one array
# takes 20 microseconds, from a hundred mapped files a hundred times as long.
IN_MEMORY_BYTES = 2**30


class Stored:
    """The answers in a folder.

    A plain object that holds arrays; reading is safe from several threads.

    Args:
        path: The folder that `write` wrote.
        verify: Whether to compute the checksum of every shard.
        in_memory_bytes: Up to what size the answers are kept in memory.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If they are incomplete, or a file is not the one that was written.
    """

    def __init__(self, path, *, verify=True, in_memory_bytes=IN_MEMORY_BYTES):
        folder = pathlib.Path(path)
        self.path = folder
        self.manifest = manifest = complete_manifest(folder)
        keys, digest = shards.read_records(folder / INDEX, INDEX_RECORD, verify=verify)
        _check_digest(folder / INDEX, digest, manifest.index)
        self._keys = keys[KEY]
        self._order = np.argsort(self._keys, kind="stable")
        self._sorted = self._keys[self._order]
        record = manifest.record()
        mapped = manifest.records * record.itemsize > in_memory_bytes
        parts = []
        for number, expected in enumerate(manifest.shards):
            file = folder / shards.shard_name(number)
            if not file.exists():
                raise shards.DamagedError(
                    f"Expected {len(manifest.shards)} shards in '{folder}'. Received none of name "
                    f"'{file.name}'. Hint: the same call of targets.write writes it again."
                )
            part, digest = shards.read_records(file, record, verify=verify, mapped=mapped)
            _check_digest(file, digest, expected)
            parts.append(part)
        self._parts = parts if mapped else [np.concatenate(parts)]
        self._per_part = manifest.shard_records if mapped else manifest.records

    @property
    def keys(self):
        """The key of each example, in the order of writing; int64 of shape [examples]."""
        return self._keys

    def __len__(self):
        return len(self._keys)

    def read(self, keys, hashes=None, *, view=0):
        """Returns the records of examples.

        Args:
            keys: int64, shape [batch].
            hashes: None, or the hash of each input, int64 of shape [batch], to be compared.
            view: Which of their views.

        Returns:
            A structured array of shape [batch].

        Raises:
            ValueError: If there is none for a key, or it is one of another input.
        """
        keys = np.asarray(keys)
        places = np.searchsorted(self._sorted, keys)
        places = np.minimum(places, len(self._sorted) - 1)
        missing = self._sorted[places] != keys
        if missing.any():
            raise ValueError(self._unknown(int(missing.argmax()), keys, int(missing.sum())))
        found = self._take(self._order[places] * self.manifest.views + view)
        if hashes is not None:
            differ = found[INPUT_HASH] != hashes
            if differ.any():
                raise ValueError(self._other_input(int(differ.argmax()), keys, int(differ.sum())))
        return found

    def _take(self, rows):
        if len(self._parts) == 1:
            return self._parts[0][rows]
        found = np.empty(len(rows), self._parts[0].dtype)
        numbers, offsets = np.divmod(rows, self._per_part)
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self._parts[number][offsets[here]]
        return found

    def _unknown(self, row, keys, count):
        name = self.manifest.key
        what = f"'{name}' {int(keys[row])}" if name else f"inputs of hash {int(keys[row])}"
        hint = (
            "the answers were written for other examples."
            if name
            else "the inputs must be byte for byte those that the answers were written for: "
            "before any augmentation, and scaled alike."
        )
        return (
            f"Expected answers to every example in '{self.path}'. Received none for example {row} "
            f"of {len(keys)} that were read together, {what}; {count} have none. Hint: {hint}"
        )

    def _other_input(self, row, keys, count):
        hint = (
            "augment= must be the function that they were written with."
            if self.manifest.augment
            else "the data has changed, or is augmented before the answers are attached."
        )
        return (
            f"Expected the inputs that '{self.path}' was written for. Received another for example "
            f"{row} of {len(keys)} that were read together, key {int(keys[row])}; {count} differ. "
            f"Hint: {hint}"
        )


def complete_manifest(folder):
    """Returns the manifest of answers that are all there.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If they are incomplete.
    """
    try:
        manifest = Manifest.read(folder)
    except FileNotFoundError as err:
        raise FileNotFoundError(
            f"Expected stored answers. Received: '{folder}', which has no manifest.json. Hint: "
            "keras_kd.targets.write(teacher, dataset, path) writes them."
        ) from err
    if not manifest.complete:
        raise ValueError(
            f"Expected complete answers. Received: '{folder}', whose writing was interrupted. "
            "Hint: the same call of targets.write goes on where it was."
        )
    return manifest


def _check_digest(path, found, expected):
    if found != expected:
        raise shards.DamagedError(
            f"Expected the file that the manifest names, of SHA-256 {expected[:12]}. Received: "
            f"'{path}' of {found[:12]}. Hint: it comes from another folder."
        )
