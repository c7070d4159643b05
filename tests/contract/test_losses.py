"""What every method has to keep, whatever it computes: run over all that are registered."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import Context
from tests.contract import (
    recipes_feature_a,
    recipes_feature_b,
    recipes_relation,
    recipes_response,
    recipes_sequence,
)
from tests.contract.recipe import EXAMPLES
from tests.models import assert_equal, assert_same, snapshot, task_loss

RECIPES = {
    **recipes_response.RECIPES,
    **recipes_feature_a.RECIPES,
    **recipes_feature_b.RECIPES,
    **recipes_relation.RECIPES,
    **recipes_sequence.RECIPES,
}
# A loss on an inner layer, alone, has no gradient for what stands above it: Keras says so.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")


def methods(asked=lambda recipe: True):
    """Runs a test for each method of whose recipe it can be asked."""
    return pytest.mark.parametrize("name", [n for n in sorted(RECIPES) if asked(RECIPES[n])])


every_method = methods()


def made(recipe, *, teacher=None, student=None, optimizer=None, **options):
    """Returns a distiller of the recipe's loss alone, compiled for plain gradient steps."""
    keras.utils.set_random_seed(0)
    distiller = keras_kd.Distiller(
        recipe.teacher() if teacher is None else teacher,
        recipe.student() if student is None else student,
        recipe.make(),
        student_loss_weight=0.0,
    )
    distiller.compile(
        keras.optimizers.SGD(recipe.learning_rate) if optimizer is None else optimizer,
        task_loss(),
        **options,
    )
    return distiller


def value(distiller, x, y, **options):
    """Returns the loss of a batch, without weight."""
    logs = distiller.evaluate(x, y, batch_size=EXAMPLES, verbose=0, return_dict=True, **options)
    return logs["distillation_loss"]


def test_every_method_has_a_recipe():
    assert sorted(RECIPES) == sorted(keras_kd.losses.available())


@every_method
def test_the_configuration_makes_the_loss_again(name):
    loss = RECIPES[name].make()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()


@every_method
def test_some_steps_lower_it_and_leave_the_teacher_alone(name):
    recipe = RECIPES[name]
    distiller = made(recipe)
    x, y = recipe.batch()
    before_teacher = snapshot(distiller.teacher)
    distiller.fit(x, y, batch_size=EXAMPLES, epochs=1, shuffle=False, verbose=0)
    before = snapshot(distiller.student, *distiller.projectors)
    history = distiller.fit(x, y, batch_size=EXAMPLES, epochs=12, shuffle=False, verbose=0)
    losses = history.history["distillation_loss"]
    assert np.isfinite(losses).all()
    # What draws anew each step (masks, negatives) goes up and down on its way.
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert_same(before_teacher, snapshot(distiller.teacher))
    after = snapshot(distiller.student, *distiller.projectors)
    assert any(not np.array_equal(before[key], after[key]) for key in before)


@every_method
def test_the_gradient_reaches_the_student_and_all_parts(name):
    recipe = RECIPES[name]
    distiller = made(recipe)
    x, y = recipe.batch()
    distiller.fit(x, y, batch_size=EXAMPLES, shuffle=False, verbose=0)
    parts = [v for part in distiller.projectors for v in part.trainable_variables]
    students = distiller.student.trainable_variables
    variables = [v.value for v in (*parts, *students)]
    with tf.GradientTape() as tape:
        loss = distiller.compute_loss(x, y)
    gradients = tape.gradient(loss, variables)
    for variable, gradient in zip(parts, gradients[: len(parts)], strict=True):
        assert gradient is not None, f"no gradient for {variable.path}"
    reached = [g for g in gradients[len(parts) :] if g is not None]
    assert any(np.abs(tf.convert_to_tensor(g)).max() > 0 for g in reached)
    assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients if g is not None)


@methods(lambda recipe: recipe.zero_at_equality)
def test_a_copy_of_the_teacher_has_nothing_to_learn(name):
    recipe = RECIPES[name]
    teacher = recipe.teacher()
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    x, y = recipe.batch()
    # Sums of some hundred terms near 1, each with float32's rounding of 6e-8.
    assert abs(value(made(recipe, teacher=teacher, student=student), x, y)) < 1e-4


