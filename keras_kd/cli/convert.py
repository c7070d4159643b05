"""`keras-kd convert`: a saved Keras model to a `.tflite`, judged on data if that is asked for."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_kd.cli.arrays import (
    BadUsageError,
    CannotBeDoneError,
    inputs_of,
    load_arrays,
    one_line,
    stopped,
)
from keras_kd.cli.keras_files import input_names, load_keras, start_tensorflow

if TYPE_CHECKING:
    import keras

    from keras_kd.deploy import Artifact

QUANTIZATIONS = ("float32", "float16", "dynamic_range", "int8", "int16x8")
INTEGER = ("int8", "int16x8")
RUNTIMES = ("litert", "litert_reference", "tflm")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `convert` to the commands."""
    parser = subparsers.add_parser(
        "convert",
        help="convert a Keras model to TFLite for a device",
        description="Convert a saved Keras model to TFLite. With --evaluate, the result is "
        "compared with the Keras model, and --min-agreement and --max-drop make the exit code 1. A "
        "student of quantization-aware training needs no calibration.",
    )
    parser.add_argument("model", type=Path, help="a .keras file")
    parser.add_argument("--output", type=Path, help="default: the model's name with .tflite")
    parser.add_argument("--quantize", choices=QUANTIZATIONS, default="int8", help="default: int8")
    parser.add_argument("--trust", action="store_true", help="load code in the file (Lambda), too")
    calibration = parser.add_argument_group("calibration, for int8 and int16x8")
    calibration.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help=".npy, or .npz with one array, an array 'x', or one for each input by its name",
    )
    calibration.add_argument("--calibration-key", metavar="KEY", help="the array in the .npz")
    calibration.add_argument(
        "--input-range",
        action="append",
        type=_range,
        metavar="[NAME=]LOW,HIGH",
        help="range of the input that the model was trained on, as 0,1; once for each input",
    )
    integers = parser.add_argument_group("the converted model")
    integers.add_argument("--input-dtype", choices=("int8", "uint8", "int16", "float32"))
    integers.add_argument("--output-dtype", choices=("int8", "uint8", "int16", "float32"))
    integers.add_argument(
        "--allow-float",
        action="append",
        default=[],
        metavar="NAME[,NAME]",
        help="layers, layer classes or TFLite ops that may stay float in an integer model",
    )
    integers.add_argument(
        "--per-tensor-dense", action="store_true", help="one scale for a Dense layer's weights"
    )
    parser.add_argument("--timeout", type=_positive, default=600.0, metavar="SECONDS")
    judged = parser.add_argument_group("judgement")
    judged.add_argument(
        "--evaluate", type=Path, metavar="NPZ", help="arrays x (or the inputs by name) and y"
    )
    judged.add_argument("--runtime", choices=RUNTIMES, help="for --evaluate; default: litert")
    judged.add_argument(
        "--min-agreement",
        type=_share,
        metavar="SHARE",
        help="exit 1 if the model agrees with the float one on a smaller share of the examples",
    )
    judged.add_argument(
        "--max-drop",
        type=_share,
        metavar="SHARE",
        help="exit 1 if it loses more accuracy than this, as in 0.01",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Converts, and returns the exit code."""
    usage = _bad_usage(args)
    if usage:
        return stopped("convert", usage, 2)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            artifact, student = _converted(args)
        for warning in caught:
            if issubclass(warning.category, UserWarning):
                print(f"keras-kd convert: warning: {one_line(warning.message)}", file=sys.stderr)
        print(_described(artifact))
        if args.evaluate is not None:
            _judge(args, artifact, student)
    except BadUsageError as err:
        return stopped("convert", err, 2)
    except (CannotBeDoneError, OSError, ValueError, TypeError, RuntimeError, ImportError) as err:
        return stopped("convert", err, 1)
    except KeyboardInterrupt:
        return stopped("convert", "interrupted; an older output file is unchanged", 130)
    return 0


def _bad_usage(args: argparse.Namespace) -> str:
    """What is wrong with the options as they stand; "" for nothing."""
    integer = args.quantize in INTEGER
    for option in ("calibration", "calibration_key", "input_range", "allow_float"):
        if not integer and getattr(args, option):
            return f"--{option.replace('_', '-')} is for --quantize {' or '.join(INTEGER)}"
    for option in ("runtime", "min_agreement", "max_drop"):
        if args.evaluate is None and getattr(args, option) is not None:
            return f"--{option.replace('_', '-')} needs --evaluate NPZ"
    return ""


def _converted(args: argparse.Namespace) -> tuple[Artifact, keras.Model]:
    from keras_kd import deploy, quantization

    start_tensorflow()
    output = args.output or args.model.with_suffix(".tflite")
    student = load_keras(args.model, trust=args.trust)
    if args.quantize in INTEGER and not (args.calibration or quantization.is_quantized(student)):
        raise BadUsageError(
            f"--quantize {args.quantize} needs --calibration FILE, but for a student of "
            "quantization-aware training"
        )
    names = input_names(student)
    artifact = deploy.convert(
        student,
        output,
        quantization=args.quantize,
        calibration=_calibration(args, names) if args.calibration else None,
        input_dtype=args.input_dtype,
        output_dtype=args.output_dtype,
        input_range=_input_range(args.input_range, names),
        allow_float=[name for names in args.allow_float for name in names.split(",") if name],
        per_channel_dense=not args.per_tensor_dense,
        timeout_s=args.timeout,
    )
    return artifact, student


def _calibration(args: argparse.Namespace, names: list[str]) -> Any:
    arrays = load_arrays(args.calibration)
    key = args.calibration_key
    if key is not None:
        if key not in arrays:
            raise BadUsageError(
                f"'{args.calibration}' has no array '{key}': it has {', '.join(arrays)}"
            )
        return arrays[key]
    return inputs_of(arrays, names, args.calibration, "--calibration-key names one")


def _input_range(
    given: list[tuple[str, float, float]] | None, names: list[str]
) -> tuple[float, float] | dict[str, tuple[float, float]] | None:
    if not given:
        return None
    if len(given) == 1 and not given[0][0]:
        return given[0][1:]
    unnamed = [name for name, _, _ in given if name not in names]
    if unnamed:
        raise BadUsageError(f"--input-range NAME=LOW,HIGH for the inputs {', '.join(names)}")
    return {name: (low, high) for name, low, high in given}


def _described(artifact: Artifact) -> str:
    lines = [f"{artifact.path}: {artifact.size_bytes} bytes, {artifact.quantization}"]
    if artifact.calibration_examples:
        lines[0] += f", calibrated with {artifact.calibration_examples} examples"
    for kind, tensors in (("input", artifact.inputs), ("output", artifact.outputs)):
        for tensor in tensors:
            line = f"  {kind} {tensor.name}: {tensor.dtype} {list(tensor.shape)}"
            if tensor.scale is not None:
                line += f", scale {tensor.scale:.9g}, zero point {tensor.zero_point}"
            lines.append(line)
    return "\n".join(lines)


def _judge(args: argparse.Namespace, artifact: Artifact, student: keras.Model) -> None:
    """Compares with the float model; raises where a limit is missed."""
    from keras_kd import deploy

    arrays = load_arrays(args.evaluate)
    y = arrays.pop("y", None)
    if y is None and args.max_drop is not None:
        raise CannotBeDoneError(f"--max-drop needs labels: '{args.evaluate}' has no array 'y'")
    x = inputs_of(arrays, input_names(student), args.evaluate, "or one array 'x'")
    runtime = args.runtime or "litert"
    before, after = deploy.measure(
        artifact, x, y, reference=student, runtimes=(runtime,), latency_runs=0, progress=False
    )
    if after.agreement is not None:
        print(f"  agreement with the float model on {runtime}: {after.agreement:.4f}")
    drop = None
    if before.value is not None and after.value is not None:
        drop = before.value - after.value
        print(f"  accuracy: float {before.value:.4f}, {artifact.quantization} {after.value:.4f}")
    missed = []
    if args.min_agreement is not None:
        if after.agreement is None:
            raise CannotBeDoneError("--min-agreement needs an output with at least two classes")
        if after.agreement < args.min_agreement:
            missed.append(f"agreement {after.agreement:.4f} is below {args.min_agreement:g}")
    if args.max_drop is not None and drop is not None and drop > args.max_drop:
        missed.append(f"accuracy drops by {drop:.4f}, more than {args.max_drop:g}")
    if missed:
        raise CannotBeDoneError(f"{artifact.path} was written, but {' and '.join(missed)}")


def _range(text: str) -> tuple[str, float, float]:
    name, _, numbers = text.rpartition("=")
    try:
        low, high = (float(number) for number in numbers.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected LOW,HIGH, received {text!r}") from None
    if not low < high:
        raise argparse.ArgumentTypeError(f"expected LOW,HIGH with LOW < HIGH, received {text!r}")
    return name, low, high


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, received {text}")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, received {text}")
    return number
