"""Files of a snapshot damaged at any byte or bit, and folders made by someone who means harm."""

from __future__ import annotations

import hashlib
import inspect
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from swinpy.io import atomic
from swinpy.io.safetensors import read as tensors_read
from swinpy.io.safetensors import write as tensors_write
from swinpy.io.safetensors.write import encode_tensors
from swinpy.snapshots import manifest, plain_json, staging
from swinpy.snapshots import store as snapshot
from swinpy.snapshots.manifest import FileRecord, Manifest
from swinpy.snapshots.plain_json import encode_plain
from swinpy.snapshots.store import SnapshotError, SnapshotStore, load_snapshot, verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return SnapshotStore(tmp_path).save(
        7, {"model": {"w": np.ones(2, "f2")}, "optim": {"t": np.array(3, "u1")}}, {"a": 1}
    )


def assert_refused(path: Path) -> None:
    for action in (verify, load_snapshot):
        with pytest.raises(SnapshotError) as caught:
            action(path)
        assert str(caught.value).startswith(f"load snapshot {path}: expected ")


def test_cut_at_every_byte(small: Path) -> None:
    count = 0
    for file in sorted(small.iterdir()):
        whole = file.read_bytes()
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            assert_refused(small)
            count += 1
        file.write_bytes(whole + b"\n")
        assert_refused(small)
        file.unlink()
        assert_refused(small)
        file.write_bytes(whole)
    verify(small)
    assert count > 700


def test_flip_of_every_bit(small: Path) -> None:
    count = 0
    for file in sorted(small.iterdir()):
        whole = file.read_bytes()
        with file.open("r+b", buffering=0) as target:
            for position, byte in enumerate(whole):
                for bit in range(8):
                    os.pwrite(target.fileno(), bytes([byte ^ (1 << bit)]), position)
                    assert_refused(small)
                    count += 1
                os.pwrite(target.fileno(), bytes([byte]), position)
    verify(small)
    assert count == 8 * sum(file.stat().st_size for file in small.iterdir()) > 5000


def test_swapped_files(small: Path) -> None:
    model, optim = (small / f"{name}.safetensors" for name in ("model", "optim"))
    texts = model.read_bytes(), optim.read_bytes()
    model.write_bytes(texts[1])
    optim.write_bytes(texts[0])
    assert_refused(small)


def test_renamed_folder(small: Path) -> None:
    small.rename(small.with_name("step-00000008"))
    assert_refused(small.with_name("step-00000008"))


# Hostile folders: the manifest is made to match, so only its meaning can be wrong


