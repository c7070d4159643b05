"""What TFLite Micro's rules say of a model on a board."""

import keras
import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy import arena, devices, micro_ops, micro_process
from keras_kd.deploy.check import boards_that_fit
from keras_kd.deploy.devices import microcontroller
from keras_kd.deploy.findings import Subject
from keras_kd.deploy.rules import tflm, tflm_cures

BOARD = devices.get("rp2040")


def judged(content, device=BOARD, **data):
    return tflm.judge(Subject(content, deploy.model_info(content), "model", **data), device)


def errors(verdict):
    return {finding.rule for finding in verdict.findings if finding.severity == "error"}


def estimated(verdict):
    return {estimate.name: estimate for estimate in verdict.estimates}


@pytest.fixture
def dense(ops_by_hand):
    """Eight int8 numbers of scale 0.5 to two sums of them, in int8."""
    return ops_by_hand.weighted("FULLY_CONNECTED", "int8", "int8", "int32")


@pytest.fixture
def nothing_runs(monkeypatch):
    """TFLM may not be run."""

    def refused(*_):
        raise AssertionError("TFLM was run")

    monkeypatch.setattr(micro_process, "trial", refused)
    monkeypatch.setattr(tflm, "Interpreter", refused)


# -- ops and types, from the flatbuffer alone -----------------------------------------------------


@pytest.mark.usefixtures("nothing_runs")
def test_every_missing_op_at_once(by_hand):
    content = by_hand.chain(["RELU", "GELU", "+FlexErf", "GELU", "+edgetpu-custom-op", "+Mine"])
    verdict = judged(content)
    found = {(finding.rule, finding.where): finding for finding in verdict.findings}
    assert set(found) == {
        ("op-missing", ("GELU #1 (t2)", "GELU #3 (t4)")),
        ("custom-op", ("FlexErf #2 (t3)",)),
        ("compiled-op", ("edgetpu-custom-op #4 (t5)",)),
        ("custom-op", ("Mine #5 (t6)",)),
    }
    gelu = found["op-missing", ("GELU #1 (t2)", "GELU #3 (t4)")]
    assert "no GELU" in gelu.message
    assert "ReLU6" in gelu.cure
    assert "hard_silu" in gelu.cure
    assert "Flex" in found["custom-op", ("FlexErf #2 (t3)",)].message
    targets = [placement.target for placement in verdict.placements]
    assert targets == ["tflm", "none", "none", "none", "none", "none"]
    assert "not run" in verdict.not_run[0]


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("data", "weight", "bias", "cure"),
    [
        ("float32", "int8", "float32", "dynamic-range model"),
        ("float16", "float16", "float16", 'quantization="int8" (or "float32")'),
        ("uint8", "uint8", "int32", "older scheme"),
        ("int16", "int16", "int64", "not for int16"),
    ],
)
def test_types_that_a_kernel_refuses(ops_by_hand, data, weight, bias, cure):
    content = ops_by_hand.weighted("CONV_2D", data, weight, bias)
    verdict = judged(content)
    (finding,) = (f for f in verdict.findings if f.severity == "error")
    assert finding.rule == "op-types"
    assert f"{data},{weight},{bias}>{data}" in finding.message
    assert cure in finding.cure
    assert finding.verified
    (placement,) = verdict.placements
    assert placement.target == "none"
    assert data in placement.reason


@pytest.mark.usefixtures("nothing_runs")
def test_a_shape_that_is_computed(ops_by_hand):
    shape = ops_by_hand.Slot("int32", (4,))
    data = ops_by_hand.Slot("int8")
    verdict = judged(ops_by_hand.one_op("TRANSPOSE", [data, shape], [data]))
    assert errors(verdict) == {"op-constant"}
    assert "batch of 1" in verdict.findings[0].cure


def test_ops_to_register(by_hand):
    estimate = estimated(judged(by_hand.chain(["TANH", "RELU", "TANH"])))["ops to register"]
    assert estimate.value == 2
    assert estimate.how == "for MicroMutableOpResolver<2>: RELU, TANH"


@pytest.mark.usefixtures("nothing_runs")
def test_a_custom_op_with_a_builtins_name(by_hand):
    verdict = judged(by_hand.chain(["+RELU", "RELU"]))
    assert errors(verdict) == {"custom-op"}
    assert [placement.target for placement in verdict.placements] == ["none", "tflm"]


