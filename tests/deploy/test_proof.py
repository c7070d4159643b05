"""A proof: its numbers against those measured apart, and a page that says what was not run."""

import dataclasses
import html.parser
import importlib
import json
import math
import re
import types

import keras
import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy import inspect
from keras_kd.deploy.check import Check
from keras_kd.deploy.devices import Device, Fact
from keras_kd.deploy.findings import Budget, Estimate, Finding, Verdict
from keras_kd.deploy.interpreter import Interpreter
from keras_kd.deploy.layer_error import LayerError, layer_errors
from keras_kd.deploy.litert_benchmark import LiteRTBenchmark
from keras_kd.deploy.measure import Measurement
from keras_kd.deploy.proof import evidence, on_device
from keras_kd.deploy.proof.evidence import CONVERTED, FLOAT, TEACHER, Difference, Proof, Row
from keras_kd.deploy.proof.on_device import DeviceForm, device_time
from keras_kd.deploy.proof.page import report_of
from keras_kd.deploy.proof.pictures import MOST_BARS, layer_plots, pictures
from keras_kd.report import BarPlot

QUICK = {"latency_runs": 3, "warmup_runs": 1, "progress": False}
KILOBYTE = Fact(1000, "by hand")
LARGE = Device(
    "board", "A board", "tflm", flash_bytes=Fact(1 << 20, "by hand"), ram_bytes=Fact(1 << 18, "-")
)


def layer_error(name, own, *, device=30.0, op="CONV_2D", layers=None):
    """An error of an op of its own."""
    made = types.SimpleNamespace(name=op, index=0)
    return LayerError(
        made, f"{name};tensor", (name,) if layers is None else layers, device, own, 0.0
    )


def form(role, quantization, **known):
    return DeviceForm(role, quantization, **{"size_bytes": 1, "macs": 2, "arena_bytes": 3} | known)


@pytest.fixture
def quick(monkeypatch):
    """Converts nothing to float32; remembers over how many examples the layers' errors are."""
    seen = []

    def errors(student, artifact, x, reference):
        seen.append(len(x))
        return tuple(layer_error(layer.name, 40.0 - i) for i, layer in enumerate(student.layers))

    monkeypatch.setattr(evidence, "layer_errors", errors)
    monkeypatch.setattr(evidence, "float_form", lambda role, _: (form(role, "float32"), None))
    return seen


