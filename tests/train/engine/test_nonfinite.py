"""Numbers that are not finite, on the device: what a skipped step leaves unchanged, and what is reported of it."""

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


def step(guard: NonFiniteGuard, model: nn.Module, number: int, broken: bool = False) -> None:
    images, labels, indices = batch(number, broken)
    guard.optimizer.zero_grad()
    guard.begin()
    loss = F.cross_entropy(model(images), labels)
    guard.guarded(loss, indices, epoch=1, step=number % 100).backward()
    guard.update()


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    kept = [value for entry in optimizer.state.values() for value in entry.values()]
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers(), *kept)]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("broken", [1, 2, 4])
def test_a_skipped_step_is_as_if_it_had_not_been(name: str, broken: int, tmp_path: Path) -> None:
    results = []
    for skipping in (True, False):
        model = network()
        guard = NonFiniteGuard("skip", model, OPTIMIZERS[name](model.parameters()))
        for number in range(1, 5):
            if skipping or number != broken:
                step(guard, model, number, broken=number == broken)
        results.append(state(model, guard.optimizer))
        sentences = guard.read(tmp_path, [f"file{i}" for i in range(100)])
        assert len(sentences) == guard.skipped == int(skipping)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    (line,) = (tmp_path / "nonfinite.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["indices"] == list(range(10 * broken, 10 * broken + 6))
    assert entry["files"] == [f"file{i}" for i in entry["indices"]]
    assert (entry["epoch"], entry["step"], entry["loss"]) == (1, broken, "nan")


def test_a_gradient_alone_that_is_not_finite_is_skipped(tmp_path: Path) -> None:
    model = network()
    guard = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()))
    step(guard, model, 1)
    before = state(model, guard.optimizer)
    with torch.no_grad():
        model[0].weight.register_hook(lambda gradient: gradient * math.inf)
    step(guard, model, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, state(model, guard.optimizer), strict=True))
    (sentence,) = guard.read(tmp_path, None)
    assert sentence.startswith("skipped step 2 of epoch 1: the loss is 1.") or "the gradient's norm" in sentence
    assert json.loads((tmp_path / "nonfinite.jsonl").read_text())["gradient_norm"] in ("inf", "nan")


def test_stopping_says_which_step_and_what_to_do(tmp_path: Path) -> None:
    model = network()
    guard = NonFiniteGuard("stop", model, OPTIMIZERS["sgd"](model.parameters()))
    for number in (1, 2, 3):
        step(guard, model, number, broken=number == 2)
    with pytest.raises(UserError, match=r"^step 2 of epoch 1: the loss is nan.* There is no checkpoint yet\. .*--lr"):
        guard.read(tmp_path, None)
    lines = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3], "all from the first on, for the weights are not finite either"
    assert guard.read(tmp_path, None) == [], "what was read is not reported again"


def test_a_run_that_skips_every_step_stops(tmp_path: Path) -> None:
    model = network()
    guard = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()))
    for number in range(1, 26):
        step(guard, model, number, broken=True)
    assert len(guard.read(tmp_path, None)) == 25
    for number in range(26, 51):
        step(guard, model, number, broken=True)
    with pytest.raises(UserError, match="The last 50 steps were all skipped"):
        guard.read(tmp_path, None)


def test_a_step_of_several_batches_is_skipped_whole(tmp_path: Path) -> None:
    """The reported samples are those of the broken batch; an incomplete step waits for the next reading."""
    model = network()
    guard = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()))
    step(guard, model, 1)
    before = state(model, guard.optimizer)
    guard.optimizer.zero_grad()
    guard.begin()
    for number, broken in ((2, False), (3, True)):
        images, labels, indices = batch(number, broken)
        guard.guarded(F.cross_entropy(model(images), labels), indices, epoch=1, step=2).backward()
        if not broken:
            assert guard.read(tmp_path, None) == []
    guard.update()
    assert all(torch.equal(a, b) for a, b in zip(before, state(model, guard.optimizer), strict=True))
    assert len(guard.read(tmp_path, None)) == 1
    assert json.loads((tmp_path / "nonfinite.jsonl").read_text())["indices"][0] == 30


def test_an_overflow_under_a_gradient_scaler_is_its_own_business(tmp_path: Path) -> None:
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    guard = NonFiniteGuard("stop", model, optimizer, scaled=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = [p.detach().clone() for p in model.parameters()]
    images, labels, indices = batch(1)
    loss = guard.guarded(1e3 * F.cross_entropy(model(images), labels), indices, epoch=1, step=1)
    scaler.scale(loss).backward()
    guard.update(scaler=scaler)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**126
    assert guard.read(tmp_path, None) == []

    images, labels, indices = batch(2, broken=True)
    scaler.scale(guard.guarded(F.cross_entropy(model(images), labels), indices, epoch=1, step=2)).backward()
    guard.update(scaler=scaler)
    with pytest.raises(UserError, match="step 2 of epoch 1: the loss is nan"):
        guard.read(tmp_path, None)


def test_resumed_with_another_form_of_the_optimizer() -> None:
    """The state of a run that stops goes into one that skips, Adam's count of steps too."""
    model = network()
    plain = OPTIMIZERS["adamw"](model.parameters())
    guard = NonFiniteGuard("stop", model, plain)
    step(guard, model, 1)
    restored = OPTIMIZERS["adamw"](model.parameters())
    restored.load_state_dict(plain.state_dict())
    again = NonFiniteGuard("skip", model, restored)
    step(again, model, 2)
    assert all(entry["step"] == 2 for entry in restored.state.values())
    with pytest.raises(UserError, match="needs an optimizer with a fused form; got Rprop"):
        NonFiniteGuard("skip", model, torch.optim.Rprop(model.parameters()))


def test_nothing_waits_in_a_step(no_waiting: Any) -> None:
    model = network()
    guard = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()))
    with no_waiting():
        step(guard, model, 1)
        step(guard, model, 2, broken=True)


def in_a_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model)
    world = World(rank, 2, 2, torch.distributed.group.WORLD)
    guard = NonFiniteGuard("skip", model, OPTIMIZERS["sgd"](model.parameters()), world=world)
    for number in (1, 2, 3):
        step(guard, wrapped, 100 * rank + number, broken=(rank, number) == (1, 2))
    sentences = guard.read(folder, None)
    torch.save((sentences, [p.detach() for p in model.parameters()]), folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_of_two_processes_both_skip_and_one_writes(tmp_path: Path) -> None:
    mp.spawn(in_a_process, (tmp_path,), nprocs=2)
    results = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert len(results[0][0]) == len(results[1][0]) == 1
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(results[0][1], results[1][1], strict=True))
    (line,) = (tmp_path / "nonfinite.jsonl").read_text().splitlines()
    assert json.loads(line)["rank"] == 1
    assert json.loads(line)["indices"] == list(range(1020, 1026))
