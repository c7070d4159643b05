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

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import experiment
import keras
import numpy as np
import presentation
import tensorflow as tf

import keras_kd
from keras_kd import report
from keras_kd.deploy import package

STUDENT_LIMIT_BYTES = 16_000
CLASSES = 10


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
    data: experiment.Data,
    folder: Path,
    settings: Any,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    schedule: Callable[..., Any] = experiment.warmed_up,
    augment: Callable[[Any, Any], Any] = augment,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Fit `model`, a plain one or a distiller, going on where an earlier run was stopped.

    `folder` keeps the log and the backup; of `settings` only the batch size is read.
    """
    steps = experiment.steps_of(len(data.train.x), settings.batch_size)
    rate = schedule(learning_rate, steps=steps, epochs=epochs)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    experiment.fit(
        model,
        data.train.scaled(),
        data.train.y,
        epochs=epochs,
        batch_size=settings.batch_size,
        seed=seed,
        augment=augment,
        validation_data=(data.validation.scaled(), data.validation.y),
        validation_batch_size=500,
        verbose="auto" if sys.stdout.isatty() else 2,
        callbacks=[
            keras.callbacks.CSVLogger(str(folder / "log.csv"), append=True),
            keras.callbacks.BackupAndRestore(str(folder / "backup")),
            *callbacks,
        ],
    )


def trained_teacher(data: experiment.Data, folder: Path, settings: Any) -> keras.Model:
    """The teacher, from `folder` if an earlier run finished it."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(0)
        teacher = teacher_network(data.train.x.shape[1:], settings.teacher_width)
        epochs, rate = settings.teacher_epochs, settings.teacher_learning_rate
        train(teacher, data, folder, settings, epochs=epochs, learning_rate=rate, seed=0)
        return teacher

    return experiment.finished(folder, "teacher", make)


def distiller(
    teacher: Any, student: keras.Model, settings: Any, *, student_loss_weight: Any = None
) -> keras_kd.Distiller:
    """Teaches the student by labels and the teacher's soft targets, weighed as `settings` say.

    Or as `student_loss_weight` says, a number or a schedule, where it is given.
    """
    if student_loss_weight is None:
        student_loss_weight = settings.student_loss_weight
    return keras_kd.Distiller(
        teacher,
        student,
        keras_kd.LogitsDistillation(temperature=settings.temperature),
        student_loss_weight=student_loss_weight,
        evaluate_distillation=False,
    )


def trained_student(
    data: experiment.Data, teacher: keras.Model | None, folder: Path, settings: Settings, seed: int
) -> keras.Model:
    """The student of one seed, distilled, or alone without a teacher; all else is the same."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(seed)
        student = student_network(data.train.x.shape[1:])
        model = student if teacher is None else distiller(teacher, student, settings)
        epochs, rate = settings.student_epochs, settings.student_learning_rate
        train(model, data, folder, settings, epochs=epochs, learning_rate=rate, seed=seed)
        return student

    return experiment.finished(folder, "student", make)


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


def measured_seed(
    data: experiment.Data,
    teacher: keras.Model,
    folder: Path,
    settings: Settings,
    seed: int,
    runtimes: Sequence[str],
) -> dict[str, Any]:
    """Train, convert and measure both students of one seed; JSON values."""
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
    logs = {name: experiment.read_log(folder / name / "log.csv") for name in right}
    return {
        "seed": seed,
        "rows": rows,
        "difference": float(better.mean()),
        "difference_standard_error": float(better.std() / np.sqrt(better.size)),
        "validation": {name: [log["val_accuracy"] for log in logs[name]] for name in logs},
        "confusion": confusion(data.test.y, answers, len(data.class_names)),
    }


def confusion(truth: np.ndarray, answers: np.ndarray, classes: int) -> list[list[int]]:
    """How often each class (row) was called each class (column)."""
    counts = np.bincount(truth * classes + answers, minlength=classes**2)
    return counts.reshape(classes, classes).tolist()


# The report


def result_table(teacher_row: dict[str, Any], results: Sequence[dict[str, Any]]) -> report.Table:
    """A row for each model and runtime; means over the seeds."""
    count = teacher_row["examples"]
    rows = []
    for same in [[teacher_row], *zip(*(result["rows"] for result in results), strict=True)]:
        values = [row["value"] for row in same]
        accuracy, first = float(np.mean(values)), same[0]
        of_flatbuffer = first["runtime"] != "keras"
        rows.append(
            (
                first["model"],
                f"{first['quantization']} on {first['runtime']}",
                report.Uncertain(accuracy, float(np.sqrt(accuracy * (1 - accuracy) / count))),
                presentation.deviation(values),
                max(row["size_bytes"] for row in same) if of_flatbuffer else None,
                first["arena_bytes"],
                float(np.median([row["latency_ms_median"] for row in same])),
            )
        )
    columns = (
        report.Column("Model"),
        report.Column("Runs as"),
        presentation.ACCURACY,
        presentation.DEVIATION,
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
    if len(results) > 1:
        gain = presentation.mean_difference(differences)
        over = f"{len(results)} seeds"
    else:
        gain = report.Uncertain(differences[0], results[0]["difference_standard_error"])
        over = "the test pictures"
    return (
        "Distillation changed the accuracy of the int8 student on "
        f"{results[0]['rows'][-1]['runtime']} by {presentation.in_words(gain, over)}."
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
    return report.Report(
        "Fashion-MNIST in 16 kB",
        what_it_gained(results),
        (
            report.Section("Result", (result_table(teacher_row, results),)),
            report.Section("Pictures", (curves, matrix), columns=2),
            presentation.settings_section(settings, [result["seed"] for result in results]),
        ),
        data={"teacher": teacher_row, "seeds": list(results)},
    )


def run(
    data: experiment.Data,
    output: Path,
    settings: Settings,
    *,
    seeds: int = 1,
    runtimes: Sequence[str] = ("litert", "tflm"),
) -> report.Report:
    """All of it, on arrays; what is finished in `output` is not done again."""
    experiment.same_settings_as_before(output / "settings.json", dataclasses.asdict(settings))
    teacher = trained_teacher(data, output / "teacher", settings)
    (measured,) = keras_kd.deploy.measure(teacher, data.test.scaled(), data.test.y)
    teacher_row = {"model": "teacher", **dataclasses.asdict(measured)}
    results = []
    for seed in range(seeds):
        print(f"seed {seed}", flush=True)
        folder = output / f"seed-{seed}"
        arguments = (data, teacher, folder, settings, seed, runtimes)
        results.append(experiment.once(folder / "result.json", measured_seed, *arguments))
    validation = [log["val_accuracy"] for log in experiment.read_log(output / "teacher/log.csv")]
    return full_report(teacher_row, validation, results, settings, data.class_names)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = presentation.command_line(__file__, __doc__, output="fashion_mnist_output")
    args = parser.parse_args(arguments)
    data = experiment.load("fashion_mnist", args.data_dir)
    found = run(data, args.output, FAST if args.fast else Settings(), seeds=args.seeds)
    presentation.publish(found, args.output, parser, args)


if __name__ == "__main__":
    main()
