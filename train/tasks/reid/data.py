"""The images of re-identification: who and which camera each shows, in Market-1501's layout or in identity folders."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines import DataError, Dataset
from pipelines.formats import IMAGE_SUFFIXES
from pipelines.names import printable
from pipelines.sources.folders import image_files
from pipelines.sources.names import subfolders

MARKET = ("bounding_box_train", "query", "bounding_box_test")
FOLDERS = ("train", "query", "gallery")
JUNK, DISTRACTOR = -1, 0  # Market-1501's identities of images that do not count, and of those that show nobody known
# 0002_c1s1_000451_03.jpg is identity 2 seen by camera 1; DukeMTMC-reID's names begin alike.
_MARKET_NAME = re.compile(r"(-1|[0-9]{1,9})_c([0-9]{1,9})(?![0-9])")
_CAMERA = re.compile(r"(?:^|_)c([0-9]{1,9})(?![0-9])")
LAYOUTS = (
    "Legal are Market-1501's layout (bounding_box_train, query and bounding_box_test, with names such as"
    " 0002_c1s1_000451_03.jpg), and folders train/<identity>, query/<identity> and gallery/<identity>, or"
    " test/<identity> in place of the last two, with _c<camera> in the names of the images"
)


@dataclass(frozen=True, eq=False)
class ReidData:
    """The images of a data set for re-identification.

    Attributes:
        train: the training images; the classes are the identities.
        test: the test images; the classes are the identities, others than those of `train` by their numbers.
        cameras: which camera each test image is of, (n,) int64.
        queries: places in `test` of the images to be found, (q,) int64, ascending.
        gallery: places in `test` of the images among which they are to be found, (g,) int64, ascending.
        shared: names of the identities that are in `train` and in the queries.
    """

    train: Dataset
    test: Dataset
    cameras: np.ndarray
    queries: np.ndarray
    gallery: np.ndarray
    shared: list[str]

    @property
    def identities(self) -> np.ndarray:
        """Who each test image shows, (n,) int64."""
        return self.test.class_indices


@dataclass(frozen=True)
class _Image:
    path: str
    identity: str
    camera: int | None
    is_distractor: bool = False


def find_reid(root: str | os.PathLike[str]) -> ReidData:
    """Return the images of re-identification below a folder.

    Market-1501's layout has the folders of `MARKET`, whose files are named <identity>_c<camera>…. Junk (identity −1) is
    left out, and distractors (0) are in the gallery alone.

    Otherwise, the images of an identity are in a folder of its name, in `train`, `query` and `gallery`. Names of images
    have the camera, `_c<number>`. If none of `query` and `gallery` has one, each image counts as of a camera of its
    own. `test` in place of the two is both: each of its images is looked for among the others.

    Raises:
        DataError: the folder has neither layout, a file's name does not say what it must, or no query has a match.
    """
    top = Path(root)
    try:
        if not top.is_dir():
            raise DataError(f"'{printable(str(top))}' is not a folder. {LAYOUTS}")
        found = set(subfolders(top))
        if set(MARKET) <= found:
            parts = [_market(top / name) for name in MARKET]
        elif {*FOLDERS} <= found:
            parts = [_folders(top / name) for name in FOLDERS]
        elif {"train", "test"} <= found:
            parts = [_folders(top / name) for name in ("train", "test")]
        else:
            raise DataError(f"'{printable(str(top))}' has no layout of re-identification. {LAYOUTS}")
    except OSError as error:
        place = printable(str(error.filename or top))
        raise DataError(f"'{place}': cannot be listed: {error.strerror or error}") from error
    train = [image for image in parts[0] if not image.is_distractor]
    _require(len({image.identity for image in train}) > 1, f"'{printable(str(top))}' has fewer than two identities")
    return _assembled(top, train, parts[1], parts[2] if len(parts) > 2 else None)


def _market(folder: Path) -> list[_Image]:
    """Return the images of one of Market-1501's folders, without the junk."""
    images = []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES))
    for name in names:
        if name.startswith("."):
            continue
        said = _MARKET_NAME.match(name)
        if said is None:
            raise DataError(
                f"'{printable(str(folder / name))}': its name must begin with the identity and the camera, such as"
                " 0002_c1s1_000451_03.jpg; remove the file, or rename it"
            )
        if int(said[1]) != JUNK:
            number = int(said[1])
            images.append(_Image(str(folder / name), f"{number:04d}", int(said[2]), number == DISTRACTOR))
    _require(bool(images), f"'{printable(str(folder))}' has no images ({' '.join(IMAGE_SUFFIXES)})")
    return images


def _folders(folder: Path) -> list[_Image]:
    """Return the images in the folders of identities."""
    images = []
    for identity in subfolders(folder):
        files = sorted(image_files(str(folder / identity), Counter()))
        where = printable(str(folder / identity))
        _require(bool(files), f"'{where}', the folder of an identity, has no images ({' '.join(IMAGE_SUFFIXES)})")
        for path in files:
            said = _CAMERA.search(os.path.basename(path))
            images.append(_Image(path, identity, int(said[1]) if said else None))
    _require(bool(images), f"'{printable(str(folder))}' has no folders of identities")
    return images


def _assembled(top: Path, train: list[_Image], queries: list[_Image], gallery: list[_Image] | None) -> ReidData:
    for image in queries:
        if image.is_distractor:
            raise DataError(
                f"'{printable(image.path)}': a query must show an identity; its number is 0, a distractor's"
            )
    test = queries if gallery is None else queries + gallery
    without = [image for image in test if image.camera is None]
    if without and len(without) < len(test):
        raise DataError(
            f"'{printable(without[0].path)}': its name must have the camera, such as _c2, as those of others have; only"
            " where no name has one does each image count as of a camera of its own"
        )
    train_set, test_set = _dataset(train), _dataset(test)
    cameras = np.array([place if image.camera is None else image.camera for place, image in enumerate(test)])
    places = np.arange(len(test))
    looked_for, among = (places, places) if gallery is None else (places[: len(queries)], places[len(queries) :])
    _require(
        _has_match(test_set.class_indices, cameras, looked_for, among),
        f"'{printable(str(top))}': no query has a match, an image of its identity by another camera in the gallery",
    )
    shared = {image.identity for image in queries} & {image.identity for image in train}
    return ReidData(train_set, test_set, cameras, looked_for, among, [printable(name) for name in sorted(shared)])


def _dataset(images: list[_Image]) -> Dataset:
    """Return images with their identities as classes."""
    classes = sorted({image.identity for image in images})
    label = {identity: place for place, identity in enumerate(classes)}
    labels = np.array([label[image.identity] for image in images], dtype=np.int64)
    return Dataset.from_samples([image.path for image in images], labels, [printable(name) for name in classes])


def _has_match(identities: np.ndarray, cameras: np.ndarray, queries: np.ndarray, gallery: np.ndarray) -> bool:
    """Return whether the gallery has an image of a query's identity by another camera."""
    seen: dict[int, set[int]] = {}
    for place in gallery:
        seen.setdefault(int(identities[place]), set()).add(int(cameras[place]))
    return any(seen.get(int(identities[place]), set()) - {int(cameras[place])} for place in queries)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise DataError(f"{message}. {LAYOUTS}")
