"""A check as a whole: what is asked of whom, and what comes together."""

import dataclasses

import pytest

from keras_kd import deploy
from keras_kd.deploy import check_report, devices
from keras_kd.deploy.devices import Device, Fact
from keras_kd.deploy.devices.base import RUNTIMES
from keras_kd.deploy.findings import (
    ERROR,
    NOTE,
    WARNING,
    Budget,
    Finding,
    Verdict,
    over_budget,
    place,
    printable,
)
from keras_kd.deploy.rules import phone

PHONE = Device("phone", "A phone", "litert")


def own_device(runtime):
    """A device of a runtime with no more facts than that wants."""
    options = devices.get("ethos-u55-128").options if runtime == "ethos_u" else {}
    return Device(f"own-{runtime}", runtime, runtime, options=options)


@pytest.fixture
def rules(monkeypatch):
    """Replaces what the phone's own rules say; the list holds what they were asked."""
    asked = []

    def say(**said):
        def judge(subject, device):
            asked.append((subject, device))
            return Verdict(**said)

        monkeypatch.setattr(phone, "judge", judge)
        return asked

    return say


def test_what_the_rules_are_asked(by_hand, rules, tmp_path):
    asked = rules()
    content = by_hand.chain(["RELU"])
    path = tmp_path / "student.tflite"
    path.write_bytes(content)
    for model, label in (
        (content, "model"),
        (bytearray(content), "model"),
        (path, "student.tflite"),
        (str(path), "student.tflite"),
        (deploy.Artifact.load(path), "student.tflite"),
        (dataclasses.replace(deploy.Artifact.load(path), path=None), "artifact"),
    ):
        check = deploy.check(model, PHONE, x=[1], y=[2])
        subject, device = asked.pop()
        assert (subject.content, subject.label, subject.x, subject.y) == (content, label, [1], [2])
        assert subject.info == check.info == deploy.model_info(content)
        assert (device, check.device, check.label) == (PHONE, PHONE, label)
        assert check.fits


def test_devices_by_name_and_by_file(by_hand, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_DEVICES", {"phone": PHONE})
    (tmp_path / "mine.json").write_text(PHONE.to_json())
    for device in ("phone", str(tmp_path / "mine.json")):
        assert deploy.check(by_hand.chain(["RELU"]), device).device == PHONE


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_has_rules(by_hand, runtime):
    check = deploy.check(by_hand.chain(["+FlexErf"]), own_device(runtime))
    assert not check.fits
    assert isinstance(check.verdict, Verdict)


def test_models_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="Expected a TFLite flatbuffer"):
        deploy.check(b"no model", PHONE)
    with pytest.raises(TypeError, match="Expected a TFLite flatbuffer as bytes"):
        deploy.check(3, PHONE)
    with pytest.raises(FileNotFoundError):
        deploy.check(tmp_path / "missing.tflite", PHONE)
    with pytest.raises(ValueError, match="Expected a device of"):
        deploy.check(b"", "no such device")


def test_findings_come_together_the_worst_first(by_hand, rules):
    own = [Finding(severity, f"own-{severity}", "m", "c") for severity in (NOTE, WARNING, ERROR)]
    rules(findings=tuple(own), not_run=("a board",))
    check = deploy.check(by_hand.chain(["+Own"]), PHONE)
    assert [(f.severity, f.rule) for f in check.findings] == [
        (ERROR, "custom-op"),
        (ERROR, "own-error"),
        (WARNING, "own-warning"),
        (NOTE, "own-note"),
    ]
    assert not check.fits
    assert check.not_run == ("a board",)
    assert check.estimates[0].name == "model file"


def test_a_runtimes_own_word_stands_alone(by_hand, rules):
    """Its rules know whether it has a kernel; the common ones do not say it a second time."""
    rules(findings=(Finding(NOTE, "custom-op", "It has one.", "Nothing."),))
    check = deploy.check(by_hand.chain(["+Own"]), PHONE)
    assert [f.message for f in check.findings] == ["It has one."]
    assert check.fits


