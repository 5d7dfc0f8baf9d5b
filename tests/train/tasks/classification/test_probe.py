"""What is tried before the first step: the image size, a last batch of one image, the memory of a step."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dali_salaug.consistency import second_order
from train.__main__ import main as program
from train.config import Config
from train.distributed import World
from train.engine import checkpoint, network
from train.engine.memory import free_memory
from train.engine.run import Run
from train.engine.schedule import steps_of_epoch
from train.errors import UserError
from train.programs.train import main
from train.tasks.classification import probe
from train.tasks.classification.probe import sizes_of_parts

CPU = {"device": "cpu", "method": "none", "image_size": 16, "epochs": 1}


def test_a_last_batch_of_one_image_is_refused_before_the_first_step(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = CPU | {"data": str(shapes), "image_size": 8, "batch_size": 47, "out": str(tmp_path / "run")}  # of 48
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert program(options) == 2
    errors = capsys.readouterr().err
    assert "the last batch of an epoch has one image (48 training images, --batch-size 47)" in errors
    assert "Expected more than 1 value per channel" in errors
    assert "leave it out with --drop-last, or choose another --batch-size" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
    assert program([*options, "--drop-last"]) == 0  # with a picture too, though the map is that of the full size
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state["scheduler"]["last_epoch"] == 1  # of 47 images
    assert state["processes"][0]["loader"]["epoch"] == 1


def test_a_last_batch_of_one_image_trains_where_the_network_can(run_of: Callable[..., Run]) -> None:
    """At 16×16 BatchNorm of the small network sees 2×2 values per channel."""
    run = run_of(image_size=16, batch_size=47, method="none", device="cpu")
    assert run.steps == 2
    batches = iter(run.train_loader)
    for _ in range(2):
        losses = run.train_step(batches)
    assert losses["loss"].isfinite()


@pytest.mark.parametrize("method", ["cutmix", "mixup", "keep_cutout", "hybridmix_v3", "puzzlemix", "salfmix"])
def test_methods_take_a_last_batch_of_one_image(method: str, run_of: Callable[..., Run]) -> None:
    run = run_of(image_size=16, batch_size=47, method=method, device="cpu", warmup_epochs=0)
    batches = iter(run.train_loader)
    for _ in range(2):
        assert run.train_step(batches)["loss"].isfinite()


def test_a_part_of_a_step_with_one_image_is_refused(run_of: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match=r"the last batch of an epoch has one image .* in 2 part\(s\)"):
        run_of(image_size=8, batch_size=94, accumulate=2, method="none", device="cpu")
    with pytest.raises(UserError, match=r"each part of a step has one image .*; raise --batch-size, or lower --accum"):
        run_of(image_size=8, batch_size=2, accumulate=2, method="none", device="cpu")


def config_of(**options: Any) -> Any:
    return Config(**options).resolved(side=64, embedded=False, cifar=False)


@pytest.mark.parametrize(
    ("batch", "accumulate", "processes", "images", "sizes"),
    [
        (32, 1, 1, 33, (32, 1)),
        (32, 1, 1, 64, (32, 32)),
        (32, 2, 1, 49, (16, 1)),
        (32, 1, 2, 34, (16, 1)),  # one image for each process
        (32, 1, 2, 35, (16, 1)),  # two and one
        (32, 1, 2, 33, (16, 1)),  # one, and none, which two black images replace
        (32, 1, 2, 36, (16, 2)),
        (4, 2, 2, 8, (1, 1)),
    ],
)
def test_the_sizes_of_the_parts(
    batch: int, accumulate: int, processes: int, images: int, sizes: tuple[int, int]
) -> None:
    world = World(size=processes)
    assert sizes_of_parts(config_of(batch_size=batch, accumulate=accumulate), images, world) == sizes
    dropping = config_of(batch_size=batch, accumulate=accumulate, drop_last=True)
    assert sizes_of_parts(dropping, images, world) == (sizes[0], sizes[0])
    assert steps_of_epoch(dropping, images) == images // batch


def test_fewer_images_than_a_batch_cannot_be_dropped() -> None:
    with pytest.raises(UserError, match="--drop-last leaves no step: there are 20 training images, fewer than"):
        steps_of_epoch(config_of(batch_size=32, drop_last=True), 20)


def test_a_run_that_drops_its_last_step_resumes_exactly(
    shapes: Path, tmp_path: Path, same: Any, log_of: Any, stop_in_step: Any
) -> None:
    """48 images at batch 10: four steps, in parts of five; stopped in the second epoch."""
    given = CPU | {"data": str(shapes), "batch_size": 10, "accumulate": 2, "epochs": 3, "drop_last": True}
    given |= {"method": "keep_cutout", "region_size": 6}
    assert main(given | {"out": str(tmp_path / "whole")}, resuming=False) == 0
    for step in (1, 3):
        out = tmp_path / f"parts{step}"
        with stop_in_step(step, epoch=1):
            assert main(given | {"out": str(out)}, resuming=False) == 130
        assert main({"out": str(out)}, resuming=True) == 0
        a, b = (checkpoint.load(folder / "last.pt") for folder in (tmp_path / "whole", out))
        assert a["scheduler"]["last_epoch"] == 12
        assert all(same(a[part], b[part]) for part in ("model", "optimizer", "scheduler", "processes"))
        assert log_of(tmp_path / "whole", timed=False) == log_of(out, timed=False)


@pytest.mark.parametrize(
    ("model", "side", "says"),
    [("alexnet", 32, "too small"), ("inception_v3", 32, "Kernel size can't be greater")],
)
def test_a_model_that_cannot_take_the_image_size(
    model: str, side: int, says: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ["--data", str(shapes), "--out", str(tmp_path / "run"), "--device", "cpu", "--method", "none"]
    assert program([*given, "--model", model, "--image-size", str(side), "--batch-size", "8"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: --model {model} cannot be trained on images of --image-size {side}: ")
    assert says in errors
    assert "Choose another --image-size" in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_size_that_the_model_takes_is_named(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("timm")
    given = ["--data", str(shapes), "--out", str(tmp_path / "run"), "--device", "cpu", "--method", "none"]
    assert program([*given, "--model", "timm/vit_tiny_patch16_224", "--image-size", "64", "--batch-size", "8"]) == 2
    assert "Choose another --image-size (it takes 224) or another --model" in capsys.readouterr().err


def test_a_model_that_cannot_take_the_size_of_the_map(run_of: Callable[..., Run]) -> None:
    """torchvision's ViT takes one size."""
    with pytest.raises(UserError, match=r"--method keep_cutout needs a saliency map, .* a larger --saliency-scale"):
        run_of(model="vit_b_32", image_size=32, saliency_scale=0.5, method="keep_cutout", device="cpu")


