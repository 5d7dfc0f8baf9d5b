"""Grad-CAM: against a loop in float64, captum and pytorch-grad-cam; which layer it finds; its errors."""

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from dali_salaug import saliency_map

LABELS = torch.tensor([3, 0, 2, 1])


def draw_images(dtype=torch.float32, shape=(4, 3, 16, 16)):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("target", ["label", "max", "loss"])
@pytest.mark.parametrize(("layer", "depth"), [("features.1", 2), (None, 5)])
def test_equals_a_loop_in_float64(small_net, target, scale, layer, depth):
    small_net.double()
    images = draw_images(torch.float64, (4, 3, 14, 18))
    got = saliency_map(small_net, images, LABELS, method="grad_cam", target=target, scale=scale, layer=layer)
    small_net.eval()
    expected = []
    for image, label in zip(images, LABELS, strict=True):
        pixels = image[None]
        if scale != 1:
            pixels = F.interpolate(pixels, (7, 9), mode="bicubic", antialias=True)
        maps = small_net.features[:depth](pixels).detach().requires_grad_()
        logits = small_net.classifier(small_net.features[depth:](maps).relu().mean((2, 3)))[0]
        # The cross-entropy has a minus sign: evidence for the label is positive.
        {"label": logits[label], "max": max(logits), "loss": logits.log_softmax(0)[label]}[target].backward()
        cam = torch.zeros(maps.shape[-2:], dtype=torch.float64)
        for values, gradient in zip(maps[0].detach(), maps.grad[0], strict=True):
            cam += gradient.mean() * values
        cam = cam.clamp(min=0)[None, None]
        expected.append(F.interpolate(cam, pixels.shape[-2:], mode="bilinear", align_corners=False)[0, 0])
    assert torch.stack(expected).amax((1, 2)).gt(0).sum() >= 2
    torch.testing.assert_close(got.double(), torch.stack(expected), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("layer", ["features.0", "features.2", "features"])
def test_equals_captums(small_net, layer):
    attr = pytest.importorskip("captum.attr", reason="needs captum, of the test dependencies")
    images = draw_images()
    got = saliency_map(small_net, images, LABELS, method="grad_cam", layer=layer, scale=1.0)
    small_net.eval()
    cam = attr.LayerGradCam(small_net, small_net.get_submodule(layer))
    small = cam.attribute(images, target=LABELS, relu_attributions=True)
    expected = attr.LayerAttribution.interpolate(small, (16, 16), "bilinear")
    assert expected.max() > 0
    torch.testing.assert_close(got, expected[:, 0].detach())


@pytest.mark.parametrize("layer", ["features.0", "features.2", "features"])
def test_equals_pytorch_grad_cams(small_net, layer):
    """That library maps each image to [0, 1], and resizes with OpenCV."""
    library = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam, of the test dependencies")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    images = draw_images()
    got = saliency_map(small_net, images, LABELS, method="grad_cam", layer=layer, scale=1.0)
    with library.GradCAM(small_net, [small_net.get_submodule(layer)]) as cam:
        expected = torch.from_numpy(cam(images, [ClassifierOutputTarget(int(label)) for label in LABELS]))
    low, high = got.amin((1, 2), keepdim=True), got.amax((1, 2), keepdim=True)
    assert expected.amax((1, 2)).gt(0).sum() >= 2
    torch.testing.assert_close((got - low) / (high - low).clamp(min=1e-12), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("densenet121", "features"),
        ("vgg11_bn", "features"),
        ("mobilenet_v3_small", "features"),
        ("swin_t", "permute"),  # from (B, m, n, K) to (B, K, m, n), before the pooling
    ],
)
def test_finds_the_last_feature_map_of_torchvisions_models(name, layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # slow initial values
        if name == "vgg11_bn":
            model = torchvision.models.VGG(torchvision.models.vgg11_bn(num_classes=4).features, 4)
            model.classifier = nn.Linear(512 * 49, 4)
        else:
            model = torchvision.models.get_model(name, weights=None, num_classes=4)
    images, labels = draw_images(shape=(2, 3, 64, 64)), torch.tensor([0, 3])
    got = saliency_map(model, images, labels, method="grad_cam", scale=1.0)
    assert torch.equal(got, saliency_map(model, images, labels, method="grad_cam", scale=1.0, layer=layer))


def test_a_layer_after_it_that_works_in_place_changes_nothing():
    def build(inplace):
        torch.manual_seed(0)
        features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(6, 6, 3, padding=1))
        return nn.Sequential(features, nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))

    images = draw_images()
    for layer in (None, "0", "0.0"):
        got, expected = (
            saliency_map(build(inplace), images, LABELS, method="grad_cam", layer=layer) for inplace in (True, False)
        )
        assert expected.max() > 0
        torch.testing.assert_close(got, expected)


