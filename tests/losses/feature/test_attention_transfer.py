import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import Context, get
from keras_kd.losses.feature import AttentionTransfer, attention_transfer
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import (
    ATOL,
    RTOL,
    adaptive_pool,
    check_compiled,
    check_safe,
    maps,
    normalized,
    value_and_gradient,
)
from tests.models import images


def difference(teacher, student, p):
    size = tuple(map(min, teacher.shape[1:3], student.shape[1:3]))
    q = [
        normalized((np.abs(adaptive_pool(array, size)) ** p).mean(-1), axis=(1, 2))
        for array in (teacher, student)
    ]
    return q[0] - q[1]


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize(
    "sizes", [((6, 4), (6, 4)), ((3, 2), (6, 4)), ((6, 4), (3, 2)), ((7, 5), (4, 3))]
)
def test_value(p, sizes, rng):
    teacher, student = maps(rng, (3, *sizes[0], 5), (3, *sizes[1], 2))
    expected = difference(teacher, student, p)
    result = attention_transfer(teacher=teacher, student=student, p=p)
    np.testing.assert_allclose(result, np.square(expected).mean((1, 2)), rtol=RTOL, atol=ATOL)
    result = attention_transfer(teacher=teacher, student=student, p=p, mode="paper")
    np.testing.assert_allclose(result, np.sqrt(np.square(expected).sum((1, 2))), rtol=RTOL)


@pytest.mark.parametrize("mode", ["code", "paper"])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_it_is_safe(mode, p, rng):
    def function(teacher, student):
        return attention_transfer(teacher=teacher, student=student, p=p, mode=mode)

    pair = maps(rng, (3, 6, 4, 5), (3, 3, 2, 2))
    check_safe(function, *pair)
    values, gradient = value_and_gradient(lambda s: function(pair[0], s), pair[0])
    assert not np.any(values)
    assert not np.any(gradient)


def test_it_compiles(rng):
    def function(teacher, student):
        return attention_transfer(teacher=teacher, student=student)

    check_compiled(function, *maps(rng, (3, 7, 4, 5), (3, 3, 3, 2)))


def test_the_scale_of_a_map_says_nothing(rng):
    teacher, student = maps(rng, (3, 6, 4, 5), (3, 6, 4, 5))
    plain = attention_transfer(teacher=teacher, student=student)
    scaled = attention_transfer(teacher=teacher, student=-100.0 * student)
    np.testing.assert_allclose(plain, scaled, rtol=RTOL)


def test_pairs_are_summed(rng):
    pairs = [maps(rng, (3, 6, 4, 5), (3, 6, 4, 2)), maps(rng, (3, 3, 2, 5), (3, 3, 2, 2))]
    loss = AttentionTransfer(["a", "b"], ["c", "d"], projector=None)
    result = loss.per_example([t for t, _ in pairs], [s for _, s in pairs], Context())
    expected = sum(attention_transfer(teacher=t, student=s) for t, s in pairs)
    np.testing.assert_allclose(result, expected, rtol=RTOL)


def test_what_it_cannot_weigh_is_refused(rng):
    pair = list(map(tf.constant, maps(rng, (3, 4, 4, 2), (3, 4, 4, 2))))
    loss = AttentionTransfer("a", "b", name="at")
    with pytest.raises(ValueError, match="one sample weight an example for 'at'"):
        loss.per_example(*pair, Context(position_weight=np.ones((3, 4, 4), "float32")))
    with pytest.raises(ValueError, match="without padding for 'at'"):
        loss.per_example(*pair, Context(masks=(np.ones((3, 4, 4), bool),)))


def test_configuration():
    loss = get("at", teacher_layer_name="a", student_layer_name="b", p=4, mode="paper")
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is AttentionTransfer
    assert keras.saving.serialize_keras_object(again) == config
    assert (again.p, again.mode) == (4, "paper")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.5}, "p to be a number of at least 1"),
        ({"p": "two"}, "p to be a number"),
        ({"mode": "sum"}, r"mode to be one of \('code', 'paper'\). Received: 'sum'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        AttentionTransfer("a", "b", **options)


def test_as_many_layers_of_each():
    with pytest.raises(ValueError, match="as many layers of the teacher as of the student"):
        AttentionTransfer(["a", "b"], ["c"])


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_fit_lowers_it():
    loss = AttentionTransfer(["low", "high"], ["low", "high"])
    distiller = keras_kd.Distiller(
        image_model("teacher", 6), image_model("student", 4), loss, student_loss_weight=0.0
    )
    distiller.compile(keras.optimizers.Adam(1e-2))
    losses = distiller.fit(*images(), epochs=8, verbose=0).history["attention_transfer"]
    assert losses[-1] < losses[0]
    assert len(distiller.projectors) == 0
