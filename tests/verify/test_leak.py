"""Leaks between tokens and images, forward and backward; regions; receptive fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.swin.models import TINY, build, images, redraw
from support.swin.port import PortAttention

import autograd as ag
from swinpy.models.swin_v1 import TableAttention
from swinpy.verify import (
    complexity,
    diff,
    drop_rates,
    gradcheck_model,
    leak_test,
    receptive_field,
    trace,
    window_regions,
)

Array = np.ndarray[Any, Any]
CONFIG = TINY.with_changes(embed_dim=8, num_heads=(2, 4))


def _map(size: tuple[int, int], batch: int = 2) -> Array:
    return np.random.default_rng(0).standard_normal((batch, *size, 8))


def _ours(shift: int, **changes: Any) -> TableAttention:
    module = TableAttention(8, 2, (3, 3), (shift, shift), CONFIG.with_changes(**changes)).astype("float64").eval()
    redraw(module)
    return module


def _port(shift: int, fault: str = "") -> PortAttention:
    module = PortAttention(8, 2, 3, shift, CONFIG, fault).astype("float64").eval()
    redraw(module)
    return module


def _regions_by_walking(size: tuple[int, int], w: int, s: int) -> Array:
    """Tokens p and q of the padded map share a window after the roll, and the stretch between them crosses no seam."""

    def bands(n: int) -> list[tuple[int, bool]]:
        if n <= w:
            return [(0, False)] * n
        padded = -(-n // w) * w
        rolled = [(i - s) % padded for i in range(n)]
        return [(r // w, i < s) for i, r in enumerate(rolled)]

    rows, columns = bands(size[0]), bands(size[1])
    keys = [[(rows[y], columns[x]) for x in range(size[1])] for y in range(size[0])]
    seen: dict[Any, int] = {}
    return np.array([[seen.setdefault(k, len(seen)) for k in row] for row in keys])


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (4, 9), (3, 8), (2, 2), (10, 13)])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_regions_against_a_walk_along_each_axis(size: tuple[int, int], shift: int) -> None:
    np.testing.assert_array_equal(window_regions(size, 3, shift), _regions_by_walking(size, 3, shift))


@pytest.mark.parametrize("mask_value", [-100.0, -np.inf])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (2, 7)])
@pytest.mark.parametrize("attention", ["fused", "composite"])
def test_ours_is_tight(size: tuple[int, int], mask_value: float, attention: str) -> None:
    module = _ours(1, mask_value=mask_value, attention=attention)
    report = leak_test(module, _map(size), window_regions(size, 3, 1))
    assert report.tight
    assert report.checked_gradients
    assert report.deaf == {}
    assert len(report.moved) == size[0] * size[1]
    assert str(report) == f"{size[0] * size[1]} tokens of a {size[0]}x{size[1]} map perturbed: nothing leaks"


def test_the_port_is_tight_and_its_faults_are_not() -> None:
    regions = window_regions((8, 11), 3, 1)
    assert leak_test(_port(1), _map((8, 11)), regions).tight
    missing = leak_test(_port(1, "no_mask"), _map((8, 11)), regions)
    assert "around the edge of the map (top and bottom and left and right)" in str(missing)
    assert missing.gradient_leaks
    down = leak_test(_port(1, "shift_down"), _map((8, 11)), regions)
    assert "across window borders" in str(down)


def _rows_met(height: int, window: int, shift: int) -> set[int]:
    """Rows that the last one meets where a map is rolled and then padded: the seam lies before the padding, the bands
    of the mask are counted from its end."""
    padded = -(-height // window) * window
    rolled = [(i + shift) % height for i in range(height)]
    band = [(p // window, p >= padded - shift) for p in range(height)]
    return {rolled[p] for p in range(height) if band[p] == band[rolled.index(height - 1)]}


@pytest.mark.parametrize("height", range(8, 15))
def test_roll_before_padding_leaks_around_the_edge(height: int) -> None:
    """timm's order, window 7 and shift 3: the last row attends to the first ones, but where the seam hits a border."""
    config = CONFIG.with_changes(window_size=7)
    module = PortAttention(8, 2, 7, 3, config, "pad_after_roll").astype("float64").eval()
    redraw(module)
    last = (height - 1, 0)
    report = leak_test(module, _map((height, 14), 1), window_regions((height, 14), 7, 3), tokens=[(0, 0), last])
    around = sorted(_rows_met(height, 7, 3) & {0, 1, 2})
    assert around == {8: [0, 1], 9: [0], 10: [], 11: [0, 1, 2], 12: [0, 1], 13: [0], 14: []}[height]
    assert report.tight == (around == [])
    if around:
        assert sorted({y for y, _ in report.leaks[last]}) == around
        assert sorted({y for y, _ in report.gradient_leaks[last]}) == around
        assert last in report.leaks[0, 0]
        assert "around the edge of the map (top and bottom): a missing mask, or a roll before" in str(report)


