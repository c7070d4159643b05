"""What a loss may ask of a batch beside the outputs: labels, numbers, weights, several layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd
from tests.models import CLASSES, RTOL, conv_net, images, mlp, task_loss, vectors


class Noting(keras_kd.DistillationLoss):
    """Hands what it is given to a function that returns shape [batch]."""

    def __init__(self, function, needs=(), batch_level=False, leaves_out=False, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.needs = frozenset(needs)
        self.batch_level, self.leaves_out = batch_level, leaves_out

    def per_example(self, teacher_outputs, student_outputs, context):
        return self.function(teacher_outputs, student_outputs, context)


def distilled(loss, model=mlp, **options):
    distiller = keras_kd.Distiller(model("teacher"), model("student"), loss)
    distiller.compile("sgd", task_loss(), **options)
    return distiller


def test_a_loss_that_needs_labels_says_so_without_them():
    loss = Noting(lambda t, s, context: s[:, 0], needs={"labels"}, name="needy")
    distiller = keras_kd.Distiller(mlp("teacher"), mlp("student"), loss, student_loss_weight=0.0)
    distiller.compile("sgd")
    with pytest.raises(ValueError, match="Expected data with labels for 'needy'"):
        distiller.fit(vectors(4)[0], verbose=0)


def test_a_loss_that_needs_numbers_says_so_without_them():
    loss = Noting(lambda t, s, context: s[:, 0], needs={"index"}, name="needy")
    with pytest.raises(ValueError, match=r"data with index for 'needy'.*with_index"):
        distilled(loss).fit(*vectors(4), verbose=0)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "replayable"])
def test_examples_keep_their_numbers_and_the_models_do_not_see_them(kind):
    x, y = vectors(12)
    # Every example is found by its first feature.
    x[:, 0] = np.arange(12)
    loss = Noting(
        lambda t, s, context: ops.abs(ops.cast(context.index, "float32") - context.inputs[:, 0]),
        needs={"index"},
        name="off",
    )
    distiller = distilled(loss)
    numbered = keras_kd.data.with_index(x)
    if kind == "arrays":
        history = distiller.fit(numbered, y, batch_size=4, verbose=0)
    elif kind == "dataset":
        data = tf.data.Dataset.from_tensor_slices((x, y))
        data = keras_kd.data.with_index(data).shuffle(12, seed=0).batch(4)
        history = distiller.fit(data, shuffle=False, verbose=0)
    else:
        data = keras_kd.data.replayable(
            numbered, y, batch_size=4, seed=0, augment=lambda x, seed: x
        )
        history = distiller.fit(data, shuffle=False, verbose=0)
    assert history.history["off"] == [0.0]
    assert distiller.predict(numbered, verbose=0).shape == (12, CLASSES)
    np.testing.assert_array_equal(
        distiller.predict(numbered, verbose=0), distiller.predict(x, verbose=0)
    )


def test_inputs_of_a_dict_keep_their_names():
    x = {"a": np.zeros((3, 2)), "b": np.ones((3, 2))}
    inputs, index = keras_kd.data.split_index(keras_kd.data.with_index(x))
    assert inputs.keys() == {"a", "b"}
    np.testing.assert_array_equal(index, [0, 1, 2])
    assert keras_kd.data.split_index(x) == (x, None)


def test_a_list_of_layers_gives_the_list_of_features():
    x, y = images(4)
    loss = Noting(
        lambda t, s, context: sum(
            ops.mean(ops.abs(a - b), axis=tuple(range(1, len(a.shape))))
            for a, b in zip(t, s, strict=True)
        ),
        teacher_layer_name=["map", "pool"],
        student_layer_name=["map", "pool"],
        name="both",
    )
    distiller = distilled(loss, conv_net)
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    expected = 0.0
    for name in ("map", "pool"):
        a, b = (
            keras.Model(m.input, m.get_layer(name).output)(x)
            for m in (distiller.teacher, distiller.student)
        )
        expected += np.abs(np.float64(a) - np.float64(b)).mean()
    assert logs["both"] == pytest.approx(expected, rel=RTOL)
    lines = []
    distiller.summary(print_fn=lines.append)
    assert "map (None, 8, 8, 4), pool (None, 4)" in lines[0]


def test_a_loss_on_layers_sees_the_outputs_too():
    x, y = images(4)
    loss = Noting(
        lambda t, s, context: ops.sum(context.teacher_outputs - context.student_outputs, axis=-1),
        teacher_layer_name="pool",
        student_layer_name="pool",
        name="outputs",
    )
    distiller = distilled(loss, conv_net)
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    expected = np.float64(distiller.teacher(x)) - np.float64(distiller.student(x))
    # A difference of sums of a few units: float32's 6e-8 of these, not of the result.
    assert logs["outputs"] == pytest.approx(expected.sum(-1).mean(), abs=1e-5)


def test_a_loss_knows_a_training_step():
    x, y = vectors(4)
    loss = Noting(
        lambda t, s, context: ops.full_like(s[:, 0], float(context.training)), name="training"
    )
    distiller = distilled(loss)
    assert distiller.fit(x, y, verbose=0).history["training"] == [1.0]
    assert distiller.evaluate(x, y, verbose=0, return_dict=True)["training"] == 0.0


# -- one number for the batch ----------------------------------------------------------------------


def share_of_valid(t, s, context):
    if context.valid is None:
        return ops.ones_like(s[:, 0])
    valid = ops.cast(context.valid, "float32")
    return valid * ops.mean(valid)


def batch_level(**options):
    return Noting(share_of_valid, batch_level=True, name="share", **options)


def test_weights_of_0_and_1_leave_examples_out():
    x, y = vectors(8)
    distiller = distilled(batch_level(leaves_out=True))
    weight = np.array([1, 0, 1, 1, 0, 0, 1, 1], "float32")
    history = distiller.fit(x, y, sample_weight=weight, batch_size=8, verbose=0)
    assert history.history["share"] == [pytest.approx((5 / 8) ** 2)]


def test_other_weights_are_refused_on_the_first_batch():
    x, y = vectors(8)
    with pytest.raises(ValueError, match="sample weights of 0 and 1"):
        distilled(batch_level(leaves_out=True)).fit(
            x, y, sample_weight=np.full(8, 0.5, "float32"), verbose=0
        )


def test_other_weights_of_a_later_batch_end_the_epoch():
    x, y = vectors(8)
    weight = np.r_[np.ones(4), np.full(4, 0.5)].astype("float32")
    with pytest.raises(ValueError, match=r"weights of 0 and 1.*Received 4 others"):
        distilled(batch_level(leaves_out=True)).fit(
            x, y, sample_weight=weight, batch_size=4, shuffle=False, verbose=0
        )


def test_without_a_way_to_leave_out_all_weights_are_refused():
    x, y = vectors(8)
    with pytest.raises(ValueError, match="Expected no sample weights with 'share'"):
        distilled(batch_level()).fit(x, y, sample_weight=np.ones(8, "float32"), verbose=0)


# -- another teacher -------------------------------------------------------------------------------


def test_another_teacher_is_connected_anew():
    seen = []

    class Connecting(Noting):
        def connect(self, ends):
            seen.append(ends.teacher_model)
            return super().connect(ends)

    distiller = keras_kd.Distiller(
        mlp("first"), mlp("student"), Connecting(lambda t, s, context: s[:, 0])
    )
    other = mlp("other")
    distiller.teacher = other
    assert [model.name for model in seen] == ["first", "other"]


def test_agreement_with_a_teacher_of_other_outputs_is_refused():
    inputs = keras.Input((6,))
    several = keras.Model(inputs, [mlp("a")(inputs), mlp("b")(inputs)])
    with pytest.raises(ValueError, match="same outputs for teacher_agreement"):
        keras_kd.Distiller(
            several,
            mlp("student"),
            Noting(lambda t, s, context: s[:, 0]),
            teacher_agreement=True,
        )
