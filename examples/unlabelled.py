"""Fashion-MNIST with labels for a tenth: the other nine tenths are taught by stored soft targets.

    pip install "keras-kd[data,demo]"
    python examples/unlabelled.py --seeds 3

A teacher is trained on the labelled tenth alone, and asked once about every training picture; its
answers are stored. For each seed the same student is trained twice, with the same number of steps:
on the labelled tenth alone, and on all pictures, with labels where there are any and soft targets
everywhere. Stopped in the middle, the same command goes on where it was.

Nothing was tuned on the test split; temperature and weights are the first that were tried.

Paper: Hinton, Vinyals and Dean, arXiv:1503.02531, section 2 (the transfer set needs no labels);
    teaching unlabelled pictures as in Chen et al., arXiv:2006.10029, section 2.
Dataset: Fashion-MNIST, `fashion_mnist` of tensorflow-datasets.
Cost: on two cores about two minutes for the teacher and two for each seed.
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
from fashion_mnist import distiller, student_network, teacher_network

import keras_kd
from keras_kd import report

ALONE, WITH_UNLABELLED = "labelled tenth alone", "with the unlabelled pictures"
# The label of a picture without one; the task loss leaves it out.
NONE = -1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What teacher and students get."""

    labelled: int = 5_400
    teacher_width: int = 16
    teacher_steps: int = 1_200
    student_steps: int = 2_000
    batch_size: int = 128
    learning_rate: float = 4e-3
    temperature: float = 2.0
    student_loss_weight: float = 0.3


FAST = Settings(labelled=100, teacher_width=8, teacher_steps=4, student_steps=4)


def train(model: keras.Model, x: Any, y: np.ndarray, steps: int, settings: Settings, seed: int):
    """Fit a model for a number of steps, through the data as often as that takes."""
    batches = keras_kd.data.replayable(x, y, batch_size=settings.batch_size, seed=seed)
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=NONE)
    model.compile(keras.optimizers.Adam(rate), loss)
    # One pass is an epoch of the data, whose order is another each time; the last one is cut.
    each = len(batches)
    for epoch in range(-(-steps // each)):
        batches.epoch.assign(epoch)
        model.fit(batches.take(min(each, steps - epoch * each)), shuffle=False, verbose=0)


def trained_teacher(data: experiment.Data, folder: Path, settings: Settings) -> keras.Model:
    """The teacher of the labelled tenth, from `folder` if an earlier run finished it."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(0)
        teacher = teacher_network(data.train.x.shape[1:], settings.teacher_width)
        x, y = data.train.scaled()[: settings.labelled], data.train.y[: settings.labelled]
        train(teacher, x, y, settings.teacher_steps, settings, seed=0)
        return teacher

    return experiment.finished(folder, "teacher", make)


def train_student(
    data: experiment.Data, answers: Path | None, settings: Settings, seed: int
) -> keras.Model:
    """The student of one seed: of the labelled tenth, or of all pictures with stored answers."""
    keras.utils.set_random_seed(seed)
    student = student_network(data.train.x.shape[1:])
    x, y = data.train.scaled(), data.train.y.astype("int64")
    if answers is None:
        x, y = x[: settings.labelled], y[: settings.labelled]
        train(student, x, y, settings.student_steps, settings, seed)
        return student
    model = distiller(keras_kd.targets.StoredTeacher(answers), student, settings)
    y = np.where(np.arange(len(y)) < settings.labelled, y, NONE)
    attached = keras_kd.targets.attach(x, answers)
    train(model, attached, y, settings.student_steps, settings, seed)
    return student


def accuracy(model: keras.Model, split: experiment.Split) -> float:
    """Share of the pictures whose class is named."""
    answers = model.predict(split.scaled(), batch_size=500, verbose=0)
    return float(np.mean(answers.argmax(-1) == split.y))


def what_it_gained(results: Sequence[dict[str, float]]) -> str:
    """With the unlabelled pictures against without, paired by seed."""
    gain = presentation.mean_difference(
        [result[WITH_UNLABELLED] - result[ALONE] for result in results]
    )
    return (
        "The unlabelled pictures changed the accuracy by "
        f"{presentation.in_words(gain, f'{len(results)} seeds')}."
    )


def result_table(teacher: float, results: Sequence[dict[str, float]], tests: int) -> report.Table:
    """A row for the teacher and each kind of student; means over the seeds."""
    rows: list[tuple[Any, ...]] = [("teacher of the labelled tenth", teacher, None)]
    for name in (ALONE, WITH_UNLABELLED):
        values = [result[name] for result in results]
        deviation = presentation.deviation(values)
        rows.append((f"student, {name}", float(np.mean(values)), deviation))
    columns = (report.Column("Model"), presentation.ACCURACY, presentation.DEVIATION)
    note = f"Test split, {tests:,} pictures; {len(results)} seed(s), one teacher; float32 in Keras."
    return report.Table(columns, tuple(rows), note=note)


def measured_seed(
    data: experiment.Data, answers: Path, settings: Settings, seed: int
) -> dict[str, float]:
    """Train both students of one seed; their accuracies on the test split."""
    print(f"seed {seed}", flush=True)
    kinds = {ALONE: None, WITH_UNLABELLED: answers}
    students = {name: train_student(data, stored, settings, seed) for name, stored in kinds.items()}
    return {name: accuracy(model, data.test) for name, model in students.items()}


def run(
    data: experiment.Data, output: Path, settings: Settings, *, seeds: int = 1
) -> report.Report:
    """All of it, on arrays; what is finished in `output` is not done again."""
    experiment.same_settings_as_before(output / "settings.json", dataclasses.asdict(settings))
    teacher = trained_teacher(data, output, settings)
    answers = output / "answers"
    keras_kd.targets.write(teacher, data.train.scaled(), answers, temperature=settings.temperature)
    results = [
        experiment.once(output / f"seed-{seed}.json", measured_seed, data, answers, settings, seed)
        for seed in range(seeds)
    ]
    table = result_table(accuracy(teacher, data.test), results, len(data.test.y))
    return report.Report(
        "Fashion-MNIST with a tenth of the labels",
        what_it_gained(results),
        (
            report.Section("Result", (table,)),
            presentation.settings_section(settings, range(seeds)),
        ),
        data={"seeds": results, "settings": dataclasses.asdict(settings)},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = presentation.command_line(__file__, __doc__, output="unlabelled_output")
    args = parser.parse_args(arguments)
    data = experiment.load("fashion_mnist", args.data_dir)
    found = run(data, args.output, FAST if args.fast else Settings(), seeds=args.seeds)
    presentation.publish(found, args.output, parser, args)


if __name__ == "__main__":
    main()
