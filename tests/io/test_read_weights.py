"""What is read from sound files, what is said about the rest, and how the weights are found among it."""

from __future__ import annotations

import io
import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.hostile import corpus as hostile
from support.hostile.corpus import VECTOR
from support.hostile.weight_files import (
    KINDS,
    Tensor,
    call,
    glob,
    legacy_file,
    safetensors_file,
    tar_file,
    tar_members,
    tar_parts,
    torch_zip,
)

from swinpy.cli import main
from swinpy.io import WeightsFileError, atomic, read_checkpoint, read_weights, write_tensors
from swinpy.io.errors import Fault
from swinpy.io.source import ByteStream, open_source

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

STORAGES = {"0": VECTOR.tobytes()}
T = Tensor()
FORMS = {
    "torch zip": hostile.sound_zip,
    "torch legacy": hostile.sound_legacy,
    "torch tar": hostile.sound_tar,
    "safetensors": hostile.sound_safetensors,
}


def _zip(tree: Any, **options: Any) -> bytes:
    return torch_zip(tree, STORAGES, **options)


# ---- forms


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "str", "path"])
def test_forms_are_told_by_content(form: str, kind: str, tmp_path: Path) -> None:
    data = FORMS[form]()
    path = tmp_path / "misleading.safetensors.zip"
    path.write_bytes(data)
    file = {"bytes": data, "bytearray": bytearray(data), "memoryview": memoryview(data), "str": str(path), "path": path}
    found = read_checkpoint(file[kind])
    assert (found.form, found.size) == (form, len(data))
    np.testing.assert_array_equal(found.tensors["w"], VECTOR, strict=True)
    assert found.tensors["w"].flags.writeable


def test_training_checkpoint_is_listed() -> None:
    for make in (hostile.sound_zip, hostile.sound_legacy):
        found = read_checkpoint(make())
        assert found.entry == "model"
        assert list(found.tensors) == list(found.stored) == ["w", "m", "part"]
        np.testing.assert_array_equal(found.tensors["m"], np.arange(6).reshape(2, 3), strict=True)
        np.testing.assert_array_equal(found.tensors["part"], VECTOR[2:], strict=True)
        assert found.skipped == {
            "optimizer": "a dict of 2",
            "epoch": "300",
            "config": "an object of yacs.config.CfgNode, not made",
            "best": "an object of numpy.core.multiarray.scalar, not made",
        }
        assert found.globals == ("yacs.config.CfgNode", "numpy.core.multiarray.scalar")
        assert found.tree["optimizer"]["state"][0]["exp_avg"].shape == (3,)
        assert found.tree["config"].state == {"a": 1}
        assert "not made" in repr(found.tree["config"])


def test_only_wanted_storages_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer's numbers stay on the disk; a list of names needs none at all."""
    storages = {"0": VECTOR.tobytes(), "1": bytes(4 << 20)}
    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip({"model": {"w": T}, "optimizer": {"m": Tensor("1", 1 << 20, (1 << 20,))}}, storages))
    read: list[int] = []
    right = atomic.read_into
    monkeypatch.setattr(atomic, "read_into", lambda fd, to, at: read.append(len(to)) or right(fd, to, at))
    assert list(read_weights(path)) == ["w"]
    assert sum(read) == VECTOR.nbytes
    assert read_checkpoint(path, load=False).tensors == {}
    assert read_checkpoint(path, load=False).stored["w"].shape == (3,)
    assert sum(read) == VECTOR.nbytes


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("code", KINDS)
def test_dtypes_and_byte_orders(code: str, order: str) -> None:
    values = np.random.default_rng(0).integers(0, 2 if code == "b1" else 256, 24 * np.dtype(code).itemsize, np.uint8)
    expected = values.view(code)
    stored = expected.astype(expected.dtype.newbyteorder(">" if order == "big" else "<"))
    tensor = Tensor(numel=24, shape=(4, 6), strides=(6, 1), kind=KINDS[code])
    found = read_weights(torch_zip({"w": tensor}, {"0": stored.tobytes()}, byteorder=order.encode()))["w"]
    assert found.dtype == np.dtype(code)
    assert found.dtype.isnative
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("count", [1, 2, 3, (1 << 16) - 1, 1 << 16, (1 << 17) + 5])
def test_bfloat16_is_widened_exactly(order: str, count: int) -> None:
    words = np.arange(count, dtype=np.uint32) % (1 << 16)
    data = words.astype(">u2" if order == "big" else "<u2").tobytes()
    tensor = Tensor(numel=count, shape=(count,), kind="BFloat16Storage")
    found = read_checkpoint(torch_zip({"w": tensor}, {"0": data}, byteorder=order.encode()))
    assert found.stored["w"].dtype.name == "bfloat16"
    assert found.tensors["w"].dtype == np.float32
    np.testing.assert_array_equal(found.tensors["w"].view(np.uint32), words << 16)


