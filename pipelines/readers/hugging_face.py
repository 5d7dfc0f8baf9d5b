"""Images and labels of Hugging Face's `datasets`, read from Arrow's table: encoded, and only those that are needed."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..arguments import refuse, require, shown
from .base import DataError
from .records import Records
from .untrusted import read_bytes

_BINARY = ("binary", "large_binary")  # types of values that may be images
_PIECE = 2**16  # rows that are looked at at a time


@dataclass(frozen=True, eq=False)
class HuggingFaceImages(Records):
    """Images of a column.

    Attributes:
        source: The `datasets.Dataset`.
        column: Its name.
        rows: (n,) int64, of the table below the data set, which may have others too.
    """

    source: Any
    column: str
    rows: np.ndarray

    @cached_property
    def files(self) -> list[str]:  # type: ignore[override] # of Arrow
        return [file["filename"] for file in self.source.cache_files]

    @property
    def root(self) -> str:
        """A name for messages."""
        parts = (self.source.info.dataset_name, self.source.split)
        return "/".join(str(part) for part in parts if part) or "the Hugging Face data set"

    @cached_property
    def _chunks(self) -> tuple[list[tuple[Any, Any]], np.ndarray]:
        """The table's pieces, each with an array of bytes and one of paths or None, and the rows where they begin."""
        from datasets import Image

        pieces = self.source.data.column(self.column).chunks
        starts = np.cumsum([0, *map(len, pieces)])
        if isinstance(self.source.features[self.column], Image):
            return [(piece.field("bytes"), piece.field("path")) for piece in pieces], starts
        return [(piece, None) for piece in pieces], starts

    def _find(self, index: int) -> tuple[Any, str | None]:
        """Return Arrow's value of an image, and its path."""
        chunks, starts = self._chunks
        row = int(self.rows[index])
        chunk = int(np.searchsorted(starts, row, side="right")) - 1
        contents, paths = chunks[chunk]
        place = row - int(starts[chunk])
        return contents[place], None if paths is None else paths[place].as_py()

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, index: int) -> bytes:
        value, path = self._find(index)
        if value.is_valid:
            return value.as_py()
        if not path or "\0" in path or "://" in path:
            raise OSError(f"its content is not in the data set, and its path is {shown(path)}")
        return read_bytes(path)

    def name(self, index: int) -> str:
        path = self._find(index)[1]
        return f"{self.root}, row {self.rows[index]}" + (f" ({os.path.basename(path)})" if path else "")

    def take(self, chosen: np.ndarray) -> "HuggingFaceImages":
        return HuggingFaceImages(self.source, self.column, self.rows[chosen])

    def identity(self) -> Iterator[bytes]:
        """Yield sizes and names of the images; the contents would have to be read."""
        from pyarrow import compute

        chunks, _ = self._chunks
        sizes = [compute.binary_length(contents).fill_null(-1).to_numpy(False) for contents, _ in chunks]
        yield (np.concatenate(sizes) if sizes else np.empty(0)).astype(np.int64)[self.rows].tobytes()
        for start in range(0, len(self), _PIECE):
            places = range(start, min(start + _PIECE, len(self)))
            paths = (self._find(index)[1] or "" for index in places)
            yield "".join(f"{os.path.basename(path)}\0" for path in paths).encode("utf-8", "surrogateescape")

    def __reduce__(self) -> tuple[Any, ...]:
        return HuggingFaceImages, (self.source, self.column, self.rows)  # without the pieces, which would be copied


def images_of(source: Any, column: str) -> HuggingFaceImages:
    """Return the reader of the images in a column of a `datasets.Dataset`.

    Raises:
        ValueError: It is no such data set, or has no such column.
    """
    _require_split(source)
    from datasets import Image

    feature = _feature(source, "image", column)
    fits = isinstance(feature, Image) or getattr(feature, "dtype", None) in _BINARY
    require("image", column, "a column of type Image or binary", fits)
    # A selection or a shuffled order; the public interface would copy the images.
    order = source._indices
    rows = np.arange(len(source)) if order is None else order.column(0).to_numpy().astype(np.int64)
    return HuggingFaceImages(source, column, rows)


