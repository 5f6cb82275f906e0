"""A run outlives its terminal: whatever becomes of the streams, it goes on or ends as promised, and is saved."""

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swinpy import console
from swinpy.snapshots.store import SnapshotStore
from swinpy.train import main as program
from swinpy.train.evaluate import evaluate
from swinpy.train.main import main
from swinpy.train.runlog import RunLog
from swinpy.train.signals import EXIT_CODES, StopRequest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and signals of POSIX")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_cifar.py"
SMALL = shlex.split(
    "--dataset digits --train-subset 16 --val-subset 8 -b 4 --epochs 2 --warmup-epochs 0 --patch-size 4 --embed-dim 12 "
    "--depths 1 --num-heads 2 --no-plots --experiment run --log-interval 1 --workers 0"
)


@pytest.fixture(autouse=True)
def a_terminal_that_may_hang_up():
    """Whoever started the tests by nohup has them ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _no_reader():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _full_disk():
    return os.open("/dev/full", os.O_WRONLY)


def _stalled(reading, writing):
    """Fill a pipe to the brim: its reader does not read."""
    os.set_blocking(writing, False)
    for size in (1 << 16, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * size)
    os.set_blocking(writing, True)


@pytest.fixture
def streams():
    """A function that makes a stream nobody reads, of one of the kinds below; and one of a stalled pipe."""
    with contextlib.ExitStack() as stack:

        def make(kind):
            if kind == "none":
                return None
            if kind == "closed":
                stream = io.StringIO()
                stream.close()
                return stream
            if kind == "stalled":
                reading, writing = os.pipe()
                _stalled(reading, writing)
            else:
                writing = {"no reader": _no_reader, "full disk": _full_disk}[kind]()
            stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(writing, "w")), encoding="utf-8")
            if kind == "stalled":
                stream.reading = reading
                stack.callback(os.close, reading)
            stack.callback(stream.close)
            return stream

        yield make


KINDS = ["no reader", "closed", "none", *(["full disk"] if os.path.exists("/dev/full") else [])]


def _at_step(monkeypatch, step, action):
    """Do something once a run has logged a step."""
    log = RunLog.step

    def logged(self, record):
        log(self, record)
        if record.step == step:
            action()

    monkeypatch.setattr(RunLog, "step", logged)


def _saved(folder):
    newest, notes = SnapshotStore(folder / "run").newest()
    assert not notes
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in records if r["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert newest.name == f"step-{len(steps):08d}"
    return len(steps)


@pytest.mark.parametrize(
    ("kind", "which"),
    [*((kind, ("stdout", "stderr")) for kind in KINDS), ("no reader", ("stdout",)), ("no reader", ("stderr",))],
)
def test_a_run_goes_on_to_its_end(kind, which, streams, tmp_path, monkeypatch):
    for name in which:
        monkeypatch.setattr(sys, name, streams(kind))
    assert main([*SMALL, "--progress", "bar", "--output", str(tmp_path)], prog="x") == 0
    assert _saved(tmp_path) == 8


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        *((kind, "SIGTERM", 143) for kind in KINDS),
        ("no reader", "SIGINT", 130),
        ("no reader", "SIGHUP", 129),
        ("no reader", "SIGUSR1", 0),
    ],
)
def test_a_signal_saves_whatever_the_streams_are(kind, name, code, streams, tmp_path, monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, streams(kind))
    _at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), getattr(signal, name)))
    assert main([*SMALL, "--output", str(tmp_path)], prog="x") == code
    assert _saved(tmp_path) == 2


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
@pytest.mark.parametrize("where", ["options", "data", "--eval", "--check", "--throughput"])
def test_where_nothing_is_to_be_saved_a_signal_ends_at_once(where, name, tmp_path, monkeypatch, capsys):
    before = {kind: signal.getsignal(kind) for kind in EXIT_CODES}
    reached = []

    def hang(*args, **options):
        reached.append(where)
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(60)

    place = {
        "options": (program, "parse_options"),
        "data": (program, "build_run"),
        "--eval": (program, "evaluate"),
        "--check": (program.tasks, "check"),
        "--throughput": (program.tasks, "throughput"),
    }[where]
    monkeypatch.setattr(*place, hang)
    options = [where] if where.startswith("--") else []
    start = time.monotonic()
    if where == "--eval":
        with monkeypatch.context() as patch:
            patch.setattr(*place, evaluate)
            assert main([*SMALL, "--output", str(tmp_path)], prog="x") == 0
        options.append("--resume")
        capsys.readouterr()
    assert main([*SMALL, *options, "--output", str(tmp_path)], prog="x") == EXIT_CODES[getattr(signal, name)]
    assert reached == [where]
    assert time.monotonic() - start < 50
    assert capsys.readouterr().err.endswith(f"{name}: stopped; there is nothing to save\n")
    assert {kind: signal.getsignal(kind) for kind in EXIT_CODES} == before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_during_an_evaluation_saves_what_was_trained(name, tmp_path, monkeypatch):
    """At the end of the first epoch, after one batch of the evaluation; what resumes makes up for the evaluation."""
    run = [*SMALL, "--output", str(tmp_path)]
    assert main([*run[:-1], str(tmp_path / "whole")], prog="x") == 0
    asked = []

    def signalled(model, loader, over):
        def ask():
            asked.append(over())
            if len(asked) == 2:
                os.kill(os.getpid(), getattr(signal, name))
            return over()

        return evaluate(model, loader, over=ask)

    with monkeypatch.context() as patch:
        patch.setattr(program, "evaluate", signalled)
        assert main(run, prog="x") == EXIT_CODES[getattr(signal, name)]
    assert len(asked) == 2
    assert _saved(tmp_path) == 4
    assert main([*run, "--resume", "auto"], prog="x") == 0
    logs = [(folder / "run" / "metrics.jsonl").read_text().splitlines() for folder in (tmp_path, tmp_path / "whole")]
    what = ("kind", "step", "loss", "grad_norm", "eval_loss", "eval_top1", "train_loss", "partial")
    got, want = ([[json.loads(line).get(name) for name in what] for line in log] for log in logs)
    assert got == want


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_is_ignored_from_the_start_stays_so(number):
    """As in a shell's background, or under nohup."""
    kind = getattr(signal, number)
    before = signal.signal(kind, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), kind)
            assert stop.code is None
    finally:
        signal.signal(kind, before)


