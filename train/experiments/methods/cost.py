"""What a step of each method costs: measured beside plain steps, in turns, while no run is under way."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipelines import Batch, Dataset
from train.benchmarks.loader import SKIP, DropLast, endless, images_per_second
from train.benchmarks.measuring import as_in_training, place_of, seconds_of
from train.benchmarks.whole_steps import AT_ONCE, beside_plain_steps
from train.config import ResolvedConfig
from train.data.loaders import make_loader
from train.engine.network import Network
from train.engine.schedule import layer_groups, make_optimizer
from train.tasks.classification.objective import make_objective

TURNS, WARM_UP = 5, 2
BATCHES = 8  # of a loader in a turn, at least
Kind = tuple[str | None, bool]  # of a loader: its policy, and whether it returns the crops' place in the images


def measure(configs: Mapping[str, ResolvedConfig], dataset: Dataset, *, turns: int = TURNS) -> dict[str, Any]:
    """Measure the training step of each method beside plain steps, and the batches of its loader.

    A step has the stage, forward and backward pass and the optimizer, on the same batch of the data each time. The
    batches are measured apart: a policy is the loader's work, which on a GPU, or on idle cores, runs beside the steps.

    Args:
        configs: of the methods, by the names of their rows; one is "none".
        dataset: the training images.
        turns: that count.

    Returns:
        "plain", "steps" and "ratios", see `train.benchmarks.whole_steps`; "batches", by the name of each row the
        seconds of a batch in each turn; "device".
    """
    device = place_of(next(iter(configs.values())).device)
    as_in_training(device)
    kinds = {name: (config.policy, config.saliency == "memory") for name, config in configs.items()}
    loaders = {kind: _loader(configs[name], dataset) for name, kind in kinds.items()}
    batches = {kind: _owned(next(iter(loader))) for kind, loader in loaders.items()}
    steps = {name: _step(config, dataset, batches[kinds[name]], device) for name, config in configs.items()}

    def step(name: str | None) -> float:
        return seconds_of(steps[name or "none"], device) / AT_ONCE[device.type]

    found = beside_plain_steps(step, [name for name in configs if name != "none"], turns=turns, warm_up=WARM_UP)
    seconds = _seconds_of_batches(loaders, turns)
    return {
        **found,
        "batches": {name: seconds[kind] for name, kind in kinds.items()},
        "device": device.type,
    }


def _loader(config: ResolvedConfig, dataset: Dataset) -> DropLast:
    loader = make_loader(config, train=True, dataset=dataset)
    return DropLast(loader, min(config.batch_size, len(loader.dataset)))


def _owned(batch: Batch) -> Batch:
    """Return a batch whose tensors the loader does not write into."""
    own: dict[str, Any] = {k: v.clone() for k, v in batch._asdict().items() if isinstance(v, Tensor)}
    return batch._replace(**own)


def _step(config: ResolvedConfig, dataset: Dataset, batch: Batch, device: torch.device) -> Callable[[], None]:
    """Return the steps of a method that are timed at once."""
    classes = len(dataset.classes)
    torch.manual_seed(config.seed)
    network = Network(config, classes, device)
    network.set_training()
    objective = make_objective(config, network, classes, config.seed, samples=len(dataset))
    objective.set_epoch(config.warmup_epochs)
    optimizer = make_optimizer(config, layer_groups(config, network))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.amp != "off")

    def steps() -> None:
        for _ in range(AT_ONCE[device.type]):
            with autocast:
                loss = objective(batch).losses["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def _seconds_of_batches(loaders: Mapping[Kind, DropLast], turns: int) -> dict[Kind, list[float]]:
    seconds: dict[Kind, list[float]] = {kind: [] for kind in loaders}
    for turn in tqdm(range(turns + 1), desc="batches", leave=False, disable=None):
        for kind, loader in loaders.items():
            ahead = loader.loader.ahead
            count, skip = max(BATCHES, ahead), max(SKIP, ahead)
            speed = images_per_second(endless(loader), count, loader.batch_size, skip=skip)
            if turn:
                seconds[kind].append(loader.batch_size / speed)
    return seconds


def of_a_method(cost: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    """Return what a row costs, in per cent of none: the median over the turns, and the range.

    On the CPU a batch and a step share the cores, and the cost is of both. On a GPU it is of the step alone.
    """
    ratios = cost["ratios"].get(name, [1.0])
    plain = statistics.median(cost["plain"])
    if cost["device"] == "cpu":
        batch, of_none = (statistics.median(cost["batches"][row]) for row in (name, "none"))
        ratios = [(ratio * plain + batch) / (plain + of_none) for ratio in ratios]
    middle, least, most = (100 * value for value in (statistics.median(ratios), min(ratios), max(ratios)))
    return middle, least, most
