import keras
import pytest
from keras import layers

from keras_kd.features import FeatureReader
from keras_kd.suggest import LayerPair, suggest_layers
from tests.contract.recipe import image_model
from tests.models import mlp


def conv(name, size, channels, stages, *, nested=False):
    """A convolution of stride 2 and one of stride 1 for each stage, c1a, c1b, c2a, ..."""
    inputs = x = keras.Input((size, size, 3))
    for stage in range(1, stages + 1):
        x = layers.Conv2D(channels, 3, 2, padding="same", name=f"c{stage}a")(x)
        x = layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"c{stage}b")(x)
    if nested:
        backbone = keras.Model(inputs, x, name="backbone")
        inputs = keras.Input((size, size, 3))
        x = backbone(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(4, name="outputs")(x), name=name)


def paths(pairs):
    return [(pair.teacher, pair.student) for pair in pairs]


def assert_readable(pairs, teacher, student):
    """Fails unless a distiller can read the layers and finds the shapes that are told."""
    for role, model in (("teacher", teacher), ("student", student)):
        names = [getattr(pair, role) for pair in pairs]
        features = FeatureReader(model, names).features
        shapes = [getattr(pair, f"{role}_shape") for pair in pairs]
        assert [tuple(features[name].shape) for name in names] == shapes


def test_the_last_layers_of_stages_of_equal_size():
    teacher, student = conv("teacher", 32, 8, 3), conv("student", 32, 4, 4)
    pairs = suggest_layers(teacher, student)
    assert paths(pairs) == [("c1b", "c1b"), ("c2b", "c2b"), ("c3b", "c3b")]
    assert pairs[0] == LayerPair(
        "c1b",
        "c1b",
        (None, 16, 16, 8),
        (None, 16, 16, 4),
        "both the last of their size, 16 x 16 (of 2 and 2 layers); 29% and 22% deep in weights",
    )
    assert pairs.teacher_layers == pairs.student_layers == ["c1b", "c2b", "c3b"]
    assert_readable(pairs, teacher, student)


def test_layers_before_any_weight_and_without_a_share_are_passed_over():
    pairs = suggest_layers(image_model("teacher", 6), image_model("student", 4))
    assert paths(pairs) == [("low", "low"), ("high", "high")]


def test_nested_models_are_named_by_path():
    teacher, student = conv("teacher", 32, 8, 2, nested=True), conv("student", 32, 4, 2)
    pairs = suggest_layers(teacher, student)
    assert paths(pairs) == [("backbone/c1b", "c1b"), ("backbone/c2b", "c2b")]
    assert_readable(pairs, teacher, student)


def test_inputs_of_other_sizes_meet_where_both_are_as_many_times_smaller():
    pairs = suggest_layers(conv("teacher", 96, 8, 2), conv("student", 20, 4, 2))
    assert paths(pairs) == [("c1b", "c1b"), ("c2b", "c2b")]
    assert "both 4 x 4 times smaller than the input, 24 x 24 and 5 x 5" in pairs[1].why


def test_sequences():
    def model(name, channels):
        inputs = x = keras.Input((32, 2))
        for stage in (1, 2):
            x = layers.Conv1D(channels, 3, 2, padding="same", name=f"c{stage}")(x)
            x = layers.ReLU(name=f"r{stage}")(x)
        x = layers.GlobalAveragePooling1D()(x)
        return keras.Model(inputs, layers.Dense(4)(x), name=name)

    pairs = suggest_layers(model("teacher", 8), model("student", 4))
    assert paths(pairs) == [("r1", "r1"), ("r2", "r2")]
    assert pairs[0].teacher_shape == (None, 16, 8)


def test_mobilenet_against_a_small_cnn():
    teacher = keras.applications.MobileNetV2((64, 64, 3), weights=None, classes=4)
    student = conv("student", 64, 4, 4)
    pairs = suggest_layers(teacher, student)
    assert paths(pairs) == [
        ("block_1_expand_relu", "c1b"),
        ("block_3_expand_relu", "c2b"),
        ("block_6_expand_relu", "c3b"),
        ("block_13_expand_relu", "c4b"),
    ]
    assert_readable(pairs, teacher, student)
    assert paths(suggest_layers(teacher, student, 1)) == [("block_13_expand_relu", "c4b")]
    assert paths(suggest_layers(teacher, student, 2)) == [
        ("block_3_expand_relu", "c2b"),
        ("block_13_expand_relu", "c4b"),
    ]


