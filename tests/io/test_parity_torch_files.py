"""Files that torch writes, read here bit for bit; and files written here, read by torch with weights_only=True."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.hostile import corpus as hostile
from support.hostile.weight_files import Tensor, legacy_file, tar_file, tar_members, tar_parts, torch_zip
from support.swin.parity import import_or_skip

from swinpy.io import read_checkpoint, read_weights, torch_file_bytes, write_torch_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.parity


def _load() -> Any:
    import torch

    return torch


torch = import_or_skip(_load)

FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
DTYPES = ["float64", "float32", "float16", "bfloat16", "complex128", "complex64", "int64", "int32", "int16", "int8",
          "uint8", "uint16", "uint32", "uint64", "bool"]  # fmt: skip


def _saved(tree: Any, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer, **FORMS[form], **options)
    return buffer.getvalue()


def _random(dtype: str, *shape: int) -> Any:
    """Every bit pattern is as likely as any other; but bools are bools."""
    kind = getattr(torch, dtype)
    size = int(np.prod(shape)) * torch.empty((), dtype=kind).element_size()
    data = np.random.default_rng(len(dtype)).integers(0, 2 if dtype == "bool" else 256, size, dtype=np.uint8)
    return (
        torch.frombuffer(bytearray(data.tobytes()), dtype=kind).reshape(shape).clone()
        if size
        else torch.empty(shape, dtype=kind)
    )


def _bits(tensor: Any) -> np.ndarray[Any, Any]:
    """A tensor's numbers as NumPy has them; bfloat16 as float32 by torch's own widening."""
    plain = tensor.detach()
    if plain.dtype == torch.bfloat16:
        # Through the bits: torch's conversion to float32 makes signalling NaNs quiet on some machines.
        words = plain.view(torch.int16).numpy().view(np.uint16).astype(np.uint32) << 16
        return words.view(np.float32)
    return plain.numpy()


def _assert_same(ours: np.ndarray[Any, Any], theirs: Any) -> None:
    expected = _bits(theirs)
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    assert ours.tobytes() == expected.tobytes()


_LATE = (torch.uint16, torch.uint32, torch.uint64)


def _check(tree: dict[str, Any], form: str, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    data = _saved(tree, form, **options)
    # torch 2.13 writes these types into a legacy file and cannot read it back; then its own tensors are the measure.
    lost = form == "legacy" and any(value.dtype in _LATE for value in tree.values())
    expected = tree if lost else torch.load(io.BytesIO(data), weights_only=False)
    found = read_weights(data)
    assert list(found) == list(expected)
    for name, array in found.items():
        _assert_same(array, expected[name])
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: str, form: str) -> None:
    found = _check({"a": _random(dtype, 4, 5), "scalar": _random(dtype), "empty": _random(dtype, 0, 3)}, form)
    assert found["scalar"].shape == ()


@pytest.mark.parametrize("form", FORMS)
def test_layouts(form: str) -> None:
    x = torch.arange(120.0).reshape(2, 3, 4, 5)
    tree = {
        "transposed": x.transpose(1, 3),
        "sliced": x[:, ::2, 1:3],
        "expanded": torch.ones(3, 1).expand(3, 7),
        "offset": x[1, 2, 3, 4],
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "windows": x.flatten().unfold(0, 8, 3),
        "empty_view": x[5:],
        "one": x[:1, :1, :1, :1],
    }
    found = _check(tree, form)
    assert np.shares_memory(found["transposed"], found["sliced"])
    assert not found["expanded"].flags.writeable
    assert not found["windows"].flags.writeable
    assert found["transposed"].flags.writeable


@pytest.mark.parametrize("form", FORMS)
def test_shared_and_aliased(form: str) -> None:
    base = torch.arange(10.0)
    found = _check({"a": base, "b": base, "c": base[3:7], "d": base.clone()}, form)
    found["a"][4] = -1
    assert found["b"][4] == found["c"][1] == -1 != found["d"][4]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(form: str, protocol: int) -> None:
    _check({f"layer{i}.weight": torch.full((2,), float(i)) for i in range(300)}, form, pickle_protocol=protocol)


@pytest.mark.parametrize("form", FORMS)
def test_training_checkpoint(form: str) -> None:
    """Module, optimizer and scheduler as they are; objects of other code beside them."""
    import argparse

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    tree = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "config": argparse.Namespace(lr=1.0, size=torch.Size([1, 2]), where=torch.device("cpu")),
        "best": np.float64(81.2),
        "epoch": 7,
        "parameters": dict(model.named_parameters()),
    }
    assert tree["model"]._metadata
    data = _saved(tree, form)
    found = read_checkpoint(data)
    assert found.entry == "model"
    for name, tensor in model.state_dict().items():
        _assert_same(found.tensors[name], tensor)
    assert found.tensors["1.num_batches_tracked"].shape == ()
    assert found.skipped["config"] == "an object of argparse.Namespace, not made"
    assert found.skipped["epoch"] == "7"
    assert "argparse.Namespace" in found.globals
    for name, array in read_weights(data, entry="parameters").items():
        _assert_same(array, model.state_dict()[name])
    assert found.tree["optimizer"]["state"][0]["exp_avg"].shape == (4, 3)


@pytest.mark.parametrize("form", FORMS)
def test_parameter_attributes(form: str) -> None:
    plain, marked = torch.nn.Parameter(torch.arange(3.0)), torch.nn.Parameter(torch.arange(4.0))
    marked.no_decay = True
    _check({"plain": plain, "marked": marked, "buffer": torch.nn.Buffer(torch.arange(2.0))}, form)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_read_is_said(form: str) -> None:
    tree = {
        "w": torch.ones(2),
        "sparse": torch.eye(3).to_sparse(),
        "float8": torch.ones(4).to(torch.float8_e4m3fn),
        "conj": torch.ones(2, dtype=torch.complex64).conj(),
    }
    found = read_checkpoint(_saved(tree, form))
    assert list(found.tensors) == ["w"]
    assert sorted(found.unreadable) == ["conj", "float8", "sparse"]


def test_names_and_keys() -> None:
    tree = {
        "w.ü.\U0001f600": torch.ones(1),
        "": torch.zeros(1),
        5: "five",
        (1, "a"): None,
        "nested": {"t": torch.ones(2)},
    }
    found = read_checkpoint(_saved(tree, "zip"))
    assert list(found.tensors) == ["w.ü.\U0001f600", ""]
    assert found.skipped["nested"] == "a dict of 1, 1 of them tensors"


def test_large_tensors_and_file(tmp_path: Path) -> None:
    """Storages of every size around an arena, from disk."""
    tree = {f"{i}": torch.rand(size) for i, size in enumerate([1, 1 << 20, 9 << 20, 3, 1 << 22, 1 << 22])}
    for form in FORMS:
        path = tmp_path / form
        path.write_bytes(_saved(tree, form))
        for name, array in read_weights(path).items():
            _assert_same(array, tree[name])


def test_bfloat16_every_value() -> None:
    tree = {"all": torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)}
    for form in FORMS:
        found = read_checkpoint(_saved(tree, form))
        assert found.stored["all"].dtype.name == "bfloat16"
        _assert_same(found.tensors["all"], tree["all"])


# ---- ours, read by torch


def _tree() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        dtype: (rng.standard_normal((3, 4)) * 100).astype(dtype)
        for dtype in ("float64", "float32", "float16", "complex64", "complex128", "int64", "int32", "int16", "int8")
    }
    arrays |= {"uint8": np.arange(5, dtype=np.uint8), "bool": np.array([True, False])}
    arrays |= {
        "empty": np.zeros((0, 2)),
        "scalar": np.array(3.5),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    arrays |= {"big": np.arange(3, dtype=">f4"), "strided": np.arange(10.0)[::-2], "ü": np.ones(1)}
    return {
        "model": arrays,
        "epoch": 300,
        "lr": 1e-3,
        "big": 1 << 70,
        "negative": -5,
        "list": [1, (2, "x"), None, True],
        "by": {0: 1},
    }


def test_torch_reads_what_we_write(tmp_path: Path) -> None:
    tree = _tree()
    path = tmp_path / "ours.pth"
    write_torch_file(path, tree)
    for options in ({}, {"mmap": True}):
        theirs = torch.load(path, weights_only=True, **options)
        assert list(theirs) == list(tree)
        assert {key: theirs[key] for key in tree if key != "model"} == {
            key: tree[key] for key in tree if key != "model"
        }
        for name, array in tree["model"].items():
            native = array.astype(array.dtype.newbyteorder("="))
            assert theirs["model"][name].numpy().dtype == native.dtype
            np.testing.assert_array_equal(theirs["model"][name].numpy(), native, strict=True)
    assert torch_file_bytes(tree) == path.read_bytes()


def test_torch_reads_what_the_test_support_writes() -> None:
    """So that the corpus is bent from what torch calls a checkpoint."""
    vector = torch.from_numpy(hostile.VECTOR)
    tensor = {"w": Tensor()}
    files = [
        torch_zip(tensor, {"0": hostile.VECTOR.tobytes()}),
        torch_zip(tensor, {"0": hostile.VECTOR.tobytes()}, modern=False, byteorder=None),
        torch_zip(tensor, {"0": hostile.VECTOR.astype(">f4").tobytes()}, byteorder=b"big"),
        torch_zip({"w": Tensor(version="parameter")}, {"0": hostile.VECTOR.tobytes()}),
        torch_zip({"w": Tensor(version="v1")}, {"0": hostile.VECTOR.tobytes()}),
        legacy_file(tensor, {"0": (3, hostile.VECTOR.tobytes())}),
        legacy_file(
            {"w": Tensor(numel=5, view=("v", 1, 3))}, {"0": (5, bytes(4) + hostile.VECTOR.tobytes() + bytes(4))}
        ),
    ]
    for number, data in enumerate(files):
        theirs = torch.load(io.BytesIO(data), weights_only=True)["w"]
        assert torch.equal(theirs, vector), number
        _assert_same(read_weights(data)["w"], theirs)


def test_sound_bases_of_the_corpus() -> None:
    """The files that mutations start from: torch reads them once their foreign objects are allowed for."""
    for make in (hostile.sound_zip, hostile.sound_legacy):
        data = make()
        with pytest.raises(Exception, match=r"yacs\.config\.CfgNode"):
            torch.load(io.BytesIO(data), weights_only=True)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1"])
def test_tar(dtype: str, tmp_path: Path) -> None:
    """The oldest form: torch itself reads the test support's files, and finds in them what the reader does."""
    array = np.arange(12).astype(f"<{dtype}").reshape(3, 4)
    parts = tar_parts(array, offset=1, shape=(2, 3), strides=(4, 1), views=[(9, 7, 2, 3)])
    path = tmp_path / "old.pth"
    path.write_bytes(tar_file(tar_members(parts)))
    theirs = torch.load(path, weights_only=False)  # its own test data, written a line above
    _assert_same(read_weights(path)["w"], theirs["w"])
    np.testing.assert_array_equal(theirs["w"].numpy(), array[:2, 1:])
    assert theirs["n"] == 4
