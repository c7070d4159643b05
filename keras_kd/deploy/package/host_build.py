"""Compiles a firmware folder on this computer against TFLite Micro's sources, and runs it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

BUILD_TIMEOUT_S = 1800.0
RUN_TIMEOUT_S = 300.0
LIBRARY = "libtensorflow-microlite.a"


@dataclasses.dataclass(frozen=True)
class HostRun:
    """What the program that runs the samples did.

    Attributes:
        passed: Whether every output was the expected one.
        output: What it printed.
        build_seconds: How long the compiler took.
    """

    passed: bool
    output: str
    build_seconds: float


def built_and_run(
    folder: str | os.PathLike,
    name: str,
    tflm: str | os.PathLike,
    *,
    build: str | os.PathLike | None = None,
    library: str | os.PathLike | None = None,
) -> HostRun:
    """Builds with CMake and runs the samples. About a minute, unless `library` is given.

    Args:
        folder: A firmware folder.
        name: The model's name in it.
        tflm: TFLite Micro's sources, as the folder's CMakeLists.txt takes them.
        build: Where to; it stays. None takes a folder that is removed.
        library: TFLite Micro's library of an earlier build.

    Raises:
        RuntimeError: CMake or the compiler is not installed, fails or takes too long; with the end
            of what it said.
    """
    if build is None:
        with tempfile.TemporaryDirectory() as temporary:
            return built_and_run(folder, name, tflm, build=temporary, library=library)
    start = time.monotonic()
    configure = [
        "cmake",
        "-S",
        str(folder),
        "-B",
        str(build),
        f"-DTFLM_PATH={Path(tflm).resolve()}",
    ]
    if library is not None:
        configure.append(f"-DTFLM_LIBRARY={Path(library).resolve()}")
    _done(configure, BUILD_TIMEOUT_S)
    # Make takes "--parallel" without a number for all at once, each with 300 MB of memory.
    jobs = str(os.cpu_count() or 1)
    _done(["cmake", "--build", str(build), "--parallel", jobs], BUILD_TIMEOUT_S)
    seconds = time.monotonic() - start
    try:
        ran = subprocess.run(
            [Path(build) / f"{name}_run_samples"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as err:
        raise RuntimeError(
            f"Expected the samples to run within {RUN_TIMEOUT_S:g} s on this computer."
        ) from err
    return HostRun(ran.returncode == 0, ran.stdout, seconds)


def _done(command: Sequence[str], timeout_s: float) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as err:
        raise RuntimeError(
            f"Expected {command[0]} on the PATH, to compile the firmware with. Received: none. "
            "Hint: install cmake and a C++ compiler, or leave --tflm out."
        ) from err
    except subprocess.TimeoutExpired as err:
        raise RuntimeError(f"Expected {command[0]} to end within {timeout_s:g} s.") from err
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-25:]
        raise RuntimeError(
            f"Expected `{' '.join(command)}` to succeed. It said:\n" + "\n".join(said)
        )
