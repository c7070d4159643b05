"""How much of the Edge TPU's memory a model's parameters take, before it is compiled.

The compiler lays weights out in tiles, so they take more than they do in the file. The forms below
were fitted to the parameters that stand in compiled files (`edgetpu_compiler.programs`): 56 pairs
of google-coral's test_data, edgetpu, coralmicro and project-posenet with .5 MB of parameters and
more, by compilers of 2019 to 2021. There the estimate is at most 6 % too low and 8 % too high; the
bytes in the file are 4 % to 25 % too low. Compilers 15 and 16 add tables (48 kB for a softmax of
1001 classes), which are not counted and weigh more in small models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from keras_kd.deploy import inspect
from keras_kd.deploy.devices.base import Device
from keras_kd.deploy.findings import NOTE, WARNING, Budget, Finding, Verdict

BUDGET = "on-chip parameters"
ESTIMATED = "estimated from the weights' shapes, within 8 % of 56 compiled models"
_OUTPUTS, _INPUTS, _CHANNELS, _POSITIONS = 64, 16, 4, 4  # What a tile is filled up to.
_BYTES_PER_OUTPUT = 12  # A bias and a multiplier for each output channel.
# What logs say was cached where it did not all fit: 5.99 MiB (issue 211) to 7.14 MiB.
_SURELY_CACHED = 0.7
_FEW_BYTES = 64 * 2**10  # Some hundred bytes are streamed of models that fit, keras_lstm_mnist.
_SOURCE = "https://coral.ai/docs/edgetpu/compiler/, 'Parameter data caching'"


def estimated_bytes(info: inspect.ModelInfo, ops: Iterable[inspect.Op]) -> int:
    """Bytes that the parameters of these ops take on the Edge TPU; a constant counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for op in ops:
        for slot, index in enumerate(op.inputs):
            if index < 0 or (op.subgraph, index) in seen:
                continue
            seen.add((op.subgraph, index))
            tensor = info.tensor(index, op.subgraph)
            if tensor.is_constant and tensor.dtype in ("int8", "uint8"):
                total += _laid_out(op.name, slot, tensor.shape)
    return total


def _laid_out(name: str, slot: int, shape: tuple[int, ...]) -> int:
    if slot == 1 and name in ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV") and len(shape) > 1:
        outputs = _up(shape[0], _OUTPUTS)
        inputs = _up(shape[-1], _INPUTS) * math.prod(shape[1:-1])
        return outputs * (inputs + _BYTES_PER_OUTPUT)
    if slot == 1 and name == "DEPTHWISE_CONV_2D" and shape:
        positions = _up(math.prod(shape[:-1]), _POSITIONS)
        return _up(shape[-1], _CHANNELS) * (positions + _BYTES_PER_OUTPUT)
    return math.prod(shape)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def memory(device: Device, cached: int, how: str, streamed: int | None = None) -> Verdict:
    """The budget of the parameter memory, and what is to be said of it.

    Args:
        device: The device.
        cached: Bytes that are to be, or were, put on the chip.
        how: Where the number is from.
        streamed: Bytes that the compiler left outside; None where it did not compile the model.
    """
    fact = device.parameter_memory_bytes
    available = fact.value if fact is not None else None
    budget = Budget(BUDGET, cached, available, how)
    cure = (
        "Use fewer or thinner layers, or split the model over several Edge TPUs "
        "(edgetpu_compiler --num_segments)."
    )
    if streamed:
        message = f"{streamed:,} bytes of parameters are sent to the Edge TPU at each inference."
        severity = WARNING if streamed > _FEW_BYTES else NOTE
        found = Finding(severity, "edgetpu-parameters-streamed", message, cure, (), _SOURCE)
    elif streamed is None and available is not None and cached > available:
        message = (
            f"About {cached:,} bytes of parameters ({how}) do not fit into {available:,} on the "
            "chip: the rest is sent at each inference, which is slow."
        )
        found = Finding(WARNING, "edgetpu-parameters-streamed", message, cure, (), _SOURCE)
    elif streamed is None and available is not None and cached > _SURELY_CACHED * available:
        message = (
            f"About {cached:,} bytes of parameters ({how}) may not all stay on the chip: the "
            "compiler has cached 6 to 7.9 MiB, since activations and code take some."
        )
        found = Finding(NOTE, "edgetpu-parameters-streamed", message, cure, (), _SOURCE)
    else:
        return Verdict(budgets=(budget,))
    return Verdict(findings=(found,), budgets=(budget,))