@pytest.mark.usefixtures("nothing_runs")
def test_a_custom_name_stays_on_its_line(by_hand):
    verdict = judged(by_hand.chain(["+bad\x1b[2J\nname" + "x" * 200]))
    (finding,) = verdict.findings
    assert finding.message.isprintable()
    assert len(finding.message) < 200


def test_cures_are_for_ops_that_are_missing():
    """A cure for an op that TFLM has got meanwhile would never be shown."""
    cured = [
        name for name in deploy.inspect.builtin_op_names() if name not in micro_ops.BUILTIN_OPS
    ]
    default = tflm_cures.for_missing("NO_SUCH_OP")
    special = {name for name in cured if tflm_cures.for_missing(name) != default}
    assert {"GELU", "CONV_3D", "REDUCE_PROD", "SELECT", "TILE", "POW"} <= special
    for name in micro_ops.BUILTIN_OPS:
        assert tflm_cures.for_missing(name) == default


# -- memory ---------------------------------------------------------------------------------------


def test_flash_and_ram(dense):
    verdict = judged(dense)
    flash, ram = verdict.budgets
    measured = micro_process.trial(dense).arena_bytes
    assert flash.used_bytes == len(dense) + BOARD.flash_reserved_bytes.value
    assert ram.used_bytes == arena.arena_to_reserve(measured) + BOARD.ram_reserved_bytes.value
    assert (flash.available_bytes, ram.available_bytes) == (1 << 21, 264 << 10)
    assert estimated(verdict)["arena"].value == measured
    assert estimated(verdict)["arena to reserve"].value == arena.arena_to_reserve(measured)
    (note,) = verdict.findings
    assert (note.severity, note.rule) == ("note", "arena")
    assert f"kArenaBytes = {arena.arena_to_reserve(measured)};" in note.cure
    assert f"{measured:,}" in ram.how


def test_a_board_that_is_too_small(dense):
    board = microcontroller.cortex_m(flash_bytes=1000, ram_bytes=17_000)
    verdict = judged(dense, board)
    assert errors(verdict) == {"flash-too-small", "ram-too-small"}
    ram = next(f for f in verdict.findings if f.rule == "ram-too-small")
    assert "FULLY_CONNECTED #0" in ram.cure


def test_float_weights_are_said_to_take_four_times_as_much(ops_by_hand):
    content = ops_by_hand.weighted("FULLY_CONNECTED", "float32", "float32", "float32")
    board = microcontroller.cortex_m(flash_bytes=1000, ram_bytes=1 << 20)
    (finding,) = (f for f in judged(content, board).findings if f.severity == "error")
    assert 'quantization="int8"' in finding.cure


def test_a_board_without_a_bound(dense):
    board = devices.from_json('{"name": "mine", "title": "Mine", "runtime": "tflm"}')
    flash, ram = judged(dense, board).budgets
    assert flash.used_bytes == len(dense)
    assert (flash.margin_bytes, ram.margin_bytes) == (None, None)


def test_boards_that_fit_run_the_model_once(dense):
    before = micro_process.trial.cache_info().misses
    assert boards_that_fit(dense + b"\0" * 4) == microcontroller.DEVICES
    assert micro_process.trial.cache_info().misses - before == 1


# -- what TFLM does -------------------------------------------------------------------------------


def test_without_tflite_micro(dense, monkeypatch):
    monkeypatch.setattr(micro_process, "is_installed", lambda: False)
    verdict = judged(dense)
    assert errors(verdict) == set()
    (not_run,) = verdict.not_run
    assert 'pip install "keras-kd[mcu]"' in not_run
    # Eight numbers in, two out, a byte each.
    assert estimated(verdict)["arena, at least"].value == 10
    assert verdict.budgets[1].used_bytes == 10 + BOARD.ram_reserved_bytes.value
    assert verdict.budgets[1].how.startswith("at least")


@pytest.mark.parametrize(
    ("op", "rule", "said"),
    [("PAD", "tflm-refuses", "PAD"), ("MEAN", "tflm-crashes", "SIGSEGV")],
)
def test_what_only_tflm_sees(by_hand, op, rule, said):
    """Neither has its second input."""
    verdict = judged(by_hand.chain([op]))
    assert errors(verdict) == {rule}
    (finding,) = verdict.findings
    assert said in finding.message
    assert "at least" in verdict.budgets[1].how


