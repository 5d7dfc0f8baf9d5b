"""Runs that start from weights: what is loaded, what trains at which rate, with which optimizer, and exact resumes."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dali_salaug import saliency_map
from train.__main__ import main as program
from train.cli.checks import check
from train.config import Config, ResolvedConfig
from train.engine import checkpoint
from train.engine.run import Run
from train.engine.start import read_source
from train.errors import UserError
from train.programs.export import export
from train.programs.train import main

CPU = {"device": "cpu", "image_size": 16, "batch_size": 24, "region_size": 6, "epochs": 1, "method": "keep_cutout"}


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Iterator[None]:
    """They take longer than the runs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.engine.loop.draw", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def first(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the eight shapes."""
    out = tmp_path_factory.mktemp("first") / "run"
    assert main(CPU | {"data": str(shapes), "out": str(out), "mean": (0.5,) * 3, "std": (0.25,) * 3}, False) == 0
    return out


@pytest.fixture
def three(shapes: Path, tmp_path: Path) -> Path:
    """The images of three of the classes."""
    for part in ("train", "val"):
        (tmp_path / "three" / part).mkdir(parents=True)
        for name in ("disc", "ring", "star"):
            (tmp_path / "three" / part / name).symlink_to(shapes / part / name)
    return tmp_path / "three"


def weights_of(folder: Path, name: str = "best.pt") -> dict[str, Tensor]:
    return checkpoint.load(folder / name)["model"]


def frozen(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: w for name, w in weights.items() if not name.startswith("12.")}


