"""Object detection: plain functions on boxes and masks.

Boxes are (x0, y0, x1, y1) in pixels. Functions take NumPy or CuPy arrays, float32 or float64, keep their dtype, and
give the same bits each time.
"""

from swinpy.detection.anchors import Anchors, inside_border, octave_sizes
from swinpy.detection.assign import IGNORED, NEGATIVE, Assigned, LevelRule, MatchRule, assign, roi_levels
from swinpy.detection.box_head import BoxHead, DetectionRule, Detections, Regions, RoIRule, sample_regions
from swinpy.detection.boxes import BoxCoder, box_area, box_giou, box_iou, clip_boxes, large_enough
from swinpy.detection.fpn import FPN
from swinpy.detection.masks import MaskTargetRule, Window, mask_targets, paste_masks
from swinpy.detection.nms import grouped_nms, nms, top_k
from swinpy.detection.rpn import RPN, Predicted, ProposalRule, Proposals, RPNLossRule
from swinpy.detection.sample import Draw, Sampled, SampleRule, choose, sample

__all__ = [
    "FPN",
    "IGNORED",
    "NEGATIVE",
    "RPN",
    "Anchors",
    "Assigned",
    "BoxCoder",
    "BoxHead",
    "DetectionRule",
    "Detections",
    "Draw",
    "LevelRule",
    "MaskTargetRule",
    "MatchRule",
    "Predicted",
    "ProposalRule",
    "Proposals",
    "RPNLossRule",
    "Regions",
    "RoIRule",
    "SampleRule",
    "Sampled",
    "Window",
    "assign",
    "box_area",
    "box_giou",
    "box_iou",
    "choose",
    "clip_boxes",
    "grouped_nms",
    "inside_border",
    "large_enough",
    "mask_targets",
    "nms",
    "octave_sizes",
    "paste_masks",
    "roi_levels",
    "sample",
    "sample_regions",
    "top_k",
]
