"""Run the main job: train, distill, convert and run a small student on real handwritten digits.

    python3 tools/quickstart.py                  the whole of it
    python3 tools/quickstart.py --seeds 5        arguments go on to `keras-kd demo`

It needs Python 3.11 to 3.13 and the package index, nothing else: it makes `.venv` beside setup.cfg,
installs the project into it with what the demo needs, and runs `keras-kd demo`. Run again, it
installs only if setup.cfg or the Python has changed, or if it was interrupted before.

Exit code: the demo's; 1 when it could not be set up; 130 when interrupted.
"""

import os
import sys
import time

import environment

EXTRAS = "demo"


def main():
    """Set up, then run the demo with the arguments given."""
    started = time.monotonic()
    try:
        environment.install(EXTRAS)
    except environment.SetupError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        return 130
    print(f"Set up in {time.monotonic() - started:.0f} s; now keras-kd demo", flush=True)
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    script = "keras-kd.exe" if os.name == "nt" else "keras-kd"
    demo = environment.venv_python().with_name(script)
    try:
        # In the caller's folder, where the demo writes.
        return environment.call([demo, "demo", *sys.argv[1:]], cwd=None, env=quiet)
    except KeyboardInterrupt:
        return 130  # The demo has said so.


if __name__ == "__main__":
    sys.exit(main())
