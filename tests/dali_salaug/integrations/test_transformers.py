"""Hugging Face's Trainer: the stage's inputs and targets in its loss, loaders as data sets, resuming in mid-epoch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments, ViTConfig
from transformers import ViTForImageClassification as ViT

from dali_salaug import CutMix, KeepCutMix, KeepCutout, KeepPaste, SaliencyStage
from dali_salaug.integrations.transformers import SaliencyTrainer, _check_batches

pytestmark = pytest.mark.filterwarnings("ignore")  # the Trainer's advice


def vit() -> ViT:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViT(ViTConfig(image_size=16, patch_size=4, num_labels=3, hidden_dropout_prob=0.1, **sizes))


def resnet() -> ResNetForImageClassification:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_labels=3, **sizes))


def trainer_of(folder: Path, model: Any, loader: Any, stage: Any = None, **options: Any) -> SaliencyTrainer:
    own = {name: options.pop(name) for name in ("eval_dataset", "compute_loss_func") if name in options}
    defaults = {"num_train_epochs": 2, "save_steps": 1, "logging_steps": 1, "learning_rate": 1e-2, "max_grad_norm": 0}
    defaults |= {f"per_device_{name}_batch_size": 4 for name in ("train", "eval")}
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 1}
    args = TrainingArguments(str(folder), **(defaults | quiet | options))
    return SaliencyTrainer(model, args, train_dataset=loader, stage=stage, **own)


def losses(trainer: SaliencyTrainer) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


@pytest.mark.parametrize(
    ("make", "method", "policy", "options"),
    [(vit, KeepCutMix(3), None, {}), (resnet, KeepPaste(6), "randaugment", {"gradient_accumulation_steps": 2})],
    ids=["vit", "resnet"],
)
def test_it_resumes_as_if_it_had_not_stopped(
    make, method, policy, options, loader_of, tmp_path, assert_same_weights
) -> None:
    """In the first epoch, at its end, and in the second; the losses too."""

    def run(folder: str, resume: Path | None = None) -> SaliencyTrainer:
        # The Trainer (5.24) saves a ViT's weights by older names, and does not find them again.
        model = make() if resume is None else type(make()).from_pretrained(resume)
        stage = SaliencyStage(method, seed=3)
        trainer = trainer_of(tmp_path / folder, model, loader_of(policy=policy), stage, **options)
        trainer.train(resume and str(resume))
        return trainer

    whole = run("whole")
    steps = 10 // options.get("gradient_accumulation_steps", 1) + len(options)  # five batches are three steps of two
    assert whole.state.global_step == steps
    for step in (1, steps // 2, steps // 2 + 1):
        resumed = run("again", tmp_path / "whole" / f"checkpoint-{step}")
        assert losses(resumed) == losses(whole)
        assert_same_weights(resumed.model, whole.model)


def test_skipped_batches_are_not_decoded(loader_of, tmp_path, monkeypatch) -> None:
    trainer_of(tmp_path, resnet(), loader_of(), num_train_epochs=1).train()
    loader, decoded = loader_of(), []
    take = type(loader)._take
    monkeypatch.setattr(type(loader), "_take", lambda self, *place: decoded.append(place) or take(self, *place))
    trainer_of(tmp_path, resnet(), loader, num_train_epochs=1).train(str(tmp_path / "checkpoint-4"))
    assert decoded == [(0, 4)]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_step_is_that_of_a_plain_loop(smoothing, loader_of, tmp_path, assert_same_weights) -> None:
    options = {"max_steps": 3, "optim": "sgd", "lr_scheduler_type": "constant", "label_smoothing_factor": smoothing}
    model = resnet()
    trainer_of(tmp_path, model, loader_of(), SaliencyStage(CutMix(3), seed=3), **options).train()

    plain, stage = resnet(), SaliencyStage(CutMix(3), seed=3)
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-2)
    for batch, _ in zip(loader_of(), range(3), strict=False):
        inputs, targets = stage(plain, batch.images, batch.labels)
        loss = F.cross_entropy(plain(inputs).logits, targets, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same_weights(model, plain)


def test_evaluation_is_the_trainers_own(loader_of, tmp_path) -> None:
    """On every image once, without the stage, for a loader and for one of several by name."""
    model, loader = resnet(), loader_of(train=False)
    stage = SaliencyStage(KeepCutMix(3))
    trainer = trainer_of(tmp_path, model, loader_of(), stage, eval_dataset={"photos": loader})
    metrics = trainer.evaluate()
    model.eval()
    with torch.no_grad():
        sums = [F.cross_entropy(model(b.images).logits, b.labels, reduction="sum") for b in loader_of(train=False)]
    assert metrics["eval_photos_loss"] == pytest.approx(sum(sums).item() / 6)
    assert stage.state_dict()["generator"] is None
    assert trainer.predict(loader).predictions.shape == (6, 3)


class Pairs(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": pixels, "labels": index % 3}


def test_the_stage_takes_any_data_set(tmp_path) -> None:
    seen = []

    def loss_of(outputs: Any, targets: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        seen.append(targets.shape)
        return F.cross_entropy(outputs.logits, targets, reduction="sum") / num_items_in_batch

    options = {"max_steps": 1, "compute_loss_func": loss_of}
    trainer = trainer_of(tmp_path, vit(), Pairs(), SaliencyStage(KeepCutMix(3)), **options)
    trainer.train()
    assert seen == [(4, 3)]
    assert trainer.evaluate(Pairs())["eval_loss"] > 0


def test_the_warm_up_follows_the_trainers_epochs(loader_of, tmp_path) -> None:
    stage = SaliencyStage(KeepCutout(6), warmup_epochs=1)
    states = []
    trace = stage.trace
    stage.trace = lambda *args, **crops: states.append(trace(*args).saliency is not None) or trace(*args)
    trainer_of(tmp_path, resnet(), loader_of(), stage).train()
    assert states == [False] * 5 + [True] * 5


def test_what_is_refused(loader_of, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"stage must be a dali_salaug.SaliencyStage; got 'cutmix'"):
        trainer_of(tmp_path, resnet(), loader_of(), "cutmix")
    with pytest.raises(ValueError, match=r"train_dataset must be made with rank=0 and world_size=1, .* world_size=2"):
        trainer_of(tmp_path, resnet(), loader_of(world_size=2))
    trainer_of(tmp_path, resnet(), loader_of(), num_train_epochs=1).train()
    with pytest.raises(ValueError, match=r"dali_salaug_0.pt: cannot be resumed from: .* seed: 0 in the state, 1 here"):
        trainer_of(tmp_path, resnet(), loader_of(seed=1)).train(True)
    with pytest.raises(ValueError, match=r"cannot be resumed from: 'stage'.* that this trainer wrote"):
        trainer_of(tmp_path, resnet(), loader_of(), SaliencyStage(KeepCutout())).train(str(tmp_path / "checkpoint-2"))
    (tmp_path / "checkpoint-2" / "dali_salaug_0.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint-2/dali_salaug_0.pt: cannot be resumed from"):
        trainer_of(tmp_path, resnet(), loader_of()).train(str(tmp_path / "checkpoint-2"))


def test_processes_have_batches_of_the_same_sizes(loader_of) -> None:
    """As if in two processes: their batches are gathered and averaged."""
    for fits in (loader_of(world_size=2, drop_last=True), loader_of(batch_size=3, world_size=2), SimpleNamespace()):
        _check_batches("train", fits, getattr(fits, "batch_size", 4), 0, 2)
    with pytest.raises(ValueError, match=r"its 18 images are no multiple of 2 × 4. Use .*drop_last=True"):
        _check_batches("train", loader_of(world_size=2), 4, 0, 2)
    with pytest.raises(ValueError, match=r"per_device_eval_batch_size must be that of eval_dataset, 4; got 8"):
        _check_batches("eval", loader_of(), 8, 0, 1)
