"""Thinner and shallower students: within the budget, valid, trainable, and like their teacher."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd
from keras_kd import deploy, students
from keras_kd.graph import graph_of
from keras_kd.students import depths, widths

SHAPE, CLASSES = (32, 32, 3), 5


def vgg():
    """Convolutions in four stages, one of which has four equal ones, and dense layers."""
    inputs = x = keras.Input(SHAPE, name="image")
    for stage, (filters, count) in enumerate([(64, 2), (128, 2), (256, 5), (256, 3)], start=1):
        for number in range(1, count + 1):
            name = f"conv{stage}_{number}"
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(256, activation="relu", name="hidden")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="outputs")(x)
    return keras.Model(inputs, outputs, name="vgg")


def resnet():
    return keras.applications.ResNet50(weights=None, input_shape=SHAPE, classes=CLASSES)


def mobilenet():
    return students.mobilenet_v2(SHAPE, CLASSES, width=1.0, total_stride=8, name="mobilenet")


def densenet():
    """Each layer sees all before it: arXiv:1608.06993, with two blocks of four."""
    inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(64, 3, padding="same", name="conv")(inputs)
    for block in (1, 2):
        for number in range(1, 5):
            name = f"block{block}_{number}"
            y = layers.BatchNormalization(name=f"{name}_norm")(x)
            y = layers.Activation("relu", name=f"{name}_relu")(y)
            y = layers.Conv2D(64, 3, padding="same", name=f"{name}_conv")(y)
            x = layers.Concatenate(name=f"{name}_concat")([x, y])
        x = layers.Conv2D(x.shape[-1] // 2, 1, name=f"transition{block}")(x)
        x = layers.AveragePooling2D(2, name=f"pool{block}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="outputs")(x), name="densenet")


def transformer():
    return students.text_transformer(
        16, CLASSES, vocabulary=64, width=1.0, depth=4, name="transformer"
    )


def encoder():
    """As from Keras's own layers: layer normalizations in front, GELU, and a mask."""
    tokens = keras.Input((16,), dtype="int32", name="tokens")
    mask = keras.Input((16, 16), dtype="bool", name="mask")
    x = layers.Embedding(64, 128, name="embedding")(tokens)
    for block in range(1, 5):
        y = layers.LayerNormalization(name=f"block{block}_before_attention")(x)
        y = layers.MultiHeadAttention(4, 32, name=f"block{block}_attention")(
            y, y, attention_mask=mask
        )
        x = x + layers.Dropout(0.1, name=f"block{block}_dropout")(y)
        y = layers.LayerNormalization(name=f"block{block}_before_dense")(x)
        y = layers.Dense(512, activation="gelu", name=f"block{block}_expand")(y)
        x = layers.Add(name=f"block{block}")([x, layers.Dense(128, name=f"project{block}")(y)])
    outputs = layers.Dense(CLASSES, name="outputs")(x[:, 0])
    return keras.Model({"tokens": tokens, "mask": mask}, outputs, name="encoder")


TEACHERS = {
    "vgg": vgg,
    "resnet": resnet,
    "mobilenet": mobilenet,
    "densenet": densenet,
    "transformer": transformer,
    "encoder": encoder,
}
# What is kept of the blocks that repeat.
REPEATS = {
    "vgg": {"conv3_3", "conv3_5", "conv4_2", "conv4_3"},
    "resnet": {
        "conv2_block3_1_conv",
        *("conv3_block3_1_conv", "conv3_block4_1_conv"),
        *("conv4_block3_1_conv", "conv4_block5_1_conv", "conv4_block6_1_conv"),
        "conv5_block3_1_conv",
    },
    "mobilenet": {
        "block6_expand",
        *("block9_expand", "block10_expand"),
        *("block13_expand", "block16_expand"),
    },
    "densenet": set(),
    "transformer": {"block2_attention", "block4_attention"},
    "encoder": {"block2_attention", "block4_attention"},
}
SLOW = ("resnet", "mobilenet", "encoder")
EACH = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TEACHERS]


