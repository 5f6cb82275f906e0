"""Small datasets in the true layouts of CIFAR, for every test of the readers."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from swinpy.data.cifar.layouts import CIFAR10, CIFAR100

TRAIN_RECORDS, TEST_RECORDS = 6, 4


def _string(value):
    data = value.encode("latin-1") if isinstance(value, str) else value
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def _integer(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _array(array):
    """The opcodes that Python 2's cPickle wrote for a uint8 array of two dimensions."""
    shape = b"".join(_integer(n) for n in array.shape) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + _string("u1") + b"K\x00K\x01\x87R(K\x03" + _string("|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _string("b") + b"\x87R"
    return head + b"(K\x01" + shape + dtype + b"\x89" + _string(array.tobytes()) + b"tb"


def _python2_pickle(batch):
    """A dict of str, list of int or str, and uint8 arrays as Python 2 pickled it with protocol 2."""
    out, memo = b"\x80\x02}q\x00(", 1
    for key, value in batch.items():
        out += _string(key)
        if isinstance(value, np.ndarray):
            out += _array(value)
        elif isinstance(value, list):
            items = b"".join(_integer(v) if isinstance(v, int) else _string(v) for v in value)
            out += b"]q" + bytes([memo]) + b"(" + items + b"e"
            memo += 1
        else:
            out += _string(value)
    return out + b"u."


@pytest.fixture
def python2_pickle():
    return _python2_pickle


class Tiny:
    """Ten (or a hundred) classes, a handful of records, and the functions that put them on disk."""

    def __init__(self, fmt, seed=0):
        self.fmt = replace(fmt, train_records=TRAIN_RECORDS, test_records=TEST_RECORDS)
        self.binary, self.python = self.fmt.archives
        rng = np.random.default_rng(seed)
        files = len(self.binary.train)
        self.coarse = fmt.coarse_classes
        self.parts = []
        for records in [TRAIN_RECORDS] * files + [TEST_RECORDS]:
            images = rng.integers(0, 256, (records, 3, 32, 32), dtype=np.uint8)
            labels = rng.integers(0, len(fmt.class_names), records)
            self.parts.append((images, labels, rng.integers(0, max(self.coarse, 1), records)))
        self.train_images = np.concatenate([part[0] for part in self.parts[:-1]])
        self.train_labels = np.concatenate([part[1] for part in self.parts[:-1]])
        self.test_images, self.test_labels, _ = self.parts[-1]

    def binary_files(self):
        contents = {}
        for name, (images, labels, coarse) in zip((*self.binary.train, *self.binary.test), self.parts, strict=True):
            columns = [labels[:, None], images.reshape(len(labels), -1)]
            columns = [coarse[:, None], *columns] if self.coarse else columns
            contents[name] = np.concatenate(columns, axis=1).astype(np.uint8).tobytes()
        return contents

    def python_files(self):
        contents = {}
        for name, (images, labels, coarse) in zip((*self.python.train, *self.python.test), self.parts, strict=True):
            batch = {"batch_label": f"batch {name}", "data": images.reshape(len(labels), -1)}
            batch["fine_labels" if self.coarse else "labels"] = labels.tolist()
            if self.coarse:
                batch["coarse_labels"] = coarse.tolist()
            batch["filenames"] = [f"{name}_{i}.png" for i in range(len(labels))]
            contents[name] = _python2_pickle(batch)
        return contents

    def write_folder(self, root, archive, files=None):
        folder = root / archive.folder
        folder.mkdir(parents=True)
        for name, content in (files or self.files(archive)).items():
            (folder / name).write_bytes(content)
        return folder

    def files(self, archive):
        return self.binary_files() if archive.layout == "binary" else self.python_files()

    def write_tar(self, root, archive, members=None):
        """Write the archive; returns the format with its true size and SHA-256 put in."""
        if members is None:
            members = [regular(f"{archive.folder}/{name}", content) for name, content in self.files(archive).items()]
        path = root / archive.filename
        with tarfile.open(path, "w:gz") as tar:
            for info, content in members:
                tar.addfile(info, io.BytesIO(content))
        return self.known(archive, path.read_bytes())

    def known(self, archive, content):
        """The format in which ``archive`` is known to have ``content``."""
        known = replace(archive, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        return replace(self.fmt, archives=tuple(known if a == archive else a for a in self.fmt.archives))


def regular(name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


@pytest.fixture
def tar_member():
    return regular


@pytest.fixture(params=[CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def tiny(request):
    return Tiny(request.param)


@pytest.fixture
def tiny10():
    return Tiny(CIFAR10)


@pytest.fixture
def tiny100():
    return Tiny(CIFAR100)