def test_names_are_those_of_the_model_inside_its_wrapper(small_net):
    images = draw_images()
    expected = saliency_map(small_net, images, LABELS, method="grad_cam", layer="features.1")
    small_net.features = torch.compile(small_net.features, backend="aot_eager")
    wrapped = torch.compile(small_net, backend="aot_eager")
    for layer in ("features.1", "features"):
        got = saliency_map(wrapped, images, LABELS, method="grad_cam", layer=layer)
        assert got.max() > 0
        assert torch.equal(got, expected) == (layer == "features.1")


def test_takes_the_last_of_several_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.second = nn.Identity()

        def forward(self, x):
            return self.second(self.conv(self.conv(x).relu())).mean((2, 3))

    images, labels = draw_images(), LABELS % 3
    got = saliency_map(Twice(), images, labels, method="grad_cam", layer="conv")
    assert torch.equal(got, saliency_map(Twice(), images, labels, method="grad_cam", layer="second"))


class Odd(nn.Module):
    """A layer without images, one without influence, one never called, one without positions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.aside = nn.Conv2d(3, 4, 3)
        self.constant = nn.Conv2d(3, 4, 3)
        self.never = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Linear(4, 4)

    def forward(self, x):
        self.aside(x)
        self.constant(torch.ones_like(x))
        return self.classifier(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("clasifier", "layer must be the name of a submodule of the model, such as 'classifier'; got 'clasifier'"),
        ("zzz", "such as 'conv', 'aside', 'constant'; got 'zzz'"),
        ("", "layer must be the name of a submodule .*got ''"),
        ("aside", "layer must be one that the logits depend on; 'aside' is not"),
        ("constant", r"layer must be one with an output \(B, K, m, n\) that depends on the images; 'constant' has"),
        ("never", "'never' has none"),
        ("classifier", "'classifier' has none"),
    ],
)
def test_bad_layers_are_named(layer, message):
    with pytest.raises(ValueError, match=message):
        saliency_map(Odd(), draw_images(), LABELS, method="grad_cam", layer=layer)


def test_a_model_without_feature_maps_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    with pytest.raises(ValueError, match="layer must be given for this model: none of its submodules has an output"):
        saliency_map(net, draw_images(), LABELS, method="grad_cam")


def token_networks():
    """Small forms of networks that keep channels last, or tokens; the layer that is meant, and how to read its output.

    The layer stands before the last normalisation. After the last attention of a network that is read off its class
    token no other token reaches the logits, so there it is the block before.
    """
    timm = pytest.importorskip("timm", reason="needs timm, of the test dependencies")
    vit = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 4}
    models = timm.models

    def tokens(prefix, rows=4, columns=4):
        return lambda output: output[:, prefix:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)

    swin = {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 7, "num_classes": 4}
    torchvision_vit = torchvision.models.VisionTransformer(32, 8, 3, 2, 32, 64, num_classes=4)
    channels_last = lambda output: output.permute(0, 3, 1, 2)  # noqa: E731
    return {
        "swin": (models.swin_transformer.SwinTransformer(**swin), 56, "layers.1", channels_last),
        "swinv2": (models.swin_transformer_v2.SwinTransformerV2(**swin), 56, "layers.1", channels_last),
        "mambaout": (
            models.mambaout.MambaOut(depths=(1, 1, 1, 2), dims=(16, 24, 32, 40), num_classes=4),
            64,
            "stages.3",
            channels_last,
        ),
        "vit, class token, normalised keys": (
            models.VisionTransformer(**vit, qk_norm=True), 32, "blocks.1", tokens(1),
        ),
        "vit, mean of the tokens": (
            models.VisionTransformer(**vit, class_token=False, global_pool="avg"), 32, "blocks.2", tokens(0),
        ),
        "vit, registers": (
            models.VisionTransformer(**vit, class_token=False, reg_tokens=4, global_pool="avg"),
            32,
            "blocks.2",
            tokens(4),
        ),
        "vit, not square": (
            models.VisionTransformer(**vit | {"img_size": (32, 48)}), (32, 48), "blocks.1", tokens(1, 4, 6),
        ),
        "mixer": (
            models.MlpMixer(img_size=32, patch_size=8, num_blocks=2, embed_dim=32, num_classes=4),
            32,
            "blocks.1",
            tokens(0),
        ),
        "torchvision's vit": (torchvision_vit, 32, "encoder.layers.encoder_layer_1", tokens(1)),
    }  # fmt: skip


TOKEN_NETWORKS = (
    "swin",
    "swinv2",
    "mambaout",
    "vit, class token, normalised keys",
    "vit, mean of the tokens",
    "vit, registers",
    "vit, not square",
    "mixer",
    "torchvision's vit",
)


@pytest.mark.parametrize("name", TOKEN_NETWORKS)
def test_channels_last_and_tokens(name):
    torch.manual_seed(0)
    model, size, layer, read = token_networks()[name]
    for module in model.modules():  # heads that begin at 0 give no map
        if isinstance(module, nn.Linear) and module.out_features == 4:
            nn.init.normal_(module.weight)
    height, width = size if isinstance(size, tuple) else (size, size)
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([3, 0])
    got = saliency_map(model, images, labels, method="grad_cam", scale=1.0)
    assert torch.equal(got, saliency_map(model, images, labels, method="grad_cam", scale=1.0, layer=layer))

    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    model.eval()
    logits = model(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 3] + logits[1, 0], kept[0])
    weights, maps = read(gradient).mean((2, 3), keepdim=True), read(kept[0])
    expected = F.interpolate((weights * maps).sum(1, keepdim=True).relu(), (height, width), mode="bilinear")[:, 0]
    assert expected.amax((1, 2)).gt(0).any()
    torch.testing.assert_close(got, expected.detach(), rtol=1e-4, atol=1e-7)


def test_the_layer_is_searched_for_once(small_net, no_waiting):
    images = draw_images()
    first = saliency_map(small_net, images, LABELS, method="grad_cam")
    calls = []
    handle = small_net.register_forward_hook(lambda *_: calls.append(1))
    with no_waiting():
        second = saliency_map(small_net, images, LABELS, method="grad_cam")
    handle.remove()
    assert torch.equal(first, second)
    assert len(calls) == 1


def test_what_is_no_grid_is_refused():
    """Seven tokens are no grid over a square, with or without tokens before them."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(3, 7 * 8)
            self.mix = nn.Linear(8, 8)
            self.classifier = nn.Linear(8, 4)

        def forward(self, x):
            return self.classifier(self.mix(self.embed(x.mean((2, 3))).unflatten(1, (7, 8))).relu().mean(1))

    with pytest.raises(ValueError, match="layer must be given for this model: none of its submodules has an output"):
        saliency_map(Tokens(), draw_images(), LABELS, method="grad_cam")
    with pytest.raises(
        ValueError, match=r"layer must be one whose positions are a grid .* 'mix' has an output \(4, 7, 8"
    ):
        saliency_map(Tokens(), draw_images(), LABELS, method="grad_cam", layer="mix")


