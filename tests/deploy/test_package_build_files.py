"""The files for PlatformIO and Arduino, held against the rules of their formats."""

import configparser
import json
import re
import shutil
import subprocess

import pytest

from keras_kd.deploy import devices
from keras_kd.deploy.artifact import Artifact, interface
from keras_kd.deploy.inspect import model_info
from keras_kd.deploy.package.firmware import firmware

BOARDS = ("nano33ble", "esp32s3", "stm32f746", "rp2040")


@pytest.fixture(scope="module")
def files(by_hand):
    """A function from a board to the firmware's files, whose label no format takes as it is."""
    content = by_hand.chain(["RELU"])
    artifact = Artifact(content, "int8", *interface(model_info(content)))
    return lambda board: firmware(artifact, devices.get(board), label="größe 2: a/b").files()


@pytest.mark.parametrize("board", BOARDS)
def test_an_arduino_library(files, board):
    made = files(board)
    lines = made["library.properties"].decode().splitlines()
    values = dict(line.split("=", 1) for line in lines)
    # arduino/arduino-lint @ f8104a9, etc/schemas/arduino-library-properties-definitions-schema.json
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,62}", values["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", values["version"])
    assert values["category"] == "Data Processing"
    for key in ("author", "maintainer", "sentence", "paragraph", "architectures"):
        assert values[key]
    assert values["url"].startswith("https://")
    assert f"src/{values['includes']}" in made
    # Arduino's sketch specification: a sketch has the name of its folder.
    (sketch,) = [path for path in made if path.endswith(".ino")]
    assert re.fullmatch(r"examples/([a-zA-Z0-9_]+)/\1\.ino", sketch)
    # Its library specification: with a folder src, no source is compiled beside it.
    assert not [path for path in made if re.fullmatch(r"[^/]*\.(c|cc|cpp|h)", path)]


@pytest.mark.parametrize("board", BOARDS)
def test_a_platformio_project(files, board, tmp_path):
    made = files(board)
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read_string(made["platformio.ini"].decode())
    (environment,) = [name for name in parsed.sections() if name.startswith("env:")]
    assert re.fullmatch(r"env:[a-zA-Z0-9_\-]+", environment)
    assert {"platform", "board", "framework"} <= set(parsed[environment])
    library = json.loads(made["lib/tflite-micro/library.json"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", library["version"])
    for include in re.findall(r"-I ?(\S+)", parsed[environment]["build_flags"]):
        assert include == "src" or include.startswith("lib/tflite-micro")


@pytest.mark.skipif(shutil.which("pio") is None, reason="needs PlatformIO, which is not installed")
def test_platformio_itself_takes_the_project(files, tmp_path):
    (tmp_path / "platformio.ini").write_bytes(files("nano33ble")["platformio.ini"])
    command = ["pio", "project", "config", "--lint", "--project-dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "free from linting errors" in done.stdout
