"""Quantization-aware training side by side with tensorflow-model-optimization, on Fashion-MNIST.

    pip install "keras-kd[data,demo,tfmot]"
    python examples/compare_tfmot.py --seeds 3

For each seed one float student, a small residual network that both can take, is trained; then it is
trained on with simulated int8, once by tfmot on its tf_keras twin, and once by
`keras_kd.quantization.quantize_aware`: same weights to begin with, same batches in the same order,
same augmentation, same optimizer and learning rates, same number of steps. Both become int8 .tflite
files without calibration, which LiteRT runs on the whole test split. Beside them stand the float
student and its int8 file by calibration alone. The time of a training step is taken in turns, that
of the float student in either Keras too. Stopped in the middle, the same command goes on where it
was.

Paper: Jacob et al., arXiv:1712.05877, section 3; the student is the first stages of He et al.,
    arXiv:1512.03385, figure 3.
Dataset: Fashion-MNIST, `fashion_mnist` of tensorflow-datasets; the test split is read for the table
    only, and nothing was chosen on it.
Cost: on two cores about 6 minutes for each seed and 2 for the steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import fashion_mnist
import keras
import numpy as np
import tensorflow as tf
import tf_keras
from fashion_mnist import Data, augment, convolution, finished, write

import keras_kd
from keras_kd.quantization import quantize_aware, tfmot

FLOAT, AFTERWARDS, TFMOT, OURS = "float", "post-training int8", "tfmot", "keras_kd"
RESULTS = Path(__file__).parent / "results" / "compare_tfmot.md"


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every student gets."""

    float_epochs: int = 8
    quantized_epochs: int = 4
    batch_size: int = 128
    float_learning_rate: float = 4e-3
    quantized_learning_rate: float = 5e-4
    timed_rounds: int = 7
    timed_steps: int = 100


FAST = Budget(float_epochs=1, quantized_epochs=1, timed_rounds=2, timed_steps=5)


def student_network(shape: tuple[int, int, int]) -> keras.Model:
    """A stem and three residual blocks of two convolutions; 20,146 weights."""
    inputs = keras.Input(shape)
    x = convolution(inputs, 8)
    for stage, (width, strides) in enumerate(((8, 1), (16, 2), (32, 2))):
        y = convolution(x, width, strides=strides)
        y = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
        y = keras.layers.BatchNormalization()(y)
        if stage:
            x = keras.layers.Conv2D(width, 1, strides=strides, use_bias=False)(x)
            x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(fashion_mnist.CLASSES, name="logits")(x))


def fit(
    model: Any, library: ModuleType, data: Data, budget: Budget, epochs: int, rate: float, seed: int
) -> None:
    """Train a model of Keras 3 or of tf_keras, whichever `library` is, with all else the same."""
    steps = -(-len(data.train.x) // budget.batch_size)
    schedule = library.optimizers.schedules.CosineDecay(
        rate, decay_steps=steps * epochs, alpha=0.01
    )
    model.compile(
        library.optimizers.Adam(schedule),
        library.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batches = keras_kd.data.replayable(
        data.train.scaled(),
        data.train.y.astype("int32"),
        batch_size=budget.batch_size,
        seed=seed,
        augment=augment,
    )
    tell = library.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: batches.epoch.assign(e))
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[tell])


