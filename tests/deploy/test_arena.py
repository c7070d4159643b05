"""The arena's lower bound, against sums by hand, and what to reserve."""

import pytest

from keras_kd import deploy
from keras_kd.deploy import arena


def sized(by_hand, sizes, **more):
    return [by_hand.tensor(f"t{i}", (1, size), **more) for i, size in enumerate(sizes)]


def bound(by_hand, ops, tensors):
    return arena.lower_bound(deploy.model_info(by_hand.chain(ops, tensors)))


@pytest.mark.parametrize(("measured", "reserved"), [(0, 1024), (1000, 2224), (24_272, 30_160)])
def test_what_to_reserve(measured, reserved):
    """A fifth and 1,024 bytes more, up to the next multiple of 16."""
    assert arena.arena_to_reserve(measured) == reserved


def test_neighbours_are_alive_together(by_hand):
    found = bound(by_hand, ["RELU", "TANH", "RELU6"], sized(by_hand, [10, 100, 50, 7]))
    assert found.arena_bytes == 150
    assert found.op.name == "TANH"


@pytest.mark.parametrize(
    ("dtype", "bytes_each"), [("INT8", 1), ("INT16", 2), ("FLOAT32", 4), ("INT64", 8), ("BOOL", 1)]
)
def test_bytes_of_a_type(by_hand, dtype, bytes_each):
    tensors = sized(by_hand, [10, 20], dtype=dtype, scale=None)
    assert bound(by_hand, ["RELU"], tensors).arena_bytes == 30 * bytes_each


def test_variables_live_all_the_time(by_hand):
    tensors = [*sized(by_hand, [10, 20, 1]), by_hand.tensor("state", (1, 1000), variable=True)]
    assert bound(by_hand, ["RELU", "RELU"], tensors).arena_bytes == 1030


def test_a_tensor_that_nothing_touches_takes_nothing(by_hand):
    tensors = [*sized(by_hand, [10, 20]), by_hand.tensor("idle", (1, 1000))]
    assert bound(by_hand, ["RELU"], tensors).arena_bytes == 30


def test_no_ops_at_all(by_hand):
    found = bound(by_hand, [], sized(by_hand, [10]))
    assert found == arena.LowerBound(10, None)
