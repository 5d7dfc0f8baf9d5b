"""Where the early head sits: behind the first block of each family of models, and over a transformer's tokens."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dali_salaug import KeepCutout, SaliencyStage, WithEarlyHead, saliency_map

LABELS = torch.tensor([0, 1])
FAMILIES = [  # model, module, channels, convolutions up to it (and in all)
    ("resnet18", "layer1", 64, 5, 20),
    ("wide_resnet50_2", "layer1", 256, 11, 53),
    ("densenet121", "features.denseblock1", 256, 13, 120),
    ("vgg11_bn", "features.3", 64, 1, 8),
    ("regnet_y_400mf", "trunk_output.block1", 48, None, None),
    ("timm/resnet18", "layer1", 64, 5, 20),
    ("timm/resnetv2_18", "stages.0", 64, 5, 21),  # pre-activation; its classifier is a convolution
    ("timm/densenet121", "features.denseblock1", 256, 13, 120),
    ("timm/vgg11_bn", "features.3", 64, 1, 10),  # as are two of its classifier's layers
    ("timm/regnety_002", "s1", 24, None, None),
    ("timm/convnext_atto", "stages.0", 40, None, None),
    ("timm/mobilenetv3_small_050", "blocks.0", 8, None, None),
    ("swin_t", "features.1", 96, None, None),  # channels last
]


def build(name: str) -> nn.Module:
    if name.startswith("timm/"):
        timm = pytest.importorskip("timm")
        return timm.create_model(name.removeprefix("timm/"), num_classes=4)
    return torchvision.models.get_model(name, weights=None, num_classes=4)


class Convolutions(TorchDispatchMode):
    """Counts the convolutions of a forward pass, whoever calls them."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name() == "aten::convolution"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "after", "channels", "early", "whole"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_the_pass_runs_nothing_behind_the_first_block(name, after, channels, early, whole):
    model = build(name)
    network = WithEarlyHead(model, 4)
    assert (network.after, network.classifier.in_features) == (after, channels)

    started, up_to_the_head = [], []
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: started.append(path))
    model.get_submodule(after).register_forward_hook(lambda *_: up_to_the_head.append(len(started)))
    x = torch.randn(2, 3, 64, 64)
    model.eval()
    with torch.no_grad(), Convolutions() as in_the_model:
        model(x)
    expected = started[: up_to_the_head[0]]
    assert len(expected) < len(started) / 2
    started.clear()
    with Convolutions() as in_the_pass:
        saliency = saliency_map(model, x, LABELS, head=network.early)
    assert started == expected
    assert (saliency.shape, saliency.min() >= 0, saliency.max() > 0) == ((2, 32, 32), True, True)
    if whole:
        assert (in_the_pass.count, in_the_model.count) == (early, whole)


def tiny_vit(library: str) -> nn.Module:
    """Of 16 patches and a class token, whose first block the test below runs by hand."""
    torch.manual_seed(0)
    if library == "timm":
        vit = pytest.importorskip("timm").models.VisionTransformer
        return vit(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=4)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    model = torchvision.models.VisionTransformer(image_size=32, patch_size=8, num_classes=4, **sizes)
    nn.init.normal_(model.heads.head.weight)  # torchvision's is zero
    return model


def first_block(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The tokens (B, 17, 32) after the first block."""
    if hasattr(model, "blocks"):
        return model.blocks[0](model._pos_embed(model.patch_embed(images)))
    tokens = torch.cat([model.class_token.expand(len(images), -1, -1), model._process_input(images)], 1)
    return model.encoder.layers[0](tokens + model.encoder.pos_embedding)


@pytest.mark.parametrize(
    ("library", "after"), [("timm", "blocks.0"), ("torchvision", "encoder.layers.encoder_layer_0")]
)
def test_a_transformer_of_one_size_has_a_head_over_its_tokens(library: str, after: str) -> None:
    model = tiny_vit(library)
    network = WithEarlyHead(model, 4, image_size=32)
    assert (network.after, network.classifier.in_features) == (after, 32)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    logits, early = network.train()(images)
    (F.cross_entropy(logits, LABELS) + F.cross_entropy(early, LABELS)).backward()
    assert network.classifier.weight.grad.abs().max() > 0

    pixels = images.clone().requires_grad_()
    pooled = first_block(model.eval(), pixels).sum(1) / 17
    expected = pooled @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(early, expected)  # neither library drops anything by default
    expected[[0, 1], LABELS].sum().backward()
    saliency = saliency_map(model, images, LABELS, head=network.early, scale=1)
    torch.testing.assert_close(saliency, pixels.grad.abs().amax(1))

    with pytest.raises(ValueError, match=f"images of any size as far as '{after}', or image_size must be given"):
        WithEarlyHead(model, 4)
    with pytest.raises(ValueError, match="image_size must be a size that the model takes; it does not take 48×48"):
        WithEarlyHead(model, 4, image_size=48)
    with pytest.raises(ValueError, match=r"cannot take the images reduced to 16×16 pixels .* Give scale=1\.0"):
        SaliencyStage(KeepCutout(6))(model, images, LABELS)


def test_a_transformer_of_one_size_and_channels_last_has_a_head() -> None:
    swin = pytest.importorskip("timm").models.SwinTransformer
    model = swin(img_size=32, patch_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4, num_classes=4)
    network = WithEarlyHead(model.eval(), 4, image_size=32)
    assert (network.after, network.classifier.in_features) == ("layers.0", 16)
    features = model.layers[0](model.patch_embed(images := torch.randn(2, 3, 32, 32)))
    assert features.shape == (2, 8, 8, 16)
    expected = features.sum((1, 2)) / 64 @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network.early(images), expected)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",
        "efficientnet_b0",
        "convnext_tiny",
        "squeezenet1_1",
        "alexnet",
        "timm/dpn48b",
    ],
)
def test_where_the_first_block_is_not_known_the_module_is_asked_for(name):
    model = build(name)
    with pytest.raises(ValueError, match=f"not known for {type(model).__name__} with its .*, .*; got None"):
        WithEarlyHead(model, 4)
