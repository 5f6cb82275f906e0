"""What a run needs is known from its configuration; what does not fit the machine is refused before it is built."""

import itertools
import shlex
import tracemalloc
from argparse import Namespace

import numpy as np
import pytest

import autograd as ag
from autograd.kernels.buffers import release
from swinpy.models import SwinConfig, SwinTransformer
from swinpy.models.cost import activations_of, parameters_of
from swinpy.snapshots.store import SnapshotStore, SnapshotWriteError
from swinpy.train import memory
from swinpy.train.main import main
from swinpy.train.optim import AdamW
from swinpy.train.options import UsageError

BASE = SwinConfig(
    img_size=32, patch_size=2, window_size=4, embed_dim=32, depths=(2, 2), num_heads=(2, 4), num_classes=10
)
SMALL = shlex.split("--dataset digits --train-subset 64 --val-subset 8 --epochs 1 --no-plots --num-heads 1,1,1")


@pytest.mark.parametrize("architecture", ["v1", "v2", "mlp"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "both", "patch_norm": False},
        {"position": "none", "qkv_bias": False, "num_classes": 0},
        {"position": "absolute", "img_size": (18, 31), "in_chans": 1, "mlp_ratio": 2.7, "feature_norms": (0, 1)},
        {"depths": (1, 3, 1), "num_heads": (1, 2, 8), "window_size": (7, 3, 2), "small_map": "clamp_axis"},
        {"img_size": (6, 34), "small_map": "pad"},
    ],
)
def test_parameters_without_a_model(architecture, changes):
    also = ({"key_bias": "zeroed"}, {"extra_norm_every": 2}) if architecture == "v2" else ()
    for more in ({}, *also):
        config = BASE.with_changes(architecture=architecture, **changes, **more)
        assert parameters_of(config) == SwinTransformer(config, warn=False).num_parameters(), more


