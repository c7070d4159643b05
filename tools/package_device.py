"""Packages a .tflite for a device: `keras-kd package`, for people with a checkout.

Example:
    python tools/package_device.py student.tflite --device nano33ble --output firmware
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_kd.cli import main

if __name__ == "__main__":
    sys.exit(main(["package", *sys.argv[1:]]))
