"""Swin models: configuration, parts, V1, V2, Swin-MLP, names."""

from swinpy.models.config import SwinConfig
from swinpy.models.registry import create_model, list_models, model_config
from swinpy.models.swin import SwinTransformer

__all__ = ["SwinConfig", "SwinTransformer", "create_model", "list_models", "model_config"]
