"""Ranges from batches, against what NumPy says of the same values."""

import keras
import numpy as np
import pytest

from keras_kd.quantization import (
    FakeQuantize,
    Fixed,
    LearnedStep,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    Percentile,
)

OBSERVERS = [
    MovingAverage(momentum=0.9),
    Percentile(99.0, momentum=0.8),
    MeanSquaredError(candidates=10),
    MinMax(),
    LearnedStep(batches=3),
    Fixed(-1.0, 2.0),
]


def named(observer):
    return type(observer).__name__


def ranges(observer, batches):
    """Return the range after each batch of a training."""
    layer, found = FakeQuantize(observer), []
    for batch in batches:
        layer(batch, training=True)
        found.append(np.asarray(layer.range))
    return found


@pytest.fixture
def batches(rng):
    return [(rng.normal(size=(16, 5)) * (i + 1)).astype("float32") for i in range(6)]


def test_a_moving_average_counts_the_first_batches_alike(batches):
    ends = np.array([[b.min(), b.max()] for b in batches], "float64")
    expected = [ends[0]]
    for count, new in enumerate(ends[1:], start=1):
        rate = max(1 - 0.7, 1 / (count + 1))
        expected.append(expected[-1] + rate * (new - expected[-1]))
    np.testing.assert_allclose(ranges(MovingAverage(momentum=0.7), batches), expected, rtol=1e-5)
    np.testing.assert_allclose(expected[1], ends[:2].mean(axis=0))


def test_behind_a_relu_the_smallest_value_is_not_looked_for(rng):
    values = [rng.uniform(0.1, 1.0, size=(16, 5)).astype("float32") for _ in range(3)]
    plain, layer = FakeQuantize(MovingAverage()), FakeQuantize(MovingAverage(), nonnegative=True)
    for batch in values:
        np.testing.assert_array_equal(layer(batch, training=True), plain(batch, training=True))
    assert np.asarray(plain.range)[0] > 0
    # 0 is a value of any grid, so it is the range's end all the same.
    assert np.asarray(layer.range)[0] == 0
    np.testing.assert_array_equal(layer.ends(), plain.ends())
    assert FakeQuantize.from_config(layer.get_config()).nonnegative


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.0), (0.0, 3.0), (0.5, 0.7), (0.0, 0.0)])
def test_training_and_inference_have_one_grid(low, high, rng):
    layer = FakeQuantize(MinMax())
    layer(np.array([low, high], "float32"), training=True)
    layer.observing = False
    x = rng.uniform(low - 0.1, high + 0.1, size=1000).astype("float32")
    trained, inferred = (np.asarray(layer(x, training=value)) for value in (True, False))
    np.testing.assert_allclose(trained, inferred, rtol=1e-6)


def test_min_max_keeps_the_widest(batches):
    found = ranges(MinMax(), batches[::-1])
    np.testing.assert_allclose(found[0], [batches[-1].min(), batches[-1].max()])
    everything = np.concatenate(batches)
    np.testing.assert_allclose(found[-1], [everything.min(), everything.max()])


def test_a_percentile_leaves_outliers_out(rng):
    batch = rng.uniform(-1, 1, size=(1000,)).astype("float32")
    batch[:3] = [50.0, -70.0, 90.0]
    low, high = ranges(Percentile(98.0), [batch])[0]
    ordered = np.sort(batch)
    # 1 % at each end: 10 of 1,000 values.
    assert (low, high) == (ordered[10], ordered[-11])


def test_percentile_100_is_all(batches):
    low, high = ranges(Percentile(100.0), batches[:1])[0]
    assert (low, high) == (batches[0].min(), batches[0].max())


def test_the_least_squared_error_clips_a_lonely_outlier(rng):
    batch = rng.normal(size=(4000,)).astype("float32")
    batch[0] = 100.0
    _, high = ranges(MeanSquaredError(candidates=20), [batch])[0]
    # Keeping the outlier costs (100 / 255)^2 / 12 = .013 a value; a tenth of the range clips it,
    # at 90^2 / 4000 = 2 a value: so it is kept.
    assert high == pytest.approx(100.0)
    batch[0] = 8.0
    with_four_bits = MeanSquaredError(candidates=20).of_batch(keras.ops.convert_to_tensor(batch), 4)
    errors = {}
    for factor in np.arange(20, 0, -1) / 20:
        ends = batch.min() * factor, batch.max() * factor
        step = (ends[1] - ends[0]) / 15
        lowest, highest = (np.round(end / step) for end in ends)
        rounded = np.clip(np.round(batch / step), lowest, highest) * step
        errors[factor] = np.mean((rounded - batch) ** 2)
    best = min(errors, key=errors.get)
    assert best < 0.9
    assert float(with_four_bits[1]) == pytest.approx(batch.max() * best, rel=1e-5)


def test_large_batches_are_sampled(rng):
    batch = rng.uniform(-1, 1, size=(100_000,)).astype("float32")
    low, high = ranges(Percentile(90.0), [batch])[0]
    # A sample of 4,096: the ends are off by some .05 * (1 - .05) / 4096 ** .5 * 2 = .007.
    assert (low, high) == pytest.approx((-0.9, 0.9), abs=0.03)


