"""What the contract tests need to know of a method beside its class."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tests.models import CLASSES, wide

IMAGE = (8, 8, 2)
EXAMPLES = 8


def image_model(name, channels, *, scale=1.0):
    """Two convolutions, "low" of 8 x 8 and "high" of 4 x 4, each behind a ReLU, then classes.

    The layers: conv1, norm1, low, conv2, norm2, high, pool, outputs.

    Args:
        name: Name of the model.
        channels: Of "low"; "high" has twice as many.
        scale: Factor on the initial logits.
    """
    inputs = x = keras.Input(IMAGE)
    for number, (level, strides) in enumerate((("low", 1), ("high", 2)), start=1):
        x = keras.layers.Conv2D(
            channels * number, 3, strides, padding="same", name=f"conv{number}"
        )(x)
        x = keras.layers.BatchNormalization(name=f"norm{number}")(x)
        x = keras.layers.ReLU(name=level)(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(
        CLASSES,
        kernel_initializer=keras.initializers.RandomNormal(stddev=scale),
        name="outputs",
    )(x)
    return keras.Model(inputs, outputs, name=name)


def image_batch():
    """Returns (x, integer labels); every class is there."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, *IMAGE)).astype("float32")
    return x, np.arange(EXAMPLES) % CLASSES


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a method is tried in the contract tests.

    Attributes:
        make: Makes the loss, for the two models.
        teacher: Makes the teacher.
        student: Makes the student.
        batch: Makes (x, y); for methods that need example numbers x is a dict with them.
        zero_at_equality: Whether the loss is 0 for a student that is a copy of its teacher, which
            is asked of losses without trained parts.
        non_negative: Whether the loss is never negative.
        shift_invariant: Whether adding a constant to all logits of an example changes nothing; for
            losses on logits.
        learning_rate: Of the plain gradient steps in which the loss has to fall.
    """

    make: Callable[[], keras.distillation.DistillationLoss]
    teacher: Callable[[], keras.Model] = lambda: image_model("teacher", 6)
    student: Callable[[], keras.Model] = lambda: image_model("student", 4)
    batch: Callable[[], tuple] = image_batch
    zero_at_equality: bool = True
    non_negative: bool = True
    shift_invariant: bool = False
    learning_rate: float = 1e-3


__all__ = ["CLASSES", "EXAMPLES", "IMAGE", "Recipe", "image_batch", "image_model", "wide"]
