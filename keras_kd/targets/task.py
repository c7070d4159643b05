"""The task of a writer: which teacher, which examples, in which form; and its shards."""

import math

import keras
import numpy as np

from keras_kd.data import EXAMPLE_INDEX
from keras_kd.targets import examples, shards
from keras_kd.targets.asking import OUTPUT_FORMS, asked, function_name
from keras_kd.targets.finish import INDEX, INDEX_RECORD, finish
from keras_kd.targets.manifest import INPUT_HASH, KEY, Manifest
from keras_kd.targets.progress import Progress


class Task:
    """A teacher, a dataset and the form in which its answers are stored; see `write`.

    Attributes:
        manifest: The `Manifest`, as far as it is known before the first shard.
        count: How many records there will be; None if the dataset does not tell.
    """

    def __init__(
        self,
        teacher,
        dataset,
        *,
        top_k,
        dtype,
        features,
        temperature,
        key,
        outputs,
        preprocessing,
        fingerprint,
        views,
        augment,
        seed,
        batch_size,
        shard_records,
    ):
        for name, value in (
            ("views", views),
            ("batch_size", batch_size),
            ("shard_records", shard_records),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected {name} to be a positive integer. Received: {value!r}")
        if outputs != "auto" and outputs not in OUTPUT_FORMS:
            raise ValueError(
                f"Expected outputs to be 'auto' or one of {list(OUTPUT_FORMS)}. "
                f"Received: {outputs!r}"
            )
        if views > 1 and augment is None:
            raise ValueError(f"Expected augment= with views={views}. Received: None")
        spec = examples.inputs_of(dataset.element_spec)
        example = examples.without_batch(spec) if examples.is_batched(spec) else spec
        if key is None:
            key = EXAMPLE_INDEX if isinstance(spec, dict) and EXAMPLE_INDEX in spec else ""
        inputs, _ = examples.split_key(example, key)
        self._reading = {
            "views": views,
            "augment": augment,
            "seed": seed,
            "batch_size": batch_size,
        }
        self._records = examples.records(dataset, key, **self._reading)
        self._first = first = _first(self._records)
        asked_teacher = asked(
            teacher,
            features=tuple(features),
            preprocessing=preprocessing,
            fingerprint=fingerprint,
        )
        few = keras.tree.map_structure(lambda t: t[:2], first["inputs"])
        answers = asked_teacher.answers(
            few, tuple(features), outputs, top_k=top_k, temperature=temperature, dtype=dtype
        )
        self._encode = asked_teacher.encoder(answers, self._records.element_spec["inputs"])
        whole = math.lcm(batch_size, views)
        count = int(dataset.cardinality())
        self.count = count * views if count >= 0 and not examples.is_batched(spec) else None
        self.manifest = Manifest(
            teacher=asked_teacher.name,
            fingerprint=asked_teacher.fingerprint,
            preprocessing=function_name(preprocessing),
            inputs=examples.inputs_spec(inputs),
            key=key,
            answers=answers,
            views=views,
            augment=function_name(augment),
            seed=seed,
            batch_size=batch_size,
            shard_records=-(-shard_records // whole) * whole,
        )

    def write(self, folder, *, progress=None):
        """Writes what is not there yet; see `write`.

        Args:
            folder: A `pathlib.Path`.
            progress: Whether to show it.

        Returns:
            The complete `Manifest`.
        """
        begun = begin(folder, self.manifest)
        if begun.complete:
            self.check_written(folder, begun)
            if all((folder / shards.shard_name(n)).exists() for n in range(len(begun.shards))):
                return begun
        unit = "answers" if self.manifest.views > 1 else "examples"
        with Progress(self.count, unit, shown=progress) as bar:
            for number, batches in enumerate(self.by_shard()):
                self.write_shard(folder, number, batches, bar)
        return finish(folder, self.manifest, number + 1)

    def by_shard(self):
        """Yields the batches of each shard, as an iterator that has to be used up."""
        per_shard = self.manifest.shard_records // self.manifest.batch_size
        iterator = iter(self._records)
        while (batch := next(iterator, None)) is not None:
            yield _shard_of(batch, iterator, per_shard)

    def batches_of(self, dataset):
        """Returns the batches of a shard.

        Args:
            dataset: The examples of that shard alone.
        """
        return examples.records(dataset, self.manifest.key, **self._reading)

    def write_shard(self, folder, number, batches, bar):
        """Writes a shard, or passes over one that is there already.

        Args:
            folder: A `pathlib.Path`.
            number: Of the shard.
            batches: Its batches.
            bar: A `Progress`.

        Raises:
            ValueError: If the one that is there was written for other inputs.
        """
        path = folder / shards.shard_name(number)
        record = self.manifest.record()
        try:
            there, _ = shards.read_records(path, record, verify=True)
        except (FileNotFoundError, shards.DamagedError):
            there = None
        start, made = 0, []
        for batch in batches:
            size = len(batch[KEY])
            if there is None:
                made.append(self._answered(batch, number * self.manifest.shard_records + start))
            else:
                _check_same_inputs(batch, there[start : start + size], path)
            start += size
            bar.add(size, found=there is not None)
        if there is None:
            shards.write_records(path, np.concatenate(made))
        elif len(there) != start:
            raise ValueError(
                f"Expected {len(there)} records for '{path}', which was begun earlier. Received a "
                f"dataset that has {start} there. Hint: another folder for another dataset."
            )

    def check_written(self, folder, complete):
        """Refuses answers that are complete, but to another dataset.

        Args:
            folder: A `pathlib.Path`.
            complete: The `Manifest` that is in it.

        Raises:
            ValueError: If the first batch is another, or there are not as many examples.
        """
        keys, _ = shards.read_records(folder / INDEX, INDEX_RECORD, verify=True)
        _check_same_inputs({KEY: self._first[KEY][:: complete.views]}, keys, folder / INDEX)
        if self.count not in (None, complete.records):
            raise ValueError(
                f"Expected {complete.records} records, as in '{folder}'. Received a dataset of "
                f"{self.count}. Hint: another folder for another dataset."
            )

    def _answered(self, batch, start):
        """Returns the records of a batch."""
        encoded = self._encode(batch["inputs"])
        found = np.empty(len(batch[KEY]), self.manifest.record())
        for name in found.dtype.names:
            values = np.asarray(batch[name] if name in batch else encoded[name])
            found[name] = values
            if found[name].dtype.kind == "f" and not np.isfinite(found[name]).all():
                rows = ~np.isfinite(found[name].reshape(len(found), -1)).all(axis=1)
                row = int(rows.argmax())
                raise ValueError(
                    f"Expected finite numbers in {self.manifest.answers.dtype}. Received NaN or "
                    f"infinity in '{name}' of example {(start + row) // self.manifest.views}, "
                    f"key {int(found[KEY][row])}. Hint: look at the teacher's input; "
                    "dtype='float32' holds numbers above 65504."
                )
        return found


def begin(folder, manifest):
    """Makes the folder, or sees that the one that is there belongs to the same task.

    Args:
        folder: A `pathlib.Path`.
        manifest: The `Manifest` of the task.

    Returns:
        The manifest that is in the folder then.

    Raises:
        ValueError: If it holds answers to another task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        begun = Manifest.read(folder)
    except FileNotFoundError:
        # The manifest is written first, so answers without one are nobody knows whose.
        others = sorted(entry.name for entry in folder.iterdir() if entry.name[0] != ".")
        if others:
            raise ValueError(
                f"Expected an empty folder, or one with stored answers and their manifest. "
                f"Received '{folder}', which holds {', '.join(others[:3])}. Hint: another path."
            ) from None
        manifest.write(folder)
        return manifest
    begun.check_same(manifest, folder)
    return begun


def _first(records):
    """Returns the first batch, if reading it twice gives the same.

    Raises:
        ValueError: If there is none, or the two differ.
    """
    first, again = (next(iter(records), None) for _ in range(2))
    if first is None:
        raise ValueError("Expected at least one example. Received a dataset without any.")
    differ = np.asarray(_hash_of(first)) != np.asarray(_hash_of(again))
    if differ.any():
        raise ValueError(
            "Expected a dataset that gives the same inputs each time it is read. Received another "
            f"example {int(differ.argmax())} the second time: it is shuffled or augmented at "
            "random, and its answers could not be joined to it again. Hint: write before "
            "shuffling; augment= and views= store the seed of each view."
        )
    return first


def _hash_of(batch):
    return batch.get(INPUT_HASH, batch[KEY])


def _shard_of(batch, iterator, count):
    yield batch
    for _ in range(count - 1):
        batch = next(iterator, None)
        if batch is None:
            return
        yield batch


def _check_same_inputs(batch, there, path):
    """Refuses to go on behind a shard that was written for other inputs."""
    for name in (KEY, INPUT_HASH):
        if name not in batch or name not in there.dtype.names:
            continue
        found = np.asarray(batch[name])[: len(there)]
        differ = found != there[name][: len(found)]
        if differ.any():
            row = int(differ.argmax())
            raise ValueError(
                "Expected the dataset that the answers were begun with. Received another example "
                f"than the one of key {int(there[KEY][row])} in '{path}'. Hint: another folder for "
                "another dataset."
            )
