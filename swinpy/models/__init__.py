"""Swin models: configuration, parts, V1, V2, Swin-MLP, names."""

from swinpy.models.config import SwinConfig
from swinpy.models.registry import create_model, list_models, model_config
from swinpy.models.swin import SwinTransformer
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
    "LoadReport",
    "SaveReport",
    "SwinConfig",
    "SwinTransformer",
    "WeightsError",
    "convert_weights",
    "create_model",
    "list_models",
    "load_weights",
    "model_config",
    "model_of",
    "save_weights",
]
