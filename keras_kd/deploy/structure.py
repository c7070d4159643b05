"""Values for a model's inputs, given as one array, a dict by name or a list; no TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def signature_name(key: Any) -> str:
    """A name that a TensorFlow signature takes: letters, digits and underscores."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", str(key))
    return name if name[:1].isalpha() else f"input_{name}"


def values_by_input(x: Any, names: Sequence[str], *, rank: int, what: str) -> list[Any]:
    """One value for each input, in the order of `names`.

    Args:
        x: One value, a dict by input name, or a list or tuple in the inputs' order.
        names: The inputs' names. Keys match if they are the same as signature names.
        rank: Dimensions of the first input, the batch's among them; with one input it tells a list
            that holds an array from a list of numbers.
        what: How an error calls `x`.

    Raises:
        ValueError: The names or the number of values do not fit.
    """
    if isinstance(x, Mapping):
        given = {signature_name(key): value for key, value in x.items()}
        wanted = [signature_name(name) for name in names]
        if sorted(given) != sorted(wanted):
            raise ValueError(
                f"Expected {what} for the inputs {list(names)}. Received: {list(x)}. "
                "Hint: every input by its name, and nothing else."
            )
        return [given[name] for name in wanted]
    if isinstance(x, list | tuple):
        holds_arrays = all(_rank(value) >= rank for value in x)
        if len(x) == len(names) and (len(names) > 1 or holds_arrays):
            return list(x)
        if len(names) == 1 and isinstance(x, list) and not holds_arrays:
            return [x]  # Nested lists of numbers, or a list of examples.
        raise ValueError(
            f"Expected {what} with {len(names)} array{'s' * (len(names) > 1)}, for {list(names)}. "
            f"Received: a {type(x).__name__} of {len(x)}. Hint: without labels; a list of "
            "examples is stacked first: np.stack(examples)."
        )
    if len(names) != 1:
        raise ValueError(
            f"Expected {what} as a dict or list, for the inputs {list(names)}. "
            f"Received: one {type(x).__name__}."
        )
    return [x]


def _rank(value: Any) -> int:
    shape = getattr(value, "shape", None)
    return len(shape) if shape is not None else np.ndim(value)
