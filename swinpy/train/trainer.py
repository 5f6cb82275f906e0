"""The training loop: optimiser steps over a loader, with a state that resumes bit for bit."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.train.amp import scaler_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from autograd.extend import Array
    from swinpy.data import Batch, Loader
    from swinpy.models import SwinTransformer
    from swinpy.train.optim import AdamW
    from swinpy.train.schedule import CosineSchedule

__all__ = ["NonFiniteError", "Position", "StepRecord", "Trainer", "image_shares"]


def _quietly() -> np.errstate:
    """A block without NumPy's warnings: the loss and the norm are checked, and show what is not finite."""
    return np.errstate(over="ignore", invalid="ignore")


class NonFiniteError(FloatingPointError):
    """The loss or the gradient became NaN or infinite; nothing was updated."""


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        epoch: the current one, counted from 0.
        batch: loader batches of the epoch already used.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class StepRecord:
    """One optimiser step.

    Attributes:
        step: its number, counted from 1.
        epoch: counted from 0.
        loss: mean over the images of the accumulated batches.
        lr: learning rate.
        grad_norm: before clipping. Not finite where loss scaling overflowed: nothing was updated then.
        images: how many.
        data_s: seconds waited for the loader.
        step_s: seconds in all.
        loss_scale: the factor of the gradients; None without loss scaling.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    images: int
    data_s: float
    step_s: float
    loss_scale: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: a gradient norm that is not finite is None."""
        return {**asdict(self), "grad_norm": self.grad_norm if math.isfinite(self.grad_norm) else None}


