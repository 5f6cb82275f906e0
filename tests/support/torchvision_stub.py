"""Lets torchvision's Python models import where its compiled operators are missing (a wheel for another torch build).

Only the operators' schemas are declared, as torchvision registers shape functions for them on import. None of them
computes anything, and Swin uses none.
"""

from __future__ import annotations

from typing import Any

__all__ = ["declare_operators"]

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


def declare_operators(torch: Any) -> Any:
    """Declare what is missing. The operators live as long as the returned library."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        name = schema.partition("(")[0]
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    return library
