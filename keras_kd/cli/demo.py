"""`keras-kd demo`: the main job on real data, from a teacher to a student on TFLite Micro.

It trains a teacher on scikit-learn's handwritten digits, and one small student twice: alone and
distilled. Both see the same images, augmented alike, in the same order, for the same number of
steps of the same optimizer, from the same first weights; only what they are told of an image
differs. Settings were chosen on the validation split; the test split is read once, at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from keras_kd.cli.demo_report import make_report
from keras_kd.cli.demo_training import (
    EPOCHS,
    TEACHER_EPOCHS,
    Digits,
    Run,
    load_digits,
    one_run,
)
from keras_kd.report import Report

# The board whose memory the student is held against.
BOARD = "nano33ble"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `demo` to the commands."""
    parser = subparsers.add_parser(
        "demo",
        help="train, distill, convert and run a student on real digits; report in a folder",
        description="Train a teacher and a small student on scikit-learn's handwritten digits, "
        "distill, convert to int8, run it in LiteRT and in TFLite Micro, and write a report.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("keras_kd_demo"),
        help="folder for the results",
    )
    parser.add_argument(
        "--seeds",
        type=_positive,
        default=1,
        help="repeat with so many seeds (default: 1)",
    )
    parser.add_argument(
        "--epochs",
        type=_positive,
        default=EPOCHS,
        help=f"of the student (default: {EPOCHS})",
    )
    parser.add_argument(
        "--teacher-epochs",
        type=_positive,
        default=TEACHER_EPOCHS,
        help=f"of the teacher (default: {TEACHER_EPOCHS})",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Runs the demo and returns the exit code."""
    try:
        prepare_folder(args.output)
        _demo(args)
    except KeyboardInterrupt:
        return _stopped("interrupted before it was done", 130)
    except (OSError, RuntimeError, ValueError, ImportError) as err:
        return _stopped(" ".join(str(err).split()), 1)
    return 0


def _stopped(reason: str, code: int) -> int:
    print(f"\nkeras-kd demo: {reason}", file=sys.stderr)
    return code


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {number}")
    return number


def prepare_folder(folder: Path) -> None:
    """Makes the folder, and fails where no file could be written into it.

    Raises:
        OSError: It cannot be made or written to.
    """
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as err:
        raise OSError(
            f"Expected an output folder that can be written. Received: '{folder}' "
            f"({err.strerror}). Hint: choose another with --output."
        ) from err


def _demo(args: argparse.Namespace) -> None:
    started = time.monotonic()
    print("Loading TensorFlow", flush=True)
    digits = load_digits()
    runs = []
    for seed in range(args.seeds):
        if args.seeds > 1:
            print(f"\n== seed {seed} ({seed + 1} of {args.seeds})", flush=True)
        runs.append(one_run(digits, seed, args.epochs, args.teacher_epochs))
    report = make_report(digits, runs, args.epochs, args.teacher_epochs)
    of_student = student_report(digits, runs[0])
    _write_folder(args.output, runs[0], report, of_student)
    print(f"\n{report.text()}")
    print(f"Written to {args.output}: {', '.join(sorted(p.name for p in _files(args.output)))}")
    print(
        f"Look at {args.output / 'report.html'}, and for what the student is worth on a board at "
        f"{args.output / 'student.html'}. It took {time.monotonic() - started:.0f} s."
    )


def _files(folder: Path) -> list[Path]:
    names = ("student.keras", "student.tflite", "student.cc", "student.h")
    return [folder / name for name in (*names, "report.html", "report.json", "student.html")]


def student_report(digits: Digits, run: Run) -> Report:
    """What `keras-kd report` says of the distilled student, on one board."""
    from keras_kd.deploy import prove

    print("Looking at each layer, and at a board", flush=True)
    return prove(
        run.artifact,
        digits.x_test,
        digits.y_test,
        student=run.student,
        teacher=run.teacher,
        devices=(BOARD,),
        progress=False,
    )


def _write_folder(folder: Path, first: Run, report: Report, of_student: Report) -> None:
    """Writes all that is handed over, each file beside its place and then renamed."""
    from keras_kd.deploy.package import write_c_array

    beside = folder / f".student.{os.getpid()}.keras"
    try:
        first.student.save(beside)
        os.replace(beside, folder / "student.keras")
    finally:
        beside.unlink(missing_ok=True)
    first.artifact.save(folder / "student.tflite")
    write_c_array(first.artifact, folder, "student")
    report.write_json(folder / "report.json")
    report.write_html(folder / "report.html")
    of_student.write_html(folder / "student.html")