@pytest.fixture(scope="module")
def teacher(images, labels):
    """A larger model, not trained: the proof says so by its accuracy."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(4)(x))


def test_numbers_are_those_measured_apart(student, teacher, converted, images, labels, monkeypatch):
    artifact = converted("int8")
    # A conversion of the student to float32 that is there already.
    teacher_file = deploy.convert(teacher, quantization="float32")
    files = {id(teacher): teacher_file, id(student): converted("float32")}
    monkeypatch.setattr(on_device, "convert", lambda model, quantization: files[id(model)])
    report = deploy.prove(
        artifact, images, labels, student=student, teacher=teacher, devices=[LARGE], **QUICK
    )
    found = json.loads(report.to_json())["data"]
    assert [(row["role"], row["runtime"]) for row in found["rows"]] == [
        (TEACHER, "keras"),
        (FLOAT, "keras"),
        (CONVERTED, "litert"),
        (CONVERTED, "tflm"),
    ]
    named = [np.asarray(model(images)).argmax(-1) for model in (teacher, student)]
    named += [deploy.predict(artifact, images, on).argmax(-1) for on in ("litert", "tflm")]
    right = [one == labels for one in named]
    for row, answers, correct in zip(found["rows"], named, right, strict=True):
        assert row["value"] == pytest.approx(correct.mean(), abs=1e-12)
        assert row["agreement"] == pytest.approx((answers == named[1]).mean(), abs=1e-12)
        assert row["examples"] == 200
    assert found["rows"][-1]["arena_bytes"] > 0
    pairs = [(1, 0), (2, 1), (3, 1)]
    for gain, (one, other) in zip(found["differences"], pairs, strict=True):
        by_example = right[one].astype(float) - right[other].astype(float)
        assert gain["mean"] == pytest.approx(by_example.mean(), abs=1e-12)
        error = by_example.std() / math.sqrt(200)
        assert gain["standard_error"] == pytest.approx(error, abs=1e-12)
    assert [one["device"]["name"] for one in found["devices"]] == ["board"]
    forms = [(TEACHER, teacher_file), (FLOAT, converted("float32")), (CONVERTED, artifact)]
    # Dense layers of 64 x 64 and 64 x 4; 36 places of a 3 x 3 convolution to 8 channels, and dense
    # layers of 72 x 32 and 32 x 4.
    macs = [4096 + 256, *[36 * 9 * 8 + 72 * 32 + 32 * 4] * 2]
    for known, (role, file), count in zip(found["device_forms"], forms, macs, strict=True):
        arena = Interpreter(file, "tflm").arena_bytes
        assert known == dataclasses.asdict(
            DeviceForm(role, file.quantization, file.size_bytes, count, arena)
        )
    assert found["device_forms"][2]["arena_bytes"] == found["rows"][-1]["arena_bytes"]
    apart = layer_errors(student, artifact, images[:32], reference=converted("float32"))
    measured_here = [one["own_sqnr_db"] for one in report.data["layers"]]
    assert measured_here == [one.own_sqnr_db for one in apart]
    assert found["layer_examples"] == 32
    # In the model's order, which is not the alphabet's.
    first = next(one for one in found["layers"] if one["op"] == "CONV_2D")
    assert first["layers"] == ["conv", "norm", "relu"]
    assert found["litert_benchmark"]["runs"] == 3
    assert found["not_run"] == []


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def test_page_has_pictures_first_and_tables_behind(student, converted, images, labels, quick):
    report = deploy.prove(
        converted("int8"), images, labels, student=student, devices=[LARGE], **QUICK
    )
    assert all(isinstance(block, BarPlot) for block in report.sections[0].blocks)
    assert isinstance(report.sections[1].blocks[0], BarPlot)
    page = report.to_html()
    tags = Tags(page).tags
    assert tags.index("svg") < tags.index("table")
    assert "A board, " in page
    for said in ("TFLite Micro", "none was connected", "200, the same for every row", "this host"):
        assert said in page


def test_without_labels_there_is_agreement_and_no_accuracy(student, converted, images, quick):
    report = deploy.prove(converted("int8"), images, student=student, **QUICK)
    assert report.data["differences"] == []
    titles = [plot.title for plot in report.sections[0].blocks]
    assert titles == ["Size", "Latency of one example on this host"]
    assert re.search(r"the float student's class in \d+\.\d % of them", report.summary)
    assert "±" not in report.text().split("Models")[0]


def test_a_metric_of_one_number_has_no_spread(student, converted, images, labels, quick):
    metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")
    report = deploy.prove(
        *(converted("int8"), images, labels), student=student, metric=metric, **QUICK
    )
    assert report.data["differences"] == []
    assert "a top_2 of 1 on TFLite Micro" in report.summary or "top_2 of 0." in report.summary


def test_a_runtime_that_refuses_is_reported_as_not_run(student, converted, images, labels, quick):
    half = converted("float16")
    report = deploy.prove(half, images, labels, student=student, **QUICK)
    assert [row["runtime"] for row in report.data["rows"]] == ["keras", "litert"]
    (reason,) = report.data["not_run"]
    assert reason.startswith("tflm: ")
    assert reason.removeprefix("tflm: ") in report.text()
    with pytest.raises(ValueError, match=r"Expected a runtime that takes the model.*tflm: "):
        deploy.prove(half, images, labels, student=student, runtimes=("tflm",), **QUICK)


def test_what_cannot_be_compared_is_not_run(student, converted, images, labels, quick, monkeypatch):
    def refuse(*args, **options):
        raise ValueError("no layer\nin common")

    def missing(*args, **options):
        raise FileNotFoundError("no tool")

    monkeypatch.setattr(evidence, "layer_errors", refuse)
    monkeypatch.setattr(evidence, "litert_benchmark", missing)
    report = deploy.prove(converted("int8"), images, labels, student=student, **QUICK)
    assert report.data["not_run"] == [
        "error of each layer: no layer in common",
        "litert-benchmark: no tool",
    ]
    assert report.data["layers"] == []
    assert report.data["litert_benchmark"] is None
    assert "no layer in common" in report.text()
    report.to_html()


def test_bad_arguments_are_named(student, converted, images, labels, quick):
    artifact = converted("int8")
    with pytest.raises(TypeError, match=r"Expected student to be the Keras model.*bytes"):
        deploy.prove(artifact, images, labels, student=artifact.content, **QUICK)
    with pytest.raises(ValueError, match="Expected a device"):
        deploy.prove(artifact, images, labels, student=student, devices=["nano"], **QUICK)
    with pytest.raises(ValueError, match=r"Expected runtimes .*jax"):
        deploy.prove(artifact, images, labels, student=student, runtimes=("jax",), **QUICK)
    with pytest.raises(ValueError, match="as many examples"):
        deploy.prove(artifact, images, labels[:-1], student=student, **QUICK)


# -- the report of numbers made up by hand ---------------------------------------------------------


def measured(runtime, value, *, quantization="int8", arena=None):
    return Measurement(
        runtime, quantization, 400, "accuracy", value, 0.01, 0.98, 5000, arena, 2.0, 3.0, 50, 5
    )


def check_by_hand(device, budgets, findings=(), estimates=()):
    info = inspect.ModelInfo.__new__(inspect.ModelInfo)
    return Check("m", info, device, Verdict(findings, (), budgets, estimates, ("no board here",)))


@pytest.fixture
def proof():
    small = Device("small", "A small board", "tflm", ram_bytes=KILOBYTE)
    fits = check_by_hand(
        LARGE,
        (Budget("flash", 500_000, 1_000_000, "counted"), Budget("RAM", None, 1000, "not known")),
        estimates=(Estimate("inference time", 0.002, "s", "a model"), Estimate("MACs", 3, "", "-")),
    )
    not_fits = check_by_hand(
        small,
        (Budget("RAM", 9_000, 1_000, "measured"), Budget("cache", 5, None, "counted")),
        (Finding("error", "ram-too-small", "Too small.", "Take less."),),
    )
    forms = (
        form(TEACHER, "float32", arena_bytes=None, not_known="TFLite Micro did not run it: no op"),
        form(FLOAT, "float32", size_bytes=20_000),
        form(CONVERTED, "int8", size_bytes=5_000),
    )
    return Proof(
        label="m.tflite",
        rows=(
            Row(TEACHER, measured("keras", 0.99, quantization="float32")),
            Row(FLOAT, measured("keras", 0.95, quantization="float32")),
            Row(CONVERTED, measured("tflm", 0.90, arena=3000)),
        ),
        differences=(
            Difference((FLOAT, "keras"), (TEACHER, "keras"), -0.04, 0.01),
            Difference((CONVERTED, "tflm"), (FLOAT, "keras"), -0.05, 0.01),
        ),
        checks=(fits, not_fits),
        layers=(
            dataclasses.replace(layer_error("a", math.inf), op=None),
            layer_error("b", 12.5, layers=("b", "b_relu")),
            layer_error("b", 20.0, op="SOFTMAX"),
            layer_error("c", None, device=-math.inf),
        ),
        layer_examples=64,
        forms=forms,
        times=tuple(
            device_time(check, one, is_checked=one.role == CONVERTED)
            for check in (fits, not_fits)
            for one in forms
        ),
        benchmark=LiteRTBenchmark(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 50, 5, 1, ("CPU",)),
        not_run=(),
    )


@pytest.fixture
def without_sections(monkeypatch):
    """The devices' own sections need a model; here there is none."""
    tables = importlib.import_module("keras_kd.deploy.check_report")
    monkeypatch.setattr(tables, "report", lambda check, **_: types.SimpleNamespace(sections=()))
    monkeypatch.setattr(tables, "data", lambda check: {})


