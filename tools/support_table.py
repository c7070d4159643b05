"""Which students convert in which scheme: converts and runs them all, and prints a Markdown table.

Each kind of student is a small model of random weights. It is converted, run on LiteRT and, where
that takes it, on TFLite Micro, and compared with Keras.

Example:
    python tools/support_table.py --only LSTM GRU
    python tools/support_table.py --write README.md
    python tools/support_table.py --check README.md
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
from support_architectures import ARCHITECTURES, EXAMPLES, Architecture

from keras_kd import deploy
from keras_kd.deploy.artifact import write_atomically

BEGIN = "<!-- support table: python tools/support_table.py --write README.md -->"
END = "<!-- end of the support table -->"

# Headings, and what `convert` is given for them.
MODES: dict[str, dict[str, Any]] = {
    "float32": {"quantization": "float32"},
    "float16": {"quantization": "float16"},
    "dynamic range": {"quantization": "dynamic_range"},
    "int8": {"quantization": "int8"},
    "int8 per tensor": {"quantization": "int8", "per_channel_dense": False},
    "int16x8": {"quantization": "int16x8"},
}
MICRO = "µ"
# Kernels round differently; TFLite Micro was up to 8 steps off the others on whole models.
WRONG_STEPS = 10

LEGEND = f"""\
A number: it converts and runs on LiteRT, and this is the largest difference from Keras of all
outputs of {{examples}} examples, in steps of 1/255 of the outputs' range. {MICRO}: TFLite Micro
runs it too, and the number is the larger of both. The models are small and of random weights."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One conversion.

    Attributes:
        steps: The largest error, in 255ths of the outputs' range; None where it was refused.
        micro: Whether TFLite Micro runs it.
        word: Why not, in a word or two.
        reason: Why not, or what is wrong with it, in a sentence.
    """

    steps: float | None = None
    micro: bool = False
    word: str = ""
    reason: str = ""


def converted(architecture: Architecture, mode: str) -> Cell:
    """Converts an architecture in one mode, runs it, and compares it with Keras."""
    # The names that errors call layers by are then the same in each mode.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model = architecture.make()
    x = architecture.examples(np.random.default_rng(1))
    options = dict(MODES[mode])
    if options["quantization"] in ("int8", "int16x8"):
        options["calibration"] = x
        first = _flat(x)[0]
        if np.issubdtype(first.dtype, np.floating) and np.min(first) >= 0:
            options["input_range"] = (0, np.max(first))
    try:
        artifact = deploy.convert(model, **options)
    except (deploy.ConversionError, ValueError) as err:
        return refused(str(err))
    expected = model.predict(x, verbose=0)
    steps = steps_off(deploy.predict(artifact, x, "litert"), expected)
    try:
        micro_steps = steps_off(deploy.predict(artifact, x, "tflm"), expected)
    except (RuntimeError, ValueError):
        return Cell(steps=steps)
    if micro_steps > steps + WRONG_STEPS:
        return Cell(steps=steps, reason=f"{MICRO} runs it, and its outputs are wrong.")
    return Cell(steps=max(steps, micro_steps), micro=True)


def refused(message: str) -> Cell:
    """A cell for an error of `convert`."""
    layers = sorted(set(re.findall(r" from (\w+) '", message)))
    off = re.search(r"off by up to ([\d.]+%)", message)
    if "float tensors" in message:
        word = f"float, off by {off[1]}" if off else "float"
        which = ", ".join(layers) or "A part without a name"
        return Cell(
            word=word,
            reason=f"Float tensors are left at {which}; `allow_float` lets them pass, with an "
            "error of that share of the outputs' range.",
        )
    received = re.search(r"Received: (.*)", message, re.DOTALL)
    # Keras writes a call's arguments behind an error that came from inside one.
    plain = re.split(
        r"\s*(?:\x1b\[0m)?\s*Arguments received by", received[1] if received else message
    )[0]
    sentence = " ".join(plain.split())
    # Names that Keras numbers, and what the models here happen to be called.
    sentence = re.sub(r"'(\w+?)_\d+'", r"'\1'", sentence)
    return Cell(word="refused", reason=sentence.replace(" Hint: ", " Instead: "))


def steps_off(found: Any, expected: Any) -> float:
    """The largest error of all outputs, each in 255ths of its own range."""
    return max(
        float(np.abs(one - other).max() / np.ptp(other) * 255)
        for one, other in zip(_flat(found), _flat(expected), strict=True)
    )


def _flat(values: Any) -> list:
    return keras.tree.flatten(values)


def table(rows: dict[str, dict[str, Cell]], examples: int) -> str:
    """The Markdown of the whole section, without its marks."""
    reasons: list[str] = []
    lines = [f"| student | {' | '.join(MODES)} |", f"| --- |{' --- |' * len(MODES)}"]
    for name, cells in rows.items():
        lines.append(f"| {name} | {' | '.join(_shown(cells[mode], reasons) for mode in MODES)} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([LEGEND.format(examples=examples), "", *lines, "", *notes])


def _shown(cell: Cell, reasons: list[str]) -> str:
    shown = cell.word
    if cell.steps is not None:
        shown = f"{cell.steps:.1f}{' ' + MICRO if cell.micro else ''}"
    if not cell.reason:
        return shown
    if cell.reason not in reasons:
        reasons.append(cell.reason)
    return f"{shown} ({reasons.index(cell.reason) + 1})"


def with_section(page: str, section: str) -> str:
    """A page with the text between the marks replaced.

    Raises:
        ValueError: The marks are not there, each once and in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in after or END in after:
        raise ValueError(
            f"Expected a line '{BEGIN}', and behind it one '{END}'. Received: neither."
        )
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def same_but_for_numbers(one: str, other: str) -> bool:
    """Whether two pages say the same, whatever the errors: those differ from one CPU to another."""
    return re.sub(r"\d+\.\d+", "#", one) == re.sub(r"\d+\.\d+", "#", other)


def measured(architectures: Iterable[Architecture]) -> dict[str, dict[str, Cell]]:
    """Cells by architecture and mode."""
    rows = {}
    for architecture in architectures:
        print(architecture.name, file=sys.stderr, flush=True)
        rows[architecture.name] = {mode: converted(architecture, mode) for mode in MODES}
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints, writes or checks the table; 1 where the page says something else."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="WORD", help="students whose names have one")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--write", type=Path, metavar="PAGE", help="replace the table in this page")
    goal.add_argument("--check", type=Path, metavar="PAGE", help="exit 1 where it is another one")
    options = parser.parse_args(arguments)
    if options.only and (options.write or options.check):
        parser.error("--only prints a part, which is not the page's table")
    chosen = [
        architecture
        for architecture in ARCHITECTURES
        if not options.only or any(word in architecture.name for word in options.only)
    ]
    if not chosen:
        parser.error(f"no student has {', '.join(options.only)} in its name")
    page = options.write or options.check
    # Before minutes of conversions: a page without marks.
    text = page.read_text(encoding="utf-8") if page else ""
    if page:
        with_section(text, "")
    section = table(measured(chosen), EXAMPLES)
    if options.write:
        write_atomically(page, with_section(text, section).encode())
    elif options.check:
        if not same_but_for_numbers(with_section(text, section), text):
            print(f"{page} has another table. Hint: --write {page}", file=sys.stderr)
            return 1
    else:
        print(section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
