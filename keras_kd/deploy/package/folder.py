"""A folder that is handed over: written whole beside its place, and then put there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from keras_kd.deploy.artifact import write_atomically

MANIFEST = "manifest.json"


def check_free(folder: str | os.PathLike, *, force: bool) -> None:
    """Raises where a package could not be written to `folder`.

    Raises:
        ValueError: Something else is there: a file, or without `force` a folder that is not empty.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Expected a folder to write to. Received: the file '{folder}'.")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"Expected a folder that is new or empty. Received: '{folder}', which is not. "
            "Hint: another one, or --force (force=True) to replace the files of an earlier package "
            "in it; other files stay."
        )


def write_folder(
    folder: str | os.PathLike, files: Mapping[str, bytes], *, force: bool = False
) -> tuple[Path, ...]:
    """Writes files and, of an earlier package there, removes what is no longer one of them.

    All are written beside the folder first, so that what a full disk or a crash leaves is the old
    folder, whole. What is in the folder beside them stays.

    Args:
        folder: Where to; made with its parents if it is not there.
        files: Contents by path in the folder, with "/"; `manifest.json` names them all.
        force: Whether a folder that is not empty will do.

    Returns:
        The paths of the files.

    Raises:
        ValueError: See `check_free`.
        OSError: It cannot be written.
    """
    check_free(folder, force=force)
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    earlier = _earlier(folder)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        for name, content in files.items():
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(beside / name, content)
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(beside / name, folder / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for name in earlier - set(files):
        (folder / name).unlink(missing_ok=True)
    return tuple(folder / name for name in files)


def _earlier(folder: Path) -> set[str]:
    """The files that an earlier package's manifest names, none of them outside the folder."""
    try:
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    if not isinstance(names, list):
        return set()
    real = folder.resolve()
    return {
        name
        for name in names
        if isinstance(name, str)
        and (real / name).resolve().is_relative_to(real)
        and (folder / name).is_file()
    }