def test_untyped_storage_seen_as_two_types() -> None:
    raw = {"kind": "UntypedStorage", "module": "torch.storage", "numel": 12, "version": "v3"}
    data = torch_zip({"f": Tensor(**raw, dtype="float32"), "u": Tensor(**raw, dtype="uint32")}, STORAGES)
    found = read_weights(data)
    np.testing.assert_array_equal(found["f"].view(np.uint32), found["u"])
    assert not np.shares_memory(found["f"], found["u"])


def test_memory_is_shared_as_in_the_file() -> None:
    part = Tensor(shape=(2,), offset=1)
    found = read_weights(_zip({"w": T, "same": T, "part": part, "back": Tensor(shape=(3, 1), strides=(1, 9))}))
    found["w"][1] = 7
    assert found["same"][1] == found["part"][0] == found["back"][1, 0] == 7


def test_storages_larger_and_smaller_than_an_arena() -> None:
    sizes = [1, 9 << 20, 0, 3, 8 << 20, 5]
    arrays = {str(i): np.full(n, i, np.float32) for i, n in enumerate(sizes)}
    tree = {f"t{i}": Tensor(str(i), n, (n,)) for i, n in enumerate(sizes)}
    found = read_weights(torch_zip(tree, {key: array.tobytes() for key, array in arrays.items()}))
    for i in range(len(sizes)):
        np.testing.assert_array_equal(found[f"t{i}"], arrays[str(i)], strict=True)
        assert found[f"t{i}"].flags.aligned


