"""What a model would take on a device: an estimate of its own, or the reason why there is none."""

import pytest

from keras_kd.deploy import inspect
from keras_kd.deploy.check import Check
from keras_kd.deploy.devices import Device
from keras_kd.deploy.findings import Estimate, Verdict
from keras_kd.deploy.proof import on_device
from keras_kd.deploy.proof.evidence import CONVERTED, FLOAT, TEACHER
from keras_kd.deploy.proof.on_device import DeviceForm, device_form, device_time, float_form


def check_by_hand(runtime, *estimates):
    info = inspect.ModelInfo.__new__(inspect.ModelInfo)
    return Check("m", info, Device("one", "One", runtime), Verdict(estimates=estimates))


@pytest.mark.parametrize(
    ("runtime", "quantization", "reason"),
    [
        ("ethos_u", "float32", "needs int8"),
        ("edgetpu", "dynamic_range", "needs int8"),
        ("ethos_u", "int8", "Vela gave none"),
        ("edgetpu", "int8", "not known: needs the TPU"),
        ("litert_gpu", "float16", "not known: needs the phone"),
    ],
)
def test_without_an_estimate_the_reason_stands_in_its_place(runtime, quantization, reason):
    check = check_by_hand(runtime)
    time = device_time(check, DeviceForm(CONVERTED, quantization), is_checked=True)
    assert (time.device, time.time_ms, time.not_known) == ("one", None, reason)


def test_an_estimate_is_of_the_model_that_was_checked_alone():
    check = check_by_hand("ethos_u", Estimate("inference time", 250.0, "µs", "Vela"))
    assert device_time(check, DeviceForm(CONVERTED, "int8"), is_checked=True).time_ms == 0.25
    other = device_time(check, DeviceForm(FLOAT, "float32"), is_checked=False)
    assert (other.time_ms, other.not_known) == (None, "needs int8")


def test_a_teacher_that_cannot_be_converted_has_the_reason(monkeypatch, student):
    def refused(model, quantization):
        raise ValueError("Expected\nsomething else.")

    monkeypatch.setattr(on_device, "convert", refused)
    found, artifact = float_form(TEACHER, student)
    assert artifact is None
    assert (found.size_bytes, found.macs, found.arena_bytes) == (None, None, None)
    assert found.not_known == "not converted: Expected something else."


def test_what_tflm_refuses_has_no_arena(converted):
    found = device_form(CONVERTED, converted("float16"))
    assert found.arena_bytes is None
    assert found.macs
    assert found.not_known.startswith("TFLite Micro did not run it: ")