def test_a_leak_between_images() -> None:
    report = leak_test(_port(0, "mixed_batch"), _map((6, 6)), window_regions((6, 6), 3, 0))
    assert report.batch_leak
    assert "one image moves another" in str(report)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _numpy_attention(x: Array, wrong: bool) -> Array:
    """Attention in windows of 2, without a framework; ``wrong`` swaps rows and columns when it puts windows back."""
    b, h, w, c = x.shape
    t = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, 4, c)
    t = _softmax(t @ t.swapaxes(-1, -2)) @ t
    grid = (w // 2, h // 2) if wrong else (h // 2, w // 2)
    order = (0, 2, 3, 1, 4, 5) if wrong else (0, 1, 3, 2, 4, 5)
    return t.reshape(b, *grid, 2, 2, c).transpose(*order).reshape(b, h, w, c)


def test_a_function_on_plain_arrays() -> None:
    regions = window_regions((4, 6), 2)
    right = leak_test(lambda x: _numpy_attention(x, False), _map((4, 6)), regions)
    assert right.tight
    assert not right.checked_gradients
    assert "(gradients not checked)" in str(right)
    wrong = leak_test(lambda x: _numpy_attention(x, True), _map((4, 6)), regions)
    assert not wrong.tight
    assert wrong.deaf


def test_tokens_that_do_not_reach_their_region_are_told() -> None:
    report = leak_test(_ours(0), _map((6, 6)), np.zeros((6, 6), int), tokens=[(0, 0)])
    assert report.tight
    assert "1 tokens do not reach all of their region, e.g. (0, 0) not" in str(report)


def test_a_nan_that_appears_is_a_move() -> None:
    def fn(x: Array) -> Array:
        return np.where(np.arange(36).reshape(1, 6, 6, 1) == 35, np.where(x[:, :1, :1] == X[:, :1, :1], x, np.nan), x)

    X = _map((6, 6), 1)
    report = leak_test(fn, X, np.arange(36).reshape(6, 6), tokens=[(0, 0)])
    assert report.leaks == {(0, 0): [(5, 5)]}
    assert report.largest == np.inf


def test_what_is_not_finite_is_refused() -> None:
    x, regions = _map((4, 4), 1), window_regions((4, 4), 2)
    with pytest.raises(ValueError, match=r"^leak_test: expected fn to return finite numbers; got NaN or inf in 128 of"):
        leak_test(lambda t: t * np.nan, x, regions)
    with np.errstate(divide="ignore", invalid="ignore"):  # the slope of a root at 0
        words = r"^leak_test: expected finite gradients of output token \(0, 0\); got NaN"
        with pytest.raises(ValueError, match=words):
            leak_test(lambda t: (t * 0.0) ** 0.5 + t, x, regions)
        with pytest.raises(ValueError, match=r"^receptive_field: expected finite gradients"):
            receptive_field(lambda t: (t * 0.0) ** 0.5 + t, 4)


def test_a_function_that_is_not_repeatable_is_refused() -> None:
    x, regions = _map((4, 4), 1), window_regions((4, 4), 2)
    rng = np.random.default_rng(0)
    for fn in (lambda t: np.asarray(t) * rng.uniform(), lambda t: ag.dropout(t, 0.5, training=True)):
        with pytest.raises(ValueError, match=r"^leak_test: expected the same result .*not repeatable"):
            leak_test(fn, x, regions)


def test_functions_that_write_to_what_they_get_and_return_the_same_memory() -> None:
    x, regions = _map((4, 4), 1), np.arange(16).reshape(4, 4)
    kept, buffer = x.copy(), np.empty_like(x)

    def fn(t: Any) -> Array:
        t = np.asarray(t)
        np.multiply(t, 2, out=t)
        np.copyto(buffer, np.roll(t, 1, axis=1))
        return buffer

    report = leak_test(fn, x, regions)
    np.testing.assert_array_equal(x, kept)
    assert len(report.leaks) == 16


class _Foreign:
    """A tensor as torch's: one with a gradient gives its numbers only after detach."""

    def __init__(self, data: Array, wants_grad: bool = True) -> None:
        self.data, self.wants_grad = data, wants_grad

    def detach(self) -> _Foreign:
        return _Foreign(self.data, wants_grad=False)

    def cpu(self) -> _Foreign:
        return self

    def numpy(self) -> Array:
        if self.wants_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return self.data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.numpy()


def test_tensors_of_another_framework() -> None:
    regions = window_regions((4, 6), 2)
    assert leak_test(lambda t: _Foreign(_numpy_attention(np.asarray(t), False)), _map((4, 6)), regions).tight
    assert not leak_test(lambda t: _Foreign(_numpy_attention(np.asarray(t), True)), _map((4, 6)), regions).tight
    assert leak_test(lambda t: _numpy_attention(t, False), _Foreign(_map((4, 6))), regions).tight
    assert diff({"a": np.ones(3)}, {"a": _Foreign(np.ones(3))}).same


class Linear:
    """A model as torch's."""

    training = True

    def named_parameters(self) -> list[Any]:
        return []

    def __call__(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize("tool", [trace, complexity, gradcheck_model, receptive_field, drop_rates])
@pytest.mark.parametrize("model", [Linear(), None])
def test_models_of_another_framework_are_refused(tool: Any, model: Any) -> None:
    words = (
        rf"^{tool.__name__}: expected a swinpy.nn.Module.*; got .*{type(model).__name__}\. Dump its values to an npz"
    )
    with pytest.raises(TypeError, match=words):
        tool(model, 4)


def test_functions_that_leave_the_engine_are_refused() -> None:
    for tool, x in ((trace, np.ones((1, 2))), (receptive_field, 4)):
        with pytest.raises(TypeError, match=rf"^{tool.__name__}: expected a model that returns .*_Foreign"):
            tool(lambda t: _Foreign(t.numpy()), x)


def test_allowed_pairs_as_booleans_and_bad_shapes() -> None:
    x = _map((3, 3), 1)
    allowed = np.eye(9, dtype=bool)
    assert leak_test(lambda t: t * 2, x, allowed).tight
    shifted = leak_test(lambda t: np.roll(np.asarray(t), 1, axis=1), x, allowed)
    assert len(shifted.leaks) == 9
    with pytest.raises(ValueError, match=r"^leak_test: expected regions of shape \(3, 3\)"):
        leak_test(lambda t: t, x, np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"^leak_test: expected a map"):
        leak_test(lambda t: t, x[0], allowed)
    with pytest.raises(ValueError, match=r"^leak_test: expected fn to return"):
        leak_test(lambda t: np.asarray(t)[:, :2], x, allowed)


# ---- receptive fields


def _expected_field(depth: int, size: tuple[int, int], location: tuple[int, int]) -> Array:
    """Tokens that reach ``location`` through ``depth`` blocks, by regions alone."""
    reach = np.zeros(size, bool)
    reach[location] = True
    for i in reversed(range(depth)):
        labels = window_regions(size, 3, i % 2)
        reach = np.isin(labels, np.unique(labels[reach]))
    return reach


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("location", [(0, 0), (5, 6), (9, 12)])
def test_receptive_field_is_what_the_regions_say(depth: int, location: tuple[int, int]) -> None:
    model = build(TINY.with_changes(depths=(depth,), num_heads=(2,), img_size=(20, 26)))
    field = receptive_field(model, (20, 26), location)
    tokens = _expected_field(depth, (10, 13), location)
    np.testing.assert_array_equal(field.mask, tokens.repeat(2, axis=0).repeat(2, axis=1))
    assert field.output_size == (10, 13)
    assert field.share == tokens.mean()


def test_receptive_field_by_perturbation() -> None:
    """The gradient sees what moving the pixels shows."""
    model = build(TINY.with_changes(depths=(2,), num_heads=(2,)))
    field = receptive_field(model, 20, (4, 4), seed=3)
    image = np.random.default_rng(3).standard_normal((1, 3, 20, 20))
    with ag.no_grad():
        base = model.features(image, norm=False)[0].numpy()[0, :, 4, 4]
        for y, x in [(0, 0), (4, 10), (5, 5), (8, 8), (19, 8), (12, 12), (9, 13)]:
            moved = image.copy()
            moved[0, :, y, x] += 1
            change = abs(model.features(moved, norm=False)[0].numpy()[0, :, 4, 4] - base).max()
            assert (change > 0) == field.mask[y, x], (y, x)


def test_receptive_field_report_and_errors() -> None:
    model = build(TINY)
    text = str(receptive_field(model, 20, (0, 0), stage=0))
    assert text.startswith("output (0, 0) of 10x10 sees ")
    assert receptive_field(lambda x: x[:, :, 1:, :], 4, (0, 0)).box == (1, 0, 2, 1)
    assert receptive_field(lambda x: x * 0.0 + ag.Tensor(np.ones((1, 3, 4, 4))), 4).box == (0, 0, 0, 0)
    with pytest.raises(ValueError, match=r"^receptive_field: expected a location in 5x5; got \(5, 0\)"):
        receptive_field(model, 20, (5, 0))
    with pytest.raises(ValueError, match=r"^receptive_field: expected a map"):
        receptive_field(lambda x: x.mean(axis=(2, 3)), 4)
    assert images(4).shape == (2, 3, 4, 4)
