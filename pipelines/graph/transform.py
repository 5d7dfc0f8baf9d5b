"""The user's own transforms: their interface, their draws and their place in the pipeline."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from nvidia.dali.data_node import DataNode

from ..arguments import shown

_NARROW = {"f8": "f4", "i8": "i4"}  # DALI's operators take no wider arguments


class GraphBatch:
    """What a `GraphTransform` receives with the images.

    `batch["name"]` is the array of that name from `GraphTransform.draw`, with one row for each image. It is in the
    host's memory, where DALI's operators take their named arguments. `batch.on_device("name")` is the same on the
    images' device, for arithmetic with them.

    Attributes:
        device: Of the images: "cpu" or "gpu".
        image_size: Height and width of the images, in pixels.
    """

    def __init__(self, arrays: dict[str, DataNode], device: str, image_size: tuple[int, int]) -> None:
        self._arrays = arrays
        self.device = device
        self.image_size = image_size

    def __getitem__(self, name: str) -> DataNode:
        if name not in self._arrays:
            raise KeyError(f"draw must return an array {name!r}, returned {sorted(self._arrays)}")
        return self._arrays[name]

    def on_device(self, name: str) -> DataNode:
        """Return an array on the device of the images."""
        return self[name].gpu() if self.device == "gpu" else self[name]


class GraphTransform(ABC):
    """A transform of your own, of DALI's operators, which the loader's pipeline applies to its images.

    `repr` must distinguish two different transforms, in every process alike: it is in the loader's state. That of a
    dataclass does. Everything random comes from `draw`; DALI's random operators are refused.
    """

    @property
    def uniforms(self) -> int:
        """Random numbers needed per image, from 0 to 65,536. A subclass may have a class attribute instead."""
        return 0

    def draw(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Map random numbers to the parameters of the images, each row by itself. Called for every batch.

        Args:
            numbers: (B, uniforms) float64, uniform in [0, 1), for any B. They are a function of the loader's seed, the
                epoch and the position in it.

        Returns:
            Arrays (B, …) of booleans or numbers, by name. float64 is converted to float32 and int64 to int32, which
            DALI's operators take.
        """
        return {}

    @abstractmethod
    def __call__(self, images: DataNode, batch: GraphBatch) -> DataNode:
        """Return the transformed images. Called when a pipeline is put together, not for every batch.

        DALI's conditional execution is on: `if batch["name"]:` chooses for each image, by an array (B,) of booleans.

        Args:
            images: (height, width, 3) uint8 RGB each, before mirroring, on `batch.device`.
            batch: The arrays that `draw` returned.

        Returns:
            Images of the same size and type, on the same device.
        """


@dataclass(frozen=True)
class Placed:
    """A transform in its place.

    Attributes:
        argument: Of `image_loader`: "before_policy" or "after_policy".
        number: The place among those of the argument, from 0.
        transform: The transform.
        names: Of the arrays that it draws and uses.
    """

    argument: str
    number: int
    transform: GraphTransform
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.argument}: {shown(self.transform)}"

    def inputs(self, view: int = 0) -> list[str]:
        """Return the names of its arrays among the inputs of the pipeline, in the order of `names`, for a view."""
        return [f"{self.argument} {self.number} {name} {view}" for name in self.names]

    def draw(self, numbers: np.ndarray, view: int) -> dict[str, np.ndarray]:
        """Return the inputs of the pipeline for (B, uniforms) random numbers.

        Raises:
            ValueError: The transform's `draw` fails, or no longer returns one of the arrays.
        """
        arrays = drawn(str(self), self.transform, numbers)
        missing = sorted(set(self.names) - set(arrays))
        if missing:
            raise ValueError(f"{self}: draw must return the same arrays as before, lacks {', '.join(missing)}")
        return dict(zip(self.inputs(view), (arrays[name] for name in self.names), strict=True))

    def apply(
        self,
        images: DataNode,
        given: dict[str, DataNode],
        device: str,
        image_size: tuple[int, int],
        view: int = 0,
    ) -> DataNode:
        """Return what the transform makes of a view of the images; `given` has the inputs of the pipeline."""
        keys = self.inputs(view)
        arrays = {name: given[key] for name, key in zip(self.names, keys)}  # noqa: B905 - as in `image_pipeline`
        return self.transform(images, GraphBatch(arrays, device, image_size))


def width(placed: Iterable[Placed]) -> int:
    """Return the random numbers that transforms need per image."""
    return sum(each.transform.uniforms for each in placed)


def draw(placed: Iterable[Placed], numbers: np.ndarray, view: int = 0) -> dict[str, np.ndarray]:
    """Return the inputs of the pipeline for (B, width) random numbers, of which each transform has its own columns."""
    arrays: dict[str, np.ndarray] = {}
    for each in placed:
        own, numbers = np.split(numbers, [each.transform.uniforms], axis=1)
        arrays |= each.draw(own, view)
    return arrays


def drawn(where: str, transform: GraphTransform, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of `GraphTransform.draw`, checked, of types that DALI's operators take."""
    try:
        returned = transform.draw(numbers)
    except Exception as error:
        raise ValueError(f"{where}: draw fails: {gist(error)}") from error
    if not isinstance(returned, dict):
        raise ValueError(f"{where}: draw must return a dictionary of arrays, returned {shown(returned)}")
    arrays = {}
    for name, value in returned.items():
        legal = f"{where}: draw must return as {name!r} an array of"
        fits = isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8
        if not fits or value.shape[:1] != numbers.shape[:1]:
            raise ValueError(f"{legal} booleans or numbers for {len(numbers)} images, returned {shown(value)}")
        kind = value.dtype.str[1:]
        arrays[name] = value.astype(_NARROW.get(kind, kind), order="C")
        if kind == "i8" and (arrays[name] != value).any():
            raise ValueError(f"{legal} integers of 32 bits, returned larger ones")
    return arrays


def gist(error: Exception) -> str:
    """Return what an error says, without the tracebacks that DALI writes into it."""
    text = str(error)
    if "encountered:" in text:  # DALI's, of an operator that fails
        text = text.split("encountered:", 1)[1].split("C++ context:")[0]
    elif "in user code:" in text:  # DALI's, of Python code that it has rewritten
        text = text.rsplit("\n\n", 1)[-1] if text.rstrip().count("\n\n") else text
    else:
        text = f"{type(error).__name__}: {text}"
    return " ".join(text.split())
