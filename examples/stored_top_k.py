"""Soft targets on disk: five classes of 150 and the remaining mass, against all of them.

    python examples/stored_top_k.py --data clinc150.tsv.gz --seeds 3

A teacher is trained once and asked once; what it says of every training sentence is stored in full
and as its five largest classes with the remaining mass. For each seed the same student is trained
alone, from the full answers and from the five: same initial weights, same batches in the same
order, same number of steps. Stopped in the middle, the same command goes on where it was.

Nothing was tuned on the test split; temperature and weights are the first that were tried.

Paper: Hinton, Vinyals and Dean, arXiv:1503.02531, section 2.
Dataset: CLINC150, Larson et al., arXiv:1909.02027 (CC BY 3.0): `data/data_full.json` of
    https://github.com/clinc/oos-eval, or a .tsv.gz of it with the columns split, label and text.
    150 intents; 15,000 + 4,500 sentences in scope. A sentence is its hashed words and word pairs.
Cost: on two cores about a minute for the teacher and half a minute for each seed.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import itertools
import json
import zlib
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

ALONE, FULL, STORED = "student alone", "from all classes", "from the largest and the rest"
OUT_OF_SCOPE = "oos"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What teacher and students get."""

    dimensions: int = 2048
    teacher_units: int = 512
    teacher_epochs: int = 12
    student_units: int = 24
    student_epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 2e-3
    temperature: float = 2.0
    student_loss_weight: float = 0.3
    top_k: int = 5


FAST = Settings(teacher_epochs=1, student_epochs=1, dimensions=256, teacher_units=32)


def sentences(path: Path, split: str) -> tuple[list[str], list[str]]:
    """Texts and intents of a split of CLINC150, in scope."""
    if path.suffix == ".json":
        rows = json.loads(path.read_text())[split]
    else:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = [(row["text"], row["label"]) for row in table if row["split"] == split]
    kept = [(text, label) for text, label in rows if label != OUT_OF_SCOPE]
    return [text for text, _ in kept], [label for _, label in kept]


def hashed(texts: Sequence[str], dimensions: int) -> np.ndarray:
    """Words and pairs of words, each set to 1 at its CRC-32; rows of length 1."""
    x = np.zeros((len(texts), dimensions), np.float32)
    for row, text in enumerate(texts):
        words = text.lower().split()
        for entry in [*words, *map(" ".join, itertools.pairwise(words))]:
            x[row, zlib.crc32(entry.encode()) % dimensions] = 1.0
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1.0)


def load(path: Path, dimensions: int) -> tuple[experiment.Split, experiment.Split]:
    """The training and the test split: hashed sentences, and the numbers of their intents."""
    found = {split: sentences(path, split) for split in ("train", "test")}
    numbers = {label: number for number, label in enumerate(sorted(set(found["train"][1])))}
    return tuple(
        experiment.Split(hashed(texts, dimensions), np.array([numbers[label] for label in labels]))
        for texts, labels in found.values()
    )


def network(name: str, dimensions: int, units: int, classes: int) -> keras.Model:
    """One hidden layer."""
    inputs = keras.Input((dimensions,))
    x = keras.layers.Dense(units, activation="relu")(inputs)
    x = keras.layers.Dropout(0.3)(x) if name == "teacher" else x
    return keras.Model(inputs, keras.layers.Dense(classes, name="logits")(x), name=name)


