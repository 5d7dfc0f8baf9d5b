"""The corruptions: functions of their arguments alone, some against their formulas; the accuracy against a loop."""

import multiprocessing

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from train.analysis.evaluation import corruptions
from train.analysis.evaluation.corrupting import CORRUPTIONS, GROUPS, SEVERITIES, corrupt
from train.analysis.evaluation.images import Sample
from train.errors import UserError

RANDOM = set(CORRUPTIONS) - {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=0).repeat(4, axis=1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_a_function_of_its_arguments(
    name: str, image: np.ndarray, capfd: pytest.CaptureFixture
) -> None:
    before = image.copy()
    np.random.seed(1)  # noqa: NPY002
    first = corrupt(image, name, 3, seed=5, sample=9)
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert drawn == np.random.random()  # noqa: NPY002
    assert (first.shape, first.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(corrupt(image, name, 3, seed=5, sample=9), first)
    for other in ({"seed": 6, "sample": 9}, {"seed": 5, "sample": 10}):
        assert np.array_equal(corrupt(image, name, 3, **other), first) == (name not in RANDOM)
    assert not np.array_equal(corrupt(image, name, 4, seed=5, sample=9), first)
    assert capfd.readouterr().out == ""


def test_contrast_and_pixelate_against_their_formulas(image: np.ndarray) -> None:
    values = image.astype(np.float64)
    means = values.mean((0, 1))
    for severity, factor in zip(SEVERITIES, (0.4, 0.3, 0.2, 0.1, 0.05), strict=True):
        seen = corrupt(image, "contrast", severity, seed=0, sample=0)
        np.testing.assert_allclose(seen, means + factor * (values - means), atol=1.001)
    halves = corrupt(image, "pixelate", 2, seed=0, sample=0)  # severity 2: half the side
    blocks = values.reshape(16, 2, 18, 2, 3).mean((1, 3)).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(halves, blocks, atol=1)


def test_the_noise_has_the_variance_of_its_severity() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    for severity, deviation in zip((1, 2, 3), (0.08, 0.12, 0.18), strict=True):
        noise = corrupt(grey, "gaussian_noise", severity, seed=0, sample=0).astype(float) - 128
        assert noise.std() / 255 == pytest.approx(deviation, rel=0.05)


class Brightness(nn.Module):
    """Class 1 where the mean is above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack((torch.zeros_like(mean), mean - self.threshold), dim=1)


class Runs:
    """A stand-in for a finished run: the model sees values from 0 to 1."""

    run, side = "runs/x", 32

    def __init__(self, threshold: float) -> None:
        self.model = Brightness(threshold)

    def normalised(self, images: Tensor) -> Tensor:
        return images / 255


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Sample:
    """Three images, in batches of two."""
    monkeypatch.setattr("train.analysis.evaluation.images.BATCH", 2)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    pixels[1] //= 3
    return Sample(pixels, torch.tensor([1, 0, 0]), np.array([4, 0, 17]), None)


def test_other_processes_make_the_same_images_in_the_same_order(sample: Sample) -> None:
    plan = [("frost", 2), ("impulse_noise", 5), ("pixelate", 1)]
    here, elsewhere = (list(corruptions._corrupted(plan, sample, 2, processes)) for processes in (0, 1))
    assert [made[:2] for made in here] == [(place, part) for place in range(3) for part in sample.batches()]
    for one, other in zip(here, elsewhere, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_array_equal(one[2], other[2])


def test_processes_end_with_a_killed_one_and_with_an_unfinished_iteration(sample: Sample) -> None:
    made = corruptions._corrupted([("pixelate", 1)] * 9, sample, 0, 1)
    next(made)
    (child,) = multiprocessing.active_children()
    made.close()
    assert not child.is_alive()
    made = corruptions._corrupted([("pixelate", 1)] * 9, sample, 0, 1)
    next(made)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(UserError, match="a process that corrupts images was ended from outside"):
        list(made)


def test_the_accuracy_against_a_loop(sample: Sample) -> None:
    subjects, pixels = [Runs(0.3), Runs(0.45)], sample.pixels
    found = corruptions.measure(subjects, sample, 2, 0)  # type: ignore[arg-type]
    for subject, result in zip(subjects, found, strict=True):
        means = []
        for name in CORRUPTIONS:
            for severity in SEVERITIES:
                right = 0
                for number, (index, label) in enumerate(((4, 1), (0, 0), (17, 0))):
                    seen = corrupt(pixels[number].permute(1, 2, 0).numpy(), name, severity, seed=2, sample=index)
                    right += (seen.mean() / 255 > subject.model.threshold) == label
                assert result["accuracy"][name][severity - 1] == pytest.approx(right / 3)
            means.append(sum(result["accuracy"][name]) / 5)
            assert result["corruptions"][name] == pytest.approx(means[-1])
        assert result["mean"] == pytest.approx(sum(means) / 15)
        assert result["groups"]["blur"] == pytest.approx(sum(means[3:7]) / 4)
    assert (found[0]["clean"], found[1]["clean"]) == pytest.approx((2 / 3, 2 / 3))
    assert [len(names) for names in GROUPS.values()] == [3, 4, 4, 4]
    assert found[0] != found[1]
    assert corruptions.rows(found[0])[1].name == "mean of 15 corruptions, 5 severities"

    # some of them: the same numbers, and means of these alone
    names, severities = ("fog", "shot_noise"), (2, 5)
    some = corruptions.measure(subjects, sample, 2, 0, names=names, severities=severities)  # type: ignore[arg-type]
    for part, whole in zip(some, found, strict=True):
        assert part["accuracy"] == {name: [whole["accuracy"][name][k - 1] for k in severities] for name in names}
        assert part["mean"] == pytest.approx(sum(map(sum, part["accuracy"].values())) / 4)
        assert part["groups"] == {"noise": part["corruptions"]["shot_noise"], "weather": part["corruptions"]["fog"]}
        assert [row.name for row in corruptions.rows(part)][1:4:2] == [
            "mean of 2 corruptions, 2 severities",
            "mean of weather",
        ]


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imagecorruptions", None)
    with pytest.raises(UserError, match=r"needs the package imagecorruptions-imaug .*pip install 'dali-salaug\[eval"):
        corruptions.check_library()
