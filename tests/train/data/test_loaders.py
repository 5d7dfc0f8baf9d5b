"""The options of a run that its loaders take."""

from pathlib import Path

import pytest

from train.config import Config
from train.data.loaders import make_loader, resolve_for_data


@pytest.mark.parametrize("train", [True, False])
def test_the_options_of_decoding_reach_the_loader(train: bool, shapes: Path) -> None:
    config = Config(data=str(shapes), device="cpu", hw_decoder_load=0.9, decode_size_hint=(640, 480))
    recipe = make_loader(resolve_for_data(config), train=train).recipe
    assert (recipe.hw_decoder_load, recipe.decode_size_hint) == (0.9, (640, 480))
