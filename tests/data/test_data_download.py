"""Fetching, from a server on the loopback interface that misbehaves on request."""

from __future__ import annotations

import hashlib
import http.server
import io
import socket
import threading

import numpy as np
import pytest
from tqdm import tqdm

from swinpy.data import CIFAR10, DatasetMissing, load_cifar
from swinpy.data.cifar import layouts as cifar_module
from swinpy.data.cifar.archive import Archive
from swinpy.data.cifar.download import fetch

BODY = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8).tobytes()
ARCHIVE = Archive("a.tar.gz", "a", "binary", (), (), len(BODY), hashlib.sha256(BODY).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.body``; ``server.script`` holds what to do with the requests to come."""

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.log.append(wanted)
        action = server.script.pop(0) if server.script else {}
        if "redirect" in action:
            self.send_response(302)
            self.send_header("Location", action["redirect"])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, start, status = action.get("body", server.body), 0, action.get("status", 200)
        if wanted and action.get("ranges", True) and status == 200:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(body) else 416
        self.send_response(status)
        piece = body[start:] if status in (200, 206) else b"no"
        if status == 206:
            self.send_header("Content-Range", f"bytes {start + action.get('shift', 0)}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        self.wfile.write(piece[: action.get("cut")])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.body, running.script, running.log = BODY, [], []
        running.url = f"http://127.0.0.1:{running.server_port}/a.tar.gz"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server, target, **options):
    return fetch([server.url], target, ARCHIVE, "test", timeout=5, schemes=("http",), **options)


def test_plain(server, tmp_path, capfd):
    target = tmp_path / "new" / "folder" / "a.tar.gz"
    assert get(server, target) == target
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["a.tar.gz"]
    assert server.log == [None]
    assert capfd.readouterr().err == ""  # no bar where stderr is no terminal


def test_the_bar_goes_on_to_the_end(server, tmp_path, monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, **options):
            bars.append(self)
            super().__init__(**{**options, "disable": False, "file": io.StringIO()})

    monkeypatch.setattr("tqdm.tqdm", Bar)
    server.script = [{"cut": 30_000}]
    get(server, tmp_path / "a.tar.gz")
    assert [(bar.initial, bar.n, bar.total) for bar in bars] == [(0, 30_000, 100_000), (30_000, 100_000, 100_000)]


def test_interrupted_download_is_resumed(server, tmp_path):
    server.script = [{"cut": 30_000}, {"cut": 20_000}]
    get(server, tmp_path / "a.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.log == [None, "bytes=30000-", "bytes=50000-"]


def test_a_later_call_goes_on_where_the_first_ended(server, tmp_path):
    server.script = [{"cut": 30_000}]
    with pytest.raises(DatasetMissing) as caught:
        get(server, tmp_path / "a.tar.gz", attempts=1)
    assert "the connection ended after 30000 of 100000 bytes" in str(caught.value)
    assert f"kept in {tmp_path / 'a.tar.gz.part'} and will be resumed" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz.part"]
    get(server, tmp_path / "a.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.log == [None, "bytes=30000-"]


@pytest.mark.parametrize("have", [1, 50_000, 99_999, 100_000])
def test_server_that_ignores_ranges(server, tmp_path, have):
    (tmp_path / "a.tar.gz.part").write_bytes(bytes(have))
    server.script = [{"ranges": False}]
    get(server, tmp_path / "a.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.log == [f"bytes={have}-"]


def test_server_that_gives_another_range(server, tmp_path):
    (tmp_path / "a.tar.gz.part").write_bytes(BODY[:10])
    server.script = [{"shift": 7}]
    get(server, tmp_path / "a.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.log == ["bytes=10-", None]


@pytest.mark.parametrize("rubbish", [bytes(10), bytes(100_000), bytes(100_001), b"x" * 200_000])
def test_rubbish_left_behind_is_begun_anew(server, tmp_path, rubbish):
    (tmp_path / "a.tar.gz.part").write_bytes(rubbish)
    get(server, tmp_path / "a.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY
    assert server.log[-1] is None


def test_whole_part_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.tar.gz.part").write_bytes(BODY)
    get(server, tmp_path / "a.tar.gz")
    assert server.log == []


def failure(server, tmp_path, **options):
    with pytest.raises(DatasetMissing) as caught:
        get(server, tmp_path / "a.tar.gz", **options)
    text = str(caught.value)
    assert not (tmp_path / "a.tar.gz").exists()
    assert text.startswith(f"test: expected to fetch a.tar.gz (SHA-256 {ARCHIVE.sha256}); got {server.url}: ")
    assert "set SWINPY_CIFAR_URL to a mirror" in text
    assert f"put the file into {tmp_path} yourself" in text
    return text


def test_html_page(server, tmp_path):
    server.body = b"<!DOCTYPE html><html>Sign in</html>"
    assert "an HTML page instead of the archive" in failure(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_html_page_does_not_cost_what_has_come(server, tmp_path):
    (tmp_path / "a.tar.gz.part").write_bytes(BODY[:500])
    server.script = [{"body": b"<html>Sign in</html>", "ranges": False}]
    failure(server, tmp_path)
    assert (tmp_path / "a.tar.gz.part").read_bytes() == BODY[:500]


def test_other_contents(server, tmp_path):
    server.body = BODY[:-1] + b"!"
    text = failure(server, tmp_path)
    assert hashlib.sha256(server.body).hexdigest() in text
    assert "thrown away" in text
    assert not list(tmp_path.iterdir())


def test_a_body_without_end_is_cut_off(server, tmp_path):
    server.body = BODY * 3
    assert "more than the 100000 bytes expected" in failure(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_empty_answer(server, tmp_path):
    server.body = b""
    assert "an empty answer" in failure(server, tmp_path)


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (503, 3)])
def test_http_errors(server, tmp_path, status, asked):
    server.script = [{"status": status}] * 3
    assert f"HTTP {status}" in failure(server, tmp_path)
    assert len(server.log) == asked


def test_refused_connection(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{free.getsockname()[1]}/a.tar.gz"
        assert "refused" in failure(server, tmp_path)


def test_silent_server(server, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.tar.gz"
        with pytest.raises(DatasetMissing, match="timed out"):
            fetch([url], tmp_path / "a.tar.gz", ARCHIVE, "test", timeout=0.2, attempts=1, schemes=("http",))


def test_second_address_is_used(server, tmp_path):
    broken = server.url.replace("a.tar.gz", "b.tar.gz")
    server.script = [{"status": 404}]
    fetch([broken, server.url], tmp_path / "a.tar.gz", ARCHIVE, "test", timeout=5, schemes=("http",))
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/a", "file:///etc/hostname", "ftp://127.0.0.1/a", "a.tar.gz", "https://[x"]
)
def test_only_https_by_default(tmp_path, url):
    with pytest.raises(DatasetMissing, match=r"only https is fetched|unreadable address"):
        fetch([url], tmp_path / "a.tar.gz", ARCHIVE, "test")


def test_redirect_to_another_scheme_is_not_followed(server, tmp_path):
    server.script = [{"redirect": "ftp://127.0.0.1/a.tar.gz"}]
    assert "scheme 'ftp' (only http is fetched)" in failure(server, tmp_path)


def test_redirect_is_followed(server, tmp_path):
    server.script = [{"redirect": server.url}]
    get(server, tmp_path / "a.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == BODY


def test_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"test: expected to write .*a\.tar\.gz\.part; got .*--data-dir"):
        get(server, tmp_path / "file" / "a.tar.gz")


def test_load_with_download(server, tmp_path, tiny10, monkeypatch):
    """The whole way: nothing on disk, fetched once, read, and not fetched again."""
    (tmp_path / "server").mkdir()
    fmt = tiny10.write_tar(tmp_path / "server", tiny10.binary)
    server.body = (tmp_path / "server" / tiny10.binary.filename).read_bytes()
    asked = []

    def loopback(urls, *arguments):
        asked.append(urls)
        return fetch([server.url], *arguments, schemes=("http",))

    monkeypatch.setattr(cifar_module, "fetch", loopback)
    monkeypatch.setenv("SWINPY_CIFAR_URL", "https://mirror.example/cifar/")
    data_dir = tmp_path / "data"
    for _ in range(2):
        train, _ = load_cifar(data_dir, fmt, download=True)
        np.testing.assert_array_equal(train.images, tiny10.train_images)
    official = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert asked == [["https://mirror.example/cifar/cifar-10-binary.tar.gz", official]]
    assert [path.name for path in data_dir.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_mirror_may_name_the_file(monkeypatch):
    monkeypatch.setenv("SWINPY_CIFAR_URL", "https://mirror.example/x.tar.gz")
    assert cifar_module._urls(CIFAR10.archives[0])[0] == "https://mirror.example/x.tar.gz"
    monkeypatch.delenv("SWINPY_CIFAR_URL")
    assert len(cifar_module._urls(CIFAR10.archives[0])) == 1


def test_nothing_is_fetched_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_module, "fetch", lambda *_: pytest.fail("fetched"))
    with pytest.raises(DatasetMissing):
        load_cifar(tmp_path)
