"""A random forest, and three teachers of three kinds, teach a network that runs as int8.

    pip install "keras-kd[demo]"
    python examples/random_forest_teacher.py --seeds 5

Three teachers are trained once: a random forest, a support vector machine and a convolutional
network. For each seed the same small student is trained three times: alone, taught by the forest,
and taught by the mean of all three; same initial weights, same batches in the same order. Each
becomes an int8 .tflite file that LiteRT runs on the whole test split. Stopped in the middle, the
same command goes on where it was.

Of the pictures 300 are held out to choose on, and 500 to test; the test split is read for the final
table only.

Paper: Hinton, Vinyals and Dean, arXiv:1503.02531, sections 1 and 2.
Dataset: handwritten digits of scikit-learn (UCI, Alpaydin and Kaynak, 1998): 1,797 pictures of
    8 x 8.
Cost: on one core about two minutes for five seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import experiment
import keras
import numpy as np
import presentation
from fashion_mnist import distiller

import keras_kd
from keras_kd import report

CLASSES = 10
STUDENTS = ("alone", "of the forest", "of three teachers")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What was run; chosen beforehand, nothing was tuned."""

    trees: int = 300
    teacher_epochs: int = 30
    student_epochs: int = 40
    learning_rate: float = 4e-3
    batch_size: int = 64
    temperature: float = 2.0
    smoothing: float = 0.01
    student_loss_weight: float = 0.3


FAST = Settings(trees=10, teacher_epochs=1, student_epochs=1)


def load() -> experiment.Data:
    """The digits, float32 in 0..1 of shape [count, 8, 8, 1]; always in the same order."""
    with experiment.installed_with("demo"):
        from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].reshape(-1, 8, 8, 1).astype("float32") / 16.0, y[order].astype("int64")
    ends = (len(x) - 800, len(x) - 500)
    parts = zip(np.split(x, ends), np.split(y, ends), strict=True)
    return experiment.Data(*(experiment.Split(*pair) for pair in parts))


