"""The Edge TPU compiler, where a person has it, and what stands in the files that it wrote.

`edgetpu_compiler` is a closed binary for Linux on x86-64
(https://coral.ai/docs/edgetpu/compiler/): it is looked for on the PATH, run in a folder of its own,
and its log is read. A compiled file is an ordinary `.tflite` in which one custom op stands for all
that runs on the Edge TPU. The op's options hold a "DWN1" flatbuffer, whose schema is public:
google-coral/libedgetpu, executable/executable.fbs and tflite/custom_op_data.cc at e35aed1.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
from pathlib import Path

from keras_kd.deploy import inspect

EXECUTABLE = "edgetpu_compiler"
CUSTOM_OP = "edgetpu-custom-op"
MAPPED = "Mapped to Edge TPU"
# It gives itself 180 s for a model ("Started a compilation timeout timer of 180 seconds").
TIMEOUT_S = 240

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(
    r"(On|Off)-chip memory (used|remaining) for (\w+)[^:]*:\s*([\d.]+)\s*([KMG]?i?B)"
)
_COUNT = re.compile(r"^([A-Za-z][\w-]*)[ \t]+(\d+)[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_VERSION = re.compile(r"Edge TPU Compiler version (\S+)")
_SUBGRAPHS = re.compile(r"Number of Edge TPU subgraphs:\s*(\d+)")


class CompilerError(RuntimeError):
    """The compiler is there and did not compile the model; the message has what it said."""


@dataclasses.dataclass(frozen=True)
class OpStatus:
    """A line of the compiler's table: `count` ops of that name got that status."""

    name: str
    count: int
    status: str


@dataclasses.dataclass(frozen=True)
class Log:
    """What the compiler wrote.

    Attributes:
        version: Of the compiler; "" where it did not say.
        statuses: Its table "Operator Count Status".
        cached_bytes: Parameters that stay in on-chip memory; None where it did not say.
        free_bytes: What is left there for more; None where it did not say.
        streamed_bytes: Parameters that are sent at each inference; None where it did not say.
        subgraphs: How many custom ops it made; None where it did not say.
    """

    version: str = ""
    statuses: tuple[OpStatus, ...] = ()
    cached_bytes: int | None = None
    free_bytes: int | None = None
    streamed_bytes: int | None = None
    subgraphs: int | None = None


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled model: its bytes and the log."""

    content: bytes = dataclasses.field(repr=False)
    log: Log
    said: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True)
class Program:
    """What one custom op holds for the Edge TPU.

    Attributes:
        min_runtime_version: The oldest Edge TPU runtime that takes it.
        cached_bytes: Parameters that are loaded once and stay on the chip.
        streamed_bytes: Parameters that are sent at each inference.
    """

    min_runtime_version: int
    cached_bytes: int
    streamed_bytes: int


def find() -> str | None:
    """The compiler's path, or None where it is not on the PATH."""
    return shutil.which(EXECUTABLE)


def parse_log(text: str) -> Log:
    """Reads what the compiler prints with `-s`, or writes to its `.log` file."""
    sizes = {
        (place, verb): round(float(number) * _UNITS[unit])
        for place, verb, _, number, unit in _SIZE.findall(text)
    }
    version, subgraphs = _VERSION.search(text), _SUBGRAPHS.search(text)
    return Log(
        version=version.group(1) if version else "",
        statuses=tuple(
            OpStatus(name, int(count), status) for name, count, status in _COUNT.findall(text)
        ),
        cached_bytes=sizes.get(("On", "used")),
        free_bytes=sizes.get(("On", "remaining")),
        streamed_bytes=sizes.get(("Off", "used")),
        subgraphs=int(subgraphs.group(1)) if subgraphs else None,
    )


