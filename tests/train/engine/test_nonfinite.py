"""Numbers that are not finite, on the device: what a skipped step leaves as it was, and what is told of it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from train.distributed import World
from train.engine.nonfinite import NonFiniteGuard
from train.errors import UserError

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(*layers)


def batch(number: int, broken: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(6, 3, 8, 8, generator=generator)
    images[2, 0, 0, 0] = math.nan if broken else 0
    return images, torch.arange(6) % 5, torch.arange(6) + 10 * number


def step(watch: NonFiniteGuard, model: nn.Module, number: int, broken: bool = False) -> None:
    images, labels, indices = batch(number, broken)
    watch.optimizer.zero_grad()
    watch.begin()
    loss = F.cross_entropy(model(images), labels)
    watch.watched(loss, indices, epoch=1, step=number % 100).backward()
    watch.update()


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    kept = [value for entry in optimizer.state.values() for value in entry.values()]
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers(), *kept)]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("broken", [1, 2, 4])
def test_a_skipped_step_is_as_if_it_had_not_been(name: str, broken: int, tmp_path: Path) -> None:
    results = []
    for skipping in (True, False):
        model = network()
        watch = NonFiniteGuard("skip", model, OPTIMIZERS[name](model.parameters()))
        for number in range(1, 5):
            if skipping or number != broken:
                step(watch, model, number, broken=number == broken)
        results.append(state(model, watch.optimizer))
        told = watch.read(tmp_path, [f"file{i}" for i in range(100)])
        assert len(told) == watch.skipped == int(skipping)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    (line,) = (tmp_path / "nonfinite.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["indices"] == list(range(10 * broken, 10 * broken + 6))
    assert entry["files"] == [f"file{i}" for i in entry["indices"]]
    assert (entry["epoch"], entry["step"], entry["loss"]) == (1, broken, "nan")


def test_a_gradient_alone_that_is_not_finite_is_skipped(tmp_path: Path) -> None:
    model = network()
    watch = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()))
    step(watch, model, 1)
    before = state(model, watch.optimizer)
    with torch.no_grad():
        model[0].weight.register_hook(lambda gradient: gradient * math.inf)
    step(watch, model, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, state(model, watch.optimizer), strict=True))
    (told,) = watch.read(tmp_path, None)
    assert told.startswith("skipped step 2 of epoch 1: the loss is 1.") or "the gradient's norm" in told
    assert json.loads((tmp_path / "nonfinite.jsonl").read_text())["gradient_norm"] in ("inf", "nan")


def test_stopping_says_which_step_and_what_to_do(tmp_path: Path) -> None:
    model = network()
    watch = NonFiniteGuard("stop", model, OPTIMIZERS["sgd"](model.parameters()))
    for number in (1, 2, 3):
        step(watch, model, number, broken=number == 2)
    with pytest.raises(UserError, match=r"^step 2 of epoch 1: the loss is nan.* There is no checkpoint yet\. .*--lr"):
        watch.read(tmp_path, None)
    lines = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3], "from the first on all are, for the weights are"
    assert watch.read(tmp_path, None) == [], "what was read is not told again"


def test_a_run_that_skips_every_step_stops(tmp_path: Path) -> None:
    model = network()
    watch = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()))
    for number in range(1, 26):
        step(watch, model, number, broken=True)
    assert len(watch.read(tmp_path, None)) == 25
    for number in range(26, 51):
        step(watch, model, number, broken=True)
    with pytest.raises(UserError, match="The last 50 steps were all skipped"):
        watch.read(tmp_path, None)


def test_a_step_of_several_batches_is_skipped_whole(tmp_path: Path) -> None:
    """The samples told are those of the broken batch; what is not yet whole waits for the next reading."""
    model = network()
    watch = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()))
    step(watch, model, 1)
    before = state(model, watch.optimizer)
    watch.optimizer.zero_grad()
    watch.begin()
    for number, broken in ((2, False), (3, True)):
        images, labels, indices = batch(number, broken)
        watch.watched(F.cross_entropy(model(images), labels), indices, epoch=1, step=2).backward()
        if not broken:
            assert watch.read(tmp_path, None) == []
    watch.update()
    assert all(torch.equal(a, b) for a, b in zip(before, state(model, watch.optimizer), strict=True))
    assert len(watch.read(tmp_path, None)) == 1
    assert json.loads((tmp_path / "nonfinite.jsonl").read_text())["indices"][0] == 30


def test_an_overflow_under_a_gradient_scaler_is_its_own_business(tmp_path: Path) -> None:
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    watch = NonFiniteGuard("stop", model, optimizer, scaled=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = [p.detach().clone() for p in model.parameters()]
    images, labels, indices = batch(1)
    loss = watch.watched(1e3 * F.cross_entropy(model(images), labels), indices, epoch=1, step=1)
    scaler.scale(loss).backward()
    watch.update(scaler=scaler)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**126
    assert watch.read(tmp_path, None) == []

    images, labels, indices = batch(2, broken=True)
    scaler.scale(watch.watched(F.cross_entropy(model(images), labels), indices, epoch=1, step=2)).backward()
    watch.update(scaler=scaler)
    with pytest.raises(UserError, match="step 2 of epoch 1: the loss is nan"):
        watch.read(tmp_path, None)


def test_resumed_with_another_form_of_the_optimizer() -> None:
    """The state of a run that stops goes into one that skips, Adam's count of steps too."""
    model = network()
    plain = OPTIMIZERS["adamw"](model.parameters())
    watch = NonFiniteGuard("stop", model, plain)
    step(watch, model, 1)
    restored = OPTIMIZERS["adamw"](model.parameters())
    restored.load_state_dict(plain.state_dict())
    again = NonFiniteGuard("skip", model, restored)
    step(again, model, 2)
    assert all(entry["step"] == 2 for entry in restored.state.values())
    with pytest.raises(UserError, match="needs an optimizer with a fused form; got Rprop"):
        NonFiniteGuard("skip", model, torch.optim.Rprop(model.parameters()))


def test_nothing_waits_in_a_step(no_waiting: Any) -> None:
    model = network()
    watch = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()))
    with no_waiting():
        step(watch, model, 1)
        step(watch, model, 2, broken=True)


def in_a_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model)
    world = World(rank, 2, 2, torch.distributed.group.WORLD)
    watch = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()), world=world)
    for number in (1, 2, 3):
        step(watch, wrapped, 100 * rank + number, broken=(rank, number) == (1, 2))
    told = watch.read(folder, None)
    torch.save((told, [p.detach() for p in model.parameters()]), folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_of_two_processes_both_skip_and_one_writes(tmp_path: Path) -> None:
    mp.spawn(in_a_process, (tmp_path,), nprocs=2)
    results = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert len(results[0][0]) == len(results[1][0]) == 1
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(results[0][1], results[1][1], strict=True))
    (line,) = (tmp_path / "nonfinite.jsonl").read_text().splitlines()
    assert json.loads(line)["rank"] == 1
    assert json.loads(line)["indices"] == list(range(1020, 1026))
