"""What the examples' runs are made of: splits, replayed training, and files that are made once."""

import json
import sys
import types

import keras
import numpy as np
import pytest


@pytest.fixture
def experiment(example):
    return example


def test_pictures_are_scaled_to_one(experiment):
    split = experiment.Split(np.array([[0, 51, 255]], np.uint8), np.array([1]))
    assert split.scaled().dtype == np.float32
    # Quotients of 255 in float32.
    np.testing.assert_allclose(split.scaled(), [[0.0, 0.2, 1.0]], rtol=1e-7)


@pytest.mark.parametrize("hold_out", [True, False])
def test_last_tenth_is_held_out_or_nothing_is(experiment, monkeypatch, hold_out):
    asked = {}

    def load(name, *, split, **options):
        asked.update(options, name=name)
        info = types.SimpleNamespace(features={"label": types.SimpleNamespace(names=["a", "b"])})
        return {key: (wanted, f"labels of {wanted}") for key, wanted in split.items()}, info

    library = types.SimpleNamespace(load=load, as_numpy=lambda found: found)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", library)
    data = experiment.load("digits", "folder", hold_out=hold_out)
    assert (asked["name"], asked["data_dir"]) == ("digits", "folder")
    assert data.class_names == ["a", "b"]
    assert (data.test.x, data.test.y) == ("test", "labels of test")
    if hold_out:
        assert (data.train.x, data.validation.x) == ("train[:90%]", "train[90%:]")
    else:
        assert (data.train.x, data.validation) == ("train", None)


def test_missing_package_says_what_to_install(experiment, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(SystemExit, match=r'Hint: pip install "keras-kd\[data,demo\]"'):
        experiment.load("fashion_mnist", None)


def test_rate_warms_up_in_the_first_epoch_and_falls_to_a_hundredth(experiment):
    schedule = experiment.warmed_up(0.5, steps=10, epochs=3)
    rates = [float(schedule(step)) for step in (0, 5, 10, 20, 30)]
    # Half of the way down the cosine it is half of 1 + .01; in float32.
    np.testing.assert_allclose(rates, [0.05, 0.275, 0.5, 0.2525, 0.005], rtol=1e-6)
    assert float(experiment.warmed_up(0.5, steps=10, epochs=1)(10)) == 0.5


def test_the_batches_of_an_epoch_include_the_last_one(experiment):
    assert [experiment.steps_of(count, 4) for count in (1, 4, 5)] == [1, 1, 2]


def test_a_plain_model_sees_other_batches_in_each_epoch_and_the_same_again(experiment):
    class Seen(keras.Model):
        def __init__(self):
            super().__init__()
            self.batches = []

        def train_step(self, data):
            self.batches.append(data[1].numpy().tolist())
            return {"loss": 0.0}

    def seen():
        model = Seen()
        model.compile(run_eagerly=True)
        model.built = True
        x, y = np.zeros((6, 1), np.float32), np.arange(6)
        experiment.fit(model, x, y, epochs=2, batch_size=4, seed=3, verbose=0)
        return model.batches

    found = seen()
    assert [len(batch) for batch in found] == [4, 2, 4, 2]
    assert sorted(found[0] + found[1]) == sorted(found[2] + found[3]) == list(range(6))
    assert found[:2] != found[2:]
    assert seen() == found


def test_log_of_a_resumed_training_counts_the_later_row(experiment, tmp_path):
    path = tmp_path / "log.csv"
    assert experiment.read_log(path) == []
    path.write_text("epoch,loss\n0,3.0\n1,2.0\n1,1.5\n2,1.0\n")
    assert [row["loss"] for row in experiment.read_log(path)] == [3.0, 1.5, 1.0]


def test_values_are_made_once(experiment, tmp_path):
    made = []

    def make(a, b):
        made.append((a, b))
        return {"sum": a + b}

    for _ in range(2):
        assert experiment.once(tmp_path / "seed-0" / "result.json", make, 1, 2) == {"sum": 3}
    assert made == [(1, 2)]
    assert [path.name for path in (tmp_path / "seed-0").iterdir()] == ["result.json"]


def test_a_model_is_made_once_and_whole(experiment, tmp_path):
    def make():
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

    first = experiment.finished(tmp_path / "seed-0", "student", make)
    again = experiment.finished(tmp_path / "seed-0", "student", None)
    for ours, theirs in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in (tmp_path / "seed-0").iterdir()] == ["student.keras"]


def test_folder_of_other_settings_is_refused(experiment, tmp_path):
    path = tmp_path / "new" / "settings.json"
    for _ in range(2):
        experiment.same_settings_as_before(path, {"epochs": 3, "rate": 4e-3})
    assert json.loads(path.read_text()) == {"epochs": 3, "rate": 4e-3}
    with pytest.raises(ValueError, match=r"'epochs': 4.*'epochs': 3.*Hint: another --output"):
        experiment.same_settings_as_before(path, {"epochs": 4, "rate": 4e-3})
