"""The options of a run that its loaders take."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train.config import Config
from train.data.loaders import make_loader, resolve_for_data


@pytest.mark.parametrize("train", [True, False])
def test_the_options_of_decoding_reach_the_loader(train: bool, shapes: Path) -> None:
    config = Config(data=str(shapes), device="cpu", hw_decoder_load=0.9, decode_size_hint=(640, 480))
    recipe = make_loader(resolve_for_data(config), train=train).recipe
    assert (recipe.hw_decoder_load, recipe.decode_size_hint) == (0.9, (640, 480))


@pytest.mark.parametrize("train", [True, False])
def test_flips_reach_the_loader(train: bool, shapes: Path) -> None:
    config = Config(data=str(shapes), device="cpu", image_size=16, batch_size=16, method="none", train_images=16)
    still, turned = (
        make_loader(resolve_for_data(replace(config, horizontal_flip=0, vertical_flip=share)), train=train)
        for share in (0, 1)
    )
    options = make_loader(resolve_for_data(config), train=train).options
    assert (options.horizontal_flip, options.vertical_flip) == (0.5, 0)
    for one, other in zip(still, turned, strict=True):
        assert torch.equal(one.images.flip(2) if train else one.images, other.images)
