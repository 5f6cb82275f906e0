"""Swin models: configuration, parts, V1, V2, Swin-MLP, names."""

from swinpy.models.config import SwinConfig
from swinpy.models.registry import create_model, list_models, model_config
from swinpy.models.swin import SwinTransformer
from swinpy.models.weights import LoadReport, SaveReport, WeightsError, load_weights, save_weights

__all__ = [
    "LoadReport",
    "SaveReport",
    "SwinConfig",
    "SwinTransformer",
    "WeightsError",
    "create_model",
    "list_models",
    "load_weights",
    "model_config",
    "save_weights",
]
