"""`benchmark.py step`: what a training step costs beside what one would write or run without it.

All in one process, over the same tf.data pipeline: short `fit` calls of our `Distiller`, the best
hand-written `tf.function` loop for the same mathematics, a second copy of that loop as control,
`keras.distillation.Distiller`, and plain `student.fit`. The order is drawn anew each round.
Compared are lower quartiles over the rounds: noise on a busy machine only ever adds time. When the
control, which is the same code, is off by more than 5 %, the run says nothing and is void.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from benchmark_networks import CLASSES, network
from timing import (
    CONTROL,
    CONTROL_TOLERANCE,
    HAND_WRITTEN,
    KERAS,
    MEMORY_LIMIT,
    OURS,
    PLAIN,
    Comparison,
    Run,
    Target,
    resident_peak_mib,
    time_rounds,
    write_json,
)

# Relative difference of the mean loss over a first run. Sums run in other orders and Keras clips
# its KL at 1e-7: up to 3e-6 was seen over 20 steps. A wrong factor or term is worth a percent.
SAME_LOSS = 1e-3

TEMPERATURE = 3.0
STUDENT_LOSS_WEIGHT = 0.5
FEATURE_WEIGHT = 0.1

# What is timed


@dataclasses.dataclass(frozen=True)
class Case:
    """What every side gets: sizes, data, the layers whose features are compared.

    Attributes:
        features: Names of layers in teacher and student; empty for logits only.
        teacher_width: Channels of the teacher's first block.
        teacher_depth: Its convolutions a block; two make it six times as large as the student,
            four fourteen times. The larger the teacher, the less everything else counts.
        student_depth: The student's convolutions a block, depthwise separable ones.
    """

    name: str
    features: tuple[str, ...] = ()
    image_size: int = 32
    width: int = 16
    teacher_width: int = 16
    teacher_depth: int = 2
    student_depth: int = 2
    batch_size: int = 64
    steps: int = 10
    seed: int = 0
    jit_compile: bool = False
    steps_per_execution: int = 1

    def dataset(self) -> tf.data.Dataset:
        """`steps` batches of noise: the time does not depend on what is in the pictures."""
        count = self.batch_size * self.steps
        generator = np.random.default_rng(self.seed)
        shape = (count, self.image_size, self.image_size, 3)
        x = generator.integers(0, 256, size=shape, dtype=np.uint8)
        y = generator.integers(0, CLASSES, size=count)
        rescale = 1.0 / 255.0
        # The autotuner of tf.data sleeps 10, 20, 40, ... ms between its looks, and now and then the
        # end of an iterator waits for it to wake: runs of 1.9 s took 2.55 or 5.11 s.
        options = tf.data.Options()
        options.autotune.enabled = False
        return (
            tf.data.Dataset.from_tensor_slices((x, y))
            .shuffle(count, seed=self.seed, reshuffle_each_iteration=False)
            .batch(self.batch_size, drop_remainder=True)
            .map(lambda x, y: (tf.cast(x, tf.float32) * rescale, y))
            .prefetch(2)
            .with_options(options)
        )

    def teacher(self) -> keras.Model:
        """`teacher_depth` convolutions a block; the same one in every call."""
        keras.utils.set_random_seed(self.seed + 1)
        return network(
            "teacher",
            self.image_size,
            self.teacher_width,
            depth=self.teacher_depth,
            separable=False,
        )

    def student(self) -> keras.Model:
        """A separable network, as devices run them; the same one in every call."""
        keras.utils.set_random_seed(self.seed + 2)
        return network(
            "student", self.image_size, self.width, depth=self.student_depth, separable=True
        )

    def optimizer(self) -> keras.Optimizer:
        """A fresh optimizer, equal on all sides."""
        return keras.optimizers.Adam(1e-3)


def hand_written(case: Case, dataset: tf.data.Dataset) -> Run:
    """The loop that one writes by hand, as fast as we know how to.

    One teacher pass outside the tape, one student pass that gives logits and features, the losses
    from log-softmax without detours, one call of the optimizer, and the means of the losses (which
    `Distiller` reports too) kept as one vector. Nothing else.
    """
    teacher, student, optimizer = case.teacher(), case.student(), case.optimizer()

    def with_features(model: keras.Model) -> keras.Model:
        outputs = {name: model.get_layer(name).output for name in case.features}
        return keras.Model(model.inputs, {"logits": model.output, **outputs})

    teacher_pass, student_pass = with_features(teacher), with_features(student)
    projectors = {}
    variables = [*student.trainable_variables]
    for name in case.features:
        channels, wanted = (m.get_layer(name).output.shape[-1] for m in (student, teacher))
        projectors[name] = keras.layers.Identity()
        if channels != wanted:
            projectors[name] = keras.layers.Conv2D(wanted, 1)
            projectors[name].build((None, None, None, channels))
        variables += projectors[name].trainable_variables
    optimizer.build(variables)
    sums = tf.Variable(tf.zeros(3 + len(case.features)))

    @tf.function(jit_compile=case.jit_compile, autograph=False)
    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        taught = teacher_pass(x, training=False)
        teacher_log = tf.nn.log_softmax(taught["logits"] / TEMPERATURE)
        teacher_probabilities = tf.exp(teacher_log)
        with tf.GradientTape() as tape:
            learnt = student_pass(x, training=True)
            cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(y, learnt["logits"])
            task = tf.reduce_mean(cross_entropy)
            student_log = tf.nn.log_softmax(learnt["logits"] / TEMPERATURE)
            divergence = tf.reduce_sum(teacher_probabilities * (teacher_log - student_log), -1)
            terms = [TEMPERATURE**2 * tf.reduce_mean(divergence)]
            distillation = terms[0]
            for name, projector in projectors.items():
                difference = tf.math.squared_difference(taught[name], projector(learnt[name]))
                terms.append(tf.reduce_mean(difference))
                distillation += FEATURE_WEIGHT * terms[-1]
            total = STUDENT_LOSS_WEIGHT * task + (1 - STUDENT_LOSS_WEIGHT) * distillation
        optimizer.apply(tape.gradient(total, variables), variables)
        sums.assign_add(tf.stack([total, task, *terms]))

    @tf.function(autograph=False)
    def execute(iterator: tf.data.Iterator) -> None:
        if case.steps_per_execution == 1:
            step(*iterator.get_next())
            return

        def body(index: tf.Tensor) -> tuple[tf.Tensor]:
            step(*iterator.get_next())
            return (index + 1,)

        tf.while_loop(lambda index: index < case.steps_per_execution, body, (tf.constant(0),))

    def run() -> float:
        sums.assign(tf.zeros_like(sums))
        iterator = iter(dataset)
        for _ in range(case.steps // case.steps_per_execution):
            execute(iterator)
        return float(sums.numpy()[0]) / case.steps

    return run


def ours(case: Case, dataset: tf.data.Dataset) -> Run:
    """`keras_kd.Distiller`, as a user runs it."""
    import keras_kd

    losses = [keras_kd.LogitsDistillation(temperature=TEMPERATURE)]
    losses += [keras_kd.FeatureDistillation("mse", name, name) for name in case.features]
    return fit_distiller(keras_kd.Distiller, losses, case, dataset)


def keras_distillation(case: Case, dataset: tf.data.Dataset) -> Run:
    """`keras.distillation.Distiller`, with the loss object that makes its KL the right one."""
    divergence = keras.losses.KLDivergence()
    losses = [keras.distillation.LogitsDistillation(temperature=TEMPERATURE, loss=divergence)]
    losses += [keras.distillation.FeatureDistillation("mse", name, name) for name in case.features]
    return fit_distiller(keras.distillation.Distiller, losses, case, dataset)


def fit_distiller(
    distiller_class: type[keras.Model],
    losses: list[keras.distillation.DistillationLoss],
    case: Case,
    dataset: tf.data.Dataset,
) -> Run:
    """The run of a distiller: ours and Keras's take the same arguments."""
    distiller = distiller_class(
        case.teacher(),
        case.student(),
        losses,
        distillation_loss_weights=[1.0] + [FEATURE_WEIGHT] * len(case.features),
        student_loss_weight=STUDENT_LOSS_WEIGHT,
    )
    return fit(distiller, "total_loss", case, dataset)


