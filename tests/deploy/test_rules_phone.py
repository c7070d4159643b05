"""What a phone says to a model: LiteRT on the CPU and the GPU, and MediaPipe Tasks."""

import dataclasses
import os
import pathlib

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_kd import deploy
from keras_kd.deploy import devices
from keras_kd.deploy.findings import ERROR, NOTE, WARNING, Subject
from keras_kd.deploy.package.metadata import (
    Metadata,
    TensorMetadata,
    image_classifier,
    write_metadata,
)
from keras_kd.deploy.rules import phone, phone_gpu


def judged(content, device):
    subject = Subject(content, deploy.model_info(content), "model")
    return phone.judge(subject, devices.get(device))


def found(content, device):
    """(severity, rule) of each finding."""
    return {(f.severity, f.rule) for f in judged(content, device).findings}


def repacked(content, change):
    """The flatbuffer after a change of its object."""
    model = schema.ModelT.InitFromPackedBuf(content)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# LiteRT on the CPU.


def test_an_int8_model_has_nothing_to_say(converted):
    verdict = judged(converted("int8").content, "android-cpu")
    assert verdict.findings == ()
    assert {p.target for p in verdict.placements} == {"cpu"}
    assert len(verdict.placements) == len(deploy.model_info(converted("int8").content).ops)
    assert verdict.not_run


@pytest.mark.parametrize("quantization", ["dynamic_range", "float16"])
def test_other_schemes_are_noted(converted, quantization):
    (note,) = judged(converted(quantization).content, "android-cpu").findings
    assert (note.severity, note.rule) == (NOTE, "quantization")
    assert quantization in note.message


def test_ops_without_a_kernel(by_hand):
    content = by_hand.chain(["RELU", "STABLEHLO_TANH", "+TFLite_Detection_PostProcess", "+Mine"])
    verdict = judged(content, "android-cpu")
    (missing,) = [f for f in verdict.findings if f.rule == "op-missing"]
    assert missing.severity == ERROR
    assert missing.where == ("STABLEHLO_TANH #1 (t2)",)
    assert [p.target for p in verdict.placements] == ["cpu", "none", "cpu", "none"]


def test_every_op_that_litert_runs_has_a_kernel():
    """The schema's ops but for StableHLO's: LiteRT's registration names all of them but three."""
    plain = {n for n in deploy.inspect.builtin_op_names() if not n.startswith("STABLEHLO_")}

    def op(name):
        return deploy.inspect.Op(0, 0, name, 1, False, (), ())

    refused = {name for name in plain if not phone.has_kernel(op(name))}
    assert refused == {"CALL", "CONCAT_EMBEDDINGS", "DELEGATE"}
    assert deploy.inspect.builtin_op_names() >= phone._STABLEHLO_KERNELS


@pytest.mark.parametrize(("device", "severity"), [("android-cpu", WARNING), ("android-gpu", ERROR)])
def test_a_state_is_refused_by_compiled_model(by_hand, device, severity):
    tensors = [by_hand.tensor("a"), by_hand.tensor("state", variable=True)]
    content = by_hand.chain(["RELU"], tensors)
    (state,) = [f for f in judged(content, device).findings if f.rule == "variable-tensors"]
    assert state.severity == severity
    assert "unroll=True" in state.cure
    assert state.where == ("tensor #1 (state)",)


def test_a_state_is_refused_by_the_installed_compiled_model(by_hand, tmp_path):
    """The rule, asked of ai-edge-litert's own CompiledModel."""
    from keras_kd.deploy.litert_benchmark import litert_benchmark

    tensors = [by_hand.tensor("a"), by_hand.tensor("state", variable=True)]
    with pytest.raises(RuntimeError, match=r"Failed to load model|Variable tensors"):
        litert_benchmark(by_hand.chain(["RELU"], tensors), runs=1, warmup_runs=1)


# The GPU.


def targets(content):
    return [p.target for p in judged(content, "android-gpu").placements]


