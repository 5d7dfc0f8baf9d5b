"""Mean average precision and cumulative matching by Market-1501's protocol (Zheng et al. 2015), in chunks of queries.

For each query, gallery images of the same identity by the same camera are left out. The others are ranked by their
distance. Queries without a match among them do not count.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DISTANCES = ("cosine", "euclidean")
RANKS = (1, 5, 10)
CHUNK = 2**23  # distances at once: with their order and the sums along it, 300 MB


class Gallery(NamedTuple):
    """Test images as they are compared.

    Attributes:
        features: (n, D) float32.
        identities, cameras: (n,) int64.
        queries, gallery: places of the images in each role, (q,) and (g,) int64.
    """

    features: Tensor
    identities: Tensor
    cameras: Tensor
    queries: Tensor
    gallery: Tensor


def comparable(features: Tensor, distance: str) -> Tensor:
    """Return features whose Euclidean distances rank as the distance does: those of unit length for the cosine."""
    return F.normalize(features, dim=1) if distance == "cosine" else features


def squared_distances(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return squared Euclidean distances from features (c, D) to features (g, D), up to a constant of each query, which
    does not change their order: (c, g)."""
    return gallery.square().sum(1) - 2 * queries @ gallery.mT


def compared(images: Gallery, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return which gallery images match each of the queries, (c,) places, and which are left out: (c, g), bool each."""
    same = images.identities[queries][:, None] == images.identities[images.gallery]
    left_out = same & (images.cameras[queries][:, None] == images.cameras[images.gallery])
    return same & ~left_out, left_out


@torch.no_grad()
def ranking(images: Gallery, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return the average precision of each query and the rank of its first match.

    The average precision is the mean, over the matches, of the precision at the rank of each: the area under the curve
    of precision as steps. Equal distances are ranked in the order of the gallery.

    Args:
        queries: places of those to rank, (q,) int64.

    Returns:
        (q,) float64, 0 without a match; and (q,) int64, from 1, 0 without a match.
    """
    precisions, firsts, gallery = [], [], images.features[images.gallery]
    for some in queries.split(max(1, CHUNK // max(1, len(images.gallery)))):
        order = squared_distances(images.features[some], gallery).argsort(dim=1, stable=True)
        matches, left_out = (each.gather(1, order) for each in compared(images, some))
        ranks = (~left_out).cumsum(1)  # among those that count
        found = matches.cumsum(1)
        precision = torch.where(matches, found.double() / ranks.clamp(min=1), 0.0).sum(1)
        total = found[:, -1]
        first = ranks.gather(1, matches.int().argmax(1, keepdim=True))[:, 0]  # argmax takes the first of equal values
        precisions.append(precision / total.clamp(min=1))
        firsts.append(torch.where(total > 0, first, 0))
    return torch.cat(precisions), torch.cat(firsts)


def sums_of(precisions: Tensor, firsts: Tensor) -> Tensor:
    """Return the number of queries that count, the sum of their average precision, and the hits at each of `RANKS`.

    Returns:
        (2 + len(RANKS),) float64; sums over parts of the queries may be added.
    """
    counted = firsts > 0
    hits = [(counted & (firsts <= rank)).sum() for rank in RANKS]
    return torch.stack([counted.sum().double(), precisions.sum(), *(hit.double() for hit in hits)])


def values_of(sums: Tensor) -> dict[str, float]:
    """Return "val_map" and "val_rank1", 5 and 10, per cent, of `sums_of`."""
    count, precision, *hits = sums.tolist()
    shares = {"val_map": precision, **{f"val_rank{rank}": hit for rank, hit in zip(RANKS, hits, strict=True)}}
    return {name: 100 * value / count for name, value in shares.items()}


@torch.no_grad()
def nearest(images: Gallery, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the nearest gallery images of some queries, without those that are left out.

    Returns:
        Places of the images, (c, min(count, g)) int64, the nearest first, −1 where no image is left; and whether each
        matches, bool.
    """
    matches, left_out = compared(images, queries)
    away = squared_distances(images.features[queries], images.features[images.gallery])
    least, found = away.masked_fill(left_out, torch.inf).topk(min(count, away.shape[1]), dim=1, largest=False)
    return torch.where(least.isinf(), -1, images.gallery[found]), matches.gather(1, found)