def plain_fit(case: Case, dataset: tf.data.Dataset) -> Run:
    """The student alone: what distillation costs on top of it is mostly the teacher."""
    return fit(case.student(), "loss", case, dataset)


def fit(model: keras.Model, log: str, case: Case, dataset: tf.data.Dataset) -> Run:
    """One epoch of `fit` a run; `log` is the name of the total loss."""
    task = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        case.optimizer(),
        task,
        jit_compile=case.jit_compile,
        steps_per_execution=case.steps_per_execution,
    )
    return lambda: model.fit(dataset, shuffle=False, verbose=0).history[log][0]


SIDES: dict[str, Callable[[Case, tf.data.Dataset], Run]] = {
    HAND_WRITTEN: hand_written,
    CONTROL: hand_written,
    OURS: ours,
    KERAS: keras_distillation,
    PLAIN: plain_fit,
}


def warm_up(sides: Mapping[str, Run], *, times: int = 2) -> None:
    """Trace every side, and see that all but the plain fit compute the same losses.

    Raises:
        RuntimeError: If a side's mean loss over the first pass is not the hand-written loop's.
    """
    first = {name: run() for name, run in sides.items()}
    expected = first.get(HAND_WRITTEN)
    for name, loss in first.items():
        if name == PLAIN or expected is None:
            continue
        # The comparison is written so that a NaN fails it.
        if not abs(loss - expected) <= SAME_LOSS * abs(expected):
            raise RuntimeError(
                f"Expected the mean loss {expected:.6f} of the hand-written loop on every side. "
                f"Received {loss:.6f} from {name}: it does not compute the same thing."
            )
    for _ in range(times - 1):
        for run in sides.values():
            run()


