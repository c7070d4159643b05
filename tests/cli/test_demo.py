"""The demo: what it trains on, what it says of the numbers, and the folder that it leaves."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Distiller, LogitsDistillation
from keras_kd.cli import demo, demo_report, demo_training, main
from keras_kd.deploy import Artifact, predict

FILES = [
    "report.html",
    "report.json",
    "student.cc",
    "student.h",
    "student.html",
    "student.keras",
    "student.tflite",
]
QUICK = ["--epochs", "1", "--teacher-epochs", "1"]


@pytest.fixture(scope="module")
def digits():
    return demo.load_digits()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "made" / "by itself"
    assert main(["demo", "--output", str(folder), *QUICK]) == 0
    return folder


def rows_of(images):
    return {image.tobytes() for image in images}


def test_splits_are_disjoint_stratified_and_fixed(digits):
    splits = [digits.x_train, digits.x_validation, digits.x_test]
    assert [len(split) for split in splits] == [200, 998, 599]
    train, validation, test = map(rows_of, splits)
    # Every digit is in one split; the data set has no two equal images.
    assert len(train) + len(validation) + len(test) == 1797
    assert len(train | validation | test) == 1797
    for labels in (digits.y_train, digits.y_validation, digits.y_test):
        share = np.bincount(labels, minlength=10) / len(labels)
        # The classes have 174 to 183 of 1797, a share of .097 to .102; one image more or less in
        # 200 is .005.
        assert np.all(np.abs(share - 0.1) < 0.01)
    again = demo.load_digits()
    np.testing.assert_array_equal(again.x_test, digits.x_test)
    assert digits.x_train.min() == 0.0
    assert digits.x_train.max() == 1.0


def test_augmentation_is_small_random_and_a_function_of_its_seed(digits):
    images = tf.constant(digits.x_train[:50])
    augment = demo_training.augmentation(10.0, 0.1, 0.75)
    one, other = augment(images, [0, 1]).numpy(), augment(images, [0, 2]).numpy()
    np.testing.assert_array_equal(one, augment(images, [0, 1]).numpy())
    assert not np.array_equal(one, other)
    assert one.shape == images.shape
    assert one.min() >= 0.0
    assert one.max() <= 1.0
    # Bilinear reads at the very same places give the same pixels, to float32's rounding.
    still = demo_training.augmentation(0.0, 0.0, 0.0)(images, [0, 1]).numpy()
    np.testing.assert_allclose(still, images, atol=1e-5)


def test_alone_and_distilled_see_the_same_images_from_the_same_weights(digits, monkeypatch):
    seen = []
    make = demo_training.augmentation

    def recording(*limits):
        augment = make(*limits)

        def both(images, seed):
            images = augment(images, seed)
            seen[-1].append(None)  # Traced once; the values go by the function below.
            tf.numpy_function(lambda x: sums.append(float(x.sum())) or x, [images], tf.float32)
            return images

        return both

    monkeypatch.setattr(demo_training, "augmentation", recording)
    results = []
    for distilled in (False, True):
        seen.append([])
        sums = []
        keras.utils.set_random_seed(3)
        trained = student = demo_training.make_student()
        start = [w.copy() for w in student.get_weights()]
        if distilled:
            trained = Distiller(demo_training.make_teacher(), student, LogitsDistillation(4.0))
        curve = demo_training._fit(trained, digits, seed=3, epochs=2, rate=0.01, title="t")
        assert len(curve) == 2
        results.append((start, sorted(sums), int(trained.optimizer.iterations)))
    for one, other in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert results[0][1] == results[1][1]
    assert len(results[0][1]) == results[0][2] == results[1][2] == 2 * 25


class FakeRun:
    def __init__(self, **correct):
        names = {"result": demo_training.RESULT, "alone": demo_training.ROWS[1]}
        self._rows = {names[k]: np.array(v, bool) for k, v in correct.items()}

    def row(self, key):
        return type("Row", (), {"correct": self._rows[key]})


def test_difference_of_one_seed_is_paired_over_images():
    gain = demo_report.difference(
        [FakeRun(result=[1, 1, 1, 0], alone=[1, 0, 0, 1])], demo_training.ROWS[1]
    )
    # 0, 1, 1, -1: mean 1/4, mean square 3/4, variance 11/16; error sqrt(11/16 / 4).
    assert gain.mean == 0.25
    assert gain.over_images == pytest.approx((11 / 64) ** 0.5)
    assert gain.over_seeds is None
    assert gain.by_seed == (0.25,)
    assert gain.standard_error == gain.over_images


def test_difference_over_seeds_is_paired_too():
    runs = [FakeRun(result=[1, 1], alone=[0, 1]), FakeRun(result=[1, 1], alone=[1, 1])]
    gain = demo_report.difference(runs, demo_training.ROWS[1])
    assert gain.by_seed == (0.5, 0.0)
    assert gain.mean == 0.25
    # Standard deviation sqrt(.125) with one degree of freedom, over sqrt(2).
    assert gain.over_seeds == pytest.approx(0.25)
    # By image .5 and 0: deviation .25, over sqrt(2).
    assert gain.over_images == pytest.approx(0.25 / 2**0.5)
    assert gain.standard_error == gain.over_seeds


@pytest.mark.parametrize(
    ("mean", "error", "words"),
    [
        (0.02, 0.005, "ahead, +2.00 ± 0.50"),
        (0.02, 0.012, "ahead, but within two standard errors of nothing, +2.00 ± 1.20"),
        (0.0, 0.01, "distillation did not help here, +0.00 ± 1.00"),
        (-0.01, 0.001, "distillation did not help here, -1.00 ± 0.10"),
    ],
)
def test_verdict_says_no_more_than_the_numbers(mean, error, words):
    gain = demo_report.Difference(demo_training.ROWS[1], mean, error, None, (mean,))
    assert demo_report.verdict(gain).startswith(words)


def test_confusion_has_the_truth_in_rows():
    counts = np.array(demo_report.confusion(np.array([0, 0, 9]), np.array([0, 1, 9])))
    assert counts.sum() == 3
    assert (counts[0, 0], counts[0, 1], counts[9, 9]) == (1, 1, 1)


def test_folder_holds_what_is_handed_over_and_nothing_else(folder):
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_numbers_are_those_of_the_files(folder, digits):
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))["data"]
    rows = {(r["model"], r["quantization"], r["runtime"]): r for r in data["rows"]}
    assert set(rows) == set(demo_training.ROWS)
    tflite = folder / "student.tflite"
    for runtime in ("litert", "tflm"):
        row = rows[demo_training.DISTILLED, "int8", runtime]
        named = predict(tflite, digits.x_test, runtime).argmax(-1)
        share = float((named == digits.y_test).mean())
        assert row["value"] == pytest.approx(share, abs=1e-12)
        # The binomial's; both are computed in float64.
        error = (share * (1 - share) / 599) ** 0.5
        assert row["standard_error"] == pytest.approx(error, abs=1e-12)
        assert row["size_bytes"] == tflite.stat().st_size
        assert row["examples"] == 599
    student = keras.models.load_model(folder / "student.keras")
    named = student.predict(digits.x_test, verbose=0).argmax(-1)
    share = float((named == digits.y_test).mean())
    # Keras's float32 kernels and LiteRT's may break a near tie differently, in an image or two.
    assert rows[demo_training.DISTILLED, "float32", "litert"]["value"] == pytest.approx(
        share, abs=2 / 599
    )
    gain = data["differences"][0]
    expected = rows[demo_training.RESULT]["value"] - rows[demo_training.ROWS[1]]["value"]
    assert gain["mean"] == pytest.approx(expected, abs=1e-12)


def test_c_array_is_the_tflite(folder):
    numbers = re.findall(r"0x[0-9a-f]{2}", (folder / "student.cc").read_text())
    assert bytes(int(n, 16) for n in numbers) == (folder / "student.tflite").read_bytes()
    tensor = Artifact.load(folder / "student.tflite").inputs[0]
    header = (folder / "student.h").read_text()
    assert f"student_input_0_zero_point = {tensor.zero_point};" in header


def test_page_says_what_was_done_and_what_was_not(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    for words in (
        "200 training",
        "599 test",
        "TFLite Micro",
        "No board was connected",
        "this host",
    ):
        assert words in page
    assert page.count("<svg") == 4


def test_the_student_has_a_page_of_its_own(folder):
    page = (folder / "student.html").read_text(encoding="utf-8")
    for words in ("teacher", "float student", "TFLite Micro", "Nano 33 BLE", "SQNR"):
        assert words in page
    rows = json.loads((folder / "report.json").read_text(encoding="utf-8"))["data"]["rows"]
    (row,) = [
        r for r in rows if (r["model"], r["quantization"], r["runtime"]) == demo_training.RESULT
    ]
    # The same student, images and runtime, measured again.
    assert f"an accuracy of {100 * row['value']:.1f} ± " in page


def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_trained(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(demo, "load_digits", lambda: pytest.fail("went on"))
    (tmp_path / "file").write_text("mine")
    assert main(["demo", "--output", str(tmp_path / "file" / "below")]) == 1
    captured = capsys.readouterr()
    assert re.fullmatch(r"\s*keras-kd demo: Expected an output folder .*--output\.\n", captured.err)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "argument", [["--seeds", "0"], ["--epochs", "-1"], ["--epochs", "x"], ["--output"]]
)
def test_bad_usage(argument, capsys):
    assert main(["demo", *argument]) == 2
    assert "usage: keras-kd demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "No space left on device",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("two\nlines"), 1, "two lines"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path, capsys, monkeypatch, raised, code, line):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(demo, "one_run", fail)
    assert main(["demo", "--output", str(tmp_path)]) == code
    err = capsys.readouterr().err.strip()
    assert err.startswith("keras-kd demo: ")
    assert line in err
    assert "\n" not in err


def test_without_scikit_learn_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["demo", "--output", str(tmp_path)]) == 1
    assert "pip install keras-kd[demo]" in capsys.readouterr().err


@pytest.mark.slow
def test_several_seeds_give_mean_and_spread(tmp_path, digits):
    assert main(["demo", "--output", str(tmp_path), "--seeds", "2", *QUICK]) == 0
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    data = content["data"]
    assert data["seeds"] == [0, 1]
    values = [
        [r["value"] for r in data["rows"] if (r["model"], r["quantization"], r["runtime"]) == key]
        for key in (demo_training.RESULT, demo_training.ROWS[1])
    ]
    table = content["sections"][0]["blocks"][0]
    shown = table["rows"][-1][3]
    assert shown["value"] == pytest.approx(np.mean(values[0]), abs=1e-12)
    assert shown["spread"] == pytest.approx(np.std(values[0], ddof=1), abs=1e-12)
    gains = np.subtract(*values)
    assert data["differences"][0]["by_seed"] == pytest.approx(gains.tolist(), abs=1e-12)
    error = gains.std(ddof=1) / 2**0.5
    assert data["differences"][0]["over_seeds"] == pytest.approx(error, abs=1e-12)
    assert len({tuple(curve["teacher"]) for curve in data["validation_accuracy"]}) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_ends_with_one_line_and_keeps_the_old_files(tmp_path):
    (tmp_path / "student.tflite").write_text("old")
    code = "import sys; from keras_kd.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, "demo", "--output", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell hands down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stdout:
        if "Training the teacher" in line:
            break
    time.sleep(1.0)  # Into the training.
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].startswith("keras-kd demo: interrupted")
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["student.tflite"]
    assert (tmp_path / "student.tflite").read_text() == "old"
