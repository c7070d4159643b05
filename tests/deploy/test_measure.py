"""What `measure` says, against the same numbers computed by hand from the interpreter's outputs."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from keras_kd.deploy import convert, measure, predict
from keras_kd.deploy.measure import Measurement, observe

RUNS = {"latency_runs": 5, "warmup_runs": 1, "progress": False}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.0, 1.0, (60, 6)).astype("float32")
    return x, (x[:, :3].argmax(-1)).astype("int64")


@pytest.fixture(scope="module")
def student():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


@pytest.fixture(scope="module")
def artifact(student, data):
    return convert(student, calibration=data[0], input_range=(0.0, 1.0))


def test_rows_are_what_the_interpreter_gives(student, artifact, data):
    x, y = data
    runtimes = ("litert", "litert_reference", "tflm")
    rows = measure(artifact, x, y, reference=student, runtimes=runtimes, **RUNS)
    assert [row.runtime for row in rows] == ["keras", *runtimes]
    assert [row.quantization for row in rows] == ["float32", "int8", "int8", "int8"]
    expected = student.predict(x, verbose=0).argmax(-1)
    for row in rows:
        on = row.runtime
        named = expected if on == "keras" else predict(artifact, x, on).argmax(-1)
        share = float((named == y).mean())
        assert row.metric == "accuracy"
        # Both are counts over 60, rounded once.
        assert row.value == pytest.approx(share, abs=1e-12)
        assert row.standard_error == pytest.approx(math.sqrt(share * (1 - share) / 60), abs=1e-12)
        assert row.agreement == pytest.approx(float((named == expected).mean()), abs=1e-12)
        assert (row.examples, row.latency_runs, row.warmup_runs) == (60, 5, 1)
        assert 0 < row.latency_ms_median <= row.latency_ms_p95
    assert rows[0].agreement == 1.0
    assert [row.size_bytes for row in rows] == [4 * student.count_params()] + 3 * [
        artifact.size_bytes
    ]
    assert [row.arena_bytes is None for row in rows] == [True, True, True, False]
    assert rows[-1].arena_bytes > 0


def test_without_labels_reference_or_latency(artifact, data):
    (row,) = measure(artifact, data[0], latency_runs=0, progress=False)
    assert row.runtime == "litert"
    assert (row.metric, row.value, row.standard_error, row.agreement) == (None,) * 4
    assert (row.latency_ms_median, row.latency_ms_p95, row.latency_runs) == (None, None, 0)


def test_a_path_and_bytes_are_models_too(artifact, data, tmp_path):
    path = artifact.save(tmp_path / "m.tflite").path
    fixed = {"latency_runs": 0, "progress": False}
    rows = {measure(model, *data, **fixed)[0] for model in (artifact, path, artifact.content)}
    assert len(rows) == 1


def test_progress_is_shown_and_can_be_left_out(artifact, data, capfd):
    measure(artifact, data[0], **RUNS)
    assert capfd.readouterr().out == ""
    measure(artifact, data[0], **RUNS | {"progress": True})
    out = capfd.readouterr().out
    assert "litert (int8), 60 examples" in out
    assert "60/60" in out


def mean_margin(y, outputs):
    return outputs[np.arange(len(y)), y]


@pytest.mark.parametrize(
    ("metric", "name", "has_error"),
    [
        (keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2"), "top_2", False),
        (lambda y, outputs: float(outputs.max()), "<lambda>", False),
        (mean_margin, "mean_margin", True),
    ],
)
def test_other_metrics(artifact, data, metric, name, has_error):
    x, y = data
    (row,) = measure(artifact, x, y, metric=metric, **RUNS)
    outputs = predict(artifact, x)
    assert row.metric == name
    assert (row.standard_error is not None) == has_error
    if name == "top_2":
        rank = (outputs >= np.take_along_axis(outputs, y[:, None], 1)).sum(1)
        ties = len(y) - len({float(v) for v in rank})  # int8 outputs can tie.
        assert row.value == pytest.approx(float((rank <= 2).mean()), abs=ties / len(y))
    elif has_error:
        values = mean_margin(y, outputs)
        # float32 values, summed in float64 by one and float32 by the other: 60 * 2^-24 relative.
        assert row.value == pytest.approx(float(values.mean()), rel=1e-5)
        assert row.standard_error == pytest.approx(float(values.std() / 60**0.5), rel=1e-5)
    else:
        assert row.value == float(outputs.max())


def test_a_keras_metric_starts_anew_for_each_runtime(student, artifact, data):
    x, y = data
    metric = keras.metrics.SparseCategoricalAccuracy()
    metric.update_state([0, 0, 0], np.eye(3)[[1, 1, 1]])
    rows = measure(artifact, x, y, reference=student, metric=metric, **RUNS)
    by_accuracy = measure(artifact, x, y, reference=student, **RUNS)
    # Keras counts in float32.
    assert [r.value for r in rows] == pytest.approx([r.value for r in by_accuracy], abs=1e-6)


def test_several_inputs_and_outputs(data):
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    both = keras.layers.Concatenate()([left, right])
    outputs = {
        "digit": keras.layers.Dense(3, name="digit")(both),
        "size": keras.layers.Dense(1, name="size")(both),
    }
    model = keras.Model({"left": left, "right": right}, outputs)
    x = {"left": data[0], "right": data[0][::-1]}
    lite = convert(model, quantization="float32")
    rows = measure(
        lite, x, data[1], reference=model, metric=lambda y, o: float(o["size"].mean()), **RUNS
    )
    # The one output with classes; a float model agrees but for ties that rounding breaks.
    assert rows[1].agreement == 1.0
    assert rows[1].value == pytest.approx(rows[0].value, rel=1e-4)
    with pytest.raises(ValueError, match=r"Expected one output .*Received: several outputs.*Hint"):
        measure(lite, x, data[1], **RUNS)


def test_measurement_is_frozen(artifact, data):
    (row,) = measure(artifact, data[0], **RUNS)
    assert isinstance(row, Measurement)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.value = 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtimes": ("litert", "jax")}, "Expected runtimes .*jax"),
        ({"runtimes": "litert"}, "Expected runtimes to be a sequence"),
        ({"runtimes": ()}, "Expected runtimes"),
        ({"latency_runs": -1}, "latency_runs and warmup_runs"),
        ({"y": np.zeros(59, int)}, "as many examples"),
        ({"y": np.full(60, 3)}, "Expected class numbers from 0 to 2. Received: 3 to 3"),
        ({"y": np.zeros((60, 2), int)}, "Expected labels of shape"),
        ({"x": np.zeros((0, 6), "float32"), "y": None}, "at least one example"),
    ],
)
def test_bad_arguments_are_named(artifact, data, arguments, message):
    given = {"x": data[0], "y": data[1], **RUNS} | arguments
    with pytest.raises(ValueError, match=message):
        measure(artifact, **given)


def test_bad_metrics_are_named(artifact, data):
    with pytest.raises(TypeError, match=r"Expected metric .*Received: int"):
        measure(artifact, *data, metric=3, **RUNS)
    with pytest.raises(ValueError, match="a number or one for each of 60 examples"):
        measure(artifact, *data, metric=lambda y, outputs: outputs[:5], **RUNS)


def test_a_reference_with_other_outputs_is_an_error(artifact, data):
    other = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="Expected outputs shaped like the reference's"):
        measure(artifact, data[0], reference=other, **RUNS)


def test_observations_are_what_the_measurements_sum_up(student, artifact, data):
    x, y = data
    runtimes = ("litert", "tflm")
    seen = observe(artifact, x, y, reference=student, runtimes=runtimes, **RUNS)
    for one, runtime in zip(seen[1:], runtimes, strict=True):
        np.testing.assert_array_equal(one.outputs, predict(artifact, x, runtime))
        np.testing.assert_array_equal(one.scores, one.outputs.argmax(-1) == y)
        assert one.measurement.runtime == runtime
    assert seen[0].measurement.runtime == "keras"
    assert all(one.scores.mean() == one.measurement.value for one in seen)
    (unlabeled,) = observe(artifact, x, **RUNS)
    assert unlabeled.scores is None
