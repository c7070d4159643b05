"""Measures a `.tflite` on data: `keras-kd evaluate`, for people with a checkout.

Example:
    python tools/evaluate_tflite.py student.tflite --data test.npz --runtime litert --runtime tflm
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_kd.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
