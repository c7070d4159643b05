"""MLPerf Tiny's image task: ResNet-8 taught by a larger ResNet that is there only as a .tflite.

    pip install "keras-kd[data,demo]"
    python examples/mlperf_tiny_image.py --teacher pretrainedResnet_large_float.tflite \
        --reference pretrainedResnet_quant.tflite

The student is the reference's network to the layer, 78,666 parameters; the teacher is asked through
LiteRT. First the float student is distilled; then it is fine-tuned with fake quantization by the
same teacher and converted with the ranges that it learned. What is scored is the int8 file.

Each picture has a number of augmented views. The teacher answers a view once, when it is first
needed, and its answers are kept; the student sees the very same view. Stopped at any moment, the
same command goes on at the last whole epoch, and ends with the same weights.

No setting was chosen on the test split, which is read once, for the final table.

Benchmark: Banbury et al., arXiv:2106.07597; network and teacher from github.com/mlcommons/tiny,
    benchmark/training/image_classification (keras_model.py, trained_models; Apache-2.0).
Paper: Hinton, Vinyals and Dean, arXiv:1503.02531, section 2; one view for teacher and student and a
    long schedule, as in Beyer et al., arXiv:2106.05237, section 3.
Dataset: CIFAR-10, Krizhevsky 2009, `cifar10` of tensorflow-datasets: 50,000 + 10,000 pictures of
    32 x 32 x 3, ten classes.
Cost: on two cores that do nothing else 41 s for an epoch and 40 s for the teacher's answers to a
    view, so two hours for the first stage.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import experiment
import keras
import numpy as np
import presentation

import keras_kd
from keras_kd import quantization, report

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the student is trained; in the last `frozen_epochs` its ranges and averages stay."""

    epochs: int = 150
    learning_rate: float = 0.1
    warmup_epochs: int = 3
    weight_decay: float = 2e-3
    quantized_epochs: int = 30
    quantized_learning_rate: float = 2e-3
    frozen_epochs: int = 10
    batch_size: int = 128
    views: int = 24
    largest_shift: int = 4
    temperature: float = 4.0
    student_loss_weight: float = 0.1
    seed: int = 0
    teacher_sha256: str = ""


FAST = Settings(epochs=1, warmup_epochs=0, quantized_epochs=1, frozen_epochs=0, views=1)


def view_of(pictures: np.ndarray, view: int, *, seed: int, largest_shift: int) -> np.ndarray:
    """An augmented view of every picture: shifted in both directions, and mirrored or not.

    What a shift uncovers repeats the border, as in the pictures that the teacher was trained on
    (ImageDataGenerator's default). The view is a function of the arguments alone.

    Args:
        pictures: Shape [count, height, width, channels].
        view: The number of the view, from 0.
        seed: An integer.
        largest_shift: In pixels.

    Returns:
        The same shape and dtype.
    """
    count, height, width, _ = pictures.shape
    generator = np.random.default_rng((seed, view))
    shifts = generator.integers(-largest_shift, largest_shift + 1, size=(2, count, 1))
    mirrored = generator.integers(0, 2, size=(count, 1), dtype=bool)
    rows = np.clip(np.arange(height) + shifts[0], 0, height - 1)
    columns = np.clip(np.arange(width) + shifts[1], 0, width - 1)
    columns = np.where(mirrored, columns[:, ::-1], columns)
    return pictures[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def student() -> keras.Model:
    """ResNet-8 of MLPerf Tiny, `resnet_v1_eembc`, without its softmax: pixels 0..255 to logits."""
    return keras_kd.students.resnet8(activation=None)


# The teacher: asked once for each view, through LiteRT


class Teacher:
    """A .tflite of any batch size, float32 pixels 0..255 in and probabilities out.

    Args:
        path: The .tflite.
        batch_size: Pictures a run; more of them fit the caches worse.
    """

    def __init__(self, path: Path, batch_size: int = 32):
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(path), num_threads=os.cpu_count())
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._batch_size = batch_size

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        """What the teacher says, float32 of shape [count, classes].

        Args:
            pictures: uint8, shape [count, height, width, channels].
        """
        answers, shape = [], None
        for start in range(0, len(pictures), self._batch_size):
            batch = pictures[start : start + self._batch_size].astype(np.float32)
            if batch.shape != shape:
                self._interpreter.resize_tensor_input(self._input, batch.shape)
                self._interpreter.allocate_tensors()
                shape = batch.shape
            self._interpreter.set_tensor(self._input, batch)
            self._interpreter.invoke()
            answers.append(self._interpreter.get_tensor(self._output))
        return np.concatenate(answers)


