"""Resizing on the CPU, inside the pipeline, by torch's antialiased kernel for bytes.

DALI's own `fn.resize` converts single bytes to floating point, and was the most expensive part of the loader: 0.90 ms
of a core (AMD EPYC) for a photograph's window to 224×224. Torch's takes 0.18 ms, calls and copies included. It is the
kernel that torchvision uses, so the pixels are torchvision's.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import torch
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from torch.utils.dlpack import from_dlpack, to_dlpack

_JOBS = 4  # shares of a batch for each thread, small enough that none waits long for the last


_KERNELS = {
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa,
}


def resize_on_cpu(images: DataNode, size: tuple[int, int], interpolation: str = "bilinear") -> DataNode:
    """Resize images of any size to (*size, 3) uint8: bilinear or bicubic, with a filter as wide where they shrink."""
    resize = partial(_resize, size=size, kernel=_KERNELS[interpolation], threads=Pipeline.current().num_threads)
    return fn.dl_tensor_python_function(images, function=resize, batch_processing=True, output_layouts="HWC")


@cache  # one for all pipelines, so that none has to be stopped with its pipeline
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="resize")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a pool's threads stay in the parent


def _resize(images: list[Any], *, size: tuple[int, int], kernel: Any, threads: int) -> list[Any]:
    """Resize DLPack capsules of (h, w, 3) uint8 to capsules of (*size, 3)."""
    resized = torch.empty((len(images), 3, *size), dtype=torch.uint8, memory_format=torch.channels_last)
    pairs = [(from_dlpack(image).permute(2, 0, 1)[None], resized[i : i + 1]) for i, image in enumerate(images)]
    jobs = threads * _JOBS
    for _ in _pool(threads).map(partial(_resize_each, kernel), [pairs[job::jobs] for job in range(jobs)]):
        pass
    return [to_dlpack(image) for image in resized.permute(0, 2, 3, 1)]


def resize_each_on_cpu(images: DataNode, sizes: DataNode, interpolation: str = "bilinear") -> DataNode:
    """Resize each image, of any size, to its own of `sizes`, (height, width) int64; otherwise as `resize_on_cpu`."""
    resize = partial(_resize_to_own, kernel=_KERNELS[interpolation], threads=Pipeline.current().num_threads)
    return fn.dl_tensor_python_function(images, sizes, function=resize, batch_processing=True, output_layouts="HWC")


def _resize_to_own(images: list[Any], sizes: list[Any], *, kernel: Any, threads: int) -> list[Any]:
    """Resize DLPack capsules of (h, w, 3) uint8 by capsules of (2,) int64."""
    pairs = [
        (
            from_dlpack(image).permute(2, 0, 1)[None],
            torch.empty((1, 3, *from_dlpack(size).tolist()), dtype=torch.uint8, memory_format=torch.channels_last),
        )
        for image, size in zip(images, sizes, strict=True)
    ]
    for _ in _pool(threads).map(partial(_resize_each, kernel), [[pair] for pair in pairs]):
        pass
    return [to_dlpack(resized[0].permute(1, 2, 0)) for _, resized in pairs]


def _resize_each(kernel: Any, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for image, out in pairs:  # the kernel releases the interpreter for other threads
        kernel.out(image, list(out.shape[2:]), False, out=out)
