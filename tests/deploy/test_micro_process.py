"""A model is tried in a child: what runs, what is refused, and what ends the process."""

import pytest

from keras_kd.deploy import micro_process


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Puts another program in the worker's place."""

    def replaced(source):
        path = tmp_path / "worker.py"
        path.write_text(source)
        monkeypatch.setattr(micro_process, "WORKER", path)

    return replaced


def test_a_model_that_runs(by_hand):
    found = micro_process.trial(by_hand.chain(["RELU", "TANH"]))
    # Twelve bytes of tensors, and what the interpreter keeps for two ops and three tensors.
    assert 12 < found.arena_bytes < 4096
    assert (found.ended_by, found.said) == ("", "")


def test_a_refusal_has_what_tflm_said(by_hand):
    found = micro_process.trial(by_hand.chain(["RELU", "GELU"]))
    assert (found.arena_bytes, found.ended_by) == (None, "refusal")
    # Once, though it was tried in several arenas, and without the builder's folders.
    assert found.said.count("Didn't find op for builtin opcode 'GELU'") == 1
    assert "/" not in found.said
    assert "Traceback" not in found.said


def test_a_crash_is_no_crash_here(by_hand):
    """MEAN without its axes: TFLM reads an input that is not there."""
    found = micro_process.trial(by_hand.chain(["MEAN"]))
    assert (found.arena_bytes, found.ended_by) == (None, "crash")
    assert "SIGSEGV when it was loaded" in found.said


def test_a_crash_while_it_runs(by_hand):
    found = micro_process.trial(by_hand.chain(["MAXIMUM"]))
    assert found.ended_by == "crash"
    assert "when it ran" in found.said


def test_a_signal_is_named(by_hand, worker):
    worker("import os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n")
    found = micro_process.trial(by_hand.chain(["RELU"] * 2))
    assert found.ended_by == "crash"
    assert found.said.startswith("SIGABRT")


def test_what_does_not_end_is_stopped(by_hand, worker):
    worker("import time\ntime.sleep(60)\n")
    found = micro_process.trial(by_hand.chain(["RELU"] * 3), timeout_s=0.5)
    assert found == micro_process.Trial(None, "timeout", "no end after 0.5 seconds")


def test_a_child_that_ends_well_and_says_nothing(by_hand, worker):
    """Another version of the wheel may print its arena in other words: no number is made up."""
    worker("print('allocated')\nprint('ran')\n")
    found = micro_process.trial(by_hand.chain(["RELU"] * 4))
    assert (found.arena_bytes, found.ended_by) == (None, "refusal")


def test_the_same_model_is_tried_once(by_hand):
    content = by_hand.chain(["RELU"] * 5)
    before = micro_process.trial.cache_info()
    assert micro_process.trial(content) is micro_process.trial(bytes(bytearray(content)))
    after = micro_process.trial.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 1)


def test_without_tflite_micro(by_hand, monkeypatch):
    monkeypatch.setattr(micro_process, "is_installed", lambda: False)
    with pytest.raises(ImportError, match=r"tflite-micro\. .* Hint: pip install keras_kd\[mcu\]"):
        micro_process.trial(by_hand.chain(["RELU"] * 6))


def test_no_flatbuffer():
    with pytest.raises(ValueError, match="Expected a TFLite flatbuffer"):
        micro_process.trial(b"no model at all")