def test_summary_is_the_answer(proof, without_sections):
    assert report_of(proof).summary == (
        "The int8 student of 5,000 bytes has an accuracy of 90.0 ± 1.0 % on TFLite Micro, over "
        "400 examples. Converting to int8 changed that by -5.00 ± 1.00 percentage points "
        "(paired). It fits A board. It does not fit A small board. The layer that conversion "
        "hurts most is b + b_relu, 12.5 dB."
    )


def test_a_difference_within_the_noise_is_called_so(proof, without_sections):
    gain = dataclasses.replace(proof.differences[1], mean=-0.02)
    one = dataclasses.replace(proof, differences=(gain,), checks=(), layers=())
    assert report_of(one).summary.endswith(
        "changed that by -2.00 ± 1.00 percentage points (paired), which is within two standard "
        "errors of nothing."
    )


def test_pictures_show_every_number_once(proof):
    accuracy, size, memory, latency, time = pictures(proof)
    assert [bar.value for bar in accuracy.bars] == pytest.approx([99.0, 95.0, 90.0])
    assert [bar.error for bar in accuracy.bars] == pytest.approx([1.0] * 3)
    assert [bar.value for bar in size.bars] == [5.0] * 3
    bars = {bar.name: bar for bar in memory.bars}
    assert set(bars) == {"board: flash", "board: RAM", "small: RAM"}
    assert (bars["board: flash"].value, bars["board: flash"].color) == (50.0, 0)
    assert bars["board: flash"].label == "500 kB of 1,000 kB"
    assert (bars["board: RAM"].value, bars["board: RAM"].label) == (None, "not known, of 1 kB")
    assert (bars["small: RAM"].value, bars["small: RAM"].color) == (900.0, 1)
    assert memory.limit == 100.0
    assert [bar.value for bar in latency.bars] == [2.0, 2.0, 2.0, 7.0]
    assert latency.bars[-1].name == "int8, litert-benchmark"
    (only,) = time.bars
    assert (only.name, only.value, only.hollow) == ("board", 2.0, True)
    assert "Not measured on a device" in time.note


