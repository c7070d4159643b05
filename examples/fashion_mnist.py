"""Fashion-MNIST on a microcontroller: an int8 student of at most 16 kB, and its teacher.

    pip install "keras-kd[data,demo]"
    python examples/fashion_mnist.py --seeds 3

A teacher is trained once. For each seed the same small student is trained twice, alone and
distilled: same initial weights, same batches in the same order, same augmentation, same number of
steps. Both become int8 .tflite files, which LiteRT and TFLite Micro run on the whole test split.
Stopped in the middle, the same command goes on where it was.

The last tenth of the train split is held out: network sizes, epochs, temperature and weights were
chosen on it. The test split is read for the final table only.

Paper: Hinton, Vinyals and Dean, arXiv:1503.02531, section 2; teacher and student see the same
    augmented picture, as in Beyer et al., arXiv:2106.05237, section 3.
Dataset: Fashion-MNIST, Xiao, Rasul and Vollgraf, arXiv:1708.07747 (MIT licence), `fashion_mnist`
    of tensorflow-datasets: 60,000 + 10,000 grey pictures of 28 x 28, ten classes.
Cost: on two cores about 12 minutes for the teacher and 12 for each seed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_kd
from keras_kd import report
from keras_kd.deploy import package

STUDENT_LIMIT_BYTES = 16_000
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Split:
    """Pictures, uint8 of shape [count, height, width, 1], and labels, shape [count]."""

    x: np.ndarray
    y: np.ndarray

    def scaled(self) -> np.ndarray:
        """The pictures as float32 in 0..1."""
        return self.x.astype(np.float32) / 255.0


@dataclasses.dataclass(frozen=True)
class Data:
    """The three splits and the names of the classes."""

    train: Split
    validation: Split
    test: Split
    class_names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What was chosen on the validation split."""

    teacher_epochs: int = 12
    teacher_width: int = 32
    teacher_learning_rate: float = 2e-3
    student_epochs: int = 20
    student_learning_rate: float = 4e-3
    batch_size: int = 128
    temperature: float = 2.0
    student_loss_weight: float = 0.5


FAST = Settings(teacher_epochs=1, teacher_width=8, student_epochs=1)


def load(data_dir: str | None) -> Data:
    """Fashion-MNIST from tensorflow-datasets, which downloads it where `data_dir` has none."""
    import tensorflow_datasets as tfds

    splits, info = tfds.load(
        "fashion_mnist",
        split=["train[:90%]", "train[90%:]", "test"],
        data_dir=data_dir,
        batch_size=-1,
        as_supervised=True,
        with_info=True,
    )
    return Data(*(Split(*pair) for pair in tfds.as_numpy(splits)), info.features["label"].names)


