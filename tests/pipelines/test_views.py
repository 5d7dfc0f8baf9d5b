"""Several augmented views of one crop: the first as without others, each by a draw of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import POLICIES, AugMix, Batch, ImageLoader, Policy, RandAugment, draws, image_loader
from pipelines.policies.base import PolicyDraw
from pipelines.policies.operations import compose

SEED = 3


def _loader(root: Path, **changes: Any) -> ImageLoader:
    options = {"batch_size": 40, "image_size": 32, "device": "cpu", "num_threads": 1, "seed": SEED}
    return image_loader(root, **(options | changes))


class _Replayed:
    """A policy that draws from given numbers, for one batch after the other, and not from those of the loader."""

    def __init__(self, policy: Policy, numbers: Iterator[np.ndarray]) -> None:
        self.policy, self.numbers = policy, numbers
        self.chains, self.stages, self.uniforms = policy.chains, policy.stages, policy.uniforms

    def operations(self, size: int) -> tuple[str, ...]:
        return self.policy.operations(size)

    def draw(self, numbers: np.ndarray, size: int) -> PolicyDraw:
        return self.policy.draw(next(self.numbers), size)


def _numbers(policy: Policy, view: int) -> Iterator[np.ndarray]:
    """What numpy's Philox has for a view in batches of 40 of 100, by the positions of one epoch after the other."""
    for epoch in range(5):
        key = np.array([SEED, 4 * epoch + draws.POLICY], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(counter=[0, 0, view, 0], key=key))
        rows = generator.random((100, -(-policy.uniforms // 4) * 4))[:, : policy.uniforms]
        yield from (rows[:40], rows[40:80], rows[80:])


@pytest.mark.parametrize(
    ("policy", "options"),
    [(RandAugment(n=1), {}), (AugMix(width=2, depth=1), {}),
     (POLICIES["affine"], {"crop": "random_resized", "color_jitter": 0.4})],
    ids=["RandAugment", "AugMix", "Affine"],
)  # fmt: skip
def test_each_view_is_that_of_a_policy_with_these_numbers(cifar: Path, policy: Policy, options: dict) -> None:
    several = _loader(cifar, policy=policy, views=3, **options)
    alone: list[Any] = [_loader(cifar, policy=policy, **options)]
    alone += [_loader(cifar, policy=_Replayed(policy, _numbers(policy, view)), **options) for view in (1, 2)]
    for _ in range(2):  # epochs
        for batch, *views in zip(several, *alone, strict=True):
            assert isinstance(batch.augmented, tuple)
            assert len(batch.augmented) == 3
            for augmented, view in zip(batch.augmented, views, strict=True):
                assert torch.equal(batch.images, view.images)
                assert torch.equal(augmented, view.augmented)
                assert augmented.is_contiguous(memory_format=torch.channels_last)
            first, second, third = batch.augmented
            for one, other in ((first, second), (first, third), (second, third)):
                assert (one != other).flatten(1).any(1).float().mean() > 0.5


def test_matrices_are_of_their_views(cifar: Path) -> None:
    policy = POLICIES["affine"]
    loader = _loader(cifar, policy=policy, views=2, with_matrices=True)
    numbers = [_numbers(policy, view) for view in range(2)]
    for batch in loader:
        assert isinstance(batch.matrices, tuple)
        expected = [compose(policy.draw(next(rows), (32, 32)).matrices) for rows in numbers]
        assert [matrices.numpy().tolist() for matrices in batch.matrices] == [rows.tolist() for rows in expected]
    assert next(iter(_loader(cifar, policy=policy, views=2))).matrices is None


def test_one_view_is_no_tuple(cifar: Path) -> None:
    batch = next(iter(_loader(cifar, policy="affine", with_matrices=True, views=1)))
    assert isinstance(batch.augmented, torch.Tensor)
    assert isinstance(batch.matrices, torch.Tensor)
    assert isinstance(batch, Batch)


def test_views_of_files_and_of_validation(folders: Path) -> None:
    for train in (True, False):
        several = next(iter(_loader(folders, policy="flips", views=2, train=train, dtype="float16")))
        alone = next(iter(_loader(folders, policy="flips", train=train, dtype="float16")))
        assert torch.equal(several.images, alone.images)
        assert torch.equal(several.augmented[0], alone.augmented)
        assert several.augmented[1].dtype == torch.float16
        assert not torch.equal(several.augmented[1], alone.augmented)
