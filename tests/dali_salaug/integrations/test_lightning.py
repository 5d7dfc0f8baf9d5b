"""Lightning: a module without a change receives the stage's inputs and targets, and resumes in mid-epoch."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from dali_salaug import CutMix, KeepCutMix, KeepCutout, KeepPaste, SaliencyStage
from dali_salaug.integrations.lightning import ImageDataModule, SaliencyAugmentation

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice


class Classifier(lightning.LightningModule):
    """As one that knows nothing of this project."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.losses: list[float] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        loss = F.cross_entropy(self(inputs), targets)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.log("top1", (self(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Scheduled(Classifier):
    def configure_optimizers(self) -> Any:
        """Lightning makes the loaders before it has read the checkpoint."""
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(module: Any, data: Any, *callbacks: Any, resume: Path | None = None, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"max_epochs": 2, "enable_checkpointing": False} | options
    trainer = lightning.Trainer(**quiet, **options, callbacks=list(callbacks))
    torch.manual_seed(1)  # of the dropout
    trainer.fit(module, data, ckpt_path=resume)
    return module


@pytest.mark.parametrize("kind", [Classifier, Scheduled])
def test_it_resumes_as_if_it_had_not_stopped(kind, loader_of, small_model, tmp_path, assert_same_weights) -> None:
    """In the first epoch, at its end, and in the second; the losses too."""

    def run(**options: Any) -> Classifier:
        network = small_model()
        network[5] = torch.nn.Identity()  # Lightning does not restore the state of torch's generator
        data = ImageDataModule(train=partial(loader_of, policy="randaugment"), val=partial(loader_of, train=False))
        callback = SaliencyAugmentation(SaliencyStage(KeepPaste(6), seed=3))
        return fit(kind(network), data, callback, *options.pop("callbacks", ()), **options)

    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(callbacks=[saving], enable_checkpointing=True)
    assert len(whole.losses) == 10
    for step in (2, 5, 7):
        resumed = run(resume=tmp_path / f"step={step}.ckpt")
        assert resumed.losses == whole.losses[step:]
        assert_same_weights(resumed, whole)


