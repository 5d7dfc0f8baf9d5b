"""The processes of a run: torchrun starts one for each GPU; without torchrun there is a single process."""

import contextlib
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.errors import UserError

PATIENCE = 600  # seconds until all processes must have started
LAG = 10  # seconds that another process may reach the same error later


@dataclass(frozen=True)
class World:
    """One process among those of a run.

    A method or function marked "Together" is collective: all processes call it, in the same order.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes, on all machines.
        local_size: the number of processes on this machine.
        host: the group that exchanges values in the host's memory, whatever the device; None for a single process.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    host: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have arrived. Together."""
        if self.host is not None:
            dist.barrier(self.host)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes; may overwrite `values`. Together.

        Args:
            values: of the same shape in all processes, on the devices of training.
        """
        if self.host is not None:
            dist.all_reduce(values)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value, of plain types. Together."""
        if self.host is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, self.host)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return all processes' values, by rank; of plain types and of tensors in the host's memory. Together."""
        if self.host is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, self.host)
        return values

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Broadcast the main process's floating-point buffers, such as BatchNorm's statistics. Together.

        The call does not wait for the device. Other buffers, such as counts of batches, are the same everywhere.
        """
        if self.host is None:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in module.buffers():
            if buffer.is_floating_point():
                by_type.setdefault(buffer.dtype, []).append(buffer)
        for buffers in by_type.values():  # in one message each
            flat = torch.cat([buffer.flatten() for buffer in buffers])
            dist.broadcast(flat, 0)
            parts = flat.split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [p.view_as(b) for p, b in zip(parts, buffers, strict=True)])


ALONE = World()


def report(message: str) -> None:
    """Print an error that ends this process. Of several processes with the same error, the main one prints it.

    Another process first waits a little for the main one's error. It prints its own where the main one has none, or
    another.
    """
    rank = int(os.environ.get("RANK", 0))
    store = _store_of_errors()
    if rank and store is not None:
        try:
            store.wait(["main"], timedelta(seconds=LAG))
            if store.get("main").decode() == message:
                return
        except RuntimeError:  # the time is over, or torchrun has ended
            pass
    print(f"process {rank}: {message}" if rank else message, file=sys.stderr, flush=True)
    if store is not None:
        with contextlib.suppress(RuntimeError):
            store.set("other" if rank else "main", message)


def failed_elsewhere() -> bool:
    """Return whether another process has printed an error, which may be why this one cannot reach it any more."""
    rank, store = int(os.environ.get("RANK", 0)), _store_of_errors()
    if store is None:
        return False
    try:
        store.wait(["main" if rank else "other"], timedelta(seconds=1))
    except RuntimeError:
        return False
    return True


def _store_of_errors() -> dist.Store | None:
    """Return the store of torchrun, for the errors of this start; None without torchrun."""
    if not dist.is_torchelastic_launched() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=LAG))
    except RuntimeError:
        return None
    return dist.PrefixStore(f"errors/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def may_restart() -> bool:
    """Return whether torchrun restarts the processes after one of them fails.

    Whether it has done so is unknown: its count of restarts covers the failures on this machine only.
    """
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Connect the processes that torchrun started, by NCCL on GPUs and by gloo on CPUs.

    Args:
        device: "auto", "cpu" or "cuda"; each process takes the GPU of its local rank.

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
    assert isinstance(host, dist.ProcessGroup)  # all processes are members
    try:
        yield World(rank, size, local_size, host)
        dist.barrier(host)  # no process leaves while another still needs it
    finally:
        dist.destroy_process_group()


def _name_of_start(store: dist.Store, rank: int, size: int) -> str:
    """Return a name that all processes share, and that no earlier start of them had.

    torchrun's store outlives its processes, so that new ones would find the addresses of processes that no longer exist
    (torch 2.14). Its count of restarts may differ between machines. Each process therefore asks the main one under a
    name of its own. The main one answers all requests that it finds until all present processes have confirmed.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"asks/{rank}", own)
        name = store.get(f"answer/{own}").decode()  # waits for the answer
        store.set(f"confirmed/{name}/{rank}", "")
        return name
    waiting, until = set(range(1, size)), time.monotonic() + PATIENCE
    while waiting:
        for other in waiting:
            if store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", own)
        waiting = {other for other in waiting if not store.check([f"confirmed/{own}/{other}"])}
        if time.monotonic() > until:
            raise RuntimeError(f"processes {sorted(waiting)} of {size} did not start within {PATIENCE} s")
        time.sleep(0.02)
    return own