def test_a_signal_during_a_write_that_nobody_takes(streams, tmp_path, monkeypatch):
    """A reader that has stopped holds the run up in the middle of a line; a signal frees it, and it is saved."""
    monkeypatch.setattr(console, "_PATIENCE", 0.5)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))

    def stop_reading():
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(getattr(sys, name), "_stream", streams("stalled"))
        timer.start()

    _at_step(monkeypatch, 2, stop_reading)
    assert main([*SMALL, "--output", str(tmp_path)], prog="x") == 143
    timer.join()
    assert _saved(tmp_path) == 2


def test_a_reader_that_reads_on_gets_every_line(streams, monkeypatch):
    """A run waits for a slow reader, as long as nobody asks it to end."""
    stream = streams("stalled")
    monkeypatch.setattr(sys, "stdout", stream)
    lines = [f"line {i} " + "x" * (i % 7000) for i in range(0, 40000, 977)]
    got = []

    def read():
        time.sleep(0.7)
        while piece := os.read(stream.reading, 1 << 12):
            got.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with console.steady():
        for line in lines:
            console.say(line)
    os.dup2(2, stream.fileno())  # the last end that writes to the pipe
    reader.join()
    assert b"".join(got).lstrip(b"x").decode().splitlines() == lines


@pytest.mark.parametrize("stderr", ["pipe", "closed"])
def test_nothing_is_said_at_the_exit_either(stderr, tmp_path):
    """``| head -1``: the interpreter ends with the run's code, not with 120 for a stream it could not flush."""
    command = [sys.executable, str(SCRIPT), *SMALL, "--output", str(tmp_path)]
    if stderr == "closed":
        command = ["sh", "-c", f"{shlex.join(command)} 2>&-"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.readline()
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait(120) == 0
    assert errors == ("" if stderr == "closed" else "note: standard output was closed; going on without it\n")
    assert _saved(tmp_path) == 8


def test_closed_descriptors_are_not_given_to_files(tmp_path):
    """With ``>&- 2>&-`` the first file opened would be standard output, and get what C code prints."""
    code = (
        "import os, sys\nfrom swinpy.console import steady, say, tell\n"
        f"with steady():\n    f = open({str(tmp_path / 'f')!r}, 'w')\n"
        "    say('a')\n    tell('b')\n    os.write(2, b'c')\n"
        "    assert f.fileno() > 2\n"
    )
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join([sys.executable, '-c', code])} <&- >&- 2>&-"], cwd=SCRIPT.parents[1], check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "f").read_bytes() == b""


def test_one_request_of_several_signals_is_one(monkeypatch):
    """As timeout(1) and shells send them; a later SIGINT or SIGTERM ends at once, a later SIGHUP does not."""
    ended = []
    monkeypatch.setattr("swinpy.train.signals.os._exit", ended.append)
    with StopRequest() as stop, stop.saving():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.raise_signal(number)
        assert (stop.code, stop.name, ended) == (143, "SIGTERM", [])
        monkeypatch.setattr("swinpy.train.signals._SAME_REQUEST", 0.0)
        signal.raise_signal(signal.SIGHUP)
        assert ended == []
        signal.raise_signal(signal.SIGINT)
        assert ended == [130]


def test_in_another_thread_no_signal_is_handled(tmp_path):
    codes = []
    run = threading.Thread(target=lambda: codes.append(main([*SMALL, "--output", str(tmp_path)], prog="x")))
    run.start()
    run.join()
    assert codes == [0]


# ---- letters that a stream lacks


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "utf-16"])
def test_names_print_escaped_where_they_cannot_print(encoding, tmp_path, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    name = "猫-ж-ä"
    assert main([*SMALL, "--max-steps", "1", "--output", str(tmp_path / name)], prog="x") == 0
    text = out.buffer.getvalue().decode(encoding)
    shown = name.encode(encoding, "backslashreplace").decode(encoding)
    assert f"output {tmp_path / shown}" in text
    assert (tmp_path / name / "run" / "snapshots").is_dir()


def test_error_messages_too(monkeypatch):
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["--猫\x1b[2J\udcff"], prog="x") == 2
    assert r"unrecognized arguments: --\u732b\x1b[2J\udcff" in err.buffer.getvalue().decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve 猫　x", "naïve 猫　x"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
        ("gpj\u202e.exe", r"gpj\u202e.exe"),
    ],
)
def test_printable(text, shown):
    assert console.printable(text) == shown


def test_the_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    with console.steady():
        assert sys.stdout is not before[0]
        assert sys.stdout.encoding == "utf-8"
        console.say("a\x1b\nb")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "a\\x1b\nb\n"
