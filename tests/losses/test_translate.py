import keras
import numpy as np
import pytest
from keras import ops

from keras_kd.losses import (
    Context,
    DistillationLoss,
    FeatureDistillation,
    LogitsDistillation,
    as_distillation_loss,
)


class MeanGap(keras.distillation.DistillationLoss):
    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return ops.mean(teacher_outputs) - ops.mean(student_outputs)


class NotReduced(keras.distillation.DistillationLoss):
    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return teacher_outputs


class Own(DistillationLoss):
    def per_example(self, teacher_outputs, student_outputs, context):
        return ops.mean(ops.abs(teacher_outputs - student_outputs), axis=-1)


def test_ours_stay():
    loss = Own()
    assert as_distillation_loss(loss) is loss
    assert loss.name == "own"


def test_keras_logits_distillation_is_translated(rng):
    ours = as_distillation_loss(keras.distillation.LogitsDistillation(5.0, "mse"))
    assert type(ours) is LogitsDistillation
    assert ours.temperature == 5.0
    pair = [rng.normal(size=(3, 4)).astype("float32") for _ in range(2)]
    expected = np.square((pair[0] - pair[1]) / 5.0).mean(-1)
    np.testing.assert_allclose(ours.per_example(*pair, Context()), expected, rtol=1e-5)


def test_keras_feature_distillation_is_translated():
    ours = as_distillation_loss(keras.distillation.FeatureDistillation("mae", "a", "b"))
    assert type(ours) is FeatureDistillation
    assert (ours.teacher_layer_name, ours.student_layer_name) == ("a", "b")
    assert ours.loss is keras.losses.mean_absolute_error


def test_any_other_loss_is_one_number_for_the_batch(rng):
    ours = as_distillation_loss(MeanGap())
    assert ours.batch_level
    assert ours.name == "mean_gap"
    pair = [rng.normal(size=(3, 4)).astype("float32") for _ in range(2)]
    result = ours.per_example(*pair, Context())
    np.testing.assert_allclose(result, [pair[0].mean() - pair[1].mean()] * 3, rtol=1e-5)


def test_a_subclass_of_kerass_own_is_not_translated():
    class Other(keras.distillation.LogitsDistillation):
        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            return ops.zeros(())

    assert as_distillation_loss(Other()).batch_level


def test_a_loss_that_is_no_scalar_is_refused(rng):
    batch = rng.normal(size=(3, 4)).astype("float32")
    with pytest.raises(ValueError, match=r"NotReduced.compute_loss\(\) to return a scalar"):
        as_distillation_loss(NotReduced()).per_example(batch, batch, Context())


@pytest.mark.parametrize("thing", ["mse", keras.losses.MeanSquaredError(), None, 3])
def test_anything_else_is_refused(thing):
    with pytest.raises(TypeError, match=r"Expected a DistillationLoss.*FeatureDistillation\(loss="):
        as_distillation_loss(thing)


def test_the_base_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="must implement per_example"):
        DistillationLoss().compute_loss(np.ones((1, 2)), np.ones((1, 2)))
