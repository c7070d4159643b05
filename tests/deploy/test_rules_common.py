"""The rules that hold for every runtime: each one on a model that breaks it, and on sound ones."""

import subprocess
import sys

import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_kd import deploy
from keras_kd.deploy.devices import Device, Fact
from keras_kd.deploy.findings import ERROR, NOTE, WARNING, Subject
from keras_kd.deploy.rules import common, float_islands

RUNTIMES = ("tflm", "ethos_u", "edgetpu", "litert", "litert_gpu", "mediapipe")


def device(runtime, **facts):
    return Device("own", "My device", runtime, **facts)


def found(content, runtime="litert", **facts):
    """{rule: finding} of the common rules."""
    subject = Subject(content, deploy.model_info(content), "model")
    return {f.rule: f for f in common.judge(subject, device(runtime, **facts)).findings}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_is_found_in_a_sound_model(converted, runtime):
    dtypes = Fact(("int8",), "this test")
    facts = {"input_dtypes": dtypes, "output_dtypes": dtypes}
    assert found(converted("int8").content, runtime, **facts) == {}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_custom_ops(by_hand, runtime):
    finding = found(by_hand.chain(["RELU", "+FlexErf"]), runtime)["custom-op"]
    assert finding.severity == ERROR
    assert finding.message == "'FlexErf' is a TensorFlow op, which My device does not have."
    assert finding.where == ("FlexErf #1 (t2)",)
    assert "keras_kd.deploy.convert" in finding.cure
    assert finding.source
    own = found(by_hand.chain(["+Own"]), runtime)["custom-op"]
    assert "'Own' is a custom op" in own.message
    assert own.severity == (WARNING if runtime == "edgetpu" else ERROR)


def test_custom_ops_that_a_runtime_has(by_hand):
    detection, window = (
        by_hand.chain(["+TFLite_Detection_PostProcess"]),
        by_hand.chain(["+SignalWindow"]),
    )
    for runtime in RUNTIMES:
        assert "custom-op" not in found(detection, runtime)
        assert ("custom-op" in found(window, runtime)) == (runtime not in ("tflm", "ethos_u"))


def test_ops_that_another_compiler_made(by_hand):
    for name, own in (("edgetpu-custom-op", "edgetpu"), ("ethos-u", "ethos_u")):
        for runtime in RUNTIMES:
            finding = found(by_hand.chain([f"+{name}"]), runtime).get("compiled-op")
            assert (finding is None) == (runtime == own)
            if finding:
                assert finding.severity == ERROR
                assert finding.cure == "Take the file as it was before the compiler."


