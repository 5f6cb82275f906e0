"""Swin models: configuration, parts, V1, V2, Swin-MLP, names, presets."""

from swinpy.models.config import SwinConfig
from swinpy.models.presets import EvalConfig
from swinpy.models.registry import create_model, eval_config, list_models, model_config
from swinpy.models.swin import SwinTransformer
from swinpy.models.transfer import resize_model
from swinpy.models.weights import (
    LoadReport,
    SaveReport,
    WeightsError,
    convert_weights,
    load_weights,
    model_of,
    save_weights,
)

__all__ = [
    "EvalConfig",
    "LoadReport",
    "SaveReport",
    "SwinConfig",
    "SwinTransformer",
    "WeightsError",
    "convert_weights",
    "create_model",
    "eval_config",
    "list_models",
    "load_weights",
    "model_config",
    "model_of",
    "resize_model",
    "save_weights",
]
