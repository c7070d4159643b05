"""How the examples are asked and what they say: options, results over seeds, reports."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_kd import report

ACCURACY = report.Column("Accuracy", "%", digits=2, scale=100)
DEVIATION = report.Column("Deviation over seeds", "%", digits=2, scale=100)
# Folders and files of one's own, which the command in a report leaves out.
PLACES = ("data_dir", "output", "result")


# The command line


def command_line(
    file: str, doc: str, *, output: str, data_dir: bool = True, seeds: bool = True
) -> argparse.ArgumentParser:
    """The options that the examples have in common.

    Args:
        file: The path of the example.
        doc: Its docstring, whose first line says what it does.
        output: The folder that is written unless another is given.
        data_dir: Whether tensorflow-datasets has its data.
        seeds: Whether it is repeated for each of a number of seeds.
    """
    parser = argparse.ArgumentParser(Path(file).name, description=doc.splitlines()[0])
    if data_dir:
        parser.add_argument("--data-dir", help="of tensorflow-datasets, which fills it")
    parser.add_argument(
        "--output", type=Path, default=Path(output), help="a folder; default: %(default)s"
    )
    parser.add_argument("--result", type=Path, help="where to write the report as Markdown")
    if seeds:
        parser.add_argument(
            "--seeds", type=at_least(1), default=1, help="students of each kind; default: 1"
        )
    parser.add_argument("--fast", action="store_true", help="as little as can be: to see it run")
    return parser


def at_least(smallest: int) -> Callable[[str], int]:
    """The type of an option: an integer that is not smaller."""

    def integer(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"expected at least {smallest}, received {value}")
        return value

    return integer


def file_that_is_there(text: str) -> Path:
    """The type of an option: the path of a file."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"expected a file, received {text}, which is not there")
    return path


def command(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """What one types for the same result: the options that are not as they are by default.

    Of files the name alone is given, and folders are left out: they are another's elsewhere.
    """
    words = ["python", f"examples/{parser.prog}"]
    for name, value in vars(args).items():
        if name in PLACES or value == parser.get_default(name):
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(value.name if isinstance(value, Path) else str(value))
    return shlex.join(words)


# Over the seeds


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation over the seeds; one seed has none."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def mean_difference(differences: Sequence[float]) -> report.Uncertain:
    """The mean of differences, one a seed, and its standard error, which one seed has not."""
    spread = deviation(differences)
    error = None if spread is None else spread / len(differences) ** 0.5
    return report.Uncertain(float(np.mean(differences)), error)


def in_words(difference: report.Uncertain, over: str) -> str:
    """A difference of two accuracies in points, and what its standard error is `over`."""
    points = f"{100 * difference.value:+.2f}"
    if difference.spread is None:
        return f"{points} points (one seed)"
    error = f"{100 * difference.spread:.2f}"
    return f"{points} ± {error} points (standard error over {over}, paired)"


# The report


def settings_section(
    settings: Any, seeds: Iterable[int] = (), facts: Mapping[str, str] | None = None
) -> report.Section:
    """The seeds, other facts, and the fields of the dataclass `settings`."""
    numbers = ", ".join(map(str, seeds))
    named = {"Seeds": numbers} if numbers else {}
    named |= facts or {}
    named |= {k.replace("_", " "): str(v) for k, v in dataclasses.asdict(settings).items()}
    return report.Section("Settings", (report.Facts(tuple(named.items())),))


def publish(
    found: report.Report, folder: Path, parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
    """Say by which command and on what machine a report was made; print and write it.

    `folder` gets report.json and report.html; a page of Markdown is written where the command line
    asks for it, and nowhere else.
    """
    how = {
        "Command": command(parser, args),
        "Machine": f"{os.cpu_count()} {platform.machine()} cores",
        "Versions": f"Python {platform.python_version()}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}",
    }
    section = report.Section("How it was run", (report.Facts(tuple(how.items())),))
    found = dataclasses.replace(found, sections=(*found.sections, section))
    found.write_json(folder / "report.json")
    found.write_html(folder / "report.html")
    if args.result is not None:
        found.write_markdown(args.result)
    print(f"\n{found.text()}\n{folder / 'report.html'}")