@pytest.mark.parametrize(
    ("op", "is_there"),
    [*((op, True) for op in sorted(common.CUSTOM_OPS["litert"])), ("Own", False)],
)
def test_litert_has_the_custom_ops_that_it_is_said_to_have(by_hand, tmp_path, op, is_there):
    """Without their options some of them end the process, so each is tried in one of its own."""
    path = tmp_path / "model.tflite"
    path.write_bytes(by_hand.chain([f"+{op}"]))
    code = (
        "import sys\n"
        "from ai_edge_litert import interpreter\n"
        "try: interpreter.Interpreter(sys.argv[1]).allocate_tensors()\n"
        "except (RuntimeError, ValueError) as err: print(err)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert (f"unresolved custom op: {op}" not in done.stdout + done.stderr) == is_there


def test_dynamic_shapes(by_hand):
    def free(signature):
        def change(model):
            model.subgraphs[0].tensors[1].shapeSignature = signature

        return by_hand.edited(by_hand.chain(["RELU"]), change)

    batch, size = free([-1, 4]), free([1, -1])
    for runtime in RUNTIMES:
        finding = found(size, runtime)["dynamic-shape"]
        assert finding.severity == (ERROR if runtime in common.STATIC else WARNING)
        assert finding.where == ("tensor #1 (t1)",)
        assert "static batch of 1" in finding.cure
        free_batch = found(batch, runtime)["dynamic-batch"]
        assert free_batch.severity == (WARNING if runtime == "edgetpu" else NOTE)
        assert "dynamic-shape" not in found(batch, runtime)


@pytest.mark.parametrize(
    ("scheme", "wanted", "cure"),
    [
        ("int8", ("uint8",), 'quantization="int8", input_dtype="uint8" (keras-kd convert --quanti'),
        ("int8", ("uint8", "float32"), 'quantization="int8", input_dtype="uint8"'),
        ("int8", ("float32",), 'quantization="int8", input_dtype="float32"'),
        ("int8", ("int16",), 'quantization="int16x8", input_dtype="int16"'),
        ("float16", ("int8", "uint8"), 'quantization="int8", input_dtype="int8"'),
        ("int8", ("int32",), "cast at the input in the model"),
    ],
)
def test_input_types_and_the_conversion_that_cures_them(converted, scheme, wanted, cure):
    fact = Fact(wanted, "the board's manual", "run on it")
    finding = found(converted(scheme).content, input_dtypes=fact)["input-dtype"]
    assert finding.severity == ERROR
    assert cure in finding.cure
    assert (finding.source, finding.verified) == ("the board's manual", "run on it")
    assert finding.where == ("input 'image'",)


def test_output_types(converted):
    fact = Fact(("uint8",), "the app")
    findings = found(converted("int8").content, output_dtypes=fact)
    assert list(findings) == ["output-dtype"]
    assert "is int8; My device takes uint8." in findings["output-dtype"].message
    assert 'output_dtype="uint8"' in findings["output-dtype"].cure


def test_float16(converted):
    for runtime in RUNTIMES:
        finding = found(converted("float16").content, runtime).get("tensor-dtype")
        assert (finding is not None) == (runtime in common.STATIC)
        if finding:
            assert (finding.severity, finding.cure) == (
                ERROR,
                'Convert with quantization="int8".',
            )


@pytest.mark.parametrize("dtype", ["FLOAT64", "COMPLEX64", "STRING"])
def test_types_that_few_kernels_take(by_hand, dtype):
    content = by_hand.chain(
        ["RELU"], [by_hand.tensor("a", dtype=dtype, scale=None), by_hand.tensor("b")]
    )
    for runtime in RUNTIMES:
        finding = found(content, runtime)["tensor-dtype"]
        assert finding.severity == (WARNING if runtime in common.PHONE else ERROR)
        assert f"1 tensors are {dtype.lower()}" in finding.message


def test_an_axis_that_the_tensor_lacks(by_hand):
    def change(model):
        tensor = model.subgraphs[0].tensors[1]
        tensor.shape = [4]
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.5] * 4, [0] * 4
        tensor.quantization.quantizedDimension = 3

    content = by_hand.edited(by_hand.chain(["RELU"]), change)
    refusing = {runtime for runtime in RUNTIMES if "quantized-axis" in found(content, runtime)}
    assert refusing == {"litert", "litert_gpu", "mediapipe"}  # Coral has its own words.


def test_subgraphs_and_states(by_hand):
    def change(model):
        graph = schema.SubGraphT()
        graph.name, graph.inputs, graph.outputs = "body", [0], [0]
        graph.tensors, graph.operators = [by_hand.tensor("state", variable=True)], []
        model.subgraphs.append(graph)
        options = schema.WhileOptionsT()
        options.condSubgraphIndex = options.bodySubgraphIndex = 1
        model.subgraphs[0].tensors.append(by_hand.tensor("after"))
        by_hand.operator(model, "WHILE", [1], [2], options, "WhileOptions")
        model.subgraphs[0].outputs = [2]

    content = by_hand.edited(by_hand.chain(["RELU"]), change)
    findings = found(content, "tflm")
    assert findings["subgraphs"].severity == WARNING
    assert findings["subgraphs"].where == ("WHILE #1 (after)",)
    assert found(content, "litert")["subgraphs"].severity == NOTE
    assert findings["stateful"].severity == NOTE
    assert findings["stateful"].where == ("tensor #0 (state)",)


def test_what_nothing_depends_on(by_hand):
    def change(model):
        graph = model.subgraphs[0]
        graph.tensors += [by_hand.tensor("idle"), by_hand.tensor("idler"), by_hand.tensor("unread")]
        by_hand.operator(model, "RELU", [0], [2])
        by_hand.operator(model, "RELU6", [2], [3])
        graph.inputs = [0, 4]

    findings = found(by_hand.edited(by_hand.chain(["RELU"]), change))
    assert findings["unused-op"].where == ("RELU #1 (idle)", "RELU6 #2 (idler)")
    assert findings["unused-input"].where == ("input 'unread'",)
    assert {findings[rule].severity for rule in ("unused-op", "unused-input")} == {WARNING}


