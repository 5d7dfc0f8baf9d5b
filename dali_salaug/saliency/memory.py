"""Saliency maps for almost nothing: each sample's map is remembered from the gradients of the training steps.

A training step's backward pass computes nearly the gradient that a saliency map is made of. The memory keeps, for each
sample of the data set, a running mean of its absolute value on a small grid over the whole image. A crop's view says
where in the image its pixels are, so that a map made by one crop serves the next.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .._checks import (
    check_choice,
    check_device,
    check_gradient,
    check_number,
    check_places,
    check_views,
    check_whole_number,
)
from .._tensors import at_least_float32

DTYPES = {"uint8": torch.uint8, "float16": torch.float16}
_LEVELS = 254  # of a byte: 0 stands for a cell that was never seen
_NEVER = -1
_LAST_EPOCH = 2**31 - 1
_PIECE = 65_536  # samples that are exchanged at a time: a copy of the whole store would double its memory


class SaliencyMemory:
    """A saliency map of each sample, on a grid in the frame of the whole image, from the gradients of past steps.

    Where no map is remembered, the map is flat, so that a draw by it is uniform. Nothing here waits for the device or
    loops over the images.

    A view is the crop and flip of one image: the matrix (2, 3) that takes a place in the image to its place in the
    crop. Both are in units of the width and height they refer to: (0, 0) is the upper left corner, (1, 1) the lower
    right. Rotation and shear are not views.

    Args:
        samples: the number of samples, N.
        grid: cells of a map: a number for each side, or (rows, columns). A cell takes one or two bytes, by ``dtype``:
            the maps of the 1.28 million images of ImageNet-1k take 328 MB by default, the whole store 334.
        dtype: "uint8" (255 levels, finer towards 0) or "float16".
        share: weight of a new gradient in the running mean, in (0, 1]; 1 keeps the last one alone.
        max_age: the number of epochs after which a map counts as never seen; None: it does not age.
        device: of the store, one that torch can use here. :class:`SaliencyStage` moves it to the device of its images.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def __init__(
        self,
        samples: int,
        *,
        grid: int | tuple[int, int] = 16,
        dtype: str = "uint8",
        share: float = 0.4,
        max_age: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        check_whole_number("samples", samples, 1)
        sides = grid if isinstance(grid, tuple | list) else (grid, grid)
        if len(sides) != 2:
            raise ValueError(f"grid must be a whole number of cells, or (rows, columns); got {grid!r}")
        for side in sides:
            check_whole_number("grid", side, 1, of=" of cells, or (rows, columns)")
        check_choice("dtype", dtype, DTYPES)
        check_number("share", share, 0, 1, open_low=True)
        if max_age is not None:
            check_whole_number("max_age", max_age, 1, of=" of epochs, or None")
        device = check_device("device", device)
        self.samples = samples
        self.grid = (int(sides[0]), int(sides[1]))
        self.share = share
        self.max_age = max_age
        self.epoch = 0
        self._store = torch.zeros(samples, *self.grid, dtype=DTYPES[dtype], device=device)
        self._written = torch.full((samples,), _NEVER, dtype=torch.int32, device=device)
        self._own = torch.zeros(samples, dtype=torch.bool, device=device)  # written here since the last exchange

    @property
    def nbytes(self) -> int:
        """The size of the store in bytes."""
        return self._store.nbytes + self._written.nbytes + self._own.nbytes

    @property
    def device(self) -> torch.device:
        return self._store.device

    def to(self, device: torch.device | str) -> "SaliencyMemory":
        """Move the store to a device, and return the memory itself.

        Raises:
            ValueError: for a device that torch cannot use here.
        """
        device = check_device("device", device)
        self._store, self._written, self._own = (part.to(device) for part in (self._store, self._written, self._own))
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0 to 2³¹ − 1, from which ages are counted."""
        check_whole_number("epoch", epoch, 0)
        if epoch > _LAST_EPOCH:
            raise ValueError(f"epoch must be a whole number of at most {_LAST_EPOCH}; got {epoch}")
        self.epoch = epoch

    def ages(self, indices: Tensor) -> Tensor:
        """Return for each sample the epochs since its map was last written, (B,) int32; −1 where it has no map.

        A map of a later epoch, where the epochs were set back, is of age 0.

        Args:
            indices: (B,), int64, places in the data set.

        Raises:
            ValueError: for indices of another form or out of range; out of range on a GPU, an assertion there fails.
        """
        check_places(indices, self.samples)
        written = self._written[indices]
        age = (self.epoch - written).clamp(min=0)
        known = written >= 0
        if self.max_age is not None:
            known &= age <= self.max_age
        return torch.where(known, age, _NEVER)

    def read(self, indices: Tensor, views: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the maps of crops, (B, h, w), float32.

        What a crop shows beyond its image (zero padding) has no saliency. The parts of an image that no crop has shown
        yet have the mean saliency of the others.

        Args:
            indices: (B,), int64, places in the data set.
            views: (B, 2, 3), floating point: the crops' views.
            size: (h, w) of the maps; the grid's by default.

        Raises:
            ValueError: for views of another form, and for indices as :meth:`ages`.
        """
        check_views(views, indices)
        maps, seen, known = self._decoded(indices)
        maps = torch.where(seen, maps, 1.0)
        scale, shift = _inverse(views)  # (B, 2) each: from the crop to the image
        # To grid_sample's coordinates, in which the edges are −1 and 1: u = 2 x − 1.
        theta = torch.zeros(len(views), 2, 3, device=views.device)
        theta[:, 0, 0], theta[:, 1, 1] = scale.unbind(1)
        theta[:, :, 2] = scale + 2 * shift - 1
        places = F.affine_grid(theta, [len(views), 1, *(size or self.grid)], align_corners=False)
        carried = F.grid_sample(maps[:, None], places, padding_mode="border", align_corners=False)[:, 0]
        inside = (places.abs() <= 1).all(3)
        return torch.where(inside, carried, 0.0).where(known[:, None, None], 1.0)

    @torch.no_grad()
    def write(self, indices: Tensor, views: Tensor, gradient: Tensor, weights: Tensor | None = None) -> None:
        """Mix what a training step says about its crops into the maps of their samples.

        The new map is scaled to the mean of the old one over the cells that the crop shows. A crop without the object
        therefore does not gain weight against the rest of its image. Of a sample that is there twice the last crop
        counts. Nothing is written where a value of the batch's gradient is not finite, as the step is skipped then.

        Args:
            indices: (B,), int64, places in the data set.
            views: (B, 2, 3), floating point: the crops' views.
            gradient: (B, C, H, W), floating point: of the loss with respect to the network's inputs, times any factor.
            weights: (B, H, W), floating point in [0, 1]: how much of each pixel of the inputs is the image's own
                pixel of that place; None: all of it.

        Raises:
            ValueError: for a tensor of another form, and for indices as :meth:`ages`.
        """
        check_views(views, indices)
        check_gradient(gradient, weights, indices)
        with torch.autocast(gradient.device.type, enabled=False):
            self._write(indices, views, at_least_float32(gradient).abs().amax(1), gradient.isfinite().all(), weights)

    def _write(self, indices: Tensor, views: Tensor, saliency: Tensor, finite: Tensor, weights: Tensor | None) -> None:
        rows, columns = (self._overlaps(views, axis, saliency.shape[1 + axis]).to(saliency.dtype) for axis in (0, 1))
        weights = torch.ones_like(saliency) if weights is None else weights.to(saliency.dtype)
        covered = rows @ weights @ columns.mT  # (B, rows, columns): the share of each cell
        new = rows @ (weights * saliency) @ columns.mT

        old, seen, _ = self._decoded(indices)
        old = torch.where(seen, old, 1.0)
        level = (covered * old).sum((1, 2), keepdim=True) / new.sum((1, 2), keepdim=True)
        shown = covered > 0
        new = torch.where(shown, level * new / covered, 0.0)
        share = torch.where(seen, self.share * covered.clamp(max=1), 1.0)
        maps = torch.where(shown, old + share * (new - old), old)
        # Beyond the dtype's range, the sum of what is new is 0 or infinite, and so the level infinite or 0.
        told = finite & (level.isfinite() & (level > 0)).flatten() & shown.flatten(1).any(1)
        last = _last_of_each(indices)
        maps, seen, told = maps[last], (seen | shown)[last], told[last]
        codes = torch.where(told[:, None, None], self._encoded(maps, seen), self._store[indices])
        self._store[indices] = codes
        self._written[indices] = torch.where(told, self.epoch, self._written[indices])
        self._own[indices] |= told

    def exchange(self, group: Any = None) -> None:
        """Give all processes the maps that each of them has written since the last exchange.

        To be called by all of them, at the end of an epoch and before :meth:`state_dict`. Within an epoch nobody needs
        the maps of the others, as each sample is seen once. Where several processes wrote the same sample, the map of
        the last rank counts. The traffic is that of summing the store once over the processes.

        Args:
            group: of torch.distributed; by default all processes. Without an initialised group nothing happens.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        rank = dist.get_rank(group)
        last = torch.where(self._own, rank, -1).int()
        dist.all_reduce(last, dist.ReduceOp.MAX, group)
        mine, theirs = last == rank, last >= 0
        for part in (self._store.view(self.samples, -1), self._written[:, None]):
            for start in range(0, self.samples, _PIECE):
                piece = slice(start, start + _PIECE)
                sent = torch.where(mine[piece, None], part[piece], 0)
                dist.all_reduce(sent, group=group)
                part[piece] = torch.where(theirs[piece, None], sent, part[piece])
        self._own.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return the maps and the epochs in which they were written, for ``torch.save``: copies, on the CPU."""
        return {
            "maps": self._store.cpu().clone(), "written": self._written.cpu().clone(), "epoch": self.epoch,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a :meth:`state_dict`.

        Raises:
            ValueError: if ``state`` is not the state of a memory with as many samples, this grid and this dtype.
        """
        if not isinstance(state, dict) or state.keys() != {"maps", "written", "epoch"}:
            got = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state must have the keys 'maps', 'written' and 'epoch'; got {got}")
        for key, own in (("maps", self._store), ("written", self._written)):
            given = state[key]
            if not isinstance(given, Tensor) or (given.shape, given.dtype) != (own.shape, own.dtype):
                form = (tuple(given.shape), given.dtype) if isinstance(given, Tensor) else type(given).__name__
                raise ValueError(f"{key} of the state must be {(tuple(own.shape), own.dtype)}; got {form}")
        self.set_epoch(state["epoch"])
        self._store.copy_(state["maps"])
        self._written.copy_(state["written"])
        self._own.zero_()

    def _decoded(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps, with mean 1 over the cells seen, float32; which cells were seen; which samples have any."""
        known = self.ages(indices) != _NEVER
        codes = self._store[indices]
        seen = (codes > 0) & known[:, None, None]
        maps = codes.float()
        if codes.dtype == torch.uint8:
            maps = ((maps - 1) / _LEVELS).square()
        return _of_mean_one(maps, seen), seen, known

    def _encoded(self, maps: Tensor, seen: Tensor) -> Tensor:
        if self._store.dtype == torch.uint8:
            peak = torch.where(seen, maps, 0.0).amax((1, 2), keepdim=True)
            # By the root: most cells are far below the peak.
            codes = 1 + (_LEVELS * (maps / peak).sqrt()).round()
        else:
            # 0 stands for a cell that was never seen. Of more than 255 × 255 cells, one may exceed the dtype's range.
            codes = _of_mean_one(maps, seen).clamp(2.0**-14, torch.finfo(torch.float16).max)
        return torch.where(seen, codes, 0.0).to(self._store.dtype)

    def _overlaps(self, views: Tensor, axis: int, pixels: int) -> Tensor:
        """Return how much of each cell, along one axis, each row or column of a crop's pixels covers."""
        cells = self.grid[axis]
        scale, shift = (part[:, 1 - axis, None] for part in _inverse(views))  # the matrix has x first
        edges = torch.arange(pixels + 1, device=views.device, dtype=torch.float32) / pixels
        edges = (scale * edges + shift) * cells  # (B, pixels + 1), in cells
        low, high = torch.minimum(edges[:, 1:], edges[:, :-1]), torch.maximum(edges[:, 1:], edges[:, :-1])
        cell = torch.arange(cells, device=views.device)[:, None]
        overlap = torch.minimum(high[:, None], cell + 1) - torch.maximum(low[:, None], cell)
        return overlap.clamp(min=0)

    def __repr__(self) -> str:
        dtype = str(self._store.dtype).removeprefix("torch.")
        return (
            f"SaliencyMemory({self.samples}, grid={self.grid}, dtype={dtype!r}, share={self.share:g}, "
            f"max_age={self.max_age}, {self.nbytes / 1e6:.3g} MB)"
        )


def _of_mean_one(maps: Tensor, seen: Tensor) -> Tensor:
    count = seen.sum((1, 2), keepdim=True)
    total = torch.where(seen, maps, 0.0).sum((1, 2), keepdim=True)
    return torch.where(total > 0, maps * count / total, 1.0)


def _inverse(views: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and shift (x, y) of crop to image, (B, 2) float32 each."""
    scale = 1 / views.float().diagonal(dim1=1, dim2=2)
    return scale, -scale * views[:, :, 2].float()


def _last_of_each(indices: Tensor) -> Tensor:
    """Return for each place in the batch the last place with the same index, (B,) int64."""
    places = torch.arange(len(indices), device=indices.device)
    return torch.where(indices[:, None] == indices[None], places, 0).amax(1)
