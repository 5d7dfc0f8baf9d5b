"""Resizing on the CPU: torchvision's pixels, in their places, whatever the sizes and the threads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from PIL import Image
from torchvision.transforms.v2 import functional

from pipelines.graph.resize import resize_on_cpu

SIZES = [
    (40, 30),
    (7, 90),
    (64, 64),
    (1, 1),
    (33, 2),
    (200, 131),
    (64, 20),
    (300, 64),
    (150, 151),
    (65, 63),
    (500, 480),
]


@pytest.mark.usefixtures("resized_bytes")
@pytest.mark.parametrize("threads", [1, 3])
def test_each_image_is_torchvisions(make_photo: Callable[..., Image.Image], threads: int) -> None:
    photos = [np.asarray(make_photo(*size, seed=i)) for i, size in enumerate(SIZES)]

    @pipeline_def(batch_size=len(photos), num_threads=threads, device_id=None)
    def pipeline() -> Any:
        return resize_on_cpu(fn.external_source(lambda: photos, layout="HWC"), (64, 64))

    [output] = pipeline().run()
    assert output.layout() == "HWC"
    for photo, got in zip(photos, torch.from_dlpack(output.as_tensor()), strict=True):
        pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)
        assert torch.equal(got.permute(2, 0, 1), functional.resize(pixels, [64, 64], antialias=True))
