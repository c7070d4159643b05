"""`keras-kd package`: exit codes, the one line of reason, what is written for each runtime."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from keras_kd import cli
from keras_kd.deploy import devices, inspect, vela
from keras_kd.deploy.check import Check
from keras_kd.deploy.findings import ERROR, Finding, Verdict

ROOT = pathlib.Path(__file__).parents[2]
DEVICES = {
    "mcu": {"runtime": "tflm", "ram_bytes": {"value": 262144, "source": "a test"}},
    "npu": {
        "runtime": "ethos_u",
        "options": {"accelerator_config": {"value": "ethos-u55-128", "source": "a test"}},
    },
    "coral": {"runtime": "edgetpu"},
    "phone": {"runtime": "litert"},
}


def by_hand():
    """The module of tests/deploy that makes flatbuffers."""
    path = ROOT / "tests/deploy/flatbuffers_by_hand.py"
    spec = importlib.util.spec_from_file_location("flatbuffers_by_hand", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of one RELU that TFLM runs, devices, and files that are no model."""
    folder = tmp_path_factory.mktemp("package")
    made = by_hand()
    (folder / "student.tflite").write_bytes(made.chain(["RELU"]))
    (folder / "gelu.tflite").write_bytes(made.chain(["RELU", "GELU"]))
    (folder / "größe 2.tflite").write_bytes(made.chain(["RELU"]))
    (folder / "é.tflite").write_bytes(made.chain(["RELU"]))
    (folder / "text.tflite").write_text("no model")
    for name, fields in DEVICES.items():
        device = {"name": name, "title": f"A {name}"} | fields
        (folder / f"{name}.json").write_text(json.dumps(device))
    np.savez(folder / "x.npz", x=np.float32([[-1, 0, 0.26, 99], [1, 2, 3, 4]]))
    np.savez(folder / "other.npz", a=np.zeros((1, 4)), b=np.zeros((1, 4)))
    np.save(folder / "wide.npy", np.zeros((2, 5), "float32"))
    np.save(folder / "nan.npy", np.float32([[0, np.nan, 0, 0]]))
    (folder / "labels.txt").write_text("no\nyes\n\n")
    (folder / "gap.txt").write_text("no\n\nyes\n")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs `keras-kd package` in the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("KERAS_KD_TFLM", raising=False)
    monkeypatch.setitem(cli.COMMANDS, "package", "a test")

    def run(*arguments):
        code = cli.main(["package", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_firmware_with_given_samples(run, tmp_path):
    code, out, err = run(
        "student.tflite", "--device", "mcu.json", "--output", tmp_path / "fw", "--samples", "x.npz"
    )
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'fw'}: ")
    assert "not run: The sources were not compiled with TFLite Micro" in out
    samples = (tmp_path / "fw/src/student_samples.cc").read_text()
    # Scale 0.5, zero point 0: halves away from zero, and RELU makes the negative one 0.
    assert "-2, 0, 1, 127," in samples
    assert "0, 0, 1, 127," in samples
    assert "2, 4, 6, 8," in samples
    manifest = json.loads((tmp_path / "fw/manifest.json").read_text())
    assert manifest["samples_are_real"] is True
    assert manifest["resolver"] == ["AddRelu"]
    assert all((tmp_path / "fw" / name).is_file() for name in manifest["files"])


def test_samples_are_made_where_none_are_given(run, tmp_path):
    arguments = ("student.tflite", "--device", "mcu.json", "--sample-count", 3)
    code, out, _ = run(*arguments, "--output", tmp_path / "fw")
    assert code == 0
    assert "3 made inputs (seed 0)" in out
    assert json.loads((tmp_path / "fw/manifest.json").read_text())["samples"] == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["gone.tflite"], "No such file"),
        (["text.tflite"], "Expected a TFLite flatbuffer"),
        (["gelu.tflite"], "GELU"),
        (["é.tflite"], "Expected a name with an ASCII letter or digit"),
        (["student.tflite", "--samples", "gone.npz"], "no file 'gone.npz'"),
        (["student.tflite", "--samples", "labels.txt"], "is no .npz or .npy of numbers"),
        (["student.tflite", "--samples", "other.npz"], "has the arrays a, b"),
        (["student.tflite", "--samples", "wide.npy"], "Expected shape"),
        (["student.tflite", "--samples", "nan.npy"], "Received: NaN"),
        (["student.tflite", "--samples", "x.npz", "--sample-count", "3"], "at least 3 samples"),
        (["student.tflite", "--labels", "labels.txt"], "Expected no labels for A mcu"),
        (["student.tflite", "--mean", "0"], "Expected no mean for A mcu"),
        (["student.tflite", "--device", "coral.json", "--labels", "gap.txt"], "empty line 2"),
        (["student.tflite", "--device", "coral.json", "--samples", "x.npz"], "Expected no samples"),
        (["student.tflite", "--device", "gone.json"], "No such file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(run, tmp_path, options, reason):
    device = [] if "--device" in options else ["--device", "mcu.json"]
    code, out, err = run(*options, *device, "--output", tmp_path / "fw")
    assert (code, out) == (1, "")
    assert err.startswith("keras-kd package: ")
    assert reason in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [[], ["--output", "fw"], ["--output", "fw", "--device", "m", "--sample-count", "0"]]
)
def test_bad_usage(run, options):
    code, _, err = run("student.tflite", *options)
    assert code == 2
    assert "usage:" in err


