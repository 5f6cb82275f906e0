"""Windows, regions, masks and tables against constructions written independently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import strategies, tolerances
from support.layouts import relayout
from support.swin.references import region_map, tiles

import autograd as ag
from swinpy import geometry as geo
from swinpy.geometry import (
    Geometry,
    PositionIndex,
    attention_mask,
    geometry,
    position_index,
    relative_position_index,
    shift_regions,
    window_tokens,
)
from swinpy.ops import window_partition, window_reverse

PUBLISHED = -100.0

sides = st.integers(1, 4)
windows = st.tuples(sides, sides)


@st.composite
def cuts(draw: st.DrawFn, whole: bool = False) -> Geometry:
    """Any map, window and shift; ``whole`` for maps of whole windows."""
    window = draw(windows)
    size = tuple(draw(st.integers(1, 4)) * w if whole else draw(st.integers(1, 11)) for w in window)
    shift = tuple(draw(st.integers(0, w - 1)) for w in window)
    return geometry((size[0], size[1]), window, (shift[0], shift[1]), draw(st.sampled_from(["clamp", "pad"])))


def _map(cut: Geometry, seed: int, batch: int = 2, channels: int = 3) -> Any:
    return np.random.default_rng(seed).standard_normal((batch, *cut.padded, channels))


# ---- partition and reverse


@given(cuts(), strategies.seeds)
def test_reverse_undoes_partition(cut: Geometry, seed: int) -> None:
    x = ag.Tensor(_map(cut, seed))
    back = window_reverse(window_partition(x, cut.window))
    np.testing.assert_array_equal(back.numpy(), x.numpy())


@given(cuts(), strategies.seeds)
def test_partition_is_the_definition(cut: Geometry, seed: int) -> None:
    x = _map(cut, seed)
    (wh, ww), got = cut.window, window_partition(ag.Tensor(x), cut.window).numpy()
    for i, j in np.ndindex(*cut.windows):
        np.testing.assert_array_equal(got[:, i, j], x[:, i * wh : (i + 1) * wh, j * ww : (j + 1) * ww])


@given(cuts(), strategies.layouts, strategies.seeds)
def test_partition_is_a_view_of_any_layout(cut: Geometry, layout: str, seed: int) -> None:
    x = relayout(_map(cut, seed), layout)
    got = window_partition(ag.Tensor(x), cut.window).data
    assert np.shares_memory(got, x)
    np.testing.assert_array_equal(got, window_partition(ag.Tensor(x.copy()), cut.window).numpy())


@given(cuts(), strategies.seeds)
def test_partition_and_reverse_are_adjoint_to_each_other(cut: Geometry, seed: int) -> None:
    """A permutation's adjoint is its inverse."""
    rng = np.random.default_rng(seed)
    x = ag.Tensor(_map(cut, seed), requires_grad=True)
    out = window_partition(x, cut.window)
    g = rng.standard_normal(out.shape)
    out.backward(g)
    np.testing.assert_array_equal(x.grad, window_reverse(ag.Tensor(g)).numpy())
    assert x.grad is not None
    left, right = float((out.numpy() * g).sum()), float((x.numpy() * x.grad).sum())
    assert abs(left - right) <= tolerances.ADJOINT * float(np.abs(out.numpy() * g).sum())
    y = ag.Tensor(out.numpy(), requires_grad=True)
    back = window_reverse(y)
    h = rng.standard_normal(back.shape)
    back.backward(h)
    np.testing.assert_array_equal(y.grad, window_partition(ag.Tensor(h), cut.window).numpy())


@pytest.mark.parametrize("shape", [(1, 4, 6), (1, 5, 6, 2), (1, 4, 7, 2)])
def test_partition_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"window_partition: expected .* multiples of \(2, 3\); got .* Pad first"):
        window_partition(ag.Tensor(np.zeros(shape)), (2, 3))


def test_reverse_refuses() -> None:
    with pytest.raises(ValueError, match=r"window_reverse: expected \(B, nH, nW, wh, ww, C\); got \(2, 3, 4\)"):
        window_reverse(ag.Tensor(np.zeros((2, 3, 4))))


# ---- relative position index