def reasons(content):
    return [p.reason for p in judged(content, "android-gpu").placements]


def test_a_float_model_is_whole_on_the_gpu(converted):
    verdict = judged(converted("float16").content, "android-gpu")
    assert not [f for f in verdict.findings if f.severity != NOTE]
    (share,) = verdict.estimates
    assert (share.value, share.unit) == (100.0, "%")


def test_integers_are_computed_as_real_numbers(converted):
    (note,) = judged(converted("int8").content, "android-gpu").findings
    assert (note.severity, note.rule) == (NOTE, "gpu-dequantized")
    assert "float16" in note.cure


@pytest.mark.parametrize(
    ("name", "version", "inputs", "outputs", "shape", "reason"),
    [
        ("CONV_2D", 6, "FLOAT32", "FLOAT32", (1, 4, 4, 3), ""),
        ("CONV_2D", 7, "FLOAT32", "FLOAT32", (1, 4, 4, 3), "version 7; the GPU knows up to 6"),
        ("SUB", 2, "FLOAT32", "FLOAT32", (1, 4), ""),
        ("SUB", 3, "FLOAT32", "FLOAT32", (1, 4), "version 3; the GPU knows up to 2"),
        ("CONV_3D", 1, "FLOAT32", "FLOAT32", (1, 4, 4, 3), "the GPU has no such op"),
        ("ADD", 1, "FLOAT32", "FLOAT32", (1, 2, 2, 2, 2), "a tensor of 5 dimensions"),
        ("ADD", 1, "INT32", "INT32", (1, 4), ""),
        ("EXP", 1, "INT32", "INT32", (1, 4), "int32 as input"),
        ("EXP", 1, "FLOAT32", "INT16", (1, 4), "int16 as output"),
        ("ARG_MAX", 1, "FLOAT32", "INT64", (1, 4), "int64 as output"),
        ("ARG_MAX", 1, "FLOAT32", "INT32", (1, 4), ""),
        ("CAST", 1, "INT16", "FLOAT32", (1, 4), ""),
        ("CAST", 1, "INT64", "FLOAT32", (1, 4), "int64 as input"),
        ("LESS", 1, "FLOAT32", "BOOL", (1, 4), ""),
        ("LOGICAL_AND", 1, "FLOAT32", "BOOL", (1, 4), "float32 as input"),
        ("TOPK_V2", 1, "FLOAT32", "INT32", (1, 4), ""),
        ("EMBEDDING_LOOKUP", 1, "INT32", "FLOAT32", (1, 4), ""),
        ("SOFTMAX", 1, "INT8", "UINT8", (1, 4), ""),
    ],
)
def test_what_the_gpu_takes(by_hand, name, version, inputs, outputs, shape, reason):
    tensors = [by_hand.tensor("a", shape, inputs), by_hand.tensor("b", shape, outputs)]

    def set_version(model):
        model.operatorCodes[0].version = version

    content = repacked(by_hand.chain([name], tensors), set_version)
    (placed,) = judged(content, "android-gpu").placements
    assert placed.target == ("cpu" if reason else "gpu")
    assert placed.reason.startswith(reason)
    assert bool(placed.reason) == bool(reason)


def test_the_largest_partition_is_on_the_gpu(by_hand):
    #                     0       1         2       3       4       5         6
    content = by_hand.chain(["RELU", "CONV_3D", "RELU", "RELU", "RELU", "SEGMENT_SUM", "RELU"])
    assert targets(content) == ["cpu", "cpu", "gpu", "gpu", "gpu", "cpu", "cpu"]
    assert reasons(content)[0] == "the GPU takes one partition, and another one has more ops"
    fallbacks = [f for f in judged(content, "android-gpu").findings if f.rule == "gpu-fallback"]
    assert {(f.message.split(":")[0], len(f.where)) for f in fallbacks} == {
        ("1 CONV_3D run on the CPU", 1),
        ("1 SEGMENT_SUM run on the CPU", 1),
        ("2 RELU run on the CPU", 2),
    }
    assert all(f.severity == WARNING and f.cure and f.source for f in fallbacks)