def test_another_run_starts_from_a_run(
    first: Path, three: Path, tmp_path: Path, capsys: pytest.CaptureFixture, same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other classes, with its head alone, from a path relative to the working directory."""
    monkeypatch.chdir(first.parent)
    words = ["--data", str(three), "--weights", "run", "--freeze-trunk", "--epochs", "1", "--ema", "0.5"]
    words += ["--out", str(tmp_path / "second"), "--device", "cpu", "--batch-size", "6", "--region-size", "6"]
    assert program(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == f"starting from the weights of {first}/best.pt; the head (12) starts anew for 3 classes"
    config = ResolvedConfig.load(tmp_path / "second" / "config.yaml")
    assert (config.weights, config.model, config.image_size) == (str(first), "small", 16)
    assert (config.mean, config.std) == ((0.5,) * 3, (0.25,) * 3)
    state = checkpoint.load(tmp_path / "second" / "last.pt")
    assert tuple(state["mean"]) == (0.5,) * 3
    before = weights_of(first)
    assert same(frozen(state["model"]), frozen(before))  # BatchNorm's statistics too
    assert same(frozen(state["averaged"]), frozen(before))
    assert state["model"]["12.weight"].shape == (3, 128)
    assert [group["weight_decay"] for group in state["optimizer"]["param_groups"]] == [config.weight_decay, 0]
    assert len(state["optimizer"]["state"]) == 2

    monkeypatch.chdir(tmp_path)  # and its source is not needed to resume
    monkeypatch.setattr("train.engine.start.read_source", lambda *_: pytest.fail("reads the source again"))
    assert program(["--resume", "--out", str(tmp_path / "second"), "--epochs", "2"]) == 0
    assert same(frozen(weights_of(tmp_path / "second", "last.pt")), frozen(before))


def test_an_export_and_a_state_dict_are_the_same_start(first: Path, run_of: Callable[..., Run], tmp_path: Path) -> None:
    exported = export(first, tmp_path / "w.safetensors").weights
    torch.save(weights_of(first), tmp_path / "w.pt")
    assert all(torch.equal(w, weights_of(first)[name]) for name, w in load_file(exported).items())
    for path in (exported, tmp_path / "w.pt"):
        run = run_of(weights=str(path), device="cpu")
        source = read_source(run.config)
        assert source is not None
        assert run.network.start_from(source, run.classes).endswith(", the head too")
        assert all(torch.equal(w, weights_of(first)[name]) for name, w in run.model.state_dict().items())


def test_weights_of_another_model(first: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--data", str(shapes), "--weights", str(first), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert program([*words, "--model", "wrn28_2", "--method", "none", "--batch-size", "8"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {first}/best.pt: its weights are of --model small, not of --model wrn28_2: ")
    assert "is missing; " in errors
    assert not (tmp_path / "run").exists()


def test_a_map_through_a_frozen_trunk_is_that_of_the_same_network(run_of: Callable[..., Run]) -> None:
    options = {"device": "cpu", "method": "keep_cutout", "early_head": "auto", "weights": "unused.pt"}
    run, free = run_of(freeze_trunk=True, **options), run_of(**options)
    batch = next(iter(run.train_loader))
    assert sum(p.requires_grad for p in run.model.parameters()) == 2
    for head in (None, "early"):
        maps = [
            saliency_map(r.model, batch.images, batch.labels, head=getattr(r.network, head) if head else None)
            for r in (run, free)
        ]
        assert torch.equal(*maps)
        assert maps[0].amax((1, 2)).min() > 0
    before = copy.deepcopy(run.network.module.state_dict())
    run.train_step(iter([batch]))
    changed = {n for n, w in run.network.module.state_dict().items() if not torch.equal(w, before[n])}
    assert changed == {"model.12.weight", "model.12.bias", "classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("consistency", [(1.0, 1.0, 1.0), (1.0, 0.0, 1.0)])
def test_the_consistency_loss_through_a_frozen_trunk(consistency: tuple, run_of: Callable[..., Run]) -> None:
    options = {"device": "cpu", "method": "cutout", "weights": "unused.pt", "freeze_trunk": True}
    run = run_of(consistency=consistency, **options)
    before = copy.deepcopy(run.model.state_dict())
    assert run.train_step(iter(run.train_loader))["loss"].isfinite()
    changed = {name for name, w in run.model.state_dict().items() if not torch.equal(w, before[name])}
    assert changed == {"12.weight", "12.bias"}


def test_layers_have_rates_of_their_own(run_of: Callable[..., Run]) -> None:
    """In the small network: a convolution and three stages of a convolution and a residual block, and the head."""
    run = run_of(device="cpu", layer_decay=0.5, lr=0.4, lr_warmup_epochs=0.0, momentum=0.0, early_head="auto")
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in run.optimizer.param_groups for p in group["params"]}
    depth = {"0": 7, "2": 6, "3": 5, "5": 4, "6": 3, "8": 2, "9": 1, "12": 0}
    for name, p in run.model.named_parameters():
        assert rates[id(p)] == 0.4 * 0.5 ** depth[name.split(".")[0]]
        assert decays[id(p)] == (run.config.weight_decay if p.ndim > 1 else 0)
    assert run.network.with_head is not None
    assert {rates[id(p)] for p in run.network.with_head.classifier.parameters()} == {0.4}
    assert run.scheduler.get_last_lr()[0] == 0.4  # that is logged


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "adamw"}, {"optimizer": "adam", "weight_decay": 0.1}, {"optimizer": "lamb", "layer_decay": 0.7}],
)
def test_a_step_is_that_of_the_optimizer(options: dict[str, Any], run_of: Callable[..., Run]) -> None:
    if options["optimizer"] == "lamb":
        pytest.importorskip("timm")
    run = run_of(device="cpu", method="none", lr_warmup_epochs=0.0, lr=1e-2, clip_grad=0.5, **options)
    model = copy.deepcopy(run.model)
    batches = list(run.train_loader)[:2]
    for batch in batches:
        run.train_step(iter([batch]))

    names = {id(p): name for name, p in run.model.named_parameters()}
    own, groups = dict(model.named_parameters()), []
    for group in run.optimizer.param_groups:
        parameters = [own[names[id(p)]] for p in group["params"]]
        groups.append({"params": parameters, "weight_decay": group["weight_decay"], "lr": group["initial_lr"]})
    step = {"adam": adam, "adamw": adamw, "lamb": lamb}[options["optimizer"]]
    moments: dict[int, tuple[Tensor, Tensor]] = {}
    for number, batch in enumerate(batches):
        loss = torch.nn.functional.cross_entropy(model.train()(batch.images), batch.labels, label_smoothing=0.1)
        gradients = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        cosine = 0.5 * (1 + math.cos(math.pi * number / (run.steps * run.config.epochs)))
        for group in groups:
            for p in group["params"]:
                name = next(n for n, q in own.items() if q is p)
                g = gradients[name] * min(1, 0.5 / norm)
                if options["optimizer"] == "adam":  # whose weight decay is part of the gradient
                    g = g + group["weight_decay"] * p.detach()
                m, v = moments.get(id(p), (torch.zeros_like(p), torch.zeros_like(p)))
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.square()
                moments[id(p)] = m, v
                m, v = m / (1 - 0.9 ** (number + 1)), v / (1 - 0.999 ** (number + 1))
                with torch.no_grad():
                    step(p, m, v, group["lr"] * cosine, group["weight_decay"])
    for name, p in run.model.named_parameters():
        torch.testing.assert_close(p, own[name], rtol=1e-4, atol=5e-5)


def adam(p: Tensor, m: Tensor, v: Tensor, lr: float, weight_decay: float) -> None:
    p.sub_(lr * m / (v.sqrt() + 1e-8))


def adamw(p: Tensor, m: Tensor, v: Tensor, lr: float, weight_decay: float) -> None:
    p.mul_(1 - lr * weight_decay).sub_(lr * m / (v.sqrt() + 1e-8))


def lamb(p: Tensor, m: Tensor, v: Tensor, lr: float, weight_decay: float) -> None:
    """You et al. 2020, algorithm 2; parameters without decay keep Adam's step, as in NVIDIA's LAMB."""
    update = m / (v.sqrt() + 1e-6) + weight_decay * p
    trust = float(p.norm() / update.norm()) if weight_decay and p.norm() > 0 and update.norm() > 0 else 1.0
    p.sub_(lr * trust * update)


@pytest.mark.parametrize(
    "options", [{"optimizer": "adam"}, {"optimizer": "adamw"}, {"optimizer": "lamb"}, {"layer_decay": 0.5}]
)
def test_each_optimizer_resumes_exactly(
    options: dict[str, Any], run_of: Callable[..., Run], tmp_path: Path, same: Any
) -> None:
    if options.get("optimizer") == "lamb":
        pytest.importorskip("timm")
    options = {"device": "cpu", "method": "cutout", "train_images": 24, **options}
    run = run_of(**options)
    batches = iter(run.train_loader)
    run.train_step(batches)
    checkpoint.save(run.state_dict(), tmp_path / "last.pt")
    while run.step < run.steps:
        run.train_step(batches)
    resumed = run_of(**options)
    resumed.load_state_dict(checkpoint.load(tmp_path / "last.pt"))
    resumed.begin_epoch()
    batches = iter(resumed.train_loader)
    while resumed.step < resumed.steps:
        resumed.train_step(batches)
    a, b = run.state_dict(), resumed.state_dict()
    assert all(same(a[part], b[part]) for part in ("model", "optimizer", "scheduler"))
    assert len(a["optimizer"]["state"]) == len(list(run.model.parameters()))


@pytest.mark.parametrize(
    ("options", "lr", "weight_decay"),
    [
        ({}, 0.2, 5e-4),
        ({"image_size": 224}, 0.1, 1e-4),
        ({"optimizer": "adamw"}, 5e-4, 0.05),
        ({"optimizer": "lamb", "image_size": 224}, 1e-3, 0.02),
        ({"pretrained": True}, 0.02, 5e-4),
        ({"weights": "w.pt", "image_size": 224, "optimizer": "adamw"}, 2.5e-5, 0.05),
        ({"weights": "w.pt", "freeze_trunk": True}, 0.2, 5e-4),
        ({"weights": "w.pt", "lr_per_256": 0.3, "weight_decay": 0.0}, 0.3, 0),
    ],
)
def test_default_rates(options: dict[str, Any], lr: float, weight_decay: float) -> None:
    config = Config(batch_size=256, **options).resolved(side=64, embedded=False, cifar=False)
    assert (config.lr, config.weight_decay) == (pytest.approx(lr), weight_decay)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": True, "weights": "w.pt", "model": "resnet18"}, "--pretrained and --weights exclude each other"),
        ({"pretrained": True}, "--pretrained: no weights are published for --model small"),
        ({"freeze_trunk": True}, "--freeze-trunk needs weights to keep: add --pretrained or --weights"),
        (
            {"freeze_trunk": True, "weights": "w.pt", "layer_decay": 0.75},
            "--layer-decay has no effect with --freeze-trunk, which trains the head alone; got 0.75",
        ),
        ({"layer_decay": 0.0}, r"--layer-decay must be in \(0, 1\]; got 0"),
        ({"layer_decay": 1.5}, r"--layer-decay must be in \[0, 1\]; got 1\.5"),
        ({"optimizer": "adan"}, "--optimizer must be one of sgd, adam, adamw, lamb; got 'adan'"),
        ({"optimizer": "adamw", "momentum": 0.8}, "--momentum is for --optimizer sgd; got 0.8 with adamw"),
        ({"optimizer": "lamb", "fused": True}, "--fused needs an optimizer with a fused form, sgd, adam or adamw; got"),
        ({"optimizer": "lamb", "on_nonfinite": "skip"}, "--on-nonfinite skip needs an optimizer with a fused form"),
        ({"mean": (0.5, 0.5, 0.5)}, "--mean needs --std too"),
        ({"std": (0.5, 0.5, 0.5)}, "--std needs --mean too"),
        ({"mean": (0.5, 0.5, 2.0), "std": (1.0, 1.0, 1.0)}, r"--mean must be in \[0, 1\]; got 2"),
        ({"mean": (0.5, 0.5, 0.5), "std": (1.0, 0.0, 1.0)}, r"--std must be in \[1e-06, 1\]; got 0"),
        ({"mean": (0.5, 0.5, 0.5), "std": (1.0, 1e-9, 1.0)}, r"--std must be in \[1e-06, 1\]; got 1e-09$"),
        ({"weights": 5}, "--weights must be text or null; got 5"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(Config(**options))


def test_lamb_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--optimizer lamb needs timm: pip install timm"):
        check(Config(optimizer="lamb"))
