"""The rewrite: what becomes of a student, that it trains as one, and what is refused."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd import heads, quantization
from keras_kd.quantization import FakeQuantize, Phases, Quantized, quantize_aware
from tests.quantization.on_device import examples_for, trained

layers = keras.layers
SHAPE = (8, 8, 3)
ACTIVATION_BITS = pytest.mark.parametrize("scheme", ["int8", "int16x8"])


def student(activation="softmax"):
    """Return a small residual network with every kind of quantized block in it."""
    inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(momentum=0.5, name="stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    y = layers.Conv2D(6, 1, name="pointwise")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.ReLU(name="sum_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(4, activation=activation, name="classes")(x)
    return keras.Model(inputs, outputs, name="student")


@pytest.fixture
def x(rng):
    return rng.normal(size=(64, *SHAPE)).astype("float32")


@pytest.fixture
def y(x):
    """Return labels that can be learned: where the channels' means lie."""
    means = x.mean(axis=(1, 2))
    return 2 * (means[:, 0] > 0) + (means[:, 1] > 0)


@pytest.fixture(scope="module")
def weights():
    """Return the weights of a student that has learned a little."""
    keras.utils.set_random_seed(0)
    model, x = student(), np.random.default_rng(0).normal(size=(64, *SHAPE)).astype("float32")
    means = x.mean(axis=(1, 2))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, 2 * (means[:, 0] > 0) + (means[:, 1] > 0), epochs=3, batch_size=16, verbose=0)
    return model.get_weights()


@pytest.fixture
def model(weights):
    made = student()
    made.set_weights(weights)
    return made


def range_layers(model):
    return {layer.name: layer for layer in model.layers if isinstance(layer, FakeQuantize)}


def without_rounding(quantized):
    for layer in range_layers(quantized).values():
        layer.calibrating = True
    for layer in quantized.layers:
        if isinstance(layer, Quantized):
            # So many steps that rounding is lost in float32.
            layer.bits = 16
    return quantized


# -- the model that comes out ----------------------------------------------------------------------


def test_calibrated_it_says_what_the_student_says(model, x):
    quantized = quantize_aware(model, calibration=x)
    # Some ten roundings of half a step of 1/255 of the range each, of which the softmax's share is
    # at most 1/4; measured .011, with a wrong scale or fold .3 and more.
    difference = quantized.predict(x, verbose=0) - model.predict(x, verbose=0)
    assert np.abs(difference).max() < 0.05
    assert np.abs(difference).max() > 0


def test_without_rounding_it_is_the_student(model, x):
    """Folding, order of layers and copied values, to float32's precision."""
    quantized = without_rounding(quantize_aware(model, calibration=x))
    found = quantized.predict(x, verbose=0)
    # Steps of 2**-15 of a kernel's range, four kernels with sums of at most 54 products.
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=2e-3)


def test_only_behind_a_relu_there_is_nothing_below_0(model):
    ranges = range_layers(quantize_aware(model))
    found = {name for name, layer in ranges.items() if layer.nonnegative}
    assert found == {"stem_relu_range", "depthwise_relu_range", "sum_relu_range"}


def test_it_is_a_plain_model_of_named_layers(model, x):
    quantized = quantize_aware(model, calibration=x)
    assert type(quantized) is type(model)
    assert quantized.name == "student"
    names = {layer.name for layer in quantized.layers}
    assert {"image", "stem", "stem_relu", "depthwise", "pointwise", "sum", "sum_relu"} <= names
    assert {"image_range", "stem_relu_range", "pointwise_range", "sum_relu_range"} <= names
    # Where an activation is part of the op in front of it there is no range between the two.
    assert not {"stem_range", "sum_range", "depthwise_range", "stem_norm"} & names
    assert {"depthwise_relu", "depthwise_relu_range", "classes_softmax_range"} <= names
    softmax = range_layers(quantized)["classes_softmax_range"]
    np.testing.assert_array_equal(softmax.range, [0.0, 255 / 256])


