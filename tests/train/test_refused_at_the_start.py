"""What would end a run later is refused at its start: other writers, names that cannot be stored, wild options."""

import os
import shlex
import threading
import time
import tracemalloc

import numpy as np
import pytest
import tqdm

from swinpy.io import atomic
from swinpy.snapshots.lock import RunInUseError, only_writer
from swinpy.snapshots.store import SnapshotStore
from swinpy.train.main import main
from swinpy.train.options import UsageError, _build_parser, parse_options

SMALL = shlex.split(
    "--dataset digits --train-subset 8 --val-subset 4 -b 4 --epochs 1 --warmup-epochs 0 --patch-size 4 --embed-dim 8 "
    "--depths 1 --num-heads 2 --no-plots --experiment run --workers 0"
)
VALUES = ("-1", "nan", "inf", "1" + "0" * 30, "9" * 5000, "", "x", "1,,2", "0,0", "a\0b", os.fsdecode(b"caf\xe9"))
FLAGS = [next(s for s in a.option_strings if s.startswith("--")) for a in _build_parser("x")._actions if a.nargs != 0]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_option_takes_a_wild_value_or_refuses_it_in_one_short_message(flag):
    messages = []
    for value in VALUES:
        try:
            parse_options([f"{flag}={value}"], "x")
        except UsageError as error:
            messages.append(str(error))
    assert all("\n" not in message and len(message) < 400 for message in messages), messages


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 5000, "values within values, too deep"),
        ("epochs = " + "9" * 5000, "a number of thousands of digits"),
        ("epochs = 0x" + "f" * 9000, "expected"),
        ("a." * 32_000 + "b = 1", "more than 64 dots in line 1"),
        ("epochs = 1\n[" + "a." * 20_000 + "b]", "more than 64 dots in line 2"),
        ("a = {" + "a." * 20_000 + "b = 1}", "more than 64 dots in line 1"),
        ("# words\n" * 20_000, "160000 bytes where at most 65536 are allowed"),
        ("\n".join("a." * 60 + f"b{i} = {i}" for i in range(500)), "expected option names"),
    ],
)
def test_wild_config_files(text, said, tmp_path, capsys):
    (tmp_path / "c.toml").write_text(text)
    tracemalloc.start()
    start = time.thread_time()
    assert main(["-c", str(tmp_path / "c.toml")], prog="x") == 2
    assert time.thread_time() - start < 5
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize("experiment", ["..", ".", "", "a/b", "a\0b", os.fsdecode(b"caf\xe9")])
def test_experiments(experiment, tmp_path, capsys):
    assert main([*SMALL, "--output", str(tmp_path), f"--experiment={experiment}"], prog="x") == 2
    assert "--experiment: expected" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_second_writer_is_refused(tmp_path, capsys):
    with only_writer(tmp_path / "run") as without:
        assert without is None
        assert main([*SMALL, "--output", str(tmp_path)], prog="x") == 2
        assert f"in use by process {os.getpid()} on " in capsys.readouterr().err
        with pytest.raises(RunInUseError), only_writer(tmp_path / "run"):
            pass
    assert main([*SMALL, "--output", str(tmp_path)], prog="x") == 0


def test_where_there_is_no_flock_a_note_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    assert main([*SMALL, "--output", str(tmp_path)], prog="x") == 0
    note = f"note: {tmp_path / 'run'}: no lock could be had (this system has no flock). Nothing keeps a second run from"
    assert capsys.readouterr().out.startswith(note)


NOWHERE = {"step": -1, "epoch": 10**30, "batch": 0.5, "adamw_steps": None}
OTHER_FORMS = {
    "nothing": lambda arrays, state: ({}, {}),
    "a part of the state": lambda arrays, state: (arrays, {"trainer": state["trainer"], "options": state["options"]}),
    "no arrays": lambda arrays, state: ({}, state),
    "other arrays": lambda arrays, state: ({"model": {"w": np.ones(3)}, "optim": {"m": np.ones(3)}}, state),
    "no moments": lambda arrays, state: ({"model": arrays["model"]}, state),
    "other shapes": lambda arrays, state: (
        {group: {k: np.ones(7, np.float32) for k in named} for group, named in arrays.items()},
        state,
    ),
    "other options": lambda arrays, state: (arrays, state | {"options": {}}),
    "a trainer that stands nowhere": lambda arrays, state: (arrays, state | {"trainer": NOWHERE}),
    **{
        f"{key} that is {value}": lambda arrays, state, key=key, value=value: (arrays, state | {key: value})
        for key in ("options", "trainer", "fingerprint", "seconds", "identity")
        for value in (None, 5, "x", [1, 2])
        if (key, value) != ("seconds", 5)
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A snapshot of a run, by its groups and state."""
    folder = tmp_path_factory.mktemp("trained")
    assert main([*SMALL, "--output", str(folder)], prog="x") == 0
    return SnapshotStore(folder / "run").load()


@pytest.mark.parametrize("how", [("--resume",), ("--resume", "--eval")], ids=" ".join)
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_snapshot_of_another_form(form, how, trained, tmp_path, capsys):
    path = SnapshotStore(tmp_path / "other").save(1, *OTHER_FORMS[form](trained.groups, trained.state))
    code = main([*SMALL, "--output", str(tmp_path), *how[1:], f"--resume={path}"], prog="x")
    error = capsys.readouterr().err
    assert (code, error.count("\n")) in ((2, 1), (0, 0))
    assert code == 2 or how[1:]  # an evaluation needs the model alone
    assert code == 0 or error.startswith("error: ")
    assert not (tmp_path / "run").exists() or how[1:]


def test_what_killed_runs_left_is_removed(tmp_path):
    (tmp_path / "run").mkdir()
    left = tmp_path / "run" / f".tmp-{os.getppid()}-0123abcd"  # the pid of a live process
    left.write_text("")
    assert main([*SMALL, "--output", str(tmp_path)], prog="x") == 0
    assert not left.exists()


def test_a_file_where_snapshots_should_be(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "snapshots").write_text("")
    assert main([*SMALL, "--output", str(tmp_path)], prog="x") == 2
    assert "Move that file away" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_whatever_a_plot_raises_is_a_note(tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("In FT2Font: no\nglyph")

    monkeypatch.setattr("swinpy.train.plots.plot_curves", broken)
    options = [option for option in SMALL if option != "--no-plots"]
    assert main([*options, "--output", str(tmp_path)], prog="x") == 0
    out = capsys.readouterr().out
    assert r"note: no plots: RuntimeError: In FT2Font: no\nglyph" in out
    assert "to evaluate: " in out


def test_no_thread_to_be_had(tmp_path, capsys, monkeypatch):
    def full(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # its thread is no part of this
    monkeypatch.setattr(threading.Thread, "start", full)
    assert main([*SMALL, "--workers", "2", "--output", str(tmp_path)], prog="x") == 2
    assert "Lower --threads or --workers" in capsys.readouterr().err
