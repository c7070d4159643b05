"""The boards: what their documents say, and a Cortex-M by its name."""

import pytest

from keras_kd.deploy import devices
from keras_kd.deploy.devices import microcontroller

# Flash and RAM in bytes, clock in MHz, as the data sheets have them.
KNOWN = {
    "nano33ble": (1_048_576, 262_144, 64),
    "esp32s3": (8_388_608, 524_288, 240),
    "stm32f746": (1_048_576, 327_680, 216),
    "stm32h747": (2_097_152, 524_288, 480),
    "rp2040": (2_097_152, 270_336, 133),
}


def test_the_boards_are_listed():
    assert {device.name for device in microcontroller.DEVICES} == set(KNOWN)
    assert {d.name for d in devices.available() if d.runtime == "tflm"} == set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_memories_and_clock(name):
    device = devices.get(name)
    flash, ram, megahertz = KNOWN[name]
    assert device.flash_bytes.value == flash
    assert device.ram_bytes.value == ram
    assert device.clock_hz.value == megahertz * 1_000_000


@pytest.mark.parametrize("name", KNOWN)
def test_something_is_reserved_and_something_is_left(name):
    device = devices.get(name)
    for memory in ("flash", "ram"):
        reserved = getattr(device, f"{memory}_reserved_bytes").value
        assert 0 < reserved < getattr(device, f"{memory}_bytes").value


def test_what_is_reserved_on_the_nano_adds_up():
    nano = devices.get("nano33ble")
    # Bootloader, an empty sketch, TFLM; an empty sketch, 16 KiB for the application.
    assert nano.flash_reserved_bytes.value == 65_536 + 85_328 + 50_844
    assert nano.ram_reserved_bytes.value == 44_552 + 16_384


def test_what_the_linker_leaves_of_an_esp32s3():
    """Static data lies between two addresses of ESP-IDF's linker script."""
    static = 0x3FCDC700 - 0x3FC88000
    device = devices.get("esp32s3")
    left = device.ram_bytes.value - device.ram_reserved_bytes.value
    assert left == static - 53_743 - 16_384


@pytest.mark.parametrize("device", microcontroller.DEVICES, ids=lambda device: device.name)
def test_every_fact_survives_json(device):
    assert devices.from_json(device.to_json()) == device
    assert all(fact.source for fact in device.facts.values())


@pytest.mark.parametrize(
    ("name", "flash", "ram"),
    [
        ("cortex-m:flash=1M,ram=256K", 1 << 20, 256 << 10),
        ("cortex-m:ram=64k, flash=512K", 512 << 10, 64 << 10),
        ("cortex-m:flash=1000,ram=100", 1000, 100),
    ],
)
def test_a_cortex_m_by_name(name, flash, ram):
    device = microcontroller.parse(name)
    assert device == microcontroller.cortex_m(flash_bytes=flash, ram_bytes=ram)
    assert (device.flash_bytes.value, device.ram_bytes.value) == (flash, ram)
    assert device.runtime == "tflm"


def test_a_cortex_m_is_named_so_that_it_parses():
    device = microcontroller.cortex_m(flash_bytes=1 << 20, ram_bytes=(256 << 10) + 1)
    assert device.name == "cortex-m:flash=1M,ram=262145"
    assert microcontroller.parse(device.name) == device


@pytest.mark.parametrize("name", ["rp2040", "cortex", "cortex-m55", "board.json"])
def test_other_names_are_not_parsed(name):
    assert microcontroller.parse(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "cortex-m",
        "cortex-m:",
        "cortex-m:flash=1M",
        "cortex-m:flash=1M,flash=2M",
        "cortex-m:flash=1M,ram=1.5K",
        "cortex-m:flash=1M,ram=256K,",
        "cortex-m:flash=1G,ram=256K",
        "cortex-m:flash=1M,ram=9999999999999",
    ],
)
def test_a_name_that_begins_well_and_goes_wrong(name):
    with pytest.raises(ValueError, match=r"as in 'cortex-m:flash=1M,ram=256K'\. Received: 'cor"):
        microcontroller.parse(name)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_a_memory_that_is_none(value):
    with pytest.raises(ValueError, match=r"Expected ram_bytes as a number of bytes above 0"):
        microcontroller.cortex_m(flash_bytes=1, ram_bytes=value)
