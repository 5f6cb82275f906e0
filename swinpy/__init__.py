"""Swin Transformers with no framework underneath: models, data and training on the ``autograd`` engine beside it.

>>> import numpy as np, swinpy
>>> model = swinpy.create_model("swin_cifar_nano", num_classes=10)
>>> model(np.zeros((1, 3, 32, 32), np.float32)).shape
(1, 10)
"""

from typing import TYPE_CHECKING, Any

from swinpy._engine import check_engine

check_engine()

from autograd import get_num_threads, set_num_threads  # noqa: E402 (after the check)
from swinpy.models import (  # noqa: E402
    SwinConfig,
    SwinTransformer,
    create_model,
    eval_config,
    list_models,
    resize_model,
)

if TYPE_CHECKING:
    from swinpy import verify
    from swinpy.weights import LoadReport, SaveReport, WeightsError, convert_weights, load_weights, save_weights

__version__ = "0.1.0"

__all__ = [
    "LoadReport",
    "SaveReport",
    "SwinConfig",
    "SwinTransformer",
    "WeightsError",
    "__version__",
    "convert_weights",
    "create_model",
    "eval_config",
    "get_num_threads",
    "list_models",
    "load_weights",
    "resize_model",
    "save_weights",
    "set_num_threads",
    "verify",
]


_OF_WEIGHTS = {"LoadReport", "SaveReport", "WeightsError", "convert_weights", "load_weights", "save_weights"}


def __getattr__(name: str) -> Any:
    """Import what not every program needs when it is first used: the readers of files, and ``swinpy.verify``."""
    if name == "verify":
        import swinpy.verify

        return swinpy.verify
    if name in _OF_WEIGHTS:
        import swinpy.weights

        return getattr(swinpy.weights, name)
    raise AttributeError(f"module 'swinpy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
