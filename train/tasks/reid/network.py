"""The network of re-identification: a backbone, its features, a normalising neck, and a classifier of identities."""

import re
from typing import Any

from torch import Tensor, nn

from dali_salaug import WithEarlyHead
from train.config import ResolvedConfig
from train.engine.network import Network
from train.engine.start import load_start
from train.errors import UserError, first_line
from train.models.layers import head_of, is_of, layers_by_depth
from train.models.published import Source
from train.models.registry import build_model
from train.tasks.reid.config import ResolvedReidConfig


class ReidModel(nn.Module):
    """A backbone with BNNeck (Luo et al. 2019, arXiv:1903.07071, §3.5).

    Losses of distances see the features before the neck, a BatchNorm without a bias; the classifier, which has none
    either, and the retrieval see those after it. In training mode a call returns both the features before the neck and
    the logits; in eval mode, the logits alone, so that a saliency map is that of a classifier.

    Args:
        backbone: images (B, 3, H, W) to features (B, D).
        features: D.
        num_classes: K, the number of identities.
    """

    def __init__(self, backbone: nn.Module, features: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.BatchNorm1d(features)
        self.neck.bias.requires_grad_(False)  # it stays 0
        self.classifier = nn.Linear(features, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    @property
    def features(self) -> int:
        """The number of features, D."""
        return self.neck.num_features

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return (B, D) features and (B, K) logits in training mode, and the logits alone in eval mode."""
        features = self.backbone(images)
        logits = self.classifier(self.neck(features))
        return (features, logits) if self.training else logits

    def embed(self, images: Tensor) -> Tensor:
        """Return the features after the neck, by which images are compared: (B, D)."""
        return self.neck(self.backbone(images))


def build_reid_model(name: str, num_classes: int, image_size: tuple[int, int], *, last_stride: int | None) -> ReidModel:
    """Build an untrained network for re-identification.

    Args:
        name: see `build_model`; its features are what its linear head reads.
        num_classes: K, the number of identities.
        image_size: (height, width) in pixels.
        last_stride: 1: the last stage does not halve the resolution (Luo et al. 2019, §3.4), which needs a model with
            such a stage; 2: the model as it is; None: 1 where the model has such a stage.

    Raises:
        UserError: the name is unknown, or the model has no such stage or no linear head.
    """
    height, width = image_size
    backbone = build_model(name, num_classes, height if height == width else None)
    heads = head_of(backbone, num_classes)
    head = backbone.get_submodule(heads[0])
    if len(heads) > 1 or not isinstance(head, nn.Linear):
        kind = f"{len(heads)} heads" if len(heads) > 1 else f"a {type(head).__name__} as its head"
        raise UserError(f"--model {name} has {kind}; re-identification needs a model with one linear head")
    backbone.set_submodule(heads[0], nn.Identity())
    if last_stride != 2 and not keep_last_resolution(backbone) and last_stride == 1:
        raise UserError(
            f"--last-stride 1 needs a model whose stages are called layer1, layer2, …, as those of a ResNet, or small;"
            f" got --model {name}. Use --last-stride 2, the model as it is"
        )
    return ReidModel(backbone, head.in_features, num_classes)


def keep_last_resolution(backbone: nn.Module) -> bool:
    """Let the last stage of a backbone keep the resolution of its input. Return whether there is such a stage."""
    stages = [name for name, _ in backbone.named_children() if re.fullmatch(r"layer[0-9]+", name)]
    if stages:
        for module in backbone.get_submodule(max(stages, key=lambda name: int(name[5:]))).modules():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
            elif isinstance(module, nn.AvgPool2d):  # of a shortcut
                module.kernel_size = module.stride = 1
        return True
    pools = [name for name, module in backbone.named_children() if isinstance(module, nn.MaxPool2d)]
    if isinstance(backbone, nn.Sequential) and len(pools) > 1:  # "small"
        backbone.set_submodule(pools[-1], nn.Identity())
        return True
    return False


class ReidNetwork(Network):
    """The network of a run of re-identification in its forms, see :class:`Network`."""

    model: ReidModel

    def _build(self, config: ResolvedReidConfig, num_classes: int) -> ReidModel:  # type: ignore[override]
        try:
            return build_reid_model(config.model, num_classes, config.size, last_stride=config.last_stride)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"--model {config.model} cannot be built for --image-size {config.size_in_words}: {first_line(error)}."
                " Choose another --image-size or another --model"
            ) from error

    def _after(self, config: ResolvedConfig) -> str:
        after = super()._after(config)
        if after is None:  # the end of the backbone's first block
            search = WithEarlyHead(self.model.backbone, self.num_classes, image_size=config.size)
            search.detach()
            after = search.after
        return f"backbone.{after}"

    def parts(self, outputs: Any) -> tuple[Tensor, ...]:
        """Return the features, the logits, and those of the early head where there is one, of the trained module."""
        if self.with_head is None:
            return tuple(outputs)
        (features, logits), early = outputs
        return features, logits, early

    def logits(self, outputs: Any) -> tuple[Any, ...]:
        return self.parts(outputs)[1:]

    def layers(self) -> list[list[nn.Parameter]]:
        layers = layers_by_depth(self.model.backbone, [])
        layers.append([*self.model.neck.parameters(), *self.model.classifier.parameters()])
        if self.with_head is not None:
            layers[-1] += self.with_head.classifier.parameters()
        return layers

    def start_from(self, source: Source, classes: list[str]) -> str:
        """Load the weights of a run of re-identification, or those of a classifier into the backbone."""
        if any(name.startswith("backbone.") for name in source.weights):
            return super().start_from(source, classes)
        plain = build_model(self.name, len(classes), None)
        sentence = load_start(plain, classes, source._replace(classes=[]), self.name)  # whose head is left out
        kept = {
            name: weight for name, weight in plain.state_dict().items() if not is_of(name, head_of(plain, len(classes)))
        }
        self.model.backbone.load_state_dict(kept)
        if self.averaged is not None:
            self.averaged.model.load_state_dict(self.model.state_dict())
        return sentence
