"""What is said of a model for an Ethos-U; Vela itself is tested in test_vela.py."""

import dataclasses
import math

import pytest

from keras_kd import deploy
from keras_kd.deploy import devices, vela
from keras_kd.deploy.findings import Placement, Subject
from keras_kd.deploy.rules import ethos_u

DEVICE = devices.get("corstone-300")


def subject(content):
    return Subject(content, deploy.model_info(content), "a test")


def compiled(content, targets, **changes):
    """What Vela would have said, for the tests of what is made of it."""
    info = deploy.model_info(content)
    placements = tuple(Placement(op, *target) for op, target in zip(info.ops, targets, strict=True))
    said = {
        "content": b"0" * 5000,
        "version": "5.2.0",
        "accelerator_config": "ethos-u55-128",
        "system_config": "System",
        "memory_mode": "Shared_Sram",
        "clock_hz": 500e6,
        "cycles_npu": 800,
        "cycles_total": 1000,
        "inference_time_ms": 0.002,
        "sram_bytes": 1024,
        "dram_bytes": 0,
        "flash_bytes": 4096,
        "macs": 99,
        "placements": placements,
        "op_cycles": (0,) * len(info.ops),
    }
    return vela.Optimised(**{**said, **changes})


@pytest.fixture
def judged(monkeypatch):
    """The verdict on a file of which Vela says that."""

    def judge(content, targets, device=DEVICE, **changes):
        made = compiled(content, targets, **changes)
        monkeypatch.setattr(vela, "optimised", lambda *_, **__: made)
        return ethos_u.judge(subject(content), device)

    return judge


def by_rule(verdict):
    return {found.rule: found for found in verdict.findings}


NPU = ("npu",)


def test_all_on_the_npu(converted):
    pytest.importorskip("ethosu")
    found = deploy.check(converted("int8"), "corstone-300")
    assert found.fits
    assert found.findings == found.verdict.not_run == ()
    estimates = {estimate.name: estimate.value for estimate in found.estimates}
    assert (estimates["ops on the NPU"], estimates["MACs on the NPU"]) == (100.0, 100.0)
    made = vela.optimised(converted("int8").content, DEVICE)
    assert estimates["inference time"] == made.inference_time_ms
    assert (estimates["cycles"], estimates["NPU cycles"]) == (made.cycles_total, made.cycles_npu)
    sram, flash = found.budgets
    # 2 MiB, less Vela's tensors and 2 KiB for TFLM.
    assert sram.margin_bytes == 2 * 1024 * 1024 - made.sram_bytes - 2048
    assert (flash.used_bytes, flash.available_bytes) == (len(made.content), None)
    assert [placed.op for placed in found.placements] == list(found.info.ops)


def test_a_float_model_runs_but_not_on_the_npu(converted):
    pytest.importorskip("ethosu")
    found = deploy.check(converted("float32"), "ethos-u55-128")
    assert found.fits
    (only,) = [finding for finding in found.findings if finding.rule == "npu-unused"]
    assert (only.severity, only.rule) == ("warning", "npu-unused")
    assert "quantization='int8'" in only.cure
    assert len(only.where) == len(found.info.ops)
    assert [(budget.name, budget.used_bytes) for budget in found.budgets] == [("SRAM", None)]
    estimates = {e.name: e.value for e in found.estimates}
    assert (estimates["ops on the NPU"], estimates["MACs on the NPU"]) == (0.0, 0.0)


@pytest.mark.parametrize("quantization", ["dynamic_range", "float16"])
def test_hybrid_models_run_on_neither(converted, judged, quantization):
    content = converted(quantization).content
    count = len(deploy.model_info(content).ops)
    verdict = judged(content, [("cpu", "DataType Float32")] * count)
    assert by_rule(verdict)["hybrid-on-cpu"].severity == "error"
    assert quantization.replace("_", "-") in by_rule(verdict)["hybrid-on-cpu"].message


def test_what_the_cpu_lacks_is_an_error_there_and_none_on_the_npu(by_hand, judged):
    content = by_hand.chain(["RELU", "GELU"])
    on_npu = judged(content, [NPU, NPU])
    assert on_npu.findings == ()
    on_cpu = by_rule(judged(content, [NPU, ("cpu", "Unsupported opType")]))
    assert on_cpu["op-missing"].severity == "error"
    assert on_cpu["op-missing"].message.startswith("GELU would run on the CPU")
    assert on_cpu["op-missing"].where == ("GELU #1 (t2)",)


def test_reasons_with_one_cure_are_one_finding(by_hand, judged):
    content = by_hand.chain(["RELU", "RELU", "RELU", "RELU6"])
    targets = [
        ("cpu", "DataType Float32 (a)"),
        ("cpu", "Unsupported opType"),
        ("cpu", "DataType Float32 (b)"),
        NPU,
    ]
    found = judged(content, targets)
    on_cpu = [finding for finding in found.findings if finding.rule == "op-on-cpu"]
    assert [finding.where for finding in on_cpu] == [
        ("RELU #0 (t1)", "RELU #2 (t3)"),
        ("RELU #1 (t2)",),
    ]
    assert on_cpu[0].message == (
        "On the CPU: 2 of 4 ops. DataType Float32 (a), and 1 more like it."
    )
    assert on_cpu[0].cure != on_cpu[1].cure
    assert all(finding.severity == "warning" for finding in on_cpu)
    note = by_rule(found)["cpu-time-unknown"]
    assert (note.severity, "3 of 4 ops" in note.message) == ("note", True)
    assert {e.name: e.value for e in found.estimates}["ops on the NPU"] == 25.0


