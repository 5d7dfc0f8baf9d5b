"""BatchNorm folded into the convolution before it, in the passes that make a map.

In eval mode BatchNorm multiplies each channel by w/σ and adds a number, and so may the convolution. Each layer of it
would otherwise read and write its activations twice more: once forwards, once backwards.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode

from .batch_norm import is_watched

Tensors = dict[str, Tensor]  # parameters and buffers by their names
# The type of device on which a convolution adds its bias in a pass of its own: on an H200 in 7.8 ms for the layers of
# ResNet-50 at batch 256, where BatchNorm's kernel takes 4.8 ms.
ADDS_APART = "cuda"

_SHOWN = (Tensor.dim, Tensor.size, Tensor.is_floating_point)  # what may be asked of an output of which more is unknown
_SHOWN += tuple(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad"))


class Unfoldable(Exception):
    """The model took another path than when its pairs were found."""


class Pair(NamedTuple):
    """A convolution whose output goes into a BatchNorm and nowhere else: names of tensors, None where there is none."""

    weight: str
    bias: str | None
    mean: str
    variance: str
    scale: str | None
    shift: str | None
    eps: float


class Fold(NamedTuple):
    """A pair at work."""

    weight: Tensor  # of the convolution with BatchNorm in it
    bias: Tensor | None  # likewise; None: BatchNorm adds it
    shift: tuple[Tensor, Tensor]  # mean and variance with which BatchNorm adds the bias
    given: tuple[Tensor | None, ...]  # bias of the convolution; mean, variance, scale and shift of BatchNorm
    eps: float


_PAIRS: WeakKeyDictionary[nn.Module, list[Pair]] = WeakKeyDictionary()


def pairs_of(module: nn.Module, tensors: Callable[[], Tensors], run: Callable[[Tensors], Any]) -> list[Pair]:
    """Return the pairs of a module in eval mode, found in one pass the first time.

    A module in which some layer has a hook has none for the time: a hook sees what a layer returns, and each pass.

    Args:
        tensors: returns what to call the module with, which it may write to.
        run: passes a few images through the module with such tensors.
    """
    hooks = [modules._global_forward_hooks, modules._global_forward_pre_hooks]
    hooks += [kept for layer in module.modules() for kept in (layer._forward_hooks, layer._forward_pre_hooks)]
    if any(hooks):
        return []
    if module not in _PAIRS:
        names = tensors()
        devices = {tensor.device for tensor in names.values() if tensor.device.type == "cuda"}
        if devices and torch.cuda.is_current_stream_capturing():
            return []
        recorder = _Recorder(names)
        try:
            with torch.random.fork_rng(devices=devices), torch.no_grad(), recorder:
                run(names)
            _PAIRS[module] = list(recorder.pairs())
        except Exception:  # the pass that follows says what is wrong
            return []
    return _PAIRS[module]


def forget(module: nn.Module) -> None:
    """Fold nothing in this module from now on."""
    _PAIRS[module] = []


class Folded(TorchFunctionMode):
    """A context in which each pair is one convolution, with the same results and gradients up to rounding.

    Args:
        pairs: see :func:`pairs_of`.
        tensors: with which the module is called.

    Raises:
        Unfoldable: in a pass that does something else with the output of such a convolution.
    """

    def __init__(self, pairs: list[Pair], tensors: Tensors) -> None:
        super().__init__()
        self._folds = dict(_folds(pairs, tensors)) if pairs else {}
        self._pending: dict[int, tuple[Tensor, Fold]] = {}  # outputs that their BatchNorm has not yet received

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._pending and function not in _SHOWN:
            for tensor in _tensors_in((args, kwargs)):
                if id(tensor) in self._pending:
                    return self._normalised(self._pending.pop(id(tensor)), function, args, kwargs)
        if function is F.conv2d and not is_watched():
            input, weight, bias, *others = [*args, None, None, None][: max(3, len(args))]
            fold = self._folds.get(id(weight))
            if fold is not None and bias is fold.given[0] and not kwargs and fold.weight.dtype == _dtype_of(weight):
                output = F.conv2d(input, fold.weight, fold.bias, *others)
                self._pending[id(output)] = output, fold
                return output
        return function(*args, **kwargs)

    def _normalised(self, pending: tuple[Tensor, Fold], function: Any, args: Any, kwargs: Any) -> Tensor:
        output, fold = pending
        given = _given(*args, **kwargs) if function is F.batch_norm else None
        if given is None or given[0] is not output or given[2] or given[3] != fold.eps:
            raise Unfoldable
        if any(one is not other for one, other in zip(given[1], fold.given[1:], strict=True)):
            raise Unfoldable
        return output if fold.bias is not None else _Shift.apply(output, *fold.shift)


class _Shift(Function):
    """Adds a number to each channel, by BatchNorm's kernel; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(input, mean, variance, eps=0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, None, None


