"""The early classification head: saliency from the network's first block alone (KeepAugment §3.1)."""

import difflib
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .._checks import check_whole_number
from .feature_maps import layouts
from .observer import observing, unwrap

# Where the first block ends: ResNet, PreActResNet, PyramidNet and torchvision's wide ones; CIFAR's WideResNet;
# DenseNet; RegNet (torchvision's, timm's); timm's PreActResNet (resnetv2) and its other models made of stages; timm's
# ViT and EfficientNet; its Swin; torchvision's ViT. VGG has no name for it: its first block ends with the first
# pooling. Torchvision's Swin has none either.
FIRST_BLOCKS = (
    "layer1", "block1", "features.denseblock1", "denseblock1", "trunk_output.block1", "s1", "stages.0", "blocks.0",
    "layers.0", "encoder.layers.encoder_layer_0",
)  # fmt: skip
_PROBES: tuple[tuple[int, int], ...] = ((64, 64), (48, 32))  # pixels; two sizes tell channels from places
_DIMENSIONS = {"channels first": (1, (2, 3)), "channels last": (3, (1, 2)), "tokens": (2, (1,))}  # channels, positions


class WithEarlyHead(nn.Module):
    """A network with a second classifier after its first block: global average pooling and a linear layer.

    KeepAugment §3.1 trains both, with the total loss = loss + 0.3 × loss of the head (§4, "Settings"), and takes the
    saliency map from the head, whose pass ends after the first block. Wrap and compile this module, because
    DistributedDataParallel must see the head's parameters, and pass its parameters to the optimizer.

    In training mode a call returns the network's logits and the head's, from one forward pass; in eval mode it returns
    the network's alone. Export :attr:`model`, the original module, which only has a forward hook more;
    :meth:`detach` removes the hook.

    Args:
        model: images (B, C, H, W) to logits, not wrapped in DistributedDataParallel. Its class is not changed.
        num_classes: K, 1 or more.
        after: the module whose output (B, channels, h, w), (B, h, w, channels) or (B, tokens, channels) the head
            reads, by its name in ``model.named_modules()``; it must run once in a forward pass. By default the end of
            the first block, by the names in ``FIRST_BLOCKS``, the first pooling of a VGG, or the first stage of
            torchvision's Swin.
        image_size: side of the images in pixels, or (height, width), for a model that takes only one size, such as a
            vision transformer.

    Attributes:
        model: the network.
        classifier: the head's linear layer, channels to K, on the device and in the dtype of the network's weights.
        after: the module's name.

    Raises:
        ValueError: for an argument outside the ranges above; for an unknown name, with the closest names.

    Example:
        >>> network = WithEarlyHead(resnet50(), 1000)
        >>> optimizer = SGD(network.parameters(), lr=0.1)
        >>> stage = SaliencyStage(KeepCutout(), head=network.early)
        >>> for images, labels in loader:
        ...     inputs, targets = stage(network, images, labels)
        ...     logits, early = network(inputs)
        ...     loss = F.cross_entropy(logits, targets) + 0.3 * F.cross_entropy(early, targets)
        ...     loss.backward()
        >>> torch.save(network.model.state_dict(), "resnet50.pt")
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        after: str | None = None,
        *,
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module) or isinstance(model, DistributedDataParallel | DataParallel):
            raise ValueError(
                f"model must be a torch.nn.Module, to be wrapped in DistributedDataParallel together with its head "
                f"(DistributedDataParallel(WithEarlyHead(model, ...))); got {type(model).__name__}"
            )
        check_whole_number("num_classes", num_classes, 1)
        size = None if image_size is None else _pair(image_size)
        network = unwrap(model)
        self.after = _first_block(network) if after is None else _checked_name(network, after)
        weight = next(network.parameters(), torch.empty(0))
        channels, positions = _layout(network, self.after, weight.device, size)
        self.model = model
        self.classifier = nn.Linear(channels, num_classes, device=weight.device, dtype=weight.dtype)
        # The hook stays, and is idle outside a training pass: torch.compile keeps the hooks that it saw first.
        self._tap = _Tap(positions)
        self._handle = network.get_submodule(self.after).register_forward_hook(self._tap, prepend=True)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the network's logits (B, K); in training mode, the head's too, (B, num_classes).

        Raises:
            RuntimeError: in training mode, if the head's module did not run exactly once, or its hook was removed.
        """
        if not self.training:
            return self.model(images)
        self._tap.wants = "all"
        try:
            logits = self.model(images)
        finally:
            pooled = self._tap.take()
        if len(pooled) != 1:
            raise RuntimeError(
                f"{self.after!r} must run once in a forward pass of the model, with the hook of its early head; it was "
                f"seen {len(pooled)} times (after detach, in DataParallel, or with the model compiled and run before?)"
            )
        return logits, self.classifier(pooled[0])

    @property
    def early(self) -> "EarlyLogits":
        """The head alone, for the ``head`` of :func:`saliency_map` and :class:`SaliencyStage`.

        It shares the weights of this network: each call uses them as they are then.
        """
        return EarlyLogits(unwrap(self.model), self.classifier, self._tap)

    def detach(self) -> nn.Module:
        """Remove the hook from :attr:`model`, and return the model as it was without the head."""
        self._handle.remove()
        return self.model