@pytest.fixture(scope="module")
def teacher():
    """The VGG, for tests that only read it."""
    return vgg()


def examples(model, count=4):
    """Random inputs in the structure that the model takes."""
    rng = np.random.default_rng(0)

    def one(tensor):
        shape = (count, *tensor.shape[1:])
        if tensor.dtype == "bool":
            return rng.random(shape) < 0.5
        if "int" in tensor.dtype:
            return rng.integers(0, 64, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(one, model.input)


@pytest.mark.parametrize("name", EACH)
def test_a_student_of_every_kind(name):
    """Ten times smaller, like its teacher, fresh, trainable, and to be paired with it."""
    teacher = TEACHERS[name]()
    text = []
    student = students.like(teacher, 10, print_fn=text.append)

    ratio = teacher.count_params() / student.count_params()
    # A group of channels that takes the next multiple of 8 may be too large for what is left. The
    # largest is that of the residual connections, whose 128 channels become 40: a step of 8 there
    # is a fifth of the weights of all layers that read or write it.
    assert 10 <= ratio <= 12
    assert student.name == f"{teacher.name}_student"
    assert keras.tree.map_structure(lambda t: (t.shape, t.dtype), student.input) == (
        keras.tree.map_structure(lambda t: (t.shape, t.dtype), teacher.input)
    )
    assert student.output.shape == teacher.output.shape

    # What the text says was kept of each run of blocks, and the numbers at its end.
    kept = {word.strip() for line in text[0].splitlines()[1:-3] for word in line[22:].split(",")}
    assert {word.split(": ")[-1] for word in kept} == REPEATS[name]
    assert f"{students.cost(student).macs:,} MACs" in text[0]

    named = {layer.name: type(layer) for layer in teacher.layers}
    assert {layer.name: type(layer) for layer in student.layers}.items() <= named.items()
    shared = {id(layer) for layer in teacher.layers} & {id(layer) for layer in student.layers}
    assert not shared
    assert not {id(v) for v in teacher.variables} & {id(v) for v in student.variables}

    x = examples(teacher)
    before = [np.array(weight) for weight in student.trainable_weights]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=name in ("densenet", "encoder"))
    student.compile("sgd", loss, run_eagerly=True)
    assert np.isfinite(student.train_on_batch(x, np.arange(4)))
    changed = [
        not np.array_equal(weight, old)
        for weight, old in zip(student.trainable_weights, before, strict=True)
    ]
    # Biases in front of a softmax or of a normalization get no gradient.
    assert np.mean(changed) > 0.5

    pairs = keras_kd.suggest_layers(teacher, student)
    assert len(pairs) >= 2
    assert [pair.teacher for pair in pairs] == [pair.student for pair in pairs] or name in (
        "transformer",
        "encoder",
    )


def test_it_is_deterministic(teacher):
    one, two = (students.like(teacher, 8) for _ in range(2))
    assert [w.shape for w in one.weights] == [w.shape for w in two.weights]
    assert [layer.name for layer in one.layers] == [layer.name for layer in two.layers]


# -- budgets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "most"),
    [("int8_bytes", 200_000), ("macs", 20_000_000), ("arena_bytes", 60_000)],
)
def test_one_budget(teacher, field, most):
    """It is kept, and nearly used up: a step of 8 channels is a large one only where few are."""
    student = students.like(teacher, **{field: most})
    found = getattr(students.cost(student), field)
    assert 0.7 * most < found <= most


def test_all_budgets_are_kept(teacher):
    budget = {"int8_bytes": 400_000, "macs": 20_000_000, "arena_bytes": 70_000}
    student = students.like(teacher, 3, **budget)
    cost = students.cost(student)
    assert all(getattr(cost, field) <= most for field, most in budget.items())
    assert 3 * student.count_params() <= teacher.count_params()


