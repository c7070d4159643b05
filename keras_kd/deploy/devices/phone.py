"""Android phones, as the three ways that an application runs a `.tflite` on one.

Which processor a phone has is not known here, so no fact tells of speed or memory. The sources in
google-ai-edge/LiteRT were read at commit f67457790c9c2ab67347d6fe53270e8d3df20868 (2.3.0), those in
google-ai-edge/mediapipe at the commits that the rules name.
"""

from __future__ import annotations

from keras_kd.deploy.devices.base import Device, Fact

LITERT_VERSION = "2.3.0"
LITERT = "github.com/google-ai-edge/LiteRT"
MEDIAPIPE = "github.com/google-ai-edge/mediapipe"

# TensorBuffer has methods for these; a uint8 goes through the one for int8, which copies bytes.
_APPLICATION_DTYPES = Fact(
    ("float32", "int8", "uint8", "int32", "int64", "bool"),
    f"{LITERT}, litert/kotlin/src/main/kotlin/com/google/ai/edge/litert/TensorBuffer.kt",
)
_MIN_SDK = Fact(24, f"{LITERT}, litert/kotlin/src/main/AndroidManifest.xml, uses-sdk")
_PACKAGE = Fact(
    f"com.google.ai.edge.litert:litert:{LITERT_VERSION}",
    "developers.google.com/edge/litert/next/android_kotlin, Add Maven package",
)

DEVICES: tuple[Device, ...] = (
    Device(
        name="android-cpu",
        title="Android phone, LiteRT on the CPU",
        runtime="litert",
        input_dtypes=_APPLICATION_DTYPES,
        output_dtypes=_APPLICATION_DTYPES,
        options={"min_sdk": _MIN_SDK, "package": _PACKAGE},
    ),
    Device(
        name="android-gpu",
        title="Android phone, LiteRT on the GPU",
        runtime="litert_gpu",
        input_dtypes=_APPLICATION_DTYPES,
        output_dtypes=_APPLICATION_DTYPES,
        options={
            "min_sdk": _MIN_SDK,
            "package": _PACKAGE,
            "gpu_package": Fact(
                f"com.google.ai.edge.litert:litert-gpu:{LITERT_VERSION}",
                "developers.google.com/edge/litert/next/android_kotlin, Add Maven package",
            ),
            "compute_dtypes": Fact(
                ("float16", "float32"),
                "ai.google.dev/edge/litert/performance/gpu, GPU ML operations support",
            ),
            "partitions": Fact(
                1,
                f"{LITERT}, ml_drift_delegate/delegate/delegate_opencl.cc, GetOpsToReplace with "
                "max_delegated_partitions=1",
            ),
        },
    ),
    Device(
        name="android-mediapipe",
        title="Android phone, MediaPipe Tasks",
        runtime="mediapipe",
        input_dtypes=Fact(
            ("uint8", "float32"),
            f"{MEDIAPIPE}, mediapipe/tasks/cc/vision/utils/image_tensor_specs.cc, "
            "BuildInputImageTensorSpecs",
            "mediapipe 1.2.2 on a PC: ImageClassifier runs both and refuses int8",
        ),
        output_dtypes=Fact(
            ("uint8", "float32", "bool"),
            f"{MEDIAPIPE}, mediapipe/tasks/cc/components/processors/"
            "classification_postprocessing_graph.cc, GetClassificationHeadsProperties",
            "mediapipe 1.2.2 on a PC: ImageClassifier runs uint8 and float32, and refuses int8",
        ),
        options={
            "min_sdk": Fact(24, "ai.google.dev/edge/mediapipe/solutions/setup_android"),
            "package": Fact(
                "com.google.mediapipe:tasks-vision",
                "ai.google.dev/edge/mediapipe/solutions/vision/image_classifier/android",
            ),
        },
    ),
)
