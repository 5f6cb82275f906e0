"""Train a Swin Transformer on CIFAR-10/100, or on the built-in scenes and digits.

    python examples/train_cifar.py --dataset scenes
    python examples/train_cifar.py --device gpu --dataset-download

``--help`` lists the options.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before anything installed

from swinpy.train.main import main

if __name__ == "__main__":
    sys.exit(main(prog=sys.argv[0]))
