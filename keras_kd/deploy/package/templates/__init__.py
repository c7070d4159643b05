"""Files that are filled in and handed over: `@{name}` stands for a value."""

from __future__ import annotations

import functools
import importlib.resources
import string
from collections.abc import Mapping


class _Template(string.Template):
    """`@{name}`, since `$` and `%` mean something in CMake, shells and C++."""

    delimiter = "@"


def filled(name: str, values: Mapping[str, object]) -> str:
    """The file `name` of this folder with every `@{...}` replaced.

    Args:
        name: Its path in this folder, with "/".
        values: What each name stands for.

    Raises:
        KeyError: A name in the file that has no value.
    """
    return _Template(text(name)).substitute(values)


@functools.cache
def text(name: str) -> str:
    """The file `name` of this folder as it is."""
    return importlib.resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
