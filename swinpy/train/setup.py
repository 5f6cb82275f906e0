"""From options to the objects of a run: data, model, loaders, optimiser, schedule; and what the start prints."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from autograd.extend import capability, device_scope
from swinpy.data import Augment, FolderOptions, ImageDataset, Loader, load_dataset, load_folder
from swinpy.models import SwinTransformer, create_model, model_config
from swinpy.models.cost import model_cost
from swinpy.models.presets import eval_config_of
from swinpy.snapshots.fingerprint import numeric_fingerprint
from swinpy.train.memory import require_memory, step_bytes
from swinpy.train.optim import AdamW
from swinpy.train.options import UsageError
from swinpy.train.own import evaluated_info, warn_of_other_classes, warn_of_other_data
from swinpy.train.schedule import CosineSchedule
from swinpy.train.trainer import Trainer
from swinpy.weights import LoadReport, ModelInfo, WeightsError, load_weights
from swinpy.weights.dialects import DialectError

if TYPE_CHECKING:
    from argparse import Namespace

    from autograd.extend import Array

__all__ = ["Run", "banner", "build_run"]

# A recipe's lr is for this batch and grows with the effective batch.
_BASE_BATCH = 128

# Pixels a side: no preparation makes an image of more than 2^26.
_LARGEST_IMAGE = 1 << 13

# Option -> field of SwinConfig.
_MODEL_OPTIONS = {
    "img_size": "img_size",
    "window_size": "window_size",
    "patch_size": "patch_size",
    "embed_dim": "embed_dim",
    "depths": "depths",
    "num_heads": "num_heads",
    "drop": "drop_rate",
    "drop_path": "drop_path_rate",
}


@dataclass(eq=False)
class Run:
    """Everything of one run.

    Attributes:
        train: training images.
        test: evaluation images.
        model: on its device.
        trainer: over ``train``.
        eval_loader: over ``test``, not shuffled.
        total_steps: optimiser steps of all epochs.
        info: what the run's weights say of themselves.
        loaded: how --initial-checkpoint was loaded; None without it.
    """

    train: ImageDataset
    test: ImageDataset
    model: SwinTransformer
    trainer: Trainer
    eval_loader: Loader
    total_steps: int
    info: ModelInfo
    loaded: LoadReport | None = None


def _folder_options(options: Namespace, info: ModelInfo | None) -> FolderOptions:
    """How a folder's images are brought to the model's size: as its weights say, or the official code evaluates."""
    config = info.config if info else model_config(options.model)
    if options.img_size is not None:
        if options.img_size > _LARGEST_IMAGE:
            raise UsageError(f"--img-size: expected at most {_LARGEST_IMAGE} pixels; got {options.img_size}. Lower it.")
        config = config.with_changes(img_size=options.img_size)
    by = eval_config_of(options.model, config)
    if info and info.preparation and options.img_size is None:
        by = info.preparation
    return FolderOptions(by.size, by.resize, by.interpolation, by.mean, by.std, options.random_crop, options.seed)


def _datasets(options: Namespace, info: ModelInfo | None) -> tuple[ImageDataset, ImageDataset]:
    if options.dataset == "folder":
        train, test = load_folder(options.data_dir, _folder_options(options, info), val_alone=options.eval_only)
    else:
        train, test = load_dataset(options.dataset, options.data_dir, download=options.dataset_download)
    size = train.images.shape[2:]
    if options.img_size is not None and size != (options.img_size, options.img_size):
        raise UsageError(
            f"--img-size: expected the {size[0]}x{size[1]} pixels of {train.name}, whose images are of one size and "
            f"are not resized; got {options.img_size}. Leave it out; --dataset folder resizes the images of a folder."
        )
    if info and info.preparation:  # whatever the images are: the weights expect their own numbers
        mean, std = info.preparation.mean, info.preparation.std
        train, test = (replace(data, mean=mean, std=std) for data in (train, test))
    if info and options.initial_head == "keep":
        warn_of_other_classes(info, test)
    if options.train_subset:
        train = train.subset(options.train_subset, options.seed)
    if options.val_subset:
        test = test.subset(options.val_subset, options.seed)
    if options.overfit_batches:
        train = train.subset(min(len(train), options.overfit_batches * options.batch_size), options.seed)
        test = train
    return train, test


def _model(options: Namespace, data: ImageDataset, info: ModelInfo | None) -> tuple[SwinTransformer, LoadReport | None]:
    same = info is not None and info.class_names == data.class_names  # then the head may be larger than both
    classes = options.num_classes or (info.config.num_classes if info and same else data.num_classes)
    if classes < data.num_classes:
        raise UsageError(
            f"--num-classes: expected at least the {data.num_classes} classes of {data.name}; got {classes}. "
            f"Leave it out, or pass --num-classes {data.num_classes}."
        )
    overrides = {
        field: getattr(options, option)
        for option, field in _MODEL_OPTIONS.items()
        if getattr(options, option) is not None
    }
    named = info.config if info else model_config(options.model)
    if not info and options.img_size is None and named.image != data.images.shape[2:]:
        overrides["img_size"] = tuple(data.images.shape[2:])
    config = named.with_changes(num_classes=classes, **overrides)
    require_memory(config, options, min(options.batch_size, len(data)))
    ag.manual_seed(options.seed)
    if info:
        model = SwinTransformer(config).to(options.device)
    else:
        model = create_model(options.model, classes, device=options.device, **overrides)
    if options.grad_checkpointing:
        model.set_grad_checkpointing("block")
    if not options.initial_checkpoint:
        return model, None
    if not info:
        warn_of_other_data(options, data)
    try:
        return model, load_weights(model, options.initial_checkpoint, head=options.initial_head)
    except (WeightsError, DialectError) as error:
        raise UsageError(f"--initial-checkpoint: {error} (The option for head is --initial-head.)") from None


def _augment(options: Namespace, data: ImageDataset, classes: int) -> Augment:
    return Augment(
        num_classes=classes,
        mean=data.mean,
        std=data.std,
        seed=options.seed,
        hflip=options.hflip,
        crop_padding=options.crop_padding,
        erase_prob=options.reprob,
        mixup=options.mixup,
        cutmix=options.cutmix,
        mix_prob=options.mixup_prob,
        switch_prob=options.mixup_switch_prob,
        mix_off_epoch=options.mixup_off_epoch,
        smoothing=options.smoothing,
    )


def scaled_lr(options: Namespace) -> float:
    """The lr of the run: as given, or the recipe's for the effective batch."""
    if options.lr is not None:
        return float(options.lr)
    return float(options.base_lr * options.batch_size * options.grad_accum_steps / _BASE_BATCH)


