"""Out of memory: which of the many errors mean it, and what is to be lowered."""

import torch

from train.config import ResolvedConfig
from train.errors import UserError

# What torch's CPU allocator, CUDA and its libraries, and DALI say.
SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "out of memory",
    "CUDA allocation failed",
    "bad_alloc",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def out_of_memory(error: BaseException, config: ResolvedConfig, device: torch.device) -> UserError:
    """What to say of such an error in a run."""
    lower = ["--batch-size", "--image-size"]
    if config.consistency is not None and config.consistency_scale > 0.5:
        lower.append("--consistency-scale")
    if config.saliency_scale is None or config.saliency_scale > 0.5:
        lower.append("--saliency-scale")
    if device.type == "cpu":
        lower.append("--workers")
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"out of memory on {device} at --batch-size {config.batch_size} and --image-size {config.image_size}: begin"
        f" anew with a lower {' or '.join(lower)} ({said})"
    )
