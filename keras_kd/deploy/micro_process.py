"""Tries a model in TFLite Micro in a process of its own, and tells how it failed when it does.

TFLM is built for models that its owner has tested: over others it may end its process (SIGSEGV,
SIGABRT, SIGFPE), which no `except` survives. A model that has run here once, runs in
`Interpreter(model, "tflm")`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from keras_kd.deploy import inspect
from keras_kd.deploy.runtimes import LARGEST_ARENA_BYTES, SPARE_ARENA_BYTES

WORKER = Path(__file__).with_name("_micro_worker.py")
TIMEOUT_S = 120.0
SHOWN_CHARACTERS = 600


@dataclasses.dataclass(frozen=True)
class Trial:
    """How a model fared in TFLite Micro.

    Attributes:
        arena_bytes: What it took of the arena, as TFLM measured it; None where it did not run.
        ended_by: "" where it ran, "refusal" where TFLM said no, "crash" where the process was ended
            by a signal, "timeout" where it was stopped.
        said: What TFLM wrote, in one line; for a crash, the signal's name before it.
    """

    arena_bytes: int | None
    ended_by: str = ""
    said: str = ""


def is_installed() -> bool:
    """Whether the package tflite-micro is there; it is not imported."""
    return importlib.util.find_spec("tflite_micro") is not None


def version() -> str:
    """The installed version of tflite-micro."""
    return importlib.metadata.version("tflite-micro")


@functools.lru_cache(maxsize=16)
def trial(content: bytes, timeout_s: float = TIMEOUT_S) -> Trial:
    """Allocates a model in TFLM and runs it once on zeros, in a child process.

    The result is kept for the last few models: every board asks the same of one.

    Args:
        content: The flatbuffer.
        timeout_s: Seconds after which the child is stopped.

    Returns:
        A `Trial`; a model that does not run is no error.

    Raises:
        ImportError: tflite-micro is not installed.
        ValueError: No TFLite flatbuffer, or a damaged one.
    """
    if not is_installed():
        raise ImportError(
            "Expected the package tflite-micro. It is not installed. "
            "Hint: pip install keras_kd[mcu]"
        )
    info = inspect.model_info(content)
    # As in `Interpreter`: far too large, since TFLM may crash in one that is slightly too small.
    tensor_bytes = sum(8 * math.prod(tensor.shape) for tensor in info.tensors)
    size = min(SPARE_ARENA_BYTES + 4 * tensor_bytes, LARGEST_ARENA_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        # -P keeps the worker's own folder, where `inspect.py` lies, off its path.
        command = [sys.executable, "-P", "-W", "ignore", str(WORKER), str(path)]
        command += [str(len(info.inputs)), str(size), str(LARGEST_ARENA_BYTES)]
        try:
            done = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Trial(None, "timeout", f"no end after {timeout_s:g} seconds")
    return _read(done.returncode, *(_text(output) for output in (done.stdout, done.stderr)))


def _read(code: int, progress: str, said: str) -> Trial:
    # Every attempt in a larger arena says the same again.
    said = said.rsplit("attempt\n", 1)[-1]
    total = re.search(r"Arena allocation total (\d+) bytes", said)
    if code == 0 and total is not None and progress.split() == ["allocated", "ran"]:
        return Trial(int(total.group(1)))
    if code < 0:
        where = "when it ran" if "allocated" in progress else "when it was loaded"
        return Trial(None, "crash", f"{_signal_name(-code)} {where}. {_line(said)}".strip())
    return Trial(None, "refusal", _line(said))


def _line(said: str) -> str:
    """What TFLM wrote, without Python's traceback around it and without the builder's paths."""
    lines = [
        line.strip() for line in said.split("Traceback (most recent call last)")[0].splitlines()
    ]
    lines += re.findall(r"^RuntimeError: (.*)", said, re.MULTILINE)[-1:]
    return "; ".join(re.sub(r"\S*/(?=\w+\.(cc|h)\b)", "", line) for line in lines if line)[
        :SHOWN_CHARACTERS
    ]


def _text(output: bytes) -> str:
    return output.decode("utf-8", errors="replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
