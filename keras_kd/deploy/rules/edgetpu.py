"""What a Coral Edge TPU takes: op by op, mapped or on the CPU, and why.

Three who may be asked, the best first: a compiled file, which says itself what is left on the CPU;
the compiler, where it is on the PATH; and the rules of `edgetpu_partition`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from keras_kd.deploy import edgetpu_compiler, inspect, micro_ops
from keras_kd.deploy.devices.base import Device
from keras_kd.deploy.findings import (
    ERROR,
    NOTE,
    WARNING,
    Estimate,
    Finding,
    Placement,
    Subject,
    Verdict,
    places,
)
from keras_kd.deploy.rules import edgetpu_parameters
from keras_kd.deploy.rules.edgetpu_limits import DOCS, Refusal
from keras_kd.deploy.rules.edgetpu_ops import whole_refusal
from keras_kd.deploy.rules.edgetpu_partition import (
    NEWEST_RUNTIME,
    ONE_SUBGRAPH,
    predicted_placements,
)

_COMPILER_DOCS = "https://coral.ai/docs/edgetpu/compiler/"
_PARTITION = f"{_COMPILER_DOCS}, 'Compiler and runtime'; {DOCS}"
_VERIFIED = (
    "58 models before and after the compiler, op by op, of google-coral's test_data, edgetpu, "
    "coralmicro and project-posenet"
)
_NOT_RUN = (
    f"{edgetpu_compiler.EXECUTABLE} is not on the PATH: where each op runs, and the parameter "
    "memory, are predicted by rules that were held against models that it had compiled."
)
_BOARD_NOT_RUN = "No Edge TPU was there: nothing was run on it, and no latency is known."


def judge(subject: Subject, device: Device) -> Verdict:
    """Where each op runs, what keeps the others off the Edge TPU, and what is cached on the chip.

    With `edgetpu_compiler` on the PATH the model is compiled and its word counts; without it, the
    rules are all there is, and `not_run` says so.
    """
    if edgetpu_compiler.is_compiled(subject.info):
        verdict = _of_compiled(subject, device)
    else:
        executable = edgetpu_compiler.find()
        if executable is None:
            verdict = _predicted(subject.info, device) + Verdict(not_run=(_NOT_RUN,))
        else:
            verdict = _asked(subject, device, executable)
    lacking = _lacking_on_host(subject.info, device, verdict.placements)
    return verdict + Verdict(findings=lacking, not_run=(_BOARD_NOT_RUN,))


def _predicted(info: inspect.ModelInfo, device: Device) -> Verdict:
    refused = {
        place: found
        for place, op in enumerate(info.ops)
        if (found := whole_refusal(info, op)) is not None
    }
    placed, refusals = predicted_placements(info, runtime_version=_runtime_version(device))
    if refused:
        # What would be found next, once the compiler reads the model.
        others = {p: f for p, f in refusals.items() if f.is_certain and p not in refused}
        status = "the compiler refuses the model: " + next(iter(refused.values())).status
        placed = tuple(Placement(op, "cpu", status) for op in info.ops)
        return Verdict(
            findings=_grouped(info, refused, ERROR, "edgetpu-model-refused")
            + _grouped(info, others, WARNING, "edgetpu-op-on-cpu"),
            placements=placed,
            estimates=_shares(placed, "predicted by rules"),
        )
    mapped = [item.op for item in placed if item.target == "edgetpu"]
    size = edgetpu_parameters.estimated_bytes(info, mapped)
    return Verdict(
        findings=_findings(info, placed, refusals),
        placements=placed,
        estimates=_shares(placed, "predicted by rules"),
    ) + edgetpu_parameters.memory(device, size, edgetpu_parameters.ESTIMATED)


def _runtime_version(device: Device) -> int:
    fact = device.options.get("runtime_version")
    return fact.value if fact is not None else NEWEST_RUNTIME


def _findings(
    info: inspect.ModelInfo, placed: tuple[Placement, ...], refusals: Mapping[int, Refusal]
) -> tuple[Finding, ...]:
    on_cpu = {p: refusals[p] for p in refusals if placed[p].target == "cpu"}
    certain = {p: found for p, found in on_cpu.items() if found.is_certain}
    ends = {p: f for p, f in certain.items() if info.ops[p].name in ("QUANTIZE", "DEQUANTIZE")}
    rest = {p: f for p, f in certain.items() if p not in ends}
    behind = [p for p, item in enumerate(placed) if item.target == "cpu" and p not in certain]
    unknown = {p: refusals[p] for p in refusals if placed[p].target == "unknown"}
    found = [
        *_nothing_mapped(placed),
        *_grouped(info, rest, WARNING, "edgetpu-op-on-cpu"),
        *_grouped(info, ends, NOTE, "edgetpu-float-interface"),
        *_grouped(info, unknown, WARNING, "edgetpu-unknown"),
    ]
    if behind:
        found.append(
            Finding(
                WARNING,
                "edgetpu-behind-cpu",
                f"{len(behind)} ops run on the CPU, since there is one set of ops on the Edge TPU "
                f"and they wait for an op behind it ({ONE_SUBGRAPH}).",
                "Replace the ops that they wait for, or move these to the end of the model.",
                places(info, (info.ops[p] for p in behind)),
                _PARTITION,
                _VERIFIED,
            )
        )
    return tuple(found)


def _nothing_mapped(placed: Iterable[Placement]) -> tuple[Finding, ...]:
    if any(item.target in ("edgetpu", "unknown") for item in placed):
        return ()
    return (
        Finding(
            ERROR,
            "edgetpu-nothing-mapped",
            "No op of the model would run on the Edge TPU.",
            "Convert in full int8 (quantization='int8') at a static batch of 1.",
            (),
            DOCS,
        ),
    )


def _grouped(
    info: inspect.ModelInfo, refused: Mapping[int, Refusal], severity: str, rule: str
) -> tuple[Finding, ...]:
    """A finding for each status with one cure, whose places are all ops that have it."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, found in refused.items():
        groups.setdefault((found.status, found.cure), []).append(place)
    made = []
    for (status, cure), members in groups.items():
        names = ", ".join(dict.fromkeys(info.ops[p].name for p in members))
        details = "; ".join(list(dict.fromkeys(refused[p].detail for p in members))[:3])
        first = refused[members[0]]
        made.append(
            Finding(
                severity,
                rule,
                f"{names}: {status} ({details}).",
                cure,
                places(info, (info.ops[p] for p in members)),
                first.source,
                first.verified,
            )
        )
    return tuple(made)


