"""What post-training quantization costs a student, and how much of it training brings back.

    pip install "keras-kd[data,demo]"
    python examples/quantization_loss.py --data fashion_mnist --seeds 5
    python examples/quantization_loss.py --data cifar10 --seeds 3

For each seed a float student is trained to its end. From the same float student come three integer
files: quantized after training; trained on with fake quantization, by the labels alone; and the
same taught by a larger float network as well, less from step to step. The last two see the same
batches in the same order, for the same number of steps. `--search` trains one student of each
candidate and says what quantization after training costs it on the validation split: that is how
the candidate of the table was chosen.

Stopped in the middle, the same command goes on where it was. The test split is read for the final
table only.

Paper: Jacob et al., arXiv:1712.05877, section 3; a larger float teacher for a quantized student
    that was trained in float before as in Mishra and Marr, arXiv:1711.05852, section 5; a teacher
    that fades out (teacher annealing) as in Clark et al., arXiv:1907.04829; the loss of depthwise
    networks with one scale for a kernel as in Nagel et al., arXiv:1906.04721, section 3; weights of
    few bits that go to and fro, and averages that suffer from it, as in Nagel et al.,
    arXiv:2203.11086, section 2.
Dataset: `fashion_mnist` and `cifar10` of tensorflow-datasets; the last tenth of the train split is
    the validation split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import experiment
import keras
import numpy as np
import presentation
from fashion_mnist import distiller, train, trained_teacher

import keras_kd
from keras_kd import quantization, report, students

RUNTIME = "litert_reference"
AFTER, ALONE, DISTILLED = "after training", "in training, alone", "in training, distilled"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the teacher and every student get; chosen on the validation split of Fashion-MNIST.

    Ranges and averages stay in the last `frozen_epochs`. Until then the labels' weight beside the
    teacher rises from `student_loss_weight` to 1.
    """

    teacher_epochs: int = 12
    teacher_width: int = 32
    teacher_learning_rate: float = 2e-3
    candidate: str = "separable, 4-bit weights"
    epochs: int = 12
    learning_rate: float = 4e-3
    quantized_epochs: int = 8
    frozen_epochs: int = 3
    quantized_learning_rate: float = 4e-3
    batch_size: int = 128
    temperature: float = 2.0
    student_loss_weight: float = 0.5
    calibration_examples: int = 500

    @property
    def moving_epochs(self) -> int:
        """The epochs of training with quantization before ranges and averages stay."""
        return self.quantized_epochs - self.frozen_epochs


FAST = Settings(teacher_epochs=1, teacher_width=8, epochs=1, quantized_epochs=1, frozen_epochs=0)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A student and the integers that it becomes.

    Attributes:
        student: From an input shape to a model that gives logits.
        scheme: Of `keras_kd.quantization`.
    """

    student: Callable[[tuple[int, ...]], keras.Model]
    scheme: str | quantization.Scheme


def mobilenet_v2(shape: tuple[int, ...]) -> keras.Model:
    """MobileNetV2 at a width of .35, whose last map is 2 x 2."""
    return students.mobilenet_v2(shape, 10, width=0.35, total_stride=16, activation=None)


def separable(shape: tuple[int, ...]) -> keras.Model:
    """A stem and six depthwise-separable blocks of 16 and 32 channels, with ReLU6."""
    return separable_with(keras.activations.relu6, shape)


def hard_swish(shape: tuple[int, ...]) -> keras.Model:
    """The same with hard-swish."""
    return separable_with(keras.activations.hard_silu, shape)


def separable_with(activation: Callable[[Any], Any], shape: tuple[int, ...]) -> keras.Model:
    """The separable student with an activation behind each BatchNormalization."""

    def activated(x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.layers.Activation(activation)(keras.layers.BatchNormalization()(x))

    inputs = keras.Input(shape)
    x = activated(keras.layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(inputs))
    for block in range(6):
        strides = 2 if block == 3 else 1
        x = keras.layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
        filters = 16 if block < 3 else 32
        x = activated(keras.layers.Conv2D(filters, 1, use_bias=False)(activated(x)))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name="student")


CANDIDATES = {
    "separable, per tensor": Candidate(separable, "int8_per_tensor"),
    "hard-swish, per tensor": Candidate(hard_swish, "int8_per_tensor"),
    "hard-swish, per channel": Candidate(hard_swish, "int8"),
    "mobilenet_v2, per tensor": Candidate(mobilenet_v2, "int8_per_tensor"),
    "separable, 4-bit weights": Candidate(separable, "int8x4"),
    "mobilenet_v2, 4-bit weights": Candidate(mobilenet_v2, "int8x4"),
    "mobilenet_v2, per channel": Candidate(mobilenet_v2, "int8"),
}


# Training


def float_student(
    data: experiment.Data, folder: Path, settings: Settings, seed: int
) -> keras.Model:
    """The student of one seed, trained by the labels to its end."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(seed)
        student = CANDIDATES[settings.candidate].student(data.train.x.shape[1:])
        epochs, rate = settings.epochs, settings.learning_rate
        train(student, data, folder, settings, epochs=epochs, learning_rate=rate, seed=seed)
        return student

    return experiment.finished(folder, "student", make)


