"""diff: the first place, what is said of it, names and layouts of other frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.swin.models import images, tiny

from swinpy.geometry import geometry, window_tokens
from swinpy.verify import Trace, diff, trace, windows_to_map
from swinpy.verify.patterns import describe_permutation, guess_function, guess_pattern, guess_windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
A = RNG.standard_normal((2, 6, 10, 12))


def _traces() -> tuple[Trace, Trace]:
    names = ("one", "two", "three")
    values = {n: RNG.standard_normal((3, 4)) for n in names}
    gradients = {n: RNG.standard_normal((3, 4)) for n in names}
    return Trace(dict(values), dict(gradients)), Trace(dict(values), dict(gradients))


def test_equal_traces() -> None:
    a, b = _traces()
    result = diff(a, b)
    assert result.same
    assert result.forward is result.backward is None
    assert result.compared == ("one", "two", "three")
    assert result.compared_gradients == ("three", "two", "one")
    assert str(result) == "forward: 3 compared, none differs\nbackward: 3 compared, none differs"


def test_nothing_in_common_is_not_the_same() -> None:
    result = diff({"a": np.ones(2)}, {"b": np.ones(2)})
    assert not result.same
    assert (result.only_first, result.only_second) == (("a",), ("b",))


def test_the_first_place_and_the_error_there() -> None:
    a, b = _traces()
    b.values["two"] = a["two"].copy()
    b.values["two"][1, 2] += 0.5
    b.values["three"] = a["three"] * 3
    found = diff(a, b).forward
    assert found is not None
    assert (found.name, found.index, found.after) == ("two", (1, 2), "one")
    assert found.error == pytest.approx(0.5)
    assert found.relative == pytest.approx(0.5 / abs(a["two"]).max())
    assert found.got - found.expected == pytest.approx(0.5)
    assert found.share == 1 / 12
    assert found.where == "axis 0 only at 1 of 3; axis 1 only at 2 of 4"
    assert list(diff(a, b).differing) == ["two", "three"]
    assert "backward: 3 compared" in str(diff(a, b))


def test_gradients_are_walked_from_the_loss() -> None:
    a, b = _traces()
    for name in ("one", "two"):
        b.gradients[name] = -a.gradients[name]
    result = diff(a, b)
    assert result.forward is None
    assert result.backward is not None
    assert (result.backward.name, result.backward.after, result.backward.pattern) == (
        "two",
        "three",
        "the sign is flipped",
    )
    assert "backward: parts at gradient of two (agrees up to three)" in str(result)
    assert diff(a, b, gradients=False).same


def test_gradients_that_did_not_arrive_are_named() -> None:
    a, b = _traces()
    del b.gradients["two"]
    result = diff(a, b)
    assert result.same
    assert result.no_gradient == ("two",)
    assert "no gradient in the second: 1 (two)" in str(result)


def test_small_gradients_are_held_to_the_median() -> None:
    """A key bias has no gradient but rounding, by softmax's invariance."""
    a, b = _traces()
    a.gradients["two"], b.gradients["two"] = np.full((3, 4), 1e-17), np.full((3, 4), -1e-17)
    assert diff(a, b).same
    b.gradients["two"] = np.full((3, 4), 1e-3)
    assert not diff(a, b).same


@pytest.mark.parametrize(("dtype", "passes"), [(np.float64, 1e-11), (np.float32, 1e-6), (np.float16, 1e-3)])
def test_tolerance_goes_by_the_lower_dtype(dtype: Any, passes: float) -> None:
    a = {"x": RNG.standard_normal(50)}
    assert diff(a, {"x": (a["x"] * (1 + passes)).astype(dtype)}).same
    assert not diff(a, {"x": (a["x"] * (1 + passes * 1000)).astype(dtype)}).same
    assert diff(a, {"x": (a["x"] * (1 + passes * 1000)).astype(dtype)}, rtol=passes * 1e4).same


