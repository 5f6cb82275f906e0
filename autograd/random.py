"""Counter-based random numbers: the same bits on every device, in any order, from any thread.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A draw is a
pure function of ``(seed, stream, offset)``; nothing but a :class:`Generator`'s own cursor has state. Element ``i`` of
an array (C order) takes word ``i % 4`` of counter ``offset + i // 4``. So a kernel can regenerate one element without
the others, and backward can regenerate a mask instead of storing it.

Bits, 24-bit uniforms, masks and permutations are made with integer arithmetic and one exact multiplication and are
therefore identical on CPU and GPU. Normal and Beta draws go through libm and are made on the host only
(:func:`host_generator`).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.context import STATE
from autograd.shapes import as_int, as_ints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autograd.backend import Array

__all__ = [
    "Generator",
    "bits",
    "counters_for",
    "default_generator",
    "fork_rng",
    "host_generator",
    "keep_mask",
    "manual_seed",
    "permutation",
    "philox4x32",
    "rewound",
    "uniform",
    "uniform_rows",
]

_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW32 = 0xFFFFFFFF
_BLOCK = 1 << 13  # counters drawn at a time: the temporaries of one block stay in the L2 cache


def philox4x32(
    counter: Sequence[Array], key: Sequence[int], xp: Any = np, rounds: int = _ROUNDS
) -> tuple[Array, Array, Array, Array]:
    """The Philox4x32 bijection.

    Args:
        counter: four arrays of words (any integer dtype, values below 2**32) that broadcast together.
        key: two 32-bit words.
        xp: the array module of ``counter``.
        rounds: 10 in every use here.

    Returns:
        Four uint64 arrays, each holding 32-bit words.

    Source: Salmon et al. 2011, section 4.3; constants as in Random123.
    """
    c0, c1, c2, c3 = (xp.asarray(word, dtype=xp.uint64) for word in counter)
    k0, k1 = int(key[0]), int(key[1])
    low, shift = xp.uint64(_LOW32), xp.uint64(32)
    m0, m1 = xp.uint64(_MULTIPLIER_0), xp.uint64(_MULTIPLIER_1)
    for _ in range(rounds):
        product_0, product_1 = c0 * m0, c2 * m1
        c0 = (product_1 >> shift) ^ c1 ^ xp.uint64(k0)
        c2 = (product_0 >> shift) ^ c3 ^ xp.uint64(k1)
        c1, c3 = product_1 & low, product_0 & low
        k0, k1 = (k0 + _WEYL_0) & _LOW32, (k1 + _WEYL_1) & _LOW32
    return c0, c1, c2, c3


def _words(seed: int, counters: Array, stream: int, xp: Any) -> Array:
    """The four words of each 64-bit counter, shape ``counters.shape + (4,)``, uint32."""
    seed, stream = seed & (2**64 - 1), stream & (2**64 - 1)
    low, shift = xp.uint64(_LOW32), xp.uint64(32)
    key = (seed & _LOW32, seed >> 32)
    counter = (counters & low, counters >> shift, xp.uint64(stream & _LOW32), xp.uint64(stream >> 32))
    return xp.stack(philox4x32(counter, key, xp), axis=-1).astype(xp.uint32)


def counters_for(n: int) -> int:
    """How many counters ``n`` words use up."""
    return (n + 3) // 4


def bits(seed: int, offset: int, n: int, *, stream: int = 0, xp: Any = np) -> Array:
    """``n`` random words, uint32, shape ``(n,)``: element ``i`` is word ``i % 4`` of counter ``offset + i // 4``."""
    total = counters_for(n)
    out = xp.empty((total, 4), dtype=xp.uint32)
    for start in range(0, total, _BLOCK):
        stop = min(start + _BLOCK, total)
        counters = xp.arange(start, stop, dtype=xp.uint64) + xp.uint64(offset & (2**64 - 1))
        out[start:stop] = _words(seed, counters, stream, xp)
    return out.reshape(-1)[:n]


def _as_uniform(words: Array, xp: Any) -> Array:
    return (words >> xp.uint32(8)).astype(xp.float32) * xp.float32(2.0**-24)


def uniform(seed: int, offset: int, shape: int | Sequence[int], *, stream: int = 0, xp: Any = np) -> Array:
    """float32 uniforms in [0, 1) with 24 random bits each (every value is exact)."""
    shape = as_ints("uniform", "shape", shape)
    return _as_uniform(bits(seed, offset, math.prod(shape), stream=stream, xp=xp), xp).reshape(shape)


