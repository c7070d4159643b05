"""How a teacher is asked: a Keras model, an object that tells its fingerprint, or a function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd import heads
from keras_kd.features import FeatureReader
from keras_kd.losses import Context
from keras_kd.targets.answers import Answers
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.model import fingerprint as weights_fingerprint

OUTPUT_FORMS = {"logits": heads.LINEAR, "probabilities": heads.SOFTMAX}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A teacher as the writer asks it.

    Attributes:
        name: Its name.
        fingerprint: What tells it from others.
        activation: What its outputs end in; None where that cannot be seen.
        call: From inputs to `(outputs, {path: feature})`.
        in_graph: Whether `call` may be traced.
    """

    name: str
    fingerprint: str
    activation: str | None
    call: Callable[[Any], Any]
    in_graph: bool

    def answers(self, x, features, declared, **options):
        """Returns the `Answers` of this teacher, and what it says of a few examples.

        Args:
            x: A few inputs, tensors of shape [batch, ...].
            features: Layer paths.
            declared: What the outputs are said to be: `"logits"`, `"probabilities"`, `"auto"`.
            **options: Fields of `Answers`.

        Raises:
            ValueError: If it has several outputs or lacks a feature, or the outputs cannot be
                stored so.
        """
        outputs, found = self.call(x)
        if keras.tree.is_nested(outputs):
            raise ValueError(
                f"Expected a teacher with one output. Received from '{self.name}': "
                f"{keras.tree.map_structure(lambda t: tuple(t.shape), outputs)}. Hint: a function "
                "of x that gives the one to store."
            )
        missing = [path for path in features if path not in found]
        if missing:
            raise ValueError(
                f"Expected features {missing} from teacher '{self.name}'. Received: {list(found)}."
            )
        activation = self.activation or heads.activation_left_on(outputs)
        if declared != "auto":
            activation = self._declared(activation, declared)
        elif activation is None and (options["top_k"] or options["temperature"]):
            if heads.looks_like_probabilities(outputs):
                raise ValueError(
                    f"Expected outputs= to be declared: those of '{self.name}' look like "
                    "probabilities. Hint: outputs='probabilities'."
                )
            activation = heads.LINEAR
        return Answers(
            tuple(outputs.shape[1:]),
            activation,
            features={path: tuple(found[path].shape[1:]) for path in features},
            **options,
        )

    def _declared(self, activation, declared):
        form = OUTPUT_FORMS[declared]
        if activation not in (None, form):
            raise ValueError(
                f"Expected outputs= to be what teacher '{self.name}' ends in, {activation}. "
                f"Received: {declared!r}."
            )
        return form

    def encoder(self, answers, spec):
        """Returns the function from a batch of inputs to what is stored of the answers.

        Args:
            answers: The `Answers`.
            spec: The inputs as `tf.TensorSpec`, with a batch of any size.
        """

        def encoded(x):
            return answers.encode(*self.call(x))

        return tf.function(encoded, input_signature=[spec]) if self.in_graph else encoded


def asked(teacher, *, features, preprocessing, fingerprint):
    """Returns a teacher as the writer asks it.

    Args:
        teacher: A Keras model, a `keras_kd.teachers.Teacher`, or a callable from NumPy arrays to
            one.
        features: Layer paths that are read.
        preprocessing: None, or a callable from the inputs to the teacher's.
        fingerprint: For a teacher that has none: text that tells it from others.

    Raises:
        ValueError: If a teacher cannot be asked yet, or has no fingerprint.
        TypeError: If it is none of these.
    """
    prepare = preprocessing or (lambda x: x)
    if isinstance(teacher, keras.Model):
        made = _asked_model(teacher, features, prepare, fingerprint)
    elif isinstance(teacher, Teacher):
        made = _asked_teacher(teacher, features, prepare, fingerprint)
    elif callable(teacher):
        made = _asked_function(teacher, features, prepare, fingerprint)
    else:
        raise TypeError(
            f"Expected a Keras model, a Teacher or a callable as teacher. Received: {teacher!r}"
        )
    if not made.fingerprint:
        raise ValueError(
            f"Expected fingerprint= for '{made.name}', which has none of its own: text that "
            "changes when the teacher does. Hint: fingerprint='forest of 2026-05-01'."
        )
    return made


def _asked_model(model, features, prepare, fingerprint):
    if not model.built:
        raise ValueError(
            f"Expected a trained teacher. Received: '{model.name}', which has no weights yet. "
            "Hint: build it and load its weights."
        )
    reader = FeatureReader(model, features, role="teacher")
    found = heads.activations(model)
    return Asked(
        model.name,
        fingerprint or weights_fingerprint(model),
        found if isinstance(found, str) else None,
        lambda x: reader(prepare(x), training=False),
        in_graph=True,
    )


def _asked_teacher(teacher, features, prepare, fingerprint):
    connected = teacher.connect(paths=features, student=None)

    def call(x):
        answer = connected(Context(inputs=prepare(x)))
        if answer.known is not None:
            raise ValueError(
                f"Expected a teacher that knows every example. Received: '{teacher.name}', which "
                "knows some of them. Hint: write its answers to those alone."
            )
        return answer.outputs, answer.features

    found = connected.activations()
    return Asked(
        teacher.name,
        fingerprint or teacher.fingerprint() or "",
        found if isinstance(found, str) else None,
        call,
        in_graph=True,
    )


def _asked_function(function, features, prepare, fingerprint):
    name = function_name(function)
    if features:
        raise ValueError(
            f"Expected a Keras model to read the features {list(features)} of. Received: '{name}'."
        )

    def call(x):
        arrays = keras.tree.map_structure(np.asarray, prepare(x))
        return tf.convert_to_tensor(np.asarray(function(arrays))), {}

    return Asked(name, fingerprint or "", None, call, in_graph=False)


def function_name(function):
    """Returns what a function is known by in a manifest; "" for None."""
    if function is None:
        return ""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '') or ''}.{name}".strip(".")
