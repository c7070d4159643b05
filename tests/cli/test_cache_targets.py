"""`keras-kd cache-targets`: exit codes, what is printed and written, going on after Ctrl-C."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_kd import cli, targets
from keras_kd.targets import shards

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher of two inputs and one of one, their data, and files that are neither."""
    folder = tmp_path_factory.mktemp("cache_targets")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 4)).astype("float32")
    signal = keras.Input((4,), name="signal")
    hidden = keras.layers.Dense(3, name="hidden")(signal)
    model = keras.Model(signal, keras.layers.Dense(5, name="logits")(hidden), name="one")
    model.save(folder / "one.keras")
    other = keras.Input((2,), name="other")
    both = keras.layers.Concatenate()([signal, other])
    keras.Model([signal, other], keras.layers.Dense(3)(both), name="two").save(folder / "two.keras")
    np.save(folder / "x.npy", x)
    np.savez(folder / "keyed.npz", x=x, id=np.arange(100) * 3)
    np.savez(folder / "two.npz", signal=x, other=x[:, :2])
    (folder / "text.keras").write_text("no model")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs the command in the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        code = cli.main(["cache-targets", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_writes_and_says_what(run, folder, tmp_path):
    path = tmp_path / "targets"
    options = ["--top-k", 2, "--feature", "hidden", "--batch-size", 10, "--shard-records", 40]
    code, out, err = run("one.keras", "x.npy", "--output", path, *options)
    assert (code, err) == (0, "")
    size = sum(file.stat().st_size for file in path.iterdir())
    # Key 8, two classes of a byte, two probabilities and the rest of two bytes, three features.
    assert out.splitlines() == [
        f"{path}: answers to 100 examples, {size:,} bytes in 3 shards",
        "  22 bytes an example: the 2 largest of 5, float16",
        f"  teacher 'one', fingerprint {targets.Manifest.read(path).fingerprint[:12]}",
        "  features: hidden [3]",
    ]
    joined = targets.attach(np.load(folder / "x.npy"), path)
    (answers,) = joined["stored_answers"].values()
    assert answers["classes"].shape == (100, 2)


def test_keys_temperature_and_dtype_are_handed_on(run, tmp_path):
    options = ["--key", "id", "--temperature", 4, "--dtype", "float32"]
    code, _, err = run("one.keras", "keyed.npz", "--output", tmp_path / "a", *options)
    assert (code, err) == (0, "")
    manifest = targets.Manifest.read(tmp_path / "a")
    assert manifest.key == "id"
    assert manifest.answers.temperature == 4.0
    assert manifest.answers.dtype == "float32"
    assert targets.Stored(tmp_path / "a").keys.tolist() == list(range(0, 300, 3))


def test_inputs_are_found_by_name(run, tmp_path):
    code, out, _ = run("two.keras", "two.npz", "--output", tmp_path / "a")
    assert code == 0
    assert "all outputs, float16" in out
    names = [name for name, *_ in json.loads((tmp_path / "a/manifest.json").read_text())["inputs"]]
    assert names == ["other", "signal"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["one.keras", "nothing.npy"], "no file 'nothing.npy'"),
        (["text.keras", "x.npy"], "'text.keras' is no Keras model"),
        (["two.keras", "x.npy"], "the model's inputs are signal, other"),
        (["one.keras", "x.npy", "--key", "id"], "has no array 'id'"),
        (["one.keras", "x.npy", "--top-k", "5"], "Expected top_k in 1..4"),
        (["one.keras", "x.npy", "--feature", "hiden"], "no layer 'hiden'"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, tmp_path, arguments, reason):
    code, out, err = run(*arguments, "--output", tmp_path / "a")
    assert (code, out) == (1, "")
    assert err.startswith("keras-kd cache-targets: ")
    assert reason in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["one.keras", "x.npy"],
        ["one.keras", "x.npy", "--output", "a", "--top-k", "0"],
        ["one.keras", "x.npy", "--output", "a", "--temperature", "0"],
        ["one.keras", "x.npy", "--output", "a", "--dtype", "int8"],
    ],
)
def test_bad_usage(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "usage: keras-kd cache-targets" in err


def test_interrupted_it_goes_on(run, tmp_path, monkeypatch):
    path, write_records = tmp_path / "targets", shards.write_records
    command = ["one.keras", "x.npy", "--output", path, "--batch-size", 10, "--shard-records", 40]
    written = []

    def interrupt(file, records):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(file)
        return write_records(file, records)

    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_records", interrupt)
        code, out, err = run(*command)
    assert (code, out) == (130, "")
    assert err == "keras-kd cache-targets: interrupted; the same command goes on where it was\n"
    before = written[0].stat().st_mtime_ns
    code, out, _ = run(*command)
    assert code == 0
    assert "100 examples" in out
    assert written[0].stat().st_mtime_ns == before


@pytest.mark.slow
def test_tool_is_the_command(folder, tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "cache_targets.py"), "one.keras", "x.npy"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "a")],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "answers to 100 examples" in done.stdout
