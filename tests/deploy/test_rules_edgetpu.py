"""What a check for the Edge TPU tells, by the rules, by the compiler, and of a compiled file.

The data tests hold the prediction against models that Coral's compiler compiled, op by op.
"""

import sys

import pytest

from keras_kd.deploy import check, devices, edgetpu_compiler, inspect
from keras_kd.deploy.devices import Device, Fact


def rules_found(found):
    """(severity, rule) of each finding."""
    return [(f.severity, f.rule) for f in found.findings]


def test_a_check_groups_ops_with_one_cure(by_hand):
    found = check(by_hand.chain(["RELU", "LEAKY_RELU", "RELU", "LEAKY_RELU", "ELU"]), "coral-usb")
    assert found.fits
    by_rule = {f.rule: f for f in found.findings}
    assert by_rule["edgetpu-op-on-cpu"].where == ("LEAKY_RELU #1 (t2)", "LEAKY_RELU #3 (t4)")
    assert "PReLU with shared_axes=[1, 2]" in by_rule["edgetpu-op-on-cpu"].cure
    assert by_rule["edgetpu-behind-cpu"].where == ("RELU #2 (t3)", "ELU #4 (t5)")
    estimates = {e.name: e.value for e in found.estimates}
    assert (estimates["ops on the Edge TPU"], estimates["ops on the CPU"]) == (1, 4)
    assert any("edgetpu_compiler is not on the PATH" in line for line in found.verdict.not_run)


def test_unknown_ops_are_said_to_be(by_hand):
    found = check(by_hand.chain(["RELU", "COS", "RELU"]), "coral-usb")
    assert ("warning", "edgetpu-unknown") in rules_found(found)
    assert ("ops of which no rule tells", 2) in [(e.name, e.value) for e in found.estimates]
    assert "waits for COS #1" in found.placements[2].reason


def test_a_float_model_does_not_fit(by_hand):
    tensors = [by_hand.tensor(name, dtype="FLOAT32", scale=None) for name in "ab"]
    found = check(by_hand.chain(["RELU"], tensors), "coral-usb")
    assert not found.fits
    assert ("error", "edgetpu-nothing-mapped") in rules_found(found)


def test_a_float_interface_is_a_note(by_hand):
    ends = [by_hand.tensor(name, dtype="FLOAT32", scale=None) for name in "ad"]
    tensors = [ends[0], by_hand.tensor("b"), by_hand.tensor("c"), ends[1]]
    found = check(by_hand.chain(["QUANTIZE", "RELU", "DEQUANTIZE"], tensors), "coral-usb")
    assert found.fits
    assert [p.target for p in found.placements] == ["cpu", "edgetpu", "cpu"]
    edges = [f for f in found.findings if f.rule.startswith("edgetpu")]
    assert {(f.severity, f.rule) for f in edges} == {("note", "edgetpu-float-interface")}


def test_the_micro_runs_the_rest_in_tflite_micro(by_hand):
    ops = ["RELU", "LEAKY_RELU", "+PosenetDecoderOp", "+Erf", "COMPLEX_ABS"]
    content = by_hand.chain(ops)
    assert check(content, "coral-usb").fits
    (finding,) = [
        f for f in check(content, "coral-micro").findings if f.rule == "edgetpu-host-op-missing"
    ]
    assert finding.severity == "error"
    assert finding.where == ("Erf #3 (t4)", "COMPLEX_ABS #4 (t5)")


# Whoever compiled it: a file, or the compiler on the PATH.
COMPILER = """#!{python}
import pathlib, sys
out_dir = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
{body}
"""


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A function that puts a compiler with this body on the PATH."""

    def put(body):
        path = tmp_path / edgetpu_compiler.EXECUTABLE
        path.write_text(COMPILER.format(python=sys.executable, body=body))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def after_compiling(by_hand):
    """RELU, ABS, RELU, RELU, of which the compiler left two."""
    tensors = [by_hand.tensor(f"t{i}") for i in range(5)]
    ops = [
        by_hand.op("+edgetpu-custom-op", [0], [2]),
        by_hand.op("RELU", [2], [3]),
        by_hand.op("RELU", [3], [4]),
    ]
    return by_hand.graph(ops, tensors, [0], [4])


SAID = """Edge TPU Compiler version 16.0.384591198
On-chip memory used for caching model parameters: 7.14MiB
Off-chip memory used for streaming uncached model parameters: 6.63MiB
Operator                       Count      Status

