import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import Context, Ends
from keras_kd.losses.relation import InstanceRelationshipGraph, irg
from tests.contract.recipe import image_batch, image_model
from tests.models import CLASSES, log_softmax, task_loss

THREE = ["low", "high", "pool"]
BATCH = 5


def by_hand(side):
    """(logits, three matrices of edges, transformations) of one side in float64.

    The first map is 6 x 4 and the second 3 x 2 with twice the channels.
    """
    low, high, embedding, logits = (np.float64(tensor) for tensor in side)
    edges = []
    for feature in (low, high, embedding):
        squares = np.array([[((a - b) ** 2).sum() for b in feature] for a in feature])
        edges.append(squares / squares.max())
    pooled = low.reshape(BATCH, 3, 2, 2, 2, -1).mean((2, 4))
    change = ((pooled - (high[..., 0::2] + high[..., 1::2]) / 2) ** 2).sum((1, 2, 3))
    return logits, edges, change / change.max()


@pytest.fixture
def pair(rng):
    def side(channels, size):
        shapes = (6, 4, channels), (3, 2, 2 * channels), (size,), (CLASSES,)
        return [rng.normal(size=(BATCH, *shape)).astype("float32") for shape in shapes]

    return side(5, 9), side(3, 7)


def test_from_the_definition(pair):
    (t, t_edges, t_change), (s, s_edges, s_change) = map(by_hand, pair)
    edges = sum(((a - b) ** 2).mean(1) for a, b in zip(s_edges, t_edges, strict=True))
    expected = 0.1 * ((s - t) ** 2).mean(1) + 5.0 / 3.0 * edges + 5.0 * (s_change - t_change) ** 2
    result = irg(teacher=pair[0], student=pair[1])
    # float32 on inputs of a few units, against float64.
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_zero_at_equality(pair):
    np.testing.assert_array_equal(irg(teacher=pair[0], student=pair[0]), np.zeros(BATCH))


def test_vectors_and_equal_maps_are_compared_as_they_are(rng):
    side = [rng.normal(size=(4, size)).astype("float32") for size in (6, 6, 3, 2)]
    np.testing.assert_array_equal(irg(teacher=side, student=side), np.zeros(4))


def test_what_is_left_out_counts_for_nothing(pair):
    valid = np.array([True, False, True, True, False])
    alone = irg(
        **{
            name: [tensor[valid] for tensor in side]
            for name, side in zip(("teacher", "student"), pair, strict=True)
        }
    )
    for side in pair:
        for tensor in side:
            tensor[~valid] = np.nan
    student = [tf.constant(tensor) for tensor in pair[1]]
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = irg(teacher=pair[0], student=student, valid=valid)
    gradients = tape.gradient(values, student)
    np.testing.assert_allclose(np.array(values)[valid], alone, rtol=1e-4)
    np.testing.assert_array_equal(np.array(values)[~valid], [0.0, 0.0])
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("change", [lambda t: t * 0.0, lambda t: t * 0.0 + 3.3, lambda t: t * 1e4])
def test_finite_at_extremes(pair, change):
    student = [tf.constant(change(tensor)) for tensor in pair[1]]
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = irg(teacher=pair[0], student=student)
    assert np.isfinite(values).all()
    # A student that says the same of everything gets the gradient of its logits alone.
    gradients = tape.gradient(values, student)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_of_a_constant_student_the_logits_alone_are_moved(pair):
    student = [tf.constant(tensor * 0.0 + 3.3) for tensor in pair[1]]
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = irg(teacher=pair[0], student=student, transform_weight=0.0)
    low, high, embedding, logits = tape.gradient(values, student)
    for gradient in (low, high, embedding):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
    assert np.abs(logits).max() > 0


def made(loss, teacher, student):
    distiller = keras_kd.Distiller(teacher, student, loss, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.SGD(1e-2), task_loss())
    return distiller


def graph(**options):
    return keras_kd.losses.get("irg", teacher_layer_name=THREE, student_layer_name=THREE, **options)


def test_it_reads_layers_and_logits_and_falls_in_fit():
    keras.utils.set_random_seed(0)
    x, y = image_batch()
    teacher, student = image_model("teacher", 6), image_model("student", 4)
    distiller = made(graph(vertex_weight=0.7, edge_weight=2.0), teacher, student)
    reads = [
        [model.get_layer(name).output for name in (*THREE, "outputs")]
        for model in (teacher, student)
    ]
    sides = [
        keras.Model(model.input, outputs)(x)
        for model, outputs in zip((teacher, student), reads, strict=True)
    ]
    expected = irg(teacher=sides[0], student=sides[1], vertex_weight=0.7, edge_weight=2.0)
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert logs["distillation_loss"] == pytest.approx(float(np.mean(expected)), rel=1e-4)
    losses = distiller.fit(x, y, batch_size=8, epochs=8, verbose=0).history["distillation_loss"]
    assert losses[-1] < losses[0]


def test_behind_a_softmax_log_probabilities_stand_for_logits(pair):
    loss = graph(edge_weight=0.0, transform_weight=0.0, vertex_weight=1.0)
    connected = loss.connect(Ends(teacher_activations="softmax", student_activations="linear"))
    t, s = (log_softmax(side[3]) for side in pair)
    context = Context(teacher_outputs=np.exp(t).astype("float32"), student_outputs=pair[1][3])
    values = connected.per_example(pair[0][:3], pair[1][:3], context)
    np.testing.assert_allclose(values, ((s - t) ** 2).mean(1), rtol=1e-4)


def test_one_of_several_outputs_is_named(pair):
    ends = Ends(
        teacher_activations={"a": "linear", "b": "tanh"},
        student_activations={"a": "linear", "b": "tanh"},
    )
    with pytest.raises(ValueError, match="output= to say which output holds the logits"):
        graph().connect(ends)
    context = Context(
        teacher_outputs={"a": pair[0][3], "b": None}, student_outputs={"a": pair[1][3], "b": None}
    )
    values = graph(output="a").connect(ends).per_example(pair[0][:3], pair[1][:3], context)
    np.testing.assert_array_equal(values, irg(teacher=pair[0], student=pair[1]))
    with pytest.raises(ValueError, match=r"teacher that ends in logits or softmax.*tanh"):
        graph(output="b").connect(ends)


def test_config_round_trip():
    loss = graph(vertex_weight=0.2, output=1)
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is InstanceRelationshipGraph
    assert keras.saving.serialize_keras_object(again) == config


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((None, 4, 4, 6), (None, 8, 8, 6)),
        ((None, 8, 8, 6), (None, 4, 4, 9)),
        ((None, 8, 8, 6), (None, 6)),
        ((None, None, None, 6), (None, 4, 4, 6)),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(first, second):
    side = [keras.KerasTensor(shape) for shape in (first, second, (None, 3))]
    with pytest.raises(ValueError, match="two layers of the student of fixed sizes"):
        graph().connect(Ends(None, side))


def test_bad_arguments(pair):
    with pytest.raises(ValueError, match="teacher_layer_name to be three layers"):
        keras_kd.losses.get("irg", teacher_layer_name=["a"], student_layer_name=THREE)
    with pytest.raises(ValueError, match="edge_weight to be a number of at least 0"):
        graph(edge_weight=-1.0)
    with pytest.raises(ValueError, match="no outputs of the models"):
        graph().compute_loss(pair[0][:3], pair[1][:3])
    with pytest.raises(ValueError, match="features of equal shapes"):
        irg(teacher=pair[0], student=[*pair[1][:3], pair[1][3][:, :2]])
