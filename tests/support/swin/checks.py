"""Checks of models that tests run and that planted faults must make fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.models.parts import Stream

from .. import tolerances
from . import golden as swin_golden
from .models import images, tiny

if TYPE_CHECKING:
    from swinpy import SwinTransformer

__all__ = ["RANDOM", "checkpointing", "classification", "dropped_branches", "golden"]

RANDOM: dict[str, Any] = {"drop_rate": 0.2, "drop_path_rate": 0.5, "depths": (2, 3)}


def golden(name: str) -> None:
    """Logits and features as stored."""
    stored = swin_golden.load(name)
    for case in stored["cases"]:
        logits, features = swin_golden.compute(stored["model"], case)
        for got, want in ((logits, case["logits"]), (features, case["features"])):
            scale = float(np.abs(want).max())
            error = float(np.abs(np.array(got) - np.array(want)).max())
            assert error <= tolerances.GOLDEN * scale, f"{name} {case['options']} {case['size']}: off by {error:.2e}"


def classification(model: SwinTransformer, seed: int = 11) -> tuple[Any, dict[str, Any]]:
    """Logits and parameter gradients of the cross-entropy of three images, from a fixed state of the generator."""
    ag.manual_seed(seed)
    model.zero_grad()
    logits = model(images((18, 23), 3))
    ag.cross_entropy(logits, np.array([0, 4, 2])).backward()
    return logits.numpy(), {name: p.grad for name, p in model.named_parameters()}


def checkpointing(mode: str, **options: Any) -> None:
    """Recomputed with dropout and DropPath on, logits and gradients are the same bits."""
    plain, kept = (tiny(checkpoint=c, **RANDOM, **options).train() for c in ("none", mode))
    (logits, expected), (again, grads) = classification(plain), classification(kept)
    np.testing.assert_array_equal(again, logits)
    for name, want in expected.items():
        np.testing.assert_array_equal(grads[name], want, err_msg=name)


def dropped_branches() -> None:
    """One block with a DropPath rate of 1/2: every sample is x + {0, 2} attention + {0, 2} MLP of that."""
    block = tiny(depths=(1,), num_heads=(2,)).train().layers[0].blocks[0]
    block.drop_path = 0.5
    x = np.random.default_rng(0).standard_normal((16, 5, 6, 8))
    ag.manual_seed(0)
    got = block(Stream(ag.Tensor(x))).value().numpy()
    branches: dict[float, tuple[Any, Any]] = {}
    for a in (0.0, 2.0):
        middle = x + a * block.attn(block.norm1(ag.Tensor(x))).numpy()
        branches[a] = (middle, block.mlp(block.norm2(ag.Tensor(middle))).numpy())
    seen = set()
    for i in range(len(x)):
        found = {
            (a, m)
            for a, (middle, mlp) in branches.items()
            for m in (0.0, 2.0)
            if np.allclose(got[i], middle[i] + m * mlp[i], rtol=0, atol=1e-10)
        }
        assert len(found) == 1, f"sample {i} is none of the four sums"
        seen |= found
    assert len(seen) == 4, f"only {seen} were drawn"
