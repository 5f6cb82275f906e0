"""Disks that fail at any call of a save, and files damaged at any byte or bit."""

from __future__ import annotations

import errno
import hashlib
import inspect
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from swinpy.io import atomic, safetensors_file
from swinpy.io.safetensors_file import encode_tensors
from swinpy.train import manifest, plain_json, snapshot, staging
from swinpy.train.manifest import FileRecord, Manifest
from swinpy.train.plain_json import encode_plain
from swinpy.train.snapshot import SnapshotError, SnapshotStore, SnapshotWriteError, load_snapshot, verify

if TYPE_CHECKING:
    from collections.abc import Callable

WRITING = {"mkdir", "open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "close"}
READING = {"open_read", "read", "close_read"}


class Quick(atomic.FileSystem):
    """Does not wait for the disk: which calls fail is the matter here, not what a power cut leaves."""

    def fsync(self, fd: int) -> None:
        os.fstat(fd)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_fs", Quick())


class Disk(Quick):
    """Counts the calls of some kinds and makes the `first`-th fail; with `lasting`, every later one as well."""

    def __init__(self, kinds: set[str], first: int = 0, number: int = errno.EIO, lasting: bool = False) -> None:
        self.kinds, self.first, self.number, self.lasting = kinds, first, number, lasting
        self.calls: list[tuple[str, Any]] = []
        self.failed = 0

    def _may_fail(self, kind: str, what: Any) -> bool:
        if kind not in self.kinds:
            return False
        self.calls.append((kind, what))
        now = len(self.calls)
        return now == self.first or (self.lasting and 0 < self.first < now)

    def _fail(self) -> None:
        self.failed += 1
        raise OSError(self.number, os.strerror(self.number))

    def write(self, fd: int, data: memoryview) -> int:
        if self._may_fail("write", fd):
            os.write(fd, data[: len(data) // 2])  # a full disk takes what still fits
            self._fail()
        return super().write(fd, data)

    def close(self, fd: int) -> None:
        super().close(fd)  # the descriptor is gone even where close reports an error
        if self._may_fail("close", fd):
            self._fail()

    def close_read(self, fd: int) -> None:
        super().close_read(fd)
        if self._may_fail("close_read", fd):
            self._fail()


def _guard(kind: str) -> Callable[..., Any]:
    def call(self: Disk, *args: Any) -> Any:
        if self._may_fail(kind, args):
            self._fail()
        return getattr(Quick, kind)(self, *args)

    return call


for _kind in (WRITING | READING) - {"write", "close", "close_read"}:
    setattr(Disk, _kind, _guard(_kind))


def groups(step: int) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    return {"model": {"w": np.arange(5.0) * step}, "optim": {"m": np.full(3, step, np.float32)}}


def save(store: SnapshotStore, step: int, generation: int = 0) -> Path:
    return store.save(step, groups(step), {"step": step, "generation": generation})


def assert_good(path: Path | None, step: int) -> int:
    assert path is not None
    found = load_snapshot(path)
    assert found.step == found.state["step"] == step
    for group, tensors in groups(step).items():
        for name, array in tensors.items():
            assert found.groups[group][name].tobytes() == array.tobytes()
    return int(found.state["generation"])


def prepared(root: Path) -> SnapshotStore:
    store = SnapshotStore(root, keep=2)
    save(store, 1)
    save(store, 2)
    return store


def count_calls(root: Path, step: int, kinds: set[str], monkeypatch: pytest.MonkeyPatch) -> int:
    store = prepared(root)
    disk = Disk(kinds)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_fs", disk)
        save(store, step, 1)
    return len(disk.calls)


# Step 3 makes retention delete step 1; step 2 replaces the newest one.
@pytest.mark.parametrize("step", [3, 2])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_every_call_of_a_save_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, lasting: bool, number: int
) -> None:
    total = count_calls(tmp_path / "count", step, WRITING, monkeypatch)
    assert total > 30
    descriptors = len(os.listdir("/proc/self/fd"))
    for first in range(1, total + 1):
        store = prepared(tmp_path / "run")
        disk = Disk(WRITING, first, number, lasting)
        with monkeypatch.context() as patch, pytest.raises(SnapshotWriteError) as caught:
            patch.setattr(atomic, "_fs", disk)
            save(store, step, 1)
        assert disk.failed
        check_after_fault(store, step, caught.value, number)
        shutil.rmtree(tmp_path / "run")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def check_after_fault(store: SnapshotStore, step: int, error: SnapshotWriteError, number: int) -> None:
    # The error says what failed, what was the last good snapshot, and whether the new one counts.
    previous = error.previous
    assert error.errno == number
    assert os.strerror(number) in str(error)
    assert "Nothing is lost" in str(error)
    assert f"the previous good snapshot is {previous}" in str(error)
    if error.committed is not None:
        assert assert_good(error.committed, step) == 1
    # The one before is bit-equal, unless the new one has taken its place whole.
    generation = assert_good(previous, 2)
    assert generation == 0 or (step == 2 and generation == 1)
    # No folder under a final name is half written, and no damage is reported.
    for path in store.folder.glob("step-*"):
        verify(path)
    newest, notes = store.newest()
    assert notes == []
    assert newest is not None
    found = load_snapshot(newest).step
    assert assert_good(newest, found) == (1 if found == 3 else generation)
    # Once the disk works again, so does everything, and nothing stays behind.
    store.sweep()
    assert_good(store.folder / f"step-{found:08d}", found)
    save(store, 4, 2)
    assert assert_good(store.newest()[0], 4) == 2
    assert not [name for name in os.listdir(store.folder) if name.startswith(".")]


@pytest.mark.parametrize("step", [3, 2])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_every_read_of_a_save_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, lasting: bool
) -> None:
    """An unreadable old manifest need not stop a save; a new file that cannot be read back must."""
    total = count_calls(tmp_path / "count", step, READING, monkeypatch)
    errors = 0
    for first in range(1, total + 1):
        store = prepared(tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "_fs", Disk(READING, first, errno.EIO, lasting))
            try:
                save(store, step, 1)
            except SnapshotWriteError as error:
                errors += 1
                assert "Nothing is lost" in str(error)
                newest = store.folder / "step-00000002" if error.committed is None else error.committed
            else:
                newest = store.folder / f"step-{step:08d}"
        assert assert_good(store.newest()[0], int(newest.name[5:])) in (0, 1)
        assert store.newest() == (newest, [])
        assert_good(store.folder / "step-00000002", 2)
        shutil.rmtree(tmp_path / "run")
    assert errors >= 12  # the four files, opened, read and closed


def test_every_call_of_the_first_save_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in range(1, 1000):
        store = SnapshotStore(tmp_path / str(first) / "run")
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "_fs", Disk(WRITING, first, errno.ENOSPC))
            try:
                save(store, 1)
            except SnapshotWriteError as error:
                assert error.previous is None
                assert "Nothing is lost" in str(error)
                assert str(error).endswith("no earlier snapshot was found. Free some disk space, then save again.")
            else:
                break
        save(store, 1)
        assert_good(store.newest()[0], 1)
    assert first > 30


