"""PuzzleMix: an optimisation moves the salient blocks of two images to where both are shown."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_given, check_number, is_whole
from .._tensors import finite_or_zero
from ..compositing import blend_blocks
from ..cuda_graphs import CudaGraphs, may_capture
from .base import TWO_IMAGES, MethodEntry, register
from .mixing import MixingMethod, PairDraw
from .puzzlemix_solvers import MaskEnergy, solve_mask, solve_transport

BLOCKS = (2, 4, 8, 16)  # the authors' numbers along a side
STRIP = 4  # pixels to either side of a block's border whose means are compared ("neigh_size")
TINY = 1e-37  # makes a map that is 0 everywhere a flat one
LEAST_LAMBDA = 1e-4  # so that −2 log λ is at most the authors' −log(1e-8)


@dataclass(frozen=True, eq=False)
class PuzzleMixDraw(PairDraw):
    """A partner for each image, and the mixture and moves of both images' blocks.

    Attributes:
        shares: (B, n, n), float32: the image's share of each block.
        moves: (B, 2, n, n), int64: the number of the image's block, and of the partner's, that moves to each place.
    """

    shares: Tensor
    moves: Tensor

    def own_pixels(self, image_size: tuple[int, int]) -> Tensor:
        batch, n, _ = self.shares.shape
        blocks = torch.arange(n * n, device=self.moves.device).view(n, n)
        own = self.shares * (self.moves[:, 0] == blocks)
        height, width = image_size[0] // n, image_size[1] // n
        return own.float()[:, :, None, :, None].expand(-1, -1, height, -1, width).reshape(batch, *image_size)


@register(
    MethodEntry(
        "puzzlemix",
        TWO_IMAGES,
        description="blocks of both images, chosen and moved by optimisation",
        source="Kim et al. 2020",
        reference="arXiv:2009.06962, §4",
        target="loss",
        plain="cutmix",
    )
)
class PuzzleMix(MixingMethod[PuzzleMixDraw]):
    """A mask and two transports, optimised for saliency and smoothness, mix each image and its partner.

    Kim et al. 2020, ICML, arXiv:2009.06962, §4, and the authors' code (snu-mllab/PuzzleMix, ``mixup.py`` and
    ``imagenet/mixup.py``). On a grid of n × n blocks, with each image's saliency s summing to 1, the mask m (0, ½ or
    1 in each block) minimises

        Σ_p [m_p s_partner(p) + (1 − m_p) s(p)] + β' Σ_pq (m_p − m_q)² + β'γ Σ_pq φ(m_p, m_q) − η/n² Σ_p log P(m_p)

    with β' = β / 16n, φ the difference of the pixels that meet at the border of the two blocks, and P(m) binomial with
    mean λ ~ Beta(α, α). Then each image's blocks are permuted, so that what is salient moves to where the image is
    shown and no block moves far: the permutation minimises Σ over blocks of ξ · distance² / (n − 1)² − s · [shown]. The
    weight of the image's label is the mean of m.

    Departures from the authors' code:

    - Each image has its own λ, at least 10⁻⁴ away from 0 and 1, and its own n: the numbers in ``blocks`` are
      distributed over the images of a batch evenly and at random. The authors draw one λ and one n for a batch.
    - :func:`~dali_salaug.methods.puzzlemix_solvers.solve_mask` finds the mask on the device; the authors swap labels by
      graph cuts on the host.
    - :func:`~dali_salaug.methods.puzzlemix_solvers.solve_transport` finds the transport by another heuristic; its
      blocks are the mask's, as the authors' are at ImageNet's size.
    - The saliency is the stage's map. The authors take the root mean square over the channels of the loss's gradient,
      at full size. The stage's "gradient" is the largest absolute value, by default of the label's logit and at half
      the size; ``target="loss", scale=1.0`` comes nearest. A map that is 0 everywhere counts as flat.

    Args:
        blocks: numbers n of blocks along a side. Each is at least 2 and divides the largest, which divides the images'
            sides. By default those of 2, 4, 8 and 16 that divide the sides.
        smoothness: β, of the mask.
        data_smoothness: γ, of the pixels across the mask's borders.
        prior: η, of the mask's distance from λ.
        transport: ξ, the cost of moving blocks ("t_eps" in the code).
        deviation: the standard deviation by which the normalisation divided the images, so that φ is in units of the
            pixels' 0..1.
        num_classes, alpha, partners: see :class:`~dali_salaug.methods.mixing.MixingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    uses_saliency = True

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 1.0,
        blocks: tuple[int, ...] | None = None,
        smoothness: float = 1.2,
        data_smoothness: float = 0.5,
        prior: float = 0.2,
        transport: float = 0.8,
        deviation: float = 0.225,
        partners: str = "permutation",
    ) -> None:
        super().__init__(num_classes, alpha=alpha, partners=partners)
        if blocks is not None and not _are_blocks(blocks):
            raise ValueError(f"blocks must be whole numbers from 2, each dividing the largest; got {blocks!r}")
        check_number("smoothness", smoothness, 0, math.inf)
        check_number("data_smoothness", data_smoothness, 0, 1)  # up to 1 no edge's cost is negative
        check_number("prior", prior, 0, math.inf)
        check_number("transport", transport, 0, math.inf)
        check_number("deviation", deviation, 0, math.inf, open_low=True)
        self.blocks = None if blocks is None else tuple(blocks)
        self.smoothness = smoothness
        self.data_smoothness = data_smoothness
        self.prior = prior
        self.transport = transport
        self.deviation = deviation
        self._graphs = CudaGraphs()

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> PuzzleMixDraw:
        blocks = self._blocks_of(images)
        lam = self._draw_lambda(images, generator)
        partners = self._draw_partners(images, generator)
        order = torch.rand(len(images), generator=generator, dtype=torch.float64, device=images.device).argsort()
        maps = finite_or_zero(check_given("saliency", saliency).float())
        pooled = {strips: self._pooled(images, strips) for strips in (_strips(images, n) for n in blocks)}

        def solve(lam: Tensor, partners: Tensor, order: Tensor, maps: Tensor, *pooled_images: Tensor) -> Any:
            by_strips = dict(zip(pooled, pooled_images, strict=True))
            seen = [by_strips[_strips(images, n)] for n in blocks]
            return self._solve(blocks, lam, partners, order, maps, seen)

        # The solution takes a thousand small operations: on a GPU a CUDA graph, and one launch for the host.
        inputs = lam, partners, order, maps, *pooled.values()
        shares, moves = (
            self._graphs(solve, inputs, key=(blocks, images.shape)) if may_capture(inputs) else solve(*inputs)
        )
        return PuzzleMixDraw(partners=partners, shares=shares, moves=moves)

    def _solve(
        self,
        blocks: tuple[int, ...],
        lam: Tensor,
        partners: Tensor,
        order: Tensor,
        maps: Tensor,
        seen: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return shares and moves, as :class:`PuzzleMixDraw` has them.

        Args:
            blocks: numbers of blocks, of which each has its part of the batch.
            lam: λ, (B,).
            partners: (B,).
            order: a permutation, (B,), that the parts divide.
            maps: (B, h, w).
            seen: see :meth:`_pooled`, for each of ``blocks``.
        """
        finest, lam, maps = max(blocks), lam.float(), maps[:, None]
        # The images of one n form a group, whose size does not depend on the draw.
        parts = zip(blocks, order.tensor_split(len(blocks)), seen, strict=True)
        groups = [(n, which, pooled) for n, which, pooled in parts if len(which)]
        salient: list[tuple[Tensor, Tensor]] = []
        energies: list[MaskEnergy] = []
        for n, which, pooled in groups:
            other = partners.index_select(0, which)
            sums = F.adaptive_avg_pool2d(maps, n).squeeze(1) + TINY
            normalised = sums / sums.sum((1, 2), keepdim=True)
            salient.append((normalised.index_select(0, which), normalised.index_select(0, other)))
            pair = pooled.index_select(0, which), pooled.index_select(0, other)
            energies.append(self._energy(*pair, *salient[-1], lam.index_select(0, which)))
        masks = solve_mask(_stacked(energies, finest))

        # All as grids of the finest blocks: a moving block takes along the finer blocks inside it.
        shares, moves = [], []
        sizes = [len(which) for _, which, _ in groups]
        for (n, *_), (own, others), mask in zip(groups, salient, masks.split(sizes), strict=True):
            mask = mask[:, :n, :n]
            shown = torch.cat([mask > 0, mask < 1])
            sources = solve_transport(torch.cat([own, others]), shown, self.transport)
            shares.append(_spread(mask, finest // n))
            moves.append(_refined(sources.view(-1, n, n), finest // n).view(2, -1, finest, finest).transpose(0, 1))
        back = order.argsort()
        return torch.cat(shares).index_select(0, back), torch.cat(moves).index_select(0, back)

    def _blocks_of(self, images: Tensor) -> tuple[int, ...]:
        height, width = images.shape[-2:]
        fitting = tuple(n for n in self.blocks or BLOCKS if height % n == 0 and width % n == 0)
        if not fitting or (self.blocks is not None and fitting != self.blocks):
            raise ValueError(
                f"blocks must divide the images' sides, {height} and {width} here; got {self.blocks or BLOCKS}"
            )
        return fitting

    def mask_energy(
        self, own: Tensor, other: Tensor, own_saliency: Tensor, other_saliency: Tensor, lam: Tensor
    ) -> MaskEnergy:
        """Return the cost of a mask: n² times the objective, up to a constant.

        Args:
            own, other: images and their partners, (B, C, H, W); n divides H and W.
            own_saliency, other_saliency: their saliency, (B, n, n), each summing to 1.
            lam: λ, (B,).
        """
        strips = _strips(own, own_saliency.shape[-1])
        pooled = self._pooled(own, strips), self._pooled(other, strips)
        return self._energy(*pooled, own_saliency, other_saliency, lam)

    def _pooled(self, images: Tensor, strips: tuple[int, int]) -> Tensor:
        """Return the means of strips of the images, in units of the pixels' 0..1: (B, C, h, w), float32."""
        return F.avg_pool2d(images.float(), strips) * self.deviation

    def _energy(
        self, own: Tensor, other: Tensor, own_saliency: Tensor, other_saliency: Tensor, lam: Tensor
    ) -> MaskEnergy:
        """Return :meth:`mask_energy` of pooled images."""
        n, seen = own_saliency.shape[-1], [own, other]
        beta, gamma = n * self.smoothness / 16, self.data_smoothness
        costs = [n**2 * own_saliency, n**2 * other_saliency]  # in each block, of showing the partner, and the image
        edges = []
        for dim in (1, 2):
            pixels = seen if dim == 2 else [image.mT for image in seen]  # along the last dimension
            # φ[a][b]: of a pair of neighbours, the first showing a and the next b, 1 for the image, 0 for the partner.
            image, partner = pixels
            phi = [[_meeting(one, two, n) for two in (partner, image)] for one in (partner, image)]
            if dim == 1:
                phi = [[values.mT for values in row] for row in phi]
            # As in the authors' code, a pair's φ is split into costs of its blocks and a multiple of (m_p − m_q)².
            for shows in (0, 1):
                first = (phi[shows][0] + phi[shows][1]) / 2
                following = (phi[0][shows] + phi[1][shows]) / 2
                costs[shows] = costs[shows] + beta * gamma * (first + following.roll(1, dim))
            apart = (phi[1][0] + phi[0][1] - phi[1][1] - phi[0][0]) / 2
            inner = (torch.arange(n, device=own.device) < n - 1).view((-1, 1) if dim == 1 else (1, -1))
            edges.append(beta * (1 + gamma * apart).clamp(min=0) * inner)
        lam = lam.clamp(LEAST_LAMBDA, 1 - LEAST_LAMBDA)[:, None, None]
        likely = [-2 * (1 - lam).log(), -(2 * lam * (1 - lam)).log(), -2 * lam.log()]
        levels = [costs[0], (costs[0] + costs[1]) / 2, costs[1]]
        unary = torch.stack([cost + self.prior * prior for cost, prior in zip(levels, likely, strict=True)], 1)
        return MaskEnergy(unary, *edges)

    def apply(self, images: Tensor, drawn: PuzzleMixDraw, augmented: Tensor | None) -> Tensor:
        return blend_blocks(images, drawn.partners, drawn.shares, drawn.moves)

    def _weights(self, drawn: PuzzleMixDraw, image_size: tuple[int, int]) -> Tensor:
        own = drawn.shares.mean((1, 2))
        return torch.stack([own, 1 - own], 1)

    def partner_maps(self, images: Tensor, drawn: PuzzleMixDraw, saliency: Tensor | None) -> Tensor:
        return check_given("saliency", saliency)[drawn.partners]

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, blocks={self.blocks})"


def _are_blocks(blocks: object) -> bool:
    numbers = isinstance(blocks, tuple | list) and len(blocks) > 0 and all(map(is_whole, blocks))
    return numbers and all(n >= 2 and max(blocks) % n == 0 for n in blocks)  # type: ignore[attr-defined, call-overload]


def _strips(images: Tensor, n: int) -> tuple[int, int]:
    """Return height and width of the pixels that are pooled, of n × n blocks."""
    return math.gcd(STRIP, images.shape[-2] // n), math.gcd(STRIP, images.shape[-1] // n)


def _meeting(first: Tensor, following: Tensor, n: int) -> Tensor:
    """Return how much the pixels differ where each block of ``first`` ends and the next of ``following`` starts.

    Args:
        first, following: (B, C, h, w), pooled pixels; n divides h and w. Blocks are neighbours along the last
            dimension.

    Returns:
        (B, n, n): the mean over channels and the border, for each block and the next one; 0 for the last.
    """
    cells = first.shape[3] // n
    ends, beginnings = first[..., cells - 1 :: cells][..., :-1], following[..., ::cells][..., 1:]
    differences = (ends - beginnings).abs().mean(1)
    return F.pad(F.avg_pool2d(differences, (first.shape[2] // n, 1)), (0, 1))


def _stacked(energies: list[MaskEnergy], n: int) -> MaskEnergy:
    """Return all energies as one, with the smaller grids padded to n × n."""
    parts = [[F.pad(part, (0, n - part.shape[-1], 0, n - part.shape[-1])) for part in energy] for energy in energies]
    return MaskEnergy(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _spread(values: Tensor, times: int) -> Tensor:
    """Repeat each value of a grid (B, n, n) as times × times equal ones."""
    batch, n, _ = values.shape
    return values[:, :, None, :, None].expand(-1, -1, times, -1, times).reshape(batch, n * times, n * times)


def _refined(sources: Tensor, times: int) -> Tensor:
    """Return the numbers of the times × times finer blocks inside the blocks of the numbers (B, n, n)."""
    n = sources.shape[-1]
    inside = torch.arange(n * times, device=sources.device) % times
    row = _spread(sources // n, times) * times + inside[:, None]
    column = _spread(sources % n, times) * times + inside
    return row * (n * times) + column
