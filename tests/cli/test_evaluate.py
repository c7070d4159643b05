"""`keras-kd evaluate`: exit codes, the one line of reason, what is printed and written."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_kd import cli, deploy

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, by_hand):
    """An int8 RELU: the largest of four numbers stays the largest, so it classifies by argmax."""
    folder = tmp_path_factory.mktemp("evaluate")
    content = by_hand.chain(
        ["RELU"],
        [by_hand.tensor("in", buffer=1), by_hand.tensor("out", buffer=1)],
        buffers=2,
    )
    (folder / "student.tflite").write_bytes(content)
    (folder / "text.tflite").write_text("no model")
    (folder / "custom.tflite").write_bytes(by_hand.chain(["+Own"], buffers=2))
    labels = np.array([0, 1, 2, 3, 0])
    x = np.eye(4, dtype="float32")[labels] * 4
    # Four of five are right.
    np.savez(folder / "test.npz", x=x, y=[0, 1, 2, 3, 1])
    np.savez(folder / "unlabelled.npz", x=x)
    np.savez(folder / "short.npz", x=x, y=[0, 1])
    np.savez(folder / "wrong.npz", x=x, y=[0, 1, 2, 3, 9])
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs `keras-kd evaluate` in the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        code = cli.main(["evaluate", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_all_of_it(run, folder):
    runtimes = ["--runtime", "litert", "--runtime", "litert_reference", "--runtime", "litert"]
    code, out, err = run(
        "student.tflite", "--data", "test.npz", *runtimes, "--latency-runs", 5,
        "--json", "out.json", "--html", "out.html",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "student.tflite, int8"
    assert "Measured on 5 examples." in out
    # sqrt(.8 * .2 / 5) is .1789.
    rows = [line.split() for line in out.splitlines() if line.startswith("litert")]
    size = f"{(folder / 'student.tflite').stat().st_size:,}"
    assert [row[:6] for row in rows] == [
        [name, "80.00", "±", "17.89", size, "\N{EN DASH}"]
        for name in ("litert", "litert_reference")
    ]
    measured = json.loads((folder / "out.json").read_text())["data"]["measurements"]
    assert [row["runtime"] for row in measured] == ["litert", "litert_reference"]
    assert measured[0]["value"] == 0.8
    assert measured[0]["latency_runs"] == 5
    assert "80.00" in (folder / "out.html").read_text()


def test_a_microcontrollers_runtime_has_an_arena(run):
    pytest.importorskip("tflite_micro")
    code, out, _ = run(
        "student.tflite", "--data", "test.npz", "--runtime", "tflm", "--latency-runs", 0
    )
    assert code == 0
    (row,) = [line.split() for line in out.splitlines() if line.startswith("tflm")]
    assert int(row[5].replace(",", "")) > 0
    assert row[6:] == ["\N{EN DASH}", "\N{EN DASH}"]


def test_without_labels(run):
    code, out, _ = run("student.tflite", "--data", "unlabelled.npz", "--latency-runs", 0)
    assert code == 0
    assert "which have no labels 'y': no accuracy." in out


def test_another_metric(run):
    code, out, _ = run(
        "student.tflite", "--data", "test.npz", "--latency-runs", 0,
        "--metric", "SparseTopKCategoricalAccuracy",
    )  # fmt: skip
    assert code == 0
    assert "sparse_top_k_categorical_accuracy" in out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.tflite", "--data", "test.npz"], "no file 'missing.tflite'"),
        (["text.tflite", "--data", "test.npz"], "Expected a TFLite flatbuffer"),
        (["student.tflite", "--data", "no.npz"], "no file 'no.npz'"),
        (["student.tflite", "--data", "text.tflite"], "is no .npz or .npy"),
        (["student.tflite", "--data", "short.npz"], "as many examples in each input as labels"),
        (["student.tflite", "--data", "wrong.npz", "--latency-runs", "0"], "class numbers from 0"),
        (["custom.tflite", "--data", "test.npz"], "unresolved custom op: Own"),
    ],
)
def test_what_cannot_be_measured_is_exit_code_1_and_one_line(run, arguments, reason):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert reason in err
    assert err.startswith("keras-kd evaluate: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: model, --data"),
        (["student.tflite"], "required: --data"),
        (["student.tflite", "--data", "test.npz", "--runtime", "gpu"], "invalid choice"),
        (["student.tflite", "--data", "test.npz", "--latency-runs", "-1"], "0 or more"),
        (["student.tflite", "--data", "test.npz", "--latency-runs", "x"], "invalid"),
    ],
)
def test_bad_usage_is_exit_code_2(run, arguments, reason):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert reason in " ".join(err.split())


def test_an_interruption_is_130(run, monkeypatch):
    def measure(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy, "measure", measure)
    code, _, err = run("student.tflite", "--data", "test.npz")
    assert (code, err) == (130, "keras-kd evaluate: interrupted; no report was written\n")


@pytest.mark.slow
def test_the_tool_is_the_same_command(folder):
    tool = ROOT / "tools" / "evaluate_tflite.py"
    for data, code in (("test.npz", 0), ("no.npz", 1)):
        done = subprocess.run(
            [sys.executable, tool, "student.tflite", "--data", data, "--latency-runs", "0"],
            cwd=folder,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
