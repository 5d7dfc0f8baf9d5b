"""The running average of the weights, which validates better than the weights while the learning rate is high."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """The exponential moving average of a network's parameters and of BatchNorm's statistics.

    PyTorch's AveragedModel, around the same function, reads a counter back from the device at every step.

    Args:
        model: the network, which is copied.
        decay: of the average, in (0, 1); it reaches back about 1 / (1 − decay) steps.

    Attributes:
        model: the averaged network, in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._averaged = _values(self.model)
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after a step to the average."""
        self._average(self._averaged, _values(model), 0)


def _values(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
