"""Average precision of detections as COCO defines it, for boxes and masks.

Source: ``COCOeval`` of pycocotools (Lin et al., "Microsoft COCO: common objects in context", 2014), whose numbers these
are. An object whose id is 0 is no exception here; there it cannot be found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from swinpy.data.detection.annotations import as_rle
from swinpy.metrics.matching import Groups, match
from swinpy.metrics.overlap import box_overlap, mask_overlap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from swinpy.data.detection.annotations import Annotations, Detections
    from swinpy.data.detection.rle import Rle

__all__ = ["AREAS", "RECALLS", "THRESHOLDS", "CocoScores", "Kind", "evaluate_coco"]

Kind: TypeAlias = Literal["box", "mask"]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 1024.0), "medium": (1024.0, 9216.0), "large": (9216.0, 1e10)}
_TABLE = 1 << 20  # entries of the largest table that is worked on at a time


@dataclass(frozen=True, eq=False)
class CocoScores:
    """Precision and recall; -1 stands where a class has no object to find.

    Attributes:
        kind: "box" or "mask", what was compared.
        precision: float64 ``(T, R, K, A, M)``: by threshold of the overlap (.50, .55, ..., .95), recall (0, .01, ...,
            1), class, range of areas (all, small, medium, large) and number of detections.
        recall: float64 ``(T, K, A, M)``, the highest that was reached.
        scores: float64 ``(T, R, K, A, M)``, of the detection at which each precision was reached.
        max_dets: detections an image and class, M numbers.
    """

    kind: Kind
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]
    max_dets: tuple[int, ...]

    def average_precision(self, label: int | None = None, iou: float | None = None, area: str = "all") -> float | None:
        """Mean precision over thresholds, recalls and classes.

        Args:
            label: of one class alone.
            iou: at one threshold alone, one of .50, .55, ..., .95.
            area: "all", "small" (to 32 x 32 pixels), "medium" or "large" (from 96 x 96).

        Returns:
            In [0, 1]; None where there is no object to find.
        """
        chosen = self.precision[_threshold(iou), :, _classes(label), list(AREAS).index(area), -1]
        return _mean(chosen)

    def average_recall(self, max_dets: int | None = None, label: int | None = None, area: str = "all") -> float | None:
        """Mean of the highest recalls over thresholds and classes; see :meth:`average_precision`."""
        place = -1 if max_dets is None else self.max_dets.index(max_dets)
        return _mean(self.recall[:, _classes(label), list(AREAS).index(area), place])

    def curve(self, label: int, iou: float = 0.5, area: str = "all") -> NDArray[np.float64] | None:
        """Precision at the 101 recalls of ``RECALLS`` for one class; None where there is no object to find."""
        row = self.precision[_threshold(iou), :, label, list(AREAS).index(area), -1].reshape(-1)
        return None if row[0] < 0 else row

    def summary(self) -> dict[str, float | None]:
        """The twelve numbers of COCO's table, in its order; None where there is no object to find."""
        areas = {"s": "small", "m": "medium", "l": "large"}
        table = {"AP": self.average_precision()}
        table |= {f"AP{round(100 * iou)}": self.average_precision(iou=iou) for iou in (0.5, 0.75)}
        table |= {f"AP{letter}": self.average_precision(area=area) for letter, area in areas.items()}
        table |= {f"AR{most}": self.average_recall(most) for most in self.max_dets}
        return table | {f"AR{letter}": self.average_recall(area=area) for letter, area in areas.items()}

    def __str__(self) -> str:
        values = [f"{name} {_shown(value)}" for name, value in self.summary().items()]
        return f"{self.kind} " + ", ".join(values)


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _threshold(iou: float | None) -> slice:
    if iou is None:
        return slice(None)
    near = np.flatnonzero(np.isclose(THRESHOLDS, iou, rtol=0, atol=1e-9))
    if not len(near):
        raise ValueError(f"average_precision: expected a threshold of .50, .55, ..., .95; got {iou}. Choose one.")
    return slice(int(near[0]), int(near[0]) + 1)


