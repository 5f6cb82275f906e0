"""The kernel registry: modes, refusals, explanations, validation, arguments that are written to."""

import threading

import numpy as np
import pytest

import autograd as ag
from autograd.kernels import (
    KERNELS,
    Cost,
    Implementation,
    Kernel,
    KernelMismatchError,
    KernelUnavailableError,
    explain,
    kernel_mode,
    register_implementation,
    register_kernel,
)


def double_fwd(x):
    return 2 * x


def _cost(x):
    return Cost(x.size, 2 * x.nbytes)


def _small(x):
    return None if x.size < 10 else f"{x.size} elements are too many"


@pytest.fixture
def kernel(monkeypatch):
    """A kernel with a CPU twin that takes up to 10 elements and notes when it ran."""
    row = Kernel("double_fwd", double_fwd, _cost, cpu=Implementation(_twin, _small))
    monkeypatch.setitem(KERNELS, "double_fwd", row)
    return row


_ran = []


def _twin(x):
    _ran.append("cpu")
    return x + x


@pytest.fixture(autouse=True)
def _forget():
    _ran.clear()


X = np.arange(4.0)


@pytest.mark.parametrize(
    ("mode", "ran"), [("auto", ["cpu"]), ("reference", []), ("cpu", ["cpu"]), ("validate", ["cpu"])]
)
def test_mode_chooses(kernel, mode, ran):
    with kernel_mode(mode):
        np.testing.assert_array_equal(KERNELS["double_fwd"](X), 2 * X)
    assert _ran == ran


def test_auto_is_the_default(kernel):
    KERNELS["double_fwd"](X)
    assert _ran == ["cpu"]


@pytest.mark.parametrize("mode", ["auto", "validate"])
def test_refused_arguments_go_to_the_reference(kernel, mode):
    with kernel_mode(mode):
        np.testing.assert_array_equal(KERNELS["double_fwd"](np.arange(20.0)), 2 * np.arange(20.0))
    assert _ran == []


def test_asked_for_and_refused_is_an_error(kernel):
    with kernel_mode("cpu"), pytest.raises(KernelUnavailableError) as error:
        KERNELS["double_fwd"](np.arange(20.0))
    assert str(error.value) == (
        "double_fwd: expected the cpu implementation to run; got a refusal: 20 elements are too many. "
        "Use kernel_mode('auto')."
    )
    with kernel_mode("cuda"), pytest.raises(KernelUnavailableError, match=r"^double_fwd: .*no cuda implementation"):
        KERNELS["double_fwd"](X)


def test_arrays_on_the_other_device_are_refused(kernel, monkeypatch):
    monkeypatch.setitem(KERNELS, "double_fwd", Kernel("double_fwd", double_fwd, _cost, cuda=kernel.cpu))
    with kernel_mode("cuda"), pytest.raises(KernelUnavailableError, match="the arrays are on the CPU"):
        KERNELS["double_fwd"](X)
    assert "cuda: the arrays are on the CPU" in explain("double_fwd", X)


def test_unknown_mode():
    with pytest.raises(ValueError, match=r"^kernel_mode: expected one of auto, .*; got 'fast'"):
        kernel_mode("fast")


def test_mode_is_local_to_the_thread(kernel):
    with kernel_mode("reference"):
        thread = threading.Thread(target=KERNELS["double_fwd"], args=(X,))
        thread.start()
        thread.join()
        KERNELS["double_fwd"](X)
    assert _ran == ["cpu"]


# ---- explain


def test_explain_says_what_runs_and_why_not_the_others(kernel):
    assert explain("double_fwd", X) == "double_fwd: runs cpu\n  cuda: no cuda implementation"
    assert explain("double_fwd", np.arange(20.0)) == (
        "double_fwd: runs reference\n  cuda: no cuda implementation\n  cpu: 20 elements are too many"
    )


def test_explain_of_an_unknown_kernel_lists_the_known():
    with pytest.raises(KeyError, match=r"expected one of .*gelu_fwd.*; got 'glue'"):
        explain("glue")


# ---- validate


def _planted(monkeypatch, twin, name="gelu_fwd"):
    monkeypatch.setattr(KERNELS[name], "cpu", Implementation(twin, lambda *_, **__: None))


def test_validate_names_the_faulty_kernel(monkeypatch):
    right = KERNELS["gelu_fwd"].reference
    _planted(monkeypatch, lambda x: right(x) * (1 + 1e-9))
    x = ag.Tensor(np.linspace(-2, 2, 9))
    with kernel_mode("validate"), pytest.raises(KernelMismatchError, match=r"^gelu_fwd: output 0: expected .*; got"):
        ag.gelu(x)
    ag.gelu(x)  # auto believes it


