"""`keras-kd cache-targets`: asks a teacher once about every example and stores its answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_kd.cli.arrays import CannotBeDoneError, inputs_of, load_arrays, stopped
from keras_kd.cli.keras_files import input_names, load_keras, start_tensorflow

if TYPE_CHECKING:
    from keras_kd.targets import Manifest

COMMAND = "cache-targets"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `cache-targets` to the commands."""
    parser = subparsers.add_parser(
        COMMAND,
        help="ask a teacher once about every example and store its answers",
        description="Store what a teacher says of every example, for training students without "
        "running it again. Interrupted, the same command goes on where it was.",
    )
    parser.add_argument("teacher", type=Path, help="a .keras file")
    parser.add_argument(
        "data",
        type=Path,
        help=".npy, or .npz with one array, an array 'x', or one for each input by its name",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--trust", action="store_true", help="load code in the file (Lambda), too")
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="the array that tells examples apart; default: a hash of each example's inputs",
    )
    stored = parser.add_argument_group("what is stored")
    stored.add_argument("--top-k", type=_positive, metavar="K", help="classes; default: all")
    stored.add_argument(
        "--temperature",
        type=_temperature,
        metavar="T",
        help="store the distribution at this temperature; default: the outputs as they are, "
        "or with --top-k at 1",
    )
    stored.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    stored.add_argument(
        "--feature",
        action="append",
        default=[],
        metavar="LAYER",
        help="a layer whose output is stored too; may be given several times",
    )
    work = parser.add_argument_group("the work")
    work.add_argument("--batch-size", type=_positive, default=256)
    work.add_argument(
        "--shard-records",
        type=_positive,
        default=8192,
        help="examples a file: so many are asked again at most after an interruption",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes, and returns the exit code."""
    try:
        print(_described(_written(args), args.output))
    except (CannotBeDoneError, OSError, ValueError, TypeError, RuntimeError, ImportError) as err:
        return stopped(COMMAND, err, 1)
    except KeyboardInterrupt:
        return stopped(COMMAND, "interrupted; the same command goes on where it was", 130)
    return 0


def _written(args: argparse.Namespace) -> Manifest:
    # Read first: a wrong name is told before TensorFlow has been loaded.
    arrays = load_arrays(args.data)
    from keras_kd import targets

    start_tensorflow()
    teacher = load_keras(args.teacher, trust=args.trust)
    return targets.write(
        teacher,
        _inputs(args, arrays, input_names(teacher)),
        args.output,
        top_k=args.top_k,
        dtype=args.dtype,
        features=args.feature,
        temperature=args.temperature,
        key=args.key,
        batch_size=args.batch_size,
        shard_records=args.shard_records,
    )


def _inputs(args: argparse.Namespace, arrays: dict[str, Any], names: list[str]) -> Any:
    if args.key is None:
        return inputs_of(arrays, names, args.data, "or one array 'x'")
    if args.key not in arrays:
        raise CannotBeDoneError(
            f"'{args.data}' has no array '{args.key}': it has {', '.join(arrays)}"
        )
    keys = arrays.pop(args.key)
    inputs = inputs_of(arrays, names, args.data, "or one array 'x'")
    return {**(inputs if isinstance(inputs, dict) else {"inputs": inputs}), args.key: keys}


def _described(manifest: Manifest, folder: Path) -> str:
    size = sum(file.stat().st_size for file in folder.iterdir())
    answers = manifest.answers
    kept = f"the {answers.top_k} largest of {answers.classes}" if answers.top_k else "all outputs"
    lines = [
        f"{folder}: answers to {manifest.records:,} examples, {size:,} bytes in "
        f"{len(manifest.shards)} shards",
        f"  {manifest.record().itemsize} bytes an example: {kept}, {answers.dtype}",
        f"  teacher '{manifest.teacher}', fingerprint {manifest.fingerprint[:12]}",
    ]
    features = ", ".join(f"{path} {list(shape)}" for path, shape in answers.features.items())
    return "\n".join(lines) + (f"\n  features: {features}" if features else "")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {text}")
    return number


def _temperature(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a temperature above 0, received {text}")
    return number
