"""Which tokens see each other, measured: leaks between tokens that should not meet, and receptive fields.

The function under test is any map to map: this library's, or your own on plain NumPy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import autograd as ag
from swinpy.geometry import geometry, shift_regions, window_tokens
from swinpy.nn import Module
from swinpy.verify.foreign import as_array, kind_of, require_callable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from swinpy.geometry import Pair, SmallMap

__all__ = ["LeakReport", "ReceptiveField", "leak_test", "receptive_field", "window_regions"]

Array = np.ndarray[Any, Any]

# The published mask adds -100: what crosses a border then is exp(-100), 4e-44 of a weight, and no leak.
_NEGLIGIBLE = 1e-30
_SHOWN = 5


def window_regions(size: Pair, window: int | Pair, shift: int | Pair = 0, small_map: SmallMap = "clamp") -> Array:
    """Which tokens may attend to each other in one attention layer: those with the same label.

    Padding comes before the shift, and after the cyclic shift tokens from both sides of a seam share a window but not a
    region.

    Args:
        size: (H, W) of the map.
        window: tokens a side, or (wh, ww).
        shift: of the windows, or (sh, sw); dropped along an axis that has one window.
        small_map: what happens to a map smaller than the window, see :func:`swinpy.geometry.geometry`.

    Returns:
        Labels (H, W), int64.

    >>> window_regions((4, 4), 2, 1)
    array([[0, 1, 1, 2],
           [3, 4, 4, 5],
           [3, 4, 4, 5],
           [6, 7, 7, 8]])
    """
    pair = (window, window) if isinstance(window, int) else window
    shifts = (shift, shift) if isinstance(shift, int) else shift
    cut = geometry(size, pair, shifts, small_map)
    tokens, regions = window_tokens(cut), shift_regions(cut)
    labels = np.empty(size[0] * size[1], np.int64)
    inside = tokens >= 0
    labels[tokens[inside]] = (np.arange(len(tokens))[:, None] * 9 + regions)[inside]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # numbered in reading order
    numbered: Array = rank[inverse].reshape(size)
    return numbered


@dataclass(frozen=True)
class LeakReport:
    """The result of :func:`leak_test`; prints as a short report.

    Attributes:
        size: (H, W).
        moved: for each perturbed token, by (row, column), a boolean map of the outputs that moved.
        leaks: for each perturbed token that leaks, the outputs that moved and should not have.
        deaf: for each perturbed token, the outputs in its region that did not move.
        gradient_leaks: for each output token, the inputs outside its region with a gradient.
        batch_leak: whether perturbing one image moved another one.
        checked_gradients: whether gradients were looked at.
        largest: the largest change of an output that should not have moved.
    """

    size: Pair
    moved: dict[Pair, Array]
    leaks: dict[Pair, list[Pair]]
    deaf: dict[Pair, list[Pair]]
    gradient_leaks: dict[Pair, list[Pair]]
    batch_leak: bool
    checked_gradients: bool
    largest: float = 0.0
    _wrap: str = field(default="", repr=False)

    @property
    def tight(self) -> bool:
        """Nothing leaks, forward or backward, between tokens or images."""
        return not (self.leaks or self.gradient_leaks or self.batch_leak)

    def __str__(self) -> str:
        lines = [f"{len(self.moved)} tokens of a {self.size[0]}x{self.size[1]} map perturbed"]
        if self.tight:
            lines[0] += ": nothing leaks" + ("" if self.checked_gradients else " (gradients not checked)")
        if self.batch_leak:
            lines.append("  one image moves another: something mixes the batch")
        if self.leaks:
            lines[0] += f": {len(self.leaks)} leak, by up to {self.largest:.1e}"
            lines += [f"  {t} moves {_places(o)}" for t, o in list(self.leaks.items())[:_SHOWN]]
        if self.gradient_leaks:
            lines.append(f"  gradients: {len(self.gradient_leaks)} outputs reach inputs outside their region")
            lines += [f"  {t} has a gradient at {_places(o)}" for t, o in list(self.gradient_leaks.items())[:_SHOWN]]
        if self._wrap:
            lines.append(f"  looks like: {self._wrap}")
        if self.deaf:
            token, missing = next(iter(self.deaf.items()))
            lines.append(
                f"  {len(self.deaf)} tokens do not reach all of their region, e.g. {token} not {_places(missing)}"
            )
        return "\n".join(lines)


def _places(tokens: Sequence[Pair]) -> str:
    rows, columns = sorted({t[0] for t in tokens}), sorted({t[1] for t in tokens})
    if len(tokens) == len(rows) * len(columns) and len(tokens) > 2:
        return f"{_span('row', rows)}, {_span('column', columns)}"
    shown = ", ".join(map(str, tokens[:_SHOWN]))
    return shown + (f", ... ({len(tokens)})" if len(tokens) > _SHOWN else "")


def _span(name: str, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{name} {numbers[0]}"
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{name}s {numbers[0]}-{numbers[-1]}" if whole else f"{name}s {','.join(map(str, numbers))}"


def leak_test(
    fn: Callable[[Any], Any],
    x: Any,
    regions: Array,
    *,
    tokens: Sequence[Pair] | Literal["all"] = "all",
    gradients: bool | None = None,
    tolerance: float = _NEGLIGIBLE,
    seed: int = 0,
) -> LeakReport:
    """Perturb one token after the other and see which outputs move.

    Args:
        fn: a map (B, H, W, C) to a map (B, H, W, C') of the same height and width; given Tensors or NumPy arrays and
            returning either, or the tensors of another framework. It is given copies, and must return the same on
            every call.
        x: the map, an array or a Tensor; float64 sees most. Two images or more let a leak between them be seen.
        regions: labels (H, W): tokens with the same label may see each other (:func:`window_regions`); or a boolean
            (H * W, H * W), ``[input token, output token]``.
        tokens: which (row, column) to perturb; default every one in turn.
        gradients: look at the gradient of each of these output tokens too; default whether ``fn`` returns a Tensor that
            wants one.
        tolerance: changes and gradients up to this, relative to the largest output or gradient, are none.
        seed: of the perturbations.

    Returns:
        A :class:`LeakReport`.

    Raises:
        ValueError: for shapes that do not fit; where outputs or gradients are not finite, or not repeatable.
    """
    data = as_array(x)
    if data.ndim != 4:
        raise ValueError(f"leak_test: expected a map (B, H, W, C); got {data.shape}.")
    size = (int(data.shape[1]), int(data.shape[2]))
    allowed = _allowed(regions, size)
    places = (
        [divmod(i, size[1]) for i in range(size[0] * size[1])] if tokens == "all" else [(t[0], t[1]) for t in tokens]
    )
    rng = np.random.default_rng(seed)
    run = _Forward(fn, data, size, tolerance)
    moved, leaks, deaf, largest = {}, {}, {}, 0.0
    for y, column in places:
        change, batch = run.change((y, column), rng)
        hit = change > tolerance * run.scale
        may = allowed[y * size[1] + column].reshape(size)
        moved[y, column] = hit
        if (wrong := _pairs(hit & ~may)) != []:
            leaks[y, column] = wrong
            largest = max(largest, float(change[hit & ~may].max()))
        if (missing := _pairs(~hit & may)) != []:
            deaf[y, column] = missing
        run.batch_leak = run.batch_leak or batch > tolerance * run.scale
    check = run.differentiable if gradients is None else gradients
    back = _gradient_leaks(fn, data, places, allowed, tolerance, rng) if check else {}
    return LeakReport(size, moved, leaks, deaf, back, run.batch_leak, check, largest, _guess(leaks or back, size))


def _allowed(regions: Array, size: Pair) -> Array:
    labels, n = np.asarray(regions), size[0] * size[1]
    if labels.shape == (n, n) and labels.dtype == bool:
        return labels
    if labels.shape != size:
        raise ValueError(f"leak_test: expected regions of shape {size}, or booleans {(n, n)}; got {labels.shape}.")
    flat = labels.reshape(-1)
    same: Array = flat[:, None] == flat[None, :]
    return same


def _pairs(mask: Array) -> list[Pair]:
    return [(int(y), int(x)) for y, x in np.argwhere(mask)]


class _Forward:
    """The function at ``data``, and how its output changes with one token of the first image."""

    def __init__(self, fn: Callable[[Any], Any], data: Array, size: Pair, tolerance: float) -> None:
        self.fn, self.data, self.batch_leak = fn, data, False
        self.engine, self.differentiable = False, False
        if self._takes_tensors():
            result = fn(ag.Tensor(data.copy(), requires_grad=True))
            self.differentiable = isinstance(result, ag.Tensor) and result.requires_grad
        self.base = self(data).copy()  # a function may return the same memory every time
        if self.base.ndim < 3 or self.base.shape[:3] != (data.shape[0], *size):
            raise ValueError(
                f"leak_test: expected fn to return (B, H, W, ...) with {(data.shape[0], *size)}; got {self.base.shape}."
            )
        _require_finite("fn to return finite numbers", self.base)
        self.scale = max(float(abs(self.base).max(initial=0.0)), 1e-300)
        again = self(data)
        if again.shape != self.base.shape or not (abs(again - self.base) <= tolerance * self.scale).all():
            raise ValueError(
                "leak_test: expected the same result from the same map twice; got two, fn is not repeatable. "
                "Use evaluation mode (dropout, DropPath), or seed within fn what it draws."
            )

    def _takes_tensors(self) -> bool:
        """Whether the function takes Tensors, as functions on the engine do. Others are given arrays."""
        try:
            with ag.no_grad():
                self.engine = isinstance(self.fn(ag.Tensor(self.data.copy())), ag.Tensor)
        except Exception:  # a function on arrays may fail in any way; its own errors show when it is given arrays
            self.engine = False
        return self.engine

    def __call__(self, data: Array) -> Array:
        if not self.engine:
            return as_array(self.fn(data.copy()))
        with ag.no_grad():
            return as_array(self.fn(ag.Tensor(data.copy())))

    def change(self, place: Pair, rng: np.random.Generator) -> tuple[Array, float]:
        """(H, W): the largest change of each output token of the first image; and that of the other images."""
        other = self.data.copy()
        channels = other.shape[3]
        other[0, place[0], place[1]] += rng.uniform(0.5, 1.5, channels) * rng.choice([-1.0, 1.0], channels)
        with np.errstate(invalid="ignore"):
            delta = abs(self(other) - self.base)
        delta = np.where(np.isnan(delta), np.inf, delta).reshape(*delta.shape[:3], -1).max(axis=3)
        return delta[0], float(delta[1:].max()) if len(delta) > 1 else 0.0


def _gradient_leaks(
    fn: Callable[[Any], Any],
    data: Array,
    places: Sequence[Pair],
    allowed: Array,
    tolerance: float,
    rng: np.random.Generator,
) -> dict[Pair, list[Pair]]:
    """For each output token the inputs that it has a gradient for and should not."""
    leaf = ag.Tensor(data[:1].copy(), requires_grad=True)
    output = fn(leaf)
    size = (data.shape[1], data.shape[2])
    found = {}
    for y, x in places:
        seed = np.zeros(output.shape, output.dtype)
        seed[0, y, x] = rng.uniform(0.5, 1.5, seed[0, y, x].shape)
        (gradient,) = ag.grad(output, leaf, seed, retain_graph=True)
        if gradient is None:
            continue
        _require_finite(f"finite gradients of output token {(y, x)}", gradient)
        reach = abs(gradient[0]).max(axis=-1)
        wrong = (reach > tolerance * reach.max()) & ~allowed[:, y * size[1] + x].reshape(size)
        if wrong.any():
            found[y, x] = _pairs(wrong)
    return found


def _require_finite(what: str, array: Array, op: str = "leak_test") -> None:
    """Refuse NaN and inf: every comparison with NaN is false, so that nothing would seem to move."""
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(
            f"{op}: expected {what}; got NaN or inf in {bad} of {array.size}. "
            "Check the input and the weights; ag.detect_anomaly() names the op that makes them."
        )


def _guess(leaks: dict[Pair, list[Pair]], size: Pair) -> str:
    """Whether leaks go round the edge of the map, or to near neighbours."""
    if not leaks:
        return ""
    pairs = [(t, o) for t, others in leaks.items() for o in others]
    far = [[abs(t[a] - o[a]) > size[a] / 2 for t, o in pairs] for a in (0, 1)]
    if all(len(others) >= size[0] * size[1] // 2 for others in leaks.values()):
        return "tokens reach most of the map: no windows, or a partition that mixes them"
    around = np.mean([a or b for a, b in zip(*far, strict=True)])
    names = [n for n, f in zip(("top and bottom", "left and right"), far, strict=True) if any(f)]
    if around > 0.5:
        edges = " and ".join(names)
        return f"tokens meet around the edge of the map ({edges}): a missing mask, or a roll before the padding"
    return "tokens reach across window borders: wrong window, shift, mask or partition"


# ---- receptive field


@dataclass(frozen=True)
class ReceptiveField:
    """Which input pixels can move one output location.

    Attributes:
        location: (row, column) of the output.
        output_size: (H', W') of the output map.
        mask: (H, W) of the input pixels.
    """

    location: Pair
    output_size: Pair
    mask: Array

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) around the pixels, the last two exclusive; zeros for none."""
        if not self.mask.any():
            return 0, 0, 0, 0
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1

    @property
    def share(self) -> float:
        """Of all input pixels."""
        return float(self.mask.mean())

    def __str__(self) -> str:
        top, left, bottom, right = self.box
        filled = int(self.mask.sum()) == (bottom - top) * (right - left)
        return (
            f"output {self.location} of {self.output_size[0]}x{self.output_size[1]} sees {int(self.mask.sum())} of "
            f"{self.mask.size} pixels ({self.share:.0%}): rows {top}-{bottom - 1}, columns {left}-{right - 1}"
            + ("" if filled else ", with gaps")
        )


def receptive_field(
    model: Callable[..., Any],
    size: int | Pair,
    location: Pair | None = None,
    *,
    channels: int = 3,
    stage: int | None = None,
    seed: int = 0,
    tolerance: float = _NEGLIGIBLE,
) -> ReceptiveField:
    """The input pixels that an output location has a gradient for, at a random image.

    Args:
        model: a Module with ``features`` (a Swin), or a function from images (1, channels, H, W), a Tensor, to a map
            (1, C, H', W'). Use it in evaluation mode.
        size: of the image in pixels.
        location: (row, column) in the output map; default its middle.
        channels: of the image.
        stage: with ``features``, which stage's map; default the last.
        seed: of the image and of the output's weights.
        tolerance: gradients up to this, relative to the largest, are none (see mask_value -100).

    Raises:
        TypeError: for a model of another framework, or a function that returns no Tensor.
        ValueError: for a location outside the map, an output that is no map, or gradients that are not finite.
    """
    require_callable("receptive_field", model)
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(seed)
    dtype: Any = model.dtype if isinstance(model, Module) else np.float64
    image = ag.Tensor(rng.standard_normal((1, channels, height, width)).astype(dtype), requires_grad=True)
    if hasattr(model, "features"):
        output = model.features(image, [-1 if stage is None else stage], norm=False)[0]
    else:
        output = model(image)
    if not isinstance(output, ag.Tensor):
        raise TypeError(f"receptive_field: expected a model that returns a Tensor; got {kind_of(output)}.")
    if output.ndim != 4:
        raise ValueError(f"receptive_field: expected a map (1, C, H', W'); got {output.shape}. Pass stage features.")
    out = (int(output.shape[2]), int(output.shape[3]))
    y, x = (out[0] // 2, out[1] // 2) if location is None else location
    if not (0 <= y < out[0] and 0 <= x < out[1]):
        raise ValueError(f"receptive_field: expected a location in {out[0]}x{out[1]}; got {(y, x)}.")
    weights = np.zeros(output.shape, output.dtype)
    weights[0, :, y, x] = rng.uniform(0.5, 1.5, output.shape[1])
    (gradient,) = ag.grad(output, image, weights)
    if gradient is not None:
        _require_finite(f"finite gradients of output {(y, x)}", gradient, "receptive_field")
    reach = np.zeros((height, width)) if gradient is None else abs(gradient[0]).max(axis=0)
    return ReceptiveField((y, x), out, reach > tolerance * reach.max())
