"""What the commands share: arrays of a file by name, and the one line of reason."""

import numpy as np
import pytest

from keras_kd.cli.arrays import CannotBeDoneError, inputs_of, load_arrays, one_line, stopped

A, B = np.zeros(2), np.ones(2)


def test_arrays_of_a_file(tmp_path):
    np.save(tmp_path / "one.npy", A)
    np.savez(tmp_path / "two.npz", a=A, b=B)
    assert list(load_arrays(tmp_path / "one.npy")) == ["x"]
    np.testing.assert_array_equal(load_arrays(tmp_path / "two.npz")["b"], B)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("objects.npy", "empty.npz"):
        with pytest.raises(CannotBeDoneError, match=f"{name}' is no .npz or .npy of numbers"):
            load_arrays(tmp_path / name)
    with pytest.raises(CannotBeDoneError, match="no file '"):
        load_arrays(tmp_path / "missing.npz")


def test_inputs_among_them(tmp_path):
    assert inputs_of({"x": A, "in": B}, ["in"], tmp_path, "") is B
    assert inputs_of({"x": A, "z": B}, ["in"], tmp_path, "") is A
    assert inputs_of({"anything": A}, ["in"], tmp_path, "") is A
    assert list(inputs_of({"b": B, "a": A, "c": A}, ["a", "b"], tmp_path, "")) == ["a", "b"]
    for arrays, names in (({"a": A, "b": B}, ["in"]), ({"x": A}, ["a", "b"])):
        with pytest.raises(CannotBeDoneError, match=r"the model's inputs are .*say which"):
            inputs_of(arrays, names, tmp_path, "say which")


def test_a_reason_is_one_line(capsys):
    assert one_line("a\n  b\tc") == "a b c"
    assert stopped("check", ValueError("two\nlines"), 7) == 7
    assert capsys.readouterr().err == "keras-kd check: two lines\n"
