"""Compiled kernels as a whole: when Numba is loaded, what is forgotten of the cache, functions that vectorise."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from repo.sources import ROOT
from support import skips
from support.implementations import needs_numba
from support.tolerances import ONE32

import autograd as ag
from autograd.dtypes import as_dtype
from autograd.kernels import KERNELS

pytestmark = needs_numba


def test_numba_is_loaded_by_the_first_kernel_that_needs_it():
    code = (
        "import sys, numpy as np, autograd as ag\n"
        "x = ag.Tensor(np.ones((3, 4), np.float32)) * 2\n"
        "assert 'numba' not in sys.modules\n"
        "ag.gelu(x)\n"
        "assert 'numba' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr in ("", "swinpy: compiling CPU kernels, once (a few seconds each; kept on disk)\n")


def test_warmup_imports_every_kernel():
    ag.kernels.warmup()
    assert "autograd.kernels.layer_norm.cpu" in sys.modules
    assert "autograd.kernels.mlp.cpu" in sys.modules


def _compile_elsewhere(folder, before="", **environment):
    """(hits on disk, standard error) of a process that compiles a kernel in a file of its own."""
    (folder / "kernels_elsewhere.py").write_text(
        "from autograd.kernels.compiled import toolkit\n"
        f"{before}\n"
        "@toolkit.jit\ndef twice(x):\n    return 2 * x\n"
        "assert twice(1.5) == 3\n"
        "print(sum(twice.stats.cache_hits.values()))\n"
    )
    done = subprocess.run(
        [sys.executable, str(folder / "kernels_elsewhere.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout), done.stderr


COMPILING = "swinpy: compiling CPU kernels, once (a few seconds each; kept on disk)\n"


def test_code_is_kept_until_any_source_changes(tmp_path):
    """Numba looks at a kernel's own file; a function compiled into it may have changed in another. Said once."""
    kept = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert _compile_elsewhere(tmp_path, **kept) == (0, COMPILING)
    assert _compile_elsewhere(tmp_path, **kept) == (1, "")
    assert _compile_elsewhere(tmp_path, "toolkit._STAMP = 'of other sources'", **kept)[0] == 0


def test_the_same_bits_from_the_process_that_compiles_and_the_next(tmp_path):
    """What a caller calls is its own copy, in both: see the toolkit. A run that compiled can be resumed."""
    code = (
        "import hashlib, numpy as np\n"
        "from autograd.kernels import kernel_mode\n"
        "from autograd.kernels.softmax import softmax_fwd\n"
        "x = np.random.default_rng(0).standard_normal((300, 96)).astype(np.float32)\n"
        "with kernel_mode('cpu'):\n"
        "    print(hashlib.sha256(softmax_fwd(x, None).tobytes()).hexdigest())\n"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    ]
    assert [process.stderr for process in done] == [COMPILING, ""]
    assert done[0].stdout == done[1].stdout


def test_kernels_compile_where_nothing_can_be_kept(tmp_path):
    refuses = "def refuses(self): raise RuntimeError('no locator available')\n"
    refuses += "import numba.core.dispatcher as d\nd.Dispatcher.enable_caching = refuses\n"
    (tmp_path / "sitecustomize.py").write_text(refuses)
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    hits, said = _compile_elsewhere(tmp_path, PYTHONPATH=path)
    assert hits == 0
    assert said == (
        "swinpy: compiling CPU kernels, in every process: no directory to keep them in can be written to. "
        "NUMBA_CACHE_DIR may name one\n"
    )