def test_a_model_without_second_derivatives(run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GAMMA of 0 there are none."""
    monkeypatch.setattr(second_order, "_hardsigmoid", F.hardsigmoid)  # PyTorch's, in place of one that has them
    options = {"model": "mobilenet_v3_small", "image_size": 64, "method": "cutout", "device": "cpu", "batch_size": 24}
    with pytest.raises(UserError, match=r"--consistency cannot be computed for --model mobilenet_v3_small at .* GAMMA"):
        run_of(**options, consistency=(1.0, 0.0, 1.0))
    assert run_of(**options, consistency=(1.0, 1.0, 0.0)).steps == 2


def test_consistency_passes_two_images_where_the_batch_has_one(run_of: Callable[..., Run]) -> None:
    options = {"image_size": 8, "batch_size": 47, "method": "cutout", "device": "cpu", "region_size": 4}
    run = run_of(**options, consistency=(1.0, 1.0, 0.0))
    batches = iter(run.train_loader)
    for _ in range(2):
        assert run.train_step(batches)["loss"].isfinite()
    with pytest.raises(UserError, match="has one image"):
        run_of(**options)


def test_the_trial_changes_nothing(run_of: Callable[..., Run], same: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws, BatchNorm counts and gradients are a copy's."""
    options = {"model": "mobilenet_v2", "image_size": 32, "method": "keep_cutout", "device": "cpu"}
    tried = run_of(**options)
    monkeypatch.setattr("train.tasks.classification.task.check_network", lambda *_: [])
    untried = run_of(**options)
    assert all(p.grad is None for p in tried.model.parameters())
    a, b = tried.state_dict(), untried.state_dict()
    for state in (a, b):
        state["processes"][0].pop("loader_wait")
    assert same(a["model"], b["model"])
    assert same(a["processes"][0]["objective"], b["processes"][0]["objective"])


def test_the_random_state_is_untouched(run_of: Callable[..., Run], same: Any) -> None:
    run = run_of(model="mobilenet_v2", image_size=32, method="keep_cutout", device="cpu")
    before = checkpoint.random_state()
    probe.check_network(run.config, run.network, 8, 48, World())
    assert same(before, checkpoint.random_state())


def test_a_step_that_needs_more_memory_than_there_is_is_warned_of(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_of(device="cpu").warnings == []
    monkeypatch.setattr(probe, "free_memory", lambda device: 3_000_000)
    (warning,) = run_of(device="cpu", batch_size=16).warnings
    assert warning.startswith("a step of 16 images of 16×16 needs about 0.0 GB of memory on cpu, where 0.0 GB are free")
    assert "lower --batch-size or --image-size, or split the step with --accumulate" in warning


def test_the_loader_s_batches_are_part_of_the_memory(run_of: Callable[..., Run]) -> None:
    """The batch in use and the two made ahead, clean and, with a policy, augmented."""
    for method, tensors in (("none", 1), ("randaugment", 2)):
        run = run_of(device="cpu", batch_size=16, accumulate=2, method=method)
        batch = next(iter(run.train_loader))
        parts = [batch.images] if batch.augmented is None else [batch.images, batch.augmented]
        assert len(parts) == tensors
        assert probe._loaded(run.config, 16, run.world) == 3 * sum(part.nbytes for part in parts)


def test_the_memory_of_a_step_is_what_its_graph_keeps(run_of: Callable[..., Run]) -> None:
    """Of a network whose graph is known: a convolution keeps its input, ReLU its output, the rest is small."""
    config = config_of(image_size=64, method="none", device="cpu")
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    module = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network: Any = SimpleNamespace(module=module, model=module, frozen_trunk=False, logits=lambda outputs: (outputs,))
    kept = probe._pass(config, network, 8, 2, None)
    expected = 4 * 2 * 64 * 64 * (3 + 8)
    assert expected <= kept < 1.05 * expected


def test_free_memory(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert free_memory(cpu, tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    8000 kB\n")
    assert free_memory(cpu, tmp_path) == 8000 * 1024
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    for name, text in (("max", "max\n"), ("current", "700\n"), ("stat", "anon 400\ninactive_file 300\n")):
        (group / f"memory.{name}").write_text(text)
    assert free_memory(cpu, tmp_path) == 8000 * 1024, "no limit"
    (group / "memory.max").write_text("1000\n")
    assert free_memory(cpu, tmp_path) == 600
    assert free_memory(cpu) or not Path("/proc/meminfo").exists()


def test_a_model_that_cannot_be_built_for_the_size(monkeypatch: pytest.MonkeyPatch, run_of: Any) -> None:
    def build(name: str, classes: int, size: int) -> torch.nn.Module:
        raise AssertionError("Input shape indivisible by patch size!\nmore")

    monkeypatch.setattr(network, "build_model", build)
    with pytest.raises(UserError, match=r"--image-size 16: Input shape indivisible by patch size!\. Choose another"):
        run_of(device="cpu")
