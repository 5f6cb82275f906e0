"""``python -m swinpy COMMAND``."""

import sys

from swinpy.cli import main

if __name__ == "__main__":
    sys.exit(main())