def is_hugging_face(value: object) -> bool:
    """Return whether a value is a data set of Hugging Face, or several, or a stream."""
    return any(base.__module__.partition(".")[0] == "datasets" for base in type(value).__mro__)


def _require_split(source: Any) -> None:
    """Raise ValueError unless `source` is a `datasets.Dataset` without a transform."""
    if not is_hugging_face(source):
        refuse("source", source, "a datasets.Dataset of Hugging Face")
    if isinstance(source, dict):
        raise ValueError(f"source must be one split, such as source[{next(iter(source), 'train')!r}], got all of them")
    require("source", type(source), "a datasets.Dataset, loaded without streaming=True", hasattr(source, "data"))
    if source.format["type"] == "custom":
        raise ValueError(
            "source must have no transform, as it would have no effect: set image_size, crop, crop_scale, policy, mean "
            "and std of image_loader; source.reset_format() removes it"
        )


def _feature(source: Any, argument: str, column: object) -> Any:
    names = ", ".join(map(repr, source.features))
    if not isinstance(column, str) or column not in source.features:
        refuse(argument, column, f"a column of the data set, one of {names}")
    return source.features[column]


def labels_of(reader: HuggingFaceImages, label: str | Sequence[str] | None) -> tuple[Any, list[str] | None]:
    """Return the labels of the images, and the class names where the labels have them.

    Args:
        reader: The images.
        label: Their column, several columns for a dictionary, or None.

    Raises:
        DataError: A label is missing, or lists differ in length.
        ValueError: There is no such column, or it holds no labels.
    """
    if label is None:
        return {}, None
    if isinstance(label, str):
        return _column(reader, label)
    require("label", label, "a column, a list of columns or None", isinstance(label, list | tuple))
    return {name: _column(reader, name)[0] for name in label}, None


def _column(reader: HuggingFaceImages, column: str) -> tuple[np.ndarray, list[str] | None]:
    import pyarrow as pa
    from datasets import ClassLabel
    from pyarrow import compute

    feature = _feature(reader.source, "label", column)
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    element = feature if inner is None else inner
    classes = element.names if isinstance(element, ClassLabel) else None
    if not str(getattr(element, "dtype", "")).startswith(("int", "uint", "float", "bool")):
        legal = "a column of ClassLabel, numbers, or lists of them; source.class_encode_column makes ClassLabel of text"
        refuse("label", column, legal)
    values = reader.source.data.column(column).take(pa.array(reader.rows)).combine_chunks()
    if inner is None:
        return _numbers(reader, values if classes is None else values.fill_null(-1), column), classes
    lengths = compute.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    numbers = _numbers(reader, values.flatten(), column)
    if classes is not None:
        return _several(reader, numbers, lengths, column, len(classes)), classes
    if len(lengths) and lengths.min() != lengths.max():
        raise DataError(
            f"the lists in column '{column}' of '{reader.root}' must have one length, got {lengths.min()} to "
            f"{lengths.max()}"
        )
    return numbers.reshape(len(reader), -1), None


def _numbers(reader: HuggingFaceImages, values: Any, column: str) -> np.ndarray:
    if values.null_count:
        raise DataError(f"column '{column}' of '{reader.root}' lacks {values.null_count} of its values")
    return values.to_numpy(zero_copy_only=False)


def _several(
    reader: HuggingFaceImages, labels: np.ndarray, lengths: np.ndarray, column: str, classes: int
) -> np.ndarray:
    """Return lists of class indices as zeros and ones, (n, classes) float32."""
    for label in labels[(labels < 0) | (labels >= classes)][:1]:
        raise DataError(f"column '{column}' of '{reader.root}' must have labels from 0 to {classes - 1}, got {label}")
    several = np.zeros((len(reader), classes), np.float32)
    several[np.repeat(np.arange(len(reader)), lengths), labels] = 1
    return several
