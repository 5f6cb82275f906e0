"""The readers of CIFAR: every place the files may be in, and every way in which they may be wrong."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from swinpy.data import CIFAR10, CIFAR100, DatasetCorrupt, DatasetMissing, load_cifar, load_dataset, write_cifar_binary
from swinpy.data.cifar.layouts import read_cifar_binary


def assert_equal(tiny, sets):
    train, test = sets
    np.testing.assert_array_equal(train.images, tiny.train_images)
    np.testing.assert_array_equal(train.labels, tiny.train_labels)
    np.testing.assert_array_equal(test.images, tiny.test_images)
    np.testing.assert_array_equal(test.labels, tiny.test_labels)
    assert train.class_names == tiny.fmt.class_names
    assert not train.synthetic


def test_statistics_are_the_published_ones():
    """Those that are handed around for CIFAR, to four digits."""
    assert (CIFAR10.mean, CIFAR10.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert (CIFAR100.mean, CIFAR100.std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


@pytest.mark.parametrize("which", [0, 1], ids=["binary", "python"])
def test_folder(tiny, tmp_path, which):
    folder = tiny.write_folder(tmp_path, tiny.fmt.archives[which])
    sets = load_cifar(tmp_path, tiny.fmt)
    assert_equal(tiny, sets)
    assert sets[0].source == str(folder)


@pytest.mark.parametrize("which", [0, 1], ids=["binary", "python"])
def test_archive_is_read_in_place(tiny, tmp_path, which):
    fmt = tiny.write_tar(tmp_path, tiny.fmt.archives[which])
    before = sorted(tmp_path.rglob("*"))
    assert_equal(tiny, load_cifar(tmp_path, fmt))
    assert sorted(tmp_path.rglob("*")) == before


def test_binary_is_preferred(tiny10, tmp_path):
    fmt = tiny10.write_tar(tmp_path, tiny10.binary)
    tiny10.write_folder(tmp_path, tiny10.python)
    assert load_cifar(tmp_path, fmt)[0].source.endswith("cifar-10-binary.tar.gz")
    tiny10.write_folder(tmp_path, tiny10.binary)
    assert load_cifar(tmp_path, fmt)[0].source.endswith("cifar-10-batches-bin")


def test_published_figures():
    assert [a.size for a in CIFAR10.archives] == [170052171, 170498071]
    assert CIFAR10.record_bytes == 3073
    assert CIFAR100.record_bytes == 3074
    assert len(CIFAR10.archives[0].train) * CIFAR10.train_records == 50_000 == CIFAR100.train_records
    assert len(set(CIFAR100.class_names)) == 100
    assert list(CIFAR100.class_names) == sorted(CIFAR100.class_names)
    assert list(CIFAR10.class_names) == sorted(CIFAR10.class_names)
    digests = [a.sha256 for fmt in (CIFAR10, CIFAR100) for a in fmt.archives]
    assert [digest[:8] for digest in digests] == ["c4a38c50", "6d958be0", "58a81ae1", "85cd44d0"]
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_says_where_what_and_what_else(name, tmp_path):
    with pytest.raises(DatasetMissing) as caught:
        load_dataset(name, tmp_path)
    text = str(caught.value)
    fmt = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    assert text.startswith(f"{name}: expected {fmt.archives[0].folder}/ or {fmt.archives[0].filename}")
    for part in (
        str(tmp_path),
        "https://www.cs.toronto.edu/~kriz/" + fmt.archives[0].filename,
        fmt.archives[0].sha256,
        "--dataset-download",
        "--dataset scenes",
        "--dataset digits",
    ):
        assert part in text
    assert isinstance(caught.value, FileNotFoundError)
    assert not list(tmp_path.iterdir())


def corrupt(root, fmt):
    with pytest.raises(DatasetCorrupt) as caught:
        load_cifar(root, fmt)
    return str(caught.value)


def test_wrong_sha_gives_both(tiny10, tmp_path):
    fmt = tiny10.write_tar(tmp_path, tiny10.binary)
    path = tmp_path / tiny10.binary.filename
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    text = corrupt(tmp_path, fmt)
    got = tiny10.known(tiny10.binary, bytes(content)).archives[0]
    assert fmt.archives[0].sha256 in text
    assert got.sha256 in text
    assert f"{len(content)} bytes" in text
    assert "its contents differ" in text
    assert "Delete the file and fetch it again from https://" in text


def test_truncated_archive_at_many_points(tiny100, tmp_path):
    fmt = tiny100.write_tar(tmp_path, tiny100.binary)
    path = tmp_path / tiny100.binary.filename
    content = path.read_bytes()
    for length in sorted({0, 1, 2, 3, 17, *range(0, len(content), 997), len(content) - 1}):
        path.write_bytes(content[:length])
        text = corrupt(tmp_path, fmt)
        assert f"got {length} bytes" in text
        assert "gzip" in text if length == 1 else f"truncated, {len(content) - length} bytes short" in text
        if length > len(content) - 100:
            continue  # only the zeros that end a tar are missing
        # Even an archive whose hash was right would not be read half.
        text = corrupt(tmp_path, tiny100.known(tiny100.binary, content[:length]))
        assert "expected" in text
        assert "fetch it again" in text


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html>\n<html>", b"\n  <html><body>404", b"<HTML>", b"<?xml version='1.0'?>"]
)
def test_html_page_is_recognised(tiny10, tmp_path, page):
    fmt = tiny10.known(tiny10.binary, b"\x1f\x8b" * 2000)
    (tmp_path / tiny10.binary.filename).write_bytes(page + b" sign in to the network")
    text = corrupt(tmp_path, fmt)
    assert "it is an HTML page saved under the archive's name" in text
    assert fmt.archives[0].sha256 in text


def test_not_gzip(tiny10, tmp_path):
    fmt = tiny10.known(tiny10.binary, b"PK" * 50)
    (tmp_path / tiny10.binary.filename).write_bytes(b"PK" * 60)
    assert "it is not a gzip file" in corrupt(tmp_path, fmt)


def test_every_length_of_the_size_less_table_row(tiny100, tmp_path):
    """CIFAR-100's python archive has no published size; the SHA-256 alone must do."""
    fmt = tiny100.write_tar(tmp_path, tiny100.python)
    fmt = replace(fmt, archives=(fmt.archives[0], replace(fmt.archives[1], size=None)))
    assert_equal(tiny100, load_cifar(tmp_path, fmt))
    path = tmp_path / tiny100.python.filename
    path.write_bytes(path.read_bytes()[:-5])
    assert f"to be SHA-256 {fmt.archives[1].sha256}" in corrupt(tmp_path, fmt)


