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

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import experiment
import fashion_mnist
import keras
import numpy as np
import presentation
import tensorflow as tf
import tf_keras

import keras_kd
from keras_kd import report
from keras_kd.quantization import quantize_aware, tfmot

FLOAT, AFTERWARDS, TFMOT, OURS = "float", "post-training int8", "tfmot", "keras_kd"
# The float student, whose steps are timed in either Keras.
KERAS_3, TF_KERAS = "float, Keras 3", "float, tf_keras"


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every student gets."""

    float_epochs: int = 8
    quantized_epochs: int = 4
    batch_size: int = 128
    float_learning_rate: float = 4e-3
    quantized_learning_rate: float = 5e-4
    timed_rounds: int = 11
    timed_steps: int = 100


FAST = Budget(float_epochs=1, quantized_epochs=1, timed_rounds=2, timed_steps=5)


def student_network(shape: tuple[int, int, int]) -> keras.Model:
    """A stem and three residual blocks of two convolutions; 20,146 weights."""
    inputs = keras.Input(shape)
    x = fashion_mnist.convolution(inputs, 8)
    for stage, (width, strides) in enumerate(((8, 1), (16, 2), (32, 2))):
        y = fashion_mnist.convolution(x, width, strides=strides)
        y = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
        y = keras.layers.BatchNormalization()(y)
        if stage:
            x = keras.layers.Conv2D(width, 1, strides=strides, use_bias=False)(x)
            x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(fashion_mnist.CLASSES, name="logits")(x))


def fit(
    model: Any,
    library: ModuleType,
    data: experiment.Data,
    budget: Budget,
    epochs: int,
    rate: float,
    seed: int,
) -> None:
    """Train a model of Keras 3 or of tf_keras, whichever `library` is, with all else the same."""
    steps = experiment.steps_of(len(data.train.x), budget.batch_size)
    schedule = library.optimizers.schedules.CosineDecay(
        rate, decay_steps=steps * epochs, alpha=0.01
    )
    model.compile(
        library.optimizers.Adam(schedule),
        library.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    experiment.fit(
        model,
        data.train.scaled(),
        data.train.y.astype("int32"),
        epochs=epochs,
        batch_size=budget.batch_size,
        seed=seed,
        augment=fashion_mnist.augment,
        library=library,
        verbose=0,
    )


def float_student(data: experiment.Data, folder: Path, budget: Budget, seed: int) -> keras.Model:
    """The float student of a seed, from `folder` if an earlier run finished it."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(seed)
        student = student_network(data.train.x.shape[1:])
        epochs, rate = budget.float_epochs, budget.float_learning_rate
        fit(student, keras, data, budget, epochs, rate, seed)
        return student

    return experiment.finished(folder, "float", make)


def quantized(
    row: str, student: keras.Model, data: experiment.Data, budget: Budget, seed: int
) -> keras.Model:
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


def measured(
    row: str, data: experiment.Data, folder: Path, budget: Budget, seed: int
) -> dict[str, Any]:
    """Accuracy on the test split of one row and seed, and the size of its file; JSON values."""
    student = float_student(data, folder, budget, seed)
    if row == FLOAT:
        model, size_bytes = student, None
    else:
        path = folder / f"{row.replace(' ', '-')}.tflite"
        if row == AFTERWARDS:
            examples = data.train.scaled()[:500]
            model = keras_kd.deploy.convert(student, path, calibration=examples)
        else:
            model = keras_kd.deploy.convert(quantized(row, student, data, budget, seed), path)
        size_bytes = model.size_bytes
    x, y = data.test.scaled(), data.test.y
    (found,) = keras_kd.deploy.measure(model, x, y, progress=False)
    print(f"seed {seed}, {row}: {found.value:.2%}", flush=True)
    return {"accuracy": found.value, "size_bytes": size_bytes}


def step_times(data: experiment.Data, budget: Budget) -> dict[str, list[float]]:
    """Milliseconds that a training step takes, for each row one number a round, taken in turns."""
    keras.utils.set_random_seed(0)
    student = student_network(data.train.x.shape[1:])
    models = {
        KERAS_3: (student, keras),
        TF_KERAS: (tfmot.twin(student), tf_keras),
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
        for row, (model, library) in models.items():
            ends: list[float] = []
            note = library.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs=None, ends=ends: ends.append(
                    time.perf_counter()
                )
            )
            model.fit(batches, shuffle=False, verbose=0, callbacks=[note])
            # The median of single steps: a machine that is shared stands still now and then.
            times[row].append(1000 * float(np.median(np.diff(ends))))
    return times


