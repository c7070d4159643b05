"""A scikit-learn estimator as the teacher."""

import hashlib

import keras
import numpy as np

from keras_kd import heads
from keras_kd.teachers.base import hash_of
from keras_kd.teachers.outside import Callable

_PROBES = 64


def smoothed(probabilities, smoothing):
    """Probabilities of which none is 0: (1 - s) p + s / classes.

    Args:
        probabilities: Shape [examples, classes].
        smoothing: s, in (0, 1). The smallest probability is then s / classes, and its logarithm
            finite.

    Returns:
        The same shape.
    """
    return (1.0 - smoothing) * probabilities + smoothing / probabilities.shape[-1]


class Estimator(Callable):
    """A fitted scikit-learn estimator, or anything with its `predict_proba` or `predict`.

    A classifier answers with its probabilities, or without `predict_proba` with 1 for the class
    that it names; smoothed, since a forest says 0 of many classes, of which a logarithm is taken. A
    regressor answers with its values, for `FeatureDistillation("mse")` without layer names. It is
    run beside the graph, as any `Callable`: `keras_kd.teachers.attach` asks it once for all epochs.

    Args:
        estimator: The fitted estimator. What it has not seen as columns is flattened: it gets
            arrays of shape [batch, features].
        classes: The student's classes in their order, as the labels that the estimator was fitted
            with call them; None for 0, 1, 2... up to its largest. Those that it has not seen are
            left out of what is compared, as by `MapClasses`; those that the student has not are
            left out of its answer and the rest is renormalised.
        smoothing: s in (0, 1): see `smoothed`.
        preprocessing: None, or a callable from the batch's `x`, arrays, to what the estimator
            takes.
        name: What messages call it.

    Raises:
        ValueError: If the estimator is not fitted or has several outputs, or has fewer than two of
            the classes.

    Example:
        >>> forest = sklearn.ensemble.RandomForestClassifier().fit(x_train.reshape(n, -1), y_train)
        >>> teacher = keras_kd.teachers.Estimator(forest)
    """

    def __init__(self, estimator, *, classes=None, smoothing=0.01, preprocessing=None, name=None):
        if not 0.0 < smoothing < 1.0:
            raise ValueError(f"Expected smoothing in (0, 1). Received: {smoothing!r}")
        self.estimator, self.smoothing = estimator, smoothing
        self._preprocessing = preprocessing or _as_columns
        own = getattr(estimator, "classes_", None)
        if own is None and classes is not None:
            raise ValueError(
                f"Expected a fitted classifier with classes=. Received: {estimator!r} without "
                "classes_."
            )
        units = self._values_of_one() if own is None else self._take_classes(own, classes)
        super().__init__(
            self.answer,
            output_shape=(units,),
            gives="values" if own is None else "probabilities",
            name=name or type(estimator).__name__,
        )

    def answer(self, x):
        """Returns what the estimator says of arrays, float64 of shape [batch, units]."""
        columns = self._preprocessing(x)
        if self.gives == "values":
            values = np.asarray(self.estimator.predict(columns))
            return values.reshape(len(values), -1)
        if callable(getattr(self.estimator, "predict_proba", None)):
            probabilities = np.asarray(self.estimator.predict_proba(columns))
        else:
            named = np.asarray(self.estimator.predict(columns))
            probabilities = (named[:, None] == self.estimator.classes_).astype("float64")
        ours = probabilities[:, self._columns]
        total = ours.sum(axis=-1, keepdims=True)
        # Sure of a class that the student has not, it says nothing of the others.
        ours = np.divide(ours, total, where=total > 0, out=np.full_like(ours, 1 / ours.shape[-1]))
        return smoothed(ours, self.smoothing)

    def _take_classes(self, own, classes):
        """Notes which of the estimator's classes are which of the student's; returns how many."""
        if isinstance(own, list) or np.ndim(own) != 1:
            raise ValueError(
                f"Expected an estimator of one output. Received: {self.estimator!r} with classes_ "
                "of several."
            )
        if classes is None:
            if not np.issubdtype(np.asarray(own).dtype, np.integer) or min(own) < 0:
                raise ValueError(
                    f"Expected classes= to say the student's classes in order. Received an "
                    f"estimator of the labels {list(own)}."
                )
            classes = range(max(own) + 1)
        place = {label: column for column, label in enumerate(np.asarray(own).tolist())}
        shared = [number for number, label in enumerate(classes) if label in place]
        if len(shared) < 2:
            raise ValueError(
                "Expected an estimator with at least two of the student's classes "
                f"{list(classes)}. Received one of the labels {list(place)}."
            )
        self._columns = [place[classes[number]] for number in shared]
        if len(shared) < len(classes):
            self.classes = tuple(shared)
        return len(shared)

    def _values_of_one(self):
        """Returns how many values a regressor gives for one example."""
        features = getattr(self.estimator, "n_features_in_", None)
        if features is None or not callable(getattr(self.estimator, "predict", None)):
            raise ValueError(
                f"Expected a fitted estimator. Received: {self.estimator!r}, which has neither "
                "classes_ nor n_features_in_. Hint: estimator.fit(x, y); for any other function of "
                "arrays use keras_kd.teachers.Callable."
            )
        return np.asarray(self.estimator.predict(np.zeros((1, features)))).reshape(1, -1).shape[1]

    def seen_of(self, student_outputs):
        """Returns the student's answer for the classes that the estimator has."""
        if self.classes is None:
            return student_outputs
        return heads.of_classes(student_outputs, self.classes)

    def fingerprint(self):
        """Returns the hash of what it says of 64 fixed inputs of all sizes.

        Not of its memory, which is another one after `joblib.load`. None where the number of
        features is not known, or a preprocessing stands before.
        """
        features = getattr(self.estimator, "n_features_in_", None)
        if features is None or self._preprocessing is not _as_columns:
            return None
        rng = np.random.default_rng(0)
        probes = rng.normal(size=(_PROBES, features)) * np.logspace(-2, 3, _PROBES)[:, None]
        # Trees of a forest are added up in any order: rounded, and at no round number.
        answers = np.floor(1e6 * self.answer(probes) + 0.2371).astype("int64")
        said = hashlib.sha256(answers.tobytes()).hexdigest()
        return hash_of(type(self.estimator).__name__, said, str(self.classes))


def _as_columns(x):
    """Returns arrays as one of shape [batch, features]."""
    flat = [np.reshape(array, (len(array), -1)) for array in keras.tree.flatten(x)]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=-1)