def _elementwise(function, x):
    """By a kernel that is not kept on disk."""
    import numba

    from autograd.kernels.compiled import toolkit

    cdf, exp, jit = toolkit.cdf, toolkit.exp, numba.njit(fastmath=toolkit._FLAGS, error_model="numpy")
    if function == "exp":

        @jit
        def run(x, out):
            for i in range(x.size):
                out[i] = exp(x[i])
    else:

        @jit
        def run(x, out):
            for i in range(x.size):
                out[i] = cdf(x[i])

    out = np.empty_like(x)
    run(x, out)
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp(dtype):
    """To 2 ulp; 0 for what is far below; NaN stays NaN."""
    x = np.concatenate([np.linspace(-86.9, 88, 20001), np.linspace(-1, 1, 20001)]).astype(dtype)
    got, want = _elementwise("exp", x), np.exp(x.astype(np.longdouble))
    assert float((abs(got - want) / np.spacing(want.astype(dtype))).max()) <= 2
    edges = _elementwise("exp", np.array([-np.inf, -1e4, np.nan, 0.0], dtype))
    np.testing.assert_array_equal(edges, np.array([0, 0, np.nan, 1], dtype))


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 3e-7), (np.float64, 4e-16)])
def test_cdf(dtype, bound):
    """The bound of the reference's erf, halved, and a few roundings."""
    x = np.linspace(-8, 8, 4001).astype(dtype)
    want = np.array([0.5 + 0.5 * math.erf(float(v) * math.sqrt(0.5)) for v in x])
    assert float(abs(_elementwise("cdf", x) - want).max()) <= bound


@pytest.mark.parametrize("kernel", ["softmax_fwd", "layer_norm_fwd", "labels", "probabilities"])
@pytest.mark.parametrize("offset", [100.0, 1e4])
def test_rows_far_from_zero_lose_no_more_than_in_the_reference(kernel, offset):
    """x - max - log(sum) must not be computed as x - (max + log(sum)): the compiler may, unless told otherwise."""
    rng, rows = np.random.default_rng(0), 64
    x = (offset + rng.standard_normal((rows, 40))).astype(np.float32)
    if kernel == "layer_norm_fwd":
        name, more = kernel, (np.ones(40, np.float32), np.zeros(40, np.float32), 1e-5)
    elif kernel == "softmax_fwd":
        name, more = kernel, ()
    else:
        soft = rng.dirichlet(np.ones(40), rows).astype(np.float32)
        name, more = "cross_entropy_fwd", (rng.integers(0, 40, rows) if kernel == "labels" else soft, 0.1)

    def run(mode, x, *rest):
        with ag.kernel_mode(mode):
            result = KERNELS[name](x, *rest)
        return result[:2] if isinstance(result, tuple) else (result,)

    wide = [a.astype(np.float64) if getattr(a, "dtype", None) == np.float32 else a for a in (x, *more)]
    for got, naive, want in zip(run("cpu", x, *more), run("reference", x, *more), run("reference", *wide), strict=True):
        allowed = 2 * np.abs(naive - want).max() + np.spacing(np.float32(np.abs(want).max()))
        assert np.abs(got - want).max() <= allowed


@pytest.mark.parametrize("label", [-1, 4, 2**40])
def test_a_label_that_is_no_class_gives_nan_as_in_the_reference(label):
    """The op checks labels; a kernel that is called by itself must not read beyond the row either."""
    logits, labels = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), np.array([0, label, 3])
    g, results = np.full(3, 0.5, np.float32), []
    for mode in ("cpu", "reference"):
        with ag.kernel_mode(mode):
            losses, log_probs = KERNELS["cross_entropy_fwd"](logits, labels, 0.1)
            results.append((losses, KERNELS["cross_entropy_bwd"](g, log_probs, labels, 0.1)))
    for got, want in zip(*results, strict=True):
        assert np.isnan(got[1]).any()
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want, rtol=ONE32)


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_16_bit_floats_beside_float32_are_left_to_the_reference(low):
    """bfloat16 is no float to NumPy, as its kind says."""
    if low == "bfloat16":
        pytest.importorskip("ml_dtypes", reason=skips.NO_ML_DTYPES)
    x, one = np.ones((2, 4), np.float32), np.ones(4, np.float32)
    branch = x.astype(as_dtype(low))
    reason = KERNELS["residual_layer_norm_fwd"].cpu.can_run(x, branch, None, one, one, 1e-5, None, None)
    assert reason == f"compiled kernels take float32 or float64 arrays of one dtype; got {low}, float32"
