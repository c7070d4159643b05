"""`keras-kd check`: what a person would else find out on the board, before it is flashed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_kd.cli.arrays import (
    BadUsageError,
    CannotBeDoneError,
    inputs_of,
    load_arrays,
    stopped,
)

if TYPE_CHECKING:
    from keras_kd.deploy import Check
    from keras_kd.deploy.devices import Device
    from keras_kd.report import Report

ALL = "all"
# To the line's start, and what is behind it erased (ECMA-48, EL).
ERASE_LINE = "\r\x1b[K"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `check` to the commands."""
    parser = subparsers.add_parser(
        "check",
        help="check a .tflite for a device before flashing: ops, types, memory",
        description="Check any .tflite for a device: every op, type and size that does not fit, "
        "where it came from and what to do about it. Exit code 0 if it fits, 1 if it does not; "
        "with several devices, 0 only if it fits all of them.",
    )
    parser.add_argument("model", type=Path, help="a .tflite file, of this package or any other")
    parser.add_argument(
        "--device",
        action="append",
        required=True,
        metavar="NAME|FILE.json|all",
        help="a name that `keras-kd devices` lists, or your own board; may be given several times",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="NPZ",
        help="real examples: arrays x (or the inputs by name) and, if there are labels, y",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page")
    return parser


def run(args: argparse.Namespace) -> int:
    """Checks, prints and writes, and returns the exit code."""
    try:
        from keras_kd.deploy import check_report

        devices = _devices(args.device)
        checks = _checks(args, devices)
        several = len(checks) > 1
        page = check_report.comparison(checks) if several else check_report.report(checks[0])
        print(page.text() if several else check_report.text(checks[0]), end="")
        _write(args, page)
    except BadUsageError as err:
        return stopped("check", err, 2)
    except (CannotBeDoneError, OSError, ValueError, TypeError, RuntimeError, ImportError) as err:
        return stopped("check", err, 1)
    except KeyboardInterrupt:
        return stopped("check", "interrupted", 130)
    return 0 if all(check.fits for check in checks) else 1


def _devices(names: Sequence[str]) -> list[Device]:
    from keras_kd.deploy import devices

    try:
        if ALL in names:
            found = list(devices.available())
            found += [devices.get(name) for name in names if Path(name).suffix == ".json"]
        else:
            found = [devices.get(name) for name in dict.fromkeys(names)]
    except (ValueError, OSError) as err:
        raise BadUsageError(err) from err
    return found


def _checks(args: argparse.Namespace, devices: Sequence[Device]) -> list[Check]:
    from keras_kd import deploy

    if not args.model.is_file():
        raise CannotBeDoneError(f"no file '{args.model}'")
    x, y = None, None
    if args.data is not None:
        names = [name for name, _ in deploy.model_info(args.model).inputs]
        arrays = load_arrays(args.data)
        y = arrays.pop("y", None)
        x = inputs_of(arrays, names, args.data, "or one array 'x'")
    # A compiler may take a minute for each; the line that says so is gone at the end.
    is_shown = len(devices) > 1 and sys.stderr.isatty()
    checks = []
    try:
        for number, device in enumerate(devices, start=1):
            if is_shown:
                line = f"{ERASE_LINE}{number} of {len(devices)}: {device.name}"
                print(line, end="", file=sys.stderr, flush=True)
            checks.append(deploy.check(args.model, device, x=x, y=y))
    finally:
        if is_shown:
            print(ERASE_LINE, end="", file=sys.stderr, flush=True)
    return checks


def _write(args: argparse.Namespace, page: Report) -> None:
    if args.json is not None:
        page.write_json(args.json)
    if args.html is not None:
        page.write_html(args.html)
