"""The compositing under torch.compile, in a CUDA graph, and its memory at a large batch."""

import os
import subprocess
import sys

import pytest
import torch

from dali_salaug import METHODS
from dali_salaug.compositing import replace_boxes
from dali_salaug.regions import draw_boxes


def cut_and_paste(images, augmented, saliency, sizes, uniforms):
    image_size = (images.shape[-2], images.shape[-1])
    cut = draw_boxes(image_size, sizes, uniforms, border="clip", saliency=saliency, keep="low")
    kept = draw_boxes(image_size, sizes, uniforms, border="inside", saliency=saliency, keep="high")
    return replace_boxes(images, cut, 0.0), replace_boxes(augmented, kept, images), cut, kept


def batch(device="cpu"):
    generator = torch.Generator().manual_seed(0)
    images, augmented = torch.randn(2, 6, 3, 20, 24, generator=generator)
    sizes = torch.randint(1, 20, (6, 2), generator=generator)
    uniforms = torch.rand(6, generator=generator, dtype=torch.float64)
    return [t.to(device) for t in (images, augmented, torch.rand(6, 10, 12, generator=generator), sizes, uniforms)]


def test_one_graph_with_the_same_pixels():
    compiled = torch.compile(cut_and_paste, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(*batch()), cut_and_paste(*batch()), strict=True):
        assert torch.equal(got, expected)


def test_inductor_gives_the_same_pixels(inductor):
    compiled = torch.compile(cut_and_paste, fullgraph=True)
    for got, expected in zip(compiled(*batch(inductor)), cut_and_paste(*batch(inductor)), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["keep_cutout", "keep_cutmix", "snapmix", "hybridmix_v1"])
def test_a_draw_is_made_and_applied_in_one_graph(name):
    method = METHODS[name].build(5, region_size=6)
    images, _, saliency, *_ = batch()

    def step(images, saliency, labels):
        drawn = method.draw(images, saliency, None)
        return method.apply(images, drawn, None), method.targets(labels, drawn, (20, 24))

    labels = torch.arange(6) % 5
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for run in (step, compiled):
        torch.manual_seed(0)
        results.append(run(images, saliency, labels))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.gpu
def test_a_cuda_graph_replays_it():
    tensors = batch("cuda")
    expected = cut_and_paste(*tensors)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = cut_and_paste(*tensors)
    graph.replay()
    for got, eager in zip(captured, expected, strict=True):
        assert torch.equal(got, eager)


MEASURE = """
import torch
from dali_salaug.regions import draw_boxes

def draw(batch):
    size, uniforms = torch.randint(20, 200, (batch, 2)), torch.rand(batch, dtype=torch.float64)
    draw_boxes((224, 224), size, uniforms, border="inside", saliency=maps[:batch])

def resident(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 2**20

maps = torch.rand(512, 224, 224)
draw(2)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
before = resident("VmRSS")
draw(512)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc/self/clear_refs")
def test_a_large_batch_at_full_resolution_takes_less_than_a_gibibyte():
    """512 full-resolution maps of 224×224, a region size for each image: the most that is ever asked for."""
    result = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert 0.3 < float(result.stdout) < 1.0
