"""LiteRT's own benchmark: what is read of its result, and what it says when it fails."""

import importlib
import json
import sys

import pytest

from keras_kd.deploy.litert_benchmark import RESOLUTION_MS, litert_benchmark

# The module; the package's attribute of that name is the function in it.
tool = importlib.import_module("keras_kd.deploy.litert_benchmark")

RESULT = {
    "accelerators": ["CPU"],
    "num_threads": 2,
    "latency": {
        "init_ms": 3.07,
        "warmup_first_ms": 0.14,
        "warmup_avg_ms": 0.13,
        "num_warmup_runs": 2,
        "avg_ms": 0.05,
        "min_ms": 0.04,
        "max_ms": 0.09,
        "median_ms": 0.06,
        "std_ms": 0.02,
        "p5_ms": 0.041,
        "p95_ms": 0.08,
        "num_runs": 5,
    },
}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function that puts a Python program in the tool's place."""

    def install(code):
        path = tmp_path / "bin" / tool.COMMAND
        path.parent.mkdir()
        path.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
        path.chmod(0o755)
        monkeypatch.setattr(tool.sys, "executable", str(path.with_name("python")))
        return path

    return install


def test_a_small_model(converted):
    measured = litert_benchmark(converted("int8"), runs=20, warmup_runs=3)
    assert (measured.runs, measured.warmup_runs, measured.num_threads) == (20, 3, 1)
    assert measured.accelerators == ("CPU",)
    assert measured.init_ms > 0
    assert measured.min_ms <= measured.median_ms <= measured.p95_ms <= measured.max_ms
    assert measured.min_ms <= measured.mean_ms <= measured.max_ms
    # Of values within a range, the standard deviation is at most half the range times
    # sqrt(n / (n - 1)), which is below 1.03 for 20; each of the three numbers is rounded.
    spread = (measured.max_ms - measured.min_ms + RESOLUTION_MS) / 2 * 1.03 + RESOLUTION_MS / 2
    assert measured.standard_deviation_ms <= spread


def test_every_number_is_the_tools(program, by_hand, tmp_path):
    program(
        "import json\noptions = dict(a[2:].split('=') for a in sys.argv[1:])\n"
        f"json.dump(options, open({str(tmp_path / 'options')!r}, 'w'))\n"
        f"json.dump({RESULT!r}, open(options['result_json'], 'w'))"
    )
    measured = litert_benchmark(by_hand.chain(["RELU"]), runs=5, warmup_runs=2, num_threads=2)
    assert measured == tool.LiteRTBenchmark(
        init_ms=3.07,
        first_ms=0.14,
        warmup_ms=0.13,
        mean_ms=0.05,
        min_ms=0.04,
        max_ms=0.09,
        median_ms=0.06,
        standard_deviation_ms=0.02,
        p95_ms=0.08,
        runs=5,
        warmup_runs=2,
        num_threads=2,
        accelerators=("CPU",),
    )
    options = json.loads((tmp_path / "options").read_text())
    assert [options[key] for key in ("num_runs", "warmup_runs", "num_threads")] == ["5", "2", "2"]


def test_a_model_that_litert_refuses(by_hand):
    with pytest.raises(RuntimeError, match=r"Expected litert-benchmark to run the model. .*Hint"):
        litert_benchmark(by_hand.chain(["+Unheard"]), runs=1)


def test_a_crash_of_the_tool_is_said(program, by_hand):
    program("import os\nprint('so far', flush=True)\nos.abort()")
    with pytest.raises(RuntimeError, match=r"so far \| killed by signal 6"):
        litert_benchmark(by_hand.chain(["RELU"]))


def test_a_tool_that_writes_something_else(program, by_hand):
    program("open(sys.argv[5].split('=')[1], 'w').write('{}')")
    with pytest.raises(RuntimeError, match=r"as ai-edge-litert 2.3 writes it. .*KeyError"):
        litert_benchmark(by_hand.chain(["RELU"]))


def test_a_tool_that_does_not_end(program, by_hand):
    program("import time\ntime.sleep(30)")
    with pytest.raises(RuntimeError, match=r"within 0.3 s"):
        litert_benchmark(by_hand.chain(["RELU"]), timeout_s=0.3)


def test_without_the_tool(monkeypatch, tmp_path, by_hand):
    monkeypatch.setattr(tool.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Hint: pip install 'ai-edge-litert"):
        litert_benchmark(by_hand.chain(["RELU"]))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"runs": 0}, "Expected runs to be an int of at least 1. Received: 0"),
        ({"warmup_runs": 0}, "Expected warmup_runs"),
        ({"num_threads": 1.5}, "Expected num_threads .* Received: 1.5"),
        ({"timeout_s": 0}, "Expected timeout_s > 0"),
    ],
)
def test_numbers_out_of_range(by_hand, options, match):
    with pytest.raises(ValueError, match=match):
        litert_benchmark(by_hand.chain(["RELU"]), **options)


def test_no_flatbuffer_is_never_run(program):
    program("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="Expected a TFLite flatbuffer"):
        litert_benchmark(b"no model at all")