@every_method
def test_it_is_finite_on_extreme_and_on_constant_outputs(name):
    """Logits and features of 1e4 and more; a student that says the same of everything."""
    recipe = RECIPES[name]
    x, y = recipe.batch()
    for factor in (1e4, 0.0):
        student = recipe.student()
        for variable in student.trainable_variables:
            if variable.name == "kernel":
                variable.assign(variable * factor)
        distiller = made(recipe, student=student)
        result = value(distiller, x, y)
        assert np.isfinite(result)
        assert result >= -1e-4 or not recipe.non_negative
        with tf.GradientTape() as tape:
            loss = distiller.compute_loss(x, y)
        weights = [v.value for v in distiller.trainable_variables]
        for gradient in tape.gradient(loss, weights):
            assert gradient is None or np.isfinite(tf.convert_to_tensor(gradient)).all()


@pytest.mark.slow
@every_method
def test_in_mixed_float16_it_is_close_to_float32(name):
    recipe = RECIPES[name]
    x, y = recipe.batch()
    plain = made(recipe)
    expected = value(plain, x, y)
    keras.config.set_dtype_policy("mixed_float16")
    half = made(recipe)
    half.student.set_weights(plain.student.get_weights())
    half.teacher.set_weights(plain.teacher.get_weights())
    for ours, theirs in zip(half.projectors, plain.projectors, strict=True):
        ours.set_weights(theirs.get_weights())
    # Activations carry a relative error of 2**-11 a layer; squares and differences double it a few
    # times. A loss in float16 would be off by far more, or infinite.
    assert value(half, x, y) == pytest.approx(expected, rel=0.05, abs=1e-3)


@pytest.mark.slow
@every_method
def test_xla_gives_the_same(name):
    recipe = RECIPES[name]
    x, y = recipe.batch()
    logs = [
        made(recipe, jit_compile=jit)
        .fit(x, y, batch_size=EXAMPLES, shuffle=False, verbose=0)
        .history["distillation_loss"]
        for jit in (False, True)
    ]
    # The order of float32 sums differs.
    np.testing.assert_allclose(logs[0], logs[1], rtol=1e-3, atol=1e-6)


@every_method
def test_examples_of_weight_zero_count_for_nothing(name):
    recipe = RECIPES[name]
    x, y = recipe.batch()
    loss = recipe.make()
    assert loss.leaves_out or not loss.batch_level
    distiller = made(recipe)
    weight = np.r_[np.ones(EXAMPLES - 3), np.zeros(3)].astype("float32")
    with_others = value(distiller, x, y, sample_weight=weight)
    alone = keras.tree.map_structure(lambda a: a[: EXAMPLES - 3], (x, y))
    # Keras divides by all examples, those of weight 0 too.
    expected = value(distiller, *alone) * (EXAMPLES - 3) / EXAMPLES
    assert with_others == pytest.approx(expected, rel=1e-3, abs=1e-6)
    nothing = value(distiller, x, y, sample_weight=np.zeros(EXAMPLES, "float32"))
    assert nothing == pytest.approx(0.0, abs=1e-6)


@methods(lambda recipe: recipe.shift_invariant)
def test_logits_may_be_shifted(name):
    recipe = RECIPES[name]
    x, y = recipe.batch()
    distiller = made(recipe)
    before = value(distiller, x, y)
    bias = distiller.student.get_layer("outputs").bias
    bias.assign(bias + 3.0)
    assert value(distiller, x, y) == pytest.approx(before, rel=1e-3, abs=1e-5)


@pytest.mark.slow
@every_method
def test_a_resumed_run_equals_the_uninterrupted_one(name, tmp_path):
    recipe = RECIPES[name]
    x, y = recipe.batch()

    def trained(epochs, initial_epoch=0, distiller=None):
        if distiller is None:
            distiller = made(recipe, optimizer=keras.optimizers.Adam(1e-3))
        distiller.fit(
            x,
            y,
            batch_size=EXAMPLES // 2,
            epochs=epochs,
            initial_epoch=initial_epoch,
            shuffle=False,
            verbose=0,
        )
        return distiller

    whole = trained(3)
    half = trained(2)
    half.save(tmp_path / "distiller.keras")
    resumed = keras.models.load_model(tmp_path / "distiller.keras")
    resumed.teacher = half.teacher
    trained(3, 2, resumed)
    ours, theirs = (snapshot(d.student, *d.projectors) for d in (whole, resumed))
    assert_equal(ours, theirs)


def test_context_without_weights_leaves_nothing_out():
    assert Context().valid is None
