"""An ensemble and its students on CIFAR-10: single, ensemble, distilled ensemble, distilled single.

    pip install "keras-kd[data,demo]"
    python examples/ensemble_cifar10.py --members 3

Some members, one network trained from different seeds, are trained on labels. Their mean is the
teacher of as many students, the same network from other seeds. The table has one network and the
mean of all, of the members and of the distilled students; and of one distilled student and the
distilled ensemble, each as one int8 .tflite, what LiteRT says on the test split. Stopped in the
middle, the same command goes on where it was.

The last tenth of the train split is held out to choose on. The test split is read for the final
table only.

Paper: Hinton, Vinyals and Dean, arXiv:1503.02531, sections 1 and 4 (an ensemble distilled into one
    network of the same size).
Dataset: CIFAR-10, Krizhevsky 2009, `cifar10` of tensorflow-datasets: 50,000 + 10,000 colour
    pictures of 32 x 32, ten classes.
Cost: members and students are trained for 8 epochs each; on two cores some 3 minutes a member and 6
    a student.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import experiment
import keras
import numpy as np
import presentation
import tensorflow as tf
from fashion_mnist import convolution, distiller, train

import keras_kd
from keras_kd import report

CLASSES = 10
SINGLE, ENSEMBLE = "single", "ensemble"
DISTILLED_SINGLE, DISTILLED_ENSEMBLE = "distilled single", "distilled ensemble"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The budget of every network."""

    epochs: int = 8
    width: int = 16
    learning_rate: float = 4e-3
    batch_size: int = 128
    temperature: float = 2.0
    student_loss_weight: float = 0.3


FAST = Settings(epochs=1, width=4)


def augment(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror each picture by chance, and shift the batch by up to three pixels.

    Args:
        x: Pictures, shape [batch, height, width, channels].
        seed: Integers, shape [2]: the same seed gives the same pictures.
    """
    x = tf.image.stateless_random_flip_left_right(x, seed)
    padded = tf.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]], "REFLECT")
    return tf.image.stateless_random_crop(padded, tf.shape(x), seed)


def network(width: int, name: str) -> keras.Model:
    """Six convolutions in three stages; logits."""
    x = inputs = keras.Input((32, 32, 3))
    for stage, channels in enumerate((width, 2 * width, 4 * width)):
        x = convolution(x, channels, strides=2 if stage else 1)
        x = convolution(x, channels)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def falling(
    rate: float, *, steps: int, epochs: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """From `rate` along a cosine down to 1 % of it."""
    return keras.optimizers.schedules.CosineDecay(rate, steps * epochs, alpha=0.01)


def trained(
    data: experiment.Data, folder: Path, settings: Settings, seed: int, teacher: Any = None
) -> keras.Model:
    """The network of one seed, distilled, or on labels alone without a teacher."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(seed)
        student = network(settings.width, f"{folder.parent.name}_{folder.name}")
        train(
            student if teacher is None else distiller(teacher, student, settings),
            data,
            folder,
            settings,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            seed=seed,
            schedule=falling,
            augment=augment,
        )
        return student

    return experiment.finished(folder, "network", make)


# Measuring on the test split


def log_probabilities(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What a network says of pictures, shape [count, classes]."""
    return np.array(keras.ops.log_softmax(model.predict(x, batch_size=500, verbose=0)))


def accuracies(models: Sequence[keras.Model], split: experiment.Split) -> tuple[list[float], float]:
    """The accuracy of each network, and that of the mean of their probabilities."""
    said = np.stack([log_probabilities(model, split.scaled()) for model in models])
    each = (said.argmax(-1) == split.y).mean(-1)
    mean = np.exp(said).mean(0).argmax(-1) == split.y
    return [float(value) for value in each], float(mean.mean())


def on_device(
    student: keras.Model, data: experiment.Data, folder: Path, name: str
) -> dict[str, Any]:
    """The accuracy and the size of a model as one int8 .tflite on LiteRT."""
    artifact = keras_kd.deploy.convert(
        student,
        folder / f"{name.replace(' ', '_')}.tflite",
        calibration=data.train.scaled()[:500],
        input_range=(0.0, 1.0),
    )
    (row,) = keras_kd.deploy.measure(artifact, data.test.scaled(), data.test.y)
    return {"accuracy": row.value, "size_bytes": artifact.size_bytes}


def as_one(models: Sequence[keras.Model]) -> keras.Model:
    """The mean of several networks as one model."""
    return keras_kd.ensembles.mean(keras_kd.ensembles.members(models))


def result_table(result: dict[str, Any], examples: int) -> report.Table:
    """A row for each of the four, and for those that run as int8."""
    rows = []
    for single, ensemble, key in (
        (SINGLE, ENSEMBLE, "members"),
        (DISTILLED_SINGLE, DISTILLED_ENSEMBLE, "students"),
    ):
        each, mean = result[key]
        deviation = presentation.deviation(each)
        rows.append((single, "float32", float(np.mean(each)), deviation, None))
        rows.append((ensemble, "float32", mean, None, None))
    for name, row in result["int8"].items():
        rows.append((name, "int8 on LiteRT", row["accuracy"], None, row["size_bytes"]))
    columns = (
        report.Column("Model"),
        report.Column("Runs as"),
        presentation.ACCURACY,
        presentation.DEVIATION,
        report.Column("File", "bytes"),
    )
    count = len(result["members"][0])
    note = (
        f"Test split, {examples:,} pictures; {count} networks of each kind. Of the single ones the "
        "mean over them; that of int8 is the first."
    )
    return report.Table(columns, tuple(rows), note=note)


def run(
    data: experiment.Data, output: Path, settings: Settings, *, members: int = 3
) -> report.Report:
    """All of it, on arrays; what is finished in `output` is not done again."""
    experiment.same_settings_as_before(output / "settings.json", dataclasses.asdict(settings))
    # Other seeds: a student that starts as one of its teachers would agree with it by descent.
    teacher_seeds, student_seeds = range(members), range(1000, 1000 + members)
    taught = [
        trained(data, output / "member" / str(seed), settings, seed) for seed in teacher_seeds
    ]
    teacher = keras_kd.teachers.Ensemble(taught)
    students = [
        trained(data, output / "student" / str(index), settings, seed, teacher)
        for index, seed in enumerate(student_seeds)
    ]
    result = {
        "members": accuracies(taught, data.test),
        "students": accuracies(students, data.test),
        "int8": {
            DISTILLED_SINGLE: on_device(students[0], data, output, DISTILLED_SINGLE),
            DISTILLED_ENSEMBLE: on_device(as_one(students), data, output, DISTILLED_ENSEMBLE),
        },
    }
    experiment.write(output / "result.json", json.dumps(result))
    facts = {"weights of a network": f"{students[0].count_params():,}"}
    return report.Report(
        "An ensemble and its students on CIFAR-10",
        f"{members} networks, and as many that learned from their mean.",
        (
            report.Section("Result", (result_table(result, len(data.test.y)),)),
            presentation.settings_section(settings, [*teacher_seeds, *student_seeds], facts),
        ),
        data=result,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = presentation.command_line(
        __file__, __doc__, output="ensemble_cifar10_output", seeds=False
    )
    parser.add_argument(
        "--members", type=presentation.at_least(2), default=3, help="networks of each kind"
    )
    args = parser.parse_args(arguments)
    data = experiment.load("cifar10", args.data_dir)
    found = run(data, args.output, FAST if args.fast else Settings(), members=args.members)
    presentation.publish(found, args.output, parser, args)


if __name__ == "__main__":
    main()