def members_of(tiny, tar_member):
    return [tar_member(f"{tiny.binary.folder}/{name}", data) for name, data in tiny.binary_files().items()]


def link(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_special_member_is_refused(tiny10, tmp_path, tar_member, kind):
    members = members_of(tiny10, tar_member)
    name = members[2][0].name
    members[2] = link(name, kind, "/etc/hostname")
    text = corrupt(tmp_path, tiny10.write_tar(tmp_path, tiny10.binary, members))
    assert name in text
    assert "a link or a special file" in text
    assert "Do not trust this archive" in text


def test_second_member_of_a_name_is_refused(tiny10, tmp_path, tar_member):
    members = members_of(tiny10, tar_member)
    members.insert(1, members[0])
    assert "a second member" in corrupt(tmp_path, tiny10.write_tar(tmp_path, tiny10.binary, members))


def test_path_tricks_lead_nowhere(tiny10, tmp_path, tar_member):
    members = members_of(tiny10, tar_member)
    outside = tmp_path / "outside"
    tricks = [
        tar_member("../outside", b"x"),
        tar_member(str(outside), b"x"),
        tar_member(f"{tiny10.binary.folder}/../../outside", b"x"),
        tar_member("test_batch.bin", b"x"),
        link("elsewhere", tarfile.SYMTYPE, "/"),
        tar_member("elsewhere/outside", b"x"),
    ]
    fmt = tiny10.write_tar(tmp_path, tiny10.binary, tricks + members)
    assert_equal(tiny10, load_cifar(tmp_path, fmt))
    assert [path.name for path in tmp_path.iterdir()] == [tiny10.binary.filename]
    renamed = [tar_member(info.name.replace("/", "/./"), data) for info, data in members]
    fmt = tiny10.write_tar(tmp_path, tiny10.binary, renamed)
    assert "got an archive without" in corrupt(tmp_path, fmt)


def test_member_missing_or_of_another_size(tiny10, tmp_path, tar_member):
    members = members_of(tiny10, tar_member)
    text = corrupt(tmp_path, tiny10.write_tar(tmp_path, tiny10.binary, members[:3]))
    assert "cifar-10-batches-bin/data_batch_4.bin" in text
    assert "cifar-10-batches-bin/test_batch.bin" in text
    for change in (lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""):
        info, data = members[1]
        changed = [members[0], tar_member(info.name, change(data)), *members[2:]]
        text = corrupt(tmp_path, tiny10.write_tar(tmp_path, tiny10.binary, changed))
        assert f"to have {len(data)} bytes; got {len(change(data))} bytes" in text


def test_gzip_of_something_else(tiny10, tmp_path):
    for inside in (b"", b"not a tar" * 200, bytes(range(256)) * 8):
        content = gzip.compress(inside)
        (tmp_path / tiny10.binary.filename).write_bytes(content)
        assert "fetch it again" in corrupt(tmp_path, tiny10.known(tiny10.binary, content))


def test_member_whose_size_lies(tiny10, tmp_path):
    """A header that promises more than the archive holds."""
    info = tarfile.TarInfo(f"{tiny10.binary.folder}/data_batch_1.bin")
    info.size = 6 * 3073
    stream = io.BytesIO()
    stream.write(info.tobuf() + b"short")
    content = gzip.compress(stream.getvalue())
    (tmp_path / tiny10.binary.filename).write_bytes(content)
    assert "expected" in corrupt(tmp_path, tiny10.known(tiny10.binary, content))


@pytest.mark.parametrize("which", [0, 1], ids=["binary", "python"])
def test_incomplete_folder(tiny, tmp_path, which):
    folder = tiny.write_folder(tmp_path, tiny.fmt.archives[which])
    name = tiny.fmt.archives[which].test[0]
    (folder / name).unlink()
    text = corrupt(tmp_path, tiny.fmt)
    assert f"got no {name}" in text
    assert "unpack the archive again" in text


@pytest.mark.parametrize("delta", [-3073, -1, 1, 3073])
def test_folder_file_of_another_size(tiny10, tmp_path, delta):
    folder = tiny10.write_folder(tmp_path, tiny10.binary)
    path = folder / "data_batch_3.bin"
    content = path.read_bytes()
    path.write_bytes(content[:delta] if delta < 0 else content + bytes(delta))
    text = corrupt(tmp_path, tiny10.fmt)
    assert f"{path} to have {len(content)} bytes; got {len(content) + delta} bytes" in text


def test_python_file_of_absurd_size(tiny10, tmp_path):
    folder = tiny10.write_folder(tmp_path, tiny10.python)
    with (folder / "data_batch_1").open("r+b") as file:
        file.truncate(1 << 34)  # sparse; must be refused unread
    assert f"got {1 << 34} bytes" in corrupt(tmp_path, tiny10.fmt)


@pytest.mark.parametrize("which", [0, 1], ids=["binary", "python"])
def test_label_out_of_range(tiny, tmp_path, which):
    tiny.parts[0][1][2] = len(tiny.fmt.class_names)
    tiny.write_folder(tmp_path, tiny.fmt.archives[which])
    text = corrupt(tmp_path, tiny.fmt)
    assert f"expected labels in [0, {len(tiny.fmt.class_names)})" in text
    assert f"got {len(tiny.fmt.class_names)} in record 2" in text


def test_superclass_out_of_range(tiny100, tmp_path):
    tiny100.parts[1][2][3] = 20
    tiny100.write_folder(tmp_path, tiny100.binary)
    assert "cifar100 superclass: expected labels in [0, 20)" in corrupt(tmp_path, tiny100.fmt)


def test_python_batches_with_other_contents(tiny10, tmp_path, python2_pickle):
    files = tiny10.python_files()
    folder = tiny10.write_folder(tmp_path, tiny10.python, files)
    data = tiny10.parts[0][0].reshape(6, -1)
    for batch, message in [
        ({"labels": [0] * 6, "data": data.reshape(12, -1)}, r"'data' of shape (6, 3072)"),
        ({"labels": [0] * 6, "date": data}, "got NoneType"),
        ({"labels": [0] * 5, "data": data}, "got 5 items"),
        ({"labels": ["0"] * 6, "data": data}, "to list 6 integers"),
        ({"labels": [0, 1, 65_535, 0, 0, 0], "data": data}, "got 65535 in record 2"),
        ({"labels": [0, 1, (1 << 31) - 1, 0, 0, 0], "data": data}, f"got {(1 << 31) - 1} in record 2"),
        ({"labels": [0, 1, -1, 0, 0, 0], "data": data}, "got -1 in record 2"),
        ({"labels": [0, 1, 1 << 31, 0, 0, 0], "data": data}, r"opcode b'\x8a'"),  # a long: no such file has any
        ({"labels": [0, 1, 1 << 1000, 0, 0, 0], "data": data}, r"opcode b'\x8a'"),
        ({"fine_labels": [0] * 6, "data": data}, "got NoneType"),
        ({"labels": "000000", "data": data}, "got bytes"),
    ]:
        (folder / "data_batch_1").write_bytes(python2_pickle(batch))
        assert message in corrupt(tmp_path, tiny10.fmt)


def test_write_then_read(tmp_path):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, 7)
    write_cifar_binary(tmp_path / "x.bin", images[:, ::-1, :, ::-1], labels)
    got, got_labels = read_cifar_binary((tmp_path / "x.bin").read_bytes(), CIFAR10, 7, "x.bin")
    np.testing.assert_array_equal(got, images[:, ::-1, :, ::-1])
    np.testing.assert_array_equal(got_labels, labels)
    with pytest.raises(DatasetCorrupt, match=r"expected x\.bin to hold 8 records of 3073 bytes"):
        read_cifar_binary((tmp_path / "x.bin").read_bytes(), CIFAR10, 8, "x.bin")