def float_student(data: Data, folder: Path, budget: Budget, seed: int) -> keras.Model:
    """The float student of a seed, from `folder` if an earlier run finished it."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(seed)
        student = student_network(data.train.x.shape[1:])
        epochs, rate = budget.float_epochs, budget.float_learning_rate
        fit(student, keras, data, budget, epochs, rate, seed)
        return student

    return finished(folder, "float", make)


def quantized(row: str, student: keras.Model, data: Data, budget: Budget, seed: int) -> keras.Model:
    """The student, trained on with simulated int8 by tfmot or by us, as `convert` takes it."""
    keras.utils.set_random_seed(seed)
    model, library = simulated(row, student)
    fit(
        model,
        library,
        data,
        budget,
        budget.quantized_epochs,
        budget.quantized_learning_rate,
        seed + 1000,
    )
    return tfmot.frozen(model) if row == TFMOT else model


def simulated(row: str, student: keras.Model) -> tuple[Any, ModuleType]:
    """The student with simulated int8, and the Keras that trains it."""
    if row == TFMOT:
        return tfmot.quantize(student), tf_keras
    return quantize_aware(student), keras


def measured(row: str, data: Data, folder: Path, budget: Budget, seed: int) -> dict[str, Any]:
    """Accuracy on the test split of one row and seed, and the size of its file."""
    student = float_student(data, folder, budget, seed)
    x, y = data.test.scaled(), data.test.y
    if row == FLOAT:
        (found,) = keras_kd.deploy.measure(student, x, y, progress=False)
        return {"accuracy": found.value, "size_bytes": None}
    path = folder / f"{row.replace(' ', '-')}.tflite"
    if row == AFTERWARDS:
        examples = data.train.scaled()[:500]
        artifact = keras_kd.deploy.convert(student, path, calibration=examples)
    else:
        artifact = keras_kd.deploy.convert(quantized(row, student, data, budget, seed), path)
    (found,) = keras_kd.deploy.measure(artifact, x, y, progress=False)
    return {"accuracy": found.value, "size_bytes": artifact.size_bytes}


def step_times(data: Data, budget: Budget) -> dict[str, list[float]]:
    """Milliseconds that a training step takes, for each row one number a round, taken in turns."""
    keras.utils.set_random_seed(0)
    student = student_network(data.train.x.shape[1:])
    models = {
        "float, Keras 3": (student, keras),
        "float, tf_keras": (tfmot.twin(student), tf_keras),
        TFMOT: simulated(TFMOT, student),
        OURS: simulated(OURS, student),
    }
    count = budget.timed_steps * budget.batch_size
    repeats = -(-count // len(data.train.x))
    x = np.concatenate([data.train.scaled()] * repeats)[:count]
    y = np.concatenate([data.train.y] * repeats)[:count].astype("int32")
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(budget.batch_size).cache()
    for model, library in models.values():
        loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(library.optimizers.Adam(1e-4), loss)
        model.fit(batches, shuffle=False, verbose=0)  # Traces the step, and fills the cache.
    times: dict[str, list[float]] = {row: [] for row in models}
    for _ in range(budget.timed_rounds):
        for row, (model, _) in models.items():
            started = time.perf_counter()
            model.fit(batches, shuffle=False, verbose=0)
            times[row].append(1000 * (time.perf_counter() - started) / budget.timed_steps)
    return times


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What `path` holds, made and written there if it is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(make()))
    return json.loads(path.read_text())


def run(data: Data, output: Path, budget: Budget, *, seeds: int, command: str) -> str:
    """All of it, as a page of Markdown; what is finished in `output` is not done again."""
    began = dataclasses.asdict(budget)
    if once(output / "budget.json", lambda: began) != began:
        raise ValueError(
            f"Expected a folder begun with {began}. Received: {output}. Hint: another --output."
        )
    results: dict[str, list[dict[str, Any]]] = {}
    for row in (FLOAT, AFTERWARDS, TFMOT, OURS):
        results[row] = []
        for seed in range(seeds):
            folder = output / f"seed-{seed}"
            path = folder / f"{row.replace(' ', '-')}.json"

            def make(row: str = row, folder: Path = folder, seed: int = seed) -> dict[str, Any]:
                return measured(row, data, folder, budget, seed)

            results[row].append(once(path, make))
            print(f"seed {seed}, {row}: {results[row][-1]['accuracy']:.2%}", flush=True)
    times = once(output / "steps.json", lambda: step_times(data, budget))
    return page(results, times, budget, len(data.test.y), command)


def page(
    results: dict[str, list[dict[str, Any]]],
    times: dict[str, list[float]],
    budget: Budget,
    examples: int,
    command: str,
) -> str:
    """The tables, with what they say of accuracy and of the step."""
    accuracy = {
        row: np.array([100 * e["accuracy"] for e in found]) for row, found in results.items()
    }
    seeds = len(accuracy[FLOAT])
    lines = [
        "# Quantization-aware training beside tensorflow-model-optimization",
        "",
        f"    {command}",
        "",
        f"Fashion-MNIST, {seeds} seed(s); {platform.machine()}, "
        f"Python {platform.python_version()}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}. Each float student is trained for {budget.float_epochs} "
        f"epochs, then for {budget.quantized_epochs} with simulated int8, by both on the same "
        f"batches with the same augmentation and learning rates. Accuracy on the {examples:,} test "
        "pictures, on LiteRT but for the float student; mean and deviation over the seeds.",
        "",
        "| student | accuracy, % | deviation | file, bytes |",
        "| --- | --- | --- | --- |",
    ]
    for row, values in accuracy.items():
        size = max(entry["size_bytes"] or 0 for entry in results[row])
        deviation = f"{values.std(ddof=1):.2f}" if seeds > 1 else ""
        lines.append(f"| {row} | {values.mean():.2f} | {deviation} | {size or ''} |")
    lines += [
        "",
        f"`keras_kd` against tfmot: {in_words(accuracy[OURS] - accuracy[TFMOT])}.",
        "",
        f"A training step of {budget.batch_size} pictures, {budget.timed_rounds} rounds of "
        f"{budget.timed_steps} steps in turns:",
        "",
        "| student | median, ms | smallest | largest |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row} | {np.median(t):.1f} | {min(t):.1f} | {max(t):.1f} |" for row, t in times.items()
    ]
    ratio = np.array(times[OURS]) / np.array(times[TFMOT])
    overhead = np.array(times[OURS]) / np.array(times["float, Keras 3"])
    lines += [
        "",
        f"`keras_kd`'s step takes {spread(ratio)} of tfmot's, and {spread(overhead)} of the float "
        "student's, round by round.",
    ]
    return "\n".join(lines) + "\n"


def spread(values: np.ndarray) -> str:
    """The median, with the smallest and the largest."""
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def in_words(differences: np.ndarray) -> str:
    """A mean of differences by seed, with its standard error where there are several."""
    mean = f"{differences.mean():+.2f}"
    if len(differences) == 1:
        return f"{mean} points in one seed"
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return f"{mean} ± {error:.2f} points (standard error over the seeds, paired)"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="of tensorflow-datasets; downloads what is not there")
    parser.add_argument("--output", type=Path, default=Path("compare_tfmot_output"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the page that is written")
    parser.add_argument("--seeds", type=int, default=1, help="students of each row")
    parser.add_argument("--fast", action="store_true", help="one epoch each: only to see it run")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"argument --seeds: expected at least 1, received {args.seeds}")
    try:
        data = fashion_mnist.load(args.data_dir)
    except ImportError as err:
        print(f'{err}. Hint: pip install "keras-kd[data,demo,tfmot]"', file=sys.stderr)
        return 1
    budget = FAST if args.fast else Budget()
    options = f" --seeds {args.seeds}{' --fast' if args.fast else ''}"
    found = run(
        data,
        args.output,
        budget,
        seeds=args.seeds,
        command=f"python examples/compare_tfmot.py{options}",
    )
    write(args.results, found)
    print(f"\n{found}\n{args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
