"""trace: every name, the right gradients, nothing left behind; and the npz files."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import tolerances
from support.swin.models import images, redraw, tiny

import autograd as ag
import swinpy
from swinpy.io import atomic
from swinpy.nn import Linear, Module
from swinpy.probe import watchers, watching
from swinpy.verify import Trace, TraceFileError, diff, fixed_weights, tap, trace

if TYPE_CHECKING:
    from pathlib import Path

X = images((20, 26))


def test_the_result_and_the_model_are_left_as_they_were() -> None:
    model = tiny()
    expected = model(X).numpy()
    position = ag.default_generator.state()
    seen = trace(model, X)
    np.testing.assert_array_equal(seen["output"], expected)
    np.testing.assert_array_equal(model(X).numpy(), expected)
    assert all(p.grad is None and not p.hooks for p in model.parameters())
    assert ag.default_generator.state() == position
    assert watchers() == ()


def test_gradients_are_those_of_backward() -> None:
    model = tiny()
    seen = trace(model, X)
    x = ag.Tensor(X, requires_grad=True)
    output = model(x)
    (output * fixed_weights(output.shape)).sum().backward()
    np.testing.assert_array_equal(seen.gradients["input"], x.grad)
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(seen.gradients[name], p.grad)
        np.testing.assert_array_equal(seen[name], p.data)


def test_every_module_has_its_output_and_every_parameter_comes_before_it() -> None:
    """Also layers that the model never calls, because an op reads their parameters."""
    model = tiny()
    seen = trace(model, X)
    missing = [n for n, m in model.named_modules() if n and n not in seen and "ModuleList" not in type(m).__name__]
    assert missing == []
    order = {name: i for i, name in enumerate(seen.names)}
    for name, _ in model.named_parameters():
        assert order[name] < order[name.rpartition(".")[0]], name
    assert seen.names[0] == "input"
    assert seen.names[-2:] == ["output", "loss"]


def test_values_of_layers_inside_fused_ops() -> None:
    """fc1 and qkv have their bias, which a fused op adds; a block's value has its pending sum."""
    model = tiny()
    seen = trace(model, X)
    block = "layers.0.blocks.1"
    for layer, before in (("attn.qkv", "norm1"), ("mlp.fc1", "norm2")):
        part: Any = model.layers[0].blocks[1]
        for name in layer.split("."):
            part = getattr(part, name)
        want = seen[f"{block}.{before}"] @ part.weight.data.T + part.bias.data
        np.testing.assert_allclose(seen[f"{block}.{layer}"], want, rtol=0, atol=tolerances.FORWARD * abs(want).max())
    total = seen[f"{block}"] - seen[f"{block}.mlp"]  # x after the first residual
    want = seen["layers.0.blocks.0"] + seen[f"{block}.attn"]
    np.testing.assert_allclose(total, want, rtol=0, atol=tolerances.FORWARD * abs(want).max())


@pytest.mark.parametrize("size", [(20, 26), (24, 36), (4, 26)])
def test_fused_and_composite_attention_have_the_same_trace(size: tuple[int, int]) -> None:
    fused, composite = (trace(tiny(attention=kind), images(size)) for kind in ("fused", "composite"))
    assert fused.names == composite.names
    assert fused.gradients.keys() == composite.gradients.keys()
    for name in fused.names:
        scale = max(float(abs(composite[name]).max()), 1.0)
        np.testing.assert_allclose(fused[name], composite[name], rtol=0, atol=tolerances.COMPOSITE * scale)
    assert diff(fused, composite, rtol=tolerances.COMPOSITE * 100).same


@pytest.mark.parametrize(
    "model", ["swinv2_tiny_window8_256", "swin_mlp_tiny_c24_patch4_window8_256", "swin_s3_tiny_224"]
)
def test_other_variants(model: str) -> None:
    """Every module has its value, watched or not the result is the same, and V2's fused trace is the composite's."""
    changes: dict[str, Any] = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_classes": 3, "dtype": "float64"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        net = swinpy.create_model(model, img_size=64, **changes).eval()
        other = swinpy.create_model(model, img_size=64, attention="composite", **changes).eval()
    redraw(net)
    other.load_state_dict(net.state_dict())
    x = images((72, 52), 1)
    seen = trace(net, x)
    np.testing.assert_array_equal(seen["output"], net(x).numpy())
    missing = [n for n, m in net.named_modules() if n and n not in seen and "ModuleList" not in type(m).__name__]
    assert missing == []
    assert diff(seen, trace(other, x), rtol=1e-9).same


def test_block_gradients_are_those_of_the_settled_stream() -> None:
    """Against a finite move of the block's value: the next block is run alone."""
    model = tiny()
    seen = trace(model, X)
    rest = model.layers[1].blocks[1]
    x = ag.Tensor(seen["layers.1.blocks.0"], requires_grad=True)
    from swinpy.models.parts import Stream

    out = model.forward_head(rest(Stream(x)).norm(model.norm, wide=True), layout="NHWC")
    (gradient,) = ag.grad((out * fixed_weights(out.shape)).sum(), x)
    scale = float(abs(gradient).max())
    np.testing.assert_allclose(seen.gradients["layers.1.blocks.0"], gradient, rtol=0, atol=1e-12 * scale)


