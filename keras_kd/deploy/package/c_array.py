"""A converted model as C++ source, for a microcontroller: it has no files to read one from."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_kd.deploy.artifact import Artifact, TensorInfo, check_writable, write_atomically

BYTES_PER_LINE = 12
# C++11's keywords and alternative tokens (ISO/IEC 14882:2011, 2.12), and those added by C++20.
_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t
char16_t char32_t class co_await co_return co_yield compl concept const consteval
constexpr constinit const_cast continue decltype default delete do double dynamic_cast
else enum explicit export extern false float for friend goto if inline int long mutable
namespace new noexcept not not_eq nullptr operator or or_eq private protected public
register reinterpret_cast requires return short signed sizeof static static_assert
static_cast struct switch template this thread_local throw true try typedef typeid
typename union unsigned using virtual void volatile wchar_t while xor xor_eq
"""
KEYWORDS = frozenset(_KEYWORDS.split())


def identifier(name: str) -> str:
    """A valid C and C++ identifier that reads like `name`.

    Every run of other characters than ASCII letters and digits becomes one underscore; leading and
    trailing ones go, since identifiers that start with one are reserved in places; a name that
    would start with a digit, be empty or be a keyword gets `model_` in front.

    Example:
        >>> identifier("digits v2 (int8)")
        'digits_v2_int8'
        >>> identifier("1st")
        'model_1st'
    """
    name = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    return name if name and not name[0].isdigit() and name not in KEYWORDS else f"model_{name}"


@dataclasses.dataclass(frozen=True)
class CArray:
    """The two files that `write_c_array` wrote, and the array's name in them."""

    source: Path
    header: Path
    name: str


def write_c_array(artifact: Artifact, folder: str | os.PathLike, name: str = "student") -> CArray:
    """Writes a converted model as `<name>.cc` and `<name>.h`.

    The array is aligned to 16 bytes, as TFLite Micro wants a model to be, and constant, so that it
    stays in flash. The header has its length and, for each input and output, the name, the shape
    and, where the tensor is quantized, scale and zero point: real = scale * (stored - zero_point).

    Args:
        artifact: The converted model.
        folder: Where the two files go; it must exist.
        name: Stem of the file names; as an identifier it begins every name in the code.

    Returns:
        A `CArray`.

    Raises:
        ValueError: A name that has no ASCII letter or digit, names a folder, or cannot stand in an
            `#include`.
        OSError: The files cannot be written; older ones are left whole.

    Example:
        >>> write_c_array(artifact, "firmware/src").header
        PosixPath('firmware/src/student.h')

    Reference: TFLite Micro, "Get started with microcontrollers": the C++ array and its alignment.
    """
    files = c_array_files(artifact, name)
    header, source = Path(folder) / f"{name}.h", Path(folder) / f"{name}.cc"
    for path in (header, source):
        check_writable(path)
    for path in (header, source):
        write_atomically(path, files[path.name])
    return CArray(source, header, identifier(name))


def c_array_files(artifact: Artifact, name: str = "student") -> dict[str, bytes]:
    """What `write_c_array` writes, by file name.

    Raises:
        ValueError: A name that names no file: see `write_c_array`.
    """
    breaks_include = re.search(r'["\\\x00-\x1f]', name)
    if not re.search(r"[A-Za-z0-9]", name) or breaks_include or Path(name).name != name:
        raise ValueError(
            "Expected a file name without folder, ending or quotes, with a letter or digit in it. "
            f"Received: {name!r}. Hint: 'student'."
        )
    symbol = identifier(name)
    return {
        f"{name}.h": "".join(_header(artifact, symbol)).encode(),
        f"{name}.cc": "".join(_source(artifact, symbol, f"{name}.h")).encode(),
    }


def _header(artifact: Artifact, symbol: str) -> Iterator[str]:
    guard = f"{symbol.upper()}_H_"
    kind = artifact.quantization
    yield f"// A TFLite model ({kind}, {artifact.size_bytes} bytes) as a C++ array.\n"
    yield "// Made by keras_kd.deploy.package.write_c_array. Do not edit: make it again.\n"
    yield f"\n#ifndef {guard}\n#define {guard}\n\n#include <cstddef>\n#include <cstdint>\n\n"
    yield "// The flatbuffer, for tflite::GetModel().\n"
    yield f"extern const unsigned char {symbol}[];\n"
    yield f"constexpr std::size_t {symbol}_length = {artifact.size_bytes};\n"
    yield "\n// Where a tensor has a scale: real = scale * (stored - zero_point).\n"
    for role, tensors in (("input", artifact.inputs), ("output", artifact.outputs)):
        yield f"constexpr int {symbol}_{role}_count = {len(tensors)};\n"
        for index, tensor in enumerate(tensors):
            yield from _constants(tensor, f"{symbol}_{role}_{index}")
    yield f"\n#endif  // {guard}\n"


def _constants(tensor: TensorInfo, prefix: str) -> Iterator[str]:
    yield f"\n// {tensor.dtype}\n"
    yield f'constexpr char {prefix}_name[] = "{_escaped(tensor.name)}";\n'
    yield f"constexpr int {prefix}_rank = {len(tensor.shape)};\n"
    if tensor.shape:  # C++ has no empty arrays.
        sizes = ", ".join(str(size) for size in tensor.shape)
        yield f"constexpr int {prefix}_shape[] = {{{sizes}}};\n"
    yield f"constexpr std::size_t {prefix}_elements = {math.prod(tensor.shape)};\n"
    if tensor.scale is not None:
        yield f"constexpr float {prefix}_scale = {float_literal(tensor.scale)};\n"
        yield f"constexpr std::int32_t {prefix}_zero_point = {tensor.zero_point};\n"


def float_literal(value: float) -> str:
    """A float32 as C++ writes it; nine significant digits give it back exactly."""
    text = f"{value:.9g}"
    return f"{text}f" if any(mark in text for mark in ".e") else f"{text}.0f"


def _escaped(text: str) -> str:
    """A C string literal's inside: octal, since a hexadecimal escape would eat what follows."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )


def _source(artifact: Artifact, symbol: str, header_name: str) -> Iterator[str]:
    yield f'#include "{header_name}"\n\n'
    yield f"alignas(16) const unsigned char {symbol}[] = {{\n"
    yield from _lines(artifact.content)
    yield "};\n\n"
    yield f'static_assert(sizeof({symbol}) == {symbol}_length, "the array is whole");\n'


def _lines(content: Sequence[int]) -> Iterator[str]:
    for start in range(0, len(content), BYTES_PER_LINE):
        part = content[start : start + BYTES_PER_LINE]
        yield "    " + ", ".join(f"0x{byte:02x}" for byte in part) + ",\n"