def compile_model(
    content: bytes,
    *,
    executable: str | os.PathLike = EXECUTABLE,
    min_runtime_version: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Compiled:
    """Compiles a `.tflite` for the Edge TPU.

    Args:
        content: The flatbuffer.
        executable: The compiler; looked up on the PATH.
        min_runtime_version: The oldest runtime that it is to run on; None is the compiler's own.
        timeout_s: When to give up, in seconds.

    Raises:
        CompilerError: It refused the model, ended early, took too long, or could not be started.

    Example:
        >>> compile_model(Path("student.tflite").read_bytes()).log.cached_bytes
        67584
    """
    runtime = [] if min_runtime_version is None else ["-m", str(min_runtime_version)]
    with tempfile.TemporaryDirectory(prefix="keras_kd_edgetpu_") as folder:
        (Path(folder) / "model.tflite").write_bytes(content)
        command = [os.fspath(executable), "-s", "-o", folder, *runtime, "model.tflite"]
        code, said = _run(command, folder, timeout_s)
        output = Path(folder) / "model_edgetpu.tflite"
        if code or not output.is_file():
            raise CompilerError(
                f"Expected {EXECUTABLE} to compile the model. Received: exit code "
                f"{code}, {_gist(said)}"
            )
        written = Path(folder) / "model_edgetpu.log"
        table = written.read_text("utf-8", errors="replace") if written.is_file() else ""
        log = parse_log(said)
        # The table on the screen may be shortened; the file's is whole.
        statuses = parse_log(table).statuses or log.statuses
        log = dataclasses.replace(log, statuses=statuses)
        return Compiled(output.read_bytes(), log, f"{said}\n{table}" if table else said)


def _run(command: list[str], folder: str, timeout_s: float) -> tuple[int, str]:
    """Exit code and output. The compiler has a child of its own, so it gets a group to be ended."""
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as err:
        raise CompilerError(
            f"Expected {EXECUTABLE} to start. Received: '{command[0]}', {err.strerror}. "
            "Hint: it is a binary for Linux on x86-64."
        ) from err
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as err:
        raise CompilerError(
            f"Expected {EXECUTABLE} to end within {timeout_s:g} s. Received: no end. "
            "Hint: compile by hand to see where it stays; smaller activations help."
        ) from err
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, said.decode("utf-8", errors="replace")


def _gist(said: str) -> str:
    """The lines that say what went wrong, else the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if re.search("error|invalid|fail|abort|could not", line, re.I)]
    return " ".join(told or lines[-1:]) or "no output."


def is_compiled(info: inspect.ModelInfo) -> bool:
    """Whether a model went through the Edge TPU compiler and something was mapped."""
    return CUSTOM_OP in info.custom_ops


def left_on_cpu(original: inspect.ModelInfo, compiled: inspect.ModelInfo) -> frozenset[int]:
    """Indices of the original's main ops that the compiler left outside of its custom op.

    The compiler writes them again with their tensors' names, so an op is known by its name and
    those of its outputs.

    Raises:
        ValueError: The compiled file has an op that the original does not have.
    """
    here = {_identity(original, op): op.index for op in original.ops if op.subgraph == 0}
    left = set()
    for op in compiled.ops:
        if op.subgraph or op.name == CUSTOM_OP:
            continue
        identity = _identity(compiled, op)
        if identity not in here:
            raise ValueError(
                f"Expected every op of the compiled file in the model. Received: {op.name} -> "
                f"{', '.join(identity[1])}. Hint: it was compiled from another file."
            )
        left.add(here[identity])
    return frozenset(left)


def _identity(info: inspect.ModelInfo, op: inspect.Op) -> tuple[str, tuple[str, ...]]:
    outputs = (info.tensor(i, op.subgraph).name for i in op.outputs if i >= 0)
    return op.name, tuple(outputs)


def programs(content: bytes) -> tuple[Program, ...]:
    """What each Edge TPU custom op of a compiled `.tflite` holds.

    Raises:
        ValueError: An op's options are no Edge TPU program, or a damaged one.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    found = []
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for i in range(graph.OperatorsLength()):
            op = graph.Operators(i)
            if model.OperatorCodes(op.OpcodeIndex()).CustomCode() != CUSTOM_OP.encode():
                continue
            options = b"" if op.CustomOptionsIsNone() else op.CustomOptionsAsNumpy().tobytes()
            try:
                found.append(_program(options))
            except (struct.error, IndexError, ValueError) as err:
                raise ValueError(
                    f"Expected an Edge TPU program in the options of {CUSTOM_OP} #{i}. Received: "
                    f"{len(options)} bytes that are none, or damaged ({err}). Hint: compile it "
                    "again."
                ) from err
    return tuple(found)


# Fields of the tables in executable.fbs, in the order of their declaration.
_PACKAGE_MIN_RUNTIME, _PACKAGE_EXECUTABLES = 0, 1
_MULTI_EXECUTABLES = 0
_EXECUTABLE_PARAMETERS, _EXECUTABLE_TYPE = 6, 13
_PARAMETER_CACHING = 1


def _program(options: bytes) -> Program:
    start = options.index(b"DWN1") - 4
    package = _Table(options[start:])
    cached = streamed = 0
    for executable in _Table(package.vector(_PACKAGE_EXECUTABLES)).strings(_MULTI_EXECUTABLES):
        table = _Table(executable)
        size = len(table.vector(_EXECUTABLE_PARAMETERS))
        if table.number(_EXECUTABLE_TYPE, "<h") == _PARAMETER_CACHING:
            cached += size
        else:
            streamed += size
    return Program(package.number(_PACKAGE_MIN_RUNTIME, "<i"), cached, streamed)


class _Table:
    """The root table of a flatbuffer, field by field: the schema has no Python classes."""

    def __init__(self, content: bytes):
        self._content = content
        self._position = self._at(0, "<I")
        self._fields = self._position - self._at(self._position, "<i")
        self._fields_bytes = self._at(self._fields, "<H")

    def number(self, field: int, form: str) -> int:
        """A scalar; 0 where it is left out."""
        place = self._place(field)
        return self._at(place, form) if place else 0

    def vector(self, field: int) -> bytes:
        """The bytes of a vector of bytes; none where it is left out."""
        place = self._place(field)
        return self._sized(place + self._at(place, "<I")) if place else b""

    def strings(self, field: int) -> tuple[bytes, ...]:
        """Each string of a vector of strings."""
        place = self._place(field)
        if not place:
            return ()
        start = place + self._at(place, "<I")
        slots = range(start + 4, start + 4 + 4 * self._at(start, "<I"), 4)
        return tuple(self._sized(slot + self._at(slot, "<I")) for slot in slots)

    def _place(self, field: int) -> int:
        slot = 4 + 2 * field
        offset = self._at(self._fields + slot, "<H") if slot < self._fields_bytes else 0
        return self._position + offset if offset else 0

    def _sized(self, start: int) -> bytes:
        end = start + 4 + self._at(start, "<I")
        if end > len(self._content):
            raise ValueError(f"{end:,} bytes are claimed, {len(self._content):,} are there")
        return self._content[start + 4 : end]

    def _at(self, place: int, form: str) -> int:
        if place < 0:
            raise ValueError(f"an offset leads to {place}")
        return struct.unpack_from(form, self._content, place)[0]
