"""How the examples are asked and what they say, and that each of them is asked in the same way."""

import argparse
import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from keras_kd.report import Facts, Report
from tests.examples.folder import EXAMPLES, imported

SHARED = {"experiment", "presentation"}
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in SHARED)
COMMAND = re.compile(r"^    python examples/(\w+)\.py((?:.*\\\n)*.*)$", re.MULTILINE)


def commands():
    """What the docstrings and the result pages say to type: example and arguments."""
    for path in [*EXAMPLES.glob("*.py"), *(EXAMPLES / "results").glob("*.md")]:
        for name, arguments in COMMAND.findall(path.read_text()):
            yield path.name, name, shlex.split(arguments.replace("\\\n", " "))


@pytest.fixture
def parser(example):
    parser = example.command_line("/somewhere/example.py", "What it does.\n\nMore.", output="out")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--candidate", default="first")
    parser.add_argument("--batch-size", type=int, default=8)
    return parser


def test_command_has_what_was_asked_for_and_no_folder_of_ones_own(example, parser):
    def command(*arguments):
        return example.command(parser, parser.parse_args(arguments))

    assert command() == "python examples/example.py"
    assert command("--seeds", "1", "--output", "/a/b", "--data-dir", "c", "--result", "d.md") == (
        "python examples/example.py"
    )
    assert command("--fast", "--seeds", "3", "--candidate", "a, b", "--batch-size", "4") == (
        "python examples/example.py --seeds 3 --fast --candidate 'a, b' --batch-size 4"
    )
    assert command("--teacher", "/home/me/t.tflite").endswith(" --teacher t.tflite")


@pytest.mark.parametrize("seeds", ["0", "-1", "two"])
def test_bad_number_of_seeds_is_bad_usage(parser, capsys, seeds):
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--seeds", seeds])
    assert "argument --seeds: " in capsys.readouterr().err


def test_absent_file_is_bad_usage(example, tmp_path):
    (tmp_path / "there").touch()
    assert example.file_that_is_there(str(tmp_path / "there")) == tmp_path / "there"
    with pytest.raises(argparse.ArgumentTypeError, match=r"received .*absent, which is not there"):
        example.file_that_is_there(str(tmp_path / "absent"))


def test_differences_are_in_points_with_the_error_over_the_seeds(example):
    one = example.mean_difference([0.012])
    assert example.in_words(one, "1 seeds") == "+1.20 points (one seed)"
    # A standard deviation of sqrt(2) points over sqrt(2) seeds; a loss is shown as one.
    two = example.mean_difference([-0.02, -0.04])
    assert (two.value, two.spread) == (pytest.approx(-0.03), pytest.approx(0.01))
    assert example.in_words(two, "2 seeds") == (
        "-3.00 ± 1.00 points (standard error over 2 seeds, paired)"
    )
    assert example.deviation([0.5]) is None
    assert example.deviation([0.5, 0.7]) == pytest.approx(0.02**0.5)


def test_settings_are_facts_after_the_seeds(example):
    @dataclasses.dataclass
    class Settings:
        batch_size: int = 8

    (facts,) = example.settings_section(Settings(), range(2), {"weights": "9"}).blocks
    assert facts == Facts((("Seeds", "0, 1"), ("weights", "9"), ("batch size", "8")))
    (facts,) = example.settings_section(Settings()).blocks
    assert facts == Facts((("batch size", "8"),))


@pytest.mark.parametrize("asked", [True, False])
def test_report_names_command_machine_and_versions(example, parser, tmp_path, capsys, asked):
    page = tmp_path / "page.md"
    arguments = ["--seeds", "3", *(["--result", str(page)] if asked else [])]
    args = parser.parse_args(arguments)
    example.publish(Report("Title", "It works.", data={"seeds": [1]}), tmp_path, parser, args)
    names = {"report.json", "report.html", *(["page.md"] if asked else [])}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert json.loads((tmp_path / "report.json").read_text())["data"] == {"seeds": [1]}
    out = capsys.readouterr().out
    assert f"Command   {example.command(parser, args)}\n" in out
    assert re.search(r"\nMachine   \d+ \S+ cores\n", out)
    if asked:
        text = page.read_text()
        assert text.startswith("# Title\n\nIt works.\n\n## How it was run\n\n")
        assert "\n- Command: python examples/example.py --seeds 3\n" in text
        assert re.search(r"- Versions: Python 3\S+, TensorFlow 2\S+, Keras 3\S+\n", text)


def test_every_example_says_how_it_is_run():
    assert {name for file, name, _ in commands() if file == f"{name}.py"} == set(NAMES)


@pytest.mark.parametrize(("file", "name", "arguments"), list(commands()))
def test_a_documented_command_runs_and_its_page_names_it(
    file, name, arguments, tmp_path, monkeypatch
):
    module, calls = imported(name), []
    monkeypatch.chdir(tmp_path)
    for word in arguments:
        if word.endswith((".tflite", ".gz")):
            Path(word).touch()
    monkeypatch.setattr(module.experiment, "load", lambda *args, **options: args)
    monkeypatch.setattr(module, "load", lambda *args: args[:1] * 2, raising=False)

    def run(*args, **options):
        calls.append((args, options))
        folder = next(arg for arg in args if isinstance(arg, Path) and not arg.suffix)
        folder.mkdir(parents=True, exist_ok=True)
        return Report("Title", "It works.")

    monkeypatch.setattr(module, "run", run)
    module.main([*arguments, "--result", "page.md"])
    command = re.search(r"- Command: (.*)", Path("page.md").read_text())[1]
    assert command.startswith(f"python examples/{name}.py")
    module.main(shlex.split(command)[2:])
    assert calls[0] == calls[1]
