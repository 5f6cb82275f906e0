"""Files between this library and the real ones: what they write loads here with nothing missing, what is written here
loads there strictly, and the logits agree in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from support import tolerances
from support.image_files import picture
from support.swin.models import build, images
from support.swin.parity import import_or_skip
from support.swin.torchvision_stub import make_importable

import autograd as ag
from swinpy import SwinConfig, load_weights, save_weights
from swinpy.data.folder.decode import centre_crop, resize, to_bytes
from swinpy.geometry import log_coordinates
from swinpy.io import read_weights
from swinpy.weights.dialects import from_official

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from swinpy import SwinTransformer

pytestmark = pytest.mark.parity


def _load() -> tuple[Any, ...]:
    import torch

    make_importable(torch)
    import timm.models as timm
    import transformers
    from safetensors.torch import save_file
    from torchvision import transforms
    from torchvision.models import swin_transformer
    from transformers.models import swin, swinv2

    transformers.SwinBackbone  # noqa: B018 (imported on first access)
    return torch, timm, transformers, swin, swinv2, swin_transformer, transforms, save_file


torch, timm, transformers, hf_v1, hf_v2, tv, transforms, save_file = import_or_skip(_load)

# Maps of 16x16, 8x8 and 4x4, windows of 4: shifted, shifted, one window. Nothing is padded, where libraries part.
V1 = SwinConfig(
    img_size=64,
    num_classes=7,
    embed_dim=12,
    depths=(2, 3, 2),
    num_heads=(2, 3, 4),
    window_size=4,
    drop_path_rate=0.0,
)
V2 = V1.with_changes(architecture="v2")
PRETRAINED = V2.with_changes(pretrained_window_sizes=(6, 6, 3))
HF_MASK = -200.0  # transformers' V2 adds the mask of -100 twice
CONFIGS = {"v1": V1, "v1_no_qkv_bias": V1.with_changes(qkv_bias=False), "v2": V2, "v2_pretrained": PRETRAINED}
# torchvision scales coordinates by the present window alone.
LIBRARIES = {"timm": tuple(CONFIGS), "torchvision": ("v1", "v1_no_qkv_bias", "v2"), "hf": tuple(CONFIGS)}
CASES = [(library, name) for library, names in LIBRARIES.items() for name in names]


def _timm(c: SwinConfig) -> Any:
    shared: dict[str, Any] = {
        "img_size": c.image,
        "num_classes": c.num_classes,
        "embed_dim": c.embed_dim,
        "depths": c.depths,
        "num_heads": c.num_heads,
        "window_size": c.window_size,
        "qkv_bias": c.qkv_bias,
        "drop_path_rate": 0.0,
    }
    if c.architecture == "v1":
        return timm.swin_transformer.SwinTransformer(**shared)
    pretrained = c.pretrained_window_sizes or (0,) * len(c.depths)
    return timm.swin_transformer_v2.SwinTransformerV2(pretrained_window_sizes=pretrained, **shared)


def _torchvision(c: SwinConfig) -> Any:
    from functools import partial

    block, attention = tv.SwinTransformerBlock, tv.ShiftedWindowAttention
    merging = tv.PatchMerging
    if c.architecture == "v2":
        block, attention, merging = tv.SwinTransformerBlockV2, tv.ShiftedWindowAttentionV2, tv.PatchMergingV2
    return tv.SwinTransformer(
        [c.patch_size] * 2,
        c.embed_dim,
        list(c.depths),
        list(c.num_heads),
        [c.window_size] * 2,
        stochastic_depth_prob=0.0,
        num_classes=c.num_classes,
        block=partial(block, attn_layer=partial(attention, qkv_bias=c.qkv_bias)),
        downsample_layer=merging,
    )


def _hf_config(c: SwinConfig, **more: Any) -> Any:
    kind = hf_v1.SwinConfig if c.architecture == "v1" else hf_v2.Swinv2Config
    if c.architecture == "v2":
        more["pretrained_window_sizes"] = c.pretrained_window_sizes or (0,) * len(c.depths)
    config = kind(
        image_size=c.image[0],
        patch_size=c.patch_size,
        num_labels=c.num_classes,
        embed_dim=c.embed_dim,
        depths=list(c.depths),
        num_heads=list(c.num_heads),
        window_size=c.window_size,
        qkv_bias=c.qkv_bias,
        use_absolute_embeddings=c.position in ("absolute", "both"),
        drop_path_rate=0.0,
        **more,
    )
    if c.architecture == "v1":
        config._attn_implementation = "sdpa"  # the eager one casts to float32
    return config


def _hf(c: SwinConfig, kind: str = "ForImageClassification") -> Any:
    name = ("Swin" if c.architecture == "v1" else "Swinv2") + kind
    return getattr(transformers, name)(_hf_config(c))


MAKE: dict[str, Callable[[SwinConfig], Any]] = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}


def _redrawn(twin: Any, config: SwinConfig, seed: int = 0) -> Any:
    """In float64, every parameter random; coordinates, which they compute in float32, to all digits."""
    rng = np.random.default_rng(seed)
    twin = twin.double().eval()
    with torch.no_grad():
        for name, p in twin.named_parameters():
            scale = 1 / np.sqrt(np.prod(p.shape[1:])) if p.ndim > 1 else 0.3
            value = rng.standard_normal(tuple(p.shape)) * scale
            p.copy_(torch.tensor(value + ("norm" in name and name.endswith("weight"))))
    _exact(twin, config)
    return twin


def _exact(twin: Any, config: SwinConfig) -> None:
    pretrained = config.pretrained_window_sizes or (0,) * len(config.depths)
    stage_of = {c: s for s, c in enumerate(config.num_heads)}
    for module in twin.modules():
        table = getattr(module, "relative_coords_table", None)
        if table is None or not hasattr(module, "logit_scale"):
            continue
        stage = stage_of[module.logit_scale.shape[0]]
        learned = pretrained[stage] or config.window(stage)[0]
        exact = log_coordinates(config.window(stage), (learned, learned)).reshape(tuple(table.shape))
        assert np.abs(table.numpy() - exact).max() < 1e-6
        module.relative_coords_table = torch.tensor(exact)


def _logits(twin: Any, x: Any) -> Any:
    with torch.no_grad():
        out = twin(torch.tensor(x))
    return (out.logits if hasattr(out, "logits") else out).numpy()


def _agree(got: Any, want: Any) -> None:
    error = float(np.abs(got - want).max() / np.abs(want).max())
    assert error <= tolerances.PARITY, f"off by {error:.2e}"


def _tensors(path: Path) -> dict[str, Any]:
    """As a user of torch reads them."""
    if path.suffix == ".pth":
        state: dict[str, Any] = torch.load(path, weights_only=True)
        return state
    return {name: torch.tensor(array) for name, array in read_weights(path).items()}


def _save(state: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, path, metadata={"format": "pt"})
    return path


def _ours(library: str, config: SwinConfig, seed: int) -> SwinTransformer:
    twice = library == "hf" and config.architecture == "v2"
    return build(config.with_changes(mask_value=HF_MASK) if twice else config, seed=seed)


def _check_reads(twin: Any, config: SwinConfig, file: Path, dialect: str) -> SwinTransformer:
    model = _ours(dialect, config, seed=9)
    report = load_weights(model, file)
    assert report.dialect == dialect
    assert not report.missing
    assert not report.unexpected
    assert not report.cast
    assert not report.resized
    assert len(report.used) == len(dict(model.named_parameters()))
    assert all("buffer" in why for why in report.ignored.values())
    x = images(config.image)
    _agree(model(x).numpy(), _logits(twin, x))
    return model


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(("library", "name"), CASES)
def test_their_file_here(library: str, name: str, suffix: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    twin = _redrawn(MAKE[library](config), config)
    dialect = "hf5" if (library, config.architecture) == ("hf", "v1") else library
    _check_reads(twin, config, _save(twin.state_dict(), tmp_path / f"w{suffix}"), dialect)


@pytest.mark.parametrize(("library", "name"), CASES)
def test_their_state_dict_here(library: str, name: str) -> None:
    config = CONFIGS[name]
    twin = _redrawn(MAKE[library](config), config, seed=1)
    model = _ours(library, config, seed=9)
    report = load_weights(model, {"model": twin.state_dict()})
    assert not report.missing
    assert len(report.used) == len(dict(model.named_parameters()))
    x = images(config.image)
    _agree(model(x).numpy(), _logits(twin, x))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(("library", "name"), CASES)
def test_our_file_there(library: str, name: str, suffix: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    model = _ours(library, config, seed=0)
    dialect = "hf5" if (library, config.architecture) == ("hf", "v1") else library
    report = save_weights(model, tmp_path / f"w{suffix}", dialect)
    assert not report.dropped
    assert not report.notes
    twin = MAKE[library](config).double().eval()
    twin.load_state_dict(_tensors(tmp_path / f"w{suffix}"), strict=True)
    if library != "torchvision":  # its files hold the coordinates
        _exact(twin, config)
    x = images(config.image)
    _agree(_logits(twin, x), model(x).numpy())


@pytest.mark.parametrize("name", ["v1", "v2", "v2_pretrained"])
def test_official_file_through_timms_filter(name: str, tmp_path: Path) -> None:
    """timm reads the official layout, its own older one, by a filter of its own."""
    config = CONFIGS[name]
    model = build(config)
    save_weights(model, tmp_path / "w.safetensors", "official")
    twin = _timm(config).double().eval()
    module = timm.swin_transformer if config.architecture == "v1" else timm.swin_transformer_v2
    twin.load_state_dict(
        module.checkpoint_filter_fn({"model": _tensors(tmp_path / "w.safetensors")}, twin), strict=True
    )
    _exact(twin, config)
    x = images(config.image)
    _agree(_logits(twin, x), model(x).numpy())


# ---- transformers


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_hub_files_of_transformers(name: str, tmp_path: Path) -> None:
    """save_pretrained writes the names of version 4 for V1 as well; from_pretrained reads ours."""
    config = CONFIGS[name]
    twin = _redrawn(_hf(config), config)
    twin.save_pretrained(tmp_path / "theirs")
    model = _check_reads(twin, config, tmp_path / "theirs" / "model.safetensors", "hf")

    folder = tmp_path / "ours"
    folder.mkdir()
    save_weights(model, folder / "model.safetensors", "hf")
    twin.config.save_pretrained(folder)
    again, info = type(twin).from_pretrained(folder, output_loading_info=True, dtype=torch.float64)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    for key, value in twin.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_masked_image_model(name: str) -> None:
    config = CONFIGS[name].with_changes(num_classes=0)
    twin = _redrawn(_hf(config, "ForMaskedImageModeling"), config)
    model = build(config, seed=9)
    report = load_weights(model, twin.state_dict())
    pretraining = sorted(k for k, why in report.ignored.items() if "pretraining" in why)
    prefix = "swin" if name == "v1" else "swinv2"
    assert pretraining == ["decoder.0.bias", "decoder.0.weight", f"{prefix}.embeddings.mask_token"]
    assert len(report.used) == len(dict(model.named_parameters()))
    assert not report.missing


def test_backbone() -> None:
    # transformers' backbone shifts windows even where the map is one window, so every map is larger here
    config = V1.with_changes(num_classes=0, feature_norms=(0, 1, 2), img_size=128)
    twin = transformers.SwinBackbone(_hf_config(config, out_features=["stage1", "stage2", "stage3"]))
    twin = _redrawn(twin, config)
    model = build(config, seed=9)
    report = load_weights(model, twin.state_dict())
    assert not report.missing
    assert len(report.used) == len(dict(model.named_parameters()))
    x = images(config.image)
    with torch.no_grad():
        want = twin(torch.tensor(x)).feature_maps
    for ours, theirs in zip(model.features(x), want, strict=True):
        _agree(ours.numpy(), theirs.numpy())


def test_absolute_position(tmp_path: Path) -> None:
    config = V1.with_changes(position="both")
    twin = _redrawn(_hf(config), config)
    _check_reads(twin, config, _save(twin.state_dict(), tmp_path / "w.safetensors"), "hf5")


# ---- within other models

FOUR = SwinConfig(  # one block in the last stage, whose map is one window: transformers' backbones shift there
    img_size=128,
    num_classes=0,
    embed_dim=12,
    depths=(2, 1, 2, 1),
    num_heads=(2, 3, 4, 4),
    window_size=4,
    drop_path_rate=0.0,
    feature_norms=(0, 1, 2, 3),
)
FEATURES = ["stage1", "stage2", "stage3", "stage4"]


def _upernet() -> tuple[Any, Any]:
    backbone = _hf_config(FOUR, out_features=FEATURES)
    whole = transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(backbone_config=backbone, hidden_size=8, auxiliary_in_channels=48)
    )
    return whole, whole.backbone


def _maskformer() -> tuple[Any, Any]:
    sizes = {"d_model": 16, "num_queries": 4, "encoder_layers": 1, "decoder_layers": 1}
    decoder = transformers.DetrConfig(**sizes, encoder_attention_heads=2, decoder_attention_heads=2)
    backbone = _hf_config(FOUR, out_features=FEATURES)
    config = transformers.MaskFormerConfig(backbone_config=backbone, decoder_config=decoder)
    whole = transformers.MaskFormerForInstanceSegmentation(config)
    return whole, whole.model.pixel_level_module.encoder


def _mask2former() -> tuple[Any, Any]:
    sizes = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "dim_feedforward"), 32)
    layers = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "encoder_feedforward_dim": 16}
    backbone = _hf_config(FOUR, out_features=FEATURES)
    config = transformers.Mask2FormerConfig(backbone_config=backbone, **sizes, **layers)
    whole = transformers.Mask2FormerForUniversalSegmentation(config)
    return whole, whole.model.pixel_level_module.encoder


@pytest.mark.parametrize("make", [_upernet, _maskformer, _mask2former])
def test_backbones_within_segmentation_models_of_transformers(make: Callable[[], tuple[Any, Any]]) -> None:
    whole, backbone = make()
    _redrawn(backbone, FOUR)
    model = build(FOUR, seed=9)
    state = whole.state_dict()
    report = load_weights(model, state)
    assert not report.missing
    assert len(report.used) == len(dict(model.named_parameters()))
    assert {k for k, why in report.ignored.items() if "another part" in why} < set(state)
    x = images(FOUR.image)
    with torch.no_grad():
        want = backbone(torch.tensor(x)).feature_maps
    for ours, theirs in zip(model.features(x), want, strict=True):
        _agree(ours.numpy(), theirs.numpy())


def test_the_encoder_of_donut() -> None:
    """It has no final norm, and that is said."""
    config = FOUR.with_changes(feature_norms=())
    donut = transformers.DonutSwinConfig(**_hf_config(config).to_dict())
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 8))}
    text = transformers.MBartConfig(
        d_model=16, encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=9, **sizes
    )
    both = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(donut, text)
    whole = transformers.VisionEncoderDecoderModel(config=both)
    _redrawn(whole.encoder, config)
    model = build(config, seed=9)
    with pytest.raises(ValueError, match=r"norm\.weight, norm\.bias: expected in the file, under encoder\.; got"):
        load_weights(model, whole.state_dict())
    report = load_weights(model, whole.state_dict(), strict=False)
    assert set(report.missing) == {"norm.weight", "norm.bias"}
    assert report.prefix == "encoder."
    x = images(config.image)
    with torch.no_grad():
        last = whole.encoder(torch.tensor(x)).last_hidden_state
    norm = [torch.tensor(model.state_dict()[f"norm.{leaf}"]) for leaf in ("weight", "bias")]
    want = torch.nn.functional.layer_norm(last, last.shape[-1:], *norm, eps=config.layer_norm_eps).numpy()
    _agree(model.forward_features(x).numpy().reshape(want.shape), want)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_feature_extractors_of_timm(version: str) -> None:
    name = {"v1": "swin_tiny_patch4_window7_224", "v2": "swinv2_tiny_window8_256"}[version]
    sizes = {"img_size": 64, "embed_dim": 12, "depths": (2, 3, 2), "num_heads": (2, 3, 4), "window_size": 4}
    config = CONFIGS[version].with_changes(num_classes=0)
    twin = timm.create_model(name, features_only=True, out_indices=(0, 1, 2), **sizes)
    for whole in ("", "encoder.model."):
        twin = _redrawn(twin, config)
        model = build(config, seed=9)
        report = load_weights(model, {whole + k: v for k, v in twin.state_dict().items()})
        assert report.dialect == "timm-features"
        assert set(report.missing) == {"norm.weight", "norm.bias"}
        assert len(report.used) == len(twin.state_dict())
    x = images(config.image)
    with torch.no_grad():
        want = [feature.numpy() for feature in twin(torch.tensor(x))]
    for ours, theirs in zip(model.features(x, norm=False), want, strict=True):
        _agree(ours.numpy().transpose(0, 2, 3, 1), theirs)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_input_channels_as_timm_adapts_them(channels: int) -> None:
    from timm.models._manipulate import adapt_input_conv

    weight = build(V1).state_dict()["patch_embed.proj.weight"]
    model = build(V1.with_changes(in_chans=channels), seed=9)
    load_weights(model, build(V1).state_dict(), in_chans="repeat")
    want = adapt_input_conv(channels, torch.tensor(weight, dtype=torch.float32)).numpy()
    got = model.state_dict()["patch_embed.proj.weight"]
    np.testing.assert_allclose(got, want, rtol=4 * 2.0**-24, atol=2.0**-24 * np.abs(weight).max())


# ---- mmdet: merging by unfold


def test_merging_by_unfold_is_ours_after_the_reorder() -> None:
    """mmdet's PatchMerging: nn.Unfold(2, stride=2), norm over 4C, linear; with weights from our file."""
    model = build(V1)
    arrays = from_official(model.state_dict(), "mmdet").arrays
    x = np.random.default_rng(0).standard_normal((2, 8, 6, V1.embed_dim))
    want = model.layers[0].downsample(ag.Tensor(x)).numpy()
    prefix = "backbone.stages.0.downsample."
    norm, reduction = torch.nn.LayerNorm(4 * V1.embed_dim).double(), torch.tensor(arrays[f"{prefix}reduction.weight"])
    norm.load_state_dict({k: torch.tensor(arrays[f"{prefix}norm.{k}"]) for k in ("weight", "bias")})
    with torch.no_grad():
        cells = torch.nn.Unfold(2, stride=2)(torch.tensor(x).permute(0, 3, 1, 2)).transpose(1, 2)
        got = torch.nn.functional.linear(norm(cells), reduction).numpy()
    _agree(got.reshape(want.shape), want)


# ---- images


@pytest.mark.parametrize("size", [(57, 83), (90, 61), (224, 300), (31, 31), (20, 64)])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_evaluation_pixels_are_torchvisions(size: tuple[int, int], mode: Literal["bicubic", "bilinear"]) -> None:
    """Resize and centre crop of the same image, bit for bit; also where the crop reaches beyond the image."""
    image = picture(4, size)
    filters = transforms.InterpolationMode(mode)
    for shorter, crop in ((37, (32, 32)), (48, (48, 40)), (25, (32, 30))):
        want = transforms.CenterCrop(crop)(transforms.Resize(shorter, filters)(image))
        got = to_bytes(centre_crop(resize(image, shorter, mode), crop))
        np.testing.assert_array_equal(got, np.asarray(want).transpose(2, 0, 1))
    direct = transforms.Resize((33, 47), filters)(image)
    np.testing.assert_array_equal(to_bytes(resize(image, (33, 47), mode)), np.asarray(direct).transpose(2, 0, 1))
