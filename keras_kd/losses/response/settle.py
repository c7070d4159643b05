"""Settles what the outputs of two models hold: which head, and logits or probabilities."""

import keras

from keras_kd import heads

AUTO = "auto"
HEADS = (AUTO, heads.SOFTMAX, heads.SIGMOID)
FORMS = (AUTO, "logits", "probabilities")
ROLES = ("teacher", "student")


def settle(loss_fn, declared, teacher, student, activations, roles=ROLES):
    """Returns (head, teacher's form, student's form) of one output."""
    check_same_units(teacher.shape, student.shape)
    tensors = (teacher, student)
    seen = [
        activation or heads.activation_left_on(tensor)
        for activation, tensor in zip(activations, tensors, strict=True)
    ]
    head = _settle_head(declared[0], loss_fn, seen, student.shape[-1])
    forms = [
        _settle_form(*entry, head) for entry in zip(roles, declared[1:], seen, tensors, strict=True)
    ]
    return head, *forms


def _settle_head(head, loss_fn, seen, units):
    found = {activation for activation in seen if activation in (heads.SOFTMAX, heads.SIGMOID)}
    if len(found) > 1:
        raise ValueError(
            f"Expected teacher and student with one kind of head. Received: {' and '.join(seen)}."
        )
    if is_binary(loss_fn):
        found.add(heads.SIGMOID)
    elif is_categorical(loss_fn):
        found.add(heads.SOFTMAX)
    if head != AUTO:
        found.add(head)
    if len(found) > 1:
        raise ValueError(
            f"Expected a loss and a head that go together. Received: head={head!r}, the models end "
            f"in {' and '.join(map(str, seen))}, loss={loss_fn!r}."
        )
    if found == {heads.SOFTMAX} and units == 1:
        raise ValueError("Expected at least two classes for a softmax head. Received: one unit.")
    if not found and units == 1:
        raise ValueError(
            "Expected head= to be declared for a single unit without activation: a softmax over "
            "one unit is always 1. Hint: head='sigmoid' for the logit of a yes or no; "
            "FeatureDistillation(loss='mse') without layer names for a regression."
        )
    return found.pop() if found else heads.SOFTMAX


def _settle_form(role, form, activation, tensor, head):
    name = f"{role}_outputs"
    probable = activation in (heads.SOFTMAX, heads.SIGMOID)
    if form == "logits" and probable:
        raise ValueError(
            f"Expected {name}='probabilities': the {role} ends in {activation}. Received: 'logits'."
        )
    if form != AUTO:
        return form
    if probable:
        return "probabilities"
    if activation not in (None, heads.LINEAR):
        raise ValueError(
            f"Expected a {role} that ends in logits, softmax or sigmoid. Received: one that ends "
            f"in {activation}. Hint: unsupported head; declare {name}='logits' or 'probabilities' "
            "if it is one of them all the same, or use FeatureDistillation(loss='mse') for a "
            "regression."
        )
    if heads.looks_like_probabilities(tensor):
        raise undeclared(role)
    return "logits"


def undeclared(role):
    """Returns the error of a model whose outputs look like probabilities and were not declared."""
    return ValueError(
        f"Expected {role}_outputs= to be declared: the {role}'s outputs look like probabilities, "
        f"but its last layer is no softmax that can be seen. Hint: {role}_outputs='probabilities'."
    )


def activation_of(head, form):
    """Returns the activation behind an output of that head and form (see `keras_kd.heads`)."""
    return heads.LINEAR if form == "logits" else head


def flat_or_unknown(activations, count):
    """Returns the activation behind each flat output, None for each that is not known."""
    return [None] * count if activations is None else keras.tree.flatten(activations)


def check_same_units(teacher, student):
    """Refuses outputs of shapes that differ beyond the batch."""
    if len(teacher) != len(student) or any(
        t is not None and s is not None and t != s
        for t, s in zip(tuple(teacher)[1:], tuple(student)[1:], strict=True)
    ):
        raise ValueError(
            "Expected teacher and student outputs of equal shapes, with the same number of "
            f"classes. Received: teacher {tuple(teacher)}, student {tuple(student)}."
        )


def is_one(loss_fn, kind, function):
    """Returns whether a loss is that Keras class or that function."""
    return isinstance(loss_fn, kind) or loss_fn is function


def is_categorical(loss_fn):
    """Returns whether a loss is Keras's categorical cross-entropy."""
    return is_one(
        loss_fn, keras.losses.CategoricalCrossentropy, keras.losses.categorical_crossentropy
    )


def is_binary(loss_fn):
    """Returns whether a loss is Keras's binary cross-entropy."""
    return is_one(loss_fn, keras.losses.BinaryCrossentropy, keras.losses.binary_crossentropy)


def options(name, value, allowed):
    """Returns an option, or a structure of them, if each is allowed."""
    for entry in keras.tree.flatten(value):
        if entry not in allowed:
            raise ValueError(f"Expected {name} to be one of {allowed}. Received: {entry!r}")
    return value
