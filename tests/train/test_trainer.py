"""The loop: what a step does, and that a resume from any step continues bit for bit."""

import numpy as np
import pytest
from support.gpu import fake_cupy

import autograd as ag
import swinpy
from swinpy.data import Augment, ImageDataset, Loader
from swinpy.snapshots.store import SnapshotStore
from swinpy.train.optim import AdamW
from swinpy.train.schedule import CosineSchedule
from swinpy.train.trainer import NonFiniteError, Position, Trainer, image_shares


def _dataset(n=20, seed=0):
    rng = np.random.default_rng(seed)
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


def _trainer(accumulation=1, workers=0, checkpoint="none", seed=3, batch=4, drop_last=False, amp_dtype=None, **options):
    ag.manual_seed(seed)
    model = swinpy.create_model(
        "swin_cifar_nano",
        3,
        img_size=8,
        embed_dim=8,
        depths=(2, 1),
        num_heads=(2, 2),
        window_size=2,
        drop_rate=0.1,
        drop_path_rate=0.3,
        checkpoint=checkpoint,
        **options,
    )
    data = _dataset()
    transform = Augment(3, data.mean, data.std, seed=seed, crop_padding=1)
    loader = Loader(data, batch, shuffle=True, seed=seed, workers=workers, transform=transform, drop_last=drop_last)
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay())
    return Trainer(model, optimizer, CosineSchedule(1e-2, 12, 3), loader, accumulation, 1.0, amp_dtype)


def _run(trainer, epochs):
    records = []
    while trainer.position.epoch < epochs:
        records += list(trainer.epoch())
    return records


def _curve(records):
    return [(r.step, r.epoch, r.loss, r.lr, r.grad_norm) for r in records]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resume_from_every_step_of_two_epochs_is_bit_exact(tmp_path, accumulation):
    whole = _trainer(accumulation)
    curve = []
    saved = []
    while whole.position.epoch < 2:
        for record in whole.epoch():
            curve.append(record)
            store = SnapshotStore(tmp_path / str(record.step))
            saved.append(store.save(record.step, whole.groups(), {"trainer": whole.state()}))
    end = whole.groups()
    assert len(curve) == 2 * whole.steps_per_epoch
    for path in saved:
        again = _trainer(accumulation, workers=1, seed=3)
        ag.manual_seed(999)  # what happens between runs must not matter
        snapshot = SnapshotStore(path.parent.parent).load(path)
        again.restore(snapshot.groups, snapshot.state["trainer"])
        rest = _run(again, 2)
        assert _curve(rest) == _curve(curve)[snapshot.step :]
        for group, arrays in again.groups().items():
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, end[group][name])


def test_the_curve_does_not_depend_on_workers_or_checkpointing():
    curves = [_curve(_run(_trainer(workers=w, checkpoint=c), 2)) for w, c in ((0, "none"), (3, "none"), (1, "block"))]
    assert curves[0] == curves[1] == curves[2]


def test_accumulated_batches_weigh_the_same_as_one_large_batch():
    """Gradients of two half batches, averaged, are those of the whole (no dropout: its draws would differ)."""
    ag.manual_seed(0)
    model = swinpy.create_model(
        "swin_cifar_nano", 3, img_size=8, embed_dim=8, depths=(1,), num_heads=(2,), window_size=2, dtype="float64"
    )
    data = _dataset(8)
    results = []
    for batch, accumulation in ((8, 1), (4, 2)):
        twin = swinpy.SwinTransformer(model.config).astype("float64")
        twin.load_state_dict(model.state_dict())
        optimizer = AdamW(twin.named_parameters())
        trainer = Trainer(twin, optimizer, CosineSchedule(1e-2, 4), Loader(data, batch), accumulation)
        record = next(trainer.epoch())
        results.append((record.loss, record.grad_norm))
    assert results[0] == pytest.approx(results[1], rel=1e-12)