def quantized_student(
    trained: keras.Model,
    data: experiment.Data,
    folder: Path,
    settings: Settings,
    seed: int,
    *,
    teacher: keras.Model | None,
) -> keras.Model:
    """The float student trained on with fake quantization, by the labels and, if any, a teacher."""

    def make() -> keras.Model:
        student = ready(trained, data, settings)
        model = student if teacher is None else fading(teacher, student, data, settings)
        epochs, rate = settings.quantized_epochs, settings.quantized_learning_rate
        frozen = settings.moving_epochs
        # Weights of 4 bits go to and fro between two values, and the averages are of neither:
        # without these phases inference was up to three points worse than training.
        phases = quantization.Phases(freeze_ranges_epoch=frozen, freeze_batch_norm_epoch=frozen)
        train(
            model,
            data,
            folder,
            settings,
            epochs=epochs,
            learning_rate=rate,
            seed=seed,
            callbacks=[phases],
        )
        return student

    return experiment.finished(folder, "student", make)


def fading(
    teacher: keras.Model, student: keras.Model, data: experiment.Data, settings: Settings
) -> keras_kd.Distiller:
    """A distiller whose teacher says less from step to step, and nothing once averages stay."""
    steps = settings.moving_epochs * experiment.steps_of(len(data.train.x), settings.batch_size)
    weight = keras_kd.schedules.Linear(settings.student_loss_weight, 1.0, steps)
    return distiller(teacher, student, settings, student_loss_weight=weight)


def ready(trained: keras.Model, data: experiment.Data, settings: Settings) -> keras.Model:
    """The float student with fake quantization, its ranges found and nothing trained yet."""
    return quantization.quantize_aware(
        trained,
        CANDIDATES[settings.candidate].scheme,
        calibration=calibration(data, settings),
    )


def calibration(data: experiment.Data, settings: Settings) -> np.ndarray:
    """The pictures that ranges are found on."""
    return data.train.scaled()[: settings.calibration_examples]


# Measuring


def after_training(
    trained: keras.Model, data: experiment.Data, path: Path, settings: Settings
) -> keras_kd.deploy.Artifact:
    """The float student quantized as it is.

    In int8 by the converter. Other schemes it does not have; there the ranges of the calibration
    are written into the model first.
    """
    if CANDIDATES[settings.candidate].scheme == "int8":
        pictures = calibration(data, settings)
        return keras_kd.deploy.convert(trained, path, calibration=pictures, input_range=(0.0, 1.0))
    return keras_kd.deploy.convert(ready(trained, data, settings), path)


def accuracy(model: Any, split: experiment.Split) -> float:
    """Share of the pictures that are classified rightly, by a Keras model or an artifact."""
    pictures = split.scaled()
    if isinstance(model, keras.Model):
        outputs = model.predict(pictures, batch_size=500, verbose=0)
    else:
        outputs = keras_kd.deploy.predict(model, pictures, RUNTIME)
    return float((outputs.argmax(-1) == split.y).mean())


def measured_seed(
    data: experiment.Data, teacher: keras.Model, folder: Path, settings: Settings, seed: int
) -> dict[str, float]:
    """The four accuracies of one seed, by row."""
    trained = float_student(data, folder / "float", settings, seed)
    models: dict[str, Any] = {"float": trained}
    models[AFTER] = after_training(trained, data, folder / "after_training.tflite", settings)
    for name, its_teacher in ((ALONE, None), (DISTILLED, teacher)):
        where = folder / ("alone" if its_teacher is None else "distilled")
        student = quantized_student(trained, data, where, settings, seed, teacher=its_teacher)
        models[name] = keras_kd.deploy.convert(student, where / "student.tflite")
    return {name: accuracy(model, data.test) for name, model in models.items()}


