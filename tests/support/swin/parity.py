"""Comparison of our models with another library's, by the rule of DESIGN's parity section."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag
from swinpy.geometry import log_coordinates

from .. import skips, tolerances

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from swinpy import SwinTransformer
    from swinpy.geometry import Pair

__all__ = [
    "assert_gradients_agree",
    "assert_no_idle_gradient",
    "import_or_skip",
    "loss_and_gradients",
    "put_exact_coordinates",
    "worst",
]

Array = np.ndarray[Any, Any]


def import_or_skip(
    load: Callable[[], Any], reason: str = skips.NO_PARITY, required: str = "SWINPY_REQUIRE_PARITY"
) -> Any:
    """What ``load`` imports; skips the module where that (torch or transformers) is missing, unless the environment
    variable ``required`` is set."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load()
    except ImportError as error:
        if os.environ.get(required):
            raise  # in the environment that was made for parity these tests must run
        pytest.skip(f"{reason}: {error}", allow_module_level=True)


def loss_and_gradients(
    model: SwinTransformer, x: Array, loss: Callable[[ag.Tensor], ag.Tensor]
) -> tuple[Array, dict[str, Array]]:
    """Logits, and the gradient of ``loss(logits)`` for every parameter and (as "input") for the images."""
    model.zero_grad()
    pixels = ag.Tensor(x, requires_grad=True)
    logits = model(pixels)
    loss(logits).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    idle = [name for name, g in grads.items() if g is None]
    assert not idle, f"no gradient: {idle}"
    assert pixels.grad is not None
    return logits.numpy(), {**grads, "input": pixels.grad}


def put_exact_coordinates(theirs: Any, window: Pair, pretrained: Pair) -> None:
    """Every library computes V2's coordinates in float32: compare their buffer with ours, then replace it by ours."""
    table = log_coordinates(window, pretrained).reshape(theirs.relative_coords_table.shape)
    np.testing.assert_allclose(theirs.relative_coords_table.numpy(), table, rtol=0, atol=tolerances.ONE32)
    theirs.relative_coords_table.copy_(theirs.relative_coords_table.new_tensor(table.tolist()))


def _largest(grads: Mapping[str, Array]) -> dict[str, float]:
    return {name: float(np.abs(g).max()) for name, g in grads.items()}


def worst(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> tuple[float, str]:
    """Largest error of any gradient, relative to max(|b|max, 1e-3 * the median over parameters of |b|max)."""
    assert set(ours) == set(theirs), sorted(set(ours) ^ set(theirs))
    largest = _largest(theirs)
    floor = 1e-3 * float(np.median(list(largest.values())))
    errors = {n: float(np.abs(ours[n] - theirs[n]).max()) / max(largest[n], floor) for n in theirs}
    name = max(errors, key=errors.__getitem__)
    return errors[name], name


def assert_gradients_agree(ours: Mapping[str, Array], theirs: Mapping[str, Array], tolerance: float) -> None:
    for name in theirs:
        assert ours[name].shape == theirs[name].shape, (name, ours[name].shape, theirs[name].shape)
    error, name = worst(ours, theirs)
    assert error <= tolerance, f"gradient of {name}: off by {error:.2e}, allowed {tolerance:.0e}"


def split_key_bias(grads: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Gradients without the key biases, and those of the key biases alone."""
    rest, keys = {}, {}
    for name, g in grads.items():
        if name.endswith("attn.qkv.bias"):
            q, k, v = np.split(g, 3)
            rest[f"{name}[q]"], keys[name], rest[f"{name}[v]"] = q, k, v
        else:
            rest[name] = g
    return rest, keys


def assert_no_idle_gradient(grads: Mapping[str, Array]) -> None:
    """Every gradient is far from 0, but the key bias's: softmax does not see a number added to a row of scores."""
    rest, keys = split_key_bias({name: g for name, g in grads.items() if name != "input"})
    largest = _largest(rest)
    median = float(np.median(list(largest.values())))
    idle = {name: size for name, size in largest.items() if size < tolerances.PARITY_IDLE * median}
    assert not idle, f"gradients near 0 prove nothing (median {median:.2e}): {idle}"
    for name, size in _largest(keys).items():
        assert size <= tolerances.PARITY * median, f"key bias of {name}: {size:.2e}"
