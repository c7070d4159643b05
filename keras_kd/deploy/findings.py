"""What a check finds: problems with their cures, where each op runs, how much memory is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from keras_kd.deploy import inspect
from keras_kd.deploy.devices.base import Device

if TYPE_CHECKING:
    from keras_kd.deploy.edgetpu_compiler import Compiled
    from keras_kd.deploy.vela import Optimised

ERROR, WARNING, NOTE = "error", "warning", "note"
# The worst first.
SEVERITIES = (ERROR, WARNING, NOTE)
# Which fact says how large a memory is.
_SIZES = {
    "flash": "flash_bytes",
    "RAM": "ram_bytes",
    "SRAM": "ram_bytes",
    "on-chip parameters": "parameter_memory_bytes",
}
# A file's names are anybody's: they are shown up to this length, without control characters.
_LONGEST_NAME = 80


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model that is checked.

    Attributes:
        content: The flatbuffer.
        info: What is in it.
        label: What messages call it.
        x: Real examples as real numbers, or None: what runs the model runs it on them.
        y: Their labels, or None.
    """

    content: bytes = dataclasses.field(repr=False)
    info: inspect.ModelInfo = dataclasses.field(repr=False)
    label: str
    x: Any = dataclasses.field(default=None, repr=False)
    y: Any = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a person must know before flashing.

    Attributes:
        severity: "error": it will not run, or not fit; "warning": it runs, but not as one would
            think; "note": good to know.
        rule: A short name of what was looked at, stable for programs: "op-missing".
        message: What is the case, in one sentence.
        cure: What to do about it.
        where: The places, as `place` writes them.
        source: Where the rule stands.
        verified: What was run to see that the rule holds; "" where it was only read.
    """

    severity: str
    rule: str
    message: str
    cure: str
    where: tuple[str, ...] = ()
    source: str = ""
    verified: str = ""

    def __post_init__(self):
        if self.severity not in SEVERITIES:
            raise ValueError(
                f"Expected a severity of {', '.join(SEVERITIES)} in finding '{self.rule}'. "
                f"Received: {self.severity!r}."
            )


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one op runs.

    Attributes:
        op: The op.
        target: The unit: "tflm", "npu", "edgetpu", "gpu", "cpu"; "unknown" where no rule tells, and
            "none" where the device cannot run it.
        reason: Why it is not where the device is fast; "" where it is.
    """

    op: inspect.Op
    target: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Budget:
    """One memory: what the model and its runtime take of it.

    Attributes:
        name: "flash", "RAM", "on-chip parameters".
        used_bytes: What is taken, reserved bytes included; None where it could not be known.
        available_bytes: What the device has; None where the device has no such bound.
        how: Where `used_bytes` is from: "measured in TFLM, plus ..."
    """

    name: str
    used_bytes: int | None
    available_bytes: int | None
    how: str

    @property
    def margin_bytes(self) -> int | None:
        """What is left; negative where it does not fit."""
        if self.used_bytes is None or self.available_bytes is None:
            return None
        return self.available_bytes - self.used_bytes


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number about the model on the device: name, value, unit, and how it came to be."""

    name: str
    value: float | str
    unit: str
    how: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the rules of one runtime say.

    Attributes:
        findings: Problems and remarks.
        placements: An entry for each op, in the file's order.
        budgets: Memories.
        estimates: Numbers about the model on the device, measured or estimated.
        not_run: What could not be run here, and what was looked at in its place.
        compiled: What the device's compiler made of the model, where it has one that ran.
    """

    findings: tuple[Finding, ...] = ()
    placements: tuple[Placement, ...] = ()
    budgets: tuple[Budget, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    not_run: tuple[str, ...] = ()
    compiled: tuple[Optimised | Compiled, ...] = dataclasses.field(default=(), repr=False)

    def __add__(self, other: Verdict) -> Verdict:
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return Verdict(*(mine + theirs for mine, theirs in pairs))

    def specialized(self, own: Verdict) -> Verdict:
        """This verdict, which holds for every runtime, and what a runtime's own rules say.

        Where both have findings of one rule, the runtime's stand alone: it knows better.
        """
        known = {finding.rule for finding in own.findings}
        kept = tuple(finding for finding in self.findings if finding.rule not in known)
        return dataclasses.replace(self, findings=kept) + own


def place(info: inspect.ModelInfo, op: inspect.Op) -> str:
    """An op and where it came from, as messages name it: "CONV_2D #3 (block/conv/Conv2D)"."""
    graph = f" in subgraph {op.subgraph}" if op.subgraph else ""
    origin = printable(info.origin(op))
    return f"{printable(op.name)} #{op.index}{graph}" + (f" ({origin})" if origin else "")


def printable(name: str) -> str:
    """A name out of a file as messages show it: no control characters, and not endless."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return (
        shown
        if len(shown) <= _LONGEST_NAME
        else f"{shown[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
    )


def places(info: inspect.ModelInfo, ops: Iterable[inspect.Op]) -> tuple[str, ...]:
    """`place` of each."""
    return tuple(place(info, op) for op in ops)


def over_budget(device: Device, budget: Budget, cure: str) -> tuple[Finding, ...]:
    """The finding that a memory is too small, if it is; its source is that of the memory's size."""
    margin = budget.margin_bytes
    if margin is None or margin >= 0:
        return ()
    size = getattr(device, _SIZES.get(budget.name, ""), None)
    return (
        Finding(
            ERROR,
            f"{budget.name.replace(' ', '-').lower()}-too-small",
            f"{budget.used_bytes:,} bytes of {budget.name} are needed ({budget.how}); "
            f"{device.title} has {budget.available_bytes:,}: {-margin:,} too few.",
            cure,
            source="" if size is None else size.source,
        ),
    )
