"""Reduced precision: a map chooses as the float32 map does, and the stage takes a loader's bfloat16 images."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dali_salaug import METHODS, SaliencyStage, saliency_map, selective_cut, selective_paste
from dali_salaug.saliency.maps import METHODS as MAPS
from train.data.shapes import SHAPES, render
from train.models.registry import small

SIDE, LENGTH, TAU = 32, 12, 0.6
STEPS = 80
CELLS = LENGTH // 2  # on the map, which is half as large
PRECISIONS = [  # of the weights and images, and of autocast
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
    (torch.bfloat16, None),
    (torch.float16, None),
]


@pytest.fixture(scope="module")
def trained():
    """A network fitted to every fifth of 320 embedded images, the images, and what it takes them for."""
    pixels, classes = [], []
    for number, name in enumerate(SHAPES):
        for k in range(40):
            image, _ = render(name, np.random.default_rng([7, number, k]))
            pixels.append(np.asarray(image.resize((SIDE, SIDE))))
            classes.append(number)
    images = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - 0.45) / 0.25
    targets = torch.tensor(classes)

    fitted = slice(None, None, 5)
    torch.manual_seed(0)
    model = small(len(SHAPES))
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / STEPS)
        loss = F.cross_entropy(model(images[fitted]), targets[fitted])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        # As sure as after a long training: the gradient of the loss then underflows in float16.
        model[-1].weight.mul_(10)
        model[-1].bias.mul_(10)
        sure, labels = F.softmax(model(images), 1).max(1)
    assert sure.median() == 1
    return model, images, labels


def allowed(saliency: np.ndarray, box: list[int], method: str) -> bool:
    """Whether float64 means over all squares of one map leave a drawn box on its side of the quantile."""
    height = width = SIDE // 2
    running = np.zeros((height + 1, width + 1))
    running[1:, 1:] = saliency.astype(np.float64).cumsum(0).cumsum(1)

    def score(top: int, left: int, bottom: int, right: int) -> float:
        total = running[bottom, right] - running[top, right] - running[bottom, left] + running[top, left]
        return total / ((bottom - top) * (right - left))

    scores = []
    if method == "cut":
        for y in range(-(CELLS // 2), height - CELLS // 2):
            for x in range(-(CELLS // 2), width - CELLS // 2):
                scores.append(score(max(y, 0), max(x, 0), min(y + CELLS, height), min(x + CELLS, width)))
    else:
        for y in range(height - CELLS + 1):
            for x in range(width - CELLS + 1):
                scores.append(score(y, x, y + CELLS, x + CELLS))
    tolerance = 1e-9 * saliency.mean()
    own = score(*(end // 2 for end in box))
    position = TAU * (len(scores) - 1)
    if method == "cut":
        return own <= sorted(scores)[math.floor(position)] + tolerance
    return own >= sorted(scores)[math.ceil(position)] - tolerance


@pytest.mark.parametrize("target", ["label", "loss"])
@pytest.mark.parametrize(("weights", "autocast"), PRECISIONS)
def test_nearly_all_regions_are_ones_that_the_float32_map_allows(trained, weights, autocast, target):
    """Of three networks the worst had 98 % of the cuts and 96 % of the pastes; float16, with underflow, 91 and 89 %."""
    model, images, labels = trained
    exact = saliency_map(model, images, labels, target=target).numpy()
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        saliency = saliency_map(copy.deepcopy(model).to(weights), images.to(weights), labels, target=target)
    for method, least in (("cut", 0.96), ("paste", 0.93)):
        generator = torch.Generator().manual_seed(0)
        if method == "cut":
            _, boxes = selective_cut(images, saliency, LENGTH, tau=TAU, generator=generator)
        else:
            _, boxes = selective_paste(images, images, saliency, LENGTH, tau=TAU, generator=generator)
        found = [allowed(m, box, method) for m, box in zip(exact, boxes.tolist(), strict=True)]
        assert np.mean(found) >= least


def _in_bfloat16(count, side):
    """Clean and augmented images as a loader returns them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, count, 3, side, side, generator=generator).bfloat16()
    return [each.contiguous(memory_format=torch.channels_last) for each in images]


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.policy in (None, "randaugment")])
def test_every_method_takes_bfloat16_images_with_a_bfloat16_model_or_autocast(small_net, name, weights):
    entry = METHODS[name]
    options = {"saliency": entry.saliency, "target": entry.target, "scale": entry.scale, "warmup_epochs": 0}
    images, augmented = _in_bfloat16(4, 16)
    labels = torch.tensor([0, 1, 2, 3])
    method = entry.build(5, region_size=4)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=weights == torch.float32):
        trace = SaliencyStage(method, **options).trace(small_net.to(weights), images, labels, augmented)
    assert trace.inputs.dtype == torch.bfloat16
    assert trace.inputs.is_contiguous(memory_format=torch.channels_last)
    assert trace.targets.dtype == (labels.dtype if trace.targets.ndim == 1 else torch.float32)
    # The same draw applied to the same images in float32. Rounding is by a part in 2⁸, twice in a mix of two.
    expected = method.apply(images.float(), trace.drawn, augmented.float())
    torch.testing.assert_close(trace.inputs.float(), expected, rtol=2**-8, atol=2**-7)


@pytest.mark.parametrize("saliency", MAPS)
def test_every_map_of_bfloat16_images_is_float32(small_net, saliency):
    images, _ = _in_bfloat16(4, 16)
    generator = torch.Generator().manual_seed(0)
    found = saliency_map(small_net.bfloat16(), images, torch.tensor([0, 1, 2, 3]), method=saliency, generator=generator)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert (found.amax((1, 2)) > found.amin((1, 2))).all()


def test_pixels_that_are_not_normalised_are_refused(small_net):
    pixels = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3])
    said = (
        r"must be floating point and normalised; got uint8 \(4, 3, 16, 16\) on cpu\. Normalise .*pipelines.ImageLoader"
    )
    with pytest.raises(ValueError, match="^images " + said):
        SaliencyStage(METHODS["keep_cutout"].build(5))(small_net, pixels, labels)
    with pytest.raises(ValueError, match="^images " + said):
        saliency_map(small_net, pixels, labels)
    with pytest.raises(ValueError, match=r"augmented must be like images .*; got uint8"):
        SaliencyStage(METHODS["randaugment"].build(5))(small_net, pixels.float(), labels, pixels)
