"""The Android project: its text here; Pixels.kt, which needs no Android, compiled and run.

The Kotlin compiler is the folder of jars that KERAS_KD_KOTLIN names, else the one in the Kotlin
kernel for Jupyter, from the package index. The Android SDK is not needed and not used.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile

import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy.artifact import TensorInfo
from keras_kd.deploy.interpreter import to_real, to_stored
from keras_kd.deploy.package import android
from keras_kd.deploy.package.android import gives_logits, write_project
from keras_kd.deploy.package.metadata import image_classifier, write_metadata

LABELS = ("a", "b & c", "d'e", '"f"')
PACKAGE = "com.example.student"
SOURCES = pathlib.Path("app/src/main/java/com/example/student")
KERNEL = "kotlin-jupyter-kernel==0.19.0.944"


@pytest.fixture
def project(converted, tmp_path):
    """A function that writes a project of one scheme and returns it."""

    def written(quantization="int8", **options):
        options = {"labels": LABELS, "mean": 0, "std": 255, **options}
        return write_project(converted(quantization), tmp_path / "project", **options)

    return written


def text(project, path):
    return (project.folder / path).read_text(encoding="utf-8")


def test_every_file_is_there_and_filled(project, converted):
    made = project(name="Blobs")
    on_disk = {p.relative_to(made.folder) for p in made.folder.rglob("*") if p.is_file()}
    assert on_disk == set(made.files)
    assert {str(path) for path in made.files} == {
        ".gitignore",
        "README.md",
        "app/build.gradle.kts",
        "app/src/main/AndroidManifest.xml",
        "app/src/main/assets/labels.txt",
        "app/src/main/assets/model.tflite",
        f"{SOURCES}/Classifier.kt",
        f"{SOURCES}/MainActivity.kt",
        f"{SOURCES}/ModelSpec.kt",
        f"{SOURCES}/Pixels.kt",
        "app/src/main/res/values/strings.xml",
        "build.gradle.kts",
        "gradle.properties",
        "gradle/wrapper/gradle-wrapper.properties",
        "settings.gradle.kts",
    }
    assets = made.folder / "app/src/main/assets"
    assert (assets / "model.tflite").read_bytes() == converted("int8").content
    assert text(made, "app/src/main/assets/labels.txt") == 'a\nb & c\nd\'e\n"f"\n'
    for path in made.files:
        if path.suffix not in (".tflite", ".txt"):
            content = text(made, path)
            assert not re.search("@[A-Z_]+@", content), path
            assert content.endswith("\n")
    assert 'rootProject.name = "Blobs"' in text(made, "settings.gradle.kts")
    for path in made.files:
        if path.suffix == ".kt":
            assert f"\npackage {PACKAGE}\n" in f"\n{text(made, path)}"


def test_the_models_own_numbers(project, converted):
    spec = text(project(mean=(10,), std=0.1), SOURCES / "ModelSpec.kt")
    artifact = converted("int8")
    literals = dict(re.findall(r"(\w+) = TensorSpec\((.*)\)", spec))
    for role, tensor in (("INPUT", artifact.inputs[0]), ("OUTPUT", artifact.outputs[0])):
        kind, scale, zero_point = literals[role].split(", ")
        assert kind == "ElementType.INT8"
        assert np.float32(scale.removesuffix("f")) == np.float32(tensor.scale)
        assert int(zero_point) == tensor.zero_point
    assert "width = 8," in spec
    assert "height = 8," in spec
    assert "channels = 1," in spec
    assert "mean = floatArrayOf(10f)" in spec
    assert np.float32(re.search(r"std = floatArrayOf\((.*)f\)", spec)[1]) == np.float32(0.1)
    assert "GIVES_LOGITS = true" in spec


def test_a_float_model(project):
    spec = text(project("float32"), SOURCES / "ModelSpec.kt")
    assert spec.count("TensorSpec(ElementType.FLOAT32, 1f, 0)") == 2


@pytest.mark.parametrize(("accelerator", "packages"), [("cpu", 1), ("gpu", 2)])
def test_accelerators(project, accelerator, packages):
    made = project("float16", accelerator=accelerator)
    gradle = text(made, "app/build.gradle.kts")
    assert gradle.count("com.google.ai.edge.litert:litert") == packages
    assert 'implementation("com.google.ai.edge.litert:litert:2.3.0")' in gradle
    assert ("litert-gpu:2.3.0" in gradle) == (accelerator == "gpu")
    options = re.search(r"CompiledModel.Options\((.*)\)", text(made, SOURCES / "Classifier.kt"))[1]
    assert (
        options
        == {"cpu": "Accelerator.CPU", "gpu": "Accelerator.GPU, Accelerator.CPU"}[accelerator]
    )


def test_the_build_files(project):
    made = project(application_id="org.uni_x.app2")
    gradle = text(made, "app/build.gradle.kts")
    for line in (
        'namespace = "org.uni_x.app2"',
        'applicationId = "org.uni_x.app2"',
        "minSdk = 24",
        "compileSdk = 35",
    ):
        assert line in gradle
    assert (made.folder / "app/src/main/java/org/uni_x/app2/Pixels.kt").is_file()
    wrapper = text(made, "gradle/wrapper/gradle-wrapper.properties")
    assert r"distributionUrl=https\://services.gradle.org/distributions/gradle-8.13-bin" in wrapper
    for path in made.files:
        if path.name.endswith((".kts", ".kt")):
            code = text(made, path)
            for opened, closed in ("()", "{}", "[]"):
                assert code.count(opened) == code.count(closed), (path, opened)


@pytest.mark.parametrize("name", ["Plain", 'Q & A\'s "<1>" @home? \\ é', "  spaces  "])
def test_xml_is_well_formed_whatever_the_name(project, name):
    made = project(name=name)
    manifest = ET.parse(made.folder / "app/src/main/AndroidManifest.xml").getroot()
    android_name = "{http://schemas.android.com/apk/res/android}name"
    assert [node.get(android_name) for node in manifest.iter("uses-permission")] == [
        "android.permission.CAMERA"
    ]
    assert [node.get(android_name) for node in manifest.iter("activity")] == [".MainActivity"]
    strings = ET.parse(made.folder / "app/src/main/res/values/strings.xml").getroot()
    by_name = {node.get("name"): node.text for node in strings}
    # Android reads a quoted string as it stands but for backslashes (String resources).
    quoted = by_name["app_name"]
    assert quoted[0] == quoted[-1] == '"'
    assert re.sub(r"\\(.)", r"\1", quoted[1:-1]) == name
    root_name = re.search(r'rootProject.name = "(.*)"', text(made, "settings.gradle.kts"))[1]
    assert re.fullmatch("[A-Za-z0-9_-]+", root_name)


def test_strings_and_classes_that_the_code_names_are_there(project):
    made = project()
    activity = text(made, SOURCES / "MainActivity.kt")
    strings = ET.parse(made.folder / "app/src/main/res/values/strings.xml").getroot()
    used = set(re.findall(r"R\.string\.(\w+)", activity)) | {"app_name"}
    assert used <= {node.get("name") for node in strings}
    imported = re.findall(r"^import ([\w.]+)", activity, re.MULTILINE)
    assert imported == sorted(imported)
    for name in imported:
        assert len(re.findall(rf"\b{name.split('.')[-1]}\b", activity)) > 1, name
    assert "android" not in text(made, SOURCES / "Pixels.kt").replace("needs Android", "").lower()


def test_labels_and_normalization_of_the_metadata(converted, tmp_path):
    artifact = converted("int8")
    notes = image_classifier(artifact.content, name="m", labels=LABELS, mean=1, std=2)
    noted = dataclasses.replace(artifact, content=write_metadata(artifact.content, notes))
    made = write_project(noted, tmp_path / "app")
    assert text(made, "app/src/main/assets/labels.txt").splitlines() == list(LABELS)
    spec = text(made, SOURCES / "ModelSpec.kt")
    assert "mean = floatArrayOf(1f)" in spec
    assert "std = floatArrayOf(2f)" in spec
    other = write_project(noted, tmp_path / "app", labels="wxyz", mean=3, std=4)
    assert text(other, "app/src/main/assets/labels.txt") == "w\nx\ny\nz\n"
    assert "mean = floatArrayOf(3f)" in text(other, SOURCES / "ModelSpec.kt")


def test_writing_again_replaces_ours_and_leaves_others(project):
    made = project()
    own = made.folder / "app/src/main/java/Own.kt"
    own.write_text("// mine\n")
    again = project(labels=("1", "2", "3", "4"))
    assert own.read_text() == "// mine\n"
    assert text(again, "app/src/main/assets/labels.txt") == "1\n2\n3\n4\n"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": ("a", "b")}, "Expected 4 labels, one for each class. Received: 2"),
        ({"labels": ("a", "b\nc", "d", "e")}, "text of one line"),
        ({"labels": None}, "Expected labels, or a model whose metadata"),
        ({"mean": None, "std": None}, "Expected mean and std, or a model"),
        ({"std": None}, "Expected mean and std together"),
        ({"mean": (1, 2), "std": 1}, "Expected one mean and std or 1"),
        ({"std": 0}, "std above 0"),
        ({"application_id": "student"}, "two parts or more"),
        ({"application_id": "com.example.Student"}, "lowercase"),
        ({"application_id": "com.example.in"}, "none a keyword"),
        ({"name": " "}, "Expected a name of printable characters"),
        ({"name": "a\nb"}, "Expected a name of printable characters"),
        ({"accelerator": "npu"}, "Expected accelerator in cpu, gpu"),
    ],
)
def test_what_cannot_be_written(project, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        project(**options)
    assert not (tmp_path / "project").exists()


def test_models_that_are_no_image_classifier(converted, by_hand, tmp_path):
    artifact = converted("int8")
    flat = dataclasses.replace(artifact.inputs[0], shape=(1, 64))
    short = dataclasses.replace(artifact.inputs[0], dtype="int16")
    for inputs, match in (
        ((flat,), r"as \[1, height, width, 1 or 3\].*Received: \[1, 64\] of int8"),
        ((short,), "Received: .* of int16"),
        (artifact.inputs * 2, "one input and one output. Received: 2 and 1"),
        ((dataclasses.replace(artifact.inputs[0], scale=None),), "Expected a scale for 'image'"),
    ):
        with pytest.raises(ValueError, match=match):
            write_project(dataclasses.replace(artifact, inputs=inputs), tmp_path, labels=LABELS)
    custom = by_hand.chain(["+Unheard"], [by_hand.tensor("a", (1, 2, 2, 3)), by_hand.tensor("b")])
    (tmp_path / "c.tflite").write_bytes(custom)
    loaded = deploy.Artifact.load(tmp_path / "c.tflite")
    with pytest.raises(ValueError, match=r"CompiledModel loads\. Received: one with Unheard"):
        write_project(loaded, tmp_path, labels=LABELS)


@pytest.mark.parametrize(
    ("ops", "logits"),
    [
        (["FULLY_CONNECTED"], True),
        (["SOFTMAX"], False),
        (["LOGISTIC", "QUANTIZE", "RESHAPE"], False),
        (["SOFTMAX", "FULLY_CONNECTED"], True),
        (["SOFTMAX", "MUL", "DEQUANTIZE"], True),
    ],
)
def test_logits_or_probabilities(by_hand, ops, logits):
    assert gives_logits(deploy.model_info(by_hand.chain(ops))) == logits


def test_every_template_is_used():
    folder = pathlib.Path(android.__file__).with_name("templates") / "android"
    assert {path.name for path in folder.iterdir()} == {*android._FILES, *android._KOTLIN}


# Compiled and run.


@pytest.fixture(scope="module")
def kotlin_jars(tmp_path_factory):
    """The class path of a Kotlin compiler, and the jar of its standard library."""
    if shutil.which("java") is None:
        pytest.skip("needs java, which is not installed")
    folder = pathlib.Path(os.environ.get("KERAS_KD_KOTLIN", ""))
    if not os.environ.get("KERAS_KD_KOTLIN"):
        folder = tmp_path_factory.mktemp("kotlin")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", KERNEL]
        made = subprocess.run(
            [*command, "--dest", folder], capture_output=True, text=True, timeout=500
        )
        if made.returncode:
            pytest.skip(f"pip cannot download {KERNEL}: {made.stderr.strip()[-200:]}")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    jars = sorted(folder.rglob("*.jar"))
    return os.pathsep.join(map(str, jars)), str(next(j for j in jars if "stdlib" in j.name))


@pytest.fixture(scope="module")
def run_pixels(kotlin_jars, converted, tmp_path_factory):
    """A function from lines to the lines that the compiled program answers."""
    folder = tmp_path_factory.mktemp("android")
    made = write_project(
        converted("int8"), folder / "app", labels=LABELS, mean=10, std=0.1, name="Blobs"
    )
    sources = [made.folder / SOURCES / name for name in ("Pixels.kt", "ModelSpec.kt")]
    sources.append(pathlib.Path(__file__).with_name("kotlin_main.kt"))
    compiler, standard_library = kotlin_jars
    command = ["java", "-cp", compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-Werror"]
    options = ["-no-stdlib", "-no-reflect", "-cp", standard_library, "-d", folder / "classes"]
    built = subprocess.run(
        [*command, *options, *sources], capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr

    def run(lines):
        classes = os.pathsep.join((str(folder / "classes"), standard_library))
        ran = subprocess.run(
            ["java", "-cp", classes, f"{PACKAGE}.Kotlin_mainKt"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return [line.split() for line in ran.stdout.splitlines()]

    return run


def joined(*parts):
    return " ".join(str(value) for part in parts for value in np.atleast_1d(part).tolist())


@pytest.mark.slow
def test_compiled_the_models_numbers(run_pixels, converted):
    (answer,) = run_pixels(["model"])
    artifact = converted("int8")
    assert answer[:4] == ["8", "8", "1", "INT8"]
    for at, tensor in ((4, artifact.inputs[0]), (7, artifact.outputs[0])):
        assert np.float32(answer[at]) == np.float32(tensor.scale)
        assert int(answer[at + 1]) == tensor.zero_point
    assert answer[9] == "true"
    assert [np.float32(value) for value in answer[10:]] == [10, np.float32(0.1)]


def seen(pixels, rotation, width, height, channels, mean, std):
    """What the model should see, in float64: [height, width, channels]."""
    upright = np.rot90(pixels, -rotation // 90).astype(np.float64)
    rows, columns = upright.shape[:2]
    crop_rows, crop_columns = (
        min(rows, columns * height // width),
        min(columns, rows * width // height),
    )
    top, left = (rows - crop_rows) // 2, (columns - crop_columns) // 2
    image = upright[top : top + crop_rows, left : left + crop_columns]
    for axis, size in ((0, height), (1, width)):
        centres = (np.arange(size) + 0.5) * image.shape[axis] / size - 0.5
        source = np.arange(image.shape[axis])
        # np.interp holds the ends, as the kernel does.
        image = np.apply_along_axis(
            lambda line, centres=centres, source=source: np.interp(centres, source, line),
            axis,
            image,
        )
    if channels == 1:
        image = image @ np.array([[0.299], [0.587], [0.114]])
    return (image - mean) / std


@pytest.mark.slow
def test_compiled_images(run_pixels):
    rng = np.random.default_rng(0)
    lines, expected, largest = [], [], []
    for rotation in (0, 90, 180, 270):
        for (columns, rows), (width, height), channels, pad in (
            ((9, 7), (4, 4), 3, 0),
            ((7, 9), (5, 3), 1, 8),
            ((6, 6), (6, 6), 3, 4),
            ((3, 4), (8, 9), 3, 0),
            ((40, 30), (7, 6), 1, 12),
        ):
            pixels = rng.integers(0, 256, (rows, columns, 3))
            stride = 4 * columns + pad
            memory = rng.integers(0, 256, (rows, stride))
            for channel in range(3):
                memory[:, channel : 4 * columns : 4] = pixels[:, :, channel]
            mean, std = rng.uniform(0, 200, channels), rng.uniform(0.5, 255, channels)
            mean, std = mean.astype("float32"), std.astype("float32")
            sizes = (columns, rows, stride, 4, rotation, width, height, channels)
            lines.append(joined("image", sizes, mean, std, memory.ravel()))
            image = seen(pixels, rotation, width, height, channels, mean, std)
            expected.append(image.ravel())
            largest.append(np.tile(255 * (8 + 8 * max(rows, columns)) / std, width * height))
    for answer, values, scale in zip(run_pixels(lines), expected, largest, strict=True):
        # A position of up to n pixels is off by some roundings of 2^-24 n, and moves a pixel by up
        # to 255 of them; what follows are eight operations on numbers of up to 255.
        error = np.abs(np.array(answer, np.float64) - values)
        assert (error <= scale * 2.0**-24).all()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dtype"), [("INT8", "int8"), ("UINT8", "uint8")])
def test_compiled_quantization_is_litert_s(run_pixels, kind, dtype):
    rng = np.random.default_rng(1)
    tensor = TensorInfo("t", (1, 400), dtype, 0.25, 3)
    # Halves between two steps, both ends, beyond them, and anything.
    values = np.concatenate(
        [np.arange(-40, 40, 0.125), [1e9, -1e9, 0.0, -0.0], rng.normal(0, 30, 300)]
    ).astype("float32")
    stored = to_stored(values, tensor)
    lines = [
        joined("quantize", kind, 0.25, 3, values),
        joined("dequantize", kind, 0.25, 3, stored.astype(int)),
    ]
    quantized, real = run_pixels(lines)
    np.testing.assert_array_equal(np.array(quantized, int).astype(np.int8).view(dtype), stored)
    np.testing.assert_array_equal(np.array(real, "float32"), to_real(stored, tensor))


@pytest.mark.slow
def test_compiled_scores(run_pixels):
    logits = np.array([1.5, -3.0, 80.0, 79.0, 80.0], "float32")
    softmax, highest = run_pixels([joined("softmax", logits), joined("highest", 3, logits)])
    powers = np.exp(logits.astype(np.float64) - 80)
    # exp, a sum of five and a division: some roundings of 2^-24.
    np.testing.assert_allclose(np.array(softmax, float), powers / powers.sum(), rtol=16 * 2.0**-24)
    assert highest == ["2", "4", "3"]
