"""Swin Transformers with no framework underneath: models, data and training on the ``autograd`` engine beside it.

>>> import numpy as np, swinpy
>>> model = swinpy.create_model("swin_cifar_nano", num_classes=10)
>>> model(np.zeros((1, 3, 32, 32), np.float32)).shape
(1, 10)
"""

from typing import Any

from swinpy._engine import check_engine

check_engine()

from autograd import get_num_threads, set_num_threads  # noqa: E402 (after the check)
from swinpy.models import (  # noqa: E402
    LoadReport,
    SaveReport,
    SwinConfig,
    SwinTransformer,
    WeightsError,
    convert_weights,
    create_model,
    eval_config,
    list_models,
    load_weights,
    resize_model,
    save_weights,
)

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


def __getattr__(name: str) -> Any:
    """``swinpy.verify`` is imported when it is first used: it is large, and most programs never do."""
    if name == "verify":
        from importlib import import_module

        return import_module("swinpy.verify")
    raise AttributeError(f"module 'swinpy' has no attribute {name!r}")
