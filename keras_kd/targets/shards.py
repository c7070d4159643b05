"""Files of stored answers: each is there as a whole and right, or not at all.

A shard is an `.npy` file (NumPy's format, NEP 1) of records, followed by the SHA-256 of all that
stands before. `np.load` reads it as it is, also mapped into memory. It is written beside, flushed
to the disk and renamed.
"""

import errno
import hashlib
import io
import os
import pathlib

import numpy as np

_DIGEST_BYTES = hashlib.sha256().digest_size
_PART = ".part"
# A full disk, a full quota, a file larger than the system or `ulimit` lets it be.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedError(ValueError):
    """A file of stored answers is not what was written."""


def shard_name(number):
    """Returns the file name of a shard."""
    return f"answers-{number:06d}.npy"


def write_records(path, records):
    """Writes records to a file, with their checksum.

    Args:
        path: A `pathlib.Path`.
        records: A NumPy array of shape [records].

    Returns:
        The SHA-256 that stands at the end of the file, as hexadecimal digits.

    Raises:
        OSError: If it cannot be written, as on a full disk; then there is no such file, or the one
            that was there before.
    """
    content = [
        _header(records.dtype, len(records)),
        np.ascontiguousarray(records).view(np.uint8).data,
    ]
    digest = hashlib.sha256()
    for piece in content:
        digest.update(piece)
    write_whole(path, [*content, digest.digest()])
    return digest.hexdigest()


def write_whole(path, content):
    """Writes a file beside and renames it.

    Args:
        path: A `pathlib.Path`.
        content: Pieces of bytes.

    Raises:
        OSError: If it cannot be written.
    """
    # By process: of two that write the same, neither must rename the other's half.
    beside = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    try:
        with beside.open("wb") as file:
            for piece in content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as err:
        beside.unlink(missing_ok=True)
        if err.errno not in _FULL:
            raise
        need = sum(memoryview(piece).nbytes for piece in content)
        raise OSError(
            err.errno,
            f"Expected room for {need:,} bytes. Received: {os.strerror(err.errno)}, writing "
            f"'{path}'. Hint: what was written before is whole; make room, and the same call goes "
            "on from there.",
        ) from err


def read_records(path, dtype, *, verify, mapped=False):
    """Returns the records of a file.

    Args:
        path: A `pathlib.Path`.
        dtype: What a record has to be.
        verify: Whether to compute the checksum of all of it.
        mapped: Whether to map the file into memory, not to read it.

    Returns:
        A NumPy array of shape [records], and the file's SHA-256 in hexadecimal digits.

    Raises:
        DamagedError: If the file is not what `write_records` wrote.
        FileNotFoundError: If there is none.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Of the 2 bytes behind the first 8: how long the header is. It is compared, not parsed:
        # damaged, it could hold anything.
        start = 10 + int.from_bytes(file.read(10)[8:], "little")
        count, left = divmod(size - start - _DIGEST_BYTES, dtype.itemsize)
        file.seek(0)
        if left or count < 0 or file.read(start) != _header(dtype, count):
            raise _damaged(path, f"is no whole file of records of {dtype}")
        file.seek(size - _DIGEST_BYTES)
        written = file.read(_DIGEST_BYTES)
        if verify:
            file.seek(0)
            if _digest(file, size - _DIGEST_BYTES) != written:
                raise _damaged(path, "does not have the checksum it was written with")
        if mapped:
            records = np.memmap(path, dtype, mode="r", offset=start, shape=(count,))
        else:
            file.seek(start)
            records = np.fromfile(file, dtype, count=count)
    return records, written.hex()


def remove_parts(folder):
    """Removes what was left half-written by processes that were killed."""
    for path in pathlib.Path(folder).glob(f".*{_PART}"):
        path.unlink(missing_ok=True)


def _header(dtype, count):
    """Returns what an `.npy` file of that many records begins with."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)},
    )
    return header.getvalue()


def _damaged(path, what):
    return DamagedError(
        f"Expected the stored answers that were written. Received: '{path}' {what}. Hint: remove "
        "that file; the same call of targets.write then writes it again."
    )


def _digest(file, count):
    digest, step = hashlib.sha256(), 2**20
    while count:
        piece = file.read(min(step, count))
        digest.update(piece)
        count -= len(piece)
    return digest.digest()


def _sync_folder(folder):
    """Flushes a folder, so that a renamed file is still there after a power cut."""
    if os.name == "nt":  # Windows cannot open a folder.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