def _shares(placed: tuple[Placement, ...], how: str) -> tuple[Estimate, ...]:
    counts = {t: sum(p.target == t for p in placed) for t in ("edgetpu", "cpu", "unknown")}
    of = f"of {len(placed)} ops"
    made = [
        Estimate("ops on the Edge TPU", counts["edgetpu"], of, how),
        Estimate("ops on the CPU", counts["cpu"], of, how),
    ]
    if counts["unknown"]:
        made.append(Estimate("ops of which no rule tells", counts["unknown"], of, how))
    return tuple(made)


def _of_compiled(subject: Subject, device: Device) -> Verdict:
    """A file that went through the compiler: what is in its custom op, and what is left outside."""
    info = subject.info
    left = "left on the CPU by the compiler"
    placed = tuple(
        Placement(op, "edgetpu")
        if op.name == edgetpu_compiler.CUSTOM_OP
        else Placement(op, "cpu", left)
        for op in info.ops
    )
    outside = [item.op for item in placed if item.target == "cpu"]
    rest = f"{len(outside)} ops are left on the CPU" if outside else "nothing is left on the CPU"
    found = [
        Finding(
            NOTE,
            "edgetpu-compiled",
            f"The model is compiled for the Edge TPU already; {rest}.",
            "To see why, check the model that was given to the compiler.",
            places(info, outside),
            _COMPILER_DOCS,
        )
    ]
    programs = edgetpu_compiler.programs(subject.content)
    needed = max((program.min_runtime_version for program in programs), default=0)
    if needed > _runtime_version(device):
        found.append(
            Finding(
                ERROR,
                "edgetpu-runtime-too-old",
                f"It was compiled for Edge TPU runtime {needed}; {device.title} has "
                f"{_runtime_version(device)}.",
                f"Compile with --min_runtime_version {_runtime_version(device)}, or update "
                "libedgetpu on the device.",
                (),
                _COMPILER_DOCS,
            )
        )
    cached = sum(program.cached_bytes for program in programs)
    streamed = sum(program.streamed_bytes for program in programs)
    return Verdict(
        findings=tuple(found),
        placements=placed,
        estimates=_shares(placed, "read from the compiled file"),
    ) + edgetpu_parameters.memory(device, cached, "read from the compiled file", streamed)