def test_an_unknown_reason_still_has_a_cure(by_hand, judged):
    found = judged(by_hand.chain(["RELU"]), [("cpu", "something new")])
    assert "supported-ops-report" in by_rule(found)["op-on-cpu"].cure


def test_uint8_on_the_cpu_is_warned_of(by_hand, judged):
    tensors = [by_hand.tensor(f"t{i}", dtype="UINT8") for i in range(3)]
    content = by_hand.chain(["RELU", "RELU"], tensors)
    assert by_rule(judged(content, [NPU, NPU])) == {}
    found = by_rule(judged(content, [NPU, ("cpu", "whatever")]))
    assert found["uint8-on-cpu"].where == ("RELU #1 (t2)",)


def test_too_little_memory_is_an_error(by_hand, judged):
    device = dataclasses.replace(
        DEVICE,
        ram_bytes=devices.Fact(4000, "a test"),
        ram_reserved_bytes=devices.Fact(1000, "a test"),
        flash_bytes=devices.Fact(5999, "a test"),
        flash_reserved_bytes=devices.Fact(1000, "a test"),
    )
    found = judged(by_hand.chain(["RELU"]), [NPU], device)
    # 1024 of tensors + 2048 of TFLM + 1000 reserved; a file of 5000 + 1000 reserved.
    assert [budget.margin_bytes for budget in found.budgets] == [4000 - 4072, 5999 - 6000]
    assert {rule: f.severity for rule, f in by_rule(found).items()} == {
        "sram-too-small": "error",
        "flash-too-small": "error",
    }


def test_dram_is_a_budget_where_it_is_used(by_hand, judged):
    found = judged(by_hand.chain(["RELU"]), [NPU], dram_bytes=77)
    assert [(b.name, b.used_bytes) for b in found.budgets][2:] == [("DRAM", 77)]


def test_the_slowest_op_is_named(by_hand, judged):
    found = judged(by_hand.chain(["RELU", "RELU6"]), [NPU, NPU], op_cycles=(250, 750))
    slowest = next(e for e in found.estimates if e.name == "slowest op")
    assert slowest.value == "RELU6 #1 (t2), 75 % of the cycles"


def test_without_vela_types_are_looked_at(converted, by_hand, monkeypatch):
    monkeypatch.setattr(vela, "is_installed", lambda: False)
    whole = deploy.check(converted("int8"), "ethos-u55-128")
    assert whole.fits
    assert {placed.target for placed in whole.placements} == {"unknown"}
    assert whole.budgets == ()
    assert not any("NPU" in estimate.name for estimate in whole.estimates)
    (said,) = whole.verdict.not_run
    assert "keras_kd[mcu]" in said
    tensors = [by_hand.tensor(f"t{i}", dtype="FLOAT32", scale=None) for i in range(2)]
    floating = ethos_u.judge(subject(by_hand.chain(["GELU"], tensors)), DEVICE)
    assert [placed.target for placed in floating.placements] == ["cpu"]
    assert {"npu-unused", "op-missing"} <= set(by_rule(floating))


def test_a_failure_of_vela_is_a_finding(converted, monkeypatch):
    def fails(*_, **__):
        raise vela.VelaError("Vela was ended by SIGSEGV.\n  last words")

    monkeypatch.setattr(vela, "optimised", fails)
    found = ethos_u.judge(subject(converted("int8").content), DEVICE)
    failed = by_rule(found)["vela-failed"]
    assert (failed.severity, failed.message) == ("error", "Vela was ended by SIGSEGV. last words")
    assert found.not_run
    floating = ethos_u.judge(subject(converted("float32").content), DEVICE)
    assert "int8" in by_rule(floating)["vela-failed"].cure


def test_a_compiled_file_is_known(by_hand):
    found = ethos_u.judge(subject(by_hand.chain(["+ethos-u", "RELU", "GELU"])), DEVICE)
    assert [placed.target for placed in found.placements] == ["npu", "cpu", "cpu"]
    assert {rule: f.severity for rule, f in by_rule(found).items()} == {
        "already-compiled": "warning",
        "op-missing": "error",
    }
    assert found.not_run


def test_a_file_for_coral_is_known(by_hand, judged):
    content = by_hand.chain(["+edgetpu-custom-op"])
    found = judged(content, [("cpu", "Unsupported opType")])
    assert "Coral" in by_rule(found)["op-missing"].cure


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("device", ["ethos-u55-32", "ethos-u65-512", "ethos-u85-1024"])
def test_no_real_model_crashes(data_folder, device):
    pytest.importorskip("ethosu")
    for path in sorted((data_folder / "models").rglob("*.tflite")):
        found = deploy.check(path, device)
        assert len(found.placements) == len(found.info.ops), path.name
        for estimate in found.estimates:
            assert isinstance(estimate.value, str) or math.isfinite(estimate.value), path.name
        floating = "float" in path.name or path.name in ("pretrainedResnet.tflite",)
        mapped = any(placed.target == "npu" for placed in found.placements)
        assert not (floating and mapped), path.name


@pytest.mark.data
def test_a_float_lstm_that_vela_refuses_becomes_a_finding(data_folder):
    pytest.importorskip("ethosu")
    found = deploy.check(data_folder / "models/tflite_micro/trained_lstm.tflite", "ethos-u55-64")
    assert not found.fits
    (failed,) = [finding for finding in found.findings if finding.rule == "vela-failed"]
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in failed.message
    assert "Convert the student to int8" in failed.cure
