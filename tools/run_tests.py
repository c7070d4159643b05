"""Check the whole project: formatting, lint, types, then the tests.

    python3 tools/run_tests.py            everything that is not marked slow
    python3 tools/run_tests.py --all      the slow tests too, in a second stage

It needs Python 3.11 to 3.13 and the package index, nothing else: it makes `.venv` beside setup.cfg,
installs the project into it, and does so again only when setup.cfg or the Python has changed.
Arguments that it does not know go to pytest: `python3 tools/run_tests.py tests/losses -k kl`.

Exit code: 0 when everything passed, 1 when something failed, 2 when it could not be set up, 130
when it was interrupted.
"""

import argparse
import os
import sys
import time

import environment

EXTRAS = "test"
# Processes among which the test files are divided; each has TensorFlow, some 2 GB.
WORKERS = min(4, os.cpu_count() or 1)
# pytest: no test was collected, which is right for a stage of which a selection has no test.
NOTHING_COLLECTED = 5


def checks(arguments, pytest_arguments):
    """Yield (name, command, good exit codes) of every check, in order."""
    python = [environment.venv_python(), "-m"]
    if not arguments.only_tests:
        yield "format", [*python, "ruff", "format", "--check", "."], (0,)
        yield "lint", [*python, "ruff", "check", "."], (0,)
        yield "types", [*python, "mypy"], (0,)
    pytest = [*python, "pytest", "--durations=15", "--durations-min=0.5"]
    if not pytest_arguments and WORKERS > 1:
        # A file's tests share fixtures that are dear, so they stay together.
        pytest += ["-n", str(WORKERS), "--dist", "loadfile"]
    good = (0, NOTHING_COLLECTED) if pytest_arguments else (0,)
    yield "tests", [*pytest, "-m", "not slow", *pytest_arguments], good
    if arguments.all:
        yield "slow tests", [*pytest, "-m", "slow", *pytest_arguments], (0, NOTHING_COLLECTED)


def run(arguments, pytest_arguments):
    """Run every check, even after one failed, sum up, and return whether all passed."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    results = []
    for name, command, good in checks(arguments, pytest_arguments):
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        code = environment.call(command, env=quiet)
        results.append((name, time.monotonic() - start, code, code in good))
    print()
    for name, seconds, code, passed in results:
        print(f"{name:<12}{seconds:7.1f} s  {'passed' if passed else f'FAILED (exit code {code})'}")
    return all(passed for *_, passed in results)


def main():
    """Set up, check, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="run the slow tests too")
    parser.add_argument("--only-tests", action="store_true", help="pass over format, lint, types")
    arguments, pytest_arguments = parser.parse_known_args()
    try:
        environment.install(EXTRAS)
        return 0 if run(arguments, pytest_arguments) else 1
    except environment.SetupError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
