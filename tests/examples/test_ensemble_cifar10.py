"""The example of an ensemble and its students: a small run on made-up pictures."""

import pytest


@pytest.mark.slow
def test_the_ensemble_goes_on_where_it_was(example, bright_rows, tmp_path, monkeypatch):
    data = bright_rows(300, 50, 50, shape=(32, 32, 3))
    found = example.run(data, tmp_path, example.FAST, members=2)
    assert [len(found.data[key][0]) for key in ("members", "students")] == [2, 2]
    assert set(found.data["int8"]) == {example.DISTILLED_SINGLE, example.DISTILLED_ENSEMBLE}

    def refuse(*args, **kwargs):
        raise AssertionError("a network that is finished was trained again")

    monkeypatch.setattr(example, "train", refuse)
    again = example.run(data, tmp_path, example.FAST, members=2)
    assert again.data["members"] == found.data["members"]
