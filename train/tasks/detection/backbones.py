"""A classifier as the backbone of a detector: its stages, found by tracing, and the parts that a detector uses."""

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor

from train.errors import UserError, first_line

_SIDE = 256  # pixels, of the image by which the stages are found
_DEEPEST = 32  # stride of the last stage


class Stage(NamedTuple):
    """The part of a network at one resolution.

    Its last output is all that later parts depend on.
    """

    node: str  # the name of that output, for create_feature_extractor
    stride: int  # side of the image over side of the output
    channels: int
    parameters: list[str]  # names


def stages_of(model: nn.Module, name: str) -> list[Stage]:
    """Return the stages of a classifier, from the first to the last. Of torchvision's ResNets these are conv1 with bn1,
    and layer1 to layer4.

    Args:
        name: of the model, for messages.

    Raises:
        UserError: torch.fx cannot trace the model, the model does not take images of 256×256 pixels, or it has no two
            feature maps whose sides are those of the image over powers of 2.
    """
    training = model.training
    tracer = NodePathTracer(**_tracing(model))
    try:
        try:
            graph = tracer.trace(model.eval())
        except Exception as error:  # of the model's own code, which runs on proxies
            reason = f"torch.fx cannot trace it: {first_line(error)}"
            raise UserError(f"--model {name} cannot be a backbone: {reason}") from error
        traced = GraphModule(tracer.root, graph)
        device = next(model.parameters()).device
        try:
            with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # on which it prints its errors
                ShapeProp(traced).propagate(torch.zeros(1, 3, _SIDE, _SIDE, device=device))
        except Exception as error:  # of the model's own code, whose words ShapeProp has as the cause of its own
            reason = f"it fails on an image of {_SIDE}×{_SIDE} pixels: {first_line(error.__cause__ or error)}"
            raise UserError(f"--model {name} cannot be a backbone: {reason}") from error
    finally:
        model.train(training)
    nodes = list(graph.nodes)
    cuts: dict[int, int] = {}  # place of the last node with this stride that alone leads on
    reach = 0  # place of the last node that uses one before
    places = {node: place for place, node in enumerate(nodes)}
    for place, node in enumerate(nodes):
        stride = _stride(node)
        if stride and reach <= place and node.op != "placeholder":
            cuts[stride] = place
        reach = max([reach, *(places[user] for user in node.users)])
    strides = sorted(cuts)
    if len(strides) < 2:
        raise UserError(
            f"--model {name} cannot be a backbone: it has no feature maps at two resolutions, as residual networks have"
        )
    stages, start = [], 0
    for stride in strides:
        end = cuts[stride]
        names = _parameters(traced, nodes[start : end + 1])
        shape = nodes[end].meta["tensor_meta"].shape
        stages.append(Stage(tracer.node_to_qualname[nodes[end]], stride, int(shape[1]), names))
        start = end + 1
    return stages


def _tracing(model: nn.Module) -> dict[str, Any]:
    """Return how torch.fx traces a model: not into BatchNorm, which would keep the mode that it had then, nor into what
    create_feature_extractor leaves whole."""
    whole: set[type[nn.Module]] = set()
    whole |= {type(module) for module in model.modules() if isinstance(module, _BatchNorm)}
    whole |= {each for each in vars(torchvision.ops).values() if isinstance(each, type) and issubclass(each, nn.Module)}
    return {"leaf_modules": list(whole), "autowrap_modules": (math, torchvision.ops)}


def _stride(node: Node) -> int:
    """Return the side of the image over the side of a node's square feature map; 0 where it is none."""
    shape: Sequence[int] = getattr(node.meta.get("tensor_meta"), "shape", ())
    if len(shape) != 4 or shape[2] != shape[3] or _SIDE % shape[2]:
        return 0
    stride = _SIDE // shape[2]
    return stride if stride <= _DEEPEST and stride & (stride - 1) == 0 else 0


def _parameters(traced: GraphModule, nodes: Sequence[Node]) -> list[str]:
    names: dict[str, None] = {}
    for node in nodes:
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            names |= dict.fromkeys(f"{node.target}.{name}" for name, _ in module.named_parameters())
        elif node.op == "get_attr":
            names[str(node.target)] = None
    return list(names)


def freeze(model: nn.Module, stages: Sequence[Stage], trainable: int) -> None:
    """Let the last `trainable` stages be trained, as torchvision's `trainable_layers`; the others are fixed."""
    frozen = {name for stage in stages[: max(0, len(stages) - trainable)] for name in stage.parameters}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


class Body(nn.Module):
    """Feature maps of some stages of a classifier: (B, 3, H, W) to a dictionary of (B, C, h, w), "0", "1", …

    Args:
        model: the classifier, whose layers are used.
        stages: whose outputs are returned.
        frozen_norm: whether BatchNorm keeps its statistics and weights, as torchvision's FrozenBatchNorm2d.
    """

    def __init__(self, model: nn.Module, stages: Sequence[Stage], *, frozen_norm: bool) -> None:
        super().__init__()
        nodes = {stage.node: str(number) for number, stage in enumerate(stages)}
        self.features = create_feature_extractor(model, nodes, tracer_kwargs=_tracing(model))
        self.frozen_norm = frozen_norm
        _fix_norm(self, frozen_norm)

    def train(self, mode: bool = True) -> "Body":
        """Set the mode, but for frozen BatchNorm."""
        super().train(mode)
        _set_norm(self, self.frozen_norm)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.features(images)


def _fix_norm(module: nn.Module, frozen: bool) -> None:
    for norm in module.modules():
        if frozen and isinstance(norm, _BatchNorm):
            norm.requires_grad_(False)


def _set_norm(module: nn.Module, frozen: bool) -> None:
    for norm in module.modules():
        if frozen and isinstance(norm, _BatchNorm):
            norm.eval()


class LastStage(nn.Module):
    """The last of two stages of a classifier, on crops of the first one's feature map, and the mean over the result.

    That is what Faster R-CNN C4 does with a ResNet's last stage: (N, C, h, w) to (N, C').

    Args:
        body: with the two stages.
    """

    def __init__(self, body: Body) -> None:
        super().__init__()
        whole = body.features.eval()
        outputs = next(node for node in whole.graph.nodes if node.op == "output").args[0]
        self.part = _between(whole, outputs["0"], outputs["1"])
        self.frozen_norm = body.frozen_norm
        _fix_norm(self, self.frozen_norm)

    def train(self, mode: bool = True) -> "LastStage":
        """Set the mode, but for frozen BatchNorm."""
        super().train(mode)
        _set_norm(self, self.frozen_norm)
        return self

    def forward(self, crops: Tensor) -> Tensor:
        return self.part(crops).mean((2, 3))


def _between(whole: GraphModule, start: Node, end: Node) -> GraphModule:
    """Return what computes one node from another on which alone it depends."""
    graph = Graph()
    copies = {start: graph.placeholder("features")}
    started = False
    for node in whole.graph.nodes:
        if started:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        started = started or node is start
        if node is end:
            break
    graph.output(copies[end])
    part = GraphModule(whole, graph)
    part.delete_all_unused_submodules()
    return part