def test_it_shares_nothing_with_the_student(model, x, y):
    before = [np.array(w) for w in model.get_weights()]
    graph = [len(layer._inbound_nodes) for layer in model.layers]
    quantized = quantize_aware(model, calibration=x)
    theirs = {id(v) for v in model.variables}
    assert not theirs & {id(v) for v in quantized.variables}
    quantized.compile("sgd", "sparse_categorical_crossentropy")
    quantized.fit(x, y, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [len(layer._inbound_nodes) for layer in model.layers] == graph


def test_a_shared_layer_stays_shared(rng):
    shared = layers.Dense(5, name="shared")
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    model = keras.Model([left, right], layers.Add(name="sum")([shared(left), shared(right)]))
    trained(model, rng)
    x = [rng.normal(size=(32, 6)).astype("float32") for _ in range(2)]
    quantized = quantize_aware(model, calibration=x)
    assert sum(isinstance(layer, Quantized) for layer in quantized.layers) == 1
    assert {"shared_range", "shared_range_2", "left_range"} <= set(range_layers(quantized))
    spread = np.ptp(model.predict(x, verbose=0))
    difference = quantized.predict(x, verbose=0) - model.predict(x, verbose=0)
    # Five roundings of half a step of at most twice the range.
    assert np.abs(difference).max() < 5 * spread / 255


def test_a_model_inside_is_dissolved(rng, x, model):
    body = keras.Model(model.input, model.get_layer("pool").output, name="body")
    inputs = keras.Input(SHAPE, name="picture")
    nested = keras.Model(inputs, layers.Dense(3, name="head")(body(inputs)))
    quantized = quantize_aware(nested, calibration=x)
    names = {layer.name for layer in quantized.layers}
    assert {"picture_range", "stem", "pool_range", "head_range"} <= names
    assert "body" not in names
    spread = np.ptp(nested.predict(x, verbose=0))
    assert np.abs(quantized(x) - nested(x)).max() < 0.05 * spread


def test_a_sequential_student(rng):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(3)], name="mlp"
    )
    trained(model, rng)
    x = examples_for(model, rng)
    quantized = quantize_aware(model, calibration=x, observer=quantization.MinMax())
    spread = np.ptp(model.predict(x, verbose=0))
    assert np.abs(quantized(x) - model(x)).max() < 0.05 * spread


def test_several_inputs_and_outputs_keep_their_structure(rng):
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    joined = layers.Concatenate(name="joined")([inputs["a"], inputs["b"]])
    outputs = {"sum": layers.Dense(2, name="one")(joined), "raw": layers.ReLU(name="two")(joined)}
    model = trained(keras.Model(inputs, outputs), rng)
    x = {name: rng.normal(size=(32, 4)).astype("float32") for name in "ab"}
    quantized = quantize_aware(model, calibration=x, observer=quantization.MinMax())
    found = quantized.predict(x, verbose=0)
    assert found.keys() == {"sum", "raw"}
    for name, expected in model.predict(x, verbose=0).items():
        assert np.abs(found[name] - expected).max() < 0.05 * np.ptp(expected)
    # One range for both of the concatenation's inputs.
    assert "joined_range" in range_layers(quantized)


def test_a_softmax_keeps_its_logits_for_the_losses(model, x):
    """Rounded to 0, a probability has no gradient; its logit has."""
    quantized = quantize_aware(model, calibration=x)
    outputs = quantized(x)
    assert heads.activations(quantized) == "softmax"
    logits = heads.logits(outputs, "softmax")
    # Half a step of 1/256.
    assert np.abs(keras.ops.softmax(logits) - outputs).max() <= 0.5 / 256 + 1e-6


def test_a_teacher_can_be_its_own_student(model, x, y):
    distiller = keras_kd.Distiller(
        model, quantize_aware(model, calibration=x), keras_kd.LogitsDistillation(2.0)
    )
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(distiller.fit(x, y, verbose=0).history["total_loss"]).all()


# -- training --------------------------------------------------------------------------------------


def test_without_rounding_a_step_is_the_students_step(model, x, y):
    """Batch statistics, their averages and all gradients, to float32's precision."""
    quantized = quantize_aware(model, calibration=x)
    quantization.set_phase(quantized, quantizing=False)
    for each in (model, quantized):
        each.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        each.fit(x, y, verbose=0, shuffle=False, batch_size=32)
    for name in ("stem", "depthwise", "pointwise", "classes"):
        found = quantized.get_layer(name).layer.get_weights()
        for one, other in zip(found, model.get_layer(name).get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    norm = quantized.get_layer("stem").batch_norm
    for one, other in zip(
        norm.get_weights(), model.get_layer("stem_norm").get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"observer": quantization.LearnedStep(), "learn_weight_steps": True},
        {"scheme": "int8x4", "learn_weight_steps": True},
        {"scheme": "int8_per_tensor", "observer": quantization.Percentile()},
        {"scheme": "int16x8"},
    ],
    ids=["int8", "learned", "4 bits", "per tensor", "16 bits"],
)
def test_it_learns(model, x, y, options):
    fallen = []
    for each in (quantize_aware(model, calibration=x, **options), model):
        each.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        losses = each.fit(x, y, verbose=0, shuffle=False, epochs=10, batch_size=16).history["loss"]
        fallen.append(losses[0] - losses[-1])
    # As much as the float student learns in the same steps, but for what 4 bits cost.
    assert fallen[0] > 0.8 * fallen[1]
    assert fallen[1] > 0.2


