"""The methods of the catalogue side by side, on Fashion-MNIST at one budget.

    pip install "keras-kd[data,demo]"
    python examples/compare_losses.py --seeds 3

One teacher, and for each method and seed the same small student: same initial weights, same
batches in the same order, same augmentation, same number of steps. Each method has the weight of
its paper, with the task loss at weight 1; nothing was tuned for this data, teacher or student. Each
student becomes an int8 .tflite file too, which LiteRT runs on the whole test split. Stopped in the
middle, the same command goes on where it was.

The rows "student alone" and "keras.distillation" say what there is to win: the first has no
teacher, the second is `keras.distillation.Distiller` with its default loss, as it is.

Paper: each row's, see README.md. The comparison is in the manner of Tian et al., arXiv:1910.10699,
    table 1.
Dataset: Fashion-MNIST, `fashion_mnist` of tensorflow-datasets, the first 12,000 training pictures.
Cost: on two cores about 12 minutes for the teacher and 20 for each seed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import experiment
import fashion_mnist
import keras
import numpy as np
import presentation

import keras_kd
from keras_kd import losses, report

ALONE, KERAS = "student alone", "keras.distillation"


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every student gets."""

    examples: int = 12_000
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 4e-3


FAST = Budget(examples=1_000, epochs=1)


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: Of `keras_kd.losses.available()`.
        weight: The paper's, with the task loss at weight 1; see docs of the method.
        options: Arguments of the loss.
        task: Weight of the task loss; 1 but for methods whose paper says another.
    """

    name: str
    weight: float = 1.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    task: float = 1.0

    def make(self) -> keras_kd.DistillationLoss:
        """The loss."""
        return losses.get(self.name, **self.options)

    def distiller(self, teacher: keras.Model, student: keras.Model) -> keras_kd.Distiller:
        """A distiller whose total is task * L_task + weight * L, up to a common factor."""
        whole = self.task + self.weight
        return keras_kd.Distiller(
            teacher, student, self.make(), student_loss_weight=self.task / whole
        )


def layers(name: str) -> dict[str, str]:
    """The layer of that name in both networks."""
    return {"teacher_layer_name": name, "student_layer_name": name}


STAGES = {name: ["half", "quarter"] for name in ("teacher_layer_name", "student_layer_name")}
METHODS = (
    Method("kd", 0.9, {"temperature": 4.0}, task=0.1),
    Method("lskd", 9.0),
    Method("dkd"),
    Method("nkd"),
    Method("dist", 1.0),
    Method("fitnets", 100.0, layers("quarter")),
    Method("at", 1000.0, STAGES),
    Method("vid", 1.0, layers("quarter")),
    Method("cwd", 50.0, layers("quarter")),
    Method("reviewkd", 1.0, STAGES),
    Method("mgd", 7e-5, layers("quarter")),
    Method("sp", 3000.0, layers("pool")),
    Method("rkd", 1.0, layers("pool")),
    Method("pkt", 3e4, layers("pool")),
    Method("crd", 0.8, layers("pool")),
)


def fit(
    model: keras.Model, data: experiment.Data, budget: Budget, seed: int, *, index: bool = False
) -> None:
    """Train a plain model or a distiller at the budget."""
    steps = experiment.steps_of(budget.examples, budget.batch_size)
    rate = experiment.warmed_up(budget.learning_rate, steps=steps, epochs=budget.epochs)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = data.train.scaled()[: budget.examples]
    experiment.fit(
        model,
        keras_kd.data.with_index(x) if index else x,
        data.train.y[: budget.examples].astype("int32"),
        epochs=budget.epochs,
        batch_size=budget.batch_size,
        seed=seed,
        augment=fashion_mnist.augment,
        verbose=0,
    )


def train(
    row: str, teacher: keras.Model, data: experiment.Data, budget: Budget, seed: int
) -> keras.Model:
    """The student of one row and seed."""
    keras.utils.set_random_seed(seed)
    student = fashion_mnist.student_network(data.train.x.shape[1:])
    if row == ALONE:
        fit(student, data, budget, seed)
    elif row == KERAS:
        stock = keras.distillation.Distiller(
            teacher, student, keras.distillation.LogitsDistillation()
        )
        fit(stock, data, budget, seed)
    else:
        (method,) = (m for m in METHODS if m.name == row)
        if row == "crd":
            method = dataclasses.replace(
                method, options={**method.options, "n_data": budget.examples}
            )
        index = "index" in method.make().needs
        fit(method.distiller(teacher, student), data, budget, seed, index=index)
    return student


def measure(student: keras.Model, data: experiment.Data) -> dict[str, float]:
    """Accuracy on the test split, float and int8."""
    pictures = data.train.scaled()[:500]
    artifact = keras_kd.deploy.convert(student, calibration=pictures, input_range=(0.0, 1.0))
    accuracy = {}
    for name, model in (("float", student), ("int8", artifact)):
        (row,) = keras_kd.deploy.measure(model, data.test.scaled(), data.test.y, progress=False)
        accuracy[name] = row.value
    return {**accuracy, "size_bytes": artifact.size_bytes}


def result(
    row: str, teacher: keras.Model, data: experiment.Data, budget: Budget, seed: int
) -> dict[str, Any]:
    """Train and measure the student of one row and seed; JSON values."""
    started = time.monotonic()
    student = train(row, teacher, data, budget, seed)
    seconds = time.monotonic() - started
    found = {**measure(student, data), "seconds": seconds}
    print(f"seed {seed}, {row}: {found['float']:.2%}, {seconds:.0f} s", flush=True)
    return found


def run(
    data: experiment.Data,
    output: Path,
    budget: Budget,
    settings: fashion_mnist.Settings,
    *,
    seeds: int = 1,
    rows: Sequence[str] = (ALONE, KERAS, *(method.name for method in METHODS)),
) -> report.Report:
    """All of it, on arrays; what is finished in `output` is not done again."""
    begun = {"budget": dataclasses.asdict(budget), "settings": dataclasses.asdict(settings)}
    experiment.same_settings_as_before(output / "budget.json", begun)
    teacher = fashion_mnist.trained_teacher(data, output / "teacher", settings)
    (measured,) = keras_kd.deploy.measure(teacher, data.test.scaled(), data.test.y)
    results: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    for seed in range(seeds):
        for row in rows:
            path = output / f"{row.replace(' ', '-')}-{seed}.json"
            results[row].append(experiment.once(path, result, row, teacher, data, budget, seed))
    return full_report(measured.value, results, budget)


def full_report(
    teacher: float, results: dict[str, list[dict[str, Any]]], budget: Budget
) -> report.Report:
    """The table: means over the seeds, and the gain over the student alone, paired by seed."""
    alone = np.array([entry["float"] for entry in results[ALONE]])
    rows: list[tuple[Any, ...]] = [("teacher", teacher, None, None, None)]
    for name, entries in results.items():
        accuracy = np.array([entry["float"] for entry in entries])
        rows.append(
            (
                name,
                float(accuracy.mean()),
                presentation.deviation(accuracy),
                None if name == ALONE else presentation.mean_difference(accuracy - alone),
                float(np.mean([entry["int8"] for entry in entries])),
            )
        )
    columns = (
        report.Column("Method"),
        presentation.ACCURACY,
        presentation.DEVIATION,
        report.Column("Gain over alone", "points", digits=2, scale=100),
        report.Column("int8 on LiteRT", "%", digits=2, scale=100),
    )
    seeds = len(results[ALONE])
    note = (
        f"10,000 test pictures; {seeds} seed(s), one teacher, {budget.examples:,} training "
        f"pictures, {budget.epochs} epochs. After the gain: its standard error over the seeds, "
        "paired. Weights as in the papers, not tuned here."
    )
    return report.Report(
        "Methods of distillation on Fashion-MNIST",
        "One teacher, one student, one budget.",
        (
            report.Section("Result", (report.Table(columns, tuple(rows), note=note),)),
            presentation.settings_section(budget, range(seeds)),
        ),
        data={"teacher": teacher, "results": results, "budget": dataclasses.asdict(budget)},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = presentation.command_line(__file__, __doc__, output="compare_losses_output")
    args = parser.parse_args(arguments)
    data = experiment.load("fashion_mnist", args.data_dir)
    budget, settings = Budget(), fashion_mnist.Settings()
    if args.fast:
        budget, settings = FAST, fashion_mnist.FAST
    found = run(data, args.output, budget, settings, seeds=args.seeds)
    presentation.publish(found, args.output, parser, args)


if __name__ == "__main__":
    main()
