"""A golden case, and the change of layout from the papers' code to ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden case.

    Attributes:
        function: From the case's inputs, by name, to the golden's scalar (or array).
        gradients: The inputs whose gradient the golden holds.
    """

    function: Callable[..., tf.Tensor]
    gradients: tuple[str, ...] = ("student",)


def nhwc(maps: tf.Tensor) -> tf.Tensor:
    """Maps [batch, channels, height, width] as [batch, height, width, channels]."""
    return tf.transpose(maps, (0, 2, 3, 1))


def hwio(kernel: tf.Tensor) -> tf.Tensor:
    """A kernel [out, in, height, width] as [height, width, in, out]."""
    return tf.transpose(kernel, (2, 3, 1, 0))
