"""Run the main job: train, distill, convert and run a small student on real handwritten digits.

    python3 tools/quickstart.py                  the whole of it
    python3 tools/quickstart.py --seeds 5        arguments go on to `keras-kd demo`

It needs Python 3.11 to 3.13 and the package index, nothing else: it makes `.venv` beside setup.cfg,
installs the project into it with what the demo needs, and runs `keras-kd demo`. Run again, it
installs only if setup.cfg or the Python has changed, or if it was interrupted before.

Exit code: the demo's; 1 when it could not be set up; 130 when interrupted.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
EXTRAS = "demo"
OLDEST, NEWEST = (3, 11), (3, 13)
# In `.venv`: what is installed, and that an installation is under way.
STAMP = VENV / "quickstart.stamp"
UNFINISHED = VENV / "quickstart.unfinished"


class SetupError(Exception):
    """The environment could not be made; the message says why and what to do."""


def venv_python():
    """Return the path of the interpreter inside `.venv`."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def call(command, **options):
    """Run a command and return its exit code.

    Ctrl-C reaches the command too; it is given the time to end in its own way.
    """
    process = subprocess.Popen([str(part) for part in command], **options)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def version_of(python):
    """Return (major, minor) of an interpreter, or None if it does not run or has no pip."""
    question = "import pip, sys; print(*sys.version_info[:2])"
    try:
        answer = subprocess.run([str(python), "-c", question], capture_output=True, text=True)
    except OSError:
        return None
    return tuple(map(int, answer.stdout.split())) if answer.returncode == 0 else None


def check_version(version):
    """Fail for a Python that the project does not take."""
    if not OLDEST <= version <= NEWEST:
        raise SetupError(
            f"Expected Python 3.11 to 3.13. Received: {version[0]}.{version[1]}. Hint: run "
            f"this file with another Python, as in `python3.12 {sys.argv[0]}`"
            f"{', after removing ' + str(VENV) if VENV.exists() else ''}."
        )


def make_venv():
    """Make `.venv` where there is none that is whole, and return its Python's version."""
    # pip takes a package for installed that it was stopped in the middle of.
    version = None if UNFINISHED.exists() else version_of(venv_python())
    if version is not None:
        check_version(version)
        return version
    check_version(sys.version_info[:2])
    print(f"[1/3] Making {VENV}", flush=True)
    # --clear: what an interrupted run has left there is thrown away.
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    if call(command):
        raise SetupError(
            f"Expected `{' '.join(command)}` to work; its message is above. "
            "Hint: Debian and Ubuntu ship it apart, as the package python3-venv."
        )
    return sys.version_info[:2]


def digest_of(version):
    """Return what the installation depends on, as text to compare with the last time's."""
    digest = hashlib.sha256(repr((version, EXTRAS, str(ROOT))).encode())
    for name in ("setup.cfg", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def install():
    """Install the project and what the demo needs, unless that was done and nothing changed."""
    version = make_venv()
    digest = digest_of(version)
    if STAMP.exists() and STAMP.read_text() == digest:
        print(f"[1/3] {VENV.name} is ready\n[2/3] nothing to install", flush=True)
        return
    print(
        f"[2/3] Installing keras-kd[{EXTRAS}] into {VENV.name}: TensorFlow and more, about 1 GB to "
        "download the first time",
        flush=True,
    )
    UNFINISHED.touch()
    pip = [venv_python(), "-m", "pip", "--disable-pip-version-check"]
    failed = call([*pip, "install", "--editable", f".[{EXTRAS}]"], cwd=ROOT)
    if failed:
        UNFINISHED.unlink()
        raise SetupError(
            "Expected pip to install the project; its message is above. "
            "Hint: it needs the package index and about 3 GB of disk; then run this again."
        )
    # Beside and renamed: a half-written stamp is never read.
    beside = STAMP.with_suffix(".tmp")
    beside.write_text(digest)
    os.replace(beside, STAMP)
    UNFINISHED.unlink()


def main():
    """Set up, then run the demo with the arguments given."""
    started = time.monotonic()
    try:
        install()
    except SetupError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        return 130
    print(f"[3/3] keras-kd demo; set up in {time.monotonic() - started:.0f} s", flush=True)
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    demo = venv_python().with_name("keras-kd.exe" if os.name == "nt" else "keras-kd")
    try:
        return call([demo, "demo", *sys.argv[1:]], env=quiet)
    except KeyboardInterrupt:
        return 130  # The demo has said so.


if __name__ == "__main__":
    sys.exit(main())
