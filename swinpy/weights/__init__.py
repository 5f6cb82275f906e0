"""Weights into a model and out of it, in every published layout."""

from swinpy.weights.convert import convert_weights
from swinpy.weights.given import WeightsError
from swinpy.weights.identify import model_of
from swinpy.weights.load import load_weights
from swinpy.weights.report import LoadReport, SaveReport
from swinpy.weights.save import save_weights

__all__ = ["LoadReport", "SaveReport", "WeightsError", "convert_weights", "load_weights", "model_of", "save_weights"]