RELU                           1          Mapped to Edge TPU
ABS                            1          Mapped to Edge TPU
RELU                           2          Some other limitation
"""


def test_the_compilers_word_counts(by_hand, compiler):
    compiler(
        f"(out_dir / 'model_edgetpu.tflite').write_bytes({after_compiling(by_hand)!r})\n"
        f"print({SAID!r})"
    )
    found = check(by_hand.chain(["RELU", "ABS", "RELU", "RELU"]), "coral-usb")
    # The rules alone do not know ABS, and take all of what is behind it with it.
    assert [p.target for p in found.placements] == ["edgetpu", "edgetpu", "cpu", "cpu"]
    assert {p.reason for p in found.placements[2:]} == {"Some other limitation"}
    (told,) = [f for f in found.findings if f.rule == "edgetpu-op-on-cpu"]
    assert "Some other limitation" in told.message
    assert len(told.where) == 2
    assert ("warning", "edgetpu-parameters-streamed") in rules_found(found)
    assert found.budgets[-1].used_bytes == round(7.14 * 2**20)
    assert not any("not on the PATH" in line for line in found.verdict.not_run)


def test_a_compiler_that_fails_is_an_error_with_what_the_rules_know(by_hand, compiler):
    compiler("print('Internal compiler error. Aborting!'); sys.exit(1)")
    found = check(by_hand.chain(["RELU", "LEAKY_RELU"]), "coral-usb")
    assert not found.fits
    assert ("error", "edgetpu-compiler-failed") in rules_found(found)
    assert ("warning", "edgetpu-op-on-cpu") in rules_found(found)
    assert {p.target for p in found.placements} == {"cpu"}


def test_an_old_runtime_is_told_to_the_compiler(by_hand, compiler, tmp_path):
    compiler(f"pathlib.Path({str(tmp_path / 'asked')!r}).write_text(' '.join(sys.argv))")
    usb = devices.get("coral-usb")
    options = {**usb.options, "runtime_version": Fact(13, "the device")}
    old = Device(name="old", title="Old", runtime="edgetpu", options=options)
    check(by_hand.chain(["RELU"]), old)
    assert "-m 13" in (tmp_path / "asked").read_text()
    check(by_hand.chain(["RELU"]), usb)
    assert "-m" not in (tmp_path / "asked").read_text().split()


def test_a_compiled_file_tells_of_itself(by_hand):
    tensors = [by_hand.tensor(name) for name in "abc"]
    program = by_hand.edgetpu_program(13, 640, 2**20)
    ops = [
        by_hand.op("+edgetpu-custom-op", [0], [1], customOptions=program),
        by_hand.op("ABS", [1], [2]),
    ]
    content = by_hand.graph(ops, tensors, [0], [2])
    found = check(content, "coral-usb")
    assert [p.target for p in found.placements] == ["edgetpu", "cpu"]
    (note,) = [f for f in found.findings if f.rule == "edgetpu-compiled"]
    assert note.where == ("ABS #1 (c)",)
    assert ("warning", "edgetpu-parameters-streamed") in rules_found(found)
    assert found.budgets[-1].used_bytes == 640
    options = {"runtime_version": Fact(12, "the device")}
    old = check(content, Device(name="old", title="Old", runtime="edgetpu", options=options))
    assert not old.fits
    assert found.fits
    (error,) = [f for f in old.findings if f.severity == "error"]
    assert "--min_runtime_version 12" in error.cure


# Real models.
CORAL = {
    "deeplabv3_mnv2_dm05_pascal_quant": (64, 72),
    "keras_lstm_mnist_ptq": (6, 6),
    "mobilenet_v1_0.25_128_quant": (31, 31),
    "split_concat": (3, 3),
}


@pytest.mark.data
@pytest.mark.parametrize("name", CORAL)
def test_the_prediction_is_what_the_compiler_did(data_folder, name):
    folder = data_folder / "models" / "coral"
    found = check(folder / f"{name}.tflite", "coral-usb")
    after = inspect.model_info(folder / f"{name}_edgetpu.tflite")
    left = edgetpu_compiler.left_on_cpu(found.info, after)
    assert {p.op.index for p in found.placements if p.target == "cpu"} == left
    assert {p.target for p in found.placements} <= {"edgetpu", "cpu"}
    mapped, total = CORAL[name]
    estimates = {e.name: e.value for e in found.estimates}
    assert (estimates["ops on the Edge TPU"], len(found.placements)) == (mapped, total)


@pytest.mark.data
@pytest.mark.parametrize("name", CORAL)
def test_a_compiled_model_is_recognised(data_folder, name):
    found = check(data_folder / "models" / "coral" / f"{name}_edgetpu.tflite", "coral-usb")
    mapped, total = CORAL[name]
    assert found.fits
    assert sum(p.target == "cpu" for p in found.placements) == total - mapped
    (note,) = [f for f in found.findings if f.rule == "edgetpu-compiled"]
    assert len(note.where) == total - mapped


@pytest.mark.data
@pytest.mark.parametrize(
    # The bounds of the fit over 56 pairs; the LSTM's and the split's parameters are too few.
    "name",
    ["deeplabv3_mnv2_dm05_pascal_quant", "mobilenet_v1_0.25_128_quant"],
)
def test_the_parameter_memory_is_what_the_compiler_took(data_folder, name):
    folder = data_folder / "models" / "coral"
    (predicted,) = check(folder / f"{name}.tflite", "coral-usb").budgets
    (real,) = check(folder / f"{name}_edgetpu.tflite", "coral-usb").budgets
    assert 0.93 < predicted.used_bytes / real.used_bytes < 1.08


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("mlcommons_tiny/kws_ref_model", True),
        ("mlcommons_tiny/pretrainedResnet_quant", True),
        ("mlcommons_tiny/vww_96_int8", True),
        ("mlcommons_tiny/kws_ref_model_float32", False),
        ("tflite_micro/person_detect", False),
        ("tflite_micro/audio_preprocessor_int8", False),
    ],
)
def test_other_real_models(data_folder, name, fits):
    found = check(data_folder / "models" / f"{name}.tflite", "coral-micro")
    assert found.fits == fits
    assert {p.target for p in found.placements} == ({"edgetpu"} if fits else {"cpu"})
