"""From measured signs to a ranked list of families, without images and without a network.

A threshold is what its sign means, not a fit to data: half of the errors, a fifth of the predictions, as much as a
blind map has. A difference between accuracies counts only if it exceeds two standard errors too.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

FAMILIES = {
    "drop": "drop what is salient, to break a shortcut",
    "less": "augment less",
    "hide": "hide any part of the image",
    "mix": "mix two images",
    "keep": "keep what is salient, and augment the rest",
    "self-mix": "mix an image with itself",
}  # in the order of precedence where their points are equal: the one with the most specific signs first
LEAST = 2  # points of a family that is advised: one strong sign, or two that support each other
STRONG, SUPPORTING = 2, 1  # points

FIFTH = 0.2  # of predictions: more than an annotator's usual errors, and rarely by chance
TENTH = 0.1  # of accuracy, by which a gap or an overconfidence is worth a treatment
HALF = 0.5  # of the errors, or of an object
BLIND = 1 / 3  # the Gini index of uniform noise: a map that is no more concentrated shows no place
DISTINCT = 0.5  # the Gini index of a map that a quarter of the image holds three quarters of, at least


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What was measured on a run. Shares and accuracies are from 0 to 1; None stands for not known.

    Attributes:
        train_images, val_images: whose predictions were counted.
        train_accuracy, val_accuracy: of the images as they are, without augmentation.
        train_common, val_common: likewise, behind a square at one place, where the training images' maps are greatest
            on average.
        train_salient, val_salient: behind a square at the peak of each image's own map.
        train_random, val_random: behind a square at a random place.
        confidence: mean on validation images.
        calibration_error: of 15 bins; None without torchmetrics.
        energy: share of the training images' maps in the objects' boxes.
        box_area: the boxes' share of the image, which is the energy of a blind map.
        concentration: mean Gini index of the training images' maps.
        stability: mean correlation of a training image's map with that of a copy with little noise.
        survival: by method, the share of right predictions on validation images that stay right under it.
        destroyed: by method, the share of a validation image's object's box that it covers.
    """

    train_images: int
    val_images: int
    train_accuracy: float
    val_accuracy: float
    train_common: float
    val_common: float
    train_salient: float
    val_salient: float
    train_random: float
    val_random: float
    confidence: float
    calibration_error: float | None
    energy: float | None
    box_area: float | None
    concentration: float
    stability: float
    survival: dict[str, float | None]
    destroyed: dict[str, float | None]


class Sign(NamedTuple):
    """One line of the table: a number, its threshold, and what it speaks for."""

    name: str
    value: float | None
    threshold: float
    above: bool  # whether the sign is given above its threshold, or below it
    family: str  # of FAMILIES
    points: int  # where it is given
    given: bool
    reason: str  # in words, what it means where it is given


class Advice(NamedTuple):
    """What to try."""

    signs: list[Sign]
    points: dict[str, int]  # by family, the best one first
    family: str | None  # None: the numbers do not favour any
    method: str | None  # of the family, to try first
    reasons: list[str]  # the given signs of that family


def advise(signs: Signs) -> Advice:
    """Return the families by their points, and the one to try first, unless all have fewer points than LEAST."""
    found = read(signs)
    points = dict.fromkeys(FAMILIES, 0)
    for sign in found:
        points[sign.family] += sign.points * sign.given
    ranked = sorted(points, key=lambda family: -points[family])  # stable: FAMILIES has the order of equals
    family = ranked[0] if points[ranked[0]] >= LEAST else None
    reasons = [sign.reason for sign in found if sign.given and sign.family == family]
    return Advice(
        found,
        {name: points[name] for name in ranked},
        family,
        None if family is None else method_of(family, signs),
        reasons,
    )


def method_of(family: str, signs: Signs) -> str:
    """Return the method of a family to try first."""
    if family == "keep":  # the form under which more labels survive
        cut, policy = (signs.survival.get(name) or 0.0 for name in ("keep_cutout", "keep_randaugment"))
        return "keep_cutout" if cut >= policy else "keep_randaugment"
    return {"drop": "drop_cutout", "less": "none", "hide": "cutout", "mix": "cutmix", "self-mix": "salfmix"}[family]


def read(signs: Signs) -> list[Sign]:
    """Return all signs, given or not."""
    shortcut = _shortcut(signs)
    fit = _fit(signs)
    gap = signs.train_accuracy - signs.val_accuracy
    gap_error = math.sqrt(
        _variance(signs.train_accuracy, signs.train_images) + _variance(signs.val_accuracy, signs.val_images)
    )
    # A shortcut explains a gap and what follows from it, which then speak for nothing else.
    unexplained = gap > max(TENTH, 2 * gap_error) and not any(sign.given and sign.points == STRONG for sign in shortcut)
    return [*shortcut, *fit, *_generalising(signs, gap, unexplained), *_keeping(signs, unexplained)]


def _shortcut(s: Signs) -> list[Sign]:
    """Signs that a cue decides which training images have alone."""

    def excess(name: str, train: float, val: float, costs: str) -> Sign:
        """Return how much more a place costs than a random one in training than in validation."""
        value = (s.train_random - train) - (s.val_random - val)
        # The two accuracies of a set are of the same images, so that their difference has at most this error.
        error = math.sqrt(
            _variance(train, s.train_images) + _variance(s.train_random, s.train_images)
            + _variance(val, s.val_images) + _variance(s.val_random, s.val_images)
        )  # fmt: skip
        reason = (
            f"{costs} costs {_points(s.train_random - train)} points of the training accuracy more than a random place"
            f" does, and {_points(s.val_random - val)} of the validation accuracy"
        )
        return _sign(name, value, FIFTH, "drop", STRONG, reason, error=error)

    ratio = s.energy / s.box_area if s.energy is not None and s.box_area else None
    return [
        excess("one place decides in training only", s.train_common, s.val_common,
               "covering one place in all images"),
        excess("the map's peak decides in training only", s.train_salient, s.val_salient,
               "covering the peak of each image's map"),
        _sign("map in the object, over a blind map's", ratio, 1.0, "drop", SUPPORTING,
              f"the maps of training images have {_percent(s.energy)} in the objects' boxes, and a blind map has"
              f" {_percent(s.box_area)}", above=False, when=s.box_area is not None and s.box_area < HALF),
    ]  # fmt: skip


