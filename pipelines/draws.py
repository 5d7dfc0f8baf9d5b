"""All random numbers of the loader, drawn on the host and fully determined by where they are used.

What happens to the sample at position p of epoch e is a function of (seed, e, p) alone, not of the batches drawn
before, the number of processes, prefetching or the device. Jumping to another epoch, leaving one in the middle and
resuming are therefore just a change of (e, p).
"""

import numpy as np

# Streams of one epoch. The numbers are part of what a seed means: append, never reorder.
ORDER, VIEW, POLICY, JITTER, SUBSTITUTE, BEFORE_POLICY, AFTER_POLICY = range(7)

CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop
JITTER_FACTORS = ("brightness", "contrast", "saturation")
VIEW_UNIFORMS = 2 * CROP_ATTEMPTS + 4  # attempts, position (y, x), horizontal and vertical flip


def _philox(seed: int, epoch: int, stream: int, view: int = 0) -> np.random.Philox:
    # Four streams by their keys; the next four, and the further views of each, far away in the counters of these.
    part, stream = divmod(stream, 4)
    return np.random.Philox(counter=[0, 0, view, part], key=np.array([seed, 4 * epoch + stream], dtype=np.uint64))


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the samples in an epoch: a permutation of 0 … count − 1, (count,) int64."""
    return np.random.Generator(_philox(seed, epoch, ORDER)).permutation(count)


def epoch_choice(weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return n samples in an epoch, each drawn independently in proportion to `weights`, (n,) float64: (n,) int64.

    Those at a position are a function of (seed, epoch, position) and the weights. One of weight 0 is never drawn.
    """
    edges = np.cumsum(weights)
    numbers = np.random.Generator(_philox(seed, epoch, ORDER)).random(len(weights))
    return np.searchsorted(edges, numbers * edges[-1], side="right")


def uniforms(
    seed: int, epoch: int, stream: int, start: int, count: int, width: int, *, step: int = 1, view: int = 0
) -> np.ndarray:
    """Return `width` numbers in [0, 1) for each position start, start + step, …: (count, width) float64.

    They are others for each view of an image.
    """
    blocks = -(-width // 4)  # one step of the counter gives four numbers
    source = _philox(seed, epoch, stream, view).advance(start * blocks)
    # Drawn for the positions between them too, which is cheaper than a generator for each.
    return np.random.Generator(source).random((count * step, 4 * blocks))[::step, :width]


def shard(batch: int, count: int, batch_size: int, rank: int, world_size: int, *, interleaved: bool = False) -> range:
    """Return the positions of one rank's part of a global batch.

    The global batch is `world_size * batch_size` positions. Each rank takes one block, or, interleaved, every
    `world_size`-th. The last, shorter one is divided as evenly as possible, so that no sample is used twice or left
    out.
    """
    start = batch * world_size * batch_size
    size = min(world_size * batch_size, count - start)
    if interleaved:
        return range(start + min(rank, size), start + size, world_size)
    each, more = divmod(size, world_size)
    first = start + rank * each + min(rank, more)
    return range(first, first + each + (rank < more))


def random_resized_windows(
    numbers: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the draws of random resized crop that do not need the image size.

    An attempt is an area share, uniform in `scale`, and an aspect ratio (width / height), log-uniform in
    `ratio`; which attempt fits depends on the image's size. See `graph.pipeline.random_resized_window`.

    Args:
        numbers: (B, VIEW_UNIFORMS) in [0, 1).
        scale: Least and greatest share of the image's area.
        ratio: Least and greatest aspect ratio of the window.

    Returns:
        Sides (height, width) of each attempt in units of the square root of the image's area,
        (B, CROP_ATTEMPTS, 2) float32, and the window's position in [0, 1) for each attempt and, last, for the
        central window, taken when none fits, (B, CROP_ATTEMPTS + 1, 2) float32.
    """
    share = scale[0] + (scale[1] - scale[0]) * numbers[:, :CROP_ATTEMPTS]
    low, high = np.log(ratio)
    aspect = np.exp(low + (high - low) * numbers[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS])
    sides = np.sqrt(np.stack([share / aspect, share * aspect], axis=-1)).astype(np.float32)
    # Just under a half: the upper and left of two middle places, as torchvision's.
    middle = np.nextafter(np.float32(0.5), np.float32(0))
    positions = np.full((len(numbers), CROP_ATTEMPTS + 1, 2), middle, dtype=np.float32)
    positions[:, :CROP_ATTEMPTS] = numbers[:, None, 2 * CROP_ATTEMPTS : 2 * CROP_ATTEMPTS + 2]
    return sides, positions


def pad_offsets(numbers: np.ndarray, padding: int) -> np.ndarray:
    """Return the top-left corner (y, x) of a crop of a padded image, in pixels of the unpadded one: (B, 2) int32."""
    position = numbers[:, 2 * CROP_ATTEMPTS : 2 * CROP_ATTEMPTS + 2]
    return (np.floor(position * (2 * padding + 1)) - padding).astype(np.int32)


def flips(numbers: np.ndarray, probabilities: tuple[float, float]) -> np.ndarray:
    """Return whether to mirror left to right, and top to bottom: (2, B) int32, 0 or 1.

    Args:
        numbers: (B, VIEW_UNIFORMS) in [0, 1).
        probabilities: Of the two.
    """
    return (numbers[:, 2 * CROP_ATTEMPTS + 2 :] < probabilities).T.astype(np.int32)


def choices(numbers: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Return one of the values for each image, (B,) int64, all alike; by the numbers of the first crop's area.

    Args:
        numbers: (B, VIEW_UNIFORMS) in [0, 1).
    """
    return np.array(values, dtype=np.int64)[(numbers[:, 0] * len(values)).astype(np.int64)]


def jitter_factors(numbers: np.ndarray, strength: float) -> dict[str, np.ndarray]:
    """Return factors on brightness, contrast and saturation, uniform in 1 ± `strength`: (B, 3) to (B,) float32 each."""
    factors = (1 + strength * (2 * numbers - 1)).astype(np.float32)
    return dict(zip(JITTER_FACTORS, factors.T, strict=True))
