"""Memory: how much is free, the errors that mean that none is left, and the options to lower."""

from pathlib import Path

import torch

from train.config.run import RunConfig
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


def out_of_memory(error: BaseException, config: RunConfig, device: torch.device) -> UserError:
    """Return the error to raise in its place, which names the options of the run that matter."""
    sizes = config.sizes()
    values = " and ".join(f"{flag} {value}" for flag, value in sizes.items() if value)
    lower = [*sizes, *(["--workers"] if device.type == "cpu" else [])]
    message = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"out of memory on {device} at {values}: start a new run with a lower {' or '.join(lower)} ({message})"
    )


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Return the bytes that are free on the device; None where the system does not say.

    On the CPU that is the least of the machine's available memory and what the control group of a container leaves.

    Args:
        root: of the file system; for tests.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch's allocator
        return torch.cuda.mem_get_info(device)[0] + unused
    candidates = []
    try:
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        candidates.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError):
        pass
    for folder, limit, used, cache in (
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (int((root / folder / name).read_text()) for name in (limit, used))  # "max": no limit
            stat = dict(line.split() for line in (root / folder / "memory.stat").read_text().splitlines())
            candidates.append(max(0, most - now + int(stat.get(cache, 0))))
        except (OSError, ValueError):
            pass
    return min(candidates, default=None)
