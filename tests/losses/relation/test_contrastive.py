"""Contrastive representation distillation in a distiller: what it remembers, trains and saves."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_kd
from keras_kd.losses import Context, Ends
from keras_kd.losses.relation import ContrastiveRepresentation, ContrastMemory, crd
from keras_kd.numerics import l2_normalize
from tests.models import assert_equal, assert_same, mlp, snapshot, task_loss, vectors

EXAMPLES = 12


def contrastive(**options):
    defaults = {"negatives": 6, "dim": 3, "seed": 4}
    layers = {"teacher_layer_name": "hidden", "student_layer_name": "hidden"}
    return keras_kd.losses.get("crd", n_data=EXAMPLES, **layers, **{**defaults, **options})


def made(loss=None, **options):
    keras.utils.set_random_seed(0)
    loss = contrastive() if loss is None else loss
    distiller = keras_kd.Distiller(
        mlp("teacher", 9), mlp("student", 5), loss, student_loss_weight=0.1
    )
    distiller.compile(keras.optimizers.Adam(1e-2), task_loss(), **options)
    return distiller


def data():
    x, y = vectors(EXAMPLES)
    return keras_kd.data.with_index(x), y


def memory_of(distiller):
    (memory,) = distiller.projectors
    return memory


def test_it_falls_in_fit_and_its_embeddings_are_trained():
    distiller = made()
    x, y = data()
    memory = memory_of(distiller)
    teacher, banks = snapshot(distiller.teacher), snapshot(memory)
    history = distiller.fit(x, y, batch_size=6, epochs=20, shuffle=False, verbose=0).history
    losses = history["distillation_loss"]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert_same(teacher, snapshot(distiller.teacher))
    after = snapshot(memory)
    # The two biases begin at 0 and every other part at random: all of them have moved.
    assert all(not np.array_equal(banks[name], after[name]) for name in banks)
    # What was seen is remembered at length 1.
    lengths = np.linalg.norm(memory.student_bank.numpy(), axis=1)
    np.testing.assert_allclose(lengths, np.ones(EXAMPLES), rtol=1e-5)


def test_the_first_step_from_its_parts():
    """The loss before anything is remembered, and what is remembered after it."""
    distiller = made()
    x, y = data()
    memory = memory_of(distiller)
    generator = keras.random.SeedGenerator(4)
    negatives = keras.random.randint((EXAMPLES, 6), 0, EXAMPLES, seed=generator)
    hidden = {
        side: keras.Model(model.input, model.get_layer("hidden").output)(x["inputs"])
        for side, model in (("teacher", distiller.teacher), ("student", distiller.student))
    }
    embedded = {
        "teacher": l2_normalize(memory.teacher_embedding(hidden["teacher"])),
        "student": l2_normalize(memory.student_embedding(hidden["student"])),
    }
    banks = {
        "teacher_bank": memory.teacher_bank.numpy(),
        "student_bank": memory.student_bank.numpy(),
    }
    expected = crd(
        **embedded,
        **banks,
        contrast_index=np.c_[x["example_index"], negatives],
    )
    logs = distiller.fit(x, y, batch_size=EXAMPLES, shuffle=False, verbose=0).history
    assert logs["distillation_loss"][0] == pytest.approx(float(ops.mean(expected)), rel=1e-5)
    moved = 0.5 * banks["student_bank"] + 0.5 * np.array(embedded["student"])
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(memory.student_bank.numpy(), moved, rtol=1e-4, atol=1e-6)


def test_z_is_set_once():
    distiller = made()
    x, y = data()
    memory = memory_of(distiller)
    assert not memory.has_z.numpy()
    distiller.fit(x, y, batch_size=6, shuffle=False, verbose=0)
    first = memory.log_z.numpy()
    assert memory.has_z.numpy()
    assert (first != 0.0).all()
    distiller.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_array_equal(memory.log_z.numpy(), first)


def test_evaluation_remembers_nothing():
    distiller = made()
    x, y = data()
    memory = memory_of(distiller)
    for _ in range(2):
        before = snapshot(memory)
        first, second = (
            distiller.evaluate(x, y, batch_size=6, verbose=0, return_dict=True) for _ in range(2)
        )
        assert first == second
        assert_same(before, snapshot(memory))
        distiller.fit(x, y, batch_size=6, shuffle=False, verbose=0)


def test_examples_of_weight_zero_are_not_remembered():
    distiller = made()
    x, y = data()
    memory = memory_of(distiller)
    before = memory.teacher_bank.numpy()
    weight = np.r_[np.zeros(8), np.full(4, 0.5)].astype("float32")
    distiller.fit(x, y, sample_weight=weight, batch_size=6, shuffle=False, verbose=0)
    after = memory.teacher_bank.numpy()
    np.testing.assert_array_equal(after[:8], before[:8])
    assert (after[8:] != before[8:]).any(axis=1).all()
    # Z came from the second batch, the first one with anything in it.
    assert memory.has_z.numpy()
    assert np.isfinite(memory.log_z.numpy()).all()
    assert np.isfinite(distiller.student.get_weights()[0]).all()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_resumed_run_is_the_uninterrupted_one(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    x, y = data()
    fit = {"batch_size": 6, "shuffle": False, "verbose": 0}
    whole = made()
    whole.fit(x, y, epochs=4, **fit)
    half = made()
    half.fit(x, y, epochs=2, validation_data=(x, y), **fit)
    half.save(tmp_path / "distiller.keras")
    resumed = keras.models.load_model(tmp_path / "distiller.keras")
    resumed.teacher = half.teacher
    assert_equal(snapshot(half), snapshot(resumed))
    resumed.fit(x, y, epochs=4, initial_epoch=2, **fit)
    assert_equal(
        snapshot(whole.student, memory_of(whole)), snapshot(resumed.student, memory_of(resumed))
    )
    banks = memory_of(resumed).student_bank, memory_of(resumed).teacher_bank
    assert all(bank.dtype == "float32" for bank in banks)


def test_a_seed_gives_its_own_banks_and_negatives():
    banks = [
        ContrastMemory(
            5, 2, 3, negatives=4, dim=3, temperature=0.1, momentum=0.5, seed=seed
        ).student_bank.numpy()
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(banks[0], banks[1])
    assert not np.array_equal(banks[0], banks[2])


def test_config_round_trip():
    config = keras.saving.serialize_keras_object(contrastive())
    again = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(again) == config
    ends = Ends(keras.KerasTensor((None, 2, 3)), keras.KerasTensor((None, 4)))
    connected = contrastive().connect(ends)
    config = keras.saving.serialize_keras_object(connected)
    again = keras.saving.deserialize_keras_object(config)
    assert (again.memory.teacher_size, again.memory.student_size) == (6, 4)
    assert again.connect(ends).memory is again.memory
    assert keras.saving.serialize_keras_object(again) == config


def test_the_caller_s_loss_stays_as_it_is():
    loss = contrastive()
    made(loss)
    assert loss.memory is None
    assert loss.parts == ()


def test_data_without_numbers_is_refused():
    x, y = data()
    with pytest.raises(ValueError, match="data with index"):
        made().fit(x["inputs"], y, verbose=0)
    memory = contrastive().connect(Ends(keras.KerasTensor((None, 2)), keras.KerasTensor((None, 4))))
    with pytest.raises(ValueError, match="Received: no example numbers"):
        memory.per_example(np.ones((2, 2)), np.ones((2, 4)), Context())
    with pytest.raises(ValueError, match="Received: no memory"):
        contrastive().compute_loss(np.ones((2, 2)), np.ones((2, 4)))


def test_numbers_without_a_row_are_refused():
    x, y = data()
    x["example_index"] = x["example_index"] + 1
    x = {name: value[::-1] for name, value in x.items()}
    with pytest.raises(ValueError, match=r"numbered below n_data=12\. Received: 12"):
        made().fit(x, y, shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_data": 0}, "n_data to be a positive integer"),
        ({"negatives": 0}, "negatives to be a positive integer"),
        ({"dim": 1.5}, "dim to be a positive integer"),
        ({"temperature": 0.0}, "temperature to be a positive number"),
        ({"momentum": 1.5}, r"momentum in \[0, 1\]"),
        ({"seed": None}, "seed to be an integer"),
        ({"memory": "big"}, "memory to be None or a ContrastMemory"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveRepresentation(**{"n_data": 5, **options})


def test_features_have_a_fixed_size():
    with pytest.raises(ValueError, match="fixed size from the student"):
        contrastive().connect(
            Ends(keras.KerasTensor((None, 2)), keras.KerasTensor((None, None, 4)))
        )


def test_every_replica_remembers_its_examples(two_devices):
    x, y = data()
    with two_devices.scope():
        distiller = made()
    memory = memory_of(distiller)
    before = memory.student_bank.numpy()
    distiller.fit(x, y, batch_size=EXAMPLES, shuffle=False, verbose=0)
    after = memory.student_bank.numpy()
    assert (np.abs(after - before).max(axis=-1) > 0).all()
    # A length of 1: no replica's share is left out or counted twice.
    np.testing.assert_allclose(np.linalg.norm(after, axis=-1), 1.0, rtol=1e-5)
    assert memory.has_z.numpy() == 1.0
