"""Functions on tensors, captured in CUDA graphs: what launches many small kernels costs the host a single launch."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

_MOST = 8  # forms of arguments that are kept, such as those of a whole batch and of the last one


class CudaGraphs:
    """The CUDA graphs of a function, one for each form of its arguments (shapes, dtypes, strides, autocast).

    The first call of a form runs the function as it is, which also warms up what it uses. The second one captures it,
    and waits for the device. Every later one copies the arguments into the graph's own, replays it, and returns copies
    of the results, which belong to the caller. A copy of this object starts without graphs.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, _Graph | None] = {}  # the last used at the end; None: the form came once
        self._pool: Any = None  # the memory of all graphs, of which one runs at a time

    def __call__(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Tensor],
        *,
        key: Hashable = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Return ``function(*inputs)``.

        Args:
            function: does not wait for the device. Apart from ``inputs`` and ``generator``, it depends on nothing but
                ``key`` and the values of tensors that stay where they are in memory. Its results are tensors, in
                tuples, dictionaries and dataclasses.
            inputs: on one GPU.
            key: each has its own graph.
            generator: that the function draws from, on that GPU; the same one until :meth:`clear`.
        """
        key = (key, *map(_form, inputs), _autocast(inputs[0]), torch.are_deterministic_algorithms_enabled())
        if key not in self._graphs:
            if len(self._graphs) == _MOST:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = None
            return function(*inputs)
        graph = self._graphs.pop(key)
        if graph is None:
            if not any(self._graphs.values()):  # memory whose graphs are all gone cannot be used again
                self._pool = torch.cuda.graph_pool_handle()
            graph = _Graph(function, inputs, generator, self._pool)
        self._graphs[key] = graph
        return graph(inputs)

    def of_batch(
        self,
        function: Callable[..., Any],
        parts: Sequence[Tensor | None],
        *,
        network: nn.Module | None,
        generator: torch.Generator,
        name: str,
    ) -> Any:
        """Return ``function(*parts)``, by a graph where a capture is possible.

        Args:
            function, generator: see :meth:`__call__`.
            parts: on one GPU; or None, which stays None.
            network: on whose weights the function depends. Another one, or moved weights, take another graph.
            name: of the replay in a profiler's trace.
        """
        inputs = [part for part in parts if part is not None]
        if not may_capture(inputs):
            return function(*parts)

        def of_inputs(*inputs: Tensor) -> Any:
            given = iter(inputs)
            return function(*(None if part is None else next(given) for part in parts))

        weights = () if network is None else (*network.parameters(), *network.buffers())
        places = id(network), *(x.data_ptr() for x in weights), *(part is None for part in parts)
        with record_function(name):
            return self(of_inputs, inputs, key=places, generator=generator)

    def clear(self) -> None:
        """Drop all graphs and their memory."""
        self._graphs.clear()

    def __reduce__(self) -> tuple[type["CudaGraphs"], tuple[()]]:
        return CudaGraphs, ()


def may_capture(inputs: Sequence[Tensor]) -> bool:
    """Return whether a function of ``inputs`` may be captured here: on a GPU, and not part of another capture."""
    if torch.compiler.is_compiling():
        return False
    # A subclass of Tensor, such as a fake one, has no memory of its own.
    return all(type(x) is Tensor and x.is_cuda for x in inputs) and not torch.cuda.is_current_stream_capturing()


class _Graph:
    """One captured call; arguments as of :class:`CudaGraphs`."""

    def __init__(
        self, function: Callable[..., Any], inputs: Sequence[Tensor], generator: torch.Generator | None, pool: Any
    ) -> None:
        self._device = inputs[0].device
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.inference_mode(False):
            with torch.no_grad():
                self._inputs = [x.clone() for x in inputs]
            if generator is not None:
                self._graph.register_generator_state(generator)
            enabled, dtype = _autocast(inputs[0])
            # Threads of the loader and of NCCL go on with their work, which a "global" capture would not allow. Weights
            # that autocast has cast and kept would not be there in the replay.
            with (
                torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"),
                torch.autocast(self._device.type, dtype=dtype, enabled=enabled, cache_enabled=False),
            ):
                self._results = function(*self._inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        given = {id(own): x for own, x in zip(self._inputs, inputs, strict=True)}
        with torch.cuda.device(self._device), torch.inference_mode(False), torch.no_grad():
            for own, x in zip(self._inputs, inputs, strict=True):
                own.copy_(x)
            self._graph.replay()
            return _mapped(self._results, lambda x: given[id(x)] if id(x) in given else x.clone())


def _form(x: Tensor) -> Hashable:
    return x.device, x.dtype, x.shape, x.stride()


def _autocast(x: Tensor) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return ``value`` with ``function(x)`` in place of each tensor x in its tuples, dictionaries and dataclasses."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        parts = [_mapped(part, function) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, dict):
        return {name: _mapped(part, function) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        parts_by_name = {field.name: _mapped(getattr(value, field.name), function) for field in fields(value)}
        return replace(value, **parts_by_name)
    return value
