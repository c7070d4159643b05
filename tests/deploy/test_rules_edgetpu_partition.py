"""Which ops go to the Edge TPU together: by what they wait for, and not by their order."""

import pytest

from keras_kd.deploy import inspect
from keras_kd.deploy.rules import edgetpu_partition


def targets(content):
    """Where each op goes, by the rules."""
    placed, _ = edgetpu_partition.predicted_placements(inspect.model_info(content))
    return "".join({"edgetpu": "T", "cpu": "c", "unknown": "?"}[p.target] for p in placed)


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        (["RELU", "RELU", "RELU"], "TTT"),
        (["RELU", "LEAKY_RELU", "RELU"], "Tcc"),
        (["LEAKY_RELU", "LEAKY_RELU", "RELU", "RELU"], "ccTT"),
        (["LEAKY_RELU", "RELU", "LEAKY_RELU", "RELU", "RELU", "RELU"], "cTcccc"),
        (["RELU", "ELU", "RELU"], "T??"),
        (["RELU", "LEAKY_RELU", "ELU", "RELU"], "Tccc"),
        # Mapped or not, the first ELU leaves one of two sets to the Edge TPU.
        (["ELU", "RELU"], "?T"),
        (["ELU", "LEAKY_RELU", "RELU"], "?c?"),
        (["LEAKY_RELU"], "c"),
    ],
)
def test_a_chain(by_hand, ops, expected):
    assert targets(by_hand.chain(ops)) == expected


def test_data_dependence_decides_and_not_the_order_in_the_file(by_hand):
    h = by_hand
    tensors = [h.tensor(name) for name in "abcdefg"]
    # a -> RELU -> b; b -> LEAKY_RELU -> c -> RELU -> d; b -> RELU -> e -> RELU -> f; d + f -> g.
    steps = {
        "first": h.op("RELU", [0], [1]),
        "leaky": h.op("LEAKY_RELU", [1], [2]),
        "behind": h.op("RELU", [2], [3]),
        "beside": h.op("RELU", [1], [4]),
        "further": h.op("RELU", [4], [5]),
        "joined": h.op("ADD", [3, 5], [6]),
    }
    on_tpu = {"first", "beside", "further"}
    for order in (list(steps), ["first", "beside", "leaky", "further", "behind", "joined"]):
        content = h.graph([steps[name] for name in order], tensors, [0], [6])
        assert targets(content) == "".join("T" if name in on_tpu else "c" for name in order)


def test_a_reason_names_what_is_waited_for(by_hand):
    info = inspect.model_info(by_hand.chain(["RELU", "LEAKY_RELU", "RELU", "RELU"]))
    placed, refusals = edgetpu_partition.predicted_placements(info)
    assert [p.reason for p in placed] == [
        "",
        "Operation not supported: the table has no such op",
        "More than one subgraph is not supported: it waits for LEAKY_RELU #1",
        "More than one subgraph is not supported: it waits for LEAKY_RELU #1",
    ]
    assert set(refusals) == {1}


def test_ops_that_wait_for_each_other_are_no_endless_loop(by_hand):
    tensors = [by_hand.tensor(name) for name in "abc"]
    ops = [by_hand.op("ADD", [0, 2], [1]), by_hand.op("RELU", [1], [2])]
    with pytest.raises(ValueError, match="op 0 waits for op 1"):
        targets(by_hand.graph(ops, tensors, [0], [2]))
