"""Which files of a folder are a class's images, and what is said of the others."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.image_files import picture

from swinpy.data import DatasetCorrupt, DatasetMissing, FolderOptions, ImageDataset, load_folder
from swinpy.data.folder.walk import IMAGE_SUFFIXES

OPTIONS = FolderOptions(size=(8, 8), resize=8)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(2):
                picture(i).save(tmp_path / "set" / part / name / f"{i}.png")
    return tmp_path / "set"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Images outside of the set."""
    (tmp_path / "store" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/c.png"):
        picture(7).save(tmp_path / "store" / name)
    return tmp_path / "store"


def _train(folder: Path) -> ImageDataset:
    return load_folder(folder, OPTIONS)[0]


def _names(data: ImageDataset, folder: Path) -> list[str]:
    paths: Any = data.images
    return [p.relative_to(folder / "train").as_posix() for p in paths.paths]


def _note(data: ImageDataset, folder: Path) -> str:
    (note,) = data.notes
    start = f"left out of {folder / 'train'}: "
    assert note.startswith(start)
    return note.removeprefix(start)


def test_nothing_is_said_where_nothing_is_left_out(folder: Path) -> None:
    assert _train(folder).notes == ()


# ---- links


def test_links_to_directories_and_files_are_followed(folder: Path, store: Path) -> None:
    (folder / "train" / "cat" / "session").symlink_to(store)
    (folder / "train" / "cat" / "again").symlink_to(store / "deep")
    (folder / "train" / "dog" / "one.png").symlink_to(store / "a.png")
    for part in ("train", "val"):
        (folder / part / "elk").symlink_to(store)
    data = _train(folder)
    assert data.class_names == ("cat", "dog", "elk")
    assert _names(data, folder) == [
        *("cat/0.png", "cat/1.png", "cat/again/c.png", "cat/session/a.png", "cat/session/b.png"),
        *(
            "cat/session/deep/c.png",
            "dog/0.png",
            "dog/1.png",
            "dog/one.png",
            "elk/a.png",
            "elk/b.png",
            "elk/deep/c.png",
        ),
    ]
    assert data.notes == ()


@pytest.mark.parametrize("target", ["train/cat", "train", ".", "..", "train/cat/deep"])
def test_a_link_to_a_directory_that_holds_it_is_not_followed(target: str, folder: Path) -> None:
    """Each image once, and none of another class or of the other part."""
    (folder / "train" / "cat" / "deep").mkdir()
    picture(3).save(folder / "train" / "cat" / "deep" / "2.png")
    (folder / "train" / "cat" / "deep" / "loop").symlink_to(folder / target)
    data = _train(folder)
    assert _names(data, folder) == ["cat/0.png", "cat/1.png", "cat/deep/2.png", "dog/0.png", "dog/1.png"]
    assert _note(data, folder) == "1 links to a directory that holds them"


def test_links_of_two_directories_to_each_other(folder: Path, store: Path) -> None:
    (store / "deep" / "back").symlink_to(folder / "train" / "cat" / "other")
    (folder / "train" / "cat" / "other").mkdir()
    (folder / "train" / "cat" / "other" / "there").symlink_to(store)
    data = _train(folder)
    assert _names(data, folder)[2:5] == [f"cat/other/there/{n}" for n in ("a.png", "b.png", "deep/c.png")]
    assert _note(data, folder) == "1 links to a directory that holds them"


def test_broken_links_are_counted(folder: Path) -> None:
    (folder / "train" / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "train" / "cat" / "gone").symlink_to(folder / "nowhere")
    (folder / "train" / "self").symlink_to("self")
    assert _note(_train(folder), folder) == "3 broken links"


# ---- names


def test_hidden_files_and_directories_are_left_out(folder: Path) -> None:
    (folder / "train" / "cat" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / ".git").mkdir()
    for name in ("cat/.ipynb_checkpoints/0.png", "cat/._0.png", ".git/x.png"):
        picture(1).save(folder / "train" / name)
    data = _train(folder)
    assert len(data) == 4
    assert data.class_names == ("cat", "dog")
    assert _note(data, folder) == "3 hidden (a name with a dot in front)"


def test_other_extensions_are_counted(folder: Path) -> None:
    for i, suffix in enumerate(("gif", "jpe", "jfif", "JFIF", "gif", "GIF")):
        form = {"g": "GIF", "j": "JPEG"}[suffix[0].lower()]
        Image.new("RGB", (9, 9)).save(folder / "train" / "cat" / f"x{i}.{suffix}", format=form)
    (folder / "train" / "dog" / "README").write_text("about dogs")
    picture(0).save(folder / "train" / "beside.png")
    data = _train(folder)
    assert len(data) == 4
    assert _note(data, folder) == (
        f"3 .gif, 2 .jfif, 1 .jpe, 1 without an extension (images are {', '.join(IMAGE_SUFFIXES)}); "
        "1 files beside the classes' directories"
    )


def test_extensions_are_torchvisions_in_either_case(folder: Path) -> None:
    """torchvision 0.28's IMG_EXTENSIONS: a set has the same images there and here."""
    assert IMAGE_SUFFIXES == (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
    for i, suffix in enumerate(IMAGE_SUFFIXES):
        for j, name in enumerate((suffix, suffix.upper(), suffix.title())):
            picture(i, (9, 9)).save(folder / "train" / "cat" / f"y{i}{j}{name}", format="PNG")
    data = _train(folder)
    assert (data.labels == 0).sum() == 2 + 3 * len(IMAGE_SUFFIXES)
    assert data.notes == ()


def test_names_that_are_no_text(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    picture(0).save(folder / "train" / "cat" / name)
    (folder / "train" / "dog" / os.fsdecode(b"\xff.gif")).write_bytes(b"GIF89a")
    data = _train(folder)
    assert f"cat/{name}" in _names(data, folder)
    assert len(data.identity) == 64
    assert data.subset(3).identity != data.identity
    assert _note(data, folder).startswith("1 .gif (images are")


# ---- what is neither file nor directory, or cannot be read


def test_pipes_and_sockets_are_counted_and_not_waited_for(folder: Path, monkeypatch: Any) -> None:
    os.mkfifo(folder / "train" / "cat" / "pipe.png")
    monkeypatch.chdir(folder / "train" / "cat")  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket.png")
        data = _train(folder)
    assert len(data) == 4
    assert _note(data, folder) == "2 that are neither files nor directories"


@pytest.mark.parametrize("place", ["train", "train/cat", "train/cat/deep"])
def test_a_directory_that_cannot_be_read_is_an_error(place: str, folder: Path, monkeypatch: Any) -> None:
    """By a patch: to a superuser every directory is open."""
    (folder / "train" / "cat" / "deep").mkdir()
    right = os.listdir

    def listdir(path: Any) -> list[str]:
        if Path(path) == folder / place:
            raise PermissionError(13, "Permission denied", str(path))
        return right(path)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(DatasetCorrupt, match=rf"got {folder / place}: Permission denied. Allow it to be read"):
        _train(folder)


def test_a_class_that_loses_all_its_files_says_why(folder: Path) -> None:
    for i in range(2):
        (folder / "train" / "cat" / f"{i}.png").rename(folder / "train" / "cat" / f"{i}.gif")
    with pytest.raises(DatasetMissing, match=r"got none in cat \(left out of .*train: 2 \.gif \(images are"):
        _train(folder)