# Peak memory: a process each


def peak_memory_mib(case: Case, side: str, *, repeats: int) -> list[float]:
    """Peak resident memory of a fresh process that runs `side` alone, `repeats` times."""
    tool = Path(__file__).resolve().with_name("benchmark.py")
    command = [sys.executable, str(tool), "step", "--only-memory-of", side]
    command += ["--case", json.dumps(dataclasses.asdict(case))]
    found = []
    for _ in range(repeats):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(float(done.stdout.split()[-1]))
    return found


def run_for_memory(case: Case, side: str) -> float:
    """Run `side` in this process; its peak resident memory in MiB."""
    warm_up({side: SIDES[side](case, case.dataset())}, times=3)
    return resident_peak_mib()


# The command


@dataclasses.dataclass(frozen=True)
class Result:
    """What one configuration gave."""

    case: Case
    comparison: Comparison
    memory_mib: Mapping[str, Sequence[float]]

    def targets(self) -> list[Target]:
        """The promises on time and memory."""
        found = self.comparison.targets(features=bool(self.case.features))
        if self.memory_mib and OURS in self.memory_mib:
            ours, by_hand = (np.median(self.memory_mib[s]) for s in (OURS, HAND_WRITTEN))
            name = f"peak memory, {OURS} / {HAND_WRITTEN}"
            found.append(Target(name, float(ours / by_hand), MEMORY_LIMIT))
        return found

    def text(self) -> str:
        """The table that a person reads."""
        teacher, student = (m.count_params() for m in (self.case.teacher(), self.case.student()))
        lines = [
            f"{self.case.name}: {teacher:,} weights teach {student:,}, "
            f"batch {self.case.batch_size}, {self.case.steps} steps a run, "
            f"{len(next(iter(self.comparison.seconds.values())))} rounds, "
            f"jit_compile={self.case.jit_compile}, "
            f"steps_per_execution={self.case.steps_per_execution}",
            f"  {'':20} {'ms a step: q1':>14} {'median':>8} {'q3':>8} {'ratio':>7} {'MiB':>7}",
        ]
        for side, low, middle, high, ratio in self.comparison.rows():
            memory = self.memory_mib.get(side)
            shown = f"{np.median(memory):7.0f}" if memory else f"{'-':>7}"
            lines.append(f"  {side:20} {low:14.2f} {middle:8.2f} {high:8.2f} {ratio:7.3f} {shown}")
        if self.comparison.void:
            lines.append(
                f"  VOID: the control, the same code, is off by "
                f"{self.comparison.control_error:.1%} (more than {CONTROL_TOLERANCE:.0%}). "
                "Hint: run it on a quiet machine, or with more --rounds or --steps."
            )
        if self.case.features and KERAS in self.comparison.seconds:
            floor = self.comparison.ratio(HAND_WRITTEN, to=KERAS)
            lines.append(f"  {HAND_WRITTEN} / {KERAS}: {floor:.3f}, for comparison")
        for target in self.targets():
            verdict = "reached" if target.reached else "MISSED"
            lines.append(
                f"  {target.name}: {target.value:.3f}, at most {target.limit:.3f}: {verdict}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Everything, as plain values."""
        return {
            "case": dataclasses.asdict(self.case),
            "seconds": {name: list(values) for name, values in self.comparison.seconds.items()},
            "ratios": {side: self.comparison.ratio(side) for side in self.comparison.seconds},
            "control_error": self.comparison.control_error,
            "void": self.comparison.void,
            "peak_memory_mib": {name: list(values) for name, values in self.memory_mib.items()},
            "targets": [{**dataclasses.asdict(t), "reached": t.reached} for t in self.targets()],
        }


def cases(args: argparse.Namespace) -> list[Case]:
    """The configurations, in the order in which they are run."""
    common = {
        "image_size": args.image_size,
        "width": args.width,
        "teacher_width": args.width,
        "teacher_depth": args.teacher_depth,
        "student_depth": args.student_depth,
        "batch_size": args.batch_size,
        "steps": args.steps,
        "seed": args.seed,
        "jit_compile": args.jit_compile,
        "steps_per_execution": args.steps_per_execution,
    }
    features = ("block2", "block3")
    every = {
        "logits": Case("logits", **common),
        "features": Case("features", features, **common),
        # Other channel counts: our projectors are made by themselves; keras.distillation cannot.
        "projected": Case("projected", features, **common | {"teacher_width": 2 * args.width}),
    }
    return [every[name] for name in args.configurations]


def measure(case: Case, args: argparse.Namespace) -> Result:
    """Run one configuration."""
    names = [s for s in args.sides if not (case.name == "projected" and s == KERAS)]
    dataset = case.dataset()
    sides = {name: SIDES[name](case, dataset) for name in names}
    warm_up(sides)
    seconds = time_rounds(sides, rounds=args.rounds, seed=args.seed)
    memory = {}
    if args.memory_runs:
        for name in names:
            if name in (HAND_WRITTEN, OURS):
                memory[name] = peak_memory_mib(case, name, repeats=args.memory_runs)
    return Result(case, Comparison(seconds, case.steps), memory)


def step(args: argparse.Namespace) -> int:
    """The `step` command: 0 if all targets are reached, 1 if one is missed or the run is void."""
    if args.only_memory_of:
        values = json.loads(args.case)
        values["features"] = tuple(values["features"])
        print(run_for_memory(Case(**values), args.only_memory_of))
        return 0
    machine = {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results = []
    for case in cases(args):
        results.append(measure(case, args))
        print(results[-1].text(), flush=True)
    if args.json:
        content = {"machine": machine, "results": [result.to_json() for result in results]}
        write_json(args.json, content)
    good = all(
        not result.comparison.void and all(t.reached for t in result.targets())
        for result in results
    )
    return 0 if good else 1


def add_parser(commands: Any) -> None:
    """Add `step` to the commands of benchmark.py."""
    command = commands.add_parser("step", help="time and memory of a training step")
    command.set_defaults(run=lambda args: step(checked(args, command)))
    command.add_argument("--rounds", type=positive, default=15, help="15 or more to be quoted")
    command.add_argument("--steps", type=positive, default=100, help="training steps in a run")
    command.add_argument("--batch-size", type=positive, default=64)
    command.add_argument("--image-size", type=positive, default=32, help="pixels a side")
    command.add_argument("--width", type=positive, default=16, help="channels of the first block")
    command.add_argument("--teacher-depth", type=positive, default=2, help="convolutions a block")
    command.add_argument("--student-depth", type=positive, default=2, help="separable ones")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--steps-per-execution", type=positive, default=1, help="in one call, on all sides alike"
    )
    command.add_argument("--jit-compile", action="store_true", help="XLA, on all sides alike")
    known = ["logits", "features", "projected"]
    command.add_argument("--configurations", nargs="+", choices=known, default=known[:2])
    command.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    command.add_argument("--memory-runs", type=int, default=3, help="processes a side; 0: none")
    command.add_argument("--json", type=Path, help="write all numbers there")
    command.add_argument("--only-memory-of", choices=list(SIDES), help=argparse.SUPPRESS)
    command.add_argument("--case", help=argparse.SUPPRESS)


def checked(args: argparse.Namespace, command: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, if they go together; else bad usage."""
    missing = {HAND_WRITTEN, CONTROL} - set(args.sides)
    if missing:
        command.error(f"--sides needs {HAND_WRITTEN} and {CONTROL}: all ratios are to the first.")
    if args.steps % args.steps_per_execution:
        command.error("--steps needs to be a multiple of --steps-per-execution.")
    return args


def positive(text: str) -> int:
    """A number of things, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {value}")
    return value