def test_the_steps_are_those_of_a_plain_loop(loader_of, small_model, assert_same_weights) -> None:
    module = fit(
        Classifier(small_model()),
        ImageDataModule(train=loader_of),
        SaliencyAugmentation(SaliencyStage(KeepCutMix(3), seed=3), model="network"),
    )
    plain, stage = small_model(), SaliencyStage(KeepCutMix(3), seed=3)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    loader = loader_of()
    torch.manual_seed(1)
    for _ in range(2):
        for batch in loader:
            inputs, targets = stage(plain, batch.images, batch.labels)
            loss = F.cross_entropy(plain(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert_same_weights(module.network, plain)


def test_the_callback_takes_the_batches_of_a_torch_data_loader(small_model) -> None:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pairs = list(zip(images, torch.arange(8) % 3, strict=True))
    stage, seen = SaliencyStage(CutMix(3), seed=3), []

    class Spy(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append(batch)
            return super().training_step(batch, batch_idx)

    fit(Spy(small_model()), DataLoader(pairs, batch_size=4), SaliencyAugmentation(stage), max_epochs=1)
    again = SaliencyStage(CutMix(3), seed=3)
    for (inputs, targets), start in zip(seen, (0, 4), strict=True):
        expected = again(small_model(), images[start : start + 4], (torch.arange(8) % 3)[start : start + 4])
        assert torch.equal(inputs, expected[0])
        assert torch.equal(targets, expected[1])


def test_the_saliency_pass_has_the_trainers_precision(loader_of, small_model) -> None:
    stage, seen = SaliencyStage(KeepCutout(6)), []
    trace = stage.trace
    stage.trace = lambda *args, **crops: seen.append(torch.is_autocast_enabled("cpu")) or trace(*args, **crops)
    data = ImageDataModule(train=loader_of)
    fit(Classifier(small_model()), data, SaliencyAugmentation(stage), max_steps=1, precision="bf16-mixed")
    fit(Classifier(small_model()), data, SaliencyAugmentation(stage), max_steps=1)
    assert seen == [True, False]


def test_the_warm_up_follows_the_trainers_epochs(loader_of, small_model) -> None:
    stage, seen = SaliencyStage(KeepCutout(6), warmup_epochs=1), []
    trace = stage.trace
    stage.trace = lambda *args, **crops: seen.append(trace(*args).saliency is not None) or trace(*args)
    fit(Classifier(small_model()), ImageDataModule(train=loader_of), SaliencyAugmentation(stage))
    assert seen == [False] * 5 + [True] * 5


def test_validation_and_a_fit_after_it_are_left_alone(loader_of, small_model, tmp_path) -> None:
    """A checkpoint that is only validated moves neither the loader nor the stage."""
    stage = SaliencyStage(KeepCutout(6))
    data = ImageDataModule(train=loader_of, val=partial(loader_of, train=False), test=partial(loader_of, train=False))
    trainer = lightning.Trainer(
        max_steps=2, logger=False, accelerator="cpu", enable_checkpointing=False, callbacks=SaliencyAugmentation(stage)
    )
    module = Classifier(small_model())
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    before = stage.state_dict()
    (metrics,) = trainer.validate(module, data, ckpt_path=tmp_path / "two.ckpt")
    assert 0 <= metrics["top1"] <= 1
    assert data._state is None
    assert torch.equal(stage.state_dict()["generator"], before["generator"])


def test_each_process_has_its_share_and_its_draws(loader_of) -> None:
    """As if in two processes, of which this is the second."""
    made = []
    data = ImageDataModule(train=lambda **share: made.append(share) or loader_of(**share))
    data.trainer = type("Trainer", (), {"global_rank": 1, "world_size": 2, "current_epoch": 0})()
    first, *_ = data.train_dataloader()
    assert made == [{"rank": 1, "world_size": 2}]
    assert torch.equal(first[0], next(iter(loader_of(rank=1, world_size=2))).images)

    stages = [SaliencyStage(KeepCutout(6), seed=3) for _ in range(2)]
    for rank, stage in enumerate(stages):
        trainer = type("Trainer", (), {"global_rank": rank})()
        callback = SaliencyAugmentation(stage, model="network")
        module = Classifier(torch.nn.Identity())
        callback.setup(trainer, module, "fit")
        callback.setup(trainer, module, "fit")  # a second fit
    assert stages[0].seed == 3
    assert stages[1].seed != 3


def test_what_is_refused(loader_of, small_model) -> None:
    with pytest.raises(ValueError, match=r"stage must be a dali_salaug\.SaliencyStage; got None"):
        SaliencyAugmentation(None)
    with pytest.raises(ValueError, match=r"train must be a callable that takes rank and world_size.*got <pipelines"):
        ImageDataModule(train=loader_of())
    with pytest.raises(ValueError, match=r"what train returns must be a loader with set_epoch\(\).*got \[\]"):
        fit(Classifier(small_model()), ImageDataModule(train=lambda **share: []))
    data = ImageDataModule(train=loader_of)
    callback = SaliencyAugmentation(SaliencyStage(KeepCutout(6)), model="net")
    with pytest.raises(ValueError, match=r"model must be None or a submodule of Classifier, .* network; got 'net'"):
        fit(Classifier(small_model()), data, callback)

    class WithoutForward(Classifier):
        forward = lightning.LightningModule.forward

    callback = SaliencyAugmentation(SaliencyStage(KeepCutout(6)))
    with pytest.raises(ValueError, match=r"WithoutForward must have a forward\(images\) that returns logits"):
        fit(WithoutForward(small_model()), data, callback)
    with pytest.raises(ValueError, match=r"a training batch must be a list .*; got a Batch of Tensor, NoneType"):
        fit(Classifier(small_model()), loader_of(), callback)
    callback.load_state_dict({"stages": [{}, {}]})
    with pytest.raises(ValueError, match=r"state of 2 process\(es\), and 1 are running: resume with the same number"):
        fit(Classifier(small_model()), data, callback)
