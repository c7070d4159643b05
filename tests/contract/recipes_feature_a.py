"""How the methods on hints, attention, Grams, boundaries, factors and margins are tried."""

from keras_kd.losses import get
from keras_kd.losses.feature import make_paraphraser
from tests.contract.recipe import IMAGE, Recipe, image_model

HIGH = {"teacher_layer_name": "high", "student_layer_name": "high"}
BOTH = {"teacher_layer_name": ["low", "high"], "student_layer_name": ["low", "high"]}
BEFORE = {"teacher_layer_name": "norm2", "student_layer_name": "norm2"}


def _factor_transfer():
    feature = image_model("shape", 6).get_layer("high").output
    _, encoder = make_paraphraser((None, IMAGE[0] // 2, IMAGE[1] // 2, feature.shape[-1]))
    return get("ft", **HIGH, paraphraser=encoder)


RECIPES: dict[str, Recipe] = {
    "feature": Recipe(lambda: get("feature", **HIGH), learning_rate=1e-2),
    "fitnets": Recipe(lambda: get("fitnets", **HIGH), zero_at_equality=False, learning_rate=1e-2),
    "at": Recipe(lambda: get("at", **BOTH), learning_rate=1e-1),
    "nst": Recipe(lambda: get("nst", **HIGH), learning_rate=1e-2),
    "fsp": Recipe(lambda: get("fsp", **BOTH), learning_rate=1e-2),
    "ab": Recipe(lambda: get("ab", **BEFORE), zero_at_equality=False, learning_rate=1e-2),
    "ft": Recipe(_factor_transfer, zero_at_equality=False, learning_rate=1e-2),
    "vid": Recipe(
        lambda: get("vid", **HIGH), zero_at_equality=False, non_negative=False, learning_rate=1e-2
    ),
    "ofd": Recipe(lambda: get("ofd", **BEFORE), zero_at_equality=False, learning_rate=1e-4),
    "cwd": Recipe(lambda: get("cwd", **HIGH), learning_rate=1e-2),
    "pkd": Recipe(lambda: get("pkd", **HIGH), learning_rate=1e-2),
    "ickd": Recipe(lambda: get("ickd", **HIGH), learning_rate=1e-2),
}
