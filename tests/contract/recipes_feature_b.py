"""How the methods on stages, last maps and input gradients are tried."""

from keras_kd.losses import get
from tests.contract.recipe import Recipe, image_model

HIGH = {"teacher_layer_name": "high", "student_layer_name": "high"}
BOTH = {"teacher_layer_name": ["low", "high"], "student_layer_name": ["low", "high"]}
CLASSIFIERS = {"teacher_classifier": "outputs", "student_classifier": "outputs"}

RECIPES: dict[str, Recipe] = {
    "reviewkd": Recipe(lambda: get("reviewkd", **BOTH), zero_at_equality=False, learning_rate=1e-2),
    "semckd": Recipe(lambda: get("semckd", **BOTH), zero_at_equality=False, learning_rate=1e-2),
    # A sum over 4 x 4 x 12 numbers: its gradient is that much larger. Nothing is masked here, since
    # XLA draws other random numbers; tests/losses/feature/test_mgd.py masks.
    "mgd": Recipe(
        lambda: get("mgd", **HIGH, ratio=0.0), zero_at_equality=False, learning_rate=1e-4
    ),
    "catkd": Recipe(lambda: get("catkd", **HIGH, **CLASSIFIERS), learning_rate=1e-1),
    "srrl": Recipe(
        lambda: get("srrl", **HIGH, teacher_classifier="outputs"),
        zero_at_equality=False,
        learning_rate=1e-2,
    ),
    # The student of the paper holds its projector; here its maps have the teacher's channels.
    "simkd": Recipe(
        lambda: get("simkd", **HIGH),
        student=lambda: image_model("student", 6),
        learning_rate=1e-2,
    ),
    "jacobian": Recipe(lambda: get("jacobian"), learning_rate=1e-1),
}
