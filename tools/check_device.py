"""Checks a `.tflite` for a device: `keras-kd check`, for people with a checkout.

Example:
    python tools/check_device.py student.tflite --device nano33ble --html report.html
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_kd.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
