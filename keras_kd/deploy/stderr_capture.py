"""Catches what C code writes to descriptor 2, where no Python object sees it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

# What TensorFlow says on every start, whatever TF_CPP_MIN_LOG_LEVEL says: of no use to anyone here.
CHATTER = re.compile(
    r"WARNING: All log messages before absl"
    r"|[IWE]0000 .*\b(port|cudart_stub|cuda_platform|cuda_executor|cpu_feature_guard)\.cc"
    r"|To enable the following instructions"
)

# Descriptor 2 belongs to the process: two captures at a time would put each other's back.
_LOCK = threading.RLock()


class CapturedText:
    """What was written; filled when the capture ends."""

    def __init__(self) -> None:
        self.text = ""


@contextlib.contextmanager
def captured_stderr(own: re.Pattern[str] | None = None) -> Iterator[CapturedText]:
    """Collects the process's stderr for the time of a short call.

    Descriptor 2 cannot be taken from one thread alone, so what others write meanwhile is caught
    too. Lines that `own` does not match at their start are therefore passed on when the call
    succeeded; when it raised, the caller has the text and puts it into its error.
    """
    captured = CapturedText()
    with _LOCK, tempfile.TemporaryFile() as file:
        _open_if_closed()
        if sys.stderr is not None:
            sys.stderr.flush()
        kept = os.dup(2)
        passed_on = True
        try:
            os.dup2(file.fileno(), 2)
            yield captured
        except BaseException:
            passed_on = False
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            captured.text = file.read().decode("utf-8", errors="replace")
            if passed_on:
                _pass_on(captured.text, own)


def _pass_on(text: str, own: re.Pattern[str] | None) -> None:
    lines = [
        line
        for line in text.splitlines(keepends=True)
        if line.strip() and not (own is not None and own.match(line))
    ]
    if lines:
        os.write(2, "".join(lines).encode())


def _open_if_closed() -> None:
    """A process may have been started without a stderr; it then gets the null device."""
    try:
        os.fstat(2)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != 2:
            os.dup2(null, 2)
            os.close(null)