def test_checkpointed_model() -> None:
    plain, checkpointed = trace(tiny(), X), trace(tiny(checkpoint="block"), X)
    result = diff(plain, checkpointed)
    assert result.same
    assert set(result.compared) >= {n for n in plain.names if ".attn." in n}
    assert "layers.0.blocks.0.attn.probs" in result.no_gradient


def test_training_draws_are_repeated_and_chosen_by_the_seed() -> None:
    model = tiny(drop_path_rate=0.5, drop_rate=0.2).train()
    a, b, c = trace(model, X), trace(model, X), trace(model, X, seed=1)
    assert diff(a, b, rtol=0.0).same
    assert not diff(a, c).same


def test_chosen_names_without_gradients_and_a_loss_of_ones_own() -> None:
    some = trace(tiny(), X, names=["*.attn.probs", "loss"], gradients=False)
    assert all(n.endswith((".probs", "loss")) for n in some.names)
    assert len(some) == 5
    assert some.gradients == {}
    own = trace(tiny(), X, loss=lambda out: (out * out).sum())
    np.testing.assert_allclose(own["loss"], (own["output"] ** 2).sum(), rtol=1e-12)
    np.testing.assert_array_equal(own.gradients["output"], 2 * own["output"])


def test_float32_frozen_and_plain_functions() -> None:
    model = tiny("float32")
    model.head.requires_grad_(False)
    seen = trace(model, X.astype(np.float32))
    assert {a.dtype for n, a in seen.values.items() if n != "layers.0.blocks.1.attn.mask"} == {np.dtype(np.float32)}
    assert "head.weight" in seen
    assert "head.weight" not in seen.gradients
    assert seen.meta["frozen_parameters"] == 2

    def port(x: Any) -> Any:
        assert tap("nothing", None) is None
        return tap("double", x * 2)

    seen = trace(port, np.ones((2, 3)))
    assert seen.names == ["input", "double", "output", "loss"]
    np.testing.assert_allclose(seen.gradients["double"], fixed_weights((2, 3)))


class Twice(Module):
    def __init__(self) -> None:
        self.layer = Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return {"a": self.layer(self.layer(x)), "b": [x * 2]}


def test_a_layer_that_runs_twice_and_nested_outputs() -> None:
    seen = trace(Twice().astype("float64"), np.ones((2, 3)))
    assert {"layer", "layer#2", "output.a", "output.b.0"} <= set(seen.names)
    assert not np.array_equal(seen["layer"], seen["layer#2"])


def test_a_name_that_is_not_there_says_what_is_near() -> None:
    with pytest.raises(KeyError, match=r"Trace: expected one of .*Near it: layers\.0\.blocks\.0\.attn"):
        trace(tiny(), X)["layers.0.blocks.0.atn"]


def test_a_model_that_returns_nothing() -> None:
    with pytest.raises(TypeError, match=r"^trace: expected a model that returns Tensors; got int"):
        trace(lambda x: 3, np.ones(3))


def test_watchers_go_when_a_model_raises() -> None:
    left = []

    class Watch:
        def entered(self, module: Any, args: Any, kwargs: Any) -> None: ...
        def returned(self, module: Any, result: Any) -> None:
            left.append("returned")

        def left(self, module: Any) -> None:
            left.append("left")

        def tapped(self, name: str, value: Any) -> None: ...

    with pytest.raises(ValueError, match="expected"), watching(Watch()):
        tiny()(np.ones((1, 2, 8, 8)))
    assert left == ["left"]
    assert watchers() == ()


# ---- files


