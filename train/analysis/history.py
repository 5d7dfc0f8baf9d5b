"""The course of a run from its checkpoints: the network and the memory after each epoch that was kept."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dali_salaug import SaliencyMemory
from pipelines import Batch, Dataset
from train.analysis.trained import spread_evenly
from train.config import ResolvedConfig
from train.data.loaders import make_loader, training_images
from train.engine import checkpoint
from train.engine.network import Network
from train.errors import UserError

BATCH = 64


class Snapshot(NamedTuple):
    """The state of a run after an epoch."""

    epoch: int  # from 1
    network: Network
    memory: SaliencyMemory | None


class History(NamedTuple):
    """A run, with the images that it was trained on."""

    config: ResolvedConfig
    dataset: Dataset
    snapshots: list[Snapshot]  # by epoch; the last is that of last.pt
    device: torch.device
    mean: tuple[float, float, float]  # of the normalisation, as is std
    std: tuple[float, float, float]


def load_history(run: Path, data: Path | None = None) -> History:
    """Return the checkpoints that `--keep-every` kept, and the last one.

    Args:
        run: its folder, or a file in it.
        data: the training images; None: those of the run.

    Raises:
        UserError, DataError: there is no checkpoint, or one is not of this run; or the images cannot be found, or are
            not as many as the memory has maps.
    """
    run = run if run.is_dir() else run.parent
    last, config = checkpoint.load_run(run / checkpoint.LAST)
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    snapshots = [_restored(last, config, device, run / checkpoint.LAST)]
    for path in sorted((run / checkpoint.KEPT).glob("epoch-*.pt"), reverse=True):
        state, own = checkpoint.load_run(path)
        if state["classes"] != last["classes"] or _fixed(own) != _fixed(config):
            raise UserError(f"{path}: not a checkpoint of the run of {run / checkpoint.LAST}. Move it elsewhere")
        snapshot = _restored(state, own, device, path)
        if snapshot.epoch < snapshots[0].epoch:
            snapshots.insert(0, snapshot)
    dataset = training_images(config, data)
    kept = snapshots[-1].memory
    if kept is not None and kept.samples != len(dataset):
        raise UserError(
            f"{run}: the run remembers maps of {kept.samples} images, and '{dataset.root}' has {len(dataset)}; pass"
            " --data, the images of its training"
        )
    return History(config, dataset, snapshots, device, tuple(last["mean"]), tuple(last["std"]))


def _fixed(config: ResolvedConfig) -> dict[str, Any]:
    """Return the options that are the same in all checkpoints of a run."""
    return {name: value for name, value in config.to_dict().items() if name not in config.free()}


def _restored(state: dict[str, Any], config: ResolvedConfig, device: torch.device, path: Path) -> Snapshot:
    with checkpoint.reading(path):
        network = Network(dataclasses.replace(config, compile=False), len(state["classes"]), device)
        network.load_state_dict(state)
        kept = state["objective"].get("memory")
        memory = None
        if kept is not None:
            memory = SaliencyMemory(
                len(kept["maps"]), grid=config.memory_grid, share=config.memory_share, max_age=config.memory_max_age,
                device=device,
            )  # fmt: skip
            memory.load_state_dict(kept)
        return Snapshot(int(state["progress"]["epoch"]), network, memory)


def whole_images(history: History, limit: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield training images as in validation, with views, and their places in the data set, (B,) int64.

    Args:
        limit: images at most, spread evenly over the data set.
    """
    chosen = spread_evenly(len(history.dataset), limit)
    loader = make_loader(
        history.config, train=False, dataset=history.dataset.take(chosen), with_views=True, batch_size=BATCH,
        device=history.device, mean=history.mean, std=history.std,
    )  # fmt: skip
    places = torch.from_numpy(chosen).to(history.device)
    for batch in loader:
        yield batch, places[batch.indices]
