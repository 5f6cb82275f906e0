"""Mixed precision: the laws of the loss scaler, skipped steps, exact resumes, and tiny models that train."""

from __future__ import annotations

import json
import shlex
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import skips
from support.gpu import fake_cupy

import autograd as ag
import swinpy
from autograd.kernels.cuda.launch import counting
from swinpy.data import Augment, ImageDataset, Loader
from swinpy.snapshots.store import SnapshotStore
from swinpy.train.amp import LossScaler, scaler_for
from swinpy.train.main import main
from swinpy.train.optim import AdamW
from swinpy.train.schedule import CosineSchedule
from swinpy.train.trainer import NonFiniteError, Trainer

# ---- the scaler


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_the_scale_doubles_after_an_interval_of_good_steps_and_halves_after_a_bad_one(
    steps: list[bool], interval: int
) -> None:
    scaler = LossScaler(growth_interval=interval)
    for i, finite in enumerate(steps):
        before = scaler.scale
        scaler.update(finite)
        run = 0  # good steps in a row, up to this one
        while run <= i and steps[i - run]:
            run += 1
        expected = before / 2 if not finite else before * 2 if run % interval == 0 else before
        assert scaler.scale == expected


def test_the_defaults_are_torchs() -> None:
    scaler = LossScaler()
    for _ in range(1999):
        scaler.update(True)
    assert scaler.scale == 65536
    scaler.update(True)
    assert scaler.scale == 131072
    scaler.update(False)
    assert scaler.scale == 65536
    assert scaler_for("float16") == LossScaler()
    assert scaler_for("bfloat16") is None
    assert scaler_for(None) is None


def test_state_round_trips() -> None:
    scaler = LossScaler(scale=8.0, good_steps=3)
    other = LossScaler()
    other.set_state(json.loads(json.dumps(scaler.state())))
    assert other == scaler


# ---- training


def _dataset(n: int = 16) -> ImageDataset:
    rng = np.random.default_rng(0)
    return ImageDataset(
        name="noise",
        images=rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8),
        labels=rng.integers(0, 3, n),
        class_names=("a", "b", "c"),
        synthetic=True,
        source="memory",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def _model(name: str = "swin_cifar_nano", device: str = "cpu", **changes: Any) -> Any:
    sizes = {"img_size": 8, "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2), "window_size": 2, **changes}
    return swinpy.create_model(name, 3, device=device, **sizes)


def _trainer(amp_dtype: str | None = "float16", device: str = "cpu", accumulation: int = 1, **changes: Any) -> Trainer:
    ag.manual_seed(3)
    model = _model(device=device, **changes)
    data = _dataset()
    transform = Augment(3, data.mean, data.std, seed=3, crop_padding=1)
    loader = Loader(data, 4, shuffle=True, seed=3, transform=transform)
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay())
    schedule = CosineSchedule(1e-2, 12, 3)
    return Trainer(model, optimizer, schedule, loader, accumulation, clip_grad=1.0, amp_dtype=amp_dtype)


def _bits(trainer: Trainer) -> dict[str, bytes]:
    return {f"{g}.{k}": a.tobytes() for g, arrays in trainer.groups().items() for k, a in arrays.items()}


def _run(trainer: Trainer, epochs: int) -> list[Any]:
    records = []
    while trainer.position.epoch < epochs:
        records += list(trainer.epoch())
    return [(r.step, r.loss, r.lr, r.grad_norm, r.loss_scale) for r in records]


def test_a_step_whose_gradient_overflows_changes_nothing_but_the_scale() -> None:
    trainer = _trainer()
    assert trainer.scaler is not None
    steps = trainer.epoch()
    next(steps)
    before = _bits(trainer)
    trainer.scaler.scale = 2.0**40
    record = next(steps)
    assert not np.isfinite(record.grad_norm)
    assert record.to_dict()["grad_norm"] is None
    assert record.loss_scale == 2.0**40
    assert _bits(trainer) == before
    assert trainer.scaler == LossScaler(scale=2.0**39, good_steps=0)
    assert (trainer.optimizer.steps, trainer.position.step) == (1, 2)
    trainer.scaler.scale = 1024.0
    assert np.isfinite(next(steps).grad_norm)
    assert _bits(trainer) != before
    assert trainer.optimizer.steps == 2