def test_validate_passes_a_right_twin_and_returns_its_result(monkeypatch):
    right = KERNELS["softmax_fwd"].reference
    _planted(monkeypatch, lambda x, mask=None: (_ran.append("twin"), right(x, mask))[1], "softmax_fwd")
    with kernel_mode("validate"):
        out = ag.softmax(X)
    assert _ran == ["twin"]
    np.testing.assert_array_equal(out.data, right(X))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: (2 * x).astype(np.float32), "dtype float64; got .* float32"),
        (lambda x: (2 * x)[None], r"shape \(4,\) .*; got \(1, 4\)"),
        (lambda x: 2 * x + np.where(x == 2, np.nan, 0), "difference of nan"),
        (lambda x: 2 * x + np.where(x == 2, np.inf, 0), "difference of inf"),
        (lambda x: (2 * x, x), "expected 1 outputs; got 2"),
    ],
)
def test_validate_sees(monkeypatch, wrong, words):
    monkeypatch.setitem(
        KERNELS, "double_fwd", Kernel("double_fwd", double_fwd, _cost, cpu=Implementation(wrong, lambda x: None))
    )
    with kernel_mode("validate"), pytest.raises(KernelMismatchError, match=f"^double_fwd: .*{words}"):
        KERNELS["double_fwd"](X)


def test_validate_takes_equal_infinities_and_nans(monkeypatch):
    x = np.array([1.0, np.inf, -np.inf, np.nan])
    row = Kernel("double_fwd", double_fwd, _cost, cpu=Implementation(lambda x: x + x, lambda x: None))
    monkeypatch.setitem(KERNELS, "double_fwd", row)
    with kernel_mode("validate"):
        np.testing.assert_array_equal(KERNELS["double_fwd"](x), 2 * x)


def test_validate_allows_low_precision_its_rounding(monkeypatch):
    row = Kernel(
        "double_fwd", double_fwd, _cost, cpu=Implementation(lambda x: 2 * x * x.dtype.type(1.001), lambda x: None)
    )
    monkeypatch.setitem(KERNELS, "double_fwd", row)
    with kernel_mode("validate"):
        KERNELS["double_fwd"](X.astype(np.float16))
        with pytest.raises(KernelMismatchError):
            KERNELS["double_fwd"](X.astype(np.float32))


def test_validate_holds_a_statistic_to_the_size_of_its_operand(monkeypatch):
    """The mean of rows without one is noise, and differs with the order of summation; the first output is strict."""
    right = KERNELS["layer_norm_fwd"].reference
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    x -= x.mean(axis=1, keepdims=True)

    def plant(first, mean):
        def twin(*args):
            y, m, r = right(*args)
            return y * y.dtype.type(1 + first), m + m.dtype.type(mean), r

        _planted(monkeypatch, twin, "layer_norm_fwd")
        with kernel_mode("validate"):
            ag.layer_norm(x, np.ones(8, np.float32), np.zeros(8, np.float32))

    plant(0, 1e-7)
    with pytest.raises(KernelMismatchError, match="output 1"):
        plant(0, 1e-2)
    with pytest.raises(KernelMismatchError, match="output 0"):
        plant(1e-3, 0)


# ---- kernels that write to an argument


def step(x, by):
    x += by


def _stepping(monkeypatch, twin):
    row = Kernel("step", step, lambda x, by: Cost(1, 1), cpu=Implementation(twin, lambda *_: None), writes=(0,))
    monkeypatch.setitem(KERNELS, "step", row)


def test_validate_writes_once_and_compares_what_was_written(monkeypatch):
    _stepping(monkeypatch, lambda x, by: np.add(x, by, out=x) is None)
    x = X.copy()
    with kernel_mode("validate"):
        KERNELS["step"](x, np.ones(4))
    np.testing.assert_array_equal(x, X + 1)


def test_validate_names_a_twin_that_writes_wrongly(monkeypatch):
    _stepping(monkeypatch, lambda x, by: None)
    with kernel_mode("validate"), pytest.raises(KernelMismatchError, match=r"^step: "):
        KERNELS["step"](X.copy(), np.ones(4))


# ---- registration


def test_a_name_is_registered_once(monkeypatch):
    with pytest.raises(ValueError, match=r"^register_kernel: expected a new name; got 'gelu_fwd'"):
        register_kernel(KERNELS["gelu_fwd"])


def test_an_implementation_needs_a_row():
    with pytest.raises(KeyError, match=r"register_implementation: expected one of .*; got 'glue'"):
        register_implementation("glue", cpu=Implementation(_twin, _small))


def test_register_implementation_keeps_what_is_there(kernel):
    other = Implementation(_twin, lambda x: None)
    register_implementation("double_fwd", cuda=other)
    assert KERNELS["double_fwd"].cpu is kernel.cpu
    assert KERNELS["double_fwd"].cuda is other
