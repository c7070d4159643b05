"""Ours in the place of `keras.distillation`: its own tests, its losses in ours, ours in its.

The tests that come installed with Keras are read from where they are, their imports of the
distillation classes are pointed to ours, and each is run. What must differ is listed by name.
"""

import ast
import dataclasses
import inspect
import pathlib
import traceback
import types
import unittest

import keras
import numpy as np
import pytest

import keras_kd

STOCK_FOLDER = pathlib.Path(inspect.getfile(keras.distillation.Distiller)).parent
STOCK_MODULE = "keras.src.distillation"
# As in the file beside this one: some dozens of float32 operations of 6e-8 each.
RTOL = 1e-5


@dataclasses.dataclass(frozen=True)
class Difference:
    """Why a test of Keras must fail here, and the statements of it that do not hold."""

    reason: str
    statements: tuple[str, ...]


LEFT_ALONE = "the caller's teacher is not changed, and so neither is its `trainable` flag"
NO_EXTRACTORS = "the private feature extractors are an inner matter; no model of ours has them"
DIFFERENCES = {
    "TestDistiller.test_distiller_initialization": Difference(
        LEFT_ALONE, ("self.assertFalse(self.teacher.trainable)",)
    ),
    "TestDistiller.test_teacher_freezing": Difference(
        LEFT_ALONE,
        (
            "self.assertFalse(self.teacher.trainable)",
            "self.assertFalse(new_teacher.trainable)",
        ),
    ),
    "TestEndToEndDistillation.test_feature_distillation_end_to_end": Difference(
        NO_EXTRACTORS, ("_feature_extractor",)
    ),
    "TestEndToEndDistillation.test_multi_distillation_loss_distillation_end_to_end": Difference(
        NO_EXTRACTORS, ("_feature_extractor",)
    ),
}


class Redirected(ast.NodeTransformer):
    """Points the imports of Keras's distillation to ours, and leaves out the statements named."""

    def __init__(self, left_out=()):
        self.left_out = left_out
        self.redirected = []

    def visit_ImportFrom(self, node):
        if node.module is None or not node.module.startswith(STOCK_MODULE):
            return node
        self.redirected += [alias.name for alias in node.names]
        return ast.ImportFrom(module="keras_kd", names=node.names, level=0)

    def visit_ClassDef(self, node):
        node.decorator_list = []  # A mark of Keras's own suite, that names the backends.
        return self.generic_visit(node)

    def visit_Expr(self, node):
        source = ast.unparse(node)
        return ast.Pass() if any(part in source for part in self.left_out) else node


def load(path, left_out=()):
    """Return Keras's test file as a module over our classes."""
    tree = ast.parse(path.read_text(), filename=str(path))
    transformer = Redirected(left_out)
    tree = ast.fix_missing_locations(transformer.visit(tree))
    assert transformer.redirected, f"{path.name} imports nothing of {STOCK_MODULE}"
    module = types.ModuleType(f"{path.stem}_on_keras_kd")
    exec(compile(tree, str(path), "exec"), module.__dict__)
    return module


