"""Calibration examples for an integer scheme: gathered from arrays or datasets, and checked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd.deploy.saved_model import InputSpec
from keras_kd.deploy.structure import values_by_input

FEW_EXAMPLES = 50


def calibration_examples(source: Any, specs: Sequence[InputSpec]) -> list[np.ndarray]:
    """The examples of every input, each array of shape [examples, ...] in the input's dtype.

    Args:
        source: An array; a dict (by input name) or list of arrays; a `tf.data.Dataset`, batched or
            not; a `keras.utils.PyDataset`. A dataset's elements are x, (x, y) or (x, y, weight).
        specs: The student's inputs.

    Raises:
        TypeError: Not an array of numbers.
        ValueError: No examples, another shape, counts that differ, NaN or infinity, no integers
            where the input wants integers, or a dataset without an end.
    """
    if isinstance(source, tf.data.Dataset):
        arrays = _gathered(_dataset_batches(source, specs), specs)
    elif isinstance(source, keras.utils.PyDataset):
        arrays = _gathered(_py_dataset_batches(source), specs)
    else:
        arrays = [np.asarray(value) for value in _values(source, specs, "calibration")]
    checked = [_checked(array, spec) for array, spec in zip(arrays, specs, strict=True)]
    counts = {spec.key: len(array) for array, spec in zip(checked, specs, strict=True)}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"Expected as many calibration examples for every input. Received: {counts}."
        )
    count = len(checked[0])
    if count == 0:
        raise ValueError(
            "Expected calibration examples. Received: none. Hint: some hundred training inputs."
        )
    if count < FEW_EXAMPLES:
        warnings.warn(
            f"Calibration with {count} examples: expected at least {FEW_EXAMPLES}, better some "
            "hundreds. Ranges taken from few examples clip what lies outside of them.",
            UserWarning,
            stacklevel=3,
        )
    return checked


def _dataset_batches(source: tf.data.Dataset, specs: Sequence[InputSpec]) -> Iterator[list[Any]]:
    if source.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "Expected a calibration dataset with an end. Received: one that repeats forever. "
            "Hint: dataset.take(n)."
        )
    for element in source.as_numpy_iterator():
        values = _values(_features(element), specs, "a calibration element")
        arrays = [np.asarray(value) for value in values]
        batched = arrays[0].ndim == len(specs[0].shape)
        yield arrays if batched else [array[None] for array in arrays]


def _py_dataset_batches(source: keras.utils.PyDataset) -> Iterator[Any]:
    if source.num_batches is None:
        raise ValueError(
            "Expected a calibration PyDataset with an end. Received: one whose num_batches is "
            "None. Hint: define __len__."
        )
    for index in range(source.num_batches):
        yield source[index]


def _values(x: Any, specs: Sequence[InputSpec], what: str) -> list[Any]:
    return values_by_input(x, [spec.key for spec in specs], rank=len(specs[0].shape), what=what)


def _features(element: Any) -> Any:
    """Keras's convention: a tuple is (x,), (x, y) or (x, y, sample_weight)."""
    return element[0] if isinstance(element, tuple) else element


def _gathered(batches: Iterator[Any], specs: Sequence[InputSpec]) -> list[np.ndarray]:
    columns: list[list[np.ndarray]] = [[] for _ in specs]
    for batch in batches:
        values = _values(_features(batch), specs, "a calibration batch")
        for column, value, spec in zip(columns, values, specs, strict=True):
            array = np.asarray(value)
            _check_shape(array, spec)
            column.append(array)
    return [
        np.concatenate(column) if column else np.empty((0, *spec.shape[1:]), spec.dtype)
        for column, spec in zip(columns, specs, strict=True)
    ]


def _check_shape(array: np.ndarray, spec: InputSpec) -> None:
    expected = spec.shape[1:]
    if array.shape[1:] == expected and array.ndim == len(spec.shape):
        return
    hint = "prepare the examples as the student sees them."
    if array.shape == expected:
        hint = "one example wants a batch axis: x[None]."
    elif (*array.shape[1:], 1) == expected:
        hint = "the channel axis is missing: x[..., None]."
    raise ValueError(
        f"Expected calibration of shape (examples, {', '.join(map(str, expected))}) for input "
        f"'{spec.key}'. Received: {array.shape}. Hint: {hint}"
    )


def _checked(array: np.ndarray, spec: InputSpec) -> np.ndarray:
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(
            f"Expected calibration of numbers for input '{spec.key}'. "
            f"Received: dtype {array.dtype}."
        )
    _check_shape(array, spec)
    converted = array.astype(spec.dtype)
    if spec.is_float:
        bad = int(np.size(converted) - np.isfinite(converted).sum())
        if bad:
            raise ValueError(
                f"Expected finite calibration for input '{spec.key}'. Received: {bad} NaN or "
                "infinite values. Hint: clean the examples."
            )
    elif not np.array_equal(converted, array):
        raise ValueError(
            f"Expected calibration of whole numbers for input '{spec.key}' ({spec.dtype}). "
            f"Received: dtype {array.dtype} with other values."
        )
    return converted
