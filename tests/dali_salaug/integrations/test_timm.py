"""timm: the stage with Mixup's interface, and a loop of timm's parts that resumes from a checkpoint of an epoch."""

import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.data import Mixup
from timm.data.loader import PrefetchLoader
from timm.data.mixup import FastCollateMixup, mixup_target
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, accuracy

from dali_salaug import KeepCutMix, KeepCutout, KeepPaste, SaliencyStage
from dali_salaug.integrations.timm import SaliencyMixup, TimmLoader

PAGE = Path(__file__).parents[3] / "docs" / "frameworks.md"


def train_one_epoch(epoch: int, model: Any, loader: Any, optimizer: Any, loss_fn: Any, args: Any) -> float:
    """What timm's train.py reads of a loader in a function of this name, its prefetcher being on."""
    if args.mixup_off_epoch and epoch >= args.mixup_off_epoch and loader.mixup_enabled:
        loader.mixup_enabled = False
    losses = AverageMeter()
    model.train()
    last_batch_idx = len(loader) - 1
    for batch_idx, (inputs, target) in enumerate(loader):
        assert batch_idx <= last_batch_idx
        loss = loss_fn(model(inputs.contiguous(memory_format=torch.channels_last)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), inputs.size(0))
    assert batch_idx == last_batch_idx
    return losses.avg


def train(model: Any, loader: Any, epochs: int, folder: Path, *, resume: Path | None = None, **options: Any) -> list:
    """The losses of the epochs, in train.py's order of calls, with its checkpoints."""
    args = SimpleNamespace(**({"mixup_off_epoch": 0, "distributed": False, "model": "net"} | options))
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2)
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=3, updates_per_epoch=len(loader))
    start = 0
    if resume:
        state = torch.load(resume, weights_only=False)
        model.load_state_dict(state["state_dict"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"] + 1
        scheduler.step(start)
    saver = CheckpointSaver(model, optimizer, args, checkpoint_dir=str(folder), recovery_dir=str(folder))
    dataset_train, losses = loader, []
    for epoch in range(start, epochs):
        if hasattr(dataset_train, "set_epoch"):
            dataset_train.set_epoch(epoch)
        elif args.distributed and hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        losses.append(train_one_epoch(epoch, model, loader, optimizer, SoftTargetCrossEntropy(), args))
        saver.save_checkpoint(epoch, metric=-losses[-1])
        scheduler.step(epoch + 1)
    return losses


@pytest.mark.parametrize("method", [KeepCutMix(3), KeepPaste(6)], ids=["two images", "policy"])
def test_it_resumes_as_if_it_had_not_stopped(method, loader_of, small_model, tmp_path, assert_same_weights) -> None:
    """From a checkpoint that timm wrote, which knows nothing of the loader and the stage."""

    def run(epochs: int, **options: Any) -> tuple[Any, list[float]]:
        model = small_model()
        model[5] = torch.nn.Identity()  # timm does not restore the state of torch's generator
        mixup = SaliencyMixup(SaliencyStage(method, seed=3), model, num_classes=3)
        loader = TimmLoader(loader_of(policy="randaugment" if method.uses_augmented else None), mixup)
        return model, train(model, loader, epochs, tmp_path, **options)

    whole, losses = run(3)
    for epoch in (0, 1):
        resumed, rest = run(3, resume=tmp_path / f"checkpoint-{epoch}.pth.tar")
        assert rest == losses[epoch + 1 :]
        assert_same_weights(resumed, whole)


def test_an_epochs_draws_do_not_depend_on_what_came_before(loader_of, small_model) -> None:
    """And each epoch and each process has others."""

    def draws(rank: int, *epochs: int) -> torch.Tensor:
        stage = SaliencyStage(KeepCutout(6), seed=3)
        loader = TimmLoader(loader_of(), SaliencyMixup(stage, small_model(), 3, rank=rank))
        for epoch in epochs:
            loader.set_epoch(epoch)
            inputs = torch.cat([inputs for inputs, _ in loader])
        return inputs

    assert torch.equal(draws(0, 0, 1), draws(0, 1))
    assert not torch.equal(draws(0, 0), draws(0, 1))
    assert not torch.equal(draws(0, 1), draws(1, 1))


def test_mixup_is_the_stage_and_timms_smoothing(small_model) -> None:
    images, labels = torch.randn(5, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1])
    model = small_model()
    for method in (KeepCutMix(3), KeepCutout(6)):
        mixup = SaliencyMixup(SaliencyStage(method, seed=3), model, num_classes=3, label_smoothing=0.1)
        inputs, targets = mixup(images, labels)
        expected, mixed = SaliencyStage(method, seed=3)(model, images, labels)
        assert torch.equal(inputs, expected)
        soft = mixed if mixed.ndim == 2 else torch.nn.functional.one_hot(mixed, 3)
        # timm's own smoothing of each class, weighted as the stage mixed them
        of_class = mixup_target(torch.arange(3), 3, lam=1.0, smoothing=0.1)
        torch.testing.assert_close(targets, soft.float() @ of_class)


def test_mixup_that_is_off_is_timms_that_is_off(small_model) -> None:
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    theirs, ours = Mixup(num_classes=3), SaliencyMixup(SaliencyStage(KeepCutMix(3)), small_model(), num_classes=3)
    theirs.mixup_enabled = ours.mixup_enabled = False
    for got, expected in zip(ours(images, labels), theirs(images.clone(), labels), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_saliency_pass_has_the_scripts_precision(small_model) -> None:
    entered = []

    @contextmanager
    def autocast():
        entered.append(True)
        yield

    mixup = SaliencyMixup(SaliencyStage(KeepCutout(6)), small_model(), 3, amp_autocast=autocast)
    mixup(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]))
    assert entered == [True]


