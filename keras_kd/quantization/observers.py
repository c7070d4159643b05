"""Which range a tensor's values get, from what a training run sees of them."""

import keras
from keras import ops

# Values of a batch that the dearer observers look at.
SAMPLE = 4096


class Observer:
    """Finds the range of a tensor from batch after batch of its values.

    A subclass says what it takes of a batch (`of_batch`) and how batches add up (`updated`). It
    holds no state: the ranges belong to the layer that observes.
    """

    # A range (low, high) that no value changes.
    fixed = None
    # Whether the range is trained, after the first batches.
    learned = False

    def of_batch(self, x, bits):
        """Returns (low, high), scalars, of a batch.

        Args:
            x: The values, float32, of any shape.
            bits: Of the integer type that they will be in.
        """
        return ops.min(x), ops.max(x)

    def updated(self, old, new, batches):
        """Returns the range after a batch.

        Args:
            old: The range so far, shape [2]: low and high. NaN before the first batch.
            new: The batch's, shape [2].
            batches: How many batches `old` comes from, a float scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement updated().")

    def get_config(self):
        """Returns what makes this observer again."""
        return {}

    @classmethod
    def from_config(cls, config):
        """Makes an observer from what `get_config` gave."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class MovingAverage(Observer):
    """The moving average of each batch's smallest and largest value.

    old + rate * (new - old) with rate = max(1 - momentum, 1 / (batches + 1)): the first batches
    count alike.

    Args:
        momentum: Weight of the past, in [0, 1).

    Reference: Jacob et al., arXiv:1712.05877, section 3.1.
    """

    def __init__(self, *, momentum=0.99):
        if not 0 <= momentum < 1:
            raise ValueError(f"Expected 0 <= momentum < 1. Received: {momentum}.")
        self.momentum = momentum

    def updated(self, old, new, batches):
        """Returns the average after a batch."""
        rate = ops.maximum(1.0 - self.momentum, 1.0 / (batches + 1.0))
        return ops.where(batches > 0, old + rate * (new - old), new)

    def get_config(self):
        """Returns what makes this observer again."""
        return {"momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class Percentile(MovingAverage):
    """The moving average of what nearly all values of a batch lie between; the rest is clipped.

    Args:
        percentile: How many of a batch's values are in the range, in percent, above 50.
        momentum: Weight of the past, in [0, 1).

    Reference: Wu et al., arXiv:2004.09602, section 4.
    """

    def __init__(self, percentile=99.9, *, momentum=0.99):
        super().__init__(momentum=momentum)
        if not 50 < percentile <= 100:
            raise ValueError(f"Expected 50 < percentile <= 100. Received: {percentile}.")
        self.percentile = percentile

    def of_batch(self, x, bits):
        """Returns the two ends, of a sample of the batch, with as many values outside of each."""
        values = ops.sort(_sample(x))
        last = ops.cast(ops.shape(values)[0] - 1, "float32")
        outside = ops.round(last * ((100.0 - self.percentile) / 200.0))
        return tuple(values[ops.cast(i, "int32")] for i in (outside, last - outside))

    def get_config(self):
        """Returns what makes this observer again."""
        return {**super().get_config(), "percentile": self.percentile}


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class MeanSquaredError(MovingAverage):
    """The moving average of the range in which rounding and clipping a batch costs least.

    Both ends of the batch's range are drawn in by the same factor, in `candidates` even steps from
    1 to 1 / `candidates`; the one with the least mean squared error is taken.

    Args:
        candidates: How many factors are tried.
        momentum: Weight of the past, in [0, 1).

    Reference: Nagel et al., arXiv:2106.08295, section 3.1.
    """

    def __init__(self, *, candidates=20, momentum=0.99):
        super().__init__(momentum=momentum)
        if candidates < 2:
            raise ValueError(f"Expected candidates >= 2. Received: {candidates}.")
        self.candidates = candidates

    def of_batch(self, x, bits):
        """Returns the best range for a sample of the batch."""
        low, high = ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)
        factors = ops.arange(self.candidates, 0, -1, dtype="float32") / self.candidates
        step = ops.maximum((high - low) * factors / (2.0**bits - 1), 1e-12)[:, None]
        ends = [ops.round(end * factors[:, None] / step) for end in (low, high)]
        values = _sample(x)[None, :]
        rounded = ops.clip(ops.round(values / step), *ends) * step
        best = factors[ops.argmin(ops.mean(ops.square(rounded - values), axis=1))]
        return low * best, high * best

    def get_config(self):
        """Returns what makes this observer again."""
        return {**super().get_config(), "candidates": self.candidates}


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class MinMax(Observer):
    """The smallest and the largest value that was ever seen."""

    def updated(self, old, new, batches):
        """Returns the range that holds both."""
        both = ops.stack([ops.minimum(old[0], new[0]), ops.maximum(old[1], new[1])])
        return ops.where(batches > 0, both, new)


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class LearnedStep(Observer):
    """The average of the first batches' ranges, whose step is then trained with the weights (LSQ).

    0 stays as many steps above the lower end as the first batches put it.

    Args:
        batches: How many batches it begins from.

    Reference: Esser et al., arXiv:1902.08153, section 2.
    """

    learned = True

    def __init__(self, *, batches=8):
        if batches < 1:
            raise ValueError(f"Expected batches >= 1. Received: {batches}.")
        self.batches = batches

    def updated(self, old, new, batches):
        """Returns the average as long as it counts."""
        average = old + (new - old) / (batches + 1.0)
        return ops.where(batches > 0, ops.where(batches < self.batches, average, old), new)

    def get_config(self):
        """Returns what makes this observer again."""
        return {"batches": self.batches}


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class Fixed(Observer):
    """A range that is known beforehand, as that of a softmax.

    Args:
        low: Its lower end, at most 0.
        high: Its upper end, at least 0 and above `low`.
    """

    def __init__(self, low, high):
        if not low <= 0 <= high or not low < high:
            raise ValueError(f"Expected low <= 0 <= high, not both 0. Received: {low}, {high}.")
        self.fixed = (float(low), float(high))

    def updated(self, old, new, batches):
        """Returns the range, whatever was seen."""
        return old

    def get_config(self):
        """Returns what makes this observer again."""
        return {"low": self.fixed[0], "high": self.fixed[1]}


def _sample(x):
    """Returns at most about `SAMPLE` values of a tensor, evenly spread, as a vector."""
    values = ops.reshape(x, (-1,))
    stride = ops.maximum(ops.shape(values)[0] // SAMPLE, 1)
    return values[::stride]
