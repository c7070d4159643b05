"""The students of the literature: sizes against what is published, behaviour, and errors."""

import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import deploy, students

# What a function is called with beside its options: its smallest sensible form.
SMALL = {
    "ds_cnn": (students.ds_cnn, ((25, 10, 1), 3), {"width": 0.25}),
    "resnet8": (students.resnet8, ((16, 16, 3), 3), {"width": 0.5}),
    "mobilenet_v1": (students.mobilenet_v1, ((32, 32, 1), 3), {"width": 0.125}),
    "mobilenet_v2": (students.mobilenet_v2, ((32, 32, 3), 3), {"total_stride": 8}),
    "sensor_cnn": (students.sensor_cnn, ((16, 6), 3), {}),
    "text_transformer": (students.text_transformer, (12, 3), {"vocabulary": 30, "width": 0.125}),
}


# Its 156 layers take seconds to build and to train.
EACH = [pytest.param(n, marks=pytest.mark.slow) if n == "mobilenet_v2" else n for n in SMALL]


@pytest.fixture(params=EACH)
def small(request):
    """A student, and six examples for it."""
    function, arguments, options = SMALL[request.param]
    model = function(*arguments, **options)
    rng = np.random.default_rng(0)
    shape = (6, *model.input_shape[1:])
    if "int" in model.inputs[0].dtype:
        return model, rng.integers(0, 30, shape).astype("int32")
    return model, rng.normal(size=shape).astype("float32")


# -- published sizes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "weights", "macs"),
    [
        # MLPerf Tiny's reference models, counted in their .tflite files; tests/deploy/test_macs.py
        # counts those files again.
        (lambda: students.ds_cnn(), 22_016, 2_656_768),
        (lambda: students.mobilenet_v1(), 208_112, 7_489_664),
        (lambda: students.resnet8(), 77_360, 12_501_632),
        (lambda: students.resnet8(width=2.5), 479_480, 76_473_920),
        # FCN by hand, six sensors and six classes: taps * channels * filters, times 128 steps.
        (
            lambda: students.sensor_cnn((128, 6), 6, width=1),
            8 * 6 * 128 + 5 * 128 * 256 + 3 * 256 * 128 + 128 * 6,
            128 * (8 * 6 * 128 + 5 * 128 * 256 + 3 * 256 * 128) + 128 * 6,
        ),
    ],
)
def test_weights_and_macs(model, weights, macs):
    cost = students.cost(model())
    assert (cost.weights, cost.macs) == (weights, macs)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        # pretrainedResnet.h5 and vww_96.h5 of mlcommons/tiny as Keras counts them.
        (lambda: students.resnet8(), 78_666),
        (lambda: students.mobilenet_v1(use_bias=True), 221_794),
        # Its SavedModel's variables, without the optimizer's.
        (lambda: students.ds_cnn(use_bias=True), 24_908),
        # The biases that idle: one for each of 576 and of 2,736 convolution channels.
        (lambda: students.ds_cnn(), 24_908 - 576),
        (lambda: students.mobilenet_v1(), 221_794 - 2_736),
    ],
)
def test_parameters(model, parameters):
    assert model().count_params() == parameters


@pytest.mark.parametrize(
    ("width", "millions"), [pytest.param(1.0, 300, marks=pytest.mark.slow), (0.35, 59)]
)
def test_macs_of_mobilenet_v2(width, millions):
    """The paper's table 4 (300 M) and Google's table of its checkpoints (59 and 300 M).

    https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet/README.md; the
    tolerance is half of the last digit, and a class more than the paper's 1000 (1,280 MACs).
    """
    model = students.mobilenet_v2((224, 224, 3), 1001, width=width)
    assert students.cost(model).macs == pytest.approx(millions * 1e6, abs=0.9e6)


@pytest.mark.parametrize("width", [0.35, pytest.param(1.3, marks=pytest.mark.slow)])
def test_mobilenet_v2_has_the_parameters_of_keras_applications(width):
    theirs = keras.applications.MobileNetV2((96, 96, 3), alpha=width, weights=None, classes=7)
    ours = students.mobilenet_v2((96, 96, 3), 7, width=width)
    assert ours.count_params() == theirs.count_params()