def test_examples_and_labels(dense):
    rng = np.random.default_rng(0)
    # Even as stored: the sums are halved to the output's scale, and no half is to be rounded.
    x = rng.integers(-4, 5, (40, 8)).astype("float32")
    y = np.arange(40) % 4 == 0  # The two outputs are equal, so the first is always "larger".
    verdict = judged(dense, x=x, y=y.astype(int))
    found = estimated(verdict)
    assert found["outputs that differ"].value == 0
    assert (found["largest difference"].value, found["largest difference"].unit) == (0, "steps")
    assert found["same decision"].value == 1
    assert found["accuracy"].value == pytest.approx(0.75)
    # sqrt(.75 * .25 / 40)
    assert "40 examples, standard error 0.0685" in found["accuracy"].how
    assert "40 examples" in found["same decision"].how


@pytest.mark.parametrize("steps", [3, 33])
def test_differences_are_counted_in_steps(dense, monkeypatch, steps):
    class Shifted(deploy.Interpreter):
        """The reference kernels, some steps of the output's scale lower in one of eight."""

        def predict(self, x, progress=False):
            outputs = super().predict(x, progress)
            if self.runtime == "litert_reference":
                outputs[0, 0] -= steps * self.outputs[0].scale
            return outputs

    monkeypatch.setattr(tflm, "Interpreter", Shifted)
    verdict = judged(dense, x=np.zeros((4, 8), "float32"))
    found = estimated(verdict)
    assert found["outputs that differ"].value == 1 / 8
    assert found["largest difference"].value == steps
    assert found["same decision"].value == 3 / 4
    far = [f.message for f in verdict.findings if f.rule == "tflm-differs"]
    assert [message for message in far if "33 steps" in message] == far
    assert len(far) == (steps > tflm.DISTANT_STEPS)


@pytest.mark.slow
def test_a_float_loop_that_tflm_computes_wrongly():
    """Seen with the pinned version; where TFLM has mended it, its cure in the rule can go."""
    inputs = keras.Input((10, 4))
    model = keras.Model(inputs, keras.layers.LSTM(8, return_sequences=True)(inputs))
    content = deploy.convert(model, quantization="float32").content
    assert errors(judged(content)) == {"tflm-differs"}


def test_random_inputs_where_there_are_no_examples(dense):
    verdict = judged(dense)
    assert "5 random inputs (seed 0)" in estimated(verdict)["outputs that differ"].how
    assert "accuracy" not in estimated(verdict)
    assert verdict.not_run == ("No board was run: its latency and energy are not known.",)


def test_random_inputs_are_in_range_and_the_same_each_time():
    tensors = [
        deploy.TensorInfo("a", (1, 1000), "int8", 0.5, 3),
        deploy.TensorInfo("b", (1, 1000), "float32"),
        deploy.TensorInfo("c", (1, 1000), "int32"),
    ]
    drawn = tflm.random_inputs(tensors)
    assert {name: array.dtype.name for name, array in drawn.items()} == {
        "a": "int8",
        "b": "float32",
        "c": "int32",
    }
    assert (drawn["a"].min(), drawn["a"].max()) == (-128, 127)
    assert np.abs(drawn["b"]).max() <= 1
    assert set(np.unique(drawn["c"])) == {0, 1}  # They may be indices.
    again = tflm.random_inputs(tensors)
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)
    assert tflm.random_inputs(tensors[:1]).shape == (5, 1000)


def test_labels_of_another_task(dense):
    verdict = judged(dense, x=np.zeros((4, 8), "float32"), y=np.zeros((4, 5)))
    assert "accuracy" not in estimated(verdict)
    assert any("No accuracy" in text for text in verdict.not_run)


def test_examples_of_another_shape(dense):
    with pytest.raises(ValueError, match=r"Expected shape \(batch, 8\)"):
        judged(dense, x=np.zeros((4, 7), "float32"))


def test_tflm_stops_at_an_example(by_hand):
    """The reciprocal root of a negative number: TFLM's kernel refuses it when it meets one."""
    content = by_hand.chain(["RSQRT"])
    assert errors(judged(content)) == set()
    assert any("stopped at random inputs" in text for text in judged(content).not_run)
    verdict = judged(content, x=np.full((1, 4), -1.0, "float32"))
    assert errors(verdict) == {"tflm-refuses"}
    assert any("only defined for positive" in finding.message for finding in verdict.findings)