def test_metadata_that_takes_space(by_hand):
    def change(model):
        model.metadata = [schema.MetadataT()]
        model.metadata[0].name, model.metadata[0].buffer = "TFLITE_METADATA", 1
        model.buffers.append(schema.BufferT())
        model.buffers[1].data = [0] * 400

    findings = found(by_hand.edited(by_hand.chain(["RELU"]), change))
    assert findings["file-size"].message.startswith("400 of the file's")
    assert findings["file-size"].where == ("metadata 'TFLITE_METADATA'",)


def test_numbers_that_need_no_runtime(converted):
    artifact = converted("int8")
    subject = Subject(artifact.content, deploy.model_info(artifact.content), "model")
    size, constants, work = common.judge(subject, device("litert")).estimates
    assert size.value == artifact.size_bytes
    # int8 weights, int32 biases, the reshape's two numbers.
    assert constants.value == 9 * 8 + 72 * 32 + 32 * 4 + 4 * (8 + 32 + 4) + 4 * 2
    assert work.value == 6 * 6 * 8 * 9 + 72 * 32 + 32 * 4


# -- float islands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def island(by_hand):
    """CONV_2D, DEQUANTIZE, NEG, QUANTIZE: what the quantizer makes of a LayerNormalization."""

    def change(model):
        graph = model.subgraphs[0]
        graph.tensors = [
            by_hand.tensor("image", (1, 4, 4, 2)),
            by_hand.tensor("conv/filter", (3, 1, 1, 2)),
            by_hand.tensor("conv/out", (1, 4, 4, 3)),
            by_hand.tensor("tfl.dequantize", (1, 4, 4, 3), "FLOAT32", None),
            by_hand.tensor("ln_1/Neg", (1, 4, 4, 3), "FLOAT32", None),
            by_hand.tensor("out", (1, 4, 4, 3)),
        ]
        model.operatorCodes, graph.operators = [], []
        by_hand.operator(model, "CONV_2D", [0, 1], [2])
        by_hand.operator(model, "DEQUANTIZE", [2], [3])
        by_hand.operator(model, "NEG", [3], [4])
        by_hand.operator(model, "QUANTIZE", [4], [5])
        graph.outputs = [5]

    return by_hand.edited(by_hand.chain(["RELU"]), change)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_island_is_found_named_and_priced(island, runtime):
    finding = found(island, runtime)["float-island"]
    assert finding.severity == WARNING
    assert finding.where == ("NEG #2 (ln_1/Neg)",)
    # Four ops write 48 numbers each; the two float tensors have 4 bytes for each of theirs.
    assert finding.message.startswith(
        "1 of 4 ops of this integer model compute in float, with 2 conversions around them: 25.0% "
        "of the elements that ops write, 0.0% of the multiply-accumulates, 384 bytes of float"
    )
    assert "BatchNormalization" in finding.cure


def test_the_sea_is_no_island(converted, by_hand):
    assert float_islands.float_ops(deploy.model_info(converted("float16").content)) == ()
    assert float_islands.float_ops(deploy.model_info(by_hand.chain(["RELU"]))) == ()


@pytest.mark.slow
def test_the_islands_of_real_normalization(images):
    import keras

    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.GroupNormalization(2, name="group")(keras.layers.LayerNormalization()(x))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    artifact = deploy.convert(
        model,
        calibration=images,
        input_range=(0, 1),
        allow_float=("LayerNormalization", "GroupNormalization"),
    )
    where = " ".join(found(artifact.content)["float-island"].where)
    assert "layer_normalization" in where
    assert "group" in where


# -- the published models --------------------------------------------------------------------------


@pytest.mark.data
def test_known_answers(data_folder):
    """person_detect and the audio preprocessor for TFLM alone; compiled models for their unit."""

    def errors(name, runtime):
        (path,) = data_folder.rglob(name)
        findings = found(path.read_bytes(), runtime).values()
        return {finding.rule for finding in findings if finding.severity == ERROR}

    assert errors("person_detect.tflite", "tflm") == set()
    assert errors("person_detect.tflite", "litert") == {"quantized-axis"}
    assert errors("audio_preprocessor_int8.tflite", "tflm") == set()
    assert errors("audio_preprocessor_int8.tflite", "litert") == {"custom-op"}
    for name in ("split_concat", "keras_lstm_mnist_ptq"):
        assert errors(f"{name}.tflite", "edgetpu") == set()
        assert errors(f"{name}_edgetpu.tflite", "edgetpu") == set()
        assert errors(f"{name}_edgetpu.tflite", "litert") == {"compiled-op"}
    for path in data_folder.rglob("mlcommons_tiny/*.tflite"):
        assert errors(path.name, "tflm") == set()
        assert errors(path.name, "litert") == set()