def test_a_learned_range_begins_with_the_first_batches_and_is_trained(batches):
    layer = FakeQuantize(LearnedStep(batches=3))
    found = []
    for batch in batches:
        layer(batch, training=True)
        found.append(np.asarray(layer.range))
    ends = np.array([[b.min(), b.max()] for b in batches[:3]])
    np.testing.assert_allclose(found[2:], [ends.mean(axis=0)] * 4, rtol=1e-5)
    assert [v.name for v in layer.trainable_variables] == ["log_step"]
    np.testing.assert_allclose(np.exp(layer.log_step), np.ptp(ends.mean(axis=0)) / 255, rtol=1e-5)
    before = [float(end) for end in layer.ends()]
    layer.log_step.assign(layer.log_step - np.log(2.0))
    halved = [float(end) for end in layer.ends()]
    np.testing.assert_allclose(halved, np.array(before) / 2, rtol=1e-5)


def test_a_fixed_range_stays(batches):
    assert [tuple(r) for r in ranges(Fixed(-1.0, 2.0), batches)] == [(-1.0, 2.0)] * 6


def test_inference_and_a_frozen_layer_see_nothing(batches):
    layer = FakeQuantize(MovingAverage())
    layer(batches[0], training=True)
    before = np.asarray(layer.range)
    layer(batches[5], training=False)
    layer(batches[5], training=True, observe=False)
    layer.observing = False
    layer(batches[5], training=True)
    np.testing.assert_array_equal(layer.range, before)


def test_before_anything_was_seen_the_outputs_are_not_numbers(batches):
    assert np.all(np.isnan(FakeQuantize(MovingAverage())(batches[0], training=False)))


def test_several_tensors_share_the_widest_range(batches):
    layer = FakeQuantize(MinMax())
    outputs = layer([batches[0], batches[5]], training=True)
    assert len(outputs) == 2
    both = np.concatenate([batches[0], batches[5]])
    np.testing.assert_allclose(layer.range, [both.min(), both.max()])


def test_a_range_has_0_in_it():
    layer = FakeQuantize(MovingAverage())
    layer(np.array([[3.0, 5.0]], "float32"), training=True)
    assert tuple(float(end) for end in layer.ends()) == pytest.approx((0.0, 5.0))


def test_a_range_is_moved_until_0_is_a_value_of_the_grid():
    layer = FakeQuantize(Fixed(-1.0, 1.0))
    layer.build((None, 3))
    low, high = (float(end) for end in layer.ends())
    step = 2 / 255
    # To either side; the ends are sums of some 255 steps in float32.
    assert round(low / step) in (-128, -127)
    assert low / step == pytest.approx(round(low / step), abs=1e-4)
    assert (high - low) / step == pytest.approx(255, abs=1e-4)


@pytest.mark.parametrize(("low", "high"), [(-3.0, 1.0), (-1.0, 3.0), (0.0, 5.0), (-2.0, 0.0)])
def test_a_grid_of_16_bits_has_0_in_its_middle(low, high, rng):
    layer = FakeQuantize(Fixed(low, high), bits=16)
    x = rng.uniform(low, high, size=(50, 4)).astype("float32")
    x[0] = [low, high, 0.0, 0.0]
    found = np.asarray(layer(x))
    # The longer side fills its half: 32,768 steps below 0, or 32,767 above.
    step = max(-low / 2**15, high / (2**15 - 1))
    ends = np.array([float(end) for end in layer.ends()])
    np.testing.assert_allclose(ends / step, [-(2**15), 2**15 - 1], rtol=1e-6)
    # Some operations on numbers of up to 2^16 steps in float32: 2^16 * 2^-24 * 4.
    np.testing.assert_allclose(found / step, np.round(x / step), atol=1 + 0.02)
    np.testing.assert_allclose(found / step, np.round(found / step), atol=0.02)
    np.testing.assert_array_equal(found[0, 2:], 0.0)
    assert np.abs(found - x).max() <= 0.52 * step


def test_a_learned_grid_of_16_bits_has_0_in_its_middle_too(batches):
    layer = FakeQuantize(LearnedStep(batches=1), bits=16)
    layer(batches[0], training=True)
    step = float(np.exp(layer.log_step))
    largest = np.abs(np.asarray(layer.range)).max()
    assert step == pytest.approx(largest / 2**15, rel=1e-4)
    trained = np.asarray(layer(batches[0], training=True))
    np.testing.assert_allclose(trained, layer(batches[0], training=False), atol=1.02 * step)


@pytest.mark.parametrize("observer", OBSERVERS, ids=named)
def test_an_observer_comes_back_from_its_config(observer, batches):
    layer = FakeQuantize.from_config(FakeQuantize(observer).get_config())
    assert type(layer.observer) is type(observer)
    np.testing.assert_array_equal(ranges(layer.observer, batches), ranges(observer, batches))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MovingAverage(momentum=1.0), "0 <= momentum < 1"),
        (lambda: Percentile(50), "50 < percentile <= 100"),
        (lambda: MeanSquaredError(candidates=1), "candidates >= 2"),
        (lambda: LearnedStep(batches=0), "batches >= 1"),
        (lambda: Fixed(0.5, 1.0), "low <= 0 <= high"),
        (lambda: Fixed(0.0, 0.0), "low <= 0 <= high"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