def test_of_equal_partitions_the_first(by_hand):
    assert targets(by_hand.chain(["RELU", "CONV_3D", "RELU"])) == ["gpu", "cpu", "cpu"]


def test_partitions_go_by_what_depends_on_what(by_hand):
    """Two branches: the op that the GPU lacks splits its own branch alone."""
    content = by_hand.chain(["RELU", "CONV_3D", "RELU", "RELU"])

    def branch(model):
        model.subgraphs[0].operators[2].inputs = [0]  # No longer behind CONV_3D.

    info = deploy.model_info(repacked(content, branch))
    supported = [not phone_gpu.refusal(info, op) for op in info.ops]
    assert supported == [True, False, True, True]
    assert list(phone_gpu.partitions(info, supported)) == [(0, 2, 3)]


def test_ops_that_wait_for_each_other_end(by_hand):
    info = deploy.model_info(by_hand.chain(["RELU", "RELU"]))
    first, second = info.ops
    cycle = dataclasses.replace(info, ops=(dataclasses.replace(first, inputs=(2,)), second))
    assert list(phone_gpu.partitions(cycle, [True, True])) == []


def test_nothing_for_the_gpu_is_an_error(by_hand):
    assert (ERROR, "gpu-nothing") in found(by_hand.chain(["CONV_3D"]), "android-gpu")
    assert (ERROR, "gpu-nothing") not in found(by_hand.chain(["RELU"]), "android-gpu")


def test_a_size_that_is_not_fixed_stays_on_the_cpu(by_hand):
    def free(model):
        model.subgraphs[0].tensors[1].shapeSignature = [1, -1]

    assert targets(repacked(by_hand.chain(["RELU"]), free)) == ["cpu"]


def test_the_table_is_of_ops_that_there_are():
    assert deploy.inspect.builtin_op_names() >= phone_gpu.OPS >= set(phone_gpu.MAX_VERSIONS)


# MediaPipe Tasks.


@pytest.fixture
def picture(by_hand):
    """A function from (input type, output type, scale, zero point) to a model of pictures."""

    def content(inputs="UINT8", outputs="UINT8", scale=1 / 255, zero_point=0, shape=(1, 6, 6, 3)):
        image = by_hand.tensor("image", shape, inputs, scale, zero_point)
        return by_hand.chain(["RELU"], [image, by_hand.tensor("scores", (1, 3), outputs)])

    return content


def noted(content, std=255, mean=0, labels="abc"):
    return write_metadata(
        content, image_classifier(content, name="m", labels=labels, mean=mean, std=std)
    )


def test_a_model_that_fits(picture):
    verdict = judged(noted(picture()), "android-mediapipe")
    assert verdict.findings == ()
    assert any("MediaPipe" in line for line in verdict.not_run)


def test_float_without_normalization(picture):
    content = picture("FLOAT32", scale=None)
    assert (ERROR, "metadata-normalization") in found(content, "android-mediapipe")
    assert not judged(noted(content), "android-mediapipe").findings


def test_each_channel_otherwise(picture):
    content = noted(picture("FLOAT32", scale=None), mean=(1, 2, 1), std=(1, 1, 1))
    assert found(content, "android-mediapipe") == {(ERROR, "metadata-per-channel")}
    alike = noted(picture("FLOAT32", scale=None), mean=(1, 1, 1), std=2)
    assert found(alike, "android-mediapipe") == set()


@pytest.mark.parametrize(
    ("scale", "zero_point", "mean", "std", "fits"),
    [
        (1 / 255, 0, 0, 255, True),
        (2 / 255, 128, 128, 127.5, True),
        (0.98 / 255, 0, 0, 255, False),
        (1 / 255, 0, 127.5, 127.5, False),
        # Half a step is what the rounding of the zero point costs.
        (2 / 255, 128, 127.5, 127.5, True),
    ],
)
def test_pixels_stand_for_what_the_model_was_trained_on(
    picture, scale, zero_point, mean, std, fits
):
    content = noted(picture(scale=scale, zero_point=zero_point), mean=mean, std=std)
    expected = set() if fits else {(WARNING, "mediapipe-pixels")}
    assert found(content, "android-mediapipe") == expected