def test_a_budget_that_is_kept_already_leaves_the_width(teacher):
    student = students.like(teacher, macs=10**12, depth=1.0)
    assert student.count_params() == teacher.count_params()
    assert [w.shape for w in student.weights] == [w.shape for w in teacher.weights]


@pytest.mark.parametrize(("depth", "left"), [(1.0, 4), (0.7, 3), (0.1, 1)])
def test_depth(depth, left):
    """Of four blocks, the last one always."""
    names = [layer.name for layer in students.like(transformer(), depth=depth).layers]
    kept = [block for block in range(1, 5) if f"block{block}_attention" in names]
    assert len(kept) == left
    assert kept[-1] == 4


def test_a_budget_out_of_reach_names_the_smallest(teacher):
    with pytest.raises(ValueError, match=r"Received: macs <= 1,000; the thinnest has [\d,]+ param"):
        students.like(teacher, macs=1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": 0.5}, "compression >= 1"),
        ({"macs": 0}, "macs > 0, or None"),
        ({"arena_bytes": -1}, "arena_bytes > 0, or None"),
        ({"depth": 0}, "depth above 0"),
        ({"depth": 1.5}, "depth above 0"),
    ],
)
def test_bad_arguments(teacher, options, message):
    with pytest.raises(ValueError, match=message):
        students.like(teacher, **options)


# -- channels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [
        *[(64, 1, 64), (64, 0.5, 32), (64, 0.3, 16), (64, 0.32, 24), (64, 0.1, 8), (64, 0.05, 4)],
        *[(3, 0.1, 3), (12, 0.9, 8), (12, 1, 12), (6, 0.99, 4), (1000, 0.001, 4)],
    ],
)
def test_channels_of_a_thinner_layer(channels, width, expected):
    assert widths.thinner(channels, width) == expected


def test_thinner_is_monotone():
    for channels in (1, 4, 7, 12, 24, 64, 100):
        found = [widths.thinner(channels, step / 64) for step in range(1, 65)]
        assert found == sorted(found)
        assert found[-1] == channels


