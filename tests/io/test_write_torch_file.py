"""The writer of torch files: what it writes is read back bit for bit, and only whole."""

from __future__ import annotations

import errno
import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from swinpy.io import atomic, read_checkpoint, read_weights, torch_file_bytes, write_torch_file

if TYPE_CHECKING:
    from pathlib import Path


def _arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = ["float64", "float32", "float16", "complex128", "complex64", "int64", "int32", "int16", "int8", "uint8"]
    arrays: dict[str, Any] = {name: rng.integers(0, 100, (3, 4)).astype(name) for name in names}
    arrays |= {"bool": np.array([True, False]), "scalar": np.array(3.5), "empty": np.zeros((0, 2))}
    arrays |= {
        "big": np.arange(3, dtype=">f4"),
        "strided": np.arange(10.0)[::-2],
        "broadcast": np.broadcast_to(1.0, (2, 3)),
    }
    return arrays


def test_round_trip(tmp_path: Path) -> None:
    arrays = _arrays()
    tree = {
        "model": arrays,
        "epoch": 3,
        "lr": 0.1,
        "big": -(1 << 80),
        "none": None,
        "list": [1, (True, "x")],
        "by": {7: "y"},
    }
    write_torch_file(tmp_path / "x.pth", tree)
    found = read_checkpoint(tmp_path / "x.pth")
    assert found.entry == "model"
    assert list(found.tensors) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.tensors[name], array.astype(array.dtype.newbyteorder("=")), strict=True)
    assert {key: found.tree[key] for key in tree if key != "model"} == {k: v for k, v in tree.items() if k != "model"}


def test_container_is_a_sound_zip_with_aligned_data(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    write_torch_file(path, _arrays())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            head = path.read_bytes()[info.header_offset : info.header_offset + 30]
            start = (
                info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            )
            assert start % 64 == 0
            assert info.compress_type == zipfile.ZIP_STORED


def test_same_tree_same_bytes() -> None:
    assert torch_file_bytes(_arrays()) == torch_file_bytes(_arrays())


def test_many_entries() -> None:
    """More than 65,535: the zip64 record counts them."""
    tree = {str(i): np.zeros(0, np.float32) for i in range(66_000)}
    with zipfile.ZipFile(io.BytesIO(torch_file_bytes(tree))) as archive:
        assert f"archive/data/{len(tree) - 1}" in archive.namelist()
        assert len(archive.infolist()) == len(tree) + 5


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"w": object()}, r"expected arrays and plain values; got builtins\.object"),
        ({"w": {1.5: 1}}, r"expected keys of text or int; got 1\.5"),
        ({"w": np.array(["a"])}, r"expected one of the dtypes .*; got <U1"),
        ({"w": np.zeros(2, np.uint16)}, r"got uint16"),
        ({"w": 1 << 3000}, r"at most 255 bytes"),
    ],
)
def test_refusals(tree: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        torch_file_bytes(tree)


@pytest.mark.parametrize("tree", [{"n" * 1025: np.ones(2)}, {"model": {"n" * 1025: 1}}])
def test_keys_too_long_to_be_read_are_refused(tree: Any) -> None:
    with pytest.raises(ValueError, match=r"at most 1024 characters; got 'nnn.*of 1025, which would not be read"):
        torch_file_bytes(tree)


def test_the_longest_key_comes_back() -> None:
    name = "\u4e00" * 1024
    assert list(read_weights(torch_file_bytes({name: {name: np.ones(2)}}))) == [name]


def test_cycle_is_refused() -> None:
    tree: dict[str, Any] = {}
    tree["self"] = tree
    with pytest.raises(ValueError, match="Does the tree contain itself"):
        torch_file_bytes(tree)


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pth"
    write_torch_file(path, {"w": np.ones(2)})
    before = path.read_bytes()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic._fs, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_torch_file(path, {"w": np.zeros(2)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