def _naive_index(window: tuple[int, int], table: tuple[int, int]) -> Any:
    n = window[0] * window[1]
    index = np.zeros((n, n), int)
    for i in range(n):
        for j in range(n):
            dy, dx = i // window[1] - j // window[1], i % window[1] - j % window[1]
            rows = np.arange((2 * table[0] - 1) * (2 * table[1] - 1)).reshape(2 * table[0] - 1, -1)
            index[i, j] = rows[table[0] - 1 + dy, table[1] - 1 + dx]
    return index


@given(windows, windows)
def test_index_is_the_double_loop(window: tuple[int, int], extra: tuple[int, int]) -> None:
    """Also of a window smaller than the table's, which uses the table's central offsets."""
    table = (window[0] + extra[0] - 1, window[1] + extra[1] - 1)
    np.testing.assert_array_equal(relative_position_index(window, table), _naive_index(window, table))


def test_index_uses_every_row_of_its_own_table() -> None:
    index = relative_position_index((3, 4), (3, 4))
    assert set(index.reshape(-1).tolist()) == set(range(5 * 7))
    assert set(np.diag(index)) == {5 * 7 // 2}


def test_smaller_window_uses_the_central_sub_table() -> None:
    whole = np.arange(13 * 13).reshape(13, 13)
    centre = whole[6 - 3 : 6 + 4, 6 - 3 : 6 + 4].reshape(-1)
    np.testing.assert_array_equal(
        relative_position_index((4, 4), (7, 7)), centre[relative_position_index((4, 4), (4, 4))]
    )


def test_index_refuses_a_window_larger_than_the_table() -> None:
    with pytest.raises(ValueError, match=r"expected a window of at most \(3, 3\); got \(2, 4\)"):
        relative_position_index((2, 4), (3, 3))


# ---- regions and mask


def _official_regions(cut: Geometry) -> Any:
    """Per window, from the official code's slices of the whole image."""
    image = region_map(cut)
    return np.stack([image[tile].reshape(-1) for tile in tiles(cut)])


def _same(regions: Any) -> Any:
    return regions[:, :, None] == regions[:, None, :]


@given(cuts())
def test_regions_part_tokens_as_the_official_slices_do(cut: Geometry) -> None:
    np.testing.assert_array_equal(_same(shift_regions(cut)), _same(_official_regions(cut)))


@pytest.mark.parametrize("value", [PUBLISHED, -np.inf])
@given(cuts())
def test_mask_is_the_official_one(value: float, cut: Geometry) -> None:
    mask = attention_mask(cut, value)
    if cut.shift == (0, 0):
        assert mask is None
        return
    assert mask is not None
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, np.where(_same(_official_regions(cut)), 0, value))


def test_mask_of_figure_4() -> None:
    """Four windows of 2x2 shifted by 1: one whole, two of two regions, one of four."""
    regions = shift_regions(Geometry((4, 4), (2, 2), (1, 1)))
    assert [len(set(window.tolist())) for window in regions] == [1, 2, 2, 4]


