"""The outputs of a model's layers in a forward pass, by hooks that leave nothing behind."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def layer_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that the one forward pass inside the context fills with the outputs of layers, by name.

    Args:
        network: the model, not in a wrapper.
        names: of submodules that return one tensor and run once.

    Raises:
        ValueError: for other names; in the pass, or after it if a layer did not run.
    """
    outputs: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in names:
            hooks.callback(_submodule(network, name).register_forward_hook(_keep_in(outputs, name)).remove)
        yield outputs
    idle = [name for name in names if name not in outputs]
    if idle:
        raise ValueError(f"layers must name submodules that the model's forward pass runs; it does not run {idle}")


def _submodule(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(repr(child) for child, _ in network.named_children())
        raise ValueError(f"layers must name submodules of the model, such as {children}; got {name!r}") from error


def _keep_in(outputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim == 0:
            raise ValueError(
                f"layers must name submodules that return one tensor; {name!r} gives {type(output).__name__}"
            )
        if name in outputs:
            raise ValueError(f"layers must name submodules that run once in a forward pass; {name!r} runs again")
        outputs[name] = output.clone()  # the next layer may work in place

    return hook