def _schedule(options: Namespace, per_epoch: int) -> CosineSchedule:
    lr = scaled_lr(options)
    return CosineSchedule(
        lr,
        total_steps=per_epoch * options.epochs,
        warmup_steps=int(options.warmup_epochs * per_epoch),
        warmup_lr=min(options.warmup_lr, lr),
        min_lr=min(options.min_lr, lr),
    )


def _check_bfloat16(model: SwinTransformer) -> None:
    """Raise UsageError for a GPU, or a CuPy, that has no bfloat16; ImportError without ml_dtypes."""
    weight = next(iter(model.parameters())).detach()
    if model.device != "cpu" and capability(weight.data) < 80:
        raise UsageError(
            "--amp-dtype: expected a GPU of compute capability 8.0 or more for bfloat16; got "
            f"{capability(weight.data) / 10}. Use --amp-dtype float16."
        )
    ones = ag.Tensor(np.ones((2, 2), np.float32)).astype("bfloat16")
    if model.device == "cpu":
        return
    try:
        found = _sum_and_product(ones.to(model.device).data)
    except Exception as error:  # CuPy's own have no base in common: of types, of its compiler, of cuBLAS
        found = f"{type(error).__name__}: {error}"
    if found != "3.0":
        raise UsageError(
            f"--amp-dtype: expected a CuPy that computes with ml_dtypes' bfloat16 on {model.device}, 1 * 1 + 1 * 1 + 1 "
            f"to be 3; got {found.rstrip('.')}. Use --amp-dtype float16, or another version of CuPy: "
            'pip install "swinpy[gpu]" (CUDA 12) or "swinpy[gpu13]" (CUDA 13).'
        )


def _sum_and_product(ones: Array) -> str:
    """An element of ``ones @ ones + ones``: some CuPy store bfloat16 and cannot compute with it."""
    with device_scope(ones):
        return str(float((ones @ ones + ones).astype(np.float32)[0, 0]))


def _info(options: Namespace, info: ModelInfo | None, model: SwinTransformer, test: ImageDataset) -> ModelInfo:
    """What the run's weights say of themselves."""
    name = (info and info.model) or options.model
    return ModelInfo(model.config, test.preparation, test.class_names, name, test.name, test.synthetic)


