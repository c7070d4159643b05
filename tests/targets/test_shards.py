"""The files of stored answers: whole and right, or not there."""

import errno
import os
import resource
import subprocess

import numpy as np
import pytest

from keras_kd.targets import shards

RECORD = np.dtype([("key", "<i8"), ("outputs", "<f2", (3,))])


def made(count=50):
    content = np.random.default_rng(0).bytes(count * RECORD.itemsize)
    return np.frombuffer(content, RECORD)


@pytest.mark.parametrize("mapped", [False, True])
def test_records_come_back(tmp_path, mapped):
    records, path = made(), tmp_path / "a.npy"
    digest = shards.write_records(path, records)
    there, read = shards.read_records(path, RECORD, verify=True, mapped=mapped)
    assert read == digest
    assert there.tobytes() == records.tobytes()
    assert isinstance(there, np.memmap) == mapped
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_numpy_reads_them_without_us(tmp_path, mmap_mode):
    shards.write_records(tmp_path / "a.npy", made())
    there = np.load(tmp_path / "a.npy", mmap_mode=mmap_mode)
    assert there.dtype == RECORD
    assert there.tobytes() == made().tobytes()


def test_same_records_make_the_same_file(tmp_path):
    for name in ("a.npy", "b.npy"):
        shards.write_records(tmp_path / name, made())
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_every_damaged_byte_is_found(tmp_path):
    path = tmp_path / "a.npy"
    shards.write_records(path, made(4))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(shards.DamagedError, match=r"a\.npy"):
            shards.read_records(path, RECORD, verify=True)


def test_every_shortened_file_is_found_without_its_checksum(tmp_path):
    path = tmp_path / "a.npy"
    shards.write_records(path, made(4))
    whole = path.read_bytes()
    for content in [*(whole[:end] for end in range(len(whole))), whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(shards.DamagedError, match=r"a\.npy"):
            shards.read_records(path, RECORD, verify=False)


def test_records_of_another_kind_are_refused(tmp_path):
    shards.write_records(tmp_path / "a.npy", made())
    with pytest.raises(shards.DamagedError, match="no whole file of records of"):
        shards.read_records(tmp_path / "a.npy", np.dtype([("key", "<i8")]), verify=True)


class Killed(BaseException):
    """As kill -9 would be: nothing is cleaned up."""


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_killed_while_writing_leaves_the_file_before(tmp_path, monkeypatch, function):
    path = tmp_path / "a.npy"
    shards.write_records(path, made(3))
    before = path.read_bytes()

    def kill(*args):
        raise Killed

    monkeypatch.setattr(os, function, kill)
    with pytest.raises(Killed):
        shards.write_records(path, made(40))
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    shards.remove_parts(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]


def test_file_that_may_not_grow_is_a_full_disk(tmp_path):
    """`ulimit -f`, as the file system would say it: what was there stays, nothing is left over."""
    path = tmp_path / "a.npy"
    shards.write_records(path, made(3))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"Expected room for 7,\d+ bytes.*goes on") as raised:
            shards.write_records(path, made(500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB, where the process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "keras_kd_test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the program mount")
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_told_and_leaves_what_was_there(small_disk):
    shards.write_records(small_disk / "a.npy", made(1000))
    with pytest.raises(OSError, match="No space left on device, writing"):
        shards.write_records(small_disk / "b.npy", made(4000))
    shards.read_records(small_disk / "a.npy", RECORD, verify=True)
    assert [entry.name for entry in small_disk.iterdir()] == ["a.npy"]
    # What is freed can be used: nothing half-written holds it.
    shards.write_records(small_disk / "c.npy", made(2000))


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        shards.write_records(tmp_path / "nowhere" / "a.npy", made())
