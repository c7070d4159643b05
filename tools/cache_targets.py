"""Asks a teacher once and stores its answers: `keras-kd cache-targets`, from a checkout.

Example:
    python tools/cache_targets.py teacher.keras train.npz --output targets --top-k 5
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_kd.cli import main

if __name__ == "__main__":
    sys.exit(main(["cache-targets", *sys.argv[1:]]))
