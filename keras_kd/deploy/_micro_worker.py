"""Tries a model in TFLite Micro: the child process of `keras_kd.deploy.micro_process`.

It is run as a file, in a process of its own, because TFLM can end its process over a model that it
does not take. It imports neither keras_kd nor TensorFlow, so that it starts at once.

Its arguments are the model's path, the number of its inputs, and the first and the largest arena to
try, in bytes. What TFLM says goes to the C stderr; a word on stdout says how far it came:
"allocated", then "ran".
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main() -> None:
    """Allocates, runs once on zeros, and has the arena's use printed."""
    from tflite_micro import runtime

    content = Path(sys.argv[1]).read_bytes()
    inputs, size, largest = (int(argument) for argument in sys.argv[2:])
    while True:
        print("attempt", file=sys.stderr, flush=True)
        try:
            interpreter = runtime.Interpreter.from_bytes(content, arena_size=size)
            break
        except RuntimeError:
            # The parent reads why; more memory helps only against want of memory, and costs little.
            size *= 2
            if size > largest:
                raise
    print("allocated", flush=True)
    for index in range(inputs):
        details = interpreter.get_input_details(index)
        interpreter.set_input(np.zeros(details["shape"], details["dtype"]), index)
    interpreter.invoke()
    interpreter.print_allocations()
    print("ran", flush=True)


if __name__ == "__main__":
    main()