def build_run(options: Namespace) -> Run:
    """Load the data and make everything; ``options.device`` must be resolved.

    Raises:
        UsageError: for options that do not fit the data or the model.
        ValueError: for data or weights that do not fit.
        DatasetMissing: if there is no such dataset.
        DatasetCorrupt: if it is damaged.
        DeviceError: if the device cannot be had.
    """
    info = evaluated_info(options)
    train, test = _datasets(options, info)
    if options.eval_only:  # nothing is trained on
        batch = min(options.batch_size, len(train))
    elif options.batch_size <= len(train):
        batch = options.batch_size
    else:
        raise UsageError(
            f"--batch-size: expected at most the {len(train)} training images of {train.name}; got "
            f"{options.batch_size}. Lower --batch-size."
        )
    model, loaded = _model(options, train, info)
    if options.amp and options.amp_dtype == "bfloat16":
        _check_bfloat16(model)
    loader = Loader(
        train,
        batch,
        shuffle=True,
        seed=options.seed,
        workers=options.workers,
        transform=_augment(options, train, model.num_classes),
        drop_last=len(train) > batch,
    )
    if options.grad_accum_steps > len(loader):
        raise UsageError(
            f"--grad-accum-steps: expected at most the {len(loader)} batches of an epoch; got "
            f"{options.grad_accum_steps}. Lower it, or --batch-size."
        )
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay(), weight_decay=options.weight_decay)
    per_epoch = math.ceil(len(loader) / options.grad_accum_steps)
    total = per_epoch * options.epochs
    schedule = _schedule(options, per_epoch)
    trainer = Trainer(
        model,
        optimizer,
        schedule,
        loader,
        options.grad_accum_steps,
        options.clip_grad or None,
        amp_dtype=options.amp_dtype if options.amp else None,
    )
    eval_loader = Loader(test, options.val_batch_size, workers=options.workers)
    return Run(train, test, model, trainer, eval_loader, total, _info(options, info, model, test), loaded)


def banner(run: Run, options: Namespace, folder: str, source: str | None) -> list[str]:
    """The lines that a run starts with."""
    made = numeric_fingerprint(run.model.device)
    size = (run.train.images.shape[2], run.train.images.shape[3])
    cost = model_cost(run.model, size)
    kind = "SYNTHETIC" if run.train.synthetic else "real"
    batch = run.trainer.loader.batch_size * options.grad_accum_steps
    given = "as given" if options.lr is not None else f"scaled from {options.base_lr:g} at batch {_BASE_BATCH}"
    blas = ", ".join(f"{k} {v}" for k, v in made.items() if k.startswith("blas"))
    loaded = str(run.loaded).splitlines() if run.loaded else []
    return [
        f"python {platform.python_version()}  numpy {np.__version__}  {blas}  kernels {made['kernels']}",
        f"device {ag.describe_device(run.model.device)}, {ag.get_num_threads()} threads",
        *_precision(run),
        f"data {run.train.name} ({kind}) from {run.train.source}: {len(run.train)} train, {len(run.test)} test, "
        f"{size[0]}x{size[1]}, {run.train.num_classes} classes",
        *(f"data note: {note}" for note in dict.fromkeys(run.train.notes + run.test.notes)),
        f"model {run.info.model}: {run.model.num_parameters():,} parameters, {cost.flops / 1e9:.3f} GFLOPs an image "
        f"({cost.macs / 1e9:.3f} G multiply-adds)",
        f"batch {batch} ({run.trainer.loader.batch_size} x {options.grad_accum_steps})  "
        f"lr {run.trainer.schedule.lr:.3g} ({given})  {run.trainer.steps_per_epoch} steps an epoch, "
        f"{options.epochs} epochs",
        f"memory about {sum(step_bytes(run.model.config, options, run.trainer.loader.batch_size)) / 2**20:.0f} MiB for "
        f"{'the weights' if options.eval_only else 'a step'} (estimate)",
        f"output {folder}" + (f"  resumed from {source}" if source else ""),
        *loaded,
    ]


def _precision(run: Run) -> list[str]:
    """The lines about mixed precision."""
    trainer = run.trainer
    if trainer.amp_dtype is None:
        return []
    scale = f", loss scale {trainer.scaler.scale:g}" if trainer.scaler else ""
    slow = "; 16-bit floats are emulated on a CPU: slower than without --amp" if run.model.device == "cpu" else ""
    return [f"mixed precision {trainer.amp_dtype}{scale}{slow}"]


def options_dict(options: Namespace) -> dict[str, Any]:
    """Options as plain JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(vars(options).items())}
