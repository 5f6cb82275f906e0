"""examples/window_transfer.py: what it calls the transferred biases, and that its report is what was measured."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import autograd as ag
import swinpy
from swinpy.data import ImageDataset, Loader
from swinpy.data.scenes.draw import SCENE_CLASSES, generate
from swinpy.geometry import relative_position_index
from swinpy.models.resample import resize_bias_table
from swinpy.train.evaluate import evaluate

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "window_transfer.py"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    spec = importlib.util.spec_from_file_location("window_transfer", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "window_transfer", module)
    spec.loader.exec_module(module)
    return module


def scenes(first, count):
    drawn = generate(0, range(first, first + count))
    return ImageDataset("scenes", drawn.images, drawn.labels, SCENE_CLASSES, True, "", (0.5,) * 3, (0.25,) * 3)


def model_of(example, name, seed=0):
    """A model whose branches and biases are far from 0: as first drawn, they are all but unheard."""
    with ag.fork_rng():
        ag.manual_seed(seed)
        config = swinpy.SwinConfig(
            img_size=example.SIZE,
            window_size=example.WINDOW,
            num_classes=10,
            **example.SHAPE,
            **example.MODELS[name],
        )
        model = swinpy.SwinTransformer(config)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        drawn = rng.normal(0, 0.3, parameter.shape) + (parameter.data == 1)  # weights of norms around 1
        parameter.assign_(drawn.astype(np.float32))
    return model.eval()


def biases(model, window):
    with ag.no_grad():
        return [a.position_bias((window, window)).numpy() for a in model_attentions(model)]


def model_attentions(model):
    return [block.attn for layer in model.layers for block in layer.blocks]


@pytest.mark.parametrize("name", ["V1", "V2"])
def test_nothing_changes_at_the_trained_window(example, name):
    model = model_of(example, name)
    x = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with ag.no_grad():
        want = model(x).numpy()
        for other, method in example.CURVES:
            if other == name and method != "none":
                got = example.transferred(model, method, example.WINDOW)(x).numpy()
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        without = example.transferred(model, "none", example.WINDOW)(x).numpy()
    assert np.abs(without - want).max() > 0.05


@pytest.mark.parametrize("name", ["V1", "V2"])
def test_bicubic_is_the_learned_table_resampled(example, name):
    model, window = model_of(example, name), 12
    larger = example.transferred(model, "bicubic", window)
    index = relative_position_index((window, window), (window, window))
    for old, got in zip(model_attentions(model), biases(larger, window), strict=True):
        table = resize_bias_table(example.learned_biases(old), (8, 8), (window, window))
        np.testing.assert_array_equal(got, table[index].transpose(2, 0, 1))


def test_log_cpb_keeps_the_bias_of_an_offset(example):
    model = model_of(example, "V2")
    larger = example.transferred(model, "log-CPB", 12)
    inner = np.arange(144).reshape(12, 12)[:8, :8].reshape(-1)  # a window of the trained size within the larger one
    for old, new in zip(biases(model, 8), biases(larger, 12), strict=True):
        np.testing.assert_allclose(new[:, inner][:, :, inner], old, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["V1", "V2"])
def test_none_attends_to_every_key_alike(example, name):
    model = example.transferred(model_of(example, name), "none", 12)
    assert all(np.ptp(b, axis=(1, 2)).max() == 0 for b in biases(model, 12))
    assert example.keys(model, 12) == pytest.approx(144)


def test_keys_of_a_peak(example):
    model = model_of(example, "V1")
    for attention in model_attentions(model):
        table = np.zeros(attention.relative_position_bias_table.shape, np.float32)
        table[len(table) // 2] = 100  # the offset (0, 0)
        attention.relative_position_bias_table.assign_(table)
    assert example.keys(model, 8) == pytest.approx(1)


def test_right_agrees_with_evaluate(example):
    model, data = model_of(example, "V1"), scenes(0, 60)
    answer = example.right(model, data)
    assert 100 * answer.mean() == pytest.approx(evaluate(model, Loader(data, 50)).top1)
    assert 0 < answer.sum() < 60


def test_grey_takes_colour_away(example):
    before = scenes(0, 20)
    train, test = example.grey(before, scenes(20, 10))
    assert np.ptp(train.images.astype(int), axis=1).max() == 0
    assert np.ptp(before.images.astype(int), axis=1).max() > 50
    np.testing.assert_allclose(train.mean, train.images.mean((0, 2, 3)) / 255, rtol=1e-9)
    assert test.mean == train.mean


def test_report(example, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(example, "load_dataset", lambda name, folder: (scenes(0, 100), scenes(100, 60)))
    assert example.main(["--max-steps", "2", "--windows", "8,12", "--no-plots", "--output", str(tmp_path)]) == 0
    assert "data scenes (SYNTHETIC): 100 train, 50 test" in capsys.readouterr().out
    report = json.loads((tmp_path / "window_transfer" / "results.json").read_text())
    assert set(report["results"]) == {f"{name} {method}" for name, method in example.CURVES}
    for curve in report["results"].values():
        assert set(curve) == {"8", "12"}
        for row in curve.values():
            assert 0 <= row["top1"] <= 100
            assert row["error"] >= 0
    unchanged = report["results"]["V2 log-CPB"]["8"]
    assert (unchanged["change"], unchanged["error"]) == (0, 0)