def test_safetensors(tmp_path: Path) -> None:
    """What the library writes, as its own reader has it; and what that cannot read."""
    rng = np.random.default_rng(0)
    kinds = [
        np.float64,
        np.float32,
        np.float16,
        np.int64,
        np.int32,
        np.int16,
        np.int8,
        np.uint8,
        np.uint64,
        np.complex64,
    ]
    arrays = {np.dtype(k).name: rng.integers(0, 100, (3, 2)).astype(k) for k in kinds}
    arrays |= {"scalar": np.array(2.5), "empty": np.zeros((2, 0, 3)), "bool": np.array([True, False])}
    write_tensors(tmp_path / "x", arrays, {"format": "pt"})
    found = read_checkpoint(tmp_path / "x")
    assert found.metadata == {"format": "pt"}
    assert found.tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.tensors[name], array, strict=True)
    sound = read_checkpoint(hostile.sound_safetensors())
    np.testing.assert_array_equal(sound.tensors["b"], np.array([[1.0], [-2.0]], np.float32), strict=True)
    assert sound.stored["b"].dtype.name == "bfloat16"
    rows = {"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
    rows["q"] = {"dtype": "F8_E5M2", "shape": [4], "data_offsets": [12, 16]}
    listed = read_checkpoint(safetensors_file(rows, VECTOR.tobytes() + bytes(4)))
    assert list(listed.tensors) == ["w"]
    assert listed.unreadable == ("q",)


def test_mapped(tmp_path: Path) -> None:
    """The same numbers, over the file where it is aligned, and writing changes nothing but the arrays."""
    for form, make in FORMS.items():
        path = tmp_path / form
        path.write_bytes(make())
        copied, mapped = read_weights(path), read_weights(path, mmap=True)
        assert copied.keys() == mapped.keys()
        for name, array in copied.items():
            np.testing.assert_array_equal(mapped[name], array, strict=True)
            assert mapped[name].flags.aligned
        for array in mapped.values():
            array[...] = 1
        assert path.read_bytes() == make()
        assert read_weights(make(), mmap=True).keys() == copied.keys()


def test_mapped_reads_nothing_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(_zip({"w": T}))
    monkeypatch.setattr(atomic, "read_into", None)
    np.testing.assert_array_equal(read_weights(path, mmap=True)["w"], VECTOR)


def test_mapping_a_file_that_shrank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(_zip({"w": T}))
    right = atomic.map_file
    monkeypatch.setattr(atomic, "map_file", lambda fd, size: right(fd, size + (1 << 20)))
    with pytest.raises(WeightsFileError, match="cut while being read"):
        read_weights(path, mmap=True)


# ---- which part is read


@pytest.mark.parametrize(
    ("tree", "entry"),
    [
        ({"w": T}, ""),
        ({"model": {"w": T}, "epoch": 1}, "model"),
        ({"state_dict": {"w": T}, "meta": {}}, "state_dict"),
        ({"model_ema": {"w": T}, "model": {"w": T}}, "model"),
        ({"model_ema": {"w": T}, "epoch": 3}, "model_ema"),
        ({"state_dict_ema": {"w": T}, "state_dict": {"w": T}}, "state_dict"),
        ({"model": {"w": T}, "best": T}, "model"),
        ({"model": "swin_tiny", "state_dict": {"w": T}}, "state_dict"),
        ({"state_dict": {"model": {"w": T}}}, "state_dict.model"),
        ({"module": {"module": {"w": T}}}, "module.module"),
        ({"teacher": {"w": T}, "epoch": 1}, "teacher"),
        ({"my.weights": {"w": T}}, "my.weights"),
    ],
)
def test_entry_is_found(tree: Any, entry: str) -> None:
    found = read_checkpoint(_zip(tree))
    assert found.entry == entry
    assert list(found.tensors) == ["w"]


def test_entry_can_be_chosen() -> None:
    other = Tensor(shape=(1,))
    tree = {"model": {"w": T}, "model_ema": {"w": other}, "a": {"b.c": {"d": {"w": other}}}, "a.b": {"c": 1}}
    data = _zip(tree)
    assert read_weights(data)["w"].shape == (3,)
    assert read_weights(data, entry="model_ema")["w"].shape == (1,)
    found = read_checkpoint(data, entry="model_ema")
    assert found.skipped == {"model": "a dict of 1, 1 of them tensors", "a": "a dict of 1", "a.b": "a dict of 1"}
    nested = read_checkpoint(_zip({"a": {"b.c": {"w": other, "n": 3}, "x": None}, "y": [1]}), entry="a.b.c")
    assert nested.skipped == {"y": "a list of 1", "a.x": "None", "a.b.c.n": "3"}
    with pytest.raises(WeightsFileError, match=r"an entry 'ema'.*Pass one of: 'model', 'model_ema', 'a', 'a\.b'\."):
        read_weights(data, entry="ema")
    with pytest.raises(WeightsFileError, match=r"tensors by name in entry 'a'"):
        read_weights(data, entry="a")
    with pytest.raises(WeightsFileError, match=r"tensors by name in entry ''"):
        read_weights(data, entry="")


def test_a_nested_dict_among_the_weights_is_said() -> None:
    found = read_checkpoint(_zip({"w": T, "deeper": {"v": T}, "extra": call(glob("a", "B"))}))
    assert list(found.tensors) == ["w"]
    assert found.skipped == {"deeper": "a dict of 1, 1 of them tensors", "extra": "an object of a.B, not made"}
    assert found.unreadable == ()


# ---- faults of the place


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (("nowhere", "No such file"), ("", "not a regular file"), ("pipe", "not a regular file")):
        with pytest.raises(WeightsFileError, match=f"expected a readable file in .*; got {reason}"):
            read_weights(tmp_path / path)
    with pytest.raises(WeightsFileError, match="null byte"):
        read_weights("a\0b")


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_shrinks_while_being_read(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(FORMS[form]())
    monkeypatch.setattr(atomic, "read_into", lambda fd, to, at: 0)
    with pytest.raises(WeightsFileError, match="cut while being read"):
        read_weights(path)


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(hostile.sound_legacy())
    into, at = atomic.read_into, atomic.read_at
    monkeypatch.setattr(atomic, "read_into", lambda fd, to, position: into(fd, to[:5], position))
    monkeypatch.setattr(atomic, "read_at", lambda fd, count, position: at(fd, min(count, 7), position))
    np.testing.assert_array_equal(read_weights(path)["w"], VECTOR)


def test_a_disk_error_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, to: memoryview, at: int) -> int:
        raise OSError(5, "Input/output error")

    path = tmp_path / "x"
    path.write_bytes(hostile.sound_zip())
    monkeypatch.setattr(atomic, "read_into", fail)
    with pytest.raises(WeightsFileError, match=r"got Input/output error\. Check the disk"):
        read_weights(path)


def test_names_in_messages_cannot_garble_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2Jb"
    path.write_bytes(b"hello")
    with pytest.raises(WeightsFileError) as caught:
        read_weights(path)
    assert str(caught.value).isprintable()


# ---- the command


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(hostile.sound_zip())
    assert main(["inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"torch zip, {path.stat().st_size:,} bytes; weights at model",
        "",
        "name  shape  dtype",
        "w     3      float32",
        "m     2 x 3  int64",
        "part  1      float32",
        "",
        "3 tensors, 10 elements, 64 bytes: float32, int64",
        "skipped:",
        "  optimizer: a dict of 2",
        "  epoch: 300",
        "  config: an object of yacs.config.CfgNode, not made",
        "  best: an object of numpy.core.multiarray.scalar, not made",
        "code that the file names, none of it imported:",
        "  yacs.config.CfgNode",
        "  numpy.core.multiarray.scalar",
    ]


def test_inspect_other_forms_and_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    path.write_bytes(hostile.sound_safetensors())
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "safetensors" in out
    assert "weights at the top" in out
    assert "b     2 x 1  bfloat16" in out
    assert "metadata:\n  format: pt" in out
    path.write_bytes(_zip({"model": {"w": T}, "ema": {"s": Tensor(shape=(), strides=())}}))
    assert main(["inspect", str(path), "--entry", "ema"]) == 0
    assert "s     scalar  float32" in capsys.readouterr().out


def test_inspect_is_safe_to_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    path.write_bytes(_zip({"w\x1b[2J": T, "n\n": 3, "o": call(glob("a\x07", "b"))}))
    assert main(["inspect", str(path)]) == 0
    assert "\x1b" not in (out := capsys.readouterr().out)
    assert "\x07" not in out
    assert r"'w\x1b[2J'" in out


def test_inspect_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: read_checkpoint: expected a readable file in ")


def test_legacy_files_may_lack_storages() -> None:
    """A file of empty tensors and numbers."""
    data = legacy_file({"w": Tensor(numel=0, shape=(0, 4), strides=(4, 1))}, {"0": (0, b"")})
    assert read_weights(data)["w"].shape == (0, 4)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.npy", "b.npy"), "an npz file of NumPy. Pass dict(numpy.load(FILE))"),
        (("m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"), "a TorchScript program"),
    ],
)
def test_zip_files_of_other_kinds_are_named(names: tuple[str, ...], words: str, method: int) -> None:
    """torch.jit.save deflates its code, and savez_compressed everything: unpacking would not make weights of them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 99, None if name.endswith("data.pkl") else method)
    with pytest.raises(WeightsFileError) as caught:
        read_weights(file.getvalue())
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "strides", "alone"),
    [((2, 3), (0, 1), False), ((2, 2), (1, 1), False), ((2,), (2,), True), ((2, 1), (2, 5), True)],
)
def test_elements_that_lie_in_one_place_are_not_written_to(shape: Any, strides: Any, alone: bool) -> None:
    """A view of a tensor that was expanded: to write one element would change others."""
    found = read_weights(_zip({"w": Tensor(shape=shape, strides=strides)}))["w"]
    assert found.shape == shape
    assert found.flags.writeable == alone


@pytest.mark.parametrize("kept", ["memory", "file"])
@pytest.mark.parametrize(("position", "count"), [(-1, 3), (-9, 12), (0, 11), (10, 1), (8, 3), (99, 1)])
def test_nothing_is_read_from_beyond_a_source(kept: str, position: int, count: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    with open_source(path if kept == "file" else path.read_bytes()) as source:
        with pytest.raises(Fault):
            source.read(position, count)
        with pytest.raises(Fault):
            source.read_into(position, memoryview(bytearray(count)))
        room = bytearray(3)
        source.read_into(7, memoryview(room))
        assert source.read(7, 3) == bytes(room) == b"789"


def test_a_stream_that_skips_goes_on_behind() -> None:
    with open_source(bytes(range(256)) * 1000) as source:
        for skipped in (0, 5, 65_000, 66_000, 200_000):
            stream = ByteStream(source, 0, source.size)
            assert stream.take(3) == bytes([0, 1, 2])
            stream.skip(skipped)
            assert stream.position == 3 + skipped
            assert [stream.byte(), *stream.take(2)] == [(3 + skipped + i) % 256 for i in range(3)]
        with pytest.raises(Fault):
            stream.skip(stream.left + 1)


def test_a_tar_file_that_ends_after_a_member() -> None:
    data = tar_file(tar_members(tar_parts(np.arange(4, dtype=np.float32))), end=b"")
    with pytest.raises(WeightsFileError, match="an empty block at the end of the tar file"):
        read_weights(data)
