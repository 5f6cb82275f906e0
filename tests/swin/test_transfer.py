"""Another window, another resolution: bias tables, coordinates, absolute positions, whole models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.interpolate import RectBivariateSpline
from support import tolerances
from support.gpu import fake_cupy
from support.swin.models import images, tiny

import autograd as ag
from swinpy import create_model, resize_model
from swinpy.geometry import coordinates_like, log_coordinates, relative_position_index
from swinpy.models.resample import (
    bicubic_matrix,
    geometric_matrix,
    resize_absolute_position,
    resize_bias_table,
)

WIDE: dict[str, Any] = {"img_size": 32}
V2: dict[str, Any] = {"architecture": "v2", **WIDE}

# ---- tables


def _positions(source: int, target: int) -> list[float]:
    """The published code's search for the progression, as it reads."""
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        q = (left + right) / 2
        if (1 - q ** (source // 2)) / (1 - q) > target // 2:
            right = q
        else:
            left = q
    side, at = [], 1.0
    for i in range(source // 2):
        side.append(at)
        at += q ** (i + 1)
    return [*(-d for d in reversed(side)), 0.0, *side]


@pytest.mark.parametrize(("window", "target"), [(7, 12), (7, 8), (4, 16), (12, 24), (12, 7), (6, 7), (3, 20)])
def test_geometric_is_a_spline_through_the_progression(window: int, target: int) -> None:
    old, new = 2 * window - 1, 2 * target - 1
    table = np.random.default_rng(0).standard_normal((old**2, 3))
    x = _positions(old, new)
    at = np.arange(new) - new // 2
    expected = [RectBivariateSpline(x, x, table[:, h].reshape(old, old), s=0)(at, at).ravel() for h in range(3)]
    got = resize_bias_table(table, (window, window), (target, target), "geometric")
    np.testing.assert_allclose(got, np.transpose(expected), rtol=0, atol=tolerances.SPLINE)


@pytest.mark.parametrize("matrix", [bicubic_matrix, geometric_matrix])
@pytest.mark.parametrize(("source", "target"), [(1, 5), (3, 13), (5, 3), (13, 23), (23, 13), (9, 9), (13, 1)])
def test_constant_tables_stay_constant(matrix: Any, source: int, target: int) -> None:
    assert matrix(source, target).shape == (target, source)
    np.testing.assert_allclose(matrix(source, target).sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix(source, target), matrix(source, target)[::-1, ::-1], rtol=0, atol=1e-12)


def test_geometric_keeps_near_offsets() -> None:
    """Offsets -1, 0, 1 are points of both grids: their values stay."""
    table = np.random.default_rng(0).standard_normal((13 * 13, 2))
    got = resize_bias_table(table, (7, 7), (12, 12), "geometric").reshape(23, 23, 2)
    np.testing.assert_allclose(got[10:13, 10:13], table.reshape(13, 13, 2)[5:8, 5:8], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["bicubic", "geometric"])
def test_axes_are_resized_apart(method: Any) -> None:
    """A rectangular window; one axis that stays is not touched by the other."""
    rows, columns = np.linspace(-1, 1, 5), np.cos(np.arange(9.0))
    table = (rows[:, None] * columns).reshape(45, 1)
    got = resize_bias_table(table, (3, 5), (3, 8), method).reshape(5, 15)
    matrix = {"bicubic": bicubic_matrix, "geometric": geometric_matrix}[method]
    if method == "bicubic":
        np.testing.assert_allclose(got, rows[:, None] * (matrix(9, 15) @ columns), rtol=0, atol=1e-12)
    else:
        np.testing.assert_allclose(got, np.outer(matrix(5, 5) @ rows, matrix(9, 15) @ columns), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_stays(dtype: Any) -> None:
    table = np.ones((25, 2), dtype)
    assert resize_bias_table(table, (3, 3), (4, 4)).dtype == dtype
    assert resize_bias_table(table, (3, 3), (3, 3)) is table
    assert resize_absolute_position(np.ones((1, 6, 2), dtype), (2, 3), (4, 4)).dtype == dtype


def test_absolute_position_is_what_forward_reads() -> None:
    model = tiny(position="absolute")
    size = (30, 22)
    resized = resize_model(model, size)
    assert resized.absolute_pos_embed.shape == (1, 15 * 11, 8)
    np.testing.assert_allclose(resized(images(size)).numpy(), model(images(size)).numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (
            lambda: resize_bias_table(np.ones((25, 2)), (4, 4), (5, 5)),
            r"expected a table \(49, heads\) of a window \(4, 4\)",
        ),
        (lambda: resize_bias_table(np.ones((25, 2)), (3, 3), (5, 5), "cubic"), "bicubic or geometric; got 'cubic'"),  # type: ignore[arg-type]
        (lambda: resize_absolute_position(np.ones((1, 5, 2)), (2, 3), (4, 4)), r"expected \(1, 6, C\) of a map"),
    ],
)
def test_what_does_not_fit_is_refused(run: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        run()


# ---- coordinates


@pytest.mark.parametrize(
    ("window", "learned"), [((8, 8), (8, 8)), ((16, 16), (8, 8)), ((4, 7), (12, 6)), ((1, 3), (1, 1))]
)
def test_log_coordinates(window: tuple[int, int], learned: tuple[int, int]) -> None:
    """Offset by offset, by the formulas as they are written."""
    code, paper = (log_coordinates(window, learned, f) for f in ("code", "paper"))
    row = 0
    for dy in range(1 - window[0], window[0]):
        for dx in range(1 - window[1], window[1]):
            for axis, d in enumerate((dy, dx)):
                scaled = 8 * d / max(learned[axis] - 1, 1)
                want = math.copysign(math.log2(1 + abs(scaled)) / math.log2(8), d) if d else 0.0
                assert code[row, axis] == pytest.approx(want, abs=1e-15)
                assert paper[row, axis] == pytest.approx(
                    math.copysign(math.log(1 + abs(d)), d) if d else 0.0, abs=1e-15
                )
            row += 1
    assert len(code) == row


def test_one_token_has_the_coordinate_zero() -> None:
    assert log_coordinates((1, 1), (1, 1)).tolist() == [[0.0, 0.0]]


def test_coordinates_are_shared_and_read_only() -> None:
    assert log_coordinates((8, 8), (8, 8)) is log_coordinates((8, 8), (8, 8))
    with pytest.raises(ValueError, match="read-only"):
        log_coordinates((8, 8), (8, 8))[0] = 1


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_coordinates_go_where_the_model_is_once(dtype: str) -> None:
    want = log_coordinates((3, 2), (3, 2)).astype(dtype)
    arguments = ((3, 2), (3, 2), "code")
    here = coordinates_like(*arguments, np.zeros(1, dtype))
    np.testing.assert_array_equal(here, want)
    assert here.dtype == dtype
    assert coordinates_like(*arguments, np.zeros(1, dtype)) is here
    with pytest.raises(ValueError, match="read-only"):
        here[0] = 1
    with fake_cupy.installed(devices=2) as cupy:
        for device in (0, 1):
            with cupy.cuda.Device(device):
                like = cupy.zeros(1, dtype)
            there = coordinates_like(*arguments, like)
            assert (there.device.id, there.dtype) == (device, dtype)
            np.testing.assert_array_equal(there.get(), want)
            assert coordinates_like(*arguments, like) is there


# ---- models


@pytest.mark.parametrize("method", ["bicubic", "geometric"])
def test_v1_at_another_window(method: Any) -> None:
    model = tiny(**WIDE)
    resized = resize_model(model, window_size=5, method=method)
    assert resized.config == model.config.with_changes(window_size=5)
    for name, array in model.state_dict().items():
        got = resized.state_dict()[name]
        if name.endswith("table"):
            np.testing.assert_array_equal(got, resize_bias_table(array, (3, 3), (5, 5), method))
        else:
            np.testing.assert_array_equal(got, array)
            assert not np.shares_memory(got, array)
    assert resized(images(32)).shape == (2, 5)
    assert model.config.window_size == 3


def test_v1_keeps_its_function_where_nothing_changes() -> None:
    model, x = tiny(**WIDE), images(32)
    np.testing.assert_array_equal(resize_model(model)(x).numpy(), model(x).numpy())
    np.testing.assert_array_equal(resize_model(model, img_size=64)(x).numpy(), model(x).numpy())


def test_clamped_windows_grow_with_the_image() -> None:
    """Built for 24 pixels the second stage's window is 6; at 64 it is 8, and its table is resized."""
    model = tiny(depths=(1, 1), img_size=24, window_size=8)
    assert [model.config.window(s) for s in (0, 1)] == [(8, 8), (6, 6)]
    resized = resize_model(model, 64)
    tables = [resized.layers[s].blocks[0].attn.relative_position_bias_table.shape[0] for s in (0, 1)]
    assert tables == [225, 225]


def test_v2_at_another_window_keeps_every_parameter() -> None:
    """The bias of an offset is the same at every window."""
    model = tiny(**V2)
    resized = resize_model(model, window_size=5)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(resized.state_dict()[name], array)
    assert resized.config.pretrained_window_sizes == (3, 3)
    small, large = (m.layers[0].blocks[0].attn for m in (model, resized))
    before, after = small.position_bias((3, 3)).numpy(), large.position_bias((5, 5)).numpy()
    index_small, index_large = relative_position_index((3, 3), (3, 3)), relative_position_index((5, 5), (5, 5))
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            a, b = (dy + 2) * 5 + dx + 2, (dy + 4) * 9 + dx + 4
            np.testing.assert_allclose(
                after[:, index_large == b][:, 0], before[:, index_small == a][:, 0], rtol=0, atol=1e-13
            )


def test_v2_notes_the_first_window_for_good() -> None:
    model = resize_model(resize_model(tiny(**V2), window_size=5), window_size=4)
    assert model.config.pretrained_window_sizes == (3, 3)
    named = create_model("swinv2_tiny_window8_256", depths=(1, 1, 1, 1), embed_dim=8, num_heads=(1, 1, 1, 1))
    with pytest.warns(UserWarning, match="stage 3: window 12 is larger than its map of 6x6 tokens") as caught:
        larger = resize_model(named, 192, 12)
    assert caught[0].filename == __file__
    assert larger.config.pretrained_window_sizes == (8, 8, 8, 8)
    pretrained = create_model("swinv2_base_window12_192", depths=(1, 1, 1, 1), embed_dim=8, num_heads=(1, 1, 1, 1))
    with pytest.warns(UserWarning, match="stage 3: window 16 is larger than its map"):
        tuned = resize_model(pretrained, 256, 16)
    assert tuned.config.pretrained_window_sizes == (12, 12, 12, 6)  # as the published fine-tuned models have it


def test_v2_of_the_paper_needs_no_note() -> None:
    resized = resize_model(tiny(**V2, coordinates="paper"), window_size=5)
    assert resized.config.pretrained_window_sizes == ()


def test_swin_mlp_keeps_its_windows() -> None:
    model = tiny(architecture="mlp", **WIDE)
    assert resize_model(model, img_size=48)(images(48)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"resize_model: expected the windows .* of Swin-MLP"):
        resize_model(model, window_size=4)


def test_mode_dtype_flags_and_generator_stay() -> None:
    model = tiny("float32", **WIDE).train()
    model.patch_embed.requires_grad_(False)
    before = ag.default_generator.state()
    resized = resize_model(model, window_size=4)
    assert ag.default_generator.state() == before
    assert resized.training
    assert resized.dtype == np.float32
    flags = {n: p.requires_grad for n, p in resized.named_parameters()}
    assert flags == {n: p.requires_grad for n, p in model.named_parameters()}
    assert not all(flags.values())


def test_after_another_head() -> None:
    model = tiny(**WIDE)
    model.reset_classifier(0)
    assert resize_model(model, window_size=4).head is None


def test_on_the_gpu() -> None:
    model = tiny(position="both", **WIDE)
    expected = resize_model(model, 40, 4).state_dict()
    with fake_cupy.installed():
        resized = resize_model(model.to("gpu"), 40, 4)
        assert resized.device == "cuda:0"
        for name, array in resized.state_dict().items():
            np.testing.assert_allclose(array.get(), expected[name], rtol=0, atol=1e-14)


def test_bad_sizes_leave_the_model_alone() -> None:
    model = tiny(**WIDE)
    with pytest.raises(ValueError, match="window_size: expected 1 or more; got 0"):
        resize_model(model, window_size=0)
    with pytest.raises(ValueError, match="method bicubic or geometric"):
        resize_model(model, window_size=4, method="linear")  # type: ignore[arg-type]
    assert model.config.window_size == 3
