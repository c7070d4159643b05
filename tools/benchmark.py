#!/usr/bin/env python3
"""Time keras_kd against what one would write or run without it.

    python tools/benchmark.py step                 # on a quiet machine: some twenty minutes
    python tools/benchmark.py step --json step.json
    python tools/benchmark.py losses               # each method beside soft targets
    python tools/benchmark.py quantization         # a step with fake quantization beside without
    python tools/benchmark.py targets              # stored soft targets: step, writing, reading

Exit codes: 0 all targets reached, 1 a target missed or the run void, 2 bad usage.
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

import benchmark_losses
import benchmark_quantization
import benchmark_step
import benchmark_targets


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True)
    for each in (benchmark_step, benchmark_losses, benchmark_quantization, benchmark_targets):
        each.add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; the exit code."""
    args = parser().parse_args(arguments)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