@pytest.mark.parametrize("amp_dtype", [None, "float16"])
@pytest.mark.parametrize(("images", "batch", "accumulation"), [(7, 4, 2), (9, 4, 3), (10, 3, 4), (5, 4, 2), (8, 4, 2)])
def test_images_of_unequal_batches_weigh_the_same(images, batch, accumulation, amp_dtype):
    """A last batch of one image among batches of four: gradient and loss are those of one large batch.

    The targets are mixed and smoothed. Loss scaling multiplies gradients by a power of two, which is exact.
    """
    ag.manual_seed(0)
    model = swinpy.create_model(
        "swin_cifar_nano", 3, img_size=8, embed_dim=8, depths=(1,), num_heads=(2,), window_size=2, dtype="float64"
    )
    data = _dataset(images)
    rng = np.random.default_rng(1)
    pixels = rng.standard_normal((images, 3, 8, 8))
    soft = rng.dirichlet(np.ones(3), images)

    def mixed(_, labels, indices, epoch, step):
        return pixels[indices], soft[indices]

    results = []
    for size, group in ((images, 1), (batch, accumulation)):
        twin = swinpy.SwinTransformer(model.config).astype("float64")
        twin.load_state_dict(model.state_dict())
        optimizer = AdamW(twin.named_parameters())
        loader = Loader(data, size, transform=mixed)
        trainer = Trainer(twin, optimizer, CosineSchedule(1e-2, 4), loader, group, amp_dtype=amp_dtype)
        trainer.amp_dtype = None  # the scale of float16, and products in float64
        record = next(trainer.epoch())
        assert record.images == images
        scale = record.loss_scale or 1.0
        assert (scale > 1) == (amp_dtype == "float16")
        gradients = {name: p.grad / scale for name, p in twin.named_parameters()}
        results.append((record, gradients))
    (one, want), (many, got) = results
    assert many.loss == pytest.approx(one.loss, rel=2e-15)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=4e-15)
    largest = max(np.abs(gradient).max() for gradient in want.values())
    for name, gradient in want.items():
        np.testing.assert_allclose(got[name], gradient, rtol=0, atol=1e-15 * largest, err_msg=name)


def test_batches_of_one_size_keep_their_bits():
    """Their weights are 1 each, in lowest terms: the sums are those of a plain mean, at any scale."""
    assert image_shares([5, 5, 5]) == [1, 1, 1]
    assert image_shares([4, 4, 2]) == [2, 2, 1]
    assert image_shares([7]) == [1]


def test_the_position_after_an_epoch_is_the_start_of_the_next():
    """After its last record already: who stops there has a whole epoch. Snapshots once said (epoch, all batches)."""
    trainer = _trainer()
    last = trainer.steps_per_epoch
    assert next(r for r in trainer.epoch() if r.step == last).epoch == 0
    assert trainer.position == Position(last, 1, 0)
    trainer.position = Position(last, 0, len(trainer.loader))
    assert list(trainer.epoch()) == []
    assert trainer.position == Position(last, 1, 0)


def test_an_epoch_left_early_goes_on_where_it_was():
    want = _curve(_run(_trainer(), 1))
    broken = _trainer()
    got = []
    for record in broken.epoch():
        got.append(record)
        if record.step == 2:
            break
    assert broken.position == Position(2, 0, 2)
    got += list(broken.epoch())
    assert _curve(got) == want
    assert broken.position == Position(5, 1, 0)
    assert [r.lr for r in got] == [broken.schedule(i) for i in range(5)], "step n runs at the rate of step n"


def test_the_last_step_of_an_epoch_may_have_fewer_batches():
    trainer = _trainer(accumulation=2)
    images = [r.images for r in trainer.epoch()]
    assert images == [8, 8, 4]
    assert trainer.steps_per_epoch == 3


def test_a_loss_that_is_not_finite_is_named_and_updates_nothing():
    trainer = _trainer()
    next(iter(trainer.epoch()))
    name = "head.weight"
    weight = dict(trainer.model.named_parameters())[name]
    weight.assign_(np.full(weight.shape, np.inf, np.float32))
    before = {k: v.copy() for k, v in trainer.model.state_dict().items()}
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match=r"step 2 \(epoch 0, batch 1, samples \d+"):
        next(iter(trainer.epoch()))
    for key, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("bad", [0, 1])
