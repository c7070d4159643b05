"""The methods by the names that papers call them: `losses.get("dkd", beta=8)`."""

import dataclasses

import keras

PACKAGE = "keras_kd"
KINDS = ("response", "feature", "relation", "sequence")


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of distillation.

    Attributes:
        name: What `get` knows it by.
        title: What its paper calls it.
        kind: `"response"`, `"feature"`, `"relation"` or `"sequence"`.
        needs: What it needs beside the outputs of the two models, in a few words.
        reference: Where it was published.
        loss: Its class.
    """

    name: str
    title: str
    kind: str
    needs: str
    reference: str
    loss: type


_METHODS: dict[str, Method] = {}


def method(name, *, title, kind, needs="", reference):
    """Registers a loss class as the method `name`, and with Keras for loading.

    Args:
        name: What `get` shall know it by.
        title: What its paper calls it.
        kind: `"response"`, `"feature"`, `"relation"` or `"sequence"`.
        needs: What it needs beside the outputs of the two models, in a few words.
        reference: Where it was published.

    Raises:
        ValueError: If the name is taken, or the kind unknown.
    """
    if name in _METHODS or kind not in KINDS:
        raise ValueError(f"Expected a free name and one of {KINDS}. Received: {name!r}, {kind!r}")

    def register(loss):
        loss = keras.saving.register_keras_serializable(package=PACKAGE)(loss)
        _METHODS[name] = Method(name, title, kind, needs, reference, loss)
        return loss

    return register


def get(name, /, **options):
    """Returns the loss of a method.

    Args:
        name: One of `available()`.
        **options: Arguments of its class.

    Raises:
        ValueError: If the method is unknown.

    Example:
        >>> keras_kd.losses.get("at", teacher_layer_name="block3", student_layer_name="block2")
    """
    if name not in _METHODS:
        raise ValueError(
            f"Expected a method of keras_kd.losses.available(). Received: {name!r}. "
            f"Hint: {', '.join(available())}."
        )
    return _METHODS[name].loss(**options)


def available():
    """Returns the names of all methods, by kind and then in alphabetical order."""
    return tuple(entry.name for entry in methods())


def methods():
    """Returns a `Method` for each name of `available()`."""
    return tuple(sorted(_METHODS.values(), key=lambda m: (KINDS.index(m.kind), m.name)))


def table():
    """Returns the methods as a table in Markdown, as README.md has it."""
    rows = [("method", "name", "kind", "needs", "reference"), ("---",) * 5]
    rows += [(m.title, f"`{m.name}`", m.kind, m.needs, m.reference) for m in methods()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