@pytest.mark.parametrize("width", [0.25, pytest.param(1.0, marks=pytest.mark.slow)])
def test_mobilenet_v1_has_the_parameters_of_keras_applications(width):
    theirs = keras.applications.MobileNet((96, 96, 3), alpha=width, weights=None, classes=7)
    ours = students.mobilenet_v1((96, 96, 3), 7, width=width)
    assert ours.count_params() == theirs.count_params()


def test_text_transformer_is_bert_tiny():
    """Of arXiv:1908.08962's table of sizes: two layers of 128 are .4 M without the table of words.

    By hand, a block: four projections of 128 x 128 with biases, two dense layers of 512, and two
    normalizations of four vectors.
    """
    model = students.text_transformer(64, 2, vocabulary=1000, width=1)
    block = 4 * (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128) + 2 * 4 * 128
    front = 1000 * 32 + 32 * 128 + 64 * 128 + 4 * 128
    assert model.count_params() == front + 2 * block + 128 * 2 + 2
    assert 2 * block == pytest.approx(0.4e6, abs=0.05e6)


# -- the references' weights -----------------------------------------------------------------------


@pytest.mark.data
def test_resnet8_takes_the_references_weights(data_folder, rng):
    theirs = keras.saving.load_model(
        data_folder / "models/mlcommons_tiny/pretrainedResnet.h5", compile=False
    )
    ours = students.resnet8()
    ours.set_weights(theirs.get_weights())
    x = rng.uniform(0, 255, (20, 32, 32, 3)).astype("float32")
    # The same ops in the same order on the same numbers.
    np.testing.assert_array_equal(ours.predict(x, verbose=0), theirs.predict(x, verbose=0))


@pytest.mark.data
def test_mobilenet_v1_takes_the_references_weights(data_folder, rng):
    folder = data_folder / "models/mlcommons_tiny"
    ours = students.mobilenet_v1(use_bias=True)
    # Keras 3 does not load this file, whose DepthwiseConv2D have an argument that it lacks.
    with h5py.File(folder / "vww_96.h5") as file:
        groups = file["model_weights"]
        weights = [
            groups[layer][path][()]
            for layer in groups.attrs["layer_names"]
            for path in groups[layer].attrs["weight_names"]
        ]
    ours.set_weights(weights)
    x = rng.uniform(0, 1, (10, 96, 96, 3)).astype("float32")
    theirs = deploy.predict(folder / "vww_96_float.tflite", x)
    # Probabilities behind 28 layers, each of float32 sums of at most 2,304 terms that are rounded
    # in another order, where normalizations are folded: 28 * sqrt(2304) * 2**-24 = 8e-5.
    np.testing.assert_allclose(ours.predict(x, verbose=0), theirs, atol=8e-5)


@pytest.mark.data
def test_ds_cnn_takes_the_references_weights(data_folder, rng, tmp_path):
    folder = data_folder / "models/mlcommons_tiny"
    with zipfile.ZipFile(folder / "kws_ref_model_savedmodel.zip") as archive:
        archive.extractall(tmp_path)
    (saved,) = tmp_path.rglob("saved_model.pb")
    reader = tf.train.load_checkpoint(str(saved.parent / "variables/variables"))
    ours = students.ds_cnn(use_bias=True)

    def values(index, layer):
        # Keras 2 called the kernel of a depthwise convolution so.
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        for variable in layer.weights:
            name = "depthwise_kernel" if depthwise and variable.name == "kernel" else variable.name
            yield reader.get_tensor(f"layer_with_weights-{index}/{name}/.ATTRIBUTES/VARIABLE_VALUE")

    for index, layer in enumerate(layer for layer in ours.layers if layer.weights):
        layer.set_weights(list(values(index, layer)))
    x = rng.normal(0, 20, (20, 49, 10, 1)).astype("float32")
    loaded = tf.saved_model.load(saved.parent)
    (theirs,) = loaded.signatures["serving_default"](tf.constant(x)).values()
    # Probabilities behind 11 layers of float32 sums of at most 576 terms, whose order may differ:
    # 11 * sqrt(576) * 2**-24 = 2e-5.
    np.testing.assert_allclose(ours(x), theirs, atol=2e-5)


# -- behaviour -------------------------------------------------------------------------------------


