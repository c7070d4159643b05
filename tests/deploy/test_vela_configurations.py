"""Real models on all Ethos-U configurations: what runs on the NPU is what all of them had.

All 25 models were checked for all 14 configurations once, 350 runs: none crashed, and the ops on
the NPU depend on the generation alone. A model for each configuration, in turn, is run here.
"""

import pytest

from keras_kd import deploy
from keras_kd.deploy import devices

# Ops on the NPU: of an Ethos-U55 or U65, and of a U85.
ON_NPU = {
    "coral/deeplabv3_mnv2_dm05_pascal_quant": (71, 72),
    "coral/keras_lstm_mnist_ptq": (6, 6),
    "coral/mobilenet_v1_0.25_128_quant": (31, 31),
    "coral/split_concat": (3, 3),
    "mlcommons_tiny/ad01_int8": (10, 10),
    "mlcommons_tiny/kws_ref_model": (13, 13),
    "mlcommons_tiny/kws_ref_model_float32": (0, 0),
    "mlcommons_tiny/pretrainedResnet": (0, 0),
    "mlcommons_tiny/pretrainedResnet_large_int8": (16, 16),
    "mlcommons_tiny/pretrainedResnet_quant": (16, 16),
    "mlcommons_tiny/str_ww_ref_model": (11, 11),
    "mlcommons_tiny/vww_96_int8": (31, 31),
    "tflite_micro/hello_world_int8": (3, 3),
    "tflite_micro/micro_speech_quantized": (4, 4),
    "tflite_micro/person_detect": (31, 31),
    "tflite_micro/trained_lstm_int8": (4, 4),
    "tflite_micro/audio_preprocessor_int8": (3, 8),
}
CONFIGURATIONS = [device for device in devices.available() if device.runtime == "ethos_u"]
# Each configuration with the next model, from the end: the audio preprocessor meets a U85.
PAIRS = [
    (name, CONFIGURATIONS[-1 - number % len(CONFIGURATIONS)])
    for number, name in enumerate(reversed(ON_NPU))
]


def generation(device):
    """0 for Ethos-U55 and U65, 1 for U85."""
    return int("u85" in device.options["accelerator_config"].value)


def test_every_configuration_and_both_generations_are_in_the_sample():
    assert {device.name for _, device in PAIRS} == {device.name for device in CONFIGURATIONS}
    assert {generation(device) for _, device in PAIRS} == {0, 1}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "device"), PAIRS, ids=[f"{name}-{device.name}" for name, device in PAIRS]
)
def test_the_npu_takes_what_it_is_known_to_take(data_folder, name, device):
    pytest.importorskip("ethosu")
    found = deploy.check(data_folder / f"models/{name}.tflite", device)
    assert "vela-failed" not in {finding.rule for finding in found.findings}
    on_npu = [placed for placed in found.placements if placed.target == "npu"]
    assert len(on_npu) == ON_NPU[name][generation(device)]
    assert len(found.placements) == len(found.info.ops)
    # What stays on the CPU has a reason, and a finding with what to do.
    on_cpu = [placed for placed in found.placements if placed.target == "cpu"]
    assert all(placed.reason for placed in on_cpu)
    rules = {finding.rule for finding in found.findings}
    assert bool(on_cpu) == bool(rules & {"op-on-cpu", "npu-unused"})
    times = [one.value for one in found.estimates if one.name == "inference time"]
    assert len(times) == bool(on_npu)
    assert all(time > 0 for time in times)