def test_a_bad_batch_among_accumulated_ones_updates_nothing(bad):
    """Backward of all of them is done when the losses are read; no warning comes before the error."""
    trainer = _trainer(accumulation=2)
    next(iter(trainer.epoch()))
    right, calls = trainer.loss, iter(range(2))
    trainer.loss = lambda batch: right(batch) * (np.nan if next(calls) == bad else 1)
    before = {k: v.copy() for k, v in trainer.model.state_dict().items()}
    with pytest.raises(NonFiniteError, match=r"a finite loss; got nan at step 2 \(epoch 0, batch 2, samples \d+"):
        next(iter(trainer.epoch()))
    assert trainer.optimizer.steps == 1
    for key, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("amp_dtype", [None, "float16"])
@pytest.mark.parametrize("architecture", ["v1", "v2"])
def test_a_gpu_is_waited_for_twice_a_step(monkeypatch, architecture, amp_dtype):
    """The host reads the losses together when all backward work is queued, and the norm after the update: no more.

    What it sends are images and targets, and tables of addresses, unless nothing moved: the optimiser's, and under
    autocast one for the casts of each backward.
    """
    done = []

    def noted(what, function):
        return lambda *args, **kwargs: (done.append(what), function(*args, **kwargs))[1]

    with fake_cupy.installed() as cupy:
        trainer = _trainer(accumulation=2, device="gpu", amp_dtype=amp_dtype, architecture=architecture)
        next(iter(trainer.epoch()))  # tables that depend on sizes alone are made in the first step
        for owner, name, what in (
            (trainer, "loss", "forward"),
            (ag.Tensor, "backward", "backward"),
            (trainer.optimizer, "step", "step"),
        ):
            monkeypatch.setattr(owner, name, noted(what, getattr(owner, name)))
        for name in ("get", "item", "tolist", "__int__", "__float__", "__bool__"):
            reading = getattr(fake_cupy.ndarray, name, None) or (lambda x, name=name: getattr(x.get(), name)())
            monkeypatch.setattr(fake_cupy.ndarray, name, noted("read", reading), raising=False)
        asarray, sent = cupy.asarray, []
        monkeypatch.setattr(
            cupy, "asarray", lambda x, *args, **kwargs: (sent.append(x), asarray(x, *args, **kwargs))[1]
        )
        record = next(iter(trainer.epoch()))
    assert done == ["forward", "backward", "forward", "backward", "read", "step", "read"]
    tables = [x.dtype == np.uint64 for x in sent if isinstance(x, np.ndarray)]
    assert tables.count(False) == 2 * 2
    assert tables.count(True) <= 1 + (2 if amp_dtype else 0)
    assert record.step == 2
    assert np.isfinite([record.loss, record.grad_norm]).all()


def test_restore_refuses_arrays_of_another_model():
    trainer = _trainer()
    groups, state = trainer.groups(), trainer.state()
    del groups["model"]["head.bias"]
    with pytest.raises(ValueError, match=r"missing: head.bias"):
        trainer.restore(groups, state)


def test_training_learns_a_batch_by_heart():
    """Loss far below chance on eight fixed images: gradients, optimiser and loop pull the same way."""
    ag.manual_seed(1)
    model = swinpy.create_model(
        "swin_cifar_nano", 3, img_size=8, embed_dim=16, depths=(2,), num_heads=(2,), window_size=2
    )
    data = _dataset(8)
    trainer = Trainer(model, AdamW(model.named_parameters()), CosineSchedule(5e-3, 120, 5), Loader(data, 8))
    losses = [r.loss for r in _run(trainer, 120)]
    assert losses[0] == pytest.approx(np.log(3), abs=0.3)
    assert losses[-1] < 0.05
