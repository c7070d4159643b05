"""`keras-kd convert`: exit codes, the one line of reason, what is printed and written."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_kd import cli, deploy, quantization

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A student that tells two classes apart, its data, and files that are neither."""
    folder = tmp_path_factory.mktemp("convert")
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (80, 4)).astype("float32")
    inputs = keras.Input((4,), name="signal")
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(inputs))
    model.set_weights([np.array([[1.0, -1.0], [1, -1], [0, 0], [0, 0]]), np.zeros(2)])
    model.save(folder / "student.keras")
    y = (x[:, 0] + x[:, 1] < 0).astype("int64")
    np.save(folder / "one.npy", x)
    np.savez(folder / "only.npz", anything=x)
    np.savez(folder / "several.npz", first=x, second=x)
    np.savez(folder / "test.npz", x=x, y=y)
    np.savez(folder / "unlabelled.npz", x=x)
    np.savez(folder / "bytes.npz", x=np.round((x + 1) * 127))
    (folder / "text.keras").write_text("no model")
    (folder / "text.npz").write_text("no arrays")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs `keras-kd convert` in the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        code = cli.main(["convert", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def without_conversion(monkeypatch):
    """The conversion itself is left out: its bytes are the ones given."""

    def instead(content):
        def convert(*_, **__):
            return content

        monkeypatch.setattr(sys.modules["keras_kd.deploy.convert"], "run_converter", convert)

    return instead


@pytest.fixture(scope="module")
def content(folder):
    student = keras.saving.load_model(folder / "student.keras")
    return deploy.convert(student, calibration=np.load(folder / "one.npy")).content


def test_a_conversion_is_written_and_described(run, folder):
    """The issue's own command line, for real."""
    code, out, err = run(
        "student.keras", "--quantize", "int8", "--calibration", "only.npz",
        "--output", "student.tflite", "--evaluate", "test.npz",
        "--min-agreement", 0.9, "--max-drop", 0.1,
    )  # fmt: skip
    assert (code, err) == (0, "")
    artifact = deploy.Artifact.load(folder / "student.tflite")
    lines = out.splitlines()
    size = artifact.size_bytes
    assert lines[0] == f"student.tflite: {size} bytes, int8, calibrated with 80 examples"
    scale = artifact.inputs[0].scale
    assert lines[1].startswith(f"  input signal: int8 [1, 4], scale {scale:.9g}, zero point ")
    assert lines[2].startswith("  output output_0: int8 [1, 2], scale ")
    assert lines[3].startswith("  agreement with the float model on litert: 0.9")
    assert lines[4].startswith("  accuracy: float 1.0000, int8 0.9")


def test_missed_limits_are_exit_code_1(run, content, without_conversion, folder):
    broken = bytearray(content)
    info = deploy.model_info(content)
    weights = next(t for t in info.tensors if t.is_constant and t.dtype == "int8")
    # The two classes' weights exchanged: every answer is the other one.
    values = np.array([127, 127, 0, 0, -127, -127, 0, 0], "int8").tobytes()
    start = content.find(values)
    assert start > 0, weights
    broken[start : start + 8] = values[4:] + values[:4]
    without_conversion(bytes(broken))
    common = ["student.keras", "--calibration", "one.npy", "--output", "bad.tflite"]
    code, out, err = run(*common, "--evaluate", "test.npz", "--min-agreement", 0.98)
    assert code == 1
    assert err.count("\n") == 1
    assert "bad.tflite was written, but agreement 0.0" in err
    assert "is below 0.98" in err
    assert "accuracy: float 1.0000, int8 0.0" in out
    code, _, err = run(*common, "--evaluate", "test.npz", "--max-drop", 0.01)
    assert code == 1
    assert "accuracy drops by " in err
    # Without a limit it is told, and no failure.
    assert run(*common, "--evaluate", "test.npz", "--runtime", "tflm")[0] == 0


def test_a_student_of_quantization_aware_training_needs_no_calibration(run, folder):
    student = keras.saving.load_model(folder / "student.keras")
    x = np.load(folder / "one.npy")
    quantization.quantize_aware(student, calibration=x).save(folder / "quantized.keras")
    code, out, _ = run("quantized.keras")
    assert code == 0
    assert "int8" in out
    assert "calibrated" not in out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.keras", "--calibration", "one.npy"], "no file 'missing.keras'"),
        (["text.keras", "--calibration", "one.npy"], "'text.keras' is no Keras model"),
        (["one.npy", "--calibration", "one.npy"], "cannot be loaded as a Keras model"),
        (["student.keras", "--calibration", "missing.npz"], "no file 'missing.npz'"),
        (["student.keras", "--calibration", "text.npz"], "no .npz or .npy of numbers"),
        (
            ["student.keras", "--calibration", "several.npz"],
            "has the arrays first, second; the model's inputs are signal (--calibration-key",
        ),
        (
            ["student.keras", "--calibration", "one.npy", "--input-range", "0,1"],
            "Expected calibration in input_range 0..1",
        ),
        (["student.keras", "--calibration", "bytes.npz"], "Expected to know the scale"),
        (
            ["student.keras", "--calibration", "one.npy", "--output", "missing/x.tflite"],
            "Expected an output path that can be written",
        ),
        (
            ["student.keras", "--calibration", "one.npy", "--output-dtype", "int16"],
            "Expected output_dtype in int8, uint8, float32",
        ),
    ],
)
def test_what_cannot_be_done_is_exit_code_1_and_one_line(run, arguments, reason, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)  # Known before any conversion.
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert reason in err
    assert err.startswith("keras-kd convert: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: model"),
        (["student.keras"], "--quantize int8 needs --calibration FILE"),
        (["student.keras", "--quantize", "int4"], "invalid choice"),
        (
            ["student.keras", "--quantize", "float32", "--calibration", "one.npy"],
            "--calibration is for --quantize int8 or int16x8",
        ),
        (
            ["student.keras", "--quantize", "float16", "--allow-float", "a"],
            "--allow-float is for --quantize int8 or int16x8",
        ),
        (
            ["student.keras", "--calibration", "one.npy", "--min-agreement", "0.9"],
            "--min-agreement needs --evaluate NPZ",
        ),
        (["student.keras", "--calibration", "one.npy", "--runtime", "tflm"], "needs --evaluate"),
        (["student.keras", "--calibration", "one.npy", "--max-drop", "2"], "a share from 0 to 1"),
        (["student.keras", "--calibration", "one.npy", "--input-range", "1,0"], "LOW < HIGH"),
        (["student.keras", "--calibration", "one.npy", "--input-range", "1"], "LOW,HIGH"),
        (["student.keras", "--calibration", "one.npy", "--timeout", "0"], "seconds above 0"),
        (
            ["student.keras", "--calibration", "several.npz", "--calibration-key", "third"],
            "has no array 'third': it has first, second",
        ),
        (
            ["student.keras", "--calibration", "one.npy", "--input-range", "x=0,1"],
            "for the inputs signal",
        ),
    ],
)
def test_bad_usage_is_exit_code_2(run, arguments, reason):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert reason in " ".join(err.split())


