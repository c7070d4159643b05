"""Thousands of damaged files: each is read or refused, soon and in little memory, and never worse.

It happens in a process of its own, so that a crash, a hang or a blow-up fails the test and not the
test run.
"""

import json
import pathlib
import subprocess
import sys

import pytest
from ai_edge_litert import schema_py_generated as schema

WORKER = pathlib.Path(__file__).with_name("fuzz_worker.py")


@pytest.fixture(scope="module")
def files(by_hand, converted, tmp_path_factory):
    """An int8 student, a float16 one, and two by hand: a loop, and a constant with options."""
    folder = tmp_path_factory.mktemp("fuzz")

    def loop(model):
        graph = schema.SubGraphT()
        graph.name, graph.inputs, graph.outputs = "body", [0], [0]
        graph.tensors, graph.operators = [by_hand.tensor("state")], []
        model.subgraphs.append(graph)
        options = schema.WhileOptionsT()
        options.condSubgraphIndex = options.bodySubgraphIndex = 1
        model.subgraphs[0].tensors.append(by_hand.tensor("after"))
        by_hand.operator(model, "WHILE", [1], [2], options, "WhileOptions")

    reshape = schema.ReshapeOptionsT()
    reshape.newShape = [2, 2]
    contents = {
        "int8": converted("int8").content,
        "float16": converted("float16").content,
        "loop": by_hand.edited(by_hand.chain(["+Own"]), loop),
        "reshape": by_hand.one_op(
            "RESHAPE", [by_hand.tensor("a")], [by_hand.tensor("b", (2, 2))], reshape,
            "ReshapeOptions",
        ),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / f"{name}.tflite").write_bytes(content)
    return sorted(folder.iterdir())


def fuzzed(files, count, seed, rules, timeout_s):
    done = subprocess.run(
        [sys.executable, WORKER, str(count), str(seed), "rules" if rules else "no", *files],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    # Both happen: a reader that refuses everything, or nothing, was not tested.
    assert found["read"] > count / 20
    assert found["refused"] > count / 20
    # The files have some 10 kB: 64 times that for tables that become objects, twice over, and more.
    assert found["grown"] < 16 << 20
    assert found["longest_s"] < 1
    return found


def test_damaged_files_are_read_or_refused(files):
    fuzzed(files, 3000, seed=0, rules=False, timeout_s=60)


def test_rules_do_not_trip_over_damaged_files(files):
    """What was read can be asked anything: by the rules of every runtime, op by op."""
    fuzzed(files, 600, seed=1, rules=True, timeout_s=60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 5))
def test_many_more_damaged_files(files, seed):
    fuzzed(files, 20_000, seed=seed, rules=True, timeout_s=300)


@pytest.mark.slow
@pytest.mark.data
def test_published_models_damaged(data_folder):
    paths = [path for path in data_folder.rglob("*.tflite") if path.stat().st_size < 50_000]
    fuzzed(sorted(paths), 10_000, seed=5, rules=True, timeout_s=300)
