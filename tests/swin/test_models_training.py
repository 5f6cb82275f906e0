"""Dropout, stochastic depth, and activation checkpointing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.implementations import IMPLEMENTATIONS, using
from support.swin import checks as swin_checks
from support.swin.checks import RANDOM
from support.swin.models import images, tiny

import autograd as ag
from swinpy.models.parts import Stream

X = images((18, 23), 3)
LABELS = np.array([0, 4, 2])


def _run(model: Any) -> tuple[list[Any], dict[str, Any]]:
    """Outputs, and gradients of images and parameters, of a loss on logits and every stage's features."""
    ag.manual_seed(11)
    model.zero_grad()
    x = ag.Tensor(X.astype(model.dtype), requires_grad=True)
    maps = model.features(x, layout="NHWC")
    logits = model.forward_head(maps[-1], layout="NHWC")
    (ag.cross_entropy(logits, LABELS) + sum((f * f).mean() for f in maps)).backward()
    return [o.numpy() for o in (*maps, logits)], {"x": x.grad, **{n: p.grad for n, p in model.named_parameters()}}


@pytest.mark.parametrize("mode", ["block", "stage"])
@pytest.mark.parametrize("options", [{}, {"attention": "composite", "attn_drop_rate": 0.3}])
def test_checkpointing_changes_no_bit_of_the_classification_loss(mode: str, options: dict[str, Any]) -> None:
    """With dropout and DropPath on."""
    swin_checks.checkpointing(mode, **options)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mode", ["block", "stage"])
@pytest.mark.parametrize("random", [{}, {"drop_path_rate": 0.5}, {"drop_path_rate": 0.5, "drop_rate": 0.2}], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"architecture": "v2", "extra_norm_every": 2}, {"architecture": "mlp"}], ids=str
)
def test_checkpointing_changes_no_bit_with_features(
    options: dict[str, Any], random: dict[str, Any], mode: str, dtype: str, implementation: str
) -> None:
    """Two norms and the merging read the first stage's sum; gradients add up in the order in which they read it."""
    changes = {"depths": (2, 3), "feature_norms": (0,), **options, **random}
    with using(implementation):
        outputs, expected = _run(tiny(dtype, **changes).train())
        again, grads = _run(tiny(dtype, checkpoint=mode, **changes).train())
    for got, want in zip(again, outputs, strict=True):
        np.testing.assert_array_equal(got, want)
    assert grads.keys() == expected.keys()
    for name, want in expected.items():
        np.testing.assert_array_equal(grads[name], want, err_msg=name)


@pytest.mark.parametrize("mode", ["block", "stage"])
def test_checkpointing_keeps_less(mode: str) -> None:
    """The backbone's graph holds no attention or MLP, only checkpoints."""
    model, seen = tiny(checkpoint=mode).train(), []
    ag.manual_seed(0)
    loss = model(X).sum()
    with ag.observe(lambda event: seen.append((event.phase, event.name))):
        loss.backward()
    replays = seen.count(("backward", "checkpoint"))
    assert replays == {"block": 4, "stage": 2}[mode]
    assert seen.count(("forward", "window_attention")) == 4  # computed again


def test_set_grad_checkpointing() -> None:
    model = tiny()
    for mode, choice in ((True, "block"), (False, "none"), ("stage", "stage"), ("none", "none")):
        model.set_grad_checkpointing(mode)
        assert model.config.checkpoint == choice
    with pytest.raises(ValueError, match="checkpoint: expected one of none, block, stage; got 'every'"):
        model.set_grad_checkpointing("every")


def test_without_gradients_a_checkpoint_is_only_a_call() -> None:
    model = tiny(checkpoint="block")
    with ag.no_grad():
        assert not model(X).requires_grad
    np.testing.assert_array_equal(model(X).numpy(), tiny()(X).numpy())


def test_evaluation_draws_nothing() -> None:
    model, plain = tiny(**RANDOM, attention="composite", attn_drop_rate=0.4), tiny(depths=(2, 3), attention="composite")
    before = ag.default_generator.state()
    np.testing.assert_array_equal(model(X).numpy(), model(X).numpy())
    np.testing.assert_array_equal(model(X).numpy(), plain(X).numpy())
    assert ag.default_generator.state() == before


@pytest.mark.parametrize("option", ["drop_rate", "drop_path_rate", "attn_drop_rate"])
def test_training_draws(option: str) -> None:
    """Another result in training, the same from the same seed, another from another."""
    model = tiny(attention="composite", **{option: 0.5}).train()
    results = []
    for seed in (1, 1, 2):
        ag.manual_seed(seed)
        results.append(model(X).numpy())
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], model.eval()(X).numpy())


def test_dropped_branches_leave_the_sample_alone_and_kept_ones_are_scaled() -> None:
    swin_checks.dropped_branches()


@pytest.mark.parametrize("option", ["drop_rate", "drop_path_rate"])
def test_the_mean_over_draws_of_a_first_order_model_is_evaluation(option: str) -> None:
    """Of the pooled stream before any nonlinearity but the last branch: kept values are scaled by 1 / (1 - p)."""
    model = tiny(depths=(1,), num_heads=(2,)).train()
    block = model.layers[0].blocks[0]
    if option == "drop_path_rate":
        block.drop_path = 0.5
    else:
        block.attn.drop = 0.5
    x = ag.Tensor(np.random.default_rng(0).standard_normal((64, 3, 3, 8)))

    def attention_branch() -> Any:
        stream = block.attn(block.norm1(x))
        keep = ag.drop_path_keep(x, block.drop_path, block.training)
        return (Stream(x, stream, keep).value() - x).numpy()

    draws = np.array([attention_branch() for _ in range(50)])
    model.eval()
    plain = attention_branch()
    error = (draws.mean(axis=0) - plain).mean()
    spread = np.abs(plain).mean() / np.sqrt(draws.shape[0] * draws.shape[1])
    assert abs(error) < 6 * spread


def test_drop_rates_reach_their_places() -> None:
    """Dropout after the embedding, both projections and twice in the MLP; DropPath twice a block, none in the first."""
    model, seen = tiny(**RANDOM).train(), []
    with ag.observe(lambda event: seen.append(event)):
        model(X)
    names = [event.name for event in seen]
    assert names.count("dropout") == 1 + 5 * 3
    assert names.count("window_attention") == 5
    scaled = [e.static["keep"] for e in seen if e.name == "residual_layer_norm"]
    assert len(scaled) == 5 + 3 + 1  # every norm2, every norm1 but a stage's first, the last norm
    assert sum(k is None for k in scaled) == 2  # the first block's rate is 0