def compile_for(model: keras.Model, rate: float) -> None:
    """Adam on the cross-entropy with the labels."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)


def trained_teacher(
    train: experiment.Split, classes: int, folder: Path, settings: Settings
) -> keras.Model:
    """The teacher, from `folder` if an earlier run finished it."""

    def make() -> keras.Model:
        keras.utils.set_random_seed(0)
        teacher = network("teacher", settings.dimensions, settings.teacher_units, classes)
        compile_for(teacher, settings.learning_rate)
        teacher.fit(
            train.x,
            train.y,
            epochs=settings.teacher_epochs,
            batch_size=settings.batch_size,
            verbose=2,
        )
        return teacher

    return experiment.finished(folder, "teacher", make)


def train_student(
    train: experiment.Split, classes: int, answers: Path | None, settings: Settings, seed: int
) -> keras.Model:
    """The student of one seed: from stored answers, or alone; all else is the same."""
    keras.utils.set_random_seed(seed)
    model = student = network("student", settings.dimensions, settings.student_units, classes)
    x: Any = train.x
    if answers is not None:
        x = keras_kd.targets.attach(x, answers)
        model = distiller(keras_kd.targets.StoredTeacher(answers), student, settings)
    compile_for(model, settings.learning_rate)
    experiment.fit(
        model,
        x,
        train.y,
        epochs=settings.student_epochs,
        batch_size=settings.batch_size,
        seed=seed,
        verbose=0,
    )
    return student


def accuracy(model: keras.Model, split: experiment.Split) -> float:
    """Share of the sentences whose intent is named."""
    return float(np.mean(model.predict(split.x, verbose=0).argmax(-1) == split.y))


def result_table(
    teacher: float, results: Sequence[dict[str, float]], record_bytes: dict[str, int], tests: int
) -> report.Table:
    """A row for each kind of student; means over the seeds, and what an answer takes on disk."""
    rows: list[tuple[Any, ...]] = [("teacher", report.Uncertain(teacher, None), None, None)]
    for name in results[0]:
        values = [result[name] for result in results]
        mean = float(np.mean(values))
        error = float(np.sqrt(mean * (1 - mean) / tests))
        deviation = presentation.deviation(values)
        rows.append((name, report.Uncertain(mean, error), deviation, record_bytes.get(name)))
    columns = (
        report.Column("Model"),
        presentation.ACCURACY,
        presentation.DEVIATION,
        report.Column("A stored answer", "bytes"),
    )
    note = (
        f"Test split, {tests:,} sentences in scope; {len(results)} seed(s), one teacher. After the "
        "accuracy: its standard error for new sentences, sqrt(p (1 - p) / n)."
    )
    return report.Table(columns, tuple(rows), note=note)


def what_it_cost(results: Sequence[dict[str, float]], tests: int) -> str:
    """The difference that the left-out classes made, beside the standard error of an accuracy."""
    differences = [result[STORED] - result[FULL] for result in results]
    mean = float(np.mean([result[FULL] for result in results]))
    error = float(np.sqrt(mean * (1 - mean) / tests))
    within = "within" if abs(np.mean(differences)) <= error else "outside of"
    return (
        f"Storing the largest classes and the rest in place of all changed the student's accuracy "
        f"by {100 * np.mean(differences):+.2f} points, {within} the {100 * error:.2f} of its "
        "standard error."
    )


def measured_seed(
    train: experiment.Split,
    test: experiment.Split,
    classes: int,
    kinds: dict[str, Path | None],
    settings: Settings,
    seed: int,
) -> dict[str, float]:
    """Train the student of each kind of answers; their accuracies on the test split."""
    print(f"seed {seed}", flush=True)
    students = {
        name: train_student(train, classes, answers, settings, seed)
        for name, answers in kinds.items()
    }
    return {name: accuracy(model, test) for name, model in students.items()}


def run(
    train: experiment.Split,
    test: experiment.Split,
    output: Path,
    settings: Settings,
    *,
    seeds: int = 1,
) -> report.Report:
    """All of it, on arrays; what is finished in `output` is not done again."""
    experiment.same_settings_as_before(output / "settings.json", dataclasses.asdict(settings))
    classes = int(train.y.max()) + 1
    teacher = trained_teacher(train, classes, output, settings)
    kinds: dict[str, Path | None] = {ALONE: None}
    record_bytes = {}
    for name, top_k in ((FULL, None), (STORED, settings.top_k)):
        folder = kinds[name] = output / f"answers-{top_k or 'all'}"
        manifest = keras_kd.targets.write(
            teacher, train.x, folder, top_k=top_k, temperature=settings.temperature
        )
        record_bytes[name] = manifest.record().itemsize
    results = []
    for seed in range(seeds):
        arguments = (train, test, classes, kinds, settings, seed)
        results.append(experiment.once(output / f"seed-{seed}.json", measured_seed, *arguments))
    table = result_table(accuracy(teacher, test), results, record_bytes, len(test.y))
    return report.Report(
        f"CLINC150: the {settings.top_k} largest of {classes} classes on disk",
        what_it_cost(results, len(test.y)),
        (
            report.Section("Result", (table,)),
            presentation.settings_section(settings, range(seeds)),
        ),
        data={"seeds": results, "settings": dataclasses.asdict(settings)},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = presentation.command_line(
        __file__, __doc__, output="stored_top_k_output", data_dir=False
    )
    parser.add_argument(
        "--data",
        type=presentation.file_that_is_there,
        required=True,
        help="data_full.json, or a .tsv.gz: see the top of this file",
    )
    args = parser.parse_args(arguments)
    settings = FAST if args.fast else Settings()
    found = run(*load(args.data, settings.dimensions), args.output, settings, seeds=args.seeds)
    presentation.publish(found, args.output, parser, args)


if __name__ == "__main__":
    main()
