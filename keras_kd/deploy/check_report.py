"""A check as a report: the verdict first, what to do about it, then the memories and the evidence.

No picture here needs matplotlib: how full a memory is, is a bar of characters in a table's cell, so
that `keras-kd check --html` works on the plain package and the terminal shows the same.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from keras_kd.deploy.artifact import quantization_of
from keras_kd.deploy.check import Check
from keras_kd.deploy.devices.base import Device, Fact
from keras_kd.deploy.findings import (
    ERROR,
    SEVERITIES,
    Budget,
    Estimate,
    Finding,
    place,
    printable,
)
from keras_kd.deploy.macs import macs
from keras_kd.report import Block, Column, Facts, Report, Section, Table, Text

NOT_VERIFIED = "not verified on the device"
BAR_CELLS = 20
# What a table's row and a paragraph can hold before nobody reads it.
SHOWN_PLACES = 12
REASON_LENGTH = 72
TERMINAL_WIDTH = 100


def report(check: Check, *, with_sources: bool = True) -> Report:
    """What a person reads before flashing, and what a program reads in its CI.

    Args:
        check: What `keras_kd.deploy.check` found.
        with_sources: Whether the source of each rule and each fact of the device is in it, and the
            place of every op; a terminal does without.

    Returns:
        A `Report`; its title is the verdict, its `data` the check in full.
    """
    sections = [
        *_memories(check.budgets),
        *(_finding(found, with_sources) for found in check.findings),
        *_placements(check),
        *_estimates(check.estimates),
        *_not_run(check.not_run),
    ]
    if with_sources:
        sections += [_model(check), _device(check.device), *_every_op(check)]
    return Report(
        title=verdict(check),
        summary=_summary(check),
        sections=tuple(sections),
        data=data(check),
    )


def text(check: Check) -> str:
    """The report for a terminal, the verdict in its first line and long lines folded."""
    whole = report(check, with_sources=False)
    return dataclasses.replace(
        whole,
        sections=tuple(
            dataclasses.replace(section, blocks=tuple(map(_folded, section.blocks)))
            for section in whole.sections
        ),
    ).text()


def _folded(block: Block) -> Block:
    """Names and what they are, what they are in lines that stand below each other."""
    if isinstance(block, Text):
        return Text(textwrap.fill(block.text, TERMINAL_WIDTH))
    if not isinstance(block, Facts):
        return block
    indent = 2 + max(len(name) for name, _ in block.items)
    wrapper = textwrap.TextWrapper(TERMINAL_WIDTH - indent, break_on_hyphens=False)
    below = "\n" + " " * indent
    return Facts(tuple((name, below.join(wrapper.wrap(value))) for name, value in block.items))


def comparison(checks: Sequence[Check]) -> Report:
    """One model on several devices: which it fits, and why not the others.

    Args:
        checks: Of one model, one for each device.

    Raises:
        ValueError: There are none.
    """
    if not checks:
        raise ValueError("Expected at least one check to compare. Received: none.")
    fitting = [check for check in checks if check.fits]
    columns = (
        Column("device"),
        Column("fits"),
        Column("flash left", "bytes"),
        Column("RAM left", "bytes"),
        Column("first reason"),
    )
    rows = tuple(
        (
            check.device.name,
            "yes" if check.fits else "no",
            _margin(check, "flash"),
            _margin(check, "RAM"),
            _shortened(_reasons(check)[0]) if not check.fits else "",
        )
        for check in checks
    )
    sections = [Section("Devices", (Table(columns, rows),))]
    reasons = tuple(
        (check.device.title, " ".join(_reasons(check))) for check in checks if not check.fits
    )
    if reasons:
        sections.append(Section("Why not", (Facts(reasons),)))
    names = "; ".join(check.device.title for check in fitting)
    return Report(
        title=f"{checks[0].label} fits {len(fitting)} of {len(checks)} devices",
        summary=f"It fits: {names}." if fitting else "It fits none of them.",
        sections=tuple(sections),
        data={"fits": len(fitting) == len(checks), "checks": [data(check) for check in checks]},
    )


def verdict(check: Check) -> str:
    """The answer in a line."""
    return f"{check.label} {'fits' if check.fits else 'does not fit'} {check.device.title}"


def data(check: Check) -> dict[str, Any]:
    """A check as JSON values, for programs: every finding, placement, budget and estimate."""
    device = {name: dataclasses.asdict(fact) for name, fact in check.device.facts.items()}
    return {
        "model": check.label,
        "size_bytes": check.info.size_bytes,
        "quantization": quantization_of(check.info),
        "device": {
            "name": check.device.name,
            "title": check.device.title,
            "runtime": check.device.runtime,
            "facts": device,
        },
        "fits": check.fits,
        "findings": [
            dataclasses.asdict(found) | {"is_verified": bool(found.verified)}
            for found in check.findings
        ],
        "placements": [
            {
                "op": placed.op.index,
                "subgraph": placed.op.subgraph,
                "name": placed.op.name,
                "origin": check.info.origin(placed.op),
                "target": placed.target,
                "reason": placed.reason,
            }
            for placed in check.placements
        ],
        "budgets": [
            dataclasses.asdict(budget) | {"margin_bytes": budget.margin_bytes}
            for budget in check.budgets
        ],
        "estimates": [dataclasses.asdict(estimate) for estimate in check.estimates],
        "not_run": list(check.not_run),
    }


def counted(check: Check) -> str:
    """How many findings of each severity: "1 error, 2 warnings, no notes"."""
    counts = Counter(finding.severity for finding in check.findings)
    return ", ".join(
        f"{counts[severity] or 'no'} {severity}{'' if counts[severity] == 1 else 's'}"
        for severity in SEVERITIES
    )


def _summary(check: Check) -> str:
    left = [_left(budget) for budget in check.budgets if budget.margin_bytes is not None]
    return " ".join([f"{counted(check).capitalize()}.", *left])


def _left(budget: Budget) -> str:
    margin = budget.margin_bytes or 0
    left = f"{margin:,} bytes left" if margin >= 0 else f"{-margin:,} bytes too few"
    return f"{_capitalized(budget.name)}: {left} of {budget.available_bytes:,}."


def _capitalized(name: str) -> str:
    return name[:1].upper() + name[1:]


def _finding(found: Finding, with_sources: bool) -> Section:
    items = [("what", found.message), ("what to do", found.cure)]
    if found.where:
        items.append(("where", _few(found.where)))
    if with_sources:
        items.append(("source", found.source or "none given"))
    if with_sources or not found.verified:
        items.append(("verified", found.verified or NOT_VERIFIED))
    return Section(f"{found.severity.capitalize()}: {found.rule}", (Facts(tuple(items)),))


def _few(places: Sequence[str]) -> str:
    more = len(places) - SHOWN_PLACES
    return "; ".join(places[:SHOWN_PLACES]) + (f"; and {more} more" if more > 0 else "")


def _memories(budgets: Sequence[Budget]) -> Iterator[Section]:
    if not budgets:
        return
    columns = (
        Column("memory"),
        Column("taken"),
        Column("used", "bytes"),
        Column("available", "bytes"),
        Column("left", "bytes"),
    )
    rows = tuple(
        (
            budget.name,
            _taken(budget),
            budget.used_bytes,
            budget.available_bytes,
            budget.margin_bytes,
        )
        for budget in budgets
    )
    note = " ".join(f"{_capitalized(budget.name)}: {budget.how}." for budget in budgets)
    yield Section("Memory", (Table(columns, rows, note=note),))


def _taken(budget: Budget) -> str:
    if budget.used_bytes is None:
        return "not known"
    return _bar(budget.used_bytes / budget.available_bytes) if budget.available_bytes else ""


def _bar(share: float) -> str:
    """A share as a bar, full from one on: "█████░░░░░░░░░░░░░░░ 25 %"."""
    cells = min(BAR_CELLS, round(share * BAR_CELLS))
    return f"{'█' * cells}{'░' * (BAR_CELLS - cells)} {share * 100:.0f} %"


def _placements(check: Check) -> Iterator[Section]:
    if not check.placements:
        return
    yield Section("Where the ops run", (_targets(check),))
    reasons: dict[tuple[str, str], list[str]] = {}
    for placed in check.placements:
        if placed.reason:
            where = reasons.setdefault((placed.target, placed.reason), [])
            where.append(place(check.info, placed.op))
    if reasons:
        items = tuple((target, f"{why}: {_few(where)}") for (target, why), where in reasons.items())
        yield Section("Why some run elsewhere", (Facts(items),))


def _targets(check: Check) -> Table:
    """The ops and the work of each unit, the one with the most ops first."""
    ops: Counter[str] = Counter()
    work: Counter[str] = Counter()
    for placed in check.placements:
        ops[placed.target] += 1
        work[placed.target] += macs(check.info, placed.op)
    total = work.total()
    columns = (
        Column("runs on"),
        Column("share of the ops"),
        Column("ops"),
        Column("multiply-accumulates"),
        Column("of all", "%", digits=1, scale=100),
    )
    rows = tuple(
        (
            target,
            _bar(count / ops.total()),
            count,
            work[target],
            work[target] / total if total else None,
        )
        for target, count in ops.most_common()
    )
    return Table(columns, rows)


def _every_op(check: Check) -> Iterator[Section]:
    """The table behind it all, for whoever wants to know of one op."""
    if not check.placements:
        return
    columns = (Column("op"), Column("name"), Column("from"), Column("runs on"), Column("MACs"))
    rows = tuple(
        (
            placed.op.index,
            printable(placed.op.name),
            printable(check.info.origin(placed.op)),
            placed.target,
            macs(check.info, placed.op) or None,
        )
        for placed in check.placements
    )
    yield Section("Every op", (Table(columns, rows),))


def _estimates(estimates: Sequence[Estimate]) -> Iterator[Section]:
    if estimates:
        items = tuple((e.name, f"{_amount(e)} ({e.how})") for e in estimates)
        yield Section("Numbers", (Facts(items),))


def _amount(estimate: Estimate) -> str:
    value = estimate.value
    if isinstance(value, float):
        value = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return f"{value} {estimate.unit}".strip()


def _not_run(not_run: Sequence[str]) -> Iterator[Section]:
    if not_run:
        yield Section("Not run here, and what was checked instead", tuple(map(Text, not_run)))


def _model(check: Check) -> Section:
    info = check.info
    items = [("file", f"{check.label}, {info.size_bytes:,} bytes, {quantization_of(info)}")]
    for kind, slots in (("input", info.inputs), ("output", info.outputs)):
        for name, index in slots:
            tensor = info.tensor(index)
            items.append((kind, f"{printable(name)}: {tensor.dtype} {list(tensor.shape)}"))
    ops = ", ".join(f"{printable(c.name)} v{c.version} x {c.count}" for c in info.op_counts)
    return Section("The model", (Facts((*items, ("ops", ops))),))


def _device(device: Device) -> Section:
    items = [("name", device.name), ("runtime", device.runtime)]
    items += [(name, described(fact)) for name, fact in device.facts.items()]
    return Section("The device", (Facts(tuple(items)),))


def described(fact: Fact) -> str:
    """A fact with its source, in a line."""
    value = fact.value
    if isinstance(value, tuple):
        shown = ", ".join(map(str, value))
    elif isinstance(value, int) and not isinstance(value, bool):
        shown = f"{value:,}"
    else:
        shown = str(value)
    return f"{shown} (source: {fact.source}; {fact.verified or NOT_VERIFIED})"


def _margin(check: Check, memory: str) -> int | None:
    return next((b.margin_bytes for b in check.budgets if b.name == memory), None)


def _reasons(check: Check) -> list[str]:
    """What keeps it from fitting, each in a sentence."""
    messages = [found.message for found in check.findings if found.severity == ERROR]
    return messages or [_left(budget) for budget in check.budgets if (budget.margin_bytes or 0) < 0]


def _shortened(message: str) -> str:
    if len(message) <= REASON_LENGTH:
        return message
    return f"{message[: REASON_LENGTH - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
