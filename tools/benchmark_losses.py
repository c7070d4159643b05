"""`benchmark.py losses`: what a step costs with each method, beside the soft target alone."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from benchmark_networks import CLASSES, network
from timing import Run, lower_quartile, resident_peak_mib, time_rounds, write_json

import keras_kd

SOFT_TARGET = "kd"
# From here on a method says in its documentation what it needs the time for.
EXPLAINED_FROM = 2.0
TOKENS, VOCABULARY, LENGTH = 32, 200, 32
NOISE = 0


def encoder(name: str, units: int, heads: int) -> keras.Model:
    """Two transformer blocks on token numbers, 0 for padding; then a class for each token."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, units, mask_zero=True, name="embedding")(inputs)
    for block in (1, 2):
        attention = keras.layers.MultiHeadAttention(heads, units, name=f"attention{block}")
        x = keras.layers.LayerNormalization()(keras.layers.Add()([x, attention(x, x)]))
        y = keras.layers.Dense(units)(keras.layers.Dense(2 * units, activation="relu")(x))
        x = keras.layers.LayerNormalization(name=f"block{block}")(keras.layers.Add()([x, y]))
    return keras.Model(inputs, keras.layers.Dense(TOKENS, name="logits")(x), name=name)


def both(*layers: str) -> dict[str, Any]:
    """The same layers of teacher and student."""
    paths = layers[0] if len(layers) == 1 else list(layers)
    return {"teacher_layer_name": paths, "student_layer_name": paths}


STAGES, LAST, POOL = both("block2", "block3"), both("block3"), both("pool")
BEFORE = both("block3_norm")
CLASSIFIERS = {"teacher_classifier": "logits", "student_classifier": "logits"}