def test_a_model_that_the_reference_kernels_refuse(by_hand):
    """TFLM has ZEROS_LIKE for int8, LiteRT has not."""
    verdict = judged(by_hand.chain(["ZEROS_LIKE"]))
    assert errors(verdict) == set()
    assert "outputs that differ" not in estimated(verdict)
    assert any("reference kernels stopped" in text for text in verdict.not_run)


# -- real models ----------------------------------------------------------------------------------

BOARDS = tuple(device.name for device in microcontroller.DEVICES)
# Arena in bytes, and the boards with room, of MLPerf Tiny's reference models.
MLPERF_TINY = {
    "ad01_int8": (3_984, BOARDS),
    "kws_ref_model": (24_272, BOARDS),
    "pretrainedResnet_large_int8": (133_744, BOARDS),
    "pretrainedResnet_quant": (55_984, BOARDS),
    "str_ww_ref_model": (16_640, BOARDS),
    "vww_96_int8": (103_680, BOARDS),
}


@pytest.fixture
def models(data_folder):
    return data_folder / "models"


@pytest.mark.data
@pytest.mark.parametrize("name", MLPERF_TINY)
def test_mlperf_tiny(models, name):
    content = (models / "mlcommons_tiny" / f"{name}.tflite").read_bytes()
    expected, boards = MLPERF_TINY[name]
    verdict = judged(content)
    # The tolerance: another version of the wheel may lay out its arena otherwise.
    assert estimated(verdict)["arena"].value == pytest.approx(expected, rel=0.15)
    assert tuple(device.name for device in boards_that_fit(content)) == boards
    bound = arena.lower_bound(deploy.model_info(content)).arena_bytes
    assert bound <= estimated(verdict)["arena"].value


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "boards"),
    [
        ("mlcommons_tiny/vww_96_float", ("stm32h747",)),
        ("mlcommons_tiny/pretrainedResnet", ("esp32s3", "stm32f746", "stm32h747", "rp2040")),
        ("mlcommons_tiny/pretrainedResnet_large_float", ()),
        ("tflite_micro/person_detect", BOARDS),
        ("tflite_micro/audio_preprocessor_int8", BOARDS),
        ("mlcommons_tiny/kws_ref_model_float32", ()),
        ("coral/mobilenet_v1_0.25_128_quant", ()),
    ],
)
def test_boards_of_other_models(models, name, boards):
    found = boards_that_fit(models / f"{name}.tflite")
    assert tuple(device.name for device in found) == boards


@pytest.mark.data
def test_only_tflm_runs_person_detect_and_the_audio_preprocessor(models):
    for name in ("person_detect", "audio_preprocessor_int8"):
        verdict = judged((models / "tflite_micro" / f"{name}.tflite").read_bytes())
        assert errors(verdict) == set()
        assert any("reference kernels were not compared" in text for text in verdict.not_run)


@pytest.mark.data
def test_dynamic_range_under_the_name_of_float(models):
    content = (models / "mlcommons_tiny" / "kws_ref_model_float32.tflite").read_bytes()
    verdict = judged(content)
    assert errors(verdict) == {"op-types"}
    assert all("dynamic-range" in f.cure for f in verdict.findings if f.rule == "op-types")
    assert "Hybrid models are not supported" in micro_process.trial(content).said


@pytest.mark.data
@pytest.mark.slow
def test_the_tables_and_the_runtime_agree_on_every_model(models):
    """And every model has a verdict on every board."""
    differing, seen = [], 0
    for path in sorted(models.rglob("*.tflite")):
        content = path.read_bytes()
        refused = errors(judged(content)) & {
            "op-missing",
            "custom-op",
            "compiled-op",
            "op-types",
            "op-constant",
            "op-limit",
        }
        if bool(refused) == (micro_process.trial(content).arena_bytes is not None):
            differing.append(path.name)
        for device in microcontroller.DEVICES:
            check = deploy.check(path, device)
            assert [budget.name for budget in check.budgets] == ["flash", "RAM"]
            assert len(check.placements) == len(check.info.ops)
        seen += 1
    assert differing == []
    assert seen >= 25
