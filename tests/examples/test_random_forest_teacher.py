"""The example of a forest as a teacher: small, on the real digits."""

import pytest


@pytest.mark.slow
def test_a_forest_teaches_a_network_that_runs_as_int8(example, tmp_path):
    found = example.run(example.load(), tmp_path, example.FAST)
    teachers, students = found.data["teachers"], found.data["students"]
    # Ten trees and one epoch: far above chance, which is 0.1.
    assert teachers["random forest"] > 0.8
    assert len(teachers) == 4
    for name in example.STUDENTS:
        (row,) = students[name]
        assert abs(row["keras"] - row["litert"]) < 0.2
        assert row["size_bytes"] < 10_000
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("test.json")}
    assert len(kept) == 3
    with pytest.raises(ValueError, match="a folder begun with these settings"):
        example.run(example.load(), tmp_path, example.Settings())
