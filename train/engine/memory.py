"""Out of memory: the errors that mean it, and the options to lower."""

import torch

from train.config import ResolvedConfig
from train.errors import UserError

# Parts of the messages of torch's CPU allocator, CUDA and its libraries, and DALI.
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
    """Return whether the error means that host or device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def out_of_memory(error: BaseException, config: ResolvedConfig, device: torch.device) -> UserError:
    """Return the error to raise in its place, which names the options of the run that matter."""
    lower = ["--batch-size", "--image-size"]
    if config.consistency is not None and config.consistency_scale > 0.5:
        lower.append("--consistency-scale")
    if config.saliency_scale > 0.5:
        lower.append("--saliency-scale")
    if device.type == "cpu":
        lower.append("--workers")
    message = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"out of memory on {device} at --batch-size {config.batch_size} and --image-size {config.image_size}: start"
        f" a new run with a lower {' or '.join(lower)} ({message})"
    )
