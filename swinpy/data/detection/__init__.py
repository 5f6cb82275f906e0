"""Images with boxes and masks: COCO's and Pascal VOC's files, made-up scenes, and how they become batches."""

from __future__ import annotations

from swinpy.data.detection.annotations import Annotations, Detections, as_rle, as_xywh
from swinpy.data.detection.coco import load_coco
from swinpy.data.detection.dataset import DetectionDataset, Sample, dataset_of
from swinpy.data.detection.loader import DetectionBatch, DetectionLoader, DetectionRecipe, collate
from swinpy.data.detection.many_scenes import ManyScenes, generate_many, load_many_scenes
from swinpy.data.detection.resize import ResizeRule, resized_size
from swinpy.data.detection.rle import Rle
from swinpy.data.detection.write import outline, write_ade, write_coco

__all__ = [
    "Annotations",
    "DetectionBatch",
    "DetectionDataset",
    "DetectionLoader",
    "DetectionRecipe",
    "Detections",
    "ManyScenes",
    "ResizeRule",
    "Rle",
    "Sample",
    "as_rle",
    "as_xywh",
    "collate",
    "dataset_of",
    "generate_many",
    "load_coco",
    "load_many_scenes",
    "outline",
    "resized_size",
    "write_ade",
    "write_coco",
]
