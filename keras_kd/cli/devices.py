"""`keras-kd devices`: what is known of each device, and where it stands."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from keras_kd.cli.arrays import stopped
from keras_kd.report import Column, Facts, Report, Section, Table

if TYPE_CHECKING:
    from keras_kd.deploy.devices import Device


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `devices` to the commands."""
    parser = subparsers.add_parser(
        "devices",
        help="list the devices that are known, or show one with the source of every fact",
        description="List the devices that `keras-kd check --device` takes. With a name, show that "
        "one, each fact with its source; with --json, as a file to change into your own board's.",
    )
    parser.add_argument("name", nargs="?", help="a device, or the .json file of your own")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print NAME as JSON, which `keras-kd check --device mine.json` reads",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints, and returns the exit code."""
    if args.json and args.name is None:
        return stopped("devices", "--json needs a NAME: the device to start from", 2)
    try:
        from keras_kd.deploy import devices

        if args.name is None:
            print(_listed(devices.available()))
            return 0
        try:
            device = devices.get(args.name)
        except (ValueError, OSError) as err:
            return stopped("devices", err, 2)
        print(device.to_json() if args.json else _shown(device), end="")
    except KeyboardInterrupt:
        return stopped("devices", "interrupted", 130)
    return 0


def _listed(devices: Iterable[Device]) -> str:
    columns = (
        Column("device"),
        Column("what it is"),
        Column("runtime"),
        Column("flash", "KiB", digits=0, scale=1 / 1024),
        Column("RAM", "KiB", digits=0, scale=1 / 1024),
    )
    rows = tuple(
        (
            device.name,
            device.title,
            device.runtime,
            device.flash_bytes.value if device.flash_bytes else None,
            device.ram_bytes.value if device.ram_bytes else None,
        )
        for device in devices
    )
    table = Table(columns, rows)
    note = f"{len(rows)} devices; `keras-kd devices NAME` shows one with its sources."
    return Report("Devices", note, (Section("All of them", (table,)),)).text().rstrip("\n")


def _shown(device: Device) -> str:
    from keras_kd.deploy.check_report import described

    facts = Facts(tuple((name, described(fact)) for name, fact in device.facts.items()))
    what = f"{device.name}, checked with the rules of {device.runtime}"
    return Report(device.title, what, (Section("Facts", (facts,)),)).text()
