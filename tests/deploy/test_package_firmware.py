"""The firmware's code: against a stand-in for TFLM in every test, against TFLM where it is."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy.artifact import Artifact, TensorInfo
from keras_kd.deploy.devices import Device, Fact
from keras_kd.deploy.interpreter import Interpreter
from keras_kd.deploy.package import samples
from keras_kd.deploy.package.boards import Board, board_of
from keras_kd.deploy.package.firmware import firmware
from keras_kd.deploy.package.resolver import methods_of
from keras_kd.deploy.package.sources import firmware_sources

DATA = os.environ.get("KERAS_KD_DATA")
TFLM = os.environ.get("KERAS_KD_TFLM")
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs g++, which is not installed")
NANO = Device("nano33ble", "Arduino Nano 33 BLE Sense", "tflm")
FAKE = pathlib.Path(__file__).with_name("fake_tflm.h")
HEADERS = (
    "micro_mutable_op_resolver.h",
    "micro_interpreter.h",
    "micro_resource_variable.h",
    "system_setup.h",
)

FAKE_MODEL = """
#include "fake_tflm.h"
#include "net_inference.h"
#include "net_samples.h"
int fake_resets = 0, fake_registered = 0;
using namespace net_inference;
@{buffers}
Slot fake_inputs[] = {@{inputs}};
Slot fake_outputs[] = {@{outputs}};
const int fake_input_count = @{input_count}, fake_output_count = @{output_count};
const int fake_sample_count = sample_count;
"""


def made_sources(content, inputs, outputs, arena_bytes=1024):
    """The sources of a model made by hand, with two samples of random numbers."""
    rng = np.random.default_rng(0)

    def numbers(tensor):
        shape = (2, *tensor.shape[1:])
        if tensor.dtype == "float32":
            return rng.normal(size=shape).astype("float32")
        limits = np.iinfo(tensor.dtype)
        return rng.integers(limits.min, limits.max, shape, tensor.dtype, endpoint=True)

    taken = samples.Samples(
        tuple(map(numbers, inputs)), tuple(map(numbers, outputs)), are_real=True
    )
    artifact = Artifact(content, "int8", tuple(inputs), tuple(outputs))
    return firmware_sources(
        "net",
        artifact,
        taken,
        board=Board("", ""),
        arena_bytes=arena_bytes,
        arena_note="For a test.",
        samples_note="Made.",
    )


def built(folder, sources, inputs, outputs, methods, main=None, **settings):
    """Compiles the sources with the stand-in; returns the program."""
    for path, content in sources.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    if main is not None:
        (folder / "host/main.cc").write_text(main)
    for header in HEADERS:
        path = folder / "fake/tensorflow/lite/micro" / header
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('#include "fake_tflm.h"\n')
    schema = folder / "fake/tensorflow/lite/schema/schema_generated.h"
    schema.parent.mkdir()
    schema.write_text('#include "fake_tflm.h"\n')
    slots = {"inputs": [], "outputs": []}
    buffers = []
    for role, tensors in (("input", inputs), ("output", outputs)):
        for i in range(len(tensors)):
            size = f"sizeof sample_{role}_{i}[0]"
            buffers.append(f"alignas(16) static char {role}_now_{i}[{size}];")
            data = f"reinterpret_cast<const char*>(sample_{role}_{i})"
            slots[f"{role}s"].append(f"{{{size}, {data}, {role}_now_{i}}}")
    fake = FAKE_MODEL.replace("@{buffers}", "\n".join(buffers))
    for role, values in slots.items():
        fake = fake.replace(f"@{{{role}}}", ", ".join(values))
        fake = fake.replace(f"@{{{role[:-1]}_count}}", str(len(values)))
    (folder / "fake_model.cc").write_text(fake)
    defines = {"SCHEMA": 3, "NEEDED": 1, "SHORT": 0, "FLIP": 0} | settings
    defines["METHODS"] = " ".join(f"OP({method})" for method in methods)
    command = [COMPILER, "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command += [f"-DTEST_{key}={value}" for key, value in defines.items()]
    command += ["-Isrc", "-Ifake", f"-I{FAKE.parent}", "fake_model.cc", "host/main.cc"]
    command += sorted(str(path.relative_to(folder)) for path in (folder / "src").glob("*.cc"))
    done = subprocess.run([*command, "-o", "program"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "program"


def stateful(by_hand):
    """A chain whose middle tensor is a variable."""
    tensors = [by_hand.tensor(f"t{i}", variable=i == 1) for i in range(3)]
    return by_hand.chain(["RELU", "ADD"], tensors)


CASES = {
    "one": (["RELU"], [("int8", 0.1, 3)], [("uint8", 1 / 255, 0)]),
    "several": (
        ["CONV_2D", "+SignalRfft", "MEAN"],
        [("int8", 0.1, -128), ("int32", None, None), ("int16", 1 / 32768, 0), ("float32", None, 0)],
        [("float32", None, None), ("int8", 0.5, 1), ("int64", None, None)],
    ),
    "stateful": (None, [("int8", 0.5, 0)], [("int8", 0.25, 5)]),
    "variables": (["VAR_HANDLE", "READ_VARIABLE"], [("int8", 0.5, 0)], [("int8", 0.25, 5)]),
}


def case(by_hand, name):
    """Content, inputs and outputs of a case; every slot of another length."""
    ops, *ends = CASES[name]
    content = stateful(by_hand) if ops is None else by_hand.chain(ops)
    inputs, outputs = (
        tuple(
            TensorInfo(
                f"{role} {i}",
                (1, 3 + i),
                dtype,
                None if scale is None else float(np.float32(scale)),
                zero_point if scale is not None else None,
            )
            for i, (dtype, scale, zero_point) in enumerate(end)
        )
        for role, end in zip(("in", "out"), ends, strict=True)
    )
    return content, inputs, outputs


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_the_sources_compile_and_route_inputs_and_outputs(by_hand, tmp_path, name):
    content, inputs, outputs = case(by_hand, name)
    methods = methods_of(deploy.model_info(content))
    sources = made_sources(content, inputs, outputs)
    ran = subprocess.run(
        [built(tmp_path, sources, inputs, outputs, methods)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout
    lines = ran.stdout.splitlines()
    assert "PASS: 2 of 2 samples as expected" in lines
    assert lines[-1] == "PASS: 0 samples differ through predict()"
    assert sum("expected" in line for line in lines) == 1 + 2 * len(outputs)


STATEFUL = """
#include <cstdio>
#include "fake_tflm.h"
#include "net_inference.h"
#include "net_samples.h"
using namespace net_inference;
int main() {
  std::int8_t out[3];
  float in[3] = {}, real[3];
  dequantize(sample_input_0[1], in, 3, 0.5f, 0);
  if (predict_stored(sample_input_0[0], out) != Status::kOk || fake_resets != 1) return 1;
  if (predict_stored_next(sample_input_0[1], out) != Status::kOk || fake_resets != 1) return 2;
  if (predict(in, real) != Status::kOk || fake_resets != 2) return 3;
  if (predict_next(in, real) != Status::kOk || fake_resets != 2) return 4;
  if (reset() != Status::kOk || fake_resets != 3) return 5;
  in[1] = 0.0f / static_cast<float>(fake_resets - 3);
  return predict_next(in, real) == Status::kNotANumber ? 0 : 6;
}
"""


@needs_compiler
def test_predict_starts_anew_and_predict_next_goes_on(by_hand, tmp_path):
    content, inputs, outputs = case(by_hand, "stateful")
    sources = made_sources(content, inputs, outputs)
    methods = methods_of(deploy.model_info(content))
    program = built(tmp_path, sources, inputs, outputs, methods, main=STATEFUL)
    assert subprocess.run([program]).returncode == 0


@needs_compiler
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SCHEMA": 4}, "different schema versions"),
        ({"NEEDED": 1025}, "the arena is too small"),
        ({"SHORT": 1}, "another size than the header says"),
        ({"FLIP": 1}, "DIFFERENT"),
    ],
)
def test_what_goes_wrong_is_said_and_is_no_pass(by_hand, tmp_path, settings, said):
    content, inputs, outputs = case(by_hand, "one")
    sources = made_sources(content, inputs, outputs)
    program = built(tmp_path, sources, inputs, outputs, ["AddRelu"], **settings)
    ran = subprocess.run([program], capture_output=True, text=True)
    assert ran.returncode == 1
    assert said in ran.stdout
    assert "FAIL: 0 of 2 samples as expected" in ran.stdout


def test_firmware_of_a_real_student(converted, images):
    artifact = converted("int8")
    made = firmware(artifact, NANO, label="my student v2", x=images, sample_count=3)
    assert made.name == "my_student_v2"
    files = made.files()
    used = Interpreter(artifact, "tflm").arena_bytes
    header = files["src/my_student_v2_inference.h"].decode()
    arena = int(re.search(r"arena_bytes = (\d+);", header)[1])
    assert arena % 16 == 0
    assert 1.2 * used + 1024 <= arena < 1.2 * used + 1024 + 16
    array = files["src/my_student_v2_data.cc"].decode()
    body = re.search(r"= \{(.*?)\};", array, re.DOTALL)[1]
    assert bytes(int(n, 0) for n in body.split(",") if n.strip()) == artifact.content
    registered = re.findall(r"resolver\.(\w+)\(\)", files["src/my_student_v2_resolver.h"].decode())
    assert registered == list(methods_of(deploy.model_info(artifact.content)))
    assert f"MicroMutableOpResolver<{len(registered)}>" in str(
        files["src/my_student_v2_resolver.h"]
    )
    manifest = json.loads(files["manifest.json"])
    assert sorted(manifest["files"]) == sorted(files)
    assert manifest["samples"] == 3
    assert "not compiled with TFLite Micro" in manifest["not_run"][0]
    assert "board = nano33ble" in files["platformio.ini"].decode()
    readme = files["README.md"].decode()
    assert "# my student v2 for Arduino Nano 33 BLE Sense" in readme
    assert "not compiled with TFLite Micro" in readme
    assert not [path for path, content in files.items() if b"@{" in content]
    after = made.files("The sources were compiled here.")
    assert "The sources were compiled here." in after["README.md"].decode()
    assert "not compiled with" not in after["README.md"].decode()


def test_expected_outputs_are_tflms_for_the_given_examples(converted, images):
    artifact = converted("int8")
    interpreter = Interpreter(artifact, "tflm")
    taken = samples.recorded(interpreter, images, count=5)
    assert taken.count == 5
    assert taken.are_real
    expected = Interpreter(artifact, "tflm").predict(images[:5])
    tensor = artifact.outputs[0]
    real = np.float32(tensor.scale) * (taken.outputs[0].astype("int32") - tensor.zero_point).astype(
        "float32"
    )
    np.testing.assert_array_equal(real, expected)
    stored = samples.recorded(interpreter, taken.inputs[0])
    np.testing.assert_array_equal(stored.outputs[0], taken.outputs[0])


def test_made_samples_are_seeded_and_bounded(converted):
    interpreter = Interpreter(converted("int8"), "tflm")
    one, two = samples.recorded(interpreter), samples.recorded(interpreter)
    assert one.count == samples.MAX_SAMPLES
    assert not one.are_real
    np.testing.assert_array_equal(one.inputs[0], two.inputs[0])
    assert one.inputs[0].min() < -100
    assert one.inputs[0].max() > 100


@pytest.mark.parametrize(("count", "given"), [(0, 3), (4, 3), (None, 0)])
def test_wrong_sample_counts_are_refused(converted, images, count, given):
    with pytest.raises(ValueError, match=r"Expected .*at least .*Received"):
        samples.recorded(Interpreter(converted("int8"), "tflm"), images[:given], count=count)


@pytest.mark.parametrize(
    ("name", "processor", "cpu", "board"),
    [
        ("nano33ble", None, "cortex-m4", "nano33ble"),
        ("esp32-s3", None, "", "esp32-s3-devkitc-1"),
        ("own", "Arm Cortex-M55", "cortex-m55", ""),
        ("own", "two Arm Cortex-M0+", "cortex-m0plus", ""),
        ("own", "Xtensa LX7", "", ""),
    ],
)
def test_boards(name, processor, cpu, board):
    fact = Fact(processor, "a test") if processor else None
    found = board_of(Device(name, "A board", "tflm", processor=fact))
    assert (found.cpu, found.board) == (cpu, board)
