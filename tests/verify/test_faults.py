"""Each kind of fault that ports are known for, planted in a copy and found by a tool.

docs/verifying.md walks through the same ones. The clean copy passes every check that a faulty one fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.swin import port, port_v2
from support.swin.models import TINY, build, images, redraw
from support.swin.port import Port

import autograd as ag
from swinpy.verify import decay_faults, diff, drop_rates, gradcheck_model, leak_test, trace, window_regions

LAYOUTS = {"*.attn.qkv": "windows"}
WHOLE, PADDED = (24, 36), (20, 28)  # maps of 12x18 and 6x9, and of 10x14 and 5x7, in windows of 3


def _pair(fault: str, config: Any = TINY) -> tuple[Any, Any]:
    ours = build(config)
    theirs = Port(config, fault).astype("float64").eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def _compare(fault: str, size: tuple[int, int], **changes: Any) -> Any:
    ours, theirs = _pair(fault, TINY.with_changes(**changes))
    x = images(size)
    return diff(trace(ours, x), trace(theirs, x), layouts=LAYOUTS)


@dataclass(frozen=True)
class Found:
    """Where diff finds a fault, and what it says of it."""

    name: str
    words: str
    size: tuple[int, int] = WHOLE
    phase: str = "forward"


BY_DIFF = {
    "pad_after_roll": Found("layers.0.blocks.1.attn.qkv", "", PADDED),
    "stride_of_rows": Found("layers.0.blocks.0.attn.map", "windows: taken as 0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9, ..."),
    "heads_before_qkv": Found("layers.0.blocks.0.attn.q", "axis 2 only at 1 of 2"),
    "merge_rows_first": Found("layers.0.downsample.norm.input", "axis 3: blocks of 8 in the order 0, 2, 1, 3"),
    "index_transposed": Found("layers.0.blocks.0.attn.position_bias", "axes 1 and 2 are swapped"),
    "no_scale": Found("layers.0.blocks.0.attn.q", "scaled by 2"),
    "no_mask": Found("layers.0.blocks.1.attn.probs", "axis 1 only at 5, 11, 17-23 of 24"),
    "shift_down": Found("layers.0.blocks.1.attn.qkv", "axis 1: rolled by 2; axis 2: rolled by 2"),
    "pad_after_qkv": Found("layers.0.blocks.0.attn.windows", "got 0", PADDED),
    "tanh_gelu": Found("layers.0.blocks.0.mlp.act", "the tanh approximation of GELU (of layers.0.blocks.0.mlp.fc1)"),
    "mixed_batch": Found("layers.0.blocks.0.attn.q", "axes 0 and 1: exchanged in a reshape"),
    "dropout_in_eval": Found("layers.0.blocks.0.mlp", ""),
    "head_before_norm": Found("head.input", ""),
    "detached_k": Found("layers.1.blocks.1.attn.windows", "axis 5 only at 16-31 of 48", phase="backward"),
}
ELSEWHERE = {"window_padded", "window_sticks", "drop_path_constant", "drop_path_attention_only"}


def test_every_fault_has_its_test() -> None:
    assert set(port.FAULTS) == set(BY_DIFF) | ELSEWHERE


@pytest.mark.parametrize("size", [WHOLE, PADDED, (28, 20)])
def test_the_clean_port_agrees(size: tuple[int, int]) -> None:
    result = _compare("", size)
    assert result.same, str(result)
    assert len(result.compared) > 150
    assert len(result.compared_gradients) > 150


@pytest.mark.parametrize("fault", BY_DIFF)
def test_diff_finds(fault: str) -> None:
    expected = BY_DIFF[fault]
    result = _compare(fault, expected.size)
    found = getattr(result, expected.phase)
    assert found is not None
    assert found.name == expected.name
    assert expected.words in str(found)


@pytest.mark.parametrize("fault", ["pad_after_roll", "pad_after_qkv"])
def test_faults_of_padding_need_a_map_that_is_padded(fault: str) -> None:
    assert _compare(fault, WHOLE).same


def test_faults_of_shape_need_a_map_that_is_not_square() -> None:
    assert _compare("stride_of_rows", (24, 24)).same
    assert not _compare("stride_of_rows", WHOLE).same


def test_window_padded_instead_of_clamped() -> None:
    """Two different models: the relative index changes with the window."""
    result = _compare("window_padded", (8, 8), window_size=5, img_size=20)
    assert result.forward.name == "layers.0.blocks.0.attn.qkv"
    assert "expected shape (2, 4, 4, 24); got (2, 25, 24)" in str(result)
    assert _compare("", (8, 8), window_size=5, img_size=20).same


def test_a_window_that_sticks_is_found_by_running_twice() -> None:
    for fault, same in (("window_sticks", False), ("", True)):
        _, model = _pair(fault)
        before = trace(model, images(PADDED))
        model(images(4))  # maps of 2x2: the window shrinks
        result = diff(before, trace(model, images(PADDED)))
        assert result.same == same
    assert result.forward is None
    _, model = _pair("window_sticks")
    before = trace(model, images(PADDED))
    model(images(4))
    found = diff(before, trace(model, images(PADDED))).forward
    assert found is not None
    assert found.name == "layers.0.blocks.0.attn.qkv.input"


def test_dropout_in_evaluation_is_found_by_another_seed() -> None:
    for fault, same in (("dropout_in_eval", False), ("", True)):
        _, model = _pair(fault)
        assert diff(trace(model, images(12)), trace(model, images(12), seed=1)).same == same


def test_drop_path_rates() -> None:
    config = TINY.with_changes(drop_path_rate=0.3)
    linear = [rate for stage in config.drop_path() for rate in stage]
    expected = {"": linear, "drop_path_constant": [0.3] * 4, "drop_path_attention_only": linear}
    for fault, rates in expected.items():
        _, model = _pair(fault, config)
        seen = drop_rates(model, images(12)[0], samples=400)
        assert not model.training
        attention, mlp = (np.array([r for n, r in seen.items() if n.endswith(k)]) for k in (".attn", ".mlp"))
        assert len(attention) == len(mlp) == 4
        error = 4 * np.sqrt(np.array(rates) * (1 - np.array(rates)) / 400)  # four standard deviations of a binomial
        assert (abs(attention - rates) <= error).all()
        assert (abs(mlp - rates) <= error).all() == (fault != "drop_path_attention_only")
        ours = drop_rates(build(config), images(12)[0], samples=400)
        assert ours.keys() == seen.keys()
    with pytest.raises(ValueError, match=r"^drop_rates: expected modules like nothing"):
        drop_rates(model, images(12)[0], branches=["nothing"])


def test_what_must_not_decay() -> None:
    model = build(TINY.with_changes(position="both"))
    kept = model.no_weight_decay()
    parameters = dict(model.named_parameters())
    assert decay_faults(parameters, set(parameters) - kept) == []
    block = "layers.0.blocks.0.attn"
    timm = {f"{block}.logit_scale": np.ones((3, 1, 1)), f"{block}.qkv.weight": np.ones((9, 3))}
    assert decay_faults(timm, timm) == ["layers.0.blocks.0.attn.logit_scale"]
    assert decay_faults(parameters, ["head.bias", "absolute_pos_embed"]) == ["head.bias", "absolute_pos_embed"]
    with pytest.raises(KeyError, match="expected names of parameters; got head"):
        decay_faults(parameters, ["head"])


def test_wrong_key_order_on_loading() -> None:
    """q and k exchanged when three tensors of another library were joined: told at the weight itself."""
    ours, theirs = _pair("")
    state = dict(ours.state_dict())
    for name in [n for n in state if ".qkv." in n]:
        q, k, v = np.split(state[name], 3)
        state[name] = np.concatenate([k, q, v])
    theirs.load_state_dict(state)
    found = diff(trace(ours, images(12)), trace(theirs, images(12))).forward
    assert found is not None
    assert found.name == "layers.0.blocks.0.attn.qkv.weight"
    assert found.pattern == "axis 0: blocks of 8 in the order 1, 0, 2"


def test_features_in_another_layout_or_without_their_norm() -> None:
    ours, theirs = _pair("")
    x = images(PADDED)
    want = {"stage 1": ours.features(x)[-1].numpy()}
    found = diff(want, {"stage 1": theirs.features(ag.Tensor(x)).numpy()}).forward
    assert found is not None
    assert "axes permuted: transpose(0, 2, 3, 1), NCHW to NHWC" in str(found)
    _, unnormed = _pair("head_before_norm")
    want = {"stage 1": ours.features(x, layout="NHWC")[-1].numpy()}
    found = diff(want, {"stage 1": unnormed.features(ag.Tensor(x)).numpy()}).forward
    assert found is not None
    assert "the expected array is a layer norm (axis 3) of it: not normed" in str(found)
    _, right = _pair("")
    assert diff(want, {"stage 1": right.features(ag.Tensor(x)).numpy()}).same


def test_a_leak_between_images_is_found() -> None:
    _, model = _pair("mixed_batch")
    attention = model.layers[0].blocks[1].attn
    x = np.random.default_rng(0).standard_normal((2, 6, 9, 8))
    assert leak_test(attention, x, window_regions((6, 9), 3, 1)).batch_leak


@pytest.mark.gradcheck
def test_gradcheck_finds_what_forward_cannot() -> None:
    for fault, failed in (("", []), ("detached_k", ["layers.0.blocks.0", "layers.0.blocks.1", "model"])):
        config = TINY.with_changes(depths=(2,), num_heads=(2,), num_classes=3)
        model = Port(config, fault).astype("float64").eval()
        redraw(model, calm=True)
        assert gradcheck_model(model, images((10, 8), 1), each=False).failed == failed


# ---- V2


def _v2(fault: str, dtype: str = "float64", window: int = 3, size: tuple[int, int] = (5, 7)) -> Any:
    model = port_v2.PortV2Attention(8, 2, window, fault)
    redraw(model)
    model.logit_scale.assign_(np.array([5.0, 1.0]).reshape(2, 1, 1))  # one above ln 100
    model = model.astype(dtype).eval()
    x = np.random.default_rng(0).standard_normal((1, *size, 8)).astype(dtype)
    # backward of a row of zeros divides by eps, which float16 cannot hold
    return trace(model, x, gradients=dtype == "float64")


V2 = {
    "half_eps": ("q", "whole rows: a division by a norm or range of zero?", {"dtype": "float16"}),
    "zero_range": ("cpb_mlp.coordinates", "2 of 2 values are NaN", {"window": 1}),
    "natural_log": ("cpb_mlp.coordinates", "scaled by 2.07944", {}),
    "no_clamp": ("scale", "axis 0 only at 0 of 2", {}),
    "sigmoid_only": ("cpb_mlp", "scaled by 0.0625 (1 / 16)", {}),
}


def test_every_fault_of_v2_has_its_test() -> None:
    assert set(port_v2.FAULTS) == set(V2)


@pytest.mark.parametrize("fault", V2)
def test_diff_finds_in_v2(fault: str) -> None:
    name, words, changes = V2[fault]
    found = diff(_v2("", **changes), _v2(fault, **changes)).forward
    assert found is not None
    assert found.name == name
    assert words in str(found)


@pytest.mark.parametrize("changes", [{}, {"dtype": "float16"}, {"window": 1}])
def test_the_clean_parts_of_v2_are_finite(changes: dict[str, Any]) -> None:
    seen = _v2("", **changes)
    assert all(np.isfinite(a).all() for a in (*seen.values.values(), *seen.gradients.values()))


def test_the_first_nan_without_a_second_model() -> None:
    """detect_anomaly names the op."""
    with pytest.raises(FloatingPointError, match=r"^true_divide|^divide"), ag.detect_anomaly():
        _v2("half_eps", "float16")