def augment(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Shift each picture by up to one pixel; not mirrored, for all its shoes point the same way.

    Args:
        x: Pictures, shape [batch, height, width, channels].
        seed: Integers, shape [2]: the same seed gives the same pictures.
    """
    count = tf.shape(x)[0]
    shift = tf.random.stateless_uniform([2, count], seed, -1, 2, tf.int32)
    across, down = tf.unstack(tf.cast(shift, tf.float32))
    none, one = tf.zeros([count]), tf.ones([count])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        # The output's pixel (column, row) is the input's (column + across, row + down).
        transforms=tf.stack([one, none, across, none, one, down, none, none], axis=-1),
        output_shape=tf.shape(x)[1:3],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )


def convolution(
    x: keras.KerasTensor, channels: int, strides: int = 1, name: str | None = None
) -> keras.KerasTensor:
    """3x3 convolution, BatchNormalization, ReLU `name`: one op once it is converted."""
    x = keras.layers.Conv2D(channels, 3, strides, padding="same", use_bias=False)(x)
    return keras.layers.ReLU(name=name)(keras.layers.BatchNormalization()(x))


def teacher_network(shape: tuple[int, int, int], width: int) -> keras.Model:
    """Five convolutions in three stages; 162,000 weights at a width of 32."""
    inputs = keras.Input(shape)
    x = keras.layers.MaxPooling2D()(convolution(inputs, width))
    x = convolution(convolution(x, 3 * width // 2), 3 * width // 2, name="half")
    x = keras.layers.MaxPooling2D()(x)
    x = convolution(convolution(x, 3 * width), 3 * width, name="quarter")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(CLASSES, name="logits")(keras.layers.Dropout(0.3)(x))
    return keras.Model(inputs, outputs, name="teacher")


def student_network(shape: tuple[int, int, int]) -> keras.Model:
    """Four convolutions; 8,946 weights, 14.7 kB as int8.

    Plain ones: each channel of each layer brings scales and zero points into the file, so that at
    this size separable ones with half the weights take as many bytes, and are less accurate.
    """
    inputs = keras.Input(shape)
    x = convolution(inputs, 8, strides=2)
    x = convolution(x, 16, name="half")
    x = convolution(x, 20, strides=2)
    x = convolution(x, 24, name="quarter")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name="student")


# Training, each model once: what is finished is read from its folder


def train(
    model: keras.Model,
    data: Data,
    folder: Path,
    settings: Settings,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Fit `model`, a plain one or a distiller, going on where an earlier run was stopped."""
    steps = -(-len(data.train.x) // settings.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / 10,
        decay_steps=max(steps * (epochs - 1), 1),
        alpha=0.01,
        warmup_target=learning_rate,
        warmup_steps=steps,
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    batches = keras_kd.data.replayable(
        data.train.scaled(),
        data.train.y,
        batch_size=settings.batch_size,
        seed=seed,
        augment=augment,
    )
    model.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        validation_data=(data.validation.scaled(), data.validation.y),
        validation_batch_size=500,
        verbose="auto" if sys.stdout.isatty() else 2,
        callbacks=[
            # A Distiller does this by itself; a plain model has to be told.
            keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: batches.epoch.assign(epoch)
            ),
            keras.callbacks.CSVLogger(str(folder / "log.csv"), append=True),
            keras.callbacks.BackupAndRestore(str(folder / "backup")),
        ],
    )


def read_log(folder: Path) -> list[dict[str, float]]:
    """The logs of a training, one dictionary an epoch; of an epoch done twice, the later one."""
    with (folder / "log.csv").open(newline="") as file:
        rows = {row["epoch"]: row for row in csv.DictReader(file)}
    return [{name: float(value) for name, value in row.items()} for row in rows.values()]


def finished(folder: Path, name: str, make: Callable[[], keras.Model]) -> keras.Model:
    """The model `folder/name.keras`; made and saved there if it is not there yet."""
    path = folder / f"{name}.keras"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = make()
        beside = folder / f".{name}.part.keras"
        model.save(beside)
        beside.replace(path)
    return keras.models.load_model(path)


def trained_teacher(data: Data, folder: Path, settings: Settings) -> keras.Model:
    """The teacher, from `folder` if an earlier run finished it."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(0)
        teacher = teacher_network(data.train.x.shape[1:], settings.teacher_width)
        epochs, rate = settings.teacher_epochs, settings.teacher_learning_rate
        train(teacher, data, folder, settings, epochs=epochs, learning_rate=rate, seed=0)
        return teacher

    return finished(folder, "teacher", make)


def trained_student(
    data: Data, teacher: keras.Model | None, folder: Path, settings: Settings, seed: int
) -> keras.Model:
    """The student of one seed, distilled, or alone without a teacher; all else is the same."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = student = student_network(data.train.x.shape[1:])
        if teacher is not None:
            model = keras_kd.Distiller(
                teacher,
                student,
                keras_kd.LogitsDistillation(temperature=settings.temperature),
                student_loss_weight=settings.student_loss_weight,
                evaluate_distillation=False,
            )
        epochs, rate = settings.student_epochs, settings.student_learning_rate
        train(model, data, folder, settings, epochs=epochs, learning_rate=rate, seed=seed)
        return student

    return finished(folder, "student", make)


# Measuring on the test split


