"""`for inputs, labels in loader.pairs()`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import ImageLoader, image_loader


def _loader(root: Path, **changes: Any) -> ImageLoader:
    options = {"batch_size": 30, "image_size": 32, "device": "cpu", "num_threads": 1}
    return image_loader(root, **(options | changes))


@pytest.mark.parametrize("options", [{}, {"policy": "flips"}, {"policy": "flips", "views": 2}, {"train": False}])
def test_pairs_are_those_of_the_batches(cifar: Path, options: dict[str, Any]) -> None:
    pairs = _loader(cifar, **options).pairs()
    loader = _loader(cifar, **options)
    assert len(pairs) == len(loader)
    for _ in range(2):  # epochs
        count = 0
        for (inputs, labels), batch in zip(pairs, loader, strict=True):
            expected = batch.augmented if "policy" in options else batch.images
            if "views" in options:
                assert isinstance(inputs, tuple)
                assert all(map(torch.equal, inputs, expected))
            else:
                assert torch.equal(inputs, expected)
            assert torch.equal(labels, batch.labels)
            count += 1
        assert count == len(pairs)


def test_epochs_breaks_and_states_are_the_loaders(cifar: Path) -> None:
    loader = _loader(cifar)
    epochs = [[batch.images for batch in loader] for _ in range(2)]
    pairs = loader.pairs()
    pairs.set_epoch(0)
    for inputs, _ in pairs:
        assert torch.equal(inputs, epochs[0][0])
        break
    state = pairs.state_dict()
    assert state == loader.state_dict()
    assert (state["epoch"], state["batch"]) == (0, 1)
    resumed = _loader(cifar).pairs()
    resumed.load_state_dict(state)
    for expected in (epochs[0][1:], epochs[1]):
        assert all(torch.equal(inputs, images) for (inputs, _), images in zip(resumed, expected, strict=True))
    assert pairs.loader is loader


def test_a_batch_does_not_unpack_into_two(cifar: Path) -> None:
    with pytest.raises(ValueError, match="too many values to unpack"):
        for _images, _labels in _loader(cifar):  # type: ignore[misc]
            pass
