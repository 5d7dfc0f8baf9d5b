"""Which of a network's layers puts out its last feature map, and how the layer's output stores that map."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .gradients import Scalar

PREFIXES = (0, 1, 2, 4, 5, 8, 9)  # tokens before the grid's: class and distillation token, four or eight registers
_found: WeakKeyDictionary[nn.Module, dict[tuple[int, int], str]] = WeakKeyDictionary()  # by the images' size


class Layout(NamedTuple):
    """How a layer's output stores a feature map of m × n positions and K channels."""

    kind: str  # "channels first", (B, K, m, n); "channels last", (B, m, n, K); or "tokens", (B, prefix + m·n, K)
    grid: tuple[int, int]
    prefix: int = 0

    def maps(self, output: Tensor) -> Tensor:
        """Return the feature map, (B, K, m, n)."""
        if self.kind == "channels first":
            return output
        if self.kind == "tokens":
            output = output[:, self.prefix :].unflatten(1, self.grid)
        return output.permute(0, 3, 1, 2)


class Activation(NamedTuple):
    """A layer's output when it left the layer: a layer after it may have written into the tensor since."""

    values: Tensor  # a copy
    edge: GradientEdge  # its place in the autograd graph


class _Output(NamedTuple):
    name: str
    module: nn.Module
    shape: torch.Size
    edge: GradientEdge


def layouts(shape: torch.Size, image_size: tuple[int, int]) -> list[Layout]:
    """Return every way to read an output of that shape as a feature map of images of that size; mostly one or none.

    A grid belongs to an image where one stride explains both of its sides.
    """
    if len(shape) == 4:
        readings = (
            Layout("channels first", (shape[2], shape[3])),
            Layout("channels last", (shape[1], shape[2])),
        )
        fitting = [layout for layout in readings if _is_grid(layout.grid, image_size)]
        nearest = min((_off_aspect(layout.grid, image_size) for layout in fitting), default=0.0)
        return [layout for layout in fitting if _off_aspect(layout.grid, image_size) == nearest]
    if len(shape) == 3:
        found = [(_grid_of(shape[1] - prefix, image_size), prefix) for prefix in PREFIXES]
        tokens = [Layout("tokens", grid, prefix) for grid, prefix in found if grid is not None]
        # 29 tokens of 64×96 pixels are 5 and 4×6 of stride 16, not 1 and 4×7 of stride 13, which leaves pixels over.
        return [layout for layout in tokens if _divides(layout.grid, image_size)][:1] or tokens[:1]
    return []


def _is_grid(grid: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Return whether there is a stride s with |m − H/s| < 1 and |n − W/s| < 1."""
    if any(cells > pixels for cells, pixels in zip(grid, image_size, strict=True)):
        return False
    least = max(pixels / (cells + 1) for cells, pixels in zip(grid, image_size, strict=True))
    most = min(pixels / (cells - 1) if cells > 1 else math.inf for cells, pixels in zip(grid, image_size, strict=True))
    return least < most


def _grid_of(tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the grid of that many tokens that a whole stride makes of the image; None if there is none."""
    height, width = image_size
    for stride in range(1, max(image_size) + 1):
        for grid in ((height // stride, width // stride), (-(-height // stride), -(-width // stride))):
            if grid[0] * grid[1] == tokens > 1:
                return grid
    return None


def _divides(grid: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Return whether square patches of whole pixels fill the image."""
    height, width = image_size
    return height % grid[0] == 0 and width % grid[1] == 0 and height // grid[0] == width // grid[1]


def _off_aspect(grid: tuple[int, int], image_size: tuple[int, int]) -> float:
    return abs(math.log(grid[0] * image_size[1] / (grid[1] * image_size[0])))


def last_feature_map(scalar: Scalar, pixels: Tensor, network: nn.Module) -> str:
    """Return the name of the layer that puts out the last feature map before the last normalisation or global pooling.

    That is the last output, in the order in which layers finish, that reads as a grid of more than one position;
    adaptive pooling and a LayerNorm at the end do not count. Where only a class token reaches the logits from there, as
    after a transformer's last attention, it is the block before.

    The search takes one more pass, and waits for the device, for the first images of each size; its answer is kept.

    Raises:
        ValueError: no layer has such an output.
    """
    image_size = (pixels.shape[-2], pixels.shape[-1])
    names = _found.setdefault(network, {})
    if image_size not in names:
        names[image_size] = _search(scalar, pixels, network)
    return names[image_size]


def _search(scalar: Scalar, pixels: Tensor, network: nn.Module) -> str:
    height, width = pixels.shape[-2:]
    outputs, total = _outputs(scalar, pixels, network)
    readings = [(output, layouts(output.shape, (height, width))) for output in outputs]
    maps = [(output, found[0]) for output, found in readings if found and math.prod(found[0].grid) > 1]
    while len(maps) > 1 and _is_layer_norm(maps[-1][0].module):
        maps.pop()
    if not maps:
        raise ValueError(
            "layer must be given for this model: none of its submodules has an output (B, K, m, n), (B, m, n, K) or"
            f" (B, tokens, K) whose positions, more than one, are a grid over images of {height}×{width} pixels"
        )
    output, layout = maps[-1]
    if layout.prefix:
        before = _sibling_before(output.name, network)
        (gradient,) = torch.autograd.grad(total, output.edge, allow_unused=True)
        if gradient is None or not layout.maps(gradient).any():
            if before not in {other.name for other, _ in maps}:
                raise ValueError(
                    f"layer must be given for this model: of the last one found, {output.name!r}, only the class token"
                    " reaches the logits"
                )
            return before
    return output.name


def _is_layer_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or "RmsNorm" in type(module).__name__


def _sibling_before(name: str, network: nn.Module) -> str:
    """Return the name of the module before it in its container; "" for the first."""
    parent, _, last = name.rpartition(".")
    siblings = list(network.get_submodule(parent)._modules)
    place = siblings.index(last)
    return f"{parent}.{siblings[place - 1]}".lstrip(".") if place else ""


def _outputs(scalar: Scalar, pixels: Tensor, network: nn.Module) -> tuple[list[_Output], Tensor]:
    """Run a pass. Return the submodules' outputs in the order in which they finish, each once, and the scalar."""
    outputs: list[_Output] = []
    seen: set[tuple[int, int]] = set()
    alive: list[Tensor] = []  # so that no id is used twice

    def keep(name: str, module: nn.Module, output: object) -> None:
        if not isinstance(output, Tensor) or not output.requires_grad or output.ndim not in (3, 4):
            return
        mark = (id(output), output._version)
        if mark not in seen and not isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            seen.add(mark)
            alive.append(output)
            outputs.append(_Output(name, module, output.shape, get_gradient_edge(output)))

    def hook(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda module, args, output: keep(name, module, output))

    handles = [hook(name, module) for name, module in network.named_modules() if name]
    try:
        total = scalar(pixels.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    return outputs, total


@contextmanager
def last_output(module: nn.Module) -> Iterator[list[Activation]]:
    """Yield a list that holds, after a pass inside the context, what the module put out last.

    It stays empty where that is no tensor of three or four dimensions that depends on the images.
    """
    found: list[Activation] = []

    def keep(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4) and output.requires_grad:
            found[:] = [Activation(output.detach().clone(), get_gradient_edge(output))]

    handle = module.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()
