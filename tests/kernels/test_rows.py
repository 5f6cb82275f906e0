"""Every row of the registry: names, costs, dtypes, layouts, and that it is checked through the op that calls it."""

import numpy as np
import pytest
from support.implementations import needs_numba
from support.layouts import LAYOUTS, relayout
from support.rows.table import KERNEL_ROWS, find
from support.runner import cotangents, gradients, outputs

import autograd as ag
from autograd.kernels import (
    KERNELS,
    Cost,
    Implementation,
    Kernel,
    KernelUnavailableError,
    compiled,
    explain,
    kernel_mode,
)
from autograd.kernels.validate import arrays_in

NAMES = sorted(KERNEL_ROWS)
DTYPES = (np.float64, np.float32, np.float16)

# Rows without a compiled twin.
UNCOMPILED = {
    "dropout",
    "keep_scale",
    "multi_cast",
    "position_bias_bwd",
    "position_bias_fwd",
}

every_kernel = pytest.mark.parametrize("name", NAMES)
every_twin = pytest.mark.parametrize("name", sorted(set(NAMES) - UNCOMPILED))


def _arguments(name, dtype=np.float64, seed=0):
    return KERNEL_ROWS[name].arguments(np.random.default_rng(seed), dtype)


def _results(name, args, options):
    """Everything that the reference returns or writes."""
    kernel = KERNELS[name]
    result = kernel.reference(*args, **options)
    return [*arrays_in(result), *arrays_in([args[i] for i in kernel.writes])]


@every_kernel
def test_reference_bears_the_name(name):
    assert KERNELS[name].name == name
    assert KERNELS[name].reference.__name__ == name


@every_kernel
def test_reference_is_documented(name):
    assert KERNELS[name].reference.__doc__


@every_kernel
def test_reference_calls_no_kernel_by_its_name(name, monkeypatch):
    """By its name a kernel runs whatever the mode chooses: mode "reference" would be none."""

    def refuse(self, *args, **kwargs):
        raise AssertionError(f"{name} calls {self.name} by its name; it wants {self.name}.reference")

    args, options = _arguments(name)
    monkeypatch.setattr(Kernel, "__call__", refuse)
    KERNELS[name].reference(*args, **options)


@every_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_cost_is_positive_whole_numbers(name, dtype):
    args, options = _arguments(name, dtype)
    cost = KERNELS[name].cost(*args, **options)
    assert isinstance(cost, Cost)
    assert isinstance(cost.flops, int)
    assert isinstance(cost.bytes, int)
    assert cost.flops > 0
    largest = max(a.nbytes for a in arrays_in(args))
    assert cost.bytes >= largest


@every_kernel
def test_explain_answers(name):
    args, options = _arguments(name)
    assert explain(name, *args, **options).startswith(f"{name}: runs ")


@every_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_first_result_has_the_operands_dtype(name, dtype):
    args, options = _arguments(name, dtype)
    wanted = args[1].dtype if name == "cross_entropy_bwd" else np.dtype(dtype)
    if name == "cross_entropy_fwd" and dtype == np.float16:
        wanted = np.dtype(np.float32)  # losses and log-probabilities stay in the dtype that accumulates
    if name in ("grad_norm", "multi_adamw"):
        wanted = np.dtype(np.float64)
    if name == "suppress":
        wanted = np.dtype(bool)
    if name == "multi_cast":
        wanted = args[1]
    assert _results(name, args, options)[0].dtype == wanted


@every_kernel
def test_arguments_are_left_alone_unless_declared(name):
    args, options = _arguments(name)
    before = [[a.tobytes() for a in arrays_in(arg)] for arg in args]
    KERNELS[name].reference(*args, **options)
    for i, (arg, old) in enumerate(zip(args, before, strict=True)):
        for now, then in zip(arrays_in(arg), old, strict=True):
            assert (now.tobytes() != then) == (i in KERNELS[name].writes), i


@every_kernel
@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"stretched", "constant"}))
def test_layouts(name, layout):
    """Of every argument that is only read; what is updated in place must be C-ordered."""
    args, options = _arguments(name)
    again, _ = _arguments(name)
    written = KERNELS[name].writes

    def laid_out(arg):
        if isinstance(arg, list):
            return [laid_out(a) for a in arg]
        return relayout(arg, layout) if isinstance(arg, np.ndarray) else arg

    odd = tuple(a if i in written else laid_out(a) for i, a in enumerate(again))
    for got, want in zip(_results(name, odd, options), _results(name, args, options), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


@every_kernel
def test_validate_accepts_the_reference_as_its_own_twin(name, monkeypatch):
    monkeypatch.setattr(KERNELS[name], "cpu", Implementation(KERNELS[name].reference, lambda *_, **__: None))
    for dtype in DTYPES:
        args, options = _arguments(name, dtype)
        with kernel_mode("validate"):
            KERNELS[name](*args, **options)


def test_rows_without_a_twin_are_the_listed_ones():
    assert {name for name in NAMES if KERNELS[name].cpu is None} == UNCOMPILED


@needs_numba
@every_twin
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compiled_twin_runs_and_agrees(name, dtype):
    args, options = _arguments(name, dtype)
    assert explain(name, *args, **options).startswith(f"{name}: runs cpu")
    with kernel_mode("validate"):
        KERNELS[name](*args, **options)


@needs_numba
@every_twin
def test_compiled_twin_refuses_float16(name):
    args, options = _arguments(name, np.float16)
    if name == "cross_entropy_bwd":  # what forward saved for it is float32
        assert all(a.dtype != np.float16 for a in args if isinstance(a, np.ndarray))
        return
    with kernel_mode("cpu"), pytest.raises(KernelUnavailableError, match="compiled kernels take float32 or float64"):
        KERNELS[name](*args, **options)


@needs_numba
@every_twin
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bits_of_compiled_twins_do_not_depend_on_threads(name, dtype):
    found, before = [], ag.get_num_threads()
    try:
        for threads in (1, 2, 3):
            ag.set_num_threads(threads)
            args, options = _arguments(name, dtype)
            with kernel_mode("cpu"):
                result = KERNELS[name](*args, **options)
            arrays = [*arrays_in(result), *arrays_in([args[i] for i in KERNELS[name].writes])]
            found.append([a.tobytes() for a in arrays])
    finally:
        ag.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_without_numba_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(compiled, "is_available", lambda: "Numba is not installed (pip install 'swinpy[fast]')")
    args, options = _arguments("gelu_fwd")
    assert "runs reference" in explain("gelu_fwd", *args, **options)
    assert "cpu: Numba is not installed (pip install 'swinpy[fast]')" in explain("gelu_fwd", *args, **options)


@every_kernel
def test_values_are_checked_through_an_op(name, monkeypatch):
    """The op named in the row runs this very kernel, so the op's generic checks are checks of it."""
    if KERNEL_ROWS[name].op is None:
        assert name in (
            "adamw",
            "grad_norm",
            "multi_adamw",
            "multi_cast",
            "crop_flip_normalise",
            "sample_windows",
            "suppress",
        )  # test_adamw.py, test_cuda_multi_cast.py, test_casts.py, test_data_augment.py, tests/detection
        return
    ran = []
    twin = Implementation(
        lambda *a, **k: (ran.append(name), KERNELS[name].reference(*a, **k))[1], lambda *_, **__: None
    )
    monkeypatch.setattr(KERNELS[name], "cpu", twin)
    info = find(KERNEL_ROWS[name].op)
    sample = info.sample(next(iter(info.samples)))
    outputs(info.fn, sample)
    gradients(info.fn, sample, cotangents(info, sample))
    assert ran
