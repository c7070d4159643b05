"""The table of types that TFLM's kernels take, against the installed wheel.

Each op of trained models is asked with each type: a model of that op alone, with its options and
constants, which TFLM either runs or does not. Children run them, since some end the process.
"""

import subprocess
import sys

import pytest

from keras_kd import deploy
from keras_kd.deploy import inspect, micro_ops, tflm_kernels

ASK = """
import sys
import numpy as np
from tflite_micro import runtime
for path in sys.argv[1:]:
    print("asked", path, flush=True)
    try:
        model = runtime.Interpreter.from_bytes(open(path, "rb").read(), arena_size=1 << 20)
        for index in range(int(path.rsplit("@", 1)[1])):
            details = model.get_input_details(index)
            model.set_input(np.ones(details["shape"], details["dtype"]), index)
        model.invoke()
        print("ran", flush=True)
    except RuntimeError:
        print("refused", flush=True)
"""
DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")
ONE_TYPE = """
ABS ADD ARG_MAX AVERAGE_POOL_2D BATCH_MATMUL CEIL CONCATENATION COS CUMSUM DEPTH_TO_SPACE
DEQUANTIZE DIV ELU EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD GATHER GREATER
GREATER_EQUAL HARD_SWISH L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGISTIC
LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PRELU
REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR
REVERSE_V2 ROUND RSQRT SELECT_V2 SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TRANSPOSE UNPACK ZEROS_LIKE
"""


WEIGHTED = [
    (name, data, weight, bias, channels)
    for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
    for data, weight, bias in [
        ("float32", "float32", "float32"),
        ("float32", "int8", "float32"),  # Dynamic range.
        ("float32", "float16", "float32"),
        ("float16", "float16", "float16"),
        ("int8", "int8", "int32"),
        ("uint8", "uint8", "int32"),
        ("int16", "int8", "int64"),
        ("int16", "int16", "int64"),
    ]
    for channels in ((1, 2) if weight == "int8" and data != "float32" else (1,))
]
CONVERSIONS = [
    (name, source, target)
    for name in ("QUANTIZE", "CAST")
    for source in DTYPES
    for target in DTYPES
]


def outcomes(models, folder):
    """Which of the models ran on ones, by name."""
    paths_of = {}
    for name, content in models.items():
        paths_of[name] = folder / f"{name}@{len(deploy.model_info(content).inputs)}"
        paths_of[name].write_bytes(content)
    left, ran = list(models), {}
    while left:
        paths = [str(paths_of[name]) for name in left]
        done = subprocess.run(
            [sys.executable, "-c", ASK, *paths], capture_output=True, text=True, check=False
        )
        for part in done.stdout.split("asked ")[1:]:
            path, _, answer = part.partition("\n")
            ran[path.rsplit("/", 1)[-1].rsplit("@", 1)[0]] = answer.strip() == "ran"
        assert ran, done.stderr
        left = left[left.index(next(reversed(ran))) + 1 :]
    return ran


