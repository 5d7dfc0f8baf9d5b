"""Images that are not square: every method at half resolution, the early head, and remembered maps."""

import pytest
import torch
from torch import nn

from dali_salaug import METHODS, BoxDraw, MaskDraw, SaliencyMemory, SaliencyStage, WithEarlyHead
from dali_salaug.region_share import region_share

SIZE = (32, 16)  # as people are; a height taken for a width leaves the image, or its lower half alone


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, small_net: nn.Module) -> None:
    torch.manual_seed(0)
    images, augmented = torch.randn(2, 24, 3, *SIZE)
    labels = torch.arange(24) % 5
    method = METHODS[name].build(5, region_size=6, tau=0.6)
    trace = SaliencyStage(method, scale=0.5, warmup_epochs=0).trace(small_net, images, labels, augmented)
    assert trace.inputs.shape == images.shape
    assert trace.inputs.isfinite().all()
    if trace.saliency is not None:
        assert tuple(trace.saliency.shape) in ((24, 16, 8), (24, *SIZE))  # fine_grained is of the whole image
        shares = region_share(trace.saliency, trace.drawn, SIZE)
        if shares is not None:
            assert all(((each >= 0) & (each <= 1)).all() for each in shares)
    if isinstance(trace.drawn, MaskDraw):
        assert trace.drawn.masks.shape[-2:] == SIZE
    if not isinstance(trace.drawn, BoxDraw):
        return
    top, left, bottom, right = trace.drawn.boxes.unbind(1)
    assert ((top >= 0) & (top <= bottom) & (bottom <= SIZE[0])).all()
    assert ((left >= 0) & (left <= right) & (right <= SIZE[1])).all()
    assert bottom.max() > SIZE[1], "regions are in the lower half too"
    drawn = bottom > top
    assert (top[drawn] < SIZE[0] // 2).any()
    if METHODS[name].kind == "one image" and not method.keeps_region:
        rows, columns = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])
        for image in range(24):
            y0, x0, y1, x1 = trace.drawn.boxes[image].tolist()
            outside = ~((rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1))
            assert torch.equal(trace.inputs[image][:, outside], images[image][:, outside]), "outside the box"


def test_a_square_region_may_be_anywhere(small_net: nn.Module) -> None:
    """On a flat map all 27 × 11 places are alike."""
    method, seen = METHODS["keep_cutout"].build(5, region_size=6, tau=1.0), set()
    images, flat = torch.zeros(400, 3, *SIZE), torch.ones(400, 16, 8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        boxes = method.draw(images, flat, generator).boxes
        seen |= {(y0 + y1, x0 + x1) for y0, x0, y1, x1 in boxes.tolist()}
    assert min(y for y, _ in seen) < 8
    assert max(y for y, _ in seen) > 2 * SIZE[0] - 8
    assert min(x for _, x in seen) < 8
    assert max(x for _, x in seen) > 2 * SIZE[1] - 8


def test_a_memory_of_transposed_maps_is_the_transposed_memory() -> None:
    torch.manual_seed(0)
    indices, gradient = torch.tensor([3, 0, 2]), torch.randn(3, 3, *SIZE)
    views = torch.tensor([[[1.6, 0, -0.3], [0, 1.25, -0.1]], [[1, 0, 0], [0, 1, 0]], [[-1, 0, 1], [0, 2, -1]]])
    turned = views.flip(1)[:, :, [1, 0, 2]]  # x and y exchanged
    one, other = SaliencyMemory(4, grid=8), SaliencyMemory(4, grid=8)
    for epoch in range(2):
        for memory in (one, other):
            memory.set_epoch(epoch)
        one.write(indices, views, gradient)
        other.write(indices, turned, gradient.mT)
    maps = one.read(indices, views, SIZE)
    assert maps.shape == (3, *SIZE)
    torch.testing.assert_close(maps, other.read(indices, turned, SIZE[::-1]).mT)
    assert maps.std() > 0


class OfOneSize(nn.Module):
    """A network that takes images of 32×16 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 32 * 16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[2:] != (32, 16):
            raise ValueError("images must be 32×16")
        return self.fc(self.conv(images).flatten(1))


def test_an_early_head_of_a_model_of_one_size() -> None:
    network = WithEarlyHead(OfOneSize(), 5, "conv", image_size=SIZE)
    logits, early = network.train()(torch.randn(2, 3, *SIZE))
    assert logits.shape == early.shape == (2, 5)
    with pytest.raises(ValueError, match="image_size must be a size that the model takes; it does not take 16×32"):
        WithEarlyHead(OfOneSize(), 5, "conv", image_size=(16, 32))
    for wrong in ((32, 16, 3), (32, 0), ("32", 16)):
        with pytest.raises(ValueError, match="image_size must be"):
            WithEarlyHead(OfOneSize(), 5, "conv", image_size=wrong)  # type: ignore[arg-type]
