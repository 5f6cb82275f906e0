"""mmdetection 3.3 without mmcv's compiled operators.

mmcv-lite has no ``mmcv.ops``. A package of that name is put in: RoIAlign and NMS are those of ``torch_ops``, every
other name is a class that cannot be made.

    pip install --no-deps mmdet mmcv-lite mmengine
    pip install six addict termcolor yapf platformdirs opencv-python-headless terminaltables pycocotools shapely
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..swin.torchvision_stub import make_importable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["load_mmdet"]

_SPLIT = 10_000  # boxes from which mmcv suppresses class by class


def _operators() -> dict[str, Any]:
    import torch

    from . import torch_ops

    def nms(
        boxes: Any, scores: Any, iou_threshold: float, offset: int = 0, score_threshold: float = 0, max_num: int = -1
    ) -> Any:
        assert offset == 0
        usable = torch.where(scores > score_threshold)[0] if score_threshold > 0 else torch.arange(len(scores))
        kept = usable[torch_ops.nms(boxes[usable], scores[usable], iou_threshold)]
        kept = kept[:max_num] if max_num > 0 else kept
        return torch.cat([boxes[kept], scores[kept, None]], dim=1), kept

    def batched_nms(boxes: Any, scores: Any, idxs: Any, nms_cfg: Any, class_agnostic: bool = False) -> Any:
        assert nms_cfg.get("type", "nms") == "nms"
        assert len(boxes) < nms_cfg.get("split_thr", _SPLIT), "by class, and then sorted: not written here"
        agnostic = nms_cfg.get("class_agnostic", class_agnostic)
        shifted = boxes if agnostic or not len(boxes) else boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None]
        _, kept = nms(shifted, scores, nms_cfg["iou_threshold"], max_num=nms_cfg.get("max_num", -1))
        return torch.cat([boxes[kept], scores[kept, None]], dim=1), kept

    def roi_align(
        x: Any, rois: Any, size: Any, scale: float = 1.0, ratio: int = 0, mode: str = "avg", aligned: bool = True
    ) -> Any:
        assert mode == "avg"
        size = (size, size) if isinstance(size, int) else tuple(size)
        return torch_ops.roi_align(x, rois.to(x.dtype), size, scale, ratio, aligned)

    class RoIAlign(torch.nn.Module):
        """The layer that mmdetection's extractors make."""

        def __init__(
            self, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = 0, pool_mode: str = "avg",
            aligned: bool = True, use_torchvision: bool = False,
        ) -> None:  # fmt: skip
            super().__init__()
            self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
            self.how = (spatial_scale, sampling_ratio, pool_mode, aligned)

        def forward(self, x: Any, rois: Any) -> Any:
            return roi_align(x, rois, self.output_size, *self.how)

    return {"nms": nms, "batched_nms": batched_nms, "roi_align": roi_align, "RoIAlign": RoIAlign}


def _missing(name: str) -> type:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(f"mmcv.ops.{name} is a compiled operator")

    return type(name, (), {"__init__": refuse})


class _Ops(types.ModuleType):
    """``mmcv.ops`` and any module of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not hasattr(_Ops, "_real"):
            _Ops._real = _operators()  # type: ignore[attr-defined]
        value = _Ops._real.get(name) or _missing(name)  # type: ignore[attr-defined]
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname == "mmcv.ops" or fullname.startswith("mmcv.ops."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        return _Ops(spec.name)

    def exec_module(self, module: Any) -> None:
        module.__path__ = []


def load_mmdet() -> Any:
    """The real package's parts by name; an ImportError where it is not installed."""
    import torch

    make_importable(torch)
    import mmcv

    mmcv.__version__ = "2.1.0"  # mmdetection 3.3 refuses 2.2, of which it needs nothing new
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    take: Callable[[str], Any] = importlib.import_module
    tasks = take("mmdet.models.task_modules")
    return SimpleNamespace(
        torch=torch,
        tasks=tasks,
        prior_utils=take("mmdet.models.task_modules.prior_generators"),
        extractor=take("mmdet.models.roi_heads.roi_extractors").SingleRoIExtractor,
        mask_head=take("mmdet.models.roi_heads.mask_heads.fcn_mask_head"),
        mask_target=take("mmdet.structures.mask.mask_target").mask_target_single,
        bitmap=take("mmdet.structures.mask").BitmapMasks,
        overlaps=take("mmdet.structures.bbox").bbox_overlaps,
        batched_nms=take("mmcv.ops").batched_nms,
        instances=take("mmengine.structures").InstanceData,
        config=take("mmengine.config").ConfigDict,
    )