def test_what_each_model_would_take_stands_in_tables_with_the_reason(proof, without_sections):
    text = report_of(proof).text()
    assert "teacher: TFLite Micro did not run it: no op." in text
    lines = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if line[0] == "Device")
    needs = "not known: needs the board"
    assert lines[start + 2 : start + 4] == [
        ["A board", needs, needs, "2.000"],
        ["A small board", needs, needs, needs],
    ]


def test_a_latency_below_the_tools_steps_is_no_picture(proof):
    rounded = dataclasses.replace(proof.benchmark, median_ms=0.01)
    _, _, _, latency, _ = pictures(dataclasses.replace(proof, benchmark=rounded))
    assert [bar.value for bar in latency.bars] == [2.0, 2.0, 2.0]


def test_the_worst_layer_stands_out_and_an_exact_one_is_no_number(proof):
    own, device = layer_plots(proof)
    assert [bar.name for bar in own.bars] == ["a", "b +1", "b, softmax", "c"]
    assert [bar.name for bar in device.bars] == [bar.name for bar in own.bars]
    exact, worst, other, unknown = own.bars
    assert (exact.value, exact.label) == (None, "exact")
    assert (worst.color, worst.label) == (1, "12.5")
    assert other.color == 0
    assert (unknown.value, unknown.label) == (None, "not run alone")
    assert [bar.label for bar in device.bars] == [*["30.0"] * 3, "no signal"]
    assert "64 examples" in own.note


def test_of_very_many_layers_the_worst_are_drawn_in_their_order(proof):
    rng = np.random.default_rng(0)
    errors = rng.permutation(3 * MOST_BARS).astype(float)
    layers = tuple(layer_error(str(i), error) for i, error in enumerate(errors))
    plot, _ = layer_plots(dataclasses.replace(proof, layers=layers))
    assert [bar.name for bar in plot.bars] == [
        str(i) for i, error in enumerate(errors) if error < MOST_BARS
    ]
    assert f"The {MOST_BARS} worst of {3 * MOST_BARS}" in plot.note


def test_where_all_layers_are_exact_none_is_the_worst(proof, without_sections):
    exact = dataclasses.replace(proof, layers=(layer_error("a", math.inf),))
    assert exact.worst_layer is None
    assert "hurts most" not in report_of(exact).summary
    report_of(exact).to_json()


def test_pictures_without_numbers_are_left_out(proof):
    bare = dataclasses.replace(proof.result.measured, value=None, latency_ms_median=None)
    nothing = dataclasses.replace(
        proof, rows=(Row(CONVERTED, bare),), checks=(), layers=(), benchmark=None
    )
    assert [plot.title for plot in pictures(nothing)] == ["Size"]


def test_json_has_no_infinity(proof, without_sections):
    layers = json.loads(report_of(proof).to_json())["data"]["layers"]
    assert [layer["own_sqnr_db"] for layer in layers] == [None, 12.5, 20.0, None]
