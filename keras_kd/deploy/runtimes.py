"""LiteRT and TFLite Micro behind one protocol: the only import of either.

What goes in and comes out is as the tensors hold it; `interpreter.py` has the real numbers.
"""

from __future__ import annotations

import math
import re
from typing import Any, Protocol

import numpy as np

from keras_kd.deploy import inspect, micro_ops
from keras_kd.deploy.stderr_capture import captured_stderr

# TFLM with too small an arena may end the process (SIGSEGV was seen at sizes anywhere below the
# need, next to others that give an error), so the first one tried is far too large. It costs
# nothing: memory that is not used is not taken from the system (1 GiB: 12 ms, none resident).
SPARE_ARENA_BYTES = 1 << 26
LARGEST_ARENA_BYTES = 1 << 31


class Runtime(Protocol):
    """What `Interpreter` needs of a runtime; slots count in the main subgraph's order."""

    arena_bytes: int | None

    def reset(self) -> None:
        """Forgets the last example, where the model has a memory."""

    def set_input(self, slot: int, value: np.ndarray) -> None:
        """Copies one example in."""

    def invoke(self) -> None:
        """Runs the model."""

    def output(self, slot: int) -> np.ndarray:
        """A copy of one output."""


class LiteRT:
    """LiteRT, with XNNPACK or with the reference kernels.

    Args:
        content: A `.tflite`.
        info: What is in it.
        reference: Whether the kernels are the reference ones.
        num_threads: How many it may use.
        keep_tensors: Whether every tensor can be read after a run.

    Raises:
        RuntimeError: LiteRT refuses the model.
    """

    arena_bytes: int | None = None

    def __init__(
        self,
        content: bytes,
        info: inspect.ModelInfo,
        reference: bool,
        num_threads: int,
        keep_tensors: bool = False,
    ):
        from ai_edge_litert import interpreter as litert

        resolver = litert.OpResolverType
        hint = "convert the model without custom ops."
        if reference:
            hint += " The reference kernels lack some ops that runtime='litert' has."
        # XNNPACK announces itself on the C stderr.
        with captured_stderr(own=re.compile("INFO:")):
            try:
                self._interpreter = litert.Interpreter(
                    model_content=content,
                    num_threads=num_threads,
                    experimental_op_resolver_type=(
                        resolver.BUILTIN_REF if reference else resolver.AUTO
                    ),
                    experimental_preserve_all_tensors=keep_tensors,
                )
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as err:
                custom = f" Custom ops in it: {', '.join(info.custom_ops)}." * bool(info.custom_ops)
                raise RuntimeError(
                    "Expected a model that LiteRT runs. Received one that it refuses: "
                    f"{' '.join(str(err).split())}{custom} Hint: {hint}"
                ) from err
        self._inputs = [index for _, index in info.inputs]
        self._outputs = [index for _, index in info.outputs]
        self._is_stateful = info.is_stateful

    def reset(self) -> None:
        """Forgets the last example, where the model has a memory."""
        if self._is_stateful:
            self._interpreter.reset_all_variables()

    def set_input(self, slot: int, value: np.ndarray) -> None:
        """Copies one example in."""
        self._interpreter.set_tensor(self._inputs[slot], value)

    def invoke(self) -> None:
        """Runs the model."""
        self._interpreter.invoke()

    def output(self, slot: int) -> np.ndarray:
        """Returns a copy of one output."""
        return self._interpreter.get_tensor(self._outputs[slot])

    def tensor(self, index: int) -> np.ndarray:
        """Returns a copy of any tensor, by its index."""
        return self._interpreter.get_tensor(index)


class TFLiteMicro:
    """TFLite Micro, in an arena that is large enough, and then measured.

    TFLM tells Python only that it failed; the reason and the arena's size go to the C stderr.

    Args:
        content: A `.tflite`.
        info: What is in it.
        arena_bytes: The memory there is; None for as much as it takes.

    Raises:
        ImportError: TFLite Micro is not installed.
        ValueError: Ops that it lacks, or a model that needs more memory than there is.
        RuntimeError: It refuses the model.
    """

    def __init__(self, content: bytes, info: inspect.ModelInfo, arena_bytes: int | None):
        missing = micro_ops.missing_ops(info)
        if missing:
            raise ValueError(
                "Expected ops that TFLite Micro has. Received a model that also needs: "
                f"{', '.join(missing)}. Hint: replace the layers they come from, or run the model "
                "with runtime='litert'."
            )
        try:
            from tflite_micro import runtime
        except ImportError as err:
            raise ImportError(
                "Expected the package tflite-micro for runtime='tflm'. It is not installed "
                f"({err}). Hint: pip install keras_kd[mcu]"
            ) from err
        self._from_bytes = runtime.Interpreter.from_bytes
        self._interpreter = self._allocated(content, info)
        self.arena_bytes: int | None = self._measured_arena_bytes()
        self._is_stateful = info.is_stateful
        if arena_bytes is not None and self.arena_bytes > arena_bytes:
            raise ValueError(
                f"Expected a model that fits arena_bytes={arena_bytes}. Received: one that needs "
                f"{self.arena_bytes}. Hint: a smaller input or fewer channels in the widest layers."
            )

    def _allocated(self, content: bytes, info: inspect.ModelInfo) -> Any:
        tensor_bytes = sum(8 * math.prod(tensor.shape) for tensor in info.tensors)
        size = SPARE_ARENA_BYTES + 4 * tensor_bytes
        while True:
            interpreter, reason = self._attempt(content, size)
            if interpreter is not None:
                return interpreter
            # "Failed to ... Requested: 832, available 480, missing: 352" is want of memory.
            if re.search(r"missing: \d+", reason) is None:
                raise RuntimeError(
                    "Expected a model that TFLite Micro runs. Received one that it refuses: "
                    f"{_one_line(reason)}. Hint: it takes int8 and float32 models; dynamic-range "
                    "and float16 ones it does not."
                )
            size *= 2
            if size > LARGEST_ARENA_BYTES:
                raise RuntimeError(
                    f"Expected a model that fits an arena of {LARGEST_ARENA_BYTES} bytes. It does "
                    f"not: {_one_line(reason)}"
                )

    def _attempt(self, content: bytes, size: int) -> tuple[Any, str]:
        try:
            with captured_stderr() as captured:
                return self._from_bytes(content, arena_size=size), ""
        except RuntimeError as err:
            return None, f"{err}\n{captured.text}"

    def _measured_arena_bytes(self) -> int:
        with captured_stderr(own=re.compile(r"\[RecordingMicroAllocator\]")) as captured:
            self._interpreter.print_allocations()
        total = re.search(r"Arena allocation total (\d+) bytes", captured.text)
        if total is None:
            raise RuntimeError(
                "Expected TFLite Micro to print 'Arena allocation total'. Received: "
                f"{captured.text!r}. Hint: another version of tflite-micro than keras_kd[mcu] pins?"
            )
        return int(total.group(1))

    def reset(self) -> None:
        """Forgets the last example, where the model has a memory."""
        if self._is_stateful:
            self._interpreter.reset()

    def set_input(self, slot: int, value: np.ndarray) -> None:
        """Copies one example in."""
        self._interpreter.set_input(value, slot)

    def invoke(self) -> None:
        """Runs the model."""
        self._interpreter.invoke()

    def output(self, slot: int) -> np.ndarray:
        """Returns a copy of one output."""
        return self._interpreter.get_output(slot)


def _one_line(reason: str) -> str:
    return "; ".join(line.strip() for line in reason.splitlines() if line.strip())
