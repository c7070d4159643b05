"""Numbers that change with the training step: temperatures and loss weights.

A schedule is evaluated inside the graph from `optimizer.iterations`, so it goes on where it was
when training is resumed. Every `keras.optimizers.schedules.LearningRateSchedule` is a schedule here
too.
"""

import math

import keras
from keras import ops


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A number as a function of the step. Subclasses give `__call__(step)` and `get_config()`.

    It derives from Keras's schedule, so it can drive a learning rate as well.
    """


@keras.saving.register_keras_serializable(package="keras_kd")
class Constant(Schedule):
    """The same number at every step.

    Args:
        value: The number.
    """

    def __init__(self, value):
        self.value = _finite("value", value)

    def __call__(self, step):
        """Returns the value; a float32 scalar."""
        return ops.convert_to_tensor(self.value, "float32")

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"value": self.value}


@keras.saving.register_keras_serializable(package="keras_kd")
class Linear(Schedule):
    """A straight line from `start` to `end` over `steps` steps, `end` from then on.

    start + (end - start) * min(step / steps, 1).

    Args:
        start: The number at step 0.
        end: The number from step `steps` on.
        steps: How many steps the way takes, at least 1.
    """

    def __init__(self, start, end, steps):
        self.start = _finite("start", start)
        self.end = _finite("end", end)
        self.steps = _steps(steps)

    def __call__(self, step):
        """Returns the value at `step`; a float32 scalar."""
        return self.start + (self.end - self.start) * _progress(step, self.steps)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"start": self.start, "end": self.end, "steps": self.steps}


@keras.saving.register_keras_serializable(package="keras_kd")
class Cosine(Schedule):
    """Half a cosine wave from `start` to `end` over `steps` steps, `end` from then on.

    end + (start - end) * (1 + cos(pi * min(step / steps, 1))) / 2.

    Args:
        start: The number at step 0.
        end: The number from step `steps` on.
        steps: How many steps the way takes, at least 1.

    Reference: Loshchilov and Hutter, arXiv:1608.03983, equation 5, without restarts.
    """

    def __init__(self, start, end, steps):
        self.start = _finite("start", start)
        self.end = _finite("end", end)
        self.steps = _steps(steps)

    def __call__(self, step):
        """Returns the value at `step`; a float32 scalar."""
        wave = (1.0 + ops.cos(math.pi * _progress(step, self.steps))) / 2.0
        return self.end + (self.start - self.end) * wave

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"start": self.start, "end": self.end, "steps": self.steps}


@keras.saving.register_keras_serializable(package="keras_kd")
class WarmUp(Schedule):
    """Grows a number, or another schedule, from 0 over the first `steps` steps.

    min(step / steps, 1) * value(step).

    Args:
        value: A float or a schedule.
        steps: How many steps the growth takes, at least 1.
    """

    def __init__(self, value, steps):
        self.value = value if is_schedule(value) else _finite("value", value)
        self.steps = _steps(steps)

    def __call__(self, step):
        """Returns the value at `step`; a float32 scalar."""
        return value_at(self.value, step) * _progress(step, self.steps)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"value": serialize(self.value), "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        """Makes the schedule from what `get_config` gave."""
        return cls(deserialize(config["value"]), config["steps"])


@keras.saving.register_keras_serializable(package="keras_kd")
class Piecewise(Schedule):
    """`values[i]` from step `boundaries[i - 1]` to before step `boundaries[i]`.

    Args:
        boundaries: Steps at which the number changes, ascending.
        values: The numbers, one more than there are boundaries.
    """

    def __init__(self, boundaries, values):
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                "Expected one value more than boundaries. "
                f"Received {len(boundaries)} boundaries and {len(values)} values."
            )
        if list(boundaries) != sorted(set(boundaries)):
            raise ValueError(f"Expected ascending boundaries. Received: {list(boundaries)}")
        self.boundaries = [int(boundary) for boundary in boundaries]
        self.values = [_finite("values", value) for value in values]

    def __call__(self, step):
        """Returns the value at `step`; a float32 scalar."""
        passed = ops.sum(
            ops.cast(ops.cast(step, "int64") >= ops.array(self.boundaries, "int64"), "int32")
        )
        return ops.take(ops.array(self.values, "float32"), passed)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"boundaries": self.boundaries, "values": self.values}


def is_schedule(value):
    """Returns whether `value` is a schedule and not a plain number."""
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)


def value_at(value, step):
    """Returns the number that a float or schedule has at a step.

    Args:
        value: A float or a schedule.
        step: The training step, an integer scalar tensor; None where there is none.

    Returns:
        The float itself, or a float32 scalar tensor.

    Raises:
        ValueError: If a schedule is asked and there is no step.
    """
    if not is_schedule(value):
        return value
    if step is None:
        raise ValueError(
            f"The schedule {type(value).__name__} needs the training step. "
            "Hint: schedules work inside keras_kd.Distiller; elsewhere give a float."
        )
    return ops.cast(value(step), "float32")


def checked(name, value, *, positive=False):
    """Returns `value` if it is a schedule or a number in its range.

    Args:
        name: What the number is called in the error.
        value: A float or a schedule.
        positive: Whether 0 is refused too.

    Raises:
        ValueError: If the number is negative (or 0 with `positive`) or not finite.
    """
    if is_schedule(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"Expected {name} to be a number or a schedule. Received: {value!r}")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        wanted = "a positive number" if positive else "a number of at least 0"
        raise ValueError(f"Expected {name} to be {wanted}. Received: {value!r}")
    return value


def serialize(value):
    """Returns what a configuration holds for a float or schedule."""
    return keras.saving.serialize_keras_object(value) if is_schedule(value) else value


def deserialize(config):
    """Returns the float or schedule that `serialize` gave."""
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config


def _progress(step, steps):
    return ops.minimum(ops.cast(step, "float32") / steps, 1.0)


def _finite(name, value):
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"Expected {name} to be a finite number. Received: {value!r}")
    return float(value)


def _steps(steps):
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"Expected steps to be an integer of at least 1. Received: {steps!r}")
    return steps