def test_findings_of_the_check_refuse(run, tmp_path, monkeypatch):
    found = Finding(ERROR, "ram-too-small", "300,000 bytes of RAM are needed.", "A smaller input.")

    def check(model, device):
        return Check("student.tflite", inspect.model_info(model.content), device, Verdict((found,)))

    monkeypatch.setattr(sys.modules["keras_kd.deploy.package.write"], "check", check)
    code, _, err = run("student.tflite", "--device", "mcu.json", "--output", tmp_path / "fw")
    assert code == 1
    assert "300,000 bytes of RAM are needed. A smaller input." in err
    assert not list(tmp_path.iterdir())


def test_force(run, tmp_path):
    arguments = ("student.tflite", "--device", "mcu.json", "--output", tmp_path / "fw")
    assert run(*arguments)[0] == 0
    (tmp_path / "fw/notes").write_text("mine")
    code, _, err = run(*arguments, "--name", "other")
    assert code == 1
    assert "new or empty" in err
    assert run(*arguments, "--name", "other", "--force")[0] == 0
    assert (tmp_path / "fw/notes").read_text() == "mine"
    names = {path.name for path in (tmp_path / "fw/src").iterdir()}
    assert "other_data.cc" in names
    assert not any(name.startswith("student") for name in names)


def test_odd_names_become_identifiers(run, tmp_path):
    target = tmp_path / "fw 1"
    assert run("größe 2.tflite", "--device", "mcu.json", "--output", target)[0] == 0
    assert (target / "src/gr_e_2_data.cc").is_file()
    assert "# größe 2 for" in (target / "README.md").read_text(encoding="utf-8")


def test_ethos_u_takes_velas_model_and_registers_its_op(run, folder, tmp_path):
    pytest.importorskip("ethosu")
    made = vela.optimised((folder / "student.tflite").read_bytes(), devices.get("ethos-u55-128"))
    code, out, err = run("student.tflite", "--device", "ethos-u55-128", "--output", tmp_path / "fw")
    assert code == 0, err
    assert "The NPU was not run" in out
    assert "AddEthosU" in (tmp_path / "fw/src/student_resolver.h").read_text()
    assert (tmp_path / "fw/student.tflite").read_bytes() == made.content
    header = (tmp_path / "fw/src/student_inference.h").read_text()
    size = int(re.search(r"arena_bytes = (\d+);", header)[1])
    wanted = 1.2 * (made.sram_bytes + 4096) + 1024
    assert wanted <= size < wanted + 1 + 16


