"""A firmware folder for TFLite Micro: model, resolver, inference, recorded samples, build files."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

from keras_kd.deploy import inspect, vela
from keras_kd.deploy.arena import arena_to_reserve
from keras_kd.deploy.artifact import Artifact, TensorInfo, interface
from keras_kd.deploy.devices import Device
from keras_kd.deploy.interpreter import Interpreter
from keras_kd.deploy.package import inference_code, resolver, samples
from keras_kd.deploy.package.boards import Board, board_of
from keras_kd.deploy.package.c_array import identifier
from keras_kd.deploy.package.folder import MANIFEST
from keras_kd.deploy.package.sources import firmware_sources
from keras_kd.deploy.package.templates import filled

# Vela counts tensors only; TFLM keeps a structure for each beside them.
NPU_EXTRA_BYTES = 4096
TFLM_COMMIT = "90b983c2b3f1480642e040bbd2ddb37b998f3424"


@dataclasses.dataclass(frozen=True)
class Firmware:
    """A firmware folder's files before they are written.

    Attributes:
        name: Begins every name in the code.
        sources: Everything but README.md and manifest.json, by path in the folder.
        facts: What the two say, as JSON values.
        texts: The README's parts.
    """

    name: str
    sources: dict[str, bytes]
    facts: dict[str, Any]
    texts: dict[str, str]

    def files(self, host_run: str = "") -> dict[str, bytes]:
        """All files; `host_run` says what building and running on this computer gave."""
        checked, not_run = list(self.facts["checked"]), list(self.facts["not_run"])
        if host_run:
            checked.append(host_run)
        else:
            not_run.insert(
                0,
                "The sources were not compiled with TFLite Micro: none was given (--tflm PATH, or "
                "the environment variable KERAS_KD_TFLM).",
            )
        readme = filled(
            "firmware/README.md",
            self.texts | {"checked": _bullets(checked), "not_run": _bullets(not_run)},
        )
        files = {"README.md": readme.encode(), **self.sources}
        manifest = self.facts | {
            "checked": checked,
            "not_run": not_run,
            "files": [*files, MANIFEST],
        }
        return files | {MANIFEST: (json.dumps(manifest, indent=2) + "\n").encode()}


def firmware(
    artifact: Artifact,
    device: Device,
    *,
    label: str = "student",
    x: Any = None,
    sample_count: int | None = None,
    optimised: vela.Optimised | None = None,
) -> Firmware:
    """The firmware of a model for a microcontroller, or for one with an Ethos-U NPU.

    Args:
        artifact: The converted model.
        device: A device of runtime "tflm" or "ethos_u".
        label: What a person calls the model; as an identifier it begins every name in the code.
        x: Examples to record, as `Interpreter.predict` takes them; None makes some.
        sample_count: How many of them; None takes up to ten that fit in 64 KiB.
        optimised: What Vela made of the model for that device; None asks it.

    Returns:
        A `Firmware`.

    Raises:
        ImportError: Without tflite-micro, or for an NPU without ethos-u-vela.
        ValueError: A model or examples that TFLite Micro does not take.
        RuntimeError: It refuses the model; the message has what it said.
    """
    name = identifier(label).strip("_")
    interpreter = Interpreter(artifact, "tflm")
    taken = samples.recorded(interpreter, x, count=sample_count)
    on_device, arena_bytes, arena_note = _for_device(artifact, device, interpreter, optimised)
    board = board_of(device)
    sources = firmware_sources(
        name,
        on_device,
        taken,
        board=board,
        arena_bytes=arena_bytes,
        arena_note=arena_note,
        samples_note=_provenance(taken),
    )
    methods = resolver.methods_of(inspect.model_info(on_device.content))
    facts = _facts(artifact, on_device, device, label, methods, interpreter, taken)
    facts["arena_bytes"] = arena_bytes
    texts = _texts(name, on_device, device, label, methods, taken, arena_bytes, arena_note, board)
    return Firmware(name, sources, facts, texts)


def _for_device(
    artifact: Artifact,
    device: Device,
    interpreter: Interpreter,
    optimised: vela.Optimised | None,
) -> tuple[Artifact, int, str]:
    """The model as the device runs it, its arena, and where that number is from."""
    if device.runtime != "ethos_u":
        used = interpreter.arena_bytes or 0
        size = arena_to_reserve(used)
        how = f"TFLite Micro used {used} bytes on the packaging computer; 20 % and 1 KiB on top."
        return artifact, size, how
    if optimised is None:
        optimised = vela.optimised(artifact.content, device)
    inputs, outputs = interface(inspect.model_info(optimised.content))
    if [_form(t) for t in (*inputs, *outputs)] != [
        _form(t) for t in (*interpreter.inputs, *interpreter.outputs)
    ]:
        raise RuntimeError(
            "Expected inputs and outputs of Vela's model in the original's order and form. "
            f"Received: {[_form(t) for t in (*inputs, *outputs)]}."
        )
    size = arena_to_reserve(optimised.sram_bytes + NPU_EXTRA_BYTES)
    how = (
        f"Vela's peak of SRAM is {optimised.sram_bytes} bytes; 4 KiB for TFLite Micro's own, then "
        "20 % and 1 KiB on top. Not measured."
    )
    on_device = dataclasses.replace(
        artifact,
        content=optimised.content,
        inputs=interpreter.inputs,
        outputs=interpreter.outputs,
        path=None,
    )
    return on_device, size, how


def _form(tensor: TensorInfo) -> tuple:
    return tensor.shape, tensor.dtype, tensor.scale, tensor.zero_point


def _provenance(taken: samples.Samples) -> str:
    what = "given examples" if taken.are_real else f"made inputs (seed {samples.MADE_SEED})"
    version = importlib.metadata.version("tflite-micro")
    return f"{taken.count} {what}; outputs of tflite-micro {version} in Python."


def _facts(
    artifact: Artifact,
    on_device: Artifact,
    device: Device,
    label: str,
    methods: Sequence[str],
    interpreter: Interpreter,
    taken: samples.Samples,
) -> dict[str, Any]:
    checked = [
        f"TFLite Micro ran the model in Python: {_provenance(taken)}",
    ]
    not_run = [
        f"Nothing was run on {device.title}.",
        "PlatformIO and Arduino builds were not run: their files keep to the formats' rules, and "
        "board names were read.",
    ]
    if device.runtime == "ethos_u":
        not_run.insert(
            0,
            "The NPU was not run. The expected outputs are those of TFLite Micro's reference "
            "kernels for the model before Vela; whether the NPU's are the same to the last bit is "
            "what the samples will show.",
        )
    if not taken.are_real:
        not_run.append("No real examples were given: the samples are random numbers.")
    return {
        "label": label,
        "device": device.name,
        "runtime": device.runtime,
        "model_bytes": on_device.size_bytes,
        "model_sha256": hashlib.sha256(on_device.content).hexdigest(),
        "source_sha256": hashlib.sha256(artifact.content).hexdigest(),
        "inputs": [dataclasses.asdict(tensor) for tensor in interpreter.inputs],
        "outputs": [dataclasses.asdict(tensor) for tensor in interpreter.outputs],
        "resolver": list(methods),
        "tflm_commit": TFLM_COMMIT,
        "arena_used_bytes_here": interpreter.arena_bytes,
        "samples": taken.count,
        "samples_are_real": taken.are_real,
        "checked": checked,
        "not_run": not_run,
    }


def _texts(
    name: str,
    on_device: Artifact,
    device: Device,
    label: str,
    methods: Sequence[str],
    taken: samples.Samples,
    arena_bytes: int,
    arena_note: str,
    board: Board,
) -> dict[str, str]:
    inputs, outputs = on_device.inputs, on_device.outputs
    sample_bytes = sum(array.nbytes for array in (*taken.inputs, *taken.outputs))
    memory = [
        f"Flash: {on_device.size_bytes:,} bytes for the model, {sample_bytes:,} for the samples, "
        "and TFLite Micro with the kernels of its ops.",
        f"RAM: an arena of {arena_bytes:,} bytes. {arena_note}",
    ]
    for budget, fact in (("Flash", device.flash_bytes), ("RAM", device.ram_bytes)):
        if fact is not None:
            memory.append(f"{device.title} has {fact.value:,} bytes of {budget} ({fact.source}).")
    return {
        "label": label,
        "name": name,
        "title": device.title,
        "model_bytes": f"{on_device.size_bytes:,}",
        "op_count": str(len(methods)),
        "ops": ", ".join(f"`{method}`" for method in methods),
        "sample_count": f"{taken.count} {'given' if taken.are_real else 'made-up'}",
        "usage": inference_code.usage(name, inputs, outputs),
        "tensor_table": _tensor_table(inputs, outputs),
        "state_text": _STATE_TEXT if inspect.model_info(on_device.content).is_stateful else "",
        "memory": _bullets(memory),
        "npu_text": _NPU_TEXT if device.runtime == "ethos_u" else "",
        "platformio_text": (
            f"`platformio.ini` names the board `{board.board}`. "
            if board.board
            else "Fill in platform and board in `platformio.ini`: none is known for this device. "
        )
        + "First make TFLite Micro's tree in `lib/`; FOLDER is this folder:",
        "arduino_text": _ARDUINO_LIBRARY if board.has_arduino_library else _ARDUINO_OTHER,
    }


def _tensor_table(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str:
    lines = ["| | name | shape | stored as | real = |", "| --- | --- | --- | --- | --- |"]
    for role, tensors in (("input", inputs), ("output", outputs)):
        for i, tensor in enumerate(tensors):
            real = (
                "stored"
                if tensor.scale is None
                else f"{tensor.scale:.9g} * (stored - {tensor.zero_point})"
            )
            shown = tensor.name.replace("|", "\\|").replace("\n", " ")
            lines.append(
                f"| {role} {i} | {shown} | {list(tensor.shape)} | {tensor.dtype} | {real} |"
            )
    return "\n".join(lines)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


_STATE_TEXT = """\
The model has a memory. `predict()` starts from its initial state each time, as the samples do;
`predict_next()` goes on from the last run, for a stream, and `reset()` forgets.

"""
_NPU_TEXT = """\
The model has ops for the Ethos-U NPU: TFLite Micro has to be built with its driver
(`--makefile_options="... CO_PROCESSOR=ethos_u"`), and the application starts the driver before
`setup()`. On a computer without one, the op is missing and the samples fail."""
_ARDUINO_LIBRARY = """\
This folder is a library: put it into the sketchbook's `libraries/`, beside
https://github.com/tensorflow/tflite-micro-arduino-examples, and open its example. That library is
of 2023: an op that it lacks does not compile. The `.cc` files want Arduino CLI with
https://github.com/arduino/arduino-cli/pull/2273, or an IDE with it."""
_ARDUINO_OTHER = """\
This folder is a library (`libraries/` of the sketchbook) with an example. TFLite Micro's own
Arduino library (https://github.com/tensorflow/tflite-micro-arduino-examples) is made for the Nano
33 BLE Sense; for this device add a library that has TFLite Micro, and include its header in the
sketch first."""