class Correct:
    """A metric for `deploy.measure`: 1 for right, 0 for wrong; keeps the answers."""

    __name__ = "accuracy"

    def __init__(self):
        self.answers: list[np.ndarray] = []

    def __call__(self, y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """One number for each example, shape [examples]."""
        self.answers.append(outputs.argmax(-1))
        return (self.answers[-1] == y).astype(np.float64)


def run_seed(
    data: Data,
    teacher: keras.Model,
    folder: Path,
    settings: Settings,
    seed: int,
    runtimes: Sequence[str],
) -> dict[str, Any]:
    """Train, convert and measure both students of one seed; JSON values, kept in `folder`."""
    path = folder / "result.json"
    if path.exists():
        return json.loads(path.read_text())
    rows, right, answers = [], {}, None
    for name, its_teacher in (("alone", None), ("distilled", teacher)):
        where = folder / name
        student = trained_student(data, its_teacher, where, settings, seed)
        artifact = keras_kd.deploy.convert(
            student,
            where / "student.tflite",
            quantization="int8",
            calibration=data.train.scaled()[:500],
            input_range=(0.0, 1.0),
        )
        if artifact.size_bytes > STUDENT_LIMIT_BYTES:
            raise RuntimeError(
                f"Expected a student of at most {STUDENT_LIMIT_BYTES} bytes. Received: "
                f"{artifact.size_bytes}. Hint: fewer channels in student_network()."
            )
        correct = Correct()
        measured = keras_kd.deploy.measure(
            artifact,
            data.test.scaled(),
            data.test.y,
            reference=student,
            runtimes=runtimes,
            metric=correct,
        )
        rows += [{"model": f"student, {name}", **dataclasses.asdict(row)} for row in measured]
        answers = correct.answers[-1]
        right[name] = (answers == data.test.y).astype(np.float64)
        if its_teacher is not None:
            package.write_c_array(artifact, where)
    better = right["distilled"] - right["alone"]
    result = {
        "seed": seed,
        "rows": rows,
        "difference": float(better.mean()),
        "difference_standard_error": float(better.std() / np.sqrt(better.size)),
        "validation": {
            name: [log["val_accuracy"] for log in read_log(folder / name)]
            for name in ("alone", "distilled")
        },
        "confusion": confusion(data.test.y, answers, len(data.class_names)),
    }
    write(path, json.dumps(result))
    return result


def confusion(truth: np.ndarray, answers: np.ndarray, classes: int) -> list[list[int]]:
    """How often each class (row) was called each class (column)."""
    counts = np.bincount(truth * classes + answers, minlength=classes**2)
    return counts.reshape(classes, classes).tolist()


def write(path: Path, content: str) -> None:
    """Write beside and rename, so that a file that is there is whole."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(content)
    beside.replace(path)


# The report


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation over the seeds; one seed has no deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def result_table(teacher_row: dict[str, Any], results: Sequence[dict[str, Any]]) -> report.Table:
    """A row for each model and runtime; means over the seeds."""
    count = teacher_row["examples"]
    rows = []
    for same in [[teacher_row], *zip(*(result["rows"] for result in results), strict=True)]:
        accuracy, deviation = mean_and_deviation([row["value"] for row in same])
        first = same[0]
        of_flatbuffer = first["runtime"] != "keras"
        rows.append(
            (
                first["model"],
                f"{first['quantization']} on {first['runtime']}",
                report.Uncertain(accuracy, float(np.sqrt(accuracy * (1 - accuracy) / count))),
                deviation if len(same) > 1 else None,
                max(row["size_bytes"] for row in same) if of_flatbuffer else None,
                first["arena_bytes"],
                float(np.median([row["latency_ms_median"] for row in same])),
            )
        )
    columns = (
        report.Column("Model"),
        report.Column("Runs as"),
        report.Column("Accuracy", "%", digits=2, scale=100),
        report.Column("Deviation over seeds", "%", digits=2, scale=100),
        report.Column("File", "bytes"),
        report.Column("Arena", "bytes"),
        report.Column("Latency on this host", "ms", digits=3),
    )
    note = (
        f"Test split, {count:,} pictures; {len(results)} seed(s), one teacher. After the accuracy: "
        "its standard error for new pictures, sqrt(p (1 - p) / n). The largest file of all seeds."
    )
    return report.Table(columns, tuple(rows), note=note, highlight=len(rows) - 1)


def what_it_gained(results: Sequence[dict[str, Any]]) -> str:
    """Distilled against alone on the last runtime, with the standard error of the difference."""
    differences = [result["difference"] for result in results]
    error = results[0]["difference_standard_error"]
    how = "paired over the test pictures"
    if len(results) > 1:
        error = float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
        how = f"over {len(differences)} seeds"
    runs_as = results[0]["rows"][-1]["runtime"]
    return (
        f"Distillation changed the accuracy of the int8 student on {runs_as} by "
        f"{100 * np.mean(differences):+.2f} ± {100 * error:.2f} points (standard error, {how})."
    )


def full_report(
    teacher_row: dict[str, Any],
    teacher_validation: Sequence[float],
    results: Sequence[dict[str, Any]],
    settings: Settings,
    class_names: Sequence[str],
) -> report.Report:
    """Table and plots; the curves and the confusion matrix are those of the first seed."""

    def line(name: str, values: Sequence[float], dashed: bool = False) -> report.Series:
        epochs = tuple(float(1 + epoch) for epoch in range(len(values)))
        return report.Series(name, epochs, tuple(100 * v for v in values), dashed=dashed)

    first = results[0]
    curves = report.LinePlot(
        "Learning curves",
        "epoch",
        "validation accuracy (%)",
        (
            line("teacher", teacher_validation, dashed=True),
            *(line(name, values) for name, values in first["validation"].items()),
        ),
    )
    matrix = report.MatrixPlot(
        "The distilled int8 student's answers",
        "answer",
        "truth",
        tuple(class_names),
        tuple(map(tuple, first["confusion"])),
    )
    facts = {"Seeds": ", ".join(str(r["seed"]) for r in results)}
    facts |= {k.replace("_", " "): str(v) for k, v in dataclasses.asdict(settings).items()}
    return report.Report(
        "Fashion-MNIST in 16 kB",
        what_it_gained(results),
        (
            report.Section("Result", (result_table(teacher_row, results),)),
            report.Section("How", (curves, matrix), columns=2),
            report.Section("Settings", (report.Facts(tuple(facts.items())),)),
        ),
        data={"teacher": teacher_row, "seeds": list(results)},
    )


def run(
    data: Data,
    output: Path,
    settings: Settings,
    *,
    seeds: int = 1,
    runtimes: Sequence[str] = ("litert", "tflm"),
) -> report.Report:
    """All of it, on arrays; what is finished in `output` is not done again."""
    output.mkdir(parents=True, exist_ok=True)
    same_settings_as_before(output / "settings.json", settings)
    teacher = trained_teacher(data, output / "teacher", settings)
    (measured,) = keras_kd.deploy.measure(teacher, data.test.scaled(), data.test.y)
    teacher_row = {"model": "teacher", **dataclasses.asdict(measured)}
    results = []
    for seed in range(seeds):
        print(f"seed {seed}", flush=True)
        folder = output / f"seed-{seed}"
        results.append(run_seed(data, teacher, folder, settings, seed, runtimes))
    validation = [log["val_accuracy"] for log in read_log(output / "teacher")]
    found = full_report(teacher_row, validation, results, settings, data.class_names)
    found.write_json(output / "report.json")
    found.write_html(output / "report.html")
    return found


def same_settings_as_before(path: Path, settings: Settings) -> None:
    """Refuse to go on in a folder that was begun with other settings.

    Raises:
        ValueError: If `path` holds others.
    """
    wanted = dataclasses.asdict(settings)
    if not path.exists():
        write(path, json.dumps(wanted))
    before = json.loads(path.read_text())
    if before != wanted:
        raise ValueError(
            f"Expected a folder begun with these settings, {wanted}. Received: {path.parent}, "
            f"begun with {before}. Hint: another --output."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="of tensorflow-datasets; downloads what is not there")
    parser.add_argument("--output", type=Path, default=Path("fashion_mnist_output"))
    parser.add_argument("--seeds", type=int, default=1, help="students of each kind")
    parser.add_argument("--fast", action="store_true", help="one epoch each: only to see it run")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"argument --seeds: expected at least 1, received {args.seeds}")
    try:
        data = load(args.data_dir)
    except ImportError as err:
        print(f'{err}. Hint: pip install "keras-kd[data,demo]"', file=sys.stderr)
        return 1
    found = run(data, args.output, FAST if args.fast else Settings(), seeds=args.seeds)
    print(f"\n{found.text()}\n{args.output / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