def _classes(label: int | None) -> slice:
    return slice(None) if label is None else slice(label, label + 1)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def evaluate_coco(
    truth: Annotations,
    found: Detections,
    sizes: Sequence[tuple[int, int]],
    num_classes: int,
    kind: Kind = "box",
    max_dets: tuple[int, ...] = (1, 10, 100),
) -> CocoScores:
    """Compare detections with what there is.

    Equal scores of one class are ordered by image, then as they come.

    Args:
        truth: the objects; crowds are not looked for, and what lies in them does no harm.
        found: the detections; none is no error.
        sizes: (H, W) of each image.
        num_classes: K.
        kind: compare boxes or masks. A detection is small or large by the area of the same.
        max_dets: the best so many of each image and class count, ascending; the last is that of the precisions.

    Raises:
        ValueError: for an image or label out of range, a value that is not finite, or, in comparing masks, an
            object or detection without one or with one of another size.
    """
    _check(truth, found, len(sizes), num_classes, kind)
    there = np.lexsort((truth.image, truth.label)).astype(np.int64)
    order = np.lexsort((-found.score, found.image, found.label)).astype(np.int64)
    rank = _ranks(found.label[order] * len(sizes) + found.image[order])
    order, rank = order[rank < max_dets[-1]], rank[rank < max_dets[-1]]
    table = _Table(truth, there, found, order, sizes, kind)
    matched, uncounted = table.match()
    size = len(THRESHOLDS), len(RECALLS), num_classes, len(AREAS), len(max_dets)
    precision, scores = -np.ones(size), -np.ones(size)
    recall = -np.ones((size[0], *size[2:]))
    crowded, areas = truth.crowd[there], truth.area[there]
    wanted = np.stack([~crowded & _within(areas, limits) for limits in AREAS.values()])
    for label in range(num_classes):
        mine = slice(*np.searchsorted(found.label[order], [label, label + 1]))
        positives = wanted[:, slice(*np.searchsorted(truth.label[there], [label, label + 1]))].sum(axis=1)
        for m, most in enumerate(max_dets):
            kept = np.flatnonzero(rank[mine] < most) + mine.start
            kept = kept[np.argsort(-found.score[order[kept]], kind="stable")]
            hits, out = matched[:, :, kept], uncounted[:, :, kept]
            for a in np.flatnonzero(positives):
                recall[:, label, a, m], precision[:, :, label, a, m], scores[:, :, label, a, m] = _curve(
                    hits[a] & ~out[a], ~hits[a] & ~out[a], int(positives[a]), found.score[order[kept]]
                )
    return CocoScores(kind, precision, recall, scores, max_dets)


def _check(truth: Annotations, found: Detections, images: int, num_classes: int, kind: Kind) -> None:
    for what, rows in (("object", truth), ("detection", found)):
        for name, values, end in (("image", rows.image, images), ("label", rows.label, num_classes)):
            wrong = np.flatnonzero((values < 0) | (values >= end))
            if len(wrong):
                raise ValueError(
                    f"evaluate_coco: expected the {name} of {what} {wrong[0]} in [0, {end}); got {values[wrong[0]]}. "
                    "Compare results with the set that they are of."
                )
    found.check_finite()
    if kind == "box" and found.box is None:
        raise ValueError("evaluate_coco: expected boxes; got detections of masks alone. Use kind='mask'.")
    if kind == "mask" and found.masks is None and len(found):
        raise ValueError("evaluate_coco: expected masks; got detections of boxes alone. Use kind='box'.")


def _ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each entry among those of its group, which lie together."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def _within(areas: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (areas >= limits[0]) & (areas <= limits[1])
    return inside


