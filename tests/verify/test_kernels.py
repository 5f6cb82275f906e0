"""Kernels under validation: what was compared, what was refused, which one is wrong."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag
from autograd.kernels import KERNELS, Implementation, kernel_mode, register_implementation, validation
from swinpy.cli import main
from swinpy.verify import validate_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

X = np.linspace(-2, 2, 12).reshape(3, 4)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a CPU implementation behind a kernel for one test; all others have none."""
    for row in KERNELS.values():
        monkeypatch.setattr(row, "cpu", None)
        monkeypatch.setattr(row, "cuda", None)

    def put(name: str, run: Any, can_run: Any = lambda *_, **__: None) -> None:
        register_implementation(name, cpu=Implementation(run, can_run))

    return put


def _reference(name: str) -> Any:
    return KERNELS[name].reference


def _scaled(result: Any, factor: float) -> Any:
    return tuple(r * factor for r in result) if isinstance(result, tuple) else result * factor


def test_right_twins_are_counted_and_measured(plant: Any) -> None:
    right = _reference("gelu_fwd")
    plant("gelu_fwd", lambda x: right(x) * (1 + 1e-13))
    report = validate_kernels(lambda: [ag.gelu(X) for _ in range(3)])
    (check,) = report.checks
    assert (check.kernel, check.kind, check.compared, check.refused, check.failed) == ("gelu_fwd", "cpu", 3, {}, 0)
    assert 1e-14 < check.largest < 1e-12
    assert report.compared == ["gelu_fwd"]
    assert report.faulty == []
    assert "gelu_fwd                    cpu with reference          3" in str(report)


def test_refusals_are_told_with_their_reason(plant: Any) -> None:
    plant("gelu_fwd", _reference("gelu_fwd"), lambda x: None if x.ndim < 2 else f"{x.ndim} axes")
    report = validate_kernels(lambda: (ag.gelu(X), ag.gelu(X[0]), ag.softmax(X)))
    assert report.checks[0].refused == {"2 axes": 1}
    assert report.checks[1].refused == {"no cpu implementation": 1}
    assert "    refused 1 of 2: 2 axes" in str(report)
    assert "2 kernels ran; 1 compared, 1 agree" in str(report)


def test_every_faulty_kernel_is_named_in_one_run(plant: Any) -> None:
    """The run goes on with the reference's values, so that a fault does not make what follows differ."""
    gelu, softmax = _reference("gelu_fwd"), _reference("softmax_fwd")

    def broken(*_: Any) -> Any:
        raise IndexError("planted")

    plant("gelu_fwd", lambda x: gelu(x) * 1.01)
    plant("softmax_fwd", broken)
    with validation() as checks:
        out = ag.softmax(ag.gelu(X))
    np.testing.assert_array_equal(out.numpy(), softmax(gelu(X), None))
    assert checks["gelu_fwd"].faults[0].startswith("gelu_fwd: output 0: expected the reference's values to")
    assert checks["softmax_fwd"].faults == ["softmax_fwd: raised IndexError('planted')"]
    report = validate_kernels(lambda: ag.softmax(ag.gelu(X)))
    assert report.faulty == ["gelu_fwd", "softmax_fwd"]
    assert str(report).endswith("at fault: gelu_fwd, softmax_fwd")
    assert "DIFFERS" in str(report)


def test_arguments_written_in_place_are_the_references(plant: Any) -> None:
    step = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0, "step": 1, "grad_scale": 1.0}
    right = _reference("adamw")

    def run() -> list[Any]:
        arrays = [np.ones(3), np.full(3, 0.5), np.zeros(3), np.zeros(3)]
        with validation():
            KERNELS["adamw"](*arrays, **step)
        return arrays

    expected = run()
    plant("adamw", lambda p, *rest, **kw: (right(p, *rest, **kw), p.__iadd__(1))[0])
    for got, want in zip(run(), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_lists_written_in_place_are_the_references(plant: Any) -> None:
    step = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "step": 1}
    right = _reference("multi_adamw")

    def run() -> list[Any]:
        lists = [[np.full(n, value) for n in (3, 2)] for value in (1.0, 0.5, 0.0, 0.0)]
        with validation() as checks:
            KERNELS["multi_adamw"](*lists, [0.1, 0.0], **step)
        found.update(checks)
        return [a for arrays in lists for a in arrays]

    found: dict[str, Any] = {}
    expected = run()

    def wrong(params: Any, *rest: Any, **options: Any) -> Any:
        norm = right(params, *rest, **options)
        params[1] += 1
        return norm

    plant("multi_adamw", wrong)
    for got, want in zip(run(), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    assert found["multi_adamw"].faults[0].startswith("multi_adamw: output 2: expected the reference's values")


def test_outside_the_block_nothing_is_noted(plant: Any) -> None:
    gelu = _reference("gelu_fwd")
    plant("gelu_fwd", lambda x: gelu(x) * 1.01)
    with validation() as checks:
        with kernel_mode("reference"):
            ag.gelu(X)
        assert checks == {}
        ag.gelu(X)
    with pytest.raises(AssertionError, match="gelu_fwd"), kernel_mode("validate"):
        ag.gelu(X)
    assert checks["gelu_fwd"].failed == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_command_passes(dtype: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With whatever implementations are registered; where there are none, with one."""
    row = KERNELS["multi_adamw"]
    monkeypatch.setattr(row, "cpu", row.cpu)
    if find_spec("numba") is None:
        register_implementation("multi_adamw", cpu=Implementation(row.reference, lambda *_, **__: None))
    assert main(["validate", "--img-size", "16", "12", "--dtype", dtype]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"swin_cifar_nano at 16x12, batch 2, {dtype} on cpu")
    for kernel in ("window_attention_fwd", "window_attention_bwd", "residual_layer_norm_bwd", "multi_adamw"):
        assert kernel in out


@pytest.mark.parametrize(
    "kernel", ["window_attention_fwd", "window_attention_bwd", "mlp_bwd", "residual_layer_norm_fwd"]
)
def test_the_command_names_a_planted_fault(plant: Any, kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    right = _reference(kernel)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        result = right(*args, **kwargs)
        if not isinstance(result, tuple):
            return result * result.dtype.type(1.001)
        return (result[0] * result[0].dtype.type(1.001), *result[1:])

    plant(kernel, wrong)
    assert main(["validate", "--img-size", "16"]) == 1
    out = capsys.readouterr().out
    assert out.rstrip().endswith(f"at fault: {kernel}")
    assert "1 compared, 0 agree" in out


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--img-size", "1", "2", "3"]) == 2
    assert "expected positive numbers" in capsys.readouterr().err


def test_the_command_does_not_pass_with_nothing_compared(plant: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """No implementation at all, or one that refuses: the reason is said once more at the end."""
    assert main(["validate", "--img-size", "8", "-b", "1"]) == 2
    printed = capsys.readouterr()
    assert "0 compared" in printed.out
    words = (
        "error: NOTHING WAS COMPARED: expected kernels besides the references on cpu; got none: no cpu implementation"
    )
    assert printed.err == f"{words}.\n"
    plant("multi_adamw", _reference("multi_adamw"), lambda *_, **__: "Numba is not installed (planted)")
    assert main(["validate", "--img-size", "8", "-b", "1"]) == 2
    assert "got none: no cpu implementation; Numba is not installed (planted)." in capsys.readouterr().err
