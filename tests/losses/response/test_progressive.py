import keras
import numpy as np
import pytest

import keras_kd
from keras_kd import data, schedules
from keras_kd.losses import Context
from keras_kd.losses.response import (
    PredictionMemory,
    ProgressiveSelfDistillation,
    progressive_targets,
    pskd,
)
from tests.losses.response.checks import (
    ATOL,
    RTOL,
    assert_finite,
    assert_needs_labels,
    assert_round_trip,
    assert_xla_agrees,
    fitted,
    gradient,
    logits_and_labels,
    softmax,
)
from tests.models import CLASSES, FEATURES, assert_equal, log_softmax, mlp, snapshot, vectors


@pytest.mark.parametrize("positions", [(), (3,)])
def test_values(rng, positions):
    earlier, student, labels = logits_and_labels(rng, *positions)
    previous = softmax(earlier).astype("float32")
    previous[0] = 0.0
    targets = progressive_targets(previous=previous, labels=labels, alpha=0.3)
    wanted = 0.7 * np.eye(5)[labels] + 0.3 * previous
    wanted[0] = np.eye(5)[labels[0]]
    np.testing.assert_allclose(targets, wanted, rtol=RTOL, atol=ATOL)
    result = pskd(soft_targets=targets, student=student)
    np.testing.assert_allclose(
        result, -(wanted * log_softmax(student)).sum(-1), rtol=RTOL, atol=ATOL
    )


def test_extremes_and_compilers(rng):
    earlier, student, _ = logits_and_labels(rng)
    targets = softmax(earlier).astype("float32")
    assert_finite(lambda s: pskd(soft_targets=targets, student=s), student)
    assert_xla_agrees(lambda s: pskd(soft_targets=targets, student=s), student)


def test_the_targets_get_no_gradient(rng):
    earlier, student, _ = logits_and_labels(rng)
    _, (slope,) = gradient(
        lambda t: pskd(soft_targets=t, student=student), softmax(earlier).astype("float32")
    )
    assert slope is None


def test_the_memory_keeps_what_it_was_told():
    memory = PredictionMemory(5, (2, 3))
    told = np.random.default_rng(0).random((2, 2, 3)).astype("float32")
    memory.remember(np.array([3, 1]), told)
    np.testing.assert_array_equal(memory.recall(np.array([1, 0, 3]))[0], told[1])
    np.testing.assert_array_equal(memory.recall(np.array([1, 0, 3]))[1], np.zeros((2, 3)))
    np.testing.assert_array_equal(memory.recall(np.array([1, 0, 3]))[2], told[0])
    assert memory.trainable_weights == []


def test_it_remembers_only_in_training(rng):
    _, student, labels = logits_and_labels(rng)
    memory = PredictionMemory(9, (5,))
    loss = ProgressiveSelfDistillation(examples=9, memory=memory, student_outputs="logits")
    index = np.array([8, 0, 1, 5, 2, 7, 3])
    for training in (False, True):
        assert not np.any(memory.predictions)
        context = Context(labels=labels, index=index, training=training)
        loss.per_example(None, keras.ops.array(student), context)
    np.testing.assert_allclose(memory.recall(index), softmax(student), rtol=RTOL, atol=ATOL)
    np.testing.assert_array_equal(memory.recall(np.array([4, 6])), np.zeros((2, 5)))


def numbered():
    x, y = vectors()
    return data.with_index(x), y


def training(**options):
    keras.utils.set_random_seed(0)
    x, y = numbered()
    loss = ProgressiveSelfDistillation(examples=len(y), **options)
    return fitted(loss, x=x, y=y, teacher=mlp("teacher", units=3), epochs=3)


def test_training_remembers_the_epoch_before():
    x, y = numbered()
    distiller, losses = training(alpha=0.1)
    assert losses[-1] < losses[0]
    (memory,) = distiller.projectors
    predictions = memory.predictions.numpy()
    np.testing.assert_allclose(predictions.sum(-1), 1.0, rtol=1e-5)
    logits = distiller.predict(x, verbose=0)
    logs = distiller.evaluate(x, y, batch_size=20, verbose=0, return_dict=True)
    targets = 0.9 * np.eye(CLASSES)[y] + 0.1 * predictions
    wanted = -(targets * log_softmax(logits)).sum(-1).mean()
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=RTOL)
    np.testing.assert_array_equal(memory.predictions.numpy(), predictions)


def test_the_first_epoch_is_the_labels():
    _, losses = training(alpha=schedules.Constant(0.8))
    _, plain = training(alpha=0.0)
    assert losses[0] == plain[0]
    assert losses[1] != plain[1]


def test_the_memory_is_saved_and_loaded(tmp_path):
    distiller, _ = training(alpha=0.5)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert_equal(snapshot(*distiller.projectors), snapshot(*loaded.projectors))
    assert "memory" not in " ".join(v.path for v in distiller.student.variables)


def test_every_replica_remembers_its_examples(two_devices):
    x, y = numbered()
    with two_devices.scope():
        distiller = keras_kd.Distiller(
            mlp("teacher"),
            mlp("student", 5),
            ProgressiveSelfDistillation(examples=len(y)),
            student_loss_weight=0.0,
        )
        distiller.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy())
    for _ in range(2):
        distiller.fit(x, y, batch_size=10, epochs=1, shuffle=False, verbose=0)
        (memory,) = distiller.projectors
        predictions = softmax(distiller.student(x["inputs"]))
        np.testing.assert_allclose(memory.predictions.numpy(), predictions, rtol=RTOL, atol=ATOL)


def test_it_needs_labels_and_numbers():
    assert_needs_labels(ProgressiveSelfDistillation(examples=20))
    with pytest.raises(ValueError, match="data with index"):
        fitted(ProgressiveSelfDistillation(examples=20))


def test_a_position_axis_of_no_fixed_size_is_refused():
    inputs = keras.Input((None, FEATURES))
    student = keras.Model(inputs, keras.layers.Dense(CLASSES)(inputs))
    teacher = keras.models.clone_model(student)
    with pytest.raises(ValueError, match="output of fixed size"):
        fitted(ProgressiveSelfDistillation(examples=20), student=student, teacher=teacher)


def test_configuration():
    assert_round_trip(ProgressiveSelfDistillation(examples=7))
    assert_round_trip(
        ProgressiveSelfDistillation(
            examples=7, alpha=schedules.Linear(0.0, 0.8, 9), memory=PredictionMemory(7, (3,))
        )
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 0}, "examples to be a positive integer"),
        ({"examples": 2.5}, "examples to be a positive integer"),
        ({"examples": 5, "alpha": 1.5}, r"alpha in \[0, 1\]"),
        ({"examples": 5, "alpha": -0.5}, "alpha to be a number of at least 0"),
        ({"examples": 5, "memory": "much"}, "memory to be None or a PredictionMemory"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveSelfDistillation(**options)