def _curve(
    right: NDArray[np.bool_], wrong: NDArray[np.bool_], positives: int, scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Highest recall ``(T,)``, precision and score ``(T, R)`` of detections in falling order of scores ``(T, D)``."""
    precision, at = np.zeros((len(right), len(RECALLS))), np.zeros((len(right), len(RECALLS)))
    if not right.shape[1]:
        return np.zeros(len(right)), precision, at
    hits, misses = (np.cumsum(flags, axis=1).astype(np.float64) for flags in (right, wrong))
    recall = hits / positives
    falling = hits / (misses + hits + np.spacing(1))
    falling = np.maximum.accumulate(falling[:, ::-1], axis=1)[:, ::-1]  # the best at this recall or any higher one
    for t, row in enumerate(recall):
        places = np.searchsorted(row, RECALLS, side="left")
        places = places[places < len(row)]
        precision[t, : len(places)], at[t, : len(places)] = falling[t, places], scores[places]
    return recall[:, -1], precision, at


@dataclass(frozen=True, eq=False)
class _Table:
    """Objects and detections in order of class and image, and the groups that have both."""

    truth: Annotations
    there: NDArray[np.int64]
    found: Detections
    order: NDArray[np.int64]
    sizes: Sequence[tuple[int, int]]
    kind: Kind

    def match(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which detections take an object, and which do not count, each ``(A, T, detections)``."""
        size = len(AREAS), len(THRESHOLDS), len(self.order)
        matched, uncounted = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        areas, crowd = self.truth.area[self.there], self.truth.crowd[self.there]
        ignored = np.stack([crowd | ~_within(areas, limits) for limits in AREAS.values()])
        for groups in self._groups():
            match(groups, crowd, ignored, THRESHOLDS, matched, uncounted)
        areas = self._areas()
        for a, limits in enumerate(AREAS.values()):
            uncounted[a] |= ~matched[a] & ~_within(areas, limits)
        return matched, uncounted

    def _areas(self) -> NDArray[np.float64]:
        if self.kind == "box":
            assert self.found.box is not None
            sides = self.found.box[self.order, 2:]
            return sides[:, 0] * sides[:, 1]
        masks = self.found.masks or ()
        return np.array([masks[row].area for row in self.order.tolist()], np.float64)

    def _groups(self) -> Iterator[Groups]:
        """Groups of similar size together, so that little is padded."""
        keys = [rows.label[o] * len(self.sizes) + rows.image[o] for rows, o in self._sides()]
        common = np.intersect1d(keys[0], keys[1])
        if not len(common):
            return
        starts = [np.searchsorted(key, common, side="left") for key in keys]
        counts = [np.searchsorted(key, common, side="right") - s for key, s in zip(keys, starts, strict=True)]
        padded = [1 << np.ceil(np.log2(count)).astype(np.int64) for count in counts]
        for d, g in np.unique(np.stack(padded, axis=1), axis=0).tolist():
            alike = np.flatnonzero((padded[0] == d) & (padded[1] == g))
            step = max(1, _TABLE // (g * max(d, len(AREAS) * len(THRESHOLDS))))
            for begin in range(0, len(alike), step):
                part = alike[begin : begin + step]
                place = np.arange(g)
                objects = np.where(place < counts[1][part, None], starts[1][part, None] + place, -1)
                first, found = starts[0][part], counts[0][part]
                yield Groups(first, found, objects, self._overlap(first, found, objects, d))

    def _sides(self) -> tuple[tuple[Detections, NDArray[np.int64]], tuple[Annotations, NDArray[np.int64]]]:
        return (self.found, self.order), (self.truth, self.there)

    def _overlap(
        self, first: NDArray[np.int64], found: NDArray[np.int64], objects: NDArray[np.int64], most: int
    ) -> NDArray[np.float64]:
        """Of the detections and objects of some groups, ``(n, most, G)``."""
        truth, rows = self.truth, self.there[objects]
        if self.kind == "box":
            assert self.found.box is not None
            mine = self.order[np.minimum(first[:, None] + np.arange(most), len(self.order) - 1)]
            crowd = truth.crowd[rows][:, None]
            return box_overlap(self.found.box[mine][:, :, None], truth.box[rows][:, None], crowd)
        out = np.zeros((len(first), most, objects.shape[1]))
        for n, (start, count) in enumerate(zip(first.tolist(), found.tolist(), strict=True)):
            mine, there = self.order[start : start + count], rows[n][objects[n] >= 0]
            image = int(truth.image[there[0]])
            out[n, :count, : len(there)] = mask_overlap(
                self._masks(mine, image), [self._object(row, image) for row in there.tolist()], truth.crowd[there]
            )
        return out

    def _masks(self, rows: NDArray[np.int64], image: int) -> list[Rle]:
        masks = self.found.masks or ()
        try:
            return [as_rle(masks[row], self.sizes[image]) for row in rows.tolist()]
        except ValueError as error:
            raise ValueError(f"evaluate_coco: image {image}, a detection: {error}. Give masks of the image.") from None

    def _object(self, row: int, image: int) -> Rle:
        try:
            return as_rle(self.truth.segmentation[row], self.sizes[image])
        except ValueError as error:
            number = self.truth.number[row]
            raise ValueError(f"evaluate_coco: image {image}, object {number}: {error}. Mend the file.") from None
