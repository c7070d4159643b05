"""The C array: its text in full without a compiler, and what a compiler makes of it."""

import dataclasses
import re
import shutil
import struct
import subprocess

import pytest

from keras_kd.deploy.artifact import Artifact, TensorInfo
from keras_kd.deploy.package import write_c_array
from keras_kd.deploy.package.c_array import KEYWORDS, identifier

CONTENT = bytes(range(256)) + b"TFL3\x00\xff"
SCALE = struct.unpack("f", struct.pack("f", 1 / 255))[0]
COMPILER = shutil.which("g++")


@pytest.fixture
def artifact():
    return Artifact(
        content=CONTENT,
        quantization="int8",
        inputs=(TensorInfo("image", (1, 8, 8, 1), "int8", SCALE, -128),),
        outputs=(
            TensorInfo('odd "name"\\ ??/ é', (1, 10), "int8", 2.0, 0),
            TensorInfo("index", (), "int32"),
        ),
    )


def parsed(source):
    """The bytes that a C compiler would read out of the array's braces."""
    body = re.search(r"alignas\(16\) const unsigned char (\w+)\[\] = \{(.*?)\};", source, re.DOTALL)
    return body[1], bytes(int(number, 0) for number in body[2].split(",") if number.strip())


def test_source_is_the_flatbuffer_aligned_and_constant(artifact, tmp_path):
    written = write_c_array(artifact, tmp_path)
    source = written.source.read_text()
    assert parsed(source) == ("student", CONTENT)
    assert source.startswith('#include "student.h"\n')
    assert source.isascii()
    assert max(map(len, source.splitlines())) <= 100


def test_header_in_full(artifact, tmp_path):
    assert write_c_array(artifact, tmp_path).header.read_text() == (
        "// A TFLite model (int8, 262 bytes) as a C++ array.\n"
        "// Made by keras_kd.deploy.package.write_c_array. Do not edit: make it again.\n"
        "\n#ifndef STUDENT_H_\n#define STUDENT_H_\n\n#include <cstddef>\n#include <cstdint>\n\n"
        "// The flatbuffer, for tflite::GetModel().\n"
        "extern const unsigned char student[];\n"
        "constexpr std::size_t student_length = 262;\n"
        "\n// Where a tensor has a scale: real = scale * (stored - zero_point).\n"
        "constexpr int student_input_count = 1;\n"
        "\n// int8\n"
        'constexpr char student_input_0_name[] = "image";\n'
        "constexpr int student_input_0_rank = 4;\n"
        "constexpr int student_input_0_shape[] = {1, 8, 8, 1};\n"
        "constexpr std::size_t student_input_0_elements = 64;\n"
        "constexpr float student_input_0_scale = 0.00392156886f;\n"
        "constexpr std::int32_t student_input_0_zero_point = -128;\n"
        "constexpr int student_output_count = 2;\n"
        "\n// int8\n"
        'constexpr char student_output_0_name[] = "odd \\042name\\042\\134 \\077\\077/ \\303\\251";'
        "\nconstexpr int student_output_0_rank = 2;\n"
        "constexpr int student_output_0_shape[] = {1, 10};\n"
        "constexpr std::size_t student_output_0_elements = 10;\n"
        "constexpr float student_output_0_scale = 2.0f;\n"
        "constexpr std::int32_t student_output_0_zero_point = 0;\n"
        "\n// int32\n"
        'constexpr char student_output_1_name[] = "index";\n'
        "constexpr int student_output_1_rank = 0;\n"
        "constexpr std::size_t student_output_1_elements = 1;\n"
        "\n#endif  // STUDENT_H_\n"
    )