def test_gradients_that_overflow_without_a_scale_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _trainer()
    assert trainer.scaler is not None
    trainer.scaler.scale = 2.0
    monkeypatch.setattr(trainer.optimizer, "step", lambda *_: float("nan"))
    steps = trainer.epoch()
    next(steps)
    with pytest.raises(NonFiniteError, match="expected a finite gradient norm; got nan at step 2"):
        next(steps)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_scaling_by_a_power_of_two_does_not_change_the_gradients(accumulation: int) -> None:
    """In a model that computes in float32: multiplication by 65536 and division are exact."""
    curves = []
    for scale in (1.0, 65536.0):
        trainer = _trainer("float16", accumulation=accumulation)
        trainer.amp_dtype = None
        assert trainer.scaler is not None
        trainer.scaler.scale = scale
        curves.append([c[:4] for c in _run(trainer, 1)])
    assert curves[0] == curves[1]


def test_resume_from_every_step_is_bit_exact_with_growth_and_overflow(tmp_path: Any) -> None:
    def made() -> Trainer:
        trainer = _trainer(drop_rate=0.1, drop_path_rate=0.3)
        assert trainer.scaler is not None
        trainer.scaler.growth_interval, trainer.scaler.scale = 2, 2.0**20
        return trainer

    whole = made()
    curve, saved = [], []
    while whole.position.epoch < 2:
        for r in whole.epoch():
            curve.append((r.step, r.loss, r.lr, r.grad_norm, r.loss_scale))
            store = SnapshotStore(tmp_path / str(r.step))
            saved.append(store.save(r.step, whole.groups(), {"trainer": whole.state()}))
    scales = [c[4] for c in curve]
    pairs = list(pairwise(scales))
    assert any(b < a for a, b in pairs)
    assert any(b > a for a, b in pairs)
    for path in saved:
        again = made()
        ag.manual_seed(999)
        snapshot = SnapshotStore(path.parent.parent).load(path)
        again.restore(snapshot.groups, snapshot.state["trainer"])
        assert _same(_run(again, 2), curve[snapshot.step :])
        assert _bits(again) == _bits(whole)
        assert again.scaler == whole.scaler


def _same(a: list[Any], b: list[Any]) -> bool:
    return [tuple(map(repr, r)) for r in a] == [tuple(map(repr, r)) for r in b]  # NaN is NaN


@pytest.mark.parametrize("amp_dtype", ["float16", "bfloat16"])
def test_a_tiny_model_learns_a_batch_by_heart(amp_dtype: str) -> None:
    ag.manual_seed(1)
    model = _model(embed_dim=16, depths=(2,), num_heads=(2,))
    trainer = Trainer(
        model, AdamW(model.named_parameters()), CosineSchedule(5e-3, 60, 5), Loader(_dataset(8), 8), amp_dtype=amp_dtype
    )
    seen = set()
    with ag.observe(lambda event: seen.add((event.name, event.inputs[0].dtype.name))):
        losses = [c[1] for c in _run(trainer, 60)]
    assert losses[0] == pytest.approx(np.log(3), abs=0.3)
    assert losses[-1] < 0.15
    assert {p.dtype.name for p in model.parameters()} == {p.grad.dtype.name for p in model.parameters()} == {"float32"}
    assert ("linear", amp_dtype) in seen
    for name in ("layer_norm", "cross_entropy"):
        assert {dtype for op, dtype in seen if op == name} == {"float32"}, name


@pytest.mark.parametrize("name", ["swin_cifar_nano", "swinv2_tiny_window8_256"])
def test_rows_of_zeros_give_no_nan(name: str) -> None:
    """Black images and weights of zero: norms of constant rows, and in V2 queries and keys of length 0."""
    for zeroed in (False, True):
        ag.manual_seed(0)
        model = _model(name, img_size=16)
        for key, p in model.named_parameters():
            if zeroed and "head" not in key:
                p.assign_(np.zeros(p.shape, np.float32))
        with ag.autocast("float16"):
            loss = ag.cross_entropy(model(np.zeros((2, 3, 16, 16), np.float32)), np.array([0, 1]))
        (loss * 65536.0).backward()
        assert np.isfinite(loss.item())
        for key, p in model.named_parameters():
            assert p.grad is not None, key
            assert np.isfinite(p.grad).all(), key


