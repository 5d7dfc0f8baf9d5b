"""A small vision transformer for small images: torchvision's, with patches that fit the image."""

from torch import nn

GRID = 8  # patches along a side


def vit_small(num_classes: int, image_size: int | None = None) -> nn.Module:
    """Build a vision transformer of 64 patches, whatever the image's size: 2.7 M parameters, as DeiT-Ti but 6 layers.

    Its class is torchvision's (Dosovitskiy et al. 2021, arXiv:2010.11929). The patches have an eighth of the image's
    side, 4 pixels at 32×32 and 28 at 224×224; so the cost hardly depends on the size: 180 M multiply-adds. It takes
    images of one size alone, hence its saliency maps are made at full resolution.

    Args:
        num_classes: K, the number of logits.
        image_size: H = W in pixels, a multiple of 8; None: 32.

    Raises:
        ValueError: `image_size` is no such number.
    """
    from torchvision.models import VisionTransformer

    return VisionTransformer(**arguments(num_classes, image_size))


def arguments(num_classes: int, image_size: int | None = None) -> dict[str, int]:
    """Return the arguments of torchvision's `VisionTransformer` that make `vit_small`, see there."""
    side = 32 if image_size is None else image_size
    if side < GRID or side % GRID:
        raise ValueError(f"image_size must be a multiple of {GRID}; got {side}")
    return {
        "image_size": side,
        "patch_size": side // GRID,
        "num_layers": 6,
        "num_heads": 3,  # this and the two below as in Touvron et al. 2021, arXiv:2012.12877, table 1
        "hidden_dim": 192,
        "mlp_dim": 768,
        "num_classes": num_classes,
    }