def test_the_learned_steps_are_learned(model, x, y):
    quantized = quantize_aware(
        model, calibration=x, observer=quantization.LearnedStep(), learn_weight_steps=True
    )
    learned = [v for v in quantized.trainable_variables if v.name.startswith("log_step")]
    # One for each of four kernels, and for each range but the softmax's.
    assert len(learned) == 4 + len(range_layers(quantized)) - 1
    before = [np.array(v) for v in learned]
    quantized.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    quantized.fit(x, y, verbose=0)
    same = [v.path for old, v in zip(before, learned, strict=True) if np.all(old == np.array(v))]
    assert not same


def test_ranges_without_calibration_come_from_the_first_step(model, x, y):
    quantized = quantize_aware(model)
    assert np.all(np.isnan(quantized.predict(x, verbose=0)))
    quantized.compile("sgd", "sparse_categorical_crossentropy")
    losses = quantized.fit(x, y, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    found = range_layers(quantized)["image_range"]
    assert np.isfinite(np.asarray(found.range)).all()


@ACTIVATION_BITS
@pytest.mark.parametrize("options", [{"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_compiled_and_eager_steps_agree(model, x, y, options, scheme):
    histories = []
    for chosen in ({"jit_compile": False}, options):
        quantized = quantize_aware(model, scheme, calibration=x)
        quantized.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", **chosen)
        history = quantized.fit(x, y, verbose=0, shuffle=False, epochs=2)
        histories.append(history.history["loss"])
    # A value on the edge between two steps may fall to either side: some of the 1e4 activations
    # then differ by a step of 1/255.
    np.testing.assert_allclose(*histories, rtol=5e-3)


@ACTIVATION_BITS
def test_mixed_precision_keeps_ranges_in_float32(x, y, rng, scheme):
    keras.config.set_dtype_policy("mixed_float16")
    model = trained(student(activation=None), rng)
    quantized = quantize_aware(model, scheme, calibration=x)
    assert quantized.get_layer("stem").compute_dtype == "float16"
    assert quantized.get_layer("stem_relu_range").range.dtype == "float32"
    assert quantized.output.dtype == "float16"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    quantized.compile("sgd", loss)
    assert np.isfinite(quantized.fit(x, y, verbose=0, epochs=2).history["loss"]).all()


@ACTIVATION_BITS
def test_it_trains_on_two_devices(two_devices, x, y, rng, scheme):
    with two_devices.scope():
        quantized = quantize_aware(trained(student(), rng), scheme, calibration=x)
        quantized.compile("sgd", "sparse_categorical_crossentropy")
    before = np.array(quantized.get_layer("sum_relu_range").range)
    assert np.isfinite(quantized.fit(x, y, verbose=0, epochs=2).history["loss"]).all()
    assert np.any(before != np.array(quantized.get_layer("sum_relu_range").range))


def test_it_comes_back_from_a_file(model, x, y, tmp_path):
    quantized = quantize_aware(model, calibration=x, observer=quantization.LearnedStep())
    quantized.compile("adam", "sparse_categorical_crossentropy")
    quantized.fit(x, y, verbose=0)
    quantized.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    expected = quantized.predict(x, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    both = [
        each.fit(x, y, verbose=0, shuffle=False).history["loss"] for each in (quantized, loaded)
    ]
    np.testing.assert_allclose(*both, rtol=1e-6)


@ACTIVATION_BITS
def test_distilled_with_features_of_its_layers(model, x, y, scheme):
    teacher = student()
    quantized = quantize_aware(model, scheme, calibration=x)
    loss = keras_kd.FeatureDistillation(
        teacher_layer_name="sum_relu", student_layer_name="sum_relu_range"
    )
    distiller = keras_kd.Distiller(teacher, quantized, loss)
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(distiller.fit(x, y, verbose=0).history["total_loss"]).all()


# -- phases ----------------------------------------------------------------------------------------


def moves(values):
    """Return for each value but the first whether it is another than the one before."""
    return [bool(np.any(one != other)) for one, other in itertools.pairwise(values)]


def test_phases_start_freeze_and_resume(model, x, y):
    quantized = quantize_aware(model, calibration=x)
    quantized.compile("sgd", "sparse_categorical_crossentropy")
    ranges, averages, rounding = [], [], []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            ranges.append(np.array(quantized.get_layer("sum_relu_range").range))
            averages.append(np.array(quantized.get_layer("stem").batch_norm.moving_mean))
            rounding.append(quantized.get_layer("stem").quantizing)

    phases = Phases(start_epoch=1, freeze_ranges_epoch=2, freeze_batch_norm_epoch=3)
    for initial, last in ((0, 3), (3, 5)):
        quantized.fit(
            x, y, verbose=0, epochs=last, initial_epoch=initial, callbacks=[phases, Watch()]
        )
    assert moves(ranges) == [True, False, False, False]
    assert moves(averages) == [True, True, False, False]
    assert rounding == [False, True, True, True, True]


def test_phases_reach_the_student_of_a_distiller(model, x, y):
    quantized = quantize_aware(model, calibration=x)
    distiller = keras_kd.Distiller(student(), quantized, keras_kd.LogitsDistillation(2.0))
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    before = np.array(quantized.get_layer("sum_relu_range").range)
    distiller.fit(x, y, verbose=0, callbacks=[Phases(freeze_ranges_epoch=0)])
    np.testing.assert_array_equal(before, quantized.get_layer("sum_relu_range").range)


def test_a_frozen_batch_norm_trains_gamma_and_beta(model, x, y):
    quantized = quantize_aware(model, calibration=x)
    quantization.set_phase(quantized, batch_statistics=False)
    quantized.compile("sgd", "sparse_categorical_crossentropy")
    norm = quantized.get_layer("stem").batch_norm
    before = {v.name: np.array(v) for v in norm.variables}
    quantized.fit(x, y, verbose=0)
    changed = {v.name for v in norm.variables if np.any(before[v.name] != np.array(v))}
    assert changed == {"gamma", "beta"}


def test_phases_want_a_quantized_model(model):
    with pytest.raises(ValueError, match=r"made by quantize_aware.*'student'"):
        quantization.set_phase(model)
    with pytest.raises(ValueError, match="start_epoch to be a number of epochs"):
        Phases(start_epoch=-1)


# -- what is refused -------------------------------------------------------------------------------


def test_what_cannot_be_quantized_is_named_all_at_once():
    inputs = keras.Input((6, 4))
    x = layers.LSTM(4, return_sequences=True, name="memory")(inputs)
    x = layers.Lambda(lambda t: t * 2, output_shape=(6, 4), name="twice")(x)
    with pytest.raises(ValueError, match=r"'memory' \(LSTM.*'twice' \(Lambda"):
        quantize_aware(keras.Model(inputs, x))


def test_a_layer_stays_float_on_request(rng):
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="first")(inputs)
    x = layers.Lambda(lambda t: t * 2, output_shape=(6,), name="twice")(x)
    model = trained(keras.Model(inputs, layers.Dense(3, name="last")(x)), rng)
    quantized = quantize_aware(model, keep_float=["twice"])
    assert {"first_range", "twice_range", "last_range"} <= set(range_layers(quantized))


def test_a_float_layer_may_have_several_outputs(rng):
    inputs = keras.Input((6, 4))
    sequence, state, _ = layers.LSTM(3, return_sequences=True, return_state=True, name="it")(inputs)
    outputs = [layers.Dense(2)(sequence), layers.Dense(2)(state)]
    model = trained(keras.Model(inputs, outputs), rng)
    x = examples_for(model, rng)
    quantized = quantize_aware(model, calibration=x, keep_float="it")
    assert {"it_range", "it_range_2"} <= set(range_layers(quantized))
    for found, expected in zip(without_rounding(quantized)(x), model(x), strict=True):
        # Steps of 2**-15 of a kernel's range, and sums of three products.
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_it_does_not_look_at_what_the_student_is_compiled_with(model):
    model.compile("sgd", loss=lambda y_true, y_pred: y_pred)
    assert not quantize_aware(model).compiled


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"Functional or Sequential.*an? Own"):
        quantize_aware(Own())


def test_bad_options_are_refused(model):
    with pytest.raises(ValueError, match=r"scheme of int8, int8_per_tensor, int8x4.*'int7'"):
        quantize_aware(model, "int7")
    with pytest.raises(TypeError, match=r"an Observer. Received: str"):
        quantize_aware(model, observer="minmax")
    with pytest.raises(ValueError, match=r"weight_bits to be 4 or 8. Received: 3"):
        quantization.Scheme("mine", weight_bits=3)
    with pytest.raises(ValueError, match=r"keep_float to name layers.*'nobody'"):
        quantize_aware(model, keep_float=["nobody"])


def test_an_empty_calibration_is_refused(model):
    with pytest.raises(ValueError, match="calibration to hold examples"):
        quantize_aware(model, calibration=np.zeros((0, *SHAPE), "float32"))


def test_gradients_reach_every_weight(model, x, y):
    quantized = quantize_aware(model, calibration=x)
    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(y, quantized(x, training=True))
    for variable, gradient in zip(
        quantized.trainable_variables,
        tape.gradient(loss, [v.value for v in quantized.trainable_variables]),
        strict=True,
    ):
        assert np.all(np.isfinite(gradient)), variable.path
        assert np.any(np.asarray(gradient) != 0), variable.path
