"""Running models: any size, every option, both attention paths, dtypes, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import tolerances
from support.swin.models import TINY, build, images, tiny
from support.swin.parity import assert_gradients_agree, loss_and_gradients

import autograd as ag

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_shift": {"shift": False},
    "no_qkv_bias": {"qkv_bias": False},
    "absolute": {"position": "absolute"},
    "both_positions": {"position": "both"},
    "no_position": {"position": "none"},
    "no_patch_norm": {"patch_norm": False},
    "forbidden": {"mask_value": -np.inf},
    "scaled": {"qk_scale": 0.2},
    "pad": {"small_map": "pad", "window_size": 7},
    "clamp": {"small_map": "clamp", "window_size": 7},
    "even_window": {"window_size": 4},
    "three_stages": {"depths": (1, 2, 1), "num_heads": (1, 2, 4)},
    "grey": {"in_chans": 1},
}


def _pixels(size: Any, options: dict[str, Any], batch: int = 2) -> Any:
    return images(size, batch)[:, : options.get("in_chans", 3)]


def _loss(z: ag.Tensor) -> ag.Tensor:
    weights = np.random.default_rng(9).standard_normal(z.shape).astype(z.dtype)
    return (z * weights).sum()


# ---- fused = composite


@pytest.mark.parametrize("size", [20, (13, 22)])
@pytest.mark.parametrize("name", OPTIONS)
def test_fused_and_composite_models_agree(name: str, size: Any) -> None:
    """Logits and every gradient, in float64."""
    options = OPTIONS[name]
    x = _pixels(size, options)
    results = [
        loss_and_gradients(tiny(attention=attention, **options), x, _loss) for attention in ("fused", "composite")
    ]
    (logits, fused), (expected, composite) = results
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerances.COMPOSITE * np.abs(expected).max())
    assert_gradients_agree(fused, composite, tolerances.COMPOSITE)


@pytest.mark.parametrize("name", ["no_shift", "no_qkv_bias", "absolute", "both_positions", "no_position", "scaled"])
def test_every_option_matters(name: str) -> None:
    """The same parameters where both have them, another result."""
    changed, plain, x = tiny(**OPTIONS[name]), tiny(), images(20)
    plain.load_state_dict(changed.state_dict(), strict=False)
    assert np.abs(plain(x).numpy() - changed(x).numpy()).max() > 1e-3


def test_clamp_and_pad_are_two_models_only_where_maps_are_small() -> None:
    clamp, pad = (tiny(window_size=4, img_size=20, small_map=m) for m in ("clamp", "pad"))
    large, small = images(20), images(12)  # maps 10, 5; and 6, 3
    np.testing.assert_array_equal(clamp(large).numpy(), pad(large).numpy())
    assert np.abs(clamp(small).numpy() - pad(small).numpy()).max() > 1e-3


# ---- any size


SIZES = [(n, n) for n in range(1, 71, 2)] + [(1, 70), (70, 1), (2, 33), (41, 6), (70, 64)]


@pytest.mark.parametrize("small_map", ["clamp", "pad"])
def test_any_input_size_runs(small_map: str) -> None:
    model = tiny("float32", small_map=small_map, window_size=4, depths=(2, 1), num_heads=(1, 2))
    with ag.no_grad():
        for size in SIZES:
            x = images(size, 1, np.float32)
            assert np.isfinite(model(x).numpy()).all(), size
            shapes = [f.shape for f in model.features(x)]
            h, w = (-(-n // 2) for n in size)
            assert shapes == [(1, 8, h, w), (1, 16, -(-h // 2), -(-w // 2))], size


@pytest.mark.parametrize("small_map", ["clamp", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (9, 5)])
def test_gradients_at_sizes_smaller_than_the_window(small_map: str, size: tuple[int, int]) -> None:
    x = images(size)
    results = [
        loss_and_gradients(tiny(attention=a, small_map=small_map, window_size=5), x, _loss)[1]
        for a in ("fused", "composite")
    ]
    assert_gradients_agree(*results, tolerances.COMPOSITE)
    assert all(np.isfinite(g).all() for g in results[0].values())


def test_nothing_is_cached_from_size_to_size() -> None:
    """Built at 64 or 224; run at 64, 224, 64: each the same bits as in a fresh model."""
    for built in (64, 224):
        config = TINY.with_changes(
            img_size=built, patch_size=4, window_size=7, position="both", depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4)
        )
        fresh = {size: build(config)(images(size, 1)).numpy() for size in (64, 224)}
        model = build(config)
        for size in (64, 224, 64, 224):
            np.testing.assert_array_equal(model(images(size, 1)).numpy(), fresh[size])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, x = tiny(), images((23, 17), 5)
    together = model(x).numpy()
    for i in range(len(x)):
        alone = model(x[i : i + 1]).numpy()[0]
        np.testing.assert_allclose(alone, together[i], rtol=0, atol=tolerances.COMPOSITE * np.abs(together).max())
    changed = np.concatenate([x[:1], images((23, 17), 4, seed=1)])
    np.testing.assert_allclose(model(changed).numpy()[0], together[0], rtol=0, atol=tolerances.COMPOSITE)


def test_batches_of_none() -> None:
    model, x = tiny(), images(20, 0)
    assert model(x).shape == (0, 5)
    loss_and_gradients(model, x, lambda z: z.sum())


@pytest.mark.parametrize("layout", ["fortran", "permuted", "sliced", "negative"])
def test_any_layout_of_images(layout: str) -> None:
    from support.layouts import relayout

    model, x = tiny(), images((19, 14))
    np.testing.assert_allclose(model(relayout(x, layout)).numpy(), model(x).numpy(), rtol=0, atol=tolerances.COMPOSITE)


# ---- meaning


def test_merging_takes_neighbours_column_by_column() -> None:
    """(row, column) in the order (0,0), (1,0), (0,1), (1,1), as in the published weights."""
    from swinpy.models.parts import PatchMerging

    x = np.arange(4.0).reshape(1, 2, 2, 1)
    assert PatchMerging.gather(ag.Tensor(x)).numpy().reshape(-1).tolist() == [0, 2, 1, 3]
    odd = np.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    assert PatchMerging.gather(ag.Tensor(odd)).numpy()[0].tolist() == [
        [[1, 4, 2, 5], [3, 6, 0, 0]],
        [[7, 0, 8, 0], [9, 0, 0, 0]],
    ]


def test_images_are_padded_to_whole_patches() -> None:
    model, x = tiny(), images((19, 15))
    padded = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))
    np.testing.assert_array_equal(model(x).numpy(), model(padded).numpy())


def test_shifted_windows_see_across_borders() -> None:
    """Only with shifted windows does a pixel reach a token of the window beside its own within one stage."""
    x = images(24, 1)
    changed = x.copy()
    changed[:, :, 0, 0] += 1
    for shift, reaches in ((True, True), (False, False)):
        model = tiny(shift=shift, depths=(2,), num_heads=(2,))
        before, after = (model.features(v, norm=False)[0].numpy() for v in (x, changed))
        moved = np.abs(after - before).max(axis=(0, 1))
        assert (moved[:3, :3] > 0).all()
        assert bool(moved[3:, 3:].max() > 0) is reaches


def test_absolute_position_at_the_built_in_size_is_added_as_it_is() -> None:
    model = tiny(position="absolute")
    model.absolute_pos_embed.assign_(0.0)
    without = tiny(position="none")
    without.load_state_dict({k: v for k, v in model.state_dict().items() if k != "absolute_pos_embed"})
    for size in (20, (30, 13)):
        np.testing.assert_allclose(model(images(size)).numpy(), without(images(size)).numpy(), rtol=0, atol=1e-12)
    assert model.absolute_pos_embed.shape == (1, 100, 8)


# ---- dtypes


def test_float16_model() -> None:
    """Parameters and images in float16: finite, and as close to float64 as the composite path."""
    x, errors = images((18, 23)), []
    exact = tiny()
    exact.load_state_dict(tiny("float16").state_dict())
    want, grads = loss_and_gradients(exact, x.astype(np.float16).astype(np.float64), _loss)
    for attention in ("fused", "composite"):
        model = tiny("float16", attention=attention)
        logits, got = loss_and_gradients(model, x.astype(np.float16), _loss)
        assert logits.dtype == np.float16
        assert all(g.dtype == np.float16 and np.isfinite(g).all() for g in got.values())
        errors.append([np.abs(logits - want).max(), *(np.abs(got[n] - grads[n]).max() for n in grads)])
    ulps = [tolerances.spacing(np.abs(w).max(), np.float16) for w in (want, *grads.values())]
    assert errors[0][0] <= tolerances.FLOAT16_MODEL * np.abs(want).max()
    fused, naive = np.array(errors)
    assert np.median((fused - ulps) / naive) <= tolerances.LOW_FACTOR


@pytest.mark.parametrize("attention", ["fused", "composite"])
def test_autocast_float16(attention: str) -> None:
    """float32 parameters, matmuls in float16: float32 gradients, close to those without autocast."""
    model, x = tiny("float32", attention=attention), images(20, dtype=np.float32)
    want, expected = loss_and_gradients(model, x, _loss)
    with ag.autocast("float16"):
        logits, grads = loss_and_gradients(model, x, lambda z: _loss(z.astype("float32")))
    assert logits.dtype == np.float16
    assert all(g.dtype == np.float32 for g in grads.values())
    assert np.abs(logits - want).max() <= tolerances.FLOAT16_MODEL * np.abs(want).max()
    assert not np.array_equal(logits, want)
    assert_gradients_agree(grads, expected, tolerances.FLOAT16_GRADIENTS)


# ---- errors


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (np.zeros((2, 3, 20)), ValueError, r"expected images \(B, 3, H, W\); got \(2, 3, 20\)"),
        (np.zeros((2, 20, 20, 3)), ValueError, r"expected images \(B, 3, H, W\); got \(2, 20, 20, 3\)"),
        (np.zeros((2, 3, 0, 20)), ValueError, r"got \(2, 3, 0, 20\)"),
        (np.zeros((2, 3, 20, 20), np.float32), TypeError, "model's dtype float64; got float32. Cast them with .astype"),
        (np.zeros((2, 3, 20, 20), np.uint8), TypeError, "model's dtype float64; got uint8"),
    ],
)
def test_images_that_do_not_fit(x: Any, error: type[Exception], text: str) -> None:
    for run in (tiny(), tiny().features):
        with pytest.raises(error, match=f"SwinTransformer: {text}" if text.startswith("expected") else text):
            run(x)
