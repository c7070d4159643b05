"""The project's own `.venv`, made with the standard library alone: used by the files beside this.

It lies beside setup.cfg. What is installed is noted in it, so that a second run installs only what
has changed, and one that was interrupted begins again.
"""

import hashlib
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST, NEWEST = (3, 11), (3, 13)
# Is there while pip runs: pip takes a package for installed that it was stopped in the middle of.
UNFINISHED = VENV / "unfinished"


class SetupError(Exception):
    """The environment could not be made; the message says why and what to do."""


def venv_python():
    """Return the path of the interpreter inside `.venv`."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def call(command, cwd=ROOT, **options):
    """Run a command, in the project's folder unless told another, and return its exit code.

    Ctrl-C reaches the command too; it is given the time to end in its own way.
    """
    process = subprocess.Popen([str(part) for part in command], cwd=cwd, **options)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def install(extras):
    """Make `.venv` if need be and install the project with its extras, unless that was done.

    Args:
        extras: Names of extras in setup.cfg, as in "test" or "demo,mcu".

    Raises:
        SetupError: The Python is too old or too new, or venv or pip failed.
    """
    version = _make_venv()
    digest = hashlib.sha256(repr((version, extras, str(ROOT))).encode())
    for name in ("setup.cfg", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    stamp = VENV / f"{extras}.stamp"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    print(
        f"Installing keras-kd[{extras}] into {VENV.name}: about 1 GB to download the first time",
        flush=True,
    )
    UNFINISHED.touch()
    pip = [venv_python(), "-m", "pip", "--disable-pip-version-check"]
    failed = call([*pip, "install", "--editable", f".[{extras}]"])
    if failed:
        UNFINISHED.unlink()
        raise SetupError(
            "Expected pip to install the project; its message is above. "
            "Hint: it needs the package index and about 3 GB of disk; then run this again."
        )
    if call([*pip, "check"]):
        UNFINISHED.unlink()
        raise SetupError(f"Expected packages that agree. Hint: remove {VENV} and run this again.")
    # Beside and renamed: a half-written stamp is never read.
    beside = stamp.with_suffix(".tmp")
    beside.write_text(digest.hexdigest())
    os.replace(beside, stamp)
    UNFINISHED.unlink()


def _make_venv():
    """Make `.venv` where there is none that is whole, and return its Python's version."""
    version = None if UNFINISHED.exists() else _version_of(venv_python())
    if version is not None:
        return _checked(version)
    version = _checked(sys.version_info[:2])
    print(f"Making {VENV} with Python {version[0]}.{version[1]}", flush=True)
    command = [sys.executable, "-m", "venv", "--clear", VENV]
    if call(command):
        raise SetupError(
            f"Expected `{' '.join(map(str, command))}` to work; its message is above. "
            "Hint: Debian and Ubuntu ship it apart, as the package python3-venv."
        )
    return version


def _version_of(python):
    """Return (major, minor) of an interpreter, or None if it does not run or has no pip."""
    question = "import pip, sys; print(*sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [str(python), "-c", question], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return tuple(map(int, answer.stdout.split())) if answer.returncode == 0 else None


def _checked(version):
    """Return the version if the project takes it."""
    if not OLDEST <= version <= NEWEST:
        remove = f", after removing {VENV}" if VENV.exists() else ""
        raise SetupError(
            f"Expected Python 3.11 to 3.13. Received: {version[0]}.{version[1]}. "
            f"Hint: run this file with another Python, `python3.12 {sys.argv[0]}`{remove}."
        )
    return version
