"""Batches of P identities with K images each, for losses that compare images of the same identity and of others."""

import numpy as np


class IdentityBatches:
    """The samples of an epoch, batch after batch: P different identities, and K images of each, one after the other.

    An identity with n images is in max(1, ⌊n / K⌋) batches of an epoch, as in the sampler of Hermans et al. 2017
    (arXiv:1703.07737) as Luo et al. 2019 use it, with images that are drawn anew in each epoch and do not occur twice
    in it. An identity with fewer than K images repeats them, each as often or once more. All epochs have the same
    number of batches, and so a few of these groups of K images, drawn at random, are not in an epoch.

    The samples are a function of seed and epoch. It is a `sampler` of `pipelines.image_loader`.

    Args:
        labels: the identity of each sample, (n,) int64, from 0, each at least once.
        identities: P, at most the number of identities.
        images: K.
        seed: of the draws.

    Attributes:
        batches: the number of batches in an epoch.
    """

    def __init__(self, labels: np.ndarray, identities: int, images: int, seed: int) -> None:
        self.identities, self.images, self.seed = identities, images, seed
        by_identity = np.argsort(labels, kind="stable")
        counts = np.bincount(labels)
        self._members = np.split(by_identity, counts.cumsum()[:-1])
        groups = np.maximum(1, counts // images)
        batches = int(groups.sum()) // identities
        # An identity is in a batch at most once, so that one with many images may not fill all its groups.
        while (fewer := int(np.minimum(groups, batches).sum()) // identities) < batches:
            batches = fewer
        self.batches = batches
        self._groups = np.minimum(groups, batches)

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return self.batches * self.identities * self.images

    def __call__(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch, (batches · P · K,) int64."""
        rng = np.random.default_rng([self.seed, epoch])
        samples = [self._drawn(members, groups, rng) for members, groups in zip(self._members, self._groups)]  # noqa: B905
        taken = np.zeros(len(samples), dtype=np.int64)
        order = []
        for chosen in self._identities(rng):
            order += [samples[identity][taken[identity]] for identity in chosen]
            taken[chosen] += 1
        return np.concatenate(order)

    def _drawn(self, members: np.ndarray, groups: int, rng: np.random.Generator) -> np.ndarray:
        """Return the images of an identity for each of its batches, (groups, K)."""
        needed = groups * self.images
        order = [rng.permutation(members) for _ in range(-(-needed // len(members)))]
        return np.concatenate(order)[:needed].reshape(groups, self.images)

    def _identities(self, rng: np.random.Generator) -> np.ndarray:
        """Return the identities of each batch, (batches, P), different ones."""
        left = self._groups.copy()
        owners = np.repeat(np.arange(len(left)), left)
        excess = len(owners) - self.batches * self.identities
        np.subtract.at(left, rng.permutation(owners)[:excess], 1)
        chosen = np.empty((self.batches, self.identities), dtype=np.int64)
        for number in range(self.batches):
            remaining = self.batches - number
            # The P least of exponential numbers with these rates: a draw without replacement in proportion to `left`.
            with np.errstate(divide="ignore"):
                keys = rng.exponential(size=len(left)) / left
            # What is left fits into the remaining batches, if identities that must be in each of them come first.
            keys[left == remaining] = -1
            least = np.argpartition(keys, self.identities - 1)[: self.identities]
            chosen[number] = rng.permutation(least)
            left[least] -= 1
        return chosen
