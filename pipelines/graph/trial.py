# DALI's type stubs lack its enumerations, and say "a node, several or None" of every operator.
# mypy: disable-error-code="attr-defined, arg-type, return-value"
"""The trial of the user's transforms before a loader uses them, and errors that name them later."""

import inspect
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.data_node import DataNode

from ..arguments import refuse, shown, whole
from .transform import GraphTransform, Placed, drawn, gist

_MAX_UNIFORMS = 65_536
_TRIAL = 2  # images
_IMAGES = "images"
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def place(
    argument: str, value: object, *, image_size: tuple[int, int], device: str, device_id: int | None
) -> tuple[Placed, ...]:
    """Return the transforms of an argument of `image_loader`, after a trial of each on a few images.

    Raises:
        ValueError: One is no transform, fails, draws random numbers in the graph, or returns images of another size or
            type.
    """
    given = value if isinstance(value, list | tuple) else (value,)
    placed = []
    for number, transform in enumerate(given):
        if not isinstance(transform, GraphTransform):
            refuse(argument, value, "a GraphTransform or a list of them")
        where = f"{argument}: {shown(transform)}"
        _check_repr(where, transform)
        count = whole(f"{where}: uniforms", transform.uniforms, 0, _MAX_UNIFORMS)
        generator = np.random.default_rng(0)
        numbers = generator.random((_TRIAL, count))
        arrays = drawn(where, transform, numbers)
        last = drawn(where, transform, numbers[-1:])
        for name in arrays.keys() | last.keys():
            if not (name in arrays and name in last and np.array_equal(arrays[name][-1:], last[name])):
                raise ValueError(
                    f"{where}: draw must map each row of its numbers by itself and draw nothing else: {name!r} of the "
                    "same row is not the same in another batch"
                )
        each = Placed(argument, number, transform, tuple(arrays))
        pipeline, operators = construct(each, image_size, device, device_id)
        used = {operator.name for operator in operators}
        each = replace(each, names=tuple(n for n, key in zip(each.names, each.inputs(), strict=True) if key in used))
        fed = dict(zip(each.inputs(), (arrays[name] for name in each.names), strict=True))
        if _IMAGES in used:
            fed[_IMAGES] = generator.integers(0, 256, (_TRIAL, *image_size, 3), dtype=np.uint8)
        _run(each, pipeline, fed, image_size)
        placed.append(each)
    return tuple(placed)


def construct(
    placed: Placed, image_size: tuple[int, int], device: str, device_id: int | None
) -> tuple[Pipeline, list[Any]]:
    """Return the pipeline of a transform's trial, and its operators. It is not built: that needs no device.

    Raises:
        ValueError: The transform fails, returns no images on the device, draws random numbers, or uses an operator that
            the device lacks.
    """
    results: list[Any] = []  # of the transform
    try:
        options = {"batch_size": _TRIAL, "num_threads": 1, "device_id": device_id, "prefetch_queue_depth": 1}
        pipeline = _trial(placed, device, image_size, results, **options)
    except Exception as error:
        _check_results(placed, results, device)
        raise ValueError(f"{placed} fails: {gist(error)}") from error
    _check_results(placed, results, device)
    operators = _operators(results[0])
    for operator in operators:
        schema = operator._op.schema
        name = ".".join([*schema.ModulePath(), schema.OperatorName()])
        if schema.HasRandomSeedArg():
            raise ValueError(
                f"{placed} must not draw random numbers in the graph, as DALI's {name} does: the loader could not "
                "resume. Take them from draw."
            )
        if operator._op.device not in schema.GetSupportedBackends():  # DALI itself says so only when it runs
            raise ValueError(f"{placed} fails: DALI's {name} has no form for the {operator._op.device}")
    return pipeline, operators


# With conditionals, as `image_pipeline`.
@pipeline_def(enable_conditionals=True)
def _trial(placed: Placed, device: str, image_size: tuple[int, int], results: list[Any]) -> DataNode:
    images = fn.external_source(name=_IMAGES, layout="HWC")
    given = {name: fn.external_source(name=name) for name in placed.inputs()}
    results.append(placed.apply(images.gpu() if device == "gpu" else images, given, device, image_size))
    return results[0]


def _check_results(placed: Placed, results: list[Any], device: str) -> None:
    for result in results:
        if not isinstance(result, DataNode):
            raise ValueError(f"{placed} must return images, a DataNode, returned {shown(result)}")
        if result.device != device:
            raise ValueError(f"{placed} must return images on the {device}, returned them on the {result.device}")


def _operators(node: DataNode) -> list[Any]:
    """Return the operators that lead to a node."""
    todo, found = [node.source], {}
    while todo:
        operator = todo.pop()
        if operator.id not in found:
            found[operator.id] = operator
            todo += [each.source for each in operator.inputs]
    return list(found.values())


def _run(placed: Placed, pipeline: Pipeline, fed: dict[str, np.ndarray], image_size: tuple[int, int]) -> None:
    try:
        [output] = pipeline.run(**fed)
    except RuntimeError as error:
        raise ValueError(f"{placed} fails: {gist(error)}") from error
    shapes = set(map(tuple, output.shape()))
    if output.dtype != types.UINT8 or shapes != {(*image_size, 3)}:
        raise ValueError(
            f"{placed} must return uint8 images of shape {(*image_size, 3)}, returned "
            f"{output.dtype.name.lower()} of {', '.join(map(str, sorted(shapes)))}"
        )


def check_sizes(placed: Iterable[Placed], output: Any, image_size: tuple[int, int]) -> None:
    """Check the images of a batch, a list of tensors of DALI's.

    Raises:
        ValueError: Some have another size, which a transform must have made.
    """
    shapes = set(map(tuple, output.shape()))
    if shapes != {(*image_size, 3)}:
        raise ValueError(
            f"the images must keep their shape {(*image_size, 3)}, and have {', '.join(map(str, sorted(shapes)))} "
            f"after {' and '.join(map(str, placed))}"
        )


def explained(error: RuntimeError, placed: Iterable[Placed]) -> RuntimeError:
    """Return an error that names the transform in which the pipeline failed; `error` itself if it was in none.

    DALI's errors have the lines of the pipeline's definition that made the operator.
    """
    names = [str(each) for each in placed if _is_in(str(error), each.transform)]
    if not names:
        return error
    named = RuntimeError(f"{' or '.join(names)} fails: {gist(error)}")
    named.__cause__ = error
    return named


def _is_in(traceback: str, transform: GraphTransform) -> bool:
    code = getattr(inspect.unwrap(type(transform).__call__), "__code__", None)
    if code is None:  # no function
        return False
    last = max(line for *_, line in code.co_lines() if line is not None)
    lines = re.findall(rf'File "{re.escape(code.co_filename)}", line (\d+), in {re.escape(code.co_name)}', traceback)
    return any(code.co_firstlineno <= int(line) <= last for line in lines)


def _check_repr(where: str, transform: GraphTransform) -> None:
    try:
        text = repr(transform)
    except Exception as error:
        raise ValueError(f"{where}: repr fails: {gist(error)}") from error
    if _ADDRESS.search(text):
        raise ValueError(f"{where}: repr must be the same in every process. Make it a dataclass, or write __repr__.")