def test_the_loader_has_what_timms_loader_has(loader_of, small_model) -> None:
    ours = TimmLoader(loader_of(), SaliencyMixup(SaliencyStage(KeepCutMix(3)), small_model(), 3))
    pairs = list(zip(torch.zeros(18, 3, 16, 16, dtype=torch.uint8), range(18), strict=True))
    collate = FastCollateMixup(num_classes=3)
    theirs = PrefetchLoader(
        torch.utils.data.DataLoader(pairs, batch_size=4, collate_fn=collate), device=torch.device("cpu")
    )
    for loader in (ours, theirs):
        assert (len(loader), len(loader.dataset), loader.mixup_enabled) == (5, 18, True)
        loader.mixup_enabled = False
        assert not loader.mixup_enabled
        assert loader.sampler is not None
    images, labels = next(iter(TimmLoader(loader_of(train=False))))
    assert (images.shape, labels.dtype) == ((4, 3, 16, 16), torch.int64)
    (top1,) = accuracy(small_model()(images), labels, topk=(1,))
    assert 0 <= top1.item() <= 100


def test_the_patch_of_the_page_trains(photos, small_model, tmp_path) -> None:
    """It is under fifteen lines, and uses what train.py has at its place."""
    patch = re.search(r"```text\n(.*?)```", PAGE.read_text(), flags=re.S)[1]
    assert 5 < len([line for line in patch.splitlines() if line.strip()]) < 15
    model = small_model()
    sizes = {"batch_size": 4, "validation_batch_size": None, "num_classes": 3, "smoothing": 0.1, "seed": 42}
    args = SimpleNamespace(**sizes, rank=0, world_size=1, data_dir=str(photos), aa=None)
    data_config = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    names = {"args": args, "data_config": data_config, "model": model, "amp_autocast": torch.no_grad}
    exec("\n".join(line.removeprefix("    ") for line in patch.splitlines()), names)
    assert names["dataset_train"] is names["loader_train"]
    before = model[0].weight.clone()
    assert len(train(model, names["loader_train"], 1, tmp_path)) == 1
    assert not torch.equal(model[0].weight, before)
    assert sum(len(labels) for _, labels in names["loader_eval"]) == 6


def test_what_is_refused(loader_of, small_model) -> None:
    stage = SaliencyStage(KeepCutMix(3))
    with pytest.raises(ValueError, match=r"loader must be a loader with set_epoch\(\).*got \[\]"):
        TimmLoader([])
    with pytest.raises(ValueError, match=r"mixup must be None or a SaliencyMixup; got SaliencyStage"):
        TimmLoader(loader_of(), stage)
    for options, message in (
        ({"stage": None}, "stage must be a dali_salaug.SaliencyStage; got None"),
        ({"num_classes": 0}, r"num_classes must be a whole number of classes, 1 or more; got 0"),
        ({"label_smoothing": 2}, r"label_smoothing must be a number in \[0, 1\]; got 2"),
        ({"rank": -1}, "rank must be a whole number, 0 or more; got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            SaliencyMixup(**({"stage": stage, "model": small_model()} | options))
