"""The generator: published vectors, layout of words, independence, and stored bits that no refactor may change."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import random

# Random123, kat_vectors: philox4x32 10 (counter, key, result)
VECTORS = {
    "zeros": (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    "ones": (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


STORED = {
    "bits": ["0x113b6d31", "0x835f9b5b", "0x44107d67", "0x206157a3", "0xdde6ddb1", "0xba0eb45c"],
    "permutation": [7, 6, 5, 1, 4, 0, 3, 2],
    "mask": [191, 250, 55],
    "uniform": "8e45c490d08bdf5a08655ae4ba005f8c1f5b17272b737e4509c278b7a53c24fd",
    "host": [3902094112, 30710768, 4165682342],
}


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors(name: str) -> None:
    counter, key, expected = VECTORS[name]
    got = random.philox4x32([np.array([word]) for word in counter], key)
    assert tuple(int(word[0]) for word in got) == expected


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """One block in Python integers, written from the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@given(
    seed=st.integers(0, 2**64 - 1),
    offset=st.integers(0, 2**63),
    stream=st.integers(0, 2**64 - 1),
    n=st.integers(0, 23),
)
def test_element_i_is_word_i_mod_4_of_counter_offset_plus_i_div_4(seed: int, offset: int, stream: int, n: int) -> None:
    got = random.bits(seed, offset, n, stream=stream)
    assert got.dtype == np.uint32
    assert got.shape == (n,)
    for i in range(n):
        at = offset + i // 4
        counter = [at & 0xFFFFFFFF, at >> 32, stream & 0xFFFFFFFF, stream >> 32]
        assert int(got[i]) == scalar_philox(counter, [seed & 0xFFFFFFFF, seed >> 32])[i % 4]


def test_independent_of_blocks() -> None:
    """Elements are drawn some thousand counters at a time; where a block ends must not show."""
    n = 3 * 4 * random._BLOCK + 5
    whole = random.bits(7, 100, n)
    for start in (0, 4, 4 * random._BLOCK - 4, 4 * random._BLOCK, 8 * random._BLOCK + 8):
        part = random.bits(7, 100 + start // 4, min(4 * random._BLOCK + 9, n - start))
        np.testing.assert_array_equal(part, whole[start : start + len(part)])


@given(
    offsets=st.lists(st.integers(0, 2**40), max_size=5),
    n=st.integers(1, 9),
    stream=st.integers(0, 3),
)
def test_uniform_rows_equal_uniform(offsets: list[int], n: int, stream: int) -> None:
    rows = random.uniform_rows(5, np.array(offsets, np.int64), n, stream=stream)
    assert rows.shape == (len(offsets), n)
    for row, offset in zip(rows, offsets, strict=True):
        np.testing.assert_array_equal(row, random.uniform(5, offset, n, stream=stream))


def test_uniforms_hold_24_exact_bits() -> None:
    u = random.uniform(1, 0, (500, 200))
    assert u.dtype == np.float32
    assert u.shape == (500, 200)
    assert 0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    scaled = u.astype(np.float64) * 2**24
    np.testing.assert_array_equal(scaled, np.round(scaled))
    np.testing.assert_array_equal(scaled.ravel(), random.bits(1, 0, 100_000) >> 8)
    # 100,000 draws: the mean's standard deviation is 1 / sqrt(12 * 100,000) = 0.0009
    assert abs(float(u.mean(dtype=np.float64)) - 0.5) < 5 * 0.0009


def test_uniform_extremes() -> None:
    words = np.array([0, 0xFF, 0x100, 0xFFFFFFFF], np.uint32)
    assert random._as_uniform(words, np).tolist() == [0, 0, 2.0**-24, 1 - 2.0**-24]


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 0.9, 1 - 2.0**-24])
def test_keep_mask_rate(drop: float) -> None:
    n = 200_000
    kept = int(random.keep_mask(3, 11, (400, 500), drop).sum())
    deviation = math.sqrt(n * drop * (1 - drop))
    assert abs(kept - n * (1 - drop)) <= 5 * deviation + 1e-9


def test_keep_mask_at_its_words() -> None:
    """An element is kept if its uniform is at least ``drop``, however little lies between them."""
    for i, u in enumerate(random.uniform(3, 11, 20).tolist()):
        kept = [bool(random.keep_mask(3, 11, 20, u + step * 2.0**-26)[i]) for step in (-1, 0, 1)]
        assert kept == [True, True, False]


def test_keep_mask_is_uniform_at_least_drop() -> None:
    np.testing.assert_array_equal(
        random.keep_mask(3, 11, (7, 5), 0.3), random.uniform(3, 11, (7, 5)).astype(np.float64) >= 0.3
    )


