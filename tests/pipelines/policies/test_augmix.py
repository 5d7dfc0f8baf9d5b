"""AugMix: what it draws, its pixels against Pillow's chains mixed in NumPy, resuming and sharing out."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pipelines import AugMix, image_loader
from pipelines.draws import POLICY, uniforms

SIZE = 96
COUNT = 20_000


@pytest.fixture(scope="module")
def drawn() -> Any:
    policy = AugMix()
    return policy.draw(np.random.default_rng(0).random((COUNT, policy.uniforms)), (SIZE, SIZE))


def _names(drawn: Any) -> np.ndarray:
    return np.array(AugMix().operations((SIZE, SIZE)))[drawn.operations]


def test_weights_are_dirichlets_and_betas(drawn: Any) -> None:
    original, mixed = drawn.weights[:, 0], drawn.weights[:, 1:]
    np.testing.assert_allclose(drawn.weights.sum(axis=1), 1, rtol=1e-6)
    assert drawn.weights.dtype == np.float32
    assert stats.kstest(original, "uniform").pvalue > 1e-3  # Beta(1, 1)
    shares = mixed / mixed.sum(axis=1, keepdims=True)
    for chain in range(3):
        assert stats.kstest(shares[:, chain], stats.beta(1, 2).cdf).pvalue > 1e-3
    # Jointly: the share of one in the other two's sum is uniform, and independent of its own.
    split = shares[:, 0] / (shares[:, 0] + shares[:, 1])
    assert stats.kstest(split, "uniform").pvalue > 1e-3
    correlations = np.corrcoef([original, shares[:, 2], split]) - np.eye(3)
    assert np.abs(correlations).max() < 0.03


def test_chains_have_one_to_three_operations_each_uniform_over_nine(drawn: Any) -> None:
    names = _names(drawn).reshape(COUNT, 3, 3)
    depths = (names != "identity").sum(axis=2)
    for chain in range(3):
        assert stats.chisquare(np.bincount(depths[:, chain], minlength=4)[1:]).pvalue > 1e-3
    for stage in range(3):
        np.testing.assert_array_equal(names[:, :, stage] != "identity", depths > stage)
        seen = Counter(names[:, :, stage].ravel().tolist())
        del seen["identity"]
        total = sum(seen.values())
        expected = {name: total / 9 * (5 if name == "warp" else 1) for name in seen}
        assert len(seen) == 5
        assert stats.chisquare(list(seen.values()), list(expected.values())).pvalue > 1e-3
    assert np.abs(np.corrcoef(depths.T) - np.eye(3)).max() < 0.03


def test_magnitudes_are_the_authors(drawn: Any) -> None:
    """Levels are uniform in [0.1, 3]; shares of whole numbers follow from where the authors' int() cuts."""
    names, matrices = _names(drawn), drawn.matrices
    masks = drawn.parameters[names == "posterize", 0]
    assert set(masks) == {0b11110000, 0b11100000}  # 4 or 3 bits: int(0.4 · level) is 0 or 1
    assert stats.binomtest(int((masks == 0b11110000).sum()), len(masks), (2.5 - 0.1) / 2.9).pvalue > 1e-3
    thresholds = drawn.parameters[names == "solarize", 0]
    assert (thresholds.min(), thresholds.max()) == (256 - 76, 256 - 2)
    moved = matrices[names == "warp"]
    linear, shift = moved[..., :2] - np.eye(2), moved[..., 2]
    rotated = linear[:, 0, 1] * linear[:, 1, 0] != 0
    degrees = np.degrees(np.arcsin(moved[rotated, 0, 1])).round(3)
    assert set(degrees) <= set(range(-8, 9))
    assert stats.binomtest(int((degrees > 0).sum()), len(degrees)).pvalue > 1e-3
    for row in (0, 1):
        shears = linear[:, row, 1 - row][(linear[:, row, 1 - row] != 0) & ~rotated]
        assert stats.kstest(np.abs(shears), stats.uniform(0.003, 0.087).cdf).pvalue > 1e-3
        assert stats.binomtest(int((shears > 0).sum()), len(shears)).pvalue > 1e-3
        shifts = shift[:, row][(shift[:, row] != 0) & ~rotated]
        # int(level · 96 / 30): 1 … 9
        counts = np.bincount(np.abs(shifts).astype(int), minlength=10)[1:]
        levels = np.minimum(np.arange(1, 11) / 3.2, 3)
        assert stats.chisquare(counts, np.diff(levels) / np.diff(levels).sum() * counts.sum()).pvalue > 1e-3