def test_nan_and_shapes() -> None:
    a = {"x": np.ones((2, 3)), "y": np.ones(3)}
    b = {"x": np.ones((2, 3)), "y": np.ones(3)}
    b["x"][1] = np.nan
    found = diff(a, b).forward
    assert found is not None
    assert found.error == np.inf
    assert found.index == (1, 0)
    assert found.pattern is not None
    assert found.pattern.startswith("3 of 6 values are NaN, in 1 whole rows")
    assert diff(b, b).same  # the same NaNs are no difference
    shaped = diff(a, {"x": np.ones((3, 3))}).forward
    assert shaped is not None
    assert "expected shape (2, 3); got (3, 3)" in str(shaped)
    assert np.isnan(shaped.error)


def test_names() -> None:
    a = {"layers.0.blocks.1.norm1": A, "head": A + 1}
    b = {"encoder.0.layer.1.before": A, "classifier": A + 1}
    rules = {"layers.*.blocks.*.norm1": "encoder.*.layer.*.before", "head": "classifier"}
    assert diff(a, b, names=rules).compared == tuple(a)
    assert diff(a, b, names=lambda n: {"head": "classifier"}.get(n, n)).compared == ("head",)
    with pytest.raises(ValueError, match="windows or a function; got 'NWHC'"):
        diff(a, a, layouts={"head": "NWHC"})


def test_layouts() -> None:
    a = {"x": A}
    assert diff(a, {"x": A.transpose(0, 3, 1, 2)}, layouts={"x": "NCHW"}).same
    assert diff({"x": A.transpose(0, 3, 1, 2)}, a, layouts={"*": "NHWC"}).same
    assert diff(a, {"x": A.reshape(2, 60, 12)}).same  # joined axes need no hint
    assert diff({"x": A.reshape(2, 60, 12)}, a).same
    assert diff(a, {"x": A[..., ::-1]}, layouts={"x": lambda got, shape: got[..., ::-1]}).same
    assert not diff(a, {"x": A.transpose(0, 2, 1, 3).reshape(2, 60, 12)}).same
    with pytest.raises(ValueError, match=r"^diff: expected the first trace to know the windows of x"):
        diff(a, {"x": A.reshape(-1, 5, 12)}, layouts={"x": "windows"})


