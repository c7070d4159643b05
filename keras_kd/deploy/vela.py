"""Runs Arm's Vela on a `.tflite`, in a process of its own, and reads what it says.

Vela (PyPI `ethos-u-vela`) rewrites what an Ethos-U can run into "ethos-u" ops of a new `.tflite`,
leaves the rest as it was for the CPU, and estimates cycles and memory. Three things are read:

- the summary CSV. Its memories are in KiB, its time in seconds (Vela 5.2, stats_writer.py,
  write_summary_metrics_csv_common: bytes / 1024, cycles / core_clock);
- the debug database (`--enable-debug-db`): which rows of the schedule came from which op of the
  file, by the op's index (`ext_key`); a "Passthrough" row is an op that stays on the CPU;
- the log: why an op stays there.

Vela is a compiler in C++ that may end its process on a model it does not expect, which is an error
to be read here.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import importlib.metadata
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from keras_kd.deploy import inspect
from keras_kd.deploy.devices.base import Device
from keras_kd.deploy.findings import Placement

NPU_OP = "ethos-u"
ARM_INI = "Arm/vela.ini"
SHOWN_LINES = 8
KIB = 1024

_REFUSAL = re.compile(
    r"^Warning \(supported operators\) operator: (?P<op>\S+), ofm: '(?P<tensor>.*?)'\n"
    r"Reason: (?P<reason>.*?)(?=\n\s*\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
_TABLE = r'<table name="{}">\n<!\[CDATA\[\n(.*?)\]\]>\n</table>'


class VelaError(RuntimeError):
    """Vela refused a model, crashed on it, took too long, or wrote what cannot be read."""


@dataclasses.dataclass(frozen=True)
class Optimised:
    """A model as Vela compiled it for one NPU, and Vela's estimates.

    Attributes:
        content: The `.tflite` for the device: "ethos-u" ops, and what stays on the CPU.
        version: Vela's version.
        accelerator_config: The NPU, as "ethos-u55-128".
        system_config: The section of `vela.ini` that the memories' speeds are from.
        memory_mode: The section that says what lies in which memory.
        clock_hz: The NPU's clock in that system.
        cycles_npu: Cycles that the NPU computes.
        cycles_total: Cycles of an inference, with those that wait for memory.
        inference_time_ms: `cycles_total` at that clock. Ops on the CPU are not in it.
        sram_bytes: Peak of the tensors in SRAM.
        dram_bytes: Peak in DRAM; 0 in a memory mode without it.
        flash_bytes: Constants that the NPU reads from flash, on-chip and off-chip.
        macs: Multiply-accumulates on the NPU, as Vela counts them (pooling is among them).
        placements: For each op of the original file, in its order, "npu" or "cpu" and why.
        op_cycles: For each op of the original file, the cycles of what came from it; 0 on the CPU
            and for what was folded into a neighbour.
    """

    content: bytes = dataclasses.field(repr=False)
    version: str
    accelerator_config: str
    system_config: str
    memory_mode: str
    clock_hz: float
    cycles_npu: int
    cycles_total: int
    inference_time_ms: float
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    macs: int
    placements: tuple[Placement, ...] = dataclasses.field(repr=False)
    op_cycles: tuple[int, ...] = dataclasses.field(repr=False)


def is_installed() -> bool:
    """Whether Vela can be run here."""
    return importlib.util.find_spec("ethosu") is not None


def optimised(content: bytes, device: Device, *, timeout_s: float = 300.0) -> Optimised:
    """Compiles a `.tflite` for an Ethos-U.

    Args:
        content: The flatbuffer.
        device: Its options name `accelerator_config`, `system_config` and `memory_mode`, and may
            name a `vela_ini` with those two (a path; Arm's own where it is left out).
        timeout_s: Seconds that Vela may take.

    Returns:
        An `Optimised`.

    Raises:
        ImportError: Vela is not installed.
        ValueError: No TFLite flatbuffer, or a device without those options.
        VelaError: Vela failed; the message has what it wrote.

    Example:
        >>> made = optimised(artifact.content, devices.get("ethos-u55-128"))
        >>> made.inference_time_ms, made.sram_bytes
        (0.1798, 22192)
    """
    info = inspect.model_info(content)
    options = _options(device)
    if not timeout_s > 0:
        raise ValueError(f"Expected timeout_s > 0 seconds. Received: {timeout_s}.")
    if not is_installed():
        raise ImportError(
            "Expected the package ethos-u-vela. It is not installed. Hint: pip install "
            "keras_kd[mcu]"
        )
    with tempfile.TemporaryDirectory(prefix="keras_kd_vela_") as folder:
        (source := Path(folder, "model.tflite")).write_bytes(content)
        log = _run(_command(source, options), Path(folder), timeout_s)
        try:
            # The names are those of `ethosu.vela.vela.process_regor` in Vela 5.2.
            made = Path(folder, "model_vela.tflite").read_bytes()
            summary = Path(folder, f"model_summary_{options['system_config']}.csv").read_text()
            database = Path(folder, "model_debug.xml").read_text(encoding="utf-8")
            return _read(info, options, made, summary, database, log)
        except (OSError, KeyError, IndexError, ValueError) as err:
            raise VelaError(
                "Expected the files that Vela 5.2 writes. Received from Vela "
                f"{version()}: {type(err).__name__}: {err}.{_shown(log)}\n"
                "Hint: another version of ethos-u-vela than keras_kd[mcu] asks for?"
            ) from err


def version() -> str:
    """The installed Vela's version."""
    return importlib.metadata.version("ethos-u-vela")


def _options(device: Device) -> dict[str, str]:
    options = {"vela_ini": ARM_INI}
    for key in ("accelerator_config", "system_config", "memory_mode", "vela_ini"):
        fact = device.options.get(key)
        if fact is not None and isinstance(fact.value, str):
            options[key] = fact.value
        elif key not in options or fact is not None:
            raise ValueError(
                f"Expected option '{key}' of device '{device.name}' as text, as Vela takes it. "
                f"Received: {None if fact is None else fact.value!r}. Hint: "
                "keras_kd.deploy.devices.get('ethos-u55-128').to_json() is a device to start from."
            )
    if Path(options["vela_ini"]).is_file():
        options["vela_ini"] = str(Path(options["vela_ini"]).resolve())
    return options


def _command(source: Path, options: Mapping[str, str]) -> list[str]:
    # -P keeps the folder that it runs in off Python's path.
    return [
        *(sys.executable, "-P", "-m", "ethosu.vela", str(source)),
        *("--config", options["vela_ini"], "--accelerator-config", options["accelerator_config"]),
        *("--system-config", options["system_config"], "--memory-mode", options["memory_mode"]),
        *("--enable-debug-db", "--output-dir", str(source.parent)),
    ]


def _run(command: list[str], folder: Path, timeout_s: float) -> str:
    log_path = folder / "log.txt"
    # To a file and not to a pipe: it holds any amount, and what was written before a kill.
    with open(log_path, "wb") as log:
        try:
            code = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | {"PYTHONIOENCODING": "utf-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as err:
            raise VelaError(
                f"Expected Vela to end within timeout_s={timeout_s:g} seconds. It did not and was "
                "stopped. Hint: raise timeout_s."
            ) from err
    text = log_path.read_text(encoding="utf-8", errors="replace")
    if code < 0:
        raise VelaError(f"Vela was ended by {_signal_name(-code)}.{_shown(text)}")
    if code > 0:
        raise VelaError(f"Vela refuses the model or the device's options.{_shown(text)}")
    return text


def _read(
    info: inspect.ModelInfo,
    options: Mapping[str, str],
    made: bytes,
    summary: str,
    database: str,
    log: str,
) -> Optimised:
    (row,) = csv.DictReader(io.StringIO(summary))
    flash = float(row["on_chip_flash_memory_used"]) + float(row["off_chip_flash_memory_used"])
    passed, op_cycles = _schedule(info, database)
    on_cpu = _on_cpu(info, inspect.model_info(made), passed)
    reasons = _reasons(log)
    return Optimised(
        content=made,
        version=version(),
        accelerator_config=options["accelerator_config"],
        system_config=options["system_config"],
        memory_mode=options["memory_mode"],
        clock_hz=float(row["core_clock"]),
        cycles_npu=round(float(row["cycles_npu"])),
        cycles_total=round(float(row["cycles_total"])),
        inference_time_ms=round(1000 * float(row["inference_time"]), 6),
        sram_bytes=round(KIB * float(row["sram_memory_used"])),
        dram_bytes=round(KIB * float(row["dram_memory_used"])),
        flash_bytes=round(KIB * flash),
        macs=round(float(row["nn_macs"])),
        placements=tuple(
            Placement(op, "cpu", _reason(info, op, reasons))
            if number in on_cpu
            else Placement(op, "npu")
            for number, op in enumerate(info.ops)
        ),
        op_cycles=tuple(op_cycles),
    )


def _on_cpu(
    info: inspect.ModelInfo, made: inspect.ModelInfo, passed: frozenset[int]
) -> frozenset[int]:
    """Places in `info.ops` of the ops that are left in the optimised file, which is what runs.

    An op is known again by its name and its outputs' names. Nothing keeps a file from using a name
    twice; where only some of such ops are left, the schedule tells which.
    """
    left = collections.Counter(_key(made, op) for op in made.ops if op.name != NPU_OP)
    keys = [_key(info, op) for op in info.ops]
    count = collections.Counter(keys)
    found = frozenset(
        place
        for place, key in enumerate(keys)
        if left[key] and (left[key] == count[key] or place in passed)
    )
    if collections.Counter(keys[place] for place in found) != left:
        raise ValueError("ops are left in the optimised file that are not in the original")
    return found


def _key(info: inspect.ModelInfo, op: inspect.Op) -> tuple[str, ...]:
    return (op.name, *(info.tensor(index, op.subgraph).name for index in op.outputs))


def _schedule(info: inspect.ModelInfo, database: str) -> tuple[frozenset[int], list[int]]:
    """Places in `info.ops` of what Vela passes on to the CPU, and the cycles of each op.

    The table "source" has a row for each op of the file, subgraph by subgraph. An op may become
    many rows of the schedule, or none: a reshape moves nothing. A row may be of no op of the file,
    where Vela puts its own in. Of several subgraphs only one has a schedule in the database.
    """
    sources = _table(database, "source", "ext_key")
    if [int(row["ext_key"]) for row in sources] != [op.index for op in info.ops]:
        raise ValueError(f"{len(sources)} ops in Vela's order, {len(info.ops)} in the file's")
    places = {row["id"]: number for number, row in enumerate(sources)}
    passed: set[int] = set()
    cycles = [0] * len(info.ops)
    for row in _table(database, "perf", "op_cycles"):
        place = places.get(row["source_id"])
        if place is not None:
            cycles[place] += int(row["op_cycles"])
            if row["operator"] == "Passthrough":
                passed.add(place)
    return frozenset(passed), cycles


def _table(database: str, name: str, needed: str) -> list[dict[str, str]]:
    """The rows of a table of the debug database, without its column "name".

    Names are quoted there but not escaped: one with a quote and a comma in it would shift the
    columns behind it, so those are counted from the end of the row.
    """
    found = re.search(_TABLE.format(name), database, re.DOTALL)
    if found is None:
        raise ValueError(f"no table '{name}' in the debug database")
    header, *rows = csv.reader(io.StringIO(found[1]))
    if needed not in header:
        raise ValueError(f"no column '{needed}' in table '{name}', which has {', '.join(header)}")
    before = header.index("name") if "name" in header else len(header)
    behind = header[before + 1 :]
    return [
        dict(zip(header[:before], row, strict=False))
        | dict(zip(behind, row[len(row) - len(behind) :], strict=True))
        for row in rows
    ]


def _reasons(log: str) -> dict[tuple[str, str], str]:
    """Why ops stay on the CPU, by op and first output; and by ("", output), whatever the op.

    The first line says what is wrong, a second one the rule; a longer rule is a list of cases, and
    is left out. Of the names that the converter joined by ";", the first is kept.
    """
    found: dict[tuple[str, str], str] = {}
    for refusal in _REFUSAL.finditer(log):
        lines = [line.strip(" .") for line in refusal["reason"].splitlines()]
        text = ". ".join(lines if len(lines) == 2 else lines[:1])
        text = re.sub(r"\(([^();]*);[^()]*\)", r"(\1)", text)
        found[refusal["op"], refusal["tensor"]] = text
        found.setdefault(("", refusal["tensor"]), text)
    return found


def _reason(info: inspect.ModelInfo, op: inspect.Op, reasons: Mapping[tuple[str, str], str]) -> str:
    """Why this op stays: Vela calls custom ops "CUSTOM", and a fused activation their own."""
    tensor = info.tensor(op.outputs[0], op.subgraph).name if op.outputs else ""
    said = reasons.get(("CUSTOM" if op.is_custom else op.name, tensor))
    return said or reasons.get(("", tensor)) or "Vela gives no reason"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _shown(log: str) -> str:
    """What Vela said at last, without the frames of its traceback."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)]
    kept = lines[starts[-1] :] if starts else lines
    return "".join(f"\n  {line}" for line in kept[-SHOWN_LINES:])
