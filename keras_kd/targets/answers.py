"""What is kept of a teacher's answer, and how an answer is made of it again."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_kd import heads
from keras_kd.numerics import at_least_float32, tempered_log_softmax

DTYPES = ("float16", "float32")
OUTPUTS, CLASSES, LOG_PROBABILITIES, LOG_REST = (
    "outputs",
    "classes",
    "log_probabilities",
    "log_rest",
)
# In front of a layer path, so that no layer's name can be taken for one of those above.
FEATURE = "feature:"


@dataclasses.dataclass(frozen=True)
class Answers:
    """The form in which a teacher's answers are stored.

    Without `top_k` and `temperature` the outputs are stored as the teacher gives them. With a
    temperature T it is log softmax(z / T): logarithms, as float16 holds no probability under 6e-8.
    With `top_k` = k, T being 1 if there is none, it is that of the k largest classes, the classes,
    and the logarithm of the remaining mass, exact also where it is far below the float's epsilon.

    Attributes:
        shape: Shape of an example's output, (...positions, units).
        activation: What the teacher ends in, `"linear"`, `"softmax"`, ... (see `keras_kd.heads`);
            None where that is not known.
        top_k: How many classes are kept; None for all.
        temperature: T of the stored distribution; None for outputs as they are.
        dtype: `"float16"` or `"float32"`.
        features: Shape of an example's feature by layer path.

    Raises:
        ValueError: If an option is out of range or does not go with the teacher's outputs.
    """

    shape: tuple[int, ...]
    activation: str | None = None
    top_k: int | None = None
    temperature: float | None = None
    dtype: str = "float16"
    features: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(f"Expected dtype to be one of {DTYPES}. Received: {self.dtype!r}")
        if not self.is_distribution:
            return
        if not self.shape or self.shape[-1] < 2:
            raise ValueError(
                "Expected at least two classes for top_k= or temperature=. Received outputs of "
                f"shape {self.shape} an example. Hint: leave both out to store them as they are."
            )
        if self.activation not in (heads.LINEAR, heads.SOFTMAX):
            raise ValueError(
                "Expected a teacher that ends in logits or softmax for top_k= or temperature=. "
                f"Received one that ends in {self.activation}. Hint: leave both out."
            )
        if self.temperature is not None and not 0.0 < self.temperature < math.inf:
            raise ValueError(f"Expected temperature > 0. Received: {self.temperature!r}")
        if self.top_k is not None and not 1 <= self.top_k < self.classes:
            raise ValueError(
                f"Expected top_k in 1..{self.classes - 1}, fewer than the {self.classes} classes. "
                f"Received: {self.top_k!r}. Hint: leave it out to store all."
            )

    @property
    def is_distribution(self):
        """Whether log-probabilities are stored, not outputs as they are."""
        return self.top_k is not None or self.temperature is not None

    @property
    def classes(self):
        """The number of units of the output."""
        return self.shape[-1]

    @property
    def stored_temperature(self):
        """T of the stored log-probabilities."""
        return 1.0 if self.temperature is None else self.temperature

    @property
    def exact_temperature(self):
        """The temperature at which `decode` gives the stored distribution; None for any.

        Of a single class that was left out the whole mass is known, and so all logits.
        """
        left_out = 0 if self.top_k is None else self.classes - self.top_k
        return self.stored_temperature if left_out > 1 else None

    @property
    def read_activation(self):
        """What `decode` gives ends in: log-probabilities are logits of their own softmax."""
        return heads.LINEAR if self.is_distribution else self.activation

    def fields(self):
        """Returns `(name, dtype, shape)` of each stored array of an example, for `np.dtype`."""
        kind = np.dtype(self.dtype).newbyteorder("<").str
        features = [(FEATURE + path, kind, shape) for path, shape in self.features.items()]
        if self.top_k is None:
            return [(OUTPUTS, kind, self.shape), *features]
        largest = self.classes - 1
        index = "|u1" if largest < 2**8 else "<u2" if largest < 2**16 else "<u4"
        kept = (*self.shape[:-1], self.top_k)
        return [
            (CLASSES, index, kept),
            (LOG_PROBABILITIES, kind, kept),
            (LOG_REST, kind, self.shape[:-1]),
            *features,
        ]

    def encode(self, outputs, features):
        """Returns what is stored of a batch of answers, a dict of tensors by field name.

        Args:
            outputs: The teacher's outputs, shape [batch, *shape].
            features: Its features by path.
        """
        named = {FEATURE + path: features[path] for path in self.features}
        if not self.is_distribution:
            named[OUTPUTS] = outputs
            return {name: tf.cast(value, self.dtype) for name, value in named.items()}
        log_p = tempered_log_softmax(
            heads.logits(outputs, self.activation), self.stored_temperature
        )
        if self.top_k is None:
            named[OUTPUTS] = log_p
            return {name: tf.cast(value, self.dtype) for name, value in named.items()}
        named[LOG_PROBABILITIES], classes = tf.math.top_k(log_p, self.top_k)
        named[LOG_REST] = _log_rest(log_p, classes)
        stored = {name: tf.cast(value, self.dtype) for name, value in named.items()}
        return {**stored, CLASSES: classes}

    def decode(self, stored):
        """Returns the `(outputs, {path: feature})` of a batch of stored answers, float32.

        A stored distribution comes back as logits z with softmax(z / T) = the distribution, for its
        own T. With top-k the remaining mass is spread evenly over the other classes.

        Args:
            stored: What `encode` gave, a dict of tensors of shape [batch, ...].
        """
        features = {path: at_least_float32(stored[FEATURE + path]) for path in self.features}
        if self.top_k is None:
            outputs = at_least_float32(stored[OUTPUTS])
        else:
            outputs = _spread(
                stored[CLASSES], stored[LOG_PROBABILITIES], stored[LOG_REST], self.classes
            )
        if self.is_distribution:
            outputs = outputs * self.stored_temperature
        return outputs, features

    def to_json(self):
        """Returns the form as JSON values."""
        features = {path: list(shape) for path, shape in self.features.items()}
        return {**dataclasses.asdict(self), "shape": list(self.shape), "features": features}

    @classmethod
    def from_json(cls, values):
        """Returns the form that `to_json` gave."""
        features = {path: tuple(shape) for path, shape in values["features"].items()}
        return cls(**{**values, "shape": tuple(values["shape"]), "features": features})


def _log_rest(log_p, classes):
    """Returns the logarithm of the probability of all classes but the named ones.

    As a sum over them: 1 minus the sum of the others would be rounding noise where they are
    certain.

    Args:
        log_p: Log-probabilities, shape [..., classes].
        classes: The classes that are left out, shape [..., k].
    """
    count, top_k = log_p.shape[-1], classes.shape[-1]
    rows = tf.reshape(log_p, (-1, count))
    named = tf.reshape(classes, (-1, top_k))
    places = tf.stack(
        [tf.repeat(tf.range(tf.shape(named)[0]), top_k), tf.reshape(named, (-1,))], axis=-1
    )
    never = tf.fill(tf.shape(places)[:1], tf.constant(-math.inf, rows.dtype))
    others = tf.tensor_scatter_nd_update(rows, places, never)
    return tf.reshape(tf.reduce_logsumexp(others, axis=-1), tf.shape(log_p)[:-1])


def _spread(classes, log_probabilities, log_rest, count):
    """Returns log-probabilities of all classes, the remaining mass spread evenly.

    Args:
        classes: The stored classes, integers of shape [batch, ..., k].
        log_probabilities: Theirs, same shape.
        log_rest: The logarithm of the remaining mass, shape [batch, ...].
        count: How many classes there are.
    """
    top_k = classes.shape[-1]
    each = at_least_float32(log_rest) - math.log(count - top_k)
    rows = tf.repeat(tf.reshape(each, (-1, 1)), count, axis=1)
    named = tf.cast(tf.reshape(classes, (-1,)), "int32")
    places = tf.stack([tf.repeat(tf.range(tf.shape(rows)[0]), top_k), named], axis=-1)
    values = tf.reshape(at_least_float32(log_probabilities), (-1,))
    outputs = tf.tensor_scatter_nd_update(rows, places, values)
    shape = tf.concat([tf.shape(log_rest), [count]], axis=0)
    outputs = tf.reshape(outputs, shape)
    return tf.ensure_shape(outputs, (*log_rest.shape, count))
