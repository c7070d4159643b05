"""`keras-kd package`: a `.tflite` to a folder that a device's build system takes."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from keras_kd.cli.arrays import CannotBeDoneError, inputs_of, load_arrays, one_line, stopped

TFLM_VARIABLE = "KERAS_KD_TFLM"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `package` to the commands."""
    parser = subparsers.add_parser(
        "package",
        help="write the folder that a device's build system takes",
        description="Write what a device needs of a .tflite: for microcontrollers a firmware "
        "folder for CMake, PlatformIO and Arduino, for the Edge TPU the model with a runner, for "
        "Android a project. A model that does not fit the device is refused.",
    )
    parser.add_argument("model", type=Path, help="a .tflite file")
    parser.add_argument(
        "--device", required=True, metavar="NAME", help="see `keras-kd devices`; or a .json file"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="new or empty, unless --force"
    )
    parser.add_argument("--name", help="what to call the model; default: the file's name")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace the files of an earlier package in FOLDER; others stay",
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="a class a line; Edge TPU and Android"
    )
    pixels = parser.add_argument_group(
        "Android", "the model was trained on (pixel - MEAN) / STD, pixels in 0..255"
    )
    pixels.add_argument("--mean", type=float, metavar="MEAN")
    pixels.add_argument("--std", type=float, metavar="STD")
    recorded = parser.add_argument_group("microcontrollers")
    recorded.add_argument(
        "--samples",
        type=Path,
        metavar="FILE",
        help=".npy, or .npz with an array 'x' or one for each input: examples as real numbers, "
        "which the firmware repeats; default: made from a seed",
    )
    recorded.add_argument(
        "--sample-count",
        type=_positive,
        metavar="N",
        help="how many of them; default: up to 10 that fit in 64 KiB",
    )
    recorded.add_argument(
        "--tflm",
        type=Path,
        metavar="PATH",
        default=os.environ.get(TFLM_VARIABLE) or None,
        help="TFLite Micro's sources: compile and run the firmware on this computer; takes "
        f"minutes; default: ${TFLM_VARIABLE}, if it is set",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the folder, and returns the exit code."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            lines = _packaged(args)
    except (CannotBeDoneError, OSError, ValueError, TypeError, RuntimeError, ImportError) as err:
        return stopped("package", err, 1)
    except KeyboardInterrupt:
        return stopped("package", "interrupted; an older folder is unchanged", 130)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"keras-kd package: warning: {one_line(warning.message)}", file=sys.stderr)
    print("\n".join(lines))
    return 0


def _packaged(args: argparse.Namespace) -> list[str]:
    from keras_kd.deploy import Artifact, devices
    from keras_kd.deploy.package import write_package

    artifact = Artifact.load(args.model)
    device = devices.get(args.device)
    samples = None
    if args.samples is not None:
        names = [tensor.name for tensor in artifact.inputs]
        samples = inputs_of(load_arrays(args.samples), names, args.samples, "or one array 'x'")
    made = write_package(
        artifact,
        device,
        args.output,
        samples=samples,
        sample_count=args.sample_count,
        labels=_labels(args.labels),
        mean=args.mean,
        std=args.std,
        name=args.name,
        tflm=args.tflm if device.runtime == "tflm" else None,
        force=args.force,
    )
    return [
        f"{made.folder}: {len(made.files)} files for {made.device.title}; start with README.md",
        *(f"  checked: {line}" for line in made.checked),
        *(f"  not run: {line}" for line in made.not_run),
    ]


def _labels(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    labels = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    while labels and not labels[-1]:
        labels.pop()
    if not all(labels):
        raise ValueError(f"'{path}' has an empty line {labels.index('') + 1}: a class a line")
    return labels


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, received {text}")
    return number