@given(cuts())
def test_tokens_of_a_region_are_neighbours_on_the_map(cut: Geometry) -> None:
    """What the mask lets attend lies on the map as it does in the window, though rolled."""
    width = cut.padded[1]
    padded = Geometry(cut.padded, cut.window, cut.shift)
    pixels, regions = window_tokens(padded), shift_regions(cut)
    y, x = np.indices(cut.window).reshape(2, -1)
    for row, region in zip(pixels, regions, strict=True):
        for name in set(region.tolist()):
            inside = region == name
            assert len(set((row[inside] // width - y[inside]).tolist())) == 1
            assert len(set((row[inside] % width - x[inside]).tolist())) == 1


@pytest.mark.parametrize(
    ("n", "window", "shift", "bands"),
    [(6, 3, 0, [0] * 6), (6, 3, 1, [0, 0, 0, 1, 1, 2]), (6, 3, 2, [0, 0, 0, 1, 2, 2]), (3, 3, 1, [1, 1, 2])],
)
def test_bands(n: int, window: int, shift: int, bands: list[int]) -> None:
    assert geo._bands(n, window, shift).tolist() == bands


# ---- tokens


@given(cuts())
def test_window_tokens_are_pad_roll_partition(cut: Geometry) -> None:
    (h, w), padded = cut.size, cut.padded
    image = np.pad(np.arange(h * w).reshape(h, w), ((0, padded[0] - h), (0, padded[1] - w)), constant_values=-1)
    rolled = np.roll(image, (-cut.shift[0], -cut.shift[1]), axis=(0, 1))
    np.testing.assert_array_equal(window_tokens(cut), np.stack([rolled[tile].reshape(-1) for tile in tiles(cut)]))


@given(cuts())
def test_every_pixel_is_in_one_window(cut: Geometry) -> None:
    tokens = window_tokens(cut)
    assert sorted(tokens[tokens >= 0].tolist()) == list(range(cut.size[0] * cut.size[1]))
    assert tokens.shape == (cut.windows[0] * cut.windows[1], cut.tokens)


# ---- the cut of a map


@pytest.mark.parametrize(
    ("size", "small_map", "window", "shift", "padded"),
    [
        ((14, 9), "clamp", (7, 7), (3, 3), (14, 14)),
        ((14, 7), "clamp", (7, 7), (3, 0), (14, 7)),  # one window across: nothing to shift along that axis
        ((14, 4), "clamp", (7, 4), (3, 0), (14, 4)),
        ((14, 4), "pad", (7, 7), (3, 0), (14, 7)),
        ((3, 2), "clamp", (3, 2), (0, 0), (3, 2)),
        ((3, 2), "pad", (7, 7), (0, 0), (7, 7)),
        ((8, 8), "pad", (7, 7), (3, 3), (14, 14)),
        ((1, 1), "clamp", (1, 1), (0, 0), (1, 1)),
    ],
)
def test_geometry_axis_by_axis(size: Any, small_map: Any, window: Any, shift: Any, padded: Any) -> None:
    cut = geometry(size, (7, 7), (3, 3), small_map)
    assert (cut.window, cut.shift, cut.padded) == (window, shift, padded)
    assert cut.tokens == window[0] * window[1]
    assert cut.windows == (padded[0] // window[0], padded[1] // window[1])


@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
def test_geometry_refuses_an_empty_map(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"window: expected a map of at least 1x1 tokens; got"):
        geometry(size, (2, 2), (0, 0))


def test_places_of_each_row_in_order() -> None:
    index = PositionIndex(np.array([[3, 0, 3], [0, 3, 1]], np.uint8))
    assert index.rows == 4
    assert index.places.tolist() == [[1, 3, -1], [5, -1, -1], [-1, -1, -1], [0, 2, 4]]
    nothing = PositionIndex(np.zeros((0, 2), int))
    assert (nothing.rows, nothing.places.shape) == (0, (0, 0))


def test_a_position_index_keeps_its_own_numbers() -> None:
    numbers = np.zeros((2, 2), int)
    index = PositionIndex(numbers)
    numbers[...] = 7
    assert index.index.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        (np.zeros((1, 1)), TypeError, "an index of integers; got float64"),
        (np.zeros(3, int), ValueError, r"an index \(N, M\); got \(3,\)"),
        (np.array([[0, -1]]), IndexError, "rows from 0 on; got -1"),
    ],
)
def test_position_index_refuses(index: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^PositionIndex: expected {words}"):
        PositionIndex(index)


# ---- caches


TABLES = (
    lambda n: relative_position_index((1, n), (1, n)),
    lambda n: position_index((1, n), (1, n)).index,
    lambda n: position_index((1, n), (1, n)).places,
    lambda n: shift_regions(Geometry((1, 2 * n), (1, n), (0, 1))),
    lambda n: attention_mask(Geometry((1, 2 * n), (1, n), (0, 1)), PUBLISHED),
    lambda n: window_tokens(Geometry((1, 2 * n), (1, n), (0, 1))),
)


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_shared_and_read_only(table: Any) -> None:
    first = table(3)
    assert table(3) is first
    with pytest.raises(ValueError, match="read-only"):
        first[...] = 0


@pytest.mark.parametrize(
    "function", [relative_position_index, position_index, shift_regions, attention_mask, window_tokens]
)
def test_caches_are_bounded(function: Any) -> None:
    assert function.cache_info().maxsize in (64, 256)


def test_tables_go_where_the_data_is() -> None:
    from support.gpu import fake_cupy

    assert geo.on_device(None, np.zeros(1)) is None
    with fake_cupy.installed() as cupy:
        moved = geo.on_device(window_tokens(Geometry((2, 2), (2, 2), (0, 0))), cupy.zeros(1))
        assert type(moved) is fake_cupy.ndarray
        assert moved.get().tolist() == [[0, 1, 2, 3]]
