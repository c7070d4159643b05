"""What the examples' runs are made of: data in splits, training, and what is done only once."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# TensorFlow reads it when it is imported, so the examples import this module first.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_kd


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples, shape [count, ...], of pictures uint8; and their labels, shape [count]."""

    x: np.ndarray
    y: np.ndarray

    def scaled(self) -> np.ndarray:
        """The pictures as float32 in 0..1."""
        return self.x.astype(np.float32) / 255.0


@dataclasses.dataclass(frozen=True)
class Data:
    """The splits, of which one may not be there, and the names of the classes."""

    train: Split
    validation: Split | None
    test: Split
    class_names: Sequence[str] = ()


@contextlib.contextmanager
def installed_with(extras: str) -> Iterator[None]:
    """Around the use of what comes with extras of keras-kd.

    Raises:
        SystemExit: It is not installed; the message says what to install.
    """
    try:
        yield
    except ImportError as err:
        raise SystemExit(f'{err}. Hint: pip install "keras-kd[{extras}]"') from err


def load(name: str, data_dir: str | None, *, hold_out: bool = True) -> Data:
    """Pictures from tensorflow-datasets, which downloads them where `data_dir` has none.

    Args:
        name: Of the dataset.
        data_dir: A folder of tensorflow-datasets; None for its own.
        hold_out: Whether the last tenth of the train split is the validation split; else there is
            none.
    """
    names = {"train": "train", "test": "test"}
    if hold_out:
        names |= {"train": "train[:90%]", "validation": "train[90%:]"}
    with installed_with("data,demo"):
        import tensorflow_datasets as tfds

        # It imports more while it loads.
        found, info = tfds.load(
            name, split=names, data_dir=data_dir, batch_size=-1, as_supervised=True, with_info=True
        )
    splits = {key: Split(*arrays) for key, arrays in tfds.as_numpy(found).items()}
    classes = info.features["label"].names
    return Data(splits["train"], splits.get("validation"), splits["test"], classes)


# Training


def steps_of(count: int, batch_size: int) -> int:
    """The batches of an epoch, the last of which may be smaller."""
    return -(-count // batch_size)


def warmed_up(
    rate: float, *, steps: int, epochs: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """From a tenth of `rate` up to it in the first epoch of `steps`, then a cosine down to 1 %."""
    return keras.optimizers.schedules.CosineDecay(
        rate / 10,
        decay_steps=max(steps * (epochs - 1), 1),
        alpha=0.01,
        warmup_target=rate,
        warmup_steps=steps,
    )


def fit(
    model: Any,
    x: Any,
    y: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    augment: Callable[[Any, Any], Any] | None = None,
    library: Any = keras,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> None:
    """Fit a compiled model, a plain one or a distiller, on replayable data.

    Args:
        model: Of Keras 3, or of tf_keras.
        x: As `keras_kd.data.replayable` takes them.
        y: Labels, shape [count].
        epochs: How many.
        batch_size: Examples a batch.
        seed: The same seed gives the same batches in the same order, augmented alike.
        augment: None, or a function of a batch and a seed.
        library: The Keras that the model is of.
        callbacks: Of the same.
        **options: What else `model.fit` is to be told.
    """
    batches = keras_kd.data.replayable(x, y, batch_size=batch_size, seed=seed, augment=augment)
    # A keras_kd.Distiller does this by itself; any other model has to be told.
    tell_epoch = library.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.epoch.assign(epoch)
    )
    model.fit(batches, epochs=epochs, shuffle=False, callbacks=[tell_epoch, *callbacks], **options)


def read_log(path: Path) -> list[dict[str, float]]:
    """The logs of a training, one dictionary an epoch; none where there is no file.

    A training that was stopped in an epoch has done it twice, of which the later row counts.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = {row["epoch"]: row for row in csv.DictReader(file)}
    return [{name: float(value) for name, value in row.items()} for row in rows.values()]


# What is done once: what is finished is read from its file


def write(path: Path, content: str) -> None:
    """Write beside and rename, so that a file that is there is whole."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(content)
    beside.replace(path)


def once(path: Path, make: Callable[..., Any], *arguments: Any) -> Any:
    """The JSON values in `path`; made of `arguments` and written there if it is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(make(*arguments)))
    return json.loads(path.read_text())


def finished(folder: Path, name: str, make: Callable[[], keras.Model]) -> keras.Model:
    """The model `folder/name.keras`; made and saved there if it is not there yet."""
    path = folder / f"{name}.keras"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = make()
        beside = folder / f".{name}.part.keras"
        model.save(beside)
        beside.replace(path)
    return keras.models.load_model(path)


def same_settings_as_before(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder that was begun with other settings, which `path` keeps.

    Raises:
        ValueError: If `path` holds others.
    """
    before = once(path, dict, settings)
    if before != settings:
        raise ValueError(
            f"Expected a folder begun with these settings, {settings}. Received: {path.parent}, "
            f"begun with {before}. Hint: another --output."
        )