def test_read_only_folder_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the seam, because permissions do not bind root."""
    monkeypatch.setattr(atomic, "_fs", Disk({"mkdir", "open"}, 1, errno.EROFS, lasting=True))
    with pytest.raises(SnapshotWriteError, match="Read-only file system.*another file system"):
        save(SnapshotStore(tmp_path / "run"), 1)


def test_what_was_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rotten(atomic.FileSystem):
        def write(self, fd: int, data: memoryview) -> int:
            return os.write(fd, bytes(len(data)))

    store = prepared(tmp_path)
    monkeypatch.setattr(atomic, "_fs", Rotten())
    with pytest.raises(SnapshotWriteError, match="step-00000002") as caught:
        save(store, 3)
    assert caught.value.errno == errno.EIO
    assert_good(store.newest()[0], 2)
    assert sorted(os.listdir(store.folder)) == ["latest", "step-00000001", "step-00000002"]


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(atomic.FileSystem):
        def fsync(self, fd: int) -> None:
            raise KeyboardInterrupt

    store = prepared(tmp_path)
    monkeypatch.setattr(atomic, "_fs", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        save(store, 3)
    assert sorted(os.listdir(store.folder)) == ["latest", "step-00000001", "step-00000002"]


def test_order_of_calls_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and the folder are synced before the rename, the folder above after it, and only then is deleted."""
    store = prepared(tmp_path)
    opened: dict[int, str] = {}
    log: list[str] = []

    def plain(path: Path) -> str:
        return ".tmp" if path.name.startswith(".tmp-") else path.name

    class Logging(Quick):
        def open(self, path: Path, flags: int) -> int:
            fd = super().open(path, flags)
            opened[fd] = plain(path)
            return fd

        def fsync(self, fd: int) -> None:
            log.append(f"sync {opened[fd]}")

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            log.append(f"rename {plain(source)} {plain(target)}")

        def replace(self, source: Path, target: Path) -> None:
            super().replace(source, target)
            log.append(f"replace {plain(source)} {plain(target)}")

        def unlink(self, path: Path) -> None:
            super().unlink(path)
            log.append("unlink")

    monkeypatch.setattr(atomic, "_fs", Logging())
    save(store, 3)
    assert log == [
        "sync state.json",
        "sync model.safetensors",
        "sync optim.safetensors",
        "sync MANIFEST.json",
        "sync .tmp",
        "rename .tmp step-00000003",
        "sync snapshots",
        "sync .tmp",
        "replace .tmp latest",
        "sync snapshots",
        "rename step-00000001 .tmp",
        "sync snapshots",
        *["unlink"] * 4,
    ]


# Damage


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return SnapshotStore(tmp_path).save(7, {"model": {"w": np.ones(2, "f2")}, "optim": {"t": np.array(3, "u1")}}, {"a": 1})


def assert_refused(path: Path) -> None:
    for action in (verify, load_snapshot):
        try:
            action(path)
        except SnapshotError as error:
            assert str(error).startswith(f"load snapshot {path}: expected ")
        else:
            pytest.fail(f"{action.__name__} took damage for good")


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
    [b"", b"[]", b"null", b"1", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 70 + b"1" + b"}" * 70, b" " * (1 << 20) + b"{}"],
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
    with pytest.raises(SnapshotError, match=r"model\.safetensors; got SafetensorError"):
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
    for module in (atomic, safetensors_file, snapshot, staging, manifest, plain_json):
        assert "pickle" not in vars(module)
        assert "import pickle" not in inspect.getsource(module)
