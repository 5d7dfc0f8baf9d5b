"""PuzzleMix: the objective and the pixels by loops, the draw, the labels, and what is not touched."""

import itertools
import math

import pytest
import torch

from dali_salaug import PuzzleMix
from dali_salaug.compositing import blend_blocks
from dali_salaug.methods.puzzlemix import PuzzleMixDraw


def batch(count=8, sides=(32, 48), seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *sides, generator=generator)
    return images, torch.rand(count, 16, 24, generator=generator).pow(4)


def plain_objective(method, own, other, own_saliency, other_saliency, lam, mask):
    """n² times the objective for a mask of 0 and 1, from the paper's terms, in loops over blocks and pixels."""
    n = len(mask)
    height, width = own.shape[1] // n, own.shape[2] // n
    images = [method.deviation * image.double() for image in (other, own)]  # by the mask's value
    beta = method.smoothness / n / 16
    total = 0.0

    def strip(image, top, left, along):
        """Means over gcd(4, side) pixels in both directions of the strip that begins at (top, left)."""
        high, wide = math.gcd(4, height), math.gcd(4, width)
        cells = []
        for k in range(width // wide if along == "row" else height // high):
            y, x = (top, left + k * wide) if along == "row" else (top + k * high, left)
            cells.append(image[:, y : y + high, x : x + wide].mean((1, 2)))
        return torch.stack(cells)

    for i, j in itertools.product(range(n), range(n)):
        m = int(mask[i, j])
        saliency = (own_saliency, other_saliency)[m][i, j].item()  # what is not shown is lost
        total += saliency - method.prior / n**2 * 2 * math.log(lam if m else 1 - lam)
        for k, col, along in ((i + 1, j, "row"), (i, j + 1, "column")):
            if k == n or col == n:
                continue
            end = strip(
                images[m],
                k * height - math.gcd(4, height) if along == "row" else i * height,
                col * width - math.gcd(4, width) if along == "column" else j * width,
                along,
            )
            begin = strip(images[int(mask[k, col])], k * height, col * width, along)
            phi = (end - begin).abs().mean().item()
            total += beta * (m != mask[k, col]).item() + beta * method.data_smoothness * phi
    return n**2 * total


@pytest.mark.parametrize(("n", "sides"), [(2, (32, 48)), (4, (24, 16)), (4, (20, 28))])
def test_the_energy_is_the_objective(n, sides):
    method = PuzzleMix(5, data_smoothness=0.7)
    images, _ = batch(count=2, sides=sides)
    saliency = torch.rand(2, n, n)
    saliency = saliency / saliency.sum((1, 2), keepdim=True)
    lam = 0.3
    energy = method.mask_energy(images[:1], images[1:], saliency[:1], saliency[1:], torch.tensor([lam]))
    masks = (torch.rand(5, n, n, generator=torch.Generator().manual_seed(3)) < 0.5).float()
    masks[0], masks[1] = 0, 1
    got = torch.cat([energy.of(mask[None]) for mask in masks]).double()
    expected = torch.tensor(
        [plain_objective(method, *images, *saliency, lam, mask) for mask in masks], dtype=torch.float64
    )
    torch.testing.assert_close(got - got[0], expected - expected[0], rtol=1e-4, atol=1e-4)
    # ½ lies between 0 and 1 but for the prior, of which a binomial has the most there.
    prior = n * n * method.prior * (-math.log(2 * lam * (1 - lam)) + math.log(lam) + math.log(1 - lam))
    half = energy.of(torch.full((1, n, n), 0.5)).item()
    assert half == pytest.approx((got[0] + got[1]).item() / 2 + prior, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blocks_are_blended_as_a_loop_does(dtype, layout):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 3, 12, 20, generator=generator).to(dtype).to(memory_format=layout)
    before = images.clone()
    partners = torch.tensor([3, 0, 0, 4, 1])
    shares = torch.randint(3, (5, 4, 4), generator=generator) / 2
    moves = torch.rand(5, 2, 16, generator=generator).argsort(2).view(5, 2, 4, 4)
    got = blend_blocks(images, partners, shares, moves)
    for b, i, j in itertools.product(range(5), range(4), range(4)):
        parts = []
        for who, move in ((b, moves[b, 0, i, j]), (int(partners[b]), moves[b, 1, i, j])):
            k, col = divmod(int(move), 4)
            parts.append(images[who, :, 3 * k : 3 * k + 3, 5 * col : 5 * col + 5].double())
        expected = shares[b, i, j] * parts[0] + (1 - shares[b, i, j]) * parts[1]
        block = got[b, :, 3 * i : 3 * i + 3, 5 * j : 5 * j + 5].double()
        if shares[b, i, j] == 0.5:
            torch.testing.assert_close(block, expected, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 1e-12)
        else:
            assert torch.equal(block, expected)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=layout)
    assert torch.equal(images, before)


