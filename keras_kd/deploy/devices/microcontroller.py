"""Microcontroller boards that run TFLite Micro, and any Cortex-M by its flash and RAM.

Memories are the ones that a model can have: the arena is one piece, so where a chip's RAM is in
several, the largest counts, and the source says so. What runtime and application take of them is
different in every firmware; give your own as a JSON file where you know better.
"""

from __future__ import annotations

import re

from keras_kd.deploy.devices.base import Device, Fact

KIB, MIB = 1 << 10, 1 << 20

# A firmware of TFLM alone, without a model: .text and .data as linked.
_TFLM_FLASH_BYTES = 50_844
_TFLM_SOURCE = (
    "50,844 bytes of TFLM: its core and the reference kernels, every type, of CONV_2D, "
    "DEPTHWISE_CONV_2D, FULLY_CONNECTED, ADD, AVERAGE_POOL_2D, MAX_POOL_2D, SOFTMAX, RESHAPE, PAD, "
    "MEAN, QUANTIZE and DEQUANTIZE, linked with newlib-nano (tensorflow/tflite-micro at "
    "90b983c2b3f1, arm-none-eabi-g++ 12.2, -Os -mcpu=cortex-m4 -DTF_LITE_STRIP_ERROR_STRINGS, "
    "--gc-sections); the first three with pooling, SOFTMAX and RESHAPE alone: 36,752"
)
_APPLICATION_FLASH_BYTES = 64 * KIB
_APPLICATION_RAM_BYTES = 16 * KIB
_ASSUMED_FLASH = "assumed: 64 KiB for drivers, faster kernels and the application"
_ASSUMED_RAM = "assumed: 16 KiB for the stack, the C library, drivers and the application"
_FLASH_RESERVED = Fact(
    _TFLM_FLASH_BYTES + _APPLICATION_FLASH_BYTES, f"{_TFLM_SOURCE}; {_ASSUMED_FLASH}"
)
_RAM_RESERVED = Fact(_APPLICATION_RAM_BYTES, _ASSUMED_RAM)

_NRF52840 = "docs.nordicsemi.com, nRF52840 Product Specification v1.11"
_PLATFORMIO = "docs.platformio.org, board nrf52840_dk: 64 MHz, 1 MB, 256 KB"
_EMPTY_SKETCH = (
    "85,328 bytes of flash and 44,552 of RAM for an empty sketch on Arduino's mbed core, "
    "`arduino-cli compile --fqbn arduino:mbed_nano:nano33ble` (github.com/kierdavis/underglow, "
    "part 3)"
)
NANO33BLE = Device(
    name="nano33ble",
    title="Arduino Nano 33 BLE Sense",
    runtime="tflm",
    processor=Fact("Arm Cortex-M4F", f"{_NRF52840}, chapter CPU"),
    clock_hz=Fact(64_000_000, f"{_NRF52840}, chapter CPU; {_PLATFORMIO}"),
    flash_bytes=Fact(MIB, f"{_NRF52840}, chapter Memory; {_PLATFORMIO}"),
    ram_bytes=Fact(
        256 * KIB, f"{_NRF52840}, chapter Memory; {_PLATFORMIO}; arduino-cli: 262,144 at most"
    ),
    flash_reserved_bytes=Fact(
        64 * KIB + 85_328 + _TFLM_FLASH_BYTES,
        "65,536 bytes of bootloader (arduino-cli: at most 983,040 of 1,048,576 are a sketch's); "
        f"{_EMPTY_SKETCH}; {_TFLM_SOURCE}",
    ),
    ram_reserved_bytes=Fact(
        44_552 + _APPLICATION_RAM_BYTES, f"{_EMPTY_SKETCH}; beside it {_ASSUMED_RAM}"
    ),
)