def seal(body: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(encode_plain(body, "test")).hexdigest()
    return encode_plain({**body, "sha256": digest}, "test")


def body_of(files: Any, **changes: Any) -> dict[str, Any]:
    body = {"files": files, "format": "swinpy-snapshot", "order": 1, "pinned": False, "step": 7, "version": 1}
    return {key: value for key, value in {**body, **changes}.items() if value is not ...}


def record(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


STATE = record(b"{}\n")
SECRET = record(b"secret")
NAMES = [
    "../secret",
    "../secret.safetensors",
    "/etc/passwd",
    "/etc/x.safetensors",
    "a/b.safetensors",
    "..",
    ".",
    "",
    ".safetensors",
    "..safetensors",
    "Model.safetensors",
    "model.safetensors\0",
    "model.safetensors\n",
    "model\\..\\x.safetensors",
    "MANIFEST.json",
    "model.pkl",
    "x" * 300 + ".safetensors",
]


def test_the_sealed_form_is_accepted(small: Path) -> None:
    (small / "state.json").write_bytes(b"{}\n")
    data = seal(body_of({"state.json": STATE}))
    (small / "MANIFEST.json").write_bytes(data)
    assert load_snapshot(small).state == {}
    assert data == Manifest(7, 1, False, {"state.json": FileRecord(STATE["size"], STATE["sha256"])}).encode()


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names(small: Path, name: str) -> None:
    (small / "state.json").write_bytes(b"{}\n")
    for secret in ("secret", "secret.safetensors"):
        (small.parent / secret).write_bytes(b"secret")
    (small / "MANIFEST.json").write_bytes(seal(body_of({"state.json": STATE, name: SECRET})))
    assert_refused(small)


@pytest.mark.parametrize(
    "body",
    [
        body_of({}),
        body_of([]),
        body_of(None),
        body_of({"state.json": None}),
        body_of({"state.json": {}}),
        body_of({"state.json": {**STATE, "more": 1}}),
        body_of({"state.json": {**STATE, "size": -1}}),
        body_of({"state.json": {**STATE, "size": 3.0}}),
        body_of({"state.json": {**STATE, "size": True}}),
        body_of({"state.json": {**STATE, "size": 1 << 70}}),
        body_of({"state.json": {**STATE, "sha256": "x"}}),
        body_of({"state.json": {**STATE, "sha256": STATE["sha256"].upper()}}),
        body_of({"state.json": {**STATE, "sha256": None}}),
        *[body_of({"state.json": STATE}, step=step) for step in (..., 8, -7, 7.0, "7", None, True, 1 << 64)],
        *[body_of({"state.json": STATE}, order=order) for order in (..., -1, 1.5, "1", None)],
        *[body_of({"state.json": STATE}, pinned=pinned) for pinned in (..., 0, "no", None)],
        *[body_of({"state.json": STATE}, version=version) for version in (..., 0, 2, 1.0, True, "1")],
        *[body_of({"state.json": STATE}, format=name) for name in (..., "", None, 1)],
        body_of({"state.json": STATE}, extra=1),
    ],
)
def test_hostile_manifests(small: Path, body: dict[str, Any]) -> None:
    (small / "state.json").write_bytes(b"{}\n")
    (small / "MANIFEST.json").write_bytes(seal(body))
    assert_refused(small)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": ' * 70 + b"1" + b"}" * 70,
        b" " * (1 << 20) + b"{}",
    ],
    ids=["empty", "list", "null", "number", "no text", "deep", "nested", "large"],
)
def test_manifests_that_are_none(small: Path, data: bytes) -> None:
    (small / "MANIFEST.json").write_bytes(data)
    assert_refused(small)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[]", "an object in state.json; got list"),
        (b"", "Expecting value"),
        (b"\xff", "codec can't decode"),
        (b'{"a": NaN}', r"finite numbers; got nan at state\['a'\]"),
        (b'{"a": [1e999]}', r"finite numbers; got inf at state\['a'\]\[0\]"),
        (b'{"a": -Infinity}', "finite numbers; got -inf"),
        (b'{"a": 1, "a": 2}', "the same key twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "limit"),
        (b'{"a": ' + b"9" * 2000 + b"}", "4096 bits"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": ' * 70 + b"1" + b"}" * 70, "at most 64 containers"),
        (b'{"a": "\\ud800"}', "UTF-8"),
    ],
)
def test_hostile_states(small: Path, data: bytes, said: str) -> None:
    (small / "state.json").write_bytes(data)
    (small / "MANIFEST.json").write_bytes(seal(body_of({"state.json": record(data)})))
    with pytest.raises(SnapshotError, match=said):
        load_snapshot(small)
    store = SnapshotStore(small.parent.parent)
    with pytest.raises(SnapshotError, match="step-00000007 skipped"):
        store.load("latest")


def test_hostile_tensors(small: Path) -> None:
    data = encode_tensors({"w": np.ones(2)})[:-1]
    (small / "state.json").write_bytes(b"{}\n")
    (small / "model.safetensors").write_bytes(data)
    (small / "MANIFEST.json").write_bytes(seal(body_of({"state.json": STATE, "model.safetensors": record(data)})))
    with pytest.raises(SnapshotError, match=r"model\.safetensors; got 0 to 16 \(truncated"):
        load_snapshot(small)


@pytest.mark.parametrize("name", ["state.json", "MANIFEST.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "device"])
def test_no_regular_file(small: Path, name: str, kind: str) -> None:
    file = small / name
    moved = small.parent / "moved"
    file.rename(moved)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(moved if kind == "link" else "/dev/zero")
    assert_refused(small)


def test_no_pickle() -> None:
    for module in (atomic, tensors_read, tensors_write, snapshot, staging, manifest, plain_json):
        assert "pickle" not in vars(module)
        assert "import pickle" not in inspect.getsource(module)
