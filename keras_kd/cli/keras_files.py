"""Keras models out of files that a person names on the command line."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from keras_kd.cli.arrays import CannotBeDoneError

if TYPE_CHECKING:
    import keras


def load_keras(path: Path, *, trust: bool = False) -> keras.Model:
    """The Keras model in a file, without what it was compiled with.

    Args:
        path: A `.keras` archive, or an older `.h5`.
        trust: Whether to run code that the file holds, such as a Lambda layer's.

    Raises:
        CannotBeDoneError: There is no such file, or no model of Keras in it.
    """
    import keras

    # Registers the package's own classes with Keras, which the file may hold.
    from keras_kd import Distiller as Distiller
    from keras_kd import quantization as quantization

    if not path.is_file():
        raise CannotBeDoneError(f"no file '{path}'")
    if path.suffix == ".keras" and not _is_archive(path):
        raise CannotBeDoneError(f"'{path}' is no Keras model: not a .keras archive")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except (OSError, ValueError, TypeError, KeyError, ImportError, zipfile.BadZipFile) as err:
        hint = " (--trust loads it, if you trust its source)" * ("unsafe" in str(err).lower())
        raise CannotBeDoneError(f"'{path}' cannot be loaded as a Keras model{hint}: {err}") from err
    if not isinstance(model, keras.Model):
        raise CannotBeDoneError(f"'{path}' holds a {type(model).__name__}, no Keras model")
    return model


def input_names(model: keras.Model) -> list[str]:
    """The names of its inputs, as arrays in a file are called."""
    from keras_kd.deploy.saved_model import student_inputs

    return [spec.key for spec in student_inputs(model).specs]


def start_tensorflow() -> None:
    """Makes TensorFlow look for its devices now, without what it says when it finds none."""
    from keras_kd.deploy.stderr_capture import CHATTER, captured_stderr

    with captured_stderr(CHATTER):
        import keras

        keras.ops.zeros(1)


def _is_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {"config.json", "metadata.json"} <= set(archive.namelist())