def _peak(config, batch):
    """Bytes at the height of one training step, the model's own included."""
    x, t = np.zeros((batch, 3, *config.image), np.float32), np.full((batch, 10), 0.1, np.float32)
    release()
    tracemalloc.start()
    try:
        model = SwinTransformer(config, warn=False)
        optimizer = AdamW(model.named_parameters())
        ag.cross_entropy(model(x), t).backward()
        optimizer.step(1e-3, 5.0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        release()


@pytest.mark.parametrize(
    ("architecture", "recompute"), list(itertools.product(["v1", "v2", "mlp"], [False, True])), ids=str
)
def test_a_step_needs_about_what_is_reckoned(architecture, recompute):
    """And hardly less: a run that would fit is not refused."""
    for changes in ({"depths": (6, 2)}, {"window_size": 8}, {"embed_dim": 128, "depths": (1,), "num_heads": (4,)}):
        config = BASE.with_changes(architecture=architecture, checkpoint="block" if recompute else "none", **changes)
        options = Namespace(eval_only=False, amp=False, grad_checkpointing=recompute)
        share = sum(memory.step_bytes(config, options, 16)) / _peak(config, 16)
        assert 0.45 < share < 1.06, (changes, share)


HUGE = {
    "--patch-size 4097": "Lower --embed-dim",
    "--embed-dim 40970": "Lower --embed-dim",
    "--embed-dim 1000000000": "Lower --embed-dim",
    "--depths 1000000000,1,1": "Lower --embed-dim",
    "--depths " + ",".join("1" * 32) + " --num-heads " + ",".join("1" * 32): "Lower --embed-dim",
    "--num-classes 1000000000": "Lower --embed-dim",
    "--depths 100000,1,1 -b 64": "Add --grad-checkpointing",
}


@pytest.fixture
def unbuilt(monkeypatch):
    """A machine of 8 GiB, on which no model is built."""

    def built(*_):
        raise AssertionError("a model was built")

    monkeypatch.setattr(SwinTransformer, "__init__", built)
    monkeypatch.setattr(memory, "host_memory", lambda: 8 << 30)


@pytest.mark.parametrize("options", HUGE, ids=lambda options: options[:20])
def test_huge_models_are_refused_before_they_are_built(options, unbuilt, tmp_path, capsys):
    assert main([*SMALL, *shlex.split(options), "--output", str(tmp_path / "o")], prog="x") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --model: expected one that fits the 8 GiB of memory of this machine; got one that")
    assert HUGE[options] in error
    assert error.count("\n") == 1
    assert len(error) < 400
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("size", [8193, 10**9])
def test_huge_images_are_refused(size, tmp_path, capsys):
    command = f"--dataset folder --data-dir {tmp_path} --img-size {size}"
    assert main([*shlex.split(command), "--output", str(tmp_path / "o")], prog="x") == 2
    assert capsys.readouterr().err == f"error: --img-size: expected at most 8192 pixels; got {size}. Lower it.\n"


def _options(device="cpu", **changes):
    return Namespace(**{"device": device, "eval_only": False, "amp": False, "grad_checkpointing": True} | changes)


def test_an_evaluation_needs_the_weights_alone(monkeypatch):
    state, activations = memory.step_bytes(BASE, _options(eval_only=True), 64)
    assert (state, activations) == (4 * parameters_of(BASE), 0)
    monkeypatch.setattr(memory, "host_memory", lambda: state)
    memory.require_memory(BASE, _options(eval_only=True), 64)
    monkeypatch.setattr(memory, "host_memory", lambda: state - 1)
    with pytest.raises(UsageError):
        memory.require_memory(BASE, _options(eval_only=True), 64)


def test_a_gpu_needs_what_the_host_does_not(monkeypatch):
    """Weights are made on the host; the rest is on the GPU."""
    need = sum(memory.step_bytes(BASE, _options(), 64))
    monkeypatch.setattr(memory, "host_memory", lambda: 4 * parameters_of(BASE))
    monkeypatch.setattr(memory, "device_memory", lambda _: need)
    memory.require_memory(BASE, _options("cuda:1", batch_size=64), 64)
    monkeypatch.setattr(memory, "device_memory", lambda _: need - 1)
    with pytest.raises(UsageError, match=r"of memory of cuda:1; got .* Lower --batch-size"):
        memory.require_memory(BASE, _options("cuda:1", batch_size=64), 64)
    monkeypatch.setattr(memory, "host_memory", lambda: 4 * parameters_of(BASE) - 1)
    with pytest.raises(UsageError, match="of memory of this machine"):
        memory.require_memory(BASE, _options("cuda:1", batch_size=64), 64)


def test_halves_and_recomputation_need_less():
    whole = memory.step_bytes(BASE, _options(grad_checkpointing=False), 8)
    assert memory.step_bytes(BASE, _options(amp=True, grad_checkpointing=False), 8) == (whole[0], whole[1] // 2)
    assert memory.step_bytes(BASE, _options(), 8)[1] < whole[1]
    image, shared = activations_of(BASE)
    assert whole[1] == 4 * (8 * image + shared)


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/a/b\n", {"memory.max": "max", "a/memory.max": "4096", "a/b/memory.max": "8192"}, [8192, 4096]),
        ("4:cpu,memory:/a\n3:cpuset:/\n", {"memory/memory.limit_in_bytes": "4096", "memory/a/none": ""}, [4096]),
        ("0::/../elsewhere\n", {"memory.max": "4096"}, [4096]),
        ("0::/\n", {}, []),
        (None, {"memory.max": "4096"}, []),
    ],
)
def test_limits_of_control_groups(groups, files, limits, tmp_path):
    root, own = tmp_path / "cgroup", tmp_path / "own"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if groups is not None:
        own.write_text(groups)
    assert list(memory._cgroup_limits(root, own)) == limits


def test_the_least_limit_counts(monkeypatch):
    there_is = memory.host_memory()
    assert there_is is None or there_is > 1 << 26
    monkeypatch.setattr(memory, "_cgroup_limits", lambda: iter([1 << 20, 1 << 40]))
    assert memory.host_memory() == 1 << 20
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4096, resource.RLIM_INFINITY))
    assert memory.host_memory() == 4096


# ---- a library of Rust that panics


class PanicException(BaseException):
    """As PyO3's: no Exception."""


@pytest.mark.parametrize("error", [PanicException("capacity overflow"), ValueError("capacity overflow")], ids=repr)
def test_a_snapshot_that_cannot_be_encoded(error, tmp_path, monkeypatch):
    def save(*_, **__):
        raise error

    store = SnapshotStore(tmp_path)
    first = store.save(1, {"model": {"w": np.ones(3)}}, {})
    monkeypatch.setattr("safetensors.numpy.save", save)
    with pytest.raises(SnapshotWriteError) as caught:
        store.save(2, {"model": {"w": np.ones(3)}}, {})
    assert f"{type(error).__name__}: capacity overflow" in str(caught.value)
    assert f"Nothing is lost; the previous good snapshot is {first}" in str(caught.value)
    assert store.newest() == (first, [])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_fault_of_the_encoder_is_not_said_to_be(error, tmp_path, monkeypatch):
    def save(*_, **__):
        raise error

    monkeypatch.setattr("safetensors.numpy.save", save)
    with pytest.raises(error):
        SnapshotStore(tmp_path).save(1, {"model": {"w": np.ones(3)}}, {})