def test_the_draw_is_of_masks_and_permutations(soft_label):
    method = PuzzleMix(4)
    images, saliency = batch(count=32)
    before = images.clone(), saliency.clone()
    drawn = method.draw(images, saliency, torch.Generator().manual_seed(1))
    inputs = method.apply(images, drawn, None)
    assert torch.equal(images, before[0])
    assert torch.equal(saliency, before[1])
    assert inputs.shape == images.shape
    assert drawn.shares.shape == (32, 16, 16)
    assert set(drawn.shares.unique().tolist()) == {0, 0.5, 1}
    assert torch.equal(drawn.moves.flatten(2).sort(2).values, torch.arange(256).expand(32, 2, -1))
    assert sorted(drawn.partners.tolist()) == list(range(32))
    labels = torch.arange(32) % 4
    targets = method.targets(labels, drawn, (32, 48))
    for i in range(32):
        share = drawn.shares[i].double().mean().item()
        assert targets[i].tolist() == soft_label(4, (labels[i], share), (labels[drawn.partners[i]], 1 - share))


def test_what_is_moved_is_moved_in_whole_blocks():
    method = PuzzleMix(4, blocks=(4, 16), transport=0.005)
    images, saliency = batch(count=8)
    drawn = method.draw(images, saliency, torch.Generator().manual_seed(1))
    row, column = drawn.moves // 16, drawn.moves % 16
    place = torch.arange(16)
    coarse = 0
    for i in range(8):
        # In blocks of 4 × 4 of the finest: within each, all come from one block and lie as they lay there.
        offset = ((row[i] - place[:, None]) % 4 == 0) & ((column[i] - place) % 4 == 0)
        together = row[i].view(2, 4, 4, 4, 4) // 4
        same = (together == together[:, :, :1, :, :1]).all()
        coarse += bool(offset.all() and same)
    assert coarse == 4
    assert (drawn.moves != torch.arange(256).view(16, 16)).any()


def test_each_number_of_blocks_comes_as_often():
    method = PuzzleMix(4, blocks=(2, 8), prior=0.0, smoothness=0.0)
    images, saliency = batch(count=6)
    coarse, apart = torch.zeros(6), torch.zeros(6)
    for seed in range(300):
        drawn = method.draw(images, saliency, torch.Generator().manual_seed(seed))
        quarters = drawn.shares.view(6, 2, 4, 2, 4)
        of_four = (quarters == quarters[:, :, :1, :, :1]).flatten(1).all(1)
        other = drawn.partners != torch.arange(6)  # with itself an image has one mask, whatever the number
        coarse += of_four & other
        apart += other
        assert (of_four & other).sum() <= 3
    assert ((coarse / apart - 0.5).abs() < 4 * 0.5 / apart.sqrt()).all()


def test_a_strong_prior_makes_the_mask_of_lambda():
    method = PuzzleMix(4, prior=1e4, blocks=(2, 4))
    images, saliency = batch(count=40)
    drawn = method.draw(images, saliency, torch.Generator().manual_seed(5))
    lam = method._draw_lambda(images, torch.Generator().manual_seed(5))
    expected = torch.where(lam > 2 / 3, 1.0, torch.where(lam < 1 / 3, 0.0, 0.5)).float()
    assert torch.equal(drawn.shares, expected[:, None, None].expand(-1, 4, 4))


