"""`keras-kd check`: exit codes, the one line of reason, what is printed and written."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_kd import cli, deploy
from keras_kd.deploy import devices
from keras_kd.deploy.devices import Device, Fact

ROOT = pathlib.Path(__file__).parents[2]
TAKES = Fact(("int8",), "this test")
FLOAT = Fact(("float32",), "this test")
PHONE = Device("phone", "A phone", "litert", input_dtypes=TAKES)
OTHER = Device("other", "Another phone", "litert", input_dtypes=FLOAT)


def relu(by_hand):
    """An int8 RELU of four numbers, whose input is named "in"."""
    return by_hand.chain(["RELU"], [by_hand.tensor("in"), by_hand.tensor("out")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, by_hand):
    folder = tmp_path_factory.mktemp("check")
    (folder / "student.tflite").write_bytes(relu(by_hand))
    (folder / "cut.tflite").write_bytes(relu(by_hand)[:100])
    (folder / "text.tflite").write_text("no model")
    (folder / "fits.json").write_text(PHONE.to_json())
    (folder / "not.json").write_text(OTHER.to_json())
    (folder / "bad.json").write_text('{"name": "bad"}')
    x = np.arange(8.0).reshape(2, 4)
    np.savez(folder / "test.npz", x=x, y=np.array([0, 1]))
    np.savez(folder / "other.npz", first=x, second=x)
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs `keras-kd check` in the folder, with two devices known: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(devices, "_DEVICES", {"phone": PHONE, "other": OTHER})

    def run(*arguments):
        code = cli.main(["check", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("device", ["phone", "fits.json"])
def test_it_fits(run, device):
    code, out, err = run("student.tflite", "--device", device)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "student.tflite fits A phone"


def test_it_does_not_fit(run, folder):
    code, out, err = run(
        "student.tflite", "--device", "other", "--json", "out.json", "--html", "out.html"
    )
    assert (code, err) == (1, "")
    assert out.splitlines()[0] == "student.tflite does not fit Another phone"
    assert "Input 'in' is int8; Another phone takes float32." in out
    assert "--input-dtype float32" in out
    assert "not verified on the device" in out
    read = json.loads((folder / "out.json").read_text())
    assert read["title"] == out.splitlines()[0]
    assert read["data"]["findings"][0]["source"] == "this test"
    assert "source" in (folder / "out.html").read_text()


def test_several_devices(run, folder):
    several = ["--device", "phone", "--device", "not.json"]
    code, out, _ = run("student.tflite", *several, "--json", "out.json", "--html", "out.html")
    assert code == 1
    assert out.splitlines()[0] == "student.tflite fits 1 of 2 devices"
    assert [line.split()[:2] for line in out.splitlines() if line[:6] in ("phone ", "other ")] == [
        ["phone", "yes"],
        ["other", "no"],
    ]
    read = json.loads((folder / "out.json").read_text())["data"]
    assert [check["fits"] for check in read["checks"]] == [True, False]
    assert run("student.tflite", "--device", "all")[1] == out


def test_progress_is_shown_to_a_terminal_and_leaves_nothing(run, monkeypatch):
    several = ["--device", "phone", "--device", "not.json"]
    plain = run("student.tflite", *several)
    assert plain[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = run("student.tflite", *several)
    assert (code, out) == plain[:2]
    shown = err.split("\r\x1b[K")
    assert shown == ["", "1 of 2: phone", "2 of 2: other", ""]
    assert run("student.tflite", "--device", "phone")[2] == ""


def test_an_error_does_not_stand_in_the_line_of_the_progress(run, monkeypatch):
    def check(*_, **__):
        raise ValueError("no")

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(deploy, "check", check)
    _, _, err = run("student.tflite", "--device", "phone", "--device", "not.json")
    assert err.endswith("\r\x1b[Kkeras-kd check: no\n")


def test_one_device_that_is_named_twice_is_one(run):
    code, out, _ = run("student.tflite", "--device", "phone", "--device", "phone")
    assert code == 0
    assert out.splitlines()[0] == "student.tflite fits A phone"


def test_data_reaches_the_check(run, monkeypatch):
    asked = {}
    real = deploy.check

    def check(model, device, *, x, y):
        asked.update(x=x, y=y)
        return real(model, device, x=x, y=y)

    monkeypatch.setattr(deploy, "check", check)
    assert run("student.tflite", "--device", "phone", "--data", "test.npz")[0] == 0
    assert (asked["x"].shape, asked["y"].tolist()) == ((2, 4), [0, 1])
    assert run("student.tflite", "--device", "phone")[0] == 0
    assert asked == {"x": None, "y": None}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.tflite", "--device", "phone"], "no file 'missing.tflite'"),
        (["text.tflite", "--device", "phone"], "Expected a TFLite flatbuffer"),
        (["cut.tflite", "--device", "phone"], "cut short or damaged"),
        (["student.tflite", "--device", "phone", "--data", "no.npz"], "no file 'no.npz'"),
        (["student.tflite", "--device", "phone", "--data", "fits.json"], "is no .npz or .npy"),
        (
            ["student.tflite", "--device", "phone", "--data", "other.npz"],
            "has the arrays first, second; the model's inputs are in",
        ),
    ],
)
def test_what_cannot_be_checked_is_exit_code_1_and_one_line(run, arguments, reason):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert reason in err
    assert err.startswith("keras-kd check: ")
    assert err.count("\n") == 1


def test_a_report_that_cannot_be_written(run):
    code, out, err = run("student.tflite", "--device", "phone", "--json", "missing/out.json")
    assert code == 1
    assert out.startswith("student.tflite fits A phone")
    assert err.startswith("keras-kd check: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: model, --device"),
        (["student.tflite"], "required: --device"),
        (["student.tflite", "--device", "phne"], "Hint: 'phone'."),
        (["student.tflite", "--device", "bad.json"], "Expected title, runtime as text"),
        (["student.tflite", "--device", "no.json"], "No such file"),
        (["student.tflite", "--device", "phone", "--devise", "x"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_exit_code_2(run, arguments, reason):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert reason in " ".join(err.split())


def test_an_interruption_is_130(run, monkeypatch):
    def check(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy, "check", check)
    code, _, err = run("student.tflite", "--device", "phone")
    assert (code, err) == (130, "keras-kd check: interrupted\n")


@pytest.mark.slow
def test_the_tool_is_the_same_command(folder):
    tool = ROOT / "tools" / "check_device.py"
    for device, code in (("fits.json", 0), ("not.json", 1), ("no such", 2)):
        done = subprocess.run(
            [sys.executable, tool, "student.tflite", "--device", device],
            cwd=folder,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