def dense(name, count, activation=None):
    model = keras.Sequential([keras.Input((6,))], name=name)
    for index in range(1, count + 1):
        model.add(layers.Dense(8, name=f"d{index}"))
        model.add(layers.LayerNormalization(name=f"n{index}"))
        model.add(layers.ReLU(name=f"r{index}"))
    model.add(layers.Dense(4, activation, name="outputs"))
    return model


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_hidden_layers_by_depth_and_never_the_answer(activation):
    pairs = suggest_layers(dense("teacher", 4, activation), dense("student", 2))
    assert paths(pairs) == [("r2", "r1"), ("r4", "r2")]
    assert pairs[0].why.startswith("hidden layer 2 of 4 and hidden layer 1 of 2; ")
    pairs = suggest_layers(mlp("teacher"), mlp("student", activation=activation))
    assert paths(pairs) == [("hidden", "hidden")]


def test_transformers_block_by_block():
    def model(name, blocks):
        inputs = keras.Input((None,))  # A length that is not fixed.
        x = layers.Embedding(20, 8)(inputs)
        for block in range(1, blocks + 1):
            attended = layers.MultiHeadAttention(2, 4, name=f"attention{block}")(x, x)
            x = layers.LayerNormalization()(layers.Add(name=f"a{block}")([x, attended]))
            hidden = layers.Dense(16, "gelu")(x)
            x = layers.Add(name=f"b{block}")([x, layers.Dense(8)(hidden)])
            x = layers.LayerNormalization()(x)
        return keras.Model(inputs, layers.Dense(4)(x[:, 0]), name=name)

    pairs = suggest_layers(model("teacher", 6), model("student", 2))
    assert paths(pairs) == [("b3", "b1"), ("b6", "b2")]
    assert "block 3 of 6 and block 1 of 2" in pairs[0].why


class Block(layers.Layer):
    """A block as a layer of its own."""

    def build(self, shape):
        self.dense = layers.Dense(shape[-1])
        self.dense.build(shape)

    def call(self, inputs):
        return inputs + self.dense(inputs)


def test_blocks_that_are_layers_of_their_own():
    def model(name, blocks):
        inputs = x = keras.Input((5, 4))
        for block in range(1, blocks + 1):
            x = Block(name=f"block{block}")(x)
        return keras.Model(inputs, layers.Dense(3)(x[:, 0]), name=name)

    pairs = suggest_layers(model("teacher", 4), model("student", 2))
    assert paths(pairs) == [("block2", "block1"), ("block4", "block2")]


def test_layers_that_no_loss_can_read_are_left_out():
    inputs = keras.Input((8, 8, 2))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    x = shared(shared(x))
    x = layers.Dense(4)(layers.GlobalAveragePooling2D()(x))
    student = keras.Model(inputs, x, name="student")
    assert paths(suggest_layers(image_model("teacher", 6), student)) == [("low", "first")]


def test_the_answer_of_a_segmentation_is_left_out():
    def model(name, channels):
        inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(channels, 3, padding="same", name="map")(inputs)
        return keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(x), name=name)

    assert paths(suggest_layers(model("teacher", 6), model("student", 4))) == [("map", "map")]


def test_text():
    teacher, student = image_model("teacher", 6), image_model("student", 4)
    texts = []
    pairs = suggest_layers(teacher, student, print_fn=texts.append)
    assert texts == [str(pairs)]
    first, second = texts[0].splitlines()
    assert first.startswith("low (None, 8, 8, 6) -> low (None, 8, 8, 4): both the last of")
    assert second.startswith("high ")


def sequence(name):
    return keras.Sequential([keras.Input((9, 2)), layers.Conv1D(4, 3, padding="same")], name=name)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        (lambda: Subclassed(name="own"), {}, "'own', a Subclassed.*teacher_features="),
        (lambda: keras.Sequential([layers.Dense(3)], name="late"), {}, "a built teacher.*'late'"),
        (lambda: mlp("teacher"), {}, "stage in common.*no maps or hidden layers.*8 x 8, 4 x 4"),
        (lambda: sequence("teacher"), {}, "stages of 9, student.*of 8 x 8, 4 x 4"),
        (lambda: image_model("teacher", 6), {"count": 3}, "count from 1 to 2.*Received: 3"),
        (lambda: image_model("teacher", 6), {"count": 0}, "count from 1 to 2.*Received: 0"),
        (lambda: conv("teacher", None, 4, 1), {}, "teacher of a fixed size.*'c1b'"),
    ],
)
def test_nothing_is_guessed(teacher, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        suggest_layers(teacher(), image_model("student", 4), **options)