def stock_tests():
    """Return {test's name: its file} of what is installed."""
    found = {}
    for path in sorted(STOCK_FOLDER.glob("*_test.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                names = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
                found |= {f"{node.name}.{n}": path for n in names if n.startswith("test_")}
    return found


STOCK_TESTS = stock_tests()


def run(name, left_out=()):
    """Run one test of Keras on ours; return (exception, source of the statement) or None."""
    case_name, method = name.split(".")
    case = getattr(load(STOCK_TESTS[name], left_out), case_name)(method)
    result = unittest.TestResult()
    caught = []
    # `addFailure` and `addError` get the exception before it becomes text.
    result.addFailure = result.addError = lambda _, err: caught.append(err)
    case.run(result)
    assert not result.skipped, f"{name} was skipped: {result.skipped}"
    if not caught:
        return None
    error = caught[0][1]
    lines = [
        frame.line
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(STOCK_TESTS[name])
    ]
    return error, lines[-1] if lines else ""


def test_keras_brings_its_tests_along():
    """Fewer would mean that a part of the comparison has silently gone."""
    # 11 of the distiller, 5 of the losses in Keras 3.15.
    assert len(STOCK_TESTS) >= 16
    assert set(DIFFERENCES) <= set(STOCK_TESTS)


@pytest.mark.parametrize("name", sorted(set(STOCK_TESTS) - set(DIFFERENCES)))
def test_passes_on_ours(name):
    failure = run(name)
    if failure:
        raise failure[0]


@pytest.mark.parametrize("name", sorted(DIFFERENCES))
def test_differs_only_where_it_is_meant_to(name):
    difference = DIFFERENCES[name]
    failure = run(name)
    assert failure, f"{name} passes now, take it off the list: {difference.reason}"
    error, line = failure
    assert isinstance(error, AssertionError | AttributeError), error
    assert any(part in line for part in difference.statements), line
    rest = run(name, left_out=difference.statements)
    assert rest is None, f"the rest of {name} fails too: {rest}"


def test_a_distiller_without_teacher_has_no_teacher_in_its_config():
    """The third difference on purpose; Keras's always holds a whole model there."""
    distiller = keras_kd.Distiller(mlp("teacher"), mlp("student"), keras_kd.LogitsDistillation())
    distiller.compile(optimizer="sgd", loss=task_loss())
    config = distiller.get_config()
    again = keras_kd.Distiller.from_config(config)
    assert again.teacher is None or config["teacher"] is not None


# -- each side's losses in the other's distiller ---------------------------------------------------


def mlp(name):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4, name="outputs")(hidden), name=name)


def task_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl(teacher, student, temperature):
    t, s = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(t) * (t - s)).sum(-1).mean()


def cosine(teacher, student):
    unit = [z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (teacher, student)]
    return -(unit[0] * unit[1]).sum(-1).mean()


def cross_entropy(teacher, student, temperature):
    """Of the teacher's tempered probabilities; Keras puts its logits there, which are no labels."""
    labels = np.exp(log_softmax(teacher / temperature))
    return -(temperature**2) * (labels * log_softmax(student / temperature)).sum(-1).mean()


class OutputDifference(keras.distillation.DistillationLoss):
    """A user's own loss, which knows `compute_loss` alone."""

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return keras.ops.mean(keras.ops.abs(teacher_outputs - student_outputs))


class PerExample(keras_kd.DistillationLoss):
    """The same on our base: the values per example, from which the scalar follows."""

    def per_example(self, teacher_outputs, student_outputs, context):
        return keras.ops.mean(keras.ops.abs(teacher_outputs - student_outputs), axis=-1)


# Each case: how to make the loss of one implementation, and its value in NumPy from the outputs and
# hidden features of teacher and student.
CASES = {
    "soft target": (
        lambda kd: kd.LogitsDistillation(temperature=2.0, loss=keras.losses.KLDivergence()),
        lambda t, s, ht, hs: kl(t, s, 2.0),
    ),
    "logits by mean squared error": (
        lambda kd: kd.LogitsDistillation(temperature=2.0, loss="mse"),
        lambda t, s, ht, hs: np.square((t - s) / 2.0).mean(),
    ),
    "cross-entropy": (
        lambda kd: kd.LogitsDistillation(
            temperature=2.0, loss=keras.losses.CategoricalCrossentropy(from_logits=True)
        ),
        lambda t, s, ht, hs: cross_entropy(t, s, 2.0),
    ),
    "features by mean squared error": (
        lambda kd: kd.FeatureDistillation(teacher_layer_name="hidden", student_layer_name="hidden"),
        lambda t, s, ht, hs: np.square(ht - hs).mean(),
    ),
    "features by cosine": (
        lambda kd: kd.FeatureDistillation(
            loss="cosine_similarity", teacher_layer_name="hidden", student_layer_name="hidden"
        ),
        lambda t, s, ht, hs: cosine(ht, hs),
    ),
    "final outputs as features": (
        lambda kd: kd.FeatureDistillation(loss=keras.losses.MeanAbsoluteError()),
        lambda t, s, ht, hs: np.abs(t - s).mean(),
    ),
}
MIXED = {
    "keras loss in ours": (keras.distillation, keras_kd),
    "ours in keras": (keras_kd, keras.distillation),
}


