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

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fashion_mnist
import keras
import numpy as np
from fashion_mnist import (
    Data,
    Split,
    finished,
    same_settings_as_before,
    student_network,
    teacher_network,
    write,
)

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


def trained_teacher(data: Data, folder: Path, settings: Settings) -> keras.Model:
    """The teacher of the labelled tenth, from `folder` if an earlier run finished it."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(0)
        teacher = teacher_network(data.train.x.shape[1:], settings.teacher_width)
        x, y = data.train.scaled()[: settings.labelled], data.train.y[: settings.labelled]
        train(teacher, x, y, settings.teacher_steps, settings, seed=0)
        return teacher

    return finished(folder, "teacher", make)


def train_student(data: Data, answers: Path | None, settings: Settings, seed: int) -> keras.Model:
    """The student of one seed: of the labelled tenth, or of all pictures with stored answers."""
    keras.utils.set_random_seed(seed)
    student = student_network(data.train.x.shape[1:])
    x, y = data.train.scaled(), data.train.y.astype("int64")
    if answers is None:
        x, y = x[: settings.labelled], y[: settings.labelled]
        train(student, x, y, settings.student_steps, settings, seed)
        return student
    distiller = keras_kd.Distiller(
        keras_kd.targets.StoredTeacher(answers),
        student,
        keras_kd.LogitsDistillation(temperature=settings.temperature),
        student_loss_weight=settings.student_loss_weight,
    )
    y = np.where(np.arange(len(y)) < settings.labelled, y, NONE)
    attached = keras_kd.targets.attach(x, answers)
    train(distiller, attached, y, settings.student_steps, settings, seed)
    return student


def accuracy(model: keras.Model, split: Split) -> float:
    """Share of the pictures whose class is named."""
    answers = model.predict(split.scaled(), batch_size=500, verbose=0)
    return float(np.mean(answers.argmax(-1) == split.y))


def what_it_gained(results: Sequence[dict[str, float]]) -> str:
    """With the unlabelled pictures against without, paired by seed."""
    differences = [result[WITH_UNLABELLED] - result[ALONE] for result in results]
    text = f"The unlabelled pictures changed the accuracy by {100 * np.mean(differences):+.2f}"
    if len(differences) == 1:
        return f"{text} points (one seed)."
    error = np.std(differences, ddof=1) / np.sqrt(len(differences))
    return f"{text} ± {100 * error:.2f} points (standard error over {len(differences)} seeds)."


def result_table(teacher: float, results: Sequence[dict[str, float]], tests: int) -> report.Table:
    """A row for the teacher and each kind of student; means over the seeds."""
    rows: list[tuple[Any, ...]] = [("teacher of the labelled tenth", teacher, None)]
    for name in (ALONE, WITH_UNLABELLED):
        values = [result[name] for result in results]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append((f"student, {name}", float(np.mean(values)), deviation))
    columns = (
        report.Column("Model"),
        report.Column("Accuracy", "%", digits=2, scale=100),
        report.Column("Deviation over seeds", "%", digits=2, scale=100),
    )
    note = f"Test split, {tests:,} pictures; {len(results)} seed(s), one teacher; float32 in Keras."
    return report.Table(columns, tuple(rows), note=note)


def run(data: Data, output: Path, settings: Settings, *, seeds: int = 1) -> report.Report:
    """All of it, on arrays; what is finished in `output` is not done again."""
    output.mkdir(parents=True, exist_ok=True)
    same_settings_as_before(output / "settings.json", settings)
    teacher = trained_teacher(data, output, settings)
    answers = output / "answers"
    keras_kd.targets.write(teacher, data.train.scaled(), answers, temperature=settings.temperature)
    results = []
    for seed in range(seeds):
        path = output / f"seed-{seed}.json"
        if not path.exists():
            print(f"seed {seed}", flush=True)
            kinds = {ALONE: None, WITH_UNLABELLED: answers}
            students = {
                name: train_student(data, stored, settings, seed) for name, stored in kinds.items()
            }
            found = {name: accuracy(model, data.test) for name, model in students.items()}
            write(path, json.dumps(found))
        results.append(json.loads(path.read_text()))
    table = result_table(accuracy(teacher, data.test), results, len(data.test.y))
    found = report.Report(
        "Fashion-MNIST with a tenth of the labels",
        what_it_gained(results),
        (report.Section("Result", (table,)),),
        data={"seeds": results, "settings": dataclasses.asdict(settings)},
    )
    found.write_json(output / "report.json")
    found.write_html(output / "report.html")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="of tensorflow-datasets; downloads what is not there")
    parser.add_argument("--output", type=Path, default=Path("unlabelled_output"))
    parser.add_argument("--seeds", type=int, default=1, help="students of each kind")
    parser.add_argument("--fast", action="store_true", help="a few steps: only to see it run")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"argument --seeds: expected at least 1, received {args.seeds}")
    try:
        data = fashion_mnist.load(args.data_dir)
    except ImportError as err:
        print(f'{err}. Hint: pip install "keras-kd[data,demo]"', file=sys.stderr)
        return 1
    found = run(data, args.output, FAST if args.fast else Settings(), seeds=args.seeds)
    print(f"\n{found.text()}\n{args.output / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
