"""kill -9 at random moments: what is left is gone on from, and ends byte for byte the same."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from keras_kd.targets import Manifest, write
from tests.targets import small_task

KILLS = 20
# Asked of 15 batches, each for so long; and the writing of 8 shards in between.
SECONDS_A_BATCH = 0.05

# Imports once, then forks a writer for each line it reads, and kills it after so many seconds;
# after none it is left to end. What is imported has no threads yet.
ZYGOTE = textwrap.dedent(
    """
    import os, signal, sys, time
    from keras_kd.targets import write
    from tests.targets import small_task

    def teacher(x):
        time.sleep(float(sys.argv[2]))
        return x[:, :3] * 2

    for line in sys.stdin:
        writer = os.fork()
        if writer == 0:
            task = {"fingerprint": "1", "top_k": 2, "outputs": "logits"}
            write(teacher, small_task.inputs(), sys.argv[1], **task, **small_task.OPTIONS)
            os._exit(0)
        if float(line):
            time.sleep(float(line))
            os.kill(writer, signal.SIGKILL)
        print(os.waitpid(writer, 0)[1], flush=True)
    """
)


def expected(folder):
    def teacher(x):
        return x[:, :3] * 2

    teacher.__module__, teacher.__qualname__ = "__main__", "teacher"
    task = {"fingerprint": "1", "top_k": 2, "outputs": "logits"}
    write(teacher, small_task.inputs(), folder, **task, **small_task.OPTIONS)
    return small_task.content(folder)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path):
    moments = np.random.default_rng(0)
    folder = tmp_path / "targets"
    command = [sys.executable, "-c", ZYGOTE, str(folder), str(SECONDS_A_BATCH)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as zygote:

        def status_after(seconds):
            zygote.stdin.write(f"{seconds}\n")
            zygote.stdin.flush()
            return int(zygote.stdout.readline())

        killed = 0
        while killed < KILLS:
            # From before the first shard to after the last.
            killed += status_after(moments.uniform(0.01, 2.5)) == signal.SIGKILL
            if (folder / "manifest.json").exists() and Manifest.read(folder).complete:
                # It came through: what it left is right, and the next one begins again.
                assert small_task.content(folder) == expected(tmp_path / "expected")
                for path in folder.iterdir():
                    path.unlink()
        assert status_after(0) == 0
        zygote.stdin.close()
    assert small_task.content(folder) == expected(tmp_path / "expected")
