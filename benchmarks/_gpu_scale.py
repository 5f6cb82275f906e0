"""What the steps of gpu_session.py share: how large they are, why one is skipped, and how one starts another."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import _gpu_kernels as kernels

__all__ = ["DRY", "FULL", "ROOT", "TAIL", "ContextLostError", "Scale", "SkippedError"]
__all__ += ["command", "cupy_module", "is_fault", "short", "support"]

ROOT = Path(__file__).resolve().parent.parent
SESSION = Path(__file__).with_name("gpu_session.py")
TAIL = 4000  # characters of what a tool printed


class SkippedError(Exception):
    """The step cannot be done here; the message says why."""


class ContextLostError(Exception):
    """The driver has reported a fault, after which this process can use the GPU no more."""


@dataclass(frozen=True)
class Scale:
    """How large the steps are.

    Attributes:
        dry: on the stand-in for CuPy.
        model, options: of create_model.
        checked, timed: images of the model that is checked, and of those that are timed (one entry a batch).
        peers_timed: the same of timm.
        dtypes: of the checks of kernels.
        every: of the rows of checks, each this many-th.
        variants: of operands: of a kernel (0: as the rule asks), of the model.
        workers: processes that check kernels.
        repeats, warmups: of a timed call.
        group: of short calls between two events.
        stages: shapes of the timed kernels.
        copy_megabytes, product_side: of the machine's limits.
        watched_seconds: after which no further row is given to compute-sanitizer.
        device: of timm.
        compile: options of torch.compile, by peer; None for none.
        train: options of the training example.
    """

    dry: bool = False
    model: str = "swin_tiny_patch4_window7_224"
    options: dict[str, Any] = field(default_factory=dict)
    peer_options: dict[str, Any] = field(default_factory=dict)
    checked: int = 2
    timed: tuple[int, ...] = (1, 8, 64, 256)
    peers_timed: tuple[int, ...] = (8, 256)
    dtypes: tuple[str, ...] = ("float16", "float32", "bfloat16")
    every: int = 1
    variants: tuple[int, int] = (0, 3)
    workers: int = 12
    repeats: int = 30
    warmups: int = 10
    group: int = 20
    stages: tuple[kernels.Sizes, ...] = tuple(
        kernels.Sizes(side=56 >> i, channels=96 << i, heads=3 << i) for i in range(4)
    )
    copy_megabytes: int = 1024
    product_side: int = 8192
    watched_seconds: float = 20.0
    device: str = "cuda"
    compile: dict[str, dict[str, Any] | None] = field(
        default_factory=lambda: {
            "eager": None,
            "compiled": {"dynamic": False},
            "reduce-overhead": {"dynamic": False, "mode": "reduce-overhead"},
        }
    )
    train: tuple[str, ...] = ("--epochs", "1000", "--time-limit", "60")


FULL = Scale()
_TINY = kernels.Sizes(batch=1, side=6, channels=32, heads=1, window=3, classes=5, parameters=32)
_ONE_STAGE = {"img_size": 12, "patch_size": 2, "num_classes": 4, "embed_dim": 8, "depths": (2,), "num_heads": (2,)}
DRY = Scale(
    dry=True,
    options={**_ONE_STAGE, "window_size": 3},
    peer_options={**_ONE_STAGE, "window_size": 3},
    checked=1,
    timed=(1, 2),
    peers_timed=(2,),
    dtypes=("float16", "float32"),
    every=24,
    variants=(2, 1),
    workers=2,
    repeats=1,
    warmups=0,
    group=2,
    stages=(_TINY, replace(_TINY, side=3)),
    copy_megabytes=1,
    product_side=16,
    device="cpu",
    compile={"eager": None} | {peer: {"backend": "eager"} for peer in ("compiled", "reduce-overhead")},
    train=("--max-steps", "1", "--batch-size", "2", "--train-subset", "4", "--val-subset", "2"),
)


def cupy_module() -> Any:
    import cupy

    return cupy


def is_fault(error: BaseException) -> bool:
    """Whether the driver says so: whatever follows would fail, too. Memory that does not suffice is no fault."""
    driver = type(error).__name__ in ("CUDARuntimeError", "CUDADriverError", "AcceleratorError")
    return driver and "memory" not in str(error).partition(":")[0].lower()


def short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:600]


def support(name: str) -> Any:
    """A module of tests/support, such as "gpu.checks": the checks that CI runs on the stand-in."""
    sys.path[:0] = [p for p in (str(ROOT / "tests"),) if p not in sys.path]
    try:
        import pytest  # noqa: F401 (the checks skip by it)
    except ImportError as error:
        raise SkippedError(f"the checks in tests/support need pytest: {error}. pip install pytest") from None
    return importlib.import_module(f"support.{name}")


def command(step: str, scale: Scale) -> list[str]:
    return [sys.executable, str(SESSION), "--step", step, *(["--dry-run"] if scale.dry else [])]
