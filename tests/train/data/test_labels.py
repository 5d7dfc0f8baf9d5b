"""The training program trains on class indices, and says so where a data set has other labels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import DataError, find_dataset
from train.config import Config
from train.data.loaders import make_loader, resolve_for_data


@pytest.mark.parametrize("train", [True, False])
def test_other_labels_are_refused(tmp_path: Path, make_photo: Callable[..., Image.Image], train: bool) -> None:
    for index in range(6):
        (tmp_path / "abc"[index % 3]).mkdir(exist_ok=True)
        make_photo(20, 20, seed=index).save(tmp_path / "abc"[index % 3] / f"{index}.jpg")
    known = find_dataset(tmp_path)
    config = resolve_for_data(Config(device="cpu", batch_size=2, image_size=8), known)
    assert len(make_loader(config, train=train, dataset=known)) == 3
    for labels, got in ((np.eye(3)[known.class_indices], r"float32 of shape \(6, 3\)"), ({}, "a dictionary")):
        other = replace(known, labels=labels, classes=[])
        with pytest.raises(DataError, match=rf"labels of '{tmp_path}' must be class indices here, .* got {got}"):
            make_loader(config, train=train, dataset=other)