# ---- on a GPU (its stand-in)


@pytest.mark.parametrize("amp_dtype", [None, "float16"])
def test_training_on_a_gpu_follows_the_cpu(amp_dtype: str | None) -> None:
    curves = []
    with ag.kernel_mode("reference"):
        curves.append([next(_trainer(amp_dtype, drop_rate=0.1).epoch())])
    with fake_cupy.installed(), counting() as counts:
        trainer = _trainer(amp_dtype, "cuda:0", drop_rate=0.1)
        steps = trainer.epoch()
        curves.append([next(steps)])
        assert trainer.scaler is None or trainer.scaler.good_steps == 1
        assert (type(trainer.optimizer.moments["head.weight"][0]), trainer.optimizer.steps) == (fake_cupy.ndarray, 1)
        before = _bits(trainer)
        if trainer.scaler is not None:
            trainer.scaler.scale = 2.0**40
            assert not np.isfinite(next(steps).grad_norm)
            assert (_bits(trainer) == before, trainer.optimizer.steps) == (True, 1)
    assert counts.launches["multi_adamw"] == (1 if amp_dtype is None else 2)
    assert counts.launches["dropout"] > 0
    (cpu,), (gpu,) = curves
    close = 1e-4 if amp_dtype is None else 2e-2  # roundings of float32; of float16 through a handful of blocks
    assert gpu.loss == pytest.approx(cpu.loss, rel=close)
    assert gpu.grad_norm == pytest.approx(cpu.grad_norm, rel=close)


def test_the_norm_stays_on_the_device_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cupy.installed():
        trainer = _trainer(None, "cuda:0")
        batch = next(trainer.loader.epoch(0))
        trainer.loss(batch).backward()
        read: list[int] = []
        monkeypatch.setattr(fake_cupy.ndarray, "__float__", lambda self: read.append(1) or float(self.get()))
        monkeypatch.setattr(fake_cupy.ndarray, "__bool__", lambda self: read.append(1) or bool(self.get()))
        monkeypatch.setattr(fake_cupy.ndarray, "__int__", lambda self: read.append(1) or int(self.get()))
        norm = trainer.optimizer.step(1e-3, 1.0)
        assert isinstance(norm, fake_cupy.ndarray)
        assert read == []
        assert float(norm) > 0
        assert trainer.optimizer.steps == 1
        assert len(read) == 2


# ---- the command

SMALL = shlex.split(
    "--dataset digits --train-subset 64 --val-subset 32 -b 16 --epochs 2 --warmup-epochs 1 --patch-size 4 --drop 0.1 "
    "--embed-dim 12 --depths 1 --num-heads 2 --no-plots --amp"
)


def _records(folder: Any) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == "step"]


@pytest.mark.parametrize("amp_dtype", ["float16", "bfloat16"])
def test_amp_end_to_end_and_resumed(tmp_path: Any, capsys: pytest.CaptureFixture[str], amp_dtype: str) -> None:
    argv = [*SMALL, "--amp-dtype", amp_dtype, "--output", str(tmp_path)]
    assert main([*argv, "--experiment", "whole"], prog="x") == 0
    out = capsys.readouterr().out
    scale = ", loss scale 65536" if amp_dtype == "float16" else ""
    assert f"mixed precision {amp_dtype}{scale}; 16-bit floats are emulated on a CPU: slower" in out
    assert main([*argv, "--experiment", "parts", "--max-steps", "3"], prog="x") == 0
    assert main([*argv, "--experiment", "parts", "--resume", "auto"], prog="x") == 0
    whole, parts = (_records(tmp_path / name) for name in ("whole", "parts"))
    keys = ("step", "loss", "lr", "grad_norm", "loss_scale")
    assert [[r[k] for k in keys] for r in whole] == [[r[k] for k in keys] for r in parts]
    assert {r["loss_scale"] for r in whole} == {65536.0 if amp_dtype == "float16" else None}
    state = json.loads(next((tmp_path / "whole" / "snapshots").glob("step-00000008/state.json")).read_text())
    assert state["trainer"]["scaler"] == ({"scale": 65536.0, "good_steps": 8} if amp_dtype == "float16" else None)
    capsys.readouterr()
    assert main([*argv, "--experiment", "whole", "--eval"], prog="x") == 0
    assert "top-1" in capsys.readouterr().out


