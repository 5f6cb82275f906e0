"""The static reader of Python batches: equal to pickle on true files, and deaf to everything else."""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swinpy.data import DatasetCorrupt
from swinpy.data.cifar.pickled import read_batch_pickle


def batch_of(records=5, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "batch_label": "training batch 1 of 5",
        "labels": rng.integers(0, 10, records).tolist(),
        "data": rng.integers(0, 256, (records, 3072), dtype=np.uint8),
        "filenames": [f"camion_s_{i:06}.png" for i in range(records)],
    }


def test_equals_pickle_on_the_layout_of_the_true_files(python2_pickle):
    batch = batch_of(300)  # more than 255 records: the shape then takes another opcode
    content = python2_pickle(batch)
    expected = pickle.loads(content, encoding="bytes")  # written by ourselves a line above
    got = read_batch_pickle(content, "batch")
    assert list(got) == [key.decode() for key in expected] == list(batch)
    np.testing.assert_array_equal(got["data"], expected[b"data"])
    assert got["data"].dtype == np.uint8
    np.testing.assert_array_equal(got["data"], batch["data"])
    assert got["labels"] == expected[b"labels"] == batch["labels"]
    assert got["filenames"] == expected[b"filenames"]
    assert got["batch_label"] == expected[b"batch_label"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_equals_pickle_on_protocol_3(order):
    batch = batch_of(4)
    batch["data"] = np.array(batch["data"], order=order)
    batch["more"] = {"none": None, "true": True, "big": 70_000, "tuple": (1, 2, 3, 4), "empty": ()}
    got = read_batch_pickle(pickle.dumps(batch, protocol=3), "batch")
    np.testing.assert_array_equal(got.pop("data"), batch.pop("data"))
    assert got == batch


def test_long_memos():
    """More than 256 stored values, so that the four-byte forms of put and get are met."""
    names = [f"n{i}" for i in range(300)]
    batch = {"a": names, "b": list(reversed(names)), "c": [1] * 3000}
    assert read_batch_pickle(pickle.dumps(batch, protocol=3), "batch") == batch


class Runs:
    """Unpickling this runs a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker):
    command = f"touch {marker}"
    yield from (Runs(f, command) for f in (os.system, eval, exec))
    yield Runs(os.mkdir, str(marker))
    yield Runs(open, str(marker), "w")
    yield Runs(np.save, str(marker), np.zeros(1))
    yield Runs(bytearray, 1 << 40)
    yield np.array([Runs(os.mkdir, str(marker))], dtype=object)


@pytest.mark.parametrize("protocol", range(6))
def test_hostile_files_run_nothing(tmp_path, protocol):
    marker = tmp_path / "was-here"
    for value in hostile(marker):
        for batch in (value, {"data": value}, {"labels": [value]}):
            with pytest.raises(DatasetCorrupt, match="Nothing in it was run"):
                read_batch_pickle(pickle.dumps(batch, protocol=protocol), "batch")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b".", "a value missing from the stack"),
        (b"\x80\x02].", "a list at the top"),
        (b"\x80\x04}.", "another protocol"),
        (b"\x80\x02cos\nsystem\nU\x02ls\x85R.", "the global 'os.system'"),
        (b"\x80\x02cbuiltins\neval\n.", "the global 'builtins.eval'"),
        (b"c" + b"a" * 5000 + b"\nb\n.", "a global with an unreadable name"),
        (b"cos\nsystem", "a global with an unreadable name"),
        (b"(ios\nsystem\n.", "opcode b'i'"),
        (b"\x80\x02}U\x04dataPpersistent\ns.", "opcode b'P'"),
        (b"\x80\x02\x82\x01.", "opcode b'\\x82'"),
        (b"}(K\x01K\x02u.", "a key that is no string"),
        (b"}(U\x01au.", "a key that is no string"),
        (b"]K\x01s.", "no dict to add to"),
        (b"}K\x01a.", "no list to add to"),
        (b"]e.", "a list without a beginning"),
        (b"h\x05.", "a reference to value 5"),
        (b"(q\x00.", "a value missing from the stack"),
        (b"T\xff\xff\xff\xff.", "a string of negative length"),
        (b"T\xff\xff\xff\x7fabc.", "truncated"),
        (b"X\x01\x00\x00\x00\xff.", "not UTF-8"),
        (b"}U\x01acnumpy\nndarray\n)Rs.", "a call that does not build an array"),
        (b"}U\x01acnumpy.core.multiarray\n_reconstruct\n)Rs.", "an array without a shape"),
        (b"}Nb.", "no call to add to"),
        (b"N" * 2_000_001, "contents that need more"),
        (b"\x80\x02" * 2_000_001, "more than 2000000 opcodes"),
    ],
)
def test_malformed(content, reason):
    with pytest.raises(DatasetCorrupt) as caught:
        read_batch_pickle(content, "batch")
    text = str(caught.value)
    assert text.startswith("CIFAR batch file: expected batch to be a pickled dict")
    assert reason in text
    assert "fetch the dataset again" in text


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3), dtype=np.int8),
        np.zeros((2, 3), dtype=np.float32),
        np.zeros((2, 3), dtype=bool),
        np.zeros((2, 3), dtype=object),
        np.zeros(3, dtype=[("u1", "u1")]),
        np.zeros((1, 1, 1, 1, 1), dtype=np.uint8),
    ],
    ids=str,
)
def test_other_arrays(array):
    with pytest.raises(DatasetCorrupt):
        read_batch_pickle(pickle.dumps({"data": array}, protocol=3), "batch")


def test_shape_that_lies():
    content = pickle.dumps({"data": np.zeros((4, 5), dtype=np.uint8)}, protocol=3)
    assert content.count(b"K\x04K\x05\x86") == 1
    with pytest.raises(DatasetCorrupt, match="20 bytes of data"):
        read_batch_pickle(content.replace(b"K\x04K\x05\x86", b"K\x04K\x06\x86"), "batch")


def test_truncated_at_every_byte(python2_pickle):
    batch = batch_of(1)
    batch["data"] = batch["data"][:, :64]
    content = python2_pickle(batch)
    for length in range(len(content)):
        with pytest.raises(DatasetCorrupt, match=r"truncated|unreadable name"):
            read_batch_pickle(content[:length], "batch")


def assert_dict_or_refused(content):
    """No other exception, and no other value."""
    with contextlib.suppress(DatasetCorrupt):
        assert isinstance(read_batch_pickle(content, "batch"), dict)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 6))
def test_damaged_files_give_a_value_or_the_error(python2_pickle_static, seed, flips):
    rng = np.random.default_rng(seed)
    content = bytearray(python2_pickle_static)
    for _ in range(flips):
        content[rng.integers(len(content))] = rng.integers(256)
    assert_dict_or_refused(bytes(content))


@pytest.fixture(scope="module")
def python2_pickle_static():
    batch = batch_of(2)
    batch["data"] = batch["data"][:, :16]
    return pickle.dumps(batch, protocol=3)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_programs(seed):
    """Sequences of opcodes that pickle knows, with random arguments."""
    rng = np.random.default_rng(seed)
    codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    content = b"".join(
        codes[rng.integers(len(codes))] + rng.bytes(int(rng.integers(0, 4))) for _ in range(int(rng.integers(1, 40)))
    )
    assert_dict_or_refused(content)
