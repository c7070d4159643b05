"""Descriptions: what they refuse, how they read and write, how they are found by name."""

import dataclasses
import json

import pytest

from keras_kd.deploy import devices
from keras_kd.deploy.devices import Device, Fact

BOARD = Device(
    "own-board",
    "My own board, ä",
    "tflm",
    processor=Fact("Cortex-M4F", "data sheet, section 3"),
    clock_hz=Fact(64_000_000, "data sheet, section 3"),
    flash_bytes=Fact(1 << 20, "data sheet, section 4", "flashed"),
    ram_bytes=Fact(1 << 18, "data sheet, section 4"),
    input_dtypes=Fact(("int8", "float32"), "the firmware"),
    options={"accelerator_config": Fact("ethos-u55-128", "vela --help")},
)


def test_json_there_and_back(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(BOARD.to_json(), encoding="utf-8")
    assert devices.load(path) == BOARD
    assert devices.get(path) == devices.get(str(path)) == BOARD
    plain = json.loads(BOARD.to_json())
    assert plain["ram_bytes"] == {
        "value": 262144,
        "source": "data sheet, section 4",
        "verified": "",
    }
    assert plain["input_dtypes"]["value"] == ["int8", "float32"]
    assert "output_dtypes" not in plain


def test_facts_by_their_names():
    assert list(BOARD.facts) == [
        "processor", "clock_hz", "flash_bytes", "ram_bytes", "input_dtypes", "accelerator_config",
    ]  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        BOARD.name = "other"


@pytest.mark.parametrize("source", ["", "  ", None, 3])
def test_a_fact_without_a_source(source):
    with pytest.raises(ValueError, match="Expected the source of every fact"):
        Fact(3, source)


@pytest.mark.parametrize("value", [None, {"a": 1}, [1], (None,), ((1,),)])
def test_a_fact_of_another_type(value):
    with pytest.raises(ValueError, match="Expected a number, a text, or a tuple of them"):
        Fact(value, "somewhere")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"runtime": "tflite"}, "Expected a runtime of tflm, ethos_u, edgetpu"),
        ({"name": "two words"}, "Expected the name of a device. Received: 'two words'"),
        ({"title": " "}, "Expected the title of a device"),
        ({"ram_bytes": Fact(-1, "x")}, "Expected ram_bytes .* whole number of bytes"),
        ({"ram_bytes": Fact(True, "x")}, "Expected ram_bytes .* Received: True"),
        ({"flash_bytes": Fact("1 MB", "x")}, "Expected flash_bytes .* Received: '1 MB'"),
        ({"clock_hz": Fact(0, "x")}, "Expected clock_hz .* above 0. Received: 0"),
        ({"clock_hz": Fact("64 MHz", "x")}, "Expected clock_hz"),
        ({"input_dtypes": Fact("int8", "x")}, "Expected input_dtypes .* Received: 'int8'"),
        ({"output_dtypes": Fact((), "x")}, "Expected output_dtypes"),
        ({"output_dtypes": Fact(("int9",), "x")}, "Expected output_dtypes .* as some of float32"),
    ],
)
def test_what_a_device_refuses(changed, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BOARD, **changed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expected a device as a JSON object. Received: JSON, Expecting value"),
        ("[" * 100_000, "Expected a device as a JSON object"),
        ("[1]", "Received: JSON, a list"),
        ('{"name": "a", "title": "b", "runtime": "tflm", "ram": 3}', "'ram'. Hint: 'name'|'ram'"),
        ('{"name": "a", "title": "b"}', "Expected runtime as text. Received: JSON, which has name"),
        ('{"name": "a", "title": "b", "runtime": "x"}', "Expected a runtime of"),
        ('{"name": "a", "title": "b", "runtime": "tflm", "options": 3}', "object of facts"),
        (
            '{"name": "a", "title": "b", "runtime": "tflm", "ram_bytes": 3}',
            "Expected 'ram_bytes' of JSON as an object of value, source",
        ),
        (
            '{"name": "a", "title": "b", "runtime": "tflm", "ram_bytes": {"value": 3}}',
            "'ram_bytes' of JSON: Expected the source of every fact",
        ),
        (
            '{"name": "a", "title": "b", "runtime": "tflm", '
            '"ram_bytes": {"value": 3, "source": "x", "verified": 1}}',
            "'ram_bytes' of JSON: Expected 'verified' as text",
        ),
    ],
)
def test_documents_that_describe_no_device(text, message):
    with pytest.raises(ValueError, match=message):
        devices.from_json(text)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"Expected a device as JSON in UTF-8.*bad\.json"):
        devices.get(path)
    with pytest.raises(FileNotFoundError):
        devices.get(tmp_path / "missing.json")


def test_names_that_a_family_parses(monkeypatch):
    class Family:
        DEVICES = ()

        @staticmethod
        def parse(name):
            if not name.startswith("own:"):
                return None
            return dataclasses.replace(BOARD, name=name)

    monkeypatch.setattr(devices, "_FAMILIES", (Family, *devices._FAMILIES))
    assert devices.get("own:flash=1M,ram=256K").name == "own:flash=1M,ram=256K"
    with pytest.raises(ValueError, match=r"Expected a device of .* Received: 'other'"):
        devices.get("other")


def test_an_unknown_name(monkeypatch):
    monkeypatch.setattr(devices, "_DEVICES", {"own-board": BOARD})
    assert devices.get("own-board") is BOARD
    assert devices.available() == (BOARD,)
    with pytest.raises(ValueError, match=r"Received: 'own-bord'. Hint: 'own-board'\."):
        devices.get("own-bord")
    with pytest.raises(ValueError, match="Hint: `keras-kd devices` lists them"):
        devices.get("x")


def test_two_devices_of_one_name(monkeypatch):
    class Family:
        DEVICES = (BOARD, BOARD)

    monkeypatch.setattr(devices, "_FAMILIES", (Family,))
    with pytest.raises(ValueError, match="Received: two 'own-board'"):
        devices._named()


def test_every_device_reads_back():
    for device in devices.available():
        assert devices.from_json(device.to_json()) == device
