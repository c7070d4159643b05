"""An Ethos-U: Vela is asked what it maps, how fast that is, and in how much memory.

What Vela does not map stays in the file for TensorFlow Lite Micro on the Cortex-M beside the NPU,
so it must be something that TFLM has. An op that TFLM lacks is no problem where the NPU takes it:
int8 GELU is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from keras_kd.deploy import inspect, micro_ops, vela
from keras_kd.deploy.artifact import quantization_of
from keras_kd.deploy.devices.base import Device
from keras_kd.deploy.findings import (
    ERROR,
    NOTE,
    WARNING,
    Budget,
    Estimate,
    Finding,
    Placement,
    Subject,
    Verdict,
    over_budget,
    place,
    places,
)
from keras_kd.deploy.macs import macs

# TFLM's own structures, which Vela does not know of: "by at least 2KiB".
# ML embedded evaluation kit, docs/sections/memory_considerations.md, "Total SRAM used".
TFLM_BYTES = 2048

_CORAL_OP = "edgetpu-custom-op"

_VELA_SOURCE = "ethos-u-vela 5.2, `vela --supported-ops-report`"
_FLOAT_SOURCE = f"{_VELA_SOURCE}: feature maps are of int8, uint8, int16, int32 or int64"
_TFLM_SOURCE = (
    "tensorflow/tflite-micro, python/tflite_micro/python_ops_resolver.cc at "
    "90b983c2b3f1480642e040bbd2ddb37b998f3424"
)
_HYBRID_SOURCE = (
    "tensorflow/tflite-micro, tensorflow/lite/micro/kernels/conv_common.cc and fully_connected.cc: "
    "'Hybrid models are not supported on TFLite Micro.'"
)
_TO_INT8 = (
    "Convert the student to int8: keras_kd.deploy.convert(student, quantization='int8', "
    "calibration=examples), or `keras-kd convert --quantize int8`."
)
_NO_32_BITS = (
    "Keep integers of 32 bits (indices, shapes, sums) out of the model, or compute them in the "
    "application."
)
# Of Vela's reason, a part that tells what to do.
_CURES = (
    ("DataType Float32", _TO_INT8),
    ("DataType Float16", _TO_INT8),
    (
        "missing quantization parameters",
        "Convert it with calibration, so that every tensor has a scale.",
    ),
    ("DataType UInt32", _NO_32_BITS),
    ("32-bit feature-maps", _NO_32_BITS),
    (
        "scale-factor",
        "Resize by 2, 4 or 8 without half_pixel_centers, by several resizes if need be, or leave "
        "the last one to the application.",
    ),
    (
        "depth-reduction",
        "Reduce over height and width only, or use BatchNormalization in place of a normalization "
        "over channels.",
    ),
    (
        "Unsupported opType",
        "Replace the layer by one of the ops that `vela --supported-ops-report` lists, or leave "
        "the op out of the model and compute it in the application.",
    ),
)
_ANY_CURE = (
    "Change the layer so that the constraint holds (`vela --supported-ops-report` lists all of "
    "them), or accept that the CPU computes it."
)
_SMALLER = (
    "A smaller input, fewer channels in the widest layers, or a memory mode that keeps less in it "
    "(option memory_mode of the device)."
)


def judge(subject: Subject, device: Device) -> Verdict:
    """What Vela says of the model; what its types alone say, where Vela cannot be run.

    Raises:
        ValueError: The device lacks the options that Vela needs.
    """
    if vela.NPU_OP in subject.info.custom_ops:
        return _already_compiled(subject)
    try:
        made = vela.optimised(subject.content, device)
    except ImportError:
        return _static(subject) + Verdict(
            not_run=(
                "Vela (pip install keras_kd[mcu]) is not installed: cycles, memory and the place "
                "of each integer op are not known. Looked at in its place: ops on float tensors, "
                "which no Ethos-U takes.",
            )
        )
    except vela.VelaError as err:
        static = _static(subject)
        cure = _TO_INT8 if static.findings else "Leave out the op that Vela names, or replace it."
        failed = Finding(
            ERROR,
            "vela-failed",
            " ".join(str(err).split()),
            cure,
            source=f"ethos-u-vela {vela.version()}, run on this host",
            verified="run just now",
        )
        return static + Verdict(
            findings=(failed,),
            not_run=(
                "Vela failed: cycles, memory and the place of each integer op are not known. "
                "Looked at in its place: ops on float tensors.",
            ),
        )
    budgets = _budgets(made, device)
    return Verdict(
        findings=(
            *_on_cpu(subject.info, made.placements),
            *_cpu_time(subject.info, made),
            *(found for budget in budgets for found in over_budget(device, budget, _SMALLER)),
        ),
        placements=made.placements,
        budgets=budgets,
        estimates=_estimates(subject.info, made),
        compiled=(made,),
    )


def _already_compiled(subject: Subject) -> Verdict:
    """A file that Vela made: for which NPU, and in what time, does not stand in it."""
    made = [op for op in subject.info.ops if op.name == vela.NPU_OP]
    placements = tuple(
        Placement(op, "npu") if op in made else Placement(op, "cpu", "left there by Vela")
        for op in subject.info.ops
    )
    found = Finding(
        WARNING,
        "already-compiled",
        f"Vela has compiled this file already ('{vela.NPU_OP}'), for an NPU that it does not name.",
        "Check the file that Vela was given.",
        places(subject.info, made),
    )
    return Verdict(
        findings=(found, *_missing(subject.info, [p.op for p in placements if p.target == "cpu"])),
        placements=placements,
        not_run=("Vela leaves a file that it made as it is: cycles and memory are not known.",),
    )


def _static(subject: Subject) -> Verdict:
    """What no compiler is needed for: an op on float tensors is not mapped."""
    placements = tuple(
        Placement(op, "cpu", "a float tensor")
        if _is_float(subject.info, op)
        else Placement(op, "unknown", "Vela was not run")
        for op in subject.info.ops
    )
    return Verdict(findings=_on_cpu(subject.info, placements), placements=placements)


def _on_cpu(info: inspect.ModelInfo, placements: Sequence[Placement]) -> tuple[Finding, ...]:
    """What is wrong with the ops that stay on the CPU: why they do, and whether TFLM can."""
    left = [placed for placed in placements if placed.target == "cpu"]
    ops = [placed.op for placed in left]
    found = []
    floats = [op for op in ops if _is_float(info, op)]
    if len(floats) == len(info.ops):
        found.append(
            Finding(
                WARNING,
                "npu-unused",
                f"None of the {len(ops)} ops runs on the NPU: all of them compute in float.",
                _TO_INT8,
                places(info, ops),
                _FLOAT_SOURCE,
                "Vela 5.2.0 mapped no op of a float model",
            )
        )
    else:
        found += _reasons(info, left)
    hybrid = quantization_of(info)
    if floats and hybrid in ("dynamic_range", "float16"):
        found.append(
            Finding(
                ERROR,
                "hybrid-on-cpu",
                f"A {hybrid.replace('_', '-')} model is left to the CPU, whose TensorFlow Lite "
                "Micro takes no float activations with weights of another type.",
                _TO_INT8,
                places(info, floats),
                _HYBRID_SOURCE,
            )
        )
    unsigned = [op for op in ops if not op.is_custom and _has_uint8(info, op)]
    if unsigned:
        found.append(
            Finding(
                WARNING,
                "uint8-on-cpu",
                f"On the CPU: {len(unsigned)} ops on uint8 tensors, of which TensorFlow Lite Micro "
                "refuses most; its kernels are for int8.",
                _TO_INT8,
                places(info, unsigned),
                _HYBRID_SOURCE,
                "tflite-micro 0.dev20261023182759 refused uint8 convolution, average pooling, "
                "concatenation and softmax",
            )
        )
    return (*found, *_missing(info, ops))


def _missing(info: inspect.ModelInfo, on_cpu: Sequence[inspect.Op]) -> tuple[Finding, ...]:
    """What TFLM would have to compute, and cannot."""
    missing = micro_ops.missing_ops(dataclasses.replace(info, ops=tuple(on_cpu)))
    if not missing:
        return ()
    cure = "Replace the layers that they come from by ones that the NPU or TFLM has."
    if _CORAL_OP in missing:
        cure = "Take the file that the Edge TPU compiler was given: this one is for a Coral alone."
    return (
        Finding(
            ERROR,
            "op-missing",
            f"{', '.join(missing)} would run on the CPU, and TensorFlow Lite Micro has no such op.",
            cure,
            places(info, (op for op in on_cpu if op.name in missing)),
            _TFLM_SOURCE,
            "tflite-micro 0.dev20261023182759 was asked for every builtin op",
        ),
    )


def _reasons(info: inspect.ModelInfo, left: Sequence[Placement]) -> list[Finding]:
    """A finding for each cure: a model has many ops on the CPU for few reasons."""
    by_cure: dict[str, list[Placement]] = {}
    for placed in left:
        by_cure.setdefault(_cure(placed.reason), []).append(placed)
    found = []
    for cure, group in by_cure.items():
        reasons = tuple(dict.fromkeys(placed.reason for placed in group))
        more = f", and {len(reasons) - 1} more like it" if len(reasons) > 1 else ""
        found.append(
            Finding(
                WARNING,
                "op-on-cpu",
                f"On the CPU: {len(group)} of {len(info.ops)} ops. {reasons[0]}{more}.",
                cure,
                places(info, (placed.op for placed in group)),
                _VELA_SOURCE,
            )
        )
    return found


def _cure(reason: str) -> str:
    if reason == "a float tensor":
        return _TO_INT8
    return next((cure for part, cure in _CURES if part in reason), _ANY_CURE)


def _cpu_time(info: inspect.ModelInfo, made: vela.Optimised) -> tuple[Finding, ...]:
    on_cpu = [placed.op for placed in made.placements if placed.target == "cpu"]
    if not on_cpu or len(on_cpu) == len(info.ops):
        return ()
    return (
        Finding(
            NOTE,
            "cpu-time-unknown",
            f"The inference time is the NPU's alone. On the CPU: {len(on_cpu)} of {len(info.ops)} "
            "ops, which are not in it.",
            "Measure it on the board.",
            source=_VELA_SOURCE,
        ),
    )


def _budgets(made: vela.Optimised, device: Device) -> tuple[Budget, ...]:
    if not any(placed.target == "npu" for placed in made.placements):
        nothing = "Vela plans no memory where nothing runs on the NPU"
        return (Budget("SRAM", None, _value(device, "ram_bytes"), nothing),)
    ram_reserved = _value(device, "ram_reserved_bytes") or 0
    flash_reserved = _value(device, "flash_reserved_bytes") or 0
    sram = Budget(
        "SRAM",
        made.sram_bytes + TFLM_BYTES + ram_reserved,
        _value(device, "ram_bytes"),
        f"Vela's {made.sram_bytes:,} for tensors in {made.memory_mode}, {TFLM_BYTES:,} for TFLite "
        f"Micro's own structures" + (f", {ram_reserved:,} reserved" if ram_reserved else ""),
    )
    flash = Budget(
        "flash",
        len(made.content) + flash_reserved,
        _value(device, "flash_bytes"),
        "the file that Vela made" + (f", {flash_reserved:,} reserved" if flash_reserved else ""),
    )
    dram = Budget("DRAM", made.dram_bytes, None, f"Vela's estimate in {made.memory_mode}")
    return (sram, flash, dram) if made.dram_bytes else (sram, flash)


def _value(device: Device, field: str) -> int | None:
    fact = getattr(device, field)
    return None if fact is None else fact.value


def _estimates(info: inspect.ModelInfo, made: vela.Optimised) -> tuple[Estimate, ...]:
    on_npu = [placed.op for placed in made.placements if placed.target == "npu"]
    said = (
        f"Vela {made.version}, {made.accelerator_config}, {made.system_config}, "
        f"{made.memory_mode}: an estimate"
    )
    estimates = [
        Estimate(
            "ops on the NPU", _percent(len(on_npu), len(info.ops)), "%", f"Vela {made.version}"
        )
    ]
    by_op = {op: macs(info, op) for op in info.ops}
    if sum(by_op.values()):
        share = _percent(sum(by_op[op] for op in on_npu), sum(by_op.values()))
        counted = "counted from the shapes of convolutions, dense layers, matrix products and LSTMs"
        estimates.append(Estimate("MACs on the NPU", share, "%", counted))
    if not on_npu:
        return tuple(estimates)
    time_at = f"{said}; {made.clock_hz / 1e6:g} MHz"
    estimates += [
        Estimate("inference time", made.inference_time_ms, "ms", time_at),
        Estimate("cycles", made.cycles_total, "cycles", f"{said}, waiting for memory included"),
        Estimate("NPU cycles", made.cycles_npu, "cycles", f"{said}, computing alone"),
        Estimate("SRAM", made.sram_bytes, "bytes", f"{said} of the tensors' peak"),
        Estimate("flash", made.flash_bytes, "bytes", f"{said} of the constants the NPU reads"),
    ]
    slowest = max(range(len(info.ops)), key=made.op_cycles.__getitem__)
    if made.op_cycles[slowest]:
        share = _percent(made.op_cycles[slowest], made.cycles_total)
        where = f"{place(info, info.ops[slowest])}, {share:g} % of the cycles"
        estimates.append(Estimate("slowest op", where, "", said))
    return tuple(estimates)


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def _is_float(info: inspect.ModelInfo, op: inspect.Op) -> bool:
    tensors = (info.tensor(i, op.subgraph) for i in op.inputs + op.outputs if i >= 0)
    return any(tensor.is_float and not tensor.is_constant for tensor in tensors)


def _has_uint8(info: inspect.ModelInfo, op: inspect.Op) -> bool:
    tensors = (info.tensor(i, op.subgraph) for i in op.inputs + op.outputs if i >= 0)
    return any(tensor.dtype == "uint8" and not tensor.is_constant for tensor in tensors)