# The options of each method on `benchmark_networks.network`; what is not here needs none.
OPTIONS: dict[str, dict[str, Any]] = {
    "feature": LAST,
    "fitnets": LAST,
    "at": STAGES,
    "nst": LAST,
    "fsp": STAGES,
    "ab": BEFORE,
    "vid": LAST,
    "ofd": BEFORE,
    "cwd": LAST,
    "pkd": LAST,
    "ickd": LAST,
    "reviewkd": STAGES,
    "semckd": STAGES,
    "mgd": LAST,
    "catkd": {**LAST, **CLASSIFIERS},
    "srrl": {**LAST, "teacher_classifier": "logits"},
    "simkd": LAST,
    "rkd": POOL,
    "sp": LAST,
    "cc": POOL,
    "pkt": POOL,
    "crd": {**POOL, "negatives": 1024},
    "irg": both("block2", "block3", "pool"),
}
# Those on `encoder`, beside its own soft target.
SEQUENCE_OPTIONS: dict[str, dict[str, Any]] = {
    SOFT_TARGET: {},
    "hidden": both("block1", "block2"),
    "distilbert": both("block2"),
    "tinybert": both("embedding", "attention1:scores", "block1", "attention2:scores", "block2"),
    "tinybert_prediction": {},
    "minilmv2": {**both("attention2"), "relation_heads": 4},
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every method gets.

    Attributes:
        sequence: Whether the models are encoders of tokens, else networks on pictures.
        batch_size: Examples a step.
        steps: Steps a run.
    """

    sequence: bool
    batch_size: int = 64
    steps: int = 20

    def data(self) -> tuple[Any, np.ndarray]:
        """Numbered inputs, and labels; noise, since time does not depend on it."""
        count = self.batch_size * self.steps
        generator = np.random.default_rng(NOISE)
        if self.sequence:
            x = generator.integers(1, VOCABULARY, size=(count, LENGTH), dtype=np.int32)
            return x, generator.integers(0, TOKENS, size=(count, LENGTH))
        x = generator.normal(size=(count, 32, 32, 3)).astype(np.float32)
        return keras_kd.data.with_index(x), generator.integers(0, CLASSES, size=count)

    def run(self, method: str) -> Run:
        """One epoch of `fit` with the method alone beside the task."""
        keras.utils.set_random_seed(0)
        if self.sequence:
            teacher, student = encoder("teacher", 64, 4), encoder("student", 32, 4)
            options = SEQUENCE_OPTIONS[method]
        else:
            teacher = network("teacher", 32, 16, depth=2, separable=False)
            # The student of SimKD has the teacher's last channels by construction.
            student = network("student", 32, 16, depth=2, separable=True)
            options = dict(OPTIONS.get(method, {}))
            if method == "crd":
                options["n_data"] = self.batch_size * self.steps
            if method == "pskd":
                options["examples"] = self.batch_size * self.steps
            if method == "ft":
                shape = student.get_layer("block3").output.shape
                _, paraphraser = keras_kd.losses.feature.make_paraphraser(shape)
                options |= {**LAST, "paraphraser": paraphraser}
            if method == "multi_teacher":
                inputs = keras.Input((32, 32, 3))
                second = network("second_teacher", 32, 16, depth=2, separable=False)
                teacher = keras.Model(inputs, [teacher(inputs), second(inputs)], name="teachers")
        loss = keras_kd.losses.get(method, **options)
        distiller = keras_kd.Distiller(teacher, student, loss)
        task = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.Adam(1e-3), task)
        x, y = self.data()
        data = keras_kd.data.replayable(x, y, batch_size=self.batch_size, seed=0)
        return lambda: distiller.fit(data, shuffle=False, verbose=0).history["total_loss"][0]


def methods(sequence: bool) -> list[str]:
    """The methods that are tried on that kind of models."""
    if sequence:
        return list(SEQUENCE_OPTIONS)
    known = keras_kd.losses.methods()
    return [m.name for m in known if m.kind != "sequence"]


def add_parser(commands: Any) -> None:
    """Add `losses` to the commands of benchmark.py."""
    command = commands.add_parser("losses", help="a step with each method, beside soft targets")
    command.set_defaults(run=losses)
    command.add_argument("--methods", nargs="+", help="only these; all by default")
    command.add_argument("--rounds", type=int, default=7)
    command.add_argument("--steps", type=int, default=20, help="training steps in a run")
    command.add_argument("--no-memory", action="store_true", help="without a process each")
    command.add_argument("--json", type=Path, help="write all numbers there")
    command.add_argument("--only-memory-of", nargs=2, help=argparse.SUPPRESS)


def losses(args: argparse.Namespace) -> int:
    """The `losses` command."""
    if args.only_memory_of:
        kind, method = args.only_memory_of
        run = Setting(kind == "sequence").run(method)
        run(), run()
        print(resident_peak_mib())
        return 0
    rows: list[dict[str, Any]] = []
    for sequence in (False, True):
        setting = Setting(sequence, steps=args.steps)
        base = setting.run(SOFT_TARGET)
        base(), base()
        memory = None if args.no_memory else peak_memory_mib(sequence, SOFT_TARGET)
        for method in methods(sequence):
            if args.methods and method not in args.methods:
                continue
            run = setting.run(method)
            run(), run()
            seconds = time_rounds(
                {SOFT_TARGET: base, "method": run}, rounds=args.rounds, seed=0, progress=False
            )
            ratio = lower_quartile(seconds["method"]) / lower_quartile(seconds[SOFT_TARGET])
            extra = None if memory is None else peak_memory_mib(sequence, method) - memory
            rows.append(
                {
                    "method": method,
                    "models": "encoders" if sequence else "pictures",
                    "ratio": ratio,
                    "extra_mib": extra,
                    "seconds": seconds,
                }
            )
            print(text(rows[-1]), flush=True)
            del run
            keras.utils.clear_session(free_memory=False)
    if args.json:
        write_json(args.json, rows)
    return 0


def text(row: dict[str, Any]) -> str:
    """One line of the table."""
    extra = "-" if row["extra_mib"] is None else f"{row['extra_mib']:+.0f} MiB"
    mark = " *" if row["ratio"] > EXPLAINED_FROM else ""
    return f"{row['models']:9} {row['method']:20} {row['ratio']:6.2f} {extra:>10}{mark}"


def peak_memory_mib(sequence: bool, method: str) -> float:
    """Peak resident memory of a fresh process that trains with the method."""
    command = [sys.executable, str(Path(__file__).with_name("benchmark.py")), "losses"]
    command += ["--only-memory-of", "sequence" if sequence else "pictures", method]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])
