"""The parameter memory: how it is estimated, and what is said of it."""

import pytest

from keras_kd.deploy import devices, inspect
from keras_kd.deploy.rules import edgetpu_parameters


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        # Outputs fill up to 64 and inputs to 16; 12 bytes for each output.
        ("CONV_2D", (8, 3, 3, 4), 64 * (9 * 16 + 12)),
        ("CONV_2D", (65, 1, 1, 17), 128 * (32 + 12)),
        ("FULLY_CONNECTED", (10, 100), 64 * (112 + 12)),
        # Channels fill up to 4, and positions too.
        ("DEPTHWISE_CONV_2D", (1, 3, 3, 6), 8 * (12 + 12)),
        ("MUL", (3, 5), 15),
    ],
)
def test_parameters_are_laid_out_in_tiles(by_hand, name, weights, expected):
    inputs = [by_hand.tensor("x"), by_hand.filled(weights), by_hand.integers([0] * weights[0])]
    info = inspect.model_info(by_hand.single(name, inputs, by_hand.tensor("y")))
    assert edgetpu_parameters.estimated_bytes(info, info.ops) == expected
    # A constant of several ops is there once.
    assert edgetpu_parameters.estimated_bytes(info, info.ops * 2) == expected


@pytest.mark.parametrize(
    ("cached", "streamed", "severity"),
    [
        (5 * 2**20, None, None),
        (7 * 2**20, None, "note"),
        (9 * 2**20, None, "warning"),
        (6 * 2**20, 0, None),
        (6 * 2**20, 600, "note"),
        (6 * 2**20, 2**20, "warning"),
    ],
)
def test_parameters_that_do_not_stay_on_the_chip(cached, streamed, severity):
    verdict = edgetpu_parameters.memory(devices.get("coral-usb"), cached, "said", streamed)
    assert [f.severity for f in verdict.findings] == ([severity] if severity else [])
    (budget,) = verdict.budgets
    assert (budget.used_bytes, budget.available_bytes) == (cached, 8 * 2**20)
