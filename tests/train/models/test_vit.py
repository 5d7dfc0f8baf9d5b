"""The small vision transformer: timm's logits, any size of 8 patches a side, maps, early head, memory, and a resumed
run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dali_salaug import saliency_map
from dali_salaug.saliency.feature_maps import last_feature_map
from train.__main__ import main as program
from train.config import Config
from train.data.loaders import resolve_for_data
from train.engine import checkpoint
from train.engine.run import Run
from train.errors import UserError
from train.models.registry import build_model
from train.models.sizes import map_scale, only_side, takes

RENAMED = (  # torchvision's names, and timm's
    ("class_token", "cls_token"), ("conv_proj", "patch_embed.proj"), ("encoder.pos_embedding", "pos_embed"),
    ("encoder.layers.encoder_layer_", "blocks."), ("ln_1", "norm1"), ("ln_2", "norm2"), ("mlp.0", "mlp.fc1"),
    ("mlp.3", "mlp.fc2"), ("self_attention.in_proj_", "attn.qkv."), ("self_attention.out_proj", "attn.proj"),
    ("encoder.ln", "norm"), ("heads.head", "head"),
)  # fmt: skip


def with_random_head(image_size: int) -> nn.Module:
    """Torchvision initialises the head to 0, which has no gradient."""
    torch.manual_seed(0)
    model = build_model("vit_small", 5, image_size).eval()
    nn.init.normal_(model.heads.head.weight)
    return model


@pytest.mark.parametrize("side", [32, 48])
def test_it_is_timms_tiny_one_with_six_blocks(side: int) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=side, patch_size=side // 8, depth=6, num_classes=5)
    ours, weights = with_random_head(side), {}
    for name, value in ours.state_dict().items():
        for old, new in RENAMED:
            name = name.replace(old, new)
        weights[name] = value
    theirs.load_state_dict(weights)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-4, atol=1e-4)


def test_the_size_is_the_datas(shapes: Path) -> None:
    assert only_side("vit_small") is None
    config = resolve_for_data(Config(data=str(shapes), model="vit_small"))
    assert (config.image_size, config.saliency_scale) == (64, 1)  # that of the images; the map is not reduced
    stated = Config(model="vit_small", image_size=40, saliency_scale=0.5)
    assert map_scale(stated, stated.resolved(side=64, embedded=False, cifar=False)) == 0.5
    with torch.device("meta"):
        models = {side: build_model("vit_small", 3, side) for side in (8, 32, 40, 224)}
    for side, model in models.items():
        assert [other for other in (8, 32, 40, 224) if takes(model, (other, other))] == [side]
        assert model.seq_length == 65


@pytest.mark.parametrize("side", [4, 28, 225])
def test_a_size_that_it_cannot_be_built_for(side: int, run_of: Callable[..., Run]) -> None:
    with pytest.raises(ValueError, match=f"image_size must be a multiple of 8; got {side}"):
        build_model("vit_small", 3, side)
    if side == 28:
        with pytest.raises(UserError, match=r"cannot be built for --image-size 28: image_size must be a multiple of 8"):
            run_of(model="vit_small", image_size=28)


@pytest.mark.parametrize("method", ["gradient", "grad_cam"])
def test_maps(method: str) -> None:
    model, images, labels = with_random_head(32), torch.randn(3, 3, 32, 32), torch.tensor([0, 4, 2])
    saliency = saliency_map(model, images, labels, method=method, scale=1.0)
    assert saliency.shape == (3, 32, 32)
    assert saliency.amax((1, 2)).min() > 0
    with pytest.raises(ValueError, match=r"cannot take the images reduced to 16×16 pixels .* Give scale=1.0"):
        saliency_map(model, images, labels, method=method, scale=0.5)


def test_grad_cam_takes_the_last_block_whose_patches_reach_the_logits() -> None:
    """Written out from the tokens of the fifth block, whose grid is 8×8 after the class token."""
    model, images, labels = with_random_head(32), torch.randn(2, 3, 32, 32), torch.tensor([1, 3])
    scores: Callable[[Tensor], Tensor] = lambda x: model(x).gather(1, labels[:, None]).sum()  # noqa: E731
    assert last_feature_map(scores, images, model) == "encoder.layers.encoder_layer_4"
    kept: list[Tensor] = []
    model.encoder.layers.encoder_layer_4.register_forward_hook(lambda module, args, out: kept.append(out))
    (gradient,) = torch.autograd.grad(scores(images), kept[0])
    tokens = kept[0].detach()
    expected = torch.zeros(2, 8, 8)
    for image in range(2):
        weights = gradient[image, 1:].mean(0)
        for place in range(64):
            expected[image, place // 8, place % 8] = max(0.0, float(tokens[image, 1 + place] @ weights))
    found = saliency_map(model, images, labels, method="grad_cam", scale=1.0)
    expected = nn.functional.interpolate(expected[:, None], (32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(found / found.amax(), expected / expected.amax(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"early_head": "auto"},
        {"saliency": "memory"},
        {"saliency": "memory", "memory_layer": "first"},
        {"method": "attentive_cutmix"},
    ],
)
def test_a_step(options: dict[str, Any], run_of: Callable[..., Run]) -> None:
    run = run_of(**{"model": "vit_small", "image_size": 32, "device": "cpu", "method": "keep_cutout"} | options)
    batches = iter(run.train_loader)
    before = [p.detach().clone() for p in run.network.module.parameters()]
    for _ in range(2):  # the second has a head that is no longer 0
        assert run.train_step(batches)["loss"].isfinite()
    after = run.network.module.parameters()
    assert sum(not torch.equal(p, q) for p, q in zip(after, before, strict=True)) > 60
    if "early_head" in options:
        assert run.network.with_head is not None
        assert run.network.with_head.after == "encoder.layers.encoder_layer_0"


def test_a_resumed_run(
    shapes: Path, tmp_path: Path, stop_in_step: Callable[..., Any], same: Callable[[Any, Any], bool]
) -> None:
    words = [f"--data={shapes}", "--model=vit_small", "--method=keep_cutout", "--image-size=16", "--batch-size=8"]
    words += ["--region-size=6", "--train-images=16", "--epochs=2", "--optimizer=adamw", "--device=cpu"]
    assert program([*words, f"--out={tmp_path / 'whole'}"]) == 0
    with stop_in_step(1):
        assert program([*words, f"--out={tmp_path / 'stopped'}"]) == 130
    assert program([*words, f"--out={tmp_path / 'stopped'}", "--resume"]) == 0
    whole, resumed = (checkpoint.load(tmp_path / name / "best.pt") for name in ("whole", "stopped"))
    assert same(whole["model"], resumed["model"])
