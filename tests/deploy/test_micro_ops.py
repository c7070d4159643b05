"""The table of TFLM's ops, against the installed wheel: it is asked for every op of the schema."""

import subprocess
import sys

import pytest

from keras_kd import deploy
from keras_kd.deploy import inspect, micro_ops

# Each model has one op, without options and with one input, so that most ops that are there fail
# over that. Some even end the process, so there is a child for each batch, which goes on behind.
ASK = """
import sys
from tflite_micro import runtime
for path in sys.argv[1:]:
    print("asked", path, file=sys.stderr, flush=True)
    try:
        runtime.Interpreter.from_bytes(open(path, "rb").read(), arena_size=100_000)
    except RuntimeError:
        pass
"""


def answers(models, folder):
    """What TFLM wrote for each model, by name."""
    for name, content in models.items():
        (folder / name).write_bytes(content)
    left, said = list(models), {}
    while left:
        paths = [str(folder / name) for name in left]
        done = subprocess.run(
            [sys.executable, "-c", ASK, *paths], capture_output=True, text=True, check=False
        )
        for part in done.stderr.split("asked ")[1:]:
            path, _, text = part.partition("\n")
            said[path.rsplit("/", 1)[-1]] = text
        left = left[left.index(next(reversed(said))) + 1 :] if said else []
    return said


def test_the_wheel_has_the_tables_builtin_ops(by_hand, tmp_path):
    names = sorted(inspect.builtin_op_names() - {"PLACEHOLDER_FOR_GREATER_OP_CODES"})
    said = answers({name: by_hand.chain([name]) for name in names}, tmp_path)
    assert sorted(said) == names
    has = {name for name in names if "Didn't find op" not in said[name]}
    assert has == micro_ops.BUILTIN_OPS
    assert len(has) == 100


def test_the_wheel_has_the_tables_custom_ops(by_hand, tmp_path):
    names = sorted(micro_ops.CUSTOM_OPS | {"Unknown", "ethos-u", "edgetpu-custom-op"})
    said = answers({name: by_hand.chain([f"+{name}"]) for name in names}, tmp_path)
    lacks = {name for name in names if "Failed to get registration" in said[name]}
    assert lacks == {"Unknown", "ethos-u", "edgetpu-custom-op"}
    assert len(micro_ops.CUSTOM_OPS) == 17


def test_every_missing_op_is_named(by_hand):
    content = by_hand.chain(["RELU", "GELU", "CONV_3D", "+FlexErf", "GELU", "SELECT"])
    assert micro_ops.missing_ops(deploy.model_info(content)) == (
        "GELU",
        "CONV_3D",
        "FlexErf",
        "SELECT",
    )
    with pytest.raises(ValueError, match=r"also needs: GELU, CONV_3D, FlexErf, SELECT\. Hint"):
        deploy.Interpreter(content, "tflm")