def test_record_layout_byte_for_byte(tmp_path):
    """One label byte, then the red plane, the green plane and the blue plane row by row."""
    image = np.zeros((1, 3, 32, 32), dtype=np.uint8)
    image[0, 0, 0, 1], image[0, 1, 2, 0], image[0, 2, 31, 31] = 11, 22, 33
    write_cifar_binary(tmp_path / "x.bin", image, np.array([7]))
    content = (tmp_path / "x.bin").read_bytes()
    assert {i: b for i, b in enumerate(content) if b} == {0: 7, 2: 11, 1 + 1024 + 64: 22, 3072: 33}


def test_write_refuses(tmp_path):
    images = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    for bad_images, bad_labels in [
        (images.astype(np.float32), np.zeros(2, int)),
        (images.transpose(0, 2, 3, 1), np.zeros(2, int)),
        (images, np.zeros(3, int)),
    ]:
        with pytest.raises(ValueError, match=r"write_cifar_binary: expected uint8 images .* channels first"):
            write_cifar_binary(tmp_path / "x.bin", bad_images, bad_labels)
    with pytest.raises(ValueError, match=r"that fit a byte; got 0\.\.256. Renumber"):
        write_cifar_binary(tmp_path / "x.bin", images, np.array([0, 256]))
    assert not list(tmp_path.iterdir())
