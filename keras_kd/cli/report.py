"""`keras-kd report`: all that is known of a converted student, as one page."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_kd.cli.arrays import CannotBeDoneError, inputs_of, load_arrays, stopped
from keras_kd.cli.keras_files import input_names, load_keras, start_tensorflow

if TYPE_CHECKING:
    from keras_kd.report import Report

RUNTIMES = ("litert", "litert_reference", "tflm")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `report` to the commands."""
    parser = subparsers.add_parser(
        "report",
        help="measure a student beside its teacher, and check devices: one page",
        description="Measure a converted student beside its float original and its teacher, find "
        "the layers that conversion hurts, and check the devices that are named. Pictures come "
        "first, tables behind them.",
    )
    parser.add_argument("model", type=Path, help="the converted student, a .tflite")
    parser.add_argument(
        "--student",
        type=Path,
        required=True,
        metavar="FILE",
        help="the .keras that it was converted from",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help=".npz of test examples: arrays x (or the inputs by name) and y, their labels",
    )
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="a .keras, or a .tflite")
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="NAME",
        help="where it is to run: a name of `keras-kd devices`, or a .json; once for each",
    )
    parser.add_argument(
        "--runtime",
        action="append",
        choices=RUNTIMES,
        help="where to run the model here, once for each; default: litert and tflm",
    )
    parser.add_argument(
        "--latency-runs", type=_count, default=200, metavar="N", help="default: 200; 0 for none"
    )
    parser.add_argument("--trust", action="store_true", help="load code in the files (Lambda), too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what a program reads")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measures, writes, and returns the exit code."""
    try:
        _check_outputs(args)
        report = _report(args)
        if args.html is not None:
            report.write_html(args.html)
        if args.json is not None:
            report.write_json(args.json)
    except (CannotBeDoneError, OSError, ValueError, TypeError, RuntimeError, ImportError) as err:
        return stopped("report", err, 1)
    except KeyboardInterrupt:
        return stopped("report", "interrupted; older output files are unchanged", 130)
    written = [str(path) for path in (args.html, args.json) if path is not None]
    print(f"{report.summary}\nWritten: {', '.join(written)}" if written else report.text())
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """What would spoil the end of some minutes of measuring, said before them."""
    from keras_kd.deploy.artifact import check_writable

    for path in (args.html, args.json):
        if path is not None:
            check_writable(path)
    if args.html is not None and importlib.util.find_spec("matplotlib") is None:
        raise CannotBeDoneError(
            "--html needs matplotlib, which draws the pictures: pip install keras_kd[demo]"
        )


def _report(args: argparse.Namespace) -> Report:
    from keras_kd import deploy

    start_tensorflow()
    student = load_keras(args.student, trust=args.trust)
    if args.teacher is None or args.teacher.suffix == ".tflite":
        teacher = args.teacher
    else:
        teacher = load_keras(args.teacher, trust=args.trust)
    arrays = load_arrays(args.data)
    y = arrays.pop("y", None)
    x = inputs_of(arrays, input_names(student), args.data, "or one array 'x'")
    return deploy.prove(
        args.model,
        x,
        y,
        student=student,
        teacher=teacher,
        devices=args.device,
        runtimes=tuple(args.runtime or ("litert", "tflm")),
        latency_runs=args.latency_runs,
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, received {text}")
    return number
