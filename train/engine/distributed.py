"""The processes of a run, one for each GPU, as torchrun starts them; without torchrun there is one alone."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.errors import UserError

PATIENCE = 600  # seconds, for all processes to be there


@dataclass(frozen=True)
class World:
    """This process among all. What "together" is said of is called by all of them, in the same order.

    Attributes:
        rank: its number, from 0.
        size: how many there are, on all machines.
        local_size: how many there are on this machine.
        host: for what is in the host's memory, whatever the device; None where this process is alone.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    host: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether it is the one that prints, and writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Together: until all are here."""
        if self.host is not None:
            dist.barrier(self.host)

    def sum(self, values: Tensor) -> Tensor:
        """Together: the sum over all, of tensors of one shape on the devices of training; may overwrite `values`."""
        if self.host is not None:
            dist.all_reduce(values)
        return values

    def broadcast(self, value: Any) -> Any:
        """Together: what the first one gave, of plain types."""
        if self.host is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, self.host)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Together: what each gave, in the order of the ranks, of plain types and tensors in the host's memory."""
        if self.host is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, self.host)
        return values

    def share_buffers(self, module: nn.Module) -> None:
        """Together: the first one's floating-point buffers, BatchNorm's statistics, for all. Does not wait.

        The others, such as counts of batches, are alike.
        """
        if self.host is None:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in module.buffers():
            if buffer.is_floating_point():
                by_type.setdefault(buffer.dtype, []).append(buffer)
        for buffers in by_type.values():  # in one message
            flat = torch.cat([buffer.flatten() for buffer in buffers])
            dist.broadcast(flat, 0)
            parts = flat.split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [p.view_as(b) for p, b in zip(parts, buffers, strict=True)])


ALONE = World()


def may_restart() -> bool:
    """Whether torchrun starts the processes anew after one of them has failed. That it has done so cannot be told: its
    count of restarts is that of failures on this machine."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


@contextmanager
def joined(device: str) -> Iterator[World]:
    """A context with the processes that torchrun started, which talk by NCCL on GPUs and by gloo on CPUs.

    Args:
        device: "auto", "cpu" or "cuda"; each process is given the GPU of its number on its machine.

    Raises:
        UserError: a machine has fewer GPUs than processes.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    on_gpus = device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        if local_size > torch.cuda.device_count():
            raise UserError(
                f"torchrun --nproc-per-node must be at most the number of GPUs, {torch.cuda.device_count()};"
                f" got {local_size}"
            )
        torch.cuda.set_device(local_rank)
    store, _, _ = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(_name_of_start(store, rank, size), store)
    dist.init_process_group("nccl" if on_gpus else "gloo", store=store, rank=rank, world_size=size)
    host = dist.new_group(backend="gloo")
    assert isinstance(host, dist.ProcessGroup)
    try:
        yield World(rank, size, local_size, host)
        dist.barrier(host)  # nobody leaves while another still needs it
    finally:
        dist.destroy_process_group()


def _name_of_start(store: dist.Store, rank: int, size: int) -> str:
    """A name that all processes have in common, and those before a restart had not.

    torchrun's store outlives its processes, and new ones would find the addresses of those that are gone (torch 2.14).
    What it says of the number of restarts may differ between machines. So each process asks the first under a name of
    its own, and the first answers whatever it finds, until all who are there now have confirmed.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"asks/{rank}", own)
        name = store.get(f"answer/{own}").decode()  # waits for it
        store.set(f"confirmed/{name}/{rank}", "")
        return name
    waiting, until = set(range(1, size)), time.monotonic() + PATIENCE
    while waiting:
        for other in waiting:
            if store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", own)
        waiting = {other for other in waiting if not store.check([f"confirmed/{own}/{other}"])}
        if time.monotonic() > until:
            raise RuntimeError(f"processes {sorted(waiting)} of {size} have not come within {PATIENCE} s")
        time.sleep(0.02)
    return own
