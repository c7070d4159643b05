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

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fashion_mnist
import keras
import numpy as np
from fashion_mnist import Data, Settings, augment, student_network, trained_teacher, write

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


def fit(model: keras.Model, data: Data, budget: Budget, seed: int, *, index: bool = False) -> None:
    """Train a plain model or a distiller at the budget."""
    steps = -(-budget.examples // budget.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        budget.learning_rate / 10,
        decay_steps=steps * (budget.epochs - 1),
        alpha=0.01,
        warmup_target=budget.learning_rate,
        warmup_steps=steps,
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = data.train.scaled()[: budget.examples]
    batches = keras_kd.data.replayable(
        keras_kd.data.with_index(x) if index else x,
        data.train.y[: budget.examples].astype("int32"),
        batch_size=budget.batch_size,
        seed=seed,
        augment=augment,
    )
    # A Distiller of ours tells the epoch by itself; the others have to be told.
    tell = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: batches.epoch.assign(e))
    model.fit(batches, epochs=budget.epochs, shuffle=False, verbose=0, callbacks=[tell])


def train(row: str, teacher: keras.Model, data: Data, budget: Budget, seed: int) -> keras.Model:
    """The student of one row and seed."""
    keras.utils.set_random_seed(seed)
    student = student_network(data.train.x.shape[1:])
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


def measure(student: keras.Model, data: Data) -> dict[str, float]:
    """Accuracy on the test split, float and int8."""
    artifact = keras_kd.deploy.convert(
        student,
        quantization="int8",
        calibration=data.train.scaled()[:500],
        input_range=(0.0, 1.0),
    )
    accuracy = {}
    for name, model in (("float", student), ("int8", artifact)):
        (row,) = keras_kd.deploy.measure(model, data.test.scaled(), data.test.y, progress=False)
        accuracy[name] = row.value
    return {**accuracy, "size_bytes": artifact.size_bytes}


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `path` holds, made and written there if it is not there yet."""
    if not path.exists():
        write(path, json.dumps(make()))
    return json.loads(path.read_text())


def run(
    data: Data,
    output: Path,
    budget: Budget,
    settings: Settings,
    *,
    seeds: int = 1,
    rows: Sequence[str] = (ALONE, KERAS, *(method.name for method in METHODS)),
) -> report.Report:
    """All of it, on arrays; what is finished in `output` is not done again."""
    output.mkdir(parents=True, exist_ok=True)
    teacher = trained_teacher(data, output / "teacher", settings)
    at_once = {"budget": dataclasses.asdict(budget), "settings": dataclasses.asdict(settings)}
    if once(output / "budget.json", lambda: at_once) != at_once:
        raise ValueError(
            f"Expected a folder begun with {at_once}. Received: {output}. Hint: another --output."
        )

    def result(row: str, seed: int) -> dict[str, Any]:
        started = time.monotonic()
        student = train(row, teacher, data, budget, seed)
        seconds = time.monotonic() - started
        found = {**measure(student, data), "seconds": seconds}
        print(f"seed {seed}, {row}: {found['float']:.2%}, {seconds:.0f} s", flush=True)
        return found

    (measured,) = keras_kd.deploy.measure(teacher, data.test.scaled(), data.test.y)
    results: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    for seed in range(seeds):
        for row in rows:
            path = output / f"{row.replace(' ', '-')}-{seed}.json"
            results[row].append(once(path, lambda row=row, seed=seed: result(row, seed)))
    found = full_report(measured.value, results, budget)
    found.write_json(output / "report.json")
    found.write_html(output / "report.html")
    return found


def full_report(
    teacher: float, results: dict[str, list[dict[str, Any]]], budget: Budget
) -> report.Report:
    """The table: means over the seeds, and the gain over the student alone, paired by seed."""
    alone = np.array([entry["float"] for entry in results[ALONE]])
    rows: list[tuple[Any, ...]] = [("teacher", teacher, None, None, None)]
    for name, entries in results.items():
        accuracy = np.array([entry["float"] for entry in entries])
        gain = accuracy - alone
        several = len(entries) > 1
        error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if several else 0.0
        rows.append(
            (
                name,
                float(accuracy.mean()),
                float(accuracy.std(ddof=1)) if several else None,
                None if name == ALONE else report.Uncertain(float(gain.mean()), error),
                float(np.mean([entry["int8"] for entry in entries])),
            )
        )
    columns = (
        report.Column("Method"),
        report.Column("Accuracy", "%", digits=2, scale=100),
        report.Column("Deviation over seeds", "%", digits=2, scale=100),
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
        (report.Section("Result", (report.Table(columns, tuple(rows), note=note),)),),
        data={"teacher": teacher, "results": results, "budget": dataclasses.asdict(budget)},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="of tensorflow-datasets; downloads what is not there")
    parser.add_argument("--output", type=Path, default=Path("compare_losses_output"))
    parser.add_argument("--seeds", type=int, default=1, help="students of each row")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"argument --seeds: expected at least 1, received {args.seeds}")
    try:
        data = fashion_mnist.load(args.data_dir)
    except ImportError as err:
        print(f'{err}. Hint: pip install "keras-kd[data,demo]"', file=sys.stderr)
        return 1
    found = run(data, args.output, Budget(), Settings(), seeds=args.seeds)
    print(f"\n{found.text()}\n{args.output / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