def test_options_reach_the_conversion(run, content, monkeypatch, folder):
    asked = {}
    artifact = deploy.Artifact(content, "int8", (), (), path=pathlib.Path("student.tflite"))

    def convert(student, path, **options):
        asked.update(options, path=path)
        return artifact

    monkeypatch.setattr(deploy, "convert", convert)
    code, _, err = run(
        "student.keras", "--calibration", "several.npz", "--calibration-key", "second",
        "--input-range=-1,1", "--input-dtype", "uint8", "--output-dtype", "float32",
        "--allow-float", "a,b", "--allow-float", "c", "--per-tensor-dense", "--timeout", 5,
    )  # fmt: skip
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(asked.pop("calibration"), np.load(folder / "one.npy"))
    assert asked == {
        "path": pathlib.Path("student.tflite"),
        "quantization": "int8",
        "input_range": (-1.0, 1.0),
        "input_dtype": "uint8",
        "output_dtype": "float32",
        "allow_float": ["a", "b", "c"],
        "per_channel_dense": False,
        "timeout_s": 5.0,
    }


def test_labels_and_classes_that_a_limit_needs(run, content, without_conversion):
    without_conversion(content)
    common = ["student.keras", "--calibration", "one.npy", "--output", "other.tflite"]
    code, _, err = run(*common, "--evaluate", "unlabelled.npz", "--max-drop", 0.1)
    assert code == 1
    assert "--max-drop needs labels: 'unlabelled.npz' has no array 'y'" in err
    code, out, _ = run(*common, "--evaluate", "unlabelled.npz", "--min-agreement", 0.9)
    assert code == 0
    assert "accuracy" not in out


def test_few_examples_are_a_warning_and_no_failure(run, content, without_conversion, folder):
    without_conversion(content)
    np.save(folder / "few.npy", np.load(folder / "one.npy")[:9])
    code, _, err = run("student.keras", "--calibration", "few.npy")
    assert code == 0
    assert err.startswith("keras-kd convert: warning: Calibration with 9 examples")
    assert err.count("\n") == 1


def test_code_in_a_file_is_not_run_unless_trusted(run, folder, content, without_conversion):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs))
    model.save(folder / "lambda.keras")
    code, _, err = run("lambda.keras", "--calibration", "one.npy")
    assert code == 1
    assert "'lambda.keras' cannot be loaded as a Keras model (--trust loads it" in err
    # Trusted, it is loaded, and what fails is that these bytes are another model's.
    without_conversion(content)
    code, _, err = run("lambda.keras", "--calibration", "one.npy", "--trust")
    assert "--trust" not in err


@pytest.mark.slow
def test_the_tool_is_the_same_command(folder):
    """From a checkout, in a process of its own, in another folder."""
    tool = ROOT / "tools" / "convert_tflite.py"
    done = subprocess.run(
        [sys.executable, tool, "student.keras", "--quantize", "float32", "--output", "own.tflite"],
        cwd=folder,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"own.tflite: {(folder / 'own.tflite').stat().st_size} bytes")
    done = subprocess.run([sys.executable, tool, "text.keras", "--quantize", "float32"], cwd=folder)
    assert done.returncode == 1


# -- the dispatcher --------------------------------------------------------------------------------


def test_help_and_version(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    from keras_kd import __version__

    assert capsys.readouterr().out == f"keras-kd {__version__}\n"
    for bad in ([], ["no-such-command"], ["--no-such-option"]):
        assert cli.main(bad) == 2
        capsys.readouterr()


def test_only_the_command_that_is_asked_for_is_loaded():
    code = (
        "import sys, keras_kd.cli as cli\n"
        "before = set(sys.modules)\n"
        "assert cli.main(['--help']) == 0\n"
        "print('loaded:', *sorted(m for m in set(sys.modules) - before "
        "if m.startswith(('keras_kd', 'tensorflow', 'keras'))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded:"
