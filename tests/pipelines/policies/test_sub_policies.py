"""Policies of sub-policies: files, what magnitudes mean, draws, and pixels against Pillow."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data.auto_augment
import torch
import yaml
from nvidia.dali.auto_aug import auto_augment
from PIL import Image, ImageDraw
from scipy import stats
from torchvision import transforms
from torchvision.transforms import functional

from pipelines import AutoAugment, SubPolicies, find_policy, image_loader
from pipelines.draws import POLICY, uniforms
from pipelines.policies.sub_policies import _cutout_windows

SIZE = 64
MIXED = [
    [["Cutout", 0.6, 0.9], ["ShearX", 0.9, 0.8]],
    [["TranslateY", 1.0, 0.2], ["Equalize", 0.5, 0.3], ["Rotate", 0.8, 0.9]],
    [["Color", 0.7, 0.1]],
    [["Contrast", 0.9, 0.9], ["Cutout", 1.0, 0.4]],
    [["Brightness", 0.5, 0.2], ["Sharpness", 1.0, 0.9], ["AutoContrast", 0.8, 0.2]],
    [["Solarize", 1.0, 0.6], ["Posterize", 0.9, 0.3], ["Invert", 0.5, 0.1]],
]


def _write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    return path


def _drawn(name: str, magnitude: float | None, count: int = 2) -> tuple[str, np.ndarray, np.ndarray]:
    """Operation, parameters and matrices of one operation, with either sign."""
    policy = SubPolicies([[(name, 1.0, magnitude)]])
    numbers = np.full((count, policy.uniforms), 0.5)
    numbers[:, 2] = np.arange(count) / count
    drawn = policy.draw(numbers, (SIZE, SIZE))
    return policy.operations((SIZE, SIZE))[drawn.operations[0, 0]], drawn.parameters[:, 0], drawn.matrices[:, 0]


@pytest.mark.parametrize(
    ("name", "magnitude", "amount"),
    [
        ("Brightness", 10, 1.9), ("Contrast", 0, 0.1), ("Color", 5, 1.0), ("Solarize", 3, 76.8), ("SolarizeAdd", 5, 55),
        ("Posterize", 5, 0b11000000),  # two bits of 0 … 4
        ("Brightness", 1.0, 1.9), ("Contrast", 0.0, 0.1), ("Color", 0.5, 1.0), ("Solarize", 0.25, 64),
        ("Posterize", 0.49, 0b11111000),  # ⌊4 + 4 · 0.49⌋ = 5 bits
        ("Posterize", 1.0, 0b11111111),
    ],
)  # fmt: skip
def test_what_a_magnitude_is_in_the_operations_units(name: str, magnitude: float, amount: float) -> None:
    _, parameters, _ = _drawn(name, magnitude)
    np.testing.assert_allclose(parameters[:, 0], amount, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "magnitude", "row", "column", "amount"),
    [
        ("shear_x", 5, 0, 1, 0.15), ("shear_y", 10, 1, 0, 0.3), ("translate_x", 9, 0, 2, 0.9 * SIZE * 150 / 331),
        ("rotate", 4, 0, 1, np.sin(np.radians(12))),
        ("ShearX", 0.5, 0, 1, 0.0), ("ShearY", 0.0, 1, 0, 0.3), ("TranslateY", 0.75, 1, 2, 0.225 * SIZE),
        ("Rotate", 1.0, 0, 1, 0.5),
    ],
)  # fmt: skip
def test_what_a_magnitude_moves(name: str, magnitude: float, row: int, column: int, amount: float) -> None:
    operation, _, matrices = _drawn(name, magnitude)
    assert operation == "warp"
    np.testing.assert_allclose(np.abs(matrices[:, row, column]), amount, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(matrices[0, row, column], -matrices[1, row, column], atol=1e-7)


@pytest.mark.parametrize("learned_on", ["imagenet_v0", "cifar10", "svhn"])
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_auto_augment_from_a_file_draws_what_auto_augment_draws(tmp_path: Path, learned_on: str, suffix: str) -> None:
    get = {"imagenet_v0": "image_net", "cifar10": "reduced_cifar10"}.get(learned_on, learned_on)
    published = getattr(auto_augment, f"get_{get}_policy")().sub_policies
    content = [
        [[aug.name, p] if m is None else [aug.name, p, m] for aug, p, m in sub_policy] for sub_policy in published
    ]
    policy, reference = SubPolicies.from_file(_write(tmp_path / f"policy{suffix}", content)), AutoAugment(learned_on)
    numbers = np.random.default_rng(0).random((500, reference.uniforms))
    for mine, theirs in zip(policy.draw(numbers, (32, 32))[:3], reference.draw(numbers, (32, 32))[:3], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_auto_augment_for_imagenet_is_the_papers_as_torchvision_has_it() -> None:
    [table] = [transforms.AutoAugment(transforms.AutoAugmentPolicy.IMAGENET).policies]
    assert len(table) == 25
    policy = find_policy("autoaugment")
    assert isinstance(policy, AutoAugment)
    assert policy.learned_on == "imagenet"
    for mine, theirs in zip(policy.sub_policies, table, strict=True):
        assert [(name.replace("_", ""), p, m) for name, p, m in mine] == [(n.lower(), p, m) for n, p, m in theirs]
    other = find_policy("autoaugment_v0")
    assert isinstance(other, AutoAugment)
    assert not any(mine in policy.sub_policies for mine in other.sub_policies)


def test_auto_augment_for_imagenet_is_timms_original_pixel_by_pixel(make_photo: Callable[..., Image.Image]) -> None:
    """Each of its operations, alone: timm's with its own magnitude, torchvision's with ours in its units."""
    photo = make_photo(SIZE, SIZE, seed=6)
    picture = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    original = timm.data.auto_augment.auto_augment_policy_original({"img_mean": (128, 128, 128), "magnitude_std": 0})
    policy = AutoAugment()
    table = policy._table((SIZE, SIZE))
    seen = set()
    for row, (mine, theirs) in enumerate(zip(policy.sub_policies, original, strict=True)):
        for column, (operation, augment) in enumerate(zip(mine, theirs, strict=True)):
            if operation.name in ("rotate", "shear_x"):
                continue  # of random sign and resampling; `test_what_a_magnitude_moves`
            place = 1 + policy.stages * row + column
            amount = table.parameters[place, 0]
            augment.prob, seen = 1.0, seen | {operation.name}
            expected = np.asarray(augment(photo)).astype(int)
            if operation.name == "sharpness":
                continue  # its kernel is DALI's: `test_auto_augment_sub_policies_are_dalis`
            if operation.name == "posterize":
                bits = {8: 7, 7: 6, 6: 6, 5: 6}[operation.magnitude]
                assert int(amount[0]) == 256 - 2 ** (8 - bits)
                np.testing.assert_array_equal(np.asarray(photo) & np.uint8(amount[0]), expected)
                continue
            functions: dict[str, Callable[[], torch.Tensor]] = {
                "solarize": lambda: functional.solarize(picture, float(amount[0])),  # noqa: B023 - called at once
                "color": lambda: functional.adjust_saturation(picture, float(amount[0])),  # noqa: B023
                "contrast": lambda: functional.adjust_contrast(picture, float(amount[0])),  # noqa: B023
                "equalize": lambda: functional.equalize(picture),
                "invert": lambda: functional.invert(picture),
                "auto_contrast": lambda: functional.autocontrast(picture),
            }
            given = functions[operation.name]().permute(1, 2, 0).numpy().astype(int)
            # timm takes whole thresholds: 76 for 76.8
            same = np.abs(given - expected) <= 2 if operation.name != "solarize" else given == expected
            assert same.mean() > 0.98, operation
    assert seen >= {"posterize", "solarize", "color", "contrast", "equalize", "invert", "auto_contrast", "sharpness"}


def test_sub_policies_are_uniform_and_operations_follow_their_probabilities() -> None:
    policy = SubPolicies(MIXED)
    assert (policy.stages, policy.uniforms) == (3, 13)
    count = 30_000
    drawn = policy.draw(np.random.default_rng(1).random((count, policy.uniforms)), (SIZE, SIZE))
    names = np.array(policy.operations((SIZE, SIZE)))[drawn.operations]
    shares = {
        (stage, known): sum(sub[stage][1] for sub in MIXED if len(sub) > stage and known in sub[stage][0]) / len(MIXED)
        for stage, known in [(0, "Cutout"), (1, "Cutout"), (0, "Color"), (1, "Sharpness"), (2, "Rotate"), (2, "Invert")]
    }
    for (stage, known), share in shares.items():
        hits = int((names[:, stage] == ("warp" if known == "Rotate" else known.lower())).sum())
        assert stats.binomtest(hits, count, share).pvalue > 1e-4, (stage, known)
    # Operations of one sub-policy are applied independently of one another.
    both = (names[:, 0] == "brightness") & (names[:, 2] == "auto_contrast")
    assert stats.binomtest(int(both.sum()), count, 0.5 * 0.8 / 6).pvalue > 1e-4


def test_cutouts_are_those_of_pillows_rectangle() -> None:
    generator = np.random.default_rng(2)
    for size in ((32, 32), (61, 61), (24, 61), (61, 24)):
        shares, centres = generator.uniform(0.01, 0.2, 300), generator.random((300, 2))
        windows = _cutout_windows(shares, centres, size).astype(int)
        for share, centre, (top, left, height, width) in zip(shares, centres, windows, strict=True):
            side = share * size[1]  # the authors': of the width
            y, x = (int(max(0, place * each - side / 2)) for place, each in zip(centre, size, strict=True))
            image = Image.new("L", size[::-1])
            ImageDraw.Draw(image).rectangle((x, y, min(size[1], x + side), min(size[0], y + side)), 1)
            expected = np.zeros(size, dtype=np.uint8)
            expected[top : top + height, left : left + width] = 1
            np.testing.assert_array_equal(np.asarray(image), expected)
        assert (windows[:, 2:] >= 1).all()
    assert _drawn("Cutout", 0.0)[0] == "identity"


def _differences(
    root: Path,
    policy: SubPolicies,
    count: int,
    size: int,
    with_pillow: Callable[..., np.ndarray],
    pixels_of: Callable[..., np.ndarray],
) -> Iterator[tuple[list[str], np.ndarray]]:
    """For each image the operations, and by how much (size, size) the graph's pixels differ from Pillow's."""
    loader = image_loader(root, batch_size=count, image_size=size, train=False, policy=policy, device="cpu", seed=5)
    batch = next(iter(loader))
    drawn = policy.draw(uniforms(5, 0, POLICY, 0, count, policy.uniforms), (size, size))
    names = policy.operations((size, size))
    assert set(drawn.operations.ravel()) == set(range(len(names)))
    clean, augmented = (pixels_of(loader, images) for images in (batch.images, batch.augmented))
    for image in range(count):
        picture = np.round(clean[image]).astype(np.uint8)
        used = [names[index] for index in drawn.operations[image]]
        for stage, name in enumerate(used):
            picture = with_pillow(picture, name, drawn.parameters[image, stage], drawn.matrices[image, stage])
        yield used, np.abs(picture.astype(np.float32) - augmented[image]).max(axis=-1)


def test_pixels_of_each_operation_are_pillows(
    real_data: Callable[[str], Path], with_pillow: Callable[..., np.ndarray], pixels_of: Callable[..., np.ndarray]
) -> None:
    every = sorted({operation[0] for sub_policy in MIXED for operation in sub_policy} | {"ShearY", "TranslateX"})
    policy = SubPolicies([[[name, 0.9, level]] for name in every for level in (0.2, 0.8)])
    for [used], off in _differences(real_data("imagenet-samples") / "train", policy, 150, 96, with_pillow, pixels_of):
        # A picture's row or two may fall on the other side where the nearest pixel is a tie.
        assert (off > 2.5).mean() <= (0.03 if used == "warp" else 0), used


def test_operations_follow_one_another(
    cifar: Path, with_pillow: Callable[..., np.ndarray], pixels_of: Callable[..., np.ndarray]
) -> None:
    for used, off in _differences(cifar, SubPolicies(MIXED), 30, 32, with_pillow, pixels_of):
        # What one operation rounds otherwise, the next may enlarge; another order would give tens.
        assert off.mean() < 4, used


def test_a_policy_from_a_file_resumes_and_is_shared_out(tmp_path: Path, cifar: Path) -> None:
    path = _write(tmp_path / "mine.json", MIXED)
    options: dict[str, Any] = {"image_size": 32, "policy": path, "with_matrices": True, "device": "cpu"}
    whole = list(image_loader(cifar, batch_size=30, **options))
    options |= {"batch_size": 15, "world_size": 2}
    ranks = [image_loader(cifar, rank=rank, **options) for rank in range(2)]
    for loader in ranks:
        next(iter(loader))
    resumed = [image_loader(cifar, rank=rank, **options) for rank in range(2)]
    for loader, stopped in zip(resumed, ranks, strict=True):
        loader.load_state_dict(stopped.state_dict())
    for batch, *parts in zip(whole[1:], *resumed, strict=True):
        for name in ("images", "augmented", "matrices", "indices"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name)), name
    other = image_loader(cifar, rank=0, **(options | {"policy": SubPolicies(MIXED[:-1])}))
    with pytest.raises(ValueError, match=r"policy: 'SubPolicies\(6 .* in the state, 'SubPolicies\(5 "):
        other.load_state_dict(ranks[0].state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"a policy must be a list of sub-policies, got \{\}"),
        ([], r"a policy must be a list of sub-policies, got \[\]"),
        ([[["Rotate", 1.0, 3]], []], r"sub-policy 2 must be a list of \[operation, probability, magnitude\], got \[\]"),
        ([["Rotate", 1.0, 3]], r"sub-policy 1, operation 1 must be \[operation, .* got 'Rotate'"),
        ([[["Flip", 0.5, 0.5]]], r"operation 1: the operation must be one of auto_contrast, .* cutout; got 'Flip'"),
        (
            [[["Rotate", 0.5, 3], ["Color", 1.5, 3]]],
            r"operation 2, color: the probability must be from 0 to 1, got 1.5",
        ),
        ([[["Rotate", True, 3]]], r"rotate: the probability must be from 0 to 1, got True"),
        ([[["Rotate", 0.5, 11]]], r"sub-policy 1, operation 1, rotate: the magnitude must be a whole .* got 11"),
        ([[["Rotate", 0.5, 1.5]]], r"rotate: the magnitude must be .* or a level from 0.0 to 1.0; got 1.5"),
        ([[["Rotate", 0.5]]], r"rotate: the magnitude must be .* got None"),
        (
            [[["Rotate", 0.5, 0.3], ["Equalize", 0.5, 1]], [["Color", 0.5, 1]]],
            r"all levels .* got sub-policy 1, operation 1: 0.3 and sub-policy 2, operation 1: 1",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".yml", ".json"])
def test_bad_files_are_named_with_the_place(tmp_path: Path, content: Any, message: str, suffix: str) -> None:
    path = _write(tmp_path / f"bad{suffix}", content)
    with pytest.raises(ValueError, match=rf"^policy file '.*bad{suffix}': .*{message}"):
        find_policy(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^policy file '.*none.yaml': No such file or directory"):
        find_policy(tmp_path / "none.yaml")
    (tmp_path / "cut.json").write_text('[[["Rotate"')
    with pytest.raises(ValueError, match=r"^policy file '.*cut.json': .*line 1 column"):
        find_policy(str(tmp_path / "cut.json"))
    (tmp_path / "cut.yaml").write_text("- [[rotate")
    with pytest.raises(ValueError, match=r"(?s)^policy file '.*cut.yaml': .*line"):
        find_policy(tmp_path / "cut.yaml")
    with pytest.raises(ValueError, match=r"^policy file 'x.txt': its name must end in .yaml, .yml, .json"):
        SubPolicies.from_file("x.txt")
