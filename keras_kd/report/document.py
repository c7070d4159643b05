"""A report: sections of blocks, written as text, Markdown, JSON or a page."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_kd.report.blocks import Block, Plot
from keras_kd.report.markdown import escaped, markdown_of
from keras_kd.report.page import page_of
from keras_kd.report.text import text_of

SCHEMA = "keras_kd.report"
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks under a heading; on a wide page `columns` of them, 1 or 2, stand side by side."""

    title: str
    blocks: tuple[Block, ...]
    columns: int = 1


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found, for people and for programs.

    Args:
        title: What this is a report of.
        summary: The answer in a sentence or two.
        sections: The evidence.
        data: What a program reads: JSON values under names that stay; only in the JSON.

    Example:
        >>> report = Report("Digits", "The student keeps up.", (Section("Result", (table,)),))
        >>> print(report.text())
        >>> report.write_html("report.html")
    """

    title: str
    summary: str
    sections: tuple[Section, ...] = ()
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """The report for a terminal; the plots are left to the page."""
        parts = [f"{self.title}\n{'=' * len(self.title)}", self.summary]
        for section in self.sections:
            blocks = [text_of(block) for block in section.blocks if not isinstance(block, Plot)]
            if blocks:
                parts += [f"{section.title}\n{'-' * len(section.title)}", *blocks]
        return "\n\n".join(parts) + "\n"

    def markdown(self) -> str:
        """The report as Markdown, tables as GitHub has them; the plots are left to the page."""
        parts = [f"# {escaped(self.title)}", escaped(self.summary)]
        for section in self.sections:
            blocks = [markdown_of(block) for block in section.blocks if not isinstance(block, Plot)]
            if blocks:
                parts += [f"## {escaped(section.title)}", *blocks]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """The report as JSON, with the version of its layout; numbers that are none are null."""
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "title": self.title,
            "summary": self.summary,
            "data": _plain(self.data),
            "sections": [
                {"title": s.title, "blocks": [_plain(block) for block in s.blocks]}
                for s in self.sections
            ],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_html(self) -> str:
        """The report as one page that needs nothing beside itself.

        Raises:
            ImportError: There are plots, and no matplotlib.
        """
        return page_of(self.title, self.summary, self.sections)

    def write_text(self, path: str | os.PathLike) -> None:
        """Writes `text()`; an older file stays whole if that fails."""
        _write(path, self.text())

    def write_markdown(self, path: str | os.PathLike) -> None:
        """Writes `markdown()`; an older file stays whole if that fails."""
        _write(path, self.markdown())

    def write_json(self, path: str | os.PathLike) -> None:
        """Writes `to_json()`; an older file stays whole if that fails."""
        _write(path, self.to_json())

    def write_html(self, path: str | os.PathLike) -> None:
        """Writes `to_html()`; an older file stays whole if that fails."""
        _write(path, self.to_html())


def _write(path: str | os.PathLike, content: str) -> None:
    path = Path(path)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; a report is as readable as any new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """JSON values; a dataclass says in `kind` which one it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__.lower(), **fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"Expected JSON values in a report. Received: {type(value).__name__}. "
        "Hint: NumPy's numbers have .item(), its arrays .tolist()."
    )
