"""Policies: what they draw, and that the graph's operations are DALI's."""

import math
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.auto_aug import auto_augment, rand_augment, trivial_augment
from nvidia.dali.auto_aug.core import augmentation as as_augmentation
from nvidia.dali.auto_aug.core import signed_bin
from scipy import stats
from torchvision.transforms import v2

from pipelines import POLICIES, Affine, AugMix, AutoAugment, Policy, RandAugment, TrivialAugment
from pipelines.graph import operations
from pipelines.graph.pipeline import image_pipeline
from pipelines.graph.recipe import Recipe
from pipelines.policies.operations import compose, geometry, mirrored

SIZE = 96
GEOMETRIC = {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}


def _recipe(policy: Policy, size: int = SIZE) -> Recipe:
    return Recipe(
        reads="pixels", device="cpu", image_size=(size, size), crop="none", stored=(size, size), ratio=(1, 1),
        color_jitter=0.0, operations=policy.operations((size, size)), chains=1, stages=policy.stages,
        interpolation="nearest", with_matrices=False, with_views=False, mean=(0, 0, 0), std=(1 / 255,) * 3,
        dtype="float32",
    )  # fmt: skip


def _apply(policy: Policy, picture: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The graph's augmented copies of one picture: (B, size, size, 3), pixel values."""
    drawn = policy.draw(numbers, picture.shape[:2])
    count = len(numbers)
    arrays = {
        "index": np.arange(count),
        "image": np.tile(picture, (count, 1, 1, 1)),
        "flip": np.zeros(count, np.int32),
    }
    for stage in range(policy.stages):
        arrays[f"operation{stage}"] = drawn.operations[:, stage]
        arrays[f"amount{stage}"] = drawn.parameters[:, stage, 0]
        arrays[f"kernel{stage}"] = drawn.parameters[:, stage].reshape(count, 3, 3)
        arrays[f"matrix{stage}"] = drawn.matrices[:, stage]
        arrays[f"window{stage}"] = drawn.parameters[:, stage, :4]
    recipe = _recipe(policy, len(picture))
    given = tuple(np.ascontiguousarray(arrays[name]) for name in recipe.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of deprecated operators, or inputs that are given and not used
        pipeline = image_pipeline(
            recipe, lambda: given, batch_size=count, num_threads=2, device_id=None, prefetch_queue_depth=1
        )
        return np.asarray(pipeline.run()[2].as_tensor())


@pipeline_def(enable_conditionals=True)
def _stock_pipeline(picture: np.ndarray, chains: list[list], num_bins: int, given: dict[str, np.ndarray]):
    """An output for each chain of DALI's own augmentations; the signs come in from outside."""
    signs = fn.external_source(lambda: given["signs"])
    bins = fn.external_source(lambda: given["bins"])
    outputs = []
    for chain in chains:
        data = types.Constant(picture, layout="HWC", dtype=types.UINT8, device="cpu")
        for position, (augmentation, magnitude_bin) in enumerate(chain):
            data = augmentation(
                data,
                magnitude_bin=signed_bin(bins if magnitude_bin is None else magnitude_bin, random_sign=signs[position]),
                num_magnitude_bins=num_bins,
                fill_value=128,
                interp_type=types.INTERP_NN,
                shape=list(picture.shape),
            )
        outputs.append(data)
    return tuple(outputs)


def _stock(picture: np.ndarray, chains: list[list], num_bins: int, signs: list, bins: list[int]) -> list[np.ndarray]:
    """`chains`: of pairs of augmentation and magnitude bin, None for the bins given per image. In one pipeline."""
    given = {
        "signs": np.array(signs, np.int32).reshape(len(signs), -1),
        "bins": np.array(bins, np.int32),
    }
    with warnings.catch_warnings():
        # Two of the stock operations call deprecated names: the reason why ours do not.
        warnings.simplefilter("ignore")
        pipeline = _stock_pipeline(
            picture, chains, num_bins, given, batch_size=len(signs), num_threads=2, device_id=None,
            prefetch_queue_depth=1,
        )  # fmt: skip
        return [np.asarray(output.as_tensor()).astype(np.float32) for output in pipeline.run()]


def _exactly(augmentation: Any) -> Any:
    """Color by our own operation: a later one, such as equalize, makes more of a level's difference."""
    if augmentation.name != "color":
        return augmentation
    same = {name: getattr(augmentation, name) for name in ("mag_range", "randomly_negate", "mag_to_param", "name")}
    return as_augmentation(lambda data, parameter: operations.color(data, parameter), **same)


def _assert_same_pixels(ours: np.ndarray, stock: np.ndarray, name: str) -> None:
    for mine, theirs in zip(ours, stock, strict=True):
        # A picture's row or two may fall on the other side where the nearest pixel is a tie.
        allowed = 0.02 if name in GEOMETRIC else 0.0
        levels = 2 if name == "color" else 1  # the grey that it mixes in is rounded too
        assert (np.abs(mine - theirs).max(axis=-1) > levels).mean() <= allowed, name


@pytest.fixture(scope="module")
def picture(make_photo) -> np.ndarray:
    return np.asarray(make_photo(SIZE, SIZE, seed=3))


def test_trivial_augment_operations_are_dalis_at_every_magnitude(picture: np.ndarray) -> None:
    suite = trivial_augment.get_trivial_augment_wide_suite()
    bins = [i for i in range(31) for _ in range(2)]
    signs = [0, 1] * 31
    numbers = [
        [(place + 0.5) / 14, (i + 0.5) / 31, sign / 2]
        for place in range(14)
        for i, sign in zip(bins, signs, strict=True)
    ]
    ours = _apply(TrivialAugment(), picture, np.array(numbers)).reshape(14, 62, SIZE, SIZE, 3)
    stock = _stock(picture, [[(augmentation, None)] for augmentation in suite], 31, signs, bins)
    for mine, theirs, augmentation in zip(ours, stock, suite, strict=True):
        _assert_same_pixels(mine, theirs, augmentation.name)


def test_rand_augment_operations_are_dalis(picture: np.ndarray) -> None:
    suite = rand_augment.get_rand_augment_suite(use_shape=True, max_translate_rel=150 / 331)
    pairs = [(0, 11), (2, 7), (4, 5), (8, 1), (10, 6), (3, 9), (12, 13)]
    signs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    numbers = [[(first + 0.5) / 14, (second + 0.5) / 14, a / 2, b / 2] for first, second in pairs for a, b in signs]
    ours = _apply(RandAugment(n=2, m=13), picture, np.array(numbers)).reshape(7, 4, SIZE, SIZE, 3)
    stock = _stock(picture, [[(suite[place], 13) for place in pair] for pair in pairs], 31, signs, [0] * 4)
    for mine, theirs, pair in zip(ours, stock, pairs, strict=True):
        _assert_same_pixels(mine, theirs, next(iter({suite[place].name for place in pair} & GEOMETRIC), ""))


@pytest.mark.parametrize(
    ("name", "stock"),
    [
        ("imagenet", lambda **_: auto_augment.get_reduced_image_net_policy()),  # it moves nothing by a share
        ("imagenet_v0", auto_augment.get_image_net_policy),
        ("cifar10", auto_augment.get_reduced_cifar10_policy),
        ("svhn", auto_augment.get_svhn_policy),
    ],
)
def test_auto_augment_sub_policies_are_dalis(picture: np.ndarray, name: str, stock: Any) -> None:
    reference = stock(use_shape=True, max_translate_rel=150 / 331)
    signs = [(0, 0), (1, 1)]
    compared = {
        place: [(_exactly(augmentation), magnitude or 0) for augmentation, _, magnitude in sub_policy]
        for place, sub_policy in enumerate(reference.sub_policies)
        # The paper's bits are not DALI's.
        if name != "imagenet" or all(augmentation.name != "posterize" for augmentation, *_ in sub_policy)
    }
    # 0 is below every probability but 0, which DALI's table leaves out: both operations are applied.
    numbers = [[(place + 0.5) / 25, 0, 0, a / 2, b / 2] for place in compared for a, b in signs]
    ours = _apply(AutoAugment(name), picture, np.array(numbers)).reshape(-1, 2, SIZE, SIZE, 3)
    theirs = _stock(picture, list(compared.values()), 11, signs, [0, 0])
    for mine, other, chain in zip(ours, theirs, compared.values(), strict=True):
        names = (augmentation.name for augmentation, _ in chain)
        _assert_same_pixels(mine, other, next((name for name in names if name in GEOMETRIC), ""))


def _uniforms(count: int, policy: Policy) -> np.ndarray:
    return np.random.default_rng(0).random((count, policy.uniforms))


@pytest.mark.parametrize("policy", [RandAugment(n=3, m=9), TrivialAugment()], ids=repr)
def test_operations_are_uniform_and_signs_balanced(policy: Policy) -> None:
    count = 14_000
    drawn = policy.draw(_uniforms(count, policy), (SIZE, SIZE))
    assert drawn.operations.shape == (count, policy.stages)
    assert drawn.parameters.shape == (count, policy.stages, 9)
    assert drawn.matrices.shape == (count, policy.stages, 2, 3)
    names = policy.operations((SIZE, SIZE))
    for stage in range(policy.stages):
        seen = Counter(names[i] for i in drawn.operations[:, stage])
        # Five of the fourteen are geometric: one operation of the graph.
        expected = {name: count / 14 * (5 if name == "warp" else 1) for name in names}
        assert len(names) == 10
        assert stats.chisquare([seen[name] for name in names], list(expected.values())).pvalue > 1e-3
        for name in ("color", "brightness"):
            strength = drawn.parameters[drawn.operations[:, stage] == names.index(name), stage, 0]
            assert stats.binomtest(int((strength > 1).sum()), len(strength)).pvalue > 1e-3
        # Of matrices that shear in x: the sign of the shear.
        shear = drawn.matrices[:, stage, 0, 1]
        shear = shear[(drawn.matrices[:, stage, 1, 0] == 0) & (shear != 0)]
        assert stats.binomtest(int((shear > 0).sum()), len(shear)).pvalue > 1e-3
    if policy.stages > 1:
        table = np.zeros((10, 10))
        np.add.at(table, (drawn.operations[:, 0], drawn.operations[:, 1]), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_auto_augment_applies_with_the_published_probabilities() -> None:
    policy = AutoAugment("cifar10")
    reference = auto_augment.get_reduced_cifar10_policy()
    count = 50_000
    numbers = _uniforms(count, policy)
    drawn = policy.draw(numbers, (SIZE, SIZE))
    names = policy.operations((SIZE, SIZE))
    chosen = (numbers[:, 0] * 25).astype(int)
    for place, sub_policy in enumerate(reference.sub_policies):
        for stage, (augmentation, probability, _) in enumerate(sub_policy):
            name = "warp" if augmentation.name in GEOMETRIC else augmentation.name
            applied = drawn.operations[chosen == place, stage]
            assert set(applied) <= {names.index("identity"), names.index(name)}
            hits = int((applied == names.index(name)).sum())
            assert stats.binomtest(hits, len(applied), probability).pvalue > 1e-4, (place, stage)


def test_stages_compose_first_applied_first() -> None:
    policy = RandAugment(n=3, m=20)
    drawn = policy.draw(_uniforms(200, policy), (SIZE, SIZE))
    points = np.random.default_rng(1).uniform(0, SIZE, (200, 2))
    moved = points
    for stage in range(3):
        matrix = drawn.matrices[:, stage].astype(np.float64)
        moved = np.einsum("bij,bj->bi", matrix[:, :, :2], moved) + matrix[:, :, 2]
    total = compose(drawn.matrices)
    assert total.dtype == np.float32
    np.testing.assert_allclose(np.einsum("bij,bj->bi", total[:, :, :2], points) + total[:, :, 2], moved, atol=1e-3)


def test_mirrored_is_the_map_between_mirrors() -> None:
    policy = RandAugment(n=2, m=20)
    matrices = policy.draw(_uniforms(50, policy), (SIZE, SIZE)).matrices
    mirror = np.array([[-1, 0, SIZE], [0, 1, 0], [0, 0, 1]])
    square = np.concatenate([matrices, np.tile([[[0, 0, 1]]], (50, 2, 1, 1))], axis=2)
    flips = np.arange(50) % 2
    seen = mirrored(matrices, flips, SIZE)
    np.testing.assert_allclose(seen[1::2], (mirror @ square @ mirror)[1::2, :, :2], atol=1e-4)
    np.testing.assert_array_equal(seen[::2], matrices[::2])


def test_translations_scale_with_the_image_but_for_trivial_augment() -> None:
    def furthest(policy: Policy, size: tuple[int, int]) -> list[float]:
        """Along x and along y."""
        matrices = policy.draw(_uniforms(5000, policy), size).matrices
        linear = np.abs(matrices[..., :2] - np.eye(2)).max(axis=(-1, -2))
        return np.abs(matrices[..., 2][linear == 0]).max(axis=0).tolist()

    for height, width in ((32, 32), (224, 224), (40, 96), (96, 40)):
        ours, theirs = furthest(RandAugment(n=1, m=30), (height, width)), v2.RandAugment()._AUGMENTATION_SPACE
        for amount, name in zip(ours, ("TranslateX", "TranslateY"), strict=True):
            assert amount == pytest.approx(float(theirs[name][0](31, height, width)[-1]))
        assert furthest(AutoAugment("cifar10"), (height, width))[1] == pytest.approx(9 / 10 * 150 / 331 * height)
        assert furthest(TrivialAugment(), (height, width)) == pytest.approx([32, 32])
        mixed, theirs = furthest(AugMix(severity=10), (height, width)), v2.AugMix()._AUGMENTATION_SPACE
        for amount, name in zip(mixed, ("TranslateX", "TranslateY"), strict=True):
            assert amount == math.floor(float(theirs[name][0](10, height, width)[-1]) * 0.9999)


@pytest.mark.parametrize("size", [(40, 96), (96, 40), (33, 33)])
def test_rotations_leave_the_centre_where_it_is(size: tuple[int, int]) -> None:
    middle = np.array(size[::-1]) / 2
    matrices = geometry("rotate", np.linspace(-180, 180, 37), size).astype(np.float64)
    np.testing.assert_allclose(matrices[..., :2] @ middle + matrices[..., 2], np.tile(middle, (37, 1)), atol=1e-4)
    drawn = Affine(True, True, (0.7, 1.3), 15, 40).draw(np.random.default_rng(0).random((50, 13)), size)
    moved = drawn.matrices[:, 0].astype(np.float64)
    assert (moved != np.eye(2, 3)).any(axis=(1, 2)).sum() > 40
    np.testing.assert_allclose(moved[..., :2] @ middle + moved[..., 2], np.tile(middle, (50, 1)), atol=1e-4)


def test_bad_arguments_are_named() -> None:
    for arguments, name in [({"n": 0}, "n"), ({"m": 31}, "m"), ({"m": -1}, "m"), ({"m": 2.5}, "m")]:
        with pytest.raises(ValueError, match=rf"^{name} must be .*got"):
            RandAugment(**arguments)
    with pytest.raises(ValueError, match="imagenet, imagenet_v0, cifar10, svhn, got 'mnist'"):
        AutoAugment("mnist")


def test_reprs_tell_policies_apart() -> None:
    policies = [*POLICIES.values(), RandAugment(n=3), RandAugment(m=10)]
    assert len({repr(policy) for policy in policies}) == len(policies)