def halved(inputs, outputs, **options):
    """The student of a graph at a quarter of its parameters and its full depth, by layer name."""
    student = students.like(keras.Model(inputs, outputs), 4, depth=1.0, **options)
    return {layer.name: layer for layer in student.layers}


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_added_to_the_input_keeps_its_channels(turned):
    inputs = keras.Input((8, 8, 16))
    x = layers.Conv2D(128, 3, padding="same", name="free")(inputs)
    x = layers.Conv2D(16, 3, padding="same", name="tied")(x)
    x = layers.Add()([x, inputs] if turned else [inputs, x])
    x = layers.Conv2D(128, 3, name="last")(x)
    found = halved(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    assert found["tied"].filters == 16
    assert found["free"].filters < 64
    assert found["last"].filters < 64


def test_sides_of_an_add_behind_a_concatenate():
    """The convolution beside a Concatenate has as many channels as its parts have."""
    inputs = keras.Input((8, 8, 3))
    parts = [layers.Conv2D(n, 3, padding="same", name=f"part{n}")(inputs) for n in (24, 40)]
    other = layers.Conv2D(64, 3, padding="same", name="other")(inputs)
    x = layers.Add(name="add")([other, layers.Concatenate()(parts)])
    found = halved(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert found["other"].filters == found["part24"].filters + found["part40"].filters < 64


def test_an_add_of_unlike_concatenations_keeps_its_channels():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(256, 3, padding="same", name="free")(inputs)

    def joined(sizes):
        return layers.Concatenate()([layers.Conv2D(n, 1, name=f"part{n}")(x) for n in sizes])

    x = layers.Add()([joined((16, 48)), joined((24, 40))])
    found = halved(inputs, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))
    assert [found[f"part{n}"].filters for n in (16, 48, 24, 40)] == [16, 48, 24, 40]
    assert found["free"].filters < 128


def test_squeeze_and_excitation():
    """A gate of as many channels as the map that it is multiplied with, from a Reshape."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(64, 3, padding="same", name="map")(inputs)
    gate = layers.Reshape((1, 1, 64), name="reshape")(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(16, 1, name="squeeze")(gate)
    gate = layers.Conv2D(64, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Multiply()([x, gate])
    found = halved(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    assert found["gate"].filters == found["map"].filters < 64
    assert found["reshape"].target_shape == (1, 1, found["map"].filters)
    assert found["squeeze"].filters < 16


def test_grouped_convolutions_and_normalizations():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(64, 3, name="before")(inputs)
    x = layers.Conv2D(64, 3, groups=64, name="depthwise")(x)
    x = layers.Conv2D(96, 3, groups=4, name="grouped")(x)
    x = layers.GroupNormalization(12, name="norm")(x)
    x = layers.DepthwiseConv2D(2, depth_multiplier=2, name="doubled")(x)
    found = halved(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert found["depthwise"].groups == found["before"].filters < 64
    assert found["grouped"].groups == 4
    assert found["grouped"].filters % found["norm"].groups == 0
    assert found["doubled"].output.shape[-1] == 2 * found["grouped"].filters


def test_a_layer_that_is_called_twice_stays_one():
    first, second = keras.Input((32,), name="a"), keras.Input((32,), name="b")
    tower = keras.Sequential(
        [keras.Input((32,)), layers.Dense(64, "relu", name="one"), layers.Dense(64, name="two")],
        name="tower",
    )
    outputs = layers.Dense(2, name="outputs")(layers.Subtract()([tower(first), tower(second)]))
    student = students.like(keras.Model({"a": first, "b": second}, {"x": outputs}), 2)
    names = [layer.name for layer in student.layers]
    assert names.count("one") == names.count("two") == 1
    # Twice the same input: no difference but the bias, which begins at 0.
    x = np.ones((2, 32), "float32")
    assert np.all(np.array(student({"a": x, "b": x})["x"]) == 0)


def test_layers_of_one_name_in_two_nested_models():
    """Opened up, they stand beside each other, where a model has each name once."""
    inputs = x = keras.Input((32,), name="inputs")
    for part in ("first", "second"):
        dense = layers.Dense(32, "relu", name="dense")
        inner = keras.Sequential([keras.Input((32,)), dense], name=part)
        x = inner(x, training=False)
    student = students.like(keras.Model(inputs, layers.Dense(2, name="outputs")(x)), 2, depth=1.0)
    assert [layer.name for layer in student.layers] == ["inputs", "dense", "dense_2", "outputs"]


def test_a_sequential_teacher():
    teacher = keras.Sequential(
        [
            keras.Input((16,), name="inputs"),
            *(layers.Dense(64, "relu", name=f"hidden{number}") for number in range(1, 5)),
            layers.Dense(3, name="outputs"),
        ],
        name="mlp",
    )
    student = students.like(teacher, 4, name="small")
    assert student.name == "small"
    # Of the three that give the shape they take, two are kept.
    assert [layer.name for layer in student.layers] == [
        *("inputs", "hidden1", "hidden3", "hidden4", "outputs")
    ]
    assert student(np.zeros((2, 16))).shape == (2, 3)


def test_an_output_within_a_block_keeps_the_block():
    """Nor is the width of what is an output changed, or of what is added to it."""
    inputs = x = keras.Input((16, 16, 3), name="inputs")
    x = layers.Conv2D(64, 3, padding="same", name="conv0")(x)
    for number in range(1, 5):
        y = layers.Conv2D(64, 3, padding="same", name=f"conv{number}")(x)
        x = layers.Add(name=f"add{number}")([x, y])
    outputs = layers.Dense(3, name="outputs")(layers.GlobalAveragePooling2D(name="pool")(x))
    middle = keras.Model(inputs, x).get_layer("add1").output
    student = students.like(keras.Model(inputs, [outputs, middle]), 1.2)
    names = [layer.name for layer in student.layers]
    assert [name for name in names if name.startswith("add")] == ["add1", "add2", "add4"]
    assert student.outputs[1].shape == (None, 16, 16, 64)


def test_what_only_left_out_blocks_read_is_left_out():
    inputs = x = keras.Input((8, 8, 16))
    x = layers.Conv2D(16, 3, padding="same", name="conv0")(x)
    for number in (1, 2):
        side = layers.Rescaling(0.5, name=f"side{number}")(inputs)
        x = layers.Conv2D(16, 3, padding="same", name=f"conv{number}")(x)
        x = layers.Add(name=f"add{number}")([x, side])
    model = keras.Model(inputs, layers.Flatten(name="flatten")(x))
    shallow, _ = depths.shallower(graph_of(model), 0.5)
    names = {call.operation.name for call in shallow.calls}
    assert names == {"conv0", "conv2", "side2", "add2", "flatten"}


def test_what_prepares_the_input_is_kept(rng):
    x = rng.normal(3, 2, (50, 8, 8, 3)).astype("float32")
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(x)
    inputs = keras.Input((64, 3))
    y = layers.Rescaling(0.5, name="rescaling")(layers.Reshape((8, 8, 3))(inputs))
    y = layers.Conv2D(64, 3, name="conv")(normalization(y))
    found = halved(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(y)))
    np.testing.assert_array_equal(found["normalization"].mean, normalization.mean)
    assert found["conv"].filters < 32


def test_the_teacher_stays_as_it_is():
    teacher = transformer()
    teacher.trainable = False
    teacher.compile("sgd", loss=lambda y_true, y_pred: y_pred)
    weights, config = teacher.get_weights(), teacher.get_config()
    student = students.like(teacher)
    assert all(layer.trainable for layer in student.layers)
    assert not teacher.trainable
    assert teacher.get_config() == config
    assert all(np.array_equal(a, b) for a, b in zip(teacher.get_weights(), weights, strict=True))


# -- what is refused -------------------------------------------------------------------------------


class Own(keras.layers.Layer):
    """A layer of a user's own."""

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: layers.LSTM(4, name="memory"), "'memory', a LSTM"),
        (lambda: Own(name="own"), "'own', a Own: how its channels follow"),
        (lambda: layers.Reshape((4, 24), name="mixed"), "'mixed', a Reshape: it mixes channels"),
        (lambda: layers.Permute((2, 1), name="turned"), "'turned', a Permute"),
        (
            lambda: layers.EinsumDense("abc,bd->adc", (3, 16), name="odd"),
            "over the last axis",
        ),
        (
            lambda: layers.Conv1D(4, 3, data_format="channels_first", name="first"),
            "'first', a Conv1D: its channels come first",
        ),
    ],
)
def test_layers_that_cannot_be_thinned(layer, message):
    inputs = keras.Input((6, 8))
    x = layers.Conv1D(16, 1, name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layer()(x))))
    with pytest.raises(ValueError, match=message):
        students.like(model, 2)


def test_a_subclassed_teacher_is_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="built Functional or Sequential teacher"):
        students.like(Subclassed())


# -- on the device ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_student_within_a_budget_is_within_it_when_converted(teacher, rng):
    """The estimates are within 2 % of the file and of the arena: so much may be over."""
    budget = {"int8_bytes": 100_000, "arena_bytes": 40_000}
    student = students.like(teacher, **budget)
    for weight in student.weights:
        if weight.path.endswith("bias"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    x = rng.normal(size=(60, *SHAPE)).astype("float32")
    artifact = deploy.convert(student, calibration=x, input_range=(-6, 6))
    assert len(artifact.content) <= 1.02 * budget["int8_bytes"]
    assert deploy.Interpreter(artifact, "tflm").arena_bytes <= 1.02 * budget["arena_bytes"]