class _Recorder(TorchFunctionMode):
    """Notes what the outputs of convolutions go into."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self._tensors = tensors
        self._outputs: dict[int, tuple[Tensor, str, str | None]] = {}
        self._uses: dict[str, set[Pair | None]] = {}  # by the convolution's weight; None: of another kind

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in _SHOWN:
            for tensor in _tensors_in((args, kwargs)):
                if id(tensor) in self._outputs:
                    _, weight, bias = self._outputs[id(tensor)]
                    pair = None if is_watched() else self._pair(tensor, weight, bias, function, args, kwargs)
                    self._uses.setdefault(weight, set()).add(pair)
        output = function(*args, **kwargs)
        if function is F.conv2d and not kwargs and id(args[1]) in self._names:
            bias = args[2] if len(args) > 2 else None
            weight = self._names[id(args[1])]
            if bias is not None and id(bias) not in self._names:
                self._uses.setdefault(weight, set()).add(None)
            self._outputs[id(output)] = output, weight, None if bias is None else self._names.get(id(bias))
        return output

    def _pair(
        self, output: Tensor, weight: str, bias: str | None, function: Any, args: Any, kwargs: Any
    ) -> Pair | None:
        if function is not F.batch_norm:
            return None
        input, given, training, eps = _given(*args, **kwargs)
        if input is not output or training or given[0] is None or given[1] is None:
            return None
        if any(tensor is not None and id(tensor) not in self._names for tensor in given):
            return None
        mean, variance, scale, shift = (None if tensor is None else self._names[id(tensor)] for tensor in given)
        of_each = {self._tensors[name].dtype for name in (weight, bias, mean, variance, scale, shift) if name}
        if len(of_each) > 1 or not of_each <= {torch.float32, torch.float64} or mean is None or variance is None:
            return None  # of reduced precision, or mixed
        return Pair(weight, bias, mean, variance, scale, shift, eps)

    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs: of convolutions that have one use alone, the same in each of their calls."""
        for uses in self._uses.values():
            only = next(iter(uses))
            if len(uses) == 1 and only is not None:
                yield only


def _given(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, tuple[Tensor | None, ...], bool, float]:
    """Return the input of a call of BatchNorm; its statistics, weight and bias; whether it trains; and ε."""
    return input, (running_mean, running_var, weight, bias), training, eps


def _folds(pairs: list[Pair], tensors: Tensors) -> Iterator[tuple[int, Fold]]:
    """Yield each pair at work by the identity of the convolution's weight, in as few launches as there may be.

    Under autocast, in its type, so that it has nothing to cast.
    """
    factors = list(torch._foreach_add([tensors[pair.variance] for pair in pairs], [pair.eps for pair in pairs]))
    torch._foreach_sqrt_(factors)
    torch._foreach_reciprocal_(factors)
    _apply(torch._foreach_mul_, factors, [pair.scale for pair in pairs], tensors)  # w/σ
    # A bias b of the convolution becomes (b − mean) · w/σ + the shift.
    biases = list(torch._foreach_neg([tensors[pair.mean] for pair in pairs]))
    _apply(torch._foreach_add_, biases, [pair.bias for pair in pairs], tensors)
    torch._foreach_mul_(biases, factors)
    _apply(torch._foreach_add_, biases, [pair.shift for pair in pairs], tensors)
    means, cast = biases, list[Tensor | None]([None] * len(pairs))
    if biases[0].device.type == ADDS_APART:
        means = list(torch._foreach_neg(biases))
    else:
        copies = [torch.empty_like(bias, dtype=_dtype_of(bias)) for bias in biases]
        torch._foreach_copy_(copies, biases)
        cast = [*copies]
    ones = torch.ones_like(max(factors, key=len))
    for pair, factor, bias, mean in zip(pairs, factors, cast, means, strict=True):
        weight = tensors[pair.weight]
        folded = torch.empty_like(weight, dtype=_dtype_of(weight))
        torch.mul(weight, factor.view(-1, 1, 1, 1), out=folded)  # computed in the weight's precision
        given = (pair.bias, pair.mean, pair.variance, pair.scale, pair.shift)
        names = tuple(None if name is None else tensors[name] for name in given)
        yield id(weight), Fold(folded, bias, (mean, ones[: len(factor)]), names, pair.eps)


def _dtype_of(tensor: Tensor) -> torch.dtype:
    """Return the type in which a convolution takes its weights: autocast's, where that is on."""
    kind = tensor.device.type
    casts = torch.is_autocast_enabled(kind) and tensor.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if casts else tensor.dtype


def _apply(operation: Any, values: list[Tensor], names: list[str | None], tensors: Tensors) -> None:
    """Apply an in-place operation to the values whose other operand has a name."""
    named = [(value, tensors[name]) for value, name in zip(values, names, strict=True) if name is not None]
    if named:
        operation(*map(list, zip(*named, strict=True)))


def _tensors_in(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors_in(value)
    elif isinstance(values, dict):
        yield from _tensors_in(list(values.values()))
