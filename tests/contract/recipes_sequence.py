"""How the methods on tokens, hidden states and attention are tried in the contract tests."""

import numpy as np

from keras_kd import losses
from tests.contract.recipe import Recipe
from tests.encoders import encoder, tokens
from tests.models import CLASSES


def batch():
    """Returns (sequences with padding, a class for each)."""
    x, _ = tokens()
    return x, np.arange(len(x)) % CLASSES


def recipe(name, *layers, units=6, heads=2, fields=None, **options):
    """Returns the recipe of a method on two encoders.

    Args:
        name: Name of the method.
        *layers: The layers that it reads, of the same names in both.
        units: Size of the student's tokens; the teacher's is 8.
        heads: Attention heads of the student; the teacher has 2.
        fields: Fields of the recipe.
        **options: Of the loss.
    """
    if layers:
        paths = layers[0] if len(layers) == 1 else list(layers)
        options |= {"teacher_layer_name": paths, "student_layer_name": paths}
    return Recipe(
        lambda: losses.get(name, **options),
        teacher=lambda: encoder("teacher", classes=CLASSES),
        student=lambda: encoder("student", units=units, heads=heads, classes=CLASSES),
        batch=batch,
        **{"learning_rate": 0.05, **(fields or {})},
    )


RECIPES = {
    "hidden": recipe("hidden", "block1", "block2"),
    "distilbert": recipe("distilbert", "block2", fields={"shift_invariant": True}),
    "tinybert": recipe(
        "tinybert", "embedding", "attention1:scores", "block1", "attention2:scores", "block2"
    ),
    "tinybert_prediction": recipe(
        "tinybert_prediction", fields={"shift_invariant": True, "zero_at_equality": False}
    ),
    "minilmv2": recipe("minilmv2", "attention2", heads=1, relation_heads=2),
}
