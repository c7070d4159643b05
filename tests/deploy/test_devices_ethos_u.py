"""The Ethos-U devices: complete, and in Vela's own words."""

import configparser
import importlib.resources

import pytest

from keras_kd.deploy import devices
from keras_kd.deploy.devices import ethos_u

NPUS = ["u55-32", "u55-64", "u55-128", "u55-256", "u65-256", "u65-512"] + [
    f"u85-{macs}" for macs in (128, 256, 512, 1024, 2048)
]


@pytest.fixture(scope="module")
def vela_ini():
    pytest.importorskip("ethosu")
    parser = configparser.ConfigParser()
    parser.read_string(
        importlib.resources.files("ethosu").joinpath("config_files/Arm/vela.ini").read_text()
    )
    return parser


def test_every_configuration_is_there():
    names = [device.name for device in ethos_u.DEVICES]
    assert names[:11] == [f"ethos-{name}" for name in NPUS]
    assert names[11:] == ["corstone-300", "corstone-310", "corstone-320"]
    assert all(devices.get(name).runtime == "ethos_u" for name in names)


def test_they_read_back_from_json():
    for device in ethos_u.DEVICES:
        assert devices.from_json(device.to_json()) == device


def test_vela_knows_the_configurations():
    features = pytest.importorskip("ethosu.vela.architecture_features")
    known = features.Accelerator.member_list()
    assert sorted(known) == sorted(f"ethos-{name}" for name in NPUS)
    for device in ethos_u.DEVICES:
        assert device.options["accelerator_config"].value in known


@pytest.mark.parametrize("device", ethos_u.DEVICES, ids=lambda device: device.name)
def test_clock_and_modes_are_those_of_the_ini(device, vela_ini):
    system = vela_ini[f"System_Config.{device.options['system_config'].value}"]
    assert float(system["core_clock"]) == device.clock_hz.value
    assert vela_ini.has_section(f"Memory_Mode.{device.options['memory_mode'].value}")


def test_reference_systems_have_their_sram():
    sizes = {d.name: d.ram_bytes.value for d in ethos_u.DEVICES if d.ram_bytes is not None}
    mebibyte = 1024 * 1024
    assert sizes == {
        "corstone-300": 2 * mebibyte,
        "corstone-310": 4 * mebibyte,
        "corstone-320": 4 * mebibyte,
    }
