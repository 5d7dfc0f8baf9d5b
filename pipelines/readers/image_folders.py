"""torchvision's data sets of files, as lists of files."""

from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset

from ..arguments import refuse, require, shown

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
        ValueError: It is no such data set, or has a transform or a loader of its own.
    """
    if not is_folder(folder):
        refuse("folder", folder, _LEGAL)
    if isinstance(folder, Subset):
        paths, labels, classes = listed(folder.dataset)
        places = np.asarray(folder.indices, dtype=np.int64)
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
