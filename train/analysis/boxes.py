"""The objects' boxes: their table, and their places in the images as the network sees them."""

import csv
import functools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags
from torch import Tensor

from pipelines import Batch, Dataset
from pipelines.decoding import DecodingError, open_image
from train.analysis.trained import Trained, loader_of
from train.errors import UserError

BATCH = 64
_COLUMNS = ("path", "x0", "y0", "x1", "y1")  # of a table of boxes
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations by EXIF that exchange width and height


def read_boxes(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Read boxes.tsv: path, x0, y0, x1, y1 in pixels, inclusive, of the image with its orientation applied.

    Returns:
        By the path of each image: top, left, bottom, right in pixels, half-open.

    Raises:
        UserError: the file does not exist, or lacks a column; or a line has no box, and the message has its number.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; pass --boxes, a table with the columns {', '.join(_COLUMNS)}")
    boxes: dict[str, tuple[int, int, int, int]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        try:
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path}: needs the tab-separated columns {', '.join(_COLUMNS)}; {missing[0]} is missing"
                )
            for row in rows:
                x0, y0, x1, y1 = (int(row[name]) for name in _COLUMNS[1:])
                if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
                    raise ValueError(f"x0 <= x1 and y0 <= y1 from 0 on, got {x0}, {y0}, {x1}, {y1}")
                boxes[row["path"]] = y0, x0, y1 + 1, x1 + 1
        except (TypeError, ValueError, csv.Error) as error:
            numbers = ", ".join(_COLUMNS[1:])
            raise UserError(
                f"{path}, line {rows.line_num}: needs a path and four whole numbers, {numbers}: {error}"
            ) from error
    return boxes


def _table(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Return `read_boxes` of a file, which is read once for all batches."""
    return _unchanged(path, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=2)
def _unchanged(path: Path, _: int) -> dict[str, tuple[int, int, int, int]]:
    return read_boxes(path)


def _check_place(dataset: Dataset) -> None:
    """Raise UserError unless the image files are on this machine."""
    if any("://" in path for path in dataset.reader.files):
        raise UserError(f"{dataset.root}: images with boxes are read on this machine only, not from s3://; pass --data")


def no_objects(boxes: Path) -> UserError:
    """Return the error of a stated table that is of no use."""
    return UserError(
        f"--boxes {boxes}: none of the images that are measured has its object in view; the table's paths are those of"
        " image files, relative to the data folder"
    )


def upright_size(path: str) -> tuple[int, int]:
    """Return the width and height of an image with the orientation in its metadata applied, by its header.

    Raises:
        UserError: the header cannot be read.
    """
    try:
        with open_image(Path(path).read_bytes()) as image:
            width, height = image.size
            turned = False
            with suppress(Exception):  # broken metadata, which a decoder ignores
                turned = image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
    except (OSError, DecodingError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot decode the image: {reason}") from error
    return (height, width) if turned else (width, height)


def objects_of(dataset: Dataset, boxes: Path | None, batch: Batch, side: int) -> Tensor | None:
    """Return the boxes of a batch's objects in its pixels, (B, 4), float64; None where there is no table of them.

    An image without a box, or without any of it in view, has a box of no area.

    Args:
        dataset: that the batch's indices are of.
        boxes: see `read_boxes`; None: boxes.tsv in the data folder, where there is one.
        batch: with views.
    """
    default = Path(dataset.root) / "boxes.tsv"
    if dataset.reader.kind != "files" or (boxes is None and not default.is_file()):
        return None
    _check_place(dataset)
    table, prefix, objects = _table(boxes or default), f"{dataset.root}/", []
    for index, view in zip(batch.indices.tolist(), batch.views.double().cpu(), strict=True):  # type: ignore[union-attr]
        path = dataset.reader.files[index]
        box = table.get(path.removeprefix(prefix))
        if box is None:
            objects.append(torch.zeros(4, dtype=torch.float64))
            continue
        size = torch.tensor(upright_size(path), dtype=torch.float64)
        corners = torch.tensor(box, dtype=torch.float64).view(2, 2).flip(1) / size  # (x, y), from 0 to 1
        corners = (side * (corners * view.diagonal() + view[:, 2])).clamp(0, side)
        objects.append(corners.flip(1).flatten())
    return torch.stack(objects)


def in_view(objects: Tensor) -> Tensor:
    """Return which boxes of `objects_of` have any of their object in view: (B,), bool."""
    return (objects[:, 2:] > objects[:, :2]).all(1)


def with_boxes(dataset: Dataset, boxes: Path) -> np.ndarray:
    """Return the places of the images that have a box in the table, (N,) int64, at least one.

    Args:
        boxes: see `read_boxes`.

    Raises:
        UserError: the images are not in files of their own, or the table cannot be used or has none of them.
    """
    if dataset.reader.kind != "files":
        raise UserError(f"{dataset.root}: it has no image files, which boxes belong to; pass --data")
    _check_place(dataset)
    table, prefix = _table(boxes), f"{dataset.root}/"  # a list may have paths of other folders: as they are
    known = [place for place, path in enumerate(dataset.reader.files) if path.removeprefix(prefix) in table]
    if not known:
        raise UserError(f"{boxes}: has none of the validation images; its paths are relative to the data folder")
    return np.array(known)


def with_objects(
    trained: Trained, dataset: Dataset, boxes: Path, places: np.ndarray
) -> Iterator[tuple[np.ndarray, Tensor, Tensor, Tensor]]:
    """Yield images as the network is validated on them, those that have any of their object in view, in order.

    Args:
        boxes: see `read_boxes`.
        places: of the images in the data set, (N,) int64; all have a box, see `with_boxes`.

    Yields:
        The places of some, (B,), at least one; the images, normalised, (B, 3, H, W), and their labels, (B,), both on
        the device; and the boxes, see `objects_of`.

    Raises:
        UserError: no image has its object in view.
    """
    part, found = dataset.take(places), False
    loader = loader_of(trained, trained.config, part, policy=None, batch_size=BATCH, with_views=True)
    for batch in loader:
        objects = objects_of(part, boxes, batch, trained.config.image_size)
        assert objects is not None
        seen = in_view(objects)
        if seen.any():
            found, here = True, seen.to(batch.images.device)
            yield places[batch.indices.cpu()[seen].numpy()], batch.images[here], batch.labels[here], objects[seen]
    if not found:
        raise UserError(f"{boxes}: none of the {len(places)} objects is in the part of its image that the network sees")
