"""Closes a folder of stored answers: its index, and the manifest that says it is complete."""

import dataclasses

import numpy as np

from keras_kd.targets import shards
from keras_kd.targets.manifest import KEY

INDEX = "index.npy"
INDEX_RECORD = np.dtype([(KEY, "<i8")])


def finish(folder, manifest, count):
    """Writes the index, and the manifest with the checksum of every shard.

    Args:
        folder: A `pathlib.Path` with all shards.
        manifest: The `Manifest` of the task.
        count: How many shards there are.

    Returns:
        The complete `Manifest`.

    Raises:
        ValueError: If two examples have one key, or a shard is missing or damaged.
    """
    record, keys, digests = manifest.record(), [], []
    more = folder / shards.shard_name(count)
    if more.exists():
        raise ValueError(
            f"Expected {count} shards in '{folder}'. Received more: '{more.name}', of another "
            "dataset. Hint: another folder for another dataset."
        )
    for number in range(count):
        # Their checksums were computed when they were written or passed over.
        there, digest = shards.read_records(
            folder / shards.shard_name(number), record, verify=False, mapped=True
        )
        if number < count - 1 and len(there) != manifest.shard_records:
            raise ValueError(
                f"Expected {manifest.shard_records} records in '{shards.shard_name(number)}'. "
                f"Received: {len(there)}."
            )
        keys.append(np.array(there[KEY]))
        digests.append(digest)
    found = np.concatenate(keys)[:: manifest.views]
    _check_keys(found, manifest)
    index = shards.write_records(folder / INDEX, found.view(INDEX_RECORD))
    complete = dataclasses.replace(
        manifest,
        records=sum(len(entry) for entry in keys),
        shards=tuple(digests),
        index=index,
    )
    complete.write(folder)
    shards.remove_parts(folder)
    return complete


def _check_keys(keys, manifest):
    """Refuses a key that stands for two examples; equal inputs may have one hash."""
    if not manifest.key:
        return
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if same.size:
        first, second = int(order[same[0]]), int(order[same[0] + 1])
        raise ValueError(
            f"Expected an entry '{manifest.key}' that tells examples apart. Received the same for "
            f"examples {first} and {second}. Hint: key='...' names another, and "
            "keras_kd.data.with_index(x) numbers them."
        )
