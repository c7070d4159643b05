"""`keras-kd devices`: the list, one with its sources, and a file to start from."""

import pytest

from keras_kd import cli
from keras_kd.deploy import devices
from keras_kd.deploy.devices import Device, Fact

BOARD = Device(
    "board",
    "My board",
    "tflm",
    clock_hz=Fact(64_000_000, "its manual"),
    flash_bytes=Fact(1 << 20, "its manual, section 2", "flashed"),
    ram_bytes=Fact(1 << 18, "its manual, section 3"),
    options={"accelerator_config": Fact("ethos-u55-128", "vela --help")},
)
PHONE = Device("phone", "A phone", "litert")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `keras-kd devices` with two devices known: (exit code, stdout, stderr)."""
    monkeypatch.setattr(devices, "_DEVICES", {"board": BOARD, "phone": PHONE})

    def run(*arguments):
        code = cli.main(["devices", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_all_of_them(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["board", "My", "board", "tflm", "1,024", "256"] in rows
    assert ["phone", "A", "phone", "litert", "\N{EN DASH}", "\N{EN DASH}"] in rows
    assert "2 devices; `keras-kd devices NAME` shows one" in out


def test_one_with_the_source_of_every_fact(run):
    code, out, err = run("board")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "My board"
    lines = " ".join(out.split())
    assert "clock_hz 64,000,000 (source: its manual; not verified on the device)" in lines
    assert "flash_bytes 1,048,576 (source: its manual, section 2; flashed)" in lines
    assert "accelerator_config ethos-u55-128 (source: vela --help; not verified" in lines


def test_json_is_a_file_that_reads_back(run, tmp_path):
    code, out, err = run("board", "--json")
    assert (code, err) == (0, "")
    (tmp_path / "mine.json").write_text(out)
    assert devices.get(tmp_path / "mine.json") == BOARD
    code, again, _ = run(tmp_path / "mine.json", "--json")
    assert (code, again) == (0, out)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["bord"], "Received: 'bord'. Hint: 'board'."),
        (["no.json"], "No such file"),
        (["--json"], "--json needs a NAME"),
        (["board", "phone"], "unrecognized arguments"),
    ],
)
def test_bad_usage_is_exit_code_2(run, arguments, reason):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert reason in " ".join(err.split())


def test_an_interruption_is_130(run, monkeypatch):
    def available():
        raise KeyboardInterrupt

    monkeypatch.setattr(devices, "available", available)
    assert run() == (130, "", "keras-kd devices: interrupted\n")