@pytest.mark.parametrize("n", [0, 1, 2, 17, 1000])
def test_permutation(n: int) -> None:
    p = random.permutation(9, 4, n)
    assert p.dtype == np.int64
    np.testing.assert_array_equal(np.sort(p), np.arange(n))
    np.testing.assert_array_equal(p, random.permutation(9, 4, n))


def test_permutations_are_uniform() -> None:
    """All 6 orders of 3 elements, 6,000 draws: each count within 5 standard deviations of 1,000."""
    rows = np.array([random.permutation(9, 10 * i, 3) for i in range(6000)])
    counts = np.unique(rows @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert abs(counts - 1000).max() < 5 * math.sqrt(6000 * 5 / 36)


def test_seeds_streams_and_offsets_differ() -> None:
    base = random.bits(1, 0, 4000)
    others = [
        random.bits(2, 0, 4000),
        random.bits(1, 0, 4000, stream=1),
        random.bits(1, 1000, 4000),
        random.bits(1 + 2**32, 0, 4000),
        random.bits(1, 2**32, 4000),
        random.bits(1, 0, 4000, stream=2**32),
    ]
    for other in others:
        assert (other == base).sum() < 3
        u, v = random._as_uniform(base, np), random._as_uniform(other, np)
        assert abs(np.corrcoef(u, v)[0, 1]) < 5 / math.sqrt(4000)


def test_negative_seed_is_taken_modulo() -> None:
    np.testing.assert_array_equal(random.bits(-1, 0, 8), random.bits(2**64 - 1, 0, 8))


def test_offset_wraps_at_64_bits() -> None:
    last = random.bits(1, 2**64 - 1, 8)
    np.testing.assert_array_equal(last[4:], random.bits(1, 0, 4))


def test_stored_bits() -> None:
    """Whatever is trained or augmented from a seed depends on these."""
    assert [hex(w) for w in random.bits(1234, 5, 6, stream=7)] == STORED["bits"]
    assert random.permutation(1234, 5, 8).tolist() == STORED["permutation"]
    assert np.packbits(random.keep_mask(1234, 5, 24, 0.25)).tolist() == STORED["mask"]
    assert hashlib.sha256(random.uniform(1234, 0, 100_000).tobytes()).hexdigest() == STORED["uniform"]
    host = random.host_generator(1234, 5, 7).integers(0, 2**32, 3)
    assert host.tolist() == STORED["host"]


# ---- the cursor


@pytest.mark.parametrize(("n", "error"), [(2.5, TypeError), (4.0, TypeError), ("4", TypeError), (-4, ValueError)])
def test_reserve_of_a_bad_number_leaves_the_cursor(n: Any, error: type[Exception]) -> None:
    g = random.Generator(3, 10)
    with pytest.raises(error, match=r"^reserve: expected .*; got "):
        g.reserve(n)
    assert g.state() == {"seed": 3, "offset": 10}
    assert g.reserve(np.int64(8)) == (3, 10)  # type: ignore[arg-type]
    assert type(g.offset) is int


def test_reserve_advances_by_counters() -> None:
    g = random.Generator(seed=3, offset=10)
    assert [g.reserve(n) for n in (1, 4, 5, 0)] == [(3, 10), (3, 11), (3, 12), (3, 14)]
    assert g.state() == {"seed": 3, "offset": 14}
    assert repr(g) == "Generator(seed=3, offset=14)"
    other = random.Generator()
    other.set_state(g.state())
    assert other.reserve(4) == (3, 14)


def test_manual_seed_rewinds() -> None:
    random.default_generator.reserve(100)
    assert random.manual_seed(8) is random.default_generator
    assert random.default_generator.state() == {"seed": 8, "offset": 0}


def test_fork_restores_also_after_an_error() -> None:
    random.manual_seed(1)

    def fail() -> None:
        with random.fork_rng({"seed": 9, "offset": 2}) as g:
            assert g.reserve(4) == (9, 2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert random.default_generator.state() == {"seed": 1, "offset": 0}
    with random.fork_rng():
        random.default_generator.reserve(4)
    assert random.default_generator.offset == 0


def test_host_generator_depends_on_all_three() -> None:
    draws = [
        random.host_generator(*args).standard_normal(5)
        for args in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 0, 0))
    ]
    np.testing.assert_array_equal(draws[0], draws[4])
    for i in range(4):
        for j in range(i):
            assert not np.intersect1d(draws[i], draws[j]).size
