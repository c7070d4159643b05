"""The resolver's names: complete for what TFLM has, and those of its header where that is."""

import os
import pathlib
import re

import pytest

from keras_kd import deploy
from keras_kd.deploy import micro_ops
from keras_kd.deploy.package.resolver import method_of, methods_of

TFLM = os.environ.get("KERAS_KD_TFLM")


def test_every_op_that_tflm_has_is_registered_by_a_method_of_its_own():
    methods = [method_of(name) for name in micro_ops.BUILTIN_OPS]
    methods += [method_of(name, is_custom=True) for name in micro_ops.CUSTOM_OPS]
    methods.append(method_of("ethos-u", is_custom=True))
    assert len(set(methods)) == 118
    assert all(re.fullmatch(r"Add[A-Z][A-Za-z0-9]*", method) for method in methods)


@pytest.mark.parametrize(
    ("name", "is_custom", "method"),
    [
        ("CONV_2D", False, "AddConv2D"),
        ("SVDF", False, "AddSvdf"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", False, "AddUnidirectionalSequenceLSTM"),
        ("PADV2", False, "AddPadV2"),
        ("REVERSE_V2", False, "AddReverseV2"),
        ("RELU6", False, "AddRelu6"),
        ("BATCH_MATMUL", False, "AddBatchMatMul"),
        ("RESIZE_NEAREST_NEIGHBOR", False, "AddResizeNearestNeighbor"),
        ("SignalWindow", True, "AddWindow"),
        ("SignalFftAutoScale", True, "AddFftAutoScale"),
        ("SignalPCAN", True, "AddPCAN"),
        ("TFLite_Detection_PostProcess", True, "AddDetectionPostprocess"),
        ("CIRCULAR_BUFFER", True, "AddCircularBuffer"),
        ("ethos-u", True, "AddEthosU"),
    ],
)
def test_methods(name, is_custom, method):
    assert method_of(name, is_custom=is_custom) == method


@pytest.mark.parametrize(
    ("name", "is_custom"), [("GELU", False), ("CONV_2D", True), ("ethos-u", False), ("Flex", True)]
)
def test_what_tflm_lacks_is_refused(name, is_custom):
    with pytest.raises(ValueError, match=rf"Expected an op .* Received: '{name}'\. Hint"):
        method_of(name, is_custom=is_custom)


def test_each_op_of_a_model_once_in_order_of_use(by_hand):
    info = deploy.model_info(by_hand.chain(["RELU", "+SignalRfft", "RELU", "ADD"]))
    assert methods_of(info) == ("AddRelu", "AddRfft", "AddAdd")


@pytest.mark.skipif(TFLM is None, reason="needs TFLite Micro's sources in KERAS_KD_TFLM")
def test_the_names_are_those_of_tflms_header():
    path = pathlib.Path(TFLM) / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    text = path.read_text()
    text = text[text.index("TfLiteStatus AddAbs") : text.index("GetRegistrationLength")]
    builtin, custom = {}, {}
    for part in re.split(r"TfLiteStatus (?=Add)", text)[1:]:
        method = re.match(r"\w+", part)[0]
        op = re.search(r"BuiltinOperator_(\w+)", part)
        if op:
            builtin[op[1]] = method
        else:
            custom[re.search(r'AddCustom\(\s*"?([\w:]+)', part)[1]] = method
    custom["ethos-u"] = custom.pop("tflite::GetString_ETHOSU")
    assert builtin == {name: method_of(name) for name in micro_ops.BUILTIN_OPS}
    names = [*micro_ops.CUSTOM_OPS, "ethos-u"]
    assert custom == {name: method_of(name, is_custom=True) for name in names}
