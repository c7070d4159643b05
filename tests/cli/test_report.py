"""`keras-kd report`: files in, one page out, and one line where that cannot be done."""

import json
import sys

import keras
import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.cli import main
from keras_kd.deploy.proof import evidence

DEVICE = {
    "name": "board",
    "title": "A board",
    "runtime": "tflm",
    "flash_bytes": {"value": 1048576, "source": "by hand"},
    "ram_bytes": {"value": 262144, "source": "by hand"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A student, its conversion, a teacher, test data and a board, in a folder."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    x = rng.uniform(0.0, 1.0, (60, 6)).astype("float32")
    np.savez(folder / "test.npz", x=x, y=x[:, :3].argmax(-1))
    for seed, name in enumerate(("student", "teacher")):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((6,), name="features")
        hidden = keras.layers.Dense(8, activation="relu")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
        model.save(folder / f"{name}.keras")
        if name == "student":
            deploy.convert(model, folder / "student.tflite", calibration=x, input_range=(0.0, 1.0))
    (folder / "board.json").write_text(json.dumps(DEVICE))
    return folder


def command(folder, *more):
    given = [str(folder / "student.tflite"), "--student", str(folder / "student.keras")]
    return ["report", *given, "--data", str(folder / "test.npz"), "--latency-runs", "2", *more]


def test_page_and_json_are_written_and_the_answer_is_printed(files, tmp_path, capsys):
    page, plain = tmp_path / "report.html", tmp_path / "report.json"
    more = ["--teacher", str(files / "teacher.keras"), "--device", str(files / "board.json")]
    assert main(command(files, *more, "--html", str(page), "--json", str(plain))) == 0
    content = json.loads(plain.read_text(encoding="utf-8"))
    rows = content["data"]["rows"]
    assert [row["role"] for row in rows] == ["teacher", "float student", *["converted student"] * 2]
    assert {row["latency_runs"] for row in rows} == {2}
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "A board" in text
    assert text.count("<svg") >= 5
    out = capsys.readouterr().out
    assert content["summary"] in out
    assert f"Written: {page}, {plain}" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_without_a_file_the_report_is_text(files, capsys, monkeypatch):
    monkeypatch.setattr(evidence, "layer_errors", lambda *arguments, **options: ())
    assert main(command(files, "--runtime", "litert")) == 0
    out = capsys.readouterr().out
    assert "student.tflite: what it is worth" in out
    # Its arena is asked for all the same, nothing else.
    assert out.count("TFLite Micro") == out.count("Arena in TFLite Micro (bytes)") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"student.tflite": "none.tflite"}, "none.tflite"),
        ({"student.keras": "none.keras"}, "no file"),
        ({"student.keras": "student.tflite"}, "cannot be loaded as a Keras model"),
        ({"test.npz": "board.json"}, "no .npz or .npy of numbers"),
    ],
)
def test_what_cannot_be_done_is_one_line(files, capsys, change, reason):
    arguments = command(files)
    for old, new in change.items():
        arguments = [a.replace(str(files / old), str(files / new)) for a in arguments]
    assert main(arguments) == 1
    err = capsys.readouterr().err.strip()
    assert err.startswith("keras-kd report: ")
    assert reason in err
    assert "\n" not in err


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--device", "no such"], "Expected a device"),
        (["--html", "/no/such/folder/report.html"], "Expected an output path"),
    ],
)
def test_a_wrong_device_or_folder_stops_before_anything_is_measured(
    files, capsys, monkeypatch, more, reason
):
    monkeypatch.setattr(evidence, "observe", lambda *a, **k: pytest.fail("ran"))
    assert main(command(files, *more)) == 1
    assert reason in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named_before_anything_is_measured(
    files, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(deploy, "prove", lambda *a, **k: pytest.fail("ran"))
    assert main(command(files, "--html", str(tmp_path / "report.html"))) == 1
    assert "pip install keras_kd[demo]" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--latency-runs", "-1"], ["--runtime", "jax"]])
def test_bad_usage(files, capsys, more):
    assert main(command(files, *more)) == 2
    assert "usage: keras-kd report" in capsys.readouterr().err
