"""Swin models: configuration, parts, V1, V2, Swin-MLP, names, presets.

No file is read or written here: weights go into a model and out of it by `swinpy.weights`, one floor above.
"""

from swinpy.models.config import SwinConfig
from swinpy.models.registry import create_model, eval_config, list_models, model_config
from swinpy.models.swin import SwinTransformer
from swinpy.models.transfer import resize_model
from swinpy.preparation import Preparation

__all__ = [
    "Preparation",
    "SwinConfig",
    "SwinTransformer",
    "create_model",
    "eval_config",
    "list_models",
    "model_config",
    "resize_model",
]
