"""Weights into a model and out of it, in every published layout."""

from swinpy.preparation import Preparation
from swinpy.weights.convert import convert_weights
from swinpy.weights.find import find_weights, read_model_info
from swinpy.weights.given import WeightsError
from swinpy.weights.identify import model_of
from swinpy.weights.info import ModelInfo
from swinpy.weights.load import load_weights
from swinpy.weights.model import LoadedModel, checked_info, load_model
from swinpy.weights.report import LoadReport, SaveReport
from swinpy.weights.save import save_weights

__all__ = [
    "LoadReport",
    "LoadedModel",
    "ModelInfo",
    "Preparation",
    "SaveReport",
    "WeightsError",
    "checked_info",
    "convert_weights",
    "find_weights",
    "load_model",
    "load_weights",
    "model_of",
    "read_model_info",
    "save_weights",
]