def _fit(s: Signs) -> list[Sign]:
    """Signs that augmentation would make what limits the network worse."""
    errors = 1 - s.val_accuracy
    known = errors > 2 * math.sqrt(_variance(s.val_accuracy, s.val_images)) and errors > 0
    share = (1 - s.train_accuracy) / errors if known else None
    cost = _cost(s, "randaugment")
    gap = s.train_accuracy - s.val_accuracy
    return [
        _sign("errors that training images share", share, HALF, "less", STRONG,
              f"training images have {_percent(share)} of the errors that validation images have: the network is"
              " limited by its fit, and augmentation makes that harder"),
        _sign("predictions that RandAugment costs", cost, FIFTH, "less", STRONG,
              f"RandAugment changes {_percent(cost)} of the right predictions, and there is hardly a gap that training"
              " on its images could close", error=_error_of_cost(s), when=gap <= TENTH),
    ]  # fmt: skip


def _generalising(s: Signs, gap: float, unexplained: bool) -> list[Sign]:
    """Signs of what would close a gap that no shortcut explains."""
    cost, overconfidence = _cost(s, "cutout"), s.confidence - s.val_accuracy
    covered = s.destroyed.get("cutout")
    fragile = _sign(
        "predictions that Cutout costs", cost, FIFTH, "hide", STRONG,
        f"a square at random costs {_percent(cost)} of the right predictions: the network needs all of the object",
        error=_error_of_cost(s), when=unexplained and (covered is None or covered < HALF),
    )  # fmt: skip
    return [
        fragile,
        _sign("gap of the accuracies", gap, TENTH, "mix", SUPPORTING,
              f"{_percent(s.train_accuracy)} of the training images are right and {_percent(s.val_accuracy)} of the"
              " validation images, and no shortcut explains it", when=unexplained),
        _sign("overconfidence", overconfidence, TENTH, "mix", SUPPORTING,
              f"the mean confidence is {_percent(s.confidence)} where {_percent(s.val_accuracy)} are right",
              when=unexplained),
        _sign("concentration of the maps, spread", s.concentration, BLIND, "mix", SUPPORTING,
              "the maps are no more concentrated than noise: the evidence is everywhere, and each part of an image"
              " carries its label", above=False, when=unexplained and not fragile.given),
    ]  # fmt: skip


def _keeping(s: Signs, unexplained: bool) -> list[Sign]:
    """Signs that augmentation destroys what the label is about, and that the map knows where that is."""
    covered, kept = s.destroyed.get("cutout"), s.destroyed.get("keep_cutout")
    spared = covered is not None and kept is not None and kept < covered
    ratio = s.energy / s.box_area if s.energy is not None and s.box_area else None

    def saved(name: str, title: str) -> Sign:
        plain, keep = s.survival.get(name), s.survival.get(f"keep_{name}")
        value = None if plain is None or keep is None else keep - plain
        return _sign(f"predictions that keeping saves from {title}", value, TENTH, "keep", SUPPORTING,
                     f"{title} leaves {_percent(plain)} of the right predictions right, and {_percent(keep)} where it"
                     " keeps what is salient", error=math.sqrt(2) * _error_of_cost(s), when=unexplained)  # fmt: skip

    return [
        _sign("share of the object that Cutout covers", covered, HALF, "keep", STRONG,
              f"a square at random covers {_percent(covered)} of the object, and {_percent(kept)} where it keeps what"
              " is salient", when=unexplained and spared),
        saved("cutout", "Cutout"),
        saved("randaugment", "RandAugment"),
        _sign("concentration of the maps, distinct", s.concentration, DISTINCT, "self-mix", STRONG,
              "the maps have distinct peaks in the object, and the rest of the image is free for a second copy of them",
              when=unexplained and ratio is not None and ratio > 1),
    ]  # fmt: skip


def _sign(
    name: str, value: float | None, threshold: float, family: str, points: int, reason: str, *, above: bool = True,
    error: float = 0.0, when: bool = True,
) -> Sign:  # fmt: skip
    """Return a sign, given where the value is beyond the threshold, and, by its error, beyond two of these from 0."""
    given = (
        value is not None
        and (value > threshold if above else value < threshold)
        and (error == 0 or abs(value) > 2 * error)
        and when
    )
    return Sign(name, value, threshold, above, family, points, given, reason)


def _variance(share: float, count: int) -> float:
    """Return the variance of a share of independent images."""
    return share * (1 - share) / count


def _cost(s: Signs, name: str) -> float | None:
    """Return the share of the right predictions on validation images that an augmentation changes."""
    survives = s.survival.get(name)
    return None if survives is None else 1 - survives


def _error_of_cost(s: Signs) -> float:
    """Return the standard error of a share of a fifth of the right predictions on validation images."""
    return math.sqrt(_variance(FIFTH, max(1, round(s.val_images * s.val_accuracy))))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _points(value: float) -> str:
    return f"{100 * value:.0f}".replace("-", "−")