def test_what_is_salient_is_shown():
    """Of two images, one salient on the left, the other on the right, each is shown on its side."""
    images = torch.zeros(2, 3, 16, 16)
    saliency = torch.full((2, 16, 16), 0.01)
    saliency[0, :, :8], saliency[1, :, 8:] = 1, 1
    method = PuzzleMix(2, blocks=(4,), alpha=200.0)
    drawn = method.draw(images, saliency, torch.Generator().manual_seed(1))
    expected = torch.zeros(2, 4, 4)
    expected[0, :, :2], expected[1, :, 2:] = 1, 1
    for i in range(2):
        if drawn.partners[i] != i:
            assert torch.equal(drawn.shares[i], expected[i])
    assert (drawn.partners == torch.tensor([1, 0])).all()


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_a_map_without_saliency_counts_as_flat(value):
    images, _ = batch(count=4)
    method = PuzzleMix(4, blocks=(4, 8))
    got, expected = (
        method.draw(images, torch.full((4, 16, 24), v), torch.Generator().manual_seed(0)) for v in (value, 1.0)
    )
    assert torch.equal(got.shares, expected.shares)
    assert torch.equal(got.moves, torch.arange(64).view(8, 8).expand(4, 2, -1, -1))


def test_autocast_changes_nothing():
    images, saliency = batch()
    method = PuzzleMix(4)
    expected = method.draw(images, saliency, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        got = method.draw(images, saliency, torch.Generator().manual_seed(0))
        inputs = method.apply(images, got, None)
    assert torch.equal(got.shares, expected.shares)
    assert torch.equal(got.moves, expected.moves)
    assert torch.equal(inputs, method.apply(images, expected, None))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_of_any_size(count):
    images, saliency = batch(count=count)
    method = PuzzleMix(4)
    inputs = method.apply(images, method.draw(images, saliency, None), None)
    assert inputs.shape == images.shape


def test_an_image_alone_may_only_be_itself():
    images, _ = batch(count=1)
    moves = torch.arange(4).view(2, 2).expand(1, 2, 2, 2)
    drawn = PuzzleMixDraw(partners=torch.zeros(1).long(), shares=torch.rand(1, 2, 2), moves=moves)
    method = PuzzleMix(4)
    torch.testing.assert_close(method.apply(images, drawn, None), images)
    targets = method.targets(torch.tensor([2]), drawn, (32, 48))
    torch.testing.assert_close(targets, torch.tensor([[0.0, 0, 1, 0]]))


@pytest.mark.parametrize("blocks", [(), (1, 2), (4, 6), (2.0, 4), 4, (True, 2)])
def test_bad_blocks_are_named(blocks):
    with pytest.raises(ValueError, match="blocks must be whole numbers from 2, each dividing the largest; got"):
        PuzzleMix(3, blocks=blocks)


def test_blocks_that_do_not_fit_the_images_are_named():
    with pytest.raises(ValueError, match=r"blocks must divide the images' sides, 32 and 40 here; got \(2, 4, 8, 16\)"):
        PuzzleMix(3, blocks=(2, 4, 8, 16)).draw(torch.randn(2, 3, 32, 40), torch.rand(2, 16, 20), None)


@pytest.mark.parametrize(("sides", "finest"), [((32, 40), 8), ((32, 48), 16), ((30, 50), 2)])
def test_the_default_blocks_are_the_authors_that_divide_the_sides(sides, finest):
    images, saliency = batch(sides=sides)
    assert PuzzleMix(3).draw(images, saliency, None).shares.shape == (8, finest, finest)
    with pytest.raises(ValueError, match=r"sides, 31 and 40 here; got \(2, 4, 8, 16\)"):
        PuzzleMix(3).draw(torch.randn(2, 3, 31, 40), torch.rand(2, 16, 20), None)
