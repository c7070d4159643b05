"""tfmot's quantization, pruning and clustering of a Keras 3 student, and what it refuses."""

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers

from keras_kd.quantization import tfmot
from keras_kd.quantization.tfmot import methods
from keras_kd.quantization.tfmot.packages import tfmot as their_tfmot
from tests.quantization.test_tfmot_twin import LAYERS, student_of
from tests.quantization.tfmot_students import ARCHITECTURES, plain, randomize

X = np.random.default_rng(0).uniform(size=(16, 8, 8, 1)).astype("float32")
Y = np.zeros((16, 10))
# A BatchNormalization is taken behind a convolution or a dense layer, not as a model's only layer.
ALONE = [case for case in LAYERS if type(case[0]).__name__ != "BatchNormalization"]


def trained(model, steps, callbacks=()):
    model.compile("sgd", "mse")
    model.fit(X, Y, batch_size=16, epochs=steps, verbose=0, callbacks=list(callbacks))
    return model


def kernels(model):
    return {v.path: v.numpy() for v in model.weights if len(v.shape) > 1}


# -- quantize --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "shape"),
    ALONE,
    ids=[f"{type(layer).__name__}-{i}" for i, (layer, _) in enumerate(ALONE)],
)
def test_what_we_let_pass_is_what_tfmot_takes(layer, shape, monkeypatch):
    """The table of layers is tfmot's: nothing is refused that it takes, nor the other way round."""
    student = student_of(layer, shape)
    refused = methods._why_not_quantized(layer)
    monkeypatch.setattr(methods, "_why_not_quantized", lambda layer: [])
    if refused:
        with pytest.raises(ValueError, match="tensorflow-model-optimization can quantize"):
            tfmot.quantize(student)
    else:
        assert isinstance(tfmot.quantize(student), tf_keras.Model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_quantizes_every_layer_of_the_architectures(name, rng):
    student = ARCHITECTURES[name]()
    model = tfmot.quantize(student)
    kinds = {type(layer).__name__ for layer in model.layers}
    assert kinds == {"InputLayer", "QuantizeLayer", "QuantizeWrapperV2"}
    x = rng.normal(size=(4, *student.input_shape[1:])).astype("float32")
    assert model(x, training=True).shape == (4, *student.output_shape[1:])


def test_a_quantized_model_starts_at_the_students_weights():
    student = plain()
    model = tfmot.quantize(student)
    for layer in student.layers:
        if isinstance(layer, layers.Conv2D):
            quantized = model.get_layer(f"quant_{layer.name}").layer
            # Setting the quantized kernel in its place is how tfmot's wrapper works; the variable
            # is still among the wrapper's weights.
            found = [w for w in model.get_layer(f"quant_{layer.name}").get_weights() if w.ndim == 4]
            np.testing.assert_array_equal(found[0], layer.get_weights()[0])
            assert quantized.name == layer.name


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda x: layers.Multiply(name="m")([x, x]), "Multiply 'm', which its 8-bit scheme"),
        (lambda x: layers.LayerNormalization(name="n")(x), "LayerNormalization 'n', which"),
        (
            lambda x: keras.Sequential([keras.Input((8, 8, 1)), layers.ReLU()], name="part")(x),
            "Sequential 'part', a model inside the model",
        ),
    ],
)
def test_refuses_by_name_what_tfmot_cannot_quantize_or_leaves_it_in_float(refused, message):
    inputs = keras.Input((8, 8, 1))
    x = refused(layers.Conv2D(1, 3, padding="same", name="before")(inputs))
    student = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    with pytest.raises(ValueError, match=f"can quantize. Received: .*{message}.* allow_float="):
        tfmot.quantize(student)
    name = student.layers[2].name
    model = tfmot.quantize(student, allow_float=[name])
    assert name in [layer.name for layer in model.layers]
    assert "quant_before" in [layer.name for layer in model.layers]
    assert model(X, training=True).shape == (16, 3)


def test_refuses_activations_that_tfmot_does_not_know():
    inputs = keras.Input((8, 8, 1))
    student = keras.Model(inputs, layers.Conv2D(2, 3, activation="elu", name="c")(inputs))
    with pytest.raises(ValueError, match="Received: Conv2D 'c' with activation elu"):
        tfmot.quantize(student)


def test_layers_are_left_in_float_by_their_class():
    names = [layer.name for layer in tfmot.quantize(plain(), allow_float="Dense").layers]
    assert "logits" in names
    assert "quant_first" in names


def test_passes_on_what_tfmot_alone_can_tell():
    inputs = keras.Input((8, 8, 1))
    x = layers.BatchNormalization(name="alone")(inputs)
    with pytest.raises(ValueError, match=r"Layer alone:.*Hint: a BatchNormalization has to stand"):
        tfmot.quantize(keras.Model(inputs, layers.Conv2D(2, 3)(x)))


def test_refuses_names_that_the_student_does_not_have():
    with pytest.raises(
        ValueError, match=r"allow_float to name layers of 'plain'.* Received: third"
    ):
        tfmot.quantize(plain(), allow_float=["first", "third"])
    with pytest.raises(ValueError, match=r"exclude to name layers of 'plain'.* Received: GRU"):
        tfmot.prune(plain(), exclude="GRU")


# -- prune -----------------------------------------------------------------------------------------