def test_outputs_are_probabilities_or_logits(small):
    model, x = small
    outputs = np.array(model(x))
    assert outputs.shape == (6, 3)
    # Three float32 probabilities, each rounded once or twice.
    np.testing.assert_allclose(outputs.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("name", EACH)
def test_logits_on_request(name):
    function, arguments, options = SMALL[name]
    model = function(*arguments, **options, activation=None, name="other")
    assert model.name == "other"
    assert model.layers[-1].get_config()["activation"] == "linear"


def test_a_step_of_training_changes_every_weight(small):
    model, x = small
    before = [np.array(weight) for weight in model.trainable_weights]
    # Rough enough that no gradient underflows: every weight of every layer is reached.
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(x, np.arange(6) % 3)
    unchanged = [
        weight.path
        for weight, old in zip(model.trainable_weights, before, strict=True)
        if np.array_equal(weight, old)
    ]
    # The scores of all positions rise alike with the keys' bias, which a softmax does not see.
    assert [path for path in unchanged if "key/bias" not in path] == []


def test_it_survives_a_file(small, tmp_path):
    model, x = small
    model.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]


@pytest.mark.parametrize(
    ("model", "layer", "shape"),
    [
        (lambda: students.ds_cnn(), "block4_pointwise_relu", (25, 5, 64)),
        (lambda: students.resnet8(), "stack3_relu", (8, 8, 64)),
        (
            lambda: students.mobilenet_v1((32, 32, 3), total_stride=8),
            "block13_pointwise_relu",
            (4, 4, 256),
        ),
        (lambda: students.mobilenet_v2((32, 32, 3), total_stride=8), "block1_project", (32, 32, 8)),
        (lambda: students.mobilenet_v2(width=1.4), "last_relu", (3, 3, 1792)),
        (lambda: students.sensor_cnn((100, 6), 4), "conv3_relu", (100, 32)),
        (lambda: students.text_transformer(20, 4, vocabulary=9), "block2_norm", (20, 64)),
    ],
)
def test_golden_shapes(model, layer, shape):
    assert model().get_layer(layer).output.shape == (None, *shape)


def test_residual_connections_of_mobilenet_v2():
    """Ten of the seventeen bottlenecks keep their shape: arXiv:1801.04381, table 2."""
    model = students.mobilenet_v2(dropout=0.3)
    assert model.get_layer("dropout").rate == 0.3
    names = [layer.name for layer in model.layers]
    assert sum(name.endswith("_add") for name in names) == 10
    assert "block3_add" in names
    assert "block1_add" not in names


def test_positions_matter_to_the_text_transformer(rng):
    """Without them, the mean over positions would not see the order of the tokens."""
    model = students.text_transformer(8, 3, vocabulary=20, width=0.25, activation=None)
    x = rng.integers(0, 20, (5, 8)).astype("int32")
    assert np.abs(model(x) - model(x[:, ::-1])).max() > 1e-4


def test_dropout_is_optional():
    names = [layer.name for layer in students.ds_cnn(dropout=(0, 0)).layers]
    assert "dropout" not in names
    assert "conv_dropout" not in names


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: students.resnet8((32, 32), 10), "input_shape of 3 sizes"),
        (lambda: students.resnet8((None, 32, 3), 10), "input_shape of 3 sizes"),
        (lambda: students.resnet8((3, 32, 3), 10), "at least 4 x 4 for 'resnet8'"),
        (lambda: students.ds_cnn((1, 10, 1)), "at least 2 x 2 for 'ds_cnn'"),
        (lambda: students.mobilenet_v1((31, 96, 3)), "at least 32 x 32 for 'mobilenet_v1'"),
        (lambda: students.mobilenet_v2((28, 28, 1)), "at least 32 x 32 for 'mobilenet_v2'"),
        (lambda: students.mobilenet_v2(total_stride=12), r"total_stride in \[1, 2, 4, 8, 16, 32\]"),
        (lambda: students.resnet8(classes=0), "classes >= 1"),
        (lambda: students.ds_cnn(classes=2.0), "classes >= 1"),
        (lambda: students.ds_cnn(width=0), "width > 0"),
        (lambda: students.ds_cnn(width=0.001), "at least one of 64 channels"),
        (lambda: students.ds_cnn(activation="relu"), "activation 'softmax' or None"),
        (lambda: students.sensor_cnn((7, 3), 2), "at least 8 steps"),
        (lambda: students.text_transformer(9, 2, vocabulary=0), "vocabulary >= 1"),
        (lambda: students.text_transformer(9, 2, vocabulary=5, depth=0), "depth >= 1"),
        (lambda: students.text_transformer(9, 2, vocabulary=5, heads=3), "divide the 64 units"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
