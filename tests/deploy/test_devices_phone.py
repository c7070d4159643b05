"""The phones as data: facts with their sources, and the way through JSON."""

import pytest

from keras_kd.deploy import devices
from keras_kd.deploy.devices import phone


@pytest.mark.parametrize(
    ("name", "runtime", "inputs", "outputs"),
    [
        (
            "android-cpu",
            "litert",
            {"float32", "int8", "uint8", "int32", "int64", "bool"},
            {"float32", "int8", "uint8", "int32", "int64", "bool"},
        ),
        (
            "android-gpu",
            "litert_gpu",
            {"float32", "int8", "uint8", "int32", "int64", "bool"},
            {"float32", "int8", "uint8", "int32", "int64", "bool"},
        ),
        ("android-mediapipe", "mediapipe", {"uint8", "float32"}, {"uint8", "float32", "bool"}),
    ],
)
def test_the_phones(name, runtime, inputs, outputs):
    device = devices.get(name)
    assert device.runtime == runtime
    assert set(device.input_dtypes.value) == inputs
    assert set(device.output_dtypes.value) == outputs
    assert device.options["min_sdk"].value == 24


@pytest.mark.parametrize("device", phone.DEVICES, ids=lambda device: device.name)
def test_through_json(device):
    assert devices.from_json(device.to_json()) == device


@pytest.mark.parametrize("device", phone.DEVICES, ids=lambda device: device.name)
def test_no_fact_of_a_phone_that_is_not_known(device):
    """Which chip a phone has is not known, so nothing is said of its speed and memory."""
    assert {"processor", "clock_hz", "flash_bytes", "ram_bytes"}.isdisjoint(device.facts)
    for fact in device.facts.values():
        assert fact.source


def test_packages_are_of_the_version_that_the_project_takes():
    options = devices.get("android-gpu").options
    for key in ("package", "gpu_package"):
        assert options[key].value.rsplit(":", 1)[1] == phone.LITERT_VERSION
