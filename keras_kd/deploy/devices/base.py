"""A target as data: its memory, runtime and types, each fact with its source.

A device is frozen, has no logic, and reads and writes as JSON, so that one's own board is a file
with the same fields. What is wrong in it is said when it is made, not when a rule trips over it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RUNTIMES = ("tflm", "ethos_u", "edgetpu", "litert", "litert_gpu", "mediapipe")
MEMORIES = (
    "flash_bytes",
    "ram_bytes",
    "flash_reserved_bytes",
    "ram_reserved_bytes",
    "parameter_memory_bytes",
)
DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")


@dataclasses.dataclass(frozen=True)
class Fact:
    """One statement about a device.

    Attributes:
        value: A number, a text, or a tuple of them; the unit is in the name of the field.
        source: Where it stands: document and section, address, or the command that measured it.
        verified: What was run to see that it holds; "" where it was only read.
    """

    value: Any
    source: str
    verified: str = ""

    def __post_init__(self):
        if not isinstance(self.source, str) or not self.source.strip():
            raise ValueError(f"Expected the source of every fact. Received: none for {self.value}.")
        if not isinstance(self.verified, str):
            raise ValueError(f"Expected 'verified' as text. Received: {self.verified!r}.")
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        if not all(isinstance(value, str | bool | int | float) for value in values):
            raise ValueError(
                f"Expected a number, a text, or a tuple of them. Received: {self.value!r}."
            )


@dataclasses.dataclass(frozen=True)
class Device:
    """What a `.tflite` is to run on.

    Attributes:
        name: What `--device` takes: no white space.
        title: What a person calls it.
        runtime: One of `RUNTIMES`: which rules a model is held against.
        processor: The core that computes.
        clock_hz: Its clock.
        flash_bytes: Memory for program and model.
        ram_bytes: Memory for arena, stack and the application.
        flash_reserved_bytes: Of the flash, what runtime and application take before the model.
        ram_reserved_bytes: Of the RAM, what runtime and application take beside the arena.
        parameter_memory_bytes: On-chip memory that caches parameters (Edge TPU).
        input_dtypes: Types that an application hands over on it, a tuple of `DTYPES`, the most
            usual first; None for any.
        output_dtypes: Types that an application takes from it, likewise.
        options: Facts that one runtime alone reads, as `accelerator_config` for Vela.
    """

    name: str
    title: str
    runtime: str
    processor: Fact | None = None
    clock_hz: Fact | None = None
    flash_bytes: Fact | None = None
    ram_bytes: Fact | None = None
    flash_reserved_bytes: Fact | None = None
    ram_reserved_bytes: Fact | None = None
    parameter_memory_bytes: Fact | None = None
    input_dtypes: Fact | None = None
    output_dtypes: Fact | None = None
    options: Mapping[str, Fact] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self):
        for field in ("name", "title"):
            text = getattr(self, field)
            if not text.strip() or (field == "name" and len(text.split()) > 1):
                raise ValueError(f"Expected the {field} of a device. Received: {text!r}.")
        if self.runtime not in RUNTIMES:
            raise ValueError(
                f"Expected a runtime of {', '.join(RUNTIMES)} for device '{self.name}'. "
                f"Received: {self.runtime!r}."
            )
        for field in MEMORIES:
            fact = getattr(self, field)
            if fact is not None and (type(fact.value) is not int or fact.value < 0):
                raise ValueError(
                    f"Expected {field} of device '{self.name}' to be a whole number of bytes. "
                    f"Received: {fact.value!r}."
                )
        if self.clock_hz is not None and not _is_positive(self.clock_hz.value):
            raise ValueError(
                f"Expected clock_hz of device '{self.name}' to be a number of hertz above 0. "
                f"Received: {self.clock_hz.value!r}."
            )
        for field in ("input_dtypes", "output_dtypes"):
            fact = getattr(self, field)
            if fact is not None and not _are_dtypes(fact.value):
                raise ValueError(
                    f"Expected {field} of device '{self.name}' as some of {', '.join(DTYPES)}. "
                    f"Received: {fact.value!r}."
                )

    @property
    def facts(self) -> dict[str, Fact]:
        """Every fact by its field; those of `options` by their own names."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in named.items() if isinstance(v, Fact)} | dict(self.options)

    def to_json(self) -> str:
        """The device as a JSON document, which `from_json` reads."""
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Fact):
                plain[field.name] = dataclasses.asdict(value)
            elif field.name == "options":
                plain |= {"options": {k: dataclasses.asdict(v) for k, v in value.items()}}
            elif value is not None:
                plain[field.name] = value
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str, label: str = "JSON") -> Device:
    """A device from a JSON document with the fields of `Device`.

    A fact is an object with "value", "source" and, where it was run, "verified".

    Args:
        text: The document.
        label: What messages call it.

    Raises:
        ValueError: No JSON object, an unknown or missing field, or a fact without a source.
    """
    try:
        plain = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as err:
        raise ValueError(f"Expected a device as a JSON object. Received: {label}, {err}.") from err
    fields = {field.name: field for field in dataclasses.fields(Device)}
    if not isinstance(plain, dict):
        raise ValueError(
            f"Expected a device as a JSON object. Received: {label}, a {type(plain).__name__}."
        )
    for key in plain:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f" Hint: '{near[0]}'." if near else ""
            raise ValueError(
                f"Expected the fields {', '.join(fields)}. Received: {label}, '{key}'.{hint}"
            )
    missing = [key for key in ("name", "title", "runtime") if not isinstance(plain.get(key), str)]
    if missing:
        raise ValueError(
            f"Expected {', '.join(missing)} as text. Received: {label}, which has "
            f"{', '.join(plain) or 'nothing'}."
        )
    made: dict[str, Any] = {}
    for key, value in plain.items():
        if key in ("name", "title", "runtime"):
            made[key] = value
        elif key == "options":
            if not isinstance(value, dict):
                raise ValueError(
                    f"Expected 'options' of {label} as an object of facts. Received: {value!r}."
                )
            made[key] = {name: _fact(fact, name, label) for name, fact in value.items()}
        elif value is not None:
            made[key] = _fact(value, key, label)
    return Device(**made)


def load(path: str | os.PathLike) -> Device:
    """The device in a JSON file; see `from_json`."""
    label = f"'{os.fspath(path)}'"
    try:
        return from_json(Path(path).read_text(encoding="utf-8"), label)
    except UnicodeDecodeError as err:
        raise ValueError(f"Expected a device as JSON in UTF-8. Received: {label}, {err}.") from err


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _are_dtypes(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and set(value) <= set(DTYPES)


def _fact(plain: Any, field: str, label: str) -> Fact:
    if not isinstance(plain, dict) or "value" not in plain or set(plain) - _FACT_KEYS:
        raise ValueError(
            f"Expected '{field}' of {label} as an object of value, source and perhaps verified. "
            f"Received: {plain!r}."
        )
    value = plain["value"]
    try:
        return Fact(
            tuple(value) if isinstance(value, list) else value,
            plain.get("source", ""),
            plain.get("verified", ""),
        )
    except ValueError as err:
        raise ValueError(f"'{field}' of {label}: {err}") from err


_FACT_KEYS = {"value", "source", "verified"}
