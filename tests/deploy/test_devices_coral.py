"""Coral's boards as data: what a rule or a report reads of them."""

import pytest

from keras_kd.deploy import devices
from keras_kd.deploy.devices import coral


@pytest.mark.parametrize("name", ["coral-usb", "coral-dev-board", "coral-micro"])
def test_a_board_is_listed_with_a_source_for_each_fact(name):
    device = devices.get(name)
    assert device.runtime == "edgetpu"
    assert device.parameter_memory_bytes.value == 8 * 2**20
    assert device.options["accelerated_dtypes"].value == ("uint8", "int8")
    # The host takes what it likes: ARG_MAX, left to it, gives int64.
    assert device.input_dtypes is device.output_dtypes is None
    assert all(fact.source for fact in device.facts.values())
    # No board was at hand.
    assert not any(fact.verified for fact in device.facts.values())
    assert device.options["runtime_version"].value == 14


def test_the_host_of_the_micro_alone_runs_tflite_micro():
    hosts = {d.name: d.options["host_runtime"].value for d in coral.DEVICES}
    assert hosts == {"coral-usb": "litert", "coral-dev-board": "litert", "coral-micro": "tflm"}


@pytest.mark.parametrize("device", coral.DEVICES, ids=lambda d: d.name)
def test_a_board_goes_through_json_unchanged(device):
    assert devices.from_json(device.to_json()).to_json() == device.to_json()
