"""The safetensors file: exact for every layout and dtype, and one exception for everything that is wrong."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hostile.weight_files import safetensors_file

from swinpy.io import TensorFileError, atomic, read_tensors, read_weights, write_tensors
from swinpy.io.safetensors.read import decode_tensors
from swinpy.io.safetensors.write import _has_utf8, encode_tensors

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", ">f4", ">f8", ">i2", ">c8"]
LAYOUTS = ["C", "F", "transposed", "strided", "negative", "broadcast", "permuted"]
# Any bits at all for floats: NaNs with payloads, infinities and both zeros come back as they were.
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_array(seed: int, dtype: str, shape: tuple[int, ...], layout: str) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)

    def draw(size: tuple[int, ...]) -> np.ndarray[Any, Any]:
        if dtype == "?":
            return rng.integers(0, 2, size).astype(bool)
        count = int(np.prod(size)) * np.dtype(dtype).itemsize
        return np.frombuffer(rng.bytes(count), dtype=dtype).reshape(size).copy()

    if layout == "F":
        return np.asfortranarray(draw(shape)) if shape else draw(shape)
    if layout == "transposed":
        return draw(shape[::-1]).T
    if layout == "strided" and shape:
        return draw((*shape[:-1], 2 * shape[-1]))[..., ::2]
    if layout == "negative" and shape:
        return draw(shape)[(slice(None, None, -1),) * len(shape)]
    if layout == "broadcast" and shape:
        return np.broadcast_to(draw((1, *shape[1:])), shape)
    if layout == "permuted" and len(shape) > 2:
        return np.moveaxis(draw((shape[1], *shape[2:], shape[0])), -1, 0)
    return draw(shape)


def bits(array: np.ndarray[Any, Any]) -> bytes:
    return np.asarray(array, dtype=array.dtype.newbyteorder("<")).tobytes(order="C")


arrays = st.builds(
    make_array,
    st.integers(0, 2**32 - 1),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.sampled_from(LAYOUTS),
)


@COMMON
@given(st.dictionaries(st.text(max_size=8).filter(_has_utf8), arrays, max_size=4))
def test_round_trip(tmp_path: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    before = {name: bits(array) for name, array in tensors.items()}
    write_tensors(tmp_path / "a.safetensors", tensors, {"note": "ü"})
    found, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"note": "ü"}
    assert list(found) == sorted(tensors)
    for name, array in tensors.items():
        got = found[name]
        assert bits(array) == before[name], "the input was changed"
        assert bits(got) == before[name]
        assert got.shape == array.shape
        assert got.dtype == array.dtype.newbyteorder("=")
        assert got.dtype.isnative
        assert got.flags.writeable
        assert got.flags.owndata
        assert got.flags.c_contiguous
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_the_same_arguments_give_the_same_bytes() -> None:
    """The library writes the entries of metadata in an order of chance."""
    tensors = {"b": np.arange(3.0), "a": np.ones((2, 2), "f2"), "ü": np.zeros(5, "u1")}
    texts = {name: f'"{name}" \n \\ ü 🜁' for name in ("format", "swinpy", "a", "ü", "z")}
    first = encode_tensors(tensors, texts)
    assert all(encode_tensors(tensors, dict(reversed(texts.items()))) == first for _ in range(10))
    found, metadata = decode_tensors(first)
    assert metadata == texts
    assert list(metadata) == sorted(texts)
    assert all(bits(found[name]) == bits(array) for name, array in tensors.items())
    assert safetensors.numpy.load(first).keys() == tensors.keys()
    assert int.from_bytes(first[:8], "little") % 8 == 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout(dtype: str, layout: str) -> None:
    for shape in [(), (1,), (5,), (3, 4), (2, 3, 4), (0,), (3, 0, 2)]:
        array = make_array(7, dtype, shape, layout)
        found, _ = decode_tensors(encode_tensors({"x": array}))
        assert bits(found["x"]) == bits(array), shape
        assert found["x"].shape == shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_the_copy_nothing_wrong_passes(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """The library takes the memory as it lies; decoding once more is what notices it."""
    array = make_array(7, "f4", (3, 4), layout)
    library = safetensors.numpy.save
    monkeypatch.setattr(safetensors.numpy, "save", lambda *_, **__: library({"x": array}))
    try:
        found, _ = decode_tensors(encode_tensors({"x": array}))
    except TensorFileError:
        assert not array.flags.c_contiguous
    else:
        assert bits(found["x"]) == bits(array)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([None]), "object"),
        (np.array(["text"]), "<U4"),
        (np.zeros(2, "M8[s]"), "datetime64"),
        (np.zeros(2, "c16"), "complex128"),
        (np.zeros(2, [("a", "f4")]), r"\('a', '<f4'\)"),
        (np.ma.masked_array(np.zeros(2), [True, False]), "MaskedArray"),
        ([1.0], "builtins.list"),
        (1.0, "builtins.float"),
    ],
)
def test_refuses_values(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"write_tensors: expected .*'x'; got .*{said}"):
        write_tensors(tmp_path / "a", {"x": value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["__metadata__", "\ud800", "n" * 1025])
def test_refuses_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="write_tensors: expected a usable name"):
        write_tensors(tmp_path / "a", {name: np.zeros(1)})


def test_the_longest_name_comes_back(tmp_path: Path) -> None:
    name = "\u4e00" * 1024
    write_tensors(tmp_path / "a.safetensors", {name: np.ones(2)})
    assert list(read_weights(tmp_path / "a.safetensors")) == list(read_tensors(tmp_path / "a.safetensors")[0]) == [name]


def test_what_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    few, many = ({f"t{i}": np.ones(1, np.uint8) for i in range(count)} for count in (1000, 20_000))
    write_tensors(tmp_path / "few", few)
    assert len(read_tensors(tmp_path / "few")[0]) == 1000
    with pytest.raises(TensorFileError, match="Write fewer tensors into one file"):
        write_tensors(tmp_path / "many", many)
    assert not (tmp_path / "many").exists()
    header = {name: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, name in enumerate(many)}
    with pytest.raises(TensorFileError, match=r"at most \d+ bytes of memory"):
        decode_tensors(safetensors_file(header, bytes(len(many))))


def test_a_long_name_in_a_message_is_cut() -> None:
    header = {"n" * 9000: {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}
    with pytest.raises(TensorFileError, match="dtype BF16 in 'nnnn") as caught:
        decode_tensors(safetensors_file(header, bytes(2)))
    assert len(str(caught.value)) < 400


def test_refuses_other_arguments(tmp_path: Path) -> None:
    one: Any = {1: np.zeros(1)}
    with pytest.raises(TypeError, match="expected names of type str; got 1"):
        write_tensors(tmp_path / "a", one)
    number: Any = {"k": 1}
    with pytest.raises(TypeError, match="expected metadata of str to str"):
        write_tensors(tmp_path / "a", {}, number)
    with pytest.raises(ValueError, match="metadata with a UTF-8 form"):
        write_tensors(tmp_path / "a", {}, {"k": "\ud800"})


def test_scalars_and_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_tensors(path, {})
    assert read_tensors(path) == ({}, {})
    scalar: Any = np.float32(3)
    write_tensors(path, {"x": scalar})
    assert read_tensors(path)[0]["x"].shape == ()


def test_wrong_bytes_from_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    other = encode_tensors({"x": np.ones(3)})
    monkeypatch.setattr(safetensors.numpy, "save", lambda *_, **__: other)
    with pytest.raises(TensorFileError, match="got other values than were given"):
        encode_tensors({"x": np.zeros(3)})
    monkeypatch.setattr(safetensors.numpy, "save", lambda *_, **__: b"")
    with pytest.raises(TensorFileError, match="one of 0 bytes in 0"):
        encode_tensors({"x": np.zeros(3)})


def craft(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


MALFORMED = {
    "empty": b"",
    "short": b"\x01\x02",
    "huge header": b"\xff" * 16,
    "no json": craft(b"nonsense"),
    "a list": craft([]),
    "bf16": craft({"x": entry("BF16", [2], 0, 4)}, bytes(4)),
    "f8": craft({"x": entry("F8_E4M3", [2], 0, 2)}, bytes(2)),
    "unknown dtype": craft({"x": entry("F99", [2], 0, 4)}, bytes(4)),
    "rank 70": craft({"x": entry("F32", [1] * 70, 0, 4)}, bytes(4)),
    "overflow": craft({"x": entry("F32", [2**62, 4], 0, 4)}, bytes(4)),
    "impossible empty": craft({"x": entry("F32", [0, 2**62, 4], 0, 0)}),
    "negative": craft({"x": entry("F32", [-1], 0, 4)}, bytes(4)),
    "beyond the end": craft({"x": entry("F32", [2], 0, 8)}, bytes(4)),
    "overlap": craft({"x": entry("F32", [1], 0, 4), "y": entry("F32", [1], 0, 4)}, bytes(4)),
    "trailing bytes": craft({"x": entry("F32", [1], 0, 4)}, bytes(9)),
    "metadata number": craft({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(tmp_path: Path, case: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(MALFORMED[case])
    with pytest.raises(TensorFileError) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert "expected a sound safetensors file" in str(caught.value)


@COMMON
@given(st.data())
def test_damaged_bytes_never_crash(data: st.DataObject) -> None:
    good = bytearray(encode_tensors({"a": np.arange(3.0), "b": np.ones((2, 2), "f2")}, {"k": "v"}))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        tensors, metadata = decode_tensors(bytes(good[:cut]))
    except TensorFileError:
        return
    assert all(isinstance(array, np.ndarray) for array in tensors.values())
    assert all(isinstance(text, str) for pair in metadata.items() for text in pair)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match="No such file"):
        read_tensors(tmp_path / "missing")
    with pytest.raises(TensorFileError, match="not a regular file"):
        read_tensors(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TensorFileError, match="not a regular file"):
        read_tensors(tmp_path / "pipe")


def test_reads_through_links(tmp_path: Path) -> None:
    write_tensors(tmp_path / "blob", {"x": np.arange(3)})
    (tmp_path / "link").symlink_to("blob")
    np.testing.assert_array_equal(read_tensors(tmp_path / "link")[0]["x"], np.arange(3))


@pytest.mark.parametrize("call", ["open", "write", "fsync", "close", "replace", "read"])
def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a"
    write_tensors(path, {"x": np.zeros(3)})
    system = atomic.FileSystem()

    def fail(*args: Any) -> None:
        if call == "close":
            os.close(args[0])
        raise OSError(errno.ENOSPC, "No space left on device")

    setattr(system, call, fail)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_fs", system)
        with pytest.raises(OSError, match="No space left"):
            write_tensors(path, {"x": np.ones(3)})
    assert os.listdir(tmp_path) == ["a"]
    np.testing.assert_array_equal(read_tensors(path)[0]["x"], np.zeros(3))


def test_short_writes_and_wrong_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Grudging(atomic.FileSystem):
        def write(self, fd: int, data: memoryview) -> int:
            return os.write(fd, data[:5])

        def read(self, fd: int, count: int) -> bytes:
            return os.read(fd, min(count, 7))

    monkeypatch.setattr(atomic, "_fs", Grudging())
    write_tensors(tmp_path / "a", {"x": np.arange(20)})
    np.testing.assert_array_equal(read_tensors(tmp_path / "a")[0]["x"], np.arange(20))

    class Rotten(atomic.FileSystem):
        def read(self, fd: int, count: int) -> bytes:
            return bytes(len(os.read(fd, count)))

    monkeypatch.setattr(atomic, "_fs", Rotten())
    with pytest.raises(OSError, match="read back differ"):
        write_tensors(tmp_path / "b", {"x": np.arange(20)})
    assert os.listdir(tmp_path) == ["a"]