class Trainer:
    """Trains a classifier on soft targets.

    Args:
        model: in training mode while steps run.
        optimizer: AdamW over the model's parameters.
        schedule: lr of each step.
        loader: of the training set.
        accumulation: loader batches an optimiser step (the last step of an epoch may have fewer). Each image weighs
            the same, also where a batch is smaller than the others.
        clip_grad: largest norm of the gradient; None for no clipping.
        amp_dtype: "float16" (with loss scaling) or "bfloat16" for mixed precision; None for the model's own dtype.

    Raises:
        ValueError: for an accumulation below 1, or another type of mixed precision.
        ImportError: for bfloat16 without ml_dtypes.
    """

    def __init__(
        self,
        model: SwinTransformer,
        optimizer: AdamW,
        schedule: CosineSchedule,
        loader: Loader,
        accumulation: int = 1,
        clip_grad: float | None = None,
        amp_dtype: str | None = None,
    ) -> None:
        if accumulation < 1:
            raise ValueError(f"Trainer: expected accumulation >= 1; got {accumulation}.")
        self.model, self.optimizer, self.schedule, self.loader = model, optimizer, schedule, loader
        self.accumulation, self.clip_grad = accumulation, clip_grad
        self.amp_dtype, self.scaler = amp_dtype, scaler_for(amp_dtype)
        self.autocast()  # raises for a type that is none
        self.position = Position()

    def autocast(self) -> AbstractContextManager[None]:
        """A block that computes in the run's precision."""
        return ag.autocast(self.amp_dtype)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return -(-len(self.loader) // self.accumulation)

    def epoch(self) -> Iterator[StepRecord]:
        """The rest of the current epoch, one record an optimiser step.

        Stopping the iteration early is allowed: the position is always that after the last record, and after an
        epoch's last one it is the next epoch's start.

        Raises:
            NonFiniteError: if a loss or gradient is not finite.
        """
        self.model.train()
        epoch = self.position.epoch
        batches = self.loader.epoch(epoch, self.position.batch)
        try:
            while True:
                started = time.perf_counter()
                group = list(islice(batches, self.accumulation))
                if not group:
                    break
                data_s = time.perf_counter() - started
                scale = self.scaler.scale if self.scaler else None
                loss, norm, lr = self._step(group)
                batch = self.position.batch + len(group)
                place = (epoch, batch) if batch < len(self.loader) else (epoch + 1, 0)
                self.position = Position(self.position.step + 1, *place)
                images = sum(len(b.labels) for b in group)
                step_s = time.perf_counter() - started
                yield StepRecord(self.position.step, epoch, loss, lr, norm, images, data_s, step_s, scale)
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
        if self.position.epoch == epoch:  # no batch was left
            self.position = Position(self.position.step, epoch + 1, 0)

    def _step(self, group: list[Batch]) -> tuple[float, float, float]:
        """One optimiser step; returns loss, gradient norm and lr."""
        self.optimizer.zero_grad()
        self.model.drop_statistics()  # of a step that raised
        scale = self.scaler.scale if self.scaler else 1.0
        shares = image_shares([len(batch.labels) for batch in group])
        whole = sum(shares)
        losses = [self._backward(batch, scale * n / whole) for batch, n in zip(group, shares, strict=True)]
        values = ag.stack(losses).numpy().tolist()  # read once all work is queued: one wait for a GPU, not many
        total = 0.0
        for loss, n in zip(values, shares, strict=True):
            total += loss * n
            if not math.isfinite(total):
                raise self._non_finite("loss", total, group)
        lr = self.schedule(self.position.step)
        with _quietly():
            norm = float(self.optimizer.step(lr, self.clip_grad, scale))
        finite = math.isfinite(norm)
        if not finite and scale <= 1:  # without scaling, or it is not what makes gradients overflow
            raise self._non_finite("gradient norm", norm, group)
        if finite:
            self.model.commit_statistics()
        if self.scaler:
            self.scaler.update(finite)
        return total / whole, norm, lr

    def _backward(self, batch: Batch, weight: float) -> ag.Tensor:
        """Add the gradients of a batch, times ``weight``; returns its loss."""
        with _quietly():
            loss = self.loss(batch)
            (loss * weight).backward()
        return loss.detach()

    def loss(self, batch: Batch) -> ag.Tensor:
        """Cross-entropy of one batch against its soft targets."""
        images = ag.Tensor(batch.images.astype(self.model.dtype, copy=False)).to(self.model.device)
        with self.autocast():
            return ag.cross_entropy(self.model(images), batch.targets.astype(self.model.dtype, copy=False))

    def _non_finite(self, what: str, value: float, group: list[Batch]) -> NonFiniteError:
        samples = ", ".join(str(int(i)) for i in group[0].indices[:4])
        return NonFiniteError(
            f"train: expected a finite {what}; got {value} at step {self.position.step + 1} (epoch "
            f"{self.position.epoch}, batch {group[0].step}, samples {samples} ...). The weights are as before the "
            "step. Lower --lr, or set --clip-grad."
        )

    # ---- state

    def state(self) -> dict[str, Any]:
        """What a resumed run needs besides the arrays, as plain values.

        Position, optimiser steps, random cursor, loss scale.
        """
        return {
            **asdict(self.position),
            "optimizer_steps": self.optimizer.steps,
            "generator": ag.default_generator.state(),
            "scaler": self.scaler.state() if self.scaler else None,
        }

    def groups(self) -> dict[str, dict[str, Any]]:
        """The arrays of a snapshot, on the host: ``model`` and ``optim``."""
        model = {name: _host(a) for name, a in self.model.state_dict().items()}
        optim = {name: _host(a) for name, a in self.optimizer.state_arrays().items()}
        return {"model": model, "optim": optim}

    def restore(self, groups: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state` and :meth:`groups` were taken.

        Raises:
            ValueError: if the arrays do not fit the model.
        """
        self.model.load_state_dict(groups["model"])
        self.optimizer.load_state(groups["optim"], int(state["optimizer_steps"]))
        self.position = Position(int(state["step"]), int(state["epoch"]), int(state["batch"]))
        ag.default_generator.set_state(state["generator"])
        if self.scaler and state.get("scaler"):
            self.scaler.set_state(state["scaler"])


def image_shares(sizes: list[int]) -> list[int]:
    """The weights of batches by their images, in lowest terms: 1 each where all are of one size."""
    return [size // math.gcd(*sizes) for size in sizes]


def _host(array: Array) -> np.ndarray[Any, Any]:
    return ag.Tensor(array).numpy()
