"""What build systems call a device: PlatformIO's board, the core for GCC, the way of Arduino.

Only names, no memory sizes: those are facts of `keras_kd.deploy.devices`. A device that is not here
gets a PlatformIO file with the board left to fill in.
"""

from __future__ import annotations

import dataclasses

from keras_kd.deploy.devices import Device


@dataclasses.dataclass(frozen=True)
class Board:
    """One board in the words of build systems.

    Attributes:
        platform: PlatformIO's platform; "" where it has none.
        board: PlatformIO's name of the board.
        framework: PlatformIO's framework.
        cpu: What GCC's -mcpu takes; "" where the core is no Arm Cortex-M.
        has_arduino_library: Whether TFLite Micro's own Arduino library is made for it.
    """

    platform: str
    board: str
    framework: str = "arduino"
    cpu: str = ""
    has_arduino_library: bool = False


# PlatformIO's names: `boards/<board>.json` in platformio/platform-nordicnrf52 @ f38c9fc82b01,
# platform-espressif32 @ 20135ac1462b, platform-ststm32 @ 1692024057c3 and platform-raspberrypi @
# 3361dad5a17b; read, not run. The Arduino library: tensorflow/tflite-micro-arduino-examples @
# 7948b85e0204, README, which names the Nano 33 BLE Sense alone.
_BOARDS = {
    "nano33ble": Board("nordicnrf52", "nano33ble", cpu="cortex-m4", has_arduino_library=True),
    "esp32s3": Board("espressif32", "esp32-s3-devkitc-1"),
    "stm32f746": Board("ststm32", "disco_f746ng", cpu="cortex-m7+nofp.dp"),
    "stm32h747": Board("ststm32", "giga_r1_m7", cpu="cortex-m7"),
    "rp2040": Board("raspberrypi", "pico", cpu="cortex-m0plus"),
}
_UNKNOWN = Board("", "")


def board_of(device: Device) -> Board:
    """The board of a device, or one without names.

    Looked up by the device's name without "-" and "_"; one that is not listed gets the core that
    its `processor` names, if it does ("Arm Cortex-M55").
    """
    key = device.name.replace("-", "").replace("_", "")
    if key in _BOARDS:
        return _BOARDS[key]
    processor = str(device.processor.value) if device.processor else ""
    return dataclasses.replace(_UNKNOWN, cpu=_cpu(processor))


def _cpu(processor: str) -> str:
    text = processor.lower()
    for core in ("m0plus", "m0+", "m33", "m55", "m85", "m23", "m4", "m7", "m3", "m0"):
        if f"cortex-{core}" in text:
            return f"cortex-{core.replace('+', 'plus')}"
    return ""