class TaughtPictures:
    """The views of the training pictures, each with the teacher's logits, kept in a folder.

    A softmax's logarithm is its logits up to a constant, which no soft target sees. float16 keeps
    them to 2^-11 of their size, the smallest (-87) to .04.

    Args:
        pictures: uint8, shape [count, height, width, channels].
        teacher: The path of its .tflite.
        folder: Where the answers are kept.
        settings: The settings.
    """

    def __init__(self, pictures: np.ndarray, teacher: Path, folder: Path, settings: Settings):
        self._pictures, self._settings, self._folder = pictures, settings, folder
        self._path, self._teacher = teacher, None

    def view(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """What is seen in an epoch, and the teacher's logits for it."""
        number = epoch % self._settings.views
        pictures = view_of(
            self._pictures,
            number,
            seed=self._settings.seed,
            largest_shift=self._settings.largest_shift,
        )
        path = self._folder / f"view-{number:03}.npy"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.part")
            with beside.open("wb") as file:
                np.save(file, self._logits(pictures).astype(np.float16))
            beside.replace(path)
        return pictures, np.load(path)

    def _logits(self, pictures: np.ndarray) -> np.ndarray:
        if self._teacher is None:
            self._teacher = Teacher(self._path)
        return np.log(np.maximum(self._teacher.probabilities(pictures), 1.2e-38))


# Training


def teacher_logits(x):
    """The part of a batch that is the teacher's."""
    return keras.ops.cast(x["teacher_logits"], "float32")


def pixels(x):
    """The part of a batch that is the student's."""
    return keras.ops.cast(x["picture"], "float32")


def distiller(model: keras.Model, settings: Settings) -> keras_kd.Distiller:
    """A distiller whose teacher hands through the logits that come with the batch."""
    logits = keras.Input((CLASSES,))
    return keras_kd.Distiller(
        keras.Model(logits, keras.layers.Identity()(logits), name="stored_teacher"),
        model,
        keras_kd.LogitsDistillation(temperature=settings.temperature, teacher_outputs="logits"),
        student_loss_weight=settings.student_loss_weight,
        teacher_preprocessing=teacher_logits,
        student_preprocessing=pixels,
        teacher_agreement=True,
    )


def train(
    model: keras.Model,
    pictures: TaughtPictures,
    labels: np.ndarray,
    folder: Path,
    settings: Settings,
    *,
    epochs: int,
    learning_rate: float,
    warmup_epochs: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Distil into `model`, going on after the last epoch that `folder` has whole."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = experiment.steps_of(len(labels), settings.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_epochs else learning_rate,
        decay_steps=steps * max(epochs - warmup_epochs, 1),
        warmup_target=learning_rate if warmup_epochs else None,
        warmup_steps=steps * warmup_epochs,
    )
    taught = distiller(model, settings)
    optimizer = keras.optimizers.SGD(
        schedule, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    taught.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    taught.optimizer.build(taught.trainable_variables)
    state, history = folder / "state.weights.h5", folder / "history.csv"
    if state.exists():
        taught.load_weights(state)
    # The optimizer's own count: weights, momentum and epoch are of one moment by being one file.
    done = int(taught.optimizer.iterations) // steps
    rows = experiment.read_log(history)[:done]
    for epoch in range(done, epochs):
        begun = time.monotonic()
        seen, logits = pictures.view(epoch)
        order = np.random.default_rng((settings.seed, 1, epoch)).permutation(len(labels))
        logs = taught.fit(
            {"picture": seen[order], "teacher_logits": logits[order]},
            labels[order],
            batch_size=settings.batch_size,
            shuffle=False,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose="auto" if sys.stdout.isatty() else 2,
            callbacks=list(callbacks),
        )
        row = {name: values[-1] for name, values in logs.history.items()}
        rows.append({"epoch": epoch, **row, "seconds": time.monotonic() - begun})
        # The log first: of one that is an epoch ahead of the state, the last row is dropped.
        write_history(history, rows)
        beside = folder / ".part.weights.h5"
        taught.save_weights(beside, overwrite=True)
        beside.replace(state)


def write_history(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write what `experiment.read_log` reads."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    experiment.write(path, text.getvalue())


def distilled(
    folder: Path,
    begin: Callable[[], keras.Model],
    pictures: TaughtPictures,
    labels: np.ndarray,
    settings: Settings,
    **plan: Any,
) -> keras.Model:
    """The student of one stage, from `folder` if an earlier run finished it.

    Args:
        folder: Where its training is kept.
        begin: Gives the student as it is before the stage: the same one each time.
        pictures: What it sees, and what the teacher says of it.
        labels: Shape [count].
        settings: The settings.
        **plan: How long and at what rate: see `train`.
    """

    def make() -> keras.Model:
        model = begin()
        train(model, pictures, labels, folder, settings, **plan)
        return model

    return experiment.finished(folder, "student", make)


def both_stages(
    data: experiment.Data, teacher: Path, folder: Path, settings: Settings
) -> tuple[keras.Model, keras.Model]:
    """The distilled float student; and, from there on, the one with fake quantization."""
    pictures = TaughtPictures(data.train.x, teacher, folder / "answers", settings)

    def begin() -> keras.Model:
        keras.utils.set_random_seed(settings.seed)
        return student()

    trained = distilled(
        folder / "float",
        begin,
        pictures,
        data.train.y,
        settings,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_epochs=settings.warmup_epochs,
    )
    frozen = settings.quantized_epochs - settings.frozen_epochs
    quantized = distilled(
        folder / "quantized",
        lambda: quantization.quantize_aware(trained, calibration=calibration(data)),
        pictures,
        data.train.y,
        settings,
        epochs=settings.quantized_epochs,
        learning_rate=settings.quantized_learning_rate,
        callbacks=[quantization.Phases(freeze_ranges_epoch=frozen, freeze_batch_norm_epoch=frozen)],
    )
    return trained, quantized


def calibration(data: experiment.Data) -> np.ndarray:
    """The pictures that ranges are found on, float32."""
    return data.train.x[:500].astype(np.float32)


# Measuring on the test split


def with_softmax(model: keras.Model) -> keras.Model:
    """The whole reference network: a student that gives probabilities."""
    return keras.Model(model.input, keras.layers.Softmax()(model.output), name=model.name)


def measured(
    name: str, model: Any, test: experiment.Split, runtimes: Sequence[str]
) -> list[dict[str, Any]]:
    """A model's rows of the table, JSON values."""
    print(name, flush=True)
    rows = keras_kd.deploy.measure(
        model,
        test.x.astype(np.float32),
        test.y,
        runtimes=runtimes,
        latency_runs=0,
        progress=sys.stdout.isatty(),
    )
    return [{"model": name, **dataclasses.asdict(row)} for row in rows]


# The result


def result_table(rows: Sequence[dict[str, Any]]) -> report.Table:
    """A row for each model and runtime."""
    cells = tuple(
        (
            row["model"],
            f"{row['quantization']} on {row['runtime']}",
            report.Uncertain(row["value"], row["standard_error"]),
            None if row["runtime"] == "keras" else row["size_bytes"],
            row["arena_bytes"],
        )
        for row in rows
    )
    columns = (
        report.Column("Model"),
        report.Column("Runs as"),
        presentation.ACCURACY,
        report.Column("File", "bytes"),
        report.Column("Arena", "bytes"),
    )
    note = (
        f"Test split, {rows[0]['examples']:,} pictures, read once; after the accuracy its standard "
        "error for new pictures, sqrt(p (1 - p) / n). One seed. litert_reference is LiteRT with "
        "its reference kernels; tflm is TFLite Micro on this computer, no board."
    )
    return report.Table(columns, cells, note=note, highlight=len(cells) - 1)


def curve_table(histories: dict[str, list[dict[str, float]]]) -> report.Table:
    """Some ten epochs of each stage."""
    cells = []
    for stage, rows in histories.items():
        for index in sorted({round(i) for i in np.linspace(0, len(rows) - 1, min(len(rows), 11))}):
            row = rows[index]
            seen = (row["accuracy"], row["teacher_agreement"], row["distillation_loss"])
            cells.append((stage, index + 1, *seen))
    columns = (
        report.Column("Stage"),
        report.Column("Epoch"),
        presentation.ACCURACY,
        report.Column("Agreement with the teacher", "%", digits=2, scale=100),
        report.Column("Distillation loss", digits=3),
    )
    note = "On the augmented training views, while the weights change; nothing is held out."
    return report.Table(columns, tuple(cells), note=note)


def full_report(
    rows: Sequence[dict[str, Any]],
    histories: dict[str, list[dict[str, float]]],
    settings: Settings,
) -> report.Report:
    """Tables, and the curve as a plot; `histories` are those of the stages in their order."""
    series, before = [], 0
    for stage, logs in histories.items():
        epochs = tuple(before + 1 + index for index in range(len(logs)))
        series.append(report.Series(stage, epochs, tuple(100 * log["accuracy"] for log in logs)))
        before += len(logs)
    curve = report.LinePlot("Accuracy in training", "epoch", "accuracy (%)", tuple(series))
    hours = {stage: sum(log["seconds"] for log in logs) / 3600 for stage, logs in histories.items()}
    facts = {f"hours, {stage}": f"{taken:.1f}" for stage, taken in hours.items()}
    last = rows[-1]
    return report.Report(
        "MLPerf Tiny's image task: ResNet-8 as int8",
        f"{100 * last['value']:.2f} % of {last['examples']:,} test pictures on {last['runtime']}, "
        f"{last['size_bytes']:,} bytes, after {sum(hours.values()):.1f} hours.",
        (
            report.Section("Result", (result_table(rows),)),
            report.Section("Curve", (curve, curve_table(histories))),
            presentation.settings_section(settings, facts=facts),
        ),
        data={"rows": list(rows), "histories": histories},
    )


def run(
    data: experiment.Data,
    teacher: Path,
    folder: Path,
    settings: Settings,
    *,
    reference: Path | None = None,
    runtimes: Sequence[str] = ("litert_reference", "tflm"),
) -> report.Report:
    """All of it, on arrays; what is finished in `folder` is not done again."""
    digest = hashlib.sha256(teacher.read_bytes()).hexdigest()
    settings = dataclasses.replace(settings, teacher_sha256=digest)
    experiment.same_settings_as_before(folder / "settings.json", dataclasses.asdict(settings))
    trained, quantized = both_stages(data, teacher, folder, settings)
    whole = with_softmax(trained)
    after_training = keras_kd.deploy.convert(
        whole,
        folder / "resnet8_after_training.tflite",
        calibration=calibration(data),
        input_range=(0.0, 255.0),
    )
    in_training = keras_kd.deploy.convert(with_softmax(quantized), folder / "resnet8.tflite")
    jobs: list[tuple[str, Any, Sequence[str]]] = [("teacher", teacher, ("litert",))]
    jobs += [("reference", reference, runtimes)] if reference else []
    jobs += [
        ("student, float", whole, runtimes),
        ("student, int8 after training", after_training, runtimes),
        ("student, int8 in training", in_training, runtimes),
    ]
    rows = []
    for name, model, where in jobs:
        path = folder / "rows" / f"{name.replace(', ', '-').replace(' ', '_')}.json"
        rows += experiment.once(path, measured, name, model, data.test, where)
    histories = {
        "float": experiment.read_log(folder / "float" / "history.csv"),
        "quantization-aware": experiment.read_log(folder / "quantized" / "history.csv"),
    }
    return full_report(rows, histories, settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = presentation.command_line(
        __file__, __doc__, output="mlperf_tiny_image_output", seeds=False
    )
    a_file = presentation.file_that_is_there
    parser.add_argument(
        "--teacher", type=a_file, required=True, help="pretrainedResnet_large_float.tflite"
    )
    parser.add_argument(
        "--reference", type=a_file, help="pretrainedResnet_quant.tflite, to be measured too"
    )
    args = parser.parse_args(arguments)
    data = experiment.load("cifar10", args.data_dir, hold_out=False)
    settings = FAST if args.fast else Settings()
    found = run(data, args.teacher, args.output, settings, reference=args.reference)
    presentation.publish(found, args.output, parser, args)


if __name__ == "__main__":
    main()
