"""Boards with Google's Edge TPU: Coral's USB Accelerator, Dev Board and Dev Board Micro.

Coral's documents and repositories were read; none of these boards was at hand. The Edge TPU is the
same chip on all of them, so a model is compiled once; what differs is the host that runs the ops
that the compiler leaves to it.
"""

from __future__ import annotations

from keras_kd.deploy.devices.base import Device, Fact

_TPU = Fact(
    "Google Edge TPU, 4 TOPS int8",
    "https://coral.ai/technology, 'Performance': 4 trillion operations per second, 2 a watt",
)
# The compiler's logs give 7.9 to 8.05 MiB for a model that caches nothing.
_PARAMETER_MEMORY = Fact(
    8 * 2**20,
    "https://coral.ai/docs/edgetpu/compiler/, 'Parameter data caching': about 8 MB of SRAM",
)
_DTYPES = Fact(
    ("uint8", "int8"),
    "https://coral.ai/docs/edgetpu/models-intro/, 'Model requirements' and 'Float input and output "
    "tensors': the Edge TPU takes uint8 and int8, float at the ends is converted on the CPU",
)
_RUNTIME = Fact(
    14,
    "google-coral/libedgetpu at e35aed1, api/runtime_version.h: kCurrent; int8 since 12",
)
_TFLITE = Fact("litert", "https://coral.ai/docs/edgetpu/inference/: TensorFlow Lite on the host")
_COMPILER = Fact("16.0.384591198", "https://github.com/google-coral/edgetpu/issues/433: its log")

DEVICES: tuple[Device, ...] = (
    Device(
        name="coral-usb",
        title="Coral USB Accelerator",
        runtime="edgetpu",
        processor=_TPU,
        parameter_memory_bytes=_PARAMETER_MEMORY,
        options={
            "host": Fact(
                "any Linux, macOS or Windows computer with USB, USB 3.0 best",
                "https://coral.ai/docs/accelerator/get-started/, 'Requirements'",
            ),
            "accelerated_dtypes": _DTYPES,
            "host_runtime": _TFLITE,
            "runtime_version": _RUNTIME,
            "compiler_version": _COMPILER,
        },
    ),
    Device(
        name="coral-dev-board",
        title="Coral Dev Board",
        runtime="edgetpu",
        processor=_TPU,
        flash_bytes=Fact(
            8_000_000_000,
            "System-on-Module datasheet v1.11 (Coral, 2019), 'Ordering information': 8 GB eMMC",
        ),
        ram_bytes=Fact(
            2**30,
            "System-on-Module datasheet v1.11 (Coral, 2019), 'Ordering information': 1 GB LPDDR4 "
            "on the smallest",
        ),
        parameter_memory_bytes=_PARAMETER_MEMORY,
        options={
            "host": Fact(
                "NXP i.MX 8M, four Cortex-A53 and a Cortex-M4F",
                "System-on-Module datasheet v1.11 (Coral, 2019), 'Features'",
            ),
            "accelerated_dtypes": _DTYPES,
            "host_runtime": _TFLITE,
            "runtime_version": _RUNTIME,
            "compiler_version": _COMPILER,
        },
    ),
    Device(
        name="coral-micro",
        title="Coral Dev Board Micro",
        runtime="edgetpu",
        processor=_TPU,
        flash_bytes=Fact(
            512 * 131_072,
            "google-coral/coralmicro at c9f665b, libs/base/filesystem.cc: 512 blocks of 128 KiB of "
            "the NAND flash are the file system that models lie in",
        ),
        ram_bytes=Fact(
            0x03000000,
            "google-coral/coralmicro at c9f665b, libs/nxp/rt1176-sdk/"
            "MIMXRT1176xxxxx_cm7_elfloader.ld: the Cortex-M7's part of the 64 MiB SDRAM",
        ),
        parameter_memory_bytes=_PARAMETER_MEMORY,
        options={
            "host": Fact(
                "NXP i.MX RT1176, a Cortex-M7 at 800 MHz and a Cortex-M4 at 400 MHz",
                "https://coral.ai/docs/dev-board-micro/datasheet/, 'Features'",
            ),
            "accelerated_dtypes": _DTYPES,
            "host_runtime": Fact(
                "tflm",
                "google-coral/coralmicro at c9f665b, libs/tensorflow/utils.h: what is left of a "
                "compiled model runs in TFLite Micro",
            ),
            "host_custom_ops": Fact(
                ("PosenetDecoderOp",),
                "google-coral/coralmicro at c9f665b, libs/tensorflow/posenet_decoder_op.h",
            ),
            "runtime_version": _RUNTIME,
            "compiler_version": _COMPILER,
        },
    ),
)
