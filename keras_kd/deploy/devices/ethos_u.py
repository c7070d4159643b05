"""Arm Ethos-U NPUs by their number of MAC units, and Arm's reference systems that hold one.

An Ethos-U is a block that a chip maker puts beside a Cortex-M; clock, memories and their speeds are
the chip's. Vela estimates for one system and one memory mode of its `vela.ini`. The NPUs here take
those that Vela takes where nothing is said, so that their numbers compare with published ones:

- U55: 500 MHz; tensors in SRAM (4 GB/s), constants in flash (0.5 GB/s).
- U65: 1 GHz; tensors and constants in DRAM (12 GB/s), 384 KiB of SRAM (16 GB/s) as a cache.
- U85: 1 GHz; tensors and constants in DRAM (12 GB/s), 384 KiB of SRAM (32 GB/s) as a cache.

For one's own chip, a JSON file with its `system_config`, its `memory_mode` and, where its maker
gives one, the path of its `vela_ini`.
"""

from __future__ import annotations

from keras_kd.deploy.devices.base import Device, Fact

_VELA = "ethos-u-vela 5.2.0"
_INI = f"{_VELA}, ethosu/config_files/Arm/vela.ini"
_DEFAULTS = f"{_VELA}, ethosu/vela/architecture_features.py, _set_default_sys_config and _mem_mode"
_RAN = f"{_VELA} compiled int8 models for it"
_KIT = (
    "https://gitlab.arm.com/artificial-intelligence/ethos-u/ml-embedded-evaluation-kit, "
    "docs/sections"
)
_FVP_MACS = f"{_KIT}/deployment.md, 'Deploying on an FVP': the default of num_macs"
_DTYPES = Fact(
    ("int8", "uint8", "int16"),
    f"{_VELA}, vela --supported-ops-report: feature maps of int8, uint8, int16 and wider",
    f"{_VELA} mapped models with inputs and outputs of int8, uint8 and int16",
)


def _npu(family: str, macs: int, system: str, memory: str, clock_hz: int) -> Device:
    name = f"ethos-{family}-{macs}"
    return Device(
        name=name,
        title=f"Arm Ethos-{family.upper()}, {macs} MACs",
        runtime="ethos_u",
        processor=Fact(f"Ethos-{family.upper()} beside a Cortex-M", f"{_VELA}, vela --help"),
        clock_hz=Fact(clock_hz, f"{_INI}, System_Config.{system}, core_clock"),
        options={
            "accelerated_dtypes": _DTYPES,
            "accelerator_config": Fact(name, f"{_VELA}, vela --help", _RAN),
            "system_config": Fact(system, f"{_DEFAULTS}; {_INI}, System_Config.{system}", _RAN),
            "memory_mode": Fact(memory, f"{_DEFAULTS}; {_INI}, Memory_Mode.{memory}", _RAN),
        },
    )


_U55 = ("Ethos_U55_High_End_Embedded", "Shared_Sram", 500_000_000)
_U65 = ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB", 1_000_000_000)
_U85 = ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB", 1_000_000_000)
_NPUS = (
    *(_npu("u55", macs, *_U55) for macs in (32, 64, 128, 256)),
    *(_npu("u65", macs, *_U65) for macs in (256, 512)),
    *(_npu("u85", macs, *_U85) for macs in (128, 256, 512, 1024, 2048)),
)


def _system(name: str, title: str, npu: str, processor: Fact, sram_bytes: Fact) -> Device:
    """A reference system: an NPU's facts, with the core and the SRAM that stand around it."""
    inside = next(device for device in _NPUS if device.name == npu)
    accelerator = Fact(npu, _FVP_MACS, _RAN)
    return Device(
        name=name,
        title=title,
        runtime="ethos_u",
        processor=processor,
        clock_hz=inside.clock_hz,
        ram_bytes=sram_bytes,
        options={**inside.options, "accelerator_config": accelerator},
    )


_FVPS = "https://developer.arm.com/Tools%20and%20Software/Fixed%20Virtual%20Platforms/IoT%20FVPs"

DEVICES: tuple[Device, ...] = (
    *_NPUS,
    _system(
        "corstone-300",
        "Arm Corstone-300 on MPS3, Ethos-U55 with 128 MACs",
        "ethos-u55-128",
        Fact("Cortex-M55 with Ethos-U55", f"{_KIT}/memory_considerations.md, Introduction"),
        Fact(
            2 << 20,
            f"{_KIT}/memory_considerations.md, 'Memory available on the target platform': two "
            "banks of 1 MiB hold the tensor arena",
        ),
    ),
    _system(
        "corstone-310",
        "Arm Corstone-310 on MPS3, Ethos-U55 with 128 MACs",
        "ethos-u55-128",
        Fact("Cortex-M85 with Ethos-U55", f"{_FVPS}, Corstone-310"),
        Fact(4 << 20, f"{_KIT}/appendix.md, memory map of Corstone-310: two banks of 2 MiB"),
    ),
    _system(
        "corstone-320",
        "Arm Corstone-320 on MPS4, Ethos-U85 with 256 MACs",
        "ethos-u85-256",
        Fact("Cortex-M85 with Ethos-U85", f"{_FVPS}, Corstone-320"),
        Fact(
            4 << 20,
            f"{_KIT.removesuffix('docs/sections')}scripts/cmake/platforms/mps4/sse-320/"
            "mps4-sse-320.ld, MEMORY: SRAM",
        ),
    ),
)
