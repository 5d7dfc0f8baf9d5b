"""Bad files in orders of the user's: replaced by position, over ranks and resumes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines import Batch, DataError, ImageLoader, draws, image_loader

GOOD, BAD, SEED = 9, 3, 5
COUNT = GOOD + BAD
ORDERS: dict[str, dict[str, Any]] = {
    "in order": {"shuffle": False},
    "shuffled validation": {"shuffle": True, "train": False},
    "sampler": {"sampler": lambda epoch: [4 + (5 * i + epoch) % 8 for i in range(19 - epoch)]},  # not the first four
    "weights": {"weights": [0] * 4 + [1] * (GOOD - 4) + [3] * BAD},
    "repeats of weights": {"weights": [0] * 4 + [1] * (GOOD - 4) + [3] * BAD, "repeats": 2},
    "repeats": {"repeats": 3},
    "views": {"views": 2, "policy": "flips"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Image.Image]) -> Path:
    """The last three files are bad."""
    root = tmp_path_factory.mktemp("bad")
    (root / "a").mkdir()
    for index in range(GOOD):
        make_photo(20 + index, 24, seed=index).save(root / "a" / f"{index:02}.jpg")
    for index in range(GOOD, COUNT):
        (root / "a" / f"{index:02}.jpg").write_bytes(b"no image")
    return root


def _loader(root: Path, **changes: Any) -> ImageLoader:
    options: dict[str, Any] = {"batch_size": 2, "image_size": 16, "device": "cpu", "num_threads": 1, "seed": SEED}
    return image_loader(root, on_bad_file="replace", **({"max_bad_share": 1.0} | options | changes))


def _images(batch: Batch) -> torch.Tensor:
    return torch.stack([batch.images, *(batch.augmented or ())], dim=1)


def _stand_in(epoch: int, position: int, index: int, among: list[int]) -> int:
    """The first good one of the sample and its candidates."""
    numbers = draws.uniforms(SEED, epoch, draws.SUBSTITUTE, position, 1, 16)[0]
    return next(i for i in (index, *(among[int(number * len(among))] for number in numbers)) if i < GOOD)


@pytest.mark.parametrize("kind", ORDERS)
def test_they_are_replaced_alike_by_all_ranks_and_after_a_resume(folder: Path, kind: str) -> None:
    options = ORDERS[kind]
    whole = _loader(folder, **(options | {"batch_size": 4}))
    ranks = [_loader(folder, rank=rank, world_size=2, **options) for rank in range(2)]
    states = []
    for epoch in range(2):
        order = whole.options.order(epoch).tolist()
        batches = list(whole)
        chosen = bool(options.keys() & {"sampler", "weights"})
        among = order if chosen else list(range(COUNT))
        expected = [
            _stand_in(epoch if options.get("train", True) else 0, position, index, among)
            for position, index in enumerate(order)
        ]
        assert [i for batch in batches for i in batch.indices.tolist()] == expected
        assert not chosen or min(expected) >= 4  # none that was left out
        assert [i for batch in batches for i in batch.replaced] == [i for i in order if i >= GOOD]
        parts: list[list[Batch]] = [[], []]
        for loader, part in zip(ranks, parts, strict=True):
            for batch in loader:
                part.append(batch)
                states.append((loader.options.rank, json.loads(json.dumps(loader.state_dict())), part))
        for number, batch in enumerate(batches):
            mine = [part[number] for part in parts if number < len(part)]
            if "repeats" in options:
                for rank, share in enumerate(mine):
                    assert torch.equal(_images(share), _images(batch)[rank::2])
            else:
                assert torch.equal(torch.cat([_images(share) for share in mine]), _images(batch))
            assert sorted(i for share in mine for i in share.replaced) == sorted(batch.replaced)
    assert sum(len(batch.replaced) for _, _, part in states for batch in part)
    rank, state, part = states[1]
    resumed = _loader(folder, rank=rank, world_size=2, **options)
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    for batch, uninterrupted in zip(resumed, part[2:], strict=True):
        assert torch.equal(_images(batch), _images(uninterrupted))
        assert batch.replaced == uninterrupted.replaced
    assert resumed._substitutes.replaced == 0
    resumed.load_state_dict(state)
    assert resumed._substitutes.replaced == sum(len(batch.replaced) for batch in part[:2])


def test_the_share_is_of_the_samples_of_the_epoch(folder: Path) -> None:
    def sampler(epoch: int) -> list[int]:
        return [GOOD, *[0] * 9] if epoch == 0 else [GOOD, *[0] * 4]

    loader = _loader(folder, sampler=sampler, max_bad_share=0.1)
    assert len(list(loader)) == 5
    with pytest.raises(DataError, match=r"^1 of this process's 5 samples of an epoch cannot be decoded so far"):
        list(loader)
