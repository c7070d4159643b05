"""What Vela says, read right: units, places and reasons of ops, and its failures."""

import collections
import dataclasses
import importlib.resources
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy import devices, vela

DEVICE = devices.get("ethos-u55-128")


@pytest.fixture(scope="module")
def mixed(images):
    """An int8 model of which Vela leaves a part, in the middle, to the CPU."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="before")(inputs)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    student = keras.Model(inputs, keras.layers.Dense(3, name="after")(x))
    return deploy.convert(
        student, calibration=images, input_range=(0, 1), allow_float=("LayerNormalization",)
    )


@pytest.fixture(scope="module")
def made(converted):
    pytest.importorskip("ethosu")
    return vela.optimised(converted("int8").content, DEVICE)


@pytest.fixture(scope="module")
def made_of_mixed(mixed):
    pytest.importorskip("ethosu")
    return vela.optimised(mixed.content, DEVICE)


def by_hand_summary(folder):
    """What Vela prints of the file in that folder, as a person runs it."""
    command = [sys.executable, "-m", "ethosu.vela", str(folder / "student.tflite")]
    command += ["--accelerator-config", "ethos-u55-128", "--output-dir", str(folder)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split() for line in printed.splitlines() if line.strip()]


def test_the_numbers_are_those_that_vela_prints(converted, made, tmp_path):
    converted("int8").save(tmp_path / "student.tflite")
    lines = by_hand_summary(tmp_path)
    printed = {" ".join(words[:3]): words for words in lines}
    # Printed in KiB to two digits, so to half of .01 KiB.
    assert made.sram_bytes / 1024 == pytest.approx(float(printed["Total SRAM used"][3]), abs=0.005)
    flash = next(words for words in lines if words[:3] == ["Total", "Off-chip", "Flash"])
    assert made.flash_bytes / 1024 == pytest.approx(float(flash[-2]), abs=0.005)
    macs = next(words for words in lines if words[:3] == ["Neural", "network", "macs"])
    assert made.macs == int(macs[3])
    assert made.content == (tmp_path / "student_vela.tflite").read_bytes()
    assert (made.system_config, made.memory_mode, made.clock_hz, made.dram_bytes) == (
        "Ethos_U55_High_End_Embedded",
        "Shared_Sram",
        500e6,
        0,
    )


def test_the_time_is_the_cycles_at_the_clock(made):
    # Rounded to a nanosecond, 1e-6 ms.
    assert made.inference_time_ms == pytest.approx(
        1000 * made.cycles_total / made.clock_hz, abs=5e-7
    )
    assert 0 < made.cycles_npu <= made.cycles_total == sum(made.op_cycles)


def test_the_student_maps_wholly(converted, made):
    info = deploy.model_info(converted("int8").content)
    assert [placed.op for placed in made.placements] == list(info.ops)
    assert {(placed.target, placed.reason) for placed in made.placements} == {("npu", "")}
    assert [op.name for op in deploy.model_info(made.content).ops] == [vela.NPU_OP]
    cycles = dict(zip((op.name for op in info.ops), made.op_cycles, strict=True))
    assert cycles["RESHAPE"] == 0 < cycles["CONV_2D"]


def test_twice_the_same(converted, made):
    assert vela.optimised(converted("int8").content, DEVICE) == made
    assert vela.optimised(converted("int8").content, DEVICE).content == made.content


def test_op_by_op_what_is_left_in_the_file_is_on_the_cpu(mixed, made_of_mixed):
    info, left = deploy.model_info(mixed.content), deploy.model_info(made_of_mixed.content)
    on_cpu = [placed.op for placed in made_of_mixed.placements if placed.target == "cpu"]
    named = collections.Counter(
        (op.name, info.tensor(op.outputs[0]).name, tuple(info.tensor(op.outputs[0]).shape))
        for op in on_cpu
    )
    assert named == collections.Counter(
        (op.name, left.tensor(op.outputs[0]).name, tuple(left.tensor(op.outputs[0]).shape))
        for op in left.ops
        if op.name != vela.NPU_OP
    )
    # A CPU island between two NPU parts: places are kept in the file's order.
    targets = [placed.target for placed in made_of_mixed.placements]
    assert targets[0] == targets[-1] == "npu"
    assert "cpu" in targets
    for cycles, placed in zip(made_of_mixed.op_cycles, made_of_mixed.placements, strict=True):
        assert cycles == 0 or placed.target == "npu"


def test_reasons_are_of_the_right_op(made_of_mixed):
    reasons = {}
    for placed in made_of_mixed.placements:
        assert (placed.target == "cpu") == bool(placed.reason)
        reasons.setdefault(placed.op.name, set()).add(placed.reason)
    assert reasons["DEQUANTIZE"] == {"Unsupported opType"}
    assert all("Float32" in reason for reason in reasons["QUANTIZE"])
    assert any("depth-reduction" in reason for reason in reasons["MEAN"])


def test_a_fused_activation_does_not_hide_the_reason(converted):
    pytest.importorskip("ethosu")
    made = vela.optimised(converted("float32").content, DEVICE)
    assert {placed.target for placed in made.placements} == {"cpu"}
    assert all("Float32" in placed.reason for placed in made.placements)
    assert (made.cycles_total, made.inference_time_ms, set(made.op_cycles)) == (0, 0.0, {0})


@pytest.mark.slow
def test_ops_in_other_subgraphs_are_placed(student):
    pytest.importorskip("ethosu")
    inputs = keras.Input((6, 4))
    looped = deploy.convert(
        keras.Model(inputs, keras.layers.GRU(5)(inputs)), quantization="float32"
    )
    made = vela.optimised(looped.content, DEVICE)
    assert len({placed.op.subgraph for placed in made.placements}) > 1
    assert {placed.target for placed in made.placements} == {"cpu"}
    assert "Vela gives no reason" not in {placed.reason for placed in made.placements}


def test_where_a_name_is_used_twice_the_schedule_tells(by_hand):
    tensors = [by_hand.tensor(name) for name in ("in", "same", "same")]
    info = deploy.model_info(by_hand.chain(["RELU", "RELU"], tensors))
    one = deploy.model_info(by_hand.chain(["RELU"], tensors[:2]))
    assert vela._on_cpu(info, one, frozenset({1})) == {1}
    assert vela._on_cpu(info, info, frozenset()) == {0, 1}
    with pytest.raises(ValueError, match="not in the original"):
        vela._on_cpu(info, one, frozenset())


def test_names_with_quotes_and_commas_do_not_shift_the_cycles():
    columns = "id,source_id,optimised_id,operator,name,staging_usage,op_cycles,npu_cycles"
    row = '1,1,7,"Conv2D","a"b,c",16,50,40'
    lines = ['<table name="perf">', "<![CDATA[", columns, row, "]]>", "</table>"]
    database = "\n".join(lines)
    (row,) = vela._table(database, "perf", "op_cycles")
    assert (row["source_id"], row["operator"], row["op_cycles"]) == ("1", "Conv2D", "50")
    with pytest.raises(ValueError, match="no table 'source'"):
        vela._table(database, "source", "ext_key")
    with pytest.raises(ValueError, match="no column 'ext_key' in table 'perf'"):
        vela._table(database, "perf", "ext_key")


def test_long_rules_are_left_out_of_a_reason_and_joined_names_cut():
    log = (
        "Warning (supported operators) operator: ADD, ofm: 'x;y'\n"
        "Reason: tensor of DataType Float32 (x;y;z)\nmust be int8.\n\n"
        "Warning (supported operators) operator: RESIZE_BILINEAR, ofm: 'r'\n"
        "Reason: scale-factor=16\nIF a:\n  - b\n\nNetwork summary\n"
    )
    assert vela._reasons(log) == {
        ("ADD", "x;y"): "tensor of DataType Float32 (x). must be int8",
        ("", "x;y"): "tensor of DataType Float32 (x). must be int8",
        ("RESIZE_BILINEAR", "r"): "scale-factor=16",
        ("", "r"): "scale-factor=16",
    }


# -- failures --------------------------------------------------------------------------------------


def with_options(**facts):
    options = {name: devices.Fact(value, "a test") for name, value in facts.items()}
    return dataclasses.replace(DEVICE, options={**DEVICE.options, **options})


def test_a_refusal_is_one_readable_error(converted):
    pytest.importorskip("ethosu")
    with pytest.raises(vela.VelaError, match=r"(?s)refuses the model.*Nowhere") as caught:
        vela.optimised(converted("int8").content, with_options(system_config="Nowhere"))
    assert "Traceback" not in str(caught.value)


def test_a_crash_is_an_error(converted, monkeypatch):
    pytest.importorskip("ethosu")
    crash = [sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"]
    monkeypatch.setattr(vela, "_command", lambda *_: crash)
    with pytest.raises(vela.VelaError, match="ended by SIGSEGV"):
        vela.optimised(converted("int8").content, DEVICE)


def test_a_vela_that_hangs_is_stopped(converted, monkeypatch):
    pytest.importorskip("ethosu")
    hang = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(vela, "_command", lambda *_: hang)
    with pytest.raises(vela.VelaError, match=r"timeout_s=0\.5"):
        vela.optimised(converted("int8").content, DEVICE, timeout_s=0.5)


def test_files_of_another_form_are_an_error(converted, monkeypatch):
    pytest.importorskip("ethosu")
    monkeypatch.setattr(vela, "_command", lambda *_: [sys.executable, "-c", "print('done')"])
    with pytest.raises(vela.VelaError, match=r"(?s)files that Vela 5.2 writes.*done.*Hint"):
        vela.optimised(converted("int8").content, DEVICE)


def test_without_vela_the_extra_is_named(converted, monkeypatch):
    monkeypatch.setattr(vela, "is_installed", lambda: False)
    with pytest.raises(ImportError, match=r"keras_kd\[mcu\]"):
        vela.optimised(converted("int8").content, DEVICE)


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan])
def test_a_timeout_must_be_one(converted, timeout_s):
    with pytest.raises(ValueError, match="timeout_s > 0"):
        vela.optimised(converted("int8").content, DEVICE, timeout_s=timeout_s)


def test_a_device_without_options_is_refused(converted):
    bare = dataclasses.replace(DEVICE, options={})
    with pytest.raises(ValueError, match="'accelerator_config' of device 'ethos-u55-128'"):
        vela.optimised(converted("int8").content, bare)
    with pytest.raises(ValueError, match=r"'vela_ini'.*Received: 3"):
        vela.optimised(converted("int8").content, with_options(vela_ini=3))


def test_no_flatbuffer_is_refused():
    with pytest.raises(ValueError, match="Expected a TFLite flatbuffer"):
        vela.optimised(b"nothing", DEVICE)


def test_a_makers_own_ini_is_used(converted, tmp_path, monkeypatch):
    pytest.importorskip("ethosu")
    ini = importlib.resources.files("ethosu").joinpath("config_files/Arm/vela.ini").read_text()
    old = "[System_Config.Ethos_U55_High_End_Embedded]\ncore_clock=500e6"
    assert old in ini
    slower = ini.replace(old, "[System_Config.Board]\ncore_clock=100e6")
    (tmp_path / "board.ini").write_text(slower)
    monkeypatch.chdir(tmp_path)
    device = with_options(system_config="Board", vela_ini="./board.ini")
    found = vela.optimised(converted("int8").content, device)
    assert (found.clock_hz, found.system_config, found.memory_mode) == (
        100e6,
        "Board",
        "Shared_Sram",
    )
    assert found.inference_time_ms == pytest.approx(found.cycles_total / 1e5, abs=5e-7)


# -- real models -----------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "time_ms", "sram_kib"),
    [
        ("kws_ref_model", 0.180, 21.7),
        ("pretrainedResnet_quant", 0.403, 50.6),
        ("vww_96_int8", 0.442, 72.7),
    ],
)
def test_known_models_have_their_known_numbers(data_folder, name, time_ms, sram_kib):
    pytest.importorskip("ethosu")
    content = (data_folder / "models" / "mlcommons_tiny" / f"{name}.tflite").read_bytes()
    made = vela.optimised(content, DEVICE)
    # The known numbers have three digits.
    assert made.inference_time_ms == pytest.approx(time_ms, abs=0.0005)
    assert made.sram_bytes / 1024 == pytest.approx(sram_kib, abs=0.05)
    assert {placed.target for placed in made.placements} == {"npu"}


@pytest.mark.data
def test_an_int8_lstm_maps_wholly(data_folder):
    pytest.importorskip("ethosu")
    content = (data_folder / "models/tflite_micro/trained_lstm_int8.tflite").read_bytes()
    made = vela.optimised(content, DEVICE)
    names = [placed.op.name for placed in made.placements]
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in names
    assert {placed.target for placed in made.placements} == {"npu"}
    assert np.argmax(made.op_cycles) == names.index("UNIDIRECTIONAL_SEQUENCE_LSTM")


@pytest.mark.data
def test_custom_ops_stay_and_say_why(data_folder):
    pytest.importorskip("ethosu")
    content = (data_folder / "models/tflite_micro/audio_preprocessor_int8.tflite").read_bytes()
    made = vela.optimised(content, DEVICE)
    reasons = {p.op.name: p.reason for p in made.placements if p.op.is_custom}
    assert reasons
    assert set(reasons.values()) == {"Unsupported opType"}
    assert [p.op.name for p in made.placements if p.target == "npu"] == ["MUL", "ADD", "ADD"]
