"""`benchmark.py targets`: what stored soft targets cost to write, to read and in a step."""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from benchmark_networks import CLASSES, network
from timing import PLAIN, Run, Target, lower_quartile, time_rounds, write_json

import keras_kd
from keras_kd import targets

TOP_K = 5
STORED, AGAIN = "stored targets", "student.fit again"
WRITING, PREDICT = "targets.write", "teacher.predict"

# What the project promises: a step beside the student's alone; examples written beside those that
# `predict` answers in the same time, as a ratio of times; examples read in a second.
STEP_LIMIT = 1.10
WRITE_LIMIT = 1 / 0.95
READ_RATE = 200_000
# The teacher has to cost so much more than the student, or the first would say little.
TEACHER_COST = 10.0


def models() -> tuple[keras.Model, keras.Model]:
    """A teacher of full convolutions, and a separable student of a quarter of its channels."""
    keras.utils.set_random_seed(0)
    teacher = network("teacher", 32, 64, depth=4, separable=False)
    return teacher, network("student", 32, 16, depth=2, separable=True)


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of 32 x 32 x 3, and labels."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 32, 32, 3)).astype(np.float32)
    return x, generator.integers(0, CLASSES, size=count)


def compiled(model: keras.Model) -> keras.Model:
    """The model with the task's loss and optimizer."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    return model


def step(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of an epoch with stored targets and of the student's alone, on the same pipeline."""
    teacher, student = models()
    x, y = pictures(args.batch_size * args.steps)
    targets.write(teacher, x, folder, top_k=TOP_K, batch_size=args.batch_size)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(args.batch_size)
    distiller = keras_kd.Distiller(
        targets.StoredTeacher(folder), student, keras_kd.LogitsDistillation(temperature=1.0)
    )
    sides = {STORED: (compiled(distiller), targets.attach(batches, folder))}
    for name in (PLAIN, AGAIN):
        sides[name] = (compiled(models()[1]), batches)
    # Noise has no classes: the teacher is no better than chance on it, and that is no matter here.
    warnings.filterwarnings("ignore", message="Expected a teacher that is better than chance")
    runs = {name: epoch(*side) for name, side in sides.items()}
    for run in runs.values():  # Traces the steps.
        run()
    seconds = time_rounds(runs, rounds=args.rounds, seed=0)
    costs = {
        "teacher": seconds_of(lambda: teacher.predict(x, verbose=0, batch_size=args.batch_size)),
        "student": seconds_of(lambda: student.predict(x, verbose=0, batch_size=args.batch_size)),
    }
    return {
        "seconds": seconds,
        "ratio": ratio(seconds, STORED, PLAIN),
        "control": ratio(seconds, AGAIN, PLAIN),
        "teacher_cost": costs["teacher"] / costs["student"],
    }


def epoch(model: keras.Model, data: tf.data.Dataset) -> Run:
    """One epoch of `fit`; the mean loss."""
    batches = data.prefetch(2)
    return lambda: model.fit(batches, shuffle=False, verbose=0).history["loss"][0]