def test_vela_is_asked_once(run, tmp_path, monkeypatch):
    pytest.importorskip("ethosu")
    asked = []
    real = vela.optimised
    monkeypatch.setattr(vela, "optimised", lambda *given: asked.append(given) or real(*given))
    assert run("student.tflite", "--device", "ethos-u55-128", "--output", tmp_path / "fw")[0] == 0
    assert len(asked) == 1


def test_coral_without_the_compiler(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ("student.tflite", "--device", "coral.json", "--labels", "labels.txt")
    code, out, _ = run(*arguments, "--output", tmp_path / "out")
    assert code == 0
    assert "edgetpu_compiler is not on the PATH" in out
    assert (tmp_path / "out/labels.txt").read_text() == "no\nyes\n"
    assert "edgetpu_compiler -s student.tflite" in (tmp_path / "out/README.md").read_text()
    assert not (tmp_path / "out/student_edgetpu.tflite").exists()
    compile((tmp_path / "out/run.py").read_text(), "run.py", "exec")


COMPILER = """#!/bin/sh
[ "$1" = -s ] && [ "$2" = -o ] || exit 2
echo "Edge TPU Compiler, a stand-in"
echo "$@" >> ASKED
FAIL
/bin/cp COMPILED "$3/model_edgetpu.tflite"
"""


@pytest.mark.parametrize("fails", [False, True])
def test_coral_with_the_compiler(run, tmp_path, monkeypatch, fails):
    compiler = tmp_path / "bin/edgetpu_compiler"
    compiler.parent.mkdir()
    compiled = tmp_path / "compiled.tflite"
    compiled.write_bytes(by_hand().chain(["+edgetpu-custom-op"]))
    script = COMPILER.replace("FAIL", "exit 1" if fails else "").replace("COMPILED", str(compiled))
    script = script.replace("ASKED", str(tmp_path / "asked"))
    compiler.write_text(script)
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent))
    code, _, err = run("student.tflite", "--device", "coral.json", "--output", tmp_path / "out")
    assert code == int(fails), err
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    if fails:
        assert "Edge TPU Compiler, a stand-in" in err
        assert not (tmp_path / "out").exists()
    else:
        assert (tmp_path / "out/student_edgetpu.tflite").read_bytes() == compiled.read_bytes()
        assert "a stand-in" in (tmp_path / "out/edgetpu_compiler.log").read_text()
        assert json.loads((tmp_path / "out/manifest.json").read_text())["is_compiled"] is True


def test_the_runner_runs_on_the_cpu(run, folder, tmp_path):
    assert run("student.tflite", "--device", "coral.json", "--output", tmp_path / "out")[0] == 0
    np.save(tmp_path / "example.npy", np.float32([-1, 0, 0.25, 99]))
    command = [sys.executable, "run.py", "--cpu", "student.tflite", "../example.npy"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[0.0, 0.0, 0.5, 63.5]" in done.stdout


def test_phones_are_handed_on(run, tmp_path, monkeypatch):
    asked = {}

    def write_project(artifact, folder, **options):
        asked.update(options, folder=folder, bytes=artifact.size_bytes)
        (folder / "app").mkdir(parents=True)
        (folder / "app/student").write_text("")
        return types.SimpleNamespace(folder=folder, files=(pathlib.Path("app/student"),))

    android = types.ModuleType("keras_kd.deploy.package.android")
    android.write_project = write_project
    monkeypatch.setitem(sys.modules, "keras_kd.deploy.package.android", android)
    monkeypatch.setattr(sys.modules["keras_kd.deploy.package"], "android", android, raising=False)
    options = ("--labels", "labels.txt", "--mean", "0", "--std", "255")
    arguments = ("student.tflite", "--device", "phone.json", *options)
    code, out, _ = run(*arguments, "--output", tmp_path / "app")
    assert code == 0
    assert "1 files for A phone" in out
    assert asked["labels"] == ["no", "yes"]
    assert (asked["mean"], asked["std"], asked["accelerator"]) == (0.0, 255.0, "cpu")


def test_the_tool_is_the_command(tmp_path):
    path = ROOT / "tools/package_device.py"
    text = path.read_text()
    assert 'main(["package", *sys.argv[1:]])' in text