_ESP_MODULE = (
    "espressif.com/documentation/esp32-s3-wroom-1_wroom-1u_datasheet_en.pdf, version 1.3, section "
    "1.1 and the series comparison"
)
_ESP_LINKER = (
    "espressif/esp-idf at 46f56388473d, components/esp_system/ld/esp32s3/memory.ld.in: of 524,288 "
    "bytes dram0_0_seg has 0x3FC88000 to 0x3FCDC700, 345,856; the others are caches and what the "
    "ROM and the bootloader use"
)
_ESP_SIZE = (
    "53,743 bytes of internal RAM, code in it included, and 118,879 of flash in ESP-IDF's own "
    "example (espressif/esp-idf, docs/en/api-guides/performance/size.rst, `idf.py size`)"
)
ESP32S3 = Device(
    name="esp32s3",
    title="ESP32-S3 (ESP32-S3-WROOM-1-N8)",
    runtime="tflm",
    processor=Fact("two Xtensa LX7", _ESP_MODULE),
    clock_hz=Fact(240_000_000, _ESP_MODULE),
    flash_bytes=Fact(8 * MIB, f"{_ESP_MODULE}: N8 is 8 MB of Quad SPI flash, no PSRAM"),
    ram_bytes=Fact(512 * KIB, f"{_ESP_MODULE}: SRAM on the chip"),
    flash_reserved_bytes=Fact(
        64 * KIB + 118_879 + _TFLM_FLASH_BYTES,
        "65,536 bytes of bootloader and partition table (the first application is at 0x10000, "
        f"ESP-IDF, partition tables); {_ESP_SIZE}; {_TFLM_SOURCE}; that an Xtensa takes as much is "
        "assumed; the application's partition has to be made large enough",
    ),
    ram_reserved_bytes=Fact(
        512 * KIB - 345_856 + 53_743 + _APPLICATION_RAM_BYTES,
        f"{_ESP_LINKER}; {_ESP_SIZE}; beside it {_ASSUMED_RAM}; Wi-Fi and Bluetooth take more",
    ),
)

_STM32F746 = (
    "ST DS10916 (STM32F745xx, STM32F746xx); docs.kernel.org/arch/arm/stm32/stm32f746-overview.html"
)
STM32F746 = Device(
    name="stm32f746",
    title="STM32F746 (STM32F746NG, as on the STM32F746G-DISCO)",
    runtime="tflm",
    processor=Fact("Arm Cortex-M7", _STM32F746),
    clock_hz=Fact(216_000_000, _STM32F746),
    flash_bytes=Fact(MIB, _STM32F746),
    ram_bytes=Fact(
        320 * KIB,
        "ST RM0385, section 2.1: DTCM of 64, SRAM1 of 240 and SRAM2 of 16 KiB, one behind the "
        "other from 0x20000000 (section 2.2); ITCM and backup RAM are not in it",
    ),
    flash_reserved_bytes=_FLASH_RESERVED,
    ram_reserved_bytes=_RAM_RESERVED,
)

_STM32H747 = (
    "ST DS12930 (STM32H747xI/G); docs.zephyrproject.org, board stm32h747i_disco: STM32H747XI, "
    "2 MB of flash, 1 MB of RAM, 480 MHz"
)
_MBED_BOARDS = "arduino/ArduinoCore-mbed at 52a91c441909, boards.txt"
STM32H747 = Device(
    name="stm32h747",
    title="STM32H747 (Cortex-M7 side, as on the STM32H747I-DISCO)",
    runtime="tflm",
    processor=Fact("Arm Cortex-M7 (with a Cortex-M4 beside it)", "ST AN5557, introduction"),
    clock_hz=Fact(480_000_000, f"ST AN5557, introduction; {_STM32H747}"),
    flash_bytes=Fact(2 * MIB, _STM32H747),
    ram_bytes=Fact(
        512 * KIB,
        "AXI SRAM at 0x24000000, the largest piece of 1 MiB in all (stm32-rs/stm32h7xx-hal v0.11.0,"
        f" memory.x); {_MBED_BOARDS} gives a sketch for an STM32H747 523,624",
    ),
    flash_reserved_bytes=_FLASH_RESERVED,
    ram_reserved_bytes=_RAM_RESERVED,
)

