"""Runs TensorFlow's converter in a process of its own, and tells how it failed when it does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_kd.deploy.stderr_capture import CHATTER

WORKER = Path(__file__).with_name("_convert_worker.py")
SHOWN_LINES = 12


class ConversionError(RuntimeError):
    """The converter failed, was killed, or gave a model that a device would not run."""


def run_converter(
    folder: Path,
    saved_model: Path,
    examples: dict[str, np.ndarray],
    *,
    timeout_s: float,
    **options: Any,
) -> bytes:
    """Converts a SavedModel in a child process.

    Args:
        folder: A folder for the request, the examples, the log and the result.
        saved_model: The SavedModel's folder.
        examples: Calibration for each signature input; empty for none.
        timeout_s: Seconds after which the child is killed.
        **options: quantization, input_dtype, output_dtype, per_channel_dense: see the worker.

    Returns:
        The flatbuffer.

    Raises:
        ConversionError: The child failed, was ended by a signal, or took too long.
    """
    from keras_kd.deploy.saved_model import SIGNATURE

    calibration = {}
    for number, (name, array) in enumerate(examples.items()):
        calibration[name] = str(folder / f"calibration_{number}.npy")
        np.save(calibration[name], array)
    request = {
        "saved_model": str(saved_model),
        "signature": SIGNATURE,
        "calibration": calibration or None,
        "output": str(folder / "converted.tflite"),
        **options,
    }
    request_path, log_path = folder / "request.json", folder / "log.txt"
    request_path.write_text(json.dumps(request), encoding="utf-8")
    try:
        code = _exit_code([str(WORKER), str(request_path)], folder, log_path, timeout_s)
    except subprocess.TimeoutExpired as err:
        raise ConversionError(
            f"Expected the conversion to end within timeout_s={timeout_s:g} seconds. It did not "
            f"and was stopped.{_shown(_lines(log_path))}\nHint: raise timeout_s, or calibrate with "
            "fewer examples."
        ) from err
    if code != 0:
        raise ConversionError(_failure(code, options["quantization"], _lines(log_path)))
    return Path(request["output"]).read_bytes()


def _exit_code(arguments: list[str], folder: Path, log_path: Path, timeout_s: float) -> int:
    # The child finds TensorFlow where this process does, and needs neither a GPU nor any Keras.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_USE_LEGACY_KERAS": "0",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    }
    # -P keeps the worker's own folder, where `inspect.py` lies, off its path; faulthandler says
    # where in Python a crash happened.
    command = [sys.executable, "-P", "-X", "faulthandler", "-W", "ignore", *arguments]
    # To a file and not to a pipe: it holds any amount, and what was written before a kill.
    with open(log_path, "wb") as log:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        ).returncode


def refusal_of_ops(ops: Iterable[str]) -> str:
    """The error for ops that no device's runtime has."""
    return (
        "Expected a model of TFLite's builtin ops, which devices have. Received: one that needs "
        f"{', '.join(ops)} (Flex and custom ops). Hint: replace the layers that use them."
    )


def _failure(code: int, quantization: str, lines: list[str]) -> str:
    if code < 0:
        return (
            f"TensorFlow's converter was ended by {_signal_name(-code)} ({quantization})."
            f"{_shown(lines)}\nHint: {_crash_hint(-code, quantization)}"
        )
    foreign = _foreign_ops(lines)
    if foreign:
        return refusal_of_ops(foreign)
    return (
        f"TensorFlow's converter failed ({quantization}).{_shown(_after_traceback(lines))}"
        "\nHint: the message names the op or the layer that the converter could not take."
    )


def _crash_hint(number: int, quantization: str) -> str:
    if number == signal.SIGKILL:
        return "SIGKILL comes from outside: out of memory? Fewer calibration examples take less."
    if quantization in ("int8", "int16x8"):
        return "a loop crashes it in an integer scheme: replace a while_loop or scan of your own."
    return "the lines above say where it was."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _foreign_ops(lines: list[str]) -> list[str]:
    """Every op that is none of TFLite's: each has an error line, and a place in a summary."""
    ops: set[str] = set()
    for line in lines:
        ops.update(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", line))
        summary = re.match(r"(?:TF Select|Flex|Custom) ops: (.*)", line)
        if summary:
            ops.update(op.strip() for op in summary.group(1).split(","))
    return sorted(ops)


def _after_traceback(lines: list[str]) -> list[str]:
    """The exception's own message, without the stack of TensorFlow's frames above it."""
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    if not frames:
        return lines
    message = frames[-1] + 1
    while message < len(lines) and lines[message].startswith(" "):
        message += 1
    return lines[message : message + SHOWN_LINES] or lines


def _lines(log_path: Path) -> list[str]:
    text = log_path.read_text(encoding="utf-8", errors="replace")
    return [
        line
        for line in text.splitlines()
        # The last is faulthandler's, pages of module names.
        if line.strip() and not CHATTER.match(line) and not line.startswith("Extension modules:")
    ]


def _shown(lines: list[str]) -> str:
    if not lines:
        return " It wrote nothing."
    return "".join(f"\n  | {line[:300]}" for line in lines[-SHOWN_LINES:])
