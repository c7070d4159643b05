"""`benchmark.py quantization`: what a training step costs with fake quantization."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
from benchmark_networks import CLASSES, network
from timing import (
    CONTROL,
    CONTROL_TOLERANCE,
    PLAIN,
    Comparison,
    Run,
    Target,
    time_rounds,
    write_json,
)

from keras_kd import quantization

# What the project promises of convolutional students, on a CPU.
QUANTIZATION_LIMIT = 1.6
BATCH_SIZE, NOISE = 128, 0
SIDES = {
    "int8": {},
    "int8 frozen": {"observing": False, "batch_statistics": False},
    "learned steps": {"observer": quantization.LearnedStep(), "learn_weight_steps": True},
}


def students() -> dict[str, keras.Model]:
    """The students that are timed: one of full convolutions, one of depthwise separable ones."""
    return {
        "convolutions": network("convolutions", 32, 16, depth=2, separable=False),
        "separable": network("separable", 32, 32, depth=2, separable=True),
    }


def run_of(student: keras.Model, x: np.ndarray, y: np.ndarray) -> Run:
    """One epoch of `fit`."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    student.compile(keras.optimizers.SGD(0.01), loss)
    fit = {"batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0}
    return lambda: student.fit(x, y, **fit).history["loss"][0]


def quantized(student: keras.Model, x: np.ndarray, options: dict[str, Any]) -> keras.Model:
    """The student as it trains with some options of a phase, or of the rewrite."""
    phase = {k: v for k, v in options.items() if k in ("observing", "batch_statistics")}
    others = {k: v for k, v in options.items() if k not in phase}
    made = quantization.quantize_aware(student, calibration=x[:BATCH_SIZE], **others)
    quantization.set_phase(made, **phase)
    return made


def compared(student: keras.Model, *, steps: int, rounds: int) -> Comparison:
    """Time the student, a copy of it as control, and its quantized versions."""
    generator = np.random.default_rng(NOISE)
    count = BATCH_SIZE * steps
    x = generator.normal(size=(count, *student.input.shape[1:])).astype(np.float32)
    y = generator.integers(0, CLASSES, size=count)
    sides = {name: quantized(student, x, options) for name, options in SIDES.items()}
    sides |= {PLAIN: student, CONTROL: keras.models.clone_model(student)}
    runs = {name: run_of(model, x, y) for name, model in sides.items()}
    for run in runs.values():
        run(), run()
    return Comparison(time_rounds(runs, rounds=rounds, seed=NOISE), steps, base=PLAIN)


def add_parser(commands: Any) -> None:
    """Add `quantization` to the commands of benchmark.py."""
    command = commands.add_parser("quantization", help="a step with fake quantization")
    command.set_defaults(run=measure)
    command.add_argument("--rounds", type=int, default=15)
    command.add_argument("--steps", type=int, default=10, help="training steps in a run")
    command.add_argument("--json", type=Path, help="write all numbers there")


def measure(args: argparse.Namespace) -> int:
    """The `quantization` command: 0 within the limit, 1 beyond it or void."""
    found, reached = {}, True
    for name, student in students().items():
        comparison = compared(student, steps=args.steps, rounds=args.rounds)
        found[name] = {side: list(seconds) for side, seconds in comparison.seconds.items()}
        print(f"\n{name} ({student.count_params():,} parameters, batches of {BATCH_SIZE})")
        for side, low, middle, high, ratio in comparison.rows():
            print(f"  {side:14} {low:7.1f} {middle:7.1f} {high:7.1f} ms a step {ratio:6.2f}")
        limit = QUANTIZATION_LIMIT + comparison.control_error
        target = Target(f"int8 / {PLAIN}", comparison.ratio("int8"), limit)
        print(f"  {target.name}: {target.value:.2f}, at most {target.limit:.2f}")
        if comparison.void:
            print(f"  VOID: the control is off by more than {CONTROL_TOLERANCE:.0%}")
        reached = reached and target.reached and not comparison.void
    if args.json:
        write_json(args.json, found)
    return 0 if reached else 1
