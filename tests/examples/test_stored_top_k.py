"""The example of stored top-k answers: its reading of CLINC150, its table, and a small run."""

import gzip
import json

import numpy as np
import pytest

import keras_kd

ROWS = [("train", "a", 'say "hello'), ("train", "b", "go away"), ("test", "b", "go")]


def written(path):
    """Writes ROWS and an out-of-scope sentence as the file that a person may have."""
    if path.suffix == ".json":
        splits: dict = {"train": [["what", "oos"]], "test": []}
        for split, label, text in ROWS:
            splits[split].append([text, label])
        path.write_text(json.dumps(splits))
    else:
        lines = ["split\tlabel\ttext", *("\t".join(row) for row in ROWS), "train\toos\twhat"]
        path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return path


@pytest.mark.parametrize("name", ["data_full.json", "clinc150.tsv.gz"])
def test_both_forms_of_the_data_are_read_in_scope(example, tmp_path, name):
    path = written(tmp_path / name)
    assert sorted(example.sentences(path, "train")[0]) == ["go away", 'say "hello']
    train, test = example.load(path, 64)
    assert sorted(train.y.tolist()) == [0, 1]
    assert test.y.tolist() == [1]


def test_sentences_are_hashed_words_and_pairs_of_length_one(example):
    x = example.hashed(["Go away now", "go away now", "now away go", ""], 4096)
    np.testing.assert_array_equal(x[0], x[1])
    assert (x[0] != x[2]).any()
    assert [np.count_nonzero(row) for row in x] == [5, 5, 5, 0]
    # A sum of five squares in float32.
    np.testing.assert_allclose(np.linalg.norm(x[:3], axis=-1), 1.0, rtol=1e-6)


def test_cost_is_held_against_the_standard_error(example):
    results = [{example.FULL: 0.8, example.STORED: 0.804}, {example.FULL: 0.8, example.STORED: 0.8}]
    # sqrt(.8 * .2 / 1600) is one point, and 0.2 points were the difference.
    assert "+0.20 points, within the 1.00" in example.what_it_cost(results, 1600)
    assert "outside of the 0.10" in example.what_it_cost(results, 160_000)


def test_small_run_goes_on_where_it_was(example, tmp_path, monkeypatch):
    settings = example.Settings(
        dimensions=16, teacher_units=8, student_units=4, teacher_epochs=1, student_epochs=1, top_k=2
    )
    rng = np.random.default_rng(0)
    train, test = (
        example.experiment.Split(rng.normal(size=(n, 16)).astype("float32"), np.arange(n) % 6)
        for n in (120, 30)
    )
    # A teacher of noise is no better than chance, which is said.
    with pytest.warns(UserWarning, match="better than chance"):
        found = example.run(train, test, tmp_path, settings)
    (table,) = found.sections[0].blocks
    assert [row[0] for row in table.rows] == ["teacher", *found.data["seeds"][0]]
    # Key 8 and six float16; key 8, two classes of a byte, two probabilities and the rest.
    assert [row[3] for row in table.rows] == [None, None, 20, 16]
    monkeypatch.setattr(example, "train_student", None)
    monkeypatch.setattr(keras_kd.targets.task.Task, "write_shard", None)
    assert example.run(train, test, tmp_path, settings).data["seeds"] == found.data["seeds"]


@pytest.mark.data
@pytest.mark.slow
def test_real_sentences_run(example, data_folder, tmp_path):
    train, test = example.load(data_folder / "clinc150.tsv.gz", 256)
    assert (len(train.y), len(test.y), train.y.max()) == (15_000, 4_500, 149)
    # One epoch of a small student on 256 dimensions: above chance, 0.7 %, and far below 95 %.
    found = example.run(train, test, tmp_path, example.FAST)
    for value in found.data["seeds"][0].values():
        assert 0.02 < value < 0.95
