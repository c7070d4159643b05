"""Several machines: two real worker processes on this one, against each other and one process."""

import numpy as np
import pytest
import tensorflow as tf

from tests import workers_program as program

# Means over two halves instead of over the whole: some last bits (6e-8) a step, in at most a dozen
# steps of a smooth net at rate 0.1. A factor of 2 wrong in one term, or a batch that one worker
# does not see, is a relative error of over 0.01.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
# On a quiet machine the jobs take 40 s; a worker that waits for one that is gone waits forever.
TIMEOUT_S = 300

SAME_AS_ONE_PROCESS = ["images_and_statistics", "uneven", "replayed", "of_files", "remembered"]
SAME_ON_BOTH = [*SAME_AS_ONE_PROCESS, "banked", "compared", "called_back", "refused"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Runs all scenarios in one job, as most of its time goes by before it starts."""
    folder = tmp_path_factory.mktemp("job")
    ended = program.wait(program.start(folder, *SAME_ON_BOTH), folder, TIMEOUT_S)
    assert ended == [0, 0], program.text_of_logs(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SAME_ON_BOTH)
def test_weights_and_logs_are_the_same_on_both_workers(job, scenario):
    first, second = program.results_of(job, scenario)
    assert first.keys() == second.keys()
    assert first
    different = [name for name in first if not np.array_equal(first[name], second[name])]
    assert not different


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SAME_AS_ONE_PROCESS)
def test_two_workers_give_the_weights_and_logs_of_one_process(job, scenario, tmp_path):
    ours = program.results_of(job, scenario)[0]
    alone = program.SCENARIOS[scenario](tf.distribute.get_strategy(), tmp_path)
    assert ours.keys() == alone.keys()
    for name, value in alone.items():
        np.testing.assert_allclose(ours[name], value, err_msg=name, **TOLERANCE)


@pytest.mark.slow
def test_every_worker_remembers_its_examples(job):
    found = program.results_of(job, "banked")[0]
    assert found["moved"].all()
    # A length of 1: no worker's share is left out or counted twice.
    np.testing.assert_allclose(found["lengths"], 1.0, rtol=1e-5)


@pytest.mark.slow
def test_a_loss_over_pairs_trains_with_the_pairs_of_each_worker(job):
    losses = program.results_of(job, "compared")[0]["log loss"]
    assert losses[1] < losses[0]


@pytest.mark.slow
def test_callbacks_decide_alike_and_the_chief_alone_writes(job):
    first, _ = program.results_of(job, "called_back")
    # EarlyStopping with a threshold that no loss reaches: the second epoch is the last.
    assert len(first["log loss"]) == 2
    assert len(first["losses"]) == 4
    assert (job / "checkpoint-0.weights.h5").exists()
    assert not (job / "checkpoint-1.weights.h5").exists()


@pytest.mark.slow
def test_what_one_worker_refuses_is_refused_by_all(job):
    assert "another worker refused" in (job / "refused-0.txt").read_text()
    assert "Expected labels in 0..3" in (job / "refused-1.txt").read_text()
    for worker in (0, 1):
        message = (job / f"outside-{worker}.txt").read_text()
        assert "made in strategy.scope(). Received 'sparse_categorical_accuracy" in message
    for found in program.results_of(job, "refused"):
        assert "finite numbers from the teacher. Received NaN or infinity for 1 ex" in str(
            found["message"]
        )


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_and_the_job_goes_on(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
    (killed / "kill-1").touch()
    jobs = [program.start(folder, "backed_up") for folder in (undisturbed, killed)]
    assert program.wait(jobs[0], undisturbed, TIMEOUT_S) == [0, 0]
    # Kept alive, it would hold its port and wait forever for the one that is gone.
    assert program.wait(jobs[1], killed, TIMEOUT_S) == [1, -9]
    assert "Expected all 2 workers to stay" in (killed / "worker-0.log").read_text()
    assert not (killed / "backup-1").exists()
    assert program.wait(program.start(killed, "backed_up"), killed, TIMEOUT_S) == [0, 0]
    for before, after in zip(
        program.results_of(undisturbed, "backed_up"),
        program.results_of(killed, "backed_up"),
        strict=True,
    ):
        assert list(before.pop("epochs")) == [0, 1, 2]
        assert list(after.pop("epochs")) == [1, 2]
        assert before.keys() == after.keys()
        different = [name for name in before if not np.array_equal(before[name], after[name])]
        assert not different
