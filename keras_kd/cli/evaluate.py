"""`keras-kd evaluate`: a `.tflite` on data: accuracy, bytes, arena, latency."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_kd.cli.arrays import CannotBeDoneError, inputs_of, load_arrays, stopped
from keras_kd.report import Column, Facts, Report, Section, Table, Uncertain

if TYPE_CHECKING:
    from keras_kd.deploy import Measurement

RUNTIMES = ("litert", "litert_reference", "tflm")
WHAT_IT_IS = (
    ("accuracy", "± its standard error: how far other examples of the same kind would move it"),
    ("size", "length of the file, which is its size in flash"),
    ("arena", "what TFLite Micro allocated on this host; allow 20 % on top on a board"),
    ("latency", "of this host, one example, and of no board"),
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `evaluate` to the commands."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a .tflite: accuracy, size, memory and latency",
        description="Measure a .tflite on data, on one or several runtimes of this host.",
    )
    parser.add_argument("model", type=Path, help="a .tflite file")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="NPZ",
        help="arrays x (or the inputs by name), as real numbers, and y, the labels",
    )
    parser.add_argument(
        "--runtime",
        action="append",
        choices=RUNTIMES,
        help="default: litert; may be given several times; tflm is what a microcontroller runs",
    )
    parser.add_argument("--metric", default="accuracy", help="or a Keras metric's name")
    parser.add_argument(
        "--latency-runs", type=_count, default=200, metavar="N", help="default: 200; 0 for none"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes, and returns the exit code."""
    try:
        page = _report(args.model, _measured(args))
        print(page.text(), end="")
        if args.json is not None:
            page.write_json(args.json)
        if args.html is not None:
            page.write_html(args.html)
    except (CannotBeDoneError, OSError, ValueError, TypeError, RuntimeError, ImportError) as err:
        return stopped("evaluate", err, 1)
    except KeyboardInterrupt:
        return stopped("evaluate", "interrupted; no report was written", 130)
    return 0


def _measured(args: argparse.Namespace) -> Sequence[Measurement]:
    from keras_kd import deploy

    if not args.model.is_file():
        raise CannotBeDoneError(f"no file '{args.model}'")
    names = [name for name, _ in deploy.model_info(args.model).inputs]
    arrays = load_arrays(args.data)
    y = arrays.pop("y", None)
    return deploy.measure(
        args.model,
        inputs_of(arrays, names, args.data, "or one array 'x'"),
        y,
        runtimes=tuple(dict.fromkeys(args.runtime or RUNTIMES[:1])),
        metric=args.metric,
        latency_runs=args.latency_runs,
        progress=False,
    )


def _report(model: Path, rows: Sequence[Measurement]) -> Report:
    first = rows[0]
    is_share = first.metric == "accuracy"
    columns = (
        Column("runtime"),
        Column(first.metric or "metric", "%" if is_share else "", 2, 100 if is_share else 1),
        Column("size", "bytes"),
        Column("arena", "bytes"),
        Column("latency, median", "ms", 3),
        Column("95th percentile", "ms", 3),
    )
    table = Table(columns, tuple(_row(row) for row in rows))
    return Report(
        title=f"{model.name}, {first.quantization}",
        summary=f"Measured on {first.examples:,} examples"
        + ("." if first.metric else ", which have no labels 'y': no accuracy."),
        sections=(Section("Measured", (table, Facts(WHAT_IT_IS))),),
        data={"model": model.name, "measurements": [dataclasses.asdict(row) for row in rows]},
    )


def _row(row: Measurement) -> tuple:
    return (
        row.runtime,
        None if row.value is None else Uncertain(row.value, row.standard_error),
        row.size_bytes,
        row.arena_bytes,
        row.latency_ms_median,
        row.latency_ms_p95,
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a number of runs, 0 or more, received {text}")
    return number