def test_round_trip(tmp_path: Path) -> None:
    seen = trace(tiny("float32"), X.astype(np.float32))
    seen.values["empty"], seen.values["scalar"] = np.zeros((0, 3)), np.array(2, np.int64)
    seen.values["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    seen.save(tmp_path / "a.npz")
    back = Trace.load(tmp_path / "a.npz")
    assert back.names == seen.names
    assert back.meta == seen.meta
    assert list(back.gradients) == list(seen.gradients)
    for ours, theirs in ((seen.values, back.values), (seen.gradients, back.gradients)):
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
            assert ours[name].dtype == theirs[name].dtype
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive["grad:output"].shape == (2, 5)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_files_of_numpy(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "b.npz", **{"q": np.ones((3, 2), ">f4"), "grad:q": np.full((3, 2), 2.0)})
    back = Trace.load(tmp_path / "b.npz")
    assert back.names == ["q"]
    assert back["q"].dtype == np.float32
    assert back["q"].dtype.isnative
    np.testing.assert_array_equal(back.gradients["q"], np.full((3, 2), 2.0))


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    Trace({"a": np.ones(3)}).save(path)
    before = path.read_bytes()

    class Full(atomic.FileSystem):
        def fsync(self, fd: int) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "_fs", Full())
    with pytest.raises(OSError, match="No space"):
        Trace({"a": np.zeros(3)}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("name", ["grad:x", "__meta__", ""])
def test_names_that_a_file_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^Trace.save: expected names other than"):
        Trace({name: np.ones(1)}).save(tmp_path / "a.npz")


def _npz(*entries: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def _npy(header: dict[str, Any], data: bytes = b"") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + data


_FLAT = {"descr": "<f8", "fortran_order": False}
GOOD = _npy(_FLAT | {"shape": (2,)}, bytes(16))
ZEROS = 10 << 20


def _packed(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.npy", GOOD)
    return buffer.getvalue()


def _bomb() -> bytes:
    """80 MiB of zeros in 80 KiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as entry:
        entry.write(_npy(_FLAT | {"shape": (ZEROS,)}))
        for _ in range(80):
            entry.write(bytes(1 << 20))
    return buffer.getvalue()


# What Python's parser says of each is another kind of exception.
_HEADERS = {
    "open": b"{'descr': '<f8', 'fortran_order': False, 'shape': (3000000l'< }",
    "nest": b"(" * 9000,
    "signs": b"-" * 9000 + b"1",
    "list_key": b"{[]: 1}",
    "indent": b"{'descr': '<f8',\n  1l\n 2\n",
    "nul": b"\0",
    "number": b"9" * 5000,
    "sum": b"1j+'a'",
}
HOSTILE = {
    "empty": (b"", "does not read"),
    "not_a_zip": (b"PK" + bytes(50), "does not read"),
    "truncated": (_npz(("a.npy", GOOD))[:-30], "does not read"),
    "twice": (_npz(("a.npy", GOOD), ("a", GOOD)), "every name once"),
    "objects": (_npz(("a.npy", _npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, b"x"))), "numbers"),
    "strings": (_npz(("a.npy", _npy({"descr": "<U3", "fortran_order": False, "shape": (1,)}, bytes(12)))), "numbers"),
    "too_many": (_npz(("a.npy", _npy(_FLAT | {"shape": (1 << 50,)}, bytes(16)))), "expected 9007199254740992 bytes"),
    "too_few": (_npz(("a.npy", _npy(_FLAT | {"shape": (1,)}, bytes(16)))), "expected 8 bytes"),
    "no_magic": (_npz(("a.npy", b"nothing")), "does not read"),
    "bad_header": (_npz(("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': os.ex}")), "does not read"),
    **{
        f"header_{name}": (_npz(("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)), "does not read")
        for name, text in _HEADERS.items()
    },
    "version_3": (_npz(("a.npy", b"\x93NUMPY\x03\x00" + GOOD[8:])), "version"),
    "long_header": (_npz(("a.npy", _npy(_FLAT | {"shape": (1,) * 5000}, bytes(8)))), "does not read"),
    "bad_meta": (_npz(("__meta__.npy", _npy({**_FLAT, "descr": "|u1", "shape": (2,)}, b"{]"))), "does not read"),
    "meta_list": (_npz(("__meta__.npy", _npy({**_FLAT, "descr": "|u1", "shape": (2,)}, b"[]"))), "JSON object"),
    "bz2": (_packed(zipfile.ZIP_BZIP2), "'a': expected it stored or deflated, as by NumPy; got method 12"),
    "lzma": (_packed(zipfile.ZIP_LZMA), "'a': expected it stored or deflated, as by NumPy; got method 14"),
    "bomb": (_bomb(), r"expected at most \d+ bytes .*max_bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path: Path, case: str) -> None:
    data, words = HOSTILE[case]
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(TraceFileError, match=words):
        Trace.load(path)


def test_a_bomb_is_refused_before_it_expands(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "x.npz"
    path.write_bytes(HOSTILE["bomb"][0])
    tracemalloc.start()
    try:
        with pytest.raises(TraceFileError):
            Trace.load(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * path.stat().st_size
    finally:
        tracemalloc.stop()
    assert Trace.load(path, max_bytes=1 << 29)["a"].size == ZEROS


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_raise_one_exception(tmp_path: Path, seed: int) -> None:
    """Flipped, cut and inserted bytes: TraceFileError or a trace, nothing else."""
    Trace({"a": np.arange(4.0), "b": np.ones((2, 2))}, {"a": np.ones(4)}, {"k": [1]}).save(tmp_path / "x.npz")
    data = bytearray((tmp_path / "x.npz").read_bytes())
    rng = np.random.default_rng(seed)
    outcomes = []
    for _ in range(50):
        damaged = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(damaged)))
            damaged[at : at + int(rng.integers(0, 3))] = rng.bytes(int(rng.integers(0, 3)))
        (tmp_path / "y.npz").write_bytes(bytes(damaged))
        try:
            outcomes.append(isinstance(Trace.load(tmp_path / "y.npz"), Trace))
        except TraceFileError:
            outcomes.append(False)
    assert not all(outcomes)


def test_meta_is_json(tmp_path: Path) -> None:
    seen = trace(tiny(), X)
    assert json.loads(json.dumps(seen.meta)) == seen.meta
    assert seen.meta["windows"]["layers.0.blocks.1.attn"] == {"size": [10, 13], "window": [3, 3], "shift": [1, 1]}