_PICO = "datasheets.raspberrypi.com/pico/pico-product-brief.pdf, Specification"
RP2040 = Device(
    name="rp2040",
    title="RP2040 (Raspberry Pi Pico)",
    runtime="tflm",
    processor=Fact("two Arm Cortex-M0+", _PICO),
    clock_hz=Fact(133_000_000, _PICO),
    flash_bytes=Fact(2 * MIB, f"{_PICO}; {_MBED_BOARDS}, pico: 2097152"),
    ram_bytes=Fact(
        264 * KIB,
        "RP2040 datasheet, section 2.6.2: one region, for code, data or both; "
        f"{_MBED_BOARDS}, pico: 270336",
    ),
    flash_reserved_bytes=Fact(
        _FLASH_RESERVED.value,
        f"{_FLASH_RESERVED.source}; that a Cortex-M0+ takes as much as a Cortex-M4 is assumed",
    ),
    ram_reserved_bytes=_RAM_RESERVED,
)

DEVICES: tuple[Device, ...] = (NANO33BLE, ESP32S3, STM32F746, STM32H747, RP2040)

_FORM = "cortex-m:flash=1M,ram=256K"
_UNITS = {"": 1, "K": KIB, "M": MIB}


def cortex_m(*, flash_bytes: int, ram_bytes: int) -> Device:
    """Any Cortex-M, by its memories.

    Args:
        flash_bytes: Bytes of flash, above 0.
        ram_bytes: Bytes of RAM in one piece, above 0.

    Raises:
        ValueError: A memory that is no positive whole number.

    Example:
        >>> cortex_m(flash_bytes=1 << 20, ram_bytes=256 << 10).name
        'cortex-m:flash=1M,ram=256K'
    """
    for name, value in (("flash_bytes", flash_bytes), ("ram_bytes", ram_bytes)):
        if type(value) is not int or value <= 0:
            raise ValueError(f"Expected {name} as a number of bytes above 0. Received: {value!r}.")
    flash, ram = _size(flash_bytes), _size(ram_bytes)
    return Device(
        name=f"cortex-m:flash={flash},ram={ram}",
        title=f"Cortex-M with {flash} of flash and {ram} of RAM",
        runtime="tflm",
        processor=Fact("Arm Cortex-M", "given"),
        flash_bytes=Fact(flash_bytes, "given"),
        ram_bytes=Fact(ram_bytes, "given"),
        flash_reserved_bytes=_FLASH_RESERVED,
        ram_reserved_bytes=_RAM_RESERVED,
    )


def parse(name: str) -> Device | None:
    """The Cortex-M that a name such as "cortex-m:flash=1M,ram=256K" describes.

    Args:
        name: "cortex-m:" and both memories, whole numbers of bytes, of KiB ("K") or of MiB ("M").

    Returns:
        The device; None for a name that does not begin with "cortex-m".

    Raises:
        ValueError: The name begins so, and does not go on so.
    """
    if name != "cortex-m" and not name.startswith("cortex-m:"):
        return None
    sizes = {}
    for part in name.partition(":")[2].split(","):
        match = re.fullmatch(r"(flash|ram)=([0-9]{1,12})([KMkm]?)", part.strip())
        if match is None or match[1] in sizes:
            break
        sizes[match[1]] = int(match[2]) * _UNITS[match[3].upper()]
    else:
        if set(sizes) == {"flash", "ram"}:
            return cortex_m(flash_bytes=sizes["flash"], ram_bytes=sizes["ram"])
    raise ValueError(f"Expected a Cortex-M's memories as in '{_FORM}'. Received: {name!r}.")


def _size(count: int) -> str:
    for unit in ("M", "K"):
        if count % _UNITS[unit] == 0:
            return f"{count // _UNITS[unit]}{unit}"
    return str(count)
