"""Weights into a model and out of it, in every published layout."""

from swinpy.models.weights.arrays import WeightsError
from swinpy.models.weights.convert import convert_weights
from swinpy.models.weights.identify import model_of
from swinpy.models.weights.load import load_weights
from swinpy.models.weights.report import LoadReport, SaveReport
from swinpy.models.weights.save import save_weights

__all__ = ["LoadReport", "SaveReport", "WeightsError", "convert_weights", "load_weights", "model_of", "save_weights"]
