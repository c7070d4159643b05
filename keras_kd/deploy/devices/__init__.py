"""Devices by name: microcontrollers, NPUs, Edge TPUs, phones; one's own as a JSON file."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from keras_kd.deploy.devices import coral, ethos_u, microcontroller, phone
from keras_kd.deploy.devices.base import Device, Fact, from_json, load

__all__ = ["Device", "Fact", "available", "from_json", "get", "load"]

# A module of each kind of device. It has `DEVICES`; where a name may say what the device is, as in
# "cortex-m:flash=1M,ram=256K", it also has `parse(name) -> Device | None`, None for other names.
_FAMILIES = (microcontroller, ethos_u, coral, phone)


def _named() -> dict[str, Device]:
    named: dict[str, Device] = {}
    for device in (device for family in _FAMILIES for device in family.DEVICES):
        if device.name in named:
            raise ValueError(f"Expected a name for each device. Received: two '{device.name}'.")
        named[device.name] = device
    return named


_DEVICES = _named()


def available() -> tuple[Device, ...]:
    """Every device that is described here, family by family."""
    return tuple(_DEVICES.values())


def get(device: str | os.PathLike) -> Device:
    """The device of that name, or in that JSON file.

    Args:
        device: A name of `available()` or one that its family parses, or the path of a JSON file
            (it ends in ".json").

    Raises:
        OSError: The JSON file cannot be read.
        ValueError: No device has that name, or the file describes none.

    Example:
        >>> get("nano33ble").ram_bytes.value
        262144
    """
    name = os.fspath(device)
    if name in _DEVICES:
        return _DEVICES[name]
    if Path(name).suffix == ".json":
        return load(name)
    for family in _FAMILIES:
        parse = getattr(family, "parse", None)
        parsed = parse(name) if parse is not None else None
        if parsed is not None:
            return parsed
    near = difflib.get_close_matches(name, _DEVICES, 1)
    hint = f"'{near[0]}'." if near else "`keras-kd devices` lists them."
    raise ValueError(
        f"Expected a device of {', '.join(_DEVICES)}, or the path of a .json file. "
        f"Received: {name!r}. Hint: {hint}"
    )