class EarlyLogits(nn.Module):
    """The network as far as its early head: images (B, C, H, W) to the head's logits (B, K).

    Raises:
        RuntimeError: at a call, if the head's hook was removed.
    """

    def __init__(self, model: nn.Module, classifier: nn.Module, tap: "_Tap") -> None:
        super().__init__()
        self.model, self.classifier, self._tap = model, classifier, tap

    def forward(self, images: Tensor) -> Tensor:
        self._tap.wants = "first"
        try:
            self.model(images)
        except _Reached:
            pass
        finally:
            pooled = self._tap.take()
        if not pooled:
            raise RuntimeError("the hook of the early head is no longer on the model (after detach?)")
        return self.classifier(pooled[0])


class _Tap:
    """A forward hook that pools its module's outputs on demand: "all", or only the "first", after which the pass ends.

    It pools at once, because the next layer may overwrite the output in place.

    Args:
        positions: the dimensions over which it averages.
    """

    def __init__(self, positions: tuple[int, ...]) -> None:
        self._positions = positions
        self.wants = "none"
        self.pooled: list[Tensor] = []

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        if self.wants == "none":
            return
        self.pooled.append(output.mean(self._positions))
        if self.wants == "first":
            raise _Reached

    def take(self) -> list[Tensor]:
        """Return the pooled outputs, and forget them and the demand."""
        pooled, self.pooled, self.wants = self.pooled, [], "none"
        return pooled


class _Reached(Exception):
    """Ends a forward pass that needs to run no further."""


def _pair(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width; raise ValueError where they are none."""
    if not isinstance(image_size, tuple):
        image_size = image_size, image_size
    if len(image_size) != 2:
        raise ValueError(f"image_size must be a whole number, or two, (height, width); got {image_size}")
    for side in image_size:
        check_whole_number("image_size", side, 1)
    return image_size


def _layout(
    model: nn.Module, after: str, device: torch.device, image_size: tuple[int, int] | None
) -> tuple[int, tuple[int, ...]]:
    """Return the channels of a module's output, and the dimensions of its positions; the model is only observed."""
    sizes = _PROBES
    try:
        shapes = _output_shapes(model, after, device, sizes)
    except (RuntimeError, ValueError, AssertionError) as error:
        if image_size is None:
            raise ValueError(
                f"model must take images of any size as far as {after!r}, or image_size must be given; it does not "
                f"take {_PROBES}: {error}"
            ) from error
        sizes = (image_size,)
        try:
            shapes = _output_shapes(model, after, device, sizes)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(
                f"image_size must be a size that the model takes; it does not take {image_size[0]}×{image_size[1]} "
                f"pixels: {error}"
            ) from error
    if len(shapes) < len(sizes):
        raise ValueError(f"after must name a module that the model's forward pass runs; it does not run {after!r}")
    kind = _kind(shapes, sizes)
    if kind is None:
        seen = (f"{s or 'no tensor'} for an image of {size} pixels" for s, size in zip(shapes, sizes, strict=True))
        raise ValueError(
            "after must name a module that puts out a feature map (B, channels, h, w) or (B, h, w, channels), or "
            f"tokens (B, tokens, channels); {after!r} puts out {', '.join(seen)}"
        )
    channel, positions = _DIMENSIONS[kind]
    return shapes[0][channel], positions


def _kind(shapes: list[tuple[int, ...]], sizes: tuple[tuple[int, int], ...]) -> str | None:
    """Return the kind of layout of an output, see `Layout`, from its shape for each size; None where it has none."""
    if len(shapes) == 1:
        kinds = {layout.kind for layout in layouts(torch.Size(shapes[0]), sizes[0])}
        return kinds.pop() if len(kinds) == 1 else None
    first, second = shapes
    if len(first) == 4 and first[1] == second[1]:
        return "channels first"
    if len(first) == 4 and first[3] == second[3]:
        return "channels last"
    return "tokens" if len(first) == 3 and first[2] == second[2] and first[1] != second[1] else None


def _output_shapes(
    model: nn.Module, after: str, device: torch.device, sizes: tuple[tuple[int, int], ...]
) -> list[tuple[int, ...]]:
    """Return the shape of a module's output for one image of each size; () of what is no tensor, none if not run."""
    in_channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    shapes: list[tuple[int, ...]] = []

    def look(module: nn.Module, args: tuple, output: object) -> None:
        shapes.append(tuple(output.shape) if isinstance(output, Tensor) else ())
        raise _Reached

    handle = model.get_submodule(after).register_forward_hook(look, prepend=True)
    try:
        for size in sizes:
            with suppress(_Reached), observing(model, device) as forward:
                forward(torch.zeros(1, in_channels, *size, device=device))
    finally:
        handle.remove()
    return shapes


def _checked_name(model: nn.Module, after: str) -> str:
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if after in names:
        return after
    close = difflib.get_close_matches(str(after), names, n=5, cutoff=0.4) or [
        name for name, _ in model.named_children()
    ]
    raise ValueError(f"after must name a module of the model, such as {', '.join(close)}; got {after!r}")


def _first_block(model: nn.Module) -> str:
    modules = dict(model.named_modules())
    kind, own = type(model).__name__.lower(), []
    if "vgg" in kind:  # elsewhere the first pooling may end a stem
        own = [name for name, module in modules.items() if isinstance(module, nn.MaxPool2d)]
    elif "swin" in kind:  # elsewhere this may be a ReLU
        own = ["features.1"]
    for name in (*FIRST_BLOCKS, *own):
        if name in modules:
            return name
    raise ValueError(
        f"after must name the module that ends the first block, which is not known for {type(model).__name__} with its "
        f"{', '.join(name for name, _ in model.named_children())}; got None"
    )
