"""What commands share: arrays from `.npy` and `.npz` files, and how a command stops."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class CannotBeDoneError(Exception):
    """The reason for exit code 1."""


class BadUsageError(Exception):
    """The reason for exit code 2, where it shows only once the files are read."""


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` by their names; the one of an `.npy` as "x".

    Raises:
        CannotBeDoneError: There is no such file, or it holds no arrays of numbers.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as err:
        raise CannotBeDoneError(f"no file '{path}'") from err
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as err:
        raise CannotBeDoneError(f"'{path}' is no .npz or .npy of numbers: {err}") from err


def inputs_of(arrays: Mapping[str, np.ndarray], names: Sequence[str], path: Path, hint: str) -> Any:
    """The model's inputs among a file's arrays: by the inputs' names, as 'x', or the only one.

    Args:
        arrays: By name.
        names: Of the model's inputs.
        path: Of the file, for the message.
        hint: What else the person may do, for the message.

    Returns:
        An array for one input, else a dict by input name.

    Raises:
        CannotBeDoneError: They are not there.
    """
    if set(names) <= set(arrays):
        return {name: arrays[name] for name in names} if len(names) > 1 else arrays[names[0]]
    if len(names) == 1:
        if "x" in arrays:
            return arrays["x"]
        if len(arrays) == 1:
            return next(iter(arrays.values()))
    raise CannotBeDoneError(
        f"'{path}' has the arrays {', '.join(arrays)}; the model's inputs are {', '.join(names)} "
        f"({hint})"
    )


def stopped(command: str, reason: object, code: int) -> int:
    """Writes the reason as one line to stderr, and returns the exit code."""
    print(f"keras-kd {command}: {one_line(reason)}", file=sys.stderr)
    return code


def one_line(message: object) -> str:
    """A message without its line breaks."""
    return " ".join(str(message).split())
