"""Reads mutated flatbuffers in a process of its own, with a limit on its memory and its time.

Run as a script: `fuzz_worker.py COUNT SEED RUN_RULES FILE...`. It prints one line of JSON. The
package is imported without its `__init__`, which would bring TensorFlow and its gigabytes along.
"""

import json
import pathlib
import random
import resource
import struct
import sys
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 120
EXTREME = (0, 1, 2, 4, 0x7F, 0x80, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
RUNTIMES = ("tflm", "ethos_u", "edgetpu", "litert", "litert_gpu", "mediapipe")


def light_imports():
    """Make `keras_kd` and `keras_kd.deploy` packages that import nothing by themselves."""
    for name in ("keras_kd", "keras_kd.deploy"):
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT.joinpath(*name.split(".")))]
        sys.modules[name] = package


def mutated(content, others, rng):
    """One damaged copy; the identifier stays, so that it is read at all."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        kind = rng.randrange(6)
        place = rng.randrange(8, len(data) - 8)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind in (1, 2):
            value = rng.choice((*EXTREME, len(data), len(data) - 4, rng.randrange(1 << 32)))
            struct.pack_into("<I", data, place & ~3, value)
        elif kind == 3:
            struct.pack_into("<H", data, place & ~1, rng.choice(EXTREME[:7]))
        elif kind == 4:
            other = rng.choice(others)
            start, size = rng.randrange(len(other) - 8), rng.randrange(1, 64)
            piece = other[start : start + size][: len(data) - place]
            data[place : place + len(piece)] = piece
        elif len(data) > 64 and rng.random() < 0.3:
            del data[rng.randrange(64, len(data)) :]
    return bytes(data)


def whatever_is_read_of(info, devices):
    """Everything that a rule may ask of a model that was read: none of it may fail."""
    from keras_kd.deploy import artifact, macs
    from keras_kd.deploy.findings import Subject, places
    from keras_kd.deploy.rules import common

    for tensor in info.tensors:
        if tensor.dtype in ("int8", "int32", "float32"):
            info.values(tensor)
    for op in info.ops:
        macs.macs(info, op)
    places(info, info.ops)
    artifact.interface(info)
    for device in devices:
        common.judge(Subject(info.content, info, "mutated"), device)


def main(count, seed, run_rules, paths):
    light_imports()
    from keras_kd.deploy import inspect
    from keras_kd.deploy.devices.base import Device, Fact

    took = Fact(("int8",), "this test")
    devices = [Device(r, r, r, input_dtypes=took, output_dtypes=took) for r in RUNTIMES]
    devices = devices if run_rules else []
    contents = [pathlib.Path(path).read_bytes() for path in paths]
    for content in contents:
        whatever_is_read_of(inspect.model_info(content), devices)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng, read, refused, longest = random.Random(seed), 0, 0, 0.0
    for number in range(count):
        content = mutated(contents[number % len(contents)], contents, rng)
        start = time.process_time()
        try:
            info = inspect.model_info(content)
        except ValueError as err:
            if "cut short or damaged" not in str(err) or len(str(err)) > 1000:
                raise
            refused += 1
        else:
            read += 1
            whatever_is_read_of(info, devices)
        longest = max(longest, time.process_time() - start)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(json.dumps({"read": read, "refused": refused, "longest_s": longest, "grown": grown}))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "rules", sys.argv[4:])
