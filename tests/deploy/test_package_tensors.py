"""The firmware's code that needs no TFLM, compiled and run here against Python's arithmetic."""

import shutil
import struct
import subprocess

import numpy as np
import pytest

from keras_kd.deploy.artifact import Artifact, TensorInfo
from keras_kd.deploy.interpreter import to_real, to_stored
from keras_kd.deploy.package import samples
from keras_kd.deploy.package.c_array import c_array_files
from keras_kd.deploy.package.templates import filled

COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs g++, which is not installed")
FLAGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]

# One quantization of each type; scales that float32 holds and such that it does not.
TENSORS = tuple(
    TensorInfo(f"t{i}", (1, 3), dtype, float(np.float32(scale)), zero_point)
    for i, (dtype, scale, zero_point) in enumerate(
        [
            ("int8", 1.0, -128),
            ("int8", 1 / 255, -128),
            ("int8", 0.584702909, 83),
            ("uint8", 1 / 127.5, 128),
            ("uint8", 0.1, 0),
            ("int16", 1 / 32768, 0),
            ("int16", 3e-5, 7),
            ("int32", 0.25, -3),
        ]
    )
)


def compiled(folder, program, *files, standard="c++11"):
    """Writes and compiles a program; returns its path."""
    (folder / "program.cc").write_text(program)
    command = [COMPILER, f"-std={standard}", *FLAGS, "program.cc", *files, "-o", "program"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder / "program"


def write_headers(folder, inputs=TENSORS, outputs=TENSORS[:1]):
    artifact = Artifact(b"TFL3", "int8", tuple(inputs), tuple(outputs))
    for name, content in c_array_files(artifact, "net_data").items():
        (folder / name).write_bytes(content)
    values = {"name": "net", "GUARD": "NET"}
    (folder / "net_tensors.h").write_text(filled("firmware/tensors.h", values))


PROGRAM = """
#define round(x) BROKEN  // As in some Arduino cores.
#define min(a, b) BROKEN
#define max(a, b) BROKEN
#include <cstdio>
#include "net_tensors.h"
#include "net_tensors.h"
using namespace net_inference;
template <typename Stored>
void run(const float* values, std::size_t count, float scale, std::int32_t zero_point) {
  for (std::size_t i = 0; i < count; ++i) {
    const Stored stored = quantize<Stored>(values[i], scale, zero_point);
    const float real = dequantize(stored, scale, zero_point);
    std::int32_t wide = stored;
    std::fwrite(&wide, sizeof wide, 1, stdout);
    std::fwrite(&real, sizeof real, 1, stdout);
  }
}
int main() {
  static float values[100000];
  const std::size_t count = std::fread(values, sizeof(float), 100000, stdin);
@{runs}
  return 0;
}
"""


def values_around(tensor):
    """Halves between steps, their neighbours in float32, the ends and beyond, at random between."""
    scale, zero_point = np.float32(tensor.scale), tensor.zero_point
    limits = np.iinfo(tensor.dtype)
    low, high = max(limits.min, -40000), min(limits.max, 70000)
    rng = np.random.default_rng(0)
    steps = np.unique(np.r_[rng.integers(low, high, 300), low, high, zero_point, low - 3, high + 3])
    halves = ((steps - zero_point + 0.5).astype(np.float32) * scale).astype(np.float32)
    infinity = np.float32(np.inf)
    near = [np.nextafter(halves, -infinity), halves, np.nextafter(halves, infinity)]
    below_half = np.float32(0.49999997) * scale  # floor(x + 0.5) would make it 1.
    extremes = [0.0, -0.0, below_half, -below_half, 1e-45, 3e38, -3e38, np.inf, -np.inf]
    noise = rng.normal(0, float(scale) * 300, 500)
    return np.concatenate([*near, extremes, noise]).astype(np.float32)


@needs_compiler
@pytest.mark.parametrize("standard", ["c++11", "c++17"])
def test_quantize_and_dequantize_equal_pythons_bit_for_bit(tmp_path, standard):
    write_headers(tmp_path)
    calls = "\n".join(
        f"  run<{samples.c_type(t)}>(values, count, net_data_input_{i}_scale, "
        f"net_data_input_{i}_zero_point);"
        for i, t in enumerate(TENSORS)
    )
    program = compiled(tmp_path, PROGRAM.replace("@{runs}", calls), standard=standard)
    values = np.concatenate([values_around(tensor) for tensor in TENSORS])
    ran = subprocess.run([program], input=values.tobytes(), capture_output=True, check=True)
    results = np.frombuffer(ran.stdout, [("stored", "<i4"), ("real", "<f4")])
    results = results.reshape(len(TENSORS), len(values))
    for tensor, result in zip(TENSORS, results, strict=True):
        with np.errstate(over="ignore"):  # 3e38 / scale is infinite, there and here.
            stored = to_stored(values, tensor)
        np.testing.assert_array_equal(result["stored"], stored.astype("int32"), tensor.dtype)
        real = to_real(stored, tensor)
        np.testing.assert_array_equal(result["real"].view("<i4"), real.view("<i4"))


ARRAYS = """
#include <cmath>
#include "net_tensors.h"
using namespace net_inference;
int main() {
  const float numbers[] = {0.5f, -INFINITY, 1.5f}, with_nan[] = {1.0f, NAN, 2.0f};
  std::int8_t stored[3] = {}, copied[3] = {};
  float real[3] = {};
  if (!quantize(numbers, stored, 3, 1.0f, 0)) return 1;
  if (stored[0] != 1 || stored[1] != -128 || stored[2] != 2) return 2;
  dequantize(stored, real, 3, 0.5f, 1);
  if (real[0] != 0.0f || real[1] != -64.5f || real[2] != 0.5f) return 3;
  if (quantize(with_nan, stored, 3, 1.0f, 7)) return 4;
  if (stored[0] != 8 || stored[1] != 7 || stored[2] != 9) return 5;
  copy(stored, copied, 3);
  return copied[0] == 8 && copied[2] == 9 ? 0 : 6;
}
"""


@needs_compiler
def test_arrays_and_nan(tmp_path):
    write_headers(tmp_path)
    assert subprocess.run([compiled(tmp_path, ARRAYS)]).returncode == 0


@needs_compiler
def test_fast_math_is_refused_since_nan_would_pass(tmp_path):
    write_headers(tmp_path)
    (tmp_path / "program.cc").write_text(ARRAYS)
    command = [COMPILER, "-std=c++11", "-ffast-math", "-c", "program.cc"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode != 0
    assert "build without it" in built.stderr


EVERY_TYPE = {
    "bool": [True, False, True],
    "int8": [-128, 127, 0],
    "uint8": [0, 255, 7],
    "int16": [-32768, 32767, 1],
    "uint16": [0, 65535, 1],
    "int32": [-(2**31), 2**31 - 1, 5],
    "uint32": [0, 2**32 - 1, 5],
    "int64": [-(2**63), 2**63 - 1, 5],
    "float32": [0.1, -np.inf, 3.4e38],
}


@needs_compiler
def test_recorded_samples_of_every_type_come_back(tmp_path):
    tensors = tuple(TensorInfo(dtype, (1, 3), dtype) for dtype in EVERY_TYPE)
    arrays = tuple(np.array([row, row[::-1]], d)[:, None] for d, row in EVERY_TYPE.items())
    taken = samples.Samples(arrays, arrays, are_real=True)
    write_headers(tmp_path, tensors, tensors)
    code = {
        "name": "net",
        "GUARD": "NET",
        "provenance": "a test",
        "sample_count": taken.count,
        "declarations": samples.declarations(tensors, tensors),
        "definitions": samples.definitions(taken, tensors, tensors),
    }
    for file in ("samples.h", "samples.cc"):
        (tmp_path / f"net_{file}").write_text(filled(f"firmware/{file}", code))
    program = '#include <cstdio>\n#include "net_samples.h"\nint main() {\n'
    for role in ("input", "output"):
        for i in range(len(tensors)):
            array = f"net_inference::sample_{role}_{i}"
            program += f"  std::fwrite({array}, 1, sizeof {array}, stdout);\n"
    ran = subprocess.run(
        [compiled(tmp_path, program + "}\n", "net_samples.cc")], capture_output=True, check=True
    )
    assert ran.stdout == 2 * b"".join(array.tobytes() for array in arrays)


COMPARE = """
#include <cmath>
#include <cstdio>
#include "net_samples.h"
using namespace net_inference;
void print(const char* text) { std::fputs(text, stdout); }
int main() {
  const std::int8_t a[] = {1, -2, 3}, b[] = {1, -2, 4};
  const float c[] = {1.0f, 100.0f}, near[] = {1.009f, 100.0f}, far[] = {1.011f, 100.0f};
  const float nan[] = {NAN, 100.0f}, many[40] = {};
  if (!is_as_expected(a, a, 3) || is_as_expected(a, b, 3)) return 1;
  if (!is_as_expected(c, near, 2) || is_as_expected(c, far, 2)) return 2;
  if (is_as_expected(c, nan, 2) || is_as_expected(nan, c, 2)) return 3;
  if (!compare(print, "same", a, a, 3) || compare(print, "other", a, b, 3)) return 4;
  print_values(print, "real", c, 2);
  print_values(print, "many", many, 40);
  return 0;
}
"""


@needs_compiler
def test_comparing_and_printing(tmp_path):
    tensor = TensorInfo("t", (1, 3), "int8", 1.0, 0)
    write_headers(tmp_path, [tensor], [tensor])
    code = {"name": "net", "GUARD": "NET", "provenance": "a test", "sample_count": 1}
    code["declarations"] = samples.declarations((tensor,), (tensor,))
    (tmp_path / "net_samples.h").write_text(filled("firmware/samples.h", code))
    ran = subprocess.run([compiled(tmp_path, COMPARE)], capture_output=True, text=True)
    assert ran.returncode == 0
    assert ran.stdout.splitlines() == [
        "same",
        "    expected 1 -2 3",
        "    actual   1 -2 3",
        "other",
        "    expected 1 -2 3",
        "    actual   1 -2 4",
        "real 1 100",
        f"many{' 0' * 32} ...",
    ]


def test_a_type_without_a_counterpart_is_refused():
    with pytest.raises(ValueError, match=r"Expected inputs .* Received: 't' of float16\. Hint"):
        samples.c_type(TensorInfo("t", (1,), "float16"))


def test_float_literals_are_nine_digits():
    values = np.random.default_rng(0).normal(0, 1, 200).astype("float32")
    literals = [samples.float_literal(float(value)) for value in values]
    back = [struct.unpack("f", struct.pack("f", float(text[:-1])))[0] for text in literals]
    assert back == values.tolist()