def differences(models, folder):
    """The models over which the table and the wheel do not agree: name -> whether it ran."""
    ran = outcomes(models, folder)
    assert sorted(ran) == sorted(models)
    taken = {}
    for name, content in models.items():
        info = deploy.model_info(content)
        taken[name] = not tflm_kernels.refusals(info, info.ops[0])
    return {name: ran[name] for name in models if ran[name] != taken[name]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_ops_of_one_type(ops_by_hand, dtype, tmp_path):
    models = {name: ops_by_hand.one_type(name, dtype) for name in ONE_TYPE.split()}
    assert differences(models, tmp_path) == {}


def test_layers_with_weights(ops_by_hand, tmp_path):
    models = {"-".join(map(str, case)): ops_by_hand.weighted(*case) for case in WEIGHTED}
    # It runs, and reads the int16 weights as int8 ones: transpose_conv.cc only asserts their type.
    misread = {"TRANSPOSE_CONV-int16-int16-int64-1": True}
    assert differences(models, tmp_path) == misread


def test_conversions(ops_by_hand, tmp_path):
    models = {
        "-".join(case): ops_by_hand.one_op(
            case[0], [ops_by_hand.Slot(case[1])], [ops_by_hand.Slot(case[2], scale=0.5)]
        )
        for case in CONVERSIONS
    }
    assert differences(models, tmp_path) == {}


def test_every_op_has_a_line_or_no_types():
    """What has none moves resources or calls subgraphs: no type of a student's tensors."""
    without = {name for name in micro_ops.BUILTIN_OPS if not tflm_kernels.combinations(name)}
    assert without == {"CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE", "WHILE"}
    named = {line.split()[0] for line in tflm_kernels.TYPES.strip().splitlines()}
    assert named <= micro_ops.BUILTIN_OPS


def refusals(content):
    info = deploy.model_info(content)
    return [(r.rule, r.reason) for r in tflm_kernels.refusals(info, info.ops[0])]


def test_a_refusal_says_what_is_given_and_what_is_taken(ops_by_hand):
    assert refusals(ops_by_hand.weighted("CONV_2D", "float32", "int8", "float32")) == [
        (
            "op-types",
            "inputs>outputs are float32,int8,float32>float32, and it takes "
            "float32,float32,float32>float32 or int8,int8/int4,int32>int8 or "
            "int16,int8,int32/int64>int16",
        )
    ]
    assert refusals(ops_by_hand.one_type("RELU", "uint8")) == [
        ("op-types", "inputs>outputs are uint8>uint8, and it takes T>T for T = float32/int8/int16")
    ]


def test_an_optional_input_left_out_is_no_type(ops_by_hand):
    content = ops_by_hand.one_op(
        "FULLY_CONNECTED",
        [ops_by_hand.Slot("float32", (1, 8)), ops_by_hand.weights((2, 8), "float32"), None],
        [ops_by_hand.Slot("float32", (1, 2))],
        ops_by_hand.options("FullyConnectedOptions"),
    )
    assert refusals(content) == []


def test_a_shape_that_is_computed(ops_by_hand, tmp_path):
    computed = ops_by_hand.Slot("int32", (4,))
    content = ops_by_hand.one_op(
        "TRANSPOSE", [ops_by_hand.Slot("int8"), computed], [ops_by_hand.Slot("int8")]
    )
    assert refusals(content) == [
        ("op-constant", "'t1' is computed, and TFLM wants it constant"),
    ]
    assert outcomes({"computed": content}, tmp_path) == {"computed": False}


def test_limits_of_concatenation(ops_by_hand, tmp_path):
    def joined(count, scale):
        parts = [ops_by_hand.Slot("int8", (1, 2))] * (count - 1) + [
            ops_by_hand.Slot("int8", (1, 2), scale=scale)
        ]
        kind = ops_by_hand.options("ConcatenationOptions", axis=1)
        return ops_by_hand.one_op(
            "CONCATENATION", parts, [ops_by_hand.Slot("int8", (1, 2 * count))], kind
        )

    models = {"ten": joined(10, 0.5), "eleven": joined(11, 0.5), "rescaled": joined(2, 0.25)}
    assert outcomes(models, tmp_path) == {"ten": True, "eleven": False, "rescaled": False}
    assert refusals(models["ten"]) == []
    assert refusals(models["eleven"]) == [
        ("op-limit", "it joins 11 tensors, and TFLM 10 at most"),
    ]
    ((rule, reason),) = refusals(models["rescaled"])
    assert rule == "op-limit"
    assert "other scales" in reason


def test_custom_ops_are_not_looked_at(by_hand):
    info = deploy.model_info(by_hand.chain(["+RELU"]))
    assert inspect.Op(0, 0, "RELU", 1, True, (0,), (1,)) == info.ops[0]
    assert tflm_kernels.refusals(info, info.ops[0]) == ()