def test_pixels_without_a_word_on_normalization(picture):
    content = write_metadata(
        picture(), Metadata("m", outputs=(TensorMetadata(labels=("a", "b", "c")),))
    )
    (note,) = judged(content, "android-mediapipe").findings
    assert (note.severity, note.rule) == (NOTE, "mediapipe-pixels")
    assert "0..1" in note.message


def test_no_labels(picture):
    assert (WARNING, "metadata-labels") in found(picture(), "android-mediapipe")
    wrong = noted(picture())
    cut = wrong.replace(b"a\nb\nc\n", b"a\nbbbb")
    (labels,) = judged(cut, "android-mediapipe").findings
    assert labels.rule in ("metadata-labels", "metadata-damaged")
    assert labels.severity == ERROR


@pytest.mark.parametrize("shape", [(1, 6, 6, 1), (1, 108), (2, 6, 6, 3)])
def test_input_shapes(picture, shape):
    assert (ERROR, "mediapipe-input-shape") in found(picture(shape=shape), "android-mediapipe")


def test_output_shape(by_hand):
    image = by_hand.tensor("image", (1, 6, 6, 3), "UINT8")
    content = by_hand.chain(["RELU"], [image, by_hand.tensor("boxes", (1, 3, 4), "UINT8")])
    assert (ERROR, "mediapipe-output-shape") in found(content, "android-mediapipe")


def test_two_inputs(by_hand):
    content = repacked(
        by_hand.chain(["ADD"]), lambda model: setattr(model.subgraphs[0], "inputs", [0, 1])
    )
    assert found(content, "android-mediapipe") == {(ERROR, "mediapipe-interface")}


def test_damaged_metadata(picture):
    content = noted(picture()).replace(b"M001", b"M777")
    assert (ERROR, "metadata-damaged") in found(content, "android-mediapipe")


# Real models.


@pytest.mark.data
def test_real_models_on_the_gpu():
    """What ML Drift itself said of these on a software GPU: every op, but for DeepLab's argmax."""
    folder = pathlib.Path(os.environ["KERAS_KD_DATA"], "models")
    whole = [
        *(
            f"mlcommons_tiny/{name}"
            for name in (
                "ad01_int8",
                "kws_ref_model",
                "kws_ref_model_float32",
                "pretrainedResnet",
                "pretrainedResnet_large_float",
                "pretrainedResnet_large_int8",
                "pretrainedResnet_quant",
                "str_ww_ref_model",
                "vww_96_float",
                "vww_96_int8",
            )
        ),
        "coral/mobilenet_v1_0.25_128_quant",
        "coral/split_concat",
        "tflite_micro/hello_world_float",
        "tflite_micro/hello_world_int8",
        "tflite_micro/micro_speech_quantized",
    ]
    for name in whole:
        assert set(targets((folder / f"{name}.tflite").read_bytes())) == {"gpu"}, name
    deeplab = judged(
        (folder / "coral/deeplabv3_mnv2_dm05_pascal_quant.tflite").read_bytes(), "android-gpu"
    )
    left = [(p.op.name, p.reason) for p in deeplab.placements if p.target != "gpu"]
    assert left == [("ARG_MAX", "int64 as output")]
    assert len(deeplab.placements) == 72
    (argmax,) = [f for f in deeplab.findings if f.rule == "gpu-fallback"]
    assert "int32" in argmax.cure
    for name in ("trained_lstm", "trained_lstm_int8"):
        content = (folder / f"tflite_micro/{name}.tflite").read_bytes()
        assert (ERROR, "variable-tensors") in found(content, "android-gpu")