@pytest.mark.parametrize("shift", [(0, 0), (1, 2)])
@pytest.mark.parametrize("size", [(6, 9), (7, 5)])
def test_windows_to_map_undoes_a_partition_written_out(size: tuple[int, int], shift: tuple[int, int]) -> None:
    x = RNG.standard_normal((2, *size, 4))
    padded = np.pad(x, ((0, 0), (0, -size[0] % 3), (0, -size[1] % 3), (0, 0)))
    rolled = np.roll(padded, (-shift[0], -shift[1]), axis=(1, 2))
    b, h, w, c = rolled.shape
    windows = rolled.reshape(b, h // 3, 3, w // 3, 3, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 9, c)
    np.testing.assert_array_equal(windows_to_map(windows, size, (3, 3), shift), x)
    assert window_tokens(geometry(size, (3, 3), shift)).shape[0] * 2 == windows.shape[0]
    with pytest.raises(ValueError, match=r"^windows_to_map: expected maps of"):
        windows_to_map(windows[1:], size, (3, 3), shift)


def test_files(tmp_path: Path) -> None:
    seen = trace(tiny(), images(20))
    seen.save(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **{n: a for n, a in seen.values.items() if n.endswith("map")})
    result = diff(tmp_path / "a.npz", str(tmp_path / "b.npz"))
    assert result.same
    assert len(result.compared) == 4


# ---- patterns: each is planted, and each is only said where it is true

PATTERNS: dict[str, tuple[Callable[[Array], Array], str]] = {
    "sign": (lambda x: -x, "the sign is flipped"),
    "scale": (lambda x: x / np.sqrt(32), "scaled by 0.176777 (1 / sqrt 32)"),
    "twice": (lambda x: x * 2, "scaled by 2"),
    "third": (lambda x: x / 3, "scaled by 0.333333 (1 / 3)"),
    "zero": (lambda x: x * 0, "all zeros"),
    "swapped": (lambda x: x.transpose(0, 2, 1, 3), "axes 1 and 2 are swapped"),
    "nchw": (lambda x: x.transpose(0, 3, 1, 2), "axes permuted: transpose(0, 3, 1, 2), NHWC to NCHW"),
    "rolled": (lambda x: np.roll(x, 2, axis=1), "axis 1: rolled by 2"),
    "rolled_both": (lambda x: np.roll(x, (-1, 3), axis=(1, 2)), "axis 1: rolled by -1; axis 2: rolled by 3"),
    "reversed": (lambda x: x[:, :, ::-1], "axis 2: reversed"),
    "thirds": (lambda x: np.roll(x.reshape(2, 6, 10, 3, 4), 1, 3).reshape(x.shape), "axis 3: rolled by 4"),
    "blocks": (
        lambda x: x.reshape(2, 6, 10, 3, 4)[..., [1, 0, 2], :].reshape(x.shape),
        "axis 3: blocks of 4 in the order 1, 0, 2",
    ),
    "interleaved": (
        lambda x: x.reshape(2, 6, 10, 3, 4).swapaxes(3, 4).reshape(x.shape),
        "axis 3: interleaved: 3 blocks of 4, one of each in turn",
    ),
    "permuted": (
        lambda x: x[..., [0, 2, 1, 3, 4, 5, 6, 9, 8, 7, 10, 11]],
        "axis 3: permuted at 4 of 12 places: 0, 2, 1, 3, 4, 5, 6, 9, 8, 7, 10, 11",
    ),
    "lost": (lambda x: x[:, [0, 1, 1, 2, 3, 4]], "axis 1: taken as 0, 1, 1, 2, 3, 4; 1 of 6 are lost"),
    "columns_as_rows": (
        lambda x: x.swapaxes(1, 2).reshape(x.shape),
        "axes 1 and 2: exchanged in a reshape (columns written as rows)",
    ),
    "constant": (lambda x: x + 0.25, "0.25 is added to every value"),
    "bias": (
        lambda x: x + np.arange(12.0),
        "a vector along the last axis is added: is a bias missing, or added twice?",
    ),
    "normed": (
        lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * np.arange(1.0, 13) + 1,
        "it is a layer norm (axis 3) of the expected array: normed here, not there",
    ),
    "float32": (
        lambda x: x.astype(np.float32).astype(float),
        "every value is a float32 number: was float32 used here?",
    ),
    "uncropped": (lambda x: np.pad(x, ((0, 0), (0, 2), (0, 1), (0, 0))), "padding was not cropped"),
    "cropped": (lambda x: x[:, :-1], "it is a corner of the expected array"),
    "reshaped": (lambda x: x.reshape(6, 2, 12, 10), "the same values in C order: reshaped only"),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name: str) -> None:
    change, words = PATTERNS[name]
    guess = guess_pattern(A, change(A), 1e-12)
    assert guess is not None
    assert guess.endswith(words)


def test_not_normed_and_transposed_tokens() -> None:
    normed = (A - A.mean(-1, keepdims=True)) / A.std(-1, keepdims=True)
    assert guess_pattern(normed, A, 1e-12) == "the expected array is a layer norm (axis 3) of it: not normed"
    tokens = A.reshape(2, 60, 12)
    words = "axis 1: interleaved: 6 blocks of 10, one of each in turn"
    assert guess_pattern(tokens, A.swapaxes(1, 2).reshape(2, 60, 12), 1e-12) == words


@pytest.mark.parametrize("seed", range(1, 6))
def test_no_pattern_is_claimed_for_noise(seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal(A.shape)
    assert guess_pattern(A, A + noise, 1e-9) is None
    assert guess_pattern(A, noise, 1e-9) is None
    assert guess_pattern(A, noise[:, :5, :9, :7], 1e-9) is None
    assert guess_windows(A[:, :, :9], noise[:, :, :9], (3, 3), 1e-9) is None
    assert guess_function(A, noise, 1e-9) is None


def test_windows_in_another_order() -> None:
    x = A[:, :, :9]
    blocks = x.reshape(2, 2, 3, 3, 3, 12).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 3, 3, 12)
    back = blocks[:, [0, 2, 1, 3, 4, 5]].reshape(2, 2, 3, 3, 3, 12).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
    assert guess_windows(x, back, (3, 3), 1e-12) == "windows: permuted at 2 of 6 places: 0, 2, 1, 3, 4, 5"


@pytest.mark.parametrize(
    ("p", "words"),
    [
        ([1, 2, 0], "rolled by -1"),
        ([2, 1, 0], "reversed"),
        ([0, 2, 1, 3], "interleaved: 2 blocks of 2, one of each in turn"),
        ([0, 1, 4, 5, 2, 3], "blocks of 2 in the order 0, 2, 1"),
        ([1, 0, 2, 3, 4], "permuted at 2 of 5 places: 1, 0, 2, 3, 4"),
    ],
)
def test_describe_permutation(p: list[int], words: str) -> None:
    assert describe_permutation(np.array(p)) == words


# ---- values that compare in no ordinary way


def test_nan_in_both_is_said() -> None:
    one = {"a": np.array([np.nan, 1.0]), "b": np.ones(2), "grad:b": np.array([np.nan, 2.0])}
    result = diff(one, one)
    assert result.same
    assert result.both_nan == ("a", "grad:b")
    assert "NaN in both, at the same places: 2 (a, grad:b)" in str(result)
    elsewhere = diff(one, one | {"a": np.array([1.0, np.nan])})
    assert elsewhere.forward is not None
    assert elsewhere.both_nan == ("grad:b",)


def test_complex_values_are_compared_as_complex() -> None:
    z = RNG.standard_normal((3, 4)) + 1j * RNG.standard_normal((3, 4))
    assert diff({"z": z}, {"z": z.copy()}).same
    for other, words in ((z.conj(), "the complex conjugate"), (z.real, "its real part alone"), (z + 0.1j, None)):
        found = diff({"z": z}, {"z": other}).forward
        assert found is not None
        assert found.pattern == words
        assert found.error == pytest.approx(abs(other - z).max())
        assert found.expected == z[found.index]
    assert "expected 1+2j, got 1-2j" in str(diff({"z": np.array([1 + 2j])}, {"z": np.array([1 - 2j])}))
    assert diff({"z": z.astype(np.complex64)}, {"z": z}).same
    assert not diff({"z": z.real}, {"z": z}).same


def test_complex_values_in_a_file(tmp_path: Path) -> None:
    Trace({"z": np.array([1 + 2j])}).save(tmp_path / "z.npz")
    assert diff(tmp_path / "z.npz", {"z": np.array([1 + 2j])}).same


@pytest.mark.parametrize("array", [np.array(["x"]), np.array([None]), np.zeros(1, [("f", "i4")])])
def test_what_is_no_number_is_refused(array: Array) -> None:
    with pytest.raises(ValueError, match=r"^diff: expected arrays of numbers; got dtype .* as a in the second\. Leave"):
        diff({"a": np.ones(1)}, {"a": array})
    with pytest.raises(ValueError, match=r"^diff: expected arrays of numbers; got dtype .* as grad:a in the first\."):
        diff({"a": np.ones(1), "grad:a": array}, {"a": np.ones(1)})


def test_masks_of_minus_infinity() -> None:
    """Warnings are errors here."""
    mask = np.zeros((4, 9, 9))
    mask[1:, :3, 3:] = -np.inf
    hundred = np.maximum(mask, -100)
    for want, got, words in ((mask, hundred, "-100 wherever -inf is"), (hundred, mask, "-inf wherever -100 is")):
        found = diff({"mask": want}, {"mask": got}).forward
        assert found is not None
        assert found.error == np.inf
        assert found.pattern == f"{words} expected: another value of the mask?"
    found = diff({"mask": mask}, {"mask": mask.swapaxes(1, 2)}).forward
    assert found is not None
    assert found.pattern == "axes 1 and 2 are swapped"
    assert guess_pattern(mask, hundred + RNG.standard_normal(mask.shape), 1e-9) is None
    assert guess_pattern(A * 1e200, A[::-1] * 1e200, 1e190) == "axis 0: reversed"