def writing(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds to write the answers, and of the teacher's own `predict` on the same arrays.

    Of both without what is done once, the tracing of their graphs.
    """
    teacher, _ = models()
    x, _ = pictures(args.batch_size * args.steps)
    options = {"top_k": TOP_K, "batch_size": args.batch_size}
    task = targets.task.Task(
        teacher,
        tf.data.Dataset.from_tensor_slices(x),
        **targets.writer.with_defaults(options),
    )
    folders = (folder / str(number) for number in itertools.count())
    runs = {
        WRITING: lambda: task.write(next(folders)),
        PREDICT: lambda: teacher.predict(x, batch_size=args.batch_size, verbose=0),
    }
    for run in runs.values():
        run()
    seconds = time_rounds(runs, rounds=args.rounds, seed=0)
    return {
        "seconds": seconds,
        "ratio": ratio(seconds, WRITING, PREDICT),
        "rate": len(x) / lower_quartile(seconds[WRITING]),
    }


def reading(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Examples a second: of the answers alone, and of a pipeline with and without them."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(args.examples, 4)).astype(np.float32)

    def teacher(x: np.ndarray) -> np.ndarray:
        return np.tile(x, 3)[:, :CLASSES]

    task = {"outputs": "logits", "fingerprint": "noise", "batch_size": 4096}
    manifest = targets.write(teacher, x, folder, top_k=TOP_K, **task)
    stored = targets.Stored(folder)
    keys = generator.permutation(stored.keys)
    batches = tf.data.Dataset.from_tensor_slices(x).shuffle(16 * 1024).batch(256)

    def answers() -> None:
        for start in range(0, len(keys), 256):
            stored.read(keys[start : start + 256])

    def passed(data: tf.data.Dataset) -> None:
        for _ in data.prefetch(2):
            pass

    joined = targets.attach(batches, folder)
    runs = {
        "look-up alone": answers,
        "shuffled batches of 256 with their answers": lambda: passed(joined),
        "the same without answers": lambda: passed(batches),
    }
    seconds = time_rounds(runs, rounds=args.rounds, seed=0)
    files = sum(file.stat().st_size for file in folder.iterdir())
    return {
        "seconds": seconds,
        "rates": {name: args.examples / lower_quartile(s) for name, s in seconds.items()},
        "record_bytes": manifest.record().itemsize,
        "bytes": files / args.examples,
    }


def seconds_of(run: Callable[[], Any]) -> float:
    """The quickest of five runs after a first one."""
    found = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def ratio(seconds: dict[str, list[float]], of: str, to: str) -> float:
    """Lower quartile over lower quartile."""
    return lower_quartile(seconds[of]) / lower_quartile(seconds[to])


def text(found: dict[str, Any]) -> str:
    """What a person reads."""
    lines = []
    if "step" in found:
        a = found["step"]
        lines.append(
            f"step: the teacher's forward pass costs {a['teacher_cost']:.1f} of the student's; "
            f"the same fit again: {a['control']:.3f}"
        )
    if "writing" in found:
        lines.append(f"writing: {found['writing']['rate']:,.0f} examples a second")
    if "reading" in found:
        a = found["reading"]
        lines += [f"reading: {rate:,.0f} examples a second, {n}" for n, rate in a["rates"].items()]
        lines.append(
            f"bytes: {a['record_bytes']} a record of the {TOP_K} largest of {CLASSES} classes, "
            f"{a['bytes']:.1f} an example with index and manifest"
        )
    lines += [
        f"  {target.name}: {target.value:.3f}, at most {target.limit:.3f}: "
        f"{'reached' if target.reached else 'MISSED'}"
        for target in promises(found)
    ]
    return "\n".join(lines)


def promises(found: dict[str, Any]) -> list[Target]:
    """What is to be held against the numbers."""
    kept = []
    if "step" in found:
        kept.append(Target(f"{STORED} / {PLAIN}", found["step"]["ratio"], STEP_LIMIT))
        cost = TEACHER_COST / found["step"]["teacher_cost"]
        kept.append(Target(f"{TEACHER_COST:.0f} students / teacher", cost, 1.0))
    if "writing" in found:
        kept.append(Target(f"{WRITING} / {PREDICT}", found["writing"]["ratio"], WRITE_LIMIT))
    if "reading" in found:
        rate = found["reading"]["rates"]["look-up alone"]
        kept.append(Target(f"{READ_RATE:,} / examples read a second", READ_RATE / rate, 1.0))
    return kept


def measure(args: argparse.Namespace) -> int:
    """The `targets` command."""
    found: dict[str, Any] = {"cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[Path], dict[str, Any]]] = {
            "step": lambda path: step(args, path),
            "writing": lambda path: writing(args, path),
            "reading": lambda path: reading(args, path),
        }
        for name in args.parts:
            found[name] = parts[name](Path(folder) / name)
    print(text(found))
    if args.json:
        write_json(args.json, found)
    return 0 if all(target.reached for target in promises(found)) else 1


def add_parser(commands: Any) -> None:
    """Adds `targets` to the commands of benchmark.py."""
    command = commands.add_parser("targets", help="stored soft targets: step, writing, reading")
    command.set_defaults(run=measure)
    command.add_argument("--rounds", type=int, default=15, help="15 or more to be quoted")
    command.add_argument("--steps", type=int, default=40, help="batches in a run")
    command.add_argument("--batch-size", type=int, default=64)
    command.add_argument("--examples", type=int, default=1_000_000, help="that are read in a run")
    known = ["step", "writing", "reading"]
    command.add_argument("--parts", nargs="+", choices=known, default=known)
    command.add_argument("--json", type=Path, help="write all numbers there")
