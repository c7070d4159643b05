"""All that is known of a converted student on one page: `keras-kd report`, from a checkout.

Example:
    python tools/report_student.py student.tflite --student student.keras --data test.npz \
        --device nano33ble --html report.html
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keras_kd.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
