"""Images that the user has listed: paths, or encoded images in memory."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..arguments import refuse, require
from .base import Reader
from .files import files_reader
from .records import Records

_LEGAL = "a list of paths, or of the contents of image files (bytes)"


@dataclass(frozen=True, eq=False)
class EncodedImages(Records):
    """Encoded images in memory.

    Attributes:
        images: Their contents.
        places: (n,) int64: of each, in the list that it came from.
    """

    images: list[bytes]
    places: np.ndarray
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def encoded(self, index: int) -> bytes:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"sample {self.places[index]} of those in memory"

    def take(self, chosen: np.ndarray) -> "EncodedImages":
        return EncodedImages([self.images[index] for index in chosen], self.places[chosen])

    def identity(self) -> Iterator[bytes]:
        yield from (hashlib.sha256(image).digest() for image in self.images)


def samples_reader(samples: object) -> tuple[str, Reader]:
    """Return the folder of some samples, and their reader.

    Args:
        samples: Paths, or contents of image files.

    Raises:
        ValueError: They are neither, or both.
    """
    is_list = isinstance(samples, Sequence) or (isinstance(samples, np.ndarray) and samples.ndim == 1)
    if not is_list or isinstance(samples, str | bytes | bytearray):
        refuse("samples", samples, _LEGAL)
    given = list(samples)  # type: ignore[call-overload] # a sequence
    if given and isinstance(given[0], bytes):
        for place, sample in enumerate(given):
            require(f"samples[{place}]", sample, "bytes, as the first is", isinstance(sample, bytes))
        return "memory", EncodedImages(given, np.arange(len(given)))
    for place, sample in enumerate(given):
        if not isinstance(sample, str | os.PathLike):
            refuse(f"samples[{place}]", sample, "a path, or all must be bytes")
        given[place] = path = os.fsdecode(sample)
        legal = "a path, not empty and without a NUL character"
        require(f"samples[{place}]", path, legal, bool(path) and "\0" not in path)
    common = os.path.commonprefix(given)  # noqa: RUF071 - of text, up to a slash: addresses are no paths
    return common[: common.rfind("/") + 1], files_reader(given)