@pytest.mark.parametrize("scale", [1 / 255, 0.1, 3.0, 1e-9, 7.5e12, 0.003921568859368563])
def test_scales_come_back_as_the_same_float32(artifact, tmp_path, scale):
    scale = struct.unpack("f", struct.pack("f", scale))[0]
    tensor = dataclasses.replace(artifact.inputs[0], scale=scale)
    written = write_c_array(dataclasses.replace(artifact, inputs=(tensor,)), tmp_path)
    literal = re.search(r"input_0_scale = (\S+)f;", written.header.read_text())[1]
    assert struct.unpack("f", struct.pack("f", float(literal)))[0] == scale
    assert "." in literal or "e" in literal  # `3f` is no C++ literal.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("student", "student"),
        ("digits v2 (int8)", "digits_v2_int8"),
        ("1st", "model_1st"),
        ("_Reserved__name_", "Reserved_name"),
        ("class", "model_class"),
        ("größe", "gr_e"),
        ("Class", "Class"),
    ],
)
def test_identifier(name, expected):
    assert identifier(name) == expected


@pytest.mark.parametrize("name", [*sorted(KEYWORDS), "a-b.c", "9", "x y\n;z", "mÿ"])
def test_identifier_is_valid_whatever_the_name(name):
    result = identifier(name)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", result)
    assert result not in KEYWORDS
    assert "__" not in result  # Reserved in C++ wherever it stands.


@pytest.mark.parametrize("name", ["", "..", "___", "a/b", "é", 'a"b', "a\\b", "a\nb"])
def test_a_name_that_names_no_file_is_refused(artifact, tmp_path, name):
    with pytest.raises(ValueError, match=r"Expected a file name .* Received"):
        write_c_array(artifact, tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_an_error(artifact, tmp_path):
    with pytest.raises(OSError, match="Expected an output path that can be written"):
        write_c_array(artifact, tmp_path / "none")


def test_writing_again_replaces_and_leaves_nothing_else(artifact, tmp_path):
    write_c_array(artifact, tmp_path)
    write_c_array(dataclasses.replace(artifact, content=b"abc"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student.cc", "student.h"]
    assert parsed((tmp_path / "student.cc").read_text())[1] == b"abc"


HOST_PROGRAM = """
#include <cstdio>
#include "NAME.h"
#include "NAME.h"
int main() {
  if (reinterpret_cast<std::uintptr_t>(SYMBOL) % 16 != 0) return 1;
  if (SYMBOL_input_0_zero_point != -128 || SYMBOL_input_0_shape[1] != 8) return 2;
  if (SYMBOL_input_0_scale != 1.0f / 255.0f || SYMBOL_output_0_scale != 2.0f) return 3;
  if (SYMBOL_input_count != 1 || SYMBOL_output_count != 2) return 4;
  if (sizeof(SYMBOL_output_0_name) != sizeof("odd \\"name\\"\\\\ ?\\?/ \\303\\251")) return 5;
  if (SYMBOL_input_0_rank != 4 || SYMBOL_input_0_elements != 64) return 6;
  if (SYMBOL_output_0_elements != 10 || SYMBOL_output_1_elements != 1) return 7;
  if (SYMBOL_output_0_rank + SYMBOL_output_1_rank != 2 || SYMBOL_output_0_shape[1] != 10) return 8;
  if (SYMBOL_output_0_zero_point || SYMBOL_input_0_name[0] != 'i') return 9;
  if (SYMBOL_output_1_name[0] != 'i') return 10;
  return std::fwrite(SYMBOL, 1, SYMBOL_length, stdout) == SYMBOL_length ? 0 : 11;
}
"""


# The text is checked in full above; only what a compiler says of it needs one.
@pytest.mark.skipif(COMPILER is None, reason="needs g++, which is not installed")
@pytest.mark.parametrize("name", ["student", "1 odd-name"])
def test_compiles_without_warnings_and_holds_the_bytes(artifact, tmp_path, name):
    written = write_c_array(artifact, tmp_path, name)
    program = HOST_PROGRAM.replace("NAME", name).replace("SYMBOL", written.name)
    (tmp_path / "main.cc").write_text(program)
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = [COMPILER, *flags, "main.cc", written.source.name, "-o", "program"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([tmp_path / "program"], capture_output=True)
    assert ran.returncode == 0
    assert ran.stdout == CONTENT
