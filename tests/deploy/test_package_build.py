"""Firmware built with TFLite Micro's own sources and run: here, and on an emulated Cortex-M4.

Most of it needs the sources in KERAS_KD_TFLM, as README.md of a firmware folder wants them, and is
reported as skipped without; the emulation also needs Debian's gcc-arm-none-eabi,
libstdc++-arm-none-eabi-newlib and qemu-system-arm.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from keras_kd import cli
from keras_kd.deploy.artifact import Artifact, interface
from keras_kd.deploy.devices import Device
from keras_kd.deploy.interpreter import Interpreter
from keras_kd.deploy.package import samples
from keras_kd.deploy.package.firmware import firmware
from keras_kd.deploy.package.host_build import LIBRARY, built_and_run

DATA = os.environ.get("KERAS_KD_DATA")
TFLM = os.environ.get("KERAS_KD_TFLM")
NANO = Device("nano33ble", "Arduino Nano 33 BLE Sense", "tflm")
MODELS = ("kws_ref_model", "pretrainedResnet_quant", "vww_96_int8")
# The ops of these models and of the student: one library serves all.
OPS = (
    *("AddAdd", "AddAveragePool2D", "AddConv2D", "AddDepthwiseConv2D"),
    *("AddFullyConnected", "AddMaxPool2D", "AddReshape", "AddSoftmax"),
)
JOBS = str(os.cpu_count() or 1)
BOOT = pathlib.Path(__file__).with_name("cortex_m4_boot.c")
ARM_GCC = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=auto"]
QEMU = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none"]
QEMU += ["-semihosting-config", "enable=on,target=native", "-kernel"]
needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")
needs_tflm = pytest.mark.skipif(
    TFLM is None, reason="needs TFLite Micro's sources in KERAS_KD_TFLM"
)


def reference_model(name):
    if DATA is None:
        pytest.skip("needs KERAS_KD_DATA")
    return Artifact.load(pathlib.Path(DATA) / f"models/mlcommons_tiny/{name}.tflite")


def written(made, folder):
    for path, content in made.files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def cmake(*arguments, **variables):
    """What CMake prints; its log where it fails."""
    done = subprocess.run(
        ["cmake", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | variables,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


# -- which sources are taken, on a tree made by hand -----------------------------------------------

TREE = {
    "tensorflow/lite/micro/micro_interpreter.h": "",
    "tensorflow/lite/micro/micro_interpreter.cc": "",
    "tensorflow/lite/micro/micro_interpreter_test.cc": "",
    "tensorflow/lite/micro/fake_micro_context.cc": "",
    "tensorflow/lite/micro/debug_log.cc": "",
    "tensorflow/lite/micro/micro_context.cc": '#include "tensorflow/lite/micro/kernels/unpack.h"\n',
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
  TfLiteStatus AddRelu(const TFLMRegistration& registration = Register_RELU()) {
    return AddBuiltin(BuiltinOperator_RELU, registration, ParseRelu);
  }
  TfLiteStatus AddRelu6(
      const TFLMRegistration& registration = tflite::Register_RELU6()) {
    return AddBuiltin(BuiltinOperator_RELU6, registration, ParseRelu6);
  }
  TfLiteStatus AddRfft(const TFLMRegistration* registration =
                           tflite::tflm_signal::Register_RFFT()) {
    return AddCustom("SignalRfft", registration);
  }
  TfLiteStatus AddAway(const TFLMRegistration& registration = Register_AWAY()) {
    return AddBuiltin(BuiltinOperator_AWAY, registration, ParseAway);
  }
""",
    "tensorflow/lite/micro/kernels/relu.cc": """
#include "tensorflow/lite/micro/kernels/relu.h"
TFLMRegistration Register_RELU() { return {}; }
""",
    "tensorflow/lite/micro/kernels/relu.h": '#include "tensorflow/lite/micro/kernels/slope.h"\n',
    "tensorflow/lite/micro/kernels/relu_common.cc": "",
    "tensorflow/lite/micro/kernels/relu_test.cc": "",
    "tensorflow/lite/micro/kernels/slope.h": "",
    "tensorflow/lite/micro/kernels/slope.cc": "",
    "tensorflow/lite/micro/kernels/relu6.cc": "TFLMRegistration Register_RELU6() { return {}; }\n",
    "tensorflow/lite/micro/kernels/unpack.h": "",
    "tensorflow/lite/micro/kernels/unpack_common.cc": "",
    "tensorflow/lite/micro/kernels/other_common.cc": "",
    "tensorflow/lite/kernels/kernel_util.cc": "",
    "signal/micro/kernels/rfft.cc": "TFLMRegistration* Register_RFFT() { return nullptr; }\n",
    "signal/micro/kernels/scale_common.cc": "",
    "signal/src/rfft_int16.cc": "",
    "third_party/flatbuffers/include/flatbuffers/flatbuffers.h": "",
}
ALWAYS = {"micro_interpreter", "debug_log", "micro_context", "unpack_common", "kernel_util"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    for path, text in TREE.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    return tree


@pytest.fixture(scope="module")
def relu(by_hand, tmp_path_factory):
    """The firmware folder of a model of one RELU."""
    content = by_hand.chain(["RELU"])
    made = firmware(Artifact(content, "int8", *interface_of(content)), NANO, label="net")
    return written(made, tmp_path_factory.mktemp("relu"))


def interface_of(content):
    from keras_kd.deploy import model_info

    return interface(model_info(content))


def configured(folder, build, tree, *options):
    """CMake's exit code, what it said, and the sources of TFLite Micro that it would compile."""
    command = ["cmake", "-S", folder, "-B", build, f"-DTFLM_PATH={tree}", *options]
    command += ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    said = re.sub(r"\s+", " ", done.stderr)
    if done.returncode:
        return done.returncode, said, set()
    commands = json.loads((build / "compile_commands.json").read_text())
    files = {pathlib.Path(one["file"]) for one in commands}
    return 0, said, {file.stem for file in files if tree in file.parents}


@needs_cmake
@pytest.mark.parametrize(
    ("ops", "kernels"),
    [
        ((), {"relu", "relu_common", "slope"}),
        (("AddRelu6",), {"relu6"}),
        (("AddRelu", "AddRelu6"), {"relu", "relu_common", "slope", "relu6"}),
        (("AddRfft",), {"rfft", "scale_common", "rfft_int16"}),
    ],
)
def test_only_what_the_ops_need_is_compiled(relu, tree, tmp_path, ops, kernels):
    options = [f"-DTFLM_OPS={';'.join(ops)}"] if ops else []
    code, said, sources = configured(relu, tmp_path, tree, *options)
    assert code == 0, said
    assert sources == ALWAYS | kernels


@needs_cmake
@pytest.mark.parametrize(
    ("ops", "reason"),
    [
        ("AddGelu", "Expected ops that TFLite Micro at TFLM_PATH has. Received: AddGelu."),
        ("AddAway", "Expected kernels at TFLM_PATH that define Register_AWAY."),
    ],
)
def test_an_op_that_the_sources_lack_is_named(relu, tree, tmp_path, ops, reason):
    code, said, _ = configured(relu, tmp_path, tree, f"-DTFLM_OPS={ops}")
    assert code
    assert reason in said


@needs_cmake
def test_other_sources_are_refused(relu, tmp_path):
    code, said, _ = configured(relu, tmp_path / "build", tmp_path)
    assert code
    assert "Expected TFLite Micro's sources at TFLM_PATH" in said


FAKE_CMAKE = """#!/bin/sh
echo "$@" >> {folder}/asked
if [ "$1" = -S ]; then
  mkdir -p "$4"
  printf '#!/bin/sh\necho PASS: all\nexit {code}\n' > "$4/net_run_samples"
  chmod +x "$4/net_run_samples"
fi
"""


@pytest.mark.parametrize("code", [0, 1])
def test_as_many_compilers_run_as_there_are_processors(tmp_path, monkeypatch, code):
    (tmp_path / "cmake").write_text(FAKE_CMAKE.format(folder=tmp_path, code=code))
    (tmp_path / "cmake").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    ran = built_and_run("folder", "net", tmp_path, build=tmp_path / "build")
    assert (ran.passed, ran.output) == (code == 0, "PASS: all\n")
    configure, build = (tmp_path / "asked").read_text().splitlines()
    assert configure == f"-S folder -B {tmp_path / 'build'} -DTFLM_PATH={tmp_path}"
    assert build == f"--build {tmp_path / 'build'} --parallel 3"


# -- with TFLite Micro's sources -------------------------------------------------------------------


@needs_tflm
@pytest.mark.slow
def test_the_command_builds_and_runs_what_it_hands_over(converted, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "package", "a test")
    converted("int8").save(tmp_path / "student.tflite")
    arguments = ["--device", "nano33ble", "--tflm", TFLM, "--output", str(tmp_path / "firmware")]
    code = cli.main(["package", str(tmp_path / "student.tflite"), *arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "checked: The sources were compiled on this computer" in out
    assert "all 10 samples as expected" in (tmp_path / "firmware/README.md").read_text()


@pytest.fixture(scope="module")
def here(tmp_path_factory, converted, images):
    """The student's firmware built for this computer, with kernels for all models of this file."""
    made = firmware(converted("int8"), NANO, x=images, sample_count=10)
    folder = written(made, tmp_path_factory.mktemp("here"))
    ops = f"-DTFLM_OPS={';'.join(OPS)}"
    cmake("-S", folder, "-B", folder / "build", f"-DTFLM_PATH={TFLM}", ops)
    cmake("--build", folder / "build", "--parallel", JOBS)
    return folder / "build"


@needs_tflm
@pytest.mark.slow
def test_firmware_of_a_student_passes_by_ctest(here):
    done = subprocess.run(["ctest", "--verbose"], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "PASS: 10 of 10 samples as expected" in done.stdout
    assert "PASS: 0 samples differ through predict()" in done.stdout


@needs_tflm
@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", MODELS)
def test_firmware_of_reference_models_passes(here, tmp_path, name):
    made = firmware(reference_model(name), NANO, label=name, sample_count=12)
    folder = written(made, tmp_path / name)
    ran = built_and_run(folder, made.name, TFLM, build=tmp_path / "build", library=here / LIBRARY)
    assert ran.passed, ran.output
    assert "PASS: 12 of 12 samples as expected" in ran.output


@pytest.fixture(scope="module")
def board(tmp_path_factory, converted, images):
    """The same for a Cortex-M4: the folder, the student's program, and the start-up code."""
    for tool in (ARM_GCC[0], QEMU[0]):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    folder = tmp_path_factory.mktemp("board")
    subprocess.run([*ARM_GCC, "-Os", "-c", BOOT, "-o", folder / "boot.o"], check=True)
    made = firmware(converted("int8"), NANO, x=images, sample_count=10)
    ops = f"-DTFLM_OPS={';'.join(OPS)}"
    return folder, for_cortex_m4(written(made, folder / "student"), folder, ops)


def for_cortex_m4(folder, tools, option):
    """Builds a firmware folder with its own toolchain file; the program."""
    start = f"{tools / 'boot.o'} -Wl,--section-start=.vectors=0 -Wl,--undefined=vectors"
    build = folder / "build"
    toolchain = "-DCMAKE_TOOLCHAIN_FILE=cmake/cortex-m.cmake"
    cmake("-S", folder, "-B", build, toolchain, f"-DTFLM_PATH={TFLM}", option, LDFLAGS=start)
    cmake("--build", build, "--parallel", JOBS)
    return next(build.glob("*_run_samples"))


def emulated(program):
    """Runs it; QEMU's exit code is main's."""
    return subprocess.run([*QEMU, program], capture_output=True, text=True, timeout=300)


@needs_tflm
@pytest.mark.slow
def test_firmware_of_a_student_passes_on_a_cortex_m4(board):
    ran = emulated(board[1])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "PASS: 10 of 10 samples as expected" in ran.stdout


@needs_tflm
@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", MODELS)
def test_firmware_of_reference_models_passes_on_a_cortex_m4(board, tmp_path, name):
    made = firmware(reference_model(name), NANO, label=name, sample_count=3)
    library = board[0] / "student/build" / LIBRARY
    program = for_cortex_m4(written(made, tmp_path), board[0], f"-DTFLM_LIBRARY={library}")
    ran = emulated(program)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "PASS: 3 of 3 samples as expected" in ran.stdout


@pytest.mark.data
@pytest.mark.parametrize("name", MODELS)
def test_the_packaged_array_computes_what_the_original_does(name):
    artifact = reference_model(name)
    made = firmware(artifact, NANO, label=name, sample_count=12)
    text = made.sources[f"src/{made.name}_data.cc"].decode()
    body = re.search(r"= \{(.*?)\};", text, re.DOTALL)[1]
    packaged = bytes(int(number, 0) for number in body.split(",") if number.strip())
    original, again = Interpreter(artifact, "tflm"), Interpreter(packaged, "tflm")
    taken = samples.recorded(original, count=12)
    np.testing.assert_array_equal(
        again.predict_quantized(taken.inputs[0]), original.predict_quantized(taken.inputs[0])
    )
    assert interface(again.info) == (artifact.inputs, artifact.outputs)
