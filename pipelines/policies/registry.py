"""The policies by name."""

import os

from ..arguments import path, shown
from .augmix import AugMix
from .base import Policy
from .randaugment import RandAugment
from .sub_policies import FILE_SUFFIXES, AutoAugment, SubPolicies
from .transforms import TRANSFORMS
from .trivialaugment import TrivialAugment

POLICIES: dict[str, Policy] = {
    "autoaugment": AutoAugment("imagenet"),
    "autoaugment_v0": AutoAugment("imagenet_v0"),
    "autoaugment_cifar10": AutoAugment("cifar10"),
    "autoaugment_svhn": AutoAugment("svhn"),
    "randaugment": RandAugment(),
    "trivialaugment": TrivialAugment(),
    "augmix": AugMix(),
    **TRANSFORMS,
}


def find_policy(policy: str | os.PathLike[str]) -> Policy:
    """Return the policy of a name in `POLICIES`, or of a file, see `SubPolicies.from_file`.

    Raises:
        ValueError: It is neither, or the file does not hold a policy.
    """
    name = path("policy", policy, "a name or a file")
    if name in POLICIES:
        return POLICIES[name]
    if name.endswith(FILE_SUFFIXES):
        return SubPolicies.from_file(name)
    raise ValueError(
        f"policy must be one of {', '.join(POLICIES)}, or a file that ends in {', '.join(FILE_SUFFIXES)}; got "
        + shown(name)
    )
