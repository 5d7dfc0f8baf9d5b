"""The rules alone: each sign at its threshold, what speaks for what, the ranking, and advice that is withheld."""

import dataclasses
from typing import Any

import pytest

from train.analysis.advice.rules import FAMILIES, LEAST, Signs, advise, method_of, read

# A network that generalises, and of which nothing can be said.
PLAIN = Signs(
    train_images=400, val_images=400,
    train_accuracy=0.97, val_accuracy=0.9,
    train_common=0.9, val_common=0.85,
    train_salient=0.85, val_salient=0.8,
    train_random=0.93, val_random=0.88,
    confidence=0.9, calibration_error=0.02,
    energy=0.5, box_area=0.25, concentration=0.4, stability=0.9,
    survival={"cutout": 0.9, "keep_cutout": 0.95, "randaugment": 0.85, "keep_randaugment": 0.9},
    destroyed={"cutout": 0.2, "keep_cutout": 0.1},
)  # fmt: skip
GAP = {"train_accuracy": 1.0, "val_accuracy": 0.6, "confidence": 0.6}


def survival(**changes: float | None) -> dict[str, float | None]:
    return PLAIN.survival | changes


def signs(**changes: Any) -> Signs:
    return dataclasses.replace(PLAIN, **changes)


def test_where_nothing_is_given_no_family_is_favoured() -> None:
    advice = advise(PLAIN)
    assert not any(sign.given for sign in advice.signs)
    assert advice.family is None
    assert advice.method is None
    assert advice.reasons == []
    assert set(advice.points.values()) == {0}
    assert list(advice.points) == list(FAMILIES)


@pytest.mark.parametrize(
    ("changes", "family", "method"),
    [
        # 45 points more than a random place in training, 3 in validation.
        ({**GAP, "train_common": 0.5, "train_random": 0.95, "val_common": 0.55, "val_random": 0.58}, "drop",
         "drop_cutout"),
        ({**GAP, "train_salient": 0.5, "train_random": 0.95, "val_salient": 0.55, "val_random": 0.58}, "drop",
         "drop_cutout"),
        ({"train_accuracy": 0.7, "val_accuracy": 0.65}, "less", "none"),
        ({"survival": survival(randaugment=0.7)}, "less", "none"),
        ({**GAP, "survival": survival(cutout=0.7)}, "hide", "cutout"),
        ({**GAP, "confidence": 0.8}, "mix", "cutmix"),
        ({**GAP, "concentration": 0.3}, "mix", "cutmix"),
        ({**GAP, "destroyed": {"cutout": 0.6, "keep_cutout": 0.3}, "survival": survival(cutout=0.6)}, "keep",
         "keep_cutout"),
        ({**GAP, "survival": survival(cutout=0.81, keep_cutout=0.93, randaugment=0.8, keep_randaugment=0.95)}, "keep",
         "keep_randaugment"),
        ({**GAP, "concentration": 0.55}, "self-mix", "salfmix"),
    ],
)  # fmt: skip
def test_what_speaks_for_what(changes: dict[str, Any], family: str, method: str) -> None:
    advice = advise(signs(**changes))
    assert (advice.family, advice.method) == (family, method)
    assert next(iter(advice.points)) == family
    assert advice.points[family] >= LEAST
    given = [sign for sign in advice.signs if sign.given and sign.family == family]
    assert advice.points[family] == sum(sign.points for sign in given)
    assert advice.reasons == [sign.reason for sign in given]
    assert list(advice.points.values()) == sorted(advice.points.values(), reverse=True)


def test_a_gap_alone_is_too_weak() -> None:
    advice = advise(signs(**GAP))
    assert advice.points["mix"] == 1
    assert advice.family is None


def test_a_shortcut_explains_the_gap_and_what_follows_from_it() -> None:
    rest = {**GAP, "confidence": 0.9, "survival": survival(cutout=0.5, randaugment=0.5), "concentration": 0.6}
    assert sum(advise(signs(**rest)).points.values()) > 4
    cue = {"train_common": 0.5, "train_random": 0.95, "val_common": 0.55, "val_random": 0.55, "val_salient": 0.5}
    points = advise(signs(**rest, **cue)).points
    assert points.pop("drop") == 2
    assert set(points.values()) == {0}


def test_what_costs_as_much_in_validation_is_no_shortcut() -> None:
    """Objects in the middle of all images, or needed whole."""
    costly = {"train_random": 0.95, "train_common": 0.5, "train_salient": 0.5}
    costly |= {"val_random": 0.85, "val_common": 0.45, "val_salient": 0.45}
    assert advise(signs(**costly)).points["drop"] == 0


def test_maps_off_the_object_support_but_do_not_decide() -> None:
    advice = advise(signs(energy=0.2))
    assert advice.points["drop"] == 1
    assert advice.family is None
    assert advise(signs(energy=0.0)).points["drop"] == 1  # wholly off it
    assert advise(signs(energy=0.6, box_area=0.7)).points["drop"] == 0  # a box that is most of the image tells little
    assert advise(signs(energy=None, box_area=None)).points["drop"] == 0


@pytest.mark.parametrize(("images", "points"), [(400, 1), (20, 0)])
def test_few_images_give_no_sign(images: int, points: int) -> None:
    """0.95 and 0.75 of 20 images each are within two standard errors."""
    few = signs(train_images=images, val_images=images, train_accuracy=0.95, val_accuracy=0.75, confidence=0.8)
    assert advise(few).points["mix"] == points


@pytest.mark.parametrize(("accuracy", "given"), [(1.0, False), (0.995, False), (0.9, True)])
def test_a_share_of_errors_needs_errors(accuracy: float, given: bool) -> None:
    (sign,) = (sign for sign in read(signs(train_accuracy=accuracy, val_accuracy=accuracy)) if "share," in sign.name
               or sign.name == "errors that training images share")  # fmt: skip
    assert sign.given == given
    assert (sign.value is None) == (not given)


def test_unknown_numbers_give_no_sign() -> None:
    unknown = dict.fromkeys(PLAIN.survival, None)
    advice = advise(
        signs(**GAP, energy=None, box_area=None, survival=unknown, destroyed={"cutout": None, "keep_cutout": None})
    )
    assert [sign.name for sign in advice.signs if sign.given] == ["gap of the accuracies"]
    assert method_of("keep", signs(survival=unknown)) == "keep_cutout"


def test_of_equal_points_the_most_specific_family_is_first() -> None:
    """Cutout's cost is two points for hiding; the gap and overconfidence are two for mixing."""
    advice = advise(signs(**{**GAP, "confidence": 0.8}, survival=survival(cutout=0.7)))
    assert (advice.points["hide"], advice.points["mix"]) == (2, 2)
    assert advice.family == "hide"
    assert list(FAMILIES)[:4] == ["drop", "less", "hide", "mix"]