def _asked(subject: Subject, device: Device, executable: str) -> Verdict:
    """What the compiler itself does with the model."""
    info, version = subject.info, _runtime_version(device)
    predicted = _predicted(info, device)
    try:
        done = edgetpu_compiler.compile_model(
            subject.content,
            executable=executable,
            min_runtime_version=version if version < NEWEST_RUNTIME else None,
        )
    except edgetpu_compiler.CompilerError as err:
        failed = Finding(
            ERROR,
            "edgetpu-compiler-failed",
            str(err),
            "See what the rules find below; else smaller activations or fewer ops may compile.",
            (),
            _COMPILER_DOCS,
        )
        placed = tuple(Placement(op, "cpu", "the compiler failed") for op in info.ops)
        return Verdict(
            findings=(failed, *predicted.findings),
            placements=placed,
            estimates=_shares(placed, "the compiler failed"),
        )
    how = f"edgetpu_compiler {done.log.version}".strip()
    left = edgetpu_compiler.left_on_cpu(info, inspect.model_info(done.content))
    placed = tuple(
        Placement(item.op, "cpu", _said(done.log, item))
        if item.op.subgraph or item.op.index in left
        else Placement(item.op, "edgetpu")
        for item in predicted.placements
    )
    verdict = Verdict(
        findings=_nothing_mapped(placed) + _explained(info, placed, predicted),
        placements=placed,
        estimates=_shares(placed, how),
        compiled=(done,),
    )
    if done.log.cached_bytes is not None:
        verdict += edgetpu_parameters.memory(
            device, done.log.cached_bytes, how, done.log.streamed_bytes or 0
        )
    return verdict


def _said(log: edgetpu_compiler.Log, item: Placement) -> str:
    """The status that the log has for such an op; it counts by name, so there may be several."""
    statuses = [
        line.status
        for line in log.statuses
        if line.name == item.op.name and line.status != edgetpu_compiler.MAPPED
    ]
    return item.reason if item.reason.startswith(tuple(statuses)) else " or ".join(statuses)


def _explained(
    info: inspect.ModelInfo, placed: tuple[Placement, ...], predicted: Verdict
) -> tuple[Finding, ...]:
    """What the rules found, as far as the compiler agrees, and where the two differ."""
    on_cpu = set(places(info, (item.op for item in placed if item.target == "cpu")))
    kept = []
    for finding in predicted.findings:
        where = tuple(place for place in finding.where if place in on_cpu)
        if where:
            kept.append(dataclasses.replace(finding, where=where))
    told = {place for finding in kept for place in finding.where}
    rest = [item for item in placed if item.target == "cpu"]
    untold = [item for item in rest if not told.intersection(places(info, (item.op,)))]
    if untold:
        reasons = "; ".join(dict.fromkeys(item.reason for item in untold if item.reason))
        kept.append(
            Finding(
                WARNING,
                "edgetpu-op-on-cpu",
                f"The compiler leaves {len(untold)} ops on the CPU of which no rule here tells: "
                f"{reasons or 'it does not say why'}.",
                "Replace them, or move them to the end of the model.",
                places(info, (item.op for item in untold)),
                _COMPILER_DOCS,
            )
        )
    return tuple(kept)


def _lacking_on_host(
    info: inspect.ModelInfo, device: Device, placed: Iterable[Placement]
) -> tuple[Finding, ...]:
    """Ops that are left to a host that runs TFLite Micro and that this does not have."""
    host = device.options.get("host_runtime")
    if host is None or host.value != "tflm":
        return ()
    extra = device.options.get("host_custom_ops")
    custom = micro_ops.CUSTOM_OPS.union(extra.value if extra is not None else ())
    lacking = [
        item.op
        for item in placed
        if item.target != "edgetpu"
        and item.op.name not in (custom if item.op.is_custom else micro_ops.BUILTIN_OPS)
    ]
    if not lacking:
        return ()
    names = ", ".join(dict.fromkeys(op.name for op in lacking))
    return (
        Finding(
            ERROR,
            "edgetpu-host-op-missing",
            f"{names} would run on {device.title}'s processor, in TFLite Micro, which lacks it.",
            "End the model before it, or replace it by an op of the Edge TPU.",
            places(info, lacking),
            "https://github.com/google-coral/edgetpu/issues/813",
        ),
    )
