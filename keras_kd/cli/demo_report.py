"""What the demo's numbers say: the report of one or several seeds."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from keras_kd.cli.demo_training import (
    ALONE,
    AUGMENTATION,
    BATCH_SIZE,
    CLASSES,
    COLORS,
    DISTILLED,
    LEARNING_RATE,
    PASSES,
    RESULT,
    ROWS,
    RUNTIME_NAMES,
    STUDENT_LOSS_WEIGHT,
    TEACHER,
    TEACHER_LEARNING_RATE,
    TEMPERATURE,
    Digits,
    Run,
    make_student,
    make_teacher,
    steps_of,
)
from keras_kd.report import (
    Cell,
    Column,
    Facts,
    LinePlot,
    MatrixPlot,
    PointPlot,
    Report,
    Section,
    Series,
    Table,
    Text,
    Uncertain,
)


def confusion(truth: np.ndarray, named: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Counts, [classes, classes]: rows the truth, columns the answer."""
    counts = np.zeros((CLASSES, CLASSES), int)
    np.add.at(counts, (truth, named), 1)
    return tuple(tuple(row) for row in counts.tolist())


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much more often the distilled int8 student on TFLM is right than another row.

    Args:
        other: Key of the other row.
        mean: Over seeds and test images.
        over_images: Its standard error over test images, paired: each image's difference is
            averaged over the seeds first.
        over_seeds: Its standard error over seeds, paired; None with one seed.
        by_seed: One difference for each seed.
    """

    other: tuple[str, str, str]
    mean: float
    over_images: float
    over_seeds: float | None
    by_seed: tuple[float, ...]

    @property
    def standard_error(self) -> float:
        """The larger of the two."""
        return max(self.over_images, self.over_seeds or 0.0)


def difference(runs: Sequence[Run], other: tuple[str, str, str]) -> Difference:
    """Compares `RESULT` with another row, seed by seed and image by image."""
    gains = np.array(
        [
            run.row(RESULT).correct.astype(float) - run.row(other).correct.astype(float)
            for run in runs
        ]
    )
    by_seed = gains.mean(1)
    return Difference(
        other=other,
        mean=float(gains.mean()),
        over_images=float(gains.mean(0).std() / math.sqrt(gains.shape[1])),
        over_seeds=float(by_seed.std(ddof=1) / math.sqrt(len(runs))) if len(runs) > 1 else None,
        by_seed=tuple(by_seed.tolist()),
    )


def verdict(gain: Difference) -> str:
    """What the difference says, and no more."""
    points, error = 100 * gain.mean, 100 * gain.standard_error
    number = f"{points:+.2f} ± {error:.2f} percentage points, paired standard error"
    if gain.mean <= 0:
        return f"distillation did not help here, {number}."
    if gain.mean <= 2 * gain.standard_error:
        return f"ahead, but within two standard errors of nothing, {number}."
    return f"ahead, {number}."


def make_report(digits: Digits, runs: Sequence[Run], epochs: int, teacher_epochs: int) -> Report:
    """The report of one or several seeds."""
    gains = [difference(runs, ROWS[1]), difference(runs, ROWS[2])]
    result = _accuracy(runs, RESULT)
    size = runs[0].row(RESULT).measured.size_bytes
    summary = (
        f"A student of {size:,} bytes, as a microcontroller runs it (int8, TFLite Micro), reads "
        f"{100 * result.value:.1f} % of {len(digits.y_test)} handwritten digits that it has never "
        f"seen. Compared with the same student trained alone (float32): {verdict(gains[0])}"
    )
    several = [_seed_table(runs, gains)] if len(runs) > 1 else []
    settings = _settings(digits, runs, epochs, teacher_epochs)
    return Report(
        title="Handwritten digits, from a teacher to a microcontroller",
        summary=summary,
        sections=(
            Section("Result", (_main_table(runs), *several, _gain_table(runs, gains))),
            Section("Pictures", tuple(_plots(digits, runs)), columns=2),
            Section("How it was made", (Facts(tuple(settings.items())),)),
            Section("What was not run", (Text(NOT_RUN),)),
        ),
        data={
            "settings": settings,
            "seeds": [run.seed for run in runs],
            "rows": [
                {
                    "seed": run.seed,
                    "model": row.model,
                    **dataclasses.asdict(row.measured),
                }
                for run in runs
                for row in run.rows
            ],
            "differences": [dataclasses.asdict(gain) for gain in gains],
            "validation_accuracy": [{"seed": run.seed, **run.curves} for run in runs],
        },
    )


def _accuracy(runs: Sequence[Run], key: tuple[str, str, str]) -> Uncertain:
    """Accuracy and its standard error with one seed; mean and standard deviation with several."""
    if len(runs) == 1:
        row = runs[0].row(key)
        return Uncertain(row.accuracy, row.measured.standard_error)
    values = [run.row(key).accuracy for run in runs]
    return Uncertain(statistics.fmean(values), statistics.stdev(values))


def _main_table(runs: Sequence[Run]) -> Table:
    one = len(runs) == 1
    first = runs[0]
    rows = []
    for key in ROWS:
        m = first.row(key).measured
        agreement = statistics.fmean(run.row(key).agreement for run in runs)
        model, format_, runtime = key
        place = (model, format_, RUNTIME_NAMES[runtime])
        costs = (m.size_bytes, m.arena_bytes, m.latency_ms_median, m.latency_ms_p95)
        rows.append((*place, _accuracy(runs, key), agreement, *costs))
    spread = (
        "Accuracy with its standard error, sqrt(p (1 - p) / n), over the test images."
        if one
        else f"Accuracy: mean and standard deviation over {len(runs)} seeds."
    )
    return Table(
        columns=(
            Column("Model"),
            Column("Format"),
            Column("Runtime"),
            Column("Accuracy", "%", digits=1, scale=100),
            Column("Agreement", "% with its float", digits=1, scale=100),
            Column("Size", "bytes"),
            Column("Arena", "bytes"),
            Column("Latency", "µs, this host", digits=1, scale=1000),
            Column("p95", "µs, this host", digits=1, scale=1000),
        ),
        rows=tuple(rows),
        note=f"{spread} Size is the .tflite file's. Latency is one image on this computer's "
        f"processor, median of {first.rows[0].measured.latency_runs} runs after "
        f"{first.rows[0].measured.warmup_runs} unmeasured ones: a board's is another.",
        highlight=ROWS.index(RESULT),
    )


def _seed_table(runs: Sequence[Run], gains: Sequence[Difference]) -> Table:
    compared = (ROWS[0], ROWS[1], ROWS[2], RESULT)
    lines: list[tuple[Cell, ...]] = [
        (
            str(run.seed),
            *(run.row(key).accuracy for key in compared),
            gains[0].by_seed[i],
        )
        for i, run in enumerate(runs)
    ]
    columns = list(zip(*(line[1:] for line in lines), strict=True))
    lines.append(("mean", *map(statistics.fmean, columns)))
    lines.append(("standard deviation", *map(statistics.stdev, columns)))
    names = ("Teacher", "Alone", "Alone, int8 on TFLM", "Distilled, int8 on TFLM")
    return Table(
        title="Seed by seed",
        columns=(
            Column("Seed"),
            *(Column(name, "%", digits=2, scale=100) for name in names),
            Column("Last minus alone", "points", digits=2, scale=100),
        ),
        rows=tuple(lines),
    )


def _place(quantization: str, runtime: str) -> str:
    return f"{quantization} on TFLM" if runtime == "tflm" else quantization


def _gain_table(runs: Sequence[Run], gains: Sequence[Difference]) -> Table:
    return Table(
        title="The distilled student, int8 on TFLite Micro, minus",
        columns=(
            Column("The other"),
            Column("Difference", "percentage points", digits=2, scale=100),
            Column("Standard error over images", "points", digits=2, scale=100),
            Column("Standard error over seeds", "points", digits=2, scale=100),
        ),
        rows=tuple(
            (
                f"{gain.other[0]}, {_place(*gain.other[1:])}",
                *(gain.mean, gain.over_images, gain.over_seeds),
            )
            for gain in gains
        ),
        note="Paired: both answer the same images, and have the same seeds. The error over images "
        "is what another test split would change, the error over seeds what other first weights "
        "and another order would."
        + ("" if len(runs) > 1 else " One seed has no spread: --seeds 5."),
    )


def _plots(digits: Digits, runs: Sequence[Run]) -> Iterator[LinePlot | PointPlot | MatrixPlot]:
    curves = []
    for name in (TEACHER, ALONE, DISTILLED):
        values = np.array([run.curves[name] for run in runs])
        epochs = tuple(range(1, values.shape[1] + 1))
        spread = tuple((100 * values.std(0, ddof=1)).tolist()) if len(runs) > 1 else ()
        mean = tuple((100 * values.mean(0)).tolist())
        curves.append(Series(name, epochs, mean, spread, color=COLORS[name]))
    several = f"mean and standard deviation of {len(runs)} seeds" if len(runs) > 1 else "one seed"
    yield LinePlot(
        "Learning curves",
        "epoch",
        "accuracy on the validation split (%)",
        tuple(curves),
        # The first epochs would press the others together.
        y_min=min(min(series.y[len(series.y) // 8 :]) for series in curves) - 2.0,
        note=f"{several[0].upper()}{several[1:]}. The validation split decides nothing here.",
    )
    points = []
    for key in (ROWS[0], ROWS[1], ROWS[2], ROWS[3], RESULT):
        accuracy = _accuracy(runs, key)
        size = runs[0].row(key).measured.size_bytes
        name = f"{key[0]}, {_place(*key[1:])}"
        place = ((size,), (100 * accuracy.value,), (100 * (accuracy.spread or 0.0),))
        is_float = key[1] == "float32"
        points.append(Series(name, *place, color=COLORS[key[0]], dashed=is_float))
    yield PointPlot(
        "Size against accuracy",
        "size of the .tflite file (bytes, logarithmic)",
        "accuracy on the test split (%)",
        tuple(points),
        log_x=True,
        note="Bars: " + ("standard errors." if len(runs) == 1 else "standard deviations."),
    )
    for key in (RESULT, ROWS[2]):
        yield MatrixPlot(
            f"Confusion matrix: {key[0]}, {_place(*key[1:])}",
            "answer",
            "truth",
            tuple(map(str, range(CLASSES))),
            confusion(digits.y_test, runs[0].row(key).named),
            note=f"Counts of test images{'' if len(runs) == 1 else ', seed 0'}.",
        )


NOT_RUN = (
    "No board was connected. TFLite Micro ran as a program on this computer: its arithmetic, and "
    "so the accuracy, is that of its reference kernels on a microcontroller; a board with kernels "
    "of its own (CMSIS-NN, an NPU) may round otherwise. For other models the arena was within 13 % "
    "of a Cortex-M55's, so allow 20 % on top. Latency and energy on a board "
    "were not measured."
)


CHOICE = (
    "by some 80 combinations of student, number of labeled images, augmentation and steps, each "
    "over 8 to 16 seeds, on the validation split alone. Student, images and steps are where "
    "distillation gained clearly, a point or so; for this student it was within two standard "
    "errors of nothing with 599 labeled images, or with 900 steps. Rate and augmentation are the "
    "best found for the student alone, temperature and weight for the distilled one. A choice "
    "among so many flatters the gain: expect less elsewhere"
)


def _settings(
    digits: Digits, runs: Sequence[Run], epochs: int, teacher_epochs: int
) -> dict[str, str]:
    import keras
    import tensorflow as tf

    steps = steps_of(digits)
    n_train, n_validation, n_test = map(len, (digits.y_train, digits.y_validation, digits.y_test))
    student, teacher = make_student().count_params(), make_teacher().count_params()
    return {
        "Data": "scikit-learn's load_digits: 1797 real digits by 13 writers, 8x8 pixels, 17 greys; "
        "a writer's digits may be in several splits",
        "Split": f"{n_train} training, {n_validation} validation, {n_test} test images, by class, "
        "the same for every seed; the test split is read once, at the end",
        "Seeds": ", ".join(str(run.seed) for run in runs),
        "Teacher": f"{teacher:,} parameters, {teacher_epochs * steps:,} steps at a learning rate "
        f"of {TEACHER_LEARNING_RATE:g}, falling to 0 along a cosine",
        "Student": f"{student:,} parameters, {epochs * steps:,} steps at a learning rate of "
        f"{LEARNING_RATE:g}, falling likewise; alone and distilled have the same first weights, "
        "images, order and steps",
        "All three": f"Adam, batches of {BATCH_SIZE}; an epoch is {PASSES} passes over the images, "
        "{:g}° turned, {:.0%} scaled and {:g} pixels moved at most".format(*AUGMENTATION),
        "Distillation": f"soft targets at temperature {TEMPERATURE:g}, weight "
        f"{1 - STUDENT_LOSS_WEIGHT:g}, labels {STUDENT_LOSS_WEIGHT:g} (Hinton et al., "
        "arXiv:1503.02531)",
        "How it was chosen": CHOICE,
        "Quantization": f"int8 after training, ranges from the {n_train} training images",
        "Machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
        "Versions": f"Python {platform.python_version()}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}",
    }
