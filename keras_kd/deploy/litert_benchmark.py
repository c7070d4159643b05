"""The latency that LiteRT's own benchmark measures, in a process of its own.

`litert-benchmark` comes with ai-edge-litert and runs a model through CompiledModel, as an Android
application does, on random inputs. Its numbers are this computer's, and no phone's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import Artifact

COMMAND = "litert-benchmark"
# The tool rounds to hundredths of a millisecond.
RESOLUTION_MS = 0.01
# Lines of the tool's log that a failure shows.
_SHOWN_LINES = 5
_LATENCIES = {
    "init_ms": "init_ms",
    "first_ms": "warmup_first_ms",
    "warmup_ms": "warmup_avg_ms",
    "mean_ms": "avg_ms",
    "min_ms": "min_ms",
    "max_ms": "max_ms",
    "median_ms": "median_ms",
    "standard_deviation_ms": "std_ms",
    "p95_ms": "p95_ms",
}


@dataclasses.dataclass(frozen=True)
class LiteRTBenchmark:
    """What `litert-benchmark` measured on this computer, in milliseconds, rounded to hundredths.

    Attributes:
        init_ms: From the file to a model that can run.
        first_ms: The first run.
        warmup_ms: Mean of the runs before those that count, the first among them.
        mean_ms: Mean of the runs that count; the following are of those too.
        min_ms: The fastest.
        max_ms: The slowest.
        median_ms: The one in the middle.
        standard_deviation_ms: Their spread; 0 for a single run.
        p95_ms: 95 % were at most this slow.
        runs: How many counted.
        warmup_runs: How many went before.
        num_threads: CPU threads.
        accelerators: "CPU", "GPU": what the model was compiled for.
    """

    init_ms: float
    first_ms: float
    warmup_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    median_ms: float
    standard_deviation_ms: float
    p95_ms: float
    runs: int
    warmup_runs: int
    num_threads: int
    accelerators: tuple[str, ...]


def litert_benchmark(
    model: Artifact | bytes | str | os.PathLike,
    *,
    runs: int = 50,
    warmup_runs: int = 5,
    num_threads: int = 1,
    timeout_s: float = 300.0,
) -> LiteRTBenchmark:
    """Runs `litert-benchmark` on a model and reads what it measured.

    Args:
        model: An `Artifact`, the bytes of a `.tflite`, or its path.
        runs: How many runs count, at least 1.
        warmup_runs: How many go before, at least 1.
        num_threads: CPU threads.
        timeout_s: Seconds that all of it may take.

    Returns:
        A `LiteRTBenchmark`.

    Raises:
        FileNotFoundError: The tool is not installed.
        ValueError: No TFLite flatbuffer, or numbers out of range.
        RuntimeError: LiteRT refuses the model, or takes longer than that; the message has what it
            wrote.

    Example:
        >>> litert_benchmark("student.tflite", runs=200).median_ms
        0.07
    """
    for name, value in (("runs", runs), ("warmup_runs", warmup_runs), ("num_threads", num_threads)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected {name} to be an int of at least 1. Received: {value!r}.")
    if not timeout_s > 0:
        raise ValueError(f"Expected timeout_s > 0 seconds. Received: {timeout_s}.")
    info = inspect.model_info(model.content if isinstance(model, Artifact) else model)
    program = _program()
    with tempfile.TemporaryDirectory(prefix="keras_kd_benchmark_") as folder:
        path, result = Path(folder, "model.tflite"), Path(folder, "result.json")
        path.write_bytes(info.content)
        options = {
            "model": path,
            "num_runs": runs,
            "warmup_runs": warmup_runs,
            "num_threads": num_threads,
            "result_json": result,
        }
        log = _run([program, *(f"--{key}={value}" for key, value in options.items())], timeout_s)
        if not result.exists():
            raise RuntimeError(
                f"Expected {COMMAND} to run the model. Received: {_last_lines(log)}. "
                "Hint: keras_kd.deploy.check(model, 'android-cpu') names what LiteRT cannot run."
            )
        return _parsed(result.read_text(encoding="utf-8"))


def _program() -> str:
    """The tool of this Python's environment, or of the PATH."""
    beside = os.path.dirname(sys.executable)
    found = shutil.which(COMMAND, path=os.pathsep.join((beside, os.environ.get("PATH", ""))))
    if found is None:
        raise FileNotFoundError(
            f"Expected {COMMAND} beside {sys.executable} or on the PATH. Received: none. "
            "Hint: pip install 'ai-edge-litert>=2.3'."
        )
    return found


def _run(command: list[str], timeout_s: float) -> str:
    """What it wrote, whether or not it went well: its exit code says less than its result."""
    try:
        ran = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise RuntimeError(
            f"Expected {COMMAND} to end within {timeout_s:g} s. Received: it still ran. "
            "Hint: fewer runs, or a larger timeout_s."
        ) from err
    log = ran.stdout.decode(errors="replace")
    return f"{log}\nkilled by signal {-ran.returncode}" if ran.returncode < 0 else log


def _last_lines(log: str) -> str:
    told = [line.strip() for line in log.splitlines() if line.strip()]
    lines = [line for line in told if not line.startswith("INFO")] or told
    return " | ".join(lines[-_SHOWN_LINES:]) or "nothing"


def _parsed(text: str) -> LiteRTBenchmark:
    try:
        result: dict[str, Any] = json.loads(text)
        latency = result["latency"]
        return LiteRTBenchmark(
            **{ours: float(latency[theirs]) for ours, theirs in _LATENCIES.items()},
            runs=int(latency["num_runs"]),
            warmup_runs=int(latency["num_warmup_runs"]),
            num_threads=int(result["num_threads"]),
            accelerators=tuple(result["accelerators"]),
        )
    except (ValueError, KeyError, TypeError) as err:
        raise RuntimeError(
            f"Expected the result of {COMMAND} as ai-edge-litert 2.3 writes it. "
            f"Received: {text[:200]!r} ({type(err).__name__}: {err})."
        ) from err