def features(model, x):
    both = keras.Model(model.input, [model.output, model.get_layer("hidden").output])
    return [np.float64(z) for z in both(x)]


def check_logs(distiller_class, loss, formula, rng):
    """Fit one batch at rate 0: the logs are of the weights that NumPy sees too."""
    x = rng.normal(size=(32, 6)).astype("float32")
    y = rng.integers(0, 4, size=32)
    teacher, student = mlp("teacher"), mlp("student")
    distiller = distiller_class(
        teacher, student, [loss], distillation_loss_weights=[3.0], student_loss_weight=0.25
    )
    distiller.compile(optimizer=keras.optimizers.SGD(0.0), loss=task_loss())
    logs = distiller.fit(x, y, batch_size=32, epochs=1, verbose=0).history
    (t, ht), (s, hs) = features(teacher, x), features(student, x)
    task = -np.take_along_axis(log_softmax(s), y[:, None], axis=-1).mean()
    # Weighted, as Keras logs it: the sum of the losses by their weights.
    distillation = 3.0 * formula(t, s, ht, hs)
    total = 0.25 * task + 0.75 * distillation
    np.testing.assert_allclose(logs["student_loss"][0], task, rtol=RTOL)
    np.testing.assert_allclose(logs["distillation_loss"][0], distillation, rtol=RTOL)
    np.testing.assert_allclose(logs["total_loss"][0], total, rtol=RTOL)
    return distiller, (x, y)


# Keras's own extractors are called with a tensor where they were made for a list of one.
@pytest.mark.filterwarnings("default:The structure of `inputs` doesn't match")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mixture", MIXED)
def test_losses_of_one_in_the_distiller_of_the_other(mixture, case, rng):
    of_loss, of_distiller = MIXED[mixture]
    make, formula = CASES[case]
    check_logs(of_distiller.Distiller, make(of_loss), formula, rng)


@pytest.mark.parametrize("own_loss", [OutputDifference, PerExample])
@pytest.mark.parametrize("kd", [keras_kd, keras.distillation], ids=["ours", "keras"])
def test_a_loss_of_the_users_own_works_in_both(kd, own_loss, rng):
    check_logs(kd.Distiller, own_loss(), lambda t, s, ht, hs: np.abs(t - s).mean(), rng)


def test_ours_train_a_student_in_the_distiller_of_keras(rng):
    """A real fit: the soft-target loss falls by half at least when nothing else is trained."""
    x = rng.normal(size=(256, 6)).astype("float32")
    y = rng.integers(0, 4, size=256)
    distiller = keras.distillation.Distiller(
        mlp("teacher"), mlp("student"), keras_kd.LogitsDistillation(), student_loss_weight=0.0
    )
    distiller.compile(optimizer=keras.optimizers.Adam(0.01), loss=task_loss())
    losses = distiller.fit(x, y, batch_size=32, epochs=20, verbose=0).history["distillation_loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_ours_are_instances_of_keras():
    assert issubclass(keras_kd.DistillationLoss, keras.distillation.DistillationLoss)
    for name in ("LogitsDistillation", "FeatureDistillation"):
        assert issubclass(getattr(keras_kd, name), keras.distillation.DistillationLoss)


@pytest.mark.parametrize("name", ["Distiller", "LogitsDistillation", "FeatureDistillation"])
def test_constructors_begin_with_the_arguments_of_keras(name):
    """Same names, order and defaults; what is added comes after them."""
    stock = inspect.signature(getattr(keras.distillation, name)).parameters
    ours = inspect.signature(getattr(keras_kd, name)).parameters
    named = [p for p in stock.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    for there, here in zip(named, ours.values(), strict=False):
        assert (here.name, here.default, here.kind) == (there.name, there.default, there.kind)