def test_resuming_in_another_precision_is_refused(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*SMALL, "--output", str(tmp_path), "--experiment", "run", "--max-steps", "1"]
    assert main(argv, prog="x") == 0
    assert main([w for w in argv if w != "--amp"] + ["--resume", "auto"], prog="x") == 2
    assert "a difference in amp: saved True, now False" in capsys.readouterr().err


def test_bfloat16_without_its_package(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert main([*SMALL, "--amp-dtype", "bfloat16", "--output", str(tmp_path)], prog="x") == 2
    assert "bfloat16: expected ml_dtypes; it is not installed. pip install ml_dtypes" in capsys.readouterr().err


def test_bfloat16_on_a_gpu_that_has_none(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [*SMALL, "--amp-dtype", "bfloat16", "--output", str(tmp_path), "--device", "gpu", "--max-steps", "1"]
    monkeypatch.setattr("autograd.backend._cupy_distributions", lambda: ["cupy-cuda12x"])
    with fake_cupy.installed():
        monkeypatch.setattr("swinpy.train.setup.capability", lambda x: 75)
        assert main(argv, prog="x") == 2
        assert (
            "compute capability 8.0 or more for bfloat16; got 7.5. Use --amp-dtype float16." in capsys.readouterr().err
        )
        monkeypatch.setattr("swinpy.train.setup.capability", lambda x: 80)

        pytest.importorskip("ml_dtypes", reason=skips.NO_ML_DTYPES)

        def refused(*_: Any) -> Any:
            raise TypeError("Unsupported dtype bfloat16.")

        for method in ("__add__", "__matmul__"):  # an old CuPy stores what it cannot compute with
            with monkeypatch.context() as patch:
                patch.setattr(fake_cupy.ndarray, method, refused)
                assert main(argv, prog="x") == 2
            err = capsys.readouterr().err
            assert "expected a CuPy that computes with ml_dtypes' bfloat16 on cuda:0" in err
            assert "got TypeError: Unsupported dtype bfloat16. Use --amp-dtype float16, or" in err
        monkeypatch.setattr(fake_cupy.ndarray, "__add__", lambda x, y: x)
        assert main(argv, prog="x") == 2
        assert "1 * 1 + 1 * 1 + 1 to be 3; got 2.0. Use" in capsys.readouterr().err


def test_a_gpu_that_is_not_the_first(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [*SMALL, "--output", str(tmp_path), "--device", "cuda:1", "--max-steps", "1"]
    monkeypatch.setattr("autograd.backend._cupy_distributions", lambda: ["cupy-cuda12x"])
    with fake_cupy.installed(devices=2):
        assert main(argv, prog="x") == 0


class OutOfMemoryError(MemoryError):
    """As CuPy's, which takes numbers, not a message."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


def test_out_of_memory_says_what_to_change_and_what_is_safe(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [*SMALL, "--output", str(tmp_path), "--experiment", "run"]

    def full(*_: Any) -> Any:
        raise OutOfMemoryError(1024, 4096)

    assert main([*argv, "--max-steps", "2"], prog="x") == 0
    capsys.readouterr()
    monkeypatch.setattr(Trainer, "loss", full)
    assert main([*argv, "--resume", "auto"], prog="x") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: out of memory: Out of memory allocating 1,024 bytes (allocated so far: 4,096 bytes).")
    assert f"The last good snapshot is {tmp_path / 'run' / 'snapshots' / 'step-00000002'}." in err
    assert "Add --grad-checkpointing (a run may be resumed with it). Or: Lower --batch-size (it is 16) and" in err


@pytest.mark.parametrize("code", ["cudaErrorMemoryAllocation: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_out_of_memory_of_other_cuda_libraries(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError(code)

    argv = [*SMALL, "--output", str(tmp_path)]
    monkeypatch.setattr(Trainer, "loss", full)
    assert main(argv, prog="x") == 2
    assert capsys.readouterr().err.startswith(f"error: out of memory: {code}. Add --grad-checkpointing")
    code = "cudaErrorIllegalAddress: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress"):
        main([*argv, "--experiment", "other"], prog="x")