def network(channels: Sequence[int], name: str) -> keras.Model:
    """Convolutions of 3 x 3, the second and later of stride 2, and a dense layer; logits."""
    x = inputs = keras.Input((8, 8, 1))
    for index, count in enumerate(channels):
        x = keras.layers.Conv2D(count, 3, 2 if index else 1, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    outputs = keras.layers.Dense(CLASSES, name="logits")(keras.layers.Flatten()(x))
    return keras.Model(inputs, outputs, name=name)


def fit(model: keras.Model, x: Any, y: np.ndarray, settings: Settings, epochs: int, seed: int):
    """Train a plain model or a distiller."""
    steps = epochs * experiment.steps_of(len(y), settings.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    experiment.fit(model, x, y, epochs=epochs, batch_size=settings.batch_size, seed=seed, verbose=0)


def make_teachers(data: experiment.Data, settings: Settings) -> dict[str, Any]:
    """The three teachers by name, trained: two estimators and a Keras model."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.svm import SVC

    columns = data.train.x.reshape(len(data.train.x), -1)
    forest = RandomForestClassifier(settings.trees, random_state=0).fit(columns, data.train.y)
    # A margin is no probability: calibrated on held-out folds.
    machine = CalibratedClassifierCV(SVC(C=10.0), ensemble=False).fit(columns, data.train.y)
    keras.utils.set_random_seed(0)
    large = network((32, 64, 64), "network")
    fit(large, data.train.x, data.train.y, settings, settings.teacher_epochs, seed=0)
    wrap, smoothing = keras_kd.teachers.Estimator, settings.smoothing
    return {
        "random forest": wrap(forest, smoothing=smoothing, name="forest"),
        "support vector machine": wrap(machine, smoothing=smoothing, name="machine"),
        "large network": keras_kd.teachers.ModelTeacher(large),
    }


def accuracy_of(teacher: Any, split: experiment.Split) -> float:
    """How often a teacher names the label."""
    x = keras_kd.teachers.attach(split.x, teacher)
    answers = x[keras_kd.data.STORED][teacher.key]["outputs"]
    return float((answers.argmax(-1) == split.y).mean())


def train_student(
    data: experiment.Data, teacher: Any, settings: Settings, seed: int
) -> keras.Model:
    """The student of one seed, distilled, or alone without a teacher; all else is the same."""
    keras.utils.set_random_seed(seed)
    model = student = network((8, 12), "student")
    x = data.train.x
    if teacher is not None:
        model = distiller(teacher, student, settings)
        # Each picture is the same in every epoch: the teacher is asked once.
        x = keras_kd.teachers.attach(x, teacher)
    fit(model, x, data.train.y, settings, settings.student_epochs, seed)
    return student


def measured_student(
    data: experiment.Data, teacher: Any, folder: Path, settings: Settings, seed: int, split: str
) -> dict[str, Any]:
    """Train, convert and measure one student; JSON values."""
    student = train_student(data, teacher, settings, seed)
    artifact = keras_kd.deploy.convert(
        student,
        folder / "student.tflite",
        calibration=data.train.x[:200],
        input_range=(0.0, 1.0),
    )
    examples = getattr(data, split)
    rows = keras_kd.deploy.measure(
        artifact, examples.x, examples.y, reference=student, runtimes=("litert",)
    )
    result = {row.runtime: row.value for row in rows}
    return result | {"size_bytes": artifact.size_bytes, "parameters": student.count_params()}


def result_table(
    teachers: dict[str, float], results: dict[str, list[dict[str, Any]]], examples: int, split: str
) -> report.Table:
    """A row for each teacher, and one for each student and runtime; means over the seeds."""
    rows = [(name, "float32", value, None, None, None) for name, value in teachers.items()]
    for name, seeds in results.items():
        for runtime in ("keras", "litert"):
            values = [seed[runtime] for seed in seeds]
            better = [
                seed[runtime] - alone[runtime]
                for seed, alone in zip(seeds, results["alone"], strict=True)
            ]
            rows.append(
                (
                    f"student, {name}",
                    "float32" if runtime == "keras" else "int8 on LiteRT",
                    float(np.mean(values)),
                    presentation.deviation(values),
                    None if name == "alone" else presentation.mean_difference(better),
                    seeds[0]["size_bytes"] if runtime == "litert" else None,
                )
            )
    columns = (
        report.Column("Model"),
        report.Column("Runs as"),
        presentation.ACCURACY,
        presentation.DEVIATION,
        report.Column("Against alone", "%", digits=2, scale=100),
        report.Column("File", "bytes"),
    )
    count = len(results["alone"])
    note = (
        f"{split.capitalize()} split, {examples} pictures; {count} seed(s) of each student, one of "
        "each teacher. After the difference: its standard error over the seeds, paired by seed."
    )
    return report.Table(columns, tuple(rows), note=note)


def run(
    data: experiment.Data, output: Path, settings: Settings, *, seeds: int = 1, split: str = "test"
) -> report.Report:
    """All of it, on arrays; students that are finished in `output` are not trained again."""
    experiment.same_settings_as_before(output / "settings.json", dataclasses.asdict(settings))
    teachers = make_teachers(data, settings)
    examples = getattr(data, split)
    accuracies = {name: accuracy_of(teacher, examples) for name, teacher in teachers.items()}
    three = keras_kd.teachers.Ensemble(list(teachers.values()))
    accuracies["mean of the three"] = accuracy_of(three, examples)
    of = dict(zip(STUDENTS, (None, teachers["random forest"], three), strict=True))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in STUDENTS}
    for seed in range(seeds):
        print(f"seed {seed}", flush=True)
        for name, teacher in of.items():
            folder = output / f"seed-{seed}" / name.replace(" ", "-")
            arguments = (data, teacher, folder, settings, seed, split)
            path = folder / f"{split}.json"
            results[name].append(experiment.once(path, measured_student, *arguments))
    table = result_table(accuracies, results, len(examples.y), split)
    return report.Report(
        "A random forest teaches a network",
        "Teachers that are no neural network, and three of three kinds at once.",
        (
            report.Section("Result", (table,)),
            presentation.settings_section(settings, range(seeds)),
        ),
        data={"teachers": accuracies, "students": results},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = presentation.command_line(
        __file__, __doc__, output="random_forest_output", data_dir=False
    )
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    args = parser.parse_args(arguments)
    settings = FAST if args.fast else Settings()
    found = run(load(), args.output, settings, seeds=args.seeds, split=args.split)
    presentation.publish(found, args.output, parser, args)


if __name__ == "__main__":
    main()
