#!/usr/bin/env python3
"""Value and gradient of each distillation loss on given inputs, to be held against goldens.

    python tools/check_golden.py tests/golden/losses.npz             # compare with what it holds
    python tools/check_golden.py inputs.npz --output computed.npz    # fill in what it lacks

A file holds `<case>/in/<argument>` arrays. For each case whose name begins like one of
`golden_cases`, the loss and its gradient are computed and written as `<case>/expected` and
`<case>/grad/<argument>` to --output; by default `inputs.computed.npz` beside the input. Where the
file holds these already, both are compared.

Layout as in the papers' code: maps NCHW, kernels OIHW.

Exit codes: 0 done and all that could be compared agrees, 1 something differs, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The package of this checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from golden_cases import CASES, Case

# The expected values are float64 arithmetic on float32 inputs; ours is float32 throughout.
VALUE_RTOL, GRADIENT_TOLERANCE = 2e-4, 2e-4
# Small differences of larger numbers: what the float32 references themselves reach.
LOOSE_RTOL, LOOSE = 1e-3, ("dkd_tckd_only", "pkt", "crd_")


def case_of(name: str) -> Case | None:
    """The case whose name begins `name`, the longest one; None without one."""
    known = [case for case in CASES if name.startswith(case)]
    return CASES[max(known, key=len)] if known else None


def inputs_of(data: np.lib.npyio.NpzFile, name: str) -> dict[str, np.ndarray]:
    """The inputs of a case by argument."""
    prefix = f"{name}/in/"
    return {key[len(prefix) :]: data[key] for key in data.files if key.startswith(prefix)}


def compute(case: Case, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The value of a case, and its gradient by argument."""
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    # Of several layers a file may hold fewer than the golden does.
    wanted = [name for name in case.gradients if name in tensors]
    watched = [tensors[name] for name in wanted]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        value = case.function(**tensors)
    gradients = tape.gradient(value, watched) if watched else []
    return np.asarray(value), {
        name: np.asarray(gradient) for name, gradient in zip(wanted, gradients, strict=True)
    }


def relative(value: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest number expected; 0 where both are 0."""
    difference, scale = np.max(np.abs(value - expected)), np.max(np.abs(expected))
    return float(difference / scale) if scale else float(difference and np.inf)


def differences(
    name: str,
    value: np.ndarray,
    gradients: dict[str, np.ndarray],
    data: np.lib.npyio.NpzFile,
) -> list[str]:
    """What of a case is not as the file says, in words."""
    found = []
    if f"{name}/expected" in data.files:
        expected = data[f"{name}/expected"]
        rtol = LOOSE_RTOL if name.startswith(LOOSE) else VALUE_RTOL
        worst = relative(value, expected)
        if not worst <= rtol:
            found.append(f"value off by {worst:.1e} (at most {rtol:.0e})")
    for argument, gradient in gradients.items():
        key = f"{name}/grad/{argument}"
        if key in data.files:
            expected = data[key]
            worst = relative(gradient, expected)
            if not worst <= GRADIENT_TOLERANCE:
                found.append(f"gradient of {argument} off by {worst:.1e}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="an .npz of <case>/in/<argument> arrays")
    parser.add_argument("--output", type=Path, help="where to write; beside the input by default")
    args = parser.parse_args(arguments)
    try:
        data = np.load(args.file)
    except (OSError, ValueError) as err:
        parser.error(f"Expected an .npz file. Received: {args.file} ({err}).")
    names = dict.fromkeys(key.split("/in/")[0] for key in data.files if "/in/" in key)
    computed: dict[str, np.ndarray] = {}
    wrong = 0
    for name in names:
        case = case_of(name.split("/")[-1])
        if case is None:
            print(f"{name:32} no such loss here")
            continue
        try:
            value, gradients = compute(case, inputs_of(data, name))
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as err:
            print(f"{name:32} cannot be computed: {' '.join(str(err).split())}")
            wrong += 1
            continue
        computed[f"{name}/expected"] = value
        computed |= {f"{name}/grad/{key}": gradient for key, gradient in gradients.items()}
        found = differences(name, value, gradients, data)
        wrong += bool(found)
        shown = f"{float(value):.9g}" if value.ndim == 0 else f"array {value.shape}"
        print(f"{name:32} {shown:>16}  {'; '.join(found) or 'ok'}")
    output = args.output or args.file.with_name(f"{args.file.stem}.computed.npz")
    beside = output.with_name(f".{output.name}.part.npz")
    np.savez(beside, **computed)
    beside.replace(output)
    print(f"{len(names)} cases, {wrong} of them wrong; written to {output}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
