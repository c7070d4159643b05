"""How the methods on the models' answers are tried in the contract tests."""

import keras

from keras_kd import data, losses, schedules
from tests.contract.recipe import EXAMPLES, IMAGE, Recipe, image_batch, image_model


def numbered_batch():
    """Returns (x with example numbers, labels)."""
    x, y = image_batch()
    return data.with_index(x), y


def ensemble():
    """Returns three teachers as one model with an output for each."""
    inputs = keras.Input(IMAGE)
    teachers = [image_model(f"teacher_{number}", 6) for number in range(3)]
    return keras.Model(inputs, [teacher(inputs) for teacher in teachers], name="ensemble")


def recipe(name, *, zero_at_equality=False, shift_invariant=True, learning_rate=0.05, **options):
    """Returns the recipe of a method, by default one of no value 0 at equality."""
    fields = {key: options.pop(key) for key in ("teacher", "batch") if key in options}
    return Recipe(
        lambda: losses.get(name, **options),
        zero_at_equality=zero_at_equality,
        shift_invariant=shift_invariant,
        learning_rate=learning_rate,
        **fields,
    )


RECIPES = {
    "kd": recipe("kd", zero_at_equality=True),
    "logit_mse": recipe("logit_mse", zero_at_equality=True, shift_invariant=False),
    "lskd": recipe("lskd", zero_at_equality=True),
    "dkd": recipe("dkd", zero_at_equality=True, beta=schedules.WarmUp(8.0, 2)),
    "nkd": recipe("nkd"),
    "wsld": recipe("wsld"),
    # The 1e-8 beside the product of norms keeps DIST from 0 at equality by about as much.
    "dist": recipe("dist", zero_at_equality=True),
    "mlkd": recipe("mlkd", zero_at_equality=True),
    "tfkd_self": recipe("tfkd_self", zero_at_equality=True),
    "tfkd_reg": recipe("tfkd_reg"),
    # A small alpha: the entropy of what the student itself says may well grow on its way.
    "pskd": recipe("pskd", examples=EXAMPLES, alpha=0.2, batch=numbered_batch),
    "cskd": recipe("cskd"),
    "multi_teacher": recipe("multi_teacher", weighting="confidence", teacher=ensemble),
}
