import functools
import operator

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.data import replayable, why_not_replayable


@pytest.fixture
def arrays(rng):
    return rng.normal(size=(10, 2)).astype("float32"), np.arange(10)


def labels(dataset, epoch):
    dataset.epoch.assign(epoch)
    return [y.numpy().tolist() for _, y in dataset]


@pytest.fixture(params=["arrays", "dataset"])
def make(request, arrays):
    def from_arrays(**options):
        return replayable(*arrays, batch_size=4, **{"seed": 3, **options})

    def from_dataset(**options):
        dataset = tf.data.Dataset.from_tensor_slices(arrays)
        return replayable(dataset, batch_size=4, shuffle_buffer=10, **{"seed": 3, **options})

    return from_arrays if request.param == "arrays" else from_dataset


def test_every_epoch_has_each_example_once(make):
    dataset = make()
    for epoch in range(3):
        batches = labels(dataset, epoch)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert sorted(functools.reduce(operator.iadd, batches, [])) == list(range(10))


def test_the_order_is_a_function_of_seed_and_epoch(make):
    first, again = make(), make()
    orders = [labels(first, epoch) for epoch in range(4)]
    assert [labels(again, epoch) for epoch in (3, 2, 1, 0)] == orders[::-1]
    assert len({str(order) for order in orders}) == 4
    assert labels(make(seed=4), 0) != orders[0]


def test_inputs_and_labels_stay_together(make, arrays):
    for x, y in make():
        np.testing.assert_array_equal(x, arrays[0][y.numpy()])


def test_augmentation_is_a_function_of_seed_epoch_and_batch(make):
    def augment(x, seed):
        return x + tf.random.stateless_normal(tf.shape(x), seed)

    def inputs(epoch):
        dataset = make(augment=augment)
        dataset.epoch.assign(epoch)
        return np.concatenate([x for x, _ in dataset])

    np.testing.assert_array_equal(inputs(1), inputs(1))
    assert not np.array_equal(inputs(1), inputs(2))
    plain = make()
    plain.epoch.assign(1)
    noise = inputs(1) - np.concatenate([x for x, _ in plain])
    assert not np.allclose(noise[:4], noise[4:8])  # Each batch has a seed of its own.


def test_the_number_of_batches_is_known(make):
    assert int(make().cardinality()) == 3


def test_structures_weights_and_no_labels(rng):
    x = {"a": rng.normal(size=(6, 2)), "b": rng.normal(size=(6, 3))}
    (batch,) = next(iter(replayable(x, batch_size=4, seed=0)))
    assert {key: value.shape for key, value in batch.items()} == {"a": (4, 2), "b": (4, 3)}
    y, weight = np.arange(6), np.arange(6.0)
    _, y_batch, weights = next(iter(replayable(x, y, weight, batch_size=4, seed=0)))
    np.testing.assert_array_equal(y_batch, weights)


def test_fit_takes_it_and_draws_a_new_order_each_epoch(arrays):
    """Plain Keras: the epoch is told by the distiller; see test_distiller_resume.py."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = replayable(*arrays, batch_size=4, seed=0)
    history = model.fit(data, epochs=2, verbose=0, shuffle=False)
    assert len(history.history["loss"]) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: replayable(x, y[:5], batch_size=4, seed=0), r"one length.*\[5, 10\]"),
        (lambda x, y: replayable(x, y, batch_size=0, seed=0), "batch_size to be a positive"),
        (
            lambda x, y: replayable(x, y, batch_size=4, seed=0, shuffle_buffer=9),
            "no shuffle_buffer",
        ),
        (
            lambda x, y: replayable(tf.data.Dataset.from_tensors(x), y, batch_size=4, seed=0),
            "labels and weights inside the dataset",
        ),
        (
            lambda x, y: replayable(tf.data.Dataset.from_tensors(x), batch_size=4, seed=0),
            "shuffle_buffer= with a dataset",
        ),
    ],
)
def test_bad_arguments(call, message, arrays):
    with pytest.raises(ValueError, match=message):
        call(*arrays)


class TestWhyNotReplayable:
    """Also the test of tf.data's private `_inputs`."""

    def test_ours_is(self, make):
        assert why_not_replayable(make(), shuffle=True) is None

    def test_pipelines(self, arrays):
        plain = tf.data.Dataset.from_tensor_slices(arrays).batch(2).map(lambda *b: b).prefetch(1)
        assert why_not_replayable(plain, shuffle=True) is None
        shuffled = tf.data.Dataset.from_tensor_slices(arrays).shuffle(10).batch(2).prefetch(1)
        assert "Shuffle" in why_not_replayable(shuffled, shuffle=True)
        zipped = tf.data.Dataset.zip(plain, shuffled)
        assert "Shuffle" in why_not_replayable(zipped, shuffle=True)

    def test_arrays(self, arrays):
        assert "shuffles the arrays" in why_not_replayable(arrays[0], shuffle=True)
        assert "shuffles the arrays" in why_not_replayable({"a": arrays[0]}, shuffle=True)
        assert why_not_replayable(arrays[0], shuffle=False) is None

    def test_py_datasets(self):
        class Data(keras.utils.PyDataset):
            def __len__(self):
                return 1

            def __getitem__(self, index):
                return np.ones((2, 2)), np.ones(2)

        assert "PyDataset" in why_not_replayable(Data(), shuffle=True)
        assert why_not_replayable(Data(), shuffle=False) is None

    def test_generators(self):
        assert "generator" in why_not_replayable((i for i in range(3)), shuffle=True)