def run(data: experiment.Data, output: Path, budget: Budget, *, seeds: int = 1) -> report.Report:
    """All of it, on arrays; what is finished in `output` is not done again."""
    experiment.same_settings_as_before(output / "budget.json", dataclasses.asdict(budget))
    results: dict[str, list[dict[str, Any]]] = {}
    for row in (FLOAT, AFTERWARDS, TFMOT, OURS):
        results[row] = []
        for seed in range(seeds):
            folder = output / f"seed-{seed}"
            path = folder / f"{row.replace(' ', '-')}.json"
            results[row].append(experiment.once(path, measured, row, data, folder, budget, seed))
    times = experiment.once(output / "steps.json", step_times, data, budget)
    return full_report(results, times, budget, len(data.test.y))


def accuracy_table(results: dict[str, list[dict[str, Any]]], examples: int) -> report.Table:
    """A row for each kind of student; means over the seeds."""
    rows = []
    for row, found in results.items():
        values = [entry["accuracy"] for entry in found]
        size = None if row == FLOAT else max(entry["size_bytes"] for entry in found)
        rows.append((row, float(np.mean(values)), presentation.deviation(values), size))
    columns = (
        report.Column("Student"),
        presentation.ACCURACY,
        presentation.DEVIATION,
        report.Column("File", "bytes"),
    )
    note = (
        f"Test split, {examples:,} pictures; {len(results[FLOAT])} seed(s). The float student in "
        "Keras, the others on LiteRT; the largest file of all seeds."
    )
    return report.Table(columns, tuple(rows), note=note)


def step_table(times: dict[str, list[float]], budget: Budget) -> report.Table:
    """A row for each model that was trained in turns with the others."""
    rows = tuple((row, float(np.median(t)), min(t), max(t)) for row, t in times.items())
    columns = (
        report.Column("Student"),
        *(report.Column(name, "ms", digits=1) for name in ("Median", "Smallest", "Largest")),
    )
    note = (
        f"A training step of {budget.batch_size} pictures; {budget.timed_rounds} rounds of "
        f"{budget.timed_steps} steps, in turns, of each of which the median counts."
    )
    return report.Table(columns, rows, note=note)


def full_report(
    results: dict[str, list[dict[str, Any]]],
    times: dict[str, list[float]],
    budget: Budget,
    examples: int,
) -> report.Report:
    """The tables, with what they say of accuracy and of the step."""
    seeds = len(results[FLOAT])
    pairs = zip(results[OURS], results[TFMOT], strict=True)
    gain = presentation.mean_difference([a["accuracy"] - b["accuracy"] for a, b in pairs])
    summary = (
        f"keras_kd against tfmot: {presentation.in_words(gain, f'{seeds} seeds')}. A step of "
        f"keras_kd takes {ratio(times, OURS, TFMOT)} of tfmot's, and "
        f"{ratio(times, OURS, KERAS_3)} of the float student's, round by round."
    )
    return report.Report(
        "Quantization-aware training beside tensorflow-model-optimization",
        summary,
        (
            report.Section("Accuracy", (accuracy_table(results, examples),)),
            report.Section("Step", (step_table(times, budget),)),
            presentation.settings_section(budget, range(seeds)),
        ),
        data={"results": results, "steps": times, "budget": dataclasses.asdict(budget)},
    )


def ratio(times: dict[str, list[float]], row: str, other: str) -> str:
    """Of the steps of two rows by round: the median, with the smallest and the largest."""
    values = np.divide(times[row], times[other])
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = presentation.command_line(__file__, __doc__, output="compare_tfmot_output")
    args = parser.parse_args(arguments)
    data = experiment.load("fashion_mnist", args.data_dir)
    found = run(data, args.output, FAST if args.fast else Budget(), seeds=args.seeds)
    presentation.publish(found, args.output, parser, args)


if __name__ == "__main__":
    main()
