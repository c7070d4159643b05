"""The writer as a Beam pipeline: the same bytes, and nothing lost with a worker."""

import os
import pathlib

import pytest

from keras_kd.targets import Stored, write
from tests.targets import small_task

beam = pytest.importorskip("apache_beam", reason="needs the extra 'beam'")
# Beam's own modules warn of what they call in each other and in Google's packages.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TASK = {"top_k": 3, "features": ["hidden"], "batch_size": 20, "shard_records": 40}
# Names a file: while it is there, shard 3 cannot be read.
FAIL = "KERAS_KD_TEST_FAIL"


class WorkerLostError(Exception):
    """What stands for a worker that is lost in the middle of a shard."""


def failing_once(start, stop):
    flag = pathlib.Path(os.environ[FAIL])
    if start == 3 * TASK["shard_records"] and flag.exists():
        flag.unlink()
        raise WorkerLostError
    return small_task.examples(start, stop)


def run(folder, read, **task):
    from keras_kd.targets.beam import WriteTargets

    with beam.Pipeline("DirectRunner") as pipeline:
        _ = pipeline | WriteTargets(
            small_task.teacher, read, folder, small_task.EXAMPLES, **{**TASK, **task}
        )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beam") / "targets"
    write(small_task.teacher(), small_task.inputs(), folder, **TASK)
    return small_task.content(folder)


def test_same_files_as_the_plain_writer(undisturbed, tmp_path):
    run(tmp_path / "targets", small_task.examples)
    assert small_task.content(tmp_path / "targets") == undisturbed
    assert len(Stored(tmp_path / "targets")) == small_task.EXAMPLES


def test_lost_worker_loses_nothing(undisturbed, tmp_path, monkeypatch):
    folder, flag = tmp_path / "targets", tmp_path / "flag"
    flag.touch()
    monkeypatch.setenv(FAIL, str(flag))
    # The direct runner tries nothing twice: the pipeline ends, and is run again.
    with pytest.raises(Exception, match="WorkerLostError"):
        run(folder, failing_once)
    assert "manifest.json" in small_task.content(folder)
    run(folder, failing_once)
    assert small_task.content(folder) == undisturbed


def test_plain_writer_goes_on_where_a_pipeline_was(undisturbed, tmp_path, monkeypatch):
    folder, flag = tmp_path / "targets", tmp_path / "flag"
    flag.touch()
    monkeypatch.setenv(FAIL, str(flag))
    with pytest.raises(Exception, match="WorkerLostError"):
        run(folder, failing_once)
    write(small_task.teacher(), small_task.inputs(), folder, **TASK)
    assert small_task.content(folder) == undisturbed


def test_options_are_those_of_write(tmp_path):
    with pytest.raises(TypeError, match="Received: \\['topk'\\]"):
        run(tmp_path, small_task.examples, topk=3)