def uniform_rows(seed: int, offsets: Array, n: int, *, stream: int = 0, xp: Any = np) -> Array:
    """One row of ``n`` uniforms per offset, float32 ``(len(offsets), n)``.

    Row ``b`` equals ``uniform(seed, offsets[b], n)``: what a sample draws depends on its own offset alone, never on
    the batch around it.
    """
    offsets = xp.asarray(offsets).astype(xp.uint64)
    counters = offsets[:, None] + xp.arange(counters_for(n), dtype=xp.uint64)
    words = _words(seed, counters, stream, xp)
    return _as_uniform(words.reshape(len(offsets), 4 * counters_for(n))[:, :n], xp)


def keep_mask(seed: int, offset: int, shape: int | Sequence[int], drop: float, *, xp: Any = np) -> Array:
    """Boolean mask, True with probability ``1 - drop`` (rounded to 24 bits)."""
    shape = as_ints("keep_mask", "shape", shape)
    threshold = math.ceil(drop * 2**24)
    words = bits(seed, offset, math.prod(shape), xp=xp) >> xp.uint32(8)
    return (words >= xp.uint32(threshold)).reshape(shape)


def permutation(seed: int, offset: int, n: int, *, stream: int = 0, xp: Any = np) -> Array:
    """A permutation of ``range(n)``, int64: the stable order of ``n`` random 64-bit words (two words an element)."""
    words = bits(seed, offset, 2 * n, stream=stream, xp=xp).astype(xp.uint64).reshape(n, 2)
    return xp.argsort((words[:, 0] << xp.uint64(32)) | words[:, 1], kind="stable").astype(xp.int64)


def host_generator(seed: int, offset: int, stream: int = 0) -> np.random.Generator:
    """A NumPy generator for draws that need libm (normal, Beta), keyed by ``(seed, stream, offset)``."""
    mask = 2**64 - 1
    key = np.array([seed & mask, stream & mask], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, offset & mask]))


class Generator:
    """A cursor ``(seed, offset)`` into the stream of counters; each draw takes the next counters."""

    __slots__ = ("offset", "seed")

    def __init__(self, seed: int = 0, offset: int = 0) -> None:
        self.seed = seed
        self.offset = offset

    def reserve(self, n: int) -> tuple[int, int]:
        """Take the counters that ``n`` words need; returns ``(seed, offset)`` of the first.

        Raises:
            TypeError: if ``n`` is no integer.
            ValueError: if it is negative.
        """
        words = as_int("reserve", "the number of words", n)
        if words < 0:
            raise ValueError(f"reserve: expected 0 words or more; got {words}.")
        self._note()
        offset = self.offset
        self.offset = offset + counters_for(words)
        return self.seed, offset

    def state(self) -> dict[str, int]:
        """The cursor, as :meth:`set_state` takes it."""
        self._note()
        return {"seed": self.seed, "offset": self.offset}

    def set_state(self, state: dict[str, int]) -> None:
        """Go to a cursor that :meth:`state` returned."""
        seed, offset = int(state["seed"]), int(state["offset"])
        self._note()
        self.seed, self.offset = seed, offset

    def _note(self) -> None:
        """Tell a checkpoint in forward, which will set the cursor back when it runs its function again."""
        reads = STATE.get().reads
        if reads is not None:
            reads.note_generator(self)

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed}, offset={self.offset})"


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Set the seed of the default generator and rewind it; returns the generator.

    Args:
        seed: a whole number; its lowest 64 bits count.

    Raises:
        TypeError: for anything else.
    """
    seed = as_int("manual_seed", "the seed", seed)
    default_generator.set_state({"seed": seed, "offset": 0})
    return default_generator


@contextmanager
def fork_rng(state: dict[str, int] | None = None) -> Iterator[Generator]:
    """Run a block with the default generator at ``state`` (default: where it is) and put it back afterwards."""
    before = default_generator.state()
    if state is not None:
        default_generator.set_state(state)
    try:
        yield default_generator
    finally:
        default_generator.set_state(before)


@contextmanager
def rewound(states: Mapping[Generator, dict[str, int]]) -> Iterator[None]:
    """Run a block with each generator at its state and put all of them back afterwards."""
    before = {generator: generator.state() for generator in states}
    for generator, state in states.items():
        generator.set_state(state)
    try:
        yield
    finally:
        for generator, state in before.items():
            generator.set_state(state)
