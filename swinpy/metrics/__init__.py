"""How good results are: average precision of boxes and masks as COCO defines it, and results as COCO's json."""

from __future__ import annotations

from swinpy.metrics.coco_map import AREAS, RECALLS, THRESHOLDS, CocoScores, evaluate_coco
from swinpy.metrics.results import read_results, result_rows, write_results

__all__ = [
    "AREAS",
    "RECALLS",
    "THRESHOLDS",
    "CocoScores",
    "evaluate_coco",
    "read_results",
    "result_rows",
    "write_results",
]
