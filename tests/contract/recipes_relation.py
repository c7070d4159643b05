"""How each method of relation knowledge is tried in the contract tests."""

import keras_kd
from tests.contract.recipe import EXAMPLES, Recipe, image_batch

HIGH = {"teacher_layer_name": "high", "student_layer_name": "high"}
POOL = {"teacher_layer_name": "pool", "student_layer_name": "pool"}
THREE = ["low", "high", "pool"]


def numbered_batch():
    """Returns (x with example numbers, integer labels)."""
    x, y = image_batch()
    return keras_kd.data.with_index(x), y


RECIPES = {
    "rkd": Recipe(lambda: keras_kd.losses.get("rkd", **POOL)),
    "sp": Recipe(lambda: keras_kd.losses.get("sp", **HIGH), learning_rate=1.0),
    "cc": Recipe(lambda: keras_kd.losses.get("cc", **POOL), learning_rate=1.0),
    # The epsilons may bring it below 0 by about as much.
    "pkt": Recipe(lambda: keras_kd.losses.get("pkt", **POOL), learning_rate=1.0),
    "crd": Recipe(
        lambda: keras_kd.losses.get("crd", n_data=EXAMPLES, negatives=4, dim=5, **POOL),
        batch=numbered_batch,
        zero_at_equality=False,
        learning_rate=1e-2,
    ),
    "irg": Recipe(
        lambda: keras_kd.losses.get("irg", teacher_layer_name=THREE, student_layer_name=THREE),
        learning_rate=1e-2,
    ),
}
