"""Train a Swin Transformer on CIFAR-10/100, or on the built-in scenes and digits.

    python examples/train_cifar.py --dataset scenes
    python examples/train_cifar.py --device gpu --dataset-download

``--help`` lists the options.
"""

import os
import signal
import sys
from pathlib import Path

# Until the program has its own handlers there is nothing to save: end at once, with the codes that it promises.
for _name, _code in (("SIGHUP", 129), ("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 0)):
    _signal = getattr(signal, _name, None)
    if _signal and not (_name == "SIGHUP" and signal.getsignal(_signal) == signal.SIG_IGN):  # nohup
        signal.signal(_signal, lambda *_, code=_code: os._exit(code))

# One pool of threads: BLAS computes inside the engine's own. Has to be said before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout before anything installed

from swinpy.train.main import main  # noqa: E402 (after what has to be set first)

if __name__ == "__main__":
    sys.exit(main(prog=sys.argv[0]))
