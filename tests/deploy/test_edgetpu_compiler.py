"""The Edge TPU compiler, played by a script, and what is read from the files that it writes.

The logs are the compiler's own lines (https://coral.ai/docs/edgetpu/compiler/ and
google-coral/edgetpu issues 433 and 560); the data tests read models that it compiled.
"""

import json
import os
import pathlib
import stat
import sys

import pytest

from keras_kd.deploy import edgetpu_compiler, inspect

SAID = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 96 ms.

Input model: model.tflite
Input size: 7.02MiB
Output model: model_edgetpu.tflite
Output size: 7.14MiB
On-chip memory used for caching model parameters: 80.00KiB
On-chip memory remaining for caching model parameters: 6.04MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 4
Operation log: model_edgetpu.log

Number of operations that will run on Edge TPU: 2
Number of operations that will run on CPU: 2

Operator                       Count      Status

RELU                           2          Mapped to Edge TPU
DEQUANTIZE                     1          Operation is working on an unsupported data type
"""
TABLE = """\
Edge TPU Compiler version 16.0.384591198
Input: model.tflite
Output: model_edgetpu.tflite

Operator                       Count      Status

RELU                           2          Mapped to Edge TPU
LEAKY_RELU                     1          Operation not supported
RELU                           1          More than one subgraph is not supported
"""


def script(folder, body):
    """An executable of that name that runs `body` with `arguments` and `out_dir`."""
    path = folder / edgetpu_compiler.EXECUTABLE
    path.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys, time\narguments = sys.argv[1:]\n"
        "out_dir = pathlib.Path(arguments[arguments.index('-o') + 1])\n" + body
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def writes(output, said=SAID, table=TABLE):
    """The body of a compiler that compiles every model to these bytes."""
    return (
        f"(out_dir / 'model_edgetpu.tflite').write_bytes({output!r})\n"
        f"(out_dir / 'model_edgetpu.log').write_text({table!r})\n"
        f"print({said!r})\n"
    )


def test_the_log_is_read():
    log = edgetpu_compiler.parse_log(SAID)
    assert log == edgetpu_compiler.Log(
        version="16.0.384591198",
        statuses=(
            edgetpu_compiler.OpStatus("RELU", 2, "Mapped to Edge TPU"),
            edgetpu_compiler.OpStatus(
                "DEQUANTIZE", 1, "Operation is working on an unsupported data type"
            ),
        ),
        cached_bytes=80 * 1024,
        free_bytes=round(6.04 * 2**20),
        streamed_bytes=0,
        subgraphs=1,
    )


def test_a_text_that_is_no_log_has_nothing():
    assert edgetpu_compiler.parse_log("command not found") == edgetpu_compiler.Log()


def test_a_model_is_compiled_in_a_folder_of_its_own(tmp_path):
    body = (
        "(out_dir / 'model_edgetpu.tflite').write_bytes((out_dir / arguments[-1]).read_bytes())\n"
    )
    body += f"(out_dir / 'model_edgetpu.log').write_text({TABLE!r})\nprint({SAID!r})\n"
    body += f"asked = pathlib.Path({str(tmp_path / 'asked')!r})\n"
    body += "asked.write_text(json.dumps([arguments, str(out_dir)]))\n"
    done = edgetpu_compiler.compile_model(
        b"a model", executable=script(tmp_path, body), min_runtime_version=13
    )
    assert done.content == b"a model"
    assert done.log.cached_bytes == 80 * 1024
    # The table of the log file counts: the one on the screen may be shortened.
    assert [(s.name, s.count) for s in done.log.statuses] == [
        ("RELU", 2),
        ("LEAKY_RELU", 1),
        ("RELU", 1),
    ]
    arguments, folder = json.loads((tmp_path / "asked").read_text())
    assert "-s" in arguments
    assert arguments[arguments.index("-m") + 1] == "13"
    assert not os.path.exists(folder)


REFUSED = (
    "Edge TPU Compiler version 16.0.384591198\n"
    "ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'.\n"
    "ERROR: Registration failed.\n\nInvalid model: model.tflite\nModel could not be parsed\n"
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"print({REFUSED!r}); sys.exit(1)", "exit code 1.*'CONV_2D' version '6'.*Invalid model"),
        ("print('Internal compiler error. Aborting!'); sys.exit(2)", "exit code 2, Internal"),
        ("sys.exit(3)", "exit code 3, no output"),
        ("print('Model compiled successfully')", "exit code 0, Model compiled"),
        ("import time; time.sleep(60)", "to end within 0.3 s"),
    ],
    ids=["refused", "internal", "silent", "no-output-file", "timeout"],
)
def test_a_failure_says_what_the_compiler_said(tmp_path, body, message):
    with pytest.raises(edgetpu_compiler.CompilerError, match=message):
        edgetpu_compiler.compile_model(
            b"",
            executable=script(tmp_path, body),
            timeout_s=0.3 if "sleep" in body else 60,
        )


def test_no_child_of_the_compiler_outlives_the_timeout(tmp_path):
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    body = f"import subprocess; child = subprocess.Popen({child!r})\n"
    body += f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid)); time.sleep(60)"
    with pytest.raises(edgetpu_compiler.CompilerError, match="to end within 2 s"):
        edgetpu_compiler.compile_model(b"", executable=script(tmp_path, body), timeout_s=2)
    stat_file = pathlib.Path("/proc", (tmp_path / "child").read_text(), "stat")
    # Gone, or ended ("Z") and not yet waited for by whoever inherited it.
    assert not stat_file.exists() or stat_file.read_text().split()[2] == "Z"


def test_a_compiler_that_cannot_start_is_an_error(tmp_path):
    with pytest.raises(edgetpu_compiler.CompilerError, match=r"to start\. Received: .*nothing"):
        edgetpu_compiler.compile_model(b"", executable=tmp_path / "nothing")


def test_the_compiler_is_looked_for_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert edgetpu_compiler.find() is None
    path = script(tmp_path, "")
    assert edgetpu_compiler.find() == str(path)


def compiled(by_hand, options):
    """A model of one Edge TPU op with these options."""
    tensors = [by_hand.tensor("in"), by_hand.tensor("out")]
    op = by_hand.op("+edgetpu-custom-op", [0], [1], customOptions=options)
    return by_hand.graph([op], tensors, [0], [1])


def test_a_program_tells_its_runtime_and_parameters(by_hand):
    content = compiled(by_hand, by_hand.edgetpu_program(13, 640, 96))
    assert edgetpu_compiler.programs(content) == (edgetpu_compiler.Program(13, 640, 96),)
    assert edgetpu_compiler.is_compiled(inspect.model_info(content))


@pytest.mark.parametrize("keep", [0, 10, 40, 200, -700])
def test_a_damaged_program_is_an_error(by_hand, keep):
    content = compiled(by_hand, by_hand.edgetpu_program(13, 640, 96)[:keep])
    with pytest.raises(ValueError, match=r"Edge TPU program in the options.*#0.*Hint"):
        edgetpu_compiler.programs(content)


def test_a_model_without_the_op_is_not_compiled(by_hand):
    content = by_hand.chain(["RELU"])
    assert not edgetpu_compiler.is_compiled(inspect.model_info(content))
    assert edgetpu_compiler.programs(content) == ()


def test_what_is_left_is_known_by_its_outputs(by_hand):
    tensors = [by_hand.tensor(name) for name in "abcd"]
    ops = [by_hand.op("RELU", [i], [i + 1]) for i in range(3)]
    original = inspect.model_info(by_hand.graph(ops, tensors, [0], [3]))
    tpu = by_hand.op("+edgetpu-custom-op", [0], [2])
    after = inspect.model_info(by_hand.graph([tpu, ops[2]], tensors, [0], [3]))
    assert edgetpu_compiler.left_on_cpu(original, after) == {2}
    tensors[3].name = "another"
    other = inspect.model_info(by_hand.graph([tpu, ops[2]], tensors, [0], [3]))
    with pytest.raises(ValueError, match=r"RELU -> another\. Hint: it was compiled from another"):
        edgetpu_compiler.left_on_cpu(original, other)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deeplabv3_mnv2_dm05_pascal_quant", (12, 766_720, 0)),
        ("keras_lstm_mnist_ptq", (12, 43_968, 576)),
        ("mobilenet_v1_0.25_128_quant", (12, 566_912, 0)),
        ("split_concat", (13, 192, 0)),
    ],
)
def test_what_real_files_hold(data_folder, name, expected):
    content = (data_folder / "models" / "coral" / f"{name}_edgetpu.tflite").read_bytes()
    assert edgetpu_compiler.programs(content) == (edgetpu_compiler.Program(*expected),)
