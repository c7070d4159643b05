"""The `keras-kd` command: one file a subcommand, loaded when it is asked for.

Exit codes: 0 done, 1 cannot be done (one line of reason on stderr), 2 bad usage.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

# Command, and what it does in a line. Its module has `add_parser(subparsers)` and `run(args)`.
COMMANDS = {
    "demo": "train, distill, convert and run a small student on real data",
    "cache-targets": "ask a teacher once about every example and store its answers",
    "convert": "convert a Keras model to TFLite for a device",
    "check": "check a .tflite for a device before flashing: ops, types, memory",
    "devices": "list the devices that are known, or show one with the source of every fact",
    "evaluate": "measure a .tflite: accuracy, size, memory and latency",
    "report": "measure a student beside its teacher, and check devices: one page",
    "package": "write the folder that a device's build system takes",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: The arguments; None takes the process's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser(_asked_for(arguments)).parse_args(arguments)
    except SystemExit as end:  # argparse's way of saying --help (0) and bad usage (2).
        return int(end.code or 0)
    return args.run(args)


def _asked_for(arguments: Sequence[str]) -> str | None:
    """The command among the arguments: the first that is no option."""
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-kd", description="Distill Keras models into students for small devices."
    )
    parser.add_argument("--version", action=_Version)
    subparsers = parser.add_subparsers(title="commands", metavar="command", required=True)
    for name, summary in COMMANDS.items():
        if name == command:
            module = importlib.import_module(f"keras_kd.cli.{name.replace('-', '_')}")
            added = module.add_parser(subparsers)
            added.set_defaults(run=module.run)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __init__(self, option_strings, dest):
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(self, parser, namespace, values, option_string=None):
        from keras_kd import __version__

        print(f"keras-kd {__version__}")
        parser.exit()
