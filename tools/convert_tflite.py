"""Converts a Keras model to TFLite: `keras-kd convert`, for people with a checkout.

Example:
    python tools/convert_tflite.py student.keras --quantize int8 --calibration data.npz \
        --output student.tflite
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_kd.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