def pruned(student, steps, *args, **kwargs):
    model = tfmot.prune(student, *args, **kwargs)
    return trained(model, steps, [their_tfmot.sparsity.keras.UpdatePruningStep()])


def test_the_smallest_weights_of_each_kernel_become_zero():
    """To the nearest weight: tfmot rounds the share to a number of weights."""
    student = plain()
    back = tfmot.to_keras(pruned(student, 3, 0.75), student)
    for path, kernel in kernels(back).items():
        assert abs((kernel == 0).sum() - 0.75 * kernel.size) <= 0.5, path
    for variable in back.weights:
        if len(variable.shape) == 1 and "bias" not in variable.path:
            assert variable.numpy().any(), variable.path


@pytest.mark.parametrize("steps", [1, 7, 250])
def test_the_last_mask_is_made_at_the_last_step(steps):
    """tfmot makes masks every `frequency` steps only; the whole sparsity has to be among them."""
    schedule = methods._pruning_schedule(0.8, steps)
    made = []
    for step in range(1, steps + 2):
        due, sparsity = schedule(np.int64(step))
        if due:
            made.append(float(sparsity))
    assert made[0] == 0.0
    assert made[-1] == pytest.approx(0.8)
    assert made == sorted(made)


def test_a_schedule_of_tfmots_own():
    schedule = their_tfmot.sparsity.keras.ConstantSparsity(0.25, 1, frequency=1)
    model = tfmot.prune(plain(), schedule)
    assert model.get_layer("prune_low_magnitude_second").pruning_schedule is schedule


def test_leaves_out_depthwise_kernels_and_what_is_excluded():
    student = ARCHITECTURES["ds_cnn"]()
    model = tfmot.prune(student, 0.5, exclude=["stem", "Dense"])
    wrapped = [layer.name for layer in model.layers if "prune" in layer.name]
    assert wrapped == ["prune_low_magnitude_pointwise0", "prune_low_magnitude_pointwise1"]


def test_prunes_nested_and_shared_layers():
    part = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    inner = keras.Model(part, shared(layers.ReLU()(part)), name="inner")
    inputs = keras.Input((8, 8, 1))
    x = shared(inner(layers.Conv2D(3, 1, name="first")(inputs)))
    x = layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x))
    student = keras.Model(inputs, x)
    model = pruned(student, 2, 0.5)
    back = tfmot.to_keras(model, student)
    for shares in (tfmot.strip(model), back):
        assert len(shares.weights) == len(student.weights)
    assert len(model.trainable_weights) == len(student.trainable_weights)
    for path, kernel in kernels(back).items():
        assert abs((kernel == 0).sum() - 0.5 * kernel.size) <= 0.5, path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "float in .0, 1. or a PruningSchedule. Received: 1.0"),
        ({"sparsity": True}, "float in .0, 1. or a PruningSchedule. Received: True"),
        ({"steps": 0}, "steps to be an integer of at least 1. Received: 0"),
        ({"exclude": ["Conv2D", "Dense"]}, "can be pruned: Conv1D.* Received: 'plain' without any"),
        (
            {"sparsity": their_tfmot.sparsity.keras.ConstantSparsity(0.5, 0), "steps": 3},
            "no steps beside a PruningSchedule",
        ),
    ],
)
def test_refuses_prunings_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmot.prune(plain(), **arguments)


# -- cluster ---------------------------------------------------------------------------------------


def test_each_kernel_has_few_values_after_training(rng):
    student = randomize(plain(), rng)
    model = trained(tfmot.cluster(student, 5), 3)
    back = tfmot.to_keras(model, student)
    for path, kernel in kernels(back).items():
        assert len(np.unique(kernel)) <= 5, path
    # The same weights, the same kernels: a convolution's rounding, of outputs of about 1.
    np.testing.assert_allclose(back(X), model(X, training=False), atol=1e-5)
    before = kernels(tfmot.to_keras(tfmot.cluster(student, 5), student))
    assert any((kernel != before[path]).any() for path, kernel in kernels(back).items())


def test_leaves_kernels_with_no_more_weights_than_values():
    student = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="small"), layers.Dense(5)])
    model = tfmot.cluster(student, 12)
    assert "small" in [layer.name for layer in model.layers]
    with pytest.raises(ValueError, match="Expected layers that can be clustered"):
        tfmot.cluster(student, 20)


@pytest.mark.parametrize("clusters", [1, 2.0, True])
def test_refuses_numbers_of_clusters_that_make_no_sense(clusters):
    with pytest.raises(ValueError, match=r"clusters to be an integer of at least 2. Received"):
        tfmot.cluster(plain(), clusters)


# -- strip -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tfmot.twin, tfmot.prune, tfmot.cluster])
def test_a_stripped_model_is_one_of_its_own(make, rng):
    model = make(randomize(plain(), rng))
    stripped = tfmot.strip(model)
    names = [[layer.name for layer in m.layers if layer.weights] for m in (stripped, plain())]
    assert names[0] == names[1]
    np.testing.assert_allclose(stripped(X), model(X, training=False), atol=1e-6)
    before = model.get_weights()
    stripped.set_weights([w + 1 for w in stripped.get_weights()])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_refuses_to_strip_what_cannot_be():
    with pytest.raises(ValueError, match=r"Received: a quantized one.*Hint: frozen"):
        tfmot.strip(tfmot.quantize(plain()))
    with pytest.raises(TypeError, match=r"Expected a tf_keras model. Received: keras"):
        tfmot.strip(plain())
