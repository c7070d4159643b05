"""The tests of the Beam pipeline, in an environment of their own where this one has no Beam.

Apache Beam takes an older protobuf than the one here, so it is installed over this environment into
one that sees all else of it.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TESTS = "tests/targets/test_beam.py"


def requirement():
    """Return what the extra asks for."""
    configuration = (ROOT / "setup.cfg").read_text()
    (line,) = (x.strip() for x in configuration.splitlines() if x.strip().startswith("apache-beam"))
    return line


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is not None, reason=f"{TESTS} ran in this environment"
)
def test_pipeline_in_its_own_environment(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True, timeout=120)
    python = tmp_path / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True)
    beside = pathlib.Path(own.stdout.strip(), "beside.pth")
    beside.write_text(sysconfig.get_path("purelib") + "\n")
    install = [python, "-m", "pip", "install", "--quiet", requirement()]
    made = subprocess.run(install, capture_output=True, text=True, timeout=500)
    if made.returncode:
        pytest.skip(f"pip cannot install {requirement()}: {made.stderr.strip()[-200:]}")
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stdout
    assert "passed" in ran.stdout
    assert "skipped" not in ran.stdout
