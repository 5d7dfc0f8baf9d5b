"""The parts of a model for fine-tuning: its head, and its layers by depth."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from train.errors import UserError


def head_of(model: nn.Module, num_classes: int) -> list[str]:
    """Return the names of the modules that compute the logits: one, or two of a distilled transformer.

    That is timm's own answer, or the last linear layer or convolution with as many outputs as there are classes.

    Raises:
        UserError: there is none.
    """
    modules = dict(model.named_modules())
    own = getattr(model, "pretrained_cfg", None) or {}
    names = own.get("classifier") or ()
    named = [name for name in ([names] if isinstance(names, str) else names) if name in modules]
    if named:
        return named
    for name in reversed(modules):
        module = modules[name]
        outputs = module.out_features if isinstance(module, nn.Linear) else getattr(module, "out_channels", None)
        if isinstance(module, nn.Linear | nn.Conv2d) and outputs == num_classes:
            return [name]
    raise UserError(f"the model has no linear layer or convolution with {num_classes} outputs, which would be its head")


def is_of(name: str, modules: Sequence[str]) -> bool:
    """Return whether a parameter or buffer is in one of the modules, by its name."""
    return any(name.startswith(f"{module}.") for module in modules)


def layers_by_depth(model: nn.Module, head: list[str]) -> list[list[nn.Parameter]]:
    """Return a model's parameters by layer, from the first layer to the head, which is the last.

    Of timm's models the layers are timm's own (`group_matcher`); the last has the final normalisation too. In other
    models a layer is a residual or transformer block, or else a convolution or linear layer; normalisation and other
    vectors belong to the layer before them, class token and position embedding to the first layer.
    """
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters

        numbers = group_parameters(model, matcher(coarse=False), reverse=True)
        last = max(numbers.values())
        numbers = {name: last if is_of(name, head) else number for name, number in numbers.items()}
    else:
        numbers = _numbers(model, head)
    layers: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        layers.setdefault(numbers[name], []).append(parameter)
    return [layers[number] for number in sorted(layers)]


def _numbers(model: nn.Module, head: list[str]) -> dict[str, int]:
    """Return the number of each parameter's layer, ascending with depth, by the parameter's name."""
    from torchvision.models.regnet import AnyStage
    from torchvision.models.vision_transformer import Encoder

    # What holds layers in their order. Another subclass of Sequential, such as ConvNeXt's first convolution with its
    # normalisation, is a layer itself.
    holders = (nn.ModuleList, nn.ModuleDict, AnyStage, Encoder)
    numbers: dict[str, int] = {}
    current = 0

    def visit(prefix: str, module: nn.Module) -> None:
        nonlocal current
        numbers.update({prefix + name: 0 for name, _ in module.named_parameters(recurse=False)})
        for name, child in module.named_children():
            if type(child) is nn.Sequential or isinstance(child, holders):
                visit(f"{prefix}{name}.", child)
                continue
            parameters = dict(child.named_parameters(f"{prefix}{name}"))
            if any(p.ndim > 1 for p in parameters.values()):
                current += 1
            numbers.update(dict.fromkeys(parameters, current))

    visit("", model)
    numbers = {name: max(1, number) for name, number in numbers.items()}
    return {name: current + 1 if is_of(name, head) else number for name, number in numbers.items()}


def freeze_trunk(model: nn.Module, head: list[str]) -> None:
    """Make the head's parameters the only ones that are trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_of(name, head))


def set_training(model: nn.Module, *, frozen_trunk: bool) -> nn.Module:
    """Set training mode and return the model; with a frozen trunk, BatchNorm keeps its statistics and uses them."""
    model.train()
    for module in model.modules() if frozen_trunk else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model
