"""MediaPipe Tasks reads the metadata that we write, and classifies as LiteRT does.

MediaPipe cannot live beside tensorflow-model-optimization, so it has an environment of its own: the
Python that KERAS_KD_MEDIAPIPE names, else one that is made here from the package index. Its library
needs Debian's libegl1 and libgles2.
"""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy.devices import get
from keras_kd.deploy.findings import ERROR, Subject
from keras_kd.deploy.package.metadata import image_classifier, read_metadata, write_metadata
from keras_kd.deploy.rules import phone

pytestmark = pytest.mark.slow

VERSION = "1.2.2"
LABELS = ("cat", "dog", "a third, with a comma")
CLASSIFY = """
import json, sys
import mediapipe, numpy
from mediapipe.tasks import python as tasks
from mediapipe.tasks.python import vision

options = vision.ImageClassifierOptions(
    base_options=tasks.BaseOptions(model_asset_path=sys.argv[1]), max_results=-1
)
answers = []
with vision.ImageClassifier.create_from_options(options) as classifier:
    for pixels in numpy.load(sys.argv[2]):
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        (head,) = classifier.classify(image).classifications
        answers.append([(c.index, c.score, c.category_name) for c in head.categories])
print(json.dumps({"answers": answers, "head": head.head_name}))
"""


@pytest.fixture(scope="session")
def mediapipe(tmp_path_factory):
    """The Python of an environment that has MediaPipe."""
    named = os.environ.get("KERAS_KD_MEDIAPIPE")
    if named:
        return named
    folder = tmp_path_factory.mktemp("mediapipe")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    command = [python, "-m", "pip", "install", "--quiet", f"mediapipe=={VERSION}"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=500)
    if made.returncode:
        pytest.skip(f"pip cannot install mediapipe=={VERSION}: {made.stderr.strip()[-200:]}")
    probe = subprocess.run(
        [python, "-c", "from mediapipe.tasks.python import vision"], capture_output=True, text=True
    )
    if probe.returncode:
        pytest.skip(f"mediapipe cannot be loaded: {probe.stderr.strip()[-200:]}")
    return python


@pytest.fixture(scope="session")
def pictures():
    """Sixty pictures of 12 rows and 16 columns, as bytes; one is black, one white."""
    pixels = np.random.default_rng(3).integers(0, 256, (60, 12, 16, 3), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255
    return pixels


@pytest.fixture(scope="session")
def classifier():
    """A classifier of pictures in 0..1."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((12, 16, 3), name="picture")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv")(inputs)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(3, activation="softmax", name="scores")(x)
    return keras.Model(inputs, x)


@pytest.fixture(scope="session")
def converted_pictures(classifier, pictures):
    """A function from the type of input and output to the artifact."""
    made = {}

    def artifact(dtype):
        if dtype not in made:
            integer = {
                "quantization": "int8",
                "calibration": (pictures / 255).astype("float32"),
                "input_range": (0, 1),
                "input_dtype": dtype,
                "output_dtype": dtype,
            }
            options = {"quantization": "float32"} if dtype == "float32" else integer
            made[dtype] = deploy.convert(classifier, **options)
        return made[dtype]

    return artifact


@pytest.fixture
def classified(mediapipe, pictures, tmp_path):
    """A function from a `.tflite` to (scores [pictures, classes], label of each class, head)."""
    np.save(tmp_path / "pictures.npy", pictures)

    def answers(content):
        (tmp_path / "model.tflite").write_bytes(content)
        ran = subprocess.run(
            [mediapipe, "-c", CLASSIFY, tmp_path / "model.tflite", tmp_path / "pictures.npy"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if ran.returncode:
            raise RuntimeError(ran.stderr)
        result = json.loads(ran.stdout.splitlines()[-1])
        scores = [[score for _, score, _ in sorted(answer)] for answer in result["answers"]]
        names = {index: name for answer in result["answers"] for index, _, name in answer}
        tops = [answer[0][0] for answer in result["answers"]]
        return np.array(scores), [names[index] for index in sorted(names)], tops, result["head"]

    return answers


def noted(content, **options):
    return write_metadata(
        content, image_classifier(content, name="Pictures", labels=LABELS, **options)
    )


def rules_of(content):
    subject = Subject(content, deploy.model_info(content), "model")
    return phone.judge(subject, get("android-mediapipe")).findings


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_classifies_as_litert_does(converted_pictures, classified, pictures, dtype):
    artifact = converted_pictures(dtype)
    content = noted(artifact.content, std=255)
    assert not rules_of(content)
    scores, names, tops, head = classified(content)
    expected = deploy.predict(artifact, (pictures / 255).astype("float32"))
    # Both are XNNPACK, of other releases. In float32 a score is a sum of some 500 products of
    # sums of 27, each within 2^-24 of its value; as integers, a half may be rounded either way.
    step = 600 * 2.0**-24 if dtype == "float32" else artifact.outputs[0].scale
    np.testing.assert_allclose(scores, expected, rtol=0, atol=step * (1 + 2.0**-20))
    first, second = -np.partition(-expected, 1, axis=1)[:, :2].T
    clear = first - second > 2 * step
    assert clear.sum() > 40
    np.testing.assert_array_equal(np.array(tops)[clear], expected.argmax(1)[clear])
    assert tuple(names) == LABELS
    assert head == read_metadata(content).outputs[0].name


def test_mean_and_std_reach_the_model(converted_pictures, classified, pictures):
    artifact = converted_pictures("float32")
    scores, *_ = classified(noted(artifact.content, mean=127.5, std=127.5))
    expected = deploy.predict(artifact, (pictures.astype("float32") - 127.5) / 127.5)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=600 * 2.0**-24)


def test_what_the_rules_refuse_mediapipe_refuses(converted_pictures, classified):
    plain = converted_pictures("float32").content
    int8 = noted(converted_pictures("int8").content, std=255)
    for content, rule, message in (
        (plain, "metadata-normalization", "NormalizationOptions"),
        (noted(plain, std=(255, 254, 255)), "metadata-per-channel", "Per-channel"),
        (int8, None, "UINT8|uint8"),
    ):
        if rule:
            assert rule in {found.rule for found in rules_of(content) if found.severity == ERROR}
        else:
            # The type is held against the device's, for every device alike.
            assert (
                converted_pictures("int8").inputs[0].dtype
                not in get("android-mediapipe").input_dtypes.value
            )
        with pytest.raises(RuntimeError, match=message):
            classified(content)