@pytest.mark.parametrize(
    ("shape", "image_size", "expected"),
    [
        ((2, 8, 7, 7), (224, 224), [("channels first", (7, 7), 0)]),
        ((2, 7, 7, 96), (224, 224), [("channels last", (7, 7), 0)]),
        ((2, 12, 197, 64), (224, 224), []),  # heads × tokens × channels of a key
        ((2, 197, 768), (224, 224), [("tokens", (14, 14), 1)]),
        ((2, 196, 768), (224, 224), [("tokens", (14, 14), 0)]),
        ((2, 201, 768), (224, 224), [("tokens", (14, 14), 5)]),
        ((2, 141, 768), (224, 160), [("tokens", (14, 10), 1)]),
        ((2, 29, 384), (64, 96), [("tokens", (4, 6), 5)]),  # also 1 and 4 × 7, of stride 13
        ((2, 9, 384), (32, 32), [("tokens", (2, 2), 5)]),  # also 3 × 3, of stride 10
        ((2, 12, 384), (60, 40), [("tokens", (4, 3), 0)]),  # no stride divides both sides
        ((2, 7, 5, 96), (224, 160), [("channels last", (7, 5), 0)]),
        ((2, 8, 8, 8), (32, 32), [("channels first", (8, 8), 0), ("channels last", (8, 8), 0)]),
        ((2, 4), (32, 32), []),
    ],
)
def test_layouts(shape, image_size, expected):
    from dali_salaug.saliency.feature_maps import layouts

    assert [tuple(layout) for layout in layouts(torch.Size(shape), image_size)] == expected
