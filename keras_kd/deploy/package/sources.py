"""The files of a firmware folder that do not depend on what was checked: code and build files."""

from __future__ import annotations

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import Artifact
from keras_kd.deploy.package import inference_code, resolver, samples
from keras_kd.deploy.package.boards import Board
from keras_kd.deploy.package.c_array import c_array_files
from keras_kd.deploy.package.templates import filled


def firmware_sources(
    name: str,
    artifact: Artifact,
    taken: samples.Samples,
    *,
    board: Board,
    arena_bytes: int,
    arena_note: str,
    samples_note: str,
) -> dict[str, bytes]:
    """The files by path.

    Args:
        name: An identifier that begins every name in the code.
        artifact: The model as the device runs it.
        taken: The recorded samples.
        board: What build systems call the device.
        arena_bytes: The arena's size.
        arena_note: Where that is from, a sentence.
        samples_note: Where the samples are from, a sentence.

    Raises:
        ValueError: An op, or a type of an input or output, that TFLite Micro has not.
    """
    info = inspect.model_info(artifact.content)
    inputs, outputs = artifact.inputs, artifact.outputs
    methods = resolver.methods_of(info)
    registrations = [f"  TF_LITE_ENSURE_STATUS(resolver.{method}());" for method in methods]
    code = {
        "name": name,
        "GUARD": name.upper(),
        "op_count": len(methods),
        "ops": "\n".join(f"  {method}" for method in methods),
        "registrations": "\n".join(registrations),
        "arena_bytes": arena_bytes,
        "arena_provenance": arena_note,
        "provenance": samples_note,
        "sample_count": taken.count,
        "declarations": samples.declarations(inputs, outputs),
        "definitions": samples.definitions(taken, inputs, outputs),
        "cpu": board.cpu or "cortex-m4",
        "platform": board.platform or "FILL-IN",
        "board": board.board or "FILL-IN",
        "framework": board.framework,
        "library_include": "",
        **inference_code.inference_parts(name, info, inputs, outputs),
    }
    run = code | inference_code.run_samples_parts(name, inputs, outputs)
    main = code | inference_code.main_parts(name, inputs, outputs)
    include = "#include <TensorFlowLite.h>\n" if board.has_arduino_library else ""
    texts = {
        f"src/{name}_tensors.h": filled("firmware/tensors.h", code),
        f"src/{name}_resolver.h": filled("firmware/resolver.h", code),
        f"src/{name}_inference.h": filled("firmware/inference.h", code),
        f"src/{name}_inference.cc": filled("firmware/inference.cc", code),
        f"src/{name}_samples.h": filled("firmware/samples.h", code),
        f"src/{name}_samples.cc": filled("firmware/samples.cc", code),
        f"src/{name}_run_samples.cc": filled("firmware/run_samples.cc", run),
        "host/main.cc": filled("firmware/main.cc", main),
        "platformio/main.cpp": filled("firmware/main.ino", code),
        f"examples/{name}_samples/{name}_samples.ino": filled(
            "firmware/main.ino", code | {"library_include": include}
        ),
        "CMakeLists.txt": filled("firmware/CMakeLists.txt", code),
        "cmake/tflite-micro.cmake": filled("firmware/tflite-micro.cmake", code),
        "cmake/cortex-m.cmake": filled("firmware/cortex-m.cmake", code),
        "platformio.ini": filled("firmware/platformio.ini", code),
        "lib/tflite-micro/library.json": filled("firmware/library.json", code),
        "library.properties": filled("firmware/library.properties", code),
    }
    return {
        **{f"src/{file}": text for file, text in c_array_files(artifact, f"{name}_data").items()},
        **{path: text.encode() for path, text in texts.items()},
        f"{name}.tflite": artifact.content,
    }