def test_a_memory_that_is_too_small(by_hand, rules):
    rules(budgets=(Budget("RAM", 100, 90, "measured"), Budget("flash", None, 5, "?")))
    check = deploy.check(by_hand.chain(["RELU"]), PHONE)
    assert not check.fits  # Even where a rule forgot to say so.
    rules(budgets=(Budget("RAM", 90, 90, "measured"), Budget("flash", 3, None, "no bound")))
    assert deploy.check(by_hand.chain(["RELU"]), PHONE).fits


def test_over_budget():
    full = Budget("on-chip parameters", 1_100, 1_000, "read off the file")
    assert (full.margin_bytes, Budget("RAM", 3, None, "").margin_bytes) == (-100, None)
    (finding,) = over_budget(PHONE, full, "Fewer channels.")
    assert (finding.severity, finding.rule) == (ERROR, "on-chip-parameters-too-small")
    assert finding.message == (
        "1,100 bytes of on-chip parameters are needed (read off the file); A phone has 1,000: "
        "100 too few."
    )
    board = dataclasses.replace(PHONE, ram_bytes=Fact(4, "its data sheet"))
    (finding,) = over_budget(board, Budget("RAM", 5, 4, "measured"), "Fewer channels.")
    assert finding.source == "its data sheet"
    assert over_budget(PHONE, Budget("RAM", 5, 5, ""), "") == ()
    assert over_budget(PHONE, Budget("RAM", None, 5, ""), "") == ()


def test_a_severity_that_is_none():
    with pytest.raises(ValueError, match="Expected a severity of error, warning, note"):
        Finding("fatal", "rule", "m", "c")


def test_places(by_hand):
    tensors = [by_hand.tensor("in"), by_hand.tensor("dense/MatMul;rest"), by_hand.tensor("")]
    info = deploy.model_info(by_hand.chain(["RELU", "+Own"], tensors))
    assert place(info, info.ops[0]) == "RELU #0 (dense/MatMul)"
    assert place(info, info.ops[1]) == "Own #1"
    inner = dataclasses.replace(info.ops[0], subgraph=2)
    other = dataclasses.replace(
        info, tensors=tuple(dataclasses.replace(t, subgraph=2) for t in info.tensors)
    )
    assert place(other, inner) == "RELU #0 in subgraph 2 (dense/MatMul)"


def test_names_out_of_a_file_cannot_write_on_a_terminal():
    assert (
        printable("conv\x1b[2J\nerror")
        == "conv\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}error"
    )
    assert len(printable("x" * 1000)) == 80
    assert printable("naïve/名前") == "naïve/名前"


def test_device_facts_reach_the_common_rules(by_hand):
    device = dataclasses.replace(PHONE, input_dtypes=Fact(("uint8",), "the app"))
    findings = deploy.check(by_hand.chain(["RELU"]), device).findings
    assert [f.rule for f in findings] == ["input-dtype"]


def checked_without_a_crash(folder, devices):
    models = sorted(folder.rglob("*.tflite"))
    assert models
    for path in models:
        for device in devices:
            check = deploy.check(path, device)
            assert all(f.message and f.cure and f.source for f in check.findings)
            assert check_report.text(check).startswith(path.name)


@pytest.mark.slow
@pytest.mark.data
def test_no_published_model_makes_a_runtimes_rules_crash(data_folder):
    checked_without_a_crash(data_folder, [own_device(runtime) for runtime in RUNTIMES])


@pytest.mark.slow
@pytest.mark.data
def test_no_published_model_makes_a_device_crash(data_folder):
    # Vela takes seconds a model: one configuration here, the others in test_rules_ethos_u.py.
    others = [device for device in devices.available() if device.runtime != "ethos_u"]
    checked_without_a_crash(data_folder, [*others, devices.get("ethos-u55-128")])