def test_a_fixed_depth_and_another_width() -> None:
    policy = AugMix(severity=10, width=2, depth=4)
    drawn = policy.draw(np.random.default_rng(1).random((500, policy.uniforms)), (SIZE, SIZE))
    assert drawn.operations.shape == (500, 8)
    assert drawn.weights.shape == (500, 3)
    assert (np.array(policy.operations((SIZE, SIZE)))[drawn.operations] != "identity").all()


@pytest.mark.parametrize("data", ["cifar", "photographs"])
def test_pixels_are_pillows_chains_mixed(
    data: str, request: pytest.FixtureRequest, with_pillow: Callable[..., np.ndarray], pixels_of: Callable[..., Any]
) -> None:
    real = data == "photographs"
    root = request.getfixturevalue("real_data")("imagenet-samples") / "train" if real else request.getfixturevalue(data)
    count, size, policy = (40, SIZE, AugMix()) if real else (30, 32, AugMix())
    loader = image_loader(root, batch_size=count, image_size=size, train=False, policy=policy, device="cpu", seed=5)
    batch = next(iter(loader))
    drawn = policy.draw(uniforms(5, 0, POLICY, 0, count, policy.uniforms), (size, size))
    clean, augmented = (pixels_of(loader, images) for images in (batch.images, batch.augmented))
    names, changed = policy.operations((size, size)), []
    for image in range(count):
        picture = np.round(clean[image]).astype(np.uint8)
        mixture = float(drawn.weights[image, 0]) * picture.astype(np.float64)
        for chain in range(3):
            result = picture
            for stage in range(3 * chain, 3 * chain + 3):
                name = names[drawn.operations[image, stage]]
                result = with_pillow(result, name, drawn.parameters[image, stage], drawn.matrices[image, stage])
            mixture += float(drawn.weights[image, 1 + chain]) * result
        difference = np.abs(mixture - augmented[image])
        # Nearest pixels that tie, and what one operation rounds otherwise and the next enlarges.
        assert difference.mean() < 1
        assert (difference.max(axis=-1) > 2).mean() < 0.06
        changed.append(np.abs(augmented[image] - clean[image]).mean())
    assert np.mean(changed) > 10
    fractions = np.abs(augmented - np.round(augmented))
    assert (fractions > 0.01).mean() > 0.5  # the sum is not rounded


def test_it_resumes_and_is_shared_out(cifar: Path) -> None:
    options: dict[str, Any] = {"image_size": 32, "policy": "augmix", "device": "cpu"}
    whole = list(image_loader(cifar, batch_size=30, **options))
    options |= {"batch_size": 15, "world_size": 2}
    ranks = [image_loader(cifar, rank=rank, **options) for rank in range(2)]
    resumed = [image_loader(cifar, rank=rank, **options) for rank in range(2)]
    for loader, stopped in zip(resumed, ranks, strict=True):
        next(iter(stopped))
        loader.load_state_dict(stopped.state_dict())
    for batch, *parts in zip(whole[1:], *resumed, strict=True):
        for name in ("images", "augmented", "indices"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name)), name


def test_what_cannot_be_is_named(cifar: Path) -> None:
    with pytest.raises(ValueError, match=r"with_matrices must be False for AugMix\(severity=3.*no single matrix"):
        image_loader(cifar, batch_size=8, policy="augmix", with_matrices=True, device="cpu")
    for arguments, name in [({"severity": 0}, "severity"), ({"width": 0}, "width"), ({"depth": 0}, "depth")]:
        with pytest.raises(ValueError, match=rf"^{name} must be .*got 0"):
            AugMix(**arguments)
