"""Microcontrollers with TFLite Micro: ops and types, arena, flash, and how its kernels compute.

The ops are held against tables (`micro_ops`, `tflm_kernels`), all of them at once. Then TFLM itself
runs the model, where it is installed: its arena is measured, and its outputs are compared with
LiteRT's reference kernels, which define what integer results are.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_kd.deploy import arena, inspect, micro_ops, micro_process, tflm_kernels
from keras_kd.deploy.artifact import TensorInfo, quantization_of
from keras_kd.deploy.devices.base import Device, Fact
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
    printable,
)
from keras_kd.deploy.interpreter import Interpreter
from keras_kd.deploy.measure import agreement, mean_and_standard_error, top_1_correct
from keras_kd.deploy.rules import tflm_cures
from keras_kd.deploy.stderr_capture import captured_stderr

_COMMIT = "tensorflow/tflite-micro at 90b983c2b3f1480642e040bbd2ddb37b998f3424"
_OPS_SOURCE = f"{_COMMIT}, python/tflite_micro/python_ops_resolver.cc"
_TYPES_SOURCE = f"{_COMMIT}, tensorflow/lite/micro/kernels"
_WHEEL = "tflite-micro 0.dev20261023182759, asked op by op and type by type"
_ARENA_SOURCE = (
    "MLPerf Tiny's keyword, ResNet-8 and person models: 24,272, 55,984 and 103,680 bytes in "
    "Python; 27,444, 55,124 and 100,868 on a Cortex-M55 with CMSIS-NN"
)
_OP_TARGET, _NOWHERE = "tflm", "none"
# Ops that a compiler made for one accelerator: the file before the compiler is the one to take.
_COMPILED = ("edgetpu-custom-op", "ethos-u")
# In float both compute the same but for rounding, 1e-5 or so; a hundredth of the largest output is
# a fault. In integers each op rounds its own way: up to 11 steps of 255 were seen on sound models.
FAULT_SHARE, DISTANT_STEPS = 0.01, 32
RANDOM_EXAMPLES = 5
_SEED = 0


def judge(subject: Subject, device: Device) -> Verdict:
    """What TFLite Micro makes of a model on a microcontroller.

    Without `subject.x` the kernels are compared on a few seeded random inputs.

    Raises:
        ValueError: `subject.x` or `subject.y` do not fit the model's inputs.
    """
    info = subject.info
    static = Verdict(
        findings=(*_missing_ops(info), *_custom_ops(info), *_refused_ops(info)),
        placements=_placements(info),
        estimates=(_resolver(info),),
    )
    if any(finding.severity == ERROR for finding in static.findings):
        reason = "TFLite Micro was not run: it would stop at the first of the ops above."
        return static + _memory(info, device, None, reason)
    if not micro_process.is_installed():
        reason = (
            'TFLite Micro is not installed (pip install "keras-kd[mcu]"): ops and types were held '
            "against the table of its kernels, and of the arena only the least it can be is known."
        )
        return static + _memory(info, device, None, reason)
    trial = micro_process.trial(subject.content)
    if trial.arena_bytes is None:
        reason = "Of the arena only the least it can be is known."
        refused = Verdict(findings=(_trial_failed(trial),))
        return static + refused + _memory(info, device, None, reason)
    return static + _memory(info, device, trial.arena_bytes, "") + _behaviour(subject)


def _missing_ops(info: inspect.ModelInfo) -> Iterator[Finding]:
    missing = [op for op in info.ops if not op.is_custom and not micro_ops.has(op)]
    for name in dict.fromkeys(op.name for op in missing):
        yield Finding(
            ERROR,
            "op-missing",
            f"TFLite Micro has no {name}.",
            tflm_cures.for_missing(name),
            places(info, (op for op in missing if op.name == name)),
            _OPS_SOURCE,
            _WHEEL,
        )


def _custom_ops(info: inspect.ModelInfo) -> Iterator[Finding]:
    for name in info.custom_ops:
        if name in micro_ops.CUSTOM_OPS:
            continue
        where = places(info, (op for op in info.ops if op.is_custom and op.name == name))
        if name in _COMPILED:
            yield Finding(
                ERROR,
                "compiled-op",
                f"'{name}' was made by a compiler for its own accelerator; TFLite Micro has none.",
                "Take the model as it was before that compiler.",
                where,
                _OPS_SOURCE,
                _WHEEL,
            )
        else:
            flex = "a TensorFlow op (Flex)" if name.startswith("Flex") else "a custom op"
            yield Finding(
                ERROR,
                "custom-op",
                f"'{printable(name)}' is {flex}, and TFLite Micro has no kernel for it.",
                "Replace the layer it comes from by one with TFLite's own ops; "
                "keras_kd.deploy.convert names such layers.",
                where,
                _OPS_SOURCE,
                _WHEEL,
            )


def _refused_ops(info: inspect.ModelInfo) -> Iterator[Finding]:
    """A finding for each op and each combination of types, with all places where it stands."""
    groups: dict[tuple[str, str, str], list[inspect.Op]] = collections.defaultdict(list)
    for op in info.ops:
        for refusal in tflm_kernels.refusals(info, op):
            groups[op.name, refusal.rule, refusal.reason].append(op)
    for (name, rule, reason), ops in groups.items():
        dtypes = {info.tensor(i, ops[0].subgraph).dtype for i in _tensors(ops[0])}
        is_types = rule == "op-types"
        yield Finding(
            ERROR,
            rule,
            f"TFLite Micro refuses {name} here: {reason}.",
            tflm_cures.for_types(dtypes) if is_types else tflm_cures.for_limit(rule, name),
            places(info, ops),
            _TYPES_SOURCE,
            _WHEEL,
        )


def _tensors(op: inspect.Op) -> tuple[int, ...]:
    return tuple(index for index in (*op.inputs, *op.outputs) if index >= 0)


def _placements(info: inspect.ModelInfo) -> tuple[Placement, ...]:
    placed = []
    for op in info.ops:
        if not micro_ops.has(op):
            placed.append(Placement(op, _NOWHERE, "TFLite Micro lacks it"))
            continue
        refusals = tflm_kernels.refusals(info, op)
        target = _NOWHERE if refusals else _OP_TARGET
        placed.append(Placement(op, target, "; ".join(r.reason for r in refusals)))
    return tuple(placed)


def _resolver(info: inspect.ModelInfo) -> Estimate:
    names = sorted({printable(op.name) for op in info.ops})
    how = f"for MicroMutableOpResolver<{len(names)}>: {', '.join(names)}"
    return Estimate("ops to register", len(names), "ops", how)


def _trial_failed(trial: micro_process.Trial) -> Finding:
    rule, what = {
        "crash": ("tflm-crashes", "TFLite Micro ended its process over the model"),
        "timeout": ("tflm-hangs", "TFLite Micro did not come to an end"),
    }.get(trial.ended_by, ("tflm-refuses", "TFLite Micro refuses the model"))
    return Finding(
        ERROR,
        rule,
        f"{what}: {trial.said}.",
        "Every op and type is in its tables, so it is a size, a scale or a damaged file: convert "
        "again with keras_kd.deploy.convert, and look at the op that is named.",
        source=f"tflite-micro {micro_process.version()}, run on this host",
        verified="run just now",
    )


def _memory(
    info: inspect.ModelInfo, device: Device, arena_bytes: int | None, not_run: str
) -> Verdict:
    """Flash and RAM: with the measured arena, or else with the least that it can be."""
    bound = arena.lower_bound(info)
    widest = f" The most is alive at {place(info, bound.op)}." if bound.op else ""
    if arena_bytes is None:
        taken, how = bound.arena_bytes, "at least: the tensors that are alive at once"
        of_arena = Verdict(
            estimates=(Estimate("arena, at least", taken, "bytes", f"{how}.{widest}"),)
        )
    else:
        taken = arena.arena_to_reserve(arena_bytes)
        how = f"arena of {arena_bytes:,} measured in TFLM on this host, plus 20 % and 1 KiB"
        of_arena = _arena(arena_bytes, taken, widest)
    flash = _budget(
        "flash",
        info.size_bytes,
        f"model of {info.size_bytes:,}",
        device.flash_bytes,
        device.flash_reserved_bytes,
    )
    ram = _budget("RAM", taken, how, device.ram_bytes, device.ram_reserved_bytes)
    smaller = "fewer or narrower layers"
    if quantization_of(info) == "float32":
        smaller = 'quantization="int8", which takes about a quarter'
    too_small = (
        *over_budget(device, flash, f"A smaller model: {smaller}; or a board with more."),
        *over_budget(
            device,
            ram,
            f"A smaller input, an earlier stride, or fewer channels where it is widest; {smaller}; "
            f"or a board with more.{widest}",
        ),
    )
    return of_arena + Verdict(
        findings=too_small, budgets=(flash, ram), not_run=(not_run,) if not_run else ()
    )


def _arena(measured_bytes: int, reserved_bytes: int, widest: str) -> Verdict:
    """What was measured, and what to reserve for it."""
    measured = f"measured in tflite-micro {micro_process.version()} on this host"
    advice = Finding(
        NOTE,
        "arena",
        f"The arena took {measured_bytes:,} bytes here; a board's own kernels take up to 13 % more "
        "or less, and TFLite Micro some hundred bytes more while it starts.",
        f"Reserve {reserved_bytes:,} bytes, 20 % and 1 KiB more: "
        f"constexpr int kArenaBytes = {reserved_bytes};",
        source=_ARENA_SOURCE,
    )
    return Verdict(
        findings=(advice,),
        estimates=(
            Estimate("arena", measured_bytes, "bytes", f"{measured}.{widest}"),
            Estimate("arena to reserve", reserved_bytes, "bytes", "measured, plus 20 % and 1 KiB"),
        ),
    )


def _budget(
    name: str, taken: int, how: str, available: Fact | None, reserved: Fact | None
) -> Budget:
    kept = reserved.value if reserved is not None else 0
    if kept:
        how += f", plus {kept:,} for runtime and application"
    return Budget(name, taken + kept, None if available is None else available.value, how)


def _behaviour(subject: Subject) -> Verdict:
    """TFLM's outputs against the reference kernels', and its accuracy."""
    no_board = Verdict(not_run=("No board was run: its latency and energy are not known.",))
    if subject.x is None:
        return _on_random_inputs(subject.content) + no_board
    tflm, verdict = _interpreter(subject.content, "tflm")
    if tflm is None:
        return verdict + no_board
    outputs, said = _predicted(tflm, subject.x)
    if outputs is None:
        return Verdict(findings=(_trial_failed(micro_process.Trial(None, "refusal", said)),))
    count = len(_listed(outputs, tflm.outputs)[0])
    verdict += _compared(subject.content, tflm, subject.x, outputs, f"{count} examples")
    return verdict + _accuracy(subject.y, outputs, count) + no_board


@functools.lru_cache(maxsize=16)
def _on_random_inputs(content: bytes) -> Verdict:
    """The same for every board, so it is kept for the last few models."""
    tflm, verdict = _interpreter(content, "tflm")
    if tflm is None:
        return verdict
    x = random_inputs(tflm.inputs)
    outputs, said = _predicted(tflm, x)
    if outputs is None:
        # Random numbers may be none that the model is made for: the root of a negative one.
        return Verdict(not_run=(f"No comparison: TFLite Micro stopped at random inputs: {said}.",))
    how = f"{RANDOM_EXAMPLES} random inputs (seed {_SEED}), for want of real examples"
    return verdict + _compared(content, tflm, x, outputs, how)


def _predicted(interpreter: Interpreter, x: Any) -> tuple[Any, str]:
    """The outputs; or None and what the runtime wrote, where it stopped."""
    try:
        with captured_stderr() as captured:
            return interpreter.predict(x), ""
    except RuntimeError as err:
        return None, "; ".join((*captured.text.split("\n")[:4], str(err))).lstrip("; ")


def _interpreter(content: bytes, runtime: str) -> tuple[Interpreter | None, Verdict]:
    try:
        return Interpreter(content, runtime), Verdict()
    except (RuntimeError, ValueError) as err:
        named = {"tflm": "TFLite Micro", "litert_reference": "LiteRT's reference kernels"}[runtime]
        why = " ".join(str(err).split())[:300]
        return None, Verdict(not_run=(f"{named} were not compared with: {why}",))


def random_inputs(inputs: Sequence[TensorInfo]) -> dict[str, np.ndarray] | np.ndarray:
    """Seeded random inputs as the tensors hold them, [RANDOM_EXAMPLES, ...].

    Quantized ones over the whole range of their type, float32 in -1..1; integers without a scale
    are 0 or 1, since they may be indices.
    """
    rng = np.random.default_rng(_SEED)

    def drawn(tensor: TensorInfo) -> np.ndarray:
        shape, dtype = (RANDOM_EXAMPLES, *tensor.shape[1:]), np.dtype(tensor.dtype)
        if dtype.kind == "f":
            return rng.uniform(-1, 1, shape).astype(dtype)
        if tensor.scale is None:
            return rng.integers(0, 2, shape).astype(dtype)
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)

    arrays = {tensor.name: drawn(tensor) for tensor in inputs}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _compared(content: bytes, tflm: Interpreter, x: Any, outputs: Any, how: str) -> Verdict:
    """How often and how far TFLM's outputs are from the reference kernels'."""
    reference, verdict = _interpreter(content, "litert_reference")
    if reference is None:
        return verdict
    expected, said = _predicted(reference, x)
    if expected is None:
        return Verdict(not_run=(f"No comparison: the reference kernels stopped: {said}.",))
    how = f"TFLM against LiteRT's reference kernels, on {how}"
    estimates: list[Estimate] = []
    findings: list[Finding] = []
    tensors = tflm.outputs
    triples = zip(tensors, _listed(outputs, tensors), _listed(expected, tensors), strict=True)
    for tensor, ours, theirs in triples:
        of = f" of '{tensor.name}'" if len(tensors) > 1 else ""
        distance = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
        unit = "absolute"
        if tensor.scale is not None:
            distance, unit = np.rint(distance / tensor.scale), "steps"
        elif np.dtype(tensor.dtype).kind in "iub":
            unit = "steps"
        share = float(np.mean(distance > 0)) if distance.size else 0.0
        most = float(distance.max(initial=0.0))
        estimates.append(Estimate(f"outputs{of} that differ", share, "share", how))
        estimates.append(Estimate(f"largest difference{of}", most, unit, how))
        findings += _apart(tensor, most, float(np.max(np.abs(theirs), initial=0.0)), how)
    same = agreement(expected, outputs)
    if same is not None:
        estimates.append(Estimate("same decision", same, "share", f"largest class; {how}"))
    return Verdict(findings=tuple(findings), estimates=tuple(estimates))


def _apart(tensor: TensorInfo, most: float, largest: float, how: str) -> Iterator[Finding]:
    """A finding where TFLM's outputs are not those of the reference kernels."""
    if np.dtype(tensor.dtype).kind == "f" and most > FAULT_SHARE * largest:
        yield Finding(
            ERROR,
            "tflm-differs",
            f"TFLite Micro computes '{printable(tensor.name)}' wrongly: by up to {most:.3g}, where "
            f"the largest value is {largest:.3g} ({how}).",
            "Loops (WHILE) that collect a sequence are known to go wrong: unroll the layer "
            '(unroll=True), or convert with quantization="int8".',
            source=f"tflite-micro {micro_process.version()}, run on this host",
            verified="run just now",
        )
    elif tensor.scale is not None and most > DISTANT_STEPS:
        yield Finding(
            WARNING,
            "tflm-differs",
            f"TFLite Micro's '{printable(tensor.name)}' is up to {most:.0f} steps from the "
            f"reference kernels' ({how}).",
            "Judge the model by its accuracy on TFLite Micro: --data with labels measures it.",
            source=f"tflite-micro {micro_process.version()}, run on this host",
            verified="run just now",
        )


def _accuracy(y: Any, outputs: Any, count: int) -> Verdict:
    if y is None:
        return Verdict()
    try:
        value, error = mean_and_standard_error(top_1_correct(y, outputs))
    except ValueError as err:
        return Verdict(not_run=(f"No accuracy on TFLite Micro: {err}",))
    how = f"top-1 on TFLM, {count} examples, standard error {error:.4f}"
    return Verdict(estimates=(Estimate("accuracy", value, "share", how),))


def _listed(outputs: Any, tensors: Sequence[TensorInfo]) -> list[np.ndarray]:
    """A prediction's outputs in the order of the tensors."""
    if isinstance(outputs, dict):
        return [outputs[tensor.name] for tensor in tensors]
    return list(outputs) if isinstance(outputs, list) else [outputs]
