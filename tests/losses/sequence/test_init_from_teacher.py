import keras
import numpy as np
import pytest
from keras import layers

from keras_kd.losses.sequence import init_from_teacher
from tests.encoders import LENGTH, encoder
from tests.models import assert_same, snapshot


def nested(name, count):
    """A model of blocks that are models themselves, in a backbone."""
    inputs = x = keras.Input((LENGTH, 4))
    for number in range(1, count + 1):
        block_inputs = keras.Input((LENGTH, 4))
        attended = layers.MultiHeadAttention(2, 2, name="attention")(block_inputs, block_inputs)
        outputs = layers.LayerNormalization(name="norm")(attended)
        x = keras.Model(block_inputs, outputs, name=f"block{number}")(x)
    backbone = keras.Model(inputs, x, name="backbone")
    inputs = keras.Input((LENGTH, 4))
    return keras.Model(inputs, layers.Dense(2, name="head")(backbone(inputs)), name=name)


def flat(name, count):
    """A model of blocks whose layers are named block1_attention, block1_norm and so on."""
    inputs = x = keras.Input((LENGTH, 4))
    for number in range(1, count + 1):
        x = layers.MultiHeadAttention(2, 2, name=f"block{number}_attention")(x, x)
        x = layers.LayerNormalization(name=f"block{number}_norm")(x)
    return keras.Model(inputs, x, name=name)


def assert_copied(ours, theirs):
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_every_other_block():
    teacher, student = nested("teacher", 4), nested("student", 2)
    before = snapshot(teacher)
    init_from_teacher(
        student,
        teacher,
        {"backbone/block1": "backbone/block1", "backbone/block2": "backbone/block3"},
    )
    ours, theirs = student.get_layer("backbone"), teacher.get_layer("backbone")
    assert_copied(ours.get_layer("block1"), theirs.get_layer("block1"))
    assert_copied(ours.get_layer("block2"), theirs.get_layer("block3"))
    head = student.get_layer("head").kernel
    assert not np.array_equal(head, teacher.get_layer("head").kernel)
    head.assign(head + 1.0)
    ours.get_layer("block1").set_weights(
        [weight + 1.0 for weight in ours.get_layer("block1").get_weights()]
    )
    assert_same(before, snapshot(teacher))


def test_layers_by_the_beginning_of_their_names():
    teacher, student = flat("teacher", 4), flat("student", 2)
    init_from_teacher(student, teacher, {"block1": "block2", "block2": "block4"})
    for ours, theirs in (("block1", "block2"), ("block2", "block4")):
        for part in ("attention", "norm"):
            assert_copied(
                student.get_layer(f"{ours}_{part}"), teacher.get_layer(f"{theirs}_{part}")
            )


def test_single_layers():
    teacher, student = encoder("teacher", count=4), encoder("student", count=2)
    init_from_teacher(
        student, teacher, {"embedding": "embedding", "attention2": "attention4", "block2": "block4"}
    )
    assert_copied(student.get_layer("embedding"), teacher.get_layer("embedding"))
    assert_copied(student.get_layer("attention2"), teacher.get_layer("attention4"))


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [
        ({"block7": "block1"}, r"layer of the student. Received: 'block7'.*Its layers: .*block1"),
        ({"block1": "block7"}, r"layer of the teacher. Received: 'block7'"),
        ({"embedding": "block1"}, r"'embedding' of the student to have the weights of 'block1'"),
        ({"embedding": "embedding"}, r"Received: embeddings \(11, 6\); the teacher's: .*\(11, 8\)"),
        ({"block1/norm": "block1"}, r"layer of the student. Received: 'block1/norm'"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_copied(layer_map, message):
    teacher, student = encoder("teacher"), encoder("student", units=6)
    before = snapshot(student)
    with pytest.raises(ValueError, match=message):
        init_from_teacher(student, teacher, {"add1": "add1", **layer_map})
    assert_same(before, snapshot(student))


def test_other_endings_are_refused():
    teacher, student = flat("teacher", 2), flat("student", 2)
    inputs = keras.Input((LENGTH, 4))
    other = layers.LayerNormalization(name="block1_other")
    teacher = keras.Model(inputs, other(teacher(inputs)))
    with pytest.raises(ValueError, match=r"same endings.*attention, norm, other in one of them"):
        init_from_teacher(student, teacher, {"block1": "block1"})


def test_a_model_that_is_not_built_is_refused():
    student = keras.Sequential([layers.Dense(4, name="first")])
    teacher = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="first")])
    with pytest.raises(ValueError, match=r"built layers\. Received: 'first'"):
        init_from_teacher(student, teacher, {"first": "first"})
