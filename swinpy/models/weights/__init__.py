"""Weights into a model and out of it, in every published layout."""

from swinpy.models.weights.arrays import WeightsError
from swinpy.models.weights.load import load_weights
from swinpy.models.weights.report import LoadReport, SaveReport
from swinpy.models.weights.save import save_weights

__all__ = ["LoadReport", "SaveReport", "WeightsError", "load_weights", "save_weights"]
