"""torchvision's detection, with its compiled operators replaced by those of ``torch_ops``."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

from ..swin.torchvision_stub import make_importable

__all__ = ["load_tv_detection"]


def load_tv_detection() -> Any:
    """torch and the modules of torchvision's detection; an ImportError where they are not installed."""
    import torch

    make_importable(torch)
    import torchvision.models.detection
    from torchvision.models.detection import _utils, anchor_utils, image_list, roi_heads
    from torchvision.ops import boxes, poolers

    from . import torch_ops

    def roi_align(
        x: Any, rois: Any, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = -1, aligned: bool = False
    ) -> Any:
        size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        if isinstance(rois, (list, tuple)):
            rois = poolers._convert_to_roi_format(list(rois))
        return torch_ops.roi_align(x, rois, size, spatial_scale, sampling_ratio, aligned)

    for module in (roi_heads, poolers):
        module.roi_align = roi_align
    boxes.nms = torch_ops.nms
    importlib.import_module("torchvision.ops").nms = torch_ops.nms
    return SimpleNamespace(
        torch=torch,
        detection=torchvision.models.detection,
        utils=_utils,
        anchors=anchor_utils,
        image_list=image_list,
        roi_heads=roi_heads,
        boxes=boxes,
        poolers=poolers,
        ops=torch_ops,
    )
