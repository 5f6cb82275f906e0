"""Lets torchvision's Python models import where its compiled operators are missing (a wheel for another torch build).

Only the operators' schemas are declared, as torchvision registers shape functions for them on import. None of them
computes anything, and Swin uses none.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

__all__ = ["make_importable"]

_BOXES = "Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_SIZES = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_OFFSETS = (
    "Tensor bias, SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, "
    "SymInt groups, SymInt offset_groups, bool use_mask"
)
_FIVE = "(Tensor, Tensor, Tensor, Tensor, Tensor)"
_DCN = "Tensor input, Tensor weight, Tensor offset, Tensor mask"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align(Tensor input, {_BOXES}, int sampling_ratio, bool aligned) -> Tensor",
    f"qroi_align(Tensor input, {_BOXES}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, {_BOXES}, {_SIZES}, int sampling_ratio, bool aligned) -> Tensor",
    f"ps_roi_align(Tensor input, {_BOXES}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward(Tensor grad, Tensor mapping, {_BOXES}, int sampling_ratio, {_SIZES}) -> Tensor",
    f"roi_pool(Tensor input, {_BOXES}) -> (Tensor, Tensor)",
    f"_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, {_BOXES[13:]}, {_SIZES}) -> Tensor",
    f"ps_roi_pool(Tensor input, {_BOXES}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward(Tensor grad, Tensor mapping, {_BOXES}, {_SIZES}) -> Tensor",
    f"deform_conv2d({_DCN}, {_OFFSETS}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DCN}, {_OFFSETS}) -> {_FIVE}",
    "_cuda_version() -> int",
)


_libraries: list[Any] = []  # declarations live as long as their library


def make_importable(torch: Any) -> None:
    """Declare the operators if torchvision is there and does not import without; else do nothing."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _libraries.append(library)