def search(data: experiment.Data, folder: Path, settings: Settings) -> dict[str, float]:
    """What quantization after training costs each candidate on the validation split."""
    experiment.same_settings_as_before(folder / "settings.json", dataclasses.asdict(settings))
    lost = {}
    for name, candidate in CANDIDATES.items():
        its = dataclasses.replace(settings, candidate=name)
        # Candidates that differ in the scheme alone have the same float student.
        where = folder / candidate.student.__name__
        trained = float_student(data, where, its, seed=0)
        artifact = after_training(trained, data, where / "after_training.tflite", its)
        before, after = (accuracy(model, data.validation) for model in (trained, artifact))
        lost[name] = before - after
        print(f"{name}: {100 * before:.2f} % - {100 * lost[name]:.2f} points", flush=True)
    return lost


# The report


def result_table(teacher: float, results: Sequence[dict[str, float]]) -> report.Table:
    """A row for the teacher and for each kind of student; means over the seeds, paired by seed."""
    rows: list[tuple[Any, ...]] = [("teacher", teacher, None, None, None)]
    for name in results[0]:
        values = np.array([result[name] for result in results])
        lost = np.array([result["float"] for result in results]) - values
        rows.append(
            (
                name,
                float(values.mean()),
                presentation.deviation(values),
                None if name == "float" else presentation.mean_difference(lost),
                None if name in ("float", AFTER) else recovered(results, name),
            )
        )
    columns = (
        report.Column("Model"),
        presentation.ACCURACY,
        presentation.DEVIATION,
        report.Column("Lost", "points", digits=2, scale=100),
        report.Column("Recovered", "%", digits=0, scale=100),
    )
    note = (
        f"Test split, {len(results)} seed(s). Lost: against the float student, paired by seed, "
        "with the standard error over the seeds. Recovered: the share of what quantization after "
        "training lost."
    )
    return report.Table(columns, tuple(rows), note=note, highlight=len(rows) - 1)


def recovered(results: Sequence[dict[str, float]], name: str) -> float | None:
    """The share of the loss after training that a row has back; None where nothing was lost."""
    lost = sum(result["float"] - result[AFTER] for result in results)
    return sum(result[name] - result[AFTER] for result in results) / lost if lost > 0 else None


def run(data: experiment.Data, folder: Path, settings: Settings, *, seeds: int) -> report.Report:
    """All of it, on arrays; what is finished in `folder` is not done again."""
    experiment.same_settings_as_before(folder / "settings.json", dataclasses.asdict(settings))
    teacher = trained_teacher(data, folder / "teacher", settings)
    its_accuracy = experiment.once(folder / "teacher" / "result.json", accuracy, teacher, data.test)
    results = []
    for seed in range(seeds):
        print(f"seed {seed}", flush=True)
        where = folder / f"seed-{seed}"
        arguments = (data, teacher, where, settings, seed)
        results.append(experiment.once(where / "result.json", measured_seed, *arguments))
    share = recovered(results, DISTILLED)
    summary = "Quantization after training lost nothing."
    if share is not None:
        summary = f"The distilled student has {100 * share:.0f} % of what was lost back."
    gain = presentation.mean_difference([row[DISTILLED] - row[ALONE] for row in results])
    summary += f" Distilled minus alone: {presentation.in_words(gain, f'{seeds} seeds')}."
    return report.Report(
        f"What quantization costs: {settings.candidate}",
        summary,
        (
            report.Section("Result", (result_table(its_accuracy, results),)),
            presentation.settings_section(settings, range(seeds)),
        ),
        data={"teacher": its_accuracy, "seeds": results},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = presentation.command_line(__file__, __doc__, output="quantization_loss_output")
    parser.add_argument("--data", choices=["fashion_mnist", "cifar10"], default="fashion_mnist")
    parser.add_argument("--candidate", choices=list(CANDIDATES), default=Settings().candidate)
    parser.add_argument("--epochs", type=presentation.at_least(1), help="of the float student")
    parser.add_argument("--search", action="store_true", help="compare the candidates instead")
    args = parser.parse_args(arguments)
    if args.search and args.result:
        parser.error("argument --result: not with --search, which prints and writes no report")
    settings = dataclasses.replace(FAST if args.fast else Settings(), candidate=args.candidate)
    if args.epochs is not None:
        settings = dataclasses.replace(settings, epochs=args.epochs)
    data = experiment.load(args.data, args.data_dir)
    if args.search:
        search(data, args.output / f"{args.data}_search", settings)
        return
    folder = args.output / args.data
    presentation.publish(run(data, folder, settings, seeds=args.seeds), folder, parser, args)


if __name__ == "__main__":
    main()
