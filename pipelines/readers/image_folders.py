"""torchvision's data sets of files, as lists of files."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset

from ..arguments import refuse, require, shown
from ..labels import as_array

_LEGAL = "an ImageFolder or another DatasetFolder of torchvision, or a Subset of one"
_INSTEAD = {
    "transform": "set image_size, crop, crop_scale, policy, mean and std of image_loader",
    "target_transform": "give the targets to Dataset.from_samples",
}


def is_folder(value: object) -> bool:
    """Return whether a value is a data set of torchvision that lists files, or a subset of one."""
    if isinstance(value, Subset):
        return is_folder(value.dataset)
    return isinstance(value, Dataset) and all(hasattr(value, name) for name in ("samples", "classes", "loader"))


def listed(folder: Any) -> tuple[list[str], np.ndarray, list[str]]:
    """Return the paths, the class indices and the class names.

    Raises:
        ValueError: It is no such data set, or has a transform or a loader of its own; or a subset has other indices.
    """
    if not is_folder(folder):
        refuse("folder", folder, _LEGAL)
    if isinstance(folder, Subset):
        paths, labels, classes = listed(folder.dataset)
        places = _places(folder.indices, len(paths))
        return [paths[place] for place in places], labels[places], classes
    for name, instead in _INSTEAD.items():
        value = getattr(folder, name, None)
        if value is not None:
            raise ValueError(f"{name} must be None, as it would have no effect: {instead}; got {shown(value)}")
    from torchvision.datasets.folder import default_loader

    own = folder.loader
    instead = "torchvision's default_loader, as it would have no effect: give the paths to Dataset.from_samples"
    require("loader", own, instead, own is default_loader)
    # ImageNet's are tuples of synonyms.
    classes = [name if isinstance(name, str) else ", ".join(name) for name in folder.classes]
    return [path for path, _ in folder.samples], np.array([label for _, label in folder.samples], np.int64), classes


def _places(indices: Any, count: int) -> np.ndarray:
    """Return the indices of a subset of so many samples, (m,) int64. As in a list, −1 is the last sample."""
    name, legal = "indices of the Subset", f"integers from {-count} to {count - 1}"
    places = as_array(name, indices, legal)
    require(name, indices, legal, places.ndim == 1 and (places.dtype.kind in "iu" or not places.size))
    for wrong in places[(places < -count) | (places >= count)][:1]:
        refuse(name, wrong, legal)
    return places.astype(np.int64)
